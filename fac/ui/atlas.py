"""The map of a dictionary: how near one looks, which features were taken on it, and the ring.

A large map is drawn thinned, so what a box or a lasso takes is found here from where it was drawn:
every feature under it counts, drawn or not. A window of the map is a part of the view and stands in
the URL; a lasso is a passing choice and lives in the session.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from fac import maps
from fac.maps import Window
from fac.ui.stores import stores, workspace
from fac.ui.tables import point_id, selected_points
from fac.ui.views import action_button, get_param, set_param

TOOLS = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}


def show_map(run: str, sae: str, feature: int | None) -> None:
    """The map coloured by the support of a measure run, with a ring round the feature."""
    window = _window()
    st.plotly_chart(
        _figure(workspace().root, run, sae, feature, window),
        key="map",
        on_select=partial(_select, sae),
        alt="Map of the dictionary's features",
        config=TOOLS,
    )
    st.caption(
        "Features whose decoder directions are alike lie together (UMAP); grey ones are silent. "
        + (
            "Shades show where they crowd, points the most common of each place. A click opens "
            "one, a box looks closer, the lasso narrows the table."
            if _large(sae)
            else "A click opens one, the lasso of the toolbar narrows the table."
        )
    )
    if window or st.session_state.get("lasso"):
        action_button("The whole map", "zoom_out_map", _everything, type="tertiary")


def features_on_map(sae: str | None) -> tuple[list[int] | None, str]:
    """The features that were taken on the map, or lie in its window, and how a count of them goes
    on; None where it is all of them."""
    if lasso := st.session_state.get("lasso"):
        return lasso, f"of the {len(lasso):,} chosen on the map"
    if sae is None or (window := _window()) is None:
        return None, ""
    x, y, feature = _places(sae)
    inside = feature[maps.inside(window, x, y)].tolist()
    return inside, f"of the {len(inside):,} in this part of the map"


def _select(sae: str) -> None:
    """One point opens a feature, a lasso narrows the table; a box does so too or, on a map too
    large to show every point, moves it closer."""
    chosen = st.session_state["map"]["selection"]
    shapes = {kind: chosen.get(kind) for kind in ("box", "lasso")}
    st.session_state["lasso"] = None
    if _large(sae) and shapes["box"]:
        (across, up) = (sorted(shapes["box"][-1][axis]) for axis in ("x", "y"))
        set_param("window", _written((across[0], across[-1], up[0], up[-1])))
    elif _large(sae) and shapes["lasso"]:
        x, y, feature = _places(sae)
        loop = shapes["lasso"][-1]
        inside = maps.encircled(loop["x"], loop["y"], x, y)
        if (window := _window()) is not None:
            inside &= maps.inside(window, x, y)
        st.session_state["lasso"] = feature[inside].tolist() or None
    else:
        ids = [point_id(data) for data in selected_points(st.session_state["map"])]
        if len(ids) == 1:
            set_param("feature", ids[0])
        st.session_state["lasso"] = ids if len(ids) > 1 else None


def _everything() -> None:
    set_param("window", None)
    st.session_state["lasso"] = None


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


def _large(sae: str) -> bool:
    return len(_places(sae)[2]) > maps.DENSE


def _places(sae: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and number of every feature."""
    points = stores().cache.points(sae)
    x, y, feature = (points[name].to_numpy() for name in ("x", "y", "feature"))
    return x, y, feature


@st.cache_resource(max_entries=8, show_spinner=False)
def _figure(
    root: Path, run: str, sae: str, feature: int | None, window: Window | None
) -> go.Figure:
    """A figure weighs a quarter of a megabyte; the same view is asked for whenever anything else
    on the page changes."""
    cache = stores(root).cache
    return maps.feature_map(
        cache.points(sae), cache.support(run, 0.0), chosen=feature, window=window
    )
