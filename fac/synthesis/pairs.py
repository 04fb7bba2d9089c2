"""Step 1: candidates for every gap -> the text that fires it and its near-twin that does not.

The positive comes from all candidates, whatever gap they were written for; where none fires, from
the anchor itself. The negative is the positive with as little changed as silences it. Every score
is measured on the very text that is shown; a gap without a pair says why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from fac.config import PairsSpec, RescoreSpec, digest
from fac.encoder import Encoder
from fac.errors import InputError, Progress
from fac.manifest import PairsFacts
from fac.models import SCAFFOLD, Rendered
from fac.schema import PAIRS, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis.filter import active, words
from fac.synthesis.own_words import token_stretches
from fac.synthesis.plan import Row, ask_from_anchor, feature_briefs, steering
from fac.synthesis.scoring import Hits, score
from fac.synthesis.writing import Candidate, Step, Stopped, Texts, same_encoder, spent

PROPOSED, FAILED = "proposed", "failed"

OWN, POOL, ANCHOR, PERSON, EDIT = "own", "pool", "anchor", "person", "edit"
"""Where a side of a pair comes from."""

NEUTRAL = "something"  # what takes the place of a word that fires
STAND_INS = 3  # of the anchor's strongest samples, how many are tried where no candidate fires

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.?!,;:]+\Z")
_SENTENCE = re.compile(r"[^.?!\n]+[.?!\n]*")


def make_pairs(spec: PairsSpec, *, progress: Progress, **doors: Any) -> str:
    """Writes candidates for every gap of the spec and proposes a pair for each; the run's id.
    `doors` are the other fields of Step. The run holds pairs, candidates, hits and replies. Raises
    BudgetReached, Cancelled or ServiceError after publishing the gaps whose candidates are all
    there; InputError for features or runs that do not fit."""
    return PairsStep(spec=spec, **doors).run(progress)


@dataclass(kw_only=True)
class PairsStep(Step[PairsSpec]):
    """Candidates for every gap, and a pair from them."""

    def __post_init__(self) -> None:
        spec = self.spec
        same_encoder(self.runs, [spec.anchor, spec.dataset], self.encoder)
        push = steering(spec, self.runs, spec.anchor, self.direction)
        briefs = feature_briefs(self.runs, spec.anchor, spec.features, spec.explanations)
        self.plan = ask_from_anchor(spec, briefs.values(), "step-1", push)
        parts = (self.encoder.identity, self.writer.identity, digest(self.reply_keys()))
        self.run_id = spec.run_id(*self._inputs(), *parts)

    def _inputs(self) -> list[str]:
        return [self.spec.anchor, self.spec.dataset, *self.spec.explanations]

    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        complete = tuple(f for f in self.spec.features if f not in lacking)
        if not complete:
            raise stopped
        return replace(self, spec=replace(self.spec, features=complete)), len(complete)

    def publish(self, texts: Texts, progress: Progress) -> None:
        spec, runs, encoder = self.spec, self.runs, self.encoder
        candidates = self.candidates(texts)
        chats = [candidate.messages for candidate in candidates]
        threshold, gaps = spec.threshold, spec.features
        hits = score(encoder, chats, gaps, threshold=threshold, progress=progress).hits
        rows = propose(spec, candidates, hits, runs=runs, encoder=encoder, progress=progress)
        self.write_tables(candidates, hits, pairs=(rows, PAIRS))
        failed = Counter(row["reason"] for row in rows if row["status"] == FAILED)
        problems = Counter(each.problem for each in candidates if each.problem)
        facts = PairsFacts(
            name=runs.manifest(spec.dataset).facts.name,
            anchor=spec.anchor,
            dataset=spec.dataset,
            encoder=encoder.identity,
            profile=spec.profile,
            explanations=spec.explanations,
            threshold=threshold,
            margin=spec.margin,
            model=spec.model,
            features=gaps,
            pairs=len(rows) - failed.total(),
            failed=dict(failed.most_common()),
            origins=dict(Counter(r["origin"] for r in rows if r["status"] == PROPOSED)),
            problems=dict(problems.most_common()),
            **spent(candidates, texts.seconds, self.writer.identity),
        )
        runs.publish(
            self.run_id, spec=spec, inputs=self._inputs(), facts=facts, seconds=texts.seconds
        )


class _Choice(NamedTuple):
    """A positive that may become half of a pair."""

    origin: str
    candidate: str
    side: Side


def propose(
    spec: PairsSpec,
    candidates: Sequence[Candidate],
    hits: Hits,
    *,
    runs: Runs,
    encoder: Encoder,
    progress: Progress,
) -> list[Row]:
    """One row of schema.PAIRS for every gap of the spec, by feature."""
    chosen, unfired = {}, []
    for feature in spec.features:
        best = strongest(feature, candidates, hits)
        if best is not None and _strong(hits[best][feature].peak, spec):
            chosen[feature] = best
        else:
            unfired.append(feature)
    progress(0, len(spec.features), "choosing pairs")
    texts = [(candidates[i].messages, feature) for feature, i in chosen.items()]
    choices = {
        f: _Choice(OWN if candidates[i].ask.feature == f else POOL, candidates[i].name, side)
        for (f, i), side in zip(chosen.items(), trace(encoder, texts), strict=True)
    }
    choices |= _stand_ins(unfired, spec, runs, encoder)
    twins = _silent_edits(choices, spec, encoder)
    others = {f: _nearest(f, choices[f], candidates, hits, spec) for f in choices if f not in twins}
    nearest = {f: i for f, i in others.items() if i is not None}
    traced = trace(encoder, [(candidates[i].messages, f) for f, i in nearest.items()])
    negatives = {f: (EDIT, side) for f, side in twins.items()}
    for (f, i), side in zip(nearest.items(), traced, strict=True):
        negatives[f] = (OWN if candidates[i].ask.feature == f else POOL, side)
    rows = []
    for feature in spec.features:
        choice = choices.get(feature)
        if choice is None:
            rows.append(_failed(feature, "no candidate and no anchor sample fires it enough"))
        elif feature not in negatives:
            rows.append(_failed(feature, "every near-twin of its positive fires it too"))
        else:
            origin, negative = negatives[feature]
            sides = (choice.side, negative)
            reason = problem(*sides, threshold=spec.threshold, margin=spec.margin)
            rows.append(pair_row(feature, sides, (choice.origin, choice.candidate, origin), reason))
    return rows


def strongest(feature: int, candidates: Sequence[Candidate], hits: Hits) -> int | None:
    """The candidate that fires a feature most, its own before others' and then by name; None where
    none fires it."""
    rated = [
        (-fires[feature].peak, candidate.ask.feature != feature, candidate.name, i)
        for i, (candidate, fires) in enumerate(zip(candidates, hits, strict=True))
        if feature in fires and not candidate.problem
    ]
    return min(rated)[3] if rated else None


def problem(positive: Side, negative: Side, *, threshold: float, margin: float) -> str:
    """Why two texts make no pair; "" where they do. The positive fires above the threshold and by
    the margin, the negative not at all above it, and the margin lies between them."""
    if not active(positive.peak, threshold) or positive.peak - threshold < margin:
        return "the positive does not fire it enough"
    if active(negative.peak, threshold):
        return "the negative fires it too"
    if positive.peak - negative.peak < margin:
        return "the two sides are too close"
    return ""


def _strong(peak: float, spec: PairsSpec) -> bool:
    return active(peak, spec.threshold) and peak - spec.threshold >= spec.margin


def _stand_ins(
    features: Sequence[int], spec: PairsSpec, runs: Runs, encoder: Encoder
) -> dict[int, _Choice]:
    """For each feature the strongest anchor sample that fires it enough, measured again."""
    if not features:
        return {}
    table = runs.rows(spec.anchor, "activations", features, ["feature", "sample", "peak"])
    tried: list[tuple[int, int]] = []
    for feature in features:
        rows = [row for row in table.to_pylist() if row["feature"] == feature]  # strongest first
        samples = dict.fromkeys(row["sample"] for row in rows)
        tried += [(feature, sample) for sample in [*samples][:STAND_INS]]
    dataset = runs.manifest(spec.anchor).facts.dataset
    chats = _samples(runs, dataset, {sample for _, sample in tried})
    sides = trace(encoder, [(chats[sample], feature) for feature, sample in tried])
    choices: dict[int, _Choice] = {}
    for (feature, _), side in zip(tried, sides, strict=True):
        if feature not in choices and _strong(side.peak, spec):
            choices[feature] = _Choice(ANCHOR, "", side)
    return choices


def _samples(runs: Runs, dataset: str, numbers: set[int]) -> dict[int, Chat]:
    """Some samples of a dataset run by their row."""
    chats: dict[int, Chat] = {}
    start = 0
    for batch in runs.batches(dataset, "samples"):
        column = batch.column("messages")
        for row in sorted(n - start for n in numbers if start <= n < start + len(batch)):
            chats[start + row] = column[row].as_py()
        start += len(batch)
    return chats


def _silent_edits(
    choices: Mapping[int, _Choice], spec: PairsSpec, encoder: Encoder
) -> dict[int, Side]:
    """For each positive the smallest edit that silences it, where there is one."""
    tried = [(feature, chat) for feature, choice in choices.items() for chat in edits(choice.side)]
    sides = trace(encoder, [(chat, feature) for feature, chat in tried])
    silent: dict[int, Side] = {}
    for (feature, _), side in zip(tried, sides, strict=True):
        if not active(side.peak, spec.threshold):
            silent.setdefault(feature, side)
    return silent


def _nearest(
    feature: int, choice: _Choice, candidates: Sequence[Candidate], hits: Hits, spec: PairsSpec
) -> int | None:
    """The candidate most like the positive (Jaccard of words) on which the feature is silent."""
    positive = {*words("\n".join(message["content"] for message in choice.side.messages))}
    rated = []
    for i, (candidate, fires) in enumerate(zip(candidates, hits, strict=True)):
        hit = fires.get(feature)
        if candidate.problem or (hit and active(hit.peak, spec.threshold)):
            continue
        others = {*words(candidate.text)}
        likeness = len(positive & others) / max(1, len(positive | others))
        rated.append((-likeness, candidate.ask.feature != feature, candidate.name, i))
    return min(rated)[3] if rated else None


class Side(NamedTuple):
    """One text of a pair as measured."""

    messages: Chat
    peak: float  # g_i(x), 0 where silent
    tokens: list[str]  # its content tokens, those of all turns
    activations: list[float]  # of each; 0 where silent
    turn: int  # index of the message that the peak lies in; -1 where silent
    firing: tuple[tuple[int, int, int], ...]
    """(message, first character, one past the last) of every token on which it fires, the one of
    the peak first."""


def trace(encoder: Encoder, texts: Sequence[tuple[Chat, int]]) -> list[Side]:
    """Each text token by token for its one feature."""
    sides: dict[int, Side] = {}
    if not texts:
        return []
    for reading in encoder.read([chat for chat, _ in texts]):
        for sample, rendered in zip(reading.samples, reading.rendered, strict=True):
            chat, feature = texts[sample]
            rows = (reading.sample == sample) & (reading.feature == feature)
            fired = zip(reading.position[rows].tolist(), reading.value[rows].tolist(), strict=True)
            sides[sample] = _side(chat, rendered, dict(fired))
    return [sides[sample] for sample in range(len(texts))]


def _side(chat: Chat, rendered: Rendered, fired: Mapping[int, float]) -> Side:
    """`fired` holds activations by token position."""
    pieces = rendered.pieces(0, len(rendered.ids))
    content = np.flatnonzero(rendered.role != SCAFFOLD).tolist()
    order = sorted(fired, key=lambda position: (-fired[position], position))
    stretches = dict(token_stretches(chat, rendered))
    return Side(
        messages=chat,
        peak=fired[order[0]] if order else 0.0,
        tokens=[pieces[position] for position in content],
        activations=[fired.get(position, 0.0) for position in content],
        turn=int(rendered.turn[order[0]]) if order else -1,
        firing=tuple(stretches[position] for position in order),
    )


def edits(side: Side) -> list[Chat]:
    """The chat with less and less of what fires, the smallest change first; without repetition.
    Without the word of the peak, with another in its place, the same for every word that fires,
    without the words beside the peak, without its sentence."""
    turn, start, end = side.firing[0]
    content = side.messages[turn]["content"]
    all_words = _words_at(side)
    peak = [_word_at(content, start, end)]
    wider = [_word_at(content, start, end, n) for n in (1, 2, 4)]
    sentence = next(
        (m.span() for m in _SENTENCE.finditer(content) if m.start() <= start < m.end()),
        (start, end),
    )
    changes: list[tuple[dict[int, list[tuple[int, int]]], str]] = [
        ({turn: peak}, ""),
        ({turn: peak}, NEUTRAL),
        (all_words, ""),
        (all_words, NEUTRAL),
        *(({turn: [span]}, "") for span in wider),
        ({turn: [sentence]}, ""),
    ]
    chats: list[Chat] = []
    for spans, instead in changes:
        chat: Chat = [
            {"role": m["role"], "content": _replaced(m["content"], spans.get(i, ()), instead)}
            for i, m in enumerate(side.messages)
        ]
        full = all(words(message["content"]) for message in chat)
        if full and chat != side.messages and chat not in chats:
            chats.append(chat)
    return chats


def _words_at(side: Side) -> dict[int, list[tuple[int, int]]]:
    """The words that fire, by message; each once, in their order."""
    spans_of: dict[int, set[tuple[int, int]]] = {}
    for turn, start, end in side.firing:
        word = _word_at(side.messages[turn]["content"], start, end)
        spans_of.setdefault(turn, set()).add(word)
    return {turn: sorted(spans) for turn, spans in spans_of.items()}


def _word_at(content: str, start: int, end: int, n: int = 0) -> tuple[int, int]:
    """The words that a stretch lies in, of mere space the word after it; and n more beside them."""
    spans = [m.span() for m in _WORD.finditer(content)]
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    inside = inside or [i for i, (a, _) in enumerate(spans) if a >= end][:1]
    if not spans:
        return (start, end)
    first, last = (inside[0], inside[-1]) if inside else (len(spans) - 1,) * 2
    return spans[max(0, first - n)][0], spans[min(len(spans) - 1, last + n)][1]


def _replaced(content: str, spans: Iterable[tuple[int, int]], instead: str) -> str:
    """The text with other words in those places; a mark that ends it stays."""
    for start, end in sorted(spans, reverse=True):
        before, gone, after = content[:start], content[start:end], content[end:]
        mark = _END.search(gone) if instead or not after.strip() else None
        if instead:
            content = f"{before}{instead}{mark[0] if mark else ''}{after}"
        else:
            joint = " " if before.strip() and after.strip() else ""
            content = f"{before.rstrip()}{mark[0] if mark else ''}{joint}{after.lstrip()}"
    return content


def pair_id(feature: int, positive: Chat, negative: Chat) -> str:
    """Names a feature and two exact texts."""
    plain = [[[m["role"], m["content"]] for m in side] for side in (positive, negative)]
    return digest(feature, *plain)


def pair_row(
    feature: int, sides: Sequence[Side], origins: tuple[str, str, str], reason: str
) -> Row:
    """One row of schema.PAIRS; `origins` are those of the positive, its candidate, the negative."""
    positive, negative = sides
    row = {
        "pair": pair_id(feature, positive.messages, negative.messages),
        "feature": feature,
        "status": FAILED if reason else PROPOSED,
        "reason": reason,
        **dict(zip(("origin", "candidate", "negative_origin"), origins, strict=True)),
    }
    for name, side in (("positive", positive), ("negative", negative)):
        row |= {name: side.messages, f"{name}_peak": side.peak}
        row |= {f"{name}_tokens": side.tokens, f"{name}_activations": side.activations}
    return row


def _failed(feature: int, reason: str) -> Row:
    """A gap without a pair: nothing is shown, no score is made up."""
    nothing = Side([], 0.0, [], [], -1, ())
    row = pair_row(feature, (nothing, nothing), ("", "", ""), reason)
    return {**row, "positive_peak": None, "negative_peak": None}


def rescore(spec: RescoreSpec, *, runs: Runs, encoder: Encoder, progress: Progress) -> str:
    """One pair as a person edited it, measured; a run with that one pair, whose input is the old
    run. Raises InputError for a pair that the old run does not have."""
    facts: PairsFacts = runs.manifest(spec.pairs).facts
    same_encoder(runs, [facts.anchor], encoder)
    run_id = spec.run_id(spec.pairs, encoder.identity)
    if runs.find(run_id):
        return run_id
    rows = runs.rows(spec.pairs, "pairs", [spec.feature]).to_pylist()
    if not rows or rows[0]["status"] != PROPOSED:
        raise InputError(
            f"Run {spec.pairs} has no pair for feature {spec.feature} that could be edited."
        )
    (old,) = rows
    with runs.exclusive(run_id):
        progress(0, 1, "measuring the edited pair")
        chats = [_edited(old["positive"], spec.positive), _edited(old["negative"], spec.negative)]
        sides = trace(encoder, [(chat, spec.feature) for chat in chats])
        reason = problem(*sides, threshold=facts.threshold, margin=facts.margin)
        row = pair_row(spec.feature, sides, (PERSON, "", PERSON), reason)
        folder = runs.scratch(run_id)
        write_table(folder / "pairs.parquet", pa.Table.from_pylist([row], PAIRS), PAIRS)
        facts = replace(
            facts,
            writer=None,
            features=[spec.feature],
            pairs=int(not reason),
            failed={reason: 1} if reason else {},
        )
        runs.publish(run_id, spec=spec, inputs=[spec.pairs], facts=facts, seconds=0.0)
    return run_id


def user_text(messages: Sequence[Mapping[str, str]]) -> str:
    """The turn of a chat that a person edits: the user's last."""
    return messages[_user_turn(messages)]["content"]


def _user_turn(messages: Sequence[Mapping[str, str]]) -> int:
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return turns[-1] if turns else len(messages) - 1


def _edited(messages: Sequence[Mapping[str, str]], text: str) -> Chat:
    turn = _user_turn(messages)
    return [
        {"role": m["role"], "content": text if i == turn else m["content"]}
        for i, m in enumerate(messages)
    ]
