"""Reports of a workspace with a synthesis, and the buttons that make them."""

import pytest

from fac import report
from fac.questions import results
from fac.questions.comparison import Comparison
from fac.questions.outlook import percent
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui.stores import stores
from tests.test_pages import navigation_decides, opened, ran, started
from tests.test_report import Document, written
from tests.test_synthesis_page import (
    HOSTILE,
    done,
    made,
    paired,
    result_of,
    texts_of_any_length,
    work_off,
)

__all__ = [
    "done",
    "made",
    "navigation_decides",
    "paired",
    "started",
    "texts_of_any_length",
]  # fixtures


def test_the_ledger_has_what_was_written_and_counts_what_is_added(done, tmp_path):  # noqa: F811
    manifest = result_of(done)
    line = {"anchor": "toy-anchor", "dataset": "toy-seed"}
    _, document = written(done, tmp_path, **line)
    facts = manifest.facts
    assert f"toy-seed · two-step · {facts.kept} of {facts.n_candidates} kept" in document.text
    assert f"Samples kept {facts.kept} – –" in document.text
    assert f"Tokens written {facts.tokens:,}" in document.text
    assert "counted here" not in document.text and "What the additions change" not in document.text
    assert HOSTILE not in (tmp_path / "report.html").read_text("utf-8")
    Queue(done.queue).enqueue(results.remeasure_spec(stores(), manifest))
    work_off(done)
    kept = Runs(done).manifest(facts.kept_dataset).facts.name
    _, document = written(done, tmp_path, "--with", kept, **line)
    assert "counted here" in document.text
    before, after = (percent(fac) for fac in (facts.fac_before, facts.fac_after))
    assert f"Coverage {before} {after}" in document.text


@pytest.mark.parametrize("page", ["coverage", "compare"])
def test_a_page_offers_the_report_of_what_it_shows(done, page, tmp_path):  # noqa: F811
    view = {"dataset": "toy-seed", "before": "toy-anchor", "after": "toy-seed"}
    at = ran(opened(page, anchor="toy-anchor", threshold="0", **view))
    (button,) = [each for each in at.get("download_button") if each.proto.label == "Report"]
    assert not at.exception and button.proto.ignore_rerun
    question = Comparison(*(Runs(done).resolve("measure", n) for n in ("toy-anchor", "toy-seed")))
    html = report.as_html(report.report(stores(), question))
    _, document = written(done, tmp_path, anchor="toy-anchor", dataset="toy-seed")
    assert "not grouped into families yet" in html, "the worker has not made them"
    assert Document(html).every("h2") == document.every("h2")
