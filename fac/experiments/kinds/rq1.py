"""RQ1, on labelled rows: does a head learn more from rows that fill gaps than from others?

One begins with a few labelled rows and adds as many tokens of others, chosen without their labels
or written for the gaps; a head on the frozen model learns from both and ranks test rows that nobody
chose from. So does, of fewer arms and draws as it takes a minute where a head takes a moment, the
model itself by LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fac.config import ExperimentSpec
from fac.errors import InputError
from fac.experiments import trials
from fac.experiments.arms import ARMS, FILLING, MORE, NONE, NULL, RANDOM, SHUFFLED
from fac.experiments.effects import contrasts
from fac.experiments.lora import Recipe
from fac.experiments.material import Material, described, labelled, labels_suffice
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, conclusion, controls, rankings
from fac.experiments.trials import Trial, beginning, beside, seed_of
from fac.manifest import ExperimentFacts
from fac.store.runs import Runs

MISLABELLED = "random rows, a third mislabelled"
"""Positive control: the random rows once more, with wrong labels."""

WRONG = 1 / 3


LORA = "LoRA"
LORA_ARMS = NONE, RANDOM, FILLING, SHUFFLED, NULL, MORE
LORA_DRAWS = 3
"""At the smallest beginning, one learning rate; `full` has all arms, sizes and rates."""

EPOCHS = 3  # the paper's, for toxicity
JUDGES = 200
"""Test rows that LoRA is judged by, at most: the model must read them for each adapter anew."""


def pieces(spec: ExperimentSpec) -> list[Piece]:
    """A draw of a size each for the heads, then one adapter after another."""
    draws = range(min(spec.draws, LORA_DRAWS))
    return [
        *trials.pieces(spec),
        *(
            Piece(f"LoRA, {labels} labels, draw {draw + 1}, {arm}", labels, draw, arm)
            for labels in (spec.labels if spec.full else (min(spec.labels),))
            for draw in draws
            for arm in (*(ARMS if spec.full else LORA_ARMS), *spec.written)
        ),
    ]


def material(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Material:
    """As `labelled`; raises InputError, too, where written rows have too few tokens for some
    beginning, or nobody can finetune."""
    if doors.classify is None:
        raise InputError("Nobody here can finetune a model: LoRA runs in the worker's process.")
    data = labelled(spec, runs, doors, scratch)
    for piece in trials.pieces(spec):
        budget = beginning(data, piece.size, seed_of(spec.seed, piece)).budget
        for each in data.written.values():
            each.must_suffice(data.pool.tokens, budget)
    return data


def judges(data: Material) -> np.ndarray:
    """The test rows that LoRA is judged by: int64."""
    some = np.random.default_rng(0).permutation(data.test)[:JUDGES]
    return np.sort(some)


def measure(spec: ExperimentSpec, data: Material, piece: Piece) -> Iterator[Row]:
    draw = beginning(data, piece.size, seed_of(spec.seed, piece))
    trial = Trial(data, piece, draw)
    if piece.arm:
        yield from finetuned(spec, data, trial)
        return
    for name, arm in ARMS.items():
        yield from trial.learned(name, arm(data.pool, draw))
    for each in data.written.values():
        yield from trial.learned(each.arm, each.added(data.pool, draw))
    added = ARMS[RANDOM](data.pool, draw)
    wrong = mislabelled(data.positive, added, WRONG, draw.seed)
    yield from trial.learned(MISLABELLED, added, wrong)


def finetuned(spec: ExperimentSpec, data: Material, trial: Trial) -> Iterator[Row]:
    """A row a learning rate, of one arm's adapter."""
    assert data.classify  # as `material` has seen to
    arm, draw, judge = trial.piece.arm, trial.draw, judges(data)
    written = data.written.get(arm)
    added = written.added(data.pool, draw) if written else ARMS[arm](data.pool, draw)
    rows = np.flatnonzero(draw.begin | added)
    learned, judged = ([data.chats[int(row)] for row in part] for part in (rows, judge))
    for rate in rates(spec):
        recipe = Recipe(rate, draw.seed, EPOCHS)
        chance = data.classify(learned, data.positive[rows], judged, recipe)
        name = written.arm if written else arm
        yield trial.row(f"{LORA} at {rate:g}", name, added, chance, judge)


def rates(spec: ExperimentSpec) -> Sequence[float]:
    """Learning rates, each an outcome of its own so that none is chosen by what it does."""
    return spec.rates if spec.full else spec.rates[-1:]


def mislabelled(positive: np.ndarray, added: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share of those of `added` is wrong, at random."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(added))
    labels = positive.copy()
    labels[rows[: round(share * len(rows))]] ^= True
    return labels


def effects(spec: ExperimentSpec, data: Material, rows: list[Row]) -> list[Row]:
    """Every arm beside random rows of equal tokens, and the arm in question beside rows chosen in
    the same way by the features of other rows."""
    by_lora, by_heads = (
        [row for row in rows if row["outcome"].startswith(LORA) == lora] for lora in (True, False)
    )
    return [
        each.row()
        for some, judge in ((by_heads, data.test), (by_lora, judges(data)))
        for each in contrasts(some, data.positive[judge], spec.seed, beside)
    ]


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    draws, judged = min(spec.draws, LORA_DRAWS), min(facts.n_test, JUDGES)
    each = rates(spec)
    at = f"learning rate {each[0]:g} alone" if len(each) == 1 else f"{len(each)} learning rates"
    lora = f"LoRA: {EPOCHS} epochs, {at}, {draws} draws, judged by {judged:,} of the test rows."
    parts = described(facts, spec), lora, REST_AT_RANDOM, rankings(rows, "labels")
    return Says(conclusion(rows, "labels"), controls(rows), " ".join(filter(None, parts)))


EXPERIMENT = Experiment(
    title="Do rows that fill gaps help to tell what is labelled?",
    value="AUPRC",
    columns={"rows": "rows", "positive": "positive", "fac": "FAC"},
    pieces=pieces,
    material=material,
    measure=measure,
    effects=effects,
    facts=Material.facts,
    says=says,
    check=labels_suffice,
    takes=("written", "full"),
    preference=1,
)
