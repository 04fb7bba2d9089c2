"""Numbers -> Plotly figures. No Streamlit here, so that tests can look at the figure.

Every colour is a middle tone that reads on the light and on the dark background: text, grid and
fonts are left to the theme of the page. What a point is travels as an integer in `customdata`;
texts are fetched when a person chooses a point, because hover strings for a whole dictionary would
weigh more than everything else on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

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

STRENGTH = [[0.0, "#A9B7C1"], [0.5, "#2AA598"], [1.0, "#4C57CC"]]
"""Rare to frequent; every stop is visible on white and on near-black."""

DENSE = 10_000
"""Above so many points a figure shows their density, and single points for THINNED of them: WebGL
would stay quick, but people see a blot, and a megabyte has to arrive first."""

THINNED = 5_000
"""And at most two in each of 64 x 64 places, so that the shades stay visible between them."""

Window = tuple[float, float, float, float]
"""A part of a map: left, right, bottom, top."""


def _figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure. Its layout is given at once: an update takes as long as a query."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "tickfont": {"size": 13}}
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
            "xaxis": axis,
            "yaxis": axis,
            **layout,
        }
    )


def feature_map(
    points: pa.Table,
    support: np.ndarray,
    *,
    chosen: int | None = None,
    window: Window | None = None,
    height: int = 420,
) -> go.Figure:
    """UMAP of the dictionary's decoder directions, coloured by log support.

    `points` has columns feature, x, y (float32); `support` is int64 `[n_features]`. Only what lies
    in the window is drawn. Above DENSE features that is their density and, everywhere on it, the
    most common, THINNED in all; below, each of them. Only ids travel, as the points' customdata.
    """
    feature = points["feature"].to_numpy()
    x, y = (points[axis].to_numpy().astype(np.float32) for axis in ("x", "y"))
    shown = support[feature]
    figure = _figure(height, uirevision="kept")
    # One scale for every window: the same colour is the same number.
    top = float(np.log10(max(int(shown.max(initial=1)), 2)))
    if window is not None:
        here = inside(window, x, y)
        feature, x, y, shown = feature[here], x[here], y[here], shown[here]
        figure.update_xaxes(range=window[:2])
        figure.update_yaxes(range=window[2:])
    size = 4 if len(feature) > 3000 else 7
    if len(feature) > DENSE:
        size = 3
        figure.add_heatmap(**_density(x, y))
        some = _thinned(x, y, shown)
        feature, x, y, shown = feature[some], x[some], y[some], shown[some]
    silent, alive = np.flatnonzero(shown == 0), np.flatnonzero(shown > 0)
    figure.add_scattergl(
        x=x[silent],
        y=y[silent],
        customdata=feature[silent].astype(np.int32),
        mode="markers",
        marker={"size": size, "color": "#8892A0", "opacity": 0.3},
        unselected={"marker": {"opacity": 0.15}},
        hovertemplate="#%{customdata} silent<extra></extra>",
    )
    # Rare above frequent would hide nothing, but frequent features are few: draw them last.
    alive = alive[np.argsort(shown[alive], kind="stable")]
    ticks = [10**power for power in range(int(top) + 1)]
    figure.add_scattergl(
        x=x[alive],
        y=y[alive],
        customdata=feature[alive].astype(np.int32),
        mode="markers",
        marker={
            "size": size,
            "color": np.log10(shown[alive]).astype(np.float32),
            "colorscale": STRENGTH,
            "cmin": 0.0,
            "cmax": top,
            "opacity": 0.85,
            "colorbar": {
                "title": {"text": "samples", "side": "right", "font": {"size": 11}},
                "thickness": 8,
                "len": 0.6,
                "tickvals": [math.log10(tick) for tick in ticks],
                "ticktext": [f"{tick:,}" for tick in ticks],
                "outlinewidth": 0,
                "tickfont": {"size": 11},
            },
        },
        unselected={"marker": {"opacity": 0.35}},
        hovertemplate="#%{customdata}<extra></extra>",
    )
    if (ring := _row_of(points, chosen)) is not None:
        figure.add_scatter(
            x=[ring[0]],
            y=[ring[1]],
            customdata=[chosen],
            mode="markers",
            marker={
                "size": 16,
                "color": "rgba(0,0,0,0)",
                "line": {"width": 2.5, "color": "#D64550"},
            },
            hovertemplate="#%{customdata}<extra></extra>",
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def inside(window: Window, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in the window: bool `[n]`."""
    left, right, bottom, top = window
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


def encircled(
    across: Sequence[float], up: Sequence[float], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Which points a closed line runs round, bool `[n]`: a ray from them crosses it an odd number
    of times."""
    found = np.zeros(len(x), bool)
    for i in range(len(across)):
        (x0, y0), (x1, y1) = (across[i - 1], up[i - 1]), (across[i], up[i])
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        found ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return found


def _row_of(points: pa.Table, feature: int | None) -> tuple[float, float] | None:
    """Where a feature lies on the map."""
    found = np.flatnonzero(points["feature"].to_numpy() == feature) if feature is not None else ()
    return next(((points["x"][int(i)].as_py(), points["y"][int(i)].as_py()) for i in found), None)


def _density(x: np.ndarray, y: np.ndarray, bins: int = 128) -> dict[str, Any]:
    """A heatmap of how many points lie where, as arguments of `add_heatmap`.

    By the square root: the crowds of a map hold a hundred times what its edges do, which would be
    invisible beside them.
    """
    counts, across, up = np.histogram2d(x, y, bins=bins)
    return {
        "x": ((across[1:] + across[:-1]) / 2).astype(np.float32),
        "y": ((up[1:] + up[:-1]) / 2).astype(np.float32),
        "z": np.sqrt(counts.T).astype(np.float32),
        "zsmooth": "best",
        "colorscale": [[0, "rgba(124,135,153,0)"], [1, "rgba(124,135,153,0.8)"]],
        "showscale": False,
        "hoverinfo": "skip",
    }


def _thinned(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, *, cells: int = 64, each: int = 2
) -> np.ndarray:
    """Rows of at most THINNED points: of every cell of a grid the heaviest, then of every cell the
    next, so that no neighbourhood is without one."""
    place = np.zeros(len(x), np.int64)
    for values in (x, y):
        low, high = float(values.min()), float(values.max())
        step = np.clip((values - low) / ((high - low) or 1.0) * cells, 0, cells - 1)
        place = place * cells + step.astype(np.int64)
    order = np.lexsort((-weight, place))
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    turn = np.arange(len(x)) - np.repeat(starts, np.diff(starts, append=len(x)))
    first = np.flatnonzero(turn < each)
    return order[first[np.argsort(turn[first], kind="stable")][:THINNED]]


def coverage_curve(
    rows: Sequence[Mapping[str, Any]], threshold: float, *, height: int = 280
) -> go.Figure:
    """FAC against the activation threshold, with the threshold in use marked.

    A row holds `threshold`, `fac`, `n_anchor`, `n_missing`; rungs where FAC is undefined (the
    anchor shows nothing any more) end the line.
    """
    rows = [row for row in rows if not math.isnan(row["fac"])]
    figure = _figure(height, hovermode="x unified")
    figure.add_scatter(
        x=[row["threshold"] for row in rows],
        y=[row["fac"] for row in rows],
        mode="lines+markers",
        line={"color": SHOWN, "width": 2.5},
        marker={"size": 5},
        fill="tozeroy",
        fillcolor="rgba(20, 149, 138, 0.10)",
        customdata=[[row["n_anchor"], row["n_missing"]] for row in rows],
        hovertemplate=(
            "FAC %{y:.1%}, %{customdata[1]:,} of %{customdata[0]:,} missing<extra></extra>"
        ),
    )
    figure.add_vline(x=threshold, line={"color": MISSING, "width": 2, "dash": "dot"})
    figure.update_xaxes(title="activation threshold", fixedrange=True, rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02], fixedrange=True)
    return figure


def role_bars(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Covered and missing features by role. A row holds `role`, `fac`, `n_covered`, `n_missing`."""
    rows = [row for row in rows if not math.isnan(row["fac"])]
    names = [row["role"] for row in rows]
    figure = _figure(280, barmode="stack", bargap=0.5)
    figure.add_bar(
        y=names,
        x=[row["n_covered"] for row in rows],
        orientation="h",
        marker={"color": SHOWN, "cornerradius": 4},
        text=[f"{row['fac']:.0%}" for row in rows],
        textposition="auto",
        hovertemplate="%{y}: %{x:,} covered<extra></extra>",
    )
    figure.add_bar(
        y=names,
        x=[row["n_missing"] for row in rows],
        orientation="h",
        marker={"color": MISSING, "cornerradius": 4},
        hovertemplate="%{y}: %{x:,} missing<extra></extra>",
    )
    figure.update_xaxes(title="features of the anchor", fixedrange=True, tickformat=",d")
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False, ticksuffix="  ")
    return figure


def peak_histogram(
    edges: Sequence[float], counts: Sequence[int], threshold: float = 0.0
) -> go.Figure:
    """How strongly a feature fires: its peaks in `counts` bins between `edges` [B + 1]."""
    figure = _figure(170, bargap=0.06)
    middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
    figure.add_bar(
        x=middles,
        y=list(counts),
        marker={
            "color": [SHOWN if middle > threshold else REST for middle in middles],
            "cornerradius": 3,
        },
        customdata=list(zip(edges, edges[1:], strict=False)),
        hovertemplate="%{y:,} peaks of %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
    )
    figure.update_xaxes(title="peak activation", fixedrange=True, showgrid=False)
    figure.update_yaxes(fixedrange=True, nticks=4)
    return figure


def support_scatter(
    before: np.ndarray, after: np.ndarray, *, names: tuple[str, str], height: int = 440
) -> go.Figure:
    """Samples per feature in two datasets, log(1 + n) on both axes; ids in customdata.

    `before` and `after` are int64 `[n_features]`. Features both lack are left out. Amber points
    were lost, teal ones gained, slate ones are in both. Counts are integers, so points that would
    coincide are spread by a fixed quarter of a step; the hover shows the true counts. Above DENSE
    features their density is drawn, and of each colour an even choice of points.
    """
    either = np.flatnonzero((before > 0) | (after > 0))
    a, b = before[either], after[either]
    spread = np.random.default_rng(0).uniform(-0.12, 0.12, (2, len(either)))
    x = np.log1p(np.maximum(a + spread[0] * (1 + a / 8), -0.5)).astype(np.float32)
    y = np.log1p(np.maximum(b + spread[1] * (1 + b / 8), -0.5)).astype(np.float32)
    figure = _figure(height, uirevision="kept")
    top = float(np.log1p(max(int(a.max(initial=1)), int(b.max(initial=1)))))
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"color": GRID, "width": 2}, hoverinfo="skip"
    )
    most = len(either)
    if most > DENSE:
        figure.add_heatmap(**_density(x, y))
        most = THINNED // 2
    for group, colour, opacity in (
        ((a > 0) & (b > 0), REST, 0.45),
        ((a > 0) & (b == 0), MISSING, 0.8),
        ((a == 0) & (b > 0), SHOWN, 0.8),
    ):
        rows = np.flatnonzero(group)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        figure.add_scattergl(
            x=x[rows],
            y=y[rows],
            customdata=np.stack([either[rows], a[rows], b[rows]], axis=1).astype(np.int32),
            mode="markers",
            marker={"size": 6, "color": colour, "opacity": opacity},
            hovertemplate="#%{customdata[0]}: %{customdata[1]:,} → %{customdata[2]:,} samples"
            "<extra></extra>",
        )
    ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000, 1_000_000]
    ticks = [tick for tick in ticks if math.log1p(tick) <= top + 0.3]
    axis = {"tickvals": [math.log1p(tick) for tick in ticks], "ticktext": [f"{t:,}" for t in ticks]}
    figure.update_xaxes(title=f"samples in {_short(names[0])}", **axis)
    figure.update_yaxes(title=f"samples in {_short(names[1])}", **axis)
    return figure


def token_dots(
    tokens: Sequence[str], rows: Sequence[tuple[int, str, Sequence[float]]]
) -> go.Figure:
    """Which feature fires on which token: one square per (feature, token), larger where stronger.

    `rows` are (feature, label, value on every token); customdata is [feature, position].
    """
    figure = _figure(24 * max(len(rows), 1) + 90, dragmode=False)
    strongest = max((max(values, default=0.0) for _, _, values in rows), default=0.0) or 1.0
    xs, ys, ids, values_shown = [], [], [], []
    for feature, label, values in rows:
        for position, value in enumerate(values):
            if value > 0:
                xs.append(position)
                ys.append(f"#{feature} {_short(label, 22)}".strip())
                ids.append([feature, position])
                values_shown.append(value)
    figure.add_scatter(
        x=xs,
        y=ys,
        customdata=ids,
        mode="markers",
        marker={
            "symbol": "square",
            "size": [6 + 12 * value / strongest for value in values_shown],
            "color": values_shown,
            "colorscale": [[0, "#F0C48A"], [1, "#D9780F"]],
            "line": {"width": 0},
        },
        text=[f"{value:.2f}" for value in values_shown],
        hovertemplate="%{y} on token %{x}: %{text}<extra></extra>",
    )
    # Scaffold tokens in front of and behind the text are left out: nothing is counted there.
    first, last = (min(xs), max(xs)) if xs else (0, len(tokens) - 1)
    shown = range(first, last + 1, max(1, (last + 1 - first) // 30))
    figure.update_xaxes(
        tickvals=list(shown),
        ticktext=[_short(tokens[i].strip() or "␣", 12) for i in shown],
        tickangle=-50,
        range=[first - 0.7, last + 0.7],
        fixedrange=True,
    )
    figure.update_yaxes(
        autorange="reversed",
        fixedrange=True,
        categoryorder="array",
        categoryarray=[f"#{f} {_short(label, 22)}".strip() for f, label, _ in rows],
    )
    return figure


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
    value that would mean nothing was found, such as 0.5 of a balanced accuracy.
    """
    figure = _figure(height or 34 * max(len(rows), 1) + 62)
    names = [_short(row["name"], 34) for row in rows]
    kept = [(name, row) for name, row in zip(names, rows, strict=True) if _known(row["value"])]
    shown = [row["value"] for _, row in kept]
    bounded = [_known(row["low"]) and _known(row["high"]) for _, row in kept]
    figure.add_scatter(
        x=shown,
        y=[name for name, _ in kept],
        mode="markers",
        marker={"size": 10, "color": SHOWN},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [
                row["high"] - row["value"] if known else 0.0
                for (_, row), known in zip(kept, bounded, strict=True)
            ],
            "arrayminus": [
                row["value"] - row["low"] if known else 0.0
                for (_, row), known in zip(kept, bounded, strict=True)
            ],
            "color": SHOWN,
            "thickness": 2,
            "width": 5,
        },
        customdata=[[row["low"], row["high"], row["n"]] for _, row in kept],
        hovertemplate="%{y}: %{x:.3f}, %{customdata[0]:.3f} to %{customdata[1]:.3f}, "
        "n = %{customdata[2]:,}<extra></extra>",
        cliponaxis=False,
    )
    for name, row in zip(names, rows, strict=True):
        if not _known(row["value"]):
            figure.add_annotation(
                x=across[0],
                y=name,
                text="not defined",
                showarrow=False,
                xanchor="left",
                font={"size": 12, "color": REST},
            )
    if reference is not None:
        figure.add_vline(x=reference, line={"color": REST, "width": 1.5, "dash": "dot"})
    room = 0.03 * (across[1] - across[0])
    figure.update_xaxes(
        range=[across[0] - room, across[1] + room],
        tickformat=".0%" if percent else None,
        nticks=6,
        fixedrange=True,
    )
    # Rows without a value have no marker, so the order is given rather than found.
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names[::-1],
        range=[-0.6, len(names) - 0.4],
        fixedrange=True,
        showgrid=False,
        ticksuffix="  ",
    )
    return figure


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


VERDICTS = {"relevant": SHOWN, "irrelevant": MISSING, "unclear": "#A9B2BE"}
"""How a sample of features came out, and the colour of each outcome."""


def verdict_bars(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Shares of relevant, irrelevant and unclear features, one bar per row.

    A row holds `name`, `n` and the three shares; a row without any feature stays an empty bar.
    """
    names = [f"{_short(row['name'])} · n = {row['n']:,}" for row in rows]
    figure = _figure(40 * max(len(rows), 1) + 84, barmode="stack", bargap=0.42)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": -0.24, "traceorder": "normal"}
    )
    for verdict, colour in VERDICTS.items():
        shares = [row[verdict] if row["n"] else 0.0 for row in rows]
        figure.add_bar(
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
    figure.update_xaxes(range=[0, 1], tickformat=".0%", fixedrange=True, nticks=5)
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False, ticksuffix="  ")
    return figure


KEPT = "kept"

OUTCOMES = {KEPT: SHOWN, "beaten": ALONG, "redundant": ALONG, "below threshold": MISSING}
"""What became of a text that fires its gap, and of one that does not; any other reason is about the
text itself and stays slate."""


def outcome_bars(kept: int, dropped: Mapping[str, int], chosen: str | None = None) -> go.Figure:
    """What became of the texts of a synthesis: kept on top, then every reason, most common first.

    The outcome travels as customdata, so that a click can ask for its texts; with one `chosen` the
    others stand back.
    """
    rows = [(KEPT, kept), *sorted(dropped.items(), key=lambda row: (-row[1], row[0]))]
    total = sum(n for _, n in rows) or 1
    figure = _figure(32 * len(rows) + 26, bargap=0.38)
    figure.add_bar(
        y=[_short(name) for name, _ in rows],
        x=[n for _, n in rows],
        orientation="h",
        marker={
            "color": [OUTCOMES.get(name, REST) for name, _ in rows],
            "opacity": [1.0 if chosen in (None, "all", name) else 0.35 for name, _ in rows],
            "cornerradius": 4,
        },
        text=[f"{n:,} · {n / total:.0%}" for _, n in rows],
        textposition="outside",
        cliponaxis=False,
        customdata=[name for name, _ in rows],
        hovertemplate="%{y}: %{x:,} texts<extra></extra>",
        selected={"marker": {"opacity": 1.0}},
        unselected={"marker": {"opacity": 0.35}},
    )
    most = max((n for _, n in rows), default=0) or 1
    figure.update_xaxes(visible=False, range=[0, most * 1.3], fixedrange=True)
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False, ticksuffix="  ")
    return figure


def marginal_curve(covered: Sequence[int], gaps: int, *, height: int = 250) -> go.Figure:
    """Gaps covered by the first 1, 2, ... kept samples of a greedy set cover, of `gaps` in all.

    A dotted line stands at the last sample that added a gap: whatever comes after it adds none.
    """
    figure = _figure(height, hovermode="x unified")
    figure.add_scatter(
        x=list(range(len(covered) + 1)),
        y=[0, *covered],
        mode="lines",
        line={"color": SHOWN, "width": 2.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(20, 149, 138, 0.10)",
        hovertemplate="%{y:,} gaps covered<extra></extra>",
    )
    figure.add_hline(y=gaps, line={"color": MISSING, "width": 1.5, "dash": "dot"})
    if covered:
        enough = 1 + next(i for i, n in enumerate(covered) if n == covered[-1])
        if enough < len(covered):
            figure.add_vline(x=enough, line={"color": REST, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title="kept samples, best first", fixedrange=True, tickformat=",d")
    figure.update_yaxes(
        title="gaps covered", range=[0, gaps * 1.08 or 1], fixedrange=True, tickformat=",d"
    )
    return figure


def before_after(rows: Sequence[tuple[str, float, str]]) -> go.Figure:
    """FAC as dots on one axis that shows just their stretch, from top to bottom.

    `rows` are (name, FAC, colour); an undefined FAC is left out. Dots and not bars, which would
    have to begin at zero and hide what a few samples change.
    """
    rows = [row for row in rows if _known(row[1])]
    figure = _figure(36 * max(len(rows), 1) + 58)
    values = [value for _, value, _ in rows]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(high - low, 0.01)
    figure.add_scatter(
        x=values,
        y=[name for name, _, _ in rows],
        mode="markers+text",
        marker={"size": 13, "color": [colour for _, _, colour in rows]},
        text=[f"  {value:.1%}" for value in values],
        textposition="middle right",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2%}<extra></extra>",
    )
    figure.update_xaxes(
        range=[low - 0.2 * room, high + 0.45 * room],
        tickformat=".1%" if room < 0.1 else ".0%",
        nticks=5,
        fixedrange=True,
    )
    figure.update_yaxes(
        autorange="reversed", fixedrange=True, ticksuffix="  ", gridcolor=GRID, showgrid=True
    )
    return figure


def closed_bar(parts: Sequence[tuple[str, int, str]]) -> go.Figure:
    """The features that were missing, as one bar: `parts` are (name, count, colour)."""
    figure = _figure(112, barmode="stack", bargap=0.1)
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "y": -0.15, "yanchor": "top", "traceorder": "normal"},
    )
    total = sum(n for _, n, _ in parts) or 1
    for name, n, colour in parts:
        figure.add_bar(
            name=f"{name}: {n:,}",
            y=[""],
            x=[n],
            orientation="h",
            marker={"color": colour, "cornerradius": 3},
            text=f"{n:,}" if n > 0.06 * total else "",
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": INK},
            hovertemplate=name + ": %{x:,} features<extra></extra>",
        )
    figure.update_xaxes(visible=False, range=[0, total], fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True)
    return figure


def _short(text: str, limit: int = 28) -> str:
    """For tick labels: cut, and with the tags that Plotly would interpret made harmless."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
