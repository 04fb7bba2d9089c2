"""fac.synthesis.gates: texts that read like the dataset's pass, planted bad ones do not."""

import gzip
import json
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.config import REPOSITORY
from fac.generator.edges import Edges
from fac.schema import END, MEAN, ROLES, Chat
from fac.synthesis import gates
from fac.synthesis.gates import flaw, norms_of, oddities

DATA = REPOSITORY.parent / "shared" / "data"

THINGS = ("bread", "storks", "violins", "harbours", "comets", "orchids", "bridges", "owls", "rain")
TOWNS = ("Lyon", "Porto", "Ghent", "Turin", "Bergen", "Split", "Cork")


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


def tidy(number: int) -> str:
    thing, town = THINGS[number % len(THINGS)], TOWNS[number % len(TOWNS)]
    more = (f"I have {number} days to go.", "Is it far from here?", "I like the rain.", "Help me!")
    return " ".join([f"Tell me about the {thing} of {town} and what to see.", *more[: number % 5]])


def loose(number: int) -> str:
    thing, town = THINGS[number % len(THINGS)], TOWNS[number % len(TOWNS)]
    more = f" for {number} days" if number % 2 else ""
    return f"the {thing} in {town} are the best of all and i was there{more}"


TIDY = norms_of([user(tidy(i)) for i in range(100)])
LOOSE = norms_of([user(loose(i)) for i in range(100)])

GOOD = (
    "Where can I find the owls of Ghent in winter? I have the whole week to see them.",
    'The guide says "closed", but the doors (all of them) are open to guests. Why is that?',
    "What is there to see in the harbours of Cork? Tell me about: boats, birds, and bread.",
)


@pytest.mark.parametrize("text", GOOD)
def test_texts_like_the_datasets_pass(text):
    assert flaw(user(text), TIDY) == ""


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("and the storks of Lyon are there, for what it is worth.", "begins in lower case"),
        (", which I have to see before the rain comes to Turin.", "begins with a mark"),
        ("I have to see how do I calculate it?To calculate the days, go to Lyon.", "sentences"),
        ("Tell me about the comets and what to see of", "ends in a word"),
        ("Tell me about the comets, the owls, the rain and what I have,", "ends in an open mark"),
        (
            "Tell me about the comets (and the owls there. I have the days to go.",
            "leaves a bracket",
        ),
        ('Tell me about the "comets of Lyon and the owls there.', "leaves a quote"),
        ("Tell me about the owls there.\n#include <stdio.h", "ends in an open tag"),
        ('Tell me about the word "owl-"', "ends in an open mark"),
        ("Tell me about the owls:\n\n1. The comets.\n2.", "ends in an empty item"),
        ("Tell me about the owls there.\n#", "ends in an empty item"),
        ("The best of the storks there are: the old one (2023) 2.", "ends in an empty item"),
        ("Tell me about:\n1. The owls.\n2.\n3.\n4. The rain of Lyon.", "leaves items empty"),
        ("If I could show you 4 more books of the town of Cork.", "a condition alone"),
        ("I like the rain. Unless the owls of Ghent come back.", "a condition alone"),
        ("Which of them are in Cork?\nA.", "ends in an empty item"),
        ("Tell me about the owls and the comets there?.", "ends in two marks"),
        ("Tell me of the owls there, because", "ends in mid-sentence"),
        ("00 days of rain in Lyon are the end of it.", "begins in a number"),
        ("I see it.\nWe: How are the days there?", "names a speaker"),
        ("Tell me of the owls \ufffd there.", "holds half a sign"),
        ("and the owls are in Cork.", "begins in mid-sentence"),
        ("Tell me about the `comets of Lyon and the owls there.", "leaves code open"),
        ("Tell me about the owls there:\n- The comets of Lyon.", "ends in a list of one"),
        ("Tell me what to see there, at https://www.", "ends in a begun address"),
        ("The first step is to see it at https://", "ends in a begun address"),
        ("1918 in 1940): When did the owls come to Cork?", "leaves a bracket"),
        ("Sentence: Tell me about the owls there.", "names a speaker"),
        ("Tell me of the owls, the rain and...", "ends in dots"),
        ("Tell me about the owls.\nAssistant: They are there to see in Lyon.", "names a speaker"),
    ],
)
def test_fragments_are_what_no_text_of_the_dataset_is(text, odd):
    assert any(each.startswith(odd) for each in oddities(text))
    assert flaw(user(text), TIDY) == "fragment"


@pytest.mark.parametrize(
    "text", ["I have to go there :)", "It is there :'(", "There it is ;-)", "It rains :/"]
)
def test_a_face_ends_a_text_as_a_mark_does(text):
    assert oddities(text) == set()


def test_what_the_dataset_does_is_no_fragment():
    text = "the comets in Cork are the best of all and i was there"
    assert flaw(user(text), LOOSE) == ""
    assert flaw(user(text), TIDY) == "fragment"
    # A text that goes on as others do begins as they do.
    begun = "in the country of comets, where he was. The owls in Cork are the best of all"
    assert flaw(user(begun), LOOSE) == "fragment"
    # "of" stands 100 times in these texts, never at an end or a beginning
    assert flaw(user("the comets in Cork are the best of"), LOOSE) == "fragment"
    assert flaw(user("of all the comets in Cork i was there"), LOOSE) == "fragment"


def test_what_a_limit_of_tokens_cuts_is_no_habit_however_many_texts_are_cut():
    cut = norms_of([user(f"{tidy(i)}\n\n1." if i % 5 == 0 else tidy(i)) for i in range(100)])
    assert not cut.of("user").habits
    assert flaw(user(GOOD[0]), cut) == ""
    assert flaw(user(f"{GOOD[0]}\n\n1."), cut) == "fragment"


@pytest.mark.parametrize(
    "text",
    [
        "He paints a strange picture of paintings, painting strange people and a painting.",
        "Rudeness is a kind of insult, and an insult and rudeness are words, which are rude words.",
        "Your taste is poor and you put personal taste before the Personal Taste of Good Taste.",
    ],
)
def test_what_says_its_own_words_again_more_than_the_datasets_texts_is_a_loop(text):
    assert oddities(text) == set()
    assert flaw(user(text), TIDY) == "loop"
    more = "The rain, the cold rain, is a rain of Lyon: Lyon likes rain."
    wordy = norms_of([user(f"{tidy(i)} {more}" if i % 2 else more) for i in range(100)])
    assert flaw(user(text), wordy) == ""


@pytest.mark.parametrize(("n", "is_habit"), [(4, False), (5, True)])
def test_a_loop_of_few_texts_is_no_habit_though_the_dataset_is_small(n, is_habit):
    again = "Tell me about the owls there. Tell me about the owls there. I have the days to go."
    texts = [user(again if i < n else tidy(i)) for i in range(100)]
    assert (flaw(user(again), norms_of(texts)) == "") == is_habit


def test_a_text_that_was_cut_off_ends_with_a_sentence_or_is_a_fragment():
    assert flaw(user(loose(0)), LOOSE) == "" and loose(0)[-1] == "e"
    assert flaw(user(loose(0)), LOOSE, finished=False) == "fragment"
    assert flaw(user(loose(0) + "."), LOOSE, finished=False) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Tell me about the owls there. Tell me about the owls there. I have the days to go.",
        "I have to go to Lyon.\nI have to go to Lyon.",
        "I have to see the rain, I have to see the rain, I have to see the rain there.",
        "Tell me about the owls owls owls of Ghent.",
        "Owls: Hello Owls, Hello, Owls!",
        "Grand, a grand, it is grand.",
        "The days are " + ".".join(str(n % 4 + n % 3) for n in range(50)) + ".",
        "Tell me of the storks of Cork, storks of Cork!",
        "Which is the best winter winter bread there?",
        "Winters: a young winter, old winters, one winter, no winter, lost winters, what winters, "
        "all winters.",
        "There is work for all of you who come to Cork in winter to see the storks and the comets, "
        "and this is why they get rid of owls and get rid of owls, not of the rain.",
        "Rough ride you say, I don't wanna fly with you, I wanna fly with you, I wanna fly.",
        "I am a lost owl, I mean I am a lost stork of Ghent.",
        "Tell me about the brain injury brain injury of the owls.",
        "Is the owl-bread-owl-bread of Lyon there to see?",
        "It is destroying our culture, it is destroying our culture.",
        "I go to see " + "the owls and the storks of the town and " * 8 + "the rain.",
        "A grand grand owl of Cork is there. I see it in Lyon, for what is a grand grand owl?",
        "Visiting the storks is like visiting the storks. What a day is visiting the storks!",
        "It is THERAINTHERAINTHERAINTHERAIN for all of you.",
        "See the storks of Cork with the owls's owls's bread and the owls's owls's harbour.",
        "The storks (laugh) go to Lyon (laugh). I see (laugh) one of them. What (laugh) is it?",
        "If the storks had said, old harbour instead of old harbour, it is old harbour and not "
        "one old harbour.",
        "The 26,104th - the 26,104th is the 26,104th.",
        "The rain of Lyon has come and gone in ten days, as I see. The storks are there to see the "
        "harbour. In Cork I like to say that the rain of Lyon has come and gone in ten days.",
        "I may choose to have my own harbour in Cork by art. You may choose to have my own harbour "
        "in Lyon by bread. They may choose to have my own harbour in Ghent by comets.",
    ],
)
def test_loops(text):
    assert flaw(user(text), TIDY) == "loop"


def test_lists_lyrics_of_one_line_and_numbers_are_no_loops():
    for text in (
        "1) owls 2) storks 3) rain (all of them)",
        "0 0 0 0 0 1",
        "- a\n- b\n- c",
        "x :)",
        "Bye bye",
        "The owl. Owl",
        "I go there to see the owls again and again and again.",
        "The town has a harbour. A harbour is there.",
        "Is that so so?",
        "Tell me a knock knock joke of the owls.",
        "If you see the owls, tell me of it. If you like rain you will like Lyon.",
        "If only two of the owls are there is that the end?",
        "It is (in 2023) 2.5 days to go.",
        "Visiting the storks is one thing. Visiting the storks in Cork is what I like.",
        "I see it at https://www.lyon.fr.",
        "007 is there.",
        "08:30 is the time to go.",
        "Hahahahahahahahahaha, what a day!",
        "I am goinggoinggoing to Lyon.",
        "The old, old owl has come to the harbour of Cork.",
        "I see of the town: owl(rain), the stork of Cork(rain), one bread(rain), one comet(rain).",
        "The owl (young), the stork (young) and the bread (young) are there.",
        "What I have to see:\n- the owls\n- the rain.",
    ):
        odd = {*gates.LOOPS, *gates.CUT, "leaves a bracket open", "begins with a mark"}
        odd |= {"a condition alone", "leaves items empty"}
        assert not oddities(text) & odd


FOREIGN = (
    "Je voudrais savoir comment visiter la ville de Lyon en trois jours avec des enfants.",
    "Ich möchte wissen, wie ich in drei Tagen mit Kindern die Stadt Gent besuchen kann.",
    "Me gustaría saber cómo visitar la ciudad de Lyon en tres días con los niños.",
)


def documentation() -> list[Chat]:
    """English that lies at hand: the sentences of this project's documents."""
    files = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    text = " ".join(path.read_text("utf-8") for path in files)
    return [user(each.strip() + ".") for each in re.split(r"[.:]\s", text) if len(each) > 60]


def test_another_script_and_another_language():
    assert flaw(user("Расскажи мне о совах Гента и что там посмотреть."), TIDY) == "language"
    assert flaw(user("今 " + tidy(3)), TIDY) == "", "a sign among many"
    chats = documentation()
    english = norms_of(chats)
    assert {flaw(user(text), english) for text in FOREIGN} == {"language"}
    assert "language" not in {flaw(user(text), english) for text in GOOD}
    both = norms_of([*chats, *(user(text) for text in FOREIGN * 40)])
    assert "language" not in {flaw(user(text), both) for text in FOREIGN}
    assert "language" in TIDY.unchecked, "a handful of words do not show a language"
    assert flaw(user(FOREIGN[0]), TIDY) == ""


def test_length_is_between_what_99_of_100_have():
    lengths = [10 + i for i in range(99)]  # words; ranks 1 and 99 are those at 1 % and 99 %
    norms = norms_of([user("Go " * (n - 1) + "on.") for n in lengths])
    # Only the length is asked here: a role's habits are those of these strange texts.
    assert norms.of("user").length == (10, 108)
    for n, drop in ((9, "length"), (10, ""), (108, ""), (109, "length")):
        assert flaw(user("Go " * (n - 1) + "on."), norms) == drop


def test_loss_is_judged_by_role_in_the_range_of_dataset_or_anchor():
    def losses(*values: float) -> np.ndarray:
        table = np.full((len(values), 2, len(ROLES)), np.nan)
        table[:, MEAN, ROLES.index("user")] = values
        table[:50, END, ROLES.index("user")] = values[:50]
        return table

    near, far = losses(*np.arange(1, 100) / 100), losses(*np.arange(1, 100) / 100 + 2)
    norms = norms_of([user(tidy(i)) for i in range(100)], (), [near, far])
    assert norms.of("user").loss == pytest.approx((0.01, 2.99))
    # Of the hundred ends .01 to .50 and 2.01 to 2.50, 95 in a hundred lie below 2.45.
    assert norms.of("user").end == pytest.approx(2.45, abs=0.01)
    assert norms_of([user(tidy(i)) for i in range(100)], (), []).of("user").end == np.inf
    for value, drop in ((0.005, "unlikely"), (0.5, ""), (1.5, ""), (3.0, "unlikely"), (np.nan, "")):
        assert flaw(user(GOOD[0]), norms, True, losses(value)[0]) == drop
    assert norms.unchecked == ("language",) and TIDY.unchecked == ("language", "unlikely")


def test_a_role_with_few_texts_has_the_anchors_norms_and_none_where_there_are_none():
    anchor = [user(tidy(i)) for i in range(100)]
    assert norms_of([user("x")] * 3, anchor).of("user").length[1] > 10
    nothing = norms_of([user("x")] * 3)
    assert nothing.roles == {} and nothing.unchecked == ("language", "length", "unlikely")
    assert flaw(user("x y z"), nothing) == "" and flaw(user("x x x x"), nothing) == "loop"


def test_every_message_of_a_chat_is_judged_by_its_role():
    def chat(question: str, answer: str) -> Chat:
        return [*user(question), {"role": "assistant", "content": answer}]

    norms = norms_of([chat(tidy(i), loose(i)) for i in range(100)])
    assert flaw(chat(tidy(5), loose(7)), norms) == ""
    assert flaw(chat(loose(7), tidy(5)), norms) == "fragment"


def test_an_answer_that_says_its_message_again_is_a_loop():
    def chat(question: str, answer: str) -> Chat:
        return [*user(question), {"role": "assistant", "content": answer}]

    message = "I am unable to assist you with it, but I can connect you."
    longer = "I am unable to assist you with it, but I can connect you with others. I would try."
    norms = norms_of([chat(tidy(i), GOOD[i % 3]) for i in range(100)])
    assert flaw(chat(message, message), norms) == flaw(chat(message, longer), norms) == "loop"
    assert (
        flaw(
            chat(
                message,
                "Thank you, I would like to be connected with all of them by the end of today.",
            ),
            norms,
        )
        == ""
    )
    assert flaw([*user(message), *user(GOOD[0]), *user(message)], norms) == ""
    # Where the dataset corrects or repeats what was said, a sample may.
    often = norms_of([chat(tidy(i), tidy(i)) for i in range(100)])
    assert flaw(chat(message, message), often) == ""
    # Where its answers quote from their message and go on, none is to be a copy.
    quotes = norms_of([chat(tidy(i), f"{tidy(i)} Lyon.") for i in range(100)])
    assert flaw(chat(message, longer), quotes) == "" and flaw(chat(message, message), quotes)
    # What the anchor does says nothing of a dataset that is large enough to speak for itself.
    beside = [chat(tidy(i), GOOD[i % 3]) for i in range(10_000)]
    both = norms_of([chat(tidy(i), tidy(i)) for i in range(100)], beside)
    assert flaw(chat(message, message), both) == ""


def test_the_shape_of_texts_is_what_most_of_them_keep_to():
    sentences = [f"This is text {n}." for n in range(100)]
    assert gates.edges_of(sentences) == Edges(capital=True, mark=True)
    for n, most in ((90, True), (110, False)):
        small = [f"text {i} begins so." for i in range(n)]
        assert gates.edges_of([*sentences, *small]) == Edges(capital=most, mark=True)
        # Headings and lists together are what has no end.
        open_ended = [f"Text {i} ends so" if i % 2 else f"Text {i} has a list:" for i in range(n)]
        assert gates.edges_of([*sentences, *open_ended]) == Edges(capital=True, mark=most)
    assert gates.edges_of(sentences[: gates.FEW - 1]) == Edges()


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4), st.booleans())
def test_any_text_gets_an_answer(texts: Sequence[str], finished: bool):
    messages = [{"role": ROLES[i % 3], "content": text} for i, text in enumerate(texts)]
    reason = flaw(messages, TIDY, finished)
    assert reason in ("", "fragment", "loop", "language", "length")
    assert flaw(messages, TIDY, finished) == reason


@given(st.lists(st.sampled_from(("(", ")", "[", "]", "a", " ")), max_size=12).map("".join))
def test_brackets_are_balanced_as_a_stack_has_it(text):
    """Items such as "a)" aside: here with words of five letters only."""
    text = text.replace("a", "words")
    depth = least = 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        least = min(least, depth)
        depth = max(depth, 0) if sign == ")" else depth
    assert gates._unbalanced(text, "()") == (depth > 0 or least < 0)


# ---- real texts


def real(name: str) -> list[Chat]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: the texts that must pass are real ones")
    read = gzip.open if name.endswith("gz") else open
    with read(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = random.Random(0).sample(rows, min(len(rows), 2000))
    return [row["messages"] if "messages" in row else user(row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("instructions_seed_tasks.jsonl", 0.07),
        ("toxicity_surge.jsonl", 0.06),
        ("sae_corpus.jsonl.gz", 0.07),
    ],
)
def test_few_real_texts_are_dropped_by_the_norms_of_the_other_half(name, most):
    """300 messages each, by all gates but that of the loss, which adds 2 % by construction, as the
    share of words that come again does."""
    chats = real(name)
    norms = norms_of(chats[: len(chats) // 2])
    texts = [[message] for chat in chats[len(chats) // 2 :] for message in chat]
    texts = random.Random(1).sample(texts, min(300, len(texts)))
    dropped = [reason for text in texts if (reason := flaw(text, norms))]
    assert len(dropped) <= most * len(texts), dropped
