"""A language model judges relevance, from a feature's explanation and its spans."""

from __future__ import annotations

from collections.abc import Iterator

from fac.generator.batch_chat import Question
from fac.interpret.evidence import SHOWN, evenly, excerpt_of
from fac.interpret.parts import Judge
from fac.interpret.step_run import JudgeRun, Row
from fac.prompts import relevance


def _judge(run: JudgeRun) -> Iterator[list[Row]]:
    spec = run.spec
    task = relevance.TaskProfile(spec.task, spec.title or spec.task, spec.rubric)
    texts: dict[int, str] = {}
    for explain_run in reversed(spec.explanations):
        rows = run.runs.table(explain_run, "explanations", ["feature", "text"]).to_pylist()
        texts |= {row["feature"]: row["text"] for row in rows if row["text"]}
    for items in run.evidence(test=False):
        questions = {}
        for item in items:
            excerpts = [excerpt_of(span) for span in evenly(item.spans, SHOWN)]
            prompt = relevance.judge(task, texts.get(item.feature), excerpts)
            questions[item.feature] = Question(f"judge/{item.feature}", prompt)
        parse = relevance.read_judgement
        judgements = run.ask_each(questions, parse, share=len(items), note="judging")
        hashes = {feature: question.prompt.key for feature, question in questions.items()}
        yield [
            {"feature": f, "level": level, "rationale": why, "prompt_hash": hashes[f]}
            for f, (level, why) in judgements.items()
        ]


JUDGE = Judge(title="A language model", judge=_judge, preference=0, needs_model=True)
