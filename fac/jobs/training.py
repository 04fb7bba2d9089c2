"""Training and judging an SAE, and what no page asks for: chats, the demo computed anew."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fac import datasets, demo
from fac.config import ExplainSpec, IngestSpec, MeasureSpec, Workspace, digest
from fac.errors import BadRow, InputError, Progress
from fac.jobs.steps import Steps, load_generator, load_subject, locate, sae_device
from fac.questions.comparison import Comparison, coverage
from fac.schema import Chat
from fac.store import open_stores
from fac.store.runs import Runs

if TYPE_CHECKING:
    from fac.preflight import Finding
    from fac.sae_training import TrainRecipe
    from fac.saes import Quality


SPLIT_SEED = 0
"""Of the order of samples and of which are held back, whatever the recipe's seed: a training of
another seed differs in nothing else, and reads the collected activations of the first."""


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
    from fac.preflight import card_of, preflight, verdict

    chats = list(islice(read_chats([texts]), samples))
    progress(0, 2, "loading the model and the SAE")
    located = locate(model, workspace.models, progress)
    subject = load_subject(located, layer)
    dictionary = saes.load_sae(sae, subject.device)
    progress(1, 2, "reconstructing")
    findings, quality = preflight(dictionary, subject, card_of(located), chats)
    return findings, quality, verdict(findings)


class Clock:
    """A progress that adds up what a piece of work takes over every start of it, in a file beside
    what it writes: as far as it reported, so that what is finished before is not timed again."""

    def __init__(self, path: Path, progress: Progress):
        self._path, self._progress, self._begun = path, progress, time.monotonic()
        self._before = float(path.read_text()) if path.exists() else 0.0
        self.seconds = self._before

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.seconds = self._before + time.monotonic() - self._begun
        partial = self._path.with_name("_seconds")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(f"{self.seconds:.3f}")
        partial.replace(self._path)
        self._progress(done, total, note)


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
    models: Path | None = None,
) -> dict[str, Any]:
    """Collect activations, train, judge on held-out samples; write the SAE with its figures to
    recipe.json and quality.json.

    The last `held_out` samples of the shuffled files are kept back, and of those the ones that
    also occur among the training samples are not used. Killed at any time, it goes on; the recipe
    states what collecting and training took over all starts, each collected activation once.
    `models` is where subject models lie, if not in the workspace's folder of them.
    """
    from fac import sae_training, saes

    chats = list(read_chats(texts))
    random.Random(SPLIT_SEED).shuffle(chats)
    if len(chats) <= held_out:
        raise InputError(f"{len(chats)} samples leave none to train on beside {held_out} held out.")
    training = chats[: len(chats) - held_out][:max_samples]
    seen = {datasets.sample_id(chat) for chat in training}
    judged = [c for c in chats[len(chats) - held_out :] if datasets.sample_id(c) not in seen]
    from fac.preflight import card_of

    located = locate(model, models or workspace.models, progress)
    settings = {
        **asdict(recipe),
        "model": located.identity,
        "layer": layer,
        "context": context,
        "held_out": held_out,
        "training_samples": len(training),
        "files": {p.name: sha256(p.read_bytes()).hexdigest()[:12] for p in texts},
    }
    shared = digest(located.identity, layer, context, sorted(seen))
    shards = workspace.root / "training" / f"activations-{shared}"
    collecting = Clock(shards / "seconds", progress)
    subject = load_subject(located, layer, dtype="bfloat16", max_tokens=context)
    tokens = sae_training.collect_activations(training, subject, shards, collecting)
    del subject
    work = workspace.root / "training" / f"sae-{digest(settings)}"
    learning = Clock(work / "seconds", progress)
    sae_training.train(
        shards,
        recipe,
        work=work,
        out=out,
        model_name=card_of(located).name,  # of a snapshot in the hub's cache its id
        layer=layer,
        device=sae_device(),
        report=learning,
    )
    settings |= {
        "training_tokens": tokens,
        "seconds": round(collecting.seconds + learning.seconds),
        "seconds_collecting": round(collecting.seconds),
    }
    progress(0, 1, "judging on held-out samples")
    subject = load_subject(located, layer, max_tokens=context)  # in float32
    quality = saes.quality(saes.load_sae(str(out), sae_device()), subject, judged)._asdict()
    quality["samples"] = len(judged)
    for name, content in (("recipe", settings), ("quality", quality)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return {"out": str(out), "recipe": settings, "quality": quality}


def magpie(
    workspace: Workspace, model: str, recipe: demo.MagpieRecipe, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write samples with a local chat model; recipe and counts go beside them."""
    located = locate(model, workspace.models, progress)
    generator = load_generator(located)
    data = {"model": located.identity, **demo.write_magpie(recipe, generator, out, progress)}
    out.with_suffix(".recipe.json").write_text(json.dumps(data, indent=1) + "\n")
    return data


def rebuild_demo(workspace: Workspace, progress: Progress) -> list[str]:
    """Recompute the demo's runs from `data/demo/` in a folder of their own, compare, bring them in.

    Returns the run ids. Raises GateFailed when FAC or the missing set differ from the committed
    runs'; what was computed then stays in the folder for a look.
    """
    apart = Workspace(workspace.root / "rebuild")
    shutil.rmtree(apart.root, ignore_errors=True)
    steps = Steps(apart, models=workspace.models)
    for name, path in demo.INPUTS.items():
        source = steps.perform(IngestSpec(name=name, source=str(path)), progress)
        measured = steps.perform(MeasureSpec(dataset=source), progress)
        if name == demo.ANCHOR:
            steps.perform(ExplainSpec(measure=measured), progress)
    rebuilt = demo.run_ids(steps.runs)
    if demo.run_ids(Runs(demo.COMMITTED)):
        committed = demo.materialise(workspace, progress)
        demo.must_agree(headline(workspace, committed), headline(apart, rebuilt))
    demo.bring_in(steps.runs, workspace, progress)
    shutil.rmtree(apart.root)
    return rebuilt


def headline(workspace: Workspace, run_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """FAC and missing set of the demo's seed against its anchor, at threshold 0.

    Of several measures with these names, such as one with another model, those in `run_ids` count;
    by default the newest.
    """
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        measures = {
            manifest.facts.name: manifest.run
            for manifest in reversed(stores.runs.list(MeasureSpec.step))
            if run_ids is None or manifest.run in run_ids
        }
        anchor, seed = (measures[name] for name in demo.INPUTS)
        result = coverage(stores, Comparison(anchor, seed))
    return {"fac": result.fac, "n_missing": result.n_missing, "missing": result.missing.tolist()}
