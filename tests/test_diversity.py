"""Diversity of texts: numbers worked out by hand, and equality with what others implement."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from fac import diversity
from fac.diversity import Grams, density, novel_sum, pair_distance, unit, vendi_score

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=2, max_size=7)


def vectors(n, d, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def test_the_examples_are_right():
    results = doctest.testmod(diversity)
    assert results.attempted >= 8 and results.failed == 0


# --- by words -------------------------------------------------------------------------------------


@given(TEXTS)
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_self_bleu_is_that_of_nltk(texts):
    smooth = SmoothingFunction().method1
    scores = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=smooth)
        for i, text in enumerate(texts)
    ]
    ours = Grams(texts).self_bleu(np.arange(len(texts)))
    assert ours == pytest.approx(np.mean(scores))


def test_self_bleu_by_hand():
    same = Grams([["a", "b", "c", "d"]] * 3)
    assert same.self_bleu(np.arange(3)) == pytest.approx(1)
    apart = Grams([["a", "b"], ["c", "d"]])
    assert apart.self_bleu(np.arange(2)) == 0
    assert math.isnan(apart.self_bleu(np.arange(1)))
    # Either way 3/4 words, 2/3 pairs, 1/2 threes and, of one four, none: smoothed.
    near = Grams([["a", "b", "c", "d"], ["a", "b", "c", "e"]])
    by_hand = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** (1 / 4)
    assert near.self_bleu(np.arange(2)) == pytest.approx(by_hand)


@given(TEXTS, st.integers(1, 3), st.data())
@settings(deadline=None)
def test_distinct_and_entropy_count_the_n_grams_of_the_selected_texts(texts, n, data):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True))
    grams = [tuple(texts[r][i : i + n]) for r in rows for i in range(len(texts[r]) - n + 1)]
    ours = Grams(texts)
    if not grams:
        assert math.isnan(ours.distinct(np.array(rows), n))
        assert math.isnan(ours.entropy(np.array(rows), n))
        return
    assert ours.distinct(np.array(rows), n) == len(set(grams)) / len(grams)
    counts = [grams.count(gram) for gram in set(grams)]
    assert ours.entropy(np.array(rows), n) == pytest.approx(entropy(counts))


# --- by vectors -----------------------------------------------------------------------------------


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
def test_pair_distance_is_that_of_scipy(n, d, seed):
    rows = vectors(n, d, seed)
    assert pair_distance(rows) == pytest.approx(pdist(rows, "cosine").mean(), abs=1e-9)
    assert math.isnan(pair_distance(rows[:1]))


@given(st.integers(2, 9), st.integers(2, 5), st.integers(0, 99))
def test_novel_sum_is_its_definition(n, d, seed):
    rows, reference = vectors(n, d, seed), vectors(15, d, seed + 1000)
    total = 0.0
    sigma = []
    for row in rows:
        near = sorted(1 - row @ other for other in reference)[:10]
        sigma.append(10 / sum(near))
    for i in range(n):
        others = sorted((1 - rows[i] @ rows[j], j) for j in range(n) if j != i)
        weights = [1 / rank for rank in range(1, n)]
        parts = [
            w * apart * math.sqrt(sigma[j]) for w, (apart, j) in zip(weights, others, strict=True)
        ]
        total += sum(parts) / sum(weights)
    densities = density(rows, reference)
    assert densities == pytest.approx(np.array(sigma))
    assert novel_sum(rows, densities) == pytest.approx(total / n)


def test_a_row_is_no_neighbour_of_itself():
    # Distances from the first: 1, 2; from the second: 1, 1; from the third: 2, 1.
    three = np.array([[1.0, 0], [0, 1], [-1, 0]])
    assert density(three, three, 1) == pytest.approx([1, 1, 1])
    assert density(three, three) == pytest.approx([2 / 3, 1, 2 / 3])
    assert np.isfinite(density(three[:1], three[:1])).all()
    assert math.isnan(novel_sum(three[:1], np.ones(1)))


def test_more_of_the_same_is_less_novel():
    rows = vectors(20, 8)
    apart = novel_sum(rows, density(rows, rows))
    twice = np.concatenate([rows[:10], rows[:10]])
    assert novel_sum(twice, density(twice, rows)) < 0.9 * apart


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_the_vendi_score_is_its_definition_whichever_is_wider(n, d, seed):
    rows = vectors(n, d, seed)
    share = np.linalg.eigvals(rows @ rows.T / n).real
    share = share[share > 1e-12]
    assert vendi_score(rows) == pytest.approx(math.exp(-sum(share * np.log(share))))


def test_the_vendi_score_counts_different_rows():
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.ones((7, 1))) == pytest.approx(1)
    # Cosine 1/2: eigenvalues 3/4 and 1/4.
    half = np.array([[1, 0], [0.5, math.sqrt(0.75)]])
    assert vendi_score(half) == pytest.approx(4 / 3**0.75)
    assert math.isnan(vendi_score(np.zeros((0, 3))))
