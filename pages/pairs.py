"""From gaps to contrastive pairs: what to ask for, and every pair decided on by a person."""

from collections.abc import Mapping

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import PairsSpec
from fac.manifest import MeasureManifest
from fac.questions import pairs, results
from fac.questions.catalogue import comparable, measured
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.questions.families import families_run, few_of_each, gap_families, gaps_to_fill
from fac.questions.gap_evidence import gap_counts, gap_features, missing_or_rare
from fac.questions.shape import shape_of
from fac.review import PairState
from fac.store.queue import Job
from fac.ui import views, writing
from fac.ui.access import needing, signs_in
from fac.ui.explanations import headline
from fac.ui.families import families_in_words, offer, pick_families, pick_few
from fac.ui.jobs import counted, show_failures, start
from fac.ui.pairs import STATE_NAMES, open_pairs, pick_pairs, show_pair, show_progress
from fac.ui.pickers import (
    comparison_in_url,
    gaps_in_words,
    pick_anchor,
    pick_dataset,
    stop_if_nothing_measured,
    warn_of_strays,
)
from fac.ui.review import reviewer, undo_last_button
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import table
from fac.ui.text import Row, plain
from fac.ui.views import action_button, get_param, guard, link, set_param

PAGE = {"title": "Pairs", "section": "Make", "icon": "compare", "order": 80}

SOME, MOST = 10, 2000  # gaps that are proposed where nobody chose any, and that may be asked for

BEST = "best"  # in the address in place of features: the most certain gaps, as many as wanted

COLUMNS = ("feature", "name", "n_anchor")


# --- asking for pairs ---------------------------------------------------------------------------


def keep_newer_link() -> None:
    """A link to gaps forgets the run that was decided on, and the other way round."""
    if "pairs" in st.query_params:
        set_param("features", None)
    elif "features" in st.query_params:
        set_param("pairs", None)


def awaited_job() -> Job | None:
    """The newest attempt at the pairs that this session asked for; once they are there they are
    opened instead."""
    number = st.session_state.get("pairs job")
    if number is None:
        return None
    job = pairs.newest_attempt(stores(), number)
    if job.status != "done":
        return job
    forget_job()
    set_param("features", None)
    set_param("pairs", job.run_id)
    return None


def forget_job() -> None:
    """This session no longer waits for pairs."""
    st.session_state.pop("pairs job", None)


@st.fragment(run_every="1s")
@guard()
def show_waiting() -> None:
    """The pairs that were asked for, until they are there."""
    job = awaited_job()
    if job is None or not pairs.is_live(job):
        st.rerun()
    writing.show_job(job)


@st.fragment
@guard()
def show_form(features_text: str, anchor: str, dataset: str) -> None:
    """The gaps beside exactly what the writer is asked for the first; who writes; the button."""
    comparison = comparison_in_url(anchor, dataset)
    left, right = st.columns(2, gap="medium")
    with left:
        best, so_far = features_text == BEST, made_so_far(comparison)
        rows = best_gaps(comparison, so_far) if best else chosen_gaps(features_text, comparison)
        rows = [{**row, "so_far": so_far.get(row["feature"], "")} for row in rows]
        marks = ("so_far",) if any(row["so_far"] for row in rows) else ()
        table(rows, (*COLUMNS, *marks), key="asked", height=300)
        st.caption(gaps_in_words(comparison))
    features = tuple(row["feature"] for row in rows)
    st.markdown("**How they are written**")
    form = writing.writer_form("pairs", {}, shape_of(stores(), comparison.dataset))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        help = "A positive fires by so much above the threshold, and above its negative."
        margin = PairsSpec.margin
        form.number("margin", st, "Margin", 0.0, 1000.0, margin, help=help, step=0.5, width=130)
        take_attempt(form)
        form.number("attempt", st, "Attempt", 0, 1000, 0, help=writing.ATTEMPT_HELP, width=110)
        go = st.container(width="content")
        estimate = st.container(width="stretch")
    if writing.lacks_model(form):
        return
    spec = PairsSpec(
        features=features,
        explanations=tuple(explain_runs(stores().runs, anchor)),
        **pairs.question_fields(stores(), comparison),
        **form.values,
    )
    requests = pairs.pair_requests(stores(), spec, features[0])
    with right:
        show_requests(anchor, features[0], requests, spec.candidates)
    pairs_for = f"pairs for {counted(len(features), 'gap')}"
    tie = needing("launch", type="primary", icon=":material/edit_note:")
    pressed = go.button(f"Write {pairs_for}", **tie)
    estimate.caption(writing.estimate_words(spec, features, requests))
    if pressed:
        st.session_state["pairs job"] = start(spec, f"Writing {pairs_for}")
        st.rerun()


def take_attempt(form: writing.Form) -> None:
    """The attempt that a link asks for goes into its field, where it may be changed."""
    if (linked := st.query_params.get("attempt", "")).isdecimal():
        st.session_state[form.tie("attempt")["key"]] = min(int(linked), 1000)
        del st.query_params["attempt"]


def show_requests(
    anchor: str, feature: int, requests: list[pairs.StyleRequest], candidates: int
) -> None:
    """What the writer is given for one gap, word for word."""
    st.markdown(f"**What the writer is asked for {headline(anchor, feature)}**")
    if not requests:
        why = "The anchor has no example of this gap"
        st.caption(f"{why}, so nothing is asked for it and it ends without a pair.")
        return
    names = {each.style: f"{each.name} · {each.texts} of {candidates}" for each in requests}
    options: Row = {"label_visibility": "collapsed", "key": f"style {' '.join(names)}"}
    options |= {"default": requests[0].style, "format_func": names.__getitem__}
    style = st.segmented_control("Style", [*names], required=True, **options)
    with st.container(height=330, border=True, key="request"):
        writing.show_request(next(each.messages for each in requests if each.style == style))


def chosen_gaps(features_text: str, comparison: Comparison) -> list[Row]:
    """The gaps of the address."""
    n_features = stores().cache.summary(comparison.anchor)["n_features"]
    features = pairs.read_features(features_text, n_features)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{counted(len(features), 'gap')}, as chosen**", width="stretch")
        label = "Most certain instead"
        action_button(label, "", set_param, "features", BEST, type="tertiary")
    return pairs.gap_rows(stores(), comparison, features)


def best_gaps(comparison: Comparison, so_far: Mapping[int, str]) -> list[Row]:
    """The first gaps, certain ones before others, as many as somebody wants; those that have a pair
    or a sample only where they are asked for, too."""
    offered = missing_or_rare(stores(), comparison)
    if not offered:
        words = "The dataset shows every relevant feature of the anchor at these settings."
        way = {"page": "coverage", "link": "Change the settings"}
        views.empty("Nothing is missing", words, icon=":material/task_alt:", **way)
        st.stop()
    families = families_run(stores(), comparison)
    if families:
        offered = of_families(comparison, families, offered)
    else:
        st.caption(offer_words(comparison, len(offered)))
        offer(comparison)
    begun = {feature for feature in offered if so_far.get(feature) in BEGUN}
    if begun:
        n = counted(len(begun), "gap")
        help = "With another attempt, other texts are written for them."
        if not st.toggle(f"Also the {n} with a pair or a sample", key="begun too", help=help):
            offered = [feature for feature in offered if feature not in begun]
    if not offered:
        st.info("Each of them has a pair or a sample already.", icon=":material/task_alt:")
        st.stop()
    most = min(len(offered), MOST)
    help = "Certain ones first, and of these what is expected most."
    options: Row = {"width": 250, "key": f"best {most}", "help": help}
    n_gaps = st.number_input("How many gaps", 1, most, min(SOME, most), **options)
    return pairs.gap_rows(stores(), comparison, offered[: int(n_gaps)])


def of_families(comparison: Comparison, run: str, offered: list[int]) -> list[int]:
    """Of the gaps that are offered, or of those of the families that are chosen instead, as many
    of each family as somebody wants."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rows = gap_families(stores(), comparison, run).rows
        chosen = pick_families(comparison, rows, "Families")
        few = pick_few()
    if chosen:
        offered = gaps_to_fill(stores(), comparison, chosen)
        st.caption(families_in_words(chosen))
    else:
        st.caption(offer_words(comparison, len(offered)))
    if few is None:
        return offered
    standing = few_of_each(stores(), comparison, run, offered, few)
    if n := len(offered) - len(standing):
        which = "the one that stands" if few == 1 else f"the {few:,} that stand"
        st.caption(
            f"{counted(len(standing), 'gap')} of {len(offered):,}; the other {n:,} are left to "
            f"{which} for their family: the samples of the anchor that fire it fire most of the "
            "others. What a kept sample fires counts, whatever it was written for."
        )
    return standing


def offer_words(comparison: Comparison, n: int) -> str:
    """Which gaps these `n` are among all, in the words of the first page."""
    counts, n_gaps = gap_counts(stores(), comparison), len(gap_features(stores(), comparison))
    words = f"None of {counted(n_gaps, 'gap')} is certain. "
    if counts.certain:
        words = f"Certain are {counts.certain:,} of {counted(n_gaps, 'gap')}, "
        words += f"{counts.certain_absent:,} of them absent. "
    if coverage(stores(), comparison).n_missing:
        return words + (
            f"Only what is absent raises coverage, so all {counted(n, 'absent gap')} are offered, "
            "the certain ones first."
        )
    return words + "None is absent at all, so what is too rare is offered, certain gaps first."


KEPT = "sample kept"

# What is said of a gap for which pairs were written, by their state; the last of several counts.
SO_FAR = {
    "failed": "no pair came of it",
    "rejected": "pair rejected",
    "undecided": "pair to decide",
    "approved": "pair approved",
}

BEGUN = (SO_FAR["undecided"], SO_FAR["approved"], KEPT)


def made_so_far(comparison: Comparison) -> dict[int, str]:
    """What was made for gaps of these two datasets before, by gap."""
    sides, runs = (comparison.anchor, comparison.dataset), stores().runs
    states: dict[int, str] = {}
    for manifest in runs.list(PairsSpec.step):
        if (manifest.inputs.anchor, manifest.inputs.dataset) == sides:
            for feature, pair in pairs.pair_states(stores(), manifest.run).items():
                states[feature] = max(states.get(feature, ""), pair.state, key=("", *SO_FAR).index)
    so_far = {feature: SO_FAR[state] for feature, state in states.items()}
    for run, each in results.syntheses(stores()).items():
        if (each.facts.anchor, each.facts.dataset) == sides:
            so_far |= dict.fromkeys(results.covered_gaps(stores(), run), KEPT)
    return so_far


def ask(features_text: str, manifests: Mapping[str, MeasureManifest]) -> None:
    """Everything about pairs that are not written yet."""
    warn_of_strays(manifests)
    left, right = st.columns(2, gap="medium")
    with right:
        anchor = pick_anchor("Shown by the anchor", manifests)
    with left:
        dataset = pick_dataset("Missing in", manifests, anchor)
    if dataset == anchor or dataset not in comparable(manifests, anchor):
        words = "Choose a dataset other than the anchor, measured with the same model and SAE."
        st.warning(words, icon=":material/link_off:")
        return
    show_form(features_text, anchor, dataset)


# --- deciding -----------------------------------------------------------------------------------


@st.fragment(run_every="1s")
@guard()
def await_edits() -> None:
    """Looks whether an edit has been measured; draws nothing."""
    if st.session_state["pair queue"].arrived():
        st.rerun()


@st.fragment
@guard()
def show_queue(run: str, who: str | None) -> None:
    """The view, its counts and the pair on top; a key press draws this and nothing else."""
    if queue := st.session_state.get("pair queue"):
        queue.arrived()  # before the states, which then know the versions that it speaks of
    states = pairs.pair_states(stores(), run)
    counts = pairs.state_counts(states)
    names = {state: f"{words} {counts[state]:,}" for state, words in STATE_NAMES.items()}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        show = views.choice("Show", tuple(STATE_NAMES), "show", names=names)
        help = "Only pairs whose positive fires more strongly than this."
        tie = views.param_widget("above", 0.0, read=float, valid=lambda value: value >= 0)
        above = st.number_input("Fires above", 0.0, None, step=1.0, width=120, help=help, **tie)
        right: Row = {"width": "stretch", "horizontal_alignment": "right", "gap": "xsmall"}
        actions = st.container(horizontal=True, **right)
    setting = (run, who, show, above)
    queue = open_pairs(setting, states, first=get_param("feature", None, read=int))
    with actions:
        show_approve_all(queue, pairs.in_state(states, show, above), above)
    facts = stores().runs.manifest(run).facts
    sides = pairs.origins_in_words(facts).items()
    st.caption("  \n".join(f"**{side}** {plain(words)}" for side, words in sides))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        show_progress(queue)
        if n := counts["approved"]:
            words = f"Synthesize from {counted(n, 'approved pair')}"
            link("synthesis", words, icon=":material/science:", pairs=run)
    if queue.trouble:
        st.error(plain(queue.trouble), icon=":material/error:")
    if show == "failed":
        show_failed(queue, pairs.in_state(states, "failed", 0.0))
    elif queue.top is None:
        show_end(queue)
    else:
        show_pair(queue, states[queue.top])
        queue.in_view()


def show_approve_all(queue: pairs.PairQueue, states: list[PairState], above: float) -> None:
    """Approves what the view holds, less what people settled, without a look at each, after saying
    what that means."""
    unseen = [
        (pair.feature, pair.version.seen)
        for pair in states
        if pair.state == "undecided" and pair.feature not in queue.edits
    ]
    if not unseen or not queue.reviewer:
        return
    n = len(unseen)
    over = f" above {above:g}" if above else ""
    which = f"each firing{over}" if above else "whatever their score"
    with st.popover(f"Approve all {n:,}{over}", icon=":material/done_all:", width="content"):
        st.markdown(
            f"{counted(n, 'pair')} that nobody has settled, {which}, will stand as approved by "
            f"**{plain(queue.reviewer)}**. Undo takes all of it back."
        )
        action_button(f"Approve {n:,} unseen", "", queue.approve_all, unseen, type="primary")


def show_failed(queue: pairs.PairQueue, states: list[PairState]) -> None:
    """The gaps without a pair, and why."""
    if not states:
        st.caption("Every gap of this run has a pair.")
        return
    reasons = {pair.feature: pair.version.row["reason"] for pair in states}
    rows = [
        {"feature": feature, "name": queue.names.get(feature, ""), "reason": reason}
        for feature, reason in sorted(reasons.items())
    ]
    table(rows, ("feature", "name", "reason"), key="failed", height=390)
    view = writing.again_view(pairs.question_of(stores(), queue.run), [*reasons])
    link("pairs", f"Try these {len(rows):,} with other settings", **view)


def show_end(queue: pairs.PairQueue) -> None:
    """Nothing is left in this view, or there was nothing."""
    if queue.total:
        words = (
            "Nothing is written from a pair that was not approved. What was approved goes on to "
            "the synthesis."
        )
        views.empty("All decided", words, icon=":material/task_alt:")
    else:
        words = "Choose another view above, or a lower score."
        views.empty("Nothing in this view", words, icon=":material/filter_alt_off:")
    undo_last_button(queue)


def decide(newest: str, titles: dict[str, str], corner: DeltaGenerator) -> None:
    """Everything about pairs that are written."""
    with corner:
        run = pick_pairs(titles, newest, 310)
        who = reviewer()
        link("pairs", "Write others", features=BEST)
    if who is None and not signs_in():
        words = "Choose or type your name above to decide; until then you look."
        st.info(words, icon=":material/person:")
    show_queue(run, who)
    if st.session_state["pair queue"].edits:
        await_edits()


with st.container(horizontal=True, vertical_alignment="bottom"):
    title("Pairs", width="stretch")
    manifests = measured(stores())
    stop_if_nothing_measured(manifests)
    corner = st.container(horizontal=True, width="content", vertical_alignment="bottom")
keep_newer_link()
job = awaited_job()
titles = pairs.pairs_titles(stores())
if job and pairs.is_live(job):
    show_waiting()
    st.stop()
if job:
    writing.show_stopped(job)
    if left := pairs.left_by(stores(), job):
        link("pairs", "Decide on what was complete", pairs=left)
    st.button("Leave it", on_click=forget_job, type="tertiary")
show_failures("rescore")
features_text = get_param("features", "")
if not features_text and titles:
    newest = next(iter(titles))
    run = get_param("pairs", newest)
    if run not in titles:
        words = f"There are no pairs called {plain(run)} here; these are the newest."
        st.warning(words, icon=":material/link_off:")
    decide(newest, titles, corner)
else:
    if titles:
        with corner:
            link("pairs", "Pairs there are", pairs=next(iter(titles)))
    ask(features_text or BEST, manifests)
