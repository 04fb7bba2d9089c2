"""The Pairs page, run headless: from gaps of the coverage page to pairs that people approved.

toy-seed lacks python, function, loop, river, mountain and train (features 3 to 8). The worker is
the real one with words as features and a scripted writer, run whenever a test says so.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as some
from streamlit.testing.v1 import AppTest

from fac import review
from fac.cli import frame
from fac.config import PairsSpec, RescoreSpec, SynthesizeSpec, Workspace
from fac.errors import BudgetReached
from fac.generator.writer import Request
from fac.jobs.worker import Worker
from fac.questions.explanations import explain_runs
from fac.questions.pairs import differences, turns_of
from fac.schema import Chat
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui.review import changes_html
from tests.test_cli_make import MISSING, MakingSteps, worded
from tests.test_jobs import quiet
from tests.test_pages import (
    Reader,
    button,
    markup,
    navigation_decides,
    opened,
    ran,
    started,
    words,
)
from tests.toy import ANCHOR, SEED, TASK, WORDS, toy_workspace

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses

HOSTILE = "<img src=x onerror=alert(1)> :red[x] </div><script>1</script>"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("kitchen"), explained=True)


@pytest.fixture
def place(kitchen: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A toy workspace that a test may change, in which nothing was made yet."""
    shutil.copytree(kitchen.root, tmp_path / "kitchen")
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path / "kitchen"))
    return Workspace(tmp_path / "kitchen")


def worked(place: Workspace, steps: type[MakingSteps] = MakingSteps) -> None:
    """The worker does all that waits."""
    Worker(place, say=lambda _: None, steps=steps(place)).run(until_idle=True)


def sides(place: Workspace) -> dict[str, str]:
    return {
        name: Runs(place).resolve("measure", f"toy-{name.removesuffix('set')}")
        for name in ("anchor", "seed")
    }


def paired(
    place: Workspace,
    features: tuple[int, ...] = (3, 6),
    says: Callable[[Request], Any] = worded,
) -> str:
    """A pairs run for some gaps."""
    both = sides(place)
    spec = PairsSpec(
        anchor=both["anchor"],
        dataset=both["seed"],
        features=features,
        explanations=tuple(explain_runs(Runs(place), both["anchor"])),
        candidates=2,
    )
    steps = MakingSteps(place)
    steps.says = says
    return steps.perform(spec, quiet)


def strength(request: Request) -> str:
    """A text that fires its gap with 1.5, 3 or 4: python, river or train."""
    feature = int(request.key.split("/")[1])
    marks = {3: 1, 6: 4, 8: 6}[feature]
    return f" {request.key[-7:-5]} about {WORDS[feature]}{'!' * marks}"


def rows(place: Workspace, run: str) -> dict[int, dict[str, Any]]:
    return {row["feature"]: row for row in Runs(place).table(run, "pairs").to_pylist()}


def decide(place: Workspace, run: str, feature: int, who: str, verdict: str = "approve") -> None:
    item = review.pair_item(run, rows(place, run)[feature])
    Decisions(place.decisions).add(who, "pair", item.subject, item.content, verdict)


def approved(place: Workspace, run: str) -> list[int]:
    """The gaps whose pairs a writer may be told of."""
    found = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    return [row["feature"] for row in found]


def on_desk(at: AppTest) -> int:
    """The feature whose pair lies on the desk."""
    (heading,) = (each.value for each in at.markdown if each.value.startswith("#### "))
    return int(re.search(r"#(\d+)", heading[5:])[1])


def views(at: AppTest) -> dict[str, int]:
    """How many pairs each view says it has."""
    (control,) = (each for each in at.segmented_control if each.label == "Show")
    found = {}
    for option in control.proto.options:
        name, n = option.content.rsplit(" ", 1)
        found[name] = int(n)
    return found


def link(at: AppTest, label: str) -> dict[str, str]:
    """The query of the one link whose label begins like this."""
    (found,) = (each for each in at.get("page_link") if each.proto.label.startswith(label))
    return {name: value for name, (value,) in parse_qs(found.proto.query_string).items()}


def field(at: AppTest, kind: str, label: str) -> Any:
    return next(each for each in getattr(at, kind) if each.label == label)


# --- from gaps to a form --------------------------------------------------------------------------


def test_the_coverage_page_hands_on_the_first_gaps_of_its_list(place):
    at = opened("coverage", threshold="0.5")
    query = link(at, "Write pairs for these 6")
    assert sorted(map(int, query["features"].split(","))) == MISSING
    assert (query["anchor"], query["dataset"]) == ("toy-anchor", "toy-seed")
    assert query["threshold"] == "0.5"
    first = list(at.dataframe[0].value["feature"])[:2]
    ran(field(at, "number_input", "First of the list").set_value(2).run())
    assert link(at, "Write pairs for these 2")["features"] == ",".join(map(str, first))


def test_the_form_shows_the_gaps_and_exactly_what_the_writer_will_be_asked(place):
    at = opened("pairs", features="6,3", anchor="toy-anchor", dataset="toy-seed")
    assert list(at.dataframe[0].value["feature"]) == [3, 6]
    shown = Reader(markup(at)).text
    made = paired(place)
    replies = Runs(place).table(made, "replies").to_pylist()
    (asked,) = (r["prompt"] for r in replies if r["about"].startswith("step-1/000003/00"))
    (opening,) = (message["content"] for message in json.loads(asked))
    assert opening in shown and "python" in opening
    styles = field(at, "segmented_control", "Style")
    ran(styles.set_value("ask").run())
    (asked,) = (r["prompt"] for r in replies if r["about"].startswith("step-1/000003/01"))
    for message in json.loads(asked):
        assert message["content"] in Reader(markup(at)).text


def test_without_chosen_gaps_the_most_certain_are_proposed(place):
    at = opened("pairs", threshold="0")
    gaps = list(at.dataframe[0].value["feature"])
    supported = list(at.dataframe[0].value["n_anchor"])
    assert sorted(gaps) == MISSING and supported == sorted(supported, reverse=True)
    assert "None of 6 gaps is certain." in words(at)
    assert "all 6 absent gaps are offered" in words(at)
    ran(field(at, "number_input", "How many gaps").set_value(2).run())
    ran(button(at, "Write pairs for 2 gaps").click().run())
    (job,) = Queue(place.queue).jobs()
    assert job.spec["features"] == sorted(gaps[:2])


def test_pairs_count_gaps_as_home_does(tmp_path, monkeypatch):
    often = {"toy-anchor": ANCHOR * 4, "toy-seed": SEED * 4}
    toy_workspace(tmp_path, samples=often)
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path))
    home = Reader(markup(opened("home", threshold="0"))).text
    at = words(opened("pairs", threshold="0"))
    assert "Certain are 6 of 6 gaps, 6 of them absent." in at
    assert "6 gaps are certain, all of them absent" in home


def test_samples_of_the_anchor_are_counted_at_the_threshold_in_use(place):
    # A word said plainly fires with 1; of these loop! and train! alone fire with 1.5, in 6 chats.
    at = opened("pairs", features="3,5,8", threshold="1")
    assert list(at.dataframe[0].value["n_anchor"]) == [0, 6, 6]
    at = opened("pairs", features="3,5,8", threshold="0")
    assert list(at.dataframe[0].value["n_anchor"]) == [6, 6, 6]
    at = opened("pairs", threshold="1", features="best")
    table = at.dataframe[0].value
    assert dict(zip(table["feature"], table["n_anchor"], strict=True)) == {5: 6, 8: 6}


def test_gaps_with_a_pair_or_a_sample_are_marked_and_offered_only_when_asked_for(place):
    run = paired(place, (3, 6, 8, 11))
    decide(place, run, 3, "ana")
    told(place, run)  # a synthesis from what is approved
    decide(place, run, 6, "ana")
    decide(place, run, 8, "ana", "reject")
    at = opened("pairs", features="best", threshold="0.5")
    table = at.dataframe[0].value
    assert sorted(table["feature"]) == [4, 5, 7, 8], "without 3, which has a sample, and 6"
    assert dict(zip(table["feature"], table["so_far"], strict=True))[8] == "pair rejected"
    ran(field(at, "toggle", "Also the 2 gaps with a pair or a sample").set_value(True).run())
    table = at.dataframe[0].value
    so_far = dict(zip(table["feature"], table["so_far"], strict=True))
    assert sorted(so_far) == MISSING
    assert (so_far[3], so_far[6], so_far[4]) == ("sample kept", "pair approved", "")
    at = opened("pairs", features="3,11", threshold="0.5")
    assert list(at.dataframe[0].value["so_far"]) == ["sample kept", "no pair came of it"]


def test_samples_are_preselected_in_the_shape_of_the_data_and_it_says_why(place):
    at = opened("pairs", features="3,6", threshold="0.5")
    samples = field(at, "selectbox", "Samples")
    assert samples.value == "instruction"
    assert "Your data are messages without answers." in words(at)
    assert "Answers by" not in {each.label for each in at.selectbox}
    samples.set_value("chat")
    ran(at.run())
    answers = field(at, "selectbox", "Answers by")
    assert answers.value == "" and len(answers.options) == 3
    assert ":material/warning: Your data are messages without answers." in words(at)


def test_what_the_form_says_is_what_is_asked_for(place, started):
    at = opened("pairs", features="3,6", threshold="0.5")
    field(at, "number_input", "Texts per gap").set_value(3)
    field(at, "number_input", "Temperature").set_value(0.5)
    field(at, "number_input", "Margin").set_value(0.25)
    field(at, "number_input", "Token budget").set_value(5000)
    field(at, "selectbox", "Samples").set_value("chat")
    ran(at.run())
    # 64 a message and 64 an answer, as those of the dataset are shorter: 6 texts, with one answer
    # for python but four for river, which only answers say: 6 * 64 + 3 * (1 + 4) * 64.
    assert "6 texts: up to 1,344 new tokens" in words(at)
    ran(button(at, "Write pairs for 2 gaps").click().run())
    (job,) = Queue(place.queue).jobs()
    spec = PairsSpec(**job.spec)
    both = sides(place)
    assert (spec.anchor, spec.dataset, spec.features) == (both["anchor"], both["seed"], (3, 6))
    assert (spec.threshold, spec.margin, spec.candidates) == (0.5, 0.25, 3)
    assert (spec.profile, spec.temperature, spec.budget_tokens) == ("chat", 0.5, 5000)
    assert len(spec.explanations) == 2, "the writer reads what both explainers said"
    assert place in started
    assert "Cancel" in {each.label for each in at.button}


def test_the_whole_question_of_the_address_is_asked_and_remembered(place):
    settings = {"threshold": "0.9", "role": "user", "support": "2", "relevant": TASK}
    at = opened("pairs", **settings, features="best")
    assert list(at.dataframe[0].value["feature"]) == [3, 4], "python and function, as users say"
    assert f"2 or more samples of the anchor, relevant for {TASK}" in words(at)
    at = opened("pairs", **settings, features="3,11")
    ran(button(at, "Write pairs for 2 gaps").click().run())
    worked(place)
    (job,) = Queue(place.queue).jobs()
    spec = Runs(place).manifest(job.run_id).spec
    assert (spec.threshold, spec.role, spec.min_support) == (0.9, "user", 2)
    assert (spec.relevant, spec.relevant_features) == (TASK, (3, 4, 5, 6))
    at = opened("pairs", pairs=job.run_id, show="failed")
    again = link(at, "Try these 1 with other settings")
    assert again.items() >= {**settings, "features": "11"}.items()
    assert (again["anchor"], again["dataset"]) == ("toy-anchor", "toy-seed")


def test_a_form_and_the_command_line_ask_for_the_same_run(place):
    from tests.test_cli import PAIR
    from tests.test_cli_make import done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "Steps", MakingSteps)
        made = done("pairs", *PAIR, "--features", "3,6", workspace=place)["run"]
    at = opened("pairs", features="3,6", threshold="0")
    ran(button(at, "Write pairs for 2 gaps").click().run())
    worked(place)
    assert Queue(place.queue).jobs()[0].run_id == made


def test_pairs_that_are_written_come_onto_the_desk_by_themselves(place):
    at = opened("pairs", features="3,6")
    ran(button(at, "Write pairs for 2 gaps").click().run())
    worked(place)
    ran(at.run())
    assert on_desk(at) in (3, 6)
    (job,) = Queue(place.queue).jobs()
    assert at.query_params["pairs"] == job.run_id
    assert "features" not in at.query_params


def test_a_cancelled_run_says_so_goes_on_and_what_was_complete_can_be_seen(place):
    at = opened("pairs", features="3,6")
    ran(button(at, "Write pairs for 2 gaps").click().run())
    ran(button(at, "Cancel").click().run())
    assert "Cancelled" in words(at)
    ran(button(at, "Go on").click().run())
    assert [job.status for job in Queue(place.queue).jobs()] == ["waiting", "cancelled"]
    worked(place)
    assert on_desk(ran(at.run())) in (3, 6)


def test_a_budget_that_ends_a_run_is_told_and_leads_to_what_is_complete(place, monkeypatch):
    at = opened("pairs", features="3,6")
    ran(button(at, "Write pairs for 2 gaps").click().run())

    class Poor(MakingSteps):
        says = staticmethod(
            lambda request: (
                BudgetReached("The budget of 9 tokens is used up.")
                if request.key.startswith("step-1/000006")
                else worded(request)
            )
        )

    worked(place, Poor)
    ran(at.run())
    assert "The budget of 9 tokens is used up." in words(at)
    run = link(at, "Decide on what was complete")["pairs"]
    assert [*rows(place, run)] == [3]


@pytest.mark.parametrize(
    ("view", "why"),
    [
        ({"features": "3,x"}, "got 'x'"),
        ({"features": "3,99"}, "no feature 99"),
        ({"features": "3", "dataset": "toy-anchor"}, "other than the anchor"),
    ],
)
def test_gaps_that_cannot_be_are_answered_with_a_sentence(place, view, why):
    at = opened("pairs", **view)
    told = [each.value for each in (*at.error, *at.warning)]
    assert len(told) == 1 and why in re.sub(r"\\(.)", r"\1", told[0])


def test_settings_that_cannot_be_are_answered_with_a_sentence(place):
    at = opened("pairs", features="3")
    ran(field(at, "segmented_control", "Writer").set_value("openai").run())
    assert not at.error and "which name the server knows" in words(at)
    ran(field(at, "text_input", "Model").set_value("some-model").run())
    ran(field(at, "number_input", "Budget in $").set_value(1.0).run())
    (told,) = at.error
    assert "price" in told.value


def test_a_gap_of_which_the_anchor_has_no_example_is_said_to_end_without_a_pair(place):
    assert "no example of this gap" in words(opened("pairs", features="11"))


# --- the desk -------------------------------------------------------------------------------------


def test_who_has_no_name_looks_and_decides_nothing(place):
    paired(place)
    at = opened("pairs")
    assert "Choose or type your name" in words(at)
    assert button(at, "Approve").disabled and button(at, "Reject").disabled
    assert not Decisions(place.decisions).current()


def test_a_pair_shows_both_sides_token_by_token_and_what_differs(place):
    run = paired(place)
    at = opened("pairs", pairs=run, feature="3", reviewer="ana")
    row = rows(place, run)[3]
    assert on_desk(at) == 3
    shown = markup(at)
    assert f"<strong>{row['positive_peak']:.2f}</strong>" in shown
    assert f"<strong>{row['negative_peak']:.2f}</strong>" in shown
    assert re.search(r'<span class="fac-peak" title="1.5"[^>]*>python!</span>', shown)
    assert "<del>python!</del>" in shown
    read = Reader(re.sub(r"<style>.*?</style>", "", shown)).text
    assert "written for this gap" in read
    assert row["negative_origin"] == "pool"
    assert "nearest of other gaps' texts" in read
    assert "People speak of a python." in words(at)


def test_a_stand_in_from_the_anchor_is_marked_as_a_real_sample(place):
    # python is said in messages, in whose form texts are written; loop in answers alone.
    says = " nothing of the kind "
    run = paired(place, (3, 5), says=lambda request: f"{says}{request.key[-7:-5]}")
    positives = {feature: row["positive"] for feature, row in rows(place, run).items()}
    assert {row["origin"] for row in rows(place, run).values()} == {"anchor"}
    assert [len(positives[feature]) for feature in (3, 5)] == [1, 3]
    at = opened("pairs", pairs=run, feature="5", reviewer="ana")
    assert "From the anchor: shown to the writer, never exported" in Reader(markup(at)).text
    (caption,) = (each.value for each in at.caption if each.value.startswith("**Positives**"))
    assert caption.startswith("**Positives** 2 of the anchor")
    assert '<div class="fac-turn fac-user"><b>user</b>' in markup(at), "turn by turn"


def test_approved_and_rejected_pairs_leave_the_desk_and_can_be_taken_back(place):
    run = paired(place, (3, 6, 8))
    at = opened("pairs", pairs=run, reviewer="ana")
    first = on_desk(at)
    ran(button(at, "Approve").click().run())
    second = on_desk(at)
    ran(button(at, "Reject").click().run())
    assert len({first, second, on_desk(at)}) == 3
    assert views(at) == {
        "To decide": 1,
        "Approved": 1,
        "Rejected": 1,
        "Without a pair": 0,
        "All": 3,
    }
    assert approved(place, run) == [first]
    assert link(at, "Synthesize from 1 approved pair") == {"pairs": run}
    store = Decisions(place.decisions)
    assert [(d.reviewer, d.verdict) for d in store.current("pair")] == [
        ("ana", "approve"),
        ("ana", "reject"),
    ]
    ran(button(at, "Undo").click().run())
    assert on_desk(at) == second
    ran(button(at, "Undo").click().run())
    assert on_desk(at) == first and approved(place, run) == [] and not store.current()


def test_a_note_is_kept_with_the_decision(place):
    run = paired(place)
    at = opened("pairs", pairs=run, reviewer="ana")
    ran(button(at, "Note").click().run())
    ran(field(at, "text_input", "Note").set_value("clumsy, but right").run())
    feature = on_desk(at)
    ran(button(at, "Approve").click().run())
    (said,) = Decisions(place.decisions).current("pair")
    assert said.note == "clumsy, but right" and said.subject == f"pair/{run}/{feature}"
    at = opened("pairs", pairs=run, reviewer="bo", feature=str(feature))
    assert "ana: approve · clumsy, but right" in Reader(markup(at)).text


def test_skipping_brings_a_pair_again_after_the_others(place):
    run = paired(place)
    at = opened("pairs", pairs=run, reviewer="ana")
    first = on_desk(at)
    ran(button(at, "Skip").click().run())
    assert on_desk(at) != first
    ran(button(at, "Skip").click().run())
    assert on_desk(at) == first


def test_all_above_a_score_are_approved_at_once_and_taken_back_at_once(place):
    run = paired(place, (3, 6, 8), says=strength)
    peaks = {feature: row["positive_peak"] for feature, row in rows(place, run).items()}
    assert peaks == {3: 1.5, 6: 3.0, 8: 4.0}
    at = opened("pairs", pairs=run, reviewer="ana", above="2")
    ran(button(at, "Approve 2 unseen").click().run())
    assert approved(place, run) == [6, 8]
    assert "All decided" in words(at)
    other = opened("pairs", pairs=run, reviewer="bo", feature="6", show="all")
    assert "ana: approve, unseen in bulk" in Reader(markup(other)).text
    assert "approved unseen in bulk" in words(other)
    found = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    assert [row["approver"] for row in found] == ["ana (unseen in bulk)"] * 2
    looked = opened("pairs", pairs=run, reviewer="ana", feature="6", show="all")
    ran(button(looked, "Approve").click().run())
    found = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    assert [row["approver"] for row in found] == ["ana", "ana (unseen in bulk)"]
    ran(button(looked, "Undo").click().run())
    ran(button(at, "Undo the last").click().run())
    assert approved(place, run) == []
    assert on_desk(at) in (6, 8)


def test_approving_all_leaves_out_what_people_rejected(place):
    run = paired(place, (3, 6, 8))
    decide(place, run, 6, "bo", "reject")
    at = opened("pairs", pairs=run, reviewer="ana", show="all")
    ran(button(at, "Approve 2 unseen").click().run())
    assert approved(place, run) == [3, 8]


def test_a_view_holds_what_it_says(place):
    run = paired(place, (3, 6, 11))
    decide(place, run, 3, "ana")
    for show, feature in (("undecided", 6), ("approved", 3)):
        assert on_desk(opened("pairs", pairs=run, reviewer="bo", show=show)) == feature
    assert "Nothing in this view" in words(opened("pairs", pairs=run, show="rejected"))
    at = opened("pairs", pairs=run, show="failed")
    assert list(at.dataframe[0].value["feature"]) == [11]
    assert "fires it enough" in at.dataframe[0].value["reason"][0]
    again = link(at, "Try these 1 with other settings")
    assert again["features"] == "11"
    assert opened("pairs", **again).dataframe[0].value["feature"][0] == 11


def test_people_who_disagree_leave_a_pair_undecided_and_see_it(place):
    run = paired(place, (3,))
    decide(place, run, 3, "bo")
    decide(place, run, 3, "cleo", "reject")
    at = opened("pairs", pairs=run, reviewer="ana")
    assert on_desk(at) == 3
    assert "disputed" in words(at) and "1 approve, 1 reject" in words(at)
    assert approved(place, run) == []
    own = opened("pairs", pairs=run, reviewer="bo")
    assert on_desk(own) == 3, "who said something already sees it again"
    ran(button(at, "Approve").click().run())
    assert approved(place, run) == [3], "most say so"


def test_a_link_to_pairs_nobody_knows_says_so_and_shows_the_newest(place):
    paired(place)
    at = opened("pairs", pairs="pairs-0123456789ab")
    assert "no pairs called pairs-0123456789ab" in words(at)
    assert on_desk(at) in (3, 6)


def test_runs_of_the_same_minute_are_told_apart(place):
    made = [paired(place, features) for features in ((3, 6), (7, 8))]
    for run, features in zip(made, ((3, 6), (7, 8)), strict=True):
        at = opened("pairs", pairs=run, reviewer="ana")
        picker = field(at, "selectbox", "Pairs")
        assert len({*picker.options}) == 2
        assert on_desk(ran(at.run())) in features


def test_texts_of_a_pair_cannot_act(place):
    run = paired(place, (3,), says=lambda request: f" {HOSTILE} python!")
    at = opened("pairs", pairs=run, reviewer="ana")
    shown = Reader(re.sub(r"<style>.*?</style>", "", markup(at)))
    assert "<img src=x onerror=alert(1)>" in shown.text
    assert not shown.tags & {"img", "script"}


# --- edits ----------------------------------------------------------------------------------------


def edited(at: AppTest, positive: str, negative: str) -> AppTest:
    """Opens both sides, types and asks for the measure."""
    ran(button(at, "Edit").click().run())
    field(at, "text_area", "It fires in").set_value(positive)
    field(at, "text_area", "It is silent in").set_value(negative)
    return ran(button(at, "Measure it").click().run())


def test_an_edit_is_measured_and_waits_for_a_decision_of_its_own(place):
    run = paired(place, (3,))
    decide(place, run, 3, "ana")
    at = opened("pairs", pairs=run, reviewer="ana", show="approved")
    edited(at, "Is python! easy to learn", "Is it easy to learn")
    (job,) = Queue(place.queue).jobs()
    spec = RescoreSpec(**job.spec)
    assert (spec.pairs, spec.feature) == (run, 3)
    assert "is being measured" in words(at)
    assert button(at, "Skip").disabled and "Skip, and go on" not in words(at)
    assert "Nothing else is left in this view" in words(at)
    assert button(at, "Approve").disabled, "what is about to change is not approved"
    assert approved(place, run) == [3]
    worked(place)
    ran(at.run())
    assert approved(place, run) == [], "what was approved has been edited since"
    assert "Is python! easy to learn" in Reader(markup(at)).text
    assert "edited by a person" in Reader(markup(at)).text
    ran(button(at, "Approve").click().run())
    (found,) = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    assert found["positive"][0]["content"] == "Is python! easy to learn"
    assert found["run"] != run


def test_an_edit_that_makes_no_pair_says_why_and_can_be_edited_again(place):
    run = paired(place, (3,))
    at = opened("pairs", pairs=run, reviewer="ana")
    edited(at, "Is python! easy", "Is python easy")
    worked(place)
    ran(at.run())
    assert "the negative fires it too" in words(at)
    assert button(at, "Approve").disabled
    edited(at, "Is python! easy", "Is it easy")
    worked(place)
    ran(at.run())
    assert not button(at, "Approve").disabled
    ran(button(at, "Approve").click().run())
    assert approved(place, run) == [3]


def test_the_version_before_an_edit_can_be_looked_at_and_approved_instead(place):
    run = paired(place, (3,))
    at = opened("pairs", pairs=run, reviewer="ana")
    edited(at, "Is python! easy to learn", "Is it easy to learn")
    worked(place)
    ran(at.run())
    before = next(each for each in at.button if each.label.startswith("1 · written"))
    ran(before.click().run())
    ran(button(at, "Approve").click().run())
    (found,) = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    assert found["run"] == run


def test_an_edit_that_changes_nothing_or_leaves_a_side_empty_is_not_measured(place):
    run = paired(place, (3,))
    at = opened("pairs", pairs=run, reviewer="ana")
    ran(button(at, "Edit").click().run())
    ran(button(at, "Measure it").click().run())
    assert "Nothing was changed" in words(at)
    field(at, "text_area", "It is silent in").set_value("  ")
    ran(button(at, "Measure it").click().run())
    assert "need a text" in words(at)
    assert Queue(place.queue).jobs() == []


def test_a_measure_that_fails_gives_the_edit_back_with_the_reason(place):
    run = paired(place, (3,))
    at = opened("pairs", pairs=run, reviewer="ana")
    edited(at, "Is python! easy to learn", "Is it easy to learn")
    queue = Queue(place.queue)
    queue.fail(queue.claim("test").id, "The model is gone.")
    ran(at.run())
    assert "The model is gone." in words(at)
    assert field(at, "text_area", "It fires in").value == "Is python! easy to learn"


def test_who_decides_on_what_was_edited_meanwhile_is_told_and_nothing_is_recorded(place):
    run = paired(place, (3,))
    at = opened("pairs", pairs=run, reviewer="ana")
    edit = {"positive": "Is python! easy to learn", "negative": "Is it easy to learn"}
    MakingSteps(place).perform(RescoreSpec(pairs=run, feature=3, **edit), quiet)
    ran(button(at, "Approve").click().run())
    assert "edited while you looked at it" in words(at)
    assert not Decisions(place.decisions).current()
    assert "Is python! easy to learn" in Reader(markup(at)).text
    ran(button(at, "Approve").click().run())
    (found,) = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    assert found["positive"][0]["content"] == edit["positive"]


# --- what reaches a writer ------------------------------------------------------------------------


def told(place: Workspace, run: str) -> set[int]:
    """The gaps that a writer is told of when a synthesis starts now."""
    rows_now = review.approved_pairs(Decisions(place.decisions), Runs(place), run)
    steps = MakingSteps(place)
    spec = SynthesizeSpec(pairs=run, approved=tuple(row["pair"] for row in rows_now), candidates=2)
    MakingSteps.last = None
    steps.perform(spec, quiet)
    asked: list[Request] = MakingSteps.last.requests
    return {int(request.key.split("/")[1]) for request in asked}


def test_only_what_was_approved_on_the_page_as_it_is_now_reaches_a_writer(place):
    run = paired(place, (3, 6, 7, 8))
    at = opened("pairs", pairs=run, reviewer="ana", feature="3")
    ran(button(at, "Approve").click().run())  # 3 as it is
    at = opened("pairs", pairs=run, reviewer="ana", feature="6")
    ran(button(at, "Reject").click().run())
    at = opened("pairs", pairs=run, reviewer="ana", feature="7")
    ran(button(at, "Approve").click().run())  # 7, then edited
    at = opened("pairs", pairs=run, reviewer="ana", feature="7", show="approved")
    edited(at, "Is there a mountain! here", "Is there one here")
    worked(place)
    ran(at.run())
    assert link(at, "Synthesize from 1 approved pair") == {"pairs": run}
    assert told(place, run) == {3}
    ran(button(at, "Approve").click().run())
    assert told(place, run) == {7}, "the texts of 3 are there already"
    assert approved(place, run) == [3, 7]


# --- home -----------------------------------------------------------------------------------------


def test_home_leads_from_pairs_to_approval_to_synthesis(place):
    # No gap of these few texts is certain, so that none is to be written for unasked.
    assert "Write pairs" not in words(opened("home"))
    run = paired(place)
    at = opened("home")
    assert "Approve 2 pairs" in words(at)
    assert link(at, "Decide on them") == {"pairs": run}
    decide(place, run, 3, "ana")
    decide(place, run, 6, "ana", "reject")
    at = opened("home")
    assert "Synthesize from 1 approved pair" in words(at)
    assert link(at, "See what it takes") == {"pairs": run}
    told(place, run)
    assert "Synthesize from" not in words(opened("home"))
    decide(place, run, 6, "ana")  # approved after all: what is written by now was not from it
    assert "Synthesize from 2 approved pairs" in words(opened("home"))


def test_gaps_without_names_are_explained_first(place):
    shutil.rmtree(place.runs / "explain")
    at = opened("home")
    assert "Explain the gaps" in words(at) and "Write pairs" not in words(at)


# --- how a pair looks -----------------------------------------------------------------------------


def test_changes_are_the_words_that_differ():
    assert differences("bake the bread now", "bake now") == [
        ("same", "bake"),
        ("gone", "the bread"),
        ("same", "now"),
    ]
    assert differences("a b", "a c d") == [("same", "a"), ("gone", "b"), ("new", "c d")]


@given(some.lists(some.sampled_from("abcd")), some.lists(some.sampled_from("abcd")))
def test_changes_hold_both_texts_whole(old, new):
    pieces = differences(" ".join(old), " ".join(new))
    for text, without in ((old, "new"), (new, "gone")):
        said = " ".join(words for kind, words in pieces if kind != without)
        assert said.split() == text


def one_turn(text: str) -> Chat:
    return [{"role": "user", "content": text}]


def test_a_negative_that_is_another_text_is_not_shown_as_an_edit():
    shown = changes_html(one_turn("write a loop in python"), one_turn("which train is early"))
    assert "the most similar text that stays silent: the two share 0 words" in shown
    assert "<del>" not in shown


def test_nobody_is_told_to_reject_a_text_for_being_unlike(place):
    run = paired(place)
    text = Reader(markup(opened("pairs", pairs=run, reviewer="ana"))).text
    assert "nothing to do with it" not in text and "twin" not in words(opened("home"))
    assert "that it is about something else is no reason to reject" in text


def test_long_unchanged_stretches_are_cut_beside_a_change():
    long = " ".join(f"w{i}" for i in range(60))
    shown = changes_html(one_turn(f"{long} python"), one_turn(long))
    assert "… w51 w52" in shown and "w30" not in shown and "<del>python</del>" in shown


def test_tokens_are_given_to_their_turns_or_shown_in_one_piece():
    chat = [{"role": "user", "content": "bake it "}, {"role": "assistant", "content": "no"}]
    tokens = ["bake", " it", " no"]
    assert turns_of(chat, tokens) == [("user", (0, 2)), ("assistant", (2, 3))]
    assert turns_of(chat, tokens[:2]) == [("", (0, 2))]
    assert turns_of(chat, ["bake", " itn", "o"]) == [("", (0, 3))]
