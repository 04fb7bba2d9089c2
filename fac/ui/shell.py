"""The frame around every page: menu, styles, worker, strip of jobs, blur."""

from __future__ import annotations

import ast
import pkgutil
import re
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from streamlit.navigation.page import Page

from fac import config
from fac.config import (
    EXPERIMENTS,
    EXPLAINERS,
    JUDGES,
    METHODS,
    SCORERS,
    WRITERS,
    DemoSpec,
    IngestSpec,
    MeasureSpec,
    Workspace,
)
from fac.errors import FacError, InputError
from fac.jobs import worker
from fac.manifest import DatasetManifest
from fac.questions.catalogue import comparable, default_anchor, default_dataset, measured
from fac.questions.comparison import Comparison, clear_firing, coverage, curve
from fac.questions.explanations import n_explained
from fac.questions.outlook import outlook
from fac.store.queue import Queue
from fac.ui import access
from fac.ui.jobs import demo_jobs, strip
from fac.ui.stores import stores, workspace

PAGES = config.REPOSITORY / "pages"

MARK = config.REPOSITORY / "docs" / "img" / "mark.svg"
LOGO = MARK.with_name("logo.svg")
STYLE = Path(__file__).with_name("style.css").read_text("utf-8")


class PageEntry(NamedTuple):
    """A page in the menu: what PAGE of its file says."""

    file: str
    """As Streamlit names pages."""
    title: str
    section: str
    icon: str
    """A Material symbol."""
    order: int
    """Lowest first; the first page is what the root of the site shows."""


@lru_cache(maxsize=4)
def read_pages(folder: Path = PAGES) -> tuple[PageEntry, ...]:
    """Every page of the folder in the menu's order, read from the literal PAGE of its file without
    running it. Raises InputError for a file without one or with one that lacks something."""
    entries = [_read_page(file) for file in sorted(folder.glob("[!_]*.py"))]
    return tuple(sorted(entries, key=lambda entry: entry.order))


def _read_page(file: Path) -> PageEntry:
    literals = (
        node.value
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGE"
    )
    try:
        entry = ast.literal_eval(next(literals))
        return PageEntry(f"pages/{file.name}", **entry)
    except (StopIteration, ValueError, TypeError) as error:
        raise InputError(
            f"{file} is no page of the menu: begin it with PAGE = "
            '{"title": "Coverage", "section": "Measure", "icon": "donut_large", "order": 30}.'
        ) from error


def navigation() -> Page:
    """The menu, hidden from those who may not look; returns the page a person is on.

    The browser's icon is set first: a page's own would be fetched from Google's servers.
    """
    st.set_page_config(page_icon=MARK, layout="wide")
    sections: dict[str, list[Page]] = {}
    for number, entry in enumerate(read_pages()):
        icon = f":material/{entry.icon}:"
        page = st.Page(entry.file, title=entry.title, icon=icon, default=number == 0)
        sections.setdefault(entry.section, []).append(page)
    shown: Any = "sidebar" if access.may("look") else "hidden"
    # Not expanded it hides what goes beyond a dozen.
    return st.navigation(sections, position=shown, expanded=True)


def title(text: str, **options: Any) -> None:
    """How every page begins: its headline, inside the frame.

    Streamlit runs a file of `pages/` without app.py when a link to it is the first thing a fresh
    server is asked (1.67). A page that finds no frame around it starts over with one.
    """
    if not st.session_state.pop("framed", False):
        navigation()
        access.enter()
        st.rerun()
    st.title(text, anchor=False, **options)


def frame(page_name: str) -> None:
    """What every page shares: the styles of foreign text, the worker, the strip of jobs."""
    st.session_state["page"] = page_name
    st.html(f"<style>{STYLE}</style>")
    _start(workspace().root)
    with st.sidebar:
        access.sign_out_button()
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
    """Before a browser asks: the menu, the worker, the modules of the pages, and what the first
    page is made of where there is something to show. Whatever is wrong there, the page asks the
    same again and says so. The worker is first: at a first start a person waits for its demo, and
    it starts while modules are imported here.

    Raises InputError for a page that cannot be in the menu.
    """
    read_pages()
    with suppress(FacError, OSError):
        _start(workspace().root)
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "fac.ui."):
        import_module(module.name)
    for registry in (EXPLAINERS, SCORERS, JUDGES, WRITERS, METHODS, EXPERIMENTS):
        registry.items()  # imports the parts, whose titles and order pages ask for
    with suppress(FacError, OSError):
        if manifests := measured(stores()):
            anchor = default_anchor(stores(), manifests)
            dataset = default_dataset(stores(), manifests, anchor)
            curve(stores(), Comparison(anchor, dataset))
            threshold = clear_firing(stores(), anchor)
            for run in comparable(manifests, anchor):
                coverage(stores(), Comparison(anchor, run, threshold))
            outlook(stores(), Comparison(anchor, dataset, threshold))
            n_explained(stores(), anchor)


@st.cache_resource(max_entries=8, show_spinner=False)
def _start(root: Path) -> None:
    """Once per server and workspace: a first start asks for the demo, any start for a worker.

    Streamlit puts its secrets into the environment when it reads them; the worker, which inherits
    that, finds an API key there.
    """
    st.secrets.load_if_toml_exists()
    if not stores().runs.list(MeasureSpec.step) and not demo_jobs():
        Queue(Workspace(root).queue).enqueue(DemoSpec())  # nobody who is signed in asks for it
    worker.start_worker(Workspace(root))


_TROUBLE = re.compile(r"toxic|hate|offens|harm|unsafe|nsfw|abus|slur|jailbreak", re.IGNORECASE)


def _sensitive() -> bool:
    """Whether a dataset's own labels say that its texts may hurt."""
    datasets: list[DatasetManifest] = stores().runs.list(IngestSpec.step)
    return any(_TROUBLE.search(str(label)) for each in datasets for label in each.facts.labels)
