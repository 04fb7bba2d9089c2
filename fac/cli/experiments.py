"""The command about experiments: whether filling gaps helps a task of one's own."""

from __future__ import annotations

from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac.cli import frame
from fac.cli.frame import CLEAR, Answer, command, out, perform, read_threshold
from fac.config import EXPERIMENTS, ExperimentSpec
from fac.errors import InputError
from fac.experiments import Experiment
from fac.questions.catalogue import Row
from fac.questions.experiments import finding
from fac.store import Stores

_LABEL = (
    "What rows are labelled that are looked for; of chats, those that one begins with. Without it "
    "`rq1` finetunes the model on chats."
)


@command("experiment")
def experiment(
    stores: Stores,
    name: Annotated[str, Argument(help=f"{', '.join(EXPERIMENTS.names)}.")],
    dataset: Annotated[str, Option(help="Measured dataset.")],
    label: Annotated[str, Option(help=_LABEL)] = "",
    threshold: Annotated[str, Option(help="A number, or `clear`.")] = CLEAR,
    labels: Annotated[str | None, Option(help="Rows that one begins with, such as 20,50.")] = None,
    draws: Annotated[int | None, Option(min=2, help="Of these rows, at random.")] = None,
    seed: Annotated[int, Option(help="Which rows test, and every draw.")] = 0,
    tokens: Annotated[int, Option(help="Of chats that are added.")] = ExperimentSpec.tokens,
    written: Annotated[str, Option(help="Measured dataset of written chats, an arm more.")] = "",
) -> Answer:
    """Does filling gaps help my task? Figures with intervals, controls, one sentence."""
    if name == "rq1" and not label:
        name = "chats"  # no labels: what the model itself learns from chats
    measure = stores.runs.resolve("measure", dataset)
    frame.build_caches(stores, [measure])
    options = {
        "labels": None if labels is None else _sizes(labels),
        "draws": draws,
        "written": stores.runs.resolve("measure", written) if written else None,
    }
    defaults = EXPERIMENTS[name].defaults if name in EXPERIMENTS else {}
    spec = ExperimentSpec(
        name=name,
        measure=measure,
        label=label,
        threshold=read_threshold(stores, measure, threshold),
        seed=seed,
        tokens=tokens,
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


def _sizes(labels: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in labels.split(",")}))
    except ValueError:
        raise InputError(f"--labels takes numbers such as 20,50,100, got {labels!r}.") from None


def _table(kind: Experiment, outcome: str, rows: list[Row]) -> Table:
    table = Table(title=escape(outcome), box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("size, arm")
    for column in (*kind.columns.values(), kind.value, "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("from")
    for row in rows:
        figures = [row["figures"].get(name) for name in kind.columns]
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        same = row["arm"] == row["against"]
        table.add_row(
            escape(f"{row['size']}, {row['arm']}"),
            *("" if figure is None else _figure(figure) for figure in figures),
            f"{row['value']:.3f}",
            "" if same else interval,
            "" if same else escape(row["against"]),
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 2 else f"{value:.3f}"
