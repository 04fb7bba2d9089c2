"""Train a sparse autoencoder on the residual stream of a subject model, with sae-lens.

Two resumable halves: `collect_activations` writes the content tokens' residual stream once, in
shards; `train` makes any number of passes over the shards and continues from its last checkpoint.
The SAE sees what `fac measure` will show it: content tokens only, no template scaffolding.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fac.errors import InputError, Progress
from fac.models import Chat, SubjectModel, keep_freed_memory

if TYPE_CHECKING:
    import torch

CHATS_PER_SHARD = 1024
CHECKPOINT_STEPS = 250


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the weights, beside the texts and the subject model."""

    width: int = 8192  # dictionary size
    k: float = 26.0  # active features per token, on average over a batch (BatchTopK)
    passes: int = 2  # how often every collected token is seen
    batch: int = 4096  # tokens per optimiser step
    lr: float = 1e-3  # Adam's learning rate after warm-up
    lr_decay: float = 0.3
    """Last share of the steps over which the learning rate falls linearly to zero."""

    dead_window: int = 300
    """Steps without firing after which a feature takes part in the auxiliary loss."""

    seed: int = 0  # order of tokens and initial weights

    def __post_init__(self) -> None:
        if self.width < 2 or not 0 < self.k < self.width:
            raise InputError(f"k must lie between 0 and the width {self.width}, got {self.k}.")
        if self.passes < 1 or self.batch < 1:
            raise InputError(f"passes and batch must be positive, got {self.passes}, {self.batch}.")


def collect_activations(
    chats: Sequence[Chat], model: SubjectModel, folder: Path, report: Progress
) -> int:
    """Content tokens' residual stream as float16 shards `[tokens, d_model]`; returns the tokens.

    A shard is written whole and renamed, so a restart continues after the last finished one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, tokens, begun = len(chats), 0, time.monotonic()
    fresh = 0
    for number, first in enumerate(range(0, total, CHATS_PER_SHARD)):
        path = folder / f"shard-{number:05d}.npy"
        if path.exists():
            tokens += np.load(path, mmap_mode="r").shape[0]
            continue
        states = [
            states[content].half().cpu().numpy()
            for _, _, states, content in model.content_batches(
                chats[first : first + CHATS_PER_SHARD], max_padded=model.batch_tokens
            )
        ]
        shard = np.concatenate([np.zeros((0, model.d_model), np.float16), *states])
        if not np.isfinite(shard).all():
            raise InputError(
                f"Activations of shard {number} exceed the range of float16; this model needs "
                f"normalised activations before an SAE can be trained on it."
            )
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, shard)
        partial.rename(path)
        tokens += len(shard)
        fresh += len(shard)
        rate = fresh / (time.monotonic() - begun)
        report(min(total, first + CHATS_PER_SHARD), total, f"collecting, {rate:,.0f} tokens/s")
    return tokens


def shuffled_batches(
    folder: Path, recipe: TrainRecipe, *, start: int = 0, group: int = 8
) -> Iterator[np.ndarray]:
    """Endless float32 batches `[batch, d_model]`, in an order that only the recipe decides.

    `group` shards are held at a time and their tokens permuted together, so memory does not grow
    with the corpus; what does not fill a batch at the end of a group waits for the next pass.
    `start` batches are skipped without reading them: a resumed training continues exactly where
    it stopped. Raises InputError when a pass has not one full batch.
    """
    paths = sorted(folder.glob("shard-*.npy"))
    sizes = {path: np.load(path, mmap_mode="r").shape[0] for path in paths}
    number = 0
    for epoch in range(2**31):
        before = number
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(paths))
        for first in range(0, len(order), group):
            chosen = [paths[i] for i in order[first : first + group]]
            full = sum(sizes[path] for path in chosen) // recipe.batch
            if number + full <= start:
                number += full
                continue
            tokens = np.concatenate([np.load(path) for path in chosen])
            rng = np.random.default_rng([recipe.seed, epoch, first, 1])
            where = rng.permutation(len(tokens))
            for i in range(full):
                if number >= start:
                    batch = where[i * recipe.batch : (i + 1) * recipe.batch]
                    yield tokens[batch].astype(np.float32)
                number += 1
        if number == before:
            raise InputError(
                f"{sum(sizes.values())} tokens do not fill one batch of {recipe.batch}; give more "
                f"text or a smaller --batch."
            )


def steps_per_pass(folder: Path, recipe: TrainRecipe, group: int = 8) -> int:
    """Optimiser steps that one pass over the shards takes (about; groups drop their remainder)."""
    sizes = [np.load(path, mmap_mode="r").shape[0] for path in sorted(folder.glob("shard-*.npy"))]
    return max(1, sum(sizes) // recipe.batch - len(sizes) // group)


def train(
    folder: Path,
    recipe: TrainRecipe,
    *,
    work: Path,
    out: Path,
    model_name: str,
    layer: int,
    device: str,
    report: Progress,
) -> None:
    """Train on collected shards and write a JumpReLU SAE in half precision to `out`.

    A checkpoint in `work` every CHECKPOINT_STEPS lets a killed training continue; the result is the
    same weights up to the rounding of a resumed optimiser. The loss is the reconstruction error
    plus sae-lens' auxiliary loss for dead features.
    """
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    steps = steps_per_pass(folder, recipe) * recipe.passes
    first = next(shuffled_batches(folder, recipe))
    sae = sparse_batch_topk()(
        BatchTopKTrainingSAEConfig(
            d_in=first.shape[1],
            d_sae=recipe.width,
            k=recipe.k,
            device=device,
            normalize_activations="expected_average_only_in",
        )
    )
    sae.cfg.metadata.model_name = model_name
    after = f"blocks.{layer - 1}.hook_resid_post"
    sae.cfg.metadata.hook_name = after if layer else "blocks.0.hook_resid_pre"
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * recipe.batch,
            train_batch_size_samples=recipe.batch,
            lr=recipe.lr,
            lr_end=recipe.lr,
            lr_warm_up_steps=min(200, steps // 10),
            lr_decay_steps=int(steps * recipe.lr_decay),
            device=device,
            autocast=True,
            dead_feature_window=recipe.dead_window,
        ),
        sae,
        iter(()),
    )
    checkpoint = work / "checkpoint"
    if (checkpoint / "trainer_state.pt").exists():
        sae.load_weights_from_checkpoint(checkpoint)
        trainer.load_trainer_state(checkpoint)
    else:
        # Scaled so that the mean norm is sqrt(d_in); the decoder's bias starts at the mean.
        scale = first.shape[1] ** 0.5 / np.linalg.norm(first, axis=1).mean()
        trainer.activation_scaler.scaling_factor = float(scale)
        sae.b_dec.data = torch.from_numpy(first.mean(0) * scale).to(device)
    begun, before = time.monotonic(), trainer.n_training_steps
    batches = shuffled_batches(folder, recipe, start=before)
    while trainer.n_training_steps < steps:
        step = trainer.step(torch.from_numpy(next(batches)))
        trainer.n_training_steps += 1
        steps_done = trainer.n_training_steps
        if steps_done % 25 == 0 or steps_done == steps:
            variance = step.sae_in.var(0, correction=0).sum()
            fvu = float(step.losses["mse_loss"].detach() / variance.detach())
            dead = int(trainer.dead_neurons.sum())
            rate = (steps_done - before) * recipe.batch / (time.monotonic() - begun)
            report(steps_done, steps, f"FVU {fvu:.3f}, {dead} dead, {rate:,.0f} tokens/s")
        if steps_done % CHECKPOINT_STEPS == 0:
            _save_checkpoint(trainer, checkpoint)
    sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    scratch = work / "sae"
    sae.save_inference_model(scratch)
    _write_half(scratch, out)


def _save_checkpoint(trainer: Any, target: Path) -> None:
    """Whole or not at all: the old checkpoint stays until the new one is complete."""
    scratch = target.with_name("_checkpoint")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    trainer.sae.save_model(str(scratch))
    trainer.save_trainer_state(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _write_half(folder: Path, out: Path) -> None:
    """Copy an SAE folder with float16 weights; sae-lens widens them again on loading."""
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "cfg.json").read_text())
    config["dtype"] = "float16"
    config["device"] = "cpu"
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(
        {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()},
        out / "sae_weights.safetensors",
    )
    (out / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def sparse_batch_topk() -> type:
    """sae-lens' BatchTopK training SAE with a sparse decoder: same loss, same gradients.

    The library multiplies the whole `[batch, width]` matrix of activations, of which a hundredth
    is not zero, six times a step. Here the k·batch largest are found among those near the running
    threshold, and only they are decoded and differentiated (2 to 3 times faster on two cores).
    """
    import torch
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
    from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

    class Reconstruct(torch.autograd.Function):
        """x -> sum over the chosen (row, feature) of pre * W_dec[feature] + b_dec."""

        @staticmethod
        def forward(ctx, x, W_enc, b_enc, W_dec, b_dec, rows, cols, pre):  # type: ignore
            acts = _csr(rows, cols, pre, len(x), len(b_enc))
            ctx.save_for_backward(x, W_enc, W_dec, b_dec, rows, cols, pre)
            return acts @ W_dec + b_dec

        @staticmethod
        def backward(ctx, grad):  # type: ignore
            x, W_enc, W_dec, b_dec, rows, cols, pre = ctx.saved_tensors
            with torch.autocast(grad.device.type, dtype=torch.bfloat16, enabled=_autocast()):
                grad_pre = (grad @ W_dec.T)[rows, cols].float()
            order = torch.argsort(cols, stable=True)
            by_feature = cols[order], rows[order]
            shape = len(W_dec), len(x)
            grad_W_dec = _csr(*by_feature, pre[order], *shape) @ grad
            grad_W_enc = (_csr(*by_feature, grad_pre[order], *shape) @ (x - b_dec)).T
            grad_b_enc = torch.zeros(len(W_dec)).to(x).index_add_(0, cols, grad_pre)
            grad_b_dec = grad.sum(0) - W_enc @ grad_b_enc
            return None, grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, None, None, None

    def _autocast() -> bool:
        return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")

    def _csr(rows, cols, values, n_rows, n_cols):  # type: ignore
        """Rows must be sorted."""
        counts = torch.bincount(rows, minlength=n_rows)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                starts, cols, values, (n_rows, n_cols), check_invariants=False
            )

    class SparseBatchTopK(BatchTopKTrainingSAE):
        topk_threshold: torch.Tensor

        def choose(self, scaled: torch.Tensor) -> torch.Tensor:
            """Flat indices, ascending, of the k·batch largest entries of `[batch, width]`."""
            n_active = int(self.cfg.k * len(scaled))
            flat = scaled.flatten()
            near = torch.nonzero(flat > 0.8 * self.topk_threshold.item()).squeeze(1)
            if len(near) < n_active:
                near = torch.arange(len(flat), device=flat.device)
            best = near[torch.topk(flat[near], n_active, sorted=False).indices]
            return best[flat[best] > 0].sort().values

        def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
            x = step_input.sae_in.float()
            norms = self.W_dec.detach().norm(dim=-1)
            with torch.no_grad():
                hidden_pre = ((x - self.b_dec) @ self.W_enc).float() + self.b_enc
                flat = self.choose(hidden_pre * norms)
                rows, cols = flat // len(norms), flat % len(norms)
                pre = hidden_pre.flatten()[flat]
                if len(flat):
                    lowest = (pre * norms[cols]).min().double()
                    rate = self.cfg.topk_threshold_lr
                    self.topk_threshold = (1 - rate) * self.topk_threshold + rate * lowest
            with torch.autocast(x.device.type, enabled=False):
                sae_out = Reconstruct.apply(
                    x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, rows, cols, pre
                )
                mse = (sae_out - x).pow(2).sum(dim=-1).mean()
                auxiliary = self._revive(x, sae_out, step_input.dead_neuron_mask)
            values = torch.sparse_coo_tensor(
                torch.stack([rows, cols]),
                pre,
                hidden_pre.shape,
                is_coalesced=True,
                check_invariants=False,
            )
            return TrainStepOutput(
                sae_in=x,
                sae_out=sae_out,
                feature_acts=values,
                hidden_pre=hidden_pre,
                loss=mse + auxiliary,
                losses={"mse_loss": mse, "auxiliary_reconstruction_loss": auxiliary},
            )

        def _revive(self, x, sae_out, dead):  # type: ignore
            """Dead features reconstruct the residual error (Gao et al. 2024, A.2), as sae-lens."""
            dead = torch.nonzero(dead).squeeze(1)
            if len(dead) == 0:
                return sae_out.new_tensor(0.0)
            half = x.shape[-1] // 2
            k = min(half, len(dead))
            residual = (x - sae_out).detach()
            pre = (x - self.b_dec) @ self.W_enc[:, dead] + self.b_enc[dead]
            decoder = self.W_dec[dead]
            chosen = (pre * decoder.norm(dim=-1)).topk(k, sorted=False).indices
            acts = torch.zeros_like(pre).scatter(-1, chosen, pre.gather(-1, chosen))
            error = (acts @ decoder - residual).pow(2).sum(dim=-1).mean()
            return self.cfg.aux_loss_coefficient * min(len(dead) / half, 1.0) * error

    return SparseBatchTopK
