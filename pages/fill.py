"""Filling gaps from what exists: rows of a pool, each kept or dropped before they are a dataset."""

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import MeasureSpec
from fac.errors import InputError
from fac.manifest import MeasureManifest
from fac.questions.catalogue import (
    ADDITIONS,
    comparable,
    default_anchor,
    free_name,
    kind_of,
    measured,
    titles,
)
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import names
from fac.questions.families import families_run, gap_families, gaps_to_fill
from fac.questions.fill import (
    Budget,
    Fill,
    FillRow,
    as_lines,
    certain_together,
    certain_words,
    fill,
    publish,
    samples_at,
)
from fac.questions.fill_spans import fill_spans
from fac.questions.gap_evidence import gap_counts
from fac.questions.ledger import chosen_for, taken_before
from fac.ui import views
from fac.ui.access import needing, permit
from fac.ui.families import offer, pick_families
from fac.ui.jobs import counted, start
from fac.ui.pickers import (
    comparison_in_url,
    gaps_in_words,
    pick_anchor,
    pick_dataset,
    pick_run,
    stop_if_nothing_measured,
    url_of,
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
TAKEN = 3  # datasets of rows that were taken before, of which is said what became
ICON = ":material/format_color_fill:"


def pick_sides(manifests: Mapping[str, MeasureManifest]) -> tuple[str, str]:
    """The anchor and the dataset that has the gaps. Where nobody chose, they are the two oldest
    that are no additions, so that what is measured meanwhile, such as a pool that is larger than
    the anchor, changes nothing."""
    oldest_first = dict(reversed([*manifests.items()]))
    first = next(filter(is_collected, oldest_first), next(iter(oldest_first)))
    pair = [*filter(is_collected, comparable(oldest_first, first))][:2] or [first]
    corner = st.container()
    usual = default_anchor(stores(), {run: manifests[run] for run in pair})
    anchor = pick_anchor("Against the anchor", manifests, usual)
    with corner:
        dataset = pick_dataset("Fill gaps of", manifests, anchor, oldest=True)
    return anchor, dataset


def is_collected(run: str) -> bool:
    """Whether a measured dataset is one of its own, and not there to be added to another."""
    return kind_of(stores(), manifests[run].facts.dataset) not in ADDITIONS


def pick_pool(
    manifests: Mapping[str, MeasureManifest], anchor: str, dataset: str, below: DeltaGenerator
) -> str:
    """A measured dataset of the same encoder that rows may come from, the oldest where nobody chose
    one; ends the page without one. Of another one in the address it is said `below` that it can be
    none."""
    pools = {run: manifests[run] for run in comparable(manifests, anchor)}
    pools = {run: each for run, each in pools.items() if run not in (anchor, dataset)}
    if not pools:
        with below:
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
        below.warning(words, icon=":material/search_off:")
    usual = next(filter(is_collected, reversed([*pools])), [*pools][-1])
    return pick_run("Take rows of", "pool", pools, usual, of_page=True)


def settle(anchor: str, dataset: str, pool: str) -> None:
    """Keeps what the page is about, in the address and for this session: a default would change
    when something else is measured. Rows that were dropped of another pool are no rows of this."""
    about = {"anchor": anchor, "dataset": dataset, "pool": pool}
    for name, run in about.items():
        if st.query_params.get(name) != titles_of(run):
            set_param(name, titles_of(run), name == "pool")
    if st.session_state.setdefault("fill is about", about) != about:
        st.session_state["fill is about"] = about
        set_dropped([])


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


def show_figures(proposal: Fill, budget: Budget, comparison: Comparison) -> None:
    """How many gaps the rows give what is asked for, beside random ones of equal tokens, and how
    many certain ones stay so."""
    figures, random, there_are = proposal.chosen, proposal.random, proposal.asked
    taken = "Rows that are taken, less those that are dropped."
    card: list[tuple[str, str, str, str | None]] = [
        ("Rows", f"{figures.rows:,.0f}", taken, None),
        ("Tokens", f"{figures.tokens:,.0f}", "Content tokens of these rows.", None),
    ]
    each = "a row" if budget.per_feature == 1 else f"{budget.per_feature:,} rows"
    labels = {"certain": "Certain gaps", "gaps": "Gaps"}
    for name, label in labels.items():
        if not getattr(there_are, name):  # the caption says so
            continue
        mean, low, high, of, most = (
            getattr(part, name)
            for part in (random.mean, random.low, random.high, there_are, proposal.possible)
        )
        meaning = f"So many of {of:,.0f} get {each} that fires them, one at least; the whole pool "
        meaning += f"has that for {most:,.0f}."
        among = f"random rows: {mean:,.0f} ({low:,.0f} to {high:,.0f})"
        value = f"{getattr(figures, name):,.0f} of {of:,.0f}"
        card.append((f"{label} that get {each}", value, meaning, among))
    with st.container(horizontal=True, gap="small"):
        for label, value, meaning, note in card:
            options: Row = {"help": meaning, "border": True, "height": "stretch"}
            st.metric(label, value, note, **options, **views.AS_NOTE)
    sentences = [certain_words(stores(), comparison, proposal.certain)]
    if proposal.share < 1:
        share = int(100 * proposal.share)
        sentences.append(
            f"At least {share}% of the best that any rows of this budget do, certain gaps first."
        )
    st.caption(plain(" ".join(sentences)))


def show_rows(proposed: list[FillRow], dropped: list[int], texts: Mapping[int, Row]) -> FillRow:
    """The proposed rows a page at a time; the one that is open."""
    pager = Pager("fill", pool, size=20)
    page = proposed[pager.offset :][: pager.size]
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
    pager.draw(len(proposed), "row")
    by_number = {row.sample: row for row in proposed}
    first = page[0].sample
    opened = get_param("taken", first, read=int, valid=by_number.__contains__)
    return by_number[opened]


def show_row(
    proposed: list[FillRow], row: FillRow, dropped: list[int], text: Row, comparison: Comparison
) -> None:
    """One row: what it says, which gaps it fills, and whether it is taken."""
    order = [each.sample for each in proposed]
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
    show_fills(row, comparison)


def show_fills(row: FillRow, comparison: Comparison) -> None:
    """The gaps that a row fills, each with the words of the row on which it fires."""
    st.markdown(f"**Fills {counted(len(row.fills), 'gap')}**, certain ones first")
    pager = Pager("fills", pool, row.sample, size=GAPS)
    page = row.fills[pager.offset :][: pager.size]
    by_feature = names(stores(), comparison.anchor, page)
    spans = fill_spans(stores(), pool, comparison.role, row.sample, page)
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


def make_dataset(comparison: Comparison, kept: Fill) -> None:
    """The kept rows as a dataset, which is measured at once."""
    n_rows, before = len(kept.rows), taken_before(stores(), comparison, kept)
    if before:
        words = f"Exactly these rows are {plain(before)} already: choose others, or what to do next"
        st.caption(f":material/task_alt: {words} above.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = free_name(stores(), f"{titles_of(comparison.dataset)}-filled")
        tie = param_widget("name", name, of_page=True)
        name = st.text_input("Name of the new dataset", max_chars=80, width=280, **tie)
        pressed = st.button(
            f"Make a dataset of {counted(n_rows, 'row')} and measure it",
            type="primary",
            icon=":material/add_notes:",
            **needing("launch", disabled=bool(before) or not n_rows),
        )
        st.download_button(
            "JSONL",
            lambda: "".join(f"{line}\n" for line in as_lines(stores(), comparison, kept)),
            "filled.jsonl",
            on_click="ignore",
            icon=":material/download:",
            disabled=not n_rows,
            help="The rows that are kept, each with the gaps and the families that it fills.",
        )
        if kept.left:
            first = kept.left[:LINKED]
            which = f"the first {LINKED:,} of " if len(kept.left) > LINKED else ""
            are = "is" if len(kept.left) == 1 else "are"
            words = f"Write for {which}the {counted(len(kept.left), 'gap')} that {are} left"
            link("pairs", words, features=",".join(map(str, first)))
    if not pressed:
        return
    permit("launch", f"dataset {name}")
    run = publish(stores(), comparison, kept, name)
    spec = stores().runs.manifest(kept.pool).spec
    assert isinstance(spec, MeasureSpec)
    start(replace(spec, dataset=run), f"Measuring {name}")
    st.rerun()


def show_taken(comparison: Comparison) -> None:
    """What became of the rows that were taken for this dataset before, the newest first."""
    same = comparable(manifests, comparison.anchor)
    for chosen in chosen_for(stores(), comparison)[:TAKEN]:
        name = f"**{plain(chosen.name)}**, {counted(chosen.rows, 'row')} of {plain(chosen.pool)}"
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            if chosen.measure in same:
                show_measured(replace(comparison, added=(chosen.measure,)), name)
            elif is_being_measured(chosen.run):
                words = "is being measured; then this says what it changes."
                st.markdown(f":material/hourglass_top: {name}, {words}")
            else:
                st.markdown(f"{name}, is not measured as the anchor is.", width="stretch")
                link("datasets", "Measure it", open=chosen.run)


def show_measured(together: Comparison, name: str) -> None:
    """What measured rows change, and the ways to see them together with the dataset."""
    certain = certain_together(stores(), together)
    was, now = (coverage(stores(), each) for each in (replace(together, added=()), together))
    dataset, addition = map(titles_of, together.runs)
    fac = f"FAC {views.share(was.fac)} → {views.share(now.fac)}"
    words = f"{name}, measured: together with {plain(dataset)} {fac}, and {certain.words()}."
    st.markdown(f":material/check: {words}", width="stretch")
    view = {"anchor": titles_of(together.anchor), **url_of(together)}
    sides = {"before": dataset, "after": addition, "with": dataset}
    link("compare", "Compare before and after", **view, **sides)
    if certain.absent + certain.under:
        link("coverage", "What both still lack", **view, dataset=dataset, **{"with": addition})


def is_being_measured(dataset: str) -> bool:
    """Whether a job about this dataset run waits or runs."""
    live = stores().queue.live()
    return any(job.step == MeasureSpec.step and job.spec["dataset"] == dataset for job in live)


def titles_of(run: str) -> str:
    """What a measured dataset is called in lists."""
    return titles(manifests)[run]


title("Fill")
manifests = measured(stores())
stop_if_nothing_measured(manifests)
if len(manifests) == 1:
    views.empty(
        "One dataset alone has no gaps",
        "Filling takes three: what shows what could be there, what has gaps against it, and a pool "
        "that rows are taken from. Add and measure the dataset you want to improve.",
        icon=":material/format_color_fill:",
        page="datasets",
        link="Add a dataset",
    )
    st.stop()
warn_of_strays(manifests)
sides, below = st.container(horizontal=True), st.container()
with sides:
    anchor, dataset = pick_sides(manifests)
    pool = pick_pool(manifests, anchor, dataset, below)
settle(anchor, dataset, pool)
with st.container(horizontal=True, vertical_alignment="bottom"):
    budget = pick_budget()
comparison = comparison_in_url(anchor, dataset)
about = "Rows that exist cost less than rows that are written; these fill most gaps first."
st.caption(f"{about} {gaps_in_words(comparison)}")
show_taken(comparison)
try:
    gaps = pick_gaps(comparison)
    with st.spinner("Choosing rows", show_time=True):
        proposal = fill(stores(), comparison, pool, budget, gaps)
except InputError as error:
    counts = gap_counts(stores(), comparison)
    if counts.certain + counts.possible:
        views.empty(
            "No rows to take", plain(str(error)), icon=ICON, page="datasets", link="Add a pool"
        )
    else:
        words = f"{error} Take another dataset or anchor above, or other settings on Coverage."
        views.empty(
            "Nothing to fill", plain(words), icon=ICON, page="coverage", link="Open Coverage"
        )
    st.stop()
if not proposal.rows:
    words = "Write texts for them instead"
    views.empty("No rows to take", plain(proposal.note), icon=ICON, page="pairs", link=words)
    st.stop()
if proposal.note:
    st.caption(plain(proposal.note))
if families_run(stores(), comparison) is None:
    offer(comparison)
dropped = dropped_rows(proposal)
kept = fill(stores(), comparison, pool, budget, gaps, tuple(sorted(dropped)))
show_figures(kept, budget, comparison)
texts = samples_at(stores(), pool, [row.sample for row in proposal.rows], ["messages"])
# What a kept row fills depends on the others that are kept; of a dropped one it is what it would.
by_number = {row.sample: row for row in kept.rows}
rows = [by_number.get(row.sample, row) for row in proposal.rows]
left, right = st.columns([5, 6], gap="medium")
with left:
    row = show_rows(rows, dropped, texts)
with right:
    show_row(rows, row, dropped, texts[row.sample], comparison)
make_dataset(comparison, kept)
