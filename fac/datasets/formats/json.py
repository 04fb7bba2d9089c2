"""JSON that is no JSON Lines: an array of rows, rows written over several lines each, or an object
that holds the array under one of its usual names."""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any, TextIO

from fac.datasets.formats.jsonl import is_lines
from fac.datasets.layout import SourceRow
from fac.datasets.sources import MAX_ROW_BYTES, TOO_LONG, WRAPPERS, Format, TextSource, object_row
from fac.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")


class _Document(TextSource):
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        try:
            yield from _Text(text, self.name).rows()
        finally:
            text.detach()  # or its end would close the stream, which is not ours


class _Text:
    """JSON text, of which no more than one row and a bit is held. What is broken cannot be skipped
    here: nobody knows where the next row begins."""

    def __init__(self, text: TextIO, name: str):
        self.text, self.name = text, name
        self.decoder = json.JSONDecoder(strict=False)
        self.buffer, self.at, self.line, self.ended = "", 0, 1, False

    def rows(self) -> Iterator[SourceRow]:
        if self.mark() == "[":
            yield from self.elements()
        while self.mark() == "{":
            yield from self.members()
        if self.mark():
            raise self.broken("something follows the closing bracket")

    def elements(self) -> Iterator[SourceRow]:
        """The rows of an array, from its opening bracket on."""
        self.at += 1
        while self.mark() != "]":
            line = self.line
            yield object_row(line, self.value())
            self.comma("]", "bracket")
        self.at += 1

    def members(self) -> Iterator[SourceRow]:
        """The row that an object is, or those of the array that it wraps."""
        line, columns, wraps = self.line, dict[str, Any](), False
        self.at += 1
        while self.mark() != "}":
            if self.mark() != '"':
                raise self.broken("not JSON (Expecting property name enclosed in double quotes)")
            key = self.value()
            if self.mark() != ":":
                raise self.broken("not JSON (Expecting ':' delimiter)")
            self.at += 1
            if key in WRAPPERS and self.mark() == "[" and not wraps:
                wraps = True
                yield from self.elements()
            else:
                self.mark()
                columns[key] = self.value()
            self.comma("}", "brace")
        self.at += 1
        if wraps:
            return
        if columns and all(map(_is_column, columns.values())):
            raise InputError(
                f"{self.name} holds a table by columns, as pandas writes it: write it again with "
                f"orient='records' and lines=True."
            )
        yield SourceRow(line, columns)

    def comma(self, end: str, title: str) -> None:
        """Takes the comma after a value; leaves the end."""
        follows = self.mark()
        if follows == ",":
            self.at += 1
            if self.mark() == end:
                raise self.broken(f"a comma before the closing {title}")
        elif follows != end:
            raise self.broken(f"a comma or the closing {title} is missing")

    def mark(self) -> str:
        """The next character that is no space, without taking it; empty at the end."""
        while True:
            end = _SPACE.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            self.line += self.buffer.count("\n", self.at, end)
            self.at = end
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The value that begins here; takes it."""
        while True:
            waiting = len(self.buffer) - self.at
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if waiting > MAX_ROW_BYTES:
                    where = f"{self.name}, line {self.line}"
                    raise InputError(f"{where}: {TOO_LONG} or never ends.") from error
                if self.ended or not self.more():
                    self.line += self.buffer.count("\n", self.at, error.pos)
                    raise self.broken(f"not JSON ({error.msg})") from error
            except RecursionError as error:
                raise self.broken("nested too deeply") from error
            except ValueError as error:
                raise self.broken("a number of too many digits") from error
            else:
                # a number may go on in the part not read yet
                if end < len(self.buffer) or self.ended or not self.more():
                    break
        self.line += self.buffer.count("\n", self.at, end)
        self.at = end
        return value

    def more(self) -> bool:
        """Forgets what was read, reads at least as much as is waiting; False at the end."""
        fresh = self.text.read(max(2**16, len(self.buffer) - self.at))
        if fresh:
            self.buffer, self.at = self.buffer[self.at :] + fresh, 0
        self.ended = not fresh
        return not self.ended

    def broken(self, what: str) -> InputError:
        where = f"{self.name} breaks off at line {self.line}"
        return InputError(f"{where}: {what}. Correct the JSON there.")


def _is_column(value: Any) -> bool:
    """Whether it is a column by row numbers."""
    return isinstance(value, dict) and bool(value) and all(map(str.isdigit, value))


FORMAT = Format(
    title="JSON",
    preference=1,
    kind="json",
    suffixes=(".json",),
    holds=lambda text: text.startswith(("[", "{")) and not is_lines(text),
    open=_Document,
)
