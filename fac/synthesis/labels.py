"""Whether a text deserves the label that it was written for: a probe on what it fires.

A logistic regression on the peaks of the dictionary's features learns one label of a measured
dataset against all others. One half of the labelled samples trains the check that drops texts, the
other half a second probe, which may judge what the first one let pass: both never saw the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.config import digest
from fac.schema import Activations
from fac.store.peaks import highest, peaks_of
from fac.store.runs import Runs
from fac.store.samples import read_samples

PRECISION = 0.8  # share of samples above the threshold that have the label, at least
SURE = 0.95  # and of those whose label leaves no doubt
LEAST = 20  # samples with the label, and without, that a half must hold for a probe
PASSING = 10  # samples above the threshold, at least, for its precision to mean anything
MOST = 8000  # labelled samples that are read
FOLDS = 5
PENALTY = 0.1  # scikit-learn's C, the inverse of the L2 penalty

HALVES = 2


class Labelled(NamedTuple):
    """Samples with a label and what they fire."""

    peaks: Any  # scipy csr float32 `[n, n_features]`: log(1 + peak), the highest of any role
    labels: np.ndarray  # str `[n]`
    half: np.ndarray  # 0 or 1 `[n]`: which probe learns from a sample; even within each label


class LabelCheck(NamedTuple):
    """A probe of one label and what it is worth."""

    label: str
    rows: int  # samples that it learned from
    auroc: float  # cross-validated within these; low and high are DeLong's 95 % interval
    low: float
    high: float
    threshold: float
    """Probability from which on a text counts as having the label: the lowest at which, of the
    samples that a probe did not learn from, PRECISION have it; above 1 where none is."""

    precision: float  # what is reached there; NaN where nothing is
    sure: float  # the same where SURE of them have it: below, a label leaves a doubt
    probe: Any

    @property
    def decides(self) -> bool:
        """Whether there is a threshold that can be trusted."""
        return self.threshold <= 1

    def probabilities(self, peaks: Any) -> np.ndarray:
        """P(label) of texts by their peaks `[n, n_features]`: float64 `[n]`."""
        return _probability(self.probe, peaks)


def peak_matrix(fired: Activations, n: int, n_features: int) -> Any:
    """log(1 + peak), as peaks have a long tail, of each feature in each of n samples: scipy csr
    float32."""
    return highest(fired.sample, fired.feature, fired.peak, n, n_features).log1p()


def labelled(runs: Runs, measure: str) -> Labelled | None:
    """The labelled samples of a measured dataset, at most MOST of them; None where there are none,
    or all have one label."""
    facts = runs.manifest(measure).facts
    names: list[str | None] = []
    order: list[str] = []
    for batch in runs.batches(facts.dataset, "samples", columns=["sample_id", "label"]):
        order += batch.column("sample_id").to_pylist()
        names += batch.column("label").to_pylist()
    read = read_samples(runs, measure)
    rows = [number for number, name in enumerate(names) if name is not None and read[number]]
    rows.sort(key=lambda number: digest("label", order[number]))
    rows = rows[:MOST]
    if len({names[number] for number in rows}) < 2:
        return None
    labels = np.array([str(names[number]) for number in rows])
    half = np.zeros(len(rows), int)
    for label in np.unique(labels):
        of_label = np.flatnonzero(labels == label)
        half[of_label] = np.arange(len(of_label)) % HALVES
    return Labelled(peaks_of(runs, measure, np.array(rows)).log1p(), labels, half)


def learn(samples: Labelled, label: str, half: int = 0) -> LabelCheck | None:
    """The check of one label that learned from one half of the samples. None where that half has
    fewer than LEAST samples with the label, or without."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows = np.flatnonzero(samples.half == half)
    peaks, positive = samples.peaks[rows], samples.labels[rows] == label
    if min(positive.sum(), (~positive).sum()) < LEAST:
        return None
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    held_out = cross_val_predict(_probe(), peaks, positive, cv=folds, method="predict_proba")[:, 1]
    threshold, precision = threshold_of(held_out, positive)
    sure, _ = threshold_of(held_out, positive, SURE)
    probe = _probe().fit(peaks, positive)
    worth = auroc(held_out, positive)
    return LabelCheck(label, len(rows), *worth, threshold, precision, sure, probe)


def agreement(samples: Labelled, texts: Sequence[Any], label: str) -> float | None:
    """The held-out judgement: the share of texts, by their peaks (csr `[1, n_features]` each), to
    which a probe gives the label that learned from the half which the check did not. None without
    texts, or where that half cannot teach it."""
    from scipy.sparse import vstack

    judge = learn(samples, label, half=1)
    if judge is None or not texts:
        return None
    return float((judge.probabilities(vstack(texts, "csr")) >= 0.5).mean())


def threshold_of(
    probability: np.ndarray, positive: np.ndarray, least: float = PRECISION
) -> tuple[float, float]:
    """The lowest probability, at least one half, from which on this share of the samples is
    positive, and the precision there; (inf, NaN) where there is none with PASSING samples.

    >>> p = np.array([0.9] * 8 + [0.7] * 4 + [0.6] * 9)
    >>> threshold_of(p, np.array([True] * 8 + [False, True, True, False] + [False] * 9))[0]
    0.7
    """
    order = np.argsort(-probability, kind="stable")
    scores = probability[order]
    share = np.cumsum(positive[order]) / np.arange(1, len(order) + 1)
    last = np.append(scores[1:] < scores[:-1], True)  # equal ones pass together
    fits = last & (share >= least) & (scores >= 0.5) & (np.arange(len(order)) >= PASSING - 1)
    if not fits.any():
        return np.inf, np.nan
    lowest = int(np.flatnonzero(fits)[-1])
    return float(scores[lowest]), float(share[lowest])


def auroc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve of scores `[n]` for bool `[n]`, and its 95 % interval (DeLong,
    DeLong and Clarke-Pearson 1988, by midranks)."""
    from scipy.stats import rankdata

    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    above = (ranks[positive] - rankdata(scores[positive])) / n_neg
    below = 1 - (ranks[~positive] - rankdata(scores[~positive])) / n_pos
    area = float(above.mean())
    spread = 1.96 * float(np.sqrt(above.var(ddof=1) / n_pos + below.var(ddof=1) / n_neg))
    return area, max(0.0, area - spread), min(1.0, area + spread)


def _probe() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=PENALTY, max_iter=2000)


def _probability(probe: Any, peaks: Any) -> np.ndarray:
    return probe.predict_proba(peaks)[:, 1] if peaks.shape[0] else np.zeros(0)
