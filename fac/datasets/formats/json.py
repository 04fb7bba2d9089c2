"""One JSON array of objects."""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, TextIO

from fac.datasets.layout import SourceRow
from fac.datasets.sources import MAX_ROW_BYTES, TOO_LONG, Format, TextSource, object_row
from fac.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")


class _Array(TextSource):
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        try:
            yield from _elements(text, self.name)
        finally:
            text.detach()  # or its end would close the stream, which is not ours


def _elements(text: TextIO, name: str) -> Iterator[SourceRow]:
    """The elements of one JSON array, of which no more than one element and a bit is held. What is
    broken cannot be skipped here: nobody knows where the next element begins."""
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
                    raise InputError(f"{name}, line {line}: {TOO_LONG} or never ends.") from error
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
        yield object_row(line, value)
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


FORMAT = Format(
    title="JSON", preference=1, kind="json", suffixes=(".json",), start="[", open=_Array
)
