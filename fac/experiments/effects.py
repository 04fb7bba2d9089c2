"""How well scores rank what is looked for, and how sure a difference of two arms is."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000


def average_precision(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Area under the precision-recall curve as its steps give it (average precision).

    `scores` float `[n]`, `positive` bool `[n]`; `weights` `[resamples, n]`, how often each row is
    in a resample, by default once. Returns float64 `[resamples]`, NaN where no row is positive.
    Equal scores pass together.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    array([0.83333333])
    """
    weight = np.ones((1, len(scores))) if weights is None else np.asarray(weights, float)
    order = np.argsort(-scores, kind="stable")
    ranked, label, weight = scores[order], positive[order], weight[:, order]
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # of each group of equal ones
    hits = np.cumsum(weight * label, axis=1)[:, last]
    passed = np.cumsum(weight, axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0)
    precision = np.divide(hits, passed, out=np.zeros_like(hits), where=passed > 0)
    total = hits[:, -1]
    area = (gained * precision).sum(axis=1)
    return np.divide(area, total, out=np.full_like(area, np.nan), where=total > 0)


class Resampled:
    """AUPRC of many scores over the same resamples of test rows, so that differences are paired."""

    def __init__(self, positive: np.ndarray, draws: int, seed: int = 0):
        """`positive` bool `[n_test]`; each resample draws rows and, of `draws`, draws."""
        rng = np.random.default_rng(seed)
        n = len(positive)
        self._positive = positive
        self._rows = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
        self._draws = rng.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES) / draws

    def areas(self, scores: np.ndarray) -> np.ndarray:
        """Of one arm: float `[draws, n_test]` -> AUPRC `[draws, resamples]`."""
        return np.stack([average_precision(each, self._positive, self._rows) for each in scores])

    def ratios(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The sum of `sums` `[n_test]` over that of `counts` `[n_test]` in each resample: float64
        `[resamples]`, NaN where nothing is counted."""
        above, below = self._rows @ sums, self._rows @ counts
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)

    def interval(self, differences: np.ndarray) -> tuple[float, float]:
        """95 % percentile interval of the mean over draws of differences `[draws, resamples]`."""
        means = (differences * self._draws.T).sum(axis=0)
        low, high = np.nanpercentile(means, [2.5, 97.5])
        return float(low), float(high)
