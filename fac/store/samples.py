"""Samples of dataset runs by their number, and runs that no file was read for: of samples that were
written, or chosen from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fac.config import IngestSpec
from fac.manifest import DatasetFacts
from fac.schema import REJECTED, ROLES, SAMPLES
from fac.store.runs import Runs, write_table


def publish_samples(
    runs: Runs,
    spec: IngestSpec,
    rows: Sequence[Mapping[str, Any]],
    *,
    made_from: str,
    kind: str,
    source: str,
) -> str:
    """The id of the dataset run of these rows of `schema.SAMPLES`, written unless it is there.

    `made_from` is the run, or the digest of all, that they follow from: with the spec it names the
    run. Raises InputError where another process writes it now, or on a full disk.
    """
    run = spec.run_id(made_from)
    if runs.find(run):
        return run
    with runs.exclusive(run):
        folder = runs.scratch(run)
        write_table(folder / "samples.parquet", pa.Table.from_pylist([*rows], SAMPLES), SAMPLES)
        write_table(folder / "rejected.parquet", REJECTED.empty_table(), REJECTED)
        labels = Counter(row["label"] for row in rows if row["label"] is not None)
        roles = Counter(message["role"] for row in rows for message in row["messages"])
        facts = DatasetFacts(
            name=spec.name,
            source=source,
            n_samples=len(rows),
            kind=kind,
            roles=dict.fromkeys(ROLES, 0) | dict(roles),
            labels=dict(labels.most_common()),
        )
        runs.publish(run, spec=spec, inputs=[made_from], facts=facts, seconds=0.0)
    return run


def read_samples(runs: Runs, measure: str) -> np.ndarray:
    """Which samples of its dataset a measure has read: bool `[n_samples]`, all but those that the
    model's chat template refuses. The others show nothing, which says nothing about them."""
    facts = runs.manifest(measure).facts
    read = np.ones(facts.n_samples, bool)
    if facts.n_rejected:
        read[runs.table(measure, "rejected", ["sample"])["sample"].to_numpy()] = False
    return read


def samples_at(
    runs: Runs, dataset: str, numbers: Iterable[int], columns: Sequence[str] | None = None
) -> dict[int, dict[str, Any]]:
    """Some samples of a dataset run by their number, with these columns of `schema.SAMPLES`."""
    every = np.unique(np.fromiter(numbers, np.int64))
    samples: dict[int, dict[str, Any]] = {}
    first = 0
    for batch in runs.batches(dataset, "samples", columns=columns, rows=4096):
        here = every[(every >= first) & (every < first + len(batch))]
        page = batch.take(pa.array(here - first, pa.int64())).to_pylist()
        samples |= dict(zip(here.tolist(), page, strict=True))
        first += len(batch)
    return samples
