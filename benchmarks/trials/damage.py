"""Damaged files: truncated, empty, foreign. Whoever meets one reads a sentence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.trials.promises import Broken, Promise, Trial
from benchmarks.trials.world import (
    command,
    copy_of,
    is_one_sentence,
    kitchen,
    refusal,
    settle,
)
from fac.config import IngestSpec, Workspace
from fac.endpoints import read_endpoints
from fac.errors import FacError, plainly
from fac.generator.batch_chat import ReplyJournal
from fac.generator.connection import read_connections
from fac.questions.relevance import task_profiles
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs

Harm = Callable[[Path, random.Random], None]

COMPARED = ("--anchor", "toy-anchor", "--dataset", "toy-seed", "--json")

ENDPOINTS = """\
[lab]
url = "http://127.0.0.1:9/v1"
key = "LAB_KEY"
models = ["small", "large"]
price_in = 0.5
price_out = 2
price_date = 2026-11-01
tasks = ["judge"]
"""

TASKS = """\
[tea]
title = "Questions about tea"
rubric = ["names a kind of tea", "says how tea is made"]
"""

CONNECTIONS = (
    '[{"url": "http://127.0.0.1:9/v1", "model": "small", "at": "2026", "listed": ["small"], '
    '"refusals": []}]'
)

JOURNALED = ".replies-explain-0.jsonl"

JOURNAL = "".join(
    f'{{"key": "{n:012x}", "about": "explain/{n}", "prompt": "[]", "reply": "yes", "finish": '
    f'"stop", "failure": "", "model": "m", "prompt_tokens": 3, "completion_tokens": 1, '
    f'"estimated": false, "cost": null, "at": "2026-11-30T12:00:00+00:00"}}\n'
    for n in range(3)
)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def noise(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def zeros(path: Path, rng: random.Random) -> None:
    """As a disk leaves what it never wrote."""
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def holes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 4, 60))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def foreign(path: Path, rng: random.Random) -> None:
    """Another kind of file under that name."""
    text = rng.choice(("<!doctype html>\n<p>Not here.", '{"a": [1, 2]}', "[]", "null", "a,b\n1,2"))
    path.write_text(text)


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def absent(path: Path, rng: random.Random) -> None:
    path.unlink()


HARMS: Sequence[Harm] = (cut, empty, noise, zeros, holes, foreign, folder, absent)


def any_of(pattern: str, workspace: Workspace, rng: random.Random) -> Path:
    return rng.choice(sorted(workspace.root.glob(pattern)))


def furnish(root: Path) -> Workspace:
    """A workspace with one of each of the files."""
    workspace = kitchen(root)
    decisions, queue = Decisions(workspace.decisions), Queue(workspace.queue)
    measured = Runs(workspace).resolve("measure", "toy-anchor")
    for number in range(12):
        about = f"relevance/{measured}/{number}/tea"
        decisions.add("Ada", "relevance", about, {"text": f"number {number}"}, "yes", note="x")
        queue.enqueue(IngestSpec(name=f"x{number}", source=str(root / "gone.jsonl")))
    settle(workspace.decisions)
    settle(workspace.queue)
    workspace.endpoints.write_text(ENDPOINTS)
    workspace.tasks.write_text(TASKS)
    (workspace.root / "connections.json").write_text(CONNECTIONS)
    (workspace.runs / "explain").mkdir()
    (workspace.runs / "explain" / JOURNALED).write_text(JOURNAL)
    return workspace


Use = Callable[[Workspace], object]


def command_use(*line: str) -> Use:
    """A command, which either is done or complains in one sentence; what it puts out."""

    def use(workspace: Workspace) -> str | None:
        code, out, complaint = command(*line, workspace=workspace)
        if code == 0:
            return out
        if not is_one_sentence(code, complaint):
            raise Broken(f"fac {' '.join(line)} ended with {code}: {complaint[-300:]}")
        return None

    return use


def question_use(question: Use) -> Use:
    """A question, which is answered or refused by an error of the project's own."""

    def use(workspace: Workspace) -> str | None:
        try:
            with plainly():  # as around every command, page and step
                return repr(question(workspace))
        except FacError as error:
            refusal(error)
            return None

    return use


@contextmanager
def trials(
    home: Path, pattern: str, uses: Sequence[Use], *, same: bool, harms: Sequence[Harm] = HARMS
) -> Iterator[Trial]:
    """A file that matches is harmed in one of these ways, then used in all. `same`: a use that is
    not refused must answer as it does where nothing is harmed."""
    whole = furnish(home / "whole")
    place = copy_of(whole, home / "place")
    calm = [use(place) for use in uses]

    def trial(rng: random.Random) -> str:
        workspace = copy_of(whole, home / "place")
        path = any_of(pattern, workspace, rng)
        harm = rng.choice(harms)
        harm(path, rng)
        replies = [use(workspace) for use in uses]
        both = [*zip(replies, calm, strict=True)]
        for reply, before in both:
            if same and reply is not None and reply != before:
                raise Broken(f"{path.name} ({harm.__name__}) was used as if it were whole")
        whole_answer = all(reply is not None or before is None for reply, before in both)
        return "answered" if whole_answer else "refused"

    yield trial
    shutil.rmtree(home / "place")


def _journal(workspace: Workspace) -> object:
    return ReplyJournal(workspace.runs / "explain" / JOURNALED).read()


def _tables(workspace: Workspace) -> object:
    runs = Runs(workspace)
    every = [each for step in ("dataset", "measure", "sae") for each in runs.list(step)]
    names = [(each.run, name.removesuffix(".parquet")) for each in every for name in each.files]
    return [runs.table(run, name).to_pylist() for run, name in names]


REBUILD = command_use("cache", "rebuild", "--json")
GAPS, COVERAGE = command_use("gaps", *COMPARED), command_use("coverage", *COMPARED)
DOCTOR, GC, WORKER = (
    command_use("doctor"),
    command_use("gc", "--remove"),
    command_use("worker", "--until-idle"),
)

IN_A_SENTENCE = (
    "A command that meets {what} which is cut, empty, foreign or gone does its work or says in one "
    "sentence what to do"
)


def promise(
    name: str, what: str, pattern: str, uses: Sequence[Use], times: int, *, same: bool = False
) -> Promise:
    end = "; what is not refused is as it was." if same else "."
    begin = partial(trials, pattern=pattern, uses=uses, same=same)
    return Promise("damage", name, IN_A_SENTENCE.format(what=what) + end, begin, times)


PROMISES = (
    promise(
        "tables of runs",
        "a table of a run",
        "runs/*/*/*.parquet",
        (question_use(_tables), REBUILD, GAPS, command_use("gc")),
        100,
        same=True,
    ),
    promise(
        "manifests",
        "a run's manifest",
        "runs/*/*/manifest.json",
        (question_use(_tables), GAPS, command_use("gc"), DOCTOR),
        100,
    ),
    promise("caches", "a cache", "cache/*.duckdb", (GAPS, COVERAGE), 100, same=True),
    promise("the queue", "the queue", "queue.sqlite", (DOCTOR, GC, WORKER), 100),
    promise(
        "decisions",
        "the file of decisions",
        "decisions.sqlite",
        (
            DOCTOR,
            GC,
            command_use("decisions", "export"),
            command_use("agreement", "--kind", "relevance"),
        ),
        100,
    ),
    promise(
        "the list of endpoints",
        "endpoints.toml",
        "endpoints.toml",
        (question_use(lambda place: read_endpoints(place.endpoints)), DOCTOR),
        200,
    ),
    promise(
        "task files",
        "tasks.toml",
        "tasks.toml",
        (question_use(lambda place: task_profiles(Runs(place))),),
        200,
    ),
    promise(
        "what tests of endpoints showed",
        "connections.json",
        "connections.json",
        (question_use(lambda place: read_connections(place.root / "connections.json")),),
        400,
    ),
    promise(
        "replies that were paid for",
        "a journal of replies",
        "runs/explain/.replies-*.jsonl",
        (question_use(_journal), GC),
        400,
    ),
)
