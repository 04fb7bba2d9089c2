"""Which format a source has: the record of a format, and how one is told from names and bytes.

Each format is a module of `fac.datasets.formats`; nothing lists them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from fac.datasets.sources import Origin, Source, file_origin, readable
from fac.errors import InputError
from fac.registry import Registry


class Export(NamedTuple):
    """How a format is written."""

    write: Callable[[pa.Table, Path], None]
    """The same rows give the same bytes."""
    data_file: str = ""
    """Where the rows lie in the folder that an export is; empty where it is a file."""


@dataclass(frozen=True)
class Format:
    """How rows lie in a file or elsewhere."""

    title: str
    """What people call it, for buttons and lists."""
    preference: int
    """The lower ones stand first in lists; the lowest of a kind where nothing tells them apart."""
    kind: str
    """What run ids and manifests call it: formats that only their text tells apart have one."""
    open: Callable[[Origin], Source]
    suffixes: tuple[str, ...] = ()
    """Of its files, the usual one first; none where it is no file."""
    scheme: str = ""
    """What a source that is no file begins with."""
    magic: bytes = b""
    """What files that are no text begin with."""
    start: str = ""
    """What its text begins with, whatever the file is called."""
    export: Export | None = None
    """None where it is only read."""
    spelled_out: str = ""
    """The title in sentences, where it differs."""


FORMATS: Registry[Format] = Registry("fac.datasets.formats", "FORMAT")


def formats_in_order() -> list[tuple[str, Format]]:
    """Every format with its name, in the order of lists."""
    return sorted(FORMATS.items(), key=lambda item: item[1].preference)


def file_titles() -> list[str]:
    """Titles of the formats whose files are read."""
    return [format.title for _, format in formats_in_order() if format.suffixes]


def open_source(address: str) -> tuple[Source, str]:
    """A source and its kind. Raises InputError for what is no source or of no known format,
    ServiceError when the hub does not answer."""
    formats = [format for _, format in formats_in_order()]
    for format in formats:
        if format.scheme and address.startswith(format.scheme):
            return format.open(Origin(address)), format.kind
    origin = file_origin(address)
    format = _format_of(origin, [format for format in formats if format.suffixes])
    with readable(origin.name):
        return format.open(origin), format.kind


def _format_of(origin: Origin, formats: Sequence[Format]) -> Format:
    head, name = origin.head, origin.name
    suffixes = [suffix.lower() for suffix in origin.path.suffixes if suffix.lower() != ".gz"]
    named = [format for format in formats if suffixes and suffixes[-1] in format.suffixes]
    for format in formats:
        if format.magic and (head.startswith(format.magic) or format in named):
            return format
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} is UTF-16 text: save it as UTF-8.")
    text = head.decode("utf-8", "replace")
    if sum(map(len, re.findall("[\x00-\x08\x0e-\x1f\x7f\ufffd]+", text))) > len(text) / 10:
        titles = in_a_row([format.spelled_out or format.title for format in formats])
        raise InputError(
            f"{name} holds binary data, not text: give UTF-8 {titles} (each may be gzip)."
        )
    text = text.lstrip("\ufeff \t\r\n")
    of_kind = [f for f in formats if not named or f.kind == named[0].kind]
    for format in of_kind:
        if format.start and text.startswith(format.start):
            return format
    if not named:
        usual = in_a_row([format.suffixes[0] for format in formats])
        raise InputError(f"{name} is of no known kind: give {usual} (each may end in .gz).")
    return of_kind[0]


def in_a_row(names: Sequence[str], last: str = "or") -> str:
    """Names as a sentence has them: a, b or c."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
