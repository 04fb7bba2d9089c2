"""The review desk of one browser session: what lies on it, what was said, what comes next.

A key press is one fragment rerun, so nothing here asks a store for what it already knows: the queue
is made once, the next item's texts are fetched while its reader still reads, and only a decision is
written. The decisions themselves live in the store; losing a session loses no more than a draft.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from fac import review
from fac.config import digest
from fac.errors import FacError
from fac.review import Item
from fac.schema import CANNOT_TELL
from fac.store.decisions import Decision
from fac.ui.gaps import coverage
from fac.ui.meaning import (
    Relevance,
    explained,
    explained_measure,
    explanation_texts,
    tasks,
)
from fac.ui.stores import cache, decisions
from fac.ui.text import Row, clean, example_html, tokens_html
from fac.ui.views import param_widget, set_param

STRONGEST, SPREAD = 3, 7
"""Examples shown of each kind: what it means when it barely fires counts too."""

TEXTS = 10
"""Held-out texts of a detection item, half of them firing where there are enough."""

MOST_DETECTIONS = 200
"""Features put on the desk for detection: each needs its texts beforehand."""

LAST = 10


# --- who --------------------------------------------------------------------------------------


def reviewer() -> str | None:
    """Who decides: the signed-in person where sign-in is configured, else a name they pick.

    Draws the picker or the sign-in button; None while nobody is known.
    """
    if _signs_in():
        return _signed_in()
    known = list(dict.fromkeys(d.reviewer for d in decisions().history(500)))
    tie = param_widget(
        "reviewer", None
    )  # the address says who, so that a bookmark is somebody's desk
    chosen = st.session_state.get(tie["key"])
    if chosen and chosen not in known:
        known.insert(0, chosen)
    name = st.selectbox(
        "Reviewer",
        known,
        index=None,
        placeholder="Your name",
        accept_new_options=True,
        width=200,
        help="Decisions are kept under this name; type a new one or take one of the last.",
        **tie,
    )
    return name.strip() or None if name else None


def _signs_in() -> bool:
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


def _signed_in() -> str | None:
    if not st.user.get("is_logged_in"):
        st.button("Sign in", icon=":material/login:", type="primary", on_click=st.login)
        return None
    name = str(st.user.get("email") or st.user.get("name") or st.user.get("sub"))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/person: {clean(name)}", width="content")
        st.button("Sign out", on_click=st.logout, type="tertiary")
    return name


# --- what there is to do ----------------------------------------------------------------------


def wanted_features(
    anchor: str, dataset: str, which: str, relevance: Relevance, asked: dict[str, Any]
) -> set[int] | None:
    """Features in question: the gaps of a dataset, or None for all."""
    if which == "explained" or dataset == anchor:
        return None
    return set(coverage(anchor, dataset, relevance=relevance, **asked).missing.tolist())


def explanation_items(anchor: str, features: set[int] | None, *, every: bool) -> list[Item]:
    """Does the explanation fit? One item a feature, or one a wording."""
    return [
        review.item(review.explanation_content(measure, feature, text))
        for measure, feature, text in explanation_texts(anchor, every=every)
        if features is None or feature in features
    ]


def relevance_items(anchor: str, features: set[int] | None, task: str) -> list[Item]:
    """Does the feature matter for the task? What was never explained is shown by its examples."""
    profile = tasks()[task]
    texts = {feature: text for _, feature, text in explanation_texts(anchor)}
    return [
        review.item(
            review.relevance_content(anchor, feature, task, profile.rubric, texts.get(feature))
        )
        for feature in sorted(texts if features is None else features)
    ]


def detection_items(anchor: str, features: set[int] | None) -> list[Item]:
    """Which of ten held-out texts fire? For features whose explanation has a test."""
    items: dict[int, Item] = {}
    texts = {feature: (measure, text) for measure, feature, text in explanation_texts(anchor)}
    for run in explained(anchor):
        for row in cache().explanations(run):
            feature = row["feature"]
            if len(items) == MOST_DETECTIONS:
                break
            if feature in items or feature not in texts:
                continue
            if features is not None and feature not in features:
                continue
            measure, text = texts[feature]
            if measure == explained_measure(run) and (test := _test(run, measure, feature)):
                content = review.detection_content(measure, feature, text, test)
                items[feature] = review.item(content)
    return list(items.values())


def _test(explain_run: str, measure: str, feature: int) -> list[Row]:
    """At most TEXTS held-out texts in their shuffled order; none unless both kinds are there."""
    rows = cache().examples(explain_run, measure, feature)
    sides = [[row for row in rows if row["positive"] == fires] for fires in (True, False)]
    if not all(sides):
        return []
    few = min(len(sides[0]), max(TEXTS // 2, TEXTS - len(sides[1])))
    kept = [*sides[0][:few], *sides[1][: TEXTS - few]]
    return sorted(kept, key=lambda row: row["number"])


# --- the desk ---------------------------------------------------------------------------------


@dataclass
class Draft:
    """What was ticked and written about the item on the desk, before it is decided."""

    reasons: set[str] = field(default_factory=set)
    note: str = ""
    edited: str = ""
    writing: bool = False
    """Whether the note and the correction are open."""
    typing: bool = False
    """Whether they were opened to be written in, so that the cursor belongs there."""
    revealed: bool = False
    """Whether somebody who wanted to look first has asked for the explanation."""
    unblurred: bool = False
    fires: set[int] = field(default_factory=set)
    """Texts marked as firing, in a detection."""


@dataclass
class Card:
    """What an item shows, fetched."""

    examples: str
    """HTML of the examples of an explanation or relevance item."""
    texts: list[Row]
    """Held-out texts of a detection item, with their truth."""


@dataclass
class Desk:
    """The work of one reviewer in one browser session."""

    setting: tuple[Any, ...]
    """Whatever decides what there is to do; another one is another desk."""
    reviewer: str
    kind: str
    todo: deque[Item]
    """Next first; the first is on the desk."""
    total: int
    """Items there are for this reviewer, decided ones included."""
    mine: list[Decision]
    """What the reviewer decided here, oldest first."""
    draft: Draft = field(default_factory=Draft)
    shown_at: float | None = None
    """When the item came into view, on the monotonic clock."""
    trouble: str = ""
    """Why the last decision was not recorded."""
    solved: tuple[Item, Decision] | None = None
    """A detection just decided, whose truth is in view."""
    cards: dict[str, Card] = field(default_factory=dict)

    @property
    def now(self) -> Item | None:
        return self.todo[0] if self.todo else None

    def card(self, item: Item) -> Card:
        """What the item shows; fetched at most once."""
        seen = digest(item.content)
        if seen not in self.cards:
            self.cards[seen] = _card(item)
        return self.cards[seen]

    def last(self) -> list[Decision]:
        """The reviewer's last decisions, newest first."""
        return self.mine[: -LAST - 1 : -1]

    def in_view(self) -> None:
        """The item has been drawn: its seconds begin, and the next one's texts are fetched."""
        if self.shown_at is None:
            self.shown_at = time.monotonic()
        if len(self.todo) > 1:
            self.card(self.todo[1])

    # ---- what a key does; each runs before the fragment is drawn again

    def decide(self, verdict: str) -> None:
        """Records what is said about the item on the desk and puts the next one there."""
        item = self.now
        if item is None or self.solved:
            return
        seconds = None if self.shown_at is None else round(time.monotonic() - self.shown_at, 2)
        try:
            said = decisions().add(
                self.reviewer,
                item.kind,
                item.subject,
                item.content,
                verdict,
                reasons=sorted(self.draft.reasons),
                note=self.draft.note.strip(),
                edited_text=self.draft.edited.strip() or None,
                seconds=seconds,
            )
        except FacError as error:
            self.trouble = str(error)
            return
        self.mine.append(said)
        self.trouble = ""
        if item.kind == "detection":
            self.solved = (item, said)
        else:
            self.advance()

    def advance(self) -> None:
        """The next item, with an empty draft."""
        gone = self.todo.popleft()
        self.cards.pop(digest(gone.content), None)
        self.draft, self.solved, self.shown_at = Draft(), None, None
        set_param("item", None)

    def undo(self, uid: str | None = None) -> None:
        """Takes a decision back, the last one unless named, and puts its item on the desk again
        with what was ticked and written."""
        said = next((d for d in reversed(self.mine) if uid in (None, d.uid)), None)
        if said is None:
            return
        try:
            decisions().withdraw(said.uid, self.reviewer)
            item = review.item(decisions().content(said.seen))
        except FacError as error:
            self.trouble = str(error)
            return
        self.mine.remove(said)
        if self.now is None or digest(self.now.content) != said.seen:
            self.todo.appendleft(item)
        self.solved, self.shown_at, self.trouble = None, None, ""
        self.draft = Draft(
            reasons=set(said.reasons),
            note=said.note,
            edited=said.edited_text or "",
            writing=bool(said.note or said.edited_text),
            revealed=True,
            fires={i for i, sign in enumerate(said.verdict) if sign == "+"},
        )

    def flag(self, reason: str) -> None:
        self.draft.reasons ^= {reason}

    def write(self) -> None:
        """Opens the note and the correction, or closes them; what was written stays."""
        self.draft.writing = self.draft.typing = not self.draft.writing

    def mark(self, text: int) -> None:
        """Says that a text fires, or no longer."""
        self.draft.fires ^= {text}

    def submit(self) -> None:
        """Records the marks of a detection: a sign per text."""
        if item := self.now:
            n = len(item.content["examples"])
            self.decide("".join("+" if i in self.draft.fires else "-" for i in range(n)))

    def give_up(self) -> None:
        """Cannot tell; for a detection, of none of its texts."""
        item = self.now
        if item and item.kind == "detection":
            self.decide("?" * len(item.content["examples"]))
        else:
            self.decide(CANNOT_TELL)


def open_desk(
    who: str, kind: str, setting: tuple[Any, ...], items: Any, *, first: str | None = None
) -> Desk:
    """The desk for these settings, laid out anew where they changed.

    `items` is called only then. `first` is the hash of an item that a link asks for: it comes to
    the top, decided or not. Raises InputError where nothing was ever shown under that hash.
    """
    here: Desk | None = st.session_state.get("desk")
    if here is None or here.setting != setting:
        everything: list[Item] = items()
        spoken = decisions().current(kind)
        todo = deque(review.queue(everything, spoken, who))
        mine = [d for d in spoken if d.reviewer == who and not d.adjudicates]
        here = Desk(setting, who, kind, todo, len(everything), mine)
        st.session_state["desk"] = here
    if first and (here.now is None or digest(here.now.content) != first):
        _bring_up(here, first)
    return here


def _bring_up(here: Desk, seen: str) -> None:
    """Puts the item a link asks for on top, decided or not."""
    asked = next((item for item in here.todo if digest(item.content) == seen), None)
    if asked:
        here.todo.remove(asked)
    else:
        try:
            asked = review.item(decisions().content(seen))
        except FacError:
            here.trouble = (
                "The item of this link is not among the chosen features in this wording, and "
                "nobody decided on it; here is the next one instead."
            )
            set_param("item", None)
            return
    here.todo.appendleft(asked)
    here.draft, here.solved, here.shown_at = Draft(), None, None


# --- what an item shows -----------------------------------------------------------------------


def _card(item: Item) -> Card:
    measure, feature = item.content["measure"], item.content["feature"]
    if item.kind == "detection":
        return Card("", _texts(measure, feature, item.content["examples"]))
    spans = cache().spans(measure, feature)
    return Card(_examples(spans), [])


def _examples(spans: Sequence[Row]) -> str:
    """The strongest examples and, apart, some over all strengths, on one colour scale."""
    top = [span for span in spans if span["kind"] == "top"][:STRONGEST]
    seen = {(span["sample"], span["position"]) for span in top}
    spread = [
        span
        for span in spans
        if span["kind"] == "spread" and (span["sample"], span["position"]) not in seen
    ]
    spread.sort(key=lambda span: -span["peak"])
    strongest = max((span["peak"] for span in spans), default=0.0)
    parts = []
    for heading, rows in (
        ("Where it fires most", top),
        ("Over all its strengths, strong to weak", _thinned(spread)),
    ):
        if rows:
            parts.append(f'<div class="fac-part">{heading}</div>')
            parts += [_example(span, strongest) for span in rows]
    return "".join(parts)


def _thinned(spans: list[Row]) -> list[Row]:
    """At most SPREAD of them, evenly, the weakest among them."""
    if len(spans) <= SPREAD:
        return spans
    step = (len(spans) - 1) / (SPREAD - 1)
    return [spans[round(i * step)] for i in range(SPREAD)]


def _example(span: Row, strongest: float) -> str:
    facts = [f"{span['peak']:.2f}", span["role"]]
    body = tokens_html(
        span["tokens"], span["activations"], strongest=strongest, peak=span["peak_index"]
    )
    return example_html(facts, body)


def _texts(measure: str, feature: int, asked: Iterable[Row]) -> list[Row]:
    """The held-out texts whose hashes a detection item holds, in its order."""
    known: dict[str, Row] = {}
    for run in explained(measure):
        if explained_measure(run) == measure:
            for row in cache().examples(run, measure, feature):
                known.setdefault(digest([*map(str, row["tokens"])]), row)
    return [
        {**known.get(each["text"], {"tokens": ["(this text is gone)"]}), **each} for each in asked
    ]


def pick_task() -> str:
    """The task whose relevance is reviewed."""
    profiles = tasks()
    return st.selectbox(
        "Task",
        list(profiles),
        width=170,
        label_visibility="collapsed",
        **param_widget("task", next(iter(profiles)), valid=profiles.__contains__),
    )
