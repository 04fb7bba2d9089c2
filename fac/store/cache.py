"""The cache: one DuckDB file per run, derived from its parquet, written once and only read after.

`build` writes cache/<run id>.duckdb under another name and renames it; `Cache` attaches such files
read-only and answers what pages and commands ask. The run id is the version, so nothing is ever
invalidated; a file may be deleted any day and built again. The only DuckDB code.

Texts that are searched have a `folded` form, in lower case, beside them.

Tables of a measure run, sorted by feature so that one feature's rows lie together:
    activations  every stored peak; `strongest` marks the row of the loudest role of its sample,
                 so that "samples, whatever the role" is a plain count
    features     one row per feature of the dictionary, silent ones included
    ladder       samples above each of `rungs`, per role and feature: the thresholds that pages
                 offer, and finer ones between them where many peaks lie
    by_peak      the same peaks sorted by peak: those between two rungs lie together
    spans, near, samples, meta
Tables of an SAE run: features, meta.
Tables of an explain run: explanations, scores and examples as the run has them; `explained`, the
    features that have a text, with the score that is shown beside it; meta.
Tables of a relevance run: relevance, meta.
Tables of a pairs, a rescore and a synthetic run: pairs, candidates, hits and verdicts as the run
    has them, empty where it has none; meta.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.errors import InputError, disk_full, disk_room
from fac.schema import CANDIDATES, EVERY_ROLE, HITS, PAIRS, RELEVANT, ROLES, VERDICTS
from fac.store.memo import Memo, remembered
from fac.store.runs import Runs, is_run_id, lock_file

T = TypeVar("T")

SQL_VERSION = 2
"""Of the tables below. A cache with another number is not ready, and building replaces it."""

MAX_RUNGS = 24
PEAKS_PER_RUNG = 250_000
"""Between two rungs of a large run; what a count at any other threshold reads at most."""

CELLS_PER_E = 500
"""Of the histogram from which finer rungs are chosen: peaks of one cell differ by 0.2 %."""

LADDER_CELLS = 2**24
"""Rungs times features that finer rungs may lead to: in memory, while building, 16 bytes each."""

BLOCK_BYTES = 65536
"""Of a file, read and checked at once: with DuckDB's own 256 kB, one feature's rows are a small
part of what is read for them."""

HISTOGRAM_BINS = 30
ROWS_PER_BLOCK = 2_000_000
"""Activations in memory at once while building; a feature is never split."""

ROLE_CODES = {**{role: code for code, role in enumerate(ROLES)}, EVERY_ROLE: len(ROLES)}
"""How roles are stored: the index into ROLES; one more for a sample's strongest role."""

SORTABLE = (
    "feature",
    "label",
    "n_samples",
    *(f"n_{role}" for role in ROLES),
    "n_tokens",
    "max_peak",
    "mean_peak",
    "density",
    "score",
)
SORTED_BY = {"density": "n_samples"}
"""Columns that rise with another, by which the table is sorted."""

SHOWN = ("all", "alive", "silent")

SPAN_KINDS = {None: "('top', 'spread')", "top": "('top')", "spread": "('spread')"}
"""The kinds of span that are asked for, in SQL."""

PAIR_SORTS = ("feature", "positive_peak", "negative_peak", "margin")
CANDIDATE_SORTS = ("candidate", "feature", "peak", "rank", "tokens", "n_hits")
CANDIDATES_SHOWN = ("all", "kept", "dropped")

QUIET = "SET enable_progress_bar = false"
"""DuckDB would draw one on standard output, in the middle of a command's JSON."""

SHOWN_SCORES = ("auroc", "detection")
"""The score beside an explanation: the first of these that it has, of the same run."""

# ---- building -----------------------------------------------------------------------------------

CREATE_MEASURE = """
    CREATE TABLE meta (version INTEGER, run VARCHAR, step VARCHAR, summary VARCHAR);
    CREATE TABLE activations (
        feature INTEGER NOT NULL, peak FLOAT NOT NULL, sample INTEGER NOT NULL,
        role UTINYINT NOT NULL, position INTEGER NOT NULL, n_tokens INTEGER NOT NULL,
        strongest BOOLEAN NOT NULL);
    CREATE TABLE features (
        feature INTEGER, label VARCHAR, n_samples INTEGER, n_system INTEGER, n_user INTEGER,
        n_assistant INTEGER, n_tokens BIGINT, max_peak FLOAT, peak_system FLOAT, peak_user FLOAT,
        peak_assistant FLOAT, mean_peak DOUBLE, folded VARCHAR);
    CREATE TABLE rungs (rung INTEGER, threshold FLOAT);
    CREATE TABLE ladder (rung INTEGER, role UTINYINT, feature INTEGER, n INTEGER);
"""

CREATE_META = "CREATE TABLE meta (version INTEGER, run VARCHAR, step VARCHAR, summary VARCHAR)"

INSERT_META = "INSERT INTO meta VALUES ($version, $run, $step, $summary)"

PEAK_RANGE = """
    SELECT min(peak), max(peak), min(feature), max(feature), bool_and(isfinite(peak))
    FROM read_parquet($path)
"""

# Cells of equal ratio: a peak lies in the cell whose number is the floor of its scaled logarithm.
PEAKS_PER_CELL = """
    SELECT floor(ln(peak) * $scale)::INTEGER AS cell, count(*) AS n FROM read_parquet($path)
    GROUP BY cell ORDER BY cell
"""

ROWS_PER_FEATURE = "SELECT feature, count(*) AS n FROM read_parquet($path) GROUP BY feature"

CREATE_BLOCK = """
    CREATE OR REPLACE TEMP TABLE block AS
    SELECT *, row_number() OVER (PARTITION BY feature, sample ORDER BY peak DESC, role) = 1
              AS strongest
    FROM (
        SELECT feature, peak, sample, (list_position($roles, role) - 1)::UTINYINT AS role,
               position, n_tokens
        FROM read_parquet($path)
        WHERE feature >= $first AND feature < $beyond)
"""

# `who` is 8 feature + 2 role + strongest: one number sorts and groups faster than three.
CREATE_BY_PEAK = """
    CREATE TABLE by_peak AS
    SELECT peak, feature::BIGINT * 8 + role * 2 + strongest::INTEGER AS who FROM activations
    ORDER BY peak, who
"""

INSERT_ACTIVATIONS = """
    INSERT INTO activations
    SELECT feature, peak, sample, role, position, n_tokens, strongest
    FROM block ORDER BY feature, peak DESC, sample, role
"""

# Sums are of whole numbers: addition of floats in the order of threads would not repeat exactly.
INSERT_FEATURES = """
    INSERT INTO features
    SELECT f.feature, coalesce(l.label, ''), coalesce(b.n_samples, 0), coalesce(b.n_system, 0),
           coalesce(b.n_user, 0), coalesce(b.n_assistant, 0), coalesce(b.n_tokens, 0),
           coalesce(b.max_peak, 0), coalesce(b.peak_system, 0), coalesce(b.peak_user, 0),
           coalesce(b.peak_assistant, 0), coalesce(b.mean_peak, 0), lower(coalesce(l.label, ''))
    FROM (SELECT range::INTEGER AS feature FROM range($first, $beyond)) f
    LEFT JOIN (
        SELECT feature,
               count(*) FILTER (strongest) AS n_samples,
               count(*) FILTER (role = 0) AS n_system,
               count(*) FILTER (role = 1) AS n_user,
               count(*) FILTER (role = 2) AS n_assistant,
               sum(n_tokens) AS n_tokens,
               max(peak) AS max_peak,
               max(peak) FILTER (role = 0) AS peak_system,
               max(peak) FILTER (role = 1) AS peak_user,
               max(peak) FILTER (role = 2) AS peak_assistant,
               sum((peak::DOUBLE * $scale)::BIGINT) FILTER (strongest) / $scale
                   / count(*) FILTER (strongest) AS mean_peak
        FROM block GROUP BY feature) b USING (feature)
    LEFT JOIN labels l USING (feature)
    ORDER BY f.feature
"""


PEAKS_OF_BLOCK = "SELECT feature, role, strongest, peak FROM block"

INSERT_STEPS = "INSERT INTO rungs SELECT rung, threshold FROM counted"
INSERT_RUNGS = "INSERT INTO ladder SELECT rung, role, feature, n FROM counted"

# A newline or a space is the whole peak token of some features: shown by a sign, not by nothing.
CREATE_LABELS = """
    CREATE TEMP TABLE labels AS
    WITH peaks AS (
        SELECT feature, peak, rank, tokens[peak_index + 1] AS token FROM spans WHERE kind = 'top'
    ), shown AS (
        SELECT feature, peak, rank,
               CASE WHEN regexp_full_match(token, '\\s*\\n\\s*') THEN '↵'
                    WHEN regexp_full_match(token, '[\\s\\p{Z}]+') THEN '␣'
                    ELSE regexp_replace(token, '^[\\s\\p{Z}]+|[\\s\\p{Z}]+$', '', 'g') END AS token
        FROM peaks
    ), grouped AS (
        SELECT feature, min_by(token, rank) AS token, lower(token) AS folded,
               list_sum(list(peak::DOUBLE ORDER BY peak)) AS weight
        FROM shown WHERE token <> '' GROUP BY feature, lower(token)
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY feature ORDER BY weight DESC, folded) AS place
        FROM grouped
    )
    SELECT feature, string_agg(token, ' · ' ORDER BY place) AS label
    FROM ranked WHERE place <= 3 GROUP BY feature
"""

CREATE_SPANS = """
    CREATE TABLE spans AS
    SELECT * FROM read_parquet($path) ORDER BY feature, kind DESC, rank
"""

CREATE_NEAR = "CREATE TABLE near AS SELECT * FROM read_parquet($path) ORDER BY feature, rank"

CREATE_SAMPLES = """
    CREATE TABLE samples AS
    SELECT s.file_row_number::INTEGER AS sample, s.sample_id, s.messages, s.label,
           coalesce(t.n_tokens, 0) AS n_tokens, coalesce(t.n_content, 0) AS n_content,
           coalesce(t.n_cut, 0) AS n_cut,
           lower(concat_ws(chr(10), array_to_string([m.content for m in s.messages], chr(10)),
                           s.label)) AS folded
    FROM read_parquet($samples, file_row_number = true) s
    LEFT JOIN read_parquet($tokens) t ON t.sample = s.file_row_number
    ORDER BY 1
"""

CREATE_EXPLANATIONS = """
    CREATE TABLE explanations AS SELECT * FROM read_parquet($path) ORDER BY feature
"""

# A number that is none is unknown: in a table of arrays it is easily written as NaN.
CREATE_SCORES = """
    CREATE TABLE scores AS
    SELECT * REPLACE (nullif(value, 'nan') AS value, nullif(low, 'nan') AS low,
                      nullif(high, 'nan') AS high)
    FROM read_parquet($path) ORDER BY feature, score
"""

CREATE_EXAMPLES = """
    CREATE TABLE examples AS SELECT * FROM read_parquet($path) ORDER BY feature, number
"""

CREATE_EXPLAINED = """
    CREATE TABLE explained AS
    SELECT e.feature, e.text AS explanation, e.explainer, s.value AS score, s.score AS score_kind,
           lower(e.text) AS folded
    FROM explanations e LEFT JOIN (
        SELECT * FROM scores WHERE list_contains($shown, score)
        QUALIFY row_number() OVER (
            PARTITION BY feature ORDER BY value IS NULL, list_position($shown, score)) = 1
    ) s USING (feature)
    WHERE e.text IS NOT NULL ORDER BY e.feature
"""

CREATE_RELEVANCE = """
    CREATE TABLE relevance AS
    SELECT * REPLACE (nullif(effect, 'nan') AS effect, nullif(p, 'nan') AS p,
                      nullif(q, 'nan') AS q)
    FROM read_parquet($path) ORDER BY feature
"""

CREATE_MAKING = {
    "pairs": "CREATE TABLE pairs AS SELECT * FROM {source} ORDER BY feature",
    "candidates": "CREATE TABLE candidates AS SELECT * FROM {source} ORDER BY candidate",
    "hits": """
        CREATE TABLE hits AS
        SELECT * REPLACE (role::VARCHAR AS role) FROM {source}
        ORDER BY candidate, peak DESC, feature
    """,
    "verdicts": "CREATE TABLE verdicts AS SELECT * FROM {source} ORDER BY candidate",
}

MAKING = {"pairs": PAIRS, "candidates": CANDIDATES, "hits": HITS, "verdicts": VERDICTS}

# Rows about the same thing would be shown, and counted, twice.
TOLD_TWICE = {
    "explanations": "SELECT count(*) - count(DISTINCT feature) FROM explanations",
    "scores": "SELECT count(*) - count(DISTINCT (feature, score)) FROM scores",
    "examples": "SELECT count(*) - count(DISTINCT (feature, number)) FROM examples",
    "relevance": "SELECT count(*) - count(DISTINCT feature) FROM relevance",
    "pairs": "SELECT count(*) - count(DISTINCT feature) FROM pairs",
    "candidates": "SELECT count(*) - count(DISTINCT candidate) FROM candidates",
    "hits": "SELECT count(*) - count(DISTINCT (candidate, feature)) FROM hits",
    "verdicts": "SELECT count(*) - count(DISTINCT candidate) FROM verdicts",
}

COUNT_ALIVE = "SELECT count(*) FROM features WHERE n_samples > 0"

CREATE_SAE_FEATURES = """
    CREATE TABLE features AS
    SELECT *, lower(array_to_string(promotes, ' ')) AS folded FROM read_parquet($path)
    ORDER BY feature
"""


def build(runs: Runs, run_id: str, folder: Path, *, memory_limit: str = "2GB") -> Path:
    """Writes the cache of a run of a step in CACHED, replacing any older one; returns its path.

    Reads parquet in blocks of features under `memory_limit`, spilling inside `folder`, so memory
    does not grow with the run. The same run gives the same tables. Raises InputError for a run
    without a cache, damaged tables and a full disk; an older cache then stays.
    """
    manifest = runs.manifest(run_id)
    fill = _FILL.get(manifest["step"])
    if fill is None:
        raise InputError(
            f"Run {run_id} has no cache: only {', '.join(CACHED[:-1])} and {CACHED[-1]} runs have "
            f"one, this is a {manifest['step']} run."
        )
    partial, spill = folder / f"{run_id}.duckdb.tmp", folder / f".spill-{run_id}"
    busy = f"The cache of {run_id} is already being built by process"
    with disk_room(f"the cache of {run_id}"):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_file(folder / f".lock-{run_id}", busy):
            try:
                _remove(partial, spill)
                how: dict[str, Any] = {
                    "memory_limit": memory_limit,
                    "default_block_size": BLOCK_BYTES,
                }
                with duckdb.connect(str(partial), config=how) as con:
                    con.execute(QUIET)
                    con.execute(f"SET temp_directory = {_quoted(str(spill))}")
                    fill(con, runs, manifest)
                    con.execute("CHECKPOINT")
                return partial.rename(folder / f"{run_id}.duckdb")
            except duckdb.Error as error:
                if "No space left on device" in str(error):
                    raise InputError(disk_full(f"the cache of {run_id}")) from error
                _blame_damaged_tables(runs, manifest, error)
                raise
            finally:
                _remove(partial, spill)


def _blame_damaged_tables(runs: Runs, manifest: dict[str, Any], error: duckdb.Error) -> None:
    """Raises InputError if a table that was read is not the one its run promised."""
    for run in (manifest["run"], *manifest["inputs"]):
        if runs.find(run) and (spoilt := runs.verify(run)):
            raise InputError(
                f"Run {run} is damaged ({', '.join(spoilt)} changed since it was written): "
                f"delete the folder {runs.path(run)} and compute it again."
            ) from error


def _remove(partial: Path, spill: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_name(partial.name + ".wal").unlink(missing_ok=True)
    shutil.rmtree(spill, ignore_errors=True)


def _fill_sae(con: duckdb.DuckDBPyConnection, runs: Runs, manifest: dict[str, Any]) -> None:
    con.execute(CREATE_META)
    con.execute(CREATE_SAE_FEATURES, {"path": _parquet(runs, manifest["run"], "features")})
    _write_meta(con, manifest, {})


def _fill_measure(con: duckdb.DuckDBPyConnection, runs: Runs, manifest: dict[str, Any]) -> None:
    run, facts = manifest["run"], manifest["facts"]
    path = _parquet(runs, run, "activations")
    n_features = facts["n_features"]
    low, high, first, last, finite = _row(con, PEAK_RANGE, path=path)
    floor = manifest["spec"].get("floor", 0.0)
    if finite is not None and not (
        finite and low > _single(floor) and first >= 0 and last < n_features
    ):
        raise InputError(
            f"The activations of run {run} are damaged: peaks must be finite and above the floor "
            f"{floor:g}, features below {n_features}; delete the run's folder and measure again."
        )
    thresholds = rungs(floor, low, high)
    con.execute(CREATE_MEASURE)
    con.execute(CREATE_SPANS, {"path": _parquet(runs, run, "spans")})
    con.execute(CREATE_NEAR, {"path": _parquet(runs, run, "near")})
    samples, tokens = (
        _parquet(runs, facts["dataset"], "samples"),
        _parquet(runs, run, "sample_tokens"),
    )
    con.execute(CREATE_SAMPLES, {"samples": samples, "tokens": tokens})
    con.execute(CREATE_LABELS)
    steps = _finer(con, path, thresholds, high, n_features)
    counts = np.zeros((len(steps), len(ROLE_CODES), n_features), np.int32)
    for begin, end in _blocks(con, path, n_features):
        bounds = {"first": begin, "beyond": end}
        con.execute(CREATE_BLOCK, {**bounds, "path": path, "roles": [*ROLES]})
        con.execute(INSERT_ACTIVATIONS)
        _count_above(con, steps, counts[:, :, begin:end], begin)
        con.execute(INSERT_FEATURES, {**bounds, "scale": whole_scale(high)})
    _write_ladder(con, steps, counts)
    con.execute(CREATE_BY_PEAK)
    (n_alive,) = _row(con, COUNT_ALIVE)
    derived = {
        "n_alive": n_alive,
        "max_peak": high or 0.0,
        "floor": floor,
        "thresholds": thresholds,
    }
    _write_meta(con, manifest, derived)


def _fill_explain(con: duckdb.DuckDBPyConnection, runs: Runs, manifest: dict[str, Any]) -> None:
    run = manifest["run"]
    con.execute(CREATE_META)
    con.execute(CREATE_EXPLANATIONS, {"path": _parquet(runs, run, "explanations")})
    con.execute(CREATE_SCORES, {"path": _parquet(runs, run, "scores")})
    con.execute(CREATE_EXAMPLES, {"path": _parquet(runs, run, "examples")})
    for table in ("explanations", "scores", "examples"):
        _each_once(con, run, table)
    con.execute(CREATE_EXPLAINED, {"shown": [*SHOWN_SCORES]})
    _write_meta(con, manifest, {"measure": manifest["inputs"][0]})


def _fill_relevance(con: duckdb.DuckDBPyConnection, runs: Runs, manifest: dict[str, Any]) -> None:
    con.execute(CREATE_META)
    con.execute(CREATE_RELEVANCE, {"path": _parquet(runs, manifest["run"], "relevance")})
    _each_once(con, manifest["run"], "relevance")
    _write_meta(con, manifest, {"measure": manifest["inputs"][0]})


def _fill_making(con: duckdb.DuckDBPyConnection, runs: Runs, manifest: dict[str, Any]) -> None:
    run = manifest["run"]
    con.execute(CREATE_META)
    for table, create in CREATE_MAKING.items():
        if f"{table}.parquet" in manifest["files"]:
            con.execute(
                create.format(source="read_parquet($path)"), {"path": _parquet(runs, run, table)}
            )
        else:
            con.register("nothing", MAKING[table].empty_table())
            con.execute(create.format(source="nothing"))
            con.unregister("nothing")
        _each_once(con, run, table)
    _write_meta(con, manifest, {"inputs": manifest["inputs"]})


def _each_once(con: duckdb.DuckDBPyConnection, run: str, table: str) -> None:
    (n_double,) = _row(con, TOLD_TWICE[table])
    if n_double:
        raise InputError(
            f"The table {table} of run {run} has {n_double:,} rows about what another row already "
            f"tells: delete the run's folder and compute it again."
        )


_FILL = {
    "sae": _fill_sae,
    "measure": _fill_measure,
    "explain": _fill_explain,
    "relevance": _fill_relevance,
    "pairs": _fill_making,
    "rescore": _fill_making,
    "synthetic": _fill_making,
}

CACHED = tuple(_FILL)
"""The steps whose runs have a cache."""


def whole_scale(high: float | None) -> float:
    """A power of two by which peaks up to `high` become whole numbers of at most 62 bits; a
    float32 loses nothing unless it is below 2**-38 of `high`."""
    return math.ldexp(1.0, 62 - math.frexp(high or 1.0)[1])


def rungs(floor: float, low: float | None, high: float | None) -> list[float]:
    """The ladder: the floor, then round numbers between the smallest and the largest peak.

    The finest of the series with 24, 12, 6 or 3 equal ratios per decade (the preferred numbers of
    engineering) that stays within MAX_RUNGS rungs, over at most four decades. The numbers do not
    depend on the run, so two runs of one SAE share rungs and their curve needs no scan.
    """
    if low is None or high is None:
        return [floor]
    low = max(low, high * 1e-4, floor)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for stride in (1, 2, 4, 8):
        steps = [float(f"{step}e{decade}") for decade in decades for step in E24[::stride]]
        inside = [step for step in steps if low < step < high]
        if len(inside) < MAX_RUNGS:
            break
    return [floor, *inside]


def _finer(
    con: duckdb.DuckDBPyConnection,
    path: str,
    thresholds: list[float],
    high: float | None,
    n_features: int,
) -> np.ndarray:
    """The thresholds as float32, ascending, and others between them wherever more than
    about PEAKS_PER_RUNG peaks would lie between two."""
    coarse = np.array(thresholds, np.float32)
    most = LADDER_CELLS // n_features
    if high is None or len(coarse) >= most:
        return coarse
    found = con.execute(PEAKS_PER_CELL, {"path": path, "scale": CELLS_PER_E}).fetchnumpy()
    # The upper edge of a cell, as a peak could be: what is exact is the comparison with it.
    edge = np.exp((found["cell"] + 1) / CELLS_PER_E).astype(np.float32)
    rung = np.searchsorted(coarse, edge)
    steps, below, last = [], 0, -1
    for i, n in enumerate(found["n"].tolist()):
        if rung[i] != last:
            last, below = rung[i], 0
        elif below + n > PEAKS_PER_RUNG:
            steps.append(edge[i - 1])
            below = 0
        below += n
    if len(coarse) + len(steps) > most:
        steps = steps[:: -(-len(steps) // (most - len(coarse)))]
    return np.unique(np.concatenate([coarse, np.array(steps, np.float32)]))


def _count_above(
    con: duckdb.DuckDBPyConnection, steps: np.ndarray, counts: np.ndarray, first: int
) -> None:
    """Fills int32 `[rungs, roles, features of the block]`: the samples above each rung, for each
    role and for the strongest of all."""
    block = con.execute(PEAKS_OF_BLOCK).fetchnumpy()
    n_steps, _, n_features = counts.shape
    # A peak is above every rung before this one, and on none of those that follow.
    passed = np.searchsorted(steps, block["peak"], side="left")
    cell = (block["feature"] - first) * (n_steps + 1) + passed
    for code in range(len(ROLES) + 1):
        mine = block["strongest"] if code == len(ROLES) else block["role"] == code
        at = np.bincount(cell[mine], minlength=n_features * (n_steps + 1))
        rising = at.reshape(n_features, n_steps + 1)[:, ::-1].cumsum(axis=1)
        counts[:, code] = rising[:, -2::-1].T


def _write_ladder(con: duckdb.DuckDBPyConnection, steps: np.ndarray, counts: np.ndarray) -> None:
    n_steps, n_roles, n_features = counts.shape
    steps_told = pa.table({"rung": np.arange(n_steps, dtype=np.int32), "threshold": steps})
    _insert(con, INSERT_STEPS, steps_told)
    role = np.repeat(np.arange(n_roles, dtype=np.uint8), n_features)
    feature = np.tile(np.arange(n_features, dtype=np.int32), n_roles)
    together = max(1, ROWS_PER_BLOCK // len(role))
    for first in range(0, n_steps, together):
        above = counts[first : first + together]
        rung = np.repeat(np.arange(first, first + len(above), dtype=np.int32), len(role))
        table = {
            "rung": rung,
            "role": np.tile(role, len(above)),
            "feature": np.tile(feature, len(above)),
            "n": above.ravel(),
        }
        _insert(con, INSERT_RUNGS, pa.table(table))


def _insert(con: duckdb.DuckDBPyConnection, sql: str, rows: pa.Table) -> None:
    """Carries out an INSERT that reads the rows as `counted`."""
    con.register("counted", rows)
    con.execute(sql)
    con.unregister("counted")


E24 = (
    *(1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0),
    *(3.3, 3.6, 3.9, 4.3, 4.7, 5.1, 5.6, 6.2, 6.8, 7.5, 8.2, 9.1),
)


def _blocks(
    con: duckdb.DuckDBPyConnection, path: str, n_features: int
) -> Iterator[tuple[int, int]]:
    """Ranges of features that together are all of them, each of about ROWS_PER_BLOCK rows."""
    found = con.execute(ROWS_PER_FEATURE, {"path": path}).fetchnumpy()
    per_feature = np.zeros(n_features, np.int64)
    per_feature[found["feature"]] = found["n"]
    block = np.cumsum(per_feature) // ROWS_PER_BLOCK
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), n_features]
    return zip(edges[:-1], edges[1:], strict=True)


def _write_meta(
    con: duckdb.DuckDBPyConnection, manifest: dict[str, Any], derived: dict[str, Any]
) -> None:
    summary = {**manifest["facts"], "run": manifest["run"], **derived}
    con.execute(
        INSERT_META,
        {
            "version": SQL_VERSION,
            "run": manifest["run"],
            "step": manifest["step"],
            "summary": json.dumps(summary, ensure_ascii=True),
        },
    )


def _parquet(runs: Runs, run_id: str, name: str) -> str:
    runs.manifest(run_id)  # says so in a sentence where the run is gone
    return str(runs.path(run_id) / f"{name}.parquet")


# ---- reading ------------------------------------------------------------------------------------

META = "SELECT version, run, step, summary FROM {run}.meta"

FILE_HEADERS = 3 * 4096
"""Bytes before the first block of a DuckDB file."""

BYTES_NEEDED = """
    SELECT block_size * total_blocks FROM pragma_database_size() WHERE database_name = $alias
"""

# Rows come in the order in which they were inserted: to sort them again would take longer.
SUPPORT_AT_RUNG = "SELECT n FROM {run}.ladder WHERE rung = $rung"

SUPPORT_BETWEEN = """
    SELECT who FROM {run}.by_peak WHERE peak > $threshold::FLOAT AND peak <= $upper::FLOAT
"""

# Small enough to stay in memory once asked for. All but the rungs are in feature order.
WHOLE = {
    "rungs": "SELECT threshold FROM {run}.rungs ORDER BY rung",
    "features": """
        SELECT feature, label, n_samples, n_user, n_assistant, n_system, n_tokens, max_peak,
               mean_peak, peak_system, peak_user, peak_assistant
        FROM {run}.features ORDER BY feature
    """,
    "near": "SELECT feature, pre FROM {run}.near WHERE rank = 0 ORDER BY feature",
    "dictionary": """
        SELECT feature, threshold, x, y, promotes, suppresses, neighbours, cosines
        FROM {run}.features ORDER BY feature
    """,
    "explained": """
        SELECT feature, explanation, explainer, score, score_kind FROM {run}.explained
        ORDER BY feature
    """,
    "explanations": """
        SELECT feature, explainer, text, status, reason, source, prompt_hash, inputs
        FROM {run}.explanations ORDER BY feature
    """,
    "scores": """
        SELECT feature, score, value, low, high, n, n_positive, n_unreadable FROM {run}.scores
        ORDER BY feature, score
    """,
    "relevance": """
        SELECT feature, level, rationale, effect, p, q, n_with, n_without, prompt_hash
        FROM {run}.relevance ORDER BY feature
    """,
}

EXPLAINED = {
    "explanation": pa.string(),
    "explainer": pa.string(),
    "score": pa.float64(),
    "score_kind": pa.string(),
}

FEATURES_FOUND = """
    SELECT feature FROM {run}.features
    WHERE feature = $number OR contains(folded, lower($text)) {also_in}
"""

EXPLAINED_BY = "SELECT feature, folded FROM {run}.explained WHERE true"

UNLESS_BY = " AND feature NOT IN (SELECT feature FROM {run}.explained)"

ALSO_IN = " OR feature IN (SELECT feature FROM {place} WHERE contains(folded, lower($text)))"

# Spans and near misses lie in the order in which they are shown.
SPANS_OF = """
    SELECT kind, rank, quantile, sample, role, position, peak, peak_index, tokens, activations
    FROM {run}.spans WHERE feature = {feature} AND kind IN {kinds}
"""

NEAR_OF = """
    SELECT rank, sample, role, position, pre, peak_index, tokens
    FROM {run}.near WHERE feature = {feature}
"""

PEAKS_OF = "SELECT peak FROM {run}.activations WHERE feature = {feature} AND strongest"

ROWS = """
    SELECT sample, role, peak, position, n_tokens FROM {run}.activations
    WHERE feature = $feature AND peak > $threshold::FLOAT AND {rows_of_role}
    ORDER BY peak DESC, sample LIMIT $limit OFFSET $offset
"""

ROWS_MATCHING = """
    SELECT count(*) FROM {run}.activations
    WHERE feature = $feature AND peak > $threshold::FLOAT AND {rows_of_role}
"""

SAMPLE_COLUMNS = """
    SELECT sample, sample_id, messages, label, n_tokens, n_content, n_cut FROM {run}.samples
"""

ONE_SAMPLE = SAMPLE_COLUMNS + "WHERE sample = $row"

SAMPLES_WANTED = """
    SELECT sample FROM {run}.samples WHERE $text IS NULL OR contains(folded, lower($text))
    ORDER BY sample
"""

SOME_SAMPLES = SAMPLE_COLUMNS + "WHERE sample IN (SELECT unnest($rows)) ORDER BY sample"

COUNT_STATUSES = "SELECT status, count(*) FROM {run}.explanations GROUP BY status ORDER BY status"

SUMMARISE_SCORES = """
    SELECT score, count(value) AS n, count(*) - count(value) AS n_undefined,
           quantile_cont(value, 0.25) AS low_quartile, median(value) AS median,
           quantile_cont(value, 0.75) AS high_quartile, sum(n)::BIGINT AS n_examples,
           sum(n_unreadable)::BIGINT AS n_unreadable
    FROM {run}.scores GROUP BY score ORDER BY score
"""

SOURCES_OF = "SELECT DISTINCT source_feature FROM {run}.examples WHERE feature = $feature"

# One part a feature, because only an equality keeps DuckDB from reading the lists of all spans.
SPANS_OF_ONE = """
    SELECT feature, kind, rank, tokens, activations, peak_index, sample, role
    FROM {measure}.spans WHERE feature = {feature}
"""

# The activations of a span belong to the feature it was kept for: a negative shows none of them.
EXAMPLES_OF = """
    SELECT e.number, s.tokens,
           CASE WHEN e.positive THEN s.activations ELSE [0.0::FLOAT FOR t IN s.tokens] END
               AS activations,
           s.peak_index, s.sample, s.role, e.positive, e.hard, e.detected, e.fuzzed, e.fuzz_right,
           e.source_feature, e.source_kind, e.source_rank
    FROM {run}.examples e LEFT JOIN ({spans}) s
      ON s.feature = e.source_feature AND s.kind = e.source_kind AND s.rank = e.source_rank
    WHERE e.feature = $feature ORDER BY e.number
"""

COUNT_LEVELS = "SELECT level, count(*) FROM {run}.relevance GROUP BY level ORDER BY level"

RELEVANT_FEATURES = """
    SELECT feature FROM {run}.relevance WHERE list_contains($levels, level) ORDER BY feature
"""

PAIRS_WANTED = """
    FROM {run}.pairs
    WHERE ($status IS NULL OR status = $status)
      AND ($features IS NULL OR feature IN (SELECT unnest($features)))
      AND ($above IS NULL OR positive_peak > $above::FLOAT)
      AND (($text IS NULL AND $number IS NULL) OR feature = $number
           OR contains(lower(array_to_string([m.content for m in positive], chr(10))),
                       lower($text))
           OR contains(lower(array_to_string([m.content for m in negative], chr(10))),
                       lower($text)))
"""

PAIRS_PAGE = (
    "SELECT *, positive_peak - negative_peak AS margin"
    + PAIRS_WANTED
    + "ORDER BY {sort} {direction} NULLS LAST, feature LIMIT $limit OFFSET $offset"
)

PAIRS_MATCHING = "SELECT count(*)" + PAIRS_WANTED

ONE_PAIR = "SELECT *, positive_peak - negative_peak AS margin FROM {run}.pairs WHERE pair = $pair"

COUNT_PAIRS = """
    SELECT status, reason, count(*) FROM {run}.pairs GROUP BY ALL ORDER BY count(*) DESC, reason
"""

# Step 1 gives no verdicts: there a candidate's peak is its own gap's hit.
CANDIDATES_JOINED = """
    SELECT c.*, coalesce(v.peak, o.peak, 0) AS peak, v.kept,
           coalesce(v.reason, c.problem) AS reason, coalesce(v.rank, -1) AS rank,
           coalesce(v.gains, []) AS gains, coalesce(n.n, 0) AS n_hits
    FROM {run}.candidates c
    LEFT JOIN {run}.verdicts v USING (candidate)
    LEFT JOIN {run}.hits o ON o.candidate = c.candidate AND o.feature = c.feature
    LEFT JOIN (SELECT candidate, count(*) AS n FROM {run}.hits GROUP BY candidate) n
           ON n.candidate = c.candidate
"""

CANDIDATES_WANTED = (
    " FROM ("
    + CANDIDATES_JOINED
    + """)
    WHERE ($feature IS NULL OR feature = $feature) AND ($pair IS NULL OR pair = $pair)
      AND ($reason IS NULL OR reason = $reason)
      AND ($only = 'all' OR kept = ($only = 'kept'))
      AND ($text IS NULL
           OR contains(lower(array_to_string([m.content for m in messages], chr(10))),
                       lower($text)))
"""
)

CANDIDATES_PAGE = (
    "SELECT *"
    + CANDIDATES_WANTED
    + "ORDER BY {sort} {direction}, candidate LIMIT $limit OFFSET $offset"
)

CANDIDATES_MATCHING = "SELECT count(*)" + CANDIDATES_WANTED

ONE_CANDIDATE = CANDIDATES_JOINED + "WHERE c.candidate = $candidate"

HITS_OF = """
    SELECT feature, peak, role, position FROM {run}.hits
    WHERE candidate = $candidate ORDER BY peak DESC, feature
"""

COUNT_VERDICTS = """
    SELECT kept, reason, count(*) FROM {run}.verdicts GROUP BY ALL ORDER BY count(*) DESC, reason
"""


class NotReady(InputError):
    """A run whose cache is missing, damaged or of another version; building it helps."""

    def __init__(self, run: str, why: str):
        super().__init__(f"Run {run} cannot be shown, {why}: build it with `fac cache rebuild`.")


class Cache:
    """Reads the caches of a folder; one per process is enough, and threads may share it.

    One in-memory DuckDB to which each file is attached, read-only, when first asked for. Every call
    takes its own cursor and fetches its result to the end: a connection shared by threads mixes
    their results up, and results are otherwise read lazily. After opening, DuckDB may touch no file
    outside the folder and no setting can change; `allowed_directories` is what keeps later ATTACHes
    possible once external access is off.
    """

    def __init__(self, folder: Path, *, memory_limit: str = "1GB", memo: Memo | None = None):
        self.folder = folder.resolve()
        self.memo = memo
        self._tables = memo or Memo()
        self._turn = threading.Condition()
        self._attached: dict[str, _File] = {}
        self._readers: Counter[str] = Counter()
        self._con = duckdb.connect(":memory:", config={"memory_limit": memory_limit})
        self._con.execute(QUIET)
        self._con.execute("SET autoinstall_known_extensions = false")
        self._con.execute("SET autoload_known_extensions = false")
        self._con.execute(f"SET allowed_directories = [{_quoted(f'{self.folder}/')}]")
        self._con.execute("SET enable_external_access = false")
        self._con.execute("SET lock_configuration = true")

    def close(self) -> None:
        self._con.close()

    # ---- what there is

    @remembered
    def ready(self, run: str) -> bool:
        """Whether the run's cache exists, is whole and has this version's tables."""
        try:
            with self._reading(run):
                return True
        except NotReady:
            return False

    @remembered
    def summary(self, run: str) -> dict[str, Any]:
        """The run's facts and, for a measure run, `n_alive`, `max_peak`, `floor`, `thresholds`;
        for an explain or a relevance run `measure`, the run whose features it is about.

        `content_tokens` counts all measured roles together. Raises NotReady.
        """
        with self._reading(run):
            return json.loads(self._attached[run].summary)

    # ---- counts per feature

    @remembered
    def support(self, run: str, threshold: float, role: str = EVERY_ROLE) -> np.ndarray:
        """Samples in which each feature peaks strictly above `threshold`: int64 `[n_features]`.

        Exact for every threshold at or above the floor: the counts of the next rung, plus a scan
        of the peaks between. Peaks are float32 and so is the comparison, as in
        fac.coverage.is_active. Raises InputError below the floor, where peaks were not stored.
        """
        code, exact = _role(role), _single(threshold)
        with self._reading(run) as cursor:
            about = json.loads(self._attached[run].summary)
            if exact < _single(about["floor"]):
                raise InputError(
                    f"Threshold {threshold:g} is below the floor {about['floor']:g} of run {run}, "
                    f"under which nothing was stored: ask for more, or measure with a lower floor."
                )
            # A page asks for one threshold several times, and for every role.
            rungs = self._whole(cursor, run, "rungs")["threshold"].to_numpy()
            counts = self._once(run, exact, lambda: _support(cursor, run, exact, about, rungs))
        return counts[code].astype(np.int64)

    # ---- features

    @remembered
    def features_page(
        self,
        run: str,
        *,
        search: str = "",
        sort: str = "n_samples",
        descending: bool = True,
        offset: int = 0,
        limit: int = 50,
        only: str = "all",
        ids: Sequence[int] | None = None,
        sae_run: str | None = None,
        explained: Sequence[str] = (),
    ) -> tuple[list[dict[str, Any]], int]:
        """One page of the feature table, and how many features match.

        `explained` names explain runs: a feature's row has `explanation`, `explainer`, `score` and
        `score_kind` (one of SHOWN_SCORES) of the first that has a text for it, else None. `search`
        finds part of a label, of a promoted token or of that explanation, a feature number ("12"),
        or that number alone ("#12"). Equal values are in feature order, missing ones last. Raises
        InputError for a column outside SORTABLE.
        """
        if sort not in SORTABLE:
            raise InputError(f"Features sort by {', '.join(SORTABLE)}, got {sort!r}.")
        if only not in SHOWN:
            raise InputError(f"Features shown are one of {', '.join(SHOWN)}, got {only!r}.")
        page = _page(offset, limit)
        with self._reading(run, *_if(sae_run), *explained) as cursor:
            table = self._whole(cursor, run, "features")
            wanted = self._found(cursor, run, search, _if(sae_run), explained)
            if ids is not None:
                asked = np.zeros(len(table), bool)
                asked[[i for i in ids if 0 <= i < len(table)]] = True
                wanted &= asked
            if only != "all":
                wanted &= (table["n_samples"].to_numpy() > 0) == (only == "alive")
            order = self._ordered(cursor, run, sort, descending, explained)
            found = order[wanted[order]]
            shown = found[page["offset"] :][: page["limit"]]
            return self._features(cursor, run, shown, sae_run, explained).to_pylist(), len(found)

    def described(
        self,
        run: str,
        features: np.ndarray,
        *,
        sae_run: str | None = None,
        explained: Sequence[str] = (),
    ) -> pa.Table:
        """The rows of `features_page` for these features, in their order."""
        with self._reading(run, *_if(sae_run), *explained) as cursor:
            return self._features(cursor, run, features, sae_run, explained)

    def _found(
        self,
        cursor: duckdb.DuckDBPyConnection,
        run: str,
        search: str,
        sae_runs: Sequence[str],
        explained: Sequence[str],
    ) -> np.ndarray:
        """Which features `search` finds: bool `[n_features]`."""
        text, number = _search(search)
        found = np.full(len(self._whole(cursor, run, "features")), text is None and number is None)
        if text is not None:
            places = [f"{_name(each)}.features" for each in sae_runs]
            places += [_explained(explained)] if explained else []
            also_in = "".join(ALSO_IN.format(place=place) for place in places)
            sql = FEATURES_FOUND.format(run=_name(run), also_in=also_in)
            asked = {"text": text, "number": number}
            found[cursor.execute(sql, asked).fetchnumpy()["feature"]] = True
        elif number is not None:
            found[number : number + 1] = True
        return found

    def _ordered(
        self,
        cursor: duckdb.DuckDBPyConnection,
        run: str,
        sort: str,
        descending: bool,
        explained: Sequence[str],
    ) -> np.ndarray:
        """All features in the order of the table: int64 `[n_features]`, kept."""
        table = self._whole(cursor, run, "features")

        def order() -> np.ndarray:
            if sort == "score":
                features = table["feature"].to_numpy()
                values = self._explained_of(cursor, features, explained, "score")["score"]
            else:
                values = table[SORTED_BY.get(sort, sort)]
            direction = "descending" if descending else "ascending"
            keys = [("value", direction, "at_end"), ("feature", "ascending", "at_end")]
            columns = pa.table({"value": values, "feature": table["feature"]})
            return pc.sort_indices(columns, sort_keys=keys).to_numpy()

        # Scores alone stand in other files.
        by = [(each, self._attached[each].version) for each in explained if sort == "score"]
        return self._once(run, ("order", sort, descending, *by), order)

    @remembered
    def feature(
        self,
        run: str,
        feature: int,
        *,
        sae_run: str | None = None,
        explained: Sequence[str] = (),
    ) -> dict[str, Any] | None:
        """The row of `features_page` for one feature; None outside the dictionary."""
        with self._reading(run, *_if(sae_run), *explained) as cursor:
            if not 0 <= feature < len(self._whole(cursor, run, "features")):
                return None
            asked = np.array([feature])
            return self._features(cursor, run, asked, sae_run, explained).to_pylist()[0]

    def _features(
        self,
        cursor: duckdb.DuckDBPyConnection,
        run: str,
        features: np.ndarray,
        sae_run: str | None,
        explained: Sequence[str],
    ) -> pa.Table:
        """The rows of `features_page` for these features."""
        own = _of(self._whole(cursor, run, "features"), features)
        n_samples = max(json.loads(self._attached[run].summary)["n_samples"], 1)
        told = self._explained_of(cursor, features, explained, *EXPLAINED)
        shown = own.drop_columns([f"peak_{role}" for role in ROLES])
        return pa.table(
            {
                **dict(zip(shown.column_names, shown.columns, strict=True)),
                "density": own["n_samples"].to_numpy() / n_samples,
                "promotes": self._lens_of(cursor, features, sae_run, "promotes"),
                **{name: told[name] for name in EXPLAINED},
            }
        )

    def _lens_of(
        self,
        cursor: duckdb.DuckDBPyConnection,
        features: np.ndarray,
        sae_run: str | None,
        name: str,
    ) -> pa.Array:
        """`threshold`, null where it is unknown, or `promotes`, empty there, of these features."""
        if sae_run is None:
            unknown: dict[str, pa.Array] = {
                "threshold": pa.nulls(len(features), pa.float32()),
                "promotes": pa.array([[]] * len(features), pa.list_(pa.string())),
            }
            return unknown[name]
        known = self._whole(cursor, sae_run, "dictionary").select(["feature", name])
        found = _of(known, features)[name]
        return pc.coalesce(found, pa.scalar([], found.type)) if name == "promotes" else found

    def _explained_of(
        self,
        cursor: duckdb.DuckDBPyConnection,
        features: np.ndarray,
        explained: Sequence[str],
        *names: str,
    ) -> pa.Table:
        """These columns of EXPLAINED, of the first run that has a text for each feature."""
        found = {name: pa.nulls(len(features), EXPLAINED[name]) for name in names}
        lacking = pa.array(np.ones(len(features), bool))
        for run in explained:
            known = self._whole(cursor, run, "explained")
            told = _of(known.select(["feature", *names]), features)
            for name in names:
                found[name] = pc.if_else(lacking, told[name], found[name])
            lacking = pc.and_(lacking, pc.is_null(told["feature"]))
        return pa.table(found)

    @remembered
    def spans(self, run: str, feature: int, kind: str | None = None) -> list[dict[str, Any]]:
        """Its spans, "top" before "spread" unless one kind is asked for, each strongest first."""
        with self._reading(run) as cursor:
            asked = {"feature": int(feature), "kinds": SPAN_KINDS[kind]}
            return _dicts(cursor, SPANS_OF.format(run=_name(run), **asked))

    @remembered
    def near(self, run: str, feature: int, *, sae_run: str | None = None) -> list[dict[str, Any]]:
        """The dataset's highest pre-activations of the feature, highest first.

        `ratio` divides them by the SAE's own threshold; None where that is zero or unknown.
        """
        with self._reading(run, *_if(sae_run)) as cursor:
            (own,) = self._lens_of(cursor, np.array([feature]), sae_run, "threshold").to_pylist()
            rows = _dicts(cursor, NEAR_OF.format(run=_name(run), feature=int(feature)))
        return [{**row, "ratio": row["pre"] / own if own and own > 0 else None} for row in rows]

    @remembered
    def histogram(self, run: str, feature: int) -> tuple[list[float], list[int]]:
        """Its peaks, one per sample, in equal bins from the floor to the largest: edges [B+1],
        counts [B]; both empty for a silent feature."""
        floor = self.summary(run)["floor"]
        with self._reading(run) as cursor:
            known = _of(self._whole(cursor, run, "features"), np.array([feature]))
            top = known["max_peak"][0].as_py() or 0.0
            if top <= floor:
                return [], []
            sql = PEAKS_OF.format(run=_name(run), feature=int(feature))
            peaks = cursor.execute(sql).fetchnumpy()["peak"]
        edges = np.linspace(floor, top, HISTOGRAM_BINS + 1)
        place = np.floor((peaks.astype(float) - floor) / (top - floor) * HISTOGRAM_BINS)
        counts = np.bincount(np.minimum(place, HISTOGRAM_BINS - 1).astype(int))
        return edges.tolist(), np.pad(counts, (0, HISTOGRAM_BINS - len(counts))).tolist()

    def rows(
        self,
        run: str,
        feature: int,
        *,
        threshold: float = 0.0,
        role: str = EVERY_ROLE,
        offset: int = 0,
        limit: int = 20,
    ) -> tuple[list[dict[str, Any]], int]:
        """The samples in which the feature is active, strongest first, and how many there are."""
        asked = {"feature": int(feature), "threshold": _single(threshold)}
        names = {"run": _name(run), "rows_of_role": _rows_of(role)}
        with self._reading(run) as cursor:
            (matching,) = _row(cursor, ROWS_MATCHING.format(**names), **asked)
            found = _dicts(cursor, ROWS.format(**names), **asked, **_page(offset, limit))
        return _with_role_names(found), matching

    # ---- samples

    def sample(self, run: str, row: int) -> dict[str, Any] | None:
        """One sample of the measured dataset with its messages; None past the end."""
        with self._reading(run) as cursor:
            found = _dicts(cursor, ONE_SAMPLE.format(run=_name(run)), row=int(row))
        return found[0] if found else None

    def samples_page(
        self, run: str, *, search: str = "", offset: int = 0, limit: int = 50
    ) -> tuple[list[dict[str, Any]], int]:
        """One page of the samples whose text or label contains `search`, and how many do."""
        page = _page(offset, limit)
        with self._reading(run) as cursor:
            wanted = {"text": search.strip() or None}
            sql = SAMPLES_WANTED.format(run=_name(run))
            found = cursor.execute(sql, wanted).fetchnumpy()["sample"]
            shown = found[page["offset"] :][: page["limit"]].tolist()
            return _dicts(cursor, SOME_SAMPLES.format(run=_name(run)), rows=shown), len(found)

    # ---- the dictionary

    @remembered
    def points(self, sae_run: str) -> pa.Table:
        """The map of the dictionary: feature, x, y (float32), in feature order."""
        with self._reading(sae_run) as cursor:
            known = self._whole(cursor, sae_run, "dictionary")
            return known.select(["feature", "x", "y"])

    @remembered
    def sae_feature(self, sae_run: str, feature: int) -> dict[str, Any] | None:
        """What the SAE alone says of a feature; None outside the dictionary."""
        with self._reading(sae_run) as cursor:
            known = self._whole(cursor, sae_run, "dictionary")
        found = _of(known, np.array([feature])).to_pylist()[0]
        return found if found["feature"] is not None else None

    def evidence(
        self,
        anchor_run: str,
        dataset_run: str,
        sae_run: str | None,
        features: np.ndarray,
        *,
        role: str = EVERY_ROLE,
        explained: Sequence[str] = (),
    ) -> pa.Table:
        """Figures of features on both sides, one row per asked feature, in the asked order.

        feature, anchor_peak, dataset_peak (null where silent), near_pre (the dataset's highest
        pre-activation), sae_threshold, and score as in `features_page`. Peaks are those of `role`.
        """
        _role(role)
        peak = "max_peak" if role == EVERY_ROLE else f"peak_{role}"
        features = np.asarray(features, np.int64)
        with self._reading(anchor_run, dataset_run, *_if(sae_run), *explained) as cursor:
            anchor, dataset = (
                _of(self._whole(cursor, run, "features").select(["feature", peak]), features)
                for run in (anchor_run, dataset_run)
            )
            near = _of(self._whole(cursor, dataset_run, "near"), features)
            own = self._lens_of(cursor, features, sae_run, "threshold")
            score = self._explained_of(cursor, features, explained, "score")["score"]
        shown = dataset[peak]
        return pa.table(
            {
                "feature": anchor["feature"],
                "anchor_peak": anchor[peak],
                "dataset_peak": pc.if_else(pc.equal(shown, 0), None, shown),
                "near_pre": near["pre"],
                "sae_threshold": own,
                "score": score,
            }
        )

    # ---- explanations and relevance

    @remembered
    def explanations(
        self, explain_run: str, features: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The run's explanations, of all features or of these, in feature order.

        The columns of schema.EXPLANATIONS, and `scores`: by name of the score a dict of value, low,
        high, n, n_positive and n_unreadable.
        """
        with self._reading(explain_run) as cursor:
            told, scores_told = (
                self._whole(cursor, explain_run, name) for name in ("explanations", "scores")
            )
        rows = _about(told, features).to_pylist()
        scored = _about(scores_told, features).to_pylist()
        scores: dict[int, dict[str, Any]] = {row["feature"]: {} for row in rows}
        for row in scored:
            scores.setdefault(row.pop("feature"), {})[row.pop("score")] = row
        return [{**row, "scores": scores[row["feature"]]} for row in rows]

    def texts(self, explain_run: str) -> list[tuple[int, str]]:
        """(feature, text) of every explanation that has one, in feature order."""
        with self._reading(explain_run) as cursor:
            known = self._whole(cursor, explain_run, "explained")
        columns = (known["feature"].to_pylist(), known["explanation"].to_pylist())
        return list(zip(*columns, strict=True))

    @remembered
    def explanation_counts(self, explain_run: str) -> dict[str, int]:
        """How many features the run explained, could not tell, and so on, by status."""
        with self._reading(explain_run) as cursor:
            return dict(cursor.execute(COUNT_STATUSES.format(run=_name(explain_run))).fetchall())

    @remembered
    def score_summary(self, explain_run: str) -> dict[str, dict[str, Any]]:
        """By name of the score: `n` features where it is defined and `n_undefined` where not, its
        median, low_quartile and high_quartile over the former (None without any), and of all
        features together n_examples that were scored and n_unreadable that could not be."""
        with self._reading(explain_run) as cursor:
            rows = _dicts(cursor, SUMMARISE_SCORES.format(run=_name(explain_run)))
        return {row.pop("score"): row for row in rows}

    @remembered
    def examples(self, explain_run: str, measure_run: str, feature: int) -> list[dict[str, Any]]:
        """The held-out test of a feature, in its shuffled order.

        number, tokens, activations (of the feature: all 0 in a negative, in which it is silent),
        peak_index (in a negative, the token for which the other feature's span was kept), sample,
        role, positive, hard, detected, fuzzed, fuzz_right, and source_feature, source_kind,
        source_rank: which span of the measure run it is. Raises InputError where the test was made
        from another measure run.
        """
        made_from = self.summary(explain_run)["measure"]
        if made_from != measure_run:
            raise InputError(
                f"The examples of run {explain_run} come from {made_from}, not from {measure_run}: "
                f"ask for them together with that run."
            )
        with self._reading(explain_run, measure_run) as cursor:
            name, asked = _name(explain_run), {"feature": int(feature)}
            sources = cursor.execute(SOURCES_OF.format(run=name), asked).fetchall()
            if not sources:
                return []
            parts = [
                SPANS_OF_ONE.format(measure=_name(measure_run), feature=int(source))
                for (source,) in sources
            ]
            sql = EXAMPLES_OF.format(run=name, spans=" UNION ALL ".join(parts))
            rows = _dicts(cursor, sql, **asked)
        for row in rows:
            if row["tokens"] is None:
                raise InputError(
                    f"Example {row['number']} of feature {feature} in run {explain_run} is the "
                    f"{row['source_kind']} span {row['source_rank']} of feature "
                    f"{row['source_feature']}, which {measure_run} does not have: explain again."
                )
        return rows

    @remembered
    def relevance(
        self, relevance_run: str, features: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The judge's verdicts, on all judged features or these, in feature order: the columns of
        schema.RELEVANCE."""
        with self._reading(relevance_run) as cursor:
            judged = self._whole(cursor, relevance_run, "relevance")
        return _about(judged, features).to_pylist()

    @remembered
    def relevance_counts(self, relevance_run: str) -> dict[str, int]:
        """How many features the judge put on each level, or could not."""
        with self._reading(relevance_run) as cursor:
            return dict(cursor.execute(COUNT_LEVELS.format(run=_name(relevance_run))).fetchall())

    @remembered
    def relevant(self, relevance_run: str, n_features: int) -> np.ndarray:
        """Which features the judge calls relevant, at a level in RELEVANT: bool `[n_features]`.

        Raises InputError if it judged features beyond those.
        """
        with self._reading(relevance_run) as cursor:
            sql = RELEVANT_FEATURES.format(run=_name(relevance_run))
            found = cursor.execute(sql, {"levels": [*RELEVANT]}).fetchnumpy()["feature"]
        if len(found) and not 0 <= found[0] <= found[-1] < n_features:
            raise InputError(
                f"Run {relevance_run} judges features {found[0]} to {found[-1]}, but ids run to "
                f"{n_features - 1}: it was made for another SAE."
            )
        relevant = np.zeros(n_features, bool)
        relevant[found] = True
        return relevant

    # ---- pairs and candidates

    @remembered
    def pairs(
        self,
        run: str,
        *,
        status: str | None = None,
        features: Sequence[int] | None = None,
        above: float | None = None,
        search: str = "",
        sort: str = "feature",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[list[dict[str, Any]], int]:
        """One page of a pairs or rescore run, and how many pairs match: the columns of schema.PAIRS
        and `margin`, how far the positive fires above the negative.

        `status` is proposed or failed, `above` leaves positives that fire more, `search` finds part
        of either text or a feature's number. Missing values come last. Raises InputError for a
        column outside PAIR_SORTS.
        """
        if sort not in PAIR_SORTS:
            raise InputError(f"Pairs sort by {', '.join(PAIR_SORTS)}, got {sort!r}.")
        text, number = _search(search)
        wanted = {
            "status": status,
            "features": _ids(features),
            "above": None if above is None else _single(above),
            "text": text,
            "number": number,
        }
        with self._reading(run) as cursor:
            (matching,) = _row(cursor, PAIRS_MATCHING.format(run=_name(run)), **wanted)
            direction = "DESC" if descending else "ASC"
            sql = PAIRS_PAGE.format(run=_name(run), sort=sort, direction=direction)
            return _dicts(cursor, sql, **wanted, **_page(offset, limit)), matching

    @remembered
    def pair(self, run: str, pair: str) -> dict[str, Any] | None:
        """The row of `pairs` with this id; None where the run has none."""
        with self._reading(run) as cursor:
            found = _dicts(cursor, ONE_PAIR.format(run=_name(run)), pair=pair)
        return found[0] if found else None

    @remembered
    def pair_counts(self, run: str) -> dict[str, Any]:
        """`proposed`: how many; `failed`: how many by reason, the commonest first."""
        with self._reading(run) as cursor:
            rows = cursor.execute(COUNT_PAIRS.format(run=_name(run))).fetchall()
        failed = {reason: n for status, reason, n in rows if status == "failed"}
        return {"proposed": sum(n for s, _, n in rows if s == "proposed"), "failed": failed}

    @remembered
    def candidates(
        self,
        run: str,
        *,
        feature: int | None = None,
        pair: str | None = None,
        only: str = "all",
        reason: str | None = None,
        search: str = "",
        sort: str = "candidate",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[list[dict[str, Any]], int]:
        """One page of the texts of a pairs or synthetic run, and how many match.

        The columns of schema.CANDIDATES with `extra` as a dict, and peak (for its own gap, 0
        where silent), kept (None in step 1, which gives no verdicts), reason, rank,
        gains, n_hits (gaps it fires). `feature` and `pair` say what it was written for, `only` is
        one of CANDIDATES_SHOWN. Raises InputError for a column outside CANDIDATE_SORTS.
        """
        if sort not in CANDIDATE_SORTS:
            raise InputError(f"Candidates sort by {', '.join(CANDIDATE_SORTS)}, got {sort!r}.")
        if only not in CANDIDATES_SHOWN:
            raise InputError(f"Candidates shown are {', '.join(CANDIDATES_SHOWN)}, got {only!r}.")
        wanted = {
            "feature": None if feature is None else int(feature),
            "pair": pair,
            "only": only,
            "reason": reason,
            "text": search.strip() or None,
        }
        with self._reading(run) as cursor:
            (matching,) = _row(cursor, CANDIDATES_MATCHING.format(run=_name(run)), **wanted)
            direction = "DESC" if descending else "ASC"
            sql = CANDIDATES_PAGE.format(run=_name(run), sort=sort, direction=direction)
            rows = _dicts(cursor, sql, **wanted, **_page(offset, limit))
        return [_with_extra(row) for row in rows], matching

    @remembered
    def candidate(self, run: str, candidate: str) -> dict[str, Any] | None:
        """The row of `candidates` with this name, and `hits`: the gaps it fires, strongest first,
        as feature, peak, role, position. None where the run has none."""
        asked = {"candidate": candidate}
        with self._reading(run) as cursor:
            found = _dicts(cursor, ONE_CANDIDATE.format(run=_name(run)), **asked)
            hits = _dicts(cursor, HITS_OF.format(run=_name(run)), **asked)
        return {**_with_extra(found[0]), "hits": hits} if found else None

    @remembered
    def verdict_counts(self, run: str) -> dict[str, Any]:
        """`kept`: how many; `dropped`: how many by reason, the commonest first."""
        with self._reading(run) as cursor:
            rows = cursor.execute(COUNT_VERDICTS.format(run=_name(run))).fetchall()
        dropped = {reason: n for kept, reason, n in rows if not kept}
        return {"kept": sum(n for kept, _, n in rows if kept), "dropped": dropped}

    # ---- what stays in memory

    def _whole(self, cursor: duckdb.DuckDBPyConnection, run: str, name: str) -> pa.Table:
        """One of the tables WHOLE; within `_reading` of the run."""
        sql = WHOLE[name].format(run=_name(run))
        return self._once(run, name, lambda: cursor.sql(sql).to_arrow_table().combine_chunks())

    def _once(self, run: str, what: object, compute: Callable[[], T]) -> T:
        """What `compute` answers about an attached run, remembered even where answers are not: its
        file, by whose version it is known, never changes."""
        return self._tables.get((run, self._attached[run].version, what), (), compute)

    def rests_on(self, *_: object) -> tuple[Path, ...]:
        """Its folder: files are renamed into it and removed, never written again."""
        return (self.folder,)

    # ---- files

    @contextmanager
    def _reading(self, *runs: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor that sees these runs, which stay attached until it is done."""
        with self._turn:
            for run in runs:
                self._attach(run)
            self._readers.update(set(runs))
        cursor = self._con.cursor()
        try:
            yield cursor
        except duckdb.Error as error:
            if not _tells_of_damage(error):
                raise
            raise NotReady(" or ".join(runs), f"its cache is damaged ({_brief(error)})") from error
        finally:
            cursor.close()
            with self._turn:
                self._readers.subtract(set(runs))
                self._turn.notify_all()

    def _attach(self, run: str) -> None:
        """Makes the file as it is now readable under the run's name; `_turn` is held."""
        if run not in self._attached and not is_run_id(run):
            raise NotReady(run, "no run can have that name")
        path = f"{self.folder}/{run}.duckdb"
        while True:
            now, known = _version(path), self._attached.get(run)
            if known and known.version == now:
                return
            if known:  # the file was built anew or removed
                if self._readers[run]:
                    self._turn.wait()
                    continue
                del self._attached[run]
                self._con.execute(f"DETACH {_name(run)}")
            if now is None:
                raise NotReady(run, "its cache is not built yet")
            try:
                self._con.execute(f"ATTACH {_quoted(path)} AS {_name(run)} (READ_ONLY)")
            except duckdb.Error as error:
                raise NotReady(run, f"its cache is damaged ({_brief(error)})") from error
            try:
                self._attached[run] = _File(now, self._checked(run, path))
            except BaseException:
                self._con.execute(f"DETACH {_name(run)}")
                raise

    def _checked(self, run: str, path: str) -> str:
        """The summary in the attached file. Raises NotReady unless the file is whole and has this
        version's tables."""
        cursor = self._con.cursor()
        try:
            version, name, _, summary = _row(cursor, META.format(run=_name(run)))
            (needed,) = _row(cursor, BYTES_NEEDED, alias=run)
        except (duckdb.Error, ValueError) as error:
            raise NotReady(run, f"its cache is damaged ({_brief(error)})") from error
        finally:
            cursor.close()
        if version != SQL_VERSION:
            raise NotReady(run, f"its cache has version {version}, this program {SQL_VERSION}")
        if name != run:
            raise NotReady(run, f"its cache belongs to {name}")
        if os.stat(path).st_size < needed + FILE_HEADERS:
            raise NotReady(run, "its cache is cut short")
        return summary


class _File(NamedTuple):
    """An attached file."""

    version: tuple[int, int, int]
    summary: str


def _support(
    cursor: duckdb.DuckDBPyConnection,
    run: str,
    threshold: float,
    about: dict[str, Any],
    rungs: np.ndarray,
) -> np.ndarray:
    """Samples above the float32 threshold, int32 `[roles, n_features]`."""
    counts = np.zeros((len(ROLE_CODES), about["n_features"]), np.int32)
    if threshold >= about["max_peak"]:
        return counts
    rung = int(np.searchsorted(rungs, np.float32(threshold)))
    upper = math.inf
    if rung < len(rungs):
        upper = float(rungs[rung])
        sql = SUPPORT_AT_RUNG.format(run=_name(run))
        counts += cursor.execute(sql, {"rung": rung}).fetchnumpy()["n"].reshape(counts.shape)
    if threshold < upper:
        between = {"threshold": threshold, "upper": upper}
        who = cursor.execute(SUPPORT_BETWEEN.format(run=_name(run)), between).fetchnumpy()["who"]
        # Feature, role, and whether it is the strongest of its sample: see CREATE_BY_PEAK.
        by_who = np.bincount(who, minlength=8 * about["n_features"]).reshape(-1, 8).T
        role_strongest = np.ascontiguousarray(by_who, np.int32).reshape(4, 2, -1)[: len(ROLES)]
        counts[:-1] += role_strongest.sum(axis=1)
        counts[-1] += role_strongest[:, 1].sum(axis=0)
    return counts


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _name(run: str) -> str:
    """The run as an SQL name; `_attach` refuses ids that would need escaping."""
    return f'"{run}"'


def _quoted(text: str) -> str:
    """A string where SQL takes no bound value."""
    return "'" + text.replace("'", "''") + "'"


def _explained(runs: Sequence[str]) -> str:
    """The subquery of every feature's first explanation in these runs."""
    found = [EXPLAINED_BY.format(run=_name(run)) for run in runs]
    for i in range(1, len(runs)):
        found[i] += "".join(UNLESS_BY.format(run=_name(run)) for run in runs[:i])
    return f"({' UNION ALL '.join(found)})"


def _of(table: pa.Table, features: np.ndarray) -> pa.Table:
    """The rows of these features in their order, from a table in feature order; null where there
    is none."""
    known = table["feature"].to_numpy()
    place = np.searchsorted(known, features)
    lacking = place >= len(known)
    place[lacking] = 0
    if len(known):
        lacking |= known[place] != features
    return table.take(pa.array(place, pa.int64(), mask=lacking))


def _about(table: pa.Table, features: Sequence[int] | None) -> pa.Table:
    """Every row about these features, or about all, from a table in feature order, in its order."""
    if features is None:
        return table
    known, asked = table["feature"].to_numpy(), np.unique(np.array(features, np.int64))
    first, beyond = (np.searchsorted(known, asked, side).tolist() for side in ("left", "right"))
    rows = [row for bounds in zip(first, beyond, strict=True) for row in range(*bounds)]
    return table.take(pa.array(rows, pa.int64()))


def _ids(features: Sequence[int] | None) -> list[int] | None:
    """As DuckDB binds them: no numpy numbers."""
    return None if features is None else [int(i) for i in features]


def _if(run: str | None) -> tuple[str, ...]:
    return () if run is None else (run,)


def _single(threshold: float) -> float:
    """The threshold as float32, like the peaks it is compared with."""
    if not threshold >= 0:
        raise InputError(f"A threshold is a number from 0 up, got {threshold!r}.")
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite: above every peak
        return float(np.float32(threshold))


def _role(role: str) -> int:
    if role not in ROLE_CODES:
        raise InputError(f"A role is one of {', '.join(ROLE_CODES)}, got {role!r}.")
    return ROLE_CODES[role]


def _rows_of(role: str) -> str:
    """The condition that leaves one row per sample."""
    code = _role(role)
    return "strongest" if role == EVERY_ROLE else f"role = {code}"


def _search(search: str) -> tuple[str | None, int | None]:
    """A text and a feature number, each None where the search does not ask for it."""
    asked = search.strip()
    digits = asked.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    only_number = asked.startswith("#") and number is not None
    return None if only_number else asked or None, number


def _page(offset: int, limit: int) -> dict[str, int]:
    if offset < 0 or limit < 0:
        raise InputError(f"A page starts at 0 or later, got offset {offset}, limit {limit}.")
    return {"offset": int(offset), "limit": int(limit)}


def _row(con: duckdb.DuckDBPyConnection, sql: str, **values: object) -> tuple[Any, ...]:
    """The only row of an answer. Raises ValueError for another number of rows."""
    (row,) = con.execute(sql, values).fetchall() if values else con.execute(sql).fetchall()
    return row


def _dicts(con: duckdb.DuckDBPyConnection, sql: str, **values: object) -> list[dict[str, Any]]:
    found = con.execute(sql, values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _with_role_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "role": ROLES[row["role"]]} for row in rows]


def _with_extra(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "extra": json.loads(row["extra"])}


def _tells_of_damage(error: duckdb.Error) -> bool:
    """Whether the file is at fault, not the question. A wrong checksum has no class of its own."""
    return isinstance(error, duckdb.IOException) or "Corrupt database file" in str(error)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0]
