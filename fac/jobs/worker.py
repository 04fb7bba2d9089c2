"""The worker: takes jobs from the queue, carries them out, and is started and ended by the app."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing, suppress

from fac.config import INSTALLED, REPOSITORY, Workspace, read_spec
from fac.errors import Cancelled, FacError, InputError, Interrupted
from fac.jobs.progress import THOUSAND, Extent
from fac.jobs.steps import Steps, following
from fac.markup import clean
from fac.store import cache
from fac.store.processes import birth, lives
from fac.store.queue import Job, Queue
from fac.store.runs import Runs

IDLE_SECONDS = 0.3
BEAT_SECONDS = 3.0


class Worker:
    """Takes jobs from a workspace's queue until told to stop.

    One bad job never ends the worker. Killed at any moment, the job goes back to the queue and the
    step continues from its finished parts.
    """

    def __init__(
        self, workspace: Workspace, *, say: Callable[[str], None], steps: Steps | None = None
    ):
        """`steps` are the workspace's own unless given."""
        self.workspace, self.say, self.steps = workspace, say, steps or Steps(workspace)
        self._queue = Queue(workspace.queue)
        self._lease = _Lease(self._queue)
        self._stop = threading.Event()

    def run(self, *, until_idle: bool = False, employer: int | None = None) -> int:
        """Returns how many jobs were carried out.

        A worker of an `employer`, the process id of an app, finishes what waits when the app is
        gone and then ends.
        """
        name, count, handler = f"{os.uname().nodename}:{os.getpid()}", 0, None
        since = birth(employer) if employer is not None else None
        if threading.current_thread() is threading.main_thread():
            handler = signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        self._queue.recover()  # a queue that cannot be used is told before anything starts
        heartbeat = threading.Thread(target=self._beat, name="heartbeat")
        heartbeat.start()
        self.say(f"worker {os.getpid()} reads {self.workspace.queue}")
        try:
            self._renew_caches()
            while not self._stop.is_set():
                self._queue.recover()
                job = self._queue.claim(name)
                if job is not None:
                    count += 1
                    self._carry_out(job)
                elif until_idle or (employer is not None and not lives(employer, since)):
                    break
                else:
                    self._stop.wait(IDLE_SECONDS)
        finally:
            self._stop.set()
            heartbeat.join()
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)
        return count

    def _renew_caches(self) -> None:
        """Builds the caches that are gone or were written by another version of this program."""
        runs = Runs(self.workspace)
        cached = [manifest.run for step in cache.CACHED for manifest in runs.list(step)]
        with closing(cache.Cache(self.workspace.cache)) as caches:
            missing = [run_id for run_id in cached if not caches.ready(run_id)]
        for run_id in missing:
            if self._stop.is_set():
                return
            try:
                cache.build(runs, run_id, self.workspace.cache)
            except FacError as error:
                self.say(f"no cache for {run_id}: {error}")

    def _beat(self) -> None:
        begun = time.time()
        while True:
            try:
                self._queue.beat(os.getpid(), begun)
                self._lease.renew()
            except FacError as error:  # a full disk may have room again by the next beat
                self.say(f"no sign of life could be left: {error}")
            if self._stop.wait(BEAT_SECONDS):
                return

    def _carry_out(self, job: Job) -> None:
        self.say(f"job {job.id}: {job.step} {job.spec}")

        extent = Extent(job.step, job.done / job.total if job.total else 0.0)

        def progress(done: int, total: int, note: str = "") -> None:
            reached, words = extent.at(done, total), extent.words(done, total, note)
            self._lease.report(job.id, reached, THOUSAND if total or reached else 0, words)
            if self._stop.is_set():
                raise Interrupted("the worker was asked to stop")

        try:
            progress(0, 0)
            spec = read_spec(job.step, job.spec)
            run_id = self.steps.perform(spec, progress)
            if (next_spec := following(spec, run_id)) is not None:
                self._queue.enqueue(
                    next_spec, job.asker
                )  # before this one ends: killed here, it is asked again
        except Cancelled as reason:
            if not self._stop.is_set():  # what a worker that ends leaves, the next one recovers
                self._queue.stopped(job.id)
            self.say(f"job {job.id}: stopped, {reason}")
        except FacError as error:
            self._queue.fail(job.id, str(error))
            self.say(f"job {job.id}: failed, {error}")
        except Exception as error:  # the boundary of the process: the next job must still run
            sys.stderr.write(clean(traceback.format_exc()))
            self._queue.fail(
                job.id, f"{type(error).__name__}: {error}. The log has the details; this is a bug."
            )
        else:
            self._queue.finish(job.id, run_id)
            self.say(f"job {job.id}: done, {run_id}")
        finally:
            self._lease.end()


class _Lease:
    """The job in hand, kept for this worker also while its step is silent, as in a download."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._turn = threading.Lock()
        self._last: tuple[int, int, int, str] | None = None

    def report(self, job_id: int, done: int, total: int, note: str = "") -> None:
        """Raises Cancelled when a person asked to stop."""
        with self._turn:
            self._last = job_id, done, total, note
            self._queue.report(*self._last)

    def renew(self) -> None:
        """Repeats the last report; the step itself will meet a wish to stop at its next one."""
        with self._turn, suppress(Cancelled):
            if self._last:
                self._queue.report(*self._last)

    def end(self) -> None:
        with self._turn:
            self._last = None


_starting = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []
"""Workers of this process, kept so that those that ended can be buried."""


def _bury() -> None:
    _started[:] = [process for process in _started if process.poll() is None]


def start_worker(workspace: Workspace) -> None:
    """Start the worker process of a workspace unless one is alive."""
    with _starting:
        _bury()
        queue = Queue(workspace.queue)
        state = queue.worker()
        if state and state["alive"]:
            return
        workspace.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fac", "worker", "--workspace", str(workspace.root)]
        command += ["--employer", str(os.getpid())]
        with (workspace.logs / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=None if INSTALLED else REPOSITORY,
            )
        _started.append(process)
        # Alive from now on, so that two quick reruns do not start two.
        queue.beat(process.pid, time.time())


def stop_worker(workspace: Workspace) -> None:
    """End the worker of a workspace at once; its job continues in the next one.

    Raises InputError for a worker on another machine, where its process id means nothing here, and
    for another user's.
    """
    state = Queue(workspace.queue).worker()
    if not (state and state["alive"]):
        return
    if not state["here"]:
        raise InputError(
            f"The worker of {workspace.root} runs on the machine {state['host']!r}: end it there "
            f"with Ctrl-C or a SIGTERM."
        )
    pid, born = state["pid"], state["born"]
    if lives(pid, born):  # it may have ended just now, and its number be another's
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise InputError(
                f"The worker of {workspace.root}, process {pid}, belongs to another user: ask who "
                f"started it to end it."
            ) from error
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with _starting:
            _bury()
        if not lives(pid, born) and all(process.pid != pid for process in _started):
            return
        time.sleep(0.05)


def restart_worker(workspace: Workspace) -> None:
    """End the worker and start a new one."""
    stop_worker(workspace)
    start_worker(workspace)
