"""RQ2, on labelled rows: is coverage related to how well a head learns, and more than tokens are?

Many subsets of the rows that may be learned from, from narrow to broad; of each, how well both
heads rank the test rows, what it covers, and how diverse it is by other measures. The narrow ones
are rows around one, the broad ones rows that cover or lie far apart; every other subset takes
this from features and from mean states, so that neither kind of measure is favoured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.coverage import weighted_fac
from fac.diversity import Grams, density, novel_sum, pair_distance, unit, vendi_score, words
from fac.experiments.arms import Draw, exchanged, filling_gaps, k_center
from fac.experiments.heads import FEATURES, STATES, scores, worth
from fac.experiments.material import Material, labelled, labels_suffice
from fac.experiments.relations import Sample, interval, smallest_visible
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.manifest import ExperimentFacts
from fac.selection import Rows, random_rows
from fac.store.runs import Runs
from fac.store.samples import read_samples
from fac.uncertainty import gap_test

FAC, SHUFFLED, TOKENS = "FAC", "random features", "tokens"
ROWS, POSITIVE, BALANCE = "rows", "positive rows", "label balance"

MEASURES = (
    *(FAC, "FAC by frequency", "FAC by magnitude", "no certain gap"),
    *(SHUFFLED, TOKENS, ROWS, BALANCE),
    *("Distinct-1", "Distinct-2", "bigram entropy", "Self-BLEU"),
    *("pair distance", "NovelSum", "Vendi score"),
)
"""Of a subset. The second line are controls: coverage by the features of other rows of about equal
length, size, and the share of the rarer label."""

EQUAL, STRICT = "tokens held equal", "tokens and labels held equal"
HELD: Mapping[str, tuple[str, ...]] = {
    "": (),
    EQUAL: (TOKENS, ROWS),
    STRICT: (TOKENS, ROWS, POSITIVE, BALANCE),
}
"""What is taken out of both figures of a correlation."""

RANKED = {"Spearman": True, "Pearson": False}

SHARED = "AUPRC, {head}; {name}"
NULL = "FAC, outcomes shuffled"
REPEATS = 20  # of that null control

NARROW = 0.6
"""Share of the subsets that lie around one row; the others are chosen to be broad, in part."""

LEAST = 2  # of either label
STEP = (math.sqrt(5) - 1) / 2  # golden section: any first subsets have all breadths

NEGLIGIBLE = 0.2
"""A correlation that explains a twenty-fifth of the ranks at most counts as none."""


class Subjects(NamedTuple):
    """What subsets are drawn from and measured by."""

    rows: Material
    fires: Rows
    """Relevant features."""

    n_anchor: np.ndarray
    """int64 `[relevant]`: rows that may be learned from and fire each, the anchor here."""

    weight: np.ndarray
    """float64 `[relevant]`: their activations added up."""

    vectors: np.ndarray
    densities: np.ndarray
    grams: Grams


def material(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Subjects:
    """Reads a measured dataset. Raises as `labelled` does."""
    data = labelled(spec, runs, doors, scratch)
    table = runs.table(runs.manifest(spec.measure).facts.dataset, "samples", ["messages", "label"])
    read = read_samples(runs, spec.measure)
    chats = [
        row["messages"]
        for row, counts in zip(table.to_pylist(), read, strict=True)
        if counts and row["label"] is not None
    ]
    texts = [words("\n".join(message["content"] for message in chat)) for chat in chats]
    fires = data.pool.incidence(np.arange(len(chats)))
    learnable = np.zeros(len(chats), bool)
    learnable[data.train] = True
    peaks = data.peaks[data.train][:, data.pool.relevant].expm1()
    vectors = unit(data.pool.states)
    return Subjects(
        data,
        fires,
        fires.counts(learnable),
        np.asarray(peaks.sum(axis=0), float).ravel(),
        vectors,
        density(vectors, vectors[data.train]),
        Grams(texts),
    )


# --- subsets --------------------------------------------------------------------------------------


def subset(spec: ExperimentSpec, data: Subjects, number: int) -> np.ndarray:
    """Rows of one subset, bool `[n]`: of a breadth that all subsets together spread evenly, its
    tokens those of the fewest to the most `labels`, or all alike."""
    rng = np.random.default_rng([spec.seed, number])
    pool, train = data.rows.pool, data.rows.train
    breadth, by_features = number * STEP % 1, number % 2 == 0
    few, many = np.log([min(spec.labels), max(spec.labels)])
    size = (few + many) / 2 if spec.equal_tokens else rng.uniform(few, many)
    budget = round(math.exp(size) * pool.tokens[train].mean())
    seed = int(rng.integers(2**31))
    free = np.zeros(len(pool.tokens), bool)
    if breadth < NARROW:
        order = train[np.argsort(-_likeness(data, int(rng.choice(train)), by_features)[train])]
        enough = 1 + int(np.searchsorted(np.cumsum(pool.tokens[order]), budget))
        fewest, most = np.log([min(enough, len(order)), len(order)])
        free[order[: round(math.exp(fewest + breadth / NARROW * (most - fewest)))]] = True
        chosen = random_rows(pool.tokens, budget, free, seed)
    else:
        free[rng.permutation(train)[: len(train) // 2]] = True
        share = (breadth - NARROW) / (1 - NARROW)
        draw = Draw(np.zeros(len(free), bool), free, round(share * budget), seed)
        chosen = (filling_gaps if by_features else k_center)(pool, draw)
        free[train] = True
        rest = max(budget - int(pool.tokens[chosen].sum()), 0)
        chosen = chosen | random_rows(pool.tokens, rest, free & ~chosen, seed)
    return _with_both_labels(data.rows, chosen, rng)


def _likeness(data: Subjects, row: int, by_features: bool) -> np.ndarray:
    """Cosine with a row, by the peaks of features or by mean states: float `[n]`."""
    if not by_features:
        return np.asarray(data.vectors @ data.vectors[row], float)
    peaks = data.rows.peaks
    length = np.sqrt(np.asarray(peaks.multiply(peaks).sum(axis=1), float)).ravel()
    return (peaks @ peaks[row].toarray().ravel()) / np.maximum(length, 1e-9)


def _with_both_labels(rows: Material, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """LEAST rows of a label that is lacking, at random, in the place of others."""
    chosen = chosen.copy()
    for kind in (True, False):
        here = rows.positive == kind
        lack = LEAST - int((chosen & here).sum())
        if lack > 0:
            new = rng.permutation(rows.train[here[rows.train] & ~chosen[rows.train]])[:lack]
            leave = rng.permutation(np.flatnonzero(chosen & ~here))
            chosen[leave[: max(min(lack, len(leave) - LEAST), 0)]] = False
            chosen[new] = True
    return chosen


def measures(data: Subjects, chosen: np.ndarray, seed: int) -> dict[str, float]:
    """MEASURES of a subset, and its share of positive rows; `seed` exchanges features."""
    pool, train, rows = data.rows.pool, data.rows.train, np.flatnonzero(chosen)
    shows = data.fires.counts(chosen)
    covered = shows > 0
    free = np.zeros(len(chosen), bool)
    free[train] = True
    others = np.zeros(len(chosen), bool)
    others[exchanged(pool, free, seed)[rows]] = True
    tokens, positive = int(pool.tokens[rows].sum()), float(data.rows.positive[rows].mean())
    gaps = gap_test(
        data.n_anchor - shows,
        shows,
        anchor_tokens=int(pool.tokens[train].sum()) - tokens,
        dataset_tokens=tokens,
    )
    vectors, grams = data.vectors[rows], data.grams
    return {
        FAC: float(covered.mean()),
        "FAC by frequency": weighted_fac(data.n_anchor, covered),
        "FAC by magnitude": weighted_fac(data.weight, covered),
        "no certain gap": float(1 - gaps.certain.mean()),
        SHUFFLED: float((data.fires.counts(others) > 0).mean()),
        TOKENS: tokens,
        ROWS: len(rows),
        BALANCE: min(positive, 1 - positive),
        POSITIVE: positive,
        "Distinct-1": grams.distinct(rows, 1),
        "Distinct-2": grams.distinct(rows, 2),
        "bigram entropy": grams.entropy(rows, 2),
        "Self-BLEU": grams.self_bleu(rows),
        "pair distance": pair_distance(vectors),
        "NovelSum": novel_sum(vectors, data.densities[rows]),
        "Vendi score": vendi_score(vectors),
    }


def measure(spec: ExperimentSpec, data: Subjects, piece: Piece) -> Iterator[Row]:
    chosen = subset(spec, data, piece.draw)
    figures = measures(data, chosen, spec.seed * 1_000_000 + piece.draw)
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    learned, rows = np.flatnonzero(chosen), data.rows
    for head, inputs in ((STATES, rows.pool.states), (FEATURES, rows.peaks)):
        chance = scores(inputs, rows.positive, learned, rows.test)
        yield {
            "outcome": head,
            "size": piece.size,
            "draw": piece.draw,
            "arm": "subset",
            "figures": {**figures, **worth(chance, rows.positive[rows.test])},
            "scores": [],
        }


# --- correlations ---------------------------------------------------------------------------------


def effects(spec: ExperimentSpec, data: Any, rows: list[Row]) -> list[Row]:
    """Of each head: every measure's correlation with AUPRC, raw and with others held equal; how far
    FAC's is above that of random features; and FAC's with shuffled outcomes."""
    table = []
    for head in dict.fromkeys(row["outcome"] for row in rows):
        figures = [row["figures"] for row in rows if row["outcome"] == head]
        names = [name for name in (*MEASURES, POSITIVE) if all(name in row for row in figures)]
        by_name = {n: np.array([row[n] for row in figures]) for n in (*names, "auprc")}
        for name, ranked in RANKED.items():
            about = {"outcome": SHARED.format(head=head, name=name), "size": len(figures)}
            for row in _correlations(by_name, ranked, spec.seed):
                table.append({**about, **row})
    return table


def _correlations(figures: Mapping[str, np.ndarray], ranked: bool, seed: int) -> Iterator[Row]:
    for against, held in HELD.items():
        equal = [figures[name] for name in held]
        sample = Sample(figures["auprc"], equal, ranked=ranked, seed=seed)
        for arm in (name for name in MEASURES if name in figures):
            relation = sample.relation(figures[arm])
            if all(map(math.isfinite, relation)):
                yield _row(arm, against, relation.value, relation.value, *relation[1:])
    fac, shuffled = (sample.resampled(figures[name]) for name in (FAC, SHUFFLED))
    if math.isfinite(fac[0] - shuffled[0]):
        low, high = interval(fac[1:] - shuffled[1:])
        yield _row(FAC, SHUFFLED, float(fac[0]), float(fac[0] - shuffled[0]), low, high, None)
    yield from _null(figures, equal, ranked, seed)


def _null(
    figures: Mapping[str, np.ndarray], equal: list[np.ndarray], ranked: bool, seed: int
) -> Iterator[Row]:
    """FAC beside shuffled outcomes: mean and range of the correlations; p says whether their p are
    spread evenly, as those of nothing are."""
    from scipy.stats import kstest

    rng = np.random.default_rng(seed)
    values, chances = [], []
    for repeat in range(REPEATS):
        outcome = rng.permutation(figures["auprc"])
        sample = Sample(outcome, equal, ranked=ranked, seed=seed + 1 + repeat, resamples=0)
        values.append(float(sample.resampled(figures[FAC])[0]))
        chances.append(sample.p(figures[FAC]))
    if np.isfinite(values).all():
        even = float(kstest(chances, "uniform").pvalue)
        mean = float(np.mean(values))
        yield _row(NULL, STRICT, mean, mean, min(values), max(values), even)


def _row(
    arm: str,
    against: str,
    value: float,
    difference: float,
    low: float,
    high: float,
    p: float | None,
) -> Row:
    figures = {"value": value, "difference": difference, "low": low, "high": high, "p": p}
    return {"arm": arm, "against": against, **figures}


# --- sentences ------------------------------------------------------------------------------------


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    by = {(row["outcome"], row["arm"], row["against"]): row for row in rows}
    heads = [head for head in (STATES, FEATURES) if (_spearman(head), FAC, "") in by]
    if not heads:
        nothing = "Every subset covers the same features: whether coverage matters cannot be told."
        return Says(nothing, "", _note(rows, facts, spec))
    return Says(
        " ".join(_conclusion(by, head) for head in heads),
        " ".join(_controls(by, head) for head in heads),
        _note(rows, facts, spec),
    )


def _spearman(head: str) -> str:
    return SHARED.format(head=head, name="Spearman")


def _conclusion(by: Mapping[tuple[str, str, str], Row], head: str) -> str:
    """Related where ranks go together with tokens and labels held equal, and more than those of
    random features do."""
    of = _spearman(head)
    raw, equal = by[of, FAC, ""], by.get((of, FAC, STRICT))
    beyond = by.get((of, FAC, SHUFFLED))
    if equal is None:
        verdict = "cannot be told from tokens and labels here"
    elif equal["p"] < 0.05 and equal["high"] < 0:
        verdict = "goes with worse results"
    elif equal["p"] < 0.05 and equal["low"] > 0:
        sure = beyond is not None and beyond["low"] > 0
        verdict = (
            "is related to performance"
            if sure
            else "is related to performance, but not surely more than that of random features is"
        )
    elif max(-equal["low"], equal["high"]) < NEGLIGIBLE:
        verdict = f"is not related to performance, or by less than {NEGLIGIBLE:.1f}"
    else:
        verdict = "may be related to performance or not: it cannot be told"
    parts = [f"raw {_figure(raw)}"]
    parts += [f"{STRICT} {_figure(equal)}"] if equal else []
    tokens, shuffled = by.get((of, TOKENS, "")), by.get((of, SHUFFLED, STRICT))
    parts += [f"tokens alone {_figure(tokens)}"] if tokens else []
    parts += [f"random features held so {_figure(shuffled)}"] if shuffled else []
    return f"{head[0].upper()}{head[1:]}: coverage {verdict} (Spearman {'; '.join(parts)})."


def _controls(by: Mapping[tuple[str, str, str], Row], head: str) -> str:
    of = _spearman(head)
    n = by[of, FAC, ""]["size"]
    visible = smallest_visible(n, len(HELD[STRICT]))
    parts = [f"{n} subsets show correlations from about {visible:.2f} on, four times of five"]
    tokens, null = by.get((of, TOKENS, "")), by.get((of, NULL, STRICT))
    if tokens:
        seen = tokens["p"] < 0.05 and tokens["low"] > 0
        parts.append(f"more tokens are {'' if seen else 'not '}seen to help")
    if null:
        even = "as evenly as" if null["p"] >= 0.01 else "less evenly than"
        parts.append(
            f"with shuffled outcomes FAC's lie between {null['low']:+.2f} and {null['high']:+.2f}, "
            f"their p spread {even} chance has it"
        )
    rivals = [
        row
        for (outcome, arm, against), row in by.items()
        if (outcome, against) == (of, STRICT) and arm not in (NULL, TOKENS, ROWS, BALANCE)
    ]
    if rivals:
        best = max(rivals, key=lambda row: abs(row["value"]))
        parts.append(
            f"of {len(rivals)} measures {best['arm']} goes most with performance then, "
            f"{_figure(best)}"
        )
    return f"{head[0].upper()}{head[1:]}: {'; '.join(parts)}."


def _figure(row: Row) -> str:
    return f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}, p {row['p']:.4f})"


def _note(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> str:
    tokens = "all of about equal tokens" if spec.equal_tokens else "of different tokens"
    parts = [
        f"{spec.subsets:,} subsets {tokens} of {facts.n_rows:,} labelled rows, "
        f"{facts.n_positive:,} of them {spec.label!r}; {facts.n_test:,} test, of which "
        f"{facts.base_rate:.2f} is what guessing reaches.",
        "Held equal means: taken out by regression on three powers of ranks, of tokens and rows, "
        "then of the shares of positive rows and of the rarer label too. The anchor are all rows "
        "that may be learned from.",
        "Subsets share rows, so that intervals hold for these rows; Self-BLEU falls as texts "
        "differ. Differences from random features are with tokens and labels held equal.",
    ]
    left = {
        "rows that nearly repeat a test row": facts.n_leaks,
        "rows without a label": facts.n_unlabelled,
    }
    left_out = [f"{what} ({n:,})" for what, n in left.items() if n]
    same = [name for name in MEASURES if name not in {r["arm"] for r in rows}]
    left_out += [f"measures that say the same of every subset ({', '.join(same)})"] if same else []
    if left_out:
        parts.append(f"Left out: {', '.join(left_out)}.")
    return " ".join(parts)


EXPERIMENT = Experiment(
    title="Is coverage related to how well what is labelled is told?",
    value="correlation",
    columns={},
    pieces=lambda spec: [
        Piece(f"subset {number + 1}", spec.subsets, number) for number in range(spec.subsets)
    ],
    material=material,
    measure=measure,
    effects=effects,
    facts=lambda data: data.rows.facts(),
    says=says,
    check=labels_suffice,
    preference=2,
)
