"""fac.questions.spare: what the toy could do without, by eye."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac.errors import InputError
from fac.questions.comparison import Comparison
from fac.questions.near_copies import near_copies
from fac.questions.spare import spare, spare_rows
from fac.store import open_stores
from fac.synthesis.filter import NEAR_COPY, comparable
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
    assert (close.near_copy, close.near_copy_stays) == (2, True)
    assert close.tokens == len(words[3]) and answer.near_copies == {3: 2}
    assert list(spare_rows(stores, question, answer, near=True)) == [close]
    assert list(spare_rows(stores, question, answer, near=False)) == [silent]
    assert (silent.sample, silent.features, silent.stand_ins) == (4, 0, [])
    assert silent.near_copy is None and silent.near_copy_stays is None


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


# --- near copies ----------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from("abcdefgh"), min_size=0, max_size=60).map("".join)


@given(st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_near_copies_are_those_of_every_two_rows(runs_of, drawn, data):
    """Compared with every other row: of those that stay the first, else the first before it."""
    texts = [text for text, _ in drawn]
    for i in range(1, len(texts)):
        if data.draw(st.booleans()):  # nearly the one before it, or a good part of it
            before = texts[i - 1]
            texts[i] = before[: data.draw(st.integers(0, len(before)))] + texts[i][:9]
    stays = np.array([stay for _, stay in drawn])
    chats = [[{"role": "user", "content": text}] for text in texts]
    sets = [comparable(text) for text in texts]

    def alike(i, j):
        return len(sets[i] & sets[j]) >= NEAR_COPY * len(sets[i] | sets[j])

    expected = {}
    for i in range(len(texts)):
        others = [j for j in range(len(texts)) if stays[j] or j < i]
        others = sorted((j for j in others if j != i), key=lambda j: (not stays[j], j))
        copy = next((j for j in others if sets[i] and sets[j] and alike(i, j)), None)
        if copy is not None and not stays[i]:
            expected[i] = copy
    answer = near_copies(*runs_of(chats), stays)
    assert answer.keys() == expected.keys()
    for row, other in answer.items():
        assert alike(row, other) and (stays[other] or other < row)
        assert stays[other] == stays[expected[row]]


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory):
    """Stores with a dataset of these chats, repeated ones too, and its run."""

    class Chats:
        def batches(self, dataset, table, *, columns, rows):
            yield from pa.table({"messages": pa.array(self.chats)}).to_batches(rows)

    runs = Chats()
    stores = SimpleNamespace(runs=runs, memo=None)

    def of(chats):
        runs.chats = chats
        return stores, "dataset"

    return of


def test_short_rows_are_compared_with_none(runs_of):
    chats = [[{"role": "user", "content": "yes please"}]] * 3
    assert near_copies(*runs_of(chats), np.zeros(3, bool)) == {}
    assert near_copies(*runs_of([]), np.zeros(0, bool)) == {}
