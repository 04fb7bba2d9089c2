"""The stores of the workspace in use, opened once per server and shared by every session."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path

from fac.config import Workspace
from fac.store import Stores, open_stores
from fac.ui.access import permit, workspace

_opening = threading.Lock()

__all__ = ["stores", "workspace"]


def stores(root: Path | None = None) -> Stores:
    """The stores of the workspace in use, or of the one at `root`; they remember their answers. Who
    is at the page has to be permitted what changes queue and decisions."""
    with _opening:
        return _stores(root or workspace().root)


@lru_cache(maxsize=8)
def _stores(root: Path) -> Stores:
    return open_stores(Workspace(root), remember=True, permit=permit)
