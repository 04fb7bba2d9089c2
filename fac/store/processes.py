"""Processes of this machine: which of them live, and what those that died have left.

A process is its number and when it began: the number alone is given out again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".fac-"
"""What scratch folders begin with; their machine, process, its birth and a random part follow."""

BEFORE = "before"
"""In a scratch folder: what stood in the place of its contents, until that is taken."""


def birth(pid: int) -> str | None:
    """12 hex digits for when a process of this machine began: the boot and the hundredths of a
    second since, or its date where there is no /proc. None for one that ended, buried or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (FileNotFoundError, ProcessLookupError):  # gone, perhaps while it was read
        return None if Path("/proc/self").exists() else _date_of_birth(pid)
    state, *others = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else _short(f"{boot}/{others[18]}")


def _date_of_birth(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return _short(" ".join(words[1:])) if words and not words[0].startswith("Z") else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def lives(pid: int, born: str | None) -> bool:
    """Whether the process of this machine that began at `born` lives: by now its number may be that
    of another."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, which a system may hide
        return birth(pid) in (None, born)
    return born is not None and birth(pid) == born


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, on its disk, for what moves from there to its place when it is
    whole. It is gone afterwards, and so is what processes of this machine left here as they died,
    unless it holds what was to be replaced (BEFORE).
    Raises OSError where nothing can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PREFIX}*-*-*-*"):
        host, pid, born, _ = left.name.removeprefix(PREFIX).rsplit("-", 3)
        mine = host == socket.gethostname() and pid.isdecimal()
        if mine and not lives(int(pid), born) and not (left / BEFORE).exists():
            shutil.rmtree(left, ignore_errors=True)
    mark = f"{PREFIX}{socket.gethostname()}-{os.getpid()}-{birth(os.getpid())}-"
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=mark))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
