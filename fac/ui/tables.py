"""Tables a page at a time, and what a person chose on a table or a figure."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import wrap
from typing import Any, NamedTuple
from unicodedata import east_asian_width

import streamlit as st

from fac.errors import InputError
from fac.markup import clean
from fac.questions.gaps import COLUMNS, GapColumn
from fac.ui.text import Row
from fac.ui.views import set_param

PAGE_ROWS = 50
"""Rows of a table sent to the browser at a time."""

_number, _text = st.column_config.NumberColumn, st.column_config.TextColumn
_COLUMNS: dict[str, Any] = {
    "n_samples": _number("Samples", width=76, format="localized"),
    "density": st.column_config.ProgressColumn(
        "Share", width=120, format="percent", min_value=0, max_value=1
    ),
    "max_peak": _number("Peak", width=70, format="%.2f"),
    "peak": _number("Here", width=70, format="%.2f", help="Its peak in this text."),
    "dataset": _text("Dataset", width=190),
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
    "alpha": _text("Alpha", width=90, help="Krippendorff's alpha; ordinal where levels have one."),
    "ac1": _text("AC1", width=90, help="Gwet's AC1."),
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
    "own_peak": _number(
        "Own words", width=82, format="%.2f", help="The peak of its own gap on its own words."
    ),
    "texts": _number("Texts", width=58, format="localized", help="That were written for it."),
    "along": _text("Covered", width=120, help="By a sample that was written for another gap."),
    "outcome": _text("Best text", width=140, help="Why the one that fires most was dropped."),
    "before": _number("Before", width=76, format="%.1f %%", help="Share of samples that show it."),
    "after": _number("With them", width=86, format="%.1f %%", help="The same with what is kept."),
    "asked": _text("Asked for", width=86, help="Whether it is a gap of these pairs."),
    "place": _number("Place", width=58, help="Among the texts of its gap that pass."),
    "n_hits": _number(
        "Gaps", width=58, help="Gaps of these pairs that it fires above the threshold."
    ),
    "n_gains": _number(
        "Adds",
        width=58,
        help="Of these, gaps that no better kept text covers: `gains` of its row in an export.",
    ),
    "style": _text("Style", width=90, help="How it was asked for."),
    "what": _text("Spent", width=135),
    "total": _text("In all", width=76),
    "per_kept": _text("Per kept sample", width=112),
    "per_gap": _text(
        "Per newly covered gap",
        width=142,
        help="Gaps that the dataset did not show, and shows with what is kept.",
    ),
    "per_feature": _text(
        "Per new feature", width=112, help="Features that the dataset lacked, asked for or not."
    ),
    "synthesis": _text("Synthesis", width=250),
    "looked": _text("Looked at", width=90, help="Kept samples that somebody decided on."),
    "share": _text("Share kept", width=90, help="Of those looked at, as written or edited."),
    "kept": _number("Kept", width=60, format="localized"),
    "edited": _number("Edited", width=70, format="localized", help="Kept as a person edited them."),
    "dropped": _number("Dropped", width=80, format="localized"),
    "wrong_label": _number("Wrong label", width=90, format="localized"),
    "disagreed": _number("Disagreed", width=90, format="localized", help="People differ."),
    "people": _text("By whom", width=120),
    "approver": _text("Approved by", width=130),
    "so_far": _text("So far", width=110, help="What was made for it before."),
    "was": _text("Before", width=90, help="Features that are shown, of those that count."),
    "is": _text("After", width=90, help="The same afterwards."),
    "change": _text("Change", width=70),
    "family_name": _text("Family", width=190, help="What its features peak on."),
    "size": _number("Features", width=74, format="localized", help="Of it that are on the map."),
    "covered": _number("Covered", width=70, format="localized", help="That the dataset shows."),
    "under": _number(
        "Too rare",
        width=70,
        format="localized",
        help="That it shows, but significantly too rarely.",
    ),
    "missing": _number("Missing", width=70, format="localized", help="That it does not show."),
    "certain": _number("Certain", width=66, format="localized", help="Gaps that are certain."),
    "possible": _number("Possible", width=70, format="localized", help="Gaps that may be chance."),
    "second": _text("Second opinion", width=110, help="What another SAE says of it."),
    "r": _number("r", width=54, format="%.2f", help="The highest with a feature of the other SAE."),
    "partner_name": _text("Partner there", width=170, help="The feature that is most like it."),
    "partner_n_anchor": _number("Anchor, there", width=96, format="localized"),
    "partner_n_dataset": _number("Here, there", width=86, format="localized"),
    "dropped_row": _text("Left out", width=76, help="Rows that you dropped."),
    "n_tokens": _number("Tokens", width=66, format="localized"),
    "n_fills": _number("Fills", width=58, format="localized", help="Gaps, when it was taken."),
    "positive_peak": _number("Fires", width=64, format="%.2f", help="Peak of the positive."),
    "negative_peak": _number(
        "Silent", width=64, format="%.2f", help="Peak of the most similar text that stays silent."
    ),
}
"""How a quantity looks in every table that shows it, beside those that gaps have."""


def _of_gaps(column: GapColumn) -> Any:
    if column.kind == "text":
        return _text(column.title, width=column.width, help=column.help)
    return _number(column.title, width=column.width, help=column.help, format=column.format)


_COLUMNS |= {column.name: _of_gaps(column) for column in COLUMNS}
_DECIMALS = {"density": 3, **{c.name: c.decimals for c in COLUMNS if c.decimals is not None}}


def column_config(names: Sequence[str]) -> dict[str, Any]:
    """How these columns look. Raises InputError for one that nothing is said about."""
    if lacking := [name for name in names if name not in _COLUMNS]:
        raise InputError(
            f"No table says how the column {', '.join(lacking)} looks: give it a title and a width "
            "in fac/ui/tables.py, or in fac/questions/gaps.py if it is about gaps."
        )
    return {name: _COLUMNS[name] for name in names}


ROW_HEIGHT = 35
"""Pixels of a row of st.dataframe."""

TALL_ROW, TALL_LINES, MOST_LINES = 84, 4, 7
"""Pixels of one with TALL_LINES lines of text: st.dataframe breaks lines in rows of more than 4
rem. A page of rows with longer texts has higher ones, up to MOST_LINES."""

LINE, LETTER, MARGIN = 18.2, 5.9, 16
"""Pixels of a line and of a letter in them, on the safe side, and of what is free of a cell."""


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
    tall: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    """One page of rows, at most `height` pixels high, `tall` ones where texts are to be read in
    their cells, in which what is too long ends in "…"; choosing one keeps its id as `opens`.

    `more` says how columns look that no other table has. With `ticked`, rows have a box to tick and
    a click on a cell opens its row. Ids are kept, not the rows' numbers: the same number is another
    feature once a person sorts.
    """
    # Streamlit imports it when the first table is drawn; two sessions at once would get half of it.
    with _one_at_a_time:
        importlib.import_module("pandas")
    data = {name: [_brief(name, row.get(name)) for row in rows] for name in columns}
    more = more or {}
    config = {**column_config([name for name in columns if name not in more]), **more}
    options: dict[str, Any] = {"hide_index": True, "column_config": config}
    options["placeholder"] = "–"  # where there is nothing: it would read None
    row_height = ROW_HEIGHT
    if tall:
        row_height = options["row_height"] = _fit(data, options["column_config"])
    options["height"] = height if ROW_HEIGHT + row_height * len(rows) > height else "auto"
    if opens is not None:
        ids = [row[id_column] for row in rows]
        # Other rows are another table: a stale selection would point at the wrong one.
        key = f"{key}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:8]}"
        if ticked is None:
            options["on_select"] = partial(_open_row, key, opens, ids)
            options["selection_mode"] = "single-row"
        else:
            key = f"{key}-{ticked.times}"
            numbers = [number for number, each in enumerate(ids) if each in ticked.ids]
            chosen = {"rows": numbers, "columns": [], "cells": []}
            options["on_select"] = partial(_tick_or_open, key, opens, ids, ticked.ids)
            options["selection_mode"] = ["multi-row", "single-cell"]
            options["selection_default"] = {"selection": chosen}
    st.dataframe(data, key=key, **options)


def _fit(data: dict[str, list[Any]], config: Mapping[str, Any]) -> int:
    """Shortens texts to what MOST_LINES hold; the pixels of a row that holds every one of them."""
    most = TALL_LINES
    for name, column in config.items():
        if column["type_config"]["type"] != "text":
            continue
        for row, cell in enumerate(data[name]):
            text = " ".join((cell or "").split())
            lines = _lines(text, (column["width"] - MARGIN) / LETTER)
            most = max(most, min(len(lines), MOST_LINES))
            if len(lines) > MOST_LINES:
                beyond = text.index(lines[MOST_LINES], sum(map(len, lines[:MOST_LINES])))
                data[name][row] = f"{text[:beyond].rstrip()} …"
    return round(TALL_ROW + (most - TALL_LINES) * LINE)


def _lines(text: str, letters: float) -> list[str]:
    """A text broken into lines of so many letters; of two such where they are wide, as Chinese ones
    are."""
    wide = sum(east_asian_width(letter) in "WF" for letter in text)
    return wrap(text, int(letters / (1 + wide / (len(text) or 1))), break_on_hyphens=False)


def _brief(name: str, value: Any) -> Any:
    """A ratio without the decimals that nobody reads in a percentage; no text as nothing; a text
    with what cannot be seen shown."""
    if isinstance(value, str):
        value = clean(value)
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
    rows, ticks = st.session_state.get(f"ticked {name}", (None, None))
    if rows != repr(what):
        ticks = Ticked(set(), 0)
        st.session_state[f"ticked {name}"] = (repr(what), ticks)
    return ticks


def untick(name: str) -> None:
    """Takes all ticks of a table away."""
    what, before = st.session_state[f"ticked {name}"]
    st.session_state[f"ticked {name}"] = (what, Ticked(set(), before.times + 1))


class Pager:
    """Which page of a list a person is on. Ask for `offset`, show the rows, then `draw` it below.

    Whatever decides which rows there are belongs into `what`: other rows start at page one.
    """

    def __init__(self, name: str, *what: object, size: int = PAGE_ROWS):
        digest = hashlib.sha256(repr(what).encode()).hexdigest()[:8]
        self.key = f"{st.session_state.get('page', '')}.{name}.{digest}"
        self.size = size
        self.offset = (st.session_state.get(self.key, 1) - 1) * size

    def draw(self, total: int, noun: str, rest: str = "") -> None:
        """How many there are, and where there is more than one page which this is, and the others:
        people take a table that they can scroll for all there is."""
        count = max(1, -(-total // self.size))
        words = f"{total:,} {noun}{'' if total == 1 else 's'} {rest}"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(words, width="stretch")
            if count > 1:
                st.markdown(f"Page {self.offset // self.size + 1:,} of {count:,}", width="content")
                st.pagination(count, key=self.key)


def point_id(data: Any) -> int:
    """The feature of a chosen point, whose customdata is an id or starts with one. A browser sends
    a row of a typed array as an object with its places as keys."""
    if isinstance(data, Mapping):
        return int(data["0"])
    return int(data[0] if isinstance(data, list | tuple) else data)


def open_point(key: str) -> None:
    """Opens the feature that was chosen on the figure with this key."""
    if points := selected_points(st.session_state[key]):
        set_param("feature", point_id(points[0]))


def selected_points(event: Any) -> list[Any]:
    """`customdata` of the points chosen on a figure."""
    return [point["customdata"] for point in event["selection"]["points"] if "customdata" in point]
