"""The Experiments page, run headless: labelled comments of six things, what can be asked of them,
what stands in the way, and what an experiment says."""

import csv
import io
import json
import re

import pytest

from fac.cli import frame
from fac.config import Workspace, read_spec
from fac.experiments import experiment
from fac.experiments.arms import ARMS
from fac.experiments.kinds.rq1 import LORA_ARMS
from fac.questions import experiments as questions
from fac.store import open_stores
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui.experiments import axis_words, conclusion_html, effects_chart, legend
from tests.test_cli import assert_one_sentence, fac
from tests.test_experiments import DOORS, AskingSteps, quiet, rows_of, spec_of
from tests.test_pages import button, markup, navigation_decides, opened, ran, started, words
from tests.toy import label_samples, toy_workspace

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses

HOSTILE = "<img src=x onerror=alert(1)> :red[x]"
SMALL = {"sizes": "6,9", "draws": "3", "above": "0.5"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> tuple[Workspace, str]:
    """Comments, half of them labelled with a hostile text, and a finished experiment."""
    chats, names = rows_of()
    place = toy_workspace(tmp_path_factory.mktemp("page"), samples={"comments": chats})
    runs = Runs(place)
    label_samples(runs, "comments", [HOSTILE if name == "1" else "0" for name in names])
    spec = spec_of(runs.resolve("measure", "comments"), label=HOSTILE, draws=2)
    return place, experiment(spec, runs=runs, doors=DOORS, progress=quiet)


@pytest.fixture
def place(asked, monkeypatch) -> Workspace:
    monkeypatch.setenv("FAC_WORKSPACE", str(asked[0].root))
    return asked[0]


def row_of(outcome, arm, against, difference, *, size=20, half=0.1):
    ends = {"low": difference - half, "high": difference + half}
    about = {"outcome": outcome, "size": size, "arm": arm, "against": against, "value": 0.5}
    return {**about, "difference": difference, **ends, "p": None, "figures": {"rows": 40.0}}


ROWS = [
    row_of("a head", "none", "random rows", -0.3),
    row_of("a head", "random rows", "random rows", 0, half=0),
    row_of("a head", "rows that fill gaps", "random rows", 0.05, size=50),
    row_of("a head", "rows that fill gaps", "random rows", 0.15),
    row_of("a head", "shuffled <b>", "random rows", 0.0),
    row_of("a head", "rows that fill gaps", "shuffled <b>", 0.12, half=0.2),
]


# --- the figure -----------------------------------------------------------------------------------


def test_arms_stand_by_what_they_do_and_the_one_in_question_beside_its_control():
    (panel,) = questions.panels(ROWS)
    assert (panel.outcome, panel.base) == ("a head", "random rows")
    standings = [(group.title, group.standing) for group in panel.groups]
    assert standings == [
        ("rows that fill gaps", questions.IN_QUESTION),
        ("rows that fill gaps, from shuffled <b>", questions.IN_QUESTION),
        ("shuffled <b>", questions.ITS_CONTROL),
        ("none", questions.CONTEXT),
    ]
    assert [row["size"] for row in panel.groups[0].rows] == [20, 50]
    (unranked,) = questions.panels(ROWS, ranked=False)
    assert unranked.groups[0].title == "none"


def test_values_that_stand_alone_have_a_panel_of_their_own():
    alone = [row_of("correlation", "FAC", "", 0.2), row_of("correlation", "pairs", "", -0.1)]
    first, second = questions.panels([*ROWS, *alone])
    assert (second.outcome, second.base) == ("correlation", "") != (first.outcome, first.base)
    assert {group.standing for group in second.groups} == {questions.CONTEXT}
    chart = effects_chart(second, "Spearman", (-1, 1))
    assert len(chart.data) == 1 and axis_words(second, "Spearman") == "Spearman"
    assert axis_words(first, "AUPRC") == "Difference in AUPRC from random rows"


def test_full_dots_leave_zero_out_and_names_are_harmless():
    (panel,) = questions.panels(ROWS)
    chart = effects_chart(panel, "AUPRC", (-1, 1))
    question, control, context = chart.data
    assert list(question.x) == [0.15, 0.05, 0.12]
    assert list(question.marker.symbol) == ["circle", "circle-open", "circle-open"]
    assert list(control.x) == [0.0] and list(context.marker.symbol) == ["circle"]
    assert question.error_x.array[0] == pytest.approx(0.1)
    assert "<b>" not in "".join(chart.layout.yaxis.ticktext[2:])
    assert "shuffled &lt;b&gt;" in chart.layout.yaxis.ticktext[2]
    assert "teal is rows that fill gaps, amber shuffled <b>" in legend([panel])


def test_the_conclusion_is_large_its_figures_small_and_its_words_harmless():
    drawn = conclusion_html("Heads: it <b>helps</b> (20 labels +0.1 (0 to 1)). Features: no (0).")
    assert drawn.count("<p ") == 2 and "<b>" not in drawn
    assert "<small>(20 labels +0.1 (0 to 1))</small>." in drawn


def test_what_several_arms_are_set_beside_has_a_panel_of_its_own():
    given = [
        row_of("a head", "as given", "as given", 0, half=0),
        row_of("a head", "none", "as given", -0.4),
        row_of("a head", "rows that fill gaps", "as given", 0.1),
    ]
    first, second = questions.panels([*given, *ROWS])
    assert (first.base, second.base) == ("random rows", "as given")
    assert [group.title for group in second.groups] == ["rows that fill gaps", "none"]
    assert {group.standing for group in second.groups} == {questions.CONTEXT}
    assert "Zero is" not in legend([first, second])


def test_values_under_a_condition_are_no_differences():
    held = [row_of("head", "FAC", "tokens held equal", 0.2), row_of("head", "n", "", 0.1)]
    held += [row_of("head", "n", "tokens held equal", 0.3), row_of("head", "FAC", "n", 0.1)]
    first, second = questions.panels(held)
    assert not first.is_beside and not second.is_beside
    assert axis_words(first, "correlation") == "Correlation, tokens held equal"
    assert axis_words(second, "correlation") == "Correlation"
    assert [(group.title, group.standing) for group in first.groups] == [
        ("n", questions.ITS_CONTROL),
        ("FAC", questions.IN_QUESTION),
        ("FAC, from n", questions.IN_QUESTION),
    ]


def test_a_kind_is_asked_how_many_pieces_only_by_what_makes_them():
    assert questions.counts_of("rq1") == ["draws"]
    assert questions.counts_of("rq2") == ["subsets"]
    assert questions.counts_of("rq5") == ["draws"]


# --- the questions --------------------------------------------------------------------------------


def test_what_is_looked_for_and_how_many_begin_unless_somebody_says():
    assert questions.usual_label({"0": 270, "1": 230}) == "1"
    assert questions.usual_label({"fine": 270, "toxic": 30}) == "toxic"
    assert questions.usual_sizes(500) == (20, 50, 100)
    assert questions.usual_sizes(200) == (20,)
    assert questions.usual_sizes(3) == (20,)
    assert questions.read_sizes("50, 20,20") == (20, 50)


def test_the_estimate_goes_by_an_earlier_experiment_in_proportion_to_its_rows(asked):
    place, run = asked
    stores = open_stores(place, remember=False)
    facts = stores.runs.manifest(run).facts
    assert facts.piece_seconds > 0 and facts.arm_seconds > 0
    spec = spec_of(stores.runs.resolve("measure", "comments"), label=HOSTILE, draws=7)
    cost = questions.estimate(stores, spec)
    of_lora = 3 * len(LORA_ARMS)
    assert cost.pieces == 14 + of_lora and cost.like == "comments"
    seconds = 14 * facts.piece_seconds + of_lora * facts.arm_seconds
    assert cost.seconds == pytest.approx(seconds)


def test_the_file_has_every_figure(asked):
    place, run = asked
    result = questions.finding(open_stores(place, remember=False), run)
    rows = list(csv.DictReader(io.StringIO(questions.as_csv(result))))
    assert len(rows) == len(result.rows)
    assert float(rows[0]["auroc"]) == pytest.approx(result.rows[0]["figures"]["auroc"])
    assert rows[0]["arm"] == result.rows[0]["arm"] and rows[0]["p"] == ""


# --- the page -------------------------------------------------------------------------------------


def test_a_question_is_put_and_waits_in_the_queue(place):
    page = ran(opened("experiments", dataset="comments", label=HOSTILE, **SMALL))
    assert "24 pieces, about" in words(page)
    ran(button(page, "Run the experiment").click().run())
    (job,) = Queue(place.queue).live()
    spec = spec_of(job.spec["measure"], label=HOSTILE, labels=(6, 9), draws=3)
    assert read_spec(job.step, job.spec) == spec
    again = ran(opened("experiments", dataset="comments", label=HOSTILE, **SMALL))
    assert button(again, "Run the experiment").disabled and button(again, "Cancel")
    ran(button(again, "Cancel").click().run())
    stopped = ran(opened("experiments", dataset="comments", **SMALL))
    assert "Every finished piece is kept" in words(stopped) and button(stopped, "Go on")
    # It stands there whatever the form says, and the form takes no beginning of nothing.
    for sizes in ("none", "500"):
        other = ran(opened("experiments", dataset="comments", sizes=sizes))
        assert "comments, begun with 6, 9." in words(other) and button(other, "Go on")
    empty = ran(opened("experiments", dataset="comments", sizes=""))
    (begin,) = (each for each in empty.text_input if each.label.startswith("Labelled rows"))
    assert begin.value == "20"


def test_written_rows_are_an_arm_more_and_stand_in_the_address(tmp_path, monkeypatch):
    chats, names = rows_of()
    more = [[{"role": "user", "content": f"python function 9{n:03}"}] for n in range(60)]
    place = toy_workspace(tmp_path, samples={"comments": chats, "more": more})
    runs = Runs(place)
    label_samples(runs, "comments", names)
    label_samples(runs, "more", ["1"] * len(more))
    monkeypatch.setenv("FAC_WORKSPACE", str(place.root))
    view = {"dataset": "comments", "label": "1", **SMALL}
    page = ran(opened("experiments", **view))
    assert "24 pieces" in words(page)
    ran(page.multiselect[0].select("more").run())
    assert page.query_params["written"] == runs.resolve("measure", "more")
    assert "27 pieces" in words(page)
    ran(button(page, "Run the experiment").click().run())
    (job,) = Queue(place.queue).live()
    assert read_spec(job.step, job.spec).written == (runs.resolve("measure", "more"),)
    page = ran(opened("experiments", **view, written="measure-<b>"))
    assert "cannot be an arm here" in words(page) and "24 pieces" in words(page)
    page = ran(opened("experiments", **view, full="True"))
    assert f"{6 + 2 * 3 * len(ARMS)} pieces" in words(page)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"sizes": "60"}, "180 are needed"),
        ({"sizes": "6;9"}, "Sizes are numbers"),
        ({"sizes": "2"}, "at least 4"),
        ({"sizes": "6", "above": "9"}, "No feature fires above 9"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_before_anything_is_queued(place, how, sentence):
    before = len(Queue(place.queue).jobs())
    page = ran(opened("experiments", dataset="comments", label=HOSTILE, **how))
    assert sentence in page.info[0].value.replace("\\", "")
    assert not any(each.label == "Run the experiment" for each in page.button)
    assert len(Queue(place.queue).jobs()) == before


def test_a_finished_one_says_its_sentence_and_texts_are_shown_as_they_are(place, asked):
    page = ran(opened("experiments", experiment=asked[1]))
    text = markup(page)
    assert "filling gaps" in text and "cannot be seen" in words(page)
    assert "<img" not in text
    assert not [each.value for each in page.caption if re.search(r"(?<!\\)<img", each.value)]
    assert len(page.get("plotly_chart")) == 3
    ran(button(page, "New experiment").click().run())
    assert any(each.label == "Label that is looked for" for each in page.selectbox)


def test_what_was_asked_before_is_opened(place, asked):
    page = ran(
        opened(
            "experiments", dataset="comments", label=HOSTILE, sizes="6,12", draws="2", above="0.5"
        )
    )
    assert "Exactly this was asked before" in words(page)
    ran(button(page, "See what it says").click().run())
    assert page.query_params["experiment"] == asked[1]


def test_an_experiment_that_is_not_here_is_said(place):
    page = ran(opened("experiments", experiment="experiment-<b>"))
    assert "No finished experiment here" in page.warning[0].value


def test_without_labels_it_says_how_to_get_them(tmp_path, monkeypatch):
    place = toy_workspace(tmp_path)
    monkeypatch.setenv("FAC_WORKSPACE", str(place.root))
    page = ran(opened("experiments", dataset="toy-seed"))
    assert "there is nothing to tell" in page.info[0].value, "every row has the same label"
    runs = Runs(place)
    for name in ("toy-seed", "toy-anchor"):
        n = runs.manifest(runs.resolve("measure", name)).facts.n_samples
        label_samples(runs, name, [None] * n)
    page = ran(opened("experiments"))
    assert "No labels yet" in words(page)
    assert any("Add a labelled dataset" in each.label for each in page.get("page_link"))


def test_where_nothing_fires_it_is_a_sentence(tmp_path, monkeypatch):
    silent = [[{"role": "user", "content": f"nothing at all {n}"}] for n in range(80)]
    place = toy_workspace(tmp_path, samples={"silent": silent})
    label_samples(Runs(place), "silent", ["0", "1"] * 40)
    monkeypatch.setenv("FAC_WORKSPACE", str(place.root))
    page = ran(opened("experiments", dataset="silent", sizes="6"))
    assert "No feature fires in silent" in page.info[0].value


# --- the command ----------------------------------------------------------------------------------


def test_one_command_reads_a_file_measures_it_and_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "Steps", AskingSteps)
    chats, names = rows_of(60)
    lines = [
        json.dumps({"text": chat[0]["content"], "kind": name})
        for chat, name in zip(chats, names, strict=True)
    ]
    source = tmp_path / "comments.jsonl"
    source.write_text("\n".join(lines))
    place = toy_workspace(tmp_path / "toy")
    line = ("experiment", "rq1", "--dataset", source, "--label", 1, "--labels", "6", "--draws", 2)
    refused = fac(*line, workspace=place)
    assert_one_sentence(refused)
    assert "--label-field" in refused.err
    assert_one_sentence(fac(*line, "--label-field", "kind", workspace=place))  # clear firing is 1
    line = (*line, "--threshold", 0.5)
    answer = fac(*line, "--label-field", "kind", workspace=place)
    assert answer.code == 0, answer.err
    assert "rows that fill gaps" in answer.out and "cannot be seen" in answer.out
    again = fac(*line[:3], "comments", *line[4:], "--json", workspace=place)
    assert len(again.json["rows"]) == 2 * (len(ARMS) + 2) + len(LORA_ARMS) + 1
