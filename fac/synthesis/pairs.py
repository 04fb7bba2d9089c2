"""Step 1: candidates for every gap -> the text that fires it and its near-twin that does not.

The positive comes from all candidates, whatever gap they were written for; where none fires, from
the anchor itself. The negative is the most similar text on which the feature is silent, out of
candidates, dataset and anchor; where nothing is like the positive, the positive with as little
changed as silences it. Texts that read like one of the dataset (the quality gates, but for the
loss) go before others. Every score is measured on the very text that is shown; a gap without a pair
says why. A text of the anchor is shown to people and to the writer, and never kept or exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import pyarrow as pa

from fac.config import PairsSpec, RescoreSpec, digest
from fac.encoder import Encoder
from fac.errors import InputError, Progress
from fac.manifest import PairsFacts
from fac.prompts import drafts
from fac.prompts.lists import ASSISTANT
from fac.prompts.profiles import later_parts
from fac.schema import EVERY_ROLE, PAIRS, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis import answers
from fac.synthesis.answers import Answering
from fac.synthesis.checks import Checks
from fac.synthesis.filter import active
from fac.synthesis.negatives import FLOOR, Fluent, Form, ceiling, cut_to, form_of, nearest
from fac.synthesis.plan import (
    Row,
    ask_from_anchor,
    edges_by_role,
    feature_briefs,
    fired_in_answers,
    reads_answers,
    steering,
)
from fac.synthesis.scoring import Hit, Hits, score
from fac.synthesis.sides import Side, edits, trace
from fac.synthesis.writing import Candidate, Desk, Step, Stopped, Texts, quiet, same_encoder, spent

PROPOSED, FAILED = "proposed", "failed"

OWN, POOL, ANCHOR, PERSON, EDIT = "own", "pool", "anchor", "person", "edit"
"""Where a side of a pair comes from, beside `fac.synthesis.negatives.ORIGINS`."""

NEARLY = 0.5  # of the strongest positive's peak, to be chosen for other reasons
STAND_INS = 3  # of the anchor's strongest samples, how many are tried where no candidate fires


def make_pairs(spec: PairsSpec, *, progress: Progress, **doors: Any) -> str:
    """Writes candidates for every gap of the spec and proposes a pair for each; the run's id.
    `doors` are the other fields of Step. The run holds pairs, candidates, hits and replies. Raises
    BudgetReached, Cancelled or ServiceError after publishing the gaps whose candidates are all
    there; BadReply where a server wrote no text that can be used; InputError for features or runs
    that do not fit."""
    return PairsStep(spec=spec, **doors).run(progress)


@dataclass(kw_only=True)
class PairsStep(Step[PairsSpec]):
    """Candidates for every gap, and a pair from them."""

    texts: dict[str, Candidate] = field(init=False, default_factory=dict)
    """What was written, by name in the order of the plan."""

    measured: dict[str, Mapping[int, Hit]] = field(init=False, default_factory=dict)
    """What each of them fires, in the same order."""

    def __post_init__(self) -> None:
        spec = self.spec
        same_encoder(self.runs, [spec.anchor, spec.dataset], self.encoder)
        push = steering(spec, self.runs, spec.anchor, self.direction)
        how: dict[str, Any] = {"threshold": spec.threshold, "role": spec.role}
        how["answers_first"] = reads_answers(self.encoder)
        briefs = feature_briefs(self.runs, spec.anchor, spec.features, spec.explanations, **how)
        chats = self.writer.chats
        edges = edges_by_role(self.runs, spec.dataset)
        asks = ask_from_anchor(spec, briefs.values(), "step-1", push, chats=chats)
        self.plan = [ask.with_edges(edges) for ask in asks]
        self.answering = answers.answering(
            spec, self.writer, self.answerer, self.runs, spec.dataset
        )
        parts = (self.encoder.identity, self.writer.identity, digest(self.reply_keys()))
        answered = (self.answering.key(self.plan[0]),) if self.answering and self.plan else ()
        self.run_id = spec.run_id(*self._inputs(), *parts, *answered)

        about = PairsFacts(anchor=spec.anchor, dataset=spec.dataset)
        self.checks = Checks(runs=self.runs, about=about, encoder=self.encoder)

    def _fluent(self, chat: Chat) -> bool:
        """Whether it reads like a text of the dataset."""
        return not self.checks.flaw(chat, quiet)

    def _inputs(self) -> list[str]:
        return [self.spec.anchor, self.spec.dataset, *self.spec.explanations]

    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        complete = tuple(f for f in self.spec.features if f not in lacking)
        if not complete:
            raise stopped
        return replace(self, spec=replace(self.spec, features=complete)), len(complete)

    def make(self, desk: Desk, progress: Progress) -> None:
        spec = self.spec
        desk.write(self.plan, self.writer, spec, progress)
        written = self.candidates(desk.texts)
        self.must_say(written)
        texts = {each.name: each for each in written}
        self.measured = dict(zip(texts, self._hits(written, progress), strict=True))
        self.texts = texts
        if self.answering:
            self._answer(self.answering, desk, progress)
        self.publish(desk.texts, progress)

    def _answer(self, answering: Answering, desk: Desk, progress: Progress) -> None:
        """Has answers written: for all that is written for a gap which the anchor fires in answers,
        and for what would be a positive, until each of these has one."""
        spec, texts = self.spec, self.texts
        in_answers = fired_in_answers(
            self.runs, spec.anchor, spec.features, spec.threshold, spec.role
        )
        going = [
            each
            for each in texts.values()
            if each.ask.feature in in_answers and each.ask.role != ASSISTANT
        ]
        while True:
            going = [each for each in going if not each.answers and not each.problem]
            if going:
                whole = answering.complete(going, desk, progress)
                texts |= {each.name: each for each in whole}
                hits = self._hits(whole, progress)
                self.measured |= {each.name: h for each, h in zip(whole, hits, strict=True)}
            candidates, measured = [*texts.values()], [*self.measured.values()]
            best = [
                strongest(gap, candidates, measured, spec, self._fluent) for gap in spec.features
            ]
            going = [candidates[i] for i in sorted({i for i in best if i is not None})]
            if all(each.answers for each in going):
                return

    def _hits(self, candidates: Sequence[Candidate], progress: Progress) -> Hits:
        """What texts fire of the gaps; one that has a problem fires nothing."""
        return score(
            self.encoder,
            [[] if candidate.problem else candidate.messages for candidate in candidates],
            self.spec.features,
            threshold=self.spec.threshold,
            role=self.spec.role,
            borrowed=lambda number: candidates[number].borrowed(),
            progress=progress,
        ).hits

    def publish(self, texts: Texts, progress: Progress) -> None:
        spec, runs, encoder = self.spec, self.runs, self.encoder
        candidates, hits = [*self.texts.values()], [*self.measured.values()]
        threshold, gaps = spec.threshold, spec.features
        progress(0, len(gaps), "choosing pairs")
        rows, compared = propose(spec, candidates, hits, runs, encoder, self._fluent)
        self.write_tables(candidates, hits, pairs=(rows, PAIRS))
        failed = Counter(row["reason"] for row in rows if row["status"] == FAILED)
        proposed = [row for row in rows if row["status"] == PROPOSED]
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
            role=spec.role,
            model=spec.model,
            features=gaps,
            pairs=len(proposed),
            failed=dict(failed.most_common()),
            origins=dict(Counter(row["origin"] for row in proposed).most_common()),
            negatives=dict(Counter(row["negative_origin"] for row in proposed).most_common()),
            compared=compared,
            problems=dict(problems.most_common()),
            note=" ".join(self.writer.notes) or None,
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
    runs: Runs,
    encoder: Encoder,
    fluent: Fluent,
) -> tuple[list[Row], int]:
    """One row of schema.PAIRS for every gap of the spec, by feature; and how many texts a positive
    was compared with."""
    choices = _positives(spec, candidates, hits, encoder, fluent)
    unfired = [feature for feature in spec.features if feature not in choices]
    choices |= _stand_ins(unfired, _written_form(spec), spec, runs, encoder)
    sides = {feature: choice.side for feature, choice in choices.items()}
    negatives, compared = _negatives(spec, sides, candidates, hits, runs, encoder, fluent)
    rows = []
    for feature in spec.features:
        choice = choices.get(feature)
        if choice is None:
            rows.append(_failed(feature, "no candidate and no anchor sample fires it enough"))
        elif feature not in negatives:
            rows.append(_failed(feature, "every text like its positive fires it too"))
        else:
            origin, negative = negatives[feature]
            pair = (choice.side, negative)
            reason = problem(*pair, threshold=spec.threshold, margin=spec.margin)
            rows.append(pair_row(feature, pair, (choice.origin, choice.candidate, origin), reason))
    return rows, compared


def _positives(
    spec: PairsSpec,
    candidates: Sequence[Candidate],
    hits: Hits,
    encoder: Encoder,
    fluent: Fluent,
) -> dict[int, _Choice]:
    """For each feature the candidate that is its best positive, where one fires it enough."""
    best = {f: strongest(f, candidates, hits, spec, fluent) for f in spec.features}
    chosen = {feature: i for feature, i in best.items() if i is not None}
    texts = [(candidates[i].messages, feature) for feature, i in chosen.items()]
    return {
        f: _Choice(OWN if candidates[i].ask.feature == f else POOL, candidates[i].name, side)
        for (f, i), side in zip(chosen.items(), trace(encoder, texts, spec.role), strict=True)
    }


def strongest(
    feature: int,
    candidates: Sequence[Candidate],
    hits: Hits,
    spec: PairsSpec,
    fluent: Fluent,
) -> int | None:
    """The candidate to show a feature with; None where none fires it enough. Of those that fire it
    at least NEARLY as strongly as the strongest: one that does so in words of its own, and not only
    in those of its prompt, and reads like a text; then one that was written for it; then the
    strongest, and by name."""
    fired = [
        (hit, candidate, i)
        for i, (candidate, fires) in enumerate(zip(candidates, hits, strict=True))
        if (hit := fires.get(feature)) and not candidate.problem and _strong(hit.peak, spec)
    ]
    highest = max((hit.peak for hit, _, _ in fired), default=0.0)
    rated = []
    for hit, candidate, i in fired:
        if hit.peak >= NEARLY * highest:
            faults = (not fluent(candidate.messages)) + (not _strong(hit.own_peak or 0.0, spec))
            other = candidate.ask.feature != feature
            rated.append((faults, other, -hit.peak, candidate.name, i))
    return min(rated)[-1] if rated else None


def problem(positive: Side, negative: Side, *, threshold: float, margin: float) -> str:
    """Why two texts make no pair; "" where they do. The positive fires above the threshold by the
    margin at least; the negative is the margin below the threshold at least, or silent, and so
    much below the positive."""
    if not active(positive.peak, threshold) or positive.peak - threshold < margin:
        return "the positive does not fire it enough"
    if active(negative.peak, threshold):
        return "the negative fires it too"
    if not _silent(negative.peak, threshold, margin):
        return "the negative nearly fires it"
    if positive.peak - negative.peak < margin:
        return "the two sides are too close"
    return ""


def _strong(peak: float, spec: PairsSpec) -> bool:
    return active(peak, spec.threshold) and peak - spec.threshold >= spec.margin


def _silent(peak: float, threshold: float, margin: float) -> bool:
    return not active(peak, ceiling(threshold, margin))


def _written_form(spec: PairsSpec) -> Form:
    """The roles of what is written, answers included."""
    parts = later_parts(spec.profile) if spec.answers != "none" else ()
    message: Chat = [{"role": "user", "content": "?"}]
    return form_of(drafts.with_answers(spec.profile, message, parts).messages)


def _stand_ins(
    features: Sequence[int], form: Form, spec: PairsSpec, runs: Runs, encoder: Encoder
) -> dict[int, _Choice]:
    """For each feature the strongest anchor sample that fires it enough, measured again; such as
    fire it in the form that is written, cut to it, before whole ones."""
    if not features:
        return {}
    columns = ["feature", "sample", "peak", "role"]
    table = runs.rows(spec.anchor, "activations", features, columns).to_pylist()
    samples: dict[int, list[int]] = {}
    roles_of: dict[tuple[int, int], set[str]] = {}
    for row in table:  # strongest first
        if spec.role in (row["role"], EVERY_ROLE):
            feature, sample = row["feature"], row["sample"]
            if sample not in samples.setdefault(feature, []):
                samples[feature].append(sample)
            roles_of.setdefault((feature, sample), set()).add(row["role"])
    tried: list[tuple[int, int, bool]] = []
    for feature, numbers in samples.items():
        shaped = [n for n in numbers if roles_of[feature, n] & {*form}]
        tried += [(feature, number, True) for number in shaped[:STAND_INS]]
        tried += [(feature, number, False) for number in numbers[:STAND_INS]]
    dataset = runs.manifest(spec.anchor).facts.dataset
    chats = _samples(runs, dataset, {sample for _, sample, _ in tried})
    texts = [
        (chat, feature)
        for feature, sample, shaped in tried
        if (chat := cut_to(chats[sample], form) if shaped else chats[sample])
    ]
    choices: dict[int, _Choice] = {}
    sides = trace(encoder, texts, spec.role)
    for (_, feature), side in zip(texts, sides, strict=True):
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


def _negatives(
    spec: PairsSpec,
    positives: Mapping[int, Side],
    candidates: Sequence[Candidate],
    hits: Hits,
    runs: Runs,
    encoder: Encoder,
    fluent: Fluent,
) -> tuple[dict[int, tuple[str, Side]], int]:
    """For each feature where its negative comes from and what it is, as measured; and how many
    texts were compared. A text that has to do with the positive, or else the smallest edit that
    silences it, or else the text that is nearest all the same."""
    near, compared = nearest(spec, positives, candidates, hits, runs, fluent)
    texts = [(each, feature) for feature, choices in near.items() for each in choices]
    sides = trace(encoder, [(each.messages, feature) for each, feature in texts], spec.role)
    alike: dict[int, tuple[str, Side]] = {}
    unlike: dict[int, tuple[str, Side]] = {}
    for (each, feature), side in zip(texts, sides, strict=True):
        if _silent(side.peak, spec.threshold, spec.margin):
            chosen = alike if each.likeness >= FLOOR else unlike
            chosen.setdefault(feature, (each.origin, side))
    lonely = {feature: side for feature, side in positives.items() if feature not in alike}
    edited = {f: (EDIT, side) for f, side in _silent_edits(lonely, spec, encoder, fluent).items()}
    return unlike | edited | alike, compared


def _silent_edits(
    positives: Mapping[int, Side], spec: PairsSpec, encoder: Encoder, fluent: Fluent
) -> dict[int, Side]:
    """For each positive the smallest fluent edit that silences it, or else the smallest that does,
    where there is one."""
    tried = [(chat, feature) for feature, side in positives.items() for chat in edits(side)]
    silent: dict[int, Side] = {}
    best: dict[int, Side] = {}
    for (_, feature), side in zip(tried, trace(encoder, tried, spec.role), strict=True):
        if _silent(side.peak, spec.threshold, spec.margin):
            silent.setdefault(feature, side)
            if feature not in best and fluent(side.messages):
                best[feature] = side
    return silent | best


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
        texts = [(_edited(old["positive"], spec.positive, spec.turn), spec.feature)]
        texts += [(_edited(old["negative"], spec.negative, spec.turn), spec.feature)]
        sides = trace(encoder, texts, facts.role)
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


def edited_turn(messages: Sequence[Mapping[str, str]], turn: int) -> int:
    """Which turn of a chat a person edits: this one, or the user's last where there is none such
    or it is -1."""
    if 0 <= turn < len(messages):
        return turn
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return turns[-1] if turns else len(messages) - 1


def _edited(messages: Sequence[Mapping[str, str]], text: str, turn: int) -> Chat:
    turn = edited_turn(messages, turn)
    return [
        {"role": m["role"], "content": text if i == turn else m["content"]}
        for i, m in enumerate(messages)
    ]
