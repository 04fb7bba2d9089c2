"""Views that live in the URL, and the small things every page is made of.

A view parameter (which run, which feature, which threshold) is kept in the session under its own
name and shown in the URL, so that it travels from page to page and a link shows the same thing.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import streamlit as st

from fac.errors import FacError, Refused, plainly
from fac.questions.comparison import Certainty
from fac.questions.outlook import Outlook
from fac.ui.text import clean, plain

T = TypeVar("T")

CHART = {"displayModeBar": False}
"""Plotly options of charts that are looked at; maps that are worked with keep their tools."""


AS_NOTE: Any = {"delta_color": "off", "delta_arrow": "off"}
"""Options of a metric whose change is no change but a word about it."""

ANNOUNCED = "announcements"
"""Where sentences wait in the session until the page shows them."""

LATE = 2.0
"""Seconds in which a widget may still send the value it had before another one changed it."""


@contextmanager
def guard() -> Iterator[None]:
    """A FacError, or what the disk refuses, becomes its sentence; around a page, and as a decorator
    below `st.fragment`. What is to be announced runs the whole page anew: whoever shows something
    in a callback of a fragment has it put over the first elements of the page (Streamlit 1.67)."""
    if st.session_state.get(ANNOUNCED):
        st.rerun()
    try:
        with plainly():
            yield
    except FacError as error:
        st.error(plain(str(error)), icon=":material/error:")


def announce() -> None:
    """Shows what waits to be announced, as the page begins and as it ends."""
    for sentence in st.session_state.pop(ANNOUNCED, ()):
        st.toast(plain(sentence), icon=":material/schedule:")


def param_widget(
    name: str,
    default: T,
    *,
    read: Callable[[str], T] = str,  # type: ignore[assignment]
    valid: Callable[[T], bool] = lambda value: True,
    of_page: bool = False,
) -> dict[str, Any]:
    """Keyword arguments that tie a widget to the query parameter `name` on whatever page it is, or
    on this page alone.

    Streamlit's own `bind="query-params"` forgets a parameter that two pages share when a link
    passes it from one to the other (1.67), and such links are how people move here.
    """
    value = get_param(name, default, read=read, valid=valid, of_page=of_page)
    return tied(name, value, of_page=of_page)


def tied(name: str, value: object, part: str = "", *, of_page: bool = False) -> dict[str, Any]:
    """Keyword arguments of one of several widgets that show the parameter `name`: it stands at
    `value`, and what a person chooses in it the parameter takes on. None chosen is the default."""
    key = f"{st.session_state.get('page', '')}.{name}{part}"
    if st.session_state.get(key) != value:
        if key in st.session_state:
            st.session_state[f"{key} was"] = (st.session_state[key], time.monotonic())
        st.session_state[key] = value
    is_new = _unlike(name, key, value, of_page)

    def change() -> None:
        # Who moves one widget fast sends along what the others showed before they were told.
        stale, at = st.session_state.get(f"{key} was", (None, -math.inf))
        if is_new() and (st.session_state[key] != stale or time.monotonic() - at > LATE):
            set_param(name, st.session_state[key], of_page)

    return {"key": key, "on_change": change}


def _unlike(name: str, key: str, value: object, of_page: bool) -> Callable[[], bool]:
    """Whether the widget of that key, which shows `value` now, has another by the time one asks.

    What a browser sends after its widgets are gone, as a fragment does that runs every second,
    Streamlit takes for changes (1.67). Set anew it would stand in the address that the browser had
    then, without what was added since, and that is where the address would stay.
    """
    view_key = _view_key(name, of_page)
    kept = st.session_state.get("view", {}).get(view_key)

    def is_new() -> bool:
        since = st.session_state.get("view", {}).get(view_key)
        return bool(st.session_state[key] != value or since != kept)

    return is_new


def param_multiselect(
    label: str, name: str, options: Sequence[str], *, of: str, **how: Any
) -> tuple[list[str], list[str]]:
    """What is chosen among `options`, as the address of this page has it, separated by commas; and
    what it has beside them. `of` says what the options belong to: of another they are others."""
    texts = [text for text in get_param(name, "", of_page=True).split(",") if text]
    chosen = [text for text in texts if text in options]
    key = f"{st.session_state.get('page', '')}.{name} of {of}"
    if st.session_state.get(key) != chosen:
        st.session_state[key] = chosen
    is_new = _unlike(name, key, chosen, True)

    def change() -> None:
        if is_new():
            set_param(name, ",".join(st.session_state[key]) or None, True)

    st.multiselect(label, options, key=key, on_change=change, **how)
    return chosen, [text for text in texts if text not in options]


def get_param(
    name: str,
    default: T,
    *,
    read: Callable[[str], T] = str,  # type: ignore[assignment]
    valid: Callable[[T], bool] = lambda value: True,
    of_page: bool = False,
) -> T:
    """The value of a view parameter: from the URL, else as it was left on any page, or on this one
    where it is `of_page` alone, else the default."""
    view, key = st.session_state.setdefault("view", {}), _view_key(name, of_page)
    text = st.query_params.get(name)
    if text is not None and text != str(view.get(key)):
        with suppress(ValueError):
            view[key] = read(text)
    if key in view and not valid(view[key]):
        with suppress(ValueError):  # it may go by another name by now
            view[key] = read(str(view[key]))
    if key not in view or not valid(view[key]):
        return default
    if view[key] != default and text is None:
        st.query_params[name] = str(view[key])
    return view[key]


def view_param(name: str, default: T) -> T:
    """The value of a view parameter as it was left on any page; the address stays as it is."""
    value: T = st.session_state.get("view", {}).get(name, default)
    return value


def set_param(name: str, value: object, of_page: bool = False) -> None:
    """Sets a view parameter, here and in the URL; None forgets it."""
    view, key = st.session_state.setdefault("view", {}), _view_key(name, of_page)
    if value is None:
        view.pop(key, None)
        if name in st.query_params:
            del st.query_params[name]
    else:
        view[key] = value
        st.query_params[name] = str(value)


def _view_key(name: str, of_page: bool) -> str:
    return f"{st.session_state.get('page', '')}.{name}" if of_page else name


def choice(
    label: str,
    options: Sequence[str],
    name: str,
    *,
    names: Mapping[str, str] | None = None,
    default: str = "",
    **more: Any,
) -> str:
    """One of a few, all visible; the first is the default where no other is named."""
    titles = names or {}
    return st.segmented_control(
        label,
        options,
        required=True,
        format_func=lambda option: titles.get(option, option.capitalize()),
        **param_widget(name, default or options[0], valid=lambda value: value in options),
        **more,
    )


def picked(label: str, options: Sequence[str], name: str, **more: Any) -> str:
    """One of several, in a list that opens; the first is the default."""
    tie = param_widget(name, options[0], valid=lambda value: value in options)
    return st.selectbox(label, options, format_func=str.capitalize, **tie, **more)


def order(names: Mapping[str, str], name: str, *, width: int = 190) -> str:
    """What a table is sorted by; the first is the default."""
    first = next(iter(names))
    return st.selectbox(
        "Order",
        list(names),
        format_func=names.__getitem__,
        width=width,
        **param_widget(name, first, valid=lambda value: value in names),
    )


def search(name: str = "q") -> str:
    """A box for part of a token or a feature's number."""
    return st.text_input(
        "Search", placeholder="A token, or #12", icon=":material/search:", **param_widget(name, "")
    )


def empty(title: str, text: str, *, icon: str, page: str | None = None, link: str = "") -> None:
    """An empty state: what is missing, and the one thing to do about it."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.space("small")
        st.markdown(f"### {icon} {title}", text_alignment="center", width="content")
        st.markdown(text, text_alignment="center", width="content")
        if page:
            st.page_link(file_of(page), label=link, icon=":material/arrow_forward:")
        st.space("small")


def link(
    page: str, label: str, *, icon: str = ":material/arrow_forward:", help: str = "", **view: str
) -> None:
    """A link to a page, by the stem of its file, in a certain view."""
    st.page_link(
        file_of(page), label=label, icon=icon or None, help=help or None, query_params=view
    )


def action_button(label: str, icon: str, action: Any, *args: Any, **options: Any) -> None:
    """A button that does something before the page runs again; `icon` is a Material symbol. What is
    refused meanwhile is announced."""
    symbol = f":material/{icon}:" if icon else None
    st.button(label, icon=symbol, on_click=_or_announce, args=(action, *args), **options)


def _or_announce(action: Any, *args: Any) -> None:
    try:
        action(*args)
    except Refused as refusal:
        st.session_state.setdefault(ANNOUNCED, []).append(str(refusal))


def file_of(page: str) -> str:
    """The file of a page by its stem, as Streamlit names pages."""
    return f"pages/{page}.py"


def cards(*numbers: tuple[str, str, str] | tuple[str, str, str, str | None]) -> None:
    """A row of bordered figures: (label, value, one-line definition and, if any, the change)."""
    with st.container(horizontal=True, gap="small"):
        for label, value, meaning, *delta in numbers:
            change = delta[0] if delta else None
            st.metric(label, value, change, help=meaning, border=True, height="stretch")


def share(value: float) -> str:
    """A ratio as people read it; a dash where it is undefined."""
    return "–" if value != value else f"{value:.1%}"


def lead(outlook: Outlook) -> None:
    """The sentence that a page about a comparison begins with, and what to do."""
    st.html(f'<p class="fac-lead">{html.escape(clean(outlook.headline))}</p>')
    if outlook.advice:
        st.caption(plain(outlook.advice))


def ends_of(doubt: Certainty) -> dict[str, tuple[float, float] | None]:
    """The ends of the `interval` and of the `yardstick`, as charts of FAC take them: None where
    they are not defined."""
    interval, yardstick = doubt.interval, doubt.yardstick
    ends = {
        "interval": (interval.low, interval.high),
        "yardstick": (yardstick.low, yardstick.high),
    }
    return {name: None if math.isnan(low) else (low, high) for name, (low, high) in ends.items()}


def doubt_words(doubt: Certainty) -> str:
    """How far FAC can be believed, as Markdown: its interval, the yardstick, what is left out."""
    ends, sentences = ends_of(doubt), []
    if (interval := ends["interval"]) and interval[0] < interval[1]:
        sentences.append(f"95 % interval: {_from_to(interval)}.")
    if yardstick := ends["yardstick"]:
        sentences.append(
            f"Random text of this size, like the anchor's, would cover {_from_to(yardstick)}; this "
            f"dataset reaches {100 * doubt.yardstick.share:.1f}\xa0% of its median."
        )
    return plain(" ".join([*sentences, doubt.note]).strip())


def _from_to(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def points(difference: float) -> str | None:
    """A difference of two shares, in percentage points."""
    return None if difference != difference else f"{100 * difference:+.1f} points"
