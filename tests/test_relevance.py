"""fac.questions.relevance: tasks by their judge and by people, and files of features."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fac import review
from fac.config import JudgeSpec, Workspace
from fac.errors import BadRow, InputError
from fac.jobs.steps import Steps
from fac.prompts.relevance import TASKS
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.questions.relevance import (
    Relevance,
    read_relevance,
    relevance_runs,
    relevant_set,
    scope,
    task_profiles,
    unjudged,
    verdicts_of,
)
from fac.store import open_stores
from fac.store.cache import build
from tests.test_cache import N_FEATURES, N_SAMPLES, made_of
from tests.toy import (
    MAYBE_RELEVANT,
    RELEVANT,
    TASK,
    fac_of,
    label_samples,
    publish_activations,
    publish_relevance,
    toy_workspace,
)

SIZES = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Those of the toy workspace, whose anchor is explained and judged."""
    opened = open_stores(
        toy_workspace(tmp_path_factory.mktemp("toy"), explained=True), remember=False
    )
    yield opened
    opened.cache.close()


@pytest.fixture(scope="module")
def toy(stores):
    """(anchor, seed)."""
    return tuple(stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))


@pytest.fixture(scope="module")
def relevant(stores, toy):
    """Asks which features of the toy anchor are relevant; `verdicts` are in people's place."""

    def ask(name="all", verdicts=None, *, maybe=False):
        relevance = read_relevance(stores, toy[0], name, maybe=maybe)
        if verdicts is not None:
            relevance = replace(relevance, verdicts=tuple(verdicts.items()))
        return relevant_set(stores, toy[0], relevance)

    return ask


@pytest.mark.parametrize(
    "text",
    ["[3, 5, 5]", "3\n5\n", "\ufeff3\r\n\r\n5\r\n", '{"feature": 3}\n{"feature": 5, "x": 1}\n'],
)
def test_a_file_names_the_relevant_features(stores, toy, tmp_path, text):
    path = tmp_path / "ids"
    path.write_text(text, "utf-8")
    relevance = read_relevance(stores, toy[0], str(path))
    assert np.flatnonzero(relevant_set(stores, toy[0], relevance)).tolist() == [3, 5]
    assert coverage(stores, Comparison(*toy, relevance=relevance)).fac == fac_of(0, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3\n12\n", "line 2: .* names feature 12; ids run to 11"),
        ("3\n-1\n", "line 2: .* names feature -1"),
        ("3\nloop\n", "line 2: .* has 'loop' where a feature id belongs"),
        ("[1, 2.5]", "line 2: .* has '2.5'"),
        ("[true]", "line 1: .* has 'True'"),
        ('{"id": 3}', "line 1: .*'id': 3.* where a feature id belongs"),
    ],
)
def test_a_line_that_names_no_feature_is_words_for(tmp_path, text, sentence, relevant):
    path = tmp_path / "ids"
    path.write_text(text)
    with pytest.raises(BadRow, match=sentence):
        relevant(str(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "names no feature"),
        (b"[]", "names no feature"),
        (b"[1, 2", "begins like a JSON list but is none"),
        (b"\xff\xfe\x00\x01", "is not text"),
    ],
)
def test_a_file_without_features_is_words_for(tmp_path, content, sentence, relevant):
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        relevant(str(path))


def test_a_task_takes_what_its_judge_calls_relevant_and_maybe_where_asked(stores, toy, relevant):
    assert np.flatnonzero(relevant(TASK)).tolist() == [*RELEVANT]
    assert np.flatnonzero(relevant(TASK, maybe=True)).tolist() == [*MAYBE_RELEVANT]
    assert relevant("all", maybe=True).tolist() == relevant("all").tolist()
    result = coverage(stores, Comparison(*toy, relevance=read_relevance(stores, toy[0], TASK)))
    # code and river: none in the seed
    assert (result.fac, result.n_anchor) == (fac_of(0, 4), 4)


def test_people_win_over_the_judge_and_one_who_cannot_tell_leaves_its_verdict(relevant):
    verdicts = {3: "no", 0: "maybe", 10: "probably", 4: "cannot_tell", 1: "cannot_tell", 11: "yes"}
    assert np.flatnonzero(relevant(TASK, verdicts)).tolist() == [4, 5, 6, 10, 11]
    by_maybe = relevant(TASK, verdicts, maybe=True)
    assert np.flatnonzero(by_maybe).tolist() == [0, 4, 5, 6, 7, 10, 11]
    assert np.flatnonzero(relevant(TASK, {3: "maybe"})).tolist() == [4, 5, 6]
    assert np.flatnonzero(relevant(TASK)).tolist() == [*RELEVANT]


def test_people_decide_about_tasks_only(relevant, tmp_path):
    path = tmp_path / "ids"
    path.write_text("3")
    for named in ("all", str(path)):
        plain = relevant(named).tolist()
        assert relevant(named, dict.fromkeys(range(12), "no")).tolist() == plain


@pytest.mark.parametrize("verdicts", [{12: "yes"}, {-1: "no"}, {3: "certainly"}, {3: "unreadable"}])
def test_a_decision_that_cannot_be_is_words_for(relevant, verdicts):
    (feature,) = verdicts
    with pytest.raises(InputError, match=f"A decision puts feature {feature} on '.*withdraw it"):
        relevant(TASK, verdicts)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {TASK}))
def test_a_task_that_was_not_judged_says_how_to_judge_it(relevant, task):
    with pytest.raises(InputError, match=rf"`fac judge toy-anchor --task {task}`, or take `all`"):
        relevant(task)


def test_what_is_judged_about_one_anchor_counts_for_every_anchor_of_its_encoder(stores, toy):
    relevance = read_relevance(stores, toy[1], TASK)
    assert relevance == read_relevance(stores, toy[0], TASK)
    assert np.flatnonzero(relevant_set(stores, toy[1], relevance)).tolist() == [*RELEVANT]


@pytest.mark.parametrize("name", ["tocsicity", "", "."])
def test_what_is_neither_a_task_nor_a_file_is_told_the_tasks(relevant, name):
    listed = ", ".join(sorted(TASKS))
    with pytest.raises(InputError, match=f"'{name}' is neither .* the tasks {listed}, or"):
        relevant(name)


def test_a_workspace_has_its_own_tasks_beside_the_built_in_ones(tmp_path):
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    runs = stores.runs
    anchor = runs.resolve("measure", "toy-anchor")
    runs.workspace.tasks.write_text(
        '[gardening]\ntitle = "gardening"\nrubric = ["It is about plants."]\n'
    )
    assert set(task_profiles(runs)) == {*TASKS, "gardening"}
    with pytest.raises(InputError, match="are judged for the task 'gardening' yet"):
        read_relevance(stores, anchor, "gardening")
    with pytest.raises(InputError, match="the tasks gardening, instructions"):
        read_relevance(stores, anchor, "weeding")
    judge_run = publish_relevance(runs, anchor, {7: "yes"}, task="gardening")
    with pytest.raises(InputError, match=f"{judge_run} cannot be shown.*not built yet"):
        relevant_set(stores, anchor, read_relevance(stores, anchor, "gardening"))
    build(runs, judge_run, runs.workspace.cache)
    # A profile may be gone from the file; what was judged by it stays.
    runs.workspace.tasks.unlink()
    relevant = relevant_set(stores, anchor, read_relevance(stores, anchor, "gardening"))
    assert np.flatnonzero(relevant).tolist() == [7]
    runs.workspace.tasks.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"tasks\.toml is not UTF-8 text"):
        task_profiles(runs)
    stores.cache.close()


def test_nothing_relevant_is_an_answer_and_its_coverage_is_undefined(tmp_path):
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    runs = stores.runs
    anchor = runs.resolve("measure", "toy-anchor")
    judge_run = publish_relevance(runs, anchor, dict.fromkeys(range(11), "no"))
    build(runs, judge_run, runs.workspace.cache)
    relevance = read_relevance(stores, anchor, TASK)
    assert not relevant_set(stores, anchor, relevance).any()
    assert math.isnan(coverage(stores, Comparison(anchor, anchor, relevance=relevance)).fac)
    stores.cache.close()


def test_each_task_has_its_newest_judgement_of_the_anchor(tmp_path):
    runs = open_stores(Workspace(tmp_path), remember=False).runs
    anchor = publish_activations(runs, "anchor", made_of(0, 1.0), **SIZES)
    other = publish_activations(runs, "other", made_of(0, 1.0), **SIZES)
    assert relevance_runs(runs, anchor) == {}
    publish_relevance(runs, anchor, {0: "no"}, task="toxicity")
    reward = publish_relevance(runs, anchor, {0: "no"}, task="reward")
    newer = publish_relevance(runs, anchor, {0: "yes"}, task="toxicity", attempt=1)
    others = publish_relevance(runs, other, {0: "yes"}, task="toxicity")
    elsewhere = publish_activations(runs, "else", made_of(0, 1.0), **SIZES, encoder="another")
    publish_relevance(runs, elsewhere, {0: "yes"}, task="survival")
    assert relevance_runs(runs, anchor) == {"reward": reward, "toxicity": newer}
    # The same features: what is judged about one anchor stands in where another has nothing.
    assert relevance_runs(runs, other) == {"reward": reward, "toxicity": others}
    assert [*relevance_runs(runs, elsewhere)] == ["survival"]


def test_a_judge_that_left_something_out_is_told_in_words(tmp_path):
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    anchor = stores.runs.resolve("measure", "toy-anchor")
    assert unjudged(stores, anchor, Relevance()) == "", "nobody was asked"
    first = publish_relevance(stores.runs, anchor, {3: "yes", 6: "no", 7: "unreadable"})
    limits = unjudged(stores, anchor, Relevance(TASK, first))
    assert "asked about 3 of 11 features that fire, 1 of its replies could not be read" in limits
    whole = publish_relevance(stores.runs, anchor, dict.fromkeys(range(11), "no"), attempt=1)
    assert unjudged(stores, anchor, Relevance(TASK, whole)) == ""
    stores.cache.close()


def test_people_correct_a_judge_wherever_it_counts_and_last_where_it_is_used(tmp_path):
    """Feature 3 is taken away about the anchor that was judged; about the seed it is given back."""
    stores = open_stores(toy_workspace(tmp_path, explained=True), remember=False)
    anchor, seed = (stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))

    def decide(run, verdict):
        runs = explain_runs(stores.runs, run)
        (row,), _ = stores.cache.features_page(run, ids=[3], limit=1, explained=runs)
        rubric = TASKS[TASK].rubric
        content = review.relevance_content(run, 3, TASK, rubric, row["explanation"] or None)
        subject = review.item(content).subject
        stores.decisions.add("ana", "relevance", subject, content, verdict)

    decide(anchor, "no")
    assert read_relevance(stores, seed, TASK).verdicts == ((3, "no"),)
    assert [v.person.verdict for v in verdicts_of(stores, seed, 3) if v.person] == ["no"]
    decide(seed, "yes")
    assert read_relevance(stores, seed, TASK).verdicts == ((3, "yes"),)
    assert read_relevance(stores, anchor, TASK).verdicts == ((3, "no"),)
    stores.cache.close()


def test_how_much_a_figure_speaks_of_is_told_in_words(tmp_path):
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    anchor = stores.runs.resolve("measure", "toy-anchor")
    assert scope(stores, anchor, Relevance()) == "", "it speaks of everything"

    def words_for(levels, n_shown=None):
        run = publish_relevance(stores.runs, anchor, levels, attempt=len(attempts))
        attempts.append(run)
        build(stores.runs, run, stores.runs.workspace.cache)
        return scope(stores, anchor, read_relevance(stores, anchor, TASK), n_shown)

    attempts = []
    no = dict.fromkeys(range(11), "no")
    assert words_for(no) == (
        "No feature is relevant for instructions: nothing can be covered or missing, so no figure."
    )
    assert words_for({**no, 11: "yes"}).startswith(
        "1 feature is relevant for instructions, but the anchor fires none of them: nothing can be"
    )
    assert words_for({**no, 3: "yes"}, 0).startswith(
        "1 feature is relevant for instructions, but the anchor fires none of them at these settin"
    )
    assert words_for({**no, 3: "yes"}) == (
        "1 feature is relevant for instructions: 1 of the 11 that the anchor fires counts, so "
        "coverage moves all or nothing."
    )
    assert words_for({**no, 3: "yes", 4: "yes", 5: "maybe"}) == (
        "2 features are relevant for instructions: 2 of the 11 that the anchor fires count, so "
        "coverage moves in steps of 50 points."
    )
    assert "more than half hardly tells" in words_for({**no, **dict.fromkeys(range(6), "yes")})
    stores.cache.close()


def test_labels_that_say_nothing_of_a_feature_are_counted(tmp_path):
    """Of the anchor's features those that no labelled sample fires above 1 cannot be told."""
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    runs = stores.runs
    anchor = runs.resolve("measure", "toy-anchor")
    n = runs.manifest(anchor).facts.n_samples
    label_samples(runs, "toy-anchor", ["a", "b"] * (n // 2))
    run = Steps(runs.workspace).perform(
        JudgeSpec(measure=anchor, task=TASK, judge="labels", label="a", threshold=1.0),
        lambda *_: None,
    )
    n_clear = int((stores.cache.support(anchor, 1.0) > 0).sum())
    assert 0 < n_clear < 11
    assert unjudged(stores, anchor, Relevance(TASK, run)) == (
        f"For {TASK}, {11 - n_clear} features that fire do so in no labelled sample clearly: "
        "coverage speaks of the features with a verdict alone."
    )
    stores.cache.close()
