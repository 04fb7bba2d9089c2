"""Constraints that a program can verify: cases by hand, followed and not, of every kind."""

import json
import math

import pytest

from fac.config import REPOSITORY
from fac.errors import InputError
from fac.experiments.verifiable import (
    CHECKERS,
    UNCHECKED,
    Constraint,
    Task,
    Verdict,
    accuracy,
    follows,
    sentences,
    task_of,
    variants,
    verdicts,
    words,
)

LEAST, LESS = "at least", "less than"

CASES = [
    ("keywords:existence", {"keywords": ["mom", "ice cream"]}, "Mom loves ice\ncream.", True),
    ("keywords:existence", {"keywords": ["mom", "ice cream"]}, "Mom loves ice.", False),
    ("keywords:existence", {"keywords": ["war"]}, "Warfare and the wars.", False),
    ("keywords:existence", {"keywords": ["c++"]}, "I write C++, mostly.", True),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": LEAST}, "War, war", True),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 3, "relation": LEAST},
        "War, war",
        False,
    ),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": LESS}, "war wars", True),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": LESS}, "War, war", False),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "no"]}, "A rocky nose", True),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "no"]}, "They ROCK!", False),
    (
        "keywords:letter_frequency",
        {"letter": "t", "let_frequency": 2, "let_relation": LESS},
        "To be",
        True,
    ),
    (
        "keywords:letter_frequency",
        {"letter": "t", "let_frequency": 2, "let_relation": LESS},
        "To it",
        False,
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": LEAST},
        "#a #b",
        True,
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": LEAST},
        "I don't, ok - no",
        True,
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": LEAST},
        "well-known * it",
        False,
    ),
    ("length_constraints:number_words", {"num_words": 4, "relation": LESS}, "one two three", True),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, "one two three", False),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LEAST}, "A? B", True),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LEAST},
        "A, b.",
        False,
    ),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": LESS}, "A! B.", True),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, "A! B.", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", True),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "One.\n\n* * *\n\nTwo.\n***",
        True,
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n\nTwo.", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n******\nTwo.", False),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 3},
        "One.\n***\n\n***\nTwo.",
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "summary"},
        "One.\nStill one.\n \n**Summary**: two.",
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "summary"},
        "One.\n\nSummaryless two.",
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "one"},
        '"One.\n\nTwo.\n\nThree."',
        False,
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\np. s. Call me", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\n\n**P.S.**\nCall", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "P.S. Call me", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP.P.S. Call me", False),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Hi.\nP.P.S. Call me", True),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP.S.", False),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "[name] at [your\u2026 x]",
        True,
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] [ ] [a\nb]", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "So:\n* one\n  - two\n***", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two\n* three", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "*one* two\n1. three", False),
    ("detectable_format:title", {}, "<<A poem of joy>>\nJoy.", True),
    ("detectable_format:title", {}, "<A poem> << >>", False),
    ("detectable_format:constrained_response", {}, "Think. my answer is no.", True),
    ("detectable_format:constrained_response", {}, "My answer is yes. My answer is no.", False),
    ("detectable_format:constrained_response", {}, "My answer is: no.", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* **c**", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a\nb* *c*", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "* a\n* b * c", False),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "**Section 1**\nA.\n# SECTION II: B.",
        True,
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\nAs in section 1 of it.",
        False,
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1, null]}\n```', True),
    ("detectable_format:json_format", {}, ' [{"a": "b"}]\n', True),
    ("detectable_format:json_format", {}, 'Here: {"a": 1}', False),
    ("detectable_format:json_format", {}, '"a text alone"', False),
    ("detectable_format:json_format", {}, '{"a": NaN}', False),
    ("detectable_format:json_format", {}, '{"a": 1', False),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a  haiku."},
        "write a\nhaiku. Snow",
        True,
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a haiku."}, "Write a haiku.", False),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a haiku."},
        "Write haiku. Snow",
        False,
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write it."}, "Sure. Write it. Snow", False),
    ("combination:two_responses", {}, "One.\n******\nTwo.", True),
    ("combination:two_responses", {}, "One.\n******\nOne.", False),
    ("combination:two_responses", {}, "One.\n***\nTwo.", False),
    ("combination:two_responses", {}, "One.\n*******\nTwo.", False),
    ("combination:two_responses", {}, "A.\n******\nB.\n******\nC.", False),
    ("change_case:english_capital", {}, "ALL 3 OF US!", True),
    ("change_case:english_capital", {}, "ALL of US", False),
    ("change_case:english_capital", {}, "1 2 3", False),
    ("change_case:english_lowercase", {}, "all 3 of us!", True),
    ("change_case:english_lowercase", {}, "all of us, Anna", False),
    ("change_case:english_lowercase", {}, "1 2 3", False),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": LEAST},
        "I SAW the USA-based U.S.",
        True,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": LESS},
        "I SAW IT",
        False,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": LESS},
        "None of 3",
        True,
    ),
    ("startend:end_checker", {"end_phrase": "Can I  help?"}, "Hi. can I help?\n", True),
    ("startend:end_checker", {"end_phrase": "Can I help?"}, '"Hi. Can I help?"', True),
    ("startend:end_checker", {"end_phrase": "Can I help?"}, "Hi. Can I help? Yes.", False),
    ("startend:quotation", {}, ' "All of it"\n', True),
    ("startend:quotation", {}, "\u201cAll of it\u201d", True),
    ("startend:quotation", {}, '"All" of it', False),
    ("startend:quotation", {}, "'All of it'", False),
    ("punctuation:no_comma", {}, "None; at all.", True),
    ("punctuation:no_comma", {}, "One, two", False),
    ("punctuation:no_comma", {}, "\u4e00\uff0c\u4e8c", False),
]


def prompt_with(*constraints, key=7):
    """The columns of a row, as files have them."""
    kinds, arguments = zip(*constraints, strict=True)
    return {"key": key, "instruction_id_list": [*kinds], "kwargs": [*arguments]}


@pytest.mark.parametrize(("kind", "arguments", "answer", "followed"), CASES)
def test_a_case_by_hand(kind, arguments, answer, followed):
    (constraint,) = task_of(prompt_with((kind, arguments)), "Do it").constraints
    assert follows(constraint, answer) is followed


def test_every_kind_has_a_case_that_follows_and_one_that_does_not():
    sides = {(kind, followed) for kind, _, _, followed in CASES}
    assert sides == {(kind, followed) for kind in CHECKERS for followed in (True, False)}
    assert len(CHECKERS) + len(UNCHECKED) == 25  # of IFEval


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in CASES}))
def test_an_answer_of_no_words_follows_nothing(kind):
    arguments = next(arguments for other, arguments, *_ in CASES if other == kind)
    (constraint,) = task_of(prompt_with((kind, arguments)), "Do it").constraints
    assert not any(follows(constraint, answer) for answer in ("", " \n", "...", "***\n***"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No mark at all", 1),
        ("Mr. A. Smith met Dr. No at 3.15 p.m. and left.", 2),  # p.m. may end one
        ("So do I. And you?", 2),
        ('"Go." He went... (Really?) Yes', 4),
        ("A heading\n\nIts line\ngoes on.", 2),
        ("Buy:\n1. Tea.\n2) Rice\n- Milk", 4),
        ("\u597d\u3002\u5417\uff1f", 2),
        ("Wait?! ... What", 2),
    ],
)
def test_sentences_are_counted_as_people_do(text, count):
    assert sentences(text) == count


def test_words_stand_between_white_space_and_dashes():
    text = "It's well-known\u2014to 3 of us \u2013 and/or * \u2026"
    assert words(text) == ["It's", "well-known", "to", "3", "of", "us", "and/or"]


def test_loosely_an_answer_follows_if_one_without_its_ends_or_asterisks_does():
    answer = "Sure, here it is:\n**no comma**\nHope that helps, friend"
    assert variants(answer)[0] == answer and len(variants(answer)) == 8
    assert "no comma" in variants(answer)
    task = task_of(
        prompt_with(
            ("punctuation:no_comma", {}),
            ("length_constraints:number_words", {"num_words": 3, "relation": LESS}),
            ("startend:quotation", {}),
            ("language:response_language", {"language": "kn"}),
        ),
        "Do it",
    )
    assert verdicts(task, answer) == [
        Verdict("punctuation:no_comma", False, True),
        Verdict("length_constraints:number_words", False, True),
        Verdict("startend:quotation", False, False),
        Verdict("language:response_language", None, None),
    ]
    assert not task.is_checked


@pytest.mark.parametrize(("kind", "arguments", "answer", "followed"), CASES)
def test_what_is_followed_strictly_is_followed_loosely(kind, arguments, answer, followed):
    (verdict,) = verdicts(task_of(prompt_with((kind, arguments)), "Do it"), answer)
    assert verdict.strict is followed and (verdict.loose or not followed)


def test_accuracy_counts_constraints_and_whole_prompts_and_leaves_out_what_nobody_checked():
    yes, no, loosely = (Verdict("a kind", *sides) for sides in ((1, 1), (0, 0), (0, 1)))
    unknown = Verdict("a language", None, None)
    answers = [[yes, yes], [yes, no], [loosely], [yes, unknown], [no, loosely, unknown]]
    figures = accuracy(answers)
    assert figures.instructions == 4 / 8 and figures.instructions_loose == 6 / 8
    assert figures.prompts == 1 / 3 and figures.prompts_loose == 2 / 3
    assert (figures.n_instructions, figures.n_prompts, figures.n_unchecked) == (8, 3, 2)
    assert math.isnan(accuracy([[unknown]]).instructions) and math.isnan(accuracy([]).prompts)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"key": 7}, "Prompt 7 has no list of constraints in instruction_id_list."),
        (
            {"key": 7, "instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
            "Prompt 7 needs a list of 1 objects in kwargs",
        ),
        (prompt_with(("keywords:rhyme", {})), "Prompt 7 has the constraint 'keywords:rhyme'"),
        (prompt_with((["x"], {})), r"Prompt 7 has the constraint \['x'\]"),
        (
            prompt_with(("startend:quotation", "none")),
            "startend:quotation of prompt 7 has 'none' for arguments",
        ),
        (
            prompt_with(("startend:quotation", {"mark": "'"})),
            "startend:quotation of prompt 7 has no argument 'mark'",
        ),
        (
            prompt_with(("keywords:existence", {"keywords": None})),
            "keywords:existence of prompt 7 lacks its argument 'keywords'",
        ),
        (
            prompt_with(("keywords:existence", {"keywords": ["a", " "]})),
            "keywords of keywords:existence, prompt 7, must be a text",
        ),
        (
            prompt_with(("length_constraints:number_words", {"num_words": 3, "relation": "about"})),
            "relation of length_constraints:number_words, prompt 7, must be 'at least' or",
        ),
        (
            prompt_with(("length_constraints:number_paragraphs", {"num_paragraphs": 2.5})),
            "must be a whole number, got 2.5",
        ),
        (
            prompt_with(("length_constraints:number_paragraphs", {"num_paragraphs": 0})),
            "must be at least 1, got 0",
        ),
        (
            prompt_with(
                (
                    "length_constraints:nth_paragraph_first_word",
                    {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
                )
            ),
            "asks for paragraph 3 of 2",
        ),
        (
            prompt_with(("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1})),
            "must be one letter",
        ),
    ],
)
def test_what_cannot_be_verified_is_a_sentence_with_kind_and_key(columns, sentence):
    with pytest.raises(InputError, match=sentence):
        task_of(columns, "Do it")


def test_nulls_of_a_table_and_whole_floats_are_read():
    columns = prompt_with(
        ("detectable_format:title", {"num_words": None}),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2.0, "keywords": None}),
        ("punctuation:no_comma", None),
    )
    task = task_of({**columns, "key": None}, "Do it", "row 3")
    assert task.key == "row 3"
    assert [each.arguments for each in task.constraints] == [{}, {"num_paragraphs": 2}, {}]


def test_how_many_words_an_answer_needs():
    def needs(*constraints):
        return Task("", "", tuple(Constraint(*each) for each in constraints)).words

    long = ("length_constraints:number_words", {"num_words": 300, "relation": LEAST})
    short = ("length_constraints:number_words", {"num_words": 300, "relation": LESS})
    repeat = ("combination:repeat_prompt", {"prompt_to_repeat": "Write a short haiku"})
    bullets = ("detectable_format:number_bullet_lists", {"num_bullets": 3})
    assert needs(long) == 300 and needs(short) == 1 and needs(bullets) == 24
    assert needs(repeat) == 5 and needs(repeat, bullets, long) == 304
    assert needs(("keywords:existence", {"keywords": ["ice cream", "mom"]})) == 3


def test_all_prompts_of_ifeval_are_read_and_all_but_languages_checked():
    path = REPOSITORY.parent / "shared" / "data" / "ifeval_prompts.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} lies beside the repository where it was put")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    tasks = [task_of(row, row["prompt"]) for row in rows]
    unspoken = [task for task in tasks if not task.is_checked]
    assert len(tasks) == 540 and len(unspoken) == 31
    assert sum(len(task.constraints) for task in tasks) == 832
    assert not any(
        verdict.strict or verdict.loose for task in tasks for verdict in verdicts(task, " \n")
    )
