"""The generator of large stores on a tiny one, and a small run of the browsing benchmark."""

import re
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from benchmarks.browse import must_equal
from benchmarks.large_store import THRESHOLD, Size, write
from fac import schema
from fac.config import REPOSITORY, Workspace
from fac.errors import InputError
from fac.schema import ROLES
from fac.store.cache import Cache, build
from fac.store.runs import Runs

TINY = Size(features=300, samples=100, activations=8000)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(runs, run ids by what they are) of a tiny store."""
    workspace = Workspace(tmp_path_factory.mktemp("large"))
    return Runs(workspace), write(workspace, TINY)


def test_every_run_is_whole_and_has_the_tables_of_its_step(tiny):
    runs, ids = tiny
    assert [*ids] == ["anchor texts", "dataset texts", "sae", "anchor", "dataset", "explain"]
    wanted = {
        "activations": schema.ACTIVATIONS,
        "spans": schema.SPANS,
        "near": schema.NEAR,
        "sample_tokens": schema.SAMPLE_TOKENS,
    }
    for what in ("anchor", "dataset"):
        for name, columns in wanted.items():
            assert runs.table(ids[what], name).schema.equals(columns)
    assert runs.table(ids["sae"], "features").schema.equals(schema.SAE_FEATURES)
    assert runs.table(ids["explain"], "examples").schema.equals(schema.EXAMPLES)
    assert not [run for run in ids.values() if runs.verify(run)]
    samples = runs.table(ids["anchor texts"], "samples")
    assert len(set(samples["sample_id"].to_pylist())) == len(samples) == 100


def test_the_same_arguments_give_the_same_tables(tiny, tmp_path):
    runs, ids = tiny
    again = Runs(Workspace(tmp_path))
    assert write(again.workspace, TINY) == ids
    for run in ids.values():
        first, second = (r.manifest(run).files for r in (runs, again))
        assert first == second
    other = write(Workspace(tmp_path), Size(**{**vars(TINY), "seed": 1}))
    assert not {*other.values()} & {*ids.values()}


def test_activations_are_sorted_as_a_measure_sorts_them_and_about_as_many_as_asked(tiny):
    runs, ids = tiny
    table = runs.table(ids["anchor"], "activations")
    assert len(table) == pytest.approx(TINY.activations, rel=0.1)
    role = np.array([ROLES.index(name) for name in table["role"].to_pylist()])
    feature, peak, sample, n_tokens = (
        table[name].to_numpy() for name in ("feature", "peak", "sample", "n_tokens")
    )
    order = np.lexsort((role, sample, -peak, feature))
    assert order.tolist() == [*range(len(table))]
    assert len(np.unique(np.stack([feature, sample, role]), axis=1).T) == len(table)
    assert peak.min() > THRESHOLD and n_tokens.min() == 1
    # A few features are everywhere, most are rare, some are silent.
    per_feature = np.bincount(feature, minlength=TINY.features)
    assert per_feature.max() > 4 * np.median(per_feature) > 0
    assert (per_feature == 0).any()


def test_spans_stand_in_the_texts_where_they_say(tiny):
    runs, ids = tiny
    samples = runs.table(ids["anchor texts"], "samples")["messages"].to_pylist()
    rows = runs.table(ids["anchor"], "spans").to_pylist()
    for row in rows[::17]:
        texts = {m["role"]: m["content"] for m in samples[row["sample"]]}
        assert "".join(row["tokens"]) in texts[row["role"]]
        assert row["activations"][row["peak_index"]] == pytest.approx(row["peak"], rel=1e-3)
        assert len(row["activations"]) == len(row["tokens"])


def test_the_cache_counts_what_the_runs_say(tiny, tmp_path):
    runs, ids = tiny
    for what in ("anchor", "dataset", "sae", "explain"):
        build(runs, ids[what], tmp_path)
    table = runs.table(ids["anchor"], "activations")
    feature, sample = table["feature"].to_numpy(), table["sample"].to_numpy()
    pairs = np.unique(np.stack([feature, sample]), axis=1)
    with closing(Cache(tmp_path)) as cache:
        support = cache.support(ids["anchor"], 0.0)
        assert support.tolist() == np.bincount(pairs[0], minlength=TINY.features).tolist()
        texts = dict(cache.texts(ids["explain"]))
        assert {i % 2 for i in texts} == {0}
        assert [*texts] == np.flatnonzero(
            (support > 0) & (np.arange(len(support)) % 2 == 0)
        ).tolist()
        rows = cache.examples(ids["explain"], ids["anchor"], next(iter(texts)))
        assert {row["positive"] for row in rows} == {True, False}


@pytest.mark.parametrize(
    "wrong", [{"features": 3}, {"share": 0}, {"activations": 10}, {"activations": 10**9}]
)
def test_a_store_that_cannot_be_is_a_sentence(wrong):
    with pytest.raises(InputError, match="A large store has|are not between"):
        Size(**{**vars(TINY), **wrong})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({"a": [1]}, {"a": [1, 2]}), ([(1, "x")], [(1, "y")]), (np.ones(3), np.zeros(3)), (1.0, 1.1)],
)
def test_different_answers_are_not_timed(ours, theirs):
    must_equal(ours, ours, "here")
    with pytest.raises(ValueError, match="here"):
        must_equal(ours, theirs, "here")


def test_the_browsing_benchmark_asks_everything_and_compares_two_pages(tmp_path):
    command = [sys.executable, "-m", "benchmarks.browse", "--workspace", str(tmp_path)]
    for name in ("features", "samples", "activations"):
        command += [f"--{name}", str(getattr(TINY, name))]
    command += ["--repeat", "2", "--few", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stderr
    tables = [part.splitlines() for part in ended.stdout.strip().split("\n\n")]
    built, queries, compared = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
        for table in tables
    )
    assert [row[0] for row in built[2:]] == ["sae", "anchor", "dataset", "explain", "all"]
    seconds = [float(row[1]) for row in built[2:]]
    assert seconds[-1] == pytest.approx(sum(seconds[:-1]), abs=0.3)
    assert len(queries) > 20 and all(float(row[3]) >= float(row[2]) > 0 for row in queries[2:])
    stores = ["ours", "pandas", "Parquet", "SQLite"]
    pages = [(page, store) for page in ("gap page", "feature page") for store in stores]
    assert [tuple(row[:2]) for row in compared[2:]] == pages
    assert all(re.fullmatch(r"[\d,]+\.\d", cell) for row in compared[2:] for cell in row[2:])
    assert [row[4] for row in compared[2:] if row[1] == "ours"] == ["1.0", "1.0"]
