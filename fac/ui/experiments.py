"""What an experiment says, as pages show it: differences with intervals, a table, a file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import partial
from textwrap import wrap

import plotly.graph_objects as go
import streamlit as st

from fac.charts import MISSING, REST, SHOWN, figure, mark, short
from fac.experiments import Experiment
from fac.experiments.published import PUBLISHED
from fac.questions.experiments import (
    CONTEXT,
    IN_QUESTION,
    ITS_CONTROL,
    Finding,
    Panel,
    as_csv,
    interval_words,
    panels,
)
from fac.ui.tables import table
from fac.ui.text import Row, clean, plain
from fac.ui.views import CHART

COLOURS = {IN_QUESTION: SHOWN, ITS_CONTROL: MISSING, CONTEXT: REST}

ROW, LINE, GAP = 15, 15, 9
"""Pixels of an interval, of a line of an arm's name, and between arms."""

LETTERS = 15
"""Of a line of an arm's name: on a narrow screen the intervals need the rest."""

BELOW = 34
"""Pixels below the intervals, for the axis."""

Ends = tuple[float, float]


def effects_chart(panel: Panel, value: str, ends: Ends) -> go.Figure:
    """The intervals of one outcome, a group of lines an arm and a line a size, between `ends`; full
    dots where an interval leaves zero out."""
    centres, names, sizes, top = [], [], [], float(GAP)
    marks: dict[str, list[tuple[float, Row, str]]] = {name: [] for name in COLOURS}
    several = len({row["size"] for group in panel.groups for row in group.rows}) > 1
    for group in panel.groups:
        lines = [short(line, 60) for line in wrap(group.title, LETTERS)]
        height = max(ROW * len(group.rows), LINE * len(lines))
        centre = top + height / 2
        centres.append(centre)
        title = "<br>".join(lines)
        names.append(f"<b>{title}</b>" if group.standing == IN_QUESTION else title)
        for number, row in enumerate(group.rows):
            y = centre + ROW * (number - (len(group.rows) - 1) / 2)
            marks[group.standing].append((y, row, short(group.title, 80)))
            sizes.append((y, f"{row['size']:,}"))
        top += height + GAP
    chart = figure(
        round(top) + BELOW,
        x={"range": [*ends], "nticks": 5, "tickangle": 0},
        y={
            "range": [top, 0],
            "tickvals": centres,
            "ticktext": names,
            "showgrid": False,
            "ticksuffix": "  ",
        },
        dragmode=False,
        margin={"l": 8, "r": 34 if several else 8, "t": 4, "b": 8},
    )
    mark(chart, REST, 1.5, x=0)
    for standing, group_marks in marks.items():
        if not group_marks:
            continue
        rows = [row for _, row, _ in group_marks]
        colour = COLOURS[standing]
        chart.add_scatter(
            x=[row["difference"] for row in rows],
            y=[y for y, _, _ in group_marks],
            mode="markers",
            marker={
                "size": 9,
                "color": colour,
                "symbol": ["circle" if _is_sure(row) else "circle-open" for row in rows],
                "line": {"width": 2, "color": colour},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row["high"] - row["difference"] for row in rows],
                "arrayminus": [row["difference"] - row["low"] for row in rows],
                "color": colour,
                "thickness": 2 if standing != CONTEXT else 1.3,
                "width": 4,
            },
            customdata=[
                [title, f"{row['size']:,}", interval_words(row), f"{row['value']:.3f}"]
                for _, row, title in group_marks
            ],
            hovertemplate=(
                "%{customdata[0]}, %{customdata[1]}: %{customdata[2]}, "
                f"{short(value)} %{{customdata[3]}}<extra></extra>"
            ),
        )
    if several:
        for y, size in sizes:
            chart.add_annotation(
                x=1,
                y=y,
                xref="paper",
                text=size,
                showarrow=False,
                xanchor="left",
                xshift=4,
                font={"size": 11, "color": REST},
            )
    return chart


def axis_words(panel: Panel, value: str) -> str:
    """What the intervals of a panel are in; above it, where it can wrap on a narrow screen."""
    if panel.is_beside:
        return f"Difference in {value} from {panel.base}"
    return _capital(f"{value}, {panel.base}" if panel.base else value)


def _is_sure(row: Row) -> bool:
    return bool(row["low"] > 0 or row["high"] < 0)


def _ends(parts: Sequence[Panel]) -> Ends:
    """What the axis of panels that can be compared spans, zero included."""
    rows = [row for panel in parts for group in panel.groups for row in group.rows]
    low, high = min(0.0, *(r["low"] for r in rows)), max(0.0, *(r["high"] for r in rows))
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


_FIGURES = re.compile(r"\((?:[^()]|\([^()]*\))*\)")
"""What stands in brackets, brackets inside it included."""


def conclusion_html(text: str) -> str:
    """The conclusion in large letters, a line an outcome, its figures in small ones."""
    sentences = re.split(r"(?<=\)\.) (?=[A-Z])", html.escape(clean(text)))
    small = (_FIGURES.sub(r"<small>\g<0></small>", sentence) for sentence in sentences)
    return "".join(f'<p class="fac-lead fac-verdict">{sentence}</p>' for sentence in small)


def show_figure(result: Finding, kind: Experiment) -> None:
    """Every outcome beside the others, on one scale, and what the colours are."""
    parts = panels(result.rows, ranked=kind.ranked)
    for number in range(0, len(parts), 2):
        for column, panel in zip(st.columns(2, gap="medium"), parts[number:][:2], strict=False):
            with column.container(border=True):
                st.markdown(f"**{plain(_capital(panel.outcome))}**")
                st.caption(plain(axis_words(panel, kind.value)))
                alike = [each for each in parts if each.is_beside == panel.is_beside]
                chart = effects_chart(panel, kind.value, _ends(alike))
                words = f"{panel.outcome}: every arm with its 95 % interval"
                key = f"effects {panel.outcome} {panel.base}"
                st.plotly_chart(chart, key=key, config=CHART, alt=words)
    st.caption(plain(legend(parts)))


def legend(parts: Sequence[Panel]) -> str:
    """What stands where in the figure, in words."""
    groups = [group for panel in parts for group in panel.groups]
    arms = {
        standing: next((g.rows[0]["arm"] for g in groups if g.standing == standing), "")
        for standing in (IN_QUESTION, ITS_CONTROL)
    }
    words = ["Lines are 95 % intervals; a full dot's leaves zero out."]
    bases = {panel.base for panel in parts if panel.is_beside}
    if len(bases) == 1:
        words.append(
            f"Zero is {bases.pop()}, of equal tokens where the arm does not say otherwise."
        )
    if arms[IN_QUESTION]:
        words.append(
            f"Where both stand in one figure, teal is {arms[IN_QUESTION]}, amber "
            f"{arms[ITS_CONTROL]}, its control; grey are others."
        )
    if len({row["size"] for group in groups for row in group.rows}) > 1:
        words.append("On the right stands the size of the beginning.")
    return " ".join(words)


def show_table(result: Finding, kind: Experiment, name: str) -> None:
    """All figures as a table, and as a file."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    columns = {
        "outcome": text("Judged by", width=120),
        "size": number("Begun with", width=84, format="localized"),
        "arm": text("Arm", width=190),
        **{figure: number(_capital(title), width=76) for figure, title in kind.columns.items()},
        "value": number(kind.value, width=76, format="%.3f"),
        "difference": text("Difference", width=170, help="With its 95 % interval."),
        "against": text("Beside", width=140, help="From what it differs, or what is held equal."),
    }
    rows = [
        {
            **row,
            **{name: _rounded(row["figures"].get(name)) for name in kind.columns},
            "difference": interval_words(row),
            "against": "" if row["arm"] == row["against"] else row["against"],
        }
        for row in result.rows
    ]
    if any(row["p"] is not None for row in rows):
        columns["p"] = number("p", width=60, format="%.3f", help="Of a permutation test.")
    table(rows, [*columns], key="figures", more=columns)
    st.download_button(
        "CSV",
        partial(as_csv, result),
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
        icon=":material/download:",
        help="These figures, and all others that were measured of each arm.",
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rounded(figure: float | None) -> float | None:
    """Counts whole, shares to three decimals."""
    return None if figure is None else round(figure, 0 if figure >= 2 else 3)


def show_published(experiment: str) -> None:
    """What the paper reports for the same question, and what in it does not fit together."""
    tables = [each for each in PUBLISHED if each.experiment == experiment]
    if not tables:
        return
    with st.expander("What the paper reports", icon=":material/menu_book:"):
        st.caption(
            "arXiv 2602.10388, with models of 7 to 8 billion parameters and texts written for the "
            "gaps; as printed, so that it can be set beside what came out here."
        )
        text = st.column_config.TextColumn
        for each in tables:
            st.markdown(f"**{plain(f'{each.source}: {each.title}')}**")
            rows = [dict(zip(each.columns, row, strict=True)) for row in each.rows]
            config = {name: text(name or " ", width="small") for name in each.columns}
            table(rows, each.columns, key=f"paper {each.source}", more=config)
            for note in each.notes:
                st.caption(plain(f"* {note}"))
