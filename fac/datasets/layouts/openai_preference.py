"""OpenAI's preference rows: the preferred output is the sample, after the messages of the input."""

from collections.abc import Mapping

from fac.datasets.layout import REJECTED, Column, Columns, Layout, UnusableRow, in_words, turns
from fac.schema import Chat


def _chat(row: Columns, names: Mapping[str, str]) -> Chat:
    prompt = row.get(names["input"])
    if not isinstance(prompt, dict):
        problem = f"holds {in_words(prompt)}, not an object with messages"
        raise UnusableRow(f"the column {names['input']!r} {problem}")
    return turns(prompt, "messages", "user") + turns(row, names["chosen"], "assistant")


LAYOUT = Layout(
    title="OpenAI preference",
    preference=0,
    columns=(
        Column("input", ("input",)),
        Column("chosen", ("preferred_output",), may_be_label=True),
        Column(REJECTED, ("non_preferred_output",), may_be_label=True),
    ),
    chat=_chat,
)
