"""The map of what fires together, in the distribution's Chromium: a click, and a lasso."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from fac.config import FamiliesSpec, Workspace
from fac.jobs.steps import Steps
from tests.browser import PATIENCE, chromium_page, server, visit
from tests.test_shares import measured, rows_of

pytestmark = pytest.mark.browser

ANCHOR = [
    *rows_of(24, "bake oven please"),
    *rows_of(24, "river train please"),
    *rows_of(30, "please"),
]
"""On the map, which lays so few out on a circle: bake 0, oven 1, river 6, train 8."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    stores, (anchor, _) = measured(
        tmp_path_factory.mktemp("map"), anchor=ANCHOR, dataset=rows_of(40, "bake please")
    )
    workspace = stores.runs.workspace
    Steps(workspace).perform(FamiliesSpec(measure=anchor, threshold=0.0), lambda *_: None)
    return workspace


@pytest.fixture(scope="module")
def address(place: Workspace, chromium: str) -> Iterator[str]:
    with server(place) as running:
        yield running


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium) as opened:
        yield opened


def test_a_point_of_the_map_opens_its_feature(page, address):
    visit(page, f"{address}/features?dataset=anchor&threshold=0&feature=0", "Features")
    plot = page.locator(".js-plotly-plot").first
    where = plot.evaluate(
        """plot => {
            const ids = plot._fullData.map(t => [...(t.customdata || [])].map(row => row[0]));
            const trace = ids.findIndex(each => each.includes(6)), at = ids[trace].indexOf(6);
            const {xaxis, yaxis} = plot._fullLayout;
            const frame = plot.querySelector('.nsewdrag').getBoundingClientRect();
            return [frame.x + xaxis.d2p(plot._fullData[trace].x[at]),
                    frame.y + yaxis.d2p(plot._fullData[trace].y[at])];
        }"""
    )
    page.mouse.move(*where)
    page.wait_for_timeout(500)
    page.mouse.click(*where)
    page.wait_for_url("**feature=6*", timeout=PATIENCE)
    expect(page.get_by_role("heading", name="#6 river")).to_be_visible(timeout=PATIENCE)


def test_a_lasso_on_the_map_narrows_the_table(page, address):
    visit(page, f"{address}/features?dataset=anchor&threshold=0&only=all", "Features")
    expect(page.get_by_text("12 features")).to_be_visible()
    plot = page.locator(".js-plotly-plot").first
    plot.locator(".modebar-btn[data-attr=dragmode][data-val=lasso]").click()
    box = plot.locator(".nsewdrag").bounding_box()
    assert box is not None
    x, y, w, h = box["x"], box["y"], box["width"], box["height"]
    page.mouse.move(x + w / 2, y + 2)
    page.mouse.down()
    # The four lie at the ends of a cross; this goes round its right one.
    for across, down in ((0.98, 0.02), (0.98, 0.98), (0.7, 0.98), (0.7, 0.02)):
        page.mouse.move(x + w * across, y + h * down, steps=8)
    page.mouse.up()
    narrowed = page.get_by_text("chosen on the map")
    expect(narrowed).to_be_visible(timeout=PATIENCE)
    assert int(narrowed.inner_text().split()[0]) == 1
