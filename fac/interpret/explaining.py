"""Spans -> explanations -> their scores on held-out samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fac import schema
from fac.config import ExplainSpec
from fac.errors import InputError
from fac.interpret.evidence import Evidence
from fac.interpret.explainers import tokens
from fac.interpret.parts import (
    EXPLAINERS,
    SCORERS,
    FeatureExplanation,
    OpenExplainer,
    Row,
    ScoredExplanation,
)
from fac.interpret.step_run import OpenChat, Progress, Step, StepRun, perform
from fac.manifest import ExplainFacts
from fac.store.runs import Runs


def explain(spec: ExplainSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Explain features of a measure run and score it on held-out samples; returns the run's id.

    `ask` opens the chat model of the spec. Raises BudgetReached, Cancelled or ServiceError after
    publishing what is complete; InputError for features or files that do not fit.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if spec.model else None
    earlier = spec.explanations
    explainer = _earlier(spec, runs) if earlier else EXPLAINERS[spec.explainer].open(spec, runs)
    return perform(
        _Explaining(spec, explainer),
        spec,
        runs=runs,
        chat=chat,
        inputs=[spec.measure, *([earlier] if earlier else [])],
        # ids of all explain runs have named the token statistics, whoever explains
        versions=[explainer.version, tokens.METHOD],
        progress=progress,
    )


def _earlier(spec: ExplainSpec, runs: Runs) -> OpenExplainer:
    """Takes over the explanations of the run that the spec scores."""
    manifest = runs.manifest(spec.explanations)
    if manifest.step != ExplainSpec.step or manifest.inputs.measure != spec.measure:
        raise InputError(
            f"{spec.explanations} does not explain features of {spec.measure}: name a run of "
            f"`fac explain` on the same measure."
        )
    rows = runs.table(spec.explanations, "explanations").to_pylist()
    texts = {row.pop("feature"): FeatureExplanation(**row) for row in rows}
    return OpenExplainer.of_texts(texts)


class _Explaining(Step[ExplainSpec]):
    tables = {n: getattr(schema, n.upper()) for n in ("explanations", "scores", "examples")}
    verb = "explained"

    def __init__(self, spec: ExplainSpec, explainer: OpenExplainer):
        self._spec, self._explain = spec, explainer.explain
        self._source = spec.model or Path(spec.source).name or explainer.source
        self._statuses: Counter[str] = Counter()
        self._values: dict[str, list[float]] = {}
        unasked = (name for name, scorer in SCORERS.items() if not scorer.needs_model)
        self._scorers = [SCORERS[name] for name in (*unasked, *spec.scores)]

    def blocks(self, run: StepRun[ExplainSpec]) -> Iterator[dict[str, list[Row]]]:
        for items in run.evidence(texts=bool(self._spec.model)):  # only a model reads the test
            explained = self._scored(run, items)
            explanations = [
                vars(result.explanation)
                | {
                    "feature": feature,
                    "explainer": result.explanation.explainer or self._spec.explainer,
                    "source": result.explanation.source or self._source,
                }
                for feature, result in explained.items()
            ]
            scores = [score for result in explained.values() for score in result.scores]
            self._statuses.update(row["status"] for row in explanations)
            for score in scores:
                if score["value"] is not None:
                    self._values.setdefault(score["score"], []).append(score["value"])
            yield {
                "explanations": explanations,
                "scores": scores,
                "examples": [row for result in explained.values() for row in result.examples],
            }

    def _scored(
        self, run: StepRun[ExplainSpec], items: Sequence[Evidence]
    ) -> dict[int, ScoredExplanation]:
        """Fewer than `items` once the run was stopped."""
        explanations = self._explain(run, items)
        results = {
            item.feature: ScoredExplanation(explanations[item.feature], item.examples, [])
            for item in items
            if item.feature in explanations
        }
        for scorer in self._scorers:
            scorer.score(run, results)
        return results

    def facts(self, run: StepRun[ExplainSpec], n_features: int) -> ExplainFacts:
        return ExplainFacts(
            explainer=self._spec.explainer,
            source=self._source,
            silent=None if run.stopped else len(run.features) - n_features,
            counts=dict(sorted(self._statuses.items())),
            scores={
                name: {"n": len(values), "median": float(np.median(values))}
                for name, values in sorted(self._values.items())
            },
        )
