"""Tab-separated values."""

from functools import partial

from fac.datasets.delimited import DelimitedSource
from fac.datasets.format import Format

FORMAT = Format(
    title="TSV",
    preference=3,
    kind="tsv",
    suffixes=(".tsv", ".tab"),
    open=partial(DelimitedSource, delimiters="\t"),
)
