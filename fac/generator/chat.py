"""One question, one reply, from any server that speaks OpenAI's chat completions.

Owns: what is sent, what a server has refused, which failures may pass, and that the key stays
secret. Does not own: what is asked (`fac.prompts`), what a body says (`completions`), asking again,
limits and the journal (`batch_chat`).
"""

from __future__ import annotations

import json
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fac.endpoints import DEFAULT_VARIABLE, Endpoint, read_address
from fac.errors import ServiceError, first_line
from fac.generator.completions import (
    CUT_OFF,
    DONE,
    Completion,
    NoCompletion,
    message_of,
    read_completion,
)
from fac.generator.rate import RateLimit, rate_of
from fac.prompts import Prompt
from fac.prompts.form import without_thoughts
from fac.schema import Message

T = TypeVar("T")

NO_KEY = "EMPTY"
"""What the client is told where there is no key, since it insists on one; it is never sent."""

PLAIN_HEADERS = frozenset(
    {
        *("host", "accept", "accept-encoding", "connection", "user-agent"),
        *("content-type", "content-length", "transfer-encoding"),
    }
)
"""What a server hears besides the question. The client adds more from the environment, such as an
organization or headers of one's own: they belong to the account of OPENAI_API_KEY."""

MAX_BODY = 8 << 20  # bytes of a response; no reply to one of our prompts comes near


class Reply(NamedTuple):
    """What a server answered: complete and, where it charges, paid for."""

    text: str  # may be empty, and need not be what was asked for
    finish: str  # why it ended: stop, length, content_filter, ...
    prompt_tokens: int
    completion_tokens: int

    estimated: bool  # whether the server gave no counts, so that the two above are guesses
    model: str  # what the server says answered


Passing = Literal["timed_out", "unreachable", "broken", "409", "429", "5xx"]
"""Kinds of failure after which asking again may help."""


class Transient(Exception):
    """No usable reply this time; the same question may get one later."""

    def __init__(
        self, kind: Passing, reason: str, *, retry_after: float | None = None, paid: bool = False
    ):
        self.kind = kind
        self.reason = reason  # one sentence without secrets
        self.retry_after = retry_after  # seconds the server asks to wait; None where it did not say
        self.paid = paid  # whether the server may have charged for what did not arrive
        super().__init__(reason)


class Declined(Exception):
    """The server takes no such question (too long, filtered); others may do better."""


class Refused(ServiceError):
    """The server takes no question at all: the key, the model or the address is wrong."""


class NoRoom(Exception):
    """The room ran out before an answer began, mostly on thoughts; it was paid for."""

    def __init__(self, prompt_tokens: int, completion_tokens: int):
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        super().__init__("The room ran out before an answer began.")


class ChatModel(Protocol):
    """Anything that answers a prompt."""

    identity: str
    """Who answers: model and endpoint, never a key. Part of what names a recorded reply."""

    rate: RateLimit | None
    """How fast it may be asked; None where nobody listed a limit."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the server has not taken, so that questions are asked without it."""
        ...

    def ask(self, prompt: Prompt) -> Reply:
        """One reply, from any thread. Raises Transient, Declined, NoRoom or Refused."""


def estimated_tokens(prompt: Prompt) -> int:
    """About how many tokens the messages are, where nobody counted: four bytes make one."""
    return sum(len(m["content"].encode()) // 4 + 8 for m in prompt.messages)


def most_tokens(prompt: Prompt) -> int:
    """No less than any tokenizer makes of the question, form and template: a byte is a token."""
    question_bytes = sum(len(m["content"].encode()) + 16 for m in prompt.messages)
    return question_bytes + len(json.dumps(prompt.form)) + 64


class _Usage(BaseModel):
    """Servers add counts of their own."""

    model_config = ConfigDict(strict=True, extra="ignore")
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


FORM, SYSTEM = "response_format", "system"

UNTAKEN = {
    FORM: "no JSON schema: the form of a reply is asked for in words alone",
    SYSTEM: "no system message: it stands at the head of the user's",
    "temperature": "no temperature: it draws as it likes",
    "seed": "no seed: asked again it may say something else",
}
"""What a server may not take, and what that means."""


class OpenAIChat:
    """A model behind an OpenAI-compatible endpoint, asked as each prompt says.

    The key of the endpoint goes to its address alone: no redirect is followed, and every other
    server hears nothing but the question. Safe to use from many threads. Raises InputError for an
    address that is none, and as `Endpoint.read_key`.
    """

    def __init__(
        self, model: str, endpoint: Endpoint | str, *, timeout: float = 60.0, seed: int = 0
    ):
        """`endpoint`: an address alone is asked without a key."""
        from openai import DefaultHttpxClient, OpenAI

        if isinstance(endpoint, str):
            endpoint = Endpoint(name=endpoint, url=endpoint.strip().rstrip("/"))
        self.model, self.endpoint = model, endpoint.url
        self.identity = f"{model} at {self.endpoint}" + (f" seed {seed}" if seed else "")
        self._address, self.rate = endpoint.address, rate_of(endpoint)
        self._variable, key = endpoint.key, endpoint.read_key()
        self._key = key.text if key else ""
        self._timeout = timeout
        _, self._is_azure, query = self.endpoint.partition("?")
        self._client = OpenAI(
            api_key=self._key or NO_KEY,
            base_url=str(self._address),
            timeout=timeout,
            max_retries=0,
            http_client=DefaultHttpxClient(
                follow_redirects=False, timeout=timeout, event_hooks={"request": [self._strip]}
            ),
            default_query=dict([query.split("=")]) if query else None,
        )
        # Left to the garbage collector, sockets may be found open before the client closes them.
        weakref.finalize(self, self._client.close)
        self._seed = seed
        self._without: frozenset[str] = frozenset()
        """What this server has refused: parameters, or SYSTEM; replaced, never changed, so threads
        may read it."""

        self._taken: frozenset[str] = frozenset()
        """Of FORM and SYSTEM those with which a question was answered, or was tried without."""

        self._refusals: dict[str, str] = {}
        """Of what it has refused, what it answered."""

        self.is_known = False
        """Whether it has answered a question, so that one knows what it does not take."""

        self._n_broken = 0  # answers of status 500 and above before any reply
        self._first = threading.Lock()

    def _strip(self, request: Any) -> None:
        """Takes from a request, as it leaves, whatever its server must not hear."""
        headers, url = request.headers, str(request.url).partition("?")[0]
        at_home = self._address.holds(read_address(url))
        if not (at_home and self._variable == DEFAULT_VARIABLE):
            for name in {*headers} - PLAIN_HEADERS:
                if not name.startswith("x-stainless-"):
                    del headers[name]
            if at_home and self._key:
                headers["Authorization"] = f"Bearer {self._key}"
        if headers.get("authorization") == f"Bearer {NO_KEY}":
            del headers["authorization"]
        if self._is_azure and "authorization" in headers:
            del headers["authorization"]
            headers["api-key"] = self._key

    def close(self) -> None:
        """Ends its connections; nothing can be asked afterwards."""
        self._client.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the server has not taken."""
        return tuple(
            f"The server takes {means}." for name, means in UNTAKEN.items() if name in self._without
        )

    @property
    def refusals(self) -> dict[str, str]:
        """What the server has not taken, of UNTAKEN or by its name, and what it answered to it."""
        return dict(self._refusals)

    def models(self) -> list[str]:
        """The names of the models that the server lists. Raises Transient, Declined or Refused
        where it lists none."""
        names = self.call(
            lambda client: [each.id for each in client.models.list().data], "list of models"
        )
        return [self._redacted(name) for name in names if isinstance(name, str)]

    def call(self, act: Callable[[Any], T], what: str) -> T:
        """What the server answers to something other than a question, asked with the client of
        `openai`; `what` it is, for a sentence. Raises Transient, Declined or Refused."""
        import httpx2
        import openai

        try:
            return act(self._client)
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._timed_out() from None
        except openai.APIStatusError as error:
            failure = self._failure(error)
            if isinstance(failure, _Rejected | _UnknownParameter):
                words = self.quoted(message_of(error.body) or error.message)
                failure = Declined(f"{self.endpoint} answered {error.status_code}: {words}")
            raise failure from None  # the request in its traceback holds the key
        except openai.APIConnectionError as error:
            why = self.quoted(str(error.__cause__ or error))
            raise Transient("unreachable", f"{self.endpoint} cannot be reached: {why}") from None
        except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
            why = self.quoted(first_line(error))
            raise Declined(f"{self.endpoint} has no {what}: {why}") from None

    def body_of(self, prompt: Prompt) -> dict[str, Any]:
        """What it sends to ask a prompt, without what the server is known not to take."""
        return self._request(prompt, self._without)

    def reply_of(self, prompt: Prompt, status: int, body: Any) -> Reply:
        """What a response of this status to a prompt says, its body as JSON has it. Raises
        Transient, Declined, NoRoom or Refused."""
        try:
            if status != 200:
                raise self._meaning(status, message_of(body) or "it does not say why")
            return self._reply(prompt, json.dumps(body).encode())
        except _Rejected as rejection:
            raise rejection.meaning from None
        except _UnknownParameter as error:
            raise Declined(error.reason) from None

    def ask(self, prompt: Prompt) -> Reply:
        """One reply; what the server does not take is given up for good.

        A parameter that it names is; of the others it is found out with the first question, which
        is asked once without a schema and then with the system's text in the user's turn.
        """
        try:
            reply = self._reply_without(prompt, self._without)
        except _Rejected as rejection:
            reply = self._plainer(prompt, rejection)
        self._taken |= _shape(prompt) - self._without
        self.is_known = True
        return reply

    def _plainer(self, prompt: Prompt, rejection: _Rejected) -> Reply:
        """The reply to the first question, asked more plainly. Raises what the rejection means
        where that does not help either, or it is not the first."""
        with self._first:
            if not self._without - rejection.without:  # no other thread has found out meanwhile
                return self._first_plainer(prompt, rejection)
        try:
            return self._reply_without(prompt, self._without)
        except _Rejected as again:
            raise again.meaning from None

    def _first_plainer(self, prompt: Prompt, rejection: _Rejected) -> Reply:
        without, untried = rejection.without, _shape(prompt) - self._taken - rejection.without
        answers, last = dict[str, str](), rejection
        self._n_broken += rejection.passing
        # What passes by itself, as a server that is starting, shall not cost the schema.
        if not rejection.passing or self._n_broken > 1:
            for name in (FORM, SYSTEM):
                if name not in untried:
                    continue
                self._taken |= {name}
                without |= {name}
                answers[name] = str(last.meaning)
                try:
                    reply = self._reply_without(prompt, without)
                except _Rejected as again:
                    last = again
                    continue
                except NoRoom:  # it took the question
                    self._give_up(without, answers)
                    raise
                self._give_up(without, answers)
                return reply
        raise rejection.meaning from None

    def _reply_without(self, prompt: Prompt, without: frozenset[str]) -> Reply:
        """One reply; a parameter that the server says it does not know is given up. Raises
        _Rejected."""
        while True:
            try:
                return self._reply(prompt, self._send(self._request(prompt, without)))
            except _UnknownParameter as error:
                if error.name in without:
                    raise Declined(error.reason) from error
                self._give_up({error.name}, {error.name: error.reason})
                without |= {error.name}
            except _Rejected as rejection:
                rejection.without = without
                raise

    def _give_up(self, names: Set[str], answers: Mapping[str, str]) -> None:
        """Asks without these from now on; what the server answered to each is kept."""
        self._refusals |= answers
        self._without |= names

    def _request(self, prompt: Prompt, without: frozenset[str]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        request = {
            "model": self.model,
            "messages": folded(prompt.messages) if SYSTEM in without else list(prompt.messages),
            limit: prompt.max_tokens,
            "temperature": prompt.temperature,
            "seed": prompt.draw or self._seed,
        }
        if prompt.form:
            request[FORM] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": prompt.form},
            }
        return {name: value for name, value in request.items() if name not in without}

    def _send(self, request: dict[str, Any]) -> bytes:
        """The body of a complete response.

        It is read piece by piece, because the client's time-out starts anew with every piece.
        """
        import httpx2
        import openai

        deadline = time.monotonic() + self._timeout
        body = bytearray()
        try:
            ask = self._client.chat.completions.with_streaming_response
            with ask.create(**request) as response:
                for piece in response.iter_bytes():
                    body += piece
                    if time.monotonic() > deadline:
                        raise self._timed_out()
                    if len(body) > MAX_BODY:
                        raise Transient("broken", "The reply has no end.", paid=True)
                    if body[-64:].rstrip().endswith(DONE):  # some leave the connection open
                        break
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._timed_out() from None
        except openai.APIStatusError as error:
            raise self._failure(error) from None  # the request in its traceback holds the key
        except openai.APIConnectionError as error:
            why = self.quoted(str(error.__cause__ or error))
            raise Transient("unreachable", f"{self.endpoint} cannot be reached: {why}") from None
        except httpx2.HTTPError as error:
            why = self.quoted(str(error))
            raise Transient("broken", f"The connection broke: {why}", paid=True) from None
        return bytes(body)

    def _timed_out(self) -> Transient:
        reason = f"No complete reply within {self._timeout:g} seconds."
        return Transient("timed_out", reason, paid=True)

    def _failure(self, error: Any) -> Exception:
        """What a status of 300 and above means for us."""
        if 300 <= error.status_code < 400:
            goal = self.quoted(error.response.headers.get("location", "an unknown address"))
            return Refused(
                f"{self.endpoint} answered {error.status_code}, which no question follows: name "
                f"the address that it sends on to, {goal}"
            )
        words = message_of(error.body) or error.message
        code = str(error.code or "")
        wait = _retry_after(error.response.headers)
        return self._meaning(error.status_code, words, f"{error.param or ''}", code, wait)

    def _meaning(
        self, status: int, words: str, param: str = "", code: str = "", wait: float | None = None
    ) -> Exception:
        words = self.quoted(words)
        sentence = f"{self.endpoint} answered {status}: {words}"
        if status == 429 and code == "insufficient_quota":
            return Refused(f"{sentence} Add credit, then start it again.")
        if status == 408:
            return Transient("timed_out", sentence, retry_after=wait)
        if status in (409, 429) or status >= 500:
            kind: Passing = "5xx" if status >= 500 else "429" if status == 429 else "409"
            passing = Transient(kind, sentence, retry_after=wait)
            return _Rejected(passing, passing=True) if status >= 500 and wait is None else passing
        if status in (400, 422):
            for name in (FORM, "max_tokens", "temperature", "seed"):
                if re.search(rf"\b{name}\b", f"{param} {words}"):
                    return _UnknownParameter(name, sentence)
        if status in (400, 422):
            return _Rejected(Declined(sentence))
        if status == 413 or (status == 403 and MODERATED.search(words)):
            return Declined(sentence)
        if status in (401, 403):
            return Refused(f"{sentence} {self._key_advice()}")
        if status == 404:
            wrong = Refused(
                f"{sentence} Check the address and that it knows the model {self.model!r}: "
                f"an endpoint usually ends in /v1."
            )
            return _Rejected(wrong)
        return Refused(sentence)

    def _key_advice(self) -> str:
        if self._key:
            return f"Check {self._variable}."
        if self._variable:
            return f"Set {self._variable}."
        return (
            "It was asked without a key: name the variable that holds it in endpoints.toml, or "
            "with --key-variable."
        )

    def _reply(self, prompt: Prompt, body: bytes) -> Reply:
        try:
            completion = read_completion(body)
        except NoCompletion as error:
            if error.status is not None:
                raise self._meaning(error.status, str(error)) from None
            raise Transient("broken", self.quoted(str(error)), paid=True) from None
        text = self._redacted(completion.text)
        try:
            usage = _Usage.model_validate(completion.usage)
            counts, estimated = (usage.prompt_tokens, usage.completion_tokens), False
        except ValidationError:
            counts, estimated = (estimated_tokens(prompt), len(text.encode()) // 4 + 1), True
            if completion.finish == CUT_OFF:
                counts = counts[0], max(counts[1], prompt.max_tokens)
        if completion.finish == CUT_OFF and not _begun(prompt, completion):
            raise NoRoom(*counts)
        finish, model = self._redacted(completion.finish), completion.model or self.model
        return Reply(text, finish, *counts, estimated, self._redacted(model))

    def _redacted(self, text: str) -> str:
        """Without the key, should a server repeat it."""
        return text.replace(self._key, "[key]") if self._key else text

    def quoted(self, text: str) -> str:
        """A server's words as part of a sentence: one line, short, without any key."""
        text = KEY_LIKE.sub("[key]", self._redacted(" ".join(text.split())))
        text = text[:200] + "…" * (len(text) > 200)
        return text if text.endswith((".", "!", "?", "…")) else text + "."


KEY_LIKE = re.compile(r"\bsk-[\w*-]{4,}|(?<=Bearer )\S+", re.IGNORECASE)
"""Some servers repeat a key shortened to its ends."""

MODERATED = re.compile(r"flagged|moderation|content.?(filter|policy|management)", re.IGNORECASE)
"""Words of servers that look into a question before they pass it on."""


def public_name(name: str) -> str:
    """A model's name as it may leave this machine: no address of a server, no folder."""
    name = re.sub(r"(?<!\s)\s*(\bat\s+)?\bhttps?://\S+", "", name)
    return re.sub(r"(?<!\S)(?:[A-Za-z]:)?[/~\\][^\s@]*[/\\]", "", name)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The same messages with the system's text at the head of the first user's."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    others = [dict(m) for m in messages if m["role"] != "system"]
    if system and others:
        others[0]["content"] = "\n\n".join((*system, others[0]["content"]))
    return others


def _shape(prompt: Prompt) -> frozenset[str]:
    """What of a question a server may not take."""
    system = any(m["role"] == "system" for m in prompt.messages)
    return frozenset([FORM] * bool(prompt.form) + [SYSTEM] * system)


def _begun(prompt: Prompt, completion: Completion) -> bool:
    """Whether a reply that was cut off has come to its answer."""
    answer = without_thoughts(completion.text)
    return "{" in answer if prompt.form else bool(answer)


class _Rejected(Exception):
    """The server did not take the question as it was asked; it may when asked more plainly."""

    def __init__(self, meaning: Exception, *, passing: bool = False):
        self.meaning = meaning
        self.passing = passing  # whether the same question may be taken later
        self.without: frozenset[str] = frozenset()  # what it was asked without
        super().__init__(str(meaning))


class _UnknownParameter(Exception):
    def __init__(self, name: str, reason: str):
        self.name = name
        self.reason = reason
        super().__init__(reason)


def _retry_after(headers: Any) -> float | None:
    """Seconds from `Retry-After`, which holds seconds or a date; None where it holds neither."""
    from email.utils import parsedate_to_datetime

    header = headers.get("retry-after", "").strip()
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
