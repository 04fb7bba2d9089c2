"""The map of features: its colours, how near one looks, what was taken on it, its families.

A large map is drawn thinned, so what a box or a lasso takes is looked up here by where it was
drawn: every feature under it counts, drawn or not. Colours, a window of the map and the family that
is lit are a part of the view and stand in the URL; a lasso is a passing choice and lives in the
session.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from fac import maps
from fac.config import digest
from fac.maps import Dots, Label, Window
from fac.questions.comparison import Comparison
from fac.questions.explanations import explained, names
from fac.questions.families import UNNAMED, family_names
from fac.questions.feature_map import (
    FeatureMap,
    families_on_map,
    feature_map,
    map_run,
    standings,
)
from fac.questions.firing import support_of
from fac.ui.families import offer
from fac.ui.stores import stores
from fac.ui.tables import Pager, point_id, selected_points, table
from fac.ui.text import plain
from fac.ui.views import action_button, choice, get_param, set_param

TOOLS = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}

COLOURS = {"coverage": "Coverage", "strength": "Strength"}

OFFER = (
    "Features that fire in the same stretch of text lie together on a map, and families of them "
    "are named on it: have it drawn once.",
    "Draw the map",
    "scatter_plot",
    "Drawing the map of the anchor's features",
)
"""Where there is no map yet."""

FAMILIES = ("family_name", "size", "covered", "under", "missing")

PAPER = {"light": "rgba(255, 255, 255, 0.75)", "dark": "rgba(16, 21, 21, 0.75)"}
"""Behind a name that lies on points."""

LABELLED = 200
"""Families of which some are named: in a window there may be none of the largest."""


def show_map(comparison: Comparison, feature: int | None, sae: str | None) -> None:
    """The map of the anchor's features as the comparison sees them, with a ring round one; where
    there is none yet, an offer to draw it."""
    run = map_run(stores(), comparison)
    if run is None:
        offer(comparison, *OFFER)
        return
    places, window = feature_map(stores(), run), _window()
    if not len(places.feature):
        st.caption(plain(f"There is nothing to lay out. {places.note}"))
        return
    by = "strength"
    if comparison.anchor not in comparison.runs:
        by = choice("Colours", tuple(COLOURS), "colour", names=COLOURS)
    lit = _lit(comparison, places, sae)
    closer = " The box there looks closer." if _large(places) else ""
    st.caption(
        ":material/touch_app: **Click** a point and its feature opens beside the map. Take the "
        "**lasso** from the tools at its top right and draw round some: the lists of features and "
        f"families below show those alone.{closer}"
    )
    st.plotly_chart(
        _drawn(comparison, run, places, by, lit, feature, window),
        key="map",
        on_select=partial(_select, places),
        alt="Map of the anchor's features",
        config=TOOLS,
    )
    large = "Shades show where they crowd, points the most common of each place. "
    st.caption(
        "Features that fire in the same stretch of text of the anchor lie together; names are "
        f"those of the largest families. {large if _large(places) else ''}{plain(places.note)}"
    )
    if window or st.session_state.get("lasso") or _topic(places) is not None:
        action_button("The whole map", "zoom_out_map", _everything, type="tertiary")


def features_on_map(comparison: Comparison) -> tuple[list[int] | None, str]:
    """The features that were taken on the map, lie in its window or are of the family that is lit,
    and how a count of them goes on; None where it is all of them."""
    run = map_run(stores(), comparison)
    if run is None:
        return None, ""
    places = feature_map(stores(), run)
    taken, words = _taken(places)
    if (topic := _topic(places)) is not None:
        members = places.family == topic if taken is None else (places.family == topic) & taken
        name = family_names(stores(), run)[topic].name
        return places.feature[members].tolist(), f"of the family “{plain(name)}”"
    if taken is None:
        return None, ""
    return places.feature[taken].tolist(), f"of the {int(taken.sum()):,} {words}"


def show_families_on_map(comparison: Comparison) -> None:
    """The families that were taken on the map, or all of them; choosing one lights it."""
    if (run := map_run(stores(), comparison)) is None:
        st.caption("Families come with the map.")
        return
    taken, words = _taken(places := feature_map(stores(), run))
    features = None if taken is None else places.feature[taken]
    rows = families_on_map(stores(), run, standings(stores(), comparison), features)
    pager = Pager("on-map", comparison, features, size=20)
    page = rows[pager.offset :][: pager.size]
    table(page, FAMILIES, key="on-map", opens="topic", id_column="family")
    pager.draw(len(rows), "family" if len(rows) == 1 else "familie", words)


def _drawn(
    comparison: Comparison,
    run: str,
    places: FeatureMap,
    by: str,
    lit: np.ndarray,
    feature: int | None,
    window: Window | None,
) -> go.Figure:
    """The figure. It weighs a quarter of a megabyte, and the same view is asked for whenever
    anything else on the page changes, so it is kept by what it shows."""
    labels = _labels(places, [each.name for each in family_names(stores(), run)])
    n_anchor, n_dataset = (
        support_of(stores(), runs, *comparison.at)
        for runs in ((comparison.anchor,), comparison.runs)
    )
    weight = n_anchor[places.feature]
    rows, shade = maps.visible(places.x, places.y, weight, lit, window)
    if (ring := np.flatnonzero(places.feature == feature)).size:
        rows = np.union1d(rows, ring)
    ids = places.feature[rows]
    by_feature = names(stores(), comparison.anchor, ids.tolist())

    def draw() -> go.Figure:
        dots = Dots(
            ids,
            places.x[rows],
            places.y[rows],
            n_anchor[ids],
            n_dataset[ids],
            standings(stores(), comparison)[ids],
            lit[rows],
            [by_feature[i] for i in ids.tolist()],
        )
        return maps.feature_map(
            dots,
            by=by,
            top=int(n_dataset.max(initial=1)),
            labels=labels,
            shade=None if shade is None else (places.x[shade], places.y[shade]),
            chosen=feature,
            window=window,
            paper=paper,
        )

    paper = PAPER.get(st.context.theme.type or "", PAPER["light"])
    content = [paper, labels, rows.tolist(), np.flatnonzero(lit).tolist(), [*by_feature.values()]]
    return _figure(digest([repr(comparison), by, feature, window, *content]), draw)


@st.cache_resource(max_entries=8, show_spinner=False)
def _figure(what: str, _draw: Callable[[], go.Figure]) -> go.Figure:
    return _draw()


def _labels(places: FeatureMap, titles: list[str]) -> list[Label]:
    """Names of families, the largest first, each at the member that is nearest to its middle."""
    labels = []
    for number, name in enumerate(titles[:LABELLED]):
        members = np.flatnonzero(places.family == number)
        if name == UNNAMED or not len(members):
            continue
        x, y = places.x[members], places.y[members]
        middle = np.hypot(x - np.median(x), y - np.median(y)).argmin()
        labels.append(Label(name, float(x[middle]), float(y[middle])))
    return labels


def _lit(comparison: Comparison, places: FeatureMap, sae: str | None) -> np.ndarray:
    """What stands out: the features of the family that is lit, and of these those that the search
    finds; bool `[n]`."""
    lit = np.ones(len(places.feature), bool)
    if (topic := _topic(places)) is not None:
        lit &= places.family == topic
    if needle := get_param("q", ""):
        texts = explained(stores(), comparison.anchor)  # as in the table below
        matches = stores().cache.matching(comparison.dataset, needle, sae_run=sae, explained=texts)
        lit &= matches[places.feature]
    return lit


def _taken(places: FeatureMap) -> tuple[np.ndarray | None, str]:
    """What the lasso holds or the window, bool `[n]`, and which it is in words; None where it is
    all of the map."""
    if lasso := st.session_state.get("lasso"):
        taken = np.isin(places.feature, lasso)
        return taken, "chosen on the map"
    if (window := _window()) is None:
        return None, ""
    taken = maps.inside(window, places.x, places.y)
    return taken, "in this part of the map"


def _select(places: FeatureMap) -> None:
    """One point opens a feature, a lasso narrows the tables; a box does so too or, on a map too
    large to show every point, moves it closer."""
    chosen = st.session_state["map"]["selection"]
    shapes = {kind: chosen.get(kind) for kind in ("box", "lasso")}
    st.session_state["lasso"] = None
    if _large(places) and shapes["box"]:
        (across, up) = (sorted(shapes["box"][-1][axis]) for axis in ("x", "y"))
        set_param("window", _written((across[0], across[-1], up[0], up[-1])))
    elif _large(places) and shapes["lasso"]:
        loop = shapes["lasso"][-1]
        inside = maps.encircled(loop["x"], loop["y"], places.x, places.y)
        if (window := _window()) is not None:
            inside &= maps.inside(window, places.x, places.y)
        st.session_state["lasso"] = places.feature[inside].tolist() or None
    else:
        ids = [point_id(data) for data in selected_points(st.session_state["map"])]
        if len(ids) == 1:
            set_param("feature", ids[0])
        st.session_state["lasso"] = ids if len(ids) > 1 else None


def _everything() -> None:
    set_param("window", None)
    set_param("topic", None)
    st.session_state["lasso"] = None


def _topic(places: FeatureMap) -> int | None:
    """The family that is lit."""
    last = int(places.family.max(initial=-1))
    number = get_param("topic", -1, read=int, valid=lambda n: -1 <= n <= last)
    return number if number >= 0 else None


def _window() -> Window | None:
    """The part of the map in view; None where it is all of it."""
    return _read(get_param("window", "", valid=lambda text: not text or _read(text) is not None))


def _read(text: str) -> Window | None:
    """left,right,bottom,top as the URL has them; None for anything else."""
    try:
        left, right, bottom, top = map(float, text.split(","))
    except ValueError:
        return None
    whole = all(map(math.isfinite, (left, right, bottom, top)))
    return (left, right, bottom, top) if whole and left < right and bottom < top else None


def _written(window: Window) -> str:
    return ",".join(f"{value:.4g}" for value in window)


def _large(places: FeatureMap) -> bool:
    return len(places.feature) > maps.DENSE
