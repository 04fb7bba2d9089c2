"""Gemma Scope (arXiv 2408.05147): params.npz of a JumpReLU SAE, or the folder that holds it."""

from __future__ import annotations

import re
from typing import Any
from zipfile import ZipFile, is_zipfile

from fac.sae_formats import NO_SAE, SaeFormat, Source, assemble, fit

WEIGHTS = "params.npz"

LAYOUT = {"W_enc": "is", "b_enc": "s", "threshold": "s", "W_dec": "si", "b_dec": "i"}


def _recognises(source: Source) -> bool:
    if source.path.is_dir() or not is_zipfile(source.path):
        return source.has(WEIGHTS)
    with ZipFile(source.path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _read(source: Source, device: str) -> Any:
    """z = pre where pre = x W_enc + b_enc exceeds the threshold; x_hat = z W_dec + b_dec.

    The files say neither model nor place; both stand in the path, as of a hub's cache.
    """
    path = str(source.path.absolute())
    if re.search(r"gemma-scope[\w-]*transcoder", path):
        source.refuse(f"lies among Gemma Scope's transcoders: it is {NO_SAE['transcoder']}.")
    if "embedding" in source.path.absolute().parts:
        source.refuse("reads the embedding, not the residual stream between blocks.")
    scope = re.search(r"gemma-scope-(\w+)-(pt|it)-(res|mlp|att)\b", path)
    if scope and scope[3] == "att":
        source.refuse(f"is {NO_SAE['hook_z']}.")
    layer = re.search(r"\blayer_(\d+)\b", path)
    hook = model = None
    if scope:
        model = f"gemma-2-{scope[1]}" + ("-it" if scope[2] == "it" else "")
        side = {"res": "hook_resid_post", "mlp": "hook_mlp_out"}[scope[3]]
        hook = f"blocks.{layer[1]}.{side}" if layer else None
    weights = fit(source, source.weights(WEIGHTS if source.path.is_dir() else ""), LAYOUT)
    return assemble(
        source, "jumprelu", weights, device, hook=hook, model=model, apply_b_dec_to_input=False
    )


SAE_FORMAT = SaeFormat(
    title="Gemma Scope",
    preference=2,
    needs=WEIGHTS,
    recognises=_recognises,
    read=_read,
)
