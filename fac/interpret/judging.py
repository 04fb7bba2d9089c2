"""Explanations and spans -> which features matter for a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fac import schema
from fac.config import JudgeSpec
from fac.generator.chat import ChatModel
from fac.interpret.parts import JUDGES, Row
from fac.interpret.step_run import OpenChat, Progress, Step, StepRun, perform
from fac.manifest import RelevanceFacts
from fac.store.runs import Runs


def judge(spec: JudgeSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Judge which features of a measure run matter for a task; returns the run's id.

    Raises as `explain` does; InputError for a label no sample carries.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if JUDGES[spec.judge].needs_model else None
    return perform(
        _Judging(spec, chat),
        spec,
        runs=runs,
        chat=chat,
        inputs=[spec.measure, *spec.explanations],
        progress=progress,
    )


class _Judging(Step[JudgeSpec]):
    tables = {"relevance": schema.RELEVANCE}
    verb = "judged"

    def __init__(self, spec: JudgeSpec, chat: ChatModel | None):
        self._spec = spec
        self._source = chat.identity if chat else f"label {spec.label}"
        self._levels: Counter[str] = Counter()

    def blocks(self, run: StepRun[JudgeSpec]) -> Iterator[dict[str, list[Row]]]:
        for rows in JUDGES[self._spec.judge].judge(run):
            self._levels.update(row["level"] for row in rows)
            yield {"relevance": rows}

    def facts(self, run: StepRun[JudgeSpec], n_features: int) -> RelevanceFacts:
        return RelevanceFacts(
            task=self._spec.task,
            judge=self._spec.judge,
            source=self._source,
            counts=dict(sorted(self._levels.items())),
        )
