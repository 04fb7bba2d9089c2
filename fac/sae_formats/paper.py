"""The TopK*.pth of the paper's authors (arXiv 2602.10388): a tied Top-K SAE."""

from __future__ import annotations

from typing import Any

from fac.sae_formats import SaeFormat, Source, assemble, fit

LAYOUT = {"mask": "s", "W_enc": "is", "b_enc": "s", "b_dec": "i"}


def _parts(source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and config: of one file, the config beside it where the file has none."""
    held = source.contents
    parts = (held.get(name) for name in ("weights", "state_dict", "config"))
    weights, state, config = (part if isinstance(part, dict) else {} for part in parts)
    return dict(weights or state or held), config


def _recognises(source: Source) -> bool:
    state, config = _parts(source)
    return "W_dec" not in state and ("topK" in config or "W_enc" in state or "mask" in state)


def _read(source: Source, device: str) -> Any:
    """z = the K largest of (x - b_dec) W_enc + b_enc, then ReLU; x_hat = z W_enc^T + b_dec.

    `mask` is one per feature that takes part, so the others get neither weights nor bias.
    """
    import torch

    state, config = _parts(source)
    if "topK" not in config:
        config = source.config("config.json", key="topK")
    source.files.append(source.path)
    if "b_enc" in state:
        state.setdefault("mask", torch.ones_like(state["b_enc"]))
    weights = fit(source, state, LAYOUT, d_in=config.get("d_inp"), d_sae=config.get("d_hide"))
    if "topK" not in config:
        source.refuse(
            "does not tell its K, without which it means nothing; write it to a config.json beside "
            'the file, as in {"topK": 20}.'
        )
    encoder, bias = weights["W_enc"] * weights["mask"], weights["b_enc"] * weights["mask"]
    tensors = {"W_enc": encoder, "W_dec": encoder.T, "b_enc": bias, "b_dec": weights["b_dec"]}
    return assemble(source, "topk", tensors, device, k=config["topK"])


SAE_FORMAT = SaeFormat(
    title="FAC's checkpoint",
    preference=3,
    needs="",
    recognises=_recognises,
    read=_read,
)
