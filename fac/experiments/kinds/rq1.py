"""RQ1, on labelled rows: does a head learn more from rows that fill gaps than from others?

One begins with a few labelled rows and adds as many tokens of others, chosen without their labels;
a head on the frozen model learns from both and ranks test rows that nobody chose from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, FILLING, MORE, NULL, RANDOM, SHUFFLED
from fac.experiments.effects import contrasts, in_words
from fac.experiments.material import Material, described, labelled, labels_suffice
from fac.experiments.run import Experiment, Piece, Row, Says
from fac.experiments.trials import Trial, beginning, pieces, seed_of
from fac.manifest import ExperimentFacts

MISLABELLED = "random rows, a third mislabelled"
"""Positive control: the random rows once more, with wrong labels."""

WRONG = 1 / 3
WHICH = FILLING, RANDOM


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

    def pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
        return [*((arm, RANDOM) for arm in arms), (FILLING, SHUFFLED)]

    return [each.row() for each in contrasts(rows, data.positive[data.test], spec.seed, pairs)]


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    heads = [*dict.fromkeys(row["outcome"] for row in rows)]
    return Says(
        " ".join(_conclusion(rows, head) for head in heads),
        " ".join(_controls(rows, head) for head in heads),
        f"{described(facts, spec)} Where no row fills a gap any more, random rows take the tokens "
        "that are left.",
    )


def _conclusion(rows: list[Row], head: str) -> str:
    """Helps where it beats random rows and random features alike: what beats chance alone may owe
    it to more or longer rows, whatever they fire."""
    of = [row for row in rows if row["outcome"] == head and row["arm"] == FILLING]
    chance, shuffled = (
        {row["size"]: row for row in of if row["against"] == other} for other in (RANDOM, SHUFFLED)
    )
    better = [n for n, row in chance.items() if row["low"] > 0]
    sure = [n for n in better if shuffled[n]["low"] > 0]
    worse = [n for n, row in chance.items() if row["high"] < 0]
    if worse:
        verdict = f"Filling gaps does harm at {_sizes(worse)}"
    elif sure:
        verdict = f"Filling gaps helps at {_sizes(sure)}"
    elif better:
        verdict = (
            f"Rows that fill gaps beat random rows at {_sizes(better)}, but no more than rows "
            "chosen by the features of others, so it need not be what they fire that helps"
        )
    else:
        verdict = "Whether filling gaps helps cannot be told"
    figures = "; ".join(
        f"{n} labels {in_words(row)}, beside random features {in_words(shuffled[n])}"
        for n, row in chance.items()
    )
    return f"{head[0].upper()}{head[1:]}: {verdict[0].lower()}{verdict[1:]} ({figures})."


def _sizes(labels: list[int]) -> str:
    return f"{', '.join(map(str, labels))} labels"


def _controls(rows: list[Row], head: str) -> str:
    """Whether the instrument sees what is there, and nothing where nothing is."""
    of = [row for row in rows if row["outcome"] == head]
    visible = [row for row in of if row["arm"] == MORE and row["low"] > 0]
    false = [row for row in of if row["arm"] == NULL and not row["low"] <= 0 <= row["high"]]
    sizes = len({row["size"] for row in of})
    widths = [(r["high"] - r["low"]) / 2 for r in of if (r["arm"], r["against"]) == WHICH]
    return (
        f"{head[0].upper()}{head[1:]}: twice the tokens are seen to help at {len(visible)} of "
        f"{sizes} sizes, another draw of random rows differs at {len(false)}; differences below "
        f"about {min(widths):.3f} cannot be seen."
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
