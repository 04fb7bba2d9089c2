"""What handing a measure to Ray costs on one machine, beside measuring in this process.

    python -m benchmarks.ray --samples 1024

measures the same texts again and again, in turns: here with `local`, and with `ray` on workers of
this machine that have loaded their model before. Both read with the same number of cores. The
start of Ray and of its workers is told apart: a long measure pays it once. Every turn also compares
the tables, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fac.config import DEMO_INPUTS, IngestSpec, MeasureSpec, Workspace
from fac.executor import RayEncoder, Where
from fac.jobs.steps import Steps
from fac.measure import measure
from fac.store.runs import Runs


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody looks on."""


def once(encoder: Any, spec: MeasureSpec, workspace: Workspace) -> tuple[float, dict[str, bytes]]:
    """Seconds of one measure, and its tables; the run is thrown away."""
    runs = Runs(workspace)
    executor = encoder.read_parts if isinstance(encoder, RayEncoder) else None
    begun = time.monotonic()
    how: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": quiet}
    run_id = measure(spec, sae_run="sae-0", executor=executor, **how)
    seconds = time.monotonic() - begun
    tables = {path.name: path.read_bytes() for path in runs.path(run_id).glob("*.parquet")}
    for path in runs.path(run_id).iterdir():
        path.unlink()
    runs.path(run_id).rmdir()
    return seconds, tables


def compare(texts: Path, samples: int, turns: int, workers: int | None, root: Path) -> list[str]:
    """The table, line by line."""
    workspace = Workspace(root)
    few = root / "texts.jsonl"
    with texts.open(encoding="utf-8") as file:
        few.write_text("".join(line for line, _ in zip(file, range(samples), strict=False)))
    steps = {name: Steps(workspace, where=Where(name)) for name in ("local", "ray")}
    steps["ray"].where = Where("ray", workers=workers)
    source = steps["local"].perform(IngestSpec(name="texts", source=str(few)), quiet)
    spec = MeasureSpec(dataset=source)

    here = steps["local"].reader(spec, quiet)
    begun = time.monotonic()
    there = steps["ray"].reader(spec, quiet)
    start = time.monotonic() - begun
    seconds_by_executor: dict[str, list[float]] = {"local": [], "ray": []}
    same = True
    for turn in range(turns + 1):  # the first warms both up: caches, and the workers' models
        tables: dict[str, dict[str, bytes]] = {}
        for name in ("local", "ray") if turn % 2 else ("ray", "local"):
            seconds, tables[name] = once(here if name == "local" else there, spec, workspace)
            if turn:
                seconds_by_executor[name].append(seconds)
        same = same and tables["local"] == tables["ray"]
    ratio = np.median(seconds_by_executor["ray"]) / np.median(seconds_by_executor["local"])
    facts = Runs(workspace).manifest(source).facts
    pool = steps["ray"]._workers(quiet)
    lines = [
        f"{facts.n_samples:,} samples, {turns} turns, {pool.size} worker(s) of Ray",
        "",
        "| executor | seconds, median (range) | of local |",
        "| --- | --- | --- |",
    ]
    for name, took in seconds_by_executor.items():
        times = f"{np.median(took):.2f} ({min(took):.2f} to {max(took):.2f})"
        share = 1.0 if name == "local" else ratio
        lines.append(f"| {name} | {times} | {share:.3f} |")
    lines += [
        "",
        f"Start of Ray, a worker and its model: {start:.1f} s, once. "
        f"Tables: {'identical' if same else 'DIFFERENT'}.",
    ]
    pool.close()
    return lines


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=Path, default=DEMO_INPUTS / "anchor.jsonl")
    parser.add_argument("--samples", type=int, default=512, help="the first so many of the file")
    parser.add_argument("--turns", type=int, default=4, help="measured with each executor")
    parser.add_argument("--workers", type=int, help="of Ray; one of all cores if not given")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        lines = compare(options.texts, options.samples, options.turns, options.workers, Path(root))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
