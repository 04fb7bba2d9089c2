"""What was named as a source: its format, digest and rows, and what cannot be read; what several
formats share: lines, Arrow batches.

Each format is a module of `fac.datasets.formats`; nothing lists them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
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

MAX_UNPACKED, MAX_RATIO = 2**30, 100
"""Bytes that a gzip file may unpack to, and how many times its own: the larger of the two counts.
Text takes a tenth of its size, seldom a fiftieth; what takes less is mostly meant to do harm."""

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
            with unzipped(raw, self.path.stat().st_size, self.name) as stream:
                yield stream, raw


@contextmanager
def unzipped(raw: IO[bytes], size: int, name: str) -> Iterator[IO[bytes]]:
    """What is inside a gzip file of `size` bytes. Reading on beyond MAX_UNPACKED and MAX_RATIO
    raises InputError."""
    with gzip.GzipFile(fileobj=raw) as plain:
        yield io.BufferedReader(_Limited(plain, max(MAX_UNPACKED, MAX_RATIO * size), name))


class _Limited(io.RawIOBase):
    def __init__(self, plain: gzip.GzipFile, limit: int, name: str):
        self._plain, self._limit, self._room, self._name = plain, limit, limit, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._plain.readinto(buffer)
        self._room -= n
        if self._room < 0:
            raise InputError(
                f"{self._name} unpacks to more than {self._limit:,} bytes, far more than a file "
                f"of its size holds: if that is meant, unzip it and give the file inside."
            )
        return n


def file_origin(address: str) -> Origin:
    """Raises InputError for what is no readable file or has no bytes."""
    origin = Origin(address)
    name, path = origin.name, origin.path
    with readable(name):
        if path.is_dir():
            raise InputError(f"{name} is a directory without a file that can be read: give a file.")
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

    def share(self, n_rows: int) -> float:
        """About what part of all rows the first `n_rows` are, which were just read."""
        return min(self.done / self.total, 1.0) if self.total else 1.0


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
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} has a column's name, or a text, that is not UTF-8: write it again as UTF-8."
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


class BatchSource(Source):
    """Rows in Arrow batches, each with every column that holds no bytes: images and sound are no
    text and would fill the memory."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]: ...

    def share(self, n_rows: int) -> float:
        return n_rows / self.total if self.total else 1.0

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
    look: Callable[[Origin], Source] | None = None
    """Opens no more than the beginning, where all of it may be much and far away."""
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


class _Several(Source):
    """Files of one kind, one after another; a row's line is that of its file."""

    def __init__(self, name: str, sources: Sequence[Source]):
        self.sources, self.name = sources, name
        self.columns = sources[0].columns
        self.total = sum(source.total for source in sources)

    def rows(self) -> Iterator[SourceRow]:
        before = 0
        for source in self.sources:
            with readable(source.name):
                for row in source.rows():
                    self.done = before + source.done
                    yield row._replace(file=source.name)
            before += source.total
        self.done = self.total

    def digest(self, report: Progress) -> str:
        """The hash of the files' hashes; what they are called is no part of it."""
        sha = hashlib.sha256()
        for number, source in enumerate(self.sources, start=1):
            with readable(source.name):
                sha.update(source.digest(lambda *_: None).encode())
            report(number, len(self.sources), "checking the files")
        return sha.hexdigest()

    def peeked_enough(self) -> bool:
        return self.done > PEEK_BYTES or bool(self.columns)

    def share(self, n_rows: int) -> float:
        return n_rows / self.total if self.columns else super().share(n_rows)


def open_source(address: str | Sequence[str], *, look: bool = False) -> tuple[Source, str]:
    """A source and its kind, for a `look` at its beginning perhaps not all of it; several files, a
    folder of them or all that fit a pattern are read one after another, by name. Raises InputError
    for what is no source or of no known format, or where files are of several kinds, ServiceError
    when the hub does not answer."""
    named = [address] if isinstance(address, str) else [*address]
    files = [file for each in named for file in _files_of(each)]
    opened = [_open_one(file, look) for file in files]
    if len(opened) == 1 and [*named] == files:
        return opened[0]
    sources, kinds = zip(*opened, strict=True)
    if len(set(kinds)) > 1:
        several = in_a_row(sorted(set(kinds)), "and")
        raise InputError(
            f"{named[0]} holds files of several kinds, {several}: give those of one, such as "
            f"'{Path(files[0]).parent}/*{Path(files[0]).suffix}'."
            if len(named) == 1
            else f"The files are of several kinds, {several}: give those of one."
        )
    about = Origin(named[0]).name
    about += f" and {len(named) - 1} more" if len(named) > 1 else f" ({len(files):,} files)"
    return _Several(about, sources), kinds[0]


def _files_of(address: str) -> list[str]:
    """The files behind a pattern or a folder of files, by name; else what was named itself."""
    if any(format.scheme and address.startswith(format.scheme) for _, format in FORMATS.items()):
        return [address]
    with suppress(OSError, ValueError):  # told when it is opened
        path = Path(address)
        if path.is_dir():
            return _files_in(path) or [address]
        if not path.exists() and re.search(r"[*?\[]", address):
            files = sorted(file for file in glob(address, recursive=True) if Path(file).is_file())
            if not files:
                raise InputError(f"No file fits the pattern {address!r}: check the path.")
            return files
    return [address]


def _files_in(folder: Path) -> list[str]:
    """The files of known kinds in a folder that is not itself of one."""
    formats = [format for _, format in FORMATS.items()]
    if any(format.holds_folder and format.holds_folder(folder) for format in formats):
        return []
    suffixes = {suffix for format in formats for suffix in format.suffixes}
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return [
        str(file)
        for file in files
        if not file.name.startswith((".", "_"))
        and [s for s in file.suffixes if s.lower() != ".gz"][-1:]
        and [s for s in file.suffixes if s.lower() != ".gz"][-1].lower() in suffixes
    ]


def _open_one(address: str, look: bool) -> tuple[Source, str]:
    formats = [format for _, format in formats_in_order()]
    for format in formats:
        if format.scheme and address.startswith(format.scheme):
            open = format.look if look and format.look else format.open
            return open(Origin(address)), format.kind
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
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or _alternates(head):
        raise InputError(f"{name} is UTF-16 text: save it as UTF-8.")
    text = head.decode("utf-8", "replace")
    strange = re.findall("[\x00-\x08\x0e-\x1f\x7f\ufffd]+", text)
    # Other encodings have signs that are no UTF-8, but no zeros.
    if sum(map(len, strange)) > len(text) / 10 and re.search("[\x00-\x08]", text):
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


def _alternates(head: bytes) -> bool:
    """Whether every other byte is a zero, as Latin letters are in UTF-16."""
    even, odd = (head[start::2].count(0) / max(len(head[start::2]), 1) for start in (0, 1))
    return max(even, odd) > 0.4 and min(even, odd) < 0.05


def in_a_row(names: Sequence[str], last: str = "or") -> str:
    """Names as a sentence has them: a, b or c."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def read_samples(
    source: str | Path | Sequence[str],
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    prompt_field: str | None = None,
    reply_field: str | None = None,
    label_field: str | None = None,
    look: bool = False,
) -> SampleReader:
    """Opens paths, a pattern or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one
    likes; for a `look` at the beginning of a dataset of the hub without fetching it. Without
    options the columns say which layout it is. Raises InputError for what cannot be opened,
    ServiceError when the hub does not answer."""
    options = {"text": text_field, "messages": messages_field}
    options |= {"prompt": prompt_field, "reply": reply_field, "label": label_field}
    ways = [name for name in ("text", "messages", "prompt", "reply") if options[name]]
    if len(ways) > 1 and ways != ["prompt", "reply"]:
        first, second = (f"--{name}-field {options[name]}" for name in ways[:2])
        raise InputError(
            f"{first} and {second} exclude each other: give the one that holds the samples."
        )
    address = str(source) if isinstance(source, Path) else source
    return SampleReader(*open_source(address, look=look), options)


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
        self.n_peeked = 0  # rows that were read before the first was given out
        self.columns: Sequence[str] = ()  # of those rows

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with readable(self.name):
            return "sha256:" + self.source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with readable(self.name):
            rows = self.source.rows()
            for row in rows:
                if row.columns is None:
                    yield layout.bad_row(row, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self.source.peeked_enough():
                        break
                self.n_peeked = len(peeked)
                source_layout = self._decide(r.columns for r in peeked if r.columns is not None)
                for row in chain(peeked, rows):
                    yield layout.sample_of(row, source_layout)
            if self.layout is None and self.source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self.source.columns)])

    def _decide(self, rows: Iterable[Columns]) -> SourceLayout:
        rows = [*rows]
        self.columns = list(dict.fromkeys(column for row in rows for column in row))
        self.layout = layout.recognise(rows, self._options, self.name)
        return self.layout
