"""What is known of a dictionary before any data: a map, neighbours, and the logit lens.

One run per (model, layer, SAE); the pages join it to every dataset measured with that SAE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import SaeSpec
from fac.encoder import SaeEncoder
from fac.errors import Progress
from fac.layout import ON_MAP, fitted
from fac.manifest import SaeFacts
from fac.store.runs import Runs, write_table

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 10
LENS_TOKENS = 10

COMPONENTS = 50
"""Principal components given to UMAP: enough for neighbourhoods, a tenth of the time."""

EXACT = 20_000
"""Features up to which every cosine is computed. Beyond, time and memory grow with the square, and
neighbours are searched for in a graph instead: see `likely_nearest`."""

REDUCED = 256  # principal components in which neighbours are searched for

CANDIDATES = 60
"""Neighbours found there, of which the true cosines choose. On the decoder of the demo 98 % of the
ten nearest are among them; with 30 it would be 87 %, with 128 components 83 %."""

LENS_DONE, NEIGHBOURS_DONE, MAP_DONE = 40, 60, 100
"""How far along, of MAP_DONE, a description is when each part is done."""


def describe(spec: SaeSpec, *, runs: Runs, encoder: SaeEncoder, progress: Progress) -> str:
    """Describe the SAE of an encoder; returns the run's id."""
    run_id = spec.run_id(encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        decoder = encoder.sae.decoder
        promotes, suppresses = logit_lens(
            encoder, decoder, progress=_part(progress, 0, LENS_DONE, "logit lens")
        )
        neighbours, cosines, xy = survey(decoder, progress=progress)
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
        progress(MAP_DONE, MAP_DONE, "done")
        runs.publish(
            run_id,
            spec=spec,
            inputs=[],
            facts=SaeFacts(
                name=encoder.sae.identity,
                model=spec.model,
                layer=spec.layer,
                sae=spec.sae,
                identity=encoder.identity,
                n_features=encoder.n_features,
                d_model=encoder.sae.d_in,
            ),
            seconds=time.monotonic() - begun,
        )
    return run_id


def _part(progress: Progress, first: int, last: int, note: str) -> Callable[[float], None]:
    """Tells how far a part is (0 to 1) as its stretch of the whole."""

    def tell(share: float) -> None:
        progress(first + round((last - first) * share), MAP_DONE, note)

    tell(0.0)
    return tell


def survey(
    decoder: np.ndarray, *, progress: Progress, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours and cosines (`[n, k]`, see `nearest`) and the map (float32 `[n, 2]`) of decoder
    directions `[n, d]`.

    Up to EXACT features all cosines are looked at and UMAP finds its own neighbours among
    COMPONENTS principal components; beyond, both rest on one approximate search.
    """
    near = _part(progress, LENS_DONE, NEIGHBOURS_DONE, "neighbours by decoder direction")
    if len(decoder) <= EXACT:
        neighbours, cosines = nearest(decoder, NEIGHBOURS)
        drawn = _part(progress, NEIGHBOURS_DONE, MAP_DONE, "UMAP of the decoder directions")
        return neighbours, cosines, umap(decoder, seed, progress=drawn)
    reduced = principal(decoder, REDUCED, seed, progress=lambda share: near(share / 2))
    neighbours, cosine = likely_nearest(decoder, reduced, ON_MAP - 1, seed)
    drawn = _part(progress, NEIGHBOURS_DONE, MAP_DONE, "UMAP of the decoder directions")
    xy = umap_of_graph(reduced, neighbours, cosine, seed, progress=drawn)
    return neighbours[:, :NEIGHBOURS], cosine[:, :NEIGHBOURS], xy


def nearest(directions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other rows by cosine: indices int32 and cosines float32, each `[n, k]`."""
    unit = _unit(directions)
    k = min(k, len(unit) - 1)
    neighbours = np.empty((len(unit), k), np.int32)
    cosines = np.empty((len(unit), k), np.float32)
    for first in range(0, len(unit), 1024):
        block = unit[first : first + 1024] @ unit.T
        rows = np.arange(len(block))
        block[rows, first + rows] = -np.inf
        top = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, top, 1), axis=1, kind="stable")
        best = np.take_along_axis(top, order, 1)
        neighbours[first : first + 1024] = best
        cosines[first : first + 1024] = np.take_along_axis(block, best, 1)
    return neighbours, cosines


def principal(
    directions: np.ndarray,
    k: int,
    seed: int = 0,
    *,
    rounds: int = 3,
    progress: Callable[[float], None] = lambda _: None,
) -> np.ndarray:
    """The unit rows in their first k principal directions about the origin: float32 `[n, k]`.

    Not about the mean, so that inner products stay near the cosines. Randomised (Halko et al.,
    2011, by subspace iteration) and in blocks, so that neither the unit rows nor a `[d, d]` matrix
    are ever held.
    """
    n, d = directions.shape
    k = min(k, d, n)
    basis = np.random.default_rng(seed).standard_normal((d, min(k + 10, d)), np.float32)
    for done in range(rounds):
        image = np.zeros_like(basis)
        for block in _blocks(directions):
            image += block.T @ (block @ basis)
        basis = np.linalg.qr(image)[0]
        progress((done + 1) / (rounds + 2))
    spread = np.zeros((basis.shape[1], basis.shape[1]))
    for block in _blocks(directions):
        inside = block @ basis
        spread += inside.T @ inside
    turn = np.linalg.eigh(spread)[1][:, ::-1][:, :k]
    axes = basis @ turn.astype(np.float32)
    reduced = np.concatenate([block @ axes for block in _blocks(directions)])
    progress(1.0)
    return reduced


def likely_nearest(
    directions: np.ndarray, reduced: np.ndarray, k: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, but among CANDIDATES that nearest-neighbour descent finds in `reduced`.

    The cosines are true ones, of `directions`; what is nearer and was no candidate is missed.
    """
    from pynndescent import NNDescent

    graph = NNDescent(
        reduced, metric="cosine", n_neighbors=CANDIDATES + 1, random_state=seed
    ).neighbor_graph[0]
    neighbours = np.empty((len(directions), k), np.int32)
    cosines = np.empty((len(directions), k), np.float32)
    # As many rows at a time as bring a hundred megabytes of candidates.
    step = max(1, 25_000_000 // (graph.shape[1] * directions.shape[1]))
    for first in range(0, len(directions), step):
        rows = np.arange(first, min(first + step, len(directions)))
        others = graph[rows]
        cosine = np.matmul(_unit(directions[others]), _unit(directions[rows])[:, :, None])[..., 0]
        cosine[(others == rows[:, None]) | (others < 0)] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        neighbours[rows] = np.take_along_axis(others, order, 1)
        cosines[rows] = np.take_along_axis(cosine, order, 1)
    return neighbours, cosines


def umap(
    directions: np.ndarray, seed: int = 0, *, progress: Callable[[float], None] = lambda _: None
) -> np.ndarray:
    """2-D UMAP by cosine, float32 `[n, 2]`; seeded, so the same directions give the same map."""
    from sklearn.decomposition import PCA

    unit = _unit(directions)
    n = len(unit)
    if n <= 5:
        return unit[:, :2].astype(np.float32)
    components = min(COMPONENTS, *unit.shape)
    reduced = PCA(components, random_state=seed).fit_transform(unit)
    return fitted(reduced, seed, progress, n_neighbors=min(ON_MAP, n - 1))


def umap_of_graph(
    reduced: np.ndarray,
    neighbours: np.ndarray,
    cosines: np.ndarray,
    seed: int = 0,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> np.ndarray:
    """2-D UMAP of neighbours that are known (each `[n, k]`, without oneself): float32 `[n, 2]`.

    Begins with the first two principal components: the spectral layout, which `umap` begins with,
    is a matter of minutes here.
    """
    itself = np.arange(len(reduced), dtype=np.int32)[:, None]
    near = np.concatenate([itself, neighbours], axis=1)
    far = np.concatenate([np.zeros_like(cosines[:, :1]), np.maximum(1 - cosines, 0)], axis=1)
    options = {"precomputed_knn": (near, far), "init": "pca", "n_neighbors": near.shape[1]}
    return fitted(reduced, seed, progress, **options)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows, along the last axis, of length 1; those of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _blocks(directions: np.ndarray, rows: int = 4096) -> Iterator[np.ndarray]:
    """The unit rows, some at a time."""
    for first in range(0, len(directions), rows):
        yield _unit(directions[first : first + rows])


def logit_lens(
    encoder: SaeEncoder, decoder: np.ndarray, *, progress: Callable[[float], None] = lambda _: None
) -> tuple[list[list[str]], list[list[str]]]:
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
            progress(first / len(decoder))
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
