"""fac.questions.catalogue: the samples of a dataset, as the page that lists them asks."""

import pytest

from fac.questions.catalogue import samples
from fac.store import open_stores
from tests.toy import toy_workspace


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The stores of the toy workspace and its larger dataset, of 24 samples."""
    stores = open_stores(toy_workspace(tmp_path_factory.mktemp("toy")), remember=True)
    yield stores, stores.runs.resolve("dataset", "toy-anchor")
    stores.cache.close()


def test_a_sample_comes_with_its_messages(toy):
    (row,), n_samples = samples(*toy, search="", offset=12, limit=1)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][0]["content"] == "You write python for beginners"
    assert n_samples == 24
    assert samples(*toy, search="", offset=24, limit=5) == ([], 24)


def test_samples_are_found_by_their_text_in_any_case_a_page_at_a_time(toy):
    page, n_matching = samples(*toy, search="GRANDMOTHER", offset=0, limit=4)
    assert (len(page), n_matching) == (4, 6)
    rest, n_matching = samples(*toy, search="grandmother", offset=4, limit=4)
    assert (len(rest), n_matching) == (2, 6)
    assert all("grandmother" in row["messages"][0]["content"] for row in page + rest)
    assert len({row["sample_id"] for row in page + rest}) == 6
    last, n_samples = samples(*toy, search="", offset=22, limit=5)
    assert (len(last), n_samples) == (2, 24)


@pytest.mark.parametrize("text", ["%", "_", "\\", "o%n", "'", '"', "{run}", "$text", "é\x00"])
def test_searched_text_stands_for_itself(toy, text):
    assert samples(*toy, search=text, offset=0, limit=5) == ([], 0)
