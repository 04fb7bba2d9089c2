"""Time, memory and faithfulness of a dictionary's map: `python -m benchmarks.map`.

Surveys synthetic decoders as `fac.dictionary.survey` does in the background job: neighbours and
UMAP of n directions of width d. The decoders have what real ones have, broad themes, families that
split a theme, and near twins within a family. Each is surveyed in a process of its own; on a sample
of features the neighbours are compared with all true ones, and the map with the space it is of
(trustworthiness, Venna and Kaski 2001: 1 where map neighbours are neighbours, 0.5 by chance).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from fac import dictionary
from fac.config import REPOSITORY

SIZES = ("8192x576", "65536x576", "65536x4096")
SAMPLE = 500
"""Features whose true neighbours are looked up, by every cosine."""


def decoder(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Directions, float32 `[n, d]`: cosines of about 0.2 within a theme, 0.5 within a family and
    0.8 between near twins; families have sizes by a power law, and a tenth of all belongs to none.
    """
    rng = np.random.default_rng(seed)
    themes = rng.standard_normal((max(n // 1000, 4), d), np.float32)
    n_families = max(n // 20, 8)
    families = 0.63 * themes[rng.integers(0, len(themes), n_families)]
    families += 0.77 * rng.standard_normal((n_families, d), np.float32)
    sizes = rng.zipf(1.6, n_families).clip(1, n // 50).astype(float)
    member = rng.choice(n_families, n, p=sizes / sizes.sum())
    twin = rng.integers(0, 3, n)  # three tight groups in each family
    directions = np.empty((n, d), np.float32)
    for first in range(0, n, 4096):
        rows = slice(first, min(first + 4096, n))
        group = member[rows] * 3 + twin[rows]
        # The direction of a group is drawn from its number, so that it need not be kept.
        shared = np.stack(
            [np.random.default_rng(int(g)).standard_normal(d, np.float32) for g in group]
        )
        directions[rows] = 0.71 * families[member[rows]] + 0.55 * shared
        directions[rows] += 0.45 * rng.standard_normal(directions[rows].shape, np.float32)
    alone = rng.random(n) < 0.1
    directions[alone] = rng.standard_normal((int(alone.sum()), d), np.float32)
    return directions


def surveyed(n: int, d: int) -> dict[str, Any]:
    """One survey in this process: seconds of its parts, peak memory, faithfulness."""
    directions = decoder(n, d)
    begun, last_note = time.perf_counter(), ""

    def report(done: int, total: int, note: str) -> None:
        nonlocal last_note
        if note != last_note:
            print(f"{time.perf_counter() - begun:6.0f} s  {note}", file=sys.stderr, flush=True)
            last_note = note

    neighbours, cosines, xy = dictionary.survey(directions, progress=report)
    ended = time.perf_counter()
    peak = _peak()
    recall, close = true_neighbours(directions, neighbours)
    return {
        "size": f"{n}x{d}",
        "seconds": ended - begun,
        "decoder_mb": directions.nbytes / 1e6,
        "peak_mb": peak,
        "recall": recall,
        "recall_close": close,
        "trustworthiness": trustworthiness(directions, xy),
    }


def _sample(n: int) -> np.ndarray:
    return np.random.default_rng(1).choice(n, min(SAMPLE, n), replace=False)


def true_neighbours(directions: np.ndarray, neighbours: np.ndarray) -> tuple[float, float]:
    """The share of the true nearest that were found: of all, and of those at a cosine above 0.3."""
    rows = _sample(len(directions))
    cosine = _cosines(directions, rows)
    cosine[np.arange(len(rows)), rows] = -np.inf
    true = np.argsort(-cosine, axis=1)[:, : neighbours.shape[1]]
    hit = np.stack([np.isin(mine, ours) for mine, ours in zip(true, neighbours[rows], strict=True)])
    close = np.take_along_axis(cosine, true, 1) > 0.3
    return float(hit.mean()), float(hit[close].mean()) if close.any() else float("nan")


def trustworthiness(directions: np.ndarray, xy: np.ndarray, k: int = 15) -> float:
    """Of the k nearest on the map, how far down the true order they are; on a sample."""
    rows = _sample(len(directions))
    n = len(directions)
    cosine = _cosines(directions, rows)
    cosine[np.arange(len(rows)), rows] = np.inf
    rank = np.empty(cosine.shape, np.int32)
    np.put_along_axis(rank, np.argsort(-cosine, axis=1), np.arange(n, dtype=np.int32)[None], 1)
    apart = ((xy[rows][:, None] - xy[None]) ** 2).sum(2)
    apart[np.arange(len(rows)), rows] = np.inf
    near = np.argpartition(apart, k, axis=1)[:, :k]
    excess = np.maximum(np.take_along_axis(rank, near, 1) - k, 0).sum(dtype=np.int64)
    return float(1 - 2 / (len(rows) * k * (2 * n - 3 * k - 1)) * excess)


def _cosines(directions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosines of some rows with all: float32 `[rows, n]`."""
    mine = dictionary._unit(directions[rows])
    parts = [mine @ block.T for block in dictionary._blocks(directions)]
    return np.concatenate(parts, axis=1)


def _peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Surveys each size in a process of its own and prints a row for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="*", default=SIZES, help="features x width of the model")
    parser.add_argument("--approximate", action="store_true", help="search at every size")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.approximate:
            dictionary.EXACT = 0
        print(json.dumps(surveyed(*map(int, options.one.split("x")))))
        return
    print(
        "| decoder | its MB | seconds | peak MB beyond it | ten nearest found | above 0.3 | trust |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for size in options.sizes:
        command = [sys.executable, "-m", "benchmarks.map", "--one", size]
        command += ["--approximate"] if options.approximate else []
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, check=True
        )
        row = json.loads(ended.stdout.splitlines()[-1])
        print(
            f"| {row['size'].replace('x', ' x ')} | {row['decoder_mb']:,.0f} "
            f"| {row['seconds']:,.0f} | {row['peak_mb'] - row['decoder_mb']:,.0f} "
            f"| {row['recall']:.1%} | {row['recall_close']:.1%} | {row['trustworthiness']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
