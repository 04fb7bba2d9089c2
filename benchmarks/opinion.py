"""What another SAE says, as a table: `python -m benchmarks.opinion --workspace DIR --anchor A
--dataset D --other RUN [--other RUN ...]`.

For every other SAE: how many features have a partner, of all and of the frequent, beside the same
with its samples permuted; what it says of the certain gaps; and the same at other levels of r, for
one-sided and for mutual partners. An opinion that knew nothing would confirm as many gaps as it has
gaps among the partners of what the dataset covers.

The demo with an SAE of another seed and equal training (an hour and a half on two cores):

    python -m fac train-sae sae_corpus.jsonl.gz --seed 1 --max-samples 18432 --out seed-1
    python -m fac measure demo-anchor --sae seed-1
    python -m fac measure demo-seed --sae seed-1
    python -m benchmarks.opinion --workspace data --anchor RUN --dataset RUN --other RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fac.agreement import wilson
from fac.config import Workspace
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, clear_firing
from fac.questions.opinion import (
    CONFIRMED,
    NO_OPINION,
    Opinion,
    Rate,
    counterpart,
    others_of,
    second_opinion,
)
from fac.store import open_stores

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of r, above which partners count."""


class Level(NamedTuple):
    """The certain gaps with an opinion, where partners have an r above a level."""

    r: float
    opinions: int
    confirmed: int
    mutual_opinions: int
    mutual_confirmed: int


def levels(rows: list[Row]) -> Iterator[Level]:
    """What is confirmed by partners above each level of r, and by mutual ones among them."""
    for r in LEVELS:
        some = [row for row in rows if row["verdict"] != NO_OPINION and row["r"] > r]
        counts = []
        for each in (some, [row for row in some if row["mutual"]]):
            counts += [len(each), sum(row["verdict"] == CONFIRMED for row in each)]
        yield Level(r, *counts)


def share(confirmed: int, n: int) -> str:
    if not n:
        return "-"
    low, high = wilson(confirmed, n)
    return f"{confirmed:,} of {n:,}: {confirmed / n:.3f} ({low:.3f} to {high:.3f})"


def rate(matched: Rate) -> str:
    return share(matched.matched, matched.n)


def lines(opinion: Opinion) -> Iterator[tuple[str, str]]:
    """The table of one SAE."""
    match, chance = opinion.matching, opinion.shuffled
    yield "here", opinion.encoder
    yield "there", opinion.other_encoder
    yield "shared samples", f"{opinion.n_compared:,} of {opinion.n_shared:,}"
    yield "features with a partner", rate(match.every)
    yield "of them mutual", f"{match.mutual:,}"
    yield "frequent ones", rate(match.frequent)
    yield "certain gaps", rate(match.certain)
    yield "all, samples permuted", rate(chance.every)
    yield "frequent, samples permuted", rate(chance.frequent)
    yield (
        "confirmed, of certain gaps with an opinion",
        share(opinion.confirmed, opinion.confirmed + opinion.not_confirmed),
    )
    yield "the same, samples permuted", f"{opinion.shuffled_confirmed:,}"
    yield "a gap there, of what is covered here", rate(opinion.covered)
    for level in levels(opinion.rows):
        yield f"confirmed by partners above {level.r:g}", share(level.confirmed, level.opinions)
        yield "  and mutual", share(level.mutual_confirmed, level.mutual_opinions)


def main() -> None:
    parser = argparse.ArgumentParser(description="What other SAEs say of certain gaps.")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--anchor", required=True, help="Name or id of a measured dataset")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--other", action="append", help="The anchor by another SAE; repeatable")
    options = parser.parse_args()
    with closing(
        (stores := open_stores(Workspace(options.workspace.resolve()), remember=True)).cache
    ):
        runs = (stores.runs.resolve("measure", each) for each in (options.anchor, options.dataset))
        anchor, dataset = runs
        comparison = Comparison(anchor, dataset, clear_firing(stores, anchor))
        for other in options.other or others_of(stores, comparison):
            run = stores.runs.resolve("measure", other)
            opinion = second_opinion(stores, comparison, counterpart(stores, comparison, run))
            for name, figures in lines(opinion):
                print(f"{name:>42}  {figures}")
            print(f"\n{opinion.headline} {opinion.note}\n")


if __name__ == "__main__":
    main()
