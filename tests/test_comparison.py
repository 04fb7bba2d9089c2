"""fac.questions.comparison: the toy world by eye, and what cannot be compared."""

import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fac.config import Workspace
from fac.errors import InputError
from fac.questions import comparison as comparison_module
from fac.questions import firing
from fac.questions.comparison import (
    Comparison,
    by_role,
    certainty,
    change,
    coverage,
    curve,
    growth_of,
    telling_curve,
    telling_threshold,
)
from fac.questions.gaps import gap_page
from fac.questions.relevance import Relevance, read_relevance, relevant_set
from fac.questions.shares import by_group, weighted
from fac.schema import EVERY_ROLE, Activations
from fac.store import open_stores
from fac.store.cache import build
from tests.test_cache import N_FEATURES, N_SAMPLES, made_of
from tests.toy import TASK, WORDS, fac_of, publish_activations, toy_workspace

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]
SIZES = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}


ALL_PAIRS = tuple((sample, feature) for sample in range(N_SAMPLES) for feature in range(6))


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


def made(*pairs):
    """Activations of peak 1 in these samples of these features."""
    sample, feature = np.array(pairs, int).reshape(-1, 2).T
    ones = np.ones(len(sample), int)
    return Activations(sample, ones, feature, ones.astype(np.float32), 0 * ones, ones)


def published(folder, *activations, n_samples=N_SAMPLES, **facts):
    """The stores, and a measure run of each with its cache: the first is called one."""
    stores = open_stores(Workspace(folder), remember=False)
    runs = []
    sizes = {"n_features": N_FEATURES, "n_samples": n_samples}
    for name, each in zip(("one", "two", "three"), activations, strict=False):
        runs.append(publish_activations(stores.runs, name, each, **sizes, **facts))
        build(stores.runs, runs[-1], stores.runs.workspace.cache)
    return stores, runs


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
    was = Comparison(anchor, anchor)
    replaced = change(stores, was, Comparison(anchor, seed))
    added = change(stores, was, Comparison(anchor, anchor, added=(seed,)))
    assert (replaced.lost.tolist(), added.lost.tolist()) == (MISSING, [])
    assert (replaced.opened.tolist(), added.opened.tolist()) == (MISSING, [])
    assert added.gained.tolist() == replaced.gained.tolist() == []
    grown = change(stores, Comparison(*toy), Comparison(*toy, added=(anchor,)))
    assert grown.gained.tolist() == grown.closed.tolist() == MISSING
    assert (grown.before.n_missing, grown.after.n_missing) == (6, 0)


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


def test_a_change_names_what_was_gained_and_lost(stores, toy):
    anchor, seed = toy
    grown = change(stores, Comparison(anchor, seed), Comparison(anchor, anchor))
    assert (grown.gained.tolist(), grown.lost.tolist()) == (MISSING, [])
    back = change(stores, Comparison(anchor, anchor), Comparison(anchor, seed))
    assert (back.lost.tolist(), back.gained.tolist()) == (MISSING, [])
    above = change(stores, Comparison(anchor, seed, threshold=1.0), Comparison(anchor, anchor))
    assert above.gained.tolist() == [5, 8], "by the settings of the first"
    alike = change(stores, Comparison(seed, seed), Comparison(seed, anchor))
    assert alike.gained.tolist() == MISSING and alike.closed.tolist() == [], (
        "no gaps of this anchor"
    )


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


# ---- how far to believe it ----------------------------------------------------------------------


def matrix(stores, run, threshold=0.0, role=None):
    """What fires in which sample, from the run's own table: bool, samples x features."""
    about = stores.cache.summary(run)
    fires = np.zeros((about["n_samples"], about["n_features"]), bool)
    for row in stores.runs.table(run, "activations").to_pylist():
        if row["peak"] > threshold and role in (None, row["role"]):
            fires[row["sample"], row["feature"]] = True
    return fires


def share_of(anchor, dataset):
    shown = anchor.any(axis=0)
    return (shown & dataset.any(axis=0)).sum() / shown.sum()


def leaving_out(anchor, dataset):
    """The half-width of the jackknife's interval, one sample left out at a time."""
    left = [share_of(anchor, np.delete(dataset, i, axis=0)) for i in range(len(dataset))]
    right = [share_of(np.delete(anchor, j, axis=0), dataset) for j in range(len(anchor))]
    variance = sum(
        (len(f) - 1) / len(f) * sum((x - np.mean(f)) ** 2 for x in f) for f in (left, right)
    )
    return 1.959964 * math.sqrt(variance)


@pytest.mark.parametrize(("threshold", "role"), [(0.0, None), (1.0, None), (0.0, "user")])
def test_the_interval_is_that_of_leaving_samples_out(stores, toy, threshold, role):
    asked = Comparison(*toy, threshold=threshold, role=role or EVERY_ROLE)
    features = relevant_set(stores, toy[0], asked.relevance, asked.role)
    sides = [matrix(stores, run, threshold, role)[:, features] for run in toy]
    interval = certainty(stores, asked).interval
    half = leaving_out(*sides)
    assert interval.value == coverage(stores, asked).fac == pytest.approx(share_of(*sides))
    assert interval.low == pytest.approx(max(interval.value - half, 0))
    assert interval.high == pytest.approx(min(interval.value + half, 1))


def test_the_interval_of_a_union_leaves_samples_of_either_out(tmp_path):
    one, other, more = (made(*pairs) for pairs in (ALL_PAIRS, [(0, 0), (1, 1)], [(0, 1), (1, 2)]))
    stores, runs = published(tmp_path, one, other, more)
    asked = Comparison(*runs[:2], added=(runs[2],), relevance=listed(*range(N_FEATURES)))
    anchor, *dataset = (matrix(stores, run) for run in runs)
    half = leaving_out(anchor, np.concatenate(dataset))
    interval = certainty(stores, asked).interval
    assert (interval.value, interval.high) == (0.5, pytest.approx(min(0.5 + half, 1)))
    assert certainty(stores, replace(asked, added=(runs[1],))) == certainty(
        stores, replace(asked, added=())
    ), "what is added twice is there once"
    stores.cache.close()


def test_the_yardstick_is_what_random_draws_of_the_anchor_reach(tmp_path):
    rng = np.random.default_rng(0)
    n, pairs = 40, [np.argwhere(rng.random((40, 6)) < rate) for rate in (0.08, 0.02)]
    stores, runs = published(tmp_path, *(made(*rows) for rows in pairs), n_samples=n)
    asked = Comparison(*runs, relevance=listed(*range(N_FEATURES)))
    anchor, dataset = (matrix(stores, run) for run in runs)
    reached, against = [], []
    for _ in range(2000):
        order = rng.permutation(n)
        other = anchor[order[20:]]
        reached.append(share_of(other, anchor[order[:20]]))
        against.append(share_of(other, dataset[rng.permutation(n)[:20]]))
    yardstick = certainty(stores, asked).yardstick
    assert "larger than half" in certainty(stores, asked).note
    assert yardstick.median == pytest.approx(np.median(reached), abs=0.17)
    assert yardstick.against == pytest.approx(np.mean(against), abs=0.05)
    assert certainty(stores, asked).yardstick == yardstick, "draws are the same every time"
    stores.cache.close()


@pytest.mark.parametrize("larger", [False, True])
def test_a_large_anchor_is_asked_about_some_features(tmp_path, monkeypatch, larger):
    rng = np.random.default_rng(0)
    rates = np.array([0.5, 0.2, 0.1, 0.06, 0.04, 0.03])
    sides = [np.argwhere(rng.random((60, 6)) < rates * factor) for factor in (1, 0.8)]
    kept = sides[1] if larger else sides[1][sides[1][:, 0] < 20]
    stores, runs = published(tmp_path, made(*sides[0]), made(*kept), n_samples=60)
    if not larger:
        monkeypatch.setattr(
            comparison_module, "content_tokens", lambda _, of, __: 420 if runs[0] in of else 140
        )
    asked = Comparison(*runs, relevance=listed(*range(N_FEATURES)))
    whole = certainty(stores, asked)
    assert "features" not in whole.note
    monkeypatch.setattr(firing, "PAIRS_READ", 40)
    monkeypatch.setattr(firing, "FEATURES_TOGETHER", 1)
    some = certainty(stores, asked)
    assert re.search("drawn from [1-5] of 6 features and carried over to the others", some.note)
    assert some.interval == whole.interval
    assert some.yardstick.median == pytest.approx(whole.yardstick.median, abs=0.12)
    assert some.yardstick.against == pytest.approx(whole.yardstick.against, abs=0.12)
    stores.cache.close()


@pytest.mark.parametrize(
    ("sides", "settings", "why", "interval"),
    [
        (((0, 0), (0, 0)), {"n_samples": 1}, "one has one sample.*no interval", False),
        (
            (ALL_PAIRS, ((0, 0),)),
            {"threshold": 9},
            "No relevant feature fires in one above 9",
            False,
        ),
        ((ALL_PAIRS, ((0, 0),)), {"min_support": 2}, "more than one sample a feature", False),
        ((ALL_PAIRS, ((0, 0),)), {"relevance": listed(2)}, "One relevant feature", True),
        ((((0, 0),), ((0, 0),)), {}, "One sample of one alone fires all", False),
        ((((0, 0), (1, 0)), ((0, 0),)), {}, "One relevant feature", True),
        ((((0, 0),), ((0, 0),)), {}, "show none of these features in most draws", False),
        ((ALL_PAIRS, ()), {}, "No single sample makes a difference", True),
        ((ALL_PAIRS, ((0, 0),)), {"tokens": 0}, "no content tokens: no yardstick", True),
        ((ALL_PAIRS, ((0, 0),)), {"n_samples": 3}, "too few for halves", True),
    ],
)
def test_what_is_not_defined_is_a_sentence(tmp_path, sides, settings, why, interval):
    asked = dict(settings)
    made_with = {key: asked.pop(key) for key in ("n_samples", "tokens") if key in asked}
    n = made_with.get("n_samples", N_SAMPLES)
    pairs = [[p for p in np.reshape(side, (-1, 2)).tolist() if p[0] < n] for side in sides]
    stores, runs = published(tmp_path, *(made(*rows) for rows in pairs), **made_with)
    result = certainty(
        stores, Comparison(*runs, **{"relevance": listed(*range(N_FEATURES)), **asked})
    )
    assert re.search(why, result.note)
    assert math.isfinite(result.interval.low) == interval
    if not math.isfinite(result.yardstick.median):
        assert "yardstick" in result.note or "nothing to cover" in result.note
    stores.cache.close()


def test_an_anchor_that_is_the_dataset_lacks_nothing(stores, toy):
    for asked in (Comparison(toy[0], toy[0]), Comparison(*toy, added=(toy[0],))):
        result = certainty(stores, asked)
        assert result.interval.value == 1 and math.isnan(result.yardstick.median)
        assert "toy-anchor contains it, so nothing can be missing" in result.note


def test_a_role_that_nobody_has_is_a_sentence(tmp_path, stores, toy):
    asked = Comparison(*toy, role="system", threshold=1.0)
    assert "above 1, so there is nothing to cover" in certainty(stores, asked).note
    opened, runs = published(tmp_path, made(*ALL_PAIRS), made((0, 0)), tokens=0)
    for role in ("system", "assistant"):
        asked = Comparison(*runs, role=role)
        why = f"one has no content tokens of {role}, so nothing can fire"
        assert why in certainty(opened, asked).note and why in growth_of(opened, asked).answer
    opened.cache.close()


def test_samples_on_both_sides_are_counted(tmp_path):
    """Equal texts are one sample, whatever dataset they are in."""
    texts = [f"bake number {i}" for i in range(6)]
    sides = (texts, [texts[1], "a loop", texts[4]])
    samples = {
        name: [[{"role": "user", "content": text}] for text in side]
        for name, side in zip(("one", "two"), sides, strict=True)
    }
    opened = open_stores(toy_workspace(tmp_path, samples=samples), remember=False)
    runs = [opened.runs.resolve("measure", name) for name in samples]
    asked = Comparison(*runs, relevance=listed(0))
    assert certainty(opened, asked).note.startswith("One relevant feature fires in the anchor")
    assert "2 samples of two are in one too" in certainty(opened, asked).note
    opened.cache.close()


def test_growth_goes_back_by_random_parts_and_forward_to_twice_the_samples(stores, toy):
    asked = Comparison(*toy)
    result = growth_of(stores, asked)
    features = relevant_set(stores, toy[0], asked.relevance)
    seed = matrix(stores, toy[1])[:, features & matrix(stores, toy[0]).any(axis=0)]
    back = [row for row in result.rows if not row["forecast"]]
    assert back[0]["size"] == 1 and back[0]["features"] == pytest.approx(seed.sum(axis=1).mean())
    assert (back[-1]["size"], back[-1]["times"], back[-1]["features"]) == (16, 1, 4)
    ahead = [row for row in result.rows if row["forecast"]]
    assert [row["times"] for row in ahead] == [1.25, 1.5, 1.75, 2] and ahead[-1]["size"] == 32
    # All of its four words are in six samples: nothing is rare, so nothing is to come.
    assert ahead[-1]["features"] == ahead[-1]["high"] == 4
    assert result.answer.startswith(
        "Twice as many samples like these would cover about 0 of the 6 features it lacks (0 to 0): "
    )


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        (ALL_PAIRS, "It lacks none of the 6 features"),
        ((), "It shows none of them: .* cannot be told"),
        (((0, 0),), "about 1 of the 5 features it lacks .*: a third or less"),
        (((0, 0), (1, 1)), "about 2 of the 4 .*: between one and two thirds"),
        (((0, 0), (1, 1), (2, 2)), "about 3 of the 3 .*: more than two thirds"),
    ],
)
def test_growth_answers_in_a_sentence(tmp_path, pairs, answer):
    stores, runs = published(tmp_path, made(*ALL_PAIRS), made(*pairs))
    asked = Comparison(*runs, relevance=listed(*range(N_FEATURES)))
    assert re.search(answer, growth_of(stores, asked).answer)
    nothing = growth_of(stores, replace(asked, threshold=9.0))
    assert nothing.rows == [] and "nothing to cover" in nothing.answer
    stores.cache.close()


# ---- what cannot be compared --------------------------------------------------------------------


def test_runs_of_different_encoders_are_not_compared(tmp_path):
    stores, runs = two_runs(tmp_path, {"encoder": "a"}, {"encoder": "b"})
    with pytest.raises(InputError, match="one and other cannot be compared.*different encoders"):
        coverage(stores, Comparison(*runs))
    with pytest.raises(InputError, match="different encoders"):
        change(stores, Comparison(runs[0], runs[0]), Comparison(*runs))
    for ask in (certainty, growth_of, weighted, partial(by_group, by="label")):
        with pytest.raises(InputError, match="different encoders"):
            ask(stores, Comparison(*runs))
    stores.cache.close()


def test_runs_over_different_roles_are_compared_by_a_role_they_share(tmp_path):
    stores, runs = two_runs(tmp_path, {}, {"role": "user"})
    every = listed(*range(N_FEATURES))
    with pytest.raises(InputError, match="choose one role both have"):
        coverage(stores, Comparison(*runs, relevance=every))
    result = coverage(stores, Comparison(*runs, role="user", relevance=every))
    assert result.fac == fac_of(1, 1)
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
