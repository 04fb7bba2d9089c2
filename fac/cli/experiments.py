"""The command about experiments: whether filling gaps helps a task of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac.cli.frame import Answer, command, out, perform
from fac.config import EXPERIMENTS, ExperimentSpec, IngestSpec, MeasureSpec
from fac.errors import InputError
from fac.experiments import Experiment
from fac.questions.by_name import CLEAR, build_caches, read_threshold
from fac.questions.catalogue import Row, usual_encoder
from fac.questions.experiments import finding, interval_words, read_sizes
from fac.store import Stores

_LABEL = (
    "What rows are labelled that are looked for; of chats, those that one begins with. Without it "
    "`rq1` finetunes the model on chats."
)


@command("experiment")
def experiment(
    stores: Stores,
    name: Annotated[str, Argument(help=f"{', '.join(EXPERIMENTS.names)}.")],
    dataset: Annotated[str, Option(help="Measured dataset, or a file to read and measure.")],
    label: Annotated[str, Option(help=_LABEL)] = "",
    label_field: Annotated[str | None, Option(help="Of a file, its column of labels.")] = None,
    threshold: Annotated[str, Option(help="A number, or `clear`.")] = CLEAR,
    labels: Annotated[str | None, Option(help="Rows that one begins with, such as 20,50.")] = None,
    draws: Annotated[int | None, Option(min=2, help="Of these rows, at random.")] = None,
    seed: Annotated[int, Option(help="Which rows test, and every draw.")] = 0,
    tokens: Annotated[int, Option(help="Of chats that are added.")] = ExperimentSpec.tokens,
    written: Annotated[
        list[str] | None, Option(help="Measured dataset of written rows, an arm more.")
    ] = None,
    size: Annotated[
        Literal["default", "full"], Option(help="Every arm and rate of LoRA, or the first.")
    ] = "default",
    prompts: Annotated[str, Option(help="Of following: dataset or file, as IFEval's.")] = "",
    new_tokens: Annotated[
        int, Option(min=1, help="Of an answer of following, at most.")
    ] = ExperimentSpec.new_tokens,
    most_test: Annotated[
        int, Option(min=4, help="Chats or prompts that judge, at most.")
    ] = ExperimentSpec.most_test,
    subsets: Annotated[int, Option(min=30, help="Of rq2.")] = ExperimentSpec.subsets,
    equal_tokens: Annotated[bool, Option(help="Subsets of rq2 have equal tokens.")] = False,
) -> Answer:
    """Does filling gaps help my task? Figures with intervals, controls, one sentence."""
    if name == "rq1" and not label:
        name = "chats"  # no labels: what the model itself learns from chats
    measure = _measured(stores, dataset, label_field, labelled=bool(label))
    build_caches(stores, [measure])
    options = {
        "labels": None if labels is None else read_sizes(labels),
        "draws": draws,
    }
    defaults = EXPERIMENTS[name].defaults if name in EXPERIMENTS else {}
    spec = ExperimentSpec(
        name=name,
        measure=measure,
        label=label,
        threshold=read_threshold(stores, measure, threshold),
        seed=seed,
        tokens=tokens,
        written=tuple(stores.runs.resolve("measure", each) for each in written or ()),
        full=size == "full",
        prompts=_prompts(stores, prompts) if prompts else "",
        new_tokens=new_tokens,
        most_test=most_test,
        subsets=subsets,
        equal_tokens=equal_tokens,
        **{**defaults, **{k: value for k, value in options.items() if value is not None}},
    )
    run = perform(stores.runs.workspace, spec, f"experiment {name} on {dataset}")
    result = finding(stores, run)
    data: dict[str, Any] = {"run": run, "threshold": spec.threshold, **result._asdict()}

    def show() -> None:
        kind: Experiment = EXPERIMENTS[name]
        out.print(escape(kind.title))
        for outcome in dict.fromkeys(row["outcome"] for row in result.rows):
            rows = [row for row in result.rows if row["outcome"] == outcome]
            out.print(_table(kind, outcome, rows))
        for line in (result.conclusion, result.controls, result.note):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)


def _measured(stores: Stores, dataset: str, label_field: str | None, *, labelled: bool) -> str:
    """The run of a measured dataset; a file is read and measured first, with the usual model."""
    if not _is_new(stores, MeasureSpec.step, dataset):
        return stores.runs.resolve(MeasureSpec.step, dataset)
    source, name = _read(stores, dataset, label_field)
    if labelled and not stores.runs.manifest(source).facts.labels:
        raise InputError(f"{dataset} has no labels: name their column with --label-field.")
    usual = usual_encoder(stores)
    spec = MeasureSpec(
        dataset=source,
        model=usual.model,
        layer=usual.layer,
        sae=usual.sae,
        despite=usual.despite or "",
    )
    return perform(stores.runs.workspace, spec, f"measuring {name}")


def _prompts(stores: Stores, prompts: str) -> str:
    """The run of a dataset; a file is read first."""
    if not _is_new(stores, IngestSpec.step, prompts):
        return stores.runs.resolve(IngestSpec.step, prompts)
    return _read(stores, prompts)[0]


def _is_new(stores: Stores, step: str, source: str) -> bool:
    """Whether it is a file, and not what a run of the step is called."""
    manifests = stores.runs.list(step)
    return Path(source).is_file() and not any(source in (m.facts.name, m.run) for m in manifests)


def _read(stores: Stores, source: str, label_field: str | None = None) -> tuple[str, str]:
    """The run of the dataset in a file, and its name."""
    name = Path(source).name.split(".")[0]
    spec = IngestSpec(name=name, source=source, label_field=label_field)
    return perform(stores.runs.workspace, spec, f"reading {name}"), name


def _table(kind: Experiment, outcome: str, rows: list[Row]) -> Table:
    table = Table(title=escape(outcome), box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("size, arm")
    for column in (*kind.columns.values(), kind.value, "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("beside")
    tested = any(row["p"] is not None for row in rows)
    if tested:
        table.add_column("p", justify="right")
    for row in rows:
        figures = [row["figures"].get(name) for name in kind.columns]
        same = row["arm"] == row["against"]
        cells = [
            escape(f"{row['size']}, {row['arm']}"),
            *("" if figure is None else _figure(figure) for figure in figures),
            f"{row['value']:.3f}",
            interval_words(row),
            "" if same else escape(row["against"]),
        ]
        if tested:
            cells.append("" if row["p"] is None else f"{row['p']:.4f}")
        table.add_row(*cells)
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 2 else f"{value:.3f}"
