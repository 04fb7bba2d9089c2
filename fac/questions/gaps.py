"""The gaps of a comparison, each with its evidence: what is measured of one, and how it looks.

COLUMNS says everything about a column of gaps: what commands write, what lists sort by and how the
pages' tables show it. A new column is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.coverage import BADGES, badge, chance_of_none
from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explained, with_names
from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.memo import remembered_for_good

BELIEF = """
How far a gap can be believed.

**artefact**: the anchor itself barely fires; its highest peak is under 1.1 of the threshold.

**borderline**: with more than 5 % probability a dataset of this size would show none by luck, or
its own nearest miss reaches 90 % of the threshold.

**robust**: neither luck nor a near miss explains it.
"""


class Evidence(NamedTuple):
    """What is measured of the gaps, an entry each, in feature order."""

    feature: np.ndarray
    n_anchor: np.ndarray
    n_dataset: np.ndarray
    tokens_ratio: float
    """Content tokens of the dataset per content token of the anchor; NaN where that has none."""
    chance: np.ndarray
    near: np.ndarray
    """NaN where the level to reach is zero or unknown."""
    strength: np.ndarray
    """The anchor's highest peak over the level to reach."""
    anchor_peak: pa.ChunkedArray
    score: pa.ChunkedArray


@dataclass(frozen=True)
class GapColumn:
    """One column: its figure for every gap, and how the table of gaps shows it."""

    name: str
    title: str
    """Its heading in tables."""

    figure: Callable[[Evidence], Any] | None = None
    """Numbers (NaN for unknown) or texts, an entry for every gap. None: what Cache.described says
    of the feature. Words of thousands of features take longer than their figures, so they are
    looked up for those that are shown or searched."""

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

    def __post_init__(self) -> None:
        if not self.name or not self.title:
            raise InputError(f"A column of gaps has a name and a title, got {self}.")


COLUMNS = (
    GapColumn(
        "feature",
        "#",
        lambda of: of.feature,
        format="%d",
        width=56,
        position=10,
        order="Number",
        ascending=True,
    ),
    GapColumn(
        "name",
        "Name",
        kind="text",
        width=280,
        help="What people wrote, else the preferred explanation, else the tokens it peaks on in "
        "the anchor. Unknown: its explanation may be a guess.",
        position=20,
        sortable=False,
    ),
    GapColumn("label", "Peaks on", kind="text", width=120),
    GapColumn(
        "n_anchor",
        "Anchor",
        lambda of: of.n_anchor,
        format="localized",
        width=66,
        help="Samples of the anchor that show it.",
        position=40,
        order="Most common in the anchor",
    ),
    GapColumn("n_dataset", "Dataset", lambda of: of.n_dataset, format="localized", width=66),
    GapColumn(
        "expected",
        "Expected",
        lambda of: of.n_anchor * of.tokens_ratio,
        format="%.1f",
        width=78,
        help="Samples that would show it here, if this dataset were like the anchor.",
        position=70,
        order="Most expected here",
    ),
    GapColumn(
        "chance",
        "Luck",
        lambda of: of.chance,
        format="percent",
        width=62,
        decimals=3,
        help="Probability that a dataset of this size shows none, by luck alone.",
        position=80,
        order="Least likely by luck",
        ascending=True,
    ),
    GapColumn(
        "near",
        "Near",
        lambda of: of.near,
        format="percent",
        width=62,
        decimals=2,
        help="How close the dataset's own nearest miss comes to firing.",
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
        lambda of: badge(of.chance, of.near, of.strength),
        kind="text",
        width=90,
        help=BELIEF,
        position=50,
    ),
    GapColumn("promotes", "Promotes", kind="text", sortable=False),
    GapColumn(
        "explanation",
        "Explanation",
        kind="text",
        width=200,
        help="The preferred one of each feature.",
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
        position=60,
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
    sort: str = "n_anchor"
    descending: bool = True
    """Gaps with equal or unknown values are in feature order, those without one last."""

    def check(self) -> None:
        """Raises InputError for a column outside sorts() or a badge outside coverage.BADGES."""
        if self.sort not in sorts():
            raise InputError(f"Gaps sort by {', '.join(sorts())}, got {self.sort!r}.")
        if self.badge not in ("any", *BADGES):
            raise InputError(f"A badge is any, {', '.join(BADGES)}, got {self.badge!r}.")


def gap_page(
    stores: Stores,
    comparison: Comparison,
    listing: GapList = GapList(),
    *,
    explain_runs: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Row], int]:
    """One page of F_miss with the evidence for each gap, and how many gaps match. A row holds
    COLUMNS:

    n_anchor     samples of the anchor that show it
    n_dataset    samples of the dataset that do: none, or it were no gap
    expected     samples that would, if the dataset were like the anchor, by content tokens
    chance       probability of none by size alone (coverage.chance_of_none); None without tokens
    near         the dataset's highest pre-activation over the level to reach, the larger of the
                 SAE's own threshold and that of the comparison; None where that is zero or unknown
    anchor_peak  the anchor's highest peak
    badge        coverage.badge of the three
    name         as in explanations.named
    score, and the words label, promotes, explanation, explainer, score_kind
                 as in Cache.features_page, of the first of `explain_runs` that has a text; those
                 that explain the anchor and can be shown where none are named
    """
    listing.check()
    if offset < 0 or limit < 0:
        raise InputError(f"A page starts at 0 or later, got offset {offset}, limit {limit}.")
    runs = tuple(explained(stores, comparison.anchor) if explain_runs is None else explain_runs)
    sae = _sae(stores, comparison.anchor)

    def with_words(table: pa.Table) -> pa.Table:
        if "label" in table.column_names:
            return table
        features = table["feature"].to_numpy()
        words = stores.cache.described(comparison.anchor, features, sae_run=sae, explained=runs)
        for column in COLUMNS:
            if column.figure is None and column.name != "name":
                table = table.append_column(column.name, words[column.name])
        return table

    table, search = _figures(stores, comparison, sae, runs), listing.search.strip()
    if search or listing.sort not in table.column_names:
        table = with_words(table)
    if search or listing.badge != "any":
        table = table.filter(_matching(table, search, listing.badge))
    direction = "descending" if listing.descending else "ascending"
    keys = [(listing.sort, direction), ("feature", "ascending")]
    page = table.take(pc.sort_indices(table, sort_keys=keys).slice(offset, limit))
    rows = with_names(stores, comparison.anchor, with_words(page).to_pylist())
    return [{column.name: row[column.name] for column in COLUMNS} for row in rows], len(table)


def _sae(stores: Stores, anchor: str) -> str | None:
    sae = stores.cache.summary(anchor)["sae_run"]
    return sae if stores.cache.ready(sae) else None


@remembered_for_good
def _figures(
    stores: Stores, comparison: Comparison, sae: str | None, explain_runs: tuple[str, ...]
) -> pa.Table:
    """The figures of every gap, in feature order, from which every page, order and search of the
    list is taken."""
    cache, anchor, dataset = stores.cache, comparison.anchor, comparison.dataset
    threshold, role = comparison.threshold, comparison.role
    missing = coverage(stores, comparison).missing
    n_anchor = cache.support(anchor, threshold, role)[missing]
    measured = cache.evidence(anchor, dataset, sae, missing, role=role, explained=explain_runs)
    # The pre-activation is the dataset's highest over all roles: a miss in another role is near.
    sae_threshold = pc.fill_null(measured["sae_threshold"], 0.0).to_numpy()
    level = np.maximum(sae_threshold, np.float32(threshold))
    reach = pc.fill_null(measured["near_pre"], np.nan).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(level > 0, reach / level, np.nan)
        strength = np.where(level > 0, measured["anchor_peak"].to_numpy() / level, np.inf)
    tokens = [_content_tokens(cache.summary(run), role) for run in (anchor, dataset)]
    evidence = Evidence(
        measured["feature"].to_numpy(),
        n_anchor,
        cache.support(dataset, threshold, role)[missing],
        tokens[1] / tokens[0] if tokens[0] else np.nan,
        chance_of_none(n_anchor, *tokens),
        near,
        strength,
        measured["anchor_peak"],
        measured["score"],
    )
    figures = {c.name: _nullable(c.figure(evidence)) for c in COLUMNS if c.figure is not None}
    return pa.table(figures)


def _nullable(values: Any) -> Any:
    """NaN as null; texts and Arrow columns as they are."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind != "f":
        return pa.array(values, pa.string() if values.dtype.kind in "UO" else None)
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _content_tokens(summary: Row, role: str) -> int:
    """Content tokens that could have fired: of one role, or of all that were measured."""
    if role == EVERY_ROLE:
        return int(summary["content_tokens"])
    return int(summary["content_tokens_by_role"][role])


def _matching(table: pa.Table, search: str, badge: str) -> pa.Array:
    """Which gaps have the badge, and `search` in their label, their promoted tokens, their
    explanation or, as a number, as their id; "#12" is that id alone."""
    has_badge = pa.chunked_array([pa.array(np.ones(len(table), bool))])
    if badge != "any":
        has_badge = pc.equal(table["badge"], badge)
    if not search:
        return has_badge
    digits = search.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1
    matches = pc.equal(table["feature"], number)
    if not search.startswith("#") or number < 0:
        explanation = pc.fill_null(table["explanation"], "")
        for text in (table["label"], pc.binary_join(table["promotes"], " "), explanation):
            matches = pc.or_(matches, pc.match_substring(text, search, ignore_case=True))
    return pc.and_(has_badge, matches)
