"""The experiment on preferences: Bradley-Terry by cases with a known answer, planted effects, and
what cannot be asked."""

import json

import numpy as np
import pyarrow as pa
import pytest

from fac.cli import frame
from fac.config import EXPERIMENTS, ExperimentSpec
from fac.errors import InputError
from fac.experiments import Doors, experiment, heads
from fac.experiments.arms import ALL, ARMS, FILLING, NONE, NULL, RANDOM
from fac.experiments.kinds.preferences import REVERSED, worse_text
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.runs import Runs
from tests.test_cli import fac
from tests.test_experiments import COMMON, KINDS, AskingSteps, figures_of, quiet, states
from tests.toy import revise, toy_workspace

KIND = EXPERIMENTS["preferences"]


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


# --- Bradley-Terry --------------------------------------------------------------------------------


def test_a_reward_is_that_of_bradley_and_terry(monkeypatch):
    # Text A won 9 of 12 against B: the maximum likelihood is a distance of ln 3.
    monkeypatch.setattr(heads, "PENALTIES", (1e6,))
    apart = np.array([[1.0, -1.0]] * 9 + [[-1.0, 1.0]] * 3)
    (margin,) = heads.margins(np.append(apart, [[1.0, -1.0]], 0), np.arange(12), np.array([12]))
    assert margin == pytest.approx(np.log(3), abs=1e-3)


def test_which_side_of_a_pair_is_read_first_changes_nothing():
    rng = np.random.default_rng(0)
    apart = rng.standard_normal((40, 5)) + [1.0, 0, 0, 0, 0]
    margin = heads.margins(apart, np.arange(30), np.arange(30, 40))
    # The same pairs in another order are turned around elsewhere.
    again = heads.margins(np.roll(apart[:30], 1, 0), np.arange(30), np.arange(0))
    assert len(again) == 0 and (margin > 0).mean() > 0.5
    swapped = heads.margins(np.concatenate([apart, -apart[30:]]), np.arange(30), np.arange(40, 50))
    assert swapped == pytest.approx(-margin)


# --- what is the worse text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "rejected", "worse"),
    [
        ([user("Why?"), answer("So.")], "No.", [user("Why?"), answer("No.")]),
        (
            [user("Why?"), answer("So.")],
            [{"role": "assistant", "content": "No."}],
            [user("Why?"), answer("No.")],
        ),
        (
            [user("Why?"), answer("So.")],
            "\n\nHuman: Why?\n\nAssistant: No.",
            [user("Why?"), answer("No.")],
        ),
        ([user("A good text")], "A bad text", [user("A bad text")]),
        ([user("Why?"), answer("So.")], "So.", None),
        ([user("Why?"), answer("So.")], "  ", None),
        ([user("Why?"), answer("So.")], 7, None),
        ([user("Why?"), answer("So.")], None, None),
    ],
)
def test_the_worse_text_is_the_whole_chat(messages, rejected, worse):
    assert worse_text(messages, json.dumps({"line": 1, "rejected": rejected})) == worse


# --- a run ----------------------------------------------------------------------------------------


def prefer(runs, name, rejected):
    """Gives the samples of a measured dataset worse texts, in its run on disk."""
    dataset = runs.manifest(runs.resolve("measure", name)).facts.dataset
    table = runs.table(dataset, "samples")
    meta = [json.dumps({"line": 1} | ({"rejected": r} if r else {})) for r in rejected]
    column = table.schema.get_field_index("meta")
    table = table.set_column(column, "meta", pa.array(meta, pa.string()))
    revise(runs, dataset, samples=table)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Comments about one of six things, each better than one about nothing; the last six have no
    worse one."""
    kinds = np.random.default_rng(0).choice(len(KINDS), 220, p=COMMON)
    samples = {
        "pairs": [[user(f"{KINDS[kind]} {n}")] for n, kind in enumerate(kinds)],
        "plain": [[user(f"bake {n}")] for n in range(60)],
    }
    place = toy_workspace(tmp_path_factory.mktemp("preferences"), samples=samples)
    prefer(Runs(place), "pairs", [*(f"nothing {n}" for n in range(1000, 1214)), *[None] * 6])
    return place


def spec_of(runs, name="pairs", **how):
    about = {"name": "preferences", "label": "", "threshold": 0.5, "labels": (6, 12), "draws": 8}
    return ExperimentSpec(measure=runs.resolve("measure", name), **{**about, **how})


def test_planted_preferences_are_learned_from_more_pairs_and_not_from_reversed_ones(place):
    runs = Runs(place)
    run = experiment(spec_of(runs), runs=runs, doors=Doors(states), progress=quiet)
    facts = runs.manifest(run).facts
    assert (facts.n_rows, facts.n_unlabelled, facts.base_rate) == (214, 6, 0.5)
    rows = figures_of(runs, run)
    assert {row["arm"] for row in rows} == {*ARMS, REVERSED}
    first = {row["arm"]: row for row in rows if (row["size"], row["draw"]) == (6, 0)}
    assert first[NONE]["rows"] == 6 and first[NONE]["fac"] < first[FILLING]["fac"] <= 1
    effect = {
        (row["size"], row["arm"], row["against"]): row
        for row in runs.table(run, "effects").to_pylist()
    }
    for size in (6, 12):
        assert effect[size, ALL, RANDOM]["low"] > 0 > effect[size, NONE, RANDOM]["difference"]
        assert effect[size, REVERSED, RANDOM]["difference"] < 0
        null = effect[size, NULL, RANDOM]
        assert null["low"] <= 0 <= null["high"]
    result = finding(open_stores(place, remember=False), run)
    assert result.conclusion.startswith("Bradley-Terry head: ") and "6 pairs" in result.conclusion
    assert "rows without another, worse text (6)" in result.note


def test_where_better_and_worse_are_alike_nothing_is_learned(place):
    runs = Runs(place)
    spec = spec_of(runs, seed=1)

    def noise(chats):
        return np.random.default_rng(len(chats)).standard_normal((len(chats), 8)).astype(np.float32)

    run = experiment(spec, runs=runs, doors=Doors(noise), progress=quiet)
    values = [row["value"] for row in runs.table(run, "effects").to_pylist()]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": "plain"}, "plain has no preferences"),
        ({"labels": (80,)}, "may be learned from: to begin with 80"),
    ],
)
def test_data_that_cannot_answer_are_a_sentence(place, how, words):
    runs = Runs(place)
    with pytest.raises(InputError, match=words):
        KIND.check(spec_of(runs, **how), runs)


def test_the_command_asks(place, monkeypatch):
    monkeypatch.setattr(frame, "Steps", AskingSteps)
    options = ("--labels", "6", "--draws", 2, "--threshold", 0.5)
    answers = fac("experiment", "preferences", "--dataset", "pairs", *options, workspace=place)
    assert answers.code == 0, answers.err
    assert "Do pairs that fill gaps teach a reward more?" in answers.out
    assert "guessing gets half right" in answers.out
