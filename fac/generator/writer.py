"""Candidate texts from language models: one protocol, seeded, resumable.

Owns: which model text a request becomes, batches, streams of random numbers, what was spent.
Does not own: what is asked and how a reply is read (`fac.prompts`), where texts are kept (the
caller's `record`), whether a text is any good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np

from fac.config import digest
from fac.errors import BudgetReached
from fac.generator.asking import HEARTBEAT, Answer, Journal, Limits, Question, ask_all
from fac.generator.chat import ChatModel
from fac.generator.local import Continuation, LocalGenerator, Row, Steer
from fac.prompts import Prompt, openings
from fac.prompts.openings import Opening

__all__ = ["ChatWriter", "LocalWriter", "Request", "Steer", "Writer", "Written", "stream"]


class Request(NamedTuple):
    """One text to be written: from a prompt, or from an opening, never both."""

    key: str
    """Names feature, style and number; unique in one call, and the same in a resumed one."""

    prompt: Prompt | None = None
    """Answered by a chat model; its own temperature and draw do not count."""

    opening: Opening | None = None
    """Continued; an empty one is the user's turn of an empty chat."""

    steer: Steer | None = None
    """For a local model alone."""


class Written(NamedTuple):
    """What became of one request."""

    key: str
    text: str
    """The reply, or what follows the opening; may be empty, and need not be what was asked for."""

    finished: bool
    """False where it was cut off."""

    tokens: int
    """Generated."""

    failure: str
    """Why there is no text; "" otherwise."""

    prompt_tokens: int
    cost: float | None
    """US dollars; None where no price is known."""


class Writer(Protocol):
    """Whatever writes texts."""

    identity: str
    """Who writes: part of what names a run, never a key."""

    def write(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        done: Mapping[str, Written],
        record: Callable[[Written], None],
        progress: Callable[..., None],
    ) -> dict[str, Written]:
        """One Written per request, by key, in the order of the requests.

        What `done` holds is returned as it is and not written again. `record` is called once for
        every other text, before it is reported or returned; a request that failed is returned
        with its failure but not recorded, so that the next call tries it again.

        Each request has its own stream of random numbers, that of (seed, key). progress(done,
        total, note) is called as texts are finished; whatever it raises (Cancelled) ends the call.

        Raises ValueError where two requests share a key or one has not exactly one of prompt and
        opening, BudgetReached when the next text could exceed the budget.
        """
        ...


def stream(seed: int, key: str) -> int:
    """Seed of one request's random numbers, 48 bits."""
    return int(digest(seed, key), 16)


def _room(request: Request, max_new_tokens: int) -> int:
    """Tokens a text may have: never fewer than the form of a JSON reply needs."""
    wanted = request.prompt.max_tokens if request.prompt and request.prompt.form else 0
    return max(max_new_tokens, wanted)


def _checked(requests: Sequence[Request]) -> None:
    if len({request.key for request in requests}) < len(requests):
        raise ValueError("two requests share a key")
    for request in requests:
        if (request.prompt is None) == (request.opening is None):
            raise ValueError(f"request {request.key!r} needs either a prompt or an opening")


class LocalWriter:
    """A model of this machine, in batches of similar length.

    Batches are cut from the requests alone, whatever is done already, and a batch of which only a
    part was recorded is written again as a whole. So a resumed call gives exactly the texts that
    one call would have given on the same machine. With other requests beside it, or where a budget
    ends within a batch, a text is the same but for rounding; see `LocalGenerator.write`.
    """

    def __init__(
        self,
        generator: LocalGenerator,
        identity: str,
        *,
        batch: int = 64,
        top_k: int = 50,
        budget_tokens: int | None = None,
    ):
        self.generator = generator
        self.identity = identity
        self.batch, self.top_k, self.budget_tokens = batch, top_k, budget_tokens

    def write(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        done: Mapping[str, Written],
        record: Callable[[Written], None],
        progress: Callable[..., None],
    ) -> dict[str, Written]:
        """See `Writer`. The budget counts prompt and new tokens of every text, done ones too.

        Raises InputError for a prompt, or an empty opening, where the model has no chat template.
        """
        _checked(requests)
        found = {request.key: done[request.key] for request in requests if request.key in done}
        pace = Pace(len(requests), found, progress)
        pace.report()
        batches = [*self._batches(requests, seed, max_new_tokens)]
        while wave := self._wave(batches, found):
            for batch, texts in self._continued(wave, temperature, pace):
                for line, text in zip(batch.lines, texts, strict=True):
                    if line.key not in found:
                        written = _written(line.key, text)
                        record(written)
                        found[line.key] = written
                pace.report()
        return {request.key: found[request.key] for request in requests}

    def _wave(self, batches: Sequence[Batch], found: Mapping[str, Written]) -> list[Batch]:
        """The batches to be written next: all that the budget has room for whatever they come to.

        A batch that it has only room for in part waits until all before it are written, and then
        is cut, so that what is written does not depend on how many batches are written at once.
        """
        wave: list[Batch] = []
        reserved = 0
        for batch in batches:
            missing = [line for line in batch.lines if line.key not in found]
            if not missing:
                continue
            fitting = self._affordable(missing, batch.room, found, reserved)
            if len(fitting) < len(missing):
                if wave:
                    break
                if not fitting:
                    raise self._exhausted(missing[0].length + batch.room, found)
                return [batch._replace(lines=fitting)]
            wave.append(batch)
            reserved += sum(line.length + batch.room for line in missing)
        return wave

    def _continued(
        self, batches: Sequence[Batch], temperature: float, pace: Pace
    ) -> Iterator[tuple[Batch, list[Continuation]]]:
        """The batches with their texts, in the order in which they are finished."""
        for batch in batches:
            pace.begin(len(batch.lines), batch.room)
            texts = self.generator.write(
                [line.row for line in batch.lines],
                max_new_tokens=batch.room,
                temperature=temperature,
                top_k=self.top_k,
                beat=pace.beat,
            )
            pace.begin(0, 0)
            yield batch, texts

    def _batches(
        self, requests: Sequence[Request], seed: int, max_new_tokens: int
    ) -> Iterator[Batch]:
        """Lines alike in length, equal prompts side by side."""
        rows = [self._row(request, seed) for request in requests]
        lengths = self.generator.count([row.prompt for row in rows])
        lines = [
            _Line(_room(request, max_new_tokens), length, row.prompt, request.key, row)
            for request, length, row in zip(requests, lengths, rows, strict=True)
        ]
        lines.sort(key=lambda line: line[:4])
        for room, alike in groupby(lines, key=lambda line: line.room):
            equal = list(alike)
            for first in range(0, len(equal), self.batch):
                yield Batch(room, equal[first : first + self.batch])

    def _row(self, request: Request, seed: int) -> Row:
        number = stream(seed, request.key)
        opening = request.opening
        if opening is not None and opening.text:
            return Row(opening.text, number, line=True, steer=request.steer)
        if request.prompt is not None:
            text = self.generator.render(request.prompt.messages)
        else:
            chat = self.generator.render([{"role": "user", "content": BLANK}], reply=False)
            text = chat.partition(BLANK)[0]
        return Row(text, number, steer=request.steer)

    def _affordable(
        self, lines: Sequence[_Line], room: int, found: Mapping[str, Written], reserved: int
    ) -> list[_Line]:
        """As many of the first lines as the budget has room for, whatever they come to."""
        if self.budget_tokens is None:
            return list(lines)
        most = _used(found) + reserved + np.cumsum([line.length + room for line in lines])
        return list(lines[: int(np.searchsorted(most, self.budget_tokens, side="right"))])

    def _exhausted(self, tokens: int, found: Mapping[str, Written]) -> BudgetReached:
        return BudgetReached(
            f"The next text could take {tokens:,} tokens, but {_used(found):,} of the budget of "
            f"{self.budget_tokens:,} are used. Every text so far is kept; raise the budget to go "
            f"on."
        )


def _used(found: Mapping[str, Written]) -> int:
    return sum(text.prompt_tokens + text.tokens for text in found.values())


BLANK = "\u2983"
"""Stands for a user's turn that is to be written."""


class _Line(NamedTuple):
    """A row in its place among the others."""

    room: int
    length: int
    prompt: str
    key: str
    row: Row


class Batch(NamedTuple):
    """Lines that are written together."""

    room: int
    """Tokens each may have."""

    lines: list[_Line]


def _written(key: str, text: Continuation) -> Written:
    return Written(key, text.text, text.finished, text.tokens, "", text.prompt_tokens, None)


class Pace:
    """Reports how far the writing is, and how fast it goes."""

    def __init__(self, total: int, found: Mapping[str, Written], progress: Callable[..., None]):
        self._total, self._found, self._progress = total, found, progress
        self._before = self._tokens()
        self._started = self._reported = time.monotonic()
        self._texts = self._room = self._drawn = 0

    def _tokens(self) -> int:
        return sum(text.tokens for text in self._found.values())

    def begin(self, texts: int, room: int) -> None:
        """A batch of so many texts begins, of at most `room` tokens each."""
        self._texts, self._room, self._drawn = texts, room, 0

    def beat(self) -> None:
        """Each text of the batch has a token more: reports when the last report is a while ago."""
        self._drawn += 1
        if time.monotonic() - self._reported >= HEARTBEAT:
            self.report()

    def report(self) -> None:
        """How many texts are finished, and what is on its way: a batch is finished at once."""
        self._reported = time.monotonic()
        fresh, seconds = self._tokens() - self._before, self._reported - self._started
        note = f"{fresh:,} tokens" + (f", {fresh / seconds:.0f}/s" if fresh and seconds else "")
        if self._drawn:
            note += f", {self._texts} texts at once: token {self._drawn} of at most {self._room}"
        self._progress(len(self._found), self._total, note)


class ChatWriter:
    """A model behind a server, asked through `ask_all`: its retries, its budget, its journal.

    Every reply is in the journal before anything else happens, and a request of the same key, seed
    and temperature is never asked for again, so nothing is paid twice; the journal is also where
    the exact prompts and replies are found.
    """

    def __init__(
        self,
        chat: ChatModel,
        journal: Journal,
        limits: Limits,
        *,
        known: Mapping[str, Answer] | None = None,
        attempt: int = 0,
    ):
        self.chat, self.journal, self.limits = chat, journal, limits
        self.known, self.attempt = dict(known or {}), attempt
        self.identity = chat.identity

    def write(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        done: Mapping[str, Written],
        record: Callable[[Written], None],
        progress: Callable[..., None],
    ) -> dict[str, Written]:
        """See `Writer`; also raises what `ask_all` does, and ValueError for a steered request.

        Texts are recorded when all are there; until then the journal holds them. An opening is
        sent as the list that a chat model is to go on with. A reply ends where the server says so,
        with at least the room that the form of its prompt needs.
        """
        _checked(requests)
        missing = {request.key: request for request in requests if request.key not in done}
        if any(request.steer is not None for request in missing.values()):
            raise ValueError("a model behind a server cannot be steered")
        questions = [
            Question(key, self._prompt(request, seed, max_new_tokens, temperature))
            for key, request in missing.items()
        ]
        before = len(requests) - len(missing)

        def report(asked: int, total: int, note: str = "") -> None:
            progress(before + asked, before + total, note)

        asked = ask_all(
            questions,
            self.chat,
            self.journal,
            limits=self.limits,
            progress=report,
            known=self.known,
            attempt=self.attempt,
        )
        found: dict[str, Written] = {}
        for request in requests:
            if request.key in done:
                found[request.key] = done[request.key]
                continue
            found[request.key] = written = _answered(request, asked.answers[request.key])
            if not written.failure:
                record(written)
        return found

    @staticmethod
    def _prompt(request: Request, seed: int, max_new_tokens: int, temperature: float) -> Prompt:
        prompt = request.prompt
        if request.opening is not None:
            prompt = openings.continuing(request.opening)
        assert prompt is not None  # _checked
        return prompt._replace(
            max_tokens=_room(request, max_new_tokens),
            temperature=temperature,
            draw=stream(seed, request.key) % 2**31,  # what servers take for a seed
        )


def _answered(request: Request, answer: Answer) -> Written:
    text = answer.reply or ""
    finished = answer.ok and answer.finish not in ("length", "content_filter")
    if request.opening is not None and answer.ok:
        finished = finished or "\n" in text.strip()
        text = openings.continuation(text, request.opening)
    return Written(
        request.key,
        text,
        finished,
        answer.completion_tokens,
        answer.failure,
        answer.prompt_tokens,
        answer.cost,
    )
