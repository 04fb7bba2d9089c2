"""Sources: a path or a hub id -> something that gives its digest and its rows.

Owns: telling what kind a file is, gzip, Parquet, the Hugging Face hub, and the sentences for what
cannot be opened or breaks off.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from fac.datasets.formats import array_rows, batch_rows, csv_rows, json_rows
from fac.datasets.layouts import Row, listed
from fac.errors import InputError, ServiceError, disk_full, disk_room

PEEK_BYTES = 2**20
"""How far into a text file the columns are collected before the layout is decided."""

_KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_KINDS |= {".tab": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_HEAD_BYTES = 2**16
_BATCH_ROWS = 512
_BOM = b"\xef\xbb\xbf"


class Progress(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Source(Protocol):
    name: str
    kind: str
    columns: Sequence[str]
    """Known before the first row; empty where every row names its own."""
    done: int
    total: int

    def digest(self, report: Progress) -> str: ...
    def rows(self) -> Iterator[Row]: ...
    def peeked_enough(self) -> bool: ...


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
    told = str(error).splitlines()[0].rstrip(".")[:200]
    return f"{name} is not a whole Parquet file ({told}): write or fetch it again."


def open_file(path: Path) -> Source:
    """Raises InputError for what is no readable file or no kind of file this module knows."""
    name = _shown(path)
    with readable(name):
        if path.is_dir():
            raise InputError(f"{name} is a directory: give the file itself.")
        if not path.is_file():
            hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.is_dir()
            hint = f", or write hf:{path} for the dataset of the hub" if hub else ""
            raise InputError(f"There is no file {str(path)!r}: check the path{hint}.")
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with _bytes_of(path, zipped) as (stream, _):
            head = stream.read(_HEAD_BYTES)
        if not head:
            raise InputError(f"{name} is empty: give a file with at least one sample.")
        kind = _kind_of(path, head)
        if kind == "parquet":
            return _ParquetFile(path, zipped)
        return _TextFile(path, zipped, kind, head)


def _shown(path: Path) -> str:
    """A file's name, printable also where it is no UTF-8."""
    return (path.name or str(path)).encode("utf-8", "backslashreplace").decode()


def _kind_of(path: Path, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = _KINDS.get(suffixes[-1], "") if suffixes else ""
    if kind == "parquet":
        return kind
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{_shown(path)} is UTF-16 text: save it as UTF-8.")
    text = head.decode("utf-8", "replace")
    if sum(map(len, re.findall("[\x00-\x08\x0e-\x1f\x7f\ufffd]+", text))) > len(text) / 10:
        raise InputError(
            f"{_shown(path)} holds binary data, not text: give UTF-8 JSON Lines, JSON, CSV, TSV or "
            f"Parquet (each may be gzip)."
        )
    if not kind and text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return "json"
    if not kind:
        raise InputError(
            f"{_shown(path)} is of no known kind: give .jsonl, .json, .csv, .tsv or .parquet "
            f"(each may end in .gz)."
        )
    return kind


@contextmanager
def _bytes_of(path: Path, zipped: bool) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's text, and the file itself, whose position tells how far reading has come."""
    with path.open("rb") as raw:
        if not zipped:
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as plain, io.BufferedReader(plain) as stream:
            yield stream, raw


def _digest_of(path: Path, total: int, report: Progress) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha.update(chunk)
            if file.tell() % 2**26 == 0:
                report(0, total, "checking the file")
    return sha.hexdigest()


class _TextFile:
    """JSON Lines, a JSON array, CSV or TSV."""

    columns: Sequence[str] = ()

    def __init__(self, path: Path, zipped: bool, kind: str, head: bytes):
        self.name = _shown(path)
        self.kind = kind
        self.done = 0
        self.total = path.stat().st_size
        self._path = path
        self._zipped = zipped
        self._bom = head.startswith(_BOM)
        self._head = head.removeprefix(_BOM)

    def digest(self, report: Progress) -> str:
        return _digest_of(self._path, self.total, report)

    def peeked_enough(self) -> bool:
        return self.done > PEEK_BYTES

    def rows(self) -> Iterator[Row]:
        with _bytes_of(self._path, self._zipped) as (stream, raw):
            if self._bom:
                stream.read(len(_BOM))
            for row in self._read(stream):
                self.done = raw.tell()
                yield row
            self.done = self.total

    def _read(self, stream: IO[bytes]) -> Iterator[Row]:
        if self.kind == "json":
            if self._head.lstrip().startswith(b"["):
                return array_rows(stream, self.name)
            return json_rows(stream)
        if self.kind == "tsv":
            return csv_rows(stream, "\t", self.name)
        header = self._head.split(b"\n", 1)[0]
        # spreadsheets of some countries write semicolons; the comma wins a tie
        delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
        return csv_rows(stream, delimiter, self.name)


class _ParquetFile:
    kind = "parquet"

    def __init__(self, path: Path, zipped: bool):
        self.name = _shown(path)
        self._path = path
        self._zipped = zipped
        with self._open() as file:
            self.columns: Sequence[str] = _readable_columns(file.schema_arrow)
            self.total = file.metadata.num_rows
        self.done = 0

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        if not self._zipped:
            with pq.ParquetFile(self._path) as file:
                yield file
            return
        with tempfile.TemporaryFile() as plain:  # Parquet is read from its end
            with _bytes_of(self._path, True) as (stream, _), disk_room("the unpacked file"):
                shutil.copyfileobj(stream, plain, 2**20)
            with pq.ParquetFile(plain) as file:
                yield file

    def digest(self, report: Progress) -> str:
        return _digest_of(self._path, self.total, report)

    def peeked_enough(self) -> bool:
        return True  # every row has every column

    def rows(self) -> Iterator[Row]:
        self.done = 0
        with self._open() as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[*self.columns]):
                yield from batch_rows(batch, self.done)
                self.done += len(batch)


class Hub:
    """A dataset of the Hugging Face hub, or a folder in the hub's layout."""

    kind = "hf"

    def __init__(self, source: str):
        name, *parts = re.split(r":(?![^\[]*\])", source.removeprefix("hf:"))  # not in train[:9]
        name, _, revision = name.partition("@")
        if not name or len(parts) > 2 or not all(parts):
            raise InputError(
                f"{source!r} names no dataset: write hf:ID, hf:ID:SPLIT or hf:ID:CONFIG:SPLIT."
            )
        split = parts[-1] if parts else None
        config = parts[0] if len(parts) == 2 else None
        self._data, split = _load_from_hub(name, config, split, revision or None)
        shown = Path(name).name if Path(name).is_dir() else name
        self.name = ":".join(["hf", shown + (f"@{revision}" if revision else "")])
        self.name += "".join(f":{part}" for part in (config, split) if part)
        self.columns: Sequence[str] = _readable_columns(self._data.features.arrow_schema)
        self.done = 0
        self.total = len(self._data)

    def digest(self, report: Progress) -> str:
        sha = hashlib.sha256(repr(sorted(self._data.features.items())).encode())
        for batch in self._batches():
            sha.update(batch.serialize())
            report(0, self.total, "checking the rows")
        return sha.hexdigest()

    def peeked_enough(self) -> bool:
        return True  # every row has every column

    def rows(self) -> Iterator[Row]:
        self.done = 0
        named = {
            column: feature.names
            for column, feature in self._data.features.items()
            if hasattr(feature, "names")  # ClassLabel stores numbers
        }
        for batch in self._batches():
            for row in batch_rows(batch, self.done):
                for column, names in named.items():
                    code = row.columns.get(column) if row.columns else None
                    if row.columns and isinstance(code, int) and 0 <= code < len(names):
                        row.columns[column] = names[code]
                yield row
            self.done += len(batch)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        readable = self._data.select_columns([*self.columns]).with_format("arrow")
        for table in readable.iter(batch_size=_BATCH_ROWS):
            yield from table.to_batches()


def _load_from_hub(
    name: str, config: str | None, split: str | None, revision: str | None
) -> tuple[Any, str]:
    """The dataset and the name of its split: the only one, else `train`."""
    import datasets  # takes a second, and only the worker ever asks for it

    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ValueError,  # a config or split it has not
        RuntimeError,  # it would run code of its own
    ) as error:
        raise InputError(
            f"The hub dataset {name!r} cannot be used: {_first_line(error)}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(disk_full(f"the copy of {name}")) from error
        raise ServiceError(
            f"The hub did not serve {name!r} ({_first_line(error).rstrip('.')}): check the "
            f"network and start it again."
        ) from error
    if split is not None:
        return found, split
    splits = [*found]
    if len(splits) > 1 and "train" not in splits:
        raise InputError(
            f"The hub dataset {name!r} has the splits {listed(splits)}: "
            f"name one, as in hf:{name}:{splits[0]}."
        )
    split = "train" if "train" in splits else splits[0]
    return found[split], split


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _readable_columns(schema: pa.Schema) -> list[str]:
    """Columns without bytes in them: images and sound are no text and would fill the memory."""
    return [field.name for field in schema if not _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
