"""A language model explains: it is shown spans of a feature, with the tokens that fire marked."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fac.config import ExplainSpec
from fac.generator.batch_chat import Question
from fac.interpret.evidence import SHOWN, Evidence, evenly, excerpt_of, positions
from fac.interpret.parts import EXPLAINED, Explainer, FeatureExplanation, OpenExplainer
from fac.interpret.step_run import StepRun, Unread
from fac.prompts import explaining
from fac.schema import CANNOT_TELL


def _explain(run: StepRun[ExplainSpec], items: Sequence[Evidence]) -> dict[int, FeatureExplanation]:
    questions, inputs = {}, {}
    for item in items:
        spans = item.training_spans
        if not spans:  # one firing sample in all: better an explanation than a score
            item.examples[:], spans = [], [e["span"] for e in item.examples if e["positive"]]
        spans = evenly(spans, SHOWN)
        prompt = explaining.explain([excerpt_of(span) for span in spans], item.promotes)
        questions[item.feature] = Question(f"explain/{item.feature}", prompt)
        inputs[item.feature] = json.dumps({"spans": positions(spans)})
    replies = run.ask_each(
        questions, explaining.read_explanation, share=len(items) // 3, note="explaining"
    )
    explanations = {}
    for feature, reply in replies.items():
        if isinstance(reply, Unread):
            text, status = None, reply.status
        else:
            text, status = reply.text, EXPLAINED if reply.text else CANNOT_TELL
        explanations[feature] = FeatureExplanation(
            text=text,
            status=status,
            reason=reply.reason,
            inputs=inputs[feature],
            prompt_hash=questions[feature].prompt.key,
        )
    return explanations


EXPLAINER = Explainer(
    title="language model",
    job_title="with {model}",
    preference=0,
    open=lambda spec, runs: OpenExplainer(_explain),
    needs_model=True,
)
