"""Train a sparse autoencoder on the residual stream of a subject model, with sae-lens.

Two resumable halves: `collect_activations` writes the content tokens' residual stream once, in
shards; `train` makes any number of passes over the shards and continues from its last checkpoint.
The SAE sees what `fac measure` will show it: content tokens only, no template scaffolding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fac.errors import InputError
from fac.models import SCAFFOLD, Chat, SubjectModel, batches_by_length, keep_freed_memory

if TYPE_CHECKING:
    import torch

Report = Callable[..., None]
CHATS_PER_SHARD = 1024


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the weights, beside the texts and the subject model."""

    width: int = 4608
    """Dictionary size."""

    k: float = 44.0
    """Active features per token, on average over a batch (BatchTopK)."""

    passes: int = 3
    """How often every collected token is seen."""

    batch: int = 4096
    """Tokens per optimiser step."""

    lr: float = 1e-3
    """Adam's learning rate after warm-up."""

    lr_decay: float = 0.3
    """Last share of the steps over which the learning rate falls linearly to zero."""

    dead_window: int = 300
    """Steps without firing after which a feature takes part in the auxiliary loss."""

    seed: int = 0
    """Order of tokens and initial weights."""

    def __post_init__(self) -> None:
        if self.width < 2 or not 0 < self.k < self.width:
            raise InputError(f"k must lie between 0 and the width {self.width}, got {self.k}.")
        if self.passes < 1 or self.batch < 1:
            raise InputError(f"passes and batch must be positive, got {self.passes}, {self.batch}.")


def collect_activations(
    chats: Sequence[Chat], model: SubjectModel, folder: Path, report: Report
) -> int:
    """Content tokens' residual stream as float16 shards `[tokens, d_model]`; returns the tokens.

    A shard is written whole and renamed, so a restart continues after the last finished one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, tokens, begun = len(chats), 0, time.monotonic()
    fresh = 0
    for number, first in enumerate(range(0, total, CHATS_PER_SHARD)):
        path = folder / f"shard-{number:05d}.npy"
        if path.exists():
            tokens += np.load(path, mmap_mode="r").shape[0]
            continue
        shard = np.concatenate(list(_content_states(chats[first : first + CHATS_PER_SHARD], model)))
        if not np.isfinite(shard).all():
            raise InputError(
                f"Activations of shard {number} exceed the range of float16; this model needs "
                f"normalised activations before an SAE can be trained on it."
            )
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, shard)
        partial.rename(path)
        tokens += len(shard)
        fresh += len(shard)
        rate = fresh / (time.monotonic() - begun)
        report(min(total, first + CHATS_PER_SHARD), total, f"collecting, {rate:,.0f} tokens/s")
    return tokens


def _content_states(chats: Sequence[Chat], model: SubjectModel) -> Iterator[np.ndarray]:
    rendered = [r for r in model.renderer.render(chats) if (r.role != SCAFFOLD).any()]
    for rows in batches_by_length([len(r.ids) for r in rendered]):
        states = model.residual([rendered[i].ids for i in rows])
        for row, i in enumerate(rows):
            content = np.flatnonzero(rendered[i].role != SCAFFOLD)
            yield states[row, content].half().cpu().numpy()
