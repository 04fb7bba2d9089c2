"""JSON Lines: one object a line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from fac.datasets import sources
from fac.datasets.layout import SourceRow, windows_hint
from fac.datasets.sources import WRAPPERS, Export, Format, TextSource, is_chat


class _Lines(TextSource):
    def read(self, stream: IO[bytes]) -> Iterator[SourceRow]:
        # control characters get a better reason later
        decode = json.JSONDecoder(strict=False).decode
        for line in sources.numbered_lines(stream):
            if line.too_long:
                yield SourceRow(line.number, None, sources.TOO_LONG)
                continue
            try:
                text = line.data.decode("utf-8").rstrip("\r\n")
                row = sources.object_row(line.number, decode(text)) if text.strip() else None
            except UnicodeDecodeError as error:
                byte = line.data[error.start]
                hint = windows_hint(byte)
                reason = f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8{hint}"
                row = SourceRow(line.number, None, reason)
            except json.JSONDecodeError as error:
                reason = f"it is not JSON ({error.msg} at column {error.colno})"
                row = SourceRow(line.number, None, reason)
            except ValueError:  # Python refuses integers of thousands of digits
                row = SourceRow(line.number, None, "it holds a number of too many digits")
            except RecursionError:
                row = SourceRow(line.number, None, "its JSON is nested too deeply")
            if row:
                yield row


def is_lines(text: str) -> bool:
    """Whether JSON text that begins so has a row a line, broken ones included."""
    first, _, rest = text.partition("\n")
    first, rest = first.strip(), rest.strip()
    try:
        value = json.loads(first, strict=False)
    except (ValueError, RecursionError):
        # Broken, cut off here, or written over several lines.
        wraps = re.match(r'\{\s*"(\w+)"\s*:\s*\[', first)
        several = (wraps and wraps[1] in WRAPPERS and not rest) or (
            first in ("{", "[") or (first.endswith(("{", "[", ",")) and rest[:1] in ('"', "{", "["))
        )
        return text.startswith("{") and not several
    if isinstance(value, list):
        return rest.startswith("[") and is_chat(value)
    alone = isinstance(value, dict) and not rest
    return not (alone and (WRAPPERS & {*value} or all(isinstance(v, dict) for v in value.values())))


def _write(table: pa.Table, path: Path) -> None:
    lines = (f"{sources.json_line(row)}\n" for row in table.to_pylist())
    path.write_text("".join(lines), encoding="utf-8")


FORMAT = Format(
    title="JSONL",
    spelled_out="JSON Lines",
    preference=0,
    kind="json",
    suffixes=(".jsonl", ".ndjson"),
    holds=is_lines,
    open=_Lines,
    export=Export(_write),
)
