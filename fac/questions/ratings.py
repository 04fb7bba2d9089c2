"""How well people agree: ratings, disputes, records, and what a judge's levels are worth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac import agreement
from fac.review import NOT_RELEVANT, SCALE, Wording, by_wording, pace, read_subject, standing
from fac.schema import LEVELS, RELEVANT
from fac.store.decisions import Decision, Decisions


class Disagreement(NamedTuple):
    """Something that people rated differently and nobody settled."""

    wording: Wording
    decisions: tuple[Decision, ...]
    """By reviewer name."""
    levels_apart: int
    """Between the best and the worst verdict; cannot_tell is not on the scale."""
    gaps: int
    """Gaps that appear or vanish with the answer; 0 where all agree on relevant or not."""


class Record(NamedTuple):
    """One reviewer's work on one kind of question."""

    reviewer: str
    n: int
    """Blind decisions that stand, cannot tell included."""
    seconds: float
    """Median per decision; NaN where none was measured."""
    n_gold: int
    """Of those, decisions on items whose answer was settled by adjudication."""
    gold_right: int
    """Of these, on the settled level or next to it."""


class Detection(NamedTuple):
    """How well one person told from an explanation which texts fire."""

    feature: int
    reviewer: str
    seen: str
    score: agreement.BalancedAccuracy
    n_unsure: int
    """Texts answered with ?; not in the score's n."""


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


TABLE_5 = {
    "toxicity": HumanCheck(n=200, relevant=168, irrelevant=10, unclear=22),
    "reward": HumanCheck(n=200, relevant=170, irrelevant=12, unclear=18),
    "instructions": HumanCheck(n=200, relevant=172, irrelevant=8, unclear=20),
}
"""The paper's own, two annotators on features that GPT-4o-mini had called relevant. Its text says
100 features a task and about 5 % unclear instead, and gives no coefficient."""


def ratings_matrix(
    decisions: Iterable[Decision], kind: str, levels: Sequence[str] = LEVELS
) -> tuple[np.ndarray, list[Wording], list[str]]:
    """Blind ratings as float `[n_items, n_reviewers]`, codes into `levels`, NaN where not rated.

    An item is a subject in one wording. A verdict outside `levels`, such as cannot_tell, is not a
    rating; adjudications are none either. Items and reviewers without any rating are left out.
    """
    rated = [
        d for d in decisions if d.kind == kind and not d.adjudicates and d.verdict in [*levels]
    ]
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


def records(decisions: Iterable[Decision], kind: str) -> list[Record]:
    """Every reviewer's work, by name: how much, how fast, how often right where it is known."""
    of_kind = [d for d in decisions if d.kind == kind]
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
        gold = [(d.verdict, settled.get(Wording(d.subject, d.seen))) for d in blind]
        comparable = [(verdict, truth) for verdict, truth in gold if truth in LEVELS]
        right = [
            verdict in LEVELS and abs(LEVELS.index(verdict) - LEVELS.index(str(truth))) <= 1
            for verdict, truth in comparable
        ]
        rows.append(Record(name, len(blind), pace(blind, 0).seconds, len(comparable), sum(right)))
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
    wanted = None if subjects is None else set(subjects)
    counts: Counter[str] = Counter()
    blind = (d for d in decisions if d.verdict in SCALE and not d.adjudicates)
    for wording, ratings in by_wording(blind).items():
        if len(ratings) < 2 or (wanted is not None and wording.subject not in wanted):
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
    for decision in store.current("detection"):
        about = read_subject(decision.subject)
        truth = _truth(contents[decision.seen])
        if not about or about.measure != measure_run:
            continue
        if len(truth) != len(decision.verdict):  # only an import can bring such an answer
            continue
        pairs = [(s == "+", t) for s, t in zip(decision.verdict, truth, strict=True) if s != "?"]
        score = agreement.balanced_accuracy(*(zip(*pairs, strict=True) if pairs else ((), ())))
        unsure = decision.verdict.count("?")
        detections.append(Detection(about.feature, decision.reviewer, decision.seen, score, unsure))
    return sorted(detections, key=lambda d: (d.feature, d.reviewer, d.seen))


def _truth(content: Mapping[str, Any]) -> list[bool]:
    """Which texts of a detection fire; none where the content is no detection_content."""
    rows = content.get("examples")
    rows = rows if isinstance(rows, list) else []
    return [row["positive"] is True for row in rows if isinstance(row, dict) and "positive" in row]
