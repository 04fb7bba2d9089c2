"""A real walk through the dashboard, in the distribution's Chromium.

On the toy workspace: toy-seed lacks six of the ten features of toy-anchor (tests/toy.py). The walk
on the demo with its model is marked `model` and lives beside it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from fac.config import Workspace
from fac.ui.tables import TALL_ROW
from fac.ui.views import share
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.toy import fac_of, toy_workspace

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def address(toy: Workspace, chromium: str) -> Iterator[str]:
    """A server for all walks; it is asked only where there is a Chromium."""
    with server(toy) as running:
        yield running


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium) as opened:
        yield opened


def metric(page: Page, label: str):
    """The figure below a label, as a person finds it."""
    card = page.get_by_test_id("stMetric").filter(has_text=label).first
    return card.get_by_test_id("stMetricValue")


def test_a_person_walks_from_home_to_the_tokens_of_a_missing_feature(page, address):
    visit(page, f"{address}/?threshold=0", "Where things stand")
    expect(metric(page, "Coverage (FAC)")).to_have_text(share(fac_of(4, 10)))

    page.get_by_text("See what is missing").click()
    page.get_by_role("heading", name="Coverage", exact=True).wait_for()
    settle(page)
    expect(metric(page, "Missing")).to_have_text("6")

    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    for _ in range(100):
        if float(slider.get_attribute("aria-valuetext") or 0) >= 1.1:
            break
        slider.press("PageUp")
    expect(metric(page, "Missing")).to_have_text("2", timeout=PATIENCE)
    settle(page)
    assert "threshold=" in page.url

    page.get_by_text("The whole feature").click()
    page.get_by_role("heading", name="Features", exact=True).wait_for()
    settle(page)
    assert "feature=" in page.url
    peak = page.locator(".fac-text .fac-peak").first
    expect(peak).to_be_visible()
    assert peak.evaluate("node => getComputedStyle(node).backgroundColor").startswith("rgba(224")
    assert float(peak.get_attribute("title")) > 1


def test_a_shared_link_opens_the_same_view_and_back_returns(page, address):
    visit(page, f"{address}/coverage?dataset=toy-seed&threshold=1.2&role=assistant", "Coverage")
    expect(metric(page, "Missing")).to_have_text("2")
    page.get_by_role("button", name="More").click()
    expect(page.get_by_role("radio", name="Assistant")).to_be_checked()

    page.get_by_role("radio", name="User").click()
    nothing = page.get_by_text("no content tokens of the user").or_(
        page.get_by_text("so there is nothing to cover")
    )
    expect(nothing.first).to_be_visible(timeout=PATIENCE)
    settle(page)
    assert "role=user" in page.url
    page.go_back()
    expect(metric(page, "Missing")).to_have_text("2", timeout=PATIENCE)


def test_choosing_a_row_opens_its_gap_and_all_gaps_can_be_downloaded(page, address):
    visit(page, f"{address}/coverage?dataset=toy-seed&threshold=0", "Coverage")
    table = page.get_by_test_id("stDataFrame").first
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 120, box["y"] + 35 + TALL_ROW * 1.5)  # a cell of the second row
    page.wait_for_url("**gap=*", timeout=PATIENCE)
    settle(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="JSONL").click()
    lines = Path(waiting.value.path()).read_text("utf-8").splitlines()
    gaps = [json.loads(line) for line in lines]
    assert {gap["feature"] for gap in gaps} == {3, 4, 5, 6, 7, 8}


def test_an_uploaded_file_becomes_a_dataset_while_one_watches(page, address, tmp_path):
    visit(page, f"{address}/datasets?add=yes", "Datasets")
    file = tmp_path / "evening.jsonl"
    rows = [{"text": f"a sample about <b>tea</b> number {i}"} for i in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("textbox", name="Name")).to_have_value("evening", timeout=PATIENCE)
    page.get_by_role("button", name="Add", exact=True).click()
    # The worker reads it without any help, and the page notices.
    expect(page.get_by_role("heading", name="evening")).to_be_visible(timeout=2 * PATIENCE)
    expect(metric(page, "Samples")).to_have_text("7")
    expect(page.get_by_text("<b>tea</b> number 3").last).to_be_visible()  # first: the preview

    visit(page, f"{address}/jobs", "Jobs")
    expect(page.get_by_text("Read evening")).to_be_visible()
    expect(page.get_by_text("Worker alive")).to_be_visible()


def test_blurred_examples_clear_under_the_pointer(page, address):
    visit(page, f"{address}/features?dataset=toy-anchor&feature=0", "Features")
    page.get_by_text("Blur examples").click()
    example = page.locator(".fac-text").first
    expect(example).to_have_css("filter", "blur(5.25px)", timeout=PATIENCE)
    example.hover()
    expect(example).to_have_css("filter", "none")
