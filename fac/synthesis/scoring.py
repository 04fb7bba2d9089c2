"""What texts fire: every text against every gap, anywhere and on its own words alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from fac import coverage
from fac.encoder import Encoder, Reading
from fac.errors import Progress
from fac.models import SCAFFOLD, Rendered
from fac.schema import EVERY_ROLE, ROLES, Chat
from fac.store.runs import Runs
from fac.synthesis.own_words import Stretch, borrowed_tokens
from fac.synthesis.plan import Row

ENCODED = 256  # texts measured between two reports of progress

Borrowed = Callable[[int], Mapping[int, Sequence[Stretch]]]
"""What of a text, by its number, is borrowed: stretches by message."""


class Hit(NamedTuple):
    """A text fires a gap."""

    peak: float
    role: int  # index into ROLES of the strongest turn
    position: int
    own_peak: float | None = None  # on its own words, 0 where silent; None where nobody looked


Hits = Sequence[Mapping[int, Hit]]  # one mapping a text: what it fires


class Scores(NamedTuple):
    """What texts fire."""

    hits: list[dict[int, Hit]]  # one dict a text: its gaps that fire at all
    features: np.ndarray  # bool `[n_features]`: active above the threshold in at least one text


def of_role(role: np.ndarray, name: str) -> np.ndarray:
    """Which of these `[n]` role codes are this role's: bool `[n]`; all are EVERY_ROLE's."""
    return np.ones(len(role), bool) if name == EVERY_ROLE else role == ROLES.index(name)


def score(
    encoder: Encoder,
    chats: Sequence[Chat],
    gaps: Iterable[int],
    *,
    threshold: float,
    role: str = EVERY_ROLE,
    borrowed: Borrowed | None = None,
    progress: Progress,
) -> Scores:
    """Every text against every gap, by the tokens of one role or of all; a text without messages
    fires nothing. Where it is said what is `borrowed`, hits have a peak on own words."""
    is_gap = np.zeros(encoder.n_features, bool)
    is_gap[[*gaps]] = True
    features = np.zeros(encoder.n_features, bool)
    hits: list[dict[int, Hit]] = [{} for _ in chats]
    readable = [i for i, chat in enumerate(chats) if chat]
    parts = [readable[start : start + ENCODED] for start in range(0, len(readable), ENCODED)]
    batches = ([chats[i] for i in part] for part in parts)
    # An encoder may work on several lists of chats at once.
    read_each = getattr(encoder, "read_each", partial(map, encoder.read))
    read = iter(read_each(batches))
    for start, part in zip(range(0, len(readable), ENCODED), parts, strict=True):
        progress(start, len(readable), "measuring the texts")
        for reading in next(read):
            fired = reading.pooled()
            counts = of_role(fired.role, role)
            features[fired.feature[counts & coverage.is_active(fired.peak, threshold)]] = True
            rows = np.flatnonzero(counts & is_gap[fired.feature])
            columns = (fired[i][rows].tolist() for i in range(5))
            for sample, code, feature, peak, position in zip(*columns, strict=True):
                strongest = hits[part[sample]]
                if feature not in strongest or peak > strongest[feature].peak:
                    strongest[feature] = Hit(peak, code, position)
            if borrowed is not None:
                _add_own_peaks(reading, part, chats, is_gap, role, borrowed, hits)
    return Scores(hits, features)


def _add_own_peaks(
    reading: Reading,
    part: Sequence[int],
    chats: Sequence[Chat],
    is_gap: np.ndarray,
    role: str,
    borrowed: Borrowed,
    hits: Sequence[dict[int, Hit]],
) -> None:
    """What a batch of the texts `part` fires on own words, in what they fire at all."""
    for sample, rendered in zip(reading.samples, reading.rendered, strict=True):
        number = part[sample]
        if not hits[number]:
            continue
        taken = borrowed_tokens(chats[number], rendered, borrowed(number))
        entries = (reading.sample == sample) & is_gap[reading.feature]
        peaks = own_peaks(reading, entries, taken, role)
        for feature, hit in hits[number].items():
            hits[number][feature] = hit._replace(own_peak=peaks.get(feature, 0.0))


def own_peaks(
    reading: Reading, entries: np.ndarray, taken: np.ndarray, role: str
) -> dict[int, float]:
    """Of these entries of a reading, bool `[n]`, all of one text: the peak of each feature on
    tokens of the role that are not `taken`, bool `[n_tokens]`."""
    own = entries.copy()
    own[entries] = ~taken[reading.position[entries]] & of_role(reading.role[entries], role)
    peaks: dict[int, float] = {}
    pairs = zip(reading.feature[own].tolist(), reading.value[own].tolist(), strict=True)
    for feature, value in pairs:
        peaks[feature] = max(value, peaks.get(feature, 0.0))
    return peaks


def read_alone(
    encoder: Encoder, chat: Chat, role: str, stretches: Mapping[int, Sequence[Stretch]]
) -> tuple[Reading, np.ndarray, dict[int, float]]:
    """One text read by itself: as it was read, the peak of every feature on the role's tokens,
    float32 `[n_features]`, and the same on its own words, where there is one."""
    (reading,) = encoder.read([chat])
    (rendered,) = reading.rendered
    peaks = np.zeros(encoder.n_features, np.float32)
    counts = of_role(reading.role, role)
    np.maximum.at(peaks, reading.feature[counts], reading.value[counts])
    taken = borrowed_tokens(chat, rendered, stretches)
    return reading, peaks, own_peaks(reading, np.ones(len(reading.feature), bool), taken, role)


def traced(
    candidate: str,
    chat: Chat,
    reading: Reading,
    gaps: Sequence[int],
    stretches: Mapping[int, Sequence[Stretch]],
) -> list[Row]:
    """A text that was read alone, token by token for each of the gaps: rows of schema.TRACES;
    `stretches` of its messages are borrowed."""
    (rendered,) = reading.rendered
    taken = borrowed_tokens(chat, rendered, stretches)
    content = np.flatnonzero(rendered.role != SCAFFOLD)
    tokens = content_tokens(rendered)
    rows = []
    for gap in gaps:
        values = np.zeros(len(rendered.ids), np.float32)
        fired = reading.feature == gap
        values[reading.position[fired]] = reading.value[fired]
        row = {"candidate": candidate, "feature": gap, "tokens": tokens}
        values, of_sources = values[content].tolist(), taken[content].tolist()
        rows.append({**row, "activations": values, "borrowed": of_sources})
    return rows


def content_tokens(rendered: Rendered) -> list[str]:
    """The tokens of a chat's messages as text."""
    pieces = rendered.pieces(0, len(rendered.ids))
    return [pieces[position] for position in np.flatnonzero(rendered.role != SCAFFOLD).tolist()]


def hit_rows(names: Sequence[str], hits: Hits) -> list[Row]:
    """Rows of schema.HITS of the candidates of these names, by candidate and feature."""
    return [
        {
            "candidate": name,
            "feature": feature,
            "peak": hit.peak,
            "role": ROLES[hit.role],
            "position": hit.position,
            "own_peak": hit.own_peak,
        }
        for name, fires in sorted(zip(names, hits, strict=True), key=lambda each: each[0])
        for feature, hit in sorted(fires.items())
    ]


def support_of(
    runs: Runs, measure: str, n_features: int, threshold: float, role: str = EVERY_ROLE
) -> np.ndarray:
    """Samples of a measure in which each feature is active: int64 `[n_features]`; a sample counts
    once whatever roles fire, or where this one does."""
    counts = np.zeros(n_features, np.int64)
    feature = sample = np.zeros(0, np.int32)
    columns = ["feature", "sample", "peak", "role"]
    for batch in runs.batches(measure, "activations", columns=columns):
        active = coverage.is_active(batch.column("peak").to_numpy(), threshold)
        if role != EVERY_ROLE:
            active &= pc.equal(batch.column("role"), role).to_numpy(zero_copy_only=False)
        feature = np.concatenate([feature, batch.column("feature").to_numpy()[active]])
        sample = np.concatenate([sample, batch.column("sample").to_numpy()[active]])
        # Sorted by feature: only the last one may go on in the next batch.
        whole = int(np.searchsorted(feature, feature[-1])) if len(feature) else 0
        counts += coverage.distinct_samples(feature[:whole], sample[:whole], n_features)
        feature, sample = feature[whole:], sample[whole:]
    return counts + coverage.distinct_samples(feature, sample, n_features)
