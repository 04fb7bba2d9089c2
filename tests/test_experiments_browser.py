"""From a labelled file of one's own to whether filling its gaps helps, in one browser: add it, have
it measured, ask, stop, ask for less, read the sentence and the figure, take the figures along."""

import csv
import json

import pytest
from playwright.sync_api import expect

from fac.config import Workspace
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_experiments import AskingSteps, rows_of
from tests.test_pairs_browser import worker
from tests.toy import toy_workspace

pytestmark = pytest.mark.browser

HOSTILE = "<b>loud</b>"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("asked"))


def test_a_person_asks_whether_filling_gaps_helps(place, chromium, tmp_path):
    chats, names = rows_of(80)
    rows = [
        {"text": chat[0]["content"], "label": HOSTILE if name == "1" else "calm"}
        for chat, name in zip(chats, names, strict=True)
    ]
    source = tmp_path / "comments.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    with (
        worker(place, AskingSteps),
        server(place) as address,
        chromium_page(chromium, width=1280) as page,
    ):

        def press(name):
            page.get_by_role("button", name=name, exact=True).click()
            settle(page)

        def put(field, value):
            box = page.get_by_label(field, exact=True)
            box.fill(value)
            box.press("Enter")
            settle(page)

        visit(page, f"{address}/experiments", "Experiments")
        expect(page.get_by_text("there is nothing to tell")).to_be_visible()
        page.get_by_role("link", name="Datasets").click()
        page.get_by_role("heading", name="Datasets", exact=True).wait_for()
        settle(page)
        page.get_by_text("Add a dataset").first.click()
        page.locator("input[type=file]").set_input_files(source)
        press("Add")
        expect(page.get_by_role("heading", name="comments")).to_be_visible(timeout=PATIENCE)
        press("Measure")
        link = page.get_by_role("link", name="Would filling its gaps help?")
        link.click(timeout=PATIENCE)
        page.get_by_role("heading", name="Experiments", exact=True).wait_for()
        settle(page)

        assert page.locator("b", has_text="loud").count() == 0
        expect(page.get_by_text("Label that is looked for")).to_be_visible()
        put("Labelled rows to begin with", "60")
        expect(page.get_by_text("180 are needed")).to_be_visible()
        put("Labelled rows to begin with", "6, 9")
        expect(page.get_by_text("No feature fires above 1")).to_be_visible()
        press("More")
        put("Threshold", "0.5")
        page.keyboard.press("Escape")
        put("Draws", "90")
        expect(page.get_by_text("198 pieces, after the model has read")).to_be_visible()
        press("Run the experiment")
        press("Cancel")
        expect(page.get_by_role("button", name="Go on")).to_be_visible(timeout=3 * PATIENCE)
        expect(page.get_by_text("Cancelled. Every finished piece is kept.")).to_be_visible()
        settle(page)
        put("Draws", "2")
        press("Run the experiment")
        page.wait_for_url("**experiment=*", timeout=3 * PATIENCE)
        settle(page)

        sentences = page.locator("p.fac-verdict")
        expect(sentences.first).to_contain_text("illing gaps")
        expect(page.get_by_test_id("stPlotlyChart")).to_have_count(3)
        expect(page.get_by_text("differences below about").first).to_be_visible()
        assert page.locator("b", has_text="loud").count() == 0
        with page.expect_download() as waiting:
            press("CSV")
        waiting.value.save_as(tmp_path / "figures.csv")
        with (tmp_path / "figures.csv").open() as file:
            arms = {row["arm"] for row in csv.DictReader(file)}
        assert {"random rows", "rows that fill gaps"} <= arms
        page.wait_for_url("**experiment=*")  # a run of the page may write its address anew
        visit(page, page.url, "Experiments")
        expect(page.locator("p.fac-verdict").first).to_be_visible()
        press("New experiment")
        settle(page)
        earlier = page.get_by_role("heading", name="Earlier experiments")
        expect(earlier).to_be_visible(timeout=PATIENCE)
