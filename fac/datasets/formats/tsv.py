"""Tab-separated values."""

from collections.abc import Iterator
from typing import IO

from fac.datasets.delimited import delimited_rows
from fac.datasets.format import Format
from fac.datasets.rows import SourceRow
from fac.datasets.sources import TextSource


class _Tsv(TextSource):
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        return delimited_rows(stream, "\t", self.name)


FORMAT = Format(title="TSV", preference=3, kind="tsv", suffixes=(".tsv", ".tab"), open=_Tsv)
