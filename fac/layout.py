"""Where things lie on a map, by who their neighbours are: UMAP (McInnes et al., 2018).

Arrays in, arrays out. Seeded and in one thread, so the same neighbours give the same map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

ON_MAP = 15
"""Neighbours that UMAP is given, itself included; its usual number."""

ALIKE = 6
"""Of things whose neighbours fire with them, oneself included: a map is more coherent with fewer
than the usual number (on chats of the corpus .144 with 6, .125 with 15), and in more
pieces."""

FEW = 5
"""So many lie on a circle: UMAP needs more."""

PROGRESS_SECONDS = 0.1  # between two words of UMAP on how far it is

Share = Callable[[float], None]  # told how far along, 0 to 1


def by_likeness(
    neighbours: np.ndarray,
    likeness: np.ndarray,
    seed: int = 0,
    *,
    progress: Share = lambda _: None,
) -> np.ndarray:
    """A map of n things by the others they are most like: float32 `[n, 2]`.

    `neighbours` are int `[n, k]`, -1 where there are no more, `likeness` `[n, k]` from 0, nothing
    in common, to 1. Begins at random: on features of the demo the spectral layout gives the same
    figures, and takes minutes on large maps. Neighbours may touch (min_dist 0): with the usual
    0.1 they are as coherent less a tenth.
    """
    n = len(neighbours)
    if n <= FEW:
        angle = 2 * np.pi * np.arange(n) / max(n, 1)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    k = min(ALIKE - 1, n - 1, neighbours.shape[1])
    near = np.concatenate([np.arange(n)[:, None], neighbours[:, :k]], axis=1).astype(np.int32)
    apart = np.concatenate([np.zeros((n, 1)), 1 - likeness[:, :k]], axis=1).astype(np.float32)
    return fitted(
        np.zeros((n, 2), np.float32),  # UMAP asks for points too; only their number counts
        seed,
        progress,
        precomputed_knn=(near, apart),
        init="random",
        n_neighbors=k + 1,
        min_dist=0.0,
    )


def fitted(points: np.ndarray, seed: int, progress: Share, **options: Any) -> np.ndarray:
    """UMAP of points, float32 `[n, 2]`, by cosine unless neighbours are given."""
    with warnings.catch_warnings():
        # It says which of its extras are not installed, and that it cannot place new points among
        # neighbours it did not search for; neither is needed.
        warnings.simplefilter("ignore", ImportWarning)
        warnings.filterwarnings("ignore", "precomputed_knn")
        from umap import UMAP

        layout = UMAP(
            metric="cosine",
            random_state=seed,
            n_jobs=1,
            # Its only word on how far it is goes to a progress bar.
            tqdm_kwds={
                "disable": False,
                "file": _ProgressBar(progress),
                "bar_format": "{percentage}",
                "mininterval": PROGRESS_SECONDS,
            },
            **{"min_dist": 0.1, **options},
        ).fit_transform(points)
    return layout.astype(np.float32)


class _ProgressBar:
    """Where a progress bar writes the percentage it has reached."""

    def __init__(self, tell: Share):
        self._tell = tell

    def write(self, text: str) -> None:
        with suppress(ValueError):  # blanks and returns
            self._tell(float(text) / 100)

    def flush(self) -> None:
        """There is nothing to wait for."""
