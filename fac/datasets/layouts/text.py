"""Plain text in one column: one user turn."""

from fac.datasets.layout import Column, Layout, turns

LAYOUT = Layout(
    title="plain text",
    preference=3,
    columns=(Column("text", ("text", "prompt", "instruction", "question", "content")),),
    chat=lambda row, names: turns(row, names["text"], "user"),
)
