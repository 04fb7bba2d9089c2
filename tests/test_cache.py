"""fac.store.cache: caches say what arrays say."""

import json
import math
import threading
from collections import Counter
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fac import schema
from fac.config import Workspace
from fac.coverage import is_active
from fac.errors import InputError
from fac.schema import EVERY_ROLE, ROLES, Activations
from fac.store.cache import SORTABLE, Cache, build, files, measure
from fac.store.cache.measure import threshold_grid
from fac.store.memo import Memo
from fac.store.runs import Runs
from tests import test_export as exports
from tests import toy as toys
from tests.lexicon import support
from tests.toy import (
    RELEVANT,
    WORDS,
    publish_activations,
    publish_explanations,
    publish_relevance,
    toy_workspace,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy workspace, never written to: (runs, cache folder, anchor, seed, sae)."""
    workspace = toy_workspace(tmp_path_factory.mktemp("toy"), explained=True)
    runs = Runs(workspace)
    anchor, seed = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    return runs, workspace.cache, anchor, seed, runs.list("sae")[0].run


@pytest.fixture
def anchor_copy(toy, tmp_path):
    """A cache folder of the test's own with the anchor's file: (runs, folder, anchor)."""
    runs, _, anchor, _, _ = toy
    build(runs, anchor, tmp_path)
    return runs, tmp_path, anchor


@pytest.fixture
def cache(toy):
    cache = Cache(toy[1])
    yield cache
    cache.close()


N_FEATURES, N_SAMPLES = 6, 9

PEAKS = st.sampled_from([0.1, 0.3, 0.7, 1.0, 2.2, 2.25, 3.3, 1e-3, 40.0]) | st.floats(
    2**-10, 64, width=32
)


@st.composite
def firings(draw):
    """Activations over N_FEATURES and N_SAMPLES; thresholds of the grid are among the peaks."""
    firing = st.tuples(
        st.integers(0, N_SAMPLES - 1), st.integers(0, 2), st.integers(0, N_FEATURES - 1)
    )
    drawn = draw(st.lists(firing, max_size=60, unique=True))
    peaks = draw(st.lists(PEAKS, min_size=len(drawn), max_size=len(drawn)))
    columns = np.array(drawn, int).reshape(-1, 3).T
    return Activations(
        sample=columns[0].astype(np.int32),
        role=columns[1].astype(np.int8),
        feature=columns[2].astype(np.int32),
        peak=np.array(peaks, np.float32),
        position=np.arange(len(drawn), dtype=np.int32),
        n_tokens=np.ones(len(drawn), np.int32),
    )


def cached(folder, activations, **facts):
    """A measure run of these activations and its cache: (cache, run id)."""
    runs = Runs(Workspace(folder))
    sizes = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}
    run = publish_activations(runs, "made", activations, **sizes, **facts)
    build(runs, run, folder / "cache")
    return Cache(folder / "cache"), run


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    activations=firings(),
    more=st.lists(st.floats(0, 70), max_size=3),
    together=st.sampled_from([1, 5, measure.PEAKS_BETWEEN]),
)
def test_counts_of_the_cache_equal_counts_of_arrays_at_any_threshold(
    tmp_path_factory, activations, more, together
):
    with mock.patch.object(measure, "PEAKS_BETWEEN", together):
        cache, run = cached(tmp_path_factory.mktemp("counts"), activations)
    grid = cache.summary(run)["thresholds"]
    peaks = activations.peak.tolist()[:3]
    around = [float(np.nextafter(np.float32(p), np.float32(d))) for p in peaks for d in (0, 99)]
    for role in (EVERY_ROLE, *ROLES):
        code = None if role == EVERY_ROLE else ROLES.index(role)

        def by_hand(threshold, code=code):
            return support(activations, n_features=N_FEATURES, threshold=threshold, role=code)

        for threshold in [*grid, *peaks, *around, *more, 0.1, 2.2]:
            counted = cache.support(run, threshold, role)
            assert counted.tolist() == by_hand(threshold).tolist(), (role, threshold)
    cache.close()


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(activations=firings(), more=st.lists(st.floats(0, 64, width=32), max_size=3))
def test_pairs_and_singletons_are_those_of_arrays(tmp_path_factory, activations, more):
    cache, run = cached(tmp_path_factory.mktemp("singletons"), activations)
    for role in (EVERY_ROLE, *ROLES):
        mine = np.full(len(activations.peak), True)
        if role != EVERY_ROLE:
            mine = activations.role == ROLES.index(role)
        for threshold in [0.0, *activations.peak.tolist()[:3], *more]:
            fires = mine & (activations.peak > np.float32(threshold))
            samples = [
                set(activations.sample[fires & (activations.feature == i)]) for i in range(6)
            ]
            alone = [(i, *each) for i, each in enumerate(samples) if len(each) == 1]
            feature, sample = cache.singletons(run, threshold, role)
            assert [*zip(feature, sample, strict=True)] == alone, (role, threshold)
            some = cache.pairs(run, threshold, role, ranges=[(0, 2), (3, 6)])
            assert (np.diff(some[0]) >= 0).all()
            assert sorted(zip(*some, strict=True)) == [
                (i, sample) for i in (0, 1, 3, 4, 5) for sample in sorted(samples[i])
            ]
        peaks = np.zeros((N_FEATURES, N_SAMPLES))
        np.maximum.at(
            peaks, (activations.feature[mine], activations.sample[mine]), activations.peak[mine]
        )
        assert cache.total_peaks(run, role) == pytest.approx(peaks.sum(axis=1))
    assert cache.tokens_by_sample(run).tolist() == [7] * N_SAMPLES
    cache.close()


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(activations=firings(), floor=st.sampled_from([0.0, 1 / 2048]))
def test_clear_firing_is_the_median_of_a_samples_highest_peaks(
    tmp_path_factory, activations, floor
):
    cache, run = cached(tmp_path_factory.mktemp("clear"), activations, floor=floor)
    pairs: dict[tuple[int, int], float] = {}
    for *pair, peak in zip(
        activations.sample, activations.feature, activations.peak.tolist(), strict=True
    ):
        pairs[*pair] = max(pairs.get((*pair,), 0.0), peak)
    median = float(f"{np.median([*pairs.values()]):.3g}") if pairs else floor
    assert cache.summary(run)["clear_firing"] == max(median, floor)
    cache.close()


def test_clear_firing_reads_the_middle_of_many_peaks(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PEAKS_BETWEEN", 50)
    peak = np.random.default_rng(0).lognormal(1, 1, 4001).astype(np.float32)
    n = len(peak)
    ones, feature = np.ones(n, int), np.arange(n) % N_FEATURES
    sizes = {"n_features": N_FEATURES, "n_samples": n}
    runs = Runs(Workspace(tmp_path))
    made = Activations(np.arange(n), ones, feature, peak, 0 * ones, ones)
    run = publish_activations(runs, "made", made, **sizes)
    build(runs, run, tmp_path)
    cache = Cache(tmp_path)
    assert cache.summary(run)["clear_firing"] == float(f"{np.median(peak):.3g}")
    cache.close()


def test_finer_thresholds_come_where_many_peaks_lie(tmp_path, monkeypatch):
    grids, refine = [], measure.refined

    def refined(*args):
        grids.append(refine(*args))
        return grids[-1]

    monkeypatch.setattr(measure, "refined", refined)
    n = 4000
    peak = np.random.default_rng(0).uniform(1.0, 10.0, n).astype(np.float32)
    feature, sample = np.arange(n) % 2, np.arange(n)
    dense = Activations(sample, np.ones(n, int), feature, peak, np.zeros(n, int), np.ones(n, int))
    sizes = {"n_features": 2, "n_samples": n}
    by_limit = {}
    for together in (50, 500, 10**6):
        monkeypatch.setattr(measure, "PEAKS_BETWEEN", together)
        runs = Runs(Workspace(tmp_path / str(together)))
        run = publish_activations(runs, "made", dense, **sizes)
        build(runs, run, tmp_path / str(together))
        grid = by_limit[together] = grids.pop().tolist()
        cache = Cache(tmp_path / str(together))
        offered = [float(np.float32(t)) for t in cache.summary(run)["thresholds"]]
        for threshold in (*grid, 3.3):
            counted = [(peak[feature == i] > np.float32(threshold)).sum() for i in range(2)]
            assert cache.support(run, threshold).tolist() == counted
        cache.close()
        assert grid == sorted({*grid, *offered})
        between = np.histogram(peak, [*grid, np.inf])[0]
        assert between.max() <= together + 20  # one cell more
    assert by_limit[10**6] == offered
    assert len(by_limit[50]) > len(by_limit[500])
    monkeypatch.setattr(measure, "GRID_CELLS", 2 * (len(offered) + 10))
    monkeypatch.setattr(measure, "PEAKS_BETWEEN", 50)
    build(runs, run, tmp_path / "few")
    assert len(offered) < len(grids.pop()) <= len(offered) + 10


def test_what_was_counted_once_is_remembered_within_bounds_and_not_shared(toy, monkeypatch):
    counted = mock.Mock(side_effect=Cache._counts)
    monkeypatch.setattr(Cache, "_counts", lambda *args: counted(*args))
    cache = Cache(toy[1])
    right = cache.support(toy[2], 0.7).tolist()
    spoilt = cache.support(toy[2], 0.7, "user")
    spoilt += 100
    assert cache.support(toy[2], 0.7).tolist() == right
    assert (cache.support(toy[2], 0.7, "user") < 100).all()
    assert counted.call_count == 1
    cache.close()
    counted.reset_mock()
    cache = Cache(toy[1], memo=Memo(max_bytes=8 * (16 * len(right) + 200)))
    for threshold in (0.7, *np.arange(0.8, 2.0, 0.1), 1.9):
        cache.support(toy[2], threshold)
    assert counted.call_count == 13
    assert cache.support(toy[2], 0.7).tolist() == right  # had to go, as the longest unused
    assert counted.call_count == 14
    cache.close()


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(activations=firings())
def test_the_statistics_of_a_feature_equal_those_of_arrays(tmp_path_factory, activations):
    cache, run = cached(tmp_path_factory.mktemp("stats"), activations)
    rows, matching = cache.features_page(run, sort="feature", descending=False)
    assert matching == N_FEATURES
    for feature, row in enumerate(rows):
        mine = activations.feature == feature
        sample, peak = activations.sample[mine], activations.peak[mine]
        strongest = [peak[sample == s].max() for s in np.unique(sample)]
        assert row["feature"] == feature
        assert row["n_samples"] == len(strongest)
        assert row["n_user"] == (activations.role[mine] == 1).sum()
        assert row["n_tokens"] == mine.sum()
        assert row["max_peak"] == max(strongest, default=0.0)
        mean = float(np.mean(np.float64(strongest))) if strongest else 0.0
        assert row["mean_peak"] == pytest.approx(mean)
        assert row["density"] == pytest.approx(len(strongest) / N_SAMPLES)
        edges, counts = cache.histogram(run, feature)
        assert sum(counts) == len(strongest)
        if strongest:
            assert len(edges) == len(counts) + 1 and (edges[0], edges[-1]) == (0, row["max_peak"])
            for i, (low, high, n) in enumerate(zip(edges[:-1], edges[1:], counts, strict=True)):
                inside = [p for p in strongest if low * 0.999 <= p <= high * 1.001]
                assert n <= len(inside), i
    cache.close()


@given(
    low=st.floats(2**-20, 1024, width=32),
    spread=st.floats(1, 1e6),
    floor=st.sampled_from([0.0, 0.5]),
)
def test_the_threshold_grid_rises_from_the_floor_to_the_largest_peak(low, spread, floor):
    assume(low > floor)
    high = low * spread
    grid = threshold_grid(floor, low, high)
    assert grid[0] == floor
    assert grid == sorted(set(grid))
    assert len(grid) <= measure.MAX_THRESHOLDS
    assert all(threshold < high for threshold in grid[1:])
    if spread > 10:
        assert len(grid) > 3 and grid[-1] > high / 3


def test_two_runs_of_one_dictionary_share_thresholds():
    assert set(threshold_grid(0.0, 0.5, 30.0)) <= set(threshold_grid(0.0, 0.5, 36.0))


def test_without_activations_everything_is_silent(tmp_path):
    none = np.zeros(0)
    cache, run = cached(tmp_path, Activations(none, none.astype(int), none, none, none, none))
    about = cache.summary(run)
    assert about["n_alive"] == 0 and about["max_peak"] == 0 and about["thresholds"] == [0.0]
    assert cache.support(run, 0).tolist() == [0] * N_FEATURES
    assert cache.histogram(run, 0) == ([], [])
    assert cache.features_page(run, only="alive") == ([], 0)
    cache.close()


def made_of(feature, peak, sample=0):
    return Activations(
        np.array([sample]),
        np.array([1]),
        np.array([feature]),
        np.array([peak], np.float32),
        np.array([0]),
        np.array([1]),
    )


@pytest.mark.parametrize(
    ("feature", "peak"), [(N_FEATURES, 1.0), (-1, 1.0), (0, np.nan), (0, 0.0), (0, -1.0)]
)
def test_activations_that_cannot_be_are_not_cached(tmp_path, feature, peak):
    with pytest.raises(InputError, match="are damaged"):
        cached(tmp_path, made_of(feature, peak))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("measure", "activations"),
        ("dataset", "samples"),
        ("explain", "scores"),
        ("relevance", "relevance"),
    ],
)
def test_a_cache_of_damaged_tables_is_not_built(tmp_path, step, name, spoil):
    runs = Runs(Workspace(tmp_path))
    run = publish_activations(runs, "x", made_of(0, 2.0), n_features=2, n_samples=2)
    if step == "explain":
        run = publish_explanations(runs, run, {0: "x"})
    if step == "relevance":
        run = publish_relevance(runs, run, {0: "yes"})
    spoilt = runs.list(step)[0].run
    spoil(runs.path(spoilt) / f"{name}.parquet")
    with pytest.raises(InputError, match=rf"Run {spoilt} is damaged \({name}\.parquet changed"):
        build(runs, run, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_dataset_run_has_no_cache(toy, tmp_path):
    runs = toy[0]
    with pytest.raises(InputError, match="only sae, measure, .* and synthetic .* a dataset r"):
        build(runs, runs.list("dataset")[0].run, tmp_path)


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_is_a_number_from_zero_up(toy, cache, threshold):
    with pytest.raises(InputError, match="A threshold is a number from 0 up"):
        cache.support(toy[2], threshold)


def test_below_the_floor_nothing_is_known(tmp_path):
    runs = Runs(Workspace(tmp_path))
    run = publish_activations(runs, "x", made_of(0, 2.0), n_features=2, n_samples=2, floor=1.5)
    build(runs, run, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    assert cache.support(run, 1.5).tolist() == [1, 0]
    with pytest.raises(InputError, match="below the floor 1.5"):
        cache.support(run, 1.0)
    cache.close()


def test_an_unknown_role_is_told_which_there_are(toy, cache):
    with pytest.raises(InputError, match="system, user, assistant, all, got 'robot'"):
        cache.support(toy[2], 0, "robot")


def contents(path):
    with duckdb.connect(str(path), read_only=True) as con:
        names = [name for (name,) in con.execute("SHOW TABLES").fetchall()]
        return {name: con.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def test_a_rebuilt_cache_equals_the_first_table_by_table(toy, tmp_path, monkeypatch):
    runs, folder, anchor, _, sae = toy
    for blocks, size in enumerate((2_000_000, 50, 1)):
        monkeypatch.setattr(measure, "ROWS_PER_BLOCK", size)
        derived = [m.run for step in ("explain", "relevance") for m in runs.list(step)]
        for run in (anchor, *derived, sae):
            again = contents(build(runs, run, tmp_path / str(blocks)))
            assert again == contents(folder / f"{run}.duckdb")
    assert all(again.values())


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database" * 9999),
        lambda path: path.write_bytes(path.read_bytes()[:20_000]),
        cut,
        lambda path: (
            duckdb.connect(str(path.with_suffix(".x"))).close()
            or path.with_suffix(".x").rename(path)
        ),
    ],
    ids=["missing", "empty", "junk", "stump", "cut", "tableless"],
)
def test_a_cache_that_is_not_whole_is_not_ready_until_it_is_built_again(anchor_copy, spoil):
    runs, folder, anchor = anchor_copy
    spoil(folder / f"{anchor}.duckdb")
    is_ready_once_built_again(runs, folder, anchor)


def test_a_cache_of_another_version_is_not_ready_until_it_is_built_again(anchor_copy, monkeypatch):
    runs, folder, anchor = anchor_copy
    with monkeypatch.context() as later:
        later.setattr(files, "SQL_VERSION", files.SQL_VERSION + 1)
        build(runs, anchor, folder)
    is_ready_once_built_again(runs, folder, anchor)


def is_ready_once_built_again(runs, folder, anchor):
    cache = Cache(folder)
    assert not cache.ready(anchor)
    with pytest.raises(InputError, match=f"{anchor} cannot be shown.*fac cache rebuild"):
        cache.summary(anchor)
    build(runs, anchor, folder)
    assert cache.ready(anchor)
    assert cache.support(anchor, 0).sum() > 0
    cache.close()


def test_a_cache_of_another_run_is_not_ready(anchor_copy):
    _, folder, anchor = anchor_copy
    (folder / f"{anchor}.duckdb").rename(folder / "measure-0.duckdb")
    cache = Cache(folder)
    assert not cache.ready("measure-0")
    cache.close()


def test_a_flipped_bit_is_a_sentence_or_the_right_answer(anchor_copy):
    runs, folder, anchor = anchor_copy
    path = folder / f"{anchor}.duckdb"
    good = path.read_bytes()
    cache = Cache(folder)
    right = cache.support(anchor, 0.5).tolist()
    rng = np.random.default_rng(0)
    refused = 0
    for offset in rng.integers(0, len(good), 20):
        bad = bytearray(good)
        bad[offset] ^= 8
        (folder / "spoilt").write_bytes(bad)
        (folder / "spoilt").rename(path)
        try:
            assert cache.support(anchor, 0.5).tolist() == right
        except InputError as error:
            assert "cache is damaged" in str(error)
            refused += 1
    assert refused > 0
    build(runs, anchor, folder)
    assert cache.support(anchor, 0.5).tolist() == right
    cache.close()


def test_ids_from_a_url_reach_no_sql(cache):
    for hostile in ("", "../x", 'a-1" AS x; --', "measure-1 x", "measure"):
        assert not cache.ready(hostile)


def test_a_file_that_was_built_anew_is_read_anew(tmp_path):
    first = Runs(Workspace(tmp_path / "one"))
    second = Runs(Workspace(tmp_path / "two"))
    sizes = {"n_features": 2, "n_samples": 3}
    run = publish_activations(first, "x", made_of(0, 1.0), **sizes)
    assert publish_activations(second, "x", made_of(1, 1.0), **sizes) == run
    build(first, run, tmp_path)
    cache = Cache(tmp_path)
    assert cache.support(run, 0).tolist() == [1, 0]
    build(second, run, tmp_path)
    assert cache.support(run, 0).tolist() == [0, 1]
    (tmp_path / f"{run}.duckdb").unlink()
    assert not cache.ready(run)
    build(first, run, tmp_path)
    assert cache.support(run, 0).tolist() == [1, 0]
    cache.close()


def test_threads_read_right_while_files_are_built_anew(toy, tmp_path):
    runs, _, anchor, seed, _ = toy
    for run in (anchor, seed):
        build(runs, run, tmp_path)
    cache = Cache(tmp_path)
    expected = {
        run: (cache.support(run, 1.05).tolist(), cache.features_page(run, sort="feature"))
        for run in (anchor, seed)
    }
    wrong, done = [], threading.Event()

    def hammer(k):
        run = (anchor, seed)[k % 2]
        for _ in range(20):
            try:
                answers = (
                    cache.support(run, 1.05).tolist(),
                    cache.features_page(run, sort="feature"),
                )
                assert answers == expected[run]
                assert len(cache.evidence(anchor, seed, None, np.arange(12))) == 12
            except Exception as error:  # any failure at all must reach the test
                wrong.append(error)

    def rebuild():
        while not done.is_set():
            build(runs, anchor, tmp_path)

    threads = [threading.Thread(target=hammer, args=(k,)) for k in range(4)]
    builder = threading.Thread(target=rebuild)
    for thread in (*threads, builder):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    builder.join()
    assert wrong == []
    cache.close()


def test_a_build_on_a_full_disk_is_one_sentence_and_the_old_cache_stays(anchor_copy, monkeypatch):
    runs, folder, anchor = anchor_copy

    def fails(*_):
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr(measure, "write_meta", fails)
    with pytest.raises(InputError, match=f"disk is full, the cache of {anchor}"):
        build(runs, anchor, folder)
    assert [path.name for path in folder.iterdir()] == [f"{anchor}.duckdb"]
    cache = Cache(folder)
    assert cache.ready(anchor)
    cache.close()


# ---- what pages ask -----------------------------------------------------------------------------


def shown(page):
    rows, _ = page
    return [row["feature"] for row in rows]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", SORTABLE)
def test_features_sort_by_any_column_with_equals_by_number_and_missing_last(
    toy, cache, sort, descending
):
    by_model = [run_by(toy, "llm")]
    rows, total = cache.features_page(toy[2], sort=sort, descending=descending, explained=by_model)
    assert total == len(rows) == 12
    by_feature = sorted(rows, key=lambda row: row["feature"])
    defined = [row for row in by_feature if row[sort] is not None]
    missing = [row for row in by_feature if row[sort] is None]
    assert rows == [*sorted(defined, key=lambda row: row[sort], reverse=descending), *missing]
    assert len(missing) == (4 if sort == "score" else 0)


def test_pages_put_together_are_the_whole_table(toy, cache):
    whole, total = cache.features_page(toy[2], limit=99)
    pages = [cache.features_page(toy[2], offset=o, limit=5) for o in range(0, 15, 5)]
    assert sum((rows for rows, _ in pages), []) == whole
    assert {matching for _, matching in pages} == {total}
    assert cache.features_page(toy[2], offset=99) == ([], 12)


@pytest.mark.parametrize(
    "bad", [{"sort": "1; DROP TABLE x"}, {"only": "x"}, {"offset": -1}, {"limit": -1}]
)
def test_a_page_that_cannot_be_is_refused(toy, cache, bad):
    with pytest.raises(InputError):
        cache.features_page(toy[2], **bad)


def test_features_are_found_by_label_by_promoted_token_and_by_number(toy, cache):
    _, _, anchor, _, sae = toy
    by = WORDS.index
    assert shown(cache.features_page(anchor, search="OVEN")) == [by("oven")]
    assert shown(cache.features_page(anchor, search="quasars")) == []
    assert shown(cache.features_page(anchor, search="quasars", sae_run=sae)) == [by("quasar")]
    assert shown(cache.features_page(anchor, search="#2")) == [2]
    assert shown(cache.features_page(anchor, search=" 11 ")) == [11]
    assert shown(cache.features_page(anchor, search="#oven")) == []
    assert shown(cache.features_page(anchor, search="#99999999999999999999")) == []


@pytest.mark.parametrize("text", ["%", "_", "\\", "o%n", "'", '"', "{run}", "$text", "é\x00"])
def test_searched_text_stands_for_itself(toy, cache, text):
    assert cache.features_page(toy[2], search=text) == ([], 0)


def test_features_can_be_narrowed_to_the_alive_the_silent_or_a_list(toy, cache):
    anchor = toy[2]
    assert shown(cache.features_page(anchor, only="silent")) == [11]
    assert len(shown(cache.features_page(anchor, only="alive"))) == 11
    assert sorted(shown(cache.features_page(anchor, ids=[3, 11, 77]))) == [3, 11]
    assert cache.features_page(anchor, ids=[]) == ([], 0)
    assert shown(cache.features_page(anchor, ids=np.array([3, 11]), only="alive")) == [3]


def test_one_feature_reads_like_its_row(toy, cache):
    _, _, anchor, _, sae = toy
    rows, _ = cache.features_page(anchor, sae_run=sae)
    assert all(cache.feature(anchor, row["feature"], sae_run=sae) == row for row in rows)
    assert cache.feature(anchor, 12) is None


def test_a_label_is_its_strongest_frequent_tokens(tmp_path):
    tokens_of = {
        0: [(" Cook", 3.0), (" cook", 2.9), (" bake", 4.0), (" stew", 1.0), (" fry", 0.5)],
        1: [("\n", 2.0), (" \n\n", 1.0), ("  ", 1.5)],
        2: [("a\u00a0", 1.0), ("%_'\"<b>", 2.0)],
        3: [("", 1.0)],
    }
    rows = [
        {
            "feature": feature,
            "kind": "top",
            "rank": rank,
            "quantile": 0.5,
            "sample": 0,
            "role": "user",
            "position": 1,
            "peak": peak,
            "peak_index": 1,
            "tokens": ["before", token, "after"],
            "activations": [0.0, peak, 0.0],
        }
        for feature, tokens in tokens_of.items()
        for rank, (token, peak) in enumerate(tokens)
    ]
    spread = {**rows[0], "kind": "spread", "tokens": ["x", "spread", "x"], "peak": 99.0}
    cache, run = cached(
        tmp_path, made_of(0, 1.0), spans=pa.Table.from_pylist([*rows, spread], schema=schema.SPANS)
    )
    labels = {row["feature"]: row["label"] for row in cache.features_page(run)[0]}
    assert labels == {
        0: "Cook · bake · stew",
        1: "↵ · ␣",
        2: "%_'\"<b> · a",
        3: "",
        4: "",
        5: "",
    }
    spans = cache.spans(run, 0)
    assert [s["kind"] for s in spans] == ["top"] * 5 + ["spread"]
    assert [s["rank"] for s in spans] == [0, 1, 2, 3, 4, 0]
    assert cache.spans(run, 0, "spread") == spans[5:]
    assert spans[0]["tokens"] == ["before", " Cook", "after"]
    cache.close()


def test_near_misses_are_measured_against_the_saes_own_threshold(toy, cache):
    _, _, _, seed, sae = toy
    train = WORDS.index("train")
    best = cache.near(seed, train, sae_run=sae)[0]
    assert best["pre"] == pytest.approx(0.8) and best["ratio"] == pytest.approx(1.0)
    assert best["tokens"][best["peak_index"]] == " trailing"
    assert cache.near(seed, train)[0]["ratio"] is None


def test_the_map_has_a_point_for_every_feature(toy, cache):
    sae = toy[4]
    points = cache.points(sae)
    assert points.schema.field("x").type == pa.float32()
    assert points["feature"].to_pylist() == list(range(12))
    lens = cache.sae_feature(sae, 2)
    assert lens["promotes"] == ["recipes", "Recipe"] and lens["neighbours"] == [3, 1]
    assert cache.sae_feature(sae, 12) is None
    assert cache.summary(sae)["identity"].startswith("lexicon/")


def test_evidence_comes_in_the_asked_order_with_both_sides(toy, cache):
    _, _, anchor, seed, sae = toy
    features = np.array([5, 0, 11])
    rows = cache.evidence(anchor, seed, sae, features).to_pylist()
    assert [row["feature"] for row in rows] == [5, 0, 11]
    loop, bake, quasar = rows
    assert (loop["anchor_peak"], loop["dataset_peak"]) == (1.5, None)
    assert (bake["anchor_peak"], bake["dataset_peak"]) == (1.5, 1.5)
    assert loop["sae_threshold"] == pytest.approx(0.8)
    assert quasar["anchor_peak"] == 0.0
    user = cache.evidence(anchor, seed, None, features, role="user").to_pylist()
    assert user[0]["anchor_peak"] == 0.0 and user[1]["anchor_peak"] == 1.0
    assert user[0]["sae_threshold"] is None
    words = cache.described(anchor, features).to_pylist()
    assert [row["label"] for row in words] == ["loop!", "bake! · bake", ""]
    assert [row["promotes"] for row in words] == [[], [], []]
    assert words == [cache.feature(anchor, i) for i in (5, 0, 11)]


# ---- explanations and relevance -----------------------------------------------------------------


def run_by(toy, explainer):
    """The toy workspace's run by this explainer."""
    (run,) = (m.run for m in toy[0].list("explain") if m.spec.explainer == explainer)
    return run


def test_an_explanation_is_read_as_it_was_written_with_its_scores(toy, cache):
    runs, _, anchor, _, _ = toy
    run = run_by(toy, "llm")
    rows = cache.explanations(run)
    written = runs.table(run, "explanations").to_pylist()
    assert [{k: v for k, v in row.items() if k != "scores"} for row in rows] == written
    assert [row["feature"] for row in rows] == list(range(10))
    loop = cache.explanations(run, np.array([5]))
    assert loop == [rows[5]] and cache.explanations(run, []) == []
    assert set(loop[0]["scores"]) == {"detection", "fuzzing"}
    assert loop[0]["scores"]["detection"] == {
        "value": 0.7,
        "low": pytest.approx(0.55),
        "high": pytest.approx(0.75),
        "n": 12,
        "n_positive": 6,
        "n_unreadable": 0,
    }
    mountain, please = cache.explanations(run, [9, 7, 11])
    assert mountain["scores"]["detection"]["value"] is None
    assert (please["text"], please["status"], please["scores"]) == (None, "cannot_tell", {})
    assert cache.summary(run)["measure"] == anchor and cache.summary(run)["explainer"] == "llm"


def test_a_score_that_is_no_number_is_unknown(tmp_path):
    runs = Runs(Workspace(tmp_path))
    run = publish_explanations(runs, made(runs), {0: "x"}, values={0: math.nan})
    build(runs, run, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    assert cache.explanations(run)[0]["scores"]["auroc"]["value"] is None
    cache.close()


def made(runs, **facts):
    """A measure run in which nothing but feature 0 fires; its id."""
    sizes = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}
    return publish_activations(runs, "made", made_of(0, 1.0), **sizes, **facts)


def test_the_test_of_a_feature_shows_texts_in_which_it_fires_and_texts_in_which_it_does_not(
    toy, cache
):
    runs, _, anchor, _, _ = toy
    chats = runs.table(runs.manifest(anchor).inputs.dataset, "samples")["messages"].to_pylist()
    for feature, word in enumerate(WORDS[:9]):
        test = cache.examples(run_by(toy, "llm"), anchor, feature)
        assert [example["number"] for example in test] == list(range(6))
        assert sum(example["positive"] for example in test) == 3
        for example in test:
            fires = [token.strip(" !") == word for token in example["tokens"]]
            assert [value > 0 for value in example["activations"]] == fires
            assert any(fires) == example["positive"]
            assert not (example["hard"] and example["positive"])
            texts = {m["role"]: f" {m['content']}" for m in chats[example["sample"]]}
            assert "".join(example["tokens"]) in texts[example["role"]]
            source = cache.spans(anchor, example["source_feature"], example["source_kind"])
            assert source[example["source_rank"]]["tokens"] == example["tokens"]
            assert example["peak_index"] == source[example["source_rank"]]["peak_index"]


def test_what_a_model_answered_stands_beside_each_example(toy, cache):
    test = cache.examples(run_by(toy, "llm"), toy[2], 3)
    assert [e["detected"] == e["positive"] for e in test] == [True, False] * 3
    assert [e["fuzzed"] is None for e in test] == [not e["positive"] for e in test]
    unasked = cache.examples(run_by(toy, "tokens"), toy[2], 3)
    assert {e[name] for e in unasked for name in ("detected", "fuzzed", "fuzz_right")} == {None}
    assert cache.examples(run_by(toy, "llm"), toy[2], 9) == []


def test_examples_are_not_looked_up_in_another_measure(toy, cache):
    run, seed = run_by(toy, "llm"), toy[3]
    with pytest.raises(InputError, match=f"come from {toy[2]}, not from {seed}"):
        cache.examples(run, seed, 3)


def test_an_example_whose_span_is_gone_is_told(tmp_path, monkeypatch):
    runs = Runs(Workspace(tmp_path))
    measured = made(runs)
    lost = {"number": 0, "source_feature": 4, "source_kind": "top", "source_rank": 2}
    answers = dict.fromkeys(("detected", "fuzzed", "fuzz_right"))
    row = {**lost, **answers, "feature": 0, "positive": True, "hard": False}
    monkeypatch.setattr(toys, "_held_out", lambda *_: [row])
    run = publish_explanations(runs, measured, {0: "x"})
    for each in (measured, run):
        build(runs, each, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(InputError, match="Example 0 .* is the top span 2 of feature 4, which"):
        cache.examples(run, measured, 0)
    cache.close()


def test_a_verdict_is_read_as_it_was_written(toy, cache):
    runs, _, anchor, _, _ = toy
    (judged,) = runs.list("relevance")
    run = judged.run
    assert cache.relevance(run) == runs.table(run, "relevance").to_pylist()
    assert [row["level"] for row in cache.relevance(run, [4, 9])] == ["yes", "cannot_tell"]
    assert np.flatnonzero(cache.relevant(run, 12)).tolist() == [*RELEVANT]
    assert np.flatnonzero(cache.relevant(run, 12, ["no"])).tolist() == [0, 1, 2, 8]
    assert cache.relevant(run, 12).dtype == bool and len(cache.relevant(run, 99)) == 99
    assert cache.summary(run)["measure"] == anchor


def test_verdicts_on_features_beyond_the_dictionary_are_refused(toy, cache):
    (judged,) = toy[0].list("relevance")
    with pytest.raises(
        InputError, match="judges features 3 to 6, but ids run to 5: .* another SAE"
    ):
        cache.relevant(judged.run, 6)


def test_a_feature_shows_its_first_explanation_and_that_runs_score(toy, cache):
    anchor, model, tokens = toy[2], run_by(toy, "llm"), run_by(toy, "tokens")
    columns = ("explanation", "explainer", "score", "score_kind")

    def shows(feature, *explained):
        row = cache.feature(anchor, feature, explained=explained)
        rows, _ = cache.features_page(anchor, explained=explained)
        assert row in rows
        return tuple(row[name] for name in columns)

    assert shows(5, model, tokens) == ("People speak of a loop.", "llm", 0.7, "detection")
    assert shows(5, tokens, model) == ("the word loop", "tokens", pytest.approx(0.9), "auroc")
    # The model could not tell, the tokens can.
    assert shows(9, model) == (None,) * 4
    assert shows(9, model, tokens) == ("the word please", "tokens", pytest.approx(0.86), "auroc")
    assert shows(7, model, tokens) == ("People speak of a mountain.", "llm", None, "detection")
    for feature in (10, 11):
        assert shows(feature, model, tokens) == (None,) * 4
    assert shows(5) == (None,) * 4


def test_features_are_found_by_the_explanation_that_is_shown(toy, cache):
    anchor, model, tokens = toy[2], run_by(toy, "llm"), run_by(toy, "tokens")

    def found(search, *explained):
        rows, total = cache.features_page(anchor, search=search, explained=explained)
        assert total == len(rows)
        return sorted(row["feature"] for row in rows)

    assert found("SPEAK of a r", model, tokens) == [2, 6]
    assert found("the word", model, tokens) == [9]
    assert found("the word", tokens, model) == list(range(10))
    assert found("speak") == []
    assert found("100%", model) == found("_", model) == []


def test_figures_and_words_carry_the_explanation_in_the_asked_order(toy, cache):
    _, _, anchor, _, _ = toy
    features, model = np.array([5, 11, 0]), run_by(toy, "llm")
    rows = cache.described(anchor, features, explained=[model]).to_pylist()
    texts = ["People speak of a loop.", None, "People speak of a bake."]
    assert [row["explanation"] for row in rows] == texts
    for scores in (cache.scores([model], features).to_pylist(), [row["score"] for row in rows]):
        assert scores == [0.7, None, 0.95]


@pytest.mark.parametrize("hostile", ["no-such", "../x", 'a-1" AS x; --', ""])
def test_explanations_of_a_run_without_a_cache_are_a_sentence(toy, cache, hostile):
    for ask in (
        lambda: cache.explanations(hostile),
        lambda: cache.features_page(toy[2], explained=[hostile]),
        lambda: cache.relevance(hostile),
    ):
        with pytest.raises(InputError, match="cannot be shown"):
            ask()


@pytest.mark.parametrize("step", ["explain", "relevance"])
def test_what_is_told_twice_of_a_feature_is_not_cached(tmp_path, step, monkeypatch):
    runs = Runs(Workspace(tmp_path))
    measured = made(runs)
    written = toys.write_table
    monkeypatch.setattr(
        toys, "write_table", lambda path, table, kept: written(path, twice(table), kept)
    )
    if step == "explain":
        run = publish_explanations(runs, measured, {0: "x"})
    else:
        run = publish_relevance(runs, measured, {0: "yes"})
    with pytest.raises(InputError, match=f"of run {run} has 1 rows about what another row already"):
        build(runs, run, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def twice(table):
    return pa.concat_tables([table, table])


def test_text_of_an_explanation_is_kept_as_it_is(tmp_path):
    runs = Runs(Workspace(tmp_path))
    measured = made(runs)
    hostile = "'; DROP TABLE x; -- {run} $text \u202e<b>\n\x00%_\\"
    run = publish_explanations(runs, measured, {0: hostile, 1: ""})
    for each in (measured, run):
        build(runs, each, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    assert [row["text"] for row in cache.explanations(run)] == [hostile, ""]
    assert cache.feature(measured, 0, explained=[run])["explanation"] == hostile
    assert shown(cache.features_page(measured, explained=[run], search=hostile)) == [0]
    cache.close()


VALUES = st.none() | st.floats(0, 1)
RUNS = st.lists(
    st.dictionaries(
        st.integers(0, N_FEATURES - 1), st.tuples(st.none() | st.text(max_size=3), VALUES)
    ),
    max_size=3,
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(by_run=RUNS)
def test_of_several_runs_the_first_with_a_text_is_shown(tmp_path_factory, by_run):
    folder = tmp_path_factory.mktemp("several")
    runs = Runs(Workspace(folder))
    measured = made(runs)
    explained = []
    for attempt, explanations in enumerate(by_run):
        texts = {feature: text for feature, (text, _) in explanations.items()}
        values = {feature: value for feature, (_, value) in explanations.items()}
        run = publish_explanations(runs, measured, texts, values=values, attempt=attempt)
        explained.append(run)
    for run in (measured, *explained):
        build(runs, run, folder / "cache")
    cache = Cache(folder / "cache")
    rows, total = cache.features_page(measured, sort="score", explained=explained)
    assert total == len(rows) == N_FEATURES
    for row in rows:
        explanations = [each[row["feature"]] for each in by_run if row["feature"] in each]
        first = next(
            ((text, value) for text, value in explanations if text is not None), (None, None)
        )
        assert (row["explanation"], row["score"]) == first
    for run, explanations in zip(explained, by_run, strict=True):
        scores = sorted(value for _, value in explanations.values() if value is not None)
        stored = [row["scores"]["auroc"]["value"] for row in cache.explanations(run)]
        assert sorted(value for value in stored if value is not None) == scores
    cache.close()


# ---- pairs and candidates -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def making(tmp_path_factory):
    """A workspace with pairs for features 3, 5 and 6, a gap without one (7), and three candidates
    for each: one kept, one beaten, one refusal. (runs, cache folder, pairs run, synthetic run)"""
    workspace = toy_workspace(tmp_path_factory.mktemp("making"))
    runs = Runs(workspace)
    made = exports.publish_synthesis(workspace, profile="toxicity")
    pairs = runs.manifest(made).inputs.pairs
    for run in (pairs, made):
        build(runs, run, workspace.cache)
    return runs, workspace.cache, pairs, made


@pytest.fixture
def made_cache(making):
    cache = Cache(making[1])
    yield cache
    cache.close()


def test_candidates_carry_their_verdict_and_what_they_fire(making, made_cache):
    runs, _, _, run = making
    rows, total = made_cache.candidates(run)
    assert total == len(rows) == 9
    verdicts = {v["candidate"]: v for v in runs.table(run, "verdicts").to_pylist()}
    hits = runs.table(run, "hits").to_pylist()
    for row, written in zip(rows, runs.table(run, "candidates").to_pylist(), strict=True):
        verdict = verdicts[row["candidate"]]
        assert {name: row[name] for name in verdict} == verdict
        assert row["extra"] == json.loads(written.pop("extra")) == {"label": "1"}
        assert {name: row[name] for name in written} == written
        fired = [hit for hit in hits if hit["candidate"] == row["candidate"]]
        assert row["n_hits"] == len(fired)
        alone = made_cache.candidate(run, row["candidate"])
        assert alone.pop("hits") == [
            {k: v for k, v in h.items() if k != "candidate"} for h in fired
        ]
        assert alone == row
    assert made_cache.candidate(run, "none") is None
    assert made_cache.summary(run)["inputs"] == [*runs.manifest(run).inputs.ids]


@pytest.mark.parametrize(
    ("filters", "candidates"),
    [
        ({"only": "kept"}, [(3, 0), (5, 0), (6, 0)]),
        ({"only": "dropped", "feature": 5}, [(5, 1), (5, 2)]),
        ({"reason": "refusal"}, [(3, 2), (5, 2), (6, 2)]),
        ({"reason": "beaten", "only": "kept"}, []),
        ({"search": "river!"}, [(6, 0)]),
        ({"feature": 3, "sort": "peak"}, [(3, 2), (3, 1), (3, 0)]),
        ({"feature": 3, "sort": "peak", "descending": True}, [(3, 0), (3, 1), (3, 2)]),
        ({"sort": "n_hits", "limit": 3}, [(3, 2), (5, 2), (6, 2)]),
        ({"pair": "none"}, []),
    ],
)
def test_candidates_are_filtered_and_sorted(making, made_cache, filters, candidates):
    rows, _ = made_cache.candidates(making[3], **filters)
    assert [(row["feature"], int(row["candidate"].split("/")[2])) for row in rows] == candidates


@given(st.floats(0, 3, allow_nan=False) | st.sampled_from([1.0, 1 - 1e-12, 2.0]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_text_counts_the_gaps_that_it_fires_above_the_threshold(making, made_cache, threshold):
    runs, _, _, run = making
    hits = runs.table(run, "hits")
    active = hits.filter(pa.array(is_active(hits["peak"].to_numpy(), threshold)))["candidate"]
    counts = Counter(active.to_pylist())
    rows, _ = made_cache.candidates(run, threshold=threshold)
    assert {row["candidate"]: row["n_hits"] for row in rows} == {
        row["candidate"]: counts[row["candidate"]] for row in rows
    }
    alone = made_cache.candidate(run, rows[0]["candidate"], threshold=threshold)
    assert alone["n_hits"] == rows[0]["n_hits"]


def test_candidates_of_step_1_have_a_peak_and_no_verdict(making, made_cache):
    rows, total = made_cache.candidates(making[2])
    assert total == 3
    assert [(row["peak"], row["kept"], row["reason"], row["rank"]) for row in rows] == [
        (1.0, None, "", -1)
    ] * 3
    assert made_cache.candidates(making[2], only="kept") == ([], 0)


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda c, p, s: c.candidates(s, sort="messages"), "Candidates sort by candidate"),
        (lambda c, p, s: c.candidates(s, only="best"), "all, kept, dropped"),
        (lambda c, p, s: c.candidates(s, limit=-1), "page starts at 0"),
        (lambda c, p, s: c.candidate("pairs-0", "x"), "cannot be shown"),
    ],
)
def test_a_question_about_pairs_that_has_no_answer_is_a_sentence(making, made_cache, ask, why):
    with pytest.raises(InputError, match=why):
        ask(made_cache, making[2], making[3])


@pytest.mark.parametrize("table", ["pairs", "candidates", "hits", "verdicts"])
def test_what_is_told_twice_of_a_candidate_is_not_cached(tmp_path, table, monkeypatch):
    written = exports.write_table

    def doubled(path, rows, kept):
        written(path, twice(rows) if path.stem == table else rows, kept)

    monkeypatch.setattr(exports, "write_table", doubled)
    workspace = toy_workspace(tmp_path / "kitchen")
    runs = Runs(workspace)
    made = exports.publish_synthesis(workspace)
    run = runs.manifest(made).inputs.pairs if table == "pairs" else made
    with pytest.raises(InputError, match=f"The table {table} of run {run} has"):
        build(runs, run, workspace.cache)
