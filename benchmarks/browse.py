"""What browsing a large store costs: its caches, every query of the pages, and two pages elsewhere.

    python -m benchmarks.browse --workspace DIR

writes the store of benchmarks.large_store where it is not there yet, builds the caches that are not
ready (with --rebuild all), each in a process of its own, and asks every question that pages ask at
random features, pages, searches, sorts and thresholds. Then two whole pages from the same answers,
checked equal before anything is timed:

  gap page      what one move of the threshold slider asks: coverage, coverage by role, and the
                first 50 gaps by how many anchor samples show them
  feature page  what one more feature asks: map, number of samples of all features, a page of the
                table, the feature's row in both runs, histogram, strongest examples, near misses,
                explanation, logit lens and neighbours, and the names of six neighbours

against `pandas`, the Parquet tables in memory as frames (of Arrow columns where they hold lists), a
frame of what is known per feature computed before, rows found by comparing columns; `Parquet`, the
same frames but activations, spans and near misses read for each question, with the columns and rows
it needs; and `SQLite`, one file with a primary key (feature, ...) on every table, so that a
feature's rows lie together, and indexes on the columns that the table is sorted by. Both are given
what our cache computes once: the features table and which row is the strongest of its sample. Every
file is read once before, so that no store waits for the disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.large_store import THRESHOLD, add_size, size_of, write
from fac import coverage
from fac.config import Workspace
from fac.questions import comparison, gaps
from fac.questions.comparison import Comparison
from fac.schema import ROLES
from fac.store import Stores, open_stores
from fac.store import cache as caching
from fac.store.cache import Cache
from fac.store.runs import Runs

SORTS = ("max_peak", "n_samples", "mean_peak", "n_tokens", "feature")
WORDS = ("recipe", "school", "energy", "the", "water", "quantum")
PAGE = 50
GAP_FIELDS = ("feature", "label", "n_anchor", "near", "anchor_peak", "explanation", "score")


class Browsed(NamedTuple):
    """The runs that are browsed."""

    stores: Stores
    """Which remember nothing, so that every question is answered anew."""
    anchor: str
    dataset: str
    sae: str
    explain: str

    @property
    def n_features(self) -> int:
        return int(self.cache.summary(self.anchor)["n_features"])

    @property
    def runs(self) -> Runs:
        return self.stores.runs

    @property
    def cache(self) -> Cache:
        return self.stores.cache

    def path(self, run: str, table: str) -> Path:
        return self.runs.path(run) / f"{table}.parquet"


# ---- building -----------------------------------------------------------------------------------


def build_here(workspace: Workspace, run: str) -> None:
    """Builds one cache in this process and says what it took, as JSON."""
    begun = time.monotonic()
    path = caching.build(Runs(workspace), run, workspace.cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = {"seconds": time.monotonic() - begun, "peak": peak, "bytes": path.stat().st_size}
    print(json.dumps(took))


def build_all(workspace: Workspace, ids: dict[str, str], rebuild: bool) -> list[str]:
    """Lines of a table of what each cache took; one that was there is not built again."""
    with closing(Cache(workspace.cache)) as cache:
        todo = {
            what: run
            for what, run in ids.items()
            if not run.startswith("dataset-") and (rebuild or not cache.ready(run))
        }
    if not todo:
        return []
    lines = ["| cache of | seconds | peak RSS, MB | file, MB |", "|---|---|---|---|"]
    took = []
    for what, run in todo.items():
        note(f"building the cache of the {what}")
        command = [sys.executable, "-m", "benchmarks.browse", "--build", run]
        command += ["--workspace", str(workspace.root)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took.append(json.loads(ended.stdout))
        lines.append(_built(what, **took[-1]))
    seconds, size = (sum(figures[key] for figures in took) for key in ("seconds", "bytes"))
    return [*lines, _built("all", seconds, max(figures["peak"] for figures in took), size)]


def _built(what: str, seconds: float, peak: float, bytes: float) -> str:
    return f"| {what} | {seconds:.1f} | {peak / 1e6:,.0f} | {bytes / 1e6:,.1f} |"


# ---- what pages ask -----------------------------------------------------------------------------


class Question(NamedTuple):
    page: str
    name: str
    ask: Callable[[np.random.Generator], Any]


def questions(browsed: Browsed) -> list[Question]:
    """Every query of a cache that a page makes, at random."""
    cache, anchor, dataset, sae = browsed.cache, browsed.anchor, browsed.dataset, browsed.sae
    beside: dict[str, Any] = {"sae_run": sae, "explained": (browsed.explain,)}
    n, thresholds = browsed.n_features, cache.summary(anchor)["thresholds"]

    def any_feature(rng: np.random.Generator) -> int:
        return int(rng.integers(n))

    def some(rng: np.random.Generator, k: int) -> list[int]:
        return rng.choice(n, min(k, n), replace=False).tolist()

    def at(rng: np.random.Generator) -> float:
        return threshold(rng, thresholds)

    def table(rng: np.random.Generator, **more: Any) -> Any:
        options = {"sort": rng.choice(SORTS), "only": "alive", **beside, **more}
        return cache.features_page(anchor, offset=int(rng.integers(n)), **options)

    def moved(rng: np.random.Generator) -> Any:
        return gap_page(browsed, at(rng))

    features, gaps = "features", "coverage"
    return [
        Question(features, "points", lambda rng: cache.points(sae)),
        Question(features, "support, at 0", lambda rng: cache.support(anchor, 0.0)),
        Question(features, "features_page", table),
        Question(features, "features_page, by score", lambda rng: table(rng, sort="score")),
        Question(
            features,
            "features_page, search",
            lambda rng: cache.features_page(anchor, search=str(rng.choice(WORDS)), **beside),
        ),
        Question(
            features,
            "features_page, #number",
            lambda rng: cache.features_page(anchor, search=f"#{any_feature(rng)}", **beside),
        ),
        Question(
            features,
            "features_page, 2,000 of the map",
            lambda rng: cache.features_page(anchor, ids=some(rng, 2000), **beside),
        ),
        Question(
            "all",
            "features_page, six names",
            lambda rng: cache.features_page(anchor, ids=some(rng, 6)),
        ),
        Question(
            features, "feature", lambda rng: cache.feature(anchor, any_feature(rng), **beside)
        ),
        Question(features, "histogram", lambda rng: cache.histogram(anchor, any_feature(rng))),
        Question(features, "spans", lambda rng: cache.spans(anchor, any_feature(rng), "top")),
        Question(features, "near", lambda rng: cache.near(dataset, any_feature(rng), sae_run=sae)),
        Question(features, "sae_feature", lambda rng: cache.sae_feature(sae, any_feature(rng))),
        Question(
            features,
            "explanations",
            lambda rng: cache.explanations(browsed.explain, [any_feature(rng)]),
        ),
        Question("review", "texts", lambda rng: cache.texts(browsed.explain)),
        Question(
            "review",
            "examples",
            lambda rng: cache.examples(browsed.explain, anchor, any_feature(rng)),
        ),
        Question(gaps, "support, any threshold", lambda rng: cache.support(anchor, at(rng))),
        Question(
            gaps,
            "evidence, a tenth of the features",
            lambda rng: cache.evidence(anchor, dataset, sae, np.array(some(rng, n // 10))),
        ),
        Question(gaps, "a threshold change, whole", moved),
        Question(
            gaps,
            "the curve, first time",
            lambda rng: comparison.curve(browsed.stores, Comparison(anchor, dataset)),
        ),
    ]


def threshold(rng: np.random.Generator, thresholds: list[float]) -> float:
    """As the slider gives it: up to where most features have gone, rarely one of its grid."""
    return round(float(rng.uniform(0, thresholds[len(thresholds) // 2])), 3)


def gap_page(browsed: Browsed, threshold: float) -> tuple[Any, Any, list[dict[str, Any]], int]:
    """What a move of the threshold asks, through the functions that the page calls."""
    stores, question = browsed.stores, Comparison(browsed.anchor, browsed.dataset, threshold)
    result = comparison.coverage(stores, question)
    roles = comparison.by_role(stores, question)
    listing = gaps.GapList(sort="n_anchor", kind="absent")  # as the other stores list them
    explain_runs = (browsed.explain,)
    rows, total = gaps.gap_page(stores, question, listing, explain_runs=explain_runs, limit=PAGE)
    return result, roles, rows, total


def timed(ask: Callable[[np.random.Generator], Any], repeat: int, seed: int) -> np.ndarray:
    """Milliseconds of each of `repeat` calls after one that does not count, each call asking
    something else; the same seed asks the same."""
    rng = np.random.default_rng(seed)
    took = []
    for _ in range(repeat + 1):
        begun = time.perf_counter()
        ask(rng)
        took.append(1000 * (time.perf_counter() - begun))
    return np.array(took[1:])


# ---- two pages, from any store ------------------------------------------------------------------


class Ours:
    """The cache, as the pages ask it."""

    name = "ours"

    def __init__(self, browsed: Browsed):
        self.browsed = browsed

    def gap_page(self, threshold: float) -> dict[str, Any]:
        result, roles, rows, total = gap_page(self.browsed, threshold)
        return {
            "fac": result.fac,
            "roles": [row["fac"] for row in roles],
            "total": total,
            "rows": [[row[field] for field in GAP_FIELDS] for row in rows],
        }

    def feature_page(self, feature: int, sort: str, offset: int) -> dict[str, Any]:
        cache, anchor, dataset = self.browsed.cache, self.browsed.anchor, self.browsed.dataset
        sae, explained = self.browsed.sae, (self.browsed.explain,)
        points = cache.points(sae)
        listing: dict[str, Any] = {"sort": sort, "only": "alive", "offset": offset}
        rows, total = cache.features_page(anchor, **listing, sae_run=sae, explained=explained)
        lens = cache.sae_feature(sae, feature) or {}
        others = lens["neighbours"][:6]
        names, _ = cache.features_page(anchor, ids=others, limit=6)
        both = [cache.feature(run, feature) or {} for run in (anchor, dataset)]
        texts = cache.explanations(self.browsed.explain, [feature])
        return {
            "x": points["x"].to_numpy(),
            "support": cache.support(anchor, 0.0),
            "page": [row["feature"] for row in rows],
            "explanations": [row["explanation"] for row in rows],
            "total": total,
            "both": [(row["n_samples"], row["max_peak"]) for row in both],
            "histogram": cache.histogram(anchor, feature)[1],
            "spans": [(s["tokens"], s["activations"]) for s in cache.spans(anchor, feature, "top")],
            "near": [(s["tokens"], s["pre"]) for s in cache.near(dataset, feature, sae_run=sae)],
            "explanation": texts[0]["text"] if texts else None,
            "promotes": lens["promotes"],
            "names": {row["feature"]: row["label"] for row in names},
        }


class Peer(ABC):
    """Another store: the pages from the questions that a subclass answers."""

    name: str

    def __init__(self, browsed: Browsed):
        self.browsed = browsed

    @abstractmethod
    def counts(self, run: str, threshold: float) -> np.ndarray:
        """Samples above the threshold per role, and of any: int64 `[roles + 1, n_features]`."""

    @abstractmethod
    def firing(self, run: str) -> np.ndarray:
        """Samples in which each feature fires at all."""

    @abstractmethod
    def page(self, sort: str, offset: int) -> tuple[list[int], list[str | None], int]:
        """Features of a page of the table, their explanations, and how many fire."""

    @abstractmethod
    def facts(self, run: str, features: list[int]) -> dict[int, tuple[int, float, str]]:
        """n_samples, max_peak and label of these features."""

    @abstractmethod
    def peaks(self, feature: int) -> np.ndarray:
        """The anchor's peaks of a feature, one per sample."""

    @abstractmethod
    def spans(self, feature: int) -> list[tuple[list[str], list[float]]]:
        """Tokens and activations of the strongest examples."""

    @abstractmethod
    def near(self, features: list[int]) -> list[tuple[int, list[str], float]]:
        """Near misses of the dataset: feature, tokens, pre-activation, highest first."""

    @abstractmethod
    def lens(self, feature: int) -> tuple[list[str], list[int]]:
        """promotes and neighbours."""

    @abstractmethod
    def points(self) -> np.ndarray:
        """x, y of every feature."""

    @abstractmethod
    def explained(self, features: list[int]) -> dict[int, tuple[str, float]]:
        """Explanation and score of those of these features that have one."""

    def gap_page(self, threshold: float) -> dict[str, Any]:
        runs = (self.browsed.anchor, self.browsed.dataset)
        anchor, dataset = (self.counts(run, threshold) for run in runs)
        # What fires at all is the same for every threshold, so it is asked for once.
        fired = self.fired_by_role()
        n_samples = self.browsed.cache.summary(self.browsed.anchor)["n_samples"]
        results = [
            coverage.fac(a > 0, d > 0, coverage.everywhere_relevant(f, n_samples))
            for a, d, f in zip(anchor, dataset, fired, strict=True)
        ]
        missing = results[-1].missing
        count = anchor[-1][missing]
        first = missing[np.lexsort((missing, -count))][:PAGE].tolist()
        facts = self.facts(self.browsed.anchor, first)
        explained = self.explained(first)
        best: dict[int, float] = {}
        for feature, _, pre in self.near(first):
            best.setdefault(feature, pre)
        level = max(THRESHOLD, threshold)
        rows = []
        for i in first:
            explanation, score = explained.get(i, (None, None))
            facts_of = facts[i]
            near = best[i] / np.float32(level)
            n = int(anchor[-1][i])
            rows.append([i, facts_of[2], n, near, facts_of[1], explanation, score])
        return {
            "fac": results[-1].fac,
            "roles": [result.fac for result in results[:-1]],
            "total": len(missing),
            "rows": rows,
        }

    def fired_by_role(self) -> np.ndarray:
        if not hasattr(self, "_fired"):
            self._fired = self.counts(self.browsed.anchor, 0.0)
        return self._fired

    def feature_page(self, feature: int, sort: str, offset: int) -> dict[str, Any]:
        points = self.points()
        page, explanations, total = self.page(sort, offset)
        promotes, neighbours = self.lens(feature)
        peaks = self.peaks(feature)
        runs = (self.browsed.anchor, self.browsed.dataset)
        histogram: list[int] = []
        if len(peaks):
            bins = caching.HISTOGRAM_BINS
            at = np.floor(peaks.astype(float) / float(peaks.max()) * bins).astype(int)
            histogram = np.bincount(np.minimum(at, bins - 1), minlength=bins).tolist()
        explained = self.explained([feature])
        return {
            "x": points[0],
            "support": self.firing(self.browsed.anchor),
            "page": page,
            "explanations": explanations,
            "total": total,
            "both": [self.facts(run, [feature])[feature][:2] for run in runs],
            "histogram": histogram,
            "spans": self.spans(feature),
            "near": [(tokens, pre) for _, tokens, pre in self.near([feature])],
            "explanation": explained[feature][0] if explained else None,
            "promotes": promotes,
            "names": {
                i: row[2] for i, row in self.facts(self.browsed.anchor, neighbours[:6]).items()
            },
        }


class Pandas(Peer):
    """The Parquet tables as frames in memory."""

    name = "pandas"

    def __init__(self, browsed: Browsed):
        super().__init__(browsed)
        sides = (browsed.anchor, browsed.dataset)
        self.features = {run: self._features(run) for run in sides}
        self.sae = _arrow_frame(browsed.path(browsed.sae, "features"))
        texts = _arrow_frame(browsed.path(browsed.explain, "explanations"))[["feature", "text"]]
        scores = _arrow_frame(browsed.path(browsed.explain, "scores"))[["feature", "value"]]
        self.texts = texts[texts["text"].notna()].merge(scores, on="feature", how="left")
        self.load(sides)

    def load(self, sides: tuple[str, str]) -> None:
        self.activations = {run: self._activations(run) for run in sides}
        self.all_spans = _arrow_frame(self.browsed.path(sides[0], "spans"))
        self.all_near = _arrow_frame(self.browsed.path(sides[1], "near"))

    def _features(self, run: str) -> pd.DataFrame:
        sql = "SELECT feature, label, n_samples, n_tokens, max_peak, mean_peak FROM features"
        with duckdb.connect(_file(self.browsed, run), read_only=True) as con:
            return con.execute(f"{sql} ORDER BY feature").df()

    def _activations(self, run: str) -> pd.DataFrame:
        columns = ["feature", "peak", "role"]
        table = pq.read_table(self.browsed.path(run, "activations"), columns=columns)
        codes = _codes(table["role"])
        frame = table.drop_columns(["role"]).to_pandas(split_blocks=True, self_destruct=True)
        with duckdb.connect(_file(self.browsed, run), read_only=True) as con:
            rows = con.execute("SELECT strongest FROM activations").fetchnumpy()
        return frame.assign(role=codes, strongest=rows["strongest"])

    def counts(self, run: str, threshold: float) -> np.ndarray:
        rows = self.activations[run]
        hit = rows[rows["peak"] > np.float32(threshold)]
        return self._by_role(hit, hit.loc[hit["strongest"], "feature"])

    def _by_role(self, hit: pd.DataFrame, strongest: pd.Series) -> np.ndarray:
        out = np.zeros((len(ROLES) + 1, self.browsed.n_features), np.int64)
        for (role, feature), n in hit.groupby(["role", "feature"]).size().items():
            out[role, feature] = n
        every = strongest.value_counts()
        out[-1, every.index] = every.to_numpy()
        return out

    def firing(self, run: str) -> np.ndarray:
        return self.features[run]["n_samples"].to_numpy()

    def page(self, sort: str, offset: int) -> tuple[list[int], list[str | None], int]:
        frame = self.features[self.browsed.anchor]
        alive = frame[frame["n_samples"] > 0]
        ordered = alive.sort_values([sort, "feature"], ascending=[False, sort != "feature"])
        ids = ordered["feature"].iloc[offset : offset + PAGE].tolist()
        explained = self.explained(ids)
        return ids, [explained[i][0] if i in explained else None for i in ids], len(alive)

    def facts(self, run: str, features: list[int]) -> dict[int, tuple[int, float, str]]:
        rows = self.features[run]
        rows = rows[rows["feature"].isin(features)]
        columns = [rows[c].tolist() for c in ("feature", "n_samples", "max_peak", "label")]
        return {i: (n, peak, label) for i, n, peak, label in zip(*columns, strict=True)}

    def peaks(self, feature: int) -> np.ndarray:
        rows = self.activations[self.browsed.anchor]
        return rows.loc[(rows["feature"] == feature) & rows["strongest"], "peak"].to_numpy()

    def spans(self, feature: int) -> list[tuple[list[str], list[float]]]:
        return _spans(self.all_spans[self.all_spans["feature"] == feature])

    def near(self, features: list[int]) -> list[tuple[int, list[str], float]]:
        return _near(self.all_near[self.all_near["feature"].isin(features)])

    def lens(self, feature: int) -> tuple[list[str], list[int]]:
        row = self.sae[self.sae["feature"] == feature].iloc[0]
        return list(row["promotes"]), [int(i) for i in row["neighbours"]]

    def points(self) -> np.ndarray:
        return self.sae[["x", "y"]].to_numpy(dtype=np.float32).T

    def explained(self, features: list[int]) -> dict[int, tuple[str, float]]:
        rows = self.texts[self.texts["feature"].isin(features)]
        columns = [rows[c].tolist() for c in ("feature", "text", "value")]
        return {i: (text, value) for i, text, value in zip(*columns, strict=True)}


class Parquet(Pandas):
    """The large tables are read for each question: the columns and rows that it needs."""

    name = "Parquet"

    def load(self, sides: tuple[str, str]) -> None:
        """Nothing is held."""

    def _read(self, run: str, table: str, columns: list[str], filters: Any) -> pa.Table:
        return pq.read_table(self.browsed.path(run, table), columns=columns, filters=filters)

    def counts(self, run: str, threshold: float) -> np.ndarray:
        above = [("peak", ">", float(np.float32(threshold)))]
        table = self._read(run, "activations", ["feature", "sample", "role"], above)
        frame = table.drop_columns(["role"]).to_pandas().assign(role=_codes(table["role"]))
        once = frame.drop_duplicates(["feature", "sample"])
        return self._by_role(frame, once["feature"])

    def peaks(self, feature: int) -> np.ndarray:
        rows = [("feature", "==", feature)]
        table = self._read(self.browsed.anchor, "activations", ["sample", "peak"], rows)
        return table.to_pandas().drop_duplicates("sample")["peak"].to_numpy()

    def spans(self, feature: int) -> list[tuple[list[str], list[float]]]:
        columns = ["kind", "rank", "tokens", "activations"]
        rows = [("feature", "==", feature)]
        table = self._read(self.browsed.anchor, "spans", columns, rows)
        return _spans(table.to_pandas(types_mapper=pd.ArrowDtype))

    def near(self, features: list[int]) -> list[tuple[int, list[str], float]]:
        columns = ["feature", "rank", "tokens", "pre"]
        rows = [("feature", "in", features)]
        table = self._read(self.browsed.dataset, "near", columns, rows)
        return _near(table.to_pandas(types_mapper=pd.ArrowDtype))


def _arrow_frame(path: Path) -> pd.DataFrame:
    return pq.read_table(path).to_pandas(types_mapper=pd.ArrowDtype)


def _spans(rows: pd.DataFrame) -> list[tuple[list[str], list[float]]]:
    rows = rows[rows["kind"] == "top"].sort_values("rank")
    return [
        (list(t), [float(v) for v in a])
        for t, a in zip(rows["tokens"], rows["activations"], strict=True)
    ]


def _near(rows: pd.DataFrame) -> list[tuple[int, list[str], float]]:
    rows = rows.sort_values(["feature", "rank"])
    columns = (rows["feature"], rows["tokens"], rows["pre"])
    return [(int(i), list(t), float(pre)) for i, t, pre in zip(*columns, strict=True)]


def _codes(role: pa.ChunkedArray) -> np.ndarray:
    """uint8 index into ROLES."""
    codes = [
        np.array([ROLES.index(name) for name in chunk.dictionary.to_pylist()], np.uint8)[
            chunk.indices.to_numpy()
        ]
        for chunk in role.chunks
    ]
    return np.concatenate(codes) if codes else np.zeros(0, np.uint8)


def _file(browsed: Browsed, run: str) -> str:
    return str(browsed.runs.workspace.cache / f"{run}.duckdb")


class SQLite(Peer):
    """One file, made once beside the caches; lists are JSON."""

    name = "SQLite"

    def __init__(self, browsed: Browsed, path: Path):
        super().__init__(browsed)
        self.side = {browsed.anchor: "anchor", browsed.dataset: "dataset"}
        if not path.exists():
            partial = path.with_suffix(".part")
            partial.unlink(missing_ok=True)
            with closing(sqlite3.connect(partial, isolation_level=None)) as con:
                self._fill(con)
            partial.rename(path)
        self.con = sqlite3.connect(path)
        self.con.execute("PRAGMA mmap_size = 17179869184")
        self.con.execute("PRAGMA cache_size = -1000000")

    def _fill(self, con: sqlite3.Connection) -> None:
        con.execute("PRAGMA journal_mode = OFF")
        con.execute("PRAGMA synchronous = OFF")
        con.execute("BEGIN")
        for run, side in self.side.items():
            note(f"SQLite: the activations of the {side}")
            con.execute(
                f"CREATE TABLE activations_{side} (feature, peak, sample, role, strongest, "
                f"PRIMARY KEY (feature, peak DESC, sample, role)) WITHOUT ROWID"
            )
            wanted = "feature, peak::DOUBLE AS peak, sample, role, strongest::UTINYINT AS strongest"
            for rows in self._rows(run, f"SELECT {wanted} FROM activations"):
                con.executemany(f"INSERT INTO activations_{side} VALUES (?, ?, ?, ?, ?)", rows)
            con.execute(
                f"CREATE TABLE features_{side} (feature INTEGER PRIMARY KEY, label, n_samples, "
                f"n_tokens, max_peak, mean_peak)"
            )
            wanted = "feature, label, n_samples, n_tokens, max_peak::DOUBLE AS max_peak, mean_peak"
            for rows in self._rows(run, f"SELECT {wanted} FROM features"):
                con.executemany(f"INSERT INTO features_{side} VALUES (?, ?, ?, ?, ?, ?)", rows)
            for column in SORTS[:-1]:
                con.execute(f"CREATE INDEX {side}_{column} ON features_{side} ({column}, feature)")
        note("SQLite: spans, near misses, the SAE and explanations")
        tables = {
            "spans": (
                self.browsed.anchor,
                "SELECT feature, kind, rank, to_json(tokens) AS a, to_json(activations) AS b "
                "FROM spans",
                "PRIMARY KEY (feature, kind, rank)",
            ),
            "near": (
                self.browsed.dataset,
                "SELECT feature, rank, to_json(tokens) AS a, pre::DOUBLE AS pre FROM near",
                "PRIMARY KEY (feature, rank)",
            ),
            "sae": (
                self.browsed.sae,
                "SELECT feature, x::DOUBLE AS x, y::DOUBLE AS y, to_json(promotes) AS a, "
                "to_json(neighbours) AS b FROM features",
                "PRIMARY KEY (feature)",
            ),
            "explained": (
                self.browsed.explain,
                "SELECT feature, explanation, score FROM explained",
                "PRIMARY KEY (feature)",
            ),
        }
        for name, (run, sql, key) in tables.items():
            with duckdb.connect(_file(self.browsed, run), read_only=True) as source:
                columns = [c[0] for c in source.execute(f"{sql} LIMIT 0").description]
            con.execute(f"CREATE TABLE {name} ({', '.join(columns)}, {key}) WITHOUT ROWID")
            marks = ", ".join("?" * len(columns))
            for rows in self._rows(run, sql):
                con.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        con.execute("COMMIT")
        con.execute("ANALYZE")

    def _rows(self, run: str, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a table of our cache, a few at a time."""
        with duckdb.connect(_file(self.browsed, run), read_only=True) as con:
            answer = con.execute(sql)
            while rows := answer.fetchmany(200_000):
                yield rows

    def counts(self, run: str, threshold: float) -> np.ndarray:
        out = np.zeros((len(ROLES) + 1, self.browsed.n_features), np.int64)
        sql = (
            f"SELECT feature, role, count(*), sum(strongest) FROM activations_{self.side[run]} "
            f"WHERE peak > ? GROUP BY feature, role"
        )
        for feature, role, n, strongest in self.con.execute(sql, [float(np.float32(threshold))]):
            out[role, feature] = n
            out[-1, feature] += strongest
        return out

    def firing(self, run: str) -> np.ndarray:
        sql = f"SELECT n_samples FROM features_{self.side[run]} ORDER BY feature"
        return np.array([n for (n,) in self.con.execute(sql)])

    def page(self, sort: str, offset: int) -> tuple[list[int], list[str | None], int]:
        (total,) = self.con.execute(
            "SELECT count(*) FROM features_anchor WHERE n_samples > 0"
        ).fetchone()
        rows = self.con.execute(
            f"SELECT f.feature, t.explanation FROM (SELECT feature, {sort} FROM features_anchor "
            f"WHERE n_samples > 0 ORDER BY {sort} DESC, feature LIMIT ? OFFSET ?) f "
            f"LEFT JOIN explained t ON t.feature = f.feature ORDER BY f.{sort} DESC, f.feature",
            [PAGE, offset],
        ).fetchall()
        return [i for i, _ in rows], [text for _, text in rows], total

    def facts(self, run: str, features: list[int]) -> dict[int, tuple[int, float, str]]:
        sql = f"SELECT feature, n_samples, max_peak, label FROM features_{self.side[run]}"
        rows = self.con.execute(f"{sql} WHERE feature IN ({_marks(features)})", features)
        return {i: (n, peak, label) for i, n, peak, label in rows}

    def peaks(self, feature: int) -> np.ndarray:
        sql = "SELECT peak FROM activations_anchor WHERE feature = ? AND strongest"
        return np.array([peak for (peak,) in self.con.execute(sql, [feature])])

    def spans(self, feature: int) -> list[tuple[list[str], list[float]]]:
        sql = "SELECT a, b FROM spans WHERE feature = ? AND kind = 'top' ORDER BY rank"
        return [(json.loads(a), json.loads(b)) for a, b in self.con.execute(sql, [feature])]

    def near(self, features: list[int]) -> list[tuple[int, list[str], float]]:
        sql = f"SELECT feature, a, pre FROM near WHERE feature IN ({_marks(features)})"
        rows = self.con.execute(f"{sql} ORDER BY feature, rank", features)
        return [(i, json.loads(tokens), pre) for i, tokens, pre in rows]

    def lens(self, feature: int) -> tuple[list[str], list[int]]:
        sql = "SELECT a, b FROM sae WHERE feature = ?"
        promotes, neighbours = self.con.execute(sql, [feature]).fetchone()
        return json.loads(promotes), json.loads(neighbours)

    def points(self) -> np.ndarray:
        rows = self.con.execute("SELECT x, y FROM sae ORDER BY feature").fetchall()
        return np.array(rows, np.float32).T

    def explained(self, features: list[int]) -> dict[int, tuple[str, float]]:
        sql = "SELECT feature, explanation, score FROM explained"
        rows = self.con.execute(f"{sql} WHERE feature IN ({_marks(features)})", features)
        return {i: (text, score) for i, text, score in rows}


def _marks(values: list[int]) -> str:
    return ", ".join("?" * len(values))


def must_equal(ours: Any, theirs: Any, where: str) -> None:
    """Raises ValueError unless the two answers are the same; floats up to rounding."""
    if isinstance(ours, dict):
        for key in {*ours, *theirs}:
            must_equal(ours[key], theirs[key], f"{where}, {key}")
        return
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            raise ValueError(f"{where}: {len(ours)} entries, not {len(theirs)}")
        for mine, other in zip(ours, theirs, strict=True):
            must_equal(mine, other, where)
        return
    same = (
        np.allclose(ours, theirs, rtol=1e-5, equal_nan=True)
        if isinstance(ours, float | np.ndarray)
        else ours == theirs
    )
    if not same:
        raise ValueError(f"{where}: {ours!r} is not {theirs!r}")


def pages(browsed: Browsed, store: Any) -> dict[str, Callable[[np.random.Generator], Any]]:
    thresholds, n = browsed.cache.summary(browsed.anchor)["thresholds"], browsed.n_features

    def feature(rng: np.random.Generator) -> Any:
        return store.feature_page(
            int(rng.integers(n)), str(rng.choice(SORTS)), int(rng.integers(n - PAGE))
        )

    return {
        "gap page": lambda rng: store.gap_page(threshold(rng, thresholds)),
        "feature page": feature,
    }


def compared(browsed: Browsed, stores: list[Any], repeat: int, few: int) -> list[str]:
    """A table of medians, after every store has given the same answers as ours."""
    lines = ["| page | store | p50, ms | p95, ms | ours is faster by |", "|---|---|---|---|---|"]
    ours = Ours(browsed)
    for name, ask in pages(browsed, ours).items():
        mine = timed(ask, repeat, seed=1)
        lines.append(_line(name, "ours", mine, mine))
        for store in stores:
            note(f"{name}: {store.name}")
            theirs = pages(browsed, store)[name]
            for seed in range(2):
                draws = (np.random.default_rng(100 + seed) for _ in range(2))
                must_equal(ask(next(draws)), theirs(next(draws)), f"{name}, {store.name}")
            slow = timed(theirs, few, seed=1)
            lines.append(_line(name, store.name, slow, mine))
    return lines


def _line(page: str, store: str, took: np.ndarray, ours: np.ndarray) -> str:
    ratio = np.median(took) / np.median(ours)
    return (
        f"| {page} | {store} | {np.median(took):,.1f} | {np.quantile(took, 0.95):,.1f} | "
        f"{ratio:,.1f} |"
    )


def read_once(folder: Path) -> None:
    """Reads every file in it, so that what is timed is no store's luck with the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass


def note(words: str) -> None:
    print(f"{time.monotonic() - _begun:6.0f} s  {words}", file=sys.stderr, flush=True)


_begun = time.monotonic()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browse", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--workspace", type=Path, required=True)
    add_size(parser)
    parser.add_argument("--rebuild", action="store_true", help="build every cache anew")
    parser.add_argument("--repeat", type=int, default=40, help="of each query and of our pages")
    parser.add_argument("--few", type=int, default=5, help="repetitions of another store's pages")
    parser.add_argument(
        "--against", nargs="*", default=["pandas", "Parquet", "SQLite"], help="other stores"
    )
    parser.add_argument("--build", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    workspace = Workspace(args.workspace.resolve())
    if args.build:
        build_here(workspace, args.build)
        return
    ids = write(workspace, size_of(args), note)
    if built := build_all(workspace, ids, args.rebuild):
        print("\n".join(built), end="\n\n", flush=True)
    read_once(workspace.cache)
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        named = (ids[what] for what in ("anchor", "dataset", "sae", "explain"))
        browsed = Browsed(stores, *named)
        print("| page | query | p50, ms | p95, ms |\n|---|---|---|---|")
        for question in questions(browsed):
            took = timed(question.ask, args.repeat, seed=0)
            print(
                f"| {question.page} | {question.name} | {np.median(took):.2f} | "
                f"{np.quantile(took, 0.95):.2f} |",
                flush=True,
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        note(f"peak RSS of this process so far {peak:,.0f} MiB")
        makers: dict[str, Callable[[], Peer]] = {
            "pandas": lambda: Pandas(browsed),
            "Parquet": lambda: Parquet(browsed),
            "SQLite": lambda: SQLite(browsed, workspace.root / "peer.sqlite"),
        }
        if args.against:
            peers = [makers[name]() for name in args.against]
            read_once(workspace.root)
            print("\n" + "\n".join(compared(browsed, peers, args.repeat, args.few)))


if __name__ == "__main__":
    main()
