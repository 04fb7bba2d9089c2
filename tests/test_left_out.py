"""Samples that a measure leaves out count nowhere: figures are those of a dataset without them."""

import math

import numpy as np
import pytest

from fac.config import FamiliesSpec, MeasureSpec
from fac.interpret.grouping import incidence
from fac.measure import measure, screen
from fac.questions.comparison import Comparison, certainty, coverage, growth_of
from fac.questions.fill import fill
from fac.questions.relevance import Relevance, relevant_set
from fac.questions.shares import by_group
from fac.questions.spare import spare
from fac.schema import EVERY_FEATURE
from fac.store import open_stores
from fac.store.cache import build
from fac.store.samples import read_samples
from fac.synthesis.labels import labelled
from tests.lexicon import LexiconEncoder
from tests.toy import (
    ANCHOR,
    SEED,
    WORDS,
    label_samples,
    publish_dataset,
    publish_sae,
    toy_workspace,
)


def refused(n):
    """Chats that say every word, unlike any that is read."""
    return [[{"role": "user", "content": f"refuse {' '.join(WORDS)} {i}"}] for i in range(n)]


def among(chats, others):
    """All others among the chats: one first, then every second, the rest last."""
    mixed, waiting = [], [*others]
    for chat in chats:
        mixed += [waiting.pop(), chat] if waiting else [chat]
    return [*mixed, *waiting]


POOL = [[{"role": "user", "content": f"a python {word} by a river"}] for word in WORDS]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same datasets without samples that are refused, and with them, with the runs' names."""
    places = []
    for n in (0, 30):
        root = tmp_path_factory.mktemp("toy")
        stores = open_stores(toy_workspace(root, samples={}), remember=False)
        encoder = LexiconEncoder(*WORDS, *(f"unsaid{i}" for i in range(len(WORDS), 12)))
        how = {"runs": stores.runs, "progress": lambda *_: None}
        for name, chats in {"anchor": ANCHOR, "seed": SEED, "pool": POOL}.items():
            mixed = among(chats, refused(n))
            dataset = publish_dataset(stores.runs, name, mixed)
            spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy", on_bad="skip")
            found = screen(spec, check=encoder.check, **how)
            assert len(found.rejected) == n
            sae = publish_sae(stores.runs, encoder)
            run = measure(spec, encoder=encoder, sae_run=sae, screened=found, **how)
            build(stores.runs, run, stores.runs.workspace.cache)
        places.append(stores)
    yield places
    for stores in places:
        stores.cache.close()


def comparison_in(stores, dataset="seed", anchor="anchor"):
    return Comparison(*(stores.runs.resolve("measure", name) for name in (anchor, dataset)))


def read_of(stores, name):
    return np.flatnonzero(read_samples(stores.runs, stores.runs.resolve("measure", name)))


@pytest.mark.parametrize("sides", [("seed", "anchor"), ("anchor", "seed")])
def test_coverage_its_interval_its_yardstick_and_its_growth(both, sides):
    (alone, mixed) = (comparison_in(stores, *sides) for stores in both)
    results = [coverage(stores, each) for stores, each in zip(both, (alone, mixed), strict=True)]
    assert results[0].fac == results[1].fac and not math.isnan(results[0].fac)
    (first, second) = (
        certainty(stores, each) for stores, each in zip(both, (alone, mixed), strict=True)
    )
    np.testing.assert_equal(tuple(first.interval), tuple(second.interval))
    np.testing.assert_equal(tuple(first.yardstick), tuple(second.yardstick))
    assert second.note.endswith(first.note)
    assert f"30 of {30 + len(SEED)} samples of seed were left out: the model's" in second.note
    assert growth_of(both[0], alone).rows == growth_of(both[1], mixed).rows


def test_which_features_are_relevant_and_how_dense_they_are(both):
    everything, tables = Relevance(EVERY_FEATURE), []
    for stores in both:
        run = stores.runs.resolve("measure", "seed")
        rows, _ = stores.cache.features_page(run, limit=12)
        relevant = relevant_set(stores, run, everything).tolist()
        tables.append((relevant, {row["feature"]: row["density"] for row in rows}))
    assert tables[0] == tables[1] and max(tables[0][1].values()) > 0


def test_groups_and_families(both):
    groups = [by_group(stores, comparison_in(stores), "label").rows for stores in both]
    assert groups[0] == groups[1] and groups[0][0]["n_samples"] == len(ANCHOR)
    matrices = []
    for stores in both:
        spec = FamiliesSpec(measure=stores.runs.resolve("measure", "anchor"), threshold=0.0)
        matrices.append(incidence(spec, stores.runs).toarray())
    np.testing.assert_array_equal(*matrices)


def test_rows_to_take_and_rows_to_drop_are_those_that_were_read(both):
    fills, drops = [], []
    for stores in both:
        proposal = fill(stores, comparison_in(stores), stores.runs.resolve("measure", "pool"))
        place = {row: i for i, row in enumerate(read_of(stores, "pool").tolist())}
        fills.append(([place[row.sample] for row in proposal.rows], proposal.overlaps))
        assert proposal.rows
        answer = spare(stores, comparison_in(stores, "anchor", "anchor"))
        place = {row: i for i, row in enumerate(read_of(stores, "anchor").tolist())}
        drops.append(([place[row] for row in answer.dropped.tolist()], answer.silent))
    assert fills[0] == fills[1] and drops[0] == drops[1]


def test_a_label_is_learned_from_what_was_read(both):
    mixed = both[1]
    run = mixed.runs.resolve("measure", "anchor")
    n = len(read_samples(mixed.runs, run))
    read = read_samples(mixed.runs, run)
    label_samples(mixed.runs, "anchor", ["yes" if i % 4 < 2 else "no" for i in range(n)])
    samples = labelled(mixed.runs, run)
    assert len(samples.labels) == read.sum() == len(ANCHOR)
