"""Step 2 and its baselines: from approved pairs to a dataset of what is kept.

Every candidate ends as kept or dropped with a reason, and no text that nobody approved reaches a
writer. Messages come first; of a profile whose samples go on, the rest is written for what passes
everything, or, where the anchor fires a gap mostly in answers, for all its candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from fac import datasets
from fac.config import METHODS, WRITERS, PairsSpec, SynthesizeSpec, digest
from fac.errors import InputError, Progress
from fac.manifest import PairsFacts, SynthesisFacts
from fac.prompts.lists import ASSISTANT
from fac.schema import TRACES, VERDICTS
from fac.store import decisions
from fac.store.runs import Runs
from fac.synthesis import answers, ledger, writing
from fac.synthesis import filter as verdicts
from fac.synthesis.answers import Likelihood
from fac.synthesis.approvals import approved_as_they_are
from fac.synthesis.checks import Checks
from fac.synthesis.docket import Docket
from fac.synthesis.kept_dataset import publish_dataset
from fac.synthesis.own_words import Stretch
from fac.synthesis.plan import Ask, Grounds, fired_in_answers, reads_answers
from fac.synthesis.writing import Candidate, Desk, Step, Stopped, Texts, quiet

AT_ONCE = 8
"""Gaps that a model of this machine writes for together at least, where fewer rows are missing
after the first round: a batch of them takes little longer than one."""


def synthesize(spec: SynthesizeSpec, *, progress: Progress, **doors: Any) -> str:
    """Writes at most `spec.candidates` texts for every gap and keeps the best that fire it in their
    own words; the run's id.

    `doors` are the other fields of SynthesisStep. Methods are in fac.synthesis.methods; a baseline
    that names no pairs takes all gaps of the pairs run.

    The run holds candidates, hits, verdicts, replies and the decisions it rests on; what is kept
    is a dataset run too. Raises InputError for a pair that nobody approved as it is, for more rows
    than there can be and where there is nothing to ask; BudgetReached, Cancelled or ServiceError
    after publishing the gaps whose texts are all there; of a baseline that names no pairs nothing
    is published before all of them are.
    """
    return SynthesisStep(spec=spec, **doors).run(progress)


def first_asked(
    spec: SynthesizeSpec,
    *,
    runs: Runs,
    approved: Sequence[Mapping[str, Any]],
    chats: bool = True,
) -> list[Ask]:
    """What a writer will be asked for the first gap, candidate by candidate, before anybody is. No
    model is needed: how a steered writer is pushed is left out, the words are the same, given
    whether it knows `chats` (`fac.synthesis.plan.in_turns`). Raises InputError where the spec names
    a pair that is not `approved` as it is."""
    spec = replace(spec, strength=0.0)
    about = runs.manifest(spec.pairs).facts
    pairs = approved_as_they_are(spec, runs, approved)
    gaps = [row["feature"] for row in pairs] or about.features
    grounds = Grounds(spec, runs, about, pairs[:1], gaps[:1], None, chats)
    return grounds.plan(METHODS[spec.method])


@dataclass(kw_only=True)
class SynthesisStep(Step[SynthesizeSpec]):
    """Candidates for every gap, judged, and a dataset of those that are kept."""

    approved: Sequence[Mapping[str, Any]]  # what people approved by now: fac.review.approved_pairs

    likelihood: Likelihood | None = None  # the subject model's; None: texts are not judged by it

    docket: Docket | None = field(init=False, default=None)
    """What became of the texts so far."""

    def __post_init__(self) -> None:
        spec, approved = self.spec, self.approved
        manifest = self.runs.manifest(spec.pairs)
        if manifest.step != PairsSpec.step:
            raise InputError(
                f"{spec.pairs} is a {manifest.step} run: name the run of `fac pairs`; edits of "
                f"its pairs are found by themselves."
            )
        self.about: PairsFacts = manifest.facts
        self.question: PairsSpec = manifest.spec
        writing.same_encoder(self.runs, [self.about.anchor, self.about.dataset], self.encoder)
        self.checks = Checks(
            runs=self.runs,
            about=self.about,
            encoder=self.encoder,
            held_out=spec.evaluation,
            likelihood=self.likelihood,
            labelled=spec.labels,
        )
        self.pairs = approved_as_they_are(spec, self.runs, approved)
        self.gaps = [row["feature"] for row in self.pairs] or [*self.about.features]
        if spec.rows > (most := len(self.gaps) * spec.keep):
            raise InputError(
                f"At most {most:,} rows can be kept of {len(self.gaps):,} gaps, {spec.keep} a gap, "
                f"but {spec.rows:,} are asked for: approve more pairs, or keep more a gap."
            )
        grounds = Grounds(spec, self.runs, self.about, self.pairs, self.gaps, self.direction)
        grounds = grounds._replace(
            chats=self.writer.chats, answers_first=reads_answers(self.encoder)
        )
        self.plan = grounds.plan(METHODS[spec.method])
        _something_is_asked(self.plan)
        self.answering = answers.answering(
            spec,
            self.writer,
            self.answerer,
            self.runs,
            self.about.dataset,
            self.likelihood,
            lambda chat: not self.checks.flaw(chat, quiet),
        )
        self.evaluation = {
            path: datasets.read_samples(path).digest(quiet) for path in spec.evaluation
        }
        approvals = [[row["run"], row["seen"], row["approver"]] for row in self.pairs]
        uids = [decision.uid for row in self.pairs for decision in row["decisions"]]
        self.decisions = digest(approvals, uids)
        named = replace(spec, evaluation=tuple(sorted(self.evaluation.values())))
        identities = (self.encoder.identity, self.writer.identity)
        answered = (self.answering.key(self.plan[0]),) if self.answering else ()
        self.run_id = named.run_id(
            spec.pairs, *identities, self.decisions, digest(self.reply_keys()), *answered
        )

    def make(self, desk: Desk, progress: Progress) -> None:
        spec, docket = self.spec, self._docket(desk)
        self.docket = docket
        in_answers: set[int] = set()
        if self.answering:
            in_answers = fired_in_answers(
                self.runs, self.about.anchor, self.gaps, spec.threshold, self.question.role
            )
        for asks, note in self._rounds(docket):
            desk.write(asks, self.writer, spec, progress, note)
            fresh = [writing.read(ask, spec, desk.written[ask.request.key]) for ask in asks]
            answered = [
                each
                for each in fresh
                if each.ask.feature in in_answers
                and each.ask.role != ASSISTANT
                and not (each.problem or self.checks.flaw(each.messages, progress))
            ]
            whole = {each.name: each for each in self._complete(answered, desk, progress)}
            docket.add([whole.get(each.name, each) for each in fresh], progress)
            docket.settle(progress)
        docket.sparing = False
        docket.settle(progress)
        self.must_say([*docket.candidates.values()])
        self.publish(desk.texts, progress)

    def _rounds(self, docket: Docket) -> Iterator[tuple[list[Ask], str]]:
        """What is to be written next, and in words: everything at once, or, where so many rows are
        to be kept, in each round texts for as many gaps as rows are missing. Gaps with fewest kept
        samples are asked for, those with fewest texts first, in an order of their own; a gap gets
        one text, then as many again as it has, for what failed once needs more. Texts that leave a
        doubt count as missing as long as there is something to write."""
        spec = self.spec
        if not spec.rows:
            yield self.plan, "writing"
            return
        waiting: dict[int, list[Ask]] = {gap: [] for gap in self.gaps}
        for ask in self.plan:
            waiting[ask.feature].append(ask)
        written: Counter[int] = Counter()
        number = 0
        while True:
            kept = Counter(verdict.feature for verdict in docket.judged if verdict.kept)
            short = spec.rows - kept.total()
            going = [g for g in self.gaps if written[g] < len(waiting[g]) and kept[g] < spec.keep]
            if short <= 0 or not going:
                return
            fewest = min(kept[gap] for gap in going)
            turn = sorted(
                (gap for gap in going if kept[gap] == fewest),
                key=lambda gap: (written[gap], digest("rows", gap)),
            )
            number += 1
            asks: list[Ask] = []
            # The first round shows how many come of one text; a server is paid for each.
            least = AT_ONCE if number > 1 and not WRITERS[spec.writer].server else 0
            for gap in turn[: max(short, least)]:
                more = waiting[gap][written[gap] :][: max(1, written[gap])]
                asks += more
                written[gap] += len(more)
            note = f"round {number}, {kept.total():,} of {spec.rows:,} rows kept"
            yield sorted(asks, key=lambda ask: ask.request.key), f"writing, {note}"

    def _docket(self, desk: Desk) -> Docket:
        spec = self.spec
        return Docket(
            encoder=self.encoder,
            gaps=self.about.features,
            role=self.question.role,
            threshold=spec.threshold,
            keep=spec.keep,
            rows=spec.rows,
            only_needed=spec.only_needed,
            borrowed=self._borrowed,
            flaws=self.checks.flaws,
            doubts=self.checks.doubts,
            sparing=bool(spec.rows),
            leaked=self.checks.leaked,
            unsure=self.checks.unsure,
            complete=lambda candidates, progress: self._complete(candidates, desk, progress),
        )

    def _complete(
        self, candidates: Sequence[Candidate], desk: Desk, progress: Progress
    ) -> list[Candidate]:
        """The candidates, with answers where these are still to be written."""
        going = [each for each in candidates if not each.answers and not each.problem]
        if self.answering is None or not going:
            return [*candidates]
        whole = {each.name: each for each in self.answering.complete(going, desk, progress)}
        return [whole.get(each.name, each) for each in candidates]

    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        spec = self.spec
        if not spec.approved:  # then no smaller spec names some of the gaps
            raise type(stopped)(
                f"{str(stopped).rstrip('.')}. A baseline that names no pairs is finished with all "
                f"its gaps or not at all, and {len(self.gaps) - len(lacking):,} of "
                f"{len(self.gaps):,} are complete; started again, nothing is written twice."
            )
        judged = self.docket.judged if self.docket else []
        kept = Counter(verdict.feature for verdict in judged if verdict.kept)
        complete = {*self.gaps} - {*lacking}
        if spec.rows:
            complete &= kept.keys()
        pairs = tuple(row["pair"] for row in self.pairs if row["feature"] in complete)
        if not pairs:
            raise stopped
        rows = sum(kept[gap] for gap in complete) if spec.rows else 0
        return replace(self, spec=replace(spec, approved=pairs, rows=rows)), len(pairs)

    def publish(self, texts: Texts, progress: Progress) -> None:
        spec, runs, about, docket = self.spec, self.runs, self.about, self.docket
        assert docket is not None  # `make` has judged everything
        judged, kept = docket.judged, docket.kept
        candidates = [docket.candidates[name] for name in sorted(docket.candidates)]
        question, threshold = self.question, spec.threshold
        effects = (*docket.kept_sums(), len(kept), runs)
        figures = {
            **writing.spent(candidates, texts.seconds, self.writer.identity),
            **verdicts.counted(judged, self.gaps),
            **ledger.coverage_gained(
                question, threshold, self.gaps, docket.kept_features(), docket.fired, runs
            ),
            **ledger.side_effects(question, threshold, *effects),
        }
        answered = {answer.model for each in candidates for answer in each.answers}
        approvers = {row["pair"]: row["approver"] for row in self.pairs}
        facts = SynthesisFacts(
            name=about.name,
            pairs=spec.pairs,
            anchor=about.anchor,
            dataset=about.dataset,
            encoder=self.encoder.identity,
            method=spec.method,
            profile=spec.profile,
            kept_dataset=publish_dataset(
                kept,
                spec=spec,
                run=self.run_id,
                name=about.name,
                encoder=self.encoder.identity,
                writer=self.writer.identity,
                approvers=approvers,
                probability=self.checks.probability,
                runs=runs,
            ),
            decisions=self.decisions,
            approvers=sorted({*approvers.values()}),
            evaluation={Path(path).name: sha for path, sha in self.evaluation.items()},
            relevant=question.relevant,
            min_support=question.min_support,
            role=question.role,
            tried=ledger.tried(judged, self.gaps),
            note=" ".join((ledger.note(judged, spec), *self.writer.notes)).strip(),
            answered_by=", ".join(sorted(answered)),
            answers=sum(bool(each.answers) for each in candidates),
            **self.checks.facts([candidate for candidate, _ in kept]),
            **docket.kept_doubts(),
            **figures,
            **verdicts.per_feature(figures),
            **ledger.both_steps(figures, spec, self.gaps, about),
        )
        approvals = [d._asdict() for row in self.pairs for d in row["decisions"]]
        self.write_tables(
            candidates,
            [docket.hits[each.name] for each in candidates],
            traces=(docket.traces(), TRACES),
            verdicts=([verdict._asdict() for verdict in judged], VERDICTS),
            decisions=(approvals, decisions.TABLE),
        )
        # Names alone: a manifest may leave this machine, the paths mean nothing there.
        named = replace(spec, evaluation=tuple(Path(path).name for path in spec.evaluation))
        runs.publish(
            self.run_id, spec=named, inputs=[spec.pairs], facts=facts, seconds=texts.seconds
        )

    def _borrowed(self, candidate: Candidate) -> dict[int, list[Stretch]]:
        """What a text has from what its writer was shown, by message."""
        sides = [
            message["content"]
            for pair in self.pairs
            if pair["pair"] == candidate.ask.pair
            for message in (*pair["positive"], *pair["negative"])
        ]
        return candidate.borrowed(sides)


def _something_is_asked(plan: Sequence[Ask]) -> None:
    """Raises InputError where there is nothing to ask a writer, or an empty prompt."""
    if not plan:
        raise InputError(
            "There is nothing to ask the writer: the anchor shows none of these gaps, so that no "
            "text could be quoted. Choose gaps that the anchor fires."
        )
    for ask in plan:
        prompt = ask.request.prompt
        if prompt is not None and not any(m["content"].strip() for m in prompt.messages):
            raise InputError(
                f"The prompt for feature {ask.feature} ({ask.style}) is empty: the writer would be "
                f"asked for nothing. Approve another pair for it, or leave it out."
            )
