"""Many people at once: sessions that walk the pages of one server while a measure runs beside it.

One crowd is run once; its promises are read off what came to pass. Every figure and row that a page
shows is held against the answer to the same question in this process, which remembers nothing. What
each session does is drawn from its number; when it does it depends on the machine.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pyarrow as pa
from streamlit.proto.Alert_pb2 import Alert

from benchmarks.dashboard import PATIENCE, Session, free_port, server
from benchmarks.trials.nursery import WordSteps
from benchmarks.trials.promises import Broken, Over, Promise, Trial
from benchmarks.trials.world import rows_of
from fac.config import REPOSITORY, MeasureSpec, Workspace
from fac.jobs.steps import silent
from fac.jobs.worker import Worker
from fac.questions.comparison import Comparison, change, coverage
from fac.questions.gap_evidence import gap_counts
from fac.questions.gaps import COLUMNS, GapList, gap_page, orders
from fac.schema import EVERY_ROLE
from fac.store import Stores, open_stores
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui.tables import PAGE_ROWS
from fac.ui.views import share
from tests import toy
from tests.lexicon import LexiconEncoder

FEATURES = 120
DATASETS = ("toy-anchor", "toy-seed", "toy-other")
MEASURED_MEANWHILE = "toy-busy"

THRESHOLDS = (0.0, 0.5, 1.0, 1.2, 1.5, 1.7, 2.0, 2.2)
"""A word said plainly fires with 1, each exclamation mark is a half more."""

ROLES = (EVERY_ROLE, EVERY_ROLE, "user", "assistant")
COMPARED = ("feature", "name", "badge", "n_dataset", "expected", "ratio", "n_anchor", "near")
"""Columns of the table of gaps that are held against the answer."""

PAUSE = 1.0
"""Seconds that a person reads, on average."""

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


class Visit(NamedTuple):
    """One run of a page."""

    session: int
    where: str  # the page and its address, or what was done there
    error: str = ""  # why it did not end as it should
    compared: bool = False  # with the answer
    wrong: str = ""  # how what it shows differs from that


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
    place = toy.toy_workspace(root, n_features=FEATURES, samples=texts, explained=True)
    waits = toy.publish_dataset(Runs(place), MEASURED_MEANWHILE, chats(2 * samples, words))
    return place, waits


def spec_of(dataset: str, number: int) -> MeasureSpec:
    """A measure of its own, that comes to the same as the others: no text is that long."""
    return MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy", max_tokens=1024 + number)


@contextmanager
def worker(place: Workspace) -> Iterator[None]:
    """A worker that is there before the dashboard would start its own, which knows no toy model."""
    process = subprocess.Popen([sys.executable, "-m", __name__, str(place.root)], cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 3 * PATIENCE / 1000
        while not (state := Queue(place.queue).worker()) or not state["alive"]:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the worker did not start")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


# ---- what the answers are -----------------------------------------------------------------------


class Truth:
    """The answers to what pages show, each asked once, of stores that remember nothing."""

    def __init__(self, place: Workspace):
        self.stores: Stores = open_stores(place, remember=False)
        self.runs = {name: self.stores.runs.resolve("measure", name) for name in DATASETS}
        self._answers: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def _once(self, question: Any, ask: Callable[[], Any]) -> Any:
        with self._lock:
            if question not in self._answers:
                self._answers[question] = ask()
            return self._answers[question]

    def figures(self, page: str, question: Comparison) -> dict[str, str]:
        """On the cards of the first page or of Coverage."""
        return self._once((page, question), lambda: self._figures(page, question))

    def _figures(self, page: str, question: Comparison) -> dict[str, str]:
        result, counts = coverage(self.stores, question), gap_counts(self.stores, question)
        numbers = {"Covered": result.n_covered, "Missing": result.n_missing}
        numbers["Certain"] = counts.certain
        if page == "coverage":
            numbers |= {"Anchor": result.n_anchor, "Dataset": result.n_dataset}
        else:
            manifest: Any = self.stores.runs.manifest(question.dataset)
            numbers["Samples"] = manifest.facts.n_samples
        name = "FAC" if page == "coverage" else "Coverage (FAC)"
        return {name: share(result.fac), **{label: f"{n:,}" for label, n in numbers.items()}}

    def rows(self, question: Comparison, sort: str) -> list[dict[str, Any]]:
        """The first page of the table of gaps."""
        listing = GapList(sort=sort, descending=not orders()[sort].ascending)

        def ask() -> list[dict[str, Any]]:
            return gap_page(self.stores, question, listing, limit=PAGE_ROWS)[0]

        return self._once((question, sort), ask)

    def of_feature(self, run: str, feature: int) -> dict[str, str]:
        """On the cards of the page of features."""

        def ask() -> dict[str, str]:
            facts = self.stores.cache.feature(run, feature)
            assert facts is not None
            n = facts["n_samples"]
            peak = f"{facts['max_peak']:.2f}" if n else "–"
            return {"Samples": f"{n:,}", "Share": share(facts["density"]), "Peak": peak}

        return self._once((run, feature), ask)

    def changed(self, before: Comparison, after: str) -> dict[str, str]:
        """On the cards of Compare."""

        def ask() -> dict[str, str]:
            changed = change(self.stores, before, replace(before, dataset=after))
            return {
                "FAC": share(changed.after.fac),
                "Gained": f"{len(changed.closed):,}",
                "Lost": f"{len(changed.opened):,}",
                "Missing": f"{changed.after.n_missing:,}",
                "Anchor": f"{changed.after.n_anchor:,}",
            }

        return self._once((before, after), ask)


# ---- who looks ----------------------------------------------------------------------------------


class Person:
    """One session after another, at one page after another, until it is time."""

    def __init__(self, number: int, address: str, truth: Truth, tell: Callable[[Visit], None]):
        self.number, self.address, self.truth, self.tell = number, address, truth, tell
        self.name = f"person-{number}"
        self.rng = random.Random(f"load {number}")
        self.session: Session | None = None
        self.question: Comparison | None = None  # of the page of coverage, while that is open
        self.said = 0  # decisions that were acknowledged

    def walk(self, until: float) -> None:
        """Looks about until that moment of the monotonic clock."""
        acts: dict[Callable[[Session], Iterator[Visit]], int] = {
            self.home: 3,
            self.coverage: 4,
            self.threshold: 5,
            self.features: 3,
            self.compare: 2,
            self.review: 2,
            self.poll: 3,
            self.elsewhere: 3,
        }
        try:
            while time.monotonic() < until:
                (act,) = self.rng.choices([*acts], [*acts.values()])
                self.do(act)
                time.sleep(self.rng.uniform(0, 2 * PAUSE))
        finally:
            self.leave()

    def do(self, act: Callable[[Session], Iterator[Visit]]) -> None:
        """One act, told; after an error, and now and then, the next one has a new session."""
        visit = Visit(self.number, act.__name__)
        try:
            self.session = self.session or Session(self.address)
            for visit in act(self.session):
                wrong = _complaint(self.session)
                self.tell(visit._replace(error=wrong) if wrong else visit)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self.tell(visit._replace(error=why[:600], where=self._where(visit.where)))
            self.leave()
        if self.rng.random() < 0.08:
            self.leave()

    def _where(self, act: str) -> str:
        return f"{act} {self.session.query if self.session else ''}".strip()

    def leave(self) -> None:
        """Closes the tab."""
        self.question = None
        session, self.session = self.session, None
        if session:
            with suppress(Exception):
                session.close()

    def ask(self) -> Comparison:
        """Another question of coverage."""
        anchor, dataset = self.rng.sample([*self.truth.runs.values()], 2)
        threshold, role = self.rng.choice(THRESHOLDS), self.rng.choice(ROLES)
        return Comparison(anchor, dataset, threshold, self.rng.choice((1, 1, 2)), role)

    def seen(self, where: str, differs: str) -> Visit:
        return Visit(self.number, where, compared=True, wrong=differs)

    # Each of these yields what it saw as soon as a page has run.

    def home(self, session: Session) -> Iterator[Visit]:
        self.question, question = None, self.ask()
        query = address_of(question)
        session.open("", query)
        expected = self.truth.figures("home", question)
        yield self.seen(f"home?{query}", figures_differ(expected, session.metrics))

    def coverage(self, session: Session) -> Iterator[Visit]:
        question, sort = self.ask(), self.rng.choice([*orders()])
        query = address_of(question, by=sort)
        self.question = None
        session.open("coverage", query)
        yield self.seen(f"coverage?{query}", self._differs(session, question, sort))
        self.question = question

    def threshold(self, session: Session) -> Iterator[Visit]:
        """Moves it, where the page of coverage is open."""
        if self.question is None:
            yield from self.coverage(session)
        assert self.question is not None
        others = [each for each in THRESHOLDS if each != self.question.threshold]
        question = replace(self.question, threshold=self.rng.choice(others))
        session.set("Coverage.threshold number", question.threshold)
        sort = _param(session.query, "by") or next(iter(orders()))
        where = f"coverage, threshold moved to {question.threshold:g}: {session.query}"
        self.question = question
        yield self.seen(where, self._differs(session, question, sort))

    def _differs(self, session: Session, question: Comparison, sort: str) -> str:
        expected = self.truth.figures("coverage", question)
        if differs := figures_differ(expected, session.metrics):
            return differs
        rows = self.truth.rows(question, sort)
        return rows_differ(rows, shown_rows(session, "gaps-")) if rows else ""

    def features(self, session: Session) -> Iterator[Visit]:
        self.question = None
        run = self.rng.choice([*self.truth.runs.values()])
        feature = self.rng.randrange(FEATURES)
        query = urlencode({"dataset": run, "feature": feature})
        session.open("features", query)
        differs = figures_differ(self.truth.of_feature(run, feature), session.metrics)
        yield self.seen(f"features?{query}", differs)

    def compare(self, session: Session) -> Iterator[Visit]:
        self.question, question = None, self.ask()
        (after,) = {*self.truth.runs.values()} - {question.anchor, question.dataset}
        sides = {"before": question.dataset, "after": after, "with": ""}
        query = address_of(question, **sides)
        session.open("compare", query)
        differs = figures_differ(self.truth.changed(question, after), session.metrics)
        yield self.seen(f"compare?{query}", differs)

    def review(self, session: Session) -> Iterator[Visit]:
        """Says yes to what is on top, if anything is."""
        self.question = None
        about = {"anchor": self.truth.runs["toy-anchor"], "kind": "explanation"}
        query = urlencode({"reviewer": self.name, "which": "explained", "every": "True", **about})
        session.open("review", query)
        yield Visit(self.number, f"review?{query}")
        if any(getattr(each, "label", "") == "Yes" for _, each, _ in session.widgets.values()):
            session.press("Yes")
            self.said += 1
            yield Visit(self.number, f"review, Yes: {session.query}")

    def poll(self, session: Session) -> Iterator[Visit]:
        """What a browser does by itself while a job runs."""
        if not session.polls:
            yield from self.elsewhere(session)
        for fragment in [*session.polls]:
            session.poll(fragment)
            yield Visit(self.number, "a fragment that runs every few seconds")

    def elsewhere(self, session: Session) -> Iterator[Visit]:
        """A page of which nothing is compared."""
        self.question = None
        pages = ("pairs", "jobs", "jobs", "datasets", "playground", "synthesis", "agreement")
        page = self.rng.choice((*pages, "fill", "experiments", "models", "connections"))
        session.open(page)
        yield Visit(self.number, page)


def address_of(question: Comparison, **more: str) -> str:
    """The query that asks this of any page; what another page left is overridden."""
    view = {
        "anchor": question.anchor,
        "dataset": question.dataset,
        "threshold": f"{question.threshold:g}",
        "role": question.role,
        "support": str(question.min_support),
    }
    return urlencode({**view, **more})


def _param(query: str, name: str) -> str:
    return dict(part.split("=", 1) for part in query.split("&") if "=" in part).get(name, "")


def _complaint(session: Session) -> str:
    """An error that the page shows, or that it shows another dataset than was asked for."""
    for format, text in session.alerts:
        if format == Alert.ERROR or "Another is shown" in text:
            return f"the page says: {text}"
    return ""


def figures_differ(expected: Mapping[str, str], shown: Mapping[str, str]) -> str:
    """In which figures a page differs from the answer; "" where in none."""
    return "; ".join(
        f"{label} is {shown.get(label, 'not shown')}, not {value}"
        for label, value in expected.items()
        if shown.get(label) != value
    )


def shown_rows(session: Session, key: str) -> list[dict[str, Any]]:
    """The rows of the newest table of that key."""
    _, body, _ = session.find(key=key)
    return pa.ipc.open_stream(body.arrow_data.data).read_all().to_pylist()


def rows_differ(expected: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]) -> str:
    """The first row in which a table of gaps differs from the answer; "" where none does."""
    if len(expected) != len(shown):
        return f"{len(shown)} rows, not {len(expected)}"
    decimals = {each.name: each.decimals for each in COLUMNS}
    for number, (row, other) in enumerate(zip(expected, shown, strict=True), 1):
        for name in COMPARED:
            if name in other and not _same(row[name], other[name], decimals.get(name)):
                return f"row {number} has {name} {other[name]!r}, not {row[name]!r}"
    return ""


def _same(value: Any, shown: Any, decimals: int | None) -> bool:
    if not isinstance(value, float) or shown is None:
        return bool(value == shown)
    value = value if decimals is None else round(value, decimals)
    return math.isclose(value, shown, rel_tol=1e-6, abs_tol=1e-12)


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
        place, waits = kitchen(Path(folder) / "kitchen", crowd.samples)
        alone = LoadSteps(str(place.root)).perform(spec_of(waits, 0), silent)
        with worker(place):
            return _come_to_pass(crowd, place, waits, alone)


def _come_to_pass(crowd: Crowd, place: Workspace, waits: str, alone: str) -> Tale:
    visits, looks, jobs = list[Visit](), list[Look](), list[int]()
    environment: Any = dict(crowd.environment)
    truth, queue, port = Truth(place), Queue(place.queue), free_port()
    with server(place, port=port, **environment) as address:
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
    decisions = Decisions(place.decisions)
    for each in people:
        kept = len(decisions.history(1_000_000, reviewer=each.name))
        differs = f"{kept} decisions are kept, not {each.said}" if kept != each.said else ""
        visits.append(each.seen(f"the decisions of {each.name}", differs))
    return Tale(visits, looks, [_same_measure(place, queue, job, alone) for job in jobs])


def _same_measure(place: Workspace, queue: Queue, number: int, alone: str) -> str:
    """How a measure differs from the one that ran alone; "" where in nothing."""
    job, runs = queue.job(number), Runs(place)
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
