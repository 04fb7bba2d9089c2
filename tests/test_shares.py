"""fac.questions.shares: coverage by group, and of features weighed, worked out by hand."""

import json
import math

import numpy as np
import pytest

from fac.config import IngestSpec, MeasureSpec, Workspace
from fac.coverage import EPSILON
from fac.errors import InputError
from fac.ingest import ingest
from fac.measure import measure
from fac.questions import firing
from fac.questions.comparison import Comparison
from fac.questions.shares import by_group, weighted
from fac.store import open_stores
from fac.store.cache import build
from tests.lexicon import LexiconEncoder
from tests.test_comparison import listed, made, published
from tests.toy import WORDS, fac_of, publish_sae, toy_workspace

EVERY_FEATURE = listed(*range(6))


def measured(folder, **rows):
    """The stores and a measure run of each list of rows, whose columns are text and whatever."""
    stores = open_stores(Workspace(folder), remember=False)
    encoder = LexiconEncoder(*WORDS)
    sae_run = publish_sae(stores.runs, encoder)
    ids = []
    for name, columns in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in columns))
        dataset = ingest(IngestSpec(name=name, source=str(path)), runs=stores.runs)
        spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy")
        ids.append(
            measure(
                spec, runs=stores.runs, encoder=encoder, sae_run=sae_run, progress=lambda *_: None
            )
        )
        build(stores.runs, ids[-1], stores.runs.workspace.cache)
    return stores, ids


def rows_of(n, words, **columns):
    """`n` different samples that say these words."""
    return [{"text": f"{words} {n}{i}{'x' * i}", **columns} for i in range(n)]


ANCHOR = [
    *rows_of(12, "bake oven", source="kitchen", lang="en", label="a"),
    *rows_of(11, "python loop", dataset="code", language="de"),
    *rows_of(3, "river", origin="hills"),
    *rows_of(2, "mountain", source="peaks"),
    *rows_of(10, "train", source=["a", "list"]),
]


def test_coverage_by_source_is_of_what_each_source_fires(tmp_path):
    stores, runs = measured(tmp_path, anchor=ANCHOR, seed=rows_of(3, "bake python loop"))
    groups = by_group(stores, Comparison(*runs), "source")
    assert [(r["group"], r["n_samples"], r["n_anchor"], r["n_covered"]) for r in groups.rows] == [
        ("kitchen", 12, 2, 1),
        ("code", 11, 2, 2),
        ("no source", 10, 1, 0),
        ("2 other groups", 5, 2, 0),
    ]
    assert [row["fac"] for row in groups.rows] == [fac_of(1, 2), 1, 0, 0]
    assert [row["n_missing"] for row in groups.rows] == [1, 0, 1, 2]
    assert groups.note == ("Counted together: 2 of fewer than 10 samples, 0 beyond the 12 largest.")
    languages = by_group(stores, Comparison(*runs), "language").rows
    assert [(row["group"], row["n_samples"]) for row in languages] == [
        ("no language", 15),
        ("en", 12),
        ("de", 11),
    ]
    labels = by_group(stores, Comparison(*runs), "label").rows
    assert [(row["group"], row["n_samples"]) for row in labels] == [("no label", 26), ("a", 12)]
    both = Comparison(*runs, added=(runs[0],))
    assert [row["fac"] for row in by_group(stores, both, "source").rows] == [1] * 4
    high = by_group(stores, Comparison(*runs, threshold=9.0), "source")
    assert high.rows == [] and "fires in anchor above 9, so there is nothing" in high.note
    stores.cache.close()


def chats_of(n, *words):
    """`n` chats whose user says these words, one a turn."""
    turns = [[(w, f"hm {n}{i}{'x' * i}") for w in words] for i in range(n)]
    roles = ("user", "assistant")
    chats = [
        [dict(role=r, content=c) for t in chat for r, c in zip(roles, t, strict=True)]
        for chat in turns
    ]
    return [{"messages": chat} for chat in chats]


def test_coverage_by_turns_counts_those_of_the_user(tmp_path):
    anchor = [*chats_of(12, "bake", "oven"), *chats_of(10, "python")]
    stores, runs = measured(tmp_path, anchor=anchor, seed=rows_of(3, "bake python"))
    groups = by_group(stores, Comparison(*runs, relevance=EVERY_FEATURE), "turns")
    assert [(r["group"], r["n_samples"], r["n_anchor"], r["n_covered"]) for r in groups.rows] == [
        ("2 turns", 12, 2, 1),
        ("1 turn", 10, 1, 1),
    ]


def test_many_groups_are_twelve_and_the_rest(tmp_path):
    rows = [
        row for i in range(14) for row in rows_of(10 + i, f"{WORDS[i % 2]} {i}", source=f"s{i:02}")
    ]
    stores, runs = measured(tmp_path, anchor=rows, seed=rows_of(3, "bake"))
    groups = by_group(stores, Comparison(*runs), "source")
    assert [row["group"] for row in groups.rows] == [
        *(f"s{i:02}" for i in range(13, 1, -1)),
        "2 other groups",
    ]
    assert groups.rows[-1]["n_samples"] == 21 and "2 beyond the 12 largest" in groups.note
    stores.cache.close()


def test_samples_that_say_nothing_make_no_groups(tmp_path):
    stores = open_stores(toy_workspace(tmp_path), remember=False)
    toy = [stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed")]
    assert by_group(stores, Comparison(*toy), "source") == (
        [],
        "No sample of toy-anchor says its source.",
    )
    assert by_group(stores, Comparison(*toy), "label").rows[0]["group"] == "toy"
    with pytest.raises(InputError, match="grouped by source, label, language, turns, got 'turn'"):
        by_group(stores, Comparison(*toy), "turn")
    stores.cache.close()


def test_of_a_large_anchor_groups_are_taken_from_some_features(tmp_path, monkeypatch):
    monkeypatch.setattr(firing, "PAIRS_READ", 20)
    monkeypatch.setattr(firing, "FEATURES_TOGETHER", 1)
    stores, runs = measured(tmp_path, anchor=ANCHOR, seed=rows_of(3, "bake python loop"))
    groups = by_group(stores, Comparison(*runs), "source")
    assert "Taken from " in groups.note and " of 7 features." in groups.note
    assert sum(row["n_anchor"] for row in groups.rows) < 7
    stores.cache.close()


@pytest.mark.parametrize("role", ["all", "user"])
def test_weighed_features_count_by_what_the_anchor_fires(tmp_path, role):
    anchor = made((0, 0), (1, 0), (2, 0), (0, 1), (3, 2))
    anchor.peak[:] = [2, 2, 2, 1, 3]
    stores, runs = published(tmp_path, anchor, made((0, 0), (1, 2)))
    asked = Comparison(*runs, relevance=EVERY_FEATURE, role=role)
    result = weighted(stores, asked)
    assert result.by_frequency == 4 / 5, "features 0, 1, 2 are fired by 3, 1, 1 samples"
    assert result.by_magnitude == 9 / 10, "their peaks add up to 6, 1, 3"
    p = np.array([3, 1, 1]) / 5 * (1 - EPSILON) + EPSILON / 3
    q = np.array([1, 0, 1]) / 2 * (1 - EPSILON) + EPSILON / 3
    assert result.divergence == pytest.approx((p * np.log(p / q)).sum()) and result.note == ""
    itself = weighted(stores, Comparison(runs[0], runs[0], relevance=EVERY_FEATURE, role=role))
    assert itself == (1, 1, 0, "")
    stores.cache.close()


def test_where_nothing_fires_there_is_a_sentence_and_no_weight(tmp_path):
    stores, runs = published(tmp_path, made((0, 0)), made())
    silent = weighted(stores, Comparison(*runs, relevance=EVERY_FEATURE))
    assert (silent.by_frequency, silent.by_magnitude) == (0, 0)
    assert math.isnan(silent.divergence) and "fires none of these" in silent.note
    above = weighted(stores, Comparison(*runs, relevance=EVERY_FEATURE, threshold=9.0))
    assert math.isnan(above.by_frequency) and "nothing to cover" in above.note
    stores.cache.close()
