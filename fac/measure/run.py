"""A measure from its spec to its published run: the parts are read, then the tables written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from fac.config import MeasureSpec
from fac.encoder import Encoder
from fac.errors import Progress
from fac.manifest import MeasureFacts
from fac.measure.parts import Part, PartTask, read_part
from fac.measure.tables import FinishedParts, write_tables
from fac.store.runs import Runs

ReportRead = Callable[[int, int], None]
"""(samples, tokens) read so far in this call; called often, and what it raises ends the reading."""

Executor = Callable[[Iterable[PartTask], ReportRead], Iterator[tuple[int, Part]]]
"""Reads parts somewhere; gives each one's number and result, in any order."""


def in_process(encoder: Encoder) -> Executor:
    """The executor `local`: the parts one after another in this process."""

    def read(tasks: Iterable[PartTask], report: ReportRead) -> Iterator[tuple[int, Part]]:
        samples = tokens = 0

        def count_batch(batch_samples: int, batch_tokens: int) -> None:
            nonlocal samples, tokens
            samples, tokens = samples + batch_samples, tokens + batch_tokens
            report(samples, tokens)

        for task in tasks:
            yield task.number, read_part(encoder, task, count_batch)

    return read


def measure(
    spec: MeasureSpec,
    *,
    runs: Runs,
    encoder: Encoder,
    sae_run: str,
    progress: Progress,
    executor: Executor | None = None,
) -> str:
    """Measure a dataset run with an encoder; returns the measure run's id.

    The run holds every peak above `spec.floor`; what counts as active is a question for later, with
    any threshold. `progress(done, total, note)` counts samples and may raise Cancelled, which keeps
    the finished parts. An executor says where the parts are read, by default here; the run is the
    same. With one, the encoder only says who it is.
    """
    run_id = spec.run_id(spec.dataset, encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        source = runs.manifest(spec.dataset).facts
        n_samples = source.n_samples
        parts = FinishedParts(runs.scratch(run_id), n_samples, encoder.n_features)
        _read_parts(parts, parts.unread(runs, spec), executor or in_process(encoder), progress)
        facts = write_tables(parts, lambda note: progress(n_samples, n_samples, note))
        runs.publish(
            run_id,
            spec=spec,
            inputs=[spec.dataset],
            seconds=parts.seconds,
            facts=MeasureFacts(
                name=source.name,
                dataset=spec.dataset,
                sae_run=sae_run,
                encoder=encoder.identity,
                n_features=encoder.n_features,
                role=spec.role,
                layer=spec.layer,
                model=spec.model,
                sae=spec.sae,
                **facts,
            ),
        )
    return run_id


def _read_parts(
    parts: FinishedParts, tasks: Iterable[PartTask], executor: Executor, progress: Progress
) -> None:
    """Every part not yet on disk goes through the executor."""
    begun = saved = time.monotonic()
    before = parts.samples_on_disk

    def report(samples: int, tokens: int) -> None:
        note = "reading the first batch"
        if samples:
            elapsed = time.monotonic() - begun
            left = elapsed / samples * (parts.n_samples - before - samples)
            note = f"{tokens / elapsed:,.0f} tokens/s, {_duration(left)} left"
        progress(before + samples, parts.n_samples, note)

    report(0, 0)
    for number, part in executor(tasks, report):
        now = time.monotonic()
        parts.add(number, part, now - saved)
        saved = now


def _duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
