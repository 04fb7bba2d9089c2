"""Sparse autoencoders on disk or in a registry -> features, and how well they describe a stream.

Every SAE is read through sae-lens, which knows 13,859 of them; the paper's own .pth checkpoints
are turned into its Top-K class. Whether one belongs to a model and layer is for `fac.preflight`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac import sae_formats
from fac.config import DEMO_SAE
from fac.errors import InputError, ServiceError, first_line
from fac.models import Chat, Rendered, SubjectModel

if TYPE_CHECKING:
    import torch


class Sae:
    """A dictionary of features over one residual stream.

    Raises InputError when the reference names no readable SAE.
    """

    def __init__(self, module: Any, identity: str, stored: str):
        self.module = module
        self.identity = identity  # where it came from and the hash of its files or its release
        self.stored = stored  # data type of the weights before they were widened to float32
        self.n_features = int(module.cfg.d_sae)
        self.d_in = int(module.cfg.d_in)
        # What the SAE's own metadata says; None where it is silent.
        self.trained_on: str | None = module.cfg.metadata.model_name
        self.hook_name: str | None = module.cfg.metadata.hook_name
        self.trained_layer = layer_of_hook(self.hook_name or "")  # in this project's counting
        self._pre: list[torch.Tensor] = []
        self._cut = self._own_cuts()
        hook = module.hook_sae_acts_pre
        hook.register_forward_hook(lambda _m, _i, output: self._pre.append(output))

    def _own_cuts(self) -> torch.Tensor | None:
        """float32 `[n_features]`: above which pre-activation each feature is active; None where
        that depends on the other features or is not known to be so simple."""
        import torch
        from sae_lens.saes.jumprelu_sae import JumpReLUSAE
        from sae_lens.saes.standard_sae import StandardSAE

        if type(getattr(self.module, "activation_fn", None)) is not torch.nn.ReLU:
            return None
        zero = torch.zeros(self.n_features, device=self.module.W_enc.device)
        if type(self.module) is StandardSAE:
            return zero
        if type(self.module) is JumpReLUSAE:
            return torch.maximum(self.module.threshold.detach().float(), zero)
        return None

    @property
    def thresholds(self) -> np.ndarray:
        """float32 `[n_features]`: JumpReLU thresholds; zeros for other architectures."""
        thresholds = getattr(self.module, "threshold", None)
        if thresholds is None:
            return np.zeros(self.n_features, np.float32)
        return thresholds.detach().float().cpu().numpy()

    @property
    def decoder(self) -> np.ndarray:
        """float32 `[n_features, d_in]`: decoder directions."""
        return self.module.W_dec.detach().float().cpu().numpy()

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations and pre-activations, each `[tokens, n_features]`, of `[tokens, d_in]`.

        An activation is zero or its pre-activation.
        """
        self._pre.clear()
        acts = self.module.encode(states)
        if not self._pre:
            raise InputError(
                f"{type(self.module).__name__} does not expose its pre-activations; use a "
                f"standard, Top-K, JumpReLU, gated or BatchTopK SAE."
            )
        pre = self._pre.pop()
        if getattr(self.module.cfg, "rescale_acts_by_decoder_norm", False):
            pre = pre * self.module.W_dec.norm(dim=-1)  # what sae-lens itself does after its hook
        return acts, pre

    def blocks(self, states: torch.Tensor, most: int) -> Iterator[Block]:
        """Pre-activations of `[tokens, d_in]`, in blocks of about `most` values that together are
        all of `[tokens, n_features]`.

        Each element-wise pass over `[tokens, n_features]` costs as much as a good part of the
        matrix product, so what is active is said by a cut instead of a second array. SAEs whose
        features do not look at each other are cut along the dictionary: their weights pass through
        memory once, however many tokens there are.
        """
        import torch

        if self._cut is not None:
            inputs = self.module.process_sae_in(states)
            weights, bias, cut = self.module.W_enc, self.module.b_enc, self._cut
            size = max(1, most // max(1, len(states)))
            for first in range(0, self.n_features, size):
                part = slice(first, min(first + size, self.n_features))
                pre = torch.addmm(bias[part], inputs, weights[:, part])
                yield Block(slice(0, len(states)), part, pre, cut[part])
            return
        size, features = max(1, most // self.n_features), slice(0, self.n_features)
        for first in range(0, len(states), size):
            rows = slice(first, min(first + size, len(states)))
            acts, pre = self.encode(states[rows])
            # An activation is its pre-activation or zero, and never negative.
            yield Block(rows, features, pre, torch.where(acts > 0, 0.0, torch.inf))


class Block(NamedTuple):
    """Some tokens' pre-activations of some features; a feature is active above its cut."""

    tokens: slice
    features: slice

    pre: torch.Tensor  # float32 `[tokens, features]`
    cut: torch.Tensor  # float32 `[features]` or `[tokens, features]`


def layer_of_hook(name: str) -> int | None:
    """Blocks that have run when the hook fires: `blocks.14.hook_resid_post` and `layers.14` -> 15.

    None where the name is not that of a residual stream between blocks (`hook_mlp_out`).
    """
    hook = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.hook_resid_(pre|post))?$", name)
    return int(hook[1]) + (hook[2] != "pre") if hook else None


HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?:(.+)")
"""`OWNER/REPO:PATH`, with @REVISION where one is meant; the path `.` is all of it."""


def load_sae(reference: str, device: str = "cpu") -> Sae:
    """`demo`, a folder or file of a format in fac.sae_formats, `OWNER/REPO:PATH` of such a one on
    the hub, or `RELEASE/SAE_ID` of sae-lens.

    Raises InputError for what is no SAE or none that can be measured, ServiceError where it cannot
    be fetched.
    """
    path = DEMO_SAE if reference == "demo" else Path(reference).expanduser()
    if not path.exists():
        if hub := HUB.fullmatch(reference):
            path = _fetched(reference, *hub.groups())
        elif path.suffix in (".pth", ".pt", ".npz", ".safetensors"):
            raise InputError(f"There is no checkpoint {path}; give the path of a file or a folder.")
        else:
            return _release(reference, device)
    name = path.resolve().name if path.is_dir() else path.stem
    name = "demo" if reference == "demo" else name
    module, source = sae_formats.read(path, device)
    return Sae(module, f"{name}@{_hash(source.files, source.manner)}", source.stored)


def _release(reference: str, device: str) -> Sae:
    release, _, sae_id = reference.partition("/")
    if not release.strip(".~") or not sae_id:
        raise InputError(
            f"{reference!r} is neither a folder, nor a .pth file, nor RELEASE/SAE_ID of sae-lens "
            f"(such as gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical), nor "
            f"OWNER/REPO:PATH of the hub."
        )
    import torch
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name

    for kind in ("transcoder", "temporal", "hook_z"):  # before anything is fetched
        if kind in get_conversion_loader_name(release):
            sae_formats.refuse_kind(kind, f"The SAE {reference!r}")
    try:
        with sae_formats.quiet():
            module = SAE.from_pretrained(release, sae_id, device=device)
    except ValueError as error:
        raise InputError(f"sae-lens knows no SAE {reference!r}: {first_line(error)}") from error
    except OSError as error:
        raise ServiceError(
            f"The weights of {reference!r} could not be fetched: {first_line(error)}"
        ) from error
    module = sae_formats.checked(module, f"The SAE {reference!r}")
    stored = str(module.cfg.dtype)
    identity = reference + (" centred" if sae_formats.centred(module) else "")
    return Sae(module.to(dtype=torch.float32), identity, stored)


def _fetched(reference: str, repository: str, revision: str | None, inside: str) -> Path:
    """Where a file or folder of the hub lies on this machine, fetched if it does not yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    inside = inside.strip("/")
    patterns = None if inside == "." else [inside, f"{inside}/*"]
    try:
        snapshot = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except HFValidationError as error:
        raise InputError(f"{reference!r} names no place on the hub: {first_line(error)}") from error
    except (HfHubHTTPError, OSError) as error:
        raise ServiceError(
            f"The hub did not serve {reference!r} ({first_line(error).rstrip('.')}): check the "
            f"name and the network, or give a folder on this machine."
        ) from error
    path = Path(snapshot) / inside
    if not path.exists():
        raise InputError(
            f"The repository {repository} has no {inside}; give OWNER/REPO:PATH of an SAE in it."
        )
    return path


def _hash(paths: Sequence[Path], manner: str) -> str:
    """12 hex digits over the files' bytes, where K or a scale may stand in a config, and over how
    they are read, so that a run that read them otherwise is another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(manner.encode())
    return digest.hexdigest()[:12]


# --- quality ----------------------------------------------------------------------------------


class Quality(NamedTuple):
    """How well an SAE describes a residual stream, on content tokens of given texts."""

    tokens: int  # content tokens looked at
    fvu: float  # fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2
    l0: float  # mean number of active features per token
    dead: float  # share of features that never fired on these tokens
    norm: float  # mean norm of the residual stream, |x|
    ce_tokens: int  # predicted content tokens behind the three cross-entropies
    ce_clean: float  # next-token cross-entropy of the untouched model, in nats, at content tokens
    ce_sae: float  # the same with content tokens' residual stream replaced by the reconstruction
    ce_zero: float  # the same with it replaced by zeros
    loss_recovered: float  # (ce_zero - ce_sae) / (ce_zero - ce_clean)


def quality(
    sae: Sae, model: SubjectModel, chats: Sequence[Chat], *, ce_samples: int = 128
) -> Quality:
    """Reconstruction of an SAE on texts, and cross-entropy on the first `ce_samples` of them.

    Cross-entropy runs the whole model three times, hence the smaller number.
    """
    import torch

    tokens, active = 0, 0.0
    fired = torch.zeros(sae.n_features, dtype=torch.bool, device=model.device)
    error = torch.zeros((), dtype=torch.float64)
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    squares = norms = 0.0
    losses = np.zeros(3)
    predicted = 0
    with torch.inference_mode():
        for rows, batch, states, content in model.content_batches(chats, max_padded=2048):
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
            chosen = [row for row, i in enumerate(rows) if i < ce_samples]
            for i, new in enumerate((x, x_hat, torch.zeros_like(x)) if chosen else ()):
                patched = states.clone()
                patched[content] = new.to(patched.dtype)
                continued = [batch[row] for row in chosen]
                longest = max(len(r.ids) for r in continued)
                loss, n = _continued_loss(
                    model, continued, patched[chosen, :longest], content[chosen, :longest]
                )
                losses[i] += loss
                predicted += n if i == 0 else 0
    if not tokens:
        raise InputError("No content tokens to judge an SAE on; give some text.")
    variance = squares - float(total.pow(2).sum()) / tokens
    if not predicted or variance <= 0:
        raise InputError(
            f"{tokens} content tokens are too few to judge an SAE on; give some sentences."
        )
    clean, with_sae, zero = losses / predicted
    return Quality(
        tokens=tokens,
        fvu=float(error) / variance,
        l0=active / tokens,
        dead=1 - float(fired.float().mean()),
        norm=norms / tokens,
        ce_tokens=predicted,
        ce_clean=float(clean),
        ce_sae=float(with_sae),
        ce_zero=float(zero),
        loss_recovered=float((zero - with_sae) / (zero - clean)),
    )


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
    predicted = content[:, :-1] & content[:, 1:]
    picked = logits[:, :-1][predicted].float()
    loss = torch.nn.functional.cross_entropy(picked, targets[:, 1:][predicted], reduction="sum")
    return float(loss), int(predicted.sum())
