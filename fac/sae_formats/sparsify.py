"""Folders of EleutherAI's sparsify (eai-sparsify): Top-K SAEs with cfg.json and sae.safetensors."""

from __future__ import annotations

import re
from typing import Any

from fac.sae_formats import SaeFormat, Source, assemble, fit, refuse_kind

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

LAYOUT = {"encoder.weight": "si", "encoder.bias": "s", "W_dec": "si", "b_dec": "i"}


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _read(source: Source, device: str) -> Any:
    """As SparseCoder.encode: relu((x - b_dec) encoder^T + bias), of which the K largest stay.

    `W_dec` holds decoder directions in its rows, and `normalize_decoder` only says how it was
    trained.
    """
    config = source.config(CONFIG)
    where = f"The SAE {source.path}"
    if config.get("skip_connection"):
        refuse_kind("skip_transcoder", where)
    if config.get("transcode"):
        refuse_kind("transcoder", where)
    if config.get("signed"):
        refuse_kind("abstopk", where)
    if config.get("activation", "topk") != "topk":
        source.refuse(f"has the activation {config['activation']!r}; only topk can be read.")
    absent = [name for name in ("d_in", "k") if name not in config]
    if absent:
        source.refuse(f"has no {' and no '.join(absent)} in {CONFIG}; restore that file.")
    features = config.get("num_latents") or config["d_in"] * config.get("expansion_factor", 0)
    weights = fit(
        source, source.weights(WEIGHTS), LAYOUT, d_in=config["d_in"], d_sae=features or None
    )
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    folder = source.path.resolve()  # named by what it reads, in that of its training
    hook = folder.name if re.search(r"\b(layers|h)\.\d+|embed", folder.name) else None
    model = Source(folder.parent).config("config.json", key="model").get("model")
    return assemble(source, "topk", tensors, device, hook=hook, model=model, k=config["k"])


SAE_FORMAT = SaeFormat(
    title="sparsify",
    preference=5,
    needs=f"{CONFIG} and {WEIGHTS}",
    recognises=_recognises,
    read=_read,
)
