"""fac.synthesis.negatives: of the texts that are silent the one most like the positive."""

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.config import PairsSpec
from fac.generator.writer import Request
from fac.schema import Chat
from fac.synthesis import negatives
from fac.synthesis.filter import words
from fac.synthesis.negatives import ceiling, cut_to, likeness
from tests.scripted import ScriptedWriter
from tests.test_synthesis import World, quiet, user
from tests.toy import toy_workspace

SAMPLES = {
    "anchor": [
        user("how long do I bake a loaf of rye bread at home"),
        user("write a short python! script that renames my holiday photos"),
        user("write a short python!!!! script that renames my summer photos"),
        user("write a short letter that praises my holiday host"),
    ],
    "seed": [user("should I bake the tart before filling it"), user("name my holiday photos")],
}
"""Features: 0 is bake, 3 python."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(toy_workspace(tmp_path / "world", n_features=5, samples=SAMPLES))


def pair(world: World, says: Callable[[Request], str], **more: Any) -> dict[str, Any]:
    """The pair for python."""
    (row,) = world.rows(world.pairs(ScriptedWriter(says), features=(3,), **more), "pairs")
    return row


def test_likeness_is_the_share_of_words_weighted_by_how_rare_they_are():
    # Of three texts "a" is in three, "b" in two, "c" and "d" in one each.
    a, b, c = (log(4 / (1 + n)) + 1 for n in (3, 2, 1))
    (alike,) = likeness(["A b, c"], ["b a!", "d a"])
    assert alike.tolist() == pytest.approx([(a + b) / (a + b + c), a / (a + b + 2 * c)])
    assert [row.tolist() for row in likeness([""], ["", "a"])] == [[0.0, 0.0]]
    assert [row.tolist() for row in likeness(["?"], ["!"])] == [[0.0]]


TEXT = st.lists(st.sampled_from("abcdefg"), max_size=6).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=5))
def test_likeness_agrees_with_brute_force_whatever_is_compared_at_once(texts, pool):
    sets = [{*words(text)} for text in (*texts, *pool)]
    weight = {
        word: log((1 + len(sets)) / (1 + sum(word in each for each in sets))) + 1
        for word in "abcdefg"
    }

    def alike(text: set[str], other: set[str]) -> float:
        both, either = (sum(weight[w] for w in some) for some in (text & other, text | other))
        return both / either if either else 0.0

    table = [[alike(text, other) for other in sets[len(texts) :]] for text in sets[: len(texts)]]
    for block in (256, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(negatives, "BLOCK", block)
            assert np.array([*likeness(texts, pool)]) == pytest.approx(np.array(table))


@pytest.mark.parametrize(
    ("threshold", "margin", "highest"), [(7.0, 1.0, 6.0), (0.5, 1.0, 0.0), (0.0, 1.0, 0.0)]
)
def test_a_negative_stays_below_the_threshold_by_the_margin_or_is_silent(
    threshold, margin, highest
):
    assert ceiling(threshold, margin) == highest


CHAT: Chat = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]


@pytest.mark.parametrize(
    ("form", "cut"),
    [
        (("user",), CHAT[1:2]),
        (("user", "assistant"), CHAT[1:]),
        (("system", "user"), CHAT[:2]),
        (("assistant",), None),
        (("user", "assistant", "user"), None),
    ],
)
def test_a_sample_is_cut_to_the_form_of_the_positive(form, cut):
    assert cut_to(CHAT, form) == cut


def test_the_nearest_silent_sample_is_the_negative(world):
    row = pair(world, lambda request: "write a short python!! script that sorts my holiday photos")
    # Two samples of the anchor are nearer, and fire it.
    assert row["negative"] == user("write a short letter that praises my holiday host")
    assert (row["origin"], row["negative_origin"], row["negative_peak"]) == ("own", "anchor", 0.0)
    row = pair(world, lambda request: "sort my holiday photos in python!!", seed=1)
    assert (row["negative_origin"], row["negative"]) == ("dataset", user("name my holiday photos"))


def test_of_texts_about_as_near_the_one_written_for_the_gap_comes_first(world):
    def says(request: Request) -> str:
        first = request.key.split("/")[2] == "00"
        return "rename my python!!! holiday photos" if first else "name my holiday photographs"

    row = pair(world, says, candidates=2)
    assert (row["negative_origin"], row["negative"]) == ("dataset", user("name my holiday photos"))

    def nearer(request: Request) -> str:
        first = request.key.split("/")[2] == "00"
        return "rename my python!!! holiday photos" if first else "sell my holiday photos"

    row = pair(world, nearer, candidates=2, seed=1)
    assert (row["negative_origin"], row["negative"]) == ("own", user("sell my holiday photos"))


def test_a_text_that_nearly_fires_it_is_no_negative(world):
    says = "write a short python!!!!!!!! script that renames my holiday photos"
    row = pair(world, lambda request: says, threshold=2.0, margin=0.4)
    # The anchor's own fires it with 1.5, below the threshold by .5, and counts less for that.
    assert (row["negative_origin"], row["negative_peak"]) == ("anchor", 1.5)
    row = pair(world, lambda request: says, threshold=2.0, margin=0.6)
    assert row["negative_peak"] == 0.0


def test_a_positive_like_nothing_at_all_is_edited(world):
    row = pair(world, lambda request: "quokkas adore python!!! cookbooks")
    assert (row["negative_origin"], row["negative"]) == ("edit", user("quokkas adore cookbooks"))


def test_samples_beyond_the_most_that_are_compared_are_spread_evenly(world, monkeypatch):
    monkeypatch.setattr(negatives, "MOST", 2)
    dataset = world.runs.manifest(world.anchor).facts.dataset
    assert [*negatives.samples_of_form(world.runs, dataset, ("user",))] == [0, 2]
    spec = PairsSpec(anchor=world.anchor, dataset=world.dataset, features=(3,))
    run = world.make_pairs(spec, ScriptedWriter(lambda request: "a python!!"), progress=quiet)
    assert world.facts(run).compared == 4 + 2 + 2  # candidates, dataset, anchor


def test_a_text_that_does_not_read_like_one_is_no_negative(world):
    def says(request: Request) -> str:
        number = request.key.split("/")[2]
        if number == "00":
            return "rename my python!!! holiday photos"
        return "rename my holiday photos rename my holiday photos rename my holiday photos" * 3

    row = pair(world, says, candidates=2)
    assert (row["negative_origin"], row["negative"]) == ("dataset", user("name my holiday photos"))


def test_of_deletions_one_that_reads_like_a_text_comes_first(world):
    # Without the peak's word the text would begin with a mark.
    row = pair(world, lambda request: "python!!! , quokkas adore cookbooks")
    assert (row["negative_origin"], row["negative"]) == (
        "edit",
        user("something!!! , quokkas adore cookbooks"),
    )
