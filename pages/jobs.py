"""What is being worked on, what went wrong and why, and whether anybody works."""

from datetime import datetime
from typing import Any

import streamlit as st

from fac.markup import code_span
from fac.store.audit import Audit
from fac.store.queue import Job
from fac.ui.access import may, needing, signs_in
from fac.ui.jobs import job_title, lacks_budget, progress, raise_budget, restart_worker, retry
from fac.ui.shell import title
from fac.ui.stores import stores, workspace
from fac.ui.tables import Pager, table
from fac.ui.text import clean, plain
from fac.ui.views import action_button, empty, guard

PAGE = {"title": "Jobs", "section": "System", "icon": "schedule", "order": 100}

STATES: dict[str, tuple[str, Any]] = {
    "waiting": (":material/schedule:", "gray"),
    "running": (":material/play_arrow:", "blue"),
    "done": (":material/check:", "green"),
    "failed": (":material/error:", "red"),
    "cancelled": (":material/cancel:", "orange"),
}
NEWEST = 20
AUDITED = 100

DEED_COLUMNS = {
    "at": st.column_config.TextColumn("When (UTC)", width=190),
    "who": st.column_config.TextColumn("Who", width=200),
    "role": st.column_config.TextColumn("Role", width=90),
    "action": st.column_config.TextColumn("Action", width=90),
    "refused": st.column_config.CheckboxColumn("Refused", width=80),
    "about": st.column_config.TextColumn("What", width="large"),
}


def worker_card() -> None:
    worker = stores().queue.worker()
    alive = worker is not None and worker["alive"]
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if worker and alive:
            st.badge("Worker alive", icon=":material/check_circle:", color="green")
            words = f"process {worker['pid']}, seen {worker['seconds_since']:.0f} s ago"
        else:
            st.badge("No worker", icon=":material/power_off:", color="red")
            words = "Jobs wait until one runs."
        st.caption(words, width="stretch")
        label = "Restart the worker" if alive else "Start a worker"
        help = "A running job goes back to the queue and continues from its finished parts."
        action_button(label, "restart_alt", restart_worker, **needing("worker", help=help))


def job_card(job: Job) -> None:
    icon, colour = STATES[job.status]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(job.status, icon=icon, color=colour)
            st.markdown(f"**{plain(job_title(job))}**", width="stretch")
            asker = f"{code_span(job.asker)} " if job.asker else ""
            st.caption(f"{asker}{times(job)}", width="content")
            if job.status in ("waiting", "running"):
                cancel = stores().queue.cancel
                tie = needing("cancel", key=f"cancel {job.id}", disabled=job.stopping)
                action_button("Cancel", "close", cancel, job.id, **tie)
            elif job.status in ("failed", "cancelled") and not lacks_budget(job):
                tie = needing("launch", key=f"retry {job.id}")
                action_button("Retry", "refresh", retry, job.id, **tie)
        if job.status == "running":
            progress(job)
        if job.error:
            st.markdown(f":red[{plain(job.error)}]")
        if lacks_budget(job) and raise_budget(job):
            st.rerun()


def times(job: Job) -> str:
    """When it was asked for and how long it took."""
    words = datetime.fromtimestamp(job.created).strftime("%d %b %H:%M")
    if job.started and job.finished:
        words += f", took {job.finished - job.started:,.0f} s"
    return words


def log_tail(lines: int) -> list[str]:
    """The last lines of the worker's log."""
    path = workspace().logs / "worker.log"
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64_000))
        text = file.read().decode("utf-8", "replace")
    return [clean(line) for line in text.splitlines()[-lines:]]


def queue_now() -> None:
    """The worker and the newest jobs; polls while one is live."""
    worker_card()
    newest = stores().queue.jobs(limit=NEWEST)
    if not newest:
        empty(
            "No jobs yet",
            "Reading and measuring a dataset are jobs, and so is every text of the playground.",
            icon=":material/schedule:",
            page="datasets",
            link="Add a dataset",
        )
    for job in newest:
        job_card(job)


def show_audit() -> None:
    """Who did what, newest first."""
    log = Audit(workspace().audit)
    pager = Pager("deeds", size=AUDITED)
    deeds = log.newest(pager.size, offset=pager.offset)
    rows = [{**deed._asdict(), "at": deed.at[:19].replace("T", " ")} for deed in deeds]
    table(rows, [*DEED_COLUMNS], key="audit", more=DEED_COLUMNS)
    pager.draw(log.count(), "deed")


title("Jobs")
live = bool(stores().queue.live())
st.fragment(guard()(queue_now), run_every="2s" if live else None)()

if may("worker") and st.toggle("Show the worker's log", key="log"):
    lines = log_tail(80)
    if lines:
        st.code("\n".join(lines), language=None, height=360)
    else:
        st.caption("The log is empty.")

if signs_in() and may("audit") and st.toggle("Show who did what", key="show audit"):
    show_audit()
