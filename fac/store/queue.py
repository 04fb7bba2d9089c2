"""The queue: what is waiting, running and done, shared by the app and the worker.

One SQLite file, where a job changes hands in one statement, so two workers cannot both have it.
Losing the file loses the waiting jobs and nothing else.

A worker is a process: its machine, its number and when it began, for numbers are given out again.
Clocks differ and are set: a sign of life in the future counts as one of now, seen now.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fac.access import EDITS, Permit, anybody
from fac.config import Spec
from fac.errors import Cancelled, InputError
from fac.store.processes import birth, lives
from fac.store.sqlite import Connection, Database, storable

QUEUE_VERSION = 3

LEASE = 120.0
"""Seconds a running job may stay silent before another worker may have it."""

MAX_ATTEMPTS = 3
"""Times a job is started before a worker that dies on it is taken as its fault."""

ALIVE = 15.0
"""Seconds since its last sign of life during which a worker counts as alive."""

SCHEMA = f"""
    CREATE TABLE job (
        id INTEGER PRIMARY KEY AUTOINCREMENT, step TEXT NOT NULL, spec TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'waiting', done INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '', run_id TEXT, error TEXT,
        created REAL NOT NULL, started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0,
        worker TEXT, host TEXT, pid INTEGER, lease REAL, stop INTEGER NOT NULL DEFAULT 0,
        born TEXT, asker TEXT NOT NULL DEFAULT '');
    CREATE UNIQUE INDEX one_live_job_per_spec ON job (step, spec)
        WHERE status IN ('waiting', 'running');
    CREATE TABLE worker (host TEXT, pid INTEGER, started REAL NOT NULL, beat REAL NOT NULL,
        born TEXT, PRIMARY KEY (host, pid));
    PRAGMA user_version = {QUEUE_VERSION};
"""

FROM_1 = """
    ALTER TABLE job ADD COLUMN born TEXT;
    ALTER TABLE worker ADD COLUMN born TEXT;
    DELETE FROM worker;
"""
"""Makes one of version 1 one of 2. Its workers cannot go on with it; their jobs wait again."""

FROM_2 = f"""
    ALTER TABLE job ADD COLUMN asker TEXT NOT NULL DEFAULT '';
    PRAGMA user_version = {QUEUE_VERSION};
"""

COLUMNS = """
    id, step, spec, status, done, total, note, run_id, error, created, started, finished, attempts,
    asker, stop
"""

ENQUEUE = """
    INSERT INTO job (step, spec, created, asker) VALUES (:step, :spec, :now, :asker) RETURNING id
"""

LIVE_JOB_OF = """
    SELECT id FROM job WHERE step = :step AND spec = :spec AND status IN ('waiting', 'running')
"""

CLAIM = f"""
    UPDATE job SET status = 'running', worker = :worker, host = :host, pid = :pid,
                   born = :born, lease = :now + {LEASE}, started = :now,
                   attempts = attempts + 1, stop = 0
    WHERE id = (SELECT id FROM job WHERE status = 'waiting' ORDER BY id LIMIT 1)
    RETURNING {COLUMNS}
"""

MINE = "host = :host AND pid = :pid AND born IS :born"

REPORT = f"""
    UPDATE job SET done = :done, total = :total, note = :note, lease = :now + {LEASE}
    WHERE id = :id AND status = 'running' AND {MINE} AND stop = 0
    RETURNING id
"""

RUNS_HERE = f"SELECT id FROM job WHERE id = :id AND status = 'running' AND {MINE}"

# A result counts even if the lease was lost meanwhile: the run exists.
FINISH = """
    UPDATE job SET status = 'done', run_id = :run_id, error = NULL, finished = :now,
                   done = max(done, total)
    WHERE id = :id AND status IN ('waiting', 'running')
"""

END_MINE = f"""
    UPDATE job SET status = :status, error = :error, finished = :now
    WHERE id = :id AND status = 'running' AND {MINE}
"""

CANCEL_WAITING = """
    UPDATE job SET status = 'cancelled', finished = :now WHERE id = :id AND status = 'waiting'
"""

CANCEL_RUNNING = "UPDATE job SET stop = 1 WHERE id = :id AND status = 'running'"

NO_LONGER_LEASE = f"""
    UPDATE job SET lease = :now + {LEASE} WHERE status = 'running' AND lease > :now + {LEASE}
"""

RUNNING = "SELECT id, host, pid, born, lease, attempts, stop FROM job WHERE status = 'running'"

GIVE_BACK = """
    UPDATE job SET status = 'waiting', worker = NULL, host = NULL, pid = NULL, born = NULL,
                   lease = NULL, note = 'waiting again, its worker stopped'
    WHERE id = :id
"""

END = "UPDATE job SET status = :status, error = :error, finished = :now WHERE id = :id"

JOB_OF = f"SELECT {COLUMNS} FROM job WHERE id = :id"

NEWEST = f"SELECT {COLUMNS} FROM job ORDER BY id DESC LIMIT :limit"

LIVE = f"""
    SELECT {COLUMNS} FROM job WHERE status IN ('waiting', 'running')
    ORDER BY status = 'waiting', id
"""

BEAT = """
    INSERT INTO worker (host, pid, born, started, beat)
    VALUES (:host, :pid, :born, :started, :now)
    ON CONFLICT (host, pid) DO UPDATE
    SET born = excluded.born, started = excluded.started, beat = excluded.beat
"""

STILL_HERE = f"UPDATE worker SET beat = :now WHERE {MINE}"

NO_LATER_BEAT = "UPDATE worker SET beat = :now WHERE beat > :now"

WORKERS = "SELECT host, pid, born, beat FROM worker ORDER BY beat DESC LIMIT 100"


class Job(NamedTuple):
    """One row of the queue. Times are seconds since 1970."""

    id: int
    step: str
    spec: dict[str, Any]
    status: str  # waiting, running, done, failed or cancelled
    done: int
    total: int  # 0 until the step knows
    note: str
    run_id: str | None  # what came of it, once done
    error: str | None  # why it failed, as a sentence
    created: float
    started: float | None
    finished: float | None
    attempts: int
    asker: str  # who asked for it first; "" where nobody was known by a name
    stopping: bool  # whether somebody asked it to end


class Queue(Database):
    """The jobs of one workspace. Threads and processes may share the file."""

    version, statements = QUEUE_VERSION, SCHEMA.split(";")
    name, written = "The queue", "the queue"
    repair = "delete the file; only the jobs that were waiting are lost."

    def __init__(self, path: Path, permit: Permit = anybody):
        """`permit` is asked before anybody has a job started or cancelled."""
        super().__init__(path)
        self._host, self._permit = socket.gethostname(), permit

    # ---- asking for work

    def enqueue(self, spec: Spec, asker: str | None = None) -> int:
        """Asks for a step; the id of the job, which is the live one where the same spec waits or
        runs already. `asker` is who asked for the job that this one follows. Raises Refused."""
        return self._enqueue(spec.step, spec.as_json(), asker)

    def cancel(self, job_id: int) -> None:
        """A waiting job ends now; a running one is asked to, and stops at its next report. Raises
        Refused."""
        self._permit("cancel", f"job {job_id}")
        with self._writing() as con:
            _job_of(con, job_id)
            con.execute(CANCEL_WAITING, {"id": job_id, "now": time.time()})
            con.execute(CANCEL_RUNNING, {"id": job_id})

    def retry(self, job_id: int) -> int:
        """Asks for the same thing once more; the id of the job that will do it. Raises Refused."""
        job = self.job(job_id)
        return self._enqueue(job.step, job.spec)

    # ---- doing it

    def claim(self, worker: str) -> Job | None:
        """The oldest waiting job, from now on this process's; None when nothing waits."""
        with self._writing() as con:
            rows = con.execute(CLAIM, {"worker": worker, **self._me()}).fetchall()
        return _job(rows[0]) if rows else None

    def report(self, job_id: int, done: int, total: int, note: str = "") -> None:
        """Tells how far a job is and keeps it for this process for another LEASE seconds.

        Raises Cancelled when a person asked to stop, or when the job is no longer this process's.
        """
        values = {"id": job_id, "done": int(done), "total": int(total), "note": storable(note)}
        with self._writing() as con:
            me = self._me()
            con.execute(STILL_HERE, me)
            if con.execute(REPORT, {**values, **me}).fetchall():
                return
            status = _job_of(con, job_id).status
            is_mine = bool(con.execute(RUNS_HERE, {"id": job_id, **me}).fetchall())
        raise Cancelled(
            f"Job {job_id} was cancelled; finished parts are kept."
            if is_mine
            else f"Job {job_id} is {status} and no longer this worker's."
        )

    def finish(self, job_id: int, run_id: str) -> None:
        """The job is done and `run_id` is what came of it."""
        with self._writing() as con:
            con.execute(FINISH, {"id": job_id, "run_id": run_id, "now": time.time()})

    def fail(self, job_id: int, sentence: str) -> None:
        """The job failed, and why. Nothing happens if it is no longer this process's."""
        self._end_mine(job_id, "failed", storable(sentence))

    def stopped(self, job_id: int) -> None:
        """The job ended because someone asked it to."""
        self._end_mine(job_id, "cancelled", None)

    def recover(self) -> int:
        """Jobs whose worker died or fell silent wait again; how many were found.

        One that was to stop is cancelled instead, and one started MAX_ATTEMPTS times has failed.
        """
        with self._writing() as con:
            now = time.time()
            con.execute(NO_LONGER_LEASE, {"now": now})
            lost = [
                (job_id, attempts, stop)
                for job_id, host, pid, born, lease, attempts, stop in con.execute(RUNNING)
                if lease < now or (host == self._host and not lives(pid, born))
            ]
            for job_id, attempts, stop in lost:
                if not stop and attempts < MAX_ATTEMPTS:
                    con.execute(GIVE_BACK, {"id": job_id})
                    continue
                why = (
                    f"The worker stopped {attempts} times while doing this and it was given "
                    f"up: read the worker's log, then try again."
                )
                status, error = ("cancelled", None) if stop else ("failed", why)
                con.execute(END, {"id": job_id, "status": status, "error": error, "now": now})
        return len(lost)

    # ---- looking at it

    def job(self, job_id: int) -> Job:
        """Raises InputError for an id that was never given out."""
        with self._writing() as con:
            return _job_of(con, job_id)

    def jobs(self, limit: int = 100) -> list[Job]:
        """The newest jobs, newest first."""
        with self._writing() as con:
            return [_job(row) for row in con.execute(NEWEST, {"limit": limit}).fetchall()]

    def live(self) -> list[Job]:
        """Running jobs, then waiting ones in the order they will be claimed."""
        with self._writing() as con:
            return [_job(row) for row in con.execute(LIVE).fetchall()]

    def beat(self, pid: int, started: float) -> None:
        """A worker says that it is alive; reporting on a job says so too."""
        with self._writing() as con:
            values = {**self._me(), "pid": pid, "born": birth(pid), "started": started}
            con.execute(BEAT, values)

    def worker(self) -> dict[str, Any] | None:
        """The worker last heard of, of those that are alive if any are; None if never any.

        host, pid, born; here: whether that is this host, where the pid means something; alive;
        seconds_since its last sign.
        """
        with self._writing() as con:
            now = time.time()
            con.execute(NO_LATER_BEAT, {"now": now})
            rows = con.execute(WORKERS).fetchall()
        workers: list[dict[str, Any]] = []
        for host, pid, born, beat in rows:
            since, here = now - beat, host == self._host
            alive = since < ALIVE and (not here or lives(pid, born))
            process = {"host": host, "pid": pid, "born": born, "here": here}
            workers.append({**process, "alive": alive, "seconds_since": since})
        last = workers[0] if workers else None
        return next((each for each in workers if each["alive"]), last)

    # ---- the file

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with super()._writing() as con:
            before = self._version(con)
            if before < QUEUE_VERSION:
                for statement in [*(FROM_1.split(";") if before == 1 else ()), *FROM_2.split(";")]:
                    con.execute(statement)
            yield con

    def _me(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"host": self._host, "pid": pid, "born": birth(pid), "now": time.time()}

    def _end_mine(self, job_id: int, status: str, error: str | None) -> None:
        values = {"id": job_id, "status": status, "error": error}
        with self._writing() as con:
            con.execute(END_MINE, {**values, **self._me()})

    def _enqueue(self, step: str, spec: dict[str, Any], asker: str | None = None) -> int:
        if asker is None:
            named = [str(spec[field]) for field in ("name", "model") if spec.get(field)]
            asker = self._permit("edit" if step in EDITS else "launch", " ".join([step, *named]))
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        values = {"step": step, "spec": text, "now": time.time(), "asker": storable(asker)}
        with self._writing() as con:
            live = con.execute(LIVE_JOB_OF, values).fetchall()
            return (live or con.execute(ENQUEUE, values).fetchall())[0][0]


def _job_of(con: Connection, job_id: int) -> Job:
    rows = con.execute(JOB_OF, {"id": job_id}).fetchall()
    if not rows:
        raise InputError(f"There is no job {job_id}: `fac worker` and the jobs page list them.")
    return _job(rows[0])


def _job(row: tuple[Any, ...]) -> Job:
    return Job._make((*row[:2], Queue.parsed(row[2]), *row[3:-1], bool(row[-1])))
