"""What the SQLite files, jobs and decisions, have in common."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(con: sqlite3.Connection) -> Iterator[None]:
    """A write transaction, committed unless an exception leaves it."""
    con.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if con.in_transaction:  # a full disk has rolled back by itself
            con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")


def error_kind(error: sqlite3.DatabaseError) -> int:
    """The primary result code: the last byte tells the kind, the others where it happened."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def storable(text: str) -> str:
    """SQLite takes no halves of surrogate pairs, which a file name, or a text cut by a tokenizer,
    may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
