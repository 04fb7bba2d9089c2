"""The walk a newcomer takes, in a real browser."""

import re
import time

import pytest

from fac import demo
from fac.config import Workspace
from tests.browser import browsing, serving, settled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def shared_model(place, demo_model_home):
    """The worker of the served workspace finds the demo model that the tests fetched."""
    place.models.mkdir(parents=True, exist_ok=True)
    for path in demo_model_home.iterdir():
        target = place.models / path.name
        if path.is_dir() and not target.exists():
            target.symlink_to(path)


@pytest.fixture(scope="module")
def url(place, tmp_path_factory, chromium):
    with serving(place, tmp_path_factory.mktemp("log") / "server.log") as url:
        yield url


@pytest.fixture
def page(chromium):
    with browsing(chromium) as page:
        yield page


def metric(page, label):
    card = page.get_by_test_id("stMetric").filter(has_text=re.compile(f"^{re.escape(label)}"))
    return card.first.get_by_test_id("stMetricValue").inner_text()


def number(text):
    return float(text.replace(",", "").rstrip("%"))


def no_error_on(page):
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_test_id("stAlertContentError").count() == 0


def test_a_first_start_shows_a_populated_home_page_within_ten_seconds(tmp_path, chromium):
    place = Workspace(tmp_path / "fresh")
    with browsing(chromium) as page:
        begun = time.monotonic()
        with serving(place, tmp_path / "server.log") as url:
            page.goto(url)
            page.get_by_text("From the dictionary to what is covered").wait_for()
            took = time.monotonic() - begun
            settled(page)
            assert 0 < number(metric(page, "Coverage (FAC)")) < 100
            assert number(metric(page, "Missing")) > 0
            no_error_on(page)
    assert took < 10, f"{took:.1f} s"


def test_raising_the_threshold_changes_fac_and_stays_in_the_link(url, page):
    page.goto(f"{url}/coverage?dataset=demo-seed&anchor=demo-anchor")
    page.get_by_text("Coverage at every threshold").wait_for()
    settled(page)
    before = number(metric(page, "Anchor"))
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(40):
        slider.press("ArrowRight")
    page.wait_for_function("() => /threshold=/.test(location.search)")
    settled(page)
    after = number(metric(page, "Anchor"))
    assert after < before
    shown = metric(page, "FAC")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.get_by_text("Coverage at every threshold").wait_for()
    settled(page)
    assert (metric(page, "FAC"), number(metric(page, "Anchor"))) == (shown, after)
    no_error_on(page)


def test_a_missing_feature_opens_with_highlighted_tokens(url, page):
    page.goto(f"{url}/coverage?dataset=demo-seed&anchor=demo-anchor")
    page.get_by_text("Nearest in the dataset").wait_for()
    settled(page)
    peaks = page.locator(".fac-peak")
    assert peaks.count() > 0
    assert peaks.first.inner_text().strip() or peaks.first.inner_text()
    page.get_by_text("The whole feature").click()
    page.get_by_text("Neighbours").wait_for()
    settled(page)
    assert re.search(r"feature=\d+", page.url)
    assert page.locator(".fac-peak").count() > 0
    no_error_on(page)


@pytest.mark.model
def test_an_uploaded_file_is_read_measured_and_covered(url, page, place, tmp_path, shared_model):
    rows = demo.INPUTS[demo.SEED].read_text("utf-8").splitlines()[:12]
    path = tmp_path / "walk.jsonl"
    path.write_text("\n".join(rows) + "\n" + rows[0] + "\n", encoding="utf-8")
    page.goto(f"{url}/datasets?add=yes")
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("heading", name="walk").wait_for()
    settled(page)
    assert metric(page, "Samples") == "12"
    assert metric(page, "Duplicates") == "1"
    page.get_by_role("button", name="Measure", exact=False).first.click()
    page.get_by_text("Its coverage").wait_for(timeout=240_000)
    page.get_by_text("Its coverage").click()
    page.get_by_text("Coverage at every threshold").wait_for()
    settled(page)
    assert "dataset=walk" in page.url
    small = number(metric(page, "FAC"))
    page.goto(f"{url}/coverage?dataset=demo-seed&anchor=demo-anchor")
    page.get_by_text("Coverage at every threshold").wait_for()
    settled(page)
    assert 0 < small < number(metric(page, "FAC"))
    no_error_on(page)
