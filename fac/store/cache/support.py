"""In how many samples each feature fires above a threshold: counted on a grid while building,
exact at any threshold when asked.

Tables `rungs` (rung, threshold): the threshold grid, the floor first; `ladder` (rung, role,
feature, n): samples above each. A count between two thresholds of the grid adds the peaks that lie
between, which `by_peak` has together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.schema import EVERY_ROLE, ROLES
from fac.store.cache.files import Files
from fac.store.cache.tables import ROLE_CODES, Connection, float32, role_code, sql_name
from fac.store.memo import remembered

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

PEAKS_OF_BLOCK = "SELECT feature, role, strongest, peak FROM block"

# `who` is 8 feature + 2 role + strongest: one number sorts and groups faster than three.
CREATE_BY_PEAK = """
    CREATE TABLE by_peak AS
    SELECT peak, feature::BIGINT * 8 + role * 2 + strongest::INTEGER AS who FROM activations
    ORDER BY peak, who
"""

SELECT_THRESHOLDS = "SELECT threshold FROM {run}.rungs ORDER BY rung"

# Rows come in the order in which they were inserted: to sort them again would take longer.
SUPPORT_ON_GRID = "SELECT n FROM {run}.ladder WHERE rung = $rung"

SUPPORT_BETWEEN = """
    SELECT who FROM {run}.by_peak WHERE peak > $threshold::FLOAT AND peak <= $upper::FLOAT
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


def count_above(con: Connection, thresholds: np.ndarray, counts: np.ndarray, first: int) -> None:
    """Fills int32 `[thresholds, roles, features of the block]`: the samples above each threshold,
    for each role and for the strongest of all."""
    block = con.execute(PEAKS_OF_BLOCK).fetchnumpy()
    n_thresholds, _, n_features = counts.shape
    # A peak is above every threshold before this one, and above none of those that follow.
    n_passed = np.searchsorted(thresholds, block["peak"], side="left")
    cell = (block["feature"] - first) * (n_thresholds + 1) + n_passed
    for code in range(len(ROLES) + 1):
        of_role = block["strongest"] if code == len(ROLES) else block["role"] == code
        per_cell = np.bincount(cell[of_role], minlength=n_features * (n_thresholds + 1))
        rising = per_cell.reshape(n_features, n_thresholds + 1)[:, ::-1].cumsum(axis=1)
        counts[:, code] = rising[:, -2::-1].T


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


class SupportQueries(Files):
    """Counts of samples."""

    @remembered
    def support(self, run: str, threshold: float, role: str = EVERY_ROLE) -> np.ndarray:
        """Samples in which each feature peaks strictly above `threshold`: int64 `[n_features]`.

        Exact for every threshold at or above the floor: the counts at the next one of the grid,
        plus a scan of the peaks between. Peaks are float32 and so is the comparison, as in
        fac.coverage.is_active. Raises InputError below the floor, where peaks were not stored.
        """
        code, exact = role_code(role), float32(threshold)
        with self._reading(run) as cursor:
            floor = self._summary(run)["floor"]
            if exact < float32(floor):
                raise InputError(
                    f"Threshold {threshold:g} is below the floor {floor:g} of run {run}, "
                    f"under which nothing was stored: ask for more, or measure with a lower floor."
                )
            # A page asks for one threshold several times, and for every role.
            counts = self._once(run, exact, lambda: self._counts(cursor, run, exact))
        return counts[code].astype(np.int64)

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
