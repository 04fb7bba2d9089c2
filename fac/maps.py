"""Figures of thousands of points: the map of a dictionary and the support in two datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from fac.charts import GRID, MISSING, REST, SHOWN, figure, short

STRENGTH = [[0.0, "#A9B7C1"], [0.5, "#2AA598"], [1.0, "#4C57CC"]]
"""Rare to frequent; every stop is visible on white and on near-black."""

DENSE = 10_000
"""Above so many points a figure shows their density, and single points for THINNED of them: WebGL
would stay quick, but people see a blot, and a megabyte has to arrive first."""

THINNED = 5_000
"""And at most two in each of 64 x 64 cells, so that the shades stay visible between them."""

Window = tuple[float, float, float, float]  # a part of a map: left, right, bottom, top


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
    samples = support[feature]
    across: dict[str, Any] = {"visible": False, "fixedrange": False}
    up: dict[str, Any] = {"visible": False, "fixedrange": False}
    # One scale for every window: the same colour is the same number.
    top = float(np.log10(max(int(samples.max(initial=1)), 2)))
    if window is not None:
        across["range"], up["range"] = window[:2], window[2:]
        here = inside(window, x, y)
        feature, x, y, samples = (column[here] for column in (feature, x, y, samples))
    chart = figure(height, x=across, y=up, uirevision="kept")
    size = 4 if len(feature) > 3000 else 7
    if len(feature) > DENSE:
        size = 3
        chart.add_heatmap(**_density(x, y))
        thin = _thinned(x, y, samples)
        feature, x, y, samples = (column[thin] for column in (feature, x, y, samples))

    def scatter(rows: np.ndarray, marker: dict[str, Any], unselected: float, words: str) -> None:
        chart.add_scattergl(
            x=x[rows],
            y=y[rows],
            customdata=feature[rows].astype(np.int32),
            mode="markers",
            marker={"size": size, **marker},
            unselected={"marker": {"opacity": unselected}},
            hovertemplate=f"#%{{customdata}}{words}<extra></extra>",
        )

    silent, alive = np.flatnonzero(samples == 0), np.flatnonzero(samples > 0)
    scatter(silent, {"color": "#8892A0", "opacity": 0.3}, 0.15, " silent")
    # Rare above frequent would hide nothing, but frequent features are few: draw them last.
    alive = alive[np.argsort(samples[alive], kind="stable")]
    ticks = [10**power for power in range(int(top) + 1)]
    marker = {
        "color": np.log10(samples[alive]).astype(np.float32),
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
    }
    scatter(alive, marker, 0.35, "")
    if (ring := _position(points, chosen)) is not None:
        chart.add_scatter(
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
    return chart


def inside(window: Window, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in the window: bool `[n]`."""
    left, right, bottom, top = window
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


def encircled(
    across: Sequence[float], up: Sequence[float], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Which points a closed line runs round, bool `[n]`: a ray from them crosses it an odd number
    of times."""
    odd = np.zeros(len(x), bool)
    for i in range(len(across)):
        (x0, y0), (x1, y1) = (across[i - 1], up[i - 1]), (across[i], up[i])
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        odd ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return odd


def _position(points: pa.Table, feature: int | None) -> tuple[float, float] | None:
    """Where a feature lies on the map."""
    rows = np.flatnonzero(points["feature"].to_numpy() == feature) if feature is not None else ()
    return next(((points["x"][int(i)].as_py(), points["y"][int(i)].as_py()) for i in rows), None)


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
    cell = np.zeros(len(x), np.int64)
    for values in (x, y):
        low, high = float(values.min()), float(values.max())
        step = np.clip((values - low) / ((high - low) or 1.0) * cells, 0, cells - 1)
        cell = cell * cells + step.astype(np.int64)
    order = np.lexsort((-weight, cell))
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    turn = np.arange(len(x)) - np.repeat(starts, np.diff(starts, append=len(x)))
    first = np.flatnonzero(turn < each)
    return order[first[np.argsort(turn[first], kind="stable")][:THINNED]]


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
    top = float(np.log1p(max(int(a.max(initial=1)), int(b.max(initial=1)))))
    ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000, 1_000_000]
    ticks = [tick for tick in ticks if math.log1p(tick) <= top + 0.3]
    axis = {"tickvals": [math.log1p(tick) for tick in ticks], "fixedrange": False}
    axis["ticktext"] = [f"{tick:,}" for tick in ticks]
    titles = [f"samples in {short(name)}" for name in names]
    chart = figure(
        height, x={"title": titles[0], **axis}, y={"title": titles[1], **axis}, uirevision="kept"
    )
    chart.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"color": GRID, "width": 2}, hoverinfo="skip"
    )
    most = len(either)
    if most > DENSE:
        chart.add_heatmap(**_density(x, y))
        most = THINNED // 2
    for group, colour, opacity in (
        ((a > 0) & (b > 0), REST, 0.45),
        ((a > 0) & (b == 0), MISSING, 0.8),
        ((a == 0) & (b > 0), SHOWN, 0.8),
    ):
        rows = np.flatnonzero(group)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        chart.add_scattergl(
            x=x[rows],
            y=y[rows],
            customdata=np.stack([either[rows], a[rows], b[rows]], axis=1).astype(np.int32),
            mode="markers",
            marker={"size": 6, "color": colour, "opacity": opacity},
            hovertemplate="#%{customdata[0]}: %{customdata[1]:,} → %{customdata[2]:,} samples"
            "<extra></extra>",
        )
    return chart
