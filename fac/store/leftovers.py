"""What killed work left in a workspace, and what of it may be removed: nothing that a run, a job or
a decision refers to, that a process holds, or that a step could go on from."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError
from fac.store.decisions import Decisions
from fac.store.processes import BEFORE, PREFIX
from fac.store.queue import Queue
from fac.store.runs import Runs, is_run_id, lock_file

QUIET = 3600.0
"""Seconds in which nothing of an export or an upload was written before it counts as given up: no
lock tells whether anybody is still at it."""

EVERY_JOB = 1_000_000

SCRATCH = f"{PREFIX}*"
EXPORTS = (SCRATCH, ".export-*")
UPLOADS = (SCRATCH, ".*.part*")
"""How folders and files begin in which exports and uploads are written, by this version and by
those before it."""


class Leftover(NamedTuple):
    """A file or folder that no reader sees."""

    path: Path
    what: str  # for people: "half a cache"
    n_bytes: int
    stays: str = ""  # why it is not to be removed; "" where it may be
    lock: Path | None = None  # held by whoever still works on it, if anybody does
    changed: int = 0  # nanoseconds since 1970


def leftovers(
    runs: Runs,
    queue: Queue,
    decisions: Decisions,
    *,
    unfinished: bool = False,
    exports: Iterable[Path] = (),
) -> list[Leftover]:
    """What lies about in the workspace, and of killed exports in these folders too. What a step
    could go on from may be removed only where `unfinished` says so and no job is under way.
    Raises InputError for a queue or decisions that cannot be read: what they refer to is unknown.
    """
    survey = _Survey(runs, queue, decisions, unfinished)
    folders = {folder.resolve() for folder in (runs.workspace.root, *exports)}
    every = [
        *(each for home in _folders(runs.root) for each in survey.of_step(home)),
        *survey.of_caches(runs.workspace.cache),
        *survey.given_up(runs.workspace.inputs, UPLOADS, "half an upload"),
        *(x for home in sorted(folders) for x in survey.given_up(home, EXPORTS, "half an export")),
    ]
    return sorted(every)


def remove(leftover: Leftover) -> str:
    """Why it could not be removed; "" once it is gone. Its lock is held meanwhile, so that nobody
    begins to work on it."""
    if leftover.stays:
        return leftover.stays
    try:
        with ExitStack() as stack:
            if leftover.lock is not None:
                stack.enter_context(lock_file(leftover.lock, "it is held by process"))
            if leftover.path == leftover.lock:  # whoever lets go of a lock removes it
                return ""
            if leftover.path.lstat().st_mtime_ns != leftover.changed:
                return "it changed meanwhile"
            _delete(leftover.path)
    except FileNotFoundError:
        return ""
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"it could not be removed ({error.strerror or error})"
    return ""


def holder(lock: Path) -> str:
    """The number of the process that holds a lock; "" where none does."""
    try:
        with lock.open("r", encoding="ascii", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "of unknown number"
    except OSError:  # gone meanwhile, or another user's
        return ""
    return ""


class _Survey:
    def __init__(self, runs: Runs, queue: Queue, decisions: Decisions, unfinished: bool):
        self.runs, self.unfinished = runs, unfinished
        jobs = queue.jobs(EVERY_JOB) if queue.exists else []
        manifests = [each for step in _folders(runs.root) for each in runs.list(step.name)]
        self.live = [job.id for job in jobs if job.status in ("waiting", "running")]
        self._texts = {
            "a job": [json.dumps(job.spec) for job in jobs if job.status != "done"],
            "a decision": [*decisions.export()],
            **{f"run {each.run}": [json.dumps(each.content)] for each in manifests},
        }

    def of_step(self, home: Path) -> Iterator[Leftover]:
        """In the folder of a step."""
        for path in sorted(home.iterdir()):
            if path.is_dir() and is_run_id(path.name) and self.runs.find(path.name):
                for part in sorted(path.glob("_*")):
                    if part.name not in self.runs.manifest(path.name).files:
                        yield self._held(part, "a working file of a finished run", path.name)
            elif run := _run_of(path, ".lock-"):
                if not holder(path):
                    yield _leftover(path, "a lock that nobody holds", lock=path)
            elif run := _run_of(path, ".tmp-"):
                yield self._unfinished(self._held(path, "an unfinished run", run))
            elif _run_of(path, ".replies-"):
                paid = self.given_up(home, [path.name], "replies to a run that is not finished")
                yield from map(self._unfinished, paid)
            elif run := _run_of(path, ".adopt-"):
                yield self._held(path, "half a copy of a run", run)
            elif run := _run_of(path, ".damaged-"):
                yield self._damaged(path, run)

    def of_caches(self, home: Path) -> Iterator[Leftover]:
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            name = path.name
            run = _run_of(path, ".spill-") or name.split(".duckdb")[0]
            if _run_of(path, ".lock-"):
                if not holder(path):
                    yield _leftover(path, "a lock that nobody holds", lock=path)
            elif name.startswith(".spill-") or ".duckdb.tmp" in name:
                yield self._held(path, "half a cache", run, home)
            elif name == f"{run}.duckdb" and is_run_id(run) and not self.runs.find(run):
                yield self._held(path, "the cache of a run that is not here", run, home)

    def given_up(self, home: Path, patterns: Iterable[str], what: str) -> Iterator[Leftover]:
        """What matches in a folder, once nobody has written to it for long."""
        for path in sorted(path for pattern in patterns for path in home.glob(pattern)):
            try:
                newest = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
            except FileNotFoundError:  # whoever wrote it has just finished
                continue
            young = abs(time.time() - newest) < QUIET  # a time in the future is a wrong one
            stays = "it was written to in the last hour" if young else ""
            if (path / BEFORE).exists():
                stays = f"{path / BEFORE} was replaced when the export was killed: move it back"
            yield _leftover(path, what, stays)

    def _held(self, path: Path, what: str, run: str, home: Path | None = None) -> Leftover:
        lock = (home or path.parent) / f".lock-{run}"
        if is_run_id(path.parent.name):
            lock = path.parent.with_name(lock.name)
        process = holder(lock)
        return _leftover(path, what, f"process {process} works on it" if process else "", lock)

    def _unfinished(self, leftover: Leftover) -> Leftover:
        if leftover.stays:
            return leftover
        if self.live:
            return leftover._replace(stays=f"job {self.live[0]} is under way and may need it")
        if not self.unfinished:
            return leftover._replace(stays="its step can go on from it; --unfinished removes it")
        return leftover

    def _damaged(self, path: Path, run: str) -> Leftover:
        leftover = self._held(path, "a damaged run", run)
        if leftover.stays or self.runs.find(run):  # computed again since
            return leftover
        texts = self._texts.items()
        by = next((who for who, each in texts if any(run in text for text in each)), "")
        return leftover._replace(stays=f"{by} refers to it: compute it again first" if by else "")


def _run_of(path: Path, prefix: str) -> str:
    """The run that a hidden file or folder is about; "" where its name has another beginning."""
    run = path.name.removeprefix(prefix).split(".")[0] if path.name.startswith(prefix) else ""
    return run if is_run_id(run) else ""


def _folders(home: Path) -> Sequence[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _leftover(path: Path, what: str, stays: str = "", lock: Path | None = None) -> Leftover:
    sizes = [each.lstat().st_size for each in (path, *path.rglob("*")) if each.is_file()]
    return Leftover(path, what, sum(sizes), stays, lock, path.lstat().st_mtime_ns)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
