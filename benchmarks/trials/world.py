"""What trials are made on: a small workspace whose features are words, copies of it, and what a
reader gets of one."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.trials.promises import Broken
from fac import __main__ as cli
from fac.config import Workspace
from fac.errors import FacError
from fac.schema import REPLIES
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy

AGES_AGO = (1e9, 1e9)


def kitchen(root: Path, *, explained: bool = False) -> Workspace:
    """The toy workspace of the tests: two measured datasets, an SAE and their caches."""
    return toy.toy_workspace(root, explained=explained)


def copy_of(workspace: Workspace, root: Path) -> Workspace:
    """A copy in a new folder; what was there is gone."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(workspace.root, root)
    return Workspace(root)


def rows_of(runs: Runs, run: str) -> dict[str, list[dict[str, Any]]]:
    """All tables of a run, without the times at which replies came and in an order of their own."""
    tables = {}
    for name in runs.manifest(run).files:
        table = runs.table(run, name.removesuffix(".parquet"))
        if name == "replies.parquet":
            table = table.select([each for each in REPLIES.names if each != "at"])
            table = table.sort_by([("about", "ascending"), ("key", "ascending")])
        tables[name] = table.to_pylist()
    return tables


def everything_of(runs: Runs, run: str) -> tuple[Any, dict[str, pa.Table]]:
    """All that a reader gets of a run: what its manifest says, and its tables."""
    manifest = runs.manifest(run)
    names = [name.removesuffix(".parquet") for name in manifest.files]
    return manifest.content, {name: runs.table(run, name) for name in names}


def command(*line: str, workspace: Workspace) -> tuple[int, str, str]:
    """Exit code, output and complaint of a command, carried out in this process."""
    out, err = io.StringIO(), io.StringIO()
    arguments = [*line, "--workspace", str(workspace.root)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(arguments)
    return code, out.getvalue(), err.getvalue()


def tree(root: Path) -> set[str]:
    """All files and folders under a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def tidy(workspace: Workspace, *exports: Path) -> set[str]:
    """What lies in a workspace after `fac gc --remove`, hours later; SQLite's own files beside a
    database do not count. Raises Broken where something cannot be removed."""
    for folder in (workspace.root, *exports):
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, AGES_AGO)
    code, _, complaint = command("gc", *map(str, exports), "--remove", workspace=workspace)
    if code:
        raise Broken(f"fac gc ended with {code}: {complaint}")
    return {path for path in tree(workspace.root) if not path.endswith(("-wal", "-shm"))}


def is_one_of_ours(error: BaseException) -> bool:
    """Whether an error is the project's own, in one sentence."""
    return isinstance(error, FacError) and "\n" not in str(error) and len(str(error)) > 20


def refusal(error: Exception, *names: str) -> str:
    """How a trial ends whose harm was noticed. Raises Broken unless the error is one of the
    project's own, one sentence that holds one of these names."""
    if not is_one_of_ours(error):
        raise Broken(f"{type(error).__name__} is no error of this program: {error}") from error
    if names and not any(name in str(error) for name in names):
        raise Broken(f"it names none of {', '.join(names)}: {error}") from error
    return "refused"


def is_one_sentence(code: int, complaint: str) -> bool:
    """Whether a command ended as one does that was refused: with a sentence, and its exit code."""
    lines = complaint.strip().splitlines()
    own = all(line.startswith("fac: ") for line in lines[-1:])
    return code in (1, 2, 3) and own and "Traceback" not in complaint and "a bug" not in complaint


def stores_of(workspace: Workspace) -> tuple[Runs, Queue, Decisions]:
    return Runs(workspace), Queue(workspace.queue), Decisions(workspace.decisions)


def settle(path: Path) -> None:
    """Moves all of a database into its one file, and forgets what lay beside it."""
    with contextlib.closing(sqlite3.connect(path)) as con:
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def in_a_child(use: Callable[[], str]) -> str:
    """What it returns, carried out in a process of its own, which may crash. Raises Broken where it
    does, and for whatever it raises."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            words = f"+{use()}"
        except BaseException as error:
            words = f"-{type(error).__name__}: {error}"
        os.write(writes, words.encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as pipe:
        words = pipe.read().decode("utf-8", "replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not words.startswith("+"):
        raise Broken(words[1:] or f"the process ended with {status}")
    return words[1:]
