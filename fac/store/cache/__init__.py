"""The cache: one DuckDB file per run, derived from its parquet, written once and only read after.

`build` writes cache/<run id>.duckdb under another name and renames it; `Cache` attaches such files
read-only and answers what pages and commands ask. The run id is the version, so nothing is ever
invalidated; a file may be deleted any day and built again. The only DuckDB code.

Each kind of run has a module with its tables, what fills them and what is asked of them. Texts that
are searched have a `folded` form, in lower case, beside them. Tables of a measure run, sorted by
feature so that one feature's rows lie together:
    activations  every stored peak; `strongest` marks the row of the loudest role of its sample,
                 so that "samples, whatever the role" is a plain count
    features     one row per feature of the dictionary, silent ones included
    rungs        the threshold grid: the thresholds that pages offer, and finer ones between them
                 where many peaks lie
    ladder       samples above each of them, per role and feature
    by_peak      the same peaks sorted by peak: those between two thresholds lie together
    leaders      the two highest peaks of every role and feature
    spans, near, samples, meta
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from fac.errors import InputError, disk_full, disk_room, first_line
from fac.manifest import AnyManifest
from fac.store.cache.candidates import CandidateQueries, fill_candidates
from fac.store.cache.features import HISTOGRAM_BINS, SORTABLE, FeatureQueries, fill_sae
from fac.store.cache.files import QUIET, Connection, NotReady, quoted
from fac.store.cache.interpret import RelevanceQueries, fill_explain, fill_relevance
from fac.store.cache.measure import SupportQueries, fill_measure
from fac.store.cache.peaks import PeakQueries
from fac.store.runs import Runs, lock_file

__all__ = ["CACHED", "HISTOGRAM_BINS", "SORTABLE", "Cache", "NotReady", "build"]

BLOCK_BYTES = 65536
"""Of a file, read and checked at once: with DuckDB's own 256 kB, one feature's rows are a small
part of what is read for them."""

FILLS: dict[str, Callable[[Connection, Runs, AnyManifest], None]] = {
    "sae": fill_sae,
    "measure": fill_measure,
    "explain": fill_explain,
    "relevance": fill_relevance,
    "pairs": fill_candidates,
    "rescore": fill_candidates,
    "synthetic": fill_candidates,
}

CACHED = tuple(FILLS)
"""The steps whose runs have a cache."""


class Cache(FeatureQueries, SupportQueries, PeakQueries, RelevanceQueries, CandidateQueries):
    """Reads the caches of a folder; one per process is enough, and threads may share it."""


def build(runs: Runs, run_id: str, folder: Path, *, memory_limit: str = "2GB") -> Path:
    """Writes the cache of a run of a step in CACHED, replacing any older one; returns its path.

    Reads parquet in blocks of features under `memory_limit`, spilling inside `folder`, so memory
    does not grow with the run. The same run gives the same tables. Raises InputError for a run
    without a cache, damaged tables and a full disk; an older cache then stays.
    """
    manifest = runs.manifest(run_id)
    fill = FILLS.get(manifest.step)
    if fill is None:
        raise InputError(
            f"Run {run_id} has no cache: only {', '.join(CACHED[:-1])} and {CACHED[-1]} runs have "
            f"one, this is a {manifest.step} run."
        )
    partial, spill = folder / f"{run_id}.duckdb.tmp", folder / f".spill-{run_id}"
    busy = f"The cache of {run_id} is already being built by process"
    options: dict[str, Any] = {"memory_limit": memory_limit, "default_block_size": BLOCK_BYTES}
    with disk_room(f"the cache of {run_id}"):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_file(folder / f".lock-{run_id}", busy):
            try:
                _remove(partial, spill)
                with duckdb.connect(str(partial), config=options) as con:
                    con.execute(QUIET)
                    con.execute(f"SET temp_directory = {quoted(str(spill))}")
                    fill(con, runs, manifest)
                    con.execute("CHECKPOINT")
                return partial.rename(folder / f"{run_id}.duckdb")
            except duckdb.Error as error:
                if "No space left on device" in str(error):
                    raise InputError(disk_full(f"the cache of {run_id}")) from error
                _blame_damaged_tables(runs, manifest, error)
                # A checkpoint that fails has a class of its own, whatever kept it from the disk.
                if isinstance(error, duckdb.IOException) or "Could not write file" in str(error):
                    raise InputError(
                        f"The cache of {run_id} could not be written ({first_line(error)}): see "
                        f"whether its disk has room, works and lets files grow, then try again."
                    ) from error
                raise
            finally:
                _remove(partial, spill)


def _blame_damaged_tables(runs: Runs, manifest: AnyManifest, error: duckdb.Error) -> None:
    """Raises DamagedRun if a table that was read is no more the one its run promised."""
    for run in (manifest.run, *manifest.inputs.ids):
        if runs.find(run) and (spoilt := runs.verify(run)):
            raise runs.refusal(run, spoilt) from error


def _remove(partial: Path, spill: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_name(partial.name + ".wal").unlink(missing_ok=True)
    shutil.rmtree(spill, ignore_errors=True)
