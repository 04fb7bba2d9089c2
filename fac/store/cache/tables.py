"""Rows of features from tables in feature order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def aligned(table: pa.Table, features: np.ndarray) -> pa.Table:
    """The row of each of these features in their order, from a table with one row a feature; null
    where there is none."""
    in_table = table["feature"].to_numpy()
    row = np.searchsorted(in_table, features)
    lacking = row >= len(in_table)
    row[lacking] = 0
    if len(in_table):
        lacking |= in_table[row] != features
    return table.take(pa.array(row, pa.int64(), mask=lacking))


def rows_about(table: pa.Table, features: Sequence[int] | None) -> pa.Table:
    """Every row about these features, or about all, in the order of the table."""
    if features is None:
        return table
    in_table, ids = table["feature"].to_numpy(), np.unique(np.array(features, np.int64))
    first, beyond = (np.searchsorted(in_table, ids, side).tolist() for side in ("left", "right"))
    rows = [row for bounds in zip(first, beyond, strict=True) for row in range(*bounds)]
    return table.take(pa.array(rows, pa.int64()))
