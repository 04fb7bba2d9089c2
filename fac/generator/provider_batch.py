"""Many questions in one file, answered within a day: a provider's batch interface, as OpenAI's.

Owns: files and batches, what becomes of each row, and what is kept so that no row is paid twice.
Does not own: what is asked (`fac.prompts`), how a question is worded for a server (`chat`), asking
one by one (`batch_chat`).

A ledger beside the journal says what was sent. A batch is made in three steps: its mark is on disk,
the provider makes it with that mark, its id is on disk. Killed between the last two, the next start
finds it at the provider by its mark. Replies are in the journal before the ledger closes a batch.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from fac.errors import (
    BudgetReached,
    Cancelled,
    InputError,
    Interrupted,
    Progress,
    ServiceError,
    disk_room,
)
from fac.generator.allowance import Budget, Limits
from fac.generator.batch_chat import (
    COUNTS,
    HEARTBEAT,
    MORE_ROOM,
    BatchReplies,
    Question,
    ask_batch,
    recorded,
    reply_key,
)
from fac.generator.chat import Declined, NoRoom, OpenAIChat, Refused, Reply, Transient
from fac.generator.completions import message_of
from fac.generator.journal import RecordedReply, ReplyJournal, append_line, drop_torn_line

PATH, WINDOW = "/v1/chat/completions", "24h"

MOST_ROWS, MOST_BYTES = 50_000, 100 << 20
"""Of one file: OpenAI takes as many rows, and twice the bytes."""

FIRST_LOOK, LAST_LOOK = 5.0, 60.0
"""Seconds between two looks at a batch, at first and in the end."""

TRIES, PAUSE = 5, 2.0
"""How often an upload or a look is tried, and the seconds before the second, doubled each time."""

TRIAL = 3
"""Questions that are asked one by one first: a refusal of a schema shall not cost a day."""

ENDS = ("completed", "failed", "expired", "cancelled")
UNANSWERED = ("batch_expired", "batch_cancelled")
"""What a row says that the provider did not come to."""

MARK = "fac"
"""Under which a batch's metadata have its mark."""

T = TypeVar("T")


class Sent(NamedTuple):
    """A batch as the ledger has it."""

    mark: str
    keys: tuple[str, ...]  # of its questions, see `reply_key`
    batch: str = ""  # the provider's id; "" while that is not known
    is_cancelled: bool = False  # whether a person asked for its end
    end: str = ""  # how it ended, once its replies are in the journal


class Ledger:
    """What was sent to a provider, in a file that only grows: one JSON object a line, of which a
    later one adds to what an earlier one of the same mark says."""

    def __init__(self, path: Path):
        self._path = path

    def write(self, mark: str, **facts: Any) -> None:
        """On disk when it returns. Raises InputError on a full disk."""
        with disk_room("the ledger of batches"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            drop_torn_line(self._path)
            append_line(self._path, json.dumps({"mark": mark, **facts}).encode() + b"\n")

    def open(self) -> list[Sent]:
        """The batches whose replies are not in the journal yet, in order. Raises InputError where
        the file is damaged."""
        if not self._path.exists():
            return []
        batches: dict[str, dict[str, Any]] = {}
        try:
            for line in self._path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # else a killed process wrote it
                    facts = json.loads(line)
                    batches.setdefault(facts["mark"], {}).update(facts)
            sent = [Sent(**{**facts, "keys": tuple(facts["keys"])}) for facts in batches.values()]
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{self._path}, which says what was sent in batches, is damaged: look at the "
                f"provider which are open, mend or delete it, and start again."
            ) from None
        return [each for each in sent if not each.end]


def ledger_of(journal: ReplyJournal) -> Ledger:
    """The ledger beside a journal."""
    return Ledger(journal.path.with_name("_batches.jsonl"))


def ask_provider(
    questions: Sequence[Question],
    chat: OpenAIChat,
    journal: ReplyJournal,
    *,
    limits: Limits,
    progress: Progress,
    attempt: int = 0,
    sleep: Callable[[float], object] = time.sleep,
) -> BatchReplies:
    """Has whatever the journal does not answer answered in batches, and returns all replies.

    What was sent before and not taken in is waited for first. TRIAL questions are asked one by one,
    unless the model was asked before. The budget covers the worst case of all that is sent. A row
    with an error becomes a reply with a `failure`, as in `ask_batch`; one whose room ran out before
    an answer began is sent once more with more.

    progress(done, total, note) is called every few seconds. Where it raises Cancelled the batch is
    cancelled at the provider, and what it had answered is taken in, now or at the next start; where
    it raises Interrupted the batch goes on, and the next start waits for it.

    Raises BudgetReached once what fits is answered; ServiceError where the provider refuses a
    batch, ends it early or answers none of its rows.
    """
    return _Run(chat, journal, limits, attempt, progress, sleep).ask(questions)


@dataclass
class _Run:
    chat: OpenAIChat
    journal: ReplyJournal
    limits: Limits
    attempt: int
    progress: Progress
    sleep: Callable[[float], object]
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTS, 0)))
    questions: dict[str, Question] = field(default_factory=dict)  # by key
    failures: dict[str, RecordedReply] = field(default_factory=dict)
    short: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of questions whose room ran out the prompt and completion tokens that this took."""

    notes: dict[str, None] = field(default_factory=dict)
    tokens = 0
    room = 0

    def __post_init__(self) -> None:
        self.ledger, self.room = ledger_of(self.journal), self.limits.room
        self.budget = Budget(self.limits)

    def ask(self, questions: Sequence[Question]) -> BatchReplies:
        keys = [reply_key(question, self.chat, self.attempt) for question in questions]
        self.questions = dict(zip(keys, questions, strict=True))
        for answer in self.journal.read().values():
            self.budget.spend(answer.prompt_tokens, answer.completion_tokens)
        before = {*self.journal.read()} & {*keys}
        self.counts["reused"], self.counts["shared"] = len(before), len(keys) - len({*keys})
        for sent in self.ledger.open():
            self._finish(sent)
        self._try_a_few()
        while waiting := self._waiting():
            batch, blocked = self._fitting(waiting)
            if batch:
                self._finish(self._send(batch))
            if blocked:
                raise blocked
        replies = self.journal.read() | self.failures
        cost = self.limits.cost(0, 0)
        return BatchReplies(
            {
                q.about: replies[k]._replace(about=q.about)
                for k, q in zip(keys, questions, strict=True)
            },
            dict(self.counts),
            self.tokens,
            None if cost is None else sum(replies[key].cost or 0.0 for key in {*keys} - before),
            self.room,
            (*self.chat.notes, *self.notes),
        )

    def _waiting(self) -> list[str]:
        """Keys of the questions that nothing answers yet."""
        known = self.journal.read()
        return [key for key in self.questions if key not in known and key not in self.failures]

    def _try_a_few(self) -> None:
        few = self._waiting()[:TRIAL]
        if self.chat.is_known or not few:
            return
        batch = ask_batch(
            [self.questions[key] for key in few],
            self.chat,
            self.journal,
            limits=self.limits,
            progress=lambda done, total, note="": self._report(0, f"first one by one, {note}"),
            attempt=self.attempt,
            sleep=self.sleep,
        )
        self.room = batch.room
        self.counts.update(
            {k: n for k, n in batch.counts.items() if k not in ("failed", "declined")}
        )
        self._spend(batch.replies.values())

    def _spend(self, answers: Any) -> None:
        for answer in answers:
            self.budget.spend(answer.prompt_tokens, answer.completion_tokens)
            self.tokens += answer.prompt_tokens + answer.completion_tokens

    # --- sending ----------------------------------------------------------------------------------

    def _fitting(self, waiting: Sequence[str]) -> tuple[dict[str, bytes], BudgetReached | None]:
        """Rows by key, as many as one file and the budget have room for, and why it has no more."""
        rows: dict[str, bytes] = {}
        size, blocked = 0, None
        for key in waiting[:MOST_ROWS]:
            question = self.questions[key]
            room = max(question.prompt.max_tokens, self.room)
            prompt = question.prompt._replace(max_tokens=room)
            body = self.chat.body_of(prompt)
            row = {"custom_id": key, "method": "POST", "url": PATH, "body": body}
            line = json.dumps(row).encode() + b"\n"
            if rows and size + len(line) > MOST_BYTES:
                break
            if blocked := self.budget.reserve(key, prompt):
                break
            self.questions[key], rows[key], size = (
                Question(question.about, prompt),
                line,
                size + len(line),
            )
        for key in rows:
            self.budget.release(key, self.questions[key].prompt)
        return rows, blocked

    def _send(self, rows: dict[str, bytes]) -> Sent:
        """Makes a batch of these rows."""
        mark, data = uuid4().hex, b"".join(rows.values())
        upload = ("questions.jsonl", data)
        file = self._patiently(
            lambda client: client.files.create(file=upload, purpose="batch").id, "files for batches"
        )
        self.ledger.write(mark, keys=[*rows])
        self.counts["asked"] += len(rows)
        try:
            batch = self._made(file, mark)
        except (Declined, Refused) as failure:
            batch = ""
            with suppress(ServiceError):  # an answer that cannot be read may stand for a batch
                batch = self._marked(mark)
            if not batch:
                self.ledger.write(mark, end="never made")
                raise ServiceError(str(failure)) from None
        self.ledger.write(mark, batch=batch)
        return Sent(mark, (*rows,), batch)

    def _made(self, file: str, mark: str) -> str:
        """The id of a new batch; looks before it tries again, for a reply may have got lost."""

        def make(client: Any) -> str:
            return client.batches.create(
                input_file_id=file, endpoint=PATH, completion_window=WINDOW, metadata={MARK: mark}
            ).id

        pause = PAUSE
        for _ in range(TRIES):
            try:
                return self.chat.call(make, "batches")
            except Transient as failure:
                reason = failure.reason
            self._wait(pause, f"no batch yet: {reason}")
            pause *= 2
            if batch := self._marked(mark):
                return batch
        raise ServiceError(f"{reason} Start it again when the provider makes batches.")

    def _marked(self, mark: str) -> str:
        """The id of the batch that has a mark; "" where the provider has none."""

        def search(client: Any) -> str:
            every = client.batches.list()  # goes on to the next page by itself
            return next((each.id for each in every if (each.metadata or {}).get(MARK) == mark), "")

        return self._patiently(search, "list of batches")

    # --- waiting ----------------------------------------------------------------------------------

    def _finish(self, sent: Sent) -> None:
        """Waits for a batch and takes in what it says."""
        sent = self._look_for(sent)
        if not sent.batch:
            return
        try:
            batch = self._ended(sent)
        except Interrupted:
            raise
        except (Cancelled, KeyboardInterrupt):
            self._cancel(sent)
            raise
        n_left, n_answered = self._take(sent, batch)
        if batch.status == "failed":
            errors = getattr(batch.errors, "data", None) or []
            why = (
                "; ".join(each.message for each in errors if each.message) or "it does not say why"
            )
            why = self.chat.quoted(why)
            raise ServiceError(f"{self.chat.endpoint} refuses the batch {sent.batch}: {why}")
        if n_left and not sent.is_cancelled:
            raise ServiceError(
                f"The batch {sent.batch} is {batch.status} at {self.chat.endpoint} with {n_left:,} "
                f"of {len(sent.keys):,} questions unanswered; started again, those are asked anew."
            )
        failures = [self.failures[key] for key in sent.keys if key in self.failures]
        if failures and not n_answered and not self.journal.read():
            raise ServiceError(
                f"None of the {len(failures):,} questions of the batch {sent.batch} was answered. "
                f"{failures[0].failure}"
            )

    def _look_for(self, sent: Sent) -> Sent:
        """The batch with its id; one that was never made is closed."""
        if sent.batch:
            return sent
        batch = self._marked(sent.mark)
        self.ledger.write(sent.mark, **({"batch": batch} if batch else {"end": "never made"}))
        return sent._replace(batch=batch)

    def _ended(self, sent: Sent) -> Any:
        """The batch once it has ended, as the client has it."""
        pause = FIRST_LOOK
        while True:
            batch = self._patiently(lambda client: client.batches.retrieve(sent.batch), "batch")
            if batch.status in ENDS:
                return batch
            n = batch.request_counts
            words = f"batch {sent.batch}: {batch.status.replace('_', ' ')}"
            if n and n.total:
                words += f", {n.completed:,} of {n.total:,} answered"
                words += f", {n.failed:,} with an error" if n.failed else ""
            self._wait(pause, words, n.completed if n else 0)
            pause = min(LAST_LOOK, 1.5 * pause)

    def _cancel(self, sent: Sent) -> None:
        """Ends a batch at the provider; what it answered is taken in now, or at the next start."""
        self.ledger.write(sent.mark, is_cancelled=True)
        with suppress(Transient, Declined, Refused):
            self.chat.call(lambda client: client.batches.cancel(sent.batch), "batch to cancel")
        with suppress(Transient, Declined, Refused):
            for _ in range(TRIES):
                batch = self.chat.call(lambda client: client.batches.retrieve(sent.batch), "batch")
                if batch.status in ENDS:
                    self._take(sent, batch)
                    return
                self.sleep(1.0)

    def _patiently(self, act: Callable[[Any], T], what: str) -> T:
        """What the server answers, after some tries. Raises ServiceError."""
        pause = PAUSE
        for left in reversed(range(TRIES)):
            try:
                return self.chat.call(act, what)
            except Declined as failure:
                raise ServiceError(str(failure)) from None
            except Transient as failure:
                if not left:
                    raise ServiceError(
                        f"{failure.reason} What was sent is kept; start it again when the server "
                        f"answers."
                    ) from None
                self._wait(failure.retry_after or pause, failure.reason)
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _wait(self, seconds: float, note: str, done: int = 0) -> None:
        """Lets time pass and says so every few seconds."""
        while seconds > 0:
            self._report(done, note)
            self.sleep(min(seconds, HEARTBEAT))
            seconds -= HEARTBEAT
        self._report(done, note)

    def _report(self, done: int, note: str) -> None:
        answered = len(self.questions) - len(self._waiting())
        self.progress(min(answered + done, len(self.questions)), len(self.questions), note)

    # --- what came back ---------------------------------------------------------------------------

    def _take(self, sent: Sent, batch: Any) -> tuple[int, int]:
        """Takes in every row of a batch that has ended; how many questions nobody came to, and how
        many it answered."""
        answers: dict[str, RecordedReply] = {}
        n_left, known = 0, self.journal.read()
        rows = {row.get("custom_id"): row for row in self._rows(batch)}
        for key in sent.keys:
            if key not in self.questions or key in known:
                continue
            row = rows.get(key)
            error = (row or {}).get("error") or {}
            if batch.status != "completed" and (row is None or error.get("code") in UNANSWERED):
                n_left += 1
                continue
            try:
                answers[key] = self._record(key, self._reply(key, row, error))
            except (Declined, Transient, Refused) as failure:
                self._give_up(key, failure)
            except NoRoom as failure:
                self._widen(key, failure)
        self.journal.append(*answers.values())
        self.ledger.write(sent.mark, end=batch.status)
        self._spend(answers.values())
        self.counts["answered"] += len(answers)
        failures = [self.failures[key].failure for key in sent.keys if key in self.failures]
        words = f"{len(sent.keys):,} questions went as the batch {sent.batch}"
        if failures:
            words += (
                f", {len(failures):,} of them got an error, the first: {failures[0].rstrip('.')}"
            )
        self.notes[f"{words}."] = None
        return n_left, len(answers)

    def _rows(self, batch: Any) -> Iterator[dict[str, Any]]:
        """The rows of a batch's two files."""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            data = self._patiently(partial(_content, file), "file")
            for number, line in enumerate(data.splitlines(), start=1):
                try:
                    row = json.loads(line) if line.strip() else {}
                    assert isinstance(row, dict)
                except (ValueError, AssertionError):
                    raise ServiceError(
                        f"Line {number} of the file {file} of {self.chat.endpoint} is no JSON "
                        f"object; started again, it is read again."
                    ) from None
                yield row

    def _reply(self, key: str, row: dict[str, Any] | None, error: dict[str, Any]) -> Reply:
        """What a row says. Raises Declined, NoRoom, Refused or Transient."""
        if row is None:
            raise Transient("broken", "The batch says nothing of this question.")
        response = row.get("response") or {}
        if not response and error:
            why = self.chat.quoted(message_of(error) or "it does not say why")
            raise Declined(f"{self.chat.endpoint} answered in a batch: {why}")
        status = response.get("status_code")
        return self.chat.reply_of(
            self.questions[key].prompt,
            status if isinstance(status, int) else 200,
            response.get("body"),
        )

    def _record(self, key: str, reply: Reply | None, failure: str = "") -> RecordedReply:
        before = self.short.get(key, (0, 0))
        question = self.questions[key]
        return recorded(key, question, reply, self.limits, failure=failure, before=before)

    def _give_up(self, key: str, failure: Exception) -> None:
        self.counts["failed" if isinstance(failure, Transient) else "declined"] += 1
        self.failures[key] = self._record(key, None, str(failure))

    def _widen(self, key: str, failure: NoRoom) -> None:
        """Leaves a question for another batch, with more room."""
        question, before = self.questions[key], self.short.get(key, (0, 0))
        tokens = failure.prompt_tokens, failure.completion_tokens
        self.budget.spend(*tokens)
        self.short[key] = before[0] + tokens[0], before[1] + tokens[1]
        room = question.prompt.max_tokens
        if before != (0, 0):
            why = f"A room of {room:,} tokens ran out before an answer began: give more (--room)."
            self.counts["failed"] += 1
            self.failures[key] = self._record(key, None, why)
            return
        self.counts["retried_room"] += 1
        times, least = MORE_ROOM
        prompt = question.prompt._replace(max_tokens=max(times * room, least))
        self.questions[key] = question._replace(prompt=prompt)


def _content(file: str, client: Any) -> bytes:
    return client.files.content(file).read()


def check_closed(journal: ReplyJournal) -> None:
    """Raises InputError where a batch is on its way, whose questions nobody should ask again."""
    if sent := ledger_of(journal).open():
        n, names = sum(len(each.keys) for each in sent), ", ".join(each.batch for each in sent)
        raise InputError(
            f"{n:,} of these questions are on their way in a batch ({names or 'just sent'}): "
            f"start it again with --batch, which waits for them, and nothing is paid twice."
        )
