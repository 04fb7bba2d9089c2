"""A trial: a few labelled rows to begin with, and what heads learn once an arm has added others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import FILLING, RANDOM, SHUFFLED, Draw, Pool
from fac.experiments.heads import FEATURES, STATES, scores, worth
from fac.experiments.material import Material
from fac.experiments.run import Piece, Row

LEAST = 2  # of either kind at the beginning


def pieces(spec: ExperimentSpec, unit: str = "labels") -> list[Piece]:
    """A draw of a size each; `unit` is what sizes of beginnings are counted in."""
    return [
        Piece(f"{labels} {unit}, draw {draw + 1}", labels, draw)
        for labels in spec.labels
        for draw in range(spec.draws)
    ]


def seed_of(seed: int, piece: Piece) -> int:
    """Another one for every piece of an experiment."""
    return seed * 1_000_000 + piece.size * 1000 + piece.draw


def beginning(data: Material, labels: int, seed: int) -> Draw:
    """`labels` rows at random, as many of each kind as all have, LEAST at least; the budget are
    their own tokens."""
    rng = np.random.default_rng(seed)
    positive = data.positive[data.train]
    n = int(np.clip(round(labels * positive.mean()), LEAST, labels - LEAST))
    begin = np.zeros(len(data.positive), bool)
    for kind, take in ((True, n), (False, labels - n)):
        begin[rng.permutation(data.train[positive == kind])[:take]] = True
    free = np.zeros(len(begin), bool)
    free[data.train] = True
    free &= ~begin
    return Draw(begin, free, int(data.pool.tokens[begin].sum()), seed)


def any_beginning(pool: Pool, train: np.ndarray, size: int, seed: int) -> Draw:
    """So many rows at random of those that may be learned from, int64; the budget are their own
    tokens."""
    begin, free = np.zeros((2, len(pool.tokens)), bool)
    begin[np.random.default_rng(seed).permutation(train)[:size]] = True
    free[train] = True
    return Draw(begin, free & ~begin, int(pool.tokens[begin].sum()), seed)


def judges(spec: ExperimentSpec, n: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that judge, `most` at most, and the others: int64, ascending."""
    order = np.random.default_rng(spec.seed).permutation(n)
    n_test = min(round(spec.test * n), n if most is None else most)
    return np.sort(order[:n_test]), np.sort(order[n_test:])


def coverage_of(pool: Pool, draw: Draw) -> Callable[[np.ndarray], float]:
    """Of the relevant features that any row fires which may be learned from, the share that the
    beginning fires with the rows that are added, bool `[n]`."""
    there = pool.rows.counts(draw.begin | draw.free) > 0

    def fac(added: np.ndarray) -> float:
        covered = pool.rows.counts(draw.begin | added) > 0
        return float(covered[there].mean())

    return fac


def beside(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Which arm is set beside which: every one beside random rows of equal tokens, and the arm in
    question beside rows chosen in the same way by the features of other rows."""
    return [*((arm, RANDOM) for arm in arms), (FILLING, SHUFFLED)]


class Trial:
    """One beginning, and what is learned with what arms add to it."""

    def __init__(self, data: Material, piece: Piece, draw: Draw):
        self.data, self.piece, self.draw = data, piece, draw
        self.fac = coverage_of(data.pool, draw)

    def learned(
        self, arm: str, added: np.ndarray, positive: np.ndarray | None = None
    ) -> Iterator[Row]:
        """A row of PIECE for each head that learns from the beginning and `added`, bool `[n]`;
        `positive` are the labels that it is told, by default the right ones."""
        data, labels = self.data, self.data.positive if positive is None else positive
        learned = np.flatnonzero(self.draw.begin | added)
        for head, inputs in ((STATES, data.pool.states), (FEATURES, data.peaks)):
            chance = scores(inputs, labels, learned, data.test)
            yield self.row(head, arm, added, chance, data.test)

    def row(
        self, outcome: str, arm: str, added: np.ndarray, chance: np.ndarray, judges: np.ndarray
    ) -> Row:
        """Of PIECE: P(positive) of rows `judges` after the beginning and `added`, bool `[n]`."""
        data, learned = self.data, np.flatnonzero(self.draw.begin | added)
        return {
            "outcome": outcome,
            "size": self.piece.size,
            "draw": self.piece.draw,
            "arm": arm,
            "figures": {
                "rows": len(learned),
                "positive": float(data.positive[learned].mean()),
                "tokens": int(data.pool.tokens[learned].sum()),
                "fac": self.fac(added),
                **worth(chance, data.positive[judges]),
            },
            "scores": chance.astype(np.float32),
        }
