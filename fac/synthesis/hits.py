"""What texts fire: every candidate against every gap, and how often a measure shows a feature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from fac import coverage
from fac.encoder import Encoder
from fac.schema import ROLES, Activations, Chat
from fac.store.runs import Runs
from fac.synthesis.plan import Progress, Row

ENCODED = 256
"""Texts measured between two reports of progress."""


class Hit(NamedTuple):
    """A text fires a gap."""

    peak: float
    role: int
    """Index into ROLES of the strongest turn."""

    position: int


class Scores(NamedTuple):
    """What texts fire."""

    hits: list[dict[int, Hit]]
    """One dict a text: its gaps that fire at all."""

    features: np.ndarray
    """bool `[n_features]`: active above the threshold in at least one text."""


@runtime_checkable
class EncodesEach(Protocol):
    """An Encoder that can work on several lists of chats at once."""

    def encode_each(self, parts: Iterable[Sequence[Chat]]) -> Iterator[Activations]:
        """`Encoder.encode` of each, in their order."""
        ...


def score(
    encoder: Encoder,
    chats: Sequence[Chat],
    gaps: Iterable[int],
    *,
    threshold: float,
    progress: Progress,
) -> Scores:
    """Every text against every gap; a text without messages fires nothing."""
    is_gap = np.zeros(encoder.n_features, bool)
    is_gap[[*gaps]] = True
    features = np.zeros(encoder.n_features, bool)
    hits: list[dict[int, Hit]] = [{} for _ in chats]
    readable = [i for i, chat in enumerate(chats) if chat]
    parts = [readable[start : start + ENCODED] for start in range(0, len(readable), ENCODED)]
    batches = ([chats[i] for i in part] for part in parts)
    if isinstance(encoder, EncodesEach):
        encoded = encoder.encode_each(batches)
    else:
        encoded = map(encoder.encode, batches)
    for start, part in zip(range(0, len(readable), ENCODED), parts, strict=True):
        progress(start, len(readable), "measuring the texts")
        fired = next(encoded)
        features[fired.feature[coverage.is_active(fired.peak, threshold)]] = True
        rows = np.flatnonzero(is_gap[fired.feature])
        for sample, role, feature, peak, position in zip(
            *(fired[i][rows].tolist() for i in range(5)), strict=True
        ):
            strongest = hits[part[sample]]
            if feature not in strongest or peak > strongest[feature].peak:
                strongest[feature] = Hit(peak, role, position)
    return Scores(hits, features)


def hit_rows(names: Sequence[str], hits: Sequence[Mapping[int, Hit]]) -> list[Row]:
    """Rows of schema.HITS of the candidates of these names, by candidate and feature."""
    return [
        {
            "candidate": name,
            "feature": feature,
            "peak": hit.peak,
            "role": ROLES[hit.role],
            "position": hit.position,
        }
        for name, fires in sorted(zip(names, hits, strict=True), key=lambda each: each[0])
        for feature, hit in sorted(fires.items())
    ]


def support_of(runs: Runs, measure: str, n_features: int, threshold: float) -> np.ndarray:
    """Samples of a measure in which each feature is active: int64 `[n_features]`; a sample counts
    once whatever roles fire."""
    counts = np.zeros(n_features, np.int64)
    feature = sample = np.zeros(0, np.int32)
    for batch in runs.batches(measure, "activations", columns=["feature", "sample", "peak"]):
        active = coverage.is_active(batch.column("peak").to_numpy(), threshold)
        feature = np.concatenate([feature, batch.column("feature").to_numpy()[active]])
        sample = np.concatenate([sample, batch.column("sample").to_numpy()[active]])
        # Sorted by feature: only the last one may go on in the next batch.
        whole = int(np.searchsorted(feature, feature[-1])) if len(feature) else 0
        counts += coverage.distinct_samples(feature[:whole], sample[:whole], n_features)
        feature, sample = feature[whole:], sample[whole:]
    return counts + coverage.distinct_samples(feature, sample, n_features)
