"""Numbers -> Plotly figures. No Streamlit here, so that tests can look at the figure.

Every colour is a middle tone that reads on the light and on the dark background: text, grid and
fonts are left to the theme of the page. What a point is travels as an integer in `customdata`;
texts are fetched when a person chooses a point, because hover strings for a whole dictionary would
weigh more than everything else on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

SHOWN = "#14958A"
"""Teal: what a dataset shows."""

MISSING = "#E08A1E"
"""Amber: what it misses."""

REST = "#7C8799"
"""Slate: everything that is only context."""

AGAIN = "#5B7FDB"
"""Blue: the same, measured again."""

ALONG = "#6DB9B0"
"""Light teal: fires, but was not asked for or not needed."""

INK = "#101515"
GRID = "rgba(124, 135, 153, 0.18)"
AREA = "rgba(20, 149, 138, 0.10)"  # below a curve of SHOWN

Axis = dict[str, Any]

ROWS: Axis = {"autorange": "reversed", "showgrid": False, "ticksuffix": "  "}
"""Names, the first on top."""

HIDDEN: Axis = {"visible": False}


def figure(
    height: int, *, x: Axis | None = None, y: Axis | None = None, **layout: Any
) -> go.Figure:
    """An empty figure. Its layout is given at once: an update takes as long as a query."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "fixedrange": True}
    axis["tickfont"] = {"size": 13}
    return go.Figure(
        layout={
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "showlegend": False,
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": REST, "activecolor": SHOWN},
            "hoverlabel": {"font": {"size": 13}},
            "uniformtext": {"minsize": 12, "mode": "hide"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis | (x or {}),
            "yaxis": axis | (y or {}),
            **layout,
        }
    )


def mark(chart: go.Figure, color: str = REST, width: float = 1.5, **line: float) -> None:
    """A dotted line across the figure, at `x` or at `y`."""
    draw = chart.add_vline if "x" in line else chart.add_hline
    draw(**line, line={"color": color, "width": width, "dash": "dot"})


def is_defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def short(text: str, limit: int = 28) -> str:
    """For tick labels: cut, and with the tags that Plotly would interpret made harmless."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def peak_histogram(
    edges: Sequence[float], counts: Sequence[int], threshold: float = 0.0
) -> go.Figure:
    """How strongly a feature fires: its peaks in `counts` bins between `edges` [B + 1]."""
    chart = figure(
        170, x={"title": "peak activation", "showgrid": False}, y={"nticks": 4}, bargap=0.06
    )
    bins = list(zip(edges, edges[1:], strict=False))
    middles = [(low + high) / 2 for low, high in bins]
    chart.add_bar(
        x=middles,
        y=list(counts),
        marker={
            "color": [SHOWN if middle > threshold else REST for middle in middles],
            "cornerradius": 3,
        },
        customdata=bins,
        hovertemplate="%{y:,} peaks of %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    return chart


def token_dots(
    tokens: Sequence[str], rows: Sequence[tuple[int, str, Sequence[float]]]
) -> go.Figure:
    """Which feature fires on which token: one square per (feature, token), larger where stronger.

    `rows` are (feature, label, value on every token); customdata is [feature, position].
    """
    strongest = max((max(values, default=0.0) for _, _, values in rows), default=0.0) or 1.0
    labels = [f"#{feature} {short(label, 22)}".strip() for feature, label, _ in rows]
    dots = [
        (position, label, feature, value)
        for (feature, _, values), label in zip(rows, labels, strict=True)
        for position, value in enumerate(values)
        if value > 0
    ]
    positions = [position for position, *_ in dots]
    # Scaffold tokens in front of and behind the text are left out: nothing is counted there.
    first, last = (min(positions), max(positions)) if dots else (0, len(tokens) - 1)
    ticks = range(first, last + 1, max(1, (last + 1 - first) // 30))
    chart = figure(
        24 * max(len(rows), 1) + 90,
        x={
            "tickvals": list(ticks),
            "ticktext": [short(tokens[i].strip() or "␣", 12) for i in ticks],
            "tickangle": -50,
            "range": [first - 0.7, last + 0.7],
        },
        y={"autorange": "reversed", "categoryorder": "array", "categoryarray": labels},
        dragmode=False,
    )
    values = [value for *_, value in dots]
    chart.add_scatter(
        x=positions,
        y=[label for _, label, *_ in dots],
        customdata=[[feature, position] for position, _, feature, _ in dots],
        mode="markers",
        marker={
            "symbol": "square",
            "size": [6 + 12 * value / strongest for value in values],
            "color": values,
            "colorscale": [[0, "#F0C48A"], [1, "#D9780F"]],
            "line": {"width": 0},
        },
        text=[f"{value:.2f}" for value in values],
        hovertemplate="%{y} on token %{x}: %{text}<extra></extra>",
    )
    return chart


# --- coverage, and what came of a synthesis ---


Ends = tuple[float, float]


def coverage_curve(
    rows: Sequence[Mapping[str, Any]],
    threshold: float,
    fac: float = math.nan,
    *,
    interval: Ends | None = None,
    yardstick: Ends | None = None,
    height: int = 300,
) -> go.Figure:
    """FAC against the activation threshold, with the threshold in use marked.

    A row holds `threshold`, `fac`, `n_anchor`, `n_missing`; thresholds where FAC is undefined (the
    anchor shows nothing any more) end the line. At the threshold in use `fac` stands with its 95 %
    `interval`, beside the `yardstick`, between which ends random text of the dataset's size comes.
    """
    rows = [row for row in rows if is_defined(row["fac"])]
    is_yardstick = yardstick is not None and all(map(is_defined, yardstick))
    is_interval = interval is not None and all(map(is_defined, (fac, *interval)))
    chart = figure(
        height,
        x={"title": "activation threshold", "rangemode": "tozero"},
        y={"title": "features covered (FAC)", "tickformat": ".0%", "range": [0, 1.02]},
        showlegend=is_interval or is_yardstick,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    chart.add_scatter(
        name="FAC",
        x=[row["threshold"] for row in rows],
        y=[row["fac"] for row in rows],
        mode="lines+markers",
        line={"color": SHOWN, "width": 2.5},
        marker={"size": 5},
        fill="tozeroy",
        fillcolor=AREA,
        customdata=[[row["n_anchor"], row["n_missing"]] for row in rows],
        hovertemplate=(
            "above %{x:g}: FAC %{y:.1%}, %{customdata[1]:,} of %{customdata[0]:,} missing"
            "<extra></extra>"
        ),
        showlegend=False,
    )
    mark(chart, MISSING, 2, x=threshold)
    if yardstick is not None and is_yardstick:
        low, high = yardstick
        chart.add_scatter(
            name="random text of this size",
            x=[threshold, threshold],
            y=[low, high],
            mode="lines+markers",
            line={"color": REST, "width": 9},
            marker={"symbol": "line-ew", "size": 18, "line": {"color": REST, "width": 2}},
            hovertemplate=f"random text of this size: {low:.1%} to {high:.1%}<extra></extra>",
        )
    if interval is not None and is_interval:
        low, high = interval
        chart.add_scatter(
            name="FAC, 95 % interval",
            x=[threshold],
            y=[fac],
            mode="markers",
            marker={"size": 9, "color": SHOWN, "line": {"color": MISSING, "width": 2}},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - fac],
                "arrayminus": [fac - low],
                "color": SHOWN,
                "thickness": 2,
                "width": 7,
            },
            hovertemplate=f"FAC {fac:.1%}, {low:.1%} to {high:.1%}<extra></extra>",
        )
    return chart


def growth_curve(
    seen: Sequence[tuple[float, float]],
    forecast: Sequence[tuple[float, float, float, float]],
    total: int,
    *,
    height: int = 300,
) -> go.Figure:
    """Features of the anchor that more and more samples of one dataset show.

    `seen` are (samples, features expected in a random part of that size), ascending, up to the
    dataset as it is; `forecast` are (samples, features, low, high) beyond it, with the ends of the
    95 % interval. `total` is what the anchor shows.
    """
    whole = {"tickformat": ",d"}
    reach = max([total, *(high for *_, high in forecast)], default=1)
    chart = figure(
        height,
        x={"title": "samples of the dataset", "rangemode": "tozero", **whole},
        y={"title": "features of the anchor shown", "range": [0, 1.08 * reach or 1], **whole},
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    line = {"color": SHOWN, "width": 2.5}
    chart.add_scatter(
        name="a part of it",
        x=[samples for samples, _ in seen],
        y=[features for _, features in seen],
        mode="lines",
        line=line,
        hovertemplate="%{x:,.0f} samples: %{y:,.0f} features<extra></extra>",
    )
    beyond = [row for row in forecast if all(map(is_defined, row))]
    end = seen[-1][0]
    if beyond:
        # The forecast begins where the dataset ends, so that both read as one line.
        samples, features = seen[-1]
        beyond = [(samples, features, features, features), *beyond]
        x = [row[0] for row in beyond]
        end = x[-1]
        chart.add_scatter(
            x=[*x, *reversed(x)],
            y=[row[3] for row in beyond] + [row[2] for row in reversed(beyond)],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor="rgba(20, 149, 138, 0.18)",
            hoverinfo="skip",
            showlegend=False,
        )
        chart.add_scatter(
            name="more like these, 95 % interval",
            x=x,
            y=[row[1] for row in beyond],
            mode="lines",
            line={**line, "dash": "dash"},
            customdata=[row[2:] for row in beyond],
            hovertemplate="%{x:,.0f} samples: %{y:,.0f} features, %{customdata[0]:,.0f} to "
            "%{customdata[1]:,.0f}<extra></extra>",
        )
        mark(chart, x=samples)
    chart.add_scatter(
        name=f"anchor: {total:,}",
        x=[0, end],
        y=[total, total],
        mode="lines",
        line={"color": MISSING, "width": 2, "dash": "dot"},
        hoverinfo="skip",
    )
    return chart


def part_bars(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Covered and missing features by part of the data. A row holds `part`, its name, `fac`,
    `n_covered`, `n_missing`; an undefined FAC is left out."""
    rows = [row for row in rows if is_defined(row["fac"])]
    names = [short(row["part"]) for row in rows]
    axis = {"title": "features of the anchor", "tickformat": ",d"}
    chart = figure(40 * len(rows) + 76, x=axis, y=ROWS, barmode="stack", bargap=0.3)
    chart.add_bar(
        y=names,
        x=[row["n_covered"] for row in rows],
        orientation="h",
        marker={"color": SHOWN, "cornerradius": 4},
        text=[f"{row['fac']:.0%}" for row in rows],
        textposition="auto",
        hovertemplate="%{y}: %{x:,} covered<extra></extra>",
    )
    chart.add_bar(
        y=names,
        x=[row["n_missing"] for row in rows],
        orientation="h",
        marker={"color": MISSING, "cornerradius": 4},
        hovertemplate="%{y}: %{x:,} missing<extra></extra>",
    )
    return chart


PASSED = "kept"

REASON_COLOURS = {
    PASSED: SHOWN,
    "beaten": ALONG,
    "redundant": ALONG,
    "below threshold": MISSING,
    "borrowed words": MISSING,
}
"""What became of a text that fires its gap, and of one that does not; any other reason is about the
text itself and stays slate."""


def outcome_bars(
    kept: int,
    dropped: Mapping[str, int],
    chosen: str | None = None,
    *,
    words: Callable[[str], str] = str,
) -> go.Figure:
    """What became of the texts of a synthesis: kept on top, then every reason, most common first,
    each called by its `words`.

    The outcome travels as customdata, so that a click can ask for its texts; with one `chosen` the
    others stand back.
    """
    rows = [(PASSED, kept), *sorted(dropped.items(), key=lambda row: (-row[1], row[0]))]
    names, counts = [name for name, _ in rows], [n for _, n in rows]
    total, most = sum(counts) or 1, max(counts) or 1
    chart = figure(32 * len(rows) + 26, x={**HIDDEN, "range": [0, most * 1.3]}, y=ROWS, bargap=0.38)
    chart.add_bar(
        y=[short(words(name)) for name in names],
        x=counts,
        orientation="h",
        marker={
            "color": [REASON_COLOURS.get(name, REST) for name in names],
            "opacity": [1.0 if chosen in (None, "all", name) else 0.35 for name in names],
            "cornerradius": 4,
        },
        text=[f"{n:,} · {n / total:.0%}" for n in counts],
        textposition="outside",
        cliponaxis=False,
        customdata=names,
        hovertemplate="%{y}: %{x:,} texts<extra></extra>",
        selected={"marker": {"opacity": 1.0}},
        unselected={"marker": {"opacity": 0.35}},
    )
    return chart


def marginal_curve(covered: Sequence[int], gaps: int, *, height: int = 250) -> go.Figure:
    """Gaps covered by the first 1, 2, ... kept samples of a greedy set cover, of `gaps` in all.

    A dotted line stands at the last sample that added a gap: whatever comes after it adds none.
    """
    whole = {"tickformat": ",d"}
    chart = figure(
        height,
        x={"title": "kept samples, best first", **whole},
        y={"title": "gaps covered", "range": [0, gaps * 1.08 or 1], **whole},
        hovermode="x unified",
    )
    chart.add_scatter(
        x=list(range(len(covered) + 1)),
        y=[0, *covered],
        mode="lines",
        line={"color": SHOWN, "width": 2.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor=AREA,
        hovertemplate="%{y:,} gaps covered<extra></extra>",
    )
    mark(chart, MISSING, y=gaps)
    if covered:
        enough = 1 + next(i for i, n in enumerate(covered) if n == covered[-1])
        if enough < len(covered):
            mark(chart, x=enough)
    return chart


def before_after(rows: Sequence[tuple[str, float, str]]) -> go.Figure:
    """FAC as dots on one axis that shows just their stretch, from top to bottom.

    `rows` are (name, FAC, colour); an undefined FAC is left out. Dots and not bars, which would
    have to begin at zero and hide what a few samples change.
    """
    rows = [row for row in rows if is_defined(row[1])]
    values = [value for _, value, _ in rows]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(high - low, 0.01)
    chart = figure(
        36 * max(len(rows), 1) + 58,
        x={
            "range": [low - 0.2 * room, high + 0.9 * room],  # a phone has room for the last figure
            "tickformat": ".1%" if room < 0.1 else ".0%",
            "nticks": 4,
            "tickangle": 0,
        },
        y={**ROWS, "gridcolor": GRID, "showgrid": True},
    )
    chart.add_scatter(
        x=values,
        y=[name for name, _, _ in rows],
        mode="markers+text",
        marker={"size": 13, "color": [colour for _, _, colour in rows]},
        text=[f"  {value:.1%}" for value in values],
        textposition="middle right",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2%}<extra></extra>",
    )
    return chart


# --- models and SAEs ---


def layer_fit(layers: Sequence[tuple[int, float, float]], asked: int, fits: float) -> go.Figure:
    """FVU of one SAE on the streams of several layers, each with its L0; the asked layer is
    coloured. Below `fits` an SAE counts as describing a stream; what is above 1, where it is worse
    than the mean, is drawn at the edge and its figure written."""
    names = [f"{layer}" + (", asked" if layer == asked else "") for layer, _, _ in layers]
    chart = figure(
        32 * len(layers) + 70,
        x={"range": [0, 1.12], "title": "FVU: 0 is perfect, 1 no better than the mean"},
        y=ROWS | {"type": "category", "title": "Layer"},
    )
    chart.add_bar(
        x=[min(fvu, 1.0) for _, fvu, _ in layers],
        y=names,
        orientation="h",
        marker={"color": [SHOWN if layer == asked else REST for layer, _, _ in layers]},
        text=[f"{fvu:.3f}" for _, fvu, _ in layers],
        textposition="outside",
        customdata=[[fvu, l0] for _, fvu, l0 in layers],
        hovertemplate="%{y}: FVU %{customdata[0]:.3f}, L0 %{customdata[1]:.1f}<extra></extra>",
    )
    mark(chart, x=fits)
    return chart


# --- raters and judges ---


def intervals(
    rows: Sequence[Mapping[str, Any]],
    *,
    across: tuple[float, float] = (0.0, 1.0),
    reference: float | None = None,
    percent: bool = False,
    height: int | None = None,
) -> go.Figure:
    """Estimates as dots with their intervals as lines, in the order of the rows.

    A row holds `name`, `value`, `low`, `high` and `n`; what is undefined (None or NaN) keeps its
    line and says so, because a gap in a list of numbers reads as an oversight. `reference` is a
    value that would mean no effect, such as 0.5 of a balanced accuracy.
    """
    names = [short(row["name"], 34) for row in rows]
    room = 0.03 * (across[1] - across[0])
    chart = figure(
        height or 34 * max(len(rows), 1) + 62,
        x={
            "range": [across[0] - room, across[1] + room],
            "tickformat": ".0%" if percent else None,
            "nticks": 6,
        },
        # Rows without a value have no marker, so their order must be spelled out.
        y={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names[::-1],
            "range": [-0.6, len(names) - 0.4],
            "showgrid": False,
            "ticksuffix": "  ",
        },
    )
    defined = [is_defined(row["value"]) for row in rows]
    dots = [row for row, drawn in zip(rows, defined, strict=True) if drawn]
    reach = [
        (row["high"] - row["value"], row["value"] - row["low"])
        if is_defined(row["low"]) and is_defined(row["high"])
        else (0.0, 0.0)
        for row in dots
    ]
    chart.add_scatter(
        x=[row["value"] for row in dots],
        y=[name for name, drawn in zip(names, defined, strict=True) if drawn],
        mode="markers",
        marker={"size": 10, "color": SHOWN},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [above for above, _ in reach],
            "arrayminus": [below for _, below in reach],
            "color": SHOWN,
            "thickness": 2,
            "width": 5,
        },
        customdata=[[row["low"], row["high"], row["n"]] for row in dots],
        hovertemplate="%{y}: %{x:.3f}, %{customdata[0]:.3f} to %{customdata[1]:.3f}, "
        "n = %{customdata[2]:,}<extra></extra>",
        cliponaxis=False,
    )
    for name, drawn in zip(names, defined, strict=True):
        if not drawn:
            chart.add_annotation(
                x=across[0],
                y=name,
                text="not defined",
                showarrow=False,
                xanchor="left",
                font={"size": 12, "color": REST},
            )
    if reference is not None:
        mark(chart, x=reference)
    return chart


VERDICT_COLOURS = {"relevant": SHOWN, "irrelevant": MISSING, "unclear": "#A9B2BE"}
"""How a sample of features came out, and the colour of each outcome."""


def verdict_bars(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Shares of relevant, irrelevant and unclear features, one bar per row.

    A row holds `name`, `n` and the three shares; a row without any feature stays an empty bar.
    """
    names = [f"{short(row['name'])} · n = {row['n']:,}" for row in rows]
    chart = figure(
        40 * max(len(rows), 1) + 84,
        x={"range": [0, 1], "tickformat": ".0%", "nticks": 5},
        y=ROWS,
        barmode="stack",
        bargap=0.42,
        showlegend=True,
        legend={"orientation": "h", "y": -0.24, "traceorder": "normal"},
    )
    for verdict, colour in VERDICT_COLOURS.items():
        shares = [row[verdict] if row["n"] else 0.0 for row in rows]
        chart.add_bar(
            name=verdict,
            y=names,
            x=shares,
            orientation="h",
            marker={"color": colour, "cornerradius": 3},
            text=[f"{share:.0%}" if share >= 0.04 else "" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            hovertemplate=verdict + ": %{x:.0%}<extra></extra>",
        )
    return chart
