"""Decisions: what people said, about exactly what they saw.

One SQLite file in WAL mode, append-only: a new verdict is a new row, taking one back is a row as
well, and triggers refuse to change or delete. What was shown is stored once under its hash, and
a decision names that hash, so a regenerated explanation is undecided again. Every call opens its
own connection and is one transaction: people on several browsers, and a command that imports,
share the file without losing a row. It cannot be computed again: export it and keep the export.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fac.config import digest
from fac.errors import InputError, SchemaTooNew, disk_full, disk_room
from fac.schema import CANNOT_TELL, LEVELS

DECISIONS_VERSION = 1

PATIENCE = 30.0
"""Seconds a writer waits for another one."""

KINDS = ("explanation", "relevance", "detection", "pair")
"""Does the explanation fit; is the feature relevant; which texts fire; may the pair be used."""

VERDICTS: dict[str, tuple[str, ...]] = {
    "explanation": (*LEVELS, CANNOT_TELL),
    "relevance": (*LEVELS, CANNOT_TELL),
    "pair": ("approve", "reject", CANNOT_TELL),
}
"""What may be said of each kind; a detection has one sign (+ - ?) per text instead."""

SUBJECTS = {
    "explanation": "explanation/RUN/FEATURE",
    "relevance": "relevance/RUN/FEATURE/TASK",
    "detection": "detection/RUN/FEATURE",
    "pair": "TEXT",
}
"""What a subject looks like: the measure run, the feature and, where there is one, the task. A
pair's is anything. Checked here, so that nobody need doubt what an import brought."""

_PARTS = {"RUN": r"[^/]+", "FEATURE": r"\d{1,9}", "TASK": r".+", "TEXT": r".+"}

LONGEST_NAME = 80

STATEMENTS = (
    """CREATE TABLE content (seen TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE decision (
        id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, at TEXT NOT NULL,
        reviewer TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
        seen TEXT NOT NULL REFERENCES content (seen), verdict TEXT NOT NULL,
        reasons TEXT NOT NULL, note TEXT NOT NULL, edited_text TEXT, seconds REAL,
        adjudicates INTEGER NOT NULL)""",
    """CREATE TABLE withdrawal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, at TEXT NOT NULL,
        reviewer TEXT NOT NULL, withdraws TEXT NOT NULL UNIQUE REFERENCES decision (uid))""",
    "CREATE INDEX decision_by_subject ON decision (subject, kind)",
    "CREATE INDEX decision_by_reviewer ON decision (reviewer, at)",
    *(
        f"""CREATE TRIGGER {table}_keeps_{verb.lower()} BEFORE {verb} ON {table}
            BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END"""
        for table in ("content", "decision", "withdrawal")
        for verb in ("UPDATE", "DELETE")
    ),
    # INSERT OR REPLACE would delete without waking the triggers above.
    *(
        f"""CREATE TRIGGER {table}_is_not_replaced BEFORE INSERT ON {table}
            WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = new.{key})
            BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END"""
        for table, key in (("content", "seen"), ("decision", "uid"), ("withdrawal", "uid"))
    ),
    f"PRAGMA user_version = {DECISIONS_VERSION}",
)

COLUMNS = (
    "d.uid, d.at, d.reviewer, d.kind, d.subject, d.seen, d.verdict, d.reasons, d.note, "
    "d.edited_text, d.seconds, d.adjudicates, coalesce(w.at, '')"
)

WITH_WITHDRAWAL = "decision d LEFT JOIN withdrawal w ON w.withdraws = d.uid"

# By time and not by order of arrival: two workspaces that exchanged their rows agree on the latest.
CURRENT = f"""
    SELECT * FROM (
        SELECT {COLUMNS}, row_number() OVER (
            PARTITION BY d.kind, d.subject, d.seen, d.reviewer, d.adjudicates
            ORDER BY d.at DESC, d.uid DESC) AS age
        FROM {WITH_WITHDRAWAL}
        WHERE w.uid IS NULL AND (:kind IS NULL OR d.kind = :kind)
          AND (:subject IS NULL OR d.subject = :subject)
          AND (:reviewer IS NULL OR d.reviewer = :reviewer))
    WHERE age = 1 ORDER BY at, uid
"""

HISTORY = f"""
    SELECT {COLUMNS} FROM {WITH_WITHDRAWAL}
    WHERE (:reviewer IS NULL OR d.reviewer = :reviewer)
      AND (:subject IS NULL OR d.subject = :subject)
    ORDER BY d.at DESC, d.uid DESC LIMIT :limit
"""

ALL = f"SELECT {COLUMNS} FROM {WITH_WITHDRAWAL} ORDER BY d.at, d.uid"

ONE = f"SELECT {COLUMNS} FROM {WITH_WITHDRAWAL} WHERE d.uid = :uid"

EXPORT = f"SELECT {COLUMNS}, c.body FROM {WITH_WITHDRAWAL} JOIN content c ON c.seen = d.seen"

WITHDRAWALS = "SELECT uid, at, reviewer, withdraws FROM withdrawal ORDER BY at, uid"

WITHDRAWAL = "SELECT uid, at, reviewer, withdraws FROM withdrawal WHERE uid = :uid"

BODY = "SELECT body FROM content WHERE seen = :seen"

BODIES = "SELECT seen, body FROM content ORDER BY seen"

LAST_AT = """
    SELECT max(at) FROM (SELECT at FROM decision WHERE reviewer = :reviewer
                         UNION ALL SELECT at FROM withdrawal WHERE reviewer = :reviewer)
"""

ADD_CONTENT = "INSERT INTO content (seen, body) VALUES (:seen, :body)"

ADD = """
    INSERT INTO decision (uid, at, reviewer, kind, subject, seen, verdict, reasons, note,
                          edited_text, seconds, adjudicates)
    VALUES (:uid, :at, :reviewer, :kind, :subject, :seen, :verdict, :reasons, :note,
            :edited_text, :seconds, :adjudicates)
"""

WITHDRAW = """
    INSERT INTO withdrawal (uid, at, reviewer, withdraws)
    VALUES (:uid, :at, :reviewer, :withdraws)
"""

TABLE = pa.schema(
    [
        ("uid", pa.string()),
        ("at", pa.string()),
        ("reviewer", pa.string()),
        ("kind", pa.string()),
        ("subject", pa.string()),
        ("seen", pa.string()),
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("note", pa.string()),
        ("edited_text", pa.string()),
        ("seconds", pa.float64()),
        ("adjudicates", pa.bool_()),
        ("withdrawn", pa.string()),
    ]
)


class Decision(NamedTuple):
    """What one person said about one exact piece of content."""

    uid: str
    """Its name everywhere: 32 hex digits, kept by export and import."""
    at: str
    """ISO time in UTC with microseconds; later for every later decision of one reviewer."""
    reviewer: str
    kind: str
    """One of KINDS."""
    subject: str
    """What it is about, whatever its present wording; see SUBJECTS."""
    seen: str
    """Hash of what was shown: fac.config.digest of the content."""
    verdict: str
    """See VERDICTS."""
    reasons: tuple[str, ...]
    """Flags that were ticked."""
    note: str
    edited_text: str | None
    """The correction, where one was written."""
    seconds: float | None
    """From showing to deciding; None where nobody measured."""
    adjudicates: bool
    """Settles a disagreement after looking at the others' verdicts; never a rating of its own."""
    withdrawn: str = ""
    """When its reviewer took it back; "" while it stands."""


class Withdrawal(NamedTuple):
    """A decision was taken back."""

    uid: str
    at: str
    reviewer: str
    withdraws: str
    """uid of the decision."""


class Decisions:
    """The decisions of one workspace. Threads and processes may share the file."""

    def __init__(self, path: Path):
        self._path = path

    # ---- saying something

    def add(
        self,
        reviewer: str,
        kind: str,
        subject: str,
        content: Mapping[str, Any],
        verdict: str,
        *,
        reasons: Sequence[str] = (),
        note: str = "",
        edited_text: str | None = None,
        seconds: float | None = None,
        adjudicates: bool = False,
    ) -> Decision:
        """Records a verdict on `content`, the JSON object of all that was shown.

        Raises InputError for a verdict that the kind does not know, or a file that cannot be
        written; then nothing was recorded.
        """
        body = _body(content)
        seen = digest(dict(content))
        if digest(json.loads(body)) != seen:
            raise InputError("What was shown must be a JSON object with texts as keys.")
        decision = _checked(
            Decision(
                uid=uuid.uuid4().hex,
                at=_iso(datetime.now(UTC)),
                reviewer=reviewer,
                kind=kind,
                subject=subject,
                seen=seen,
                verdict=verdict,
                reasons=tuple(reasons),
                note=note,
                edited_text=edited_text,
                seconds=seconds,
                adjudicates=adjudicates,
            )
        )
        with self._writing() as con:
            decision = decision._replace(at=_next_at(con, decision.reviewer))
            _keep(con, decision, body)
        return decision

    def withdraw(self, uid: str, reviewer: str) -> None:
        """Takes one's own decision back. The one before it, if any, stands again.

        Raises InputError for another's decision, or one that is gone already.
        """
        reviewer = reviewer_name(reviewer)
        with self._writing() as con:
            found = con.execute(ONE, {"uid": uid}).fetchall()
            if not found:
                raise InputError(f"There is no decision {uid!r}: the review page lists the last.")
            decision = _decision(found[0])
            if decision.reviewer != reviewer:
                raise InputError(
                    f"This decision is {decision.reviewer}'s, not {reviewer}'s: people take back "
                    f"their own; say something else yourself instead."
                )
            if decision.withdrawn:
                raise InputError(f"Decision {uid} was taken back already, {decision.withdrawn}.")
            _take_back(
                con, Withdrawal(uuid.uuid4().hex, _next_at(con, reviewer), reviewer, decision.uid)
            )

    # ---- looking

    def current(
        self,
        kind: str | None = None,
        *,
        subject: str | None = None,
        reviewer: str | None = None,
    ) -> list[Decision]:
        """What stands, oldest first: the latest per kind, subject, shown content, reviewer, and
        whether it adjudicates (a blind rating outlives its own adjudication). Withdrawn ones are
        gone, and what they had replaced is back."""
        who = reviewer and reviewer_name(reviewer)
        asked = {"kind": kind, "subject": subject, "reviewer": who}
        return [_decision(row[:-1]) for row in self._read(CURRENT, asked)]

    def history(
        self, limit: int = 10, *, reviewer: str | None = None, subject: str | None = None
    ) -> list[Decision]:
        """All that was said, newest first; `withdrawn` tells what was taken back."""
        who = reviewer and reviewer_name(reviewer)
        asked = {"limit": limit, "reviewer": who, "subject": subject}
        return [_decision(row) for row in self._read(HISTORY, asked)]

    def content(self, seen: str) -> dict[str, Any]:
        """What was shown under this hash. Raises InputError where nothing was."""
        found = self._read(BODY, {"seen": seen})
        if not found:
            raise InputError(f"No decision was made about content {seen!r}.")
        return json.loads(found[0][0])

    def contents(self) -> dict[str, dict[str, Any]]:
        """Everything that was ever shown and decided on, by hash."""
        return {seen: json.loads(body) for seen, body in self._read(BODIES, {})}

    def table(self) -> pa.Table:
        """Every decision, withdrawn ones included, oldest first, with the columns of TABLE."""
        rows = [_decision(row)._asdict() for row in self._read(ALL, {})]
        return pa.Table.from_pylist(rows, TABLE)

    # ---- leaving and arriving

    def export(self) -> Iterator[str]:
        """Everything as JSON lines, oldest first, each decision with what was shown; then the
        withdrawals. `load` reads it here or elsewhere."""
        rows = self._read(f"{EXPORT} ORDER BY d.at, d.uid", {})
        taken_back = self._read(WITHDRAWALS, {})
        for *row, body in rows:
            fields = _decision(tuple(row))._asdict()
            del fields["withdrawn"]  # has a line of its own
            yield _line({**fields, "content": json.loads(body)})
        for withdrawal in map(Withdrawal._make, taken_back):
            yield _line(withdrawal._asdict())

    def load(self, lines: Iterable[str]) -> dict[str, Any]:
        """Adds exported lines in any order; a line that is here already changes nothing.

        added, known: how many lines; rejected: a list of line (from 1) and reason. A line that
        tells another story under a known uid is rejected, as is content that does not have its
        hash. All in one transaction.
        """
        known = added = 0
        rejected: list[dict[str, Any]] = []
        later: list[tuple[int, Withdrawal]] = []
        with self._writing() as con:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    read, body = _from_line(line)
                    if isinstance(read, Withdrawal):
                        later.append((number, read))
                        continue
                    new = _load_decision(con, read, body)
                except InputError as error:
                    rejected.append({"line": number, "reason": str(error)})
                    continue
                added, known = added + new, known + (not new)
            for number, withdrawal in later:  # whatever order the lines came in
                try:
                    new = _load_withdrawal(con, withdrawal)
                except InputError as error:
                    rejected.append({"line": number, "reason": str(error)})
                    continue
                added, known = added + new, known + (not new)
        rejected.sort(key=lambda r: r["line"])
        return {"added": added, "known": known, "rejected": rejected}

    # ---- the file

    def _read(self, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of one query; none where nobody decided anything yet. Waits for no writer."""
        if not self._path.exists():
            return []
        with self._connected() as con:
            made = self._version(con)  # 0 while the first writer is still at it
            return con.execute(query, values).fetchall() if made else []

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
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
                    for statement in STATEMENTS:
                        con.execute(statement)
                yield con
            except BaseException:
                if con.in_transaction:  # a full disk has rolled back by itself
                    con.execute("ROLLBACK")
                raise
            con.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            ) as con:
                _write_ahead(con)
                # A power cut must not lose what somebody was told is kept.
                con.execute("PRAGMA synchronous = FULL")
                yield con
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def _version(self, con: sqlite3.Connection) -> int:
        (version,) = con.execute("PRAGMA user_version").fetchone()
        if version > DECISIONS_VERSION:
            raise SchemaTooNew(
                f"The decisions {self._path} were written with version {version}, this program "
                f"reads up to {DECISIONS_VERSION}: update FAC Explorer or choose another workspace."
            )
        return version

    def _unusable(self, error: Exception) -> str:
        return (
            f"The decisions {self._path} cannot be opened or written ({error}): check that the "
            f"folder exists and that you may write there; nothing was recorded."
        )

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        # The last byte tells the kind; the others say where it happened.
        kind = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if kind == sqlite3.SQLITE_FULL:
            return InputError(disk_full(f"the decision in {self._path}"))
        if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return InputError(
                f"The decisions {self._path} are damaged ({error}): move the file away, keep it, "
                f"and bring the last export back with `fac decisions import FILE`."
            )
        if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return InputError(self._unusable(error))
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return InputError(
                f"The decisions {self._path} were busy for {PATIENCE:.0f} seconds and nothing was "
                f"recorded: end the program that holds the file, then try again."
            )
        return error


def _write_ahead(con: sqlite3.Connection) -> None:
    """Readers and one writer at once. Two first writers may meet here: that lock does not wait."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            con.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# ---- rows


def _keep(con: sqlite3.Connection, decision: Decision, body: str) -> None:
    stored = con.execute(BODY, {"seen": decision.seen}).fetchall()
    if not stored:
        con.execute(ADD_CONTENT, {"seen": decision.seen, "body": body})
    elif stored[0][0] != body:
        raise InputError(
            f"Something else is stored under the hash {decision.seen} already: change the "
            f"explanation by a character and decide again."
        )
    con.execute(ADD, {**decision._asdict(), "reasons": json.dumps(decision.reasons)})


def _take_back(con: sqlite3.Connection, withdrawal: Withdrawal) -> None:
    con.execute(WITHDRAW, withdrawal._asdict())


def _next_at(con: sqlite3.Connection, reviewer: str) -> str:
    """Now, or just after the reviewer's last word where the clock went backwards."""
    now = datetime.now(UTC)
    (last,) = con.execute(LAST_AT, {"reviewer": reviewer}).fetchone()
    if last:
        now = max(now, datetime.fromisoformat(last) + timedelta(microseconds=1))
    return _iso(now)


def _decision(row: tuple[Any, ...]) -> Decision:
    uid, at, reviewer, kind, subject, seen, verdict, reasons, *rest = row
    note, edited, seconds, adjudicates, withdrawn = rest
    return Decision(
        *(uid, at, reviewer, kind, subject, seen, verdict, tuple(json.loads(reasons))),
        *(note, edited, seconds, bool(adjudicates), withdrawn),
    )


def _load_decision(con: sqlite3.Connection, decision: Decision, body: str) -> bool:
    """Whether it was new. Raises InputError where the uid is known with other fields."""
    found = con.execute(ONE, {"uid": decision.uid}).fetchall()
    if not found:
        _keep(con, decision, body)
        return True
    if _decision(found[0])._replace(withdrawn="") != decision:
        raise InputError(f"decision {decision.uid} is known with another content; it stays.")
    return False


def _load_withdrawal(con: sqlite3.Connection, withdrawal: Withdrawal) -> bool:
    found = con.execute(WITHDRAWAL, {"uid": withdrawal.uid}).fetchall()
    if found:
        if Withdrawal._make(found[0]) != withdrawal:
            raise InputError(f"withdrawal {withdrawal.uid} is known with another content.")
        return False
    meant = con.execute(ONE, {"uid": withdrawal.withdraws}).fetchall()
    if not meant:
        raise InputError(f"it withdraws decision {withdrawal.withdraws}, which is not known.")
    decision = _decision(meant[0])
    if decision.reviewer != withdrawal.reviewer:
        raise InputError(f"{withdrawal.reviewer} withdraws a decision of {decision.reviewer}.")
    if decision.withdrawn:  # taken back here as well, under another uid: the same fact
        return False
    _take_back(con, withdrawal)
    return True


# ---- what is acceptable, from a page and from a file alike


def _checked(decision: Decision) -> Decision:
    """The decision as it is stored. Raises InputError with the field that cannot be used."""
    if decision.kind not in KINDS:
        raise InputError(f"A decision is about {', '.join(KINDS)}; got {decision.kind!r}.")
    verdict = _verdict(decision.kind, decision.verdict)
    subject = _storable(decision.subject)
    form = SUBJECTS[decision.kind]
    pattern = "/".join(_PARTS.get(part, part) for part in form.split("/"))
    if not re.fullmatch(pattern, subject, re.DOTALL | re.ASCII):
        raise InputError(
            f"A decision on {decision.kind} is about {form}, which {subject[:80]!r} is not."
        )
    edited = None if decision.edited_text is None else _storable(decision.edited_text).strip()
    seconds = decision.seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"seconds must be a number from 0 on, got {seconds}.")
    return decision._replace(
        reviewer=reviewer_name(decision.reviewer),
        subject=subject,
        verdict=verdict,
        reasons=tuple(_storable(reason) for reason in decision.reasons),
        note=_storable(decision.note).strip(),
        edited_text=edited or None,
        seconds=None if seconds is None else float(seconds),
        adjudicates=bool(decision.adjudicates),
    )


def _verdict(kind: str, verdict: str) -> str:
    if kind in VERDICTS:
        if verdict not in VERDICTS[kind]:
            raise InputError(
                f"A verdict on {kind} is one of {', '.join(VERDICTS[kind])}; got {verdict!r}."
            )
    elif not re.fullmatch(r"[-+?]{1,1000}", verdict):
        raise InputError(
            f"A verdict on {kind} is one of + - ? for each text in turn; got {verdict!r}."
        )
    return verdict


def reviewer_name(reviewer: str) -> str:
    """A reviewer's name as it is stored: composed characters, no space around.

    Raises InputError for what cannot be one.
    """
    name = unicodedata.normalize("NFC", _storable(reviewer)).strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"A reviewer needs a name of 1 to {LONGEST_NAME} printable characters, "
            f"got {reviewer[:LONGEST_NAME]!r}."
        )
    return name


def _storable(text: str) -> str:
    """SQLite takes no halves of surrogate pairs, which text cut by a tokenizer may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _body(content: Mapping[str, Any]) -> str:
    """The canonical JSON of what was shown; ASCII, so halves of surrogate pairs survive."""
    try:
        return json.dumps(dict(content), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"What was shown must be a plain JSON object: {error}.") from error


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, allow_nan=False)


DAY_AHEAD = timedelta(days=1)
"""A time further in the future is a wrong clock, and would win over every later decision."""

_SAID = ("uid", "at", "reviewer", "kind", "subject", "seen", "verdict", "reasons", "note")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_SAID, "withdraws"), (str,)),
    "reasons": (list,),
    "edited_text": (str, type(None)),
    "seconds": (int, float, type(None)),
    "adjudicates": (bool,),
    "content": (dict,),
}
_DECISION_FIELDS = {*_SAID, "edited_text", "seconds", "adjudicates", "content"}
_WITHDRAWAL_FIELDS = set(Withdrawal._fields)


def _from_line(line: str) -> tuple[Decision | Withdrawal, str]:
    """What an exported line says, with the JSON of what was shown. Raises InputError."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({error}).") from error
    if not isinstance(given, dict):
        raise InputError("it is not a JSON object.")
    fields = _WITHDRAWAL_FIELDS if "withdraws" in given else _DECISION_FIELDS
    if wrong := sorted(fields - set(given)):
        raise InputError(f"it has no {', '.join(wrong)}.")
    if wrong := sorted(set(given) - fields):
        raise InputError(f"it has unknown fields: {', '.join(wrong)[:200]}.")
    for name in sorted(fields):
        value = given[name]
        if not isinstance(value, _TYPES[name]) or (name == "seconds" and value is True):
            raise InputError(f"{name} must not be {str(value)[:60]!r}.")
    for name in ("uid", "withdraws"):
        if name in given and not re.fullmatch(r"[0-9a-f]{32}", given[name]):
            raise InputError(f"{name} must be 32 hex digits, got {given[name][:60]!r}.")
    at = _at(given["at"])
    if "withdraws" in given:
        reviewer = reviewer_name(given["reviewer"])
        return Withdrawal(given["uid"], at, reviewer, given["withdraws"]), ""
    if not all(isinstance(reason, str) for reason in given["reasons"]):
        raise InputError("reasons must be a list of texts.")
    content = given.pop("content")
    body = _body(content)
    if digest(content) != given["seen"]:
        raise InputError(f"content does not have the hash {given['seen'][:60]!r}.")
    return _checked(Decision(**{**given, "at": at, "reasons": tuple(given["reasons"])})), body


def _at(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"at must be an ISO time, got {text[:60]!r}.") from error
    if when.tzinfo is None:
        raise InputError(f"at needs a time zone, got {text!r}.")
    try:
        at = _iso(when)
    except OverflowError as error:  # the year 9999 in another zone
        raise InputError(f"at must be an ISO time, got {text!r}.") from error
    if when > datetime.now(UTC) + DAY_AHEAD:
        raise InputError(f"at lies in the future ({at}): its clock was wrong.")
    return at
