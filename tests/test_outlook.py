"""fac.questions.outlook: the sentences about comparisons of every sort, read word by word."""

import re
from dataclasses import replace

import pytest

from fac.questions.comparison import Comparison, certainty, clear_firing
from fac.questions.gap_evidence import GapCounts, smallest_certain
from fac.questions.outlook import outlook, percent
from fac.questions.relevance import Relevance
from fac.store import open_stores
from tests.toy import ANCHOR, SEED, toy_workspace

SAMPLES = {
    "broad": ANCHOR * 8,
    "narrow": SEED * 4,
    "long": SEED * 8,
    "codes": ANCHOR[12:] * 8 + ANCHOR[:12],
    "few": SEED[-4:],
    "part": ANCHOR[:3] + ANCHOR[-3:],
    "mixed": (*SEED * 8, [{"role": "user", "content": "I like python"}]),
    "kitchens": SEED[:5] * 2,
    "tilted": ANCHOR[:12] * 4 + ANCHOR[12:13],
    "mute": [[{"role": "user", "content": ""}]],
}
"""Eight times the toy's texts, so that something is certain, and short ones, where nothing is."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    opened = open_stores(
        toy_workspace(tmp_path_factory.mktemp("outlook"), samples=SAMPLES), remember=True
    )
    yield opened
    opened.cache.close()


@pytest.fixture(scope="module")
def ask(stores):
    """The outlook of one of SAMPLES against another, all at threshold 0."""

    def ask(dataset, anchor="broad", **settings):
        runs = (stores.runs.resolve("measure", name) for name in (anchor, dataset))
        return outlook(stores, replace(Comparison(*runs), **settings))

    return ask


def listed(*features):
    return Relevance("some.txt", features=features)


FEW = "Only 10 features count, so each of them moves coverage by 10 points. "


def test_what_is_certain_is_counted_named_and_set_beside_random_text(ask):
    headline, advice, counts = ask("narrow")
    assert headline == (
        "narrow covers 40.0 % of the 10 features that broad fires, 40.0 % of what random text of "
        "its size would: 6 gaps are certain, all of them absent, most common “python”, “function” "
        "and “loop!”."
    )
    assert advice == FEW + (
        "Begin with the 6 absent ones: write pairs for them, or collect text that shows them."
    )
    assert counts == GapCounts(6, 0, possible=0, artefact=0, n_asked=10)


def test_a_dataset_longer_than_half_of_the_anchor_is_compared_in_parts(ask):
    assert (
        "of the 10 features that broad fires (parts as long as half of broad cover 40.0 % of what "
        "random text does): 6 gaps are certain"
    ) in ask("long").headline


def test_the_threshold_is_in_the_words(stores, ask):
    broad = stores.runs.resolve("measure", "broad")
    assert clear_firing(stores, broad) == 1.0
    assert "the 3 features that broad clearly fires," in ask("narrow", threshold=1.0).headline
    assert "the 3 features that broad fires above 1.2," in ask("narrow", threshold=1.2).headline
    assert "that broad fires in 4 samples or more" in ask("narrow", min_support=4).headline
    assert "that broad fires in tokens of the user" in ask("narrow", role="user").headline


def test_coverage_is_given_with_its_interval_where_that_has_a_width(stores, ask):
    runs = (stores.runs.resolve("measure", name) for name in ("broad", "mixed"))
    _, low, high = certainty(stores, Comparison(*runs)).interval
    assert 0 < low < 0.5 < high < 1
    width = f"{100 * low:.1f} to {100 * high:.1f}"
    assert f"mixed covers 50.0 % ({width}) of the 10 features" in ask("mixed").headline


def test_a_dataset_too_small_for_anything_to_be_certain_says_so(ask):
    assert ask("few").headline == (
        "few covers none of the 10 features that broad fires, where random text of its size would "
        "cover 40.0 %: none of its 10 gaps is certain."
    )
    assert ask("few").advice == FEW + (
        "With 61 content tokens chance could explain the absence of even the most common feature. "
        "Add samples before acting on a gap."
    )
    assert ", as much as random text of its size would: none of its 4" in ask("part").headline


def test_within_what_chance_gives_is_said_before_what_to_do(stores, ask):
    """tilted is nearly all kitchens: river, mountain and train are missing for certain, and which
    of the others it shows depends on one chat."""
    assert ask("part").advice.startswith(
        "Its coverage is within what chance gives, so nothing here asks to be filled. Only 10"
    )
    runs = (stores.runs.resolve("measure", name) for name in ("broad", "tilted"))
    interval, yardstick, _ = certainty(stores, Comparison(*runs))
    assert interval.value == 0.7 < yardstick.low <= yardstick.median <= interval.high
    headline, advice, counts = ask("tilted")
    assert ", as much as random text of its size would:" in headline
    assert counts.certain and advice.startswith(
        f"Its coverage as a whole is within what chance gives, but the {counts.certain} certain "
        "gaps are not: act on these. "
    )
    assert "Begin with the 3 absent ones" in advice
    assert "chance" not in ask("narrow").advice


def test_where_only_common_features_could_be_certain_it_says_how_common(stores, ask):
    """Of these, 48 samples fire bake, oven, recipe and python, and 96 please."""
    runs = [stores.runs.resolve("measure", name) for name in ("broad", "kitchens")]
    comparison = Comparison(*runs, relevance=listed(0, 1, 2, 3, 9))
    there, here = (stores.cache.summary(run)["content_tokens"] for run in runs)
    p = {n: (1 + here / there) ** -n for n in (48, 96)}
    assert p[96] < 0.05 * 1 / 5 and p[48] > 0.05
    assert smallest_certain(stores, comparison) == (96, 1)
    assert ask("kitchens", relevance=comparison.relevance).advice == (
        "Only 5 features count, so each of them moves coverage by 20 points. With 260 content "
        "tokens only what 96 samples or more of broad fire could be certain to be lacking, 1 of 5 "
        "features, and none of those is. More samples would say more about the others. A broader "
        "anchor, tokens of another role or a higher threshold ask for more."
    )


def test_what_is_only_too_rare_is_not_called_absent(ask):
    headline, advice, _ = ask("codes", "narrow")
    assert headline == (
        "codes covers all 4 features that narrow fires: 3 gaps are certain, none of them absent "
        "but all shown too rarely, most common “bake!”, “oven” and “recipe”."
    )
    assert advice == (
        "Only 4 features count, so each of them moves coverage by 25 points. Add samples that show "
        "more of this: collect them, or begin with pairs for it."
    )


def test_what_is_rarer_by_less_than_half_perhaps_is_not_called_certain(ask):
    headline, advice, counts = ask("broad", "narrow")
    assert headline == (
        "broad covers all 4 features that narrow fires: nothing is missing; 3 features it shows "
        "too rarely, if perhaps by less than half."
    )
    assert "Where that matters, add samples that show more. A broader anchor" in advice
    assert (counts.certain, counts.possible) == (0, 3)


def test_one_relevant_feature_is_shown_or_lacking(ask):
    lacking, shown = (ask(name, relevance=listed(i)) for name, i in (("narrow", 3), ("part", 0)))
    assert lacking.headline == (
        "narrow lacks the one feature listed in some.txt that broad fires: 1 gap is certain, "
        "“python”, absent."
    )
    assert lacking.advice == (
        "Begin with the absent one: write pairs for it, or collect text that shows it."
    )
    assert shown.headline == (
        "part shows the one feature listed in some.txt that broad fires: nothing is missing."
    )
    assert shown.advice.startswith("No feature is shown too rarely either, as far as its size can")
    unsure = ask("few", relevance=listed(3)).headline
    assert unsure.endswith("that broad fires: its one gap is not certain.")


def test_where_nothing_can_be_compared_it_says_why_and_what_to_do(ask):
    assert ask("broad").headline == (
        "broad contains broad, the anchor it is compared with, so it lacks nothing."
    )
    headline, advice, _ = ask("narrow", threshold=9.0)
    assert headline == "broad fires no relevant feature above 9, so there is nothing to cover."
    assert advice.startswith("Take a lower threshold or a broader anchor")
    assert ask("broad", "few").headline == (
        "few fires no relevant feature, so there is nothing to cover."
    )
    assert ask("mute").headline == (
        "mute has no content tokens: it covers none of the 10 features that broad fires, and no "
        "gap is certain."
    )
    assert ask("few", "narrow", role="system").headline == (
        "narrow has no content tokens of the system, so there is nothing to cover."
    )
    assert ask("narrow", role="system").headline == (
        "narrow has no content tokens of the system: it lacks the one feature that broad fires in "
        "tokens of the system, and no gap is certain."
    )


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("dataset", SAMPLES)
@pytest.mark.parametrize("anchor", SAMPLES)
def test_no_sentence_holds_a_figure_that_is_none(ask, anchor, dataset, threshold):
    for settings in ({}, {"relevance": listed(0)}, {"role": "user"}, {"min_support": 3}):
        headline, advice, _ = ask(dataset, anchor, threshold=threshold, **settings)
        for sentence in (headline, advice):
            assert not re.search(r"\b(nan|inf|None)\b", sentence), sentence
            assert sentence.endswith(".") and "  " not in sentence


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.9996, "99.9 %"), (0.0001, "0.1 %"), (0.5, "50.0 %")],
)
def test_all_and_nothing_are_not_rounded_to(share, words):
    assert percent(share) == words
