"""RQ1, on labelled rows: does a head learn more from rows that fill gaps than from others?

One begins with a few labelled rows and adds as many tokens of others, chosen without their labels;
a head on the frozen model learns from both and ranks test rows that nobody chose from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, RANDOM
from fac.experiments.effects import contrasts
from fac.experiments.material import Material, described, labelled, labels_suffice
from fac.experiments.run import Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, conclusion, controls
from fac.experiments.trials import Trial, beginning, beside, pieces, seed_of
from fac.manifest import ExperimentFacts

MISLABELLED = "random rows, a third mislabelled"
"""Positive control: the random rows once more, with wrong labels."""

WRONG = 1 / 3


def measure(spec: ExperimentSpec, data: Material, piece: Piece) -> Iterator[Row]:
    draw = beginning(data, piece.size, seed_of(spec.seed, piece))
    trial = Trial(data, piece, draw)
    for name, arm in ARMS.items():
        yield from trial.learned(name, arm(data.pool, draw))
    added = ARMS[RANDOM](data.pool, draw)
    wrong = mislabelled(data.positive, added, WRONG, draw.seed)
    yield from trial.learned(MISLABELLED, added, wrong)


def mislabelled(positive: np.ndarray, added: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share of those of `added` is wrong, at random."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(added))
    labels = positive.copy()
    labels[rows[: round(share * len(rows))]] ^= True
    return labels


def effects(spec: ExperimentSpec, data: Material, rows: list[Row]) -> list[Row]:
    """Every arm beside random rows of equal tokens, and the arm in question beside rows chosen in
    the same way by the features of other rows."""
    return [each.row() for each in contrasts(rows, data.positive[data.test], spec.seed, beside)]


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    return Says(
        conclusion(rows, "labels"),
        controls(rows),
        f"{described(facts, spec)} {REST_AT_RANDOM}",
    )


EXPERIMENT = Experiment(
    title="Do rows that fill gaps help to tell what is labelled?",
    value="AUPRC",
    columns={"rows": "rows", "fac": "FAC"},
    pieces=pieces,
    material=labelled,
    measure=measure,
    effects=effects,
    facts=Material.facts,
    says=says,
    check=labels_suffice,
    preference=1,
)
