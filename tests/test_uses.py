"""fac.synthesis.uses and fac.prompts.lists: how the anchor uses a feature's words."""

import pytest

from fac.prompts import lists
from fac.synthesis.uses import Use, phrases_about, phrases_of, use

TEXT = "First this. The night train, two hours late, came. Then that!"


def test_a_use_is_the_whole_sentence_with_its_words_and_what_precedes_them():
    start = TEXT.index("late")
    assert use("user", TEXT, start, start + 4) == Use(
        "user", "The night train, two hours late, came.", "late", "two hours"
    )
    # A token inside a word is the word, a mark belongs to the word before it.
    assert use("user", TEXT, start + 1, start + 3).words == "late"
    assert use("user", TEXT, start + 4, start + 5).words == "late"
    first = TEXT.index("The")
    assert use("user", TEXT, first, first + 3).before == ""


def test_no_use_of_a_sentence_that_is_too_long_or_says_nothing():
    assert use("user", "word " * 60, 0, 4) is None
    assert use("user", "...", 0, 1) is None
    assert use("user", TEXT, 999, 1000) is None


def test_phrases_are_three_words_in_a_row_as_they_stand():
    assert [*phrases_of("The night train, two hours")] == [
        "The night train",
        "night train, two",
        "train, two hours",
    ]
    about = [*phrases_about(Use("user", "The night train, two hours late.", "train", "night"))]
    assert about == ["The night train", "night train, two", "train, two hours"]
    assert [*phrases_of("two words")] == []


def test_lists_end_where_the_writer_goes_on():
    rows = [("late", "The train is late."), ("night train", "I took\nthe night train.")]
    text = lists.uses("chat", "user", rows, "overdue").text
    assert text.startswith("A list of words, each with a message to an assistant that uses them:")
    assert text.endswith(
        "\n- late: The train is late.\n- night train: I took the night train.\n- overdue:"
    )
    text = lists.uses("text", "user", rows, "overdue").text
    assert "each with a text that uses them" in text
    text = lists.message("chat", "Two weeks.", [("How long?", "A week.")]).text
    assert text.endswith("Answer: A week.\nMessage: How long?\n\nAnswer: Two weeks.\nMessage:")
    with pytest.raises(ValueError):
        lists.texts("chat", "assistant", None, ())
