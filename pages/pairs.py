"""From gaps to contrastive pairs: what to ask for, and every pair decided on by a person."""

from typing import Any

import streamlit as st

from fac import ui
from fac.config import PairsSpec
from fac.review import PAIR_STATES

SOME, MOST = 10, 2000  # gaps that are proposed where nobody chose any, and that may be asked for

COLUMNS = ("feature", "label", "explanation", "n_anchor")


# --- asking for pairs ---------------------------------------------------------------------------


@st.fragment(run_every="1s")
@ui.guard()
def waiting() -> None:
    """The pairs that were asked for, until they are there."""
    job = ui.pairs_awaited()
    if job is None or job.status not in ("waiting", "running"):
        st.rerun()
    ui.show_job(job)


@st.fragment
@ui.guard()
def form(asked: str, anchor: str, dataset: str) -> None:
    """The gaps beside exactly what the writer is asked for the first; who writes; the button."""
    settings = {**ui.gap_settings(), "relevance": ui.look_relevance(anchor)}
    left, right = st.columns(2, gap="medium")
    with left:
        rows = chosen(asked, anchor) if asked != ui.BEST else best(anchor, dataset, settings)
        explained = any(row.get("explanation") for row in rows)
        columns = [name for name in COLUMNS if explained or name != "explanation"]
        ui.table(rows, columns, key="asked", height=300)
    features = tuple(row["feature"] for row in rows)
    st.markdown("**How they are written**")
    fields = ui.writer_fields("pairs", {})
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        fields["margin"] = st.number_input(
            "Margin",
            0.0,
            1000.0,
            value=PairsSpec.margin,
            step=0.5,
            width=130,
            key="pairs.margin",
            persist_state="session",
            help="A positive fires by so much above the threshold, and above its negative.",
        )
        fields["attempt"] = st.number_input(
            "Attempt",
            0,
            1000,
            value=0,
            width=110,
            key="pairs.attempt",
            persist_state="session",
            help="The same settings find the same texts again; another number writes anew.",
        )
        go = st.container(width="content")
        told = st.container(width="stretch")
    if ui.lacks_model(fields):
        return
    spec = ui.pairs_spec(anchor, dataset, features, settings["threshold"], fields)
    shown = ui.requests_for(spec, features[0])
    with right:
        request(anchor, features[0], shown, spec.candidates)
    n = len(features)
    asks = go.button(
        f"Write pairs for {n:,} gap{'s'[: n != 1]}", type="primary", icon=":material/edit_note:"
    )
    words = ui.estimate_words(ui.estimate_pairs(spec, shown), spec.budget_tokens)
    told.caption(words)
    if asks:
        ui.start_pairs(spec)
        st.rerun()


def request(anchor: str, feature: int, shown: list[Any], candidates: int) -> None:
    """What the writer is given for one gap, word for word."""
    st.markdown(f"**What the writer is asked for {ui.headline(anchor, feature)}**")
    if not shown:
        st.caption(
            "The anchor has no example of this gap, so nothing is asked for it and it ends "
            "without a pair."
        )
        return
    names = {one.style: f"{one.name} · {one.texts} of {candidates}" for one in shown}
    style = st.segmented_control(
        "Style",
        list(names),
        default=shown[0].style,
        required=True,
        format_func=names.__getitem__,
        label_visibility="collapsed",
        key=f"style {' '.join(names)}",
    )
    with st.container(height=330, border=True, key="request"):
        ui.show_request(next(one.messages for one in shown if one.style == style))


def chosen(asked: str, anchor: str) -> list[ui.Row]:
    """The gaps of the address."""
    n_features = ui.cache().summary(anchor)["n_features"]
    features = ui.read_features(asked, n_features)
    with st.container(horizontal=True, vertical_alignment="center"):
        n = len(features)
        st.markdown(f"**{n:,} gap{'s'[: n != 1]}, as chosen**", width="stretch")
        st.button(
            "Best supported instead",
            type="tertiary",
            on_click=ui.set_param,
            args=("features", ui.BEST),
        )
    return ui.gap_rows(anchor, features)


def best(anchor: str, dataset: str, settings: dict[str, Any]) -> list[ui.Row]:
    """The best supported gaps, as many as somebody wants."""
    total = ui.coverage(anchor, dataset, **settings).n_missing
    if not total:
        ui.empty(
            "Nothing is missing",
            "The dataset shows every relevant feature of the anchor at these settings.",
            icon=":material/task_alt:",
            page=ui.COVERAGE,
            link="Change the settings",
        )
        st.stop()
    most = min(total, MOST)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.number_input(
            f"Best supported of {total:,} gaps",
            1,
            most,
            min(SOME, most),
            width=210,
            key=f"best {most}",
            help="Those that most samples of the anchor show.",
        )
        words = ui.gap_settings_words(settings, settings["relevance"])
        st.caption(words, width="stretch")
    return ui.best_supported(anchor, dataset, settings, int(n))[0]


def ask(asked: str, found: dict[str, Any]) -> None:
    """Everything about pairs that are not written yet."""
    dataset_column, anchor_column = st.columns(2, gap="medium")
    with anchor_column:
        anchor = ui.pick("Shown by the anchor", "anchor", found, ui.default_anchor(found))
    with dataset_column:
        usual = ui.default_dataset(found, anchor)
        dataset = ui.pick("Missing in", "dataset", found, usual)
    if dataset == anchor or dataset not in ui.comparable(found, anchor):
        st.warning(
            "Choose a dataset other than the anchor, measured with the same model and SAE.",
            icon=":material/link_off:",
        )
        return
    form(asked, anchor, dataset)


# --- deciding -----------------------------------------------------------------------------------


@st.fragment(run_every="1s")
@ui.guard()
def measuring() -> None:
    """Looks whether an edit has been measured; draws nothing."""
    desk: ui.PairDesk = st.session_state["pair desk"]
    if desk.arrived():
        st.rerun()


@st.fragment
@ui.guard()
def work(run: str, who: str | None) -> None:
    """The view, its counts and the pair on the desk; a key press draws this and nothing else."""
    ui.pair_desk()
    states = ui.pair_states(run)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        show = ui.choice("Show", (*PAIR_STATES, "all"), "show", names=ui.state_names(states))
        above = st.number_input(
            "Fires above",
            0.0,
            None,
            step=1.0,
            width=120,
            help="Only pairs whose positive fires more strongly than this.",
            **ui.param_widget("above", 0.0, read=float, valid=lambda value: value >= 0),
        )
        actions = st.container(
            horizontal=True, width="stretch", horizontal_alignment="right", gap="xsmall"
        )
    first = ui.get_param("feature", None, read=int)
    desk = ui.open_pair_desk(run, who, show, above, states, first=first)
    with actions:
        ui.show_approve_all(desk, states, show, above)
    ui.show_progress(desk, states)
    if desk.trouble:
        st.error(ui.plain(desk.trouble), icon=":material/error:")
    if show == "failed":
        ui.show_failed(desk, states)
    elif desk.now is None:
        done(desk)
    else:
        ui.show_pair(desk, states[desk.now])
        desk.in_view()


def done(desk: ui.PairDesk) -> None:
    """Nothing is left in this view, or there was nothing."""
    if desk.total:
        ui.empty(
            "All decided",
            "Nothing is written from a pair that was not approved. What was approved goes on to "
            "the synthesis.",
            icon=":material/task_alt:",
        )
    else:
        ui.empty(
            "Nothing in this view",
            "Choose another view above, or a lower score.",
            icon=":material/filter_alt_off:",
        )
    if desk.acts:
        st.button("Undo the last", shortcut="U", icon=":material/undo:", on_click=desk.undo)


def decide(newest: str, names: dict[str, str], place: Any) -> None:
    """Everything about pairs that are written."""
    with place:
        run = st.selectbox(
            "Pairs",
            list(names),
            format_func=names.__getitem__,
            width=310,
            **ui.param_widget("pairs", newest, valid=names.__contains__),
        )
        who = ui.reviewer()
        ui.link(ui.PAIRS, "Write others", features=ui.BEST)
    if who is None:
        st.info(
            "Choose or type your name above to decide; until then you look.",
            icon=":material/person:",
        )
    work(run, who)
    desk: ui.PairDesk | None = st.session_state.get("pair desk")
    if desk and desk.edits:
        measuring()


with st.container(horizontal=True, vertical_alignment="bottom"):
    ui.title("Pairs", width="stretch")
    found = ui.measured()
    ui.stop_if_nothing_measured(found)
    place = st.container(horizontal=True, width="content", vertical_alignment="bottom")
asked = ui.asked_features()
job = ui.pairs_awaited()
names = ui.pairs_runs()
if job and job.status in ("waiting", "running"):
    waiting()
    st.stop()
if job:
    ui.show_stopped(job)
    left = ui.left_by(job)
    if left:
        ui.link(ui.PAIRS, "Decide on what was complete", pairs=left)
    st.button("Leave it", on_click=ui.forget_pairs_job, type="tertiary")
ui.show_failures("rescore")
asked = ui.get_param("features", "")
if not asked and names:
    newest = next(iter(names))
    given = ui.get_param("pairs", newest)
    if given not in names:
        st.warning(
            f"There are no pairs called {ui.plain(given)} here; these are the newest.",
            icon=":material/link_off:",
        )
    decide(newest, names, place)
else:
    if names:
        with place:
            ui.link(ui.PAIRS, "Pairs there are", pairs=next(iter(names)))
    ask(asked or ui.BEST, found)
