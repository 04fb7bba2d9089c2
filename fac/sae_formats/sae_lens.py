"""Folders of sae-lens and of `fac train-sae`, finished ones and those saved while training."""

from __future__ import annotations

from typing import Any

from fac.sae_formats import SaeFormat, Source, refuse_kind, unreadable

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

SCALER = "activation_scaler.json"
"""The factor that a training has not folded yet."""

MATRICES = {"W_enc", "W_dec", "b_dec"}
NAMES = {
    "standard": MATRICES | {"b_enc"},
    "topk": MATRICES | {"b_enc"},
    "jumprelu": MATRICES | {"b_enc", "threshold"},
    "gated": MATRICES | {"b_gate", "b_mag", "r_mag"},
    "batchtopk": MATRICES | {"b_enc", "topk_threshold"},
    "matryoshka_batchtopk": MATRICES | {"b_enc", "topk_threshold"},
}

LOG = "log_threshold"  # what older trainings have for the threshold

IN_TRAINING = ("batchtopk", "matryoshka_batchtopk")
"""Architectures that exist while training only; sae-lens makes a JumpReLU SAE of them."""


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _read(source: Source, device: str) -> Any:
    from sae_lens import SAE, TrainingSAE
    from safetensors import SafetensorError, safe_open

    config = source.config(CONFIG)
    path = source.path / WEIGHTS
    options: dict[str, Any] = {"device": device, "dtype": "float32"}
    kind = _kind(source, config)
    source.files.append(path)
    try:
        with safe_open(path, "pt") as file:
            names = {*file.keys()}  # noqa: SIM118
            _check_names(source, kind, names)
            source.stored = str(file.get_tensor("W_dec").dtype).removeprefix("torch.")
        if kind not in IN_TRAINING and LOG not in names:
            module: Any = SAE.load_from_disk(source.path, **options)
            _fold(source, module)
            return module
        training: Any = TrainingSAE.load_from_disk(source.path, **options)
        _fold(source, training)
        weights = training.state_dict()
        training.process_state_dict_for_saving_inference(weights)
        module = SAE.from_dict(training.cfg.get_inference_sae_cfg_dict())
        module.load_state_dict(weights)
        return module
    # What sae-lens raises for a field or a weight that is missing or of another shape.
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        unreadable(source.path, error)


def _kind(source: Source, config: dict[str, Any]) -> str:
    """The architecture; where K is not told sae-lens would take 100."""
    old = config.get("activation_fn_str") or config.get("activation_fn")
    kind = str(config.get("architecture", "standard"))
    k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    if kind == "standard" and old == "topk":
        kind = "topk"
    if kind not in IN_TRAINING:
        refuse_kind(kind, f"The SAE {source.path}")
    if kind == "topk" and k is None:
        source.refuse(f'is a Top-K SAE without K; give it as "k" in its {CONFIG}.')
    return kind


def _check_names(source: Source, kind: str, names: set[str]) -> None:
    if kind == "jumprelu" and LOG in names:
        names = names - {LOG} | {"threshold"}
    missing = sorted(NAMES[kind] - names)
    extra = sorted(names - NAMES[kind] - {"scaling_factor"})  # sae-lens checks that one
    if missing:
        source.refuse(f"has no {', '.join(missing)} in {WEIGHTS}; restore or train it again.")
    if extra:
        source.refuse(
            f"has {', '.join(extra)} in {WEIGHTS}, which a {kind} SAE does not have; correct the "
            f"architecture in {CONFIG}, or train it again."
        )


def _fold(source: Source, module: Any) -> None:
    """Multiply the factor of an unfinished training into the weights, as its end does."""
    if module.cfg.normalize_activations == "expected_average_only_in" and source.has(SCALER):
        factor = source.config(SCALER).get("scaling_factor")
        if factor is not None:
            module.fold_activation_norm_scaling_factor(float(factor))


SAE_FORMAT = SaeFormat(
    title="sae-lens",
    preference=1,
    needs=f"{CONFIG} and {WEIGHTS}",
    recognises=_recognises,
    read=_read,
)
