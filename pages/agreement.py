"""How far people agree, how far a judge can be believed, and what to settle next."""

from statistics import mean

import streamlit as st

from fac import charts, ui
from fac.review import Disagreement

KINDS = {
    "explanation": "Explanations",
    "relevance": "Relevance to a task",
    "detection": "Detection by people",
}
SHOWN = 5

# arXiv 2602.10388, Table 5: two annotators each; the paper gives no coefficient.
PAPER = (
    {"name": "paper: toxicity", "n": 200, "relevant": 0.84, "irrelevant": 0.05, "unclear": 0.11},
    {"name": "paper: reward", "n": 200, "relevant": 0.85, "irrelevant": 0.06, "unclear": 0.09},
    {"name": "paper: IF", "n": 200, "relevant": 0.86, "irrelevant": 0.04, "unclear": 0.10},
)


def coefficients(kind: str, task: str) -> None:
    """How far people agree beyond chance, with intervals."""
    found = ui.raters(kind, task)
    both = found.coefficients[0].n_items if found.coefficients else 0
    ui.cards(
        (
            "People",
            f"{len(found.names):,}",
            "Who rated at least one item; models do not count.",
        ),
        ("Ratings", f"{found.n_ratings:,}", "On the four levels; cannot tell is kept apart."),
        ("Rated by two or more", f"{both:,}", "Items from which agreement is computed."),
        ("To settle", f"{len(ui.disputes(kind, task)):,}", "Items on which people differ."),
    )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**Agreement, with 95 % intervals**")
        rows = [{**each._asdict(), "n": each.n_items} for each in found.coefficients]
        lowest = min([0.0, *(row["low"] for row in rows if row["low"] == row["low"])])
        figure = charts.intervals(rows, across=(lowest, 1.0), reference=0.0)
        st.plotly_chart(figure, config=ui.CHART, key="agreement", alt="Coefficients of agreement")
        st.caption("1 is perfect; 0 is what chance alone would give, but for raw agreement.")
    with right.container(border=True, height="stretch"):
        st.markdown("**In numbers**")
        columns = ("coefficient", "estimate", "interval", "n_items", "n_ratings")
        ui.table(ui.coefficient_rows(found.coefficients), columns, key="coefficients")
        for why, names in ui.undefined(found.coefficients).items():
            st.caption(f"{', '.join(names)}: not defined, {ui.plain(why)}.")
        st.markdown("**Who decided**")
        did = ("reviewer", "decisions", "seconds", "gold")
        ui.table(ui.record_rows(kind, task), did, key="records")
    if ui.paradox(found.coefficients):
        st.info(
            "People agree often, and still kappa and alpha are low: nearly all ratings are the "
            "same, so agreeing by chance is likely. AC1 and AC2 allow for that; read them together "
            "with raw agreement and n.",
            icon=":material/balance:",
        )
    if found.pairs:
        with st.expander(f"Pair by pair ({len(found.pairs)})"):
            shown = ("pair", "n_items", "raw", "kappa", "alpha", "ac2")
            ui.table(ui.pair_rows(found.pairs), shown, key="pairs")


def judge(task: str) -> None:
    """What each of the judge's levels is worth, and the paper's check beside ours."""
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**When the judge says so, how often do people call it relevant?**")
        rows = ui.calibration_rows(task)
        figure = charts.intervals(rows, percent=True)
        st.plotly_chart(figure, config=ui.CHART, key="judge", alt="Precision of the judge's levels")
        ui.table(rows, ("level", "value", "interval", "n", "more"), key="calibration")
        st.caption("Wilson intervals. A person's verdict is the one that stands among people.")
    with right.container(border=True, height="stretch"):
        st.markdown("**The paper's check of its judge, and ours by the same rule**")
        bars = [*PAPER, ui.human_check_row(task)]
        st.plotly_chart(charts.verdict_bars(bars), config=ui.CHART, key="table 5")
        st.caption(
            "Published in the paper's Table 5: features its judge called relevant, two annotators, "
            "unclear unless both agree. Ours counts features the judge here called relevant that "
            "two or more people rated."
        )


def dispute(who: str | None, kind: str, each: Disagreement) -> None:
    """One disagreement: what was shown, who said what, and the buttons that settle it."""
    _, run, feature = each.wording.subject.split("/")[:3]
    content = ui.decisions().content(each.wording.seen)
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**\\#{feature}**", width="content")
            for d in each.decisions:
                level = ui.LEVEL_NAMES[d.verdict].lower()
                notes = "\n\n".join([*d.reasons, *([ui.plain(d.note)] if d.note else [])])
                st.badge(f"{ui.plain(d.reviewer)}: {level}", color="blue", help=notes or None)
            if each.gaps:
                gaps = f"changes {each.gaps} gap{'' if each.gaps == 1 else 's'}"
                st.badge(gaps, icon=":material/donut_large:", color="orange")
        st.html(ui.quote_html(content.get("explanation")))
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            st.caption("Settle it:", width="content")
            for level, name in ui.LEVEL_NAMES.items():
                st.button(
                    name,
                    key=f"settle {each.wording.seen} {level}",
                    disabled=who is None,
                    on_click=settle,
                    args=(who, kind, each, level),
                )
            st.page_link(
                ui.REVIEW,
                label="See the examples",
                icon=":material/rate_review:",
                query_params={
                    "kind": kind,
                    "item": each.wording.seen,
                    **({"task": content["task"]} if "task" in content else {}),
                },
            )


def settle(who: str, kind: str, each: Disagreement, level: str) -> None:
    with ui.guard():
        ui.settle(who, kind, each.wording, level)


def disputes(who: str | None, kind: str, task: str) -> None:
    """Everything people differ on, what matters most first."""
    found = ui.disputes(kind, task)
    st.subheader("Where people differ", anchor=False)
    if not found:
        st.caption("Nothing is left to settle.")
        return
    pager = ui.Pager("disputes", kind, task, size=SHOWN)
    for each in found[pager.offset : pager.offset + pager.size]:
        dispute(who, kind, each)
    pager.draw(len(found), "disagreement", "by how many gaps they change")


def detections() -> None:
    """People at the language model's own test."""
    rows = ui.human_detection_rows()
    if not rows:
        nobody("detection")
        return
    people = [row["value"] for row in rows if row["value"] is not None]
    both = [row for row in rows if row["value"] is not None and row["model"] is not None]
    ui.cards(
        ("Tests taken", f"{len(rows):,}", "One feature by one person each."),
        ("People", ui.share(mean(people)) if people else "–", "Mean balanced accuracy."),
        (
            "The model, same features",
            ui.share(mean(row["model"] for row in both)) if both else "–",
            "Mean balanced accuracy of the language model's detection on those features.",
        ),
    )
    columns = ("feature", "reviewer", "value", "interval", "n", "model")
    ui.table(rows, columns, key="detections")
    st.caption("Balanced accuracy on held-out texts: 0.5 is guessing. Few texts, wide intervals.")


def nobody(kind: str, **view: str) -> None:
    ui.empty(
        "Nobody has decided anything here yet",
        "Agreement needs two people who rated the same items; a fifth of every queue is shared.",
        icon=":material/handshake:",
        page=ui.REVIEW,
        link="Review",
    )


def exchange() -> None:
    """Decisions leave and arrive as JSON lines."""
    st.subheader("Keep and exchange", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.download_button(
            "Export all decisions",
            lambda: "".join(line + "\n" for line in ui.decisions().export()),
            "decisions.jsonl",
            on_click="ignore",
            icon=":material/download:",
            help="JSON lines with what was shown. Decisions cannot be computed again: keep this.",
        )
        with st.popover("Import", icon=":material/upload:"):
            given = st.file_uploader("Exported decisions", type=["jsonl", "json"], key="decisions")
            if given and st.button("Import them", type="primary"):
                st.session_state["imported"] = ui.decisions().load(
                    given.getvalue().decode("utf-8", "replace").splitlines()
                )
                st.rerun()
    if told := st.session_state.get("imported"):
        st.caption(f"{told['added']:,} added, {told['known']:,} were here already.")
        if told["rejected"]:
            ui.table(told["rejected"], ("line", "reason"), key="rejected")


with st.container(horizontal=True, vertical_alignment="bottom"):
    ui.title("Agreement", width="stretch")
    if not ui.said():
        ui.stop_if_nothing_measured(ui.measured())
    who = ui.reviewer()
with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
    kind = ui.choice("What", tuple(KINDS), "kind", names=KINDS, label_visibility="collapsed")
    task = ui.pick_task() if kind == "relevance" else ""
if kind == "detection":
    detections()
else:
    if ui.said(kind, task):
        coefficients(kind, task)
        if kind == "relevance":
            judge(task)
        disputes(who, kind, task)
    else:
        nobody(kind)
        if kind == "relevance":
            judge(task)
exchange()
