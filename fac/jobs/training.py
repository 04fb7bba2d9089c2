"""What no page asks for: training and judging an SAE, preflight, samples of a chat model."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fac import datasets, demo
from fac.config import Workspace, digest
from fac.errors import BadRow, InputError
from fac.jobs.loading import Progress, device, load_generator, load_subject, locate
from fac.schema import Chat

if TYPE_CHECKING:
    from fac.models import Located
    from fac.sae_training import TrainRecipe
    from fac.saes import Finding, Quality


def read_chats(paths: Sequence[Path]) -> Iterator[Chat]:
    """The chats of dataset files; the first bad row ends the reading with its file and line."""
    for path in paths:
        for row in datasets.read_samples(str(path)):
            if isinstance(row, BadRow):
                raise InputError(f"{path.name}, {row}.")
            yield row.messages


def preflight(
    workspace: Workspace,
    model: str,
    layer: int,
    sae: str,
    texts: Path,
    samples: int,
    progress: Progress,
) -> tuple[list[Finding], Quality | None, str]:
    """Compare an SAE with a model on the first samples of a file; findings, figures, verdict."""
    from fac import saes

    chats = list(islice(read_chats([texts]), samples))
    progress(0, 2, "loading the model and the SAE")
    located = locate(model, workspace.models, progress)
    subject = load_subject(located, layer)
    dictionary = saes.load_sae(sae, subject.device)
    progress(1, 2, "reconstructing")
    name = located.identity.split("@")[0]
    findings, quality = saes.preflight(dictionary, subject, name, chats)
    return findings, quality, saes.verdict(findings)


def train_sae(
    workspace: Workspace,
    texts: Sequence[Path],
    out: Path,
    *,
    recipe: TrainRecipe,
    model: str,
    layer: int,
    context: int,
    held_out: int,
    max_samples: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Collect activations, train, judge on held-out samples; write the SAE with its figures.

    The last `held_out` samples of the shuffled files are kept back, and of those the ones that
    also occur among the training samples are not used.
    """
    from fac import sae_training

    chats = list(read_chats(texts))
    random.Random(recipe.seed).shuffle(chats)
    if len(chats) <= held_out:
        raise InputError(f"{len(chats)} samples leave none to train on beside {held_out} held out.")
    training = chats[: len(chats) - held_out][:max_samples]
    seen = {datasets.sample_id(chat) for chat in training}
    judged = [c for c in chats[len(chats) - held_out :] if datasets.sample_id(c) not in seen]
    located = locate(model, workspace.models, progress)
    settings = {
        **asdict(recipe),
        "model": located.identity,
        "layer": layer,
        "context": context,
        "held_out": held_out,
        "training_samples": len(training),
        "files": {path.name: hash_file(path) for path in texts},
    }
    shared = digest(located.identity, layer, context, sorted(seen))
    shards = workspace.root / "training" / f"activations-{shared}"
    begun = time.monotonic()
    subject = load_subject(located, layer, dtype="bfloat16", max_tokens=context)
    tokens = sae_training.collect_activations(training, subject, shards, progress)
    del subject
    sae_training.train(
        shards,
        recipe,
        work=workspace.root / "training" / f"sae-{digest(settings)}",
        out=out,
        model_name=located.identity.split("@")[0],
        layer=layer,
        device=device(),
        report=progress,
    )
    settings |= {"training_tokens": tokens, "seconds": round(time.monotonic() - begun)}
    return judge_sae(out, located, settings, judged, progress)


def judge_sae(
    folder: Path,
    located: Located,
    settings: dict[str, Any],
    judged: Sequence[Chat],
    progress: Progress,
) -> dict[str, Any]:
    """Measure an SAE on held-out samples in float32; write recipe.json and quality.json to it."""
    from fac import saes

    progress(0, 1, "judging on held-out samples")
    subject = load_subject(located, settings["layer"], max_tokens=settings["context"])
    quality = saes.quality(saes.load_sae(str(folder), device()), subject, judged)._asdict()
    quality["samples"] = len(judged)
    for name, content in (("recipe", settings), ("quality", quality)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return {"out": str(folder), "recipe": settings, "quality": quality}


def magpie(
    workspace: Workspace, model: str, recipe: demo.MagpieRecipe, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write samples with a local chat model; recipe and counts go beside them."""
    located = locate(model, workspace.models, progress)
    generator = load_generator(located)
    data = {"model": located.identity, **demo.write_magpie(recipe, generator, out, progress)}
    out.with_suffix(".recipe.json").write_text(json.dumps(data, indent=1) + "\n")
    return data


def hash_file(path: Path) -> str:
    """12 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
