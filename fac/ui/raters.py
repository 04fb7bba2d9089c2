"""What people's decisions amount to: agreement, what judges are worth, what is disputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from fac import agreement, review
from fac.schema import LEVELS, RELEVANT
from fac.store.decisions import Decision
from fac.ui.findings import comparable, measured
from fac.ui.gaps import coverage
from fac.ui.meaning import explained, judged
from fac.ui.stores import cache, decisions, stores, workspace
from fac.ui.text import Row

WITHIN = 0.05
"""How tight an interval a judge's precision should have: plus or minus five points."""


class Raters(NamedTuple):
    """How far people agree about one kind of question."""

    names: list[str]
    n_ratings: int
    coefficients: list[agreement.Coefficient]
    pairs: list[agreement.PairAgreement]


def said(kind: str = "", task: str = "") -> list[Decision]:
    """What stands, of one kind and about one task where these are named."""
    found = decisions().current(kind or None)
    if not task:
        return found
    about = {d.subject: review.read_subject(d.subject) for d in found}
    return [d for d in found if (of := about[d.subject]) and of.task == task]


def raters(kind: str, task: str = "") -> Raters:
    """Agreement on the four levels, with intervals; kept while no decision is added."""
    state = tuple(d.uid for d in said(kind, task))
    return _raters(workspace().root, kind, task, state)


@st.cache_data(max_entries=32, show_spinner="Resampling")
def _raters(root: Path, kind: str, task: str, state: tuple[str, ...]) -> Raters:
    wanted = set(state)
    given = [d for d in stores(root).decisions.current(kind) if d.uid in wanted]
    ratings, _, names = review.ratings_matrix(given, kind)
    size = len(LEVELS)
    return Raters(
        names,
        sum(d.verdict in LEVELS and not d.adjudicates for d in given),
        agreement.summary(ratings, size, ordinal=True) if names else [],
        agreement.pairwise(ratings, names, size, ordinal=True) if len(names) > 2 else [],
    )


def record_rows(kind: str, task: str = "") -> list[Row]:
    """Every reviewer's work: how much, how fast, and how often right where that is settled."""
    return [
        {
            "reviewer": each.reviewer,
            "decisions": each.n,
            "seconds": None if math.isnan(each.seconds) else each.seconds,
            "gold": f"{each.gold_right:,} of {each.n_gold:,}" if each.n_gold else "–",
        }
        for each in review.records(said(kind, task), kind)
    ]


def coefficient_rows(found: Sequence[agreement.Coefficient]) -> list[Row]:
    """Rows of a table; what is not defined says so."""
    return [
        {
            "coefficient": each.name,
            "estimate": _defined(each),
            "interval": _range(each.low, each.high),
            "n_items": each.n_items,
            "n_ratings": each.n_ratings,
        }
        for each in found
    ]


def undefined(found: Sequence[agreement.Coefficient]) -> dict[str, list[str]]:
    """Why coefficients have no value, and which."""
    reasons: dict[str, list[str]] = {}
    for each in found:
        if each.undefined:
            reasons.setdefault(each.undefined, []).append(each.name)
    return reasons


def pair_rows(found: Sequence[agreement.PairAgreement]) -> list[Row]:
    """A row per pair of raters with the coefficients that matter most; "not defined" in words."""
    rows = []
    for pair in found:
        by_name = {each.name: each for each in pair.coefficients}
        rows.append(
            {
                "pair": f"{pair.first} and {pair.second}",
                "n_items": pair.coefficients[0].n_items,
                **{
                    column: _defined(by_name[name])
                    for column, name in (
                        ("raw", "raw agreement"),
                        ("kappa", "Cohen's kappa"),
                        ("alpha", "Krippendorff's alpha, ordinal"),
                        ("ac2", "Gwet's AC2"),
                    )
                },
            }
        )
    return rows


def _defined(each: agreement.Coefficient) -> str:
    return "not defined" if math.isnan(each.value) else f"{each.value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"{low:.2f} to {high:.2f}"


def paradox(found: Sequence[agreement.Coefficient]) -> bool:
    """Whether people agree much more often than the chance-corrected coefficients suggest, as they
    do where nearly all ratings are the same."""
    value = {each.name: each.value for each in found}
    raw, alpha, ac1 = (
        value.get(name, math.nan)
        for name in ("raw agreement", "Krippendorff's alpha", "Gwet's AC1")
    )
    return raw > 0.7 and ac1 - alpha > 0.3


# --- judges -----------------------------------------------------------------------------------


def judge_levels(task: str) -> dict[str, str]:
    """The newest judge's level per subject of a decision, over all measure runs."""
    return {
        review.subject("relevance", run, row["feature"], task): row["level"]
        for run in measured()
        if (found := judged(run).get(task))
        for row in cache().relevance(found)
    }


def calibration_rows(task: str) -> list[Row]:
    """How often people agree with each level of the judge, and what would tighten that."""
    rows = []
    for each in review.calibration(said("relevance", task), judge_levels(task)):
        more = agreement.labels_for(WITHIN, each.precision, each.n)
        rows.append(
            {
                "name": each.level,
                "level": each.level,
                "value": _number(each.precision),
                "low": _number(each.low),
                "high": _number(each.high),
                "n": each.n,
                "interval": _range(each.low, each.high),
                "more": more,
            }
        )
    return rows


def human_check_row(task: str) -> Row:
    """Our counts by the rule of the paper's Table 5: features the judge calls relevant, two or
    more people each."""
    levels = judge_levels(task)
    relevant = {subject for subject, level in levels.items() if level in RELEVANT}
    found = review.human_check(said("relevance", task), relevant if levels else None)
    shares = {
        name: getattr(found, name) / found.n if found.n else 0.0
        for name in ("relevant", "irrelevant", "unclear")
    }
    return {"name": f"here: {task}", "n": found.n, **shares}


# --- disputes ---------------------------------------------------------------------------------


def disputes(kind: str, task: str = "") -> list[review.Disagreement]:
    """What people rate differently and nobody settled; what changes most gaps first."""
    given = said(kind, task)
    weights: dict[str, int] = {}
    for subject in {d.subject for d in given}:
        run, feature = subject.split("/")[1:3]
        weights[subject] = gaps_on(run).get(int(feature), 0)
    return review.disagreements(given, kind, weights=weights)


def gaps_on(anchor: str) -> dict[int, int]:
    """Per feature, how many datasets lack it against this anchor."""
    found = measured()
    if anchor not in found:
        return {}
    counts: dict[int, int] = {}
    for run in comparable(found, anchor):
        if run != anchor:
            for feature in coverage(anchor, run).missing.tolist():
                counts[feature] = counts.get(feature, 0) + 1
    return counts


def settle(who: str, kind: str, shown: review.Wording, verdict: str) -> None:
    """Records an adjudication of exactly what the raters saw."""
    content = decisions().content(shown.seen)
    decisions().add(who, kind, shown.subject, content, verdict, adjudicates=True)


def human_detection_rows() -> list[Row]:
    """People's detection of what fires, with a language model's on the same feature beside it."""
    rows = []
    for run in measured():
        found = review.human_detection(decisions(), run)
        asked = sorted({each.feature for each in found})
        model = _model_detection(run, asked)
        for each in found:
            score = each.score
            rows.append(
                {
                    "feature": each.feature,
                    "reviewer": each.reviewer,
                    "value": _number(score.value),
                    "interval": _range(score.low, score.high),
                    "n": score.n,
                    "model": model.get(each.feature),
                }
            )
    return rows


def _model_detection(run: str, features: list[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for explain_run in explained(run) if features else ():
        for row in cache().explanations(explain_run, features):
            if "detection" in row["scores"]:
                found.setdefault(row["feature"], row["scores"]["detection"]["value"])
    return found
