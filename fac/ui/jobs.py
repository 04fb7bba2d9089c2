"""Work that was asked for: how it is started, how far it is, why it failed."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from pathlib import Path

import streamlit as st

from fac.config import EXPLAINERS, DemoSpec, MeasureSpec, Spec, SynthesizeSpec
from fac.jobs import worker
from fac.store.queue import Job
from fac.ui.stores import queue, runs, workspace
from fac.ui.text import clean, plain
from fac.ui.views import guard

_VERBS = {
    "dataset": "Read",
    "measure": "Measure",
    "sae": "Map the dictionary",
    "probe": "Read a text",
    "demo": "Set up the demo",
    "explain": "Explain",
    "relevance": "Judge",
    "pairs": "Write pairs",
    "rescore": "Score an edited pair",
    "synthetic": "Synthesize",
}


def job_title(job: Job) -> str:
    """A job in words."""
    verb = _VERBS.get(job.step, job.step)
    if job.step == "dataset":
        return f"{verb} {job.spec['name']}"
    if job.step == "measure":
        return f"{verb} {dataset_name(job.spec['dataset'])}"
    if job.step == "explain":
        how = EXPLAINERS[job.spec["explainer"]].job_title.format(model=job.spec["model"])
        return f"{verb} {measured_name(job.spec['measure'])} {how}"
    if job.step == "relevance":
        return f"{verb} {measured_name(job.spec['measure'])} for {job.spec['task']}"
    if job.step == "pairs":
        gaps = counted(len(job.spec["features"]), "gap")
        return f"{verb} for {gaps} of {measured_name(job.spec['dataset'])}"
    if job.step == "rescore":
        return f"{verb}, #{job.spec['feature']} of {paired_name(job.spec['pairs'])}"
    if job.step == "synthetic":
        pairs, method = len(job.spec["approved"]), job.spec["method"]
        source = f"from {counted(pairs, 'approved pair')}" if pairs else "for every gap"
        name = paired_name(job.spec["pairs"])
        baseline = f", {method}" if method != SynthesizeSpec.method else ""
        return f"{verb} {source} of {name}{baseline}"
    return verb


def counted(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def paired_name(run: str) -> str:
    """Name of the dataset whose gaps a run of pairs is about; the run's id while it is unknown."""
    return runs().manifest(run)["facts"]["name"] if runs().find(run) else run


def dataset_name(run: str) -> str:
    """Name of a dataset run; its id while it is unknown here."""
    return runs().manifest(run)["facts"]["name"] if runs().find(run) else run


def measured_name(run: str) -> str:
    """Name of the dataset that a measure run measured; the run's id while it is unknown here."""
    return runs().manifest(run)["facts"]["name"] if runs().find(run) else run


def start(spec: Spec, said: str) -> int:
    """Puts a job into the queue, makes sure that somebody works, and says so."""
    job = queue().enqueue(spec)
    st.session_state.setdefault("started", []).append(job)
    worker.start_worker(workspace())
    st.toast(plain(said), icon=":material/schedule:")
    return job


def start_measure(dataset: str, model: str, layer: int, sae: str) -> int:
    spec = MeasureSpec(dataset=dataset, model=model, layer=layer, sae=sae)
    return start(spec, f"Measuring {dataset_name(dataset)}")


def measuring(dataset: str) -> bool:
    """Whether a live job is measuring this dataset run."""
    return any(
        job.step == MeasureSpec.step and job.spec["dataset"] == dataset for job in queue().live()
    )


def measure_state(dataset: str, done: bool) -> str:
    """How far a dataset run is, in a word or two."""
    return "measured" if done else "being measured" if measuring(dataset) else "not measured"


def show_failures(*steps: str) -> None:
    """Why jobs that this person started did not work out, until they are dismissed."""
    started = st.session_state.get("started", [])
    for number in list(started):
        job = queue().job(number)
        if job.step in steps and job.status == "failed":
            with st.container(horizontal=True, vertical_alignment="center"):
                st.error(
                    f"**{plain(job_title(job))}:** {plain(job.error or 'no reason was recorded')}",
                    icon=":material/error:",
                )
                st.button(
                    "Dismiss",
                    on_click=started.remove,
                    args=(number,),
                    key=f"dismiss {number}",
                    type="tertiary",
                )


def save_upload(name: str, content: bytes) -> Path:
    """An uploaded file under `inputs/`, named by its content so that names cannot collide.

    Only the last part of the given name is used, stripped of anything a shell or a path could read.
    """
    place = workspace().inputs
    place.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).name).lstrip(".")[-80:] or "upload"
    target = place / f"{hashlib.sha256(content).hexdigest()[:12]}-{safe}"
    if not target.exists():
        partial_file = target.with_name(f".{target.name}.part")
        partial_file.write_bytes(content)
        partial_file.rename(target)
    return target


def progress(job: Job) -> None:
    """One job as a bar: how far, and what it says about itself."""
    fraction = min(job.done / job.total, 1.0) if job.total else 0.0
    words = f"{fraction:.0%}" if job.total else "starting"
    if job.status == "waiting":
        words = "waiting"
    note = f" · {plain(job.note)}" if job.note else ""
    st.progress(fraction, text=f"{plain(job_title(job))} · {words}{note}")


def strip() -> None:
    """Live jobs below the navigation; polls only while there are any."""
    st.fragment(_jobs_now, run_every="2s" if queue().live() else None)()


@guard()
def _jobs_now() -> None:
    live = queue().live()
    before = st.session_state.get("live", set())
    st.session_state["live"] = {job.id for job in live}
    if before - st.session_state["live"]:
        # Something ended: the page may now have more to show.
        st.rerun()
    for job in live[:3]:
        progress(job)
    if len(live) > 3:
        st.caption(f"and {len(live) - 3} more")
    if live and not _alive():
        st.warning("Nobody is working.", icon=":material/power_off:")
        st.button("Start the worker", on_click=restart_worker, icon=":material/restart_alt:")


def _alive() -> bool:
    worker = queue().worker()
    return bool(worker and worker["alive"])


def restart_worker() -> None:
    worker.restart_worker(workspace())


def retry(job: int) -> None:
    """Puts a job that ended badly back into the queue."""
    queue().retry(job)
    worker.start_worker(workspace())


def job_times(job: Job) -> str:
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


def demo_jobs() -> list[Job]:
    return [job for job in queue().jobs() if job.step == DemoSpec.step]


def demo_job() -> Job | None:
    """The newest attempt to set up the demo."""
    return next(iter(sorted(demo_jobs(), key=lambda job: -job.id)), None)


def arriving() -> bool:
    """Whether the demo is still being set up: until then one of its two halves may be missing."""
    job = demo_job()
    return job is not None and job.status in ("waiting", "running")
