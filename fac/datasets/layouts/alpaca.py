"""Alpaca: an instruction, what it is about, and the output."""

from fac.datasets.layout import INPUT, REPLY, SYSTEM, Column, Layout, chat_of_exchange

LAYOUT = Layout(
    title="Alpaca",
    preference=2,
    columns=(Column("prompt", ("instruction",)), INPUT, REPLY, SYSTEM),
    chat=chat_of_exchange,
)
