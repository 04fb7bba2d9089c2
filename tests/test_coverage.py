"""fac.coverage: numbers worked out by hand, and what must hold for any activations."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac import coverage
from fac.errors import InputError
from fac.schema import Activations
from tests.lexicon import support
from tests.toy import fac_of

masks = st.lists(st.booleans(), min_size=1, max_size=12).map(np.array)


@st.composite
def three_masks(draw):
    n = draw(st.integers(1, 12))
    sized = st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
    return draw(sized), draw(sized), draw(sized)


@st.composite
def firings(draw, n_features=5, n_samples=6):
    """Activations with at most one row per (sample, role, feature), many of equal strength."""
    places = st.tuples(
        st.integers(0, n_samples - 1), st.integers(0, 2), st.integers(0, n_features - 1)
    )
    cells = draw(st.lists(places, max_size=40, unique=True))
    peaks = draw(
        st.lists(
            st.sampled_from([0.1, 0.3, 1.0, 2.2]),
            min_size=len(cells),
            max_size=len(cells),
        )
    )
    columns = np.array(cells, int).reshape(-1, 3).T
    return Activations(
        sample=columns[0].astype(np.int32),
        role=columns[1].astype(np.int8),
        feature=columns[2].astype(np.int32),
        peak=np.array(peaks, np.float32),
        position=np.zeros(len(cells), np.int32),
        n_tokens=np.ones(len(cells), np.int32),
    )


def test_active_means_strictly_above():
    assert coverage.is_active(np.array([0.0, 0.2, 0.3]), 0.2).tolist() == [False, False, True]


@pytest.mark.parametrize("number", [float, np.float64, np.float32])
def test_a_peak_never_exceeds_a_threshold_written_like_it(number):
    peak = np.array([0.1, 0.7], np.float32)
    assert not coverage.is_active(peak[:1], number(0.1)).any()
    assert not coverage.is_active(peak[1:], number(0.7)).any()


def test_pooling_keeps_each_samples_first_largest_value_and_counts_its_tokens():
    pooled = coverage.pool(
        sample=np.array([0, 0, 0, 1, 0]),
        role=np.array([1, 1, 1, 1, 2]),
        feature=np.array([7, 7, 7, 7, 7]),
        position=np.array([4, 2, 9, 0, 1]),
        value=np.array([3.0, 3.0, 1.0, 2.0, 5.0]),
    )
    assert pooled.sample.tolist() == [0, 0, 1]
    assert pooled.role.tolist() == [1, 2, 1]
    assert pooled.peak.tolist() == [3.0, 5.0, 2.0]
    assert pooled.position.tolist() == [2, 1, 0]
    assert pooled.n_tokens.tolist() == [3, 1, 1]


def test_pooling_nothing_gives_nothing():
    none = np.zeros(0, int)
    assert len(coverage.pool(none, none, none, none, np.zeros(0)).peak) == 0


def test_support_counts_a_sample_once_however_many_roles_fire():
    activations = Activations(
        sample=np.array([0, 0, 1]),
        role=np.array([1, 2, 2]),
        feature=np.array([2, 2, 2]),
        peak=np.array([1.0, 3.0, 2.0], np.float32),
        position=np.zeros(3, int),
        n_tokens=np.ones(3, int),
    )
    assert support(activations, n_features=4, threshold=0).tolist() == [0, 0, 2, 0]
    assert support(activations, n_features=4, threshold=2).tolist() == [0, 0, 1, 0]
    assert support(activations, n_features=4, threshold=0, role=1).tolist() == [0, 0, 1, 0]


@given(firings(), st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 3.0]))
def test_support_is_what_counting_one_by_one_finds(activations, threshold):
    samples = [set() for _ in range(5)]
    for sample, feature, peak in zip(
        activations.sample, activations.feature, activations.peak, strict=True
    ):
        if peak > np.float32(threshold):
            samples[feature].add(int(sample))
    counted = support(activations, n_features=5, threshold=threshold)
    assert counted.tolist() == [len(s) for s in samples]


@given(firings(), st.floats(0, 3), st.floats(0, 3))
def test_a_higher_threshold_never_finds_more(activations, first, other):
    low, high = sorted((first, other))
    more = support(activations, n_features=5, threshold=low)
    assert (support(activations, n_features=5, threshold=high) <= more).all()


def test_a_feature_nobody_shows_is_never_present():
    assert coverage.present(np.array([0, 1, 5]), 2).tolist() == [False, False, True]
    with pytest.raises(InputError, match="at least 1"):
        coverage.present(np.array([0]), 0)


def test_the_examples_beside_the_formulas_hold():
    results = doctest.testmod(coverage)
    assert results.attempted >= 8 and not results.failed


def test_coverage_of_an_anchor_that_shows_nothing_is_undefined():
    none = np.zeros(3, bool)
    result = coverage.fac(none, ~none, ~none)
    assert math.isnan(result.fac) and math.isnan(result.kl_smoothed)
    assert result.missing.tolist() == []


@given(three_masks())
def test_coverage_counts_add_up(given_masks):
    anchor, dataset, relevant = given_masks
    result = coverage.fac(anchor, dataset, relevant)
    assert result.n_covered + result.n_missing == result.n_anchor
    assert not (anchor & dataset & relevant)[result.missing].any()
    if result.n_anchor:
        assert 0 <= result.fac <= 1
        all_of_it, nothing = fac_of(result.n_anchor, result.n_anchor), fac_of(0, result.n_anchor)
        assert (result.fac == all_of_it) == (not result.n_missing)
        assert (result.fac == nothing) == (not result.n_covered)
        # the same counts, other features
        assert result.fac == fac_of(result.n_covered, result.n_anchor)


@given(three_masks(), st.data())
def test_adding_what_is_shown_never_lowers_coverage(given_masks, data):
    anchor, dataset, relevant = given_masks
    more = dataset.copy()
    more[data.draw(st.integers(0, len(more) - 1))] = True
    before, after = (coverage.fac(anchor, d, relevant) for d in (dataset, more))
    assert math.isnan(before.fac) or after.fac >= before.fac


@given(three_masks())
def test_the_closed_form_equals_the_divergence_summed_feature_by_feature(given_masks):
    anchor, dataset, relevant = given_masks
    p, q = anchor & relevant, dataset & relevant
    result = coverage.fac(anchor, dataset, relevant)
    if not p.any():
        assert math.isnan(result.kl_smoothed)
        return
    uniform = relevant / relevant.sum()
    observed = q / q.sum() if q.any() else np.zeros(len(q))
    mixed = 0.99 * observed + 0.01 * uniform
    total = sum(1 / p.sum() * math.log(1 / p.sum() / mixed[i]) for i in np.flatnonzero(p))
    assert result.kl_smoothed == pytest.approx(total)


def test_nearly_constant_and_rare_features_are_not_relevant():
    n_anchor = np.array([0, 1, 2, 90, 91, 100])
    relevant = coverage.everywhere_relevant(n_anchor, n_samples=100, min_support=2)
    assert relevant.tolist() == [False, False, True, True, False, False]


def test_gaps_are_the_relevant_features_shown_too_rarely():
    dataset = coverage.present(np.array([3, 0, 1, 0, 9]), at_least=3)
    relevant = np.array([True, True, True, False, True])
    result = coverage.fac(np.ones(5, bool), dataset, relevant)
    assert (result.missing.tolist(), result.n_missing) == ([1, 2], 2)
