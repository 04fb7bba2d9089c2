"""How diverse texts are, by their words and by where a model puts them. Arrays in, numbers out; no
files, no SQL, no models.

By words: Distinct-n (Li et al. 2016, arXiv 1510.03055), entropy of n-grams (Zhang et al. 2018,
arXiv 1809.05972), self-BLEU (Zhu et al. 2018, arXiv 1802.01886).
By vectors, all with cosine: mean pairwise distance, NovelSum (Yang et al. 2025, arXiv 2502.17184),
Vendi score (Friedman and Dieng 2023, arXiv 2210.02410).

Vectors are `[n, d]` of length 1 each, see `unit`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 10
"""K, over which NovelSum takes the density around a row."""

DENSITY_POWER = 0.5
"""Its beta; its alpha is 1."""

CLOSEST = 1e-9
"""Mean distance from which on a density is finite."""

LONGEST = 4
"""Words of the longest n-gram of BLEU."""

SMOOTHING = 0.1
"""Hits of an order that has none (Chen and Cherry 2014, method 1): short texts would all be 0."""

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Its words and marks, in lower case.

    >>> words("Don't stop!")
    ['don', "'", 't', 'stop', '!']
    """
    return _WORD.findall(text.lower())


# --- by words -------------------------------------------------------------------------------------


class Grams:
    """The n-grams of texts up to four words, numbered, so that any selection of the texts is
    measured without reading them again. Methods take the numbers of texts, int `[k]`, each once,
    and are NaN where the texts have no n-gram.

    >>> grams = Grams([["a", "b", "a"], ["a", "b"]])
    >>> both = np.array([0, 1])
    >>> grams.distinct(both, 1), grams.distinct(both, 2)  # a, b of five; ab, ba of three
    (0.4, 0.6666666666666666)
    >>> f"{grams.entropy(both, 2):.4f}"  # of 2/3 and 1/3
    '0.6365'
    """

    def __init__(self, texts: Sequence[Sequence[str]]):
        self._lengths = np.array([len(text) for text in texts], np.int64)
        self._orders = [self._of(texts, n) for n in range(1, LONGEST + 1)]

    @staticmethod
    def _of(texts: Sequence[Sequence[str]], n: int) -> list[np.ndarray]:
        number: dict[tuple[str, ...], int] = {}
        return [
            np.array(
                [
                    number.setdefault(tuple(text[at : at + n]), len(number))
                    for at in range(len(text) - n + 1)
                ],
                np.int64,
            )
            for text in texts
        ]

    def _all(self, rows: np.ndarray, n: int) -> np.ndarray:
        return np.concatenate([self._orders[n - 1][row] for row in rows])

    def distinct(self, rows: np.ndarray, n: int) -> float:
        """Distinct-n: different n-grams over all n-grams."""
        grams = self._all(rows, n)
        return len(np.unique(grams)) / len(grams) if len(grams) else math.nan

    def entropy(self, rows: np.ndarray, n: int) -> float:
        """Of the n-grams' frequencies, in nats."""
        _, counts = np.unique(self._all(rows, n), return_counts=True)
        share = counts / counts.sum() if len(counts) else np.array([math.nan])
        return float(-(share * np.log(share)).sum())

    def self_bleu(self, rows: np.ndarray) -> float:
        """The mean BLEU-4 of each text, all others its references: the less, the more diverse.

        BLEU as of Papineni et al. 2002, with the smoothing of SMOOTHING; a text that shares no word
        with any other scores 0. NaN of fewer than two texts.
        """
        if len(rows) < 2:
            return math.nan
        precisions = [self._precision(rows, n) for n in range(1, LONGEST + 1)]
        lengths = self._lengths[rows]
        score = np.exp(np.mean(np.log(precisions), axis=0)) * _brevity(lengths)
        shares_words = precisions[0] >= 1 / np.maximum(lengths, 1)
        return float(np.where(shares_words & (lengths > 0), score, 0).mean())

    def _precision(self, rows: np.ndarray, n: int) -> np.ndarray:
        """Share of each text's n-grams that are in another text too, as often at most as there."""
        grams = [self._orders[n - 1][row] for row in rows]
        total = np.array([len(each) for each in grams])
        text = np.repeat(np.arange(len(rows)), total)
        pairs = np.stack([np.concatenate(grams), text])
        (gram, text), count = np.unique(pairs, axis=1, return_counts=True)
        order = np.lexsort((-count, gram))  # of each n-gram, the text that has it most often first
        gram, text, count = gram[order], text[order], count[order]
        first = np.append(True, gram[1:] != gram[:-1])[: len(gram)]
        begin = np.maximum.accumulate(np.where(first, np.arange(len(gram)), 0))
        second = np.append(count, 0)[begin + 1]
        second[np.append(first, True)[begin + 1]] = 0  # nobody else has it
        most = np.where(first, second, count[begin])
        hits = np.bincount(text, np.minimum(count, most), minlength=len(rows))
        return np.where(hits > 0, hits, SMOOTHING) / np.maximum(total, 1)


def _brevity(lengths: np.ndarray) -> np.ndarray:
    """BLEU's penalty of each text for being shorter than the length next to its own, of two as
    near the smaller."""
    order = np.sort(lengths)
    at = np.searchsorted(order, lengths)
    alone = np.append(order, -1)[at + 1] != lengths
    below, above = order[at - 1].astype(float), np.append(order, -1)[at + 1].astype(float)
    below[at == 0], above[at + 1 == len(order)] = -math.inf, math.inf
    near = np.where(lengths - below <= above - lengths, below, above)
    near = np.where(alone, near, lengths)
    return np.exp(np.minimum(1 - near / np.maximum(lengths, 1), 0))


# --- by vectors -----------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    """`[n, d]` at length 1; zeros stay."""
    length: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / length.clip(min=1e-9)


def pair_distance(vectors: np.ndarray) -> float:
    """Mean cosine distance over pairs; NaN of fewer than two.

    >>> f"{pair_distance(np.array([[1, 0], [0, 1], [-1, 0]])):.4f}"  # of 1, 2, 1
    '1.3333'
    """
    n = len(vectors)
    if n < 2:
        return math.nan
    length = (vectors.astype(float) ** 2).sum()
    total = vectors.sum(axis=0, dtype=float)
    return 1 - float(total @ total - length) / (n * (n - 1))


def density(vectors: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """How dense a reference lies around each row: 1 over the mean cosine distance to the nearest
    of its rows, float64 `[n]`, NovelSum's sigma. Rows at the very place, as a row itself is where
    the reference has it, are no neighbours.

    >>> density(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), 1)
    array([1.])
    """
    apart = 1 - vectors.astype(float) @ reference.astype(float).T
    apart[apart < 1e-7] = math.inf
    near = np.sort(apart, axis=1)[:, :neighbours]
    there = np.isfinite(near)
    mean = np.where(there, near, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return 1 / np.maximum(mean, CLOSEST)


def novel_sum(vectors: np.ndarray, densities: np.ndarray) -> float:
    """NovelSum: the mean over rows i of the average of d_ij sigma_j^beta over all others j, with
    1 over j's rank by distance from i as weights.

    As the paper has it, but averages stand for its sums, as in its authors' code, so that sizes
    compare; that code has sigma_i in the place of sigma_j. `densities` `[n]`, see `density`: the
    paper takes them in all that could have been chosen. NaN of fewer than two rows.

    Distances 1, 2, 1; densities 1, 4, 1. From the first row 1 x 2, then 2 x 1, and so from the
    third; from the second 1 and 1:

    >>> three = np.array([[1, 0], [0, 1], [-1, 0]])
    >>> f"{novel_sum(three, np.array([1, 4, 1])):.4f}"  # (2 + 1 + 2) / 3
    '1.6667'
    """
    n = len(vectors)
    if n < 2:
        return math.nan
    apart = 1 - vectors.astype(float) @ vectors.astype(float).T
    np.fill_diagonal(apart, math.inf)
    order = np.argsort(apart, axis=1, kind="stable")[:, :-1]
    novel = np.take_along_axis(apart, order, axis=1) * densities[order] ** DENSITY_POWER
    weight = 1 / np.arange(1, n)
    return float((novel @ weight).mean() / weight.sum())


def vendi_score(vectors: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines: how many different rows there
    seem to be, from 1 to n. NaN of none.

    >>> f"{vendi_score(np.array([[1, 0], [0, 1], [1, 0], [0, 1]])):.4f}"
    '2.0000'
    """
    if not len(vectors):
        return math.nan
    vectors = vectors.astype(float)
    wide = vectors.shape[1] > len(vectors)  # of the two products, which share eigenvalues
    product = vectors @ vectors.T if wide else vectors.T @ vectors
    share = np.linalg.eigvalsh(product / len(vectors))
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))
