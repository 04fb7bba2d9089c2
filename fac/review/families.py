"""What people call families of features: the newest name, bound to exactly the members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import InputError
from fac.review.items import Item, item, read_subject
from fac.store.decisions import VERDICTS, Decision, Decisions

KIND = "family"

(NAME,) = VERDICTS[KIND]
"""The verdict that says what a family is called."""

LONGEST = 80
"""Characters of a name."""


class GivenName(NamedTuple):
    """What a family is called by a person."""

    name: str
    by: str


def family_content(measure_run: str, members: Sequence[int]) -> dict[str, Any]:
    """What are these features called together? Which run grouped them, and by what threshold, makes
    no difference; other members ask anew."""
    features = sorted(map(int, members))
    return {"kind": KIND, "measure": measure_run, "feature": features[0], "members": features}


def family_item(measure_run: str, members: Sequence[int]) -> Item:
    """The family as it is decided on."""
    return item(family_content(measure_run, members))


def call_family(
    store: Decisions, measure_run: str, members: Sequence[int], name: str, reviewer: str
) -> Decision:
    """Records what somebody calls a family. Raises InputError for what can be no name."""
    text = " ".join(name.split())
    if not 0 < len(text) <= LONGEST or not text.isprintable():
        raise InputError(
            f"A family is called by 1 to {LONGEST} printable characters, got {name[:LONGEST]!r}."
        )
    about = family_item(measure_run, members)
    return store.add(reviewer, KIND, about.subject, about.content, NAME, edited_text=text)


def take_name_back(
    store: Decisions, measure_run: str, members: Sequence[int], reviewer: str
) -> Decision:
    """Withdraws what this person called a family last; returns it. Raises InputError where nothing
    stands."""
    about = family_item(measure_run, members)
    mine = [
        decision
        for decision in store.current(KIND, subject=about.subject, reviewer=reviewer)
        if decision.seen == digest(about.content)
    ]
    if not mine:
        raise InputError(f"{reviewer} gave this family no name that could be taken back.")
    store.withdraw(mine[-1].uid, reviewer)
    return mine[-1]


def given_names(
    store: Decisions, measure_run: str, families: Mapping[int, Sequence[int]]
) -> dict[int, GivenName]:
    """What people call families, given by their members, of the features of a measure run: an
    adjudicator's name before others', of these the newest."""
    by_first: dict[int, list[Decision]] = {}
    for decision in store.current(KIND):
        about = read_subject(decision.subject)
        if about and about.measure == measure_run:
            by_first.setdefault(about.feature, []).append(decision)
    names: dict[int, GivenName] = {}
    for number, members in families.items():
        decisions = by_first.get(min(members), [])
        if not decisions:
            continue
        seen = digest(family_content(measure_run, members))
        standing = [each for each in decisions if each.seen == seen and each.edited_text]
        if standing:
            last = max(standing, key=lambda each: (each.adjudicates, each.at, each.uid))
            names[number] = GivenName(str(last.edited_text), last.reviewer)
    return names
