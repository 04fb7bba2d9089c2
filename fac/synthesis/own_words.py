"""Which words of a text are its own, and which it has from what its writer was shown. Pure.

A text hits its gap where the feature fires on a token of its own words: the feature's own word may
recur, the sentence around it may not. Words are those of `fac.synthesis.filter.words`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from fac.models import Rendered
from fac.schema import Chat
from fac.synthesis.filter import WORD

SHARED = 3  # words in a row that make them a source's

Stretch = tuple[int, int]  # first character of a message, and one past the last


def borrowed(text: str, sources: Iterable[str], prescribed: int = 0) -> list[Stretch]:
    """Stretches of the text that are not its own, in order and apart: words in SHARED words in a
    row that some source has too, and its first `prescribed` words. What stands after a word, up to
    the next, goes with it; what stands before the first, with the first."""
    spans = [match.span() for match in WORD.finditer(text)]
    spoken = [text[start:end].lower() for start, end in spans]
    shared = {gram for source in sources for gram in _grams(_words(source))}
    taken = [number < prescribed for number in range(len(spans))]
    for first, gram in enumerate(_grams(spoken)):
        if gram in shared:
            taken[first : first + SHARED] = [True] * SHARED
    edges = [0, *(start for start, _ in spans[1:]), len(text)]
    stretches: list[Stretch] = []
    for number in np.flatnonzero(taken).tolist():
        start, end = edges[number], edges[number + 1]
        if stretches and stretches[-1][1] == start:
            start = stretches.pop()[0]
        stretches.append((start, end))
    return stretches


def _words(text: str) -> list[str]:
    return [match.lower() for match in WORD.findall(text)]


def _grams(spoken: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(spoken[i : i + SHARED]) for i in range(len(spoken) - SHARED + 1))


def is_borrowed(text: str, stretches: Sequence[Stretch], start: int, end: int) -> bool:
    """Whether the token from `start` to `end` of a text belongs to what `borrowed` says: any of
    its words does, or, where it has none, the word before it."""
    at = [match.start() for match in WORD.finditer(text[:end], start)] or [start]
    return any(first <= place < last for place in at for first, last in stretches)


def borrowed_tokens(
    chat: Chat, rendered: Rendered, stretches: Mapping[int, Sequence[Stretch]]
) -> np.ndarray:
    """Which tokens of a rendered chat are not its own, bool `[n_tokens]`; `stretches` are those of
    its messages by their index. What the template adds is nobody's, and so not borrowed."""
    taken = np.zeros(len(rendered.ids), bool)
    for position, (turn, start, end) in token_stretches(chat, rendered):
        if parts := stretches.get(turn):
            taken[position] = is_borrowed(chat[turn]["content"], parts, start, end)
    return taken


def token_stretches(chat: Chat, rendered: Rendered) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """(position, (message, first character, one past the last)) of every content token. A template
    may trim a content, so the turn's text is looked up in it."""
    for turn, message in enumerate(chat):
        positions = np.flatnonzero(rendered.turn == turn)
        if not len(positions):
            continue
        first, last = int(rendered.starts[positions[0]]), int(rendered.ends[positions[-1]])
        content = rendered.text[first:last]
        lead = len(content) - len(content.lstrip())
        at = message["content"].find(content.strip())
        shift = max(at, 0) - first - lead
        for position in positions.tolist():
            start, end = int(rendered.starts[position]), int(rendered.ends[position])
            yield position, (turn, max(0, start + shift), max(0, end + shift))
