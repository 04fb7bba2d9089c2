"""Where parts are read and texts are written: in this process, or by workers of a Ray cluster.

`local` needs nothing from here but its name. `ray` starts workers, actors that load a model once
and keep it, and hands them parts; the results are the same, so where a run was computed is no
part of what it is. A worker needs nothing of this machine's disk: chats and settings travel to it,
tables travel back, the model is found where the worker runs. One that dies is replaced and what it
had in hand is done again.

These are Ray's core actors and not a pool of Ray Data, whose workers live for one pass over one
data set: a synthesis measures a few hundred texts, decides, and measures again, and would load the
model anew each time. It would also need all chats in its object store before the first part, tell
nothing of the tokens inside a part, and could not give later parts the admission
thresholds that earlier ones set.

Needs requirements-scale.txt for `ray`, which is imported when the first pool starts.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple

from fac.encoder import Reading
from fac.errors import InputError, ServiceError, first_line
from fac.folders import PACKAGE
from fac.generator.local import Continuation
from fac.generator.writer import Request
from fac.generator.writers.local import LineBatch, LocalWriter, Pace
from fac.measure.parts import CountBatch, Part, PartTask, ReportRead, read_part
from fac.models import Chat, Checked, Rendered
from fac.schema import ROLES, Activations

EXECUTORS = ("local", "ray")

POLL_SECONDS = 0.5
"""Between two questions how far the workers are, and whether a person asked to stop."""

AHEAD = 2  # Parts a worker has in hand, so that it never waits for the next one to arrive
DEATHS = 3  # Deaths of each worker, with nothing finished between them, until it is no accident
PATIENCE_SECONDS = 900  # Without any worker, until it is told that the cluster has no room for one

Factory = Callable[[], Any]  # Loads what a worker applies functions to; picklable

Function = Callable[[Any, Any, CountBatch], Any]
"""(what a Factory loaded, an item, count_batch) -> the item's result."""


class Where(NamedTuple):
    """Where models run."""

    executor: str = "local"
    address: str = ""
    """Of a Ray cluster, HOST:PORT; "" starts a Ray of this machine alone, for as long as we run."""

    workers: int | None = None
    """None is one for every accelerator, or one for every machine where there is none."""


def choose_executor(
    executor: str | None = None, address: str | None = None, workers: int | None = None
) -> Where:
    """Where the options say, else where FAC_EXECUTOR, FAC_RAY_ADDRESS and FAC_RAY_WORKERS say.

    Raises InputError for an executor that does not exist, or options it does not have.
    """
    kind = executor or os.environ.get("FAC_EXECUTOR") or EXECUTORS[0]
    if kind not in EXECUTORS:
        raise InputError(f"The executor must be one of {', '.join(EXECUTORS)}, got {kind!r}.")
    if kind == "local":
        if address or workers:
            raise InputError("--address and --workers are for --executor ray.")
        return Where()
    number = os.environ.get("FAC_RAY_WORKERS") or "0"
    if workers is None:
        if not (number.isascii() and number.isdigit()):
            raise InputError(f"FAC_RAY_WORKERS must be a number of workers, got {number!r}.")
        workers = int(number) or None
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, got {workers}.")
    return Where(kind, address or os.environ.get("FAC_RAY_ADDRESS") or "", workers)


# --- the pool -------------------------------------------------------------------------------------


class _Worker:
    """The actor: holds what it once loaded, and applies functions to it."""

    def __init__(self, threads: int):
        self._threads = threads
        self._loaded: dict[bytes, Any] = {}
        self._current = (-1, 0, 0)

    def hello(self) -> tuple[str, str]:
        """Where it runs, and which code."""
        return socket.gethostname(), code_digest()

    def current(self) -> tuple[int, int, int]:
        """(number of the call, samples, tokens) of what it works on now."""
        return self._current

    def call(self, number: int, factory: bytes, function: Function, item: Any) -> Any:
        """function(what the pickled factory loads, item, count_batch)."""
        self._current = number, 0, 0

        def count_batch(samples: int, tokens: int) -> None:
            _, before, tokens_before = self._current
            self._current = number, before + samples, tokens_before + tokens

        if factory not in self._loaded:
            while len(self._loaded) > 1:  # an encoder and a writer stay side by side, as in `local`
                del self._loaded[next(iter(self._loaded))]
            self._loaded[factory] = pickle.loads(factory)()
            if "torch" in sys.modules:
                from fac.models import threads

                threads.fix(self._threads)
        return function(self._loaded[factory], item, count_batch)


class _Remote:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any, hello: Any):
        self.actor = actor
        self.hello = hello  # Reference to its first answer; None once that is here
        self.poll: Any = None  # Reference to its next `current`
        self.current = (-1, 0, 0)  # The last one that came


class _Call(NamedTuple):
    worker: _Remote
    number: int
    item: Any


_InFlight = dict[Any, _Call]  # by the reference to the call's result
_Retries = deque[tuple[int, Any]]  # (number, item) of calls whose worker died


def _unwatched(*_: int) -> None:
    """A beat that nobody listens to."""


class Pool:
    """Workers of a Ray cluster that apply functions to items.

    Raises InputError where Ray is not installed or the cluster has no room for so many workers,
    ServiceError where the cluster cannot be reached.
    """

    def __init__(self, where: Where):
        self._ray = _connected(where.address)
        self._cores, self._gpus, self.size = _share(self._ray.nodes(), where.workers)
        self._workers = [self._hire() for _ in range(self.size)]
        self._deaths = 0

    def _hire(self) -> _Remote:
        actor = (
            self._ray.remote(concurrency_groups={"work": 1, "talk": 1})(_Worker)
            .options(num_cpus=self._cores, num_gpus=self._gpus, scheduling_strategy="SPREAD")
            .remote(self._cores)
        )
        return _Remote(actor, actor.hello.options(concurrency_group="talk").remote())

    def map(
        self,
        factory: Factory,
        function: Function,
        items: Iterable[Any],
        beat: ReportRead = _unwatched,
    ) -> Iterator[tuple[int, Any]]:
        """(index, the function's result) of every item, in the order in which they finish.

        `factory` and `function` are picklable and known by name where the workers run. Items are
        taken when a worker has room for them. beat(samples, tokens) is called every POLL_SECONDS
        with what the calls on their way have counted so far; what it raises ends everything at
        once, and workers in the middle of something are ended too.

        Raises what a call raised; ServiceError when workers die again and again.
        """
        pickled, numbered = pickle.dumps(factory), enumerate(items)
        retries: _Retries = deque()
        in_flight: _InFlight = {}
        exhausted, since = False, time.monotonic()
        try:
            while True:
                for worker in self._workers:
                    room = AHEAD - sum(call.worker is worker for call in in_flight.values())
                    while worker.hello is None and room > 0 and not exhausted:
                        task = retries.popleft() if retries else next(numbered, None)
                        if task is None:
                            exhausted = True
                            break
                        call = worker.actor.call.options(concurrency_group="work")
                        ref = call.remote(task[0], pickled, function, task[1])
                        in_flight[ref] = _Call(worker, *task)
                        room -= 1
                if exhausted and not in_flight:
                    return
                if in_flight:
                    since = time.monotonic()
                elif time.monotonic() - since > PATIENCE_SECONDS:
                    raise ServiceError(
                        f"No worker of Ray could start within {PATIENCE_SECONDS // 60} minutes: "
                        f"others hold the cluster's cores, see `ray status`; finished parts are "
                        f"kept."
                    )
                greeting = {w.hello: w for w in self._workers if w.hello is not None}
                ready, _ = self._ray.wait([*in_flight, *greeting], timeout=POLL_SECONDS)
                if not ready:
                    self._poll(in_flight)
                beat(*self._read_so_far(in_flight))
                for ref in ready:
                    if ref in greeting:
                        self._greet(greeting[ref], in_flight, retries)
                    elif ref in in_flight:  # not if its worker was found dead a moment ago
                        call = in_flight[ref]
                        answered, result = self._result(ref)
                        if not answered:
                            self._replace_dead(call.worker, result, in_flight, retries)
                            exhausted = False
                            continue
                        del in_flight[ref]
                        self._deaths = 0
                        yield call.number, result
                        result = None  # so that it does not live as long as the next one takes
        finally:
            for worker in {call.worker for call in in_flight.values()}:
                self._replace(worker)

    def close(self) -> None:
        """End the workers. The next pool of this process uses the same Ray."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers = []

    def _result(self, ref: Any) -> tuple[bool, Any]:
        """(True, the result) or (False, why its worker is gone). Raises what the call raised."""
        broken = self._ray.exceptions
        try:
            return True, self._ray.get(ref)
        except broken.RayTaskError as error:
            raise error.cause from None  # as it was raised, without Ray's frames around it
        except (broken.RayActorError, broken.ObjectLostError, broken.WorkerCrashedError) as error:
            return False, error

    def _greet(self, worker: _Remote, in_flight: _InFlight, retries: _Retries) -> None:
        try:
            answered, greeting = self._result(worker.hello)
        except (ImportError, AttributeError, pickle.UnpicklingError) as error:
            raise InputError(_OTHER_CODE.format("A worker of Ray", error)) from error
        if not answered:
            if "ModuleNotFoundError" in str(greeting):
                raise InputError(_OTHER_CODE.format("A worker of Ray", "it does not find `fac`"))
            self._replace_dead(worker, greeting, in_flight, retries)
            return
        host, code = greeting
        if code != code_digest():
            raise InputError(_OTHER_CODE.format(f"The worker on {host}", "another version"))
        worker.hello = None

    def _poll(self, in_flight: _InFlight) -> None:
        for worker in {call.worker for call in in_flight.values()}:
            if worker.poll is None:
                worker.poll = worker.actor.current.options(concurrency_group="talk").remote()

    def _read_so_far(self, in_flight: _InFlight) -> tuple[int, int]:
        polls = {worker.poll: worker for worker in self._workers if worker.poll is not None}
        if polls:
            for ref in self._ray.wait([*polls], num_returns=len(polls), timeout=0)[0]:
                polls[ref].poll = None
                answered, current = self._result(ref)
                if answered:  # if not, the call it is in the middle of will tell
                    polls[ref].current = current
        calls = {(id(call.worker), call.number) for call in in_flight.values()}
        counts = [w.current for w in self._workers if (id(w), w.current[0]) in calls]
        return sum(samples for _, samples, _ in counts), sum(tokens for *_, tokens in counts)

    def _replace_dead(
        self, dead: _Remote, why: object, in_flight: _InFlight, retries: _Retries
    ) -> None:
        self._deaths += 1
        if self._deaths > DEATHS * self.size:
            raise ServiceError(
                f"Workers of Ray died {self._deaths} times in a row without finishing anything "
                f"({first_line(why)}). Often their machine has too little memory: take fewer "
                f"--workers; finished parts are kept."
            )
        lost = [ref for ref, call in in_flight.items() if call.worker is dead]
        retries.extend((call.number, call.item) for call in map(in_flight.pop, lost))
        self._replace(dead)

    def _replace(self, worker: _Remote) -> None:
        self._ray.kill(worker.actor)
        self._workers[self._workers.index(worker)] = self._hire()


_OTHER_CODE = (
    "{} has another FAC Explorer than this machine ({}): bring the clone there to the same commit, "
    "with PYTHONPATH set to it, and start its `ray start` again."
)


@cache
def code_digest() -> str:
    """12 hex digits of this package's source, which must be the same on every machine."""
    code = hashlib.sha256()
    home = Path(__file__).parent
    for path in sorted(home.rglob("*.py")):
        code.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return code.hexdigest()[:12]


def _connected(address: str) -> Any:
    """The ray module, connected to a cluster or to a Ray of this machine that ends with us."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What happens to workers is told in our words; Ray would print its own to stdout, amid --json.
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."
    if not address:
        # Ray opens a dozen ports. With clusters switched off they are on 127.0.0.1 alone, on Linux
        # too in spite of the name; and whoever else is on this machine does not know the token.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # Its workers would run at the lowest priority, which on a busy machine is no speed at all.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # It would put a function of its own in the place of `print`, which Numba cannot compile.
        os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
        paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        import ray
    except ImportError:
        raise InputError(
            "The executor ray needs Ray: pip install -r requirements-scale.txt"
        ) from None
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "configure_logging": False,
        "logging_level": "ERROR",
    }
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            cores = len(os.sched_getaffinity(0))
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        cluster = f"The Ray cluster at {address!r}" if address else "A Ray of this machine"
        raise ServiceError(
            f"{cluster} cannot be reached ({first_line(error)}): see `ray status` there, and that "
            f"RAY_AUTH_TOKEN is the same on both machines."
        ) from error
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in the place of ours
    return ray


def _share(nodes: Sequence[dict[str, Any]], workers: int | None) -> tuple[int, int, int]:
    """(cores, accelerators, number) of the workers, so that all of them fit.

    Raises InputError where they cannot.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in alive if r.get("CPU", 0) >= 1]
    if not machines:
        raise InputError("The Ray cluster has no machine with a free core: add one to it.")
    gpus = 1 if any(gpu for _, gpu in machines) else 0
    if gpus:
        machines = [(cores, gpu) for cores, gpu in machines if gpu]
    number = workers or (sum(gpu for _, gpu in machines) if gpus else len(machines))
    for cores in range(max(cores for cores, _ in machines), 0, -1):
        fit = [min(have // cores, gpu) if gpus else have // cores for have, gpu in machines]
        if sum(fit) >= number:
            return cores, gpus, number
    most = sum(min(gpu, have) if gpus else have for have, gpu in machines)
    what = "accelerator" if gpus else "core"
    raise InputError(
        f"--workers {number} need a free {what} each, but the Ray cluster has {most}: take fewer."
    )


# --- reading and writing --------------------------------------------------------------------------


class OnWorkers:
    """What a factory loads on the workers of a pool, the same on each of them."""

    identity: str
    other_model: str
    """The sentence where a worker has another: its machine, that identity, and the common one."""

    def __init__(self, pool: Pool, factory: Factory, waiting: Callable[[], None] = lambda: None):
        """waiting() is called again and again until the first worker has loaded the model."""
        self._pool, self._factory = pool, factory
        ((_, about),) = pool.map(factory, about_loaded, [None], lambda *_: waiting())
        vars(self).update(about)

    def _map(
        self, function: Function, items: Iterable[Any], beat: ReportRead = _unwatched
    ) -> Iterator[tuple[int, Any]]:
        """`Pool.map` with what was loaded, where that is the same everywhere."""
        same = partial(_on_same, (self.identity, self.other_model, function))
        return self._pool.map(self._factory, same, items, beat)

    def _call(self, method: str, *arguments: Any) -> Any:
        ((_, result),) = self._map(_call, [methodcaller(method, *arguments)])
        return result


ABOUT = ("identity", "n_features", "doubt", "chats")


def about_loaded(loaded: Any, _item: None, _count: CountBatch) -> dict[str, Any]:
    """The attributes by which an encoder or a writer is known elsewhere."""
    return {k: getattr(loaded, k) for k in ABOUT if hasattr(loaded, k)}


def _on_same(
    common: tuple[str, str, Function], loaded: Any, item: Any, count_batch: CountBatch
) -> Any:
    identity, other_model, function = common
    if loaded.identity != identity:
        raise InputError(other_model.format(socket.gethostname(), loaded.identity, identity))
    return function(loaded, item, count_batch)


def _call(loaded: Any, call: Callable[[Any], Any], _count: CountBatch) -> Any:
    """The call's result, as a list where it comes piece by piece."""
    result = call(loaded)
    return [*result] if isinstance(result, Iterator) else result


class RayEncoder(OnWorkers):
    """An `Encoder` whose model is on the workers of a pool.

    The values are those of an encoder in this process, given processors that compute alike: a part
    or a list of chats is read by one worker, as it would be here.
    """

    n_features: int
    doubt: str = ""
    other_model = (
        "The machine {} reads with {}, another with {}: put the same model and SAE on every "
        "machine of the Ray cluster."
    )

    def read_parts(
        self, tasks: Iterable[PartTask], report: ReportRead
    ) -> Iterator[tuple[int, Part]]:
        """A `fac.measure.tables.Executor`."""
        samples = tokens = 0
        numbers: list[int] = []

        def items() -> Iterator[PartTask]:
            for task in tasks:
                numbers.append(task.number)
                yield task

        def beat(now_samples: int, now_tokens: int) -> None:
            report(samples + now_samples, tokens + now_tokens)

        for index, part in self._map(read_part, items(), beat):
            samples += len(part.texts)
            tokens += int(part.texts.column("n_tokens").to_numpy().sum())
            yield numbers[index], part

    def encode(self, chats: Sequence[Chat]) -> Activations:
        return self._call("encode", [*chats])

    def read_each(self, parts: Iterable[Sequence[Chat]]) -> Iterator[list[Reading]]:
        """`read` of several lists, in their order; as many at once as there are workers."""
        early: dict[int, list[Reading]] = {}
        due = 0
        calls = (methodcaller("read", [*part]) for part in parts)
        for index, readings in self._map(_call, calls):
            early[index] = readings
            while due in early:
                yield early.pop(due)
                due += 1

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        yield from self._call("read", [*chats], tuple(roles))

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        return self._call("render", [*chats])

    def check(self, chats: Sequence[Chat]) -> list[Checked]:
        return self._call("check", [*chats])


class RayWriter(OnWorkers, LocalWriter):
    """A `Writer` whose batches are written by the workers of a pool, several at once.

    Batches are cut as `LocalWriter` cuts them and each is written by one worker, so the texts are
    the same.
    """

    other_model = (
        "The machine {} writes with {}, another with {}: put the same model on every machine of "
        "the Ray cluster."
    )

    def __init__(
        self,
        pool: Pool,
        factory: Factory,
        *,
        budget_tokens: int | None = None,
        waiting: Callable[[], None] = lambda: None,
    ):
        """`factory` gives a LocalWriter."""
        super().__init__(pool, factory, waiting)
        self.budget_tokens = budget_tokens

    def _batches(
        self, requests: Sequence[Request], seed: int, max_new_tokens: int
    ) -> Iterator[LineBatch]:
        yield from self._call("_batches", [*requests], seed, max_new_tokens)

    def _continued(
        self, batches: Sequence[LineBatch], temperature: float, pace: Pace
    ) -> Iterator[tuple[LineBatch, list[Continuation]]]:
        items = ((batch, temperature) for batch in batches)
        for index, texts in self._map(_continue, items, lambda *_: pace.report()):
            yield batches[index], texts


def _continue(
    writer: LocalWriter, item: tuple[LineBatch, float], _count: CountBatch
) -> list[Continuation]:
    batch, temperature = item
    return writer.generator.write(
        [line.row for line in batch.lines],
        max_new_tokens=batch.room,
        temperature=temperature,
        top_k=writer.top_k,
    )
