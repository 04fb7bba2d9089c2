"""A synthesis on its page: from which pairs, as it will be asked, what it takes; then what came of
it, text by text, and how it leaves as a dataset.

Only what people approved is ever named in a spec, and the step checks it again; this page can show
what the others would be asked, never ask it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from fac import review, synthesis
from fac.config import METHODS, SynthesizeSpec, read_spec
from fac.errors import InputError
from fac.store.queue import Job
from fac.synthesis import Forecast
from fac.ui.findings import is_synthetic, pair_states
from fac.ui.jobs import save_upload, start
from fac.ui.meaning import headline
from fac.ui.pairs import STATE_NAMES, gap_rows
from fac.ui.stores import cache, decisions, queue, runs
from fac.ui.text import Row, plain
from fac.ui.views import param_widget, set_param
from fac.ui.writing import Asked, by_style, duration, lacks_model, writer_fields

# --- from what --------------------------------------------------------------------------------


def approved_pairs(run: str) -> list[Row]:
    """What people approved of a run of pairs, as it is now: all that may be written from."""
    return review.approved_pairs(decisions(), runs(), run)


def pick_pairs(found: Mapping[str, str], **options: Any) -> str:
    """Which run of pairs, of those with these titles; by default the newest that somebody approved
    something of."""
    asked = st.query_params.get("pairs")
    ready = (run for run in found if approved_pairs(run))
    default = asked if asked in found else next(ready, next(iter(found)))
    return st.selectbox(
        "Pairs",
        list(found),
        format_func=found.__getitem__,
        **param_widget("pairs", default, valid=found.__contains__),
        **options,
    )


def syntheses(pairs: str = "") -> dict[str, Row]:
    """Manifests of finished syntheses that can be shown, by run id, newest first; with `pairs` of
    that run alone."""
    shown = cache()
    return {
        run["run"]: run
        for run in runs().list("synthetic")
        if pairs in ("", run["spec"]["pairs"]) and shown.ready(run["run"])
    }


def synthesis_behind(dataset: str) -> str | None:
    """The synthesis that a dataset run was kept from, where it can be shown."""
    if not is_synthetic(dataset):
        return None
    source = str(runs().manifest(dataset)["facts"]["source"])
    return source if cache().ready(source) else None


def made_for(measured: Row, dataset: str) -> bool:
    """Whether what a measure measured was synthesized for the gaps of that measured dataset."""
    made = synthesis_behind(measured["facts"]["dataset"])
    return made is not None and runs().manifest(made)["facts"]["dataset"] == dataset


def last_synthesis(dataset: str) -> Row | None:
    """The newest synthesis for gaps of a measured dataset."""
    return next((run for run in syntheses().values() if run["facts"]["dataset"] == dataset), None)


def synthesis_title(run: Row) -> str:
    """What a synthesis is called."""
    facts, piece = run["facts"], run["run"].rsplit("-", 1)[1][:6]
    kept = f"{facts['kept']:,} of {facts['n_candidates']:,} kept"
    return f"{facts['name']} · {facts['method']} · {kept} · {piece}"


def open_result(run: str) -> None:
    """Shows a finished synthesis from the next run of the page on."""
    set_param("synthesis", run)
    for name in ("candidate", "reason"):
        set_param(name, None)


def open_launch(pairs: str | None = None) -> None:
    """Shows the form from the next run of the page on."""
    set_param("synthesis", None)
    if pairs:
        set_param("pairs", pairs)


# --- what will be asked -----------------------------------------------------------------------


def launch_fields(run: str, approved: Sequence[Row]) -> SynthesizeSpec:
    """Draws the settings of a synthesis from these pairs, as they were for the pairs until somebody
    changes them. Raises InputError for settings that cannot be."""
    before = runs().manifest(run)["spec"]
    name = f"synthesis {run}"
    chosen = writer_fields(name, before)
    if lacks_model(chosen):
        st.stop()

    def tie(field: str) -> Row:
        return {"key": f"{name}.{field}", "persist_state": "session"}

    one, two, _, _ = st.columns(4)
    chosen["keep"] = one.number_input(
        "Kept per gap",
        1,
        64,
        value=1,
        help="The strongest of those that pass.",
        **tie("keep"),
    )
    chosen["threshold"] = two.number_input(
        "Threshold",
        0.0,
        None,
        value=float(before.get("threshold", 0.0)),
        step=0.5,
        help="A text passes when its gap's peak is strictly above.",
        **tie("threshold"),
    )
    with st.container(horizontal=True):
        with st.popover("Evaluation files", icon=":material/fact_check:"):
            evaluation = _evaluation_files(tie)
        with st.popover("Method and more", icon=":material/tune:"):
            chosen["method"] = st.selectbox(
                "Method",
                [*METHODS],
                format_func=lambda name: METHODS[name].title,
                help="Baselines write for the same gaps, to see what the pairs are worth.",
                **tie("method"),
            )
            chosen["only_needed"] = st.toggle(
                "Only samples that add a gap",
                help="Drops a sample whose gaps the others kept cover anyway.",
                **tie("only_needed"),
            )
            chosen["attempt"] = st.number_input(
                "Attempt",
                0,
                1000,
                value=0,
                help="The same settings find the same texts again; another number writes anew.",
                **tie("attempt"),
            )
    if evaluation:
        shown = plain(", ".join(Path(path).name for path in evaluation))
        st.caption(f":material/fact_check: No kept sample may overlap with {shown}.")
    return SynthesizeSpec(
        pairs=run,
        approved=tuple(row["pair"] for row in approved),
        evaluation=tuple(evaluation),
        **chosen,
    )


def _evaluation_files(tie: Any) -> list[str]:
    """Files that no sample may overlap with: uploaded ones and paths on the server."""
    st.caption("Samples that share 13 words in a row with one of these are dropped.")
    uploaded = st.file_uploader(
        "From here", accept_multiple_files=True, key=tie("upload")["key"], help="Any dataset file."
    )
    paths = st.multiselect(
        "On the server",
        [],
        accept_new_options=True,
        placeholder="Type a path",
        **tie("evaluation"),
    )
    found = [str(save_upload(file.name, file.getvalue())) for file in uploaded]
    for given in paths:
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"There is no evaluation file {given!r}: give a path on the server.")
        found.append(str(path))
    return list(dict.fromkeys(found))


def requests_of(spec: SynthesizeSpec, approved: Sequence[Row]) -> list[Asked]:
    """Exactly what the writer will be asked for the first gap, each style once."""
    return by_style(synthesis.first_asked(spec, runs=runs(), approved=approved))


# --- what it will take ------------------------------------------------------------------------


def pilot_spec(spec: SynthesizeSpec) -> SynthesizeSpec:
    """The same for a few of its pairs."""
    return replace(spec, approved=synthesis.pilot_pairs(spec.approved))


def finished_synthesis(spec: SynthesizeSpec) -> str | None:
    """The newest run of exactly these settings and pairs that can be shown."""
    wanted = _said(spec)
    for run, manifest in syntheses(spec.pairs).items():
        made = read_spec(SynthesizeSpec.step, manifest["spec"])
        if isinstance(made, SynthesizeSpec) and _said(made) == wanted:
            return run
    return None


def _said(spec: SynthesizeSpec) -> Row:
    """All that decides what a synthesis is; a finished one knows its evaluation files by name."""
    said = {k: v for k, v in spec.as_json().items() if k not in spec.operational}
    named = sorted(Path(path).name for path in spec.evaluation)
    return {**said, "approved": sorted(spec.approved), "evaluation": named}


def forecast(spec: SynthesizeSpec) -> Forecast | None:
    """What a finished pilot of these settings says about all of the pairs."""
    run = finished_synthesis(pilot_spec(spec))
    if run is None:
        return None
    return synthesis.forecast(runs().manifest(run), len(spec.approved))


def live_syntheses(pairs: str) -> list[Job]:
    """Waiting and running syntheses from a run of pairs."""
    return [job for job in queue().live() if _is_of(job, pairs)]


def stopped_synthesis(pairs: str) -> Job | None:
    """The newest synthesis from a run of pairs, where it ended before its end."""
    last = max((j for j in queue().jobs() if _is_of(j, pairs)), key=lambda j: j.id, default=None)
    return last if last and last.status in ("failed", "cancelled") else None


def _is_of(job: Job, pairs: str) -> bool:
    return job.step == SynthesizeSpec.step and job.spec["pairs"] == pairs


def resumed(job: Job, spec: SynthesizeSpec) -> SynthesizeSpec:
    """What a stopped job was asked for, within today's budget and at today's speed."""
    before = read_spec(job.step, job.spec)
    assert isinstance(before, SynthesizeSpec)  # which step it is says the class
    return replace(before, **{name: getattr(spec, name) for name in spec.operational})


def launch_synthesis(spec: SynthesizeSpec, said: str, *, follow: bool = True) -> None:
    """Starts a synthesis; with `follow` its result is opened when it is there."""
    job = start(spec, said)
    if follow:
        st.session_state["synthesis job"] = job


def arrived_synthesis() -> str | None:
    """The run of the synthesis that was launched here and has finished since."""
    number = st.session_state.get("synthesis job")
    if number is None:
        return None
    job = queue().job(number)
    if job.status in ("waiting", "running"):
        return None
    del st.session_state["synthesis job"]
    return job.run_id if job.status == "done" else None


# --- shown ------------------------------------------------------------------------------------


def show_pair_counts(run: str) -> None:
    """Where the pairs of a run stand, and that the rest is not written from."""
    counts = Counter(one.state for one in pair_states(run).values())
    words = [f"{counts[state]:,} {STATE_NAMES[state].lower()}" for state in review.PAIR_STATES]
    st.caption(" · ".join(words) + ". Only what is approved is written from.")


def basis_rows(run: str, approved: Sequence[Row]) -> list[Row]:
    """Approved pairs as the table shows them: with what their gaps are called."""
    anchor = runs().manifest(run)["facts"]["anchor"]
    named = {row["feature"]: row for row in gap_rows(anchor, [row["feature"] for row in approved])}
    return [{**named[row["feature"]], **row} for row in approved]


def pair_headline(run: str, pair: Row) -> str:
    """The number and the name of a pair's gap, as Markdown."""
    return headline(runs().manifest(run)["facts"]["anchor"], pair["feature"])


def show_forecast(found: Forecast, spec: SynthesizeSpec) -> None:
    """What a pilot says: how many texts pass, and what all the pairs will take."""
    n = len(spec.approved)
    with st.container(horizontal=True, gap="small"):
        st.metric(
            "Texts that pass",
            f"{found.rate:.0%}",
            help=f"{found.accepted:,} of the pilot's {found.candidates:,}, 95 % interval "
            f"{found.low:.0%} to {found.high:.0%}.",
        )
        st.metric("Time", duration(found.seconds), help=f"Of writing, for all {n:,} pairs.")
        cost = "unknown" if found.cost is None else f"${found.cost:,.2f}"
        free = spec.writer != "openai"
        st.metric("Cost", "none" if free else cost, help="Give both prices to know it.")
    st.caption(
        f"Between {found.low:.0%} and {found.high:.0%} of the texts pass (95 %); "
        f"{found.hit_rate:.0%} of the pilot's gaps got a sample. For all {n:,} pairs: about "
        f"{found.tokens:,.0f} tokens written and {found.prompt_tokens:,.0f} of prompts"
        + _per_kept_words(found)
        + "."
    )
    due = found.tokens + found.prompt_tokens
    if spec.budget_tokens is not None and due > spec.budget_tokens:
        st.warning(
            f"That is more than the budget of {spec.budget_tokens:,} tokens: the job will stop "
            f"before its end and keep the gaps that are complete.",
            icon=":material/savings:",
        )


def _per_kept_words(found: Forecast) -> str:
    if found.tokens_per_kept is None or found.seconds_per_kept is None:
        return "; the pilot kept nothing, so no price of a kept sample is known"
    words = f"; {found.tokens_per_kept:,.0f} tokens and {duration(found.seconds_per_kept)}"
    if found.cost_per_kept is not None:
        words += f" and ${found.cost_per_kept:,.4f}"
    return f"{words} per kept sample"
