"""fac.synthesis.own_words: which words of a text are its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.synthesis.filter import words
from fac.synthesis.own_words import borrowed, borrowed_tokens, is_borrowed
from tests.lexicon import LexiconEncoder


def marked(text: str, *sources: str, prescribed: int = 0) -> str:
    """The text with every borrowed stretch in brackets."""
    for start, end in reversed(borrowed(text, sources, prescribed)):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text


@pytest.mark.parametrize(
    ("text", "sources", "prescribed", "shown"),
    [
        # Three words in a row are the source's, two are not.
        (
            "I like the old oven of my aunt",
            ["see the old oven!"],
            0,
            "I like [the old oven ]of my aunt",
        ),
        ("I like the old oven", ["the old house", "an old oven"], 0, "I like the old oven"),
        # The feature's word recurs in other company: it is the text's own.
        ("bake it in an oven", ["my oven smokes", "an oven fire"], 0, "bake it in an oven"),
        # Overlapping runs join; case and marks say nothing.
        (
            "So: THE old, oven smokes.",
            ["the old oven", "old oven smokes"],
            0,
            "So: [THE old, oven smokes.]",
        ),
        # Words in a row are of one source, not of the end of one and the beginning of the next.
        ("one two three", ["one two", "three"], 0, "one two three"),
        # What stands before the first word goes with it, what stands after a word with that.
        ('"the old oven" is hot', ["the old oven"], 0, '["the old oven" ]is hot'),
        # A prescribed opening is not its own, however short.
        ("Why does rain fall? Tell me.", [], 2, "[Why does ]rain fall? Tell me."),
        ("Why does rain fall", ["does rain fall"], 1, "[Why does rain fall]"),
        ("Why?", [], 5, "[Why?]"),
        # Two shared words of two are no three.
        ("old oven", ["the old oven smokes"], 0, "old oven"),
        ("今天很好吗", ["他说今天很"], 0, "[今天很]好吗"),
        ("?!", ["?!"], 3, "?!"),
        ("", [""], 0, ""),
    ],
)
def test_borrowed_by_hand(text, sources, prescribed, shown):
    assert marked(text, *sources, prescribed=prescribed) == shown


TEXTS = st.lists(
    st.sampled_from(["a", "B", "c", "d", "c!", "-", "a.b", "今b", "..."]), max_size=12
).map(" ".join)


@given(TEXTS, st.lists(TEXTS, max_size=3), st.integers(0, 4))
def test_borrowed_is_what_a_look_at_every_window_says(text, sources, prescribed):
    spoken = words(text)
    windows = {words(source)[i : i + 3] for source in sources for i in range(len(words(source)))}
    taken = {
        word
        for word in range(len(spoken))
        if word < prescribed
        or any(
            len(spoken[i : i + 3]) == 3 and spoken[i : i + 3] in windows
            for i in range(max(0, word - 2), word + 1)
        )
    }
    stretches = borrowed(text, sources, prescribed)
    reached = 0
    for start, end in stretches:  # in order, apart, within the text
        assert reached <= start < end <= len(text)
        assert start == 0 or start > reached
        reached = end
    for place in range(len(text)):
        # The word that a character belongs to: so many begin at or before it.
        begun = max(1, len(words(text[: place + 1])))
        inside = any(start <= place < end for start, end in stretches)
        assert inside == (bool(spoken) and begun - 1 in taken)


def test_a_token_belongs_to_its_word_and_a_mark_to_the_word_before():
    text = "the old oven, my dear: what now"
    stretches = borrowed(text, ["the old oven"])
    assert stretches == [(0, 14)]
    for token, shared in (("the", True), (" old", True), (",", True), (" my", False), (":", False)):
        start = text.index(token)
        assert is_borrowed(text, stretches, start, start + len(token)) == shared, token
    # The space before a word goes with it, though it stands after a borrowed one.
    assert text[13:16] == " my" and not is_borrowed(text, stretches, 13, 16)
    assert is_borrowed(text, stretches, 13, 14)  # the space by itself
    # A piece of a word is the word's.
    assert is_borrowed(text, stretches, 9, 10)


def test_each_message_is_compared_by_itself_and_the_template_is_nobodys():
    encoder = LexiconEncoder("oven")
    chat = [
        {"role": "user", "content": "the old oven smokes"},
        {"role": "assistant", "content": "open the oven door"},
    ]
    (rendered,) = encoder.render([chat])
    taken = borrowed_tokens(chat, rendered, {0: borrowed(chat[0]["content"], ["the old oven"])})
    pieces = rendered.pieces(0, len(rendered.ids))
    assert [p.strip() for p, t in zip(pieces, taken, strict=True) if t] == ["the", "old", "oven"]
    assert not borrowed_tokens(chat, rendered, {}).any()
    assert taken.dtype == bool and len(taken) == len(rendered.ids)
    assert np.flatnonzero(taken).tolist() == [1, 2, 3]
