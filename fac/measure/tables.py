"""A measure from its spec to its published run: parts are read, their results become tables."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fac import schema
from fac.config import MeasureSpec
from fac.encoder import Encoder, NearMisses
from fac.errors import Progress, disk_room
from fac.manifest import MeasureFacts
from fac.measure.ordering import FeatureSort, strength_keys, weaker_share
from fac.measure.parts import (
    PART_ACTIVATIONS,
    PART_TABLES,
    AdmissionThresholds,
    Examples,
    Part,
    PartTask,
    ReportRead,
    example_columns,
    merge_near,
    near_columns,
    near_of_table,
    read_part,
)
from fac.measure.screening import Screened
from fac.measure.spans import span_table
from fac.schema import EVERY_ROLE, ROLES
from fac.store.runs import ParquetAppender, Runs, write_table

PART = 1024  # Samples read as a unit, and between two points a restart can continue from
MERGE_ROWS = 1_000_000  # Activations sorted in memory at once when the parts become one table
TEXT_ROWS = 62_500  # The same for rows with tokens

ALL_READABLE = Screened({})

Note = Callable[[str], None]  # Says what is being written; what it raises ends the writing

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
    screened: Screened = ALL_READABLE,
    doubt: str = "",
) -> str:
    """Measure a dataset run with an encoder; returns the measure run's id.

    The run holds every peak above `spec.floor`; what counts as active is a question for later, with
    any threshold. `progress(done, total, note)` counts samples and may raise Cancelled, which keeps
    the finished parts. An executor says where the parts are read, by default here; the run is the
    same. With one, the encoder only says who it is. Samples that `screened` rejects are left out.
    """
    run_id = spec.run_id(spec.dataset, encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        source = runs.manifest(spec.dataset).facts
        n_samples = source.n_samples
        parts = FinishedParts(runs.scratch(run_id), n_samples, encoder.n_features)
        tasks = parts.unread(runs, spec, screened.rejected)
        _read_parts(parts, tasks, executor or in_process(encoder), progress)
        facts = write_tables(parts, lambda note: progress(n_samples, n_samples, note))
        if screened.rejected:
            rejected = screened.table()
            write_table(parts.scratch / "rejected.parquet", rejected, schema.REJECTED_SAMPLES)
        facts["n_empty"] -= len(screened.rejected)
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
                n_rejected=len(screened.rejected),
                n_shortened=screened.n_shortened,
                despite=spec.despite or None,
                doubt=doubt or None,
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


class FinishedParts:
    """The parts of a measure that lie in its scratch folder, and what they come to together."""

    def __init__(self, scratch: Path, n_samples: int, n_features: int):
        self.scratch, self.n_samples, self.n_features = scratch, n_samples, n_features
        self.numbers = range(-(-n_samples // PART))
        self.seconds = 0.0
        self.near = NearMisses.none(n_features)
        self.examples = Examples(n_features, AdmissionThresholds.none(n_features))
        self.support = np.zeros(n_features, np.int64)  # Rows of each feature
        self.samples_on_disk = 0  # When the measure began, or went on
        for number in self.numbers:
            if self._folder(number).exists():
                tables = {name: self.table(number, name) for name in ("examples", "near")}
                self._merge(self.table(number, "activations", ["feature"]), **tables)
                self.seconds += float((self._folder(number) / "seconds").read_text("ascii"))
                self.samples_on_disk += min(PART, n_samples - self.start(number))

    def start(self, number: int) -> int:
        """Row of a part's first sample in the dataset."""
        return number * PART

    def table(self, number: int, name: str, columns: list[str] | None = None) -> pa.Table:
        """A table of a part, see PART_TABLES."""
        with pq.ParquetFile(self._folder(number) / f"{name}.parquet") as file:
            return file.read(columns)

    def _folder(self, number: int) -> Path:
        return self.scratch / f"_part-{number:06d}"

    def unread(
        self, runs: Runs, spec: MeasureSpec, rejected: Container[int] = ()
    ) -> Iterator[PartTask]:
        """The parts that are not on disk, always cut at the same samples; of those that are
        `rejected` no message is there.

        Their admission thresholds are those that hold when a part is taken.
        """
        roles = ROLES if spec.role == EVERY_ROLE else (spec.role,)
        waiting: list[pa.Array] = []
        number = 0
        for batch in runs.batches(spec.dataset, "samples", columns=["messages"], rows=PART):
            waiting.append(batch.column("messages"))
            size = sum(map(len, waiting))
            while size >= PART or (size and self.start(number) + size == self.n_samples):
                joined = pa.concat_arrays(waiting)
                waiting, size = [joined[PART:]], max(0, size - PART)
                if not self._folder(number).exists():
                    start = self.start(number)
                    chats = [
                        [] if sample in rejected else chat
                        for sample, chat in enumerate(joined[:PART].to_pylist(), start)
                    ]
                    admission = self.examples.admission._replace(near=self.near.pre[-1])
                    yield PartTask(number, start, chats, roles, spec.floor, admission)
                number += 1

    def add(self, number: int, part: Part, seconds: float) -> None:
        """All of a part or nothing: its folder gets its name when everything is in it."""
        folder = self._folder(number)
        partial = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        with disk_room("a part of the measure"):
            partial.mkdir()
            (partial / "seconds").write_text(repr(seconds), "ascii")
            for name, table_schema in PART_TABLES.items():
                write_table(partial / f"{name}.parquet", getattr(part, name), table_schema)
            partial.rename(folder)
        self.seconds += seconds
        self._merge(part.activations, part.examples, part.near)

    def _merge(self, activations: pa.Table, examples: pa.Table, near: pa.Table) -> None:
        """Brings a part's result into that of all."""
        feature = activations.column("feature").to_numpy()
        self.support += np.bincount(feature, minlength=self.n_features)
        self.examples.offer(example_columns(examples))
        self.examples.prune()
        merge_near(self.near, near_of_table(near, self.n_features))


def write_tables(parts: FinishedParts, note: Note) -> dict[str, Any]:
    """Writes the tables to the scratch folder; returns the facts they establish."""
    spans = parts.examples.spans()
    _write_activations(parts, spans, note)
    facts = _write_texts(parts, spans, note)
    return {
        **facts,
        "n_samples": parts.n_samples,
        "features_fired": int((parts.support > 0).sum()),
        "seconds": round(parts.seconds, 3),
        "tokens_per_second": round(facts["tokens"] / max(parts.seconds, 1e-9), 1),
    }


def _write_activations(parts: FinishedParts, spans: dict[str, np.ndarray], note: Note) -> None:
    """Writes activations.parquet; fills in the quantiles of the spans."""
    path = parts.scratch / "activations.parquet"
    with (
        FeatureSort(
            parts.scratch, "activations", PART_ACTIVATIONS, parts.support, MERGE_ROWS
        ) as sorting,
        ParquetAppender(path, schema.ACTIVATIONS) as appender,
    ):
        for number in parts.numbers:
            note("sorting the activations by feature")
            sorting.add(parts.table(number, "activations"))
        for first, last, table in sorting.ranges():
            note("writing the activations")
            keys = strength_keys(table)
            # Stable, so that equals stay in the order of the parts; and quick on sorted runs.
            order = np.argsort(keys, kind="stable")
            table, keys = table.take(pa.array(order)), keys[order]
            here = slice(*np.searchsorted(spans["feature"], [first, last]))
            spans["quantile"][here] = weaker_share(
                table, keys, {k: spans[k][here] for k in ("feature", "peak", "sample", "role")}
            )
            code = table.column("role").combine_chunks()
            role = pa.DictionaryArray.from_arrays(code, pa.array(ROLES))
            appender.append(table.set_column(table.schema.get_field_index("role"), "role", role))


class _SpanFile:
    """Spans or near misses with their tokens, from the texts of one part after another."""

    def __init__(self, parts: FinishedParts, name: str, rows: dict[str, np.ndarray]):
        self.rows, self.path = rows, parts.scratch / f"{name}.parquet"
        table_schema = {"spans": schema.SPANS, "near": schema.NEAR}[name]
        sizes = np.bincount(rows["feature"], minlength=parts.n_features)
        self.sorting = FeatureSort(parts.scratch, name, table_schema, sizes, TEXT_ROWS)
        self._by_sample = np.argsort(rows["sample"], kind="stable")
        self._samples = rows["sample"][self._by_sample]

    def add(self, texts: pa.Table, start: int) -> None:
        """The rows of the part that begins with this sample."""
        here = slice(*np.searchsorted(self._samples, [start, start + len(texts)]))
        self.sorting.add(span_table(texts, start, self.rows, np.sort(self._by_sample[here])))

    def write(self) -> None:
        kind = [("kind", "descending")] if "kind" in self.sorting.schema.names else []
        order = [("feature", "ascending"), *kind, ("rank", "ascending")]
        with ParquetAppender(self.path, self.sorting.schema) as appender:
            for _first, _last, table in self.sorting.ranges():
                appender.append(table.sort_by(order))


def _write_texts(parts: FinishedParts, spans: dict[str, np.ndarray], note: Note) -> dict[str, Any]:
    """Spans and near misses with their tokens, and the lengths of the samples."""
    by_role = dict.fromkeys(ROLES, 0)
    tokens = cut = empty = 0
    files = [_SpanFile(parts, "spans", spans), _SpanFile(parts, "near", near_columns(parts.near))]
    lengths_path = parts.scratch / "sample_tokens.parquet"
    with ExitStack() as stack:
        lengths = stack.enter_context(ParquetAppender(lengths_path, schema.SAMPLE_TOKENS))
        for file in files:
            stack.enter_context(file.sorting)
        for number in parts.numbers:
            note("writing the examples")
            start = parts.start(number)
            texts = parts.table(number, "texts")
            content = np.stack([texts.column(f"n_{role}").to_numpy() for role in ROLES])
            for role, n in zip(ROLES, content.sum(1).tolist(), strict=True):
                by_role[role] += n
            n_tokens, n_cut = texts.column("n_tokens"), texts.column("n_cut")
            tokens += int(n_tokens.to_numpy().sum())
            cut += int((n_cut.to_numpy() > 0).sum())
            empty += int((content.sum(0) == 0).sum())
            sample = np.arange(start, start + len(texts), dtype=np.int32)
            columns = {"n_tokens": n_tokens, "n_cut": n_cut}
            columns |= {"sample": pa.array(sample), "n_content": pa.array(content.sum(0))}
            lengths.append(pa.table(columns))
            for file in files:
                file.add(texts, start)
        for file in files:
            note("writing the examples")
            file.write()
    return {
        "tokens": tokens,
        "content_tokens": sum(by_role.values()),
        "content_tokens_by_role": by_role,
        "n_cut": cut,
        "n_empty": empty,
    }
