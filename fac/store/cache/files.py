"""The files of the cache: which there are, whether they are whole, and reading from them."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from fac.errors import InputError
from fac.store.cache.tables import (
    QUIET,
    SQL_VERSION,
    Connection,
    one_row,
    quoted,
    sql_name,
)
from fac.store.memo import Memo, remembered
from fac.store.runs import is_run_id

T = TypeVar("T")

META = "SELECT version, run, step, summary FROM {run}.meta"

FILE_HEADERS = 3 * 4096
"""Bytes before the first block of a DuckDB file."""

BYTES_NEEDED = """
    SELECT block_size * total_blocks FROM pragma_database_size() WHERE database_name = $alias
"""


class NotReady(InputError):
    """A run whose cache is missing, damaged or of another version; building it helps."""

    def __init__(self, run: str, why: str):
        super().__init__(f"Run {run} cannot be shown, {why}: build it with `fac cache rebuild`.")


class _File(NamedTuple):
    """An attached file."""

    version: tuple[int, int, int]
    summary: str


class Files:
    """The caches of a folder; one per process is enough, and threads may share it.

    One in-memory DuckDB to which each file is attached, read-only, when first asked for. Every call
    takes its own cursor and fetches its result to the end: a connection shared by threads mixes
    their results up, and results are otherwise read lazily. After opening, DuckDB may touch no file
    outside the folder and no setting can change; `allowed_directories` is what keeps later ATTACHes
    possible once external access is off.

    `memo` holds tables and counts that are needed again and again, and whole answers where this is
    to `remember` them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        memory_limit: str = "1GB",
        memo: Memo | None = None,
        remember: bool = False,
    ):
        self.folder = folder.resolve()
        self._tables = memo or Memo()
        self.memo = self._tables if remember else None
        self._lock = threading.Condition()
        self._attached: dict[str, _File] = {}
        self._readers: Counter[str] = Counter()
        self._con = duckdb.connect(":memory:", config={"memory_limit": memory_limit})
        self._con.execute(QUIET)
        self._con.execute("SET autoinstall_known_extensions = false")
        self._con.execute("SET autoload_known_extensions = false")
        self._con.execute(f"SET allowed_directories = [{quoted(f'{self.folder}/')}]")
        self._con.execute("SET enable_external_access = false")
        self._con.execute("SET lock_configuration = true")

    def close(self) -> None:
        self._con.close()

    def rests_on(self, *_: object) -> tuple[Path, ...]:
        """Its folder: files are renamed into it and removed, never written again."""
        return (self.folder,)

    @remembered
    def ready(self, run: str) -> bool:
        """Whether the run's cache exists, is whole and has this version's tables."""
        try:
            with self._reading(run):
                return True
        except NotReady:
            return False

    @remembered
    def summary(self, run: str) -> dict[str, Any]:
        """The run's facts and, for a measure run, `n_alive`, `max_peak`, `floor`, `thresholds`;
        for an explain or a relevance run `measure`, the run whose features it is about.

        `content_tokens` counts all measured roles together. Raises NotReady.
        """
        with self._reading(run):
            return self._summary(run)

    # ---- reading; {run} in a query stands for the run's file

    def _table(self, run: str, sql: str) -> pa.Table:
        """The answer to a query that is small enough to stay in memory; within `_reading`."""

        def read() -> pa.Table:
            with closing(self._con.cursor()) as cursor:
                return cursor.sql(sql.format(run=sql_name(run))).to_arrow_table().combine_chunks()

        return self._once(run, sql, read)

    def _once(self, run: str, question: object, compute: Callable[[], T]) -> T:
        """What `compute` answers about an attached run, remembered even where answers are not: its
        file, by whose version it is known, never changes."""
        return self._tables.get((run, self._attached[run].version, question), (), compute)

    def _summary(self, run: str) -> dict[str, Any]:
        """Of a run that is being read."""
        return json.loads(self._attached[run].summary)

    @contextmanager
    def _reading(self, *names: str | None) -> Iterator[Connection]:
        """A cursor that sees these runs, which stay attached until it is done."""
        runs = [run for run in dict.fromkeys(names) if run is not None]
        with self._lock:
            for run in runs:
                self._attach(run)
            self._readers.update(runs)
        cursor = self._con.cursor()
        try:
            yield cursor
        except duckdb.Error as error:
            if not _tells_of_damage(error):
                raise
            raise NotReady(" or ".join(runs), f"its cache is damaged ({_brief(error)})") from error
        finally:
            cursor.close()
            with self._lock:
                self._readers.subtract(runs)
                self._lock.notify_all()

    def _attach(self, run: str) -> None:
        """Makes the file as it is now readable under the run's name; `_lock` is held."""
        if run not in self._attached and not is_run_id(run):
            raise NotReady(run, "no run can have that name")
        path = self.folder / f"{run}.duckdb"
        while True:
            version, attached = _version(path), self._attached.get(run)
            if attached and attached.version == version:
                return
            if attached:  # the file was built anew or removed
                if self._readers[run]:
                    self._lock.wait()
                    continue
                del self._attached[run]
                self._con.execute(f"DETACH {sql_name(run)}")
            if version is None:
                raise NotReady(run, "its cache is not built yet")
            try:
                self._con.execute(f"ATTACH {quoted(str(path))} AS {sql_name(run)} (READ_ONLY)")
                try:
                    self._attached[run] = _File(version, self._checked(run, path))
                except BaseException:
                    self._con.execute(f"DETACH {sql_name(run)}")
                    raise
            except (duckdb.Error, ValueError) as error:
                raise NotReady(run, f"its cache is damaged ({_brief(error)})") from error

    def _checked(self, run: str, path: Path) -> str:
        """The summary in the attached file. Raises NotReady, or an error of SQL, unless the file is
        whole and has this version's tables."""
        with closing(self._con.cursor()) as cursor:
            version, name, _, summary = one_row(cursor, META.format(run=sql_name(run)))
            (n_bytes,) = one_row(cursor, BYTES_NEEDED, alias=run)
        if version != SQL_VERSION:
            raise NotReady(run, f"its cache has version {version}, this program {SQL_VERSION}")
        if name != run:
            raise NotReady(run, f"its cache belongs to {name}")
        if path.stat().st_size < n_bytes + FILE_HEADERS:
            raise NotReady(run, "its cache is cut short")
        return summary


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _tells_of_damage(error: duckdb.Error) -> bool:
    """Whether the file is at fault, not the question. A wrong checksum has no class of its own."""
    return isinstance(error, duckdb.IOException) or "Corrupt database file" in str(error)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0]
