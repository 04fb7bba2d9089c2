"""fac.compare: the toy world by eye, and random data against arrays."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fac import compare, coverage
from fac.config import Workspace
from fac.errors import BadRow, InputError
from fac.prompts import relevance
from fac.schema import EVERY_ROLE, ROLES, Activations
from fac.store.cache import Cache, build
from fac.store.runs import Runs
from tests.test_cache import N_FEATURES, N_SAMPLES, firings, made_of
from tests.toy import (
    RELEVANT,
    TASK,
    WORDS,
    publish_activations,
    publish_explanations,
    publish_relevance,
    toy_workspace,
)

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs of the toy workspace, whose anchor is explained and judged."""
    return Runs(toy_workspace(tmp_path_factory.mktemp("toy"), explained=True))


@pytest.fixture(scope="module")
def toy(runs):
    """(cache, anchor, seed) of the toy workspace."""
    cache = Cache(runs.workspace.cache)
    yield cache, runs.resolve("measure", "toy-anchor"), runs.resolve("measure", "toy-seed")
    cache.close()


@pytest.fixture(scope="module")
def relevant_set(toy, runs):
    """Asks which features of the toy anchor are relevant."""

    def ask(given="all", **asked):
        return compare.relevant_set(given, *toy[:2], runs=runs, **asked)

    return ask


@pytest.fixture(scope="module")
def gaps(toy, relevant_set):
    """Asks for the gaps of the toy seed over all features."""

    def ask(**asked):
        return compare.gap_table(*toy, relevant=relevant_set(), **asked)

    return ask


# ---- the toy world ------------------------------------------------------------------------------


def test_the_seed_covers_the_kitchen_and_the_please_of_ten_words(toy, relevant_set):
    relevant = relevant_set()
    assert [WORDS[i] for i in np.flatnonzero(~relevant)] == ["the", "quasar"]
    result = compare.coverage_of(*toy, relevant=relevant)
    assert result.fac == 4 / 10
    assert (result.n_anchor, result.n_dataset, result.n_covered, result.n_missing) == (10, 4, 4, 6)
    assert result.missing.tolist() == MISSING


def test_a_dataset_covers_itself(toy, relevant_set):
    cache, anchor, _ = toy
    relevant = relevant_set()
    result = compare.coverage_of(cache, anchor, anchor, relevant=relevant)
    assert result.fac == 1 and result.kl_smoothed == pytest.approx(math.log(1 / (0.99 + 0.01)))


def test_support_is_asked_of_the_anchor_only(toy, relevant_set):
    cache, anchor, seed = toy
    result = compare.coverage_of(*toy, relevant=relevant_set(), min_support=7)
    assert result.n_anchor == 1 and result.n_covered == 1  # please: 12 samples there, 6 here
    assert cache.support(seed, 0)[WORDS.index("please")] == 6


def test_what_is_added_takes_nothing_away(toy):
    cache, anchor, seed = toy
    replaced = compare.changes(cache, anchor, seed)
    added = compare.changes(cache, anchor, seed, added=True)
    assert replaced["n_lost"] == 6 and added["n_lost"] == 0
    assert added["gained"] == replaced["gained"] == []
    found = compare.changes(cache, seed, anchor, added=True)
    assert found["gained"] == MISSING
    first = found["gained_first"][0]
    assert first["n_after"] == cache.support(anchor, 0.0)[first["feature"]], "the seed has none"


def test_what_would_be_added_counts_as_the_datasets_own(toy, relevant_set):
    cache, anchor, seed = toy
    alone = compare.coverage_of(*toy, relevant=relevant_set())
    both = compare.coverage_of(*toy, relevant=relevant_set(), also=[anchor])
    assert (both.fac, both.n_missing) == (1.0, 0) and alone.n_missing == 6
    assert compare.coverage_of(*toy, relevant=relevant_set(), also=[seed]).fac == alone.fac


def test_the_curve_is_the_coverage_at_each_rung(toy, runs):
    cache, anchor, _ = toy
    rows = compare.curve(*toy, runs=runs)
    assert [row["threshold"] for row in rows] == cache.summary(anchor)["thresholds"]
    assert rows[0] == {"threshold": 0, "fac": 0.4, "n_anchor": 10, "n_covered": 4, "n_missing": 6}
    # Above 1 only what is said with an exclamation mark: bake!, loop!, train!
    assert all((row["n_anchor"], row["n_covered"]) == (3, 1) for row in rows[1:])


def test_coverage_by_role_counts_that_roles_tokens_only(toy, runs):
    system, user, assistant = compare.by_role(*toy, runs=runs)
    assert (system["role"], system["fac"], system["n_anchor"]) == ("system", 0.0, 1)
    # Users say bake, oven, recipe, python, function, train, please and, in three of four, the.
    assert (user["n_anchor"], user["n_missing"]) == (8, 3)
    assert (assistant["n_anchor"], assistant["n_missing"]) == (9, 6)


def test_an_anchor_silent_at_a_threshold_has_undefined_coverage(toy):
    relevant = np.ones(12, bool)
    assert math.isnan(compare.coverage_of(*toy, threshold=1.5, relevant=relevant).fac)
    assert compare.gap_table(*toy, threshold=1.5, relevant=relevant) == ([], 0)


def test_gaps_come_with_their_evidence(toy, gaps):
    cache, anchor, seed = toy
    rows, total = gaps()
    assert total == 6 and [row["feature"] for row in rows] == MISSING
    by_word = {WORDS[row["feature"]]: row for row in rows}
    ratio = cache.summary(seed)["content_tokens"] / cache.summary(anchor)["content_tokens"]
    loop = by_word["loop"]
    assert loop["label"] == "loop!" and loop["promotes"] == ["loops", "Loop"]
    assert (loop["n_anchor"], loop["n_dataset"], loop["anchor_peak"]) == (6, 0, 1.5)
    assert loop["expected"] == pytest.approx(6 * ratio)
    assert loop["chance"] == pytest.approx(math.exp(-6 * ratio))
    # "trailing" shares four of five letters with "train", and the SAE fires from 0.8 on.
    assert by_word["train"]["near"] == pytest.approx(1.0)
    assert by_word["train"]["badge"] == "borderline"
    assert {by_word[w]["badge"] for w in ("python", "loop", "river")} == {"robust"}


def test_a_threshold_above_the_saes_own_is_what_must_be_reached(gaps):
    rows, _ = gaps(threshold=1.0)
    assert [WORDS[row["feature"]] for row in rows] == ["loop", "train"]
    assert rows[1]["near"] == pytest.approx(0.8)
    assert rows[1]["badge"] == "robust"
    rows, _ = gaps(threshold=1.4)
    assert {row["badge"] for row in rows} == {"artefact"}


def test_one_roles_gaps_use_that_roles_counts_peaks_and_tokens(toy, relevant_set):
    cache, anchor, seed = toy
    relevant = relevant_set(role="user")
    rows, total = compare.gap_table(*toy, role="user", relevant=relevant)
    assert total == 3 and {WORDS[r["feature"]] for r in rows} == {"python", "function", "train"}
    assert {row["anchor_peak"] for row in rows} == {1.0}
    said, there = (cache.summary(run)["content_tokens_by_role"]["user"] for run in (seed, anchor))
    assert {row["expected"] for row in rows} == {6 * said / there}


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", compare.GAP_SORTS)
def test_gaps_sort_by_any_column_with_equals_by_number_and_missing_last(
    toy, runs, gaps, sort, descending
):
    by_model = compare.explained_by(runs, toy[1])[:1]
    rows, _ = gaps(sort=sort, descending=descending, explained=by_model)
    by_feature = sorted(rows, key=lambda row: row["feature"])
    known = [row for row in by_feature if row[sort] is not None]
    missing = [row for row in by_feature if row[sort] is None]
    assert rows == [*sorted(known, key=lambda row: row[sort], reverse=descending), *missing]
    assert len(missing) == (sort == "score")  # mountain, whose answers could not be read


def test_pages_of_gaps_put_together_are_all_gaps(gaps):
    whole, total = gaps()
    assert sum((gaps(offset=o, limit=4)[0] for o in (0, 4, 8)), []) == whole
    assert gaps(limit=0) == ([], total)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("RIVER", ["river"]),
        ("mountains", ["mountain"]),
        ("#3", ["python"]),
        ("3", ["python"]),
        ("#12", []),
        ("#loop", []),
        ("%", []),
        (".*", []),
        ("\\", []),
        (" loop! ", ["loop"]),
        ("speak of", []),
    ],
)
def test_gaps_are_found_by_label_promoted_token_or_number(search, found, gaps):
    rows, total = gaps(search=search)
    assert [WORDS[row["feature"]] for row in rows] == found and total == len(found)


def test_gaps_are_narrowed_to_a_badge(gaps):
    rows, total = gaps(badge="borderline")
    assert [WORDS[row["feature"]] for row in rows] == ["train"] and total == 1
    assert gaps(badge="robust")[1] == 5
    assert gaps(badge="robust", search="train") == ([], 0)


@pytest.mark.parametrize("bad", [{"sort": "x"}, {"badge": "x"}, {"offset": -1}, {"limit": -1}])
def test_a_gap_page_that_cannot_be_is_refused(bad, gaps):
    with pytest.raises(InputError):
        gaps(**bad)


def test_changes_name_what_was_gained_and_lost(toy):
    cache, anchor, seed = toy
    found = compare.changes(cache, seed, anchor)
    assert (found["gained"], found["n_gained"], found["lost"]) == (MISSING, 6, [])
    assert found["gained_first"][0] == {
        "feature": 3,
        "label": "python",
        "n_before": 0,
        "n_after": 6,
    }
    back = compare.changes(cache, anchor, seed)
    assert (back["lost"], back["gained"], back["n_lost"]) == (MISSING, [], 6)
    assert back["lost_first"][0]["label"] == "python" and back["lost_first"][0]["n_before"] == 6
    assert compare.changes(cache, seed, anchor, threshold=1.0)["gained"] == [5, 8]


# ---- which features matter ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[3, 5, 5]", "3\n5\n", "\ufeff3\r\n\r\n5\r\n", '{"feature": 3}\n{"feature": 5, "x": 1}\n'],
)
def test_a_file_names_the_relevant_features(toy, tmp_path, text, relevant_set):
    path = tmp_path / "ids"
    path.write_text(text, "utf-8")
    relevant = relevant_set(str(path))
    assert np.flatnonzero(relevant).tolist() == [3, 5]
    assert compare.coverage_of(*toy, relevant=relevant).fac == 0


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
def test_a_line_that_names_no_feature_is_told(tmp_path, text, sentence, relevant_set):
    path = tmp_path / "ids"
    path.write_text(text)
    with pytest.raises(BadRow, match=sentence):
        relevant_set(str(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "names no feature"),
        (b"[]", "names no feature"),
        (b"[1, 2", "begins like a JSON list but is none"),
        (b"\xff\xfe\x00\x01", "is not text"),
    ],
)
def test_a_file_without_features_is_told(tmp_path, content, sentence, relevant_set):
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        relevant_set(str(path))


def test_a_task_takes_what_its_judge_calls_at_least_maybe(toy, relevant_set):
    relevant = relevant_set(TASK)
    assert np.flatnonzero(relevant).tolist() == [*RELEVANT]
    result = compare.coverage_of(*toy, relevant=relevant)
    assert (result.fac, result.n_anchor) == (0.0, 5)  # code, river and mountain: none in the seed


def test_people_win_over_the_judge_and_one_who_cannot_tell_leaves_its_verdict(relevant_set):
    said = {3: "no", 0: "maybe", 10: "probably", 4: "cannot_tell", 1: "cannot_tell", 11: "yes"}
    found = np.flatnonzero(relevant_set(TASK, overrides=said)).tolist()
    assert found == [0, 4, 5, 6, 7, 10, 11]
    assert np.flatnonzero(relevant_set(TASK)).tolist() == [*RELEVANT]


def test_people_decide_about_tasks_only(relevant_set, tmp_path):
    path = tmp_path / "ids"
    path.write_text("3")
    for named in ("all", str(path)):
        plain = relevant_set(named).tolist()
        assert relevant_set(named, overrides=dict.fromkeys(range(12), "no")).tolist() == plain


@pytest.mark.parametrize("said", [{12: "yes"}, {-1: "no"}, {3: "certainly"}, {3: "unreadable"}])
def test_a_decision_that_cannot_be_is_told(relevant_set, said):
    (feature,) = said
    with pytest.raises(InputError, match=f"A decision puts feature {feature} on '.*withdraw it"):
        relevant_set(TASK, overrides=said)


def test_curve_and_roles_count_within_the_task(toy, runs):
    asked = {"runs": runs, "relevant_given": TASK, "overrides": {0: "yes"}}
    assert compare.curve(*toy, **asked)[0] == {
        "threshold": 0,
        "fac": 1 / 6,
        "n_anchor": 6,
        "n_covered": 1,
        "n_missing": 5,
    }
    system, user, assistant = compare.by_role(*toy, **asked)
    assert (system["n_anchor"], system["n_covered"]) == (1, 0)  # python
    assert (user["n_anchor"], user["n_covered"]) == (3, 1)  # bake, python, function
    assert assistant["n_anchor"] == 6


@pytest.mark.parametrize("task", sorted(set(relevance.TASKS) - {TASK}))
def test_a_task_that_was_not_judged_says_how_to_judge_it(relevant_set, task):
    with pytest.raises(InputError, match=rf"`fac judge toy-anchor --task {task}`, or take `all`"):
        relevant_set(task)


def test_a_task_is_judged_for_each_anchor_on_its_own(toy, runs):
    cache, _, seed = toy
    with pytest.raises(InputError, match="No features of toy-seed are judged"):
        compare.relevant_set(TASK, cache, seed, runs=runs)


@pytest.mark.parametrize("given_name", ["tocsicity", "", "."])
def test_what_is_neither_a_task_nor_a_file_is_told_the_tasks(relevant_set, given_name):
    listed = ", ".join(sorted(relevance.TASKS))
    with pytest.raises(InputError, match=f"'{given_name}' is neither .* the tasks {listed}, or"):
        relevant_set(given_name)


def test_a_workspace_has_its_own_tasks_beside_the_built_in_ones(tmp_path):
    runs = Runs(toy_workspace(tmp_path))
    anchor = runs.resolve("measure", "toy-anchor")
    runs.workspace.tasks.write_text(
        '[gardening]\ntitle = "gardening"\nrubric = ["It is about plants."]\n'
    )
    assert set(compare.task_profiles(runs)) == {*relevance.TASKS, "gardening"}
    cache = Cache(runs.workspace.cache)
    with pytest.raises(InputError, match="are judged for the task 'gardening' yet"):
        compare.relevant_set("gardening", cache, anchor, runs=runs)
    with pytest.raises(InputError, match="the tasks gardening, instructions"):
        compare.relevant_set("weeding", cache, anchor, runs=runs)
    found = publish_relevance(runs, anchor, {7: "yes"}, task="gardening")
    with pytest.raises(InputError, match=f"{found} cannot be shown.*not built yet"):
        compare.relevant_set("gardening", cache, anchor, runs=runs)
    build(runs, found, runs.workspace.cache)
    # A profile may be gone from the file; what was judged by it stays.
    runs.workspace.tasks.unlink()
    relevant = compare.relevant_set("gardening", cache, anchor, runs=runs)
    assert np.flatnonzero(relevant).tolist() == [7]
    runs.workspace.tasks.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"tasks\.toml is not UTF-8 text"):
        compare.task_profiles(runs)
    cache.close()


def test_nothing_relevant_is_an_answer_and_its_coverage_is_undefined(tmp_path):
    runs = Runs(toy_workspace(tmp_path))
    anchor = runs.resolve("measure", "toy-anchor")
    judged = publish_relevance(runs, anchor, dict.fromkeys(range(11), "no"))
    build(runs, judged, runs.workspace.cache)
    cache = Cache(runs.workspace.cache)
    relevant = compare.relevant_set(TASK, cache, anchor, runs=runs)
    assert not relevant.any()
    assert math.isnan(compare.coverage_of(cache, anchor, anchor, relevant=relevant).fac)
    cache.close()


# ---- what explains and judges an anchor ---------------------------------------------------------


def test_the_newest_explanations_of_a_model_are_preferred_then_imported_ones(tmp_path):
    runs = Runs(Workspace(tmp_path))
    anchor = publish_activations(runs, "anchor", made_of(0, 1.0), **SIZES)
    other = publish_activations(runs, "other", made_of(0, 1.0), **SIZES)
    assert compare.explained_by(runs, anchor) == []
    assert compare.relevance_runs(runs, anchor) == {}
    asked = [("llm", 0), ("tokens", 0), ("external", 0), ("llm", 1), ("tokens", 1)]
    of = {
        (explainer, attempt): publish_explanations(
            runs, anchor, {0: explainer}, explainer=explainer, attempt=attempt
        )
        for explainer, attempt in asked
    }
    elsewhere = publish_explanations(runs, other, {0: "x"}, explainer="llm")
    wanted = [("llm", 1), ("llm", 0), ("external", 0), ("tokens", 1), ("tokens", 0)]
    assert compare.explained_by(runs, anchor) == [of[key] for key in wanted]
    assert compare.explained_by(runs, other) == [elsewhere]


def test_each_task_has_its_newest_judgement_of_the_anchor(tmp_path):
    runs = Runs(Workspace(tmp_path))
    anchor = publish_activations(runs, "anchor", made_of(0, 1.0), **SIZES)
    other = publish_activations(runs, "other", made_of(0, 1.0), **SIZES)
    publish_relevance(runs, anchor, {0: "no"}, task="toxicity")
    reward = publish_relevance(runs, anchor, {0: "no"}, task="reward")
    newer = publish_relevance(runs, anchor, {0: "yes"}, task="toxicity", attempt=1)
    publish_relevance(runs, other, {0: "yes"}, task="survival")
    assert compare.relevance_runs(runs, anchor) == {"reward": reward, "toxicity": newer}


def test_gaps_come_with_the_explanation_that_is_preferred(toy, runs, gaps):
    explained = compare.explained_by(runs, toy[1])
    by_word = {WORDS[row["feature"]]: row for row in gaps(explained=explained)[0]}
    python = by_word["python"]
    assert (python["explanation"], python["explainer"]) == ("People speak of a python.", "llm")
    assert (python["score"], python["score_kind"]) == (0.8, "detection")
    assert by_word["mountain"]["score"] is None
    plain = {row["feature"]: row for row in gaps()[0]}
    told = ("explanation", "explainer", "score", "score_kind")
    assert {row[name] for row in plain.values() for name in told} == {None}
    without = [{**row, **dict.fromkeys(told)} for row in by_word.values()]
    assert without == [*plain.values()]


@pytest.mark.parametrize(
    ("search", "found"),
    [("SPEAK OF A P", ["python"]), ("word", []), ("%", []), ("#3", ["python"])],
)
def test_gaps_are_found_by_the_explanation_that_is_shown(toy, runs, gaps, search, found):
    explained = compare.explained_by(runs, toy[1])
    rows, total = gaps(explained=explained, search=search)
    assert [WORDS[row["feature"]] for row in rows] == found and total == len(found)


# ---- random data --------------------------------------------------------------------------------

SIZES = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    anchor=firings(),
    dataset=firings(),
    relevant=st.lists(st.booleans(), min_size=N_FEATURES, max_size=N_FEATURES).map(np.array),
    tokens=st.integers(1, 3000),
)
def test_coverage_and_gaps_equal_brute_force_on_arrays(
    tmp_path_factory, anchor, dataset, relevant, tokens
):
    folder = tmp_path_factory.mktemp("random")
    runs = Runs(Workspace(folder))
    names = [
        publish_activations(runs, "a", anchor, **SIZES),
        publish_activations(runs, "d", dataset, **SIZES, tokens=tokens),
    ]
    for name in names:
        build(runs, name, folder / "cache")
    cache = Cache(folder / "cache")
    for role in (EVERY_ROLE, "user"):
        for threshold, k in ((0.0, 1), (0.35, 3), (2.2, 1)):
            asked = {"threshold": threshold, "min_support": k, "role": role}
            n_p, n_q = samples_of(anchor, threshold, role), samples_of(dataset, threshold, role)
            p = {i for i in range(N_FEATURES) if relevant[i] and len(n_p[i]) >= k}
            q = {i for i in range(N_FEATURES) if relevant[i] and n_q[i]}
            result = compare.coverage_of(cache, *names, relevant=relevant, **asked)
            assert result.missing.tolist() == sorted(p - q)
            assert (result.n_anchor, result.n_dataset) == (len(p), len(q))
            assert result.n_covered == len(p & q)
            masks = (np.isin(np.arange(N_FEATURES), [*some]) for some in (p, q))
            assert result.fac == pytest.approx(coverage.fac(*masks, relevant).fac, nan_ok=True)
            rows, total = compare.gap_table(cache, *names, relevant=relevant, **asked)
            assert total == len(rows) == len(p - q)
            ranked = sorted(p - q, key=lambda i: (-len(n_p[i]), i))
            assert [row["feature"] for row in rows] == ranked
            for row in rows:
                check_gap(row, anchor, n_p, threshold, role, tokens)
    cache.close()


def samples_of(activations, threshold, role):
    """The samples in which each feature is active, one row at a time."""
    found = [set() for _ in range(N_FEATURES)]
    for s, r, f, peak in zip(*activations[:4], strict=True):
        if peak > np.float32(threshold) and role in (EVERY_ROLE, ROLES[r]):
            found[f].add(int(s))
    return found


def check_gap(row, anchor, n_anchor, threshold, role, tokens):
    mine = anchor.feature == row["feature"]
    if role != EVERY_ROLE:
        mine &= anchor.role == ROLES.index(role)
    there, here = (1000, tokens) if role == EVERY_ROLE else (333, tokens // 3)
    n = len(n_anchor[row["feature"]])
    assert (row["n_anchor"], row["n_dataset"]) == (n, 0)
    assert row["anchor_peak"] == anchor.peak[mine].max()
    assert row["expected"] == pytest.approx(n * here / there)
    assert row["chance"] == pytest.approx(math.exp(-n * here / there))
    assert row["near"] is None  # neither near misses nor an SAE in this world
    strength = row["anchor_peak"] / np.float32(threshold) if threshold else math.inf
    expected = "artefact" if strength < 1.1 else "borderline" if row["chance"] > 0.05 else "robust"
    assert row["badge"] == expected == str(coverage.badge(row["chance"], math.nan, strength))


# ---- what cannot be compared --------------------------------------------------------------------


def test_runs_of_different_encoders_are_not_compared(tmp_path):
    cache, one, other = two_runs(tmp_path, {"encoder": "a"}, {"encoder": "b"})
    with pytest.raises(InputError, match="one and other cannot be compared.*different encoders"):
        compare.coverage_of(cache, one, other, relevant=np.ones(N_FEATURES, bool))
    with pytest.raises(InputError, match="different encoders"):
        compare.changes(cache, one, other)
    cache.close()


def test_runs_over_different_roles_are_compared_by_a_role_they_share(tmp_path):
    cache, one, other = two_runs(tmp_path, {}, {"role": "user"})
    relevant = np.ones(N_FEATURES, bool)
    with pytest.raises(InputError, match="choose one role both have"):
        compare.coverage_of(cache, one, other, relevant=relevant)
    assert compare.coverage_of(cache, one, other, role="user", relevant=relevant).fac == 1
    cache.close()


def test_without_content_tokens_chance_is_unknown(tmp_path):
    cache, one, other = two_runs(tmp_path, {"tokens": 0}, {}, other=made_of(1, 1.0))
    rows, _ = compare.gap_table(cache, one, other, relevant=np.ones(N_FEATURES, bool))
    assert [(r["feature"], r["chance"], r["expected"]) for r in rows] == [(0, None, None)]
    cache.close()


def two_runs(folder, first, second, other: Activations | None = None):
    runs = Runs(Workspace(folder))
    found = [
        publish_activations(runs, "one", made_of(0, 1.0), **SIZES, **first),
        publish_activations(runs, "other", other or made_of(0, 1.0), **SIZES, **second),
    ]
    for run in found:
        build(runs, run, folder / "cache")
    return Cache(folder / "cache"), *found


def test_a_judge_that_left_something_out_is_told_in_words(tmp_path):
    place = toy_workspace(tmp_path)
    runs, handle = Runs(place), Cache(place.cache)
    anchor = runs.resolve("measure", "toy-anchor")
    assert compare.judged_words(runs, handle, anchor, TASK) == "", "nobody was asked"
    publish_relevance(runs, anchor, {3: "yes", 6: "no", 7: "unreadable"})
    said = compare.judged_words(runs, handle, anchor, TASK)
    assert "asked about 3 of 11 features that fire, 1 of its replies could not be read" in said
    publish_relevance(runs, anchor, dict.fromkeys(range(11), "no"), attempt=1)
    assert compare.judged_words(runs, handle, anchor, TASK) == ""
    assert compare.judged_words(runs, handle, anchor, "all") == ""
