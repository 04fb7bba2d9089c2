"""JSON Lines: one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from fac.datasets import sources
from fac.datasets.layout import SourceRow
from fac.datasets.sources import Export, Format, TextSource


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
                reason = f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8"
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


def _write(table: pa.Table, path: Path) -> None:
    lines = (f"{sources.json_line(row)}\n" for row in table.to_pylist())
    path.write_text("".join(lines), encoding="utf-8")


FORMAT = Format(
    title="JSONL",
    spelled_out="JSON Lines",
    preference=0,
    kind="json",
    suffixes=(".jsonl", ".ndjson"),
    start="{",
    open=_Lines,
    export=Export(_write),
)
