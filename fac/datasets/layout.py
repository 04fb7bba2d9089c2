"""Which layout the columns of a source speak: the record of a layout, and how one is recognised.

Each layout is a module of `fac.datasets.layouts`; nothing lists them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

from fac.datasets.rows import Columns, listed
from fac.errors import InputError
from fac.registry import Registry
from fac.schema import Chat


class Column(NamedTuple):
    """A column that a layout reads."""

    part: str
    """What it is to the layout: the key by which its function finds the column's name. The column
    `rejected` is no part of the chat but kept beside it."""
    names: tuple[str, ...]
    """What it may be called, in lower case; of an optional column, the first that is there."""
    required: bool = True
    """A layout is recognised by these."""
    may_be_label: bool = False
    """Also read where --label-field names it."""


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

    def chat(self, row: Columns) -> Chat:
        """Raises UnusableRow."""
        return self.layout.chat(row, self.columns)

    @cached_property
    def name(self) -> str:
        """Its columns' names, such as `prompt/completion`."""
        parts = [column.part for column in self.layout.columns]
        last = max(i for i, column in enumerate(self.layout.columns) if column.required)
        names = [self.columns[part] for part in parts[: last + 1] if part in self.columns]
        return names[0] if len(names) == 1 else "/".join(names).lower()

    @cached_property
    def rejected(self) -> str | None:
        """Column with the side that is kept beside the sample."""
        return self.columns.get("rejected")

    @cached_property
    def chat_columns(self) -> list[str]:
        """Columns that become the chat; all others are kept in `meta`."""
        return [name for part, name in self.columns.items() if part != "rejected"]

    @cached_property
    def used(self) -> frozenset[str | None]:
        """Columns that are not kept in `meta` as they are."""
        return frozenset((*self.columns.values(), self.label))

    @property
    def note(self) -> str | None:
        """What a reader of the samples should know."""
        if not self.rejected:
            return None
        return (
            f"The sample is the side in {self.chat_columns[0]!r}; "
            f"the side in {self.rejected!r} is kept in meta."
        )


class ColumnOptions(NamedTuple):
    """Columns that a person named; None where the names are to speak for themselves."""

    text_field: str | None
    messages_field: str | None
    label_field: str | None


def recognise(rows: Iterable[Columns], options: ColumnOptions, source: str) -> SourceLayout:
    """The layout of a source from its first rows.

    Names alone decide: a column that is null so far may not be later. Raises InputError naming
    the columns and the option to give when they fit no layout or several.
    """
    every = list(dict.fromkeys(column for row in rows for column in row))
    for option, column in options._asdict().items():
        if column is not None and column not in every:
            raise InputError(
                f"{source} has no column {column!r} for --{option.replace('_', '-')}; "
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
    (candidate,) = candidates
    usual: str | None = names.get("label", "label")  # which may come after the first rows
    if usual in candidate.chat_columns:
        usual = None
    return replace(candidate, label=options.label_field or usual)


def _candidates(names: Mapping[str, str], options: ColumnOptions) -> Sequence[SourceLayout]:
    """Layouts these columns (lower-case name -> name) could mean; only the most preferred."""
    first = options.text_field or options.messages_field
    layouts = [layout for _, layout in LAYOUTS.items()]
    if first:
        layouts = [LAYOUTS["text" if options.text_field else "messages"]]
    matching = [
        SourceLayout(layout, columns)
        for layout in layouts
        for columns in layout.matches(names, options.label_field, first)
    ]
    best = min((match.layout.preference for match in matching), default=0)
    return [match for match in matching if match.layout.preference == best]
