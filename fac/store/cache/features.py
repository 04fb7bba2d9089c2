"""The cache of an SAE run, and the reading of a measure run: its features, with what the SAE and
explanations say of them, and their spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import EVERY_ROLE, ROLES
from fac.store.cache.files import (
    Connection,
    Rows,
    aligned,
    dicts,
    float32,
    page_bounds,
    parquet,
    read_search,
    role_code,
    sql_name,
    write_meta,
)
from fac.store.cache.interpret import EXPLAINED_COLUMNS, ExplanationQueries
from fac.store.memo import remembered
from fac.store.runs import Runs

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

FEATURES_SHOWN = ("all", "alive", "silent")

HISTOGRAM_BINS = 30

SELECT_FEATURES = """
    SELECT feature, label, n_samples, n_user, n_assistant, n_system, n_tokens, max_peak,
           mean_peak, peak_system, peak_user, peak_assistant
    FROM {run}.features ORDER BY feature
"""

SELECT_NEAR_OF = """
    SELECT feature, max(pre) AS pre FROM {{run}}.near WHERE role = '{role}'
    GROUP BY feature ORDER BY feature
"""

SELECT_HIGHEST_NEAR = {
    EVERY_ROLE: "SELECT feature, pre FROM {run}.near WHERE rank = 0 ORDER BY feature",
    **{role: SELECT_NEAR_OF.format(role=role) for role in ROLES},
}

FEATURES_MATCHING = """
    SELECT feature FROM {run}.features
    WHERE feature = $number OR contains(folded, lower($text))
"""

OR_IN = " OR feature IN (SELECT feature FROM {source} WHERE contains(folded, lower($text)))"

EXPLAINED_BY = "SELECT feature, folded FROM {run}.explained WHERE true"

UNLESS_BY = " AND feature NOT IN (SELECT feature FROM {run}.explained)"

PEAKS_OF = "SELECT peak FROM {run}.activations WHERE feature = {feature} AND strongest"

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


class FeatureQueries(ExplanationQueries):
    """Features, and their spans."""

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
    ) -> tuple[Rows, int]:
        """One page of the feature table, and how many features match.

        `explained` names explain runs: a feature's row has `explanation`, `explainer`, `score`,
        `score_kind` (a scorer's name) and `score_low` (the lower end of its 95 % interval) of the
        first that has a text for it, else None.
        `search` finds part of a label, of a promoted token or of that explanation, a feature number
        ("12"), or that number alone ("#12"). Equal values are in feature order, missing ones last.
        Raises InputError for a column outside SORTABLE.
        """
        if sort not in SORTABLE:
            raise InputError(f"Features sort by {', '.join(SORTABLE)}, got {sort!r}.")
        if only not in FEATURES_SHOWN:
            raise InputError(
                f"Features shown are one of {', '.join(FEATURES_SHOWN)}, got {only!r}."
            )
        page = page_bounds(offset, limit)
        with self._reading(run, sae_run, *explained) as cursor:
            table = self._table(run, SELECT_FEATURES)
            matches = self._matching(cursor, run, search, sae_run, explained)
            if ids is not None:
                listed = np.zeros(len(table), bool)
                listed[[i for i in ids if 0 <= i < len(table)]] = True
                matches &= listed
            if only != "all":
                matches &= (table["n_samples"].to_numpy() > 0) == (only == "alive")
            order = self._ordered(run, sort, descending, explained)
            matching = order[matches[order]]
            on_page = matching[page["offset"] :][: page["limit"]]
            return self._described(run, on_page, sae_run, explained).to_pylist(), len(matching)

    @remembered
    def matching(
        self, run: str, search: str, *, sae_run: str | None = None, explained: Sequence[str] = ()
    ) -> np.ndarray:
        """Which features the `search` of `features_page` finds: bool `[n_features]`."""
        with self._reading(run, sae_run, *explained) as cursor:
            return self._matching(cursor, run, search, sae_run, explained)

    def described(
        self,
        run: str,
        features: np.ndarray,
        *,
        sae_run: str | None = None,
        explained: Sequence[str] = (),
    ) -> pa.Table:
        """The rows of `features_page` for these features, in their order."""
        with self._reading(run, sae_run, *explained):
            return self._described(run, features, sae_run, explained)

    @remembered
    def feature(
        self, run: str, feature: int, *, sae_run: str | None = None, explained: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """The row of `features_page` for one feature; None outside the dictionary."""
        with self._reading(run, sae_run, *explained):
            if not 0 <= feature < len(self._table(run, SELECT_FEATURES)):
                return None
            return self._described(run, np.array([feature]), sae_run, explained).to_pylist()[0]

    @remembered
    def histogram(self, run: str, feature: int) -> tuple[list[float], list[int]]:
        """Its peaks, one per sample, in equal bins from the floor to the largest: edges [B+1],
        counts [B]; both empty for a silent feature."""
        with self._reading(run) as cursor:
            floor = self._summary(run)["floor"]
            row = aligned(self._table(run, SELECT_FEATURES), np.array([feature]))
            top = row["max_peak"][0].as_py() or 0.0
            if top <= floor:
                return [], []
            sql = PEAKS_OF.format(run=sql_name(run), feature=int(feature))
            peaks = cursor.execute(sql).fetchnumpy()["peak"]
        edges = np.linspace(floor, top, HISTOGRAM_BINS + 1)
        bins = np.floor((peaks.astype(float) - floor) / (top - floor) * HISTOGRAM_BINS)
        counts = np.bincount(np.minimum(bins, HISTOGRAM_BINS - 1).astype(int))
        return edges.tolist(), np.pad(counts, (0, HISTOGRAM_BINS - len(counts))).tolist()

    def evidence(
        self,
        anchor_run: str,
        dataset_run: str,
        sae_run: str | None,
        features: np.ndarray,
        *,
        role: str = EVERY_ROLE,
    ) -> pa.Table:
        """Figures of features on both sides, one row per feature, in the order of `features`.

        feature, anchor_peak, dataset_peak (null where silent), near_pre (the highest pre-activation
        among the dataset's near misses; null where none is known) and sae_threshold. All but the
        last are those of `role`.
        """
        role_code(role)
        peak = "max_peak" if role == EVERY_ROLE else f"peak_{role}"
        features = np.asarray(features, np.int64)
        with self._reading(anchor_run, dataset_run, sae_run):
            anchor, dataset = (
                aligned(self._table(run, SELECT_FEATURES).select(["feature", peak]), features)
                for run in (anchor_run, dataset_run)
            )
            near = aligned(self._table(dataset_run, SELECT_HIGHEST_NEAR[role]), features)
            thresholds = self._sae_thresholds(sae_run, features)
        dataset_peak = dataset[peak]
        return pa.table(
            {
                "feature": anchor["feature"],
                "anchor_peak": anchor[peak],
                "dataset_peak": pc.if_else(pc.equal(dataset_peak, 0), None, dataset_peak),
                "near_pre": near["pre"],
                "sae_threshold": thresholds,
            }
        )

    def scores(self, explained: Sequence[str], features: np.ndarray) -> pa.Array:
        """The `score` of `features_page` of each of these features."""
        with self._reading(*explained):
            return self._first_explained(explained, features, "score")["score"]

    @remembered
    def spans(self, run: str, feature: int, kind: str | None = None) -> Rows:
        """Its spans, "top" before "spread" unless one kind is asked for, each strongest first."""
        names = {"run": sql_name(run), "feature": int(feature), "kinds": SPAN_KINDS[kind]}
        with self._reading(run) as cursor:
            return dicts(cursor, SPANS_OF.format(**names))

    @remembered
    def near(
        self, run: str, feature: int, *, sae_run: str | None = None, threshold: float = 0.0
    ) -> Rows:
        """The dataset's highest pre-activations of the feature, highest first.

        `ratio` divides them by the level to reach, the larger of the SAE's own threshold and
        `threshold`; None where that is zero or unknown.
        """
        with self._reading(run, sae_run) as cursor:
            (sae_threshold,) = self._sae_thresholds(sae_run, np.array([feature])).to_pylist()
            rows = dicts(cursor, NEAR_OF.format(run=sql_name(run), feature=int(feature)))
        level = max(sae_threshold or 0.0, float32(threshold))
        return [{**row, "ratio": row["pre"] / level if level > 0 else None} for row in rows]

    def _matching(
        self,
        cursor: Connection,
        run: str,
        search: str,
        sae_run: str | None,
        explained: Sequence[str],
    ) -> np.ndarray:
        """Which features `search` finds: bool `[n_features]`."""
        text, number = read_search(search)
        everything = text is None and number is None
        matches = np.full(len(self._table(run, SELECT_FEATURES)), everything)
        if text is not None:
            sql = FEATURES_MATCHING.format(run=sql_name(run))
            if sae_run is not None:
                sql += OR_IN.format(source=f"{sql_name(sae_run)}.features")
            if explained:
                sql += OR_IN.format(source=_first_explanations(explained))
            values = {"text": text, "number": number}
            matches[cursor.execute(sql, values).fetchnumpy()["feature"]] = True
        elif number is not None:
            matches[number : number + 1] = True
        return matches

    def _ordered(
        self, run: str, sort: str, descending: bool, explained: Sequence[str]
    ) -> np.ndarray:
        """All features in the order of the table: int64 `[n_features]`, remembered."""
        table = self._table(run, SELECT_FEATURES)

        def order() -> np.ndarray:
            if sort == "score":
                features = table["feature"].to_numpy()
                values = self._first_explained(explained, features, "score")["score"]
            else:
                values = table[SORTED_BY.get(sort, sort)]
            direction = "descending" if descending else "ascending"
            keys = [("value", direction, "at_end"), ("feature", "ascending", "at_end")]
            columns = pa.table({"value": values, "feature": table["feature"]})
            return pc.sort_indices(columns, sort_keys=keys).to_numpy()

        # Scores alone stand in other files.
        by = [(each, self._attached[each][0]) for each in explained if sort == "score"]
        return self._once(run, ("order", sort, descending, *by), order)

    def _described(
        self, run: str, features: np.ndarray, sae_run: str | None, explained: Sequence[str]
    ) -> pa.Table:
        """The rows of `features_page` for these features."""
        rows = aligned(self._table(run, SELECT_FEATURES), features)
        about = self._summary(run)
        n_read = max(about["n_samples"] - about.get("n_rejected", 0), 1)
        counts = rows.drop_columns([f"peak_{role}" for role in ROLES])
        texts = self._first_explained(explained, features, *EXPLAINED_COLUMNS)
        return pa.table(
            {
                **dict(zip(counts.column_names, counts.columns, strict=True)),
                "density": rows["n_samples"].to_numpy() / n_read,
                "promotes": self._promoted(sae_run, features),
                **dict(zip(texts.column_names, texts.columns, strict=True)),
            }
        )


def _first_explanations(runs: Sequence[str]) -> str:
    """The subquery of every feature's first explanation in these runs."""
    parts = [
        EXPLAINED_BY.format(run=sql_name(run))
        + "".join(UNLESS_BY.format(run=sql_name(earlier)) for earlier in runs[:i])
        for i, run in enumerate(runs)
    ]
    return f"({' UNION ALL '.join(parts)})"
