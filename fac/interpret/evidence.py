"""What a measure run knows of a few features: who fires, the spans, and what is kept for the test.

The split: of the samples that fire a feature, a fixed half may shape its explanation, the rest
(never fewer than one) tests it. It depends on the feature and the measure alone, so every
explainer, language model and person is tested on samples no explanation has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.prompts import Excerpt
from fac.schema import ROLES
from fac.store.runs import Runs

SHOWN = 10  # spans a language model sees of a feature (paper App. K)
EXCERPT = 32  # tokens of each, ending a little after the peak (paper: at most 32)
BLOCK = 256  # features looked at in one go; bounds memory

POSITIVES = NEGATIVES = 10  # most held-out examples of each kind in a feature's test
HARD = 6  # of the negatives, how many come from decoder neighbours where there are any
NEIGHBOURS = 4  # decoder neighbours asked for hard negatives
POOL = 64  # features whose spans are the other negatives, the same for every feature of a measure

Span = dict[str, Any]  # a row of schema.SPANS


class Evidence(NamedTuple):
    """All that may be known of one feature before a text of its test is looked at, and the test."""

    feature: int
    firing: np.ndarray  # int `[n]`: samples in which it fires, ascending
    training: np.ndarray  # int: of those, the samples an explanation may be made from
    spans: list[Span]  # all its spans, one a sample and role, strongest first
    promotes: tuple[str, ...]
    examples: list[dict[str, Any]]
    """Rows of schema.EXAMPLES without answers; each with its `span`, where texts were wanted."""

    @property
    def training_spans(self) -> list[Span]:
        """The spans an explanation may be made from, strongest first."""
        training = frozenset(self.training.tolist())
        return [span for span in self.spans if span["sample"] in training]

    @property
    def tested(self) -> np.ndarray:
        """int: firing samples kept for the test."""
        return np.setdiff1d(self.firing, self.training, assume_unique=True)


def generator(measure: str, about: int | str) -> np.random.Generator:
    """The random numbers for one feature or purpose of a measure; the same on every machine."""
    seed = hashlib.sha256(f"{measure}/{about}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed))


def training_part(firing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the firing samples, rounded down, so that one is always left to test."""
    return np.sort(rng.permutation(firing)[: len(firing) // 2])


def blocks(
    runs: Runs, measure: str, features: Sequence[int], *, test: bool = True, texts: bool = True
) -> Iterator[list[Evidence]]:
    """The evidence of `features` (those that fire), ascending, BLOCK at a time.

    Without `test` no examples are drawn; without `texts` they name their spans only. Raises
    InputError for a feature the dictionary lacks.
    """
    facts = runs.manifest(measure).facts
    size = facts.n_features
    if wrong := [f for f in features if not 0 <= f < size]:
        raise InputError(f"There is no feature {wrong[0]}: this dictionary has 0 to {size - 1}.")
    dictionary = runs.table(facts.sae_run, "features", ["promotes", "neighbours"])
    promotes, neighbours = dictionary["promotes"], dictionary["neighbours"]
    draw = generator(measure, "negatives").choice(size, min(POOL, size), replace=False)
    pool = sorted(draw.tolist()) if test else []
    for start in range(0, len(features), BLOCK):
        block = sorted(features[start : start + BLOCK])
        firing = firing_samples(runs, measure, block)
        block = [f for f in block if len(firing[f])]
        near_by = {f: neighbours[f].as_py()[:NEIGHBOURS] if test else [] for f in block}
        features_of_test = {*block, *pool, *(n for ids in near_by.values() for n in ids)}
        spans = _ByFeature(runs.rows(measure, "spans", sorted(features_of_test)))
        items = []
        for f in block:
            rng = generator(measure, f)
            training, own_spans = training_part(firing[f], rng), spans[f]
            promoted = tuple(promotes[f].as_py())
            item = Evidence(f, firing[f], training, _distinct(own_spans), promoted, [])
            if test:
                others = [n for n in pool if n != f]
                examples = _test(item, own_spans, near_by[f], others, spans, rng)
                if texts:
                    examples = [row | {"span": spans.row(row.pop("at"))} for row in examples]
                item.examples.extend(examples)
            items.append(item)
        yield items


def firing_features(runs: Runs, measure: str) -> list[int]:
    """Every feature that fires in the measure, ascending."""
    seen = np.zeros(runs.manifest(measure).facts.n_features, bool)
    for batch in runs.batches(measure, "activations"):
        seen[batch.column("feature").to_numpy()] = True
    return np.flatnonzero(seen).tolist()


def firing_samples(runs: Runs, measure: str, block: Sequence[int]) -> dict[int, np.ndarray]:
    """The samples in which each feature of an ascending block fires, ascending."""
    rows = runs.rows(measure, "activations", block, ["feature", "sample"])
    feature, sample = rows["feature"].to_numpy(), rows["sample"].to_numpy()
    starts = np.searchsorted(feature, [*block, np.iinfo(np.int32).max])
    ranges = zip(block, starts[:-1], starts[1:], strict=True)
    return {f: np.unique(sample[first:last]) for f, first, last in ranges}


class _ByFeature:
    """Spans sorted by feature; their texts become Python objects only when they are asked for."""

    def __init__(self, table: pa.Table):
        self._table = table.combine_chunks()
        self._feature, self._sample = (table[name].to_numpy() for name in ("feature", "sample"))
        self._kind, self._rank = table["kind"].to_pylist(), table["rank"].to_pylist()

    def __getitem__(self, feature: int) -> list[Span]:
        """All of a feature, each with its place `at` in the table."""
        first, last = self._range(feature)
        rows = self._table.slice(first, last - first).to_pylist()
        return [row | {"at": first + i} for i, row in enumerate(rows)]

    def some(self, feature: int, n: int, rng: np.random.Generator) -> Iterator[Span]:
        """At most n random ones of a feature, without their texts."""
        first, last = self._range(feature)
        for at in (first + rng.permutation(last - first)[:n]).tolist():
            names = {"feature": feature, "kind": self._kind[at], "rank": self._rank[at]}
            yield {**names, "sample": int(self._sample[at]), "at": at}

    def row(self, at: int) -> Span:
        return self._table.slice(at, 1).to_pylist()[0]

    def _range(self, feature: int) -> tuple[int, int]:
        first, last = np.searchsorted(self._feature, [feature, feature + 1])
        return int(first), int(last)


def _firsts(spans: Iterable[Span], key: Callable[[Span], object]) -> list[Span]:
    """The first span of each key."""
    firsts: dict[object, Span] = {}
    for span in spans:
        firsts.setdefault(key(span), span)
    return list(firsts.values())


def _distinct(spans: Iterable[Span]) -> list[Span]:
    """One span a sample and role: "top" and "spread" overlap. Strongest first."""
    firsts = _firsts(spans, lambda s: (s["sample"], s["role"]))
    return sorted(firsts, key=lambda s: (-s["peak"], s["sample"], s["role"]))


def one_each(spans: Iterable[Span]) -> list[Span]:
    """The first span of every sample, so that no test holds one sample twice."""
    return _firsts(spans, lambda s: s["sample"])


def _test(
    item: Evidence,
    own_spans: list[Span],
    neighbours: Sequence[int],
    pool: Sequence[int],
    spans: _ByFeature,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The shuffled test of one feature: held-out spans over all strengths, and texts where it is
    silent, first those on which its decoder neighbours fire."""
    seen, fires = frozenset(item.training.tolist()), frozenset(item.firing.tolist())
    positives = one_each(s for s in own_spans if s["sample"] not in seen)
    positives = evenly(sorted(positives, key=lambda s: -s["peak"]), POSITIVES)
    beside = (s for n in neighbours for s in spans.some(n, 2, rng))
    hard = one_each(s for s in beside if s["sample"] not in fires)[:HARD]
    apart = (s for i in rng.permutation(len(pool)) for s in spans.some(pool[i], 1, rng))
    silent = (s for s in apart if s["sample"] not in fires)
    negatives = one_each(islice(chain(hard, silent), 2 * NEGATIVES))[:NEGATIVES]
    chosen = [(s, True, False) for s in positives]
    chosen += [(s, False, i < len(hard)) for i, s in enumerate(negatives)]
    shuffled = [chosen[i] for i in rng.permutation(len(chosen)).tolist()]
    return [
        {
            "feature": item.feature,
            "number": number,
            **{f"source_{name}": span[name] for name in ("feature", "kind", "rank")},
            "positive": positive,
            "hard": is_hard,
            "at": span["at"],
        }
        for number, (span, positive, is_hard) in enumerate(shuffled)
    ]


def evenly(items: Sequence[Span], n: int) -> list[Span]:
    """At most n of them, spread over the whole order with the ends kept."""
    if len(items) <= n:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, n).round().astype(int)]


def role_texts(messages: Sequence[dict[str, str]]) -> dict[str, str]:
    """What each role said in a sample, its turns joined by line breaks."""
    turns: dict[str, list[str]] = {}
    for message in messages:
        role = message["role"] if message["role"] in ROLES else ROLES[1]
        turns.setdefault(role, []).append(message["content"])
    return {role: "\n".join(texts) for role, texts in turns.items()}


def excerpt_of(span: Span, *, marks: bool = True, right: bool = True) -> Excerpt:
    """A span as a language model sees it: EXCERPT tokens around the peak, firing tokens marked.

    Wrong marks are as many, on silent tokens spread over the text.
    """
    tokens, active = span["tokens"], np.asarray(span["activations"]) > 0
    beyond = min(len(tokens), max(span["peak_index"] + 5, EXCERPT))
    window = slice(max(0, beyond - EXCERPT), beyond)
    marked = active[window]
    if not right:
        silent = np.flatnonzero(~marked)
        chosen = np.linspace(0, len(silent) - 1, min(int(marked.sum()), len(silent))).round()
        marked = np.isin(np.arange(len(marked)), silent[chosen.astype(int)])
    return Excerpt(tuple(tokens[window]), tuple((marked & marks).tolist()))


def positions(spans: Sequence[Span]) -> list[list[Any]]:
    """Which spans an explanation was made from: (sample, role, position)."""
    return [[s["sample"], s["role"], s["position"]] for s in spans]
