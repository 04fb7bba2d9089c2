"""A gate as Markdown for a pull request: what it decided first, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fac import __version__
from fac.markup import code_span, table_cell
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, name_of, settings_in_words
from fac.questions.gate import Gate
from fac.questions.outlook import percent
from fac.store import Stores

LISTED = 20
"""Gaps or families in a table."""

GAP = ("Feature", "Name", "Kind", "Anchor", "Expected", "Here", "Before")
FAMILY = ("Family", "Features", "Certain gaps", "Before")
"""The columns of the tables of gaps and of families."""


def gate_markdown(stores: Stores, before: Comparison, after: Comparison, gate: Gate) -> str:
    """The gate as GitHub reads Markdown; whatever texts it names stand in code spans."""
    return "\n".join(_lines(stores, before, after, gate)) + "\n"


def _lines(stores: Stores, before: Comparison, after: Comparison, gate: Gate) -> Iterator[str]:
    yield f"## {'❌ Coverage gate failed' if gate.failures else '✅ Coverage gate passed'}"
    yield ""
    dataset, baseline = (code_span(name_of(stores, *each.runs)) for each in (after, before))
    anchor = code_span(name_of(stores, before.anchor))
    yield f"{dataset} beside {baseline}, both against {anchor}."
    yield ""
    if gate.findings:
        results = [
            (
                code_span(each.rule),
                each.limit,
                each.figure,
                "❌ fails" if each.failure else "passes",
            )
            for each in gate.findings
        ]
        yield from _table(("Rule", "Limit", "Figure", "Result"), results, right=(2,))
    else:
        yield "No rule was set, so nothing could fail: `fac check --help` lists the rules."
    yield ""
    yield from _table(("", "Baseline", "Now", "Change"), [*_figures(gate)], right=(1, 2, 3))
    if gate.new_certain:
        yield from ("", f"### New certain gaps ({len(gate.new_certain):,})", "")
        yield from _table(GAP, [*map(_gap, gate.new_certain)], right=(0, 3, 4, 5))
    if gate.lost_families:
        yield from ("", f"### Lost families ({len(gate.lost_families):,})", "")
        yield from _table(FAMILY, [*map(_family, gate.lost_families)], right=(1, 2, 3))
    runs = ", ".join(
        code_span(run) for run in dict.fromkeys((before.anchor, before.dataset, *after.runs))
    )
    yield ""
    yield (
        f"Settings: {code_span(settings_in_words(before))}. Runs: {runs}. A gap is certain where "
        "chance does not explain it (at most 5 % of these are expected to be false). FAC Explorer "
        f"{__version__}."
    )


def _gap(row: Row) -> Sequence[str]:
    expected = "–" if row["expected"] is None else f"{row['expected']:,.1f}"
    counts = f"{row['n_anchor']:,}", expected, f"{row['n_dataset']:,}"
    return str(row["feature"]), table_cell(row["name"]), row["kind"], *counts, row["was"]


def _family(row: Row) -> Sequence[str]:
    counts = (f"{row[name]:,}" for name in ("size", "certain", "certain_before"))
    return table_cell(row["name"]), *counts


def _figures(gate: Gate) -> Iterator[Sequence[str]]:
    was, now = gate.change.before, gate.change.after
    points = 100 * (now.fac - was.fac)
    yield (
        "Coverage (FAC)",
        *("not defined" if math.isnan(fac) else percent(fac) for fac in (was.fac, now.fac)),
        "–" if math.isnan(points) else f"{points:+.1f} points",
    )
    counts = {
        "Missing features": (was.n_missing, now.n_missing),
        "Certain gaps": (gate.certain_before, gate.certain),
    }
    for what, (first, second) in counts.items():
        yield what, f"{first:,}", f"{second:,}", f"{second - first:+,}"


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join('---:' if i in right else '---' for i in range(len(columns)))}|"
    for row in rows[:LISTED]:
        yield f"| {' | '.join(row)} |"
    if len(rows) > LISTED:
        yield from ("", f"{len(rows) - LISTED:,} more are not listed.")
