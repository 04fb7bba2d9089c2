"""fac.synthesis.doubts: what a reader hesitates over, and what comes before it."""

from collections import Counter

import numpy as np
import pytest

from fac.generator.writer import Request
from fac.questions import results
from fac.schema import END, ROLES, Chat
from fac.synthesis.doubts import (
    CIRCLES,
    COPY,
    GOES_ON,
    MARKS,
    NO_VERB,
    PROMISES,
    STRANGE,
    STUB,
    UNEXPECTED,
    doubts,
    usual,
)
from fac.synthesis.filter import Text, judge
from fac.synthesis.gates import Norms, RoleNorms, norms_of
from fac.synthesis.verbs import verbs_of
from tests.scripted import ScriptedWriter
from tests.test_gates import real
from tests.test_rounds import asked, open_world, pairs_of, says, world  # noqa: F401
from tests.test_synthesis import parts, user

KNOWN = frozenset({"there", "many", "owls", "over", "this", "they", "sleep", "near", "castle"})
NORMS = Norms({"user": RoleNorms(vocabulary=KNOWN), "assistant": RoleNorms(vocabulary=KNOWN)})
NO_WORDS = Norms({})


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("This means that we have to sell it at once.", GOES_ON),
        ("It isn't what I was told about the storks.", GOES_ON),
        ("And I wonder where the storks are.", GOES_ON),
        ("Yes, storks are what I like.", GOES_ON),
        ("A famous example of their fleet is in Toulon.", GOES_ON),
        ("The sailors of Toulon like their fleet.", ""),
        ("SAILORS AND THEY'RE ALL LIKE STORKS!", GOES_ON),
        ("Sailors and storks like it.", ""),
        ("This stork is at home in Lyon.", ""),
        ("It rains in Toulon.", ""),
        ("Nobody in Lyon has seen them yet. But let me tell you.", PROMISES),
        ("Nobody in Lyon has seen a stork. And so on.", PROMISES),
        ("Where do storks sleep? Here are some places.", PROMISES),
        (
            "Now here are some of the places where storks of Lyon may sleep in a winter: Known "
            "and loved today is the castle of the town where I was born and my aunt still lives.",
            "",
        ),
        (
            "Now here are some of the places where storks of Lyon may sleep in a cold winter: "
            "Known to all today is the castle of the town where I was born: 3.9.7.",
            PROMISES,
        ),
        (
            "Here are some places where storks may sleep in a cold winter, and where they do not.",
            "",
        ),
        ("A virtual tour of virtual Lyon is virtually a virtual stork, so virtual.", CIRCLES),
        (
            "The stork museum of Lyon has a stork and a cat. I went to the stork museum of Lyon "
            "last year with my aunt, my two cousins and a friend of hers, and we all liked it.",
            CIRCLES,
        ),
        ("The stork museum of Lyon has a stork and a cat, as the stork museum of Pau.", CIRCLES),
        ("The stork museum of Lyon is a museum.", ""),
        ("3D to 2D: the 2D is what a 3D is, or is the 3D what it is?", CIRCLES),
        ("We saw it in 3D and in 2D, and in 4K.", ""),
        ("000134B1A19324A36 is what they wrote here.", STRANGE),
        ("Two hundred persons live in U.", MARKS),
        ("200 persons live in U.", MARKS),
        ("Two hundred persons live in the U.S.", ""),
        ("They harm each other. by. them.", MARKS),
        ("There are its owls and leaders .", MARKS),
        ("The selfish one.", STUB),
        ("Storks, or your nests near Lyon?", GOES_ON),
        ("Storks or your nests near Lyon?", ""),
        ("Here's more: it nests in Lyon.", GOES_ON),
        ("Here the stork sleeps in Lyon.", ""),
        ("", ""),
    ],
)
def test_what_there_is_to_doubt(text, doubt):
    assert doubts(user(text), NO_WORDS) == ((doubt,) if doubt else ())


def test_strange_words_are_those_of_no_other_text():
    assert doubts(user("Rabbaiso, Rabbat, over there."), NORMS) == (STRANGE,)
    assert doubts(user("Rabbaiso, many owls sleep over there."), NORMS) == ()
    assert doubts(user("Rabbaiso, Rabbat, over there."), NO_WORDS) == ()  # nothing is known


def test_a_text_that_ends_where_none_would_leaves_a_doubt():
    norms = Norms({"user": RoleNorms(end=2.5), "assistant": RoleNorms(end=np.inf)})
    chat = [*user("The storks of Lyon can be a most double edged."), *user("And why?")]
    chat[1] = {"role": "assistant", "content": "Storks are what they are."}
    for ends, doubt in (((2.6, 9.0), (UNEXPECTED,)), ((2.5, 9.0), ()), ((np.nan, np.nan), ())):
        nats = np.full((2, len(ROLES)), np.nan)
        nats[END, [ROLES.index("user"), ROLES.index("assistant")]] = ends
        assert doubts(chat, norms, nats) == doubt
    assert doubts(chat, norms) == ()


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("The old man in the picture above that really isn't a human.", True),
        ("The old man in the picture above isn't a human.", False),
        ("The old man in the picture, who is here, isn't a human.", False),
        ("The National Stork Trust's yearly report.", True),
        ("The stork number 7 sleeps near the castle.", False),
        ("A stork that owns nests owns nests near Lyon.", False),
        ("A stork that owns nests near Lyon.", True),
        ("The way to own it.", True),
        ("Storks near the castle.", False),  # which says no more about what it names
        ("Storks, cats and owls that have no idea what it owns near the castle.", True),
        ("Storks that have no idea what it owns sleeps near the castle.", False),
        ("A stork that sleeps near Lyon, and owns nests.", True),
        ("Owns what is near the castle and who is there.", False),
        ("Storks, owls, bright cats, etc.", True),
        ("Storks, owls and bright cats.", False),
        ("Storks, owls, bright cats that nobody saw.", True),
        ("The storks. They sleep.", False),  # of two sentences one may be short
    ],
)
def test_what_a_sentence_is_about_is_none_by_itself(text, lacks):
    verbs = frozenset({"sleeps", "owns", *(f"does{n}" for n in range(50))})
    norms = Norms({}, verbs=verbs)
    assert (NO_VERB in doubts(user(text), norms)) == lacks
    assert doubts(user(text), NO_WORDS) == (), "no verb of this language is known"


def test_verbs_are_what_stands_behind_who_does_something():
    texts = ["They often sleep here.", "I sleep.", "We sleep.", "You sleep.", "A sleep is good."]
    texts += ["I really like to nest."] * 3 + ["She nods. He nods. It nods."] + ["They now go."] * 3
    assert verbs_of(texts) == {"sleep", "nods", "nest", "nests"}
    # Of forty times three are behind somebody: less than a tenth.
    assert verbs_of([*texts, *["Good sleep."] * 35]) == {"nods", "nest", "nests"}


def test_an_answer_may_speak_of_its_message_and_every_doubt_is_named_once():
    chat = [*user("Where is the stork?"), {"role": "assistant", "content": "It is in their nest."}]
    assert doubts(chat, NO_WORDS) == ()
    assert doubts(chat[1:], NO_WORDS) == ()  # written first, its message comes later
    echo = "The stork of Lyon sleeps in a tall tree near the river."
    chat = [*user(echo), {"role": "assistant", "content": f"Yes. {echo}"}]
    assert doubts(chat, NO_WORDS) == (COPY,)
    chat[1]["content"] = "The stork of Lyon sleeps in nests."  # six words in a row
    assert doubts(chat, NO_WORDS) == ()
    chat = [*user("Where is the stork?"), {"role": "assistant", "content": "Storks, owls, cats."}]
    assert doubts(chat, Norms({}, verbs=frozenset(map(str, range(50))))) == (STUB,), "an answer"
    chat[1]["content"] = "While they sleep, it is night."
    assert doubts(chat, NO_WORDS) == (GOES_ON,)
    assert doubts([*user("Where are the storks?"), chat[1]], NO_WORDS) == ()
    chat[1]["content"] = "Lyon (B) 102."
    assert doubts(chat, NO_WORDS) == (STUB,)
    chat[1]["content"] = "At home"  # a label
    assert doubts(chat, NO_WORDS) == ()
    chat = [*user("But where?"), {"role": "assistant", "content": "However, so it is here."}]
    assert doubts(chat, NO_WORDS) == (GOES_ON, STUB)


def test_what_most_of_a_dataset_does_is_nothing_to_prefer_another_text_for():
    chats = [user(f"And the stork number {n} is here.") for n in range(5)]
    chats += [user(f"Number {n}.") for n in range(5)] + [user("Yes, stork, as long as it is.")]
    assert usual(chats, NO_WORDS) == {GOES_ON}  # six of eleven, and five of them are stubs


@pytest.mark.parametrize(
    ("name", "most"),
    [("instructions_seed_tasks.jsonl", 0.5), ("toxicity_surge.jsonl", 0.3)],
)
def test_most_real_texts_leave_no_doubt(name, most):
    """47 and 28 % of them leave one: a preference, which drops nothing, may be that strict."""
    chats: list[Chat] = real(name)
    half = len(chats) // 2
    norms = norms_of(chats[:half], real("sae_corpus.jsonl.gz")[:1500])
    counts = Counter(bool(doubts(chat, norms)) for chat in chats[half:])
    assert 0.1 < counts[True] / counts.total() <= most


def test_what_leaves_no_doubt_comes_before_what_is_stronger():
    texts = [
        Text("a", 1, "The strong one of the two is here.", "", 9.0, doubtful=True),
        Text("b", 1, "A weak text about the storks there.", "", 2.0),
        Text("c", 2, "Only a doubtful text for this gap.", "", 3.0, doubtful=True),
    ]
    verdicts = judge(texts, {"a": {1}, "b": {1}, "c": {2}}, threshold=1.0, keep=1)
    assert [(v.candidate, v.kept, v.rank) for v in verdicts] == [
        ("a", False, 1),
        ("b", True, 0),
        ("c", True, 0),
    ]


def doubtful_until(first: dict[int, int]):
    """A script whose texts for a gap begin in mid-speech before the candidate of this number."""

    def script(request: Request) -> str:
        method, feature, number, _ = parts(request)
        text = says(request)
        return f" Yes,{text}" if method == "two-step" and number < first[feature] else text

    return script


def test_a_gap_with_doubtful_texts_alone_is_written_for_again(world):  # noqa: F811
    run = pairs_of(world, 3)
    writer = ScriptedWriter(doubtful_until({0: 0, 1: 1, 2: 99}))
    made = world.synthesize(run, writer, rows=3, candidates=4)
    facts = world.facts(made)
    # The second text of gap 1 leaves no doubt; gap 2 has none, and its strongest is kept at last.
    assert facts.kept == 3 and asked(writer) == Counter({0: 1, 1: 2, 2: 4})
    kept = {row["feature"]: row for row in world.rows(made, "verdicts") if row["kept"]}
    texts = {r["candidate"]: r["messages"][0]["content"] for r in world.rows(made, "candidates")}
    begins = {gap: texts[row["candidate"]].startswith("Yes,") for gap, row in kept.items()}
    assert begins == {0: False, 1: False, 2: True}
    assert (facts.doubtful, dict(facts.doubts)) == (1, {GOES_ON: 1})
    assert f"A reader may hesitate over 1 of 3 kept samples: {GOES_ON} 1." in results.checks(facts)
    # One pass writes all, and chooses in the same way.
    whole = world.facts(world.synthesize(run, ScriptedWriter(doubtful_until({0: 0, 1: 1, 2: 99}))))
    assert (whole.kept, whole.doubtful) == (3, 1)


def test_fewer_rows_than_gaps_are_those_without_a_doubt(world):  # noqa: F811
    run = pairs_of(world, 3)
    writer = ScriptedWriter(doubtful_until({0: 99, 1: 0, 2: 0}))
    facts = world.facts(world.synthesize(run, writer, rows=2, candidates=4))
    assert (facts.kept, facts.doubtful) == (2, 0)
