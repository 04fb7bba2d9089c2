"""fac.store.runs: runs are whole or absent, and never change."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.config import JudgeSpec, SaeSpec, Workspace
from fac.errors import InputError, RunNotFound, SchemaTooNew
from fac.manifest import SaeFacts
from fac.store import runs as running
from fac.store.runs import ParquetAppender, Runs, write_table

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS = pa.schema([("n", pa.int64()), ("word", pa.dictionary(pa.int8(), pa.string()))])


def numbers(*values):
    return pa.table({"n": list(values), "word": [f"w{v % 3}" for v in values]})


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def runs(tmp_path):
    return Runs(Workspace(tmp_path))


def publish(runs, name="tea", values=(1, 2, 3), step=SaeSpec):
    spec = step(model=name)
    run_id = spec.run_id()
    write_table(runs.scratch(run_id) / "numbers.parquet", numbers(*values), NUMBERS)
    runs.publish(run_id, spec=spec, inputs=["dataset-1"], facts=SaeFacts(name=name), seconds=1.5)
    return run_id


def test_a_published_run_says_what_it_holds(runs):
    run_id = publish(runs)
    manifest = runs.manifest(run_id)
    assert manifest.run == run_id
    assert manifest.step == "sae"
    assert manifest.spec.as_json() == {"model": "tea", "layer": 15, "sae": "demo"}
    assert manifest.inputs.ids == ("dataset-1",)
    assert manifest.files["numbers.parquet"]["rows"] == 3
    assert manifest.seconds == 1.5
    assert runs.table(run_id, "numbers").to_pylist() == numbers(1, 2, 3).to_pylist()
    assert runs.table(run_id, "numbers", ["n"]).column_names == ["n"]
    assert [batch.num_rows for batch in runs.batches(run_id, "numbers")] == [3]
    assert runs.table(run_id, "numbers").schema.equals(NUMBERS)


def test_a_field_that_came_later_changes_no_id_at_its_default():
    spec = {"measure": "measure-1", "task": "toxicity", "judge": "labels", "label": "1"}
    # as it was before a judge had a threshold
    assert JudgeSpec(**spec).run_id("measure-1") == "relevance-c5163c9a68ee"
    assert JudgeSpec(**spec, threshold=0.0, labels="").run_id("measure-1") == (
        "relevance-c5163c9a68ee"
    )
    others = ({"threshold": 1.0}, {"labels": "measure-2"})
    ids = {JudgeSpec(**spec, **other).run_id("measure-1") for other in others}
    assert len(ids | {"relevance-c5163c9a68ee"}) == 3


def test_a_half_written_run_is_invisible(runs):
    run_id = SaeSpec(model="half").run_id()
    folder = runs.scratch(run_id)
    write_table(folder / "numbers.parquet", numbers(1), NUMBERS)
    (folder / "manifest.json").write_text("{}")
    assert not runs.find(run_id)
    assert runs.list("sae") == []
    with pytest.raises(RunNotFound):
        runs.manifest(run_id)
    with pytest.raises(RunNotFound):
        runs.table(run_id, "numbers")
    assert runs.scratch(run_id) == folder and (folder / "numbers.parquet").exists()


@pytest.mark.parametrize("dies_at", ["_sync", "_versions", "_file_facts"])
def test_a_crash_while_publishing_leaves_no_run_and_publishing_again_works(
    runs, monkeypatch, dies_at
):
    class PulledPlug(BaseException):
        pass

    def die(*_):
        raise PulledPlug

    spec = SaeSpec(model="tea")
    path = runs.scratch(spec.run_id()) / "numbers.parquet"
    write_table(path, numbers(1, 2, 3), NUMBERS)
    journal = path.with_name("_journal.jsonl")
    journal.write_bytes(b"what was paid for")
    with monkeypatch.context() as patched, pytest.raises(PulledPlug):
        patched.setattr(running, dies_at, die)
        runs.publish(spec.run_id(), spec=spec, inputs=[], facts=SaeFacts(), seconds=0)
    assert runs.list("sae") == []
    assert journal.read_bytes() == b"what was paid for"
    assert runs.find(publish(runs))


def test_publishing_drops_working_files(runs):
    run_id = SaeSpec(model="tea").run_id()
    (runs.scratch(run_id) / "_part-1.parquet").write_bytes(b"part")
    (runs.scratch(run_id) / "_shards").mkdir()
    publish(runs)
    assert sorted(p.name for p in runs.path(run_id).iterdir()) == [
        "manifest.json",
        "numbers.parquet",
    ]
    assert list(runs.manifest(run_id).files) == ["numbers.parquet"]


def test_a_finished_run_is_never_changed(runs):
    run_id = publish(runs)
    before = (runs.path(run_id) / "manifest.json").read_bytes()
    assert publish(runs, values=(7, 8)) == run_id
    assert (runs.path(run_id) / "manifest.json").read_bytes() == before
    assert runs.table(run_id, "numbers")["n"].to_pylist() == [1, 2, 3]


def test_a_changed_or_lost_file_is_told(runs):
    run_id = publish(runs)
    path = runs.path(run_id) / "numbers.parquet"
    assert runs.verify(run_id) == []
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert runs.verify(run_id) == ["numbers.parquet"]
    path.unlink()
    assert runs.verify(run_id) == ["numbers.parquet"]
    with pytest.raises(InputError, match="damaged"):
        runs.table(run_id, "numbers")


def test_a_run_of_a_newer_version_is_refused_by_name(runs):
    run_id = publish(runs)
    path = runs.path(run_id) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    for ask in (lambda: runs.manifest(run_id), lambda: runs.list("sae")):
        with pytest.raises(SchemaTooNew, match=f"{run_id} was written with schema 99"):
            ask()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b'{"run": ', "Expecting value"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"[]", "it is no JSON object"),
        (b"{}", "it does not say its schema"),
        (b'{"schema": "1"}', "it does not say its schema"),
        (b'{"schema": 1, "run": "x", "facts": {}}', "it lacks step, spec, inputs, files, created"),
    ],
)
def test_an_unreadable_manifest_is_one_sentence(runs, content, why):
    run_id = publish(runs)
    (runs.path(run_id) / "manifest.json").write_bytes(content)
    sentence = rf"manifest of run {run_id} cannot be read \(.*{why}.*\): delete the folder"
    for ask in (lambda: runs.manifest(run_id), lambda: runs.list("sae")):
        with pytest.raises(InputError, match=sentence):
            ask()


@pytest.mark.parametrize("name", ["numbers.parquet", "activations", "../numbers"])
def test_asking_for_a_table_the_run_does_not_have_names_those_it_has(runs, name):
    run_id = publish(runs)
    with pytest.raises(InputError, match="it has: numbers"):
        runs.table(run_id, name)


@pytest.mark.parametrize(
    "hostile", ["", "..", "../../etc", "sae-1/../../x", 'sae-"; x', "a b-c", "sae-é", "-"]
)
def test_what_cannot_be_an_id_is_simply_not_found(runs, hostile):
    assert not runs.find(hostile)
    with pytest.raises(RunNotFound):
        runs.manifest(hostile)


def test_a_name_means_its_newest_run(runs):
    first = publish(runs, "tea")
    spec = SaeSpec(model="other")
    write_table(runs.scratch(spec.run_id()) / "numbers.parquet", numbers(1), NUMBERS)
    runs.publish(spec.run_id(), spec=spec, inputs=[], facts=SaeFacts(name="tea"), seconds=0)
    assert runs.resolve("sae", "tea") == spec.run_id()
    assert runs.resolve("sae", first) == first
    assert [m.run for m in runs.list("sae")] == [spec.run_id(), first]
    with pytest.raises(RunNotFound, match=r"'coffee'\. Known: tea"):
        runs.resolve("sae", "coffee")
    with pytest.raises(RunNotFound, match="none yet"):
        runs.resolve("measure", "tea")


@given(cuts=st.lists(st.integers(0, 40), max_size=8).map(sorted), group=st.integers(1, 17))
def test_a_table_written_in_pieces_has_the_bytes_of_one_written_at_once(
    tmp_path_factory, cuts, group
):
    folder = tmp_path_factory.mktemp("pieces")
    whole = numbers(*range(40))
    write_table(folder / "whole.parquet", whole, NUMBERS, row_group_rows=group)
    edges = [0, *cuts, 40]
    with ParquetAppender(folder / "pieces.parquet", NUMBERS, row_group_rows=group) as file:
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            file.append(whole.slice(begin, end - begin))
    assert file.rows == 40
    assert (folder / "pieces.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()


def test_a_table_that_breaks_off_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), ParquetAppender(tmp_path / "t.parquet", NUMBERS) as file:
        file.append(numbers(1))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_table_on_a_full_disk_is_one_sentence_and_no_file(tmp_path):
    (tmp_path / "_t.parquet.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"disk is full, t\.parquet could not be written"):
        write_table(tmp_path / "t.parquet", numbers(1, 2), NUMBERS)
    assert list(tmp_path.iterdir()) == []


def test_publishing_on_a_full_disk_is_one_sentence_and_no_run(runs, monkeypatch):
    monkeypatch.setattr(running.Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match="disk is full, run sae-"):
        publish(runs)
    monkeypatch.undo()
    assert runs.list("sae") == []
    assert runs.find(publish(runs))


HOLD = """
import sys, time
from fac.config import workspace
from fac.store.runs import Runs
with Runs(workspace(sys.argv[1])).exclusive("sae-1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_compute_one_run_and_death_lets_go(tmp_path):
    runs = Runs(Workspace(tmp_path))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as holder:
        assert holder.stdout.readline() == b"held\n"
        refused = pytest.raises(InputError, match=f"being computed by process {holder.pid}")
        with refused, runs.exclusive("sae-1"):
            pytest.fail("two processes held the run")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with runs.exclusive("sae-1"):
        pass
    assert list((tmp_path / "runs" / "sae").iterdir()) == []
