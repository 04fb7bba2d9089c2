"""The cache of a measure run: its tables, each sorted by feature so that one feature's rows lie
together, filled in blocks of features."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import ROLES
from fac.store.cache.support import count_above, refined, threshold_grid, write_grid
from fac.store.cache.tables import ROLE_CODES, Connection, float32, one_row, parquet, write_meta
from fac.store.runs import Runs

ROWS_PER_BLOCK = 2_000_000
"""Activations in memory at once while building; a feature is never split."""

CREATE_TABLES = """
    CREATE TABLE activations (
        feature INTEGER NOT NULL, peak FLOAT NOT NULL, sample INTEGER NOT NULL,
        role UTINYINT NOT NULL, position INTEGER NOT NULL, n_tokens INTEGER NOT NULL,
        strongest BOOLEAN NOT NULL);
    CREATE TABLE features (
        feature INTEGER, label VARCHAR, n_samples INTEGER, n_system INTEGER, n_user INTEGER,
        n_assistant INTEGER, n_tokens BIGINT, max_peak FLOAT, peak_system FLOAT, peak_user FLOAT,
        peak_assistant FLOAT, mean_peak DOUBLE, folded VARCHAR);
"""

PEAK_RANGE = """
    SELECT min(peak), max(peak), min(feature), max(feature), bool_and(isfinite(peak))
    FROM read_parquet($path)
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

COUNT_ALIVE = "SELECT count(*) FROM features WHERE n_samples > 0"


def fill_measure(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    run, facts = manifest.run, manifest.facts
    path = parquet(runs, run, "activations")
    n_features = facts.n_features
    low, high, first, last, finite = one_row(con, PEAK_RANGE, path=path)
    floor = manifest.spec.floor
    if finite is not None and not (
        finite and low > float32(floor) and first >= 0 and last < n_features
    ):
        raise InputError(
            f"The activations of run {run} are damaged: peaks must be finite and above the floor "
            f"{floor:g}, features below {n_features}; delete the run's folder and measure again."
        )
    con.execute(CREATE_TABLES)
    con.execute(CREATE_SPANS, {"path": parquet(runs, run, "spans")})
    con.execute(CREATE_NEAR, {"path": parquet(runs, run, "near")})
    samples = parquet(runs, facts.dataset, "samples")
    tokens = parquet(runs, run, "sample_tokens")
    con.execute(CREATE_SAMPLES, {"samples": samples, "tokens": tokens})
    con.execute(CREATE_LABELS)
    offered = threshold_grid(floor, low, high)
    thresholds = refined(con, path, offered, high, n_features)
    counts = np.zeros((len(thresholds), len(ROLE_CODES), n_features), np.int32)
    for begin, end in _blocks(con, path, n_features):
        bounds = {"first": begin, "beyond": end}
        con.execute(CREATE_BLOCK, {**bounds, "path": path, "roles": [*ROLES]})
        con.execute(INSERT_ACTIVATIONS)
        count_above(con, thresholds, counts[:, :, begin:end], begin)
        con.execute(INSERT_FEATURES, {**bounds, "scale": _whole_scale(high)})
    write_grid(con, thresholds, counts)
    (n_alive,) = one_row(con, COUNT_ALIVE)
    derived = {
        "n_alive": n_alive,
        "max_peak": high or 0.0,
        "floor": floor,
        "thresholds": offered,
    }
    write_meta(con, manifest, derived)


def _whole_scale(high: float | None) -> float:
    """A power of two by which peaks up to `high` become whole numbers of at most 62 bits; a
    float32 loses nothing unless it is below 2**-38 of `high`."""
    return math.ldexp(1.0, 62 - math.frexp(high or 1.0)[1])


def _blocks(con: Connection, path: str, n_features: int) -> Iterator[tuple[int, int]]:
    """Ranges of features that together are all of them, each of about ROWS_PER_BLOCK rows."""
    rows = con.execute(ROWS_PER_FEATURE, {"path": path}).fetchnumpy()
    per_feature = np.zeros(n_features, np.int64)
    per_feature[rows["feature"]] = rows["n"]
    block = np.cumsum(per_feature) // ROWS_PER_BLOCK
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), n_features]
    return zip(edges[:-1], edges[1:], strict=True)
