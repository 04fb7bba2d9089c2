"""Estimators of doubt: each equals a slow computation of its definition on small data."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fac.errors import InputError
from fac.uncertainty import (
    GROWTH_TERMS,
    Firing,
    Incidence,
    benjamini_hochberg,
    expected_yardstick,
    fac_interval,
    fired_by,
    gap_test,
    growth,
    label_contrast,
    label_counts,
    part_draws,
    rarefaction,
    ratio_interval,
    split_draws,
    strata_of,
    together,
    yardstick,
)

counts = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def matrices(samples: int = 7, features: int = 6):
    row = st.lists(st.booleans(), min_size=features, max_size=features)
    return st.lists(row, min_size=2, max_size=samples)


def incidence(matrix) -> Incidence:
    """From a bool matrix, samples x features."""
    matrix = np.asarray(matrix, bool)
    feature, sample = np.nonzero(matrix.T)
    return Incidence(sample, feature, *matrix.shape)


def firing(matrix) -> Firing:
    return incidence(matrix).firing()


@given(
    st.lists(matrices(), min_size=1, max_size=3), st.lists(st.booleans(), min_size=6, max_size=6)
)
def test_sets_of_samples_together_fire_what_all_their_samples_fire(sets, features):
    union = together([firing(matrix) for matrix in sets])
    whole = np.concatenate([np.array(matrix) for matrix in sets])
    for one, other in zip(union, firing(whole), strict=True):
        assert np.array_equal(one, other)
    part = union.of(np.array(features))
    for one, other in zip(part, firing(whole[:, features]), strict=True):
        assert np.array_equal(one, other)


# --- gaps


@given(counts, st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_gap_test_is_the_lower_tail_of_a_binomial(n_anchor, t_anchor, t_dataset, data):
    n_dataset = data.draw(st.lists(st.integers(0, 30), min_size=len(n_anchor)))[: len(n_anchor)]
    test = gap_test(
        np.array(n_anchor), np.array(n_dataset), anchor_tokens=t_anchor, dataset_tokens=t_dataset
    )
    share = t_dataset / (t_anchor + t_dataset)
    for a, d, p in zip(n_anchor, n_dataset, test.p, strict=True):
        n = a + d
        tail = sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(d + 1))
        if d < a * t_dataset / t_anchor:
            assert p == pytest.approx(min(tail, 1.0), rel=1e-9)
        else:
            assert p == 1 and tail > 0.4999, "not fewer than expected: nothing to test"


def test_of_zero_counts_the_probability_has_a_closed_form():
    test = gap_test(np.array([3, 10]), np.zeros(2, int), anchor_tokens=100, dataset_tokens=50)
    assert test.p == pytest.approx([1.5**-3, 1.5**-10])
    assert test.expected.tolist() == [1.5, 5.0]


@given(st.integers(1, 25), st.integers(0, 25), st.floats(0.05, 4))
def test_the_interval_of_a_ratio_solves_the_equation_it_promises(a, d, r):
    counts, tokens = (np.array([a]), np.array([d])), round(10_000 * r)
    test = gap_test(*counts, anchor_tokens=10_000, dataset_tokens=tokens)
    (low,), (high,) = ratio_interval(*counts, anchor_tokens=10_000, dataset_tokens=tokens)
    r = tokens / 10_000
    assert low <= test.ratio[0] + 1e-12 <= high + 1e-9

    def share(ratio):
        return ratio * r / (1 + ratio * r)

    assert stats.binom.cdf(d, a + d, share(high)) == pytest.approx(0.025, rel=1e-6)
    if d:
        assert stats.binom.sf(d - 1, a + d, share(low)) == pytest.approx(0.025, 1e-6)
    else:
        assert low == 0


def test_without_tokens_there_is_no_rate():
    for ask in (gap_test, ratio_interval):
        with pytest.raises(InputError, match="content tokens on both sides"):
            ask(np.array([1]), np.array([0]), anchor_tokens=0, dataset_tokens=5)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_benjamini_hochberg_is_its_definition(p):
    n, ordered = len(p), sorted(p)
    k = max((i for i in range(1, n + 1) if ordered[i - 1] <= 0.05 * i / n), default=0)
    limit = ordered[k - 1] if k else -1.0
    assert benjamini_hochberg(np.array(p)).tolist() == [value <= limit for value in p]


# --- coverage


def fac(anchor: np.ndarray, dataset: np.ndarray) -> float:
    p = anchor.any(axis=0)
    return float((p & dataset.any(axis=0)).sum() / p.sum()) if p.any() else math.nan


@given(matrices(), matrices())
def test_the_interval_of_fac_is_the_jackknife_done_by_leaving_out(anchor, dataset):
    anchor, dataset = np.array(anchor), np.array(dataset)
    interval = fac_interval(firing(anchor), firing(dataset))
    value = fac(anchor, dataset)
    assert interval.value == pytest.approx(value, nan_ok=True)
    left = [fac(anchor, np.delete(dataset, i, axis=0)) for i in range(len(dataset))]
    right = [fac(np.delete(anchor, j, axis=0), dataset) for j in range(len(anchor))]
    if not np.isfinite([value, *right]).all():
        assert math.isnan(interval.low) and math.isnan(interval.high)
        return
    variance = sum(
        (len(f) - 1) / len(f) * sum((x - np.mean(f)) ** 2 for x in f) for f in (left, right)
    )
    half = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert interval.low == pytest.approx(max(value - half, 0), abs=1e-12)
    assert interval.high == pytest.approx(min(value + half, 1), abs=1e-12)


def test_one_sample_has_no_interval():
    interval = fac_interval(firing([[1, 1]]), firing([[1, 0], [0, 0]]))
    assert interval.value == 0.5 and math.isnan(interval.low)


# --- the yardstick


def yardstick_of(matrix, tokens, dataset, size, *, words=1, seed=0):
    draws = split_draws(tokens, size, words=words, rng=np.random.default_rng(seed))
    return yardstick(incidence(matrix), draws, np.asarray(dataset, bool))


def test_the_yardstick_of_equal_samples_is_all_of_it():
    result = yardstick_of(np.ones((10, 3)), np.full(10, 4), [1, 0, 0], 8)
    assert (result.low, result.median, result.high) == (1, 1, 1)
    assert result.against == pytest.approx(1 / 3) and result.share == pytest.approx(1 / 3)


def test_the_yardstick_is_the_mean_over_all_splits():
    rng = np.random.default_rng(3)
    matrix = rng.random((6, 8)) < 0.3
    # A draw of one sample from three, against the other three: all of them, by hand.
    values = []
    for half in combinations(range(6), 3):
        other = [i for i in range(6) if i not in half]
        there = matrix[other].any(axis=0)
        values += [float(matrix[i][there].mean()) for i in half if there.any()]
    result = yardstick_of(matrix, np.full(6, 5), np.ones(8), 5, words=60)
    assert result.median == pytest.approx(np.median(values), abs=0.05)
    assert result.against == 1.0


@given(matrices(samples=9), st.data())
@settings(max_examples=60)
def test_every_draw_is_what_its_samples_fire(matrix, data):
    matrix = np.array(matrix)
    n = len(matrix)
    tokens = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    size = data.draw(st.integers(1, 40))
    draws = split_draws(
        tokens, size, words=2, rng=np.random.default_rng(data.draw(st.integers(0, 9)))
    )
    drawn, other = bits(draws.drawn), bits(draws.other)
    assert not (drawn & other).any() and (other.sum(axis=0) == n - n // 2).all()
    assert bits(fired_by(incidence(matrix), draws.drawn)).tolist() == [
        [bool((matrix[:, feature] & drawn[:, d]).any()) for d in range(128)]
        for feature in range(matrix.shape[1])
    ]
    for d in range(128):
        spent = int(tokens[drawn[:, d]].sum())
        assert draws.tokens[d] >= spent
        # Nearer than without its last sample, or all there is.
        assert abs(spent - size) <= size or spent == draws.tokens[d]
    there = [d for d in range(128) if (matrix & other[:, d : d + 1]).any()]
    reached = [fac(matrix & other[:, d : d + 1], matrix & drawn[:, d : d + 1]) for d in there]
    result = yardstick(incidence(matrix), draws, matrix[0])
    if not there:
        assert math.isnan(result.median) and math.isnan(result.share)
        return
    expected = np.quantile(reached, [0.025, 0.5, 0.975])
    assert list(result[:3]) == pytest.approx(list(expected))
    against = [fac(matrix & other[:, d : d + 1], matrix[:1]) for d in there]
    assert result.against == pytest.approx(np.mean(against))


def bits(words: np.ndarray) -> np.ndarray:
    """Bool, whatever the words speak of x 64 times as many draws as words."""
    draws = np.arange(64, dtype=np.uint64)
    return np.concatenate(
        [(word[:, None] >> draws & np.uint64(1)).astype(bool) for word in words], 1
    )


def test_of_equal_samples_the_yardstick_has_a_closed_form():
    rng = np.random.default_rng(1)
    n, m = 60, 12
    matrix = rng.random((n, 900)) < rng.beta(0.3, 4, 900)
    dataset = rng.random(900) < 0.6
    reach, against = expected_yardstick(
        matrix.sum(axis=0), n, drawn=m, other=n // 2, dataset=dataset.astype(float)
    )
    result = yardstick_of(matrix, np.full(n, 7), dataset, 7 * m, words=20)
    assert result.median == pytest.approx(reach, abs=0.01) and result.low < reach < result.high
    assert result.against == pytest.approx(against, abs=0.01)


@given(matrices(samples=6), st.data())
@settings(max_examples=40)
def test_the_closed_form_is_the_ratio_of_means_over_all_splits(matrix, data):
    matrix = np.array(matrix)
    n = len(matrix)
    drawn = data.draw(st.integers(1, n - 1))
    other = data.draw(st.integers(1, n - drawn))
    overlap, there, of_dataset = [], [], []
    for part in combinations(range(n), drawn):
        for rest in combinations([i for i in range(n) if i not in part], other):
            fires = matrix[list(rest)].any(axis=0)
            there.append(fires.sum())
            overlap.append((fires & matrix[list(part)].any(axis=0)).sum())
            of_dataset.append(fires[:3].sum())
    reach, against = expected_yardstick(
        matrix.sum(axis=0), n, drawn=drawn, other=other, dataset=np.arange(6) < 3
    )
    if not sum(there):
        assert math.isnan(reach) and math.isnan(against)
        return
    assert reach == pytest.approx(sum(overlap) / sum(there), abs=1e-9)
    assert against == pytest.approx(sum(of_dataset) / sum(there), abs=1e-9)


def test_what_is_larger_than_half_the_anchor_is_drawn_down():
    rng = np.random.default_rng(5)
    matrix = rng.random((40, 300)) < 0.1
    tokens = np.full(40, 4)
    draws = split_draws(tokens, 1000, words=1, rng=rng)
    assert (draws.tokens == 80).all() and bits(draws.drawn).sum(axis=0).tolist() == [20] * 64
    # A dataset of the same kind, ten times as large: drawn down it reaches what was expected.
    dataset = rng.random((400, 300)) < 0.1
    parts = part_draws(np.full(400, 4), draws.tokens, rng=rng)
    assert bits(parts).sum(axis=0).tolist() == [20] * 64
    result = yardstick(incidence(matrix), draws, fired_by(incidence(dataset), parts))
    assert result.share == pytest.approx(1, abs=0.03)
    assert yardstick(incidence(matrix), draws, dataset.any(axis=0)).share > 1.1


# --- growth


@given(matrices(), st.sampled_from([0.25, 0.5, 1.0]))
def test_growth_is_the_weighted_sum_of_counts_of_counts(matrix, times):
    data = incidence(matrix)
    support = np.array(matrix).sum(axis=0)
    total = spread = 0.0
    for k in range(1, GROWTH_TERMS + 1):
        at_least = sum(
            math.comb(GROWTH_TERMS, j) * (1 / (1 + times)) ** j * (times / (1 + times)) ** (5 - j)
            for j in range(k, GROWTH_TERMS + 1)
        )
        weight = (-1) ** (k + 1) * times**k * at_least
        total += weight * (support == k).sum()
        spread += weight**2 * (support == k).sum()
    silent = int((support == 0).sum())
    assert growth(data.firing(), times).value == pytest.approx(min(max(total, 0), silent))
    only = [int(((np.array(matrix)[i] > 0) & (support == 1)).sum()) for i in range(len(matrix))]
    n, single = len(matrix), (support == 1).sum()
    phi = max(1.0, np.var(only, ddof=1) * 1.0 * n / single) if single else 1.0
    half = stats.norm.ppf(0.975) * math.sqrt(phi * (spread + max(total, 0)))
    assert growth(data.firing(), times).high == pytest.approx(min(max(total + half, 0), silent))


def test_beyond_twice_the_size_growth_is_refused():
    with pytest.raises(InputError, match="up to twice the size"):
        growth(firing([[1]]), 1.5)


@given(matrices())
@settings(max_examples=30)
def test_rarefaction_is_the_mean_over_all_parts(matrix):
    matrix = np.array(matrix)
    n = len(matrix)
    sizes = np.arange(1, n + 1)
    by_hand = [
        np.mean([matrix[list(part)].any(axis=0).sum() for part in combinations(range(n), m)])
        for m in sizes
    ]
    assert rarefaction(matrix.sum(axis=0), n, sizes) == pytest.approx(by_hand)


# --- labels


def contrast_of(matrix, label, strata):
    """The contrast of samples by features, counted in two parts of the features."""
    sample, feature = np.nonzero(matrix)
    parts = [(sample[part], feature[part]) for part in (feature < 2, feature >= 2)]
    return label_contrast(label_counts(parts, label, strata, matrix.shape[1]))


@given(matrices(samples=12), st.data())
@settings(max_examples=50)
def test_the_label_contrast_is_that_of_statsmodels_formula_by_stratum(matrix, data):
    matrix = np.array(matrix)
    n = len(matrix)
    label = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    strata = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    difference, p = contrast_of(matrix, label, strata)
    for f in range(matrix.shape[1]):
        surplus = variance = differ = weights = 0.0
        for s in np.unique(strata):
            here = strata == s
            size, fires = here.sum(), matrix[here, f]
            a = (fires & label[here]).sum()
            b, c = (~fires & label[here]).sum(), (fires & ~label[here]).sum()
            d = size - a - b - c
            surplus += a - (a + b) * (a + c) / size
            if size > 1:
                variance += (a + b) * (c + d) * (a + c) * (b + d) / (size**2 * (size - 1))
            if a + b and c + d:
                weight = (a + b) * (c + d) / size
                differ, weights = differ + weight * (a / (a + b) - c / (c + d)), weights + weight
        if weights:
            assert difference[f] == pytest.approx(differ / weights)
        if variance == 0:
            assert p[f] == 1.0
            continue
        assert p[f] == pytest.approx(stats.norm.sf((surplus - 0.5) / math.sqrt(variance)))


def test_a_label_contrast_by_hand():
    """Of 5 and 5 samples 4 and 1 fire, of 4 and 4 others 3 and 1: expected are 2.5 and 2 with the
    label, so 2.5 too many, and the variances are 625/900 and 256/448."""
    fires = [1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0]
    label = np.array([True] * 5 + [False] * 5 + [True] * 4 + [False] * 4)
    strata = np.repeat([0, 1], [10, 8])
    difference, p = contrast_of(np.array(fires)[:, None], label, strata)
    z = (2.5 - 0.5) / math.sqrt(625 / 900 + 256 / 448)
    assert p == pytest.approx([stats.norm.sf(z)]) and p == pytest.approx([0.0377], abs=1e-4)
    # differences of .8 - .2 and .75 - .25, weighted with 25/10 and 16/8
    assert difference == pytest.approx([(0.6 * 2.5 + 0.5 * 2) / 4.5])


def test_in_one_stratum_the_contrast_is_nearly_fishers_exact_test():
    rng = np.random.default_rng(1)
    matrix, label = rng.random((400, 20)) < 0.4, rng.random(400) < 0.5
    _, p = contrast_of(matrix, label, np.zeros(400, int))
    for f in range(20):
        a, b = (matrix[label, f].sum(), matrix[~label, f].sum())
        table = [[a, label.sum() - a], [b, (~label).sum() - b]]
        exact = stats.fisher_exact(table, alternative="greater").pvalue
        assert p[f] == pytest.approx(exact, abs=0.01)


def test_length_alone_is_no_relevance():
    rng = np.random.default_rng(0)
    long = np.repeat([False, True], 200)
    matrix = rng.random((400, 60)) < np.where(long, 0.5, 0.1)[:, None]
    label = rng.random(400) < np.where(long, 0.8, 0.2)
    _, plain = contrast_of(matrix, label, np.zeros(400, int))
    _, stratified = contrast_of(matrix, label, strata_of(matrix.sum(axis=1)))
    assert benjamini_hochberg(plain).sum() > 40
    assert benjamini_hochberg(stratified).sum() <= 2


def test_strata_hold_about_as_many_samples_each():
    strata = strata_of(np.arange(100), 4)
    assert np.bincount(strata).tolist() == [25, 25, 25, 25]
    assert strata_of(np.full(9, 3)).tolist() == [0] * 9
    # 16 in each by default, in 50 groups at most
    assert np.bincount(strata_of(np.arange(160))).tolist() == [16] * 10
    assert np.bincount(strata_of(np.arange(5000))).tolist() == [100] * 50
    assert strata_of(np.arange(15)).tolist() == [0] * 15
