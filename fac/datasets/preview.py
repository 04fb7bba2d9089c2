"""A look at the beginning of a source: its columns, the layout they speak and what its first rows
become, before anybody stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fac.datasets.layout import NoLayout, Sample, SourceLayout
from fac.datasets.sources import PEEK_BYTES, read_samples
from fac.errors import BadRow, InputError

ROWS = 5
"""Rows that are shown."""

LOOKED_AT = 500
"""Rows that are read to tell how long texts are and whether rows are refused; of a text file more,
where fewer bytes than PEEK_BYTES hold them."""


class Preview(NamedTuple):
    """What a source is taken for."""

    columns: Sequence[str]  # of its first rows
    layout: SourceLayout | None  # None where the columns do not say
    problem: str  # what is the matter with the columns, to follow "The columns"; "" where nothing
    rows: Sequence[Sample | BadRow]  # the first ROWS
    bad: Sequence[BadRow]  # of the rows that were looked at
    lengths: Sequence[int]  # characters of the samples that were looked at
    share: float  # about what part of all rows was looked at

    @property
    def n_rows(self) -> int:
        """About how many rows there are; exactly, where `share` is 1."""
        return round((len(self.lengths) + len(self.bad)) / self.share) if self.share else 0

    @property
    def beside(self) -> list[str]:
        """Columns that are neither text nor label: they are kept in meta and not measured."""
        return self.layout.beside(self.columns) if self.layout else []


def preview(source: str | Path, fields: Mapping[str, str | None]) -> Preview:
    """The beginning of a source as `read_samples` reads it with these `fields` (`text_field`, ...).

    Raises InputError for what cannot be read and for a field that names no column, ServiceError
    when the hub does not answer; columns that do not say which of them hold the samples are no
    error here.
    """
    reader = read_samples(source, **fields, look=True)
    rows: list[Sample | BadRow] = []
    bad: list[BadRow] = []
    lengths: list[int] = []
    share, number = 1.0, 0
    try:
        for number, row in enumerate(reader, start=1):
            if len(rows) < ROWS:
                rows.append(row)
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                lengths.append(sum(len(message["content"]) for message in row.messages))
            enough = number >= LOOKED_AT or reader.source.done > PEEK_BYTES
            if enough and number >= reader.n_peeked:
                break
        share = reader.source.share(number)
    except NoLayout as error:
        return Preview(error.columns, None, error.problem, (), (), (), 1.0)
    layout = reader.layout
    if layout is None:  # a broken file, or one without rows
        if bad:
            raise InputError(
                f"None of the {len(bad):,} rows of {reader.name} can be used; line {bad[0].line}: "
                f"{bad[0].reason}."
            )
        raise InputError(f"{reader.name} has no rows: give a file with at least one sample.")
    return Preview(reader.columns, layout, "", rows, bad, lengths, share)
