"""The kept sample in view and its keys: what a trainer would see, where it fires, its edit."""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from fac.questions import results
from fac.questions.samples import SampleQueue, SampleSetting, looked, sample_queue, sureness
from fac.review.samples import DROP, KEEP, WRONG_LABEL, SampleState, SampleVersion
from fac.ui import review
from fac.ui.access import needing
from fac.ui.jobs import counted, start
from fac.ui.results import REASON_WORDS
from fac.ui.stores import stores
from fac.ui.text import Row, called, chat_html, example_html, plain, show_examples
from fac.ui.views import action_button, empty, link, set_param, share
from fac.ui.writing import duration

NAMES = {KEEP: "Keep", DROP: "Drop", WRONG_LABEL: "Wrong label"}
"""What each verdict is called."""

GUIDE = {
    "Keep": "You would train on it: it reads like a sample of the dataset, says something, and the "
    "answer, if there is one, is right.",
    "Drop": "Broken, empty, false, or nothing of what it should show.",
    "Edit": "Change its words; they are measured again and wait for a decision of their own.",
    "Wrong label": "The text may be fine, but it is not what its label says.",
}


def open_samples(setting: SampleSetting, first: str | None) -> SampleQueue:
    """The queue for these settings, laid out anew where they changed. `first` is the hash of a
    wording that a link asks for: it comes to the top, decided or not."""
    queue: SampleQueue | None = st.session_state.get("sample queue")
    if queue is None or queue.setting != setting:
        edits = queue.edits if queue and queue.run == setting[0] else {}
        queue = sample_queue(stores(), setting, lambda: set_param("item", None))
        queue.edits |= edits
        st.session_state["sample queue"] = queue
    in_view = queue.drawn is not None and queue.drawn[0].seen == first
    if first and not in_view and not queue.bring_up_linked(first):
        queue.trouble = "The sample of this link is not among these; here is the next one."
        set_param("item", None)
    return queue


def show_sample(queue: SampleQueue) -> None:
    """The sample on top as a trainer would see it, its keys, and beside it what helps."""
    candidate = queue.top
    assert candidate is not None, "an empty queue has its own view"
    state = queue.state(candidate)
    version = queue.version_in_view(candidate, state)
    queue.drawn = (version, len(state.versions))
    # In two rows: on a narrow screen the keys follow the sample, before what only helps.
    left, right = st.columns([5, 4], gap="large")
    with left:
        if queue.draft.editing:
            with st.container(key="writing edit"):
                _show_edit(queue, candidate, version)
        _show_text(version, queue.threshold)
    with right:
        _show_progress(queue)
        _show_question(queue, state)
        _show_keys(queue, candidate, version)
        _show_state(queue, candidate, version)
        _show_versions(queue, candidate, state, version)
        labelled = "label" in version.row["extra"]
        answers = (answer for answer in GUIDE if labelled or answer != "Wrong label")
        st.html(review.guide_html({answer: GUIDE[answer] for answer in answers}))
    left, right = st.columns([5, 4], gap="large")
    with left:
        st.markdown("**The gap in the anchor**")
        show_examples(queue.evidence(candidate))
    with right:
        review.show_last(queue, NAMES)


def _show_progress(queue: SampleQueue) -> None:
    left = len(queue.todo)
    minutes = queue.pace(left).minutes_left
    review.show_progress(queue, left, duration(minutes * 60) if left and minutes == minutes else "")


def _show_question(queue: SampleQueue, state: SampleState) -> None:
    """What is asked, and what the sample should show."""
    name = queue.names.get(state.feature)
    st.markdown("**Would you train on this sample?**")
    explanation = queue.explanations.get(state.feature) or name
    headline = called(state.feature, None if name == explanation else name)
    st.caption(f"It was written to show {plain(headline)}")
    st.html(review.quote_html(explanation or "Nothing explains this gap yet: see its examples."))


def _show_keys(queue: SampleQueue, candidate: str, version: SampleVersion) -> None:
    """A button with a key for everything there is to do."""
    measuring = candidate in queue.edits
    decidable = queue.reviewer is not None and version.passes and not measuring
    with st.container(horizontal=True, gap="xsmall"):
        keep: Row = {"shortcut": "K", "type": "primary", "disabled": not decidable}
        action_button("Keep", "check", queue.decide, KEEP, **keep)
        action_button("Drop", "close", queue.decide, DROP, shortcut="X", disabled=not decidable)
        editable = queue.reviewer is not None and not measuring
        action_button("Edit", "edit", queue.draft.edit, shortcut="E", disabled=not editable)
        if "label" in version.row["extra"]:
            _show_wrong_label(queue, version, decidable)
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        review.skip_button(queue)
        review.undo_button(queue)
        review.note_button(queue)
        review.unblur_button(queue)
        view = {"kind": "sample", "synthesis": queue.run, "item": version.seen}
        link("review", "Link", icon=":material/link:", help="To this sample.", **view)
    if queue.draft.noting:
        with st.container(key="writing note"):
            key, placeholder = f"sample note {version.seen}", "Kept with your decision"
            draft = queue.draft
            draft.note = st.text_input("Note", draft.note, key=key, placeholder=placeholder)
            st.caption("Escape leaves the field; then a key decides, and the note is kept with it.")
            review.focus_once(queue, "note")


def _show_wrong_label(queue: SampleQueue, version: SampleVersion, decidable: bool) -> None:
    """The key that says so; of two labels the other is then the right one, of more it is chosen."""
    others, options = queue.other_labels(version), {"shortcut": "L", "disabled": not decidable}
    right = others[0] if len(others) == 1 else ""
    name = f"Wrong label, it is {plain(right)}" if right else "Wrong label"
    if len(others) > 1:
        key = f"right label {version.seen}"
        right = st.session_state.get(key) or ""
    action_button(name, "label_off", queue.wrong_label, right, **options)
    if len(others) > 1:
        more: Row = {"label_visibility": "collapsed", "placeholder": "The right one", "width": 150}
        st.selectbox("The right label", others, None, key=key, disabled=not decidable, **more)


def _show_state(queue: SampleQueue, candidate: str, version: SampleVersion) -> None:
    """What is on its way, or why the version in view is nothing to decide on."""
    if candidate in queue.edits:
        review.show_measuring(queue)
    elif not version.passes:
        why = REASON_WORDS.get(version.row["reason"], version.row["reason"])
        words = f"This edit is not kept: {why}. Edit it again, or go back to the version before."
        st.warning(words, icon=":material/rule:")


def _show_text(version: SampleVersion, threshold: float) -> None:
    """The sample turn by turn, where it fires, and what it has beside its messages."""
    row, extra = version.row, version.row["extra"]
    trace = results.traces(stores(), version.run, row["candidate"]).get(row["feature"])
    with st.container(border=True, key="sample"):
        if "label" in extra:
            _show_label(version)
        if len(row["messages"]) == 1:  # of several, each turn says whose it is
            st.caption(row["messages"][0]["role"].capitalize())
        if trace is None:
            st.html(chat_html(row["messages"], limit=20_000))
        else:
            marks: Row = {"breaks": True, "borrowed": trace.get("borrowed") or ()}
            tokens, values = trace["tokens"], trace["activations"]
            st.html(review.traced_html(row["messages"], tokens, values, **marks))
        for name, text in results.extra_texts(extra):
            if name != "Label":
                st.html(example_html([name], review.text_html(text)))
    st.caption(_firing_words(trace, threshold))


def _firing_words(trace: Row | None, threshold: float) -> str:
    """What the colours of a sample say."""
    if trace is None:
        return "Nothing is coloured: where it fires its gap was not kept, or it is silent."
    peak = max(trace["activations"], default=0.0)
    words = f"Coloured where it fires its gap, {peak:.2f} at most; above {threshold:g} counts."
    if trace.get("borrowed") and any(trace["borrowed"]):
        words += " Dotted and pale: words its writer was shown, which do not count."
    return words


def _show_label(version: SampleVersion) -> None:
    """The label as it would leave, and how sure its check is."""
    run, row = version.item.content["synthetic"], version.row
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown("**Label**", width="content")
        st.badge(plain(str(row["extra"]["label"])), color="blue", icon=":material/label:")
        probability = sureness(stores(), run).get(row["candidate"])
        if probability is None:
            return
        if version.run != run:
            st.caption("The label check saw it as it was written alone.", width="content")
            return
        help = "How probable a probe on features of the labelled texts finds this label."
        if (auroc := stores().runs.manifest(run).facts.label_auroc) is not None:
            help += f" Cross-validated there, its AUROC is {auroc:.2f}."
        st.badge(f"label check {share(probability)}", color="gray", help=help)


def _show_edit(queue: SampleQueue, candidate: str, version: SampleVersion) -> None:
    """Every message as text. What is measured is a new version; this one stays in the history."""
    messages = version.row["messages"]
    before = queue.draft.sides or tuple(message["content"] for message in messages)
    texts = tuple(
        st.text_area(
            message["role"].capitalize(),
            text,
            key=f"edit {version.seen} {number}",
            height=150 if len(text) > 200 else 100,
        )
        for number, (message, text) in enumerate(zip(messages, before, strict=True))
    )
    queue.draft.sides = texts
    with st.container(horizontal=True, vertical_alignment="center"):
        tie = needing("edit", shortcut="Enter", type="primary", icon=":material/speed:")
        pressed = st.button("Measure it", **tie)
        st.button("Close", on_click=queue.draft.edit)
        st.caption("Escape leaves a field, then Enter measures.", width="stretch")
    review.focus_once(queue, "edit")
    if pressed:
        spec = queue.edit_spec(version, texts)
        if spec:
            words = f"Measuring the edit of a sample for #{version.row['feature']}"
            queue.wait_for(candidate, version.run, start(spec, words))
        st.rerun()


def _show_versions(
    queue: SampleQueue, candidate: str, state: SampleState, version: SampleVersion
) -> None:
    """The wordings that there are."""
    if len(state.versions) < 2:
        return
    st.markdown("**Versions**")
    with st.container(horizontal=True, gap="xsmall"):
        for number, each in enumerate(state.versions, start=1):
            when = datetime.fromisoformat(each.created).astimezone()
            how = "written" if number == 1 else "edited" if each.passes else "edited, not kept"
            kind = "primary" if each is version else "secondary"
            options: Row = {"key": f"version {each.run} {candidate}", "type": kind}
            action_button(f"{number} · {how} {when:%H:%M}", "", queue.look_at, each.run, **options)


def looked_words(queue: SampleQueue) -> str:
    """What came of the samples of a queue so far, in a sentence or two."""
    counts = looked(stores(), queue.run)
    parts = [f"{counts.kept:,} kept"]
    if counts.edited:
        parts[0] += f" ({counts.edited:,} of them edited)"
    others = {
        "dropped": counts.dropped,
        "with a wrong label": counts.wrong_label,
        "on which people disagree": counts.disagreed,
    }
    parts += [f"{n:,} {words}" for words, n in others.items() if n]
    words = f"People looked at {counts.looked:,} of {counted(counts.samples, 'kept sample')}: "
    words += ", ".join(parts) + "."
    if counts.looked:
        interval = f"95 % interval {share(counts.low)} to {share(counts.high)}"
        words += f" That is a share kept of {share(counts.share)} ({interval})."
    return words


def show_end(queue: SampleQueue) -> None:
    """Nothing is left, or there was nothing."""
    if queue.total:
        words = plain(looked_words(queue))
        empty("All looked through", words, icon=":material/task_alt:")
        with st.container(horizontal=True, horizontal_alignment="center"):
            words, view = "Export what was reviewed", {"synthesis": queue.run}
            link("synthesis", words, icon=":material/download:", **view)
            link("agreement", "Agreement", icon=":material/handshake:", kind="sample")
            review.undo_last_button(queue)
    else:
        words = "Its page says why every text was dropped, and what to change."
        way: Row = {"icon": ":material/filter_alt_off:", "page": "synthesis", "link": "Synthesis"}
        empty("This synthesis kept nothing", words, **way)
