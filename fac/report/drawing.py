"""The map of an anchor's features as one drawing: dots by what a comparison says of each, families
named on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fac.questions.comparison import Comparison
from fac.questions.families import UNNAMED, GapFamilies
from fac.questions.feature_map import STANDINGS, FeatureMap, feature_map, map_run, standings
from fac.store import Stores

WIDTH, HEIGHT = 1000, 560
"""Of the drawing, in steps that two dots are apart at least: what falls on another is one."""

MOST_LABELS, ROOM, LINE = 12, 9, 24
"""Families that are named, and the steps that a character and a line take."""

LONGEST = 28
"""Characters of a name."""


class Dots(NamedTuple):
    """Features of which a comparison says the same."""

    standing: str
    """One of STANDINGS; `kind` is its place among them."""
    kind: int
    n: int
    path: str
    """Of an SVG: a dot a feature, drawn as a line without length."""


class Label(NamedTuple):
    """The name of a family, where the middle of its features lies as shares of the width and of the
    height."""

    text: str
    x: float
    y: float
    anchor: str
    """Whether it starts there, has its middle there or, near the right edge, its end."""


class Drawing(NamedTuple):
    """A map."""

    dots: list[Dots]
    """Gaps last, so that they lie on top."""
    labels: list[Label]
    """Families with the most certain gaps first; none covers another."""
    note: str


def drawing(stores: Stores, comparison: Comparison, families: GapFamilies | None) -> Drawing | None:
    """The map with the families of gaps named on it; None where no run laid it out."""
    run = map_run(stores, comparison)
    if run is None:
        return None
    whole = feature_map(stores, run)
    if not len(whole.feature):
        return None
    standing = standings(stores, comparison)[whole.feature]
    x, y = (_steps(whole.x, WIDTH), _steps(-whole.y, HEIGHT))  # up is less in a drawing
    dots = []
    for kind in (3, 0, 1, 2):
        rows = standing == kind
        if rows.any():
            places = np.unique(np.stack([x[rows], y[rows]], axis=1), axis=0).tolist()
            path = "".join(f"M{across} {down}h0" for across, down in places)
            dots.append(Dots(STANDINGS[kind], kind, int(rows.sum()), path))
    return Drawing(dots, _labels(whole, families, x, y), whole.note)


def _steps(values: np.ndarray, size: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    edge = size // 25
    share = (values - low) / ((high - low) or 1.0)
    return (edge + share * (size - 2 * edge)).round().astype(int)


def _labels(
    whole: FeatureMap, families: GapFamilies | None, x: np.ndarray, y: np.ndarray
) -> list[Label]:
    labels: list[Label] = []
    boxes: list[tuple[float, float, float]] = []
    for row in families.rows if families else []:
        members = whole.family == row["family"]
        if row["name"] == UNNAMED or not members.any():
            continue
        text = row["name"] if len(row["name"]) <= LONGEST else row["name"][: LONGEST - 1] + "…"
        across, down = float(np.median(x[members])), float(np.median(y[members]))
        anchor, left = "middle", across - ROOM * len(text) / 2
        if across < WIDTH / 3:
            anchor, left = "start", across
        elif across > 2 * WIDTH / 3:
            anchor, left = "end", across - ROOM * len(text)
        right = left + ROOM * len(text)
        if all(right < begin or left > end or abs(down - v) > LINE for begin, end, v in boxes):
            boxes.append((left, right, down))
            labels.append(Label(text, across / WIDTH, down / HEIGHT, anchor))
        if len(labels) == MOST_LABELS:
            break
    return labels
