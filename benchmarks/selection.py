"""Choosing rows of a pool: how long it takes, what it holds in memory, how good it is.

    python -m benchmarks.selection

draws a pool in which every pair of row and feature is there with the same probability, which is
the hardest case: nothing stands out. Prints, each measured in a process of its own,

- the selection of 100,000 rows with 3,000 features at 10 % density until every feature is shown,
  by one sample and by ten, per row and per token, with seconds and peak memory;
- plain greedy, which looks at every row again each time, beside it on a smaller pool: that both
  choose the same, and how long each takes;
- what the form for pools larger than memory reaches of the greedy choice, block by block, at
  budgets of rows; and what random rows do.

What passes by in blocks is drawn anew for each pass, so that no more than a block is in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fac.selection import Rows, Selection, greedy, greedy_in_passes, random_rows


class Size(NamedTuple):
    rows: int = 100_000
    features: int = 3_000
    density: float = 0.1
    blocks: int = 8


def drawn(size: Size, block: int | None = None) -> Rows:
    """The pool, or one block of it: the same rows wherever it is drawn."""
    numbers = range(size.blocks) if block is None else [block]
    parts = [_block(size, number) for number in numbers]
    first = np.zeros(size.features + 1, np.int64)
    np.cumsum(sum(np.diff(part.first) for part in parts), out=first[1:])
    row = np.empty(first[-1], np.int32)
    filled = first[:-1].copy()
    for number, part in zip(numbers, parts, strict=True):
        before = _begin(size, number) - _begin(size, numbers[0])
        counts = np.diff(part.first)
        target = np.repeat(filled - part.first[:-1], counts) + np.arange(len(part.row))
        row[target] = part.row + np.int32(before)
        filled += counts
    return Rows(row, first, sum(part.n_rows for part in parts))


def _begin(size: Size, block: int) -> int:
    return size.rows * block // size.blocks


def _block(size: Size, block: int) -> Rows:
    n_rows = _begin(size, block + 1) - _begin(size, block)
    rng = np.random.default_rng([0, block])
    rows = [
        np.flatnonzero(rng.random(n_rows, np.float32) < size.density).astype(np.int32)
        for _ in range(size.features)
    ]
    first = np.concatenate([[0], np.cumsum([len(each) for each in rows])])
    return Rows(np.concatenate(rows), first, n_rows)


def blocks(size: Size) -> Iterator[tuple[int, Rows]]:
    for number in range(size.blocks):
        yield _begin(size, number), _block(size, number)


def costs(size: Size) -> np.ndarray:
    """Tokens of each row, log-normal around 200: int64 `[rows]`."""
    draws = np.random.default_rng(1).standard_normal(size.rows)
    return np.exp(5.3 + 0.6 * draws).astype(np.int64).clip(min=1)


def plain(rows: Rows, demand: np.ndarray) -> list[int]:
    """Greedy as it is written down."""
    feature, first = rows.by_row()
    left = demand.copy()
    chosen: list[int] = []
    free = {*range(rows.n_rows)}
    while True:
        best, most = -1, 0
        for row in sorted(free):
            gain = int((left[feature[first[row] : first[row + 1]]] > 0).sum())
            if gain > most:
                best, most = row, gain
        if best < 0:
            return chosen
        chosen.append(best)
        free.remove(best)
        features = feature[first[best] : first[best + 1]]
        left[features[left[features] > 0]] -= 1


class Measured(NamedTuple):
    answer: Any
    seconds: float
    """Of the selection, the pool is there already."""
    peak: float
    """GB of the whole process, the pool with it."""


def _selected(size: Size, per_feature: int, per_token: bool) -> tuple[float, Selection]:
    rows, demand = drawn(size), np.full(size.features, per_feature)
    begun = time.perf_counter()
    chosen = greedy(rows, demand, cost=costs(size) if per_token else None)
    return time.perf_counter() - begun, chosen


def _plain(size: Size) -> tuple[float, list[int]]:
    rows, demand = drawn(size), np.ones(size.features, int)
    begun = time.perf_counter()
    chosen = plain(rows, demand)
    return time.perf_counter() - begun, chosen


def _in_passes(size: Size, budget: int | None) -> tuple[float, Selection]:
    begun = time.perf_counter()
    demand = np.ones(size.features, int)
    chosen = greedy_in_passes(lambda: blocks(size), demand, size.rows, budget=budget)
    return time.perf_counter() - begun, chosen


def _budgeted(size: Size, budgets: list[int | None]) -> tuple[float, list[tuple[int, int]]]:
    rows, demand = drawn(size), np.ones(size.features, int)
    begun = time.perf_counter()
    answers = []
    for budget in budgets:
        chosen = greedy(rows, demand, budget=budget)
        every, ones = np.ones(size.rows, bool), np.ones(size.rows, np.int64)
        chance = [
            int(np.minimum(rows.counts(random_rows(ones, chosen.cost, every, seed)), 1).sum())
            for seed in range(5)
        ]
        answers.append((chosen.value, round(sum(chance) / len(chance))))
    return time.perf_counter() - begun, answers


def _work(function: Callable[..., Any], values: tuple[Any, ...], pipe: Any) -> None:
    seconds, answer = function(*values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pipe.send(Measured(answer, seconds, peak))


def alone(function: Callable[..., Any], *values: Any) -> Measured:
    """What a function answers in a process of its own, and what that took."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(function, values, theirs)
    )
    process.start()
    theirs.close()
    measured: Measured = ours.recv()
    process.join()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name, default in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--small", type=int, default=2_000, help="rows beside plain greedy")
    options = vars(parser.parse_args())
    small = Size(options.pop("small"), min(options["features"], 500), options["density"])
    size = Size(**options)
    print(f"{size.rows:,} rows, {size.features:,} features, density {size.density:.0%}")
    for per_feature in (1, 10):
        for per_token in (False, True):
            result = alone(_selected, size, per_feature, per_token)
            chosen = result.answer
            print(
                f"  {per_feature} a feature, per {'token' if per_token else 'row'}: "
                f"{len(chosen.rows):,} rows in {result.seconds:.1f} s, "
                f"peak {result.peak:.2f} GB"
            )
    print(f"{small.rows:,} rows, {small.features:,} features, beside plain greedy")
    quick, slow = alone(_selected, small, 1, False), alone(_plain, small)
    same = quick.answer.rows.tolist() == slow.answer
    print(
        f"  the same {len(slow.answer)} rows: {'yes' if same else 'NO'}; {quick.seconds:.3f} s "
        f"and {slow.seconds:.3f} s"
    )
    budgets = [5, 10, 20, None]
    print(f"in {size.blocks} blocks, one in memory, at budgets of rows")
    held = alone(_budgeted, size, budgets)
    for budget, (value, chance) in zip(budgets, held.answer, strict=True):
        passed = alone(_in_passes, size, budget)
        rows = f"{budget} rows" if budget else "all that is needed"
        print(
            f"  {rows}: {passed.answer.value:,} of greedy's {value:,} features "
            f"({passed.answer.value / value:.3f}), random rows {chance:,}; "
            f"{len(passed.answer.rows)} rows, {passed.answer.passes} passes, "
            f"{passed.seconds:.0f} s, peak {passed.peak:.2f} GB"
        )


if __name__ == "__main__":
    main()
