"""What every cache file needs: the table `meta`, names and values as SQL takes them, rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import EVERY_ROLE, ROLES
from fac.store.runs import Runs

SQL_VERSION = 2
"""Of the tables in a file. One with another number is not ready, and building replaces it."""

Connection = duckdb.DuckDBPyConnection
Rows = list[dict[str, Any]]

QUIET = "SET enable_progress_bar = false"
"""DuckDB would draw one on standard output, in the middle of a command's JSON."""

ROLE_CODES = {**{role: code for code, role in enumerate(ROLES)}, EVERY_ROLE: len(ROLES)}
"""How roles are stored: the index into ROLES; one more for a sample's strongest role."""


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
    runs.manifest(run)  # says so in a sentence where the run is gone
    return str(runs.path(run) / f"{table}.parquet")
