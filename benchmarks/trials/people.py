"""People who look at the pages of a server: what they do there, and what the answers are.

Each is a session without a browser whose choices are drawn from its number. What a page shows is
held against the answer to the same question in this process, whose stores remember nothing.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pyarrow as pa
from streamlit.proto.Alert_pb2 import Alert

from benchmarks.dashboard import Session
from fac.config import Workspace
from fac.questions.comparison import Comparison, change, coverage
from fac.questions.gap_evidence import gap_counts
from fac.questions.gaps import COLUMNS, GapList, gap_page, orders
from fac.schema import EVERY_ROLE
from fac.store import Stores, open_stores
from fac.ui.tables import PAGE_ROWS
from fac.ui.views import share

FEATURES = 120
DATASETS = ("toy-anchor", "toy-seed", "toy-other")

THRESHOLDS = (0.0, 0.5, 1.0, 1.2, 1.5, 1.7, 2.0, 2.2)
"""A word said plainly fires with 1, each exclamation mark is a half more."""

ROLES = (EVERY_ROLE, EVERY_ROLE, "user", "assistant")
COMPARED = ("feature", "name", "badge", "n_dataset", "expected", "ratio", "n_anchor", "near")
"""Columns of the table of gaps that are held against the answer."""

PAUSE = 1.0
"""Seconds that a person reads, on average."""


class Visit(NamedTuple):
    """One run of a page."""

    session: int
    where: str  # the page and its address, or what was done there
    error: str = ""  # why it did not end as it should
    compared: bool = False  # with the answer
    wrong: str = ""  # how what it shows differs from that


# ---- what the answers are -----------------------------------------------------------------------


class Truth:
    """The answers to what pages show, each asked once, of stores that remember nothing."""

    def __init__(self, workspace: Workspace):
        self.stores: Stores = open_stores(workspace, remember=False)
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

    def __init__(self, number: int, address: str, truth: Truth, report: Callable[[Visit], None]):
        self.number, self.address, self.truth, self.report = number, address, truth, report
        self.name = f"person-{number}"
        self.rng = random.Random(f"load {number}")
        self.session: Session | None = None
        self.question: Comparison | None = None  # of the page of coverage, while that is open
        self.decisions = 0  # that were acknowledged

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
                self.report(visit._replace(error=wrong) if wrong else visit)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self.report(visit._replace(error=why[:600], where=self._where(visit.where)))
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

    def held(self, where: str, differs: str) -> Visit:
        """What was held against the answer, and how it differs."""
        return Visit(self.number, where, compared=True, wrong=differs)

    # Each of these yields what it saw as soon as a page has run.

    def home(self, session: Session) -> Iterator[Visit]:
        self.question, question = None, self.ask()
        query = address_of(question)
        session.open("", query)
        expected = self.truth.figures("home", question)
        yield self.held(f"home?{query}", figures_differ(expected, session.metrics))

    def coverage(self, session: Session) -> Iterator[Visit]:
        question, sort = self.ask(), self.rng.choice([*orders()])
        query = address_of(question, by=sort)
        self.question = None
        session.open("coverage", query)
        yield self.held(f"coverage?{query}", self._differs(session, question, sort))
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
        yield self.held(where, self._differs(session, question, sort))

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
        yield self.held(f"features?{query}", differs)

    def compare(self, session: Session) -> Iterator[Visit]:
        self.question, question = None, self.ask()
        (after,) = {*self.truth.runs.values()} - {question.anchor, question.dataset}
        sides = {"before": question.dataset, "after": after, "with": ""}
        query = address_of(question, **sides)
        session.open("compare", query)
        differs = figures_differ(self.truth.changed(question, after), session.metrics)
        yield self.held(f"compare?{query}", differs)

    def review(self, session: Session) -> Iterator[Visit]:
        """Says yes to what is on top, if anything is."""
        self.question = None
        about = {"anchor": self.truth.runs["toy-anchor"], "kind": "explanation"}
        query = urlencode({"reviewer": self.name, "which": "explained", "every": "True", **about})
        session.open("review", query)
        yield Visit(self.number, f"review?{query}")
        if any(getattr(each, "label", "") == "Yes" for _, each, _ in session.widgets.values()):
            session.press("Yes")
            self.decisions += 1
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


def figures_differ(expected: Mapping[str, str], page: Mapping[str, str]) -> str:
    """In which figures a page differs from the answer; "" where in none."""
    return "; ".join(
        f"{label} is {page.get(label, 'not shown')}, not {value}"
        for label, value in expected.items()
        if page.get(label) != value
    )


def shown_rows(session: Session, key: str) -> list[dict[str, Any]]:
    """The rows of the newest table of that key."""
    _, body, _ = session.find(key=key)
    return pa.ipc.open_stream(body.arrow_data.data).read_all().to_pylist()


def rows_differ(expected: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> str:
    """The first row in which a table of gaps differs from the answer; "" where none does."""
    if len(expected) != len(cells):
        return f"{len(cells)} rows, not {len(expected)}"
    decimals = {each.name: each.decimals for each in COLUMNS}
    for number, (row, other) in enumerate(zip(expected, cells, strict=True), 1):
        for name in COMPARED:
            if name not in other:
                return f"there is no column {name}"
            if not _same(row[name], other[name], decimals.get(name)):
                return f"row {number} has {name} {other[name]!r}, not {row[name]!r}"
    return ""


def _same(value: Any, cell: Any, decimals: int | None) -> bool:
    if not isinstance(value, float) or cell is None:
        return bool(value == cell)
    value = value if decimals is None else round(value, decimals)
    return math.isclose(value, cell, rel_tol=1e-6, abs_tol=1e-12)
