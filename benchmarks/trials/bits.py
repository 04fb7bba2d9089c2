"""Flipped bits: what a disk or a copy spoils is never used as if it were whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.trials.promises import Broken, Promise, Trial
from benchmarks.trials.world import everything_of, kitchen, refusal
from fac.config import Workspace
from fac.errors import DamagedRun, FacError
from fac.questions.comparison import Comparison, coverage
from fac.questions.gaps import gap_table
from fac.store import open_stores
from fac.store.cache import NotReady
from fac.store.runs import Runs

STEPS = ("dataset", "measure", "sae", "explain", "relevance")


def flip(path: Path, rng: random.Random) -> None:
    """Flips one bit of a file, any with the same chance."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


@contextmanager
def run_files(folder: Path) -> Iterator[Trial]:
    """A bit of any file of any run of a workspace."""
    workspace = kitchen(folder / "kitchen", explained=True)
    runs = Runs(workspace)
    whole = {each.run: everything_of(runs, each.run) for s in STEPS for each in runs.list(s)}
    ids = sorted(whole)

    def trial(rng: random.Random) -> str:
        run = rng.choice(ids)
        path = rng.choice(sorted(runs.path(run).iterdir()))
        before = path.read_bytes()
        flip(path, rng)
        try:
            if everything_of(Runs(workspace), run) != whole[run]:
                raise Broken(f"{path.name} of {run} was changed and used")
            return "read as it was"  # a blank of a manifest became another one
        except DamagedRun as error:
            return refusal(error, run)
        finally:
            path.write_bytes(before)

    yield trial
    if {run: everything_of(runs, run) for run in ids} != whole:
        raise Broken("the runs are not as they were before")


def answers(workspace: Workspace, anchor: str, dataset: str) -> str:
    """What pages read from caches, as text: what cannot be told is unequal to itself otherwise."""
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        comparison = Comparison(anchor, dataset, 0.0)
        sae = stores.runs.list("sae")[0].run
        result = coverage(stores, comparison)
        replies = {
            "summary": stores.cache.summary(anchor),
            "coverage": (result.fac, result.n_covered, result.missing.tolist()),
            "gaps": gap_table(stores, comparison)[0].to_pylist(),
            "points": stores.cache.points(sae).to_pylist(),
            "spans": [stores.cache.spans(anchor, feature) for feature in range(12)],
        }
    return repr(replies)


@contextmanager
def caches(folder: Path) -> Iterator[Trial]:
    """A bit of any cache that pages read from."""
    workspace = kitchen(folder / "kitchen")
    runs = Runs(workspace)
    measured = [runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed")]
    whole = answers(workspace, *measured)
    away = folder / "whole"
    shutil.copytree(workspace.cache, away)

    def trial(rng: random.Random) -> str:
        path = rng.choice(sorted(workspace.cache.glob("*.duckdb")))
        flip(path, rng)
        try:
            if answers(workspace, *measured) != whole:
                raise Broken(f"{path.name} was changed and gives other answers")
            return "answered as before"  # the bit lies where nothing is kept
        except NotReady as error:
            return refusal(error, *measured, path.stem)
        except FacError as error:
            return refusal(error)
        finally:
            path.unlink()
            shutil.copy2(away / path.name, path)

    yield trial


PROMISES = (
    Promise(
        "bits",
        "files of runs",
        "A run in which a bit of any file has flipped is refused by name; nothing of it is used.",
        run_files,
        400,
    ),
    Promise(
        "bits",
        "caches",
        "A cache in which a bit has flipped is refused, or answers as it did before.",
        caches,
        200,
    ),
)
