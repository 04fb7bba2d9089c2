"""How many threads a forward pass gets: as many as there are cores that others leave free.

Each of torch's threads waits for all others many times in one pass, and where one of them has to
wait for its core all of them do: on a busy machine two threads read a fifth of what one reads.

Sums are rounded as threads share them: with another number of threads peaks may differ in their
last bits, by 4e-5 as far as was seen. Whoever wants the same bits says how many there are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

EVERY = 1.0  # seconds between two looks at the machine

BY_PEOPLE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
"""Variables by which somebody says how many threads there are to be: then nothing is changed."""

STAT, WAITING = Path("/proc/stat"), (3, 4)
"""Where Linux counts what each core did, in ticks, and which of these are idle."""


class Used(NamedTuple):
    """Seconds of processor time."""

    all: float  # of these cores, whoever used them
    own: float  # of this process


def used(cores: Collection[int]) -> Used | None:
    """What was used so far; None where the system does not say."""
    try:
        lines = STAT.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    names, ticks = {f"cpu{core}" for core in cores}, 0
    for line in lines:
        name, *counts = line.split()
        if name in names:
            # Those behind the eighth, the guests', are counted among the first ones too.
            ticks += sum(int(n) for at, n in enumerate(counts[:8]) if at not in WAITING)
    times = os.times()
    return Used(ticks / os.sysconf("SC_CLK_TCK"), times.user + times.system)


class Free:
    """The cores that others leave free, of those that this process may use."""

    def __init__(
        self,
        cores: Collection[int] | None = None,
        look: Callable[[Collection[int]], Used | None] = used,
        clock: Callable[[], float] = time.monotonic,
    ):
        here = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
        self._cores = here if cores is None else cores
        self._look, self._clock = look, clock
        self._before = (clock(), look(self._cores))
        self._n = len(self._cores)

    def count(self) -> int:
        """One at least, as of the last look; all of them before the first. Looks at what others
        used since the look before, once EVERY second at most."""
        (then, before), now = self._before, self._clock()
        if now - then >= EVERY:
            after = self._look(self._cores)
            self._before = now, after
            if before and after:
                others = (after.all - before.all - (after.own - before.own)) / (now - then)
                self._n = min(max(round(len(self._cores) - others), 1), len(self._cores))
        return self._n


_free: Free | None = None
_fixed = False


def adapt() -> None:
    """Gives this process's forward passes as many threads as others leave cores free, unless
    somebody said how many."""
    global _free
    if _fixed or any(os.environ.get(name) for name in BY_PEOPLE):
        return
    import torch

    _free = _free or Free()
    if torch.get_num_threads() != (n := _free.count()):  # each thread of a process has its own
        torch.set_num_threads(n)


def fix(n: int) -> None:
    """Gives them so many threads from now on."""
    global _fixed
    import torch

    torch.set_num_threads(n)
    _fixed = True
