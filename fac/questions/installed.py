"""Models and SAEs on this machine, and what trainings left: how large, and what refers to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fac.config import MeasureSpec, ProbeSpec, Workspace
from fac.errors import InputError
from fac.models import WHEELS
from fac.sae_directory import ListedSae, read_directory
from fac.store import Stores


class Installed(NamedTuple):
    """Files that can be deleted together."""

    kind: str  # model, SAE, hub, or leftover: what an unfinished step could go on with
    name: str
    path: Path
    bytes: int
    datasets: tuple[str, ...]  # names of the measured datasets that were read with it
    probes: int  # texts that were


def installed(stores: Stores) -> list[Installed]:
    """Everything there is in the home of models, the workspace and the hub's cache, largest
    first. The committed demo SAE is part of the program and not listed."""
    workspace = stores.runs.workspace
    uses = _uses(stores)
    items = []
    for kind, path in _paths(workspace):
        name = path.name.removeprefix("models--").replace("--", "/") if kind == "hub" else path.name
        referring = [use for use in uses if _refers(use, kind, name, path)]
        datasets = {use.name for use in referring if use.step == MeasureSpec.step}
        probes = sum(use.step == ProbeSpec.step for use in referring)
        items.append(Installed(kind, name, path, _size(path), tuple(sorted(datasets)), probes))
    return sorted(items, key=lambda item: (-item.bytes, item.name))


def remove(stores: Stores, path: Path) -> int:
    """Deletes one of `installed` and returns its bytes. Runs that were made with it stay.

    Raises InputError for what is not listed and while a job that may use it waits or runs.
    """
    item = next((each for each in installed(stores) if each.path == path), None)
    if item is None:
        raise InputError(f"There is nothing to delete at {path}: it may be gone already.")
    if live := stores.queue.live():
        raise InputError(
            f"Job {live[0].id} ({live[0].step}) waits or runs and may use {item.name}: delete it "
            f"when no job is live."
        )
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return item.bytes


class _Use(NamedTuple):
    """A run that read texts."""

    step: str
    name: str
    model: str
    sae: str
    encoder: str
    repository: str  # of an SAE that sae-lens knows by name; else ""


def _uses(stores: Stores) -> list[_Use]:
    runs = [run for step in (MeasureSpec.step, ProbeSpec.step) for run in stores.runs.list(step)]
    uses = []
    for run in runs:
        spec: dict[str, Any] = dict(run.content["spec"])
        model, sae = str(spec.get("model", "")), str(spec.get("sae", ""))
        uses.append(
            _Use(run.step, run.facts.name, model, sae, run.facts.encoder, _repository_of(sae))
        )
    return uses


def _repository_of(sae: str) -> str:
    """The hub's repository of an SAE, which sae-lens tells of RELEASE/SAE_ID."""
    if sae == "demo" or Path(sae).expanduser().exists() or "/" not in sae:
        return ""
    if ":" in sae:
        return sae.split(":")[0].split("@")[0]
    try:
        listed: ListedSae | None = read_directory().by_reference.get(sae)
    except InputError:  # without sae-lens nothing of it can be here
        return ""
    return listed.repository if listed else ""


def _paths(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    for path in _inside(workspace.models):
        if path.name.startswith(".tmp-") or path.suffix == ".part":
            yield "leftover", path
        elif path.suffix == ".gguf" or (path / "config.json").is_file():
            yield "model", path
    for path in _inside(workspace.saes):
        yield "SAE", path
    for path in _inside(workspace.root / "training"):
        yield "leftover", path
    for path in _inside(_hub_cache()):
        if path.name.startswith("models--"):
            yield "hub", path


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _size(path: Path) -> int:
    """Bytes of all files; links, which the hub's cache is full of, are not counted twice."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file() and not each.is_symlink())


def _refers(use: _Use, kind: str, name: str, path: Path) -> bool:
    """Whether a run read texts with what lies here."""
    if kind == "leftover":
        return False
    if kind == "hub":
        return use.model.split("@")[0] == name or use.repository == name
    if any(_lies_at(reference, path) for reference in (use.model, use.sae)):
        return True
    if kind == "SAE":
        return False
    wheel = WHEELS.get(use.model)
    stem, _, digits = name.rpartition("-")  # of a model that was a .gguf file, its hash
    was_gguf = bool(stem) and use.encoder.startswith(f"{stem}@{digits}")
    return name == (wheel.folder if wheel else use.model) or was_gguf


def _lies_at(reference: str, path: Path) -> bool:
    place = Path(reference).expanduser()
    return bool(reference) and (place == path or place.resolve() == path.resolve())
