"""A measured dataset against an anchor: coverage, how far to believe it, its curve, how it grows,
each role's and each group's share, what changed.

An anchor is a measure run, a dataset is a measure run of the same encoder. What the cache counts is
joined with what fac.coverage says about counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fac import uncertainty
from fac.coverage import fac, present
from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.firing import (
    content_tokens,
    features_read,
    firing_of,
    incidence_read,
    support_of,
    tokens_read,
)
from fac.questions.relevance import Relevance, relevant_set
from fac.schema import EVERY_FEATURE, EVERY_ROLE, ROLES, CoverageResult
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.samples import read_samples


@dataclass(frozen=True)
class Comparison:
    """The question of coverage, as pages and commands ask it."""

    anchor: str
    """Measure run of what could be shown."""

    dataset: str
    """Measure run of what is shown."""

    threshold: float = 0.0
    """A feature fires in a sample when its peak is strictly above."""

    min_support: int = 1
    """Samples of the anchor that must show a feature before the anchor counts as showing it; in the
    dataset one is enough."""

    role: str = EVERY_ROLE
    """Whose tokens count."""

    relevance: Relevance = Relevance()

    added: tuple[str, ...] = ()
    """Measures of what would be added to the dataset: together they show what any of them does."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The dataset and what is added to it, each once."""
        return tuple(dict.fromkeys((self.dataset, *self.added)))

    @property
    def at(self) -> tuple[float, str]:
        """Threshold and role: what counts as firing."""
        return self.threshold, self.role


def clear_firing(stores: Stores, anchor: str) -> float:
    """The threshold at which a feature fires clearly: the median of the anchor's peaks, one per
    sample and feature, to three significant digits. The default of every page and command."""
    return float(stores.cache.summary(anchor)["clear_firing"])


def settings_in_words(comparison: Comparison) -> str:
    """By what settings a comparison is made, as an enumeration."""
    words = [f"above {comparison.threshold:g}"]
    if comparison.role != EVERY_ROLE:
        words.append(f"tokens of the {comparison.role}")
    if comparison.min_support > 1:
        words.append(f"in {comparison.min_support} or more samples of the anchor")
    if comparison.relevance.name != EVERY_FEATURE:
        maybe = ", maybe included" if comparison.relevance.maybe else ""
        words.append(f"relevant for {comparison.relevance.name}{maybe}")
    return ", ".join(words)


@remembered_for_good
def coverage(stores: Stores, comparison: Comparison) -> CoverageResult:
    """FAC and F_miss of the dataset against the anchor, within the relevant features.

    Raises InputError when the runs cannot be compared.
    """
    return _within(stores, comparison, _relevant(stores, comparison))


def curve(stores: Stores, comparison: Comparison) -> list[Row]:
    """Coverage at every threshold of the anchor's grid: threshold, fac (NaN where the anchor shows
    nothing), n_anchor, n_covered, n_missing."""
    return _curve(stores, replace(comparison, threshold=0.0))


@remembered_for_good
def _curve(stores: Stores, comparison: Comparison) -> list[Row]:
    relevant = _relevant(stores, comparison)
    must_match(stores, comparison)
    return [
        {"threshold": t, **_figures(_at(stores, comparison, relevant, t))}
        for t in stores.cache.summary(comparison.anchor)["thresholds"]
    ]


def telling_threshold(stores: Stores, anchor: str, dataset: str) -> float:
    """Where the anchor has lost nine tenths of its features: beyond, little is left to ask."""
    rows = curve(stores, Comparison(anchor, dataset))
    few = rows[0]["n_anchor"] / 10
    reached = (row["threshold"] for row in rows if row["n_anchor"] < few)
    return max(next(reached, rows[-1]["threshold"]), 0.1)


def telling_curve(stores: Stores, comparison: Comparison) -> list[Row]:
    """The curve as far as telling_threshold."""
    top = telling_threshold(stores, comparison.anchor, comparison.dataset)
    return [row for row in curve(stores, comparison) if row["threshold"] <= top]


def by_role(stores: Stores, comparison: Comparison) -> list[Row]:
    """Coverage counting only one role's tokens, a row per role: role, fac (NaN where the anchor's
    tokens of that role show nothing), n_anchor, n_covered, n_missing. The relevant features are
    those of each role: what fires everywhere differs between them."""
    return _by_role(stores, replace(comparison, role=EVERY_ROLE))


@remembered_for_good
def _by_role(stores: Stores, comparison: Comparison) -> list[Row]:
    rows = []
    for role in ROLES:
        of_role = replace(comparison, role=role)
        result = _within(stores, of_role, _relevant(stores, of_role))
        rows.append({"role": role, **_figures(result)})
    return rows


def _relevant(stores: Stores, comparison: Comparison) -> np.ndarray:
    return relevant_set(stores, comparison.anchor, comparison.relevance, comparison.role)


def _within(stores: Stores, comparison: Comparison, relevant: np.ndarray) -> CoverageResult:
    must_match(stores, comparison)
    return _at(stores, comparison, relevant, comparison.threshold)


def must_match(stores: Stores, comparison: Comparison) -> None:
    """Raises InputError when the runs cannot be compared."""
    for run in comparison.runs:
        _same_features(stores, comparison.anchor, run, comparison.role)


def _at(
    stores: Stores, comparison: Comparison, relevant: np.ndarray, threshold: float
) -> CoverageResult:
    """FAC of runs that are known to match."""
    at = replace(comparison, threshold=threshold)
    n_anchor = stores.cache.support(at.anchor, threshold, at.role)
    return fac(present(n_anchor, at.min_support), _in_dataset(stores, at), relevant)


def _in_dataset(stores: Stores, comparison: Comparison) -> np.ndarray:
    """What the dataset shows, with what is added to it: bool `[n_features]`."""
    settings = (comparison.threshold, comparison.role)
    supports = (stores.cache.support(run, *settings) for run in comparison.runs)
    return np.any([present(support) for support in supports], axis=0)


def _figures(result: CoverageResult) -> Row:
    names = ("fac", "n_anchor", "n_covered", "n_missing")
    return {name: getattr(result, name) for name in names}


# --- how far to believe it ------------------------------------------------------------------------


class Certainty(NamedTuple):
    """How far a coverage can be believed. What is not defined is NaN, and `note` says why."""

    interval: uncertainty.Interval
    """FAC with its 95 % interval by the jackknife over the samples of both sides."""

    yardstick: uncertainty.Yardstick
    """What random draws of one half of the anchor reach against the other half, at the dataset's
    number of content tokens: carried over to the whole anchor, so that it stands on the same scale
    as FAC. Of a dataset larger than a half, parts stand beside all of the half, uncarried."""

    note: str
    """Sentences about what is left out of either; "" where nothing is."""


DRAW_WORDS = 2
"""Random draws behind a yardstick, in words of 64."""


@remembered_for_good
def certainty(stores: Stores, comparison: Comparison) -> Certainty:
    """The interval and the yardstick of a coverage. Draws are the same at every call.

    Raises InputError when the runs cannot be compared.
    """
    must_match(stores, comparison)
    features, value = shown(stores, comparison), coverage(stores, comparison).fac
    interval, yardstick = uncertainty.Interval(value, math.nan, math.nan), NO_YARDSTICK
    anchor, dataset = name_of(stores, comparison.anchor), name_of(stores, *comparison.runs)
    each = dict.fromkeys((comparison.anchor, *comparison.runs))
    notes = [stores.runs.manifest(run).facts.says_left_out for run in each]
    if not features.any():
        notes.append(nothing_to_cover(stores, comparison))
        return Certainty(interval, yardstick, " ".join(filter(None, notes)))
    if comparison.anchor in comparison.runs:
        notes.append(f"What is compared with {anchor} contains it, so nothing can be missing.")
        return Certainty(interval, yardstick, " ".join(filter(None, notes)))
    if features.sum() == 1:
        notes.append("One relevant feature fires in the anchor: coverage is all or nothing.")
    if comparison.min_support > 1:
        notes.append("Where the anchor needs more than one sample a feature, FAC has no interval.")
    else:
        both = ((comparison.anchor,), comparison.runs)
        sides = [firing_of(stores, runs, *comparison.at) for runs in both]
        interval = uncertainty.fac_interval(*(side.of(features) for side in sides))
        notes.append(_about_interval(interval, anchor, dataset, *(s.n_samples for s in sides)))
    n_shared = sum(
        int(read_samples(stores.runs, run)[stores.cache.shared(run, comparison.anchor)].sum())
        for run in comparison.runs
    )
    if n_shared:
        notes.append(
            f"{n_shared:,} samples of {dataset} are in {anchor} too: what they show counts on both "
            "sides, and the dataset looks better beside the yardstick than it is."
        )
    yardstick, about = _yardstick(stores, comparison, features, anchor, dataset)
    return Certainty(interval, yardstick, " ".join(filter(None, [*notes, about])))


def name_of(stores: Stores, *runs: str) -> str:
    """What measured datasets are called, in a sentence."""
    return " with ".join(stores.cache.summary(run)["name"] for run in runs)


def nothing_to_cover(stores: Stores, comparison: Comparison) -> str:
    """Why no relevant feature fires in the anchor, as a sentence."""
    anchor, role = name_of(stores, comparison.anchor), comparison.role
    if role != EVERY_ROLE and not content_tokens(stores, (comparison.anchor,), role):
        return f"{anchor} has no content tokens of {role}, so nothing can fire: take another role."
    return (
        f"No relevant feature fires in {anchor} above {comparison.threshold:g}, so there is "
        "nothing to cover: take a lower threshold, or count other features as relevant."
    )


NO_YARDSTICK = uncertainty.Yardstick(math.nan, math.nan, math.nan, math.nan)


def _about_interval(
    interval: uncertainty.Interval, anchor: str, dataset: str, n_anchor: int, n_dataset: int
) -> str:
    """Why there is none, or none to be taken at its word."""
    for name, n in ((anchor, n_anchor), (dataset, n_dataset)):
        if n < 2:
            return (
                f"{name} has one sample, and what another one would show is unknown: no interval."
            )
    if math.isnan(interval.low):
        return f"One sample of {anchor} alone fires all that counts: no interval."
    if interval.low == interval.high:
        return "No single sample makes a difference to FAC, so its interval has no width."
    return ""


def _yardstick(
    stores: Stores, comparison: Comparison, features: np.ndarray, anchor: str, dataset: str
) -> tuple[uncertainty.Yardstick, str]:
    """The yardstick, and what is to be said of it."""
    role, run = comparison.role, comparison.anchor
    sides = [content_tokens(stores, runs, role) for runs in ((run,), comparison.runs)]
    for name, n in zip((anchor, dataset), sides, strict=True):
        if not n:
            whose = "" if role == EVERY_ROLE else f" of {role}"
            return NO_YARDSTICK, f"{name} has no content tokens{whose}: no yardstick."
    tokens = tokens_read(stores, run)
    if len(tokens) < 4:
        return (
            NO_YARDSTICK,
            f"{anchor} has {len(tokens)} samples, too few for halves: no yardstick.",
        )
    notes = []
    # Tokens by sample are of all roles: of the role, the same share of each is taken to be.
    size = sides[1]
    if role != EVERY_ROLE:
        size = round(size * content_tokens(stores, (run,), EVERY_ROLE) / sides[0])
        notes.append(f"The yardstick takes the tokens of {role} to be one share of every sample's.")
    draws = _draws(stores, run, size)
    larger = size > int(draws.tokens.max())
    if larger:
        notes.append(
            f"{dataset} is larger than half of {anchor}: the yardstick is of the other half, and "
            "parts as large as a half stand for the dataset."
        )
    read = (run, *comparison.runs) if larger else (run,)
    ranges, counted = features_read(stores, read, features)
    if counted.sum() < features.sum():
        notes.append(
            f"The yardstick is drawn from {counted.sum():,} of {features.sum():,} features and "
            "carried over to the others by their counts."
        )
    in_dataset = support_of(stores, comparison.runs, *comparison.at) > 0
    if larger:
        parts = _parts(stores, comparison, draws)
        in_dataset = np.zeros((DRAW_WORDS, len(features)), np.uint64)
        first_sample = 0
        for each in comparison.runs:
            pairs = incidence_read(stores, each, *comparison.at, counted, ranges)
            beyond = first_sample + pairs.n_samples
            in_dataset |= uncertainty.fired_by(pairs, parts[:, first_sample:beyond])
            first_sample = beyond
    pairs = incidence_read(stores, run, *comparison.at, counted, ranges)
    yardstick = uncertainty.yardstick(pairs, draws, in_dataset)
    if counted.sum() < features.sum():
        some, everything = (
            _expected(stores, comparison, draws, which, larger) for which in (counted, features)
        )
        yardstick = yardstick.moved(*np.subtract(everything, some).tolist())
    if not yardstick.median > 0:
        notes.append(
            f"Random parts of {anchor} show none of these features in most draws, so there is no "
            "share of what was to be expected."
        )
    if not larger:
        yardstick = yardstick.of_whole(coverage(stores, comparison).fac)
    return yardstick, " ".join(notes)


@remembered_for_good
def _draws(stores: Stores, anchor: str, size: int) -> uncertainty.Draws:
    """The same splits of an anchor at every threshold, role and relevance."""
    tokens = tokens_read(stores, anchor)
    return uncertainty.split_draws(tokens, size, words=DRAW_WORDS, rng=np.random.default_rng(0))


def _expected(
    stores: Stores,
    comparison: Comparison,
    draws: uncertainty.Draws,
    features: np.ndarray,
    larger: bool,
) -> tuple[float, float]:
    """What draws reach and the dataset, of these features, by their counts alone."""
    n = draws.drawn.shape[1]
    drawn, other = (uncertainty.mean_size(each) for each in (draws.drawn, draws.other))
    in_dataset = support_of(stores, comparison.runs, *comparison.at)[features]
    fires = (in_dataset > 0).astype(float)
    if larger:
        parts = _parts(stores, comparison, draws)
        fires = 1 - uncertainty.missed(in_dataset, parts.shape[1], uncertainty.mean_size(parts))
    support = stores.cache.support(comparison.anchor, *comparison.at)[features]
    return uncertainty.expected_yardstick(support, n, drawn=drawn, other=other, dataset=fires)


def _parts(stores: Stores, comparison: Comparison, draws: uncertainty.Draws) -> np.ndarray:
    """Parts of the dataset as large as the halves of the draws."""
    tokens = np.concatenate([tokens_read(stores, run) for run in comparison.runs])
    return uncertainty.part_draws(tokens, draws.tokens, rng=np.random.default_rng(1))


def shown(stores: Stores, comparison: Comparison) -> np.ndarray:
    """The relevant features that the anchor shows: bool `[n_features]`."""
    n_anchor = stores.cache.support(comparison.anchor, comparison.threshold, comparison.role)
    return present(n_anchor, comparison.min_support) & _relevant(stores, comparison)


# --- how it grows ---------------------------------------------------------------------------------


class Growth(NamedTuple):
    """How coverage grows with the dataset."""

    rows: list[Row]
    """At every size: size (samples), times (of today's), features (of the anchor's that it shows),
    low, high, forecast (beyond today's size). Up to today's size they are what random parts of the
    samples show on average, low and high the same. No forecast where `answer` says why."""

    answer: str
    """Whether more of the same would help, in one sentence."""


GROWTH_STEPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of today's size, for what parts of the dataset show."""

FORECAST_STEPS = (0.25, 0.5, 0.75, 1.0)
"""Of today's size, that would be added."""


@remembered_for_good
def growth_of(stores: Stores, comparison: Comparison) -> Growth:
    """How many of the anchor's relevant features parts of the dataset show, and how many twice as
    many samples like these would.

    Raises InputError when the runs cannot be compared.
    """
    must_match(stores, comparison)
    features = shown(stores, comparison)
    firing = firing_of(stores, comparison.runs, *comparison.at).of(features)
    n, n_features, n_covered = (
        firing.n_samples,
        int(features.sum()),
        int((firing.support > 0).sum()),
    )
    if not n_features:
        return Growth([], nothing_to_cover(stores, comparison))
    sizes = np.unique(np.ceil(np.array(GROWTH_STEPS) * n).astype(int))
    rows: list[Row] = [
        _grown(int(size), size / n, float(mean), float(mean), float(mean), forecast=False)
        for size, mean in zip(sizes, uncertainty.rarefaction(firing.support, n, sizes), strict=True)
    ]
    lacks = n_features - n_covered
    if not lacks:
        return Growth(
            rows, f"It lacks none of the {n_features:,} features: more adds nothing here."
        )
    if n < 2 or not n_covered:
        why = "It has one sample" if n < 2 else "It shows none of them"
        return Growth(rows, f"{why}: what more samples like these would cover cannot be told.")
    for times in FORECAST_STEPS:
        new = uncertainty.growth(firing, times)
        levels = (n_covered + figure for figure in new)
        rows.append(_grown(round(n * (1 + times)), 1 + times, *levels, forecast=True))
    return Growth(rows, _answer(uncertainty.growth(firing, 1.0), lacks))


def _grown(
    size: int, times: float, features: float, low: float, high: float, *, forecast: bool
) -> Row:
    return {
        "size": size,
        "times": float(times),
        "features": features,
        "low": low,
        "high": high,
        "forecast": forecast,
    }


def _answer(new: uncertainty.Interval, lacks: int) -> str:
    share = new.value / lacks
    verdict = "a third or less, so more of the same does not help much"
    if share > 2 / 3:
        verdict = "more than two thirds, so more of the same helps"
    elif share > 1 / 3:
        verdict = "between one and two thirds, so more of the same helps in part"
    return (
        f"Twice as many samples like these would cover about {new.value:,.0f} of the {lacks:,} "
        f"features it lacks ({new.low:,.0f} to {new.high:,.0f}): {verdict}."
    )


# --- what changed ---------------------------------------------------------------------------------


class Change(NamedTuple):
    """What became of a dataset, by one question of coverage. Features are ids, ascending."""

    before: CoverageResult
    after: CoverageResult
    closed: np.ndarray
    """Gaps there were, and are no more."""
    opened: np.ndarray
    """Gaps there were not."""
    gained: np.ndarray
    """Every feature that only the second shows, whether or not the anchor does and it is
    relevant."""
    lost: np.ndarray
    """Every feature that only the first shows."""


def change(stores: Stores, before: Comparison, after: Comparison) -> Change:
    """What changed from one dataset to the next against one anchor, by the settings of the first.
    Raises InputError when the runs cannot be compared."""
    after = replace(before, dataset=after.dataset, added=after.added)
    was, now = coverage(stores, before), coverage(stores, after)
    had, has = _in_dataset(stores, before), _in_dataset(stores, after)
    return Change(
        was,
        now,
        np.setdiff1d(was.missing, now.missing),
        np.setdiff1d(now.missing, was.missing),
        np.flatnonzero(has & ~had),
        np.flatnonzero(had & ~has),
    )


def _same_features(stores: Stores, run: str, other_run: str, role: str) -> None:
    """Feature ids mean the same, and the same tokens were counted."""
    first, second = stores.cache.summary(run), stores.cache.summary(other_run)
    if first["encoder"] != second["encoder"]:
        raise InputError(
            f"{first['name']} and {second['name']} cannot be compared: they were measured with "
            f"different encoders ({first['encoder']}; {second['encoder']}), so the same number "
            f"means different features. Measure both with one model, layer and SAE."
        )
    if role == EVERY_ROLE and first["role"] != second["role"]:
        raise InputError(
            f"{first['name']} was measured over the tokens of {first['role']}, {second['name']} "
            f"over those of {second['role']}: choose one role both have, or measure again."
        )
