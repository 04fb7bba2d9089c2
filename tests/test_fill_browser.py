"""From a family of gaps to rows of a pool that fill it, in one browser: open it on Coverage, fill
it from a pool, drop a row by keyboard, take the rest along, see on Compare what was filled."""

import json

import pytest
from playwright.sync_api import expect

from fac.config import Workspace
from fac.interpret import grouping
from fac.jobs.steps import Steps
from fac.questions.comparison import Comparison
from fac.questions.families import families_spec
from fac.store.runs import Runs
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_fill import says
from tests.test_pairs_browser import worker
from tests.test_topics import ANCHOR, MOUNTAIN, RIVER, SEED, TRAIN, named
from tests.toy import toy_workspace

pytestmark = pytest.mark.browser

POOL = says(
    "a train along her river",
    "the only mountain of this country",
    "a cheap oven <b>now</b>",
    "nothing of this kind",
)
VIEW = "anchor=toy-anchor&dataset=toy-seed&threshold=0"
TRAVEL = "travel, <b>*river*"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    samples = {"toy-anchor": ANCHOR, "toy-seed": SEED, "toy-pool": POOL}
    workspace = toy_workspace(tmp_path_factory.mktemp("fill"), samples=samples)
    runs = Runs(workspace)
    sides = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "family_names", named)
        Steps(workspace).perform(families_spec(Comparison(*sides)), lambda *_: None)
    return workspace


def test_a_family_is_filled_from_a_pool(place, chromium, tmp_path):
    with worker(place), server(place) as address, chromium_page(chromium, width=1280) as page:

        def arrived(headline):
            page.get_by_role("heading", name=headline, exact=True).wait_for()
            settle(page)

        visit(page, f"{address}/coverage?{VIEW}&family=0", "Coverage")
        expect(page.get_by_text(f"{TRAVEL}: 3 gaps")).to_be_visible()
        page.get_by_role("link", name="Fill them from a pool").click()
        arrived("Fill")
        assert page.locator("b", has_text="now").count() == 0
        gaps = page.get_by_test_id("stMetric").filter(has_text="3 of 3")
        expect(gaps.first).to_be_visible()
        expect(page.get_by_text("1 of 2: row 0 of the pool")).to_be_visible()
        expect(page.locator(".fac-peak").first).to_be_visible()

        page.get_by_role("heading", name="Fill", exact=True).click()  # out of the link
        page.keyboard.press("k")
        expect(page.get_by_text("2 of 2: row 1 of the pool")).to_be_visible()
        settle(page)
        page.keyboard.press("x")
        expect(page.get_by_text("2 of 2, dropped: row 1 of the pool")).to_be_visible()
        expect(page.get_by_test_id("stMetric").filter(has_text="2 of 3").first).to_be_visible()
        settle(page)

        with page.expect_download() as waiting:
            page.get_by_role("button", name="JSONL").click()
        waiting.value.save_as(tmp_path / "filled.jsonl")
        (row,) = map(json.loads, (tmp_path / "filled.jsonl").read_text("utf-8").splitlines())
        assert row["messages"] == POOL[0] and {*row["fill"]["fills"]} == {RIVER, TRAIN}
        assert row["fill"]["families"] == [TRAVEL] and MOUNTAIN not in row["fill"]["fires"]

        field = page.get_by_role("textbox", name="Name of the new dataset")
        field.fill("filled")
        field.press("Tab")
        settle(page)
        page.get_by_role("button", name="Make a dataset of 1 row and measure it").click()
        expect(page.get_by_text("is being measured; then this says")).to_be_visible()
        # The page runs anew when the job ends, and says what became of the rows.
        link = page.get_by_role("link", name="Compare before and after")
        expect(link).to_be_visible(timeout=3 * PATIENCE)
        settle(page)
        link.click()
        arrived("Compare")
        sentence = "One family shows more than before: “" + TRAVEL + "” 0 → 2 of 3"
        expect(page.get_by_text(sentence)).to_be_visible(timeout=PATIENCE)
        gained = page.get_by_test_id("stMetric").filter(has_text="Gained")
        expect(gained.get_by_test_id("stMetricValue")).to_have_text("2")
        lost = page.get_by_test_id("stMetric").filter(has_text="Lost")
        expect(lost.get_by_test_id("stMetricValue")).to_have_text("0")
        expect(page.get_by_role("combobox", name="Together with")).to_be_visible()
        assert "with=toy-seed" in page.url
