"""Figures of thousands of points: the map of features and the support in two datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from fac.charts import GRID, MISSING, REST, SHOWN, figure, short

STRENGTH = [[0.0, "#A9B7C1"], [0.5, "#2AA598"], [1.0, "#4C57CC"]]
"""Rare to frequent; every stop is visible on white and on near-black."""

DENSE = 10_000
"""Above so many points a figure shows their density, and single points for THINNED of them: WebGL
would stay quick, but people see a blot, and a megabyte has to arrive first."""

THINNED = 5_000
"""And at most two in each of 64 x 64 cells, so that the shades stay visible between them."""

MAP_HEIGHT, MAP_WIDTH = 460, 620
"""Pixels of a map; of its width, on a screen of 1,280."""

LABEL_SIZE, LONGEST_LABEL, MOST_LABELS = 12, 26, 12
"""Pixels and characters of a family's name on a map, and how many there are."""

LONGEST_NAME = 48
"""Characters of a feature's name below the pointer."""

Window = tuple[float, float, float, float]  # a part of a map: left, right, bottom, top


class Label(NamedTuple):
    """What a part of a map is called, and where."""

    text: str
    x: float
    y: float


class Dots(NamedTuple):
    """Features as points of a map: arrays `[n]`, and a name each."""

    feature: np.ndarray
    x: np.ndarray
    y: np.ndarray
    n_anchor: np.ndarray
    """Samples of the anchor that fire it; `n_dataset` those of the dataset."""
    n_dataset: np.ndarray
    standing: np.ndarray
    """Its place in STANDING_COLOURS."""
    lit: np.ndarray
    """bool: what stands out; where all or none do, nothing is dimmed."""
    names: Sequence[str]


STANDING_COLOURS = {
    "covered": SHOWN,
    "under-represented": "#8B5CD6",
    "missing": MISSING,
    "not counted": "#8892A0",
}
"""Violet is told from teal and amber by people who see no red, too."""

_BOTTOM_FIRST = [
    (number, *item)
    for number, item in sorted(enumerate(STANDING_COLOURS.items()), key=lambda row: row[0] != 3)
]

FEW = 300
"""Points that stand out and may be large."""

DIMMED = 0.18
"""Opacity of what does not stand out."""


def feature_map(
    dots: Dots,
    *,
    by: str,
    top: int,
    labels: Sequence[Label] = (),
    shade: tuple[np.ndarray, np.ndarray] | None = None,
    chosen: int | None = None,
    window: Window | None = None,
    paper: str = "rgba(0,0,0,0)",
    height: int = MAP_HEIGHT,
) -> go.Figure:
    """A map of features, coloured `by` "coverage", their standing, or by "strength", the log of the
    samples of the dataset that fire them, up to `top` samples at any window.

    `shade` is x and y of everything there is, where `dots` are some of it: its density lies below
    them; `paper` is the colour behind names of families. A point's name travels with it, and its
    customdata: feature, n_anchor, n_dataset.
    """
    across: dict[str, Any] = {"visible": False, "fixedrange": False}
    up: dict[str, Any] = {"visible": False, "fixedrange": False}
    if window is not None:
        across["range"], up["range"] = window[:2], window[2:]
    # Below the map: above it are the tools.
    legend = {"orientation": "h", "x": 0, "y": 0, "yanchor": "top", "itemsizing": "constant"}
    chart = figure(
        height,
        x=across,
        y=up,
        uirevision="kept",
        showlegend=by == "coverage",
        legend={**legend, "itemclick": False, "itemdoubleclick": False},
    )
    n = len(dots.feature)
    size = 3 if shade is not None else 4 if n > 3000 else 7
    if shade is not None:
        chart.add_heatmap(**_density(*shade))
    stands_out = dots.lit.any() and not dots.lit.all()
    numbers = np.stack([dots.feature, dots.n_anchor, dots.n_dataset], axis=1).astype(np.int32)
    names = np.array([short(name, LONGEST_NAME) for name in dots.names], object)

    def scatter(rows: np.ndarray, name: str, marker: dict[str, Any], **more: Any) -> None:
        chart.add_scattergl(
            name=name,
            x=dots.x[rows],
            y=dots.y[rows],
            text=names[rows].tolist(),
            customdata=numbers[rows],
            mode="markers",
            marker={"size": size, **marker},
            unselected={"marker": {"opacity": 0.15}},
            hovertemplate=HOVER,
            **more,
        )

    lit = np.ones(n, bool)
    if stands_out:
        lit, size = dots.lit, 9 if dots.lit.sum() < FEW else size + 2
        dim = np.flatnonzero(~lit)
        scatter(dim, "others", {"size": 4, "color": REST, "opacity": DIMMED}, showlegend=False)
    if by == "coverage":
        for number, name, colour in _BOTTOM_FIRST:
            rows = np.flatnonzero(lit & (dots.standing == number))
            if len(rows):
                marker = {"color": colour, "opacity": 0.45 if name == "not counted" else 0.8}
                scatter(rows, name, marker, legendrank=number)
    else:
        silent = np.flatnonzero(lit & (dots.n_dataset == 0))
        alive = np.flatnonzero(lit & (dots.n_dataset > 0))
        scatter(silent, "silent", {"color": "#8892A0", "opacity": 0.35})
        # Rare above frequent would hide nothing, but frequent features are few: draw them last.
        alive = alive[np.argsort(dots.n_dataset[alive], kind="stable")]
        scatter(alive, "fires", {"opacity": 0.85, **_by_strength(dots.n_dataset, alive, top)})
    for label in _without_overlap(labels, dots, window, height):
        chart.add_annotation(
            x=label.x,
            y=label.y,
            text=f"<b>{short(label.text, LONGEST_LABEL)}</b>",
            showarrow=False,
            font={"size": LABEL_SIZE},
            bgcolor=paper,
            borderpad=1,
        )
    for x, y in zip(*(axis[dots.feature == chosen] for axis in (dots.x, dots.y)), strict=True):
        chart.add_scatter(
            x=[x],
            y=[y],
            customdata=numbers[dots.feature == chosen],
            text=names[dots.feature == chosen].tolist(),
            mode="markers",
            showlegend=False,
            marker={
                "size": 16,
                "color": "rgba(0,0,0,0)",
                "line": {"width": 2.5, "color": "#D64550"},
            },
            hovertemplate=HOVER,
        )
    return chart


HOVER = (
    "<b>%{text}</b><br>#%{customdata[0]}: %{customdata[1]:,} samples of the anchor, "
    "%{customdata[2]:,} of the dataset<extra></extra>"
)


def _by_strength(samples: np.ndarray, rows: np.ndarray, top: int) -> dict[str, Any]:
    """A marker by the log of samples. One scale for every window: the same colour is the same
    number."""
    high = float(np.log10(max(top, 2)))
    ticks = [10**power for power in range(int(high) + 1)]
    return {
        "color": np.log10(samples[rows]).astype(np.float32),
        "colorscale": STRENGTH,
        "cmin": 0.0,
        "cmax": high,
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


def visible(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, lit: np.ndarray, window: Window | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Which points of a map are drawn, rows ascending, and which its density is of: None where each
    in the window is drawn. Above DENSE points those of most weight are, everywhere, and first what
    is lit; THINNED in all."""
    here = np.arange(len(x)) if window is None else np.flatnonzero(inside(window, x, y))
    if len(here) <= DENSE:
        return here, None
    bright = here[lit[here]][:THINNED] if not lit.all() else here[:0]
    thin = here[_thinned(x[here], y[here], weight[here])]
    rows = np.union1d(bright, thin[: max(THINNED - len(bright), 0)])
    return rows, here


def _without_overlap(
    labels: Sequence[Label], dots: Dots, window: Window | None, height: int
) -> list[Label]:
    """The first labels of which none covers another, on a map MAP_WIDTH wide."""
    if window is None:
        if not len(dots.x):
            return []
        window = (*_ends(dots.x), *_ends(dots.y))
    left, right, bottom, top = window
    scale = (MAP_WIDTH / ((right - left) or 1), height / ((top - bottom) or 1))
    boxes: list[tuple[float, float, float]] = []
    first: list[Label] = []
    for label in labels:
        if not (left <= label.x <= right and bottom <= label.y <= top):
            continue
        x, y = (label.x - left) * scale[0], (label.y - bottom) * scale[1]
        half = 0.31 * LABEL_SIZE * min(len(label.text), LONGEST_LABEL)
        # What would be cut off moves inside.
        x = min(max(x, half), MAP_WIDTH - half)
        label = label._replace(x=left + x / scale[0])
        if all(abs(x - u) > half + w or abs(y - v) > 1.6 * LABEL_SIZE for u, v, w in boxes):
            boxes.append((x, y, half))
            first.append(label)
        if len(first) == MOST_LABELS:
            break
    return first


def _ends(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


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
