"""What the body of a response says: a chat completion however a server words it, or why it is none.

Owns: parts of content, events of a stream, errors inside a 200, pages of HTML.
Does not own: what is sent, what a failure means for the run (`chat`), thoughts (`fac.prompts`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from fac.schema import nested_too_deeply

Object = dict[str, Any]

CUT_OFF = "length"
"""The finish of a reply whose room ran out, whatever the server calls it."""

CUT_OFF_WORDS = ("length", "max_tokens", "max_output_tokens", "max_length")

THOUGHTS = ("reasoning", "thinking", "thought", "redacted_thinking")
"""Kinds of parts that hold what a model thought, not what it says."""

EVENT = re.compile(r"(?:data|event|id|retry)?:")
DONE = b"data: [DONE]"

CODES = {
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
}
"""Statuses of errors that are named in words."""


class Completion(NamedTuple):
    """One reply as a server gave it."""

    text: str  # "" where there is none
    finish: str  # why it ended; CUT_OFF where its room did
    model: str  # what the server says answered; "" where it does not
    usage: Any  # the counts of tokens as they came


class NoCompletion(Exception):
    """There is no reply in a body; the message is a sentence with the server's own words."""

    def __init__(self, reason: str, status: int | None = None):
        self.status = status  # of an error inside a 200, where it has one
        super().__init__(reason)


def read_completion(body: bytes) -> Completion:
    """The reply in the body of a response of status 200. Raises NoCompletion."""
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise NoCompletion("The response is not UTF-8.") from error
    if not text:
        raise NoCompletion("The response is empty.")
    if text.startswith("<"):
        page = re.sub(r"(?s)<(script|style).*?(?:</\1>|\Z)|<[^<>]*>", " ", text)
        raise NoCompletion(f"The response is a web page, no chat completion: {_start(page)}")
    if EVENT.match(text):
        return _joined(_events(text))
    return _completion(_object(text, "response"))


def _object(text: str, what: str) -> Object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoCompletion(f"The {what} is no chat completion, no JSON: {_start(text)}") from error
    if nested_too_deeply(value):
        raise NoCompletion(f"The {what} is no chat completion, nested too deeply: {_start(text)}")
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if not isinstance(value, dict):
        raise NoCompletion(f"The {what} is no chat completion, no object: {_start(text)}")
    return value


def _events(text: str) -> Iterator[Object]:
    """The objects of a stream of events."""
    for event in re.split(r"\r?\n\r?\n", text):
        lines = (line for line in event.splitlines() if line.startswith("data:"))
        data = "\n".join(line.removeprefix("data:").strip() for line in lines)
        if data and data != "[DONE]":
            yield _object(data, "event")


def _joined(events: Iterator[Object]) -> Completion:
    """The reply whose pieces the events are."""
    pieces = [_piece(each) for each in events]
    if not any(piece.finish or piece.text for piece in pieces):
        raise NoCompletion("The response is a stream of events without a reply.")
    if not any(piece.finish for piece in pieces):
        raise NoCompletion("The response is a stream of events that breaks off.")

    def last(values: Iterator[Any]) -> Any:
        return next((value for value in values if value), "")

    return Completion(
        text="".join(piece.text for piece in pieces),
        finish=last(piece.finish for piece in reversed(pieces)),
        model=last(piece.model for piece in pieces),
        usage=last(piece.usage for piece in reversed(pieces)) or None,
    )


def _piece(payload: Object) -> Completion:
    """One event; those that count tokens, or begin the stream, have no choice."""
    if payload.get("choices") == [] and not payload.get("error"):
        return Completion("", "", _word(payload, "model"), payload.get("usage"))
    return _completion(payload)


def _completion(payload: Object) -> Completion:
    choices = payload.get("choices")
    if error := payload.get("error"):
        raise _told(error)
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        why = "its choices are empty" if choices == [] else "it has no choices"
        raise NoCompletion(f"The response is no chat completion, {why}: {_start(payload)}")
    choice = choices[0]
    if error := choice.get("error"):
        raise _told(error)
    message = choice.get("message") or choice.get("delta")
    if message is None and isinstance(choice.get("text"), str):  # of a completion without chat
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        raise NoCompletion(f"The response is no chat completion, no message: {_start(payload)}")
    finish = _word(choice, "finish_reason")
    return Completion(
        _text(message.get("content")) or _word(message, "refusal") or _called(message),
        CUT_OFF if finish.casefold() in CUT_OFF_WORDS else finish,
        _word(payload, "model"),
        payload.get("usage"),
    )


def _text(content: Any) -> str:
    """What content says: a text, or a list of parts. Thoughts among them do not count."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = list[str]()
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else part
        text = part.get("text") if isinstance(part, dict) else part
        if kind in THOUGHTS:
            continue
        if not isinstance(text, str):
            raise NoCompletion(f"The content is no text, it has a part of kind {kind!r:.40}.")
        texts.append(text)
    return "".join(texts)


def _called(message: Object) -> str:
    """What a server that makes a form a tool fills into the only one it calls."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict):
        function = calls[0].get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, dict):
            return json.dumps(arguments)
        return arguments if isinstance(arguments, str) else ""
    return ""


def _word(values: Object, name: str) -> str:
    word = values.get(name)
    if word is not None and not isinstance(word, str):
        raise NoCompletion(f"The response is no chat completion, its {name} is no text.")
    return word or ""


def _told(error: Any) -> NoCompletion:
    """An error that came in a response of status 200."""
    status = None
    if isinstance(error, dict):
        for name in ("code", "status", "type"):
            word = str(error.get(name))
            number = CODES.get(word, int(word) if word.isdecimal() else 0)
            if 400 <= number < 600:
                status = number
                break
    words = message_of(error) or "it does not say why"
    return NoCompletion(f"An error came in place of a reply: {words}", status)


def message_of(body: object) -> str:
    """A server's own words, wherever in its error it puts them."""
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return message_of(body[name])
    return body if isinstance(body, str) else json.dumps(body) if body else ""


def _start(words: str | Object) -> str:
    words = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
    return " ".join(words.split())[:120] or "nothing is written on it"
