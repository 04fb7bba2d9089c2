"""Plain text in one column: one user turn."""

from __future__ import annotations

from collections.abc import Mapping

from fac.datasets.layout import Column, Layout
from fac.datasets.rows import Columns
from fac.datasets.turns import turns
from fac.schema import Chat


def _chat(row: Columns, names: Mapping[str, str]) -> Chat:
    return turns(row, names["text"], "user")


LAYOUT = Layout(
    title="plain text",
    preference=3,
    columns=(Column("text", ("text", "prompt", "instruction", "question", "content")),),
    chat=_chat,
)
