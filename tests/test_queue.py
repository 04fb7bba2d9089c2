"""fac.store.queue: a job is done by one worker."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fac.config import IngestSpec, SaeSpec
from fac.errors import Cancelled, InputError, SchemaTooNew
from fac.store import processes
from fac.store import queue as queueing
from fac.store.processes import birth
from fac.store.queue import Queue

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path / "queue.sqlite")


def spec(name="tea"):
    return SaeSpec(model=name)


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch):
        self.now = time.time()
        monkeypatch.setattr(queueing.time, "time", lambda: self.now)


def test_asking_twice_for_what_waits_or_runs_gives_one_job(queue):
    first = queue.enqueue(spec())
    assert queue.enqueue(spec()) == first
    assert queue.claim("w").id == first
    assert queue.enqueue(spec()) == first
    queue.finish(first, "sae-1")
    again = queue.enqueue(spec())
    assert again != first
    assert queue.job(first).status == "done" and queue.job(first).run_id == "sae-1"
    assert queue.job(again).status == "waiting"


def test_the_oldest_waiting_job_is_claimed_first_and_holds_what_was_asked(queue):
    ids = [queue.enqueue(spec(name)) for name in ("tea", "milk")]
    job = queue.claim("w")
    assert (job.id, job.step, job.status, job.attempts) == (ids[0], "sae", "running", 1)
    assert job.spec == {"model": "tea", "layer": 15, "sae": "demo"}
    assert queue.claim("w").id == ids[1]
    assert queue.claim("w") is None
    assert [job.id for job in queue.jobs()] == ids[::-1]


CLAIM_ALL = """
import sys
from pathlib import Path
from unittest import mock
from fac.store.queue import Queue
queue = Queue(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while (job := queue.claim("w")) is not None:
    print(job.id, flush=True)
    queue.finish(job.id, "x-1")
"""


def test_processes_never_claim_one_job_twice(queue, tmp_path):
    ids = [queue.enqueue(spec(str(i))) for i in range(60)]
    command = [sys.executable, "-c", CLAIM_ALL, str(tmp_path / "queue.sqlite")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, cwd=REPOSITORY, **pipes) for _ in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    claimed = [[int(n) for n in worker.communicate()[0].split()] for worker in workers]
    assert sorted(sum(claimed, [])) == ids
    assert {job.status for job in queue.jobs()} == {"done"}


def test_progress_is_seen_and_keeps_the_job(queue, monkeypatch):
    clock = Clock(monkeypatch)
    job = queue.enqueue(spec())
    queue.claim("w")
    for done in range(3):
        clock.now += queueing.LEASE - 1
        queue.report(job, done, 3, "reading \udcff")
    assert queue.recover() == 0
    assert queue.live()[0][4:7] == (2, 3, "reading ?")


def test_a_waiting_job_is_cancelled_at_once(queue):
    job = queue.enqueue(spec())
    queue.cancel(job)
    assert queue.job(job).status == "cancelled"
    assert queue.claim("w") is None


def test_a_running_job_stops_at_its_next_report(queue):
    job = queue.enqueue(spec())
    queue.claim("w")
    assert not queue.job(job).stopping
    queue.cancel(job)
    assert queue.job(job).status == "running" and queue.job(job).stopping
    with pytest.raises(Cancelled, match="finished parts are kept"):
        queue.report(job, 1, 2)
    queue.stopped(job)
    assert queue.job(job).status == "cancelled"
    queue.cancel(job)
    assert queue.job(job).status == "cancelled"


def test_a_failed_job_says_why_and_can_be_tried_again(queue):
    job = queue.enqueue(spec())
    queue.claim("w")
    queue.fail(job, "No such file.")
    assert queue.job(job).status == "failed" and queue.job(job).error == "No such file."
    again = queue.retry(job)
    assert again != job and queue.retry(job) == again
    assert queue.job(again).spec == queue.job(job).spec


def test_a_silent_workers_job_waits_again_and_its_worker_is_told(queue, monkeypatch):
    clock = Clock(monkeypatch)
    job = queue.enqueue(spec())
    queue.claim("w")
    clock.now += queueing.LEASE + 1
    assert queue.recover() == 1
    assert queue.job(job).status == "waiting"
    with pytest.raises(Cancelled, match="no longer this worker's"):
        queue.report(job, 1, 2)
    queue.fail(job, "too late")
    assert queue.job(job).status == "waiting"
    assert queue.claim("w").attempts == 2


CLAIM_AND_DIE = """
import os, sys
from pathlib import Path
from unittest import mock
from fac.store.queue import Queue
Queue(Path(sys.argv[1])).claim("w")
os.kill(os.getpid(), 9)
"""


def claim_and_die(path):
    """A worker that is killed while it has a job, and is not buried yet."""
    worker = subprocess.Popen([sys.executable, "-c", CLAIM_AND_DIE, str(path)], cwd=REPOSITORY)
    while birth(worker.pid):
        time.sleep(0.01)
    return worker


def test_a_dead_workers_job_waits_again_at_once(queue, tmp_path):
    job = queue.enqueue(spec())
    worker = claim_and_die(tmp_path / "queue.sqlite")
    assert queue.job(job).status == "running"
    assert queue.recover() == 1
    assert queue.job(job).status == "waiting"
    worker.wait()


def test_a_job_that_was_to_stop_does_not_come_back(queue, tmp_path):
    job = queue.enqueue(spec())
    worker = claim_and_die(tmp_path / "queue.sqlite")
    queue.cancel(job)
    assert queue.recover() == 1
    assert queue.job(job).status == "cancelled"
    worker.wait()


def test_a_job_on_which_workers_keep_dying_is_given_up(queue, monkeypatch):
    clock = Clock(monkeypatch)
    job = queue.enqueue(spec())
    for attempt in range(1, queueing.MAX_ATTEMPTS + 1):
        assert queue.claim("w").attempts == attempt
        clock.now += queueing.LEASE + 1
        assert queue.recover() == 1
    assert queue.job(job).status == "failed"
    assert "stopped 3 times" in queue.job(job).error
    assert queue.live() == []


def ended():
    """The number of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    return gone.pid


@pytest.fixture
def elsewhere(queue, monkeypatch):
    """The same queue as another machine sees it."""
    with monkeypatch.context() as machine:
        machine.setattr(queueing.socket, "gethostname", lambda: "elsewhere")
        return Queue(queue._path)


def test_a_worker_is_alive_while_its_process_lives_and_it_was_heard_of(queue, monkeypatch):
    clock = Clock(monkeypatch)
    assert queue.worker() is None
    queue.beat(os.getpid(), clock.now)
    here = {"host": socket.gethostname(), "here": True, "seconds_since": 0.0}
    me = {**here, "pid": os.getpid(), "born": birth(os.getpid())}
    assert queue.worker() == {**me, "alive": True}
    clock.now += queueing.ALIVE + 1
    assert not queue.worker()["alive"]
    job = queue.enqueue(spec())
    queue.claim("w")
    queue.report(job, 1, 2)
    assert queue.worker()["alive"]
    gone = ended()
    clock.now += 1
    queue.beat(gone, clock.now)
    assert queue.worker() == {**me, "alive": True, "seconds_since": 1.0}
    clock.now += queueing.ALIVE
    queue.beat(gone, clock.now)
    assert queue.worker() == {**here, "pid": gone, "born": None, "alive": False}


def test_a_worker_on_another_machine_is_known_as_such(queue, elsewhere):
    elsewhere.beat(ended(), time.time())
    worker = queue.worker()
    # No process of this machine has that number; there it may well live.
    assert (worker["host"], worker["here"], worker["alive"]) == ("elsewhere", False, True)


def test_a_number_that_a_later_process_has_is_another_worker(queue, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as process:
        job = queue.enqueue(spec())
        with monkeypatch.context() as there:
            there.setattr(queueing.os, "getpid", lambda: process.pid)
            for module in (queueing, processes):
                there.setattr(module, "birth", lambda pid: "another time")
            queue.beat(process.pid, time.time())
            queue.claim("w")
            assert queue.worker()["alive"]
            assert queue.recover() == 0
            queue.report(job, 1, 2)
        assert queue.worker()["pid"] == process.pid and not queue.worker()["alive"]
        with monkeypatch.context() as there:
            there.setattr(queueing.os, "getpid", lambda: process.pid)
            with pytest.raises(Cancelled, match="no longer this worker's"):
                queue.report(job, 1, 2)
        assert queue.recover() == 1
        process.kill()


def test_a_worker_whose_clock_was_ahead_is_heard_of_now_and_not_later(
    queue, elsewhere, monkeypatch
):
    clock = Clock(monkeypatch)
    clock.now += 3600
    elsewhere.beat(7, clock.now)
    ahead = elsewhere.enqueue(spec())
    elsewhere.claim("w")
    clock.now -= 3600
    assert queue.worker()["alive"] and queue.worker()["seconds_since"] == 0
    assert queue.recover() == 0
    clock.now += queueing.ALIVE + 1
    assert not queue.worker()["alive"]
    clock.now += queueing.LEASE - queueing.ALIVE
    assert queue.recover() == 1 and queue.job(ahead).status == "waiting"


def test_a_dead_workers_beat_ahead_hides_no_other_worker(queue, monkeypatch):
    clock = Clock(monkeypatch)
    gone = ended()
    clock.now += 3600
    queue.beat(gone, clock.now)
    clock.now -= 3600
    assert not queue.worker()["alive"]
    queue.beat(os.getpid(), clock.now)
    assert queue.worker()["pid"] == os.getpid() and queue.worker()["alive"]


FIRST_QUEUE = """
    CREATE TABLE job (
        id INTEGER PRIMARY KEY AUTOINCREMENT, step TEXT NOT NULL, spec TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'waiting', done INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '', run_id TEXT, error TEXT,
        created REAL NOT NULL, started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0,
        worker TEXT, host TEXT, pid INTEGER, lease REAL, stop INTEGER NOT NULL DEFAULT 0);
    CREATE UNIQUE INDEX one_live_job_per_spec ON job (step, spec)
        WHERE status IN ('waiting', 'running');
    CREATE TABLE worker (host TEXT, pid INTEGER, started REAL NOT NULL, beat REAL NOT NULL,
        PRIMARY KEY (host, pid));
    PRAGMA user_version = 1;
    INSERT INTO job (step, spec, created) VALUES ('sae', '{"model":"tea"}', 1);
    INSERT INTO job (step, spec, created, status, attempts, host, pid, lease)
        VALUES ('sae', '{"model":"milk"}', 2, 'running', 1, 'HOST', PID, 9e9);
    INSERT INTO worker VALUES ('HOST', PID, 1, 9e9);
"""


def test_a_queue_of_the_first_version_keeps_its_jobs(queue, tmp_path):
    con = sqlite3.connect(tmp_path / "queue.sqlite")
    con.executescript(
        FIRST_QUEUE.replace("HOST", socket.gethostname()).replace("PID", str(os.getpid()))
    )
    con.close()
    # Whoever worked then cannot go on with a queue of this version.
    assert queue.worker() is None
    assert queue.recover() == 1
    assert [queue.claim("w").spec["model"] for _ in "12"] == ["tea", "milk"]
    assert queue.job(1).attempts == 1 and queue.job(2).attempts == 2


def test_a_job_nobody_asked_for_is_a_sentence(queue):
    for ask in (queue.job, queue.cancel, queue.retry):
        with pytest.raises(InputError, match="There is no job 7"):
            ask(7)


def test_a_queue_of_a_newer_version_is_refused(queue, tmp_path):
    queue.enqueue(spec())
    con = sqlite3.connect(tmp_path / "queue.sqlite")
    con.execute("PRAGMA user_version = 99")
    con.close()
    with pytest.raises(SchemaTooNew, match="version 99"):
        queue.enqueue(spec("milk"))


def test_a_damaged_queue_is_a_sentence(tmp_path):
    (tmp_path / "queue.sqlite").write_bytes(b"not a database at all" * 999)
    with pytest.raises(InputError, match="is damaged .*delete the file"):
        Queue(tmp_path / "queue.sqlite").jobs()


def test_a_full_disk_keeps_the_queue_as_it_was(queue, monkeypatch):
    kept = queue.enqueue(spec())

    class Cramped(sqlite3.Connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            pages = self.execute("PRAGMA page_count").fetchone()[0]
            self.execute(f"PRAGMA max_page_count = {pages}")

    whole = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: whole(*a, factory=Cramped, **k))
    with pytest.raises(InputError, match="disk is full, the queue"):
        queue.enqueue(IngestSpec(name="x", source="y" * 100_000))
    assert [job.id for job in queue.jobs()] == [kept]
