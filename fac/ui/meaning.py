"""What features are called and what they matter for: explanations, verdicts of judges and people.

A person's correction goes before a language model's or an imported explanation, and those before
what the tokens say; a person's verdict on relevance goes before the judge's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from fac import charts, compare, review
from fac.config import (
    EXPLAINERS,
    JUDGES,
    SCORERS,
    ExplainSpec,
    JudgeSpec,
    digest,
    model_scores,
)
from fac.prompts.relevance import TaskProfile
from fac.questions.relevance import people_verdicts
from fac.schema import LEVELS
from fac.ui.findings import anchor_of, labels, measured
from fac.ui.jobs import start
from fac.ui.stores import cache, decisions, queue, runs, stores, workspace
from fac.ui.text import Row, called, explanation_html, plain
from fac.ui.views import CHART, REVIEW

EVERY_FEATURE = "all"
"""Every feature but those that fire nearly everywhere."""

LEVEL_NAMES = {**{level: level.capitalize() for level in LEVELS}, "cannot_tell": "Cannot tell"}

STATUS_NAMES = {
    "cannot_tell": "cannot tell",
    "unreadable": "reply unreadable",
    "failed": "no reply",
}
"""Why an explainer gave no text."""


# --- explanations -----------------------------------------------------------------------------


def explained(run: str) -> list[str]:
    """Explain runs about the features of a measure run, whose texts to prefer first.

    They were made on the run itself or on its anchor: a feature means the same in both.
    """
    if run not in measured():
        return []
    places = (anchor_of(run), run)
    ids = dict.fromkeys(each for place in places for each in compare.explained_by(runs(), place))
    ready = [each for each in ids if cache().ready(each)]
    return sorted(ready, key=lambda each: EXPLAINERS[explainer_of(each)].preference)


def explainer_of(explain_run: str) -> str:
    """One of EXPLAINERS."""
    return str(runs().manifest(explain_run)["spec"]["explainer"])


def explained_measure(explain_run: str) -> str:
    """The measure run whose features it explains."""
    return str(runs().manifest(explain_run)["inputs"][0])


def explanation_texts(run: str, *, every: bool = False) -> list[tuple[str, int, str]]:
    """(measure run, feature, text) of what features are said to be, corrections first.

    One text a feature, the preferred one, or with `every` all that differ.
    """
    shown: dict[tuple[int, str], tuple[str, int, str]] = {}
    explain_runs = explained(run)
    for measure in dict.fromkeys(map(explained_measure, explain_runs)):
        for feature, text in review.corrections(decisions(), measure).items():
            shown.setdefault((feature, text), (measure, feature, text))
    for explain_run in explain_runs:
        measure = explained_measure(explain_run)
        for said in _texts(workspace().root, explain_run):
            shown.setdefault(said, (measure, *said))
    if every:
        return list(shown.values())
    return list({feature: shown[feature, text] for feature, text in reversed(shown)}.values())


@st.cache_resource(max_entries=16, show_spinner=False)
def _texts(root: Path, explain_run: str) -> list[tuple[int, str]]:
    """(feature, text) of a whole run, which never changes."""
    return stores(root).cache.texts(explain_run)


def names(run: str, features: Sequence[int]) -> dict[int, str]:
    """What features are called: a correction, else a language model's or an imported explanation,
    else the tokens they peak on."""
    said = labels(run, features)
    told = [each for each in explained(run) if not EXPLAINERS[explainer_of(each)].needs_nothing]
    if told:
        rows, _ = cache().features_page(run, ids=features, limit=len(features), explained=told)
        said |= {row["feature"]: row["explanation"] for row in rows if row["explanation"]}
    for measure in dict.fromkeys(map(explained_measure, explained(run))):
        corrected = review.corrections(decisions(), measure)
        said |= {feature: corrected[feature] for feature in features if feature in corrected}
    return said


def headline(run: str, feature: int) -> str:
    """A feature's number and name, as Markdown."""
    return plain(called(feature, names(run, [feature])[feature]))


def n_explained(anchor: str) -> int:
    """Features of a run that somebody or something gave a name."""
    return len({feature for _, feature, _ in explanation_texts(anchor)})


class Explanation(NamedTuple):
    """One explanation of one feature, with what people said about it."""

    explainer: str
    source: str
    """Model, method or file."""
    text: str | None
    why_not: str
    """Why there is no text."""
    scores: list[Row]
    """name, value, low, high, n of every score; value None where undefined."""
    standing: review.Standing
    """What people's verdicts amount to."""
    link: dict[str, str]
    """Query parameters that open it on the review page."""


def explanations_of(run: str, feature: int) -> list[Explanation]:
    """Explanations of a feature side by side, preferred first."""
    found = []
    for explain_run in explained(run):
        measure = explained_measure(explain_run)
        for row in cache().explanations(explain_run, [feature]):
            content = review.explanation_content(measure, feature, row["text"])
            seen = digest(content)
            about = review.subject("explanation", measure, feature)
            given = [d for d in decisions().current("explanation", subject=about) if d.seen == seen]
            why = STATUS_NAMES.get(row["status"], row["status"])
            found.append(
                Explanation(
                    row["explainer"],
                    row["source"],
                    row["text"],
                    "" if row["text"] else f"{why}: {row['reason']}" if row["reason"] else why,
                    [
                        {"name": SCORERS[name].title, "score": name, **score}
                        for name, score in row["scores"].items()
                    ],
                    review.standing(given),
                    {"kind": "explanation", "item": seen},
                )
            )
    return found


def correction(run: str, feature: int) -> str | None:
    """What a person wrote in an explanation's place."""
    for measure in dict.fromkeys(map(explained_measure, explained(run))):
        if text := review.corrections(decisions(), measure).get(feature):
            return text
    return None


def show_explanations(run: str, feature: int, *, brief: bool = False) -> None:
    """Explanations side by side with who made them, their scores and what people say.

    `brief` puts the intervals of the scores into words rather than a plot.
    """
    found = explanations_of(run, feature)
    if text := correction(run, feature):
        st.html(explanation_html("a person's correction", "", text, ""))
    for each in found:
        source = "" if EXPLAINERS[each.explainer].needs_nothing else each.source
        name = EXPLAINERS[each.explainer].title
        st.html(explanation_html(name, source, each.text, each.why_not))
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            for score in each.scores:
                words = _score_words(score, interval=brief)
                st.badge(words, color="gray", help=SCORERS[score["score"]].meaning)
            if said := people_say(each.standing):
                st.badge(said, icon=":material/groups:", color="blue", help=_who_said(each))
            if each.text:
                st.page_link(
                    REVIEW,
                    label="Review it",
                    icon=":material/rate_review:",
                    query_params=each.link,
                )
    if not found:
        st.page_link(
            REVIEW,
            label="Not explained yet: have it explained",
            icon=":material/format_quote:",
            query_params={"which": "explained"},
        )
    scores = [
        {**score, "name": f"{score['name']}, {EXPLAINERS[each.explainer].title}"}
        for each in found
        for score in each.scores
    ]
    if scores and not brief:
        figure = charts.intervals(scores, reference=0.5)
        st.plotly_chart(figure, config=CHART, key="scores", alt="Scores of its explanations")
        st.caption("Scores on held-out samples, with 95 % intervals; 0.5 is guessing.")


def _score_words(score: Row, *, interval: bool) -> str:
    """A score with n, and with its interval where no plot shows it."""
    if score["value"] is None:
        return f"{score['name']} not defined"
    words = f"{score['name']} {score['value']:.2f}"
    if interval and score["low"] is not None and score["high"] is not None:
        words += f" ({score['low']:.2f} to {score['high']:.2f})"
    return f"{words}, n = {score['n']:,}"


def _who_said(each: Explanation) -> str:
    lines = []
    for d in each.standing.decisions:
        words = f"{plain(d.reviewer)}: {LEVEL_NAMES[d.verdict].lower()}"
        lines.append("; ".join([words, *d.reasons, *([plain(d.note)] if d.note else [])]))
    return "\n\n".join(lines)


def show_verdicts(anchor: str, feature: int) -> None:
    """Per task what the judge says and, before it, what people say."""
    for verdict in verdicts_of(anchor, feature):
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.markdown(f"Relevant for **{plain(verdict.task)}**", width="content")
            if verdict.judge:
                level = LEVEL_NAMES.get(verdict.judge, verdict.judge)
                settled = verdict.person is not None
                words = f"the judge says {level.lower()}"
                st.badge(
                    f"~~{words}~~" if settled else words,
                    icon=":material/gavel:",
                    color="gray" if settled else LEVEL_COLOURS.get(verdict.judge, "gray"),
                    help=plain(verdict.rationale) or None,
                )
            if verdict.person:
                level = verdict.person.verdict or ""
                st.badge(
                    people_say(verdict.person),
                    icon=":material/person:",
                    color=LEVEL_COLOURS.get(level, "gray"),
                )


LEVEL_COLOURS: dict[str, Any] = {
    "yes": "green",
    "probably": "green",
    "maybe": "orange",
    "no": "red",
}


# --- relevance --------------------------------------------------------------------------------


class Relevance(NamedTuple):
    """Which features count, with people's verdicts in the judge's place. Hashable: answers that
    rest on it are cached."""

    given: str
    """EVERY_FEATURE or the name of a task."""

    run: str = ""
    """The judge's run, so that a newer one is another relevance."""

    overrides: tuple[tuple[int, str], ...] = ()
    """What people decided: (feature, level)."""


def tasks() -> dict[str, TaskProfile]:
    """The task profiles by name, this workspace's own included."""
    return compare.task_profiles(runs())


def judged(anchor: str) -> dict[str, str]:
    """For each task its newest relevance run that can be shown."""
    found = compare.relevance_runs(runs(), anchor)
    return {task: run for task, run in found.items() if cache().ready(run)}


def tasks_with_verdicts(anchor: str) -> dict[str, Relevance]:
    """The tasks for which features were judged, with people's verdicts of today."""
    found = {}
    for task, run in judged(anchor).items():
        settled = people_verdicts(stores(), anchor, task)
        levels = {feature: one.verdict for feature, one in settled.items() if one.verdict}
        found[task] = Relevance(task, run, tuple(sorted(levels.items())))
    return found


class Verdict(NamedTuple):
    """What is said about one feature and one task."""

    task: str
    judge: str | None
    """The judge's level; None where it was not asked about this feature."""
    rationale: str
    person: review.Standing | None
    """What people settled, which goes before the judge."""


def verdicts_of(anchor: str, feature: int) -> list[Verdict]:
    """Per task what the judge says and what people say; tasks nobody spoke of are left out."""
    found = []
    runs_of = judged(anchor)
    for task in dict.fromkeys((*runs_of, *tasks())):
        rows = cache().relevance(runs_of[task], [feature]) if task in runs_of else []
        person = people_verdicts(stores(), anchor, task).get(feature)
        if rows or person:
            level, why = (rows[0]["level"], _why(rows[0])) if rows else (None, "")
            found.append(Verdict(task, level, why, person))
    return found


def _why(row: Row) -> str:
    """A judge's reason: its words, or the label contrast in numbers."""
    if row["rationale"] or row["p"] is None:
        return str(row["rationale"] or "")
    seen = f"{row['n_with']:,} samples with the label, {row['n_without']:,} without"
    return f"{seen}; p {row['p']:.2g}"


# --- asking for more --------------------------------------------------------------------------


def key_is_set() -> bool:
    """Whether the worker will find an API key; Streamlit puts its secrets into the environment."""
    st.secrets.load_if_toml_exists()
    return bool(os.environ.get("OPENAI_API_KEY"))


def explaining(anchor: str) -> bool:
    """Whether a live job explains features of this run."""
    return any(
        job.step == ExplainSpec.step and job.spec["measure"] == anchor for job in queue().live()
    )


def explain_by_tokens(anchor: str) -> None:
    """Token statistics of every feature: no model, no key, no cost."""
    start(ExplainSpec(measure=anchor), "Explaining every feature by its tokens")


def explain_form(anchor: str, features: Sequence[int]) -> None:
    """Asks for explanations by a language model, scored on held-out texts."""
    with st.form("explain with a model", border=False):
        key_line()
        model, endpoint, budget = _server_fields()
        which = st.radio(
            "Which features",
            ("gaps", "every"),
            format_func={
                "gaps": f"The {len(features):,} in question",
                "every": "Every feature that fires",
            }.__getitem__,
            horizontal=True,
        )
        listed = ", ".join(model_scores()).capitalize()
        scored = st.toggle("Score them on held-out texts", value=True, help=f"{listed}.")
        if st.form_submit_button("Explain", icon=":material/smart_toy:"):
            chosen = tuple(features) if which == "gaps" else ()
            _ask(
                lambda: ExplainSpec(
                    measure=anchor,
                    features=chosen,
                    explainer="llm",
                    model=model,
                    endpoint=endpoint,
                    budget_tokens=budget,
                    scores=model_scores() if scored else (),
                ),
                "Asking the model for explanations",
            )


def judge_form(anchor: str) -> None:
    """Asks which features matter for a task: a language model by the task's criteria, or the
    labels of the data by how much more often each feature fires with one of them."""
    profiles = tasks()
    with st.form("judge", border=False):
        task = st.selectbox("Task", list(profiles), format_func=lambda name: profiles[name].title)
        given = (
            runs().manifest(runs().manifest(anchor)["facts"]["dataset"])["facts"].get("labels", {})
        )
        judges = [name for name in JUDGES if given or not JUDGES[name].needs_label]
        judge = st.radio(
            "Judge", judges, format_func=lambda name: JUDGES[name].title, horizontal=True
        )
        label = st.selectbox("Label that marks the task", list(given)) if given else ""
        key_line()
        model, endpoint, budget = _server_fields()
        if st.form_submit_button("Judge", icon=":material/gavel:"):
            asks = JUDGES[judge].needs_model
            _ask(
                lambda: JudgeSpec(
                    measure=anchor,
                    task=task,
                    rubric=profiles[task].rubric,
                    judge=judge,
                    explanations=tuple(explained(anchor)) if asks else (),
                    label="" if asks else label,
                    model=model if asks else "",
                    endpoint=endpoint if asks else "",
                    budget_tokens=budget if asks else None,
                ),
                f"Judging which features matter for {task}",
            )


def _server_fields() -> tuple[str, str, int | None]:
    """Model, endpoint and budget in tokens."""
    with st.container(horizontal=True):
        model = st.text_input("Model", placeholder="the name the server knows").strip()
        endpoint = st.text_input(
            "Endpoint",
            placeholder="OPENAI_BASE_URL, else OpenAI",
            help="Base URL of any OpenAI-compatible server, such as http://127.0.0.1:8000/v1.",
        ).strip()
        budget = st.number_input(
            "Token budget",
            1,
            None,
            value=1_000_000,
            step=100_000,
            help="The job stops before it would use more; what was answered is kept.",
        )
    return model, endpoint, int(budget)


def key_line() -> None:
    """Whether there is a key, never which."""
    if key_is_set():
        st.caption(":material/key: OPENAI_API_KEY is set.")
    else:
        st.caption(
            ":material/key_off: OPENAI_API_KEY is not set; a server of your own may need none. Set "
            "it in the environment or in .streamlit/secrets.toml, then restart the worker."
        )


def _ask(spec: Callable[[], Any], said: str) -> None:
    """Starts the job and the page again; a spec that cannot be is told by `guard` around it."""
    start(spec(), said)
    st.rerun()


def people_say(standing: review.Standing) -> str:
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
