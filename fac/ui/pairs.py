"""The pair in view and its keys: both sides, what differs, its evidence, how it is edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import streamlit as st

from fac.questions.pairs import PairQueue, PairSetting, firing_turn, pair_queue, sides_of
from fac.review import APPROVE, REJECT, UNSEEN, PairState, PairVersion
from fac.ui import review
from fac.ui.access import needing
from fac.ui.jobs import start
from fac.ui.stores import stores
from fac.ui.text import called, plain, show_examples
from fac.ui.views import action_button, link, param_widget, set_param
from fac.ui.writing import duration

STATE_NAMES = {"undecided": "To decide", "approved": "Approved", "rejected": "Rejected"}
STATE_NAMES |= {"failed": "Without a pair", "all": "All"}
"""What each view is called."""

FAR = 2.0
"""A positive that fires in times of the anchor's strongest sample more than this is pointed out."""

GUIDE = {
    "Approve": "Both read like something a person would write; the left shows what the gap is "
    "about, the right does not.",
    "Reject": "A text is broken, the left shows something else, or the right shows the gap as "
    "well.",
    "Edit": "Change either side; it is measured again and waits for a decision of its own.",
    "The right": "The most similar text there was that stays silent: that it is about something "
    "else is no reason to reject.",
}


def pick_pairs(titles: Mapping[str, str], default: str, width: int) -> str:
    """Which run of pairs, of those with these titles."""
    tie = param_widget("pairs", default, valid=titles.__contains__)
    return st.selectbox("Pairs", [*titles], format_func=titles.__getitem__, width=width, **tie)


def open_pairs(
    setting: PairSetting, states: Mapping[int, PairState], first: int | None = None
) -> PairQueue:
    """The queue for these settings, laid out anew where they changed. `first` is a gap that a link
    asks for: its pair comes to the top, whatever the view shows."""
    queue: PairQueue | None = st.session_state.get("pair queue")
    if queue is None or queue.setting != setting:
        edits = queue.edits if queue and queue.run == setting[0] else {}
        queue = pair_queue(stores(), setting, states, _forget_link)
        queue.edits |= edits
        st.session_state["pair queue"] = queue
    if first is not None and first != queue.top:
        pair = states.get(first)
        if pair and pair.version.proposed:
            queue.bring_up(first)
        else:
            _forget_link()
    return queue


def _forget_link() -> None:
    set_param("feature", None)


def show_pair(queue: PairQueue, pair: PairState) -> None:
    """The pair on top: its keys, both sides, what differs, and what is known of it."""
    version = queue.version_in_view(pair.feature, pair)
    queue.drawn = (version, len(pair.versions))
    _show_keys(queue, pair, version)
    name = queue.names.get(pair.feature)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"#### {plain(called(pair.feature, name))}", width="content")
        _show_badges(queue, pair, version)
    explanation = queue.explanations.get(pair.feature)
    if explanation and explanation != name:
        st.caption(plain(explanation))
    if pair.feature in queue.edits:
        review.show_measuring(queue)
    if not version.proposed:
        why = plain(version.row["reason"])
        words = f"This edit makes no pair: {why}. Edit it again, or go back to the version before."
        st.warning(words, icon=":material/rule:")
    if queue.draft.editing:
        with st.container(key="writing edit"):
            _show_edit(queue, pair, version)
    st.html(review.pair_html(version.row, queue.threshold))
    left, right = st.columns([5, 4], gap="large")
    with left:
        st.markdown("**In the anchor**")
        show_examples(queue.evidence(pair.feature))
    with right:
        _show_history(queue, pair, version)
        st.html(review.guide_html(GUIDE))


def show_progress(queue: PairQueue) -> None:
    left = len(queue.todo)
    minutes = queue.pace(left).minutes_left
    review.show_progress(queue, left, duration(minutes * 60) if left and minutes == minutes else "")


def _show_keys(queue: PairQueue, pair: PairState, version: PairVersion) -> None:
    """A button with a key for everything there is to do."""
    measuring = pair.feature in queue.edits
    decidable = queue.reviewer is not None and version.proposed and not measuring
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        approve = {"shortcut": "A", "type": "primary", "disabled": not decidable}
        action_button("Approve", "check", queue.decide, APPROVE, **approve)
        reject = {"shortcut": "X", "disabled": not decidable}
        action_button("Reject", "close", queue.decide, REJECT, **reject)
        action_button("Edit", "edit", queue.draft.edit, shortcut="E", disabled=measuring)
        review.skip_button(queue)
        review.undo_button(queue)
        review.note_button(queue)
        review.unblur_button(queue)
        view = {"pairs": queue.run, "feature": str(pair.feature)}
        help = "To this pair, for somebody else."
        link("pairs", "Link", icon=":material/link:", help=help, **view)
    if queue.draft.noting:
        with st.container(key="writing note"):
            key, placeholder = f"pair note {queue.run} {pair.feature}", "Kept with your decision"
            draft = queue.draft
            draft.note = st.text_input("Note", draft.note, key=key, placeholder=placeholder)
            st.caption("Escape leaves the field; then a key decides, and the note is kept with it.")
            review.focus_once(queue, "note")


def _show_badges(queue: PairQueue, pair: PairState, version: PairVersion) -> None:
    """What stands about this version, in a word each."""
    row, standing = version.row, version.standing
    if version.proposed:
        apart = row["positive_peak"] - row["negative_peak"]
        st.badge(f"{apart:.2f} apart", color="gray", help="Positive less negative, as measured.")
        strongest = max((span["peak"] for span in queue.evidence(pair.feature)), default=0.0)
        if strongest:
            words = f"strongest in the anchor {strongest:.2f}"
            if row["positive_peak"] > FAR * strongest:
                help = "A text that fires it far more than any real one may fire it by accident."
                st.badge(words, color="orange", icon=":material/priority_high:", help=help)
            else:
                help = "Its highest peak in any sample of the anchor."
                st.badge(words, color="gray", help=help)
    if standing.by == "disputed":
        st.badge("disputed", icon=":material/balance:", color="orange")
    elif version.approved:
        words = f"approved {UNSEEN}" if version.unseen else "approved"
        st.badge(words, icon=":material/check:", color="orange" if version.unseen else "green")
    elif standing.verdict == REJECT:
        st.badge("rejected", icon=":material/close:", color="red")
    if len(standing.decisions) > 1:
        votes = Counter(d.verdict for d in standing.decisions).most_common()
        words = ", ".join(f"{n} {verdict}" for verdict, n in votes)
        st.caption(words.replace("_", " "), width="content")


def _show_edit(queue: PairQueue, pair: PairState, version: PairVersion) -> None:
    """Both sides as text. What is measured is a new version; this one stays in the history."""
    base = version if version.proposed else pair.version
    before = queue.draft.sides or sides_of(version)
    columns = st.columns(2, gap="medium")
    names, key = ("It fires in", "It is silent in"), f"edit {version.run} {pair.feature}"
    positive, negative = (
        column.text_area(name, text, key=f"{key} {name}", height=120)
        for column, name, text in zip(columns, names, before, strict=True)
    )
    queue.draft.sides = (positive, negative)
    with st.container(horizontal=True, vertical_alignment="center"):
        tie = needing("edit", shortcut="Enter", type="primary", icon=":material/speed:")
        pressed = st.button("Measure it", **tie)
        st.button("Close", on_click=queue.draft.edit)
        turns = ""
        if len(base.row["positive"]) > 1:
            which = (
                "This is the turn in which it fires"
                if firing_turn(base.row) >= 0
                else "The user's last turn"
            )
            turns = f" {which}; the others stay as they are."
        st.caption(f"Escape leaves a field, then Enter measures.{turns}", width="stretch")
    review.focus_once(queue, "edit")
    if pressed:
        spec = queue.edit_spec(base, positive, negative)
        if spec:
            job = start(spec, f"Measuring the edit of #{pair.feature}")
            queue.wait_for(pair.feature, spec.pairs, job)
        st.rerun()


def _show_history(queue: PairQueue, pair: PairState, version: PairVersion) -> None:
    """Versions of the pair, and all decisions on them, taken back or not."""
    if len(pair.versions) > 1:
        st.markdown("**Versions**")
        with st.container(horizontal=True, gap="xsmall"):
            for number, each in enumerate(pair.versions, start=1):
                when = datetime.fromisoformat(each.created).astimezone()
                how = "edited" if each.row["origin"] == "person" else "written"
                label = f"{number} · {how} {when:%H:%M}"
                kind = "primary" if each is version else "secondary"
                key = f"version {each.run} {pair.feature}"
                action_button(label, "", queue.look_at, each.run, key=key, type=kind)
    history = [
        (number, decision)
        for number, each in enumerate(pair.versions, start=1)
        for decision in queue.stores.decisions.history(20, subject=each.item.subject)
        if decision.seen == each.seen
    ]
    if history:
        st.markdown("**History**")
        history.sort(key=lambda numbered: numbered[1].at)
        st.html(review.history_html(history, numbered=len(pair.versions) > 1))
