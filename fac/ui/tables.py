"""Tables a page at a time, and what a person chose on a table or a figure."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import streamlit as st

from fac.ui.text import Row
from fac.ui.views import set_param

PAGE = 50
"""Rows of a table sent to the browser at a time."""

BELIEF = """
How far a gap can be believed.

**artefact**: the anchor itself barely fires; its highest peak is under 1.1 of the threshold.

**borderline**: with more than 5 % probability a dataset of this size would show none by luck, or
its own nearest miss reaches 90 % of the threshold.

**robust**: neither luck nor a near miss explains it.
"""

BADGES: dict[str, tuple[str, Any]] = {
    "robust": (":material/verified:", "green"),
    "borderline": (":material/help:", "orange"),
    "artefact": (":material/blur_on:", "gray"),
}
"""Icon and colour of each degree of belief."""

_number, _text = st.column_config.NumberColumn, st.column_config.TextColumn
_COLUMNS = {
    "feature": _number("#", width=56, format="%d"),
    "label": _text("Peaks on", width=120),
    "explanation": _text("Explanation", width=200, help="The preferred one of each feature."),
    "score": _number(
        "Score",
        width=66,
        format="%.2f",
        help="Of the explanation, on held-out samples: AUROC or detection, 0.5 is guessing.",
    ),
    "n_samples": _number("Samples", width=76, format="localized"),
    "density": st.column_config.ProgressColumn(
        "Share", width=120, format="percent", min_value=0, max_value=1
    ),
    "max_peak": _number("Peak", width=70, format="%.2f"),
    "peak": _number("Here", width=70, format="%.2f", help="Its peak in this text."),
    "n_anchor": _number(
        "Anchor", width=66, format="localized", help="Samples of the anchor that show it."
    ),
    "expected": _number(
        "Expected",
        width=78,
        format="%.1f",
        help="Samples that would show it here, if this dataset were like the anchor.",
    ),
    "chance": _number(
        "Luck",
        width=62,
        format="percent",
        help="Probability that a dataset of this size shows none, by luck alone.",
    ),
    "near": _number(
        "Near",
        width=62,
        format="percent",
        help="How close the dataset's own nearest miss comes to firing.",
    ),
    "badge": _text("Belief", width=90, help=BELIEF),
    "name": _text("Dataset", width=190),
    "coefficient": _text("Coefficient", width=180),
    "pair": _text("Who", width=190),
    "value": _number("Value", width=70, format="%.3f"),
    "interval": _text("95 % interval", width=100),
    "n": _number("n", width=56, format="localized"),
    "n_items": _number("Items", width=52, format="localized", help="Rated by two or more."),
    "n_ratings": _number("Ratings", width=64, format="localized", help="Of those items."),
    "estimate": _text("Estimate", width=82),
    "raw": _text("Raw", width=90, help="How often they agree."),
    "kappa": _text("Kappa", width=90, help="Cohen's kappa."),
    "alpha": _text("Alpha", width=90, help="Krippendorff's alpha, ordinal."),
    "ac2": _text("AC2", width=90, help="Gwet's AC2."),
    "level": _text("Judge says", width=100),
    "more": _number(
        "More labels", width=90, format="localized", help="For an interval of ±5 points."
    ),
    "decisions": _number("Decisions", width=80, format="localized"),
    "seconds": _number("Seconds", width=80, format="%.1f", help="Median per decision."),
    "gold": _text(
        "Settled items",
        width=110,
        help="How often they were within one level of what adjudication settled.",
    ),
    "reviewer": _text("Who", width=140),
    "model": _number("Model", width=70, format="%.2f", help="Detection by the language model."),
    "state": _text("State", width=110),
    "duplicates": _number("Duplicates", width=90, format="localized"),
    "n_rejected": _number("Refused", width=90, format="localized"),
    "created": st.column_config.DatetimeColumn("Added", format="distance"),
    "line": _number("Line", width=70, format="%d"),
    "reason": _text("Why", width="large"),
    "verdict": _text("Verdict", width=120),
    "text": _text("Text", width="large"),
    "g": _number("Peak", width=64, format="%.2f", help="Of its own gap, 0 where silent."),
    "place": _number("Place", width=58, help="Among the texts of its gap that pass."),
    "n_hits": _number("Gaps", width=58, help="Gaps of these pairs that it fires at all."),
    "style": _text("Style", width=90, help="How it was asked for."),
    "what": _text("Spent", width=150),
    "total": _text("In all", width=90),
    "per_kept": _text("Per kept sample", width=120),
    "per_gap": _text("Per gap filled", width=110),
    "per_feature": _text(
        "Per new feature", width=120, help="Features that the dataset lacked, asked for or not."
    ),
    "approver": _text("Approved by", width=130),
    "positive_peak": _number("Fires", width=64, format="%.2f", help="Peak of the positive."),
    "negative_peak": _number("Twin", width=64, format="%.2f", help="Peak of the negative."),
}
"""How a quantity looks in every table that shows it."""


ROW_HEIGHT = 35
"""Pixels of a row of st.dataframe."""


_one_at_a_time = threading.Lock()


def table(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    key: str,
    opens: str | None = None,
    id_column: str = "feature",
    height: int = 420,
    ticked: Ticked | None = None,
) -> None:
    """One page of rows, at most `height` pixels high; choosing one keeps its id as `opens`.

    With `ticked`, rows have a box to tick and a click on a cell opens its row. Ids are kept, not
    the rows' numbers: the same number is another feature once a person sorts.
    """
    # Streamlit imports it when the first table is drawn; two sessions at once would get half of it.
    with _one_at_a_time:
        importlib.import_module("pandas")
    data = {name: [_brief(name, row.get(name)) for row in rows] for name in columns}
    shown = {name: _COLUMNS[name] for name in columns}
    options: dict[str, Any] = {"hide_index": True, "column_config": shown}
    options["height"] = height if ROW_HEIGHT * (len(rows) + 1) > height else "auto"
    if opens is None:
        st.dataframe(data, key=key, **options)
        return
    ids = [row[id_column] for row in rows]
    # Other rows are another table: a stale selection would point at the wrong one.
    key = f"{key}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:8]}"
    if ticked is not None:
        rows_ticked = [number for number, each in enumerate(ids) if each in ticked.ids]
        key = f"{key}-{ticked.times}"
        st.dataframe(
            data,
            key=key,
            on_select=partial(_tick_or_open, key, opens, ids, ticked.ids),
            selection_mode=["multi-row", "single-cell"],
            selection_default={"selection": {"rows": rows_ticked, "columns": [], "cells": []}},
            **options,
        )
        return
    st.dataframe(
        data,
        key=key,
        on_select=partial(_open_row, key, opens, ids),
        selection_mode="single-row",
        **options,
    )


_DECIMALS = {"near": 2, "chance": 3, "density": 3}


def _brief(name: str, value: Any) -> Any:
    """A ratio without the decimals that nobody reads in a percentage; no text as nothing."""
    if name == "explanation":
        return value or ""
    return round(value, _DECIMALS[name]) if name in _DECIMALS and value is not None else value


def _open_row(key: str, name: str, ids: Sequence[Any]) -> None:
    if chosen := st.session_state[key]["selection"]["rows"]:
        set_param(name, ids[chosen[0]])


def _tick_or_open(key: str, name: str, ids: Sequence[Any], ticked: set[Any]) -> None:
    chosen = st.session_state[key]["selection"]
    ticked.difference_update(ids)
    ticked.update(ids[number] for number in chosen["rows"])
    for number, _ in chosen["cells"]:
        set_param(name, ids[number])


class Ticked(NamedTuple):
    """What is ticked in a table, on whichever of its pages."""

    ids: set[Any]
    """Lives in the session and changes there."""
    times: int
    """How often everything was unticked: each time the table starts anew."""


def ticked(name: str, *what: object) -> Ticked:
    """The ticks of a table of that name. Whatever decides which rows there are belongs into `what`:
    other rows begin with none."""
    kept = st.session_state.get(f"ticked {name}")
    if kept is None or kept[0] != repr(what):
        kept = st.session_state[f"ticked {name}"] = (repr(what), Ticked(set(), 0))
    return kept[1]


def untick(name: str) -> None:
    """Takes all ticks of a table away."""
    what, before = st.session_state[f"ticked {name}"]
    st.session_state[f"ticked {name}"] = (what, Ticked(set(), before.times + 1))


class Pager:
    """Which page of a list a person is on. Ask for `offset`, show the rows, then `draw` it below.

    Whatever decides which rows there are belongs into `what`: other rows start at page one.
    """

    def __init__(self, name: str, *what: object, size: int = PAGE):
        digest = hashlib.sha256(repr(what).encode()).hexdigest()[:8]
        self.key = f"{st.session_state.get('page', '')}.{name}.{digest}"
        self.size = size
        self.offset = (st.session_state.get(self.key, 1) - 1) * size

    def draw(self, total: int, noun: str, rest: str = "") -> None:
        """How many there are, and the numbers of the pages where there is more than one."""
        count = max(1, -(-total // self.size))
        words = f"{total:,} {noun}{'' if total == 1 else 's'} {rest}"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(words, width="stretch")
            if count > 1:
                st.pagination(count, key=self.key)


def point_id(data: Any) -> int:
    """The feature of a chosen point, whose customdata is an id or starts with one."""
    return int(data[0] if isinstance(data, list | tuple) else data)


def selected_points(event: Any) -> list[Any]:
    """`customdata` of the points chosen on a figure."""
    return [point["customdata"] for point in event["selection"]["points"] if "customdata" in point]
