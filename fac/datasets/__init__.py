"""Rows of text: files and Hugging Face datasets -> samples, each a chat with a hash for a name.

sources  which format a source has, files opened, and what several formats of formats/ share
layout   which of the layouts in layouts/ the columns speak, and a row -> a sample
preview  what the beginning of a source is taken for
"""

from fac.datasets.layout import (
    MAX_CHARACTERS,
    Sample,
    SourceLayout,
    layout_titles,
    sample_id,
)
from fac.datasets.preview import Preview, preview
from fac.datasets.sources import (
    FORMATS,
    SampleReader,
    file_titles,
    formats_in_order,
    in_a_row,
    json_line,
    read_samples,
    unzipped,
)

__all__ = ["FORMATS", "MAX_CHARACTERS", "Sample", "SampleReader", "file_titles"]
__all__ += ["formats_in_order", "in_a_row", "json_line", "layout_titles", "read_samples"]
__all__ += ["sample_id", "Preview", "SourceLayout", "preview", "unzipped"]
