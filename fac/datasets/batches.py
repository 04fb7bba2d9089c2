"""Rows of Arrow batches, which Parquet files and hub datasets come in."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fac.datasets.rows import SourceRow

BATCH_ROWS = 512


def batch_rows(batch: pa.RecordBatch, before: int) -> Iterator[SourceRow]:
    """Rows of a batch, numbered from `before` + 1."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are no UTF-8, a date beyond the calendar
        for i in range(len(batch)):
            try:
                yield SourceRow(before + i + 1, batch.slice(i, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield SourceRow(before + i + 1, None, f"it cannot be read ({error})")
        return
    for i, row in enumerate(rows, start=before + 1):
        yield SourceRow(i, row)


def write_parquet(table: pa.Table, path: Path) -> None:
    """The same rows give the same bytes."""
    pq.write_table(table, path, compression="zstd")


def readable_columns(schema: pa.Schema) -> list[str]:
    """Columns without bytes in them: images and sound are no text and would fill the memory."""
    return [field.name for field in schema if not _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
