"""A report in a real browser: opened from disk without a network, in both themes, narrow and
printed."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from benchmarks.dashboard import CHROMIUM_FLAGS
from fac.config import Workspace
from fac.questions.outlook import percent
from tests.test_cli import fac

pytestmark = pytest.mark.browser

QUESTION = ("--anchor", "demo-anchor", "--dataset", "demo-seed")


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, copy_demo: Callable[[Path], Workspace]
) -> Workspace:
    return copy_demo(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def file(place: Workspace) -> Path:
    # 32 certain gaps are absent: the next ones show the other badge
    out = place.root / "report.html"
    assert fac("report", *QUESTION, "--gaps", 40, "--out", out, workspace=place).code == 0
    return out


@contextmanager
def from_disk(file: Path, chromium: str, scheme: str, width: int = 1200) -> Iterator[Page]:
    """The file, opened without a network; a request beyond it, or a word of complaint on the
    console, fails the test."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*CHROMIUM_FLAGS])
        size: Any = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(file.as_uri())
        yield page
        browser.close()
    assert complaints == [file.as_uri()], "the file itself and nothing else"


def cards(page: Page) -> dict[str, tuple[str, str]]:
    """Figure and note of each card by its label."""
    return {
        card.locator("dt").inner_text(): (
            card.locator("dd").first.inner_text(),
            card.locator("dd.note").inner_text(),
        )
        for card in page.locator(".card").all()
    }


def test_its_figures_are_those_of_the_shell(place, file, chromium):
    coverage = fac("coverage", *QUESTION, "--json", workspace=place).json
    gaps = fac("gaps", *QUESTION, "--json", workspace=place).json
    interval, yardstick = coverage["interval"], coverage["yardstick"]
    with from_disk(file, chromium, "light") as page:
        assert page.locator(".lead").inner_text() == coverage["headline"]
        assert page.locator(".advice").inner_text() == f"What to do. {coverage['advice']}"
        assert cards(page) == {
            "Coverage (FAC)": (
                percent(coverage["fac"]),
                f"{percent(interval['low'])} to {percent(interval['high'])}",
            ),
            "Of what to expect": (
                percent(yardstick["share"]),
                f"random text: {percent(yardstick['median'])}",
            ),
            "Features of the anchor": (
                f"{coverage['n_anchor']:,}",
                f"{coverage['n_covered']:,} covered",
            ),
            "Missing": (f"{coverage['n_missing']:,}", "no sample shows them"),
            "Certain gaps": (
                f"{gaps['certain_absent'] + gaps['certain_under']:,}",
                f"{gaps['certain_absent']:,} absent, {gaps['certain_under']:,} too rare",
            ),
            "Other gaps": (
                f"{gaps['possible'] + gaps['artefact']:,}",
                f"{gaps['possible']:,} possible, {gaps['artefact']:,} artefacts",
            ),
        }
        covered = page.locator(".scale .covered").bounding_box()
        whole = page.locator(".scale .track").bounding_box()
        assert covered and whole
        assert covered["width"] / whole["width"] == pytest.approx(coverage["fac"], abs=0.002)
        first = page.locator("article.gap").first
        assert f"#{gaps['gaps'][0]['feature']}" in first.inner_text()
        assert first.locator("mark").count() >= 1
        page.get_by_role("link", name="Certain gaps").click()
        assert page.locator("#gaps").bounding_box()["y"] < 900


def rgb(colour: str) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", colour)][:3]


def luminance(colour: str) -> float:
    parts = [part / 255 for part in rgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(page: Page, text: str, behind: str) -> float:
    """Of the colour of one element's text with the background of another, as WCAG has it."""
    ink = page.locator(text).first.evaluate("node => getComputedStyle(node).color")
    paper = page.locator(behind).first.evaluate("node => getComputedStyle(node).backgroundColor")
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_both_themes_can_be_read(file, chromium, scheme, is_dark):
    with from_disk(file, chromium, scheme) as page:
        paper = page.locator("html").evaluate("node => getComputedStyle(node).backgroundColor")
        assert (luminance(paper) < 0.1) == is_dark
        pairs = [
            (each, "html") for each in (".lead", ".small", "a", ".absent", ".rare", "thead th")
        ]
        for text, behind in (*pairs, (".card dt", ".card"), ("blockquote", "blockquote")):
            assert contrast(page, text, behind) >= 4.5, text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_does_not_scroll_sideways(file, chromium, scheme):
    with from_disk(file, chromium, scheme, width=390) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_it_prints_on_white_paper_also_from_a_dark_screen(file, chromium):
    with from_disk(file, chromium, "dark") as page:
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
        assert pdf.startswith(b"%PDF")
        assert 4 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 20
        page.emulate_media(media="print")
        paper = page.locator("html").evaluate("node => getComputedStyle(node).backgroundColor")
        assert rgb(paper) == [255, 255, 255]
        assert not page.locator("nav").is_visible()
        inside = page.locator("article.gap").first
        assert inside.evaluate("node => getComputedStyle(node).breakInside") == "avoid"
