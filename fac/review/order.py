"""What one reviewer does next, and how fast: everyone gets the same overlap, without which no
agreement can be computed; the rest is shared out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from fac.config import digest
from fac.review.items import Item
from fac.store.decisions import Decision, Decisions, reviewer_name


class Pace(NamedTuple):
    """How fast somebody decides."""

    seconds: float
    """Median per decision; NaN before the first that was measured."""
    minutes_left: float
    """For what is left at that pace; NaN likewise."""


def queue(
    items: Sequence[Item],
    decisions: Sequence[Decision],
    reviewer: str,
    *,
    overlap: float = 0.2,
    gold: float = 0.1,
    seed: str = "",
) -> list[Item]:
    """What `reviewer` still has to do, next first; `items` is everything there is to review.

    A share `overlap` of the items goes to everybody, in one order and spread evenly, so that two
    people who both stop early have rated the same ones. A share `gold` comes from what was
    adjudicated (by somebody else). The rest comes in the reviewer's own order; what others did
    already is last, so the work is shared out. `decisions` is Decisions.current(). The same
    arguments give the same queue, and a decision moves nothing but what it is about.
    """
    reviewer = reviewer_name(reviewer)
    by_key = {_key(item): item for item in items}
    mine = {_where(d) for d in decisions if d.reviewer == reviewer}
    others = {_where(d) for d in decisions if d.reviewer != reviewer}
    settled = {_where(d) for d in decisions if d.adjudicates}
    ranked = sorted(by_key, key=lambda key: (_fraction(seed, "everybody", key), key))
    shared = ranked[: math.ceil(overlap * len(ranked))]
    for_all = set(shared)
    answered = [key for key in ranked if key in settled and key not in for_all]
    golden = answered[: math.ceil(gold * len(ranked))]
    position: dict[tuple[str, str, str], tuple[bool, float]] = {}
    for key in by_key:
        position[key] = (key in others, _fraction(seed, reviewer, key))
    for group in (shared, golden):
        for i, key in enumerate(group):  # one in every stretch, anywhere in it
            position[key] = (False, (i + _fraction(seed, reviewer, key)) / len(group))
    left = sorted((key for key in by_key if key not in mine), key=lambda key: (*position[key], key))
    return [by_key[key]._replace(gold=key in settled, overlap=key in for_all) for key in left]


def undo(store: Decisions, reviewer: str, kind: str | None = None) -> Decision | None:
    """Takes back the reviewer's last standing decision; which, or None where there is none."""
    current = store.current(kind, reviewer=reviewer)
    if not current:
        return None
    store.withdraw(current[-1].uid, reviewer)
    return current[-1]


def pace(decisions: Sequence[Decision], left: int) -> Pace:
    """How long `left` more items will take somebody who decided these."""
    measured = [d.seconds for d in decisions if d.seconds is not None]
    seconds = float(median(measured)) if measured else math.nan
    return Pace(seconds, left * seconds / 60)


def _key(item: Item) -> tuple[str, str, str]:
    return item.kind, item.subject, digest(item.content)


def _where(decision: Decision) -> tuple[str, str, str]:
    return decision.kind, decision.subject, decision.seen


@lru_cache(maxsize=2**17)
def _fraction(*parts: object) -> float:
    """A number in [0, 1) that the parts determine; kept, as every key press asks for thousands."""
    return int(digest(*parts), 16) / 16**12
