"""fac.agreement: published examples to four digits, definitions spelled out, what is undefined."""

import math
import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fac import agreement
from fac.errors import InputError
from fac.schema import LEVELS

NAN = math.nan

KRIPPENDORFF = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
            [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
        ]
    ).T
    - 1
)
"""Krippendorff 2011, section C: twelve units, four observers, missing cells."""

# Contingency tables: rows are the first rater's categories, columns the second's.
COHEN_1960 = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
ABSTRACTORS = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]  # Gwet 2014
GWET_2002 = [[118, 5], [2, 0]]
PARADOX = [[90, 5], [5, 0]]


def raw_agreement(ratings):
    return agreement.coefficient(agreement.raw_agreement, ratings)


def cohen_kappa(a, b, weights="identity"):
    ratings = np.column_stack([a, b])
    return agreement.coefficient(agreement.cohen_kappa, ratings, weights=weights)


def krippendorff_alpha(ratings, level="nominal"):
    return agreement.coefficient(agreement.krippendorff_alpha, ratings, level=level)


def gwet(ratings, k, weights="identity"):
    return agreement.coefficient(agreement.gwet, ratings, k=k, weights=weights)


def rated(table):
    """Ratings `[n_items, 2]` with this contingency table."""
    cells = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return np.array(cells, float)


def kappa(table, weights="identity"):
    return cohen_kappa(*rated(table).T, weights)


def by_name(coefficients):
    return {c.name: c for c in coefficients}


@st.composite
def matrices(draw, k=4, max_items=8, max_raters=4):
    """Ratings with missing cells, any shape."""
    n, m = draw(st.integers(1, max_items)), draw(st.integers(2, max_raters))
    cell = st.sampled_from([NAN, *map(float, range(k))])
    return np.array(draw(st.lists(cell, min_size=n * m, max_size=n * m))).reshape(n, m)


# ---- what was published


def test_cohens_own_example():
    assert kappa(COHEN_1960) == pytest.approx(0.29 / 0.59, abs=1e-12)  # .70 observed, .41 expected


def test_kappa_of_the_abstractors():
    assert kappa(ABSTRACTORS) == pytest.approx(0.7964094, abs=5e-8)
    assert kappa(ABSTRACTORS, "linear") == pytest.approx(0.843, abs=5e-4)
    assert kappa(ABSTRACTORS, "quadratic") == pytest.approx(0.892, abs=5e-4)


@pytest.mark.parametrize(
    "level,value", [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491)]
)
def test_alpha_of_krippendorffs_example_with_missing_cells(level, value):
    assert round(krippendorff_alpha(KRIPPENDORFF, level), 4) == value


@pytest.mark.parametrize(
    "first,second,value",
    [("abaaaaaaba", "bbbaabaaaa", 0.0952), ("aabbdcccedda", "babbbccceddd", 0.6920)],
)
def test_alpha_of_krippendorffs_examples_with_two_observers(first, second, value):
    # 2011, sections A and B: 0.095 and 0.692
    ratings = np.array(
        [["abcde".index(letter) for letter in letters] for letters in (first, second)]
    ).T
    assert round(krippendorff_alpha(ratings.astype(float)), 4) == value


@pytest.mark.parametrize(
    "weights,value",
    [("identity", 0.7754), ("linear", 0.8587), ("quadratic", 0.9140), ("ordinal", 0.8989)],
)
def test_gwet_of_the_same_units(weights, value):
    # Gwet 2014, page 120; his package prints 0.77544 and 0.859, 0.914, 0.899
    assert round(gwet(KRIPPENDORFF, 5, weights), 4) == value


@pytest.mark.parametrize(
    "weights,value",
    [("identity", 0.8493305), ("linear", 0.900), ("quadratic", 0.940), ("ordinal", 0.925)],
)
def test_gwet_of_the_abstractors(weights, value):
    coefficient = gwet(rated(ABSTRACTORS), 3, weights)
    assert coefficient == pytest.approx(value, abs=5e-8 if weights == "identity" else 5e-4)


def test_gwets_case_of_high_agreement_that_kappa_denies():
    # Gwet 2002: 94 % agreement, kappa -0.0234, AC1 0.9408
    assert raw_agreement(rated(GWET_2002)) == pytest.approx(0.944)
    assert round(kappa(GWET_2002), 4) == -0.0234
    assert round(gwet(rated(GWET_2002), 2), 4) == 0.9408


def test_the_paradox_shows_in_kappa_and_alpha_but_not_in_ac1():
    by_coefficient = by_name(agreement.summary(rated(PARADOX), 2, ordinal=False))
    assert by_coefficient["raw agreement"].value == pytest.approx(0.9)
    assert by_coefficient["Cohen's kappa"].value == pytest.approx(-1 / 19)
    assert round(by_coefficient["Krippendorff's alpha"].value, 4) == -0.0474
    assert round(by_coefficient["Gwet's AC1"].value, 4) == 0.8895
    assert all(c.low < c.value < c.high for c in by_coefficient.values())
    assert by_coefficient["Krippendorff's alpha"].high < 0 < by_coefficient["Gwet's AC1"].low
    assert {c.n_items for c in by_coefficient.values()} == {100}
    assert {c.n_ratings for c in by_coefficient.values()} == {200}


# ---- what the definitions say, one pair at a time


def agreeing_pairs(ratings, alike=lambda a, b: float(a == b)):
    """Per item with two or more ratings: the mean similarity of its ordered pairs of raters."""
    rows = [row[~np.isnan(row)] for row in ratings]
    return [
        float(np.mean([alike(a, b) for a, b in permutations(row, 2)]))
        for row in rows
        if len(row) > 1
    ]


def alpha_by_pairs(ratings, apart):
    """1 - D_o / D_e: differences within units against differences between any two values."""
    units = [row[~np.isnan(row)] for row in ratings]
    units = [unit for unit in units if len(unit) > 1]
    values = np.concatenate([*units, []])
    n = len(values)
    within = sum(sum(apart(a, b) for a, b in permutations(u, 2)) / (len(u) - 1) for u in units)
    between = sum(apart(a, b) for a, b in permutations(values, 2))
    return 1 - (within / n) / (between / (n * (n - 1))) if between else NAN


def ordinal_difference(ratings):
    """Krippendorff's: all ranks from one value to the other, the ends counted half."""
    paired = ratings[(~np.isnan(ratings)).sum(axis=1) > 1]
    n = {code: float((paired == code).sum()) for code in range(4)}

    def apart(a, b):
        low, high = sorted((int(a), int(b)))
        return (sum(n[g] for g in range(low, high + 1)) - (n[low] + n[high]) / 2) ** 2

    return apart


@given(matrices())
def test_raw_agreement_is_the_mean_over_items_of_agreeing_pairs(ratings):
    pairs = agreeing_pairs(ratings)
    expected = np.mean(pairs) if pairs else NAN
    assert raw_agreement(ratings) == pytest.approx(expected, nan_ok=True)


@given(matrices())
def test_alpha_is_what_counting_pair_by_pair_finds(ratings):
    differences = {
        "nominal": lambda a, b: float(a != b),
        "interval": lambda a, b: (a - b) ** 2,
        "ordinal": ordinal_difference(ratings),
    }
    for level, apart in differences.items():
        alpha = krippendorff_alpha(ratings, level)
        assert alpha == pytest.approx(alpha_by_pairs(ratings, apart), nan_ok=True), level


@given(matrices(max_raters=2))
def test_kappa_is_scikit_learns_where_that_defines_one(ratings):
    a, b = ratings[~np.isnan(ratings).any(axis=1)].T
    assume(len(set(a) | set(b)) > 1)
    for weights in ("identity", "linear", "quadratic"):
        theirs = None if weights == "identity" else weights
        other = cohen_kappa_score(a, b, weights=theirs, labels=range(4))
        assert cohen_kappa(*ratings.T, weights) == pytest.approx(other)


@given(matrices(), st.sampled_from(("identity", "linear", "quadratic", "ordinal")))
def test_gwet_is_what_his_formulas_say_item_by_item(ratings, weights):
    k = 4
    steps = {
        "identity": lambda d: float(d > 0),
        "linear": lambda d: d / 3,
        "quadratic": lambda d: d**2 / 9,
        "ordinal": lambda d: math.comb(int(d) + 1, 2) / math.comb(4, 2),
    }[weights]
    pairs = agreeing_pairs(ratings, lambda a, b: 1 - steps(abs(a - b)))
    shares = [
        [np.mean(row[~np.isnan(row)] == code) for code in range(k)]
        for row in ratings
        if not np.isnan(row).all()
    ]
    expected = NAN
    if pairs:
        common = np.mean(shares, axis=0)
        total = sum(1 - steps(abs(a - b)) for a in range(k) for b in range(k))
        chance = total / (k * (k - 1)) * sum(p * (1 - p) for p in common)
        expected = (np.mean(pairs) - chance) / (1 - chance)
    assert gwet(ratings, k, weights) == pytest.approx(expected, nan_ok=True)


@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_raters_does_not_matter(ratings, random):
    rows, columns = list(range(ratings.shape[0])), list(range(ratings.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = ratings[rows][:, columns]
    for estimate in (
        raw_agreement,
        krippendorff_alpha,
        lambda r: krippendorff_alpha(r, "ordinal"),
        lambda r: gwet(r, 4, "ordinal"),
    ):
        assert estimate(shuffled) == pytest.approx(estimate(ratings), nan_ok=True)


@given(matrices())
def test_nothing_exceeds_perfect_agreement(ratings):
    for c in agreement.summary(ratings, 4, ordinal=True, resamples=20):
        assert math.isnan(c.value) or c.value <= 1 + 1e-9
        assert math.isnan(c.value) == bool(c.undefined)


# ---- undefined is said, with the reason


def test_one_category_leaves_kappa_and_alpha_undefined_and_the_others_without_interval():
    by_coefficient = by_name(agreement.summary(np.zeros((20, 2)), 4, ordinal=True))
    for name in ("Cohen's kappa", "Krippendorff's alpha", "Krippendorff's alpha, ordinal"):
        assert math.isnan(by_coefficient[name].value)
        assert "same category" in by_coefficient[name].undefined
    for name in ("raw agreement", "Gwet's AC1", "Gwet's AC2"):
        assert by_coefficient[name].value == pytest.approx(1)
        assert by_coefficient[name].undefined == ""
        assert math.isnan(by_coefficient[name].low) and math.isnan(by_coefficient[name].high)


def test_no_common_item_leaves_all_undefined():
    apart = np.array([[0.0, NAN], [NAN, 1.0]])
    for c in agreement.summary(apart, 2, ordinal=True):
        assert math.isnan(c.value) and "no item was rated by two raters" in c.undefined
        assert (c.n_items, c.n_ratings) == (0, 0)
    for value in (
        raw_agreement(apart),
        cohen_kappa(*apart.T),
        krippendorff_alpha(apart),
        gwet(apart, 2),
    ):
        assert math.isnan(value)


@pytest.mark.parametrize("ratings", [np.zeros((0, 0)), np.zeros((0, 3)), np.full((3, 2), NAN)])
def test_nothing_rated_is_said(ratings):
    for c in agreement.summary(ratings, 4, ordinal=True):
        assert math.isnan(c.value) and "nothing was rated" in c.undefined


def test_one_rater_agrees_with_nobody():
    for c in agreement.summary(np.arange(4.0)[:, None], 4, ordinal=False):
        assert "no item was rated by two raters" in c.undefined


def test_kappa_of_three_raters_points_to_the_pairs():
    by_coefficient = by_name(agreement.summary(KRIPPENDORFF, 5, ordinal=True))
    assert "there are 4: see each pair" in by_coefficient["Cohen's kappa"].undefined
    assert "there are 4: see each pair" in by_coefficient["Cohen's kappa, quadratic"].undefined
    assert round(by_coefficient["Krippendorff's alpha, ordinal"].value, 4) == 0.8154
    assert (by_coefficient["raw agreement"].n_items, by_coefficient["raw agreement"].n_ratings) == (
        11,
        40,
    )


def test_a_rater_without_ratings_is_no_third_rater():
    two = rated(ABSTRACTORS)
    three = np.column_stack([two, np.full(len(two), NAN)])
    assert agreement.summary(three, 3, ordinal=True) == agreement.summary(two, 3, ordinal=True)


def test_an_interval_is_not_conditioned_on_the_lucky_resamples():
    # Each second item in three is lost from a resample: without it kappa is undefined there.
    rare = np.zeros((30, 2))
    rare[0] = 1
    kappa_of_rare = by_name(agreement.summary(rare, 2, ordinal=False))["Cohen's kappa"]
    assert kappa_of_rare.value == pytest.approx(1)
    assert math.isnan(kappa_of_rare.low) and math.isnan(kappa_of_rare.high)


# ---- intervals


def test_the_bootstrap_is_what_resampling_the_items_one_by_one_gives():
    rng = np.random.default_rng(3)
    ratings = rng.integers(0, 3, (60, 3)).astype(float)
    ratings[:, 1] = np.where(rng.random(60) < 0.6, ratings[:, 0], ratings[:, 1])
    ratings[rng.random(ratings.shape) < 0.2] = NAN
    drawn = [ratings[rng.integers(0, 60, 60)] for _ in range(1000)]
    by_coefficient = by_name(agreement.summary(ratings, 3, ordinal=True, resamples=4000))
    for name, estimate in (
        ("raw agreement", raw_agreement),
        ("Krippendorff's alpha, ordinal", lambda r: krippendorff_alpha(r, "ordinal")),
        ("Gwet's AC2", lambda r: gwet(r, 3, "ordinal")),
    ):
        low, high = np.percentile([estimate(sample) for sample in drawn], [2.5, 97.5])
        assert by_coefficient[name].low == pytest.approx(low, abs=0.03), name
        assert by_coefficient[name].high == pytest.approx(high, abs=0.03), name


def test_the_same_seed_gives_the_same_interval():
    first, same, other = (
        agreement.summary(KRIPPENDORFF, 5, ordinal=True, seed=s) for s in (1, 1, 2)
    )
    assert repr(first) == repr(same)
    assert [c.value for c in first if not c.undefined] == [
        c.value for c in other if not c.undefined
    ]
    assert repr(first) != repr(other)


@pytest.mark.quiet
def test_five_hundred_resamples_of_two_hundred_items_take_well_under_a_second():
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 4, (200, 5)).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = NAN
    start = time.perf_counter()
    agreement.summary(ratings, 4, ordinal=True, resamples=500)
    agreement.between_raters(ratings, "abcde", 4, ordinal=True, resamples=500)
    assert time.perf_counter() - start < 1


# ---- pairs


def test_each_pair_is_measured_on_what_both_rated():
    agreements = agreement.between_raters(KRIPPENDORFF, ["A", "B", "C", "D"], 5, ordinal=True)
    assert [(p.first, p.second) for p in agreements] == [
        *(("A", "B"), ("A", "C"), ("A", "D"), ("B", "C"), ("B", "D"), ("C", "D")),
    ]
    first = by_name(agreements[0].coefficients)
    assert first["raw agreement"].n_items == 9
    assert first["raw agreement"].value == pytest.approx(8 / 9)
    assert first["Cohen's kappa"].value == pytest.approx(
        cohen_kappa(KRIPPENDORFF[:, 0], KRIPPENDORFF[:, 1])
    )


# ---- shares and what a judge's levels are worth


@pytest.mark.parametrize(
    "k,n,low,high",
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_of_newcombes_examples(k, n, low, high):
    # Newcombe 1998, Stat. Med. 17:857-872, table I, method 3
    assert [round(x, 4) for x in agreement.wilson(k, n)] == [low, high]


def test_a_share_of_nothing_has_no_interval():
    assert all(map(math.isnan, agreement.wilson(0, 0)))
    with pytest.raises(InputError, match="got 3 of 2"):
        agreement.wilson(3, 2)


def test_precision_is_counted_per_level_where_people_said_something():
    judged = ["yes", "yes", "yes", "no", "maybe", "unreadable", "yes"]
    people = [True, False, True, False, None, True, None]
    by_level = {row.level: row for row in agreement.precision_by_level(judged, people)}
    assert [*by_level] == [*LEVELS, "unreadable"]
    assert (by_level["yes"].n, by_level["yes"].n_relevant) == (3, 2)
    assert by_level["yes"].precision == pytest.approx(2 / 3)
    assert (by_level["yes"].low, by_level["yes"].high) == agreement.wilson(2, 3)
    assert (by_level["no"].n, by_level["no"].precision) == (1, 0.0)
    assert by_level["maybe"].n == 0 and math.isnan(by_level["maybe"].precision)
    with pytest.raises(InputError, match="2 levels do not fit 1"):
        agreement.precision_by_level(["yes", "no"], [True])


@settings(max_examples=200)
@given(st.floats(0.005, 0.45), st.floats(0, 1), st.integers(0, 300))
def test_labels_for_is_the_smallest_number_that_makes_the_interval_narrow_enough(width, share, n):
    more = agreement.labels_for(width, share, n)
    low, high = agreement.wilson((n + more) * share, n + more) if n + more else (0.0, 1.0)

    def half(m):
        z = agreement.Z
        return z / (1 + z**2 / m) * math.sqrt(share * (1 - share) / m + z**2 / (4 * m**2))

    if n + more:
        assert half(n + more) <= width + 1e-9
        assert (high - low) / 2 <= width + 1e-9
    if more > 0 and n + more > 1:
        assert half(n + more - 1) > width - 1e-9


def test_labels_for_a_usual_case():
    # 84 % of 200 (Table 5): half width 0.0507, so 0.05 needs a few more and 0.03 many.
    low, high = agreement.wilson(168, 200)
    assert (high - low) / 2 == pytest.approx(0.0507, abs=5e-5)
    assert agreement.labels_for(0.05, 0.84, 200) == 6
    assert agreement.labels_for(0.06, 0.84, 200) == 0
    assert agreement.labels_for(0.05, NAN, 0) == agreement.labels_for(0.05, 0.5, 0) == 381
    with pytest.raises(InputError, match=r"got 0\.5"):
        agreement.labels_for(0.5, 0.84, 0)
    with pytest.raises(InputError, match="between 0 and 1"):
        agreement.labels_for(0.1, 1.5, 0)


def test_balanced_accuracy_weighs_both_kinds_alike():
    truth = [True] * 8 + [False] * 2
    accuracy = agreement.balanced_accuracy([True] * 6 + [False] * 2 + [True, False], truth)
    assert (accuracy.value, accuracy.n, accuracy.n_positive) == (
        pytest.approx((6 / 8 + 1 / 2) / 2),
        10,
        8,
    )
    assert 0 <= accuracy.low < accuracy.value < accuracy.high <= 1
    assert agreement.balanced_accuracy([True] * 10, truth).value == 0.5
    assert math.isnan(agreement.balanced_accuracy([True], [True]).value)
    assert math.isnan(agreement.balanced_accuracy([], []).low)
    with pytest.raises(InputError, match="1 answers do not fit 2"):
        agreement.balanced_accuracy([True], [True, False])


def test_the_interval_of_balanced_accuracy_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth = np.arange(20) < 10
    covered = []
    for _ in range(400):
        answers = np.where(rng.random(20) < np.where(truth, 0.8, 0.7), truth, ~truth)
        accuracy = agreement.balanced_accuracy(answers, truth)
        covered.append(accuracy.low <= 0.75 <= accuracy.high)
    assert 0.91 <= np.mean(covered) <= 1


# ---- what is refused


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda: gwet(np.full((2, 2), 2.0), 2), "codes from 0 to 1, got 2"),
        (lambda: gwet(np.full((2, 2), 0.5), 2), "codes from 0 to 1, got 0.5"),
        (lambda: gwet(np.zeros((2, 2)), 1), "at least two categories"),
        (lambda: raw_agreement(np.zeros(3)), "got 1 axes"),
        (lambda: raw_agreement(np.full((2, 2), np.inf)), "got infinity"),
        (lambda: agreement.summary(np.zeros((2, 2)), 2, ordinal=False, resamples=0), "resamples"),
        (
            lambda: agreement.between_raters(np.zeros((2, 2)), "abc", 2, ordinal=False),
            "3 names do not",
        ),
    ],
)
def test_what_is_no_rating_is_refused_in_one_sentence(call, match):
    with pytest.raises(InputError, match=match):
        call()
