"""Preferences: the chosen side is the sample, after a prompt column where it is only the answer."""

from collections.abc import Mapping

from fac.datasets.layout import (
    INPUT,
    REJECTED,
    SYSTEM,
    Column,
    Columns,
    Layout,
    turns,
    with_details,
    with_system,
)
from fac.schema import Chat

PROMPTS = ("prompt", "instruction", "question", "query", "conversations", "messages")


def _chat(row: Columns, names: Mapping[str, str]) -> Chat:
    prompt = names.get("prompt")
    chat = turns(row, names["chosen"], "assistant" if prompt else "user", transcript=True)
    if prompt and chat[0]["role"] == "assistant":
        question = turns(row, prompt, "user", transcript=True)
        if question[-1] == {"role": "assistant", "content": ""}:  # "...\n\nAssistant:"
            question.pop()
        chat = with_details(row, names, question) + chat
    return with_system(row, names, chat)


LAYOUT = Layout(
    title="chosen/rejected",
    preference=0,
    columns=(
        Column("chosen", ("chosen",), may_be_label=True),
        Column(REJECTED, ("rejected",), may_be_label=True),
        Column("prompt", PROMPTS, required=False),
        INPUT,
        SYSTEM,
    ),
    chat=_chat,
)
