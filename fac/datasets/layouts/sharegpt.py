"""ShareGPT: chats as a list of {from, value}."""

from fac.datasets.layout import SYSTEM, Column, Layout, chat_of_messages

LAYOUT = Layout(
    title="ShareGPT",
    preference=1,
    columns=(Column("chat", ("conversations",)), SYSTEM),
    chat=chat_of_messages,
)
