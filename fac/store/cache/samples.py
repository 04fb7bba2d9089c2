"""The texts of a measure run: spans and near misses of a feature, the samples it fires in, and
samples on their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from fac.schema import EVERY_ROLE, ROLES
from fac.store.cache.features import FeatureQueries
from fac.store.cache.tables import Rows, dicts, float32, page_bounds, role_code, sql_name
from fac.store.memo import remembered

SPAN_KINDS = {None: "('top', 'spread')", "top": "('top')", "spread": "('spread')"}
"""The kinds of span that are asked for, in SQL."""

# Spans and near misses lie in the order in which they are shown.
SPANS_OF = """
    SELECT kind, rank, quantile, sample, role, position, peak, peak_index, tokens, activations
    FROM {run}.spans WHERE feature = {feature} AND kind IN {kinds}
"""

NEAR_OF = """
    SELECT rank, sample, role, position, pre, peak_index, tokens
    FROM {run}.near WHERE feature = {feature}
"""

FIRING_ROWS = """
    FROM {{run}}.activations
    WHERE feature = $feature AND peak > $threshold::FLOAT AND {one_per_sample}
"""

SELECT_SAMPLES = """
    SELECT sample, sample_id, messages, label, n_tokens, n_content, n_cut FROM {run}.samples
"""

SAMPLES_MATCHING = """
    SELECT sample FROM {run}.samples WHERE $text IS NULL OR contains(folded, lower($text))
    ORDER BY sample
"""


class SampleQueries(FeatureQueries):
    """Spans and samples."""

    @remembered
    def spans(self, run: str, feature: int, kind: str | None = None) -> Rows:
        """Its spans, "top" before "spread" unless one kind is asked for, each strongest first."""
        names = {"run": sql_name(run), "feature": int(feature), "kinds": SPAN_KINDS[kind]}
        with self._reading(run) as cursor:
            return dicts(cursor, SPANS_OF.format(**names))

    @remembered
    def near(self, run: str, feature: int, *, sae_run: str | None = None) -> Rows:
        """The dataset's highest pre-activations of the feature, highest first.

        `ratio` divides them by the SAE's own threshold; None where that is zero or unknown.
        """
        with self._reading(run, sae_run) as cursor:
            (threshold,) = self._sae_thresholds(sae_run, np.array([feature])).to_pylist()
            rows = dicts(cursor, NEAR_OF.format(run=sql_name(run), feature=int(feature)))
        divides = threshold is not None and threshold > 0
        return [{**row, "ratio": row["pre"] / threshold if divides else None} for row in rows]

    def rows(
        self,
        run: str,
        feature: int,
        *,
        threshold: float = 0.0,
        role: str = EVERY_ROLE,
        offset: int = 0,
        limit: int = 20,
    ) -> tuple[Rows, int]:
        """The samples in which the feature is active, strongest first, and how many there are."""
        code = role_code(role)
        one_per_sample = "strongest" if role == EVERY_ROLE else f"role = {code}"
        rows, n_matching = self._page(
            run,
            "sample, role, peak, position, n_tokens",
            FIRING_ROWS.format(one_per_sample=one_per_sample),
            "peak DESC, sample",
            {"feature": int(feature), "threshold": float32(threshold)},
            offset,
            limit,
        )
        return [{**row, "role": ROLES[row["role"]]} for row in rows], n_matching

    def sample(self, run: str, row: int) -> dict[str, Any] | None:
        """One sample of the measured dataset with its messages; None past the end."""
        return self._first(run, SELECT_SAMPLES + "WHERE sample = $row", row=int(row))

    def samples_page(
        self, run: str, *, search: str = "", offset: int = 0, limit: int = 50
    ) -> tuple[Rows, int]:
        """One page of the samples whose text or label contains `search`, and how many do."""
        page = page_bounds(offset, limit)
        with self._reading(run) as cursor:
            sql = SAMPLES_MATCHING.format(run=sql_name(run))
            values = {"text": search.strip() or None}
            matching = cursor.execute(sql, values).fetchnumpy()["sample"]
            on_page = matching[page["offset"] :][: page["limit"]].tolist()
            sql = SELECT_SAMPLES + "WHERE sample IN (SELECT unnest($rows)) ORDER BY sample"
            return dicts(cursor, sql.format(run=sql_name(run)), rows=on_page), len(matching)
