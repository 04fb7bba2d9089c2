"""fac.store.processes: which processes live, and what goes with those that died."""

import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fac.config import REPOSITORY
from fac.store import processes
from fac.store.processes import birth, lives, scratch
from fac.ui import jobs


def test_the_birth_of_a_process_is_its_own_and_ends_with_it():
    with subprocess.Popen(["sleep", "60"]) as process:
        born = birth(process.pid)
        time.sleep(0.02)  # two ticks of the kernel's clock
        with subprocess.Popen(["sleep", "60"]) as later:
            assert None not in (born, birth(later.pid)) and birth(later.pid) != born
            later.kill()
        assert birth(process.pid) == born and lives(process.pid, born)
        assert not lives(process.pid, "another") and not lives(process.pid, None)
        process.kill()
    assert birth(process.pid) is None and not lives(process.pid, born)


@pytest.mark.skipif(not shutil.which("ps"), reason="there is no ps")
def test_a_system_without_proc_tells_births_too(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / path.lstrip("/"))
    with subprocess.Popen(["sleep", "60"]) as process:
        born = birth(process.pid)
        assert born is not None and birth(process.pid) == born
        process.kill()
        deadline = time.monotonic() + 5
        while birth(process.pid) is not None:  # not yet buried
            assert time.monotonic() < deadline
    assert birth(process.pid) is None


WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from fac.store.processes import scratch
with scratch(Path(sys.argv[1])) as place:
    (place / "half").write_text("a part of it")
    print(place, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_was_writing_goes_with_the_next_and_nothing_else_does(
    tmp_path, monkeypatch
):
    command = [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        left = Path(process.stdout.readline().strip())
        theirs = [tmp_path / ".fac-notes", tmp_path / ".fac-a-b-c-d", tmp_path / "thesis"]
        elsewhere = left.with_name(left.name.replace(processes.PREFIX, ".fac-another-host-"))
        for folder in (*theirs, elsewhere):
            folder.mkdir()
        with scratch(tmp_path) as place:
            assert left.is_dir(), "its process lives"
            assert place != left and place.parent == tmp_path
        process.communicate("go\n")
        assert process.returncode == -signal.SIGKILL and left.is_dir()
    with scratch(tmp_path):
        assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted((*theirs, elsewhere))


def test_scratch_goes_with_whatever_ends_its_block(tmp_path):
    with pytest.raises(ValueError), scratch(tmp_path / "new") as place:
        (place / "half").write_text("a part of it")
        raise ValueError
    assert [*(tmp_path / "new").iterdir()] == []


def test_one_file_uploaded_by_many_at_once_is_there_once(workspace, monkeypatch):
    monkeypatch.setattr(jobs, "workspace", lambda: workspace)
    for number in range(30):
        content = b"%d" % number * 100_000
        with ThreadPoolExecutor(8) as sessions:
            saved = [*sessions.map(lambda _: jobs.save_upload("tea.jsonl", content), range(8))]  # noqa: B023
        assert len({*saved}) == 1 and saved[0].read_bytes() == content
    assert len([*workspace.inputs.iterdir()]) == 30
