"""The stores of the workspace, opened once per server."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import streamlit as st

from fac import config
from fac.config import Workspace
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs


class Stores(NamedTuple):
    """What one workspace keeps; every part may be used from any session's thread."""

    runs: Runs
    cache: Cache
    queue: Queue
    decisions: Decisions


@st.cache_resource(max_entries=8, show_spinner=False)
def stores(root: Path) -> Stores:
    """The stores of the workspace at `root`. Cached functions take the root, not the stores."""
    place = Workspace(root)
    return Stores(Runs(place), Cache(place.cache), Queue(place.queue), Decisions(place.decisions))


def workspace() -> Workspace:
    return config.workspace()


def runs() -> Runs:
    return stores(workspace().root).runs


def cache() -> Cache:
    return stores(workspace().root).cache


def queue() -> Queue:
    return stores(workspace().root).queue


def decisions() -> Decisions:
    return stores(workspace().root).decisions
