"""What a workspace survives: flipped bits, full disks, damaged databases, killed work; and the two
commands that look after it."""

import errno
import json
import os
import random
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from fac.cli import upkeep
from fac.config import IngestSpec, Workspace
from fac.errors import DamagedRun, FacError, InputError, ServiceError, plainly
from fac.store import runs as running
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs, write_table
from tests import toy
from tests.test_cli import everything, fac

STEPS = ("dataset", "measure", "sae")


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Workspace:
    """The toy workspace; not to be changed."""
    return toy.toy_workspace(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture
def place(kitchen, tmp_path, monkeypatch) -> Workspace:
    """A copy of it on a disk with room, where nobody listed an endpoint that needs a key."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("FAC_ENDPOINTS", raising=False)
    usage = SimpleNamespace(free=5 * 10**9)
    monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda path: usage)
    shutil.copytree(kitchen.root, tmp_path / "place")
    return Workspace(tmp_path / "place")


@pytest.fixture
def put_aside_at_once(monkeypatch):
    monkeypatch.setattr(running, "STILL", 0.0)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def spoil(runs: Runs, run: str, table: str) -> None:
    path = runs.path(run) / f"{table}.parquet"
    flip(path, path.stat().st_size // 2)


def used(runs: Runs, run: str) -> object:
    """All that a reader gets of a run."""
    manifest = runs.manifest(run)
    names = [name.removesuffix(".parquet") for name in manifest.files]
    return manifest.content, {name: runs.table(run, name).to_pylist() for name in names}


# --- flipped bits ---------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_run_is_used(place):
    runs, rng = Runs(place), random.Random(18)
    ids = [each.run for step in STEPS for each in runs.list(step)]
    whole = {run: used(runs, run) for run in ids}
    refused = 0
    for _ in range(60):
        run = rng.choice(ids)
        path = rng.choice(sorted(runs.path(run).iterdir()))
        before = path.read_bytes()
        flip(path, rng.randrange(len(before)), rng.randrange(8))
        try:
            assert used(runs, run) == whole[run], f"{path.name} was changed and used"
        except DamagedRun as error:
            assert run in str(error)
            refused += 1
        path.write_bytes(before)
    assert refused > 54, "a blank of a manifest may become another one, and hardly more"
    assert {run: used(runs, run) for run in ids} == whole


def test_a_damaged_run_is_named_put_aside_and_can_be_computed_again(place, put_aside_at_once):
    runs = Runs(place)
    run = runs.list("sae")[0].run
    content, tables = used(runs, run)
    spoil(runs, run, "features")
    with pytest.raises(DamagedRun, match=rf"{run} is damaged \(features.parquet .* lies aside as"):
        runs.table(run, "features")
    assert not runs.find(run) and runs.list("sae") == [] and runs.damaged() == [run]
    with pytest.raises(DamagedRun, match=rf"{run} was damaged and lies aside .*compute it again"):
        runs.manifest(run)
    shutil.copytree(runs.path(run).with_name(f".damaged-{run}"), runs.path(run))
    spoil(runs, run, "features")  # the same bit once more: as if it had been computed again
    assert used(runs, run) == (content, tables) and runs.damaged() == []


def test_a_run_that_is_still_arriving_is_refused_and_stays(place):
    runs = Runs(place)
    run = runs.list("sae")[0].run
    whole = (runs.path(run) / "features.parquet").read_bytes()
    (runs.path(run) / "features.parquet").write_bytes(whole[:-100])
    with pytest.raises(DamagedRun, match="delete the folder"):
        runs.table(run, "features")
    (runs.path(run) / "features.parquet").write_bytes(whole)
    assert runs.table(run, "features").num_rows


def test_a_manifest_that_cannot_be_read_hides_no_other_run(place, put_aside_at_once):
    runs = Runs(place)
    newest, *others = runs.list("measure")
    flip(runs.path(newest.run) / "manifest.json", 0)
    with pytest.raises(DamagedRun, match=f"manifest of run {newest.run} cannot be read"):
        runs.list("measure")
    assert runs.list("measure") == others


def test_a_file_is_hashed_once_in_a_process(place, monkeypatch):
    monkeypatch.setattr(running, "SETTLED", 0)
    hashed, real = [], running._sha256
    monkeypatch.setattr(running, "_sha256", lambda path: (hashed.append(path.name), real(path))[1])
    run = Runs(place).list("measure")[0].run
    for _ in range(3):
        Runs(place).table(run, "activations")
        [*Runs(place).batches(run, "spans")]
    assert hashed == ["activations.parquet", "spans.parquet"]
    spoil(Runs(place), run, "spans")
    with pytest.raises(DamagedRun):
        Runs(place).table(run, "spans")
    assert hashed[2:] == ["spans.parquet"]


# --- what the system raises -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (OSError(errno.ENOSPC, "", "/d/t.parquet"), "disk is full, /d/t.parquet .*free some", 2),
        (OSError(errno.EACCES, "", "/d/t"), "/d/t: Permission denied; give the user", 2),
        (OSError(errno.EROFS, "", "/d"), "/d: Read-only file system; its disk is mounted", 2),
        (OSError(errno.EIO, "", "/d"), "/d: Input/output error; its disk .*fac doctor", 2),
        (OSError(errno.EMFILE, "", "/d"), "/d: Too many open files; .*ulimit -n", 2),
        (OSError(errno.EFBIG, "", "/d"), "/d: File too large; .*ulimit -f", 2),
        (NotADirectoryError(errno.ENOTDIR, "", "/d/x"), "/d/x: Not a directory; check", 2),
        (OSError("something odd"), "The system refused: something odd; check", 2),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "Connection refused; check", 3),
        (pa.ArrowInvalid("bad footer\nmore"), r"A table could not .* \(bad footer\): run", 2),
        (pa.ArrowNotImplementedError("no"), r"A table could not .* \(no\): run", 2),
    ],
)
def test_an_error_of_the_system_is_a_sentence_that_says_what_to_do(error, words, code):
    kind = ServiceError if code == 3 else InputError
    with pytest.raises(kind, match=words) as caught, plainly():
        raise error
    assert caught.value.exit_code == code and "\n" not in str(caught.value)


def test_what_is_no_error_of_the_system_passes():
    for error in (ValueError("a bug"), InputError("ours"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, plainly():
            raise error
        assert caught.value is error


@contextmanager
def no_file_above(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_no_file_may_grow_all_that_is_written_says_so(tmp_path):
    words = pa.table({"word": [str(n * 7919 % 10007) for n in range(90_000)]})
    queue, decisions = Queue(tmp_path / "queue.sqlite"), Decisions(tmp_path / "decisions.sqlite")
    job = queue.enqueue(IngestSpec(name="small", source="y"))
    long = "y" * 200_000
    with no_file_above(90_000):
        with pytest.raises(InputError, match=r"t\.parquet: File too large; no larger file is"):
            write_table(tmp_path / "t.parquet", words, words.schema)
        for use in (
            lambda: queue.enqueue(IngestSpec(name="x", source=long)),
            lambda: decisions.add("Ada", "pair", "p", {"text": long}, "approve"),
        ):
            with pytest.raises(InputError, match=r"could not be read or written|disk is full"):
                use()
    assert not [*tmp_path.glob("*.parquet*")]
    assert [each.id for each in queue.jobs()] == [job] and decisions.current() == []
    assert decisions.add("Ada", "pair", "p", {"text": long}, "approve").verdict == "approve"


def test_damaged_databases_raise_nothing_foreign(place, tmp_path, monkeypatch):
    monkeypatch.setattr("fac.store.sqlite.PATIENCE", 0.05)
    decisions, queue = Decisions(place.decisions), Queue(place.queue)
    for n in range(20):
        about = f"relevance/measure-1/{n}/tea"
        decisions.add("Ada", "relevance", about, {"text": f"number {n}"}, "yes", note=f"note {n}")
        queue.enqueue(IngestSpec(name=f"x{n}", source="y"))
    whole = {}
    for path in (place.decisions, place.queue):
        con = sqlite3.connect(path)
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        con.close()
        whole[path.name] = path.read_bytes()
    rng, refused = random.Random(6), 0
    for trial in range(20):
        for name, content in whole.items():
            spoilt = bytearray(content)
            for _ in range(rng.choice((1, 4, 60))):
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            path = tmp_path / f"{trial}-{name}"
            path.write_bytes(spoilt[: rng.choice((len(spoilt), rng.randrange(len(spoilt))))])
            broken, jobs = Decisions(path), Queue(path)
            uses = (broken.table, lambda b=broken: [*b.export()], broken.contents, broken.faults)
            if name == "queue.sqlite":
                uses = (jobs.jobs, jobs.live, jobs.recover, jobs.worker, jobs.faults)
            for use in uses:
                try:
                    use()
                except FacError as error:
                    assert str(path) in str(error) or "damaged" in str(error)
                    refused += 1
    assert refused > 50


def test_a_row_that_is_no_row_is_a_sentence(place):
    queue = Queue(place.queue)
    queue.enqueue(IngestSpec(name="x", source="y"))
    for spec in (b"\xff", "{", ""):
        con = sqlite3.connect(place.queue)
        con.execute("UPDATE job SET spec = ?", (spec,))
        con.commit()
        con.close()
        with pytest.raises(InputError, match="queue is damaged .*delete the file"):
            queue.jobs()


# --- gc -------------------------------------------------------------------------------------------


def aged(path: Path) -> Path:
    for each in (path, *path.rglob("*")):
        os.utime(each, (1e9, 1e9))
    return path


def put(path: Path, content: str = "half") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@contextmanager
def litter(place: Workspace) -> Iterator[dict[str, list[Path]]]:
    """What killed work may leave, by what is to become of it."""
    runs = Runs(place)
    run = runs.list("measure")[0].run
    home, gone = runs.path(run).parent, "measure-0123456789ab"
    free = [
        put(runs.path(run) / "_part-3.parquet"),
        put(runs.path(run) / "_shards" / "1.parquet").parent,
        put(home / f".lock-{gone}", "1"),
        put(home / f".adopt-{gone}" / "spans.parquet").parent,
        put(place.cache / f"{gone}.duckdb"),
        put(place.cache / f"{gone}.duckdb.tmp"),
        put(place.cache / f".spill-{gone}" / "1").parent,
        put(place.cache / f".lock-{gone}", "1"),
        aged(put(place.inputs / ".mine.jsonl.part")),
        aged(put(place.root / ".export-abc" / "data" / "rows.jsonl").parent.parent),
    ]
    kept = [
        put(place.root / ".export-young" / "rows.jsonl").parent,
        put(place.inputs / ".young.jsonl.part"),
    ]
    unfinished = [
        put(home / ".tmp-measure-aaaaaaaaaaaa" / "_part-1.parquet").parent,
        aged(put(home / ".replies-measure-aaaaaaaaaaaa.jsonl")),
    ]
    held = "measure-bbbbbbbbbbbb"
    kept.append(put(home / f".tmp-{held}" / "_journal.jsonl").parent)
    with runs.exclusive(held):
        yield {"free": free, "kept": kept, "unfinished": unfinished}


def test_leftovers_are_shown_and_only_what_nothing_needs_is_removed(place):
    runs = Runs(place)
    ids = [each.run for step in STEPS for each in runs.list(step)]
    whole = {run: used(runs, run) for run in ids}
    tidy = everything(place.root)
    with litter(place) as paths:
        before = everything(place.root)
        answer = fac("gc", "--json", workspace=place)
        assert everything(place.root) == before and not answer.json["removed"]
        stays = {row["path"]: row["stays"] for row in answer.json["leftovers"]}
        assert stays.keys() == {str(path) for group in paths.values() for path in group}
        assert {path for path, why in stays.items() if not why} == set(map(str, paths["free"]))
        assert f"process {os.getpid()}" in stays[str(paths["kept"][-1])]
        words = fac("gc", workspace=place).out
        assert f"{len(paths['free'])} of {len(stays)} with" in words and "--remove" in words

        assert fac("gc", "--remove", workspace=place).code == 0
        assert not [path for path in paths["free"] if path.exists()]
        assert all(path.exists() for path in (*paths["kept"], *paths["unfinished"]))
        assert fac("gc", "--remove", "--unfinished", workspace=place).code == 0
        assert not [path for path in paths["unfinished"] if path.exists()]
        assert all(path.exists() for path in paths["kept"])
    shutil.rmtree(paths["kept"][0])
    shutil.rmtree(paths["kept"][2])
    paths["kept"][1].unlink()
    place.inputs.rmdir()
    assert everything(place.root) == tidy
    assert {run: used(runs, run) for run in ids} == whole


def test_what_a_step_could_go_on_from_stays_while_a_job_is_under_way(place):
    put(place.runs / "measure" / ".tmp-measure-aaaaaaaaaaaa" / "_part-1.parquet")
    number = Queue(place.queue).enqueue(IngestSpec(name="x", source="y"))
    (row,) = fac("gc", "--unfinished", "--json", workspace=place).json["leftovers"]
    assert row["stays"] == f"job {number} is under way and may need it"


def test_a_damaged_run_stays_while_something_refers_to_it(place, put_aside_at_once):
    runs = Runs(place)
    measured = runs.list("measure")[0]
    dataset = measured.facts.dataset
    for run, table in ((dataset, "samples"), (measured.run, "spans")):
        spoil(runs, run, table)
        with pytest.raises(DamagedRun):
            runs.table(run, table)

    def stays() -> dict[str, str]:
        rows = fac("gc", "--json", workspace=place).json["leftovers"]
        return {Path(row["path"]).name: row["stays"] for row in rows}

    assert stays() == {
        f".damaged-{dataset}": "",
        f".damaged-{measured.run}": "",
        f"{measured.run}.duckdb": "",
    }
    about = f"relevance/{measured.run}/3/tea"
    Decisions(place.decisions).add("Ada", "relevance", about, {"text": "x"}, "yes")
    Queue(place.queue).enqueue(IngestSpec(name="x", source=f"fill of {dataset}"))
    assert stays()[f".damaged-{measured.run}"] == "a decision refers to it: compute it again first"
    assert stays()[f".damaged-{dataset}"] == "a job refers to it: compute it again first"
    assert fac("gc", "--remove", workspace=place).code == 0
    assert set(stays()) == {f".damaged-{dataset}", f".damaged-{measured.run}"}


def test_exports_that_were_killed_elsewhere_are_removed_where_they_are(place, tmp_path):
    out = tmp_path / "out"
    killed = aged(put(out / ".export-abc" / "kept.jsonl").parent)
    mine = aged(put(out / "kept.jsonl"))
    replaced = aged(put(out / ".export-def" / "before" / "data" / "train.jsonl"))
    assert fac("gc", out, "--remove", workspace=place).code == 0
    assert mine.exists() and replaced.exists() and not killed.exists()
    assert fac("gc", tmp_path / "nowhere", workspace=place).code == 2


# --- doctor ---------------------------------------------------------------------------------------


def states(answer) -> dict[str, set[str]]:
    rows = json.loads(answer.out)["findings"]
    return {row["about"]: {r["state"] for r in rows if r["about"] == row["about"]} for row in rows}


def test_the_doctor_finds_nothing_wrong_with_a_workspace_that_works(place):
    before = everything(place.root)
    answer = fac("doctor", "--json", workspace=place)
    assert answer.code == 0 and everything(place.root) == before
    assert {about for about, state in states(answer).items() if state != {"fine"}} <= {"packages"}
    words = fac("doctor", workspace=place).out
    assert "5 with" in words and "are as they were written" in words


def test_the_doctor_names_a_damaged_run_and_puts_it_aside(place, put_aside_at_once):
    runs = Runs(place)
    run = runs.list("sae")[0].run
    spoil(runs, run, "features")
    answer = fac("doctor", workspace=place)
    assert answer.code == 1
    assert f"Run {run} is damaged (features.parquet changed" in answer.err
    assert runs.damaged() == [run]
    again = fac("doctor", workspace=place)
    assert again.code == 1 and f"Run {run} was damaged and lies aside" in again.err


@pytest.mark.parametrize(
    ("harm", "about", "words"),
    [
        (lambda p: put(p.decisions, "no database" * 99), "decisions", "fac decisions import"),
        (lambda p: put(p.queue, "no database" * 99), "queue", "delete the file"),
        (lambda p: put(p.endpoints, "[lab"), "endpoints", "is no TOML"),
        (lambda p: begun(p), "leases", "Job 1 is said to run and no worker is alive"),
        (lambda p: altered(p), "decisions", "another content has the hash"),
    ],
)
def test_the_doctor_says_what_is_wrong_and_ends_with_1(place, harm, about, words):
    harm(place)
    answer = fac("doctor", "--json", workspace=place)
    assert answer.code == 1 and words in answer.err
    assert "wrong" in states(answer)[about]


def begun(place: Workspace) -> None:
    queue = Queue(place.queue)
    queue.enqueue(IngestSpec(name="x", source="y"))
    queue.claim("nobody")


def altered(place: Workspace) -> None:
    about = "relevance/measure-1/3/tea"
    Decisions(place.decisions).add("Ada", "relevance", about, {"text": "the one"}, "yes")
    con = sqlite3.connect(place.decisions)
    con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    con.close()
    content = place.decisions.read_bytes()
    assert content.count(b"the one") == 1
    place.decisions.write_bytes(content.replace(b"the one", b"the two"))


def test_a_disk_without_room_is_wrong(place, monkeypatch):
    monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * 10**8))
    answer = fac("doctor", workspace=place)
    assert answer.code == 1 and "200 MB are free" in answer.err


# --- backups of decisions -------------------------------------------------------------------------


def decide(place: Workspace, *numbers: int) -> None:
    for n in numbers:
        about = f"relevance/measure-1/{n}/tea"
        Decisions(place.decisions).add("Ada", "relevance", about, {"text": f"{n}"}, "yes")


def test_a_backup_while_somebody_writes_brings_back_what_was_decided(place, tmp_path):
    store, file = Decisions(place.decisions), tmp_path / "away" / "backup.sqlite"
    decide(place, 1, 2)
    rows = store.table()
    with store._writing() as con:  # half a decision of somebody else
        con.execute("INSERT INTO content VALUES ('half', '{}')")
        assert fac("decisions", "backup", file, workspace=place).code == 0
    assert [path.name for path in file.parent.iterdir()] == ["backup.sqlite"]
    decide(place, 3)
    put(place.decisions, "no database" * 99)
    answer = fac("decisions", "restore", file, workspace=place)
    assert answer.code == 2 and "move the file away" in answer.err
    for path in place.root.glob("decisions.sqlite*"):
        path.unlink()
    before = file.read_bytes()
    answer = fac("decisions", "restore", file, "--json", workspace=place)
    assert answer.json == {"added": 2, "known": 0, "rejected": []}
    assert store.table() == rows and file.read_bytes() == before
    decide(place, 4)
    again = fac("decisions", "restore", file, "--json", workspace=place).json
    assert again == {"added": 0, "known": 2, "rejected": []} and len(store.current()) == 3


def test_a_backup_replaces_nothing_but_a_backup(place, tmp_path):
    file = put(tmp_path / "thesis.txt", "years of work")
    assert fac("decisions", "backup", tmp_path / "new", workspace=place).code == 2
    decide(place, 1)
    for target in (file, place.decisions, tmp_path, file / "below"):
        answer = fac("decisions", "backup", target, workspace=place)
        assert answer.code == 2 and "Traceback" not in answer.err, target
    assert file.read_text() == "years of work" and not [*tmp_path.glob(".*")]
    assert fac("decisions", "backup", tmp_path / "new", workspace=place).code == 0
    decide(place, 2)
    assert fac("decisions", "backup", tmp_path / "new", workspace=place).code == 0
    assert len(Decisions(tmp_path / "new").current()) == 2


def test_a_backup_that_is_damaged_or_none_is_refused(place, tmp_path):
    decide(place, 1)
    file = tmp_path / "backup.sqlite"
    assert fac("decisions", "backup", file, workspace=place).code == 0
    for content in (file.read_bytes().replace(b'{"text":"1"}', b'{"text":"2"}'), b"none at all"):
        file.write_bytes(content)
        answer = fac("decisions", "restore", file, workspace=place)
        assert answer.code == 2 and "damaged" in answer.err
    assert fac("decisions", "restore", tmp_path / "gone", workspace=place).code == 2
    assert len(Decisions(place.decisions).current()) == 1
