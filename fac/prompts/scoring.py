"""The two tests that a language model takes for an explanation, and its answers read.

Detection and fuzzing are those of Paulo et al. 2024 (arXiv 2410.13928).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fac.prompts.fences import Excerpt, fenced, numbered, safe
from fac.prompts.form import ABOUT_LATENESS, Prompt, bad_reply, only_object, worked_prompt

DETECT = """\
You get a description of something that occurs in some texts, and then numbered texts. Decide for \
each text by itself whether what is described occurs anywhere in it: 1 if it does, 0 if not. It \
may occur in all, some or none of them. Judge by the description alone, even if it seems odd."""

FUZZ = """\
You get a description of certain words, and then numbered texts in which some words stand between \
<< and >>. Decide for each text by itself whether the marked words are the ones that the \
description means: 1 if they are, 0 if other words are marked. They may be right in all, some or \
none of the texts. Judge by the description alone, even if it seems odd."""


def _answers_case(explanation: str, texts: Sequence[str]) -> str:
    keys = ", ".join(f'"{number}": 0 or 1' for number in range(1, len(texts) + 1))
    material = fenced([f"Description: {safe(explanation)}", *numbered(texts)])
    return f"{material}\n\nAnswer with one JSON object and nothing else: {{{keys}}}"


DETECT_EXAMPLE = (
    _answers_case(
        ABOUT_LATENESS,
        [
            "Could you add two eggs and a pinch of salt?",
            "We apologise for the delay to your flight",
            "She waited an hour because the bus was behind schedule",
        ],
    ),
    {"1": 0, "2": 1, "3": 1},
)

FUZZ_EXAMPLE = (
    _answers_case(
        ABOUT_LATENESS,
        [
            "We apologise for the <<delay>> to your flight",
            "The <<bus>> was behind schedule so she waited",
            "your payment is ten days <<overdue>>",
        ],
    ),
    {"1": 1, "2": 0, "3": 1},
)


def detect(explanation: str, texts: Sequence[Excerpt]) -> Prompt:
    """Asks in which texts, shown without marks, the described feature fires."""
    return _answers(DETECT, DETECT_EXAMPLE, explanation, [text.plain() for text in texts])


def fuzz(explanation: str, texts: Sequence[Excerpt]) -> Prompt:
    """Asks in which texts the marked tokens are those that the described feature fires on."""
    return _answers(FUZZ, FUZZ_EXAMPLE, explanation, [text.text() for text in texts])


def _answers(
    rules: str, example: tuple[str, dict[str, Any]], explanation: str, texts: Sequence[str]
) -> Prompt:
    if not texts or not explanation.strip():
        raise ValueError("an explanation and at least one text are needed")
    bit = {"type": "integer", "enum": [0, 1]}
    return worked_prompt(
        rules,
        example,
        _answers_case(explanation, texts),
        {str(number): bit for number in range(1, len(texts) + 1)},
        max_tokens=64 + 16 * len(texts),
    )


def read_answers(reply: str, n: int) -> list[bool]:
    """One answer for each of the `n` texts, in their order. Raises BadReply if one is missing."""
    bits = only_object(reply)
    if set(bits) != {str(number) for number in range(1, n + 1)}:
        raise bad_reply(f"answers 1 to {n} were asked for", reply)
    answers = [bits[str(number)] for number in range(1, n + 1)]
    for answer in answers:
        if not isinstance(answer, int) or answer not in (0, 1):  # True and False are ints
            raise bad_reply(f"an answer is neither 0 nor 1 but {answer!r:.40}", reply)
    return [bool(answer) for answer in answers]
