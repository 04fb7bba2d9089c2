"""Which features tell a label apart: firing rates with and without it, length held equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fac.errors import InputError
from fac.interpret.evidence import firing_features
from fac.interpret.parts import Judge
from fac.interpret.step_run import JudgeRun, Row
from fac.schema import CANNOT_TELL
from fac.store.runs import Runs
from fac.store.samples import read_samples
from fac.uncertainty import label_contrast, label_counts, strata_of

LEVELS_BY_Q = ((0.01, "yes"), (0.05, "probably"), (0.2, "maybe"))
"""Level of a feature that fires more often with the label, by its false discovery rate. Ours."""


class Contrast(NamedTuple):
    """Features that labelled samples fire, ascending; arrays `[features]` of schema.RELEVANCE."""

    feature: np.ndarray
    effect: np.ndarray
    p: np.ndarray
    q: np.ndarray
    n_with: np.ndarray
    n_without: np.ndarray

    def levels(self) -> list[str]:
        """Of schema.LEVELS, by q, for features that fire more often with the label."""
        return [
            next((level for limit, level in LEVELS_BY_Q if effect > 0 and q <= limit), "no")
            for effect, q in zip(self.effect.tolist(), self.q.tolist(), strict=True)
        ]


def contrast(
    runs: Runs,
    measure: str,
    carries: np.ndarray,
    labelled: np.ndarray,
    threshold: float,
    *,
    n_strata: int = 0,
) -> Contrast:
    """How often features fire above a threshold in samples that carry a label (bool `[n_samples]`)
    and in the other `labelled` ones, by fac.uncertainty.label_contrast.

    Strata are samples with about equally many active features. q is Benjamini-Hochberg's over all
    features that labelled samples fire, so that asking for fewer does not make them look better.
    The run is read in parts, twice; what is held is a count per stratum and feature.
    """
    from scipy.stats import false_discovery_control

    n_features = runs.manifest(measure).facts.n_features
    number = np.where(labelled, np.cumsum(labelled) - 1, -1)
    n_active = np.zeros(int(labelled.sum()), np.int64)
    for sample, _ in _firing(runs, measure, number, threshold):
        n_active += np.bincount(sample, minlength=len(n_active))
    counts = label_counts(
        _firing(runs, measure, number, threshold),
        carries[labelled],
        strata_of(n_active, n_strata),
        n_features,
    )
    n_fires, n_with = counts.fires.sum(axis=0), counts.fires_with.sum(axis=0)
    feature = np.flatnonzero(n_fires)
    difference, p = (values[feature] for values in label_contrast(counts))
    q = false_discovery_control(np.clip(p, 0.0, 1.0)) if len(p) else p
    return Contrast(feature, difference, p, q, n_with[feature], (n_fires - n_with)[feature])


def _firing(
    runs: Runs, measure: str, number: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sample, feature) of whatever peaks above the threshold, each pair once, a part at a time.
    Samples are called by their `number`, int `[n_samples]`; those below 0 take no part."""
    size = len(number)
    rest = np.zeros(0, np.int64)  # of the part's last feature, which may go on in the next
    for batch in runs.batches(measure, "activations", columns=["sample", "feature", "peak"]):
        sample, feature, peak = (column.to_numpy() for column in batch.columns)
        counts = (peak > np.float32(threshold)) & (number[sample] >= 0)
        pairs = feature[counts].astype(np.int64) * size + number[sample[counts]]
        pairs = np.unique(np.concatenate([rest, pairs]))  # a sample may fire it in several roles
        whole = np.searchsorted(pairs, pairs[-1] // size * size) if len(pairs) else 0
        pairs, rest = pairs[:whole], pairs[whole:]
        yield pairs % size, pairs // size
    yield rest % size, rest // size


def _judge(run: JudgeRun) -> Iterator[list[Row]]:
    """One row of schema.RELEVANCE per feature that fires in the run or in the labelled samples,
    ascending; what labelled samples never fire above the threshold cannot be told.

    Raises InputError for labels of another encoder, a threshold below what their run has stored,
    and a label nobody, or everybody, carries.
    """
    spec, runs = run.spec, run.runs
    source = _labels_of(run)
    dataset = runs.manifest(source).facts.dataset
    labels = runs.table(dataset, "samples", ["label"])["label"].to_pylist()
    labelled = np.array([value is not None for value in labels]) & read_samples(runs, source)
    carries = np.array([value == spec.label for value in labels])
    n, n_with = int(labelled.sum()), int((labelled & carries).sum())
    if n_with in (0, n):
        others = sorted({value for value in labels if value is not None})[:8]
        raise InputError(
            f"The label {spec.label!r} must divide the samples, but {n_with:,} of {n:,} labelled "
            f"ones carry it; labels here: {', '.join(others) or 'none'}."
        )
    result = contrast(runs, source, carries, labelled, spec.threshold)
    names: list[str] = [*Contrast._fields, "level"]
    columns = (*(column.tolist() for column in result), result.levels())
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    verdicts = {row["feature"]: row for row in rows}
    silent = dict.fromkeys(names) | {"n_with": 0, "n_without": 0, "level": CANNOT_TELL}
    if not spec.features:
        run.features = sorted({*verdicts, *firing_features(runs, spec.measure)})
    yield [
        {
            **silent,
            **verdicts.get(feature, {}),
            "feature": feature,
            "rationale": "",
            "prompt_hash": "",
        }
        for feature in run.features
    ]


def _labels_of(run: JudgeRun) -> str:
    """The measure run whose labels and activations define relevance."""
    spec, runs = run.spec, run.runs
    source = spec.labels or spec.measure
    here, there = runs.manifest(spec.measure), runs.manifest(source)
    if there.step != here.step:
        raise InputError(f"{source} has no labels to judge by: name a measured dataset.")
    if there.facts.encoder != here.facts.encoder:
        raise InputError(
            f"{there.facts.name} is measured with {there.facts.encoder}, {here.facts.name} with "
            f"{here.facts.encoder}: labels of another encoder say nothing of these features."
        )
    if spec.threshold < there.spec.floor:
        raise InputError(
            f"{there.facts.name} was measured from {there.spec.floor:g} on: a threshold of "
            f"{spec.threshold:g} is below, take {there.spec.floor:g} or more."
        )
    return source


JUDGE = Judge(title="The data's labels", judge=_judge, preference=1, needs_label=True)
