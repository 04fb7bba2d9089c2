"""Lines of a text file, one row each or part of one, and a row as one line."""

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from fac.datasets.rows import MAX_CHARACTERS, SourceRow, in_words

MAX_ROW_BYTES = 8 * MAX_CHARACTERS
"""Longest row of a text file: six bytes for an escaped character, the rest for other columns."""

TOO_LONG = (
    f"the row is longer than {MAX_ROW_BYTES:,} bytes; "
    f"a sample has at most {MAX_CHARACTERS:,} characters"
)

# Line ends to some readers, which would cut a JSON line in two; YAML takes no bare U+007F.
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x7f\x85\u2028\u2029"})


def json_line(value: object) -> str:
    """JSON without any sign that some reader ends a line at; YAML reads it as well."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


class Line(NamedTuple):
    """A line of a file, from 1."""

    number: int
    data: bytes
    """With its line end; only the beginning where the line is too long."""
    too_long: bool
    quotes: int
    """Double quotes in the whole line, counted only where it is too long."""


def numbered_lines(stream: IO[bytes]) -> Iterator[Line]:
    """Numbered lines; of a line beyond the limit no more than the limit is ever held."""
    number = 0
    while data := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(data) <= MAX_ROW_BYTES or data.endswith(b"\n"):
            yield Line(number, data, False, 0)
            continue
        quotes, rest = data.count(b'"'), data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
            quotes += rest.count(b'"')
        yield Line(number, data[:1024], True, quotes)


def object_row(line: int, value: Any) -> SourceRow:
    """A JSON value as a row, which only an object is."""
    if not isinstance(value, dict):
        return SourceRow(line, None, f"it is {in_words(value)}, not an object with named fields")
    return SourceRow(line, value)
