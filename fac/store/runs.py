"""Runs: folders of parquet that exist completely or not at all.

    runs/<step>/<run id>/manifest.json + *.parquet     finished, never changed again
    runs/<step>/.tmp-<run id>/                         being computed; survives a crash, so the
                                                       step can continue where it stopped
    runs/<step>/.lock-<run id>                         held (flock) by the process computing it
    runs/<step>/.damaged-<run id>                      put aside: its bytes are not those it had

The manifest is written last and the folder is renamed after it, so a reader needs no lock: what has
a manifest under its final name is whole. A manifest carries a hash of every file and of itself;
whoever opens a table has them compared first, and a run that differs is refused. No SQL here.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import fac
from fac.config import Spec, Workspace
from fac.errors import (
    DamagedRun,
    InputError,
    RunNotFound,
    SchemaTooNew,
    disk_room,
    first_line,
)
from fac.manifest import AnyManifest, Facts
from fac.schema import SCHEMA_VERSION
from fac.store.memo import SETTLED, Memo, remembered

Manifests = list[AnyManifest]
Names = list[str]  # inside Runs, `list` is the method

MANIFEST = "manifest.json"
MANIFEST_KEYS = ("run", "step", "schema", "spec", "inputs", "facts", "files", "created")
"""What readers rely on; `seconds` and `versions` are for people, `seal` is the hash of the rest."""

KNOWN_KEYS = {*MANIFEST_KEYS, "seconds", "versions", "seal"}

STILL = 60.0
"""Seconds in which nothing of a damaged run has changed before it is put aside: one that is copied
into the workspace file by file looks damaged until all of it is there."""

ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 256 * 2**20

_RUN_ID = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)+")
_NAMED_IN_MANIFEST = ("numpy", "pyarrow", "duckdb", "torch", "transformers", "sae-lens")


def is_run_id(text: str) -> bool:
    """Ids name folders and files and also come from URLs: no separators, no dots, no quotes."""
    return _RUN_ID.fullmatch(text) is not None


@contextmanager
def lock_file(path: Path, busy: str) -> Iterator[None]:
    """Holds an exclusive flock on `path`; the kernel lets go if the process dies.

    Raises InputError "`busy` N: ..." when process N holds it.
    """
    while True:
        file = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            file.close()
            raise InputError(
                f"{busy} {holder}: wait for it or cancel it, then try again."
            ) from None
        # The last holder may have removed the file between our open and our lock.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


class Runs:
    """The finished runs of a workspace, and the one way to add to them."""

    def __init__(self, workspace: Workspace, memo: Memo | None = None):
        """With a `memo`, manifests are read once."""
        self.workspace, self.root, self.memo = workspace, workspace.runs, memo

    def rests_on(self, about: str) -> tuple[Path, ...]:
        """The folder of a step, or of a run: it is renamed into place when whole."""
        return (self.path(about) if self.find(about) else self.root / about,)

    def path(self, run_id: str) -> Path:
        """Where the run lies, or would lie. Raises RunNotFound for what cannot be an id."""
        if not is_run_id(run_id):
            raise RunNotFound(run_id, [])
        return self.root / run_id.rsplit("-", 1)[0] / run_id

    def find(self, run_id: str) -> bool:
        """Whether the run is finished."""
        return is_run_id(run_id) and (self.path(run_id) / MANIFEST).is_file()

    @remembered
    def manifest(self, run_id: str) -> AnyManifest:
        """What the run says of itself.

        Raises RunNotFound where there is none, SchemaTooNew where a newer version wrote it,
        DamagedRun where it is not as it was written or the run was put aside.
        """
        path = self.path(run_id) / MANIFEST
        try:
            with disk_room(f"the manifest of run {run_id}"):
                content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            if (aside := self._hidden("damaged", run_id)).exists():
                raise DamagedRun(
                    f"Run {run_id} was damaged and lies aside as {aside}: compute it again."
                ) from None
            raise RunNotFound(run_id, self._ids(path.parent.parent.name)) from None
        except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
            raise self._unreadable(run_id, str(error), certain=True) from error
        if not isinstance(content, dict):
            raise self._unreadable(run_id, "it is no JSON object", certain=True)
        # A newer version may keep other things, so its number is looked at before the rest.
        if not isinstance(content.get("schema"), int):
            certain = "seal" in content  # whatever seals a manifest says its schema
            raise self._unreadable(run_id, "it does not say its schema", certain=certain)
        if content["schema"] > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"Run {run_id} was written with schema {content['schema']}, this version reads up "
                f"to {SCHEMA_VERSION}: update FAC Explorer or choose another workspace."
            )
        if "seal" in content and content["seal"] != seal(content):
            raise self._unreadable(run_id, "it changed since it was written", certain=True)
        if lacking := [key for key in MANIFEST_KEYS if key not in content]:
            raise self._unreadable(run_id, f"it lacks {', '.join(lacking)}")
        if unknown := sorted(content.keys() - KNOWN_KEYS):  # the seal's own name, a bit of it off
            raise self._unreadable(run_id, f"it has {', '.join(unknown)!r:.80}")
        try:
            for about in content["files"].values():
                about["sha256"]
            return AnyManifest.read(content)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise self._unreadable(run_id, first_line(error)) from error

    @remembered
    def list(self, step: str) -> Manifests:
        """Manifests of the finished runs of a step, newest first."""
        manifests = [self.manifest(run_id) for run_id in self._ids(step)]
        return sorted(manifests, key=lambda m: (m.created, m.run), reverse=True)

    def resolve(self, step: str, name_or_id: str) -> str:
        """The id behind a run id or a name; of several runs with that name, the newest.

        Raises RunNotFound with the names there are, and InputError for a name that was measured
        with several SAEs: features of one are none of another.
        """
        manifests = self.namesakes(step, name_or_id)
        if len({getattr(each.facts, "encoder", "") for each in manifests}) > 1:
            runs = ", ".join(f"{each.run} (SAE {each.facts.sae_name})" for each in manifests)
            raise InputError(
                f"{name_or_id} was measured with more than one SAE: give one of its runs instead "
                f"of the name, {runs}."
            )
        return manifests[0].run

    def namesakes(self, step: str, name_or_id: str) -> Manifests:
        """Manifests of the runs behind a run id or a name, newest first. Raises RunNotFound with
        the names there are."""
        manifests = self.list(step)
        by_id = [each for each in manifests if each.run == name_or_id]
        if same := by_id or [each for each in manifests if each.facts.name == name_or_id]:
            return same
        raise RunNotFound(name_or_id, sorted({m.facts.name or m.run for m in manifests}))

    def table(self, run_id: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of a finished run, whole or some of its columns."""
        with self._open(run_id, name) as file:
            return file.read(columns=None if columns is None else [*columns])

    def batches(
        self,
        run_id: str,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        rows: int = ROW_GROUP_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """One table of a finished run, at most so many rows at a time."""
        with self._open(run_id, name) as file:
            yield from file.iter_batches(rows, columns=None if columns is None else [*columns])

    def rows(
        self, run_id: str, name: str, features: Sequence[int], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of some features of a table that is sorted by feature; other parts of the file
        are not read."""
        ids = np.unique(np.asarray(features, np.int32))
        with self._open(run_id, name) as file:
            column = file.schema_arrow.get_field_index("feature")
            groups = []
            for number in range(file.num_row_groups):
                range_ = file.metadata.row_group(number).column(column).statistics
                first, beyond = np.searchsorted(ids, [range_.min, range_.max + 1])
                if beyond > first:
                    groups.append(number)
            table = file.read_row_groups(groups, None if columns is None else [*columns])
        return table.filter(pc.is_in(table["feature"], pa.array(ids)))

    def verify(self, run_id: str) -> Names:
        """Files that are gone or no longer have the bytes the manifest promised; all are hashed."""
        folder = self.path(run_id)
        with disk_room(f"run {run_id}"):
            return [
                name
                for name, about in sorted(self.manifest(run_id).files.items())
                if not _has_promised_bytes(folder / name, about, anew=True)
            ]

    def file(self, run_id: str, name: str) -> Path:
        """The Parquet file of a table, with the bytes that the manifest promised: hashed when a
        process first asks for it, and again where its size or times changed since.

        Raises InputError where the run has no such table, and DamagedRun as `refusal`.
        """
        files, file = self.manifest(run_id).files, f"{name}.parquet"
        if file not in files:
            tables = ", ".join(file.removesuffix(".parquet") for file in sorted(files))
            raise InputError(f"Run {run_id} has no table {name!r}; it has: {tables or 'none'}.")
        path = self.path(run_id) / file
        with disk_room(f"the table {name} of run {run_id}"):
            if not _has_promised_bytes(path, files[file]):
                raise self.refusal(run_id, [file])
        return path

    def refusal(self, run_id: str, spoilt: Sequence[str]) -> DamagedRun:
        """What to raise of a run whose files these are not what they were. The run is put aside,
        so that nothing else uses it and it can be computed again, unless something of it changed
        in the last STILL seconds, a process computes it now, or the folder may not be renamed."""
        return self._damaged(
            run_id, f"Run {run_id} is damaged ({', '.join(spoilt)} changed since it was written)"
        )

    def damaged(self) -> Names:
        """Ids of the runs that lie aside as damaged and were not computed again since."""
        asides = sorted(path.name.split(".")[1] for path in self.root.glob("*/.damaged-*"))
        ids = dict.fromkeys(name.removeprefix("damaged-") for name in asides)
        return [run_id for run_id in ids if not self.find(run_id)]

    def scratch(self, run_id: str) -> Path:
        """The folder a run grows in. It outlives a crash; `publish` turns it into the run."""
        path = self._hidden("tmp", run_id)
        with disk_room(f"run {run_id}"):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def exclusive(self, run_id: str) -> Iterator[None]:
        """Holds the run for this process; the kernel lets go if the process dies.

        Raises InputError when another process computes it now, or when the disk fills up meanwhile.
        """
        path = self._hidden("lock", run_id)
        busy = f"Run {run_id} is already being computed by process"
        with disk_room(f"run {run_id}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock_file(path, busy):
                yield

    def publish(
        self, run_id: str, *, spec: Spec, inputs: Sequence[str], facts: Facts, seconds: float
    ) -> None:
        """Makes what lies in `scratch(run_id)` a finished run.

        Working files, whose names begin with an underscore, are dropped once the run is finished
        and not before: until then they are all that a killed step can go on from. A run that is
        finished already stays as it is: same id, same content. Raises InputError on a full disk.
        """
        scratch, final = self.scratch(run_id), self.path(run_id)
        if self.find(run_id):
            shutil.rmtree(scratch)
            return
        working = {path.name for path in scratch.iterdir() if path.name.startswith("_")}
        files = {
            path.name: _file_facts(path)
            for path in sorted(scratch.iterdir())
            if path.name not in working and path.name != MANIFEST
        }
        manifest = {
            "run": run_id,
            "step": spec.step,
            "schema": SCHEMA_VERSION,
            "spec": spec.as_json(),
            "inputs": [*inputs],
            "facts": facts.as_json(),
            "files": files,
            "versions": _versions(),
            "seconds": round(seconds, 3),
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        plain = json.loads(json.dumps(manifest, allow_nan=False, default=_plain_number))
        text = json.dumps({**plain, "seal": seal(plain)}, indent=1, ensure_ascii=False)
        with disk_room(f"run {run_id}"):
            partial = scratch / f"_{MANIFEST}"
            # a surrogate half in a file name or label is escaped, as JSON allows
            partial.write_bytes(text.encode("utf-8", "backslashreplace"))
            _sync(partial)
            partial.rename(scratch / MANIFEST)
            _sync(scratch)
            if final.exists():  # a leftover whose manifest somebody removed
                shutil.rmtree(final)
            scratch.rename(final)
            _sync(final.parent)
        for path in (final / name for name in working):
            if path.is_dir():
                shutil.rmtree(path)
            else:  # the manifest's own draft has its name by now
                path.unlink(missing_ok=True)

    def _hidden(self, kind: str, run_id: str) -> Path:
        final = self.path(run_id)
        return final.parent / f".{kind}-{run_id}"

    def _ids(self, step: str) -> Names:
        home = self.root / step
        if not home.is_dir():
            return []
        return sorted(path.name for path in home.iterdir() if self.find(path.name))

    @contextmanager
    def _open(self, run_id: str, name: str) -> Iterator[pq.ParquetFile]:
        path = self.file(run_id, name)
        try:
            with disk_room(f"the table {name} of run {run_id}"), pq.ParquetFile(path) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"The table {name} of run {run_id} could not be read ({first_line(error)}): "
                f"`fac doctor` says whether it is damaged."
            ) from error

    def _damaged(self, run_id: str, what: str, *, certain: bool = True) -> DamagedRun:
        folder = self.path(run_id)
        if certain and (aside := self._put_aside(folder)):
            return DamagedRun(f"{what}: it lies aside as {aside}, compute it again.")
        return DamagedRun(f"{what}: delete the folder {folder} and compute the run again.")

    def _unreadable(self, run_id: str, why: str, *, certain: bool = False) -> DamagedRun:
        """Put aside only where it is `certain` that no version has written this."""
        what = f"The manifest of run {run_id} cannot be read ({why})"
        return self._damaged(run_id, what, certain=certain)

    def _put_aside(self, folder: Path) -> Path | None:
        """Where a damaged run lies from now on; None where it stays, see `refusal`."""
        aside = self._hidden("damaged", folder.name)
        homes = chain([aside], (aside.with_name(f"{aside.name}.{n}") for n in count(2)))
        try:
            with lock_file(self._hidden("lock", folder.name), "Held by process"):
                # one that another process computed anew meanwhile is younger too
                newest = max(path.stat().st_ctime for path in (folder, *folder.iterdir()))
                if abs(time.time() - newest) < STILL:
                    return None
                return folder.rename(next(home for home in homes if not home.exists()))
        except (OSError, InputError):
            return None


class ParquetAppender:
    """Writes a table piece by piece; it appears under its name only when complete.

    The bytes do not depend on how the rows were cut into pieces: row groups are refilled to
    `row_group_rows` (fewer where a group would exceed `row_group_bytes`).
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        row_group_rows: int = ROW_GROUP_ROWS,
        row_group_bytes: int = ROW_GROUP_BYTES,
    ):
        self.path = path
        self.schema = schema
        self.rows = 0
        self._partial = path.with_name(f"_{path.name}.part")
        self._group = row_group_rows
        self._group_bytes = row_group_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        # A peak seldom repeats: split by bytes it takes half of what a dictionary of peaks does.
        split = [field.name for field in schema if pa.types.is_floating(field.type)]
        try:
            with disk_room(path.name):
                self._writer = pq.ParquetWriter(
                    self._partial,
                    schema,
                    compression="zstd",
                    use_dictionary=[c for c in _leaves(schema) if c not in split],
                    column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT") or None,
                )
        except InputError:
            self._partial.unlink(missing_ok=True)
            raise

    def append(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Adds rows whose columns can be cast to the schema's."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        if not len(rows):
            return
        rows = rows.select(self.schema.names).cast(self.schema)
        self._waiting.append(rows)
        self.rows += len(rows)
        self._waiting_rows += len(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= self._group_bytes:
            self._write(self._waiting_rows)
        elif self._waiting_rows >= self._group:
            self._write(self._waiting_rows - self._waiting_rows % self._group)

    def close(self) -> None:
        """Writes what is left and gives the file its name."""
        self._write(self._waiting_rows)
        with disk_room(self.path.name):
            self._writer.close()
            _sync(self._partial)
            self._partial.rename(self.path)

    def _write(self, n: int) -> None:
        if not n:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting = [rows.slice(n)] if n < len(rows) else []
        self._waiting_rows = len(rows) - n
        self._waiting_bytes = sum(table.nbytes for table in self._waiting)
        for start in range(0, n, self._group):
            group = _fresh_dictionaries(rows.slice(start, min(self._group, n - start)))
            with disk_room(self.path.name):
                self._writer.write_table(group, row_group_size=self._group)

    def __enter__(self) -> ParquetAppender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
            else:
                with suppress(OSError):  # what went wrong first is what is told
                    self._writer.close()
        finally:
            self._partial.unlink(missing_ok=True)


def _leaves(schema: pa.Schema) -> Names:
    """Paths of the columns as Parquet stores them, such as `tokens.list.element`."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    stored = pq.ParquetFile(sink).schema
    return [stored.column(i).path for i in range(len(stored))]


def write_table(
    path: Path, table: pa.Table, schema: pa.Schema, *, row_group_rows: int = ROW_GROUP_ROWS
) -> None:
    """Writes a whole table: cast to the schema, zstd, under its name only when complete."""
    with ParquetAppender(path, schema, row_group_rows=row_group_rows) as file:
        file.append(table)


def _fresh_dictionaries(table: pa.Table) -> pa.Table:
    """Dictionaries rebuilt from the values present, so slices of one table encode alike."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(i).cast(field.type.value_type).combine_chunks()
            table = table.set_column(i, field, column.dictionary_encode().cast(field.type))
    return table


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's canonical JSON, but for the seal itself."""
    rest = {key: value for key, value in content.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


_hashed: dict[Path, tuple[object, ...]] = {}
"""Of every file that had its promised bytes in this process: what it looked like, and the promise.
"""

_hashing: dict[Path, threading.Lock] = {}


def _has_promised_bytes(path: Path, promise: Mapping[str, Any], *, anew: bool = False) -> bool:
    """Whether a file has the size and SHA-256 of its manifest; hashed once while it looks the same,
    whatever asks, or `anew`."""
    with _hashing.setdefault(path, threading.Lock()):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        times = status.st_mtime_ns, status.st_ctime_ns
        look = (status.st_dev, status.st_ino, status.st_size, *times, promise["sha256"])
        if _hashed.get(path) == look and not anew:
            return True
        if status.st_size != promise.get("bytes", status.st_size):
            return False
        if _sha256(path) != promise["sha256"]:
            return False
        if max(times) < time.time_ns() - SETTLED:  # else it could change again in the same tick
            _hashed[path] = look
        return True


def _file_facts(path: Path) -> dict[str, Any]:
    about = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    if path.suffix == ".parquet":
        about["rows"] = pq.read_metadata(path).num_rows
    _sync(path)
    return about


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written to a manifest")


@cache
def _versions() -> dict[str, str]:
    versions = {"fac": fac.__version__, "python": platform.python_version()}
    for package in _NAMED_IN_MANIFEST:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an app-only machine has no torch
            continue
    return versions
