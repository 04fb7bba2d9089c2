"""What becomes of each candidate: kept, or dropped with the first reason that holds; and what that
amounts to in figures. Pure.

Words are compared, not characters: lower case, without punctuation, one per sign in scripts that
write no spaces.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.agreement import wilson
from fac.config import digest
from fac.coverage import is_active
from fac.manifest import SynthesisManifest

FAILED, UNREADABLE, EMPTY = "failed", "unreadable", "empty"
REFUSAL, CUT_OFF = "refusal", "cut off"
FRAGMENT, LOOP, LANGUAGE = "fragment", "loop", "language"
LENGTH, UNLIKELY = "length", "unlikely"
ECHO, DUPLICATE, CONTAMINATION = "echo", "duplicate", "contamination"
BELOW, BORROWED, LABEL_UNSURE = "below threshold", "borrowed words", "label unsure"
BEATEN, REDUNDANT = "beaten", "redundant"

PROBLEMS = (FAILED, UNREADABLE, EMPTY, REFUSAL, CUT_OFF)
"""Why a candidate has no text that could be looked at."""

FLAWS = (FRAGMENT, LOOP, LANGUAGE, LENGTH, UNLIKELY)
"""How a text is unlike the dataset's: which gate it fails (`fac.synthesis.gates`)."""

REASONS = (
    *(*PROBLEMS, *FLAWS, ECHO, DUPLICATE, CONTAMINATION, BELOW, BORROWED, LABEL_UNSURE),
    *(BEATEN, REDUNDANT),
)
"""Why a candidate is dropped; the first that holds is given."""

GRAM = 5  # words of the grams that tell echoes and near-duplicates
ECHO_RUN = 12  # words in a row from one text of the prompt that make a candidate a copy of it

ECHO_SHARE = 0.5
"""More than this share of a candidate's grams occurring in its prompt's texts does so too."""

ECHO_OWN = 4  # words that a text must add to those it was told to begin with
SAME_TEXT = 0.5  # Jaccard similarity of grams from which on two texts are the same

LEAKED = 13
"""Words in a row shared with a text of the dataset, the anchor or a held-out file (as in GPT-3's
check)."""

SHINGLE = 5  # characters of the runs that near-copies are compared by
NEAR_COPY = 0.5  # Jaccard similarity of these runs from which on a message is a copy of another
COMPARABLE = 20  # runs that a message must have: of short ones many are alike by chance

_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")

Gram = tuple[str, ...]


class Text(NamedTuple):
    """A candidate as the verdicts see it."""

    candidate: str  # its name
    feature: int  # the gap it was written for
    text: str  # everything it says
    problem: str  # one of PROBLEMS; "" where there is a text
    peak: float  # g_i(x) of its own gap, 0 where silent
    quoted: tuple[str, ...] = ()  # the texts its prompt quoted
    prescribed: int = 0  # words at its beginning that it was told to begin with
    own_peak: float = math.inf  # the same on its own words alone; inf where none are told apart
    flaw: str = ""  # one of FLAWS; "" where it reads like a text of the dataset
    doubtful: bool = False  # whether a text of the same gap that leaves no doubt comes before it

    @property
    def strength(self) -> float:
        """What texts of a gap are ranked by: the peak on its own words."""
        return min(self.own_peak, self.peak)


class CandidateVerdict(NamedTuple):
    """One row of `fac.schema.VERDICTS`."""

    candidate: str
    feature: int
    kept: bool
    reason: str
    peak: float
    rank: int
    gains: list[int]
    own_peak: float = 0.0
    fires: bool = False  # above the threshold, on whatever words, and every other check is passed


def judge(
    texts: Sequence[Text],
    fires: Mapping[str, Collection[int]],
    *,
    threshold: float,
    keep: int,
    leaked: Collection[str] = (),
    unsure: Collection[str] = (),
    only_needed: bool = False,
) -> list[CandidateVerdict]:
    """One verdict for every candidate, in the order given. `fires` holds the gaps in which each
    candidate is active. The best `keep` of a gap stay: those that pass every check and fire above
    the threshold on words of their own, those that leave no doubt first, the strongest there before
    others, equals by name. A near-duplicate of a kept text that comes before it, whatever gap that
    is for, does not pass. `leaked` names candidates that overlap with texts of the dataset, the
    anchor or a held-out file, `unsure` those whose label the check does not confirm. `only_needed`
    also drops what adds no gap to kept ones before it."""
    outcome: dict[str, tuple[str, int, bool]] = {}
    kept: list[Text] = []
    passed: dict[int, int] = defaultdict(int)
    stored = _Sets()
    for text in sorted(texts, key=lambda t: (t.doubtful, -t.strength, t.candidate)):
        reason, rank = text.problem, -1
        if not reason:
            spoken = words(text.text)
            grams = {*_grams(spoken)}
            near = any(True for _ in stored.similar(grams, SAME_TEXT))
            reason = _wrong(text, spoken, near, leaked, threshold)
        fires_anywhere = reason in ("", BORROWED) and text.candidate not in unsure
        if not reason and text.candidate in unsure:
            reason = LABEL_UNSURE
        if not reason:
            rank = passed[text.feature]
            passed[text.feature] += 1
            reason = "" if rank < keep else BEATEN
        if not reason:
            kept.append(text)
            stored.add({*_grams(words(text.text))})
        outcome[text.candidate] = (reason, rank, fires_anywhere)
    gaps = sorted({gap for text in kept for gap in fires.get(text.candidate, ())})
    column = {gap: i for i, gap in enumerate(gaps)}
    table = np.zeros((len(kept), len(gaps)), bool)
    for row, text in enumerate(kept):
        table[row, [column[gap] for gap in fires.get(text.candidate, ())]] = True
    gains: dict[str, list[int]] = {}
    for row, adds in greedy_cover(table):
        name = kept[row].candidate
        gains[name] = [gaps[i] for i in adds.tolist()]
        if only_needed and not gains[name]:
            outcome[name] = (REDUNDANT, *outcome[name][1:])
    verdicts = []
    for text in texts:
        name, (reason, rank, fires_anywhere) = text.candidate, outcome[text.candidate]
        gained = [] if reason else gains[name]
        verdict = (name, text.feature, not reason, reason, text.peak, rank, gained)
        verdicts.append(CandidateVerdict(*verdict, text.strength, fires_anywhere))
    return verdicts


def _wrong(text: Text, spoken: Gram, near: bool, leaked: Collection[str], threshold: float) -> str:
    """The first reason against a text by itself; "" where there is none."""
    if not spoken:
        return EMPTY
    if text.flaw:
        return text.flaw
    if echoes(spoken, text.quoted, prescribed=text.prescribed):
        return ECHO
    if near:
        return DUPLICATE
    if text.candidate in leaked:
        return CONTAMINATION
    if not active(text.peak, threshold):
        return BELOW
    return "" if active(text.strength, threshold) else BORROWED


def active(peak: float, threshold: float) -> bool:
    """`fac.coverage.is_active` for one peak, in the precision that peaks are stored in."""
    return bool(is_active(np.asarray(peak, np.float32), threshold))


def greedy_cover(fires: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """All rows of bool `[n, m]`, each time the one that covers most new columns, ties to the first,
    with the columns that it covers and no row before it (int `[k]`).
    Rows that add nothing come last. The running sum of what is added is the marginal curve: where
    it is flat, more samples cover nothing more."""
    fires = np.asarray(fires, bool)
    covered = np.zeros(fires.shape[1], bool)
    steps = []
    # A row's gain only ever shrinks, so a stale one is an upper bound and need not be looked at
    # before it is the largest.
    waiting = [(-int(gain), row) for row, gain in enumerate(fires.sum(1))]
    heapq.heapify(waiting)
    while waiting:
        bound, row = heapq.heappop(waiting)
        adds = np.flatnonzero(fires[row] & ~covered)
        if len(adds) == -bound:
            steps.append((row, adds))
            covered[adds] = True
        else:
            heapq.heappush(waiting, (-len(adds), row))
    return steps


def words(text: str) -> Gram:
    """The words of a text, for comparing."""
    return tuple(WORD.findall(text.lower()))


def _grams(spoken: Gram, n: int = GRAM) -> Iterator[Gram]:
    """All runs of n words, in order; of fewer words all together as one."""
    if 0 < len(spoken) < n:
        yield spoken
    for start in range(len(spoken) - n + 1):
        yield spoken[start : start + n]


def echoes(spoken: Gram, quoted: Iterable[str], *, prescribed: int = 0) -> bool:
    """Whether a text copies what its prompt showed: ECHO_RUN words in a row, or most of its grams.
    The first `prescribed` words had to be there: grams of nothing else do not count, and a text of
    little else copies."""
    if prescribed and len(spoken) < prescribed + ECHO_OWN:
        return True
    size = min(GRAM, len(spoken))
    grams = [spoken[i : i + size] for i in range(len(spoken) - size + 1) if i + size > prescribed]
    runs = {*_grams(spoken, ECHO_RUN)} if len(spoken) >= ECHO_RUN else set()
    source_grams: set[Gram] = set()
    for text in quoted:
        source = words(text)
        if runs and any(run in runs for run in _grams(source, ECHO_RUN)):
            return True
        source_grams.update(source[i : i + size] for i in range(len(source) - size + 1))
    return sum(gram in source_grams for gram in grams) > ECHO_SHARE * len(grams)


class _Sets:
    """Sets that are compared with others by what they share, which is looked up: few are held."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._with: dict[Hashable, list[int]] = defaultdict(list)

    def add(self, parts: Collection[Hashable]) -> None:
        """Another set, which gets the next number."""
        for part in parts:
            self._with[part].append(len(self._sizes))
        self._sizes.append(len(parts))

    def similar(self, parts: set[Any], least: float) -> Iterator[int]:
        """Numbers of the sets whose Jaccard similarity with this one is at least so much."""
        shared: Counter[int] = Counter()
        for part in self._with.keys() & parts:
            shared.update(self._with[part])
        for number, both in shared.items():
            if both >= least * (self._sizes[number] + len(parts) - both):
                yield number


class Leaks:
    """Which candidates share LEAKED words in a row (or all their words, if fewer) with others, or
    have a message that is nearly one of theirs. The candidates are held, the texts they are
    compared with pass by once.

    The Jaccard similarity that MinHash estimates is counted here: candidates are few, so that what
    they share with a text is looked up, and nothing is missed by chance.
    """

    def __init__(self, candidates: Mapping[str, Iterable[Mapping[str, str]]]):
        self._single: dict[str, set[str]] = defaultdict(set)
        self._longer: dict[Gram, dict[Gram, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._messages = _Sets()
        self._owners: list[str] = []  # candidates whose messages these are
        self.candidates: set[str] = set()  # names of the candidates met so far
        for name, chat in candidates.items():
            texts = [message["content"] for message in chat]
            for gram in _grams(words("\n".join(texts)), LEAKED):
                if len(gram) == 1:
                    self._single[gram[0]].add(name)
                else:
                    self._longer[gram[:2]][gram].add(name)
            for text in texts:
                self._messages.add(comparable(text))
                self._owners.append(name)

    def compare(self, chat: Iterable[Mapping[str, str]]) -> None:
        """Compares the messages of one sample."""
        for message in chat:
            other = words(message["content"])
            for word in self._single.keys() & set(other):
                self.candidates |= self._single[word]
            for start in range(len(other) - 1):
                for gram, names in self._longer.get(other[start : start + 2], {}).items():
                    if other[start : start + len(gram)] == gram:
                        self.candidates |= names
            for number in self._messages.similar(comparable(message["content"]), NEAR_COPY):
                self.candidates.add(self._owners[number])


def comparable(text: str) -> set[str]:
    """The shingles of a text that has COMPARABLE of them, none of a shorter one."""
    parts = shingles(text)
    return parts if len(parts) >= COMPARABLE else set()


def shingles(text: str) -> set[str]:
    """All runs of SHINGLE characters of a text's words; of fewer all together as one. Unlike grams
    of words they survive the change of a word in ten."""
    spoken = " ".join(words(text))
    return {spoken[i : i + SHINGLE] for i in range(max(1, len(spoken) - SHINGLE + 1))}


def counted(verdicts: Sequence[CandidateVerdict], gaps: Sequence[int]) -> dict[str, Any]:
    """How many were kept, dropped and why; in how many gaps a kept sample fires on its own words,
    and in how many some text fires at all that passes every other check; and how many gaps the
    first 1, 2, ... kept samples of the greedy set cover cover: where that curve is flat, more
    samples of these add nothing."""
    kept = [verdict for verdict in verdicts if verdict.kept]
    gains = sorted((len(verdict.gains) for verdict in kept), reverse=True)
    return {
        "kept": len(kept),
        "dropped": dict(Counter(v.reason for v in verdicts if not v.kept).most_common()),
        "accepted": sum(verdict.rank >= 0 for verdict in verdicts),
        "gaps": len(gaps),
        **_share_of_gaps("", {verdict.feature for verdict in kept}, gaps),
        **_share_of_gaps("any_", {v.feature for v in verdicts if v.fires}, gaps),
        "curve": np.cumsum(gains, dtype=int).tolist(),
    }


def _share_of_gaps(name: str, features: set[int], gaps: Sequence[int]) -> dict[str, Any]:
    """How many of the gaps are among the features, and their share with Wilson's interval."""
    hit = len(features & {*gaps})
    low, high = wilson(hit, len(gaps))
    rate = f"{name}hit_rate"
    figures = {f"{name}gaps_hit": hit, rate: hit / len(gaps)}
    return {**figures, f"{rate}_low": low, f"{rate}_high": high}


def per_feature(figures: dict[str, Any]) -> dict[str, Any]:
    """The ledger per newly covered feature; None where none was."""
    n = figures["features_gained"]
    return {
        f"{name}_per_feature": figures[name] / n if n and figures[name] is not None else None
        for name in ("tokens", "seconds", "cost")
    }


PILOT = 3  # gaps of a pilot


class Forecast(NamedTuple):
    """What a whole synthesis will take, from a few of its gaps."""

    run: str  # the pilot, a finished run like any other
    candidates: int
    accepted: int  # of those, texts that passed every check and fire their gap
    rate: float
    low: float
    high: float  # Wilson's 95 % interval of the acceptance rate
    hit_rate: float  # share of the pilot's gaps that got a sample
    tokens_per_kept: float | None
    seconds_per_kept: float | None
    cost_per_kept: float | None  # None where nothing was kept, or no price is known
    tokens: float
    prompt_tokens: float
    seconds: float
    cost: float | None  # expected for all gaps; `tokens` are those of the texts


def pilot_pairs(approved: Sequence[str], gaps: int = PILOT) -> tuple[str, ...]:
    """Which of the pairs a pilot takes: always the same, in no order of features or scores."""
    return tuple(sorted({*approved}, key=lambda name: digest("pilot", name))[:gaps])


def forecast(manifest: SynthesisManifest, gaps: int) -> Forecast:
    """What `gaps` gaps will take if they go as those of a finished run did."""
    facts = manifest.facts
    n, share = facts.n_candidates, gaps / facts.gaps
    low, high = wilson(facts.accepted, n)
    return Forecast(
        run=manifest.run,
        candidates=n,
        accepted=facts.accepted,
        rate=facts.accepted / n,
        low=low,
        high=high,
        hit_rate=facts.hit_rate,
        tokens_per_kept=facts.tokens / facts.kept if facts.kept else None,
        seconds_per_kept=facts.seconds / facts.kept if facts.kept else None,
        cost_per_kept=facts.cost / facts.kept if facts.kept and facts.cost is not None else None,
        tokens=facts.tokens * share,
        prompt_tokens=facts.prompt_tokens * share,
        seconds=facts.seconds * share,
        cost=facts.cost * share if facts.cost is not None else None,
    )
