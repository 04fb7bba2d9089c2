"""What was named as a source: its format, digest and rows, and what cannot be read; what several
formats share: lines, tables with a delimiter, Arrow batches.

Each format is a module of `fac.datasets.formats`; nothing lists them.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fac.datasets import layout
from fac.datasets.layout import MAX_CHARACTERS, Columns, Sample, SourceLayout, SourceRow, in_words
from fac.errors import BadRow, InputError, Progress, first_line
from fac.registry import Registry

PEEK_ROWS = 1000  # how many rows the columns are collected from before the layout is decided

PEEK_BYTES = 2**20
"""How far into a text file the columns are collected before the layout is decided."""

_BOM = b"\xef\xbb\xbf"

BATCH_ROWS = 512

MAX_ROW_BYTES = 8 * MAX_CHARACTERS
"""Longest row of a text file: six bytes for an escaped character, the rest for other columns."""

TOO_LONG = (
    f"the row is longer than {MAX_ROW_BYTES:,} bytes; "
    f"a sample has at most {MAX_CHARACTERS:,} characters"
)

# Line ends to some readers, which would cut a JSON line in two; YAML takes no bare U+007F.
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x7f\x85\u2028\u2029"})


class Origin(NamedTuple):
    """What a person named, and how it begins where it is a file."""

    address: str
    head: bytes = b""  # the first 64 kB, unzipped
    zipped: bool = False

    @property
    def path(self) -> Path:
        return Path(self.address)

    @property
    def name(self) -> str:
        """A file's name, printable also where it is no UTF-8."""
        return (self.path.name or self.address).encode("utf-8", "backslashreplace").decode()

    @contextmanager
    def opened(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """The unzipped bytes, and the file, whose position tells how far reading has come."""
        with self.path.open("rb") as raw:
            if not self.zipped:
                yield raw, raw
                return
            with gzip.GzipFile(fileobj=raw) as plain, io.BufferedReader(plain) as stream:
                yield stream, raw


def file_origin(address: str) -> Origin:
    """Raises InputError for what is no readable file or has no bytes."""
    origin = Origin(address)
    name, path = origin.name, origin.path
    with readable(name):
        if path.is_dir():
            raise InputError(f"{name} is a directory: give the file itself.")
        if not path.is_file():
            hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.is_dir()
            hint = f", or write hf:{path} for the dataset of the hub" if hub else ""
            raise InputError(f"There is no file {str(path)!r}: check the path{hint}.")
        with path.open("rb") as file:
            origin = origin._replace(zipped=file.read(2) == b"\x1f\x8b")
        with origin.opened() as (stream, _):
            head = stream.read(2**16)
        if not head:
            raise InputError(f"{name} is empty: give a file with at least one sample.")
    return origin._replace(head=head)


class Source(ABC):
    """What rows are read from, as often as one likes."""

    columns: Sequence[str] = ()  # known before the first row; empty where every row names its own
    done = total = 0  # bytes or rows read so far, and all of them

    def __init__(self, origin: Origin):
        """Raises InputError for what cannot be read."""
        self.origin = origin
        self.name = origin.name
        """What it is called in sentences and manifests: a file name or a hub id."""

    @abstractmethod
    def rows(self) -> Iterator[SourceRow]: ...

    def digest(self, report: Progress) -> str:
        """The hash of the file as it lies there."""
        sha = hashlib.sha256()
        with self.origin.path.open("rb") as file:
            while chunk := file.read(2**20):
                sha.update(chunk)
                if file.tell() % 2**26 == 0:
                    report(0, self.total, "checking the file")
        return sha.hexdigest()

    def peeked_enough(self) -> bool:
        """Whether the rows read so far say which columns there are."""
        return True


class TextSource(Source):
    """A text file; each format finds its rows in its own way."""

    def __init__(self, origin: Origin):
        super().__init__(origin)
        self.total = origin.path.stat().st_size
        self.head = origin.head.removeprefix(_BOM)

    @abstractmethod
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        """Rows of the text, without its byte order mark."""

    def peeked_enough(self) -> bool:
        return self.done > PEEK_BYTES

    def rows(self) -> Iterator[SourceRow]:
        with self.origin.opened() as (stream, raw):
            stream.read(len(self.origin.head) - len(self.head))
            for row in self.read(stream):
                self.done = raw.tell()
                yield row
            self.done = self.total


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns what goes wrong below a file's surface into one sentence."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is a damaged or truncated gzip file ({error}): fetch it again."
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{name} cannot be read: {error.strerror}.") from error
        # Arrow speaks of damaged pages as input and output errors
        reason = first_line(error).rstrip(".")[:200]
        raise InputError(
            f"{name} is not a whole Parquet file ({reason}): write or fetch it again."
        ) from error


def json_line(value: object) -> str:
    """JSON without any sign that some reader ends a line at; YAML reads it as well."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


class Line(NamedTuple):
    """A line of a file, from 1."""

    number: int
    data: bytes  # with its line end; only the beginning where the line is too long
    too_long: bool
    quotes: int  # double quotes in the whole line, counted only where it is too long


def numbered_lines(stream: IO[bytes]) -> Iterator[Line]:
    """Numbered lines; of a line beyond the limit no more than the limit is ever held."""
    number = 0
    while data := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(data) <= MAX_ROW_BYTES or data.endswith(b"\n"):
            yield Line(number, data, False, 0)
            continue
        quotes, rest = data.count(b'"'), data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
            quotes += rest.count(b'"')
        yield Line(number, data[:1024], True, quotes)


WRAPPERS = frozenset({"data", "rows", "train", "examples", "instances", "records", "items"})
"""Names under which an object holds the rows of a whole file."""


def is_chat(value: Any) -> bool:
    """Whether it is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and {"role", "from"} & {*each} for each in value)
    )


def object_row(line: int, value: Any) -> SourceRow:
    """A JSON value as a row: an object, or a chat as the list of its messages alone."""
    if is_chat(value):
        return SourceRow(line, {"messages": value})
    if not isinstance(value, dict):
        return SourceRow(line, None, f"it is {in_words(value)}, not an object with named fields")
    return SourceRow(line, value)


class _LongLine(Exception):
    """Thrown through csv.reader, which then begins a new row."""


class _RecordLines:
    """Lines for csv.reader that knows where the row being read began and how long it is."""

    def __init__(self, stream: IO[bytes], name: str):
        self._lines = numbered_lines(stream)
        self._name = name
        self.begin()

    def begin(self) -> None:
        self.first = self.last = self.size = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        alone = not self.first
        self.first, self.last = self.first or line.number, line.number
        self.size += len(line.data)
        if line.too_long and alone and line.quotes % 2 == 0:
            raise _LongLine
        if line.too_long or self.size > MAX_ROW_BYTES:
            raise self.open_quote()
        return line.data.decode("utf-8", "surrogateescape")

    def open_quote(self) -> InputError:
        """Not a matter of one row: who can say how many rows the quote has swallowed?"""
        return InputError(
            f"{self._name}: the row that begins on line {self.first} has a quote that does not "
            f"close within {MAX_ROW_BYTES:,} bytes or before the end. Close it, or write a quote "
            f"inside a text as two."
        )


class DelimitedSource(TextSource):
    """A table with a header line. Quotes as in RFC 4180: doubled inside quoted fields."""

    def __init__(self, origin: Origin, *, delimiters: str):
        """Of several delimiters the one that the header has most of; the first wins a tie."""
        super().__init__(origin)
        header = self.head.split(b"\n", 1)[0]
        self.delimiter = max(delimiters, key=lambda mark: header.count(mark.encode()))

    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        # one limit for the process; our own limits are the tighter ones
        csv.field_size_limit(MAX_ROW_BYTES)
        lines = _RecordLines(stream, self.name)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        header: list[str] = []
        while True:
            lines.begin()
            problem, fields = "", []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except _LongLine:
                problem = TOO_LONG
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise lines.open_quote() from error
                span = f" up to line {lines.last}" if lines.last > lines.first else ""
                problem = f"it is not proper CSV ({error}){span}"
            if problem and not header:
                where = f"{self.name} has no readable header on line {lines.first}"
                raise InputError(f"{where}: {problem}.")
            if fields and not header:
                header = self._header(fields)
                continue
            if fields and len(fields) != len(header):
                problem = f"it has {len(fields)} fields, the header has {len(header)}"
            if problem:
                yield SourceRow(lines.first, None, problem)
            elif fields:  # the line is not empty
                yield SourceRow(lines.first, dict(zip(header, fields, strict=True)))

    def _header(self, fields: list[str]) -> list[str]:
        names = [field or f"column {i}" for i, field in enumerate(fields, start=1)]
        for name, count in Counter(names).items():
            if count > 1:
                raise InputError(
                    f"{self.name} has several columns called {layout.shortened(name)}: rename one."
                )
        return names


class BatchSource(Source):
    """Rows in Arrow batches, each with every column that holds no bytes: images and sound are no
    text and would fill the memory."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]: ...

    def rows(self) -> Iterator[SourceRow]:
        self.done = 0
        for batch in self.batches():
            yield from _batch_rows(batch, self.done + 1)
            self.done += len(batch)


def _batch_rows(batch: pa.RecordBatch, first: int) -> Iterator[SourceRow]:
    try:
        for i, row in enumerate(batch.to_pylist(), start=first):
            yield SourceRow(i, row)
    except (ValueError, OverflowError) as error:  # no UTF-8, a date beyond the calendar
        if len(batch) == 1:
            yield SourceRow(first, None, f"it cannot be read ({error})")
            return
        for i in range(len(batch)):
            yield from _batch_rows(batch.slice(i, 1), first + i)


def readable_columns(schema: pa.Schema) -> list[str]:
    """Columns without bytes in them."""

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if not holds_bytes(field.type)]


def write_parquet(table: pa.Table, path: Path) -> None:
    """The same rows give the same bytes."""
    pq.write_table(table, path, compression="zstd")


class Export(NamedTuple):
    """How a format is written."""

    write: Callable[[pa.Table, Path], None]  # the same rows give the same bytes
    data_file: str = ""
    """Where the rows lie in the folder that an export is; empty where it is a file."""


@dataclass(frozen=True)
class Format:
    """How rows lie in a file or elsewhere."""

    title: str  # what people call it, for buttons and lists
    preference: int
    """The lower ones stand first in lists; the lowest of a kind where nothing tells them apart."""
    kind: str
    """What run ids and manifests call it: formats that only their text tells apart have one."""
    open: Callable[[Origin], Source]
    suffixes: tuple[str, ...] = ()  # of its files, the usual one first; none where it is no file
    scheme: str = ""  # what a source that is no file begins with
    magic: bytes = b""  # what files that are no text begin with
    holds: Callable[[str], bool] | None = None
    """Whether a text, of which this is the beginning, is of the format, whatever it is called."""
    holds_folder: Callable[[Path], bool] | None = None  # whether a folder is a source of it
    export: Export | None = None  # None where it is only read
    spelled_out: str = ""  # the title in sentences, where it differs


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
    folder = Path(address)
    with readable(Origin(address).name):
        is_folder = folder.is_dir()
    if is_folder:
        for format in formats:
            if format.holds_folder and format.holds_folder(folder):
                origin = Origin(address)
                with readable(origin.name):
                    return format.open(origin), format.kind
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
        if text and format.holds and format.holds(text):
            return format
    if not named:
        usual = in_a_row([format.suffixes[0] for format in formats])
        raise InputError(f"{name} is of no known kind: give {usual} (each may end in .gz).")
    return of_kind[0]


def in_a_row(names: Sequence[str], last: str = "or") -> str:
    """Names as a sentence has them: a, b or c."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def read_samples(
    source: str | Path,
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    label_field: str | None = None,
) -> SampleReader:
    """Opens a path or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one likes.
    Without options the columns say which layout it is. Raises InputError for what cannot be opened,
    ServiceError when the hub does not answer."""
    if text_field and messages_field:
        raise InputError(
            f"--text-field {text_field} and --messages-field {messages_field} exclude each other: "
            f"give the one that holds the samples."
        )
    options = {"text": text_field, "messages": messages_field, "label": label_field}
    return SampleReader(*open_source(str(source)), options)


class SampleReader:
    """A source and its layout. Iterating gives, row by row, a Sample or the BadRow it is instead.
    Iterating raises InputError where the rest of the source cannot be read: damaged gzip or
    Parquet, a broken JSON array, an open quote in CSV, columns that name no layout."""

    def __init__(self, source: Source, kind: str, options: Mapping[str, str | None]):
        self.source = source
        self._options = options
        self.name = source.name
        """What the source is called in sentences and manifests: a file name or a hub id."""
        self.kind = kind  # what run ids and manifests call its format
        self.layout: SourceLayout | None = None  # known once the first readable row was met

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with readable(self.name):
            return "sha256:" + self.source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with readable(self.name):
            rows = self.source.rows()
            for row in rows:
                if row.columns is None:
                    yield BadRow(row.line, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self.source.peeked_enough():
                        break
                source_layout = self._decide(r.columns for r in peeked if r.columns is not None)
                for row in chain(peeked, rows):
                    yield layout.sample_of(row, source_layout)
            if self.layout is None and self.source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self.source.columns)])

    def _decide(self, rows: Iterable[Columns]) -> SourceLayout:
        self.layout = layout.recognise(rows, self._options, self.name)
        return self.layout
