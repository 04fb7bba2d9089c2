"""What several pages need: handles, pickers that live in the URL, the job strip, the highlighter.

Owns: everything Streamlit in this package, the escaping of foreign text, how work is started.
Does not own: what a number means (coverage, compare) or what a figure looks like (charts).

Texts of a dataset are hostile. They reach the browser in two ways only: through `html.escape` into
`st.html`, or through `plain` into something that Streamlit reads as Markdown.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import streamlit as st
from streamlit.navigation.page import Page

from fac import compare, config, jobs
from fac.config import DemoSpec, MeasureSpec, ProbeSpec, Spec, Workspace
from fac.errors import FacError
from fac.schema import EVERY_ROLE, CoverageResult
from fac.store.cache import Cache
from fac.store.queue import Job, Queue
from fac.store.runs import Runs

T = TypeVar("T")
Row = dict[str, Any]

PAGE = 50
"""Rows of a table sent to the browser at a time."""

HOME = "pages/home.py"
DATASETS = "pages/datasets.py"
FEATURES = "pages/features.py"
COVERAGE = "pages/coverage.py"
COMPARE = "pages/compare.py"
PLAYGROUND = "pages/playground.py"
JOBS = "pages/jobs.py"

PAGES = {
    "": {HOME: ("Home", "home")},
    "Measure": {
        DATASETS: ("Datasets", "database"),
        FEATURES: ("Features", "scatter_plot"),
        COVERAGE: ("Coverage", "donut_large"),
        COMPARE: ("Compare", "compare_arrows"),
        PLAYGROUND: ("Playground", "edit_note"),
    },
    "System": {JOBS: ("Jobs", "schedule")},
}
"""Section -> file -> title and icon."""

MARK = config.REPOSITORY / "docs" / "img" / "mark.svg"
LOGO = MARK.with_name("logo.svg")

CHART = {"displayModeBar": False}
"""Plotly options of charts that are looked at; maps that are worked with keep their tools."""


# --- handles ----------------------------------------------------------------------------------


@st.cache_resource(max_entries=8, show_spinner=False)
def _handles(root: Path) -> tuple[Runs, Cache, Queue]:
    place = Workspace(root)
    return Runs(place), Cache(place.cache), Queue(place.queue)


def workspace() -> Workspace:
    return config.workspace()


def runs() -> Runs:
    return _handles(workspace().root)[0]


def cache() -> Cache:
    return _handles(workspace().root)[1]


def queue() -> Queue:
    return _handles(workspace().root)[2]


# --- the frame --------------------------------------------------------------------------------


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


@contextmanager
def guard() -> Iterator[None]:
    """A FacError becomes its sentence; around a page, and as a decorator below `st.fragment`."""
    try:
        yield
    except FacError as error:
        st.error(plain(str(error)), icon=":material/error:")


def frame(page_name: str) -> None:
    """What every page shares: the styles of foreign text, the worker, the strip of jobs."""
    st.session_state["page"] = page_name
    st.html(f"<style>{_STYLE}</style>")
    _start(workspace().root)
    with st.sidebar:
        _strip()
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


@st.cache_resource(max_entries=8, show_spinner=False)
def _start(root: Path) -> None:
    """Once per server and workspace: a first start asks for the demo, any start for a worker."""
    place = Workspace(root)
    if not runs().list("measure") and not _demo_jobs():
        queue().enqueue(DemoSpec())
    jobs.start_worker(place)


def _demo_jobs() -> list[Job]:
    return [job for job in queue().jobs() if job.step == DemoSpec.step]


def demo_job() -> Job | None:
    """The newest attempt to set up the demo."""
    return next(iter(sorted(_demo_jobs(), key=lambda job: -job.id)), None)


def arriving() -> bool:
    """Whether the demo is still being set up: until then one of its two halves may be missing."""
    job = demo_job()
    return job is not None and job.status in ("waiting", "running")


_TROUBLE = re.compile(r"toxic|hate|offens|harm|unsafe|nsfw|abus|slur|jailbreak", re.IGNORECASE)


def _sensitive() -> bool:
    """Whether a dataset's own labels say that its texts may hurt."""
    labels = (label for run in runs().list("dataset") for label in run["facts"].get("labels", ()))
    return any(_TROUBLE.search(str(label)) for label in labels)


# --- views live in the URL --------------------------------------------------------------------


def linked(
    name: str,
    default: T,
    *,
    read: Callable[[str], T] = str,  # type: ignore[assignment]
    valid: Callable[[T], bool] = lambda value: True,
) -> dict[str, Any]:
    """Keyword arguments that tie a widget to the query parameter `name` on whatever page it is.

    Streamlit's own `bind="query-params"` forgets a parameter that two pages share when a link
    passes it from one to the other (1.67), and such links are how people move here.
    """
    value = look(name, default, read=read, valid=valid)
    key = f"{st.session_state.get('page', '')}.{name}"
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return {"key": key, "on_change": _keep, "args": (name, key)}


def look(
    name: str,
    default: T,
    *,
    read: Callable[[str], T] = str,  # type: ignore[assignment]
    valid: Callable[[T], bool] = lambda value: True,
) -> T:
    """The value of a view parameter: from the URL, else as it was left, else the default."""
    view = st.session_state.setdefault("view", {})
    given = st.query_params.get(name)
    if given is not None and given != str(view.get(name)):
        with suppress(ValueError):
            view[name] = read(given)
    if name not in view or not valid(view[name]):
        return default
    if view[name] != default and given is None:
        st.query_params[name] = str(view[name])
    return view[name]


def keep(name: str, value: object) -> None:
    """Sets a view parameter, here and in the URL; None forgets it."""
    view = st.session_state.setdefault("view", {})
    if value is None:
        view.pop(name, None)
        if name in st.query_params:
            del st.query_params[name]
    else:
        view[name] = value
        st.query_params[name] = str(value)


def _keep(name: str, key: str) -> None:
    keep(name, st.session_state[key])


def choice(
    label: str,
    options: Sequence[str],
    name: str,
    *,
    names: Mapping[str, str] | None = None,
    **more: Any,
) -> str:
    """One of a few, all visible; the first is the default."""
    named = names or {}
    return st.segmented_control(
        label,
        options,
        required=True,
        format_func=lambda option: named.get(option, option.capitalize()),
        **linked(name, options[0], valid=lambda value: value in options),
        **more,
    )


def order(names: Mapping[str, str], name: str, *, width: int = 190) -> str:
    """What a table is sorted by; the first is the default."""
    first = next(iter(names))
    return st.selectbox(
        "Order",
        list(names),
        format_func=names.__getitem__,
        width=width,
        **linked(name, first, valid=lambda value: value in names),
    )


def search(name: str = "q") -> str:
    """A box for part of a token or a feature's number."""
    return st.text_input(
        "Search", placeholder="A token, or #12", icon=":material/search:", **linked(name, "")
    )


# --- what there is to look at -----------------------------------------------------------------


def measured() -> dict[str, Row]:
    """Manifests of the measure runs that can be shown, by run id, newest first."""
    shown = cache()
    return {run["run"]: run for run in runs().list("measure") if shown.ready(run["run"])}


def titles(found: Mapping[str, Row]) -> dict[str, str]:
    """What each run is called: its dataset's name, with a piece of the id where names repeat."""
    names = [run["facts"]["name"] for run in found.values()]
    return {
        key: name if names.count(name) == 1 else f"{name} · {key.rsplit('-', 1)[1][:6]}"
        for key, name in zip(found, names, strict=True)
    }


def default_anchor(found: Mapping[str, Row]) -> str:
    """The run that calls itself an anchor, else the one with the most samples."""
    facts = {key: run["facts"] for key, run in found.items()}
    return max(
        facts, key=lambda k: ("anchor" in facts[k]["name"].casefold(), facts[k]["n_samples"])
    )


def default_dataset(found: Mapping[str, Row], anchor: str) -> str:
    """The newest run that is not the anchor."""
    return next((key for key in found if key != anchor), anchor)


def pick(label: str, name: str, found: Mapping[str, Row], default: str, **options: Any) -> str:
    """A run id from `found`; the URL may hold the id or the name."""
    shown = titles(found)
    ids = {title: key for key, title in shown.items()}
    # The URL carries the title, which a person can read; an id is understood too.
    tie = linked(name, shown[default], read=lambda t: shown.get(t, t), valid=ids.__contains__)
    return ids[st.selectbox(label, list(ids), **tie, **options)]


def comparable(found: Mapping[str, Row], anchor: str) -> list[str]:
    """Runs whose features mean the same as the anchor's: same model, layer and SAE."""
    encoder = found[anchor]["facts"]["encoder"]
    return [key for key, run in found.items() if run["facts"]["encoder"] == encoder]


def labels(run: str, features: Sequence[int]) -> dict[int, str]:
    """What features peak on in a run; where they are silent there, in the anchor."""
    found = measured()
    anchor = default_anchor({key: found[key] for key in comparable(found, run)})
    named: dict[int, str] = {}
    for place in (anchor, run):
        rows, _ = cache().features_page(place, ids=features, limit=len(features))
        named |= {row["feature"]: row["label"] for row in rows if row["label"]}
    return {feature: named.get(feature, "") for feature in features}


def sae_of(run: Row) -> str | None:
    """The run that holds what is known of the dictionary itself; None while it is not drawn."""
    sae = run["facts"]["sae_run"]
    return sae if cache().ready(sae) else None


class Step(NamedTuple):
    """One thing worth doing now, as a card with a link."""

    title: str
    why: str
    icon: str
    page: str
    link: str
    view: dict[str, str]
    """Query parameters of the link."""


def next_steps(
    found: Mapping[str, Row], anchor: str, dataset: str, result: CoverageResult
) -> list[Step]:
    """What a person would sensibly do next, most useful first."""
    steps, shown = [], titles(found)
    done = {run["facts"]["dataset"] for run in found.values()}
    waiting = [run for run in runs().list("dataset") if run["run"] not in done]
    if waiting:
        name = waiting[0]["facts"]["name"]
        steps.append(
            Step(
                f"Measure {plain(name)}",
                "It has been read, but nobody has looked which features it shows.",
                ":material/speed:",
                DATASETS,
                "Open it",
                {"open": waiting[0]["run"]},
            )
        )
    if result.n_missing and dataset != anchor:
        steps.append(
            Step(
                f"Read the {result.n_missing:,} gaps of {plain(shown[dataset])}",
                "Ranked by how common they are in the anchor, with examples and near misses.",
                ":material/donut_large:",
                COVERAGE,
                "See what is missing",
                {"anchor": shown[anchor], "dataset": shown[dataset], **_threshold_in_use()},
            )
        )
    steps.append(
        Step(
            "Add a dataset of your own",
            "JSONL, CSV, Parquet or a Hugging Face id; plain text or chat.",
            ":material/upload_file:",
            DATASETS,
            "Add a dataset",
            {"add": "yes"},
        )
    )
    steps.append(
        Step(
            "Wander through the features",
            "A map of the dictionary; every point opens its examples.",
            ":material/scatter_plot:",
            FEATURES,
            "Open the map",
            {"dataset": shown[anchor]},
        )
    )
    return steps[:3]


def _threshold_in_use() -> dict[str, str]:
    value = look("threshold", 0.0, read=float)
    return {"threshold": str(value)} if value else {}


def stop_if_nothing_measured(found: Mapping[str, Row]) -> None:
    """Says what to do first and ends the page, unless something has been measured."""
    if found:
        return
    job = demo_job()
    if job and job.status in ("waiting", "running"):
        empty(
            "The demo is on its way",
            "Two small datasets are being prepared. The first page shows how far they are.",
            icon=":material/hourglass_top:",
            page=HOME,
            link="Watch it arrive",
        )
    else:
        empty(
            "Nothing has been measured yet",
            "Add a dataset, then press Measure: its features appear here.",
            icon=":material/database:",
            page=DATASETS,
            link="Add a dataset",
        )
    st.stop()


def empty(title: str, text: str, *, icon: str, page: str | None = None, link: str = "") -> None:
    """An empty state: what is missing, and the one thing to do about it."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.space("small")
        st.markdown(f"### {icon} {title}", text_alignment="center", width="content")
        st.markdown(text, text_alignment="center", width="content")
        if page:
            st.page_link(page, label=link, icon=":material/arrow_forward:")
        st.space("small")


def link(page: str, label: str, **view: str) -> None:
    """A link with an arrow, to a page in a certain view."""
    st.page_link(page, label=label, icon=":material/arrow_forward:", query_params=view)


def cards(*numbers: tuple[str, str, str]) -> None:
    """A row of bordered figures: (label, value, one-line definition)."""
    with st.container(horizontal=True, gap="small"):
        for label, value, meaning in numbers:
            st.metric(label, value, help=meaning, border=True, height="stretch")


def share(value: float) -> str:
    """A ratio as people read it; a dash where it is undefined."""
    return "–" if value != value else f"{value:.1%}"


@st.cache_data(max_entries=256, show_spinner=False)
def _coverage(
    root: Path, anchor: str, dataset: str, threshold: float, min_support: int, role: str
) -> CoverageResult:
    shown = _handles(root)[1]
    asked: dict[str, Any] = {"threshold": threshold, "min_support": min_support, "role": role}
    relevant = compare.relevant_set("all", shown, anchor, **asked)
    return compare.coverage_of(shown, anchor, dataset, relevant=relevant, **asked)


def coverage(
    anchor: str, dataset: str, *, threshold: float = 0.0, min_support: int = 1, role: str = "all"
) -> CoverageResult:
    """FAC over all relevant features. Runs never change, so an answer is kept once computed."""
    return _coverage(workspace().root, anchor, dataset, threshold, min_support, role)


@st.cache_data(max_entries=64, show_spinner=False)
def _curve(root: Path, anchor: str, dataset: str, min_support: int, role: str) -> list[Row]:
    shown = _handles(root)[1]
    return compare.curve(shown, anchor, dataset, role=role, min_support=min_support)


def curve(anchor: str, dataset: str, *, min_support: int = 1, role: str = EVERY_ROLE) -> list[Row]:
    """FAC on the rungs of the threshold ladder, as far as the slider goes."""
    rows = _curve(workspace().root, anchor, dataset, min_support, role)
    top = slider_top(anchor, dataset)
    return [row for row in rows if row["threshold"] <= top]


def by_role(anchor: str, dataset: str, *, threshold: float, min_support: int) -> list[Row]:
    """FAC of each role's tokens: role, fac and counts."""
    return compare.by_role(cache(), anchor, dataset, threshold=threshold, min_support=min_support)


def gap_table(
    anchor: str, dataset: str, *, threshold: float, min_support: int, role: str, **listing: Any
) -> tuple[list[Row], int]:
    """One page of the gaps over all relevant features, and how many there are."""
    asked: dict[str, Any] = {"threshold": threshold, "min_support": min_support, "role": role}
    relevant = compare.relevant_set("all", cache(), anchor, **asked)
    return compare.gap_table(cache(), anchor, dataset, relevant=relevant, **asked, **listing)


def changes(before: str, after: str) -> Row:
    """Features gained and lost between two runs, as ids and counts."""
    return compare.changes(cache(), before, after, threshold=0.0, role=EVERY_ROLE)


def points(difference: float) -> str | None:
    """A difference of two shares, in percentage points."""
    return None if difference != difference else f"{100 * difference:+.1f} points"


def threshold_slider(anchor: str, dataset: str) -> float:
    """How strongly a feature must fire before it counts; one setting for all pages."""
    top = slider_top(anchor, dataset)
    return st.slider(
        "Threshold",
        0.0,
        top,
        step=slider_step(top),
        format="%.2f",
        help="A feature is active in a sample when its peak is strictly above. At 0 a single "
        "token anywhere is enough; higher asks for a clear activation.",
        **linked("threshold", 0.0, read=float, valid=lambda value: 0 <= value <= top),
    )


def slider_top(anchor: str, dataset: str) -> float:
    """Where the anchor has lost nine tenths of its features: beyond, little is left to ask."""
    rows = _curve(workspace().root, anchor, dataset, 1, EVERY_ROLE)
    few = rows[0]["n_anchor"] / 10
    return max(
        next((r["threshold"] for r in rows if r["n_anchor"] < few), rows[-1]["threshold"]), 0.1
    )


def slider_step(top: float) -> float:
    """A round step that cuts the way to `top` into one or two hundred."""
    return 10.0 ** math.floor(math.log10(top / 100))


# --- tables -----------------------------------------------------------------------------------


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
    "label": _text("Peaks on", width=160),
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
    "state": _text("State", width=110),
    "duplicates": _number("Duplicates", width=90, format="localized"),
    "n_rejected": _number("Refused", width=90, format="localized"),
    "created": st.column_config.DatetimeColumn("Added", format="distance"),
    "line": _number("Line", width=70, format="%d"),
    "reason": _text("Why", width="large"),
}
"""How a quantity looks in every table that shows it."""


ROW_HEIGHT = 35
"""Pixels of a row of st.dataframe."""


def table(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    key: str,
    opens: str | None = None,
    id_column: str = "feature",
    height: int = 420,
) -> None:
    """One page of rows, at most `height` pixels high; choosing one keeps its id as `opens`.

    The id is kept, not the row's number: the same number is another feature once a person sorts.
    """
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
    st.dataframe(
        data,
        key=key,
        on_select=partial(_open_row, key, opens, ids),
        selection_mode="single-row",
        **options,
    )


_DECIMALS = {"near": 2, "chance": 3, "density": 3}


def _brief(name: str, value: Any) -> Any:
    """A ratio without the decimals that nobody reads in a percentage."""
    return round(value, _DECIMALS[name]) if name in _DECIMALS and value is not None else value


def _open_row(key: str, name: str, ids: Sequence[Any]) -> None:
    if chosen := st.session_state[key]["selection"]["rows"]:
        keep(name, ids[chosen[0]])


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


# --- foreign text -----------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")
_VISIBLE = str.maketrans(
    {
        "\t": "⇥\t",
        "\r": "␍",
        "\x7f": "␡",
        **{chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
        # invisible marks that would turn the line around them
        **dict.fromkeys(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))), "�"),
    }
)


def clean(text: str) -> str:
    """Text that any browser can show: no lone surrogates, control characters made visible."""
    return text.encode("utf-8", "replace").decode().translate(_VISIBLE)


def plain(text: str) -> str:
    """Text for a place that Streamlit reads as Markdown: it comes out as it went in."""
    return _MARKDOWN.sub(r"\\\1", " ".join(clean(text).split()))


def called(feature: int, label: str | None) -> str:
    """How a feature is addressed in a table or a title: its number and its top tokens."""
    return f"#{feature} {clean(label)}" if label else f"#{feature}"


def tokens_html(
    tokens: Sequence[str],
    values: Sequence[float] | None = None,
    *,
    strongest: float = 0.0,
    peak: int | None = None,
    breaks: bool = False,
    faded: Collection[int] = (),
) -> str:
    """Tokens with their activation as the depth of colour; safe whatever the tokens hold.

    `values` are activations of the tokens, 0 where silent; `strongest` is full colour (default:
    their maximum). The token at index `peak` is underlined. Line ends show as ⏎, and with `breaks`
    they also end the line. Tokens whose index is in `faded` stand back.
    """
    line_end = '<i class="fac-end">⏎</i>' + "\n" * breaks
    values = list(values) if values is not None else [0.0] * len(tokens)
    top = strongest or max(values, default=0.0) or 1.0
    parts = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=True)):
        shown = html.escape(clean(token)).replace("\n", line_end)
        kind = ' class="fac-peak"' if index == peak else ""
        if value > 0:
            # The space that a token begins with stays white, unless it is all there is.
            word = shown.lstrip(" ") or shown
            depth = 0.10 + 0.55 * min(value / top, 1.0)
            parts.append(
                f'{shown[: len(shown) - len(word)]}<span{kind} title="{value:.3g}" '
                f'style="background:rgba(224,138,30,{depth:.2f})">{word}</span>'
            )
        elif kind:
            parts.append(f"<span{kind}>{shown}</span>")
        elif index in faded:
            parts.append(f'<span class="fac-end">{shown}</span>')
        else:
            parts.append(shown)
    return f'<div class="fac-text fac-blur">{"".join(parts)}</div>'


def chat_html(messages: Sequence[Mapping[str, str]], *, limit: int = 1200) -> str:
    """A sample as a conversation, each turn cut at `limit` characters."""
    turns = []
    for message in messages:
        text = clean(message["content"] or "")
        cut = f" … {len(text) - limit:,} more characters" if len(text) > limit else ""
        role = message["role"] if message["role"] in ("system", "user", "assistant") else "other"
        turns.append(
            f'<div class="fac-turn fac-{role}"><b>{html.escape(clean(message["role"]))}</b>'
            f'<div class="fac-text fac-blur">{html.escape(text[:limit])}'
            f'<i class="fac-end">{cut}</i></div></div>'
        )
    return f'<div class="fac-chat">{"".join(turns)}</div>'


def chips_html(words: Sequence[str], kind: str) -> str:
    """Short texts as chips; `kind` is `up`, `down` or `flat`."""
    shown = [html.escape(clean(word)).replace("\n", "⏎") or "∅" for word in words]
    chips = "".join(f'<span class="fac-chip fac-{kind}">{word}</span>' for word in shown)
    return f'<div class="fac-chips fac-blur">{chips}</div>'


_STYLE = """
.stMainBlockContainer{padding-left:2.75rem;padding-right:2.75rem}
.fac-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.75;font-size:.93rem;
  unicode-bidi:isolate;max-height:16rem;overflow-y:auto}
.fac-text span{border-radius:.25rem;padding:.08rem 0}
.fac-peak{box-shadow:inset 0 -2px 0 #E08A1E;font-weight:600}
.fac-end{opacity:.45;font-style:normal}
.fac-example{padding:.55rem 0;border-bottom:1px solid rgba(124,135,153,.22)}
.fac-example:last-child{border-bottom:0}
.fac-meta{font-size:.78rem;opacity:.62;display:flex;gap:.75rem;margin-bottom:.1rem}
.fac-chat{display:flex;flex-direction:column;gap:.5rem}
.fac-turn{border-left:3px solid rgba(124,135,153,.4);padding:.05rem 0 .05rem .75rem}
.fac-turn b{font-size:.74rem;opacity:.62;font-weight:600;text-transform:capitalize}
.fac-turn.fac-assistant{border-color:#14958A}
.fac-chips{display:flex;flex-wrap:wrap;gap:.3rem}
.fac-chip{border-radius:.4rem;padding:.1rem .45rem;font-size:.82rem;white-space:pre;
  max-width:14rem;overflow:hidden;text-overflow:ellipsis}
.fac-up{background:rgba(20,149,138,.16)}
.fac-down{background:rgba(124,135,153,.16)}
.fac-flat{background:rgba(124,135,153,.16)}
"""


def show_examples(spans: Sequence[Row], *, strongest: float = 0.0) -> None:
    """Spans of one feature, strongest first, on one colour scale so that they can be compared."""
    if not spans:
        st.caption("No example of this kind was kept.")
        return
    top = strongest or max((span["peak"] for span in spans), default=0.0)
    st.html(
        "".join(
            _example(
                [f"{span['peak']:.2f}", span["role"], f"sample {span['sample']}"]
                + ([f"stronger than {span['quantile']:.0%}"] if span["kind"] == "spread" else []),
                tokens_html(
                    span["tokens"], span["activations"], strongest=top, peak=span["peak_index"]
                ),
            )
            for span in spans
        )
    )


def show_near(near: Sequence[Row]) -> None:
    """The dataset's nearest misses of one feature: where it came closest to firing."""
    if not near:
        st.caption("Nothing in this dataset comes near.")
        return
    st.html(
        "".join(
            _example(
                [
                    f"pre-activation {miss['pre']:.2f}",
                    *([f"{miss['ratio']:.0%} of what it takes"] if miss.get("ratio") else []),
                    miss["role"],
                    f"sample {miss['sample']}",
                ],
                tokens_html(miss["tokens"], peak=miss["peak_index"]),
            )
            for miss in near
        )
    )


def _example(facts: Sequence[str], body: str) -> str:
    meta = "".join(f"<span>{html.escape(str(fact))}</span>" for fact in facts)
    return f'<div class="fac-example"><div class="fac-meta">{meta}</div>{body}</div>'


# --- work -------------------------------------------------------------------------------------

_VERBS = {
    "dataset": "Read",
    "measure": "Measure",
    "sae": "Map the dictionary",
    "probe": "Read a text",
    "demo": "Set up the demo",
}


def job_title(job: Job) -> str:
    """A job in words."""
    verb = _VERBS.get(job.step, job.step)
    if job.step == "dataset":
        return f"{verb} {job.spec['name']}"
    if job.step == "measure":
        return f"{verb} {dataset_name(job.spec['dataset'])}"
    return verb


def dataset_name(run: str) -> str:
    """Name of a dataset run; its id while it is unknown here."""
    return runs().manifest(run)["facts"]["name"] if runs().find(run) else run


def start(spec: Spec, said: str) -> int:
    """Puts a job into the queue, makes sure that somebody works, and says so."""
    job = queue().enqueue(spec)
    st.session_state.setdefault("started", []).append(job)
    jobs.start_worker(workspace())
    st.toast(plain(said), icon=":material/schedule:")
    return job


def start_measure(dataset: str, model: str, layer: int, sae: str) -> int:
    spec = MeasureSpec(dataset=dataset, model=model, layer=layer, sae=sae)
    return start(spec, f"Measuring {dataset_name(dataset)}")


def usual_encoder() -> Row:
    """Model, layer and SAE of the anchor, so that what is measured next can be compared with it."""
    found = measured()
    facts = found[default_anchor(found)]["facts"] if found else MeasureSpec(dataset="").as_json()
    return {name: facts[name] for name in ("model", "layer", "sae")}


def start_probe(text: str, like: Row) -> int:
    """Reads a text with the model and SAE that measured a dataset."""
    facts = like["facts"]
    spec = ProbeSpec(text=text, model=facts["model"], layer=facts["layer"], sae=facts["sae"])
    return start(spec, "Reading the text")


class Probe(NamedTuple):
    """One text and what fires on it."""

    tokens: list[str]
    scaffold: set[int]
    """Tokens of the chat template, which belong to nobody."""

    features: dict[int, list[float]]
    """Feature -> its activation on every token, 0 where silent."""


def probe(run: str) -> Probe:
    """A finished probe run."""
    table = runs().table(run, "tokens", ["token", "role"]).to_pydict()
    tokens, roles = table["token"], table["role"]
    features: dict[int, list[float]] = {}
    for row in runs().table(run, "activations").to_pylist():
        values = features.setdefault(row["feature"], [0.0] * len(tokens))
        values[row["position"]] = row["value"]
    return Probe(tokens, {i for i, role in enumerate(roles) if role is None}, features)


def probe_rows(text: Probe, dataset: str, token: int | None = None) -> list[Row]:
    """The features of a text, or of one of its tokens, strongest first, and their support."""
    strength = {
        feature: max(values) if token is None else values[token]
        for feature, values in text.features.items()
    }
    firing = [feature for feature, value in strength.items() if value > 0]
    known, _ = cache().features_page(dataset, ids=firing, limit=len(firing))
    names = labels(dataset, firing)
    rows = [
        {
            **row,
            "label": names[row["feature"]],
            "peak": strength[row["feature"]],
        }
        for row in known
    ]
    return sorted(rows, key=lambda row: -row["peak"])


def measuring(dataset: str) -> bool:
    """Whether a live job is measuring this dataset run."""
    return any(
        job.step == MeasureSpec.step and job.spec["dataset"] == dataset for job in queue().live()
    )


def measure_state(dataset: str, done: bool) -> str:
    """How far a dataset run is, in a word or two."""
    return "measured" if done else "being measured" if measuring(dataset) else "not measured"


def show_failures(*steps: str) -> None:
    """Why jobs that this person started did not work out, until they are dismissed."""
    started = st.session_state.get("started", [])
    for number in list(started):
        job = queue().job(number)
        if job.step in steps and job.status == "failed":
            with st.container(horizontal=True, vertical_alignment="center"):
                st.error(
                    f"**{plain(job_title(job))}:** {plain(job.error or 'no reason was recorded')}",
                    icon=":material/error:",
                )
                st.button(
                    "Dismiss",
                    on_click=started.remove,
                    args=(number,),
                    key=f"dismiss {number}",
                    type="tertiary",
                )


def save_upload(name: str, content: bytes) -> Path:
    """An uploaded file under `inputs/`, named by its content so that names cannot collide.

    Only the last part of the given name is used, stripped of anything a shell or a path could read.
    """
    place = workspace().inputs
    place.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).name).lstrip(".")[-80:] or "upload"
    target = place / f"{hashlib.sha256(content).hexdigest()[:12]}-{safe}"
    if not target.exists():
        partial_file = target.with_name(f".{target.name}.part")
        partial_file.write_bytes(content)
        partial_file.rename(target)
    return target


def progress(job: Job) -> None:
    """One job as a bar: how far, and what it says about itself."""
    fraction = min(job.done / job.total, 1.0) if job.total else 0.0
    words = f"{fraction:.0%}" if job.total else "starting"
    if job.status == "waiting":
        words = "waiting"
    note = f" · {plain(job.note)}" if job.note else ""
    st.progress(fraction, text=f"{plain(job_title(job))} · {words}{note}")


def _strip() -> None:
    """Live jobs below the navigation; polls only while there are any."""
    st.fragment(_jobs_now, run_every="2s" if queue().live() else None)()


@guard()
def _jobs_now() -> None:
    live = queue().live()
    before = st.session_state.get("live", set())
    st.session_state["live"] = {job.id for job in live}
    if before - st.session_state["live"]:
        # Something ended: the page may now have more to show.
        st.rerun()
    for job in live[:3]:
        progress(job)
    if len(live) > 3:
        st.caption(f"and {len(live) - 3} more")
    if live and not _alive():
        st.warning("Nobody is working.", icon=":material/power_off:")
        st.button("Start the worker", on_click=restart_worker, icon=":material/restart_alt:")


def _alive() -> bool:
    worker = queue().worker()
    return bool(worker and worker["alive"])


def restart_worker() -> None:
    jobs.restart_worker(workspace())


def retry(job: int) -> None:
    """Puts a job that ended badly back into the queue."""
    queue().retry(job)
    jobs.start_worker(workspace())


def job_times(job: Job) -> str:
    """When it was asked for and how long it took."""
    words = datetime.fromtimestamp(job.created).strftime("%d %b %H:%M")
    if job.started and job.finished:
        words += f", took {job.finished - job.started:,.0f} s"
    return words


def log_tail(lines: int) -> list[str]:
    """The last lines of the worker's log."""
    path = workspace().logs / "worker.log"
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64_000))
        text = file.read().decode("utf-8", "replace")
    return [clean(line) for line in text.splitlines()[-lines:]]


def samples(run: str, *, search: str, offset: int, limit: int) -> tuple[list[Row], int]:
    """Samples of a dataset run whose text or label holds `search`, and how many there are."""
    everything = _samples(workspace().root, run)
    wanted = search.casefold()
    hits = [
        index
        for index, text in enumerate(everything["_text"].to_pylist() if wanted else ())
        if wanted in text
    ]
    chosen = (
        everything.take(hits[offset : offset + limit])
        if wanted
        else everything.slice(offset, limit)
    )
    return chosen.to_pylist(), len(hits) if wanted else everything.num_rows


@st.cache_resource(max_entries=4, show_spinner=False)
def _samples(root: Path, run: str) -> pa.Table:
    found = _handles(root)[0].table(run, "samples")
    texts = [
        "\n".join([*(m["content"] or "" for m in row["messages"]), row["label"] or ""]).casefold()
        for row in found.select(["messages", "label"]).to_pylist()
    ]
    return found.append_column("_text", pa.array(texts, pa.string()))
