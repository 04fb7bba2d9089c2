"""Which words of a dataset are verbs, and whether a sentence has one: of English. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from fac.synthesis.filter import Gram, words

WHO = frozenset({"i", "you", "we", "they", "he", "she", "it", "who"})
WANTS_VERB = frozenset({"to", "can", "will", "would", "should", "could", "must", "may", "let's"})
VERBAL, THREE = 0.1, 3
"""Share of a word's occurrences, and times, from which on it is a verb."""

ADVERBS = frozenset(
    {
        *("also", "always", "already", "just", "never", "ever", "even", "still", "now", "then"),
        *("all", "not", "both", "each", "so", "too", "the", "a", "an", "my", "your", "this"),
        *("that", "these", "those", "his", "her", "their", "our", "its", "above", "in", "of"),
    }
)
"""What stands there and is no verb."""

DETERMINERS = frozenset(
    {
        *("the", "a", "an", "these", "those", "such", "my", "your", "his", "her", "their", "our"),
        "its",
    }
)
SUBORDINATES = frozenset(
    {
        *("that", "who", "which", "whom", "whose", "where", "when", "because", "as", "if", "while"),
        *("what", "how", "why", "than"),
    }
)
"""A sentence that begins with one of the first needs a verb, and with each of the second one more:
"The old man in the picture that isn't a human." is what another sentence is about."""

RELATIVE, JOINED = frozenset({"that", "who", "which"}), frozenset({"to", "and", "or"})
"""What tells more about what a sentence names; what joins a verb to another one before it."""

VERBS = frozenset(
    {
        *("is", "are", "was", "were", "be", "am", "has", "have", "had", "do", "does", "did", "can"),
        *("could", "will", "would", "should", "may", "might", "must", "shall", "ain", "aren"),
        *("isn", "wasn", "weren", "hasn", "haven", "hadn", "don", "doesn", "didn", "couldn"),
        *("wouldn", "shouldn", "won", "re", "ve", "ll", "d", "m"),
    }
)
SHORT = WHO | {"that", "there", "what", "here"}  # behind which an 's is a verb
KNOWN = 50  # verbs that the dataset must show before a sentence is said to have none


def verbs_of(texts: Sequence[str]) -> frozenset[str]:
    """Words that often stand behind who does something, or behind what wants a verb, with an s
    after the latter too; the others of a language are not known here."""
    everywhere, behind, base = Counter[str](), Counter[str](), Counter[str]()
    for spoken in map(words, texts):
        everywhere.update(spoken)
        behind.update(word for before, word in pairwise(spoken) if before in WHO)
        base.update(word for before, word in pairwise(spoken) if before in WANTS_VERB)

    def often(words_: Counter[str]) -> set[str]:
        least = {word: max(THREE, VERBAL * everywhere[word]) for word in words_}
        enough = {word for word, n in words_.items() if n >= least[word] and len(word) > 1}
        return {word for word in enough if not word.endswith("ly")}

    plain = often(base)
    return frozenset((often(behind) | plain | {f"{word}s" for word in plain}) - ADVERBS)


def lacks_a_verb(sentence: Gram, verbs: frozenset[str]) -> bool:
    """Whether a sentence that says at its beginning what it is about, or tells something about what
    it names, says nothing of that; `verbs` are those of the dataset."""
    names = sentence[:1] and sentence[0] in DETERMINERS
    if len(sentence) < 2 or not (names or any(word in RELATIVE for word in sentence[1:])):
        return False
    wants = sum(word in SUBORDINATES for word in sentence)
    # A verb behind "and" belongs to the verb before it: "a firm that buys and sells" has one.
    there = sum(
        word in VERBS
        or (word == "s" and before in SHORT)
        or (word in verbs and before not in DETERMINERS and before not in JOINED)
        for before, word in pairwise(sentence)
    )
    there += not names and (sentence[0] in verbs or sentence[0] in VERBS)  # what one is told to do
    return there <= wants
