"""Which words of a rendered chat are whose, where its template takes messages apart.

Templates of models that think cut the thoughts of earlier turns, or move them; what remains of a
message cannot be found by looking for the message. Every word is exchanged for a mark that stands
nowhere else, and the same template says where the marks go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from fac.errors import InputError

FIRST_MARK, LAST_MARK = 0xF0100, 0x10FFFD
"""Characters for private use: no tokenizer's template writes them."""

THOUGHT_TAGS = ("<think>", "</think>")
TAG_LENGTH = 3  # of what a template may look for in a content, at least

Apply = Callable[[Sequence[str]], str]
"""The chat's template, on other contents of its messages."""


class Stretch(NamedTuple):
    """A stretch of a rendered chat that is content."""

    start: int  # its first character
    end: int  # one past its last
    message: int  # whose content it is


class Traced(NamedTuple):
    stretches: list[Stretch]  # in their order; none overlap
    shortened: bool
    """Whether something of a content but white space stands in none of them."""


class _Word(NamedTuple):
    message: int
    text: str
    before: str  # what stands between it and the word before it in its content, or the start
    after: str
    is_first: bool  # of its content
    is_last: bool


@cache
def tags_of(template: str) -> re.Pattern[str]:
    """What a chat template may look for in contents: its literals but for words and white space."""
    from jinja2 import Environment

    tokens = Environment().lexer.tokenize(template)
    literals = {token.value.strip() for token in tokens if token.type == "string"}
    tags = {tag for tag in literals if len(tag) >= TAG_LENGTH and not tag.isalnum()}
    ordered = sorted({*tags, *THOUGHT_TAGS}, key=lambda tag: (-len(tag), tag))
    return re.compile("|".join(map(re.escape, ordered)))


def trace(contents: Sequence[str], text: str, apply: Apply, tags: re.Pattern[str]) -> Traced:
    """Where in a chat's rendered `text` its contents stand.

    A word is where its mark is. White space and tags between two words are content where they
    stand as between these words in the message. Beside a word that has another neighbour than in
    its message, tags are content, with the white space up to the word, as far as they stand there
    as in the message; white space alone is, as far as the text lacks it when the content does.

    Raises InputError, as the beginning of a sentence, where a template does anything else: where
    words are changed, stand twice, depend on other words, or are cut apart without a tag.
    """
    words = _words(contents, tags)
    if len(words) > LAST_MARK - FIRST_MARK:
        raise InputError("The chat template takes apart a message of too many words to be traced")
    order, gaps = _marked(contents, apply, tags, words)
    if "".join(_woven(gaps, [words[i].text for i in order])) != text or len({*order}) < len(order):
        raise _rewritten()
    bare = [
        _marked(contents, apply, tags, words, without=edge)
        for edge in (_before_words, _after_words)
    ]
    if any(other != order for other, _ in bare):
        raise _rewritten()
    (_, gaps_before), (_, gaps_after) = bare
    stretches: list[Stretch] = []
    end = 0
    for place, number in enumerate(order):
        word, left, right = words[number], gaps[place], gaps[place + 1]
        start = first = end + len(left)
        end = first + len(word.text)
        joined = place > 0 and _joined(words, order[place - 1], number, left)
        if not joined:
            start -= _kept_before(word, left, gaps_before[place], tags)
        last = end
        if not (place + 1 < len(order) and _joined(words, number, order[place + 1], right)):
            last += _kept_after(word, right, gaps_after[place + 1], tags)
        if stretches and (joined or start < stretches[-1].end):
            if stretches[-1].message != word.message:
                raise _rewritten()
            start = stretches.pop().start
        stretches.append(Stretch(start, last, word.message))
    kept = sum(_letters(text[start:end]) for start, end, _ in stretches)
    return Traced(stretches, kept < sum(map(_letters, contents)))


def _rewritten() -> InputError:
    return InputError(
        "The chat template rewrites message contents, so that their tokens cannot be told apart"
    )


def _letters(text: str) -> int:
    return len("".join(text.split()))


def _pieces(content: str, tags: re.Pattern[str]) -> list[tuple[str, str]]:
    """A content as (kind, text): words, the white space between them, and tags."""
    pieces, reached = [], 0
    for tag in [*tags.finditer(content), None]:
        between = content[reached : tag.start() if tag else len(content)]
        for piece in re.findall(r"\s+|\S+", between):
            pieces.append(("space" if piece.isspace() else "word", piece))
        if tag:
            pieces.append(("tag", tag.group()))
            reached = tag.end()
    return pieces


def _words(contents: Sequence[str], tags: re.Pattern[str]) -> list[_Word]:
    words: list[_Word] = []
    for message, content in enumerate(contents):
        between, own = [""], []
        for kind, piece in _pieces(content, tags):
            if kind == "word":
                own.append(piece)
                between.append("")
            else:
                between[-1] += piece
        last = len(own) - 1
        words += [
            _Word(message, text, between[i], between[i + 1], i == 0, i == last)
            for i, text in enumerate(own)
        ]
    return words


def _joined(words: Sequence[_Word], first: int, second: int, gap: str) -> bool:
    """Whether they are neighbours in one message, and the gap between them is as it is there."""
    same = second == first + 1 and words[first].message == words[second].message
    return same and gap == words[second].before


def _before_words(before: str, after: str) -> bool:
    return after == "word" and before != "word"


def _after_words(before: str, after: str) -> bool:
    return before == "word" and after != "word"


def _nowhere(_before: str, _after: str) -> bool:
    return False


def _marked(
    contents: Sequence[str],
    apply: Apply,
    tags: re.Pattern[str],
    words: Sequence[_Word],
    without: Callable[[str, str], bool] = _nowhere,
) -> tuple[list[int], list[str]]:
    """The template on contents of marks, `without` some white space, by the kinds of what stands
    before and after it: the numbers of the words in the order of their marks, and the text before,
    between and after them."""
    marked, number = [], 0
    for content in contents:
        pieces, out = _pieces(content, tags), ""
        kinds = ["", *(kind for kind, _ in pieces), ""]
        for i, (kind, piece) in enumerate(pieces):
            if kind == "word":
                out += chr(FIRST_MARK + number)
                number += 1
            elif not (kind == "space" and without(kinds[i], kinds[i + 2])):
                out += piece
        marked.append(out)
    text = apply(marked)
    marks = f"[{chr(FIRST_MARK)}-{chr(FIRST_MARK + len(words))}]"
    order = [ord(mark) - FIRST_MARK for mark in re.findall(marks, text)]
    if max(order, default=-1) >= len(words):
        raise _rewritten()
    return order, re.split(marks, text)


def _woven(gaps: Sequence[str], words: Sequence[str]) -> list[str]:
    return [piece for pair in zip(gaps, [*words, ""], strict=True) for piece in pair]


def _kept_before(word: _Word, gap: str, bare: str, tags: re.Pattern[str]) -> int:
    """Characters of the gap before a word that are its message's. `bare` is the gap where the
    content has no white space there."""
    for tag in tags.finditer(word.before):
        if gap.endswith(word.before[tag.start() :]):
            return len(word.before) - tag.start()
    space = word.before[len(word.before.rstrip()) :]
    kept = len(gap) - len(bare)
    at_edge = word.is_first or space != word.before
    if not (at_edge and gap.startswith(bare) and space.endswith(gap[len(bare) :])):
        raise _rewritten()
    return kept


def _kept_after(word: _Word, gap: str, bare: str, tags: re.Pattern[str]) -> int:
    """As `_kept_before`, after a word."""
    for tag in reversed([*tags.finditer(word.after)]):
        if gap.startswith(word.after[: tag.end()]):
            return tag.end()
    space = word.after[: len(word.after) - len(word.after.lstrip())]
    kept = len(gap) - len(bare)
    at_edge = word.is_last or space != word.after
    if not (at_edge and gap.endswith(bare) and space.startswith(gap[:kept])):
        raise _rewritten()
    return kept
