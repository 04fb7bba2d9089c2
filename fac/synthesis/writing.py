"""Writing: the texts of a step as they come.

Every text is on disk before it counts, so a killed run writes nothing twice and loses nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fac.config import WriteSpec, digest
from fac.errors import BudgetReached, Cancelled, InputError, ServiceError, disk_room
from fac.generator.writer import Writer, Written
from fac.store.runs import Runs
from fac.synthesis.plan import Ask, Progress

ROUNDS = 8
"""Texts a server is asked for before they count, in times of the questions on their way at once."""

Stopped = BudgetReached | Cancelled | ServiceError
"""Why a step ends before its end."""


class Texts(NamedTuple):
    """What a writer wrote, as far as it got."""

    written: dict[str, Written]
    """By candidate."""

    seconds: float
    """Spent writing, sessions that were killed included."""

    stopped: Stopped | None
    """Why some are missing."""


class CandidateJournal:
    """Texts as they came, one JSON object a line; every line is on disk when `append` returns."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds = 0.0
        """Spent on all that is recorded."""
        self._begun = time.monotonic()

    def read(self) -> dict[str, Written]:
        """Every recorded text by its key. What a killed process left after the last line break is
        dropped. Raises InputError for a line that is none."""
        texts: dict[str, Written] = {}
        if self._path.exists():
            data = self._path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self._path, whole)
            for number, line in enumerate(data[:whole].splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self.seconds = float(row.pop("seconds"))
                    texts.setdefault(row["key"], Written(**row))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise InputError(
                        f"Line {number} of {self._path} is damaged: delete that line, so that its "
                        f"text is written again, and start again."
                    ) from error
        self._begun = time.monotonic() - self.seconds
        return texts

    def append(self, written: Written) -> None:
        """Raises InputError when the disk is full; the journal then is as it was before."""
        self.seconds = time.monotonic() - self._begun
        row = written._asdict() | {"seconds": round(self.seconds, 3)}
        line = json.dumps(row).encode() + b"\n"
        with disk_room("the journal of texts"), self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                taken = file.write(line)
                if taken < len(line):  # a disk that fills up takes what it can
                    file.write(line[taken:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


def write(
    asks: Sequence[Ask],
    spec: WriteSpec,
    *,
    runs: Runs,
    run_id: str,
    writer: Writer,
    progress: Progress,
) -> Texts:
    """Writes what neither the run's journal nor an earlier run of the step has."""
    journal = CandidateJournal(runs.scratch(run_id) / "_texts.jsonl")
    names = {ask.request.key: reply_key(ask, spec, writer.identity) for ask in asks}
    texts = {key: text for key, text in journal.read().items() if key in names}
    earlier, before = _earlier(runs, spec, names.keys() - texts.keys(), names)
    texts |= earlier

    def record(text: Written) -> None:
        journal.append(text)
        texts[text.key] = text

    stopped: Stopped | None = None
    requests = [ask.request for ask in asks]
    # A server's texts are recorded when a call ends; a local writer cuts its batches from all.
    size = ROUNDS * spec.concurrency if spec.writer == "openai" else max(1, len(requests))
    failed: dict[str, Written] = {}
    try:
        progress(len(texts), len(requests), "writing")
        for start in range(0, len(requests), size):

            def report(done: int, of: int, note: str = "", *, before: int = start) -> None:
                progress(before + done, len(requests), f"writing, {note}" if note else "writing")

            replies = writer.write(
                requests[start : start + size],
                seed=seed_of(spec),
                max_new_tokens=spec.max_new_tokens,
                temperature=spec.temperature,
                done=dict(texts),
                record=record,
                progress=report,
            )
            failed |= {key: text for key, text in replies.items() if text.failure}
    except (BudgetReached, Cancelled, ServiceError) as error:
        stopped = error
    return Texts(failed | texts, before + journal.seconds, stopped)


def seed_of(spec: WriteSpec) -> int:
    """The writer's seed; another attempt has another one."""
    return spec.seed if not spec.attempt else int(digest(spec.seed, spec.attempt), 16) % 2**31


def reply_key(ask: Ask, spec: WriteSpec, identity: str) -> str:
    """Names a text by everything it depends on, whatever run asks for it."""
    steer = ask.request.steer
    pushed = digest(steer.direction.tobytes().hex(), *steer[1:]) if steer else ""
    how = (seed_of(spec), spec.temperature, spec.max_new_tokens)
    return digest(ask.request.key, ask.prompt_hash, pushed, identity, *how)


def _earlier(
    runs: Runs, spec: WriteSpec, lacking: Collection[str], names: Mapping[str, str]
) -> tuple[dict[str, Written], float]:
    """Texts that finished runs of the step have, by candidate, and the seconds they took, each its
    share of its run's. `names` holds the reply keys of the candidates."""
    by_key = {names[candidate]: candidate for candidate in lacking}
    texts: dict[str, Written] = {}
    seconds = 0.0
    for manifest in runs.list(spec.step):
        if not (replies := manifest.files.get("replies.parquet")):
            continue
        for row in runs.table(manifest.run, "replies").to_pylist():
            candidate = by_key.get(row["key"])
            if candidate is None or candidate in texts or row["failure"]:
                continue
            seconds += manifest.seconds / replies["rows"]
            texts[candidate] = Written(
                key=candidate,
                text=row["reply"],
                finished=row["finish"] == "stop",
                tokens=row["completion_tokens"],
                failure="",
                prompt_tokens=row["prompt_tokens"],
                cost=row["cost"],
            )
    return texts, seconds
