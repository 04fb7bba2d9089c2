"""The worker: what is queued gets done once, whatever dies meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fac import coverage, demo
from fac.config import (
    REPOSITORY,
    DemoSpec,
    ExplainSpec,
    IngestSpec,
    MeasureSpec,
    ProbeSpec,
    Spec,
    Workspace,
)
from fac.errors import GateFailed, InputError, Progress
from fac.jobs import training, worker
from fac.jobs.steps import Steps
from fac.jobs.worker import Worker
from fac.measure import tables as measuring
from fac.schema import Chat
from fac.store import queue as queueing
from fac.store.cache import Cache, files
from fac.store.queue import Job, Queue
from fac.store.runs import Runs
from tests import toy
from tests.lexicon import LexiconEncoder, brute_force_support
from tests.server import ScriptedServer
from tests.test_interpret import honest, prompt_of
from tests.toy import publish_sae

WORDS = ("tea", "coffee", "sugar", "milk")


class SlowLexicon(LexiconEncoder):
    """Calls `meanwhile` before each batch."""

    def __init__(self, *words: str, meanwhile: Callable[[int], None]):
        super().__init__(*words)
        self.meanwhile = meanwhile

    def read(self, chats, *rest):
        for reading in super().read(chats, *rest):
            self.meanwhile(self.read_samples)
            yield reading


class ToySteps(Steps):
    """The real steps, with an encoder of words and a dictionary on a circle."""

    lexicon = WORDS
    meanwhile = staticmethod(lambda _: None)

    def __init__(self, workspace: Workspace, **options):
        super().__init__(workspace, **options)
        self.words = SlowLexicon(*self.lexicon, meanwhile=self.meanwhile)

    def encoder(self, spec, progress):
        return self.words

    def checker(self, spec, progress):
        return self.words.check

    def likelihood(self, spec, progress):
        """Words have none."""

    def describe_sae(self, spec, progress, encoder=None):
        run_id = publish_sae(self.runs, self.words)
        self.build_cache(run_id, progress)
        return run_id


class NapSteps(ToySteps):
    """Slow enough to be killed in the middle of."""

    meanwhile = staticmethod(lambda _: time.sleep(0.03))


class RecordingSteps(Steps):
    """Every step only notes who carried it out."""

    def perform(self, spec: Spec, progress: Progress) -> str:
        with (self.workspace.root / "diary.txt").open("a") as diary:
            diary.write(f"{os.getpid()} {spec.as_json()['text']}\n")
        time.sleep(0.01)
        return "probe-0"


def drinks(n: int = 40) -> list[Chat]:
    """Different chats about the WORDS and others."""
    rng = np.random.default_rng(3)
    words = [*WORDS, "water", "and", "with"]
    return [
        [
            {"role": "user", "content": f"{i} " + " ".join(map(str, rng.choice(words, 5)))},
            {"role": "assistant", "content": "tea!" if i % 3 else "water"},
        ]
        for i in range(n)
    ]


def written(path: Path, chats: Sequence[Chat]) -> IngestSpec:
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return IngestSpec(name="drinks", source=str(path))


def ingested(workspace: Workspace, path: Path) -> MeasureSpec:
    """A dataset of drinks in the workspace, and what measuring it is asked with."""
    run_id = Steps(workspace).perform(written(path, drinks()), quiet)
    return MeasureSpec(dataset=run_id, model="toy", layer=1, sae="toy")


def quiet(done: int, total: int, note: str = "") -> None:
    assert 0 <= done <= max(total, 1)


def worked(workspace: Workspace, steps: Steps | None = None) -> list[Job]:
    """All jobs, oldest first, after a worker found nothing more to do."""
    Worker(workspace, say=lambda _: None, steps=steps or ToySteps(workspace)).run(until_idle=True)
    return Queue(workspace.queue).jobs()[::-1]


def bytes_of(workspace: Workspace, run_id: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Runs(workspace).path(run_id).glob("*.parquet")}


def eventually(question: Callable[[], object], seconds: float = 20) -> None:
    """Waits until the answer is yes; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# --- jobs in one process -------------------------------------------------------------------------


def test_a_file_goes_through_the_queue_to_counts_that_a_person_can_check(workspace, tmp_path):
    queue = Queue(workspace.queue)
    queue.enqueue(written(tmp_path / "drinks.jsonl", drinks()))
    (read,) = worked(workspace)
    assert (read.status, read.error) == ("done", None)

    queue.enqueue(MeasureSpec(dataset=read.run_id, model="toy", layer=1, sae="toy"))
    _, measured = worked(workspace)
    assert (measured.status, measured.error) == ("done", None)
    expected = brute_force_support(LexiconEncoder(*WORDS), drinks(), 1.2)
    support = Cache(workspace.cache).support(measured.run_id, 1.2)
    assert support.tolist() == expected.tolist()
    assert expected.sum() > 0


def test_a_bad_job_fails_with_a_sentence_and_the_next_still_runs(workspace, tmp_path):
    queue = Queue(workspace.queue)
    queue.enqueue(IngestSpec(name="gone", source=str(tmp_path / "gone.jsonl")))
    queue.enqueue(MeasureSpec(dataset="dataset-000000000000"))
    queue.enqueue(written(tmp_path / "drinks.jsonl", drinks()))
    missing, unknown, good = worked(workspace)
    assert (missing.status, unknown.status, good.status) == ("failed", "failed", "done")
    assert missing.error == f"There is no file '{tmp_path}/gone.jsonl': check the path."
    assert "dataset-000000000000" in unknown.error


def test_a_bug_in_one_step_is_told_and_ends_no_worker(workspace, tmp_path, capsys):
    class Buggy(ToySteps):
        def encoder(self, spec, progress):
            return 1 / 0

    measure = ingested(workspace, tmp_path / "drinks.jsonl")
    queue = Queue(workspace.queue)
    queue.enqueue(measure)
    queue.enqueue(IngestSpec(name="again", source=str(tmp_path / "drinks.jsonl")))
    first, second = worked(workspace, Buggy(workspace))
    assert first.error == (
        "ZeroDivisionError: division by zero. The log has the details; this is a bug."
    )
    assert second.status == "done"
    assert "return 1 / 0" in capsys.readouterr().err


def test_a_spec_of_another_version_fails_with_a_sentence(workspace, monkeypatch):
    class Future(ProbeSpec):
        step = "astrology"

    Queue(workspace.queue).enqueue(Future(text="tea"))
    (job,) = worked(workspace)
    assert job.status == "failed"
    assert "no step called 'astrology'" in job.error


def test_a_cancelled_measure_keeps_its_finished_parts(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART", 8)
    spec = ingested(workspace, tmp_path / "drinks.jsonl")
    queue = Queue(workspace.queue)
    job = queue.enqueue(spec)
    impatient = ToySteps(workspace)
    impatient.words.meanwhile = lambda read: queue.cancel(job) if read > 20 else None
    (stopped,) = worked(workspace, impatient)
    assert (stopped.status, stopped.run_id, stopped.error) == ("cancelled", None, None)
    assert impatient.words.read_samples == 24
    assert Runs(workspace).list("measure") == []

    queue.retry(job)
    patient = ToySteps(workspace)
    assert worked(workspace, patient)[-1].status == "done"
    assert patient.words.read_samples == 40 - 16


def test_a_cancelled_explanation_is_browsable_and_goes_on_where_it_was(workspace, monkeypatch):
    toy.toy_workspace(workspace.root, samples={"toy-anchor": toy.ANCHOR})
    queue = Queue(workspace.queue)
    runs = Runs(workspace)
    server = ScriptedServer(lambda body: honest(prompt_of(body)))
    with server.running():
        workspace.endpoints.write_text(f'[lab]\nurl = "{server.endpoint}"\n')
        spec = ExplainSpec(
            measure=runs.resolve("measure", "toy-anchor"),
            explainer="llm",
            model="m",
            endpoint=server.endpoint,
            concurrency=1,
        )
        job = queue.enqueue(spec)
        report = Queue.report

        def impatient(self: Queue, job_id: int, done: int, total: int, note: str = "") -> None:
            if sum(server.served.values()) >= 4:
                queue.cancel(job_id)
            report(self, job_id, done, total, note)

        monkeypatch.setattr(Queue, "report", impatient)
        Worker(workspace, say=print).run(until_idle=True)
        assert queue.job(job).status == "cancelled"
        (part,) = runs.list("explain")
        assert Cache(workspace.cache).ready(part.run)
        monkeypatch.setattr(Queue, "report", report)
        again = queue.retry(job)
        Worker(workspace, say=print).run(until_idle=True)
    done = queue.job(again)
    assert done.status == "done", done.error
    assert len(Cache(workspace.cache).explanations(done.run_id)) == 11
    assert sorted(server.served.values()) == [1] * 11


def test_asking_twice_does_the_work_once(workspace, tmp_path):
    queue, steps = Queue(workspace.queue), ToySteps(workspace)
    spec = ingested(workspace, tmp_path / "drinks.jsonl")
    assert queue.enqueue(spec) == queue.enqueue(spec)
    worked(workspace, steps)
    queue.enqueue(spec)
    first, second = worked(workspace, steps)
    assert first.run_id == second.run_id
    assert steps.words.read_samples == 40


def test_a_deleted_cache_comes_back_with_the_next_request(workspace, tmp_path):
    queue, steps = Queue(workspace.queue), ToySteps(workspace)
    spec = ingested(workspace, tmp_path / "drinks.jsonl")
    queue.enqueue(spec)
    (job,) = worked(workspace, steps)
    shutil.rmtree(workspace.cache)
    queue.enqueue(spec)
    worked(workspace, steps)
    assert Cache(workspace.cache).ready(job.run_id)


def test_a_worker_builds_caches_of_another_version_and_minds_no_damaged_run(
    workspace, tmp_path, monkeypatch, capsys
):
    steps = ToySteps(workspace)
    measured = steps.perform(ingested(workspace, tmp_path / "drinks.jsonl"), quiet)
    with closing(Cache(workspace.cache)) as cache:
        assert cache.ready(measured)
        monkeypatch.setattr(files, "SQL_VERSION", files.SQL_VERSION + 1)
    with closing(Cache(workspace.cache)) as cache:
        assert not cache.ready(measured)
    spans = Runs(workspace).path(measured) / "spans.parquet"
    whole = spans.read_bytes()
    spans.write_bytes(whole[:40])
    Worker(workspace, say=print, steps=steps).run(until_idle=True)
    assert f"no cache for {measured}: " in capsys.readouterr().out
    spans.write_bytes(whole)
    Worker(workspace, say=print, steps=steps).run(until_idle=True)
    with closing(Cache(workspace.cache)) as cache:
        assert cache.ready(measured)


def test_a_step_that_is_silent_for_long_keeps_its_job(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    spec = ingested(workspace, tmp_path / "drinks.jsonl")
    reported = []
    real = Queue.report
    monkeypatch.setattr(Queue, "report", lambda q, *a: (reported.append(a), real(q, *a))[1])
    silent = ToySteps(workspace)
    silent.words.meanwhile = lambda read: time.sleep(0.3) if read == 4 else None
    Queue(workspace.queue).enqueue(spec)
    (job,) = worked(workspace, silent)
    assert job.status == "done"
    assert max(Counter(reported).values()) > 3


def test_a_worker_finishes_what_waits_after_its_app_is_gone_and_ends(workspace, tmp_path):
    app = subprocess.Popen(["sleep", "60"])
    queue, lines = Queue(workspace.queue), []
    queue.enqueue(written(tmp_path / "drinks.jsonl", drinks()))

    def say(line: str) -> None:
        lines.append(line)
        if "reads" in line:
            app.kill()
            app.wait()

    assert Worker(workspace, say=say).run(employer=app.pid) == 1
    assert queue.jobs()[0].status == "done"


class Sleeper(subprocess.Popen):
    """A process in the place of a worker, which takes seconds to start."""

    def __init__(self, command, **options):
        self.command = command
        super().__init__(["sleep", "60"], **options)


@pytest.fixture
def sleepers(workspace, monkeypatch) -> Iterator[list[Sleeper]]:
    """Every process that was started as a worker."""
    started: list[Sleeper] = []

    def start(command, **options):
        started.append(Sleeper(command, **options))
        return started[-1]

    monkeypatch.setattr(worker.subprocess, "Popen", start)
    yield started
    for process in started:
        process.kill()
        process.wait()
    worker._bury()


def test_a_dead_workers_beat_an_hour_ahead_starts_one_worker(workspace, sleepers, monkeypatch):
    gone = Sleeper([])
    gone.kill()
    gone.wait()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda now=time.time(): now + 3600)
        Queue(workspace.queue).beat(gone.pid, time.time())
    for _ in range(5):
        worker.start_worker(workspace)
    assert len(sleepers) == 1


def test_only_the_process_that_was_the_worker_is_stopped(workspace, sleepers, monkeypatch):
    bystander = Sleeper([])
    sleepers.append(bystander)
    with monkeypatch.context() as before:  # its number was a worker's, which was heard of just now
        before.setattr(queueing, "birth", lambda pid: "another time")
        Queue(workspace.queue).beat(bystander.pid, time.time())
    worker.stop_worker(workspace)
    assert bystander.poll() is None
    worker.restart_worker(workspace)
    assert len(sleepers) == 2 and Queue(workspace.queue).worker()["pid"] == sleepers[1].pid
    worker.stop_worker(workspace)
    assert bystander.poll() is None and sleepers[1].poll() == -signal.SIGKILL


def test_a_worker_of_another_user_is_not_stopped_in_silence(workspace, sleepers, monkeypatch):
    worker.start_worker(workspace)

    def refuse(pid, signal_number):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as other, pytest.raises(InputError, match="another user: ask who"):
        other.setattr(worker.os, "kill", refuse)
        worker.stop_worker(workspace)
    assert sleepers[0].poll() is None


def test_the_workspace_of_a_worker_is_the_place_of_everything_it_writes(workspace, tmp_path):
    spec = ingested(workspace, tmp_path / "drinks.jsonl")
    Queue(workspace.queue).enqueue(spec)
    worked(workspace)
    assert {p.name for p in workspace.root.iterdir()} >= {"runs", "cache", "queue.sqlite"}
    assert {p.name for p in tmp_path.iterdir()} == {"drinks.jsonl", workspace.root.name}


# --- several processes ----------------------------------------------------------------------------


def worker_process(workspace: Workspace, steps: str) -> subprocess.Popen:
    """A worker in a process of its own, with small parts."""
    code = f"""
        from pathlib import Path
        from fac.config import Workspace
        from fac.jobs.worker import Worker
        from fac.measure import tables
        from tests import test_jobs
        tables.PART = 4
        place = Workspace(Path({str(workspace.root)!r}))
        Worker(place, say=print, steps=test_jobs.{steps}(place)).run(until_idle=True)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to end"])
def test_a_worker_ended_in_the_middle_of_a_measure_costs_nothing(
    workspace, tmp_path, monkeypatch, how
):
    monkeypatch.setattr(measuring, "PART", 4)
    undisturbed = Workspace(tmp_path / "undisturbed")
    for each in (workspace, undisturbed):
        spec = ingested(each, tmp_path / "drinks.jsonl")
        Queue(each.queue).enqueue(spec)
    (whole,) = worked(undisturbed)

    with worker_process(workspace, "NapSteps") as process:
        folder = workspace.runs / "measure" / f".tmp-{whole.run_id}"
        eventually(lambda: len(list(folder.glob("_part-??????"))) >= 3)
        process.send_signal(how)
    assert process.returncode == (-how if how == signal.SIGKILL else 0)
    assert Runs(workspace).list("measure") == []

    second = ToySteps(workspace)
    (job,) = worked(workspace, second)
    assert (job.status, job.run_id, job.attempts) == ("done", whole.run_id, 2)
    assert 0 < second.words.read_samples <= 40 - 3 * 4
    assert bytes_of(workspace, job.run_id) == bytes_of(undisturbed, whole.run_id)
    continued, other = (Runs(p).manifest(whole.run_id) for p in (workspace, undisturbed))
    assert continued.files == other.files
    timing = ("seconds", "tokens_per_second")
    assert {k: v for k, v in continued.facts.as_json().items() if k not in timing} == {
        k: v for k, v in other.facts.as_json().items() if k not in timing
    }


def test_two_workers_never_run_one_job(workspace):
    queue = Queue(workspace.queue)
    texts = [f"text {i}" for i in range(30)]
    for text in texts:
        queue.enqueue(ProbeSpec(text=text))
    with (
        worker_process(workspace, "RecordingSteps") as first,
        worker_process(workspace, "RecordingSteps") as second,
    ):
        eventually(lambda: first.poll() == second.poll() == 0)
    diary = (workspace.root / "diary.txt").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in diary) == sorted(texts)
    assert {job.status for job in queue.jobs()} == {"done"}


@pytest.fixture
def app_worker(workspace) -> Iterator[Workspace]:
    """A workspace whose worker, if one was started, ends with the test."""
    yield workspace
    worker.stop_worker(workspace)


def test_the_app_starts_one_worker_that_works_and_can_be_replaced(app_worker, tmp_path):
    queue = Queue(app_worker.queue)
    worker.start_worker(app_worker)
    first = queue.worker()
    worker.start_worker(app_worker)
    assert first["alive"]
    assert queue.worker()["pid"] == first["pid"]

    job = queue.enqueue(written(tmp_path / "drinks.jsonl", drinks()))
    eventually(lambda: queue.job(job).status == "done")

    worker.restart_worker(app_worker)
    second = queue.worker()
    assert second["alive"]
    assert second["pid"] != first["pid"]
    job = queue.enqueue(IngestSpec(name="again", source=str(tmp_path / "drinks.jsonl")))
    eventually(lambda: queue.job(job).status == "done")

    worker.stop_worker(app_worker)
    assert not queue.worker()["alive"]
    assert f"worker {second['pid']} reads" in (app_worker.logs / "worker.log").read_text()


# --- the demo's runs, computed anew ---------------------------------------------------------------


@pytest.fixture
def toy_demo(tmp_path, monkeypatch) -> Workspace:
    """A demo of drinks: its inputs, and the place where its runs would be committed."""
    inputs = {}
    for name, chats in ((demo.ANCHOR, drinks()), (demo.SEED, drinks()[:2])):
        inputs[name] = tmp_path / f"{name}.jsonl"
        written(inputs[name], chats)
    monkeypatch.setattr(demo, "INPUTS", inputs)
    monkeypatch.setattr(demo, "COMMITTED", Workspace(tmp_path / "committed"))
    monkeypatch.setattr(training, "Steps", ToySteps)
    return demo.COMMITTED


def test_a_rebuilt_demo_says_what_the_committed_one_says(workspace, toy_demo, tmp_path):
    first = training.rebuild_demo(workspace, quiet)
    shutil.copytree(workspace.runs, toy_demo.runs)

    other = Workspace(tmp_path / "other")
    assert demo.materialise(other, quiet) == first
    before = bytes_of(other, first[-1])
    assert training.rebuild_demo(other, quiet) == first
    assert bytes_of(other, first[-1]) == before
    assert not (other.root / "rebuild").exists()

    headline = training.headline(other, first)
    supports = [
        brute_force_support(LexiconEncoder(*WORDS), chats, 0) for chats in (drinks(), drinks()[:2])
    ]
    relevant = coverage.everywhere_relevant(supports[0], 40)
    expected = coverage.fac(supports[0] > 0, supports[1] > 0, relevant)
    assert (headline["fac"], headline["missing"]) == (expected.fac, expected.missing.tolist())


def test_a_measure_with_another_encoder_does_not_change_what_the_demo_says(workspace, toy_demo):
    ids = training.rebuild_demo(workspace, quiet)
    before = training.headline(workspace, ids)
    steps = ToySteps(workspace)
    steps.words = LexiconEncoder(*WORDS[:2])
    dataset = steps.runs.resolve("dataset", demo.ANCHOR)
    steps.perform(MeasureSpec(dataset=dataset), quiet)
    assert training.headline(workspace, ids) == before


def test_a_demo_that_no_longer_comes_out_the_same_is_a_failed_gate(
    workspace, toy_demo, monkeypatch
):
    training.rebuild_demo(workspace, quiet)
    shutil.copytree(workspace.runs, toy_demo.runs)
    real = training.headline

    def moved(each, ids=None):
        headline = real(each, ids)
        return headline if each.root.name == "rebuild" else {**headline, "fac": headline["fac"] / 2}

    monkeypatch.setattr(training, "headline", moved)
    with pytest.raises(GateFailed, match="differs from the committed one"):
        training.rebuild_demo(workspace, quiet)


def test_the_demo_comes_in_through_the_queue_with_its_caches(workspace, toy_demo, tmp_path):
    training.rebuild_demo(Workspace(tmp_path / "made"), quiet)
    shutil.copytree(tmp_path / "made" / "runs", toy_demo.runs)
    Queue(workspace.queue).enqueue(DemoSpec())
    (job,) = worked(workspace)
    assert job.status == "done"
    assert Cache(workspace.cache).ready(job.run_id)
    assert len(Runs(workspace).list("measure")) == 2


def test_a_demo_without_runs_is_told_in_a_sentence(workspace, toy_demo):
    with pytest.raises(InputError, match="holds no runs; restore data/demo from git"):
        demo.materialise(workspace, quiet)
