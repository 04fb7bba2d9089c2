"""What features are called and what they matter for: explanations, verdicts of judges and people.

A person's correction goes before a language model's or an imported explanation, and those before
what the tokens say; a person's verdict on relevance goes before the judge's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import streamlit as st

from fac import compare, review
from fac.config import ExplainSpec, digest
from fac.prompts import Task
from fac.schema import LEVELS
from fac.ui.findings import comparable, default_anchor, labels, measured
from fac.ui.handles import cache, decisions, queue, runs
from fac.ui.text import Row, plain
from fac.ui.work import start

EVERY_FEATURE = "all"
"""Every feature but those that fire nearly everywhere."""

LEVEL_NAMES = {**{level: level.capitalize() for level in LEVELS}, "cannot_tell": "Cannot tell"}

STATUS_NAMES = {
    "cannot_tell": "cannot tell",
    "unreadable": "reply unreadable",
    "failed": "no reply",
}
"""Why an explainer gave no text."""

EXPLAINER_NAMES = {
    "tokens": "token statistics",
    "llm": "language model",
    "external": "imported",
}

SCORE_NAMES = {"auroc": "AUROC", "detection": "Detection", "fuzzing": "Fuzzing"}
SCORE_MEANINGS = {
    "auroc": "How well the explanation's words rank held-out samples: firing before silent ones.",
    "detection": "Balanced accuracy of a language model that reads the explanation and says which "
    "held-out texts fire.",
    "fuzzing": "Balanced accuracy of a language model that says whether the marked tokens are the "
    "right ones.",
}


# --- explanations -----------------------------------------------------------------------------


def explained(run: str) -> list[str]:
    """Explain runs about the features of a measure run, whose texts to prefer first.

    They were made on the run itself or on its anchor: a feature means the same in both.
    """
    found = measured()
    if run not in found:
        return []
    anchor = default_anchor({key: found[key] for key in comparable(found, run)})
    ids = dict.fromkeys(
        each for place in (anchor, run) for each in compare.explained_by(runs(), place)
    )
    ready = [each for each in ids if cache().ready(each)]
    return sorted(ready, key=lambda each: compare.PREFERENCE.index(explainer_of(each)))


def explainer_of(explain_run: str) -> str:
    """One of schema.EXPLAINERS."""
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
        for row in cache().explanations(explain_run):
            if row["text"] is not None:
                key = row["feature"], row["text"]
                shown.setdefault(key, (measure, *key))
    if every:
        return list(shown.values())
    return list({feature: shown[feature, text] for feature, text in reversed(shown)}.values())


def names(run: str, features: Sequence[int]) -> dict[int, str]:
    """What features are called: a correction, else a language model's or an imported explanation,
    else the tokens they peak on."""
    said = labels(run, features)
    told = [each for each in explained(run) if explainer_of(each) != "tokens"]
    if told:
        rows, _ = cache().features_page(run, ids=features, limit=len(features), explained=told)
        said |= {row["feature"]: row["explanation"] for row in rows if row["explanation"]}
    for measure in dict.fromkeys(map(explained_measure, explained(run))):
        corrected = review.corrections(decisions(), measure)
        said |= {feature: corrected[feature] for feature in features if feature in corrected}
    return said


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
                        {"name": SCORE_NAMES.get(name, name), "score": name, **score}
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


def tasks() -> dict[str, Task]:
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
        settled = review.relevance_overrides(decisions(), anchor, task)
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
        person = review.relevance_overrides(decisions(), anchor, task).get(feature)
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
        _key_line()
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
        scored = st.toggle("Score them on held-out texts", value=True, help="Detection, fuzzing.")
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
                    scores=("detection", "fuzzing") if scored else (),
                ),
                "Asking the model for explanations",
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


def _key_line() -> None:
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
