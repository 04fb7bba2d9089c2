"""Every candidate of a synthesis so far: what it fires, and what became of it.

What is to be kept is measured once more, alone: whoever measures the export must find it above the
threshold, and a peak at the edge may depend on the texts read beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fac import coverage
from fac.encoder import Encoder
from fac.errors import Progress
from fac.synthesis import filter as verdicts
from fac.synthesis.filter import CandidateVerdict
from fac.synthesis.own_words import Stretch
from fac.synthesis.plan import Row
from fac.synthesis.scoring import Hit, read_alone, score, traced
from fac.synthesis.writing import Candidate


class Alone(NamedTuple):
    """A text that was read by itself."""

    features: np.ndarray  # int `[n]`: that fire at all, ascending
    peaks: np.ndarray  # float32 `[n]`
    traces: list[Row]  # of schema.TRACES


@dataclass(kw_only=True)
class Docket:
    """Candidates, and what is asked about each before its verdict."""

    encoder: Encoder
    gaps: Sequence[int]  # that every text is measured for
    role: str  # whose tokens count
    threshold: float
    keep: int
    rows: int  # samples to keep in all, 0: as many as there are
    only_needed: bool
    borrowed: Callable[[Candidate], Mapping[int, Sequence[Stretch]]]
    flaws: Callable[[Sequence[Candidate], Progress], Mapping[str, str]]
    """Which gate each fails, by name."""

    doubts: Callable[[Sequence[Candidate], Progress], Mapping[str, Sequence[str]]]
    """What there is to doubt about each, by name."""

    leaked: Callable[[Sequence[Candidate], Progress], Collection[str]]
    """Names of those that overlap with other texts."""

    unsure: Callable[[Sequence[Candidate]], Collection[str]]
    """Names of those whose label is not confirmed."""

    complete: Callable[[Sequence[Candidate], Progress], list[Candidate]]
    """Candidates with the parts that are still to be written; the same where none is."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    hits: dict[str, dict[int, Hit]] = field(default_factory=dict)
    judged: list[CandidateVerdict] = field(default_factory=list)
    """In the order of the candidates' names, as of the last `settle`."""

    alone: dict[str, Alone] = field(default_factory=dict)
    sparing: bool = False
    """Whether doubtful texts wait: more are to be written, and one without a doubt may come."""

    doubtful: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What there is to doubt, by the name of each that leaves a doubt."""

    _flaws: dict[str, str] = field(default_factory=dict)
    _leaked: set[str] = field(default_factory=set)
    _unsure: set[str] = field(default_factory=set)
    _surplus: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fired = np.zeros(self.encoder.n_features, bool)  # above the threshold by any text

    def add(self, candidates: Sequence[Candidate], progress: Progress) -> None:
        """Measures and examines texts that are new, or that have more to say than before."""
        scores = score(
            self.encoder,
            [each.messages for each in candidates],
            self.gaps,
            threshold=self.threshold,
            role=self.role,
            borrowed=lambda number: self.borrowed(candidates[number]),
            progress=progress,
        )
        self.fired |= scores.features
        names = {each.name for each in candidates}
        for each, fires in zip(candidates, scores.hits, strict=True):
            self.candidates[each.name], self.hits[each.name] = each, fires
            self.alone.pop(each.name, None)
        self._flaws |= self.flaws(candidates, progress)
        self._leaked = (self._leaked - names) | {*self.leaked(candidates, progress)}
        self._unsure = (self._unsure - names) | {*self.unsure(candidates)}
        others = {name: each for name, each in self.doubtful.items() if name not in names}
        doubts = self.doubts(candidates, progress)
        self.doubtful = others | {name: tuple(each) for name, each in doubts.items() if each}

    def settle(self, progress: Progress) -> None:
        """A verdict for every candidate. What would be kept is completed and read alone first, and
        the lower of both peaks counts, in `hits` too."""
        while True:
            self.judged = self._judge()
            kept = [self.candidates[v.candidate] for v in self.judged if v.kept]
            whole = self.complete(kept, progress)
            if longer := [new for new, old in zip(whole, kept, strict=True) if new is not old]:
                self.add(longer, progress)
                continue
            fresh = [each for each in kept if each.name not in self.alone]
            if not fresh:
                return
            for number, each in enumerate(fresh):
                progress(number, len(fresh), "measuring what is kept, each text alone")
                self._read_alone(each)

    def _judge(self) -> list[CandidateVerdict]:
        names = sorted(self.candidates.keys() - ({*self.doubtful} if self.sparing else set()))
        texts = [self._text(self.candidates[name]) for name in names]
        fires = {
            name: {g for g, hit in hits.items() if verdicts.active(hit.peak, self.threshold)}
            for name, hits in self.hits.items()
        }
        while True:
            judged = verdicts.judge(
                [text for text in texts if text.candidate not in self._surplus],
                fires,
                threshold=self.threshold,
                keep=self.keep,
                leaked=self._leaked,
                unsure=self._unsure,
                only_needed=self.only_needed,
            )
            kept = [verdict for verdict in judged if verdict.kept]
            if not self.rows or len(kept) <= self.rows:
                break
            # More are kept than were asked for: the weakest goes, of a gap that has others first.
            n = Counter(verdict.feature for verdict in kept)
            last = min(
                kept,
                key=lambda v: (
                    n[v.feature] == 1,
                    v.candidate not in self.doubtful,
                    v.own_peak,
                    v.candidate,
                ),
            )
            self._surplus.add(last.candidate)
        spare = (text for text in texts if text.candidate in self._surplus)
        judged += [
            CandidateVerdict(
                *(each.candidate, each.feature, False, verdicts.BEATEN, each.peak, self.keep, []),
                *(each.strength, True),
            )
            for each in spare
        ]
        return sorted(judged, key=lambda verdict: verdict.candidate)

    def _text(self, candidate: Candidate) -> verdicts.Text:
        """A candidate as the verdicts see it."""
        ask = candidate.ask
        hit = self.hits[candidate.name].get(ask.feature)
        return verdicts.Text(
            candidate=candidate.name,
            feature=ask.feature,
            text=candidate.text,
            problem=candidate.problem,
            peak=hit.peak if hit else 0.0,
            quoted=ask.quoted,
            prescribed=candidate.prescribed,
            own_peak=(hit and hit.own_peak) or 0.0,
            flaw=self._flaws.get(candidate.name, ""),
            doubtful=candidate.name in self.doubtful,
        )

    def _read_alone(self, candidate: Candidate) -> None:
        chat, stretches = candidate.messages, self.borrowed(candidate)
        reading, peaks, own = read_alone(self.encoder, chat, self.role, stretches)
        fires = self.hits[candidate.name]
        for gap in [*fires]:
            lower = min(fires[gap].peak, float(peaks[gap]))
            own_peak = min(fires[gap].own_peak or 0.0, own.get(gap, 0.0))
            fires[gap] = fires[gap]._replace(peak=lower, own_peak=own_peak)
            if not lower > 0:
                del fires[gap]
        features = np.flatnonzero(peaks)
        rows = traced(candidate.name, chat, reading, sorted(fires), stretches)
        self.alone[candidate.name] = Alone(features, peaks[features], rows)

    @property
    def kept(self) -> list[tuple[Candidate, CandidateVerdict]]:
        """What is kept, by name."""
        return [(self.candidates[v.candidate], v) for v in self.judged if v.kept]

    def kept_doubts(self) -> dict[str, Any]:
        """How many kept samples leave a doubt, and which doubts these are."""
        kept = (verdict.candidate for verdict in self.judged if verdict.kept)
        doubtful = [self.doubtful[name] for name in kept if name in self.doubtful]
        counts = Counter(doubt for doubts in doubtful for doubt in doubts)
        return {"doubtful": len(doubtful), "doubts": dict(counts.most_common())}

    def kept_features(self) -> np.ndarray:
        """Which features kept samples fire above the threshold, bool `[n_features]`."""
        features = np.zeros(self.encoder.n_features, bool)
        for readings in self._kept_readings():
            active = coverage.is_active(readings.peaks, self.threshold)
            features[readings.features[active]] = True
        return features

    def kept_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Over kept samples the sum of each feature's peaks, float64 `[n_features]`, and how many
        fire it above the threshold, int `[n_features]`."""
        sums = np.zeros(self.encoder.n_features)
        counts = np.zeros(self.encoder.n_features, int)
        for readings in self._kept_readings():
            sums[readings.features] += readings.peaks
            counts[readings.features] += coverage.is_active(readings.peaks, self.threshold)
        return sums, counts

    def traces(self) -> list[Row]:
        """Where kept samples fire: rows of schema.TRACES, by candidate."""
        return [row for readings in self._kept_readings() for row in readings.traces]

    def _kept_readings(self) -> Iterable[Alone]:
        return (self.alone[each.name] for each, _ in self.kept)
