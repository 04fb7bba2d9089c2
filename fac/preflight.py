"""Whether an SAE belongs to a model and layer, in words: a wrong pairing gives no error anywhere,
only wrong numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from fac.models import Chat, SubjectModel
from fac.saes import Quality, Sae, quality


class Finding(NamedTuple):
    """One line of a preflight."""

    check: str
    ok: bool | None  # None where the SAE's metadata is silent
    says: str


def preflight(
    sae: Sae, model: SubjectModel, model_name: str, chats: Sequence[Chat]
) -> tuple[list[Finding], Quality | None]:
    """Does this SAE belong to this model and layer? Metadata first, then reconstruction.

    The quality is None when the widths differ, since nothing can be computed then.
    """
    trained_on, hook, layer = sae.trained_on, sae.hook_name, sae.trained_layer
    no_stream = "" if layer is not None else ", which is not the residual stream between blocks"
    model_says = f"says it was trained on {trained_on}" if trained_on else "does not name its model"
    layer_says = "names no layer" if layer is None else f"reads the stream after {layer} blocks"
    fits = sae.d_in == model.d_model
    used = str(next(sae.module.parameters()).dtype).removeprefix("torch.")
    findings = [
        Finding(
            "model",
            _same_model(trained_on, model_name) if trained_on else None,
            f"the SAE {model_says}; asked for {model_name}",
        ),
        Finding(
            "hook point",
            layer is not None if hook else None,
            f"the SAE reads {hook}{no_stream}" if hook else "the SAE names no hook point",
        ),
        Finding(
            "layer",
            None if layer is None else layer == model.layer,
            f"the SAE {layer_says}; asked for {model.layer}",
        ),
        Finding("width", fits, f"the SAE reads {sae.d_in} values, the model has {model.d_model}"),
        Finding("dtype", True, f"stored as {sae.stored}, used as {used}"),
    ]
    if not fits:
        return findings, None
    kind = str(sae.module.cfg.normalize_activations)
    measured = quality(sae, model, chats)
    # A short text cannot wake a large dictionary: only with room for twenty firings a feature is
    # silence held against it.
    enough = measured.tokens * measured.l0 >= 20 * sae.n_features
    too_short = "" if enough else ", which is too short to tell"
    findings += [
        Finding(
            "scale",
            None if kind == "none" else True,
            f"input normalisation {kind!r}; the stream's mean norm here is {measured.norm:.1f}",
        ),
        Finding(
            "reconstruction",
            measured.fvu < 0.5,
            f"FVU {measured.fvu:.3f} on {measured.tokens:,} tokens (0 is perfect, 1 is no better "
            f"than the mean)",
        ),
        Finding("L0", 1 <= measured.l0 <= 0.1 * sae.n_features, f"{measured.l0:.1f} per token"),
        Finding(
            "dead",
            True if measured.dead < 0.5 else (False if enough else None),
            f"{measured.dead:.1%} of the features silent on this text{too_short}",
        ),
        Finding(
            "loss recovered",
            measured.loss_recovered > 0.8,
            f"{measured.loss_recovered:.3f} of the cross-entropy that zeroing the stream costs "
            f"({measured.ce_clean:.3f} clean, {measured.ce_sae:.3f} with the SAE, "
            f"{measured.ce_zero:.3f} zeroed)",
        ),
    ]
    return findings, measured


def _same_model(*names: str) -> bool:
    bare = {re.sub(r"[^a-z0-9]", "", n.rsplit("/", 1)[-1].split("@")[0].lower()) for n in names}
    return len(bare) == 1


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: belongs, does not belong and why, or cannot be told."""
    wrong = [f"{f.check}: {f.says}" for f in findings if f.ok is False]
    if wrong:
        return "This SAE does not belong to this model and layer (" + "; ".join(wrong) + ")."
    if any(f.ok is None for f in findings if f.check in ("model", "layer")):
        return "The numbers fit, but the SAE does not say what it was trained on."
    return "This SAE belongs to this model and layer."
