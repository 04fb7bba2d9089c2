"""Subject models, SAEs and writers, loaded on this machine as its environment says."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from fac.errors import InputError, Progress

if TYPE_CHECKING:
    from fac.encoder import SaeEncoder
    from fac.generator import LocalGenerator
    from fac.generator.writers.local import LocalWriter
    from fac.models import Located, SubjectModel
    from fac.saes import Sae

T = TypeVar("T")

PRECISIONS = ("float32", "bfloat16")


class LastLoaded(Generic[T]):
    """The model of a kind that was loaded last; there is room for no second one."""

    def __init__(self) -> None:
        self._loaded: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """The one of that key, loaded unless it is there."""
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            self._loaded = key, load()
        return self._loaded[1]

    def forget(self) -> None:
        self._loaded = None


def silent(done: int, total: int, note: str = "") -> None:
    """Progress of what is too quick to report on, and must not be interrupted."""


def locate(model: str, home: Path, progress: Progress) -> Located:
    """Where a model lies; the demo model is fetched if need be, which `progress` is told of."""
    from fac.models import locate_model

    return locate_model(model, home, lambda note: progress(0, 1, note))


def device() -> str:
    """FAC_DEVICE, else `cuda` where there is one, else `cpu`."""
    from fac.models import pick_device

    return os.environ.get("FAC_DEVICE") or pick_device()


def precision() -> str:
    """FAC_DTYPE: what a subject model's weights and residual stream are held in, else float32."""
    dtype = os.environ.get("FAC_DTYPE") or PRECISIONS[0]
    if dtype not in PRECISIONS:
        raise InputError(f"FAC_DTYPE takes {' or '.join(PRECISIONS)}, got {dtype!r}.")
    return dtype


def load_subject(located: Located, layer: int, **options: Any) -> SubjectModel:
    """A subject model on this machine's device; for `options` see SubjectModel."""
    from fac.models import SubjectModel

    return SubjectModel(
        located.folder, layer=layer, device=device(), revision=located.revision, **options
    )


def load_encoder(
    model: str,
    layer: int,
    sae: str,
    max_tokens: int,
    dtype: str,
    home: Path,
    progress: Progress = silent,
) -> SaeEncoder:
    """A subject model and its SAE on this machine; models lie in FAC_MODELS, or else in `home`.

    Raises InputError when the SAE reads another width or layer than it is asked for.
    """
    from fac.encoder import SaeEncoder
    from fac.saes import load_sae

    located = locate(model, _models(home), progress)
    dictionary = load_sae(sae, device())
    subject = load_subject(located, layer, dtype=dtype, max_tokens=max_tokens)
    if dictionary.d_in != subject.d_model:
        raise InputError(
            f"The SAE {sae!r} reads {dictionary.d_in} values, but {model!r} has a "
            f"residual stream of {subject.d_model}: it belongs to another model. "
            f"`fac preflight` compares them."
        )
    if dictionary.trained_layer not in (None, layer):
        raise InputError(
            f"The SAE {sae!r} reads the stream after {dictionary.trained_layer} blocks, not "
            f"{layer}; give --layer {dictionary.trained_layer}."
        )
    return SaeEncoder(subject, dictionary, located.identity)


def load_generator(located: Located) -> LocalGenerator:
    """A model of this machine that writes."""
    from fac.generator import LocalGenerator
    from fac.models import keep_freed_memory

    keep_freed_memory()
    return LocalGenerator(located.folder, device=device(), revision=located.revision)


def load_writer(model: str, home: Path, batch: int) -> LocalWriter:
    """The same as a writer; models lie in FAC_MODELS, or else in `home`."""
    from fac.generator.writers.local import LocalWriter

    located = locate(model, _models(home), silent)
    return LocalWriter(load_generator(located), located.identity, batch=batch)


def _models(home: Path) -> Path:
    """A worker on another machine has a folder of its own."""
    return Path(os.environ.get("FAC_MODELS") or home)


def decoder_directions(sae: Sae) -> Callable[[int], np.ndarray]:
    """The decoder direction of each feature at length 1, float32 `[d_model]`."""
    decoder = sae.decoder

    def direction(feature: int) -> np.ndarray:
        return decoder[feature] / np.linalg.norm(decoder[feature])

    return direction
