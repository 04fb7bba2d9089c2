"""The orders that rows have: by strength, by a fixed draw, and sorted by feature on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from fac.errors import disk_room
from fac.schema import ROLES

FEATURE_RANGES = 256
"""Files at most that a table is sorted through; beyond that many, each becomes larger."""

ROLE_BITS = (len(ROLES) - 1).bit_length()
FEATURE_BITS = 32  # Bits that a role and a feature take in a key of 64


def strength_keys(rows: pa.Table | Mapping[str, np.ndarray]) -> np.ndarray:
    """uint64 that sorts by (feature, peak descending). Peaks are above zero, and the bits of such
    floats are in the order of their values."""
    feature, peak = (_array(rows[name]) for name in ("feature", "peak"))
    bits = np.ascontiguousarray(peak, np.float32).view(np.uint32)
    return _first_key(feature) | (~bits).astype(np.uint64)


def _first_key(feature: np.ndarray) -> np.ndarray:
    return feature.astype(np.uint64) << np.uint64(FEATURE_BITS)


def _array(column: pa.ChunkedArray | np.ndarray) -> np.ndarray:
    return column if isinstance(column, np.ndarray) else column.to_numpy()


def draw_priority(sample: np.ndarray, role: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random uint64 per row (splitmix64 of its coordinates)."""
    z: np.ndarray = (
        (sample.astype(np.uint64) << np.uint64(FEATURE_BITS + ROLE_BITS))
        ^ (feature.astype(np.uint64) << np.uint64(ROLE_BITS))
        ^ role.astype(np.uint64)
    )
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def rank_within(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rank of each row among those of its group, where `order` sorts by (group, ...)."""
    ordered = group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1)) if len(order) else order
    sizes = np.diff(np.append(starts, len(ordered)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def weaker_share(table: pa.Table, keys: np.ndarray, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The share of its feature's rows that come after each of `rows` in the sorted table.

    `keys` are the table's `strength_keys`.
    """
    rank = np.searchsorted(keys, strength_keys(rows), side="left")
    beyond = np.searchsorted(keys, strength_keys(rows), side="right")
    ties = np.flatnonzero(beyond - rank > 1)
    if len(ties):  # which stand in the order of sample and role
        sample, role = (table.column(name).to_numpy() for name in ("sample", "role"))
        order = _tie_key(sample, role)
        tied = _tie_key(rows["sample"], rows["role"])
        for i in ties.tolist():
            rank[i] += np.searchsorted(order[rank[i] : beyond[i]], tied[i])
    begins = np.searchsorted(keys, _first_key(rows["feature"]))
    size = np.searchsorted(keys, _first_key(rows["feature"] + 1)) - begins
    return (size - 1 - (rank - begins)) / size


def _tie_key(sample: np.ndarray, role: np.ndarray) -> np.ndarray:
    return (sample.astype(np.int64) << ROLE_BITS) + role


class FeatureSort:
    """Tables sorted by feature go in, ranges of features come out: an external sort.

    Every table is read once and every row written once more, so the time grows with the rows and
    not with parts times ranges; what is in memory is one table or one range.
    """

    def __init__(
        self, scratch: Path, name: str, table_schema: pa.Schema, sizes: np.ndarray, limit: int
    ):
        """`sizes` are the rows of each feature; a range has at most `limit` rows, or one feature,
        unless that made more than FEATURE_RANGES files."""
        self.name, self.schema = name, table_schema
        self._folder = scratch / f"_sorting-{name}"
        self._ranges = [*_ranges(sizes, max(limit, int(sizes.sum()) // FEATURE_RANGES))]
        self._files = ExitStack()

    def __enter__(self) -> FeatureSort:
        shutil.rmtree(self._folder, ignore_errors=True)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with disk_room(f"the table {self.name}"):
            self._folder.mkdir()
            self._writers = [
                self._files.enter_context(
                    pa.ipc.new_stream(
                        self._files.enter_context(pa.OSFile(str(self._path(i)), "wb")),
                        self.schema,
                        options=options,
                    )
                )
                for i in range(len(self._ranges))
            ]
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"

    def add(self, table: pa.Table) -> None:
        """Rows sorted by feature."""
        table = table.select(self.schema.names).cast(self.schema).combine_chunks()
        bounds = [first for first, _ in self._ranges] + [self._ranges[-1][1]]
        cuts = np.searchsorted(table.column("feature").to_numpy(), bounds).tolist()
        with disk_room(f"the table {self.name}"):
            for writer, (low, high) in zip(self._writers, pairwise(cuts), strict=True):
                if high > low:
                    writer.write_table(table.slice(low, high - low))

    def ranges(self) -> Iterator[tuple[int, int, pa.Table]]:
        """(first feature, one past the last, all their rows: in the order they were added)."""
        with disk_room(f"the table {self.name}"):
            self._files.close()
        for number, (first, last) in enumerate(self._ranges):
            with pa.OSFile(str(self._path(number))) as file:
                table = pa.ipc.open_stream(file).read_all()
            self._path(number).unlink()
            yield first, last, table


def _ranges(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Feature ranges [first, last) of at most `limit` rows (or one feature)."""
    first, rows = 0, 0
    for feature, size in enumerate(sizes.tolist()):
        if rows and rows + size > limit:
            yield first, feature
            first, rows = feature, 0
        rows += size
    if len(sizes):
        yield first, len(sizes)
