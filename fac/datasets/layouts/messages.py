"""Chats as a list of {role, content}, or that list as JSON text."""

from fac.datasets.layout import SYSTEM, Column, Layout, chat_of_messages

LAYOUT = Layout(
    title="messages",
    preference=1,
    columns=(Column("chat", ("messages",)), SYSTEM),
    chat=chat_of_messages,
)
