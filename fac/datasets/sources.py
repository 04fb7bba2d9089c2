"""What was named as a source, opened: its digest, its rows, and what cannot be read."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import pyarrow as pa

from fac.datasets.rows import SourceRow
from fac.errors import InputError

PEEK_BYTES = 2**20
"""How far into a text file the columns are collected before the layout is decided."""

_BOM = b"\xef\xbb\xbf"


class Progress(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


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

    columns: Sequence[str] = ()
    """Known before the first row; empty where every row names its own."""

    done = total = 0
    """Bytes or rows read so far, and all of them."""

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
        reason = str(error).splitlines()[0].rstrip(".")[:200]
        raise InputError(
            f"{name} is not a whole Parquet file ({reason}): write or fetch it again."
        ) from error
