"""fac.matching against numpy.corrcoef, and where the answer is planted."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fac import matching
from fac.matching import MATCHED, partners, shuffled


def test_the_examples_of_the_docstrings_hold():
    results = doctest.testmod(matching)
    assert results.attempted >= 4 and not results.failed


def drawn(seed, n_features, n_samples=120, share=0.2):
    """Peaks of independent features, one in five samples."""
    rng = np.random.default_rng(seed)
    fires = rng.random((n_features, n_samples)) < share
    return fires * (1 + rng.exponential(3, fires.shape))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    block=st.integers(1, 4),
    likeness=st.floats(0, 1),
)
def test_r_is_pearsons_and_the_partner_the_highest(seed, n, m, block, likeness):
    """Some features of the second are mixtures of one of the first with noise."""
    first, second = drawn(seed, n), drawn(seed + 100, m)
    for i in range(min(n, m)):
        second[m - 1 - i] = likeness * first[i] + (1 - likeness) * second[m - 1 - i]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "BLOCK", block)
        match = partners(csr_array(first), csr_array(second))
    r = np.corrcoef(np.vstack([first, second]))[:n, n:]
    assert match.r == pytest.approx(r.max(axis=1))
    for i in range(n):
        if r[i].max() > MATCHED + 1e-9:
            assert match.partner[i] == r[i].argmax()
            assert match.mutual[i] == (r[:, r[i].argmax()].max() <= r[i].max() + 1e-12)
        elif r[i].max() < MATCHED - 1e-9:
            assert match.partner[i] == -1 and not match.mutual[i]


def test_features_in_another_order_match_wholly_and_noise_not_at_all():
    first = drawn(0, 40)
    order = np.random.default_rng(2).permutation(40)
    match = partners(csr_array(first), csr_array(first[order]))
    assert order[match.partner].tolist() == list(range(40))
    assert match.r == pytest.approx(np.ones(40)) and match.mutual.all()
    noise = partners(csr_array(first), csr_array(drawn(1, 40)))
    assert (noise.partner == -1).all() and (noise.r < MATCHED).all()


def test_the_same_samples_permuted_match_by_chance_alone():
    peaks = csr_array(drawn(0, 40))
    other = shuffled(peaks, np.random.default_rng(1))
    assert np.sort(other.toarray()).tolist() == np.sort(peaks.toarray()).tolist()
    assert (partners(peaks, other).partner == -1).all()
    # All features by one permutation: among themselves they are as alike as before.
    assert np.corrcoef(other.toarray()) == pytest.approx(np.corrcoef(peaks.toarray()))


def test_two_features_of_a_wider_dictionary_have_one_partner():
    whole = np.r_[np.ones(20), np.zeros(20)]
    half = np.r_[np.ones(10), np.zeros(30)]
    match = partners(csr_array(np.array([whole, half, half[::-1]])), csr_array(whole[None]))
    # Of 40 samples: cov = 10/40 - 1/8 = 1/8, sd = 1/2 and sqrt(3)/4.
    assert match.r == pytest.approx([1, (1 / 8) / (3**0.5 / 8), -(1 / 8) / (3**0.5 / 8)])
    assert match.partner.tolist() == [0, 0, -1] and match.mutual.tolist() == [True, False, False]


def test_what_is_too_rare_or_never_changes_is_not_compared():
    rare = np.r_[np.ones(9), np.zeros(31)]
    usual = np.r_[np.ones(10), np.zeros(30)]
    peaks = csr_array(np.array([rare, usual, np.full(40, 3.1), np.zeros(40)]))
    match = partners(peaks, peaks)
    assert np.isnan(match.r).tolist() == [True, False, True, True]
    assert match.partner.tolist() == [-1, 1, -1, -1]
    nothing = csr_array((0, 40))
    assert partners(peaks, nothing).partner.tolist() == [-1] * 4
    assert len(partners(nothing, peaks).r) == 0
