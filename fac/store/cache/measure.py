"""The cache of a measure run: its tables, each sorted by feature so that one feature's rows lie
together, filled in blocks of features; and the samples in which a feature peaks above a threshold,
counted on a grid while building, exact at any threshold when asked.

Tables `rungs` (rung, threshold): the threshold grid, the floor first; `ladder` (rung, role,
feature, n): samples above each. A count between two thresholds of the grid adds the peaks that lie
between, which `by_peak` has together. `leaders` (role, feature, sample, first, second): the two
highest peaks of different samples, from which follows which features one sample alone fires.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import EVERY_ROLE, ROLES
from fac.store.cache.files import (
    ROLE_CODES,
    Connection,
    Files,
    float32,
    one_row,
    parquet,
    role_code,
    sql_name,
    write_meta,
)
from fac.store.memo import remembered
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
        peak_assistant FLOAT, total_system DOUBLE, total_user DOUBLE, total_assistant DOUBLE,
        mean_peak DOUBLE, folded VARCHAR);
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
    ORDER BY feature, peak DESC, sample, role
"""

INSERT_ACTIVATIONS = """
    INSERT INTO activations
    SELECT feature, peak, sample, role, position, n_tokens, strongest FROM block
"""

# Sums are of whole numbers: addition of floats in the order of threads would not repeat exactly.
INSERT_FEATURES = """
    INSERT INTO features
    SELECT f.feature, coalesce(l.label, ''), coalesce(b.n_samples, 0), coalesce(b.n_system, 0),
           coalesce(b.n_user, 0), coalesce(b.n_assistant, 0), coalesce(b.n_tokens, 0),
           coalesce(b.max_peak, 0), coalesce(b.peak_system, 0), coalesce(b.peak_user, 0),
           coalesce(b.peak_assistant, 0), coalesce(b.total_system, 0), coalesce(b.total_user, 0),
           coalesce(b.total_assistant, 0), coalesce(b.mean_peak, 0), lower(coalesce(l.label, ''))
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
               sum((peak::DOUBLE * $scale)::BIGINT) FILTER (role = 0) / $scale AS total_system,
               sum((peak::DOUBLE * $scale)::BIGINT) FILTER (role = 1) / $scale AS total_user,
               sum((peak::DOUBLE * $scale)::BIGINT) FILTER (role = 2) / $scale AS total_assistant,
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
    leaders = Leaders.of_nothing(n_features)
    for begin, end in _blocks(con, path, n_features):
        bounds = {"first": begin, "beyond": end}
        con.execute(CREATE_BLOCK, {**bounds, "path": path, "roles": [*ROLES]})
        con.execute(INSERT_ACTIVATIONS)
        peaks = con.execute(PEAKS_OF_BLOCK).fetchnumpy()
        count_above(peaks, thresholds, counts[:, :, begin:end], begin)
        leaders.look_through(peaks)
        con.execute(INSERT_FEATURES, {**bounds, "scale": _whole_scale(high)})
    write_grid(con, thresholds, counts)
    leaders.write(con)
    (n_alive,) = one_row(con, COUNT_ALIVE)
    above = counts[:, -1].sum(axis=1, dtype=np.int64)
    derived = {
        "n_alive": n_alive,
        "max_peak": high or 0.0,
        "floor": floor,
        "thresholds": offered,
        "clear_firing": median_peak(con, thresholds, above) if high else floor,
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


# ---- the threshold grid

MAX_THRESHOLDS = 24
"""Of a grid as pages offer it, before it is refined where many peaks lie."""

E24 = (
    *(1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0),
    *(3.3, 3.6, 3.9, 4.3, 4.7, 5.1, 5.6, 6.2, 6.8, 7.5, 8.2, 9.1),
)

PEAKS_BETWEEN = 250_000
"""Of a large run between two thresholds: what a count at any other threshold reads at most."""

CELLS_PER_E = 500
"""Of the histogram from which finer thresholds are chosen: peaks of one cell differ by 0.2 %."""

GRID_CELLS = 2**24
"""Thresholds times features that refining may lead to: in memory, while building, 16 bytes each."""

ROWS_PER_INSERT = 2_000_000

CREATE_GRID = """
    CREATE TABLE rungs (rung INTEGER, threshold FLOAT);
    CREATE TABLE ladder (rung INTEGER, role UTINYINT, feature INTEGER, n INTEGER);
"""

INSERT_THRESHOLDS = "INSERT INTO rungs SELECT rung, threshold FROM counted"

INSERT_COUNTS = "INSERT INTO ladder SELECT rung, role, feature, n FROM counted"

# Cells of equal ratio: a peak lies in the cell whose number is the floor of its scaled logarithm.
PEAKS_PER_CELL = """
    SELECT floor(ln(peak) * $scale)::INTEGER AS cell, count(*) AS n FROM read_parquet($path)
    GROUP BY cell ORDER BY cell
"""

# In the order of the block: of a feature, the highest first.
PEAKS_OF_BLOCK = "SELECT feature, role, strongest, peak, sample FROM block"

CREATE_LEADERS = """
    CREATE TABLE leaders (role UTINYINT, feature INTEGER, sample INTEGER, first FLOAT, second FLOAT)
"""

INSERT_LEADERS = "INSERT INTO leaders SELECT role, feature, sample, first, second FROM counted"

# `who` is odd where it is the strongest of its sample: see CREATE_BY_PEAK.
PEAK_OF_RANK = """
    SELECT peak FROM by_peak
    WHERE peak > $lower::FLOAT AND peak <= $upper::FLOAT AND who % 2 = 1
    ORDER BY peak LIMIT 1 OFFSET $rank
"""

# `who` is 8 feature + 2 role + strongest: one number sorts and groups faster than three.
CREATE_BY_PEAK = """
    CREATE TABLE by_peak AS
    SELECT peak, feature::BIGINT * 8 + role * 2 + strongest::INTEGER AS who FROM activations
    ORDER BY peak, who
"""


def threshold_grid(floor: float, low: float | None, high: float | None) -> list[float]:
    """The floor, then round numbers between the smallest and the largest peak.

    The finest of the series with 24, 12, 6 or 3 equal ratios per decade (the preferred numbers of
    engineering) that stays within MAX_THRESHOLDS, over at most four decades. The numbers do not
    depend on the run, so two runs of one SAE share thresholds and their curve needs no scan.
    """
    if low is None or high is None:
        return [floor]
    low = max(low, high * 1e-4, floor)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for stride in (1, 2, 4, 8):
        series = [float(f"{step}e{decade}") for decade in decades for step in E24[::stride]]
        inside = [number for number in series if low < number < high]
        if len(inside) < MAX_THRESHOLDS:
            break
    return [floor, *inside]


def refined(
    con: Connection, path: str, thresholds: list[float], high: float | None, n_features: int
) -> np.ndarray:
    """The thresholds as float32, ascending, and others between them wherever more than
    about PEAKS_BETWEEN peaks would lie between two."""
    coarse = np.array(thresholds, np.float32)
    most = GRID_CELLS // n_features
    if high is None or len(coarse) >= most:
        return coarse
    cells = con.execute(PEAKS_PER_CELL, {"path": path, "scale": CELLS_PER_E}).fetchnumpy()
    # The upper edge of a cell, as a peak could be: what is exact is the comparison with it.
    edge = np.exp((cells["cell"] + 1) / CELLS_PER_E).astype(np.float32)
    interval = np.searchsorted(coarse, edge)
    finer, n_below, current = [], 0, -1
    for i, n in enumerate(cells["n"].tolist()):
        if interval[i] != current:
            current, n_below = interval[i], 0
        elif n_below + n > PEAKS_BETWEEN:
            finer.append(edge[i - 1])
            n_below = 0
        n_below += n
    if len(coarse) + len(finer) > most:
        finer = finer[:: -(-len(finer) // (most - len(coarse)))]
    return np.unique(np.concatenate([coarse, np.array(finer, np.float32)]))


def count_above(
    block: Mapping[str, np.ndarray], thresholds: np.ndarray, counts: np.ndarray, first: int
) -> None:
    """Fills int32 `[thresholds, roles, features of the block]`: the samples above each threshold,
    for each role and for the strongest of all."""
    n_thresholds, _, n_features = counts.shape
    # A peak is above every threshold before this one, and above none of those that follow.
    n_passed = np.searchsorted(thresholds, block["peak"], side="left")
    cell = (block["feature"] - first) * (n_thresholds + 1) + n_passed
    for code in ROLE_CODES.values():
        of_role = _of_role(block, code)
        per_cell = np.bincount(cell[of_role], minlength=n_features * (n_thresholds + 1))
        rising = per_cell.reshape(n_features, n_thresholds + 1)[:, ::-1].cumsum(axis=1)
        counts[:, code] = rising[:, -2::-1].T


def _of_role(block: Mapping[str, np.ndarray], code: int) -> np.ndarray:
    """The peaks of a role, or of every sample's strongest: bool `[peaks]`."""
    return block["strongest"] if code == ROLE_CODES[EVERY_ROLE] else block["role"] == code


def median_peak(con: Connection, thresholds: np.ndarray, above: np.ndarray) -> float:
    """The median of the peaks, one per sample and feature, to three significant digits; at least
    the floor.

    `above` are the peaks above each threshold, int64 `[thresholds]`; there is one at least. Only
    those between the two thresholds around the middle are read, some 250,000 of any number.
    """
    at_or_below = above[0] - above
    middle = []
    for rank in {(above[0] - 1) // 2, above[0] // 2}:
        rung = int(np.searchsorted(at_or_below, rank, side="right")) - 1
        upper = float(thresholds[rung + 1]) if rung + 1 < len(thresholds) else math.inf
        bounds = {"lower": float(thresholds[rung]), "upper": upper}
        bounds["rank"] = int(rank - at_or_below[rung])
        middle.append(one_row(con, PEAK_OF_RANK, **bounds)[0])
    return max(float(f"{sum(middle) / len(middle):.3g}"), float(thresholds[0]))


class Leaders(NamedTuple):
    """Of every role and feature the highest peak, its sample, and the highest of another sample;
    0 and -1 where there is none. Arrays `[roles, n_features]`."""

    sample: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of_nothing(cls, n_features: int) -> Leaders:
        shape = (len(ROLE_CODES), n_features)
        peaks = np.zeros((2, *shape), np.float32)
        return cls(np.full(shape, -1, np.int32), peaks[0], peaks[1])

    def look_through(self, block: Mapping[str, np.ndarray]) -> None:
        """Fills in the features of a block, whose peaks are in its order."""
        for code in ROLE_CODES.values():
            of_role = _of_role(block, code)
            feature, peak = block["feature"][of_role], block["peak"][of_role]
            starts = np.append(True, feature[1:] != feature[:-1])[: len(feature)]
            highest = np.flatnonzero(starts)
            self.sample[code, feature[highest]] = block["sample"][of_role][highest]
            self.first[code, feature[highest]] = peak[highest]
            next_one = highest[highest + 1 < len(feature)] + 1
            next_one = next_one[~starts[next_one]]
            self.second[code, feature[next_one]] = peak[next_one]

    def write(self, con: Connection) -> None:
        con.execute(CREATE_LEADERS)
        columns = {name: values.ravel() for name, values in self._asdict().items()}
        n_roles, n_features = self.first.shape
        columns["role"] = np.repeat(np.arange(n_roles, dtype=np.uint8), n_features)
        columns["feature"] = np.tile(np.arange(n_features, dtype=np.int32), n_roles)
        _insert(con, INSERT_LEADERS, columns)


def write_grid(con: Connection, thresholds: np.ndarray, counts: np.ndarray) -> None:
    """The tables of the grid; the activations are there already."""
    n_thresholds, n_roles, n_features = counts.shape
    con.execute(CREATE_GRID)
    numbers = np.arange(n_thresholds, dtype=np.int32)
    _insert(con, INSERT_THRESHOLDS, {"rung": numbers, "threshold": thresholds})
    role = np.repeat(np.arange(n_roles, dtype=np.uint8), n_features)
    feature = np.tile(np.arange(n_features, dtype=np.int32), n_roles)
    together = max(1, ROWS_PER_INSERT // len(role))
    for first in range(0, n_thresholds, together):
        above = counts[first : first + together]
        columns = {
            "rung": np.repeat(numbers[first : first + together], len(role)),
            "role": np.tile(role, len(above)),
            "feature": np.tile(feature, len(above)),
            "n": above.ravel(),
        }
        _insert(con, INSERT_COUNTS, columns)
    con.execute(CREATE_BY_PEAK)


def _insert(con: Connection, sql: str, columns: Mapping[str, object]) -> None:
    """Carries out an INSERT that reads the columns as `counted`."""
    con.register("counted", pa.table(dict(columns)))
    con.execute(sql)
    con.unregister("counted")


# ---- counts when asked

SELECT_THRESHOLDS = "SELECT threshold FROM {run}.rungs ORDER BY rung"

# Rows come in the order in which they were inserted: to sort them again would take longer.
SUPPORT_ON_GRID = "SELECT n FROM {run}.ladder WHERE rung = $rung"

SUPPORT_BETWEEN = """
    SELECT who FROM {run}.by_peak WHERE peak > $threshold::FLOAT AND peak <= $upper::FLOAT
"""


# Rows lie in the order of features; of one feature only a part is read.
PAIRS_OF = """
    SELECT feature, sample FROM {run}.activations
    WHERE feature >= {first} AND feature < {beyond} AND peak > $threshold::FLOAT AND {of_role}
      AND sample >= $from AND sample < $to
"""

# Strongest rows of a feature are its samples, so the sum is n_samples times their mean.
TOTAL_PEAKS = "SELECT {total} AS total FROM {run}.features ORDER BY feature"

SELECT_TOKENS = "SELECT n_content FROM {run}.samples ORDER BY sample"

SELECT_SHARED = """
    SELECT sample FROM {run}.samples
    WHERE sample_id IN (SELECT sample_id FROM {other}.samples) ORDER BY sample
"""

SELECT_LEADERS = "SELECT role, feature, sample, first, second FROM {run}.leaders"


class SupportQueries(Files):
    """Counts of samples."""

    @remembered
    def support(self, run: str, threshold: float, role: str = EVERY_ROLE) -> np.ndarray:
        """Samples in which each feature peaks strictly above `threshold`: int64 `[n_features]`.

        Exact for every threshold at or above the floor: the counts at the next one of the grid,
        plus a scan of the peaks between. Peaks are float32 and so is the comparison, as in
        fac.coverage.is_active. Raises InputError below the floor, where peaks were not stored.
        """
        code = role_code(role)
        with self._reading(run) as cursor:
            exact = self._above_floor(run, threshold)
            # A page asks for one threshold several times, and for every role.
            counts = self._once(run, exact, lambda: self._counts(cursor, run, exact))
        return counts[code].astype(np.int64)

    @remembered
    def singletons(
        self, run: str, threshold: float, role: str = EVERY_ROLE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features that peak above `threshold` in exactly one sample, and that sample: two int
        arrays `[singletons]`, in the order of features. Exact and refused as `support` is."""
        code = role_code(role)
        with self._reading(run):
            exact = self._above_floor(run, threshold)
            leaders = self._table(run, SELECT_LEADERS)
            n_features = self._summary(run)["n_features"]
        of_role = leaders.slice(code * n_features, n_features)
        first, second, sample = (of_role[c].to_numpy() for c in ("first", "second", "sample"))
        feature = np.flatnonzero((first > exact) & (second <= exact))
        return feature, sample[feature]

    def pairs(
        self,
        run: str,
        threshold: float,
        role: str = EVERY_ROLE,
        *,
        ranges: Sequence[tuple[int, int]],
        samples: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which samples, all or those of a range, fire the features of these ranges (first, one
        beyond the last), which ascend: feature and sample, two int32 arrays `[pairs]`, in the order
        of features. Exact and refused as `support` is; not remembered, as there are many."""
        code = role_code(role)
        of_role = "strongest" if role == EVERY_ROLE else f"role = {code}"
        parts = []
        with self._reading(run) as cursor:
            begin, end = samples or (0, self._summary(run)["n_samples"])
            threshold = self._above_floor(run, threshold)
            values = {"threshold": threshold, "from": int(begin), "to": int(end)}
            for first, beyond in ranges:
                names = {"run": sql_name(run), "first": int(first), "beyond": int(beyond)}
                sql = PAIRS_OF.format(of_role=of_role, **names)
                parts.append(cursor.execute(sql, values).fetchnumpy())
        none = np.zeros(0, np.int32)
        feature, sample = (
            np.concatenate([none, *(part[column] for part in parts)])
            for column in ("feature", "sample")
        )
        return feature, sample

    @remembered
    def tokens_by_sample(self, run: str) -> np.ndarray:
        """Content tokens of every sample, in all the roles that were measured: int64
        `[n_samples]`."""
        with self._reading(run):
            return self._table(run, SELECT_TOKENS)["n_content"].to_numpy().astype(np.int64)

    @remembered
    def shared(self, run: str, other: str) -> np.ndarray:
        """The samples of a run that the other one has too, by their content: int32, ascending."""
        with self._reading(run, other) as cursor:
            names = {"run": sql_name(run), "other": sql_name(other)}
            shared = cursor.execute(SELECT_SHARED.format(**names)).fetchnumpy()["sample"]
        return np.asarray(shared, np.int32)

    @remembered
    def total_peaks(self, run: str, role: str = EVERY_ROLE) -> np.ndarray:
        """Every feature's peaks added up over the samples, whatever the threshold: float64
        `[n_features]`."""
        role_code(role)
        total = "n_samples * mean_peak" if role == EVERY_ROLE else f"total_{role}"
        with self._reading(run) as cursor:
            sql = TOTAL_PEAKS.format(total=total, run=sql_name(run))
            return cursor.execute(sql).fetchnumpy()["total"]

    def _above_floor(self, run: str, threshold: float) -> float:
        """The threshold as float32. Raises InputError below the floor of a run that is read."""
        exact, floor = float32(threshold), self._summary(run)["floor"]
        if exact < float32(floor):
            raise InputError(
                f"Threshold {threshold:g} is below the floor {floor:g} of run {run}, "
                f"under which nothing was stored: ask for more, or measure with a lower floor."
            )
        return exact

    def _counts(self, cursor: Connection, run: str, threshold: float) -> np.ndarray:
        """Samples above the float32 threshold, int32 `[roles, n_features]`."""
        summary = self._summary(run)
        n_features = summary["n_features"]
        counts = np.zeros((len(ROLE_CODES), n_features), np.int32)
        if threshold >= summary["max_peak"]:
            return counts
        grid = self._table(run, SELECT_THRESHOLDS)["threshold"].to_numpy()
        at = int(np.searchsorted(grid, np.float32(threshold)))
        upper = math.inf
        if at < len(grid):
            upper = float(grid[at])
            sql = SUPPORT_ON_GRID.format(run=sql_name(run))
            counts += cursor.execute(sql, {"rung": at}).fetchnumpy()["n"].reshape(counts.shape)
        if threshold < upper:
            between = {"threshold": threshold, "upper": upper}
            peaks = cursor.execute(SUPPORT_BETWEEN.format(run=sql_name(run)), between).fetchnumpy()
            # Feature, role, and whether it is the strongest of its sample: see CREATE_BY_PEAK.
            by_who = np.bincount(peaks["who"], minlength=8 * n_features).reshape(-1, 8).T
            role_strongest = np.ascontiguousarray(by_who, np.int32).reshape(4, 2, -1)[: len(ROLES)]
            counts[:-1] += role_strongest.sum(axis=1)
            counts[-1] += role_strongest[:, 1].sum(axis=0)
        return counts
