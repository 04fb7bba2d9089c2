"""What was named as a source: its bytes, its digest, its rows, and what cannot be opened or breaks
off."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import pyarrow as pa

from fac.datasets.rows import SourceRow
from fac.errors import InputError

PEEK_BYTES = 2**20
"""How far into a text file the columns are collected before the layout is decided."""

_HEAD_BYTES = 2**16
_BOM = b"\xef\xbb\xbf"


class Progress(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Source(Protocol):
    """What rows are read from."""

    name: str
    """What it is called in sentences and manifests: a file name or a hub id."""
    columns: Sequence[str]
    """Known before the first row; empty where every row names its own."""
    done: int
    total: int

    def digest(self, report: Progress) -> str: ...
    def rows(self) -> Iterator[SourceRow]: ...
    def peeked_enough(self) -> bool: ...


class Origin(NamedTuple):
    """What a person named, and how it begins where it is a file."""

    address: str
    head: bytes = b""
    """The first 64 kB, unzipped."""
    zipped: bool = False

    @property
    def path(self) -> Path:
        return Path(self.address)

    @property
    def name(self) -> str:
        """A file's name, printable also where it is no UTF-8."""
        return (self.path.name or self.address).encode("utf-8", "backslashreplace").decode()

    @property
    def text_head(self) -> bytes:
        """The first bytes of a text, without a byte order mark."""
        return self.head.removeprefix(_BOM)

    @contextmanager
    def opened(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """The unzipped bytes, and the file, whose position tells how far reading has come."""
        with self.path.open("rb") as raw:
            if not self.zipped:
                yield raw, raw
                return
            with gzip.GzipFile(fileobj=raw) as plain, io.BufferedReader(plain) as stream:
                yield stream, raw

    def digest(self, total: int, report: Progress) -> str:
        """The hash of the file as it lies there."""
        sha = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(2**20):
                sha.update(chunk)
                if file.tell() % 2**26 == 0:
                    report(0, total, "checking the file")
        return sha.hexdigest()


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
            head = stream.read(_HEAD_BYTES)
        if not head:
            raise InputError(f"{name} is empty: give a file with at least one sample.")
    return origin._replace(head=head)


class TextSource:
    """A text file whose rows some reader knows to find: its bytes, behind the byte order mark, and
    its origin -> rows."""

    columns: Sequence[str] = ()

    def __init__(
        self, origin: Origin, read_rows: Callable[[IO[bytes], Origin], Iterator[SourceRow]]
    ):
        self.name = origin.name
        self.done = 0
        self.total = origin.path.stat().st_size
        self._origin = origin
        self._read_rows = read_rows

    def digest(self, report: Progress) -> str:
        return self._origin.digest(self.total, report)

    def peeked_enough(self) -> bool:
        return self.done > PEEK_BYTES

    def rows(self) -> Iterator[SourceRow]:
        with self._origin.opened() as (stream, raw):
            stream.read(len(self._origin.head) - len(self._origin.text_head))
            for row in self._read_rows(stream, self._origin):
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
    except pa.ArrowException as error:
        raise InputError(_damaged_parquet(name, error)) from error
    except OSError as error:
        if error.errno is None:  # Arrow speaks of damaged pages as input and output errors
            raise InputError(_damaged_parquet(name, error)) from error
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error


def _damaged_parquet(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".")[:200]
    return f"{name} is not a whole Parquet file ({reason}): write or fetch it again."
