"""Which rows to take so that each feature is shown as often as is asked for, and which rows could
be left out. Arrays in, numbers out; no files, no SQL, no models.

Everything maximises one function of a set S of rows: F(S) = sum of w_j min(d_j, rows of S that have
feature j), with a demand d_j and a weight w_j, whole numbers. It never falls as rows are added, and
what a row adds only shrinks (monotone, submodular), so greedy choices are near the best there are:

- rows that cost the same: at least 1 - 1/e (.632) of the best choice of as many (Nemhauser, Wolsey
  and Fisher 1978);
- rows with costs under a budget: at least (1 - 1/e) / 2 (.316) of the best that the budget allows,
  because the best single row stands in where greed per cost falls below it (Leskovec et al. 2007);
- a pool that is read in blocks: the same with 1 - 1/e - epsilon, because every row that is taken
  adds at least 1 - epsilon of what any row could add then (Badanidiyuru and Vondrak 2014).

These are the worst cases; `Selection.bound` says how good a choice is at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fac.errors import InputError

EPSILON = 0.1
"""What a row that is taken from a stream may fall short of the best one, as a share."""


class Rows(NamedTuple):
    """Which row has which feature, each pair once, in the order of features."""

    row: np.ndarray
    """int32 `[pairs]`, 0 to n_rows - 1."""

    first: np.ndarray
    """Where each feature's pairs begin, int64 `[n_features + 1]`."""

    n_rows: int

    @classmethod
    def of(cls, feature: np.ndarray, row: np.ndarray, *, n_features: int, n_rows: int) -> Rows:
        """Of pairs `[pairs]` that are in the order of features, each once."""
        first = np.searchsorted(feature, np.arange(n_features + 1))
        return cls(row.astype(np.int32, copy=False), first, n_rows)

    @property
    def n_features(self) -> int:
        return len(self.first) - 1

    @property
    def feature(self) -> np.ndarray:
        """The feature of each pair, int64 `[pairs]`."""
        return np.repeat(np.arange(self.n_features), np.diff(self.first))

    def having(self, feature: int) -> np.ndarray:
        """The rows that have a feature, int32."""
        return self.row[self.first[feature] : self.first[feature + 1]]

    def counts(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the chosen rows, bool `[n_rows]`, have each feature: int64 `[n_features]`."""
        below = np.concatenate([[0], np.cumsum(chosen[self.row])])
        return np.diff(below[self.first])

    def by_row(self) -> tuple[np.ndarray, np.ndarray]:
        """The same pairs in the order of rows: features int32 `[pairs]`, ascending in each row, and
        where each row's begin, `[n_rows + 1]`."""
        from scipy.sparse import csc_matrix

        shape, small = (self.n_rows, self.n_features), len(self.row) < 2**31
        first = self.first.astype(np.int32) if small else self.first  # else scipy copies the rows
        table = csc_matrix((np.ones(len(self.row), np.int8), self.row, first), shape).tocsr()
        return table.indices, table.indptr


class Selection(NamedTuple):
    """Rows in the order in which they were taken."""

    rows: np.ndarray
    """int64 `[taken]`."""

    adds: list[np.ndarray]
    """Of each row, the features of which more was asked for when it was taken."""

    value: int
    """F of them."""

    cost: int
    """Of all of them."""

    bound: int
    """No rows of this cost are worth more: of the sum that is asked for and, where the pool was not
    read in blocks, of what the marginal gains allow (Leskovec et al. 2007), the smaller."""

    passes: int = 1
    """How often the pool was read."""

    @property
    def share(self) -> float:
        """How much of the best it reaches at least; 1 where nothing can be had."""
        return self.value / self.bound if self.bound else 1.0


class _Gains:
    """What each row of a pool would add; kept true as rows are taken.

    What is asked for of a feature is one list that all blocks of a pool share. A row's gain changes
    only when one of its features has all that is asked for, so that every pair is looked at once
    more at most: less work than the heap of a lazy greedy, whose choices these are.
    """

    def __init__(self, rows: Rows, left: np.ndarray, weight: np.ndarray, allowed: np.ndarray):
        self.rows, self._left, self._weight = rows, left, weight
        self.gain = np.zeros(rows.n_rows, np.int64)
        for feature in np.flatnonzero(left > 0).tolist():
            self.gain[rows.having(feature)] += weight[feature]
        self.gain[~allowed] = 0  # and below, once its features are done with
        self._feature, self._first = rows.by_row()

    def take(self, row: int) -> tuple[np.ndarray, int]:
        """The features of which a row adds something, int `[k]`, and what that is worth."""
        features = self._feature[self._first[row] : self._first[row + 1]]
        adds = features[self._left[features] > 0]
        worth = int(self._weight[adds].sum())
        self._left[adds] -= 1
        self.gain[row] = 0
        for feature in adds[self._left[adds] == 0].tolist():
            self.gain[self.rows.having(feature)] -= self._weight[feature]
        return adds, worth


class _Question(NamedTuple):
    """What is asked of a pool, in arrays that belong to nobody else."""

    demand: np.ndarray
    weight: np.ndarray
    cost: np.ndarray
    allowed: np.ndarray
    budget: int

    @property
    def everything(self) -> int:
        return int((self.demand * self.weight).sum())


def _question(
    demand: np.ndarray,
    n_rows: int,
    weight: np.ndarray | None,
    cost: np.ndarray | None,
    allowed: np.ndarray | None,
    budget: int | None,
) -> _Question:
    """Raises InputError for costs or weights below one, or a budget below zero."""
    weights = np.ones(len(demand), np.int64) if weight is None else np.asarray(weight, np.int64)
    costs = np.ones(n_rows, np.int64) if cost is None else np.asarray(cost, np.int64)
    for name, values in (("weight", weights), ("cost", costs)):
        if len(values) and values.min() < 1:
            raise InputError(f"Every {name} must be at least 1, got {values.min()}.")
    if budget is not None and budget < 0:
        raise InputError(f"A budget must not be negative, got {budget}.")
    can = np.ones(n_rows, bool) if allowed is None else np.asarray(allowed, bool)
    limit = int(costs.sum()) if budget is None else int(budget)
    return _Question(np.array(demand, np.int64).clip(min=0), weights, costs, can, limit)


def greedy(
    rows: Rows,
    demand: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    budget: int | None = None,
    allowed: np.ndarray | None = None,
) -> Selection:
    """Each time the row that adds most per cost among those that the rest of the budget still pays
    for, of equal ones the first, until nothing adds anything: the choice of a lazy greedy, always
    the same. Where one row alone is worth more than all that, it and what then still fits.

    `demand` and `weight` are whole numbers `[n_features]` (weights are 1 without), `cost` is
    `[n_rows]`, above zero (1 without), `budget` in its unit (none: all that the pool can give),
    `allowed` bool `[n_rows]`. The guarantee is that of this module's head. Takes time with the
    pairs, and with rows times rows taken. Raises InputError for costs or weights below one, or a
    budget below zero.

    Row 0 shows the features 0 to 2, row 1 shows 2 and 3, row 2 shows 3:

    >>> features, rows_ = np.array([0, 1, 2, 2, 3, 3]), np.array([0, 0, 0, 1, 1, 2])
    >>> pool = Rows.of(features, rows_, n_features=4, n_rows=3)
    >>> once = greedy(pool, np.ones(4, int))
    >>> once.rows.tolist(), [adds.tolist() for adds in once.adds], once.value
    ([0, 1], [[0, 1, 2], [3]], 4)
    >>> greedy(pool, np.ones(4, int), cost=np.array([9, 4, 1])).rows.tolist()
    [2, 0]
    """
    ask = _question(demand, rows.n_rows, weight, cost, allowed, budget)
    left = ask.demand.copy()
    gains = _Gains(rows, left, ask.weight, ask.allowed)
    alone = np.where(ask.cost <= ask.budget, gains.gain, 0)
    chosen = _grow(gains, ask)
    best = int(alone.argmax()) if len(alone) else -1
    if best >= 0 and alone[best] > chosen.value:
        left = ask.demand.copy()
        gains = _Gains(rows, left, ask.weight, ask.allowed)
        chosen = _grow(gains, ask, best)
    at_most = chosen.value + int((left * ask.weight).sum())
    if budget is not None:
        at_most = min(at_most, chosen.value + _affordable(gains.gain, ask.cost, ask.budget))
    return chosen._replace(bound=min(at_most, _reachable(rows, ask)))


def _grow(gains: _Gains, ask: _Question, *begin: int) -> Selection:
    """Rows taken greedily per cost, after those that it begins with."""
    taken: list[int] = []
    adds, value, left = [], 0, ask.budget
    ahead = [*begin]
    while len(gains.gain):
        if ahead:
            row = ahead.pop()
        else:
            ratio = np.where(ask.cost <= left, gains.gain, 0) / ask.cost
            row = int(ratio.argmax())
            if ratio[row] <= 0:
                break
        features, worth = gains.take(row)
        taken.append(row)
        adds.append(features)
        value, left = value + worth, left - int(ask.cost[row])
    return Selection(np.array(taken, np.int64), adds, value, ask.budget - left, value)


def _affordable(gain: np.ndarray, cost: np.ndarray, budget: int) -> int:
    """The most that rows of these gains could add within a budget, if a part of a row could be
    taken and none of it twice."""
    order = np.argsort(-gain / cost, kind="stable")
    order = order[(gain[order] > 0) & (cost[order] <= budget)]
    spent = np.cumsum(cost[order])
    whole = int(np.searchsorted(spent, budget, side="right"))
    total = int(gain[order[:whole]].sum())
    if whole < len(order):
        rest = budget - (int(spent[whole - 1]) if whole else 0)
        total += int(gain[order[whole]]) * rest // int(cost[order[whole]])
    return total


def _reachable(rows: Rows, ask: _Question) -> int:
    """F of all rows."""
    return int((np.minimum(ask.demand, rows.counts(ask.allowed)) * ask.weight).sum())


Blocks = Callable[[], Iterable[tuple[int, Rows]]]
"""Begins a pool anew: the number of each block's first row, and the block."""


def greedy_in_passes(
    blocks: Blocks,
    demand: np.ndarray,
    n_rows: int,
    *,
    weight: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    budget: int | None = None,
    allowed: np.ndarray | None = None,
    epsilon: float = EPSILON,
) -> Selection:
    """The same of a pool that passes by in blocks, of which one is in memory at once: in each pass
    a row is taken if it adds 1 - `epsilon` of what the last pass left as the most, per cost.

    Deterministic, and independent of how the pool is cut. Passes are at most the logarithm of the
    largest gain per cost over the smallest, to the base 1 / (1 - epsilon), and two. The guarantee
    is that of this module's head. Raises as `greedy` does, and for an epsilon outside 0 to 1.
    """
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon must be between 0 and 1, got {epsilon}.")
    ask = _question(demand, n_rows, weight, cost, allowed, budget)
    stream = _Stream(ask)
    best, alone = stream.look_through(blocks())
    while stream.most > 0:
        stream.look_through(blocks(), (1 - epsilon) * stream.most)
    if alone > stream.value:
        stream = _Stream(ask, passes=stream.passes)
        only = np.arange(n_rows) == best
        stream.look_through(blocks(), 0.0, only)
    rows = np.array(stream.taken, np.int64)
    spent = ask.budget - stream.money
    return Selection(rows, stream.adds, stream.value, spent, ask.everything, stream.passes)


class _Stream:
    """What was taken of a pool that passes by."""

    def __init__(self, ask: _Question, passes: int = 0):
        self._ask, self._left, self._free = ask, ask.demand.copy(), ask.allowed.copy()
        self.taken: list[int] = []
        self.adds: list[np.ndarray] = []
        self.value, self.money, self.passes = 0, ask.budget, passes
        self.most = 0.0
        """The largest gain per cost of rows that the last pass left, each when it was its turn:
        no row that can be paid for adds more now."""

    def look_through(
        self,
        blocks: Iterable[tuple[int, Rows]],
        least: float = np.inf,
        allowed: np.ndarray | None = None,
    ) -> tuple[int, int]:
        """Takes what adds at least so much per cost when it is its turn; the row that would have
        added most when its block came, and what."""
        self.passes, self.most = self.passes + 1, 0.0
        best, alone = -1, 0
        for number, block in blocks:
            inside = slice(number, number + block.n_rows)
            free, cost = self._free[inside], self._ask.cost[inside]
            if allowed is not None:
                free = free & allowed[inside]
            gains = _Gains(block, self._left, self._ask.weight, free & (cost <= self.money))
            if gains.gain.max(initial=0) > alone:
                best, alone = number + int(gains.gain.argmax()), int(gains.gain.max())
            begin = 0
            for row in np.flatnonzero((gains.gain > 0) & (gains.gain >= least * cost)).tolist():
                if gains.gain[row] < max(least * cost[row], 1) or cost[row] > self.money:
                    continue  # no longer: what was taken before it has some of its features
                self._leave(gains.gain[begin:row], cost[begin:row])
                features, worth = gains.take(row)
                self.taken.append(number + row)
                self.adds.append(features)
                self.value, self.money = self.value + worth, self.money - int(cost[row])
                self._free[number + row] = False
                begin = row + 1
            self._leave(gains.gain[begin:], cost[begin:])
        return best, alone

    def _leave(self, gain: np.ndarray, cost: np.ndarray) -> None:
        ratio = np.where(cost <= self.money, gain, 0) / cost
        self.most = max(self.most, float(ratio.max(initial=0)))


# --- what can be left out -------------------------------------------------------------------------


def minimal_cover(rows: Rows, demand: np.ndarray) -> np.ndarray:
    """Rows without any of which a feature would be shown less often than it can be asked for, and
    that together show all features so often: int64, in the order of greedy choice, which they are
    what is left of by reverse delete. All other rows can be left out together.

    Such a cover is minimal, not the smallest: that is NP-hard, and greed comes within 1 + ln of the
    largest row's features of it (Chvatal 1979; several samples a feature: Wolsey 1982).

    Rows 1 and 2 together have what row 0 has, which greed takes first:

    >>> features, rows_ = np.array([0, 1, 1, 2, 2, 3]), np.array([1, 0, 1, 0, 2, 2])
    >>> pool = Rows.of(features, rows_, n_features=4, n_rows=3)
    >>> minimal_cover(pool, np.ones(4, int)).tolist()
    [1, 2]
    """
    chosen = greedy(rows, demand).rows
    kept = np.zeros(rows.n_rows, bool)
    kept[chosen] = True
    needs = np.minimum(demand, np.diff(rows.first))
    spare = rows.counts(kept) - needs
    feature, first = rows.by_row()
    for row in chosen[::-1].tolist():
        features = feature[first[row] : first[row + 1]]
        features = features[needs[features] > 0]
        if (spare[features] > 0).all():
            spare[features] -= 1
            kept[row] = False
    return chosen[kept[chosen]]


class StandIns:
    """Which rows of a cover have what a row has that was left out."""

    def __init__(self, rows: Rows, cover: np.ndarray):
        self._feature, self._first = rows.by_row()
        number = np.full(rows.n_rows, -1)
        number[cover] = np.arange(len(cover))
        inside = number[rows.row]
        counts = np.concatenate([[0], np.cumsum(inside >= 0)])
        self._cover, self._place, self._begin = cover, inside[inside >= 0], counts[rows.first]

    def of(self, row: int) -> list[int]:
        """A few rows of the cover that together have all its features: each time the one that has
        most of the rest. Features that no row of the cover has do not count."""
        features = self._feature[self._first[row] : self._first[row + 1]]
        having = [self._place[self._begin[f] : self._begin[f + 1]] for f in features]
        chosen = []
        while having := [rows for rows in having if len(rows)]:
            best = int(np.bincount(np.concatenate(having)).argmax())
            chosen.append(int(self._cover[best]))
            having = [rows for rows in having if best not in rows]
        return chosen


# --- what chance does -----------------------------------------------------------------------------


def random_rows(cost: np.ndarray, total: int, allowed: np.ndarray, seed: int) -> np.ndarray:
    """Rows drawn at random, as many as come closest to a total cost: bool `[n_rows]`."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(allowed))
    spent = np.concatenate([[0], np.cumsum(cost[order])])
    chosen = np.zeros(len(cost), bool)
    chosen[order[: int(np.abs(spent - total).argmin())]] = True
    return chosen
