"""The silent half of a pair: of the texts that leave its feature silent the one most like the
positive, out of what was written, the dataset and the anchor.

Alike is who shares words: the Jaccard similarity of two texts' words, each weighted by how rare it
is among all texts compared (inverse document frequency), so that common words say little. What a
sample fires is read from its run, so nothing is encoded here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.config import PairsSpec
from fac.schema import EVERY_ROLE, Chat
from fac.store.runs import Runs
from fac.store.samples import read_samples
from fac.synthesis.filter import words
from fac.synthesis.scoring import Hits
from fac.synthesis.sides import Side
from fac.synthesis.writing import Candidate

ORIGINS = ("own", "pool", "dataset", "anchor")
"""Where a text comes from: written for this gap or for another, a sample; in this order of two that
are about as near."""

OWN, POOL, DATASET, ANCHOR = range(len(ORIGINS))

NEAR_ENOUGH = 0.8
"""A text as like the positive as this share of the nearest's likeness counts as equally near."""

FLOOR = 0.08
"""Likeness below which two texts have nothing to do with each other: a deletion is tried before."""

HALF = 0.5  # of the positive's peak, above which a text is no contrast to it
TRIES = 3  # texts a gap that are measured, nearest first
LOOKED_AT = 100  # nearest texts that are looked at for TRIES fluent ones
MOST = 20_000  # samples of a run that are compared, spread evenly over it
BLOCK = 256  # positives compared at once

Form = tuple[str, ...]  # the roles of a chat's messages
Fluent = Callable[[Chat], bool]  # whether it reads like a text of the dataset


class Near(NamedTuple):
    """A text that may become a negative."""

    likeness: float  # 0 to 1, of its words and the positive's
    origin: str
    messages: Chat


class _Pool(NamedTuple):
    """Texts of one form; arrays have one entry for each."""

    chats: list[Chat]
    origin: np.ndarray  # int: place in ORIGINS; OWN for all that was written
    feature: np.ndarray  # int: the gap it was written for; -1 for a sample
    hits: Hits  # of the written ones, which come first
    samples: list[tuple[str, list[int]]]  # measures and rows of the samples that follow, ascending


def ceiling(threshold: float, margin: float) -> float:
    """The highest a negative may fire: the margin below the threshold; not at all where the
    threshold is no higher than the margin.

    >>> ceiling(7.0, 1.0), ceiling(0.5, 1.0), ceiling(0.0, 1.0)
    (6.0, 0.0, 0.0)
    """
    return max(0.0, threshold - margin)


def form_of(chat: Chat) -> Form:
    """The roles of its messages."""
    return tuple(message["role"] for message in chat)


def cut_to(chat: Chat, form: Form) -> Chat | None:
    """The beginning of a chat, without its system prompt where need be, that has the form; None
    where there is none."""
    roles = form_of(chat)
    first = 1 if roles[:1] == ("system",) != form[:1] else 0
    return chat[first : first + len(form)] if roles[first : first + len(form)] == form else None


def nearest(
    spec: PairsSpec,
    positives: Mapping[int, Side],
    candidates: Sequence[Candidate],
    hits: Hits,
    runs: Runs,
    fluent: Fluent,
) -> tuple[dict[int, list[Near]], int]:
    """For each feature at most TRIES fluent texts in the form of its positive that do not fire it
    above the ceiling, nor HALF as much as the positive, the best choice first; and how many texts a
    positive was compared with at most. Likeness counts less by the share of the positive's peak
    that a text still has."""
    features_of: dict[Form, list[int]] = defaultdict(list)
    for feature, side in positives.items():
        features_of[form_of(side.messages)].append(feature)
    chosen: dict[int, list[Near]] = {}
    compared = 0
    for form, features in features_of.items():
        pool = _pool(spec, form, candidates, hits, runs)
        compared = max(compared, len(pool.chats))
        texts = [text_of(positives[feature].messages) for feature in features]
        rows = likeness(texts, [text_of(chat) for chat in pool.chats]) if pool.chats else ()
        for number, alike in enumerate(rows):
            if number % BLOCK == 0:
                peaks = _peaks(spec, form, features[number : number + BLOCK], pool, runs)
            feature = features[number]
            side, fired = positives[feature], peaks[feature]
            chosen[feature] = _best(spec, feature, side, alike, fired, pool, fluent)
    return chosen, compared


def text_of(chat: Chat) -> str:
    """Everything a chat says, for comparing."""
    return "\n".join(message["content"] for message in chat)


def likeness(texts: Sequence[str], pool: Sequence[str]) -> Iterator[np.ndarray]:
    """Of each text in turn to each of the pool: float64 `[pool]`, the summed weights of the words
    both have over those of the words that one has. A word of n texts among m weighs
    ln((1 + m) / (1 + n)) + 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(map(words, (*texts, *pool))):
        yield from np.zeros((len(texts), len(pool)))
        return
    weights = TfidfVectorizer(analyzer=words, binary=True, norm=None)
    table = weights.fit_transform([*texts, *pool])
    total = np.asarray(table.sum(1)).ravel()
    columns, of_pool = table[len(texts) :].T.tocsr(), total[len(texts) :]
    for start in range(0, len(texts), BLOCK):
        rows = table[start : min(start + BLOCK, len(texts))]
        shared = ((rows > 0).astype(np.float64) @ columns).toarray()
        either = total[start : start + len(shared), None] + of_pool - shared
        yield from np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)


def _best(
    spec: PairsSpec,
    feature: int,
    positive: Side,
    alike: np.ndarray,
    fired: np.ndarray,
    pool: _Pool,
    fluent: Fluent,
) -> list[Near]:
    """The best choices for one positive, given its likeness `[texts]` to all of the pool and what
    these fire."""
    alike = alike * np.clip(1 - fired / positive.peak, 0, 1)
    highest = min(ceiling(spec.threshold, spec.margin), HALF * positive.peak)
    alike[fired > highest] = -1
    close = alike >= NEAR_ENOUGH * alike.max()
    origin = np.where((pool.origin == OWN) & (pool.feature != feature), POOL, pool.origin)
    order = np.lexsort((-alike, np.where(close, origin, 0), ~close))  # stable: of equals the first
    chosen: list[Near] = []
    for i in order[:LOOKED_AT].tolist():
        if len(chosen) == TRIES or alike[i] < 0:
            break
        if pool.chats[i] != positive.messages and fluent(pool.chats[i]):
            chosen.append(Near(float(alike[i]), ORIGINS[origin[i]], pool.chats[i]))
    return chosen


def _pool(
    spec: PairsSpec, form: Form, candidates: Sequence[Candidate], hits: Hits, runs: Runs
) -> _Pool:
    """All texts of a form."""
    written = [
        (candidate, fires)
        for candidate, fires in zip(candidates, hits, strict=True)
        if not candidate.problem and form_of(candidate.messages) == form
    ]
    chats = [candidate.messages for candidate, _ in written]
    origins, gaps = [OWN] * len(chats), [candidate.ask.feature for candidate, _ in written]
    numbers: list[tuple[str, list[int]]] = []
    for origin, measure in ((DATASET, spec.dataset), (ANCHOR, spec.anchor)):
        read = read_samples(runs, measure)
        samples = samples_of_form(runs, runs.manifest(measure).facts.dataset, form)
        samples = {row: chat for row, chat in samples.items() if read[row]}
        chats += samples.values()
        origins += [origin] * len(samples)
        numbers.append((measure, [*samples]))
    gaps += [-1] * (len(chats) - len(gaps))
    fires = [fires for _, fires in written]
    return _Pool(chats, np.array(origins), np.array(gaps), fires, numbers)


def _peaks(
    spec: PairsSpec, form: Form, features: Sequence[int], pool: _Pool, runs: Runs
) -> dict[int, np.ndarray]:
    """What all texts of a pool fire of these features: by feature float32 `[texts]`."""
    roles = form if spec.role == EVERY_ROLE else (spec.role,)
    stored = [_stored(runs, m, features, rows, roles) for m, rows in pool.samples]
    peaks = {}
    for each in features:
        written = [hits[each].peak if each in hits else 0.0 for hits in pool.hits]
        parts = [np.array(written, np.float32), *(part[each] for part in stored)]
        peaks[each] = np.concatenate(parts)
    return peaks


def samples_of_form(runs: Runs, dataset: str, form: Form) -> dict[int, Chat]:
    """Samples of a dataset run that begin in this form, cut to it, by their row; of more than MOST
    every second, third, ..."""
    chats: dict[int, Chat] = {}
    rows = runs.manifest(dataset).files["samples.parquet"]["rows"]
    step, start = max(1, -(-rows // MOST)), 0
    for batch in runs.batches(dataset, "samples", columns=["messages"]):
        column = batch.column("messages")
        for row in range(-start % step, len(batch), step):
            chat = cut_to(column[row].as_py(), form)
            if chat is not None:
                chats[start + row] = chat
        start += len(batch)
    return chats


def _stored(
    runs: Runs, measure: str, features: Sequence[int], samples: Sequence[int], roles: Sequence[str]
) -> dict[int, np.ndarray]:
    """What these samples of a measure, ascending, fire by the tokens of these roles: by feature
    float32 `[samples]`. Turns that a sample was cut by count, so a peak is at least the text's."""
    table = runs.rows(measure, "activations", features, ["feature", "sample", "role", "peak"])
    counts = pc.is_in(table["role"].cast(pa.string()), pa.array(roles))
    table = table.filter(counts)
    feature, sample, peak = (table[name].to_numpy() for name in ("feature", "sample", "peak"))
    numbers = np.asarray(samples, np.int64)
    number = np.searchsorted(numbers, sample)
    number[number == len(numbers)] = 0
    chosen = numbers[number] == sample if len(numbers) else np.zeros(len(sample), bool)
    stored: dict[int, np.ndarray] = {}
    for each in features:
        first, beyond = np.searchsorted(feature, [each, each + 1])
        rows = np.flatnonzero(chosen[first:beyond]) + first
        stored[each] = np.zeros(len(numbers), np.float32)
        np.maximum.at(stored[each], number[rows], peak[rows])
    return stored
