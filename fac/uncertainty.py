"""How far coverage and its gaps can be believed: tests, intervals, yardsticks, growth. Arrays only.

docs/statistics.md has a section on each estimator: its formula, where it comes from, what a check
on simulated and real text gave, and when not to use it.

Most of them need no more than how often each feature fires and which sample it is where one alone
fires it (`Firing`); the yardstick needs to know which sample fires which feature (`Incidence`).
Features that do not count (not relevant, or not shown by the anchor) are left out beforehand.

scipy is imported where it is used: what asks nothing of it starts in half the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fac.errors import InputError

FALSE_DISCOVERIES = 0.05
"""Share of the gaps called certain that may be chance (Benjamini-Hochberg)."""

LEVEL = 0.95
"""Of every interval here."""

MATERIAL = 0.5
"""Of the expected rate. Of large sets the slightest difference is significant; what is certain to
be lacking should be lacking in other samples of the dataset too, by half at least."""

GROWTH_TERMS = 5
"""K of Efron and Thisted: counts of counts beyond it say nothing reliable."""

DRAWS_PER_WORD = 64
"""Random draws are bits: one operation on a word asks a sample about as many of them."""


class Firing(NamedTuple):
    """How often each feature fires in a set of samples, and where one sample alone fires it."""

    support: np.ndarray
    """int64 `[n_features]`: samples that fire it."""

    single_feature: np.ndarray
    """int `[singletons]`: the features of support 1, ascending."""

    single_sample: np.ndarray
    """int `[singletons]`: the sample that fires each, 0 to n_samples - 1."""

    n_samples: int

    def of(self, features: np.ndarray) -> Firing:
        """The same of some features alone (bool `[n_features]`), renumbered in their order."""
        single = features[self.single_feature]
        number = np.cumsum(features) - 1
        return Firing(
            self.support[features],
            number[self.single_feature[single]],
            self.single_sample[single],
            self.n_samples,
        )

    def only_here(self, features: np.ndarray) -> np.ndarray:
        """Of each sample, how many of `features` (bool `[n_features]`) it alone fires: int64
        `[n_samples]`."""
        single = self.single_sample[features[self.single_feature]]
        return np.bincount(single, minlength=self.n_samples)


def together(parts: Sequence[Firing]) -> Firing:
    """Several sets of samples as one, those of the first before those of the second. A feature that
    one sample of one set fires is no singleton where another set fires it too."""
    support = np.sum([part.support for part in parts], axis=0)
    offsets = np.cumsum([0, *(part.n_samples for part in parts)])
    feature = np.concatenate([part.single_feature for part in parts])
    sample = np.concatenate([p.single_sample + n for p, n in zip(parts, offsets, strict=False)])
    alone = support[feature] == 1
    order = np.argsort(feature[alone])
    return Firing(support, feature[alone][order], sample[alone][order], int(offsets[-1]))


class Incidence(NamedTuple):
    """Which sample fires which feature, each pair once."""

    sample: np.ndarray
    """int `[pairs]`, 0 to n_samples - 1."""

    feature: np.ndarray
    """int `[pairs]`, 0 to n_features - 1."""

    n_samples: int
    n_features: int

    def support(self) -> np.ndarray:
        """Samples that fire each feature, int64 `[n_features]`."""
        return np.bincount(self.feature, minlength=self.n_features)

    def firing(self) -> Firing:
        """Its counts and singletons."""
        support = self.support()
        alone = np.flatnonzero(support[self.feature] == 1)
        alone = alone[np.argsort(self.feature[alone])]
        return Firing(support, self.feature[alone], self.sample[alone], self.n_samples)


class Interval(NamedTuple):
    """An estimate with its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


# --- gaps -----------------------------------------------------------------------------------------


class GapTest(NamedTuple):
    """Per feature of the anchor, how surprising the dataset's count is."""

    expected: np.ndarray
    """float64: samples that would fire it, if the dataset were like the anchor."""

    ratio: np.ndarray
    """float64: rate in the dataset over rate in the anchor, by content tokens; NaN of a feature
    that neither fires."""

    p: np.ndarray
    """float64: probability of so few or fewer; 1 where it is not fewer than expected."""

    significant: np.ndarray
    """bool: passes Benjamini-Hochberg at FALSE_DISCOVERIES over all features asked."""

    certain: np.ndarray
    """bool: significant, and either never fires or fires at most MATERIAL as often as expected with
    its whole interval."""


def gap_test(
    n_anchor: np.ndarray, n_dataset: np.ndarray, *, anchor_tokens: int, dataset_tokens: int
) -> GapTest:
    """Whether features fire less often in a dataset than an anchor leads one to expect.

    `n_anchor` and `n_dataset` count samples that fire a feature, int `[features]`, for the features
    of the anchor that are asked about. If both fire it at one rate per content token, then of all
    n_anchor + n_dataset samples a share of r / (1 + r) is the dataset's, r = dataset_tokens over
    anchor_tokens: the lower tail of that binomial is the p-value. It allows for the anchor's
    sampling error too.

    Raises InputError without content tokens on either side, where no rate is defined.
    """
    from scipy import special

    r = _tokens_ratio(anchor_tokens, dataset_tokens)
    n_anchor, n_dataset = np.asarray(n_anchor), np.asarray(n_dataset)
    # P(Bin(n_anchor + n_dataset, r / (1 + r)) <= n_dataset), by the incomplete beta function; where
    # at least the mean is reached it is a half or more, which no test calls small.
    p, few = np.ones(len(n_anchor)), np.flatnonzero(n_dataset < n_anchor * r)
    p[few] = special.betainc(n_anchor[few], n_dataset[few] + 1, 1 / (1 + r))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = n_dataset / n_anchor / r
    significant = benjamini_hochberg(p)
    certain = significant.copy()
    fires = np.flatnonzero(significant & (n_dataset > 0))
    # Clopper and Pearson's upper bound is where this tail is as long; to invert it takes ten times.
    tail = special.betainc(n_anchor[fires], n_dataset[fires] + 1, 1 / (1 + MATERIAL * r))
    certain[fires] = tail <= (1 - LEVEL) / 2
    return GapTest(n_anchor * r, ratio, p, significant, certain)


def ratio_interval(
    n_anchor: np.ndarray, n_dataset: np.ndarray, *, anchor_tokens: int, dataset_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of each GapTest.ratio, from Clopper and Pearson's of the same binomial:
    low and high, float64 `[features]`. Slower than the test: for the features that are shown.

    Raises InputError without content tokens on either side.
    """
    from scipy import special

    r = _tokens_ratio(anchor_tokens, dataset_tokens)
    n_anchor, n_dataset = np.asarray(n_anchor), np.asarray(n_dataset)
    tail = (1 - LEVEL) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(n_dataset == 0, 0.0, special.betaincinv(n_dataset, n_anchor + 1, tail))
        high = np.where(n_anchor == 0, 1.0, special.betaincinv(n_dataset + 1, n_anchor, 1 - tail))
        return low / (1 - low) / r, high / (1 - high) / r


def _tokens_ratio(anchor_tokens: int, dataset_tokens: int) -> float:
    if anchor_tokens <= 0 or dataset_tokens <= 0:
        raise InputError(
            f"Rates need content tokens on both sides, got {anchor_tokens:,} in the anchor and "
            f"{dataset_tokens:,} in the dataset."
        )
    return dataset_tokens / anchor_tokens


def benjamini_hochberg(p: np.ndarray, level: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Which hypotheses are rejected at a false discovery rate: bool `[n]` (Benjamini and Hochberg
    1995). The largest k with p_(k) <= level k / n, and all with a p-value not above that one."""
    if not len(p):
        return np.zeros(0, bool)
    ordered = np.sort(p)
    passes = np.flatnonzero(ordered <= level * np.arange(1, len(p) + 1) / len(p))
    return p <= ordered[passes[-1]] if len(passes) else np.zeros(len(p), bool)


# --- coverage -------------------------------------------------------------------------------------


def fac_interval(anchor: Firing, dataset: Firing) -> Interval:
    """FAC with a 95 % interval by the two-sample delete-one jackknife.

    f = c / p: p features fire in the anchor, c of them in the dataset too. Without sample i of the
    dataset it is (c - u_i) / p, u_i the features of the anchor that only i fires there; without
    sample j of the anchor (c - b_j) / (p - a_j), a_j the features that only j fires in the anchor
    and b_j those of them that the dataset fires. The variance is the sum over both sides of
    (n - 1) / n times the squared distances from their mean. It is about FAC at these sizes: of
    larger samples FAC is another figure.

    NaN bounds where a side has fewer than two samples, or where one sample of the anchor is all
    that fires there; all NaN where the anchor fires nothing.
    """
    in_anchor, in_dataset = anchor.support > 0, dataset.support > 0
    p, c = int(in_anchor.sum()), int((in_anchor & in_dataset).sum())
    if p == 0:
        return Interval(math.nan, math.nan, math.nan)
    value = c / p
    if min(anchor.n_samples, dataset.n_samples) < 2:
        return Interval(value, math.nan, math.nan)
    without_i = (c - dataset.only_here(in_anchor)) / p
    a, b = anchor.only_here(in_anchor), anchor.only_here(in_anchor & in_dataset)
    with np.errstate(invalid="ignore", divide="ignore"):
        without_j = (c - b) / (p - a)
    # Where one sample is all that the anchor fires, FAC without it is not defined.
    if not np.isfinite(without_j).all():
        return Interval(value, math.nan, math.nan)
    half = _z() * math.sqrt(_jackknife_variance(without_i) + _jackknife_variance(without_j))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def _jackknife_variance(without: np.ndarray) -> float:
    n = len(without)
    return float((n - 1) / n * ((without - without.mean()) ** 2).sum())


def _z() -> float:
    from scipy import special

    return float(special.ndtri((1 + LEVEL) / 2))


# --- the yardstick --------------------------------------------------------------------------------


class Yardstick(NamedTuple):
    """What random draws of the anchor reach at a dataset's size; all NaN where there is none."""

    low: float
    median: float
    high: float
    """Of 95 % of the draws."""

    against: float
    """FAC of the dataset against the same halves, on average."""

    @property
    def share(self) -> float:
        """What the dataset reaches of what was to be expected."""
        return self.against / self.median if self.median else math.nan

    def of_whole(self, fac: float) -> Yardstick:
        """The same against the whole anchor, of which the dataset reaches `fac`: what random draws
        reach of a half is carried over in proportion, since a whole shows more than a half. Where
        the dataset reaches nothing there is no proportion, and the figures are of halves."""
        if not self.against:
            return self
        low, median, high = (min(x * fac / self.against, 1.0) for x in self[:3])
        return Yardstick(low, median, high, fac)

    def moved(self, reach: float, against: float) -> Yardstick:
        """With `reach` added to what the draws reach, and `against` to what the dataset does."""
        levels = (self.low + reach, self.median + reach, self.high + reach, self.against + against)
        return Yardstick(*(min(max(level, 0.0), 1.0) for level in levels))


class Draws(NamedTuple):
    """Random splits of the anchor in two; bit b of word w speaks of draw 64 w + b."""

    drawn: np.ndarray
    """uint64 `[words, n_samples]`: the sample is of the part of one half that is compared."""

    other: np.ndarray
    """uint64 `[words, n_samples]`: the sample is of the other half, which it is compared with."""

    tokens: np.ndarray
    """int64 `[64 words]`: content tokens of the half that is drawn from."""


def split_draws(tokens: np.ndarray, size: int, *, words: int, rng: np.random.Generator) -> Draws:
    """64 `words` random splits of samples that have these content tokens, int `[n_samples]`: of one
    half, samples in random order up to `size` tokens, all of it where it has fewer."""
    shape = (words * DRAWS_PER_WORD, len(tokens))
    drawn, other = np.zeros((2, *shape), bool)
    half, in_half = len(tokens) // 2, np.zeros(len(drawn), np.int64)
    for draw in range(len(drawn)):
        order = rng.permutation(len(tokens))
        spent = np.cumsum(tokens[order[:half]])
        drawn[draw, order[: _nearest(spent, size)]] = True
        other[draw, order[half:]] = True
        in_half[draw] = spent[-1] if half else 0
    return Draws(_words(drawn), _words(other), in_half)


def part_draws(tokens: np.ndarray, sizes: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Random parts of samples, one of about each of `sizes` content tokens, int `[64 words]`, that
    have these tokens: uint64 `[words, n_samples]`, whose bits say that a sample is of a part."""
    drawn = np.zeros((len(sizes), len(tokens)), bool)
    for part, size in zip(drawn, sizes, strict=True):
        order = rng.permutation(len(tokens))
        part[order[: _nearest(np.cumsum(tokens[order]), size)]] = True
    return _words(drawn)


def _nearest(spent: np.ndarray, size: int) -> int:
    """How many samples come nearest to `size` tokens, where the first n have spent[n - 1]."""
    n = int(np.searchsorted(spent, size))
    if n == len(spent):
        return n
    before = int(spent[n - 1]) if n else 0
    return n + int(spent[n] - size < size - before)


def _words(draws: np.ndarray) -> np.ndarray:
    """Bool `[64 words, n]` as the bits of uint64 `[words, n]`."""
    by_word = draws.reshape(-1, DRAWS_PER_WORD, draws.shape[1]).transpose(0, 2, 1)
    packed = np.packbits(np.ascontiguousarray(by_word), axis=2, bitorder="little")
    return packed.view(np.uint64)[:, :, 0]


def _bits(words: np.ndarray) -> np.ndarray:
    """How often each bit is set, of uint64 `[words, n]`: int64 `[64 words]`."""
    as_bytes = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)
    return np.unpackbits(as_bytes, axis=2, bitorder="little").sum(axis=1, dtype=np.int64).ravel()


def mean_size(draws: np.ndarray) -> float:
    """Samples of a draw, on average: of uint64 `[words, n_samples]`."""
    return float(_bits(draws).mean())


def fired_by(incidence: Incidence, draws: np.ndarray) -> np.ndarray:
    """Which draws fire each feature: uint64 `[words, n_features]`, of `draws`, uint64 `[words,
    n_samples]`. The incidence is in the order of features."""
    features = np.zeros((len(draws), incidence.n_features), np.uint64)
    if len(incidence.feature):
        starts = np.append(0, np.flatnonzero(np.diff(incidence.feature)) + 1)
        for word, of_sample in zip(features, draws, strict=True):
            ored = np.bitwise_or.reduceat(of_sample[incidence.sample], starts)
            word[incidence.feature[starts]] = ored
    return features


def yardstick(anchor: Incidence, draws: Draws, dataset: np.ndarray) -> Yardstick:
    """FAC that samples of the anchor itself reach at a dataset's number of content tokens.

    Each draw splits the anchor in two: a part of one half is compared with the other half, so that
    no sample stands on both sides; the dataset is compared with that other half too. `dataset` is
    what it fires: bool `[n_features]`, or, where it is larger than a half and drawn down as well,
    uint64 `[words, n_features]` of `fired_by`. The anchor is in the order of features.
    """
    if dataset.dtype == bool:
        dataset = np.where(dataset, ~np.uint64(0), np.uint64(0))
    there = fired_by(anchor, draws.other)
    n = _bits(there)
    reached = _bits(there & fired_by(anchor, draws.drawn))[n > 0] / n[n > 0]
    against = _bits(there & dataset)[n > 0] / n[n > 0]
    if not len(reached):
        return Yardstick(math.nan, math.nan, math.nan, math.nan)
    tail = (1 - LEVEL) / 2
    low, median, high = np.quantile(reached, [tail, 0.5, 1 - tail])
    return Yardstick(float(low), float(median), float(high), float(against.mean()))


def expected_yardstick(
    support: np.ndarray, n_samples: int, *, drawn: float, other: float, dataset: np.ndarray
) -> tuple[float, float]:
    """What draws reach, and the dataset, where samples are alike: by the features' counts alone.

    Of the anchor's `n_samples`, `drawn` are compared with `other` ones; a feature of `support` k,
    int `[n_features]`, is missed by either with a hypergeometric probability, and by both together
    as by one part of their size. `dataset` is the probability that the dataset fires a feature,
    float `[n_features]`. Ratios of expected counts; NaN where the others fire nothing.
    """
    by_drawn, by_other = (missed(support, n_samples, size) for size in (drawn, other))
    there, both = 1 - by_other, missed(support, n_samples, drawn + other)
    if not there.sum() > 0:
        return math.nan, math.nan
    reached = (there - by_drawn + both).sum() / there.sum()
    return float(reached), float((dataset * there).sum() / there.sum())


# --- growth ---------------------------------------------------------------------------------------


def growth(dataset: Firing, times: float) -> Interval:
    """Features that `times` as many samples more like these would newly fire (0 < times <= 1).

    Efron and Thisted 1976: with Q_k the features fired by exactly k samples, t = times and K =
    GROWTH_TERMS, D = sum over k <= K of w_k Q_k, w_k = -(-t)^k P(Bin(K, 1 / (1 + t)) >= k). Its
    variance phi (sum w_k^2 Q_k + max(D, 0)) is inflated by how unevenly the singletons lie, phi =
    max(1, n / (n - 1) sum (u_i - mean u)^2 / Q_1), u_i the features that only sample i fires: a
    sample brings many at once.

    Raises InputError for other `times`: beyond twice the size nothing is known.
    """
    from scipy import special

    if not 0 < times <= 1:
        raise InputError(f"Growth can be told up to twice the size, got {times:g} times more.")
    support, k = dataset.support, np.arange(1, GROWTH_TERMS + 1)
    share = 1 / (1 + times)
    weights = -((-times) ** k) * special.betainc(k, GROWTH_TERMS - k + 1, share)
    counts = np.array([(support == n).sum() for n in k])
    estimate = float(weights @ counts)
    only = dataset.only_here(np.ones(len(support), bool))
    n, singletons = dataset.n_samples, int(counts[0])
    phi = 1.0
    if singletons and n > 1:
        phi = max(1.0, n / (n - 1) * float(((only - only.mean()) ** 2).sum()) / singletons)
    error = math.sqrt(phi * (float(weights**2 @ counts) + max(estimate, 0.0)))
    silent = int((support == 0).sum())
    low, high = (min(max(estimate + s * _z() * error, 0.0), silent) for s in (-1, 1))
    return Interval(min(max(estimate, 0.0), silent), low, high)


def rarefaction(support: np.ndarray, n_samples: int, sizes: np.ndarray) -> np.ndarray:
    """Features that a random part of the samples fires, expected: float64 `[sizes]` (Hurlbert
    1971). A part of m samples misses a feature of support k with probability C(n - k, m) / C(n, m).
    """

    k, n_features = np.unique(np.asarray(support), return_counts=True)
    misses = missed(k[None, :], n_samples, np.asarray(sizes)[:, None])
    return ((1 - misses) * n_features).sum(axis=1)


def missed(support: np.ndarray, n_samples: int, size: np.ndarray | float) -> np.ndarray:
    """Probability that a random part of `size` samples misses a feature that `support` of them
    fire, C(n - k, m) / C(n, m), by logarithms of factorials; 0 where more are drawn than are
    without. Of a size between whole numbers it is between theirs."""
    from scipy.special import gammaln

    without = n_samples - np.asarray(support)
    left = without - size
    log_misses = (
        gammaln(without + 1)
        + gammaln(n_samples - np.asarray(size) + 1)
        - gammaln(np.maximum(left, 0) + 1)
        - gammaln(n_samples + 1)
    )
    return np.where(left >= 0, np.exp(log_misses), 0.0)


# --- labels ---------------------------------------------------------------------------------------

SAMPLES_A_STRATUM, MOST_STRATA = 16, 50
"""Few enough to be alike, enough to hold both kinds; more strata than these cost memory alone."""


def strata_of(n_active: np.ndarray, n_strata: int = 0) -> np.ndarray:
    """Samples in groups of about one size: int `[n_samples]`, by quantiles of their active
    features; by default as many groups as leave SAMPLES_A_STRATUM in each, MOST_STRATA at most.
    Samples with equally many stand in one group."""
    n_strata = n_strata or min(max(len(n_active) // SAMPLES_A_STRATUM, 1), MOST_STRATA)
    edges = np.unique(np.quantile(n_active, np.linspace(0, 1, n_strata + 1)[1:-1]))
    return np.searchsorted(edges, n_active, side="left")


class LabelCounts(NamedTuple):
    """How many samples fire each feature, by stratum, and how many of them carry a label."""

    fires: np.ndarray
    """int64 `[strata, n_features]`."""

    fires_with: np.ndarray
    """int64 `[strata, n_features]`: of those, samples with the label."""

    n: np.ndarray
    """int64 `[strata]`: samples."""

    n_with: np.ndarray
    """int64 `[strata]`: samples with the label."""


def label_counts(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    has_label: np.ndarray,
    strata: np.ndarray,
    n_features: int,
) -> LabelCounts:
    """Counts of samples from parts of (sample, feature), which together have every pair once.
    `has_label` is bool and `strata` int from 0 on, both `[n_samples]`."""
    n = np.bincount(strata)
    n_with = np.bincount(strata[has_label], minlength=len(n))
    fires, fires_with = np.zeros((2, len(n), n_features), np.int64)
    for sample, feature in parts:
        if not len(feature):
            continue
        first, width = feature.min(), np.ptp(feature) + 1
        cell = strata[sample] * width + (feature - first)
        here = slice(first, first + width)
        for counts, cells in ((fires, cell), (fires_with, cell[has_label[sample]])):
            counts[:, here] += np.bincount(cells, minlength=len(n) * width).reshape(-1, width)
    return LabelCounts(fires, fires_with, n, n_with)


class LabelContrast(NamedTuple):
    """Per feature, how firing and the label hang together within the strata."""

    difference: np.ndarray
    """float64: share of samples with the label that fire it minus the share without, within
    strata; NaN where no stratum has both kinds."""

    p: np.ndarray
    """float64: probability of so many or more with the label; 1 where no stratum can tell."""


def label_contrast(counts: LabelCounts) -> LabelContrast:
    """Whether features fire more often with a label than without, given strata.

    Cochran-Mantel-Haenszel, one-sided, with a continuity correction (Mantel and Haenszel 1959):
    within each stratum the number of labelled samples that fire a feature is hypergeometric if
    label and feature are unrelated; sums of differences and of variances over the strata give z.
    Length, which fires more features of every kind, is thereby held equal. The difference of rates
    is the Mantel-Haenszel one (Greenland and Robins 1985).
    """
    from scipy import special

    fires, fires_with = counts.fires, counts.fires_with
    n, n_with = (each[:, None].astype(float) for each in (counts.n, counts.n_with))
    with np.errstate(divide="ignore", invalid="ignore"):
        of_stratum = n_with * (n - n_with) * fires * (n - fires) / (n * n * (n - 1))
        variance = np.nan_to_num(of_stratum, posinf=0.0).sum(axis=0)
        surplus = np.nan_to_num(fires_with - n_with * fires / n).sum(axis=0)
        difference = surplus / np.nansum(n_with * (n - n_with) / n)
        z = np.where(variance > 0, (surplus - 0.5) / np.sqrt(variance), -np.inf)
    return LabelContrast(difference, np.where(variance > 0, special.ndtr(-z), 1.0))
