"""What fires in runs, as estimates read it: counts and singletons of several runs together, and
which sample fires which feature, of some features where there are too many to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.samples import read_samples
from fac.uncertainty import Firing, Incidence, together

PAIRS_READ = 2_000_000
"""Of one run for its yardstick: a larger run is asked about some of its features."""

FEATURES_TOGETHER = 16
"""Features of neighbouring numbers, which are read, or left out, together."""


def content_tokens(stores: Stores, runs: Sequence[str], role: str) -> int:
    """Content tokens of a role, or of all that were measured, in these runs together."""
    summaries = [stores.cache.summary(run) for run in runs]
    if role == EVERY_ROLE:
        return sum(int(each["content_tokens"]) for each in summaries)
    return sum(int(each["content_tokens_by_role"].get(role, 0)) for each in summaries)


def support_of(stores: Stores, runs: Sequence[str], threshold: float, role: str) -> np.ndarray:
    """Samples of these runs together that fire each feature: int64 `[n_features]`."""
    return np.sum([stores.cache.support(run, threshold, role) for run in runs], axis=0)


def firing_of(stores: Stores, runs: Sequence[str], threshold: float, role: str) -> Firing:
    """What the samples of these runs fire that were read, those of the first before those of the
    second."""
    cache, at = stores.cache, (threshold, role)
    parts = []
    for run in runs:
        feature, sample = cache.singletons(run, *at)
        number, n = _numbers(stores, run)
        parts.append(Firing(cache.support(run, *at), feature, number[sample], n))
    return together(parts)


def _numbers(stores: Stores, run: str) -> tuple[np.ndarray, int]:
    """The number of each sample among those that were read, int `[n_samples]`, and how many these
    are."""
    read = read_samples(stores.runs, run)
    return np.cumsum(read) - 1, int(read.sum())


def tokens_read(stores: Stores, run: str) -> np.ndarray:
    """Content tokens of every sample that was read, in all the roles that were measured: int64."""
    return stores.cache.tokens_by_sample(run)[read_samples(stores.runs, run)]


def features_read(
    stores: Stores, runs: Sequence[str], features: np.ndarray
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Of these features, bool `[n_features]`, those that are read with all their samples: ranges
    (first, one beyond the last) that hold them, and the features, bool `[n_features]`.

    All of them, or of large runs as many, drawn at random but always the same, as PAIRS_READ of
    their rows allow; some at least, where there are any.
    """
    cache, n_blocks = stores.cache, -(-len(features) // FEATURES_TOGETHER)
    rows = np.sum([cache.support(run, cache.summary(run)["floor"]) for run in runs], axis=0)
    block = np.arange(len(features)) // FEATURES_TOGETHER
    blocks = np.flatnonzero(np.bincount(block[features], minlength=n_blocks))
    drawn = np.random.default_rng(0).permutation(blocks)
    read = np.cumsum(np.bincount(block, weights=rows, minlength=n_blocks)[drawn])
    drawn = np.sort(drawn[: max(int(np.searchsorted(read, PAIRS_READ, side="right")), 1)])
    first = np.flatnonzero(np.diff(drawn, prepend=-2) > 1)
    last = np.append(first[1:], len(drawn))[: len(first)] - 1
    ranges = [
        (int(drawn[i]) * FEATURES_TOGETHER, (int(drawn[j]) + 1) * FEATURES_TOGETHER)
        for i, j in zip(first, last, strict=True)
    ]
    return ranges, features & np.isin(block, drawn)


def incidence_of(
    stores: Stores,
    run: str,
    threshold: float,
    role: str,
    features: np.ndarray,
    ranges: Sequence[tuple[int, int]],
) -> Incidence:
    """Which sample of a run fires which of the features, bool `[n_features]`, that `ranges` hold,
    in the order of features."""
    feature, sample = stores.cache.pairs(run, threshold, role, ranges=ranges)
    inside = features[feature]
    n_samples = len(stores.cache.tokens_by_sample(run))
    return Incidence(sample[inside], feature[inside], n_samples, len(features))


def incidence_read(stores: Stores, run: str, *asked: Any) -> Incidence:
    """As `incidence_of`, of the samples that were read alone, by their number among these."""
    pairs = incidence_of(stores, run, *asked)
    number, n = _numbers(stores, run)
    return pairs._replace(sample=number[pairs.sample], n_samples=n)
