"""What a workspace holds on disk, each kind in a module of its own, and all of them together.

runs       finished work: parquet and a manifest, immutable (no SQL)
cache      DuckDB files derived from runs, the only DuckDB code
queue      jobs waiting and running, in SQLite
decisions  what people decided, in SQLite
audit      who did what, where people sign in, in SQLite
processes  which processes live, and scratch folders that go when theirs does
memo       answers from runs and caches, remembered while those do not change
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fac.access import Permit, anybody
from fac.config import Workspace
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.memo import Memo
from fac.store.queue import Queue
from fac.store.runs import Runs


class Stores(NamedTuple):
    """What one workspace holds; threads may share every part."""

    runs: Runs
    cache: Cache
    queue: Queue
    decisions: Decisions

    @property
    def memo(self) -> Memo | None:
        return self.cache.memo

    def rests_on(self, *_: object) -> tuple[Path, ...]:
        """Where a new run or cache shows: the folder of each step, and of the caches."""
        root = self.runs.root
        steps = sorted(root.iterdir()) if root.is_dir() else []
        return (self.cache.folder, root, *steps)


def open_stores(workspace: Workspace, *, remember: bool, permit: Permit = anybody) -> Stores:
    """The stores of a workspace; `permit` is asked before queue and decisions change. Where they
    `remember`, a question to runs, cache or a function that is `remembered` is answered once while
    the runs and caches stay as they are; such answers are shared and must not be changed."""
    memo = Memo()
    return Stores(
        Runs(workspace, memo if remember else None),
        Cache(workspace.cache, memo=memo, remember=remember),
        Queue(workspace.queue, permit),
        Decisions(workspace.decisions, permit),
    )
