"""Experiments on labelled rows: their arithmetic by hand, planted effects, a stop in between."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fac.config import ExperimentSpec, Workspace
from fac.diversity import density, unit, vendi_score
from fac.errors import Cancelled, InputError
from fac.experiments import Doors, experiment
from fac.experiments.arms import (
    ALL,
    ARMS,
    FAMILIES,
    FILLING,
    MORE,
    NONE,
    NULL,
    RANDOM,
    WRITTEN,
    Draw,
    Pool,
)
from fac.experiments.effects import (
    RESAMPLES,
    Resampled,
    average_precision,
    decision_accuracy,
)
from fac.experiments.heads import STATES, scores
from fac.experiments.kinds.rq1 import LORA_ARMS, MISLABELLED
from fac.experiments.sentences import rankings
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.runs import Runs
from tests.test_cli import assert_one_sentence, fac
from tests.test_jobs import ToySteps
from tests.toy import WORDS, label_samples, toy_workspace


def pool_of(fires, tokens=None):
    """Rows by the features each fires; the states are those features."""
    pairs = [(row, feature) for row, features in enumerate(fires) for feature in features]
    states = np.zeros((len(fires), 1 + max(feature for _, feature in pairs)), np.float32)
    for row, feature in pairs:
        states[row, feature] = 1
    row, feature = np.array(pairs).T
    length = np.ones(len(fires), np.int64) if tokens is None else np.array(tokens)
    return Pool((row, feature), states, length, np.unique(feature))


def draw_of(pool, begin, budget, seed=0):
    at = np.isin(np.arange(len(pool.tokens)), begin)
    return Draw(at, ~at, budget, seed)


# --- ranking and differences ----------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: any(label for _, label in rows)
    )
)
def test_average_precision_is_that_of_scikit_learn_ties_included(rows):
    score, positive = (np.array(column) for column in zip(*rows, strict=True))
    (ours,) = average_precision(score.astype(float), positive)
    assert ours == pytest.approx(average_precision_score(positive, score))


@given(st.integers(0, 1000))
def test_a_row_that_counts_twice_is_two_rows(seed):
    rng = np.random.default_rng(seed)
    score, positive = rng.random(12), np.append(rng.random(11) < 0.5, True)
    weights = rng.integers(0, 3, 12)
    weights[-1] = 1
    (ours,) = average_precision(score, positive, weights[None])
    repeated = np.repeat(np.arange(12), weights)
    assert ours == pytest.approx(average_precision_score(positive[repeated], score[repeated]))


@pytest.mark.parametrize("draws", [2, 4, 20])
def test_few_draws_make_an_interval_no_narrower_than_they_should(draws):
    values = np.random.default_rng(draws).normal(size=draws)
    areas = np.repeat(values[:, None], RESAMPLES, axis=1)  # test rows matter for nothing here
    means = Resampled(np.ones(5, bool), draws).means(areas)
    error = values.std(ddof=1) / np.sqrt(draws)  # of a mean of independent draws
    assert means.std() == pytest.approx(error, rel=0.07)
    assert means.mean() == pytest.approx(values.mean(), abs=0.1 * error)


def test_an_arm_beside_itself_differs_by_nothing_and_a_better_one_is_seen():
    rng = np.random.default_rng(0)
    positive = rng.random(120) < 0.4
    poor = np.stack([0.3 * positive + rng.random(120) for _ in range(6)])
    good = np.stack([0.9 * positive + rng.random(120) for _ in range(6)])
    resampled = Resampled(positive, 6)
    areas = resampled.areas(poor)
    assert areas.shape == (6, RESAMPLES)
    assert (resampled.means(areas - areas) == 0).all()
    better = resampled.means(resampled.areas(good)) - resampled.means(areas)
    assert np.percentile(better, 2.5) > 0


def test_which_of_two_arms_is_better_is_asked_of_short_and_of_long_runs():
    def values(outcome, size, *each):
        arms = (RANDOM, FILLING, FAMILIES, MORE)
        return [
            {"outcome": outcome, "size": size, "arm": arm, "value": value}
            for arm, value in zip(arms, each, strict=True)
        ]

    rows = [
        *values("a head", 20, 0.3, 0.2, 0.1, 0.9),
        *values("a head", 100, 0.3, 0.1, 0.2, 0.0),  # the last two exchanged; MORE is a control
        *values("LoRA", 20, 0.1, 0.2, 0.2, 0.0),  # of three pairs one tie, two the wrong way round
    ]
    words = rankings(rows, "labels")
    assert "a head at 20 as at 100 labels 0.67 of 3 pairs" in words
    assert "a head as LoRA at 20 labels 0.17 of 3 pairs" in words and "LoRA at 20 as" not in words
    assert rankings(rows[:4], "labels") == ""
    with pytest.raises(ValueError, match="fewer than two"):
        decision_accuracy({"a": 1.0}, {"a": 1.0})


# --- arms -----------------------------------------------------------------------------------------


def test_rows_are_chosen_by_what_the_beginning_lacks():
    pool = pool_of([[0], [0], [0, 1], [2, 3, 4], [1], [0]])
    chosen = ARMS[FILLING](pool, draw_of(pool, [0], 2))
    assert np.flatnonzero(chosen).tolist() == [2, 3]  # 2 before 4: the first of equal ones
    # Per token, the row of three features is dear.
    dear = pool_of([[0], [0], [0, 1], [2, 3, 4], [1], [0]], [1, 1, 1, 6, 1, 1])
    assert not ARMS[FILLING](dear, draw_of(dear, [0], 2))[3]


def test_families_of_gaps_are_filled_once_each_before_any_gap_is():
    whole, b = [*range(1, 9)], [9, 10]
    # Features 1 to 8 mostly fire together, in rows that are too dear; 9 and 10 always do.
    fires = [[0], [1, 2, 3, 4], [5, 6, 7, 8], whole, whole, whole, b, b]
    pool = pool_of(fires, [1, 1, 1, 50, 50, 50, 1, 1])
    draw = draw_of(pool, [0], 2)
    family = pool.families(draw.begin | draw.free)
    assert len({*family[1:9]}) == len({*family[9:]}) == 1
    assert len({*family}) == 3  # that of feature 0 alone, too
    assert np.flatnonzero(ARMS[FILLING](pool, draw)).tolist() == [1, 2]
    assert np.flatnonzero(ARMS[FAMILIES](pool, draw)).tolist() == [1, 6]
    # The third token goes to the gaps that are left.
    assert np.flatnonzero(ARMS[FAMILIES](pool, draw_of(pool, [0], 3))).tolist() == [1, 2, 6]
    # Families are those of rows that may be learned from: without the dear ones there are three.
    cheap = draw._replace(free=draw.free & (pool.tokens == 1))
    family = pool.families(cheap.begin | cheap.free)
    assert family[1] == family[4] != family[5] == family[8]


def test_k_center_takes_what_is_farthest():
    pool = pool_of([[0], [0], [0, 1], [1], [0]])
    assert np.flatnonzero(ARMS["k-center"](pool, draw_of(pool, [0], 1))).tolist() == [3]
    assert np.flatnonzero(ARMS["rows of its own kind"](pool, draw_of(pool, [0], 1))).tolist() == [1]


def by_hand(pool, draw, score):
    """Greedy choice of rows one by one, scored anew each time."""
    chosen = draw.begin.copy()
    while True:
        rest = np.flatnonzero(draw.free & ~chosen)
        row = max(rest, key=lambda row: (score(chosen, row), -row))
        if pool.tokens[chosen & ~draw.begin].sum() + pool.tokens[row] / 2 > draw.budget:
            return chosen & ~draw.begin
        chosen[row] = True


def scattered(seed, n=40):
    rng = np.random.default_rng(seed)
    pool = pool_of([[0]] * n, rng.integers(1, 6, n))
    pool = replace(pool, states=rng.standard_normal((n, 5)).astype(np.float32))
    free = rng.random(n) < 0.8
    free[:6] = False
    return pool, Draw(np.arange(n) < 6, free, 25, seed)


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_novel_sum_takes_what_is_most_novel_beside_what_was_taken(seed):
    pool, draw = scattered(seed)
    rows = unit(pool.states)
    sigma = density(rows, rows[draw.begin | draw.free])

    def novelty(chosen, row):
        others = np.flatnonzero(chosen)
        apart = 1 - rows[others] @ rows[row]
        order = np.argsort(apart)
        parts = (apart * np.sqrt(sigma[others]))[order]
        return (parts / np.arange(1, len(parts) + 1)).sum()

    assert (ARMS["greedy NovelSum"](pool, draw) == by_hand(pool, draw, novelty)).all()


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_the_vendi_score_is_nearly_that_of_exact_greed(seed):
    pool, draw = scattered(seed)
    pool = replace(pool, tokens=np.ones(40, np.int64))
    draw = draw._replace(budget=8)
    rows = unit(pool.states)
    exact = by_hand(
        pool, draw, lambda chosen, row: vendi_score(rows[[*np.flatnonzero(chosen), row]])
    )
    ours, chance = (
        vendi_score(rows[draw.begin | ARMS[name](pool, draw)])
        for name in ("greedy Vendi score", RANDOM)
    )
    best = vendi_score(rows[draw.begin | exact])
    assert ours > chance and best - ours < 0.15 * (best - chance)


@given(st.integers(0, 10_000))
def test_no_arm_takes_what_it_may_not_and_all_have_about_the_same_tokens(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 12, 60)
    pool = pool_of([rng.integers(0, 25, 4).tolist() + [0] for _ in range(60)], tokens)
    draw = draw_of(pool, rng.permutation(60)[:15], 60, seed)._replace(free=rng.random(60) < 0.7)
    draw = draw._replace(free=draw.free & ~draw.begin)
    for name, arm in ARMS.items():
        added = arm(pool, draw)
        assert not (added & ~draw.free).any(), name
        spent = int(tokens[added].sum())
        if name in (ALL, NONE):
            assert added.sum() == (draw.free.sum() if name == ALL else 0)
        elif name != MORE:
            assert abs(spent - draw.budget) <= 12, name
    again = ARMS[FILLING](pool, draw)
    assert (again == ARMS[FILLING](pool, draw)).all()


def test_the_control_of_random_features_knows_nothing_of_what_a_row_fires():
    pool = pool_of([[0], *[[0]] * 4, [1, 2, 3], *[[0]] * 5])
    taken = Counter()
    for seed in range(60):
        draw = draw_of(pool, [0], 1, seed)
        assert np.flatnonzero(ARMS[FILLING](pool, draw)).tolist() == [5]
        taken.update(np.flatnonzero(ARMS["random features"](pool, draw)).tolist())
    assert len(taken) == 10 and max(taken.values()) < 15


def test_a_head_learns_what_there_is_and_nothing_from_noise():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.5
    states = rng.standard_normal((300, 8)).astype(np.float32)
    states[:, 0] += 3 * positive
    learned, test = np.arange(60), np.arange(60, 300)
    chance = scores(states, positive, learned, test)
    assert average_precision_score(positive[test], chance) > 0.95
    noise = scores(states[:, 1:], positive, learned, test)
    assert abs(average_precision_score(positive[test], noise) - positive[test].mean()) < 0.12


# --- a run ----------------------------------------------------------------------------------------

KINDS = ("bake oven", "recipe please", "python function", "loop please", "river mountain", "train")
COMMON = (0.38, 0.38, 0.06, 0.06, 0.06, 0.06)


def rows_of(n=160):
    """Comments about one of six things each; every other thing is labelled 1."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(len(KINDS), n, p=COMMON)
    chats = [[{"role": "user", "content": f"{KINDS[kind]} {n}"}] for n, kind in enumerate(kinds)]
    return chats, [str(int(kind % 2)) for kind in kinds]


def states(chats):
    """Which words a text has, under noise."""
    texts = [chat[0]["content"].split() for chat in chats]
    there = np.array([[word in text for word in WORDS] for text in texts], np.float32)
    noise = [np.random.default_rng(int(text[-1])).standard_normal(len(WORDS)) for text in texts]
    return (there + 0.7 * np.array(noise)).astype(np.float32)


def classify(learned, positive, judged, recipe):
    """A model of this test that learns: a `Classify`."""
    held = states([*learned, *judged])
    labels = np.append(positive, np.zeros(len(judged), bool))
    at = np.arange(len(held))
    return scores(held, labels, at[: len(learned)], at[len(learned) :])


DOORS = Doors(states, None, classify)


class AskingSteps(ToySteps):
    """The real steps with words as features, and which of them a text has as its mean state."""

    lexicon = WORDS

    def encoder(self, spec, progress):
        words = super().encoder(spec, progress)
        words.model = SimpleNamespace(mean_states=lambda chats, told: states(chats))
        return words

    def finetuner(self, spec, note, progress):
        return SimpleNamespace(classify=classify)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    chats, names = rows_of()
    place = toy_workspace(tmp_path_factory.mktemp("experiment"), samples={"comments": chats})
    runs = Runs(place)
    label_samples(runs, "comments", [*names[:-6], *[None] * 6])
    return runs, runs.resolve("measure", "comments")


def spec_of(measure, **how):
    about = {"name": "rq1", "label": "1", "threshold": 0.5, "labels": (6, 12), "draws": 4}
    return ExperimentSpec(measure=measure, **{**about, **how})


def quiet(*_):
    """Progress of which nobody wants to hear."""


def figures_of(runs, run):
    """A row an outcome, size, draw and arm, with its figures by name."""
    rows = {}
    for row in runs.table(run, "results").to_pylist():
        about = {name: row[name] for name in ("outcome", "size", "draw", "arm")}
        rows.setdefault(tuple(about.values()), about)[row["figure"]] = row["value"]
    return [*rows.values()]


@pytest.fixture(scope="module")
def twelve(measured):
    """What `rq1` says of the comments: a run of twelve draws."""
    runs, measure = measured
    return experiment(spec_of(measure, draws=12), runs=runs, doors=DOORS, progress=quiet)


def test_every_arm_learns_and_none_sees_a_test_row(measured, twelve):
    runs, run = measured[0], twelve
    facts = runs.manifest(run).facts
    assert (facts.n_rows, facts.n_unlabelled, facts.n_leaks) == (154, 6, 0)
    rows = figures_of(runs, run)
    arms = {row["arm"] for row in rows}
    assert arms == {*ARMS, MISLABELLED}
    # Heads, sizes, draws; LoRA has fewer of each.
    assert len(rows) == 2 * 2 * 12 * len(arms) + 3 * len(LORA_ARMS)
    of_head = [row for row in rows if row["outcome"] == STATES]
    by_arm = {row["arm"]: row for row in of_head if (row["size"], row["draw"]) == (6, 0)}
    assert by_arm[NONE]["rows"] == 6 and by_arm[ALL]["fac"] == 1
    assert by_arm[NONE]["fac"] < by_arm[FILLING]["fac"] >= by_arm[RANDOM]["fac"]
    tokens = {arm: row["tokens"] for arm, row in by_arm.items()}
    assert tokens[RANDOM] == pytest.approx(2 * tokens[NONE], abs=6)
    assert tokens[FILLING] == pytest.approx(tokens[RANDOM], abs=12)


def test_positive_controls_are_seen_and_a_null_control_is_not(measured, twelve):
    runs, run = measured[0], twelve
    effects = {
        (row["outcome"], row["size"], row["arm"]): row
        for row in runs.table(run, "effects").to_pylist()
        if row["against"] == RANDOM
    }
    assert effects[STATES, 6, ALL]["low"] > 0
    assert effects[STATES, 6, MISLABELLED]["high"] < 0
    null = effects[STATES, 6, NULL]
    assert null["low"] <= 0 <= null["high"]
    beside = effects[STATES, 6, RANDOM]
    assert beside["difference"] == beside["low"] == beside["high"] == 0


def test_a_stopped_experiment_goes_on_and_ends_in_the_same_tables(measured):
    runs, measure = measured
    spec, reads = spec_of(measure, seed=3), []

    def counted(chats):
        reads.append(len(chats))
        return states(chats)

    def stop(done, total, note=""):
        if done == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=Doors(counted, None, classify), progress=stop)
    run = experiment(spec, runs=runs, doors=Doors(counted, None, classify), progress=quiet)
    assert reads == [154]
    tables = [runs.table(run, name) for name in ("results", "effects")]
    again = Runs(Workspace(runs.root.parent / "again"))
    again.root.parent.mkdir(exist_ok=True)
    for step in ("dataset", "measure", "sae"):
        (again.root / step).parent.mkdir(parents=True, exist_ok=True)
        (again.root / step).symlink_to(runs.root / step)
    assert experiment(spec, runs=again, doors=DOORS, progress=quiet) == run
    assert [again.table(run, name) for name in ("results", "effects")] == tables


def test_lora_has_the_same_beginnings_as_the_heads_and_at_full_size_all_arms(measured):
    runs, measure = measured
    seen = []

    def told(learned, positive, judged, recipe):
        seen.append((len(learned), int(positive.sum()), len(judged), recipe.rate))
        return classify(learned, positive, judged, recipe)

    doors = Doors(states, None, told)
    spec = spec_of(measure, seed=5, draws=2, rates=(1e-4, 1e-3))
    run = experiment(spec, runs=runs, doors=doors, progress=quiet)
    by_lora, by_head = (
        {
            (row["arm"], row["draw"]): row
            for row in figures_of(runs, run)
            if row["outcome"] == outcome and row["size"] == 6
        }
        for outcome in ("LoRA at 0.001", STATES)
    )
    assert {arm for arm, _ in by_lora} == {*LORA_ARMS}
    for key, row in by_lora.items():
        assert [row[n] for n in ("rows", "tokens", "positive", "fac")] == [
            by_head[key][n] for n in ("rows", "tokens", "positive", "fac")
        ]
        # What learns here is the head on the states, with other penalties for nothing else.
        assert row["auprc"] == pytest.approx(by_head[key]["auprc"], abs=1e-6)
    n_test = runs.manifest(run).facts.n_test
    assert {(judged, rate) for _, _, judged, rate in seen} == {(n_test, 1e-3)}
    assert sorted(n for n, *_ in seen) == sorted(int(row["rows"]) for row in by_lora.values())
    full = experiment(replace(spec, full=True), runs=runs, doors=doors, progress=quiet)
    of_lora = [row for row in figures_of(runs, full) if row["outcome"].startswith("LoRA")]
    assert len(of_lora) == 2 * 2 * 2 * len(ARMS)  # rates, sizes, draws
    effects = runs.table(full, "effects").to_pylist()
    assert {(r["outcome"], r["size"]) for r in effects if r["outcome"].startswith("LoRA")} == {
        (f"LoRA at {rate:g}", size) for rate in (1e-4, 1e-3) for size in (6, 12)
    }


def test_rows_that_were_written_are_an_arm_of_equal_tokens_and_are_never_chosen_by_others(tmp_path):
    chats, names = rows_of(160)
    rng = np.random.default_rng(9)
    more = [[{"role": "user", "content": f"{KINDS[i % 6]} 9{i:03}"}] for i in rng.permutation(60)]
    labels = ["1" if KINDS.index(" ".join(m[0]["content"].split()[:-1])) % 2 else "0" for m in more]
    copies = chats[:20]  # of which some test
    written = {"good": more, "wrong": more, "short": more[:2], "copied": copies + more}
    place = toy_workspace(tmp_path, samples={"comments": chats, **written})
    runs = Runs(place)
    label_samples(runs, "comments", names)
    label_samples(runs, "good", [*labels[:-4], *[None] * 4])
    label_samples(runs, "wrong", ["0" if label == "1" else "1" for label in labels])
    label_samples(runs, "short", labels[:2])
    label_samples(runs, "copied", [*names[:20], *labels])
    run_of = {name: runs.resolve("measure", name) for name in ("comments", *written)}
    written = run_of["good"], run_of["wrong"]
    spec = spec_of(run_of["comments"], written=written, draws=4, labels=(6,))
    run = experiment(spec, runs=runs, doors=DOORS, progress=quiet)
    facts = runs.manifest(run).facts
    assert (facts.n_rows, facts.n_unlabelled, facts.n_leaks) == (160, 4, 0)
    by_arm = {
        row["arm"]: row
        for row in figures_of(runs, run)
        if (row["outcome"], row["size"], row["draw"]) == (STATES, 6, 0)
    }
    assert {arm for arm in by_arm if arm.startswith(WRITTEN)} == {
        f"{WRITTEN}, good",
        f"{WRITTEN}, wrong",
    }
    for name in ("good", "wrong"):
        tokens = by_arm[f"{WRITTEN}, {name}"]["tokens"]
        assert tokens == pytest.approx(by_arm[RANDOM]["tokens"], abs=6)
    alone = experiment(replace(spec, written=()), runs=runs, doors=DOORS, progress=quiet)
    others = {
        row["arm"]: row
        for row in figures_of(runs, alone)
        if (row["outcome"], row["size"], row["draw"]) == (STATES, 6, 0)
    }
    assert others == {arm: row for arm, row in by_arm.items() if not arm.startswith(WRITTEN)}
    effects = {
        (row["outcome"], row["size"], row["arm"]): row
        for row in runs.table(run, "effects").to_pylist()
        if row["against"] == RANDOM
    }
    good, wrong = (effects[STATES, 6, f"{WRITTEN}, {name}"] for name in ("good", "wrong"))
    assert wrong["high"] < 0 and good["value"] > wrong["value"] + 0.1
    conclusion = finding(open_stores(place, remember=False), run).conclusion
    assert (
        f"{WRITTEN[0].upper()}{WRITTEN[1:]}, wrong: these teach less than random rows" in conclusion
    )
    with pytest.raises(
        InputError, match="Of the written rows, short, [0-9]+ tokens may be learned"
    ):
        of_few = replace(spec, written=(run_of["short"],))
        experiment(of_few, runs=runs, doors=DOORS, progress=quiet)
    copied = experiment(
        replace(spec, written=(run_of["copied"],)), runs=runs, doors=DOORS, progress=quiet
    )
    assert 0 < runs.manifest(copied).facts.n_leaks < 20


def test_without_a_model_lora_is_not_left_out_silently(measured):
    runs, measure = measured
    with pytest.raises(InputError, match="Nobody here can finetune"):
        experiment(spec_of(measure, seed=8), runs=runs, doors=Doors(states), progress=quiet)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": "rq5", "written": ("measure-1",)}, "rq5 takes no written rows"),
        ({"name": "rq2", "full": True}, "rq2 has one size"),
        ({"label": "7"}, "No row of comments is labelled '7'"),
        ({"labels": (60,)}, "180 are needed"),
        ({"name": "rq9"}, "There is no experiment 'rq9'"),
        ({"labels": ()}, "at least 4"),
        ({"draws": 1}, "At least 2 draws"),
        ({"test": 0.99}, "between 0.1 and 0.9"),
    ],
)
def test_data_that_cannot_answer_are_a_sentence(measured, how, words):
    runs, measure = measured
    with pytest.raises(InputError, match=words):
        experiment(spec_of(measure, **how), runs=runs, doors=DOORS, progress=quiet)


def test_rows_that_repeat_a_test_row_are_not_learned_from(tmp_path):
    chats, names = rows_of(100)
    copies = [[{"role": "user", "content": "again " + chat[0]["content"]}] for chat in chats[:30]]
    place = toy_workspace(tmp_path, samples={"comments": [*chats, *copies]})
    runs = Runs(place)
    label_samples(runs, "comments", [*names, *names[:30]])
    measure = runs.resolve("measure", "comments")
    run = experiment(spec_of(measure, labels=(6,)), runs=runs, doors=DOORS, progress=quiet)
    # Of thirty pairs about half are split between test and the rest.
    assert 5 < runs.manifest(run).facts.n_leaks < 25


@pytest.mark.model
def test_the_command_asks_the_demo_model(tmp_path, demo_model_home, monkeypatch):
    monkeypatch.setenv("FAC_MODELS", str(demo_model_home))
    chats, names = rows_of(80)
    source = tmp_path / "comments.jsonl"
    lines = [
        json.dumps({"text": chat[0]["content"], "kind": name})
        for chat, name in zip(chats, names, strict=True)
    ]
    source.write_text("\n".join(lines))
    place = Workspace(tmp_path / "place")
    fac("ingest", source, "--name", "comments", "--label-field", "kind", workspace=place)
    assert fac("measure", "comments", workspace=place).code == 0
    about = ("experiment", "rq1", "--dataset", "comments", "--label", 1)
    answer = fac(*about, "--labels", "6,12", "--draws", 2, "--json", workspace=place)
    assert answer.code == 0, answer.err
    assert len(answer.json["rows"]) == 2 * 2 * (len(ARMS) + 2) + len(LORA_ARMS) + 1
    assert answer.json["conclusion"].count("labels") >= 4
    words = fac(*about, "--labels", "6,12", "--draws", 2, workspace=place).out
    assert "rows that fill gaps" in words and "cannot be seen" in words
    assert_one_sentence(fac(*about, "--labels", "six", workspace=place))
    assert_one_sentence(fac(*about, "--threshold", "nan", workspace=place))
