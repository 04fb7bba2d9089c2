"""Tab-separated values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO

from fac.datasets.delimited import delimited_rows
from fac.datasets.format import Format
from fac.datasets.rows import SourceRow
from fac.datasets.sources import Origin, TextSource


def _rows(stream: IO[bytes], origin: Origin) -> Iterator[SourceRow]:
    return delimited_rows(stream, "\t", origin.name)


FORMAT = Format(
    title="TSV",
    preference=3,
    kind="tsv",
    suffixes=(".tsv", ".tab"),
    open=partial(TextSource, read_rows=_rows),
)
