"""What the anchor shows and the dataset does not: the figure, its curve, and every gap by name."""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from fac import charts
from fac.config import JUDGES, JudgeSpec
from fac.manifest import MeasureManifest
from fac.questions import catalogue
from fac.questions.comparison import Comparison, by_role, coverage, telling_curve
from fac.questions.explanations import explained
from fac.questions.gap_evidence import BADGES, BELIEF, gap_features
from fac.questions.gaps import GapList, gap_page, orders, shown_columns
from fac.questions.relevance import task_profiles, unjudged
from fac.schema import EVERY_ROLE, ROLES, CoverageResult
from fac.ui import pickers, views
from fac.ui.explanations import doubt, headline, show_explanations, show_verdicts
from fac.ui.jobs import key_line, server_fields, show_failures, start
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, table, ticked, untick
from fac.ui.text import Row, chips_html, plain, show_examples, show_near

PAGE = {"title": "Coverage", "section": "Measure", "icon": "donut_large", "order": 30}

SOME_PAIRS, MOST_PAIRS = 10, 2000  # gaps that pairs are proposed for, and may be asked for

# Icon and colour of each degree of belief.
BADGE_LOOKS: dict[str, tuple[str, Any]] = {
    "certain": (":material/verified:", "green"),
    "possible": (":material/help:", "orange"),
    "artefact": (":material/blur_on:", "gray"),
}


@st.fragment
@views.guard()
def answer(manifests: Mapping[str, MeasureManifest]) -> None:
    """Everything about one comparison; moves with its controls without the rest of the page."""
    comparison = controls(manifests)
    result = coverage(stores(), comparison)
    if limits := unjudged(stores(), comparison.anchor, comparison.relevance):
        st.caption(f":material/gavel: {plain(limits)}")
    if gap_features(stores(), comparison):
        gaps(comparison)
    elif result.n_anchor:
        views.empty(
            "Nothing is missing",
            "The dataset shows every relevant feature of the anchor at these settings.",
            icon=":material/task_alt:",
        )
    else:
        views.empty(
            "The anchor shows nothing here",
            "Lower the threshold or the support, or look at the tokens of another role.",
            icon=":material/filter_alt_off:",
        )
    figures(comparison, result)


def controls(manifests: Mapping[str, MeasureManifest]) -> Comparison:
    """One row: what is compared, and what counts."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        anchor, dataset = pickers.pick_pair(manifests)
        threshold = pickers.threshold_picker(anchor, dataset)
        relevance = pickers.pick_relevance(anchor)
        with st.popover("More", icon=":material/tune:", help="Whose tokens, support, the judge"):
            role = views.choice("Whose tokens", (EVERY_ROLE, *ROLES), "role")
            support = st.number_input(
                "Anchor support",
                1,
                1000,
                width=150,
                help="Samples of the anchor that must show a feature before it counts as its own.",
                **views.param_widget(
                    "support", 1, read=int, valid=lambda value: 1 <= value <= 1000
                ),
            )
            st.markdown("**Which features matter for a task**")
            judge_form(anchor)
    return Comparison(anchor, dataset, threshold, support, role, relevance)


def figures(comparison: Comparison, result: CoverageResult) -> None:
    """What the gaps add up to, below them."""
    st.subheader("Figures", anchor=False)
    views.cards(
        (
            "FAC",
            views.share(result.fac),
            "Covered ÷ anchor: the share of its features shown here too.",
        ),
        ("Anchor", f"{result.n_anchor:,}", "Relevant features the anchor shows, F(P)."),
        ("Dataset", f"{result.n_dataset:,}", "Relevant features the dataset shows, F(Q)."),
        ("Covered", f"{result.n_covered:,}", "Features both show."),
        ("Missing", f"{result.n_missing:,}", "Features only the anchor shows, F_miss."),
        (
            "Smoothed KL",
            "–" if result.kl_smoothed != result.kl_smoothed else f"{result.kl_smoothed:.2f}",
            "Divergence of the two feature sets in nats, smoothed by 0.01; 0 is identical.",
        ),
    )
    left, right = st.columns([3, 2], gap="medium")
    with left.container(border=True):
        st.markdown("**Coverage at every threshold**")
        figure = charts.coverage_curve(telling_curve(stores(), comparison), comparison.threshold)
        st.plotly_chart(figure, config=views.CHART, key="curve")
    with right.container(border=True):
        st.markdown("**By role**")
        figure = charts.part_bars(
            [{**row, "part": row["role"]} for row in by_role(stores(), comparison)]
        )
        st.plotly_chart(figure, config=views.CHART, key="roles")


def judge_form(anchor: str) -> None:
    """Asks which features matter for a task: a language model by the task's criteria, or the
    labels of the data by how much more often each feature fires with one of them."""
    runs = stores().runs
    profiles = task_profiles(runs)
    with st.form("judge", border=False):
        task = st.selectbox("Task", list(profiles), format_func=lambda name: profiles[name].title)
        labels = runs.manifest(runs.manifest(anchor).facts.dataset).facts.labels
        judges = [name for name in JUDGES if labels or not JUDGES[name].needs_label]
        judges.sort(key=lambda name: JUDGES[name].needs_label)
        judge = st.radio(
            "Judge", judges, format_func=lambda name: JUDGES[name].title, horizontal=True
        )
        label = st.selectbox("Label that marks the task", list(labels)) if labels else ""
        key_line()
        model, endpoint, budget = server_fields()
        if st.form_submit_button("Judge", icon=":material/gavel:"):
            asks = JUDGES[judge].needs_model
            spec = JudgeSpec(
                measure=anchor,
                task=task,
                rubric=profiles[task].rubric,
                judge=judge,
                explanations=tuple(explained(stores(), anchor)) if asks else (),
                label="" if asks else label,
                model=model if asks else "",
                endpoint=endpoint if asks else "",
                budget_tokens=budget if asks else None,
            )
            start(spec, f"Judging which features matter for {task}")
            st.rerun()


@st.fragment
@views.guard()
def gaps(comparison: Comparison) -> None:
    """The ranked list, and the evidence for the gap that is chosen."""
    anchor, names = comparison.anchor, catalogue.titles(catalogue.measured(stores()))
    view = {
        "anchor": names[anchor],
        "dataset": names[comparison.dataset],
        **pickers.url_of(comparison),
    }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("Gaps", anchor=False, width="stretch")
        pairs_corner = st.container(horizontal=True, width="content", vertical_alignment="bottom")
        views.link("review", "Review these", which="gaps", **view)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = views.search()
        badge = views.choice("Belief", ("any", *BADGES), "badge", help=BELIEF)
        columns = orders()
        sort = views.order(
            {name: column.order for name, column in columns.items()}, "by", width=230
        )
        st.download_button(
            "JSONL",
            lambda: as_jsonl(comparison),
            "gaps.jsonl",
            on_click="ignore",
            icon=":material/download:",
            help="All gaps at these settings, one JSON object a line.",
        )
    listing = GapList(needle, badge, sort, descending=not columns[sort].ascending)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        pager = Pager("gaps", comparison, listing)
        rows, total = gap_page(stores(), comparison, listing, offset=pager.offset, limit=pager.size)
        ticks = ticked("gaps", comparison)
        columns_shown = shown_columns(explained=bool(explained(stores(), anchor)))
        table(rows, columns_shown, key="gaps", opens="gap", height=520, ticked=ticks)
        pager.draw(total, "gap")
    if total:
        with pairs_corner:
            write_pairs(comparison, listing, total, ticks.ids, view)
    with right:
        every = gap_features(stores(), comparison)
        by_feature = {row["feature"]: row for row in rows}
        first = next(iter(by_feature), every[0])
        gap = views.get_param("gap", first, read=int, valid=every.__contains__)
        evidence(comparison, gap, by_feature.get(gap))


def write_pairs(
    comparison: Comparison, listing: GapList, total: int, ticks: set[int], view: dict[str, str]
) -> None:
    """From here to pairs: for what was ticked, else for the first gaps of the list."""
    if ticks:
        st.button(f"Untick {len(ticks):,}", type="tertiary", on_click=untick, args=("gaps",))
    most = min(total, MOST_PAIRS)
    n = st.number_input(
        "First of the list",
        1,
        most,
        min(SOME_PAIRS, most),
        width=130,
        key=f"pairs for {most}",
        disabled=bool(ticks),  # stays, since a table that moves is ticked in the wrong row
        help="As many gaps as this, in the order below; or tick the rows you want.",
    )
    if ticks:
        features = sorted(ticks)
    else:
        rows, _ = gap_page(stores(), comparison, listing, limit=int(n))
        features = [row["feature"] for row in rows]
    words, addresses = f"Write pairs for these {len(features):,}", ",".join(map(str, features))
    views.link("pairs", words, icon=":material/edit_note:", features=addresses, **view)


def evidence(comparison: Comparison, feature: int, row: Row | None) -> None:
    """One gap: what the anchor has beside what the dataset comes nearest to."""
    anchor, cache, manifests = comparison.anchor, stores().cache, catalogue.measured(stores())
    sae = catalogue.sae_of(stores(), manifests[anchor])
    facts = cache.feature(anchor, feature, sae_run=sae)
    assert facts is not None, "a gap is a feature of the anchor"
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f"#### {headline(anchor, feature)}", width="stretch", help=doubt(anchor, feature)
            )
            if row:
                icon, colour = BADGE_LOOKS[row["badge"]]
                st.badge(row["badge"], icon=icon, color=colour, help=BELIEF)
        show_explanations(anchor, feature, brief=True)
        show_verdicts(anchor, feature)
        if facts["promotes"]:
            st.html(chips_html(facts["promotes"][:6], "up"))
        st.markdown("**In the anchor**")
        show_examples(cache.spans(anchor, feature, "top")[:4])
        st.markdown("**Nearest in the dataset**")
        threshold = comparison.threshold
        near = cache.near(comparison.dataset, feature, sae_run=sae, threshold=threshold)
        show_near(near[:3])
        name = catalogue.titles(manifests)[anchor]
        views.link("features", "The whole feature", feature=str(feature), dataset=name)


def as_jsonl(comparison: Comparison) -> str:
    rows, _ = gap_page(stores(), comparison, limit=10_000_000)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


title("Coverage")
manifests = catalogue.measured(stores())
pickers.stop_if_nothing_measured(manifests)
if len(manifests) == 1:
    views.empty(
        "One dataset alone has no gaps",
        "Coverage compares two: add the dataset you want to improve, and measure it.",
        icon=":material/donut_large:",
        page="datasets",
        link="Add a dataset",
    )
    st.stop()
show_failures("relevance")
answer(manifests)
