"""A language model explains: it is shown spans of a feature, with the tokens that fire marked."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fac.generator.batch_chat import Question
from fac.interpret.evidence import SHOWN, Evidence, evenly, excerpt_of, positions
from fac.interpret.parts import Explainer, Explanations, FeatureExplanation, OpenExplainer
from fac.interpret.step_run import ExplainRun, Unread
from fac.prompts import explaining


def _explain(run: ExplainRun, items: Sequence[Evidence]) -> Explanations:
    questions, inputs = {}, {}
    for item in items:
        spans = item.training_spans
        if not spans:  # one firing sample in all: better an explanation than a score
            item.examples[:], spans = [], [e["span"] for e in item.examples if e["positive"]]
        spans = evenly(spans, SHOWN)
        prompt = explaining.explain([excerpt_of(span) for span in spans], item.promotes)
        questions[item.feature] = Question(f"explain/{item.feature}", prompt)
        inputs[item.feature] = json.dumps({"spans": positions(spans)})
    parse, share = explaining.read_explanation, len(items) // 3
    replies = run.ask_each(questions, parse, share=share, note="explaining")
    return {
        feature: FeatureExplanation(
            text=None if isinstance(reply, Unread) else reply.text,
            status=reply.status if isinstance(reply, Unread) else "",
            reason=reply.reason,
            inputs=inputs[feature],
            prompt_hash=questions[feature].prompt.key,
        )
        for feature, reply in replies.items()
    }


EXPLAINER = Explainer(
    title="language model",
    job_title="with {model}",
    preference=0,
    open=lambda spec, runs: OpenExplainer(_explain),
    needs_model=True,
)
