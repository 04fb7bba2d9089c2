"""Looking through kept samples in a real Chromium, by keyboard: keep, drop, edit, undo.

The dashboard's worker is one whose features are words and whose writer is scripted.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from fac import review
from fac.config import PairsSpec, SynthesizeSpec, Workspace
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_cli_make import MISSING, MakingSteps
from tests.test_jobs import quiet
from tests.test_pairs_browser import worker
from tests.toy import WORDS, toy_workspace

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy with a synthesis that keeps a sample of each of six gaps."""
    place = toy_workspace(tmp_path_factory.mktemp("samples"), explained=True)
    runs, store, steps = Runs(place), Decisions(place.decisions), MakingSteps(place)
    anchor, dataset = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    pairs = steps.perform(
        PairsSpec(anchor=anchor, dataset=dataset, features=tuple(MISSING), candidates=3), quiet
    )
    for row in runs.table(pairs, "pairs").to_pylist():
        item = review.pair_item(pairs, row)
        store.add("Ada", "pair", item.subject, item.content, "approve")
    approved = tuple(row["pair"] for row in review.approved_pairs(store, runs, pairs))
    steps.perform(SynthesizeSpec(pairs=pairs, approved=approved, candidates=3), quiet)
    return place


@pytest.fixture(scope="module")
def address(toy: Workspace, chromium: str) -> Iterator[str]:
    with worker(toy), server(toy) as running:
        yield running


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium) as opened:
        yield opened


def states(toy: Workspace) -> dict[int, str]:
    runs = Runs(toy)
    every = review.sample_states(Decisions(toy.decisions), runs, runs.list("synthetic")[0].run)
    return {state.feature: state.state for state in every.values()}


def sample(page: Page) -> str:
    return page.locator(".st-key-sample .fac-text").inner_text()


def press(page: Page, key: str) -> None:
    """Presses a key that ends a sample, and waits for the next."""
    before = sample(page)
    page.keyboard.press(key)
    expect(page.locator(".st-key-sample .fac-text")).not_to_have_text(before, timeout=PATIENCE)
    settle(page)


def feature(page: Page) -> int:
    return int(page.get_by_text("It was written to show").inner_text().split("#")[1].split()[0])


def test_samples_are_kept_dropped_edited_and_taken_back_by_keyboard(page, address, toy):
    run = Runs(toy).list("synthetic")[0].run
    desk = f"{address}/review?kind=sample&synthesis={run}&reviewer=Wilhelmina"
    visit(page, desk, "Review")
    expect(page.get_by_text("0 of 6")).to_be_visible()
    kept = feature(page)
    press(page, "k")
    dropped = feature(page)
    press(page, "x")
    assert (states(toy)[kept], states(toy)[dropped]) == ("kept", "dropped")
    press(page, "u")
    assert feature(page) == dropped and states(toy)[dropped] == "undecided"
    press(page, "x")
    expect(page.get_by_text("2 of 6")).to_be_visible()

    edited = feature(page)
    word = WORDS[edited]
    page.keyboard.press("e")
    box = page.get_by_role("textbox", name="User")
    expect(box).to_be_focused(timeout=PATIENCE)
    box.press("ControlOrMeta+a")
    page.keyboard.type(f"Tell my aunt kindly of any {word}!!! she likes")
    page.keyboard.press("Escape")
    settle(page)
    page.keyboard.press("Enter")
    text = page.locator(".st-key-sample .fac-text")
    expect(text).to_have_text(f"Tell my aunt kindly of any {word}!!! she likes", timeout=PATIENCE)
    settle(page)
    assert feature(page) == edited
    press(page, "k")
    assert states(toy)[edited] == "edited"

    while page.get_by_text("Would you train on this sample?").count():
        page.keyboard.press("k")
        settle(page)
    expect(page.get_by_text("All looked through")).to_be_visible()
    expect(page.get_by_text("5 kept (1 of them edited), 1 dropped")).to_be_visible()
    link = page.get_by_role("link", name="Export what was reviewed")
    assert f"synthesis={run}" in str(link.get_attribute("href"))
