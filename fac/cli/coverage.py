"""Commands about coverage: how far a dataset covers an anchor and what it lacks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer import Option

from fac.cli import frame
from fac.cli.frame import Answer, ComparisonOptions, command, err, listing, out
from fac.errors import InputError
from fac.questions.by_name import build_caches
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, by_role, certainty, coverage, growth_of
from fac.questions.explanations import explain_runs
from fac.questions.gap_evidence import BADGES, KINDS, gap_counts
from fac.questions.gaps import GapList, gap_page
from fac.questions.outlook import outlook
from fac.questions.relevance import limits_of
from fac.questions.shares import GROUPINGS, Groups, by_group, weighted
from fac.store import Stores

PARTS = ("role", *GROUPINGS)
"""Of an anchor, each of which has a coverage of its own."""


@command("coverage")
def coverage_(
    stores: Stores,
    options: ComparisonOptions,
    with_: frame.With = None,
    by: Annotated[str | None, Option(help=f"Also by {', '.join(PARTS)} of the anchor.")] = None,
    list_: Annotated[bool, Option("--list", help="Also the missing feature ids.")] = False,
) -> Answer:
    """FAC of a dataset against an anchor, how far to believe it, and what is missing."""
    comparison = options.comparison(stores, with_)
    result, growth = coverage(stores, comparison), growth_of(stores, comparison)
    interval, yardstick, note = certainty(stores, comparison)
    weights, (headline, advice, _) = weighted(stores, comparison), outlook(stores, comparison)
    sentence = limits_of(stores, comparison.anchor, comparison.relevance, result.n_anchor)
    if sentence:
        err.print(escape(sentence), soft_wrap=True, highlight=False)
    data: dict[str, Any] = {"threshold": comparison.threshold, **result._asdict()}
    missing = data.pop("missing").tolist()
    data |= {
        "headline": headline,
        "advice": advice,
        "interval": {"low": interval.low, "high": interval.high},
        "yardstick": {**yardstick._asdict(), "share": yardstick.share},
        "growth": growth._asdict(),
        "weighted": weights._asdict(),
        "note": " ".join(filter(None, (sentence, note))),
    }
    parts = _by_part(stores, comparison, by) if by else Groups([], "")
    if by:
        data["by"] = {"part": by, **parts._asdict()}
    if list_:
        data["missing"] = missing

    def show() -> None:
        figures = {"threshold": comparison.threshold, **result._asdict()}
        del figures["missing"], figures["kl_smoothed"]
        if not math.isnan(interval.low):
            figures["95 % interval"] = f"{interval.low:.4f} to {interval.high:.4f}"
        if not math.isnan(yardstick.median):
            figures["random text of its size"] = (
                f"{yardstick.median:.4f} ({yardstick.low:.4f} to {yardstick.high:.4f})"
            )
            figures["of what was to be expected"] = f"{yardstick.share:.1%}"
        figures["FAC by frequency"] = weights.by_frequency
        figures["FAC by magnitude"] = weights.by_magnitude
        figures["KL of firing rates"] = weights.divergence
        out.print(escape(headline), soft_wrap=True, highlight=False)
        listing(figures)()
        others = [line for line in (growth.answer, note, weights.note) if line not in advice]
        for line in dict.fromkeys((advice, *others)):
            out.print(escape(line), soft_wrap=True, highlight=False)
        if by:
            if parts.rows:
                out.print(_parts_table(by, parts.rows))
            if parts.note:
                out.print(escape(parts.note), soft_wrap=True, highlight=False)
        if list_:
            out.print(" ".join(map(str, missing)), soft_wrap=True)

    return Answer(data, show)


def _by_part(stores: Stores, comparison: Comparison, by: str) -> Groups:
    """Raises InputError for what is none of PARTS."""
    if by not in PARTS:
        raise InputError(f"--by takes {', '.join(PARTS)}, got {by!r}.")
    if by != PARTS[0]:
        return by_group(stores, comparison, by)
    rows = [{"group": row.pop("role"), **row} for row in map(dict, by_role(stores, comparison))]
    return Groups(rows, "")


def _parts_table(by: str, rows: list[Row]) -> Table:
    """The share that is covered of each part of the anchor."""
    table = Table()
    table.add_column(by)
    for column in ("samples", "features", "missing", "fac"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        figures = (row.get("n_samples"), row["n_anchor"], row["n_missing"], row["fac"])
        table.add_row(escape(row["group"]), *map(frame.readable, figures))
    return table


@command("gaps")
def gaps(
    stores: Stores,
    options: ComparisonOptions,
    with_: frame.With = None,
    badge: Annotated[str, Option(help=f"any, {', '.join(BADGES)}: how sure a gap is.")] = "any",
    kind: Annotated[
        str,
        Option(help=f"any, {' or '.join(KINDS)}: whether no sample shows it, or too few."),
    ] = "any",
    out_: Annotated[Path | None, Option("--out", help="Write the gaps as JSON lines.")] = None,
    limit: Annotated[int, Option(min=1, help="Rows shown without --out.")] = 20,
) -> Answer:
    """What a dataset lacks or shows too rarely, certain gaps first, with evidence."""
    comparison = options.comparison(stores, with_)
    n_missing = coverage(stores, comparison).n_missing
    explaining = explain_runs(stores.runs, comparison.anchor)
    build_caches(stores, explaining)
    counts = gap_counts(stores, comparison)
    rows, n_matching = gap_page(
        stores,
        comparison,
        GapList(badge=badge, kind=kind),
        explain_runs=explaining,
        limit=max(counts.n_asked, 1) if out_ else limit,
    )
    if out_:
        frame.write_lines(out_, (json.dumps(frame.plain(row), ensure_ascii=False) for row in rows))
    data: dict[str, Any] = {"n_missing": n_missing, **counts._asdict(), "rows": len(rows)}
    data["threshold"] = comparison.threshold
    data |= {"out": str(out_)} if out_ else {"out": None, "gaps": rows}

    def show() -> None:
        which = "".join(f"{part} " for part in (badge, kind) if part != "any")
        names = f"{escape(options.dataset)} against {escape(options.anchor)}"
        above = f"above {comparison.threshold:g}"
        title = f"{n_matching:,} {which}gaps of {names}, {above}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("feature", justify="right", no_wrap=True)
        table.add_column("name")
        table.add_column("badge, kind", no_wrap=True)
        for column in ("anchor", "expected", "here", "ratio", "near"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows[:limit]:
            table.add_row(
                str(row["feature"]),
                escape(shorten(row["name"], 60, placeholder="…")),
                Text("\n".join((row["badge"], row["kind"].replace("-", "-\n")))),
                f"{row['n_anchor']:,}",
                _figure(row["expected"], "{:,.1f}"),
                f"{row['n_dataset']:,}",
                _figure(row["ratio"], "{:.0%}"),
                _figure(row["near"], "{:.0%}"),
            )
        out.print(table)
        words = f"{counts.certain_absent:,} absent and {counts.certain_under:,} under-represented"
        out.print(
            f"Certain: {words}; possible: {counts.possible:,}; artefacts: {counts.artefact:,}; "
            f"{counts.n_asked:,} features asked.",
            soft_wrap=True,
        )
        if out_:
            out.print(f"{len(rows):,} rows in {escape(str(out_))}", soft_wrap=True, highlight=False)

    return Answer(data, show)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
