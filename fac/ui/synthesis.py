"""Before a synthesis, on its page: from which pairs, with which settings, and what a pilot says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from fac.config import METHODS, WRITERS, SynthesizeSpec
from fac.errors import InputError
from fac.synthesis import Forecast
from fac.ui.jobs import save_upload, start
from fac.ui.stores import stores
from fac.ui.text import Row, plain
from fac.ui.views import set_param
from fac.ui.writing import ATTEMPT_HELP, Form, duration, lacks_model, writer_form


def launch_fields(run: str, approved: Sequence[Row]) -> SynthesizeSpec:
    """Draws the settings of a synthesis from these pairs, as they were for the pairs until somebody
    changes them. Raises InputError for settings that cannot be."""
    before = stores().runs.manifest(run).spec.as_json()
    form = writer_form(f"synthesis {run}", before)
    if lacks_model(form):
        st.stop()
    first, second, _, _ = st.columns(4)
    form.number("keep", first, "Kept per gap", 1, 64, 1, help="The strongest of those that pass.")
    help = "A text passes when its gap's peak is strictly above."
    threshold = form.before("threshold", 0.0)
    form.number("threshold", second, "Threshold", 0.0, None, threshold, help=help, step=0.5)
    with st.container(horizontal=True):
        with st.popover("Evaluation files", icon=":material/fact_check:"):
            evaluation = _evaluation_files(form)
        with st.popover("Method and more", icon=":material/tune:"):
            form.values["method"] = st.selectbox(
                "Method",
                [*METHODS],
                format_func=lambda name: METHODS[name].title,
                help="Baselines write for the same gaps, to see what the pairs are worth.",
                **form.tie("method"),
            )
            form.values["only_needed"] = st.toggle(
                "Only samples that add a gap",
                help="Drops a sample whose gaps the others kept cover anyway.",
                **form.tie("only_needed"),
            )
            form.number("attempt", st, "Attempt", 0, 1000, 0, help=ATTEMPT_HELP)
    if evaluation:
        files = plain(", ".join(Path(path).name for path in evaluation))
        st.caption(f":material/fact_check: No kept sample may overlap with {files}.")
    return SynthesizeSpec(
        pairs=run,
        approved=tuple(row["pair"] for row in approved),
        evaluation=tuple(evaluation),
        **form.values,
    )


def _evaluation_files(form: Form) -> list[str]:
    """Files that no sample may overlap with: uploaded ones and paths on the server."""
    st.caption("Samples that share 13 words in a row with one of these are dropped.")
    uploads = st.file_uploader(
        "From here",
        accept_multiple_files=True,
        key=form.tie("upload")["key"],
        help="Any dataset file.",
    )
    paths = st.multiselect(
        "On the server",
        [],
        accept_new_options=True,
        placeholder="Type a path",
        **form.tie("evaluation"),
    )
    files = [str(save_upload(file.name, file.getvalue())) for file in uploads]
    for name in paths:
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"There is no evaluation file {name!r}: give a path on the server.")
        files.append(str(path))
    return list(dict.fromkeys(files))


def launch_synthesis(spec: SynthesizeSpec, words: str, follow: bool = True) -> None:
    """Starts a synthesis; with `follow` its result is opened when it is there."""
    job = start(spec, words)
    if follow:
        st.session_state["synthesis job"] = job


def open_arrived() -> None:
    """Opens the result of the synthesis that was launched here, once it has finished."""
    number = st.session_state.get("synthesis job")
    if number is None:
        return
    job = stores().queue.job(number)
    if job.status not in ("waiting", "running"):
        del st.session_state["synthesis job"]
    if job.status == "done" and job.run_id:
        open_result(job.run_id)


def open_result(run: str) -> None:
    """Shows a finished synthesis from the next run of the page on."""
    set_param("synthesis", run)
    for name in ("candidate", "reason"):
        set_param(name, None)


def open_launch(pairs: str) -> None:
    """Shows the form from the next run of the page on."""
    set_param("synthesis", None)
    set_param("pairs", pairs)


def show_forecast(forecast: Forecast, spec: SynthesizeSpec) -> None:
    """What a pilot says: how many texts pass, and what all the pairs will take."""
    n = len(spec.approved)
    with st.container(horizontal=True, gap="small"):
        st.metric(
            "Texts that pass",
            f"{forecast.rate:.0%}",
            help=f"{forecast.accepted:,} of the pilot's {forecast.candidates:,}, 95 % interval "
            f"{forecast.low:.0%} to {forecast.high:.0%}.",
        )
        st.metric("Time", duration(forecast.seconds), help=f"Of writing, for all {n:,} pairs.")
        cost = "unknown" if forecast.cost is None else f"${forecast.cost:,.2f}"
        free = not WRITERS[spec.writer].server
        st.metric("Cost", "none" if free else cost, help="Give both prices to know it.")
    st.caption(
        f"Between {forecast.low:.0%} and {forecast.high:.0%} of the texts pass (95 %); "
        f"{forecast.hit_rate:.0%} of the pilot's gaps got a sample. For all {n:,} pairs: about "
        f"{forecast.tokens:,.0f} tokens written and {forecast.prompt_tokens:,.0f} of prompts"
        + _per_kept_words(forecast)
        + "."
    )
    due = forecast.tokens + forecast.prompt_tokens
    if spec.budget_tokens is not None and due > spec.budget_tokens:
        st.warning(
            f"That is more than the budget of {spec.budget_tokens:,} tokens: the job will stop "
            f"before its end and keep the gaps that are complete.",
            icon=":material/savings:",
        )


def _per_kept_words(forecast: Forecast) -> str:
    if forecast.tokens_per_kept is None or forecast.seconds_per_kept is None:
        return "; the pilot kept nothing, so no price of a kept sample is known"
    seconds = duration(forecast.seconds_per_kept)
    words = f"; {forecast.tokens_per_kept:,.0f} tokens and {seconds}"
    if forecast.cost_per_kept is not None:
        words += f" and ${forecast.cost_per_kept:,.4f}"
    return f"{words} per kept sample"
