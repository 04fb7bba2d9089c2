"""From approved pairs to samples: launched in view of the prompt and the price, judged by what each
text fires, and out as a dataset in which every row says why it is there."""

from functools import partial

import streamlit as st

from fac import charts, ui
from fac.config import SynthesizeSpec
from fac.synthesis import PILOT

SHOWN = 25
SORTS = {"peak": "Strongest", "feature": "Gap", "tokens": "Longest", "n_hits": "Most gaps"}
RISING = ("feature",)


# --- before -----------------------------------------------------------------------------------


def launch(found: dict[str, str]) -> None:
    """Which pairs, how they are asked for, what that will take, and the two buttons."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        run = ui.pick_pairs(found, width=330)
        ui.link(ui.PAIRS, "Decide on these pairs", pairs=run)
        st.space("stretch")
        ui.past_results()
    approved = ui.approved_pairs(run)
    ui.show_pair_counts(run)
    if live := ui.live_syntheses(run):
        running(run, [job.id for job in live])
    if not approved:
        ui.empty(
            "Nothing is approved yet",
            "Samples are written from approved pairs alone: look at each and press A.",
            icon=":material/approval:",
            page=ui.PAIRS,
            link="Approve pairs",
        )
        st.stop()
    left, right = st.columns([2, 1], gap="medium")
    with left.container(border=True):
        st.markdown("**How the samples are asked for**")
        with ui.guard():
            spec = ui.launch_fields(run, approved)
            with right.container(border=True):
                price(spec, approved)
            if stopped := ui.stopped_synthesis(run):
                again = ui.resumed(stopped, spec)
                ui.show_stopped(stopped, partial(ui.launch_synthesis, again, "Going on"))
            requests(spec, approved)
    basis(run, approved)


@st.fragment(run_every="1s")
@ui.guard()
def running(run: str, jobs: list[int]) -> None:
    """The syntheses under way; the page runs again when one ends."""
    live = ui.live_syntheses(run)
    if [job.id for job in live] != jobs:
        st.rerun()
    for job in live:
        with st.container(border=True, gap="small"):
            ui.show_job(job)


def price(spec: SynthesizeSpec, approved: list[ui.Row]) -> None:
    """What the launch will take, from a pilot of these very settings where there was one."""
    st.markdown("**What it will take**")
    n = len(approved)
    most = n * spec.candidates * spec.max_new_tokens
    st.caption(
        f"{n:,} pairs, {spec.candidates} texts each: at most {most:,} tokens written, prompts come "
        "on top."
    )
    found = ui.forecast(spec)
    if found:
        ui.show_forecast(found, spec)
    done = ui.finished_synthesis(spec)
    if done:
        st.caption(
            ":material/task_alt: Exactly this was synthesized before. Another attempt, under "
            "Method and more, writes anew."
        )
        st.button(
            "See what came out",
            type="primary",
            icon=":material/visibility:",
            on_click=ui.open_result,
            args=(done,),
        )
        return
    with st.container(gap="small"):
        if found is None and n > PILOT:
            st.caption(
                f"A pilot of {PILOT} pairs tells how many texts pass, and what all of them take. "
                "Its texts count: nothing is written twice."
            )
            st.button(
                f"Try {PILOT} pairs first",
                icon=":material/science:",
                on_click=ui.launch_synthesis,
                args=(ui.pilot_spec(spec), "Trying a few pairs"),
                kwargs={"follow": False},
            )
        st.button(
            f"Synthesize from {n:,} approved pair{'' if n == 1 else 's'}",
            type="primary",
            icon=":material/play_arrow:",
            on_click=ui.launch_synthesis,
            args=(spec, f"Synthesizing from {n:,} approved pairs"),
        )


def requests(spec: SynthesizeSpec, approved: list[ui.Row]) -> None:
    """Exactly what the writer is given for the first gap."""
    shown = {one.style: one for one in ui.requests_of(spec, approved)}
    names = {style: f"{style} · {one.texts} of {spec.candidates}" for style, one in shown.items()}
    st.markdown(f"**Exactly what is asked, for {ui.pair_headline(spec.pairs, approved[0])}**")
    style = ui.choice("Style", tuple(shown), "style", names=names, label_visibility="collapsed")
    ui.show_request(shown[style].messages)


def basis(run: str, approved: list[ui.Row]) -> None:
    """The approved pairs, and who approved them."""
    st.subheader("Written from", anchor=False)
    pager = ui.Pager("approved", run)
    rows = ui.basis_rows(run, approved[pager.offset : pager.offset + pager.size])
    columns = ("feature", "label", "positive_peak", "negative_peak", "approver")
    ui.table(rows, columns, key="approved")
    pager.draw(len(approved), "approved pair")


# --- after ------------------------------------------------------------------------------------


def result(manifest: ui.Row) -> None:
    """What came of a synthesis, from the whole to the single text."""
    facts = manifest["facts"]
    figures(facts)
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**What became of every text**")
        st.plotly_chart(
            charts.outcome_bars(facts["kept"], facts["dropped"], ui.look_outcome(facts)),
            key="outcomes",
            on_select=choose_outcome,
            selection_mode="points",
            config=ui.CHART,
            alt="Texts kept and dropped, by reason",
        )
        st.caption("Click a bar to see its texts.")
    with right.container(border=True, height="stretch"):
        st.markdown("**Where more samples stop helping**")
        curve = facts["curve"]
        gaps = len(ui.gaps_of(manifest["run"]))
        if curve:
            st.plotly_chart(charts.marginal_curve(curve, gaps), config=ui.CHART, key="marginal")
            st.caption(
                f"{ui.enough(curve):,} of {len(curve):,} kept samples already cover the "
                f"{curve[-1]:,} gaps that all of them do, of {gaps:,} in these pairs."
            )
        else:
            st.caption("Nothing was kept, so there is no curve.")
    texts(manifest)
    change(manifest)
    cost(facts)
    if facts["kept"]:
        export(manifest)


def figures(facts: ui.Row) -> None:
    """The headline numbers, each with what it means."""
    with st.container(horizontal=True, gap="small"):
        ui.figure("Kept", f"{facts['kept']:,}", f"Of {facts['n_candidates']:,} texts written.")
        ui.figure(
            "Gaps filled",
            f"{facts['gaps_hit']:,} of {facts['gaps']:,}",
            f"Own-feature hit rate {ui.share(facts['hit_rate'])}, 95 % interval "
            f"{ui.share(facts['hit_rate_low'])} to {ui.share(facts['hit_rate_high'])}.",
        )
        before, after = ui.number(facts["fac_before"]), ui.number(facts["fac_after"])
        ui.figure(
            "FAC with them",
            ui.share(after),
            f"It was {ui.share(before)} without. Over all features of the anchor that tell "
            "anything.",
            ui.points(after - before),
        )
        ui.figure(
            "New features",
            f"{facts['features_gained']:,}",
            f"{len(facts['gained_unasked']):,} of them nobody asked for.",
        )
        per = facts["tokens_per_feature"]
        ui.figure(
            "Tokens per new feature",
            "–" if per is None else f"{per:,.0f}",
            f"{facts['tokens']:,} tokens written in {ui.duration(facts['seconds'])}.",
        )


def choose_outcome() -> None:
    chosen = ui.selected_points(st.session_state["outcomes"])
    ui.set_param("reason", chosen[0] if chosen else None)
    ui.set_param("candidate", None)


@st.fragment
@ui.guard()
def texts(manifest: ui.Row) -> None:
    """The texts of one outcome, and one of them token by token with everything that led to it."""
    run, facts = manifest["run"], manifest["facts"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("The texts", anchor=False, width="stretch")
        outcome = ui.pick_outcome(facts)
        search = st.text_input(
            "Search",
            placeholder="Part of a text",
            icon=":material/search:",
            key=f"search of {run}",
            width=190,
        )
        sort = ui.order(SORTS, "texts by", width=150)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        pager = ui.Pager("texts", run, outcome, search, sort, size=SHOWN)
        rows, total = ui.candidates_page(
            run,
            outcome=outcome,
            search=search,
            sort=sort,
            descending=sort not in RISING,
            offset=pager.offset,
            limit=pager.size,
        )
        verdict = ("verdict",) if outcome == ui.ALL else ()
        said = () if ui.blurred() else ("text",)
        columns = ("feature", *verdict, "g", "n_hits", *said)
        ui.table(rows, columns, key="texts", opens="candidate", id_column="candidate", height=560)
        pager.draw(total, "text")
    with right:
        if candidate := ui.chosen_candidate(rows, manifest, outcome):
            with st.container(border=True):
                ui.show_candidate(manifest, candidate)
        else:
            st.caption("No text is like that.")


def change(manifest: ui.Row) -> None:
    """Coverage before and after, measured again if wanted, and what came along unasked."""
    run, facts = manifest["run"], manifest["facts"]
    st.subheader("What changed", anchor=False)
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**FAC before and after**")
        found = ui.remeasured_now(manifest)
        st.plotly_chart(charts.before_after(ui.fac_rows(facts, found)), config=ui.CHART, key="fac")
        asked = facts["features_gained"] - len(facts["gained_unasked"])
        parts = [
            ("asked for, now covered", asked, charts.SHOWN),
            ("came along", len(facts["gained_unasked"]), charts.ALONG),
            ("still missing", facts["n_missing"] - facts["features_gained"], charts.MISSING),
        ]
        st.caption(f"Of the {facts['n_missing']:,} features that were missing:")
        st.plotly_chart(charts.closed_bar(parts), config=ui.CHART, key="closed")
        if facts["kept_dataset"]:
            ui.show_remeasured(manifest, found)
        again(run, facts)
    with right.container(border=True, height="stretch"):
        st.markdown("**New features that nobody asked for**")
        if facts["gained_unasked"]:
            pager = ui.Pager("unasked", run)
            rows, total = ui.unasked_rows(manifest, pager.offset, pager.size)
            name = "explanation" if ui.explained(facts["anchor"]) else "label"
            ui.table(rows, ("feature", name, "n_samples"), key="unasked", height=320)
            pager.draw(total, "feature")
            st.caption("Samples: of the anchor.")
        else:
            st.caption("None: what is kept fires nothing new but its gaps.")


def again(run: str, facts: ui.Row) -> None:
    """The way back to what no kept sample fires."""
    left = ui.remaining(run)
    if not left:
        st.caption(":material/task_alt: Every gap of these pairs is covered.")
        return
    threshold = ui.runs().manifest(facts["pairs"])["spec"]["threshold"]
    ui.link(
        ui.PAIRS,
        f"Again on the {len(left):,} still missing",
        anchor=facts["anchor"],
        dataset=facts["dataset"],
        features=",".join(map(str, left)),
        **({"threshold": f"{threshold:g}"} if threshold else {}),
    )


def cost(facts: ui.Row) -> None:
    """The ledger."""
    st.subheader("What it took", anchor=False)
    columns = ("what", "total", "per_kept", "per_gap", "per_feature")
    ui.table(ui.ledger_rows(facts), columns, key="ledger")


@st.fragment
@ui.guard()
def export(manifest: ui.Row) -> None:
    """Out: as a file to download, or as a folder on the server."""
    st.subheader("Export", anchor=False)
    st.caption(
        "Every row carries its lineage: gap, measured activation, pair, approvals, prompt, writer, "
        "seed, filter. Before it leaves it is read back as a dataset."
    )
    with st.container(border=True):
        forms = ui.forms_of(manifest["facts"]["profile"])
        form = forms[0] if len(forms) == 1 else ui.choice("Columns", tuple(forms), "form")
        ui.show_exports(manifest, form)


ui.title("Synthesis")
if not (found := ui.pairs_runs()) and not ui.syntheses():
    ui.stop_if_nothing_measured(ui.measured())
    ui.empty(
        "No pairs yet",
        "Samples are written from pairs that people approved, and pairs for gaps: choose some.",
        icon=":material/science:",
        page=ui.COVERAGE,
        link="Choose gaps",
    )
    st.stop()
ui.show_failures("measure")
if run := ui.arrived_synthesis():
    ui.open_result(run)
if manifest := ui.shown_result():
    ui.result_header(manifest)
    result(manifest)
else:
    launch(found)
