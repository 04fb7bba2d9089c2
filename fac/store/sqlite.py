"""A SQLite file that threads and processes share. The only SQLite code beside its two kinds, the
queue and the decisions."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from fac.errors import InputError, SchemaTooNew, disk_full, disk_room, disk_sentence, first_line

Connection = sqlite3.Connection

MAGIC = b"SQLite format 3\0"
"""How a database begins."""

PATIENCE = 30.0
"""Seconds a writer waits for another one."""


class Database:
    """Every call opens its own connection, in WAL mode: readers and one writer at once."""

    version: ClassVar[int]
    statements: ClassVar[Sequence[str]]  # what makes the tables of a new file
    synchronous: ClassVar[str] = "NORMAL"
    name: ClassVar[str]
    is_was: ClassVar[tuple[str, str]] = ("is", "was")
    written: ClassVar[str]  # what a full disk has no room for
    repair: ClassVar[str]  # what to do about a damaged file
    check: ClassVar[str] = "check that its folder exists and that you may write there."
    """What to do about one that cannot be opened."""

    def __init__(self, path: Path):
        self._path = path

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def faults(self) -> list[str]:
        """What is wrong inside the file, a few of it; nothing where there is no file. Raises
        InputError for one that cannot be read at all, SchemaTooNew."""
        if not self.exists:
            return []
        with self._connected() as con:
            self._version(con)
            lines = [line for (line,) in con.execute("PRAGMA integrity_check(5)") if line != "ok"]
            lost = con.execute("PRAGMA foreign_key_check").fetchmany(5)
        return [*lines, *(f"row {row} of {table} refers to nothing" for table, row, *_ in lost)]

    def backup(self, file: Path) -> None:
        """Copies the database as it is at one moment, also while others write to it.

        Raises InputError where there is nothing to copy, for a `file` that is something else than
        an earlier copy, and where it cannot be written; a `file` that was there is then unchanged.
        """
        if not self.exists:
            raise InputError(f"{self.name} {self._path}: there is no such file to copy.")
        partial = file.with_name(f".{file.name}.part")
        try:
            if file.exists():
                with file.open("rb") as stream:
                    begins = stream.read(len(MAGIC))
                if begins != MAGIC or file.samefile(self._path):
                    raise InputError(f"{str(file)!r} is no earlier copy: name a new file.")
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            with self._connected() as con, closing(sqlite3.connect(partial)) as copy:
                con.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # all of it in one file
            partial.replace(file)
        except OSError as error:
            raise InputError(disk_sentence(error, str(file))) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A connection inside a write transaction, committed unless an exception leaves it."""
        try:
            with disk_room(f"the folder {self._path.parent}"):
                self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(self._unusable(error)) from error
        with self._connected() as con:
            con.execute("BEGIN IMMEDIATE")
            try:
                if not self._version(con):
                    for statement in self.statements:
                        con.execute(statement)
                yield con
            except BaseException:
                if con.in_transaction:  # a full disk has rolled back by itself
                    con.execute("ROLLBACK")
                raise
            con.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with closing(
                sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            ) as con:
                _write_ahead(con)
                con.execute(f"PRAGMA synchronous = {self.synchronous}")
                yield con
        except sqlite3.ProgrammingError:  # the fault of who asks, never of a file
            raise
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except UnicodeDecodeError as error:  # of a message of SQLite's, which names what it read
            raise self.damaged(error, f" {self._path}") from error

    def _version(self, con: Connection) -> int:
        """Of the tables in the file; 0 while there are none. Raises SchemaTooNew."""
        (version,) = con.execute("PRAGMA user_version").fetchone()
        if version > self.version:
            raise SchemaTooNew(
                f"{self.name} {self._path} {self.is_was[1]} written with version {version}, this "
                f"program reads up to {self.version}: update FAC Explorer or choose another "
                f"workspace."
            )
        return version

    def _unusable(self, error: Exception) -> str:
        return f"{self.name} {self._path} cannot be opened or written ({error}): {self.check}"

    def _explained(self, error: sqlite3.Error) -> InputError:
        kind, was = _kind(error), self.is_was[1]
        if kind == sqlite3.SQLITE_FULL:
            return InputError(disk_full(f"{self.written} {self._path}"))
        if kind in (
            *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
            sqlite3.SQLITE_AUTH,
        ):
            return InputError(self._unusable(error))
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
            return InputError(
                f"{self.name} {self._path} {was} busy for {PATIENCE:.0f} seconds and nothing was "
                f"recorded: end the program that holds the file, then try again."
            )
        if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_NOMEM):
            return InputError(
                f"{self.name} {self._path} could not be read or written ({error}) and nothing was "
                f"recorded: see whether its disk has room and works, then try again."
            )
        if kind == sqlite3.SQLITE_CONSTRAINT:
            return InputError(
                f"{self.name} {self._path} {was} given a row that may not be there ({error}) and "
                f"nothing was recorded: if `fac doctor` finds no damage, this is a bug."
            )
        # The rest says that something else is in the file than this program writes there.
        return self.damaged(error, f" {self._path}")

    @classmethod
    def damaged(cls, error: object, path: str = "") -> InputError:
        """What to raise where something is in the file that this program has not written."""
        is_, why = cls.is_was[0], first_line(error)
        return InputError(f"{cls.name}{path} {is_} damaged ({why}): {cls.repair}")

    @classmethod
    def parsed(cls, text: object) -> Any:
        """What a column of JSON holds. Raises InputError for a damaged one."""
        try:
            return json.loads(text)  # type: ignore[arg-type]
        except (TypeError, ValueError, RecursionError) as error:
            raise cls.damaged(error) from error


def storable(text: str) -> str:
    """SQLite takes no halves of surrogate pairs, which a file name, or a text cut by a tokenizer,
    may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write_ahead(con: Connection) -> None:
    """Two first writers may meet here: that lock does not wait."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            con.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _kind(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _kind(error: sqlite3.Error) -> int:
    """The primary result code: the last byte tells the kind, the others where it happened."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
