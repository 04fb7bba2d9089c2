"""From approved pairs to samples: launched in view of the prompt and the price, judged by what each
text fires, and out as a dataset in which every row says why it is there."""

import math
from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any

import streamlit as st

from fac import charts
from fac.config import WRITERS, SynthesizeSpec
from fac.generator.chat import public_name
from fac.manifest import SynthesisFacts, SynthesisManifest
from fac.questions import exports, results
from fac.questions.catalogue import measured, titles
from fac.questions.comparison import settings_in_words
from fac.questions.families import families_run, few_of_each, gap_families
from fac.questions.pairs import pair_states, pairs_titles, question_of, state_counts
from fac.questions.samples import looked
from fac.review import PAIR_STATES
from fac.synthesis import PILOT
from fac.ui import views, writing
from fac.ui.access import needing
from fac.ui.bars import parts_html
from fac.ui.explanations import headline
from fac.ui.exports import show_export
from fac.ui.families import pick_families, pick_few
from fac.ui.jobs import counted, show_failures, start
from fac.ui.pairs import STATE_NAMES, pick_pairs
from fac.ui.pickers import stop_if_nothing_measured
from fac.ui.results import outcome_name, show_candidate, show_pilot
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, selected_points, table
from fac.ui.text import Row, clean, plain
from fac.ui.views import CHART, action_button, choice, empty, get_param, guard, link, set_param
from fac.ui.writing import duration

PAGE = {"title": "Synthesis", "section": "Make", "icon": "science", "order": 90}

ROWS = 25
SORTS = {"peak": "Strongest", "feature": "Gap", "tokens": "Longest", "n_hits": "Most gaps"}
RISING = ("feature",)


# --- before -----------------------------------------------------------------------------------


def show_launch(pairs: dict[str, str]) -> None:
    """Which pairs, how they are asked for, what that will take, and the two buttons."""
    if (stray := st.query_params.get("pairs", "")) and stray not in pairs:
        sentence = f"No pairs here are called {plain(stray[:200])}; their run may have been deleted"
        sentence += ", or lie in another workspace. Others are shown."
        st.warning(sentence, icon=":material/search_off:")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        linked = st.query_params.get("pairs", "")
        ready = (run for run in pairs if results.approved_pairs(stores(), run))
        default = linked if linked in pairs else next(ready, next(iter(pairs)))
        run = pick_pairs(pairs, default, 330)
        link("pairs", "Decide on these pairs", pairs=run)
        st.space("stretch")
        if manifests := results.syntheses(stores()):
            pick_result("Finished syntheses", manifests, None)
    approved = results.approved_pairs(stores(), run)
    counts = state_counts(pair_states(stores(), run))
    words = [f"{counts[state]:,} {STATE_NAMES[state].lower()}" for state in PAIR_STATES]
    st.caption(" · ".join(words) + ". Only what is approved is written from.")
    question = settings_in_words(question_of(stores(), run))
    st.caption(plain(f"The gaps: {question}. What is kept is judged by the same question."))
    if live := results.live_syntheses(stores(), run):
        show_running(run, [job.id for job in live])
    if not approved:
        rule = "Samples are written from approved pairs alone: look at each and press A."
        way = {"icon": ":material/approval:", "page": "pairs", "link": "Approve pairs"}
        empty("Nothing is approved yet", rule, **way)
        st.stop()
    approved = of_families(run, approved)
    left, right = st.columns([2, 1], gap="medium")
    pilot_room, request_room = st.container(), st.container()
    with left.container(border=True):
        st.markdown("**How the samples are asked for**")
        with guard():
            spec = writing.launch_fields(run, approved)
            with right.container(border=True):
                show_price(spec, approved)
            if stopped := results.stopped_synthesis(stores(), run):
                again = results.resumed(stopped, spec)
                writing.show_stopped(stopped, partial(writing.launch_synthesis, again, "Going on"))
            if pilot := results.forecast(stores(), spec):
                with pilot_room:
                    show_pilot(pilot.run)
            with request_room.container(border=True):
                show_requests(spec, approved)
    show_basis(run, approved)


def of_families(run: str, approved: list[Row]) -> list[Row]:
    """The approved pairs of the families that are chosen, and of each as many as somebody wants;
    all of them where the anchor's features are not grouped."""
    question, gaps = question_of(stores(), run), [row["feature"] for row in approved]
    families = families_run(stores(), question)
    if not families:
        return approved
    rows = gap_families(stores(), question, families).rows
    with_pair = [row for row in rows if not {*gaps}.isdisjoint(row["features"])]
    if not with_pair:
        return approved
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = pick_families(question, with_pair, "Only pairs of these families")
        few = pick_few()
    if chosen:
        members = {feature for row in chosen for feature in row["features"]}
        gaps = [gap for gap in gaps if gap in members]
    if few is not None:
        gaps = few_of_each(stores(), question, families, gaps, few)
    if len(gaps) < len(approved):
        pairs_ = counted(len(approved), "approved pair")
        st.caption(f"{len(gaps):,} of {pairs_} are written from; the others wait.")
    return [row for row in approved if row["feature"] in {*gaps}]


def pick_result(label: str, manifests: Mapping[str, SynthesisManifest], run: str | None) -> None:
    """A finished synthesis to open; `run` is the one in view."""
    key = f"result {run}"
    options: Row = {"key": key, "on_change": lambda: writing.open_result(st.session_state[key])}
    options |= {"width": 420 if run else 300, "placeholder": "Look at what came out"}
    options |= {"format_func": lambda each: results.synthesis_title(manifests[each])}
    index = None if run is None else [*manifests].index(run)
    st.selectbox(label, [*manifests], index, **options)


@st.fragment(run_every="1s")
@guard()
def show_running(run: str, jobs: list[int]) -> None:
    """The syntheses under way; the page runs again when one ends."""
    live = results.live_syntheses(stores(), run)
    if [job.id for job in live] != jobs:
        st.rerun()
    for job in live:
        with st.container(border=True, gap="small"):
            writing.show_job(job)


def show_price(spec: SynthesizeSpec, approved: list[Row]) -> None:
    """What the launch will take, from a pilot of these very settings where there was one."""
    st.markdown("**What it will take**")
    n, gaps = len(approved), [row["feature"] for row in approved]
    requests = results.launch_requests(stores(), spec, approved)
    words = writing.estimate_words(spec, gaps, requests)
    st.caption(f"{counted(n, 'pair')}, {spec.candidates} texts each: {words}")
    if pilot := results.forecast(stores(), spec):
        writing.show_forecast(pilot, spec)
        st.caption("Its texts stand below the form, each with what became of it.")
    if done := results.finished_synthesis(stores(), spec):
        st.caption(
            ":material/task_alt: Exactly this was synthesized before. Another attempt, under "
            "Method and more, writes anew."
        )
        show = writing.open_result
        action_button("See what came out", "visibility", show, done, type="primary")
        return
    launch = writing.launch_synthesis
    with st.container(gap="small"):
        if pilot is None and n > PILOT:
            st.caption(
                f"A pilot of {PILOT} pairs shows its texts, how many pass, and what all of them "
                "take. Nothing is written twice."
            )
            label, trial = f"Try {PILOT} pairs first", results.pilot_spec(spec)
            call = (launch, trial, "Trying a few pairs", False)
            action_button(label, "science", *call, **needing("launch"))
        elif pilot is None:
            st.caption(f"A pilot tries {PILOT} pairs first; here that would be all there are.")
        label = f"Synthesize from {counted(n, 'approved pair')}"
        words = f"Synthesizing from {n:,} approved pairs"
        tie = needing("launch", type="primary")
        action_button(label, "play_arrow", launch, spec, words, **tie)


def show_requests(spec: SynthesizeSpec, approved: list[Row]) -> None:
    """Exactly what the writer is given for the first gap."""
    styles = {each.style: each for each in results.launch_requests(stores(), spec, approved)}
    names = {style: f"{style} · {m.texts} of {spec.candidates}" for style, m in styles.items()}
    anchor = stores().runs.manifest(spec.pairs).facts.anchor
    st.markdown(f"**Exactly what is asked, for {headline(anchor, approved[0]['feature'])}**")
    style = choice("Style", tuple(styles), "style", names=names, label_visibility="collapsed")
    writing.show_request(styles[style].messages)


def show_basis(run: str, approved: list[Row]) -> None:
    """The approved pairs, and who approved them."""
    st.subheader("Written from", anchor=False)
    pager = Pager("approved", run)
    rows = results.basis_rows(stores(), run, approved[pager.offset : pager.offset + pager.size])
    columns = ("feature", "name", "positive_peak", "negative_peak", "approver")
    table(rows, columns, key="approved")
    pager.draw(len(approved), "approved pair")


# --- after ------------------------------------------------------------------------------------


def linked_result() -> SynthesisManifest | None:
    """The finished synthesis that the address asks for, else the one looked at last; None where
    a launch is asked for instead."""
    params = st.query_params
    if "pairs" in params and "synthesis" not in params:
        set_param("synthesis", None)
    linked = params.get("synthesis")
    manifests = results.syntheses(stores(), pilots=True)
    run = get_param("synthesis", "", valid=manifests.__contains__)
    if run:
        if "pairs" in params:
            del params["pairs"]
        return manifests[run]
    if linked:
        words = f"No finished synthesis here is called {plain(linked)}"
        words += "; its run may have been deleted, or lie in another workspace."
        st.warning(words, icon=":material/search_off:")
        set_param("synthesis", None)
    return None


def show_header(manifest: SynthesisManifest) -> None:
    """Which result this is, the others, and the ways back."""
    spec, facts = manifest.spec, manifest.facts
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        others = results.syntheses(stores())
        pick_result("Result", {manifest.run: manifest} | others, manifest.run)
        action_button("New synthesis", "add", writing.open_launch, spec.pairs)
        link("pairs", "Its pairs", pairs=spec.pairs)
    by = f", approved by {', '.join(facts.approvers)}" if facts.approvers else ""
    writer = public_name(spec.model if WRITERS[spec.writer].server else facts.writer or "")
    words = f"{facts.method} for {facts.gaps:,} gaps of {facts.name}{by}; written by {writer}, "
    words += f"{spec.candidates} texts a gap, best {spec.keep} kept. Coverage throughout: "
    question = results.question_of(stores(), manifest)
    since = results.relevance_since(stores(), question)
    st.caption(plain(f"{words}{settings_in_words(question)}. {since}"))


def show_result(manifest: SynthesisManifest) -> None:
    """What came of a synthesis, from the whole to the single text."""
    facts = manifest.facts
    show_header(manifest)
    st.html(f'<p class="fac-lead">{escape(results.ending(facts))}</p>')
    if facts.kept:
        counts = results.reach(stores(), manifest).words()
        rare = results.rare_words(stores(), manifest, measured(stores()))
        st.caption(plain(f"{counts} {rare}".strip()))
        if revision := exports.revision(stores(), manifest.run):
            st.info(plain(revision.words()), icon=":material/rate_review:")
    show_figures(manifest)
    for sentence in results.checks(facts):
        st.caption(plain(sentence))
    if manifest.spec.pilot:
        st.info(
            "A pilot: its texts are in no list of datasets and do not leave. What is launched from "
            "these pairs writes none of them again.",
            icon=":material/science:",
        )
    elif facts.kept:
        show_next(manifest)
    left, right = st.columns([2, 3], gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**What became of every text**")
        dropped, words = dict(facts.dropped), outcome_name
        figure = charts.outcome_bars(facts.kept, dropped, linked_outcome(facts), words=words)
        options: Row = {"config": CHART, "alt": "Texts kept and dropped, by reason"}
        options |= {"on_select": choose_outcome, "selection_mode": "points"}
        st.plotly_chart(figure, key="outcomes", **options)
        st.caption("Click a bar to see its texts.")
    with right.container(border=True, height="stretch"):
        show_tried(manifest)
    show_texts(manifest)
    show_change(manifest)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.subheader("What it took", anchor=False)
        columns = ("what", "total", "per_kept", "per_gap", "per_feature")
        table(results.ledger_rows(facts), columns, key="ledger")
    if curve := list(facts.curve):
        with right:
            st.subheader("Where more samples stop helping", anchor=False)
            gaps = len(results.gaps_of(stores(), manifest.run))
            st.plotly_chart(charts.marginal_curve(curve, gaps), config=CHART, key="marginal")
            needed = 1 + curve.index(curve[-1])
            st.caption(
                f"{needed:,} of {len(curve):,} kept samples already cover the {curve[-1]:,} gaps "
                f"that all of them do, of {gaps:,} in these pairs."
            )
    if facts.kept and not manifest.spec.pilot:
        show_export(manifest)


def show_figures(manifest: SynthesisManifest) -> None:
    """The headline numbers, each with what it means; own words first."""
    facts = manifest.facts
    before, after = fac_value(facts.fac_before), fac_value(facts.fac_after)
    question = settings_in_words(results.question_of(stores(), manifest))
    n_any = f"{facts.any_gaps_hit:,} of {facts.gaps:,} gaps"
    with st.container(horizontal=True, gap="small"):
        rate(
            "Own-words hit rate" if facts.any_hit_rate is not None else "Hit rate",
            (facts.hit_rate, facts.hit_rate_low, facts.hit_rate_high),
            f"{facts.gaps_hit:,} of {facts.gaps:,} gaps have a kept sample: it fires its gap on "
            "words that it shares neither with its pair, its prompt nor the explanation.",
        )
        rate(
            "Fires anywhere",
            (facts.any_hit_rate, facts.any_hit_rate_low, facts.any_hit_rate_high),
            f"{n_any} have a text that passes every other check and fires, in whosever words."
            if facts.any_hit_rate is not None
            else "This run is from before own words were told apart: synthesize again.",
        )
        figure("Kept", f"{facts.kept:,}", f"Of {facts.n_candidates:,} texts written.")
        scope = (
            f"It was {views.share(before)} without. Of {facts.n_anchor:,} features of the anchor"
        )
        change = views.points(after - before)
        figure("FAC with them", views.share(after), f"{scope}, {plain(question)}.", change)
        unasked = f"{len(facts.gained_unasked):,} of them nobody asked for."
        figure("New features", f"{facts.features_gained:,}", unasked)
        per = facts.tokens_per_gap
        spent = f"{facts.tokens:,} tokens written in {duration(facts.seconds)}; those of the pairs "
        spent += f"count too, the {facts.prompt_tokens:,} of prompts do not."
        value = "–" if per is None else f"{per:,.0f}"
        figure("Tokens per new gap", value, spent, "without prompts", **views.AS_NOTE)


def figure(label: str, value: str, meaning: str, change: str | None = None, **options: Any) -> None:
    """A figure with what it means and, if any, the change, or a note in its place."""
    st.metric(label, value, change, help=meaning, border=True, height="stretch", **options)


def rate(label: str, ends: tuple[float | None, float | None, float | None], help: str) -> None:
    """A share of the gaps with its interval in view."""
    value, low, high = (fac_value(end) for end in ends)
    interval = None if low != low else f"{100 * low:.0f} to {100 * high:.0f} %"
    options: Row = {**views.AS_NOTE, "help": help, "border": True}
    options["delta_description"] = None if low != low else "95 % interval"
    st.metric(label, views.share(value), interval, height="stretch", **options)


def show_next(manifest: SynthesisManifest) -> None:
    """What to do with what is kept: look through it, then take it along."""
    seen = looked(stores(), manifest.run)
    kept = counted(manifest.facts.kept, "kept sample")
    words = "One at a time, by keyboard; what you drop does not leave. Then export below."
    if seen.looked:
        words = f"{seen.looked:,} looked at: {seen.kept:,} to keep. The export below follows that."
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="next"):
        st.markdown("**Next**", width="content")
        view = {"kind": "sample", "synthesis": manifest.run}
        link("review", f"**Look through the {kept}**", icon=":material/rate_review:", **view)
        st.caption(words)


def show_tried(manifest: SynthesisManifest) -> None:
    """The gaps that gave nothing, and what was tried for each."""
    facts = manifest.facts
    lack = facts.gaps - facts.gaps_hit
    st.markdown(f"**Gaps that gave nothing: {lack:,} of {facts.gaps:,}**")
    if lack and not facts.tried:
        st.caption("This run does not list what was tried for them.")
    elif lack:
        standing = results.reach(stores(), manifest)
        n, missing = len(standing.along), len(standing.missing)
        st.caption(
            f"{n or 'None'} of them {'is' if n < 2 else 'are'} covered all the same, by samples of "
            f"other gaps; {missing or 'none'} {'is' if missing == 1 else 'are'} still missing."
        )
        pager = Pager("tried", manifest.run)
        rows = results.tried_rows(stores(), manifest)
        rows = [{**row, "g": row["peak"], "outcome": outcome_name(row["reason"])} for row in rows]
        columns = ("feature", "name", "along", "outcome", "own_peak", "g", "texts")
        table(rows[pager.offset :][: pager.size], columns, key="tried", height=300)
        pager.draw(len(rows), "gap")
    link_remaining(manifest)


def fac_value(value: float | None) -> float:
    """What JSON has no word for is NaN again."""
    return math.nan if value is None else value


def linked_outcome(facts: SynthesisFacts) -> str | None:
    """The outcome that somebody asked for; None for the usual one."""
    return get_param("reason", None, valid=results.outcomes(facts).__contains__)


def choose_outcome() -> None:
    chosen = selected_points(st.session_state["outcomes"])
    set_param("reason", chosen[0] if chosen else None)
    set_param("candidate", None)


@st.fragment
@guard()
def show_texts(manifest: SynthesisManifest) -> None:
    """The texts of one outcome, and one of them token by token with everything that led to it."""
    run, counts = manifest.run, results.outcomes(manifest.facts)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("The texts", anchor=False, width="stretch")
        options = views.param_widget("reason", next(iter(counts)), valid=counts.__contains__)
        names = {each: f"{outcome_name(each)} · {n:,}" for each, n in counts.items()}
        options |= {"format_func": names.__getitem__, "width": 250}
        outcome = st.selectbox("Outcome", [*counts], **options)
        options = {"placeholder": "Part of a text", "icon": ":material/search:", "width": 190}
        search = st.text_input("Search", key=f"search of {run}", **options)
        sort = views.order(SORTS, "texts by", width=150)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        pager = Pager("texts", run, outcome, search, sort, size=ROWS)
        listing = {"search": search, "sort": sort, "descending": sort not in RISING}
        listing |= {"offset": pager.offset, "limit": pager.size}
        rows, total = results.candidates_page(stores(), run, outcome=outcome, **listing)
        rows = [
            {**row, "text": clean(row["text"]), "verdict": outcome_name(row["verdict"])}
            for row in rows
        ]
        verdict = ("verdict",) if outcome == results.ALL else ()
        # A table cannot blur its texts, so where texts are to be hidden it has none.
        text = () if st.session_state.get("blur") else ("text",)
        own = ("own_peak",) if manifest.facts.any_hit_rate is not None else ()
        adds = ("n_gains",) if outcome in (results.ALL, results.KEPT) else ()
        columns = ("feature", *verdict, "g", *own, "n_hits", *adds, *text)
        table(rows, columns, key="texts", opens="candidate", id_column="candidate", height=560)
        pager.draw(total, "text")
    with right:
        if candidate := chosen_candidate(rows, manifest, outcome):
            with st.container(border=True):
                show_candidate(manifest, candidate)
        else:
            st.caption("No text is like that.")


def chosen_candidate(rows: list[Row], manifest: SynthesisManifest, outcome: str) -> str | None:
    """The text in view: the one the address names, unless another outcome was asked for since;
    else the first of the list."""
    first = rows[0]["candidate"] if rows else None
    linked = get_param("candidate", first)
    row = stores().cache.candidate(manifest.run, linked) if linked else None
    if row is None:
        return first
    usual = linked_outcome(manifest.facts) is None
    return linked if usual or outcome in (results.ALL, results.outcome_of(row)) else first


def show_change(manifest: SynthesisManifest) -> None:
    """Coverage before and after, measured again if wanted, and what came along unasked."""
    facts = manifest.facts
    gained, unasked = facts.features_gained, len(facts.gained_unasked)
    st.subheader("What changed", anchor=False)
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**FAC before and after**")
        again = results.remeasured(stores(), manifest, measured(stores()))
        bars = [
            ("before", fac_value(facts.fac_before), charts.REST),
            ("with what is kept", fac_value(facts.fac_after), charts.SHOWN),
            *([("measured again", again.together.fac, charts.AGAIN)] if again else []),
            ("with all, unfiltered", fac_value(facts.fac_unfiltered), charts.ALONG),
        ]
        st.plotly_chart(charts.before_after(bars), config=CHART, key="fac")
        parts = [
            ("asked for, now shown", gained - unasked, "fac-shown"),
            ("came along", unasked, "fac-along-with"),
            ("still missing", facts.n_missing - gained, "fac-missed"),
        ]
        st.caption(f"Of the {facts.n_missing:,} features that were missing:")
        st.html(parts_html(parts))
        st.caption(plain(results.rare_words(stores(), manifest, measured(stores()))))
        if facts.kept_dataset and not manifest.spec.pilot:
            show_remeasured(manifest, again)
    with right.container(border=True, height="stretch"):
        show_side_effects(manifest)


def show_side_effects(manifest: SynthesisManifest) -> None:
    """What came along with the gaps: new features, and how the dataset's average moves."""
    facts = manifest.facts
    st.markdown("**Side effects**")
    if facts.drift is not None:
        st.caption(
            f"Mean features of the dataset with and without what is kept: cosine {facts.drift:.6f}"
            " (1 is no drift). What rises most:"
        )
    if facts.risen:
        columns = ("feature", "name", "before", "after", "asked")
        table(results.risen_rows(stores(), facts), columns, key="risen", height=250)
    if facts.gained_unasked:
        st.caption("New features that nobody asked for; samples are the anchor's:")
        pager = Pager("unasked", manifest.run)
        window = {"offset": pager.offset, "limit": pager.size}
        rows, total = results.unasked_rows(stores(), facts, **window)
        table(rows, ("feature", "name", "n_samples"), key="unasked", height=250)
        pager.draw(total, "feature")
    else:
        st.caption("No new feature that nobody asked for: what is kept fires nothing but its gaps.")


def show_remeasured(manifest: SynthesisManifest, again: results.Remeasured | None) -> None:
    """What the second measure confirms and the way to compare; or the button that asks for it."""
    if again:
        right = again.confirmed == again.rows
        of_all = f"Measured again, {again.confirmed:,} of {again.rows:,}"
        words = f"{of_all} rows fire their own gap above the threshold."
        icon = ":material/verified:" if right else ":material/report:"
        (st.success if right else st.warning)(words, icon=icon)
        names, facts = titles(measured(stores())), manifest.facts
        if facts.dataset in names and facts.anchor in names:
            view = writing.question_view(results.question_of(stores(), manifest))
            sides = {"before": names[facts.dataset], "after": names[again.run]}
            link("compare", "Compare with the dataset, feature by feature", **view, **sides)
            sides = {"dataset": names[facts.dataset], "with": names[again.run]}
            link("coverage", "What the two together still lack", **{**view, **sides})
    elif results.remeasuring(stores(), manifest):
        await_measure(manifest.run)
    else:
        help = (
            "As a dataset of its own, with the anchor's model, layer and SAE: an independent check "
            "of every row, and the way to compare feature by feature."
        )
        tie = needing("launch", help=help)
        action_button("Measure what is kept", "speed", start_remeasure, manifest, **tie)


@st.fragment(run_every="1s")
@guard()
def await_measure(run: str) -> None:
    """Says that what was kept is being measured; the page runs again when it is."""
    if not results.remeasuring(stores(), stores().runs.manifest(run)):
        st.rerun()
    st.badge("Being measured", icon=":material/hourglass_top:", color="blue")


def start_remeasure(manifest: SynthesisManifest) -> None:
    start(results.remeasure_spec(stores(), manifest), "Measuring what was kept")


def link_remaining(manifest: SynthesisManifest) -> None:
    """The way back to what no kept sample fires, by the question there was."""
    gaps = results.remaining(stores(), manifest.run)
    if not gaps:
        rare = results.rare_words(stores(), manifest, measured(stores()))
        covered = "Every gap of these pairs is covered."
        st.caption(f":material/task_alt: {covered} {plain(rare)}")
        return
    view = writing.again_view(results.question_of(stores(), manifest), gaps)
    link("pairs", f"Again on the {len(gaps):,} still missing", **view)
    if n := len({*gaps} - {*results.reach(stores(), manifest).missing}):
        st.caption(f"{n:,} of these had no approved pair, so nothing was written for them.")


title("Synthesis")
if not (pairs := pairs_titles(stores())) and not results.syntheses(stores()):
    stop_if_nothing_measured(measured(stores()))
    words = "Samples are written from pairs that people approved, and pairs for gaps: choose some."
    way = {"icon": ":material/science:", "page": "coverage", "link": "Choose gaps"}
    empty("No pairs yet", words, **way)
    st.stop()
show_failures("measure")
writing.open_arrived()
if manifest := linked_result():
    show_result(manifest)
else:
    show_launch(pairs)
