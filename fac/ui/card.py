"""How the item on the desk looks, and which key does what to it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from fac.config import digest
from fac.review import REASONS, Item, pace
from fac.schema import LEVELS
from fac.store.decisions import Decision
from fac.ui.desk import Desk
from fac.ui.meaning import LEVEL_NAMES, tasks
from fac.ui.text import Row, clean, plain, tokens_html
from fac.ui.views import REVIEW

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


def show_item(desk: Desk, item: Item, link: dict[str, str]) -> None:
    """The item, its keys, and beside it what helps: progress, undo, note, guidelines, the last ten.

    `link` are the query parameters under which the page shows this item among its like.
    """
    left, right = st.columns([5, 4], gap="large")
    if item.kind == "detection":
        _detection(desk, item, left, right)
    else:
        _rating(desk, item, left, right)
    with right:
        _aside(desk, item, link)


def _rating(desk: Desk, item: Item, left: Any, right: Any) -> None:
    """Examples, then what is said about them, then five keys."""
    draft = desk.draft
    with left:
        st.html(desk.card(item).examples)
    with right:
        _progress(desk)
        hidden = bool(st.session_state.get("look first")) and not draft.revealed
        if item.kind == "relevance":
            task = tasks().get(item.content["task"])
            title = task.title if task else item.content["task"]
            st.markdown(f"**Does this feature matter for {plain(title)}?**")
        else:
            st.markdown("**Does this explanation fit the examples?**")
        if hidden:
            st.button(
                "Show the explanation",
                shortcut="Space",
                on_click=setattr,
                args=(draft, "revealed", True),
                width="stretch",
            )
        else:
            st.html(quote_html(item.content["explanation"]))
        keys = {**{str(i): level for i, level in enumerate(LEVELS, 1)}, "0": "cannot_tell"}
        with st.container(horizontal=True, gap="xsmall"):
            for key, level in keys.items():
                st.button(
                    LEVEL_NAMES[level],
                    key=f"rate {key}",
                    shortcut=key,
                    disabled=hidden,
                    on_click=desk.give_up if key == "0" else desk.decide,
                    args=() if key == "0" else (level,),
                )
        if item.kind == "explanation":
            st.caption("What is wrong with it, if anything; then rate")
            with st.container(horizontal=True, gap="xsmall"):
                for reason, key in FLAG_KEYS.items():
                    ticked = reason in draft.reasons
                    st.button(
                        reason.capitalize(),
                        key=f"flag {key}",
                        shortcut=key,
                        icon=":material/check:" if ticked else None,
                        disabled=hidden,
                        on_click=desk.flag,
                        args=(reason,),
                    )


def _detection(desk: Desk, item: Item, left: Any, right: Any) -> None:
    """Ten texts without any mark; which of them fire?"""
    texts, solved = desk.card(item).texts, desk.solved
    with left:
        for number, text in enumerate(texts):
            sign, shown = st.columns([1, 6], gap="small", vertical_alignment="center")
            if solved:
                _truth_badge(sign, text["positive"], solved[1].verdict[number])
                shown.html(_solved_html(text))
            else:
                marked = number in desk.draft.fires
                sign.button(
                    "fires" if marked else "–",
                    key=f"mark {number}",
                    shortcut=str((number + 1) % 10),
                    type="primary" if marked else "secondary",
                    on_click=desk.mark,
                    args=(number,),
                    width="stretch",
                )
                shown.html(_text_html(text))
    with right:
        _progress(desk)
        st.markdown("**In which texts does it fire?**")
        st.html(quote_html(item.content["explanation"]))
        if solved:
            hits = sum(
                said == ("+" if text["positive"] else "-")
                for said, text in zip(solved[1].verdict, texts, strict=True)
            )
            st.markdown(f"**{hits} of {len(texts)} right.**")
            st.button("Next", shortcut="Enter", type="primary", on_click=desk.advance)
        else:
            with st.container(horizontal=True):
                st.button("Done", shortcut="Enter", type="primary", on_click=desk.submit)
                st.button("Cannot tell", shortcut="X", on_click=desk.give_up)


def _truth_badge(place: Any, fires: bool, said: str) -> None:
    """What a text does, and whether that is what was said."""
    right = (said == "+") == fires and said != "?"
    place.badge(
        "fires" if fires else "silent",
        icon=":material/check:" if right else ":material/close:",
        color="green" if right else "gray" if said == "?" else "red",
    )


def _progress(desk: Desk) -> None:
    """How far, how fast, how long still."""
    left = len(desk.todo) - bool(desk.solved)
    whole = max(desk.total, left, 1)
    speed = pace(desk.mine, left)
    words = f"{whole - left:,} of {whole:,}"
    if speed.seconds == speed.seconds:
        words += f" · {speed.seconds:.0f} s each · {_minutes(speed.minutes_left)} left"
    st.progress((whole - left) / whole, text=words)


def _aside(desk: Desk, item: Item, link: dict[str, str]) -> None:
    """Undo, note and correction, guidelines, the last ten."""
    draft = desk.draft
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        st.button(
            "Undo", shortcut="U", icon=":material/undo:", disabled=not desk.mine, on_click=desk.undo
        )
        if not desk.solved:
            st.button(
                "Note",
                shortcut="N",
                icon=":material/edit_note:",
                on_click=desk.write,
            )
        if st.session_state.get("blur") and not draft.unblurred:
            st.button(
                "Show texts",
                shortcut="V",
                icon=":material/visibility:",
                on_click=setattr,
                args=(draft, "unblurred", True),
            )
        st.page_link(
            REVIEW,
            label="Link to this item",
            icon=":material/link:",
            query_params={**link, "item": digest(item.content)},
        )
    if draft.unblurred:
        # A style alone would outlive this item: Streamlit puts it outside of the fragment.
        st.html("<span></span><style>.fac-blur{filter:none!important}</style>")
    if draft.writing and not desk.solved:
        with st.container(key="writing"):
            _writing(desk, item)
    guide = GUIDES[item.kind]
    if item.kind == "relevance":
        st.markdown("**It matters where it meets one of these**")
        st.html(_criteria_html(item.content["rubric"]))
    st.html(_guide_html(guide))
    if last := desk.last():
        st.markdown("**Your last decisions**")
        st.html(_last_html(last, LEVEL_NAMES))
        earlier = st.popover("Take one back", type="tertiary", key="earlier", on_change="rerun")
        if earlier.open:
            with earlier:
                for said in last:
                    feature, verdict = said.subject.split("/")[2], said.verdict
                    st.button(
                        f"#{feature} {LEVEL_NAMES.get(verdict, verdict)}",
                        key=f"undo {said.uid}",
                        icon=":material/undo:",
                        type="tertiary",
                        on_click=desk.undo,
                        args=(said.uid,),
                    )


def _writing(desk: Desk, item: Item) -> None:
    """A correction and a note. Both are kept with the next rating."""
    seen = digest(item.content)
    if item.kind == "explanation":
        desk.draft.edited = st.text_area(
            "It should rather say",
            value=desk.draft.edited or item.content["explanation"] or "",
            key=f"edited {seen}",
            height=80,
        )
        if desk.draft.edited.strip() == (item.content["explanation"] or "").strip():
            desk.draft.edited = ""
    desk.draft.note = st.text_area("Note", value=desk.draft.note, key=f"note {seen}", height=68)
    st.caption("Escape leaves the field; then a key rates, and both are kept with it.")
    if desk.draft.typing:
        focus_writing("writing")


def _text_html(row: Row) -> str:
    """A held-out text as the test shows it: no token marked."""
    return tokens_html(row["tokens"])


def _solved_html(row: Row) -> str:
    """The same text with what the feature does in it."""
    if not row["positive"] or "activations" not in row:
        return tokens_html(row["tokens"])
    return tokens_html(row["tokens"], row["activations"], peak=row["peak_index"])


def quote_html(text: str | None) -> str:
    """An explanation as the thing that is asked about."""
    if text is None:
        return '<div class="fac-quote fac-none">No explanation: judge by the examples.</div>'
    return f'<div class="fac-quote fac-blur">{html.escape(clean(text))}</div>'


def _last_html(said: Sequence[Decision], names: dict[str, str]) -> str:
    """The last decisions, newest first: feature, verdict, seconds."""
    rows = []
    for decision in said:
        feature = decision.subject.split("/")[2]
        verdict = names.get(decision.verdict, decision.verdict)
        flags = f" · {', '.join(decision.reasons)}" if decision.reasons else ""
        took = "" if decision.seconds is None else f"{decision.seconds:.0f} s"
        rows.append(
            f"<span>#{html.escape(feature)}</span>"
            f"<b>{html.escape(verdict + flags)}</b><i>{took}</i>"
        )
    return f'<div class="fac-last">{"".join(rows)}</div>'


def _guide_html(lines: Mapping[str, str]) -> str:
    """What each answer means, in view."""
    parts = (f"<b>{html.escape(key)}</b><span>{html.escape(v)}</span>" for key, v in lines.items())
    return f'<div class="fac-guide">{"".join(parts)}</div>'


def _criteria_html(rubric: Sequence[str]) -> str:
    """What makes a feature matter for a task; one criterion is enough."""
    lines = "".join(f"<li>{html.escape(clean(line))}</li>" for line in rubric)
    return f'<ul class="fac-criteria">{lines}</ul>'


def _minutes(left: float) -> str:
    """A time to come as people say it."""
    if left < 1:
        return "under a minute"
    return f"{left:.0f} min" if left < 90 else f"{left / 60:.1f} h"


# A script that comes first is dropped by the browser's sanitiser, so something precedes it. The
# fields may arrive a moment after it does.
_SCRIPT = """
<span></span><script>
(() => {
  const began = Date.now();
  const look = () => {
    const fields = document.querySelectorAll(
      '.st-key-CONTAINER textarea, .st-key-CONTAINER input');
    if (!fields.length) {
      if (Date.now() - began < 2000) requestAnimationFrame(look);
      return;
    }
    fields.forEach(field => field.addEventListener('keydown', event => {
      if (event.key === 'Escape') field.blur();
    }));
    fields[0].focus();
  };
  look();
})();
</script>
"""


def focus_writing(container: str) -> None:
    """The first text field of the container with this key has the cursor; Escape leaves it.

    Streamlit cannot move the cursor, and who works by keyboard should not reach for the mouse.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "-", container)
    st.html(_SCRIPT.replace("CONTAINER", name), unsafe_allow_javascript=True)
