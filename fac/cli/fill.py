"""Commands about rows that exist: a pool's that fill gaps, a dataset's that could be dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac.cli import frame
from fac.cli.decide import feature_ids
from fac.cli.families import Family, family_gaps
from fac.cli.frame import LISTED, Answer, QuestionOptions, command, listing, out
from fac.errors import InputError
from fac.questions.by_name import build_caches
from fac.questions.catalogue import runs_alike
from fac.questions.comparison import Comparison
from fac.questions.explanations import names
from fac.questions.fill import (
    Budget,
    Certain,
    Figures,
    Fill,
    as_lines,
    certain_words,
    fill,
    publish,
    samples_at,
)
from fac.questions.fill_spans import FillSpan, fill_spans
from fac.questions.spare import Spare, SpareRow, spare, spare_rows
from fac.store import Stores

Anchor = Annotated[str, Option(help="Measured dataset that shows what matters.")]
NAMED, WIDTH = 3, 60
"""Of a row so many gaps are named, and so many characters of where each fires."""
STAND_INS = 6
"""Rows that people are told have what a row has; JSON has all of them."""

PerFeature = Annotated[int, Option(min=1, help="Samples that are asked for of each feature.")]


@command("fill")
def fill_(
    *,
    stores: Stores,
    dataset: Annotated[str, Argument(help="Measured dataset that has the gaps.")],
    anchor: Anchor,
    pool: Annotated[str, Option(help="Measured dataset that rows are taken from.")],
    rows: Annotated[int | None, Option(min=1, help="So many rows at most.")] = None,
    tokens: Annotated[int | None, Option(min=1, help="So many content tokens at most.")] = None,
    per_feature: PerFeature = 1,
    features: frame.Features = None,
    family: Family = None,
    random: Annotated[
        bool, Option("--random", help="Also the range of random rows of equal tokens.")
    ] = False,
    with_: frame.With = None,
    out_: Annotated[
        str | None, Option("--out", help="Name of a dataset to make of the rows.")
    ] = None,
    jsonl: Annotated[
        Path | None, Option(help="Write the rows as JSON lines, each with what it fills.")
    ] = None,
    limit: Annotated[
        int, Option(min=1, help="Rows shown, and in JSON those that say where they fire.")
    ] = LISTED,
    options: QuestionOptions,
) -> Answer:
    """Which rows of a pool fill the gaps of a dataset, before anything is written."""
    if features and family:
        raise InputError("Give --features or --family, not both.")
    comparison = options.asked_of(stores, anchor, dataset, with_)
    source = runs_alike(stores, (comparison.dataset, pool))[1]
    build_caches(stores, [source])
    chosen = tuple(feature_ids(features)) if features else None
    if family:
        chosen = tuple(family_gaps(stores, comparison, family))
    with frame.progress_bar(f"choosing rows of {pool}"):
        answer = fill(stores, comparison, source, Budget(rows, tokens, per_feature), chosen)
    run = publish(stores, comparison, answer, out_) if out_ else None
    if jsonl:
        frame.write_lines(jsonl, as_lines(stores, comparison, answer))
    data: dict[str, Any] = {
        name: part._asdict() if isinstance(part, Figures | Certain) else part
        for name, part in answer._asdict().items()
    }
    data["random"] = {name: part._asdict() for name, part in answer.random._asdict().items()}
    spans = _spans(stores, comparison, answer, limit)
    data["rows"] = [
        {**row._asdict(), "where": [_span_fields(span) for span in spans[row.sample]]}
        if row.sample in spans
        else row._asdict()
        for row in answer.rows
    ]
    data |= {"threshold": comparison.threshold, "run": run}
    data["jsonl"] = str(jsonl) if jsonl else None

    def show() -> None:
        title = f"{answer.asked.gaps:,.0f} gaps of {escape(dataset)} against {escape(anchor)}"
        table = Table(
            title=f"{title}, above {comparison.threshold:g}", box=box.SIMPLE_HEAD, min_width=60
        )
        table.add_column("")
        for column in ("rows", "tokens", "certain gaps", "gaps"):
            table.add_column(column, justify="right", no_wrap=True)
        lines = {
            "there are": answer.asked,
            f"{pool} can fill": answer.possible,
            "rows that are chosen fill": answer.chosen,
            "random rows of equal tokens, on average": answer.random.mean,
        }
        if random:
            lines |= {
                "random rows, the fewest": answer.random.low,
                "random rows, the most": answer.random.high,
            }
        for what, figures in lines.items():
            cells = [f"{figure:,.0f}" for figure in figures]
            if figures is answer.asked:  # whose rows and tokens nobody asks about
                cells[:2] = "", ""
            table.add_row(escape(what), *cells)
        out.print(table)
        if answer.rows:
            out.print(_rows_table(stores, comparison.anchor, answer, spans))
        out.print(escape(certain_words(stores, comparison, answer.certain)), soft_wrap=True)
        for line in _about(answer, out_, run):
            out.print(escape(line), soft_wrap=True, highlight=False)

    return Answer(data, show)


def _spans(
    stores: Stores, comparison: Comparison, answer: Fill, limit: int
) -> dict[int, list[FillSpan]]:
    """Where the first rows fire the gaps that they fill."""
    about = (stores, answer.pool, comparison.role)
    return {row.sample: fill_spans(*about, row.sample, row.fills) for row in answer.rows[:limit]}


def _span_fields(span: FillSpan) -> dict[str, Any]:
    """As JSON has it: the stretch with the word of the peak in brackets."""
    fields = {name: getattr(span, name) for name in ("feature", "peak", "role", "position")}
    return {**fields, "text": span.text or None}


def _rows_table(
    stores: Stores, anchor: str, answer: Fill, spans: dict[int, list[FillSpan]]
) -> Table:
    """The first rows, with some of the gaps that they fill and the words on which these fire."""
    first = [row for row in answer.rows if row.sample in spans]
    some = sorted({feature for row in first for feature in row.fills[:NAMED]})
    by_feature = names(stores, anchor, some)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for column in ("row", "tokens", "fills"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("such as", ratio=1)
    table.add_column("where", ratio=2)
    texts = samples_at(stores, answer.pool, [row.sample for row in first], ["messages"])
    for row in first:
        text = " ".join(texts[row.sample]["messages"][0]["content"].split())
        cells = (str(row.sample), f"{row.tokens:,}", f"{len(row.fills):,}", "it says")
        table.add_row(*cells, escape(shorten(text, WIDTH, placeholder="…")))
        for span in spans[row.sample][:NAMED]:
            name = shorten(by_feature[span.feature], 24, placeholder="…")
            where = _end_of(span.text) if span.text else f"{span.role}, token {span.position:,}"
            table.add_row("", "", "", escape(f"#{span.feature} {name}"), escape(where))
    return table


def _end_of(text: str) -> str:
    """The last words of a stretch: those before the peak."""
    return text if len(text) <= WIDTH else f"…{text[1 - WIDTH :]}"


def _about(answer: Fill, name: str | None, run: str | None) -> Iterator[str]:
    if answer.rows and answer.share < 1:
        yield (
            f"That is at least {math.floor(100 * answer.share)}% of the best that any rows of this "
            "budget do, certain gaps before others."
        )
    if answer.passes > 1:
        yield f"The pool does not fit into memory: it was read {answer.passes} times."
    if answer.left:
        yield f"Gaps that are left for synthesis: {len(answer.left):,}."
    if answer.note:
        yield answer.note
    if run:
        yield f"{name} ({run}) has the rows; `fac measure` reads them, --with adds them."


@command("spare")
def spare_(
    *,
    stores: Stores,
    dataset: Annotated[str, Argument(help="Measured dataset that may be too large.")],
    anchor: Annotated[
        str | None, Option(help="What matters; by default all that the dataset shows.")
    ] = None,
    per_feature: PerFeature = 1,
    out_: Annotated[
        Path | None, Option("--out", help="Write the rows to drop as JSON lines.")
    ] = None,
    options: QuestionOptions,
) -> Answer:
    """Which rows of a dataset could be dropped at no loss of coverage."""
    comparison = options.asked_of(stores, anchor or dataset, dataset)
    answer = spare(stores, comparison, per_feature)
    limit = None if out_ else LISTED
    lists = {
        name: list(spare_rows(stores, comparison, answer, limit, near=name == "near_copies"))
        for name in ("near_copies", "covered")
    }
    if out_:
        lines = (
            json.dumps({**row._asdict(), "kind": kind}, ensure_ascii=False)
            for kind, rows in zip(("near copy", "covered"), lists.values(), strict=True)
            for row in rows
        )
        frame.write_lines(out_, lines)
    data: dict[str, Any] = {
        "threshold": comparison.threshold,
        "samples": len(answer.kept) + len(answer.dropped),
        **{name: value for name, value in answer._asdict().items() if name != "dataset"},
        "n_near_copies": len(answer.near_copies),
        "out": str(out_) if out_ else None,
    }
    if not out_:
        data |= {name: [row._asdict() for row in rows] for name, rows in lists.items()}

    def show() -> None:
        near, covered = (rows[:LISTED] for rows in lists.values())
        listing(_spare_figures(answer))()
        n_near = len(answer.near_copies)
        for title, rows, n in (
            ("Rows that nearly repeat another:", near, n_near),
            ("Rows whose features others show:", covered, len(answer.dropped) - n_near),
        ):
            if rows:
                out.print(title)
                listing({}, map(_spare_line, rows), n)()
        out.print(
            f"Each of {answer.features:,} features is still shown by as many samples as are asked "
            f"for ({per_feature:,}), or by all there are, but more rarely: half the features keep "
            f"{answer.rarer:.0%} of their samples or less.",
            soft_wrap=True,
            highlight=False,
        )

    return Answer(data, show)


def _spare_figures(answer: Spare) -> dict[str, Any]:
    total = max(answer.tokens, 1)
    return {
        "rows that have to stay": len(answer.kept),
        "rows that could be dropped": len(answer.dropped),
        "of these, nearly repeat another row": len(answer.near_copies),
        "of these, fire nothing that counts": answer.silent,
        "their tokens": f"{answer.dropped_tokens:,} ({answer.dropped_tokens / total:.0%})",
    }


_STAYS = {True: "stays", False: "could go too"}


def _spare_line(row: SpareRow) -> str:
    others = ", ".join(map(str, row.stand_ins[:STAND_INS])) or "-"
    if (more := len(row.stand_ins) - STAND_INS) > 0:
        others += f" and {more:,} more"
    near = ""
    if row.near_copy is not None:
        near = f"; nearly repeats {row.near_copy}, which {_STAYS[bool(row.near_copy_stays)]}"
    return f"row {row.sample}: what it fires ({row.features:,}) is in {others}{near}"
