"""RQ1, on labelled rows: does a head learn more from rows that fill gaps than from others?

One begins with a few labelled rows and adds as many tokens of others, chosen without their labels;
a head on the frozen model learns from both and ranks test rows that nobody chose from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, FILLING, MORE, NULL, RANDOM, SHUFFLED, Draw
from fac.experiments.effects import Resampled
from fac.experiments.heads import FEATURES, STATES, scores, worth
from fac.experiments.material import Material, labelled, labels_suffice
from fac.experiments.run import Experiment, Piece, Row, Says
from fac.manifest import ExperimentFacts

MISLABELLED = "random rows, a third mislabelled"
"""Positive control: the random rows once more, with wrong labels."""

WRONG = 1 / 3
LEAST = 2  # of either kind at the beginning

WHICH = FILLING, RANDOM


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


def measure(spec: ExperimentSpec, data: Material, piece: Piece) -> Iterator[Row]:
    draw = beginning(data, piece.size, spec.seed * 1_000_000 + piece.size * 1000 + piece.draw)
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
                "outcome": head,
                "size": piece.size,
                "draw": piece.draw,
                "arm": arm,
                "figures": {
                    "rows": len(learned),
                    "tokens": int(data.pool.tokens[learned].sum()),
                    "fac": float(fac),
                    **worth(chance, data.positive[data.test]),
                },
                "scores": chance.astype(np.float32),
            }


def effects(spec: ExperimentSpec, data: Material, rows: list[Row]) -> list[Row]:
    """Every arm beside random rows of equal tokens, and the arm in question beside rows chosen in
    the same way by the features of other rows."""
    by_arm: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_arm[row["outcome"], row["size"]][row["arm"]].append(row)
    table = []
    resampled = Resampled(data.positive[data.test], spec.draws, spec.seed)
    for (head, labels), arms in by_arm.items():
        areas = {
            arm: resampled.areas(np.array([row["scores"] for row in group]))
            for arm, group in arms.items()
        }
        auprc = {
            arm: np.array([row["figures"]["auprc"] for row in group]) for arm, group in arms.items()
        }
        for arm, against in [*((arm, RANDOM) for arm in arms), (FILLING, SHUFFLED)]:
            low, high = resampled.interval(areas[arm] - areas[against])
            table.append(
                {
                    "outcome": head,
                    "size": labels,
                    "arm": arm,
                    "against": against,
                    "value": float(auprc[arm].mean()),
                    "difference": float((auprc[arm] - auprc[against]).mean()),
                    "low": low,
                    "high": high,
                }
            )
    return table


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    heads = [*dict.fromkeys(row["outcome"] for row in rows)]
    return Says(
        " ".join(_conclusion(rows, head) for head in heads),
        " ".join(_controls(rows, head) for head in heads),
        _note(facts, spec),
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
        f"{n} labels {_difference(row)}, beside random features {_difference(shuffled[n])}"
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


def _difference(row: Row) -> str:
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _note(facts: ExperimentFacts, spec: ExperimentSpec) -> str:
    parts = [
        f"{facts.n_rows:,} labelled rows, {facts.n_positive:,} of them {spec.label!r}; "
        f"{facts.n_test:,} test, of which {facts.base_rate:.2f} is what guessing reaches."
    ]
    left = {
        "rows that nearly repeat a test row": facts.n_leaks,
        "rows without a label": facts.n_unlabelled,
    }
    left_out = [f"{what} ({n:,})" for what, n in left.items() if n]
    if left_out:
        parts.append(f"Left out: {', '.join(left_out)}.")
    parts.append("Where no row fills a gap any more, random rows take the tokens that are left.")
    return " ".join(parts)


EXPERIMENT = Experiment(
    title="Do rows that fill gaps help to tell what is labelled?",
    value="AUPRC",
    columns={"rows": "rows", "fac": "FAC"},
    pieces=lambda spec: [
        Piece(f"{labels} labels, draw {draw + 1}", labels, draw)
        for labels in spec.labels
        for draw in range(spec.draws)
    ],
    material=labelled,
    measure=measure,
    effects=effects,
    facts=Material.facts,
    says=says,
    check=labels_suffice,
    preference=1,
)
