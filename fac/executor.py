"""Where parts are read and texts are written: in this process, or by workers of a Ray cluster.

`local` needs nothing from here but its name. `ray` starts workers, actors that load a model once
and keep it, and hands them parts; the results are the same, so where a run was computed is no
part of what it is. A worker needs nothing of this machine's disk: chats and settings travel to it,
tables travel back, the model is found where the worker runs. One that dies is replaced and what it
had in hand is done again.

These are Ray's core actors and not a pool of Ray Data, whose workers live for one pass over one
data set: a synthesis measures a few hundred texts, decides, and measures again, and would load the
model anew each time. It would also need all chats in its object store before the first part, tell
nothing of the tokens inside a part, and could not give later parts the bar that earlier ones set.

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
from pathlib import Path
from typing import Any, NamedTuple

from fac.config import REPOSITORY
from fac.encoder import Encoder, Reading
from fac.errors import InputError, ServiceError
from fac.generator.local import Continuation
from fac.generator.writer import Batch, LocalWriter, Pace, Request
from fac.measure import Part, Task, Tell, read_part
from fac.models import Chat, Rendered
from fac.schema import ROLES, Activations

EXECUTORS = ("local", "ray")

POLL_SECONDS = 0.5
"""Between two questions how far the workers are, and whether a person asked to stop."""

AHEAD = 2
"""Parts a worker has in hand, so that it never waits for the next one to arrive."""

DEATHS = 3
"""Deaths of each worker, with nothing finished between them, until it is no accident."""

PATIENCE_SECONDS = 900
"""Without any worker, until it is told that the cluster has no room for one."""

Told = Callable[[int, int], None]
Make = Callable[[], Any]


class Where(NamedTuple):
    """Where models run."""

    executor: str = "local"
    address: str = ""
    """Of a Ray cluster, HOST:PORT; "" starts a Ray of this machine alone, for as long as we run."""

    workers: int | None = None
    """None is one for every accelerator, or one for every machine where there is none."""


def chosen(
    executor: str | None = None, address: str | None = None, workers: int | None = None
) -> Where:
    """What was asked for, else what FAC_EXECUTOR, FAC_RAY_ADDRESS and FAC_RAY_WORKERS say.

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
    """The actor: keeps what it was asked to make, and applies functions to it."""

    def __init__(self, threads: int):
        self._threads = threads
        self._made: dict[bytes, Any] = {}
        self._now = (-1, 0, 0)

    def hello(self) -> tuple[str, str]:
        """Where it runs, and which code."""
        return socket.gethostname(), code_digest()

    def far(self) -> tuple[int, int, int]:
        """(number of the call, samples, tokens) of what it works on now."""
        return self._now

    def call(self, number: int, make: bytes, function: Callable[..., Any], item: Any) -> Any:
        """function(what `make` made, item, told)."""
        self._now = number, 0, 0

        def told(samples: int, tokens: int) -> None:
            _, before, tokens_before = self._now
            self._now = number, before + samples, tokens_before + tokens

        if make not in self._made:
            while len(self._made) > 1:  # an encoder and a writer stay side by side, as in `local`
                del self._made[next(iter(self._made))]
            self._made[make] = pickle.loads(make)()
            if "torch" in sys.modules:
                import torch

                torch.set_num_threads(self._threads)
        return function(self._made[make], item, told)


class _Hand:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any, hello: Any):
        self.actor = actor
        self.hello = hello
        """Reference to its first answer; None once that is here."""
        self.asked: Any = None
        """Reference to its answer how far it is."""
        self.now = (-1, 0, 0)


class _Call(NamedTuple):
    hand: _Hand
    number: int
    item: Any


class Pool:
    """Workers of a Ray cluster that apply functions to items.

    Raises InputError where Ray is not installed or the cluster has no room for so many workers,
    ServiceError where the cluster cannot be reached.
    """

    def __init__(self, where: Where):
        self._ray = _connected(where.address)
        self._cores, self._gpus, self.size = _share(self._ray.nodes(), where.workers)
        self._hands = [self._hire() for _ in range(self.size)]
        self._deaths = 0

    def _hire(self) -> _Hand:
        actor = (
            self._ray.remote(concurrency_groups={"work": 1, "talk": 1})(_Worker)
            .options(num_cpus=self._cores, num_gpus=self._gpus, scheduling_strategy="SPREAD")
            .remote(self._cores)
        )
        return _Hand(actor, actor.hello.options(concurrency_group="talk").remote())

    def map(
        self,
        make: Make,
        function: Callable[[Any, Any, Told], Any],
        items: Iterable[Any],
        beat: Told = lambda samples, tokens: None,
    ) -> Iterator[tuple[int, Any]]:
        """(index, function(made, item, told)) of every item, in the order in which they finish.

        `make` and `function` are picklable and known by name where the workers run. Items are taken
        when a worker has room for them. beat(samples, tokens) is called every POLL_SECONDS with
        what the calls on their way have told so far; what it raises ends everything at once, and
        workers in the middle of something are ended too.

        Raises what a call raised; ServiceError when workers die again and again.
        """
        made, numbered = pickle.dumps(make), enumerate(items)
        again: deque[tuple[int, Any]] = deque()
        flying: dict[Any, _Call] = {}
        exhausted, since = False, time.monotonic()
        try:
            while True:
                for hand in self._hands:
                    room = AHEAD - sum(call.hand is hand for call in flying.values())
                    while hand.hello is None and room > 0 and not exhausted:
                        task = again.popleft() if again else next(numbered, None)
                        if task is None:
                            exhausted = True
                            break
                        asked = hand.actor.call.options(concurrency_group="work")
                        ref = asked.remote(task[0], made, function, task[1])
                        flying[ref] = _Call(hand, *task)
                        room -= 1
                if exhausted and not flying:
                    return
                if flying:
                    since = time.monotonic()
                elif time.monotonic() - since > PATIENCE_SECONDS:
                    raise ServiceError(
                        f"No worker of Ray could start within {PATIENCE_SECONDS // 60} minutes: "
                        f"others hold the cluster's cores, see `ray status`; finished parts are "
                        f"kept."
                    )
                greeting = {hand.hello: hand for hand in self._hands if hand.hello is not None}
                found, _ = self._ray.wait([*flying, *greeting], timeout=POLL_SECONDS)
                if not found:
                    self._ask_how_far(flying)
                beat(*self._so_far(flying))
                for ref in found:
                    if ref in greeting:
                        self._greet(greeting[ref], flying, again)
                    elif ref in flying:  # not if its worker was found dead a moment ago
                        call = flying[ref]
                        answered, result = self._result(ref)
                        if not answered:
                            self._bury(call.hand, result, flying, again)
                            exhausted = False
                            continue
                        del flying[ref]
                        self._deaths = 0
                        yield call.number, result
                        result = None  # so that it does not live as long as the next one takes
        finally:
            for hand in {call.hand for call in flying.values()}:
                self._replace(hand)

    def one(self, make: Make, function: Callable[[Any, Any, Told], Any], item: Any) -> Any:
        """The result of one call."""
        ((_, result),) = self.map(make, function, [item])
        return result

    def close(self) -> None:
        """End the workers. The next pool of this process uses the same Ray."""
        for hand in self._hands:
            self._ray.kill(hand.actor)
        self._hands = []

    def _result(self, ref: Any) -> tuple[bool, Any]:
        """(True, the result) or (False, why its worker is gone). Raises what the call raised."""
        broken = self._ray.exceptions
        try:
            return True, self._ray.get(ref)
        except broken.RayTaskError as error:
            raise error.cause from None  # as it was raised, without Ray's frames around it
        except (broken.RayActorError, broken.ObjectLostError, broken.WorkerCrashedError) as error:
            return False, error

    def _greet(self, hand: _Hand, flying: dict[Any, _Call], again: deque[tuple[int, Any]]) -> None:
        try:
            answered, said = self._result(hand.hello)
        except (ImportError, AttributeError, pickle.UnpicklingError) as error:
            raise InputError(_OTHER_CODE.format("A worker of Ray", error)) from error
        if not answered:
            if "ModuleNotFoundError" in str(said):
                raise InputError(_OTHER_CODE.format("A worker of Ray", "it does not find `fac`"))
            self._bury(hand, said, flying, again)
            return
        host, code = said
        if code != code_digest():
            raise InputError(_OTHER_CODE.format(f"The worker on {host}", "another version"))
        hand.hello = None

    def _ask_how_far(self, flying: dict[Any, _Call]) -> None:
        for hand in {call.hand for call in flying.values()}:
            if hand.asked is None:
                hand.asked = hand.actor.far.options(concurrency_group="talk").remote()

    def _so_far(self, flying: dict[Any, _Call]) -> tuple[int, int]:
        asked = {hand.asked: hand for hand in self._hands if hand.asked is not None}
        if asked:
            for ref in self._ray.wait([*asked], num_returns=len(asked), timeout=0)[0]:
                asked[ref].asked = None
                answered, said = self._result(ref)
                if answered:  # if not, the call it is in the middle of will tell
                    asked[ref].now = said
        here = {(id(call.hand), call.number) for call in flying.values()}
        now = [h.now for h in self._hands if (id(h), h.now[0]) in here]
        return sum(samples for _, samples, _ in now), sum(tokens for *_, tokens in now)

    def _bury(
        self, dead: _Hand, why: object, flying: dict[Any, _Call], again: deque[tuple[int, Any]]
    ) -> None:
        self._deaths += 1
        if self._deaths > DEATHS * self.size:
            reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
            raise ServiceError(
                f"Workers of Ray died {self._deaths} times in a row without finishing anything "
                f"({reason}). Often their machine has too little memory: take fewer --workers; "
                f"finished parts are kept."
            )
        lost = [ref for ref, call in flying.items() if call.hand is dead]
        again.extend((call.number, call.item) for call in map(flying.pop, lost))
        self._replace(dead)

    def _replace(self, hand: _Hand) -> None:
        self._ray.kill(hand.actor)
        self._hands[self._hands.index(hand)] = self._hire()


_OTHER_CODE = (
    "{} has another FAC Explorer than this machine ({}): bring the clone there to the same commit, "
    "with PYTHONPATH set to it, and start its `ray start` again."
)


@cache
def code_digest() -> str:
    """12 hex digits of this package's source, which must be the same on every machine."""
    found = hashlib.sha256()
    home = Path(__file__).parent
    for path in sorted(home.rglob("*.py")):
        found.update(f"{path.relative_to(home)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


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
        paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
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
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        place = f"The Ray cluster at {address!r}" if address else "A Ray of this machine"
        raise ServiceError(
            f"{place} cannot be reached ({why}): see `ray status` there, and that RAY_AUTH_TOKEN "
            f"is the same on both machines."
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


# --- reading --------------------------------------------------------------------------------------


class RayEncoder:
    """An `Encoder` whose model is on the workers of a pool.

    The values are those of an encoder in this process, given processors that compute alike: a part
    or a list of chats is read by one worker, as it would be here.
    """

    def __init__(self, pool: Pool, make: Make, waiting: Callable[[], None] = lambda: None):
        """waiting() is called again and again until the first worker has loaded the model."""
        self._pool, self._make = pool, make
        ((_, about),) = pool.map(make, _about_encoder, [None], lambda *_: waiting())
        self.identity, self.n_features = about

    def read_parts(self, tasks: Iterable[Task], tell: Tell) -> Iterator[tuple[int, Part]]:
        """A `fac.measure.Executor`."""
        samples = tokens = 0
        numbers: list[int] = []

        def asked() -> Iterator[tuple[str, Task]]:
            for task in tasks:
                numbers.append(task.number)
                yield self.identity, task

        def beat(now_samples: int, now_tokens: int) -> None:
            tell(samples + now_samples, tokens + now_tokens)

        for index, part in self._pool.map(self._make, _read_part, asked(), beat):
            samples += len(part.texts)
            tokens += int(part.texts.column("n_tokens").to_numpy().sum())
            yield numbers[index], part

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """See `Encoder`."""
        (found,) = self.encode_each([chats])
        return found

    def encode_each(self, parts: Iterable[Sequence[Chat]]) -> Iterator[Activations]:
        """`encode` of several lists, in their order; as many at once as there are workers."""
        asked = ((self.identity, [*part]) for part in parts)
        early: dict[int, Activations] = {}
        due = 0
        for index, found in self._pool.map(self._make, _encode, asked):
            early[index] = found
            while due in early:
                yield early.pop(due)
                due += 1

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """See `Encoder`."""
        yield from self._pool.one(self._make, _read, (self.identity, [*chats], tuple(roles)))

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """See `Encoder`."""
        return self._pool.one(self._make, _render, (self.identity, [*chats]))


def _about_encoder(encoder: Encoder, _item: None, _told: Told) -> tuple[str, int]:
    return encoder.identity, encoder.n_features


def _same(encoder: Encoder, identity: str) -> Encoder:
    if encoder.identity != identity:
        raise InputError(
            f"The machine {socket.gethostname()} reads with {encoder.identity}, another with "
            f"{identity}: put the same model and SAE on every machine of the Ray cluster."
        )
    return encoder


def _read_part(encoder: Encoder, item: tuple[str, Task], told: Told) -> Part:
    identity, task = item
    return read_part(_same(encoder, identity), task, told)


def _encode(encoder: Encoder, item: tuple[str, list[Chat]], _told: Told) -> Activations:
    identity, chats = item
    return _same(encoder, identity).encode(chats)


def _read(
    encoder: Encoder, item: tuple[str, list[Chat], tuple[str, ...]], _told: Told
) -> list[Reading]:
    identity, chats, roles = item
    return [*_same(encoder, identity).read(chats, roles)]


def _render(encoder: Encoder, item: tuple[str, list[Chat]], _told: Told) -> list[Rendered]:
    identity, chats = item
    return _same(encoder, identity).render(chats)


# --- writing --------------------------------------------------------------------------------------


class RayWriter(LocalWriter):
    """A `Writer` whose batches are written by the workers of a pool, several at once.

    Batches are cut as `LocalWriter` cuts them and each is written by one worker, so the texts are
    the same.
    """

    def __init__(
        self,
        pool: Pool,
        make: Make,
        *,
        budget_tokens: int | None = None,
        waiting: Callable[[], None] = lambda: None,
    ):
        """`make` gives a LocalWriter; for `waiting` see `RayEncoder`."""
        self._pool, self._make = pool, make
        ((_, self.identity),) = pool.map(make, _about_writer, [None], lambda *_: waiting())
        self.budget_tokens = budget_tokens

    def _batches(
        self, requests: Sequence[Request], seed: int, max_new_tokens: int
    ) -> Iterator[Batch]:
        asked = [*requests], seed, max_new_tokens
        yield from self._pool.one(self._make, _cut, asked)

    def _continued(
        self, batches: Sequence[Batch], temperature: float, pace: Pace
    ) -> Iterator[tuple[Batch, list[Continuation]]]:
        asked = ((self.identity, batch, temperature) for batch in batches)
        beat = partial(_reported, pace)
        for index, texts in self._pool.map(self._make, _continue, asked, beat):
            yield batches[index], texts


def _reported(pace: Pace, _samples: int, _tokens: int) -> None:
    pace.report()


def _about_writer(writer: LocalWriter, _item: None, _told: Told) -> str:
    return writer.identity


def _cut(writer: LocalWriter, item: tuple[list[Request], int, int], _told: Told) -> list[Batch]:
    return [*writer._batches(*item)]


def _continue(
    writer: LocalWriter, item: tuple[str, Batch, float], _told: Told
) -> list[Continuation]:
    identity, batch, temperature = item
    if writer.identity != identity:
        raise InputError(
            f"The machine {socket.gethostname()} writes with {writer.identity}, another with "
            f"{identity}: put the same model on every machine of the Ray cluster."
        )
    return writer.generator.write(
        [line.row for line in batch.lines],
        max_new_tokens=batch.room,
        temperature=temperature,
        top_k=writer.top_k,
    )
