"""Formats of SAEs, one file each: how one is recognised, and how it becomes a sae-lens module.

A wrong reading gives no error anywhere, only other numbers. So a format names every weight it has
with its shape, and says how features become active; what lacks a weight, has one more, or leaves
its K or its kind open is refused in one sentence.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fac.errors import InputError, first_line
from fac.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SaeFormat:
    """How one library keeps an SAE on disk."""

    title: str
    preference: int  # formats are tried in this order
    needs: str  # the files of a folder of this format; empty where it is one file
    recognises: Callable[[Source], bool]  # by keys and config, never by a suffix alone
    read: Callable[[Source, str], Any]
    """(source, device) -> sae-lens module in float32. Raises InputError where a weight or a size
    is not what the format says."""


SAE_FORMATS: Registry[SaeFormat] = Registry("fac.sae_formats", "SAE_FORMAT")


class Source:
    """What lies at a path: a folder of files, or one file of weights."""

    def __init__(self, path: Path):
        self.path = path
        self.files: list[Path] = []  # what was read and so makes the SAE, for its identity
        self.stored = ""  # data type of its matrices
        self.manner = ""  # how the files are read, where runs of before read them otherwise

    def has(self, *names: str) -> bool:
        """Whether it is a folder with files of these names."""
        return all((self.path / name).is_file() for name in names)

    def config(self, name: str, key: str | None = None) -> dict[str, Any]:
        """The JSON object in the folder or beside the file; with `key` empty where that is not in
        it or there is no such file. Raises InputError for what is no JSON object."""
        path = (self.path if self.path.is_dir() else self.path.parent) / name
        if key is not None and not path.is_file():
            return {}
        try:
            config = json.loads(path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError(f"{name} is not an object")
        except (OSError, ValueError) as error:
            unreadable(path, error)
        if key is not None and key not in config:
            return {}
        self.files.append(path)
        return config

    def weights(self, name: str = "") -> dict[str, Any]:
        """All that a file of the folder, or the file itself, holds by name. Raises InputError
        where it is of several layers."""
        path = self.path / name if name else self.path
        weights = dict(self.contents if not name else contents(path))
        self.files.append(path)
        if any(getattr(weight, "ndim", 0) == 3 for weight in weights.values()):
            self.refuse(f"has weights for several layers: it is {NO_SAE['crosscoder']}.")
        return weights

    @cached_property
    def contents(self) -> Mapping[str, Any]:
        """What the file holds by name, empty for a folder."""
        return {} if self.path.is_dir() else contents(self.path)

    def refuse(self, why: str) -> NoReturn:
        """Raises InputError: what, which file, and why."""
        raise InputError(f"The SAE {self.path} {why}")


def unreadable(path: Path, error: Exception) -> NoReturn:
    """Raises InputError for a file that is broken."""
    raise InputError(
        f"The SAE {path} cannot be read ({first_line(error)}); restore or train it again, as a "
        f"whole file with tensors only."
    ) from error


def contents(path: Path) -> Mapping[str, Any]:
    """What a file of torch.save, numpy.savez or safetensors holds by name, told apart by how it
    begins. Nothing in it is run. Raises InputError for others and for broken ones."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if _is_safetensors(path):
            return load_file(path)
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"PK":
            raise ValueError("it is no archive of torch.save, no npz and no safetensors file")
        if not zipfile.is_zipfile(path):
            raise ValueError("its end is missing")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if all(name.endswith(".npy") for name in names):
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, EOFError, KeyError, RuntimeError, ValueError),
        *(UnpicklingError, SafetensorError, zipfile.BadZipFile, zlib.error),
    ) as error:
        unreadable(path, error)
    return held if isinstance(held, dict) else {}


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as one: eight bytes of a length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def fit(
    source: Source,
    weights: Mapping[str, Any],
    layout: Mapping[str, str],
    *,
    d_in: int | None = None,
    d_sae: int | None = None,
) -> dict[str, torch.Tensor]:
    """The weights in float32, when they are exactly those of the layout and fit together.

    The layout says for each name its axes: `i` for the values read, `s` for the features. Sizes
    that no config tells are those of the vectors. Raises InputError that names the weight.
    """
    import torch

    missing = [name for name in layout if name not in weights]
    extra = [name for name in weights if name not in layout]
    if skip := {"W_skip", "affine_skip_connection"} & {*extra}:
        source.refuse(f"has {min(skip)}: it is {NO_SAE['skip_transcoder']}.")
    if missing:
        source.refuse(f"has no {', '.join(missing)}; fetch or save it again with all its weights.")
    if extra:
        source.refuse(
            f"has {', '.join(extra)} as well, which SAEs of this format do not have: it is of "
            f"another kind or version, so convert it to sae-lens with its own library."
        )
    tensors = {name: weights[name] for name in layout}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            source.refuse(f"has a {name} that is no tensor; save it again with tensors only.")
    sizes = {"i": d_in, "s": d_sae}
    for name, axes in layout.items():
        if len(axes) == 1 and tensors[name].ndim == 1:
            sizes[axes] = sizes[axes] or len(tensors[name])
    for name, axes in layout.items():
        shape = [sizes[axis] for axis in axes]
        if list(tensors[name].shape) != shape:
            hint = " (it is transposed)" if [*tensors[name].shape][::-1] == shape else ""
            source.refuse(
                f"does not fit together: {name} is {list(tensors[name].shape)}{hint}, but "
                f"{sizes['i']} values in and {sizes['s']} features make it {shape}."
            )
    matrix = next(tensors[name] for name, axes in layout.items() if len(axes) == 2)
    source.stored = str(matrix.dtype).removeprefix("torch.")
    return {name: tensor.float() for name, tensor in tensors.items()}


def assemble(
    source: Source,
    architecture: str,
    tensors: Mapping[str, torch.Tensor],
    device: str,
    *,
    hook: str | None = None,
    model: str | None = None,
    **options: Any,
) -> Any:
    """A sae-lens module of weights as sae-lens names and turns them. Options are those of its
    config, such as `k`. Raises InputError where K is no number of features."""
    from sae_lens import SAE

    d_in, d_sae = tensors["W_enc"].shape
    if architecture == "topk" and not (type(options["k"]) is int and 1 <= options["k"] <= d_sae):
        source.refuse(f"does not fit together: K is {options['k']} of {d_sae} features.")
    config = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, "device": "meta"}
    module: Any = SAE.from_dict({**config, **options})  # without memory for weights of its own
    module.load_state_dict({n: tensor.contiguous() for n, tensor in tensors.items()}, assign=True)
    module.cfg.metadata.hook_name = hook
    module.cfg.metadata.model_name = model
    return module.to(device=device)


# --- what is refused --------------------------------------------------------------------------

NO_SAE = {
    "abstopk": "an AbsTopK SAE, whose features also fire below zero",
    "crosscoder": "a crosscoder, which reads several layers or models at once",
    "hook_z": "an SAE of attention heads' outputs (hook_z), not of the residual stream",
    "matching_pursuit": "a matching-pursuit SAE, whose features have no pre-activations",
    "skip_transcoder": "a transcoder with a skip connection, which predicts another place of the "
    "model than it reads",
    "temporal": "a temporal SAE, whose features depend on the tokens before",
    "transcoder": "a transcoder, which predicts another place of the model than it reads",
}
"""What looks like an SAE of the residual stream and is none that can be measured here."""

NO_SAE["jumprelu_transcoder"] = NO_SAE["transcoder"]
NO_SAE["jumprelu_skip_transcoder"] = NO_SAE["skip_transcoder"]

ALWAYS_SO = ("sae-lens", "paper")
"""Formats that were read in the same way from the beginning, so their identities stay."""

READ = ("standard", "topk", "jumprelu", "gated")

NOT_FOLDED = ("expected_average_only_in", "covariance_whitening")
"""What sae-lens calls scalings that stand in no weight: unless folded they are left out."""

CENTRED = ("gpt2", "gptneo", "gptj", "pythia")
"""Model families that read the residual stream through LayerNorms alone: their stream may lose its
mean and the model stays the same."""


def refuse_kind(kind: str, where: str) -> None:
    """Raises InputError for an architecture that is none of an SAE here."""
    if kind in NO_SAE:
        raise InputError(
            f"{where} is {NO_SAE[kind]}; choose a standard, Top-K, JumpReLU, gated or BatchTopK "
            f"SAE of the residual stream."
        )
    if kind not in READ:
        raise InputError(
            f"{where} cannot be read: its architecture {kind!r} is none of {', '.join(READ)}."
        )


def checked(module: Any, where: str) -> Any:
    """The module, when it is an SAE that can be read as it is; `where` begins the sentence.

    An SAE trained on centred writing weights reads a stream without its mean over d_model; here
    that is taken off before it reads and put back on what it reconstructs. Raises InputError.
    """
    cfg, metadata = module.cfg, module.cfg.metadata
    refuse_kind(cfg.architecture(), where)
    if cfg.reshape_activations == "hook_z" or "hook_z" in (metadata.hook_name or ""):
        refuse_kind("hook_z", where)
    if cfg.normalize_activations in NOT_FOLDED:
        raise InputError(
            f"{where} scales what it reads by {cfg.normalize_activations!r}, which is not folded "
            f"into its weights: fold it with sae-lens (fold_activation_norm_scaling_factor or "
            f"fold_activation_whitening) and save it again."
        )
    if transposed(module):
        raise InputError(
            f"{where} does not fit together: rows of its encoder, not columns, go with rows of "
            f"its decoder; transpose one of them."
        )
    if centred(module):
        model = "".join(c for c in (metadata.model_name or "").lower() if c.isalnum())
        if not any(name in model for name in CENTRED):
            raise InputError(
                f"{where} was trained on centred writing weights of {metadata.model_name}, which "
                f"is known to change the residual stream in one way for GPT-2, GPT-Neo, GPT-J and "
                f"Pythia only; train one without."
            )
        _centre(module)
    return module


def centred(module: Any) -> bool:
    """Whether the SAE says that it reads a stream of centred writing weights."""
    options = module.cfg.metadata.model_from_pretrained_kwargs or {}
    return bool(options.get("center_writing_weights"))


def transposed(module: Any) -> bool:
    """Whether a square encoder goes with its decoder only when it is transposed. Both begin as
    each other's transpose in nearly every recipe; where neither fits, nothing can be said."""
    encoder, decoder = module.W_enc.detach(), module.W_dec.detach()
    if encoder.shape[0] != encoder.shape[1]:
        return False
    import torch

    as_is, turned = (
        float(torch.cosine_similarity(rows, decoder, dim=1).abs().mean())
        for rows in (encoder.T, encoder)
    )
    return turned > as_is + 0.2


def _centre(module: Any) -> None:
    normed, restored = module.run_time_activation_norm_fn_in, module.run_time_activation_norm_fn_out
    mean: list[Any] = [0.0]

    def without_mean(states: torch.Tensor) -> torch.Tensor:
        mean[0] = states.mean(-1, keepdim=True)
        return normed(states - mean[0])

    module.run_time_activation_norm_fn_in = without_mean
    module.run_time_activation_norm_fn_out = lambda states: restored(states) + mean[0]


def quiet() -> warnings.catch_warnings:
    """A context without sae-lens' advice on how to load the model: `checked` does what it means."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def read(path: Path, device: str) -> tuple[Any, Source]:
    """The sae-lens module of what lies at a path, and what of it was read.

    Raises InputError for what is of no format here, or not as its format says.
    """
    source = Source(path)
    if path.is_file() and _is_safetensors(path):
        source.refuse("holds weights without what they mean; give the folder that it belongs to.")
    formats = [SAE_FORMATS[name] for name in SAE_FORMATS]
    for name, format in zip(SAE_FORMATS, formats, strict=True):
        if format.recognises(source):
            try:
                with quiet():
                    module = checked(format.read(source, device), f"The SAE {path}")
                source.manner = "" if name in ALWAYS_SO else name
                source.manner += " centred" if centred(module) else ""
                return module, source
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                unreadable(path, error)  # a config with something else where a number belongs
    if path.is_dir():
        raise InputError(
            f"The folder {path} holds no SAE: it needs "
            + ", or ".join(f"{f.needs} ({f.title})" for f in formats if f.needs)
            + "."
        )
    names = ", ".join(map(str, source.contents)) or "no weights by name"
    raise InputError(
        f"The file {path} holds {names}, which is no SAE of "
        + ", ".join(format.title for format in formats)
        + "; convert it to a folder with cfg.json and sae_weights.safetensors by sae-lens."
    )
