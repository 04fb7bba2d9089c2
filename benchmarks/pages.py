"""How long the server works on a page, and how much it sends: `python -m benchmarks.pages`.

Starts the real dashboard on a workspace and drives every page over its websocket, as a browser
does: the page opened anew in a fresh session, run again as it is, and then what people do there, a
threshold moved, the next feature, the next pair. Each is timed from the request to the last message
of the run, so the way over the loopback is counted too. Chromium opens the first page of a fresh
server. The workspace is only read: decisions are made in a copy.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.dashboard import BROWSERS, Rerun, Session, chromium_page, server
from fac.config import REPOSITORY, Workspace
from fac.store.runs import Runs

Act = Callable[[Session, int], Rerun]
"""Something a person does, for the n-th time; what it took."""

WORDS = ("the", "bake", "river", "code", "in", "love", "why", "train", "of", "#12")
"""Searched for: some are in many labels, some in none."""


TIMES_OPENED = 5
"""Fresh servers whose first page a fresh Chromium draws."""


class Figures(NamedTuple):
    """One row of the table."""

    page: str
    what: str
    seconds: list[float]
    bytes: list[int]


def rotated(options: Sequence[object], n: int) -> object:
    return options[n % len(options)]


def slide(session: Session, n: int) -> Rerun:
    """Another threshold, never the same twice in a row."""
    key = next(k for k, (kind, *_) in session.widgets.items() if kind == "slider")
    _, slider, _ = session.widgets[key]
    steps = round((slider.max - slider.min) / slider.step)
    step = 1 + (37 * n) % max(steps - 1, 1)
    return session.set("", slider.min + step * slider.step, label=slider.label)


def searching(page: str) -> Act:
    return lambda session, n: session.set(f"{page}.q", rotated(WORDS, n))


def row_of(table: str) -> Act:
    return lambda session, n: session.choose(table, rows=[n % 7])


def cell_of(table: str) -> Act:
    return lambda session, n: session.choose(table, cells=[(n % 7, "name")])


def one_of(key: str, *, label: str | None = None) -> Act:
    """The next option of a picker."""

    def act(session: Session, n: int) -> Rerun:
        kind, widget, _ = session.find(key=key, label=label)
        names = [option.content for option in widget.options] if kind == "button_group" else None
        return session.set(key, rotated(names or widget.options, n + 1), label=label)

    return act


def page_of(key: str) -> Act:
    """The next page of a table."""

    def act(session: Session, n: int) -> Rerun:
        _, pages, _ = session.find(key=key, kind="pagination")
        return session.set(pages.id.split("-", 2)[2], 1 + (n + 1) % pages.num_pages)

    return act


def press(label: str) -> Act:
    return lambda session, n: session.press(label)


VISITS: dict[str, tuple[str, dict[str, Act]]] = {
    "home": ("", {"threshold": slide}),
    "datasets": (
        "",
        {"search": lambda s, n: s.set("search of ", rotated(WORDS, n)), "next page": page_of("")},
    ),
    "features": (
        "",
        {
            "next feature": row_of("features-"),
            "search": searching("Features"),
            "sort": one_of("Features.sort"),
            "next page": page_of("Features.features"),
        },
    ),
    "coverage": (
        "",
        {
            "threshold": slide,
            "next gap": cell_of("gaps-"),
            "search": searching("Coverage"),
            "sort": one_of("Coverage.by"),
            "next page": page_of("Coverage.gaps"),
            "whose tokens": one_of("Coverage.role"),
        },
    ),
    "compare": ("", {"other dataset": one_of("Compare.before")}),
    "playground": ("{probe}", {"next feature": row_of("probe-")}),
    "review": ("reviewer=benchmark&which=explained", {"next item": press("Yes")}),
    "agreement": ("kind=explanation", {"kind": one_of("Agreement.kind")}),
    "pairs": ("reviewer=benchmark&show=all", {"next pair": press("Skip")}),
    "synthesis": (
        "{synthesis}",
        {"next text": row_of("texts-"), "sort": one_of("Synthesis.texts by")},
    ),
    "jobs": ("", {}),
}
"""Page -> its query and what is done there. An act for which the workspace has nothing, a second
page of a short table, a pair where none was written, is left out and said so."""


@contextmanager
def borrowed(workspace: Workspace) -> Iterator[Workspace]:
    """A workspace that shows the runs and caches of another, with a queue and decisions of its own:
    nothing that is done in it reaches the other."""
    with tempfile.TemporaryDirectory(prefix="fac-pages-") as folder:
        copy = Workspace(Path(folder).resolve())
        copy.cache.symlink_to(workspace.cache.resolve())
        for run in workspace.runs.glob("*/[!.]*"):
            target = copy.runs / run.parent.name / run.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(run.resolve())
        if workspace.tasks.exists():
            shutil.copy(workspace.tasks, copy.tasks)
        if workspace.decisions.exists():
            with (
                closing(sqlite3.connect(f"file:{workspace.decisions}?mode=ro", uri=True)) as old,
                closing(sqlite3.connect(copy.decisions)) as new,
            ):
                old.backup(new)
        yield copy


def links(workspace: Workspace) -> dict[str, str]:
    """Queries that put the newest probe and the newest synthesis on their pages."""
    runs = Runs(workspace)
    newest = {step: next(iter(runs.list(step)), None) for step in ("probe", "synthetic")}
    return {
        "probe": f"probe={newest['probe'].run}" if newest["probe"] else "",
        "synthesis": f"synthesis={newest['synthetic'].run}" if newest["synthetic"] else "",
    }


def visit(address: str, page: str, query: str, times: int) -> Iterator[Figures]:
    """Everything about one page: opened by newcomers, run again, and used."""
    path = "" if page == "home" else page
    opened = []
    for _ in range(max(1, times // 5)):
        with closing(Session(address)) as session:
            opened.append(session.open(path, query))
    yield _figures(page, "open", opened)
    acts: dict[str, Act] = {"run again": lambda session, _: session.again(), **VISITS[page][1]}
    for what, act in acts.items():
        with closing(Session(address)) as session:
            session.open(path, query)
            try:
                yield _figures(page, what, [act(session, n) for n in range(times)])
            except LookupError as error:
                print(f"{page}, {what}: left out, {error}", file=sys.stderr)


def _figures(page: str, what: str, runs: Sequence[Rerun]) -> Figures:
    return Figures(page, what, [run.seconds for run in runs], [run.bytes for run in runs])


def first_page(address: str, executable: str, last: str = ".fac-curve") -> float:
    """Seconds from the request until the first page of a fresh server is drawn, which is when a
    number of it and `last` are there and nothing runs any more."""
    with chromium_page(executable) as page:
        begun = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.get_by_test_id("stMetric").first.wait_for()
        page.locator(last).first.wait_for()
        page.wait_for_function("!document.querySelector('[data-test-script-state=running]')")
        return time.perf_counter() - begun


@contextmanager
def bare_page() -> Iterator[Path]:
    """A script that shows one number: what of a first page is Streamlit's own."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bare.py"
        script.write_text("import streamlit as st\n\nst.metric('One', 1)\n")
        shutil.copytree(REPOSITORY / ".streamlit", Path(folder) / ".streamlit")
        yield script


def static_bytes(address: str, executable: str) -> int:
    """What a browser that was never here fetches beside the page's own data: Streamlit itself."""
    with chromium_page(executable) as page:
        sizes: list[int] = []
        page.on(
            "requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"])
        )
        page.goto(address)
        page.locator(".fac-curve").first.wait_for()
        page.wait_for_timeout(500)
        return sum(sizes)


def table(figures: Sequence[Figures]) -> str:
    """The figures as docs/benchmarks.md shows them."""
    lines = ["| page | what | p50 ms | p95 ms | largest kB |", "|---|---|---:|---:|---:|"]
    for row in figures:
        middle, late = np.percentile(row.seconds, [50, 95]) * 1000
        size = max(row.bytes) / 1000
        lines.append(f"| {row.page} | {row.what} | {middle:.0f} | {late:.0f} | {size:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints the table; what it must show is said below it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, required=True, help="is only read")
    parser.add_argument("--times", type=int, default=30, help="how often each thing is done")
    parser.add_argument("--pages", nargs="*", choices=VISITS, default=[*VISITS])
    parser.add_argument("--no-browser", action="store_true", help="leave Chromium out")
    parser.add_argument("--quick", action="store_true", help="each thing twice, no Chromium")
    options = parser.parse_args()
    times = 2 if options.quick else options.times
    browser = None if options.quick or options.no_browser else _browser(parser)
    with borrowed(Workspace(options.workspace.resolve())) as copy:
        if browser:
            waits, bare = [], []
            for _ in range(TIMES_OPENED):
                with server(copy) as address:
                    waits.append(first_page(address, browser))
                with bare_page() as script, server(copy, script) as address:
                    bare.append(first_page(address, browser, "[data-testid=stMetric]"))
            with server(copy) as address:
                static = static_bytes(address, browser)
        queries = links(copy)
        figures: list[Figures] = []
        with server(copy) as address:
            for page in options.pages:
                figures += visit(address, page, VISITS[page][0].format(**queries), times)
    print(table(figures))
    reruns = [row for row in figures if row.what != "open"]
    slowest = max(reruns, key=lambda row: float(np.percentile(row.seconds, 95)))
    largest = max(figures, key=lambda row: max(row.bytes))
    print()
    print(
        f"Slowest rerun: {slowest.page}, {slowest.what}, "
        f"p95 {np.percentile(slowest.seconds, 95) * 1000:.0f} ms. "
        f"Largest payload: {largest.page}, {max(largest.bytes) / 1e6:.2f} MB."
    )
    if browser:
        print(
            f"First page in Chromium after the server is up: {_seconds(waits)}; a bare page of "
            f"Streamlit: {_seconds(bare)}. Streamlit's own files: {static / 1e6:.1f} MB."
        )


def _seconds(waits: Sequence[float]) -> str:
    """The median, and each."""
    return f"{np.median(waits):.1f} s ({', '.join(f'{each:.1f}' for each in waits)})"


def _browser(parser: argparse.ArgumentParser) -> str:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error("there is no Chromium on this machine: apt-get install chromium")
    return browser


if __name__ == "__main__":
    main()
