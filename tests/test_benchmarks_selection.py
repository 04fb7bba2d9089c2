"""benchmarks.selection: its pools are the same whole and in blocks, and plain greedy is greedy."""

import numpy as np

from benchmarks.selection import Size, blocks, costs, drawn, plain
from fac.selection import greedy, greedy_in_passes

SMALL = Size(rows=41, features=13, density=0.3, blocks=3)


def pairs(rows, begin=0):
    feature = np.repeat(np.arange(rows.n_features), np.diff(rows.first))
    return {*zip(feature.tolist(), (rows.row + begin).tolist(), strict=True)}


def test_a_pool_in_blocks_is_the_pool():
    whole = drawn(SMALL)
    assert whole.n_rows == 41 and whole.n_features == 13
    assert pairs(whole) == set().union(*(pairs(block, begin) for begin, block in blocks(SMALL)))
    assert 0.2 < len(whole.row) / (41 * 13) < 0.4
    assert len(costs(SMALL)) == 41 and costs(SMALL).min() >= 1


def test_plain_greedy_is_what_it_is_compared_with():
    demand = np.full(13, 2)
    chosen = greedy(drawn(SMALL), demand)
    assert plain(drawn(SMALL), demand) == chosen.rows.tolist()
    passed = greedy_in_passes(lambda: blocks(SMALL), demand, 41, budget=3)
    assert passed.value >= 0.9 * greedy(drawn(SMALL), demand, budget=3).value
