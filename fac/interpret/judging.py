"""Explanations and spans -> which features matter for a task."""

from __future__ import annotations

from fac.config import JudgeSpec
from fac.interpret.parts import JUDGES
from fac.interpret.step_run import OpenChat, Progress, StepRun
from fac.manifest import RelevanceFacts
from fac.store.runs import Runs


def judge(spec: JudgeSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Judge which features of a measure run matter for a task; returns the run's id.

    Raises as `explain` does; InputError for a label no sample carries.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    judge = JUDGES[spec.judge]
    chat = ask() if judge.needs_model else None
    label = f"label {spec.label}" if judge.needs_label else spec.judge
    source = chat.identity if chat else label
    run = StepRun(spec, runs, chat, progress, inputs=[spec.measure, *spec.explanations])
    return run.perform(
        ({"relevance": rows} for rows in judge.judge(run)),
        RelevanceFacts(task=spec.task, judge=spec.judge, source=source),
        tables=("relevance",),
        count="level",
        verb="judged",
    )
