"""Filling gaps from what exists: which rows of a measured pool to take before anything is written,
what as many random ones would do, and the rows as a dataset.

Certain gaps come before possible ones: those decide only where certain ones leave the choice. Rows
that the dataset or the anchor has already, or nearly, are left out and counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fac.config import IngestSpec, digest
from fac.datasets import json_line
from fac.errors import InputError
from fac.families import of_most
from fac.questions.catalogue import CHOSEN, Row, kind_of
from fac.questions.comparison import Comparison, must_match, name_of, settings_in_words
from fac.questions.families import families_run, names_by_feature
from fac.questions.firing import content_tokens
from fac.questions.gap_evidence import BADGES, KINDS, certain_features, certain_with, evidence_of
from fac.schema import EVERY_ROLE
from fac.selection import Rows, Selection, greedy, greedy_in_passes, random_rows
from fac.store import Stores, samples
from fac.store.memo import remembered_for_good
from fac.store.samples import publish_samples, read_samples
from fac.synthesis.filter import Leaks
from fac.synthesis.plan import chats_in

CERTAIN, ARTEFACT = 0, BADGES.index("artefact")
PAIRS_HELD = 50_000_000
"""A pool in which more pairs of sample and gap fire passes by in blocks of about so many."""

FEATURES_TOGETHER = 64
"""Features of neighbouring numbers, which are read together where one of them is a gap."""

DRAWS = 20
"""Random choices that stand beside a chosen one."""


@dataclass(frozen=True)
class Budget:
    """How much is taken, at most; without either, what fills all gaps that the pool can fill."""

    rows: int | None = None
    tokens: int | None = None
    per_feature: int = 1
    """Samples that are asked for of each gap."""

    def __post_init__(self) -> None:
        if self.rows is not None and self.tokens is not None:
            raise InputError("Give a number of rows or one of tokens, not both.")
        for name in ("rows", "tokens", "per_feature"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"{name} must be at least 1, got {number}.")


class FillRow(NamedTuple):
    """A row of the pool that is proposed."""

    sample: int
    """Its number in the pool."""
    tokens: int
    """Content tokens of every role."""
    fills: list[int]
    """The gaps of which more samples were asked for when it was taken, certain ones first."""
    fires: list[int]
    """All gaps that it fires, ascending."""


class Figures(NamedTuple):
    """What a choice of rows amounts to. A gap is filled where as many of them fire it as are asked
    for: it gets its rows, which does not make it common."""

    rows: float
    tokens: float
    certain: float
    gaps: float


class Certain(NamedTuple):
    """What becomes of certain gaps as rows are added to the dataset."""

    gaps: int
    """That were certain."""
    absent: int
    """Of these still certain, and fired by no sample."""
    under: int
    """Of these still certain, and fired by too few."""

    def words(self) -> str:
        """How many stay certain, as a clause."""
        n = self.absent + self.under
        of = f"of {self.gaps:,} certain gap{'' if self.gaps == 1 else 's'}"
        if not n:
            return f"none {of} stays certain"
        kinds = zip((self.absent, self.under), KINDS, strict=True)
        which = " and ".join(f"{number:,} {kind}" for number, kind in kinds if number)
        return f"{n:,} {of} {'stays' if n == 1 else 'stay'} certain ({which})"


class Random(NamedTuple):
    """The same of random rows of equal tokens: over DRAWS of them, always the same ones."""

    mean: Figures
    low: Figures
    high: Figures


class Fill(NamedTuple):
    """What a pool would fill of the gaps of a comparison."""

    pool: str
    """Measure run."""
    rows: list[FillRow]
    """In the order in which they were taken."""
    asked: Figures
    """How many gaps there are that could be believed; rows and tokens are those of the pool."""
    possible: Figures
    """What all rows of the pool that may be taken would fill."""
    chosen: Figures
    random: Random
    left: list[int]
    """Gaps that are not filled, certain ones first: what is to be written."""
    certain: Certain
    """What the rows make of the certain gaps, by their counts of these gaps alone: what is
    measured of the rows may move a few."""
    share: float
    """At least so much of the best choice within the budget, certain gaps before others; NaN where
    a person dropped rows."""
    passes: int
    """How often the pool was read to choose: 1 where it is in memory."""
    overlaps: int
    """Samples of the pool that the dataset, or the anchor, has too."""
    near_copies: int
    """Rows that would have been taken, but for a text of either that they nearly repeat."""
    note: str
    """Sentences about what is left out."""


@remembered_for_good
def fill(
    stores: Stores,
    comparison: Comparison,
    pool: str,
    budget: Budget = Budget(),
    features: tuple[int, ...] | None = None,
    without: tuple[int, ...] = (),
) -> Fill:
    """The rows of a measured pool that fill the gaps of a comparison, or those of `features` among
    them; gaps that the anchor itself barely shows are left out. Nothing is chosen anew for rows
    that a person dropped, `without`: all figures are of the others, random rows of as many tokens
    beside them.

    Greedy, certain gaps before others; per row, or under a number of tokens per token (see
    fac.selection for what that guarantees). Raises InputError for a pool of another encoder, one
    without samples or with none that could be taken, no gaps, and features that are none.
    """
    proposal, ground = _proposed(stores, comparison, pool, budget, features)
    rows = [row.sample for row in proposal.rows if row.sample not in without]
    if len(rows) == len(proposal.rows):
        return proposal
    gaps = _gaps(stores, comparison, features)
    outcome = _outcome(stores, comparison, pool, budget, gaps, ground, rows)
    return proposal._replace(**outcome, share=math.nan)


@remembered_for_good
def _proposed(
    stores: Stores,
    comparison: Comparison,
    pool: str,
    budget: Budget,
    features: tuple[int, ...] | None,
) -> tuple[Fill, _Ground]:
    """What `fill` proposes, and what its figures rest on."""
    must_match(stores, replace(comparison, dataset=pool, added=()))
    dataset, anchor = name_of(stores, *comparison.runs), name_of(stores, comparison.anchor)
    name, n_rows = name_of(stores, pool), int(stores.cache.summary(pool)["n_samples"])
    if not n_rows:
        raise InputError(f"{name} has no samples to fill gaps from: measure another pool.")
    gaps = _gaps(stores, comparison, features)
    others = [*dict.fromkeys((*comparison.runs, comparison.anchor))]
    read = read_samples(stores.runs, pool)
    free = read.copy()
    for run in others:
        free[stores.cache.shared(pool, run)] = False
    if not free.any():
        raise InputError(
            f"Every sample of {name} is in {dataset} or {anchor} already: take another pool."
        )
    source = _Pool(stores, pool, comparison, gaps)
    overlaps, near = int((read & ~free).sum()), 0
    different: set[int] = set()
    while True:
        selection = _select(source, gaps, budget, free)
        fresh = [row for row in selection.rows.tolist() if row not in different]
        copies = _near_copies(stores, pool, fresh, others) if fresh else []
        if not copies:
            break
        different |= {*fresh} - {*copies}
        free[copies] = False
        near += len(copies)
    rows = selection.rows.tolist()
    drawn = random_choices(source.tokens, int(source.tokens[rows].sum()), free)
    of_pool, fires = source.look_through(
        free, np.union1d(np.array(rows, int), np.concatenate(drawn))
    )
    ground = _Ground(free, source.tokens, fires)
    outcome = _outcome(stores, comparison, pool, budget, gaps, ground, rows)
    proposal = Fill(
        pool=pool,
        asked=Figures(
            n_rows, int(source.tokens.sum()), int(gaps.certain.sum()), len(gaps.features)
        ),
        possible=_figures(ground, gaps, budget, np.flatnonzero(free), of_pool),
        share=selection.share,
        passes=selection.passes,
        overlaps=overlaps,
        near_copies=near,
        note=_note(stores, comparison, pool, gaps, overlaps, near, len(rows)),
        **outcome,
    )
    return proposal, ground


class _Ground(NamedTuple):
    """What the figures of a proposal rest on, whichever of its rows a person drops."""

    free: np.ndarray
    """Rows of the pool that may be taken: bool `[n_rows]`."""
    tokens: np.ndarray
    """int64 `[n_rows]`."""
    fires: dict[int, np.ndarray]
    """Which gaps a row fires, of those that are proposed and those that are drawn at random."""

    def counts(self, rows: Sequence[int], n_gaps: int) -> np.ndarray:
        """How many of these rows fire each gap: int64 `[n_gaps]`."""
        none = np.zeros(0, np.int64)
        fired = np.concatenate([none, *(self.fires[row] for row in rows)])
        return np.bincount(fired, minlength=n_gaps)


def random_choices(tokens: np.ndarray, total: int, free: np.ndarray) -> list[np.ndarray]:
    """DRAWS choices of random rows with about so many tokens, always the same: those of fewer
    tokens are among those of more."""
    masks = (random_rows(tokens, total, free, seed) for seed in range(DRAWS))
    return [np.flatnonzero(mask) for mask in masks]


def _figures(
    ground: _Ground, gaps: _Gaps, budget: Budget, rows: np.ndarray, counts: np.ndarray
) -> Figures:
    """Of these rows, which fire each gap so often."""
    filled = counts >= budget.per_feature
    tokens = ground.tokens[rows].sum()
    return Figures(
        float(len(rows)), float(tokens), float((gaps.certain & filled).sum()), float(filled.sum())
    )


def _outcome(
    stores: Stores,
    comparison: Comparison,
    pool: str,
    budget: Budget,
    gaps: _Gaps,
    ground: _Ground,
    rows: list[int],
) -> dict[str, Any]:
    """All of a Fill that depends on which rows of the pool are taken, in this order."""
    demand, taken = np.full(len(gaps.features), budget.per_feature), []
    for row in rows:
        fires = ground.fires[row]
        adds = fires[demand[fires] > 0]
        demand[adds] -= 1
        taken.append(FillRow(row, int(ground.tokens[row]), gaps.ids(adds), gaps.ids(fires)))
    counts = ground.counts(rows, len(gaps.features))
    total = int(ground.tokens[rows].sum())
    drawn = [
        _figures(ground, gaps, budget, each, ground.counts(each.tolist(), len(gaps.features)))
        for each in random_choices(ground.tokens, total, ground.free)
    ]
    return {
        "rows": taken,
        "chosen": _figures(ground, gaps, budget, np.array(rows, int), counts),
        "random": Random(
            *(Figures(*map(float, over(drawn, axis=0))) for over in (np.mean, np.min, np.max))
        ),
        "left": gaps.ids(np.flatnonzero(counts < budget.per_feature)),
        "certain": _certain_with(stores, comparison, pool, gaps, counts, total),
    }


def _certain_with(
    stores: Stores, comparison: Comparison, pool: str, gaps: _Gaps, counts: np.ndarray, tokens: int
) -> Certain:
    """What becomes of the certain gaps with rows of so many tokens that fire each gap so often."""
    if comparison.role != EVERY_ROLE:  # tokens by row are of all roles: each has the pool's share
        of_role, every = (
            content_tokens(stores, (pool,), role) for role in (comparison.role, EVERY_ROLE)
        )
        tokens = round(tokens * of_role / every) if every else 0
    stays, shown = certain_with(stores, comparison, gaps.features, counts, tokens)
    stays &= gaps.certain
    return Certain(int(gaps.certain.sum()), int((stays & ~shown).sum()), int((stays & shown).sum()))


class _Gaps(NamedTuple):
    """The gaps in question, in the order of features."""

    features: np.ndarray
    certain: np.ndarray
    rank: np.ndarray
    """Where each stands: certain ones first, then what the anchor shows most."""
    n_artefacts: int
    """Left out."""

    def ids(self, columns: np.ndarray) -> list[int]:
        """The features of some of them, certain ones first."""
        ordered = columns[np.argsort(self.rank[columns], kind="stable")]
        features: list[int] = self.features[ordered].tolist()
        return features

    def weights(self, per_feature: int) -> np.ndarray:
        """int64: one sample for a certain gap counts more than all that possible ones ask for."""
        possible = int((~self.certain).sum())
        return np.where(self.certain, 1 + possible * per_feature, 1).astype(np.int64)


def _gaps(stores: Stores, comparison: Comparison, features: Sequence[int] | None) -> _Gaps:
    evidence = evidence_of(stores, comparison)
    badges, rank = evidence.badges(), np.argsort(np.argsort(-evidence.certainty(), kind="stable"))
    chosen = np.ones(len(badges), bool)
    dataset, anchor = name_of(stores, *comparison.runs), name_of(stores, comparison.anchor)
    about = f"{dataset} against {anchor} ({settings_in_words(comparison)})"
    if features is not None:
        chosen = np.isin(evidence.feature, features)
        if wrong := sorted({*features} - {*evidence.feature[chosen].tolist()}):
            raise InputError(f"Feature {wrong[0]} is no gap of {about}: `fac gaps` lists them.")
    believed, n_artefacts = chosen & (badges != ARTEFACT), int((badges[chosen] == ARTEFACT).sum())
    if not believed.any():
        artefacts = f" but {n_artefacts:,} that the anchor barely shows" if n_artefacts else ""
        raise InputError(f"There is no gap of {about}{artefacts}, so there is nothing to fill.")
    return _Gaps(
        evidence.feature[believed],
        (badges == CERTAIN)[believed],
        rank[believed],
        n_artefacts,
    )


class _Pool:
    """Which samples of a pool fire which gap, in blocks that memory holds."""

    def __init__(self, stores: Stores, run: str, comparison: Comparison, gaps: _Gaps):
        self._stores, self._run, self._at = stores, run, comparison.at
        self._features = gaps.features
        self.tokens = stores.cache.tokens_by_sample(run).clip(min=1)
        """Content tokens of every sample, one at least."""
        support = stores.cache.support(run, *self._at)
        self._column = np.full(len(support), -1)
        self._column[gaps.features] = np.arange(len(gaps.features))
        blocks = np.unique(gaps.features // FEATURES_TOGETHER)
        self._ranges = [
            (int(each) * FEATURES_TOGETHER, (int(each) + 1) * FEATURES_TOGETHER) for each in blocks
        ]
        self.n_blocks = -(-int(support[gaps.features].sum()) // PAIRS_HELD) or 1
        self._held: list[tuple[int, Rows]] = []

    @property
    def n_rows(self) -> int:
        return len(self.tokens)

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """The number of each block's first sample, and the block; a pool of one is kept."""
        if self._held:
            yield from self._held
            return
        size = -(-self.n_rows // self.n_blocks)
        for first in range(0, self.n_rows, size):
            beyond = min(first + size, self.n_rows)
            feature, sample = self._stores.cache.pairs(
                self._run, *self._at, ranges=self._ranges, samples=(first, beyond)
            )
            inside = self._column[feature] >= 0
            block = Rows.of(
                self._column[feature[inside]],
                sample[inside] - first,
                n_features=len(self._features),
                n_rows=beyond - first,
            )
            if self.n_blocks == 1:
                self._held = [(first, block)]
            yield first, block

    def look_through(
        self, free: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """How many of the free samples, bool `[n_rows]`, fire each gap, int64 `[gaps]`; and which
        gaps each of these rows fires."""
        counts, fires = np.zeros(len(self._features), np.int64), {}
        for first, block in self.blocks():
            beyond = first + block.n_rows
            counts += block.counts(free[first:beyond])
            feature, begin = block.by_row()
            for row in rows[(rows >= first) & (rows < beyond)].tolist():
                fires[row] = feature[begin[row - first] : begin[row - first + 1]]
        return counts, fires


def _select(pool: _Pool, gaps: _Gaps, budget: Budget, free: np.ndarray) -> Selection:
    demand = np.full(len(gaps.features), budget.per_feature)
    about: dict[str, Any] = {"weight": gaps.weights(budget.per_feature), "allowed": free}
    about["budget"] = budget.rows
    if budget.tokens is not None:
        about |= {"cost": pool.tokens, "budget": budget.tokens}
    if pool.n_blocks > 1:
        return greedy_in_passes(pool.blocks, demand, pool.n_rows, **about)
    ((_, rows),) = pool.blocks()
    return greedy(rows, demand, **about)


def _near_copies(stores: Stores, pool: str, rows: list[int], others: Sequence[str]) -> list[int]:
    """Those of these rows that nearly repeat a text of the other datasets."""
    texts = samples_at(stores, pool, rows, ["messages"])
    leaks = Leaks({str(row): sample["messages"] for row, sample in texts.items()})
    for run in others:
        for chat in chats_in(stores.runs, stores.runs.manifest(run).facts.dataset):
            leaks.compare(chat)
    return sorted(map(int, leaks.candidates))


def samples_at(
    stores: Stores, measure: str, rows: Sequence[int], columns: Sequence[str] | None = None
) -> dict[int, Row]:
    """Samples of a measured dataset by their number, with these columns of schema.SAMPLES."""
    dataset = stores.runs.manifest(measure).facts.dataset
    return samples.samples_at(stores.runs, dataset, rows, columns)


def certain_words(stores: Stores, comparison: Comparison, certain: Certain) -> str:
    """That a row does not close a gap, and how many certain ones stay so with the rows, as a
    sentence."""
    dataset = name_of(stores, *comparison.runs)
    if not certain.gaps:
        return (
            f"None of these gaps of {dataset} is certain: in a dataset of its size chance can "
            "explain them. Measure more of it to see which are real."
        )
    return (
        f"One row shows a gap and does not make it common: with these rows in {dataset}, "
        f"{certain.words()}."
    )


def _note(
    stores: Stores,
    comparison: Comparison,
    pool: str,
    gaps: _Gaps,
    overlaps: int,
    near: int,
    n_chosen: int,
) -> str:
    dataset, anchor, name = (
        name_of(stores, *runs) for runs in (comparison.runs, (comparison.anchor,), (pool,))
    )
    left_out = {
        f"samples of {name} that {dataset} or {anchor} has too": overlaps,
        f"rows that nearly repeat a text of {dataset} or {anchor}": near,
        f"gaps that {anchor} itself barely shows": gaps.n_artefacts,
    }
    parts = [f"{what} ({n:,})" for what, n in left_out.items() if n]
    notes = [f"Left out: {', '.join(parts)}."] if parts else []
    if not n_chosen:
        n = len(gaps.features)
        gap = "the only gap" if n == 1 else f"any of the {n:,} gaps"
        notes.append(f"No row of {name} that may be taken fires {gap}.")
    return " ".join(notes)


def publish(stores: Stores, comparison: Comparison, proposal: Fill, name: str) -> str:
    """The id of the dataset run of the proposed rows, to be measured and compared like any other.
    What the pool says of a row stays with it; `fill` in its `meta` says which gaps it fills and
    fires, of which families and which comparison, and where it stood in the pool.

    Raises InputError where no row is left, and for a name that no dataset can have.
    """
    content = []
    for sample, lineage in _content(stores, comparison, proposal):
        meta = {**json.loads(sample["meta"] or "{}"), "fill": lineage}
        content.append({**sample, "meta": json.dumps(meta, ensure_ascii=False, sort_keys=True)})
    source = stores.runs.manifest(proposal.pool).facts
    return publish_samples(
        stores.runs,
        IngestSpec(name=name, source=source.dataset),
        content,
        made_from=digest("fill", content),
        kind=CHOSEN,
        source=source.dataset,
    )


def as_lines(stores: Stores, comparison: Comparison, proposal: Fill) -> Iterator[str]:
    """The proposed rows as JSON lines: messages, label where there is one, and `fill`, as in the
    `meta` of what `publish` makes. Raises InputError where no row is left."""
    for sample, lineage in _content(stores, comparison, proposal):
        label = {} if sample["label"] is None else {"label": sample["label"]}
        yield json_line({"messages": sample["messages"], **label, "fill": lineage})


def _content(stores: Stores, comparison: Comparison, proposal: Fill) -> list[tuple[Row, Row]]:
    """Of each row its sample, and why it is taken."""
    if not proposal.rows:
        raise InputError("There is no row to write: take another pool, or a larger budget.")
    source = stores.runs.manifest(proposal.pool).facts
    chosen = samples_at(stores, proposal.pool, [row.sample for row in proposal.rows])
    grouped = families_run(stores, comparison)
    families = names_by_feature(stores, grouped) if grouped else None
    content: list[tuple[Row, Row]] = []
    for row in proposal.rows:
        sample = chosen[row.sample]
        lineage = {
            "pool": source.dataset,
            "sample": row.sample,
            "fills": row.fills,
            "fires": row.fires,
            "families": None if families is None else of_most(row.fires, families),
            "anchor": comparison.anchor,
            "dataset": comparison.dataset,
            "added": [*comparison.added],
            "threshold": comparison.threshold,
            "role": comparison.role,
            "encoder": source.encoder,
        }
        content.append((sample, lineage))
    return content


class Purpose(NamedTuple):
    """What rows of a pool were chosen for."""

    pool: str
    """Dataset run."""
    anchor: str
    """Measure runs of the anchor and of the dataset that has the gaps."""
    dataset: str
    gaps: list[int]
    """That the rows fill, ascending."""


@remembered_for_good
def purpose_of(stores: Stores, run: str) -> Purpose | None:
    """What the rows of a dataset run were chosen for; None where they were not chosen to fill
    gaps."""
    if kind_of(stores, run) != CHOSEN:
        return None
    metas = map(json.loads, stores.runs.table(run, "samples", ["meta"])["meta"].to_pylist())
    lineages = [meta["fill"] for meta in metas]
    gaps = sorted({gap for lineage in lineages for gap in lineage["fills"]})
    first = lineages[0]
    return Purpose(first["pool"], first["anchor"], first["dataset"], gaps)


def certain_together(stores: Stores, comparison: Comparison) -> Certain:
    """What became of the certain gaps of the dataset alone with what is added to it, as both are
    measured."""
    alone = replace(comparison, added=())
    before = {gap for kind in KINDS for gap in certain_features(stores, alone, kind)}
    after = (before.intersection(certain_features(stores, comparison, kind)) for kind in KINDS)
    return Certain(len(before), *map(len, after))
