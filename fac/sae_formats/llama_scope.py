"""Folders of Llama Scope (arXiv 2410.20526): hyperparams.json and checkpoints/final.safetensors."""

from __future__ import annotations

import math
from typing import Any

from fac.sae_formats import SaeFormat, Source, assemble, fit, refuse_kind

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"

LAYOUT = {"encoder.weight": "si", "encoder.bias": "s", "decoder.weight": "is", "decoder.bias": "i"}

MEANT = {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "use_glu_encoder": False}
"""What its checkpoints say of themselves; nothing else is read."""


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _read(source: Source, device: str) -> Any:
    """As lm_saes makes a JumpReLU SAE of the raw stream out of a checkpoint.

    Trained on x f with f = sqrt(d_model) / the data's mean norm: the encoder's bias and the
    decoder's are divided by f, then decoder directions get length 1 and the encoder takes that
    over. The one threshold belongs to what comes out, so activations are in units of the stream.
    """
    config = source.config(CONFIG)
    if config.get("hook_point_in") != config.get("hook_point_out"):
        refuse_kind("transcoder", f"The SAE {source.path}")
    for name, value in MEANT.items():
        if config.get(name, value if name == "use_glu_encoder" else None) != value:
            source.refuse(f"has {name} {config.get(name)!r} in {CONFIG}; only {value!r} is read.")
    try:
        d_in, d_sae = int(config["d_model"]), int(config["d_sae"])
        threshold = float(config["jump_relu_threshold"])
        factor = math.sqrt(d_in) / float(config["dataset_average_activation_norm"]["in"])
        fold = bool(config["sparsity_include_decoder_norm"])
        centred = bool(config["apply_decoder_bias_to_pre_encoder"])
    except (KeyError, TypeError, ValueError) as error:
        source.refuse(f"has no usable {error} in {CONFIG}; restore that file.")
    weights = fit(source, source.weights(WEIGHTS), LAYOUT, d_in=d_in, d_sae=d_sae)
    decoder = weights["decoder.weight"].T
    norms = decoder.norm(dim=1) if fold else decoder.new_ones(d_sae)
    tensors = {
        "W_enc": weights["encoder.weight"].T * norms,
        "b_enc": weights["encoder.bias"] / factor * norms,
        "W_dec": decoder / norms[:, None],
        "b_dec": weights["decoder.bias"] / factor,
        "threshold": decoder.new_full((d_sae,), threshold),
    }
    model = "meta-llama/Llama-3.1-8B" if "Llama3_1-8B" in str(source.path.absolute()) else None
    hook, options = config.get("hook_point_in"), {"apply_b_dec_to_input": centred}
    return assemble(source, "jumprelu", tensors, device, hook=hook, model=model, **options)


SAE_FORMAT = SaeFormat(
    title="Llama Scope",
    preference=6,
    needs=f"{CONFIG} and {WEIGHTS}",
    recognises=_recognises,
    read=_read,
)
