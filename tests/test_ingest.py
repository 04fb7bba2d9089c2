"""Ingesting: duplicates, bad rows, and the dataset run that is written."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac import ingest as ingesting
from fac.config import IngestSpec
from fac.errors import Cancelled
from fac.ingest import MAX_LABELS, OTHER_LABELS, SeenIds, ingest
from fac.schema import REJECTED, SAMPLES
from tests.rows import (
    FILES,
    QUICK,
    assistant,
    everything_in,
    json_lines,
    refusal,
    stored,
    system,
    user,
)

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def test_the_first_of_equal_samples_is_kept_and_the_rest_counted(write, runs, monkeypatch):
    monkeypatch.setattr(ingesting, "PART_ROWS", 3)  # equal samples fall into different parts
    texts = ["a", "b", "a", "c", "b", "a", "d"]
    content = json_lines(*({"text": t, "label": str(i)} for i, t in enumerate(texts)))
    facts, samples = stored(runs, write("rows.jsonl", content))
    assert [(s["messages"][0]["content"], s["label"]) for s in samples] == [
        ("a", "0"), ("b", "1"), ("c", "3"), ("d", "6"),
    ]  # fmt: skip
    assert (facts.n_samples, facts.duplicates, facts.n_rejected) == (4, 3, 0)


@QUICK
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=12))
def test_what_was_seen_is_known_whatever_the_parts(parts):
    seen, expected = SeenIds(), set()
    for part in parts:
        new = seen.add(np.array(part, "uint64"))
        for value, is_new in zip(part, new, strict=True):
            assert is_new == (value not in expected)
            expected.add(value)


def test_what_messages_say_beside_their_text_is_counted(write, runs):
    sum_up = {"role": "assistant", "content": "4", "thinking": "Two and two."}
    call = {"role": "assistant", "content": "I look.", "tool_calls": [{"id": 1}], "thinking": ""}
    chats = [[user("2+2?"), sum_up], [user("Rain?"), call, sum_up], [user("Hi"), assistant("Yes?")]]
    facts, samples = stored(
        runs, write("rows.jsonl", json_lines(*({"messages": c} for c in chats)))
    )
    assert facts.unread == {"thinking": 2, "tool_calls": 1}
    assert facts.says_unread == (
        "Messages also hold 2 'thinking', 1 'tool_calls': this is no part of the samples."
    )
    assert samples[0]["messages"] == [user("2+2?"), assistant("4")]
    as_text = json_lines({"messages": json.dumps(chats[0])}, {"messages": json.dumps(chats[2])})
    assert stored(runs, write("text.jsonl", as_text))[0].unread == {"thinking": 1}
    plain, _ = stored(runs, write("plain.jsonl", json_lines({"messages": chats[2]})))
    assert (plain.unread, plain.says_unread) == (None, "")


def test_the_facts_say_what_came_in(write, runs):
    rows = [
        {"messages": [system("s"), user("a"), assistant("b")], "label": "x"},
        {"messages": [user("c")], "label": "y"},
        {"messages": [user("d")], "label": "x"},
        {"messages": [user("e")], "label": None},
        {"messages": []},
    ]
    stored(runs, write("rows.jsonl", json_lines(*rows)), on_bad="skip")
    (manifest,) = runs.list("dataset")
    content = json.loads((runs.path(manifest.run) / "manifest.json").read_text())
    assert content["facts"] == {
        "name": "mine",
        "source": "rows.jsonl",
        "kind": "json",
        "layout": "messages",
        "columns": ["messages"],
        "n_samples": 4,
        "duplicates": 0,
        "n_rejected": 1,
        "roles": {"system": 1, "user": 4, "assistant": 1},
        "labels": {"x": 2, "y": 1},
    }


def test_a_label_column_of_free_text_does_not_fill_the_manifest(write, runs):
    n = MAX_LABELS + 5
    content = json_lines(*({"text": str(i), "label": f"label {i}"} for i in range(n)))
    facts, _ = stored(runs, write("rows.jsonl", content))
    assert facts.labels[OTHER_LABELS] == 5
    assert len(facts.labels) == MAX_LABELS + 1


def test_the_same_content_is_the_same_run_wherever_it_lies(write, runs, tmp_path):
    path = write("rows.jsonl", FILES["rows.jsonl"])
    first = ingest(IngestSpec(name="mine", source=str(path)), runs=runs)
    before = everything_in(runs.root)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "renamed.jsonl")
    assert ingest(IngestSpec(name="mine", source=str(moved)), runs=runs) == first
    assert everything_in(runs.root) == before
    assert str(tmp_path).encode() not in (runs.path(first) / "manifest.json").read_bytes()

    other = [
        ingest(IngestSpec(name="other", source=str(moved)), runs=runs),
        ingest(IngestSpec(name="mine", source=str(moved), on_bad="skip"), runs=runs),
        ingest(IngestSpec(name="mine", source=str(moved), text_field="text"), runs=runs),
    ]
    moved.write_bytes(moved.read_bytes() + b'{"text": "more"}\n')
    other.append(ingest(IngestSpec(name="mine", source=str(moved)), runs=runs))
    assert len({first, *other}) == 5


def test_the_tables_of_a_run_have_their_schemas_even_when_nothing_was_rejected(write, runs):
    path = write("rows.jsonl", FILES["rows.jsonl"])
    run = ingest(IngestSpec(name="mine", source=str(path)), runs=runs)
    assert runs.table(run, "samples").schema.equals(SAMPLES)
    assert runs.table(run, "rejected").schema.equals(REJECTED)
    assert runs.verify(run) == []


def test_progress_grows_up_to_the_size_of_the_file(write, runs, monkeypatch):
    monkeypatch.setattr(ingesting, "PART_ROWS", 10)
    path = write("rows.jsonl", json_lines(*({"text": str(i)} for i in range(95))))
    reports = []
    ingest(
        IngestSpec(name="mine", source=str(path)),
        runs=runs,
        progress=lambda done, total, note="": reports.append((done, total, note)),
    )
    done = [d for d, _, _ in reports]
    assert done == sorted(done)
    assert reports[-1] == (path.stat().st_size, path.stat().st_size, "95 samples")


def test_a_cancelled_ingest_stores_nothing(write, runs):
    def stop(done, total, note=""):
        if done:
            raise Cancelled("asked to stop")

    spec = IngestSpec(name="mine", source=str(write("rows.jsonl", FILES["rows.jsonl"])))
    with pytest.raises(Cancelled):
        ingest(spec, runs=runs, progress=stop)
    assert everything_in(runs.root) == {}
    ingest(spec, runs=runs)
    assert len(runs.list("dataset")) == 1


def test_rejected_rows_are_listed_with_the_run(write, runs):
    content = b'{"text": "a"}\n{"text": ""}\n{"text": "b"}\nnonsense\n'
    path = write("rows.jsonl", content)
    run = ingest(IngestSpec(name="mine", source=str(path), on_bad="skip"), runs=runs)
    assert runs.table(run, "rejected").to_pylist() == [
        {"line": 2, "reason": "the column 'text' is empty"},
        {"line": 4, "reason": "it is not JSON (Expecting value at column 1)"},
    ]


def test_a_hundred_thousand_empty_texts_are_one_sentence(write, runs):
    path = write("rows.jsonl", b'{"text": ""}\n' * 100_000)
    assert "line 1: the column 'text' is empty" in refusal(runs, path)
    sentence = refusal(runs, path, on_bad="skip")
    assert "None of the 100,000 rows" in sentence
    assert "line 1: the column 'text' is empty" in sentence


@pytest.mark.parametrize(("moment", "table"), [("write_table", "samples"), ("close", "rejected")])
def test_a_full_disk_is_one_sentence_and_leaves_no_run(write, runs, monkeypatch, moment, table):
    class FullDisk(pq.ParquetWriter):
        """A writer that does its work and then finds that there was no room for it."""

    def fail(writer, *values, **options):
        delattr(FullDisk, moment)  # its end closes it once more, in peace
        getattr(writer, moment)(*values, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write("rows.jsonl", FILES["rows.jsonl"])
    with monkeypatch.context() as patch:
        setattr(FullDisk, moment, fail)
        patch.setattr(pq, "ParquetWriter", FullDisk)
        sentence = refusal(runs, path)
    assert f"disk is full, {table}.parquet could not be written and nothing stored" in sentence
    stored(runs, path)
    assert len(runs.list("dataset")) == 1


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Forty megabytes of distinct texts need hardly more than eighteen did."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"text": f"{i} " + "words " * 340}) + "\n")
    script = f"""
import resource
from pathlib import Path
from fac.config import IngestSpec, Workspace
from fac.ingest import ingest
from fac.store.runs import Runs
small = Path({str(tmp_path)!r}, "small.jsonl")
with Path({str(path)!r}).open() as file:
    small.write_text("".join(next(file) for _ in range(9_000)))
runs = Runs(Workspace(Path({str(tmp_path)!r}, "workspace")))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ingest(IngestSpec(name="small", source=str(small)), runs=runs)
before = peak()
ingest(IngestSpec(name="large", source={str(path)!r}), runs=runs)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10


@pytest.mark.parametrize(
    ("name", "n", "layout"),
    [
        ("toxicity_surge.jsonl", 500, "text"),
        ("instructions_seed_tasks.jsonl", 175, "messages"),
        ("preference_hh_harmless.jsonl.gz", 1156, "chosen/rejected"),
        ("behaviour_survival_instinct.jsonl", 476, "question"),
    ],
)
def test_real_files_come_in_without_options(runs, name, n, layout):
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not on this machine")
    facts, samples = stored(runs, REAL / name)
    assert (facts.n_samples + facts.duplicates, facts.layout) == (n, layout)
    assert len({s["sample_id"] for s in samples}) == facts.n_samples
