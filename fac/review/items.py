"""One item at a time: its content, the queue it stands in, and what people's verdicts amount to.

Everyone gets the same overlap, without which no agreement can be computed; the rest is shared out.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import InputError
from fac.schema import CANNOT_TELL, LEVELS, RELEVANT
from fac.store.decisions import Decision, Decisions, reviewer_name

REASONS = ("too broad", "too narrow", "several meanings", "token artefact", "wrong")
"""Flags beside a verdict on an explanation."""

SCALE = (*LEVELS, CANNOT_TELL)  # what may be said of an explanation and of relevance

NOT_RELEVANT = LEVELS[-1]
"""The one level below RELEVANT: the explanation does not fit, the feature does not matter."""

_SUBJECT = re.compile(
    r"(explanation|relevance|detection|sample|family)/([^/]+)/(\d{1,9})(?:/(.+))?", re.DOTALL
)


class Item(NamedTuple):
    """One thing to decide on."""

    kind: str
    subject: str
    """Run, feature and, for relevance, task, for a sample candidate: the same however it is worded
    today."""
    content: dict[str, Any]  # what is shown; its hash is what a decision is bound to
    gold: bool = False  # Its answer is known by adjudication. Never shown.
    overlap: bool = False  # Every reviewer gets it. Never shown.


class Subject(NamedTuple):
    """What decisions are filed under, taken apart."""

    kind: str
    measure: str  # run id of a measure; for a sample of its synthesis
    feature: int
    task: str  # of relevance its task, of a sample its candidate, else ""


class Wording(NamedTuple):
    """One subject in one wording: what two ratings must share to be compared."""

    subject: str
    seen: str


def _content(kind: str, measure_run: str, feature: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "measure": measure_run, "feature": int(feature), **more}


def explanation_content(
    measure_run: str, feature: int, explanation_text: str | None
) -> dict[str, Any]:
    """Does this explanation fit the feature's spans? The spans follow from the measure run."""
    return _content("explanation", measure_run, feature, explanation=explanation_text)


def relevance_content(
    measure_run: str,
    feature: int,
    task_name: str,
    rubric: Sequence[str],
    explanation_text: str | None,
) -> dict[str, Any]:
    """Is the feature relevant to the task? Another rubric or explanation asks anew."""
    about = {"task": task_name, "rubric": [*rubric], "explanation": explanation_text}
    return _content("relevance", measure_run, feature, **about)


def detection_content(
    measure_run: str,
    feature: int,
    explanation_text: str | None,
    examples: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Which of these held-out texts fire? `examples` are rows with `tokens` and `positive`, as
    Cache.examples gives them; texts are kept as hashes, with the truth beside them."""
    texts = [
        {"text": digest([*map(str, row["tokens"])]), "positive": bool(row["positive"])}
        for row in examples
    ]
    about = {"explanation": explanation_text, "examples": texts}
    return _content("detection", measure_run, feature, **about)


def subject(kind: str, measure_run: str, feature: int, task: str = "") -> str:
    """What decisions of this kind about this feature are filed under."""
    return f"{kind}/{measure_run}/{int(feature)}" + (f"/{task}" if task else "")


def read_subject(text: str) -> Subject | None:
    """The parts of a subject; None for one that is not about a feature."""
    parts = _SUBJECT.fullmatch(text)
    if not parts:
        return None
    kind, measure, feature, task = parts.groups(default="")
    return Subject(kind, measure, int(feature), task)


def item(content: dict[str, Any]) -> Item:
    """The thing to decide on that one of the `*_content` functions describes. Raises InputError for
    another content, which an import may have brought."""
    try:
        kind, feature = content["kind"], int(content["feature"])
        if kind == "sample":
            about = (content["synthetic"], feature, content["candidate"])
        else:
            about = (content["measure"], feature, content.get("task", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"What was decided on there is nothing this page can show ({error!r}): it came with "
            f"an import."
        ) from error
    return Item(kind, subject(kind, *about), content)


def by_wording(decisions: Iterable[Decision]) -> dict[Wording, tuple[Decision, ...]]:
    """Decisions on the same subject in the same wording, oldest first."""
    groups: dict[Wording, list[Decision]] = defaultdict(list)
    for decision in sorted(decisions, key=lambda d: (d.at, d.uid)):
        groups[Wording(decision.subject, decision.seen)].append(decision)
    return {wording: tuple(group) for wording, group in groups.items()}


class Pace(NamedTuple):
    """How fast somebody decides."""

    seconds: float  # median per decision; NaN before the first that was measured
    minutes_left: float  # for what is left at that pace; NaN likewise


def queue(
    items: Sequence[Item],
    decisions: Sequence[Decision],
    reviewer: str,
    *,
    overlap: float = 0.2,
    gold: float = 0.1,
    seed: str = "",
) -> list[Item]:
    """What `reviewer` still has to do, next first; `items` is everything there is to review. A
    share `overlap` of the items goes to everybody, in one order and spread evenly, so that two
    people who both stop early have rated the same ones. A share `gold` comes from what was
    adjudicated (by somebody else). The rest comes in the reviewer's own order; what others did
    already is last, so the work is shared out. `decisions` is Decisions.current(). The same
    arguments give the same queue, and a decision moves nothing but what it is about."""
    reviewer = reviewer_name(reviewer)
    by_key = {(item.kind, item.subject, digest(item.content)): item for item in items}
    mine = {_where(d) for d in decisions if d.reviewer == reviewer}
    others = {_where(d) for d in decisions if d.reviewer != reviewer}
    settled = {_where(d) for d in decisions if d.adjudicates}
    ranked = sorted(by_key, key=lambda key: (_fraction(seed, "everybody", key), key))
    shared = ranked[: math.ceil(overlap * len(ranked))]
    for_all = set(shared)
    answered = [key for key in ranked if key in settled and key not in for_all]
    golden = answered[: math.ceil(gold * len(ranked))]
    position = {key: (key in others, _fraction(seed, reviewer, key)) for key in by_key}
    for group in (shared, golden):
        for i, key in enumerate(group):  # one in every stretch, anywhere in it
            position[key] = (False, (i + _fraction(seed, reviewer, key)) / len(group))
    left = sorted((key for key in by_key if key not in mine), key=lambda key: (*position[key], key))
    return [by_key[key]._replace(gold=key in settled, overlap=key in for_all) for key in left]


def pace(decisions: Sequence[Decision], left: int) -> Pace:
    """How long `left` more items will take somebody who decided these."""
    measured = [d.seconds for d in decisions if d.seconds is not None]
    seconds = float(median(measured)) if measured else math.nan
    return Pace(seconds, left * seconds / 60)


def _where(decision: Decision) -> tuple[str, str, str]:
    return decision.kind, decision.subject, decision.seen


@lru_cache(maxsize=2**17)
def _fraction(*parts: object) -> float:
    """A number in [0, 1) that the parts determine; kept, as every key press asks for thousands."""
    return int(digest(*parts), 16) / 16**12


class Standing(NamedTuple):
    """What people's verdicts on one thing amount to."""

    verdict: str | None  # None where nobody said anything or they disagree
    by: str
    """adjudication: settled after seeing all verdicts. agreed: all who had an opinion say the same.
    majority: more than half do, or do about being relevant at all. disputed. undecided."""
    decisions: tuple[Decision, ...]


def standing(decisions: Iterable[Decision]) -> Standing:
    """What the current decisions on one thing, as shown once, amount to. The newest adjudication
    decides. Otherwise those who could tell vote; where no level has more than half of them but the
    levels of RELEVANT together have, the verdict is their middle one, the more cautious of two.
    Those who could not tell decide only where nobody could."""
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
    count. Without it, what was decided on last counts, whatever the explanation says by now."""
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


def since_edited(
    item: Item,
    created: str,
    edits: Sequence[str],
    decisions: Mapping[Wording, tuple[Decision, ...]],
) -> tuple[str, Standing]:
    """The hash of a wording of that age, and what stands about it since the last later edit."""
    seen = digest(item.content)
    last = max((at for at in edits if at > created), default="")
    since = (d for d in decisions.get(Wording(item.subject, seen), ()) if d.at > last)
    return seen, standing(since)
