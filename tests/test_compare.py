"""fac.compare: the toy world by eye, and random data against arrays."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fac import compare, coverage
from fac.config import Workspace
from fac.errors import BadRow, InputError
from fac.schema import EVERY_ROLE, ROLES, Activations
from fac.store.cache import Cache, build
from fac.store.runs import Runs
from tests.test_store import N_FEATURES, N_SAMPLES, firings, made_of
from tests.toy import WORDS, publish_activations, toy_workspace

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(cache, anchor, seed) of the toy workspace."""
    workspace = toy_workspace(tmp_path_factory.mktemp("toy"))
    runs, cache = Runs(workspace), Cache(workspace.cache)
    yield cache, runs.resolve("measure", "toy-anchor"), runs.resolve("measure", "toy-seed")
    cache.close()


def gaps(toy, **asked):
    relevant = compare.relevant_set("all", *toy[:2])
    return compare.gap_table(*toy, relevant=relevant, **asked)


# ---- the toy world ------------------------------------------------------------------------------


def test_the_seed_covers_the_kitchen_and_the_please_of_ten_words(toy):
    relevant = compare.relevant_set("all", *toy[:2])
    assert [WORDS[i] for i in np.flatnonzero(~relevant)] == ["the", "quasar"]
    result = compare.coverage_of(*toy, relevant=relevant)
    assert result.fac == 4 / 10
    assert (result.n_anchor, result.n_dataset, result.n_covered, result.n_missing) == (10, 4, 4, 6)
    assert result.missing.tolist() == MISSING


def test_a_dataset_covers_itself(toy):
    cache, anchor, _ = toy
    relevant = compare.relevant_set("all", cache, anchor)
    result = compare.coverage_of(cache, anchor, anchor, relevant=relevant)
    assert result.fac == 1 and result.kl_smoothed == pytest.approx(math.log(1 / (0.99 + 0.01)))


def test_support_is_asked_of_the_anchor_only(toy):
    cache, anchor, seed = toy
    asked = {"min_support": 7}
    relevant = compare.relevant_set("all", cache, anchor, **asked)
    result = compare.coverage_of(*toy, relevant=relevant, **asked)
    assert result.n_anchor == 1 and result.n_covered == 1  # please: 12 samples there, 6 here
    assert cache.support(seed, 0)[WORDS.index("please")] == 6


def test_the_curve_is_the_coverage_at_each_rung(toy):
    cache, anchor, _ = toy
    rows = compare.curve(*toy)
    assert [row["threshold"] for row in rows] == cache.summary(anchor)["thresholds"]
    assert rows[0] == {"threshold": 0, "fac": 0.4, "n_anchor": 10, "n_covered": 4, "n_missing": 6}
    # Above 1 only what is said with an exclamation mark: bake!, loop!, train!
    assert all((row["n_anchor"], row["n_covered"]) == (3, 1) for row in rows[1:])


def test_coverage_by_role_counts_that_roles_tokens_only(toy):
    system, user, assistant = compare.by_role(*toy)
    assert (system["role"], system["fac"], system["n_anchor"]) == ("system", 0.0, 1)
    # Users say bake, oven, recipe, python, function, train, please and, in three of four, the.
    assert (user["n_anchor"], user["n_missing"]) == (8, 3)
    assert (assistant["n_anchor"], assistant["n_missing"]) == (9, 6)


def test_an_anchor_silent_at_a_threshold_has_undefined_coverage(toy):
    relevant = np.ones(12, bool)
    assert math.isnan(compare.coverage_of(*toy, threshold=1.5, relevant=relevant).fac)
    assert compare.gap_table(*toy, threshold=1.5, relevant=relevant) == ([], 0)


def test_gaps_come_with_their_evidence(toy):
    cache, anchor, seed = toy
    rows, total = gaps(toy)
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


def test_a_threshold_above_the_saes_own_is_what_must_be_reached(toy):
    rows, _ = gaps(toy, threshold=1.0)
    assert [WORDS[row["feature"]] for row in rows] == ["loop", "train"]
    assert rows[1]["near"] == pytest.approx(0.8)
    assert rows[1]["badge"] == "robust"
    rows, _ = gaps(toy, threshold=1.4)
    assert {row["badge"] for row in rows} == {"artefact"}


def test_one_roles_gaps_use_that_roles_counts_peaks_and_tokens(toy):
    cache, anchor, seed = toy
    relevant = compare.relevant_set("all", cache, anchor, role="user")
    rows, total = compare.gap_table(*toy, role="user", relevant=relevant)
    assert total == 3 and {WORDS[r["feature"]] for r in rows} == {"python", "function", "train"}
    assert {row["anchor_peak"] for row in rows} == {1.0}
    said, there = (cache.summary(run)["content_tokens_by_role"]["user"] for run in (seed, anchor))
    assert {row["expected"] for row in rows} == {6 * said / there}


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", compare.GAP_SORTS)
def test_gaps_sort_by_any_column_and_equals_by_number(toy, sort, descending):
    rows, _ = gaps(toy, sort=sort, descending=descending)
    by_feature = sorted(rows, key=lambda row: row["feature"])
    assert rows == sorted(by_feature, key=lambda row: row[sort], reverse=descending)


def test_pages_of_gaps_put_together_are_all_gaps(toy):
    whole, total = gaps(toy)
    assert sum((gaps(toy, offset=o, limit=4)[0] for o in (0, 4, 8)), []) == whole
    assert gaps(toy, limit=0) == ([], total)


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
    ],
)
def test_gaps_are_found_by_label_promoted_token_or_number(toy, search, found):
    rows, total = gaps(toy, search=search)
    assert [WORDS[row["feature"]] for row in rows] == found and total == len(found)


def test_gaps_are_narrowed_to_a_badge(toy):
    rows, total = gaps(toy, badge="borderline")
    assert [WORDS[row["feature"]] for row in rows] == ["train"] and total == 1
    assert gaps(toy, badge="robust")[1] == 5
    assert gaps(toy, badge="robust", search="train") == ([], 0)


@pytest.mark.parametrize("bad", [{"sort": "x"}, {"badge": "x"}, {"offset": -1}, {"limit": -1}])
def test_a_gap_page_that_cannot_be_is_refused(toy, bad):
    with pytest.raises(InputError):
        gaps(toy, **bad)


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
def test_a_file_names_the_relevant_features(toy, tmp_path, text):
    path = tmp_path / "ids"
    path.write_text(text, "utf-8")
    relevant = compare.relevant_set(str(path), *toy[:2])
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
def test_a_line_that_names_no_feature_is_told(toy, tmp_path, text, sentence):
    path = tmp_path / "ids"
    path.write_text(text)
    with pytest.raises(BadRow, match=sentence):
        compare.relevant_set(str(path), *toy[:2])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "names no feature"),
        (b"[]", "names no feature"),
        (b"[1, 2", "begins like a JSON list but is none"),
        (b"\xff\xfe\x00\x01", "is not text"),
    ],
)
def test_a_file_without_features_is_told(toy, tmp_path, content, sentence):
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        compare.relevant_set(str(path), *toy[:2])


@pytest.mark.parametrize("given_name", ["toxicity", "", "."])
def test_a_task_cannot_be_judged_yet(toy, given_name):
    with pytest.raises(InputError, match="cannot be judged relevant .* here yet"):
        compare.relevant_set(given_name, *toy[:2])


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
            assert math.isnan(result.fac) if not p else result.fac == len(p & q) / len(p)
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
