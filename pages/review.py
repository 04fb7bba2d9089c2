"""One item at a time, blind and by keyboard: does it fit, does it matter, what fires."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import ExplainSpec, digest, model_scores
from fac.manifest import SynthesisManifest
from fac.questions import results
from fac.questions.catalogue import measured, titles
from fac.questions.explanations import explained
from fac.questions.gap_evidence import gap_features
from fac.questions.review_queue import ItemQueue, item_queue, items_of
from fac.ui import pickers
from fac.ui.access import needing, signs_in
from fac.ui.endpoints import server_fields
from fac.ui.jobs import show_failures, start
from fac.ui.review import pick_task, reviewer, show_item, undo_last_button
from fac.ui.samples import open_samples, show_sample
from fac.ui.samples import show_end as show_samples_end
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.text import plain
from fac.ui.views import choice, empty, get_param, guard, param_widget, set_param
from fac.ui.writing import asking_words

PAGE = {"title": "Review", "section": "Decide", "icon": "rate_review", "order": 60}

KINDS = {
    "explanation": "Explanations",
    "relevance": "Relevance to a task",
    "detection": "Can you tell what fires?",
    "sample": "Kept samples",
}
WHICH = {"gaps": "The gaps of a dataset", "explained": "Every explained feature"}


def explain_offer(anchor: str, features: list[int]) -> None:
    """How features get explanations: from their tokens at once, or by a language model."""
    live = stores().queue.live()
    if any(job.step == ExplainSpec.step and job.spec["measure"] == anchor for job in live):
        words = "Explanations are on their way; see the strip at the left."
        st.caption(f":material/hourglass_top: {words}")
        return
    with st.container(border=True):
        st.markdown("**From their tokens**")
        st.caption("Which words a feature peaks on, and near which. No model, no key, no cost.")
        tie = needing("launch", type="primary", icon=":material/format_quote:")
        if st.button("Explain by tokens", **tie):
            start(ExplainSpec(measure=anchor), "Explaining every feature by its tokens")
            st.rerun()
    with st.container(border=True):
        st.markdown("**By a language model**")
        explain_form(anchor, features)


@st.fragment
@guard()
def explain_form(anchor: str, features: list[int]) -> None:
    """Asks for explanations by a language model, scored on held-out texts, once it was said what
    that may take; of the gaps unless somebody wants all."""
    server = server_fields("explain")
    chosen = pickers.pick_asked(features)
    listed = ", ".join(model_scores()).capitalize()
    scored = st.toggle("Score them on held-out texts", value=True, help=f"{listed}.")
    about = st.container()  # above the button
    pressed = st.button("Explain", icon=":material/smart_toy:", **needing("launch"))
    if not server["model"] and not pressed:
        about.caption("Name a model to see what it may take.")
        return
    spec = ExplainSpec(
        measure=anchor,
        features=chosen,
        explainer="llm",
        **server,
        scores=model_scores() if scored else (),
    )
    about.caption(asking_words(spec))
    if pressed:
        start(spec, "Asking the model for explanations")
        st.rerun()


@st.fragment
@guard()
def show_queue(queue: ItemQueue, link: dict[str, str]) -> None:
    """The item on top; a key press draws this and nothing else."""
    if queue.trouble:
        st.error(plain(queue.trouble), icon=":material/error:")
    item = queue.top
    if item is None:
        show_end(queue)
        return
    show_item(queue, item, link)
    queue.in_view()


def show_end(queue: ItemQueue) -> None:
    """Nothing is left, or there was nothing."""
    if queue.total:
        words = f"You decided on {len(queue.decisions):,}. See how far people agree."
        way = {"icon": ":material/task_alt:", "page": "agreement", "link": "Agreement"}
        empty("All reviewed", words, **way)
        undo_last_button(queue)
    else:
        words = (
            "None of these features has what this needs. Choose every explained feature instead, "
            "or have more of them explained."
        )
        empty("Nothing to review here", words, icon=":material/filter_alt_off:")


def ask_who() -> None:
    """Nobody is known yet, so nothing can be decided."""
    if signs_in():
        words = "What features are said to be, and with which score, stands on the page Features."
        way = {"icon": ":material/visibility:", "page": "features", "link": "Features"}
        empty("You may look", words, **way)
        return
    words = (
        "Choose or type your name above. Decisions are kept under it, and nobody sees another's "
        "before deciding."
    )
    empty("Who is reviewing?", words, icon=":material/person:")


# --- samples that a synthesis kept


def show_samples(who: str | None, row: DeltaGenerator) -> None:
    """The kept samples of a synthesis, one at a time."""
    manifests = results.syntheses(stores())
    if not manifests:
        words = (
            "Samples are written from pairs that people approved; what is kept is looked at here."
        )
        way = {"icon": ":material/science:", "page": "synthesis", "link": "Synthesis"}
        empty("Nothing is synthesized yet", words, **way)
        return
    newest = next(iter(manifests))
    linked = st.query_params.get("synthesis", newest)
    if linked not in manifests:
        words = (
            f"No finished synthesis here is called {plain(linked)}; these are the newest samples."
        )
        st.warning(words, icon=":material/search_off:")
        set_param("synthesis", None)
    with row:
        run = pick_synthesis(manifests, newest)
    show_failures("retouch")
    if who is None:
        ask_who()
        return
    show_sample_queue(run, who)
    if st.session_state["sample queue"].edits:
        await_edits()


def pick_synthesis(manifests: dict[str, SynthesisManifest], newest: str) -> str:
    """Whose kept samples are looked at."""
    titles = {run: results.synthesis_title(each) for run, each in manifests.items()}
    tie = param_widget("synthesis", newest, valid=titles.__contains__)
    options = {"format_func": titles.__getitem__, "width": 480, **tie}
    return st.selectbox("Synthesis", [*titles], label_visibility="collapsed", **options)


@st.fragment
@guard()
def show_sample_queue(run: str, who: str) -> None:
    """The sample on top; a key press draws this and nothing else."""
    if before := st.session_state.get("sample queue"):
        before.arrived()  # before the states, which then know the versions that it speaks of
    queue = open_samples((run, who), get_param("item", None))
    if queue.trouble:
        st.error(plain(queue.trouble), icon=":material/error:")
    if queue.top is None:
        show_samples_end(queue)
    else:
        show_sample(queue)
        queue.in_view()


@st.fragment(run_every="1s")
@guard()
def await_edits() -> None:
    """Looks whether an edit has been measured; draws nothing."""
    if st.session_state["sample queue"].arrived():
        st.rerun()


manifests = measured(stores())
with st.container(horizontal=True, vertical_alignment="bottom"):
    title("Review", width="stretch")
    pickers.stop_if_nothing_measured(manifests)
    more = st.container(width="content")
    who = reviewer()

row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
with row:
    kind = choice("What", tuple(KINDS), "kind", names=KINDS, label_visibility="collapsed")
if kind == "sample":
    show_samples(who, row)
    st.stop()
with row:
    task = pick_task() if kind == "relevance" else ""
    if kind != "detection":
        help = "Hides the explanation until Space, so that you form your own view first."
        st.toggle("Look before you read", key="look first", persist_state="session", help=help)
    with st.popover("Which features", icon=":material/tune:"):
        anchor = pickers.pick_anchor("Explained in", manifests)
        dataset = pickers.pick_dataset("Dataset", manifests, anchor)
        which = choice("Features", tuple(WHICH), "which", names=WHICH)
        every = False
        if kind == "explanation":
            help = "Otherwise the preferred one: a correction, a model's, then the tokens'."
            tie = param_widget("every", False, read="True".__eq__)
            every = st.toggle("Every explanation of a feature", help=help, **tie)
        comparison = pickers.comparison_in_url(anchor, dataset)
        if which == "gaps":
            st.caption(pickers.gaps_in_words(comparison))

explain_runs = explained(stores(), anchor)
lacking = gap_features(stores(), comparison) if dataset != anchor else []
features = {*lacking} if which == "gaps" and dataset != anchor else None
if explain_runs:
    with more.popover("Explain more", icon=":material/add:"):
        explain_offer(anchor, lacking)
names = titles(manifests)
if not explain_runs:
    called = plain(names[anchor])
    words = f"A feature of {called} is a number until something says what it fires on."
    empty("Nothing is explained yet", words, icon=":material/rate_review:")
    explain_offer(anchor, lacking)
    show_failures("explain")
    st.stop()
show_failures("explain")
if who is None:
    ask_who()
    st.stop()


def session_queue(who: str, first: str | None) -> ItemQueue:
    """The queue of this session, laid out anew where the settings changed. `first` is the hash of
    an item that a link asks for: it comes to the top, decided or not."""
    queue: ItemQueue | None = st.session_state.get("review queue")
    setting = (who, kind, anchor, task, every, frozenset(features or ()), which, *explain_runs)
    if queue is None or queue.setting != setting:
        items = items_of(stores(), kind, anchor, features, task=task, every=every)
        queue = item_queue(stores(), setting, who, kind, items, lambda: set_param("item", None))
        st.session_state["review queue"] = queue
    in_view = queue.top is not None and digest(queue.top.content) == first
    if first and not in_view and not queue.bring_up_linked(first):
        set_param("item", None)
    return queue


link = {"kind": kind, "anchor": names[anchor], "dataset": names[dataset], "which": which}
link |= pickers.url_of(comparison) if which == "gaps" else {}
link |= {"task": task} if task else {}
link |= {"every": "True"} if every else {}
show_queue(session_queue(who, get_param("item", None)), link)
