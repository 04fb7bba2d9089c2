"""Decisions: what people judged, about exactly what they saw.

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
import shutil
import tempfile
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fac.access import Permit, anybody
from fac.config import digest
from fac.errors import InputError, Refused
from fac.schema import CANNOT_TELL, LEVELS
from fac.store.sqlite import Connection, Database, storable

DECISIONS_VERSION = 1

KINDS = ("explanation", "relevance", "detection", "pair", "sample", "family")
"""Does the explanation fit; is the feature relevant; which texts fire; may the pair be used; would
one train on the sample; what is the family called."""

VERDICTS: dict[str, tuple[str, ...]] = {
    "explanation": (*LEVELS, CANNOT_TELL),
    "relevance": (*LEVELS, CANNOT_TELL),
    "pair": ("approve", "reject", CANNOT_TELL),
    "sample": ("keep", "drop", "wrong_label"),
    "family": ("name",),
}
"""What may be said of each kind; a detection has one sign (+ - ?) per text instead. What a family
is called is the corrected text of its decision."""

SUBJECTS = {
    "explanation": "explanation/RUN/FEATURE",
    "relevance": "relevance/RUN/FEATURE/TASK",
    "detection": "detection/RUN/FEATURE",
    "pair": "TEXT",
    "sample": "sample/RUN/FEATURE/TEXT",
    "family": "family/RUN/FEATURE",
}
"""What a subject looks like: the measure run, the feature and, where there is one, the task; of a
sample the synthesis, the gap and the candidate; of a family its first feature. A pair's is
anything. Checked here, so that nobody
need doubt what an import brought."""

_PARTS = {"RUN": r"[^/]+", "FEATURE": r"\d{1,9}", "TASK": r".+", "TEXT": r".+"}

LONGEST_NAME = 320
"""A login may be known by its address, or by its subject and issuer."""

DAY_AHEAD = timedelta(days=1)
"""A time further in the future is a wrong clock, and would win over every later decision."""

_WITHDRAWAL_TYPES: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("uid", "at", "reviewer", "withdraws"), (str,)
)
_DECISION_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("uid", "at", "reviewer", "kind", "subject", "seen", "verdict"), (str,)),
    "reasons": (list,),
    "note": (str,),
    "edited_text": (str, type(None)),
    "seconds": (int, float, type(None)),
    "adjudicates": (bool,),
    "content": (dict,),
}


class Decision(NamedTuple):
    """What one person said about one exact piece of content."""

    uid: str  # its name everywhere: 32 hex digits, kept by export and import
    at: str  # ISO time in UTC with microseconds; later for every later decision of one reviewer
    reviewer: str
    kind: str  # one of KINDS
    subject: str  # what it is about, whatever its present wording; see SUBJECTS
    seen: str  # hash of what was shown: fac.config.digest of the content
    verdict: str  # see VERDICTS
    reasons: tuple[str, ...]  # flags that were ticked
    note: str
    edited_text: str | None  # the correction, where one was written
    seconds: float | None  # from showing to deciding; None where nobody measured
    adjudicates: bool
    """Settles a disagreement after looking at the others' verdicts; never a rating of its own."""
    withdrawn: str = ""  # when its reviewer took it back; "" while it stands


class Withdrawal(NamedTuple):
    """A decision was taken back."""

    uid: str
    at: str
    reviewer: str
    withdraws: str  # uid of the decision


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

_STORED = Decision._fields[:-1]

COLUMNS = ", ".join(f"d.{name}" for name in _STORED) + ", coalesce(w.at, '')"

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

EXPORT = f"""
    SELECT {COLUMNS}, c.body FROM {WITH_WITHDRAWAL} JOIN content c ON c.seen = d.seen
    ORDER BY d.at, d.uid
"""

WITHDRAWALS = "SELECT uid, at, reviewer, withdraws FROM withdrawal ORDER BY at, uid"

WITHDRAWAL = "SELECT uid, at, reviewer, withdraws FROM withdrawal WHERE uid = :uid"

BODY = "SELECT body FROM content WHERE seen = :seen"

BODIES = "SELECT seen, body FROM content ORDER BY seen"

LAST_AT = """
    SELECT max(at) FROM (SELECT at FROM decision WHERE reviewer = :reviewer
                         UNION ALL SELECT at FROM withdrawal WHERE reviewer = :reviewer)
"""

ADD_CONTENT = "INSERT INTO content (seen, body) VALUES (:seen, :body)"

ADD = (
    f"INSERT INTO decision ({', '.join(_STORED)}) "
    f"VALUES ({', '.join(f':{name}' for name in _STORED)})"
)

WITHDRAW = """
    INSERT INTO withdrawal (uid, at, reviewer, withdraws)
    VALUES (:uid, :at, :reviewer, :withdraws)
"""

_NO_STRINGS = {"reasons": pa.list_(pa.string()), "seconds": pa.float64(), "adjudicates": pa.bool_()}
TABLE = pa.schema([(name, _NO_STRINGS.get(name, pa.string())) for name in Decision._fields])


class Decisions(Database):
    """The decisions of one workspace. Threads and processes may share the file."""

    version, statements = DECISIONS_VERSION, STATEMENTS
    synchronous = "FULL"  # a power cut must not lose what somebody was told is kept
    name, is_was, written = "The decisions", ("are", "were"), "the decision in"
    repair = (
        "move the file away, keep it, and bring the last export back with "
        "`fac decisions import FILE`, or the last backup with `fac decisions restore FILE`."
    )
    check = "check that the folder exists and that you may write there; nothing was recorded."

    def __init__(self, path: Path, permit: Permit = anybody):
        """`permit` is asked before anything is recorded; who is known by a name decides in no
        other."""
        super().__init__(path)
        self._permit = permit

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
        written, Refused; then nothing was recorded.
        """
        self._check("settle" if adjudicates else "decide", f"{kind} {subject}: {verdict}", reviewer)
        body = _canonical_json(content)
        seen = digest(dict(content))
        if digest(json.loads(body)) != seen:
            raise InputError("What was shown must be a JSON object with texts as keys.")
        decision = _checked(
            Decision(
                uid=uuid.uuid4().hex,
                at=_iso_time(datetime.now(UTC)),
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
            _insert(con, decision, body)
        return decision

    def withdraw(self, uid: str, reviewer: str) -> None:
        """Takes one's own decision back. The one before it, if any, stands again.

        Raises InputError for another's decision, or one that is gone already, Refused.
        """
        self._check("decide", f"withdrawal of {uid}", reviewer)
        reviewer = reviewer_name(reviewer)
        with self._writing() as con:
            decision = _stored(con, uid)
            if decision is None:
                raise InputError(f"There is no decision {uid!r}: the review page lists the last.")
            if decision.reviewer != reviewer:
                raise InputError(
                    f"This decision is {decision.reviewer}'s, not {reviewer}'s: people take back "
                    f"their own; say something else yourself instead."
                )
            if decision.withdrawn:
                raise InputError(f"Decision {uid} was taken back already, {decision.withdrawn}.")
            withdrawal = Withdrawal(uuid.uuid4().hex, _next_at(con, reviewer), reviewer, uid)
            con.execute(WITHDRAW, withdrawal._asdict())

    def _check(self, action: str, about: str, reviewer: str) -> None:
        name = self._permit(action, about)
        if name and reviewer_name(name) != reviewer_name(reviewer):
            raise Refused(f"You are signed in as {name} and decide in no other name: sign in anew.")

    # ---- looking

    def current(
        self, kind: str | None = None, *, subject: str | None = None, reviewer: str | None = None
    ) -> list[Decision]:
        """What stands, oldest first: the latest per kind, subject, shown content, reviewer, and
        whether it adjudicates (a blind rating outlives its own adjudication). Withdrawn ones are
        gone, and what they had replaced is back."""
        name = reviewer and reviewer_name(reviewer)
        rows = self._read(CURRENT, kind=kind, subject=subject, reviewer=name)
        return [_decision(row[:-1]) for row in rows]

    def history(
        self, limit: int = 10, *, reviewer: str | None = None, subject: str | None = None
    ) -> list[Decision]:
        """All that was said, newest first; `withdrawn` tells what was taken back."""
        name = reviewer and reviewer_name(reviewer)
        rows = self._read(HISTORY, limit=limit, reviewer=name, subject=subject)
        return [_decision(row) for row in rows]

    def content(self, seen: str) -> dict[str, Any]:
        """What was shown under this hash. Raises InputError where nothing was."""
        rows = self._read(BODY, seen=seen)
        if not rows:
            raise InputError(f"No decision was made about content {seen!r}.")
        return self.parsed(rows[0][0])

    def contents(self) -> dict[str, dict[str, Any]]:
        """Everything that was ever shown and decided on, by hash."""
        return {seen: self.parsed(body) for seen, body in self._read(BODIES)}

    def table(self) -> pa.Table:
        """Every decision, withdrawn ones included, oldest first, with the columns of TABLE."""
        rows = [_decision(row)._asdict() for row in self._read(ALL)]
        return pa.Table.from_pylist(rows, TABLE)

    # ---- leaving and arriving

    def export(self) -> Iterator[str]:
        """Everything as JSON lines, oldest first, each decision with what was shown; then the
        withdrawals. `load` reads it here or elsewhere."""
        rows = self._read(EXPORT)
        withdrawals = self._read(WITHDRAWALS)
        for *row, body in rows:
            fields = _decision(tuple(row))._asdict()
            del fields["withdrawn"]  # has a line of its own
            yield json.dumps(
                {**fields, "content": self.parsed(body)}, sort_keys=True, allow_nan=False
            )
        for withdrawal in map(Withdrawal._make, withdrawals):
            yield json.dumps(withdrawal._asdict(), sort_keys=True, allow_nan=False)

    def load(self, lines: Iterable[str]) -> dict[str, Any]:
        """Adds exported lines in any order; a line that is here already changes nothing.

        added, known: how many lines; rejected: a list of line (from 1) and reason. A line that
        tells another story under a known uid is rejected, as is content that does not have its
        hash. All in one transaction. Raises Refused.
        """
        self._permit("file", "decisions of a file")
        counts: Counter[str] = Counter()
        rejected: list[dict[str, Any]] = []
        withdrawals: list[tuple[int, Withdrawal]] = []  # of decisions that may come further down
        with self._writing() as con:
            records: Iterable[tuple[int, str | Withdrawal]]
            records = chain(enumerate(lines, start=1), withdrawals)
            for number, line in records:
                try:
                    if isinstance(line, Withdrawal):
                        is_new = _load_withdrawal(con, line)
                    elif line.strip():
                        record, body = _read_line(line)
                        if isinstance(record, Withdrawal):
                            withdrawals.append((number, record))
                            continue
                        is_new = _load_decision(con, record, body)
                    else:
                        continue
                except InputError as error:
                    rejected.append({"line": number, "reason": str(error)})
                else:
                    counts["added" if is_new else "known"] += 1
        rejected.sort(key=lambda rejection: rejection["line"])
        return {"added": counts["added"], "known": counts["known"], "rejected": rejected}

    def restore(self, file: Path) -> dict[str, Any]:
        """Adds what a `backup` holds, as `load`: what is here already stays, nothing is doubled.
        Raises InputError for a file that is none, or a damaged one."""
        with tempfile.TemporaryDirectory() as folder:  # reading would change the backup itself
            copy = Decisions(Path(folder) / file.name)
            try:
                shutil.copyfile(file, copy._path)
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error.strerror}.") from error
            if lines := copy.faults():
                raise InputError(f"{file} is damaged ({lines[0]}): take an earlier backup.")
            return self.load(copy.export())

    # ---- the file

    def faults(self) -> list[str]:
        """As of every database, and decisions and contents that were never written as they are."""
        lines = super().faults()
        bodies = self.contents()
        lines += [f"another content has the hash {x}" for x in bodies if digest(bodies[x]) != x]
        for row in self._read(ALL):
            try:
                _checked(_decision(row))
            except (TypeError, InputError) as error:
                lines.append(f"decision {row[0]}: {error}")
        return lines

    def _read(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """Rows of one query; none where nobody decided anything yet. Waits for no writer."""
        if not self._path.exists():
            return []
        with self._connected() as con:
            # 0 while the first writer is still at it.
            return con.execute(query, values).fetchall() if self._version(con) else []


# ---- rows


def _insert(con: Connection, decision: Decision, body: str) -> None:
    stored = con.execute(BODY, {"seen": decision.seen}).fetchall()
    if not stored:
        con.execute(ADD_CONTENT, {"seen": decision.seen, "body": body})
    elif stored[0][0] != body:
        raise InputError(
            f"Something else is stored under the hash {decision.seen} already: change the "
            f"explanation by a character and decide again."
        )
    con.execute(ADD, {**decision._asdict(), "reasons": json.dumps(decision.reasons)})


def _next_at(con: Connection, reviewer: str) -> str:
    """Now, or just after the reviewer's last word where the clock went backwards."""
    now = datetime.now(UTC)
    (last,) = con.execute(LAST_AT, {"reviewer": reviewer}).fetchone()
    if last:
        try:
            now = max(now, datetime.fromisoformat(last) + timedelta(microseconds=1))
        except (TypeError, ValueError, OverflowError) as error:
            raise Decisions.damaged(error) from error
    return _iso_time(now)


def _decision(row: tuple[Any, ...]) -> Decision:
    decision = Decision._make(row)
    reasons = tuple(Decisions.parsed(row[Decision._fields.index("reasons")]))
    return decision._replace(reasons=reasons, adjudicates=bool(decision.adjudicates))


def _stored(con: Connection, uid: str) -> Decision | None:
    rows = con.execute(ONE, {"uid": uid}).fetchall()
    return _decision(rows[0]) if rows else None


def _load_decision(con: Connection, decision: Decision, body: str) -> bool:
    """Whether it was new. Raises InputError where the uid is known with other fields."""
    stored = _stored(con, decision.uid)
    if stored is None:
        _insert(con, decision, body)
    elif stored._replace(withdrawn="") != decision:
        raise InputError(f"decision {decision.uid} is known with another content; it stays.")
    return stored is None


def _load_withdrawal(con: Connection, withdrawal: Withdrawal) -> bool:
    rows = con.execute(WITHDRAWAL, {"uid": withdrawal.uid}).fetchall()
    if rows:
        if Withdrawal._make(rows[0]) != withdrawal:
            raise InputError(f"withdrawal {withdrawal.uid} is known with another content.")
        return False
    decision = _stored(con, withdrawal.withdraws)
    if decision is None:
        raise InputError(f"it withdraws decision {withdrawal.withdraws}, which is not known.")
    if decision.reviewer != withdrawal.reviewer:
        raise InputError(f"{withdrawal.reviewer} withdraws a decision of {decision.reviewer}.")
    if decision.withdrawn:  # taken back here as well, under another uid: the same fact
        return False
    con.execute(WITHDRAW, withdrawal._asdict())
    return True


# ---- what is acceptable, from a page and from a file alike


def _checked(decision: Decision) -> Decision:
    """The decision as it is stored. Raises InputError with the field that cannot be used."""
    if decision.kind not in KINDS:
        raise InputError(f"A decision is about {', '.join(KINDS)}; got {decision.kind!r}.")
    kind, verdict = decision.kind, decision.verdict
    if kind in VERDICTS and verdict not in VERDICTS[kind]:
        raise InputError(
            f"A verdict on {kind} is one of {', '.join(VERDICTS[kind])}; got {verdict!r}."
        )
    if kind not in VERDICTS and not re.fullmatch(r"[-+?]{1,1000}", verdict):
        raise InputError(
            f"A verdict on {kind} is one of + - ? for each text in turn; got {verdict!r}."
        )
    subject = storable(decision.subject)
    form = SUBJECTS[kind]
    pattern = "/".join(_PARTS.get(part, part) for part in form.split("/"))
    if not re.fullmatch(pattern, subject, re.DOTALL | re.ASCII):
        raise InputError(f"A decision on {kind} is about {form}, which {subject[:80]!r} is not.")
    edited = None if decision.edited_text is None else storable(decision.edited_text).strip()
    if kind == "family" and not edited:
        raise InputError("A family is called by one character at least, got none.")
    seconds = decision.seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"seconds must be a number from 0 on, got {seconds}.")
    return decision._replace(
        reviewer=reviewer_name(decision.reviewer),
        subject=subject,
        reasons=tuple(storable(reason) for reason in decision.reasons),
        note=storable(decision.note).strip(),
        edited_text=edited or None,
        seconds=None if seconds is None else float(seconds),
        adjudicates=bool(decision.adjudicates),
    )


def reviewer_name(reviewer: str) -> str:
    """A reviewer's name as it is stored: composed characters, no space around.

    Raises InputError for what cannot be one.
    """
    name = unicodedata.normalize("NFC", storable(reviewer)).strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"A reviewer needs a name of 1 to {LONGEST_NAME} printable characters, "
            f"got {reviewer[:LONGEST_NAME]!r}."
        )
    return name


# ---- lines, by which workspaces exchange decisions


def _canonical_json(content: Mapping[str, Any]) -> str:
    """Of what was shown; ASCII, so halves of surrogate pairs survive. Raises InputError."""
    try:
        return json.dumps(dict(content), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"What was shown must be a plain JSON object: {error}.") from error


def _iso_time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def _read_line(line: str) -> tuple[Decision | Withdrawal, str]:
    """An exported decision or withdrawal, and the canonical JSON of what was shown ("" for a
    withdrawal). Raises InputError for what is neither."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise InputError("it is not a JSON object.")
    types = _WITHDRAWAL_TYPES if "withdraws" in fields else _DECISION_TYPES
    if lacking := sorted(set(types) - set(fields)):
        raise InputError(f"it has no {', '.join(lacking)}.")
    if unknown := sorted(set(fields) - set(types)):
        raise InputError(f"it has unknown fields: {', '.join(unknown)[:200]}.")
    for name, value in sorted(fields.items()):
        if not isinstance(value, types[name]) or (name == "seconds" and value is True):
            raise InputError(f"{name} must not be {str(value)[:60]!r}.")
    for name in ("uid", "withdraws"):
        if name in fields and not re.fullmatch(r"[0-9a-f]{32}", fields[name]):
            raise InputError(f"{name} must be 32 hex digits, got {fields[name][:60]!r}.")
    fields["at"] = _utc_time(fields["at"])
    if "withdraws" in fields:
        return Withdrawal(**{**fields, "reviewer": reviewer_name(fields["reviewer"])}), ""
    if not all(isinstance(reason, str) for reason in fields["reasons"]):
        raise InputError("reasons must be a list of texts.")
    fields["reasons"] = tuple(fields["reasons"])
    content = fields.pop("content")
    body = _canonical_json(content)
    if digest(content) != fields["seen"]:
        raise InputError(f"content does not have the hash {fields['seen'][:60]!r}.")
    return _checked(Decision(**fields)), body


def _utc_time(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"at must be an ISO time, got {text[:60]!r}.") from error
    if when.tzinfo is None:
        raise InputError(f"at needs a time zone, got {text!r}.")
    try:
        at = _iso_time(when)
    except OverflowError as error:  # the year 9999 in another zone
        raise InputError(f"at must be an ISO time, got {text!r}.") from error
    if when > datetime.now(UTC) + DAY_AHEAD:
        raise InputError(f"at lies in the future ({at}): its clock was wrong.")
    return at
