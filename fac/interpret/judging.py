"""Explanations and spans -> which features matter for a task."""

from __future__ import annotations

from fac.config import JudgeSpec
from fac.interpret.parts import JUDGES
from fac.interpret.step_run import OpenChat, Progress, perform
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
    return perform(
        spec,
        lambda run: ({"relevance": rows} for rows in judge.judge(run)),
        RelevanceFacts(task=spec.task, judge=spec.judge, source=chat.identity if chat else label),
        tables=("relevance",),
        count="level",
        verb="judged",
        runs=runs,
        chat=chat,
        inputs=[spec.measure, *spec.explanations],
        progress=progress,
    )
