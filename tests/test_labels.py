"""fac.synthesis.labels: a probe says whether a text deserves its label, and what that is worth."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fac.config import SynthesizeSpec
from fac.errors import InputError
from fac.generator.writer import Request
from fac.schema import END, MEAN, ROLES, Chat
from fac.store.runs import Runs
from fac.synthesis import labels
from fac.synthesis.checks import Checks
from fac.synthesis.doubts import UNEXPECTED
from tests.lexicon import LexiconEncoder
from tests.scripted import ScriptedWriter
from tests.test_synthesis import GAPS, World, parts, says
from tests.toy import WORDS, label_samples, revise, toy_workspace

RUDE = ("oven", "recipe")  # features 1 and 2 of the toy's words


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


def comment(number: int, rude: bool) -> Chat:
    """Rude ones mostly say `oven`, civil ones mostly `recipe`: one of ten has the other's word."""
    word = RUDE[(not rude) != (number % 10 == 0)]
    return user(f"comment {number} about the {word} of mine {'!' * (number % 3)}")


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Runs, str]:
    """120 comments, the first half rude, all but the last ten labelled."""
    chats = [comment(number, number < 60) for number in range(120)]
    workspace = toy_workspace(tmp_path_factory.mktemp("labels"), samples={"comments": chats})
    runs = Runs(workspace)
    names = ["1"] * 60 + ["0"] * 50 + [None] * 10
    label_samples(runs, "comments", names)
    return runs, runs.resolve("measure", "comments")


def test_halves_are_even_and_only_labelled_samples_teach(measured):
    samples = labels.labelled(*measured)
    assert samples is not None and samples.peaks.shape == (110, 12)
    for label, n in (("1", 60), ("0", 50)):
        of_label = samples.half[samples.labels == label]
        assert (len(of_label), of_label.sum()) == (n, n // 2)
    # `the` is in every comment with peak 1: log1p(1)
    assert np.allclose(samples.peaks[:, 10].toarray(), np.log(2))


def test_the_check_finds_the_label_and_says_what_it_is_worth(measured):
    samples = labels.labelled(*measured)
    check = labels.learn(samples, "1")
    assert check is not None and check.rows == 55 and check.decides
    assert 0.7 < check.low < check.auroc < check.high <= 1
    assert check.precision >= labels.PRECISION and check.threshold >= 0.5
    encoder = LexiconEncoder(*WORDS)
    texts = [user("oh the oven"), user("oh the recipe"), user("oh the weather")]
    peaks = labels.peak_matrix(encoder.encode(texts), 3, 12)
    rude, civil, _ = check.probabilities(peaks)
    assert rude > check.threshold > 0.5 > civil
    assert labels.agreement(samples, [peaks[0], peaks[1], peaks[0], peaks[0]], "1") == 0.75
    assert labels.agreement(samples, [], "1") is None


def test_where_there_is_nothing_to_learn_from_there_is_no_check(measured, tmp_path):
    runs, measure = measured
    samples = labels.labelled(runs, measure)
    assert labels.learn(samples, "7") is None
    few = labels.Labelled(samples.peaks[:30], samples.labels[:30], samples.half[:30])
    assert labels.learn(few, "1") is None
    workspace = toy_workspace(tmp_path, samples={"plain": [user("a"), user("b")]})
    bare = Runs(workspace)
    assert labels.labelled(bare, bare.resolve("measure", "plain")) is None


def test_the_threshold_is_the_lowest_that_is_right_often_enough():
    scores = np.array([0.9] * 8 + [0.7] * 4 + [0.6] * 9 + [0.2] * 5)
    right = np.array([True] * 8 + [False, True, True, False] + [False] * 9 + [True] * 5)
    # at .9: 8 of 8, but fewer than ten pass; at .7: 10 of 12; at .6: 10 of 21
    assert labels.threshold_of(scores, right) == (0.7, 10 / 12)
    assert labels.threshold_of(scores, ~right)[0] == np.inf
    # 96 of 100 have a label that leaves no doubt: no threshold here has
    assert labels.threshold_of(scores, right, labels.SURE)[0] == np.inf
    assert labels.threshold_of(scores, scores > 0.8, labels.PRECISION - 0.2)[0] == 0.7
    # below one half the probe itself says no
    assert labels.threshold_of(scores / 2, right)[0] == np.inf


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=40))
def test_auroc_is_scikits_and_its_interval_holds_it(rows):
    scores = np.array([score for score, _ in rows], float)
    positive = np.array([label for _, label in rows])
    if min(positive.sum(), (~positive).sum()) < 2:
        return
    area, low, high = labels.auroc(scores, positive)
    assert area == pytest.approx(roc_auc_score(positive, scores))
    assert 0 <= low <= area <= high <= 1


def test_delongs_interval_by_hand():
    """Positives 1, 3; negatives 0, 2: 3 of 4 pairs are in order. Each positive is above a half and
    all of the negatives, each negative below all and a half of the positives: both variances are
    1/8, the standard error is sqrt(1/16 + 1/16)."""
    area, low, high = labels.auroc(np.array([1.0, 3, 0, 2]), np.array([True, True, False, False]))
    assert area == 0.75 and high == 1
    assert low == pytest.approx(0.75 - 1.96 * np.sqrt(1 / 8))


# ---- in a synthesis


@pytest.fixture
def labelled_world(tmp_path) -> World:
    """An anchor whose comments say `python` and `function` where they are labelled 1, and `bake`
    and `oven` where they are not; the dataset has neither labels nor these words."""

    def comments(words: Sequence[str]) -> list[Chat]:
        tail = ["by", "the", "sea", "every", "single", "day", "of", "this", "long", "year"]
        return [
            user(" ".join(["the", word, "of", f"town{i}", "stood", *tail[: i % 10]]))
            for i in range(30)
            for word in words
        ]

    samples = {
        "anchor": [*comments(["python!", "function!"]), *comments(["bake", "oven"])],
        "seed": [user("a recipe without eggs please")],
    }
    workspace = toy_workspace(tmp_path / "work", n_features=5, samples=samples)
    label_samples(Runs(workspace), "anchor", ["1"] * 60 + ["0"] * 60)
    return World(workspace)


def test_a_label_that_the_check_does_not_confirm_is_not_set(labelled_world):
    world = labelled_world

    def mixed(request: Request) -> str:
        """What is written for `function` speaks of baking above all."""
        bakes = parts(request)[0] == "two-step" and parts(request)[1] == 4
        return says(request).replace("need some", "bake! an oven! and") if bakes else says(request)

    run = world.pairs(ScriptedWriter(mixed))
    world.approve(run, *GAPS)
    made = world.synthesize(run, ScriptedWriter(mixed), profile="toxicity")
    reasons = {v["candidate"]: v["reason"] for v in world.rows(made, "verdicts")}
    of_gap = {gap: {why for name, why in reasons.items() if f"/{gap:06d}/" in name} for gap in GAPS}
    assert "" in of_gap[3] and "label unsure" not in of_gap[3]
    assert "label unsure" in of_gap[4] and "" not in of_gap[4]
    facts = world.facts(made)
    assert facts.label_auroc == 1 and facts.label_rows == 60 and facts.label_agreement == 1
    assert facts.label_precision >= 0.8 and "label" not in facts.unchecked
    assert "unlikely" in facts.unchecked, "no model says how odd a text is"
    (sample,) = world.rows(facts.kept_dataset, "samples")
    lineage = json.loads(sample["meta"])
    assert sample["label"] == lineage["label"] == "1"
    assert lineage["label_probability"] > facts.label_threshold


def test_a_label_that_is_barely_confirmed_leaves_a_doubt(labelled_world, monkeypatch):
    """Whatever is confirmed is barely so where a thousandth more would be sure."""
    world, thresholds = labelled_world, [0.5, 0.999]
    run = world.pairs(ScriptedWriter(says))
    world.approve(run, 3)

    def of(_: np.ndarray, __: np.ndarray, least: float = labels.PRECISION) -> tuple[float, float]:
        return thresholds[least == labels.SURE], least

    monkeypatch.setattr(labels, "threshold_of", of)
    facts = world.facts(world.synthesize(run, ScriptedWriter(says), profile="toxicity"))
    assert (facts.kept, facts.doubtful, dict(facts.doubts)) == (1, 1, {"label barely sure": 1})
    thresholds[1] = np.inf  # then none is surer than another
    facts = world.facts(world.synthesize(run, ScriptedWriter(says), profile="toxicity", seed=1))
    assert (facts.kept, facts.doubtful) == (1, 0)


def test_labels_that_nothing_checks_are_said(labelled_world):
    world = labelled_world
    label_samples(world.runs, "anchor", [None] * 120)
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    labelled = world.synthesize(run, ScriptedWriter(says), profile="toxicity")
    assert "label" in world.facts(labelled).unchecked
    assert world.facts(labelled).label_auroc is None
    plain = world.synthesize(run, ScriptedWriter(says), profile="instruction", seed=1)
    assert "label" not in world.facts(plain).unchecked, "there is no label to check"


def test_texts_are_judged_by_the_subject_models_loss(labelled_world):
    world, asked = labelled_world, list[int]()

    def likelihood(chats: Sequence[Chat]) -> np.ndarray:
        """The anchor's texts lose 1 to 2 nats; what is written for `function` is odd."""
        asked.append(len(chats))
        nats = np.full((len(chats), 2, len(ROLES)), np.nan)
        for row, chat in enumerate(chats):
            text = chat[0]["content"]
            odd = "need some function" in text
            nats[row, MEAN, ROLES.index("user")] = 9 if odd else 1 + len(text) % 10 / 10
            nats[row, END, ROLES.index("user")] = 5 if "need some" in text else len(text) % 10 / 10
        return nats

    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    writer = ScriptedWriter(says)
    made = world.make(
        SynthesizeSpec(pairs=run, approved=tuple(row["pair"] for row in world.approved(run))),
        writer,
        likelihood=likelihood,
    )
    by_gap = {
        gap: {v["reason"] for v in world.rows(made, "verdicts") if v["feature"] == gap}
        for gap in GAPS
    }
    assert "unlikely" in by_gap[4] and "unlikely" not in by_gap[3]
    assert "unlikely" not in world.facts(made).unchecked
    assert dict(world.facts(made).doubts) == {UNEXPECTED: world.facts(made).kept}
    assert max(asked) <= 32 and sum(asked) <= 100 + 1 + len(writer.requests)


def test_labels_may_come_from_another_measured_dataset_of_the_same_encoder(labelled_world):
    world = labelled_world
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    made = world.synthesize(run, ScriptedWriter(says), profile="toxicity", labels=world.dataset)
    assert "label" in world.facts(made).unchecked, "the dataset has no labels"
    world.synthesize(run, ScriptedWriter(says), profile="toxicity", labels=world.anchor, seed=1)
    revise(world.runs, world.anchor, lambda content: content["facts"].update(encoder="another"))
    checks = {"runs": world.runs, "about": world.facts(run), "encoder": world.encoder}
    with pytest.raises(InputError, match="was measured with another"):
        Checks(**checks, labelled=world.anchor)
