"""What makes a reader hesitate over a text that passes every gate.

Some real texts do these things too, so none of it drops a text: among the candidates of a gap one
without a doubt comes before all others, and where so many rows are asked for, gaps that have only
doubtful ones are written for again first. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from fac.generator.edges import END_MARK
from fac.prompts.lists import ASSISTANT
from fac.schema import END, ROLES, Chat
from fac.synthesis.filter import Gram, words
from fac.synthesis.gates import LETTERS, MOSTLY, SENTENCES, WORD, Norms, RoleNorms
from fac.synthesis.verbs import KNOWN, WHO, lacks_a_verb

GOES_ON, PROMISES = "goes on from something", "promises more"
CIRCLES, STRANGE, STUB = "goes round in circles", "strange words", "a stub"
MARKS, COPY, LABEL_BARELY = "strange marks", "copies its message", "label barely sure"
UNEXPECTED, NO_VERB = "an unexpected end", "one sentence without a verb"

BEFORE = frozenset(
    {
        *("and", "but", "or", "nor", "so", "then", "also", "however", "therefore", "thus", "yet"),
        *("because", "which", "whereas", "instead", "otherwise", "meanwhile", "moreover", "than"),
        *("furthermore", "besides", "additionally", "similarly", "likewise", "nevertheless"),
        *("of", "hence", "consequently", "finally", "secondly", "thirdly", "for", "with", "by"),
    }
)
"""What begins with one of them mostly follows something."""

REPLIES = frozenset({"yes", "sure", "absolutely", "certainly", "exactly", "indeed", "correct"})
"""What no first message begins with, but what replies to one."""

POINTS = frozenset({"this", "that", "these", "those", "such", "it"})
SAYS = frozenset(
    {
        *("is", "isn", "was", "wasn", "are", "were", "means", "meant", "would", "will", "can"),
        *("could", "may", "might", "should", "must", "has", "had", "also", "makes", "made"),
        *("includes", "included", "shows", "showed", "allows", "allowed", "helps", "helped"),
        *("happens", "happened", "leads", "led", "requires", "became", "becomes", "s"),
    }
)
"""A message that begins with one of the first and one of the second speaks of what was before."""

JOINS = frozenset({"and", "but", "or", "so"})
"""A clause that one of them joins to a first word alone is joined to the end of another clause."""

THEIRS = frozenset({"their", "them", "theirs"})
MANY = frozenset({"they", "people", "men", "women", "police", "children", "who", "everyone"})
THEY = frozenset({"they", "them"})
FIRST = 8
"""A message that says one of the first among its first words, none of them of many, says whose
before it says who."""

LISTS, PART = 3, 2  # parts between commas, and the most words of each, of an enumeration

_REST = re.compile(r"\w+, (?:and|but|or|so)\b|here(?:['’]s| is) (?:more|another|the rest)\b", re.I)
"""A text that begins so is the rest of one, even where no more than a word of that is left."""

MORE = re.compile(
    r"\b(?:let me (?:tell|explain|show)|here(?: are|['’]s| is) (?:a|the|some|my|few|\d)"
    r"|the following|as follows)\b",
    re.I,
)
"""A last sentence with one of these says that more comes."""

_ANNOUNCED = re.compile(
    r"\b(?:here are|there are|these are|the following|as follows)\b[^:.!?\n]*:(?P<rest>.*)\Z",
    re.I | re.S,
)
_ITEMS = re.compile(r"[\n,;•]|\band\b")
"""What announces several things, and what stands between two of them."""

REST = 6  # words of a last sentence that begins with a conjunction, below which it is one's rest

PHRASE, OFTEN, SHARE, AT_LEAST = 3, 4, 0.08, 12
"""Words in a row, with a longer one among them, that come again in a text of AT_LEAST words; times
that a longer word is said, and its share of any, from which on it goes round in circles."""

MIXED, MIXED_OFTEN = re.compile(r"(?=\w*\d)(?=\w*[^\W\d])\w+"), 3
"""A word of digits and letters, as in "3D", and times from which on that is too often."""

CODE = 8  # characters of such a word from which on it means nothing to a reader

RUN = 7  # words in a row that an answer has from its message at most, less one

_MARKS = re.compile(r"\s[A-Z]\.$|[^\W\d_]{2}[.?!] [a-z]|\w [.?!]$")
"""A last word of one letter, a sentence in lower case after another, a mark that stands alone: a
text cut or patched together ends or goes on like that."""

UNKNOWN, LEAST = 0.4, 4
"""Share of the longer words that no other text has; words of a message below which it is a stub."""


def doubts(messages: Chat, norms: Norms, nats: np.ndarray | None = None) -> tuple[str, ...]:
    """What there is to doubt about a chat, each once, in the order of its messages. `nats`
    `[2, n_roles]` are what a model makes of it: a text that ends where none of the dataset would is
    mostly cut, by a limit of tokens or by a rule that made it end."""
    spoken = [words(message["content"]) for message in messages]
    befores: list[Gram] = [(), *spoken]
    copies = any(_runs(before) & _runs(after) for before, after in pairwise(spoken))
    names = [
        name
        for turn, message in enumerate(messages)
        for name in _of(
            message["content"].strip(),
            turn == 0 and message["role"] != ASSISTANT,
            befores[turn],
            norms.of(message["role"]),
        )
    ]
    names += [COPY] if copies else []
    if len(norms.verbs) >= KNOWN and any(
        lacks_a_verb(spoken[turn], norms.verbs)
        or (turn == 0 and message["role"] != ASSISTANT and _is_a_list(message["content"]))
        for turn, message in enumerate(messages)
        if len(SENTENCES.split(message["content"].strip())) == 1
    ):
        names.append(NO_VERB)
    if nats is not None and any(
        nats[END, ROLES.index(message["role"])] > norms.of(message["role"]).end
        for message in messages
    ):
        names.append(UNEXPECTED)
    return tuple(dict.fromkeys(names))


def usual(chats: Sequence[Chat], norms: Norms) -> frozenset[str]:
    """The doubts that most of a dataset's chats leave: nothing to prefer another text for."""
    counts = Counter(name for chat in chats for name in doubts(chat, norms))
    return frozenset(name for name, n in counts.items() if n >= MOSTLY * len(chats))


def _of(text: str, begins: bool, before: Gram, norms: RoleNorms) -> Iterator[str]:
    spoken = words(text)
    if not spoken:
        return
    refers = bool(before) and _refers(spoken) and not any(map(_is_many, before))
    if spoken[0] in BEFORE or _REST.match(text) or refers or (begins and _before_who(spoken)):
        yield GOES_ON
    last = next(filter(None, map(words, reversed(SENTENCES.split(text)))), spoken)
    several = _ANNOUNCED.search(text)
    if (
        (last[0] in BEFORE and last != spoken and len(last) < REST)
        or MORE.search(text[-80:])
        or (several and not _ITEMS.search(several["rest"].strip()))
    ):
        yield PROMISES
    if _goes_round(spoken):
        yield CIRCLES
    longer = [word for word in spoken if len(word) >= LETTERS]
    unknown = sum(word not in norms.vocabulary for word in longer)
    codes = any(len(word) >= CODE and MIXED.fullmatch(word) for word in spoken)
    if codes or (norms.vocabulary and unknown > max(1, UNKNOWN * len(longer))):
        yield STRANGE
    if not text[0].islower() and _MARKS.search(text):
        yield MARKS
    if len(spoken) < LEAST and (begins or END_MARK.search(text)):
        yield STUB  # an answer of few words is a label, which ends without a mark


def _before_who(spoken: Gram) -> bool:
    """Whether a first message speaks of something, or replies to something, that was before it."""
    if spoken[0] in REPLIES or (spoken[0] in POINTS and spoken[1:2] and spoken[1] in SAYS):
        return True
    if spoken[1:2] and spoken[1] in JOINS and spoken[2:3] and spoken[2] in WHO:
        return True
    first = spoken[:FIRST]
    at = next((n for n, word in enumerate(first) if word in THEIRS), 0)
    return bool(at) and not any(map(_is_many, first[:at]))


def _refers(spoken: Gram) -> bool:
    """Whether a reply begins with several of whom it does not say who they are."""
    return any(word in THEY for word in spoken[:2])


def _is_a_list(text: str) -> bool:
    """Whether a text only enumerates, as nothing but an answer does."""
    parts = [words(part) for part in text.split(",")]
    return len(parts) >= LISTS and all(0 < len(part) <= PART for part in parts)


def _is_many(word: str) -> bool:
    return word in MANY or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def _goes_round(spoken: Gram) -> bool:
    longer = Counter(word.removesuffix("s") for word in spoken if len(word) >= WORD)
    mixed = Counter(filter(MIXED.fullmatch, spoken))
    if any(n >= MIXED_OFTEN and n >= SHARE * len(spoken) for n in mixed.values()):
        return True
    if any(n >= OFTEN and n >= SHARE * len(spoken) for n in longer.values()):
        return True
    phrases = Counter(spoken[i : i + PHRASE] for i in range(len(spoken) - PHRASE + 1))
    again = (n > 1 and any(len(w) >= LETTERS for w in each) for each, n in phrases.items())
    return len(spoken) >= AT_LEAST and any(again)


def _runs(spoken: Gram) -> set[Gram]:
    return {spoken[i : i + RUN] for i in range(len(spoken) - RUN + 1)}
