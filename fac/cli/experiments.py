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
from fac.questions.catalogue import Row
from fac.questions.experiments import finding
from fac.store import Stores


@command("experiment")
def experiment(
    stores: Stores,
    name: Annotated[str, Argument(help=f"{', '.join(EXPERIMENTS.names)}.")],
    dataset: Annotated[str, Option(help="Measured dataset with labels.")],
    label: Annotated[str, Option(help="What rows are labelled that are looked for.")],
    threshold: Annotated[str, Option(help="A number, or `clear`.")] = CLEAR,
    labels: Annotated[str, Option(help="Labelled rows that one begins with.")] = "20,50,100",
    draws: Annotated[int, Option(min=2, help="Of these rows, at random.")] = (ExperimentSpec.draws),
    seed: Annotated[int, Option(help="Which rows test, and every draw.")] = 0,
) -> Answer:
    """Does filling gaps help my task? Figures with intervals, controls, one sentence."""
    measure = stores.runs.resolve("measure", dataset)
    frame.build_caches(stores, [measure])
    spec = ExperimentSpec(
        name=name,
        measure=measure,
        label=label,
        threshold=read_threshold(stores, measure, threshold),
        labels=_sizes(labels),
        draws=draws,
        seed=seed,
    )
    run = perform(stores.runs.workspace, spec, f"experiment {name} on {dataset}")
    result = finding(stores, run)
    data: dict[str, Any] = {"run": run, "threshold": spec.threshold, **result._asdict()}

    def show() -> None:
        out.print(escape(EXPERIMENTS[name].title))
        for head in dict.fromkeys(row["head"] for row in result.rows):
            out.print(_table(head, [row for row in result.rows if row["head"] == head]))
        for line in (result.conclusion, result.controls, result.note):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)


def _sizes(labels: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in labels.split(",")}))
    except ValueError:
        raise InputError(f"--labels takes numbers such as 20,50,100, got {labels!r}.") from None


def _table(head: str, rows: list[Row]) -> Table:
    table = Table(title=f"A head on {head}", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("labels, arm")
    for column in ("rows", "FAC", "AUPRC", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("from")
    for row in rows:
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        same = row["arm"] == row["against"]
        table.add_row(
            f"{row['labels']}, {row['arm']}",
            f"{row['rows']:,.0f}",
            f"{row['fac']:.3f}",
            f"{row['auprc']:.3f}",
            "" if same else interval,
            "" if same else row["against"],
        )
    return table
