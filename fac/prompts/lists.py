"""Lists that any local model goes on with, chat model or not: texts of a kind, words with a text
that uses them, answers with the message that each answers."""

from __future__ import annotations

from collections.abc import Sequence

from fac.prompts.drafts import SNIPPET, Opening, candidate_opening
from fac.prompts.form import Excerpt, described, safe
from fac.prompts.profiles import first_part, profile_of

ASSISTANT = "assistant"

ANSWERS = "answers that an AI assistant gave"
MESSAGES = "messages that people sent to an AI assistant"

KINDS = {
    "text": "a text that uses them",
    "toxicity": "a comment that uses them",
    "instruction": "a message to an assistant that uses them",
}
"""What stands after the words of a list, by the profile of a first part; messages otherwise."""


def texts(
    profile: str, role: str, explanation: str | None, spans: Sequence[Excerpt], starts: str = ""
) -> Opening:
    """A list of texts in which a feature fires, of answers or of what the profile begins with.
    Raises ValueError where there is neither an explanation nor a span."""
    if role != ASSISTANT:
        return candidate_opening(profile, explanation, spans, starts)
    if not spans and not described(explanation):
        raise ValueError("there is neither an explanation nor a span to write from")
    about = f" ({safe(explanation)[:SNIPPET]})" if explanation and explanation.strip() else ""
    head = f"A list of {ANSWERS}. All of them have the same thing in common{about}:"
    shown = (safe("".join(span.tokens)) for span in spans)
    lines = [f"- {text[:SNIPPET].rstrip()}" for text in shown if text]
    return Opening("\n".join((f"{head}\n", *lines, "-")), "")


def uses(profile: str, role: str, shown: Sequence[tuple[str, str]], words: str) -> Opening:
    """A list of words, each with a text that uses them, as far as the text for `words`. `shown` are
    words and texts."""
    form = first_part(profile)
    kind = KINDS.get(form.name, KINDS["instruction"])
    if role == ASSISTANT:
        kind = "an answer of an assistant that uses them"
    lines = [f"- {safe(each)}: {safe(text)}" for each, text in shown]
    head = f"A list of words, each with {kind}:"
    return Opening("\n".join((f"{head}\n", *lines, f"- {safe(words)}:")), "")


def messages(examples: Sequence[str]) -> Opening:
    """A list of messages like the examples, as far as the next one."""
    lines = [f"- {safe(text)[:SNIPPET].rstrip()}" for text in examples]
    return Opening("\n".join((f"A list of {MESSAGES}:\n", *lines, "-")), "")


def message(profile: str, answer: str, examples: Sequence[tuple[str, str]]) -> Opening:
    """Asks for the message that an answer answers; `examples` are messages with their answers, or
    the one of the profile where there is none."""
    form = profile_of(profile)
    shown = examples or [(form.example["user"], form.example["assistant"])]

    def block(text: str, reply: str) -> str:
        return f"Answer: {safe(reply)[:SNIPPET]}\nMessage: {safe(text)[:SNIPPET]}".rstrip()

    blocks = [*(block(*pair) for pair in shown), block("", answer)]
    return Opening("\n\n".join((f"A list of {MESSAGES}, each after its answer.", *blocks)), "")
