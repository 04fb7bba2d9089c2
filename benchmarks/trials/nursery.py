"""Processes that are born to be killed.

They are forked from one that has imported everything, which would take most of their lives
otherwise. That one reads a line of JSON for each on its standard input (what to do, with what, and
after how many seconds to kill it, if at all) and writes one about how it ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.trials.promises import Broken
from fac.config import REPOSITORY, Workspace, read_spec
from fac.endpoints import Endpoints
from fac.jobs.steps import Steps, silent
from fac.jobs.worker import Worker
from fac.measure import tables
from fac.store import cache
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy
from tests.lexicon import LexiconEncoder

LONGEST = 120.0
"""Seconds after which a life that nobody ends counts as one that hangs."""


class WordSteps(Steps):
    """The real steps, with an encoder of words; any address may be asked."""

    def __init__(self, root: str):
        super().__init__(Workspace(Path(root)), endpoints=Endpoints((), unlisted=True))
        self.words = LexiconEncoder(*toy.WORDS)

    def encoder(self, spec: Any, progress: Any) -> Any:
        return self.words

    def checker(self, spec: Any, progress: Any) -> Any:
        return self.words.check

    def likelihood(self, spec: Any, progress: Any) -> None:
        """Words have none."""

    def describe_sae(self, spec: Any, progress: Any, encoder: Any = None) -> str:
        run = toy.publish_sae(self.runs, self.words)
        self.build_cache(run, progress)
        return run


def perform(root: str, step: str, spec: dict[str, Any]) -> str:
    """Any step, with features that are words and parts of a few samples."""
    tables.PART = 4
    return WordSteps(root).perform(read_spec(step, spec), silent)


def measure(root: str, spec: dict[str, Any]) -> str:
    """A measure with a real model and SAE."""
    tables.PART = 4
    return Steps(Workspace(Path(root))).perform(read_spec("measure", spec), silent)


def work(root: str) -> str:
    """A worker, until nothing waits."""
    Worker(Workspace(Path(root)), say=lambda _: None, steps=WordSteps(root)).run(until_idle=True)
    return ""


def build(root: str, run: str) -> str:
    place = Workspace(Path(root))
    return str(cache.build(Runs(place), run, place.cache))


def export(root: str, run: str, out: str, format: str) -> str:
    from fac.export import export

    return str(export(run, Path(out), runs=Runs(Workspace(Path(root))), format=format).path)


def demo(root: str) -> str:
    from fac.demo import materialise

    return materialise(Workspace(Path(root)), silent)[-1]


def decide(root: str, log: str) -> str:
    """Decisions one after another; the log has the number of each that was acknowledged."""
    store = Decisions(Workspace(Path(root)).decisions)
    with open(log, "ab", buffering=0) as file:
        for number in range(10**6):
            about = f"relevance/measure-1/{number}/tea"
            decision = store.add("Ada", "relevance", about, {"text": f"number {number}"}, "yes")
            file.write(f"{decision.uid}\n".encode())
    return ""


def ask(root: str, log: str) -> str:
    """Jobs asked for one after another, likewise."""
    from fac.config import IngestSpec

    queue = Queue(Workspace(Path(root)).queue)
    with open(log, "ab", buffering=0) as file:
        for number in range(10**6):
            job = queue.enqueue(IngestSpec(name=f"n{number}", source="x.jsonl"))
            file.write(f"{job}\n".encode())
    return ""


TASKS: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (perform, measure, work, build, export, demo, decide, ask)
}


class Life(NamedTuple):
    """How a process ended."""

    died: bool  # of SIGKILL
    answer: str  # what it returned; "" where it was killed
    seconds: float


class Nursery:
    """The process whose children are killed, seen from outside."""

    def __init__(self, *modules: str):
        """`modules` are imported before any child is born."""
        command = [sys.executable, "-m", __name__, *modules]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)
        self.orders: Any = self.process.stdin
        self.reports: Any = self.process.stdout

    def live(self, task: str, *, dies: float | None = None, **arguments: Any) -> Life:
        """One life, until its end or so many seconds after its birth. Raises Broken where it ended
        in another way."""
        self.orders.write(json.dumps([task, arguments, dies]) + "\n")
        self.orders.flush()
        line = self.reports.readline()
        if not line:
            raise RuntimeError("the nursery is gone")
        status, answer, seconds = json.loads(line)
        if status not in (0, -signal.SIGKILL) or (dies is None and status):
            raise Broken(f"{task} ended with {status}: {answer[-1500:]}")
        return Life(bool(status), answer, seconds)


@contextmanager
def nursery(*modules: str) -> Iterator[Nursery]:
    home = Nursery(*modules)
    try:
        yield home
    finally:
        home.orders.close()
        home.process.wait()
        home.reports.close()


def _answered(task: str, arguments: dict[str, Any], writes: int) -> int:
    """In the child: the answer or the error goes into a pipe."""
    status = 0
    try:
        answer = TASKS[task](**arguments)
    except BaseException as error:
        answer, status = f"{type(error).__name__}: {error}", 1
    os.write(writes, answer.encode("utf-8", "replace")[-4000:])
    return status


def main() -> None:
    for name in sys.argv[1:]:
        __import__(name)
    for line in sys.stdin:
        task, arguments, dies = json.loads(line)
        reads, writes = os.pipe()
        begun = time.monotonic()
        child = os.fork()
        if not child:
            os._exit(_answered(task, arguments, writes))
        os.close(writes)
        handle = os.pidfd_open(child)
        until = LONGEST if dies is None else dies
        if not select.select([handle], [], [], until)[0]:
            with suppress(ProcessLookupError):  # it is not buried yet, so the number is its own
                os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - begun
        os.close(handle)
        with open(reads, "rb") as pipe:
            answer = pipe.read().decode("utf-8", "replace")
        print(json.dumps([status, answer, seconds]), flush=True)


if __name__ == "__main__":
    main()
