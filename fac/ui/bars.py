"""Charts as HTML: those of the first page, since a new browser need not wait for Plotly's 4.7 MB,
and bars whose legend has to wrap."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fac.ui.text import clean

ROOM = "4.5rem"
"""Beside the longest bar, for its number."""

TICKS = 6
"""Numbers below a curve at most."""


def funnel_html(stages: Sequence[tuple[str, int]], missing: int) -> str:
    """From the whole dictionary to what a dataset covers, from top to bottom.

    `stages` are (name, count), each a part of the first; `missing` is the remainder of the last but
    one stage, drawn behind the last so that covered and missing share a bar.
    """
    top = max(stages[0][1], 1)
    rows = []
    for number, (name, count) in enumerate(stages):
        last = number == len(stages) - 1
        kind = "fac-shown" if last else "fac-relevant" if number == len(stages) - 2 else "fac-slate"
        parts = _bar(count, top, kind, f"{count:,}", inside=last and missing > 0)
        if last and missing:
            parts += _bar(missing, top, "fac-missed", f"{missing:,} missing", inside=True)
        share = f"{name}: {count:,} features, {count / top:.1%} of the dictionary"
        rows.append(f"{_named(name)}<div title='{html.escape(share, quote=True)}'>{parts}</div>")
    return f'<div class="fac-bars">{"".join(rows)}</div>'


def _bar(count: int, top: int, kind: str, words: str, *, inside: bool) -> str:
    """A bar with its number: in it where asked for and where the words fit, else after it."""
    width = f"width:calc((100% - {ROOM}) * {count / top:.4f})"
    if inside and count / top > 0.2:
        return f'<i class="fac-inside {kind}" style="{width}">{words}</i>'
    return f'<i class="{kind}" style="{width}"></i><b>{words}</b>'


def _named(name: str) -> str:
    return f"<span>{html.escape(clean(name))}</span>"


def fac_bars_html(rows: Sequence[Mapping[str, Any]], chosen: str) -> str:
    """FAC of several datasets against one anchor, best first, each on a track of 100 %.

    A row holds `name`, `run`, `fac`, `n_covered`, `n_anchor`; an undefined FAC is left out. Where
    it also holds an `interval` (low, high), a line across the end of the bar shows it, and a
    `yardstick` (low, high), what random text of the dataset's size reaches, stands as a band.
    """
    rows = sorted((row for row in rows if not math.isnan(row["fac"])), key=lambda r: -r["fac"])
    bars = []
    for row in rows:
        kind = "fac-shown" if row["run"] == chosen else "fac-pale"
        counts = f"{row['n_covered']:,} of {row['n_anchor']:,} features"
        marks = ""
        band, ends = row.get("yardstick"), row.get("interval")
        if band:
            counts += f"; random text of this size: {band[0]:.1%} to {band[1]:.1%}"
            marks += f'<s class="fac-band" style="{_stretch(band, 0.006)}"></s>'
        if ends:
            counts += f"; 95 % interval {ends[0]:.1%} to {ends[1]:.1%}"
            marks += f'<s class="fac-ends" style="{_stretch(ends)}"></s>'
        bars.append(
            f'{_named(row["name"])}<div title="{counts}">'
            f'<div class="fac-track" style="width:calc(100% - {ROOM})">'
            f'<i class="{kind}" style="display:block;width:{row["fac"]:.2%}"></i>{marks}</div>'
            f"<b>{row['fac']:.1%}</b></div>"
        )
    return f'<div class="fac-bars">{"".join(bars)}</div>'


def _stretch(ends: tuple[float, float], least: float = 0.0) -> str:
    """From one share of a track to another, and wide enough to be seen."""
    low, high = ends
    width = max(high - low, least)
    return f"left:{min(low, 1 - width):.2%};width:{width:.2%}"


def parts_html(parts: Sequence[tuple[str, int, str]]) -> str:
    """Counts that add up, as one bar and below it what each is: `parts` are (name, count, class
    of its colour)."""
    total = sum(n for _, n, _ in parts) or 1
    bar = "".join(
        f'<i class="{kind}" style="flex:{n}">{f"{n:,}" if n > 0.08 * total else ""}</i>'
        for _, n, kind in parts
        if n
    )
    names = "".join(
        f'<span><i class="{kind}"></i>{html.escape(clean(name))}: {n:,}</span>'
        for name, n, kind in parts
    )
    words = html.escape(", ".join(f"{clean(name)}: {n:,}" for name, n, _ in parts), quote=True)
    return (
        f'<div class="fac-parts" role="img" aria-label="{words}">{bar}</div>'
        f'<div class="fac-legend">{names}</div>'
    )


def curve_html(rows: Sequence[Mapping[str, Any]], threshold: float) -> str:
    """FAC against the activation threshold, with the threshold in use marked.

    A row holds `threshold`, `fac`, `n_anchor`, `n_missing`; rungs where FAC is undefined (the
    anchor shows nothing any more) end the line.
    """
    rows = [row for row in rows if not math.isnan(row["fac"])]
    if not rows:
        return '<div class="fac-meta">The anchor shows nothing at any threshold.</div>'
    top = max(rows[-1]["threshold"], threshold) or 1.0
    points = [(row["threshold"] / top, row["fac"]) for row in rows]
    line = [(f"{x:.2%}", f"{1 - fac:.2%}") for x, fac in points]
    below = ", ".join(f"{x} {y}" for x, y in line)
    # A line is the narrow place between itself a little higher and itself a little lower.
    above = ", ".join(f"{x} calc({y} - 1.5px)" for x, y in line)
    back = ", ".join(f"{x} calc({y} + 1.5px)" for x, y in reversed(line))
    grid = "".join(f'<hr style="bottom:{level}%">' for level in (0, 50, 100))
    rise = "".join(f'<span style="bottom:{level}%">{level}%</span>' for level in (0, 50, 100))
    step = _round_step(top)
    along = "".join(
        f'<span style="left:{n * step / top:.2%}">{n * step:g}</span>'
        for n in range(int(top / step + 1e-9) + 1)
    )
    summary = f"FAC from {rows[0]['fac']:.0%} at {rows[0]['threshold']:g} to {rows[-1]['fac']:.0%}"
    return (
        f'<div class="fac-curve" role="img" aria-label="{summary} at {rows[-1]["threshold"]:g}">'
        f'<div class="fac-rise">{rise}</div><div>{grid}'
        f'<div class="fac-area" style="clip-path:polygon({below}, {line[-1][0]} 100%, '
        f'{line[0][0]} 100%)"></div>'
        f'<div class="fac-line" style="clip-path:polygon({above}, {back})"></div>'
        f'<div class="fac-now" style="left:{threshold / top:.2%}"></div>'
        f"{_dots(rows, points)}</div>"
        f'<div class="fac-along">{along}</div><p>activation threshold</p></div>'
    )


def _dots(rows: Sequence[Mapping[str, Any]], points: Sequence[tuple[float, float]]) -> str:
    """A dot for each threshold, in a strip around it that says its numbers under the pointer."""
    edges = [0.0, *((a + b) / 2 for (a, _), (b, _) in pairwise(points)), 1.0]
    dots = []
    for row, (x, fac), left, right in zip(rows, points, edges[:-1], edges[1:], strict=True):
        width = max(right - left, 1e-6)
        side = "right" if x > 0.5 else "left"
        dots.append(
            f'<div class="fac-rung" style="left:{left:.2%};width:{width:.2%}">'
            f'<u style="left:{(x - left) / width:.2%};bottom:{fac:.2%}"></u>'
            f'<em style="{side}:0">above {row["threshold"]:g}: FAC {row["fac"]:.1%}, '
            f"{row['n_missing']:,} of {row['n_anchor']:,} missing</em></div>"
        )
    return "".join(dots)


def _round_step(top: float) -> float:
    """1, 2 or 5 times a power of ten, of which at most TICKS - 1 fit below `top`."""
    power = 10.0 ** math.floor(math.log10(top / (TICKS - 1)))
    return next(power * n for n in (1, 2, 5, 10) if top / (power * n) <= TICKS - 1)
