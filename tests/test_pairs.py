"""fac.questions.pairs: the pairs of a run by where they stand and how strongly they fire."""

import pytest

from fac.questions.pairs import in_state, pair_states, state_counts
from fac.review import pair_item
from fac.store import open_stores
from tests.test_export import publish_pairs
from tests.toy import toy_workspace


@pytest.fixture
def making(tmp_path):
    """The stores of a workspace with pairs for features 3, 5 and 6, whose positives fire with 1.5,
    and a gap without one, 7; and the pairs run."""
    stores = open_stores(toy_workspace(tmp_path / "kitchen"), remember=True)
    yield stores, publish_pairs(stores.runs)
    stores.cache.close()


def test_pairs_are_read_as_they_were_written(making):
    stores, run = making
    rows = [pair.version.row for pair in pair_states(stores, run).values()]
    assert rows == stores.runs.table(run, "pairs").to_pylist()
    failed = {row["feature"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert failed == {7: "no candidate fires it"}


@pytest.mark.parametrize(
    ("show", "above", "features"),
    [
        ("all", 0.0, [3, 5, 6, 7]),
        ("all", 1.4, [3, 5, 6]),
        ("all", 1.5, []),
        ("approved", 0.0, [5]),
        ("approved", 1.5, []),
        ("undecided", 1.4, [3, 6]),
        ("rejected", 0.0, []),
        ("failed", 0.0, [7]),
    ],
)
def test_a_view_holds_the_pairs_of_its_state_that_fire_above_its_score(
    making, show, above, features
):
    stores, run = making
    row = stores.runs.table(run, "pairs").to_pylist()[1]
    item = pair_item(run, row)
    stores.decisions.add("ana", item.kind, item.subject, item.content, "approve")
    states = pair_states(stores, run)
    assert [pair.feature for pair in in_state(states, show, above)] == features
    assert state_counts(states) == {"undecided": 2, "approved": 1, "failed": 1, "all": 4}


def test_the_pairs_of_a_view_come_strongest_first_and_without_a_peak_last(making):
    peaks = {3: 1.5, 5: 4.0, 6: 4.0, 7: None}
    states = {
        feature: pair._replace(
            version=pair.version._replace(row={**pair.version.row, "positive_peak": peaks[feature]})
        )
        for feature, pair in pair_states(*making).items()
    }
    assert [pair.feature for pair in in_state(states, "all", 0.0)] == [5, 6, 3, 7]
