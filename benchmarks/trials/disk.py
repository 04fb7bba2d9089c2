"""Full disks: whatever is written meets one somewhere. It says so, keeps what was there, and comes
to the same result once there is room."""

from __future__ import annotations

import json
import mmap
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.trials.nursery import WordSteps, perform
from benchmarks.trials.promises import Broken, CannotTry, Promise, Trial
from benchmarks.trials.world import in_a_child, kitchen, refusal, rows_of, tidy
from fac.config import IngestSpec, MeasureSpec, Workspace
from fac.errors import FacError, plainly
from fac.store.cache import build
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs

Use = Callable[[Workspace], str]


def ingesting(place: Workspace) -> str:
    source = place.root.parent / "rows.jsonl"
    return WordSteps(str(place.root)).perform(IngestSpec(name="mine", source=str(source)), _quiet)


def _quiet(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""


def measuring(place: Workspace) -> str:
    dataset = Runs(place).resolve("dataset", "toy-anchor")
    spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy", role="user")
    return perform(str(place.root), "measure", json.loads(json.dumps(spec.as_json())))


def caching(place: Workspace) -> str:
    run = Runs(place).resolve("measure", "toy-anchor")
    build(Runs(place), run, place.cache)
    return run


RECEIPTS = mmap.mmap(-1, 1)
"""How many decisions or jobs of this trial were acknowledged, shared with the child."""


def deciding(place: Workspace) -> str:
    for number in range(40):
        about = f"relevance/measure-1/{number}/tea"
        text = f"{number} " + "x" * 20_000
        Decisions(place.decisions).add("Ada", "relevance", about, {"text": text}, "yes")
        RECEIPTS[0] = number + 1
    return ""


def asking(place: Workspace) -> str:
    for number in range(200):
        name, source = f"n{number}", "x" * 4000 + ".jsonl"
        Queue(place.queue).enqueue(IngestSpec(name=name, source=source))
        RECEIPTS[0] = number + 1
    return ""


USES: dict[str, Use] = {
    "ingest": ingesting,
    "measure": measuring,
    "cache": caching,
    "decisions": deciding,
    "queue": asking,
}


def kept(place: Workspace) -> tuple[int, int]:
    """How many decisions and jobs there are."""
    decisions, queue = Decisions(place.decisions), Queue(place.queue)
    if faults := [*decisions.faults(), *queue.faults()]:
        raise Broken(f"a database is damaged: {faults[0]}")
    return len(decisions.table()), len(queue.jobs(10**6)) if queue.exists else 0


def met(use: Use, place: Workspace) -> str:
    """How a use ends on a disk that may be full."""
    try:
        with plainly():
            use(place)
        return "there was room"
    except FacError as error:
        return refusal(error)


def _mount(folder: Path, kilobytes: int) -> bool:
    """Whether a disk in memory with so much room is now at a folder."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    return not subprocess.run(command, check=False, capture_output=True).returncode


@contextmanager
def small_disks(folder: Path) -> Iterator[Trial]:
    """A disk with some kilobytes of room, in memory."""
    if shutil.which("mount") is None or not _mount(folder, 64):
        raise CannotTry("this user may mount no disk; limited files are tried all the same")
    subprocess.run(["umount", str(folder)], check=True)
    yield from _trials(folder, _on_small_disk)


@contextmanager
def small_files(folder: Path) -> Iterator[Trial]:
    """Files that may have some kilobytes, as a quota gives them."""
    yield from _trials(folder, _with_small_files)


Full = Callable[[Path, Use, Workspace, int], tuple[str, Workspace]]


def _trials(folder: Path, full: Full) -> Iterator[Trial]:
    rows = [{"text": f"text {n} about tea " + "x" * 200} for n in range(4000)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = kitchen(folder / "base")
    need, want, paths = dict[str, int](), {}, {}
    for name, use in USES.items():
        calm = _copy(base, folder / "calm")
        before = _kilobytes(calm.root)
        run = use(calm)
        need[name] = _kilobytes(calm.root) - before + (300 if name == "cache" else 0)
        want[name] = (run, rows_of(Runs(calm), run) if run else kept(calm))
        paths[name] = tidy(calm)

    def trial(rng: random.Random) -> str:
        name, RECEIPTS[0] = rng.choice(sorted(USES)), 0
        how, place = full(folder, USES[name], base, rng.randrange(max(need[name], 40)))
        if not RECEIPTS[0] <= sum(kept(place)) <= RECEIPTS[0] + 1:
            raise Broken(f"{kept(place)} were kept of {RECEIPTS[0]} {name} acknowledged")
        run, result = want[name]
        if run:
            if USES[name](place) != run or rows_of(Runs(place), run) != result:
                raise Broken(f"{name} comes to another result once there is room")
            if (left := tidy(place)) != paths[name]:
                raise Broken(f"{name} left behind or lost: {sorted(left ^ paths[name])}")
        return how

    yield trial


def _copy(base: Workspace, root: Path) -> Workspace:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base.root, root)
    return Workspace(root)


def _kilobytes(root: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4 for path in root.rglob("*") if path.is_file())


def _on_small_disk(folder: Path, use: Use, base: Workspace, room: int) -> tuple[str, Workspace]:
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    if not _mount(disk, _kilobytes(base.root) + 64 + room):
        raise RuntimeError("no small disk could be mounted")
    try:
        shutil.copytree(base.root, disk / "place")
        (disk / "rows.jsonl").symlink_to(folder / "rows.jsonl")
        how = in_a_child(lambda: met(use, Workspace(disk / "place")))
        place = folder / "roomy"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(disk / "place", place)
        return how, Workspace(place)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _with_small_files(folder: Path, use: Use, base: Workspace, room: int) -> tuple[str, Workspace]:
    place = _copy(base, folder / "roomy")

    def cramped() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room * 1024, resource.RLIM_INFINITY))
        return met(use, place)

    return in_a_child(cramped), place


SENTENCE = (
    "Ingest, measure, caches, decisions and the queue on {what} say so in one sentence, lose "
    "nothing, and come to the same result once there is room."
)

FULL_DISK = Promise("disk", "full disk", SENTENCE.format(what="a full disk"), small_disks, 100)

SMALL_FILES = Promise(
    "disk", "limited files", SENTENCE.format(what="a disk where no file may grow"), small_files, 100
)

PROMISES = (FULL_DISK, SMALL_FILES)
