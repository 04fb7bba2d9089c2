"""FAC Explorer: what a dataset lacks in the feature space of a model, and how to fill it.

For programs: `fac.Explorer` opens a workspace, brings data in and answers the questions that the
pages ask (fac/api.py). What is behind it is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fac.errors import FacError

if TYPE_CHECKING:
    from fac.api import Explorer

__version__ = "0.1.0"
__all__ = ["Explorer", "FacError", "__version__"]


def __getattr__(name: str) -> object:
    if name != "Explorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fac.api import Explorer

    return Explorer
