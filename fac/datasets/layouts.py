"""Layouts: which columns of a row become the chat, and what keeps a row from being a sample.

Owns: the names of columns and roles that are understood, the checks a sample must pass, its id.
Does not own: where rows come from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.errors import BadRow, InputError
from fac.schema import ROLES, Chat

MAX_CHARACTERS = 1_000_000
"""Longest sample, over all its messages; a longer one is a broken file more often than a text."""

ROLE_NAMES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human", "prompter")},
    **{name: "assistant" for name in ("assistant", "gpt", "chatgpt", "model", "bot", "ai")},
}
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")

TEXTS = ("text", "prompt", "instruction", "question", "content")
PROMPTS = ("prompt", "instruction", "question", "query")
INPUTS = ("input", "context")
REPLIES = ("completion", "response", "output", "answer")
SYSTEMS = ("system", "system_prompt")

Columns = dict[str, Any]
"""One row of a source: column name -> value as JSON would give it."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")


class Row(NamedTuple):
    """One row of a source, before it is known what it says."""

    line: int
    columns: Columns | None
    problem: str = ""
    """Why there are no columns."""


class Sample(NamedTuple):
    """One training example."""

    line: int
    """1-based line of the file where it begins; the row for Parquet and the hub."""

    sample_id: str
    """Hash of the messages: equal samples have equal ids whatever file they came from."""

    messages: Chat
    """At least one message, roles from schema.ROLES; a plain text is one user turn."""

    label: str | None
    """What the label column holds, as text."""

    meta: str
    """JSON object: `line`, `columns` (those that are neither text nor label), and `rejected`."""


def sample_id(messages: Chat) -> str:
    """16 hex digits of the SHA-256 of the messages' canonical JSON."""
    plain = [{"content": m["content"], "role": m["role"]} for m in messages]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- which layout ----------------------------------------------------------------------------


class Layout(NamedTuple):
    """How rows become chats. Recognised from column names, in this order:

    chosen/rejected           the chosen side, after a prompt column where it is only the answer
    messages, conversations   list of {role, content} or {from, value}, or that list as JSON text
    instruction/input/output  and other pairs of PROMPTS and REPLIES: a user and an assistant turn
    text                      one of TEXTS alone: one user turn

    A column `system` or `system_prompt` adds a system turn to all but the last.
    """

    name: str
    """Its columns' names, such as `prompt/completion`."""

    columns: tuple[str, ...]
    """Columns that become the chat; all others are kept in `meta`."""

    read: Callable[[Columns], Chat]
    """Raises _Unusable with a reason."""

    label: str | None = None
    """Column that becomes the label."""

    rejected: str | None = None
    """Column with the side that is kept beside the sample."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says about it."""
        told: dict[str, Any] = {"layout": self.name, "columns": [*self.columns]}
        if self.rejected:
            told["note"] = (
                f"The sample is the side in {self.columns[0]!r}; "
                f"the side in {self.rejected!r} is kept in meta."
            )
        return told


class Wanted(NamedTuple):
    text_field: str | None
    messages_field: str | None
    label_field: str | None


class _Unusable(ValueError):
    """Why a row cannot become a sample."""


def recognise(rows: Sequence[Columns], wanted: Wanted, name: str) -> Layout:
    """The layout of a source from its first rows.

    Names alone decide: a column that is null so far may not be later. Raises InputError naming
    the columns and the option to give when they fit no layout or several.
    """
    every = list(dict.fromkeys(column for row in rows for column in row))
    for option, column in wanted._asdict().items():
        if column is not None and column not in every:
            raise InputError(
                f"{name} has no column {column!r} for --{option.replace('_', '-')}; "
                f"its columns are {listed(every)}."
            )
    found: dict[str, str] = {}
    for column in every:
        found.setdefault(column.strip().lower(), column)
    if wanted.text_field:
        layout = _text_layout(wanted.text_field)
    elif wanted.messages_field:
        layout = _messages_layout(wanted.messages_field, found)
    else:
        possible = _possible_layouts(found, wanted.label_field)
        if len(possible) != 1:
            fits = "fit more than one layout" if possible else "fit no layout"
            raise InputError(
                f"The columns of {name} {fits}: {listed(every)}; say which one holds the samples "
                f"with --text-field COLUMN (plain text) or --messages-field COLUMN (chats)."
            )
        layout = possible[0]
    label = found.get("label", "label")  # which may come after the first rows
    if label in layout.columns:
        return layout._replace(label=wanted.label_field)
    return layout._replace(label=wanted.label_field or label)


def _possible_layouts(found: dict[str, str], label: str | None) -> list[Layout]:
    """Layouts these columns (lower-case name -> name) could mean; only the strongest kind."""

    def among(names: Sequence[str]) -> list[str]:
        return [found[n] for n in names if n in found and found[n] != label]

    prompts, replies = among(PROMPTS), among(REPLIES)
    if "chosen" in found and "rejected" in found:
        return [_preference_layout(found, prompts[0] if prompts else None)]
    if chats := among(("messages", "conversations")):
        return [_messages_layout(column, found) for column in chats]
    if prompts and replies:
        return [_pair_layout(p, r, found) for p in prompts for r in replies]
    return [_text_layout(column) for column in among(TEXTS)]


def _text_layout(column: str) -> Layout:
    return Layout(column, (column,), lambda row: _turns(row, column, "user"))


def _messages_layout(column: str, found: dict[str, str]) -> Layout:
    system = _system_column(found, column)

    def read(row: Columns) -> Chat:
        value = _value(row, column)
        if isinstance(value, str):  # CSV has no lists
            value = _json_list(value, column)
        return _with_system(row, system, _chat(value, column))

    return Layout(column, (column, *filter(None, [system])), read)


def _pair_layout(prompt: str, reply: str, found: dict[str, str]) -> Layout:
    system = _system_column(found, prompt)
    extra = next((found[n] for n in INPUTS if n in found), None)

    def read(row: Columns) -> Chat:
        asked = _turns(row, prompt, "user")
        more = _optional(row, extra)
        if more:
            asked[-1]["content"] += f"\n\n{more}"
        return _with_system(row, system, asked + _turns(row, reply, "assistant"))

    columns = tuple(filter(None, [prompt, extra, reply]))
    return Layout("/".join(columns).lower(), (*columns, *filter(None, [system])), read)


def _preference_layout(found: dict[str, str], prompt: str | None) -> Layout:
    chosen, rejected = found["chosen"], found["rejected"]
    system = _system_column(found, chosen)

    def read(row: Columns) -> Chat:
        chat = _turns(row, chosen, "assistant" if prompt else "user", transcript=True)
        if prompt and chat[0]["role"] == "assistant":
            asked = _turns(row, prompt, "user", transcript=True)
            if asked[-1] == {"role": "assistant", "content": ""}:  # "...\n\nAssistant:"
                asked.pop()
            chat = asked + chat
        return _with_system(row, system, chat)

    columns = tuple(filter(None, [chosen, prompt, system]))
    return Layout("chosen/rejected", columns, read, rejected=rejected)


def _system_column(found: dict[str, str], taken: str) -> str | None:
    return next((found[n] for n in SYSTEMS if n in found and found[n] != taken), None)


def _with_system(row: Columns, column: str | None, chat: Chat) -> Chat:
    text = _optional(row, column)
    if not text or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": text}, *chat]


def _optional(row: Columns, column: str | None) -> str:
    """The text of a column that may be missing, null or empty."""
    value = row.get(column) if column else None
    if value is not None and not isinstance(value, str):
        raise _Unusable(f"the column {column!r} holds {in_words(value)}, not text")
    return value or ""


def _value(row: Columns, column: str) -> Any:
    """What a column that must hold something holds."""
    value = row.get(column)
    if value is None:
        if column not in row:
            raise _Unusable(f"there is no {column!r}; the row has {listed([*row])}")
        raise _Unusable(f"the column {column!r} is null")
    if isinstance(value, str) and not value.strip():
        raise _Unusable(f"the column {column!r} is empty")
    return value


def _turns(row: Columns, column: str, role: str, *, transcript: bool = False) -> Chat:
    """A column as turns: a text is one turn of `role`, a list is a chat."""
    value = _value(row, column)
    if isinstance(value, list):
        return _chat(value, column)
    if not isinstance(value, str):
        raise _Unusable(f"the column {column!r} holds {in_words(value)}, not text")
    turns = _transcript(value) if transcript else []
    return turns or [{"role": role, "content": value}]


def _transcript(text: str) -> Chat:
    """The turns of "Human: ...\\n\\nAssistant: ..."; empty when the text does not begin so."""
    before, *rest = _SPEAKER.split(text)
    if before or not rest:
        return []
    return [
        {"role": ROLE_NAMES["human" if who == "Human" else "assistant"], "content": said.strip()}
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]


def _json_list(text: str, column: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise _Unusable(
            f"the column {column!r} holds text that is no JSON list of messages; "
            f"if it is plain text, give --text-field {column}"
        ) from None


def _chat(value: Any, column: str) -> Chat:
    """A list of {role, content} or {from, value} with the roles' names normalised."""
    if not isinstance(value, list):
        raise _Unusable(f"the column {column!r} holds {in_words(value)}, not a list of messages")
    if not value:
        raise _Unusable(f"the column {column!r} is an empty list")
    return [
        {"role": _role(message, i, column), "content": _content(message, i, column)}
        for i, message in enumerate(value, start=1)
    ]


def _role(message: Any, i: int, column: str) -> str:
    if not isinstance(message, dict):
        raise _Unusable(
            f"message {i} of {column!r} is {in_words(message)}, not an object with role and content"
        )
    given = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(given, str):
        raise _Unusable(f"message {i} of {column!r} has no role; its keys are {listed([*message])}")
    name = given.strip().lower()
    if name in TOOL_ROLES:
        raise _Unusable(f"message {i} of {column!r} comes from a tool (role {shortened(given)})")
    if name not in ROLE_NAMES:
        raise _Unusable(
            f"message {i} of {column!r} has the role {shortened(given)}; "
            f"known are {', '.join(ROLES)}"
        )
    return ROLE_NAMES[name]


def _content(message: Columns, i: int, column: str) -> str:
    given = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(given, list):  # the parts of a multimodal message
        kinds = [part.get("type") if isinstance(part, dict) else None for part in given]
        texts = [part.get("text") if isinstance(part, dict) else None for part in given]
        if any(k != "text" for k in kinds) or not all(isinstance(t, str) for t in texts):
            raise _Unusable(f"message {i} of {column!r} holds more than text")
        given = "\n".join(str(text) for text in texts)
    if given is None:
        calls = " but a tool call" if message.get("tool_calls") else ""
        raise _Unusable(f"message {i} of {column!r} has no content{calls}")
    if not isinstance(given, str):
        raise _Unusable(f"message {i} of {column!r} has {in_words(given)} as its content, not text")
    return given


# --- one row ---------------------------------------------------------------------------------


def sample_of(row: Row, layout: Layout) -> Sample | BadRow:
    if row.columns is None:
        return BadRow(row.line, row.problem)
    try:
        messages = layout.read(row.columns)
        _check(messages)
        label = _label(row.columns, layout.label)
        meta = _meta(row, layout)
    except _Unusable as reason:
        return BadRow(row.line, str(reason))
    return Sample(row.line, sample_id(messages), messages, label, meta)


def _check(messages: Chat) -> None:
    size = sum(len(message["content"]) for message in messages)
    if size > MAX_CHARACTERS:
        raise _Unusable(
            f"the sample has {size:,} characters, the limit is {MAX_CHARACTERS:,}; split it"
        )
    if not any(message["content"].strip() for message in messages):
        raise _Unusable("the text is empty")
    for i, message in enumerate(messages, start=1):
        where = f"message {i}" if len(messages) > 1 else "the text"
        _check_characters(message["content"], where)


def _check_characters(text: str, where: str) -> None:
    found = _FORBIDDEN.search(text)
    if found is None:
        return
    code = f"U+{ord(found[0]):04X}"
    place = f"at character {found.start() + 1} of {where}"
    if found[0] >= "\ud800":
        raise _Unusable(
            f"{code} {place} is no character: half a surrogate pair, or a byte that is not UTF-8"
        )
    raise _Unusable(f"the control character {code} stands {place}")


def _label(row: Columns, column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _json(value)
    _check_characters(text, f"the label in {column!r}")
    return text


def _meta(row: Row, layout: Layout) -> str:
    columns = row.columns or {}
    used = {*layout.columns, layout.label, layout.rejected}
    meta: dict[str, Any] = {"line": row.line}
    if others := {name: value for name, value in columns.items() if name not in used}:
        meta["columns"] = others
    if layout.rejected:
        meta["rejected"] = columns.get(layout.rejected)
    return _json(meta)


def _json(value: Any) -> str:
    """JSON that any reader accepts: ASCII, so that hostile characters stay escaped."""
    try:
        try:
            return json.dumps(value, allow_nan=False, default=_foreign)
        except ValueError:  # NaN or infinity somewhere inside
            return json.dumps(_finite(value), allow_nan=False, default=_foreign)
    except RecursionError:
        raise _Unusable("its columns are nested too deeply") from None


def _foreign(value: Any) -> str:
    """Dates, decimals and the like, which Parquet has and JSON has not."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def in_words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"a number ({shortened(value)})"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def shortened(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and _FORBIDDEN.search(value) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def listed(columns: Sequence[str]) -> str:
    names = ", ".join(shortened(column) for column in columns[:20]) or "none"
    return names if len(columns) <= 20 else f"{names} and {len(columns) - 20} more"
