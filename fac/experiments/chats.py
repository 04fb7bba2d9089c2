"""What an experiment by LoRA works on: chats to learn from, chats that judge, what each fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fac.config import ExperimentSpec
from fac.coverage import is_active
from fac.errors import InputError
from fac.experiments.arms import Draw, Pool
from fac.experiments.lora import Finetune, Losses, Recipe
from fac.experiments.material import (
    Written,
    labels_of,
    pool_above,
    rows_and_labels,
    tokens_of,
    with_written,
    without_leaks,
)
from fac.experiments.run import Doors
from fac.schema import Chat
from fac.store.peaks import peaks_of
from fac.store.runs import Runs
from fac.store.samples import read_samples

HELD = 0.25
"""Share of a beginning's chats that choose the learning rate."""


@dataclass(frozen=True)
class ChatMaterial:
    """Rows of a measured dataset and, after them, of a dataset of written ones."""

    spec: ExperimentSpec
    chats: list[Chat]
    pool: Pool
    """Over all rows; its states are empty."""

    begins: np.ndarray
    """int64: rows that one may begin with."""

    train: np.ndarray
    """int64: rows that may be learned from, those among them."""

    test: np.ndarray
    """int64: rows that judge and are never learned from."""

    written: Mapping[str, Written]
    """By their run's id."""

    before: Losses
    """Of the test rows, by the model as it is."""

    peaks: tuple[np.ndarray, np.ndarray, np.ndarray]
    """(test row as `before.chat` has it, relevant feature, token index): int64 `[n]`, where each
    peaks above the threshold in what is judged."""

    n_rows: int
    """Rows of the dataset itself."""

    n_leaks: int
    finetune: Finetune
    scratch: Path

    def facts(self) -> Mapping[str, Any]:
        """Fields of ExperimentFacts."""
        return {"n_rows": self.n_rows, "n_test": len(self.test), "n_leaks": self.n_leaks}

    def draw(self, size: int, number: int) -> Draw:
        """A beginning of so many chats, and which rows may be added to it."""
        seed = self.spec.seed * 1_000_000 + size * 1000 + number
        rng = np.random.default_rng(seed)
        begin, free = np.zeros((2, len(self.chats)), bool)
        begin[rng.permutation(self.begins)[:size]] = True
        free[self.train] = True
        return Draw(begin, free & ~begin, self.spec.tokens, seed)

    def losses(self, rows: np.ndarray, judges: np.ndarray, rate: float, seed: int) -> Losses:
        """On rows `judges`, of a model that learned from rows `rows`; both int64."""
        learned, judged = ([self.chats[row] for row in part] for part in (rows, judges))
        return self.finetune(learned, judged, Recipe(rate, seed))

    def rate(self, draw: Draw) -> float:
        """The learning rate with which a part of the beginning says most of its other part; decided
        once for each draw, so that all arms have the same."""
        rates = self.spec.rates
        if len(rates) == 1:
            return rates[0]
        path = self.scratch / f"rate-{draw.seed}.npy"
        if not path.exists():
            rows = np.random.default_rng(draw.seed).permutation(np.flatnonzero(draw.begin))
            held = max(1, round(HELD * len(rows)))
            learned, judges = np.sort(rows[held:]), np.sort(rows[:held])
            means = [
                self.losses(learned, judges, rate, draw.seed).nats.mean(dtype=np.float64)
                for rate in rates
            ]
            keep(path, np.array(rates[int(np.argmin(means))]))
        return float(np.load(path))


def chats_suffice(spec: ExperimentSpec, runs: Runs, *, judges: bool = True) -> None:
    """Reads no text and no model, so that it can be asked before anything is queued.

    Raises InputError as `chat_material` does, even if no row resembles a test row.
    """
    facts = runs.manifest(spec.measure).facts
    labels = labels_of(runs, facts.dataset)
    tokens = tokens_of(runs, spec.measure, len(labels))
    test, rest = _split(spec, read_samples(runs, spec.measure), judges)
    begins = rest[labels[rest] == spec.label] if spec.label else rest
    _must_suffice(spec, facts.name, tokens, test, rest, begins, judges)


def chat_material(
    spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path, *, judges: bool = True
) -> ChatMaterial:
    """Reads a measured dataset and those of written rows; what the model makes of the test rows as
    it is stays in `scratch`. Without `judges` no row tests, as something else does.

    Raises InputError where there are too few rows or tokens, no row of the label one begins with,
    or another encoder measured the written rows.
    """
    if doors.finetune is None:
        raise InputError("Nobody here can finetune a model: LoRA runs in the worker's process.")
    chats, labels = rows_and_labels(runs, spec.measure)
    n = len(chats)
    read = read_samples(runs, spec.measure)
    test, rest = _split(spec, read, judges)
    train = without_leaks(chats, test, rest)
    begins = train[labels[train] == spec.label] if spec.label else train
    peaks, tokens = peaks_of(runs, spec.measure, np.arange(n)), tokens_of(runs, spec.measure, n)
    _must_suffice(spec, runs.manifest(spec.measure).facts.name, tokens, test, train, begins, judges)
    more = with_written(spec, runs, chats, peaks, tokens, test)
    for each in more.written.values():
        each.must_suffice(more.tokens, spec.tokens)
    states = np.zeros((len(more.chats), 0), np.float32)
    pool = pool_above(more.peaks, spec.threshold, states, more.tokens, train)
    before = _before(doors.finetune, [chats[row] for row in test], scratch)
    return ChatMaterial(
        spec=spec,
        chats=more.chats,
        pool=pool,
        begins=begins,
        train=train,
        test=test,
        written=more.written,
        before=before,
        peaks=_peaks(spec, runs, test, pool.relevant, before),
        n_rows=int(read.sum()),
        n_leaks=len(rest) - len(train) + more.n_leaks,
        finetune=doors.finetune,
        scratch=scratch,
    )


def _split(spec: ExperimentSpec, read: np.ndarray, judges: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows that judge, none where something else does, and the others, of those that were `read`,
    bool `[n]`."""
    rows = np.flatnonzero(read)
    if not judges:
        return np.zeros(0, np.int64), rows
    order = rows[np.random.default_rng(spec.seed).permutation(len(rows))]
    n_test = min(round(spec.test * len(rows)), spec.most_test)
    return np.sort(order[:n_test]), np.sort(order[n_test:])


def _must_suffice(
    spec: ExperimentSpec,
    name: str,
    tokens: np.ndarray,
    test: np.ndarray,
    train: np.ndarray,
    begins: np.ndarray,
    judges: bool,
) -> None:
    size = max(spec.labels)
    if judges and len(test) < 4:
        raise InputError(f"{name} has too few chats: {len(test)} would judge, 4 are needed.")
    if len(begins) < size:
        kind = f" labelled {spec.label!r}" if spec.label else ""
        raise InputError(
            f"{len(begins):,} chats of {name}{kind} may be learned from, as they neither test nor "
            f"nearly repeat what tests; to begin with {size} give smaller --labels."
        )
    spent = int(np.sort(tokens[begins])[-size:].sum())
    left = int(tokens[train].sum()) - spent
    if left < 3 * spec.tokens:
        raise InputError(
            f"{max(left, 0):,} tokens of {name} are left to choose from: to add {spec.tokens:,} "
            f"one way or another, {3 * spec.tokens:,} are needed. Give smaller --tokens."
        )


def _before(finetune: Finetune, chats: list[Chat], scratch: Path) -> Losses:
    if not chats:
        return Losses(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    path = scratch / "before.npy"
    if not path.exists():
        keep(path, np.stack(finetune([], chats, Recipe(0.0))).astype(np.float64))
    chat, position, nats = np.load(path)
    return Losses(chat.astype(np.int32), position.astype(np.int32), nats.astype(np.float32))


def _peaks(
    spec: ExperimentSpec, runs: Runs, test: np.ndarray, relevant: np.ndarray, before: Losses
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = int(before.position.max(initial=0)) + 1
    judged = before.chat.astype(np.int64) * wide + before.position
    parts = []
    columns = ["sample", "feature", "position", "peak"]
    for batch in runs.batches(spec.measure, "activations", columns=columns):
        sample, feature, position, peak = (batch.column(i).to_numpy() for i in range(4))
        clear = is_active(peak, spec.threshold) & np.isin(sample, test)
        clear &= np.isin(feature, relevant) & (position < wide)
        row = np.searchsorted(test, sample[clear])
        at, what = position[clear].astype(np.int64), feature[clear].astype(np.int64)
        inside = np.isin(row * wide + at, judged)
        parts.append(np.stack([row[inside], what[inside], at[inside]]))
    row, feature, position = np.concatenate([np.zeros((3, 0), np.int64), *parts], axis=1)
    return row, feature, position


def keep(path: Path, array: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    part.rename(path)
