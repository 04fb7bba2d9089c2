"""CSV, also with semicolons or tabs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO

from fac.datasets.delimited import delimited_rows
from fac.datasets.format import Format
from fac.datasets.rows import SourceRow
from fac.datasets.sources import Origin, TextSource


def _rows(stream: IO[bytes], origin: Origin) -> Iterator[SourceRow]:
    header = origin.text_head.split(b"\n", 1)[0]
    # spreadsheets of some countries write semicolons; the comma wins a tie
    delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
    return delimited_rows(stream, delimiter, origin.name)


FORMAT = Format(
    title="CSV",
    preference=2,
    kind="csv",
    suffixes=(".csv",),
    open=partial(TextSource, read_rows=_rows),
)
