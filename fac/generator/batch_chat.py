"""Many questions to a language model: none sent twice, none paid for twice, none lost.

Owns: how many are on their way at once, asking again, the budget, and the journal.
Does not own: what is asked (`fac.prompts`), how a server is spoken to (`chat`), what is made of
the replies.

Every reply is on disk before anybody hears of it, so what was paid for survives a power cut. All
decisions - send, wait, give up, stop - are taken in the thread that called `ask_batch`; the threads
beside it do nothing but wait for the server and write the journal.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from fac.config import AskSpec, digest
from fac.endpoints import Endpoints
from fac.errors import BudgetReached, InputError, Progress, ServiceError, disk_room
from fac.generator.chat import (
    ChatModel,
    Declined,
    NoRoom,
    OpenAIChat,
    Passing,
    Reply,
    Transient,
    estimated_tokens,
    most_tokens,
)
from fac.generator.completions import CUT_OFF
from fac.prompts import Prompt

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before the first repetition, doubled each time, and what the doubling ends at."""

FIRST_LIMITED = 2.0
"""The same after a 429: limits are mostly per minute, and the pauses should outlast one."""

LONGEST_OBEYED = 600.0  # seconds of a server's Retry-After that are waited for at a time

HEARTBEAT = 5.0
"""Seconds at most between two reports of progress, so that a lease is kept while nothing comes."""

COUNTED_AS = {kind: f"retried_{kind}" if kind[0].isdigit() else kind for kind in get_args(Passing)}
"""What a passing failure is counted as."""

MORE_ROOM = 4, 4096
"""A question whose room ran out before an answer began is asked once more with so many times the
room, and no fewer tokens than these."""

COUNTS = (
    *("asked", "answered", "reused", "shared", "failed", "declined"),
    *(*COUNTED_AS.values(), "retried_room"),
)


class Question(NamedTuple):
    """One thing to ask."""

    about: str  # what the answer is filed under, e.g. detection/123/0; unique in one call
    prompt: Prompt


class RecordedReply(NamedTuple):
    """One row of `fac.schema.REPLIES`: a reply, or why there is none."""

    key: str
    about: str
    prompt: str
    reply: str | None
    finish: str
    failure: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cost: float | None
    at: str

    @property
    def ok(self) -> bool:
        """Whether a reply came; it may still be unreadable."""
        return self.reply is not None


class Limits(NamedTuple):
    """How fast and how far a run may go; see `AskSpec`."""

    concurrency: int = 8
    budget_tokens: int | None = None
    budget_usd: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    room: int = 0  # tokens that a reply may have at least, thoughts included

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars; None where a price is not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class BatchReplies(NamedTuple):
    """What came of all questions."""

    replies: dict[str, RecordedReply]
    """By `about`, in the order of the questions. Questions that share a key share one reply, and
    each of their rows says what that one reply took."""

    counts: dict[str, int]
    """COUNTS: questions sent, replies got, reused, shared; questions given up and declined; and
    the failures that were met on the way, by kind."""

    tokens: int  # prompt and completion tokens of the replies that this call got
    cost: float | None  # their price in US dollars; None where a price is not known
    room: int = 0  # tokens that replies need, where less was too little; else that of the limits
    notes: tuple[str, ...] = ()  # sentences on how the server had to be asked


class ReplyJournal:
    """Replies as they came, one JSON object a line, in a file that only grows.

    Every line is written in one piece and is on disk when `append` returns. Threads may share it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._repaired = False
        self._replies: dict[str, RecordedReply] = {}
        self._lines, self._bytes = 0, 0
        """How far the file was read: a run with many calls reads each line once."""

    def append(self, answer: RecordedReply) -> None:
        """Raises InputError when the disk is full; the journal then is as it was before."""
        line = json.dumps(answer._asdict()).encode() + b"\n"
        with self._lock, disk_room("the journal of replies"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._repaired:
                drop_torn_line(self.path)
                self._repaired = True
            append_line(self.path, line)

    def read(self) -> dict[str, RecordedReply]:
        """Every recorded reply by its key, in order; the first of a key counts.

        A last line that a killed process left unfinished is passed over, as it was never
        acknowledged. Raises InputError for any other line that is none.
        """
        with self._lock:
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(self._bytes)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._take(line)
            return dict(self._replies)

    def _take(self, line: bytes) -> None:
        try:
            answer = RecordedReply(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"Line {self._lines + 1} of {self.path} is damaged: delete that line, so that its "
                f"question is asked again, and start again."
            ) from error
        self._replies.setdefault(answer.key, answer)
        self._lines += 1
        self._bytes += len(line)


def append_line(path: Path, line: bytes) -> None:
    """Adds a line in one piece; it is on disk then. After an OSError the file is as before."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(line)
            if written < len(line):  # a disk that fills up takes what it can
                file.write(line[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def drop_torn_line(path: Path) -> None:
    """What a killed process left after the last line break; the next line must not join it."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def reply_key(question: Question, model: ChatModel, attempt: int = 0) -> str:
    """Names what is asked, of whom, and for the how-many-th time; not what it is about."""
    return digest(question.prompt.key, model.identity, attempt)


def ask_batch(
    questions: Sequence[Question],
    model: ChatModel,
    journal: ReplyJournal,
    *,
    limits: Limits,
    progress: Progress,
    earlier: Mapping[str, RecordedReply] | None = None,
    attempt: int = 0,
    sleep: Callable[[float], object] = time.sleep,
    retries: int = 5,
) -> BatchReplies:
    """Asks whatever neither `earlier` nor the journal answers, and returns all answers.

    A failure that may pass is met by asking again, up to `retries` times, each time later; a
    server that says how long to wait is obeyed, by all questions. A question that nothing helped
    becomes an Answer with a `failure` and without a reply; it is not journaled, so the next call
    asks it again. The budget covers the whole journal, earlier calls included.

    progress(done, total, note) is called after each answer and every few seconds. Whatever it
    raises (Cancelled) ends the call once the replies on their way are in the journal.

    A question whose room ran out before an answer began is asked once more with more, see
    MORE_ROOM; where that helped, later questions have it from the first.

    Raises BudgetReached when the next question could exceed the budget, ServiceError when the
    server answers none of the first questions, Refused when it will not answer any.
    """
    run = _Run(model, journal, limits, attempt, sleep, retries)
    return run.ask(questions, earlier or {}, progress)


@dataclass
class _Run:
    """The state of one `ask_batch`, touched by its caller's thread alone."""

    model: ChatModel
    journal: ReplyJournal
    limits: Limits
    attempt: int
    sleep: Callable[[float], object]
    retries: int
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTS, 0)))
    prompts: dict[str, Prompt] = field(default_factory=dict)
    abouts: dict[str, str] = field(default_factory=dict)
    replies: dict[str, RecordedReply] = field(default_factory=dict)
    fresh: deque[str] = field(default_factory=deque)
    later: list[tuple[float, int, str]] = field(default_factory=list)  # due, order, key
    flying: dict[Future[RecordedReply], str] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    pause_until = 0.0
    before = 0
    short: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of questions whose room ran out the prompt and completion tokens that this took."""

    tokens = 0
    cost = 0.0
    room = 0
    _skipped = 0.0

    def __post_init__(self) -> None:
        self.budget = _Budget(self.limits)
        self.room = self.limits.room

    def ask(
        self,
        questions: Sequence[Question],
        earlier: Mapping[str, RecordedReply],
        progress: Progress,
    ) -> BatchReplies:
        keys = self._sort_out(questions, earlier)
        total, started = len(self.prompts), self._now()
        reported = started

        def report() -> None:
            done = len(self.replies)
            progress(done, total, self._note(self._now() - started, total - done))

        if not self.fresh:
            report()
        with ThreadPoolExecutor(max(1, self.limits.concurrency)) as pool:  # leaving it waits
            while self.fresh or self.later or self.flying:
                blocked = self._send(pool)
                if not self.flying and blocked:
                    raise blocked
                if not self.flying:
                    self._rest(min(HEARTBEAT, self._next_due() - self._now()))
                patience = HEARTBEAT if blocked else self._patience()
                ended, _ = wait(self.flying, patience, FIRST_COMPLETED)
                for future in ended:
                    self._settle(self.flying.pop(future), future)
                    report()
                    reported = self._now()
                if self._now() - reported >= HEARTBEAT:
                    report()
                    reported = self._now()
        replies = {
            question.about: self.replies[key]._replace(about=question.about)
            for question, key in zip(questions, keys, strict=True)
        }
        cost = self.cost if self.limits.cost(0, 0) is not None else None
        notes = [*self.model.notes]
        if self.room > self.limits.room:
            notes.append(
                f"Replies have a room of {self.room:,} tokens, for less ran out before an answer "
                f"began."
            )
        return BatchReplies(replies, dict(self.counts), self.tokens, cost, self.room, tuple(notes))

    def _sort_out(
        self, questions: Sequence[Question], earlier: Mapping[str, RecordedReply]
    ) -> list[str]:
        """The key of each question; fills what is to be asked and what need not be."""
        if len({question.about for question in questions}) < len(questions):
            raise ValueError("two questions are about the same")
        journaled = self.journal.read()
        self.before = len(journaled)
        for answer in journaled.values():
            self.budget.spend(answer.prompt_tokens, answer.completion_tokens)
        keys = [reply_key(question, self.model, self.attempt) for question in questions]
        for key, question in zip(keys, questions, strict=True):
            if key in self.prompts:
                self.counts["shared"] += 1
                continue
            self.prompts[key], self.abouts[key] = question.prompt, question.about
            before = journaled.get(key) or earlier.get(key)
            if before is not None and before.ok and not self._outgrown(before, journaled):
                self.replies[key] = before
                self.counts["reused"] += 1
            else:
                self.fresh.append(key)
        return keys

    def _outgrown(self, before: RecordedReply, journaled: Mapping[str, RecordedReply]) -> bool:
        """Whether an earlier run's reply was cut off where there is more room now."""
        cut_off = before.finish == CUT_OFF and before.completion_tokens < self.limits.room
        return cut_off and before.key not in journaled

    # --- time -------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Seconds; a `sleep` that returns early has still let its time pass."""
        return time.monotonic() + self._skipped

    def _rest(self, seconds: float) -> None:
        """Nothing is on its way and nothing is due."""
        if seconds > 0:
            until = self._now() + seconds
            self.sleep(seconds)
            self._skipped += max(0.0, until - self._now())

    def _may_begin(self) -> bool:
        """Whether a question that was never sent may be; a server in trouble gets no more load."""
        return bool(self.fresh) and len(self.later) < 2 * self.limits.concurrency

    def _next_due(self) -> float:
        """When the next question may be sent."""
        now = self._now()
        due = now if self._may_begin() or not self.later else self.later[0][0]
        return max(due, self.pause_until)

    def _patience(self) -> float:
        """How long to wait for a reply before there is something else to do."""
        if len(self.flying) < self.limits.concurrency and (self.fresh or self.later):
            return min(HEARTBEAT, max(0.0, self._next_due() - self._now()))
        return HEARTBEAT

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, pool: ThreadPoolExecutor) -> BudgetReached | None:
        """Sends what may be sent now; the reason where the budget forbids the next question."""
        while len(self.flying) < self.limits.concurrency and self._now() >= self.pause_until:
            again = bool(self.later) and self.later[0][0] <= self._now()
            if not again and not self._may_begin():
                return None
            key = self.later[0][2] if again else self.fresh[0]
            prompt = self.prompts[key]
            prompt = self.prompts[key] = prompt._replace(
                max_tokens=max(prompt.max_tokens, self.room)
            )
            if blocked := self.budget.reserve(key, prompt):
                return blocked
            if again:
                heapq.heappop(self.later)
            else:
                self.fresh.popleft()
                self.counts["asked"] += 1
            self.flying[pool.submit(self._ask, key, prompt)] = key
        return None

    def _ask(self, key: str, prompt: Prompt) -> RecordedReply:
        """In a thread of its own: one attempt, recorded when it succeeds."""
        answer = self._answer(key, prompt, self.model.ask(prompt))
        self.journal.append(answer)
        return answer

    def _answer(
        self, key: str, prompt: Prompt, reply: Reply | None, failure: str = ""
    ) -> RecordedReply:
        short = self.short.get(key, (0, 0))
        taken = (reply.prompt_tokens, reply.completion_tokens) if reply else (0, 0)
        counted = (taken[0] + short[0], taken[1] + short[1])
        return RecordedReply(
            key=key,
            about=self.abouts[key],
            prompt=json.dumps(prompt.messages, ensure_ascii=False),
            reply=reply.text if reply else None,
            finish=reply.finish if reply else "",
            failure=failure,
            model=reply.model if reply else "",
            prompt_tokens=counted[0],
            completion_tokens=counted[1],
            estimated=reply.estimated if reply else False,
            cost=self.limits.cost(*counted),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    # --- what came back ---------------------------------------------------------------------------

    def _settle(self, key: str, future: Future[RecordedReply]) -> None:
        """Takes in one attempt. Raises whatever ends the run."""
        try:
            answer = future.result()
        except Transient as failure:
            self.budget.release(key, self.prompts[key], maybe_paid=failure.paid)
            self._again(key, failure)
        except Declined as failure:
            self.budget.release(key, self.prompts[key])
            self.counts["declined"] += 1
            began = f"{NoRoom(0, 0)} " if key in self.short else ""
            self._give_up(key, f"{began}{failure}")
        except NoRoom as failure:
            self.budget.release(key, self.prompts[key])
            self._spend(failure.prompt_tokens, failure.completion_tokens)
            self._widen(key, failure)
        else:
            self.budget.release(key, self.prompts[key])
            before = self.short.get(key, (0, 0))  # spent already
            self._spend(answer.prompt_tokens - before[0], answer.completion_tokens - before[1])
            if key in self.short:
                self.room = max(self.room, self.prompts[key].max_tokens)
            self.counts["answered"] += 1
            self.replies[key] = answer

    def _spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.budget.spend(prompt_tokens, completion_tokens)
        self.tokens += prompt_tokens + completion_tokens
        self.cost += self.limits.cost(prompt_tokens, completion_tokens) or 0.0

    def _widen(self, key: str, failure: NoRoom) -> None:
        """Asks once more with more room, at once."""
        room, before = self.prompts[key].max_tokens, self.short.get(key, (0, 0))
        self.short[key] = (
            before[0] + failure.prompt_tokens,
            before[1] + failure.completion_tokens,
        )
        if before != (0, 0):
            self.counts["failed"] += 1
            self._give_up(
                key,
                f"A room of {room:,} tokens ran out before an answer began: give more (--room), or "
                f"take a model that thinks less.",
            )
            return
        self.counts["retried_room"] += 1
        times, least = MORE_ROOM
        self.prompts[key] = self.prompts[key]._replace(max_tokens=max(times * room, least))
        heapq.heappush(self.later, (self._now(), len(self.short), key))

    def _again(self, key: str, failure: Transient) -> None:
        """Asks once more, later, unless this was the last time."""
        self.counts[COUNTED_AS[failure.kind]] += 1
        self.tries[key] += 1
        if failure.kind == "timed_out" and key in self.short:  # it would take as long again
            self.counts["failed"] += 1
            room = self.prompts[key].max_tokens
            self._give_up(
                key,
                f"The room ran out before an answer began, and with {room:,} tokens there was no "
                f"complete reply in time: give less (--room), or take a model that thinks less.",
            )
            return
        if self.tries[key] > self.retries:
            self.counts["failed"] += 1
            self._give_up(key, f"{failure.reason} Attempts: {self.tries[key]}.")
            return
        limited, asked_for = failure.kind == "429", failure.retry_after
        first = FIRST_LIMITED if limited else FIRST_PAUSE
        pause = min(LONGEST_PAUSE, first * 2 ** (self.tries[key] - 1))
        pause *= random.Random(f"{key} {self.tries[key]}").uniform(0.5, 1.5)
        everyone = pause if limited else 0.0  # a limit of the server is one for all questions
        if asked_for is not None:
            everyone = min(LONGEST_OBEYED, asked_for)
            pause = everyone + min(pause, 1.0)
        now = self._now()
        self.pause_until = max(self.pause_until, now + everyone)
        heapq.heappush(self.later, (now + pause, sum(self.tries.values()), key))

    def _give_up(self, key: str, failure: str) -> None:
        """Leaves one question without a reply; all the run, where no question has got one."""
        self.replies[key] = self._answer(key, self.prompts[key], None, failure)
        lost = self.counts["failed"] + self.counts["declined"]
        silent = self.counts["failed"] >= 2 * self.limits.concurrency
        never = lost == len(self.prompts) and not self.before
        if (silent or never) and not self.counts["answered"]:
            first = f"None of the first {lost} questions was answered."
            raise ServiceError(
                f"{first if lost > 1 else 'The first question was not answered.'} {failure} "
                f"What was answered before is kept; start it again when the server answers."
            )

    def _note(self, seconds: float, left: int) -> str:
        """Progress in words: tokens, money, pace, failures so far."""
        parts = [f"{self.tokens:,} tokens"]
        if self.limits.cost(0, 0) is not None:
            parts.append(f"${self.cost:.4f}" if self.cost < 1 else f"${self.cost:,.2f}")
        ended = self.counts["answered"] + self.counts["failed"] + self.counts["declined"]
        if ended and seconds > 0:
            parts.append(f"{ended / seconds:.1f}/s")
            if left:
                parts.append(f"{_duration(left * seconds / ended)} left")
        if again := sum(self.tries.values()):
            parts.append(f"{again:,} {'retry' if again == 1 else 'retries'}")
        if lost := self.counts["failed"] + self.counts["declined"]:
            parts.append(f"{lost:,} without answer")
        return ", ".join(parts)


class _Budget:
    """What may still be spent: what was spent, and what the questions on their way could take."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.tokens, self.usd = 0, 0.0
        self.reserved: dict[str, tuple[int, float]] = {}

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.tokens += prompt_tokens + completion_tokens
        self.usd += self.limits.cost(prompt_tokens, completion_tokens) or 0.0

    def reserve(self, key: str, prompt: Prompt) -> BudgetReached | None:
        """Sets the worst case of one question aside; the reason where it does not fit."""
        question_tokens = most_tokens(prompt)
        tokens = question_tokens + prompt.max_tokens
        usd = self.limits.cost(question_tokens, prompt.max_tokens) or 0.0
        limits, remedy = self.limits, "Every reply so far is kept; raise the budget to go on."
        taken = self.tokens + sum(tokens for tokens, _ in self.reserved.values())
        if limits.budget_tokens is not None and taken + tokens > limits.budget_tokens:
            return BudgetReached(
                f"The next question could take {tokens:,} tokens, but {self.tokens:,} of the "
                f"budget of {limits.budget_tokens:,} are used. {remedy}"
            )
        due = self.usd + sum(usd for _, usd in self.reserved.values())
        if limits.budget_usd is not None and due + usd > limits.budget_usd:
            return BudgetReached(
                f"The next question could cost ${usd:.4f}, but ${self.usd:.4f} of the budget of "
                f"${limits.budget_usd:.4f} is used. {remedy}"
            )
        self.reserved[key] = (tokens, usd)
        return None

    def release(self, key: str, prompt: Prompt, *, maybe_paid: bool = False) -> None:
        """The question is back. A reply that got lost on the way counts as if it had come."""
        del self.reserved[key]
        if maybe_paid:
            self.spend(estimated_tokens(prompt), prompt.max_tokens)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def chat_of(spec: AskSpec, endpoints: Endpoints) -> OpenAIChat:
    """The model that a spec names. Raises InputError where it names none, and as `Endpoints.of`
    and `OpenAIChat`."""
    if not spec.model:
        raise InputError("No language model is named: give --model.")
    return OpenAIChat(spec.model, endpoints.of(spec.endpoint, spec.model))


def limits_of(spec: AskSpec) -> Limits:
    """The limits that a spec sets."""
    return Limits(*(getattr(spec, name) for name in Limits._fields))
