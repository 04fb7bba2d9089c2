"""How well scores rank what is looked for, and how sure a difference of two arms is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from fac.experiments.run import Row

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
        """`positive` bool `[n_test]`; each resample draws rows and, of `draws`, all but one: the
        mean of so many varies as much as that of all draws does, which as many would fall short of
        by a quarter of the variance where there are four (McCarthy and Snowden 1985)."""
        rng = np.random.default_rng(seed)
        n = len(positive)
        self._positive = positive
        self._rows = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
        fewer = max(draws - 1, 1)
        self._draws = rng.multinomial(fewer, np.full(draws, 1 / draws), RESAMPLES) / fewer

    def areas(self, scores: np.ndarray) -> np.ndarray:
        """Of one arm: float `[draws, n_test]` -> AUPRC `[draws, resamples]`."""
        return np.stack([average_precision(each, self._positive, self._rows) for each in scores])

    def shares(self, margins: np.ndarray) -> np.ndarray:
        """Of one arm: float `[draws, n_test]` -> share of test rows above 0, half of those at 0,
        `[draws, resamples]`."""
        return self.averages(credit(margins))

    def averages(self, values: np.ndarray) -> np.ndarray:
        """Of one arm: float `[draws, n_test]` -> mean over test rows, `[draws, resamples]`."""
        average: np.ndarray = values @ self._rows.T / len(self._positive)
        return average

    def means(self, areas: np.ndarray) -> np.ndarray:
        """Over draws, of areas `[draws, resamples]`: float64 `[resamples]`. What is the same for
        two arms is the same resample of both."""
        mean: np.ndarray = (areas * self._draws.T).sum(axis=0)
        return mean

    def ratios(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The sum of `sums` `[n_test]` over that of `counts` `[n_test]` in each resample: float64
        `[resamples]`, NaN where nothing is counted."""
        above, below = self._rows @ sums, self._rows @ counts
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


class Contrast(NamedTuple):
    """One arm beside another: the difference of their AUPRC, accuracy or effect."""

    about: Mapping[str, Any]
    """outcome, size, arm, against, value and difference, as EXPERIMENT_EFFECTS has them."""

    resampled: np.ndarray
    """The difference in each resample of test rows and of draws, float64 `[RESAMPLES]`."""

    def row(self, p: float | None = None) -> Row:
        """Of EXPERIMENT_EFFECTS, with the 95 % percentile interval."""
        low, high = np.nanpercentile(self.resampled, [2.5, 97.5])
        return {**self.about, "low": float(low), "high": float(high), "p": p}


Pairs = Callable[[Sequence[str]], Iterable[tuple[str, str]]]
"""Of the arms that one outcome and size has, which is set beside which."""


def credit(margins: np.ndarray) -> np.ndarray:
    """1 where the better one of a pair has more, a half where neither has: float, of any shape.

    >>> credit(np.array([2.0, 0.0, -1.0]))
    array([1. , 0.5, 0. ])
    """
    return (margins > 0) + 0.5 * (margins == 0)


def contrasts(
    rows: Iterable[Row],
    positive: np.ndarray,
    seed: int,
    pairs: Pairs,
    figure: Literal["auprc", "accuracy", "effect"] = "auprc",
) -> list[Contrast]:
    """Differences of a figure of rows of PIECE, whose `scores` are those of test rows that are
    `positive` `[n_test]` or not, for the accuracy the margins of pairs, or what the effect is the
    mean of. Every arm has the same draws, and all of one run the same resamples."""
    by_arm: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_arm[row["outcome"], row["size"]][row["arm"]].append(row)
    result, resampled = [], {}
    for (outcome, size), arms in by_arm.items():
        draws = len(next(iter(arms.values())))
        if draws not in resampled:
            resampled[draws] = Resampled(positive, draws, seed)
        means, value = {}, {}
        ways = {
            "auprc": resampled[draws].areas,
            "accuracy": resampled[draws].shares,
            "effect": resampled[draws].averages,
        }
        for arm, group in arms.items():
            scores = np.array([row["scores"] for row in group])
            means[arm] = resampled[draws].means(ways[figure](scores))
            value[arm] = float(np.mean([row["figures"][figure] for row in group]))
        for arm, against in pairs([*arms]):
            about = {
                "outcome": outcome,
                "size": size,
                "arm": arm,
                "against": against,
                "value": value[arm],
                "difference": value[arm] - value[against],
            }
            result.append(Contrast(about, means[arm] - means[against]))
    return result


def at_once(family: Sequence[Contrast]) -> list[float]:
    """p of each of several contrasts, so that at a level of 5 % the chance that any of them is
    called a difference where there is none is 5 % together: the share of resamples in which the
    largest of all their deviations, each in its own standard errors, is as large (single-step
    maxT, Westfall and Young 1993; from the bootstrap, which knows how they go together).

    >>> rng = np.random.default_rng(0)
    >>> nothing, much = rng.standard_normal((2, 1000))
    >>> few = [Contrast({"difference": 0.1}, nothing), Contrast({"difference": 5.0}, 5 + much)]
    >>> p = at_once(few)
    >>> p[0] > 0.9, p[1] < 0.01
    (True, True)
    """
    if not family:
        return []
    resampled = np.stack([each.resampled for each in family])
    error = np.nanstd(resampled, axis=1, ddof=1)
    error = np.where(error > 0, error, np.inf)  # an arm beside itself differs by nothing
    centre = np.nanmean(resampled, axis=1)
    largest = np.nanmax(np.abs(resampled - centre[:, None]) / error[:, None], axis=0)
    size = np.abs([each.about["difference"] for each in family]) / error
    return [float((1 + (largest >= each).sum()) / (1 + len(largest))) for each in size]


def decision_accuracy(short: Mapping[str, float], long: Mapping[str, float]) -> float:
    """Of the pairs of arms that both have a value of, the share of which a cheaper measurement says
    which is better as a dearer one does; ties count half, and so does chance (pairwise decision
    accuracy, Magnusson et al. 2025). Raises ValueError where they share fewer than two arms.

    Of a, b and c the short one has b before c as the long one does, and a wrong way round twice:

    >>> decision_accuracy({"a": 3, "b": 2, "c": 1}, {"a": 0, "b": 2, "c": 1, "d": 5}).__round__(3)
    0.333
    """
    pairs = [*combinations(sorted(short.keys() & long.keys()), 2)]
    if not pairs:
        raise ValueError("fewer than two arms to compare")
    margins = [(short[a] - short[b]) * (long[a] - long[b]) for a, b in pairs]
    return float(credit(np.array(margins)).mean())


def in_words(row: Mapping[str, Any], digits: int = 3) -> str:
    """A difference with its interval, for sentences."""
    difference, low, high = (f"{row[name]:+.{digits}f}" for name in ("difference", "low", "high"))
    return f"{difference} ({low} to {high})"
