"""The command line: every step of the dashboard, for scripts and CI gates.

Exit codes: 0 done; 1 a gate failed; 2 the input or the arguments are wrong; 3 an outside service or
model failed; 130 cancelled. With --json one object goes to stdout and everything else to stderr.
What goes wrong is one sentence on stderr, raised anywhere below and told in `run`.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fac import compare, demo
from fac.cli import decide, frame, make  # noqa: F401 - register their commands
from fac.cli.frame import (
    Address,
    Anchor,
    Answer,
    Dataset,
    Executor,
    Layer,
    MinSupport,
    Model,
    Relevant,
    Role,
    SaeOption,
    Threshold,
    Workers,
    WorkspaceOption,
    app,
    build_caches,
    command,
    err,
    listing,
    out,
    perform,
    plain,
    progress_bar,
    readable,
)
from fac.config import IngestSpec, MeasureSpec, ProbeSpec, Workspace, read_spec, workspace
from fac.errors import FacError, InputError
from fac.executor import choose_executor
from fac.jobs import training
from fac.jobs.rebuild import headline, rebuild_demo
from fac.jobs.worker import Worker
from fac.questions.relevance import people_verdicts
from fac.schema import EVERY_ROLE
from fac.store import cache as caches
from fac.store import open_stores
from fac.store.cache import Cache
from fac.store.runs import Runs

cache_app = typer.Typer(help="The DuckDB caches the pages read; any can be deleted and rebuilt.")
app.add_typer(cache_app, name="cache")


# --- data and measures ------------------------------------------------------------------------


@command("demo")
def demo_(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Recompute every run from data/demo/ and compare.")
    ] = False,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Bring the demo into the workspace; with --rebuild compute it anew and compare."""
    place = workspace(workspace_)
    begun = time.monotonic()
    with progress_bar("demo") as progress:
        runs = rebuild_demo(place, progress) if rebuild else demo.materialise(place, progress)
    result = headline(place, runs)
    data = {
        "runs": runs,
        "fac": result["fac"],
        "n_missing": result["n_missing"],
        "rebuilt": rebuild,
        "seconds": round(time.monotonic() - begun, 1),
    }
    return Answer(data, listing({**data, "runs": ", ".join(runs)}))


@command("ingest")
def ingest(
    source: Annotated[str, typer.Argument(help="A file, or hf:ID of the Hugging Face hub.")],
    name: Annotated[str, typer.Option(help="What the dataset is called from now on.")],
    text_field: Annotated[str | None, typer.Option(help="Column of plain text.")] = None,
    messages_field: Annotated[str | None, typer.Option(help="Column of chats.")] = None,
    label_field: Annotated[str | None, typer.Option(help="Column of labels.")] = None,
    on_bad: Annotated[str, typer.Option(help="stop at the first bad row, or skip and list.")] = (
        "stop"
    ),
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Read a file or a hub dataset into the workspace."""
    spec = IngestSpec(
        name=name,
        source=source,
        text_field=text_field,
        messages_field=messages_field,
        label_field=label_field,
        on_bad=on_bad,
    )
    place = workspace(workspace_)
    run_id = perform(place, spec, f"reading {name}")
    runs = Runs(place)
    facts = runs.manifest(run_id)["facts"]
    rejected = runs.table(run_id, "rejected").to_pylist()
    data = {
        "run": run_id,
        "samples": facts["n_samples"],
        "duplicates": facts["duplicates"],
        "rejected": rejected,
        "layout": facts["layout"],
    }

    def show() -> None:
        listing({**data, "rejected": len(rejected)})()
        for row in rejected[:10]:
            out.print(f"  line {row['line']}: {escape(row['reason'])}")
        if len(rejected) > 10:
            out.print(f"  … and {len(rejected) - 10} more")

    return Answer(data, show)


@command("measure")
def measure(
    name: Annotated[str, typer.Argument(help="Name or run id of a dataset.")],
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    role: Role = EVERY_ROLE,
    max_tokens: Annotated[int, typer.Option(help="Samples are read up to here.")] = 1024,
    floor: Annotated[float, typer.Option(help="Peaks at or below are not stored.")] = 0.0,
    executor: Executor = None,
    address: Address = None,
    workers: Workers = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Activations, statistics, examples and near misses of a dataset."""
    place = workspace(workspace_)
    steps = frame.Steps(place, where=choose_executor(executor, address, workers))
    spec = MeasureSpec(
        dataset=steps.runs.resolve("dataset", name),
        model=model,
        layer=layer,
        sae=sae,
        role=role,
        floor=floor,
        max_tokens=max_tokens,
    )
    with progress_bar(f"measuring {name}") as progress:
        run_id = steps.perform(spec, progress)
    facts = steps.runs.manifest(run_id)["facts"]
    asked = ("tokens", "seconds", "tokens_per_second", "features_fired", "n_features")
    data = {"run": run_id, **{key: facts[key] for key in asked}}
    data |= {"samples": facts["n_samples"], "cut": facts["n_cut"], "empty": facts["n_empty"]}
    return Answer(data, listing(data))


# --- coverage -----------------------------------------------------------------------------------


def _coverage(
    place: Workspace,
    anchor: str,
    dataset: str,
    threshold: float,
    min_support: int,
    role: str,
    relevant: str,
) -> tuple[Cache, dict[str, Any], dict[str, Any]]:
    """The cache, the arguments every compare function takes, and the result as a dict."""
    runs = Runs(place)
    if not math.isfinite(threshold):
        raise InputError(f"--threshold takes a number, got {threshold}.")
    ids = {
        "anchor": runs.resolve("measure", anchor),
        "dataset": runs.resolve("measure", dataset),
    }
    handle = Cache(place.cache)
    judged = compare.relevance_runs(runs, ids["anchor"])
    build_caches(place, [*ids.values(), *filter(None, [judged.get(relevant)])])
    people: dict[int, str] = {}
    if relevant in judged:
        said = people_verdicts(open_stores(place, remember=False), ids["anchor"], relevant)
        people = {feature: one.verdict for feature, one in said.items() if one.verdict}
    wanted = compare.relevant_set(
        relevant, handle, ids["anchor"], runs=runs, role=role, overrides=people
    )
    asked: dict[str, Any] = {
        **ids,
        "threshold": threshold,
        "min_support": min_support,
        "role": role,
        "relevant": wanted,
    }
    return handle, asked, compare.coverage_of(handle, **asked)._asdict()


@command("coverage")
def coverage(
    anchor: Anchor,
    dataset: Dataset,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    relevant: Relevant = "all",
    role: Role = EVERY_ROLE,
    list_: Annotated[bool, typer.Option("--list", help="Also the missing feature ids.")] = False,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """FAC of a dataset against an anchor, and what is missing."""
    place = workspace(workspace_)
    handle, asked, data = _coverage(place, anchor, dataset, threshold, min_support, role, relevant)
    if note := compare.judged_words(Runs(place), handle, asked["anchor"], relevant):
        err.print(escape(note), soft_wrap=True, highlight=False)
        data["note"] = note
    missing = data.pop("missing").tolist()
    if list_:
        data["missing"] = missing

    def show() -> None:
        listing({k: v for k, v in data.items() if k != "missing"})()
        if list_:
            out.print(" ".join(map(str, missing)), soft_wrap=True)

    return Answer(data, show)


@command("gaps")
def gaps(
    anchor: Anchor,
    dataset: Dataset,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    relevant: Relevant = "all",
    role: Role = EVERY_ROLE,
    badge: Annotated[
        str, typer.Option(help="any, robust, borderline or artefact: how far to believe a gap.")
    ] = "any",
    out_: Annotated[
        Path | None, typer.Option("--out", help="Write the gaps as JSON lines.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown without --out.")] = 20,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """The missing features, ranked by the anchor's support, with evidence."""
    place = workspace(workspace_)
    handle, asked, result = _coverage(
        place, anchor, dataset, threshold, min_support, role, relevant
    )
    missing = result["n_missing"]
    explained = compare.explained_by(Runs(place), asked["anchor"])
    build_caches(place, explained)
    shown = max(missing, 1) if out_ else limit
    rows, total = compare.gap_table(handle, **asked, explained=explained, badge=badge, limit=shown)
    if out_:
        text = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
        try:
            out_.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{str(out_)!r} cannot be written: {error.strerror}.") from error
    data = {"n_missing": missing, "rows": len(rows), "out": str(out_) if out_ else None}
    data |= {} if out_ else {"gaps": rows}

    def show() -> None:
        kind = "" if badge == "any" else f"{badge} "
        table = Table(title=f"{total:,} {kind}gaps of {escape(dataset)} against {escape(anchor)}")
        told = "explanation" if any(row["explanation"] for row in rows) else "top tokens"
        table.add_column("feature", justify="right", no_wrap=True)
        table.add_column(told)
        for column in ("anchor", "expected", "near", "badge"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows[:limit]:
            table.add_row(
                str(row["feature"]),
                escape(row["explanation"] or row["label"]),
                str(row["n_anchor"]),
                "" if row["expected"] is None else f"{row['expected']:.1f}",
                "" if row["near"] is None else f"{row['near']:.2f}",
                row["badge"],
            )
        out.print(table)
        if out_:
            out.print(f"{len(rows):,} rows in {escape(str(out_))}")

    return Answer(data, show)


@command("check")
def check(
    new: Annotated[str, typer.Argument(help="Measured dataset, or a file to read and measure.")],
    baseline: Annotated[str, typer.Option(help="Measured dataset it must hold up against.")],
    anchor: Annotated[
        str | None, typer.Option(help="What matters; the baseline itself by default.")
    ] = None,
    min_fac: Annotated[float | None, typer.Option(min=0, max=1, help="Fail below this FAC.")] = (
        None
    ),
    no_regress: Annotated[
        bool, typer.Option("--no-regress", help="Fail if a feature of the baseline is lost.")
    ] = False,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    role: Role = EVERY_ROLE,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """A coverage gate for CI: exit 1 when coverage fell."""
    place = workspace(workspace_)
    name = _measured(place, new, baseline)
    handle, asked, result = _coverage(
        place, anchor or baseline, name, threshold, min_support, role, "all"
    )
    before = Runs(place).resolve("measure", baseline)
    changed = compare.changes(handle, before, asked["dataset"], threshold=threshold, role=role)
    gained, lost = (sorted(int(i) for i in changed[key]) for key in ("gained", "lost"))
    data = {
        "fac": result["fac"],
        "n_missing": result["n_missing"],
        "gained": gained,
        "lost": lost,
        "min_fac": min_fac,
    }
    failures = []
    if min_fac is not None and not result["fac"] >= min_fac:  # also where it is undefined
        failures.append(f"FAC is {readable(result['fac'])}, below {min_fac}")
    if no_regress and lost:
        first = ", ".join(map(str, lost[:5]))
        failures.append(f"{len(lost):,} features of {baseline} are lost (first: {first})")
    data["passed"] = not failures
    show = listing({**data, "gained": len(gained), "lost": len(lost)})
    return Answer(data, show, refusal="; ".join(failures) + "." if failures else "")


def _measured(place: Workspace, new: str, baseline: str) -> str:
    """What names a measured dataset; a file is read and measured first, as the baseline was."""
    steps = frame.Steps(place)
    manifests = steps.runs.list("measure")
    known = {m["facts"]["name"] for m in manifests} | {m["run"] for m in manifests}
    if new in known or not Path(new).is_file():
        return new
    how = steps.runs.manifest(steps.runs.resolve("measure", baseline))["spec"]
    with progress_bar(f"measuring {new}") as progress:
        source = steps.perform(IngestSpec(name=Path(new).stem, source=new), progress)
        return steps.perform(read_spec("measure", {**how, "dataset": source}), progress)


@command("probe")
def probe(
    text: Annotated[str, typer.Argument(help="Any text; it is read as one user turn.")],
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    top: Annotated[int, typer.Option(min=1, help="Features shown.")] = 20,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Which features fire on which token of a text."""
    place = workspace(workspace_)
    steps = frame.Steps(place)
    with progress_bar("reading the text") as progress:
        run_id = steps.perform(ProbeSpec(text=text, model=model, layer=layer, sae=sae), progress)
    tokens = steps.runs.table(run_id, "tokens").to_pylist()
    active = steps.runs.table(run_id, "activations").to_pylist()
    features: dict[int, dict[str, Any]] = {}
    for row in active:
        best = features.setdefault(
            row["feature"], {"feature": row["feature"], "peak": 0.0, "tokens": []}
        )
        best["tokens"].append({"position": row["position"], "value": row["value"]})
        if row["value"] > best["peak"]:
            best |= {"peak": row["value"], "token": tokens[row["position"]]["token"]}
    ranked = sorted(features.values(), key=lambda f: (-f["peak"], f["feature"]))

    def show() -> None:
        table = Table(title=f"{len(ranked)} features fire")
        for column in ("feature", "peak", "on token", "tokens"):
            table.add_column(column, justify="right")
        for f in ranked[:top]:
            table.add_row(
                str(f["feature"]),
                f"{f['peak']:.2f}",
                escape(repr(f["token"])),
                str(len(f["tokens"])),
            )
        out.print(table)

    return Answer({"run": run_id, "tokens": tokens, "features": ranked}, show)


# --- SAEs and models ----------------------------------------------------------------------------


@command("preflight")
def preflight(
    model: Model = "demo",
    layer: Layer = 15,
    sae: SaeOption = "demo",
    texts: Annotated[
        Path | None, typer.Option(help="Texts to try it on; the demo anchor by default.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of them.")] = 64,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Does this SAE belong to this model and layer? Exit 1 if not."""
    place = workspace(workspace_)
    with progress_bar("preflight") as progress:
        findings, quality, says = training.preflight(
            place, model, layer, sae, texts or demo.INPUTS[demo.ANCHOR], samples, progress
        )
    data = {
        "ok": not any(f.ok is False for f in findings),
        "verdict": says,
        "checks": [f._asdict() for f in findings],
        "quality": quality._asdict() if quality else None,
    }

    def show() -> None:
        for f in findings:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]?[/]"}[f.ok]
            out.print(f"{mark} {f.check}: {escape(f.says)}", soft_wrap=True)
        if data["ok"]:
            out.print(escape(says), soft_wrap=True)

    return Answer(data, show, refusal="" if data["ok"] else says)


@command("train-sae")
def train_sae(
    texts: Annotated[list[Path], typer.Argument(help="Dataset files, as `fac ingest` reads them.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder of the new SAE.")],
    model: Model = "demo",
    layer: Layer = 15,
    width: Annotated[int, typer.Option(help="Dictionary size.")] = 8192,
    k: Annotated[float, typer.Option(help="Active features per token (BatchTopK).")] = 26.0,
    passes: Annotated[int, typer.Option(help="How often every token is seen.")] = 2,
    batch: Annotated[int, typer.Option(help="Tokens per step.")] = 4096,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = 1e-3,
    context: Annotated[int, typer.Option(min=8, help="Tokens read per sample.")] = 512,
    held_out: Annotated[int, typer.Option(min=1, help="Samples kept back to judge it on.")] = 600,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Train on so many at most.")] = (
        None
    ),
    seed: Annotated[int, typer.Option(help="Order of samples and tokens, initial weights.")] = 0,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Train an SAE on a model's residual stream; a killed training continues."""
    from fac.sae_training import TrainRecipe

    place = workspace(workspace_)
    recipe = TrainRecipe(width=width, k=k, passes=passes, batch=batch, lr=lr, seed=seed)
    with progress_bar("training") as progress:
        data = training.train_sae(
            place,
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
    out_: Annotated[Path, typer.Option("--out", help="JSON lines of chats to write.")],
    n: Annotated[int, typer.Option(help="Samples wanted.")] = 300,
    model: Model = "demo",
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same samples.")] = 0,
    system: Annotated[
        list[str] | None, typer.Option(help="System prompt that sets a topic; repeatable.")
    ] = None,
    must_contain: Annotated[
        list[str] | None, typer.Option(help="Keep instructions with one of these; repeatable.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples drawn at once.")] = 256,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Let a local chat model write samples, Magpie style: no prompt but its own template."""
    recipe = demo.MagpieRecipe(
        n=n,
        seed=seed,
        systems=tuple(system or ()),
        must_contain=tuple(word.casefold() for word in must_contain or ()),
        batch=batch,
    )
    place = workspace(workspace_)
    with progress_bar("writing samples") as progress:
        data = training.magpie(place, model, recipe, out_, progress)
    return Answer(data, listing({**data, "recipe": json.dumps(data["recipe"])}))


# --- operations -----------------------------------------------------------------------------------


@command("worker")
def worker(
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop when nothing waits.")
    ] = False,
    employer: Annotated[
        int | None, typer.Option(help="Stop when nothing waits and this process is gone.")
    ] = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Carry out queued jobs until stopped."""
    place = workspace(workspace_)

    def say(line: str) -> None:
        err.print(f"{time.strftime('%H:%M:%S')} {escape(line)}", soft_wrap=True, highlight=False)

    count = Worker(place, say=say).run(until_idle=until_idle, employer=employer)
    return Answer({"jobs": count}, lambda: out.print(f"{count} jobs"))


@command("rebuild", group=cache_app)
def cache_rebuild(workspace_: WorkspaceOption = None) -> Answer:
    """Build every cache anew from the runs."""
    place = workspace(workspace_)
    runs = Runs(place)
    ids = [m["run"] for step in caches.CACHED for m in runs.list(step)]
    with progress_bar("rebuilding") as progress:
        for done, run_id in enumerate(ids):
            progress(done, len(ids), run_id)
            caches.build(runs, run_id, place.cache)
    return Answer({"rebuilt": ids, "count": len(ids)}, lambda: out.print(f"{len(ids)} caches"))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; the exit code. Whatever the input, never a traceback."""
    try:
        return app([*arguments] or ["--help"], prog_name="fac", standalone_mode=False) or 0
    except FacError as error:
        return _refuse(str(error), error.exit_code)
    except typer.TyperException as error:
        asked = getattr(error, "ctx", None)
        path = asked.command_path if asked else "fac"
        return _refuse(f"{error.format_message().rstrip('.')}; see `{path} --help`.")
    except OSError as error:  # a folder that is a file, a disk that is full or read-only
        return _refuse(f"{error.filename or 'The disk'}: {error.strerror or error}.")


def _refuse(sentence: str, exit_code: int = InputError.exit_code) -> int:
    one_line = " ".join(sentence.split())
    err.print(f"[bold red]fac:[/] {escape(one_line)}", soft_wrap=True, highlight=False)
    return exit_code


def main() -> None:
    """Entry point of `python -m fac`."""
    # Both, also where the shell that started us in the background has them ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
