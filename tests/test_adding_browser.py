"""A file is added in a browser by correcting what it is taken for, and is measured at once."""

import pytest
from playwright.sync_api import expect

from fac.config import read_spec
from fac.store.queue import Queue
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.rows import json_lines
from tests.test_pairs_browser import worker
from tests.toy import toy_workspace

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)> **b** :red[x]"
ROWS = [
    {"instruction": "Bake.", "input": f"bread {i}", "output": f"{i}", "prompt": f"{HOSTILE} {i}"}
    for i in range(7)
]


def test_a_file_is_added_by_correcting_its_layout_and_its_measure_follows(tmp_path, chromium):
    place, file = toy_workspace(tmp_path / "toy"), tmp_path / "evening.jsonl"
    file.write_bytes(json_lines(*ROWS))
    with worker(place), server(place) as address, chromium_page(chromium) as page:

        def choose(label, option):
            page.get_by_role("combobox", name=label).click()
            page.get_by_role("option", name=option, exact=True).click()
            settle(page)

        visit(page, f"{address}/datasets?add=yes", "Datasets")
        page.locator("input[type=file]").set_input_files(file)
        expect(page.get_by_text("fit more than one layout")).to_be_visible(timeout=PATIENCE)
        both = page.get_by_role("button", name="Add and measure")
        expect(both).to_be_disabled()
        choose("Read as", "Prompts and replies")
        choose("Prompt", "prompt")
        expect(page.get_by_text(f"{HOSTILE} 4")).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("Kept beside them, not measured: instruction")).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
        both.click()
        expect(page.get_by_role("heading", name="evening")).to_be_visible(timeout=2 * PATIENCE)
        expect(page.get_by_role("link", name="Its coverage")).to_be_visible(timeout=2 * PATIENCE)
        measure, dataset = Queue(place.queue).jobs()[:2]
        assert read_spec("dataset", dataset.spec).prompt_field == "prompt"
        assert (measure.step, measure.spec["dataset"]) == ("measure", dataset.run_id)
