"""Parquet."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from fac.datasets.sources import (
    BATCH_ROWS,
    BatchSource,
    Export,
    Format,
    Origin,
    readable_columns,
    write_parquet,
)
from fac.errors import disk_room


class _ParquetSource(BatchSource):
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

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=[*self.columns])


FORMAT = Format(
    title="Parquet",
    preference=4,
    kind="parquet",
    suffixes=(".parquet", ".pq"),
    magic=b"PAR1",
    open=_ParquetSource,
    export=Export(write_parquet),
)
