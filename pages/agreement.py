"""How far people agree, how far a judge can be believed, and what to settle next."""

from statistics import mean

import streamlit as st

from fac import charts
from fac.questions import ratings
from fac.questions.catalogue import measured
from fac.ui.access import needing, say_refusal
from fac.ui.explanations import LEVEL_NAMES
from fac.ui.pickers import stop_if_nothing_measured
from fac.ui.review import pick_task, quote_html, reviewer
from fac.ui.samples import NAMES as VERDICT_NAMES
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, table
from fac.ui.text import Row, chat_html, plain
from fac.ui.views import CHART, action_button, cards, choice, empty, guard, link, share

PAGE = {"title": "Agreement", "section": "Decide", "icon": "handshake", "order": 70}

KINDS = {
    "explanation": "Explanations",
    "relevance": "Relevance to a task",
    "detection": "Detection by people",
    "sample": "Kept samples",
}
SHOWN = 5

# What counts as a rating, by kind.
RATINGS = {
    "": "On the four levels; cannot tell is kept apart.",
    "sample": "Keep, drop or wrong label, of one wording by one person each.",
}


def show_coefficients(kind: str, task: str) -> None:
    """How far people agree beyond chance, with intervals."""
    with st.spinner("Resampling"):
        people = ratings.raters(stores(), kind, task)
    both = people.coefficients[0].n_items if people.coefficients else 0
    disputes = ratings.disputes(stores(), kind, task)
    cards(
        ("People", f"{len(people.names):,}", "Who rated at least one item; models do not count."),
        ("Ratings", f"{people.n_ratings:,}", RATINGS.get(kind, RATINGS[""])),
        ("Rated by two or more", f"{both:,}", "Items from which agreement is computed."),
        ("To settle", f"{len(disputes):,}", "Items on which people differ."),
    )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**Agreement, with 95 % intervals**")
        rows = [{**each._asdict(), "n": each.n_items} for each in people.coefficients]
        lowest = min([0.0, *(row["low"] for row in rows if row["low"] == row["low"])])
        figure = charts.intervals(rows, across=(lowest, 1.0), reference=0.0)
        st.plotly_chart(figure, config=CHART, key="agreement", alt="Coefficients of agreement")
        st.caption("1 is perfect; 0 is what chance alone would give, but for raw agreement.")
    with right.container(border=True, height="stretch"):
        st.markdown("**In numbers**")
        columns = ("coefficient", "estimate", "interval", "n_items", "n_ratings")
        table(ratings.coefficient_rows(people.coefficients), columns, key="coefficients")
        for why, names in ratings.undefined(people.coefficients).items():
            st.caption(f"{', '.join(names)}: not defined, {plain(why)}.")
        st.markdown("**Who decided**")
        rows = ratings.record_rows(ratings.standing_decisions(stores(), kind, task), kind)
        table(rows, ("reviewer", "decisions", "seconds", "gold"), key="records")
    if ratings.paradox(people.coefficients):
        st.info(
            "People agree often, and still kappa and alpha are low: nearly all ratings are the "
            "same, so agreeing by chance is likely. AC1 and AC2 allow for that; read them together "
            "with raw agreement and n.",
            icon=":material/balance:",
        )
    if people.pairs:
        with st.expander(f"Pair by pair ({len(people.pairs)})"):
            rows = ratings.rater_pair_rows(people.pairs, kind)
            table(rows, ("pair", "n_items", *ratings.columns_of(kind)), key="pairs")


def show_judge(task: str) -> None:
    """What each of the judge's levels is worth, and the paper's check beside ours."""
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**When the judge says so, how often do people call it relevant?**")
        rows = ratings.calibration_rows(stores(), task)
        figure = charts.intervals(rows, percent=True)
        st.plotly_chart(figure, config=CHART, key="judge", alt="Precision of the judge's levels")
        table(rows, ("level", "value", "interval", "n", "more"), key="calibration")
        st.caption("Wilson intervals. A person's verdict is the one that stands among people.")
    with right.container(border=True, height="stretch"):
        st.markdown("**The paper's check of its judge, and ours by the same rule**")
        bars = charts.verdict_bars(ratings.human_check_rows(stores(), task))
        st.plotly_chart(bars, config=CHART, key="table 5")
        st.caption(
            "Published in the paper's Table 5: features its judge called relevant, two annotators, "
            "unclear unless both agree. Ours counts features the judge here called relevant that "
            "two or more people rated."
        )


def show_kept() -> None:
    """What share of the samples that people looked at they would train on."""
    rows = ratings.kept_rows(stores())
    if not rows:
        return
    with st.container(border=True):
        st.markdown("**Of the samples people looked at, what share would they train on?**")
        figure = charts.intervals(rows, percent=True)
        st.plotly_chart(figure, config=CHART, key="kept", alt="Share of samples that people kept")
        counted = ("share", "interval", *ratings.KEPT_COUNTS)
        table(rows, ("synthesis", "looked", *counted, "people"), key="kept samples")
        st.caption("Wilson intervals. What people disagree on counts as looked at, not as kept.")


def show_sample(each: ratings.Disagreement, content: Row) -> None:
    """The sample that people differ on, as it was shown."""
    sample = ratings.sample_of(each.wording, content)
    if sample.label:
        st.badge(plain(sample.label), icon=":material/label:", color="gray")
    st.html(chat_html(sample.messages))


def show_dispute(who: str | None, kind: str, each: ratings.Disagreement) -> None:
    """One disagreement: what was shown, who said what, and the buttons that settle it."""
    _, run, feature = each.wording.subject.split("/")[:3]
    content = stores().decisions.content(each.wording.seen)
    names = VERDICT_NAMES if kind == "sample" else LEVEL_NAMES
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**\\#{feature}**", width="content")
            for d in each.decisions:
                level = names[d.verdict].lower()
                notes = "\n\n".join([*d.reasons, *([plain(d.note)] if d.note else [])])
                st.badge(f"{plain(d.reviewer)}: {level}", color="blue", help=notes or None)
            if each.gaps:
                gaps = f"changes {each.gaps} gap{'' if each.gaps == 1 else 's'}"
                st.badge(gaps, icon=":material/donut_large:", color="orange")
        if kind == "sample":
            show_sample(each, content)
        else:
            st.html(quote_html(content.get("explanation")))
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            st.caption("Settle it:", width="content")
            for level, name in names.items():
                options = {"key": f"settle {each.wording.seen} {level}", "disabled": who is None}
                options = needing("settle", **options)
                action_button(name, "", settle, who, kind, each, level, **options)
            view = {"kind": kind, "item": each.wording.seen}
            view |= {"task": content["task"]} if "task" in content else {}
            view |= {"synthesis": run} if kind == "sample" else {}
            link("review", "See the examples", icon=":material/rate_review:", **view)


def settle(who: str, kind: str, each: ratings.Disagreement, level: str) -> None:
    """Records an adjudication of exactly what the raters saw."""
    with guard():
        subject, seen = each.wording
        content = stores().decisions.content(seen)
        stores().decisions.add(who, kind, subject, content, level, adjudicates=True)


def show_disputes(who: str | None, kind: str, task: str) -> None:
    """Everything people differ on, what matters most first."""
    disputes = ratings.disputes(stores(), kind, task)
    st.subheader("Where people differ", anchor=False)
    if not disputes:
        st.caption("Nothing is left to settle.")
        return
    pager = Pager("disputes", kind, task, size=SHOWN)
    for each in disputes[pager.offset : pager.offset + pager.size]:
        show_dispute(who, kind, each)
    pager.draw(len(disputes), "disagreement", "by how many gaps they change")


def show_detections() -> None:
    """People at the language model's own test."""
    rows = ratings.human_detection_rows(stores())
    if not rows:
        show_nobody()
        return
    people = [row["value"] for row in rows if row["value"] is not None]
    model = [row["model"] for row in rows if None not in (row["value"], row["model"])]
    same = "Mean balanced accuracy of the language model's detection on those features."
    cards(
        ("Tests taken", f"{len(rows):,}", "One feature by one person each."),
        ("People", share(mean(people)) if people else "–", "Mean balanced accuracy."),
        ("The model, same features", share(mean(model)) if model else "–", same),
    )
    columns = ("feature", "reviewer", "value", "interval", "n", "model")
    table(rows, columns, key="detections")
    st.caption("Balanced accuracy on held-out texts: 0.5 is guessing. Few texts, wide intervals.")


def show_nobody() -> None:
    words = "Agreement needs two people who rated the same items; a fifth of every queue is shared."
    way = {"icon": ":material/handshake:", "page": "review", "link": "Review"}
    empty("Nobody has decided anything here yet", words, **way)


def exported() -> str:
    return "".join(f"{line}\n" for line in stores().decisions.export())


def show_exchange() -> None:
    """Decisions leave and arrive as JSON lines."""
    st.subheader("Keep and exchange", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        help = "JSON lines with what was shown. Decisions cannot be computed again: keep this."
        options: Row = {"on_click": "ignore", "icon": ":material/download:", "help": help}
        st.download_button("Export all decisions", exported, "decisions.jsonl", **options)
        with st.popover("Import", icon=":material/upload:"):
            upload = None
            if not say_refusal("file"):
                label, types = "Exported decisions", ["jsonl", "json"]
                upload = st.file_uploader(label, type=types, key="decisions")
            if upload and st.button("Import them", type="primary"):
                lines = upload.getvalue().decode("utf-8", "replace").splitlines()
                st.session_state["imported"] = stores().decisions.load(lines)
                st.rerun()
    if loaded := st.session_state.get("imported"):
        st.caption(f"{loaded['added']:,} added, {loaded['known']:,} were here already.")
        if loaded["rejected"]:
            table(loaded["rejected"], ("line", "reason"), key="rejected")


with st.container(horizontal=True, vertical_alignment="bottom"):
    title("Agreement", width="stretch")
    if not ratings.standing_decisions(stores()):
        stop_if_nothing_measured(measured(stores()))
    who = reviewer()
usual, usual_task = ratings.most_rated(stores(), tuple(KINDS))
with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
    options: Row = {"names": KINDS, "default": usual, "label_visibility": "collapsed"}
    kind = choice("What", tuple(KINDS), "kind", **options)
    task = pick_task(usual_task) if kind == "relevance" else ""
if kind == "detection":
    show_detections()
else:
    decided = bool(ratings.standing_decisions(stores(), kind, task))
    if kind == "sample":
        show_kept()
    if decided:
        show_coefficients(kind, task)
    else:
        show_nobody()
    if kind == "relevance":
        show_judge(task)
    if decided:
        show_disputes(who, kind, task)
show_exchange()
