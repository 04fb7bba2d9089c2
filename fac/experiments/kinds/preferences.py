"""RQ1, on preferences: does a reward learn more from pairs that fill gaps than from others?

One begins with a few pairs of a better and a worse text and adds as many tokens of others, chosen
by what their better text fires; a Bradley-Terry head on the frozen model learns from both and says
of held-out pairs which text is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.datasets.layout import REJECTED, UnusableRow, turns
from fac.errors import InputError
from fac.experiments.arms import ARMS, RANDOM, Pool
from fac.experiments.effects import contrasts, credit
from fac.experiments.heads import margins
from fac.experiments.material import pool_above, states_of, tokens_of, without_leaks
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, conclusion, controls, rankings
from fac.experiments.trials import any_beginning, beside, coverage_of, judges, pieces, seed_of
from fac.manifest import ExperimentFacts
from fac.schema import Chat
from fac.store.peaks import peaks_of
from fac.store.runs import Runs
from fac.store.samples import read_samples

REWARD = "Bradley-Terry head"
REVERSED = "random rows, a third reversed"
"""Positive control: the random rows once more, with better and worse exchanged."""

WRONG = 1 / 3
PEEK = 256  # rows that show whether there are pairs


class Preferences(NamedTuple):
    """Pairs of one measured dataset, renumbered."""

    pool: Pool
    """Of the better texts."""

    apart: np.ndarray
    """float32 `[n, d_model]`: the mean residual stream of the better text less the worse one's."""

    test: np.ndarray
    """int64: pairs that judge and are never learned from."""

    train: np.ndarray
    """int64: pairs that may be learned from."""

    n_leaks: int
    n_alone: int
    """Rows without another worse text."""

    def facts(self) -> Mapping[str, Any]:
        """Fields of ExperimentFacts."""
        return {
            "n_rows": len(self.apart),
            "n_test": len(self.test),
            "n_leaks": self.n_leaks,
            "n_unlabelled": self.n_alone,
            "base_rate": 0.5,
        }


def worse_text(messages: Chat, meta: str) -> Chat | None:
    """The chat that is worse than a sample of `messages`, from what its layout kept beside it; None
    where there is none, or the same."""
    raw, last = json.loads(meta).get(REJECTED), messages[-1]["role"]
    if raw is None:
        return None
    try:
        chat = turns({REJECTED: raw}, REJECTED, last, transcript=True)
    except UnusableRow:
        return None
    if chat[0]["role"] == last != "user":  # the answer alone
        chat = [*messages[:-1], *chat]
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    return None if chat == plain or not chat[-1]["content"].strip() else chat


def _pairs(runs: Runs, measure: str) -> tuple[np.ndarray, list[Chat], list[Chat], int]:
    """Numbers of the samples that have a worse text, both chats of each, and how many have none."""
    dataset = runs.manifest(measure).facts.dataset
    rows, better, worse = [], [], []
    table = runs.table(dataset, "samples", ["messages", "meta"]).to_pylist()
    read = np.flatnonzero(read_samples(runs, measure)).tolist()
    for number in read:
        row = table[number]
        messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
        if (other := worse_text(messages, row["meta"])) is not None:
            rows.append(number)
            better.append(messages)
            worse.append(other)
    return np.array(rows, np.int64), better, worse, len(read) - len(rows)


def _must_suffice(spec: ExperimentSpec, name: str, n: int, n_train: int) -> None:
    most = max(spec.labels)
    if not n:
        raise InputError(
            f"{name} has no preferences: its rows need a better and a worse text, in columns such "
            "as chosen and rejected."
        )
    if n_train < 3 * most:
        raise InputError(
            f"{n_train:,} pairs of {name} may be learned from: to begin with {most} and choose "
            f"others, {3 * most:,} are needed. Begin with fewer."
        )


def pairs_suffice(spec: ExperimentSpec, runs: Runs) -> None:
    """Reads the first rows alone, so that it can be asked before anything is queued. Raises
    InputError as `material` does, even if all others are pairs and none resembles a test pair."""
    facts = runs.manifest(spec.measure).facts
    first = next(runs.batches(facts.dataset, "samples", columns=["messages", "meta"], rows=PEEK))
    pairs = (worse_text(row["messages"], row["meta"]) for row in first.to_pylist())
    n = facts.n_read if any(pairs) else 0
    _must_suffice(spec, facts.name, n, len(judges(spec, n)[1]))


def material(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Preferences:
    """Reads a measured dataset; states are kept in `scratch`. Raises InputError where there are too
    few pairs without those that resemble a test pair, or no feature that could be a gap."""
    rows, better, worse, n_alone = _pairs(runs, spec.measure)
    facts = runs.manifest(spec.measure).facts
    test, rest = judges(spec, len(rows))
    both = [[*one, other[-1]] for one, other in zip(better, worse, strict=True)]
    train = without_leaks(both, test, rest)
    _must_suffice(spec, facts.name, len(rows), len(train))
    states = states_of(doors, [*better, *worse], scratch)
    mine, others = states[: len(rows)], states[len(rows) :]
    peaks = peaks_of(runs, spec.measure, rows)
    tokens = tokens_of(runs, spec.measure, facts.n_samples)[rows]
    pool = pool_above(peaks, spec.threshold, mine, tokens, train)
    if not len(pool.relevant):
        raise InputError(
            f"No feature fires above {spec.threshold:g} in some, and not all, of the pairs that "
            "may be learned from: choose a lower threshold."
        )
    return Preferences(pool, mine - others, test, train, len(rest) - len(train), n_alone)


def measure(spec: ExperimentSpec, data: Preferences, piece: Piece) -> Iterator[Row]:
    draw = any_beginning(data.pool, data.train, piece.size, seed_of(spec.seed, piece))
    fac = coverage_of(data.pool, draw)

    def learned(arm: str, added: np.ndarray, apart: np.ndarray) -> Row:
        rows = np.flatnonzero(draw.begin | added)
        margin = margins(apart, rows, data.test)
        return {
            "outcome": REWARD,
            "size": piece.size,
            "draw": piece.draw,
            "arm": arm,
            "figures": {
                "rows": len(rows),
                "tokens": int(data.pool.tokens[rows].sum()),
                "fac": fac(added),
                "accuracy": float(credit(margin).mean()),
                "nats": float(np.logaddexp(0, -margin).mean()),
            },
            "scores": margin.astype(np.float32),
        }

    for name, arm in ARMS.items():
        yield learned(name, arm(data.pool, draw), data.apart)
    added = ARMS[RANDOM](data.pool, draw)
    rows = np.random.default_rng(draw.seed).permutation(np.flatnonzero(added))
    apart = data.apart.copy()
    apart[rows[: round(WRONG * len(rows))]] *= -1
    yield learned(REVERSED, added, apart)


def effects(spec: ExperimentSpec, data: Preferences, rows: list[Row]) -> list[Row]:
    """Differences of pairwise accuracy."""
    judged = np.ones(len(data.test), bool)
    return [each.row() for each in contrasts(rows, judged, spec.seed, beside, "accuracy")]


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    left = {
        "pairs that nearly repeat a test pair": facts.n_leaks,
        "rows without another, worse text": facts.n_unlabelled,
    }
    left_out = ", ".join(f"{what} ({n:,})" for what, n in left.items() if n)
    note = f"{facts.n_rows:,} pairs; {facts.n_test:,} test, of which guessing gets half right."
    note += f" Left out: {left_out}." if left_out else ""
    parts = note, REST_AT_RANDOM, rankings(rows, "pairs")
    return Says(conclusion(rows, "pairs"), controls(rows), " ".join(filter(None, parts)))


EXPERIMENT = Experiment(
    title="Do pairs that fill gaps teach a reward more?",
    value="accuracy",
    columns={"rows": "pairs", "fac": "FAC"},
    pieces=partial(pieces, unit="pairs"),
    material=material,
    measure=measure,
    effects=effects,
    facts=Preferences.facts,
    says=says,
    check=pairs_suffice,
    label="",
    preference=3,
)
