"""fac.models.threads: how many threads are taken by what others use, on planted figures and on
this machine."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.models import threads
from fac.models.threads import Free, Used, used


class Machine:
    """Cores whose use is told from outside."""

    def __init__(self, cores):
        self.cores, self.at, self.all, self.own = range(cores), 0.0, 0.0, 0.0
        self.free = Free(self.cores, lambda _: self.used, lambda: self.at)

    @property
    def used(self):
        return Used(self.all, self.own)

    def goes_on(self, seconds, others, own):
        """For so many seconds others and this process use so many cores."""
        self.at += seconds
        self.all += (others + own) * seconds
        self.own += own * seconds
        return self.free.count()


def test_threads_are_the_cores_that_others_leave_free():
    machine = Machine(2)
    assert machine.goes_on(2, others=0.1, own=1.9) == 2
    assert machine.goes_on(2, others=1.6, own=0.4) == 1  # four busy ones beside a thread of ours
    assert machine.goes_on(2, others=0.0, own=1.0) == 2  # they are gone
    assert Machine(16).goes_on(2, others=4.2, own=11.8) == 12


def test_the_machine_is_looked_at_once_a_second():
    machine = Machine(4)
    assert machine.goes_on(0.5, others=4.0, own=0.0) == 4
    assert machine.goes_on(0.6, others=4.0, own=0.0) == 1


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 99), st.floats(0, 64)), max_size=20),
)
def test_there_is_one_thread_at_least_and_never_more_than_cores(cores, steps):
    machine = Machine(cores)
    for step in steps:
        assert 1 <= machine.goes_on(*step) <= cores


def test_where_the_system_tells_nothing_all_cores_are_used(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "STAT", tmp_path / "none")
    assert used([0]) is None
    now = [0.0]
    nothing = Free(range(3), lambda _: None, lambda: now[0])
    now[0] = 5.0
    assert nothing.count() == 3


def test_what_linux_counts_is_read(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9\ncpu0 100 10 20 999 50 1 2 7 77 7\ncpu1 1 0 0 5 5 0 0 0\nintr 5\n")
    monkeypatch.setattr(threads, "STAT", stat)
    tick = os.sysconf("SC_CLK_TCK")
    both, first = used([0, 1]), used([0])
    assert both and first
    assert first.all == pytest.approx(140 / tick) and both.all == pytest.approx(141 / tick)
    assert both.own == pytest.approx(sum(os.times()[:2]), abs=1.0)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="this system counts elsewhere")
def test_a_process_that_spins_is_seen_on_this_machine():
    """Whatever else runs here: the cores in use are not fewer than those of one that spins."""
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        cores = range(os.cpu_count() or 1)
        before, begun = used(cores), time.monotonic()
        time.sleep(1.5)
        after, seconds = used(cores), time.monotonic() - begun
    finally:
        spin.kill()
        spin.wait()
    assert before and after
    others = (after.all - before.all - (after.own - before.own)) / seconds
    assert others > 0.3, "a spinning process was not counted"
    assert others <= len(cores) + 0.2


def test_whoever_says_how_many_is_left_alone(monkeypatch):
    import torch

    before, all_cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    monkeypatch.setattr(threads, "_free", None)
    monkeypatch.setattr(threads, "_fixed", False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    try:
        torch.set_num_threads(all_cores + 3)
        threads.adapt()
        assert torch.get_num_threads() == all_cores + 3
        for name in threads.BY_PEOPLE:
            monkeypatch.delenv(name, raising=False)
        threads.adapt()
        assert torch.get_num_threads() == all_cores
        threads.fix(all_cores + 2)
        threads.adapt()
        assert torch.get_num_threads() == all_cores + 2
    finally:
        torch.set_num_threads(before)
