"""What the experiments can see: controls whose answer is known, in many repeats.

    python -m benchmarks.controls [--workspace DIR --dataset NAME --label L] [--repeats 20]

Null controls (another draw of random rows; labels that were shuffled) may be called a difference no
oftener than a 95 % interval allows; positive controls (more labels, more tokens, wrong labels) must
be. Without a workspace the rows are planted, no model is needed, and two cases more are known:
labels that depend on features which few rows fire, where rows that fill gaps must be seen to help,
and labels that depend on a frequent one, where they must not. With a workspace the rows are those
of a measured dataset with labels, split anew in every repeat. Ends with the smallest effect that is
seen in four of five repeats.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec, Workspace
from fac.experiments.arms import ALL, ARMS, FILLING, MORE, NULL, RANDOM, SHUFFLED
from fac.experiments.effects import contrasts
from fac.experiments.kinds.rq1 import WRONG, mislabelled
from fac.experiments.material import Material, labelled, pool_above
from fac.experiments.run import Doors, Piece, Row
from fac.experiments.trials import Trial, beginning, seed_of
from fac.jobs.steps import Steps, silent
from fac.questions.comparison import clear_firing
from fac.schema import Chat
from fac.store import open_stores

REPEATS, LABELS, DRAWS = 20, 20, 20

LEVEL = 0.05  # what a 95 % interval leaves out

DOSES = (0.15, WRONG)  # of the labels of what is added, wrong
GRADED = "graded"

RIGHT, NOISE = "the right labels", "shuffled labels"

NULLS = {
    "another draw of random rows": (RIGHT, NULL, RANDOM),
    "shuffled labels, rows that fill gaps": (NOISE, FILLING, RANDOM),
    "shuffled labels, twice the tokens": (NOISE, MORE, RANDOM),
}
"""Name -> which rows, arm, against: differs by chance alone."""


def wrong(share: float) -> str:
    return f"random rows, {share:.0%} mislabelled"


POSITIVES = {
    "more labels: all of the pool": (RIGHT, ALL, RANDOM),
    "more tokens: twice as many": (RIGHT, MORE, RANDOM),
    f"wrong labels: {WRONG:.0%} of what is added": (RIGHT, RANDOM, wrong(WRONG)),
}
"""The same: is better than what it stands beside."""

SMALLER = {f"wrong labels: {DOSES[0]:.0%} of what is added": (RIGHT, RANDOM, wrong(DOSES[0]))}
"""The same, of a size that need not be seen."""

PLANTED = "planted"

HELPS, IDLE = "labels by rare features", "labels by a frequent feature"


class Control(NamedTuple):
    """What became of one control in all repeats."""

    control: str
    head: str
    seen: int  # repeats whose interval leaves out 0, on the side that is asked about
    repeats: int
    difference: float  # mean over repeats
    half: float  # of an interval, median over repeats


def planted(seed: int, rare: bool, n: int = 450) -> Material:
    """Rows of one of 40 rare features each, and of some frequent ones. Of `rare`, half of the rare
    features are what is looked for; else it is three at least of the first five frequent ones."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    n_frequent, often = (3, 0.25) if rare else (8, 0.5)
    n_rare, width = 40, 128
    fires = np.zeros((n, n_frequent + n_rare), bool)
    fires[:, :n_frequent] = rng.random((n, n_frequent)) < often
    kind = rng.integers(0, n_rare, n)
    fires[np.arange(n), n_frequent + kind] = True
    positive = kind < n_rare // 2 if rare else fires[:, :5].sum(axis=1) >= 3
    values = np.where(fires, 1 + rng.exponential(size=fires.shape), 0)
    values[:, n_frequent:] *= 4
    peaks = csr_matrix(values, dtype=np.float32)
    directions = rng.standard_normal((fires.shape[1], width)) / np.sqrt(width)
    states = np.log1p(values) @ directions + 0.03 * rng.standard_normal((n, width))
    order = rng.permutation(n)
    test, train = np.sort(order[: n * 2 // 5]), np.sort(order[n * 2 // 5 :])
    tokens = rng.integers(8, 25, n)
    pool = pool_above(peaks, 0.5, states.astype(np.float32), tokens, train)
    return Material(pool, peaks.log1p(), positive, test, train, 0, 0, n)


def learned(
    data: Material, labels: int, draws: int, seed: int, arms: Sequence[str], doses: Sequence[float]
) -> Iterator[Row]:
    for number in range(draws):
        piece = Piece("", labels, number)
        draw = beginning(data, labels, seed_of(seed, piece))
        trial = Trial(data, piece, draw)
        for arm in arms:
            yield from trial.learned(arm, ARMS[arm](data.pool, draw))
        added = ARMS[RANDOM](data.pool, draw)
        for share in doses:
            of_these = mislabelled(data.positive, added, share, draw.seed)
            yield from trial.learned(wrong(share), added, of_these)


def compared(
    which: str,
    data: Material,
    seed: int,
    labels: int,
    draws: int,
    arms: Sequence[str],
    doses: Sequence[float] = (),
) -> list[Row]:
    """Rows of EXPERIMENT_EFFECTS of all pairs, that say `which` rows and which repeat."""
    rows = learned(data, labels, draws, seed, arms, doses)
    every = contrasts(
        rows,
        data.positive[data.test],
        seed,
        lambda arms: [(a, b) for a in arms for b in arms if a != b],
    )
    return [{**each.row(), "which": which, "repeat": seed} for each in every]


def shuffled(data: Material, seed: int) -> Material:
    return data._replace(positive=np.random.default_rng(seed).permutation(data.positive))


def repeat(seed: int, labels: int, draws: int, data: Material | None = None) -> list[Row]:
    """All controls once, on planted rows unless others are given."""
    every = (RANDOM, NULL, FILLING, SHUFFLED, MORE, ALL)
    here = planted(seed, rare=False) if data is None else data
    rows = compared(RIGHT, here, seed, labels, draws, every, DOSES)
    rows += compared(NOISE, shuffled(here, seed), seed, labels, draws, (RANDOM, FILLING, MORE))
    if data is None:
        rare = planted(seed, rare=True)
        rows += compared(HELPS, rare, seed, labels, draws, (RANDOM, FILLING, SHUFFLED))
    return rows


def tallies(rows: Iterable[Row]) -> dict[str, list[Control]]:
    """The controls of all repeats, by what is known of them."""
    rows = [*rows]
    heads = [*dict.fromkeys(row["outcome"] for row in rows)]
    pairs = {
        "rows that fill gaps, beside random rows": (FILLING, RANDOM),
        "the same, beside the features of other rows": (FILLING, SHUFFLED),
    }
    helps = {name: (HELPS, *pair) for name, pair in pairs.items()}
    are_planted = any(row["which"] == HELPS for row in rows)
    idle = {name: (RIGHT, *pair) for name, pair in pairs.items() if are_planted}
    kinds = {
        "null": (NULLS, either),
        "positive": (POSITIVES, above),
        GRADED: (SMALLER, above),
        HELPS: (helps, above),
    }
    kinds[IDLE] = (idle, above)
    return {
        kind: [
            tally
            for name, (which, arm, against) in controls.items()
            for head in heads
            if (tally := _tally(rows, name, head, (which, arm, against), seen))
        ]
        for kind, (controls, seen) in kinds.items()
    }


def either(row: Row) -> bool:
    return not row["low"] <= 0 <= row["high"]


def above(row: Row) -> bool:
    return bool(row["low"] > 0)


def _tally(
    rows: list[Row], name: str, head: str, about: tuple[str, str, str], seen: Callable[[Row], bool]
) -> Control | None:
    of = [
        row
        for row in rows
        if row["outcome"] == head and (row["which"], row["arm"], row["against"]) == about
    ]
    if not of:
        return None
    difference = float(np.mean([row["difference"] for row in of]))
    half = float(np.median([(row["high"] - row["low"]) / 2 for row in of]))
    return Control(name, head, sum(map(seen, of)), len(of), difference, half)


def most(repeats: int, level: float = LEVEL) -> int:
    """How often chance calls a difference at most, but for one time in twenty: of 20 repeats at
    5 %, three times.

    >>> most(20), most(100)
    (3, 9)
    """
    from scipy.stats import binom

    return int(binom.ppf(0.95, repeats, level))


def smallest(half: float) -> float:
    """The difference that is seen in four of five repeats, where an interval reaches so far to
    either side: 1.96 + 0.84 standard errors."""
    return half * (1.96 + 0.84) / 1.96


def lines(kinds: Mapping[str, list[Control]]) -> Iterator[str]:
    """Tables in Markdown, and what they say."""
    words = {
        "null": "differs, though it should not",
        "positive": "is found, as it should be",
        GRADED: "is found: a smaller effect",
        HELPS: f"{HELPS}: is seen to help, as it should be",
        IDLE: f"{IDLE}: is seen to help, though it should not",
    }
    for kind, controls in kinds.items():
        if not controls:
            continue
        bound = f" (at most {most(controls[0].repeats)})" if kind in ("null", IDLE) else ""
        yield f"| control | head | {words[kind]}{bound} | mean difference | half-width |"
        yield "|---|---|---|---|---|"
        for each in controls:
            yield (
                f"| {each.control} | {each.head} | {each.seen} of {each.repeats} "
                f"| {each.difference:+.3f} | {each.half:.3f} |"
            )
        yield ""
    for control in kinds["null"][:2]:
        yield (
            f"The smallest effect seen in four of five repeats, {control.head}: "
            f"{smallest(control.half):.3f} of AUPRC."
        )
    yield verdict(kinds)


def verdict(kinds: Mapping[str, list[Control]]) -> str:
    """Whether the instrument is one."""
    false = [
        each for kind in ("null", IDLE) for each in kinds[kind] if each.seen > most(each.repeats)
    ]
    missed = [
        each
        for kind in ("positive", HELPS)
        for each in kinds[kind]
        if each.seen < 0.8 * each.repeats
    ]
    if not (false or missed):
        return "Every control is as it should be."
    names = [
        f"{each.control} ({each.head}, {each.seen} of {each.repeats})" for each in (*false, *missed)
    ]
    return f"Not as they should be: {'; '.join(names)}."


def of_workspace(
    place: Path, dataset: str, label: str, options: argparse.Namespace
) -> Iterator[Material]:
    """The labelled rows of a measured dataset, split anew for every repeat; their states are read
    once, by the model that measured them."""
    stores, steps = (
        open_stores(Workspace(place.resolve()), remember=False),
        Steps(Workspace(place.resolve())),
    )
    measure = stores.runs.resolve("measure", dataset)
    threshold = clear_firing(stores, measure)
    measured = stores.runs.manifest(measure).spec

    def states(chats: Sequence[Chat]) -> np.ndarray:
        return steps.encoder(measured, silent).model.mean_states(chats, silent)

    with TemporaryDirectory() as folder:
        for seed in range(options.repeats):
            spec = ExperimentSpec(
                name="rq1",
                measure=measure,
                label=label,
                threshold=threshold,
                labels=(options.labels,),
                seed=seed,
            )
            yield labelled(spec, stores.runs, Doors(states), Path(folder))


def everything(options: argparse.Namespace) -> list[Row]:
    """The effects of all repeats, several at once."""
    repeats = range(options.repeats)
    data: Iterable[Material | None] = [None] * options.repeats
    if options.workspace:
        data = of_workspace(options.workspace, options.dataset, options.label, options)
    once = partial(repeat, labels=options.labels, draws=options.draws)
    if options.workers == 1:
        return [
            row for seed, each in zip(repeats, data, strict=True) for row in once(seed, data=each)
        ]
    with ProcessPoolExecutor(options.workers) as pool:
        waiting = [
            pool.submit(once, seed, data=each) for seed, each in zip(repeats, data, strict=True)
        ]
        return [row for each in waiting for row in each.result()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, help="Rows of a dataset there, else planted ones")
    parser.add_argument("--dataset", help="Measured, with labels")
    parser.add_argument("--label")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--labels", type=int, default=LABELS, help="That one begins with")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="The same as JSON, beside that of other rows")
    options = parser.parse_args(arguments)
    kinds = tallies(everything(options))
    print("\n".join(lines(kinds)))
    if options.out:
        answer: dict[str, Any] = read(options.out)
        answer[options.dataset or PLANTED] = {
            kind: [each._asdict() for each in controls] for kind, controls in kinds.items()
        }
        options.out.write_text(json.dumps(answer, indent=1) + "\n", "utf-8")


def read(path: Path) -> dict[str, Any]:
    """What --out wrote, by the rows it is of; empty where there is nothing."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def shown(answer: Mapping[str, Any]) -> Iterator[str]:
    """The same tables again, of all rows that --out wrote of."""
    for name, kinds in answer.items():
        yield f"Rows: {name}."
        yield ""
        yield from lines({kind: [Control(**each) for each in kinds[kind]] for kind in kinds})
        yield ""


if __name__ == "__main__":
    main()
