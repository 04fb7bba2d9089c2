"""One row of a source: its columns, the words for what is wrong with it, and the turns of a chat
that a column's value says: plain text, a list of messages, or a transcript."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fac.schema import ROLES, Chat

MAX_CHARACTERS = 1_000_000
"""Longest sample, over all its messages; a longer one is a broken file more often than a text."""

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Columns = dict[str, Any]
"""One row of a source: column name -> value as JSON would give it."""

ROLE_NAMES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human", "prompter")},
    **{name: "assistant" for name in ("assistant", "gpt", "chatgpt", "model", "bot", "ai")},
}
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")


class SourceRow(NamedTuple):
    """One row of a source."""

    line: int
    columns: Columns | None
    problem: str = ""
    """Why there are no columns."""


class UnusableRow(ValueError):
    """Why a row cannot become a sample."""


def in_words(value: Any) -> str:
    """What kind of value it is, for a sentence."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"a number ({shortened(value)})"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def shortened(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and FORBIDDEN.search(value) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def listed(columns: Sequence[str]) -> str:
    names = ", ".join(shortened(column) for column in columns[:20]) or "none"
    return names if len(columns) <= 20 else f"{names} and {len(columns) - 20} more"


def chat_of_messages(row: Columns, names: Mapping[str, str]) -> Chat:
    """The list of messages in the column `chat`, after what the column `system` says."""
    column = names["chat"]
    value = _value(row, column)
    if isinstance(value, str):  # CSV has no lists
        value = _json_list(value, column)
    return with_system(row, names, _messages(value, column))


def chat_of_exchange(row: Columns, names: Mapping[str, str]) -> Chat:
    """What the column `prompt` asks, with the column `input` below it, and the `reply`."""
    question = turns(row, names["prompt"], "user")
    if details := _optional_text(row, names.get("input")):
        question[-1]["content"] += f"\n\n{details}"
    return with_system(row, names, question + turns(row, names["reply"], "assistant"))


def with_system(row: Columns, names: Mapping[str, str], chat: Chat) -> Chat:
    """A chat behind the text of the column `system`, where it has no system turn itself."""
    text = _optional_text(row, names.get("system"))
    if not text or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": text}, *chat]


def turns(row: Columns, column: str, role: str, *, transcript: bool = False) -> Chat:
    """A column as turns: a text is one turn of `role`, a list is a chat."""
    value = _value(row, column)
    if isinstance(value, list):
        return _messages(value, column)
    if not isinstance(value, str):
        raise UnusableRow(f"the column {column!r} holds {in_words(value)}, not text")
    chat = _transcript(value) if transcript else []
    return chat or [{"role": role, "content": value}]


def _value(columns: Columns, name: str) -> Any:
    """What a column that must hold something holds. Raises UnusableRow where it does not."""
    value = columns.get(name)
    if value is None:
        if name not in columns:
            raise UnusableRow(f"there is no {name!r}; the row has {listed([*columns])}")
        raise UnusableRow(f"the column {name!r} is null")
    if isinstance(value, str) and not value.strip():
        raise UnusableRow(f"the column {name!r} is empty")
    return value


def _optional_text(columns: Columns, name: str | None) -> str:
    """The text of a column that may be missing, null or empty."""
    value = columns.get(name) if name else None
    if value is not None and not isinstance(value, str):
        raise UnusableRow(f"the column {name!r} holds {in_words(value)}, not text")
    return value or ""


def _transcript(text: str) -> Chat:
    """The turns of "Human: ...\\n\\nAssistant: ..."; empty when the text does not begin so."""
    before, *rest = _SPEAKER.split(text)
    if before or not rest:
        return []
    return [
        {"role": ROLE_NAMES[speaker.lower()], "content": content.strip()}
        for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    ]


def _json_list(text: str, column: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise UnusableRow(
            f"the column {column!r} holds text that is no JSON list of messages; "
            f"if it is plain text, give --text-field {column}"
        ) from None


def _messages(value: Any, column: str) -> Chat:
    """A list of {role, content} or {from, value} with the roles' names normalised."""
    if not isinstance(value, list):
        raise UnusableRow(f"the column {column!r} holds {in_words(value)}, not a list of messages")
    if not value:
        raise UnusableRow(f"the column {column!r} is an empty list")
    chat = []
    for i, message in enumerate(value, start=1):
        where = f"message {i} of {column!r}"
        if not isinstance(message, dict):
            problem = f"is {in_words(message)}, not an object with role and content"
            raise UnusableRow(f"{where} {problem}")
        chat.append({"role": _role(message, where), "content": _content(message, where)})
    return chat


def _role(message: Columns, where: str) -> str:
    role = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(role, str):
        raise UnusableRow(f"{where} has no role; its keys are {listed([*message])}")
    name = role.strip().lower()
    if name in TOOL_ROLES:
        raise UnusableRow(f"{where} comes from a tool (role {shortened(role)})")
    if name not in ROLE_NAMES:
        raise UnusableRow(f"{where} has the role {shortened(role)}; known are {', '.join(ROLES)}")
    return ROLE_NAMES[name]


def _content(message: Columns, where: str) -> str:
    content = message.get("content")
    content = content if content is not None else message.get("value")
    if isinstance(content, list):  # the parts of a multimodal message
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if any(k != "text" for k in kinds) or not all(isinstance(t, str) for t in texts):
            raise UnusableRow(f"{where} holds more than text")
        content = "\n".join(str(text) for text in texts)
    if content is None:
        calls = " but a tool call" if message.get("tool_calls") else ""
        raise UnusableRow(f"{where} has no content{calls}")
    if not isinstance(content, str):
        raise UnusableRow(f"{where} has {in_words(content)} as its content, not text")
    return content
