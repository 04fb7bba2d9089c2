"""The stores of the workspace in use, opened once per server and shared by every session."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path

from fac import config
from fac.config import Workspace
from fac.store import Stores, open_stores

_opening = threading.Lock()


def stores(root: Path | None = None) -> Stores:
    """The stores of the workspace in use, or of the one at `root`; they remember their answers."""
    with _opening:
        return _stores(root or workspace().root)


@lru_cache(maxsize=8)
def _stores(root: Path) -> Stores:
    return open_stores(Workspace(root), remember=True)


def workspace() -> Workspace:
    return _workspace(os.environ.get("FAC_WORKSPACE"))


@lru_cache(maxsize=8)
def _workspace(_environment: str | None) -> Workspace:
    """Finding out where it really lies takes longer than most of what pages then ask it."""
    return config.workspace()
