"""Reviewing in a real Chromium, by keyboard: nothing is lost, nothing is seen that must not be.

The toy's ten features have explanations by three explainers, so there are 29 of them to rate.
"""

import json
import statistics
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from fac.config import Workspace
from fac.schema import LEVELS
from fac.store import cache
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.toy import WORDS, publish_explanations, toy_workspace

pytestmark = pytest.mark.browser

N_EXPLANATIONS = 29
KEYS = {**{str(i): level for i, level in enumerate(LEVELS, 1)}, "0": "cannot_tell"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = toy_workspace(tmp_path_factory.mktemp("review"), explained=True)
    runs = Runs(workspace)
    anchor = runs.resolve("measure", "toy-anchor")
    texts = {i: f"imported words about {word}" for i, word in enumerate(WORDS[:10])}
    run = publish_explanations(runs, anchor, texts, explainer="external")
    cache.build(runs, run, workspace.cache)
    return workspace


@pytest.fixture(scope="module")
def address(toy: Workspace, chromium: str) -> Iterator[str]:
    with server(toy) as running:
        yield running


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_decided(toy: Workspace) -> Decisions:
    """Every test begins with an empty file of decisions."""
    for path in toy.root.glob("decisions.sqlite*"):
        path.unlink()
    return Decisions(toy.decisions)


def desk(address: str, reviewer: str, **view: str) -> str:
    more = "".join(f"&{name}={value}" for name, value in view.items())
    return f"{address}/review?reviewer={reviewer}&which=explained&every=True{more}"


def explanation(page: Page) -> str:
    return page.locator(".fac-quote").inner_text()


def press(page: Page, key: str) -> float:
    """Presses a key that ends an item; milliseconds until the next one stands there."""
    before = explanation(page)
    begun = time.perf_counter()
    page.keyboard.press(key)
    changed = "before => document.querySelector('.fac-quote')?.innerText !== before"
    page.wait_for_function(changed, arg=before, polling=5, timeout=PATIENCE)
    return 1000 * (time.perf_counter() - begun)


@pytest.mark.quiet
def test_twenty_explanations_are_rated_by_keyboard_alone_and_fast(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina"), "Review")
    expect(page.get_by_text(f"0 of {N_EXPLANATIONS}")).to_be_visible()
    given, took = [], []
    for number in range(20):
        key = "12340"[number % 5]
        given.append((explanation(page), KEYS[key]))
        took.append(press(page, key))
        page.wait_for_timeout(150)  # a person reads; the next item's texts are fetched meanwhile
    expect(page.get_by_text(f"20 of {N_EXPLANATIONS}")).to_be_visible()
    store = nothing_decided
    kept = store.current("explanation", reviewer="Wilhelmina")
    assert [(store.content(d.seen)["explanation"], d.verdict) for d in kept] == given
    assert all(d.seconds is not None and 0 < d.seconds < 60 for d in kept)
    assert statistics.median(took) < 400, took


def test_undo_brings_the_item_back_with_its_flags_and_note(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina"), "Review")
    first = explanation(page)
    page.keyboard.press("b")
    expect(
        page.get_by_role("button", name="Too broad").locator("[data-testid=stIconMaterial]")
    ).to_have_count(1)
    page.keyboard.press("n")
    expect(page.get_by_role("textbox", name="Note")).to_be_focused(timeout=PATIENCE)
    expect(page.get_by_role("textbox")).to_have_count(1)  # a note alone
    page.keyboard.type("1 of 2: only some")
    page.keyboard.press("Escape")
    settle(page)
    press(page, "2")
    (said,) = nothing_decided.current()
    assert (said.verdict, said.reasons, said.note) == (
        "probably",
        ("too broad",),
        "1 of 2: only some",
    )
    press(page, "u")
    assert explanation(page) == first
    assert nothing_decided.current() == []
    expect(page.get_by_role("textbox", name="Note")).to_have_value("1 of 2: only some")
    press(page, "4")
    (said,) = nothing_decided.current()
    assert (said.verdict, said.note) == ("no", "1 of 2: only some")


def test_a_correction_is_typed_where_the_cursor_already_is(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina"), "Review")
    text = explanation(page)
    page.keyboard.press("e")
    box = page.get_by_role("textbox", name="It should rather say")
    expect(box).to_be_focused(timeout=PATIENCE)
    page.keyboard.press("End")
    page.keyboard.type(" or 4 of 10 times more")  # letters and digits are text here, not keys
    page.keyboard.press("Escape")
    settle(page)
    press(page, "3")
    (said,) = nothing_decided.current()
    assert (said.verdict, said.edited_text) == ("maybe", f"{text} or 4 of 10 times more")


def test_a_second_reviewer_sees_nothing_of_the_first(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina"), "Review")
    for key in "14":
        press(page, key)
    link = page.get_by_role("link", name="Link to this item").get_attribute("href")
    assert link is not None
    assert "reviewer" not in link
    other = page.context.browser.new_context().new_page()
    other.set_default_timeout(PATIENCE)
    # The very item that she decided on, and whatever comes first by itself.
    decided = nothing_decided.current()[0].seen
    for view in ({}, {"item": decided}):
        visit(other, desk(address, "bo", **view), "Review")
        shown = other.locator("section.stMain, .stMain").first.inner_text()
        assert "Wilhelmina" not in shown
        assert "Your last decisions" not in shown
        for secret in ("toy-llm", "token statistics", "AUROC", "Detection", "names.jsonl"):
            assert secret not in shown, secret
    other.close()


def test_two_browsers_at_once_lose_no_decision(page, address, nothing_decided):
    other = page.context.browser.new_context().new_page()
    other.set_default_timeout(PATIENCE)
    desks = {"Wilhelmina": page, "bo": other}
    for who, view in desks.items():
        visit(view, desk(address, who), "Review")
    for number in range(8):
        before = {who: explanation(view) for who, view in desks.items()}
        for view in desks.values():  # both keys are down before either answer is back
            view.keyboard.press("1234"[number % 4])
        for who, view in desks.items():
            expect(view.locator(".fac-quote")).not_to_have_text(before[who], timeout=PATIENCE)
    for who in desks:
        assert len(nothing_decided.current(reviewer=who)) == 8
    assert len({json.loads(line)["uid"] for line in nothing_decided.export()}) == 16
    other.close()


def test_who_wants_to_look_first_reads_after_the_space_key(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina"), "Review")
    page.get_by_text("Look before you read").click()
    expect(page.locator(".fac-quote")).to_have_count(0, timeout=PATIENCE)
    settle(page)
    page.keyboard.press("1")  # nothing to rate yet
    settle(page)
    page.keyboard.press("Space")
    expect(page.locator(".fac-quote")).to_be_visible(timeout=PATIENCE)
    assert nothing_decided.current() == []


def test_after_a_name_or_a_toggle_the_keys_rate(page, address, nothing_decided):
    visit(page, f"{address}/review?which=explained", "Review")
    page.get_by_role("combobox", name="Reviewer").click()
    page.keyboard.type("Wilhelmina")
    page.keyboard.press("Enter")
    page.locator(".fac-quote").wait_for()
    settle(page)
    press(page, "1")
    page.get_by_text("Look before you read").click()
    expect(page.locator(".fac-quote")).to_have_count(0, timeout=PATIENCE)
    settle(page)
    expect(page.get_by_role("button", name="Edit")).to_be_disabled()  # it would show the text
    page.keyboard.press("Space")
    expect(page.locator(".fac-quote")).to_be_visible(timeout=PATIENCE)
    settle(page)
    page.keyboard.press("2")
    settle(page)
    said = [(d.reviewer, d.verdict) for d in nothing_decided.current()]
    assert said == [("Wilhelmina", "yes"), ("Wilhelmina", "probably")]


def test_a_person_takes_the_detection_test_and_learns_the_truth(page, address, nothing_decided):
    visit(page, desk(address, "Wilhelmina", kind="detection"), "Review")
    assert page.locator(".fac-peak").count() == 0, "nothing is marked before the answer"
    texts = page.locator(".fac-text")
    word = explanation(page).split()[-1].strip(".")
    n = texts.count()
    assert n == 6
    for number in range(n):
        if word in texts.nth(number).inner_text():
            page.keyboard.press(str(number + 1))
            expect(page.get_by_role("button", name="fires")).to_have_count(
                sum(word in texts.nth(i).inner_text() for i in range(number + 1)), timeout=PATIENCE
            )
    page.keyboard.press("Enter")
    expect(page.get_by_text("6 of 6 right.")).to_be_visible(timeout=PATIENCE)
    assert page.locator(".fac-peak").count() == 3
    (said,) = nothing_decided.current("detection")
    truth = nothing_decided.content(said.seen)["examples"]
    assert said.verdict == "".join("+" if row["positive"] else "-" for row in truth)
    press(page, "Enter")
    expect(page.get_by_text("6 of 6 right.")).to_have_count(0)


def test_blurred_texts_are_shown_when_asked_for(page, address):
    visit(page, desk(address, "Wilhelmina"), "Review")
    page.get_by_text("Blur examples").click()
    example = page.locator(".fac-text").first
    expect(example).to_have_css("filter", "blur(5.25px)", timeout=PATIENCE)
    settle(page)  # the toggle draws the whole page anew, and a key pressed meanwhile is lost
    page.get_by_role("heading", name="Review").click()  # neither the toggle nor an example
    page.keyboard.press("v")
    expect(example).to_have_css("filter", "none", timeout=PATIENCE)
    press(page, "1")
    expect(page.locator(".fac-text").first).to_have_css("filter", "blur(5.25px)", timeout=PATIENCE)
