"""What every query of a cache needs: names and values as SQL takes them, rows as dicts."""

from __future__ import annotations

from typing import Any, NamedTuple

import duckdb
import numpy as np

from fac.errors import InputError
from fac.schema import EVERY_ROLE, ROLES

Connection = duckdb.DuckDBPyConnection
Rows = list[dict[str, Any]]

QUIET = "SET enable_progress_bar = false"
"""DuckDB would draw one on standard output, in the middle of a command's JSON."""

ROLE_CODES = {**{role: code for code, role in enumerate(ROLES)}, EVERY_ROLE: len(ROLES)}
"""How roles are stored: the index into ROLES; one more for a sample's strongest role."""


class Search(NamedTuple):
    """What a search looks for, each None where it does not ask for it."""

    text: str | None
    feature: int | None


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


def read_search(search: str) -> Search:
    """A part of a text, which may be a feature's number ("12"), or that number alone ("#12")."""
    text = search.strip()
    digits = text.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    only_number = text.startswith("#") and number is not None
    return Search(None if only_number else text or None, number)
