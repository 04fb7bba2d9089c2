"""fac.selection: against plain greedy and the best of all choices; numbers worked out by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac.errors import InputError
from fac.selection import (
    Rows,
    StandIns,
    greedy,
    greedy_in_passes,
    minimal_cover,
    random_rows,
)


def rows_of(table):
    """Of bool `[n_rows, n_features]`."""
    feature, row = np.nonzero(np.asarray(table).T)
    n_rows, n_features = np.shape(table)
    return Rows.of(feature, row, n_features=n_features, n_rows=n_rows)


def worth(table, chosen, demand, weight):
    return int((np.minimum(table[list(chosen)].sum(0), demand) * weight).sum())


def plain(table, demand, weight, cost, budget):
    """Greedy as it is written down: every row is looked at again each time."""
    chosen, left = [], budget
    while True:
        now = worth(table, chosen, demand, weight)
        best, most = None, 0
        for row in range(len(table)):
            if row not in chosen and cost[row] <= left:
                gain = worth(table, [*chosen, row], demand, weight) - now
                if gain / cost[row] > most:
                    best, most = row, gain / cost[row]
        if best is None:
            return chosen
        chosen.append(best)
        left -= cost[best]


@st.composite
def pools(draw, *, most_rows=8, most_features=9):
    n, m = draw(st.integers(1, most_rows)), draw(st.integers(1, most_features))
    numbers = st.integers(1, 4)
    table = np.array(draw(st.lists(st.lists(st.booleans(), min_size=m, max_size=m), min_size=n)))
    table = table[:most_rows]
    demand, weight = (np.array(draw(st.lists(numbers, min_size=m, max_size=m))) for _ in range(2))
    cost = np.array(draw(st.lists(st.integers(1, 6), min_size=len(table), max_size=len(table))))
    return table, demand, weight, cost, draw(st.integers(0, 15))


def best_of_all(table, demand, weight, cost, budget):
    choices = (c for k in range(len(table) + 1) for c in combinations(range(len(table)), k))
    paid = (c for c in choices if sum(cost[list(c)]) <= budget)
    return max(worth(table, c, demand, weight) for c in paid)


@settings(max_examples=150)
@given(pools(most_rows=12))
def test_it_chooses_what_plain_greedy_chooses(pool):
    table, demand, weight, cost, budget = pool
    for each in (np.ones(len(table), int), cost):
        expected = plain(table, demand, weight, each, budget)
        chosen = greedy(rows_of(table), demand, weight=weight, cost=each, budget=budget)
        if worth(table, expected, demand, weight) == chosen.value:
            assert chosen.rows.tolist() == expected or len(chosen.rows) == 1
        else:
            first = chosen.rows[0]
            assert worth(table, [first], demand, weight) > worth(table, expected, demand, weight)
        assert chosen.value == worth(table, chosen.rows, demand, weight)
        assert chosen.cost == each[chosen.rows].sum() <= budget


@settings(max_examples=150)
@given(pools(), st.sampled_from([0.05, 0.1, 0.3]), st.integers(1, 8))
def test_it_is_as_near_the_best_choice_as_it_says(pool, epsilon, block):
    table, demand, weight, cost, budget = pool
    rows, about = rows_of(table), {"weight": weight, "budget": budget}

    def blocks():
        for first in range(0, len(table), block):
            yield first, rows_of(table[first : first + block])

    for each, share in ((np.ones(len(table), int), 1.0), (cost, 0.5)):
        best = best_of_all(table, demand, weight, each, budget)
        chosen = greedy(rows, demand, cost=each, **about)
        assert share * (1 - 1 / math.e) * best <= chosen.value <= best <= chosen.bound
        passed = greedy_in_passes(blocks, demand, len(table), cost=each, epsilon=epsilon, **about)
        assert share * (1 - math.exp(epsilon - 1)) * best <= passed.value <= best <= passed.bound
        assert passed.value == worth(table, passed.rows, demand, weight)
        assert passed.cost == each[passed.rows].sum() <= budget
        assert len({*passed.rows.tolist()}) == len(passed.rows)


@given(pools(most_rows=12), st.integers(1, 5))
def test_passes_do_not_depend_on_how_a_pool_is_cut(pool, block):
    table, demand, weight, cost, budget = pool
    answers = [
        greedy_in_passes(
            lambda size=size: (
                (first, rows_of(table[first : first + size]))
                for first in range(0, len(table), size)
            ),
            demand,
            len(table),
            weight=weight,
            cost=cost,
            budget=budget,
        )
        for size in (block, len(table))
    ]
    assert answers[0].rows.tolist() == answers[1].rows.tolist()
    assert answers[0].passes == answers[1].passes


@given(pools(most_rows=12))
def test_without_a_budget_everything_that_there_is_is_shown(pool):
    table, demand, weight, cost, _ = pool
    whole = worth(table, range(len(table)), demand, weight)
    chosen = greedy(rows_of(table), demand, weight=weight, cost=cost)
    assert chosen.value == chosen.bound == whole and chosen.share == 1
    passed = greedy_in_passes(lambda: [(0, rows_of(table))], demand, len(table), weight=weight)
    assert passed.value == whole


@given(pools(most_rows=12))
def test_a_minimal_cover_shows_the_same_and_nothing_in_it_is_spare(pool):
    table, demand, *_ = pool
    weight = np.ones(len(demand), int)
    cover = minimal_cover(rows_of(table), demand).tolist()
    whole = worth(table, range(len(table)), demand, weight)
    assert worth(table, cover, demand, weight) == whole
    for row in cover:
        assert worth(table, {*cover} - {row}, demand, weight) < whole
    stand_ins = StandIns(rows_of(table), np.array(cover, int))
    for row in range(len(table)):
        others = stand_ins.of(row)
        assert {*others} <= {*cover}
        covered = table[others].any(0) if others else np.zeros(len(demand), bool)
        assert (covered >= (table[row] & table[cover].any(0) if cover else False)).all()


# Four rows with the features below, of 6, 2, 1 and 9 tokens.
TABLE = np.array(
    [
        [1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0],
        [1, 1, 1, 1, 1],
    ],
    bool,
)
TOKENS = np.array([6, 2, 1, 9])


def test_costs_and_demands_worked_out_by_hand():
    """Feature 3 is asked for twice, feature 4 counts double. Of 9 tokens:
    per token row 0 adds 3/6, row 1 2/2, row 2 1/1, row 3 6/9: row 1, the first of equals.
    Then 3/6 - 1/6 = 2/6, 1/1 and 5/9 > 7 tokens: row 2, and with 6 left row 0, which adds 2.
    That is 2 + 1 + 2 = 5; row 3 alone is worth 1 + 1 + 1 + 1 + 2 = 6, and takes all 9."""
    demand, weight = np.array([1, 1, 1, 2, 1]), np.array([1, 1, 1, 1, 2])
    about = {"demand": demand, "weight": weight, "cost": TOKENS}
    chosen = greedy(rows_of(TABLE), budget=9, **about)
    assert (chosen.rows.tolist(), chosen.value, chosen.cost) == ([3], 6, 9)
    assert [adds.tolist() for adds in chosen.adds] == [[0, 1, 2, 3, 4]]
    chosen = greedy(rows_of(TABLE), budget=8, **about)
    assert (chosen.rows.tolist(), chosen.value, chosen.cost) == ([1, 2], 3, 3)
    chosen = greedy(rows_of(TABLE), budget=None, **about)
    assert chosen.value == 7 and chosen.rows.tolist() == [1, 2, 3]


def test_rows_that_are_not_allowed_are_not_taken():
    allowed = np.array([True, True, True, False])
    chosen = greedy(rows_of(TABLE), np.ones(5, int), allowed=allowed)
    assert chosen.rows.tolist() == [0, 1] and chosen.bound == 4
    stream = greedy_in_passes(lambda: [(0, rows_of(TABLE))], np.ones(5, int), 4, allowed=allowed)
    assert stream.rows.tolist() == [0, 1]


def test_a_bound_says_how_good_a_choice_is():
    """One of four disjoint rows of 3, 2, 2 and 1: what is left could add 2 at most."""
    table = np.kron(np.eye(4), np.ones(3)).astype(bool)[:, [0, 1, 2, 3, 4, 6, 7, 9]]
    one = greedy(rows_of(table), np.ones(8, int), budget=1)
    assert (one.value, one.bound, one.share) == (3, 5, 0.6)
    two = greedy(rows_of(table), np.ones(8, int), budget=2)
    assert two.rows.tolist() == [0, 1] and two.value == 5


def test_random_rows_come_closest_to_a_cost():
    cost, every = np.full(10, 7), np.ones(10, bool)
    drawn = [random_rows(cost, 30, every, seed) for seed in range(3)]
    assert [int(each.sum()) for each in drawn] == [4, 4, 4]
    assert any((drawn[0] != each).any() for each in drawn[1:])
    few = np.arange(10) < 2
    assert random_rows(cost, 30, few, 0).tolist() == few.tolist()
    assert not random_rows(cost, 0, every, 0).any()


def test_nothing_to_choose_from_is_no_error():
    none = rows_of(np.zeros((0, 3), bool))
    assert greedy(none, np.ones(3, int)).rows.tolist() == []
    assert greedy_in_passes(list, np.ones(3, int), 0).rows.tolist() == []
    assert minimal_cover(none, np.ones(3, int)).tolist() == []
    silent = greedy(rows_of(np.zeros((2, 3), bool)), np.ones(3, int))
    assert (silent.rows.tolist(), silent.share) == ([], 1.0)


@pytest.mark.parametrize(
    "about",
    [{"cost": np.array([1, 0, 2, 3])}, {"weight": np.zeros(5, int)}, {"budget": -1}],
)
def test_costs_weights_and_budgets_that_mean_nothing_are_refused(about):
    with pytest.raises(InputError):
        greedy(rows_of(TABLE), np.ones(5, int), **about)
    with pytest.raises(InputError):
        greedy_in_passes(list, np.ones(5, int), 4, **about)
    with pytest.raises(InputError, match="epsilon"):
        greedy_in_passes(list, np.ones(5, int), 4, epsilon=1)
