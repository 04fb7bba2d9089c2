"""Lists of the gaps of a comparison, each with its evidence, and how they look.

COLUMNS says everything about a column of gaps: what commands write, what lists sort by and how the
pages' tables show it. A new column is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison
from fac.questions.explanations import explained, names
from fac.questions.gap_evidence import (
    BADGES,
    BELIEF,
    KINDS,
    Basis,
    Evidence,
    basis_of,
    evidence_of,
    reason,
    sae_of,
)
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.uncertainty import ratio_interval


@dataclass(frozen=True)
class GapColumn:
    """One column: its figure for every gap, and how the table of gaps shows it."""

    name: str
    title: str
    """Its heading in tables."""

    figure: Callable[[Evidence], Any] | None = None
    """Numbers (NaN for unknown) or texts, an entry for every gap."""

    detail: Callable[[pa.Table, Basis], Any] | None = None
    """The same from the figures, only for gaps that are shown, since it takes longer. Neither: what
    Cache.described says of the feature, looked up for those that are shown or searched."""

    kind: str = "number"
    """number or text."""

    format: str | None = None
    width: int | None = None
    help: str | None = None
    decimals: int | None = None
    """Beyond which a value is rounded before it is shown."""

    position: int | None = None
    """Where it stands in the table of gaps, lowest first; None: not there."""

    explains: bool = False
    """Stands there only where features are explained."""

    sortable: bool = True
    order: str = ""
    """What a list sorted by it is called; "" where people are not offered that."""
    ascending: bool = False
    """Which way that list goes."""

    is_order: bool = False
    """Lists are sorted by it and nothing else: no row has it."""

    def __post_init__(self) -> None:
        if not self.name or not self.title:
            raise InputError(f"A column of gaps has a name and a title, got {self}.")


def _reasons(table: pa.Table, basis: Basis) -> pa.Array:
    return pa.array([reason(row, basis) for row in table.to_pylist()], pa.string())


def _bound(low: bool) -> Callable[[pa.Table, Basis], Any]:
    """One end of the 95 % interval of the rate ratio."""

    def bound(table: pa.Table, basis: Basis) -> np.ndarray:
        if not basis.is_test:
            return np.full(len(table), np.nan)
        interval = ratio_interval(
            table["n_anchor"].to_numpy(),
            table["n_dataset"].to_numpy(),
            anchor_tokens=basis.anchor_tokens,
            dataset_tokens=basis.dataset_tokens,
        )
        return interval[not low]

    return bound


COLUMNS = (
    GapColumn(
        "certainty",
        "Certainty",
        lambda of: of.certainty(),
        order="Certain first",
        is_order=True,
    ),
    GapColumn(
        "feature",
        "#",
        lambda of: of.feature,
        format="%d",
        width=52,
        position=10,
        order="Number",
        ascending=True,
    ),
    GapColumn(
        "name",
        "Name",
        kind="text",
        width=125,
        help="What people wrote, else the preferred explanation, else, or where that is long, the "
        "tokens it peaks on in the anchor. Unknown: its explanation may be a guess.",
        position=20,
        sortable=False,
    ),
    GapColumn("label", "Peaks on", kind="text", width=120),
    GapColumn(
        "kind",
        "Kind",
        lambda of: pa.array(KINDS).take(pa.array(of.kinds())),
        kind="text",
        width=130,
        help="Absent: no sample of the dataset fires it. Under-represented: some do, but "
        "significantly fewer than expected.",
    ),
    GapColumn(
        "n_anchor",
        "Anchor",
        lambda of: of.n_anchor,
        format="localized",
        width=66,
        help="Samples of the anchor that show it.",
        position=70,
        order="Most common in the anchor",
    ),
    GapColumn(
        "n_dataset",
        "Here",
        lambda of: of.n_dataset,
        format="localized",
        width=56,
        help="Samples of this dataset that show it; 0 where it is absent.",
        position=40,
        order="Most common here",
    ),
    GapColumn(
        "expected",
        "Expected",
        lambda of: of.expected,
        format="%.1f",
        width=76,
        help="Samples that would show it here, if this dataset were like the anchor.",
        position=50,
        order="Most expected here",
    ),
    GapColumn(
        "ratio",
        "Ratio",
        lambda of: of.ratio,
        format="percent",
        width=62,
        decimals=3,
        help="How often it fires here per content token, of how often it does in the anchor.",
        position=60,
        order="Lowest ratio",
        ascending=True,
    ),
    GapColumn("ratio_low", "Ratio from", detail=_bound(low=True), sortable=False),
    GapColumn("ratio_high", "Ratio to", detail=_bound(low=False), sortable=False),
    GapColumn(
        "p",
        "p",
        lambda of: of.p,
        format="%.1e",
        width=70,
        help="Probability of so few samples or fewer, if this dataset were like the anchor.",
    ),
    GapColumn(
        "near",
        "Near",
        lambda of: of.near,
        format="percent",
        width=62,
        decimals=2,
        help="How close an absent one comes: the highest pre-activation in this dataset, of the "
        "threshold in use.",
        position=90,
        order="Nearest miss",
    ),
    GapColumn(
        "anchor_peak",
        "Anchor's peak",
        lambda of: of.anchor_peak,
        format="%.2f",
        width=70,
        order="Strongest in the anchor",
    ),
    GapColumn(
        "badge",
        "Belief",
        lambda of: pa.array(BADGES).take(pa.array(of.badges())),
        kind="text",
        width=68,
        help=BELIEF,
        position=30,
    ),
    GapColumn(
        "reason",
        "Why",
        detail=_reasons,
        kind="text",
        width=400,
        help="Why it has its badge.",
        sortable=False,
    ),
    GapColumn("promotes", "Promotes", kind="text", sortable=False),
    GapColumn(
        "explanation",
        "Explanation",
        kind="text",
        width=230,
        help="The preferred one of each feature, as it stands; of a long one, that ends in …, the "
        "rest is beside the table once its row is chosen.",
        position=25,
        explains=True,
        sortable=False,
    ),
    GapColumn("explainer", "Explainer", kind="text", sortable=False),
    GapColumn(
        "score",
        "Score",
        lambda of: of.score,
        format="%.2f",
        width=66,
        help="Of the explanation, on held-out samples: AUROC or detection, 0.5 is guessing.",
        position=80,
        explains=True,
        order="Best explained",
    ),
    GapColumn("score_kind", "Kind of score", kind="text", sortable=False),
)
"""In the order in which commands write them."""


def sorts() -> list[str]:
    """The columns that lists of gaps can be sorted by."""
    return [column.name for column in COLUMNS if column.sortable]


def orders() -> dict[str, GapColumn]:
    """What people are offered to sort by, in that order: a feature's number says least."""
    offered = [column for column in COLUMNS if column.order]
    return {c.name: c for c in sorted(offered, key=lambda column: column.name == "feature")}


def shown_columns(*, explained: bool) -> list[str]:
    """The columns of the table of gaps, left to right."""
    columns = [c for c in COLUMNS if c.position is not None and (explained or not c.explains)]
    return [column.name for column in sorted(columns, key=lambda column: column.position or 0)]


@dataclass(frozen=True)
class GapList:
    """Which gaps are listed, and in what order."""

    search: str = ""
    """What Cache.features_page finds by it."""

    badge: str = "any"
    sort: str = "certainty"
    descending: bool = True
    """Gaps with equal or unknown values are in feature order, those without one last."""

    kind: str = "any"

    def check(self) -> None:
        """Raises InputError for a column outside sorts(), a badge outside BADGES or a kind outside
        KINDS."""
        if self.sort not in sorts():
            raise InputError(f"Gaps sort by {', '.join(sorts())}, got {self.sort!r}.")
        if self.badge not in ("any", *BADGES):
            raise InputError(f"A badge is any, {', '.join(BADGES)}, got {self.badge!r}.")
        if self.kind not in ("any", *KINDS):
            raise InputError(f"A kind of gap is any, {', '.join(KINDS)}, got {self.kind!r}.")


def gap_page(
    stores: Stores,
    comparison: Comparison,
    listing: GapList = GapList(),
    *,
    explain_runs: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Row], int]:
    """The rows of `gap_table`, and how many gaps match."""
    table, n_matching = gap_table(
        stores, comparison, listing, explain_runs=explain_runs, offset=offset, limit=limit
    )
    return table.to_pylist(), n_matching


def gap_table(
    stores: Stores,
    comparison: Comparison,
    listing: GapList = GapList(),
    *,
    explain_runs: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[pa.Table, int]:
    """One page of the gaps with the evidence for each, and how many gaps match. Its columns are
    COLUMNS:

    kind         absent (of F_miss) or under-represented
    n_anchor     samples of the anchor that show it
    n_dataset    samples of the dataset, with what is added to it, that do
    expected     samples that would, if the dataset were like the anchor, by content tokens
    ratio, ratio_low, ratio_high
                 rate in the dataset over rate in the anchor, by content tokens, and its interval
    p            of so few samples or fewer (uncertainty.gap_test); all five null without content
                 tokens on both sides
    near         the dataset's highest peak or pre-activation over the level to reach, the larger of
                 the SAE's own threshold and that of the comparison: at most 1, which a top-k SAE
                 may leave out; null where the level is zero, where nothing is known, or it fires
    anchor_peak  the anchor's highest peak
    badge        one of BADGES, and its reason as a sentence
    name         as in explanations.named
    score, and the words label, promotes, explanation, explainer, score_kind
                 as in Cache.features_page, of the first of `explain_runs` that has a text; those
                 that explain the anchor and can be shown where none are named
    """
    listing.check()
    if offset < 0 or limit < 0:
        raise InputError(f"A page starts at 0 or later, got offset {offset}, limit {limit}.")
    runs = tuple(explained(stores, comparison.anchor) if explain_runs is None else explain_runs)
    sae = sae_of(stores, comparison.anchor)

    def with_words(table: pa.Table) -> pa.Table:
        if "label" in table.column_names:
            return table
        features = table["feature"].to_numpy()
        words = stores.cache.described(comparison.anchor, features, sae_run=sae, explained=runs)
        for column in COLUMNS:
            if column.figure is None and column.detail is None and column.name != "name":
                table = table.append_column(column.name, words[column.name])
        return table

    table, search = _figures(stores, comparison, sae, runs), listing.search.strip()
    if (search and _id_in(search) is None) or listing.sort not in table.column_names:
        table = with_words(table)
    table = table.filter(_matching(table, search, badge=listing.badge, kind=listing.kind))
    direction = "descending" if listing.descending else "ascending"
    keys = [(listing.sort, direction), ("feature", "ascending")]
    page = with_words(table.take(pc.sort_indices(table, sort_keys=keys).slice(offset, limit)))
    basis = basis_of(stores, comparison)
    for column in COLUMNS:
        if column.detail is not None:
            page = page.append_column(column.name, _nullable(column.detail(page, basis)))
    features = page["feature"].to_pylist()
    by_feature = names(stores, comparison.anchor, features)
    page = page.append_column("name", pa.array(map(by_feature.get, features), pa.string()))
    return page.select([column.name for column in COLUMNS if not column.is_order]), len(table)


@remembered_for_good
def _figures(
    stores: Stores, comparison: Comparison, sae: str | None, explain_runs: tuple[str, ...]
) -> pa.Table:
    """The figures of every gap, in feature order, from which every page, order and search of the
    list is taken."""
    gaps = evidence_of(stores, comparison)
    gaps = gaps._replace(score=stores.cache.scores(explain_runs, gaps.feature))
    figures = {c.name: _nullable(c.figure(gaps)) for c in COLUMNS if c.figure is not None}
    return pa.table({**figures, "strength": gaps.strength})


def _nullable(values: Any) -> Any:
    """NaN as null; texts and Arrow columns as they are."""
    if not isinstance(values, np.ndarray):
        return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if values.dtype.kind != "f":
        return pa.array(values, pa.string() if values.dtype.kind in "UO" else None)
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _matching(table: pa.Table, search: str, *, badge: str, kind: str) -> pa.Array:
    """Which gaps have the badge and the kind, and `search` in their label, their promoted tokens,
    their explanation or, as a number, as their id; "#12" is that id alone."""
    matches = pa.chunked_array([pa.array(np.ones(len(table), bool))])
    for column, value in (("badge", badge), ("kind", kind)):
        if value != "any":
            matches = pc.and_(matches, pc.equal(table[column], value))
    if not search:
        return matches
    if (number := _id_in(search)) is not None:
        return pc.and_(matches, pc.equal(table["feature"], number))
    is_number = search.isascii() and search.isdigit() and len(search) < 10
    contains = pc.equal(table["feature"], int(search) if is_number else -1)
    explanation = pc.fill_null(table["explanation"], "")
    for text in (table["label"], pc.binary_join(table["promotes"], " "), explanation):
        contains = pc.or_(contains, pc.match_substring(text, search, ignore_case=True))
    return pc.and_(matches, contains)


def _id_in(search: str) -> int | None:
    """12 of "#12"; None where a search may mean anything else."""
    digits = search.removeprefix("#")
    is_id = search.startswith("#") and digits.isascii() and digits.isdigit() and len(digits) < 10
    return int(digits) if is_id else None
