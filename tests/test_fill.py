"""fac.questions.fill: a pool of nine rows for the gaps of the toy, by eye."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fac.config import MeasureSpec
from fac.errors import InputError
from fac.measure import measure
from fac.questions import fill as questions
from fac.questions.catalogue import default_dataset, measured
from fac.questions.comparison import Comparison
from fac.questions.fill import DRAWS, Budget, fill, publish
from fac.store import open_stores
from fac.store.cache import build
from fac.store.runs import Runs
from tests.lexicon import LexiconEncoder
from tests.test_comparison import made
from tests.test_gaps import MISSING
from tests.toy import ANCHOR, SEED, WORDS, publish_activations, revise, toy_workspace


def says(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


NEARLY = [
    {"role": "user", "content": "Which train goes from the city up to Brig now"},
    {
        "role": "assistant",
        "content": "Take the early train! along the river and leave it below the mountain at Brig",
    },
]

POOL = [
    *says("a python loop sorts numbers", "function of function", "her river under some mountain"),
    *says("slow train"),
    SEED[0],  # a row of the dataset
    ANCHOR[-7],  # one of the anchor, about code
    NEARLY,
    *says("nothing of this kind", "a python function with a loop by a river"),
]

PYTHON, FUNCTION, LOOP, RIVER, MOUNTAIN, TRAIN = MISSING


def measured_again(stores, dataset):
    """The measure of a dataset run, as the toy's own are."""
    spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy")
    (sae,) = stores.runs.list("sae")
    about = {"encoder": LexiconEncoder(*WORDS), "sae_run": sae.run, "progress": lambda *_: None}
    run = measure(spec, runs=stores.runs, **about)
    build(stores.runs, run, stores.runs.workspace.cache)
    return run


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    samples = {
        "toy-anchor": ANCHOR,
        "toy-seed": SEED,
        "toy-pool": POOL,
        "toy-codes": ANCHOR + ANCHOR[12:18] * 6,
        "toy-useless": says("nothing of this kind"),
    }
    root = tmp_path_factory.mktemp("toy")
    opened = open_stores(toy_workspace(root, samples=samples), remember=False)
    yield opened
    opened.cache.close()


@pytest.fixture(scope="module")
def run_of(stores):
    return lambda name: stores.runs.resolve("measure", name)


@pytest.fixture(scope="module")
def comparison(run_of):
    return Comparison(run_of("toy-anchor"), run_of("toy-seed"))


def test_rows_fill_gaps_and_copies_are_left_out(stores, run_of, comparison):
    """The last row fills four gaps; the copy of an anchor's chat about trains would fill two."""
    proposal = fill(stores, comparison, run_of("toy-pool"))
    assert [row.sample for row in proposal.rows] == [8, 2, 3]
    fills = [set(row.fills) for row in proposal.rows]
    assert fills == [{PYTHON, FUNCTION, LOOP, RIVER}, {MOUNTAIN}, {TRAIN}]
    assert [set(row.fires) for row in proposal.rows][1] == {RIVER, MOUNTAIN}
    assert [row.tokens for row in proposal.rows] == [9, 5, 2]
    assert (proposal.overlaps, proposal.near_copies) == (2, 1)
    assert proposal.asked[2:] == (0, 6) and proposal.chosen == (3, 16, 0, 6)
    assert proposal.possible.rows == 6 and proposal.possible.gaps == 6
    assert proposal.left == [] and proposal.share == 1
    assert proposal.note == (
        "Left out: samples of toy-pool that toy-seed or toy-anchor has too (2), rows that nearly "
        "repeat a text of toy-seed or toy-anchor (1)."
    )


def test_as_many_tokens_of_random_rows_stand_beside_them(stores, run_of, comparison):
    """Of six rows of 5, 3, 5, 2, 4 and 9 tokens, 16 tokens are three to five."""
    random = fill(stores, comparison, run_of("toy-pool")).random
    assert 2 <= random.low.rows <= random.mean.rows <= random.high.rows <= 5
    assert random.low.tokens >= 12 and random.high.tokens <= 20 and DRAWS == 20
    assert 2 <= random.low.gaps < random.mean.gaps < 6


def test_budgets_of_rows_and_of_tokens(stores, run_of, comparison):
    two = fill(stores, comparison, run_of("toy-pool"), Budget(rows=2))
    assert [row.sample for row in two.rows] == [8, 2] and two.left == [TRAIN]
    assert two.share == 5 / 6, "a row that adds one more could be paid for, if one could be undone"
    # Per token: the train (1 of 2 tokens), python and loop (2 of 5); the last row alone fills four.
    nine = fill(stores, comparison, run_of("toy-pool"), Budget(tokens=9))
    assert [row.sample for row in nine.rows] == [8]
    assert (nine.chosen.tokens, nine.chosen.gaps) == (9, 4)


def test_several_samples_are_asked_for_of_each_gap(stores, run_of, comparison):
    twice = fill(stores, comparison, run_of("toy-pool"), Budget(per_feature=2))
    assert [row.sample for row in twice.rows] == [8, 0, 2, 1, 3]
    assert twice.left == [MOUNTAIN, TRAIN] == sorted(twice.left)
    assert twice.chosen.gaps == twice.possible.gaps == 4


def test_certain_gaps_come_before_possible_ones(stores, run_of):
    """So many of the anchor's chats are about code that to lack it is no chance; travel may be.
    Row 2 fires two possible gaps, row 8 a certain one and one of these."""
    comparison = Comparison(run_of("toy-codes"), run_of("toy-seed"))
    proposal = fill(stores, comparison, run_of("toy-pool"), Budget(rows=1))
    assert proposal.asked[2:] == (3, 6) and proposal.left == [TRAIN, MOUNTAIN][::-1]
    about = (stores, comparison, run_of("toy-pool"), Budget(rows=1))
    assert [row.sample for row in fill(*about, features=(RIVER, MOUNTAIN)).rows] == [2]
    (row,) = fill(*about, features=(LOOP, RIVER, MOUNTAIN)).rows
    assert (row.sample, row.fills) == (8, [LOOP, RIVER])
    gaps = questions._Gaps(np.arange(4), np.array([0, 1, 0, 1], bool), np.array([3, 1, 2, 0]), 0)
    assert gaps.weights(2).tolist() == [1, 5, 1, 5]
    assert gaps.ids(np.array([0, 1, 2, 3])) == [3, 1, 2, 0]


def test_only_some_gaps_are_asked_about(stores, run_of, comparison):
    proposal = fill(stores, comparison, run_of("toy-pool"), features=(TRAIN, LOOP))
    assert [row.sample for row in proposal.rows] == [0, 3] and proposal.asked.gaps == 2
    with pytest.raises(InputError, match="Feature 0 is no gap of toy-seed against toy-anchor"):
        fill(stores, comparison, run_of("toy-pool"), features=(0,))


def test_a_pool_in_blocks_fills_as_much(stores, run_of, comparison, monkeypatch):
    monkeypatch.setattr(questions, "PAIRS_HELD", 4)
    whole = fill(stores, comparison, run_of("toy-pool"))
    assert whole.passes > 1 and whole.chosen == (3, 16, 0, 6)
    assert [set(row.fires) for row in whole.rows] == [
        {PYTHON, FUNCTION, LOOP, RIVER},
        {RIVER, MOUNTAIN},
        {TRAIN},
    ]


def test_pools_that_cannot_fill_anything_are_one_sentence(stores, run_of, comparison):
    with pytest.raises(InputError, match="Every sample of toy-seed is in toy-seed or toy-anchor"):
        fill(stores, comparison, run_of("toy-seed"))
    with pytest.raises(InputError, match="There is no gap of toy-anchor against toy-anchor"):
        same = Comparison(run_of("toy-anchor"), run_of("toy-anchor"))
        fill(stores, same, run_of("toy-pool"))
    empty = fill(stores, comparison, run_of("toy-useless"))
    assert empty.rows == [] and len(empty.left) == 6
    assert empty.note == "No row of toy-useless that may be taken fires any of the 6 gaps."


def test_a_pool_of_another_encoder_or_without_samples_is_refused(stores, comparison):
    nothing, other = (
        publish_activations(
            stores.runs, f"pool {n}", made(*pairs), n_features=12, n_samples=n, encoder=encoder
        )
        for n, pairs, encoder in (
            (0, (), stores.cache.summary(comparison.anchor)["encoder"]),
            (3, ((0, 1),), "another"),
        )
    )
    for run in (nothing, other):
        build(stores.runs, run, stores.runs.workspace.cache)
    with pytest.raises(InputError, match="pool 0 has no samples"):
        fill(stores, comparison, nothing)
    with pytest.raises(InputError, match="different encoders"):
        fill(stores, comparison, other)


def test_budgets_that_mean_nothing_are_refused():
    for wrong in ({"rows": 0}, {"tokens": -1}, {"per_feature": 0}, {"rows": 1, "tokens": 1}):
        with pytest.raises(InputError):
            Budget(**wrong)


def test_what_was_chosen_is_nobodys_dataset_to_begin_with(tmp_path):
    """Measured, it is the newest: but it is there to be added to the other."""
    place = toy_workspace(tmp_path, samples={"toy-anchor": ANCHOR, "toy-seed": SEED})
    runs = Runs(place)
    toy_workspace(tmp_path, samples={"filled": POOL[:1]})
    chosen = runs.resolve("measure", "filled")
    stores = open_stores(place, remember=False)
    anchor, seed = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    assert default_dataset(stores, measured(stores), anchor) == chosen
    dataset = runs.manifest(chosen).facts.dataset
    revise(runs, dataset, lambda content: content["facts"].update(kind="fill"))
    assert default_dataset(stores, measured(stores), anchor) == seed
    stores.cache.close()


def test_what_was_chosen_becomes_a_dataset_with_its_lineage(stores, run_of, comparison):
    proposal = fill(stores, comparison, run_of("toy-pool"), without=(2,))
    run = publish(stores, comparison, proposal, "filled")
    assert publish(stores, comparison, proposal, "filled") == run
    facts = stores.runs.manifest(run).facts
    assert (facts.name, facts.n_samples, facts.kind) == ("filled", 2, "fill")
    rows = stores.runs.table(run, "samples").to_pylist()
    assert [row["messages"] for row in rows] == [POOL[8], POOL[3]]
    assert [row["label"] for row in rows] == ["toy", "toy"]
    lineage = json.loads(rows[1]["meta"])["fill"]
    assert (lineage["fills"], lineage["sample"]) == ([TRAIN], 3)
    assert lineage["dataset"] == comparison.dataset and WORDS[TRAIN] == "train"
    purpose = questions.purpose_of(stores, run)
    assert purpose[1:] == (comparison.anchor, comparison.dataset, [*MISSING[:4], TRAIN])
    assert (
        questions.purpose_of(stores, stores.runs.manifest(comparison.dataset).facts.dataset) is None
    )
    nothing = fill(stores, comparison, run_of("toy-pool"), without=(8, 2, 3))
    with pytest.raises(InputError, match="no row to write"):
        publish(stores, comparison, nothing, "filled")


def test_every_figure_is_of_the_rows_that_are_left(stores, run_of, comparison):
    """Without the row that fires four gaps, what remains are 7 tokens: of random rows 5 to 11."""
    whole = fill(stores, comparison, run_of("toy-pool"))
    rest = fill(stores, comparison, run_of("toy-pool"), without=(8, 77))
    assert [(row.sample, row.fills) for row in rest.rows] == [
        (2, [RIVER, MOUNTAIN]),
        (3, [TRAIN]),
    ]
    assert rest.chosen == (2, 7, 0, 3) and rest.left == [PYTHON, FUNCTION, LOOP]
    assert rest.random.high.tokens <= 11 < 12 <= whole.random.low.tokens
    assert rest.random.mean.gaps < whole.random.mean.gaps
    assert (rest.asked, rest.possible) == (whole.asked, whole.possible)
    assert np.isnan(rest.share) and whole.rows[1].fills == [MOUNTAIN]
    assert fill(stores, comparison, run_of("toy-pool"), without=(77,)) == whole


def test_a_row_shows_a_gap_and_does_not_make_it_common(tmp_path):
    """Most of the anchor's chats are about code: one row of nine tokens more, and it is still
    certain that code is too rare; what is measured of the rows says the same."""
    samples = {"toy-codes": ANCHOR + ANCHOR[12:18] * 6, "toy-seed": SEED * 2, "toy-pool": POOL}
    stores = open_stores(toy_workspace(tmp_path, samples=samples), remember=False)
    codes, seed, pool = (stores.runs.resolve("measure", name) for name in samples)
    comparison = Comparison(codes, seed)
    proposal = fill(stores, comparison, pool)
    assert proposal.chosen.certain == proposal.asked.certain == 3
    assert proposal.certain == (3, 0, 3)
    words = "3 of 3 certain gaps stay certain (3 under-represented)"
    assert proposal.certain.words() == words
    assert fill(stores, comparison, pool, without=(8, 0, 1)).certain == (3, 3, 0)
    run = measured_again(stores, publish(stores, comparison, proposal, "filled"))
    together = replace(comparison, added=(run,))
    assert questions.certain_together(stores, together) == proposal.certain
    possible = fill(stores, comparison, pool, features=(RIVER,))
    assert possible.certain == (0, 0, 0)
    assert "None of these gaps of toy-seed is certain" in questions.certain_words(
        stores, comparison, possible.certain
    )
    assert questions.Certain(71, 2, 1).words() == (
        "3 of 71 certain gaps stay certain (2 absent and 1 under-represented)"
    )
    assert questions.Certain(1, 0, 0).words() == "none of 1 certain gap stays certain"
    stores.cache.close()
