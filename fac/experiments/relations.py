"""How far two figures go together over subsets, with others held equal: a correlation, its interval
by bootstrap, and how often chance alone does as much.

What is held equal is taken out of both figures by regression on its first three powers, of ranks
where ranks are correlated: a straight line would leave in what bends. p: residuals of the outcome
are exchanged (Freedman and Lane 1983).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
EXCHANGES = 2000
POWERS = 3

LEVEL, POWER = 0.05, 0.8
"""Of the test, and the share of true correlations of the smallest visible size that it finds."""


class Relation(NamedTuple):
    """A correlation; NaN where a figure is the same everywhere."""

    value: float
    low: float
    high: float
    """95 % interval."""

    p: float
    """Share of exchanges, two-sided, that go as far from 0; 1 where there is no correlation."""


class Sample:
    """One outcome over n subsets, with what is held equal, ready to be set beside many measures.

    All of them see the same resamples, so that the differences of two are paired.
    """

    def __init__(
        self,
        outcome: np.ndarray,
        held: Sequence[np.ndarray] = (),
        *,
        ranked: bool,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ):
        """`outcome` and each of `held` float `[n]`; `ranked` makes it Spearman's."""
        rng = np.random.default_rng(seed)
        n = len(outcome)
        self._ranked = ranked
        self._rows = np.concatenate([np.arange(n)[None], rng.integers(0, n, (resamples, n))])
        self._base = self._basis(held)
        self._outcome = self._left(outcome)
        order = rng.permuted(np.tile(np.arange(n), (EXCHANGES, 1)), axis=1)
        exchanged = self._outcome[0][order]
        base = self._base[0]
        self._exchanged = _unit(exchanged - (exchanged @ base) @ base.T)

    def resampled(self, measure: np.ndarray) -> np.ndarray:
        """Correlations with a measure `[n]`: of the sample itself, then of each resample."""
        return (self._left(measure) * self._outcome).sum(axis=1)

    def relation(self, measure: np.ndarray) -> Relation:
        values = self.resampled(measure)
        return Relation(float(values[0]), *interval(values[1:]), self.p(measure))

    def p(self, measure: np.ndarray) -> float:
        """Relation.p."""
        left = self._left(measure, 1)[0]
        value = abs(float(left @ self._outcome[0]))
        if math.isnan(value):
            return 1.0
        chance = np.abs(self._exchanged @ left)
        return float((1 + (chance >= value - 1e-12).sum()) / (1 + EXCHANGES))

    def _basis(self, held: Sequence[np.ndarray]) -> np.ndarray:
        """Orthonormal columns of a constant and the powers of what is held, of each resample:
        float64 `[1 + resamples, n, columns]`."""
        columns = [np.ones(self._rows.shape)]
        for values in (self._scale(figure[self._rows]) for figure in held):
            columns += [values**power for power in range(1, POWERS + 1)]
        left, share, _ = np.linalg.svd(np.stack(columns, axis=2), full_matrices=False)
        return left * (share > 1e-6 * share[:, :1])[:, None]

    def _scale(self, values: np.ndarray) -> np.ndarray:
        """Ranks, or the values, with mean 0 and deviation 1 in each resample."""
        if self._ranked:
            from scipy.stats import rankdata

            values = rankdata(values, axis=1)
        values = values - values.mean(axis=1, keepdims=True)
        spread = values.std(axis=1, keepdims=True)
        scaled: np.ndarray = values / np.where(spread > 1e-12, spread, 1)
        return scaled

    def _left(self, figure: np.ndarray, resamples: int | None = None) -> np.ndarray:
        """What of a figure `[n]` is left in each resample, at length 1; NaN where nothing is."""
        values = self._scale(figure[self._rows[:resamples]])
        base = self._base[:resamples]
        along = np.matmul(values[:, None, :], base)
        return _unit(values - np.matmul(base, along.transpose(0, 2, 1))[..., 0])


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    enough = length > 1e-6 * math.sqrt(values.shape[1])
    return values / np.where(enough, length, math.nan)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of resampled values; NaN where more than one in twenty is not defined."""
    if not len(values) or np.isnan(values).mean() > 0.05:
        return math.nan, math.nan
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def smallest_visible(n: int, held: int = 0) -> float:
    """The true correlation that n subsets find with POWER at LEVEL, by Fisher's z.

    >>> f"{smallest_visible(240):.2f}"  # tanh(2.80 / sqrt(237))
    '0.18'
    """
    from scipy.special import ndtri

    z = float(ndtri(1 - LEVEL / 2) + ndtri(POWER))
    return math.tanh(z / math.sqrt(max(n - 3 - POWERS * held, 1)))
