"""One part of a dataset: its chats through the encoder, and the tables that come of it.

Of every feature it holds the examples that may stand for it, chosen while the data streams by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fac import schema
from fac.encoder import Encoder, NearMisses, Reading
from fac.measure.ordering import draw_priority, rank_within
from fac.measure.spans import PART_TEXTS, SPAN_TOKENS, WINDOW, span_windows, text_table
from fac.models import Rendered
from fac.schema import Activations, Chat

TOP = 10  # Strongest examples stored per feature
SPREAD = 10  # Examples shown over the quantiles of a feature's peaks, beside the strongest
SPREAD_POOL = 24  # Uniformly drawn examples from which the spread is chosen
HELD_ROWS = 500_000  # Examples of one part held before the weaker ones are dropped

CountBatch = Callable[[int, int], None]
"""(samples, tokens) of a batch that was just read; what it raises ends the reading."""

ReportRead = Callable[[int, int], None]
"""(samples, tokens) read so far by all; called often, and what it raises ends the reading."""

PART_EXAMPLES = pa.schema(
    [
        *(("feature", pa.int32()), ("sample", pa.int32()), ("role", pa.int8())),
        *(("position", pa.int32()), ("peak", pa.float32()), ("priority", pa.uint64())),
        *(("first", pa.int32()), ("length", pa.int32())),  # of the span, in tokens
        ("window", pa.binary(WINDOW.itemsize * SPAN_TOKENS)),  # activations of the span's tokens
    ]
)

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


class AdmissionThresholds(NamedTuple):
    """What a row must reach to be among the examples or near misses chosen so far.

    All have shape `[n_features]`. Rows below can never be in the result, so they make a part's
    result smaller and change nothing in the end, whichever parts they come from.
    """

    peak: np.ndarray  # float32: the weakest of TOP
    priority: np.ndarray  # uint64: the highest of SPREAD_POOL
    near: np.ndarray  # float32: the lowest pre-activation among the near misses

    @classmethod
    def none(cls, n_features: int) -> AdmissionThresholds:
        """Every row is admitted."""
        return cls(
            np.full(n_features, -np.inf, np.float32),
            np.full(n_features, np.iinfo(np.uint64).max, np.uint64),
            np.full(n_features, -np.inf, np.float32),
        )


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


class Examples:
    """Of every feature the TOP strongest rows, and SPREAD_POOL rows drawn uniformly from all that
    fired: each row gets a fixed pseudo-random priority from its coordinates and the lowest stay,
    so the draw depends neither on the order of the parts nor on a restart.
    """

    def __init__(self, n_features: int, admission: AdmissionThresholds):
        self.n_features = n_features
        self.columns = example_columns(PART_EXAMPLES.empty_table())
        self.admission = AdmissionThresholds(
            admission.peak.copy(), admission.priority.copy(), admission.near
        )
        self._waiting: list[dict[str, np.ndarray]] = []

    def offer(self, rows: dict[str, np.ndarray]) -> None:
        """Rows that may enter."""
        if len(rows["feature"]):
            self._waiting.append(rows)
        if sum(len(batch["feature"]) for batch in self._waiting) > HELD_ROWS:
            self.prune()

    def prune(self) -> None:
        """Drops what others of its feature have driven out. Only features that something new was
        offered for are looked at, fewer and fewer as the admission thresholds rise."""
        if not self._waiting:
            return
        names = PART_EXAMPLES.names
        new = {k: np.concatenate([batch[k] for batch in self._waiting]) for k in names}
        self._waiting = []
        touched = np.zeros(self.n_features, bool)
        touched[new["feature"]] = True
        old = touched[self.columns["feature"]]
        mixed = {k: np.concatenate([self.columns[k][old], new[k]]) for k in names}
        by_peak, by_draw = _ranks(mixed)
        for threshold, column, last in (
            (self.admission.peak, "peak", by_peak == TOP - 1),
            (self.admission.priority, "priority", by_draw == SPREAD_POOL - 1),
        ):
            threshold[mixed["feature"][last]] = mixed[column][last]
        stays = (by_peak < TOP) | (by_draw < SPREAD_POOL)
        self.columns = {k: np.concatenate([self.columns[k][~old], mixed[k][stays]]) for k in names}

    def table(self) -> pa.Table:
        """PART_EXAMPLES."""
        columns = {k: v for k, v in self.columns.items() if k != "window"}
        window = self.columns["window"]
        packed = pa.Array.from_buffers(
            PART_EXAMPLES.field("window").type, len(window), [None, pa.py_buffer(window.tobytes())]
        )
        return pa.table({**columns, "window": packed}, PART_EXAMPLES)

    def spans(self) -> dict[str, np.ndarray]:
        """The rows to show, by (feature, kind, rank); their quantiles are still to be filled in."""
        by_peak, by_draw = _ranks(self.columns)
        top = by_peak < TOP
        spread = _evenly(self.columns["feature"], by_peak, ~top & (by_draw < SPREAD_POOL))
        picked = np.flatnonzero(top | spread)
        rows = {k: column[picked] for k, column in self.columns.items() if k != "priority"}
        rows["is_spread"] = ~top[picked]
        order = np.lexsort((by_peak[picked], rows["is_spread"], rows["feature"]))
        rows = {k: column[order] for k, column in rows.items()}
        kinds = rows["feature"].astype(np.int64) * 2 + rows["is_spread"]
        rows["rank"] = rank_within(kinds, np.arange(len(kinds))).astype(np.int32)
        rows["quantile"] = np.zeros(len(kinds), np.float32)
        return rows


def example_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """PART_EXAMPLES as arrays; `window` is float16 `[rows, SPAN_TOKENS]`."""
    columns = {k: table.column(k).to_numpy() for k in PART_EXAMPLES.names if k != "window"}
    width = PART_EXAMPLES.field("window").type.byte_width
    packed = b"".join(
        chunk.buffers()[1][width * chunk.offset : width * (chunk.offset + len(chunk))].to_pybytes()
        for chunk in table.column("window").chunks
        if len(chunk)
    )
    return {**columns, "window": np.frombuffer(packed, WINDOW).reshape(-1, SPAN_TOKENS)}


def admitted_rows(
    reading: Reading, pooled: Activations, start: int, admission: AdmissionThresholds
) -> dict[str, np.ndarray]:
    """The batch's rows that reach the admission thresholds, with their spans.

    Samples are numbered as the dataset does, whose row `start` is the batch's sample 0.
    """
    rows = pooled._replace(sample=pooled.sample + np.int32(start))
    priority = draw_priority(rows.sample, rows.role, rows.feature)
    # A row equal to the threshold may precede it by its sample: parts come in any order.
    picked = np.flatnonzero(
        (rows.peak >= admission.peak[rows.feature]) | (priority <= admission.priority[rows.feature])
    )
    first, length, window = span_windows(reading, pooled, picked)
    return {
        **{k: getattr(rows, k)[picked] for k in ("feature", "sample", "role", "position", "peak")},
        "priority": priority[picked],
        "first": first,
        "length": length,
        "window": window,
    }


def _ranks(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each row within its feature, by strength and by priority."""
    by_peak = np.lexsort((rows["role"], rows["sample"], -rows["peak"], rows["feature"]))
    by_draw = np.lexsort((rows["priority"], rows["feature"]))
    return rank_within(rows["feature"], by_peak), rank_within(rows["feature"], by_draw)


def _evenly(group: np.ndarray, by_peak: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Mask of at most SPREAD allowed rows per group, evenly over their order of strength."""
    rows = np.flatnonzero(allowed)
    order = np.lexsort((by_peak[rows], group[rows]))
    rank = rank_within(group[rows], order)
    size = np.bincount(group[rows])[group[rows]] if len(rows) else rank
    # Of n rows take those where the running count of SPREAD/n steps to a new whole number.
    share = np.minimum(1.0, SPREAD / np.maximum(size, 1))
    steps = np.floor((rank + 1) * share + 1e-9) > np.floor(rank * share + 1e-9)
    mask = np.zeros(len(group), bool)
    mask[rows[steps]] = True
    return mask


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
