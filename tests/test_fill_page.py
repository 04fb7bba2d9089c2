"""The Fill page, run headless: rows of a pool of nine for the gaps of the toy, kept and dropped."""

import json
from urllib.parse import parse_qs

import pytest

from fac.config import Workspace
from fac.questions.comparison import Comparison
from fac.questions.fill import fill, publish
from fac.store import open_stores
from fac.store.queue import Queue
from fac.ui.views import share
from tests.test_fill import POOL, measured_again, says
from tests.test_pages import button, markup, navigation_decides, opened, ran, started, words
from tests.toy import ANCHOR, SEED, fac_of, toy_workspace

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
        "Gaps that get a row": "6 of 6",
    }
    assert "None of these gaps of toy-seed is certain" in words(page)
    assert "a python function with a loop by a river" in markup(page)
    ran(button(page, "Keep").click().run())
    assert "her river under some mountain" in markup(page)
    ran(button(page, "Drop").click().run())
    # Row 2 alone shows a mountain; the river is in the first row too.
    assert figures(page)["Rows"] == "2" and figures(page)["Gaps that get a row"] == "5 of 6"
    assert page.query_params["drop"] == "2"
    assert "Write for the 1 gap that is left" in words(page)
    again = ran(opened("fill", **VIEW, drop="2,77,x", taken="2"))
    assert figures(again) == figures(page)
    ran(button(again, "Undo").click().run())
    assert figures(again)["Gaps that get a row"] == "6 of 6" and "drop" not in again.query_params


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
    assert "mine, 2 rows of toy-pool, is being measured" in words(page).replace("**", "")


def test_a_budget_is_kept_to_and_the_rest_goes_to_pairs(place: Workspace):
    page = ran(opened("fill", **VIEW, rows="1"))
    assert figures(page)["Rows"] == "1" and figures(page)["Gaps that get a row"] == "4 of 6"
    assert "At least" in words(page)
    assert any("Write for the 2 gaps that are left" in link.label for link in page.get("page_link"))


def test_a_pool_that_helps_nothing_says_so(place: Workspace):
    page = ran(opened("fill", **{**VIEW, "pool": "toy-seed", "dataset": "toy-pool"}))
    assert "No row of toy-seed that may be taken fires the only gap." in words(page)
    assert not page.metric and not page.button


def taken(place, anchor="toy-anchor"):
    """Rows of the pool taken for the gaps of the toy and measured; what they are called."""
    stores = open_stores(place, remember=False)
    sides = (stores.runs.resolve("measure", name) for name in (anchor, "toy-seed"))
    comparison, pool = Comparison(*sides), stores.runs.resolve("measure", "toy-pool")
    measured_again(stores, publish(stores, comparison, fill(stores, comparison, pool), "filled"))
    stores.cache.close()
    return "filled"


def links(page):
    return {link.proto.label: parse_qs(link.proto.query_string) for link in page.get("page_link")}


def test_what_was_taken_is_compared_together_with_the_dataset(place: Workspace):
    name = taken(place)
    page = ran(opened("fill", **VIEW))
    assert f"together with toy-seed FAC {share(fac_of(4, 10))} → 100.0%" in words(page)
    view = {key: value for key, (value,) in links(page)["Compare before and after"].items()}
    assert (view["before"], view["after"], view["with"]) == ("toy-seed", name, "toy-seed")
    together = ran(opened("compare", **view))
    assert figures(together)["FAC"] == "100.0%" and figures(together)["Lost"] == "0"
    assert figures(together)["Gained"] == "6"
    assert "6 gaps got rows. A row shows a gap and does not make it common" in words(together)
    (picker,) = [each for each in together.selectbox if each.label == "Together with"]
    assert picker.value == "toy-seed"
    assert f"toy-seed with {name}" in words(together)
    assert links(together)["Change the settings"]["with"] == [name]
    alone = ran(picker.set_value("").run())
    assert int(figures(alone)["Lost"]) > 0 and alone.query_params["with"] == ""


def test_the_same_rows_are_not_taken_twice_and_a_name_is_free(place: Workspace):
    page = ran(opened("fill", **VIEW))
    assert page.text_input[0].value == "toy-seed-filled"
    name = taken(place)
    page = ran(opened("fill", **VIEW))
    make = next(each for each in page.button if each.label.startswith("Make a dataset"))
    assert make.disabled and f"Exactly these rows are {name} already" in words(page)
    page = ran(opened("fill", **VIEW, drop="2"))
    assert "Exactly these rows" not in words(page)
    ran(button(page, "Make a dataset of 2 rows and measure it").click().run())
    page = ran(opened("fill", **VIEW))
    assert page.text_input[0].value == "toy-seed-filled-2"


def test_compare_opens_on_the_rows_that_were_last_taken(place: Workspace):
    name = taken(place)
    page = ran(opened("compare", threshold="0"))
    sides = {each.label: each.value for each in page.selectbox}
    assert sides == {
        "Before": "toy-seed",
        "After": name,
        "Together with": "toy-seed",
        "Against the anchor": "toy-anchor",
    }
    assert "before and after the rows of a pool that were last taken for it" in words(page)
    assert figures(page)["Lost"] == "0"


def test_a_third_dataset_may_stand_beside_the_second(place: Workspace):
    """The pool says nothing of ovens, the seed does."""
    view = {"before": "toy-anchor", "after": "toy-pool", "anchor": "toy-anchor", "threshold": "0"}
    alone = ran(opened("compare", **view))
    assert [each.value for each in alone.selectbox if each.label == "Together with"] == [""]
    both = ran(opened("compare", **view, **{"with": "toy-seed"}))
    assert int(figures(both)["Lost"]) < int(figures(alone)["Lost"])
    assert "toy-pool with toy-seed" in words(both)


def test_what_is_measured_meanwhile_changes_nothing(place: Workspace):
    page = ran(opened("fill", threshold="0"))
    chosen = {name: page.query_params[name] for name in ("dataset", "anchor", "pool")}
    assert chosen == {name: VIEW[name] for name in chosen}, "the oldest that can be"
    samples = {"newer": SEED[:9], "larger": [*POOL * 3, *says("a new recipe")]}
    toy_workspace(place.root, samples=samples)
    assert {name: ran(page.run()).query_params[name] for name in chosen} == chosen
    fresh = ran(opened("fill", threshold="0"))
    assert {name: fresh.query_params[name] for name in chosen} == chosen
    page.query_params["drop"] = "2"
    other = next(each for each in page.selectbox if each.label == "Take rows of")
    ran(other.set_value("larger").run())
    assert page.query_params["pool"] == "larger" and "drop" not in page.query_params


def test_rows_that_fill_certain_gaps_may_leave_them_certain(tmp_path, monkeypatch):
    samples = {"toy-codes": ANCHOR + ANCHOR[12:18] * 6, "toy-seed": SEED * 2, "toy-pool": POOL}
    place = toy_workspace(tmp_path / "toy", samples=samples)
    monkeypatch.setenv("FAC_WORKSPACE", str(place.root))
    page = ran(opened("fill", **{**VIEW, "anchor": "toy-codes"}))
    assert figures(page)["Certain gaps that get a row"] == "3 of 3"
    stay = "3 of 3 certain gaps stay certain (3 under-represented)"
    assert f"does not make it common: with these rows in toy-seed, {stay}" in words(page)
    name = taken(place, "toy-codes")
    page = ran(opened("fill", **{**VIEW, "anchor": "toy-codes"}))
    assert f"FAC {share(fac_of(4, 10))} → 100.0%, and {stay}" in words(page)
    assert links(page)["What both still lack"]["with"] == [name]


def test_one_dataset_alone_and_no_gap_say_what_to_do(tmp_path, monkeypatch):
    place = toy_workspace(tmp_path / "toy", samples={"toy-anchor": ANCHOR})
    monkeypatch.setenv("FAC_WORKSPACE", str(place.root))
    assert "One dataset alone has no gaps" in words(ran(opened("fill")))
    toy_workspace(place.root, samples={"toy-seed": SEED, "toy-pool": POOL})
    same = ran(opened("fill", **{**VIEW, "dataset": "toy-anchor"}))
    assert "Nothing to fill" in words(same) and "Take another dataset or anchor" in words(same)
    toy_workspace(place.root, samples={"part": SEED[:5]})
    part = ran(opened("fill", **{**VIEW, "pool": "part"}))
    assert "Every sample of part is in toy-seed or toy-anchor already" in words(part)
    assert "Add a pool" in words(part)


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
