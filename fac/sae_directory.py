"""The SAEs that sae-lens knows by name, searched without loading it or reaching any network.

sae-lens keeps them in a file of its package, `pretrained_saes.yaml`: of each release the model, the
repository and its SAEs, most with a mean L0 and some with their place on Neuronpedia. Layer and
width stand in names alone, which differ by release.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fac.errors import InputError

NEURONPEDIA = "https://www.neuronpedia.org/"


class ListedSae(NamedTuple):
    """One SAE of the residual stream that sae-lens can fetch."""

    reference: str  # RELEASE/SAE_ID, as `load_sae` takes it
    model: str  # what sae-lens calls it
    layer: int | None  # blocks that have run, this project's counting; None where no name says it
    width: str  # features as names have them, `16k`; "" where no name says it
    l0: float | None  # features active per token, as its makers found
    repository: str  # of the hub, where its weights lie
    neuronpedia: str  # address of its page; "" where there is none


class Directory(NamedTuple):
    """What sae-lens lists."""

    saes: tuple[ListedSae, ...]
    elsewhere: int  # SAEs it lists beside them, of other places of a model, and transcoders

    @property
    def by_reference(self) -> dict[str, ListedSae]:
        return {sae.reference: sae for sae in self.saes}

    @property
    def models(self) -> list[str]:
        """Their models, in alphabetical order of what stands behind the owner."""
        return sorted(
            {sae.model for sae in self.saes}, key=lambda name: name.split("/")[-1].lower()
        )


def file_of_directory() -> Path | None:
    """The file of the sae-lens that is installed; None where none is."""
    package = find_spec("sae_lens")  # which does not import it
    folders = package.submodule_search_locations if package else None
    path = Path(next(iter(folders))) / "pretrained_saes.yaml" if folders else None
    return path if path and path.is_file() else None


@lru_cache(maxsize=2)
def read_directory(path: Path | None = None) -> Directory:
    """The SAEs of the file, by default of the sae-lens that is installed; a second or more for the
    first reader.

    Raises InputError where there is no such file or it cannot be read.
    """
    path = path or file_of_directory()
    if path is None:
        raise InputError(
            "sae-lens is not installed here, so its SAEs cannot be searched: install it, or give "
            "a folder or RELEASE/SAE_ID."
        )
    yaml = import_module("yaml")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        releases = yaml.load(path.read_text("utf-8"), Loader=loader)
        listed = [
            _listed(name, release, entry)
            for name, release in releases.items()
            for entry in release["saes"]
        ]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"The list of SAEs of this sae-lens cannot be read ({type(error).__name__} in "
            f"{path.name}): give a folder or RELEASE/SAE_ID instead."
        ) from error
    saes = [sae for sae in listed if sae is not None]
    saes.sort(key=lambda sae: (sae.model, sae.layer or 0, size_of(sae.width), sae.l0 or 0))
    return Directory(tuple(saes), len(listed) - len(saes))


def search(
    directory: Directory,
    *,
    model: str = "",
    layer: int | None = None,
    width: str = "",
    text: str = "",
) -> list[ListedSae]:
    """The SAEs of exactly this model, layer and width, whose reference or model has every word of
    `text`, whatever stands between its letters: "GPT-2 layer 6". What is not given is any."""
    words = [_letters(word) for word in re.sub(r"layer\s+(?=\d)", "layer", text.lower()).split()]
    return [
        sae
        for sae in directory.saes
        if model in ("", sae.model)
        and layer in (None, sae.layer)
        and width in ("", sae.width)
        and all(
            word == f"layer{sae.layer}" or word in _letters(sae.reference + sae.model)
            for word in words
            if word
        )
    ]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


ELSEWHERE = re.compile(
    r"mlp|attn|[-_]att\b|hook_z|resid_mid|res_mid|transcoder|\bclt|temporal|embed|\bl\d+[ma]_"
)
"""Of a release or an SAE's names: not the residual stream between blocks, or no plain SAE."""


def _listed(name: str, release: dict[str, Any], entry: dict[str, Any]) -> ListedSae | None:
    """An entry of the file; None for one that cannot be measured here."""
    inside, page = str(entry["id"]), str(entry.get("neuronpedia") or "")
    kind = str(release.get("conversion_func") or "")
    names = (inside, str(entry["path"]), name)
    if any(ELSEWHERE.search(each.lower()) for each in (*names, kind)):
        return None
    l0 = entry.get("l0")
    return ListedSae(
        reference=f"{name}/{inside}",
        model=str(release["model"]),
        layer=_layer(inside),
        width=_width((*names, page)),
        l0=float(l0) if l0 else None,
        repository=str(release["repo_id"]),
        neuronpedia=NEURONPEDIA + page if page else "",
    )


def _layer(sae_id: str) -> int | None:
    """Blocks that have run, as `fac.saes.layer_of_hook` counts them."""
    block = re.search(r"(?:\b|_)(?:blocks\.|layer_?|l)(\d+)", sae_id)
    return int(block[1]) + ("hook_resid_pre" not in sae_id) if block else None


WIDTHS = (
    r"width[-_](\d+[km])(?![a-z0-9])",
    r"width[-_]2pow(\d+)",
    r"[-_]w(\d+k)\b",
    r"-(\d+[km])(?:__|$)",
    r"_(\d{4,6})(?:_|$)",
)
"""How names say it: as 16k, as the exponent of two, or as a number."""


def _width(names: Sequence[str]) -> str:
    """Features as the first name that says it has them, in thousands: of 16,384 it is `16k`."""
    for pattern in WIDTHS:
        for name in names:
            if number := re.search(pattern, name.lower()):
                digits = number[1]
                if digits[-1] in "km":
                    return digits
                size = 2 ** int(digits) if len(digits) < 4 else int(digits)
                return f"{size // 1000}k"
    return ""


def size_of(width: str) -> int:
    """About how many features a width such as `16k` or `1m` means; 0 where it is not said."""
    return int(width[:-1]) * {"k": 1000, "m": 1_000_000}[width[-1]] if width else 0
