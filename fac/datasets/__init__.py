"""Rows of text: files and Hugging Face datasets -> samples, each a chat with a hash for a name.

sources  which format a source has, files opened, and what several formats of formats/ share
layout   which of the layouts in layouts/ the columns speak, and a row -> a sample
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from fac.datasets.layout import (
    MAX_CHARACTERS,
    Columns,
    Sample,
    SourceLayout,
    layout_titles,
    recognise,
    sample_id,
    sample_of,
)
from fac.datasets.sources import (
    FORMATS,
    Source,
    file_titles,
    formats_in_order,
    in_a_row,
    json_line,
    open_source,
    readable,
)
from fac.errors import BadRow, InputError, Progress

__all__ = ["FORMATS", "MAX_CHARACTERS", "Sample", "SampleReader", "file_titles"]
__all__ += ["formats_in_order", "in_a_row", "json_line", "layout_titles", "read_samples"]
__all__ += ["sample_id"]

PEEK_ROWS = 1000  # how many rows the columns are collected from before the layout is decided


def read_samples(
    source: str | Path,
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    label_field: str | None = None,
) -> SampleReader:
    """Opens a path or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one likes.
    Without options the columns say which layout it is. Raises InputError for what cannot be opened,
    ServiceError when the hub does not answer."""
    if text_field and messages_field:
        raise InputError(
            f"--text-field {text_field} and --messages-field {messages_field} exclude each other: "
            f"give the one that holds the samples."
        )
    options = {"text": text_field, "messages": messages_field, "label": label_field}
    return SampleReader(*open_source(str(source)), options)


class SampleReader:
    """A source and its layout. Iterating gives, row by row, a Sample or the BadRow it is instead.
    Iterating raises InputError where the rest of the source cannot be read: damaged gzip or
    Parquet, a broken JSON array, an open quote in CSV, columns that name no layout."""

    def __init__(self, source: Source, kind: str, options: Mapping[str, str | None]):
        self.source = source
        self._options = options
        self.name = source.name
        """What the source is called in sentences and manifests: a file name or a hub id."""
        self.kind = kind  # what run ids and manifests call its format
        self.layout: SourceLayout | None = None  # known once the first readable row was met

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with readable(self.name):
            return "sha256:" + self.source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with readable(self.name):
            rows = self.source.rows()
            for row in rows:
                if row.columns is None:
                    yield BadRow(row.line, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self.source.peeked_enough():
                        break
                layout = self._decide(r.columns for r in peeked if r.columns is not None)
                for row in chain(peeked, rows):
                    yield sample_of(row, layout)
            if self.layout is None and self.source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self.source.columns)])

    def _decide(self, rows: Iterable[Columns]) -> SourceLayout:
        self.layout = recognise(rows, self._options, self.name)
        return self.layout
