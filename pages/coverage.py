"""What the anchor shows and the dataset does not: the figure, its curve, and every gap by name."""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from fac import charts
from fac.config import JUDGES, JudgeSpec
from fac.manifest import MeasureManifest
from fac.questions import catalogue
from fac.questions.comparison import (
    Comparison,
    by_role,
    certainty,
    coverage,
    growth_of,
    telling_curve,
)
from fac.questions.explanations import explained
from fac.questions.gap_evidence import BADGES, BELIEF, KINDS, gap_counts, gap_features
from fac.questions.gaps import GapList, gap_page, orders, shown_columns
from fac.questions.outlook import outlook
from fac.questions.relevance import judged, judged_anew, limits_of, scope, task_profiles
from fac.questions.shares import GROUPINGS, by_group, weighted
from fac.schema import EVERY_ROLE, ROLES, CoverageResult
from fac.ui import pickers, views
from fac.ui.access import needing
from fac.ui.endpoints import server_fields
from fac.ui.explanations import doubt, headline, show_explanations, show_verdicts
from fac.ui.families import show_families
from fac.ui.jobs import show_failures, start
from fac.ui.opinion import show_opinion
from fac.ui.report import report_button
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, table, ticked, untick
from fac.ui.text import Row, chips_html, plain, show_examples, show_near
from fac.ui.writing import asking_words

PAGE = {"title": "Coverage", "section": "Measure", "icon": "donut_large", "order": 30}

SOME_PAIRS, MOST_PAIRS = 10, 2000  # gaps that pairs are proposed for, and may be asked for

EVIDENCE = 700  # pixels of what is shown of one gap

KIND = """
**Absent**: no sample of the dataset shows it; these are F_miss.

**Under-represented**: some do, but significantly fewer than the anchor leads one to expect.
"""

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
    pickers.warn_of_strays(manifests)
    comparison = controls(manifests)
    result = coverage(stores(), comparison)
    views.lead(outlook(stores(), comparison))
    offer_judged(comparison.anchor)
    if limits := limits_of(stores(), comparison.anchor, comparison.relevance, result.n_anchor):
        st.caption(f":material/gavel: {plain(limits)}")
    if gap_features(stores(), comparison):
        gaps(comparison)
        show_families(comparison)
        show_opinion(comparison)
    if result.n_anchor:
        figures(comparison, result)


def controls(manifests: Mapping[str, MeasureManifest]) -> Comparison:
    """One row: what is compared, and what counts."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        anchor, dataset = pickers.pick_pair(manifests)
        threshold = pickers.threshold_picker(anchor, dataset)
        relevance = pickers.pick_relevance(anchor)
        about = "What is added, whose tokens, support, the judge"
        with st.popover("More", icon=":material/tune:", help=about):
            added = pickers.pick_added(manifests, anchor, dataset)
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
            judge_form(Comparison(anchor, dataset, threshold, support, role, added=added))
    return Comparison(anchor, dataset, threshold, support, role, relevance, added)


def figures(comparison: Comparison, result: CoverageResult) -> None:
    """What the gaps add up to, and how far that can be believed: below them."""
    doubt, counts = certainty(stores(), comparison), gap_counts(stores(), comparison)
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
            "Certain",
            f"{counts.certain:,}",
            "Gaps, absent or too rare, that chance does not explain.",
        ),
    )
    st.caption(views.doubt_words(doubt))
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**Coverage at every threshold**")
        rows = telling_curve(stores(), comparison)
        marks: dict[str, Any] = views.ends_of(doubt)
        figure = charts.coverage_curve(rows, comparison.threshold, result.fac, **marks)
        alt = "Coverage by threshold, with its interval and the yardstick at the one in use"
        st.plotly_chart(figure, config=views.CHART, key="curve", alt=alt)
    with right.container(border=True, height="stretch"):
        st.markdown("**Would more of the same help?**")
        growing(comparison, result)
    with st.container(border=True):
        details(comparison)


PARTS = ("role", *GROUPINGS)  # what coverage may be split by


def details(comparison: Comparison) -> None:
    """Coverage of each part of the data, and with features that do not count alike: asked for."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Coverage by**", width="content")
        part = st.segmented_control(
            "Coverage by",
            PARTS,
            format_func=str.capitalize,
            label_visibility="collapsed",
            required=True,
            **views.param_widget("part", PARTS[0], valid=lambda name: name in PARTS),
        )
    if part == "role":
        rows, note = [{**row, "part": row["role"]} for row in by_role(stores(), comparison)], ""
    else:
        groups = by_group(stores(), comparison, part)
        rows, note = [{**row, "part": row["group"]} for row in groups.rows], groups.note
    if rows:
        alt = f"Covered and missing features by {part}"
        st.plotly_chart(charts.part_bars(rows), config=views.CHART, key="parts", alt=alt)
        note = f"Teal is covered, amber is missing. {note}"
    st.caption(plain(note))
    st.markdown("**Where features do not count alike**")
    weights = weighted(stores(), comparison)
    views.cards(
        (
            "FAC by frequency",
            views.share(weights.by_frequency),
            "Features weighed by the anchor's samples that fire them.",
        ),
        (
            "FAC by magnitude",
            views.share(weights.by_magnitude),
            "Features weighed by their mean activation over the anchor's samples.",
        ),
        (
            "KL of firing rates",
            "–" if math.isnan(weights.divergence) else f"{weights.divergence:.2f}",
            "Divergence of the anchor's firing rates from the dataset's, in nats; 0 is identical.",
        ),
    )
    if weights.note:
        st.caption(plain(weights.note))


def growing(comparison: Comparison, result: CoverageResult) -> None:
    """How many of the anchor's features parts of the dataset show, and twice as much would."""
    growth = growth_of(stores(), comparison)
    if growth.rows:
        steps = [(row["size"], row["features"], row["low"], row["high"]) for row in growth.rows]
        n = sum(not row["forecast"] for row in growth.rows)
        seen = [(0.0, 0.0), *((size, features) for size, features, *_ in steps[:n])]
        figure = charts.growth_curve(seen, steps[n:], result.n_anchor)
        alt = "Features shown by parts of the dataset, and expected from twice its samples"
        st.plotly_chart(figure, config=views.CHART, key="growth", alt=alt)
    st.caption(plain(growth.answer))


@st.fragment
@views.guard()
def judge_form(question: Comparison) -> None:
    """Asks which features matter for a task: a language model by the task's criteria, of the gaps
    unless somebody wants all; or labels of any dataset of the same encoder, by how much more often
    a feature fires with one of them."""
    anchor, threshold = question.anchor, question.threshold
    profiles, labels = task_profiles(stores().runs), labels_about(anchor)
    task = st.selectbox("Task", list(profiles), format_func=lambda name: profiles[name].title)
    judges = [name for name in JUDGES if labels or not JUDGES[name].needs_label]
    judges.sort(key=lambda name: JUDGES[name].needs_label)
    names = {name: JUDGES[name].title for name in judges}
    judge = st.radio("Judge", judges, format_func=names.__getitem__, horizontal=True)
    fields: Row = {"measure": anchor, "task": task, "rubric": profiles[task].rubric, "judge": judge}
    asks = JUDGES[judge].needs_model
    if asks:
        fields |= server_fields("judge")
        fields |= {"features": judged_features(question)}
        fields |= {"explanations": tuple(explained(stores(), anchor))}
    else:
        help = (
            f"Features that peak above {threshold:g} more often in samples with this label than in "
            "the others of its dataset, length held equal."
        )
        title = labels.__getitem__
        run, label = st.selectbox(
            "Label that marks the task", [*labels], format_func=title, help=help
        )
        fields |= {"label": label, "labels": "" if run == anchor else run, "threshold": threshold}
    about = st.container()  # above the button
    pressed = st.button("Judge", icon=":material/gavel:", **needing("launch"))
    if asks and not fields["model"] and not pressed:
        about.caption("Name a model to see what it may take.")
        return
    spec = JudgeSpec(**fields)
    if asks:
        about.caption(asking_words(spec))
    if pressed:
        start(judged_anew(stores().runs, spec), f"Judging which features matter for {task}")
        st.rerun()


def judged_features(question: Comparison) -> tuple[int, ...]:
    """Draws which features a language model is asked about; () is all that fire."""
    lacking = [] if question.dataset == question.anchor else gap_features(stores(), question)
    help = "Coverage within a task speaks of what was judged alone; judge all to compare datasets."
    return pickers.pick_asked(lacking, help)


def labels_about(anchor: str) -> dict[tuple[str, str], str]:
    """Labels that say something of the anchor's features, its own first: in words, by measure run
    and label."""
    manifests = catalogue.measured(stores())
    names, words = catalogue.titles(manifests), {}
    for run in sorted(catalogue.comparable(manifests, anchor), key=lambda run: run != anchor):
        facts = manifests[run].facts
        for label, n in stores().runs.manifest(facts.dataset).facts.labels.items():
            words[run, label] = f"{label} ({n:,} of {facts.n_samples:,} in {names[run]})"
    return words


def offer_judged(anchor: str) -> None:
    """What became of the judges that this person started about the anchor, to be used or not."""
    started, by_task = st.session_state.get("started", []), judged(stores(), anchor)
    for number in list(started):
        job = stores().queue.job(number)
        task = job.spec.get("task", "")
        if job.step != JudgeSpec.step or job.status != "done" or task not in by_task:
            continue
        relevance = by_task[task]
        if relevance.run != job.run_id:
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(plain(scope(stores(), anchor, relevance)), icon=":material/gavel:")
            for label, used in ((f"Use it for {task}", True), ("Dismiss", False)):
                key = f"{label} {number}"
                views.action_button(label, "", settle_judged, number, task, used, key=key)


def settle_judged(job: int, task: str, used: bool) -> None:
    """The offer is answered."""
    st.session_state["started"].remove(job)
    if used:
        views.set_param("relevant", task)


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
        needle = views.search()
        badge = views.choice("Belief", ("any", *BADGES), "badge", help=BELIEF)
        kind = views.picked("Kind", ("any", *KINDS), "kind", help=KIND, width=165)
        columns = orders()
        sort = views.order({name: column.order for name, column in columns.items()}, "by")
    listing = GapList(needle, badge, sort, not columns[sort].ascending, kind)
    left, right = st.columns([7, 5], gap="medium")
    with left:
        pager = Pager("gaps", comparison, listing)
        rows, total = gap_page(stores(), comparison, listing, offset=pager.offset, limit=pager.size)
        ticks = ticked("gaps", comparison)
        columns_shown = shown_columns(explained=bool(explained(stores(), anchor)))
        table(rows, columns_shown, key="gaps", opens="gap", height=500, ticked=ticks, tall=True)
        pager.draw(total, "gap")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            if total:
                write_pairs(comparison, listing, total, ticks.ids, view)
            views.link("review", "Review these", which="gaps", **view)
            st.download_button(
                "JSONL",
                lambda: as_jsonl(comparison),
                "gaps.jsonl",
                on_click="ignore",
                icon=":material/download:",
                help="All gaps at these settings, one JSON object a line.",
            )
            report_button(comparison)
    with right:
        if not total:
            st.caption("No gap matches: empty the search, or let any belief and kind count.")
            return
        every = gap_features(stores(), comparison)
        by_feature = {row["feature"]: row for row in rows}
        first = next(iter(by_feature), every[0])
        gap = views.get_param("gap", first, read=int, valid=every.__contains__)
        if gap not in by_feature:
            (by_feature[gap],), _ = gap_page(stores(), comparison, GapList(search=f"#{gap}"))
        evidence(comparison, by_feature[gap])


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


def evidence(comparison: Comparison, row: Row) -> None:
    """One gap: what the anchor has beside what the dataset comes nearest to."""
    anchor, feature = comparison.anchor, row["feature"]
    cache, manifests = stores().cache, catalogue.measured(stores())
    sae = catalogue.sae_of(stores(), manifests[anchor])
    facts = cache.feature(anchor, feature, sae_run=sae)
    assert facts is not None, "a gap is a feature of the anchor"
    # As high as the list beside it: what comes below the two would be far away, and not seen.
    with st.container(border=True, height=EVIDENCE):
        st.markdown(f"#### {headline(anchor, feature)}", help=doubt(anchor, feature))
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            icon, colour = BADGE_LOOKS[row["badge"]]
            st.badge(row["badge"], icon=icon, color=colour, help=BELIEF)
            st.badge(row["kind"], color="gray", help=KIND)
        st.caption(plain(f"{row['reason']} {rate_words(row)}"))
        show_explanations(anchor, feature, brief=True)
        show_verdicts(anchor, feature)
        if facts["promotes"]:
            st.caption("Makes these tokens likelier:")
            st.html(chips_html(facts["promotes"][:6], "up"))
        st.markdown("**In the anchor**")
        examples = partial(of_role, comparison.role)
        show_examples(examples(cache.spans(anchor, feature, "top"))[:4])
        if row["n_dataset"]:
            st.markdown("**Strongest in the dataset**")
            spans = [span for run in comparison.runs for span in cache.spans(run, feature, "top")]
            show_examples(sorted(examples(spans), key=lambda span: -span["peak"])[:3])
        else:
            st.markdown("**Nearest in the dataset**")
            at = partial(cache.near, sae_run=sae, threshold=comparison.threshold)
            near = [miss for run in comparison.runs for miss in at(run, feature)]
            show_near(sorted(examples(near), key=lambda miss: -miss["pre"])[:3])
        name = catalogue.titles(manifests)[anchor]
        views.link("features", "The whole feature", feature=str(feature), dataset=name)


def of_role(role: str, rows: list[Row]) -> list[Row]:
    """The rows whose peak is on a token of the role; all of them, and a word about it, where the
    strongest that were stored are of other roles."""
    if role == EVERY_ROLE or not rows:
        return rows
    if of_it := [row for row in rows if row["role"] == role]:
        return of_it
    st.caption(f"The strongest ones are not of the {role}:")
    return rows


def rate_words(row: Row) -> str:
    """How often a gap fires beside the anchor, with its interval."""
    if row["ratio"] is None:
        return ""
    share, low, high = row["ratio"], row["ratio_low"], row["ratio_high"]
    often = "not at all" if not share else f"{share:.0%} as often as in the anchor"
    return f"Per token it fires {often} (95 % interval {low:.0%} to {high:.0%} of that rate)."


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
show_failures("relevance", "families")
answer(manifests)
