"""RQ2: correlations with others held equal, planted and absent; subsets; a run, stopped once."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, pearsonr, rankdata, spearmanr

from fac.config import EXPERIMENTS, ExperimentSpec, Workspace
from fac.errors import Cancelled, InputError
from fac.experiments import experiment
from fac.experiments.heads import FEATURES, STATES
from fac.experiments.kinds.rq2 import (
    BALANCE,
    EQUAL,
    FAC,
    LEAST,
    MEASURES,
    NULL,
    POSITIVE,
    ROWS,
    SHARED,
    SHUFFLED,
    STRICT,
    TOKENS,
    material,
    measures,
    subset,
)
from fac.experiments.relations import Sample, smallest_visible
from fac.manifest import ExperimentFacts
from fac.store.runs import Runs
from tests.test_experiments import DOORS, figures_of, quiet, rows_of
from tests.toy import label_samples, toy_workspace

KIND = EXPERIMENTS["rq2"]


# --- correlations ---------------------------------------------------------------------------------


@given(st.integers(0, 99), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_correlation_is_that_of_scipy(seed, ranked):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 9, 40).astype(float)
    y = x + rng.normal(0, 4, 40)
    relation = Sample(y, ranked=ranked, resamples=200).relation(x)
    theirs = (spearmanr if ranked else pearsonr)(x, y)
    assert relation.value == pytest.approx(theirs.statistic)
    assert relation.p == pytest.approx(theirs.pvalue, abs=0.05)
    assert relation.low < relation.value < relation.high


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_what_is_held_equal_is_taken_out_by_regression(seed):
    rng = np.random.default_rng(seed)
    x, y, held = rng.normal(size=(3, 50))
    ranks = [rankdata(values) for values in (x, y)]
    powers = np.vander(rankdata(held) / 50, 4)
    left = [r - powers @ np.linalg.lstsq(powers, r, rcond=None)[0] for r in ranks]
    sample = Sample(y, [held], ranked=True, resamples=5)
    assert sample.resampled(x)[0] == pytest.approx(pearsonr(*left).statistic)
    assert math.isnan(sample.resampled(held)[0])  # nothing is left of it
    assert math.isnan(sample.resampled(np.ones(50))[0])


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 60))
    sample = Sample(x + y, ranked=True, resamples=50)
    assert (sample.resampled(x) - sample.resampled(3 * x)) == pytest.approx(0)


def test_intervals_hold_what_is_true_and_chance_has_an_even_p():
    rng = np.random.default_rng(1)
    chances, inside = [], 0
    for _ in range(120):
        held, noise, x = rng.normal(size=(3, 60))
        y = np.exp(held) + 0.3 * noise
        relation = Sample(y, [held], ranked=True, resamples=200).relation(x + held)
        chances.append(relation.p)
        inside += relation.low <= 0 <= relation.high
    assert kstest(chances, "uniform").pvalue > 0.01
    assert inside > 0.88 * 120


def test_the_smallest_visible_correlation_is_seen_four_times_of_five():
    true = smallest_visible(60)
    assert true == pytest.approx(math.tanh(2.8016 / math.sqrt(57)), abs=1e-4)
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(200):
        x, noise = rng.normal(size=(2, 60))
        y = true * x + math.sqrt(1 - true**2) * noise
        seen += Sample(y, ranked=False, resamples=0).p(x) < 0.05
    assert 0.7 < seen / 200 < 0.9


# --- planted ones ---------------------------------------------------------------------------------


def planted(outcome, n=150, seed=0):
    """Rows of a piece as `measure` gives them, whose AUPRC is a function of their figures; FAC and
    that of random features grow with tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        tokens = rng.uniform(500, 2500)
        fac, shuffled = (1 - math.exp(-tokens / 1500) + rng.normal(0, 0.05) for _ in range(2))
        figures = {FAC: fac, SHUFFLED: shuffled, TOKENS: tokens, ROWS: round(tokens / 25)}
        figures[POSITIVE] = rng.uniform(0.2, 0.8)
        figures[BALANCE] = min(figures[POSITIVE], 1 - figures[POSITIVE])
        figures["auprc"] = outcome(figures, rng)
        about = {"outcome": STATES, "size": n, "draw": number, "arm": "subset"}
        rows.append({**about, "figures": figures})
    return rows


def spec_of(measure="measure-0123456789ab", **how):
    about = {"name": "rq2", "label": "1", "threshold": 0.5, "labels": (6, 16), "subsets": 30}
    return ExperimentSpec(measure=measure, **{**about, **how})


def answer_to(rows):
    """Effects by name and arm, and what is said."""
    spec = spec_of(subsets=len(rows))
    effects = KIND.effects(spec, None, rows)
    facts = ExperimentFacts(name="comments", n_rows=900, n_positive=400, n_test=300)
    by = {(row["outcome"].split("; ")[1], row["arm"], row["against"]): row for row in effects}
    return by, KIND.says(effects, facts, spec)


def test_an_outcome_that_depends_on_coverage_is_related_to_it():
    by, said = answer_to(planted(lambda row, rng: row[FAC] + rng.normal(0, 0.05)))
    for name in ("Spearman", "Pearson"):
        assert by[name, FAC, ""]["p"] < 0.01 < by[name, FAC, STRICT]["low"]
        assert by[name, FAC, EQUAL]["low"] > 0.3
        assert by[name, FAC, SHUFFLED]["low"] > 0
        assert by[name, SHUFFLED, STRICT]["p"] > 0.01
    assert "coverage is related to performance (" in said.conclusion


@pytest.mark.parametrize("bent", [lambda t: t, np.sqrt, lambda t: t**3])
def test_an_outcome_that_depends_on_tokens_alone_is_not_credited_to_coverage(bent):
    by, said = answer_to(
        planted(lambda row, rng: bent(row[TOKENS] / 2500) + rng.normal(0, 0.05), seed=3)
    )
    assert by["Spearman", FAC, ""]["low"] > 0.5
    assert by["Spearman", FAC, EQUAL]["low"] < 0 < by["Spearman", FAC, EQUAL]["high"]
    assert ("Spearman", TOKENS, EQUAL) not in by
    assert "coverage is related" not in said.conclusion
    assert "more tokens are seen to help" in said.controls


def test_an_outcome_that_depends_on_labels_is_not_credited_to_what_goes_with_them():
    rows = planted(lambda row, rng: row[BALANCE] + rng.normal(0, 0.02))
    for row in rows:
        row["figures"][FAC] += row["figures"][BALANCE]
    by, said = answer_to(rows)
    assert by["Spearman", FAC, EQUAL]["low"] > 0.3
    strict = by["Spearman", FAC, STRICT]
    assert strict["low"] < 0 < strict["high"]
    assert "coverage is related" not in said.conclusion


def test_what_all_features_share_is_not_said_of_these_features():
    rows = planted(lambda row, rng: row[FAC] + rng.normal(0, 0.02))
    for row in rows:
        row["figures"][SHUFFLED] = row["figures"][FAC]
    by, said = answer_to(rows)
    assert by["Spearman", FAC, SHUFFLED]["difference"] == pytest.approx(0)
    assert "not surely more than that of random features" in said.conclusion


def test_shuffled_outcomes_go_with_nothing():
    chances = []
    for seed in range(20):
        rows = planted(lambda row, rng: rng.random(), n=60, seed=seed)
        by, _ = answer_to(rows)
        chances.append(by["Spearman", FAC, STRICT]["p"])
        null = by["Spearman", NULL, STRICT]
        assert null["low"] < 0 < null["high"] and null["p"] > 1e-4
    assert kstest(chances, "uniform").pvalue > 0.01


def test_figures_that_never_change_are_left_out_and_said():
    rows = planted(lambda row, rng: rng.random(), n=40)
    for row in rows:
        row["figures"][FAC] = 1.0
    by, said = answer_to(rows)
    assert not [key for key in by if key[1] in (FAC, NULL)]
    assert "cannot be told" in said.conclusion and "say the same of every subset (FAC," in said.note


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    chats, names = rows_of()
    place = toy_workspace(tmp_path_factory.mktemp("rq2"), samples={"comments": chats})
    runs = Runs(place)
    label_samples(runs, "comments", [*names[:-6], *[None] * 6])
    return runs, runs.resolve("measure", "comments")


@pytest.fixture(scope="module")
def subjects(measured, tmp_path_factory):
    runs, measure = measured
    return material(spec_of(measure), runs, DOORS, tmp_path_factory.mktemp("scratch"))


def test_subsets_have_all_breadths_both_labels_and_no_test_row(subjects):
    spec = spec_of(subsets=80)
    sets = [subset(spec, subjects, number) for number in range(80)]
    train, positive = subjects.rows.train, subjects.rows.positive
    for chosen in sets:
        assert set(np.flatnonzero(chosen)) <= set(train)
        assert LEAST <= positive[chosen].sum() <= chosen.sum() - LEAST
    fac = [measures(subjects, chosen, 0)[FAC] for chosen in sets]
    assert min(fac) < 0.5 and max(fac) == 1
    again = subset(spec, subjects, 7)
    assert (again == sets[7]).all() and (again != sets[8]).any()


def test_tokens_are_equal_where_that_is_asked_for(subjects):
    tokens = subjects.rows.pool.tokens
    spread = {}
    for equal in (False, True):
        spec = replace(spec_of(), equal_tokens=equal)
        spent = [tokens[subset(spec, subjects, number)].sum() for number in range(40)]
        spread[equal] = max(spent) - min(spent)
    longest = tokens.max()
    assert spread[True] <= 2 * longest < spread[False]


def test_the_measures_of_a_subset_by_hand(subjects):
    rows = subjects.rows.train[:5]
    chosen = np.isin(np.arange(len(subjects.rows.positive)), rows)
    figures = measures(subjects, chosen, 0)
    assert set(figures) == {*MEASURES, POSITIVE}
    row, feature = subjects.rows.pool.pairs
    relevant = set(subjects.rows.pool.relevant.tolist())
    fires = set(feature[np.isin(row, rows)].tolist()) & relevant
    assert figures[FAC] == len(fires) / len(relevant)
    in_train = np.isin(row, subjects.rows.train)
    times = {f: int((feature[in_train] == f).sum()) for f in relevant}
    by_frequency = sum(times[f] for f in fires) / sum(times.values())
    assert figures["FAC by frequency"] == pytest.approx(by_frequency)
    assert figures[TOKENS] == subjects.rows.pool.tokens[rows].sum() and figures[ROWS] == 5
    assert 0 < figures["FAC by magnitude"] <= 1 and 0 < figures["no certain gap"] <= 1
    nearly = np.isin(np.arange(len(chosen)), subjects.rows.train[1:])
    assert (
        measures(subjects, nearly, 0)[FAC] == measures(subjects, nearly, 0)["no certain gap"] == 1
    )


def test_a_stopped_run_goes_on_and_ends_in_the_same_tables(measured):
    runs, measure = measured
    spec = spec_of(measure)

    def stop(done, total, note=""):
        if done == 11:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=DOORS, progress=stop)
    run = experiment(spec, runs=runs, doors=DOORS, progress=quiet)
    rows = figures_of(runs, run)
    assert len(rows) == 2 * 30 and {row["outcome"] for row in rows} == {STATES, FEATURES}
    effects = runs.table(run, "effects").to_pylist()
    heads = {
        SHARED.format(head=h, name=n) for h in (STATES, FEATURES) for n in ("Spearman", "Pearson")
    }
    assert {row["outcome"] for row in effects} == heads
    assert all(math.isfinite(row[name]) for row in effects for name in ("value", "low", "high"))
    again = Runs(Workspace(runs.root.parent / "again"))
    again.root.mkdir(parents=True)
    for step in ("dataset", "measure", "sae"):
        (again.root / step).symlink_to(runs.root / step)
    assert experiment(spec, runs=again, doors=DOORS, progress=quiet) == run
    for name in ("results", "effects"):
        assert again.table(run, name) == runs.table(run, name)


def test_what_the_data_show_is_one_sentence_a_head(measured):
    runs, measure = measured
    run = experiment(spec_of(measure), runs=runs, doors=DOORS, progress=quiet)
    manifest = runs.manifest(run)
    rows = runs.table(run, "effects").to_pylist()
    conclusion, controls, note = KIND.says(rows, manifest.facts, manifest.spec)
    assert conclusion.count("Spearman raw") == 2 and "tokens alone" in conclusion
    assert "nan" not in (conclusion + controls + note)
    assert "30 subsets show correlations from about 0.62 on" in controls
    assert "rows without a label (6)" in note


def test_too_few_subsets_are_a_sentence(measured):
    with pytest.raises(InputError, match="at least 30 subsets"):
        spec_of(subsets=20)
