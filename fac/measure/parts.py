"""One part of a dataset: its chats through the encoder, and the tables that come of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fac import schema
from fac.encoder import Encoder, NearMisses, Reading
from fac.measure.examples import PART_EXAMPLES, AdmissionThresholds, Examples, admitted_rows
from fac.measure.spans import PART_TEXTS, text_table
from fac.models import Rendered
from fac.schema import Activations, Chat

CountBatch = Callable[[int, int], None]
"""(samples, tokens) of a batch that was just read; what it raises ends the reading."""


class PartTask(NamedTuple):
    """One part to be read: all that a machine without the workspace needs to know."""

    number: int
    start: int  # Row of its first sample in the dataset
    chats: list[Chat]
    roles: tuple[str, ...]
    floor: float  # Peaks at or below are not stored
    admission: AdmissionThresholds


class Part(NamedTuple):
    """What one part of a dataset looks like through the SAE; samples are rows of the dataset."""

    activations: pa.Table  # PART_ACTIVATIONS, sorted by (feature, peak descending, sample, role)
    examples: pa.Table
    """PART_EXAMPLES: of every feature the TOP strongest rows and SPREAD_POOL drawn ones."""

    near: pa.Table  # PART_NEAR: of every feature the highest pre-activations
    texts: pa.Table  # PART_TEXTS: one row per sample, in order


PART_ACTIVATIONS = pa.schema(
    [schema.ACTIVATIONS.field(name) for name in ("sample", "feature", "peak")]
    + [pa.field("role", pa.int8())]
    + [schema.ACTIVATIONS.field(name) for name in ("position", "n_tokens")]
)

PART_NEAR = pa.schema(
    [
        *(("feature", pa.int32()), ("rank", pa.int8()), ("sample", pa.int32())),
        *(("position", pa.int32()), ("pre", pa.float32())),
    ]
)

PART_TABLES = {
    "examples": PART_EXAMPLES,
    "near": PART_NEAR,
    "texts": PART_TEXTS,
    "activations": PART_ACTIVATIONS,
}
"""The files of a finished part; the names are those of Part."""


def read_part(encoder: Encoder, task: PartTask, count_batch: CountBatch) -> Part:
    """Read one part."""
    examples = Examples(encoder.n_features, task.admission)
    near = NearMisses.none(encoder.n_features)
    pooled: list[Activations] = []
    rendered: list[Rendered | None] = [None] * len(task.chats)
    for reading in encoder.read(task.chats, task.roles):
        for sample, text in zip(reading.samples, reading.rendered, strict=True):
            rendered[sample] = text
        reading = _above(reading, task.floor)
        peaks = reading.pooled()
        examples.offer(admitted_rows(reading, peaks, task.start, examples.admission))
        merge_near(near, reading.near, task.start)
        pooled.append(peaks._replace(sample=peaks.sample + np.int32(task.start)))
        count_batch(len(reading.samples), sum(len(text.ids) for text in reading.rendered))
    examples.prune()
    return Part(
        _activation_table(pooled),
        examples.table(),
        _near_table(near, task.admission.near),
        text_table([text for text in rendered if text is not None], task.roles),
    )


def _above(reading: Reading, floor: float) -> Reading:
    above = reading.value > floor
    if above.all():
        return reading
    names = ("sample", "position", "feature", "value", "role")
    return reading._replace(**{name: getattr(reading, name)[above] for name in names})


def merge_near(near: NearMisses, batch: NearMisses, start: int = 0) -> None:
    """Brings a batch's near misses into `near`: only where the batch has any that may stay."""
    better = np.flatnonzero(batch.pre[0] >= near.pre[-1])
    sample = batch.sample[:, better]
    candidates = NearMisses(
        batch.pre[:, better],
        np.where(sample < 0, -1, sample + np.int32(start)).astype(np.int32),
        batch.position[:, better],
    )
    merged = NearMisses(*(array[:, better] for array in near)).merged(candidates)
    for array, fresh in zip(near, merged, strict=True):
        array[:, better] = fresh


def _activation_table(batches: list[Activations]) -> pa.Table:
    if not batches:
        return PART_ACTIVATIONS.empty_table()
    rows = Activations(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    order = np.lexsort((rows.role, rows.sample, -rows.peak, rows.feature))
    columns = {name: getattr(rows, name)[order] for name in PART_ACTIVATIONS.names}
    return pa.table(columns, PART_ACTIVATIONS)


def near_columns(near: NearMisses, lowest: np.ndarray | float = -np.inf) -> dict[str, np.ndarray]:
    """The near misses there are, one row each, by (rank, feature); none below `lowest`."""
    rank, feature = np.nonzero((near.sample >= 0) & (near.pre >= lowest))
    columns = near._asdict()
    return {
        "feature": feature.astype(np.int32),
        "rank": rank.astype(np.int32),
        **{name: columns[name][rank, feature] for name in ("sample", "position", "pre")},
    }


def _near_table(near: NearMisses, lowest: np.ndarray) -> pa.Table:
    columns = near_columns(near, lowest)
    return pa.table(
        {k: pa.array(v, PART_NEAR.field(k).type) for k, v in columns.items()}, PART_NEAR
    )


def near_of_table(table: pa.Table, n_features: int) -> NearMisses:
    """PART_NEAR as it was. Where admission thresholds left out the better ranks none follow, so
    the rows of a feature leave no gaps."""
    near = NearMisses.none(n_features)
    rows = {name: table.column(name).to_numpy() for name in PART_NEAR.names}
    for name, array in near._asdict().items():
        array[rows["rank"], rows["feature"]] = rows[name]
    return near
