"""fac.questions.spare: what the toy could do without, by eye."""

import pytest

from fac.errors import InputError
from fac.questions.comparison import Comparison
from fac.questions.spare import spare, spare_rows
from fac.store import open_stores
from tests.toy import SEED, WORDS, toy_workspace

SAID = [[{"role": "user", "content": text}] for text in ("a python loop", "her river runs on")]
CLOSE = [
    [{"role": "user", "content": f"Where is the oven that I may bake {what} in please"}]
    for what in ("my own small rolls", "our own small rolls")
]
DATASETS = {
    "toy-anchor": [*SAID, *CLOSE, [{"role": "user", "content": "not a word that counts"}]],
    "toy-seed": SEED,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    opened = open_stores(toy_workspace(root, samples=DATASETS), remember=False)
    yield opened
    opened.cache.close()


def comparison(stores, anchor, dataset):
    return Comparison(*(stores.runs.resolve("measure", name) for name in (anchor, dataset)))


def test_rows_that_others_stand_in_for_can_be_dropped(stores):
    """Of five rows the last fires nothing, and the third fires what the second last does."""
    question = comparison(stores, "toy-anchor", "toy-anchor")
    answer = spare(stores, question)
    assert answer.kept.tolist() == [0, 1, 2] and answer.dropped.tolist() == [3, 4]
    assert (answer.features, answer.silent) == (7, 1)
    words = [text[0]["content"].split() for text in DATASETS["toy-anchor"]]
    assert answer.tokens == sum(map(len, words))
    assert answer.dropped_tokens == len(words[3]) + len(words[4])
    close, silent = spare_rows(stores, question, answer)
    assert (close.sample, close.features, close.stand_ins) == (3, 4, [2])
    assert close.near_copy == 2 and close.tokens == len(words[3])
    assert (silent.sample, silent.features, silent.stand_ins) == (4, 0, [])
    assert silent.near_copy is None


def test_two_samples_of_each_feature_need_more_rows(stores):
    question = comparison(stores, "toy-anchor", "toy-anchor")
    assert spare(stores, question, per_feature=2).dropped.tolist() == [4]
    assert spare(stores, question, per_feature=2).rarer == 1
    with pytest.raises(InputError, match="at least 1"):
        spare(stores, question, per_feature=0)


def test_an_anchor_says_what_counts(stores):
    """Of what this anchor shows the seed says bake, oven, please and the: one chat about the oven
    has them all."""
    answer = spare(stores, comparison(stores, "toy-anchor", "toy-seed"))
    assert {WORDS[i] for i in (0, 1, 9, 10)} == {"bake", "oven", "please", "the"}
    assert answer.features == 4 and len(answer.kept) == 1
    rows = list(spare_rows(stores, comparison(stores, "toy-anchor", "toy-seed"), answer, 3))
    assert len(rows) == 3 and rows[0].stand_ins == answer.kept.tolist()


def test_a_dataset_that_shows_nothing_is_one_sentence(stores):
    question = comparison(stores, "toy-anchor", "toy-anchor")
    with pytest.raises(InputError, match="shows no relevant feature of toy-anchor above 99"):
        spare(stores, Comparison(question.anchor, question.dataset, 99.0))
