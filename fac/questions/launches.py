"""Before a synthesis: which pairs it may be written from, what it was asked for before, what it
will take.

Only what people approved is ever named in a spec, and the step checks it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fac import review, synthesis
from fac.config import SynthesizeSpec, read_spec
from fac.questions.pairs import StyleRequest, by_style, gap_rows
from fac.questions.results import syntheses
from fac.store import Stores
from fac.store.queue import Job
from fac.synthesis import Forecast

Row = dict[str, Any]


def approved_pairs(stores: Stores, run: str) -> list[Row]:
    """What people approved of a run of pairs, as it is now: all that may be written from."""
    return review.approved_pairs(stores.decisions, stores.runs, run)


def basis_rows(stores: Stores, run: str, approved: Sequence[Row]) -> list[Row]:
    """Approved pairs as the table shows them: with what their gaps are called."""
    anchor = stores.runs.manifest(run).facts.anchor
    gaps = gap_rows(stores, anchor, [row["feature"] for row in approved])
    by_feature = {row["feature"]: row for row in gaps}
    return [{**by_feature[row["feature"]], **row} for row in approved]


def launch_requests(
    stores: Stores, spec: SynthesizeSpec, approved: Sequence[Row]
) -> list[StyleRequest]:
    """Exactly what the writer will be asked for the first gap, each style once."""
    return by_style(synthesis.first_asked(spec, runs=stores.runs, approved=approved))


def pilot_spec(spec: SynthesizeSpec) -> SynthesizeSpec:
    """The same for a few of its pairs."""
    return replace(spec, approved=synthesis.pilot_pairs(spec.approved))


def finished_synthesis(stores: Stores, spec: SynthesizeSpec) -> str | None:
    """The newest run of exactly these settings and pairs that can be shown."""
    identity = _identity(spec)
    manifests = syntheses(stores, spec.pairs)
    return next((run for run, each in manifests.items() if _identity(each.spec) == identity), None)


def _identity(spec: SynthesizeSpec) -> Row:
    """All that decides what a synthesis is; a finished one knows its evaluation files by name."""
    fields = {k: v for k, v in spec.as_json().items() if k not in spec.operational}
    files = sorted(Path(path).name for path in spec.evaluation)
    return {**fields, "approved": sorted(spec.approved), "evaluation": files}


def forecast(stores: Stores, spec: SynthesizeSpec) -> Forecast | None:
    """What a finished pilot of these settings says about all of the pairs."""
    run = finished_synthesis(stores, pilot_spec(spec))
    return synthesis.forecast(stores.runs.manifest(run), len(spec.approved)) if run else None


def live_syntheses(stores: Stores, pairs: str) -> list[Job]:
    """Waiting and running syntheses from a run of pairs."""
    return [job for job in stores.queue.live() if _is_from(job, pairs)]


def stopped_synthesis(stores: Stores, pairs: str) -> Job | None:
    """The newest synthesis from a run of pairs, where it ended before its end."""
    jobs = (job for job in stores.queue.jobs() if _is_from(job, pairs))
    last = max(jobs, key=lambda job: job.id, default=None)
    return last if last and last.status in ("failed", "cancelled") else None


def _is_from(job: Job, pairs: str) -> bool:
    return job.step == SynthesizeSpec.step and job.spec["pairs"] == pairs


def resumed(job: Job, spec: SynthesizeSpec) -> SynthesizeSpec:
    """What a stopped job was asked for, within today's budget and at today's speed."""
    before = read_spec(job.step, job.spec)
    assert isinstance(before, SynthesizeSpec)  # which step it is says the class
    return replace(before, **{name: getattr(spec, name) for name in spec.operational})
