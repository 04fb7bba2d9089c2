"""Many questions to a language model: none sent twice, none paid for twice, none lost.

Owns: how many are on their way at once, and asking again. Does not own: what is asked
(`fac.prompts`), how a server is spoken to (`chat`), what is kept of the replies (`journal`), what
may be spent (`allowance`, `rate`), what is made of the replies.

Every reply is on disk before anybody hears of it, so what was paid for survives a power cut. All
decisions - send, wait, give up, stop - are taken in the thread that called `ask_batch`; the threads
beside it do nothing but wait for the server and write the journal.
"""

from __future__ import annotations

import heapq
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, get_args

from fac.config import AskSpec, digest
from fac.endpoints import Endpoints
from fac.errors import BudgetReached, InputError, Progress, ServiceError
from fac.generator.allowance import Budget, Limits
from fac.generator.chat import (
    ChatModel,
    Declined,
    NoRoom,
    OpenAIChat,
    Passing,
    Reply,
    Transient,
    estimated_tokens,
)
from fac.generator.completions import CUT_OFF
from fac.generator.journal import RecordedReply, ReplyJournal
from fac.markup import duration
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
    pause_until = 0.0  # as the server says
    limited_until = 0.0  # as the operator's limit says
    before = 0
    short: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of questions whose room ran out the prompt and completion tokens that this took."""

    tokens = 0
    cost = 0.0
    room = 0
    _skipped = 0.0

    def __post_init__(self) -> None:
        self.budget = Budget(self.limits)
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
        return max(due, self.pause_until, self.limited_until)

    def _patience(self) -> float:
        """How long to wait for a reply before there is something else to do."""
        if len(self.flying) < self.limits.concurrency and (self.fresh or self.later):
            return min(HEARTBEAT, max(0.0, self._next_due() - self._now()))
        return HEARTBEAT

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, pool: ThreadPoolExecutor) -> BudgetReached | None:
        """Sends what may be sent now; the reason where the budget forbids the next question."""
        while len(self.flying) < self.limits.concurrency:
            now = self._now()
            if now < max(self.pause_until, self.limited_until):
                return None
            again = bool(self.later) and self.later[0][0] <= now
            if not again and not self._may_begin():
                return None
            key = self.later[0][2] if again else self.fresh[0]
            prompt = self.prompts[key]
            prompt = self.prompts[key] = prompt._replace(
                max_tokens=max(prompt.max_tokens, self.room)
            )
            if blocked := self.budget.reserve(key, prompt):
                return blocked
            if self.model.rate is not None:
                tokens = estimated_tokens(prompt) + prompt.max_tokens
                if seconds := self.model.rate.take(key, tokens, now):
                    self.budget.release(key, prompt)
                    self.limited_until = now + seconds
                    return None
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
        question, before = Question(self.abouts[key], prompt), self.short.get(key, (0, 0))
        return recorded(key, question, reply, self.limits, failure=failure, before=before)

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
            self._spend(key, failure.prompt_tokens, failure.completion_tokens)
            self._widen(key, failure)
        else:
            self.budget.release(key, self.prompts[key])
            before = self.short.get(key, (0, 0))  # spent already
            self._spend(key, answer.prompt_tokens - before[0], answer.completion_tokens - before[1])
            if key in self.short:
                self.room = max(self.room, self.prompts[key].max_tokens)
            self.counts["answered"] += 1
            self.replies[key] = answer

    def _spend(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        if self.model.rate is not None:
            self.model.rate.settle(key, prompt_tokens + completion_tokens)
            self.limited_until = 0.0  # fewer than was reserved may let the next one go at once
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
        """Progress in words: a limit that is waited for, tokens, money, pace, failures so far."""
        rate, waits = self.model.rate, max(0.0, self.limited_until - self._now())
        parts = [f"{self.tokens:,} tokens"]
        if waits:
            parts.insert(0, f"waiting {duration(waits)} for the limit of {rate}")
        if self.limits.cost(0, 0) is not None:
            parts.append(f"${self.cost:.4f}" if self.cost < 1 else f"${self.cost:,.2f}")
        ended = self.counts["answered"] + self.counts["failed"] + self.counts["declined"]
        if ended and seconds > 0:
            parts.append(f"{ended / seconds:.1f}/s")
            if left:
                rest = left * seconds / ended
                if rate is not None:
                    rest = max(rest, waits + rate.seconds(left, left * self.tokens / ended))
                parts.append(f"{duration(rest)} left")
        if again := sum(self.tries.values()):
            parts.append(f"{again:,} {'retry' if again == 1 else 'retries'}")
        if lost := self.counts["failed"] + self.counts["declined"]:
            parts.append(f"{lost:,} without answer")
        return ", ".join(parts)


def recorded(
    key: str,
    question: Question,
    reply: Reply | None,
    limits: Limits,
    *,
    failure: str = "",
    before: tuple[int, int] = (0, 0),
) -> RecordedReply:
    """The reply to a question, or why there is none; `before` are the prompt and completion tokens
    that it took when its room ran out."""
    prompt_tokens, completion_tokens = before
    if reply is not None:
        prompt_tokens += reply.prompt_tokens
        completion_tokens += reply.completion_tokens
    return RecordedReply(
        key=key,
        about=question.about,
        prompt=json.dumps(question.prompt.messages, ensure_ascii=False),
        reply=reply.text if reply else None,
        finish=reply.finish if reply else "",
        failure=failure,
        model=reply.model if reply else "",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        estimated=reply.estimated if reply else False,
        cost=limits.cost(prompt_tokens, completion_tokens),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def chat_of(spec: AskSpec, endpoints: Endpoints) -> OpenAIChat:
    """The model that a spec names. Raises InputError where it names none, and as `Endpoints.of`
    and `OpenAIChat`, and for a batch where the endpoint is not listed with such an interface."""
    if not spec.model:
        raise InputError("No language model is named: give --model.")
    endpoint = endpoints.of(spec.endpoint, spec.model)
    if spec.in_batch and not endpoint.batch:
        raise InputError(
            f"{endpoint.name} is not listed with a batch interface: ask without --batch, or, where "
            f"it has OpenAI's, set `batch = true` in its entry of endpoints.toml."
        )
    return OpenAIChat(spec.model, endpoint)
