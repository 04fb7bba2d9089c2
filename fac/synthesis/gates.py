"""Whether a text reads like one of the dataset's: the quality gates, each a reason for dropping.

Nothing is judged by rules of good style. What a text does at its beginning, at its end and in
between that few texts of the dataset do counts against it: comments on the web begin in lower case
and end without a mark, instructions do not. Pure; the loss of texts comes from who has the model.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from fac.generator.edges import END_MARK, Edges
from fac.schema import END, MEAN, ROLES, Chat
from fac.synthesis.filter import FRAGMENT, LANGUAGE, LENGTH, LOOP, UNLIKELY, Gram, words
from fac.synthesis.verbs import verbs_of

HABIT, FAULT = 0.01, 0.02
"""An oddity that at least this share of the dataset's texts have is a habit of theirs; what no text
should do, FAULTS, must be more frequent to be one."""

SEVERAL = 5  # texts below which a loop is none of their habits, however few texts there are

MOSTLY = 0.5  # share of the dataset's texts whose beginning and end what is written keeps to

RANGE = (0.01, 0.99)  # quantiles of the dataset that length and loss have to lie between
EXPECTED = 0.95  # share of real texts whose end mark a model expects no less than any it accepts
FEW = 20  # texts of a role below which a dataset has no norms of its own
MOST = 2000  # texts that norms are taken from
READ = 100  # texts of the dataset, and of the anchor, whose loss is computed

OFTEN = 30  # times a word must occur before where it stands says something
SELDOM = 1 / 200  # share of its occurrences at a beginning (or an end) below which it never does

COMMON = 0.05  # share of texts that hold a common word of the language
LEXICON = 300  # words in more than one text that the data must have for it to show its language
TELLING = 12  # words a text must have for its language to be told
STRANGE = 0.35  # of the dataset's median share of common words: another language stays below
UNKNOWN = 0.45  # and below this share of words that occur in the data at all
FOREIGN = 0.05  # share of letters in scripts that the dataset does not write

WINDOW, LEAST, DISTINCT = 50, 4, 0.75
"""Pairs of words looked at together, fewest that say something, and least share of different ones:
of 8,000 real texts of chats, comments and instructions about one in a hundred has fewer."""

CLAUSE, AGAIN, MUCH = 5, 3, 0.25
"""So many words in a row, so many times, which make at least this share of a text."""

SAME = 0.5  # share of an answer's words in a row that its message has too: the answer is its echo

IN_A_ROW = 3  # times one word may be said in a row, less one

IDIOM, WORD, SHORTER = 7, 6, 5
"""Letters and signs of a phrase, and of a word, below which saying it twice is an idiom: "so so",
"on and on"; a SHORTER word said twice is one ("knock knock") unless the text does it again."""

OVER, MOST_SAID = 8, 0.16  # times a longer word is said, and its share of a text, that are too much
THRICE = 3  # times that are too much for a word that makes more than a third of a text
REMARKS = 4  # times that are too much for a remark in brackets, or for a name

ON_END = 40  # numbers in a row, without a word between

PHRASE, SHORT, SOON = 4, 30, 8
"""So many words in a row, which a text of fewer words than SHORT says once, and no text again that
begins within SOON words of where they began."""

CLAUSES = 7  # words in a row that a text says once

OF_LINE, OF_TEXT = (3, 20), (5, 60)
"""So many words in a row, with a longer one among them, that begin THRICE within so many words."""

NAMED, NAMES = 2, 15
"""So many words in a row that begin REMARKS times within so many words, of one line."""

NEARBY, LETTERS, FEWER, RARELY = 20, 4, 2, 0.1
"""A word of so many letters comes again where it stands among the words just before it; a text that
has few such words counts as if it had some more that do not. This share of them may come again in
any dataset, and what all but FAULT of its texts keep to."""

STEMS = (99, 6)  # letters by which two words are told apart, each with a share of its own

GOES_ON = frozenset(
    {
        *("a", "an", "the", "my", "your", "our", "their", "every", "and", "or", "nor", "but"),
        *("because", "although", "unless", "whereas", "if", "whether", "than"),
    }
)
"""Words that want another after them: what ends with one, without a mark, was cut."""

WENT_BEFORE = frozenset({"and", "or", "nor", "but", "because", "than", "whose"})
"""Words that want others before them: what begins with one in lower case was cut."""

CONDITIONS = frozenset({"if", "unless", "although", "whereas", "whenever"})
FOLLOWS = frozenset(
    {
        *("would", "will", "should", "could", "can", "may", "might", "must", "shall", "won't"),
        *("then", "please", "let", "is", "are", "was", "were", "isn't", "do", "does", "did"),
        *("don't", "doesn't", "has", "have", "had", "it's", "that's", "i'll", "i'd", "you'll"),
        *("we'll", "he'll", "she'll", "they'll", "it'll", "i'm", "you're", "can't", "you'd"),
    }
)
"""One of them stands in most clauses that say what follows from a condition, without a comma."""

VERB = 3  # words of a condition after the first within which its own verb stands

SMALL = "begins in lower case"

_OPEN_END = frozenset(",;:-–—([{“‘„«/\\&+=<*_|…")
_BAD_START = frozenset(",.;:!?)]}…-–—/\\|&%+=~>»”’'")
_EMOTICON = re.compile(
    r"[:;=8xX]['’]?-?[()\[\]{}]+|(?<!\w)[:;=]['’]?-?[/\\](?!\S)"
    r"|(?<!\S)[()\[\]{}]+-?['’]?[:;=](?!\w)"
)
_NOT_OPEN = re.compile(r"[)\]}\"'];$|(?P<word>\w*[*#]{2,}$)")  # a line of code, a masked word
_LISTED = re.compile(r"(?:^|\s)\w{1,3}$")  # what stands before the bracket of an item's number
_ITEM = re.compile(r"^[-*•] ", re.M)
_GLUED = re.compile(r"[a-z]{2}[?!][A-Z][a-z]|\b[a-z]{3,}\.[A-Z][a-z]+\b(?![.(/@\w])")
_ROLE_MARK = re.compile(
    r"^\W{0,3}(user|human|assistant|ai|bot|system|response|answer|output|input|instruction"
    r"|question|q|a|sentence|message|comment|text|words?)\s?\d{0,3}\s*:",
    re.M | re.I,
)
_PRONOUN = re.compile(r"^\W{0,3}(we|you|he|she|they)\s*:", re.M | re.I)
SENTENCES = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+|\n+")
_PAIRS = ("()", "[]", "{}", "“”")
_EMPTY_ITEM = re.compile(r"(?:\A|[\n:])\s*(?:(?:\d{1,3}|[A-Za-z])[.)]|[#*•-]+)$")
_LISTED_NUMBER = re.compile(r"[).\]] \d{1,2}[.)]$")  # that of an item without one
_ITEMS_ALONE = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-*•])[ \t]*$", re.M)
_TWO_MARKS = re.compile(r"[?!]\.$")
_LIST_OF_ONE = re.compile(r":\s*\n\s*(?:[-*•]|\d{1,3}[.)]) +\S[^\n]*$")
_BEGUN_ADDRESS = re.compile(r"(?:https?://(?:www\.)?|\bwww\.)[^\s./]*\.?$")
_TWICE = re.compile(r"\b([^\W\d][\w'’]*(?:[ -][\w'’]+){0,4})(?:,? |-)\1\b", re.I)
_IN_A_WORD = re.compile(r"((?:\w(?!\d)){4,}?)\1{3,}", re.I)
_REMARK = re.compile(r"(?<!\w)\([^()\n]{4,30}\)")
_CUT_NUMBER = re.compile(r"00+\b(?![:./-])")
_JOINING = re.compile(r"\b(?:and|or)\b", re.I)  # "again and again and again" is no loop
_OPEN_TAG = re.compile(r"<[A-Za-z/!][^<>\n]*$")
_CLOSING = "\"'”’)]"


class RoleNorms(NamedTuple):
    """What one role's texts are like."""

    habits: frozenset[str] = frozenset({SMALL, "ends in a word"})
    never_first: frozenset[str] = frozenset()  # words that begin no sentence
    never_last: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()  # words of the language
    familiar: float = 0.0  # share of them that a longer text of another language stays below
    vocabulary: frozenset[str] = frozenset()  # words that occur in more than one text
    scripts: frozenset[str] = frozenset()  # that its letters are written in; empty: not judged
    again: tuple[float, ...] = (np.inf,) * len(STEMS)  # shares of words that come again, at most
    length: tuple[float, float] = (0.0, np.inf)  # words
    loss: tuple[float, float] = (-np.inf, np.inf)  # nats per token
    end: float = np.inf  # nats of an end mark, above which one is expected nowhere


class Norms(NamedTuple):
    """What a dataset's texts are like, by role."""

    roles: Mapping[str, RoleNorms]
    unchecked: tuple[str, ...] = ()  # gates that nothing was at hand for
    repeats: bool = False  # whether answers that say their message again are a habit
    copies: bool = False  # whether answers that say nothing but their message are
    verbs: frozenset[str] = frozenset()  # that stand behind who does something, or base forms of it

    def of(self, role: str) -> RoleNorms:
        """Where a role is not in the data, what is odd anywhere still counts."""
        return self.roles.get(role, RoleNorms())


def norms_of(
    chats: Sequence[Chat],
    beside: Sequence[Chat] = (),
    losses: Sequence[np.ndarray] = (),
) -> Norms:
    """The norms of a dataset's chats. Roles with fewer than FEW texts have those of `beside`, the
    anchor's chats, which also say where words stand. `losses` are what a model makes of
    some texts, of the dataset and of the anchor, each `[n, 2, n_roles]` as `answers.Likelihood`
    has them; the range is that of either."""
    everything = [m["content"] for chat in (*chats, *beside) for m in chat]
    first, last = _never(everything)
    vocabulary = _common([words(text) for text in everything], least=2)
    common = _common([words(text) for text in everything])
    tells = len(vocabulary) >= LEXICON
    roles = {}
    for code, role in enumerate(ROLES):
        texts = _texts(chats, role)
        texts = texts if len(texts) >= FEW else [*texts, *_texts(beside, role)]
        if len(texts) < FEW:
            continue
        odd = Counter(name for text in texts for name in oddities(text, first, last))
        habits = {name for name, n in odd.items() if name not in CUT and _is_habit(name, n, texts)}
        spoken = [words(text) for text in texts]
        letters = Counter(script for text in texts for script in {*_scripts(text)})
        shares = [_share(each, common) for each in spoken if len(each) >= TELLING]
        roles[role] = RoleNorms(
            habits=frozenset(habits),
            never_first=first,
            never_last=last,
            common=common,
            familiar=STRANGE * float(np.median(shares)) if tells and len(shares) >= FEW else 0.0,
            vocabulary=vocabulary,
            scripts=frozenset(s for s, n in letters.items() if n >= max(2, HABIT * len(texts))),
            again=tuple(
                max(RARELY, float(np.quantile([_again(e, stem) for e in spoken], 1 - FAULT)))
                for stem in STEMS
            ),
            length=_range([np.asarray([len(each) for each in spoken], float)]),
            loss=_range([each[:, MEAN, code] for each in losses]),
            end=_end_of([each[:, END, code] for each in losses]),
        )
    unchecked = (
        *(() if roles and tells else (LANGUAGE,)),
        *(() if roles else (LENGTH,)),
        *(() if roles and losses else (UNLIKELY,)),
    )
    answered = [chat for chat in chats if len(chat) > 1]
    if len(answered) < FEW:
        answered += [chat for chat in beside if len(chat) > 1]
    least = max(SEVERAL, FAULT * len(answered))
    repeats, copies = (sum(map(f, answered)) >= least for f in (_says_again, _says_the_same))
    return Norms(roles, unchecked, repeats, copies, verbs_of(everything))


def _is_habit(oddity: str, n: int, texts: Sequence[str]) -> bool:
    """Whether what `n` of the texts do is a habit of theirs."""
    least = (FAULT if oddity in FAULTS else HABIT) * len(texts)
    return n >= (max(SEVERAL, least) if oddity in LOOPS else least)


def sampled(chats: Sequence[Chat], n: int) -> list[Chat]:
    """At most n of them, always the same."""
    return [*chats] if len(chats) <= n else random.Random(0).sample([*chats], n)


def edges_of(texts: Sequence[str]) -> Edges:
    """What most of them keep to, nothing where there are fewer than FEW: a small model that may end
    anywhere does so in the middle."""
    if len(texts) < FEW:
        return Edges()
    ends = {"ends in a word", "ends in an open mark", "ends in dots", "ends in an empty item"}
    odd = [oddities(text) for text in texts]
    small, open_ended = (sum(bool(o & names) for o in odd) for names in ({SMALL}, ends))
    return Edges(*(n < (1 - MOSTLY) * len(texts) for n in (small, open_ended)))


def flaw(
    messages: Chat, norms: Norms, finished: bool = True, loss: np.ndarray | None = None
) -> str:
    """The first gate that fails: one of `filter.FLAWS`, "" where none does. `loss` `[2, n_roles]`
    is what a model makes of each role's; None or NaN is not judged."""
    judged = [(message["content"], norms.of(message["role"])) for message in messages]
    spoken = [words(text) for text, _ in judged]
    odd = [oddities(text, n.never_first, n.never_last) - n.habits for text, n in judged]
    if any(each - LOOPS for each in odd) or (not finished and not END_MARK.search(judged[-1][0])):
        return FRAGMENT
    if any(odd) or (not norms.repeats and _says_again(messages)):
        return LOOP
    if not norms.copies and _says_the_same(messages):
        return LOOP
    for each, (_, n) in zip(spoken, judged, strict=True):
        if any(_again(each, stem) > most for stem, most in zip(STEMS, n.again, strict=True)):
            return LOOP
    for text, n in judged:
        if n.scripts and _foreign(text, n.scripts) > FOREIGN:
            return LANGUAGE
    for each, (_, n) in zip(spoken, judged, strict=True):
        if _foreign_tongue(each, n):
            return LANGUAGE
    for each, (_, n) in zip(spoken, judged, strict=True):
        if not n.length[0] <= len(each) <= n.length[1]:
            return LENGTH
    return UNLIKELY if loss is not None and _unlikely(messages, norms, loss) else ""


def _says_again(messages: Chat) -> bool:
    """Whether some turn is an echo of the one before it."""
    for before, after in pairwise(messages):
        spoken, earlier = (words(m["content"]) for m in (after, before))
        n = min(CLAUSE, len(spoken))
        grams, others = (
            [tuple(each[i : i + n]) for i in range(len(each) - n + 1)] for each in (spoken, earlier)
        )
        if n and sum(gram in {*others} for gram in grams) >= SAME * len(grams):
            return True
    return False


def _says_the_same(messages: Chat) -> bool:
    """Whether some turn is, word by word, the one before it."""
    spoken = [words(message["content"]) for message in messages]
    return any(len(each) >= CLAUSE and each == before for before, each in pairwise(spoken))


def _unlikely(messages: Chat, norms: Norms, loss: np.ndarray) -> bool:
    """Whether the loss of some role lies outside its range."""
    ranges = {message["role"]: norms.of(message["role"]).loss for message in messages}
    nats = {role: float(loss[MEAN, ROLES.index(role)]) for role in ranges}
    return any(nats[role] < low or nats[role] > high for role, (low, high) in ranges.items())


LOOPS = frozenset(
    {
        *("few pairs of words", "a sentence again", "words again", "a phrase again"),
        *("a word in a row", "a phrase in a row", "a phrase soon again", "a word over and over"),
        *("a phrase often said", "numbers on end", "a remark over and over", "a clause again"),
    }
)
"""The oddities that are loops; the others are those of fragments."""

CUT = frozenset(
    {
        *("ends in an empty item", "ends in a list of one", "ends in a begun address"),
        *("ends in an open tag", "begins in a number", "names a speaker by a pronoun"),
    }
)
"""What a limit of tokens makes of a text, or taking it from a list. A dataset may be full of it,
written by a model and cut; what is written for it is not to be."""

FAULTS = LOOPS | {
    *("begins in mid-sentence", "ends in mid-sentence", "ends in an open mark"),
    "sentences without a space between",
}


def oddities(
    text: str, never_first: frozenset[str] = frozenset(), never_last: frozenset[str] = frozenset()
) -> set[str]:
    """What a text does that most texts do not."""
    stripped = text.strip()
    if not stripped:
        return set()
    return {
        *_at_the_beginning(stripped, never_first),
        *_at_the_end(stripped, never_last),
        *_in_between(stripped),
        *_loops(stripped),
    }


def _at_the_beginning(text: str, never_first: frozenset[str]) -> Iterator[str]:
    if text[0].islower():
        yield SMALL
    if text[0] in _BAD_START and not (_ITEM.match(text) and len(_ITEM.findall(text)) > 1):
        yield "begins with a mark"
    first = words(text[:80])[:1]
    if not text[0].isupper() and first and first[0] in never_first | WENT_BEFORE:
        yield "begins in mid-sentence"
    if _CUT_NUMBER.match(text):
        yield "begins in a number"


def _at_the_end(text: str, never_last: frozenset[str]) -> Iterator[str]:
    *_, last = ["", *_EMOTICON.finditer(text)]
    if last and last.end() == len(text):  # ends what was said, as a mark does
        return
    dots, whole = text.endswith(("...", "…")), _NOT_OPEN.search(text)
    if _EMPTY_ITEM.search(text) or _LISTED_NUMBER.search(text):
        yield "ends in an empty item"
    elif dots:
        yield "ends in dots"
    elif (text.rstrip(_CLOSING) or text)[-1] in _OPEN_END and not whole:
        yield "ends in an open mark"
    elif text[-1].isalnum() or (whole and whole["word"]):
        yield "ends in a word"
    if _BEGUN_ADDRESS.search(text):
        yield "ends in a begun address"
    if _TWO_MARKS.search(text):
        yield "ends in two marks"
    if _LIST_OF_ONE.search(text):
        yield "ends in a list of one"
    if text[-1].isalnum() or text[-1] in _OPEN_END or dots:
        spoken = words(text[-80:])
        if spoken and spoken[-1] in never_last | (frozenset() if dots else GOES_ON):
            yield "ends in mid-sentence"


def _in_between(text: str) -> Iterator[str]:
    if _GLUED.search(text):
        yield "sentences without a space between"
    if len(_ITEMS_ALONE.findall(text)) > 1:
        yield "leaves items empty"
    if any(map(_condition_alone, SENTENCES.split(text))):
        yield "a condition alone"
    if "\ufffd" in text:
        yield "holds half a sign"
    if _ROLE_MARK.search(text):
        yield "names a speaker"
    if _PRONOUN.search(text):
        yield "names a speaker by a pronoun"
    plain = _EMOTICON.sub(" ", text)
    if any(_unbalanced(plain, pair) for pair in _PAIRS):
        yield "leaves a bracket open"
    if _OPEN_TAG.search(plain):
        yield "ends in an open tag"
    if len(re.findall(r"(?<!\d)\"", plain)) % 2:
        yield "leaves a quote open"
    if plain.count("`") % 2:
        yield "leaves code open"


def _condition_alone(sentence: str) -> bool:
    """Whether it says a condition and nothing of what follows from it."""
    first, *others = words(sentence) or ("",)
    if first not in CONDITIONS or not sentence[:1].isupper() or "?" in sentence:
        return False
    return not re.search("[,;:–—]", sentence) and not FOLLOWS & {*others[VERB:]}


def _unbalanced(text: str, pair: str) -> bool:
    """Whether a bracket is opened and not closed, or closed and not opened but for "a)"."""
    depth = 0
    for match in re.finditer(f"[{re.escape(pair)}]", text):
        if match[0] == pair[0]:
            depth += 1
        elif depth:
            depth -= 1
        elif not _LISTED.search(text[: match.start()]):
            return True
    return depth > 0


def _loops(text: str) -> Iterator[str]:
    spoken = words(text)
    pairs = [pair for pair in pairwise(spoken) if not "".join(pair).isdigit()]
    for start in range(0, max(1, len(pairs) - WINDOW + 1), WINDOW // 2):
        window = pairs[start : start + WINDOW]
        if len(window) >= LEAST and len({*window}) < DISTINCT * len(window):
            yield "few pairs of words"
    sentences = Counter(tuple(words(each)) for each in SENTENCES.split(text))
    if any(n > 1 and len(each) >= CLAUSE for each, n in sentences.items()):
        yield "a sentence again"
    clauses = Counter(spoken[i : i + CLAUSE] for i in range(len(spoken) - CLAUSE + 1))
    if any(n >= AGAIN and n * CLAUSE >= MUCH * len(spoken) for n in clauses.values()):
        yield "words again"
    if any(
        len({*spoken[i : i + IN_A_ROW]}) == 1 and not spoken[i].isdigit()
        for i in range(len(spoken) - IN_A_ROW + 1)
    ):
        yield "a word in a row"
    twice = Counter(re.sub("['’]", "", match[1].lower()) for match in _TWICE.finditer(text))
    least = ((p, (WORD if n == 1 else SHORTER) if p.isalpha() else IDIOM) for p, n in twice.items())
    if any(len(phrase) >= n and not _JOINING.search(phrase) for phrase, n in least) or any(
        len({*match[1].lower()}) > 2 for match in _IN_A_WORD.finditer(text)
    ):
        yield "a phrase in a row"
    longer = Counter(word.removesuffix("s") for word in spoken if len(word) >= WORD)
    often = Counter(word for word in spoken if len(word) >= LETTERS)
    if any(n >= OVER and n >= MOST_SAID * len(spoken) for n in longer.values()) or any(
        n >= THRICE and n * THRICE > len(spoken) for n in often.values()
    ):
        yield "a word over and over"
    if any(n >= REMARKS for n in Counter(_REMARK.findall(text.lower())).values()):
        yield "a remark over and over"
    if any(is_number and len([*run]) >= ON_END for is_number, run in groupby(spoken, str.isdigit)):
        yield "numbers on end"
    if any(map(_soon_again, text.splitlines())):  # lists begin their lines alike
        yield "a phrase soon again"
    lines = map(words, text.splitlines())
    if _often_said(spoken, *OF_TEXT) or any(
        _often_said(line, *OF_LINE) or _often_said(line, NAMED, NAMES, REMARKS) for line in lines
    ):
        yield "a phrase often said"
    long_ones = Counter(spoken[i : i + CLAUSES] for i in range(len(spoken) - CLAUSES + 1))
    if any(n > 1 and not "".join(each).isdigit() for each, n in long_ones.items()):
        yield "a clause again"
    if len(spoken) < SHORT:
        phrases = Counter(spoken[i : i + PHRASE] for i in range(len(spoken) - PHRASE + 1))
        if any(n > 1 and not "".join(each).isdigit() for each, n in phrases.items()):
            yield "a phrase again"


def _again(spoken: Gram, stem: int) -> float:
    """The share of the longer words that come again, told apart by so many letters: what a small
    model that has begun to loop says of few things, in other words each time."""
    seen, longer, again = dict[str, int](), 0, 0
    for i, word in enumerate(each.removesuffix("s") for each in spoken):
        if len(word) >= LETTERS:
            longer += 1
            again += i - seen.get(word[:stem], -NEARBY - 1) <= NEARBY
            seen[word[:stem]] = i
    return again / (longer + FEWER)


def _soon_again(line: str) -> bool:
    """Whether it says a phrase, and after few words once more."""
    spoken, begins = words(line), dict[Gram, int]()
    for i in range(len(spoken) - PHRASE + 1):
        phrase = spoken[i : i + PHRASE]
        if i - begins.get(phrase, -SOON - 1) <= SOON and not "".join(phrase).isdigit():
            return True
        begins[phrase] = i
    return False


def _often_said(spoken: Gram, n: int, within: int, times: int = THRICE) -> bool:
    """Whether it says `n` words, one of them longer, so many times within so many words."""
    begins: dict[Gram, list[int]] = defaultdict(list)
    for i in range(len(spoken) - n + 1):
        phrase = spoken[i : i + n]
        longer = (word for word in phrase if not word.isdigit())
        if any(len(word) >= (WORD if word.isalpha() else SHORTER) for word in longer):
            starts = begins[phrase]
            starts.append(i)
            if len(starts) >= times and i - starts[-times] <= within:
                return True
    return False


def _never(texts: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Words that occur OFTEN and hardly ever begin a sentence in lower case, and those that hardly
    ever end one: what begins or ends with them is a part of something."""
    everywhere, first, last = Counter[str](), Counter[str](), Counter[str]()
    common = _common([words(text) for text in texts])
    for text in texts:
        for sentence in SENTENCES.split(text):
            if spoken := words(sentence):
                everywhere.update(spoken)
                first[spoken[0]] += not sentence[:1].isupper()
                last[spoken[-1]] += 1
    often = {word: n for word, n in everywhere.items() if n >= OFTEN and word in common}
    never_first, never_last = (
        frozenset(word for word, n in often.items() if ends[word] < SELDOM * n)
        for ends in (first, last)
    )
    return never_first, never_last


def _texts(chats: Iterable[Chat], role: str) -> list[str]:
    return [m["content"] for chat in chats for m in chat if m["role"] == role]


def _range(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The widest of the ranges of these samples `[n]` each, FEW or more; NaN counts as absent."""
    there = [each[~np.isnan(each)] for each in values]
    # Weibull's positions: a new value of the same kind lies below the first with that chance.
    ranges = [np.quantile(each, RANGE, method="weibull") for each in there if len(each) >= FEW]
    if not ranges:
        return -np.inf, np.inf
    return float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))


def _end_of(values: Sequence[np.ndarray]) -> float:
    """Below which EXPECTED of these ends `[n]` lie, taken together; inf where there are too few."""
    there = np.concatenate([each[~np.isnan(each)] for each in values] or [np.zeros(0)])
    return float(np.quantile(there, EXPECTED)) if len(there) >= FEW else np.inf


def _common(spoken: Sequence[Gram], least: int = 0) -> frozenset[str]:
    """Words that so many texts hold, or COMMON of them: the function words of their languages."""
    texts = Counter(word for each in spoken for word in {*each})
    least = least or math.ceil(COMMON * len(spoken))
    return frozenset(word for word, n in texts.items() if n >= least)


def _foreign_tongue(spoken: Gram, norms: RoleNorms) -> bool:
    """Whether a text of TELLING words has few of the language's common words, and few others that
    occur here at all: German has English words too, and a list may have no common ones."""
    if len(spoken) < TELLING or _share(spoken, norms.common) >= norms.familiar:
        return False
    return _share(spoken, norms.vocabulary) < UNKNOWN


def _share(spoken: Gram, common: frozenset[str]) -> float:
    return sum(word in common for word in spoken) / len(spoken)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name."""
    return unicodedata.name(letter, "?").partition(" ")[0]


def _scripts(text: str) -> Iterator[str]:
    return (_script(sign) for sign in text if sign.isalpha())


def _foreign(text: str, scripts: frozenset[str]) -> float:
    """Share of a text's letters in other scripts."""
    letters = Counter(_scripts(text))
    total = sum(letters.values())
    return sum(n for script, n in letters.items() if script not in scripts) / total if total else 0
