"""The mathematics of raters: how far people agree, and what a judge's levels are worth.

Ratings are float `[n_items, n_raters]`: category codes 0..k-1 in the order of the scale, NaN where
somebody did not rate. A coefficient that is not defined is NaN, and `summary` says why.

Every coefficient is a function of how often each pattern of ratings (row) occurs. So estimators
take the distinct rows and how many times each is there, `[n_resamples, n_rows]`, and five hundred
bootstrap resamples are a handful of matrix products. Arrays only.

    Cohen 1960, Educ. Psychol. Meas. 20:37-46; weighted: Cohen 1968, Psychol. Bull. 70:213-220
    Krippendorff 2011, Computing Krippendorff's Alpha-Reliability
    Gwet 2008, Br. J. Math. Stat. Psychol. 61:29-48; Gwet 2014, Handbook of Inter-Rater Reliability
    Wilson 1927, J. Am. Stat. Assoc. 22:209-212
    Brodersen et al. 2010, ICPR (balanced accuracy); Zou & Donner 2008 (its interval)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fac.errors import InputError
from fac.schema import LEVELS

Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval

RESAMPLES = 500

MOST_UNDEFINED = 0.05
"""Share of resamples that may be undefined before the interval is: leaving out more of them would
quietly condition it on the lucky ones."""

Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Distinct rows [n_rows, n_raters], times [n_resamples, n_rows] -> values [n_resamples]."""


class Coefficient(NamedTuple):
    """One measure of agreement with its 95 % bootstrap interval over items."""

    name: str
    value: float  # NaN where undefined
    low: float  # NaN also where resampling cannot tell: one item, or items that are all alike
    high: float
    n_items: int  # items rated by at least two raters
    n_ratings: int  # ratings of those items
    undefined: str  # why there is no value; "" where there is one


class RaterAgreement(NamedTuple):
    """Two raters on the items both rated."""

    first: str
    second: str
    coefficients: list[Coefficient]


class LevelPrecision(NamedTuple):
    """What a judge's level is worth: how often people call relevant what it put there."""

    level: str
    n: int
    n_relevant: int
    precision: float  # NaN where n is 0
    low: float  # Wilson's 95 % interval
    high: float


class BalancedAccuracy(NamedTuple):
    """Mean of the shares found among the positive and among the negative examples."""

    value: float  # NaN unless there are examples of both kinds
    low: float
    high: float
    n: int
    n_positive: int


def balanced_accuracy(answers: Sequence[bool], truth: Sequence[bool]) -> BalancedAccuracy:
    """How well `answers` match `truth`, both kinds of examples weighing the same.

    The interval joins Wilson's intervals of the two shares by recovering their variances.
    """
    answered, positive = np.asarray(answers, bool), np.asarray(truth, bool)
    if answered.shape != positive.shape:
        raise InputError(f"{answered.size} answers do not fit {positive.size} examples.")
    n, n_positive = positive.size, int(positive.sum())
    if n_positive in (0, n):
        return BalancedAccuracy(math.nan, math.nan, math.nan, n, n_positive)
    hits, passed = int(answered[positive].sum()), int((~answered[~positive]).sum())
    shares = hits / n_positive, passed / (n - n_positive)
    limits = wilson(hits, n_positive), wilson(passed, n - n_positive)
    value = sum(shares) / 2
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, limits, strict=True))) / 2
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, limits, strict=True))) / 2
    return BalancedAccuracy(value, max(0.0, value - below), min(1.0, value + above), n, n_positive)


# ---- coefficients


def coefficient(estimate: Callable[..., np.ndarray], ratings: np.ndarray, **options: Any) -> float:
    """One coefficient by its estimator (`raw_agreement`, `cohen_kappa`, `krippendorff_alpha`,
    `gwet`), whose options are its own; a scale of `k` categories is checked."""
    rows, counts = _patterns(_checked(ratings, options.get("k")))
    return float(estimate(rows, counts[None].astype(float), **options)[0])


def summary(
    ratings: np.ndarray,
    n_categories: int,
    *,
    ordinal: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Coefficient]:
    """Every coefficient with n and a percentile bootstrap interval over items.

    In this order: raw agreement, Cohen's kappa (two raters), Krippendorff's alpha, Gwet's AC1; with
    `ordinal` also quadratically weighted kappa, ordinal alpha and AC2 with ordinal weights. All see
    the same resamples, so their intervals can be compared.
    """
    if resamples < 1:
        raise InputError(f"An interval needs resamples, got {resamples}.")
    ratings = _checked(ratings, n_categories)
    ratings = ratings[:, ~np.isnan(ratings).all(axis=0)]  # who rated nothing is no rater
    n_raters = ratings.shape[1]
    rows, counts = _patterns(ratings)
    rng = np.random.default_rng(seed)
    n = int(counts.sum())
    drawn = rng.multinomial(n, counts / n, size=resamples) if n else np.zeros((0, len(counts)))
    per_item = (~np.isnan(ratings)).sum(axis=1)
    pairable = per_item >= 2
    n_items, n_ratings = int(pairable.sum()), int(per_item[pairable].sum())

    coefficients = []
    for name, estimate in _coefficients(n_categories, ordinal):
        two_only = name.startswith("Cohen")
        if n_items == 0:
            why = "no item was rated by two raters" if n_raters else "nothing was rated"
        elif two_only and n_raters != 2:
            why = f"it is for two raters and there are {n_raters}: see each pair"
        else:
            why = ""
        value = math.nan if why else float(estimate(rows, counts[None].astype(float))[0])
        if not why and math.isnan(value):
            why = "every rating is in the same category, so chance alone would agree as well"
        low, high = (math.nan, math.nan) if why else _interval(estimate(rows, drawn.astype(float)))
        coefficients.append(Coefficient(name, value, low, high, n_items, n_ratings, why))
    return coefficients


def between_raters(
    ratings: np.ndarray,
    names: Sequence[str],
    n_categories: int,
    *,
    ordinal: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[RaterAgreement]:
    """`summary` of every two raters on the items both rated, in the order of `names`."""
    ratings = _checked(ratings, n_categories)
    if len(names) != ratings.shape[1]:
        raise InputError(f"{len(names)} names do not fit {ratings.shape[1]} raters.")
    agreements = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            columns = ratings[:, [i, j]]
            both = columns[~np.isnan(columns).any(axis=1)]
            coefficients = summary(
                both, n_categories, ordinal=ordinal, seed=seed, resamples=resamples
            )
            agreements.append(RaterAgreement(first, names[j], coefficients))
    return agreements


# ---- what a judge's levels are worth


def wilson(k: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: k of n. NaN, NaN where n is 0."""
    if not 0 <= k <= n:
        raise InputError(f"A share needs 0 <= k <= n, got {k} of {n}.")
    if n == 0:
        return math.nan, math.nan
    share = k / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def precision_by_level(
    judge_levels: Sequence[str], human_relevant: Sequence[bool | None]
) -> list[LevelPrecision]:
    """Per level of LEVELS, then of any other answer of the judge: how often people say relevant.

    Entries of `human_relevant` that are None (no verdict of people) do not count.
    """
    if len(judge_levels) != len(human_relevant):
        raise InputError(
            f"{len(judge_levels)} levels do not fit {len(human_relevant)} human verdicts."
        )
    precisions = []
    for level in (*LEVELS, *sorted(set(judge_levels) - set(LEVELS))):
        verdicts = [
            human
            for judge, human in zip(judge_levels, human_relevant, strict=True)
            if judge == level and human is not None
        ]
        n, k = len(verdicts), sum(map(bool, verdicts))
        precisions.append(LevelPrecision(level, n, k, k / n if n else math.nan, *wilson(k, n)))
    return precisions


def labels_for(half_width: float, precision: float, n: int) -> int:
    """How many labels beyond `n` bring Wilson's interval to +-`half_width`, if the precision stays
    what it is; a precision that is not known yet (NaN) is taken as the worst case, one half."""
    if not 0 < half_width < 0.5:
        raise InputError(f"The half width must lie between 0 and 0.5, got {half_width}.")
    share = 0.5 if math.isnan(precision) else precision
    if not 0 <= share <= 1:
        raise InputError(f"A precision lies between 0 and 1, got {precision}.")
    # Wilson's half width is at most h where h²m² + (2h²z² - z²p(1-p))m + h²z⁴ - z⁴/4 >= 0.
    h, z = half_width**2, Z**2
    linear, constant = 2 * h * z - z * share * (1 - share), h * z**2 - z**2 / 4
    root = (-linear + math.sqrt(linear**2 - 4 * h * constant)) / (2 * h)
    needed = math.ceil(root - 1e-9)
    return max(0, needed - n)


# ---- estimators: distinct rows and how many times each is there, per resample


def _coefficients(k: int, ordinal: bool) -> list[tuple[str, Estimator]]:
    plain: list[tuple[str, Estimator]] = [
        ("raw agreement", raw_agreement),
        ("Cohen's kappa", cohen_kappa),
        ("Krippendorff's alpha", krippendorff_alpha),
        ("Gwet's AC1", partial(gwet, k=k)),
    ]
    ranked: list[tuple[str, Estimator]] = [
        ("Cohen's kappa, quadratic", partial(cohen_kappa, weights="quadratic")),
        ("Krippendorff's alpha, ordinal", partial(krippendorff_alpha, level="ordinal")),
        ("Gwet's AC2", partial(gwet, k=k, weights="ordinal")),
    ]
    return plain + ranked if ordinal else plain


def raw_agreement(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Share of agreeing pairs of raters within an item, averaged over items with at least two."""
    counts, codes = _counts(rows)
    return _observed(counts, np.eye(len(codes)), times)


def cohen_kappa(rows: np.ndarray, times: np.ndarray, weights: str = "identity") -> np.ndarray:
    """Cohen's kappa of two raters over the items both rated (1960), 1 - observed over expected
    disagreement; with linear or quadratic disagreement between codes, weighted kappa (1968). NaN
    where chance alone explains everything."""
    both = ~np.isnan(rows).any(axis=1)
    rows, times = rows[both], times[:, both]
    codes, index = np.unique(rows, return_inverse=True)
    index = index.reshape(rows.shape)
    apart = _distance(codes, weights)
    first, second = (np.eye(len(codes))[index[:, i]] for i in (0, 1))
    observed = times @ apart[index[:, 0], index[:, 1]]
    expected = np.einsum("bi,ij,bj->b", times @ first, apart, times @ second)
    return 1 - _ratio(observed * times.sum(axis=1), expected)


def krippendorff_alpha(rows: np.ndarray, times: np.ndarray, level: str = "nominal") -> np.ndarray:
    """Krippendorff's alpha for any number of raters and missing cells (2011, section C):
    1 - D_o / D_e from the coincidences of values within items that have two ratings or more.

    NaN where all ratings are the same: then nothing shows that raters could tell items apart.
    """
    counts, codes = _counts(rows)
    rated = counts.sum(axis=1)
    counts, times, rated = counts[rated >= 2], times[:, rated >= 2], rated[rated >= 2]
    k = len(codes)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(k)
    coincidences = np.tensordot(times, pairs / (rated - 1)[:, None, None], axes=1)
    margins = times @ counts
    if level == "ordinal":
        # Half of both ends and all ranks between them is the distance of the middle ranks.
        codes = margins.cumsum(axis=1) - margins / 2
        apart = (codes[:, :, None] - codes[:, None, :]) ** 2
    else:
        apart = _distance(codes, "identity" if level == "nominal" else "quadratic")[None]
    observed = (coincidences * apart).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * apart).sum(axis=(1, 2))
    return 1 - _ratio(observed * (margins.sum(axis=1) - 1), expected)


def gwet(rows: np.ndarray, times: np.ndarray, k: int, weights: str = "identity") -> np.ndarray:
    """Gwet's AC1 (identity weights, 2008), else AC2 (2014, chapters 4 and 5): (p_a - p_e) /
    (1 - p_e) with chance from how common each category is.

    `k` is the length of the scale, used or not: chance agreement depends on it. Items with one
    rating count towards how common a category is, as Gwet has it.
    """
    counts, _ = _counts(rows, k)
    alike = _similarity(k, weights)
    agreed = _observed(counts, alike, times)
    rated = counts.sum(axis=1)
    rated_once = rated > 0
    share = _ratio(
        times[:, rated_once] @ (counts[rated_once] / rated[rated_once, None]),
        times[:, rated_once].sum(axis=1, keepdims=True),
    )
    chance = alike.sum() / (k * (k - 1)) * (share * (1 - share)).sum(axis=1)
    return _ratio(agreed - chance, 1 - chance)


def _observed(counts: np.ndarray, alike: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean over items with two or more ratings of the similarity of two of them."""
    rated = counts.sum(axis=1)
    counts, times, rated = counts[rated >= 2], times[:, rated >= 2], rated[rated >= 2]
    within = (counts * (counts @ alike - 1)).sum(axis=1) / (rated * (rated - 1))
    return _ratio(times @ within, times.sum(axis=1))


def _distance(codes: np.ndarray, weights: str) -> np.ndarray:
    """How far apart two codes are, `[k, k]`, on any scale of its own."""
    apart = np.abs(codes[:, None] - codes[None])
    return {"identity": np.sign(apart), "linear": apart, "quadratic": apart**2}[weights]


def _similarity(k: int, weights: str) -> np.ndarray:
    """Agreement weights `[k, k]` between 0 and 1, 1 on the diagonal (Gwet 2014, chapter 3).

    Ordinal: of the pairs of categories between two ratings, both included, how many there are.
    """
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k))).astype(float)
    if weights == "identity":
        return (apart == 0).astype(float)
    far = {"linear": apart, "quadratic": apart**2, "ordinal": apart * (apart + 1) / 2}[weights]
    return 1 - far / far.max()


def _counts(rows: np.ndarray, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ratings per row and category `[n_rows, k]`, and the categories' values."""
    codes = np.unique(rows[~np.isnan(rows)]) if k is None else np.arange(k, dtype=float)
    return (rows[:, :, None] == codes).sum(axis=1).astype(float), codes


def _patterns(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of ratings and how often each occurs: few, however many items there are."""
    filled = np.where(np.isnan(ratings), -np.inf, ratings)  # NaN is not equal to itself
    rows, counts = np.unique(filled, axis=0, return_counts=True)
    return np.where(np.isinf(rows), np.nan, rows), counts


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN where they cannot tell how sure one may be."""
    defined = values[~np.isnan(values)]
    if defined.size < (1 - MOST_UNDEFINED) * values.size or np.ptp(defined) < 1e-12:
        return math.nan, math.nan
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """NaN instead of a division by zero."""
    return np.divide(
        over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 1e-12
    )


def _checked(ratings: np.ndarray, n_categories: int | None = None) -> np.ndarray:
    """Ratings as float `[n_items, n_raters]`. Raises InputError for what is no rating."""
    table = np.asarray(ratings, float)
    if table.ndim != 2:
        raise InputError(f"Ratings must be a table of items by raters, got {table.ndim} axes.")
    if np.isinf(table).any():
        raise InputError("A rating must be a number or missing, got infinity.")
    if n_categories is not None:
        if n_categories < 2:
            raise InputError(f"A scale needs at least two categories, got {n_categories}.")
        codes = table[~np.isnan(table)]
        wrong = codes[(codes < 0) | (codes >= n_categories) | (codes != np.floor(codes))]
        if wrong.size:
            raise InputError(
                f"Ratings must be codes from 0 to {n_categories - 1}, got {wrong[0]:g}."
            )
    return table
