"""The command about what another SAE says of the gaps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Option

from fac.cli import frame
from fac.cli.frame import LISTED, Answer, ComparisonOptions, With, command, out
from fac.errors import InputError
from fac.matching import MATCHED
from fac.questions.by_name import build_caches
from fac.questions.catalogue import Row
from fac.questions.opinion import (
    ALONE,
    FREQUENT,
    NO_OPINION,
    Matching,
    Opinion,
    Rate,
    commands,
    counterpart,
    counterpart_runs,
    named,
    other_called,
    others_of,
    second_opinion,
)
from fac.store import Stores


@command("second-opinion")
def second_opinion_(
    stores: Stores,
    options: ComparisonOptions,
    other: Annotated[
        str | None,
        Option(help="The anchor as another SAE measured it; the newest there is by default."),
    ] = None,
    with_: With = None,
    limit: Annotated[int, Option(min=1, help="Gaps shown; JSON has all of them.")] = LISTED,
) -> Answer:
    """Which certain gaps another SAE confirms: its features matched over the same texts."""
    comparison = options.comparison(stores, with_)
    if other is None:
        runs = others_of(stores, comparison)
        if not runs:
            lines = ", then ".join(f"`{line}`" for line in commands(stores, comparison))
            raise InputError(
                f"No other SAE has measured both {options.anchor} and {options.dataset}: run "
                f"{lines}."
            )
        run = runs[0]
    else:
        run = other_called(stores, comparison, other)
    build_caches(stores, [run, *counterpart_runs(stores, comparison, run)])
    there = counterpart(stores, comparison, run)
    with frame.progress_bar("matching features"):
        opinion = second_opinion(stores, comparison, there)
    data: dict[str, Any] = {
        "anchor": comparison.anchor,
        "dataset": comparison.dataset,
        "threshold": comparison.threshold,
        **opinion._asdict(),
        "rows": named(stores, comparison, opinion, opinion.rows),
        "matching": _as_json(opinion.matching),
        "shuffled": _as_json(opinion.shuffled),
        "covered": _rate(opinion.covered),
        "share": opinion.share._asdict(),
        "no_opinion": opinion.no_opinion,
        "matched_above": MATCHED,
        "frequent_share": FREQUENT,
    }

    def show() -> None:
        for line in (
            opinion.headline,
            f"Here:  {opinion.encoder}",
            f"There: {opinion.other_encoder}",
        ):
            out.print(escape(line), soft_wrap=True, highlight=False)
        out.print(_matches(opinion))
        if opinion.rows:
            out.print(_gaps(data["rows"][:limit]))
        for line in _about(opinion, limit):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)


def _rate(rate: Rate) -> dict[str, Any]:
    return {**rate._asdict(), "share": rate.share}


def _as_json(matching: Matching) -> dict[str, Any]:
    values = matching._asdict().items()
    return {name: _rate(value) if isinstance(value, Rate) else value for name, value in values}


def _matches(opinion: Opinion) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("features with a partner")
    for column in ("of", "matched", "share", "by chance"):
        table.add_column(column, justify="right", no_wrap=True)
    lines = {
        "relevant ones that the anchor shows": "every",
        f"of these in {FREQUENT:.0%} of the samples or more": "frequent",
        "certain gaps": "certain",
    }
    for words, name in lines.items():
        rate, chance = getattr(opinion.matching, name), getattr(opinion.shuffled, name)
        share = f"{rate.share:.1%}" if rate.n else "-"
        table.add_row(words, f"{rate.n:,}", f"{rate.matched:,}", share, f"{chance.matched:,}")
    return table


def _gaps(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("gap")
    table.add_column("verdict", no_wrap=True)
    for column in ("anchor", "here", "r"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("partner")
    for column in ("anchor", "here"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        matched = row["partner"] is not None
        partner = f"#{row['partner']} {row['partner_name']}" if matched else "-"
        table.add_row(
            escape(f"#{row['feature']} {row['name']}"),
            row["verdict"],
            f"{row['n_anchor']:,}",
            f"{row['n_dataset']:,}",
            "-" if row["r"] is None else f"{row['r']:.2f}",
            escape(partner),
            *(f"{row[key]:,}" if matched else "" for key in PARTNERS),
        )
    return table


PARTNERS = ("partner_n_anchor", "partner_n_dataset")


def _about(opinion: Opinion, limit: int) -> Iterator[str]:
    if (more := len(opinion.rows) - limit) > 0:
        yield f"… and {more:,} more."
    if opinion.rows:
        yield (
            f"Certain gaps confirmed {opinion.confirmed:,}, not confirmed "
            f"{opinion.not_confirmed:,}, {NO_OPINION} {opinion.no_opinion:,}; by partners of "
            f"permuted samples {opinion.shuffled_confirmed:,} would be confirmed."
        )
    if opinion.note:
        yield opinion.note
    yield (
        f"A partner is the feature there whose peaks, in logarithms over {opinion.n_compared:,} "
        f"shared samples, have the highest r with this one's, above {MATCHED:g}; "
        f"{opinion.matching.mutual:,} are each other's. Confirmed: the dataset lacks it there "
        f"above {opinion.other_threshold:g}, its clear firing, or shows it too rarely (p at most "
        f"{ALONE:g}). By chance: with the other SAE's samples permuted."
    )
