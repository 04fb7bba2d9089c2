"""What is being worked on, what went wrong and why, and whether anybody works."""

from typing import Any

import streamlit as st

from fac import ui

STATES: dict[str, tuple[str, str, Any]] = {
    "waiting": ("waiting", ":material/schedule:", "gray"),
    "running": ("running", ":material/play_arrow:", "blue"),
    "done": ("done", ":material/check:", "green"),
    "failed": ("failed", ":material/error:", "red"),
    "cancelled": ("cancelled", ":material/cancel:", "orange"),
}
SHOWN = 20


def worker_card() -> None:
    worker = ui.queue().worker()
    alive = worker is not None and worker["alive"]
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if worker and alive:
            st.badge("Worker alive", icon=":material/check_circle:", color="green")
            words = f"process {worker['pid']}, seen {worker['seconds_since']:.0f} s ago"
        else:
            st.badge("No worker", icon=":material/power_off:", color="red")
            words = "Jobs wait until one runs."
        st.caption(words, width="stretch")
        st.button(
            "Restart the worker" if alive else "Start a worker",
            icon=":material/restart_alt:",
            on_click=ui.restart_worker,
            help="A running job goes back to the queue and continues from its finished parts.",
        )


def job_card(job: ui.Job) -> None:
    word, icon, colour = STATES[job.status]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(word, icon=icon, color=colour)
            st.markdown(f"**{ui.plain(ui.job_title(job))}**", width="stretch")
            st.caption(ui.job_times(job), width="content")
            if job.status in ("waiting", "running"):
                st.button(
                    "Cancel",
                    key=f"cancel {job.id}",
                    icon=":material/close:",
                    on_click=ui.queue().cancel,
                    args=(job.id,),
                )
            elif job.status in ("failed", "cancelled"):
                st.button(
                    "Retry",
                    key=f"retry {job.id}",
                    icon=":material/refresh:",
                    on_click=ui.retry,
                    args=(job.id,),
                )
        if job.status == "running":
            ui.progress(job)
        if job.error:
            st.markdown(f":red[{ui.plain(job.error)}]")


def queue_now() -> None:
    """The worker and the newest jobs; polls while one is live."""
    worker_card()
    newest = ui.queue().jobs(limit=SHOWN)
    if not newest:
        ui.empty(
            "No jobs yet",
            "Reading and measuring a dataset are jobs, and so is every text of the playground.",
            icon=":material/schedule:",
            page=ui.DATASETS,
            link="Add a dataset",
        )
    for job in newest:
        job_card(job)


ui.title("Jobs")
live = bool(ui.queue().live())
st.fragment(ui.guard()(queue_now), run_every="2s" if live else None)()

if st.toggle("Show the worker's log", key="log"):
    lines = ui.log_tail(80)
    if lines:
        st.code("\n".join(lines), language=None, height=360)
    else:
        st.caption("The log is empty.")
