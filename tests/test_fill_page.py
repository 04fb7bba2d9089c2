"""The Fill page, run headless: rows of a pool of nine for the gaps of the toy, kept and dropped."""

import json

import pytest

from fac.config import Workspace
from fac.store.queue import Queue
from tests.test_fill import POOL, says
from tests.test_pages import button, markup, navigation_decides, opened, ran, started, words
from tests.toy import ANCHOR, SEED, toy_workspace

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses

HOSTILE = "<img src=x onerror=alert(1)> :red[x] python"
VIEW = {"dataset": "toy-seed", "anchor": "toy-anchor", "threshold": "0", "pool": "toy-pool"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    samples = {"toy-anchor": ANCHOR, "toy-seed": SEED, "toy-pool": [*POOL, *says(HOSTILE)]}
    workspace = toy_workspace(tmp_path / "toy", samples=samples)
    monkeypatch.setenv("FAC_WORKSPACE", str(workspace.root))
    return workspace


def figures(page):
    return {metric.label: metric.value for metric in page.metric}


def test_rows_are_kept_dropped_and_taken_back(place: Workspace):
    page = ran(opened("fill", **VIEW))
    assert figures(page) == {
        "Rows": "3",
        "Tokens": "16",
        "Certain gaps": "0 of 0",
        "Gaps": "6 of 6",
    }
    assert "a python function with a loop by a river" in markup(page)
    ran(button(page, "Keep").click().run())
    assert "her river under some mountain" in markup(page)
    ran(button(page, "Drop").click().run())
    # Row 2 alone shows a mountain; the river is in the first row too.
    assert figures(page)["Rows"] == "2" and figures(page)["Gaps"] == "5 of 6"
    assert page.query_params["drop"] == "2"
    again = ran(opened("fill", **VIEW, drop="2,77,x", taken="2"))
    assert figures(again) == figures(page)
    ran(button(again, "Undo").click().run())
    assert figures(again)["Gaps"] == "6 of 6" and "drop" not in again.query_params


def test_what_is_left_becomes_a_dataset_that_is_measured(place: Workspace):
    page = ran(opened("fill", **VIEW, drop="2"))
    ran(page.text_input[0].set_value("mine").run())
    ran(button(page, "Make a dataset of 2 rows and measure it").click().run())
    (manifest,) = (
        facts
        for path in place.runs.glob("dataset/*/manifest.json")
        if (facts := json.loads(path.read_text())["facts"])["name"] == "mine"
    )
    assert manifest["n_samples"] == 2
    (job,) = Queue(place.queue).live()
    assert job.step == "measure" and job.spec["dataset"].startswith("dataset-")
    assert "mine is being measured" in page.success[0].value


def test_a_budget_is_kept_to_and_the_rest_goes_to_pairs(place: Workspace):
    page = ran(opened("fill", **VIEW, rows="1"))
    assert figures(page)["Rows"] == "1" and figures(page)["Gaps"] == "4 of 6"
    assert "At least" in words(page)
    assert any("Write for the 2 gaps that are left" in link.label for link in page.get("page_link"))


def test_a_pool_that_helps_nothing_says_so(place: Workspace):
    page = ran(opened("fill", **{**VIEW, "pool": "toy-seed", "dataset": "toy-pool"}))
    assert "No row of toy-seed that may be taken fires the only gap." in words(page)
    assert not page.metric and not page.button


def test_without_a_pool_it_says_what_to_do(tmp_path, monkeypatch):
    workspace = toy_workspace(tmp_path / "two")
    monkeypatch.setenv("FAC_WORKSPACE", str(workspace.root))
    page = ran(opened("fill", dataset="toy-seed", anchor="toy-anchor"))
    assert "No pool yet" in words(page)


def test_texts_of_a_pool_are_shown_as_they_are(place: Workspace):
    page = ran(opened("fill", **VIEW, unit="all", each="4"))
    ran(opened("fill", **VIEW, unit="all", each="4", taken="9"))
    assert "<img src=x" not in markup(page)


def test_a_pool_that_cannot_be_one_is_said(place: Workspace):
    page = ran(opened("fill", **{**VIEW, "pool": "toy-anchor"}))
    assert "Rows cannot be taken of toy\\-anchor" in page.warning[0].value
    assert figures(page)["Rows"] == "3", "the other one is shown"
    assert not ran(opened("fill", **VIEW)).warning
