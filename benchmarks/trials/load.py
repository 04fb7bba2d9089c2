"""Many people at once: sessions that walk the pages of one server while a measure runs beside it.

One crowd is run once; its promises are read off what came to pass. Every figure and row that a page
shows is held against the answer to the same question in this process, which remembers nothing. What
each session does is drawn from its number; when it does it depends on the machine.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.dashboard import PATIENCE, free_port, server
from benchmarks.trials.nursery import WordSteps
from benchmarks.trials.people import FEATURES, Person, Truth, Visit
from benchmarks.trials.promises import Broken, Over, Promise, Trial
from benchmarks.trials.world import rows_of
from fac.config import REPOSITORY, MeasureSpec, Workspace
from fac.jobs.steps import silent
from fac.jobs.worker import Worker
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy
from tests.lexicon import LexiconEncoder

MEASURED_MEANWHILE = "toy-busy"

SAMPLED = 2.0
"""Seconds from one look at the server's memory to the next."""

SETTLED = 0.2
"""Of a crowd's time: after it everything was opened that fills memory for good."""


class Crowd(NamedTuple):
    """Who looks, for how long, and at how much."""

    sessions: int = 25
    minutes: float = 10.0
    samples: int = 240  # of the anchor; of the others half as many
    megabytes: float = 50.0  # that the server may grow by once it has settled
    environment: tuple[tuple[str, str], ...] = ()  # of the server, beside this process's own


CROWD = Crowd()
"""The long form; the command line may ask for another."""


class Look(NamedTuple):
    """How much memory the server and its children had."""

    minutes: float
    megabytes: float


class Tale(NamedTuple):
    """What came to pass."""

    visits: Sequence[Visit]
    looks: Sequence[Look]
    measures: Sequence[str]  # of each, "" or why it is not what it is alone


# ---- what they look at --------------------------------------------------------------------------


def vocabulary() -> list[str]:
    """The words of the toy dictionary of that many features."""
    return [*toy.WORDS, *(f"unsaid{i}" for i in range(len(toy.WORDS), FEATURES))]


class LoadSteps(WordSteps):
    """The real steps, with an encoder of all these words."""

    def __init__(self, root: str):
        super().__init__(root)
        self.words = LexiconEncoder(*vocabulary())


def kitchen(root: Path, samples: int) -> tuple[Workspace, str]:
    """A workspace of three measured datasets, with explanations, and one dataset run that waits."""
    rng, words = random.Random("load"), vocabulary()
    plain = ["we", "had", "warm", "bread", "and", "went", "there", "by", "noon"]

    def say(known: Sequence[str]) -> str:
        drawn = (rng.choice(known) + "!" * rng.choice((0, 0, 0, 1, 2, 3)) for _ in range(4))
        return " ".join([*rng.sample(plain, 6), *drawn])

    def chats(n: int, known: Sequence[str]) -> list[Any]:
        return [toy._chat(say(known), say(known)) for _ in range(n)]

    texts = {
        "toy-anchor": chats(samples, words),
        "toy-seed": chats(samples // 2, words[: FEATURES // 2]),
        "toy-other": chats(samples // 2, words[FEATURES // 3 :: 2]),
    }
    workspace = toy.toy_workspace(root, n_features=FEATURES, samples=texts, explained=True)
    waits = toy.publish_dataset(Runs(workspace), MEASURED_MEANWHILE, chats(2 * samples, words))
    return workspace, waits


def spec_of(dataset: str, number: int) -> MeasureSpec:
    """A measure of its own, that comes to the same as the others: no text is that long."""
    return MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy", max_tokens=1024 + number)


@contextmanager
def worker(workspace: Workspace) -> Iterator[None]:
    """A worker that is there before the dashboard would start its own, which knows no toy model."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(workspace.root)], cwd=REPOSITORY
    )
    try:
        deadline = time.monotonic() + 3 * PATIENCE / 1000
        while not (state := Queue(workspace.queue).worker()) or not state["alive"]:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the worker did not start")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


# ---- the crowd ----------------------------------------------------------------------------------


def resident(pid: int) -> float:
    """Megabytes that a process and its descendants hold."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
    family = {pid}
    while more := {each for each, parent in parents.items() if parent in family} - family:
        family |= more
    pages = 0
    for each in family:
        with suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def process_on(port: int) -> int:
    """The number of the server that was started on a port."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if b"streamlit" in words and str(port).encode() in words:
                return int(entry.parent.name)
    raise RuntimeError(f"no server listens on port {port}")


@cache
def tale_of(crowd: Crowd) -> Tale:
    """Carries it out, once in a process."""
    with tempfile.TemporaryDirectory(prefix="fac-load-", ignore_cleanup_errors=True) as folder:
        workspace, waits = kitchen(Path(folder) / "kitchen", crowd.samples)
        alone = LoadSteps(str(workspace.root)).perform(spec_of(waits, 0), silent)
        with worker(workspace):
            return _come_to_pass(crowd, workspace, waits, alone)


def _come_to_pass(crowd: Crowd, workspace: Workspace, waits: str, alone: str) -> Tale:
    visits, looks, jobs = list[Visit](), list[Look](), list[int]()
    environment: Any = dict(crowd.environment)
    truth, queue, port = Truth(workspace), Queue(workspace.queue), free_port()
    with server(workspace, port=port, **environment) as address:
        pid, begun = process_on(port), time.monotonic()
        until = begun + 60 * crowd.minutes
        people = [Person(n, address, truth, visits.append) for n in range(crowd.sessions)]
        threads = [threading.Thread(target=each.walk, args=(until,)) for each in people]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            looks.append(Look((time.monotonic() - begun) / 60, resident(pid)))
            if not queue.live() and time.monotonic() < until:
                jobs.append(queue.enqueue(spec_of(waits, 1 + len(jobs))))
            time.sleep(min(SAMPLED, 60 * crowd.minutes / 20))
        patience = time.monotonic() + PATIENCE / 1000
        while queue.live() and time.monotonic() < patience:
            time.sleep(0.2)
    decisions = Decisions(workspace.decisions)
    for each in people:
        kept = len(decisions.history(1_000_000, reviewer=each.name))
        differs = f"{kept} decisions are kept, not {each.decisions}"
        about = f"the decisions of {each.name}"
        visits.append(each.held(about, differs if kept != each.decisions else ""))
    return Tale(visits, looks, [_same_measure(workspace, queue, job, alone) for job in jobs])


def _same_measure(workspace: Workspace, queue: Queue, number: int, alone: str) -> str:
    """How a measure differs from the one that ran alone; "" where in nothing."""
    job, runs = queue.job(number), Runs(workspace)
    if job.status != "done" or job.run_id is None:
        return f"job {number} is {job.status}: {job.error}"
    same = rows_of(runs, job.run_id) == rows_of(runs, alone)
    return "" if same else f"{job.run_id} of job {number} has other rows than {alone}"


# ---- its promises -------------------------------------------------------------------------------


def each_of(ends: Callable[[Tale], Iterable[tuple[str, str]]]) -> Any:
    """The trials of a promise: how each ended, or else why it was broken."""

    @contextmanager
    def begin(folder: Path) -> Iterator[Trial]:
        left = iter(ends(tale_of(CROWD)))

        def trial(rng: random.Random) -> str:
            end, why = next(left, ("", ""))
            if why:
                raise Broken(why)
            if not end:
                raise Over
            return end

        yield trial

    return begin


def ends_of_runs(tale: Tale) -> Iterator[tuple[str, str]]:
    """Of every run of a page."""
    for visit in tale.visits:
        why = f"session {visit.session} at {visit.where}: {visit.error}"
        yield "ended as they should", why if visit.error else ""


def ends_of_answers(tale: Tale) -> Iterator[tuple[str, str]]:
    """Of every run of a page whose figures and rows were compared."""
    for visit in tale.visits:
        why = f"session {visit.session} at {visit.where}: {visit.wrong}"
        if visit.compared:
            yield "the same", why if visit.wrong else ""


def ends_of_memory(tale: Tale) -> Iterator[tuple[str, str]]:
    """Of the one look back."""
    yield memory_in_words(CROWD, tale.looks)


def memory_in_words(crowd: Crowd, looks: Sequence[Look]) -> tuple[str, str]:
    """How memory went, and why that is too much, if it is: medians of half a minute (a twentieth of
    the time) after a fifth of it and at its end."""
    first, width = SETTLED * crowd.minutes, crowd.minutes / 20
    settled = [look.megabytes for look in looks if first <= look.minutes <= first + width]
    last = looks[-1].minutes if looks else 0.0
    end = [look.megabytes for look in looks if look.minutes >= last - width]
    if not settled:
        return "", "nobody looked at the memory in time"
    before, after = median(settled), median(end)
    most = max(look.megabytes for look in looks)
    words = (
        f"{crowd.sessions} sessions for {crowd.minutes:g} minutes: {before:,.0f} MB after "
        f"{first:g}, {after:,.0f} MB at the end, never more than {most:,.0f} MB"
    )
    grew = after - before
    return words, f"grew by {grew:,.0f} MB; {words}" if grew > crowd.megabytes else ""


def ends_of_measures(tale: Tale) -> Iterator[tuple[str, str]]:
    """Of the measures that ran meanwhile."""
    for why in tale.measures:
        yield "the same", why


MANY = 1_000_000
"""More runs of pages than there are in any time that somebody waits."""

PROMISES = (
    Promise(
        "load",
        "errors",
        "While many look at once and a measure runs, every run of a page ends without an error.",
        each_of(ends_of_runs),
        MANY,
    ),
    Promise(
        "load",
        "figures and rows",
        "While many look at once and a measure runs, a page shows the figures and rows that answer "
        "its question in a process of its own, and every decision is kept once.",
        each_of(ends_of_answers),
        MANY,
    ),
    Promise(
        "load",
        "measures",
        "A measure beside many that look comes to what it comes to alone.",
        each_of(ends_of_measures),
        MANY,
    ),
    Promise(
        "load",
        "memory",
        "After the first fifth of the time the server, asked by many at once beside a measure, "
        "grows by no more than 50 MB.",
        each_of(ends_of_memory),
        1,
    ),
)


def main() -> None:
    """The worker of a crowd."""
    root = sys.argv[1]
    Worker(Workspace(Path(root)), say=lambda _: None, steps=LoadSteps(root)).run()


if __name__ == "__main__":
    main()
