"""Jobs: how they are started, how far they are, why one failed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import streamlit as st

from fac.config import (
    EXPLAINERS,
    DemoSpec,
    IngestSpec,
    MeasureSpec,
    Spec,
    SynthesizeSpec,
    TrainSpec,
    read_spec,
)
from fac.errors import disk_room
from fac.jobs import worker
from fac.markup import counted
from fac.store.processes import scratch
from fac.store.queue import Job
from fac.ui import access
from fac.ui.endpoints import check_endpoint
from fac.ui.stores import stores, workspace
from fac.ui.text import Row, plain
from fac.ui.views import ANNOUNCED, action_button, guard


def job_title(job: Job) -> str:
    """A job in words."""
    spec = job.spec
    match job.step:
        case "dataset":
            return f"Read {spec['name']}"
        case "measure":
            return f"Measure {name_of(spec['dataset'])}"
        case "sae":
            return "Map the dictionary"
        case "probe":
            return "Read a text"
        case "demo":
            return "Set up the demo"
        case "preflight":
            return f"Preflight of {spec['sae']} on {spec['model']}, layer {spec['layer']}"
        case "training":
            return f"Train the SAE {spec['name']} on {name_of(spec['dataset'])}"
        case "fetch":
            return f"Fetch the model {spec['model']}"
        case "explain":
            how = EXPLAINERS[spec["explainer"]].job_title.format(model=spec["model"])
            return f"Explain {name_of(spec['measure'])} {how}"
        case "relevance":
            return f"Judge {name_of(spec['measure'])} for {spec['task']}"
        case "families":
            return f"Group and lay out the features of {name_of(spec['measure'])}"
        case "experiment":
            return f"Experiment {spec['name']} on {name_of(spec['measure'])}"
        case "pairs":
            gaps = counted(len(spec["features"]), "gap")
            return f"Write pairs for {gaps} of {name_of(spec['dataset'])}"
        case "rescore":
            return f"Score an edited pair, #{spec['feature']} of {name_of(spec['pairs'])}"
        case "retouch":
            return f"Score an edited sample of {name_of(spec['synthetic'])}"
        case "synthetic":
            n, method = len(spec["approved"]), spec["method"]
            source = f"from {counted(n, 'approved pair')}" if n else "for every gap"
            baseline = f", {method}" if method != SynthesizeSpec.method else ""
            return f"Synthesize {source} of {name_of(spec['pairs'])}{baseline}"
    return job.step


def name_of(run: str) -> str:
    """Name of the dataset that a run is about; the run's id while it is unknown here."""
    return stores().runs.manifest(run).facts.name if stores().runs.find(run) else run


def start(spec: Spec, announcement: str) -> int:
    """Puts a job into the queue, makes sure that somebody works, and says so. Raises InputError as
    `check_endpoint`, Refused."""
    check_endpoint(spec)
    access.check_spec(spec.as_json())
    job = stores().queue.enqueue(spec)
    st.session_state.setdefault("started", []).append(job)
    worker.start_worker(workspace())
    st.session_state.setdefault(ANNOUNCED, []).append(announcement)
    return job


def saes_being_trained() -> set[str]:
    """Names of the SAEs that live jobs train."""
    live = stores().queue.live()
    return {job.spec["name"] for job in live if job.step == TrainSpec.step}


def lacks_budget(job: Job) -> bool:
    """Whether a budget has stopped a job that goes on where it is raised."""
    return job.status == "failed" and "raise the budget" in (job.error or "")


def raise_budget(job: Job) -> int | None:
    """Draws the budgets of a job that one of them has stopped, twice of what they were, and the
    button that goes on within them; the id of the job that does, once it was pressed."""
    spec = read_spec(job.step, job.spec)
    labels = {"budget_tokens": "Token budget", "budget_usd": "Budget in $"}
    budgets: Row = {}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for field, label in labels.items():
            if before := getattr(spec, field, None):
                lowest, key = type(before)(before), f"{field} {job.id}"
                budgets[field] = st.number_input(
                    label, lowest, None, 2 * before, key=key, width=180
                )
        help = "What was paid for is kept: nothing is asked twice."
        icon, key = ":material/resume:", f"raise {job.id}"
        if st.button("Go on within it", icon=icon, key=key, **access.needing("launch", help=help)):
            raised = read_spec(job.step, job.spec | budgets)
            return start(raised, "Going on with a larger budget")
    return None


def show_failures(*steps: str) -> None:
    """Why jobs that this person started did not work out, until they are dismissed."""
    started = st.session_state.get("started", [])
    started += _followers(started)
    for number in list(started):
        job = stores().queue.job(number)
        if job.step in steps and job.status == "failed":
            with st.container(horizontal=True, vertical_alignment="center"):
                st.error(
                    f"**{plain(job_title(job))}:** {plain(job.error or 'no reason was recorded')}",
                    icon=":material/error:",
                )
                key, dismiss = f"dismiss {number}", started.remove
                action_button("Dismiss", "", dismiss, number, key=key, type="tertiary")
            if lacks_budget(job) and raise_budget(job):
                started.remove(number)
                st.rerun()


def _followers(started: list[int]) -> list[int]:
    """Measures that datasets were added with: who started the one started the other. Each is named
    once, for it may be dismissed."""
    jobs = [stores().queue.job(number) for number in started]
    added = {
        job.run_id: job.id
        for job in jobs
        if job.step == IngestSpec.step and job.spec.get("measure") and job.run_id
    }
    if not added:
        return []
    before: set[int] = st.session_state.setdefault("followers", set())
    new = [
        job.id
        for job in stores().queue.jobs()
        if job.step == MeasureSpec.step
        and job.id > added.get(job.spec["dataset"], job.id)
        and job.id not in before
    ]
    before.update(new)
    return [number for number in new if number not in started]


def safe_name(name: str) -> str:
    """The last part of the name of an uploaded file, stripped of anything a shell or a path could
    read."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).name).lstrip(".")[-80:] or "upload"


def save_upload(name: str, content: bytes) -> Path:
    """An uploaded file under `inputs/`, named by its content so that names cannot collide. Several
    may save the same at once. Raises Refused."""
    folder = workspace().inputs
    target = folder / f"{hashlib.sha256(content).hexdigest()[:12]}-{safe_name(name)}"
    if target.exists():
        access.person().check("file")
        return target
    access.permit("file", f"upload of {target.name}")
    with disk_room(f"the upload {target.name}"), scratch(folder) as temporary:
        (temporary / target.name).write_bytes(content)
        (temporary / target.name).replace(target)
    return target


def progress(job: Job) -> None:
    """One job as a bar: how far, and what it says about itself."""
    fraction = min(job.done / job.total, 1.0) if job.total else 0.0
    words = f"{fraction:.0%}" if job.total else "starting"
    if job.status == "waiting":
        words = "waiting"
    elif job.stopping:
        words = f"{words} · stopping once this is done"
    note = f" · {plain(job.note)}" if job.note else ""
    st.progress(fraction, text=f"{plain(job_title(job))} · {words}{note}")


def strip() -> None:
    """Live jobs below the navigation; polls only while there are any."""
    st.fragment(_jobs_now, run_every="2s" if stores().queue.live() else None)()


@guard()
def _jobs_now() -> None:
    live = stores().queue.live()
    before = st.session_state.get("live", set())
    st.session_state["live"] = {job.id for job in live}
    if before - st.session_state["live"]:
        # Something ended: the page may now have more to show.
        st.rerun()
    for job in live[:3]:
        progress(job)
    if len(live) > 3:
        st.caption(f"and {len(live) - 3} more")
    if live and not (stores().queue.worker() or {"alive": False})["alive"]:
        st.warning("Nobody is working.", icon=":material/power_off:")
        action_button("Start the worker", "restart_alt", restart_worker, **access.needing("worker"))


def restart_worker() -> None:
    """Raises Refused."""
    access.permit("worker", "restart")
    worker.restart_worker(workspace())


def retry(job: int) -> None:
    """Puts a job that ended badly back into the queue. Raises Refused."""
    stores().queue.retry(job)
    worker.start_worker(workspace())


def demo_jobs() -> list[Job]:
    return [job for job in stores().queue.jobs() if job.step == DemoSpec.step]


def demo_job() -> Job | None:
    """The newest attempt to set up the demo."""
    return next(iter(sorted(demo_jobs(), key=lambda job: -job.id)), None)


def arriving() -> bool:
    """Whether the demo is still being set up: until then one of its two halves may be missing."""
    job = demo_job()
    return job is not None and job.status in ("waiting", "running")
