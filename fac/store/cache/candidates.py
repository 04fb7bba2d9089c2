"""The caches of pairs, rescore and synthetic runs: pairs, candidates, hits and verdicts as the run
has them, empty where it has none."""

from __future__ import annotations

import json
from typing import Any

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import CANDIDATES, HITS, PAIRS, VERDICTS
from fac.store.cache.files import (
    Connection,
    Files,
    Rows,
    dicts,
    float32,
    one_row,
    page_bounds,
    parquet,
    refuse_doubles,
    sql_name,
    write_meta,
)
from fac.store.memo import remembered
from fac.store.runs import Runs

CANDIDATE_SORTS = ("candidate", "feature", "peak", "own_peak", "rank", "tokens", "n_hits")
CANDIDATES_SHOWN = ("all", "kept", "dropped")

TABLES = {
    "pairs": (PAIRS, "feature"),
    "candidates": (CANDIDATES, "candidate"),
    "hits": (HITS, "candidate, feature"),
    "verdicts": (VERDICTS, "candidate"),
}
"""With their schema, and what no two rows share."""

CREATE_TABLE = "CREATE TABLE {table} AS SELECT * FROM {source} ORDER BY {key}"

NO_OWN_PEAK = "(SELECT NULL::FLOAT AS own_peak WHERE false)"
"""The column, for runs from before own words were told apart."""

CREATE_HITS = """
    CREATE TABLE hits AS
    SELECT * REPLACE (role::VARCHAR AS role)
    FROM (SELECT * FROM {source} UNION ALL BY NAME {no_own_peak})
    ORDER BY candidate, peak DESC, feature
"""


def fill_candidates(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    run = manifest.run
    for table, (schema, key) in TABLES.items():
        create = CREATE_HITS if table == "hits" else CREATE_TABLE
        names = {"table": table, "key": key, "no_own_peak": NO_OWN_PEAK}
        if f"{table}.parquet" in manifest.files:
            path = parquet(runs, run, table)
            con.execute(create.format(source="read_parquet($path)", **names), {"path": path})
        else:
            con.register("nothing", schema.empty_table())
            con.execute(create.format(source="nothing", **names))
            con.unregister("nothing")
        refuse_doubles(con, run, table, key)
    write_meta(con, manifest, {"inputs": [*manifest.inputs.ids]})


# Step 1 gives no verdicts: there a candidate's peak is its own gap's hit.
CANDIDATES_JOINED = """
    SELECT c.*, coalesce(v.peak, o.peak, 0) AS peak, v.kept,
           coalesce(v.reason, c.problem) AS reason, coalesce(v.rank, -1) AS rank,
           coalesce(v.gains, []) AS gains, coalesce(n.n, 0) AS n_hits,
           CASE WHEN o.candidate IS NULL THEN 0 ELSE o.own_peak END AS own_peak
    FROM {run}.candidates c
    LEFT JOIN {run}.verdicts v USING (candidate)
    LEFT JOIN {run}.hits o ON o.candidate = c.candidate AND o.feature = c.feature
    LEFT JOIN (SELECT candidate, count(*) AS n FROM {run}.hits
               WHERE peak > $threshold::FLOAT GROUP BY candidate) n
           ON n.candidate = c.candidate
"""

CANDIDATES_MATCHING = f"""
    FROM ({CANDIDATES_JOINED})
    WHERE ($feature IS NULL OR feature = $feature) AND ($pair IS NULL OR pair = $pair)
      AND ($reason IS NULL OR reason = $reason)
      AND ($only = 'all' OR kept = ($only = 'kept'))
      AND ($text IS NULL
           OR contains(lower(array_to_string([m.content for m in messages], chr(10))),
                       lower($text)))
"""

COUNT_CANDIDATES = f"SELECT count(*) {CANDIDATES_MATCHING}"

CANDIDATES_PAGE = f"""
    SELECT * {CANDIDATES_MATCHING}
    ORDER BY {{sort}} {{direction}}, candidate LIMIT $limit OFFSET $offset
"""

ONE_CANDIDATE = CANDIDATES_JOINED + "WHERE c.candidate = $candidate"

HITS_OF = """
    SELECT feature, peak, role, position, own_peak FROM {run}.hits
    WHERE candidate = $candidate ORDER BY peak DESC, feature
"""


class CandidateQueries(Files):
    """Texts, with what became of them."""

    @remembered
    def candidates(
        self,
        run: str,
        *,
        feature: int | None = None,
        pair: str | None = None,
        threshold: float = 0.0,
        only: str = "all",
        reason: str | None = None,
        search: str = "",
        sort: str = "candidate",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[Rows, int]:
        """One page of the texts of a pairs or synthetic run, and how many match.

        The columns of schema.CANDIDATES with `extra` as a dict, and peak and own_peak (for its own
        gap, 0 where silent; own_peak is None where nobody looked for own words), kept (None in step
        1, which gives no verdicts), reason, rank, gains, n_hits (gaps it fires above the
        threshold). `feature` and `pair` say what it was written for, `only` is one of
        CANDIDATES_SHOWN. Raises InputError for a column outside CANDIDATE_SORTS.
        """
        if sort not in CANDIDATE_SORTS:
            raise InputError(f"Candidates sort by {', '.join(CANDIDATE_SORTS)}, got {sort!r}.")
        if only not in CANDIDATES_SHOWN:
            raise InputError(f"Candidates shown are {', '.join(CANDIDATES_SHOWN)}, got {only!r}.")
        values = {
            "feature": None if feature is None else int(feature),
            "pair": pair,
            "threshold": float32(threshold),
            "only": only,
            "reason": reason,
            "text": search.strip() or None,
        }
        direction = "DESC" if descending else "ASC"
        names = {"run": sql_name(run), "sort": sort, "direction": direction}
        page = page_bounds(offset, limit)
        with self._reading(run) as cursor:
            (n_matching,) = one_row(cursor, COUNT_CANDIDATES.format(**names), **values)
            rows = dicts(cursor, CANDIDATES_PAGE.format(**names), **values, **page)
        return [_with_extra(row) for row in rows], n_matching

    @remembered
    def candidate(
        self, run: str, candidate: str, *, threshold: float = 0.0
    ) -> dict[str, Any] | None:
        """The row of `candidates` with this name, and `hits`: the gaps it fires, strongest first,
        as feature, peak, role, position, own_peak. None where the run has none."""
        values = {"candidate": candidate, "threshold": float32(threshold)}
        with self._reading(run) as cursor:
            rows = dicts(cursor, ONE_CANDIDATE.format(run=sql_name(run)), **values)
            hits = dicts(cursor, HITS_OF.format(run=sql_name(run)), candidate=candidate)
        return {**_with_extra(rows[0]), "hits": hits} if rows else None


def _with_extra(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "extra": json.loads(row["extra"])}
