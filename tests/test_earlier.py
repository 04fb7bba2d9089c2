"""Workspaces of earlier versions: this one opens them with nothing lost.

tests/earlier/first was written on 23 November by the first version that had runs, decisions and a
queue, tests/earlier/first-synthesis on the same day by the first that wrote samples: manifests
without a seal, a queue of version 1, decisions of the only version so far, tables without the
columns that came later. tests/earlier/queue-2.sqlite was written on 30 November by the last version
whose jobs did not say who asked for them; its jobs are those of the first queue.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fac.config import REPOSITORY, IngestSpec, MeasureSpec, Workspace, read_spec
from fac.export import export
from fac.manifest import FACTS
from fac.questions.results import question_of
from fac.store import open_stores
from fac.store.decisions import Decisions
from fac.store.queue import QUEUE_VERSION, Queue
from fac.store.runs import Runs
from tests.test_cli import fac

EARLIER = REPOSITORY / "tests" / "earlier"
WORKSPACES = sorted(path.name for path in EARLIER.iterdir() if path.is_dir())
QUEUES = {1: EARLIER / "first" / "queue.sqlite", 2: EARLIER / "queue-2.sqlite"}


@pytest.fixture
def place(request, tmp_path) -> Workspace:
    """A copy of one of them."""
    shutil.copytree(EARLIER / request.param, tmp_path / "place")
    return Workspace(tmp_path / "place")


def ids(runs: Runs) -> list[str]:
    return sorted(path.parent.name for path in runs.root.glob("*/*/manifest.json"))


first = pytest.mark.parametrize("place", ["first"], indirect=True)
synthesis = pytest.mark.parametrize("place", ["first-synthesis"], indirect=True)


@pytest.mark.parametrize("place", WORKSPACES, indirect=True)
def test_every_run_and_table_is_read_as_it_was_written(place):
    runs = Runs(place)
    listed = [each.run for step in FACTS for each in runs.list(step)]
    assert sorted(listed) == ids(runs) and len(listed) >= 8
    for run in listed:
        manifest, folder = runs.manifest(run), runs.path(run)
        content = json.loads((folder / "manifest.json").read_text())
        assert manifest.content == content and "seal" not in content
        assert content["facts"].items() <= (content["facts"] | manifest.facts.as_json()).items()
        assert content["spec"].items() <= json.loads(json.dumps(manifest.spec.as_json())).items()
        assert runs.verify(run) == []
        for name in manifest.files:
            table = runs.table(run, name.removesuffix(".parquet"))
            assert table.to_pylist() == pq.read_table(folder / name).to_pylist()
    assert fac("doctor", workspace=place).code in (0, 1) and runs.damaged() == []
    assert fac("gc", "--remove", workspace=place).code == 0 and sorted(listed) == ids(runs)


@first
def test_questions_are_answered_from_runs_of_the_first_version(place):
    line = ("--anchor", "toy-anchor", "--dataset", "toy-seed", "--threshold", "0", "--json")
    # Eleven words are said; "the" is everywhere, and the seed says nothing of code and journeys.
    coverage = fac("coverage", *line, workspace=place).json
    assert (coverage["n_anchor"], coverage["n_missing"]) == (10, 6)
    rows = fac("gaps", *line, workspace=place).json["gaps"]
    names = {row["feature"]: row["name"] for row in rows}
    assert names[3] == "the word Python", "as Ben corrected it"
    assert names[5] == "People speak of a loop."


@first
def test_decisions_of_the_first_version_stay_and_others_follow(place):
    store = Decisions(place.decisions)
    rows = store.table().to_pylist()
    assert [(row["reviewer"], row["verdict"]) for row in rows] == [
        *(("Ada", "yes"), ("Ada", "no"), ("Ada", "maybe"), ("Ben", "probably"), ("Ben", "no")),
    ]
    assert rows[3]["edited_text"] == "the word Python" and rows[4]["withdrawn"]
    assert rows[0]["note"] == "before there were seals" and len(store.contents()) == 5
    assert store.faults() == [] and len(store.current()) == 4
    store.add("Ada", "relevance", rows[0]["subject"], {"text": "number 3"}, "no")
    assert len(store.current()) == 4 and len(store.table()) == 6


@pytest.mark.parametrize("version", QUEUES)
def test_jobs_of_an_earlier_queue_stay(version, tmp_path):
    with sqlite3.connect(QUEUES[version]) as written:
        assert written.execute("PRAGMA user_version").fetchone() == (version,)
    written.close()
    queue = Queue(Path(shutil.copy(QUEUES[version], tmp_path / "queue.sqlite")))
    assert [(job.id, job.status, job.attempts) for job in queue.jobs()] == [
        *((3, "waiting", 0), (2, "running", 1), (1, "done", 1)),
    ]
    assert {*QUEUES} == {*range(1, QUEUE_VERSION)}, "keep a fixture of the version before"
    assert {job.asker for job in queue.jobs()} == {""}, "nobody was known by a name"
    assert queue.job(1).run_id == "dataset-0123456789ab" and queue.faults() == []
    assert queue.recover() == 1, "its lease is long over"
    specs = [read_spec(job.step, job.spec) for job in queue.jobs()]
    assert specs[1:] == [IngestSpec(name=n, source=f"{n}.jsonl") for n in ("milk", "tea")]
    assert isinstance(specs[0], MeasureSpec) and specs[0].despite == ""
    assert queue.claim("w").id == 2 and queue.claim("w").attempts == 1


@synthesis
def test_samples_of_the_first_synthesis_are_exported_with_their_reasons(place, tmp_path):
    runs = Runs(place)
    made = runs.list("synthetic")[0]
    assert (made.facts.fac_before, made.facts.fac_after, made.facts.kept) == (0.6, 1.0, 2)
    assert made.facts.dropped == {"beaten": 4, "echo": 2}
    assert question_of(open_stores(place, remember=False), made).threshold == 0
    written = export(made.run, tmp_path / "kept.jsonl", runs=runs)
    lines = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert written.rows == 2 and [line["lineage"]["feature"] for line in lines] == [3, 4]
    assert fac("cache", "rebuild", workspace=place).code == 0
