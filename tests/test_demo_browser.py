"""What a newcomer meets: the demo at the first start, and a file of their own with the model."""

import time

import pytest
from playwright.sync_api import expect

from fac import demo
from fac.config import Workspace
from fac.ui.tables import TALL_ROW
from tests.browser import PATIENCE, chromium_page, server, settle, visit

pytestmark = pytest.mark.browser


def metric(page, label):
    card = page.get_by_test_id("stMetric").filter(has_text=label).first
    return card.get_by_test_id("stMetricValue")


def number(page, label):
    return float(metric(page, label).inner_text().replace(",", "").rstrip("%"))


def first_start(workspace, chromium):
    """Seconds from `streamlit run` to a populated home page in an empty workspace."""
    with chromium_page(chromium) as page:
        begun = time.monotonic()
        with server(workspace) as address:
            page.goto(address)
            page.get_by_text("From the dictionary to what is covered").wait_for()
            took = time.monotonic() - begun
            settle(page)
            assert 0 < number(page, "Coverage (FAC)") < 100
            assert number(page, "Missing") > 100
    return took


def bare_start(folder, chromium):
    """The same of a page of one line that knows nothing of this project: what the machine, the
    browser and Streamlit take by themselves."""
    config = folder / ".streamlit" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[browser]\ngatherUsageStats = false\n")
    script = folder / "app.py"
    script.write_text("import streamlit as st\nst.title('Here')\n")
    with chromium_page(chromium) as page:
        begun = time.monotonic()
        with server(Workspace(folder / "workspace"), script) as address:
            page.goto(address)
            page.get_by_text("Here").wait_for()
            return time.monotonic() - begun


@pytest.mark.quiet
def test_a_first_start_shows_a_populated_home_page_within_ten_seconds(tmp_path, chromium):
    # The first also warms up the disk, and others may use the machine: all must show the page, one
    # of at most three within the time. A machine that needs two seconds for a page of one line is
    # slower than the one of the ten seconds: there it is six times that page, timed right after.
    starts: list[tuple[float, float]] = []
    while len(starts) < 3 and not any(map(in_time, starts)):
        place = tmp_path / f"start-{len(starts)}"
        took = first_start(Workspace(place / "first"), chromium)
        starts.append((took, bare_start(place / "bare", chromium)))
    assert any(map(in_time, starts)), starts


def in_time(start):
    took, bare = start
    return took < max(10, 6 * bare)


def bottom(element):
    box = element.bounding_box()
    assert box is not None, "it is not drawn"
    return box["y"] + box["height"]


def test_the_first_gaps_are_seen_without_scrolling(tmp_path, chromium, copy_demo):
    workspace = copy_demo(tmp_path / "seen")
    with chromium_page(chromium) as page, server(workspace) as address:
        page.set_viewport_size({"width": 1440, "height": 900})
        visit(page, address, "Where things stand")
        expect(page.get_by_text("gaps are certain")).to_be_visible()
        gaps = page.locator(".st-key-lacking a[href*='gap=']")
        assert gaps.count() == 5
        assert all(bottom(gap) < 900 for gap in gaps.all())
        # Every name is written out, and none is wider than its box.
        assert all(
            gap.evaluate("node => node.querySelector('p').scrollWidth <= node.clientWidth")
            for gap in gaps.all()
        )
        name = gaps.first.inner_text().split("#")[0].strip()
        gaps.first.click()
        page.get_by_role("heading", name="Coverage", exact=True).wait_for()
        settle(page)
        evidence = page.get_by_role("heading", level=4).first
        assert name[:20] in evidence.inner_text() and bottom(evidence) < 900
        table = page.get_by_test_id("stDataFrame").first.bounding_box()
        assert table["y"] + 35 + 5 * TALL_ROW < 900, "five rows and their heading"
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0


def test_a_narrow_window_shows_the_same_without_scrolling_sideways(tmp_path, chromium, copy_demo):
    workspace = copy_demo(tmp_path / "narrow")
    with chromium_page(chromium) as page, server(workspace) as address:
        page.set_viewport_size({"width": 390, "height": 844})
        for path, headline in (("", "Where things stand"), ("coverage", "Coverage")):
            visit(page, f"{address}/{path}", headline)
            main = page.get_by_test_id("stMain")
            assert main.evaluate("node => node.scrollWidth <= node.clientWidth"), headline


@pytest.mark.model
def test_an_uploaded_file_is_measured_and_its_coverage_shown(
    tmp_path, chromium, demo_model_home, copy_demo
):
    workspace = copy_demo(tmp_path / "walk")
    workspace.models.parent.mkdir(parents=True, exist_ok=True)
    if not workspace.models.exists():
        workspace.models.symlink_to(demo_model_home, target_is_directory=True)
    rows = demo.INPUTS[demo.SEED].read_text("utf-8").splitlines()[:12]
    file = tmp_path / "evening.jsonl"
    file.write_text("\n".join([*rows, rows[0]]) + "\n", encoding="utf-8")
    with chromium_page(chromium) as page, server(workspace) as address:
        visit(page, f"{address}/datasets?add=yes", "Datasets")
        page.locator("input[type=file]").set_input_files(file)
        box = page.get_by_role("textbox", name="Name")
        expect(box).to_have_value("evening", timeout=PATIENCE)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("heading", name="evening")).to_be_visible(timeout=PATIENCE)
        expect(metric(page, "Samples")).to_have_text("12")
        expect(metric(page, "Duplicates")).to_have_text("1")

        page.get_by_role("button", name="Measure").click()
        link = page.get_by_role("link", name="Its coverage")
        expect(link).to_be_visible(timeout=5 * PATIENCE)
        link.click()
        page.get_by_role("heading", name="Coverage", exact=True).wait_for()
        settle(page)
        assert "dataset=evening" in page.url
        of_twelve = number(page, "FAC")

        visit(page, f"{address}/coverage?dataset=demo-seed&anchor=demo-anchor", "Coverage")
        assert 0 < of_twelve < number(page, "FAC")
        expect(page.locator(".fac-text .fac-peak").first).to_be_visible()
