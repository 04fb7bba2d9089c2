"""What people's decisions amount to: agreement, what judges are worth, what is disputed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from fac import agreement, review
from fac.questions.catalogue import Row, comparable, measured
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explained
from fac.questions.ratings import (
    Disagreement,
    calibration,
    disagreements,
    human_check,
    human_detection,
    ratings_matrix,
    records,
)
from fac.questions.relevance import judged
from fac.schema import LEVELS, RELEVANT
from fac.store import Stores
from fac.store.decisions import Decision
from fac.store.memo import remembered_for_good

WITHIN = 0.05
"""How tight an interval a judge's precision should have: plus or minus five points."""


class Raters(NamedTuple):
    """How far people agree about one kind of question."""

    names: list[str]
    n_ratings: int
    coefficients: list[agreement.Coefficient]
    pairs: list[agreement.RaterAgreement]


def standing_decisions(stores: Stores, kind: str = "", task: str = "") -> list[Decision]:
    """What stands, of one kind and about one task where these are named."""
    decisions = stores.decisions.current(kind or None)
    if not task:
        return decisions
    subjects = {d.subject: review.read_subject(d.subject) for d in decisions}
    return [d for d in decisions if (parts := subjects[d.subject]) and parts.task == task]


def raters(stores: Stores, kind: str, task: str = "") -> Raters:
    """Agreement on the four levels, with intervals; remembered while no decision is added."""
    return _raters(stores, kind, tuple(d.uid for d in standing_decisions(stores, kind, task)))


@remembered_for_good
def _raters(stores: Stores, kind: str, uids: tuple[str, ...]) -> Raters:
    chosen = set(uids)
    decisions = [d for d in stores.decisions.current(kind) if d.uid in chosen]
    ratings, _, names = ratings_matrix(decisions, kind)
    size = len(LEVELS)
    return Raters(
        names,
        sum(d.verdict in LEVELS and not d.adjudicates for d in decisions),
        agreement.summary(ratings, size, ordinal=True) if names else [],
        agreement.between_raters(ratings, names, size, ordinal=True) if len(names) > 2 else [],
    )


def record_rows(stores: Stores, kind: str, task: str = "") -> list[Row]:
    """Every reviewer's work: how much, how fast, and how often right where that is settled."""
    return [
        {
            "reviewer": record.reviewer,
            "decisions": record.n,
            "seconds": _number(record.seconds),
            "gold": f"{record.gold_right:,} of {record.n_gold:,}" if record.n_gold else "–",
        }
        for record in records(standing_decisions(stores, kind, task), kind)
    ]


def coefficient_rows(coefficients: Sequence[agreement.Coefficient]) -> list[Row]:
    """Rows of a table; what is not defined says so."""
    return [
        {
            "coefficient": each.name,
            "estimate": _estimate(each),
            "interval": _range(each.low, each.high),
            "n_items": each.n_items,
            "n_ratings": each.n_ratings,
        }
        for each in coefficients
    ]


def undefined(coefficients: Sequence[agreement.Coefficient]) -> dict[str, list[str]]:
    """Why coefficients have no value, and which."""
    reasons: dict[str, list[str]] = {}
    for each in coefficients:
        if each.undefined:
            reasons.setdefault(each.undefined, []).append(each.name)
    return reasons


COLUMNS = {
    "raw": "raw agreement",
    "kappa": "Cohen's kappa",
    "alpha": "Krippendorff's alpha, ordinal",
    "ac2": "Gwet's AC2",
}
"""The coefficients that matter most between two raters, by their column."""


def rater_pair_rows(pairs: Sequence[agreement.RaterAgreement]) -> list[Row]:
    """A row per pair of raters with the coefficients of COLUMNS; "not defined" in words."""
    rows = []
    for pair in pairs:
        by_name = {each.name: each for each in pair.coefficients}
        rows.append(
            {
                "pair": f"{pair.first} and {pair.second}",
                "n_items": pair.coefficients[0].n_items,
                **{column: _estimate(by_name[name]) for column, name in COLUMNS.items()},
            }
        )
    return rows


def _estimate(coefficient: agreement.Coefficient) -> str:
    return "not defined" if math.isnan(coefficient.value) else f"{coefficient.value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"{low:.2f} to {high:.2f}"


def paradox(coefficients: Sequence[agreement.Coefficient]) -> bool:
    """Whether people agree much more often than the chance-corrected coefficients suggest, as they
    do where nearly all ratings are the same."""
    value = {each.name: each.value for each in coefficients}
    raw, alpha, ac1 = (
        value.get(name, math.nan)
        for name in ("raw agreement", "Krippendorff's alpha", "Gwet's AC1")
    )
    return raw > 0.7 and ac1 - alpha > 0.3


def judge_levels(stores: Stores, task: str) -> dict[str, str]:
    """The newest judge's level per subject of a decision, over all measure runs."""
    return {
        review.subject("relevance", run, row["feature"], task): row["level"]
        for run in measured(stores)
        if (relevance := judged(stores, run).get(task))
        for row in stores.cache.relevance(relevance.run)
    }


def calibration_rows(stores: Stores, task: str) -> list[Row]:
    """How often people agree with each level of the judge, and what would tighten that."""
    decisions = standing_decisions(stores, "relevance", task)
    return [
        {
            "name": each.level,
            "level": each.level,
            "value": _number(each.precision),
            "low": _number(each.low),
            "high": _number(each.high),
            "n": each.n,
            "interval": _range(each.low, each.high),
            "more": agreement.labels_for(WITHIN, each.precision, each.n),
        }
        for each in calibration(decisions, judge_levels(stores, task))
    ]


def human_check_row(stores: Stores, task: str) -> Row:
    """Our counts by the rule of the paper's Table 5: features the judge calls relevant, two or
    more people each."""
    levels = judge_levels(stores, task)
    relevant = {subject for subject, level in levels.items() if level in RELEVANT}
    decisions = standing_decisions(stores, "relevance", task)
    check = human_check(decisions, relevant if levels else None)
    shares = {
        name: getattr(check, name) / check.n if check.n else 0.0
        for name in ("relevant", "irrelevant", "unclear")
    }
    return {"name": f"here: {task}", "n": check.n, **shares}


def disputes(stores: Stores, kind: str, task: str = "") -> list[Disagreement]:
    """What people rate differently and nobody settled; what changes most gaps first."""
    decisions = standing_decisions(stores, kind, task)
    subjects = {d.subject: d.subject.split("/") for d in decisions}
    gaps = {run: gaps_on(stores, run) for run in {parts[1] for parts in subjects.values()}}
    weights = {subject: gaps[parts[1]][int(parts[2])] for subject, parts in subjects.items()}
    return disagreements(decisions, kind, weights=weights)


def gaps_on(stores: Stores, anchor: str) -> Counter[int]:
    """Per feature, how many datasets lack it against this anchor."""
    manifests = measured(stores)
    datasets = comparable(manifests, anchor) if anchor in manifests else []
    return Counter(
        feature
        for dataset in datasets
        if dataset != anchor
        for feature in coverage(stores, Comparison(anchor, dataset)).missing.tolist()
    )


def human_detection_rows(stores: Stores) -> list[Row]:
    """People's detection of what fires, with a language model's on the same feature beside it."""
    rows = []
    for run in measured(stores):
        detections = human_detection(stores.decisions, run)
        features = sorted({each.feature for each in detections})
        model = _model_detection(stores, run, features)
        rows += [
            {
                "feature": each.feature,
                "reviewer": each.reviewer,
                "value": _number(each.score.value),
                "interval": _range(each.score.low, each.score.high),
                "n": each.score.n,
                "model": model.get(each.feature),
            }
            for each in detections
        ]
    return rows


def _model_detection(stores: Stores, run: str, features: list[int]) -> dict[int, Any]:
    """A language model's score by feature, of the preferred explanation that has one."""
    scores: dict[int, Any] = {}
    for explain_run in explained(stores, run) if features else ():
        for row in stores.cache.explanations(explain_run, features):
            if "detection" in row["scores"]:
                scores.setdefault(row["feature"], row["scores"]["detection"]["value"])
    return scores
