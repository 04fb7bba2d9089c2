"""Families of a comparison's gaps: which topics a dataset lacks, rather than which features.

Families are those of the anchor's features (see fac.families); here they are joined with what the
comparison says of each feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fac.config import FamiliesSpec
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, name_of, shown
from fac.questions.explanations import with_names
from fac.questions.firing import support_of
from fac.questions.gap_evidence import BADGES, KINDS, Evidence, evidence_of
from fac.store import Stores
from fac.store.memo import remembered_for_good

UNNAMED = "unnamed"
"""What a family is called whose members have no word in common."""

NAMED = 3
"""Families that the sentence about them names."""


class GapFamilies(NamedTuple):
    """The families that have a gap, and the gaps that have no family."""

    rows: list[Row]
    """Of each: family (its number), name, size (its features that count and that the anchor shows),
    covered (of them in the dataset) and share (covered over size); of its gaps how many are absent
    and under (shown, but too rarely), and how many of all these are certain, possible and artefact;
    and features (its gaps, certain ones first). Those with the most certain gaps first."""

    alone: dict[str, int]
    """Gaps of no family: certain, possible, artefact, and of these all how many are rare: below the
    support that a family asks for."""

    n_whole: int
    """Families without any gap."""

    headline: str
    """Where most of what is certainly lacking lies, in one sentence."""

    note: str
    """What stands alone and what is approximate, in sentences."""


def families_spec(comparison: Comparison) -> FamiliesSpec:
    """What groups the anchor's features as the comparison counts them."""
    return FamiliesSpec(
        measure=comparison.anchor, threshold=comparison.threshold, role=comparison.role
    )


def families_run(stores: Stores, comparison: Comparison) -> str | None:
    """The newest run that did; None while there is none."""
    spec = families_spec(comparison)
    return next((m.run for m in stores.runs.list(spec.step) if m.spec == spec), None)


@remembered_for_good
def gap_families(stores: Stores, comparison: Comparison, run: str) -> GapFamilies:
    """The families of a run of `families_spec` with what the comparison says of them."""
    gaps, family = evidence_of(stores, comparison), _family_of(stores, run)
    counted = shown(stores, comparison) & (family >= 0)
    in_dataset = support_of(stores, comparison.runs, *comparison.at) > 0
    names = stores.runs.table(run, "names")["name"].to_pylist()
    size = np.bincount(family[counted], minlength=len(names))
    covered = np.bincount(family[counted & in_dataset], minlength=len(names))
    gap_family, badges = family[gaps.feature], gaps.badges()

    def counts(which: np.ndarray) -> np.ndarray:
        return np.bincount(gap_family[(gap_family >= 0) & which], minlength=len(names))

    by_kind = {"absent": counts(gaps.kinds() == 0), "under": counts(gaps.kinds() == 1)}
    by_badge = {badge: counts(badges == number) for number, badge in enumerate(BADGES)}
    with_gap = np.flatnonzero(sum(by_kind.values()))
    certain, possible = (by_badge[badge][with_gap] for badge in BADGES[:2])
    order = np.lexsort((with_gap, -possible, -certain))
    members = _by_family(gaps, gap_family)
    rows: list[Row] = [
        {
            "family": number,
            "name": names[number] or UNNAMED,
            "size": int(size[number]),
            "covered": int(covered[number]),
            "share": float(covered[number] / size[number]),
            **{name: int(n[number]) for name, n in {**by_kind, **by_badge}.items()},
            "features": members[number],
        }
        for number in with_gap[order].tolist()
    ]
    single = gap_family < 0
    alone = {
        badge: int((badges[single] == number).sum()) for number, badge in enumerate(BADGES)
    } | {"rare": int((gaps.n_anchor[single] < stores.runs.manifest(run).spec.min_support).sum())}
    n_whole = int((size > 0).sum()) - len(rows)
    return GapFamilies(
        rows, alone, n_whole, _headline(rows, alone), _note(stores, comparison, run, rows, alone)
    )


def gaps_of_family(stores: Stores, comparison: Comparison, row: Row) -> list[Row]:
    """The gaps of a row of `gap_families`, certain ones first: feature, name, badge, kind, n_anchor
    and n_dataset."""
    gaps = evidence_of(stores, comparison)
    at = np.searchsorted(gaps.feature, np.array(row["features"]))
    badges, kinds = gaps.badges()[at], gaps.kinds()[at]
    rows: list[Row] = [
        {
            "feature": int(gaps.feature[i]),
            "badge": BADGES[badge],
            "kind": KINDS[kind],
            "n_anchor": int(gaps.n_anchor[i]),
            "n_dataset": int(gaps.n_dataset[i]),
        }
        for i, badge, kind in zip(at.tolist(), badges.tolist(), kinds.tolist(), strict=True)
    ]
    return with_names(stores, comparison.anchor, rows)


def _family_of(stores: Stores, run: str) -> np.ndarray:
    """The family of each feature, -1 for none: int32 `[n_features]`."""
    measure = stores.runs.manifest(run).inputs.measure
    family = np.full(stores.cache.summary(measure)["n_features"], -1, np.int32)
    table = stores.runs.table(run, "families")
    family[table["feature"].to_numpy()] = table["family"].to_numpy()
    return family


def _by_family(gaps: Evidence, family: np.ndarray) -> dict[int, list[int]]:
    """The gaps of each family, certain ones first."""
    members: dict[int, list[int]] = {}
    for i in np.argsort(-gaps.certainty(), kind="stable"):
        members.setdefault(int(family[i]), []).append(int(gaps.feature[i]))
    return members


def _headline(rows: list[Row], alone: dict[str, int]) -> str:
    certain = [row for row in rows if row["certain"]]
    if not certain:
        return ""
    total = sum(row["certain"] for row in certain)
    named = [row["name"] for row in certain if row["name"] != UNNAMED][:NAMED]
    most = f"; the largest: {', '.join(f'“{name}”' for name in named)}" if named else ""
    families = "one family" if len(certain) == 1 else f"{len(certain):,} families"
    of = _gaps(total + alone["certain"], "certain ")
    return f"{total:,} of {of} {'lies' if total == 1 else 'lie'} in {families}{most}."


def _note(
    stores: Stores, comparison: Comparison, run: str, rows: list[Row], alone: dict[str, int]
) -> str:
    manifest: Any = stores.runs.manifest(run)
    anchor, facts, spec = name_of(stores, comparison.anchor), manifest.facts, manifest.spec
    notes = []
    if not facts.n_families:
        often = f"{spec.min_support:,} samples or more"
        notes.append(
            f"{anchor} has no families: of {facts.n_features:,} features that fire in {often}, no "
            "two fire together more than chance makes them."
        )
    elif not rows:
        notes.append("No gap belongs to a family.")
    if n := sum(alone[badge] for badge in BADGES):
        rare = ""
        if alone["rare"]:
            rare = f", {alone['rare']:,} because fewer than {spec.min_support:,} samples fire them"
        notes.append(f"{_gaps(n)} {'stands' if n == 1 else 'stand'} alone{rare}.")
    if facts.nearest:
        notes.append(
            f"Each of {facts.n_features:,} features was compared with the {facts.nearest:,} that "
            "are most like it alone, so a large family may be in parts."
        )
    return " ".join(notes)


def _gaps(n: int, which: str = "") -> str:
    return f"{n:,} {which}gap{'' if n == 1 else 's'}"
