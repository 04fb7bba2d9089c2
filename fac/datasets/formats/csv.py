"""CSV; spreadsheets of some countries write semicolons or tabs."""

from functools import partial

from fac.datasets.sources import DelimitedSource, Format

FORMAT = Format(
    title="CSV",
    preference=2,
    kind="csv",
    suffixes=(".csv",),
    open=partial(DelimitedSource, delimiters=",;\t"),
)
