"""fac.synthesis.filter: what becomes of each candidate, and what that amounts to."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.config import REPOSITORY
from fac.schema import Chat
from fac.synthesis import filter
from fac.synthesis.filter import Leaks, Text, counted, greedy_cover, judge, words


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


def text(name: str, content: str = "", *, feature: int = 1, peak: float = 1.0, **more: Any) -> Text:
    """A candidate that says something of its own unless told what."""
    return Text(
        name, feature, content or " ".join(f"{name}{i}" for i in range(6)), "", peak
    )._replace(**more)


def reasons(verdicts: Sequence[filter.CandidateVerdict]) -> dict[str, str]:
    return {verdict.candidate: verdict.reason or "kept" for verdict in verdicts}


def test_every_reason_and_their_order():
    copied = "one two three four five six seven eight nine ten eleven twelve"
    texts = [
        text("a", problem="failed"),
        text("b", problem="cut off"),
        text("c", "?!"),
        text("d", f"so {copied} and more words follow it here", quoted=(f"x {copied} y",), peak=9),
        text("e", "the best of all the texts in this test", peak=5),
        text("f", "the best of all the texts in this quest", peak=4),
        text("g", "this was said in the anchor long ago", peak=3),
        text("h", peak=0.5),
        text("i", peak=2),
        text("j", peak=1.5),
        text("k", flaw="loop", peak=8),
        text("l", peak=7, own_peak=0.5),
        text("m", peak=3, own_peak=2.5),
    ]
    verdicts = judge(texts, {}, threshold=0.5, keep=2, leaked={"g", "e2"}, unsure={"h", "l", "m"})
    assert reasons(verdicts) == {
        "a": "failed",
        "b": "cut off",
        "c": "empty",
        "d": "echo",
        "e": "kept",
        "f": "duplicate",
        "g": "contamination",
        "h": "below threshold",
        "i": "kept",
        "j": "beaten",
        "k": "loop",
        "l": "borrowed words",
        "m": "label unsure",
    }
    ranks = {verdict.candidate: verdict.rank for verdict in verdicts if verdict.rank >= 0}
    assert ranks == {"e": 0, "i": 1, "j": 2}
    assert [v.candidate for v in verdicts if v.fires] == ["e", "i", "j"]


def test_a_text_is_worth_what_its_own_words_fire():
    texts = [text("a", peak=9, own_peak=2), text("b", peak=3), text("c", peak=4, own_peak=0.0)]
    verdicts = judge(texts, {}, threshold=0, keep=1)
    assert reasons(verdicts) == {"a": "beaten", "b": "kept", "c": "borrowed words"}
    assert [(v.peak, v.own_peak, v.fires) for v in verdicts] == [
        (9, 2, True),
        (3, 3, True),
        (4, 0, True),
    ]
    with_label = judge(texts, {}, threshold=0, keep=1, unsure={"b", "c"})
    assert reasons(with_label) == {"a": "kept", "b": "label unsure", "c": "borrowed words"}
    assert [v.fires for v in with_label] == [True, False, False]


def test_two_rates_of_gaps():
    """Of four gaps one has a kept sample, another one a text that fires in borrowed words."""
    texts = [
        text("a", feature=1),
        text("b", feature=2, own_peak=0.0),
        text("c", feature=3, own_peak=0.0, flaw="fragment"),
        text("d", feature=4, peak=0.0),
        text("e", feature=1, peak=0.5),
    ]
    figures = counted(judge(texts, {}, threshold=0, keep=1), [1, 2, 3, 4])
    assert (figures["gaps"], figures["gaps_hit"], figures["any_gaps_hit"]) == (4, 1, 2)
    assert (figures["hit_rate"], figures["any_hit_rate"]) == (0.25, 0.5)
    # Wilson's interval for 1 and 2 of 4 at z = 1.96
    rates = [figures[f"{name}hit_rate_{end}"] for name in ("", "any_") for end in ("low", "high")]
    assert rates == pytest.approx([0.0456, 0.6994, 0.15, 0.85], abs=1e-3)
    dropped = {"beaten": 1, "borrowed words": 1, "fragment": 1, "below threshold": 1}
    assert figures["dropped"] == dropped


def test_the_first_reason_that_holds_is_given():
    both = text("a", peak=0.0, problem="refusal", flaw="length", quoted=("a0 a1 a2 a3 a4 a5",))
    assert reasons(judge([both], {}, threshold=0, keep=1)) == {"a": "refusal"}
    both = both._replace(problem="")
    assert reasons(judge([both], {}, threshold=0, keep=1)) == {"a": "length"}
    both = both._replace(flaw="")
    assert reasons(judge([both], {}, threshold=0, keep=1)) == {"a": "echo"}
    leaked = both._replace(quoted=())
    assert reasons(judge([leaked], {}, threshold=0, keep=1, leaked={"a"})) == {"a": "contamination"}
    assert reasons(judge([leaked], {}, threshold=0, keep=1)) == {"a": "below threshold"}


def test_a_near_duplicate_gives_way_to_the_stronger_one_whatever_gap_it_is_for():
    sentence = "please bring the red umbrella to the station"
    verdicts = judge(
        [
            text("a", sentence, feature=1, peak=2),
            text("b", sentence.upper() + "!", feature=2, peak=3),
        ],
        {},
        threshold=0,
        keep=1,
    )
    assert reasons(verdicts) == {"a": "duplicate", "b": "kept"}


def test_what_only_the_dropped_say_is_no_duplicate():
    sentence = "please bring the red umbrella to the station"
    verdicts = judge(
        [text("a", sentence, peak=9, problem="cut off"), text("b", sentence, peak=1)],
        {},
        threshold=0,
        keep=1,
    )
    assert reasons(verdicts) == {"a": "cut off", "b": "kept"}


def test_gains_are_what_no_stronger_kept_text_covers_and_the_rest_may_be_redundant():
    texts = [text("a", feature=1, peak=3), text("b", feature=2, peak=2), text("c", feature=3)]
    fires = {"a": {1, 2, 3}, "b": {2, 4}, "c": {3}}
    verdicts = judge(texts, fires, threshold=0, keep=1)
    assert {v.candidate: v.gains for v in verdicts} == {"a": [1, 2, 3], "b": [4], "c": []}
    needed = judge(texts, fires, threshold=0, keep=1, only_needed=True)
    assert reasons(needed) == {"a": "kept", "b": "kept", "c": "redundant"}


def test_the_threshold_is_strict_and_in_the_precision_of_peaks():
    tenth = float(np.float32(0.1))  # a little more than 0.1 in float64
    for peak, kept in ((0.1, False), (tenth, False), (0.11, True)):
        (verdict,) = judge([text("a", peak=peak)], {}, threshold=0.1, keep=1)
        assert verdict.kept == kept


SOME_TEXTS = st.builds(
    lambda i, feature, content, problem, peak, prescribed, own_peak, flaw: Text(
        *(f"c{i}", feature, content, problem, peak, ("red green blue red green blue",), prescribed),
        *(own_peak, flaw),
    ),
    st.just(0),
    st.integers(0, 3),
    st.lists(st.sampled_from(["red", "green", "blue", "grey", "pink"]), max_size=8).map(" ".join),
    st.sampled_from(["", "", "", *filter.PROBLEMS]),
    st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]),
    st.integers(0, 3),
    st.sampled_from([np.inf, np.inf, 0.0, 0.5, 1.0]),
    st.sampled_from(["", "", "", *filter.FLAWS]),
)


@given(
    st.lists(SOME_TEXTS, max_size=14),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 3),
    st.sets(st.integers(0, 13)),
    st.sets(st.integers(0, 13)),
    st.booleans(),
    st.data(),
)
def test_every_candidate_gets_one_verdict_and_the_kept_deserve_it(
    texts, threshold, keep, leaked, unsure, only_needed, data
):
    texts = [each._replace(candidate=f"c{i}") for i, each in enumerate(texts)]
    fires = {each.candidate: data.draw(st.sets(st.integers(0, 3))) for each in texts}
    names = {f"c{i}" for i in leaked}
    options: dict[str, Any] = {"threshold": threshold, "keep": keep, "leaked": names}
    options["unsure"] = {f"c{i}" for i in unsure}
    verdicts = judge(texts, fires, **options, only_needed=only_needed)
    assert [verdict.candidate for verdict in verdicts] == [each.candidate for each in texts]
    assert all(verdict.kept == (verdict.reason == "") for verdict in verdicts)
    assert {verdict.reason for verdict in verdicts} <= {"", *filter.REASONS}
    kept = [verdict for verdict in verdicts if verdict.kept]
    assert all(n <= keep for n in Counter(v.feature for v in kept).values())
    assert all(v.own_peak > threshold and v.rank < keep and v.fires for v in kept)
    assert not {v.candidate for v in kept} & (names | options["unsure"])
    assert all(v.own_peak <= v.peak and v.peak > threshold for v in verdicts if v.fires)
    assert all(
        each.problem == v.reason for each, v in zip(texts, verdicts, strict=True) if each.problem
    )
    grams = [frozenset(filter._grams(words(texts[int(v.candidate[1:])].text))) for v in kept]
    for i, each in enumerate(grams):
        assert all(len(each & other) / len(each | other) < filter.SAME_TEXT for other in grams[:i])
    covered = [gap for v in kept for gap in v.gains]
    assert len(covered) == len(set(covered))
    assert set(covered) == {gap for v in kept for gap in fires[v.candidate]}
    # A beaten one is no stronger than any that was kept of its gap.
    if not only_needed:
        for verdict in verdicts:
            if verdict.reason == "beaten":
                rivals = [v.own_peak for v in kept if v.feature == verdict.feature]
                assert len(rivals) == keep and min(rivals) >= verdict.own_peak
    # The order in which candidates come says nothing.
    again = judge(texts[::-1], fires, **options, only_needed=only_needed)
    assert again[::-1] == verdicts


def test_a_cover_takes_the_largest_gain_each_time():
    fires = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool)
    steps = [(row, adds.tolist()) for row, adds in greedy_cover(fires)]
    assert steps == [(1, [1, 2, 3]), (0, [0]), (3, [4]), (2, [])]


@given(
    st.integers(0, 7).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), max_size=9).map(
            lambda rows: np.array(rows, bool).reshape(len(rows), n)
        )
    )
)
def test_a_cover_is_greedy_and_whole(fires):
    left = set(range(len(fires)))
    covered = np.zeros(fires.shape[1], bool)
    for number, adds in greedy_cover(fires):
        gains = {row: int((fires[row] & ~covered).sum()) for row in left}
        best = max(gains.values())
        assert number == min(row for row in left if gains[row] == best)
        assert adds.tolist() == np.flatnonzero(fires[number] & ~covered).tolist()
        covered |= fires[number]
        left.remove(number)
    assert not left and covered.tolist() == fires.any(0).tolist()


@pytest.mark.parametrize(
    ("written", "quoted", "prescribed", "copies"),
    [
        ("a b c d e f g h i j k l", "x a b c d e f g h i j k l y", 0, True),  # twelve in a row
        ("a b c d e f g h i j k", "x a b c d e f g h i j k y", 0, True),  # all grams
        ("a b c d e 1 2 3 4 5 6 7", "x a b c d e y", 0, False),  # one gram of eight
        ("a b c d e f 1", "a b c d e f g", 0, True),  # two of three
        ("A, b! c? d; e: f 1", "a b c d e f g", 0, True),
        ("a b c", "x a b c y", 0, True),  # too short for a gram: all of it
        ("a b c", "x a b y c", 0, False),
        ("a b c d e f g h 1 2 3 4", "a b c d e f g h i j", 8, False),  # it had to begin like that
        ("a b c d e f g h i j", "a b c d e f g h i j k", 6, True),  # and goes on copying
        ("a b c d", "x y z", 4, True),  # says nothing of its own
        ("a b c d 1 2 3", "x y z", 4, True),  # and three words are little
        ("a b c d 1 2 3 4", "x y z", 4, False),
        ("a b c d e f", "", 0, False),
    ],
)
def test_echoes(written, quoted, prescribed, copies):
    assert filter.echoes(words(written), [quoted], prescribed=prescribed) == copies


def test_leaks_are_thirteen_words_in_a_row_or_a_whole_shorter_text():
    long = " ".join([*(f"w{i}" for i in range(20)), *(f"other{i}" for i in range(30))])
    texts = {
        "thirteen": "before " + " ".join(f"w{i}" for i in range(5, 18)),
        "twelve": "before " + " ".join(f"w{i}" for i in range(5, 17)) + " after",
        "short": "W3, w4!",
        "other": "w3 w5",
        "word": "w19",
        "absent": "nothing",
        "empty": "...",
    }
    leaks = Leaks({name: user(text) for name, text in texts.items()})
    leaks.compare(user("something else"))
    assert leaks.candidates == set()
    leaks.compare(user(long))
    assert leaks.candidates == {"thirteen", "short", "word"}


def test_words_of_scripts_without_spaces_are_signs():
    assert words("今天 GPT4好!") == ("今", "天", "gpt4", "好")
    assert words("Ça va?") == ("ça", "va")


DATA = REPOSITORY.parent / "shared" / "data"
FILES = "toxicity_surge.jsonl", "ifeval_prompts.jsonl"


def test_a_message_that_is_nearly_one_of_theirs_leaks():
    """Shingles of "the red fox ran up a hill" are 21, with "sat on" for "ran up" 6 of them go."""
    first = "the red fox ran up a hill"
    names = {
        "same": first.upper() + "!",
        "near": "the red fox sat on a hill today",
        "other": "some other words",
    }
    leaks = Leaks({name: user(text) for name, text in names.items()})
    leaks.compare([*user("something"), {"role": "assistant", "content": first}])
    assert leaks.candidates == {"same"}
    leaks.compare(user("the red fox sat on a hill now"))
    assert leaks.candidates == {"same", "near"}


def edited(text: str, rng: random.Random, share: float, other_words: Sequence[str]) -> str:
    """With this share of its words replaced, left out, or followed by another, in lower case."""
    words_now: list[str] = []
    for word in text.lower().split():
        chance = rng.random() / share
        words_now += (
            [] if 0.6 < chance < 0.8 else [rng.choice(other_words) if chance < 0.6 else word]
        )
        words_now += [rng.choice(other_words)] if 0.8 < chance < 1 else []
    return " ".join(words_now)


def test_near_copies_of_real_texts_are_met_and_unrelated_ones_are_not():
    """50 planted copies with 15 % of their words changed, among 500 other texts: 46 are met. The
    two dropped wrongly are of two and three words, which stand in a longer one as they are."""
    if not all((DATA / name).exists() for name in FILES):
        pytest.skip(f"{DATA} is not here: the texts to plant copies of are real ones")
    lines = [(DATA / name).read_text("utf-8").splitlines() for name in FILES]
    comments = [json.loads(line)["text"] for line in lines[0]]
    prompts = [json.loads(line)["prompt"] for line in lines[1]]
    rng, pool = random.Random(0), comments[:300]
    long = [text for text in pool if len(words(text)) >= 8]
    copies = rng.sample(long, 50)
    spare = [word for text in prompts for word in words(text)]
    planted = {f"copy{i}": user(edited(text, rng, 0.15, spare)) for i, text in enumerate(copies)}
    unrelated = [*comments[300:], *prompts[:300]]
    leaks = Leaks(planted | {f"new{i}": user(text) for i, text in enumerate(unrelated)})
    for text in pool:
        leaks.compare(user(text))
    met = leaks.candidates & planted.keys()
    precision, recall = len(met) / len(leaks.candidates), len(met) / len(planted)
    assert len(unrelated) == 500 and precision >= 0.95 and recall >= 0.92
