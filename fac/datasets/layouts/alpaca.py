"""Alpaca: an instruction, what it is about, the output, and the turns before them."""

from fac.datasets.layout import HISTORY, INPUT, REPLY, SYSTEM, Column, Layout, chat_of_exchange

LAYOUT = Layout(
    title="Alpaca",
    preference=2,
    columns=(Column("prompt", ("instruction",)), INPUT, REPLY, SYSTEM, HISTORY),
    chat=chat_of_exchange,
)
