"""The cache of a relevance run: what a judge says of features for one task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import RELEVANT
from fac.store.cache.files import Files
from fac.store.cache.fill import parquet, refuse_doubles, write_meta
from fac.store.cache.sql import Connection, Rows, sql_name
from fac.store.cache.tables import rows_about
from fac.store.memo import remembered
from fac.store.runs import Runs

# A number that is none is unknown: in a table of arrays it is easily written as NaN.
CREATE_RELEVANCE = """
    CREATE TABLE relevance AS
    SELECT * REPLACE (nullif(effect, 'nan') AS effect, nullif(p, 'nan') AS p,
                      nullif(q, 'nan') AS q)
    FROM read_parquet($path) ORDER BY feature
"""

SELECT_RELEVANCE = """
    SELECT feature, level, rationale, effect, p, q, n_with, n_without, prompt_hash
    FROM {run}.relevance ORDER BY feature
"""

COUNT_LEVELS = "SELECT level, count(*) FROM {run}.relevance GROUP BY level ORDER BY level"

RELEVANT_FEATURES = """
    SELECT feature FROM {run}.relevance WHERE list_contains($levels, level) ORDER BY feature
"""


def fill_relevance(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    con.execute(CREATE_RELEVANCE, {"path": parquet(runs, manifest.run, "relevance")})
    refuse_doubles(con, manifest.run, "relevance", "feature")
    write_meta(con, manifest, {"measure": manifest.inputs.measure})


class RelevanceQueries(Files):
    """A judge's verdicts."""

    @remembered
    def relevance(self, relevance_run: str, features: Sequence[int] | None = None) -> Rows:
        """The judge's verdicts, on all judged features or these, in feature order: the columns of
        schema.RELEVANCE."""
        with self._reading(relevance_run):
            table = self._table(relevance_run, SELECT_RELEVANCE)
        return rows_about(table, features).to_pylist()

    @remembered
    def relevance_counts(self, relevance_run: str) -> dict[str, int]:
        """How many features the judge put on each level, or could not."""
        with self._reading(relevance_run) as cursor:
            return dict(cursor.execute(COUNT_LEVELS.format(run=sql_name(relevance_run))).fetchall())

    @remembered
    def relevant(self, relevance_run: str, n_features: int) -> np.ndarray:
        """Which features the judge calls relevant, at a level in RELEVANT: bool `[n_features]`.

        Raises InputError if it judged features beyond those.
        """
        with self._reading(relevance_run) as cursor:
            sql = RELEVANT_FEATURES.format(run=sql_name(relevance_run))
            features = cursor.execute(sql, {"levels": [*RELEVANT]}).fetchnumpy()["feature"]
        if len(features) and not 0 <= features[0] <= features[-1] < n_features:
            raise InputError(
                f"Run {relevance_run} judges features {features[0]} to {features[-1]}, but ids run "
                f"to {n_features - 1}: it was made for another SAE."
            )
        relevant = np.zeros(n_features, bool)
        relevant[features] = True
        return relevant
