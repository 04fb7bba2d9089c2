"""What a feature fires on, asked of a language model; and the two tests that one takes for an
explanation, detection and fuzzing (Paulo et al. 2024, arXiv 2410.13928)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from fac.prompts import form
from fac.prompts.form import Excerpt, Prompt, bad_reply, material, words, worked_prompt


class Explanation(NamedTuple):
    """What a model made of a feature."""

    text: str | None  # what the feature fires on; None where the model could not tell
    reason: str  # what led to it, in the model's words


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
    lens = []
    if promotes:
        quoted = ", ".join(json.dumps(token, ensure_ascii=False) for token in promotes)
        lens = [f"When it fires, the model expects next: {form.one_line(form.harmless(quoted))}"]
    return f"{material(None, texts, *lens)}\n\n{EXPLAIN_ASKS}"


EXPLAIN_EXAMPLE = (
    _explain_case(form.LATE_TEXTS, ()),
    {
        "reason": "each marked word says that something came later than planned",
        "explanation": form.ABOUT_LATENESS,
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


class _Explained(form.Form):
    reason: str
    explanation: str | None


def read_explanation(reply: str) -> Explanation:
    """The explanation, or None for "cannot tell". Raises BadReply, also for our own example."""
    answer = _Explained.read(reply)
    reason = words(answer.reason, "reason", reply)
    if answer.explanation is None or CANNOT.fullmatch(answer.explanation.strip()):
        return Explanation(None, reason)
    text = words(answer.explanation, "explanation", reply)
    if not text:
        raise bad_reply("the explanation is empty", reply)
    if text == EXPLAIN_EXAMPLE[1]["explanation"]:  # what very small models do
        raise bad_reply("it repeats the worked example", reply)
    return Explanation(text, reason)


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
    asks = f"Answer with one JSON object and nothing else: {{{keys}}}"
    return f"{material(explanation, texts)}\n\n{asks}"


DETECT_EXAMPLE = (
    _answers_case(
        form.ABOUT_LATENESS,
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
        form.ABOUT_LATENESS,
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


def _answers(rules: str, example: form.Example, explanation: str, texts: Sequence[str]) -> Prompt:
    if not texts or not explanation.strip():
        raise ValueError("an explanation and at least one text are needed")
    bit = {"type": "integer", "enum": [0, 1]}
    bits = {str(number): bit for number in range(1, len(texts) + 1)}
    case = _answers_case(explanation, texts)
    return worked_prompt(rules, example, case, bits, max_tokens=64 + 16 * len(texts))


def read_answers(reply: str, n: int) -> list[bool]:
    """One answer for each of the `n` texts, in their order. Raises BadReply if one is missing."""
    bits = form.only_object(reply)
    if set(bits) != {str(number) for number in range(1, n + 1)}:
        raise bad_reply(f"answers 1 to {n} were asked for", reply)
    answers = [bits[str(number)] for number in range(1, n + 1)]
    for answer in answers:
        if not isinstance(answer, int) or answer not in (0, 1):  # True and False are ints
            raise bad_reply(f"an answer is neither 0 nor 1 but {answer!r:.40}", reply)
    return [bool(answer) for answer in answers]
