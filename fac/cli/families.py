"""The command about families of gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac.cli.frame import (
    Answer,
    ComparisonOptions,
    Role,
    Threshold,
    With,
    command,
    listing,
    out,
    perform,
)
from fac.errors import InputError
from fac.questions.by_name import CLEAR, build_caches, read_threshold
from fac.questions.comparison import Comparison, name_of
from fac.questions.families import (
    call_family,
    every_family,
    families_called,
    families_run,
    families_spec,
    few_of_each,
    gap_families,
    gaps_to_fill,
    take_name_back,
)
from fac.questions.gap_evidence import BADGES
from fac.schema import EVERY_ROLE
from fac.store import Stores

Family = Annotated[
    list[str] | None,
    Option(
        "--family",
        help="Only gaps of this family: its number in `fac families`, its name or a word of it; "
        "repeatable.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class FamilyOptions:
    """Which families texts are written for, and for how many gaps of each."""

    family: Family = None
    per_family: Annotated[
        int | None,
        Option(
            min=1,
            help="So many gaps of each family at most: those whose samples in the anchor fire most "
            "of its others. Whatever else a kept sample fires counts too.",
        ),
    ] = None

    def named(self, stores: Stores, comparison: Comparison) -> list[int] | None:
        """The gaps of the families that are named; None where none are."""
        return family_gaps(stores, comparison, self.family) if self.family else None

    def few(self, stores: Stores, comparison: Comparison, gaps: Sequence[int]) -> list[int]:
        """As many of each family as asked for, which is all where nobody said."""
        if self.per_family is None:
            return [*gaps]
        run = grouped(stores, comparison)
        return few_of_each(stores, comparison, run, gaps, self.per_family)


def grouped(stores: Stores, comparison: Comparison) -> str:
    """The run of the anchor's families, which is made where there is none yet."""
    run = families_run(stores, comparison)
    if run is None:
        what = f"grouping the features of {name_of(stores, comparison.anchor)}"
        run = perform(stores.runs.workspace, families_spec(comparison), what)
    return run


def family_gaps(stores: Stores, comparison: Comparison, names: Sequence[str]) -> list[int]:
    """The gaps of the families that people name, certain ones first. Raises InputError for a name
    that no family, or several, have."""
    rows = gap_families(stores, comparison, grouped(stores, comparison)).rows
    return gaps_to_fill(stores, comparison, families_called(rows, names))


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
    run = grouped(stores, comparison)
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
        table.add_column("no.", justify="right", no_wrap=True)
        table.add_column("family")
        for column in ("size", "covered", "absent", "too rare", *BADGES[:2]):
            table.add_column(column, justify="right", no_wrap=True)
        for row in result.rows[:limit]:
            counts = (row[name] for name in ("absent", "under", *BADGES[:2]))
            table.add_row(
                str(row["family"]),
                escape(row["name"] + (f" (named by {row['named_by']})" if row["named_by"] else "")),
                f"{row['size']:,}",
                f"{row['share']:.0%}",
                *(f"{n:,}" for n in counts),
            )
        if result.rows:
            out.print(table)
        for line in filter(None, (result.headline, result.note)):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)


@command("name-family")
def name_family(
    *,
    stores: Stores,
    family: Annotated[str, Argument(help="Number in `fac families`, name or a word of it.")],
    name: Annotated[str, Argument(help="What it is called from now on; none with --undo.")] = "",
    anchor: Annotated[str, Option(help="Measured dataset whose features are grouped.")],
    reviewer: Annotated[str, Option(help="Who says so, by name.")],
    undo: Annotated[bool, Option("--undo", help="Take your name for it back.")] = False,
    threshold: Threshold = CLEAR,
    role: Role = EVERY_ROLE,
) -> Answer:
    """Say what a family is called: kept as a decision, for as long as its members stay the same."""
    if undo == bool(name):
        raise InputError("Say what the family is called, or give --undo, one of them.")
    measure = stores.runs.resolve("measure", anchor)
    build_caches(stores, [measure])
    at = read_threshold(stores, measure, threshold)
    run = grouped(stores, Comparison(measure, measure, at, role=role))
    (row,) = families_called(every_family(stores, run), [family])
    if undo:
        take_name_back(stores, run, row["family"], reviewer)
    else:
        call_family(stores, run, row["family"], name, reviewer)
    after = every_family(stores, run)[row["family"]]
    data = {"run": run, "family": row["family"], "was": row["name"]}
    data |= {"name": after["name"], "named_by": after["named_by"] or None}
    data |= {"members": len(after["features"])}
    return Answer(data, listing(data))
