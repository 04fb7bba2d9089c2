"""What people decide on: the item in view and its keys, what every review queue has (who decides,
undo, note, pace), and as HTML the explanations, examples, both sides of a pair, what was decided.

Texts are foreign: in the HTML each goes through `escaped`.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import digest
from fac.markup import code_span
from fac.questions.pairs import NEGATIVE_ORIGINS, OF_ANCHOR, ORIGINS, differences, turns_of
from fac.questions.relevance import task_profiles
from fac.questions.review_queue import ItemQueue, ReviewQueue
from fac.review import REASONS, Item
from fac.schema import CANNOT_TELL, LEVELS, ROLES
from fac.store.decisions import Decision
from fac.ui import access
from fac.ui.explanations import LEVEL_NAMES
from fac.ui.stores import stores
from fac.ui.text import Row, clean, example_html, plain, tokens_html
from fac.ui.views import action_button, link, param_widget

STRONGEST, SPREAD = 3, 7
"""Examples shown of each kind: what it means when it barely fires counts too."""

ALIKE = 0.4
"""Share of common words below which two texts are shown as two, not as one and its edit."""

CONTEXT_WORDS = 9
"""Words of an unchanged stretch that stay beside a change."""

ORIGIN_CHIPS = {"anchor": "real", "dataset": "real", "person": "up"}  # of a side; others are flat

# A letter of each reason that neither Streamlit nor another key here uses.
FLAG_KEYS = dict(zip(REASONS, "BASKW", strict=True))

GUIDES: dict[str, dict[str, str]] = {
    "explanation": {
        "Yes": "It names what nearly all examples share, the weak ones too.",
        "Probably": "It fits most; a few stray, or it is a little too broad or too narrow.",
        "Maybe": "It fits some examples, or only a part of what they share.",
        "No": "The examples are about something else.",
        "Cannot tell": "They share nothing you can see. Kept apart, not a middle level.",
    },
    "relevance": {
        "Yes": "It meets one of the criteria outright.",
        "Probably": "In most of its examples it does.",
        "Maybe": "It could, in some of them.",
        "No": "It meets none of them.",
        "Cannot tell": "The examples do not show enough to say.",
    },
    "detection": {
        "Mark": "every text in which a feature with this explanation should fire.",
        "Beware": "Some texts belong to features close to it, in which it is silent.",
        "Then": "Enter shows the truth, so that you learn what the explanation missed.",
    },
}


# Streamlit's keys do nothing while a field has the focus, and it leaves the focus in a field after
# Enter, after an option was chosen and after a click on a toggle. There it is done with: only while
# text is being written do letters belong to it. Escape ends that, too. The listener outlives this
# page, so it looks whether the mark is still there; a second mark finds a listener there already.
_KEYS = """
<span class="fac-keys"></span><script>
(() => {
  if (window.facKeys) return;
  window.facKeys = true;
  const leave = () => {
    const field = document.activeElement;
    const writes = ['INPUT', 'TEXTAREA'].includes(field?.tagName);
    if (writes && document.querySelector('.fac-keys')) field.blur();
  };
  document.addEventListener('keydown', event => {
    const field = event.target.tagName;
    const done = event.key === 'Escape' || (event.key === 'Enter' && field === 'INPUT');
    if (done) setTimeout(leave, 50);
  }, true);
  document.addEventListener('click', event => {
    const option = event.target.closest('[role=option]');
    const toggle = event.detail > 0 && event.target.closest('label')?.querySelector(
      'input[type=checkbox], input[type=radio]');
    if (option || toggle) setTimeout(leave, 50);
  }, true);
})();
</script>
"""


def reviewer() -> str | None:
    """Who decides: the signed-in person where sign-in is configured, else a name they pick from
    what this draws; None while nobody is known. Fields of the page let go of the keyboard once they
    are done with."""
    st.html(_KEYS, width="content", unsafe_allow_javascript=True)
    if access.signs_in():
        return _signed_in()
    names = list(dict.fromkeys(d.reviewer for d in stores().decisions.history(500)))
    # The address says who, so that a bookmark opens somebody's own queue.
    widget = param_widget("reviewer", None)
    chosen = st.session_state.get(widget["key"])
    if chosen and chosen not in names:
        names.insert(0, chosen)
    help = "Decisions are kept under this name; type a new one or take one of the last."
    widget |= {"help": help, "placeholder": "Your name, then Enter", "width": 200}
    name = st.selectbox("Reviewer", names, None, accept_new_options=True, **widget)
    return name.strip() or None if name else None


def _signed_in() -> str | None:
    """Who is signed in, where their role lets them decide."""
    who = access.person()
    if who.may("decide"):
        st.caption(f":material/person: {code_span(who.name)}", width="content")
        return who.name
    st.caption(f":material/visibility: {who.refusal('decide')}")
    return None


def pick_task(default: str = "") -> str:
    """The task whose relevance is reviewed."""
    profiles = task_profiles(stores().runs)
    first = default if default in profiles else next(iter(profiles))
    tie = param_widget("task", first, valid=profiles.__contains__)
    return st.selectbox("Task", [*profiles], width=170, label_visibility="collapsed", **tie)


def show_progress(queue: ReviewQueue[Any], left: int, minutes: str) -> None:
    """How far this view is and how fast; `minutes` says how long still, "" where nobody knows."""
    whole = max(queue.total, left, 1)
    words = f"{whole - left:,} of {whole:,}"
    seconds = queue.pace(left).seconds
    if seconds == seconds and minutes:
        words += f" · {seconds:.0f} s each · {minutes} left"
    st.progress((whole - left) / whole, text=words)


def skip_button(queue: ReviewQueue[Any]) -> None:
    last = len(queue.todo) < 2
    help = "Nothing else is left in this view." if last else None
    options: Row = {"shortcut": "S", "disabled": last, "help": help}
    action_button("Skip", "skip_next", queue.skip, **options)


def show_measuring(queue: ReviewQueue[Any]) -> None:
    """That the edit of the entry in view is on its way, and what to do meanwhile."""
    words = "Your edit is being measured; it comes here by itself."
    words += (
        " Skip, and go on meanwhile."
        if len(queue.todo) > 1
        else " Nothing else is left in this view: wait for it, or leave and come back."
    )
    st.info(words, icon=":material/hourglass_top:")


def undo_button(queue: ReviewQueue[Any]) -> None:
    action_button("Undo", "undo", queue.undo, shortcut="U", disabled=not queue.acts)


def note_button(queue: ReviewQueue[Any]) -> None:
    looks = queue.reviewer is None
    action_button("Note", "edit_note", queue.draft.write, shortcut="N", disabled=looks)


def unblur_button(queue: ReviewQueue[Any]) -> None:
    """Shows blurred texts until the next entry."""
    draft = queue.draft
    if st.session_state.get("blur") and not draft.unblurred:
        action_button("Show texts", "visibility", setattr, draft, "unblurred", True, shortcut="V")
    if draft.unblurred:
        # A style alone would outlive this entry: Streamlit puts it outside of the fragment.
        st.html("<span></span><style>.fac-blur{filter:none!important}</style>")


def undo_last_button(queue: ReviewQueue[Any]) -> None:
    """The one key of a queue on which nothing is left."""
    if queue.acts:
        action_button("Undo the last", "undo", queue.undo, shortcut="U")


# A script that comes first is dropped by the browser's sanitiser, so something precedes it. The
# fields may arrive a moment after it does. It stays on the page, lest a run that follows at once
# takes it away before it ran, and remembers which opening it has served.
_SCRIPT = """
<span></span><script>
(() => {
  const began = Date.now();
  const look = () => {
    if (window.facOpened === 'OPENED') return;
    const field = document.querySelector('.st-key-CONTAINER textarea, .st-key-CONTAINER input');
    if (field) {
      window.facOpened = 'OPENED';
      field.focus();
    } else if (Date.now() - began < 5000) {
      requestAnimationFrame(look);
    }
  };
  look();
})();
</script>
"""


def focus_once(queue: ReviewQueue[Any], fields: str) -> None:
    """Puts the cursor, which Streamlit cannot, into the first of the fields note or edit, in the
    container "writing note" or "writing edit", once after they were opened."""
    draft = queue.draft
    if draft.typing == fields:
        script = _SCRIPT.replace("CONTAINER", f"writing-{fields}")
        st.html(script.replace("OPENED", f"{draft.opened}"), unsafe_allow_javascript=True)


def show_item(queue: ItemQueue, item: Item, view: dict[str, str]) -> None:
    """The item, its keys, and beside it what helps; `view` are the query parameters under which the
    page shows this item among its like."""
    left, right = st.columns([5, 4], gap="large")
    if item.kind == "detection":
        _show_detection(queue, item, left, right)
    else:
        _show_rating(queue, item, left, right)
    with right:
        _show_aside(queue, item, view)


def _show_rating(queue: ItemQueue, item: Item, left: DeltaGenerator, right: DeltaGenerator) -> None:
    """Examples, then what is said about them, then five keys."""
    draft = queue.draft
    left.html(examples_html(queue.evidence(item)))
    with right:
        _show_progress(queue)
        hidden = _hides(queue)
        if item.kind == "relevance":
            profile = task_profiles(stores().runs).get(item.content["task"])
            title = profile.title if profile else item.content["task"]
            st.markdown(f"**Does this feature matter for {plain(title)}?**")
        else:
            st.markdown("**Does this explanation fit the examples?**")
        if hidden:
            show = (setattr, draft, "revealed", True)
            action_button("Show the explanation", "", *show, shortcut="Space", width="stretch")
        else:
            st.html(quote_html(item.content["explanation"]))
        keys = {**{str(i): level for i, level in enumerate(LEVELS, 1)}, "0": CANNOT_TELL}
        with st.container(horizontal=True, gap="xsmall"):
            for key, level in keys.items():
                options = {"key": f"rate {key}", "shortcut": key, "disabled": hidden}
                action_button(LEVEL_NAMES[level], "", queue.decide, level, **options)
        if item.kind == "explanation":
            st.caption("What is wrong with it, if anything; then rate")
            with st.container(horizontal=True, gap="xsmall"):
                for reason, key in FLAG_KEYS.items():
                    icon = "check" if reason in draft.reasons else ""
                    options = {"key": f"flag {key}", "shortcut": key, "disabled": hidden}
                    flip = draft.reasons.symmetric_difference_update
                    action_button(reason.capitalize(), icon, flip, {reason}, **options)


def _show_detection(
    queue: ItemQueue, item: Item, left: DeltaGenerator, right: DeltaGenerator
) -> None:
    """Ten texts without any mark; which of them fire?"""
    texts = queue.evidence(item)
    signs = queue.solved[1].verdict if queue.solved else ""
    with left:
        for number, text in enumerate(texts):
            mark, body = st.columns([1, 6], gap="small", vertical_alignment="center")
            if signs:
                _truth_badge(mark, text["positive"], signs[number])
                body.html(_solved_html(text))
            else:
                fires = number in queue.draft.fires
                look = {"type": "primary" if fires else "secondary", "width": "stretch"}
                keys = {"key": f"mark {number}", "shortcut": str((number + 1) % 10)}
                flip = queue.draft.fires.symmetric_difference_update
                with mark:
                    action_button("fires" if fires else "–", "", flip, {number}, **look, **keys)
                body.html(tokens_html(text["tokens"]))
    with right:
        _show_progress(queue)
        st.markdown("**In which texts does it fire?**")
        st.html(quote_html(item.content["explanation"]))
        if signs:
            truth = ("+" if text["positive"] else "-" for text in texts)
            hits = sum(sign == fires for sign, fires in zip(signs, truth, strict=True))
            st.markdown(f"**{hits} of {len(texts)} right.**")
            st.button("Next", shortcut="Enter", type="primary", on_click=queue.advance)
        else:
            with st.container(horizontal=True):
                st.button("Done", shortcut="Enter", type="primary", on_click=queue.submit)
                st.button("Cannot tell", shortcut="X", on_click=queue.give_up)


def _truth_badge(column: DeltaGenerator, fires: bool, sign: str) -> None:
    """What a text does, and whether that is what somebody marked."""
    right = (sign == "+") == fires and sign != "?"
    icon = ":material/check:" if right else ":material/close:"
    color: Any = "green" if right else "gray" if sign == "?" else "red"
    column.badge("fires" if fires else "silent", icon=icon, color=color)


def _solved_html(row: Row) -> str:
    """A held-out text with what the feature does in it."""
    if not row["positive"] or "activations" not in row:
        return tokens_html(row["tokens"])
    return tokens_html(row["tokens"], row["activations"], peak=row["peak_index"])


def _show_progress(queue: ItemQueue) -> None:
    left = len(queue.todo) - bool(queue.solved)
    minutes = queue.pace(left).minutes_left
    hours = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    show_progress(queue, left, "under a minute" if minutes < 1 else hours)


def _show_aside(queue: ItemQueue, item: Item, view: dict[str, str]) -> None:
    """Undo, note and correction, guidelines, the last ten."""
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        undo_button(queue)
        if not queue.solved:
            if item.kind == "explanation":
                edit: Row = {"shortcut": "E", "disabled": _hides(queue)}
                action_button("Edit", "edit", queue.draft.edit, **edit)
            note_button(queue)
        unblur_button(queue)
        seen = digest(item.content)
        link("review", "Link to this item", icon=":material/link:", **view, item=seen)
    draft = queue.draft
    if draft.editing and item.kind == "explanation":
        with st.container(key="writing edit"):
            _show_correction(queue, item)
    if draft.noting and not queue.solved:
        with st.container(key="writing note"):
            draft.note = st.text_area("Note", value=draft.note, key=f"note {seen}", height=68)
            st.caption("Escape leaves the field; then a key rates, and the note is kept with it.")
            focus_once(queue, "note")
    if item.kind == "relevance":
        st.markdown("**It matters where it meets one of these**")
        st.html(criteria_html(item.content["rubric"]))
    st.html(guide_html(GUIDES[item.kind]))
    show_last(queue, LEVEL_NAMES)


def show_last(queue: ReviewQueue[Any], names: Mapping[str, str]) -> None:
    """The reviewer's last decisions, each of which can be taken back."""
    last = queue.last()
    if not last:
        return
    st.markdown("**Your last decisions**")
    st.html(last_html(last, names))
    earlier = st.popover("Take one back", type="tertiary", key="earlier", on_change="rerun")
    if earlier.open:
        with earlier:
            for decision in last:
                feature, verdict = decision.subject.split("/")[2], decision.verdict
                words = f"#{feature} {names.get(verdict, verdict)}"
                options = {"key": f"undo {decision.uid}", "type": "tertiary"}
                action_button(words, "undo", queue.undo, decision.uid, **options)


def _hides(queue: ItemQueue) -> bool:
    """Whether the explanation is not to be read yet."""
    return bool(st.session_state.get("look first")) and not queue.draft.revealed


def _show_correction(queue: ItemQueue, item: Item) -> None:
    """What the explanation should rather say, which is kept with the next rating."""
    draft, explanation = queue.draft, item.content["explanation"] or ""
    key, before = f"edited {digest(item.content)}", draft.correction or explanation
    draft.correction = st.text_area("It should rather say", before, key=key, height=80)
    if draft.correction.strip() == explanation.strip():
        draft.correction = ""
    st.caption("Escape leaves the field; then a key rates, and this is kept with it.")
    focus_once(queue, "edit")


# --- as HTML -------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Foreign text inside an element."""
    return html.escape(clean(text))


def text_html(text: str) -> str:
    """A foreign text of its own."""
    return f'<div class="fac-text fac-blur">{escaped(text)}</div>'


def quote_html(text: str | None) -> str:
    """An explanation as the thing that is asked about."""
    if text is None:
        return '<div class="fac-quote fac-none">No explanation: judge by the examples.</div>'
    return f'<div class="fac-quote fac-blur">{escaped(text)}</div>'


def guide_html(answers: Mapping[str, str]) -> str:
    """What each answer means, in view."""
    parts = (f"<b>{escaped(name)}</b><span>{escaped(v)}</span>" for name, v in answers.items())
    return f'<div class="fac-guide">{"".join(parts)}</div>'


def criteria_html(rubric: Sequence[str]) -> str:
    """What makes a feature matter for a task; one criterion is enough."""
    lines = "".join(f"<li>{escaped(line)}</li>" for line in rubric)
    return f'<ul class="fac-criteria">{lines}</ul>'


def last_html(decisions: Sequence[Decision], names: Mapping[str, str]) -> str:
    """The last decisions, newest first: feature, verdict, seconds."""
    rows = []
    for decision in decisions:
        feature = decision.subject.split("/")[2]
        verdict = names.get(decision.verdict, decision.verdict)
        flags = f" · {', '.join(decision.reasons)}" if decision.reasons else ""
        seconds = "" if decision.seconds is None else f"{decision.seconds:.0f} s"
        words = html.escape(verdict + flags)
        rows.append(f"<span>#{html.escape(feature)}</span><b>{words}</b><i>{seconds}</i>")
    return f'<div class="fac-last">{"".join(rows)}</div>'


def history_html(history: Iterable[tuple[int, Decision]], *, numbered: bool) -> str:
    """(version, decision), oldest first; struck out where they were taken back."""
    rows = []
    for number, decision in history:
        when = datetime.fromisoformat(decision.at).astimezone()
        words = f"{decision.reviewer}: {decision.verdict.replace('_', ' ')}"
        words += f" version {number}" if numbered else ""
        words += f", {', '.join(decision.reasons)}" if decision.reasons else ""
        words += f" · {decision.note}" if decision.note else ""
        mark = "s" if decision.withdrawn else "div"
        rows.append(f"<span>{when:%d %b %H:%M}</span><{mark}>{escaped(words)}</{mark}>")
    return f'<div class="fac-past">{"".join(rows)}</div>'


def steps_html(steps: Iterable[tuple[str, str]]) -> str:
    """(step, words) in small print, one below the other."""
    cells = (
        f"<span>{html.escape(name)}</span><div>{escaped(words)}</div>" for name, words in steps
    )
    return f'<div class="fac-past">{"".join(cells)}</div>'


def examples_html(spans: Sequence[Row]) -> str:
    """The strongest examples and, apart, some over all strengths, on one colour scale."""
    top = [span for span in spans if span["kind"] == "top"][:STRONGEST]
    tops = {(span["sample"], span["position"]) for span in top}
    rest = (span for span in spans if (span["sample"], span["position"]) not in tops)
    spread = sorted((s for s in rest if s["kind"] == "spread"), key=lambda span: -span["peak"])
    if len(spread) > SPREAD:  # evenly, the weakest among them
        step = (len(spread) - 1) / (SPREAD - 1)
        spread = [spread[round(i * step)] for i in range(SPREAD)]
    strongest = max((span["peak"] for span in spans), default=0.0)
    parts = []
    headings = ("Where it fires most", "Over all its strengths, strong to weak")
    for heading, rows in zip(headings, (top, spread), strict=True):
        if rows:
            parts.append(f'<div class="fac-part">{heading}</div>')
        for span in rows:
            scale = {"strongest": strongest, "peak": span["peak_index"]}
            body = tokens_html(span["tokens"], span["activations"], **scale)
            parts.append(example_html([f"{span['peak']:.2f}", span["role"]], body))
    return "".join(parts)


def traced_html(
    messages: Sequence[Mapping[str, str]],
    tokens: Sequence[str],
    values: Sequence[float],
    *,
    strongest: float | None = None,
    breaks: bool = False,
    borrowed: Sequence[bool] = (),
) -> str:
    """A text turn by turn with the activation as the depth of colour, its peak underlined;
    `strongest` is full colour, the text's own peak by default. `borrowed` says of every token
    whether it is from elsewhere: then the peak is the highest of its own words, if any fires."""
    highest = max(values, default=0.0)
    from_elsewhere = {number for number, taken in enumerate(borrowed) if taken}
    rank = {n: (n not in from_elsewhere, value) for n, value in enumerate(values) if value > 0}
    peak = max(rank, key=rank.__getitem__, default=-1)
    full = highest if strongest is None else strongest
    turns, bodies = turns_of(messages, tokens), []
    for role, (first, last) in turns:
        at, cut = peak - first if first <= peak < last else None, slice(first, last)
        taken = {number - first for number in from_elsewhere if first <= number < last}
        marks: Row = {"peak": at, "breaks": breaks, "borrowed": taken}
        body = tokens_html(tokens[cut], values[cut], strongest=full, **marks)
        if len(turns) > 1:
            kind = role if role in ROLES else "other"
            body = f'<div class="fac-turn fac-{kind}"><b>{escaped(role)}</b>{body}</div>'
        bodies.append(body)
    return f'<div class="fac-chat">{"".join(bodies)}</div>'


def pair_html(row: Mapping[str, Any], threshold: float) -> str:
    """Both sides token by token on one colour scale, and below what the words differ in."""
    strongest = max((*row["positive_activations"], *row["negative_activations"]), default=0.0)
    sides = _side_html(row, "positive", row["origin"], strongest, threshold)
    sides += _side_html(row, "negative", row["negative_origin"], strongest, threshold)
    return f'<div class="fac-pair">{sides}</div>' + changes_html(
        row["positive"], row["negative"], nearest=row["negative_origin"] != "person"
    )


def _side_html(
    row: Mapping[str, Any], side: str, origin: str, strongest: float, threshold: float
) -> str:
    peak = row[f"{side}_peak"]
    fires = peak > threshold
    names = ORIGINS if side == "positive" else NEGATIVE_ORIGINS
    note = f'<div class="fac-part">{OF_ANCHOR}</div>' if origin == "anchor" else ""
    words, chip = names.get(origin, origin), ORIGIN_CHIPS.get(origin, "flat")
    head = "Fires" if fires else "Silent"
    if threshold and peak > 0:
        head = f"Fires, above {threshold:g}" if fires else f"Below {threshold:g}"
    tokens, values = row[f"{side}_tokens"], row[f"{side}_activations"]
    body = traced_html(row[side], tokens, values, strongest=strongest)
    return (
        f'<div class="fac-side{" fac-fires" if fires else ""}"><div class="fac-side-head">'
        f"<b>{head}</b><strong>{peak:.2f}</strong>"
        f'<span class="fac-chip fac-{chip}">{escaped(words)}</span></div>{body}{note}</div>'
    )


def changes_html(
    positive: Sequence[Mapping[str, str]],
    negative: Sequence[Mapping[str, str]],
    *,
    nearest: bool = True,
) -> str:
    """Which words the negative lacks and which it has instead; of two that are not alike only how
    many they share. `nearest` where it is the most similar silent text, not somebody's edit."""
    if [m["role"] for m in positive] == [m["role"] for m in negative]:
        turns = [(p["content"], n["content"]) for p, n in zip(positive, negative, strict=True)]
        turns = [turn for turn in turns if turn[0] != turn[1]]
    else:
        whole, other = ("\n".join(m["content"] for m in side) for side in (positive, negative))
        turns = [(whole, other)]
    parts = [differences(*turn) for turn in turns]
    count: Counter[str] = Counter()
    for kind, text in chain.from_iterable(parts):
        count[kind] += len(text.split())
    total = 2 * count["same"] + count["gone"] + count["new"]
    if not turns:
        heading, body = "The two sides say the same", ""
    elif total and 2 * count["same"] / total < ALIKE:
        shared = f"{count['same']:,} word{'s'[: count['same'] != 1]}"
        right = "the most similar text that stays silent" if nearest else "another text"
        heading, body = f"The right is {right}: the two share {shared}", ""
    else:
        gone, new = count["gone"], count["new"]
        heading = "What the right lacks" + (", and what it has instead" if new else "")
        heading += f" · {gone} of {count['same'] + gone} words" if not new else ""
        lines = (" ".join(_change_html(*piece) for piece in _shortened(part)) for part in parts)
        body = f'<div class="fac-text fac-blur">{"<br>".join(lines)}</div>'
    return f'<div class="fac-changes"><div class="fac-part">{heading}</div>{body}</div>'


def _change_html(kind: str, text: str) -> str:
    mark = {"gone": "del", "new": "ins"}.get(kind)
    return f"<{mark}>{escaped(text)}</{mark}>" if mark else escaped(text)


def _shortened(pieces: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same with long unchanged stretches cut down to what is beside a change."""
    shortened = []
    for number, (kind, text) in enumerate(pieces):
        words = text.split()
        if kind == "same" and len(words) > 2 * CONTEXT_WORDS + 1:
            head = words[:CONTEXT_WORDS] if number else []
            tail = words[-CONTEXT_WORDS:] if number + 1 < len(pieces) else []
            text = " ".join([*head, "…", *tail])
        shortened.append((kind, text))
    return shortened
