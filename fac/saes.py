"""Sparse autoencoders on disk or in a registry -> features, with a check before they are trusted.

Every SAE is read through sae-lens, which knows 13,859 of them; the paper's own .pth checkpoints
are turned into its Top-K class. `preflight` says in words whether an SAE belongs to a model and
layer: a wrong pairing gives no error anywhere, only wrong numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac.config import DEMO_SAE
from fac.errors import InputError, ServiceError
from fac.models import SCAFFOLD, Chat, Rendered, SubjectModel, batches_by_length

if TYPE_CHECKING:
    import torch


class Sae:
    """A dictionary of features over one residual stream.

    Raises InputError when the reference names no readable SAE.
    """

    def __init__(self, module: Any, identity: str):
        self.module = module
        self.identity = identity
        """Where it came from and the hash of its weights or its release."""
        self.n_features = int(module.cfg.d_sae)
        self.d_in = int(module.cfg.d_in)
        self._pre: list[torch.Tensor] = []
        hook = module.hook_sae_acts_pre
        hook.register_forward_hook(lambda _m, _i, output: self._pre.append(output))

    @property
    def thresholds(self) -> np.ndarray:
        """float32 `[n_features]`: JumpReLU thresholds; zeros for other architectures."""
        found = getattr(self.module, "threshold", None)
        if found is None:
            return np.zeros(self.n_features, np.float32)
        return found.detach().float().cpu().numpy()

    @property
    def decoder(self) -> np.ndarray:
        """float32 `[n_features, d_in]`: decoder directions."""
        return self.module.W_dec.detach().float().cpu().numpy()

    @property
    def trained_on(self) -> str | None:
        """Name of the model in the SAE's own metadata, where it says."""
        return self.module.cfg.metadata.model_name

    @property
    def trained_layer(self) -> int | None:
        """`layer` in this project's counting, from the hook name, where the metadata names one."""
        return layer_of_hook(self.module.cfg.metadata.hook_name or "")

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations and pre-activations, each `[tokens, n_features]`, of `[tokens, d_in]`."""
        self._pre.clear()
        acts = self.module.encode(states)
        if not self._pre:
            raise InputError(
                f"{type(self.module).__name__} does not expose its pre-activations; use a "
                f"standard, Top-K, JumpReLU, gated or BatchTopK SAE."
            )
        return acts, self._pre.pop()


def layer_of_hook(name: str) -> int | None:
    """`blocks.14.hook_resid_post` -> 15: blocks that have run when the hook fires."""
    found = re.search(r"(?:blocks|layers|h)\.(\d+)(.*)", name)
    if not found:
        return None
    before = "resid_pre" in found[2]
    return int(found[1]) + (0 if before else 1)


def load_sae(reference: str, device: str = "cpu") -> Sae:
    """`demo`, a folder with cfg.json and safetensors, `RELEASE/SAE_ID`, or the paper's .pth."""
    from sae_lens import SAE

    path = DEMO_SAE if reference == "demo" else Path(reference)
    if path.is_dir():
        weights = next(iter(sorted(path.glob("*weights.safetensors"))), None)
        if weights is None or not (path / "cfg.json").exists():
            raise InputError(
                f"The folder {path} holds no SAE: it needs cfg.json and sae_weights.safetensors "
                f"as sae-lens and `fac train-sae` write them."
            )
        try:
            module = SAE.load_from_disk(path, device=device, dtype="float32")
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"The SAE in {path} cannot be read: {_first_line(error)}") from error
        name = "demo" if reference == "demo" else path.name
        return Sae(module, f"{name}@{_hash(weights)}")
    if path.suffix in (".pth", ".pt"):
        return Sae(_paper_checkpoint(path, device), f"{path.stem}@{_hash(path)}")
    release, _, sae_id = reference.partition("/")
    if not sae_id:
        raise InputError(
            f"{reference!r} is neither a folder, nor a .pth file, nor RELEASE/SAE_ID of sae-lens "
            f"(such as gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical)."
        )
    try:
        module = SAE.from_pretrained(release, sae_id, device=device)
    except ValueError as error:
        raise InputError(f"sae-lens knows no SAE {reference!r}: {_first_line(error)}") from error
    except OSError as error:
        raise ServiceError(
            f"The weights of {reference!r} could not be fetched: {_first_line(error)}"
        ) from error
    return Sae(module.to(dtype=_float32()), reference)


def _float32() -> torch.dtype:
    import torch

    return torch.float32


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _paper_checkpoint(path: Path, device: str) -> Any:
    """The released TopK*.pth as a sae-lens Top-K SAE: tied decoder, K = 20 (method 2.1)."""
    import torch
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"The checkpoint {path} cannot be read: {_first_line(error)}") from error
    config = found.get("config", {})
    state = found.get("weights", found.get("state_dict", found))
    missing = [key for key in ("W_enc", "b_enc", "b_dec") if key not in state]
    if missing:
        raise InputError(f"The checkpoint {path} has no {', '.join(missing)}; it is no FAC SAE.")
    encoder = state["W_enc"].float()
    if "mask" in state:
        encoder = encoder * state["mask"].float()
    d_in, width = encoder.shape
    module = TopKSAE(
        TopKSAEConfig(d_in=d_in, d_sae=width, k=int(config.get("topK", 20)), device=device)
    )
    module.load_state_dict(
        {
            "W_enc": encoder,
            "W_dec": encoder.T.contiguous(),
            "b_enc": state["b_enc"].float(),
            "b_dec": state["b_dec"].float(),
        }
    )
    return module


# --- quality ----------------------------------------------------------------------------------


class Quality(NamedTuple):
    """How well an SAE describes a residual stream, on content tokens of given texts."""

    tokens: int
    """Content tokens looked at."""

    fvu: float
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2."""

    l0: float
    """Mean number of active features per token."""

    dead: float
    """Share of features that never fired on these tokens."""

    norm: float
    """Mean norm of the residual stream, |x|."""

    ce_clean: float
    """Next-token cross-entropy of the untouched model, in nats, at content tokens."""

    ce_sae: float
    """The same with content tokens' residual stream replaced by the reconstruction."""

    ce_zero: float
    """The same with it replaced by zeros."""

    loss_recovered: float
    """(ce_zero - ce_sae) / (ce_zero - ce_clean)."""


def quality(sae: Sae, model: SubjectModel, chats: Sequence[Chat]) -> Quality:
    """Reconstruction and cross-entropy of an SAE on texts; needs the whole model, in float32."""
    import torch

    rendered = [r for r in model.renderer.render(chats) if (r.role != SCAFFOLD).any()]
    if not rendered:
        raise InputError("No content tokens to judge an SAE on; give some text.")
    tokens, active = 0, 0.0
    fired = torch.zeros(sae.n_features, dtype=torch.bool, device=model.device)
    error = torch.zeros((), dtype=torch.float64)
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    squares = norms = 0.0
    losses = np.zeros(3)
    predicted = 0
    with torch.inference_mode():
        for rows in batches_by_length([len(r.ids) for r in rendered], max_padded=2048):
            batch = [rendered[i] for i in rows]
            states = model.residual([r.ids for r in batch])
            content = _content_mask(batch, states.shape[1], model.device)
            x = states[content].float()
            acts, _ = sae.encode(x)
            x_hat = sae.module.decode(acts)
            tokens += len(x)
            active += float((acts > 0).sum())
            fired |= (acts > 0).any(0)
            error += (x - x_hat).double().pow(2).sum().cpu()
            total += x.double().sum(0).cpu()
            squares += float(x.double().pow(2).sum())
            norms += float(x.norm(dim=-1).sum())
            for i, new in enumerate((x, x_hat, torch.zeros_like(x))):
                patched = states.clone()
                patched[content] = new.to(patched.dtype)
                loss, n = _continued_loss(model, batch, patched, content)
                losses[i] += loss
                predicted += n if i == 0 else 0
    variance = squares - float(total.pow(2).sum()) / tokens
    clean, with_sae, zero = losses / max(predicted, 1)
    return Quality(
        tokens=tokens,
        fvu=float(error) / variance,
        l0=active / tokens,
        dead=1 - float(fired.float().mean()),
        norm=norms / tokens,
        ce_clean=float(clean),
        ce_sae=float(with_sae),
        ce_zero=float(zero),
        loss_recovered=float((zero - with_sae) / (zero - clean)),
    )


def _content_mask(batch: Sequence[Rendered], longest: int, device: str) -> torch.Tensor:
    import torch

    mask = np.zeros((len(batch), longest), bool)
    for row, r in enumerate(batch):
        mask[row, : len(r.role)] = r.role != SCAFFOLD
    return torch.from_numpy(mask).to(device)


def _continued_loss(
    model: SubjectModel, batch: Sequence[Rendered], states: torch.Tensor, content: torch.Tensor
) -> tuple[float, int]:
    """Summed next-token cross-entropy when the blocks after `layer` read `states`, and its n."""
    import torch

    logits = model.forward_from([r.ids for r in batch], states)
    targets = torch.zeros(content.shape, dtype=torch.long, device=content.device)
    for row, r in enumerate(batch):
        targets[row, : len(r.ids)] = torch.from_numpy(r.ids.astype(np.int64))
    # A content token's loss is read where it is predicted from another content token.
    asked = content[:, :-1] & content[:, 1:]
    picked = logits[:, :-1][asked].float()
    loss = torch.nn.functional.cross_entropy(picked, targets[:, 1:][asked], reduction="sum")
    return float(loss), int(asked.sum())


class Finding(NamedTuple):
    """One line of a preflight."""

    check: str
    ok: bool | None
    """None where the SAE's metadata is silent."""
    says: str


def preflight(
    sae: Sae, model: SubjectModel, model_name: str, chats: Sequence[Chat]
) -> tuple[list[Finding], Quality | None]:
    """Does this SAE belong to this model and layer? Metadata first, then reconstruction.

    The quality is None when the widths differ, since nothing can be computed then.
    """
    findings = []
    trained_on = sae.trained_on
    same = None if not trained_on else _same_model(trained_on, model_name)
    findings.append(
        Finding(
            "model",
            same,
            f"the SAE says it was trained on {trained_on}; asked for {model_name}"
            if trained_on
            else f"the SAE does not name its model; asked for {model_name}",
        )
    )
    layer = sae.trained_layer
    findings.append(
        Finding(
            "layer",
            None if layer is None else layer == model.layer,
            f"the SAE reads the stream after {layer} blocks; asked for {model.layer}"
            if layer is not None
            else f"the SAE names no hook point; asked for layer {model.layer}",
        )
    )
    fits = sae.d_in == model.d_model
    findings.append(
        Finding("width", fits, f"the SAE reads {sae.d_in} values, the model has {model.d_model}")
    )
    kind = str(sae.module.cfg.normalize_activations)
    stored, used = str(sae.module.cfg.dtype), str(next(sae.module.parameters()).dtype)
    findings.append(
        Finding("dtype", True, f"stored as {stored}, used as {used.removeprefix('torch.')}")
    )
    if not fits:
        return findings, None
    measured = quality(sae, model, chats)
    findings.append(
        Finding(
            "scale",
            None if kind == "none" else True,
            f"input normalisation {kind!r}; the stream's mean norm here is {measured.norm:.1f}",
        )
    )
    findings.append(
        Finding(
            "reconstruction",
            measured.fvu < 0.5,
            f"FVU {measured.fvu:.3f} on {measured.tokens:,} tokens (0 is perfect, 1 is no better "
            f"than the mean)",
        )
    )
    findings.append(
        Finding("L0", 1 <= measured.l0 <= 0.1 * sae.n_features, f"{measured.l0:.1f} per token")
    )
    findings.append(
        Finding(
            "dead", measured.dead < 0.5, f"{measured.dead:.1%} of the features silent on this text"
        )
    )
    findings.append(
        Finding(
            "loss recovered",
            measured.loss_recovered > 0.8,
            f"{measured.loss_recovered:.3f} of the cross-entropy that zeroing the stream costs "
            f"({measured.ce_clean:.3f} clean, {measured.ce_sae:.3f} with the SAE, "
            f"{measured.ce_zero:.3f} zeroed)",
        )
    )
    return findings, measured


def _same_model(one: str, other: str) -> bool:
    def bare(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.rsplit("/", 1)[-1].split("@")[0].lower())

    return bare(one) == bare(other)


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: belongs, does not belong and why, or cannot be told."""
    wrong = [f"{f.check}: {f.says}" for f in findings if f.ok is False]
    if wrong:
        return "This SAE does not belong to this model and layer (" + "; ".join(wrong) + ")."
    if any(f.ok is None for f in findings if f.check in ("model", "layer")):
        return "The numbers fit, but the SAE does not say what it was trained on."
    return "This SAE belongs to this model and layer."
