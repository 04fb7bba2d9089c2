"""Tab-separated values."""

from functools import partial

from fac.datasets.formats.csv import DelimitedSource
from fac.datasets.sources import Format

FORMAT = Format(
    title="TSV",
    preference=3,
    kind="tsv",
    suffixes=(".tsv", ".tab"),
    open=partial(DelimitedSource, delimiters="\t"),
)
