"""Ray: the same tables as here, whoever dies meanwhile, and nothing open to other machines."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fac import executor
from fac.config import REPOSITORY, MeasureSpec, Workspace
from fac.errors import BudgetReached, Cancelled, InputError, ServiceError
from fac.executor import Pool, RayEncoder, RayWriter, Where, choose_executor
from fac.generator.local import Continuation
from fac.generator.writer import Request
from fac.generator.writers.local import LocalWriter
from fac.jobs.steps import Steps
from fac.measure import measure, tables
from fac.prompts.drafts import Opening
from fac.store.runs import Runs
from fac.synthesis.scoring import score
from tests.lexicon import LexiconEncoder
from tests.test_jobs import drinks, written
from tests.test_measure import WORDS, bytes_of, chat, dataset, many, quiet

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install -r requirements-scale.txt"
)

# --- without Ray ----------------------------------------------------------------------------------


def test_options_win_over_the_environment(monkeypatch):
    assert choose_executor() == Where("local")
    monkeypatch.setenv("FAC_EXECUTOR", "ray")
    monkeypatch.setenv("FAC_RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("FAC_RAY_WORKERS", "3")
    assert choose_executor() == Where("ray", "head:6379", 3)
    assert choose_executor("ray", "other:1", 2) == Where("ray", "other:1", 2)
    assert choose_executor("local") == Where("local")
    monkeypatch.setenv("FAC_RAY_WORKERS", "many")
    with pytest.raises(InputError, match="many"):
        choose_executor()


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(InputError, match=r"pip install -r requirements-scale\.txt"):
        Pool(Where("ray"))


def node(cores, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": float(cores), "GPU": float(gpus)}}


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([node(2)], None, (2, 0, 1)),
        ([node(2)], 2, (1, 0, 2)),
        ([node(8), node(8)], None, (8, 0, 2)),
        ([node(8), node(8)], 3, (4, 0, 3)),
        ([node(16), node(4)], 4, (4, 0, 4)),
        ([node(8), node(8, alive=False)], None, (8, 0, 1)),
        ([node(4), node(32, 4)], None, (8, 1, 4)),
        ([node(32, 4), node(32, 4)], 2, (32, 1, 2)),
        ([node(2, 4)], 2, (1, 1, 2)),
    ],
)
def test_workers_share_the_cores_so_that_all_fit(nodes, workers, share):
    assert executor._share(nodes, workers) == share


@pytest.mark.parametrize(("nodes", "workers"), [([node(2)], 3), ([node(8, 1)], 2), ([node(0)], 1)])
def test_more_workers_than_fit_are_refused(nodes, workers):
    with pytest.raises(InputError, match="core|accelerator"):
        executor._share(nodes, workers)


# --- with Ray -------------------------------------------------------------------------------------


class SlowEncoder(LexiconEncoder):
    """Leaves a mark in `diary` for each batch, and takes its time."""

    def __init__(self, diary, seconds=0.0):
        super().__init__(*WORDS)
        self.diary, self.seconds = Path(diary), seconds

    def read(self, chats, *rest):
        for reading in super().read(chats, *rest):
            with self.diary.open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(self.seconds)
            yield reading


class Refusing(LexiconEncoder):
    def read(self, chats, *rest):
        raise InputError("Half a character stands in sample 7; replace it.")


def missing_model():
    raise InputError("There is no model in /nowhere; give another folder.")


class Mortal(LexiconEncoder):
    """Takes its process with it."""

    def read(self, chats, *rest):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def pool():
    workers = Pool(Where("ray", workers=2))
    yield workers
    workers.close()


@pytest.fixture
def parts_of_eight(monkeypatch):
    monkeypatch.setattr(tables, "PART", 8)


def remote(pool, make):
    return RayEncoder(pool, make)


def place(tmp_path, name):
    return Runs(Workspace(tmp_path / name))


def measured(runs, chats, encoder, progress=quiet):
    """A measure with the parts read where the encoder says."""
    spec = MeasureSpec(dataset=dataset(runs, chats))
    parts = getattr(encoder, "read_parts", None)
    how = {"runs": runs, "encoder": encoder, "sae_run": "sae-0", "progress": progress}
    return measure(spec, executor=parts, **how)


@needs_ray
def test_the_same_run_comes_out_of_both_executors(pool, tmp_path, parts_of_eight):
    here, there = place(tmp_path, "here"), place(tmp_path, "there")
    run = measured(here, many(100), LexiconEncoder(*WORDS))
    reports = []
    encoder = remote(pool, partial(LexiconEncoder, *WORDS))
    assert measured(there, many(100), encoder, lambda *say: reports.append(say)) == run
    assert bytes_of(there, run) == bytes_of(here, run)
    assert max(done for done, *_ in reports) == 100
    timing = ("seconds", "tokens_per_second")
    local, ray = (
        {k: v for k, v in runs.manifest(run).facts.as_json().items() if k not in timing}
        for runs in (here, there)
    )
    assert local == ray


@needs_ray
def test_print_stays_what_it_was(pool):
    """What is compiled later in this process, as the map of features is, may print."""
    from ray.experimental import tqdm_ray

    tqdm_ray.instance()
    assert type(print).__name__ == "builtin_function_or_method"


@needs_ray
def test_a_killed_worker_is_replaced_and_its_parts_are_read_again(
    pool, tmp_path, parts_of_eight, capfd
):
    here, there = place(tmp_path, "here"), place(tmp_path, "there")
    diary = tmp_path / "diary"
    run = measured(here, many(400), LexiconEncoder(*WORDS))
    killed = []

    def kill_one(done, total, note=""):
        if done >= 30 and not killed:
            killed.append(int(diary.read_text().split()[-1]))
            os.kill(killed[0], signal.SIGKILL)

    encoder = remote(pool, partial(SlowEncoder, diary, 0.05))
    assert measured(there, many(400), encoder, kill_one) == run
    assert killed
    assert bytes_of(there, run) == bytes_of(here, run)
    assert capfd.readouterr() == ("", "")
    workers = diary.read_text().split()
    assert len(set(workers)) == 3  # two, and the one that came for the killed
    # Two batches a part; at most the parts it had in hand are read twice.
    assert 100 <= len(workers) <= 100 + 2 * executor.AHEAD


@needs_ray
def test_a_stopped_measure_stops_its_workers_and_goes_on_later(pool, tmp_path, parts_of_eight):
    here, there = place(tmp_path, "here"), place(tmp_path, "there")
    diary = tmp_path / "diary"
    run = measured(here, many(100), LexiconEncoder(*WORDS))
    encoder = remote(pool, partial(SlowEncoder, diary, 0.05))

    def impatient(done, total, note=""):
        if done >= 40:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        measured(there, many(100), encoder, impatient)
    time.sleep(0.3)
    read = len(diary.read_text().split())
    time.sleep(0.5)
    assert len(diary.read_text().split()) == read < 25
    folders = len([*(there.root / "measure").glob(".tmp-*/_part-??????")])
    assert folders
    assert measured(there, many(100), encoder) == run
    assert bytes_of(there, run) == bytes_of(here, run)
    assert len(diary.read_text().split()) - read == 25 - 2 * folders


@needs_ray
def test_what_goes_wrong_in_a_worker_is_the_sentence_it_was(pool, tmp_path):
    with pytest.raises(InputError, match=r"^Half a character stands in sample 7; replace it\.$"):
        measured(place(tmp_path, "a"), many(20), remote(pool, partial(Refusing, *WORDS)))
    with pytest.raises(InputError, match=r"^There is no model in /nowhere; give another folder\.$"):
        remote(pool, missing_model)


@needs_ray
def test_workers_that_die_again_and_again_end_it_with_a_sentence(pool, tmp_path):
    encoder = remote(pool, partial(Mortal, *WORDS))
    with pytest.raises(ServiceError, match="died 7 times in a row"):
        measured(place(tmp_path, "a"), many(20), encoder)


@needs_ray
def test_a_cluster_whose_cores_are_taken_is_told(pool, monkeypatch):
    monkeypatch.setattr(executor, "PATIENCE_SECONDS", 1)
    late = Pool(Where("ray", workers=1))  # wants all cores, which the first pool has
    with pytest.raises(ServiceError, match="others hold the cluster's cores"):
        remote(late, partial(LexiconEncoder, *WORDS))
    late.close()


@needs_ray
def test_a_machine_with_another_model_is_refused(pool, tmp_path):
    encoder = remote(pool, partial(LexiconEncoder, *WORDS))
    encoder.identity = "lexicon/other"
    with pytest.raises(InputError, match="the same model and SAE on every machine"):
        measured(place(tmp_path, "a"), many(20), encoder)


@needs_ray
def test_scores_are_those_of_an_encoder_here(pool, monkeypatch):
    monkeypatch.setattr("fac.synthesis.scoring.ENCODED", 7)
    chats = [*many(40), []]
    how = {"gaps": [1, 2], "threshold": 0.5, "progress": quiet}
    local, ray = (
        score(encoder, chats, **how)
        for encoder in (LexiconEncoder(*WORDS), remote(pool, partial(LexiconEncoder, *WORDS)))
    )
    assert local.hits == ray.hits
    assert any(local.hits)
    assert np.array_equal(local.features, ray.features)


@needs_ray
def test_it_is_an_encoder(pool):
    here, there = LexiconEncoder(*WORDS), remote(pool, partial(LexiconEncoder, *WORDS))
    chats = [chat("tea and coffee!", "milk"), chat("sugar")]
    assert (there.identity, there.n_features) == (here.identity, here.n_features)
    for local, ray in zip(here.encode(chats), there.encode(chats), strict=True):
        assert np.array_equal(local, ray)
    (local,), (ray,) = here.read(chats, ("user",)), there.read(chats, ("user",))
    assert np.array_equal(local.feature, ray.feature)
    assert local.rendered[0].text == ray.rendered[0].text == there.render(chats)[0].text


class Echo:
    """A generator that repeats its prompt as often as the seed says, up to three times."""

    chats = True
    begin = ""

    def count(self, prompts):
        return [len(prompt.split()) for prompt in prompts]

    def write(self, rows, *, max_new_tokens, beat=lambda: None, **_):
        return [
            Continuation(f"{row.prompt} " * (1 + row.seed % 3), True, 1 + row.seed % 3, 2)
            for row in rows
        ]


def echoes(budget=None):
    return LocalWriter(Echo(), "echo", batch=3, budget_tokens=budget)


@needs_ray
@pytest.mark.parametrize("budget", [None, 260, 70])
def test_a_writer_on_workers_writes_what_one_here_does(pool, budget):
    requests = [Request(f"k/{i}", opening=Opening(f"list {i} -", "")) for i in range(40)]
    how = {"seed": 3, "max_new_tokens": 8, "temperature": 1.0, "done": {}, "progress": quiet}
    texts, ends = [], []
    for writer in (echoes(budget), RayWriter(pool, echoes, budget_tokens=budget)):
        recorded = []
        try:
            assert [*writer.write(requests, record=recorded.append, **how)]
            ends.append("")
        except BudgetReached as error:
            ends.append(str(error))
        texts.append(sorted(recorded))
    assert texts[0] == texts[1]
    assert ends[0] == ends[1]
    assert (len(texts[0]) == 40) == (budget != 70)


@needs_ray
def test_ray_of_this_machine_listens_on_this_machine_only(pool):
    """Every socket of Ray's processes, as the kernel lists them."""
    remote(pool, partial(LexiconEncoder, *WORDS))
    inodes = set()
    ours = {os.getpid(), *_descendants(os.getpid())}
    for pid in ours:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].partition(":")[0])
    assert len(listening) > 5
    assert {*listening} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def _descendants(pid):
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                child = int(path.parent.name)
                pids += [child, *_descendants(child)]
    return pids


@needs_ray
def test_the_handler_of_a_request_to_end_is_still_ours():
    code = """
import signal
from fac.executor import Pool, Where

def ours(*_):
    print("asked to end")

signal.signal(signal.SIGTERM, ours)
pool = Pool(Where("ray"))
assert signal.getsignal(signal.SIGTERM) is ours
signal.raise_signal(signal.SIGTERM)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert (ended.returncode, ended.stdout) == (0, "asked to end\n"), ended.stderr


@needs_ray
def test_a_killed_driver_leaves_no_worker_and_loses_no_part(tmp_path, parts_of_eight):
    here, there = place(tmp_path, "here"), place(tmp_path, "there")
    run = measured(here, many(100), LexiconEncoder(*WORDS))
    diary = tmp_path / "diary"
    code = f"""
        from functools import partial
        from fac.executor import Pool, RayEncoder, Where
        from fac.measure import tables
        from tests.test_executor import SlowEncoder, measured, many, place, quiet
        from pathlib import Path
        tables.PART = 8
        encoder = RayEncoder(Pool(Where("ray")), partial(SlowEncoder, {str(diary)!r}, 0.1))
        measured(place(Path({str(tmp_path)!r}), "there"), many(100), encoder, lambda *_: None)
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY)
    folder = there.root / "measure" / f".tmp-{run}"
    until = time.monotonic() + 60
    while len([*folder.glob("_part-??????")]) < 3:
        assert time.monotonic() < until and driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    worker = int(diary.read_text().split()[-1])
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    kept = len([*folder.glob("_part-??????")])
    encoder = LexiconEncoder(*WORDS)
    assert measured(there, many(100), encoder) == run
    assert encoder.read_samples == 100 - 8 * kept
    assert bytes_of(there, run) == bytes_of(here, run)


@needs_ray
@pytest.mark.model
def test_the_command_gives_the_same_run_with_either_executor(tmp_path, demo_model_home, copy_demo):
    """One worker with all cores computes exactly what this process does."""
    place = copy_demo(tmp_path / "here")  # with the description of the SAE
    Steps(place).perform(written(tmp_path / "drinks.jsonl", drinks(12)), quiet)
    shutil.copytree(place.root, tmp_path / "there")
    runs = []
    # The worker has all cores, whatever the tests around it are limited to.
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["FAC_MODELS"] = str(demo_model_home)
    for name, options in (("here", []), ("there", ["--executor", "ray", "--workers", "1"])):
        command = [sys.executable, "-m", "fac", "measure", "drinks", "--json", *options]
        done = subprocess.run(
            [*command, "--workspace", str(tmp_path / name)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        run = json.loads(done.stdout)["run"]
        runs.append((run, bytes_of(Runs(Workspace(tmp_path / name)), run)))
    assert runs[0] == runs[1]
