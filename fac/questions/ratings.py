"""How well people agree: coefficients, disputes, records, and what a judge's levels are worth."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac import agreement, review
from fac.questions.catalogue import Row, comparable, measured
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explained
from fac.questions.relevance import judged
from fac.questions.results import synthesis_title
from fac.questions.samples import looked
from fac.review import NOT_RELEVANT, SCALE, Wording, by_wording, pace, read_subject, standing
from fac.schema import LEVELS, RELEVANT
from fac.store import Stores
from fac.store.decisions import VERDICTS, Decision, Decisions
from fac.store.memo import remembered_for_good

WITHIN = 0.05
"""How tight an interval a judge's precision should have: plus or minus five points."""


class Raters(NamedTuple):
    """How far people agree about one kind of question."""

    names: list[str]
    n_ratings: int
    coefficients: list[agreement.Coefficient]
    pairs: list[agreement.RaterAgreement]


class Disagreement(NamedTuple):
    """Something that people rated differently and nobody settled."""

    wording: Wording
    decisions: tuple[Decision, ...]
    """By reviewer name."""
    levels_apart: int
    """Between the best and the worst verdict; cannot_tell is not on the scale."""
    gaps: int
    """Gaps that appear or vanish with the answer; 0 where all agree on relevant or not."""


class Detection(NamedTuple):
    """How well one person told from an explanation which texts fire."""

    feature: int
    reviewer: str
    score: agreement.BalancedAccuracy
    """Texts answered with ? do not count."""


class HumanCheck(NamedTuple):
    """The paper's check of a judge (Table 5): what two or more people say, counted."""

    n: int
    """Items rated by at least two people."""
    relevant: int
    """All call it relevant (a level in RELEVANT)."""
    irrelevant: int
    """All call it irrelevant."""
    unclear: int
    """Anything else: they differ, or one cannot tell."""


def scale_of(kind: str) -> tuple[str, ...]:
    """What may be said of things of this kind, as far as it is a rating."""
    return VERDICTS["sample"] if kind == "sample" else LEVELS


def is_ordinal(kind: str) -> bool:
    """Whether the scale has an order; what is said of a sample has none."""
    return kind != "sample"


TABLE_5 = {
    "toxicity": HumanCheck(n=200, relevant=168, irrelevant=10, unclear=22),
    "reward": HumanCheck(n=200, relevant=170, irrelevant=12, unclear=18),
    "IF": HumanCheck(n=200, relevant=172, irrelevant=8, unclear=20),
}
"""The paper's own (arXiv 2602.10388), two annotators on features that GPT-4o-mini had called
relevant. Its text says 100 features a task and about 5 % unclear instead, and no coefficient."""


def ratings_matrix(
    decisions: Iterable[Decision], kind: str, levels: Sequence[str] = LEVELS
) -> tuple[np.ndarray, list[Wording], list[str]]:
    """Blind ratings as float `[n_items, n_reviewers]`, codes into `levels`, NaN where not rated.

    An item is a subject in one wording. A verdict outside `levels`, such as cannot_tell, is not a
    rating; adjudications are none either. Items and reviewers without any rating are left out.
    """
    rated = [d for d in decisions if d.kind == kind and not d.adjudicates and d.verdict in levels]
    subjects = sorted({Wording(d.subject, d.seen) for d in rated})
    reviewers = sorted({d.reviewer for d in rated})
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (subjects, reviewers))
    ratings = np.full((len(subjects), len(reviewers)), np.nan)
    for d in rated:
        ratings[row[Wording(d.subject, d.seen)], column[d.reviewer]] = levels.index(d.verdict)
    return ratings, subjects, reviewers


def disagreements(
    decisions: Iterable[Decision],
    kind: str,
    levels: Sequence[str] = LEVELS,
    *,
    weights: Mapping[str, int] | None = None,
) -> list[Disagreement]:
    """What to adjudicate first: most gaps changed, then furthest apart, then by subject.

    `weights` says, per subject, how many gaps hang on the feature; they change only where some
    call it relevant and others do not.
    """
    disputed = []
    for wording, ratings in by_wording(d for d in decisions if d.kind == kind).items():
        codes = [levels.index(d.verdict) for d in ratings if d.verdict in levels]
        if any(d.adjudicates for d in ratings) or len(set(codes)) < 2:
            continue
        sides = {levels[code] in RELEVANT for code in codes}
        gaps = (weights or {}).get(wording.subject, 0) if len(sides) == 2 else 0
        by_name = tuple(sorted(ratings, key=lambda d: d.reviewer))
        disputed.append(Disagreement(wording, by_name, max(codes) - min(codes), gaps))
    return sorted(disputed, key=lambda d: (-d.gaps, -d.levels_apart, d.wording))


def record_rows(decisions: Iterable[Decision], kind: str) -> list[Row]:
    """Every reviewer's work on a kind of question, by name: blind decisions that stand, their
    median seconds, and of those that adjudication settled how many are right: on the settled
    level or next to it."""
    of_kind = [d for d in decisions if d.kind == kind]
    scale, nearby = scale_of(kind), int(is_ordinal(kind))
    settled = {
        wording: standing(each).verdict
        for wording, each in by_wording(of_kind).items()
        if any(d.adjudicates for d in each)
    }
    by_name: dict[str, list[Decision]] = defaultdict(list)
    for decision in of_kind:
        if not decision.adjudicates:
            by_name[decision.reviewer].append(decision)
    rows = []
    for name, blind in sorted(by_name.items()):
        gold = [(d.verdict, settled.get(Wording(d.subject, d.seen), "")) for d in blind]
        right = [
            verdict in scale and abs(scale.index(verdict) - scale.index(truth)) <= nearby
            for verdict, truth in gold
            if truth in scale
        ]
        rows.append(
            {
                "reviewer": name,
                "decisions": len(blind),
                "seconds": _number(pace(blind, 0).seconds),
                "gold": f"{sum(right):,} of {len(right):,}" if right else "–",
            }
        )
    return rows


def calibration(
    decisions: Iterable[Decision], judged: Mapping[str, str]
) -> list[agreement.LevelPrecision]:
    """How often people call relevant what a judge put on each level; `judged` is the judge's level
    per subject. Counted where people's verdict stands and they could tell; of several wordings of
    one subject, the one decided on last."""
    by_subject: dict[str, tuple[str, bool]] = {}
    groups = by_wording(d for d in decisions if d.kind == "relevance")
    for wording, ratings in sorted(groups.items(), key=lambda group: group[1][-1].at):
        verdict = standing(ratings).verdict
        if wording.subject in judged and verdict in LEVELS:
            by_subject[wording.subject] = (judged[wording.subject], verdict in RELEVANT)
    levels, relevant = zip(*by_subject.values(), strict=True) if by_subject else ((), ())
    return agreement.precision_by_level(levels, relevant)


def human_check(decisions: Iterable[Decision], subjects: Iterable[str] | None = None) -> HumanCheck:
    """Table 5 of the paper for these decisions, adjudications left out; `subjects` restricts it to
    what a judge had called relevant. Of decisions on explanations it says: fits, does not, unclear.
    """
    among = None if subjects is None else set(subjects)
    counts: Counter[str] = Counter()
    blind = (d for d in decisions if d.verdict in SCALE and not d.adjudicates)
    for wording, ratings in by_wording(blind).items():
        if len(ratings) < 2 or (among is not None and wording.subject not in among):
            continue
        if all(d.verdict in RELEVANT for d in ratings):
            counts["relevant"] += 1
        elif all(d.verdict == NOT_RELEVANT for d in ratings):
            counts["irrelevant"] += 1
        else:
            counts["unclear"] += 1
    answers = (counts[answer] for answer in ("relevant", "irrelevant", "unclear"))
    return HumanCheck(counts.total(), *answers)


def human_detection(store: Decisions, measure_run: str) -> list[Detection]:
    """Balanced accuracy of every person and feature of the detection task, by feature and name."""
    contents = store.contents()
    detections = []
    for decision in sorted(store.current("detection"), key=lambda d: (d.reviewer, d.seen)):
        about = read_subject(decision.subject)
        truth = _truth(contents[decision.seen])
        if not about or about.measure != measure_run:
            continue
        if len(truth) != len(decision.verdict):  # only an import can bring such an answer
            continue
        pairs = [(s == "+", t) for s, t in zip(decision.verdict, truth, strict=True) if s != "?"]
        score = agreement.balanced_accuracy(*(zip(*pairs, strict=True) if pairs else ((), ())))
        detections.append(Detection(about.feature, decision.reviewer, score))
    return sorted(detections, key=lambda detection: detection.feature)


def _truth(content: Mapping[str, Any]) -> list[bool]:
    """Which texts of a detection fire; none where the content is no detection_content."""
    rows = content.get("examples")
    rows = rows if isinstance(rows, list) else []
    return [row["positive"] is True for row in rows if isinstance(row, dict) and "positive" in row]


def standing_decisions(stores: Stores, kind: str = "", task: str = "") -> list[Decision]:
    """What stands, of one kind and about one task where these are named."""
    decisions = stores.decisions.current(kind or None)
    if not task:
        return decisions
    subjects = {d.subject: read_subject(d.subject) for d in decisions}
    return [d for d in decisions if (parts := subjects[d.subject]) and parts.task == task]


def most_rated(stores: Stores, kinds: Sequence[str]) -> tuple[str, str]:
    """The one of `kinds` about which most was decided, of equal ones the first, and the task about
    whose relevance most was; "" each where nothing was."""
    counts = Counter(d.kind for d in stores.decisions.current() if d.kind in kinds)
    kind = max(kinds, key=counts.__getitem__) if counts else ""
    subjects = (read_subject(d.subject) for d in stores.decisions.current("relevance"))
    tasks = Counter(subject.task for subject in subjects if subject)
    return kind, max(tasks, key=tasks.__getitem__, default="")


def raters(stores: Stores, kind: str, task: str = "") -> Raters:
    """Agreement on the scale of the kind, with intervals; remembered while no decision is added."""
    return _raters(stores, kind, tuple(d.uid for d in standing_decisions(stores, kind, task)))


@remembered_for_good
def _raters(stores: Stores, kind: str, uids: tuple[str, ...]) -> Raters:
    chosen = set(uids)
    decisions = [d for d in stores.decisions.current(kind) if d.uid in chosen]
    scale, ordinal = scale_of(kind), is_ordinal(kind)
    ratings, _, names = ratings_matrix(decisions, kind, scale)
    size = len(scale)
    return Raters(
        names,
        sum(d.verdict in scale and not d.adjudicates for d in decisions),
        agreement.summary(ratings, size, ordinal=ordinal) if names else [],
        agreement.between_raters(ratings, names, size, ordinal=ordinal) if len(names) > 2 else [],
    )


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
    reasons: dict[str, list[str]] = defaultdict(list)
    for each in coefficients:
        if each.undefined:
            reasons[each.undefined].append(each.name)
    return reasons


COLUMNS = {
    "raw": "raw agreement",
    "kappa": "Cohen's kappa",
    "alpha": "Krippendorff's alpha, ordinal",
    "ac2": "Gwet's AC2",
}
"""The coefficients that matter most between two raters, by their column."""

NOMINAL_COLUMNS = {
    "raw": "raw agreement",
    "kappa": "Cohen's kappa",
    "alpha": "Krippendorff's alpha",
    "ac1": "Gwet's AC1",
}
"""The same where the scale has no order."""


def columns_of(kind: str) -> dict[str, str]:
    """The coefficients between two raters of this kind of question, by column."""
    return COLUMNS if is_ordinal(kind) else NOMINAL_COLUMNS


def rater_pair_rows(pairs: Sequence[agreement.RaterAgreement], kind: str) -> list[Row]:
    """A row per pair of raters with the coefficients of `columns_of`; "not defined" in words."""
    return [
        {
            "pair": f"{pair.first} and {pair.second}",
            "n_items": pair.coefficients[0].n_items,
            **{
                column: _estimate(each)
                for column, name in columns_of(kind).items()
                for each in pair.coefficients
                if each.name == name
            },
        }
        for pair in pairs
    ]


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
    names = ("raw agreement", "Krippendorff's alpha", "Gwet's AC1")
    raw, alpha, ac1 = (value.get(name, math.nan) for name in names)
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


def human_check_rows(stores: Stores, task: str) -> list[Row]:
    """The paper's Table 5 and our counts by its rule, as shares: features the judge calls relevant,
    two or more people each."""
    levels = judge_levels(stores, task)
    relevant = {subject for subject, level in levels.items() if level in RELEVANT}
    decisions = standing_decisions(stores, "relevance", task)
    checks = {f"paper: {name}": check for name, check in TABLE_5.items()}
    checks[f"here: {task}"] = human_check(decisions, relevant if levels else None)
    return [
        {
            "name": name,
            "n": check.n,
            **{k: n / check.n if check.n else 0.0 for k, n in check._asdict().items() if k != "n"},
        }
        for name, check in checks.items()
    ]


def disputes(stores: Stores, kind: str, task: str = "") -> list[Disagreement]:
    """What people rate differently and nobody settled; what changes most gaps first."""
    decisions = standing_decisions(stores, kind, task)
    subjects = {d.subject: d.subject.split("/") for d in decisions}
    gaps = {run: gaps_on(stores, run) for run in {parts[1] for parts in subjects.values()}}
    weights = {subject: gaps[parts[1]][int(parts[2])] for subject, parts in subjects.items()}
    return disagreements(decisions, kind, scale_of(kind), weights=weights)


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


def kept_rows(stores: Stores) -> list[Row]:
    """Of every synthesis whose kept samples people looked at: how many, and what share they would
    train on, with Wilson's interval."""
    subjects = (read_subject(d.subject) for d in stores.decisions.current("sample"))
    rows = []
    for run in sorted({subject.measure for subject in subjects if subject}):
        if not stores.runs.find(run):  # decided elsewhere, and imported
            continue
        counts = looked(stores, run)
        if not counts.looked:
            continue
        title = synthesis_title(stores.runs.manifest(run))
        rows.append(
            {
                "run": run,
                "name": title,
                "synthesis": title,
                "samples": counts.samples,
                "value": counts.share,
                "low": counts.low,
                "high": counts.high,
                "n": counts.looked,
                "looked": f"{counts.looked:,} of {counts.samples:,}",
                "share": f"{counts.share:.1%}",
                "interval": f"{counts.low:.1%} to {counts.high:.1%}",
                "people": ", ".join(counts.reviewers),
                **{name: getattr(counts, name) for name in KEPT_COUNTS},
            }
        )
    return rows


KEPT_COUNTS = ("kept", "edited", "dropped", "wrong_label", "disagreed")
"""What is counted of the samples that people looked at."""


class SampleShown(NamedTuple):
    """A sample as somebody saw it when deciding, as far as an import can be trusted."""

    synthesis: str
    feature: int
    messages: list[dict[str, str]]
    label: str  # "" where it has none


def sample_of(wording: Wording, content: Mapping[str, Any]) -> SampleShown:
    """What a decision on a sample was about."""
    about = read_subject(wording.subject)
    messages = content.get("messages")
    turns = messages if isinstance(messages, list) else []
    extra = content.get("extra")
    label = extra.get("label", "") if isinstance(extra, dict) else ""
    return SampleShown(
        about.measure if about else "",
        about.feature if about else -1,
        [
            {"role": str(turn.get("role", "")), "content": str(turn.get("content", ""))}
            for turn in turns
            if isinstance(turn, dict)
        ],
        str(label),
    )
