"""What sample a row is: what is wrong with it, the turns that a column's value says (plain text, a
list of messages, a transcript), and the layout that the columns of a source speak.

Each layout is a module of `fac.datasets.layouts`; nothing lists them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fac.errors import BadRow, InputError
from fac.registry import Registry
from fac.schema import ROLES, Chat, nested_too_deeply

MAX_CHARACTERS = 1_000_000
"""Longest sample, over all its messages; a longer one is a broken file more often than a text."""

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Columns = dict[str, Any]  # one row of a source: column name -> value as JSON would give it

ROLE_NAMES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human", "prompter")},
    **{name: "assistant" for name in ("assistant", "gpt", "chatgpt", "model", "bot", "ai")},
}
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")

BESIDE = ("thinking", "reasoning_content", "reasoning", "tool_calls", "function_call")
"""Keys by which a message says something that is not its text."""

_ADDRESS = re.compile(r"\s*(https?|s3|gs|ftp|file|hf)://\S+\s*")

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")


class SourceRow(NamedTuple):
    """One row of a source."""

    line: int
    columns: Columns | None
    problem: str = ""  # why there are no columns
    file: str = ""  # whose line it is, where a source is several files


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
        try:
            value = json.loads(value, strict=False)
        except (ValueError, RecursionError):
            raise UnusableRow(
                f"the column {column!r} holds text that is no JSON list of messages; "
                f"if it is plain text, give --text-field {column}"
            ) from None
    return with_system(row, names, _messages(value, column))


def chat_of_exchange(row: Columns, names: Mapping[str, str]) -> Chat:
    """What the column `prompt` asks, with the column `input` below it, and the `reply`; what the
    column `history` says comes first."""
    question = with_details(row, names, turns(row, names["prompt"], "user"))
    before = _exchanges(row, names.get("history"))
    return with_system(row, names, before + question + turns(row, names["reply"], "assistant"))


def with_details(row: Columns, names: Mapping[str, str], question: Chat) -> Chat:
    """A question with the text of the column `input`, where it has one, below its last turn."""
    if names.get("input") == names["prompt"] or not (
        details := _optional_text(row, names.get("input"))
    ):
        return question
    *before, last = question
    return [*before, {**last, "content": f"{last['content']}\n\n{details}"}]


def _exchanges(row: Columns, column: str | None) -> Chat:
    """The turns of a column of earlier questions, each with its answer; none where it is missing,
    null or empty."""
    pairs = row.get(column) if column else None
    if isinstance(pairs, str) and pairs.strip():  # CSV has no lists
        with suppress(ValueError, RecursionError):
            pairs = json.loads(pairs, strict=False)
    if not pairs:
        return []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise UnusableRow(f"the column {column!r} is no list of questions with their answers")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def with_system(row: Columns, names: Mapping[str, str], chat: Chat) -> Chat:
    """A chat behind the text of the column `system`, where it has no system turn itself."""
    text = _optional_text(row, names.get("system"))
    if not text or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": text}, *chat]


def turns(row: Columns, column: str, role: str, *, transcript: bool = False) -> Chat:
    """A column as turns: a text is one turn of `role`, a list is a chat, an object one message."""
    value = listed_messages(_value(row, column))
    if isinstance(value, dict) and {"role", "from"} & {*value}:
        value = [value]  # one message
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


def _messages(value: Any, column: str) -> Chat:
    """A list of {role, content} or {from, value} with the roles' names normalised."""
    value = listed_messages(value)
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


def listed_messages(value: Any) -> Any:
    """Messages that are kept as an object of lists, one a key, as a list; all else as it is."""
    if not isinstance(value, dict) or not {"role", "from"} & {*value}:
        return value
    lists = [each for each in value.values() if isinstance(each, list)]
    if len(lists) < len(value) or len({len(each) for each in lists}) > 1:
        return value
    return [dict(zip(value, each, strict=True)) for each in zip(*lists, strict=True)]


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
    if content is None or (content == "" and message.get("tool_calls")):
        calls = " but a tool call" if message.get("tool_calls") else ""
        raise UnusableRow(f"{where} has no content{calls}")
    if not isinstance(content, str):
        raise UnusableRow(f"{where} has {in_words(content)} as its content, not text")
    return content


class Column(NamedTuple):
    """A column that a layout reads."""

    part: str  # what it is to the layout, whose function finds the column's name by it
    names: tuple[str, ...]
    """What it may be called, in lower case; of an optional column, the first that is there."""
    required: bool = True  # a layout is recognised by these
    may_be_label: bool = False  # also read where --label-field names it


REJECTED = "rejected"  # the part that is kept beside the sample, not in its chat

SYSTEM = Column("system", ("system", "system_prompt"), required=False, may_be_label=True)
"""A system turn before the chat."""

INPUT = Column("input", ("input", "context"), required=False, may_be_label=True)
"""What a question is about, below it."""

HISTORY = Column("history", ("history",), required=False)
"""Earlier questions, each with its answer, before the chat."""

PARTS = {"text": "text", "messages": "chat", "prompt": "prompt", "reply": "reply"}
"""Option that names a column -> the part that the column is to a layout."""

REPLY = Column("reply", ("completion", "response", "output", "answer"))


@dataclass(frozen=True)
class Layout:
    """How the columns of a row become a chat."""

    title: str  # what people call it, for lists
    preference: int  # of the layouts whose columns are all there, those with the lowest are meant
    columns: tuple[Column, ...]
    """In the order of the layout's name, which ends with the last required one."""
    chat: Callable[[Columns, Mapping[str, str]], Chat]
    """A row and the names of its columns by part -> the chat. Raises UnusableRow."""

    def matches(
        self, names: Mapping[str, str], label: str | None, chosen: Mapping[str, str]
    ) -> list[dict[str, str]]:
        """Every way in which columns (lower-case name -> name) are this layout's: part -> column.
        `chosen` are columns that somebody named for a part, whatever they are called."""
        options: list[list[str | None]] = []
        for column in self.columns:
            if column.part in chosen:
                options.append([chosen[column.part]])
                continue
            excluded = {*chosen.values()} | ({None} if column.may_be_label else {label})
            present = [names[n] for n in column.names if n in names and names[n] not in excluded]
            options.append([*present] if column.required else [*present, None][:1])
        parts = [column.part for column in self.columns]
        return [
            {part: name for part, name in zip(parts, choice, strict=True) if name is not None}
            for choice in product(*options)
        ]


LAYOUTS: Registry[Layout] = Registry("fac.datasets.layouts", "LAYOUT")


def layout_titles() -> list[str]:
    """Titles of all layouts: those that need the fewest columns first."""
    ranks = [
        (sum(column.required for column in layout.columns), -layout.preference, name)
        for name, layout in LAYOUTS.items()
    ]
    return [LAYOUTS[name].title for *_, name in sorted(ranks)]


@dataclass(frozen=True)
class SourceLayout:
    """A layout with the names that its columns have in one source."""

    layout: Layout
    columns: Mapping[str, str]  # part -> column; without optional ones that the source has not
    label: str | None = None  # column that becomes the label

    @cached_property
    def name(self) -> str:
        """Its columns' names, such as `prompt/completion`."""
        last = max(i for i, column in enumerate(self.layout.columns) if column.required)
        parts = [column.part for column in self.layout.columns[: last + 1]]
        names = [self.columns[part] for part in parts if part in self.columns]
        return names[0] if len(names) == 1 else "/".join(names).lower()

    @cached_property
    def chat_columns(self) -> list[str]:
        """Columns that become the chat; all others are kept in `meta`."""
        return [name for part, name in self.columns.items() if part != REJECTED]

    def beside(self, columns: Iterable[str]) -> list[str]:
        """Of these columns those that are neither text nor label: they are kept in `meta`."""
        used = {*self.columns.values(), self.label}
        return [column for column in columns if column not in used]

    @property
    def note(self) -> str | None:
        """What a reader of the samples should know."""
        if REJECTED not in self.columns:
            return None
        return (
            f"The sample is the side in {self.chat_columns[0]!r}; "
            f"the side in {self.columns[REJECTED]!r} is kept in meta."
        )


class NoLayout(InputError):
    """The columns of a source do not say which of them hold the samples."""

    def __init__(self, source: str, problem: str, columns: Sequence[str]):
        self.problem = problem  # what is the matter with the columns, to follow "The columns"
        self.columns = columns
        super().__init__(
            f"The columns of {source} {problem}: {listed(columns)}; say which one holds the "
            f"samples with --text-field COLUMN (plain text), --messages-field COLUMN (chats), or "
            f"--prompt-field COLUMN and --reply-field COLUMN."
        )


def recognise(
    rows: Iterable[Columns], options: Mapping[str, str | None], source: str
) -> SourceLayout:
    """The layout of a source from its first rows; `options` may name its columns for `text`,
    `messages`, `prompt`, `reply` and `label`. Names decide, for a column that is null so far may
    not be later; but one of nothing but addresses is no text unless an option names it.
    Raises InputError for an option that names no column, NoLayout where the columns fit no layout
    or several."""
    rows = [*rows]
    every = list(dict.fromkeys(column for row in rows for column in row))
    for option, column in options.items():
        if column is not None and column not in every:
            raise InputError(
                f"{source} has no column {column!r} for --{option}-field; "
                f"its columns are {listed(every)}."
            )
    names: dict[str, str] = {}
    for column in every:
        names.setdefault(column.strip().lower(), column)
    candidates = _candidates(names, options)
    if len(candidates) != 1:
        fits = "fit more than one layout" if candidates else "fit no layout"
        raise NoLayout(source, fits, every)
    [only] = candidates
    text = only.columns.get("text")
    if text and not options.get("text") and _holds_addresses(row.get(text) for row in rows):
        raise NoLayout(source, f"fit no layout, {text!r} holds addresses and no text", every)
    usual: str | None = names.get("label", "label")  # which may come after the first rows
    if usual in only.chat_columns:
        usual = None
    return replace(only, label=options.get("label") or usual)


def _holds_addresses(values: Iterable[Any]) -> bool:
    """Whether there are values and each is the address of a page or a file elsewhere."""
    texts = [value for value in values if value]
    return bool(texts) and all(isinstance(t, str) and _ADDRESS.fullmatch(t) for t in texts)


def _candidates(
    names: Mapping[str, str], options: Mapping[str, str | None]
) -> Sequence[SourceLayout]:
    """Layouts these columns (lower-case name -> name) could mean; only the most preferred."""
    chosen = {PARTS[name]: column for name in PARTS if (column := options.get(name))}
    if {"prompt", "reply"} & {*chosen}:
        wanted = ["prompt-completion"]
        wanted += ["chosen-rejected"] if "reply" not in chosen else []
        wanted += ["alpaca"] if "prompt" not in chosen else []
        instruction = names.get("instruction")
        if instruction and instruction != chosen.get("prompt", instruction):
            # What an instruction is about belongs to it, not to the prompt made of both.
            names = {k: name for k, name in names.items() if k not in INPUT.names}
    else:
        wanted = [name for name in ("text", "messages") if options.get(name)] or [*LAYOUTS]
    matching = [
        SourceLayout(LAYOUTS[name], columns)
        for name in wanted
        for columns in LAYOUTS[name].matches(names, options.get("label"), chosen)
    ]
    best = min((match.layout.preference for match in matching), default=0)
    return [match for match in matching if match.layout.preference == best]


class Sample(NamedTuple):
    """One training example."""

    line: int  # 1-based line of the file where it begins; the row for Parquet and the hub
    sample_id: str
    """Hash of the messages: equal samples have equal ids whatever file they came from."""
    messages: Chat  # at least one message, roles from schema.ROLES; a plain text is one user turn
    label: str | None  # what the label column holds, as text
    unread: tuple[str, ...]
    """What messages say beside their text, which is no part of the chat: a name for each."""
    meta: str
    """JSON object: `line`, of several files also `file`, `columns` (those that are neither text nor
    label), and `rejected`."""


def sample_id(messages: Chat) -> str:
    """16 hex digits of the SHA-256 of the messages' canonical JSON."""
    plain = [{"content": m["content"], "role": m["role"]} for m in messages]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_of(row: SourceRow, layout: SourceLayout) -> Sample | BadRow:
    """The sample in a row, or the reason why there is none."""
    if row.columns is None:
        return bad_row(row, row.problem)
    try:
        messages = layout.layout.chat(row.columns, layout.columns)
        _check(messages)
        label = _label(row.columns, layout.label)
        meta = _meta(row, layout)
    except UnusableRow as reason:
        return bad_row(row, str(reason))
    unread = tuple(
        _unread(row.columns[name] for name in layout.chat_columns if row.columns.get(name))
    )
    return Sample(row.line, sample_id(messages), messages, label, unread, meta)


def bad_row(row: SourceRow, reason: str) -> BadRow:
    """A row that is no sample, and why; of several files with the name of its own."""
    return BadRow(row.line, f"in {row.file}, {reason}" if row.file else reason)


def _unread(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and any(f'"{key}"' in value for key in BESIDE):
            with suppress(ValueError, RecursionError):
                value = json.loads(value, strict=False)
        value = listed_messages(value)
        messages = value if isinstance(value, list) else []
        for message in messages:
            yield from (key for key in BESIDE if isinstance(message, dict) and message.get(key))


def _check(messages: Chat) -> None:
    size = sum(len(message["content"]) for message in messages)
    if size > MAX_CHARACTERS:
        raise UnusableRow(
            f"the sample has {size:,} characters, the limit is {MAX_CHARACTERS:,}; split it"
        )
    if not any(message["content"].strip() for message in messages):
        raise UnusableRow("the text is empty")
    for i, message in enumerate(messages, start=1):
        where = f"message {i}" if len(messages) > 1 else "the text"
        _check_characters(message["content"], where)


def _check_characters(text: str, where: str) -> None:
    match = FORBIDDEN.search(text)
    if match is None:
        return
    code = f"U+{ord(match[0]):04X}"
    position = f"at character {match.start() + 1} of {where}"
    if match[0] >= "\ud800":
        byte = windows_hint(ord(match[0]) - 0xDC00) if "\udc80" <= match[0] <= "\udcff" else ""
        raise UnusableRow(
            f"{code} {position} is no character: half a surrogate pair, or a byte that is not "
            f"UTF-8{byte}"
        )
    raise UnusableRow(f"the control character {code} stands {position}")


def windows_hint(byte: int) -> str:
    """What a byte that is not UTF-8 is in the code page of Western Windows, and what to do, to
    follow "is not UTF-8"; "" where it is nothing there."""
    try:
        character = bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return f" but, in Windows-1252 (cp1252), {character!r}: save the file as UTF-8"


def _label(row: Columns, column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _json(value)
    _check_characters(text, f"the label in {column!r}")
    return text


def _meta(row: SourceRow, layout: SourceLayout) -> str:
    columns = row.columns or {}
    used = (*layout.columns.values(), layout.label)
    meta: dict[str, Any] = {"line": row.line}
    if row.file:
        meta["file"] = row.file
    if others := {name: value for name, value in columns.items() if name not in used}:
        meta["columns"] = others
    if rejected := layout.columns.get(REJECTED):
        meta["rejected"] = columns.get(rejected)
    if nested_too_deeply(meta):
        raise UnusableRow("its columns are nested too deeply")
    return _json(meta)


def _json(value: Any) -> str:
    """JSON that any reader accepts: ASCII, so that hostile characters stay escaped."""
    try:
        try:
            return json.dumps(value, allow_nan=False, default=_foreign)
        except ValueError:  # NaN or infinity somewhere inside
            return json.dumps(_finite(value), allow_nan=False, default=_foreign)
    except RecursionError:
        raise UnusableRow("its columns are nested too deeply") from None


def _foreign(value: Any) -> str:
    """Dates, decimals and the like, which Parquet has and JSON has not."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
