"""A step that writes for gaps: its texts as they come, and what a stop leaves of it.

Every text is on disk before it counts, so a killed run writes nothing twice and loses nothing; one
that was stopped publishes the gaps whose texts are all there.
"""

from __future__ import annotations

import copy
import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, Self, TypeVar

import pyarrow as pa

from fac.config import WRITERS, WriteSpec
from fac.encoder import Encoder
from fac.errors import (
    BadReply,
    BudgetReached,
    Cancelled,
    InputError,
    Progress,
    ServiceError,
    disk_room,
)
from fac.generator.journal import append_line, drop_torn_line
from fac.generator.writer import Writer, Written
from fac.prompts import drafts
from fac.prompts.drafts import BadDraft
from fac.prompts.form import start_of
from fac.prompts.lists import ASSISTANT
from fac.schema import CANDIDATES, HITS, REPLIES, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis import filter as verdicts
from fac.synthesis.own_words import Stretch, borrowed
from fac.synthesis.plan import Ask, Direction, Row, reply_key, seed_of
from fac.synthesis.scoring import Hits, hit_rows

ROUNDS = 8
"""Texts a server is asked for before they count, in times of the questions on their way at once."""

ANSWER_ROOM = 256  # tokens that an answer may have, or more where a text may

Stopped = BudgetReached | Cancelled | ServiceError  # why a step ends before its end


class Lacking(Exception):
    """Texts that are asked for are not there, and nobody is to write them."""

    def __init__(self, gaps: Collection[int]):
        self.gaps = {*gaps}  # those they are for
        super().__init__(f"texts of {len(self.gaps)} gaps are not there")


NOTHING = Written("", "", True, 0, "", 0, None)  # in the place of a text that is not there yet


class Texts(NamedTuple):
    """What a writer wrote, as far as it got."""

    written: Mapping[str, Written]  # by candidate
    seconds: float  # spent writing, sessions that were killed included


class CandidateJournal:
    """Texts as they came, one JSON object a line; every line is on disk when `append` returns."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds = 0.0  # spent on all that is recorded
        self.asked: dict[str, str] = {}  # the reply key of each text, where the line has one
        self._begun = time.monotonic()

    def read(self) -> dict[str, Written]:
        """Every recorded text by its key, the last of each. What a killed process left after the
        last line break is dropped. Raises InputError for a line that is none."""
        texts: dict[str, Written] = {}
        if self._path.exists():
            drop_torn_line(self._path)
            for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self.seconds = float(row.pop("seconds"))
                    self.asked[row["key"]] = row.pop("asked", "")
                    texts[row["key"]] = Written(**row)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise InputError(
                        f"Line {number} of {self._path} is damaged: delete that line, so that its "
                        f"text is written again, and start again."
                    ) from error
        self.resume()
        return texts

    def resume(self) -> None:
        """Writing begins: what went by since the last text was written does not count."""
        self._begun = time.monotonic() - self.seconds

    def append(self, written: Written, asked: str = "") -> None:
        """`asked` is the reply key. Raises InputError when the disk is full; the journal then is as
        it was before."""
        self.seconds = time.monotonic() - self._begun
        row = written._asdict() | {"asked": asked, "seconds": round(self.seconds, 3)}
        with disk_room("the journal of texts"):
            append_line(self._path, json.dumps(row).encode() + b"\n")
        self.asked[written.key] = asked


class Desk:
    """Where the texts of a step are written: what is there already, and what comes.

    A text that the run's journal or an earlier run of the step has is not written again, whatever
    asks for it. A `closed` desk has what is there, and writes nothing.
    """

    def __init__(self, runs: Runs, spec: WriteSpec, folder: Path):
        self.runs, self.spec = runs, spec
        self.journal = CandidateJournal(folder / "_texts.jsonl")
        self.written = self.journal.read()  # by candidate, or candidate and part
        self.stopped: Stopped | None = None  # why a call of `write` ended early
        self.lacking: set[int] = set()  # the gaps whose texts it left unwritten
        self.open = True
        self._earlier: dict[str, tuple[Written, float]] | None = None
        self._before = 0.0

    def closed(self) -> Desk:
        """What is there, and nobody to write more."""
        desk = copy.copy(self)
        desk.open = False
        return desk

    @property
    def texts(self) -> Texts:
        return Texts(self.written, self._before + self.journal.seconds)

    def write(
        self,
        asks: Sequence[Ask],
        writer: Writer,
        spec: WriteSpec,
        progress: Progress,
        note: str = "writing",
    ) -> None:
        """Writes what is not there. Raises Lacking where a closed desk has not all, and whatever
        stops a writer, with all that it wrote before recorded."""
        names = {ask.request.key: reply_key(ask, spec, writer.identity) for ask in asks}
        self._take_recorded(names)
        missing = {ask.feature for ask in asks if ask.request.key not in self.written}
        if not missing:
            return
        if not self.open:
            raise Lacking(missing)

        def record(text: Written) -> None:
            self.journal.append(text, names[text.key])
            self.written[text.key] = text

        requests = [ask.request for ask in asks]
        # A server's texts are recorded when a call ends; a local writer cuts its batches from all.
        size = ROUNDS * spec.concurrency if WRITERS[spec.writer].server else len(requests)
        self.journal.resume()
        try:
            for start in range(0, len(requests), size):
                part = requests[start : start + size]

                def report(done: int, of: int, more: str = "", *, before: int = start) -> None:
                    progress(before + done, len(requests), f"{note}, {more}" if more else note)

                replies = writer.write(
                    part,
                    seed=seed_of(spec),
                    max_new_tokens=spec.max_new_tokens,
                    temperature=spec.temperature,
                    done={
                        each.key: self.written[each.key]
                        for each in part
                        if each.key in self.written
                    },
                    record=record,
                    progress=report,
                )
                self.written |= {key: text for key, text in replies.items() if text.failure}
        except (BudgetReached, Cancelled, ServiceError) as error:
            self.stopped = error
            self.lacking = {a.feature for a in asks if a.request.key not in self.written}
            raise

    def _take_recorded(self, names: Mapping[str, str]) -> None:
        """Forgets recorded texts that answer something else, and takes those that finished runs
        have; `names` holds the reply keys of what is asked for."""
        for key in names.keys() & self.written.keys():
            if self.journal.asked.get(key, "") not in ("", names[key]):
                del self.written[key]
        if names.keys() <= self.written.keys():
            return
        if self._earlier is None:
            self._earlier = dict(_replies_of(self.runs, self.spec.step))
        for key, name in names.items():
            if key not in self.written and name in self._earlier:
                text, seconds = self._earlier[name]
                self.written[key] = text._replace(key=key)
                self._before += seconds


def _replies_of(runs: Runs, step: str) -> Iterator[tuple[str, tuple[Written, float]]]:
    """By reply key the texts that finished runs of the step have, of equal ones the newest, and
    the seconds each took, its share of its run's."""
    columns = ["key", "reply", "finish", "failure", "completion_tokens", "prompt_tokens", "cost"]
    for manifest in reversed(runs.list(step)):
        if not (replies := manifest.files.get("replies.parquet")):
            continue
        for row in runs.table(manifest.run, "replies", columns).to_pylist():
            if row["failure"]:
                continue
            text = Written(
                key="",
                text=row["reply"],
                finished=row["finish"] == "stop",
                tokens=row["completion_tokens"],
                failure="",
                prompt_tokens=row["prompt_tokens"],
                cost=row["cost"],
            )
            yield row["key"], (text, manifest.seconds / replies["rows"])


class Answer(NamedTuple):
    """A later part of a sample, as it was asked for and written."""

    ask: Ask
    written: Written
    key: str  # its reply key
    model: str  # who wrote it


class Candidate(NamedTuple):
    """A text before any verdict."""

    ask: Ask
    messages: Chat  # empty where there is no text
    extra: Row
    problem: str  # one of `fac.synthesis.filter.PROBLEMS`, or ""
    written: Written
    answers: tuple[Answer, ...] = ()

    @property
    def replies(self) -> tuple[Written, ...]:
        """All that was written for it."""
        return (self.written, *(answer.written for answer in self.answers))

    @property
    def finished(self) -> bool:
        """Whether its last turn ended by itself."""
        last = self.written if self.ask.role == ASSISTANT else self.replies[-1]
        return last.finished

    @property
    def name(self) -> str:
        return self.ask.request.key

    @property
    def text(self) -> str:
        """Everything it says, for comparing."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def prescribed(self) -> int:
        """Words at its beginning that its prompt made it begin with."""
        opening = self.ask.request.opening
        return len(verdicts.words(opening.starts)) if opening else 0

    def borrowed(self, more: Iterable[str] = ()) -> dict[int, list[Stretch]]:
        """What it has from what its writer was shown, `more` than the prompt holds, by message."""
        shown = (text for answer in self.answers for text in answer.ask.quoted)
        sources = [*self.ask.quoted, self.ask.explanation, *shown, *more]
        return {
            number: borrowed(message["content"], sources, 0 if number else self.prescribed)
            for number, message in enumerate(self.messages)
        }


def read(ask: Ask, spec: WriteSpec, written: Written) -> Candidate:
    """What was written, in the form of the profile; or why there is none."""
    opening = ask.request.opening
    starts = opening.starts if opening else ""
    if written.failure:
        return Candidate(ask, [], {}, verdicts.FAILED, written)
    try:
        if ask.role == ASSISTANT:
            text = drafts.read_answer(spec.profile, written.text, finished=written.finished)
            return Candidate(ask, [{"role": ASSISTANT, "content": text}], {}, "", written)
        draft = drafts.read_draft(spec.profile, written.text, starts, finished=written.finished)
    except BadDraft as error:
        return Candidate(ask, [], {}, error.problem, written)
    return Candidate(ask, [*draft.messages], draft.extra, "", written)


def candidate_rows(candidates: Sequence[Candidate], spec: WriteSpec) -> list[Row]:
    """Rows of schema.CANDIDATES."""
    return [
        {
            "candidate": candidate.name,
            "feature": candidate.ask.feature,
            "pair": candidate.ask.pair,
            "style": candidate.ask.style,
            "messages": candidate.messages,
            "extra": json.dumps(candidate.extra, ensure_ascii=False, sort_keys=True),
            "problem": candidate.problem,
            "tokens": sum(text.tokens for text in candidate.replies),
            "finished": all(text.finished for text in candidate.replies),
            "prompt_hash": candidate.ask.prompt_hash,
            "seed": seed_of(spec),
        }
        for candidate in candidates
    ]


def reply_rows(candidates: Sequence[Candidate], spec: WriteSpec, identity: str) -> list[Row]:
    """Rows of schema.REPLIES: the exact prompts and texts, which a server would not give twice."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    replies = [
        reply
        for each in candidates
        for reply in (
            Answer(each.ask, each.written, reply_key(each.ask, spec, identity), identity),
            *each.answers,
        )
    ]
    return [
        {
            "key": key,
            "about": ask.request.key,
            "prompt": json.dumps(ask.messages, ensure_ascii=False),
            "reply": None if text.failure else text.text,
            "finish": "" if text.failure else "stop" if text.finished else "length",
            "failure": text.failure,
            "model": model,
            "prompt_tokens": text.prompt_tokens,
            "completion_tokens": text.tokens,
            "estimated": False,
            "cost": text.cost,
            "at": now,
        }
        for ask, text, key, model in replies
    ]


def spent(candidates: Sequence[Candidate], seconds: float, identity: str) -> Row:
    """What the texts took, answers included, for a run's facts; `price` is None where no price is
    known."""
    replies = [text for candidate in candidates for text in candidate.replies]
    prices = [text.cost for text in replies if text.cost is not None]
    return {
        "writer": identity,
        "n_candidates": len(candidates),
        "tokens": sum(text.tokens for text in replies),
        "prompt_tokens": sum(text.prompt_tokens for text in replies),
        "seconds": round(seconds, 3),
        "cost": float(sum(prices)) if len(prices) == len(replies) and replies else None,
    }


SpecT = TypeVar("SpecT", bound=WriteSpec)


@dataclass(kw_only=True)
class Step(ABC, Generic[SpecT]):
    """What is asked of whom, and what the answers amount to."""

    spec: SpecT
    runs: Runs
    encoder: Encoder
    writer: Writer
    direction: Direction | None = None  # decoder directions, for a steered writer
    answerer: Writer | None = None  # who answers what is written; None: whoever writes it
    plan: list[Ask] = field(init=False)
    run_id: str = field(init=False)

    @abstractmethod
    def publish(self, texts: Texts, progress: Progress) -> None:
        """Measures what was written and finishes the run."""

    @abstractmethod
    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        """The step for the gaps that lack no text, and how many these are. Raises `stopped`, or why
        no part of the step can be finished, where there is none."""

    def run(self, progress: Progress) -> str:
        """Writes what is not there yet and publishes; the run's id. Raises what stopped the
        writing, after publishing the gaps whose texts are all there."""
        if self.runs.find(self.run_id):
            return self.run_id
        with self.runs.exclusive(self.run_id):
            desk = Desk(self.runs, self.spec, self.runs.scratch(self.run_id))
            try:
                self.make(desk, progress)
            except (BudgetReached, Cancelled, ServiceError):
                if desk.stopped is None:
                    raise
                self._publish_part(desk, desk.stopped)
        return self.run_id

    def make(self, desk: Desk, progress: Progress) -> None:
        """Has everything written and finishes the run."""
        desk.write(self.plan, self.writer, self.spec, progress)
        self.publish(desk.texts, progress)

    def _publish_part(self, desk: Desk, stopped: Stopped) -> NoReturn:
        """Finishes the gaps whose texts are all there, and raises what stopped the others."""
        lacking, closed = {*desk.lacking}, desk.closed()
        while True:
            part, complete = self.part(lacking, stopped)
            if self.runs.find(part.run_id):
                break
            try:
                with self.runs.exclusive(part.run_id):
                    part.make(closed, quiet)
                break
            except Lacking as error:
                lacking |= error.gaps
        raise type(stopped)(
            f"{str(stopped).rstrip('.')}. {complete:,} gaps are complete and kept "
            f"({part.run_id}); started again, nothing is written twice."
        )

    def reply_keys(self) -> list[str]:
        """Of every text that is asked for."""
        return [reply_key(ask, self.spec, self.writer.identity) for ask in self.plan]

    def must_say(self, written: Sequence[Candidate]) -> None:
        """Raises BadReply where a server wrote something and none of it is a text that can be
        used. One that refuses can be read; what it was asked for is kept as tried."""
        if not WRITERS[self.spec.writer].server or not written:
            return
        if all(each.problem and each.problem != verdicts.REFUSAL for each in written):
            problems = Counter(each.problem for each in written).most_common()
            listed = ", ".join(f"{problem} {n:,}" for problem, n in problems)
            first = written[0].written
            raise BadReply(
                f"No text of {self.writer.identity} can be used ({listed}), so nothing is kept. "
                f"The first: "
                f"{first.failure or start_of(first.text) or 'it is empty'}".rstrip(".")
                + ". Another --attempt writes anew."
            )

    def candidates(self, texts: Texts) -> list[Candidate]:
        """What was written, in the order of the plan."""
        return [read(ask, self.spec, texts.written[ask.request.key]) for ask in self.plan]

    def write_tables(
        self,
        written: Sequence[Candidate],
        hits: Hits,
        **tables: tuple[Sequence[Mapping[str, object]], pa.Schema],
    ) -> None:
        """The tables of every step that writes, and others as rows with their schema."""
        by_name = sorted(written, key=lambda each: each.name)
        tables["candidates"] = candidate_rows(by_name, self.spec), CANDIDATES
        tables["hits"] = hit_rows([each.name for each in written], hits), HITS
        tables["replies"] = reply_rows(by_name, self.spec, self.writer.identity), REPLIES
        folder = self.runs.scratch(self.run_id)
        for name, (rows, schema) in tables.items():
            write_table(folder / f"{name}.parquet", pa.Table.from_pylist([*rows], schema), schema)


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody is asked whether to go on: the rest is quick."""


def same_encoder(runs: Runs, measures: Iterable[str], encoder: Encoder) -> None:
    """Raises InputError where a measure was made by another encoder: peaks would not compare."""
    for run in measures:
        other = runs.manifest(run).facts.encoder
        if other != encoder.identity:
            raise InputError(
                f"{run} was measured with {other}, not with {encoder.identity}: measure anchor and "
                f"dataset with one model and one SAE."
            )
