"""Families of features: those that fire in the same samples, grouped, and named by their words.

Arrays in, arrays out; no files, no models. Two features are alike by the Jaccard of the samples in
which they fire clearly, less what chance gives (`likeness`), and families are the average linkage
of that, cut where two groups are alike by CUT on average. Decoder directions say nothing here: the
cosine of peak words within families by them is that of random ones.

What was measured on the demo's anchor (2,000 samples, 5,375 features that fire in at least 20; the
mean cosine of the input embeddings of two members' peak tokens, by family and by pair of members):

    likeness and cut                    families  features  largest   by family   by pair
    Jaccard, .10                             825     4,345      718        .506      .139
    Jaccard, .15                             720     3,329      423        .551      .153
    beyond chance, .05                       905     5,214      195        .444      .247
    beyond chance, .10                       917     3,951      110        .512      .293
    beyond chance, .15                       742     2,872       80        .551      .326
    random groups of these sizes                                           .154      .161

Plain Jaccard ties frequent features together that have nothing in common: two that fire in half of
the samples have a Jaccard of .33 by chance. At .10 most features still have a family and there are
the most families; below, topics run together, above, they fall apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac.errors import Progress

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CUT = 0.1
"""Groups are joined while their members are alike by this on average."""

EXACT = 8192
"""Above so many features only the nearest of each are compared, and the others taken to be alike by
nothing: every pair would take 8 bytes."""

NEAREST = 128
"""Of each feature that are compared then. On the demo's anchor, where all pairs can be, .87 of the
pairs of features in one family stay in one, and .96 of the pairs that are in one belong together.
Large families come in parts: on 2,000 chats of the corpus, where the largest has 804 features, .12
stay and .89 belong (python -m benchmarks.families)."""

BLOCK = 128
"""Features that are compared with many others at once."""

TILE, TILE_FIRINGS = 16_384, 2_000_000
"""How many others, then, and how often they fire in all."""

MOST_PAIRS = 5_000_000
"""Pairs that wait until those that are near to neither feature are dropped."""

SORTED = 4096
"""Features whose pairs are sorted at once, then."""

SAMPLED = 200
"""Features whose true nearest are looked up among all, to see how many were found."""

WORDS = 3
"""In a name, at most."""

LONGEST_WORD = 30
"""Characters; what is longer is no word but a script without spaces."""

APOSTROPHES = ("'", "\u2019")

LEAST_LIFT = 3.0
"""How many times as often as in all features a word must be a peak word in a family's, to be in its
name."""


class Pairs(NamedTuple):
    """Features that are alike, each pair once: `first` < `second`, `[pairs]` each."""

    first: np.ndarray
    second: np.ndarray
    likeness: np.ndarray


def likeness(both: Any, first: Any, second: Any, n_samples: int) -> Any:
    """How alike two features are: 1 where they fire in the same samples, 0 where they meet as often
    as chance makes them, or less. Numbers or arrays that broadcast: the samples that fire both, the
    first, the second.

    (J - E) / (1 - E), with J the Jaccard |A ∩ B| / |A ∪ B| and E the Jaccard of two independent
    features as frequent as these: pq / (p + q - pq). What fires in every sample is like nothing:
    chance makes it meet whatever fires. Of 100 samples 40 fire one, 50 the other, 30 both: J =
    30/60, E = .2/.7, and

    >>> likeness(np.array([30, 20, 40]), 40, np.array([50, 50, 40]), 100).round(4).tolist()
    [0.3, 0.0, 1.0]
    """
    either = first + second - both
    chance = first * second / (n_samples * (first + second) - first * second)
    beyond = np.where(chance < 1, 1 - chance, np.inf)
    return np.maximum((both / either - chance) / beyond, 0.0)


def group(
    incidence: csr_array,
    features: np.ndarray,
    *,
    cut: float = CUT,
    exact: int = EXACT,
    nearest: int = NEAREST,
    progress: Progress = lambda *_: None,
) -> np.ndarray:
    """The family of each feature: int32 `[n_features]`, the largest 0, of equals that with the
    lowest feature first; -1 for features of none.

    `incidence` is `[n_samples, n_features]` bool, which sample fires which feature; `features` are
    those to be grouped, ascending, which all fire. One that is like no other is in none. With more
    than `exact` of them, families rest on the `nearest` of each.
    """
    alike = compared(
        incidence, features, floor=cut / 2, exact=exact, nearest=nearest, progress=progress
    )
    family = np.full(incidence.shape[1], -1, np.int32)
    family[features] = grouped(alike, len(features), cut)
    return family


def compared(
    incidence: csr_array,
    features: np.ndarray,
    *,
    floor: float = CUT / 2,
    exact: int = EXACT,
    nearest: int = NEAREST,
    progress: Progress = lambda *_: None,
) -> np.ndarray | Pairs:
    """How alike every two of the features are, numbered as `features` has them: float32 `[n, n]`,
    or with more than `exact` the pairs alike by more than `floor` of which one is among the
    `nearest` of the other. The rest as in `group`."""
    if len(features) <= exact:
        return likeness_matrix(_samples_of(incidence, features).astype(np.float32))
    return near_pairs(_samples_of(incidence, features), nearest, floor=floor, progress=progress)


def _samples_of(incidence: csr_array, features: np.ndarray) -> csr_array:
    """Which samples fire each of the features: `[n, n_samples]`."""
    return incidence.tocsc()[:, features].T


def grouped(alike: np.ndarray | Pairs, n: int, cut: float = CUT) -> np.ndarray:
    """The family of each of n features by what `compared` returned: int32 `[n]`, as in `group`."""
    if n < 2:
        return np.full(n, -1, np.int32)
    return by_size(joined(alike, n, cut) if isinstance(alike, Pairs) else linked(alike, cut))


def nearest_of(alike: np.ndarray | Pairs, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k others that each of n features is most like, by what `compared` returned: numbers int32
    and likeness float32, `[n, k]` each, the most alike first, of equals the lowest. Where fewer are
    alike at all, -1 and 0 stand for the rest.

    >>> pairs = Pairs(np.array([0, 0]), np.array([1, 2]), np.array([0.2, 0.5], np.float32))
    >>> nearest_of(pairs, 3, 2)[0].tolist()
    [[2, 1], [0, -1], [0, -1]]
    """
    near, likeness = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    if isinstance(alike, Pairs):
        node = np.concatenate([alike.first, alike.second])
        other = np.concatenate([alike.second, alike.first])
        value = np.tile(alike.likeness, 2)
        order = np.lexsort((other, -value, node))
        node, other, value = node[order], other[order], value[order]
        rank = np.arange(len(node)) - np.searchsorted(node, node)
        first = rank < k
        near[node[first], rank[first]] = other[first]
        likeness[node[first], rank[first]] = value[first]
        return near, likeness
    for start in range(0, n, BLOCK):
        block = alike[start : start + BLOCK].copy()
        rows = slice(start, start + len(block))
        top, value = _most_alike(block, np.arange(n)[rows], k)
        near[rows, : top.shape[1]], likeness[rows, : top.shape[1]] = top, value
    return near, likeness


def _most_alike(block: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_of`, of the features `rows`, whose likeness to all `[rows, n]` is overwritten."""
    block[np.arange(len(rows)), rows] = 0
    top = np.argsort(-block, axis=1, kind="stable")[:, :k]
    value = np.take_along_axis(block, top, 1)
    return np.where(value > 0, top, -1), value


def recall(incidence: csr_array, features: np.ndarray, near: np.ndarray) -> float | None:
    """The share of the others that features are truly most like that `near`, as `nearest_of` has
    it, names: over SAMPLED of them, drawn at random, each compared with all; None where they are
    like no other. `incidence` and `features` are as in `group`."""
    n, k = near.shape
    rows = np.random.default_rng(0).choice(n, min(SAMPLED, n), replace=False)
    support = incidence.sum(axis=0, dtype=np.int64).astype(np.float64)[features]
    columns = incidence[:, features[rows]].T.tocsr().astype(np.float32)
    true = hits = 0
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        both = (columns[start : start + BLOCK] @ incidence).toarray()[:, features]
        block = likeness(both, support[some, None], support, incidence.shape[0])
        for row, others in zip(some, _most_alike(block, some, k)[0], strict=True):
            true += int((others >= 0).sum())
            hits += int(np.isin(others[others >= 0], near[row]).sum())
    return hits / true if true else None


def by_size(groups: np.ndarray) -> np.ndarray:
    """Groups `[n]` numbered by size, the largest 0, of equals that of the first member first; -1
    for members of none other's group."""
    _, first, number, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    place = np.empty(len(size), np.int32)
    place[np.lexsort((first, -size))] = np.arange(len(size), dtype=np.int32)
    return np.where(size[number] > 1, place[number], -1).astype(np.int32)


def likeness_matrix(columns: csr_array) -> np.ndarray:
    """How alike every two features are, float32 `[n, n]`, of their samples `[n, n_samples]`."""
    n, n_samples = columns.shape
    support, by_sample = np.diff(columns.indptr).astype(np.float64), columns.T.tocsr()
    matrix = np.empty((n, n), np.float32)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        both = (columns[rows] @ by_sample).toarray()
        matrix[rows] = likeness(both, support[rows, None], support, n_samples)
    return matrix


def linked(matrix: np.ndarray, cut: float) -> np.ndarray:
    """Average linkage of all pairs: the number of each feature's group, int `[n]`. `matrix` is how
    alike they are, `[n, n]`; groups are joined while their members are alike by `cut` on
    average."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    apart = squareform(1.0 - matrix.astype(np.float64), checks=False)
    return fcluster(linkage(apart, "average"), 1.0 - cut, "distance")


def near_pairs(
    columns: csr_array, nearest: int, *, floor: float, progress: Progress = lambda *_: None
) -> Pairs:
    """The pairs alike by more than `floor` of which one is among the `nearest` of the other.

    `columns` are `[n, n_samples]`. Features are compared in the order of their support, each with
    those that fire in no more samples, and in no less than `floor` of them: no others are that
    alike. That is exact; memory does not grow with the square of n.
    """
    n, n_samples = columns.shape
    order = np.argsort(np.diff(columns.indptr), kind="stable").astype(np.int32)
    columns = columns[order]
    support = np.diff(columns.indptr).astype(np.float64)
    kept, waiting, n_waiting = _no_pairs(), [], 0
    least = np.zeros(n, np.float32)  # of the nearest so far
    for begin, end in _tiles(columns.indptr):
        by_sample = columns[begin:end].T.tocsr().astype(np.float32)
        beyond = int(np.searchsorted(floor * support, support[end - 1], "right"))
        for start in range(begin, beyond, BLOCK):
            share = (start - begin) / (beyond - begin)
            progress(begin + int(share * (end - begin)), n, "comparing features")
            rows = columns[start : min(start + BLOCK, beyond)].astype(np.float32)
            both = (rows @ by_sample).tocoo()
            first, second = both.col + np.int32(begin), both.row + np.int32(start)
            # Nothing is more alike than its Jaccard; most pairs are out by that.
            either = support[first] + support[second]
            may = (first < second) & (both.data * (1 + floor) > floor * either)
            first, second, data = first[may], second[may], both.data[may]
            alike = likeness(data, support[first], support[second], n_samples).astype(np.float32)
            near = (alike > floor) & ((alike >= least[first]) | (alike >= least[second]))
            waiting.append(Pairs(first[near], second[near], alike[near]))
            n_waiting += len(waiting[-1].first)
            if n_waiting > MOST_PAIRS:
                kept, least = _nearest(_together([kept, *waiting]), n, nearest)
                waiting, n_waiting = [], 0
    kept, _ = _nearest(_together([kept, *waiting]), n, nearest)
    ends = order[kept.first], order[kept.second]
    return Pairs(np.minimum(*ends), np.maximum(*ends), kept.likeness)


def _tiles(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Features, given where the firings of each begin, in parts of at most TILE that fire about
    TILE_FIRINGS times: the first and beyond the last."""
    begin, n = 0, len(indptr) - 1
    while begin < n:
        most = int(np.searchsorted(indptr, indptr[begin] + TILE_FIRINGS))
        end = min(max(most, begin + 1), begin + TILE, n)
        yield begin, end
        begin = end


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))


def _together(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _nearest(pairs: Pairs, n: int, nearest: int) -> tuple[Pairs, np.ndarray]:
    """Those of which one is among the `nearest` of the other, of equals the lowest; and how alike
    the last of each is, float32 `[n]`, 0 where it has fewer."""
    near, least = np.zeros(len(pairs.first), bool), np.zeros(n, np.float32)
    for start in range(0, n, SORTED):  # all at once would take ten times the memory of the pairs
        ends = pairs.first, pairs.second
        of_first, of_second = (
            np.flatnonzero((end >= start) & (end < start + SORTED)) for end in ends
        )
        which = np.concatenate([of_first, of_second])
        node = np.concatenate([pairs.first[of_first], pairs.second[of_second]])
        other = np.concatenate([pairs.second[of_first], pairs.first[of_second]])
        order = np.lexsort((other, -pairs.likeness[which], node))
        node, which = node[order], which[order]
        rank = np.arange(len(node)) - np.searchsorted(node, node)
        near[which[rank < nearest]] = True
        last = rank == nearest - 1
        least[node[last]] = pairs.likeness[which[last]]
    return Pairs(*(column[near] for column in pairs)), least


def joined(pairs: Pairs, n: int, cut: float) -> np.ndarray:
    """Average linkage of pairs, all others alike by 0: the number of each feature's group, int
    `[n]`. As `linked`, where all pairs are there; of groups equally alike the first are joined.

    A heap of the pairs of groups that are alike enough, and of each group the sums to its
    neighbours: a group's sums are those of its parts, so nothing is compared twice (Lance and
    Williams 1967).
    """
    size, group = [1] * n, np.arange(n)
    sums: list[dict[int, float]] = [{} for _ in range(n)]
    heap = []
    for first, second, alike in zip(*(column.tolist() for column in pairs), strict=True):
        sums[first][second] = sums[second][first] = alike
        if alike >= cut:
            heap.append((-alike, first, second))
    heapify(heap)
    while heap:
        alike, first, second = heappop(heap)
        total = sums[first].get(second)
        if total is None or -alike != total / (size[first] * size[second]):
            continue  # One of them is another group by now
        group[second] = first
        size[first] += size[second]
        for other, part in sums[second].items():
            del sums[other][second]
            if other != first:
                sums[first][other] = sums[other][first] = sums[first].get(other, 0.0) + part
        sums[second] = {}
        for other, total in sums[first].items():
            mean = total / (size[first] * size[other])
            if mean >= cut:
                heappush(heap, (-mean, min(first, other), max(first, other)))
    for number in range(n):  # a group is joined into one of a lower number
        group[number] = group[group[number]]
    return group


# --- names ----------------------------------------------------------------------------------------


def peak_word(tokens: Sequence[str], at: int) -> str:
    """The word, in lower case, that a span's token is a piece of; "" where it is none.

    >>> peak_word(["I", " love", " photos", "ynthesis", "!"], 3), peak_word(["a", " b", "!"], 2)
    ('photosynthesis', '')
    """
    first, last = at, at
    while first and _goes_on(tokens[first - 1], tokens[first]):
        first -= 1
    while last + 1 < len(tokens) and _goes_on(tokens[last], tokens[last + 1]):
        last += 1
    word = "".join(tokens[first : last + 1]).lower()
    word = word.strip("".join(mark for mark in set(word) if not mark.isalnum()))
    return word if len(word) <= LONGEST_WORD else ""


def _goes_on(token: str, following: str) -> bool:
    """Whether the next token is of the same word."""
    joins = following[:1].isalnum() or following[:1] in APOSTROPHES
    return joins and (token[-1:].isalnum() or token[-1:] in APOSTROPHES)


def name_of(members: Sequence[Counter[str]], everywhere: Mapping[str, float], n: int) -> str:
    """What a family is called: the words that most of its members peak on, of those that are peak
    words in it LEAST_LIFT times as often as in all features; "" where no word is that of two of
    them.

    `members` are the peak words of each member with how often it peaks on them; `everywhere` says
    in how many of all `n` features a word is a peak word.

    >>> money, law = Counter(money=3, bank=1, the=1), Counter(court=2, the=1)
    >>> everywhere = {"money": 2, "bank": 2, "court": 1, "the": 9}
    >>> name_of([money, money, law], everywhere, 10)
    'money, bank'
    >>> name_of([money, law], everywhere, 10)
    ''
    """
    features = Counter(word for words in members for word in words)
    spans: Counter[str] = Counter()
    for words in members:
        spans.update(words)

    def lift(word: str) -> float:
        return features[word] / len(members) * n / everywhere[word]

    common = [word for word in features if features[word] > 1 and lift(word) >= LEAST_LIFT]
    common.sort(key=lambda word: (-features[word] * log(lift(word)), -spans[word], word))
    return ", ".join(common[:WORDS])


def of_most(features: Iterable[int], names: Mapping[int, str]) -> list[str]:
    """The names of the families of some features, those of most of them first; `names` has what the
    family of a feature is called, where it has one.

    >>> of_most([1, 2, 3, 9], {1: "law", 2: "money", 3: "money"})
    ['money', 'law']
    """
    counts = Counter(names[feature] for feature in features if feature in names)
    return sorted(counts, key=lambda name: (-counts[name], name))
