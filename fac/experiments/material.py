"""What an experiment works on: labelled rows, what each fires, its mean state, and which test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.coverage import everywhere_relevant, is_active
from fac.errors import InputError
from fac.experiments.arms import WRITTEN, Draw, Pool
from fac.experiments.lora import Classify
from fac.experiments.run import Doors
from fac.manifest import ExperimentFacts
from fac.schema import Chat
from fac.selection import random_rows
from fac.store.peaks import peaks_of
from fac.store.runs import Runs
from fac.store.samples import read_samples
from fac.synthesis.filter import Leaks


class Written(NamedTuple):
    """An arm: the rows of a measured dataset of written ones that may be learned from."""

    arm: str
    rows: np.ndarray
    """int64."""

    def must_suffice(self, tokens: np.ndarray, budget: int) -> None:
        """Raises InputError where the rows have fewer tokens, of `tokens` `[n]`."""
        if (there := int(tokens[self.rows].sum())) < budget:
            raise InputError(
                f"Of the {self.arm}, {there:,} tokens may be learned from, {budget:,} are to be "
                "added: write more, or begin with fewer rows or add fewer tokens."
            )

    def added(self, pool: Pool, draw: Draw) -> np.ndarray:
        """As many tokens of them as the budget has, at random: bool `[n]`."""
        mine = np.zeros(len(pool.tokens), bool)
        mine[self.rows] = True
        return random_rows(pool.tokens, draw.budget, mine, draw.seed)


class Material(NamedTuple):
    """Labelled rows of one measured dataset, renumbered, and of those that were written for it."""

    pool: Pool
    peaks: Any
    """csr float32 `[n, n_features]`: log(1 + peak), the highest of each feature in a row."""

    positive: np.ndarray
    """bool `[n]`."""

    test: np.ndarray
    """int64: rows that judge and are never learned from."""

    train: np.ndarray
    """int64: rows that may be learned from."""

    n_leaks: int
    """Rows left out of what may be learned from, as they share words with a test row."""

    n_unlabelled: int
    n_rows: int
    """Rows of the dataset itself; those that were written for it come after them."""

    written: Mapping[str, Written] = {}
    """By their run's id."""

    chats: Sequence[Chat] = ()
    classify: Classify | None = None

    def facts(self) -> Mapping[str, Any]:
        """Fields of ExperimentFacts."""
        return {
            "n_rows": self.n_rows,
            "n_positive": int(self.positive[: self.n_rows].sum()),
            "n_test": len(self.test),
            "n_leaks": self.n_leaks,
            "n_unlabelled": self.n_unlabelled,
            "base_rate": float(self.positive[self.test].mean()),
        }


class Labels(NamedTuple):
    """Which samples are labelled, and which of them judge."""

    rows: np.ndarray
    """int64 `[n]`: the numbers of those that have a label."""

    positive: np.ndarray
    """bool `[n]`."""

    test: np.ndarray
    """int64, of `rows`."""

    rest: np.ndarray
    n_samples: int


def labels_suffice(spec: ExperimentSpec, runs: Runs) -> Labels:
    """Reads nothing but labels, so that it can be asked before anything is queued.

    Raises InputError where there are no labels, one alone, no feature that fires, or too few rows
    of either kind for the largest beginning, even if none of them resembles a test row.
    """
    facts = runs.manifest(spec.measure).facts
    names = labels_of(runs, facts.dataset)
    rows = np.flatnonzero((names != "") & read_samples(runs, spec.measure))
    kinds = [*names[rows]]
    positive = np.array([kind == spec.label for kind in kinds], bool)
    if not kinds:
        raise InputError(
            f"{facts.name} has no labels: ingest it again with --label-field and measure that."
        )
    if not positive.any():
        some = ", ".join(repr(kind) for kind in sorted({*kinds})[:6])
        raise InputError(f"No row of {facts.name} is labelled {spec.label!r}; labels are {some}.")
    if positive.all():
        raise InputError(
            f"Every labelled row of {facts.name} is {spec.label!r}: there is nothing to tell."
        )
    if not facts.features_fired:
        raise InputError(f"No feature fires in {facts.name}, so that nothing can be a gap.")
    test, rest = _split(positive, spec)
    _must_suffice(spec, positive[rest])
    return Labels(rows, positive, test, rest, len(names))


def labelled(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Material:
    """Reads a measured dataset; the states are kept in `scratch`, so that they are read once.

    Raises InputError as `labels_suffice` does, also where too few rows are left without those that
    resemble a test row.
    """
    rows, positive, test, rest, n_samples = labels_suffice(spec, runs)
    every, _ = rows_and_labels(runs, spec.measure)
    chats = [every[row] for row in rows]
    train = without_leaks(chats, test, rest)
    _must_suffice(spec, positive[train])
    peaks = peaks_of(runs, spec.measure, rows)
    tokens = tokens_of(runs, spec.measure, n_samples)[rows]
    more = with_written(spec, runs, chats, peaks, tokens, test)
    states = states_of(doors, more.chats, scratch)
    pool = pool_above(more.peaks, spec.threshold, states, more.tokens, train)
    if not len(pool.relevant):
        raise InputError(
            f"No feature fires above {spec.threshold:g} in some, and not all, of the rows that may "
            "be learned from: choose a lower threshold."
        )
    unlabelled = [
        row for each in more.written.values() for row in each.rows if not more.labels[row]
    ]
    return Material(
        pool=pool,
        peaks=more.peaks.log1p(),
        positive=np.concatenate([positive, more.labels[len(rows) :] == spec.label]),
        test=test,
        train=train,
        n_leaks=len(rest) - len(train) + more.n_leaks,
        n_unlabelled=runs.manifest(spec.measure).facts.n_read - len(rows) + len(unlabelled),
        n_rows=len(rows),
        written={
            run: Written(each.arm, each.rows[more.labels[each.rows] != ""])
            for run, each in more.written.items()
        },
        chats=more.chats,
        classify=doors.classify,
    )


class WithWritten(NamedTuple):
    """Rows of a dataset and, after them, those of others that were written for it."""

    chats: list[Chat]
    labels: np.ndarray
    """str `[n]`, "" for those without, as all of the dataset itself here are."""

    peaks: Any
    tokens: np.ndarray
    written: Mapping[str, Written]
    n_leaks: int
    """Written rows that share words with a test row, in no arm."""


def with_written(
    spec: ExperimentSpec,
    runs: Runs,
    chats: Sequence[Chat],
    peaks: Any,
    tokens: np.ndarray,
    test: np.ndarray,
) -> WithWritten:
    """`chats` `[n]`, `peaks` csr `[n, n_features]` and `tokens` int64 `[n]` with the rows of the
    spec's written datasets behind them. Raises InputError for one that another encoder measured."""
    from scipy.sparse import vstack

    measured = runs.manifest(spec.measure).facts
    every, labels, written = [*chats], [np.full(len(chats), "", object)], {}
    all_peaks, all_tokens, n_leaks = [peaks], [tokens], 0
    for run in spec.written:
        facts = runs.manifest(run).facts
        if facts.encoder != measured.encoder:
            raise InputError(
                f"{facts.name} was measured with another model or SAE than {measured.name}: "
                "measure both alike."
            )
        chats_there, names = rows_and_labels(runs, run)
        there = np.flatnonzero(read_samples(runs, run))
        more = [chats_there[row] for row in there]
        rows = np.arange(len(every), len(every) + len(more))
        every += more
        free = without_leaks(every, test, rows)
        n_leaks += len(rows) - len(free)
        written[run] = Written(f"{WRITTEN}, {facts.name}", free)
        labels.append(names[there])
        all_peaks.append(peaks_of(runs, run, there))
        all_tokens.append(tokens_of(runs, run, len(names))[there])
    return WithWritten(
        every,
        np.concatenate(labels),
        vstack(all_peaks, "csr"),
        np.concatenate(all_tokens),
        written,
        n_leaks,
    )


def rows_and_labels(runs: Runs, measure: str) -> tuple[list[Chat], np.ndarray]:
    """All chats of a measured dataset, and their labels, "" where there is none."""
    dataset = runs.manifest(measure).facts.dataset
    chats = [
        [{"role": m["role"], "content": m["content"]} for m in messages]
        for messages in runs.table(dataset, "samples", ["messages"])["messages"].to_pylist()
    ]
    return chats, labels_of(runs, dataset)


def labels_of(runs: Runs, dataset: str) -> np.ndarray:
    """Of a dataset's samples, "" where there is none: str `[n]`."""
    labels = runs.table(dataset, "samples", ["label"])["label"].to_pylist()
    return np.array([str(label or "") for label in labels], object)


def states_of(doors: Doors, chats: Sequence[Chat], scratch: Path) -> np.ndarray:
    """What the model holds of them, float32 `[n, d_model]`; it reads them once."""
    return kept(scratch / "states.npy", lambda: doors.states(chats))


def kept(path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What is read once, and from then on lies in a file."""
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, read())
        part.rename(path)
    values: np.ndarray = np.load(path)
    return values


def without_leaks(chats: Sequence[Chat], test: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Those of `rest` that share no words with a test row and have no message nearly like its."""
    leaks = Leaks({str(row): chats[row] for row in rest})
    for row in test:
        leaks.compare(chats[row])
    return rest[[str(row) not in leaks.candidates for row in rest]]


def tokens_of(runs: Runs, measure: str, n_samples: int) -> np.ndarray:
    """Content tokens of every sample, int64 `[n_samples]`, one at least."""
    table = runs.table(measure, "sample_tokens", ["sample", "n_content"])
    tokens = np.ones(n_samples, np.int64)
    tokens[table["sample"].to_numpy()] = table["n_content"].to_numpy()
    return tokens.clip(min=1)


def described(facts: ExperimentFacts, spec: ExperimentSpec) -> str:
    """How many rows there are, and what was left out."""
    left = {
        "rows that nearly repeat a test row": facts.n_leaks,
        "rows without a label": facts.n_unlabelled,
    }
    left_out = ", ".join(f"{what} ({n:,})" for what, n in left.items() if n)
    return (
        f"{facts.n_rows:,} labelled rows, {facts.n_positive:,} of them {spec.label!r}; "
        f"{facts.n_test:,} test, of which {facts.base_rate:.2f} is what guessing reaches."
        + (f" Left out: {left_out}." if left_out else "")
    )


def pool_above(
    peaks: Any, threshold: float, states: np.ndarray, tokens: np.ndarray, train: np.ndarray
) -> Pool:
    """Rows by what they fire above a threshold in the unit of `peaks`, csr `[n, n_features]`.
    Which features count is asked of `train` alone, not of test rows."""
    table = peaks.tocoo()
    clear = is_active(table.data, threshold)
    row, feature = table.row[clear].astype(np.int64), table.col[clear].astype(np.int64)
    learnable = np.zeros(peaks.shape[0], bool)
    learnable[train] = True
    counts = np.bincount(feature[learnable[row]], minlength=peaks.shape[1])
    relevant = np.flatnonzero(everywhere_relevant(counts, len(train)))
    return Pool((row, feature), states, tokens, relevant)


def _must_suffice(spec: ExperimentSpec, positive: np.ndarray) -> None:
    most = max(spec.labels)
    rarer = int(min(positive.sum(), (~positive).sum()))
    if len(positive) < 3 * most or rarer < 4:
        raise InputError(
            f"{len(positive):,} rows may be learned from, {rarer:,} of the rarer kind: to begin "
            f"with {most} and choose others, {3 * most:,} are needed, and 4 of either kind. Begin "
            "with fewer, or label more."
        )


def _split(positive: np.ndarray, spec: ExperimentSpec) -> tuple[np.ndarray, np.ndarray]:
    """Test rows and the others, as many of each kind in both as chance would have."""
    rng = np.random.default_rng(spec.seed)
    test = np.zeros(len(positive), bool)
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(positive == kind))
        test[rows[: round(spec.test * len(rows))]] = True
    return np.flatnonzero(test), np.flatnonzero(~test)
