"""fac.families and the run, the question and the command that rest on it, against brute force and
numbers worked out by hand."""

import doctest
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from streamlit.testing.v1 import AppTest

from benchmarks.families import agreement, clark_evans, coherence, main, map_coherence
from fac import families
from fac.config import REPOSITORY, FamiliesSpec
from fac.errors import InputError, RunNotFound
from fac.interpret import grouping
from fac.jobs.steps import Steps
from fac.questions.comparison import Comparison
from fac.questions.explanations import names
from fac.questions.families import families_run, families_spec, gap_families, gaps_of_family
from fac.questions.feature_map import (
    STANDINGS,
    coactive,
    families_on_map,
    feature_map,
    map_run,
    standings,
)
from fac.store import open_stores
from tests.test_cli import fac
from tests.test_shares import measured, rows_of
from tests.toy import revise


def test_the_examples_of_the_docstrings_hold():
    results = doctest.testmod(families)
    assert results.attempted >= 5 and not results.failed


# --- how alike ------------------------------------------------------------------------------------


def incidence(*samples_of_feature, n_samples):
    """The samples of each feature as a matrix."""
    matrix = np.zeros((n_samples, len(samples_of_feature)), bool)
    for feature, samples in enumerate(samples_of_feature):
        matrix[list(samples), feature] = True
    return csr_array(matrix)


def test_likeness_is_the_jaccard_beyond_chance():
    # Of 20 samples, 4 fire a, 5 fire b, 3 fire both: J = 3/6; of independent ones with p = .2 and
    # q = .25 it is .05/.4 = 1/8, so (1/2 - 1/8) / (1 - 1/8) = 3/7.
    a, b = range(4), (0, 1, 2, 8, 9)
    columns = incidence(a, b, n_samples=20).T.tocsr().astype(np.float32)
    assert families.likeness_matrix(columns) == pytest.approx(np.array([[1, 3 / 7], [3 / 7, 1]]))
    pairs = families.near_pairs(columns, 5, floor=0.05)
    assert pairs.first.tolist() == [0] and pairs.second.tolist() == [1]
    assert pairs.likeness == pytest.approx([3 / 7])


def test_what_meets_as_often_as_chance_has_it_is_not_alike():
    assert families.likeness(25, 50, 50, 100) == 0  # J = 1/3 all the same
    assert families.likeness(10, 50, 50, 100) == 0


def test_what_fires_in_every_sample_is_in_no_family():
    every, some = range(9), range(3)
    table = incidence(every, some, every, some, n_samples=9)
    assert families.group(table, np.arange(4)).tolist() == [-1, 0, -1, 0]
    pairs = families.group(table, np.arange(4), exact=1, nearest=2)
    assert pairs.tolist() == [-1, 0, -1, 0]


# --- groups ---------------------------------------------------------------------------------------


def brute_force(matrix, cut):
    """Average linkage by the book: of all pairs of groups the most alike, over and over."""
    groups = [[i] for i in range(len(matrix))]

    def mean(pair):
        return float(np.mean([matrix[i, j] for i in groups[pair[0]] for j in groups[pair[1]]]))

    while len(groups) > 1:
        best = max(combinations(range(len(groups)), 2), key=mean)
        if mean(best) < cut:
            break
        groups[best[0]] += groups.pop(best[1])
    return {frozenset(group) for group in groups}


def as_sets(numbers):
    return {frozenset(np.flatnonzero(numbers == n).tolist()) for n in np.unique(numbers)}


@st.composite
def matrices(draw):
    """Symmetric, every value another one, some of them 0."""
    n = draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.permutation(n * (n - 1) // 2) + rng.random(n * (n - 1) // 2) / 3
    upper = np.triu_indices(n, 1)
    matrix = np.eye(n)
    matrix[upper] = values / (values.max() + 1) * (rng.random(len(values)) < draw(st.floats(0, 1)))
    return np.maximum(matrix, matrix.T)


@given(matrices(), st.floats(0.05, 0.95))
@settings(max_examples=200, deadline=None)
def test_both_linkages_are_average_linkage(matrix, cut):
    first, second = np.nonzero(np.triu(matrix, 1))
    pairs = families.Pairs(first, second, matrix[first, second])
    expected = brute_force(matrix, cut)
    assert as_sets(families.linked(matrix, cut)) == expected
    assert as_sets(families.joined(pairs, len(matrix), cut)) == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_near_pairs_are_those_of_the_whole_matrix(seed, nearest):
    rng = np.random.default_rng(seed)
    columns = rng.random((14, 40)) < rng.uniform(0.05, 0.8, (14, 1))
    columns[:, 0] |= ~columns.any(axis=1)  # each fires
    columns = csr_array(columns.astype(np.float32))
    matrix = families.likeness_matrix(columns)
    pairs = families.near_pairs(columns, 14, floor=0.05)
    upper = np.triu(matrix, 1)
    expected = {*zip(*(upper > 0.05).nonzero(), strict=True)}
    assert {*zip(pairs.first, pairs.second, strict=True)} == expected
    assert pairs.likeness == pytest.approx(upper[pairs.first, pairs.second])
    some = families.near_pairs(columns, nearest, floor=0.05)
    near = {*zip(some.first.tolist(), some.second.tolist(), strict=True)}
    for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        others = [np.delete(matrix[end], [i, j]) for end in (i, j)]
        least, most = (
            [int((other > matrix[i, j] + d).sum()) for other in others] for d in (1e-6, -1e-6)
        )
        if min(most) < nearest:  # whatever becomes of equals
            assert (i, j) in near
        if min(least) >= nearest:
            assert (i, j) not in near


def test_blocks_and_what_waits_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    columns = csr_array((rng.random((60, 50)) < 0.3).astype(np.float32))
    whole = families.near_pairs(columns, 4, floor=0.05)
    monkeypatch.setattr(families, "BLOCK", 7)
    monkeypatch.setattr(families, "MOST_PAIRS", 11)
    monkeypatch.setattr(families, "TILE", 9)
    monkeypatch.setattr(families, "TILE_FIRINGS", 100)
    monkeypatch.setattr(families, "SORTED", 13)
    parts = families.near_pairs(columns, 4, floor=0.05)
    pairs = [{*zip(*(column.tolist() for column in each), strict=True)} for each in (whole, parts)]
    assert pairs[0] == pairs[1]
    assert np.array_equal(families.likeness_matrix(columns), families.likeness_matrix(columns).T)


def test_groups_are_numbered_by_size_and_singletons_have_none():
    every = np.arange(8)
    two, three = range(10), range(20, 30)
    samples = [range(40, 50), two, three, two, three, range(60, 70), three, range(45, 55)]
    matrix = incidence(*samples, n_samples=100)
    for exact in (families.EXACT, 0):
        family = families.group(matrix, every, exact=exact)
        assert family.tolist() == [1, 2, 0, 2, 0, -1, 0, 1]
    # what is not asked about is in none
    assert families.group(matrix, np.array([1, 2, 3, 4])).tolist() == [-1, 0, 1, 0, 1, -1, -1, -1]


@pytest.mark.parametrize("n", [0, 1])
def test_few_features_have_no_family(n):
    matrix = incidence(*[range(5)] * n, n_samples=10)
    assert families.group(matrix, np.arange(n)).tolist() == [-1] * n


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_the_nearest_are_those_most_alike(seed, k):
    rng = np.random.default_rng(seed)
    columns = rng.random((14, 40)) < rng.uniform(0.05, 0.8, (14, 1))
    columns[:, 0] |= ~columns.any(axis=1)  # each fires
    columns = csr_array(columns.astype(np.float32))
    matrix = families.likeness_matrix(columns)
    pairs = families.near_pairs(columns, 14, floor=0.0)
    for alike in (matrix, pairs):
        near, likeness = families.nearest_of(alike, 14, k)
        assert near.shape == likeness.shape == (14, k)
        for i in range(14):
            others = sorted((float(matrix[i, j]) for j in range(14) if j != i), reverse=True)
            expected = [value for value in others if value > 0][:k]
            assert likeness[i] == pytest.approx(expected + [0] * (k - len(expected)))
            named = near[i][near[i] >= 0].tolist()
            assert len(named) == len(expected) and i not in named
            assert matrix[i, named] == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=60, deadline=None)
def test_recall_is_that_of_the_truly_nearest(seed, k, floor):
    rng = np.random.default_rng(seed)
    fires = rng.random((14, 40)) < rng.uniform(0.05, 0.8, (14, 1))
    fires[:, 0] |= ~fires.any(axis=1)
    pairs, features = csr_array(fires.T), np.flatnonzero(rng.random(14) < 0.8)
    columns = csr_array(fires[features].astype(np.float32))
    n = len(features)
    if n < 2:
        return
    true, _ = families.nearest_of(families.likeness_matrix(columns), n, k)
    near, _ = families.nearest_of(families.near_pairs(columns, k, floor=floor), n, k)
    recall = families.recall(pairs, features, near)
    hits = [len({*a[a >= 0]} & {*b[b >= 0]}) for a, b in zip(true, near, strict=True)]
    n_true = int((true >= 0).sum())
    assert recall == (sum(hits) / n_true if n_true else None)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "at", "word"),
    [
        (["I", " Photos", "yn", "thesis", "."], 2, "photosynthesis"),
        (["don", "'t", " go"], 0, "don't"),
        ([" 'quoted", "'"], 0, "quoted"),
        ([" 2", "0", "2", "4", ","], 3, "2024"),
        ([" a", " -"], 1, ""),
        (["字" * 20, "字" * 20], 0, ""),
        (["x"], 0, "x"),
    ],
)
def test_a_peak_word_is_whole(tokens, at, word):
    assert families.peak_word(tokens, at) == word


def test_a_name_has_the_common_words_that_tell_the_family_from_others():
    money, bank = Counter(money=3, the=1), Counter(bank=1, money=1, the=5, loan=1)
    everywhere = {"money": 2, "bank": 4, "the": 40, "loan": 2, "tax": 2, "fee": 2}
    more = Counter(bank=1, loan=1, tax=1, fee=1)
    # money and loan: 2 of 3 members, 2 of 40 features, so 13.3 times, money in more spans; bank
    # 6.7 times
    assert families.name_of([money, bank, more], everywhere, 40) == "money, loan, bank"
    assert families.name_of([money, bank], {**everywhere, "money": 14}, 40) == ""
    assert families.name_of([Counter(), Counter()], everywhere, 40) == ""


# --- the benchmark's arithmetic -------------------------------------------------------------------


def test_coherence_and_agreement_of_groupings():
    # cosines within 0: 1, within 1: 0; the last is in none
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0]], float)
    assert coherence(vectors, np.array([0, 0, 1, 1, -1])) == 0.5
    # pairs 01 02 12 34 against 01 23: one of four, one of two
    shared = agreement(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, -1]))
    assert shared == (0.25, 0.5)


def test_coherence_and_clark_evans_of_a_map():
    # two pairs far apart: alike within the first, 0 within the second
    xy = np.array([[0, 0], [0, 0], [9, 0], [9, 1.0]])
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], float)
    # nearest: (1 + 1 + 0 + 0) / 4; all pairs: 3 of 6
    assert map_coherence(vectors, xy, 1) == pytest.approx(0.5 - 0.5)
    # a square of side 2: nearest at 2, four points on an area of 4
    assert clark_evans(np.array([[0, 0], [2, 0], [0, 2], [2, 2.0]])) == pytest.approx(4.0)
    rng = np.random.default_rng(0)
    assert clark_evans(rng.random((20_000, 2))) == pytest.approx(1.0, abs=0.02)


def test_a_small_run_of_the_benchmark_prints_time_and_memory(toy, capsys):
    stores, _ = toy
    main(["--workspace", str(stores.runs.workspace.root), "--measure", "anchor", "--cost"])
    printed = capsys.readouterr().out
    for name in ("features", "on the map", "seconds of the map", "peak memory, GB"):
        assert f"{name}  " in printed


# --- the run, the question, the command -----------------------------------------------------------

ANCHOR = [
    *rows_of(24, "bake oven please"),
    *rows_of(24, "river train please"),
    *rows_of(22, "mountain please"),
    *rows_of(5, "python loop please"),
    *rows_of(30, "please"),
]
DATASET = [*rows_of(40, "bake please"), *rows_of(40, "please"), *rows_of(1, "river please")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    stores, (anchor, dataset) = measured(folder, anchor=ANCHOR, dataset=DATASET)
    return stores, Comparison(anchor, dataset)


def grouped(stores, spec):
    return Steps(stores.runs.workspace).perform(spec, lambda *_: None)


def test_the_run_holds_families_and_names(toy):
    stores, comparison = toy
    assert FamiliesSpec(measure="m", threshold=0.0) == families_spec(Comparison("m", "d"))
    run = grouped(stores, families_spec(comparison))
    # bake 0, oven 1; river 6, train 8; mountain alone, python and loop too rare, please everywhere
    assert stores.runs.table(run, "families").to_pylist() == [
        {"family": 0, "feature": 0},
        {"family": 0, "feature": 1},
        {"family": 1, "feature": 6},
        {"family": 1, "feature": 8},
    ]
    facts = stores.runs.manifest(run).facts
    assert (facts.name, facts.n_features, facts.n_families, facts.n_members) == ("anchor", 5, 2, 4)
    assert (facts.n_unnamed, facts.nearest) == (2, 0)  # each word is that of one feature
    assert families_run(stores, comparison) == run == grouped(stores, families_spec(comparison))


def test_the_run_lays_out_what_fires_like_another(toy):
    stores, comparison = toy
    run = grouped(stores, families_spec(comparison))
    places = stores.runs.table(run, "map").to_pylist()
    # mountain and please, which nearly all samples fire, are like no other
    assert [row["feature"] for row in places] == [0, 1, 6, 8]
    assert [row["neighbours"] for row in places] == [[1], [0], [8], [6]]
    assert [row["likeness"] for row in places] == [[1.0]] * 4
    assert len({(row["x"], row["y"]) for row in places}) == 4
    facts = stores.runs.manifest(run).facts
    assert (facts.n_firing, facts.n_on_map) == (8, 4)
    assert coactive(stores, run, 6) == [(8, 1.0)] and coactive(stores, run, 7) == []
    assert coactive(stores, run, 99) == []
    whole = feature_map(stores, run)
    assert whole.family.tolist() == [0, 0, 1, 1]
    assert whole.note == (
        "4 of 8 features that fire clearly in anchor are not on the map: they fire in fewer than "
        "20 samples, in nearly every one, or together with no other."
    )


def test_the_map_asks_for_the_same_stretch_and_families_for_the_same_sample(tmp_path):
    """Words that chats say at their two ends: one topic to families, two on the map."""
    far = " ".join(["so"] * 40)
    chats = [
        *rows_of(24, f"bake oven {far} river train please"),
        *rows_of(40, "please"),
    ]
    stores, (anchor,) = measured(tmp_path, anchor=chats)
    run = grouped(stores, FamiliesSpec(measure=anchor, threshold=0.0))
    families = stores.runs.table(run, "families")
    assert families["feature"].to_pylist() == [0, 1, 6, 8]
    assert families["family"].to_pylist() == [0] * 4
    places = stores.runs.table(run, "map").to_pylist()
    assert {row["feature"]: row["neighbours"] for row in places} == {0: [1], 1: [0], 6: [8], 8: [6]}


def test_what_a_comparison_says_of_each_feature(toy):
    stores, comparison = toy
    standing = standings(stores, comparison)
    # bake; oven, train, mountain, python and loop; river in 1 of 81 samples
    named = {name: np.flatnonzero(standing == n).tolist() for n, name in enumerate(STANDINGS)}
    assert named["covered"][0] == 0 and named["under-represented"] == [6]
    assert {1, 8} <= {*named["missing"]}
    run = grouped(stores, families_spec(comparison))
    rows = families_on_map(stores, run, standing)
    counts = [[row[n] for n in ("family", "size", "covered", "under", "missing")] for row in rows]
    assert counts == [[0, 2, 1, 0, 1], [1, 2, 0, 1, 1]]
    assert [row["family_name"] for row in rows] == ["unnamed"] * 2
    (few,) = families_on_map(stores, run, standing, np.array([6, 7]))
    assert (few["family"], few["size"], few["under"]) == (1, 1, 1)


def test_a_run_without_a_map_is_no_map(toy):
    stores, comparison = toy
    at = Comparison(comparison.anchor, comparison.dataset, threshold=0.0625)
    assert map_run(stores, at) is None
    run = grouped(stores, families_spec(at))
    assert map_run(stores, at) == run
    # as an earlier version wrote it
    revise(stores.runs, run, lambda content: content["facts"].pop("n_on_map"))
    assert families_run(stores, at) == run and map_run(stores, at) is None


def test_what_is_approximate_of_a_map_is_stated_as_a_number(toy):
    stores, comparison = toy
    run = grouped(stores, families_spec(replace(comparison, threshold=0.078125)))
    assert "hardly" not in feature_map(stores, run).note, "all pairs were compared"
    for recall, words in (
        (0.99999, "10 features that are most like each, 99.9 % are among"),
        (1.0, "most like each, 100 % are among those that it is laid out by (of 200 features, "),
        (None, "What is hardly alike counts as not alike."),
    ):
        search = {"nearest": 128, "recall": recall}
        revise(stores.runs, run, lambda content, to=search: content["facts"].update(to))
        stores = open_stores(stores.runs.workspace, remember=False)
        assert words in feature_map(stores, run).note


def test_a_run_is_of_one_threshold_and_role(toy):
    stores, comparison = toy
    grouped(stores, families_spec(comparison))
    other = Comparison(comparison.anchor, comparison.dataset, threshold=0.5)
    assert families_run(stores, other) is None
    assistant = Comparison(comparison.anchor, comparison.dataset, role="assistant")
    assert families_run(stores, assistant) is None
    run = grouped(stores, families_spec(assistant))
    assert stores.runs.table(run, "families").num_rows == 0
    result = gap_families(stores, assistant, run)
    assert result.rows == [] and result.headline == ""
    assert result.note == (
        "anchor has no families: of 0 features that fire in 20 samples or more, no two fire "
        "together more than chance makes them."
    )


def test_families_of_gaps(toy):
    stores, comparison = toy
    result = gap_families(stores, comparison, grouped(stores, families_spec(comparison)))
    travel, kitchen = result.rows
    # river is in one sample of 81, train in none; oven is absent, bake is not
    assert (travel["size"], travel["covered"], travel["share"]) == (2, 1, 0.5)
    assert (travel["absent"], travel["under"], travel["certain"]) == (1, 1, 2)
    assert travel["features"] == [8, 6] and travel["name"] == "unnamed"
    assert (kitchen["size"], kitchen["covered"], kitchen["features"]) == (2, 1, [1])
    assert sum(kitchen[badge] for badge in ("certain", "possible", "artefact")) == 1
    # mountain, python and loop: two of them in five samples
    assert sum(result.alone[badge] for badge in ("certain", "possible", "artefact")) == 3
    assert result.alone["rare"] == 2 and result.n_whole == 0
    assert "3 gaps stand alone, 2 because fewer than 20 samples fire them." in result.note
    assert result.headline.endswith(" certain gaps lie in 2 families.")
    rows = gaps_of_family(stores, comparison, travel)
    assert [(r["feature"], r["kind"], r["n_anchor"], r["n_dataset"]) for r in rows] == [
        (8, "absent", 24, 0),
        (6, "under-represented", 24, 1),
    ]
    assert all(row["name"] and row["badge"] == "certain" for row in rows)


def test_the_command_computes_families_once(toy):
    stores, comparison = toy
    question = ("families", "--anchor", "anchor", "--dataset", "dataset", "--threshold", "0.25")
    answer = fac(*question, "--json", workspace=stores.runs.workspace)
    data = json.loads(answer.out)
    assert [row["features"] for row in data["families"]] == [[8, 6], [1]]
    at = Comparison(comparison.anchor, comparison.dataset, threshold=0.25)
    assert data["run"] == families_run(stores, at)
    words = fac(*question, workspace=stores.runs.workspace).out
    assert "2 families with gaps of dataset against anchor" in words and "unnamed" in words


def test_names_are_never_read_as_markup(toy, monkeypatch):
    stores, comparison = toy
    monkeypatch.setattr(grouping, "family_names", lambda *_: ["[bold]x[/] :smile:", "<b>"])
    at = Comparison(comparison.anchor, comparison.dataset, threshold=0.125)
    grouped(stores, families_spec(at))
    question = ("families", "--anchor", "anchor", "--dataset", "dataset", "--threshold", "0.125")
    words = fac(*question, workspace=stores.runs.workspace).out
    assert "[bold]x[/] :smile:" in words and "<b>" in words


def test_what_cannot_be_grouped_is_a_sentence(toy):
    stores, _ = toy
    with pytest.raises(InputError, match="threshold must be a number from 0 on"):
        FamiliesSpec(measure="m", threshold=-1.0)
    with pytest.raises(InputError, match="min support must be at least 1"):
        FamiliesSpec(measure="m", threshold=0.0, min_support=0)
    with pytest.raises(InputError, match="A role is"):
        FamiliesSpec(measure="m", threshold=0.0, role="robot")
    with pytest.raises(RunNotFound):
        grouped(stores, FamiliesSpec(measure="measure-000000000000", threshold=0.0))


# --- the page -------------------------------------------------------------------------------------


def page(stores, monkeypatch, **view):
    monkeypatch.setenv("FAC_WORKSPACE", str(stores.runs.workspace.root))
    monkeypatch.setattr("fac.jobs.worker.start_worker", lambda _: None)
    at = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
    at.query_params.update({"anchor": "anchor", "dataset": "dataset", **view})
    at.run()
    at.switch_page("pages/coverage.py").run()
    assert not at.exception and not at.error
    return at


def test_the_page_offers_to_group_and_shows_what_the_worker_made(toy, monkeypatch):
    stores, comparison = toy
    at = page(stores, monkeypatch, threshold="0.375")
    button = next(each for each in at.button if each.label == "Group the gaps")
    button.click().run()
    announced = ["Grouping the features of the anchor into families"]
    assert [toast.value for toast in at.toast] == announced and not at.run().toast
    (job,) = [job for job in stores.queue.jobs() if job.step == "families"]
    spec = families_spec(Comparison(comparison.anchor, comparison.dataset, threshold=0.375))
    assert job.spec == spec.as_json()
    (waiting,) = at.main.get("progress")
    assert waiting.proto.text == "Group and lay out the features of anchor · waiting"
    monkeypatch.setattr(grouping, "family_names", lambda *_: ["<b>*x*", "y"])
    grouped(stores, spec)
    _, families_, gaps = page(stores, monkeypatch, threshold="0.375").dataframe
    first = {name: values[0] for name, values in families_.value.to_dict("list").items()}
    assert families_.value["family_name"].tolist() == ["y", "<b>*x*"]
    called = names(stores, comparison.anchor, [8, 6])
    assert (first["size"], first["certain"], first["lacks"]) == (2, 2, ", ".join(called.values()))
    assert (first["missing"], first["under"]) == (1, 1)
    assert gaps.value["feature"].tolist() == [8, 6]
    home = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
    home.query_params.update({"anchor": "anchor", "dataset": "dataset", "threshold": "0.375"})
    home.run()
    assert any("certain gaps lie in 2 families" in each.value for each in home.caption)
    opened = page(stores, monkeypatch, threshold="0.375", family="0")
    assert opened.dataframe[2].value["feature"].tolist() == [1]
    assert any(r"**\<b\>\*x\***" in each.value for each in opened.markdown)


def test_where_there_is_no_map_the_page_of_features_offers_to_draw_it(toy, monkeypatch):
    stores, comparison = toy
    monkeypatch.setenv("FAC_WORKSPACE", str(stores.runs.workspace.root))
    monkeypatch.setattr("fac.jobs.worker.start_worker", lambda _: None)
    at = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
    view = {"anchor": "anchor", "dataset": "dataset", "threshold": "0.4375", "list": "families"}
    at.query_params.update(view)
    at.run()
    at.switch_page("pages/features.py").run()
    assert not at.exception and not at.error
    texts = [each.value for each in at.caption]
    assert any("lie together on a map" in text for text in texts)
    assert "Families come with the map." in texts
    assert not any("gaps" in text.lower() for text in texts)
    next(each for each in at.button if each.label == "Draw the map").click().run()
    spec = families_spec(replace(comparison, threshold=0.4375))
    assert spec.as_json() in [job.spec for job in stores.queue.jobs()]
    (waiting,) = [each for each in at.main.get("progress")]
    assert "lay out the features of anchor" in waiting.proto.text


def test_the_map_on_its_page(toy, monkeypatch):
    stores, comparison = toy
    grouped(stores, families_spec(replace(comparison, threshold=0.03125)))
    monkeypatch.setenv("FAC_WORKSPACE", str(stores.runs.workspace.root))
    at = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
    view = {"anchor": "anchor", "dataset": "dataset", "threshold": "0.03125"}
    at.query_params.update({**view, "list": "families", "feature": "6"})
    at.run()
    at.switch_page("pages/features.py").run()
    assert not at.exception and not at.error
    assert any("4 of 8 features that fire clearly" in each.value for each in at.caption)
    assert at.dataframe[0].value["size"].tolist() == [2, 2]
    assert any("Fire together" in each.value for each in at.markdown)
    at.query_params.update({"topic": "1", "list": "features", "only": "all"})
    at.run()
    assert not at.exception and not at.error
    assert sorted(at.dataframe[0].value["feature"].tolist()) == [6, 8]
    assert any("2 features of the family “unnamed”" in each.value for each in at.caption)
