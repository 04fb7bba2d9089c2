"""Approving pairs in a real Chromium, by keyboard; ticking gaps with the mouse.

The dashboard's worker is one whose features are words and whose writer is scripted.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from fac import review
from fac.config import REPOSITORY, PairsSpec, Workspace
from fac.jobs.steps import Steps
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui.tables import TALL_ROW
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_cli_make import MISSING, MakingSteps
from tests.test_jobs import quiet
from tests.toy import WORDS, toy_workspace

pytestmark = pytest.mark.browser

WORKER = """
import sys
from importlib import import_module
from pathlib import Path
from fac.config import Workspace
from fac.jobs.worker import Worker
place = Workspace(Path(sys.argv[1]))
steps = getattr(import_module(sys.argv[2]), sys.argv[3])
Worker(place, say=lambda _: None, steps=steps(place)).run()
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("pairs"), explained=True)


@contextmanager
def worker(place: Workspace, steps: type[Steps] = MakingSteps) -> Iterator[None]:
    """A worker that is there before the dashboard would start its own, which has no toy model."""
    arguments = [str(place.root), steps.__module__, steps.__name__]
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 3 * PATIENCE / 1000
        while not (state := Queue(place.queue).worker()) or not state["alive"]:
            assert process.poll() is None and time.monotonic() < deadline, (
                "the worker did not start"
            )
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def address(toy: Workspace, chromium: str) -> Iterator[str]:
    with worker(toy), server(toy) as running:
        yield running


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium, width=1280) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_decided(toy: Workspace) -> Decisions:
    """Every test begins with an empty file of decisions."""
    for path in toy.root.glob("decisions.sqlite*"):
        path.unlink()
    return Decisions(toy.decisions)


@pytest.fixture
def run(toy: Workspace, request: pytest.FixtureRequest) -> str:
    """Pairs for all six gaps, another run for every test."""
    runs = Runs(toy)
    anchor, dataset = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    seed = sum(map(ord, request.node.name))
    spec = PairsSpec(
        anchor=anchor, dataset=dataset, features=tuple(MISSING), candidates=3, seed=seed
    )
    return MakingSteps(toy).perform(spec, quiet)


def desk(address: str, run: str, reviewer: str, **view: str) -> str:
    more = "".join(f"&{name}={value}" for name, value in view.items())
    return f"{address}/pairs?pairs={run}&reviewer={reviewer}{more}"


def heading(page: Page) -> str:
    return page.locator("h4").inner_text()


def feature(page: Page) -> int:
    return int(heading(page).split()[0].removeprefix("#"))


def press(page: Page, key: str) -> float:
    """Presses a key that ends a pair; milliseconds until the next one stands there."""
    before = heading(page)
    begun = time.perf_counter()
    page.keyboard.press(key)
    changed = "before => document.querySelector('h4')?.innerText !== before"
    page.wait_for_function(changed, arg=before, polling=5, timeout=PATIENCE)
    return 1000 * (time.perf_counter() - begun)


def approved(toy: Workspace, run: str) -> list[int]:
    found = review.approved_pairs(Decisions(toy.decisions), Runs(toy), run)
    return [row["feature"] for row in found]


@pytest.mark.quiet
def test_pairs_are_decided_on_by_keyboard_alone_and_fast(page, address, toy, run, nothing_decided):
    visit(page, desk(address, run, "Wilhelmina", show="all"), "Pairs")
    took, given = [], []
    for _ in range(2):  # there and back, so that a dozen keys are timed
        for key, verdict in zip("axaxa", ("approve", "reject") * 3, strict=False):
            given.append((feature(page), verdict))
            took.append(press(page, key))
            page.wait_for_timeout(150)  # a person reads; the next pair's examples are fetched
        if len(given) == 5:
            for _ in range(5):
                took.append(press(page, "u"))
                page.wait_for_timeout(150)
            assert nothing_decided.current() == [], "all was taken back"
            assert feature(page) == given[0][0]
    kept = nothing_decided.current("pair", reviewer="Wilhelmina")
    said = [(int(d.subject.rsplit("/")[-1]), d.verdict) for d in kept]
    assert said == given[5:]
    assert all(d.seconds is not None and 0 < d.seconds < 60 for d in kept)
    assert approved(toy, run) == sorted(f for f, verdict in given[5:] if verdict == "approve")
    link = page.get_by_role("link", name="Synthesize from 3 approved pairs")
    assert f"pairs={run}" in str(link.get_attribute("href"))
    assert statistics.median(took) < 400, took


def test_a_pair_is_edited_and_measured_without_the_mouse(page, address, toy, run):
    visit(page, desk(address, run, "Wilhelmina"), "Pairs")
    edited = feature(page)
    word = WORDS[edited]
    page.keyboard.press("e")
    box = page.get_by_role("textbox", name="It fires in")
    expect(box).to_be_focused(timeout=PATIENCE)
    box.press("ControlOrMeta+a")
    page.keyboard.type(f"Explain a {word}!!! to an aunt")  # letters are text here, not keys
    page.keyboard.press("Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Explain a thing to an aunt")
    page.keyboard.press("Escape")
    settle(page)
    page.keyboard.press("Enter")
    shown = page.locator(".fac-side.fac-fires .fac-text")
    expect(shown).to_have_text(f"Explain a {word}!!! to an aunt", timeout=PATIENCE)
    assert feature(page) == edited
    expect(page.get_by_text("edited by a person").first).to_be_visible()
    expect(page.locator(".fac-changes del")).to_have_text(f"{word}!!!")
    expect(page.locator(".fac-changes ins")).to_have_text("thing")
    settle(page)
    press(page, "a")
    (row,) = review.approved_pairs(Decisions(toy.decisions), Runs(toy), run)
    assert row["feature"] == edited and row["origin"] == "person"
    assert row["positive"][-1]["content"] == f"Explain a {word}!!! to an aunt"


def test_after_a_name_or_a_setting_the_keys_decide(page, address, run, nothing_decided):
    visit(page, f"{address}/pairs?pairs={run}&show=all", "Pairs")
    names = page.get_by_role("combobox", name="Reviewer")
    names.click()
    page.keyboard.type("Wilhelmina")
    page.keyboard.press("Enter")
    settle(page)
    press(page, "a")
    names.click()
    page.keyboard.type("bo")
    page.keyboard.press("Enter")
    settle(page)
    press(page, "x")
    names.click()
    page.get_by_role("option", name="Wilhelmina").click()
    settle(page)
    press(page, "x")
    said = [(d.reviewer, d.verdict) for d in nothing_decided.history()]
    assert said == [("Wilhelmina", "reject"), ("bo", "reject"), ("Wilhelmina", "approve")]
    page.get_by_text("Blur examples").click()
    settle(page)
    press(page, "s")
    floor = page.get_by_role("spinbutton", name="Fires above")
    floor.fill("0.5")
    floor.press("Enter")
    settle(page)
    press(page, "s")
    page.get_by_role("combobox", name="Pairs").click()
    page.get_by_role("option").first.click()
    settle(page)
    press(page, "s")
    assert len(nothing_decided.history()) == 3
    expect(names).to_have_value("Wilhelmina")


def test_a_click_and_a_key_draw_no_frame_round_the_page(page, address, run):
    visit(page, desk(address, run, "Wilhelmina", show="all"), "Pairs")
    page.locator(".fac-pair").click()
    press(page, "s")
    settle(page)
    frame = "main => getComputedStyle(main, '::before').boxShadow"
    assert page.get_by_test_id("stMain").evaluate(frame) in ("none", "")


def test_two_reviewers_at_once_lose_no_decision(page, address, run, nothing_decided):
    other = page.context.browser.new_context().new_page()
    other.set_default_timeout(PATIENCE)
    desks = {"Wilhelmina": page, "bo": other}
    for who, view in desks.items():
        visit(view, desk(address, run, who, show="all"), "Pairs")
    for number in range(5):
        before = {who: heading(view) for who, view in desks.items()}
        for view in desks.values():  # both keys are down before either answer is back
            view.keyboard.press("ax"[number % 2])
        for who, view in desks.items():
            expect(view.locator("h4")).not_to_have_text(before[who], timeout=PATIENCE)
    for who in desks:
        assert len(nothing_decided.current("pair", reviewer=who)) == 5
    other.close()


def test_ticked_gaps_go_to_the_form_and_their_pairs_come_to_the_desk(page, address, toy):
    visit(page, f"{address}/coverage?anchor=toy-anchor&dataset=toy-seed&threshold=0", "Coverage")
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    place = table.bounding_box()
    assert place is not None
    for row in (0, 2):  # the boxes stand left of the rows, below a heading of 35 pixels
        page.mouse.click(place["x"] + 16, place["y"] + 35 + TALL_ROW * (row + 0.5))
        settle(page)
        assert table.bounding_box() == place, "a table that moves is ticked in the wrong row"
    link = page.get_by_role("link", name="Write pairs for these 2")
    expect(link).to_be_visible(timeout=PATIENCE)
    link.click()
    page.get_by_role("heading", name="Pairs", exact=True).wait_for()
    settle(page)
    page.get_by_role("button", name="Write pairs for 2 gaps").click()
    expect(page.locator(".fac-pair")).to_be_visible(timeout=PATIENCE)
    settle(page)
    assert "pairs=pairs-" in page.url and "features=" not in page.url
    run = page.url.split("pairs?")[1].split("pairs=")[1].split("&")[0]
    assert len(Runs(toy).manifest(run).facts.features) == 2
    assert page.get_by_role("button", name="Approve", exact=False).first.is_disabled()


def test_blurred_pairs_are_shown_when_asked_for(page, address, run):
    visit(page, desk(address, run, "Wilhelmina"), "Pairs")
    page.get_by_text("Blur examples").click()
    text = page.locator(".fac-side .fac-text").first
    changes = page.locator(".fac-changes .fac-text")
    for part in (text, changes):
        expect(part).to_have_css("filter", "blur(5.25px)", timeout=PATIENCE)
    page.get_by_role("heading", name="Pairs", exact=True).click()  # neither toggle nor text
    settle(page)  # the style comes before the button
    page.keyboard.press("v")
    for part in (text, changes):
        expect(part).to_have_css("filter", "none", timeout=PATIENCE)
    press(page, "a")
    expect(text).to_have_css("filter", "blur(5.25px)", timeout=PATIENCE)
