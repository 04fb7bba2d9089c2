"""The export panel of the Synthesis page: what will be in the file, before it is downloaded."""

from fac import review
from fac.export import forms_of, plan_export
from fac.questions import exports
from fac.review.samples import sample_rows
from fac.store.runs import Runs
from fac.ui.exports import DOWNLOADS
from fac.ui.stores import stores
from tests.test_pages import markup, navigation_decides, ran, words  # noqa: F401
from tests.test_synthesis_page import done, made, paired, result_of, shown  # noqa: F401


def test_the_panel_says_what_will_be_in_the_file(done):  # noqa: F811
    run, n = result_of(done).run, result_of(done).facts.kept
    at = shown(done)
    said = words(at)
    assert f"**{n} rows** of {n} that the filter kept." in said
    assert "Looked at by people: none: nobody decided on a sample." in said
    assert "Messages without answers" in said
    (row, *_) = plan_export(run, runs=Runs(done)).rows
    assert row["prompt"][0]["content"][:20] in markup(at)
    assert "<img src=x" not in markup(at)


def test_only_what_people_kept_can_leave(done):  # noqa: F811
    run, n = result_of(done).run, result_of(done).facts.kept
    at = shown(done)
    ran(at.toggle(key=f"reviewed {run}").set_value(True).run())
    assert f"None of the {n} kept samples" in at.info[0].value
    assert not at.get("download_button")
    (sample, *_) = sample_rows(Runs(done), run)
    item = review.sample_item(run, sample)
    stores().decisions.add("ana", item.kind, item.subject, item.content, "keep")
    ran(at.run())
    said = words(at)
    assert f"**1 row** of {n} that the filter kept; left out: {n - 1} not looked at." in said
    assert f"1 of {n}, by ana; they would train on 1 of them: 100 %" in said
    assert len(at.get("download_button")) == len(DOWNLOADS) + 1


def test_a_format_that_cannot_hold_the_rows_is_off_and_says_why(done):  # noqa: F811
    at = shown(done, form="chat")
    buttons = {each.proto.label: each.proto for each in at.get("download_button")}
    assert not buttons["JSONL"].disabled and buttons["OpenAI"].disabled
    assert "reinforcement fine-tuning" in buttons["OpenAI"].help
    assert "end with the user's message" in words(at)
    assert exports.plan(stores(), result_of(done).run, form="chat").form in forms_of("instruction")
