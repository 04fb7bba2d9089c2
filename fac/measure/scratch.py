"""The parts of an unfinished measure: which are still to be read, and those that lie on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fac.config import MeasureSpec
from fac.encoder import NearMisses
from fac.errors import disk_room
from fac.measure.examples import AdmissionThresholds, Examples, example_columns
from fac.measure.parts import PART_TABLES, Part, PartTask, merge_near, near_of_table
from fac.schema import EVERY_ROLE, ROLES
from fac.store.runs import Runs, write_table

PART = 1024
"""Samples read as a unit, and between two points a restart can continue from."""


class FinishedParts:
    """The parts of a measure that lie in its scratch folder, and what they come to together."""

    def __init__(self, scratch: Path, n_samples: int, n_features: int):
        self.scratch, self.n_samples, self.n_features = scratch, n_samples, n_features
        self.numbers = range(-(-n_samples // PART))
        self.seconds = 0.0
        self.near = NearMisses.none(n_features)
        self.examples = Examples(n_features, AdmissionThresholds.none(n_features))
        self.support = np.zeros(n_features, np.int64)
        """Rows of each feature."""
        self.samples_on_disk = 0
        """When the measure began, or went on."""
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

    def unread(self, runs: Runs, spec: MeasureSpec) -> Iterator[PartTask]:
        """The parts that are not on disk, always cut at the same samples.

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
                    chats = joined[:PART].to_pylist()
                    admission = self.examples.admission._replace(near=self.near.pre[-1])
                    start = self.start(number)
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
