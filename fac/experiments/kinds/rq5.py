"""RQ5, on labelled rows: how much the effect of filling gaps depends on how it is done.

As in RQ1 a few labelled rows are at hand, others are added and heads learn from both. What is
varied, one thing at a time: the threshold above which a feature fires, the share of the gaps that
are filled and which, the rows asked for of each, and how many rows one begins with. Temperature and
one step against two concern what is written, not what is chosen: synthesis runs say that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, NONE, NULL, RANDOM, SHUFFLED, Draw, Pool, cover, lacking
from fac.experiments.effects import at_once, contrasts, in_words
from fac.experiments.material import Material, described, labelled, labels_suffice, pool_above
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.experiments.trials import Trial, beginning, pieces, seed_of
from fac.manifest import ExperimentFacts
from fac.store.runs import Runs

QUANTILES = (0.0, 0.25, 0.75, 0.9, 0.97)
"""Of the positive peaks of rows that may be learned from, above which a feature fires; the first is
the paper's threshold, 0. What is given, by default about the median, stands beside them."""

SHARES = (0.3, 0.6, 0.9)
"""Of the gaps; all of them stand beside these. The paper's are 30, 60, 90 and 100 %."""

SAMPLES = (2, 5)
"""Rows asked for of each gap; one stands beside them. The paper's are 1 to 5."""

ROOM = 0.75  # of what may be learned from: what a beginning and its budget take at most

THRESHOLD, SHARE = "threshold", "share of the gaps"
EQUAL, SCALED = "rows per gap, equal tokens", "rows per gap, tokens in proportion"

GIVEN: Mapping[str, str] = {
    THRESHOLD: "the threshold as given",
    SHARE: "100 % of the gaps",
    EQUAL: "1 row per gap",
    SCALED: "1 row per gap",
}
"""What is varied, and the name that the one setting all have in common has there."""


class Sweep(NamedTuple):
    """Labelled rows, and what they fire above other thresholds."""

    data: Material
    above: Mapping[str, tuple[float, Pool]]
    """Threshold and pool by the arm's name."""


class Choice(NamedTuple):
    """Rows that a setting adds."""

    varied: str
    arm: str
    added: np.ndarray
    about: Mapping[str, float] = {}
    """Figures of the setting itself."""


def sweep(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Sweep:
    data = labelled(spec, runs, doors, scratch)
    peaks = data.peaks[data.train].data  # logarithms, whose order is that of peaks
    above = {}
    for share in QUANTILES:
        level = float(np.quantile(peaks, share)) if share else 0.0
        pool = pool_above(data.peaks, level, data.pool.states, data.pool.tokens, data.train)
        name = f"above {share:.0%} of peaks" if share else "above 0"
        if len(pool.relevant):  # else nothing can be a gap there
            above[name] = (float(np.expm1(level)), pool)
    return Sweep(data, above)


def choices(spec: ExperimentSpec, data: Sweep, draw: Draw) -> Iterator[Choice]:
    """Every setting, the one in common once for each thing that is varied."""
    pool = data.data.pool
    gaps = lacking(pool.rows, draw)
    common = cover(pool, pool.rows, draw, gaps)
    fillable = gaps & (pool.rows.counts(draw.free) > 0)
    here = {"gaps": float(fillable.sum()), "threshold": spec.threshold}
    chance = ARMS[RANDOM](pool, draw)
    for varied in (THRESHOLD, SHARE, EQUAL, SCALED):
        yield Choice(varied, RANDOM, chance)
        yield Choice(varied, GIVEN[varied], common, here)
    yield Choice(THRESHOLD, NULL, ARMS[NULL](pool, draw))
    yield Choice(THRESHOLD, SHUFFLED, ARMS[SHUFFLED](pool, draw), here)
    for name, (threshold, other) in data.above.items():
        missing = lacking(other.rows, draw)
        there = float((missing & (other.rows.counts(draw.free) > 0)).sum())
        added = cover(other, other.rows, draw, missing)
        yield Choice(THRESHOLD, name, added, {"gaps": there, "threshold": threshold})
    for name, some in parts(pool, draw, fillable):
        added = cover(pool, pool.rows, draw, some)
        yield Choice(SHARE, name, added, {**here, "gaps": float(some.sum())})
    for n in SAMPLES:
        yield Choice(EQUAL, f"{n} rows per gap", cover(pool, pool.rows, draw, n * gaps), here)
    labels = int(draw.begin.sum())
    for n in scaled(labels, len(data.data.train)):
        more = draw._replace(budget=n * draw.budget)
        yield Choice(SCALED, chance_of(n), ARMS[RANDOM](pool, more))
        yield Choice(SCALED, f"{n} rows per gap", cover(pool, pool.rows, more, n * gaps), here)


def parts(pool: Pool, draw: Draw, gaps: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Shares of the gaps, bool `[relevant]` both: at random, the most frequent, the rarest."""
    ids = np.flatnonzero(gaps)
    often = np.argsort(-pool.rows.counts(draw.free)[ids], kind="stable")
    orders = {
        "at random": np.random.default_rng(draw.seed).permutation(len(ids)),
        "the most frequent": often,
        "the rarest": often[::-1],
    }
    for words, order in orders.items():
        for share in SHARES:
            some = np.zeros(len(gaps), bool)
            some[ids[order[: round(share * len(ids))]]] = True
            yield f"{share:.0%} of the gaps, {words}", some


def scaled(labels: int, n_train: int) -> list[int]:
    """Of SAMPLES, those for which there are rows enough to choose from."""
    return [n for n in SAMPLES if labels * (1 + n) <= ROOM * n_train]


def chance_of(n: int) -> str:
    return RANDOM if n == 1 else f"{RANDOM}, {n} x the tokens"


def measure(spec: ExperimentSpec, data: Sweep, piece: Piece) -> Iterator[Row]:
    draw = beginning(data.data, piece.size, seed_of(spec.seed, piece))
    trial = Trial(data.data, piece, draw)
    before = {row["outcome"]: row for row in trial.learned(NONE, ARMS[NONE](data.data.pool, draw))}
    learned: dict[bytes, list[Row]] = {}  # settings often come to the same rows
    for choice in choices(spec, data, draw):
        key = choice.added.tobytes()
        if key not in learned:
            learned[key] = [*trial.learned(choice.arm, choice.added)]
        for row in learned[key]:
            without = before[row["outcome"]]["figures"]
            figures = {**row["figures"], **choice.about, **efficiency(row["figures"], without)}
            outcome = f"{row['outcome']}; {choice.varied}"
            yield {**row, "outcome": outcome, "arm": choice.arm, "figures": figures}


def efficiency(figures: Mapping[str, float], without: Mapping[str, float]) -> dict[str, float]:
    """What the rows that were added are worth: DES, AUPRC in percent over log10 of their number as
    the paper has it (where there are two at least), and the gain of AUPRC per 1,000 tokens.

    >>> none = {"auprc": 0.25, "rows": 10, "tokens": 500}
    >>> efficiency({"auprc": 0.5, "rows": 110, "tokens": 2500}, none)
    {'gain': 0.125, 'des': 25.0}
    """
    rows = figures["rows"] - without["rows"]
    tokens = figures["tokens"] - without["tokens"]
    worth = {}
    if tokens > 0:
        worth["gain"] = 1000 * (figures["auprc"] - without["auprc"]) / tokens
    if rows > 1:
        worth["des"] = float(100 * figures["auprc"] / np.log10(rows))
    return worth


def effects(spec: ExperimentSpec, data: Sweep, rows: list[Row]) -> list[Row]:
    """Every setting beside random rows of its tokens, and beside the setting as given. p allows for
    all that is asked of one of the two at once, over settings, sizes and heads."""
    positive = data.data.positive[data.data.test]
    every = contrasts(rows, positive, spec.seed, _pairs)
    p: dict[int, float] = {}
    for family in (True, False):
        members = [i for i, each in enumerate(every) if _belongs(each.about, family)]
        p |= dict(zip(members, at_once([every[i] for i in members]), strict=True))
    return [each.row(p.get(i)) for i, each in enumerate(every)]


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    (setting,) = {*GIVEN.values()} & {*arms}
    pairs = []
    for arm in arms:
        n = arm.split(" rows per gap")[0]
        proportional = chance_of(int(n)) if n.isdigit() else RANDOM
        pairs.append((arm, proportional if proportional in arms else RANDOM))
    pairs += [(arm, setting) for arm in arms if not _is_control(arm) and arm != setting]
    return [*pairs, *((setting, arm) for arm in arms if arm == SHUFFLED)]


def _is_control(arm: str) -> bool:
    return arm.startswith(RANDOM) or arm == SHUFFLED


def _belongs(row: Mapping[str, Any], chance: bool) -> bool:
    """Whether a row of effects asks of a setting how it compares with chance, or else with the
    setting as given; the one that all have in common is asked for once."""
    varied = row["outcome"].split("; ")[1]
    if _is_control(row["arm"]) or row["against"] == SHUFFLED:
        return False
    if row["arm"] == GIVEN[varied]:
        return chance and varied == THRESHOLD
    if varied == SCALED and not chance:
        return False  # of course more tokens differ from fewer
    return row["against"].startswith(RANDOM) == chance


# --- in words -------------------------------------------------------------------------------------

SURE = 0.05  # of all that is compared at once
MOST = 4  # settings that a sentence names


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    heads = [*dict.fromkeys(row["outcome"].split("; ")[0] for row in rows)]
    return Says(
        " ".join(_conclusion(rows, head) for head in heads),
        " ".join(_controls(rows, head) for head in heads),
        " ".join(filter(None, (_note(rows, facts, spec), _worth(rows, heads)))),
    )


def _conclusion(rows: list[Row], head: str) -> str:
    of = [row for row in rows if row["outcome"].startswith(f"{head}; ")]
    chance, setting = ([row for row in of if _belongs(row, which)] for which in (True, False))
    begins = [row for row in chance if row["arm"] == GIVEN[THRESHOLD]]
    others = {row["size"]: row for row in of if row["against"] == SHUFFLED}
    sizes = "; ".join(
        f"{row['size']} labels {in_words(row)}"
        + (f", from random features {in_words(beside)}" if beside else "")
        for row in begins
        for beside in [others.get(row["size"])]
    )
    matters = _matter(chance, "from random rows"), _matter(setting, "from the setting as given")
    return (
        f"{head[0].upper()}{head[1:]}: {_as_given(begins, others)} ({sizes}). {' '.join(matters)}"
    )


def _as_given(begins: list[Row], others: Mapping[int, Row]) -> str:
    """Whether filling gaps helps as it is done, before what is varied: more than chance, and more
    than rows that were chosen in the same way by the features of others."""
    better = [row for row in begins if row["low"] > 0]
    sure = [row for row in better if others.get(row["size"], row)["low"] > 0]
    if any(row["high"] < 0 for row in begins):
        return "as given, filling gaps does harm"
    if sure:
        return "as given, filling gaps helps"
    if better:
        return (
            "as given, rows that fill gaps beat random rows, but no more than rows chosen by the "
            "features of others, so it need not be what they fire that helps"
        )
    return "as given, whether filling gaps helps cannot be told"


def _matter(rows: list[Row], what: str) -> str:
    """Which settings are sure to differ, the largest first."""
    rows = sorted(rows, key=lambda row: -abs(row["difference"]))
    sure = [row for row in rows if row["p"] <= SURE]
    if not sure:
        row = min(rows, key=lambda row: row["p"])
        return (
            f"None of {len(rows)} settings tried differs {what} by more than the best of so many "
            f"does by chance (nearest: {_named(row)})."
        )
    names = "; ".join(_named(row) for row in sure[:MOST])
    more = f" and {len(sure) - MOST} more" if len(sure) > MOST else ""
    return f"{len(sure)} of {len(rows)} settings tried differ {what} ({names}{more})."


def _named(row: Row) -> str:
    return f"{row['arm']} at {row['size']} labels {in_words(row)}, p {row['p']:.3f} of all"


def _worth(rows: list[Row], heads: Sequence[str]) -> str:
    """DES where tokens grow with what is asked for."""
    sentences = []
    for head in heads:
        of = {
            (row["size"], row["arm"]): row["figures"].get("des")
            for row in rows
            if row["outcome"] == f"{head}; {SCALED}" and not _is_control(row["arm"])
        }
        for size in dict.fromkeys(size for size, _ in of):
            each = [f"{arm} {des:.1f}" for (n, arm), des in of.items() if n == size and des]
            if len(each) > 1:
                sentences.append(f"{head}, {size} labels: {', '.join(each)}")
    return f"DES: {'; '.join(sentences)}." if sentences else ""


def _controls(rows: list[Row], head: str) -> str:
    of = [row for row in rows if row["outcome"].startswith(f"{head}; ")]
    null = [row for row in of if row["arm"] == NULL]
    false = [row for row in null if not row["low"] <= 0 <= row["high"]]
    beside = [row for row in of if row["against"] == SHUFFLED]
    features = "; ".join(f"{row['size']} labels {in_words(row)}" for row in beside)
    half = min((row["high"] - row["low"]) / 2 for row in of if _belongs(row, True))
    return (
        f"{head[0].upper()}{head[1:]}: another draw of random rows differs at {len(false)} of "
        f"{len(null)} sizes; beside rows chosen by the features of others the setting as given "
        f"makes {features}; differences below about {half:.3f} cannot be seen."
    )


def _note(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> str:
    there = {(row["size"], row["arm"]) for row in rows if row["outcome"].endswith(SCALED)}
    settings = [(size, f"{n} rows per gap") for size in spec.labels for n in SAMPLES]
    too_few = [f"{arm} at {size} labels" for size, arm in settings if (size, arm) not in there]
    return " ".join(
        [
            described(facts, spec),
            "Intervals are of each comparison alone; p is of all settings, sizes and heads that "
            "are set beside the same, at once (maxT), so that an interval may leave zero out where "
            "p is large: the figures' full dots are such. FAC is at the threshold as given. DES is "
            "AUPRC in percent over log10 of the rows added; it falls wherever AUPRC grows slower.",
            *([f"Too few rows for tokens in proportion to {', '.join(too_few)}."] * bool(too_few)),
        ]
    )


def _facts(data: Sweep) -> Mapping[str, Any]:
    return data.data.facts()


EXPERIMENT = Experiment(
    title="How much does the effect of filling gaps depend on how it is done?",
    value="AUPRC",
    columns={
        "threshold": "above",
        "gaps": "gaps",
        "rows": "rows",
        "fac": "FAC",
        "des": "DES",
        "gain": "gain per 1,000 tokens",
    },
    pieces=pieces,
    material=sweep,
    measure=measure,
    effects=effects,
    facts=_facts,
    says=says,
    check=labels_suffice,
    ranked=False,
    preference=5,
)
