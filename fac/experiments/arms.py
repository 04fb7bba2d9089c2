"""Ways to choose the next rows to label, at equal tokens: by what they cover, and controls.

An arm sees what is known of rows before anybody labels them, and never a test row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fac.diversity import DENSITY_POWER, density, unit
from fac.families import group
from fac.selection import Rows, greedy, random_rows

ALIKE = 10
"""Rows of about equal length among which the control of random features exchanges them."""


@dataclass(frozen=True)
class Pool:
    """What an arm may choose from. All arrays are over the same rows."""

    pairs: tuple[np.ndarray, np.ndarray]
    """(row, feature) int64 `[pairs]`: which row fires which feature above the threshold."""

    states: np.ndarray
    """float32 `[n, d_model]`: the residual stream averaged over content tokens."""

    tokens: np.ndarray
    """int64 `[n]`: content tokens, one at least."""

    relevant: np.ndarray
    """int64: features that count."""

    _families: dict[bytes, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def unit_states(self) -> np.ndarray:
        """The states at length 1."""
        return unit(self.states)

    @cached_property
    def rows(self) -> Rows:
        """The relevant features of each row."""
        return self.incidence(np.arange(len(self.tokens)))

    def families(self, learnable: np.ndarray) -> np.ndarray:
        """The family of each relevant feature (fac.families) by the rows that may be learned from,
        bool `[n]`: int64 `[relevant]`. A feature that is like no other is a family of its own."""
        from scipy.sparse import csr_array

        key = np.packbits(learnable).tobytes()
        if key not in self._families:
            feature, row = self.rows.feature, self.rows.row
            firing = learnable[row]
            shape = self.rows.n_rows, self.rows.n_features
            pairs = row[firing], feature[firing]
            incidence = csr_array((np.ones(len(pairs[0]), bool), pairs), shape)[learnable]
            family = group(incidence, np.unique(pairs[1])).astype(np.int64)
            alone = np.flatnonzero(family < 0)
            family[alone] = family.max(initial=-1) + 1 + np.arange(len(alone))
            self._families[key] = family
        return self._families[key]

    def incidence(self, rows: np.ndarray) -> Rows:
        """The relevant features of each row as it stands at `rows[row]`: int64 `[n]`."""
        row, feature = self.pairs
        moved = np.argsort(rows)[row]
        column = np.searchsorted(self.relevant, feature)
        column = np.minimum(column, len(self.relevant) - 1)
        counts = self.relevant[column] == feature
        column, moved = column[counts], moved[counts]
        order = np.lexsort((moved, column))
        n = len(self.tokens)
        return Rows.of(column[order], moved[order], n_features=len(self.relevant), n_rows=n)


class Draw(NamedTuple):
    """One beginning."""

    begin: np.ndarray
    """bool `[n]`: the labelled rows at hand."""

    free: np.ndarray
    """bool `[n]`: rows that may be added."""

    budget: int
    """Tokens of what is added, at most or nearly."""

    seed: int


Arm = Callable[[Pool, Draw], np.ndarray]
"""The rows that are added: bool `[n]`."""


def none(pool: Pool, draw: Draw) -> np.ndarray:
    return np.zeros(len(pool.tokens), bool)


def everything(pool: Pool, draw: Draw) -> np.ndarray:
    return draw.free.copy()


def at_random(pool: Pool, draw: Draw) -> np.ndarray:
    return random_rows(pool.tokens, draw.budget, draw.free, draw.seed)


def at_random_again(pool: Pool, draw: Draw) -> np.ndarray:
    """Null control: another draw of the same."""
    return random_rows(pool.tokens, draw.budget, draw.free, draw.seed + 1_000_003)


def twice_as_much(pool: Pool, draw: Draw) -> np.ndarray:
    """Positive control: random rows of twice the tokens."""
    return random_rows(pool.tokens, 2 * draw.budget, draw.free, draw.seed)


def filling_gaps(pool: Pool, draw: Draw) -> np.ndarray:
    """Rows that fire features which the beginning does not show, most per token first."""
    return cover(pool, pool.rows, draw, lacking(pool.rows, draw))


def filling_families(pool: Pool, draw: Draw) -> np.ndarray:
    """Rows that fire every family of gaps once, most families per token first; what is left of the
    budget goes to the gaps that these rows do not show."""
    rows, family = pool.rows, pool.families(draw.begin | draw.free)
    gap = lacking(rows, draw)[rows.feature]
    pairs = np.unique(np.stack([family[rows.feature[gap]], rows.row[gap]]), axis=1)
    n = int(family.max(initial=-1)) + 1
    by_family = Rows.of(*pairs, n_features=n, n_rows=rows.n_rows)
    once = np.ones(n, np.int64)
    taken = greedy(by_family, once, cost=pool.tokens, allowed=draw.free, budget=draw.budget)
    chosen = np.zeros(rows.n_rows, bool)
    chosen[taken.rows] = True
    begin, free, rest = draw.begin | chosen, draw.free & ~chosen, draw.budget - taken.cost
    return chosen | filling_gaps(pool, Draw(begin, free, rest, draw.seed))


def random_features(pool: Pool, draw: Draw) -> np.ndarray:
    """Control: what fills gaps, with the features of other rows of about equal length."""
    rows = pool.incidence(exchanged(pool, draw.free, draw.seed))
    return cover(pool, rows, draw, lacking(rows, draw))


def exchanged(pool: Pool, free: np.ndarray, seed: int) -> np.ndarray:
    """Whose features each row has when free rows (bool `[n]`) of about equal length exchange them:
    int64 `[n]`."""
    rng = np.random.default_rng(seed)
    by_length = np.argsort(pool.tokens, kind="stable")
    by_length = by_length[free[by_length]]
    whose = np.arange(len(pool.tokens))
    for first in range(0, len(by_length), ALIKE):
        block = by_length[first : first + ALIKE]
        whose[block] = rng.permutation(block)
    return whose


def k_center(pool: Pool, draw: Draw) -> np.ndarray:
    """Rows farthest, by cosine of their mean states, from all that is there (Sener and Savarese
    2018)."""
    unit = pool.unit_states()
    near = (unit @ unit[draw.begin].T).max(axis=1) if draw.begin.any() else np.full(len(unit), -1.0)
    near[~draw.free] = np.inf
    chosen, spent = np.zeros(len(unit), bool), 0
    while True:
        row = int(near.argmin())
        if np.isinf(near[row]) or spent + pool.tokens[row] / 2 > draw.budget:
            return chosen
        chosen[row], near[row] = True, np.inf
        spent += int(pool.tokens[row])
        near = np.maximum(near, unit @ unit[row])


def novel(pool: Pool, draw: Draw) -> np.ndarray:
    """Rows that are most novel beside what is there and was chosen: NovelSelect (Yang et al. 2025),
    greedy for fac.diversity.novel_sum, with densities among the rows that may be learned from."""
    vectors = pool.unit_states()
    there = vectors[draw.begin | draw.free]
    dense = density(vectors, there) ** DENSITY_POWER
    rows, free = np.flatnonzero(draw.free), vectors[draw.free]
    # What is there already, nearest first, as it lies from each row that may be added.
    apart = 1 - free @ vectors[draw.begin].T
    order = np.argsort(apart, axis=1, kind="stable")
    apart = np.take_along_axis(apart, order, axis=1)
    novelty = apart * dense[draw.begin][order]

    def worth() -> np.ndarray:
        weight = 1 / np.arange(1, novelty.shape[1] + 1)
        return novelty @ weight

    def take(at: int) -> None:
        nonlocal apart, novelty
        new = 1 - free @ free[at]
        rank = (apart <= new[:, None]).sum(axis=1)
        apart = _inserted(apart, new, rank)
        novelty = _inserted(novelty, new * dense[rows[at]], rank)

    return _greedily(pool, draw, worth, take)


def _inserted(table: np.ndarray, column: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`[n, k]` with one more value in each row, before column `at` `[n]`."""
    n, k = table.shape
    behind = np.arange(k) >= at[:, None]
    longer = np.empty((n, k + 1))
    longer[np.arange(n), at] = column
    np.put_along_axis(longer, np.arange(k) + behind, table, axis=1)
    return longer


def vendi(pool: Pool, draw: Draw) -> np.ndarray:
    """Rows that add most to the Vendi score of what is there and was chosen.

    Of n rows with the product M of their vectors, entropy grows by about -u' log((M + I) / (n + 1))
    u over n + 1 with a row u: its gradient, taken where it is exact for a row that none shares a
    direction with and for one that repeats an eigenvector.
    """
    vectors = pool.unit_states().astype(float)
    free, chosen = vectors[draw.free], [*np.flatnonzero(draw.begin)]
    rows = np.flatnonzero(draw.free)

    def worth() -> np.ndarray:
        if not chosen:
            return np.zeros(len(rows))
        there = vectors[chosen]
        share, direction = np.linalg.eigh(there @ there.T)
        share, direction = share[share > 1e-9], direction[:, share > 1e-9]
        along = free @ (there.T @ direction) / np.sqrt(share)
        return -((along**2) @ np.log1p(share))

    return _greedily(pool, draw, worth, lambda at: chosen.append(rows[at]))


def _greedily(
    pool: Pool,
    draw: Draw,
    worth: Callable[[], np.ndarray],
    take: Callable[[int], None],
) -> np.ndarray:
    """Each time the free row that is worth most, until their tokens come near the budget. `worth`
    is `[free rows]` beside what was taken so far."""
    rows = np.flatnonzero(draw.free)
    chosen, spent = np.zeros(len(pool.tokens), bool), 0
    for _ in rows:
        at = int(np.where(chosen[rows], -np.inf, worth()).argmax())
        if spent + pool.tokens[rows[at]] / 2 > draw.budget:
            break
        chosen[rows[at]] = True
        spent += int(pool.tokens[rows[at]])
        take(at)
    return chosen


def longest(pool: Pool, draw: Draw) -> np.ndarray:
    return _first(pool, draw, -pool.tokens)


def own_kind(pool: Pool, draw: Draw) -> np.ndarray:
    """Control: rows most like what is there."""
    unit = pool.unit_states()
    return _first(pool, draw, -(unit @ unit[draw.begin].mean(axis=0)))


def _first(pool: Pool, draw: Draw, order_by: np.ndarray) -> np.ndarray:
    """Rows in an order until their tokens come closest to the budget."""
    order = np.argsort(order_by, kind="stable")
    order = order[draw.free[order]]
    spent = np.concatenate([[0], np.cumsum(pool.tokens[order])])
    chosen = np.zeros(len(pool.tokens), bool)
    chosen[order[: int(np.abs(spent - draw.budget).argmin())]] = True
    return chosen


def lacking(rows: Rows, draw: Draw) -> np.ndarray:
    """bool `[relevant]`: features that no row of the beginning fires, the gaps."""
    return rows.counts(draw.begin) == 0


def cover(pool: Pool, rows: Rows, draw: Draw, demand: np.ndarray) -> np.ndarray:
    """Rows that fire features as often as is asked for, `[relevant]`, most per token first; chance
    has what is left of the budget. bool `[n]`."""
    demand = demand.astype(np.int64)
    selection = greedy(rows, demand, cost=pool.tokens, allowed=draw.free, budget=draw.budget)
    chosen = np.zeros(len(pool.tokens), bool)
    chosen[selection.rows] = True
    rest = draw.budget - selection.cost
    if rest > 0:  # nothing is lacking any more, or no row fits
        chosen |= random_rows(pool.tokens, rest, draw.free & ~chosen, draw.seed)
    return chosen


ARMS: Mapping[str, Arm] = {
    "none": none,
    "random rows": at_random,
    "rows that fill gaps": filling_gaps,
    "rows that fill families of gaps": filling_families,
    "random features": random_features,
    "k-center": k_center,
    "greedy NovelSum": novel,
    "greedy Vendi score": vendi,
    "longest rows": longest,
    "rows of its own kind": own_kind,
    "random rows again": at_random_again,
    "twice the tokens": twice_as_much,
    "all of the pool": everything,
}
"""Arms by name. The third is the one in question; random rows are what each is set beside."""

RANDOM, FILLING, SHUFFLED = "random rows", "rows that fill gaps", "random features"
FAMILIES = "rows that fill families of gaps"
NULL = "random rows again"
MORE, ALL, NONE = "twice the tokens", "all of the pool", "none"

WRITTEN = "written rows"
"""What the name of an arm begins with that adds rows which somebody wrote for the gaps."""
