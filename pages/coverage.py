"""What the anchor shows and the dataset does not: the figure, its curve, and every gap by name."""

import json
from typing import Any

import streamlit as st

from fac import charts, ui
from fac.schema import EVERY_ROLE, ROLES

SORTS = {
    "n_anchor": "Most common in the anchor",
    "expected": "Most expected here",
    "chance": "Least likely by luck",
    "near": "Nearest miss",
    "anchor_peak": "Strongest in the anchor",
    "score": "Best explained",
    "feature": "Number",
}
RISING = ("chance", "feature")
SOME_PAIRS, MOST_PAIRS = 10, 2000  # gaps that pairs are proposed for, and may be asked for


@st.fragment
@ui.guard()
def answer(anchor: str, dataset: str) -> None:
    """FAC for the settings; moves with the slider without the rest of the page."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        threshold = ui.threshold_slider(anchor, dataset)
        relevance = ui.pick_relevance(anchor)
        with st.popover("Judge", icon=":material/gavel:", help="Which features matter for a task"):
            ui.judge_form(anchor)
        role = ui.choice("Whose tokens", (EVERY_ROLE, *ROLES), "role")
        support = st.number_input(
            "Anchor support",
            1,
            1000,
            width=150,
            help="Samples of the anchor that must show a feature before it counts as its own.",
            **ui.param_widget("support", 1, read=int, valid=lambda value: 1 <= value <= 1000),
        )
    asked = {
        "relevance": relevance,
        "threshold": threshold,
        "role": role,
        "min_support": support,
    }
    result = ui.coverage(anchor, dataset, **asked)
    if words := ui.judged_words(anchor, relevance):
        st.caption(f":material/gavel: {ui.plain(words)}")
    ui.cards(
        (
            "FAC",
            ui.share(result.fac),
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
        rows = ui.curve(anchor, dataset, relevance=relevance, role=role, min_support=support)
        st.plotly_chart(charts.coverage_curve(rows, threshold), config=ui.CHART, key="curve")
    with right.container(border=True):
        st.markdown("**By role**")
        rows = ui.by_role(
            anchor, dataset, relevance=relevance, threshold=threshold, min_support=support
        )
        st.plotly_chart(charts.role_bars(rows), config=ui.CHART, key="roles")
    if result.n_missing:
        gaps(anchor, dataset, asked)
    elif result.n_anchor:
        ui.empty(
            "Nothing is missing",
            "The dataset shows every relevant feature of the anchor at these settings.",
            icon=":material/task_alt:",
        )
    else:
        ui.empty(
            "The anchor shows nothing here",
            "Lower the threshold or the support, or look at the tokens of another role.",
            icon=":material/filter_alt_off:",
        )


@st.fragment
@ui.guard()
def gaps(anchor: str, dataset: str, asked: dict[str, Any]) -> None:
    """The ranked list, and the evidence for the gap that is chosen."""
    titles = ui.titles(ui.measured())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("Gaps", anchor=False, width="stretch")
        making = st.container(horizontal=True, width="content", vertical_alignment="bottom")
        ui.link(
            ui.REVIEW,
            "Review these",
            anchor=titles[anchor],
            dataset=titles[dataset],
            which="gaps",
            **ui.gaps_in_link(asked),
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = ui.search()
        badge = ui.choice("Belief", ("any", *ui.BADGES), "badge", help=ui.BELIEF)
        sort = ui.order(SORTS, "by", width=230)
        st.download_button(
            "JSONL",
            lambda: as_jsonl(anchor, dataset, asked),
            "gaps.jsonl",
            on_click="ignore",
            icon=":material/download:",
            help="All gaps at these settings, one JSON object a line.",
        )
    listing: dict[str, Any] = {
        "search": search,
        "badge": badge,
        "sort": sort,
        "descending": sort not in RISING,
    }
    left, right = st.columns([5, 4], gap="medium")
    with left:
        pager = ui.Pager("gaps", anchor, dataset, asked, listing)
        page = {"offset": pager.offset, "limit": pager.size}
        rows, total = ui.gap_table(anchor, dataset, **asked, **listing, **page)
        explained = bool(ui.explained(anchor))
        text, score = (("explanation",), ("score",)) if explained else ((), ())
        rest = ("n_anchor", "badge", *score, "expected", "chance", "near")
        columns = ("feature", "label", *text, *rest)
        ticked = ui.ticked("gaps", anchor, dataset, asked)
        ui.table(rows, columns, key="gaps", opens="gap", height=520, ticked=ticked)
        pager.draw(total, "gap")
    if total:
        with making:
            write(anchor, dataset, asked, listing, total, ticked.ids)
    with right:
        missing = ui.coverage(anchor, dataset, **asked).missing
        known = {row["feature"]: row for row in rows}
        first = next(iter(known), int(missing[0]))
        gap = ui.get_param("gap", first, read=int, valid=lambda feature: feature in missing)
        evidence(anchor, dataset, gap, known.get(gap))


def write(
    anchor: str,
    dataset: str,
    asked: dict[str, Any],
    listing: dict[str, Any],
    total: int,
    ticked: set[int],
) -> None:
    """From here to pairs: for what was ticked, else for the first gaps of the list."""
    titles = ui.titles(ui.measured())
    if ticked:
        st.button(f"Untick {len(ticked):,}", type="tertiary", on_click=ui.untick, args=("gaps",))
    most = min(total, MOST_PAIRS)
    n = st.number_input(
        "First of the list",
        1,
        most,
        min(SOME_PAIRS, most),
        width=130,
        key=f"pairs for {most}",
        disabled=bool(ticked),  # stays, since a table that moves is ticked in the wrong row
        help="As many gaps as this, in the order below; or tick the rows you want.",
    )
    if ticked:
        features = sorted(ticked)
    else:
        rows, _ = ui.gap_table(anchor, dataset, **asked, **listing, limit=int(n))
        features = [row["feature"] for row in rows]
    st.page_link(
        ui.PAIRS,
        label=f"Write pairs for these {len(features):,}",
        icon=":material/edit_note:",
        query_params={
            "features": ",".join(map(str, features)),
            "anchor": titles[anchor],
            "dataset": titles[dataset],
            **ui.gaps_in_link(asked),
        },
    )


def evidence(anchor: str, dataset: str, feature: int, row: ui.Row | None) -> None:
    """One gap: what the anchor has beside what the dataset comes nearest to."""
    sae = ui.sae_of(ui.measured()[anchor])
    facts = ui.cache().feature(anchor, feature, sae_run=sae)
    assert facts is not None, "a gap is a feature of the anchor"
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"#### {ui.headline(anchor, feature)}", width="stretch")
            if row:
                icon, colour = ui.BADGES[row["badge"]]
                st.badge(row["badge"], icon=icon, color=colour, help=ui.BELIEF)
        ui.show_explanations(anchor, feature, brief=True)
        ui.show_verdicts(anchor, feature)
        if facts["promotes"]:
            st.html(ui.chips_html(facts["promotes"][:6], "up"))
        st.markdown("**In the anchor**")
        ui.show_examples(ui.cache().spans(anchor, feature, "top")[:4])
        st.markdown("**Nearest in the dataset**")
        ui.show_near(ui.cache().near(dataset, feature, sae_run=sae)[:3])
        shown = ui.titles(ui.measured())[anchor]
        ui.link(ui.FEATURES, "The whole feature", feature=str(feature), dataset=shown)


def as_jsonl(anchor: str, dataset: str, asked: dict[str, Any]) -> str:
    rows, _ = ui.gap_table(anchor, dataset, limit=10_000_000, **asked)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ui.title("Coverage")
found = ui.measured()
ui.stop_if_nothing_measured(found)
if len(found) == 1:
    ui.empty(
        "One dataset alone has no gaps",
        "Coverage compares two: add the dataset you want to improve, and measure it.",
        icon=":material/donut_large:",
        page=ui.DATASETS,
        link="Add a dataset",
    )
    st.stop()
dataset_column, anchor_column = st.columns(2)
with anchor_column:
    anchor = ui.pick("Against the anchor", "anchor", found, ui.default_anchor(found))
with dataset_column:
    dataset = ui.pick("Coverage of", "dataset", found, ui.default_dataset(found, anchor))
ui.show_failures("relevance")
answer(anchor, dataset)
