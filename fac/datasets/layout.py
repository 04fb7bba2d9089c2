"""Which layout the columns of a source speak, and what sample a row is by it.

Each layout is a module of `fac.datasets.layouts`; nothing lists them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fac.datasets.rows import FORBIDDEN, MAX_CHARACTERS, Columns, SourceRow, UnusableRow, listed
from fac.errors import BadRow, InputError
from fac.registry import Registry
from fac.schema import Chat


class Column(NamedTuple):
    """A column that a layout reads."""

    part: str
    """What it is to the layout, whose function finds the column's name by it."""
    names: tuple[str, ...]
    """What it may be called, in lower case; of an optional column, the first that is there."""
    required: bool = True
    """A layout is recognised by these."""
    may_be_label: bool = False
    """Also read where --label-field names it."""


REJECTED = "rejected"
"""The part that is kept beside the sample, not in its chat."""

SYSTEM = Column("system", ("system", "system_prompt"), required=False, may_be_label=True)
"""A system turn before the chat."""

INPUT = Column("input", ("input", "context"), required=False, may_be_label=True)
"""What a question is about, below it."""

REPLY = Column("reply", ("completion", "response", "output", "answer"))


@dataclass(frozen=True)
class Layout:
    """How the columns of a row become a chat."""

    title: str
    """What people call it, for lists."""
    preference: int
    """Of the layouts whose columns are all there, those with the lowest are meant."""
    columns: tuple[Column, ...]
    """In the order of the layout's name, which ends with the last required one."""
    chat: Callable[[Columns, Mapping[str, str]], Chat]
    """A row and the names of its columns by part -> the chat. Raises UnusableRow."""

    def matches(
        self, names: Mapping[str, str], label: str | None, first: str | None = None
    ) -> list[dict[str, str]]:
        """Every way in which columns (lower-case name -> name) are this layout's: part -> column.

        `first` is the column that somebody named to be the first, whatever it is called.
        """
        options: list[list[str | None]] = []
        for column in self.columns:
            excluded = {first} if column.may_be_label else {first, label}
            present = [names[n] for n in column.names if n in names and names[n] not in excluded]
            options.append([*present] if column.required else [*present, None][:1])
        if first:
            options[0] = [first]
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
    columns: Mapping[str, str]
    """Part -> column; without optional ones that the source has not."""
    label: str | None = None
    """Column that becomes the label."""

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

    @property
    def note(self) -> str | None:
        """What a reader of the samples should know."""
        if REJECTED not in self.columns:
            return None
        return (
            f"The sample is the side in {self.chat_columns[0]!r}; "
            f"the side in {self.columns[REJECTED]!r} is kept in meta."
        )


def recognise(
    rows: Iterable[Columns], options: Mapping[str, str | None], source: str
) -> SourceLayout:
    """The layout of a source from its first rows; `options` may name its columns for `text`,
    `messages` and `label`.

    Names alone decide: a column that is null so far may not be later. Raises InputError naming
    the columns and the option to give when they fit no layout or several.
    """
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
        raise InputError(
            f"The columns of {source} {fits}: {listed(every)}; say which one holds the samples "
            f"with --text-field COLUMN (plain text) or --messages-field COLUMN (chats)."
        )
    usual: str | None = names.get("label", "label")  # which may come after the first rows
    if usual in candidates[0].chat_columns:
        usual = None
    return replace(candidates[0], label=options.get("label") or usual)


def _candidates(
    names: Mapping[str, str], options: Mapping[str, str | None]
) -> Sequence[SourceLayout]:
    """Layouts these columns (lower-case name -> name) could mean; only the most preferred."""
    named = [name for name in ("text", "messages") if options.get(name)]
    first = options[named[0]] if named else None
    matching = [
        SourceLayout(LAYOUTS[name], columns)
        for name in named or LAYOUTS
        for columns in LAYOUTS[name].matches(names, options.get("label"), first)
    ]
    best = min((match.layout.preference for match in matching), default=0)
    return [match for match in matching if match.layout.preference == best]


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


def sample_of(row: SourceRow, layout: SourceLayout) -> Sample | BadRow:
    """The sample in a row, or the reason why there is none."""
    if row.columns is None:
        return BadRow(row.line, row.problem)
    try:
        messages = layout.layout.chat(row.columns, layout.columns)
        _check(messages)
        label = _label(row.columns, layout.label)
        meta = _meta(row, layout)
    except UnusableRow as reason:
        return BadRow(row.line, str(reason))
    return Sample(row.line, sample_id(messages), messages, label, meta)


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
        raise UnusableRow(
            f"{code} {position} is no character: half a surrogate pair, or a byte that is not UTF-8"
        )
    raise UnusableRow(f"the control character {code} stands {position}")


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
    if others := {name: value for name, value in columns.items() if name not in used}:
        meta["columns"] = others
    if rejected := layout.columns.get(REJECTED):
        meta["rejected"] = columns.get(rejected)
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
