"""The mathematics of coverage and gaps. Arrays in, numbers out; no files, no SQL, no models.

Paper: arXiv 2602.10388, sections 3 and 4, appendix D; M1 to M3 are choices where it is silent, see
docs/contributing.md. The examples are worked out by hand and run as tests, so that a formula and
its numbers change together.
"""

from __future__ import annotations

import math

import numpy as np

from fac.errors import InputError
from fac.schema import Activations, CoverageResult

EPSILON = 0.01  # smoothing weight of the uniform part in the smoothed KL divergence

NEAR_CONSTANT = 0.9
"""A feature firing in more than this share of the anchor's samples says nothing about a sample."""


def is_active(peak: np.ndarray, threshold: float) -> np.ndarray:
    """A_i(x) = 1[g_i(x) > threshold] (eq. 4). The SQL repeats it and a test compares the two.

    Strictly above: at threshold 0 a silent feature must stay silent.
    """
    # float() because NumPy compares float32 peaks with a Python number in float32, but with one of
    # its own float64 numbers in float64: 0.1 would be below or above its own rounding.
    return np.asarray(peak) > float(threshold)


def pool(
    sample: np.ndarray,
    role: np.ndarray,
    feature: np.ndarray,
    position: np.ndarray,
    value: np.ndarray,
) -> Activations:
    """Token activations -> g_i(x): the largest value per (sample, role, feature) (App. D, eq. 30).

    All inputs have shape [n]; ties go to the first position.
    """
    top, counts = strongest(sample, role, feature, position, value=value)
    return Activations(
        sample=sample[top].astype(np.int32),
        role=role[top].astype(np.int8),
        feature=feature[top].astype(np.int32),
        peak=value[top].astype(np.float32),
        position=position[top].astype(np.int32),
        n_tokens=counts.astype(np.int32),
    )


def strongest(*keys: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all entries that agree in every key but the last, which has the largest value, and how
    many they are: two arrays `[groups]`, in the order of the keys.

    Each input is `[n]`; keys are whole numbers from 0 up, values are no NaN. Of equal values the
    one with the lowest last key. Raises OverflowError for keys that 63 bits do not hold together.
    """
    if not len(value):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    # One whole number sorts in a third of the time of several keys.
    code, sizes = np.zeros(len(value), np.int64), [1 + int(key.max()) for key in keys]
    if math.prod(sizes) >= 2**63:
        raise OverflowError(f"Too much to be sorted at once: keys up to {sizes}.")
    for key, size in zip(keys, sizes, strict=True):
        code = code * size + key
    order = np.argsort(code)
    group = code[order] // sizes[-1]
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    counts = np.diff(np.append(first, len(order)))
    ranked = value[order]
    best = np.maximum.reduceat(ranked, first)
    member = np.repeat(np.arange(len(first)), counts)
    top = np.flatnonzero(ranked == best[member])
    earliest = np.append(True, member[top[1:]] != member[top[:-1]])
    return order[top[earliest]], counts


def distinct_samples(feature: np.ndarray, sample: np.ndarray, n_features: int) -> np.ndarray:
    """Samples of each feature among these `[n]` pairs, each counted once: int64 `[n_features]`."""
    pairs = np.unique(feature.astype(np.int64) << 32 | sample)
    return np.bincount(pairs >> 32, minlength=n_features)


def present(n_samples: np.ndarray, at_least: int = 1) -> np.ndarray:
    """F(P) or F(Q): bool `[n_features]`, features active in at least `at_least` samples (eq. 5).

    Raises InputError for a support below one: a feature nobody shows is never present.
    """
    if at_least < 1:
        raise InputError(f"min support must be at least 1, got {at_least}.")
    return np.asarray(n_samples) >= at_least


def fac(anchor: np.ndarray, dataset: np.ndarray, relevant: np.ndarray) -> CoverageResult:
    """FAC = |F(Q) ∩ F(P)| / |F(P)| and F_miss = F(P) \\ F(Q) (eq. 6), within the relevant set F.

    All three are bool `[n_features]`. The intersection keeps the ratio at most 1 (M1); it is NaN
    where the anchor shows nothing relevant (M2).

    >>> anchor, dataset = np.array([[1, 1, 1, 1, 0, 1], [1, 0, 1, 0, 1, 1]]) > 0
    >>> relevant = np.arange(6) < 5
    >>> q = fac(anchor, dataset, relevant)
    >>> q.fac, q.n_anchor, q.n_dataset, q.n_covered, q.n_missing, q.missing.tolist()
    (0.5, 4, 3, 2, 2, [1, 3])
    >>> fac(anchor, anchor, relevant).fac, fac(anchor, ~anchor, relevant).fac
    (1.0, 0.0)
    >>> fac(~relevant, dataset, relevant).fac
    nan
    """
    anchor, dataset = anchor & relevant, dataset & relevant
    covered, missing = anchor & dataset, anchor & ~dataset
    p, q = int(anchor.sum()), int(dataset.sum())
    c, m = int(covered.sum()), int(missing.sum())
    return CoverageResult(
        fac=c / p if p else math.nan,
        n_anchor=p,
        n_dataset=q,
        n_covered=c,
        n_missing=m,
        kl_smoothed=smoothed_kl(covered=c, missing=m, dataset=q, relevant=int(relevant.sum())),
        missing=np.flatnonzero(missing),
    )


def smoothed_kl(
    *, covered: int, missing: int, dataset: int, relevant: int, epsilon: float = EPSILON
) -> float:
    """KL(P_F || Q_F^eps) in nats, both uniform on their supports (App. D, closed form).

    c/p · log((1/p) / ((1-eps)/q + eps/f)) + m/p · log(f / (eps p)), with p = c + m. NaN when p = 0.
    With q = 0 the mixture is the uniform part alone. The paper's counts for toxicity:

    >>> for c in 106, 175, 214:
    ...     print(f"{smoothed_kl(covered=c, missing=214 - c, dataset=c, relevant=214):.3f}")
    1.979
    0.676
    0.000
    """
    p = covered + missing
    if p == 0:
        return math.nan
    mixed = (1 - epsilon) / dataset + epsilon / relevant if dataset else epsilon / relevant
    return covered / p * math.log(1 / p / mixed) + missing / p * math.log(relevant / (epsilon * p))


def weighted_fac(weight: np.ndarray, covered: np.ndarray) -> float:
    """FAC where features do not count alike: the weight that is covered over all of it.

    Both are `[n]` over the features of F(P); weights are not negative. At most 1; NaN where nothing
    weighs anything.

    >>> weighted_fac(np.array([6, 3, 1]), np.array([True, False, True]))
    0.7
    """
    total = float(weight.sum())
    return float(weight[covered].sum()) / total if total else math.nan


def rate_divergence(n_anchor: np.ndarray, n_dataset: np.ndarray, epsilon: float = EPSILON) -> float:
    """KL(P || Q) in nats of how firing is spread over the features of F(P), int `[n]` samples each.

    P and Q are the rates per content token, each divided by their sum, so that how long or how many
    the texts are cancels out, and both are mixed with epsilon of the uniform distribution, so that
    an absent feature counts and equal rates give 0. NaN where either fires nothing.

    >>> rate_divergence(np.array([8, 4, 4]), np.array([2, 1, 1]))
    0.0
    >>> f"{rate_divergence(np.array([1, 1]), np.array([1, 0]), epsilon=0.5):.4f}"
    '0.1438'
    """
    if not (n_anchor.any() and n_dataset.any()):
        return math.nan
    p, q = (
        (1 - epsilon) * n / n.sum() + epsilon / len(n)
        for n in map(np.asarray, (n_anchor, n_dataset))
    )
    return float((p * np.log(p / q)).sum())


def miss_hit_rate(missing: np.ndarray, now_present: np.ndarray) -> float:
    """Share of F_miss that is active afterwards: the number the paper's tables report (M1).

    `missing` holds feature ids, `now_present` is bool `[n_features]`. NaN for an empty F_miss.

    >>> now = np.array([True, False, True, True])
    >>> miss_hit_rate(np.array([0, 1, 3]), now) == 2 / 3, miss_hit_rate(np.array([], int), now)
    (True, nan)
    """
    return float(now_present[missing].mean()) if len(missing) else math.nan


def everywhere_relevant(n_anchor: np.ndarray, n_samples: int, min_support: int = 1) -> np.ndarray:
    """The relevance profile "all": bool `[n_features]`, without near-constant features.

    A feature that fires in more than NEAR_CONSTANT of the anchor's samples tells nothing about
    what a sample is about and is left out, as are features below the support.
    """
    return (n_anchor >= min_support) & (n_anchor <= NEAR_CONSTANT * n_samples)
