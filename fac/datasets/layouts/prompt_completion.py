"""A prompt and its completion under any of their usual names."""

from fac.datasets.layout import HISTORY, INPUT, REPLY, SYSTEM, Column, Layout, chat_of_exchange

LAYOUT = Layout(
    title="prompt/completion",
    preference=2,
    columns=(Column("prompt", ("prompt", "question", "query")), INPUT, REPLY, SYSTEM, HISTORY),
    chat=chat_of_exchange,
)
