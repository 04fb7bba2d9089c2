"""Whether a server and a model of it can be worked with: a few questions, asked as jobs ask theirs.

Owns: which questions those are, what came of them, the file that keeps it. Does not own: what a
server has refused and what helped (`chat`), asking again and the budget (`batch_chat`).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fac.endpoints import Endpoint
from fac.errors import BadReply, FacError, InputError, Progress, ServiceError, disk_room
from fac.generator.allowance import Limits
from fac.generator.batch_chat import COUNTED_AS, BatchReplies, Question, ask_batch
from fac.generator.chat import FORM, SYSTEM, Declined, OpenAIChat, Transient
from fac.generator.journal import RecordedReply, ReplyJournal
from fac.prompts import Prompt
from fac.prompts.connection import greeting, question
from fac.prompts.relevance import read_judgement

AT_ONCE = 8
"""Questions of the trial of concurrency: as many as jobs have on their way."""

MOST_TOKENS = 120_000
"""What a test may use: eleven questions, most of which think."""

INSTEAD = {
    FORM: "a JSON schema; asked for the form in words alone, it answers",
    SYSTEM: "a system message; with its text at the head of the user's, it answers",
    "temperature": "a temperature; without one it answers, as it likes",
    "seed": "a seed; without one it answers, and asked again it may say something else",
    "max_tokens": "max_tokens; with max_completion_tokens it answers",
}
"""What a server may refuse, and what helped."""


class Refusal(NamedTuple):
    """Something that a server did not take."""

    what: str  # with what helped
    answer: str  # what the server said


class Connection(NamedTuple):
    """What a test of a server and a model showed."""

    url: str
    model: str
    at: str  # when, in UTC
    listed: tuple[str, ...] = ()  # names of the models that the server lists
    unlisted: str = ""  # why it lists none
    failure: str = ""  # why it does not answer at all; then nothing below is known
    answered_as: str = ""  # the model that the server says answered
    unread: str = ""  # why the answer that has a form cannot be read; "" where it can
    refusals: tuple[Refusal, ...] = ()
    room: int = 0  # tokens that replies need beyond what the answer has; 0 where that suffices
    prompt_tokens: int = 0  # of one question with a form
    completion_tokens: int = 0  # of the answer to it, thoughts included
    counted: bool = True  # whether the server counts tokens; else they are guesses
    seconds: float = 0.0  # one question alone
    together: float = 0.0  # AT_ONCE of them at once
    answered: int = 0  # of those that were asked at once
    met: Mapping[str, int] = {}  # failures on the way there, by kind; those that passed too
    tokens: int = 0  # that all of the test used
    cost: float | None = None  # US dollars; None where a price is not known

    @property
    def works(self) -> bool:
        """Whether jobs can ask it: it answers, and what it answers can be read."""
        return not self.failure and not self.unread

    @property
    def speedup(self) -> float:
        """How many times as fast questions are answered at once as one after the other."""
        return self.answered * self.seconds / self.together if self.together else 0.0

    @property
    def pace(self) -> float | None:
        """Seconds a question where AT_ONCE are on their way; None where that was not measured."""
        return self.together / self.answered if self.answered else None


def try_connection(
    endpoint: Endpoint, model: str, *, progress: Progress, timeout: float = 60.0
) -> Connection:
    """Asks a server eleven short questions: a word, a judge's question with system message and
    schema until the server takes it, the same alone for the time, AT_ONCE at once.

    `progress` is called with (questions answered, 11, note). What goes wrong is part of what is
    returned. Raises InputError for an endpoint whose key is not set.
    """
    with (
        closing(OpenAIChat(model, endpoint, timeout=timeout)) as chat,
        tempfile.TemporaryDirectory() as folder,
    ):
        return _Test(chat, endpoint, Path(folder), progress).perform()


class _Test:
    def __init__(self, chat: OpenAIChat, endpoint: Endpoint, folder: Path, progress: Progress):
        self._chat, self._progress = chat, progress
        self._journal = ReplyJournal(folder / "replies.jsonl")
        self._limits = Limits(
            budget_tokens=MOST_TOKENS, price_in=endpoint.price_in, price_out=endpoint.price_out
        )
        self._done, self._tokens, self._cost = 0, 0, 0.0

    def perform(self) -> Connection:
        chat = self._chat
        at = datetime.now(UTC).isoformat(timespec="seconds")
        result = Connection(chat.endpoint, chat.model, at)
        try:
            result = result._replace(listed=tuple(chat.models()))
        except (Transient, Declined, FacError) as error:
            result = result._replace(unlisted=str(error))
        try:
            result = self._questions(result)
        except FacError as error:
            result = result._replace(failure=str(error))
        refusals = tuple(Refusal(INSTEAD[name], why) for name, why in chat.refusals.items())
        return result._replace(refusals=refusals, tokens=self._tokens, cost=self._total())

    def _questions(self, result: Connection) -> Connection:
        """Raises FacError where a question is not answered."""
        self._ask_one(greeting(), "a word")
        self._ask_one(question(0), "an answer with a form")
        began = time.monotonic()
        reply = self._ask_one(question(1), "one question alone")
        seconds = time.monotonic() - began
        try:
            read_judgement(reply.reply or "")
        except BadReply as error:
            result = result._replace(unread=str(error))
        result = result._replace(
            answered_as=reply.model,
            room=self._limits.room,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            counted=not reply.estimated,
            seconds=seconds,
        )
        questions = [Question(f"{n}", question(n)) for n in range(2, 2 + AT_ONCE)]
        began = time.monotonic()
        batch = self._ask(questions, f"{AT_ONCE} questions at once")
        met = {k: batch.counts[k] for k in (*COUNTED_AS.values(), "declined") if batch.counts[k]}
        return result._replace(
            room=self._limits.room,
            together=time.monotonic() - began,
            answered=sum(reply.ok for reply in batch.replies.values()),
            met=met,
        )

    def _ask_one(self, prompt: Prompt, note: str) -> RecordedReply:
        """Raises ServiceError where there is no reply."""
        reply = self._ask([Question(note, prompt)], note).replies[note]
        if not reply.ok:
            raise ServiceError(reply.failure)
        return reply

    def _ask(self, questions: Sequence[Question], note: str) -> BatchReplies:
        """What came of some questions, with the room that those before them needed."""

        def report(done: int, total: int, detail: str = "") -> None:
            self._progress(self._done + done, 3 + AT_ONCE, f"{note}, {detail}")

        batch = ask_batch(
            questions,
            self._chat,
            self._journal,
            limits=self._limits,
            progress=report,
            retries=2,
        )
        self._done += len(questions)
        self._tokens += batch.tokens
        self._cost += batch.cost or 0.0
        self._limits = self._limits._replace(room=batch.room)
        return batch

    def _total(self) -> float | None:
        return None if self._limits.cost(0, 0) is None else self._cost


# --- the file ------------------------------------------------------------------------------------


def read_connections(file: Path) -> dict[tuple[str, str], Connection]:
    """What the last test of each address and model showed. Raises InputError for a file that
    cannot be read."""
    try:
        rows = json.loads(file.read_text("utf-8"))
        connections = [_connection(row) for row in rows]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        raise InputError(f"{file} cannot be read: delete it and test the endpoints anew.") from None
    return {(each.url, each.model): each for each in connections}


def _connection(row: dict[str, Any]) -> Connection:
    refusals = tuple(Refusal(**each) for each in row["refusals"])
    return Connection(**{**row, "listed": tuple(row["listed"]), "refusals": refusals})


def keep_connection(file: Path, connection: Connection) -> None:
    """Keeps what a test showed, in place of what an earlier one of the same address and model
    did."""
    connections = read_connections(file) | {(connection.url, connection.model): connection}
    rows = [
        {**each._asdict(), "refusals": [refusal._asdict() for refusal in each.refusals]}
        for each in connections.values()
    ]
    with disk_room("what a test of an endpoint showed"):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
        Path(name).replace(file)
