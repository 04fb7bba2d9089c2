"""Step 1: candidates for every gap -> the text that fires it and its near-twin that does not.

The positive comes from all candidates, whatever gap they were written for; where none fires, from
the anchor itself. The negative is the positive with as little changed as silences it. Every score
is measured on the very text that is shown; a gap without a pair says why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fac.config import PairsSpec, RescoreSpec, digest
from fac.encoder import Encoder
from fac.errors import InputError
from fac.generator.writer import Writer
from fac.models import SCAFFOLD, Rendered
from fac.schema import CANDIDATES, HITS, PAIRS, REPLIES, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis import candidates as making
from fac.synthesis.candidates import Ask, Candidate, Direction, Hit, Progress, Row
from fac.synthesis.filter import active, words

PROPOSED, FAILED = "proposed", "failed"

OWN, POOL, ANCHOR, PERSON, EDIT = "own", "pool", "anchor", "person", "edit"
"""Where a side of a pair comes from."""

STAND_INS = 3
"""Of the anchor's strongest samples, how many are tried where no candidate fires."""

NEUTRAL = "something"
"""What takes the place of a word that fires."""

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.?!,;:]+\Z")
_SENTENCE = re.compile(r"[^.?!\n]+[.?!\n]*")


def make_pairs(
    spec: PairsSpec,
    *,
    runs: Runs,
    encoder: Encoder,
    writer: Writer,
    progress: Progress,
    direction: Direction | None = None,
) -> str:
    """Writes candidates for every gap of the spec and proposes a pair for each; the run's id.

    The run holds pairs, candidates, hits and replies. `direction` gives unit decoder directions,
    for a steered writer. Raises BudgetReached, Cancelled or ServiceError after publishing the gaps
    whose candidates are all there; InputError for features or runs that do not fit.
    """
    same_encoder(runs, [spec.anchor, spec.dataset], encoder)
    plan = _plan(spec, runs, direction)
    run_id = _run_id(spec, plan, encoder, writer)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        texts = making.write(plan, spec, runs=runs, run_id=run_id, writer=writer, progress=progress)
        if texts.stopped is None:
            _publish(spec, plan, texts, runs, run_id, encoder, writer, progress)
            return run_id
        lacking = {ask.feature for ask in plan if ask.request.key not in texts.written}
        complete = [f for f in spec.features if f not in lacking]
        if not complete:
            raise texts.stopped
        smaller = replace(spec, features=tuple(complete))
        plan = [ask for ask in plan if ask.feature not in lacking]
        part = _run_id(smaller, plan, encoder, writer)
        if not runs.find(part):
            with runs.exclusive(part):
                _publish(smaller, plan, texts, runs, part, encoder, writer, making.quiet)
        raise making.stopped_after(texts.stopped, f"{len(complete):,} gaps", part)


def rescore(spec: RescoreSpec, *, runs: Runs, encoder: Encoder, progress: Progress) -> str:
    """One pair as a person edited it, measured; a run with that one pair, whose input is the old
    run. Raises InputError for a pair that the old run does not have."""
    manifest = runs.manifest(spec.pairs)
    facts = manifest["facts"]
    same_encoder(runs, [facts["anchor"]], encoder)
    run_id = spec.run_id(spec.pairs, encoder.identity)
    if runs.find(run_id):
        return run_id
    found = runs.rows(spec.pairs, "pairs", [spec.feature]).to_pylist()
    if not found or found[0]["status"] != PROPOSED:
        raise InputError(
            f"Run {spec.pairs} has no pair for feature {spec.feature} that could be edited."
        )
    (old,) = found
    with runs.exclusive(run_id):
        progress(0, 1, "measuring the edited pair")
        chats = [_edited(old["positive"], spec.positive), _edited(old["negative"], spec.negative)]
        sides = trace(encoder, [(chat, spec.feature) for chat in chats])
        reason = problem(*sides, threshold=facts["threshold"], margin=facts["margin"])
        row = _row(spec.feature, sides, (PERSON, "", PERSON), reason)
        folder = runs.scratch(run_id)
        write_table(folder / "pairs.parquet", pa.Table.from_pylist([row], PAIRS), PAIRS)
        said = {
            **{name: facts[name] for name in CARRIED},
            "features": [spec.feature],
            "pairs": int(not reason),
            "failed": {reason: 1} if reason else {},
        }
        runs.publish(run_id, spec=spec, inputs=[spec.pairs], facts=said, seconds=0.0)
    return run_id


CARRIED = (
    *("name", "anchor", "dataset", "encoder", "profile", "explanations"),
    *("threshold", "margin", "model"),
)
"""Facts that an edited pair shares with the run it comes from."""


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


# --- the run --------------------------------------------------------------------------------------


def same_encoder(runs: Runs, measures: Iterable[str], encoder: Encoder) -> None:
    """Raises InputError where a measure was made by another encoder: peaks would not compare."""
    for run in measures:
        other = runs.manifest(run)["facts"]["encoder"]
        if other != encoder.identity:
            raise InputError(
                f"{run} was measured with {other}, not with {encoder.identity}: measure anchor and "
                f"dataset with one model and one SAE."
            )


def _plan(spec: PairsSpec, runs: Runs, direction: Direction | None) -> list[Ask]:
    known = making.known_features(runs, spec.anchor, spec.features, spec.explanations)
    push = making.steering(spec, runs, spec.anchor, direction)
    return making.plan_step_1(spec, known.values(), "step-1", push)


def _run_id(spec: PairsSpec, plan: Sequence[Ask], encoder: Encoder, writer: Writer) -> str:
    asked = digest([making.reply_key(ask, spec, writer.identity) for ask in plan])
    inputs = (spec.anchor, spec.dataset, *spec.explanations)
    return spec.run_id(*inputs, encoder.identity, writer.identity, asked)


def _publish(
    spec: PairsSpec,
    plan: Sequence[Ask],
    texts: making.Texts,
    runs: Runs,
    run_id: str,
    encoder: Encoder,
    writer: Writer,
    progress: Progress,
) -> None:
    made = [making.read(ask, spec, texts.written[ask.request.key]) for ask in plan]
    hits = making.score(
        encoder,
        [one.messages for one in made],
        spec.features,
        threshold=spec.threshold,
        progress=progress,
    ).hits
    rows = propose(spec, made, hits, runs=runs, encoder=encoder, progress=progress)
    folder = runs.scratch(run_id)
    for name, table, schema in (
        ("pairs", pa.Table.from_pylist(rows, PAIRS), PAIRS),
        ("candidates", making.candidate_table(made, spec), CANDIDATES),
        ("hits", making.hit_table(made, hits), HITS),
        ("replies", making.reply_table(made, spec, writer.identity), REPLIES),
    ):
        write_table(folder / f"{name}.parquet", table, schema)
    failed = Counter(row["reason"] for row in rows if row["status"] == FAILED)
    facts = {
        "name": runs.manifest(spec.dataset)["facts"]["name"],
        "anchor": spec.anchor,
        "dataset": spec.dataset,
        "encoder": encoder.identity,
        "profile": spec.profile,
        "explanations": [*spec.explanations],
        "threshold": spec.threshold,
        "margin": spec.margin,
        "model": spec.model,
        "features": [*spec.features],
        "pairs": len(rows) - failed.total(),
        "failed": dict(failed.most_common()),
        "origins": dict(Counter(r["origin"] for r in rows if r["status"] == PROPOSED)),
        "problems": dict(Counter(one.problem for one in made if one.problem).most_common()),
        **making.spent(made, texts.seconds, writer.identity),
    }
    inputs = [spec.anchor, spec.dataset, *spec.explanations]
    runs.publish(run_id, spec=spec, inputs=inputs, facts=facts, seconds=texts.seconds)


# --- choosing -------------------------------------------------------------------------------------


class Side(NamedTuple):
    """One text of a pair as measured."""

    messages: Chat
    peak: float
    """g_i(x), 0 where silent."""

    tokens: list[str]
    """Its content tokens, those of all turns."""

    activations: list[float]
    """Of each; 0 where silent."""

    turn: int
    """Index of the message that the peak lies in; -1 where silent."""

    firing: tuple[tuple[int, int, int], ...]
    """(message, first character, one past the last) of every token on which it fires, the one of
    the peak first."""


class _Choice(NamedTuple):
    """A positive that may become half of a pair."""

    feature: int
    origin: str
    candidate: str
    side: Side


def propose(
    spec: PairsSpec,
    made: Sequence[Candidate],
    hits: Sequence[Mapping[int, Hit]],
    *,
    runs: Runs,
    encoder: Encoder,
    progress: Progress,
) -> list[Row]:
    """One row of schema.PAIRS for every gap of the spec, by feature."""
    chosen, left = {}, []
    for feature in spec.features:
        best = strongest(feature, made, hits)
        if best is not None and _strong(hits[best][feature].peak, spec):
            chosen[feature] = best
        else:
            left.append(feature)
    progress(0, len(spec.features), "choosing pairs")
    texts = [(made[i].messages, feature) for feature, i in chosen.items()]
    choices = {
        f: _Choice(f, OWN if made[i].ask.feature == f else POOL, made[i].name, side)
        for (f, i), side in zip(chosen.items(), trace(encoder, texts), strict=True)
    }
    choices |= _stand_ins(left, spec, runs, encoder)
    twins = _silent_edits(choices, spec, encoder)
    others = {f: _nearest(f, choices[f], made, hits, spec) for f in choices if f not in twins}
    found = {f: i for f, i in others.items() if i is not None}
    traced = trace(encoder, [(made[i].messages, f) for f, i in found.items()])
    negatives = {f: (EDIT, side) for f, side in twins.items()}
    for (f, i), side in zip(found.items(), traced, strict=True):
        negatives[f] = (OWN if made[i].ask.feature == f else POOL, side)
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
            rows.append(_row(feature, sides, (choice.origin, choice.candidate, origin), reason))
    return rows


def strongest(
    feature: int, made: Sequence[Candidate], hits: Sequence[Mapping[int, Hit]]
) -> int | None:
    """The candidate that fires a feature most, its own before others' and then by name; None where
    none fires it."""
    rated = [
        (-own[feature].peak, one.ask.feature != feature, one.name, i)
        for i, (one, own) in enumerate(zip(made, hits, strict=True))
        if feature in own and not one.problem
    ]
    return min(rated)[3] if rated else None


def problem(positive: Side, negative: Side, *, threshold: float, margin: float) -> str:
    """Why two texts make no pair; "" where they do.

    The positive fires above the threshold and by the margin, the negative not at all above it, and
    the margin lies between them.
    """
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
        own = [row for row in table.to_pylist() if row["feature"] == feature]  # strongest first
        samples = dict.fromkeys(row["sample"] for row in own)
        tried += [(feature, sample) for sample in [*samples][:STAND_INS]]
    dataset = runs.manifest(spec.anchor)["facts"]["dataset"]
    chats = _samples(runs, dataset, {sample for _, sample in tried})
    sides = trace(encoder, [(chats[sample], feature) for feature, sample in tried])
    found: dict[int, _Choice] = {}
    for (feature, _), side in zip(tried, sides, strict=True):
        if feature not in found and _strong(side.peak, spec):
            found[feature] = _Choice(feature, ANCHOR, "", side)
    return found


def _samples(runs: Runs, dataset: str, wanted: set[int]) -> dict[int, Chat]:
    """Some samples of a dataset run by their row."""
    found: dict[int, Chat] = {}
    start = 0
    for batch in runs.batches(dataset, "samples"):
        column = batch.column("messages")
        for row in sorted(w - start for w in wanted if start <= w < start + len(batch)):
            found[start + row] = column[row].as_py()
        start += len(batch)
    return found


def _silent_edits(
    choices: Mapping[int, _Choice], spec: PairsSpec, encoder: Encoder
) -> dict[int, Side]:
    """For each positive the smallest edit that silences it, where there is one."""
    tried = [(feature, chat) for feature, choice in choices.items() for chat in edits(choice.side)]
    sides = trace(encoder, [(chat, feature) for feature, chat in tried])
    found: dict[int, Side] = {}
    for (feature, _), side in zip(tried, sides, strict=True):
        if not active(side.peak, spec.threshold):
            found.setdefault(feature, side)
    return found


def _nearest(
    feature: int,
    choice: _Choice,
    made: Sequence[Candidate],
    hits: Sequence[Mapping[int, Hit]],
    spec: PairsSpec,
) -> int | None:
    """The candidate most like the positive (Jaccard of words) on which the feature is silent."""
    own = {*words(_said(choice.side.messages))}
    rated = []
    for i, (one, fires) in enumerate(zip(made, hits, strict=True)):
        hit = fires.get(feature)
        if one.problem or (hit and active(hit.peak, spec.threshold)):
            continue
        other = {*words(one.text)}
        likeness = len(own & other) / max(1, len(own | other))
        rated.append((-likeness, one.ask.feature != feature, one.name, i))
    return min(rated)[3] if rated else None


def _said(messages: Chat) -> str:
    return "\n".join(message["content"] for message in messages)


# --- the smallest change --------------------------------------------------------------------------


def edits(side: Side) -> list[Chat]:
    """The chat with less and less of what fires, the smallest change first; without repetition.

    Without the word of the peak, with another in its place, the same for every word that fires,
    without the words beside the peak, without its sentence.
    """
    turn, start, end = side.firing[0]
    content = side.messages[turn]["content"]
    all_words = _words_at(side)
    peak = [_word_at(content, start, end)]
    wider = [_around(content, start, end, n) for n in (1, 2, 4)]
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
    found: list[Chat] = []
    for spans, instead in changes:
        chat: Chat = [
            {"role": m["role"], "content": _replaced(m["content"], spans.get(i, ()), instead)}
            for i, m in enumerate(side.messages)
        ]
        full = all(words(message["content"]) for message in chat)
        if full and chat != side.messages and chat not in found:
            found.append(chat)
    return found


def _words_at(side: Side) -> dict[int, list[tuple[int, int]]]:
    """The words that fire, by message; each once, in their order."""
    found: dict[int, set[tuple[int, int]]] = {}
    for turn, start, end in side.firing:
        word = _word_at(side.messages[turn]["content"], start, end)
        found.setdefault(turn, set()).add(word)
    return {turn: sorted(spans) for turn, spans in found.items()}


def _word_at(content: str, start: int, end: int) -> tuple[int, int]:
    """The words that a stretch lies in; of a stretch of mere space the word after it."""
    found = [m.span() for m in _WORD.finditer(content)]
    inside = [(a, b) for a, b in found if a < end and b > start]
    if not inside:
        inside = [(a, b) for a, b in found if a >= end][:1] or found[-1:]
    return (inside[0][0], inside[-1][1]) if inside else (start, end)


def _around(content: str, start: int, end: int, n: int) -> tuple[int, int]:
    """The same with n words on either side."""
    start, end = _word_at(content, start, end)
    found = [m.span() for m in _WORD.finditer(content)]
    inside = [i for i, (a, b) in enumerate(found) if a < end and b > start]
    if not inside:
        return (start, end)
    return found[max(0, inside[0] - n)][0], found[min(len(found) - 1, inside[-1] + n)][1]


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


# --- measuring ------------------------------------------------------------------------------------


def trace(encoder: Encoder, wanted: Sequence[tuple[Chat, int]]) -> list[Side]:
    """Each text token by token for its one feature."""
    found: dict[int, Side] = {}
    if not wanted:
        return []
    for reading in encoder.read([chat for chat, _ in wanted]):
        for sample, rendered in zip(reading.samples, reading.rendered, strict=True):
            chat, feature = wanted[sample]
            rows = (reading.sample == sample) & (reading.feature == feature)
            fired = zip(reading.position[rows].tolist(), reading.value[rows].tolist(), strict=True)
            found[sample] = _side(chat, rendered, dict(fired))
    return [found[sample] for sample in range(len(wanted))]


def _side(chat: Chat, rendered: Rendered, fired: Mapping[int, float]) -> Side:
    """`fired` holds activations by token position."""
    pieces = rendered.pieces(0, len(rendered.ids))
    content = np.flatnonzero(rendered.role != SCAFFOLD).tolist()
    order = sorted(fired, key=lambda position: (-fired[position], position))
    places = dict(_places(chat, rendered))
    return Side(
        messages=chat,
        peak=fired[order[0]] if order else 0.0,
        tokens=[pieces[position] for position in content],
        activations=[fired.get(position, 0.0) for position in content],
        turn=int(rendered.turn[order[0]]) if order else -1,
        firing=tuple(places[position] for position in order),
    )


def _places(chat: Chat, rendered: Rendered) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """(position, (message, first character, one past the last)) of every content token.

    A template may trim a content, so the turn's text is looked up in it.
    """
    for turn, message in enumerate(chat):
        own = np.flatnonzero(rendered.turn == turn)
        if not len(own):
            continue
        first, last = int(rendered.starts[own[0]]), int(rendered.ends[own[-1]])
        said = rendered.text[first:last]
        lead = len(said) - len(said.lstrip())
        at = message["content"].find(said.strip())
        shift = max(at, 0) - first - lead
        for position in own.tolist():
            start, end = int(rendered.starts[position]), int(rendered.ends[position])
            yield position, (turn, max(0, start + shift), max(0, end + shift))


# --- rows -----------------------------------------------------------------------------------------


def pair_id(feature: int, positive: Chat, negative: Chat) -> str:
    """Names a feature and two exact texts."""
    plain = [[[m["role"], m["content"]] for m in side] for side in (positive, negative)]
    return digest(feature, *plain)


def _row(feature: int, sides: Sequence[Side], origins: tuple[str, str, str], reason: str) -> Row:
    positive, negative = sides
    origin, candidate, negative_origin = origins
    return {
        "pair": pair_id(feature, positive.messages, negative.messages),
        "feature": feature,
        "status": FAILED if reason else PROPOSED,
        "reason": reason,
        "origin": origin,
        "candidate": candidate,
        "positive": positive.messages,
        "positive_peak": positive.peak,
        "positive_tokens": positive.tokens,
        "positive_activations": positive.activations,
        "negative": negative.messages,
        "negative_origin": negative_origin,
        "negative_peak": negative.peak,
        "negative_tokens": negative.tokens,
        "negative_activations": negative.activations,
    }


def _failed(feature: int, reason: str) -> Row:
    """A gap without a pair: nothing is shown, no score is made up."""
    nothing: dict[str, Any] = {
        f"{side}{part}": []
        for side in ("positive", "negative")
        for part in ("", "_tokens", "_activations")
    }
    return {
        "pair": pair_id(feature, [], []),
        "feature": feature,
        "status": FAILED,
        "reason": reason,
        "origin": "",
        "candidate": "",
        "negative_origin": "",
        "positive_peak": None,
        "negative_peak": None,
        **nothing,
    }
