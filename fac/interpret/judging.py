"""Explanations and spans -> which features matter for a task."""

from __future__ import annotations

from collections import Counter
from functools import partial

from fac.config import JudgeSpec
from fac.interpret.parts import JUDGES
from fac.interpret.step_run import Blocks, JudgeRun, OpenChat, Progress, perform
from fac.manifest import RelevanceFacts
from fac.store.runs import Runs


def judge(spec: JudgeSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Judge which features of a measure run matter for a task; returns the run's id.

    Raises as `explain` does; InputError for a label no sample carries.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if JUDGES[spec.judge].needs_model else None
    answers = f"label {spec.label}" if JUDGES[spec.judge].needs_label else spec.judge
    return perform(
        spec,
        partial(_judged, source=chat.identity if chat else answers),
        tables=("relevance",),
        verb="judged",
        runs=runs,
        chat=chat,
        inputs=[spec.measure, *spec.explanations],
        progress=progress,
    )


def _judged(run: JudgeRun, *, source: str) -> Blocks:
    levels: Counter[str] = Counter()
    for rows in JUDGES[run.spec.judge].judge(run):
        levels.update(row["level"] for row in rows)
        yield {"relevance": rows}
    return RelevanceFacts(
        task=run.spec.task,
        judge=run.spec.judge,
        source=source,
        counts=dict(sorted(levels.items())),
    )
