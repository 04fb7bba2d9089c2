"""The caches of pairs, rescore and synthetic runs: pairs, candidates, hits and verdicts as the run
has them, empty where it has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import CANDIDATES, HITS, PAIRS, VERDICTS
from fac.store.cache.files import Files
from fac.store.cache.tables import (
    Connection,
    Rows,
    float32,
    parquet,
    read_search,
    refuse_doubles,
    write_meta,
)
from fac.store.memo import remembered
from fac.store.runs import Runs

PAIR_SORTS = ("feature", "positive_peak", "negative_peak", "margin")
CANDIDATE_SORTS = ("candidate", "feature", "peak", "rank", "tokens", "n_hits")
CANDIDATES_SHOWN = ("all", "kept", "dropped")

TABLES = {
    "pairs": (PAIRS, "feature"),
    "candidates": (CANDIDATES, "candidate"),
    "hits": (HITS, "candidate, feature"),
    "verdicts": (VERDICTS, "candidate"),
}
"""With their schema, and what no two rows share."""

CREATE_TABLE = "CREATE TABLE {table} AS SELECT * FROM {source} ORDER BY {key}"

CREATE_HITS = """
    CREATE TABLE hits AS
    SELECT * REPLACE (role::VARCHAR AS role) FROM {source} ORDER BY candidate, peak DESC, feature
"""


def fill_candidates(con: Connection, runs: Runs, manifest: AnyManifest) -> None:
    run = manifest.run
    for table, (schema, key) in TABLES.items():
        create = CREATE_HITS if table == "hits" else CREATE_TABLE
        names = {"table": table, "key": key}
        if f"{table}.parquet" in manifest.files:
            path = parquet(runs, run, table)
            con.execute(create.format(source="read_parquet($path)", **names), {"path": path})
        else:
            con.register("nothing", schema.empty_table())
            con.execute(create.format(source="nothing", **names))
            con.unregister("nothing")
        refuse_doubles(con, run, table, key)
    write_meta(con, manifest, {"inputs": [*manifest.inputs.ids]})


PAIR_COLUMNS = "*, positive_peak - negative_peak AS margin"

PAIRS_MATCHING = """
    FROM {run}.pairs
    WHERE ($status IS NULL OR status = $status)
      AND ($features IS NULL OR feature IN (SELECT unnest($features)))
      AND ($above IS NULL OR positive_peak > $above::FLOAT)
      AND (($text IS NULL AND $number IS NULL) OR feature = $number
           OR contains(lower(array_to_string([m.content for m in positive], chr(10))),
                       lower($text))
           OR contains(lower(array_to_string([m.content for m in negative], chr(10))),
                       lower($text)))
"""

ONE_PAIR = f"SELECT {PAIR_COLUMNS} FROM {{run}}.pairs WHERE pair = $pair"

COUNT_PAIRS = """
    SELECT status, reason, count(*) FROM {run}.pairs GROUP BY ALL ORDER BY count(*) DESC, reason
"""

# Step 1 gives no verdicts: there a candidate's peak is its own gap's hit.
CANDIDATES_JOINED = """
    SELECT c.*, coalesce(v.peak, o.peak, 0) AS peak, v.kept,
           coalesce(v.reason, c.problem) AS reason, coalesce(v.rank, -1) AS rank,
           coalesce(v.gains, []) AS gains, coalesce(n.n, 0) AS n_hits
    FROM {run}.candidates c
    LEFT JOIN {run}.verdicts v USING (candidate)
    LEFT JOIN {run}.hits o ON o.candidate = c.candidate AND o.feature = c.feature
    LEFT JOIN (SELECT candidate, count(*) AS n FROM {run}.hits GROUP BY candidate) n
           ON n.candidate = c.candidate
"""

CANDIDATES_MATCHING = (
    f"FROM ({CANDIDATES_JOINED})"
    """
    WHERE ($feature IS NULL OR feature = $feature) AND ($pair IS NULL OR pair = $pair)
      AND ($reason IS NULL OR reason = $reason)
      AND ($only = 'all' OR kept = ($only = 'kept'))
      AND ($text IS NULL
           OR contains(lower(array_to_string([m.content for m in messages], chr(10))),
                       lower($text)))
"""
)

ONE_CANDIDATE = CANDIDATES_JOINED + "WHERE c.candidate = $candidate"

HITS_OF = """
    SELECT feature, peak, role, position FROM {run}.hits
    WHERE candidate = $candidate ORDER BY peak DESC, feature
"""

COUNT_VERDICTS = """
    SELECT kept, reason, count(*) FROM {run}.verdicts GROUP BY ALL ORDER BY count(*) DESC, reason
"""


class CandidateQueries(Files):
    """Pairs, and texts with what became of them."""

    @remembered
    def pairs(
        self,
        run: str,
        *,
        status: str | None = None,
        features: Sequence[int] | None = None,
        above: float | None = None,
        search: str = "",
        sort: str = "feature",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[Rows, int]:
        """One page of a pairs or rescore run, and how many pairs match: the columns of schema.PAIRS
        and `margin`, how far the positive fires above the negative.

        `status` is proposed or failed, `above` leaves positives that fire more, `search` finds part
        of either text or a feature's number. Missing values come last. Raises InputError for a
        column outside PAIR_SORTS.
        """
        if sort not in PAIR_SORTS:
            raise InputError(f"Pairs sort by {', '.join(PAIR_SORTS)}, got {sort!r}.")
        text, number = read_search(search)
        values = {
            "status": status,
            # DuckDB binds no numpy numbers.
            "features": None if features is None else [int(feature) for feature in features],
            "above": None if above is None else float32(above),
            "text": text,
            "number": number,
        }
        order = f"{sort} {_direction(descending)} NULLS LAST, feature"
        return self._page(run, PAIR_COLUMNS, PAIRS_MATCHING, order, values, offset, limit)

    @remembered
    def pair(self, run: str, pair: str) -> dict[str, Any] | None:
        """The row of `pairs` with this id; None where the run has none."""
        return self._first(run, ONE_PAIR, pair=pair)

    @remembered
    def pair_counts(self, run: str) -> dict[str, Any]:
        """`proposed`: how many; `failed`: how many by reason, the commonest first."""
        rows = self._fetch(run, COUNT_PAIRS)
        failed = {reason: n for status, reason, n in rows if status == "failed"}
        return {"proposed": sum(n for s, _, n in rows if s == "proposed"), "failed": failed}

    @remembered
    def candidates(
        self,
        run: str,
        *,
        feature: int | None = None,
        pair: str | None = None,
        only: str = "all",
        reason: str | None = None,
        search: str = "",
        sort: str = "candidate",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> tuple[Rows, int]:
        """One page of the texts of a pairs or synthetic run, and how many match.

        The columns of schema.CANDIDATES with `extra` as a dict, and peak (for its own gap, 0
        where silent), kept (None in step 1, which gives no verdicts), reason, rank,
        gains, n_hits (gaps it fires). `feature` and `pair` say what it was written for, `only` is
        one of CANDIDATES_SHOWN. Raises InputError for a column outside CANDIDATE_SORTS.
        """
        if sort not in CANDIDATE_SORTS:
            raise InputError(f"Candidates sort by {', '.join(CANDIDATE_SORTS)}, got {sort!r}.")
        if only not in CANDIDATES_SHOWN:
            raise InputError(f"Candidates shown are {', '.join(CANDIDATES_SHOWN)}, got {only!r}.")
        values = {
            "feature": None if feature is None else int(feature),
            "pair": pair,
            "only": only,
            "reason": reason,
            "text": search.strip() or None,
        }
        order = f"{sort} {_direction(descending)}, candidate"
        rows, n = self._page(run, "*", CANDIDATES_MATCHING, order, values, offset, limit)
        return [_with_extra(row) for row in rows], n

    @remembered
    def candidate(self, run: str, candidate: str) -> dict[str, Any] | None:
        """The row of `candidates` with this name, and `hits`: the gaps it fires, strongest first,
        as feature, peak, role, position. None where the run has none."""
        row = self._first(run, ONE_CANDIDATE, candidate=candidate)
        if row is None:
            return None
        return {**_with_extra(row), "hits": self._rows(run, HITS_OF, candidate=candidate)}

    @remembered
    def verdict_counts(self, run: str) -> dict[str, Any]:
        """`kept`: how many; `dropped`: how many by reason, the commonest first."""
        rows = self._fetch(run, COUNT_VERDICTS)
        dropped = {reason: n for kept, reason, n in rows if not kept}
        return {"kept": sum(n for kept, _, n in rows if kept), "dropped": dropped}


def _direction(descending: bool) -> str:
    return "DESC" if descending else "ASC"


def _with_extra(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "extra": json.loads(row["extra"])}
