"""Text in and out: files and Hugging Face datasets -> samples, each a chat with a hash for a name;
kept synthetic samples -> files.

Owns: finding out what a source is (JSON Lines, a JSON array, CSV, TSV, Parquet, each also gzip;
`hf:ID`), which layout its columns speak, what makes a row unusable, and duplicates.
Does not own: where runs lie and how they are published (the `runs` it is given), tokens.

Nothing is repaired. A text is kept character for character, and a row that cannot be is named with
its line and the reason. Memory does not grow with the dataset, except for eight bytes a sample.

layouts  which columns become the chat, what makes a row unusable
formats  bytes -> rows: JSON Lines, a JSON array, CSV, Arrow
sources  files and hub datasets, opened
export   kept synthetic samples -> a file or folder with lineage and a card
here     reading, duplicates, and the dataset run that is written
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fac.config import IngestSpec, Spec
from fac.datasets.export import (
    FORM_OF,
    FORMATS,
    FORMS,
    LINEAGE,
    Exported,
    Why,
    export,
    public_name,
    why,
)
from fac.datasets.formats import MAX_ROW_BYTES
from fac.datasets.layouts import (
    INPUTS,
    MAX_CHARACTERS,
    PROMPTS,
    REPLIES,
    ROLE_NAMES,
    SYSTEMS,
    TEXTS,
    TOOL_ROLES,
    Columns,
    Layout,
    Sample,
    Wanted,
    recognise,
    sample_id,
    sample_of,
)
from fac.datasets.sources import PEEK_BYTES, Hub, Progress, Source, open_file, readable
from fac.errors import BadRow, InputError
from fac.schema import REJECTED, ROLES, SAMPLES

__all__ = [
    "FORMATS",
    "FORMS",
    "INPUTS",
    "LINEAGE",
    "MAX_CHARACTERS",
    "MAX_LABELS",
    "MAX_ROW_BYTES",
    "OTHER_LABELS",
    "PART_CHARACTERS",
    "PART_ROWS",
    "PEEK_BYTES",
    "PEEK_ROWS",
    "PROMPTS",
    "REPLIES",
    "ROLE_NAMES",
    "SYSTEMS",
    "TEXTS",
    "TOOL_ROLES",
    "Columns",
    "Exported",
    "Layout",
    "Progress",
    "Reading",
    "Runs",
    "Sample",
    "FORM_OF",
    "Why",
    "export",
    "ingest",
    "public_name",
    "read_samples",
    "recognise",
    "sample_id",
    "why",
]

PART_ROWS = 4096
PART_CHARACTERS = 16 * MAX_CHARACTERS
"""A part is written when it has this many rows or characters, whichever comes first."""

PEEK_ROWS = 1000
"""How many rows the columns are collected from before the layout is decided."""

MAX_LABELS = 1000
OTHER_LABELS = "(other labels)"
"""A column of free text may be called `label`; the manifest counts this many values by name."""


class Table(Protocol):
    """A table that is written part by part."""

    def append(self, rows: pa.Table) -> None: ...


class Runs(Protocol):
    """The part of the run store that ingesting needs."""

    def find(self, run_id: str) -> bool: ...
    def scratch(self, run_id: str) -> Path: ...
    def exclusive(self, run_id: str) -> AbstractContextManager[None]: ...
    def appender(
        self, path: Path, schema: pa.Schema, *, row_group_rows: int, row_group_bytes: int
    ) -> AbstractContextManager[Table]: ...
    def publish(
        self,
        run_id: str,
        *,
        spec: Spec,
        inputs: Sequence[str],
        facts: dict[str, Any],
        seconds: float,
    ) -> None: ...


def ingest(spec: IngestSpec, *, runs: Runs, progress: Progress | None = None) -> str:
    """The id of the dataset run that holds the samples of `spec.source`.

    The id follows from the source's bytes, the dataset's name and the options, wherever the file
    lies; a run that exists already is not written again. Writes samples.parquet and
    rejected.parquet, sample order as in the source, the first of several equal samples.

    Raises InputError for a source that cannot be used, BadRow for a bad row unless the spec says
    skip, ServiceError when the hub does not answer. In all cases nothing is stored.
    """
    started = time.monotonic()
    report = progress or (lambda done, total, note="": None)
    reading = read_samples(
        spec.source,
        text_field=spec.text_field,
        messages_field=spec.messages_field,
        label_field=spec.label_field,
    )
    digest = reading.digest(report)
    run_id = replace(spec, source=reading.kind).run_id(digest)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        if runs.find(run_id):
            return run_id
        scratch = runs.scratch(run_id)
        try:
            facts = _write(reading, runs, scratch, skip=spec.on_bad == "skip", report=report)
            runs.publish(
                run_id,
                # the name alone: a manifest may leave this machine, the path means nothing there
                spec=replace(spec, source=reading.name),
                inputs=[digest],
                facts={"name": spec.name, "source": reading.name, **facts},
                seconds=time.monotonic() - started,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # gone already when published
    return run_id


def read_samples(
    source: str | Path,
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    label_field: str | None = None,
) -> Reading:
    """Opens a path or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one likes.

    Without options the columns say which layout it is; see `Layout`. Raises InputError for what
    cannot be opened, ServiceError when the hub does not answer.
    """
    if text_field and messages_field:
        raise InputError(
            f"--text-field {text_field} and --messages-field {messages_field} exclude each other: "
            f"give the one that holds the samples."
        )
    wanted = Wanted(text_field, messages_field, label_field)
    if str(source).startswith("hf:"):
        return Reading(Hub(str(source)), wanted)
    return Reading(open_file(Path(source)), wanted)


class Reading:
    """A source and its layout. Iterating gives, row by row, a Sample or the BadRow it is instead.

    Iterating raises InputError where the rest of the source cannot be read: damaged gzip or
    Parquet, a broken JSON array, an open quote in CSV, columns that name no layout.
    """

    def __init__(self, source: Source, wanted: Wanted):
        self._source = source
        self._wanted = wanted
        self.name = source.name
        """What the source is called in sentences and manifests: a file name or a hub id."""
        self.kind = source.kind
        """json, csv, tsv, parquet or hf."""
        self.layout: Layout | None = None
        """Known once the first readable row was met."""

    @property
    def done(self) -> int:
        """Bytes or rows read so far, of `total`."""
        return self._source.done

    @property
    def total(self) -> int:
        return self._source.total

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with readable(self.name):
            return "sha256:" + self._source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with readable(self.name):
            rows = self._source.rows()
            for row in rows:
                if row.columns is None:
                    yield BadRow(row.line, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self._source.peeked_enough():
                        break
                layout = self._decide([r.columns for r in peeked if r.columns is not None])
                for row in chain(peeked, rows):
                    yield sample_of(row, layout)
            if self.layout is None and self._source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self._source.columns)])

    def _decide(self, rows: list[Columns]) -> Layout:
        self.layout = recognise(rows, self._wanted, self.name)
        return self.layout


# --- writing ---------------------------------------------------------------------------------


def _write(
    reading: Reading, runs: Runs, scratch: Path, *, skip: bool, report: Progress
) -> dict[str, Any]:
    """Writes both tables of a dataset run into `scratch` and returns its facts."""
    seen = _Seen()
    labels: Counter[str] = Counter()
    roles = dict.fromkeys(ROLES, 0)
    n_rows = n_samples = n_rejected = 0
    first_bad: BadRow | None = None

    def table(name: str, schema: pa.Schema) -> AbstractContextManager[Table]:
        return runs.appender(
            scratch / f"{name}.parquet",
            schema,
            row_group_rows=PART_ROWS,
            row_group_bytes=PART_CHARACTERS,
        )

    with table("samples", SAMPLES) as kept, table("rejected", REJECTED) as rejected:
        for part in _parts(reading):
            bad = [row for row in part if isinstance(row, BadRow)]
            good = [row for row in part if isinstance(row, Sample)]
            if bad and not skip:
                raise BadRow(
                    bad[0].line,
                    f"{bad[0].reason} (in {reading.name}); nothing was stored: correct the row, or "
                    f"give --on-bad skip to leave such rows out and have them listed.",
                )
            new = seen.add(np.array([int(s.sample_id, 16) for s in good], np.uint64))
            fresh = [sample for sample, is_new in zip(good, new, strict=True) if is_new]
            kept.append(pa.Table.from_pylist([sample._asdict() for sample in fresh], SAMPLES))
            told = [{"line": row.line, "reason": row.reason} for row in bad]
            rejected.append(pa.Table.from_pylist(told, REJECTED))
            n_rows += len(part)
            n_samples += len(fresh)
            n_rejected += len(bad)
            first_bad = first_bad or (bad[0] if bad else None)
            for sample in fresh:
                if sample.label is not None:
                    known = sample.label in labels or len(labels) < MAX_LABELS
                    labels[sample.label if known else OTHER_LABELS] += 1
                for message in sample.messages:
                    roles[message["role"]] += 1
            report(reading.done, reading.total, f"{n_samples:,} samples")
    if first_bad and not n_samples:
        raise InputError(
            f"None of the {n_rows:,} rows of {reading.name} can be used; "
            f"line {first_bad.line}: {first_bad.reason}."
        )
    if reading.layout is None or not n_samples:
        raise InputError(f"{reading.name} has no rows: give a file with at least one sample.")
    return {
        "n_samples": n_samples,
        "duplicates": n_rows - n_rejected - n_samples,
        "n_rejected": n_rejected,
        "kind": reading.kind,
        **reading.layout.facts,
        "roles": roles,
        "labels": dict(labels.most_common()),
    }


def _parts(rows: Reading) -> Iterator[list[Sample | BadRow]]:
    part: list[Sample | BadRow] = []
    size = 0
    for row in rows:
        part.append(row)
        if isinstance(row, Sample):
            size += len(row.meta) + sum(len(message["content"]) for message in row.messages)
        if len(part) >= PART_ROWS or size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


class _Seen:
    """The ids met so far, in sorted arrays of which each is longer than the next together.

    Eight bytes an id where a set takes about a hundred; an id is merged log2(parts) times.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Takes uint64 `[n]` and tells which are met for the first time: bool `[n]`."""
        new = np.zeros(len(ids), bool)
        values, first = np.unique(ids, return_index=True)
        fresh = np.ones(len(values), bool)
        for array in self._arrays:
            place = np.minimum(np.searchsorted(array, values), len(array) - 1)
            fresh &= array[place] != values
        new[first[fresh]] = True
        if fresh.any():
            self._arrays.append(values[fresh])
        while len(self._arrays) > 1 and len(self._arrays[-2]) <= 2 * len(self._arrays[-1]):
            merged = np.concatenate([self._arrays.pop(), self._arrays.pop()])
            merged.sort(kind="stable")
            self._arrays.append(merged)
        return new
