"""A model of this machine writes, in batches of similar length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from fac.errors import BudgetReached, Progress
from fac.generator.batch_chat import HEARTBEAT
from fac.generator.local import Continuation, LocalGenerator, PromptRow
from fac.generator.writer import Request, WriterKind, Written, check_requests, room_of, stream


class LocalWriter:
    """A model of this machine, in batches of similar length.

    Batches are cut from the requests alone, whatever is done already, and a batch of which only a
    part was recorded is written again as a whole. So a resumed call gives exactly the texts that
    one call would have given on the same machine. With other requests beside it, or where a budget
    ends within a batch, a text is the same but for rounding; see `LocalGenerator.write`.
    """

    notes: tuple[str, ...] = ()

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
        self.chats = generator.chats
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
        progress: Progress,
    ) -> dict[str, Written]:
        """See `Writer`. The budget counts prompt and new tokens of every text, done ones too, also
        those that are not asked for.

        Raises InputError for a prompt, or an empty opening, where the model has no chat template.
        """
        check_requests(requests)
        written = {request.key: done[request.key] for request in requests if request.key in done}
        self._used_before = used({key: text for key, text in done.items() if key not in written})
        pace = Pace(len(requests), written, progress)
        pace.report()
        batches = [*self._batches(requests, seed, max_new_tokens)]
        while wave := self._wave(batches, written):
            for batch, texts in self._continued(wave, temperature, pace):
                for line, text in zip(batch.lines, texts, strict=True):
                    if line.key not in written:
                        outcome = _written(line.key, text)
                        record(outcome)
                        written[line.key] = outcome
                pace.report()
        return {request.key: written[request.key] for request in requests}

    def _wave(
        self, batches: Sequence[LineBatch], written: Mapping[str, Written]
    ) -> list[LineBatch]:
        """The batches to be written next: all that the budget has room for whatever they come to.

        A batch that it has only room for in part waits until all before it are written, and then
        is cut, so that what is written does not depend on how many batches are written at once.
        """
        wave: list[LineBatch] = []
        reserved = 0
        for batch in batches:
            missing = [line for line in batch.lines if line.key not in written]
            if not missing:
                continue
            fitting = self._affordable(missing, batch.room, written, reserved)
            if len(fitting) < len(missing):
                if wave:
                    break
                if not fitting:
                    raise self._exhausted(missing[0].length + batch.room, written)
                return [batch._replace(lines=fitting)]
            wave.append(batch)
            reserved += sum(line.length + batch.room for line in missing)
        return wave

    def _continued(
        self, batches: Sequence[LineBatch], temperature: float, pace: Pace
    ) -> Iterator[tuple[LineBatch, list[Continuation]]]:
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
    ) -> Iterator[LineBatch]:
        """Lines alike in length, equal prompts side by side."""
        rows = [self._row(request, seed) for request in requests]
        lengths = self.generator.count([row.prompt for row in rows])
        lines = [
            _Line(room_of(request, max_new_tokens), length, row.prompt, request.key, row)
            for request, length, row in zip(requests, lengths, rows, strict=True)
        ]
        lines.sort(key=lambda line: line[:4])
        for room, alike in groupby(lines, key=lambda line: line.room):
            equal = list(alike)
            for first in range(0, len(equal), self.batch):
                yield LineBatch(room, equal[first : first + self.batch])

    def _row(self, request: Request, seed: int) -> PromptRow:
        number = stream(seed, request.key)
        opening = request.opening
        if opening is not None and opening.text:
            begun = self.generator.begin + opening.text
            how = (request.steer, request.without, request.edges, request.biases)
            return PromptRow(begun, number, True, *how, afresh=True)
        if request.prompt is not None:
            text = self.generator.render(request.prompt.messages)
        else:
            chat = self.generator.render([{"role": "user", "content": BLANK}], reply=False)
            text = chat.partition(BLANK)[0]
        return PromptRow(
            text,
            number,
            steer=request.steer,
            without=request.without,
            biases=request.biases,
            afresh=True,
        )

    _used_before = 0  # tokens of what is done beside the requests of a call

    def _used(self, written: Mapping[str, Written]) -> int:
        return self._used_before + used(written)

    def _affordable(
        self, lines: Sequence[_Line], room: int, written: Mapping[str, Written], reserved: int
    ) -> list[_Line]:
        """As many of the first lines as the budget has room for, whatever they come to."""
        if self.budget_tokens is None:
            return list(lines)
        most = self._used(written) + reserved + np.cumsum([line.length + room for line in lines])
        return list(lines[: int(np.searchsorted(most, self.budget_tokens, side="right"))])

    def _exhausted(self, tokens: int, written: Mapping[str, Written]) -> BudgetReached:
        spent = self._used(written)
        return BudgetReached(
            f"The next text could take {tokens:,} tokens, but {spent:,} of the budget of "
            f"{self.budget_tokens:,} are used. Every text so far is kept; raise the budget to go "
            f"on."
        )


def used(written: Mapping[str, Written]) -> int:
    """Tokens of texts and of what they were asked with."""
    return sum(text.prompt_tokens + text.tokens for text in written.values())


BLANK = "\u2983"  # stands for a user's turn that is to be written


class _Line(NamedTuple):
    """A row in its place among the others."""

    room: int
    length: int
    prompt: str
    key: str
    row: PromptRow


class LineBatch(NamedTuple):
    """Lines that are written together."""

    room: int  # tokens each may have
    lines: list[_Line]


def _written(key: str, text: Continuation) -> Written:
    return Written(key, text.text, text.finished, text.tokens, "", text.prompt_tokens, None)


class Pace:
    """Reports how far the writing is, and how fast it goes."""

    def __init__(self, total: int, written: Mapping[str, Written], progress: Progress):
        self._total, self._written, self._progress = total, written, progress
        self._before = self._tokens()
        self._started = self._reported = time.monotonic()
        self._texts = self._room = self._drawn = 0

    def _tokens(self) -> int:
        return sum(text.tokens for text in self._written.values())

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
        self._progress(len(self._written), self._total, note)


WRITER = WriterKind(title="A model here", preference=1, open=lambda spec, means: means.local(spec))
