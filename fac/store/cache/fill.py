"""What filling a new cache file needs, whatever the step of its run."""

from __future__ import annotations

import json
from typing import Any

from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.store.cache.files import SQL_VERSION
from fac.store.cache.sql import Connection, one_row
from fac.store.runs import Runs

CREATE_META = "CREATE TABLE meta (version INTEGER, run VARCHAR, step VARCHAR, summary VARCHAR)"

INSERT_META = "INSERT INTO meta VALUES ($version, $run, $step, $summary)"

COUNT_DOUBLES = "SELECT count(*) - count(DISTINCT ({key})) FROM {table}"


def write_meta(con: Connection, manifest: AnyManifest, derived: dict[str, Any]) -> None:
    """Says whose tables these are; the summary is the run's facts and what was derived here."""
    summary = {**manifest.fields["facts"], "run": manifest.run, **derived}
    con.execute(CREATE_META)
    con.execute(
        INSERT_META,
        {
            "version": SQL_VERSION,
            "run": manifest.run,
            "step": manifest.step,
            "summary": json.dumps(summary, ensure_ascii=True),
        },
    )


def refuse_doubles(con: Connection, run: str, table: str, key: str) -> None:
    """Raises InputError for two rows about the same: they would be shown, and counted, twice."""
    (n_double,) = one_row(con, COUNT_DOUBLES.format(table=table, key=key))
    if n_double:
        raise InputError(
            f"The table {table} of run {run} has {n_double:,} rows about what another row already "
            f"tells: delete the run's folder and compute it again."
        )


def parquet(runs: Runs, run: str, table: str) -> str:
    runs.manifest(run)  # says so in a sentence where the run is gone
    return str(runs.path(run) / f"{table}.parquet")
