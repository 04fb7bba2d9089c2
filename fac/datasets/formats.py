"""Formats: bytes -> rows of JSON Lines, a JSON array, CSV and Arrow batches.

Each row comes with its line, and with the reason where it cannot be read alone. What damages the
rest of the file too, such as an open quote, is an InputError. Memory holds one row and a bit.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, TextIO

import pyarrow as pa

from fac.datasets.layouts import MAX_CHARACTERS, Row, in_words, shortened
from fac.errors import InputError

MAX_ROW_BYTES = 8 * MAX_CHARACTERS
"""Longest row of a text file: six bytes for an escaped character, the rest for other columns."""

_SPACE = re.compile(r"[ \t\r\n]*")


class _Line(NamedTuple):
    number: int
    data: bytes
    """With its line end; only the beginning where the line is too long."""
    too_long: bool
    quotes: int
    """Double quotes in the whole line, counted only where it is too long."""


def _lines(stream: IO[bytes]) -> Iterator[_Line]:
    """Numbered lines; of a line beyond the limit no more than the limit is ever held."""
    number = 0
    while data := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(data) <= MAX_ROW_BYTES or data.endswith(b"\n"):
            yield _Line(number, data, False, 0)
            continue
        quotes, rest = data.count(b'"'), data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
            quotes += rest.count(b'"')
        yield _Line(number, data[:1024], True, quotes)


_TOO_LONG = (
    f"the row is longer than {MAX_ROW_BYTES:,} bytes; "
    f"a sample has at most {MAX_CHARACTERS:,} characters"
)


def json_rows(stream: IO[bytes]) -> Iterator[Row]:
    decode = json.JSONDecoder(strict=False).decode  # control characters get a better reason later
    for line in _lines(stream):
        if line.too_long:
            yield Row(line.number, None, _TOO_LONG)
            continue
        try:
            text = line.data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            byte = line.data[error.start]
            yield Row(line.number, None, f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            value = decode(text)
        except json.JSONDecodeError as error:
            reason = f"it is not JSON ({error.msg} at column {error.colno})"
            yield Row(line.number, None, reason)
        except ValueError:  # Python refuses integers of thousands of digits
            yield Row(line.number, None, "it holds a number of too many digits")
        except RecursionError:
            yield Row(line.number, None, "its JSON is nested too deeply")
        else:
            yield _object_row(line.number, value)


def _object_row(line: int, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(line, None, f"it is {in_words(value)}, not an object with named fields")
    return Row(line, value)


def array_rows(stream: IO[bytes], name: str) -> Iterator[Row]:
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
    try:
        yield from _elements(text, name)
    finally:
        text.detach()  # or its end would close the stream, which is not ours


def _elements(text: TextIO, name: str) -> Iterator[Row]:
    """The elements of one JSON array, of which no more than one element and a bit is held.

    What is broken cannot be skipped here: nobody knows where the next element begins.
    """
    decoder = json.JSONDecoder(strict=False)
    buffer, at, line, ended = "", 0, 1, False

    def more() -> bool:
        """Forgets what was read, reads at least as much as is waiting; False at the end."""
        nonlocal buffer, at, ended
        fresh = text.read(max(2**16, len(buffer) - at))
        if fresh:
            buffer, at = buffer[at:] + fresh, 0
        ended = not fresh
        return not ended

    def mark() -> str:
        """The next character that is no space, without taking it; empty at the end."""
        nonlocal at, line
        while True:
            end = _SPACE.match(buffer, at).end()  # type: ignore[union-attr]
            line += buffer.count("\n", at, end)
            at = end
            if at < len(buffer):
                return buffer[at]
            if not more():
                return ""

    def broken(what: str) -> InputError:
        return InputError(f"{name} breaks off at line {line}: {what}. Correct the JSON there.")

    mark()
    at += 1  # the opening bracket, which is why we are here
    while (next_mark := mark()) != "]":
        while True:
            try:
                value, end = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                if len(buffer) - at > MAX_ROW_BYTES:
                    raise InputError(f"{name}, line {line}: {_TOO_LONG} or never ends.") from error
                if ended or not more():
                    line += buffer.count("\n", at, error.pos)
                    raise broken(f"not JSON ({error.msg})") from error
            except RecursionError as error:
                raise broken("nested too deeply") from error
            except ValueError as error:
                raise broken("a number of too many digits") from error
            else:
                # a number may go on in the part not read yet
                if end < len(buffer) or ended or not more():
                    break
        yield _object_row(line, value)
        line += buffer.count("\n", at, end)
        at = end
        next_mark = mark()
        if next_mark == ",":
            at += 1
            if mark() == "]":
                raise broken("a comma before the closing bracket")
        elif next_mark != "]":
            raise broken("a comma or the closing bracket is missing")
    at += 1
    if mark():
        raise broken("something follows the closing bracket")


class _LongLine(Exception):
    """Thrown through csv.reader, which then begins a new row."""


class _RecordLines:
    """Lines for csv.reader that knows where the row being read began and how long it is."""

    def __init__(self, stream: IO[bytes], name: str):
        self._lines = _lines(stream)
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


def csv_rows(stream: IO[bytes], delimiter: str, name: str) -> Iterator[Row]:
    """Rows of a table with a header line. Quotes as in RFC 4180: doubled inside quoted fields."""
    csv.field_size_limit(MAX_ROW_BYTES)  # one for the process; our own limits are the tighter ones
    lines = _RecordLines(stream, name)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        lines.begin()
        problem, fields = "", []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _LongLine:
            problem = _TOO_LONG
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise lines.open_quote() from error
            span = f" up to line {lines.last}" if lines.last > lines.first else ""
            problem = f"it is not proper CSV ({error}){span}"
        if problem and not header:
            raise InputError(f"{name} has no readable header on line {lines.first}: {problem}.")
        if problem:
            yield Row(lines.first, None, problem)
        elif not fields:  # an empty line
            continue
        elif not header:
            header = _header(fields, name)
        elif len(fields) != len(header):
            problem = f"it has {len(fields)} fields, the header has {len(header)}"
            yield Row(lines.first, None, problem)
        else:
            yield Row(lines.first, dict(zip(header, fields, strict=True)))


def _header(fields: list[str], name: str) -> list[str]:
    names = [field or f"column {i}" for i, field in enumerate(fields, start=1)]
    twice = [field for field, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"{name} has several columns called {shortened(twice[0])}: rename one.")
    return names


def batch_rows(batch: pa.RecordBatch, before: int) -> Iterator[Row]:
    """Rows of a batch, numbered from `before` + 1."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are no UTF-8, a date beyond the calendar
        for i in range(len(batch)):
            try:
                yield Row(before + i + 1, batch.slice(i, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield Row(before + i + 1, None, f"it cannot be read ({error})")
        return
    for i, row in enumerate(rows, start=before + 1):
        yield Row(i, row)
