"""One thing at a time, blind and by keyboard: does it fit, does it matter, what fires."""

from typing import Any

import streamlit as st

from fac import ui
from fac.config import digest
from fac.review import REASONS, pace
from fac.schema import LEVELS

KINDS = {
    "explanation": "Explanations",
    "relevance": "Relevance to a task",
    "detection": "Can you tell what fires?",
}
WHICH = {"gaps": "The gaps of a dataset", "explained": "Every explained feature"}
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
        "No": "It meets none; a feature of style or form alone meets none either.",
        "Cannot tell": "The examples do not show enough to say.",
    },
    "detection": {
        "Mark": "every text in which a feature with this explanation should fire.",
        "Beware": "Some texts belong to features close to it, in which it is silent.",
        "Then": "Enter shows the truth, so that you learn what the explanation missed.",
    },
}


def explain_offer(anchor: str, features: list[int]) -> None:
    """How features get explanations: from their tokens at once, or by a language model."""
    if ui.explaining(anchor):
        st.caption(":material/hourglass_top: Explanations are on their way; see the left.")
        return
    with st.container(border=True):
        st.markdown("**From their tokens**")
        st.caption("Which words a feature peaks on, and near which. No model, no key, no cost.")
        if st.button("Explain by tokens", type="primary", icon=":material/format_quote:"):
            ui.explain_by_tokens(anchor)
            st.rerun()
    with st.container(border=True):
        st.markdown("**By a language model**")
        ui.explain_form(anchor, features)


@st.fragment
@ui.guard()
def work(link: dict[str, str]) -> None:
    """The item on the desk; a key press draws this and nothing else."""
    desk: ui.Desk = st.session_state["desk"]
    if desk.trouble:
        st.error(ui.plain(desk.trouble), icon=":material/error:")
    item = desk.now
    if item is None:
        done(desk)
        return
    left, right = st.columns([5, 4], gap="large")
    if item.kind == "detection":
        detection(desk, item, left, right)
    else:
        rating(desk, item, left, right)
    with right:
        aside(desk, item, link)
    desk.in_view()


def rating(desk: ui.Desk, item: ui.Item, left: Any, right: Any) -> None:
    """Examples, then what is said about them, then five keys."""
    draft = desk.draft
    with left:
        st.html(desk.card(item).examples)
    with right:
        progress(desk)
        hidden = bool(st.session_state.get("look first")) and not draft.revealed
        if item.kind == "relevance":
            task = ui.tasks().get(item.content["task"])
            title = task.title if task else item.content["task"]
            st.markdown(f"**Does this feature matter for {ui.plain(title)}?**")
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
            st.html(ui.quote_html(item.content["explanation"]))
        keys = {**{str(i): level for i, level in enumerate(LEVELS, 1)}, "0": "cannot_tell"}
        with st.container(horizontal=True, gap="xsmall"):
            for key, level in keys.items():
                st.button(
                    ui.LEVEL_NAMES[level],
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


def detection(desk: ui.Desk, item: ui.Item, left: Any, right: Any) -> None:
    """Ten texts without any mark; which of them fire?"""
    texts, solved = desk.card(item).texts, desk.solved
    with left:
        for number, text in enumerate(texts):
            sign, shown = st.columns([1, 6], gap="small", vertical_alignment="center")
            if solved:
                truth_badge(sign, text["positive"], solved[1].verdict[number])
                shown.html(ui.solved_html(text))
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
                shown.html(ui.text_html(text))
    with right:
        progress(desk)
        st.markdown("**In which texts does it fire?**")
        st.html(ui.quote_html(item.content["explanation"]))
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


def truth_badge(place: Any, fires: bool, said: str) -> None:
    """What a text does, and whether that is what was said."""
    right = (said == "+") == fires and said != "?"
    place.badge(
        "fires" if fires else "silent",
        icon=":material/check:" if right else ":material/close:",
        color="green" if right else "gray" if said == "?" else "red",
    )


def progress(desk: ui.Desk) -> None:
    """How far, how fast, how long still."""
    left = len(desk.todo) - bool(desk.solved)
    whole = max(desk.total, left, 1)
    speed = pace(desk.mine, left)
    words = f"{whole - left:,} of {whole:,}"
    if speed.seconds == speed.seconds:
        words += f" · {speed.seconds:.0f} s each · {ui.minutes(speed.minutes_left)} left"
    st.progress((whole - left) / whole, text=words)


def aside(desk: ui.Desk, item: ui.Item, link: dict[str, str]) -> None:
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
            ui.REVIEW,
            label="Link to this item",
            icon=":material/link:",
            query_params={**link, "item": digest(item.content)},
        )
    if draft.unblurred:
        # A style alone would outlive this item: Streamlit puts it outside of the fragment.
        st.html("<span></span><style>.fac-blur{filter:none!important}</style>")
    if draft.writing and not desk.solved:
        with st.container(key="writing"):
            writing(desk, item)
    guide = GUIDES[item.kind]
    if item.kind == "relevance":
        st.markdown("**It matters where it meets one of these**")
        st.html(ui.criteria_html(item.content["rubric"]))
    st.html(ui.guide_html(guide))
    if last := desk.last():
        st.markdown("**Your last decisions**")
        st.html(ui.last_html(last, ui.LEVEL_NAMES))
        earlier = st.popover("Take one back", type="tertiary", key="earlier", on_change="rerun")
        if earlier.open:
            with earlier:
                for said in last:
                    feature, verdict = said.subject.split("/")[2], said.verdict
                    st.button(
                        f"#{feature} {ui.LEVEL_NAMES.get(verdict, verdict)}",
                        key=f"undo {said.uid}",
                        icon=":material/undo:",
                        type="tertiary",
                        on_click=desk.undo,
                        args=(said.uid,),
                    )


def writing(desk: ui.Desk, item: ui.Item) -> None:
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
        ui.focus_writing()


def done(desk: ui.Desk) -> None:
    """Nothing is left, or there was nothing."""
    if desk.total:
        ui.empty(
            "All reviewed",
            f"You decided on {len(desk.mine):,}. See how far people agree.",
            icon=":material/task_alt:",
            page=ui.AGREEMENT,
            link="Agreement",
        )
        if desk.mine:
            st.button("Undo the last", shortcut="U", icon=":material/undo:", on_click=desk.undo)
    else:
        ui.empty(
            "Nothing to review here",
            "None of these features has what this needs. Choose every explained feature instead, "
            "or have more of them explained.",
            icon=":material/filter_alt_off:",
        )


found = ui.measured()
with st.container(horizontal=True, vertical_alignment="bottom"):
    ui.title("Review", width="stretch")
    ui.stop_if_nothing_measured(found)
    more = st.container(width="content")
    who = ui.reviewer()

anchor = default = ui.default_anchor(found)
with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
    kind = ui.choice("What", tuple(KINDS), "kind", names=KINDS, label_visibility="collapsed")
    task = ui.pick_task() if kind == "relevance" else ""
    if kind != "detection":
        st.toggle(
            "Look before you read",
            key="look first",
            persist_state="session",
            help="Hides the explanation until Space, so that you form your own view first.",
        )
    with st.popover("Which features", icon=":material/tune:"):
        anchor = ui.pick("Explained in", "anchor", found, default)
        dataset = ui.pick("Dataset", "dataset", found, ui.default_dataset(found, anchor))
        which = ui.choice("Features", tuple(WHICH), "which", names=WHICH)
        every = kind == "explanation" and st.toggle(
            "Every explanation of a feature",
            help="Otherwise the preferred one: a correction, a model's, then the tokens'.",
            **ui.linked("every", False, read="True".__eq__),
        )
        asked = ui.gap_settings()
        relevance = ui.look_relevance(anchor)
        if which == "gaps":
            st.caption(ui.gap_settings_words(asked, relevance))

titles = ui.titles(found)
explain_runs = ui.explained(anchor)
features = ui.wanted_features(anchor, dataset, which, relevance, asked)
if explain_runs:
    with more.popover("Explain more", icon=":material/add:"):
        explain_offer(anchor, sorted(features or ()))
if not explain_runs:
    ui.empty(
        "Nothing is explained yet",
        f"A feature of {ui.plain(titles[anchor])} is a number until something says what it "
        "fires on.",
        icon=":material/rate_review:",
    )
    explain_offer(anchor, sorted(features or ()))
    ui.show_failures("explain")
    st.stop()
ui.show_failures("explain")
if who is None:
    ui.empty(
        "Who is reviewing?",
        "Choose or type your name above. Decisions are kept under it, and nobody sees another's "
        "before deciding.",
        icon=":material/person:",
    )
    st.stop()


def items() -> list[ui.Item]:
    """Everything of this kind that could be asked."""
    if kind == "relevance":
        return ui.relevance_items(anchor, features, task)
    if kind == "detection":
        return ui.detection_items(anchor, features)
    return ui.explanation_items(anchor, features, every=every)


setting = (who, kind, anchor, task, every, frozenset(features or ()), which, *explain_runs)
ui.open_desk(who, kind, setting, items, first=ui.look("item", None))
view = {"kind": kind, "anchor": titles[anchor], "dataset": titles[dataset], "which": which}
view |= ui.gaps_in_link({**asked, "relevance": relevance}) if which == "gaps" else {}
view |= {"task": task} if task else {}
view |= {"every": "True"} if every else {}
work(view)
