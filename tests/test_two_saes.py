"""One dataset measured with two SAEs: what its runs are called, and which one a name means.

The toy's second SAE knows the same words in another order.
"""

import pytest
from streamlit.testing.v1 import AppTest

from fac.config import REPOSITORY, MeasureSpec
from fac.errors import InputError
from fac.measure import measure
from fac.questions.catalogue import (
    encoder_called,
    measured,
    run_called,
    runs_alike,
    runs_called,
    titles,
)
from fac.store import open_stores
from fac.store.cache import build
from tests.lexicon import LexiconEncoder
from tests.test_cli import assert_one_sentence, fac
from tests.toy import WORDS, toy_workspace

SECOND = "/somewhere/saes/second"


def measure_again(stores, name, *, sae=SECOND, words=WORDS[::-1], **spec):
    dataset = stores.runs.resolve("dataset", name)
    run = measure(
        MeasureSpec(dataset=dataset, model="toy", layer=1, sae=sae, **spec),
        runs=stores.runs,
        encoder=LexiconEncoder(*words),
        sae_run="sae-0",
        progress=lambda *_: None,
    )
    build(stores.runs, run, stores.runs.workspace.cache)
    return run


@pytest.fixture
def stores(tmp_path):
    opened = open_stores(toy_workspace(tmp_path), remember=False)
    yield opened
    opened.cache.close()


@pytest.fixture
def first(stores):
    """The anchor and the dataset as the first SAE measured them."""
    return [stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed")]


@pytest.fixture
def second(stores, first):
    """The same by the second."""
    return [measure_again(stores, name) for name in ("toy-anchor", "toy-seed")]


def test_runs_of_one_name_are_told_apart_by_their_saes(stores, first, second):
    assert [titles(measured(stores))[run] for run in (*first, *second)] == [
        *("toy-anchor · SAE toy", "toy-seed · SAE toy"),
        *("toy-anchor · SAE second", "toy-seed · SAE second"),
    ]


def test_runs_of_one_sae_are_told_apart_by_whose_tokens_count_or_else_by_their_ids(stores, first):
    by_user = measure_again(stores, "toy-seed", sae="toy", words=WORDS, role="user")
    shorter = measure_again(stores, "toy-seed", sae="toy", words=WORDS, max_tokens=8)
    names = titles(measured(stores))
    assert names[by_user] == "toy-seed · user alone"
    piece = {run: run.removeprefix("measure-")[:6] for run in (first[1], shorter)}
    assert [names[run] for run in piece] == [
        f"toy-seed · all roles · {each}" for each in piece.values()
    ]


def test_a_name_means_the_measure_by_the_encoder_or_else_by_the_first(stores, first, second):
    manifests = measured(stores)
    one, two = (manifests[runs[0]].facts.encoder for runs in (first, second))
    assert runs_called(manifests, "toy-seed") == [second[1], first[1]]
    assert run_called(manifests, "toy-seed") == first[1]
    assert run_called(manifests, "toy-seed", two) == second[1]
    for exact in (second[1], "toy-seed · SAE second"):
        assert run_called(manifests, exact, one) == second[1]
    assert run_called(manifests, "nobody") == ""
    assert encoder_called(manifests, ["toy-seed", "", "toy-anchor"]) == one
    assert encoder_called(manifests, ["toy-seed", second[0]]) == two
    assert encoder_called(manifests, [first[1], second[0]]) == one, "at odds: what stands first"
    assert encoder_called(manifests, ["", "nobody"]) == ""


def test_commands_take_the_pair_that_one_encoder_measured(stores, first):
    names = ["toy-anchor", "toy-seed"]
    newer = measure_again(stores, "toy-anchor")
    assert runs_alike(stores, names) == first
    seed = measure_again(stores, "toy-seed")
    assert runs_alike(stores, [newer, "toy-seed"]) == [newer, seed]
    with pytest.raises(InputError) as both:
        runs_alike(stores, names)
    for run in (*first, newer, seed):
        assert run in str(both.value)
    place = stores.runs.workspace
    answer = fac("coverage", "--anchor", newer, "--dataset", "toy-seed", workspace=place)
    assert answer.out.startswith("toy-seed covers")
    answer = fac("coverage", "--anchor", names[0], "--dataset", names[1], workspace=place)
    assert_one_sentence(answer)
    assert "measured with 2 SAEs" in answer.err and f"{first[1]} (SAE toy)" in answer.err


def test_a_name_alone_that_two_saes_measured_is_one_sentence(stores, first, second):
    with pytest.raises(InputError, match=r"toy-seed was measured with more than one SAE") as error:
        stores.runs.resolve("measure", "toy-seed")
    assert f"{second[1]} (SAE second)" in str(error.value)
    assert stores.runs.resolve("measure", second[1]) == second[1]


@pytest.fixture
def page(stores, monkeypatch):
    monkeypatch.setenv("FAC_WORKSPACE", str(stores.runs.workspace.root))
    monkeypatch.setattr("fac.jobs.worker.start_worker", lambda _: None)

    def page(name="coverage", **view):
        at = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
        at.query_params.update(view)
        at.run()
        at.switch_page(f"pages/{name}.py").run()
        assert not at.exception and not at.error
        return at

    return page


def picked(at):
    """The dataset and the anchor."""
    labels = ("Coverage of", "Fill gaps of", "Against the anchor")
    return [each.value for label in labels for each in at.selectbox if each.label == label]


def info(at):
    return " ".join(each.value.replace("\\", "") for each in at.info)


@pytest.mark.parametrize("name", ["coverage", "home", "fill"])
def test_a_name_in_the_address_that_two_saes_measured_is_shown_by_one_and_said(page, second, name):
    at = page(name, anchor="toy-anchor", dataset="toy-seed")
    assert not [each for each in at.warning if "deleted" in each.value]
    assert picked(at) == ["toy-seed · SAE toy", "toy-anchor · SAE toy"]
    assert info(at) == (
        "Measured more than once; shown is toy-seed · SAE toy against toy-anchor · SAE toy. For "
        "the other choose toy-anchor · SAE second."
    )


def test_of_a_dataset_the_measure_by_the_anchors_sae_is_shown(page, second):
    at = page(anchor="toy-anchor · SAE second", dataset="toy-seed")
    assert picked(at) == ["toy-seed · SAE second", "toy-anchor · SAE second"]
    assert info(at) == (
        "Measured more than once; shown is toy-seed · SAE second. For the other choose "
        "toy-seed · SAE toy or an anchor of its SAE."
    )
    at = page(anchor="toy-anchor", dataset="toy-seed · SAE second")
    assert picked(at) == ["toy-seed · SAE second", "toy-anchor · SAE second"]
    at = page(dataset="toy-seed · SAE second")
    assert picked(at) == ["toy-seed · SAE second", "toy-anchor · SAE second"]


def test_who_chooses_the_anchor_of_another_sae_sees_the_same_dataset_by_it(page, second):
    at = page(anchor="toy-anchor", dataset="toy-seed")
    anchor = next(each for each in at.selectbox if each.label == "Against the anchor")
    anchor.select("toy-anchor · SAE second").run()
    assert not at.exception and not at.error
    assert picked(at) == ["toy-seed · SAE second", "toy-anchor · SAE second"]


def test_a_second_measure_does_not_lose_what_was_looked_at(page, stores, first):
    at = page(anchor="toy-anchor", dataset="toy-anchor")
    for name in ("toy-anchor", "toy-seed"):
        measure_again(stores, name)
    at.run()
    assert not at.exception and not at.error
    assert picked(at) == ["toy-anchor · SAE toy", "toy-anchor · SAE toy"]


def test_features_and_compare_know_the_name_too(page, second):
    at = page("features", dataset="toy-seed")
    assert at.selectbox[0].value == "toy-seed · SAE toy" and not at.warning
    at = page("compare", before="toy-seed", anchor="toy-anchor")
    assert at.selectbox[0].value == "toy-seed · SAE toy" and not at.warning
