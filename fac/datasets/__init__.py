"""Rows of text: files and Hugging Face datasets -> samples, each a chat with a hash for a name.

Owns: finding out what a source is (JSON Lines, a JSON array, CSV, TSV, Parquet, each also gzip;
`hf:ID`), which layout its columns speak, what makes a row unusable.
Does not own: what becomes of the samples (`fac.ingest`), tokens.

layouts  which columns become the chat, what makes a row unusable
formats  bytes -> rows: JSON Lines, a JSON array, CSV, Arrow
sources  files and hub datasets, opened
here     reading
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fac.datasets.formats import MAX_ROW_BYTES
from fac.datasets.layouts import (
    MAX_CHARACTERS,
    Columns,
    Layout,
    Sample,
    Wanted,
    recognise,
    sample_id,
    sample_of,
)
from fac.datasets.sources import Hub, Progress, Source, open_file, readable
from fac.errors import BadRow, InputError

__all__ = [
    "MAX_CHARACTERS",
    "MAX_ROW_BYTES",
    "PEEK_ROWS",
    "Columns",
    "Layout",
    "Progress",
    "Reading",
    "Sample",
    "read_samples",
    "sample_id",
]

PEEK_ROWS = 1000
"""How many rows the columns are collected from before the layout is decided."""


def read_samples(
    source: str | Path,
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    label_field: str | None = None,
) -> Reading:
    """Opens a path or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one likes.

    Without options the columns say which layout it is; see `Layout`. Raises InputError for what
    cannot be opened, ServiceError when the hub does not answer.
    """
    if text_field and messages_field:
        raise InputError(
            f"--text-field {text_field} and --messages-field {messages_field} exclude each other: "
            f"give the one that holds the samples."
        )
    wanted = Wanted(text_field, messages_field, label_field)
    if str(source).startswith("hf:"):
        return Reading(Hub(str(source)), wanted)
    return Reading(open_file(Path(source)), wanted)


class Reading:
    """A source and its layout. Iterating gives, row by row, a Sample or the BadRow it is instead.

    Iterating raises InputError where the rest of the source cannot be read: damaged gzip or
    Parquet, a broken JSON array, an open quote in CSV, columns that name no layout.
    """

    def __init__(self, source: Source, wanted: Wanted):
        self._source = source
        self._wanted = wanted
        self.name = source.name
        """What the source is called in sentences and manifests: a file name or a hub id."""
        self.kind = source.kind
        """json, csv, tsv, parquet or hf."""
        self.layout: Layout | None = None
        """Known once the first readable row was met."""

    @property
    def done(self) -> int:
        """Bytes or rows read so far, of `total`."""
        return self._source.done

    @property
    def total(self) -> int:
        return self._source.total

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with readable(self.name):
            return "sha256:" + self._source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with readable(self.name):
            rows = self._source.rows()
            for row in rows:
                if row.columns is None:
                    yield BadRow(row.line, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self._source.peeked_enough():
                        break
                layout = self._decide([r.columns for r in peeked if r.columns is not None])
                for row in chain(peeked, rows):
                    yield sample_of(row, layout)
            if self.layout is None and self._source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self._source.columns)])

    def _decide(self, rows: list[Columns]) -> Layout:
        self.layout = recognise(rows, self._wanted, self.name)
        return self.layout
