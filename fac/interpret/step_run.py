"""One explain or relevance run while it grows: its tables, its line to a chat model, its end.

Stopped at any moment, a run continues without asking twice; stopped by a person, a budget or a
server that gave up, what is complete is published as a smaller run.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from fac import schema
from fac.config import ExplainSpec, JudgeSpec, digest
from fac.errors import BadReply, BudgetReached, Cancelled, Progress, ServiceError
from fac.generator import batch_chat
from fac.generator.allowance import limits_of
from fac.generator.batch_chat import Question
from fac.generator.chat import ChatModel, OpenAIChat
from fac.generator.completions import CUT_OFF
from fac.generator.journal import RecordedReply, ReplyJournal
from fac.generator.provider_batch import ask_provider, check_closed
from fac.interpret import evidence
from fac.interpret.evidence import Evidence
from fac.manifest import InterpretFacts
from fac.prompts import Excerpt, explaining, relevance
from fac.schema import UNREADABLE
from fac.store.runs import ParquetAppender, Runs

OpenChat = Callable[[], ChatModel]
"""Opens the chat model; called only when there is something to ask."""

FAILED = "failed"

Row = dict[str, Any]
Blocks = Generator[dict[str, list[Row]], None, Row | None]
"""Rows of each table, a block of complete features at a time; in the end further facts, if any."""

SpecT = TypeVar("SpecT", bound=ExplainSpec | JudgeSpec)
ReadT = TypeVar("ReadT")


class Unread(NamedTuple):
    """A question without a readable reply."""

    status: str  # FAILED: there is no reply; UNREADABLE: it has no form that was asked for
    reason: str


class StepRun(Generic[SpecT]):
    """What a part works with: spec and runs, the evidence, and the model to ask."""

    def __init__(
        self,
        spec: SpecT,
        runs: Runs,
        chat: ChatModel | None,
        progress: Progress,
        *,
        inputs: Sequence[str],
        versions: Sequence[str] = (),
    ):
        """`versions` tell the run from others besides its inputs."""
        self.spec, self.runs = spec, runs
        self.stopped: BudgetReached | Cancelled | ServiceError | None = None
        """Why nothing more is asked; earlier replies still answer."""
        self._chat, self._progress, self._inputs = chat, progress, inputs
        self._parts = [*inputs, *versions, identity(chat)]
        self._id = spec.run_id(*self._parts)
        self._done = 0  # features before the present block
        self._counts: Counter[str] = Counter()
        self._limits = limits_of(spec)
        self._notes: dict[str, None] = {}  # sentences on how the server had to be asked
        self._n_read = 0  # replies that could be read
        self._unread = ""  # why the first of the others could not
        self._given_up: dict[str, RecordedReply] = {}  # by key, of batches
        self._fresh: dict[str, RecordedReply] = {}
        self._tokens, self._cost = 0, 0.0

    @cached_property
    def features(self) -> list[int]:
        """Those that the spec names, or every one that fires."""
        return [*self.spec.features] or evidence.firing_features(self.runs, self.spec.measure)

    @cached_property
    def _journal(self) -> ReplyJournal:
        return ReplyJournal(self.runs.scratch(self._id) / "_journal.jsonl")

    @cached_property
    def _earlier(self) -> dict[str, RecordedReply]:
        """Every reply that a finished run of this step got, by key."""
        replies = (
            RecordedReply(**row)
            for manifest in self.runs.list(self.spec.step)
            if manifest.facts.replies is not None
            for row in self.runs.table(manifest.run, "replies").to_pylist()
        )
        return {reply.key: reply for reply in replies if reply.ok}

    def evidence(self, *, test: bool = True, texts: bool = True) -> Iterator[list[Evidence]]:
        """The evidence of the run's features, a block at a time until the run is stopped."""
        measure = self.spec.measure
        for block in evidence.blocks(self.runs, measure, self.features, test=test, texts=texts):
            yield block
            if self.stopped and not self.spec.in_batch:  # batches answer questions of any block
                break
            self._done += len(block)

    def report(self, done: int, note: str) -> None:
        """Progress between blocks; a wish to stop ends the run after what is complete."""
        if self.stopped is None:
            try:
                self._progress(done, len(self.features), note)
            except Cancelled as error:
                self.stopped = error

    def ask(
        self, questions: Sequence[Question], *, share: int, note: str
    ) -> dict[str, RecordedReply]:
        """Replies by `about`; some lack once the run was stopped. `share`: features of progress
        that the questions are worth."""
        assert self._chat is not None, "a run that asks has a model"

        def report(done: int, total: int, detail: str = "") -> None:
            so_far = self._done + share * done // max(total, 1)
            self._progress(so_far, len(self.features), f"{note}, {detail}")

        replies: dict[str, RecordedReply] = {}
        if self.stopped is None and not self.spec.in_batch:
            try:
                batch = batch_chat.ask_batch(
                    questions,
                    self._chat,
                    self._journal,
                    attempt=self.spec.attempt,
                    limits=self._limits,
                    earlier=self._earlier,
                    progress=report,
                )
            except (BudgetReached, Cancelled, ServiceError) as error:
                self.stopped = error
            else:
                replies = batch.replies
                self._counts.update(batch.counts)
                self._limits = self._limits._replace(room=batch.room)
                self._notes |= dict.fromkeys(batch.notes)
        if self.stopped is not None or self.spec.in_batch:
            replies = self.recorded(questions)
        self._fresh |= replies
        return replies

    def recorded(self, questions: Sequence[Question]) -> dict[str, RecordedReply]:
        """By `about` those that were answered before, or given up in a batch."""
        assert self._chat is not None, "a run that asks has a model"
        replies: dict[str, RecordedReply] = {}
        known = self._earlier | self._given_up | self._journal.read()
        if self.spec.in_batch:  # as `ask_batch`, which asks anew where there is more room now
            known = {k: r for k, r in known.items() if k not in self._earlier or not self._short(r)}
        for question in questions:
            key = batch_chat.reply_key(question, self._chat, self.spec.attempt)
            if key in known:
                replies[question.about] = known[key]._replace(about=question.about)
        return replies

    def _short(self, reply: RecordedReply) -> bool:
        """Whether a reply was cut off where the spec gives more room."""
        return reply.finish == CUT_OFF and reply.completion_tokens < self.spec.room

    def _ask_in_batches(self, blocks: Callable[[Any], Blocks]) -> None:
        """Has all questions answered by the provider's batches, in rounds: what tests an
        explanation is known once that is."""
        chat, n_rounds, past = self._chat, 2 if getattr(self.spec, "scores", ()) else 1, 0
        assert isinstance(chat, OpenAIChat), "batches need a server"

        def report(done: int, total: int, note: str = "") -> None:
            share = (min(past, n_rounds - 1) + done / max(total, 1)) / n_rounds
            self._progress(int(share * len(self.features)), len(self.features), note)

        while self.stopped is None:
            gathering = Gathering(self)
            for _ in blocks(gathering):
                pass
            if not past:
                self._counts["reused"] = gathering.n_known
            if not gathering.questions:
                return
            try:
                batch = ask_provider(
                    gathering.questions,
                    chat,
                    self._journal,
                    limits=self._limits,
                    progress=report,
                    attempt=self.spec.attempt,
                )
            except (BudgetReached, Cancelled, ServiceError) as error:
                self.stopped = error
                return
            self._counts.update(batch.counts)
            self._limits = self._limits._replace(room=batch.room)
            self._notes |= dict.fromkeys(batch.notes)
            self._given_up |= {r.key: r for r in batch.replies.values() if not r.ok}
            past += 1

    def ask_each(
        self,
        questions: Mapping[int, Question],
        parse: Callable[[str], ReadT],
        *,
        share: int,
        note: str,
    ) -> dict[int, ReadT | Unread]:
        """One question a feature: what each reply says; some lack once the run was stopped."""
        replies = self.ask([*questions.values()], share=share, note=note)
        answered = ((f, replies.get(question.about)) for f, question in questions.items())
        return {feature: self.read(reply, parse) for feature, reply in answered if reply}

    def read(self, reply: RecordedReply, parse: Callable[[str], ReadT]) -> ReadT | Unread:
        """What a reply says. One that `parse` refuses is listed with why."""
        if reply.reply is None:
            self._unread = self._unread or reply.failure
            return Unread(FAILED, reply.failure)
        try:
            value = parse(reply.reply)
        except BadReply as error:
            self._fresh[reply.about] = reply._replace(failure=str(error))
            self._counts[UNREADABLE] += 1
            self._unread = self._unread or str(error)
            return Unread(UNREADABLE, str(error))
        self._n_read += 1
        return value

    def _take_replies(self) -> list[Row]:
        """Rows of the replies since the last time, one for each key."""
        rows = {reply.key: reply._asdict() for reply in self._fresh.values()}
        self._tokens += sum(r["prompt_tokens"] + r["completion_tokens"] for r in rows.values())
        self._cost += sum(r["cost"] or 0.0 for r in rows.values())
        self._fresh = {}
        return [*rows.values()]

    def perform(
        self,
        blocks: Callable[[Any], Blocks],
        facts: InterpretFacts,
        *,
        tables: Sequence[str],
        count: str,
        verb: str,
    ) -> str:
        """Finishes the run, unless it is finished; returns its id. `blocks` begins what the step
        does, with a run to ask.

        The first of `tables` has a row a feature, which its column `count` sorts into kinds. Raises
        BudgetReached, Cancelled or ServiceError after publishing what is complete; BadReply,
        without publishing, where none of the replies can be read.
        """
        runs, spec, run_id = self.runs, self.spec, self._id
        if runs.find(run_id):
            return run_id
        with runs.exclusive(run_id):
            begun, home = time.monotonic(), runs.scratch(run_id)
            if spec.in_batch and self._chat is not None:
                self._ask_in_batches(blocks)
            elif self._chat is not None:
                check_closed(self._journal)
            features, counts, further = self._write(blocks(self), home, tables, count, verb)
            if self._unread and not self._n_read and self.stopped is None:
                raise BadReply(
                    f"No reply of {self.spec.model} can be read, so nothing is kept. The first: "
                    f"{self._unread.rstrip('.')}. Another --attempt asks anew."
                )
            if self._chat is not None:
                priced = None not in (spec.price_in, spec.price_out)
                further |= {"cost": self._cost if priced else None, "tokens": self._tokens}
                further["replies"] = dict(sorted(self._counts.items()))
                notes = filter(None, (further.get("note"), *self._notes))
                further["note"] = " ".join(notes) or None
            facts = replace(
                facts,
                name=runs.manifest(spec.measure).facts.name,
                measure=spec.measure,
                n_features=len(features),
                counts=dict(sorted(counts.items())),
                **further,
            )
            seconds = time.monotonic() - begun
            about: Row = {"inputs": self._inputs, "facts": facts, "seconds": seconds}
            if self.stopped is None:
                runs.publish(run_id, spec=spec, **about)
                return run_id
            if not features:
                raise self.stopped
            smaller = replace(spec, features=tuple(features))
            part = smaller.run_id(*self._parts)
            if not runs.find(part):
                with runs.exclusive(part):
                    for path in home.glob("*.parquet"):
                        path.rename(runs.scratch(part) / path.name)
                    runs.publish(part, spec=smaller, **about)
            raise type(self.stopped)(
                f"{str(self.stopped).rstrip('.')}. {len(features):,} features are complete and "
                f"kept ({part}); started again, nothing is asked twice."
            )

    def _write(
        self, blocks: Blocks, home: Path, tables: Sequence[str], count: str, verb: str
    ) -> tuple[list[int], Counter[str], Row]:
        """Writes the tables, until all is complete or the run is stopped; complete features, how
        many of each kind, further facts."""
        features: list[int] = []
        counts: Counter[str] = Counter()
        with ExitStack() as stack:
            files = {}
            for name in (*tables, "replies"):
                appender = ParquetAppender(home / f"{name}.parquet", getattr(schema, name.upper()))
                files[name] = stack.enter_context(appender)
            while True:
                try:
                    block = next(blocks)
                except StopIteration as end:
                    return features, counts, end.value or {}
                features += [row["feature"] for row in block[tables[0]]]
                counts.update(row[count] for row in block[tables[0]])
                for name, rows in {**block, "replies": self._take_replies()}.items():
                    files[name].append(pa.Table.from_pylist(rows, files[name].schema))
                self.report(len(features), verb)


class Gathering(StepRun[SpecT]):
    """A run that asks nobody and writes nothing: it notes which questions nothing answers yet, of
    those that can be known."""

    def __init__(self, run: StepRun[SpecT]):
        super().__init__(run.spec, run.runs, None, lambda *_: None, inputs=())
        self._of, self._keys = run, set[str]()
        self.questions: list[Question] = []
        self.n_known = 0  # questions that were answered before

    def ask(
        self, questions: Sequence[Question], *, share: int, note: str
    ) -> dict[str, RecordedReply]:
        replies = self._of.recorded(questions)
        blank: Row = dict.fromkeys(RecordedReply._fields, "") | {"reply": None}
        for question in questions:
            if question.prompt.key in self._keys:
                continue
            self._keys.add(question.prompt.key)
            if question.about in replies:
                self.n_known += replies[question.about].ok
            else:
                self.questions.append(question)
        # As if they had failed: what does not depend on them is gathered too.
        return {q.about: RecordedReply(**{**blank, "about": q.about}) for q in questions} | replies


class Rehearsal(StepRun[SpecT]):
    """A run that asks nobody and writes nothing: it notes what it would ask, and goes on from
    answers of the form that was asked for and of about the usual length."""

    def __init__(self, spec: SpecT, runs: Runs):
        super().__init__(spec, runs, None, lambda *_: None, inputs=())
        self.questions: list[Question] = []

    def ask(
        self, questions: Sequence[Question], *, share: int, note: str
    ) -> dict[str, RecordedReply]:
        self.questions += questions
        blank = dict.fromkeys(RecordedReply._fields, "")
        replies = {}
        for question in questions:
            fields = question.prompt.form["properties"].items()
            reply = json.dumps({name: _filled(schema) for name, schema in fields})
            values: Row = {**blank, "about": question.about, "reply": reply}
            replies[question.about] = RecordedReply(**values)
        return replies


def _filled(schema: Mapping[str, Any]) -> Any:
    """A value of a JSON schema: of a choice the first, else a sentence."""
    return schema["enum"][0] if "enum" in schema else "a word about something " * 4


ExplainRun = StepRun[ExplainSpec]
JudgeRun = StepRun[JudgeSpec]


def identity(chat: ChatModel | None) -> str:
    """Who answers, to which words: an edited prompt is a new run."""
    if chat is None:
        return ""
    sample = Excerpt(("a", "b"), (True, False))
    task = relevance.TaskProfile("t", "t", ("r",))
    prompts = (
        explaining.explain([sample]),
        explaining.detect("e", [sample]),
        explaining.fuzz("e", [sample]),
        relevance.judge(task, "e", [sample]),
    )
    return f"{chat.identity} {digest([prompt.key for prompt in prompts])}"
