"""The files of the cache: which there are, whether they are whole, reading from them, and what each
kind of file needs to be filled and asked: its table `meta`, names and values as SQL takes them."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import EVERY_ROLE, ROLES
from fac.store.memo import Memo, remembered
from fac.store.runs import Runs, is_run_id

T = TypeVar("T")
Version = tuple[int, int, int]

SQL_VERSION = 5
"""Of the tables in a file. One with another number is not ready, and building replaces it."""

Connection = duckdb.DuckDBPyConnection
Rows = list[dict[str, Any]]

QUIET = "SET enable_progress_bar = false"
"""DuckDB would draw one on standard output, in the middle of a command's JSON."""

ROLE_CODES = {**{role: code for code, role in enumerate(ROLES)}, EVERY_ROLE: len(ROLES)}
"""How roles are stored: the index into ROLES; one more for a sample's strongest role."""

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
        self._attached: dict[str, tuple[Version, str]] = {}  # with the summary in the file
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
        """The run's facts and, for a measure run, `n_alive`, `max_peak`, `floor`, `thresholds` and
        `clear_firing`, the median of its peaks, one per sample and feature, or the floor where
        nothing fires; for an explain or a relevance run `measure`, the run whose features it is
        about.

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
        return self._tables.get((run, self._attached[run][0], question), (), compute)

    def _summary(self, run: str) -> dict[str, Any]:
        """Of a run that is being read."""
        return json.loads(self._attached[run][1])

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
            # A wrong checksum has no class of its own; other errors are the question's fault.
            if not (isinstance(error, duckdb.IOException) or "Corrupt database file" in str(error)):
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
            if attached and attached[0] == version:
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
                    self._attached[run] = (version, self._checked(run, path))
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


def _version(path: Path) -> Version | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0]


# ---- questions in SQL


def sql_name(run: str) -> str:
    """The run as an SQL name; `Files` refuses ids that would need escaping."""
    return f'"{run}"'


def quoted(text: str) -> str:
    """A string where SQL takes no bound value."""
    return "'" + text.replace("'", "''") + "'"


def one_row(con: Connection, sql: str, **values: object) -> tuple[Any, ...]:
    """The only row of an answer. Raises ValueError for another number of rows."""
    (row,) = con.execute(sql, values).fetchall() if values else con.execute(sql).fetchall()
    return row


def dicts(con: Connection, sql: str, **values: object) -> Rows:
    answer = con.execute(sql, values)
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def float32(threshold: float) -> float:
    """The threshold as float32, like the peaks it is compared with."""
    if not threshold >= 0:
        raise InputError(f"A threshold is a number from 0 up, got {threshold!r}.")
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite: above every peak
        return float(np.float32(threshold))


def role_code(role: str) -> int:
    if role not in ROLE_CODES:
        raise InputError(f"A role is one of {', '.join(ROLE_CODES)}, got {role!r}.")
    return ROLE_CODES[role]


def page_bounds(offset: int, limit: int) -> dict[str, int]:
    if offset < 0 or limit < 0:
        raise InputError(f"A page starts at 0 or later, got offset {offset}, limit {limit}.")
    return {"offset": int(offset), "limit": int(limit)}


def read_search(search: str) -> tuple[str | None, int | None]:
    """The text that a search looks for, and the feature's number, each None where it does not ask
    for it: both in "12", the number alone in "#12"."""
    text = search.strip()
    digits = text.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    only_number = text.startswith("#") and number is not None
    return None if only_number else text or None, number


# ---- rows of features from tables in feature order


def aligned(table: pa.Table, features: np.ndarray) -> pa.Table:
    """The row of each of these features in their order, from a table with one row a feature; null
    where there is none."""
    in_table = table["feature"].to_numpy()
    row = np.searchsorted(in_table, features)
    lacking = row >= len(in_table)
    row[lacking] = 0
    if len(in_table):
        lacking |= in_table[row] != features
    return table.take(pa.array(row, pa.int64(), mask=lacking))


def rows_about(table: pa.Table, features: Sequence[int] | None) -> pa.Table:
    """Every row about these features, or about all, in the order of the table."""
    if features is None:
        return table
    in_table, ids = table["feature"].to_numpy(), np.unique(np.array(features, np.int64))
    first, beyond = (np.searchsorted(in_table, ids, side).tolist() for side in ("left", "right"))
    rows = [row for bounds in zip(first, beyond, strict=True) for row in range(*bounds)]
    return table.take(pa.array(rows, pa.int64()))


# ---- filling a new file

CREATE_META = "CREATE TABLE meta (version INTEGER, run VARCHAR, step VARCHAR, summary VARCHAR)"

INSERT_META = "INSERT INTO meta VALUES ($version, $run, $step, $summary)"

COUNT_DOUBLES = "SELECT count(*) - count(DISTINCT ({key})) FROM {table}"


def write_meta(con: Connection, manifest: AnyManifest, derived: dict[str, Any]) -> None:
    """Says whose tables these are; the summary is the run's facts and what was derived here."""
    summary = {**manifest.content["facts"], "run": manifest.run, **derived}
    con.execute(CREATE_META)
    con.execute(
        INSERT_META,
        {
            "version": SQL_VERSION,
            "run": manifest.run,
            "step": manifest.step,
            "summary": json.dumps(summary, ensure_ascii=True),
        },
    )


def refuse_doubles(con: Connection, run: str, table: str, key: str) -> None:
    """Raises InputError for two rows about the same: they would be shown, and counted, twice."""
    (n_double,) = one_row(con, COUNT_DOUBLES.format(table=table, key=key))
    if n_double:
        raise InputError(
            f"The table {table} of run {run} has {n_double:,} rows about what another row already "
            f"tells: delete the run's folder and compute it again."
        )


def parquet(runs: Runs, run: str, table: str) -> str:
    """Where DuckDB finds a table, whose bytes are those that its run promised."""
    return str(runs.file(run, table))
