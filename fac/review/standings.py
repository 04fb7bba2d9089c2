"""What people's verdicts amount to: which one stands, what overrides a judge or corrects a text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fac.config import digest
from fac.review.items import NOT_RELEVANT, Wording, by_wording, explanation_content, read_subject
from fac.schema import CANNOT_TELL, LEVELS, RELEVANT
from fac.store.decisions import Decision, Decisions


class Standing(NamedTuple):
    """What people's verdicts on one thing amount to."""

    verdict: str | None
    """None where nobody said anything or they disagree."""
    by: str
    """adjudication: settled after seeing all verdicts. agreed: all who had an opinion say the same.
    majority: more than half do, or do about being relevant at all. disputed. undecided."""
    decisions: tuple[Decision, ...]


def standing(decisions: Iterable[Decision]) -> Standing:
    """What the current decisions on one thing, as shown once, amount to.

    The newest adjudication decides. Otherwise those who could tell vote; where no level has more
    than half of them but the levels of RELEVANT together have, the verdict is their middle one, the
    more cautious of two. Those who could not tell decide only where nobody could.
    """
    current = tuple(sorted(decisions, key=lambda d: (d.at, d.uid)))
    settling = [d for d in current if d.adjudicates]
    if settling:
        return Standing(settling[-1].verdict, "adjudication", current)
    verdicts = [d.verdict for d in current]
    votes = [v for v in verdicts if v != CANNOT_TELL] or verdicts
    if not votes:
        return Standing(None, "undecided", current)
    best, n = Counter(votes).most_common(1)[0]
    if n == len(votes):
        return Standing(best, "agreed", current)
    if n > len(votes) / 2:
        return Standing(best, "majority", current)
    side = sorted((v for v in votes if v in RELEVANT), key=LEVELS.index)
    if len(side) > len(votes) / 2:
        return Standing(side[len(side) // 2], "majority", current)
    return Standing(None, "disputed", current)


def relevance_overrides(
    store: Decisions,
    measure_run: str,
    task: str,
    contents: Iterable[Mapping[str, Any]] | None = None,
) -> dict[int, Standing]:
    """What people settled about the relevance of features to a task: level in LEVELS by feature.

    `contents` is what would be shown today (relevance_content): decisions on anything else do not
    count. Without it, what was decided on last counts, whatever the explanation says by now.
    """
    ratings = by_wording(store.current("relevance"))
    today = None if contents is None else {digest(content) for content in contents}
    settled: dict[int, Standing] = {}
    newest: dict[int, str] = {}
    for wording, decisions in ratings.items():
        about = read_subject(wording.subject)
        if not about or about != ("relevance", measure_run, about.feature, task):
            continue
        if today is not None and wording.seen not in today:
            continue
        if decisions[-1].at >= newest.get(about.feature, ""):
            newest[about.feature] = decisions[-1].at
            settled[about.feature] = standing(decisions)
    return {feature: s for feature, s in sorted(settled.items()) if s.verdict in LEVELS}


def corrections(store: Decisions, measure_run: str) -> dict[int, str]:
    """The explanation people wrote for a feature: the newest, an adjudicator's before others',
    unless people found that the correction itself does not fit."""
    current = store.current("explanation")
    ratings = by_wording(current)
    written: dict[int, list[Decision]] = defaultdict(list)
    for decision in current:
        about = read_subject(decision.subject)
        if decision.edited_text and about and about.measure == measure_run:
            written[about.feature].append(decision)
    texts: dict[int, str] = {}
    for feature, decisions in sorted(written.items()):
        for decision in sorted(decisions, key=lambda d: (d.adjudicates, d.at, d.uid), reverse=True):
            text = str(decision.edited_text)
            seen = digest(explanation_content(measure_run, feature, text))
            if standing(ratings.get(Wording(decision.subject, seen), ())).verdict != NOT_RELEVANT:
                texts[feature] = text
                break
    return texts
