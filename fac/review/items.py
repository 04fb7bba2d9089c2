"""What a reviewer is shown and asked: one item, the subject it is filed under, its exact content.

What is decided is the exact content, so the functions `*_content` make what is hashed and nobody
else does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import InputError
from fac.schema import CANNOT_TELL, LEVELS
from fac.store.decisions import Decision

REASONS = ("too broad", "too narrow", "several meanings", "token artefact", "wrong")
"""Flags beside a verdict on an explanation."""

SCALE = (*LEVELS, CANNOT_TELL)
"""What may be said of an explanation and of relevance."""

NOT_RELEVANT = LEVELS[-1]
"""The one level below RELEVANT: the explanation does not fit, the feature does not matter."""

APPROVE, REJECT = "approve", "reject"
"""What is said of a pair that may be written from, and of one that may not."""

_SUBJECT = re.compile(r"(explanation|relevance|detection)/([^/]+)/(\d{1,9})(?:/(.+))?", re.DOTALL)


class Item(NamedTuple):
    """One thing to decide on."""

    kind: str
    subject: str
    """Measure run, feature and, for relevance, task: the same however it is worded today."""
    content: dict[str, Any]
    """What is shown; its hash is what a decision is bound to."""
    gold: bool = False
    """Its answer is known by adjudication. Never shown."""
    overlap: bool = False
    """Every reviewer gets it. Never shown."""


class Subject(NamedTuple):
    """What decisions are filed under, taken apart."""

    kind: str
    measure: str
    """Run id."""
    feature: int
    task: str
    """"" but for relevance."""


class Wording(NamedTuple):
    """One subject in one wording: what two ratings must share to be compared."""

    subject: str
    seen: str


def explanation_content(
    measure_run: str, feature: int, explanation_text: str | None
) -> dict[str, Any]:
    """Does this explanation fit the feature's spans? The spans follow from the measure run."""
    return {
        "kind": "explanation",
        "measure": measure_run,
        "feature": int(feature),
        "explanation": explanation_text,
    }


def relevance_content(
    measure_run: str,
    feature: int,
    task_name: str,
    rubric: Sequence[str],
    explanation_text: str | None,
) -> dict[str, Any]:
    """Is the feature relevant to the task? Another rubric or explanation asks anew."""
    return {
        "kind": "relevance",
        "measure": measure_run,
        "feature": int(feature),
        "task": task_name,
        "rubric": [*rubric],
        "explanation": explanation_text,
    }


def detection_content(
    measure_run: str,
    feature: int,
    explanation_text: str | None,
    examples: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Which of these held-out texts fire? `examples` are rows with `tokens` and `positive`, as
    Cache.examples gives them; texts are kept as hashes, with the truth beside them."""
    return {
        "kind": "detection",
        "measure": measure_run,
        "feature": int(feature),
        "explanation": explanation_text,
        "examples": [
            {"text": digest([*map(str, row["tokens"])]), "positive": bool(row["positive"])}
            for row in examples
        ],
    }


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
    """The thing to decide on that one of the `*_content` functions describes.

    Raises InputError for another content, which an import may have brought.
    """
    try:
        kind, about = content["kind"], (content["measure"], int(content["feature"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"What was decided on there is nothing this page can show ({error!r}): it came with "
            f"an import."
        ) from error
    return Item(kind, subject(kind, *about, content.get("task", "")), content)


def by_wording(decisions: Iterable[Decision]) -> dict[Wording, tuple[Decision, ...]]:
    """Decisions on the same subject in the same wording, oldest first."""
    groups: dict[Wording, list[Decision]] = defaultdict(list)
    for decision in sorted(decisions, key=lambda d: (d.at, d.uid)):
        groups[Wording(decision.subject, decision.seen)].append(decision)
    return {wording: tuple(group) for wording, group in groups.items()}
