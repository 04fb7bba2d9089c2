"""The caches of explain and relevance runs: their tables as the run has them, and `explained`, the
features that have a text, with the score that is shown beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.config import SCORERS
from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import LEAST_SCORED, SURELY_RELEVANT
from fac.store.cache.files import (
    Connection,
    Files,
    Rows,
    aligned,
    dicts,
    parquet,
    refuse_doubles,
    rows_about,
    sql_name,
    write_meta,
)
from fac.store.memo import remembered
from fac.store.runs import Runs

# A number that is none is unknown: in a table of arrays it is easily written as NaN.
KNOWN_SCORES = """
    * REPLACE (nullif(value, 'nan') AS value, nullif(low, 'nan') AS low,
               nullif(high, 'nan') AS high)
"""

TABLES = {
    "explanations": ("*", "feature"),
    "scores": (KNOWN_SCORES, "feature, score"),
    "examples": ("*", "feature, number"),
}
"""Of an explain run: its columns, and what no two rows share, which is their order."""

CREATE_TABLE = "CREATE TABLE {table} AS SELECT {columns} FROM read_parquet($path) ORDER BY {key}"

CREATE_EXPLAINED = """
    CREATE TABLE explained AS
    SELECT e.feature, e.text AS explanation, e.explainer, s.value AS score, s.score AS score_kind,
           s.low AS score_low, lower(e.text) AS folded
    FROM explanations e LEFT JOIN (
        SELECT * FROM scores WHERE list_contains($preference, score)
        QUALIFY row_number() OVER (
            PARTITION BY feature ORDER BY value IS NULL, list_position($preference, score)) = 1
    ) s USING (feature)
    WHERE e.text IS NOT NULL ORDER BY e.feature
"""


TESTED_BY_FEW = f"""
    SELECT feature FROM scores
    WHERE score = 'auroc' AND value IS NOT NULL AND n_positive <= {LEAST_SCORED // 2}
"""

# Runs of earlier versions have scores of features that fire in too few samples.
DROP_SCORES_OF_FEW = """
    UPDATE scores SET value = NULL, low = NULL, high = NULL
    WHERE score = 'auroc' AND feature IN (
        SELECT feature FROM read_parquet($path) WHERE list_contains($features, feature)
        GROUP BY feature HAVING count(DISTINCT sample) < $least)
"""


def fill_explain(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    run = manifest.run
    for table, (columns, key) in TABLES.items():
        create = CREATE_TABLE.format(table=table, columns=columns, key=key)
        con.execute(create, {"path": parquet(runs, run, table)})
        refuse_doubles(con, run, table, key)
    if few := con.execute(TESTED_BY_FEW).fetchnumpy()["feature"].tolist():
        path = parquet(runs, manifest.inputs.measure, "activations")
        con.execute(DROP_SCORES_OF_FEW, {"path": path, "features": few, "least": LEAST_SCORED})
    preference = [name for name in SCORERS if SCORERS[name].in_tables]
    con.execute(CREATE_EXPLAINED, {"preference": preference})
    write_meta(con, manifest, {"measure": manifest.inputs.measure})


SELECT_EXPLAINED = """
    SELECT feature, explanation, explainer, score, score_kind, score_low FROM {run}.explained
    ORDER BY feature
"""

EXPLAINED_COLUMNS = {
    "explanation": pa.string(),
    "explainer": pa.string(),
    "score": pa.float64(),
    "score_kind": pa.string(),
    "score_low": pa.float64(),
}

SELECT_EXPLANATIONS = """
    SELECT feature, explainer, text, status, reason, source, prompt_hash, inputs
    FROM {run}.explanations ORDER BY feature
"""

SELECT_SCORES = """
    SELECT feature, score, value, low, high, n, n_positive, n_unreadable FROM {run}.scores
    ORDER BY feature, score
"""

SOURCES_OF = "SELECT DISTINCT source_feature FROM {run}.examples WHERE feature = $feature"

# One part a feature, because only an equality keeps DuckDB from reading the lists of all spans.
SPANS_OF_SOURCE = """
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


class ExplanationQueries(Files):
    """Texts, their scores, and what those were measured on."""

    @remembered
    def explanations(self, explain_run: str, features: Sequence[int] | None = None) -> Rows:
        """The run's explanations, of all features or of these, in feature order.

        The columns of schema.EXPLANATIONS, and `scores`: by name of the score a dict of value, low,
        high, n, n_positive and n_unreadable.
        """
        with self._reading(explain_run):
            texts = self._table(explain_run, SELECT_EXPLANATIONS)
            values = self._table(explain_run, SELECT_SCORES)
        rows = rows_about(texts, features).to_pylist()
        scores: dict[int, dict[str, Any]] = {row["feature"]: {} for row in rows}
        for score in rows_about(values, features).to_pylist():
            scores.setdefault(score.pop("feature"), {})[score.pop("score")] = score
        return [{**row, "scores": scores[row["feature"]]} for row in rows]

    @remembered
    def score_rows(self, explain_run: str) -> pa.Table:
        """The rows of schema.SCORES; value, low and high are null where undefined, and where the
        feature fires in too few samples."""
        with self._reading(explain_run):
            return self._table(explain_run, SELECT_SCORES)

    def texts(self, explain_run: str) -> list[tuple[int, str]]:
        """(feature, text) of every explanation that has one, in feature order."""
        with self._reading(explain_run):
            table = self._table(explain_run, SELECT_EXPLAINED)
        columns = (table["feature"].to_pylist(), table["explanation"].to_pylist())
        return list(zip(*columns, strict=True))

    @remembered
    def examples(self, explain_run: str, measure_run: str, feature: int) -> Rows:
        """The held-out test of a feature, in its shuffled order.

        number, tokens, activations (of the feature: all 0 in a negative, in which it is silent),
        peak_index (in a negative, the token for which the other feature's span was kept), sample,
        role, positive, hard, detected, fuzzed, fuzz_right, and source_feature, source_kind,
        source_rank: which span of the measure run it is. Raises InputError where the test was made
        from another measure run.
        """
        source_run = self.summary(explain_run)["measure"]
        if source_run != measure_run:
            raise InputError(
                f"The examples of run {explain_run} come from {source_run}, not from "
                f"{measure_run}: ask for them together with that run."
            )
        with self._reading(explain_run, measure_run) as cursor:
            name, values = sql_name(explain_run), {"feature": int(feature)}
            sources = cursor.execute(SOURCES_OF.format(run=name), values).fetchall()
            if not sources:
                return []
            parts = [
                SPANS_OF_SOURCE.format(measure=sql_name(measure_run), feature=int(source))
                for (source,) in sources
            ]
            sql = EXAMPLES_OF.format(run=name, spans=" UNION ALL ".join(parts))
            rows = dicts(cursor, sql, **values)
        for row in rows:
            if row["tokens"] is None:
                raise InputError(
                    f"Example {row['number']} of feature {feature} in run {explain_run} is the "
                    f"{row['source_kind']} span {row['source_rank']} of feature "
                    f"{row['source_feature']}, which {measure_run} does not have: explain again."
                )
        return rows

    def _first_explained(
        self, explain_runs: Sequence[str], features: np.ndarray, *names: str
    ) -> pa.Table:
        """These EXPLAINED_COLUMNS, of the first run that has a text for each feature."""
        columns = {name: pa.nulls(len(features), EXPLAINED_COLUMNS[name]) for name in names}
        lacking = pa.array(np.ones(len(features), bool))
        for run in explain_runs:
            of_run = aligned(
                self._table(run, SELECT_EXPLAINED).select(["feature", *names]), features
            )
            for name in names:
                columns[name] = pc.if_else(lacking, of_run[name], columns[name])
            lacking = pc.and_(lacking, pc.is_null(of_run["feature"]))
        return pa.table(columns)


# ---- relevance

# Unknown numbers as in `scores` above.
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
    def relevant(
        self, relevance_run: str, n_features: int, levels: Sequence[str] = SURELY_RELEVANT
    ) -> np.ndarray:
        """Which features the judge puts on one of these levels: bool `[n_features]`.

        Raises InputError if it judged features beyond those.
        """
        with self._reading(relevance_run) as cursor:
            sql = RELEVANT_FEATURES.format(run=sql_name(relevance_run))
            features = cursor.execute(sql, {"levels": [*levels]}).fetchnumpy()["feature"]
        if len(features) and not 0 <= features[0] <= features[-1] < n_features:
            raise InputError(
                f"Run {relevance_run} judges features {features[0]} to {features[-1]}, but ids run "
                f"to {n_features - 1}: it was made for another SAE."
            )
        relevant = np.zeros(n_features, bool)
        relevant[features] = True
        return relevant
