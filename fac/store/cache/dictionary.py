"""The cache of an SAE run: what the SAE alone says of its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.manifest import AnyManifest
from fac.store.cache.files import Files
from fac.store.cache.fill import parquet, write_meta
from fac.store.cache.sql import Connection
from fac.store.cache.tables import aligned
from fac.store.memo import remembered
from fac.store.runs import Runs

CREATE_FEATURES = """
    CREATE TABLE features AS
    SELECT *, lower(array_to_string(promotes, ' ')) AS folded FROM read_parquet($path)
    ORDER BY feature
"""

SELECT_DICTIONARY = """
    SELECT feature, threshold, x, y, promotes, suppresses, neighbours, cosines
    FROM {run}.features ORDER BY feature
"""


def fill_sae(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    con.execute(CREATE_FEATURES, {"path": parquet(runs, manifest.run, "features")})
    write_meta(con, manifest, {})


class DictionaryQueries(Files):
    """Features as the SAE has them."""

    @remembered
    def points(self, sae_run: str) -> pa.Table:
        """The map of the dictionary: feature, x, y (float32), in feature order."""
        with self._reading(sae_run):
            return self._table(sae_run, SELECT_DICTIONARY).select(["feature", "x", "y"])

    @remembered
    def sae_feature(self, sae_run: str, feature: int) -> dict[str, Any] | None:
        """What the SAE alone says of a feature; None outside the dictionary."""
        with self._reading(sae_run):
            dictionary = self._table(sae_run, SELECT_DICTIONARY)
        (row,) = aligned(dictionary, np.array([feature])).to_pylist()
        return row if row["feature"] is not None else None

    def _sae_thresholds(self, sae_run: str | None, features: np.ndarray) -> pa.Array:
        """The SAE's own threshold of each of these features; null where it is unknown."""
        if sae_run is None:
            return pa.nulls(len(features), pa.float32())
        dictionary = self._table(sae_run, SELECT_DICTIONARY).select(["feature", "threshold"])
        return aligned(dictionary, features)["threshold"]

    def _promoted(self, sae_run: str | None, features: np.ndarray) -> pa.Array:
        """The tokens that each of these features promotes; none where it is unknown."""
        if sae_run is None:
            return pa.array([[]] * len(features), pa.list_(pa.string()))
        dictionary = self._table(sae_run, SELECT_DICTIONARY).select(["feature", "promotes"])
        tokens = aligned(dictionary, features)["promotes"]
        return pc.coalesce(tokens, pa.scalar([], tokens.type))
