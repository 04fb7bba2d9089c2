"""Families of gaps on the way to what fills them: which gaps a family means on every page and
command, and which of them stand for the others."""

import json
import shutil
from dataclasses import replace

import pytest

from fac import review
from fac.cli import frame
from fac.config import Workspace
from fac.errors import InputError
from fac.interpret import grouping
from fac.jobs.steps import Steps
from fac.questions.comparison import Comparison
from fac.questions.families import (
    call_family,
    families_called,
    families_changed,
    families_spec,
    family_names,
    few_of_each,
    gap_families,
    gaps_to_fill,
    take_name_back,
)
from fac.questions.fill import fill, publish
from fac.questions.fill_spans import fill_spans
from fac.store import open_stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from tests.test_cli import assert_one_sentence, fac
from tests.test_cli_make import MakingSteps
from tests.test_fill import says
from tests.test_pages import markup, navigation_decides, opened, ran, started, words
from tests.toy import WORDS, toy_workspace

__all__ = ["navigation_decides", "started"]  # fixtures that tests of pages use

OVEN, RIVER, MOUNTAIN, TRAIN = (WORDS.index(w) for w in ("oven", "river", "mountain", "train"))
PYTHON, LOOP = WORDS.index("python"), WORDS.index("loop")
TRAVEL, KITCHEN = "travel, <b>*river*", "kitchen"


def many(n, text):
    """`n` different samples that say this."""
    return says(*(f"{text} {'x' * i}" for i in range(1, n + 1)))


ANCHOR = [
    *many(24, "river train please"),
    *many(20, "river mountain please"),
    *many(4, "river train mountain please"),
    *many(24, "bake oven please"),
    *many(5, "python loop please"),
    *many(120, "please"),
]
SEED = [*many(40, "bake it please"), *many(40, "please do what any of us would do with it")]
POOL = says(
    "a train along her river to one mountain",
    "cheap oven",
    "an oven with some python in a loop",
    "nothing of this kind",
    "<img src=x onerror=alert(1)> train",
)


def named(spec, runs, family):
    """What an explainer might call them."""
    return [TRAVEL, KITCHEN][: family.max() + 1]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Workspace:
    samples = {"toy-anchor": ANCHOR, "toy-seed": SEED, "toy-pool": POOL}
    workspace = toy_workspace(tmp_path_factory.mktemp("topics"), samples=samples)
    runs = Runs(workspace)
    anchor, seed = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "family_names", named)
        Steps(workspace).perform(families_spec(Comparison(anchor, seed)), lambda *_: None)
    return workspace


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Workspace:
    """A copy that a test may change."""
    shutil.copytree(world.root, tmp_path / "topics")
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path / "topics"))
    monkeypatch.setattr(frame, "Steps", MakingSteps)
    return Workspace(tmp_path / "topics")


@pytest.fixture
def question(place):
    """Stores, the comparison, its run of families and their rows."""
    stores = open_stores(place, remember=False)
    anchor, seed = (stores.runs.resolve("measure", f"toy-{name}") for name in ("anchor", "seed"))
    comparison = Comparison(anchor, seed)
    (manifest,) = stores.runs.list("families")
    yield stores, comparison, manifest.run, gap_families(stores, comparison, manifest.run).rows
    stores.cache.close()


# --- which families are meant ---------------------------------------------------------------------


def test_a_family_is_called_by_number_name_or_word(question):
    rows = question[-1]
    assert [(row["family"], row["name"]) for row in rows] == [(0, TRAVEL), (1, KITCHEN)]
    for name in ("0", TRAVEL.upper(), "travel", " Travel "):
        assert families_called(rows, [name]) == [rows[0]]
    assert families_called(rows, ["1", "travel", "kitchen"]) == [rows[1], rows[0]]
    assert families_called(rows, ["2024", "0"][1:]) == [rows[0]]


def test_a_name_of_none_or_several_is_refused(question):
    rows = question[-1]
    with pytest.raises(InputError, match="No family with a gap is called 'trav'"):
        families_called(rows, ["trav"])
    twice = [{"family": 7, "name": "money, law"}, {"family": 9, "name": "law"}]
    assert families_called(twice, ["law"]) == [twice[1]], "the whole name goes first"
    more = [*twice, {"family": 11, "name": "court, law"}, {"family": 12, "name": "law"}]
    with pytest.raises(InputError, match="2 families have 'law' in their name: .* of 9, 12."):
        families_called(more, ["law"])


def test_gaps_of_families_are_those_that_can_be_believed(question):
    stores, comparison, _, rows = question
    assert gaps_to_fill(stores, comparison, rows) == [RIVER, TRAIN, OVEN, MOUNTAIN]
    assert gaps_to_fill(stores, comparison, rows[1:]) == [OVEN]
    with pytest.raises(InputError, match="All gaps of “kitchen” are ones that the anchor itself"):
        gaps_to_fill(stores, comparison, [{**rows[1], "features": []}])


# --- which stand for the others -------------------------------------------------------------------


def test_what_stands_for_a_family_brings_most_of_it_along(question):
    """48 samples fire river, 28 train, 24 mountain. A sample of the mountain always has the river
    and in 4 of 24 a train: 1 + 1 + 1/6; of the train 1 + 1 + 4/28; of the river 1 + 28/48 + 1/2.
    After the mountain a train adds 1 - 1/6, the river 28/48 - 1/6."""
    stores, comparison, run, _ = question
    gaps = [RIVER, TRAIN, MOUNTAIN, OVEN, PYTHON, LOOP]
    few = [few_of_each(stores, comparison, run, gaps, n) for n in (1, 2, 3)]
    assert few[0] == [MOUNTAIN, OVEN, PYTHON, LOOP], "what is in no family stays"
    assert few[1] == [TRAIN, MOUNTAIN, OVEN, PYTHON, LOOP]
    assert few[2] == gaps
    assert few_of_each(stores, comparison, run, [RIVER, TRAIN], 1) == [TRAIN]


def test_of_a_large_anchor_the_first_samples_say_it(question, monkeypatch):
    """Of 100 firings 14 are read: in the first samples, river and train always together."""
    monkeypatch.setattr("fac.questions.families.PAIRS_READ", 10)
    stores, comparison, run, _ = question
    assert few_of_each(stores, comparison, run, [MOUNTAIN, TRAIN, RIVER], 1) == [TRAIN]


# --- what people call them ------------------------------------------------------------------------


def test_people_name_families_as_a_decision(question):
    """A name holds for exactly these members, whichever run grouped them; the newest stands."""
    stores, comparison, run, _ = question
    call_family(stores, run, 1, " The  kitchen ", "Ada")
    call_family(stores, run, 1, "cooking", "Ben")
    assert family_names(stores, run)[1] == ("cooking", "Ben")
    rows = gap_families(stores, comparison, run).rows
    assert [(row["name"], row["named_by"]) for row in rows] == [(TRAVEL, ""), ("cooking", "Ben")]
    assert families_called(rows, ["cooking"]) == [rows[1]]
    spec = replace(families_spec(comparison), threshold=0.25)
    other = Steps(stores.runs.workspace).perform(spec, lambda *_: None)
    assert other != run and family_names(stores, other)[1] == ("cooking", "Ben")
    take_name_back(stores, run, 1, "Ben")
    assert family_names(stores, run)[1] == ("The kitchen", "Ada")
    with pytest.raises(InputError, match="Ben gave this family no name"):
        take_name_back(stores, run, 1, "Ben")
    take_name_back(stores, run, 1, "Ada")
    assert family_names(stores, run)[1] == (KITCHEN, "")
    assert review.given_names(stores.decisions, comparison.anchor, {0: [OVEN]}) == {}


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\x07b"])
def test_what_can_be_no_name_is_refused(question, name):
    stores, _, run, _ = question
    with pytest.raises(InputError, match="1 to 80 printable characters"):
        call_family(stores, run, 0, name, "Ada")
    assert stores.decisions.current("family") == []


def test_a_name_travels_with_the_decisions(question, tmp_path):
    stores, _, run, _ = question
    call_family(stores, run, 0, "trips", "Ada")
    lines = [*stores.decisions.export()]
    other = Decisions(tmp_path / "other.sqlite")
    assert other.load(lines)["added"] == 1
    members = {0: [RIVER, MOUNTAIN, TRAIN], 1: [RIVER, TRAIN]}
    measure = stores.runs.manifest(run).inputs.measure
    assert review.given_names(other, measure, members) == {0: ("trips", "Ada")}
    nameless = json.loads(lines[0]) | {"edited_text": None, "uid": "0" * 32}
    assert other.load([json.dumps(nameless)])["rejected"][0]["reason"].startswith("A family is")


def test_the_command_names_a_family_and_takes_it_back(place):
    line = ("name-family", "travel", "--anchor", "toy-anchor", "--threshold", 0)
    ada = ("--reviewer", "Ada")
    answer = fac(*line, "[b]trips[/b]", *ada, "--json", workspace=place).json
    assert (answer["was"], answer["name"], answer["named_by"]) == (TRAVEL, "[b]trips[/b]", "Ada")
    about = ("families", *ABOUT, "--dataset", "toy-seed")
    assert fac(*about, "--json", workspace=place).json["families"][0]["named_by"] == "Ada"
    words = fac(*about, workspace=place).out
    assert "[b]trips[/b]" in words and "named" in words
    back = ("name-family", "0", "--anchor", "toy-anchor", "--threshold", 0, "--undo")
    assert_one_sentence(fac(*back, "--reviewer", "Ben", workspace=place))
    answer = fac(*back, *ada, "--json", workspace=place).json
    assert (answer["name"], answer["named_by"]) == (TRAVEL, None)
    assert_one_sentence(fac(*line, *ada, workspace=place))
    assert_one_sentence(fac(*back, *ada, "--threshold", 99, workspace=place))


def test_the_coverage_page_renames_a_family(place):
    page = ran(opened("coverage", **VIEW, family="0", reviewer="Ada"))
    box = next(each for each in page.text_input if each.label == "What is it called?")
    ran(box.set_value("<i>trips").run())
    ran(next(each for each in page.button if each.label == "Call it so").click().run())
    assert any(
        r"\<i\>trips\*\*: 3 gaps · named by Ada".replace(r"\*\*", "**") in each.value
        for each in page.markdown
    )
    ran(next(each for each in page.button if each.label == "Take it back").click().run())
    assert not any("named by" in each.value for each in page.markdown)


# --- where a row fires ----------------------------------------------------------------------------


def test_where_a_row_fires_is_the_stretch_that_ends_at_the_peak(question):
    """toy-pool's first row: <user> a train along her river to one mountain; train is the third
    token that the model reads."""
    stores, comparison, _, _ = question
    pool = stores.runs.resolve("measure", "toy-pool")
    spans = fill_spans(stores, pool, comparison.role, 0, [MOUNTAIN, OVEN, TRAIN])
    assert [(s.feature, s.peak, s.role, s.position) for s in spans] == [
        (MOUNTAIN, 1.0, "user", 8),
        (TRAIN, 1.0, "user", 2),
    ]
    assert [s.text for s in spans] == [
        "a train along her river to one [mountain]",
        "a [train]",
    ]
    assert spans[1].activations == [0, 1]
    assert fill_spans(stores, pool, "assistant", 0, [TRAIN]) == []
    assert fill_spans(stores, pool, "user", 0, [TRAIN]) == [spans[1]]


def test_what_measuring_did_not_keep_has_no_words(question, monkeypatch):
    stores, comparison, _, _ = question
    # Of 28 samples of the anchor that say train alike, 10 were kept as the strongest, 10 as a
    # spread.
    samples = [
        fill_spans(stores, comparison.anchor, "all", sample, [TRAIN])[0] for sample in range(24)
    ]
    assert {bool(span.tokens) for span in samples} == {True, False}
    assert {(span.peak, span.position) for span in samples} == {(1.0, 2)}
    assert {span.text for span in samples} == {"river [train]", ""}


# --- commands -------------------------------------------------------------------------------------

ABOUT = ("--anchor", "toy-anchor", "--threshold", 0)


def test_a_pool_fills_the_gaps_of_a_family(place):
    line = ("fill", "toy-seed", *ABOUT, "--pool", "toy-pool")
    answer = fac(*line, "--family", "travel", "--json", workspace=place).json
    assert answer["asked"]["gaps"] == 3 and answer["chosen"]["gaps"] == 3
    assert [(row["sample"], {*row["fills"]}) for row in answer["rows"]] == [
        (0, {RIVER, TRAIN, MOUNTAIN})
    ]
    (row,) = answer["rows"]
    assert {span["feature"]: span["text"] for span in row["where"]}[TRAIN] == "a [train]"
    words = fac(*line, "--family", "travel", workspace=place).out
    assert "a [train]" in words and "it says" in words
    answer = fac(*line, "--family", "1", "--family", "travel", "--json", workspace=place).json
    assert [row["sample"] for row in answer["rows"]] == [0, 1]
    out = place.root / "filled.jsonl"
    answer = fac(*line, "--family", "kitchen", "--jsonl", out, "--json", workspace=place).json
    (row,) = map(json.loads, out.read_text("utf-8").splitlines())
    assert answer["jsonl"] == str(out) and row["messages"] == POOL[1]
    assert row["fill"]["families"] == [KITCHEN] and row["fill"]["fills"] == [OVEN]
    assert_one_sentence(fac(*line, "--family", "nobody", workspace=place))
    assert_one_sentence(fac(*line, "--family", "1", "--features", "1", workspace=place))


def test_pairs_are_asked_for_once_a_family(place):
    line = ("pairs", *ABOUT, "--dataset", "toy-seed", "--candidates", 2)

    def features(*more):
        run = fac(*line, *more, "--json", workspace=place).json["run"]
        return [*Runs(place).manifest(run).facts.features]

    assert features("--family", "travel") == [RIVER, MOUNTAIN, TRAIN]
    assert features("--family", "0", "--per-family", 1) == [MOUNTAIN]
    assert features("--per-family", 1) == sorted([MOUNTAIN, OVEN, PYTHON, LOOP])
    assert features("--per-family", 1, "--limit", 1) == [OVEN], "24 samples as well"
    assert_one_sentence(fac(*line, "--family", "1", "--features", "1", workspace=place))


def test_samples_are_written_from_the_pairs_of_a_family(place):
    pairs = fac("pairs", *ABOUT, "--dataset", "toy-seed", "--json", workspace=place).json["run"]
    fac("approve", pairs, "--all", "--reviewer", "Ada", workspace=place)

    def gaps(*more):
        run = fac("synthesize", pairs, *more, "--json", workspace=place).json["run"]
        rows = Runs(place).table(run, "candidates").to_pylist()
        return {row["feature"] for row in rows}

    assert gaps("--family", "kitchen") == {OVEN}
    assert gaps("--per-family", 1) == {MOUNTAIN, OVEN, PYTHON, LOOP}
    some = ("pairs", *ABOUT, "--dataset", "toy-seed", "--features", LOOP, "--json")
    other = fac(*some, workspace=place).json["run"]
    fac("approve", other, "--all", "--reviewer", "Ada", workspace=place)
    assert_one_sentence(fac("synthesize", other, "--family", "kitchen", workspace=place))


# --- pages ----------------------------------------------------------------------------------------

VIEW = {"dataset": "toy-seed", "anchor": "toy-anchor", "threshold": "0"}


def test_the_fill_page_is_about_the_chosen_families(place):
    page = ran(opened("fill", **VIEW, pool="toy-pool", families="0"))
    (families,) = page.multiselect
    assert families.value == ["0"] and [*families.options] == [
        f"{TRAVEL} · 3 certain of 3",
        "kitchen · 1 certain of 1",
    ]
    assert {metric.label: metric.value for metric in page.metric}["Gaps that get a row"] == "3 of 3"
    ran(families.set_value(["0", "1"]).run())
    assert page.query_params["families"] == "0,1"
    assert {metric.label: metric.value for metric in page.metric}["Gaps that get a row"] == "4 of 4"
    ran(page.multiselect[0].set_value([]).run())
    assert "families" not in page.query_params
    assert {metric.label: metric.value for metric in page.metric}["Gaps that get a row"] == "6 of 6"


def test_a_row_says_where_each_gap_fires(place):
    page = ran(opened("fill", **VIEW, pool="toy-pool", families="0"))
    assert 'her river to one <span class="fac-peak"' in " ".join(markup(page).split())
    page = ran(opened("fill", **VIEW, pool="toy-pool", each="2", taken="4"))
    assert "<img src=x" not in markup(page) and "&lt;img" in markup(page)


def test_a_family_that_is_not_there_is_said(place):
    page = ran(opened("fill", **VIEW, pool="toy-pool", families="0,77,x"))
    assert page.multiselect[0].value == ["0"]
    assert "Of the families in the link, 77, x have no gaps here" in words(page)


def test_the_pairs_page_asks_for_few_of_each_family(place):
    page = ran(opened("pairs", **VIEW, features="best", families="0"))
    assert sorted(page.dataframe[0].value["feature"]) == [RIVER, MOUNTAIN, TRAIN]
    assert "Only gaps of “travel, <b>*river*”" in words(page)
    ran(next(n for n in page.number_input if n.label == "Gaps a family").set_value(1).run())
    assert [*page.dataframe[0].value["feature"]] == [MOUNTAIN]
    assert "1 gap of 3" in words(page) and "<b>*river" not in markup(page)


def test_the_synthesis_page_writes_from_few_of_each_family(place):
    pairs = fac("pairs", *ABOUT, "--dataset", "toy-seed", "--json", workspace=place).json["run"]
    fac("approve", pairs, "--all", "--reviewer", "Ada", workspace=place)
    page = ran(opened("synthesis", pairs=pairs))
    labels = [button.label for button in page.button]
    assert "Synthesize from 6 approved pairs" in labels
    ran(page.multiselect[0].set_value(["0"]).run())
    assert "Synthesize from 3 approved pairs" in [button.label for button in page.button]
    ran(next(n for n in page.number_input if n.label == "Gaps a family").set_value(1).run())
    assert "Synthesize from 1 approved pair" in [button.label for button in page.button]
    assert "1 of 6 approved pairs are written from" in words(page)


# --- what a change filled -------------------------------------------------------------------------


def test_a_change_fills_families(question):
    """The pool shows river, train and mountain of three, oven of bake and oven, of which the seed
    has bake."""
    stores, comparison, run, _ = question
    pool = stores.runs.resolve("measure", "toy-pool")
    together = families_changed(stores, comparison, replace(comparison, added=(pool,)), run)
    figures = [
        tuple(row[name] for name in ("family", "size", "before", "after", "change"))
        for row in together.rows
    ]
    assert figures == [(0, 3, 0, 3, 3), (1, 2, 1, 2, 1)]
    assert together.headline == (
        f"2 families show more than before: “{TRAVEL}” 0 → 3 of 3, “kitchen” 1 → 2 of 2."
    )
    back = families_changed(stores, replace(comparison, dataset=pool), comparison, run)
    assert [(row["family"], row["change"]) for row in back.rows] == [(0, -3)]
    assert back.headline == ""
    assert families_changed(stores, comparison, comparison, run).rows == []


def test_compare_says_which_families_were_filled(place):
    view = {"before": "toy-seed", "after": "toy-pool", "anchor": "toy-anchor", "threshold": "0"}
    page = ran(opened("compare", **view))
    assert any("One family shows more than before" in each.value for each in page.caption)
    section = next(each for each in page.expander if each.label.startswith("Families"))
    (table,) = section.dataframe
    assert table.value[["family_name", "was", "is", "change"]].to_numpy().tolist() == [
        [TRAVEL, "0 of 3", "3 of 3", "+3"]
    ]


# --- what leaves ----------------------------------------------------------------------------------


def test_rows_that_leave_say_which_families_they_serve(place, tmp_path):
    line = ("pairs", *ABOUT, "--dataset", "toy-seed", "--candidates", 2, "--json")
    pairs = fac(*line, workspace=place).json["run"]
    fac("approve", pairs, "--all", "--reviewer", "Ada", workspace=place)
    run = fac("synthesize", pairs, "--per-feature", 3, "--json", workspace=place).json["run"]
    name = ("name-family", "1", "baking", "--reviewer", "Ada", *ABOUT)
    assert fac(*name, workspace=place).code == 0
    out = tmp_path / "kept.jsonl"
    assert fac("export", run, "--out", out, workspace=place).code == 0
    lineages = [json.loads(line)["lineage"] for line in out.read_text().splitlines()]
    families = {each["feature"]: each["families"] for each in lineages}
    assert families[OVEN] == ["baking"] and families[TRAIN] == [TRAVEL]
    assert families[PYTHON] == []
    card = (tmp_path / "kept.card.md").read_text()
    assert "families that its rows fire gaps of" in card and "1 baking" in card


def test_a_dataset_of_filled_rows_says_which_families_each_serves(question):
    stores, comparison, _, _ = question
    pool = stores.runs.resolve("measure", "toy-pool")
    proposal = fill(stores, comparison, pool)
    run = publish(stores, comparison, proposal, "filled")
    metas = map(json.loads, stores.runs.table(run, "samples", ["meta"])["meta"].to_pylist())
    families = {meta["fill"]["sample"]: meta["fill"]["families"] for meta in metas}
    assert families == {0: [TRAVEL], 2: [KITCHEN]}
