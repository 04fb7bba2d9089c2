"""The frame around every page: menu, styles, worker, strip of jobs, blur."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import Page

from fac import config
from fac.config import DemoSpec, Workspace
from fac.jobs import worker
from fac.ui import bars, text
from fac.ui.findings import comparable, default_anchor, default_dataset, measured
from fac.ui.gaps import coverage, curve
from fac.ui.jobs import demo_jobs, strip
from fac.ui.meaning import n_explained
from fac.ui.stores import queue, runs, workspace
from fac.ui.views import (
    AGREEMENT,
    COMPARE,
    COVERAGE,
    DATASETS,
    FEATURES,
    HOME,
    JOBS,
    PAIRS,
    PLAYGROUND,
    REVIEW,
    SYNTHESIS,
)

PAGES = {
    "": {HOME: ("Home", "home")},
    "Measure": {
        DATASETS: ("Datasets", "database"),
        FEATURES: ("Features", "scatter_plot"),
        COVERAGE: ("Coverage", "donut_large"),
        COMPARE: ("Compare", "compare_arrows"),
        PLAYGROUND: ("Playground", "edit_note"),
    },
    "Decide": {
        REVIEW: ("Review", "rate_review"),
        AGREEMENT: ("Agreement", "handshake"),
    },
    "Make": {
        PAIRS: ("Pairs", "compare"),
        SYNTHESIS: ("Synthesis", "science"),
    },
    "System": {JOBS: ("Jobs", "schedule")},
}
"""Section -> file -> title and icon."""

MARK = config.REPOSITORY / "docs" / "img" / "mark.svg"
LOGO = MARK.with_name("logo.svg")


def navigation() -> Page:
    """The menu; returns the page a person is on.

    The browser's icon is set first: a page's own would be fetched from Google's servers.
    """
    st.set_page_config(page_icon=MARK, layout="wide")
    return st.navigation(
        {
            section: [
                st.Page(file, title=title, icon=f":material/{icon}:", default=file == HOME)
                for file, (title, icon) in files.items()
            ]
            for section, files in PAGES.items()
        }
    )


def title(text: str, **options: Any) -> None:
    """How every page begins: its headline, inside the frame.

    Streamlit runs a file of `pages/` without app.py when a link to it is the first thing a fresh
    server is asked (1.67). A page that finds no frame around it starts over with one.
    """
    if not st.session_state.pop("framed", False):
        navigation()
        st.rerun()
    st.title(text, anchor=False, **options)


def frame(page_name: str) -> None:
    """What every page shares: the styles of foreign text, the worker, the strip of jobs."""
    st.session_state["page"] = page_name
    st.html(f"<style>{text.STYLE}{bars.STYLE}</style>")
    _start(workspace().root)
    with st.sidebar:
        strip()
        blurred = st.toggle(
            "Blur examples",
            value=_sensitive(),
            key="blur",
            persist_state="session",
            help="Blurs every text of a dataset until the pointer rests on it.",
        )
    if blurred:
        st.html("<style>.fac-blur{filter:blur(.35rem)}.fac-blur:hover{filter:none}</style>")
    st.session_state["framed"] = True


def prepare() -> None:
    """Before a browser asks: the worker, and what the first page is made of where there is
    something to show. Whatever is wrong, the page asks the same again and says so."""
    with suppress(Exception):
        _start(workspace().root)
        if found := measured():
            anchor = default_anchor(found)
            curve(anchor, default_dataset(found, anchor))
            for run in comparable(found, anchor):
                coverage(anchor, run)
            n_explained(anchor)


@st.cache_resource(max_entries=8, show_spinner=False)
def _start(root: Path) -> None:
    """Once per server and workspace: a first start asks for the demo, any start for a worker.

    Streamlit puts its secrets into the environment when it reads them; the worker, which inherits
    that, finds an API key there.
    """
    st.secrets.load_if_toml_exists()
    place = Workspace(root)
    if not runs().list("measure") and not demo_jobs():
        queue().enqueue(DemoSpec())
    worker.start_worker(place)


_TROUBLE = re.compile(r"toxic|hate|offens|harm|unsafe|nsfw|abus|slur|jailbreak", re.IGNORECASE)


def _sensitive() -> bool:
    """Whether a dataset's own labels say that its texts may hurt."""
    labels = (label for run in runs().list("dataset") for label in run["facts"].get("labels", ()))
    return any(_TROUBLE.search(str(label)) for label in labels)
