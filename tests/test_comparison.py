"""fac.questions.comparison: the toy world by eye, and what cannot be compared."""

import math

import numpy as np
import pytest

from fac.config import Workspace
from fac.errors import InputError
from fac.questions.comparison import (
    Comparison,
    by_role,
    changes,
    coverage,
    curve,
    telling_curve,
    telling_threshold,
)
from fac.questions.gaps import gap_page
from fac.questions.relevance import Relevance, read_relevance, relevant_set
from fac.schema import Activations
from fac.store import open_stores
from fac.store.cache import build
from tests.test_cache import N_FEATURES, N_SAMPLES, made_of
from tests.toy import TASK, WORDS, fac_of, publish_activations, toy_workspace

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]
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


def listed(*features):
    """Relevance of a file that lists these features."""
    return Relevance("a file", features=features)


def test_the_seed_covers_the_kitchen_and_the_please_of_ten_words(stores, toy):
    relevant = relevant_set(stores, toy[0], Relevance())
    assert [WORDS[i] for i in np.flatnonzero(~relevant)] == ["the", "quasar"]
    result = coverage(stores, Comparison(*toy))
    assert result.fac == fac_of(4, 10)
    assert (result.n_anchor, result.n_dataset, result.n_covered, result.n_missing) == (10, 4, 4, 6)
    assert result.missing.tolist() == MISSING


def test_a_dataset_covers_itself(stores, toy):
    result = coverage(stores, Comparison(toy[0], toy[0]))
    assert result.fac == fac_of(10, 10)
    assert result.kl_smoothed == pytest.approx(math.log(1 / (0.99 + 0.01)))


def test_support_is_asked_of_the_anchor_only(stores, toy):
    result = coverage(stores, Comparison(*toy, min_support=7))
    assert result.n_anchor == 1 and result.n_covered == 1  # please: 12 samples there, 6 here
    assert stores.cache.support(toy[1], 0)[WORDS.index("please")] == 6


def test_what_is_added_takes_nothing_away(stores, toy):
    anchor, seed = toy
    replaced = changes(stores, anchor, seed)
    added = changes(stores, anchor, seed, added=True)
    assert replaced["n_lost"] == 6 and added["n_lost"] == 0
    assert added["gained"] == replaced["gained"] == []
    grown = changes(stores, seed, anchor, added=True)
    assert grown["gained"] == MISSING
    first = grown["gained_first"][0]
    n_anchor = stores.cache.support(anchor, 0.0)
    assert first["n_after"] == n_anchor[first["feature"]], "the seed has none"


def test_what_would_be_added_counts_as_the_datasets_own(stores, toy):
    anchor, seed = toy
    alone = coverage(stores, Comparison(*toy))
    both = coverage(stores, Comparison(*toy, added=(anchor,)))
    assert (both.fac, both.n_missing) == (fac_of(10, 10), 0) and alone.n_missing == 6
    assert coverage(stores, Comparison(*toy, added=(seed,))).fac == alone.fac


def test_the_curve_is_the_coverage_at_each_threshold(stores, toy):
    rows = curve(stores, Comparison(*toy, threshold=0.7))
    assert [row["threshold"] for row in rows] == stores.cache.summary(toy[0])["thresholds"]
    assert rows[0] == {
        "threshold": 0,
        "fac": fac_of(4, 10),
        "n_anchor": 10,
        "n_covered": 4,
        "n_missing": 6,
    }
    # Above 1 only what is said with an exclamation mark: bake!, loop!, train!
    assert all((row["n_anchor"], row["n_covered"]) == (3, 1) for row in rows[1:])


def test_a_curve_is_shown_as_far_as_a_tenth_of_the_anchor_is_left(stores, toy):
    rows, top = curve(stores, Comparison(*toy)), telling_threshold(stores, *toy)
    assert top == max(rows[-1]["threshold"], 0.1), "three of ten are more than a tenth"
    assert telling_curve(stores, Comparison(*toy)) == [r for r in rows if r["threshold"] <= top]


def test_coverage_by_role_counts_that_roles_tokens_only(stores, toy):
    system, user, assistant = by_role(stores, Comparison(*toy, role="user"))
    assert (system["role"], system["fac"], system["n_anchor"]) == ("system", fac_of(0, 1), 1)
    # Users say bake, oven, recipe, python, function, train, please and, in three of four, the.
    assert (user["n_anchor"], user["n_missing"]) == (8, 3)
    assert (assistant["n_anchor"], assistant["n_missing"]) == (9, 6)


def test_an_anchor_silent_at_a_threshold_has_undefined_coverage(stores, toy):
    comparison = Comparison(*toy, threshold=1.5, relevance=listed(*range(12)))
    assert math.isnan(coverage(stores, comparison).fac)
    assert gap_page(stores, comparison) == ([], 0)


def test_changes_name_what_was_gained_and_lost(stores, toy):
    anchor, seed = toy
    grown = changes(stores, seed, anchor)
    assert (grown["gained"], grown["n_gained"], grown["lost"]) == (MISSING, 6, [])
    assert grown["gained_first"][0] == {
        "feature": 3,
        "label": "python",
        "n_before": 0,
        "n_after": 6,
    }
    back = changes(stores, anchor, seed)
    assert (back["lost"], back["gained"], back["n_lost"]) == (MISSING, [], 6)
    assert back["lost_first"][0]["label"] == "python" and back["lost_first"][0]["n_before"] == 6
    assert changes(stores, seed, anchor, threshold=1.0)["gained"] == [5, 8]


def test_curve_and_roles_count_within_the_task(stores, toy):
    run = read_relevance(stores, toy[0], TASK).run
    comparison = Comparison(*toy, relevance=Relevance(TASK, run, ((0, "yes"),), maybe=True))
    assert curve(stores, comparison)[0] == {
        "threshold": 0,
        "fac": fac_of(1, 6),
        "n_anchor": 6,
        "n_covered": 1,
        "n_missing": 5,
    }
    system, user, assistant = by_role(stores, comparison)
    assert (system["n_anchor"], system["n_covered"]) == (1, 0)  # python
    assert (user["n_anchor"], user["n_covered"]) == (3, 1)  # bake, python, function
    assert assistant["n_anchor"] == 6


def test_an_answer_is_remembered_by_all_that_was_asked(tmp_path):
    """A coverage with other settings, or with another person's verdict, is another question."""
    stores = open_stores(toy_workspace(tmp_path, explained=True), remember=True)
    toy = [stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed")]
    run = read_relevance(stores, toy[0], TASK).run
    first = coverage(stores, Comparison(*toy))
    assert coverage(stores, Comparison(*toy)) is first
    assert not first.missing.flags.writeable, "it is shared"
    others = [
        Comparison(*toy, threshold=1.0),
        Comparison(*toy, min_support=7),
        Comparison(*toy, role="user"),
        Comparison(*toy, relevance=Relevance(TASK, run)),
        Comparison(*toy, relevance=Relevance(TASK, run, maybe=True)),
        Comparison(*toy, relevance=Relevance(TASK, run, ((0, "yes"),))),
        Comparison(*toy, added=(toy[0],)),
    ]
    results = [coverage(stores, comparison) for comparison in others]
    assert [result.n_anchor for result in results] == [3, 1, 8, 4, 5, 5, 10]
    assert (results[-1].n_missing, first.n_missing) == (0, 6)
    stores.cache.close()


# ---- what cannot be compared --------------------------------------------------------------------


def test_runs_of_different_encoders_are_not_compared(tmp_path):
    stores, runs = two_runs(tmp_path, {"encoder": "a"}, {"encoder": "b"})
    with pytest.raises(InputError, match="one and other cannot be compared.*different encoders"):
        coverage(stores, Comparison(*runs))
    with pytest.raises(InputError, match="different encoders"):
        changes(stores, *runs)
    stores.cache.close()


def test_runs_over_different_roles_are_compared_by_a_role_they_share(tmp_path):
    stores, runs = two_runs(tmp_path, {}, {"role": "user"})
    every = listed(*range(N_FEATURES))
    with pytest.raises(InputError, match="choose one role both have"):
        coverage(stores, Comparison(*runs, relevance=every))
    result = coverage(stores, Comparison(*runs, role="user", relevance=every))
    assert result.fac == fac_of(1, 1)
    stores.cache.close()


def test_without_content_tokens_chance_is_unknown(tmp_path):
    stores, runs = two_runs(tmp_path, {"tokens": 0}, {}, other=made_of(1, 1.0))
    rows, _ = gap_page(stores, Comparison(*runs, relevance=listed(*range(N_FEATURES))))
    assert [(r["feature"], r["chance"], r["expected"]) for r in rows] == [(0, None, None)]
    stores.cache.close()


def two_runs(folder, first, second, other: Activations | None = None):
    """The stores and the two measure runs of a workspace."""
    stores = open_stores(Workspace(folder), remember=False)
    measures = [
        publish_activations(stores.runs, "one", made_of(0, 1.0), **SIZES, **first),
        publish_activations(stores.runs, "other", other or made_of(0, 1.0), **SIZES, **second),
    ]
    for run in measures:
        build(stores.runs, run, stores.runs.workspace.cache)
    return stores, measures
