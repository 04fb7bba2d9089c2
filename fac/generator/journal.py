"""Replies that were paid for, on disk before anybody hears of them.

Owns: what is kept of a reply, and a file that only grows. Does not own: what is asked, and whether
it is asked again (`batch_chat`, `provider_batch`).
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError, disk_room


class RecordedReply(NamedTuple):
    """One row of `fac.schema.REPLIES`: a reply, or why there is none."""

    key: str
    about: str
    prompt: str
    reply: str | None
    finish: str
    failure: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cost: float | None
    at: str

    @property
    def ok(self) -> bool:
        """Whether a reply came; it may still be unreadable."""
        return self.reply is not None


class ReplyJournal:
    """Replies as they came, one JSON object a line, in a file that only grows.

    Every line is written in one piece and is on disk when `append` returns. Threads may share it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._repaired = False
        self._replies: dict[str, RecordedReply] = {}
        self._lines, self._bytes = 0, 0
        """How far the file was read: a run with many calls reads each line once."""

    def append(self, *answers: RecordedReply) -> None:
        """Raises InputError when the disk is full; the journal then is as it was before."""
        line = b"".join(json.dumps(answer._asdict()).encode() + b"\n" for answer in answers)
        with self._lock, disk_room("the journal of replies"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._repaired:
                drop_torn_line(self.path)
                self._repaired = True
            append_line(self.path, line)

    def read(self) -> dict[str, RecordedReply]:
        """Every recorded reply by its key, in order; the first of a key counts.

        A last line that a killed process left unfinished is passed over, as it was never
        acknowledged. Raises InputError for any other line that is none.
        """
        with self._lock:
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(self._bytes)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._take(line)
            return dict(self._replies)

    def _take(self, line: bytes) -> None:
        try:
            answer = RecordedReply(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"Line {self._lines + 1} of {self.path} is damaged: delete that line, so that its "
                f"question is asked again, and start again."
            ) from error
        self._replies.setdefault(answer.key, answer)
        self._lines += 1
        self._bytes += len(line)


def append_line(path: Path, line: bytes) -> None:
    """Adds a line, or several, in one piece; it is on disk then. After an OSError the file is as
    before."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(line)
            if written < len(line):  # a disk that fills up takes what it can
                file.write(line[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def drop_torn_line(path: Path) -> None:
    """What a killed process left after the last line break; the next line must not join it."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
