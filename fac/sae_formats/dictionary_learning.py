"""Dictionaries of dictionary_learning: a folder with config.json and ae.pt, or such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fac.sae_formats import NO_SAE, SaeFormat, Source, assemble, fit

if TYPE_CHECKING:
    import torch

LINEAR = {"encoder.weight": "si", "encoder.bias": "s", "decoder.weight": "is"}
PARAMETERS = {"W_enc": "is", "b_enc": "s", "W_dec": "si", "b_dec": "i"}

LAYOUTS = {
    "AutoEncoder": {**LINEAR, "bias": "i"},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": "i"},
    "GatedAutoEncoder": {
        "encoder.weight": "si",
        "decoder.weight": "is",
        "decoder_bias": "i",
        "r_mag": "s",
        "gate_bias": "s",
        "mag_bias": "s",
    },
    "AutoEncoderTopK": {**LINEAR, "b_dec": "i", "k": ""},
    "BatchTopKSAE": {**LINEAR, "b_dec": "i", "k": "", "threshold": ""},
    "JumpReluAutoEncoder": {**PARAMETERS, "threshold": "s"},
    "MatryoshkaBatchTopKSAE": {**PARAMETERS, "k": "", "threshold": ""},
}
"""The weights of each class and their axes (see fac.sae_formats.fit)."""


def _recognises(source: Source) -> bool:
    if source.has("config.json", "ae.pt"):
        return True
    names = {*source.contents}
    return bool({"encoder.weight", "decoder.weight"} & names) or {"W_enc", "W_dec"} < names


def _read(source: Source, device: str) -> Any:
    trainer = source.config("config.json", key="trainer").get("trainer") or {}
    if source.path.is_dir() and not trainer:
        source.refuse('has a config.json without "trainer"; restore the one of its training.')
    state = source.weights("ae.pt" if source.path.is_dir() else "")
    kind = str(trainer.get("dict_class") or _by_keys(source, state))
    if "CrossCoder" in kind:
        source.refuse(f"is {NO_SAE['crosscoder']}.")
    if kind not in LAYOUTS:
        source.refuse(f"is a {kind}; of dictionary_learning {', '.join(LAYOUTS)} are read.")
    layout = dict(LAYOUTS[kind])
    k = _k(source, trainer, state) if "k" in layout else None
    if "k" not in state:
        layout.pop("k", None)  # files of before it stood there
    if kind == "AutoEncoderTopK" and "threshold" in state:
        layout["threshold"] = ""  # which its encode does not use
    if kind.startswith("Matryoshka"):
        state.pop("group_sizes", None)  # they matter while training
    sizes = {"d_in": trainer.get("activation_dim"), "d_sae": trainer.get("dict_size")}
    weights = fit(source, state, layout, **sizes)
    hook, model = _hook(trainer), trainer.get("lm_name")
    architecture, tensors, options = _converted(kind, weights)
    if architecture == "topk":
        options["k"] = k
    return assemble(source, architecture, tensors, device, hook=hook, model=model, **options)


def _by_keys(source: Source, state: Mapping[str, Any]) -> str:
    """The class of a file without config. Raises InputError where other classes fit too."""
    if "group_sizes" in state:
        return "MatryoshkaBatchTopKSAE"
    if "W_enc" in state and getattr(state.get("threshold"), "ndim", None):
        return "JumpReluAutoEncoder"
    if "W_enc" in state or "decoder.bias" in state:
        source.refuse(
            "does not tell how its features become active; put the config.json of its training "
            "beside it, or give the folder that it belongs to."
        )
    if "gate_bias" in state or "r_mag" in state:
        return "GatedAutoEncoder"
    if "b_dec" in state and "threshold" in state:
        source.refuse(
            "is an AutoEncoderTopK or a BatchTopKSAE, which its weights do not tell; put the "
            "config.json of its training beside it."
        )
    if "b_dec" in state:
        return "AutoEncoderTopK"
    return "AutoEncoder"


def _k(source: Source, trainer: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """K of config and file, which must agree where both have one."""
    values = {int(part["k"]) for part in (trainer, state) if part.get("k") is not None}
    if len(values) != 1:
        both = "K " + " and ".join(map(str, sorted(values))) if values else "no K"
        source.refuse(f"has {both} in its config and weights; put the right config.json there.")
    return values.pop()


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The place it reads. Only the residual stream is called so; a layer alone is not enough."""
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    for side in ("pre", "post"):
        if f"resid_{side}" in name and layer is not None:
            return f"blocks.{layer}.hook_resid_{side}"
    return name or None


def _converted(
    kind: str, weights: Mapping[str, torch.Tensor]
) -> tuple[str, dict[str, torch.Tensor], dict[str, Any]]:
    """Architecture, weights and options of sae-lens that encode as the class does."""
    import torch

    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        tensors = {name: weights[name] for name in PARAMETERS}
        tensors["threshold"] = weights["threshold"].expand(len(weights["b_enc"]))
        # The first of the two reads x itself, the other x - b_dec.
        return "jumprelu", tensors, {"apply_b_dec_to_input": kind[0] == "M"}
    tensors = {"W_enc": weights["encoder.weight"].T, "W_dec": weights["decoder.weight"].T}
    if kind == "GatedAutoEncoder":
        names = {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias"}
        tensors |= {ours: weights[theirs] for ours, theirs in names.items()}
        return "gated", tensors | {"r_mag": weights["r_mag"]}, {}
    tensors["b_enc"] = weights["encoder.bias"]
    if kind == "AutoEncoder":
        tensors["b_dec"] = weights["bias"]
        norms = tensors["W_dec"].norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms)):
            # Its own from_pretrained makes decoder directions of length 1.
            tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
            tensors["W_enc"] = tensors["W_enc"] * norms
            tensors["b_enc"] = tensors["b_enc"] * norms
        return "standard", tensors, {}
    if kind == "AutoEncoderNew":
        tensors["b_dec"] = weights["decoder.bias"]
        return "standard", tensors, {"apply_b_dec_to_input": False}
    tensors["b_dec"] = weights["b_dec"]
    if kind == "AutoEncoderTopK":
        return "topk", tensors, {}
    tensors["threshold"] = weights["threshold"].expand(len(tensors["b_enc"]))
    return "jumprelu", tensors, {}


SAE_FORMAT = SaeFormat(
    title="dictionary_learning",
    preference=4,
    needs="config.json and ae.pt",
    recognises=_recognises,
    read=_read,
)
