"""A step that writes for gaps: its texts as they come, and what a stop leaves of it.

Every text is on disk before it counts, so a killed run writes nothing twice and loses nothing; one
that was stopped publishes the gaps whose texts are all there.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

import pyarrow as pa

from fac.config import WRITERS, WriteSpec
from fac.encoder import Encoder
from fac.errors import BudgetReached, Cancelled, InputError, Progress, ServiceError, disk_room
from fac.generator.batch_chat import append_line, drop_torn_line
from fac.generator.writer import Writer, Written
from fac.prompts import drafts
from fac.prompts.drafts import BadDraft
from fac.schema import CANDIDATES, HITS, REPLIES, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis import filter as verdicts
from fac.synthesis.own_words import Stretch, borrowed
from fac.synthesis.plan import Ask, Direction, Row, reply_key, seed_of
from fac.synthesis.scoring import Hits, hit_rows

ROUNDS = 8
"""Texts a server is asked for before they count, in times of the questions on their way at once."""

Stopped = BudgetReached | Cancelled | ServiceError  # why a step ends before its end


class Texts(NamedTuple):
    """What a writer wrote, as far as it got."""

    written: dict[str, Written]  # by candidate
    seconds: float  # spent writing, sessions that were killed included
    stopped: Stopped | None  # why some are missing


class CandidateJournal:
    """Texts as they came, one JSON object a line; every line is on disk when `append` returns."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds = 0.0  # spent on all that is recorded
        self._begun = time.monotonic()

    def read(self) -> dict[str, Written]:
        """Every recorded text by its key. What a killed process left after the last line break is
        dropped. Raises InputError for a line that is none."""
        texts: dict[str, Written] = {}
        if self._path.exists():
            drop_torn_line(self._path)
            for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self.seconds = float(row.pop("seconds"))
                    texts.setdefault(row["key"], Written(**row))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise InputError(
                        f"Line {number} of {self._path} is damaged: delete that line, so that its "
                        f"text is written again, and start again."
                    ) from error
        self._begun = time.monotonic() - self.seconds
        return texts

    def append(self, written: Written) -> None:
        """Raises InputError when the disk is full; the journal then is as it was before."""
        self.seconds = time.monotonic() - self._begun
        row = written._asdict() | {"seconds": round(self.seconds, 3)}
        with disk_room("the journal of texts"):
            append_line(self._path, json.dumps(row).encode() + b"\n")


def _earlier(
    runs: Runs, spec: WriteSpec, lacking: Collection[str], names: Mapping[str, str]
) -> tuple[dict[str, Written], float]:
    """Texts that finished runs of the step have, by candidate, and the seconds they took, each its
    share of its run's. `names` holds the reply keys of the candidates."""
    by_key = {names[candidate]: candidate for candidate in lacking}
    texts: dict[str, Written] = {}
    seconds = 0.0
    for manifest in runs.list(spec.step):
        if not (replies := manifest.files.get("replies.parquet")):
            continue
        for row in runs.table(manifest.run, "replies").to_pylist():
            candidate = by_key.get(row["key"])
            if candidate is None or candidate in texts or row["failure"]:
                continue
            seconds += manifest.seconds / replies["rows"]
            texts[candidate] = Written(
                key=candidate,
                text=row["reply"],
                finished=row["finish"] == "stop",
                tokens=row["completion_tokens"],
                failure="",
                prompt_tokens=row["prompt_tokens"],
                cost=row["cost"],
            )
    return texts, seconds


class Candidate(NamedTuple):
    """A text before any verdict."""

    ask: Ask
    messages: Chat  # empty where there is no text
    extra: Row
    problem: str  # one of `fac.synthesis.filter.PROBLEMS`, or ""
    written: Written

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
        sources = [*self.ask.quoted, self.ask.explanation, *more]
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
            "tokens": candidate.written.tokens,
            "finished": candidate.written.finished,
            "prompt_hash": candidate.ask.prompt_hash,
            "seed": seed_of(spec),
        }
        for candidate in candidates
    ]


def reply_rows(candidates: Sequence[Candidate], spec: WriteSpec, identity: str) -> list[Row]:
    """Rows of schema.REPLIES: the exact prompts and texts, which a server would not give twice."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        {
            "key": reply_key(candidate.ask, spec, identity),
            "about": candidate.name,
            "prompt": json.dumps(candidate.ask.messages, ensure_ascii=False),
            "reply": None if text.failure else text.text,
            "finish": "" if text.failure else "stop" if text.finished else "length",
            "failure": text.failure,
            "model": identity,
            "prompt_tokens": text.prompt_tokens,
            "completion_tokens": text.tokens,
            "estimated": False,
            "cost": text.cost,
            "at": now,
        }
        for candidate in candidates
        for text in (candidate.written,)
    ]


def spent(candidates: Sequence[Candidate], seconds: float, identity: str) -> Row:
    """What the texts took, for a run's facts; `price` is None where no price is known."""
    costs = [candidate.written.cost for candidate in candidates]
    prices = [price for price in costs if price is not None]
    return {
        "writer": identity,
        "n_candidates": len(candidates),
        "tokens": sum(candidate.written.tokens for candidate in candidates),
        "prompt_tokens": sum(candidate.written.prompt_tokens for candidate in candidates),
        "seconds": round(seconds, 3),
        "cost": float(sum(prices)) if len(prices) == len(costs) and costs else None,
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
            texts = self._write(progress)
            if texts.stopped is None:
                self.publish(texts, progress)
                return self.run_id
            lacking = {ask.feature for ask in self.plan if ask.request.key not in texts.written}
            part, complete = self.part(lacking, texts.stopped)
            if not self.runs.find(part.run_id):
                with self.runs.exclusive(part.run_id):
                    part.publish(texts, quiet)
            raise type(texts.stopped)(
                f"{str(texts.stopped).rstrip('.')}. {complete:,} gaps are complete and kept "
                f"({part.run_id}); started again, nothing is written twice."
            )

    def _write(self, progress: Progress) -> Texts:
        """Writes what neither the run's journal nor an earlier run of the step has."""
        spec, requests = self.spec, [ask.request for ask in self.plan]
        server = WRITERS[spec.writer].server
        journal = CandidateJournal(self.runs.scratch(self.run_id) / "_texts.jsonl")
        names = dict(zip((each.key for each in requests), self.reply_keys(), strict=True))
        texts = {key: text for key, text in journal.read().items() if key in names}
        earlier, before = _earlier(self.runs, spec, names.keys() - texts.keys(), names)
        texts |= earlier

        def record(text: Written) -> None:
            journal.append(text)
            texts[text.key] = text

        stopped: Stopped | None = None
        # A server's texts are recorded when a call ends; a local writer cuts its batches from all.
        size = ROUNDS * spec.concurrency if server else max(1, len(requests))
        failed: dict[str, Written] = {}
        try:
            progress(len(texts), len(requests), "writing")
            for start in range(0, len(requests), size):

                def report(done: int, of: int, note: str = "", *, before: int = start) -> None:
                    note = f"writing, {note}" if note else "writing"
                    progress(before + done, len(requests), note)

                replies = self.writer.write(
                    requests[start : start + size],
                    seed=seed_of(spec),
                    max_new_tokens=spec.max_new_tokens,
                    temperature=spec.temperature,
                    done=dict(texts),
                    record=record,
                    progress=report,
                )
                failed |= {key: text for key, text in replies.items() if text.failure}
        except (BudgetReached, Cancelled, ServiceError) as error:
            stopped = error
        return Texts(failed | texts, before + journal.seconds, stopped)

    def reply_keys(self) -> list[str]:
        """Of every text that is asked for."""
        return [reply_key(ask, self.spec, self.writer.identity) for ask in self.plan]

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
