"""Pairs: asked for in view of their prompt, then approved one at a time by keyboard.

A pair is decided on exactly as it is on the screen. Where it was edited since, whoever looks at the
old wording is told so and nothing is recorded; what may be written from says fac.review alone.
"""

from __future__ import annotations

import html
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import streamlit as st

from fac import compare, review
from fac.config import PairsSpec, RescoreSpec
from fac.errors import FacError, InputError
from fac.review import PairState, PairVersion
from fac.store.decisions import Decision
from fac.store.queue import Job
from fac.synthesis import plan as making
from fac.synthesis import user_text
from fac.ui.card import focus_writing
from fac.ui.findings import pair_states
from fac.ui.gaps import gap_table
from fac.ui.jobs import start
from fac.ui.meaning import explanation_texts, names
from fac.ui.stores import cache, decisions, queue, runs
from fac.ui.tables import table
from fac.ui.text import Row, called, clean, plain, show_examples, tokens_html
from fac.ui.views import PAIRS, SYNTHESIS, get_param, link, set_param
from fac.ui.writing import Asked, by_style, duration

BEST = "best"
"""In the address in place of features: the best supported gaps, as many as the form says."""

EVERY_STATE = "all"

STATE_NAMES = {
    "undecided": "To decide",
    "approved": "Approved",
    "rejected": "Rejected",
    "failed": "Without a pair",
    EVERY_STATE: "All",
}
"""What each view is called."""


# --- what is asked for ------------------------------------------------------------------------


def asked_features() -> str:
    """The gaps that pairs are asked for, as the address has them; "" where it asks for none.

    The newer wish counts: a link to gaps forgets the run that was on the desk, and the other way
    round.
    """
    given = st.query_params
    if "pairs" in given:
        set_param("features", None)
    elif "features" in given:
        set_param("pairs", None)
    return get_param("features", "")


def read_features(text: str, n_features: int) -> tuple[int, ...]:
    """The features of an address such as 3,17,208. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part, re.ASCII)]
    if wrong or not parts:
        raise InputError(
            f"The gaps of this address should be numbers such as 3,17,208, got "
            f"{(wrong or [text])[0]!r:.40}: choose them on the Coverage page."
        )
    found = sorted(set(map(int, parts)))
    if found[-1] >= n_features:
        raise InputError(f"There is no feature {found[-1]}: the dictionary has {n_features:,}.")
    return tuple(found)


def best_supported(anchor: str, dataset: str, asked: Row, n: int) -> tuple[list[Row], int]:
    """The gaps that most of the anchor's samples show, and how many gaps there are."""
    return gap_table(anchor, dataset, sort="n_anchor", limit=n, **asked)


def gap_rows(anchor: str, features: Sequence[int]) -> list[Row]:
    """What the anchor knows of features, in their order: names, explanations, support."""
    rows, _ = cache().features_page(anchor, ids=features, limit=len(features))
    known = {row["feature"]: row for row in rows}
    said = _explained(anchor)
    return [
        {**known[f], "n_anchor": known[f]["n_samples"], "explanation": said.get(f)}
        for f in features
        if f in known
    ]


def _explained(anchor: str) -> dict[int, str]:
    """The preferred explanation of every feature that has one."""
    return {feature: text for _, feature, text in explanation_texts(anchor)}


def pairs_spec(
    anchor: str, dataset: str, features: Sequence[int], threshold: float, fields: Mapping[str, Any]
) -> PairsSpec:
    """The spec of a form. Raises InputError for settings that cannot be."""
    return PairsSpec(
        anchor=anchor,
        dataset=dataset,
        features=tuple(features),
        explanations=tuple(compare.explained_by(runs(), anchor)),
        threshold=threshold,
        **fields,
    )


def requests_for(spec: PairsSpec, feature: int) -> list[Asked]:
    """Exactly what the writer will be asked for one gap, each style once; none for a gap that the
    anchor has no example of."""
    known = making.feature_briefs(runs(), spec.anchor, [feature], spec.explanations)
    return by_style(making.ask_from_anchor(spec, known.values(), "step-1", making.unsteered))


class Estimate(NamedTuple):
    """What writing pairs may take."""

    texts: int
    most_tokens: int
    """New tokens if every text is as long as it may be."""
    prompt_tokens: int
    """About, as the first gap's requests go."""
    seconds: float | None
    """As fast as the last run with this writer; None where there was none."""


def estimate_pairs(spec: PairsSpec, shown: Sequence[Asked]) -> Estimate:
    """What a spec may take, given the requests of its first gap."""
    texts = len(spec.features) * spec.candidates
    characters = sum(len(m["content"]) * one.texts for one in shown for m in one.messages)
    for manifest in runs().list(spec.step):
        before, facts = manifest["spec"], manifest["facts"]
        same = all(before.get(name) == getattr(spec, name) for name in ("writer", "model"))
        if same and facts["n_candidates"] and facts["seconds"]:
            pace = facts["seconds"] / facts["n_candidates"]
            break
    else:
        pace = None
    return Estimate(
        texts,
        texts * spec.max_new_tokens,
        len(spec.features) * characters // 4,
        None if pace is None else pace * texts,
    )


def estimate_words(found: Estimate, budget: int | None) -> str:
    """An estimate as a sentence or two."""
    words = (
        f"{found.texts:,} texts: up to {found.most_tokens:,} new tokens, and about "
        f"{found.prompt_tokens:,} of prompts."
    )
    if found.seconds is not None:
        words += f" About {duration(found.seconds)} at the pace of the last run."
    if budget is not None and found.most_tokens + found.prompt_tokens > budget:
        words += " The budget may end it before; what is complete by then is kept."
    return words


def start_pairs(spec: PairsSpec) -> None:
    """Asks for the pairs; this session then waits for them."""
    n = len(spec.features)
    st.session_state["pairs job"] = start(spec, f"Writing pairs for {n:,} gap{'s'[: n != 1]}")


def pairs_awaited() -> Job | None:
    """The newest attempt at the pairs that this session asked for; None once they are there.

    Pairs that are there are put on the desk.
    """
    number = st.session_state.get("pairs job")
    if number is None:
        return None
    first = queue().job(number)
    same = (job for job in queue().jobs() if (job.step, job.spec) == (first.step, first.spec))
    job = next(same, first)
    if job.status != "done":
        return job
    forget_pairs_job()
    set_param("features", None)
    set_param("pairs", job.run_id)
    return None


def forget_pairs_job() -> None:
    """This session no longer waits for pairs."""
    st.session_state.pop("pairs job", None)


def left_by(job: Job) -> str | None:
    """The run of what was complete when a job was stopped; None where nothing was."""
    if job.started is None:  # cancelled before anybody began
        return None
    spec = job.spec
    for manifest in runs().list(job.step):
        made = datetime.fromisoformat(manifest["created"]).timestamp()
        asked = manifest["spec"]
        if made >= job.started and all(asked[k] == spec[k] for k in ("anchor", "dataset")):
            return str(manifest["run"])
    return None


def pairs_runs() -> dict[str, str]:
    """What the pairs runs are called, newest first: dataset, gaps and time, and a piece of the id
    where that is not enough: a picker cannot tell options apart that read the same."""
    found = {}
    for manifest in runs().list(PairsSpec.step):
        facts = manifest["facts"]
        when = datetime.fromisoformat(manifest["created"]).astimezone()
        n = len(facts["features"])
        found[manifest["run"]] = f"{facts['name']} · {n:,} gap{'s'[: n != 1]} · {when:%d %b %H:%M}"
    often = Counter(found.values())
    return {
        run: name if often[name] == 1 else f"{name} · {run.rsplit('-', 1)[1][:6]}"
        for run, name in found.items()
    }


# --- the desk ---------------------------------------------------------------------------------


@dataclass
class Draft:
    """What was written about the pair on the desk, before it is decided."""

    note: str = ""
    noting: bool = False
    """Whether the note is open."""
    editing: bool = False
    """Whether both sides are open for an edit."""
    sides: tuple[str, str] | None = None
    """An edit as far as it was written; None begins with the pair as shown."""
    typing: bool = False
    """Whether a field was just opened, so that the cursor belongs there."""
    unblurred: bool = False


class Act(NamedTuple):
    """What one key or button recorded; taken back as one."""

    decisions: tuple[Decision, ...]


@dataclass
class PairDesk:
    """The work of one browser session on one pairs run."""

    setting: tuple[Any, ...]
    """Whatever decides what lies on the desk; another one is another desk."""
    run: str
    anchor: str
    threshold: float
    reviewer: str | None
    """None only looks."""
    todo: deque[int]
    """Features, next first; the first is on the desk."""
    total: int
    """Pairs in this view, as the desk was laid out."""
    acts: list[Act]
    """What the reviewer decided in this run, oldest first."""
    names: dict[int, str]
    said: dict[int, str]
    """Explanations by feature."""
    draft: Draft = field(default_factory=Draft)
    shown_at: float | None = None
    """When the pair came into view, on the monotonic clock."""
    trouble: str = ""
    """Why the last key did nothing."""
    drawn: tuple[PairVersion, int] | None = None
    """The version on the screen, and how many its pair had."""
    looking: dict[int, str] = field(default_factory=dict)
    """Runs of the versions that somebody asked to see, by feature."""
    edits: dict[int, int] = field(default_factory=dict)
    """Jobs that measure an edit, by feature."""
    examples: dict[int, list[Row]] = field(default_factory=dict)
    """The anchor's strongest spans, fetched beforehand."""

    @property
    def now(self) -> int | None:
        return self.todo[0] if self.todo else None

    def version(self, state: PairState) -> PairVersion:
        """The version of a pair that is on the desk."""
        wanted = self.looking.get(state.feature)
        return next((each for each in state.versions if each.run == wanted), state.version)

    def spans(self, feature: int) -> list[Row]:
        """The anchor's strongest examples of a feature; fetched at most once."""
        if feature not in self.examples:
            self.examples[feature] = cache().spans(self.anchor, feature, "top")[:3]
        return self.examples[feature]

    def in_view(self) -> None:
        """The pair has been drawn: its seconds begin, and the next one's examples are fetched."""
        if self.shown_at is None:
            self.shown_at = time.monotonic()
        if len(self.todo) > 1:
            self.spans(self.todo[1])

    # ---- what a key does; each runs before the fragment is drawn again

    def decide(self, verdict: str) -> None:
        """Records what is said about the version on the screen, and puts the next pair there."""
        if self.reviewer is None or self.drawn is None or self.now is None:
            return
        version, known = self.drawn
        if not version.proposed or self.now in self.edits:
            return
        if len(pair_states(self.run)[self.now].versions) > known:
            self.trouble = (
                "This pair was edited while you looked at it, so nothing was recorded. Here is the "
                "edit."
            )
            self._fresh()
            return
        seconds = None if self.shown_at is None else round(time.monotonic() - self.shown_at, 2)
        try:
            said = self._say(version, verdict, note=self.draft.note.strip(), seconds=seconds)
        except FacError as error:
            self.trouble = str(error)
            return
        self.acts.append(Act((said,)))
        self.trouble = ""
        self.todo.popleft()
        self._fresh()

    def _say(self, version: PairVersion, verdict: str, **more: Any) -> Decision:
        assert self.reviewer is not None
        item = version.item
        return decisions().add(
            self.reviewer, item.kind, item.subject, item.content, verdict, **more
        )

    def approve_all(self, listed: Sequence[tuple[int, str]]) -> None:
        """Approves the pairs of these features whose shown version still has that hash."""
        states, said = pair_states(self.run), []
        for feature, seen in listed:
            version = states[feature].version
            if version.seen == seen and version.proposed:
                try:
                    said.append(self._say(version, review.APPROVE))
                except FacError as error:
                    self.trouble = str(error)
                    break
        if said:
            self.acts.append(Act(tuple(said)))
            gone = {_feature_of(d) for d in said}
            self.todo = deque(feature for feature in self.todo if feature not in gone)
            self._fresh()

    def skip(self) -> None:
        """The pair comes again after the others."""
        self.todo.rotate(-1)
        self._fresh()

    def undo(self) -> None:
        """Takes the last act back and puts its pairs on the desk again, as they were decided on."""
        if not self.acts or self.reviewer is None:
            return
        act = self.acts[-1]
        back: list[Decision] = []
        for said in act.decisions:
            try:
                decisions().withdraw(said.uid, self.reviewer)
            except FacError as error:
                self.trouble = str(error)
                break
            back.append(said)
        left = tuple(said for said in act.decisions if said not in back)
        self.acts[-1:] = [Act(left)] if left and back else []
        for said in reversed(back):
            feature = _feature_of(said)
            if feature in self.todo:
                self.todo.remove(feature)
            self.todo.appendleft(feature)
            self.looking[feature] = said.subject.split("/")[1]
        self._fresh()
        if len(back) == 1:
            self.draft = Draft(note=back[0].note, noting=bool(back[0].note))

    def _fresh(self) -> None:
        """Another pair, or the same anew: nothing written yet, the clock not yet running."""
        self.draft, self.shown_at, self.drawn = Draft(), None, None
        set_param("feature", None)

    def look_at(self, run: str) -> None:
        """Puts another version of the pair on the desk."""
        if self.now is not None:
            self.looking[self.now] = run
            self._fresh()

    def write(self) -> None:
        """Opens the note, or closes it; what was written stays."""
        self.draft.noting = self.draft.typing = not self.draft.noting

    def edit(self) -> None:
        """Opens both sides for an edit, or closes them; what was written stays."""
        self.draft.editing = self.draft.typing = not self.draft.editing

    # ---- edits

    def measure(self, base: PairVersion, positive: str, negative: str) -> None:
        """Has an edit of the pair on the desk measured. Raises InputError for an empty side."""
        before = sides_of(base)
        if (positive, negative) == before:
            self.trouble = "Nothing was changed, so there is nothing to measure."
            return
        feature = base.row["feature"]
        spec = RescoreSpec(pairs=base.run, feature=feature, positive=positive, negative=negative)
        self.edits[feature] = start(spec, f"Measuring the edit of #{feature}")
        self.looking[feature] = base.run  # until its job is taken in, or keys would meet the edit
        self.trouble = ""
        self._fresh()

    def arrived(self) -> bool:
        """Takes in edits that have been measured, or could not be; whether there were any."""
        ended = [
            (feature, job)
            for feature, number in self.edits.items()
            if (job := queue().job(number)).status not in ("waiting", "running")
        ]
        for feature, job in ended:
            del self.edits[feature]
            if job.status == "done" and job.run_id:
                self.looking[feature] = job.run_id
                if feature == self.now:
                    self._fresh()
                elif feature not in self.todo:
                    self.todo.append(feature)
            elif feature == self.now:
                self.trouble = job.error or "Measuring the edit was cancelled."
                written = (job.spec["positive"], job.spec["negative"])
                self.draft = Draft(editing=True, sides=written)
        return bool(ended)


def _feature_of(decision: Decision) -> int:
    """The gap whose pair was decided on."""
    return int(decision.subject.rsplit("/", 1)[1])


def sides_of(version: PairVersion) -> tuple[str, str]:
    """What of both texts a person edits: the user's last turn."""
    return user_text(version.row["positive"]), user_text(version.row["negative"])


def viewed(states: Mapping[int, PairState], show: str, above: float) -> list[PairState]:
    """The pairs of a view, those that fire most first, and among equals by feature."""

    def peak(one: PairState) -> float:
        return float(one.version.row["positive_peak"] or 0.0)

    found = [
        one
        for one in states.values()
        if show in (EVERY_STATE, one.state)
        and (above <= 0 or (one.version.proposed and peak(one) > above))
    ]
    return sorted(found, key=lambda one: (-peak(one), one.feature))


def pair_desk() -> PairDesk | None:
    """The desk of this session, with every edit taken in that has been measured by now.

    Ask for it before `pair_states`, which then know the versions that it speaks of.
    """
    here: PairDesk | None = st.session_state.get("pair desk")
    if here:
        here.arrived()
    return here


def open_pair_desk(
    run: str,
    who: str | None,
    show: str,
    above: float,
    states: Mapping[int, PairState],
    *,
    first: int | None = None,
) -> PairDesk:
    """The desk for these settings, laid out anew where they changed. `first` is a gap that a link
    asks for: its pair comes to the top, whatever the view shows."""
    here: PairDesk | None = st.session_state.get("pair desk")
    setting = (run, who, show, above)
    if here is None or here.setting != setting:
        edits = here.edits if here and here.run == run else {}
        here = _laid_out(setting, states)
        here.edits |= edits
        st.session_state["pair desk"] = here
    if first is not None and first != here.now:
        asked = states.get(first)
        if asked and asked.version.proposed:
            if first in here.todo:
                here.todo.remove(first)
            here.todo.appendleft(first)
            here.draft, here.shown_at, here.drawn = Draft(), None, None
        else:
            set_param("feature", None)
    return here


def _laid_out(setting: tuple[Any, ...], states: Mapping[int, PairState]) -> PairDesk:
    run, who, show, above = setting
    facts = runs().manifest(run)["facts"]
    own = decisions().current("pair", reviewer=who) if who else []
    known = {version.item.subject for one in states.values() for version in one.versions}
    own = [d for d in own if d.subject in known and not d.adjudicates]
    decided = {(d.subject, d.seen) for d in own}
    listed = [one for one in viewed(states, show, above) if one.version.proposed]
    if show == "undecided":  # what people disagree on comes again, after what is new to this one
        listed.sort(key=lambda one: (one.version.item.subject, one.version.seen) in decided)
    todo = [one.feature for one in listed]
    features = [one.feature for one in states.values()]
    return PairDesk(
        setting=setting,
        run=run,
        anchor=facts["anchor"],
        threshold=facts["threshold"],
        reviewer=who,
        todo=deque(todo),
        total=len(todo),
        acts=[Act((d,)) for d in own],
        names=names(facts["anchor"], features),
        said=_explained(facts["anchor"]),
    )


# --- how it looks -----------------------------------------------------------------------------

ORIGINS = {
    "own": ("written for this gap", "flat"),
    "pool": ("written for another gap", "flat"),
    "anchor": ("a real sample of the anchor", "real"),
    "person": ("edited by a person", "up"),
    "edit": ("the same, edited least", "flat"),
}
"""Where a side comes from, in words, and its chip."""

FAR = 2.0
"""A positive that fires in times of the anchor's strongest sample more than this is pointed out."""

GUIDE = {
    "Approve": "Both read like something a person would write, the left shows what the gap is "
    "about, and the right differs in little else.",
    "Reject": "The text is broken, shows something else, or the two differ in too much.",
    "Edit": "Change either side; it is measured again and waits for a decision of its own.",
}


def show_pair(desk: PairDesk, state: PairState) -> None:
    """The pair on the desk: its keys, both sides, what differs, and what is known of it."""
    version = desk.version(state)
    desk.drawn = (version, len(state.versions))
    _keys(desk, state, version)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        name = called(state.feature, desk.names.get(state.feature))
        st.markdown(f"#### {plain(name)}", width="content")
        _badges(desk, state, version)
    said = desk.said.get(state.feature)
    if said and said != desk.names.get(state.feature):
        st.caption(plain(said))
    if state.feature in desk.edits:
        st.info(
            "Your edit is being measured; it comes here by itself. Skip, and go on meanwhile.",
            icon=":material/hourglass_top:",
        )
    if not version.proposed:
        st.warning(
            f"This edit makes no pair: {plain(version.row['reason'])}. Edit it again, or go back "
            f"to the version before.",
            icon=":material/rule:",
        )
    if desk.draft.editing:
        with st.container(key="writing"):
            _edit_fields(desk, state, version)
    st.html(pair_html(version.row, desk.threshold))
    left, right = st.columns([5, 4], gap="large")
    with left:
        st.markdown("**In the anchor**")
        show_examples(desk.spans(state.feature))
    with right:
        _history(desk, state, version)
        st.html(guide_html())


def state_names(states: Mapping[int, PairState]) -> dict[str, str]:
    """What the views of a run are called, each with how many pairs it has."""
    counts = Counter(one.state for one in states.values())
    counts[EVERY_STATE] = len(states)
    return {name: f"{words} {counts[name]:,}" for name, words in STATE_NAMES.items()}


def show_progress(desk: PairDesk, states: Mapping[int, PairState]) -> None:
    """How far this view is, how fast, how long still; and the way on from what is approved."""
    left, whole = len(desk.todo), max(desk.total, len(desk.todo), 1)
    words = f"{whole - left:,} of {whole:,}"
    speed = review.pace([d for act in desk.acts for d in act.decisions], left)
    if left and speed.seconds == speed.seconds:
        words += f" · {speed.seconds:.0f} s each · {duration(speed.minutes_left * 60)} left"
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.progress((whole - left) / whole, text=words)
        n = sum(one.state == "approved" for one in states.values())
        if n:
            st.page_link(
                SYNTHESIS,
                label=f"Synthesize from {n:,} approved pair{'s'[: n != 1]}",
                icon=":material/science:",
                query_params={"pairs": desk.run},
            )


def show_approve_all(
    desk: PairDesk, states: Mapping[int, PairState], show: str, above: float
) -> None:
    """Approves what the view holds, less what people settled, without a look at each."""
    listed = [
        (one.feature, one.version.seen)
        for one in viewed(states, show, above)
        if one.state == "undecided" and one.feature not in desk.edits
    ]
    if listed and desk.reviewer:
        _approve_many(desk, listed, above)


def _approve_many(desk: PairDesk, listed: Sequence[tuple[int, str]], above: float) -> None:
    """Approves what the view holds without a look at each, after saying what that means."""
    n = len(listed)
    over = f" above {above:g}" if above else ""
    label = f"Approve all {n:,}{over}"
    with st.popover(label, icon=":material/done_all:", width="content"):
        st.markdown(
            f"{n:,} pair{'s' if n != 1 else ''} that nobody has settled, "
            + (f"each firing above {above:g}, " if above else "whatever their score, ")
            + f"will stand as approved by **{plain(desk.reviewer or '')}**. Undo takes all of it "
            "back."
        )
        st.button(
            f"Approve {n:,} unseen",
            type="primary",
            on_click=desk.approve_all,
            args=(listed,),
        )


def show_failed(desk: PairDesk, states: Mapping[int, PairState]) -> None:
    """The gaps without a pair, why, and what was written for the one that is looked at."""
    failed = [one for one in states.values() if one.state == "failed"]
    if not failed:
        st.caption("Every gap of this run has a pair.")
        return
    facts = runs().manifest(desk.run)["facts"]
    rows = [
        {
            "feature": one.feature,
            "label": desk.names.get(one.feature, ""),
            "reason": one.version.row["reason"],
        }
        for one in failed
    ]
    table(rows, ("feature", "label", "reason"), key="failed", height=390)
    ids = ",".join(str(one.feature) for one in failed)
    link(
        PAIRS,
        f"Try these {len(failed):,} with other settings",
        features=ids,
        anchor=facts["anchor"],
        dataset=facts["dataset"],
        threshold=str(facts["threshold"]),
    )


def _keys(desk: PairDesk, state: PairState, version: PairVersion) -> None:
    """A button with a key for everything there is to do."""
    settled = desk.reviewer is not None and version.proposed and state.feature not in desk.edits
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        st.button(
            "Approve",
            shortcut="A",
            type="primary",
            icon=":material/check:",
            disabled=not settled,
            on_click=desk.decide,
            args=(review.APPROVE,),
        )
        st.button(
            "Reject",
            shortcut="X",
            icon=":material/close:",
            disabled=not settled,
            on_click=desk.decide,
            args=(review.REJECT,),
        )
        st.button(
            "Edit",
            shortcut="E",
            icon=":material/edit:",
            disabled=state.feature in desk.edits,
            on_click=desk.edit,
        )
        st.button(
            "Skip",
            shortcut="S",
            icon=":material/skip_next:",
            disabled=len(desk.todo) < 2,
            on_click=desk.skip,
        )
        st.button(
            "Undo", shortcut="U", icon=":material/undo:", disabled=not desk.acts, on_click=desk.undo
        )
        st.button(
            "Note",
            shortcut="N",
            icon=":material/edit_note:",
            disabled=desk.reviewer is None,
            on_click=desk.write,
        )
        if st.session_state.get("blur") and not desk.draft.unblurred:
            st.button(
                "Show texts",
                shortcut="V",
                icon=":material/visibility:",
                on_click=setattr,
                args=(desk.draft, "unblurred", True),
            )
        st.page_link(
            PAIRS,
            label="Link",
            icon=":material/link:",
            query_params={"pairs": desk.run, "feature": str(state.feature)},
            help="To this pair, for somebody else.",
        )
    if desk.draft.unblurred:
        st.html("<span></span><style>.fac-blur{filter:none!important}</style>")
    if desk.draft.noting:
        with st.container(key="writing note"):
            desk.draft.note = st.text_input(
                "Note",
                value=desk.draft.note,
                key=f"pair note {desk.run} {state.feature}",
                placeholder="Kept with your decision",
            )
            st.caption("Escape leaves the field; then a key decides, and the note is kept with it.")
            if desk.draft.typing:
                focus_writing("writing note")
                desk.draft.typing = False


def _badges(desk: PairDesk, state: PairState, version: PairVersion) -> None:
    """What stands about this version, in a word each."""
    row, standing = version.row, version.standing
    if version.proposed:
        apart = row["positive_peak"] - row["negative_peak"]
        st.badge(f"{apart:.2f} apart", color="gray", help="Positive less negative, as measured.")
        strongest = max((span["peak"] for span in desk.spans(state.feature)), default=0.0)
        if strongest:
            words = f"strongest in the anchor {strongest:.2f}"
            odd = row["positive_peak"] > FAR * strongest
            st.badge(
                words,
                color="orange" if odd else "gray",
                icon=":material/priority_high:" if odd else None,
                help="A text that fires it far more than any real one may fire it by accident."
                if odd
                else "Its highest peak in any sample of the anchor.",
            )
    who = Counter(d.verdict for d in standing.decisions)
    if standing.by == "disputed":
        st.badge("disputed", icon=":material/balance:", color="orange")
    elif version.approved:
        st.badge("approved", icon=":material/check:", color="green")
    elif standing.verdict == review.REJECT:
        st.badge("rejected", icon=":material/close:", color="red")
    if sum(who.values()) > 1:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in who.most_common())
        st.caption(counts.replace("_", " "), width="content")


def _edit_fields(desk: PairDesk, state: PairState, version: PairVersion) -> None:
    """Both sides as text. What is measured is a new version; this one stays in the history."""
    base = version if version.proposed else state.version
    begun = desk.draft.sides or sides_of(version)
    fields = []
    columns = st.columns(2, gap="medium")
    for column, name, text in zip(columns, ("It fires in", "It is silent in"), begun, strict=True):
        fields.append(
            column.text_area(
                name, value=text, key=f"edit {version.run} {state.feature} {name}", height=120
            )
        )
    desk.draft.sides = (fields[0], fields[1])
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = st.button("Measure it", shortcut="Enter", type="primary", icon=":material/speed:")
        st.button("Close", on_click=desk.edit)
        turns = " Other turns stay as they are." if len(base.row["positive"]) > 1 else ""
        st.caption(f"Escape leaves a field, then Enter measures.{turns}", width="stretch")
    if desk.draft.typing:
        focus_writing("writing")
        desk.draft.typing = False
    if asked:
        desk.measure(base, *fields)
        st.rerun()


def _history(desk: PairDesk, state: PairState, version: PairVersion) -> None:
    """Versions of the pair, and all that was said of them, taken back or not."""
    if len(state.versions) > 1:
        st.markdown("**Versions**")
        with st.container(horizontal=True, gap="xsmall"):
            for number, each in enumerate(state.versions, start=1):
                st.button(
                    f"{number} · {_version_words(each)}",
                    key=f"version {each.run} {state.feature}",
                    type="primary" if each is version else "secondary",
                    on_click=desk.look_at,
                    args=(each.run,),
                )
    said = [
        (number, d)
        for number, each in enumerate(state.versions, start=1)
        for d in decisions().history(20, subject=each.item.subject)
        if d.seen == each.seen
    ]
    if said:
        st.markdown("**History**")
        said.sort(key=lambda one: one[1].at)
        st.html(_past_html(said, numbered=len(state.versions) > 1))


def _version_words(version: PairVersion) -> str:
    when = datetime.fromisoformat(version.created).astimezone()
    made = "edited" if version.row["origin"] == "person" else "written"
    return f"{made} {when:%H:%M}"


def _past_html(said: Sequence[tuple[int, Decision]], *, numbered: bool) -> str:
    """Decisions, oldest first; struck out where they were taken back."""
    rows = []
    for number, d in said:
        when = datetime.fromisoformat(d.at).astimezone()
        words = f"{d.reviewer}: {d.verdict.replace('_', ' ')}"
        words += f" version {number}" if numbered else ""
        words += f" · {d.note}" if d.note else ""
        told = html.escape(clean(words))
        rows.append(
            f"<span>{when:%d %b %H:%M}</span>" + (f"<s>{told}</s>" if d.withdrawn else told)
        )
    return f'<div class="fac-past">{"".join(f"{row}" for row in rows)}</div>'


def guide_html() -> str:
    """What each answer means."""
    parts = (f"<b>{word}</b><span>{html.escape(text)}</span>" for word, text in GUIDE.items())
    return f'<div class="fac-guide">{"".join(parts)}</div>'


def pair_html(row: Mapping[str, Any], threshold: float) -> str:
    """Both sides token by token on one colour scale, and below what the words differ in."""
    strongest = max((*row["positive_activations"], *row["negative_activations"]), default=0.0)
    return (
        '<div class="fac-pair">'
        + _side_html(row, "positive", row["origin"], strongest, threshold)
        + _side_html(row, "negative", row["negative_origin"], strongest, threshold)
        + "</div>"
        + changes_html(row["positive"], row["negative"])
    )


def _side_html(
    row: Mapping[str, Any], side: str, origin: str, strongest: float, threshold: float
) -> str:
    peak, tokens = row[f"{side}_peak"], row[f"{side}_tokens"]
    values = row[f"{side}_activations"]
    fires = peak > threshold
    top = max(range(len(values)), key=values.__getitem__) if any(values) else None
    words, chip = ORIGINS.get(origin, (origin, "flat"))
    spans = turns_of(row[side], tokens)
    bodies = []
    for role, (first, last) in spans:
        at = top - first if top is not None and first <= top < last else None
        body = tokens_html(tokens[first:last], values[first:last], strongest=strongest, peak=at)
        kind = role if role in ("system", "user", "assistant") else "other"
        bodies.append(
            body
            if len(spans) == 1
            else f'<div class="fac-turn fac-{kind}"><b>{html.escape(clean(role))}</b>{body}</div>'
        )
    above = f", above {threshold:g}" if fires and threshold else ""
    return (
        f'<div class="fac-side{" fac-fires" if fires else ""}"><div class="fac-side-head">'
        f"<b>{'Fires' if fires else 'Silent'}{above}</b><strong>{peak:.2f}</strong>"
        f'<span class="fac-chip fac-{chip}">{html.escape(clean(words))}</span></div>'
        f'<div class="fac-chat">{"".join(bodies)}</div></div>'
    )


def turns_of(
    messages: Sequence[Mapping[str, str]], tokens: Sequence[str]
) -> list[tuple[str, tuple[int, int]]]:
    """(role, (first token, one past the last)) of every turn. One piece where the tokens are not
    those of the messages, as when a text was too long to be read to its end."""
    sizes = [len("".join(token.split())) for token in tokens]
    wanted = [len("".join(message["content"].split())) for message in messages]
    whole = [("", (0, len(tokens)))]
    if len(messages) < 2 or sum(sizes) != sum(wanted):
        return whole
    found, at = [], 0
    for message, size in zip(messages, wanted, strict=True):
        first = at
        while at < len(tokens) and (size > 0 or not sizes[at]):
            size -= sizes[at]
            at += 1
        if size:
            return whole
        found.append((message["role"], (first, at)))
    return found


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """What the words of two texts share and differ in: pairs of (same, gone or new) and words."""
    old, new = before.split(), after.split()
    found: list[tuple[str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(("same", " ".join(old[a:b])))
            continue
        if b > a:
            found.append(("gone", " ".join(old[a:b])))
        if d > c:
            found.append(("new", " ".join(new[c:d])))
    return found


ALIKE = 0.4
"""Share of common words below which two texts are shown as two, not as one and its edit."""

KEPT_WORDS = 9
"""Words of an unchanged stretch that stay beside a change."""


def changes_html(
    positive: Sequence[Mapping[str, str]], negative: Sequence[Mapping[str, str]]
) -> str:
    """Which words the negative lacks and which it has instead."""
    if [m["role"] for m in positive] == [m["role"] for m in negative]:
        turns = [(p["content"], n["content"]) for p, n in zip(positive, negative, strict=True)]
        turns = [turn for turn in turns if turn[0] != turn[1]]
    else:
        turns = [
            ("\n".join(m["content"] for m in positive), "\n".join(m["content"] for m in negative))
        ]
    parts = [changes(*turn) for turn in turns]
    count = {kind: 0 for kind in ("same", "gone", "new")}
    for kind, text in (piece for part in parts for piece in part):
        count[kind] += len(text.split())
    total = 2 * count["same"] + count["gone"] + count["new"]
    if not turns:
        heading, body = "The two sides say the same", ""
    elif total and 2 * count["same"] / total < ALIKE:
        shared = f"{count['same']} word{'s'[: count['same'] != 1]}"
        heading, body = f"The negative is another text: they share {shared}", ""
    else:
        gone, new = count["gone"], count["new"]
        heading = "What the negative lacks" + (", and what it has instead" if new else "")
        heading += f" · {gone} of {count['same'] + gone} words" if not new else ""
        body = "<br>".join(
            " ".join(map(_change_html, *zip(*_short(part), strict=True))) for part in parts
        )
        body = f'<div class="fac-text fac-blur">{body}</div>'
    return f'<div class="fac-changes"><div class="fac-part">{heading}</div>{body}</div>'


def _change_html(kind: str, text: str) -> str:
    told = html.escape(clean(text))
    return {"same": told, "gone": f"<del>{told}</del>", "new": f"<ins>{told}</ins>"}[kind]


def _short(pieces: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same with long unchanged stretches cut down to what is beside a change."""
    found = []
    for number, (kind, text) in enumerate(pieces):
        words = text.split()
        if kind == "same" and len(words) > 2 * KEPT_WORDS + 1:
            head = words[:KEPT_WORDS] if number else []
            tail = words[-KEPT_WORDS:] if number + 1 < len(pieces) else []
            text = " ".join([*head, "…", *tail])
        found.append((kind, text))
    return found
