"""Parquet."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from fac.datasets.batches import BATCH_ROWS, batch_rows, readable_columns, write_parquet
from fac.datasets.format import Export, Format
from fac.datasets.rows import SourceRow
from fac.datasets.sources import Origin, Source
from fac.errors import disk_room


class _ParquetSource(Source):
    def __init__(self, origin: Origin):
        super().__init__(origin)
        with self._open() as file:
            self.columns = readable_columns(file.schema_arrow)
            self.total = file.metadata.num_rows

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        if not self.origin.zipped:
            with pq.ParquetFile(self.origin.path) as file:
                yield file
            return
        with tempfile.TemporaryFile() as plain:  # Parquet is read from its end
            with self.origin.opened() as (stream, _), disk_room("the unpacked file"):
                shutil.copyfileobj(stream, plain, 2**20)
            with pq.ParquetFile(plain) as file:
                yield file

    def rows(self) -> Iterator[SourceRow]:
        self.done = 0
        with self._open() as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[*self.columns]):
                yield from batch_rows(batch, self.done)
                self.done += len(batch)


FORMAT = Format(
    title="Parquet",
    preference=4,
    kind="parquet",
    suffixes=(".parquet", ".pq"),
    magic=b"PAR1",
    open=_ParquetSource,
    export=Export(write_parquet),
)
