"""What CSV and TSV have in common."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import IO

from fac.datasets.lines import MAX_ROW_BYTES, TOO_LONG, numbered_lines
from fac.datasets.rows import SourceRow, shortened
from fac.datasets.sources import Origin, TextSource
from fac.errors import InputError


class _LongLine(Exception):
    """Thrown through csv.reader, which then begins a new row."""


class _RecordLines:
    """Lines for csv.reader that knows where the row being read began and how long it is."""

    def __init__(self, stream: IO[bytes], name: str):
        self._lines = numbered_lines(stream)
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
        if line.too_long or self.size > MAX_ROW_BYTES:
            raise self.open_quote()
        return line.data.decode("utf-8", "surrogateescape")

    def open_quote(self) -> InputError:
        """Not a matter of one row: who can say how many rows the quote has swallowed?"""
        return InputError(
            f"{self._name}: the row that begins on line {self.first} has a quote that does not "
            f"close within {MAX_ROW_BYTES:,} bytes or before the end. Close it, or write a quote "
            f"inside a text as two."
        )


class DelimitedSource(TextSource):
    """A table with a header line. Quotes as in RFC 4180: doubled inside quoted fields."""

    def __init__(self, origin: Origin, *, delimiters: str):
        """Of several delimiters the one that the header has most of; the first wins a tie."""
        super().__init__(origin)
        header = self.head.split(b"\n", 1)[0]
        self.delimiter = max(delimiters, key=lambda mark: header.count(mark.encode()))

    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        csv.field_size_limit(
            MAX_ROW_BYTES
        )  # one for the process; our own limits are the tighter ones
        lines = _RecordLines(stream, self.name)
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
                problem = TOO_LONG
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise lines.open_quote() from error
                span = f" up to line {lines.last}" if lines.last > lines.first else ""
                problem = f"it is not proper CSV ({error}){span}"
            if problem and not header:
                raise InputError(
                    f"{self.name} has no readable header on line {lines.first}: {problem}."
                )
            if problem:
                yield SourceRow(lines.first, None, problem)
            elif not fields:  # an empty line
                continue
            elif not header:
                header = _header(fields, self.name)
            elif len(fields) != len(header):
                problem = f"it has {len(fields)} fields, the header has {len(header)}"
                yield SourceRow(lines.first, None, problem)
            else:
                yield SourceRow(lines.first, dict(zip(header, fields, strict=True)))


def _header(fields: list[str], name: str) -> list[str]:
    names = [field or f"column {i}" for i, field in enumerate(fields, start=1)]
    twice = [field for field, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"{name} has several columns called {shortened(twice[0])}: rename one.")
    return names
