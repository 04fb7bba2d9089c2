"""What a feature fires on: asked of a language model, and its reply read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from fac.prompts.fences import Excerpt, fenced, harmless, numbered, one_line
from fac.prompts.form import ABOUT_LATENESS, LATE_TEXTS, Form, Prompt, bad_reply, worked_prompt


class Explanation(NamedTuple):
    """What a model made of a feature."""

    text: str | None
    """What the feature fires on; None where the model could not tell."""

    reason: str
    """What led to it, in the model's words."""


EXPLAIN = """\
You study one feature of a language model. The feature fires on some tokens of a text and is \
silent on all others. You get texts in which it fired; the tokens it fired on stand between << and \
>>. Often the words just before a mark matter as much as the marked ones.

Find what the marked tokens have in common: certain words, a kind of word, a topic, a tone, or \
what the writer is doing. Say it in one short sentence, as exact as the texts allow: name the \
words if it is always the same words, name the idea if the words differ. Fit most of the texts, \
not only the first. Do not list or quote the texts.

If most of the texts have nothing in common that you can name, the explanation is null."""

EXPLAIN_ASKS = (
    'Answer with one JSON object and nothing else: {"reason": what the texts share, in a few '
    'words, "explanation": one sentence, or null if you cannot tell}'
)

CANNOT = re.compile(r"(?:i )?(?:cannot|can not|can't) tell\W*|null|none|n/a", re.IGNORECASE)


def _explain_case(texts: Sequence[str], promotes: Sequence[str]) -> str:
    lines = numbered(texts)
    if promotes:
        quoted = ", ".join(json.dumps(token, ensure_ascii=False) for token in promotes)
        lines.append(f"When it fires, the model expects next: {one_line(harmless(quoted))}")
    return f"{fenced(lines)}\n\n{EXPLAIN_ASKS}"


EXPLAIN_EXAMPLE = (
    _explain_case(LATE_TEXTS, ()),
    {
        "reason": "each marked word says that something came later than planned",
        "explanation": ABOUT_LATENESS,
    },
)


def explain(excerpts: Sequence[Excerpt], promotes: Sequence[str] = ()) -> Prompt:
    """Asks what a feature fires on, shown texts with its tokens marked.

    `promotes` are the tokens its decoder direction makes likelier (logit lens). Raises ValueError
    without texts.
    """
    if not excerpts:
        raise ValueError("there is no text to explain a feature from")
    return worked_prompt(
        EXPLAIN,
        EXPLAIN_EXAMPLE,
        _explain_case([excerpt.text() for excerpt in excerpts], promotes),
        {"reason": {"type": "string"}, "explanation": {"type": ["string", "null"]}},
        max_tokens=256,
    )


class _Explained(Form):
    reason: str
    explanation: str | None


def read_explanation(reply: str) -> Explanation:
    """The explanation, or None for "cannot tell". Raises BadReply, also for our own example."""
    answer = _Explained.read(reply)
    if answer.explanation is None or CANNOT.fullmatch(answer.explanation):
        return Explanation(None, answer.reason)
    if not answer.explanation:
        raise bad_reply("the explanation is empty", reply)
    if answer.explanation == EXPLAIN_EXAMPLE[1]["explanation"]:  # what very small models do
        raise bad_reply("it repeats the worked example", reply)
    return Explanation(answer.explanation, answer.reason)
