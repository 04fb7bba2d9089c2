"""Who did what, where people sign in: one SQLite file that only grows.

A row is written before what it tells of is done: what cannot be written down is not done either.
What was refused stands there too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from fac.store.sqlite import Database, storable

AUDIT_VERSION = 1

LONGEST_ABOUT = 300


class Deed(NamedTuple):
    """What one person did, or would have."""

    id: int
    at: str  # ISO time in UTC
    who: str  # as roles.toml has them; "" where nobody was signed in
    role: str  # the role they had then; "" for none
    action: str  # one of fac.access.ACTIONS
    about: str
    refused: bool


STATEMENTS = (
    """CREATE TABLE deed (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL,
        role TEXT NOT NULL, action TEXT NOT NULL, about TEXT NOT NULL, refused INTEGER NOT NULL)""",
    *(
        f"""CREATE TRIGGER deed_keeps_{verb.lower()} BEFORE {verb} ON deed
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"""
        for verb in ("UPDATE", "DELETE")
    ),
    # INSERT OR REPLACE would delete without waking the triggers above.
    """CREATE TRIGGER deed_is_not_replaced BEFORE INSERT ON deed
        WHEN EXISTS (SELECT 1 FROM deed WHERE id = new.id)
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    f"PRAGMA user_version = {AUDIT_VERSION}",
)

ADD = """
    INSERT INTO deed (at, who, role, action, about, refused)
    VALUES (:at, :who, :role, :action, :about, :refused)
"""

NEWEST = f"""
    SELECT {", ".join(Deed._fields)} FROM deed WHERE (:who IS NULL OR who = :who)
    ORDER BY id DESC LIMIT :limit OFFSET :offset
"""

COUNT = "SELECT count(*) FROM deed"


class Audit(Database):
    """The audit log of one workspace. Threads and processes may share the file."""

    version, statements = AUDIT_VERSION, STATEMENTS
    name, written = "The audit log", "the audit log in"
    repair = "move the file away and keep it; a new one is begun."
    check = "check that the folder exists and that you may write there; nothing was done."

    def add(self, who: str, role: str, action: str, about: str, *, refused: bool) -> None:
        """Writes one deed down. Raises InputError where it cannot be."""
        texts = {"who": who, "role": role, "action": action, "about": about[:LONGEST_ABOUT]}
        values = {name: storable(text) for name, text in texts.items()}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writing() as con:
            con.execute(ADD, {**values, "at": at, "refused": refused})

    def newest(self, limit: int, *, offset: int = 0, who: str | None = None) -> list[Deed]:
        """Deeds, newest first, of one person or of everybody; none where nobody signed in yet."""
        if not self.exists:
            return []
        with self._connected() as con:
            if not self._version(con):
                return []
            values = {"limit": limit, "offset": offset, "who": who}
            rows = con.execute(NEWEST, values).fetchall()
        return [Deed._make((*row[:-1], bool(row[-1]))) for row in rows]

    def count(self) -> int:
        """How many deeds there are."""
        if not self.exists:
            return 0
        with self._connected() as con:
            return con.execute(COUNT).fetchone()[0] if self._version(con) else 0
