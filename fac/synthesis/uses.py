"""How the anchor uses the words on which a feature fires: whole sentences, since a writer copies
the form of what it is shown, and what of them a text in its own words must not say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fac.schema import Chat
from fac.store.runs import Runs
from fac.store.samples import samples_at
from fac.synthesis.filter import WORD
from fac.synthesis.own_words import SHARED

CONTEXT = 2  # words before those that fire which make a phrase of them
LONGEST = 240  # characters of a sentence that is shown

SENTENCE = re.compile(r"[^.?!…。！？\n]+[.?!…。！？]*[\"'”’)]*\s*|\n+")


class Use(NamedTuple):
    """One use of a feature's words."""

    role: str  # whose turn it is
    sentence: str  # in which the feature has its peak
    words: str  # of the sentence, on which it fires there
    before: str  # up to CONTEXT words that precede them in it
    chat: tuple[tuple[str, str], ...] = ()  # role and content of the turns up to this one

    @property
    def phrase(self) -> str:
        """The words with what precedes them."""
        return f"{self.before} {self.words}".strip()


def use(role: str, content: str, start: int, end: int) -> Use | None:
    """The use in a message whose strongest token stands from `start` to `end`; None where no word
    is near it, or its sentence is too long to be shown."""
    for whole in SENTENCE.finditer(content):
        if not whole.start() <= start < whole.end():
            continue
        spans = [match.span() for match in WORD.finditer(content, *whole.span())]
        inside = [i for i, (first, past) in enumerate(spans) if first < end and past > start]
        inside = inside or [i for i, (_, past) in enumerate(spans) if past <= start][-1:]
        sentence = " ".join(whole.group().split())
        if not inside or len(sentence) > LONGEST:
            return None
        first, last = inside[0], inside[-1]
        before = content[spans[max(0, first - CONTEXT)][0] : spans[first][0]]
        words = content[spans[first][0] : spans[last][1]]
        return Use(role, sentence, " ".join(words.split()), " ".join(before.split()))
    return None


def uses_of(
    runs: Runs, dataset: str, spans: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[int, tuple[Use, ...]]:
    """By feature the uses in its `spans`, rows of schema.SPANS, in their order and each sentence
    once; a span that is not met in its sample gives none."""
    numbers = {span["sample"] for rows in spans.values() for span in rows}
    samples = samples_at(runs, dataset, numbers, ["messages"])
    uses: dict[int, tuple[Use, ...]] = {}
    for feature, rows in spans.items():
        by_sentence: dict[str, Use] = {}
        for span in rows:
            for each in _used(span, samples[span["sample"]]["messages"]):
                by_sentence.setdefault(each.sentence, each)
        uses[feature] = tuple(by_sentence.values())
    return uses


def _used(span: Mapping[str, Any], chat: Chat) -> Iterator[Use]:
    tokens, peak = span["tokens"], span["peak_index"]
    text = "".join(tokens)
    lead = len(text) - len(text.lstrip())
    start = len("".join(tokens[:peak])) - lead
    token = tokens[peak]
    start, end = start + len(token) - len(token.lstrip()), start + len(token)
    for number, message in enumerate(chat):
        at = message["content"].find(text.strip())
        if message["role"] == span["role"] and at >= 0:
            each = use(message["role"], message["content"], at + max(start, 0), at + max(end, 1))
            if each is not None:
                turns = ((turn["role"], turn["content"]) for turn in chat[: number + 1])
                yield each._replace(chat=tuple(turns))
            return


def phrases_about(use: Use) -> Iterator[str]:
    """Every SHARED words in a row of its sentence that hold a word which fires, as they stand."""
    firing = {word.lower() for word in WORD.findall(use.words)}
    for phrase in phrases_of(use.sentence):
        if firing & {word.lower() for word in WORD.findall(phrase)}:
            yield phrase


def phrases_of(text: str, n: int = SHARED) -> Iterator[str]:
    """Every n words in a row of a text, as they stand."""
    spans = [match.span() for match in WORD.finditer(text)]
    for first in range(len(spans) - n + 1):
        phrase = text[spans[first][0] : spans[first + n - 1][1]]
        if " " in phrase:
            yield phrase
