"""CSV; spreadsheets of some countries write semicolons or tabs."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import IO

from fac.datasets import sources
from fac.datasets.layout import SourceRow, shortened
from fac.datasets.sources import Format, Origin, TextSource
from fac.errors import InputError


class _LongLine(Exception):
    """Thrown through csv.reader, which then begins a new row."""


class _RecordLines:
    """Lines for csv.reader that knows where the row being read began and how long it is."""

    def __init__(self, stream: IO[bytes], name: str):
        self._lines = sources.numbered_lines(stream)
        self._name = name
        self.begin()

    def begin(self) -> None:
        self.first = self.last = self.size = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        alone = not self.first
        self.first, self.last = self.first or line.number, line.number
        self.size += len(line.data)
        if line.too_long and alone and line.quotes % 2 == 0:
            raise _LongLine
        if line.too_long or self.size > sources.MAX_ROW_BYTES:
            raise self.open_quote()
        return line.data.decode("utf-8", "surrogateescape")

    def open_quote(self) -> InputError:
        """Not a matter of one row: who can say how many rows the quote has swallowed?"""
        return InputError(
            f"{self._name}: the row that begins on line {self.first} has a quote that does not "
            f"close within {sources.MAX_ROW_BYTES:,} bytes or before the end. Close it, or write a "
            f"quote inside a text as two."
        )


class DelimitedSource(TextSource):
    """A table with a header line. Quotes as in RFC 4180: doubled inside quoted fields."""

    def __init__(self, origin: Origin, *, delimiters: str):
        """Of several delimiters the one that the header has most of; the first wins a tie."""
        super().__init__(origin)
        header = self.head.split(b"\n", 1)[0]
        self.delimiter = max(delimiters, key=lambda mark: header.count(mark.encode()))
        self.sep = re.fullmatch(rb'(?i:"?sep=([^\w"])"?\r?)', header)  # Excel's line about it
        if self.sep:
            self.delimiter = self.sep[1].decode("latin-1")

    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        # one limit for the process; our own limits are the tighter ones
        csv.field_size_limit(sources.MAX_ROW_BYTES)
        lines = _RecordLines(stream, self.name)
        if self.sep:
            next(lines)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        header: list[str] = []
        while True:
            lines.begin()
            problem, fields = "", []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except _LongLine:
                problem = sources.TOO_LONG
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise lines.open_quote() from error
                span = f" up to line {lines.last}" if lines.last > lines.first else ""
                problem = f"it is not proper CSV ({error}){span}"
            if problem and not header:
                where = f"{self.name} has no readable header on line {lines.first}"
                raise InputError(f"{where}: {problem}.")
            if fields and not header:
                header = self._header(fields)
                continue
            if fields and len(fields) != len(header):
                problem = f"it has {len(fields)} fields, the header has {len(header)}"
            if problem:
                yield SourceRow(lines.first, None, problem)
            elif fields:  # the line is not empty
                yield SourceRow(lines.first, dict(zip(header, fields, strict=True)))

    def _header(self, fields: list[str]) -> list[str]:
        names = [field or f"column {i}" for i, field in enumerate(fields, start=1)]
        for name, count in Counter(names).items():
            if count > 1:
                raise InputError(
                    f"{self.name} has several columns called {shortened(name)}: rename one."
                )
        return names


FORMAT = Format(
    title="CSV",
    preference=2,
    kind="csv",
    suffixes=(".csv",),
    open=partial(DelimitedSource, delimiters=",;\t"),
)
