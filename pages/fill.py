"""Filling gaps from what exists: rows of a pool, each kept or dropped before they are a dataset."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import MeasureSpec
from fac.errors import InputError
from fac.manifest import MeasureManifest
from fac.questions.catalogue import comparable, measured, titles
from fac.questions.comparison import Comparison
from fac.questions.explanations import names
from fac.questions.families import families_run, gap_families, gaps_to_fill
from fac.questions.fill import (
    Budget,
    Figures,
    Fill,
    FillRow,
    as_lines,
    fill,
    filled_without,
    publish,
    samples_at,
)
from fac.questions.fill_spans import fill_spans
from fac.ui import views
from fac.ui.families import offer, pick_families
from fac.ui.jobs import counted, start
from fac.ui.pickers import (
    comparison_in_url,
    gaps_in_words,
    pick_pair,
    pick_run,
    stop_if_nothing_measured,
    warn_of_strays,
)
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, table
from fac.ui.text import Row, called, chat_html, example_html, plain, tokens_html
from fac.ui.views import action_button, get_param, link, param_widget, set_param

PAGE = {"title": "Fill", "section": "Make", "icon": "format_color_fill", "order": 75}

COLUMNS = ("line", "n_tokens", "n_fills", "text")
UNITS = {"rows": "Rows", "tokens": "Tokens", "all": "All that help"}
USUAL = {"rows": 50, "tokens": 5000, "all": 0}
MOST = 1_000_000
GAPS = 8  # of a row, shown at once
LINKED = 200  # gaps that the link to pairs carries, certain ones first
SHOWN = 100  # characters of a text in the table


def pick_pool(
    manifests: Mapping[str, MeasureManifest], anchor: str, dataset: str, above: DeltaGenerator
) -> str:
    """A measured dataset of the same encoder that rows may come from; ends the page without one.
    Of another one in the address it is said `above` that it can be none."""
    pools = {run: manifests[run] for run in comparable(manifests, anchor)}
    pools = {run: each for run, each in pools.items() if run not in (anchor, dataset)}
    if not pools:
        views.empty(
            "No pool yet",
            "Add and measure a dataset that rows may be taken from: one that is larger, or of "
            "another kind, than the one that has the gaps.",
            icon=":material/database:",
            page="datasets",
            link="Add a pool",
        )
        st.stop()
    names, stray = titles(manifests), st.query_params.get("pool", "")
    if stray and not {stray, names.get(stray)} & {*pools, *map(names.get, pools)}:
        why = "it is one of these two, was measured with another model or SAE, or is not here"
        words = f"Rows cannot be taken of {plain(stray[:200])}: {why}. Another pool is shown."
        above.warning(words, icon=":material/search_off:")
    largest = max(pools, key=lambda run: (pools[run].facts.n_samples, run))
    return pick_run("Take rows of", "pool", pools, largest, of_page=True)


def pick_budget() -> Budget:
    """How much may be taken, in one of UNITS."""
    unit = views.choice("At most", tuple(UNITS), "unit", names=UNITS)
    number = USUAL[unit]
    if unit != "all":
        tie = param_widget(unit, number, read=int, valid=lambda n: 1 <= n <= MOST)
        number = st.number_input(UNITS[unit], 1, MOST, step=10, width=130, **tie)
    tie = param_widget("each", 1, read=int, valid=lambda n: 1 <= n <= 100)
    help = "So many rows are asked for of each gap."
    each = st.number_input("Rows a gap", 1, 100, width=110, help=help, **tie)
    limits = {} if unit == "all" else {unit: int(number)}
    return Budget(per_feature=int(each), **limits)


def pick_gaps(comparison: Comparison) -> tuple[int, ...] | None:
    """The gaps of the families that are chosen; None for all gaps."""
    run = families_run(stores(), comparison)
    if run is None:
        return None
    rows = gap_families(stores(), comparison, run).rows
    chosen = pick_families(comparison, rows, "Only the gaps of these families")
    return tuple(gaps_to_fill(stores(), comparison, chosen)) if chosen else None


def dropped_rows(proposal: Fill) -> list[int]:
    """The proposed rows that a person dropped, as the address has them, in that order."""
    texts = get_param("drop", "", of_page=True).split(",")
    numbers = [int(text) for text in texts if text.isdecimal()]
    proposed = {row.sample for row in proposal.rows}
    return [number for number in dict.fromkeys(numbers) if number in proposed]


def set_dropped(numbers: list[int]) -> None:
    """Remembers which rows are dropped, here and in the address."""
    set_param("drop", ",".join(map(str, numbers)) or None, True)


def decide(row: int, following: int, drop: bool, dropped: list[int]) -> None:
    """Keeps a row, or drops it, and opens the one after it."""
    rest = [number for number in dropped if number != row]
    set_dropped([*rest, row] if drop else rest)
    set_param("taken", following)


def undo(dropped: list[int]) -> None:
    """Takes the last row back that was dropped, and opens it."""
    set_dropped(dropped[:-1])
    set_param("taken", dropped[-1])


def show_figures(proposal: Fill, figures: Figures) -> None:
    """What the rows fill, beside random ones of equal tokens."""
    random, there_are = proposal.random, proposal.asked
    taken = "Rows that are taken, less those that are dropped."
    card: list[tuple[str, str, str, str | None]] = [
        ("Rows", f"{figures.rows:,.0f}", taken, None),
        ("Tokens", f"{figures.tokens:,.0f}", "Content tokens of these rows.", None),
    ]
    for label, name in (("Certain gaps", "certain"), ("Gaps", "gaps")):
        mean, low, high, of, most = (
            getattr(part, name)
            for part in (random.mean, random.low, random.high, there_are, proposal.possible)
        )
        meaning = f"Filled, of {of:,.0f}; the whole pool would fill {most:,.0f}."
        among = f"random rows: {mean:,.0f} ({low:,.0f} to {high:,.0f})"
        card.append((label, f"{getattr(figures, name):,.0f} of {of:,.0f}", meaning, among))
    with st.container(horizontal=True, gap="small"):
        for label, value, meaning, note in card:
            options: Row = {"help": meaning, "border": True, "height": "stretch"}
            st.metric(label, value, note, **options, **views.AS_NOTE)
    if proposal.share < 1 and figures == proposal.chosen:
        share = int(100 * proposal.share)
        st.caption(
            f"At least {share}% of the best that any rows of this budget do, certain gaps first."
        )


def show_rows(proposal: Fill, dropped: list[int], texts: Mapping[int, Row]) -> FillRow:
    """The proposed rows a page at a time; the one that is open."""
    pager = Pager("fill", proposal.pool, size=20)
    page = proposal.rows[pager.offset :][: pager.size]
    rows = [
        {
            "line": row.sample,
            "dropped_row": "dropped" if row.sample in dropped else "",
            "n_tokens": row.tokens,
            "n_fills": len(row.fills),
            "text": " ".join(texts[row.sample]["messages"][0]["content"].split())[:SHOWN],
        }
        for row in page
    ]
    columns = ("dropped_row", *COLUMNS) if dropped else COLUMNS
    table(rows, columns, key="rows", opens="taken", id_column="line", height=520)
    pager.draw(len(proposal.rows), "row")
    by_number = {row.sample: row for row in proposal.rows}
    first = page[0].sample
    opened = get_param("taken", first, read=int, valid=by_number.__contains__)
    return by_number[opened]


def show_row(
    proposal: Fill, row: FillRow, dropped: list[int], text: Row, comparison: Comparison
) -> None:
    """One row: what it says, which gaps it fills, and whether it is taken."""
    order = [each.sample for each in proposal.rows]
    following = order[min(order.index(row.sample) + 1, len(order) - 1)]
    away = row.sample in dropped
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        act = (row.sample, following)
        action_button("Keep", "check", decide, *act, False, dropped, shortcut="K", type="primary")
        action_button("Drop", "close", decide, *act, True, dropped, shortcut="X")
        action_button("Undo", "undo", undo, dropped, shortcut="U", disabled=not dropped)
        number = order.index(row.sample) + 1
        state = ", dropped" if away else ""
        st.caption(f"{number:,} of {len(order):,}{state}: row {row.sample:,} of the pool")
    st.html(chat_html(text["messages"]))
    show_fills(proposal, row, comparison)


def show_fills(proposal: Fill, row: FillRow, comparison: Comparison) -> None:
    """The gaps that a row fills, each with the words of the row on which it fires."""
    st.markdown(f"**Fills {counted(len(row.fills), 'gap')}**, certain ones first")
    pager = Pager("fills", proposal.pool, row.sample, size=GAPS)
    page = row.fills[pager.offset :][: pager.size]
    by_feature = names(stores(), comparison.anchor, page)
    spans = fill_spans(stores(), proposal.pool, comparison.role, row.sample, page)
    for span in spans:
        words = called(span.feature, by_feature[span.feature], limit=60)
        with st.container(gap=None, key=f"fills {span.feature}"):
            link("features", plain(words), icon="", feature=str(span.feature))
            facts = [f"{span.peak:.2f}", span.role]
            if span.tokens:
                body = tokens_html(span.tokens, span.activations, peak=len(span.tokens) - 1)
            else:
                facts.append(f"token {span.position:,} of what the model read")
                body = ""
            st.html(example_html(facts, body))
    if any(not span.tokens for span in spans):
        st.caption(
            "Where there are no words, measuring kept those of other samples that fire the feature "
            "more strongly."
        )
    pager.draw(len(row.fills), "gap")


def make_dataset(comparison: Comparison, proposal: Fill, dropped: list[int], n_rows: int) -> None:
    """The kept rows as a dataset, which is measured at once."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tie = param_widget("name", f"{titles_of(comparison.dataset)}-filled", of_page=True)
        name = st.text_input("Name of the new dataset", max_chars=80, width=280, **tie)
        pressed = st.button(
            f"Make a dataset of {counted(n_rows, 'row')} and measure it",
            type="primary",
            icon=":material/add_notes:",
            disabled=not n_rows,
        )
        st.download_button(
            "JSONL",
            lambda: "".join(
                f"{line}\n" for line in as_lines(stores(), comparison, proposal, dropped)
            ),
            "filled.jsonl",
            on_click="ignore",
            icon=":material/download:",
            disabled=not n_rows,
            help="The rows that are kept, each with the gaps and the families that it fills.",
        )
        if proposal.left:
            first = proposal.left[:LINKED]
            which = f"the first {LINKED:,} of " if len(proposal.left) > LINKED else ""
            words = f"Write for {which}the {counted(len(proposal.left), 'gap')} that are left"
            link("pairs", words, features=",".join(map(str, first)))
    if not pressed:
        return
    run = publish(stores(), comparison, proposal, name, dropped)
    spec = stores().runs.manifest(proposal.pool).spec
    assert isinstance(spec, MeasureSpec)
    start(replace(spec, dataset=run), f"Measuring {name}")
    st.session_state["filled"] = name
    st.rerun()


def nothing_to_take(why: str, page: str, words: str) -> NoReturn:
    """Ends the page without rows: why there are none, and where to go on."""
    icon = ":material/format_color_fill:"
    views.empty("No rows to take", plain(why), icon=icon, page=page, link=words)
    st.stop()


def titles_of(run: str) -> str:
    """What a measured dataset is called in lists."""
    return titles(manifests)[run]


title("Fill")
manifests = measured(stores())
stop_if_nothing_measured(manifests)
warn_of_strays(manifests)
above = st.container()
with st.container(horizontal=True):
    anchor, dataset = pick_pair(manifests)
    pool = pick_pool(manifests, anchor, dataset, above)
with st.container(horizontal=True, vertical_alignment="bottom"):
    budget = pick_budget()
comparison = comparison_in_url(anchor, dataset)
about = "Rows that exist cost less than rows that are written; these fill most gaps first."
st.caption(f"{about} {gaps_in_words(comparison)}")
if name := st.session_state.pop("filled", ""):
    st.success(
        plain(f"{name} is being measured; then Compare sets it beside the others."),
        icon=":material/check:",
    )
try:
    gaps = pick_gaps(comparison)
    with st.spinner("Choosing rows", show_time=True):
        proposal = fill(stores(), comparison, pool, budget, gaps)
except InputError as error:
    nothing_to_take(str(error), "coverage", "Open Coverage")
if not proposal.rows:
    nothing_to_take(proposal.note, "pairs", "Write texts for them instead")
if proposal.note:
    st.caption(plain(proposal.note))
if families_run(stores(), comparison) is None:
    offer(comparison)
dropped = dropped_rows(proposal)
figures = proposal.chosen
if dropped:
    figures = filled_without(stores(), comparison, proposal, budget, dropped)
show_figures(proposal, figures)
texts = samples_at(stores(), pool, [row.sample for row in proposal.rows], ["messages"])
left, right = st.columns([5, 6], gap="medium")
with left:
    row = show_rows(proposal, dropped, texts)
with right:
    show_row(proposal, row, dropped, texts[row.sample], comparison)
make_dataset(comparison, proposal, dropped, int(figures.rows))
