"""The review queue of one person: what lies on it, what was decided, what comes next.

A key press is answered while somebody waits, so nothing here asks a store again for what it knows:
the queue is laid out once, the memo has the next entry's texts while this one is still read, and
only a decision is written. Decisions live in their store; who loses a session loses a draft.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from fac import review
from fac.config import digest
from fac.errors import FacError
from fac.questions.catalogue import Row
from fac.questions.explanations import explain_runs, explained, explained_measure, texts
from fac.questions.relevance import task_profiles
from fac.review import Item, Pace
from fac.schema import CANNOT_TELL
from fac.store import Stores
from fac.store.decisions import Decision
from fac.store.queue import Job

Entry = TypeVar("Entry")
TEXTS = 10
"""Held-out texts of a detection item, half of them firing where there are enough."""

MOST_DETECTIONS = 200
"""Features put on a queue for detection: each needs its texts beforehand."""

EDITED_MEANWHILE = (
    "This was edited while you looked at it, so nothing was recorded. Here is the edit."
)

LOST_LINK = (
    "The item of this link is not among the chosen features in this wording, and nobody decided on "
    "it; here is the next one instead."
)


@dataclass
class Draft:
    """What was ticked and written about the entry on top, before it is decided."""

    note: str = ""
    noting: bool = False
    """Whether the note is open."""
    typing: str = ""
    """Which fields were opened last, so that the cursor belongs there: note or edit."""
    opened: float = 0.0
    """When they were, on the monotonic clock."""
    unblurred: bool = False
    reasons: set[str] = field(default_factory=set)
    correction: str = ""
    """What an explanation should rather say."""
    revealed: bool = False
    """Whether somebody who wanted to look first has asked for the explanation."""
    fires: set[int] = field(default_factory=set)
    """Texts marked as firing, in a detection."""
    editing: bool = False
    """Whether the texts are open for an edit, or the correction of an explanation."""
    sides: tuple[str, ...] | None = None
    """An edit as far as it was written; None begins with the texts as they are."""

    def write(self) -> None:
        """Opens the note, or closes it; what was written stays."""
        self.noting = not self.noting
        self.typing, self.opened = "note" if self.noting else "", time.monotonic()

    def edit(self) -> None:
        """Opens what may be edited, or closes it; what was written stays."""
        self.editing = not self.editing
        self.typing, self.opened = "edit" if self.editing else "", time.monotonic()


@dataclass(kw_only=True)
class ReviewQueue(ABC, Generic[Entry]):
    """The entries that one session decides on, next first, and what it decided."""

    stores: Stores
    setting: tuple[Any, ...]
    """Whatever decides what there is to do; another one is another queue."""
    reviewer: str | None
    """None only looks."""
    todo: deque[Entry]
    """Next first; the first is the one in view."""
    total: int
    """Entries of this view when it was laid out."""
    acts: list[tuple[Decision, ...]]
    """What each key recorded, oldest first; it is taken back as one."""
    moved: Callable[[], None] = lambda: None
    """Called when a key brings another entry up, so that no address names the one before."""
    draft: Draft = field(default_factory=Draft)
    shown_at: float | None = None
    """When the entry came into view, on the monotonic clock."""
    trouble: str = ""
    """Why the last key did nothing."""

    @property
    def top(self) -> Entry | None:
        return self.todo[0] if self.todo else None

    @property
    def decisions(self) -> list[Decision]:
        """What the reviewer decided here, oldest first."""
        return [decision for act in self.acts for decision in act]

    def last(self) -> list[Decision]:
        """The reviewer's last ten decisions, newest first."""
        return self.decisions[:-11:-1]

    def pace(self, left: int) -> Pace:
        """How long `left` more entries will take."""
        return review.pace(self.decisions, left)

    def in_view(self) -> None:
        """The entry has been drawn: its seconds begin, and the next one's texts are fetched."""
        if self.shown_at is None:
            self.shown_at = time.monotonic()
        if len(self.todo) > 1:
            self.evidence(self.todo[1])

    @abstractmethod
    def evidence(self, entry: Entry) -> list[Row]:
        """The examples or texts that an entry shows; the memo keeps them."""

    @abstractmethod
    def entry_of(self, decision: Decision) -> Entry:
        """What was decided on. Raises FacError where nothing can show it any more."""

    def same(self, entry: Entry, other: Entry) -> bool:
        """Whether both are one thing to decide on."""
        return entry == other

    # ---- what a key does; each runs before anything is drawn again

    def record(self, item: Item, verdict: str) -> Decision | None:
        """Records a verdict with the draft and its seconds; None and `trouble` where it cannot."""
        seconds = None if self.shown_at is None else round(time.monotonic() - self.shown_at, 2)
        try:
            decision = self.add(item, verdict, self.draft, seconds)
        except FacError as error:
            self.trouble = str(error)
            return None
        self.acts.append((decision,))
        self.trouble = ""
        return decision

    def add(self, item: Item, verdict: str, draft: Draft, seconds: float | None = None) -> Decision:
        """Writes one decision. Raises FacError where it is refused."""
        return self.stores.decisions.add(
            self.reviewer or "",
            item.kind,
            item.subject,
            item.content,
            verdict,
            reasons=sorted(draft.reasons),
            note=draft.note.strip(),
            edited_text=draft.correction.strip() or None,
            seconds=seconds,
        )

    def advance(self) -> None:
        """The next entry, with an empty draft."""
        self.todo.popleft()
        self.renew()

    def skip(self) -> None:
        """The entry comes again after the others."""
        self.todo.rotate(-1)
        self.renew()

    def undo(self, uid: str | None = None) -> list[Decision]:
        """Takes one act back, the last unless a decision is named: its entries are on top again, a
        single one with what was ticked and written. The decisions that were taken back."""
        acts = (a for a in reversed(self.acts) if uid is None or uid in {d.uid for d in a})
        act = next(acts, None)
        if act is None or self.reviewer is None:
            return []
        withdrawn: list[Decision] = []
        entries: list[Entry] = []
        self.trouble = ""
        try:
            for decision in act:
                self.stores.decisions.withdraw(decision.uid, self.reviewer)
                withdrawn.append(decision)
                entries.append(self.entry_of(decision))
        except FacError as error:
            self.trouble = str(error)
        at, left = self.acts.index(act), act[len(withdrawn) :]
        self.acts[at : at + 1] = [left] if left and withdrawn else []
        if not withdrawn:
            return []
        for entry in reversed(entries):
            self.bring_up(entry)
        self.renew()
        if len(withdrawn) == 1:
            before = withdrawn[0]
            correction = before.edited_text if before.kind == "explanation" else ""
            self.draft = Draft(
                note=before.note,
                noting=bool(before.note),
                editing=bool(correction),
                reasons=set(before.reasons) - {review.UNSEEN},
                correction=correction or "",
                revealed=True,
                fires={i for i, sign in enumerate(before.verdict) if sign == "+"},
            )
        return withdrawn

    def bring_up(self, entry: Entry) -> None:
        """Puts an entry on top, wherever it lay."""
        self.todo = deque(each for each in self.todo if not self.same(each, entry))
        self.todo.appendleft(entry)
        self.clear()

    def renew(self) -> None:
        """Another entry is on top, or the same anew, whatever an address asked for."""
        self.clear()
        self.moved()

    def clear(self) -> None:
        """Nothing is written yet, and the clock does not run."""
        self.draft, self.shown_at = Draft(), None


class Version(Protocol):
    """One wording of an entry."""

    @property
    def run(self) -> str: ...
    @property
    def item(self) -> Item: ...


VersionT = TypeVar("VersionT", bound=Version)
Version_co = TypeVar("Version_co", bound=Version, covariant=True)


class State(Protocol[Version_co]):
    """Where an entry stands, with all its wordings, oldest first, and the one that counts."""

    @property
    def versions(self) -> tuple[Version_co, ...]: ...
    @property
    def version(self) -> Version_co: ...


@dataclass(kw_only=True)
class EditQueue(ReviewQueue[Entry], Generic[Entry, VersionT]):
    """Entries that people may edit: beside decisions, their versions and the jobs that measure
    edits. What is decided on is the version on the screen."""

    drawn: tuple[VersionT, int] | None = None
    """The version on the screen, and how many its entry had."""
    versions: dict[Entry, str] = field(default_factory=dict)
    """Runs of the versions that somebody asked to see, by entry."""
    edits: dict[Entry, int] = field(default_factory=dict)
    """Jobs that measure an edit, by entry."""

    @abstractmethod
    def state(self, entry: Entry) -> State[VersionT]:
        """Where an entry stands by now."""

    @abstractmethod
    def decidable(self, version: VersionT) -> bool:
        """Whether a version is one to decide on."""

    @abstractmethod
    def texts_of(self, job: Job) -> tuple[str, ...]:
        """The texts of the edit that a job measures."""

    def version_in_view(self, entry: Entry, state: State[VersionT]) -> VersionT:
        """The version of an entry that somebody asked to see, else the one that counts."""
        run = self.versions.get(entry)
        return next((each for each in state.versions if each.run == run), state.version)

    def clear(self) -> None:
        super().clear()
        self.drawn = None

    def decide(self, verdict: str) -> None:
        """Records what is said about the version on the screen, and puts the next entry there."""
        entry = self.top
        if self.reviewer is None or self.drawn is None or entry is None or entry in self.edits:
            return
        version, n_versions = self.drawn
        if not self.decidable(version):
            return
        if len(self.state(entry).versions) > n_versions:
            self.trouble = EDITED_MEANWHILE
            self.renew()
        elif self.record(version.item, verdict):
            self.advance()

    def look_at(self, run: str) -> None:
        """Brings another version of the entry into view."""
        if self.top is not None:
            self.versions[self.top] = run
            self.renew()

    def wait_for(self, entry: Entry, base: str, job: int) -> None:
        """An edit of the version in the run `base` is being measured by a job."""
        self.edits[entry] = job
        self.versions[entry] = base  # until it is taken in, or keys would meet it
        self.trouble = ""
        self.renew()

    def arrived(self) -> bool:
        """Takes in edits that have been measured, or could not be; whether there were any."""
        jobs = {entry: self.stores.queue.job(job) for entry, job in self.edits.items()}
        ended = {e: job for e, job in jobs.items() if job.status not in ("waiting", "running")}
        for entry, job in ended.items():
            del self.edits[entry]
            if job.status == "done" and job.run_id:
                self.versions[entry] = job.run_id
                if entry == self.top:
                    self.renew()
                elif entry not in self.todo:
                    self.todo.append(entry)
            elif entry == self.top:
                self.trouble = job.error or "Measuring the edit was cancelled."
                self.draft = Draft(editing=True, sides=self.texts_of(job))
        return bool(ended)


@dataclass(kw_only=True)
class ItemQueue(ReviewQueue[Item]):
    """Explanations, relevance or detections, blind and in the reviewer's own order."""

    reviewer: str
    solved: tuple[Item, Decision] | None = None
    """A detection just decided, whose truth is in view."""

    def evidence(self, entry: Item) -> list[Row]:
        """The examples of an item's feature where it was measured; of a detection the held-out
        texts whose hashes it holds, in its order, with their truth."""
        cache, content = self.stores.cache, entry.content
        measure, feature = content["measure"], content["feature"]
        if entry.kind != "detection":
            return cache.spans(measure, feature)
        by_hash: dict[str, Row] = {}
        for run in filter(cache.ready, explain_runs(self.stores.runs, measure)):
            for row in cache.examples(run, measure, feature):
                by_hash.setdefault(digest([*map(str, row["tokens"])]), row)
        gone = {"tokens": ["(this text is gone)"]}
        return [{**by_hash.get(each["text"], gone), **each} for each in content["examples"]]

    def entry_of(self, decision: Decision) -> Item:
        return review.item(self.stores.decisions.content(decision.seen))

    def same(self, entry: Item, other: Item) -> bool:
        return entry.subject == other.subject and entry.content == other.content

    def clear(self) -> None:
        super().clear()
        self.solved = None

    def decide(self, verdict: str) -> None:
        """Records a verdict on the item on top; a detection stays until its truth was seen."""
        item = self.top
        if item is None or self.solved:
            return
        decision = self.record(item, verdict)
        if decision and item.kind == "detection":
            self.solved = (item, decision)
        elif decision:
            self.advance()

    def submit(self) -> None:
        """Records the marks of a detection: a sign per text."""
        if item := self.top:
            n = len(item.content["examples"])
            self.decide("".join("+" if i in self.draft.fires else "-" for i in range(n)))

    def give_up(self) -> None:
        """Cannot tell; for a detection, of none of its texts."""
        item = self.top
        if item and item.kind == "detection":
            self.decide("?" * len(item.content["examples"]))
        else:
            self.decide(CANNOT_TELL)

    def bring_up_linked(self, seen: str) -> bool:
        """Puts the item whose content has this hash, which a link asks for, on top, decided or not;
        whether there is such a one."""
        item = next((each for each in self.todo if digest(each.content) == seen), None)
        try:
            self.bring_up(item or review.item(self.stores.decisions.content(seen)))
        except FacError:
            self.trouble = LOST_LINK
            return False
        return True


def item_queue(
    stores: Stores,
    setting: tuple[Any, ...],
    who: str,
    kind: str,
    items: Sequence[Item],
    moved: Callable[[], None],
) -> ItemQueue:
    """The queue of `items`, less what its reviewer decided."""
    current = stores.decisions.current(kind)
    return ItemQueue(
        stores=stores,
        setting=setting,
        reviewer=who,
        todo=deque(review.queue(items, current, who)),
        total=len(items),
        acts=[(d,) for d in current if d.reviewer == who and not d.adjudicates],
        moved=moved,
    )


def items_of(
    stores: Stores,
    kind: str,
    anchor: str,
    features: set[int] | None,
    *,
    task: str = "",
    every: bool = False,
) -> list[Item]:
    """Everything of a kind that could be asked about features, or about all of them.

    explanation: does it fit? The preferred one of each feature, or `every` one. relevance: does the
    feature matter for the task? What was never explained is shown by its examples. detection: which
    of ten held-out texts fire? For features whose explanation has a test.
    """
    explanations = [
        (measure, feature, text)
        for measure, feature, text in texts(stores, anchor, every=every)
        if features is None or feature in features
    ]
    if kind == "explanation":
        contents = [review.explanation_content(*each) for each in explanations]
    elif kind == "relevance":
        rubric = task_profiles(stores.runs)[task].rubric
        by_feature = {feature: text for _, feature, text in explanations}
        contents = [
            review.relevance_content(anchor, feature, task, rubric, by_feature.get(feature))
            for feature in sorted(by_feature if features is None else features)
        ]
    else:
        contents = _detections(stores, anchor, {f: (m, text) for m, f, text in explanations})
    return [review.item(content) for content in contents]


def _detections(
    stores: Stores, anchor: str, explanations: Mapping[int, tuple[str, str]]
) -> list[Row]:
    """Contents of the features whose explanation, (measure run, text), has a test."""
    by_feature: dict[int, Row] = {}
    for run in explained(stores, anchor):
        for row in stores.cache.explanations(run):
            feature = row["feature"]
            if len(by_feature) == MOST_DETECTIONS:
                break
            if feature in by_feature or feature not in explanations:
                continue
            measure, text = explanations[feature]
            same = measure == explained_measure(stores, run)
            if same and (test := _test(stores, run, measure, feature)):
                by_feature[feature] = review.detection_content(measure, feature, text, test)
    return list(by_feature.values())


def _test(stores: Stores, explain_run: str, measure: str, feature: int) -> list[Row]:
    """At most TEXTS held-out texts in their shuffled order; none unless both kinds are there."""
    rows = stores.cache.examples(explain_run, measure, feature)
    firing, silent = ([row for row in rows if row["positive"] == fires] for fires in (True, False))
    if not firing or not silent:
        return []
    few = min(len(firing), max(TEXTS // 2, TEXTS - len(silent)))
    return sorted([*firing[:few], *silent[: TEXTS - few]], key=lambda row: row["number"])
