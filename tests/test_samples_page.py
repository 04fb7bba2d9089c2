"""The review page for kept samples: one at a time, blind, and what was said about them afterwards.

The toy's synthesis keeps a sample of each of four gaps; the one of python ends in hostile markup.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from fac import review
from fac.config import RetouchSpec, Workspace
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.test_cli import fac
from tests.test_pages import button, markup, navigation_decides, opened, ran, started, words
from tests.test_synthesis_page import (  # noqa: F401
    GAPS,
    copied,
    labels,
    links,
    made,
    paired,
    perform,
    read,
    result_of,
    texts_of_any_length,
    work_off,
)

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses


@pytest.fixture
def place(made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:  # noqa: F811
    """A copy that a test may change, with a finished synthesis."""
    return copied(made, tmp_path, monkeypatch)


def desk(place: Workspace, reviewer: str = "ana", **view: str) -> AppTest:
    run = result_of(place).run
    return opened("review", kind="sample", synthesis=run, reviewer=reviewer, **view)


def states(place: Workspace) -> dict[int, review.samples.SampleState]:
    every = review.sample_states(
        Decisions(place.decisions), Runs(place), result_of(place).run
    ).values()
    return {state.feature: state for state in every}


def in_view(at: AppTest) -> int:
    """The gap of the sample in view."""
    caption = next(each.value for each in at.caption if "written to show" in each.value)
    return int(caption.split("\\#")[1].split()[0])


def said(place: Workspace, who: str) -> list[tuple[int, str]]:
    current = Decisions(place.decisions).current("sample", reviewer=who)
    return [(int(d.subject.split("/")[2]), d.verdict) for d in current]


def bring(at: AppTest, feature: int) -> AppTest:
    """Skips until the sample of a gap is in view."""
    for _ in GAPS:
        if in_view(at) == feature:
            return at
        ran(button(at, "Skip").click().run())
    raise AssertionError(f"no kept sample of {feature}")


def edited(at: AppTest, text: str) -> AppTest:
    ran(button(at, "Edit").click().run())
    at.text_area[0].set_value(text)
    return ran(button(at, "Measure it").click().run())


def decide(place: Workspace, feature: int, who: str, verdict: str, **more: Any) -> None:
    item = states(place)[feature].version.item
    Decisions(place.decisions).add(who, "sample", item.subject, item.content, verdict, **more)


def test_a_sample_is_shown_whole_with_its_gap_and_kept_by_a_key(place):
    at = bring(desk(place), 6)
    assert "Would you train on this sample?" in words(at)
    (row,) = [state.version.row for state in states(place).values() if state.feature == 6]
    assert row["messages"][0]["content"] in read(at)
    assert "People speak of a river." in read(at), "what its gap is said to be"
    assert "fac-peak" in markup(at) and "Coloured where it fires its gap" in words(at)
    assert "Wrong label" not in labels(at), "it has no label"
    ran(button(at, "Keep").click().run())
    assert said(place, "ana") == [(6, "keep")]
    assert at.get("progress")[0].proto.text.startswith("1 of 4")
    assert in_view(at) != 6


def test_hostile_text_stays_text(place):
    at = bring(desk(place), 3)
    assert "<img src=x onerror=alert(1)>" in read(at)
    assert "<img" not in markup(at)


def test_all_looked_through_says_what_came_of_it_and_leads_to_the_export(place):
    at = desk(place)
    for verdict in ("Keep", "Drop", "Keep", "Keep"):
        ran(button(at, verdict).click().run())
    assert "All looked through" in words(at)
    assert "People looked at 4 of 4 kept samples: 3 kept, 1 dropped." in words(at).replace("\\", "")
    assert "75.0% (95 % interval 30.1% to 95.4%)" in words(at).replace("\\", "")
    assert f"synthesis={result_of(place).run}" in links(at)["Export what was reviewed"]
    ran(button(at, "Undo the last").click().run())
    assert len(said(place, "ana")) == 3 and "Would you train" in words(at)


def test_before_the_decision_nothing_of_others_is_in_sight(place):
    for feature in GAPS:
        decide(place, feature, "zelda", "drop", note="rubbish indeed")
    at = desk(place)
    everything = words(at) + read(at) + " ".join(labels(at))
    assert "zelda" not in everything and "rubbish" not in everything
    assert "disagree" not in everything and "dropped" not in everything


def test_two_reviewers_begin_with_the_same_shared_sample(place):
    run, current = result_of(place).run, Decisions(place.decisions).current("sample")
    items = [state.version.item for state in states(place).values()]
    shared = [
        {item.subject for item in review.queue(items, current, who, seed=run) if item.overlap}
        for who in ("ana", "bo")
    ]
    assert shared[0] == shared[1] and len(shared[0]) == 1


def test_an_edit_is_measured_and_waits_for_a_decision_of_its_own(place):
    at = bring(desk(place), 6)
    edited(at, "Tell me how a river! bends on its way to town")
    (job,) = [job for job in Queue(place.queue).jobs() if job.step == "retouch"]
    assert RetouchSpec(**job.spec).texts == ("Tell me how a river! bends on its way to town",)
    assert "is being measured" in words(at) and button(at, "Keep").disabled
    work_off(place)
    ran(at.run())
    assert in_view(at) == 6 and "Tell me how a river! bends" in read(at)
    assert states(place)[6].state == "undecided"
    ran(button(at, "Keep").click().run())
    state = states(place)[6]
    assert (state.state, state.reviewers) == ("edited", ("ana",))


def test_an_edit_that_falls_silent_says_so_and_cannot_be_kept(place):
    at = bring(desk(place), 6)
    edited(at, "Tell me how water bends on its way to town")
    work_off(place)
    ran(at.run())
    assert "This edit is not kept" in words(at)
    assert button(at, "Keep").disabled and button(at, "Drop").disabled
    assert states(place)[6].version.run == result_of(place).run
    before = next(each for each in at.button if each.label.startswith("1 · written"))
    ran(before.click().run())
    ran(button(at, "Drop").click().run())
    assert states(place)[6].state == "dropped"


def test_who_decides_on_what_was_edited_meanwhile_is_told(place):
    at = bring(desk(place), 6)
    state = states(place)[6]
    spec = RetouchSpec(
        synthetic=result_of(place).run,
        candidate=state.candidate,
        texts=("Tell me how a river! bends on its way to town",),
    )
    perform(place, spec)
    ran(button(at, "Keep").click().run())
    assert "edited while you looked at it" in words(at)
    assert said(place, "ana") == [] and "Tell me how a river! bends" in read(at)


def test_an_edit_that_changes_nothing_or_is_empty_is_not_measured(place):
    at = desk(place)
    ran(button(at, "Edit").click().run())
    ran(button(at, "Measure it").click().run())
    assert "Nothing was changed" in words(at)
    at.text_area[0].set_value("  ")
    ran(button(at, "Measure it").click().run())
    assert "needs a text" in words(at)
    assert [job for job in Queue(place.queue).jobs() if job.step == "retouch"] == []


def test_a_measure_that_fails_gives_the_edit_back_with_the_reason(place):
    at = desk(place)
    edited(at, "Another text altogether")
    queue = Queue(place.queue)
    queue.fail(queue.claim("test").id, "The model is gone.")
    ran(at.run())
    assert "The model is gone." in words(at)
    assert at.text_area[0].value == "Another text altogether"


def test_a_link_brings_one_sample_up_and_a_lost_one_says_so(place):
    seen = states(place)[8].version.seen
    assert in_view(desk(place, item=seen)) == 8
    at = desk(place, item="000000000000")
    assert "is not among these" in words(at) and "Would you train" in words(at)


def test_an_address_of_no_synthesis_says_so_and_shows_the_newest(place):
    at = opened("review", kind="sample", synthesis="synthetic-0", reviewer="ana")
    assert "No finished synthesis here is called" in words(at)
    assert "Would you train on this sample?" in words(at)


def test_without_a_synthesis_or_a_name_the_page_says_what_to_do(place, paired, monkeypatch):  # noqa: F811
    at = opened("review", kind="sample")
    assert "Who is reviewing?" in words(at)
    monkeypatch.setenv("FAC_WORKSPACE", str(paired.root))
    at = opened("review", kind="sample", reviewer="ana")
    assert "Nothing is synthesized yet" in words(at) and "Synthesis" in links(at)


# --- agreement


def test_agreement_knows_samples_with_the_share_that_was_kept(place):
    for who, verdicts in (("ana", "kkkd"), ("bo", "kkdd")):
        for feature, sign in zip(GAPS, verdicts, strict=True):
            decide(place, feature, who, {"k": "keep", "d": "drop"}[sign])
    at = opened("agreement", kind="sample", reviewer="cy")
    assert "what share would they train on" in words(at)
    rows = at.dataframe[0].value.to_dict("records")
    # feature 7 is disputed, so two of four looked at are kept: Wilson 15.0 to 85.0 %
    assert [(row["looked"], row["share"], row["interval"]) for row in rows] == [
        ("4 of 4", "50.0%", "15.0% to 85.0%")
    ]
    (row,) = rows
    counts = [row[name] for name in ("kept", "edited", "dropped", "wrong_label", "disagreed")]
    assert counts == [2, 0, 1, 0, 1] and row["people"] == "ana, bo"
    coefficients = {
        row["coefficient"]: row["estimate"]
        for frame in at.dataframe
        if "coefficient" in (rows := frame.value).columns
        for row in rows.to_dict("records")
    }
    # 3 of 4 agree; chance by both marginals (3/4 1/2 + 1/4 1/2): kappa (.75 - .5) / .5
    assert coefficients["raw agreement"] == "0.75" and coefficients["Cohen's kappa"] == "0.50"
    assert "Gwet's AC1" in coefficients
    ran(next(each for each in at.button if each.label == "Keep").click().run())
    assert states(place)[7].state == "kept"


def test_samples_that_people_differ_on_are_shown_as_text(place):
    decide(place, 3, "ana", "keep")
    decide(place, 3, "bo", "drop")
    at = opened("agreement", kind="sample", reviewer="cy")
    assert "<img src=x onerror=alert(1)>" in read(at) and "<img" not in markup(at)
    query = links(at)["See the examples"]
    assert "kind=sample" in query and f"synthesis={result_of(place).run}" in query


def test_decisions_of_samples_that_are_not_here_do_not_break_the_page(place):
    decide(place, 3, "ana", "keep")
    *_, last = Decisions(place.decisions).export()
    line = json.loads(last)
    content = {"kind": "sample", "messages": "x", "extra": 3}
    for number, verdict in enumerate(("keep", "drop")):
        fields = {
            "uid": f"{number:032x}",
            "reviewer": f"r{number}",
            "subject": "sample/synthetic-gone/3/x",
            "content": content,
            "verdict": verdict,
            "seen": review.items.digest(content),
        }
        report = Decisions(place.decisions).load([json.dumps(line | fields)])
        assert report["rejected"] == []
    at = opened("agreement", kind="sample", reviewer="cy")
    assert not at.exception and not at.error


# --- by command


def kept(place: Workspace, *line: object) -> dict[str, Any]:
    run = result_of(place).run
    answer = fac("keep", run, *line, "--reviewer", "ana", "--json", workspace=place)
    assert answer.code == 0, answer.err
    return answer.json


def test_samples_are_kept_and_dropped_by_command(place):
    assert kept(place, "--ids", "3,#6")["decided"] == 2
    candidate = states(place)[7].candidate
    data = kept(place, "--ids", candidate, "--drop")
    assert (data["looked"], data["kept"], data["dropped"]) == (3, 2, 1)
    assert data["share"] == 2 / 3 and data["reviewers"] == ["ana"]
    data = kept(place, "--all")
    assert (data["decided"], data["looked"], data["kept"]) == (1, 4, 3), "what is decided stays"
    kept(place, "--ids", "3")
    assert len(said(place, "ana")) == 4, "the same is not recorded twice"
    assert fac("keep", "toy-seed", "--all", "--reviewer", "ana", workspace=place).code == 0


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ((), "--all or --ids"),
        (("--all", "--ids", "3"), "--all or --ids"),
        (("--ids", "99"), "No kept sample has the name or the feature '99'"),
        (("--ids", ","), "takes candidates or features"),
        (("--all", "--drop", "--wrong-label"), "not both"),
        (("--ids", "3", "--wrong-label"), "no label that could be wrong"),
    ],
)
def test_what_cannot_be_decided_by_command_is_a_sentence(place, line, match):
    run = result_of(place).run
    answer = fac("keep", run, *line, "--reviewer", "ana", workspace=place)
    assert answer.code != 0 and match in " ".join(answer.err.split())
    assert said(place, "ana") == []


def test_agreement_about_samples_is_printed_by_command(place):
    for who, verdict in (("ana", "keep"), ("bo", "drop")):
        decide(place, 3, who, verdict)
    data = fac("agreement", "--kind", "sample", "--json", workspace=place).json
    assert data["items"] == 1 and "human_check" not in data
    (figures,) = data["kept"]
    assert (figures["n"], figures["kept"], figures["disagreed"]) == (1, 0, 1)
    assert fac("agreement", "--kind", "sample", workspace=place).code == 0
