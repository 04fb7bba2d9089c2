"""What people's word does to an export: which kept samples leave, as what, and how many were looked
at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from fac.agreement import wilson
from fac.datasets import sample_id
from fac.export.lineage import ExportRow, measured
from fac.schema import Chat

KEPT, DROPPED, EDITED, WRONG_LABEL = "kept", "dropped", "edited", "wrong label"
UNDECIDED, DISAGREED = "undecided", "disagreed"

OF_ANCHOR = "a text of the anchor"
UNSEEN = "not looked at"
NO_LABEL = "with a wrong label that nobody corrected"


class Edit(NamedTuple):
    """A text that a person made of a kept sample, measured again."""

    run: str  # that measured it
    messages: Chat
    extra: Mapping[str, Any]  # as of ExportRow
    hit: Mapping[str, Any]  # what it fires of its gap, a row of schema.HITS
    fires: tuple[int, ...] = ()  # all gaps that it fires


class Opinion(NamedTuple):
    """What people say of one kept sample."""

    state: str = UNDECIDED  # one of the states above
    reviewers: tuple[str, ...] = ()  # who decided on it
    label: str | None = None  # the right label, where a person gave one

    edit: Edit | None = None
    """The wording by a person that people decided on; None where it leaves as it was written."""

    waits: bool = False  # whether a newer edit is there that nobody decided on yet
    measuring: bool = False  # whether a newer edit is still being measured


class Selection(NamedTuple):
    """The rows that leave, and how many did not and why."""

    rows: list[ExportRow]
    kept: int  # by the filter
    left_out: dict[str, int]  # rows by why they stay, most first
    looked_at: int  # rows that somebody decided on
    reviewers: tuple[str, ...]  # by name
    liked: int  # of those, the ones that people would train on, edited ones included
    edited: int  # rows that leave as a person edited them
    relabelled: int  # rows that leave with a person's label
    unlabelled: int  # rows that leave without a label, since it was wrong
    waiting: int = 0  # kept samples with an edit that nobody decided on yet
    measuring: int = 0  # kept samples with an edit that is still being measured

    @property
    def share(self) -> float | None:
        """Of the rows looked at, those that people would train on; None where nobody looked."""
        return self.liked / self.looked_at if self.looked_at else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of `share`."""
        return wilson(self.liked, self.looked_at) if self.looked_at else None


def select(
    rows: Iterable[ExportRow],
    opinions: Mapping[str, Opinion],
    *,
    reviewed: bool = False,
    needs_label: bool = False,
    anchor: Collection[str] = (),
) -> Selection:
    """The kept samples that leave, after what people say of them (by candidate).

    What a person dropped, or people disagree on, stays; what was edited leaves as edited once
    people decided on the edit, and until then as it stood before; a wrong label is replaced by the
    person's or left off, and where a form `needs_label` a row without one stays. `reviewed`: only
    what people kept, edited or gave a label. `anchor`: ids of the anchor's own samples, which never
    leave."""
    leaving: list[ExportRow] = []
    left_out: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    kept = looked_at = liked = waiting = measuring = 0
    reviewers: set[str] = set()
    for row in rows:
        opinion = opinions.get(row.lineage["candidate"], Opinion())
        kept += 1
        looked_at += opinion.state != UNDECIDED
        liked += opinion.state in (KEPT, EDITED)
        waiting += opinion.waits
        measuring += opinion.measuring
        reviewers.update(opinion.reviewers)
        fresh, change = _revised(row, opinion)
        if why := _why_it_stays(fresh, opinion, reviewed, needs_label, anchor):
            left_out[why] += 1
        else:
            leaving.append(fresh)
            changed[change] += 1
    return Selection(
        leaving,
        kept,
        dict(left_out.most_common()),
        looked_at,
        tuple(sorted(reviewers)),
        liked,
        changed["edited"],
        changed["relabelled"],
        changed["unlabelled"],
        waiting,
        measuring,
    )


def _revised(row: ExportRow, opinion: Opinion) -> tuple[ExportRow, str]:
    """The row as people want it, and what they changed: edited, relabelled, unlabelled or ""."""
    messages, extra, change = row.messages, dict(row.extra), ""
    review = {"state": opinion.state, "by": [*opinion.reviewers], "edit": None}
    lineage = {**row.lineage, "review": review}
    if opinion.edit:
        messages, extra, change = opinion.edit.messages, dict(opinion.edit.extra), "edited"
        review["edit"] = opinion.edit.run
        lineage |= {"sample_id": sample_id(messages), **measured(opinion.edit.hit)}
    if opinion.label is not None:
        extra["label"], change = opinion.label, change or "relabelled"
        extra.pop("label_probability", None)  # of the label it had
    elif opinion.state == WRONG_LABEL and "label" in extra:
        for name in ("label", "label_probability"):
            extra.pop(name, None)
        change = "unlabelled"
    return ExportRow(messages, extra, lineage), change


def _why_it_stays(
    row: ExportRow,
    opinion: Opinion,
    reviewed: bool,
    needs_label: bool,
    anchor: Collection[str],
) -> str:
    """Why a row does not leave; "" where it does."""
    if row.lineage["sample_id"] in anchor:
        return OF_ANCHOR
    if opinion.state == DROPPED:
        return "dropped by a person"
    if opinion.state == DISAGREED:
        return "people disagree"
    if opinion.state == WRONG_LABEL and opinion.label is None and (needs_label or reviewed):
        return NO_LABEL
    if reviewed and opinion.state == UNDECIDED:
        return UNSEEN
    return ""
