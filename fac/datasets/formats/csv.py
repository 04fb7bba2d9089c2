"""CSV, also with semicolons or tabs."""

from collections.abc import Iterator
from typing import IO

from fac.datasets.delimited import delimited_rows
from fac.datasets.format import Format
from fac.datasets.rows import SourceRow
from fac.datasets.sources import TextSource


class _Csv(TextSource):
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        header = self.head.split(b"\n", 1)[0]
        # spreadsheets of some countries write semicolons; the comma wins a tie
        delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
        return delimited_rows(stream, delimiter, self.name)


FORMAT = Format(title="CSV", preference=2, kind="csv", suffixes=(".csv",), open=_Csv)
