"""Tab-separated values."""

from functools import partial

from fac.datasets.format import Format
from fac.datasets.sources import DelimitedSource

FORMAT = Format(
    title="TSV",
    preference=3,
    kind="tsv",
    suffixes=(".tsv", ".tab"),
    open=partial(DelimitedSource, delimiters="\t"),
)
