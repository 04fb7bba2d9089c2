"""Families of a comparison's gaps: which topics a dataset lacks, rather than which features.

Families are those of the anchor's features (see fac.families); here they are joined with what the
comparison says of each feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fac import review
from fac.config import FamiliesSpec
from fac.errors import InputError
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


PAIRS_READ = 2_000_000
"""Of gaps and samples of the anchor in which they fire, to see which gap stands for its family: of
a larger anchor the first samples."""

TOGETHER = 64
"""Features of neighbouring numbers, which are read together where one of them is a gap."""


class GapFamilies(NamedTuple):
    """The families that have a gap, and the gaps that have no family."""

    rows: list[Row]
    """Of each: family (its number), name, named_by (who calls it so; "" where its words do), size
    (its features that count and that the anchor shows), covered (of them in the dataset) and share
    (covered over size); of its gaps how many are absent and under (shown, but too rarely), and how
    many of all these are certain, possible and artefact; and features (its gaps, certain ones
    first). Those with the most certain gaps first."""

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


def gap_families(stores: Stores, comparison: Comparison, run: str) -> GapFamilies:
    """The families of a run of `families_spec` with what the comparison says of them, and as people
    call them."""
    counted, alone, n_whole = _counted(stores, comparison, run)
    by_number = family_names(stores, run)
    rows: list[Row] = []
    for row in counted:
        name, by = by_number[row["family"]]
        rows.append({"family": row["family"], "name": name, "named_by": by, **row})
    note = _note(stores, comparison, run, rows, alone)
    return GapFamilies(rows, alone, n_whole, _headline(rows, alone), note)


@remembered_for_good
def _counted(
    stores: Stores, comparison: Comparison, run: str
) -> tuple[list[Row], dict[str, int], int]:
    """Of GapFamilies: the rows without names, `alone` and `n_whole`."""
    gaps, family = evidence_of(stores, comparison), family_of(stores, run)
    counted = shown(stores, comparison) & (family >= 0)
    in_dataset = support_of(stores, comparison.runs, *comparison.at) > 0
    n = stores.runs.manifest(run).facts.n_families
    size = np.bincount(family[counted], minlength=n)
    covered = np.bincount(family[counted & in_dataset], minlength=n)
    gap_family, badges = family[gaps.feature], gaps.badges()

    def counts(which: np.ndarray) -> np.ndarray:
        return np.bincount(gap_family[(gap_family >= 0) & which], minlength=n)

    by_kind = {"absent": counts(gaps.kinds() == 0), "under": counts(gaps.kinds() == 1)}
    by_badge = {badge: counts(badges == number) for number, badge in enumerate(BADGES)}
    with_gap = np.flatnonzero(sum(by_kind.values()))
    certain, possible = (by_badge[badge][with_gap] for badge in BADGES[:2])
    order = np.lexsort((with_gap, -possible, -certain))
    members = _by_family(gaps, gap_family)
    rows: list[Row] = [
        {
            "family": number,
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
    return rows, alone, int((size > 0).sum()) - len(rows)


def family_names(stores: Stores, run: str) -> list[review.GivenName]:
    """What each family of a run is called, and by whom; by "" where nobody named it: its words, or
    UNNAMED."""
    names, members = _words_and_members(stores, run)
    measure = stores.runs.manifest(run).inputs.measure
    by_person = review.given_names(stores.decisions, measure, members)
    return [
        by_person.get(number, review.GivenName(name or UNNAMED, ""))
        for number, name in enumerate(names)
    ]


@remembered_for_good
def _words_and_members(stores: Stores, run: str) -> tuple[list[str], dict[int, list[int]]]:
    """The common words of each family, "" where there are none, and its features, ascending."""
    table = stores.runs.table(run, "families")
    members: dict[int, list[int]] = {}
    for number, feature in zip(*(table[c].to_pylist() for c in ("family", "feature")), strict=True):
        members.setdefault(number, []).append(feature)
    return stores.runs.table(run, "names")["name"].to_pylist(), members


def every_family(stores: Stores, run: str) -> list[Row]:
    """All families of a run: family, name, named_by and features, which are all of its members."""
    _, members = _words_and_members(stores, run)
    return [
        {"family": number, "name": name, "named_by": by, "features": members[number]}
        for number, (name, by) in enumerate(family_names(stores, run))
    ]


def names_by_feature(stores: Stores, run: str) -> dict[int, str]:
    """What the family of each feature is called that has one."""
    return {
        feature: row["name"] for row in every_family(stores, run) for feature in row["features"]
    }


def call_family(stores: Stores, run: str, number: int, name: str, reviewer: str) -> None:
    """Records what somebody calls a family of a run: as long as its members stay the same, whatever
    the threshold. Raises InputError for what can be no name."""
    measure = stores.runs.manifest(run).inputs.measure
    members = _words_and_members(stores, run)[1][number]
    review.call_family(stores.decisions, measure, members, name, reviewer)


def take_name_back(stores: Stores, run: str, number: int, reviewer: str) -> None:
    """What was said before stands again, or else its words. Raises InputError where this person
    gave it no name."""
    measure = stores.runs.manifest(run).inputs.measure
    members = _words_and_members(stores, run)[1][number]
    review.take_name_back(stores.decisions, measure, members, reviewer)


class FamilyChange(NamedTuple):
    """What became of the families between two comparisons with one anchor."""

    rows: list[Row]
    """Of each family of which more, or fewer, features are shown: family, name, named_by, size (its
    features that count and that the anchor shows), before and after (how many of them are shown)
    and change. What gained most first."""

    headline: str
    """The families that were filled most, in one sentence; "" where none gained."""


def families_changed(
    stores: Stores, before: Comparison, after: Comparison, run: str
) -> FamilyChange:
    """Which families of a run of `families_spec` a change filled, and which it emptied."""
    names = family_names(stores, run)
    rows: list[Row] = []
    for number, size, was, now in _shown_of_each(stores, before, after, run):
        name, by = names[number]
        about: Row = {"family": number, "name": name, "named_by": by, "size": size}
        rows.append({**about, "before": was, "after": now, "change": now - was})
    return FamilyChange(rows, _filled_most([row for row in rows if row["change"] > 0]))


@remembered_for_good
def _shown_of_each(
    stores: Stores, before: Comparison, after: Comparison, run: str
) -> list[tuple[int, int, int, int]]:
    """Of each family that changed: its number, size, features shown before and after."""
    family = family_of(stores, run)
    counted = shown(stores, before) & (family >= 0)
    n = stores.runs.manifest(run).facts.n_families
    size, was, now = (
        np.bincount(family[counted & which], minlength=n)
        for which in (
            counted,
            support_of(stores, before.runs, *before.at) > 0,
            support_of(stores, after.runs, *after.at) > 0,
        )
    )
    changed = np.flatnonzero(was != now)
    order = changed[np.lexsort((changed, was[changed] - now[changed]))]
    return [(int(i), int(size[i]), int(was[i]), int(now[i])) for i in order]


def _filled_most(rows: list[Row]) -> str:
    if not rows:
        return ""
    named = [row for row in rows if row["name"] != UNNAMED] or rows
    words = ", ".join(
        f"“{row['name']}” {row['before']:,} → {row['after']:,} of {row['size']:,}"
        for row in named[:NAMED]
    )
    families = "One family shows" if len(rows) == 1 else f"{len(rows):,} families show"
    return f"{families} more than before: {words}{' and others' if len(named) > NAMED else ''}."


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


def families_called(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Those of the rows of `gap_families` that these are, each once: by number, by name whatever
    its case, or by a word that is in the name of one alone.

    Raises InputError for what is none of them, or several.
    """
    chosen: dict[int, Row] = {}
    for name in names:
        text = name.strip().casefold()
        by_number = [row for row in rows if str(row["family"]) == text]
        by_name = [row for row in rows if row["name"].casefold() == text]
        by_word = [row for row in rows if text in row["name"].casefold().split(", ")]
        matches = by_number or by_name or by_word
        if not matches:
            raise InputError(
                f"No family with a gap is called {name[:80]!r}: `fac families` lists them with "
                "their numbers."
            )
        if len(matches) > 1:
            numbers = ", ".join(str(row["family"]) for row in matches[:8])
            more = " and more" if len(matches) > 8 else ""
            raise InputError(
                f"{len(matches):,} families have {name[:80]!r} in their name: give a number, one "
                f"of {numbers}{more}."
            )
        chosen |= {row["family"]: row for row in matches}
    return [*chosen.values()]


def gaps_to_fill(stores: Stores, comparison: Comparison, rows: Sequence[Row]) -> list[int]:
    """The gaps of rows of `gap_families` that can be believed, certain ones first and of these what
    is absent: what the anchor itself barely shows is left out.

    Raises InputError where that leaves none.
    """
    gaps = evidence_of(stores, comparison)
    members = {feature for row in rows for feature in row["features"]}
    believed = np.isin(gaps.feature, [*members]) & (gaps.badges() < BADGES.index("artefact"))
    order = np.argsort(-gaps.certainty()[believed], kind="stable")
    features: list[int] = gaps.feature[believed][order].tolist()
    if not features:
        names = ", ".join(f"“{row['name']}”" for row in rows[:NAMED])
        raise InputError(
            f"All gaps of {names} are ones that the anchor itself barely shows: choose another "
            "family."
        )
    return features


def few_of_each(
    stores: Stores, comparison: Comparison, run: str, gaps: Sequence[int], n: int
) -> list[int]:
    """Of these gaps at most `n` of each family, which stand for the others; gaps of no family stay.
    In their order.

    What stands for a family is chosen greedily among its gaps of the best badge that it has: the
    next is the one by which the most of its gaps are fired by a sample of the anchor that fires one
    of those chosen, on average over that gap's samples. What a sample fires besides is counted like
    anything else, so some of the others are filled along with it.
    """
    family = family_of(stores, run)
    by_family: dict[int, list[int]] = {}
    for gap in gaps:
        by_family.setdefault(int(family[gap]), []).append(gap)
    stay = {*by_family.pop(-1, ())}
    large = {number: each for number, each in by_family.items() if len(each) > n}
    stay |= {gap for number, each in by_family.items() if number not in large for gap in each}
    if large:
        stay |= {*_standing_for(stores, comparison, tuple(map(tuple, large.values())), n)}
    return [gap for gap in gaps if gap in stay]


@remembered_for_good
def _standing_for(
    stores: Stores, comparison: Comparison, groups: tuple[tuple[int, ...], ...], n: int
) -> list[int]:
    """Of each group of gaps the `n` that stand for it."""
    gaps = evidence_of(stores, comparison)
    badge = dict(zip(gaps.feature.tolist(), gaps.badges().tolist(), strict=True))
    cache, anchor, at = stores.cache, comparison.anchor, comparison.at
    support = cache.support(anchor, *at)
    group_of = np.full(len(support), -1)
    for number, group in enumerate(groups):
        group_of[[*group]] = number
    blocks = np.unique(np.flatnonzero(group_of >= 0) // TOGETHER) * TOGETHER
    ranges = [(block, block + TOGETHER) for block in blocks.tolist()]
    n_samples, n_pairs = len(cache.tokens_by_sample(anchor)), int(support[group_of >= 0].sum())
    beyond = max(n_samples * PAIRS_READ // max(n_pairs, PAIRS_READ), 1)
    feature, sample = cache.pairs(anchor, *at, ranges=ranges, samples=(0, beyond))
    order = np.argsort(group_of[feature], kind="stable")
    feature, sample = feature[order], sample[order]
    starts = np.searchsorted(group_of[feature], np.arange(len(groups) + 1))
    chosen: list[int] = []
    for number, group in enumerate(groups):
        part = slice(starts[number], starts[number + 1])
        badges = [badge.get(gap, len(BADGES)) for gap in group]
        best = [gap for gap, each in zip(group, badges, strict=True) if each == min(badges)]
        chosen += _central(group, best, feature[part], sample[part], beyond, n)
    return chosen


def _central(
    group: Sequence[int],
    candidates: Sequence[int],
    feature: np.ndarray,
    sample: np.ndarray,
    n_samples: int,
    n: int,
) -> list[int]:
    """The `n` candidates that bring the most of a group along, greedily, of equals the first;
    `feature` and `sample` are which sample fires which gap of the group."""
    column = {gap: place for place, gap in enumerate(group)}
    columns = np.array([column[gap] for gap in feature.tolist()], np.int64)
    share = np.zeros((len(candidates), len(group)))
    for place, gap in enumerate(candidates):
        fires = np.zeros(n_samples, bool)
        fires[sample[feature == gap]] = True
        together = np.bincount(columns[fires[sample]], minlength=len(group))
        share[place] = together / max(fires.sum(), 1)
        share[place, column[gap]] = 1
    chosen: list[int] = []
    reached = np.zeros(len(group))
    for _ in range(min(n, len(candidates))):
        adds = np.maximum(share - reached, 0).sum(axis=1)
        adds[[candidates.index(gap) for gap in chosen]] = -1
        best = int(adds.argmax())
        chosen.append(candidates[best])
        reached = np.maximum(reached, share[best])
    return chosen


@remembered_for_good
def family_of(stores: Stores, run: str) -> np.ndarray:
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
