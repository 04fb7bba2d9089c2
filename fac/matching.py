"""Which features of two dictionaries are the same: those whose activations go together over the
same samples.

Arrays in, numbers out; no files, no models. A feature is its peaks over samples, 0 where it is
silent, and its partner is the feature of the other dictionary whose peaks have the highest
Pearson's r with its own, where that is above MATCHED (activation similarity, as Bricken et al. 2023
match features of two SAEs). Partners are one-sided: dictionaries differ in width, and several
features of the wider are then one of the narrower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fac.errors import Progress

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MATCHED = 0.5
"""Partners have an r above this."""

FEWEST_SAMPLES = 10
"""In which a feature must fire to be compared: of rarer ones, that meet in a sample or two by
chance, some are alike whatever they are about."""

BLOCK = 256
"""Features of the first dictionary that are compared with all of the second at once."""


class Partners(NamedTuple):
    """Of each feature of a first dictionary, the one of a second whose peaks are most like its."""

    partner: np.ndarray
    """int64 `[n_features]`; -1 where none has an r above MATCHED."""
    r: np.ndarray
    """float64 `[n_features]`: the highest r, partner or not; NaN of a feature that fires in too few
    samples, or never changes, and where the second has none to compare."""
    mutual: np.ndarray
    """bool `[n_features]`: the partner has none that is more like it."""


def partners(first: csr_array, second: csr_array, progress: Progress = lambda *_: None) -> Partners:
    """The partners in `second` of the features of `first`, two sparse matrices of peaks over the
    same samples, `[n_features, n_samples]` and `[m_features, n_samples]`.

    Features are compared in blocks, so memory holds `BLOCK * m_features` correlations. Of equals
    the lowest feature is the partner.

    >>> from scipy.sparse import csr_array
    >>> a = csr_array(np.repeat([[4, 2, 0, 0], [0, 0, 0, 3]], 10, axis=1).astype(float))
    >>> b = csr_array(np.repeat([[0, 0, 0, 1], [2, 2, 0, 0]], 10, axis=1).astype(float))
    >>> match = partners(a, b)
    >>> match.partner.tolist(), match.r.round(4).tolist(), match.mutual.tolist()
    ([1, 0], [0.9045, 1.0], [True, True])
    """
    n, n_samples = first.shape
    partner, highest = np.full(n, -1), np.full(n, np.nan)
    mine, theirs = _compared(first), _compared(second)
    if not (len(mine.features) and len(theirs.features)):
        return Partners(partner, highest, np.zeros(n, bool))
    by_sample = theirs.peaks.T.tocsr()
    best_of_other = np.full(len(theirs.features), -np.inf)
    for start in range(0, len(mine.features), BLOCK):
        progress(start, len(mine.features), "comparing features")
        rows = slice(start, start + BLOCK)
        r = (mine.peaks[rows] @ by_sample).toarray()
        r -= n_samples * mine.mean[rows, None] * theirs.mean
        r /= mine.length[rows, None] * theirs.length
        np.maximum(best_of_other, r.max(axis=0), out=best_of_other)
        best = r.argmax(axis=1)
        partner[mine.features[rows]] = best
        highest[mine.features[rows]] = r[np.arange(len(best)), best]
    matched = highest > MATCHED
    mutual = matched.copy()
    mutual[matched] = highest[matched] >= best_of_other[partner[matched]]
    partner[matched] = theirs.features[partner[matched]]
    partner[~matched] = -1
    return Partners(partner, highest.clip(-1, 1), mutual)


class _Compared(NamedTuple):
    """The features of a dictionary that can be compared."""

    features: np.ndarray
    peaks: csr_array
    mean: np.ndarray
    length: np.ndarray
    """Of what is left of a feature's peaks without their mean."""


def _compared(peaks: csr_array) -> _Compared:
    n_samples = peaks.shape[1]
    support = np.diff(peaks.indptr)
    features = np.flatnonzero(support >= FEWEST_SAMPLES)
    some = peaks[features].astype(np.float64)
    mean = np.asarray(some.sum(axis=1)).ravel() / max(n_samples, 1)
    squares = np.asarray(some.power(2).sum(axis=1)).ravel()
    spread = squares - n_samples * mean**2
    changes = spread > 1e-9 * squares  # else it is the same everywhere, up to rounding
    return _Compared(features[changes], some[changes], mean[changes], np.sqrt(spread[changes]))


def shuffled(peaks: csr_array, rng: np.random.Generator) -> csr_array:
    """The same peaks in samples that are permuted, all features by one permutation: what is alike
    then is alike by chance."""
    permuted: csr_array = peaks.tocsc()[:, rng.permutation(peaks.shape[1])].tocsr()
    return permuted
