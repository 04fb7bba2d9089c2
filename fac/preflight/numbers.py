"""What the numbers say of an SAE on a model's stream: how well it describes it, which layer and
which scale it would describe better, and which of its parts is off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fac.models import SCAFFOLD, Chat, SubjectModel
from fac.preflight.metadata import Finding, LayerFit, ModelCard, match
from fac.saes import Quality, Sae, quality

if TYPE_CHECKING:
    import torch

FITS = 0.5
"""FVU below which an SAE counts as describing a stream."""

WELL = 0.25
"""FVU below which nothing is tried but the scale."""

CLEARLY = 0.9
"""Of the asked layer's FVU what another layer's must be below to be named: the demo's SAE has 0.21
at its own layer, 0.26 and 0.30 at the ones beside it."""

EXPLAINS, EXPLAINS_SCALE = 1 / 3, 1 / 2
"""Of an SAE's FVU what it must fall below when one thing, or the scale, is changed, for that to be
named: a scale is one number, and that of an SAE that belongs is 1."""

EXPLAINED = 0.4
"""And what it must then fall below at all: with one thing changed many an SAE of another model
describes a part of the stream."""

LEAST = 0.01
"""Of FVU, below which differences are not spoken of."""

NEAR = 2  # layers looked at on each side of the asked one
SAMPLE = 2048  # tokens that layers are compared on
FEW = 512  # of these, that many changes are tried on
BLOCK_VALUES = 2**24  # of the `[tokens, features]` that are computed at once


def preflight(
    sae: Sae, model: SubjectModel, card: ModelCard, chats: Sequence[Chat]
) -> tuple[list[Finding], Quality | None]:
    """Does this SAE belong to this model and layer? Metadata first, then reconstruction.

    The quality is None when the widths differ, since nothing can be computed then. Raises
    InputError where the chats have too little text to judge on.
    """
    used = str(next(sae.module.parameters()).dtype).removeprefix("torch.")
    findings = [
        *match(sae, card, model.layer),
        Finding("dtype", True, f"stored as {sae.stored}, used as {used}"),
    ]
    if sae.d_in != model.d_model:
        return findings, None
    measured = quality(sae, model, chats)
    findings += _figures(sae, measured)
    near = _neighbours(sae, model, chats)
    findings.append(near)
    if near.ok is not False:
        findings += diagnose(sae, _states(model, chats))
    return findings, measured


def _figures(sae: Sae, measured: Quality) -> list[Finding]:
    """What the quality says by itself."""
    # A short text cannot wake a large dictionary: only with room for twenty firings a feature is
    # silence held against it.
    enough = measured.tokens * measured.l0 >= 20 * sae.n_features
    too_short = "" if enough else ", which is too short to tell"
    k = _trained_l0(sae)
    as_trained = k is None or k / 3 <= measured.l0 <= 3 * k
    return [
        Finding(
            "reconstruction",
            measured.fvu < FITS,
            f"FVU {measured.fvu:.3f} on {measured.tokens:,} tokens (0 is perfect, 1 is no better "
            f"than the mean)",
        ),
        Finding(
            "L0",
            as_trained and 1 <= measured.l0 <= 0.1 * sae.n_features,
            f"{measured.l0:.1f} per token" + (f", trained to have {k:g}" if k else ""),
        ),
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


def _trained_l0(sae: Sae) -> float | None:
    """The L0 that an SAE has by its kind, or was trained to have; None where it does not say."""
    details = sae.module.cfg.metadata.training_architecture_details
    k = getattr(sae.module.cfg, "k", None) or (details or {}).get("k")
    return float(k) if k else None


def _states(model: SubjectModel, chats: Sequence[Chat]) -> torch.Tensor:
    """float32 `[tokens, d_model]`: the stream at content tokens of the first chats, as many as
    have SAMPLE of them."""
    import torch

    tokens, few = 0, list[Chat]()
    for chat, text in zip(chats, model.renderer.render(chats), strict=True):
        few.append(chat)
        tokens += int((text.role != SCAFFOLD).sum())
        if tokens >= SAMPLE:
            break
    batches = model.content_batches(few, max_padded=2048)
    return torch.cat([states[content].float() for _, _, states, content in batches])


def _neighbours(sae: Sae, model: SubjectModel, chats: Sequence[Chat]) -> Finding:
    """FVU and L0 of the layers around the asked one; where the best is the last one looked at, the
    next is looked at too."""
    errors: dict[int, tuple[float, float]] = {}
    first, last = model.layer - NEAR, model.layer + NEAR
    layers = [each for each in range(first, last + 1) if 0 <= each <= model.n_blocks]
    while layers:
        errors |= {each: _error(sae, _states(model.at(each), chats)) for each in layers}
        best = min(errors, key=lambda each: (errors[each][0], each != model.layer))
        beyond = {best - 1, best + 1} - set(errors)
        layers = [each for each in beyond if 0 <= each <= model.n_blocks]
    table = ", ".join(f"{n}: {errors[n][0]:.3f} ({errors[n][1]:.0f})" for n in sorted(errors))
    asked, lowest = errors[model.layer][0], errors[best][0]
    says = f"FVU (and L0) by layer: {table}"
    ok: bool | None = None
    words = "none fits"
    if best == model.layer and lowest < FITS:
        ok, words = True, f"{best}, as asked, is best"
    elif lowest < min(FITS, CLEARLY * asked) and asked - lowest > LEAST:
        ok, words = False, f"{best} is best by far: give --layer {best}"
    elif lowest < FITS:
        words = f"{model.layer} and {best} are about alike"
    fits = tuple(LayerFit(each, *errors[each]) for each in sorted(errors))
    return Finding("neighbours", ok, f"{says}; {words}", fits)


def _error(
    sae: Sae, states: torch.Tensor, scale: float = 1.0, inputs: torch.Tensor | None = None
) -> tuple[float, float]:
    """FVU and L0 on `[tokens, d_in]`.

    With a scale the SAE reads the states times it, and what it makes of them is divided by it;
    `inputs` are what it reads in their place.
    """
    import torch

    read = states * scale if inputs is None else inputs
    size, error, active = max(1, BLOCK_VALUES // sae.n_features), 0.0, 0.0
    with torch.inference_mode():
        for first in range(0, len(states), size):
            part = slice(first, first + size)
            acts, _ = sae.encode(read[part])
            error += float((states[part] - sae.module.decode(acts) / scale).double().pow(2).sum())
            active += float((acts > 0).sum())
    return error / _variance(states), active / len(states)


def _variance(states: torch.Tensor) -> float:
    """Sum over tokens of the squared distance from their mean."""
    return float((states - states.mean(0)).double().pow(2).sum())


@contextmanager
def _changed(sae: Sae, **weights: torch.Tensor) -> Iterator[None]:
    """The SAE with other weights of these names."""
    before = {name: getattr(sae.module, name).data for name in weights}
    for name, weight in weights.items():
        getattr(sae.module, name).data = weight
    try:
        yield
    finally:
        for name, weight in before.items():
            getattr(sae.module, name).data = weight


class Change(NamedTuple):
    """Something that is changed to see whether an SAE then describes a stream."""

    after: float  # FVU with the change
    check: str
    says: str  # what that says of the SAE, before its figures


def diagnose(sae: Sae, states: torch.Tensor) -> list[Finding]:
    """At which scale an SAE describes a stream, `[tokens, d_in]`, best, and which of its parts is
    off, as far as a change of that part alone makes it describe the stream; of several changes the
    best is named."""
    few = states[:: -(-len(states) // FEW)]
    if damaged := [each for each in (_thresholds(sae, few), _order(sae)) if each]:
        return damaged  # which explains whatever else is seen
    before = _error(sae, few)[0]
    changes = [*_scaled(sae, few)]
    if before >= WELL or _explaining(changes, before):
        for change in (_normalised, _lengthened, _biased, _centered):
            changes += change(sae, few)
    best = _explaining(changes, before)
    norm = float(few.norm(dim=-1).mean())
    says = f"the stream's mean norm here is {norm:.1f}"
    if before < FITS:
        scale = Finding("scale", True, f"{says}, and no other scale is clearly better")
    else:
        scale = Finding("scale", None, f"{says}, and the SAE describes it as it is at no scale")
    if best:
        figures = f"FVU {best.after:.3f} instead of {before:.3f}"
        finding = Finding(best.check, False, f"{best.says} ({figures})")
        return [finding] if best.check == "scale" else [scale, finding]
    if bias := _bias(sae, states):
        return [scale, bias]
    if before < FITS:
        return [scale]
    none = "no scale and no single part explains the reconstruction"
    return [scale, Finding("parts", None, f"{none}: the SAE may be of other weights altogether")]


def _explaining(changes: Sequence[Change], before: float) -> Change | None:
    """The first of the changes that are about the best, if the SAE then fits and did not before, or
    not nearly as well: a fitted center may beat a scale by a little, with many more features."""
    lowest = min((change.after for change in changes), default=math.inf)
    near = (change for change in changes if change.after <= 1.25 * lowest + LEAST)
    best = next(near, None)
    if best is None:
        return None
    share = EXPLAINS_SCALE if best.check == "scale" else EXPLAINS
    return best if best.after < min(EXPLAINED, share * before, before - LEAST) else None


def _best_scale(error_at: Callable[[float], float]) -> tuple[float, float]:
    """The scale of lowest error, to a quarter of an octave, and that error; 1 unless another is
    better."""
    errors = {2.0**k: error_at(2.0**k) for k in range(-2, 3)}
    best = min(errors, key=lambda each: errors[each])
    while best in (min(errors), max(errors)) and 2**-12 < best < 2**12:
        following = best * (0.5 if best == min(errors) else 2.0)
        errors[following] = error_at(following)
        if errors[following] >= errors[best]:
            break
        best = following
    for step in (2**0.5, 2**0.25):
        errors |= {each: error_at(each) for each in (best / step, best * step)}
        best = min(errors, key=lambda each: errors[each])
    return best, errors[best]


def _scaled(sae: Sae, states: torch.Tensor) -> Iterator[Change]:
    if str(sae.module.cfg.normalize_activations) in ("layer_norm", "constant_norm_rescale"):
        return  # which makes every scale the same
    scale, after = _best_scale(lambda each: _error(sae, states, each)[0])
    if scale != 1:
        says = f"inputs are x{1 / scale:.3g} of what the SAE was trained on: "
        yield Change(after, "scale", f"{says}take one with its scale folded into the weights")


AGAIN = "get the SAE's weights again"


def _normalised(sae: Sae, states: torch.Tensor) -> Iterator[Change]:
    """With another normalisation of inputs than the SAE names."""
    import torch

    kind, module = str(sae.module.cfg.normalize_activations), sae.module
    functions = module.run_time_activation_norm_fn_in, module.run_time_activation_norm_fn_out
    zero = torch.zeros_like(states[:, :1])
    kinds = {
        "none": (zero, zero + 1),
        "layer_norm": (states.mean(-1, keepdim=True), states.std(-1, keepdim=True)),
        "constant_norm_rescale": (zero, states.norm(dim=-1, keepdim=True) / sae.d_in**0.5),
    }
    for other, (shift, size) in kinds.items():
        if other == kind:
            continue
        with torch.inference_mode():
            module.run_time_activation_norm_fn_in = lambda x, a=shift, b=size: (x - a) / b
            module.run_time_activation_norm_fn_out = lambda y, a=shift, b=size: y * b + a
            try:
                after = _lacking(sae, states)[0]
            finally:
                module.run_time_activation_norm_fn_in = functions[0]
                module.run_time_activation_norm_fn_out = functions[1]
        says = f"the SAE names {kind!r} and was trained with {other!r}: mend its cfg.json"
        yield Change(after, "normalisation", says)


def _lacking(sae: Sae, states: torch.Tensor) -> tuple[float, torch.Tensor]:
    """FVU with all tokens at once, and `[d_in]`, what reconstruction lacks on average."""
    import torch

    with torch.inference_mode():
        acts, _ = sae.encode(states)
        lacking = states - sae.module.decode(acts)
        return float(lacking.double().pow(2).sum()) / _variance(states), lacking.mean(0)


def _lengthened(sae: Sae, states: torch.Tensor) -> Iterator[Change]:
    """With an encoder, or a decoder, that is longer or shorter: the latter by least squares."""
    import torch

    module = sae.module
    if str(module.cfg.normalize_activations) in ("layer_norm", "constant_norm_rescale"):
        return
    center = module.b_dec.data if module.cfg.apply_b_dec_to_input else torch.zeros(())
    from_center = states - center
    scale, after = _best_scale(
        lambda each: _error(sae, states, inputs=center + each * from_center)[0]
    )
    if scale != 1:
        yield Change(after, "encoder", f"it is x{1 / scale:.3g} of what fits: {AGAIN}")
    with torch.inference_mode():
        acts, _ = sae.encode(states)
        target = states - module.b_dec
        rows = module.decode(acts) - module.b_dec
        length = float((rows * target).sum() / rows.pow(2).sum().clamp_min(1e-12))
        after = float((target - length * rows).double().pow(2).sum()) / _variance(states)
    if length > 0:
        yield Change(after, "decoder", f"it is x{1 / length:.3g} of what fits: {AGAIN}")


def _centered(sae: Sae, states: torch.Tensor) -> Iterator[Change]:
    """With a decoder bias fitted to the stream: from its mean on, half of what reconstruction lacks
    on average is added, time and again."""
    bias, lowest = states.mean(0), math.inf
    for _ in range(12):
        with _changed(sae, b_dec=bias):
            after, lacking = _lacking(sae, states)
        lowest, bias = min(lowest, after), bias + 0.5 * lacking
    yield Change(lowest, "decoder bias", f"another one fits: {AGAIN}")


def _biased(sae: Sae, states: torch.Tensor) -> Iterator[Change]:
    """With the encoder bias that takes the decoder's from the inputs, where nothing else does."""
    module = sae.module
    if hasattr(module, "b_enc") and not module.cfg.apply_b_dec_to_input:
        with _changed(sae, b_enc=-(module.b_dec.data @ module.W_enc.data)):
            after = _error(sae, states)[0]
        yield Change(after, "encoder bias", f"the one that the decoder's implies fits: {AGAIN}")


# --- parts that show it by themselves -------------------------------------------------------------


def _thresholds(sae: Sae, states: torch.Tensor) -> Finding | None:
    thresholds = getattr(sae.module, "threshold", None)
    if thresholds is None or bool((thresholds != 0).any()):
        return None
    k, l0 = _trained_l0(sae), _error(sae, states)[1]
    trained = f", trained to have {k:g}" if k else ""
    says = f"all are 0, which leaves {l0:.1f} features a token active{trained}"
    return Finding("thresholds", False, f"{says}: {AGAIN}")


def _order(sae: Sae) -> Finding | None:
    """Whether columns of the encoder and rows of the decoder belong together: in trained SAEs those
    of one feature point alike."""
    import torch

    with torch.inference_mode():
        columns = torch.nn.functional.normalize(sae.module.W_enc.float(), dim=0)
        rows = torch.nn.functional.normalize(sae.module.W_dec.float(), dim=1)
        alike = float((columns * rows.T).sum(0).mean())
        best = float((rows @ columns[:, :: -(-sae.n_features // 256)]).amax(0).mean())
    chance = math.sqrt(2 * math.log(sae.n_features) / sae.d_in)  # the best of random directions
    if alike > 0.5 * best or best < min(0.9, 2 * chance):
        return None
    return Finding(
        "decoder",
        False,
        f"its rows are not in the encoder's order: cosine {alike:.2f} with the encoder's columns, "
        f"{best:.2f} with the best other row: {AGAIN}",
    )


def _bias(sae: Sae, states: torch.Tensor) -> Finding | None:
    """Whether what reconstruction lacks along the active features undoes their encoder bias. At
    the optimum of training it lacks nothing on average, whatever the bias; biases in another order
    leave a slope of about -1. Of an SAE that does not fit anyway this would say nothing."""
    import torch

    module = sae.module
    bias = getattr(module, "b_enc", None)
    if bias is None or _error(sae, states)[0] >= FITS:
        return None
    xs, ys = [], []
    with torch.inference_mode():
        for part in states.split(max(1, BLOCK_VALUES // sae.n_features)):
            acts, _ = sae.encode(part)
            along = (part - module.decode(acts)) @ module.W_dec.T / module.W_dec.pow(2).sum(1)
            ys.append(along[acts > 0].double())
            xs.append(bias.expand_as(acts)[acts > 0].double())
    x, y = torch.cat(xs), torch.cat(ys)
    x, y = x - x.mean(), y - y.mean()
    spread = float(x.pow(2).sum())
    if spread < 1e-9:
        return None
    slope = float((x * y).sum()) / spread
    deviation = math.sqrt(float((y - slope * x).pow(2).mean()) / spread)
    if slope > -0.3 or slope > -4 * deviation:
        return None
    return Finding(
        "encoder bias",
        False,
        f"what reconstructions lack undoes it (slope {slope:.2f} ± {deviation:.2f}, about 0 in "
        f"trained SAEs), as if its values were in another order: {AGAIN}",
    )


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: belongs, does not belong and why, or cannot be told."""
    wrong = [f"{f.check}: {f.says}" for f in findings if f.ok is False]
    if wrong:
        return "This SAE does not belong to this model and layer (" + "; ".join(wrong) + ")."
    unsure = [f.says for f in findings if f.ok is None and f.check in ("model", "layer")]
    if unsure:
        return f"The numbers fit; what the SAE was trained on is unsure ({'; '.join(unsure)})."
    return "This SAE belongs to this model and layer."
