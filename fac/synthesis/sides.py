"""One text token by token for one feature, and the same text with less and less of what fires."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fac.encoder import Encoder
from fac.models import SCAFFOLD, Rendered
from fac.schema import EVERY_ROLE, Chat
from fac.synthesis.filter import words
from fac.synthesis.own_words import token_stretches
from fac.synthesis.scoring import of_role

NEUTRAL = "something"  # what takes the place of a word that fires

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.?!,;:]+\Z")
_SENTENCE = re.compile(r"[^.?!\n]+[.?!\n]*")


class Side(NamedTuple):
    """One text of a pair as measured."""

    messages: Chat
    peak: float  # g_i(x), 0 where silent
    tokens: list[str]  # its content tokens, those of all turns
    activations: list[float]  # of each; 0 where silent
    turn: int  # index of the message that the peak lies in; -1 where silent
    firing: tuple[tuple[int, int, int], ...]
    """(message, first character, one past the last) of every token on which it fires, the one of
    the peak first."""


def trace(
    encoder: Encoder, texts: Sequence[tuple[Chat, int]], role: str = EVERY_ROLE
) -> list[Side]:
    """Each text token by token for its one feature; tokens of other roles do not count."""
    sides: dict[int, Side] = {}
    if not texts:
        return []
    for reading in encoder.read([chat for chat, _ in texts]):
        for sample, rendered in zip(reading.samples, reading.rendered, strict=True):
            chat, feature = texts[sample]
            rows = (reading.sample == sample) & (reading.feature == feature)
            rows &= of_role(reading.role, role)
            fired = zip(reading.position[rows].tolist(), reading.value[rows].tolist(), strict=True)
            sides[sample] = _side(chat, rendered, dict(fired))
    return [sides[sample] for sample in range(len(texts))]


def _side(chat: Chat, rendered: Rendered, fired: Mapping[int, float]) -> Side:
    """`fired` holds activations by token position."""
    pieces = rendered.pieces(0, len(rendered.ids))
    content = np.flatnonzero(rendered.role != SCAFFOLD).tolist()
    order = sorted(fired, key=lambda position: (-fired[position], position))
    stretches = dict(token_stretches(chat, rendered))
    return Side(
        messages=chat,
        peak=fired[order[0]] if order else 0.0,
        tokens=[pieces[position] for position in content],
        activations=[fired.get(position, 0.0) for position in content],
        turn=int(rendered.turn[order[0]]) if order else -1,
        firing=tuple(stretches[position] for position in order),
    )


def edits(side: Side) -> list[Chat]:
    """The chat with less and less of what fires, the smallest change first; without repetition.
    Without the word of the peak, with another in its place, the same for every word that fires,
    without the words beside the peak, without its sentence."""
    turn, start, end = side.firing[0]
    content = side.messages[turn]["content"]
    all_words = _words_at(side)
    peak = [_word_at(content, start, end)]
    wider = [_word_at(content, start, end, n) for n in (1, 2, 4)]
    sentence = next(
        (m.span() for m in _SENTENCE.finditer(content) if m.start() <= start < m.end()),
        (start, end),
    )
    changes: list[tuple[dict[int, list[tuple[int, int]]], str]] = [
        ({turn: peak}, ""),
        ({turn: peak}, NEUTRAL),
        (all_words, ""),
        (all_words, NEUTRAL),
        *(({turn: [span]}, "") for span in wider),
        ({turn: [sentence]}, ""),
    ]
    chats: list[Chat] = []
    for spans, instead in changes:
        chat: Chat = [
            {"role": m["role"], "content": _replaced(m["content"], spans.get(i, ()), instead)}
            for i, m in enumerate(side.messages)
        ]
        full = all(words(message["content"]) for message in chat)
        if full and chat != side.messages and chat not in chats:
            chats.append(chat)
    return chats


def _words_at(side: Side) -> dict[int, list[tuple[int, int]]]:
    """The words that fire, by message; each once, in their order."""
    spans_of: dict[int, set[tuple[int, int]]] = {}
    for turn, start, end in side.firing:
        word = _word_at(side.messages[turn]["content"], start, end)
        spans_of.setdefault(turn, set()).add(word)
    return {turn: sorted(spans) for turn, spans in spans_of.items()}


def _word_at(content: str, start: int, end: int, n: int = 0) -> tuple[int, int]:
    """The words that a stretch lies in, of mere space the word after it; and n more beside them."""
    spans = [m.span() for m in _WORD.finditer(content)]
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    inside = inside or [i for i, (a, _) in enumerate(spans) if a >= end][:1]
    if not spans:
        return (start, end)
    first, last = (inside[0], inside[-1]) if inside else (len(spans) - 1,) * 2
    return spans[max(0, first - n)][0], spans[min(len(spans) - 1, last + n)][1]


def _replaced(content: str, spans: Iterable[tuple[int, int]], instead: str) -> str:
    """The text with other words in those places; a mark that ends it stays."""
    for start, end in sorted(spans, reverse=True):
        before, gone, after = content[:start], content[start:end], content[end:]
        mark = _END.search(gone) if instead or not after.strip() else None
        if instead:
            content = f"{before}{instead}{mark[0] if mark else ''}{after}"
        else:
            joint = " " if before.strip() and after.strip() else ""
            content = f"{before.rstrip()}{mark[0] if mark else ''}{joint}{after.lstrip()}"
    return content
