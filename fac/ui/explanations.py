"""Explanations and verdicts of a feature as pages show them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from fac import charts
from fac.config import EXPLAINERS, SCORERS, ExplainSpec
from fac.errors import FacError
from fac.interpret import by_author
from fac.questions.explanations import (
    Explanation,
    corrections,
    explained,
    explanations_of,
    imports_in_words,
    named,
    names,
    outgoing_lines,
)
from fac.questions.relevance import verdicts_of
from fac.review import Standing
from fac.schema import LEVELS
from fac.ui.access import say_refusal
from fac.ui.jobs import save_upload, start
from fac.ui.stores import stores
from fac.ui.text import Row, called, explanation_html, plain
from fac.ui.views import CHART, link

LEVEL_NAMES = {**{level: level.capitalize() for level in LEVELS}, "cannot_tell": "Cannot tell"}

LEVEL_COLOURS: dict[str, Any] = {
    "yes": "green",
    "probably": "green",
    "maybe": "orange",
    "no": "red",
}


def headline(anchor: str, feature: int, run: str | None = None) -> str:
    """A feature's number and name, as Markdown; `run` is what the page is about beside the
    anchor."""
    return plain(called(feature, names(stores(), anchor, [feature], run=run)[feature]))


def doubt(anchor: str, feature: int) -> str | None:
    """Why a feature's name says unknown, as Markdown; None where it does not."""
    return plain(named(stores(), anchor, [feature])[feature].doubt) or None


def show_explanations(run: str, feature: int, *, brief: bool = False) -> None:
    """Explanations side by side with who made them, their scores and what people say.

    `brief` puts the intervals of the scores into words rather than a plot.
    """
    explanations = explanations_of(stores(), run, feature)
    if text := corrections(stores(), run).get(feature):
        st.html(explanation_html("a person's correction", "", text, ""))
    scores: list[Row] = []
    for each in explanations:
        explainer = EXPLAINERS[each.explainer]
        source = "" if explainer.needs_nothing else each.source
        st.html(explanation_html(explainer.title, source, each.text, each.why_not))
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            for score in each.scores:
                words = _score_words(score, interval=brief)
                st.badge(words, color="gray", help=SCORERS[score["score"]].meaning)
                scores.append(
                    {**score, "name": f"{SCORERS[score['score']].title}, {explainer.title}"}
                )
            if words := people_say(each.standing):
                st.badge(words, icon=":material/groups:", color="blue", help=_reviews(each))
            if each.text:
                icon = ":material/rate_review:"
                link("review", "Review it", icon=icon, kind="explanation", item=each.item)
    if not explanations:
        words, icon = "Not explained yet: have it explained", ":material/format_quote:"
        link("review", words, icon=icon, which="explained")
    if scores and not brief:
        figure = charts.intervals(scores, reference=0.5)
        st.plotly_chart(figure, config=CHART, key="scores", alt="Scores of its explanations")
        by_length = next((each.by_length for each in explanations if each.by_length), None)
        baseline = f", and the length of a text alone reaches {by_length:.2f}" if by_length else ""
        st.caption(f"Scores on held-out samples, with 95 % intervals; 0.5 is guessing{baseline}.")


def exchange(anchor: str) -> None:
    """Explanations leave and arrive as files."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if explained(stores(), anchor):
            help = (
                "What features are said to be, as JSON lines in the form of Neuronpedia's export."
            )
            options: Row = {"on_click": "ignore", "icon": ":material/download:", "help": help}
            content = partial(outgoing_lines, stores(), anchor)
            st.download_button("Explanations", content, "explanations.jsonl", **options)
        with st.popover("Import explanations", icon=":material/upload:"):
            label = "As Neuronpedia exports them: JSON or JSON lines, gzip is fine"
            upload = None if say_refusal("file") else st.file_uploader(label, key="explanations")
            if upload and st.button("Import them", type="primary"):
                _import(anchor, save_upload(upload.name, upload.getvalue()))
    for line in imports_in_words(stores(), anchor):
        st.caption(plain(line))


def _import(anchor: str, file: Path) -> None:
    spec = ExplainSpec(measure=anchor, explainer="external", source=str(file))
    try:
        for each in by_author(spec, stores().runs):
            of = f" by {each.author}" if each.author else ""
            start(each, f"Importing explanations{of}")
    except FacError as error:
        st.error(plain(str(error)), icon=":material/error:")


def _score_words(score: Row, *, interval: bool) -> str:
    """A score with n, and with its interval where no plot shows it."""
    title = SCORERS[score["score"]].title
    if score["value"] is None:
        few = score["score"] == "auroc" and 0 < score["n_positive"] < score["n"]
        return f"{title}: too few samples" if few else f"{title} not defined"
    words = f"{title} {score['value']:.2f}"
    if interval and score["low"] is not None and score["high"] is not None:
        words += f" ({score['low']:.2f} to {score['high']:.2f})"
    return f"{words}, n = {score['n']:,}"


def _reviews(explanation: Explanation) -> str:
    """Who found what about an explanation, and why."""
    lines = []
    for decision in explanation.standing.decisions:
        words = f"{plain(decision.reviewer)}: {LEVEL_NAMES[decision.verdict].lower()}"
        note = [plain(decision.note)] if decision.note else []
        lines.append("; ".join([words, *decision.reasons, *note]))
    return "\n\n".join(lines)


def show_verdicts(anchor: str, feature: int) -> None:
    """Per task what the judge says and, before it, what people say."""
    for verdict in verdicts_of(stores(), anchor, feature):
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.markdown(f"Relevant for **{plain(verdict.task)}**", width="content")
            if verdict.level:
                level = LEVEL_NAMES.get(verdict.level, verdict.level)
                settled = verdict.person is not None
                words = f"the judge says {level.lower()}"
                st.badge(
                    f"~~{words}~~" if settled else words,
                    icon=":material/gavel:",
                    color="gray" if settled else LEVEL_COLOURS.get(verdict.level, "gray"),
                    help=plain(verdict.rationale) or None,
                )
            if verdict.person:
                level = verdict.person.verdict or ""
                st.badge(
                    people_say(verdict.person),
                    icon=":material/person:",
                    color=LEVEL_COLOURS.get(level, "gray"),
                )


def people_say(standing: Standing) -> str:
    """People's verdict in words, "" where nobody gave one."""
    n = len({d.reviewer for d in standing.decisions})
    if not n:
        return ""
    who = f"{n} {'person' if n == 1 else 'people'}"
    if standing.verdict is None:
        return f"{who} disagree"
    level = LEVEL_NAMES[standing.verdict].lower()
    settled = ", settled" if standing.by == "adjudication" else ""
    return plain(f"{who}: {level}{settled}")
