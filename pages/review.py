"""One thing at a time, blind and by keyboard: does it fit, does it matter, what fires."""

import streamlit as st

from fac import ui

KINDS = {
    "explanation": "Explanations",
    "relevance": "Relevance to a task",
    "detection": "Can you tell what fires?",
}
WHICH = {"gaps": "The gaps of a dataset", "explained": "Every explained feature"}


def explain_offer(anchor: str, features: list[int]) -> None:
    """How features get explanations: from their tokens at once, or by a language model."""
    if ui.explaining(anchor):
        st.caption(
            ":material/hourglass_top: Explanations are on their way; see the strip at the left."
        )
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
    ui.show_item(desk, item, link)
    desk.in_view()


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
            **ui.param_widget("every", False, read="True".__eq__),
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
ui.open_desk(who, kind, setting, items, first=ui.get_param("item", None))
view = {"kind": kind, "anchor": titles[anchor], "dataset": titles[dataset], "which": which}
view |= ui.gaps_in_link({**asked, "relevance": relevance}) if which == "gaps" else {}
view |= {"task": task} if task else {}
view |= {"every": "True"} if every else {}
work(view)
