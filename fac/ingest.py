"""A step: the samples of a source become a dataset run.

Nothing is repaired. A text is kept character for character, and a row that cannot be is named with
its line and the reason. Memory does not grow with the dataset, except for sixteen bytes a sample.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from fac.config import IngestSpec
from fac.datasets import MAX_CHARACTERS, Sample, SampleReader, read_samples
from fac.errors import BadRow, InputError, Progress
from fac.manifest import DatasetFacts
from fac.markup import INVISIBLE, one_line
from fac.schema import REJECTED, ROLES, SAMPLES
from fac.store.runs import ParquetAppender, Runs

PART_ROWS = 4096
PART_CHARACTERS = 16 * MAX_CHARACTERS
"""A part is written when it has this many rows or characters, whichever comes first."""

MAX_LABELS = 1000
OTHER_LABELS = "(other labels)"
"""A column of free text may be called `label`; the manifest counts this many values by name."""


def ingest(spec: IngestSpec, *, runs: Runs, progress: Progress | None = None) -> str:
    """The id of the dataset run that holds the samples of `spec.source`.

    The id follows from the source's bytes, the dataset's name and the options, wherever the file
    lies; a run that exists already is not written again. Writes samples.parquet and
    rejected.parquet, sample order as in the source, the first of several equal samples.

    Raises InputError for a name with characters that cannot be seen or a source that cannot be
    used, BadRow for a bad row unless the spec says skip, ServiceError when the hub does not answer.
    In all cases nothing is stored.
    """
    if INVISIBLE.search(spec.name):
        raise InputError(
            f"The name {one_line(spec.name)} holds characters that cannot be seen: leave them out."
        )
    started = time.monotonic()
    report = progress or (lambda done, total, note="": None)
    reader = read_samples(
        spec.source,
        text_field=spec.text_field,
        messages_field=spec.messages_field,
        prompt_field=spec.prompt_field,
        reply_field=spec.reply_field,
        label_field=spec.label_field,
    )
    digest = reader.digest(report)
    run_id = replace(spec, source=reader.kind).run_id(digest)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        if runs.find(run_id):
            return run_id
        scratch = runs.scratch(run_id)
        try:
            facts = _write(reader, scratch, spec, report)
            runs.publish(
                run_id,
                # the name alone: a manifest may leave this machine, the path means nothing there
                spec=replace(spec, source=reader.name, measure=None),
                inputs=[digest],
                facts=facts,
                seconds=time.monotonic() - started,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # gone already when published
    return run_id


def _write(reader: SampleReader, scratch: Path, spec: IngestSpec, report: Progress) -> DatasetFacts:
    """Writes both tables of a dataset run into `scratch` and returns its facts."""
    seen, labelled = SeenIds(), SeenIds()
    labels: Counter[str] = Counter()
    roles, unread = dict.fromkeys(ROLES, 0), Counter[str]()
    n_samples = n_rejected = duplicates = relabelled = 0
    first_bad: BadRow | None = None
    table = partial(ParquetAppender, row_group_rows=PART_ROWS, row_group_bytes=PART_CHARACTERS)
    with (
        table(scratch / "samples.parquet", SAMPLES) as samples,
        table(scratch / "rejected.parquet", REJECTED) as rejected,
    ):
        for part in _parts(reader):
            bad = [row for row in part if isinstance(row, BadRow)]
            good = [row for row in part if isinstance(row, Sample)]
            if bad and spec.on_bad != "skip":
                raise BadRow(
                    bad[0].line,
                    f"{bad[0].reason} (in {reader.name}); nothing was stored: correct the row, or "
                    f"give --on-bad skip to leave such rows out and have them listed.",
                )
            new = seen.add(np.array([int(s.sample_id, 16) for s in good], np.uint64))
            others = labelled.add(np.array([_labelled_id(s) for s in good], np.uint64))
            relabelled += int((others & ~new).sum())
            fresh = [sample for sample, is_new in zip(good, new, strict=True) if is_new]
            samples.append(pa.Table.from_pylist([sample._asdict() for sample in fresh], SAMPLES))
            reasons = [{"line": row.line, "reason": row.reason} for row in bad]
            rejected.append(pa.Table.from_pylist(reasons, REJECTED))
            n_samples += len(fresh)
            n_rejected += len(bad)
            duplicates += len(good) - len(fresh)
            first_bad = first_bad or (bad[0] if bad else None)
            for sample in fresh:
                if sample.label is not None:
                    by_name = sample.label in labels or len(labels) < MAX_LABELS
                    labels[sample.label if by_name else OTHER_LABELS] += 1
                for message in sample.messages:
                    roles[message["role"]] += 1
                unread.update(sample.unread)
            report(reader.source.done, reader.source.total, f"{n_samples:,} samples")
    if first_bad and not n_samples:
        raise InputError(
            f"None of the {n_rejected:,} rows of {reader.name} can be used; "
            f"line {first_bad.line}: {first_bad.reason}."
        )
    if reader.layout is None or not n_samples:
        raise InputError(f"{reader.name} has no rows: give a file with at least one sample.")
    return DatasetFacts(
        name=spec.name,
        source=reader.name,
        n_samples=n_samples,
        duplicates=duplicates,
        n_rejected=n_rejected,
        kind=reader.kind,
        layout=reader.layout.name,
        columns=reader.layout.chat_columns,
        beside=reader.layout.beside(reader.columns) or None,
        note=reader.layout.note or _note_of_verdicts(reader.layout.columns, labels),
        roles=roles,
        labels=dict(labels.most_common()),
        unread=dict(unread.most_common()) or None,
        relabelled=relabelled or None,
    )


def _note_of_verdicts(columns: Mapping[str, str], labels: Counter[str]) -> str | None:
    """A sentence where labels are verdicts on answers, as KTO has them."""
    if "reply" not in columns or not labels["false"] or {*labels} - {"true", "false"}:
        return None
    return "Labels are verdicts: answers labelled false are samples like those labelled true."


def _labelled_id(sample: Sample) -> int:
    """64 bits of a hash of a sample with its label."""
    text = json.dumps([sample.sample_id, sample.label])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _parts(reader: SampleReader) -> Iterator[list[Sample | BadRow]]:
    part: list[Sample | BadRow] = []
    size = 0
    for row in reader:
        part.append(row)
        if isinstance(row, Sample):
            size += len(row.meta) + sum(len(message["content"]) for message in row.messages)
        if len(part) >= PART_ROWS or size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


class SeenIds:
    """The ids met so far, in sorted arrays of which each is longer than the next together. Eight
    bytes an id where a set takes about a hundred; an id is merged log2(parts) times."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Takes uint64 `[n]` and tells which are met for the first time: bool `[n]`."""
        new = np.zeros(len(ids), bool)
        values, first = np.unique(ids, return_index=True)
        fresh = np.ones(len(values), bool)
        for array in self._arrays:
            nearest = np.minimum(np.searchsorted(array, values), len(array) - 1)
            fresh &= array[nearest] != values
        new[first[fresh]] = True
        if fresh.any():
            self._arrays.append(values[fresh])
        while len(self._arrays) > 1 and len(self._arrays[-2]) <= 2 * len(self._arrays[-1]):
            merged = np.concatenate([self._arrays.pop(), self._arrays.pop()])
            merged.sort(kind="stable")
            self._arrays.append(merged)
        return new
