"""What a dataset lacks, and what to do about it, in the two sentences that people read first."""

from __future__ import annotations

import math
from typing import NamedTuple

from fac.questions.comparison import (
    Certainty,
    Comparison,
    certainty,
    clear_firing,
    coverage,
    growth_of,
)
from fac.questions.gap_evidence import (
    BADGES,
    KINDS,
    Basis,
    GapCounts,
    basis_of,
    gap_counts,
    gap_features,
    smallest_certain,
)
from fac.questions.gaps import GapList, gap_page
from fac.questions.relevance import EVERY_FEATURE
from fac.schema import EVERY_ROLE, CoverageResult
from fac.store import Stores

NAMED = 3
"""Gaps that the headline names."""

FEW = 20
"""Features so few that each of them moves coverage by five points or more."""


class Outlook(NamedTuple):
    """Sentences about one comparison; texts of datasets stand in them as they are."""

    headline: str
    """How much is covered, what was to be expected, and what is certain to be lacking."""

    advice: str
    """Whether chance gives as much, why nothing is certain, where nothing is, and what to do."""

    counts: GapCounts


def outlook(stores: Stores, comparison: Comparison) -> Outlook:
    """What is lacking and what to do. Raises InputError when the runs cannot be compared."""
    result, counts = coverage(stores, comparison), gap_counts(stores, comparison)
    basis, names = basis_of(stores, comparison), _Names.of(stores, comparison)
    if nothing := _nothing_to_say(stores, comparison, result, basis, names):
        return Outlook(*nothing, counts)
    lacks = _lacks(stores, comparison, result, counts)
    tells = result.n_anchor > 1 and result.n_missing > 0
    expected, chance = "", ""
    if tells:
        figures = certainty(stores, comparison)
        expected = _expected(figures, basis, names)
        chance = _about_chance(figures, basis, counts)
    headline = f"{names.dataset} {_covers(stores, comparison, result, names)}{expected}: {lacks}"
    advice = f"{chance}{_advice(stores, comparison, result, counts, basis, names)}"
    return Outlook(headline, advice, counts)


class _Names(NamedTuple):
    anchor: str
    dataset: str
    """With what is added."""
    fires: str
    """What the anchor does with the features that count: clearly, or above a threshold."""
    where: str
    relevant: str
    """What makes a feature count."""

    @classmethod
    def of(cls, stores: Stores, comparison: Comparison) -> _Names:
        anchor, threshold = comparison.anchor, comparison.threshold
        runs = " with ".join(str(stores.cache.summary(run)["name"]) for run in comparison.runs)
        is_clear = bool(threshold) and math.isclose(threshold, clear_firing(stores, anchor))
        where = f" above {threshold:g}" if threshold and not is_clear else ""
        if comparison.min_support > 1:
            where += f" in {comparison.min_support:,} samples or more"
        if comparison.role != EVERY_ROLE:
            where += f" in tokens of the {comparison.role}"
        name, judge_run = comparison.relevance.name, comparison.relevance.run
        relevant = f" relevant for {name}" if judge_run else f" listed in {name}"
        return cls(
            str(stores.cache.summary(anchor)["name"]),
            runs,
            "clearly fires" if is_clear else "fires",
            where,
            "" if name == EVERY_FEATURE else relevant,
        )


def _nothing_to_say(
    stores: Stores,
    comparison: Comparison,
    result: CoverageResult,
    basis: Basis,
    names: _Names,
) -> tuple[str, str] | None:
    """Headline and advice where there is nothing to be compared."""
    whose = "" if comparison.role == EVERY_ROLE else f" of the {comparison.role}"
    if not basis.anchor_tokens and not result.n_anchor:
        return (
            f"{names.anchor} has no content tokens{whose}, so there is nothing to cover.",
            "Take another role or another anchor.",
        )
    if not result.n_anchor:
        return (
            f"{names.anchor} {names.fires} no {'' if names.relevant else 'relevant '}feature"
            f"{names.relevant}{names.where}, so there is nothing to cover.",
            f"Take {'a lower threshold or ' if comparison.threshold else ''}a broader anchor, or "
            "let more features count as relevant.",
        )
    if comparison.anchor in comparison.runs:
        return (
            f"{names.dataset} contains {names.anchor}, the anchor it is compared with, so it lacks "
            "nothing.",
            "Compare it with another anchor, or another dataset with this one.",
        )
    if not basis.dataset_tokens:
        return (
            f"{names.dataset} has no content tokens{whose}: it "
            f"{_covers(stores, comparison, result, names)}, and no gap is certain.",
            "Take another role, or look at what was read from its file on the Datasets page.",
        )
    return None


def _counted(result: CoverageResult, names: _Names) -> str:
    """The features that count, such as: 7,244 features that demo-anchor clearly fires."""
    n = result.n_anchor
    features = f"feature{'s'[: n != 1]}{names.relevant}"
    return f"{n:,} {features} that {names.anchor} {names.fires}{names.where}"


def _covers(stores: Stores, comparison: Comparison, result: CoverageResult, names: _Names) -> str:
    counted = _counted(result, names)
    if result.n_anchor == 1:
        return f"{'lacks' if result.n_missing else 'shows'} the {counted.replace('1 ', 'one ', 1)}"
    if not result.n_missing:
        return f"covers all {counted}"
    interval = certainty(stores, comparison).interval
    width = ""
    if interval.high - interval.low > 0.001:
        width = f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    covered = f"{percent(result.fac)}{width}" if result.n_covered else "none"
    return f"covers {covered} of the {counted}"


def _expected(figures: Certainty, basis: Basis, names: _Names) -> str:
    """How coverage compares with random text of the anchor, as long as the dataset or, where that
    is longer than half of the anchor, parts of it with parts as long as that."""
    yardstick = figures.yardstick
    if math.isnan(yardstick.median) or math.isnan(yardstick.share):
        return ""
    if yardstick.against == 0:
        return f", where random text of its size would cover {percent(yardstick.median)}"
    much = f"{percent(yardstick.share)} of what"
    if _within_chance(figures, basis):
        much = "as much as"
    elif yardstick.against > yardstick.high:
        much = "more than"
    if _in_parts(basis):
        return f" (parts as long as half of {names.anchor} cover {much} random text does)"
    return f", {much} random text of its size would"


def _within_chance(figures: Certainty, basis: Basis) -> bool:
    """Whether random text reaches as much as far as one can tell: where coverage lies among its
    draws, or has their median in its interval."""
    interval, yardstick = figures.interval, figures.yardstick
    if yardstick.low <= yardstick.against <= yardstick.high:
        return True
    # Of parts there is no interval: that is one of all of the dataset.
    return not _in_parts(basis) and interval.low <= yardstick.median <= interval.high


def _in_parts(basis: Basis) -> bool:
    """Whether the dataset is too long for random text of its size to be drawn."""
    return 2 * basis.dataset_tokens > basis.anchor_tokens


def _about_chance(figures: Certainty, basis: Basis, counts: GapCounts) -> str:
    """Where coverage is within what chance gives: that it is, and what that leaves to act on."""
    if not _within_chance(figures, basis):
        return ""
    if not counts.certain:
        return "Its coverage is within what chance gives, so nothing here asks to be filled. "
    gaps = f"the {counts.certain:,} certain gaps are" if counts.certain > 1 else "one gap is"
    return f"Its coverage as a whole is within what chance gives, but {gaps} not: act on these. "


def percent(share: float) -> str:
    """A share as people read it: 100 % is all and 0 % is none."""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 1:
        share = min(max(share, 0.001), 0.999)
    return f"{100 * share:.1f} %"


def _lacks(
    stores: Stores, comparison: Comparison, result: CoverageResult, counts: GapCounts
) -> str:
    """What is certain to be lacking, the most common of it by name."""
    if not counts.certain:
        n_missing, n_gaps = result.n_missing, len(gap_features(stores, comparison))
        if n_missing:
            many = f"none of its {n_gaps:,} gaps is certain."
            return many if n_gaps > 1 else "its one gap is not certain."
        if not n_gaps:
            return "nothing is missing."
        them = f"{n_gaps:,} features" if n_gaps > 1 else "one feature"
        return f"nothing is missing; {them} it shows too rarely, if perhaps by less than half."
    certain, n_absent = counts.certain, counts.certain_absent
    kind = KINDS[0] if n_absent else KINDS[1]
    listing = GapList(badge=BADGES[0], kind=kind)
    rows, _ = gap_page(stores, comparison, listing, limit=NAMED)
    first = [f"“{row['name'] or '#' + str(row['feature'])}”" for row in rows]
    names = first[0] if len(first) == 1 else f"{', '.join(first[:-1])} and {first[-1]}"
    if certain == 1:
        return f"1 gap is certain, {names}, {'absent' if n_absent else 'shown too rarely'}."
    many = f"{certain:,} gaps are certain"
    if not n_absent:
        return f"{many}, none of them absent but all shown too rarely, most common {names}."
    absent = "all" if n_absent == certain else f"{n_absent:,}"
    return f"{many}, {absent} of them absent, most common {names}."


def _advice(
    stores: Stores,
    comparison: Comparison,
    result: CoverageResult,
    counts: GapCounts,
    basis: Basis,
    names: _Names,
) -> str:
    few = ""
    if 1 < result.n_anchor < FEW:
        few = (
            f"Only {result.n_anchor} features count, so each of them moves coverage by "
            f"{100 / result.n_anchor:.0f} points. "
        )
    if counts.certain:
        growth = growth_of(stores, comparison)
        tells = result.n_anchor >= FEW and result.n_missing and growth.rows[-1]["forecast"]
        more = f" {growth.answer}" if tells else ""
        if others := counts.possible + counts.artefact:
            doubt = f"other {others:,}" if others > 1 else "other one"
            more = f" The {doubt} of {others + counts.certain:,} gaps are not certain.{more}"
        return f"{few}{_begin(counts)}{more}"
    broader = "A broader anchor, tokens of another role or a higher threshold ask for more."
    if not result.n_missing:
        rare = "Where that matters, add samples that show more."
        if not gap_features(stores, comparison):
            rare = "No feature is shown too rarely either, as far as its size can say."
        return f"{few}{rare} {broader}"
    support, n_could = smallest_certain(stores, comparison)
    size = f"With {basis.dataset_tokens:,} content tokens"
    if not support:
        return (
            f"{few}{size} chance could explain the absence of even the most common feature. Add "
            "samples before acting on a gap."
        )
    return (
        f"{few}{size} only what {support:,} samples or more of {names.anchor} fire could be "
        f"certain to be lacking, {n_could:,} of {result.n_anchor:,} features, and none of those "
        f"is. More samples would say more about the others. {broader}"
    )


def _begin(counts: GapCounts) -> str:
    """What to do about gaps that are certain."""
    n_absent, n_rare = counts.certain_absent, counts.certain_under
    if not n_absent:
        return "Add samples that show more of this: collect them, or begin with pairs for it."
    absent, it = (
        (f"the {n_absent:,} absent ones", "them") if n_absent > 1 else ("the absent one", "it")
    )
    rare = f" {n_rare:,} more {'are' if n_rare > 1 else 'is'} shown too rarely." if n_rare else ""
    return f"Begin with {absent}: write pairs for {it}, or collect text that shows {it}.{rare}"
