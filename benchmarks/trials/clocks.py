"""Clocks: signs of life from the future, from other machines, and of processes whose number is
another's by now."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.trials.promises import Broken, Promise, Trial
from fac.config import IngestSpec, Workspace
from fac.jobs.worker import stop_worker
from fac.store import queue as queueing
from fac.store.processes import birth
from fac.store.queue import Queue

AHEAD = (0.0, 1.0, 60.0, 3600.0, 86_400.0, 1e9)
"""Seconds by which another machine's clock goes wrong, either way."""


class Clock:
    """Stands in the place of the module `time` that the queue reads."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def time(self) -> float:
        return self.now


def ended() -> int:
    """The number of a process that has ended and is buried."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@contextmanager
def leases(folder: Path) -> Iterator[Trial]:
    """A job that a worker took whose clock, machine or number is wrong."""
    clock, host, before = Clock(), socket.gethostname(), queueing.time
    queueing.time = clock  # type: ignore[assignment]
    gone, here = ended(), os.getpid()
    numbers = {
        "a living process": (here, birth(here)),
        "a dead process": (gone, "0" * 12),
        "a number that is another's now": (here, "0" * 12),
        "a process without a birth": (here, None),
    }

    def trial(rng: random.Random) -> str:
        path = folder / f"{rng.random()}.sqlite"
        queue, elsewhere = Queue(path), Queue(path)
        job = queue.enqueue(IngestSpec(name="x", source="y"))
        kind = rng.choice(sorted(numbers))
        pid, born = numbers[kind]
        is_here = rng.random() < 0.5
        elsewhere._host = host if is_here else "another-machine"
        elsewhere._me = lambda: {  # type: ignore[method-assign]
            "host": elsewhere._host,
            "pid": pid,
            "born": born,
            "now": clock.now,
        }
        wrong = rng.choice(AHEAD) * rng.choice((1, -1))
        clock.now += wrong
        with elsewhere._writing() as con:
            con.execute(queueing.BEAT, {**elsewhere._me(), "started": clock.now})
        if elsewhere.claim("w") is None:
            raise Broken("the job could not be claimed")
        clock.now -= wrong
        lives = is_here and kind == "a living process"
        state = queue.worker()
        if is_here and not lives and state and state["alive"]:
            raise Broken(f"{kind} counts as alive, {wrong:+g} s off")
        # Once the beat was looked at, silence ends it after ALIVE seconds, wherever it was.
        clock.now += queueing.ALIVE + 1
        state = queue.worker()
        if state and state["alive"]:
            raise Broken(f"{kind} counts as alive after {queueing.ALIVE:.0f} s, {wrong:+g} s off")
        queue.recover()
        clock.now += queueing.LEASE + 1
        queue.recover()
        status = queue.job(job).status
        if status != "waiting":
            raise Broken(f"the job of {kind} is {status} after its lease, {wrong:+g} s off")
        again = queue.claim("mine")
        if again is None or queue.claim("mine") is not None:
            raise Broken("the job is not there once")
        path.unlink()
        return "on this machine" if is_here else "on another"

    try:
        yield trial
    finally:
        queueing.time = before


@contextmanager
def numbers_of_others(folder: Path) -> Iterator[Trial]:
    """A worker is to be stopped whose number belongs to another process by now, or still to it."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]

    def trial(rng: random.Random) -> str:
        workspace = Workspace(folder / str(rng.random()))
        queue = Queue(workspace.queue)
        process = subprocess.Popen(command)
        try:
            born = birth(process.pid)
            reused = rng.random() < 0.5
            values: dict[str, Any] = {"born": "0" * 12 if reused else born}
            values |= {"host": socket.gethostname(), "pid": process.pid}
            now = queueing.time.time() + rng.choice(AHEAD[:5])
            with queue._writing() as con:
                con.execute(queueing.BEAT, {**values, "started": now, "now": now})
            stopped = _stopped(workspace, process)
            if stopped == reused:
                raise Broken("another's process was killed" if reused else "it was not stopped")
            return "another's process lives" if reused else "stopped"
        finally:
            process.kill()
            process.wait()

    yield trial


def _stopped(workspace: Workspace, process: subprocess.Popen[bytes]) -> bool:
    stop_worker(workspace)
    try:
        process.wait(0.2)
        return True
    except subprocess.TimeoutExpired:
        return False


PROMISES = (
    Promise(
        "clocks",
        "leases",
        "Whatever clock, machine or process number a worker that is gone has signed with, it does "
        "not count as alive once it was silent, and its job waits again, once.",
        leases,
        2_000,
    ),
    Promise(
        "clocks",
        "process numbers",
        "Only the process that was the worker is stopped, never another that has its number now.",
        numbers_of_others,
        60,
    ),
)
