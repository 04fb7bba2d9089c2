"""The command about families of gaps."""

from __future__ import annotations

from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Option

from fac.cli.frame import Answer, ComparisonOptions, With, command, out, perform
from fac.questions.families import families_run, families_spec, gap_families
from fac.questions.gap_evidence import BADGES
from fac.store import Stores


@command("families")
def families(
    stores: Stores,
    options: ComparisonOptions,
    with_: With = None,
    limit: Annotated[int, Option(min=1, help="Families shown; JSON has all of them.")] = 20,
) -> Answer:
    """Which topics a dataset lacks: gaps that fire together in the anchor, as families.

    The anchor's families are computed the first time they are asked for.
    """
    comparison = options.comparison(stores, with_)
    run = families_run(stores, comparison)
    if run is None:
        what = f"grouping the features of {options.anchor}"
        run = perform(stores.runs.workspace, families_spec(comparison), what)
    result = gap_families(stores, comparison, run)
    data: dict[str, Any] = {
        "run": run,
        "threshold": comparison.threshold,
        "headline": result.headline,
        "note": result.note,
        "alone": result.alone,
        "n_whole": result.n_whole,
        "families": result.rows,
    }

    def show() -> None:
        names = f"{options.dataset} against {options.anchor}, above {comparison.threshold:g}"
        title = f"{len(result.rows):,} families with gaps of {escape(names)}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("family")
        for column in ("size", "covered", "absent", "too rare", *BADGES[:2]):
            table.add_column(column, justify="right", no_wrap=True)
        for row in result.rows[:limit]:
            counts = (row[name] for name in ("absent", "under", *BADGES[:2]))
            table.add_row(
                escape(row["name"]),
                f"{row['size']:,}",
                f"{row['share']:.0%}",
                *(f"{n:,}" for n in counts),
            )
        if result.rows:
            out.print(table)
        for line in filter(None, (result.headline, result.note)):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)
