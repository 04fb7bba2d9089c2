"""What is known of a dictionary before any data: a map, neighbours, and the logit lens.

One run per (model, layer, SAE); the pages join it to every dataset measured with that SAE.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import SaeSpec
from fac.encoder import SaeEncoder
from fac.store.runs import Runs, write_table

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 10
LENS_TOKENS = 10
COMPONENTS = 50
"""Principal components given to UMAP: enough for neighbourhoods, a tenth of the time."""


def describe(
    spec: SaeSpec, *, runs: Runs, encoder: SaeEncoder, progress: Callable[..., None]
) -> str:
    """Describe the SAE of an encoder; returns the run's id."""
    run_id = spec.run_id(encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        decoder = encoder.sae.decoder
        progress(0, 3, "logit lens")
        promotes, suppresses = logit_lens(encoder, decoder)
        progress(1, 3, "neighbours by decoder direction")
        neighbours, cosines = nearest(decoder, NEIGHBOURS)
        progress(2, 3, "UMAP of the decoder directions")
        xy = umap(decoder)
        table = pa.table(
            {
                "feature": np.arange(len(decoder)),
                "threshold": encoder.sae.thresholds,
                "x": xy[:, 0],
                "y": xy[:, 1],
                "promotes": promotes,
                "suppresses": suppresses,
                "neighbours": list(neighbours),
                "cosines": list(cosines),
            }
        )
        out = runs.scratch(run_id) / "features.parquet"
        write_table(out, table, schema.SAE_FEATURES)
        progress(3, 3, "done")
        runs.publish(
            run_id,
            spec=spec,
            inputs=[],
            facts={
                "name": encoder.sae.identity,
                "model": spec.model,
                "layer": spec.layer,
                "sae": spec.sae,
                "identity": encoder.identity,
                "n_features": encoder.n_features,
                "d_model": encoder.sae.d_in,
            },
            seconds=time.monotonic() - begun,
        )
    return run_id


def nearest(directions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other rows by cosine: indices int32 and cosines float32, each `[n, k]`."""
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    k = min(k, len(unit) - 1)
    found = np.empty((len(unit), k), np.int32)
    cosines = np.empty((len(unit), k), np.float32)
    for first in range(0, len(unit), 1024):
        block = unit[first : first + 1024] @ unit.T
        rows = np.arange(len(block))
        block[rows, first + rows] = -np.inf
        top = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, top, 1), axis=1, kind="stable")
        found[first : first + 1024] = np.take_along_axis(top, order, 1)
        cosines[first : first + 1024] = np.take_along_axis(block, found[first : first + 1024], 1)
    return found, cosines


def umap(directions: np.ndarray, seed: int = 0) -> np.ndarray:
    """2-D UMAP by cosine, float32 `[n, 2]`; seeded, so the same directions give the same map."""
    from sklearn.decomposition import PCA

    with warnings.catch_warnings():
        # It says which of its extras are not installed; none is needed.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    n = len(unit)
    if n <= 5:
        return unit[:, :2].astype(np.float32)
    components = min(COMPONENTS, *unit.shape)
    reduced = PCA(components, random_state=seed).fit_transform(unit)
    fitted = UMAP(
        metric="cosine", n_neighbors=min(15, n - 1), min_dist=0.1, random_state=seed, n_jobs=1
    ).fit_transform(reduced)
    return fitted.astype(np.float32)


def logit_lens(encoder: SaeEncoder, decoder: np.ndarray) -> tuple[list[list[str]], list[list[str]]]:
    """Tokens a feature's decoder direction raises and lowers most, through the final norm's gain.

    A reading of the direction alone, without the later blocks; a hint, not an explanation.
    """
    import torch

    subject = encoder.model
    unembed = subject.model.get_output_embeddings().weight.detach()
    unembed = unembed[: len(subject.tokenizer)]  # some models pad their vocabulary
    norm = subject.final_norm
    raised: list[list[str]] = []
    lowered: list[list[str]] = []
    with torch.inference_mode():
        gain = torch.ones_like(unembed[0]) if norm is None else _gain(norm, unembed[:1])
        for first in range(0, len(decoder), 512):
            rows = torch.from_numpy(decoder[first : first + 512]).to(unembed)
            if isinstance(norm, torch.nn.LayerNorm):
                rows = rows - rows.mean(1, keepdim=True)
            logits = (rows * gain) @ unembed.T
            for sign, out in ((1, raised), (-1, lowered)):
                ids = (sign * logits).topk(LENS_TOKENS, dim=1).indices.tolist()
                out += [[subject.tokenizer.decode([i]) for i in row] for row in ids]
    return raised, lowered


def _gain(norm: Any, like: torch.Tensor) -> torch.Tensor:
    """What a norm multiplies each direction with, `[d_model]`, asked by trying.

    Families disagree on what the weight means (Gemma adds one); a vector of alternating signs has
    mean 0 and size 1, so any of them returns plus or minus its gain, and the bias cancels.
    """
    import torch

    probe = torch.ones_like(like)
    probe[:, 1::2] = -1
    return ((norm(probe) - norm(-probe)) / 2 * probe)[0]
