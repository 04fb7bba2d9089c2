"""RQ1, on labelled rows: does a head learn more from rows that fill gaps than from others?

One begins with a few labelled rows and adds as many tokens of others, chosen without their labels;
a head on the frozen model learns from both and ranks test rows that nobody chose from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, FILLING, RANDOM, SHUFFLED, Draw
from fac.experiments.effects import Resampled
from fac.experiments.heads import FEATURES, STATES, scores, worth
from fac.experiments.material import Material
from fac.experiments.run import Experiment, Row

MISLABELLED = "random rows, a third mislabelled"
"""Positive control: the random rows once more, with wrong labels."""

WRONG = 1 / 3
LEAST = 2  # of either kind at the beginning


def beginning(data: Material, labels: int, seed: int) -> Draw:
    """`labels` rows at random, as many of each kind as all have, LEAST at least; the budget are
    their own tokens."""
    rng = np.random.default_rng(seed)
    positive = data.positive[data.train]
    n = int(np.clip(round(labels * positive.mean()), LEAST, labels - LEAST))
    begin = np.zeros(len(data.positive), bool)
    for kind, take in ((True, n), (False, labels - n)):
        begin[rng.permutation(data.train[positive == kind])[:take]] = True
    free = np.zeros(len(begin), bool)
    free[data.train] = True
    free &= ~begin
    return Draw(begin, free, int(data.pool.tokens[begin].sum()), seed)


def measure(spec: ExperimentSpec, data: Material, labels: int, number: int) -> Iterator[Row]:
    draw = beginning(data, labels, spec.seed * 1_000_000 + labels * 1000 + number)
    counts = data.pool.incidence(np.arange(len(data.positive)))
    there = counts.counts(draw.begin | draw.free) > 0
    chosen = {name: arm(data.pool, draw) for name, arm in ARMS.items()}
    chosen[MISLABELLED] = chosen[RANDOM]
    rng = np.random.default_rng(draw.seed)
    for arm, added in chosen.items():
        positive = data.positive.copy()
        if arm == MISLABELLED:
            rows = np.flatnonzero(added)
            wrong = rng.permutation(rows)[: round(WRONG * len(rows))]
            positive[wrong] ^= True
        learned = np.flatnonzero(draw.begin | added)
        fac = (counts.counts(draw.begin | added) > 0)[there].mean()
        for head, inputs in ((STATES, data.pool.states), (FEATURES, data.peaks)):
            chance = scores(inputs, positive, learned, data.test)
            yield {
                "head": head,
                "labels": labels,
                "draw": number,
                "arm": arm,
                "rows": len(learned),
                "tokens": int(data.pool.tokens[learned].sum()),
                "fac": float(fac),
                **worth(chance, data.positive[data.test]),
                "scores": chance.astype(np.float32),
            }


def effects(spec: ExperimentSpec, data: Material, rows: list[Row]) -> list[Row]:
    """Every arm beside random rows of equal tokens, and the arm in question beside rows chosen in
    the same way by the features of other rows."""
    by_arm: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_arm[row["head"], row["labels"]][row["arm"]].append(row)
    table = []
    resampled = Resampled(data.positive[data.test], spec.draws, spec.seed)
    for (head, labels), arms in by_arm.items():
        areas = {
            arm: resampled.areas(np.array([row["scores"] for row in group]))
            for arm, group in arms.items()
        }
        auprc = {arm: np.array([row["auprc"] for row in group]) for arm, group in arms.items()}
        for arm, against in [*((arm, RANDOM) for arm in arms), (FILLING, SHUFFLED)]:
            low, high = resampled.interval(areas[arm] - areas[against])
            table.append(
                {
                    "head": head,
                    "labels": labels,
                    "arm": arm,
                    "against": against,
                    "auprc": float(auprc[arm].mean()),
                    "difference": float((auprc[arm] - auprc[against]).mean()),
                    "low": low,
                    "high": high,
                }
            )
    return table


EXPERIMENT = Experiment(
    title="Do rows that fill gaps help to tell what is labelled?",
    pieces=lambda spec: [(labels, draw) for labels in spec.labels for draw in range(spec.draws)],
    measure=measure,
    effects=effects,
    preference=1,
)
