"""Rows of text in every format, for tests of reading and of ingesting."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from fac.config import IngestSpec
from fac.errors import InputError
from fac.ingest import ingest


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows, delimiter=",", end="\n"):
    lines = [delimiter.join(rows[0])]
    for row in rows:
        cells = [str(cell).replace('"', '""') for cell in row.values()]
        lines.append(delimiter.join(f'"{cell}"' for cell in cells))
    return "".join(line + end for line in lines).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


ROWS = [{"text": "first\nline"}, {"text": 'a "quoted", word'}, {"text": "ünïcödé 🦉"}]


TEXTS = [[user(row["text"])] for row in ROWS]


FILES = {
    "rows.jsonl": json_lines(*ROWS),
    "rows.ndjson": json_lines(*ROWS),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "lines.json": json_lines(*ROWS),
    "no_suffix": json_lines(*ROWS),
    "rows.csv": as_csv(ROWS),
    "semicolons.csv": as_csv([{**row, "n": 1} for row in ROWS], ";"),
    "rows.tsv": as_csv([{**row, "n": 1} for row in ROWS], "\t"),
    "rows.parquet": as_parquet(ROWS),
}


QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stored(runs, source, **options):
    run = ingest(IngestSpec(name="mine", source=str(source), **options), runs=runs)
    return runs.manifest(run).facts, runs.table(run, "samples").to_pylist()


def refusal(runs, source, **options):
    """The sentence a source is refused with; the workspace must stay as it was."""
    before = everything_in(runs.root)
    with pytest.raises(InputError) as refused:
        ingest(IngestSpec(name="mine", source=str(source), **options), runs=runs)
    assert everything_in(runs.root) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def everything_in(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
