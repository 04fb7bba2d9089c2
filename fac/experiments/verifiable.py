"""Constraints that a program can verify, as IFEval has them (Zhou et al. 2023, Table 1), and which
an answer follows.

A prompt says what it asks in words and, beside them, as `instruction_id_list` and `kwargs`. What
the paper leaves open is decided here alike for all kinds: words and phrases count whole and without
their case, which kinds of their own are about, and an answer without a letter or digit follows
nothing. Kinds of case look at letters alone; that a text is English is not verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from fac.errors import InputError

KINDS_COLUMN, ARGUMENTS_COLUMN, KEY_COLUMN = "instruction_id_list", "kwargs", "key"

UNCHECKED = ("language:response_language",)
"""Kinds that take a detector of languages, which is not here."""

AT_LEAST, LESS_THAN = "at least", "less than"

SENTENCE = 8
"""Words that a sentence, and with it a paragraph, a section or a list's point, is taken to need."""

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class Constraint(NamedTuple):
    """One thing that a prompt asks of its answer."""

    kind: str
    arguments: Mapping[str, Any]
    """By name, read and checked; empty for a kind of UNCHECKED."""


class Task(NamedTuple):
    """A prompt with what can be verified of its answer."""

    key: str
    prompt: str
    constraints: tuple[Constraint, ...]

    @property
    def is_checked(self) -> bool:
        """Whether all that is asked is verified here."""
        return all(each.kind not in UNCHECKED for each in self.constraints)

    @property
    def words(self) -> int:
        """How many words an answer that follows all of it needs, about: as many as the constraint
        that needs most, after the prompt where it is to be repeated."""
        repeated = sum(_least(each) for each in self.constraints if each.kind == REPEAT)
        others = (_least(each) for each in self.constraints if each.kind != REPEAT)
        return repeated + max(others, default=1)


class Verdict(NamedTuple):
    """Of one constraint and an answer; None where nobody checked it."""

    kind: str
    strict: bool | None
    loose: bool | None


class Accuracy(NamedTuple):
    """How much of what is asked is followed; NaN where nothing was judged."""

    instructions: float  # share of the constraints
    prompts: float  # share of the prompts of which all constraints are followed
    instructions_loose: float
    prompts_loose: float
    n_instructions: int  # judged
    n_prompts: int  # judged: those with a constraint that is not checked are not
    n_unchecked: int  # constraints


def task_of(columns: Mapping[str, Any], prompt: str, name: str = "") -> Task:
    """The task in one row's columns; `name` is what it is called where it has no key.

    Raises InputError naming the kind, the prompt's key and what is wrong.
    """
    key = name if columns.get(KEY_COLUMN) is None else str(columns[KEY_COLUMN])
    kinds, arguments = (columns.get(column) for column in (KINDS_COLUMN, ARGUMENTS_COLUMN))
    if not isinstance(kinds, list) or not kinds:
        raise InputError(f"Prompt {key} has no list of constraints in {KINDS_COLUMN}.")
    if not isinstance(arguments, list) or len(arguments) != len(kinds):
        raise InputError(
            f"Prompt {key} needs a list of {len(kinds)} objects in {ARGUMENTS_COLUMN}, one for "
            "each of its constraints."
        )
    return Task(
        key,
        prompt,
        tuple(
            Constraint(kind, _arguments(kind, values, key))
            for kind, values in zip(kinds, arguments, strict=True)
        ),
    )


def _arguments(kind: Any, values: Any, key: str) -> Mapping[str, Any]:
    if kind in UNCHECKED:
        return {}
    if not isinstance(kind, str) or kind not in CHECKERS:
        raise InputError(f"Prompt {key} has the constraint {kind!r}, which is not known here.")
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{kind} of prompt {key} has {values!r} for arguments, not an object.")
    # Where rows are a table, all arguments of all kinds are columns, and null where they mean none.
    values = {name: value for name, value in (values or {}).items() if value is not None}
    readers = CHECKERS[kind].arguments
    if strays := values.keys() - readers.keys():
        raise InputError(f"{kind} of prompt {key} has no argument {min(strays)!r}.")
    arguments = {}
    for name, read in readers.items():
        if name not in values:
            raise InputError(f"{kind} of prompt {key} lacks its argument {name!r}.")
        try:
            arguments[name] = read(values[name])
        except ValueError as error:
            raise InputError(
                f"{name} of {kind}, prompt {key}, must be {error}, got {values[name]!r}."
            ) from None
    if arguments.get("nth_paragraph", 0) > arguments.get("num_paragraphs", 0):
        raise InputError(
            f"{kind} of prompt {key} asks for paragraph {arguments['nth_paragraph']} of "
            f"{arguments['num_paragraphs']}."
        )
    return arguments


def verdicts(task: Task, answer: str) -> list[Verdict]:
    """Of each constraint whether the answer follows it as it is, and whether any of its variants
    does."""
    return [
        Verdict(each.kind, None, None)
        if each.kind in UNCHECKED
        else Verdict(
            each.kind,
            follows(each, answer),
            any(follows(each, variant) for variant in variants(answer)),
        )
        for each in task.constraints
    ]


def follows(constraint: Constraint, answer: str) -> bool:
    """Whether an answer does what a constraint of a kind that is checked asks."""
    check = CHECKERS[constraint.kind].check
    return any(map(str.isalnum, answer)) and check(answer, **constraint.arguments)


def variants(answer: str) -> list[str]:
    """An answer with and without its first line, its last line and all asterisks (the loose
    accuracy of Zhou et al. 2023: an opening such as "Sure, here it is:" or markdown should not cost
    a constraint)."""
    lines = answer.split("\n")
    texts = []
    for first, last, marks in product((0, 1), (0, 1), (True, False)):
        text = "\n".join(lines[first : len(lines) - last]).strip()
        texts.append(text if marks else text.replace("*", ""))
    return [answer, *texts[1:]]


def accuracy(answers: Sequence[Sequence[Verdict]]) -> Accuracy:
    """Of the verdicts on several answers.

    >>> word, language = Verdict("a word", False, True), Verdict("a language", None, None)
    >>> accuracy([[word, Verdict("no comma", True, True)], [word, language]])[:4]
    (0.3333333333333333, 0.0, 1.0, 1.0)
    """
    judged = [each for answer in answers for each in answer if each.strict is not None]
    whole = [answer for answer in answers if all(each.strict is not None for each in answer)]

    def share(values: list[Any]) -> float:
        return sum(map(bool, values)) / len(values) if values else float("nan")

    return Accuracy(
        instructions=share([each.strict for each in judged]),
        prompts=share([all(each.strict for each in answer) for answer in whole]),
        instructions_loose=share([each.loose for each in judged]),
        prompts_loose=share([all(each.loose for each in answer) for answer in whole]),
        n_instructions=len(judged),
        n_prompts=len(whole),
        n_unchecked=sum(map(len, answers)) - len(judged),
    )


# --- what arguments say ---------------------------------------------------------------------------


def _count(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():  # as tables have numbers beside nulls
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    if value < 1:
        raise ValueError("at least 1")
    return value


def _relation(value: Any) -> str:
    if value not in (AT_LEAST, LESS_THAN):
        raise ValueError(f"{AT_LEAST!r} or {LESS_THAN!r}")
    return str(value)


def _phrase(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value.strip()


def _letter(value: Any) -> str:
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError("one letter")
    return value.strip()


def _phrases(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("a list of texts")
    return tuple(map(_phrase, value))


# --- what a text holds ----------------------------------------------------------------------------

_JOINED = re.compile(r"[\s\u2013\u2014]+")
_DIVIDER = re.compile(r"(?<!\S)\*[ ]?\*[ ]?\*(?!\S)")
_TWO_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_ITEM = re.compile(r"^\s*(?:[*+-]|#+|\d+[.)])\s+", re.MULTILINE)
_BULLET = re.compile(r"^[^\S\n]*[*+-][^\S\n]+\S.*$", re.MULTILINE)
_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]*_]*(?=\s|$)|[\u3002\uff01\uff1f]+")
_NO_END = re.compile(
    r"(?:^|[\s(\"'])(?:[a-hj-z]|mr|mrs|ms|dr|prof|st|vs|e\.g|i\.e|p\.s|p\.p\.s)$", re.IGNORECASE
)
_HIGHLIGHT = re.compile(r"(?<!\*)(\*{1,3})(?=[^\s*])[^*\n]*?(?<=[^\s*])\1(?!\*)")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\w[^\[\]\n]*\]")
_TITLE = re.compile(r"<<[^<>\n]*\w[^<>\n]*>>")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_QUOTES = {'"': '"', "\u201c": "\u201d"}


def words(text: str) -> list[str]:
    """What stands between white space and dashes and has a letter or digit: "well-known" is one."""
    return [part for part in _JOINED.split(text) if any(map(str.isalnum, part))]


def sentences(text: str) -> int:
    """How many there are: a sentence ends with an end mark before white space, at a blank line or
    before a point of a list. Titles, initials and the numbers of lists end none.

    >>> sentences("Dr. No has 1.5 cats. Really?! Yes"), sentences("A list\\n1. Tea\\n2. Rice.")
    (3, 3)
    """
    return sum(
        any(map(str.isalnum, sentence))
        for block in _TWO_LINES.split(_ITEM.sub("\n\n", text))
        for sentence in _split(block)
    )


def _split(block: str) -> list[str]:
    parts, begin = [], 0
    for end in _END.finditer(block):
        if end[0] == "." and _NO_END.search(block[begin : end.start()]):
            continue
        parts.append(block[begin : end.end()])
        begin = end.end()
    return [*parts, block[begin:]]


def times(text: str, phrase: str) -> int:
    """How often a word or phrase is there, whole."""
    inner = r"\s+".join(map(re.escape, phrase.split()))
    left = r"(?<!\w)" if phrase[0].isalnum() else ""
    right = r"(?!\w)" if phrase[-1].isalnum() else ""
    return len(re.findall(f"{left}{inner}{right}", text, re.IGNORECASE))


def _plain(text: str) -> str:
    """Without case, and with one space wherever white space is."""
    return " ".join(text.casefold().split())


def _unquoted(text: str) -> str:
    text = text.strip()
    is_quoted = len(text) > 1 and _QUOTES.get(text[0]) == text[-1]
    return text[1:-1].strip() if is_quoted else text


def _parts(pieces: Sequence[str]) -> list[str]:
    """What a divider separates; one before or after everything separates nothing."""
    parts = [piece.strip() for piece in pieces]
    first = 1 if len(parts) > 1 and not parts[0] else 0
    last = len(parts) - 1 if len(parts) > first + 1 and not parts[-1] else len(parts)
    return parts[first:last]


def _compares(n: int, relation: str, than: int) -> bool:
    return n >= than if relation == AT_LEAST else n < than


# --- the kinds ------------------------------------------------------------------------------------


class Checker(NamedTuple):
    """How one kind of constraint is verified."""

    check: Callable[..., bool]
    """Of an answer and the arguments by name."""

    arguments: Mapping[str, Callable[[Any], Any]]
    """Reads each argument; raises ValueError saying what it must be."""

    least: Callable[[Mapping[str, Any]], int]
    """Words that an answer needs to follow it, from the arguments."""


REPEAT = "combination:repeat_prompt"

CHECKERS: dict[str, Checker] = {}
"""By the kind's name in IFEval."""


def _least(constraint: Constraint) -> int:
    if constraint.kind in UNCHECKED:
        return 1
    return CHECKERS[constraint.kind].least(constraint.arguments)


def _checks(
    kind: str,
    least: Callable[[Mapping[str, Any]], int] = lambda _: 1,
    **arguments: Callable[[Any], Any],
) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    def register(check: Callable[..., bool]) -> Callable[..., bool]:
        CHECKERS[kind] = Checker(check, arguments, least)
        return check

    return register


def _of(name: str, each: int = 1, relation: str = "") -> Callable[[Mapping[str, Any]], int]:
    """`each` words for each that the argument `name` counts, none where fewer are asked for."""
    return lambda arguments: (
        1 if relation and arguments[relation] == LESS_THAN else each * arguments[name]
    )


def _spoken(name: str) -> Callable[[Mapping[str, Any]], int]:
    """The words of the argument `name`, a text or several."""

    def least(arguments: Mapping[str, Any]) -> int:
        texts = arguments[name]
        return len(words(texts if isinstance(texts, str) else " ".join(texts)))

    return least


@_checks("keywords:existence", _spoken("keywords"), keywords=_phrases)
def _has_keywords(answer: str, keywords: Sequence[str]) -> bool:
    return all(times(answer, keyword) for keyword in keywords)


@_checks(
    "keywords:frequency",
    _of("frequency", relation="relation"),
    keyword=_phrase,
    frequency=_count,
    relation=_relation,
)
def _has_keyword_often(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compares(times(answer, keyword), relation, frequency)


@_checks("keywords:forbidden_words", forbidden_words=_phrases)
def _has_no_forbidden_word(answer: str, forbidden_words: Sequence[str]) -> bool:
    return not any(times(answer, word) for word in forbidden_words)


@_checks(
    "keywords:letter_frequency",
    _of("let_frequency", relation="let_relation"),
    letter=_letter,
    let_frequency=_count,
    let_relation=_relation,
)
def _has_letter_often(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compares(answer.casefold().count(letter.casefold()), let_relation, let_frequency)


@_checks(
    "length_constraints:number_words",
    _of("num_words", relation="relation"),
    num_words=_count,
    relation=_relation,
)
def _has_words(answer: str, num_words: int, relation: str) -> bool:
    return _compares(len(words(answer)), relation, num_words)


@_checks(
    "length_constraints:number_sentences",
    _of("num_sentences", SENTENCE, "relation"),
    num_sentences=_count,
    relation=_relation,
)
def _has_sentences(answer: str, num_sentences: int, relation: str) -> bool:
    return _compares(sentences(answer), relation, num_sentences)


@_checks(
    "length_constraints:number_paragraphs", _of("num_paragraphs", SENTENCE), num_paragraphs=_count
)
def _has_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Paragraphs between dividers ***, none of them empty."""
    paragraphs = _parts(_DIVIDER.split(answer))
    return len(paragraphs) == num_paragraphs and all(paragraphs)


@_checks(
    "length_constraints:nth_paragraph_first_word",
    _of("num_paragraphs", SENTENCE),
    num_paragraphs=_count,
    nth_paragraph=_count,
    first_word=_phrase,
)
def _begins_paragraph(
    answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Paragraphs between blank lines; marks before a word, such as of a quotation, do not count."""
    paragraphs = [part for part in _TWO_LINES.split(answer) if part.strip()]
    if len(paragraphs) != num_paragraphs:
        return False
    begin = re.sub(r"^[\W_]+", "", paragraphs[nth_paragraph - 1])
    return re.match(rf"{re.escape(first_word)}(?!\w)", begin, re.IGNORECASE) is not None


@_checks("detectable_content:postscript", lambda _: SENTENCE, postscript_marker=_phrase)
def _has_postscript(answer: str, postscript_marker: str) -> bool:
    """A line after the first begins with the marker and goes on, or what comes after it does."""
    marker = r"[ ]?".join(map(re.escape, postscript_marker.replace(" ", "")))
    begun = re.search(rf"\n[\s*_\"]*{marker}", answer, re.IGNORECASE)
    if begun is None:
        return False
    return all(
        any(map(str.isalnum, part)) for part in (answer[: begun.start()], answer[begun.end() :])
    )


@_checks("detectable_content:number_placeholders", _of("num_placeholders"), num_placeholders=_count)
def _has_placeholders(answer: str, num_placeholders: int) -> bool:
    return len(_PLACEHOLDER.findall(answer)) >= num_placeholders


@_checks("detectable_format:number_bullet_lists", _of("num_bullets", SENTENCE), num_bullets=_count)
def _has_bullets(answer: str, num_bullets: int) -> bool:
    """Exactly so many; dividers are none."""
    return len(_BULLET.findall(_DIVIDER.sub("", answer))) == num_bullets


@_checks("detectable_format:title")
def _has_title(answer: str) -> bool:
    return _TITLE.search(answer) is not None


@_checks("detectable_format:constrained_response", lambda _: 4)
def _chooses(answer: str) -> bool:
    """One of the options, and no other."""
    return sum(_plain(option) in _plain(answer) for option in OPTIONS) == 1


@_checks(
    "detectable_format:number_highlighted_sections", _of("num_highlights"), num_highlights=_count
)
def _has_highlights(answer: str, num_highlights: int) -> bool:
    return len(_HIGHLIGHT.findall(answer)) >= num_highlights


@_checks(
    "detectable_format:multiple_sections",
    _of("num_sections", SENTENCE),
    section_spliter=_phrase,
    num_sections=_count,
)
def _has_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many lines begin with the mark and a number or letter: prompts ask for exactly or
    for at least so many with the same arguments."""
    mark = rf"^[\W_]*{re.escape(section_spliter)}\s+(?:\d+|[ivx]+|[a-z])\b"
    return len(re.findall(mark, answer, re.IGNORECASE | re.MULTILINE)) >= num_sections


@_checks("detectable_format:json_format", lambda _: 2)
def _is_json(answer: str) -> bool:
    """All of it is one object or list, in a code block or not."""
    text = answer.strip()
    if block := _FENCE.fullmatch(text):
        text = block[1]
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@_checks(REPEAT, _spoken("prompt_to_repeat"), prompt_to_repeat=_phrase)
def _repeats(answer: str, prompt_to_repeat: str) -> bool:
    """The request comes first, word for word, and an answer after it."""
    request, whole = _plain(prompt_to_repeat), _plain(answer)
    return whole.startswith(request) and any(map(str.isalnum, whole[len(request) :]))


@_checks("combination:two_responses", lambda _: 2 * SENTENCE)
def _has_two_responses(answer: str) -> bool:
    """Exactly two, not the same, between exactly six asterisks."""
    parts = _parts(re.split(r"(?<!\*)\*{6}(?!\*)", answer))
    return len(parts) == 2 and all(parts) and _plain(parts[0]) != _plain(parts[1])


@_checks("change_case:english_capital")
def _is_upper(answer: str) -> bool:
    return answer.upper() != answer.lower() and not any(map(str.islower, answer))


@_checks("change_case:english_lowercase")
def _is_lower(answer: str) -> bool:
    return answer.upper() != answer.lower() and not any(map(str.isupper, answer))


@_checks(
    "change_case:capital_word_frequency",
    _of("capital_frequency", relation="capital_relation"),
    capital_frequency=_count,
    capital_relation=_relation,
)
def _has_capital_words(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    """Words without a small letter; "I" is one."""
    return _compares(sum(map(str.isupper, words(answer))), capital_relation, capital_frequency)


@_checks("startend:end_checker", _spoken("end_phrase"), end_phrase=_phrase)
def _ends_with(answer: str, end_phrase: str) -> bool:
    """Nothing follows, but for what closes a quotation of the whole."""
    return _plain(_unquoted(answer)).endswith(_plain(_unquoted(end_phrase)))


@_checks("startend:quotation")
def _is_quoted(answer: str) -> bool:
    return _unquoted(answer) != answer.strip()


@_checks("punctuation:no_comma")
def _has_no_comma(answer: str) -> bool:
    """Of any script."""
    return not any(comma in answer for comma in ",\u060c\u3001\uff0c")
