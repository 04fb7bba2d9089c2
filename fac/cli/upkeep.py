"""Commands that look after a workspace: what is wrong with it, and what lies about in it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from rich.markup import escape
from typer import Argument, Option

from fac.access import read_roles
from fac.cli.decide import decisions_app
from fac.cli.frame import Answer, command, listing, out, progress_bar
from fac.config import REPOSITORY, Workspace
from fac.endpoints import read_endpoints
from fac.errors import FacError, InputError, Progress
from fac.store import Stores
from fac.store.audit import Audit
from fac.store.cache import CACHED
from fac.store.decisions import Decisions
from fac.store.leftovers import holder, leftovers, remove
from fac.store.sqlite import Database

LEAST_FREE = 10**9
"""Bytes of a disk below which a measure is likely to fill it."""

FINE, NOTE, WRONG = "fine", "note", "wrong"


class Finding(NamedTuple):
    """One thing that was looked at."""

    about: str
    state: str  # FINE; NOTE: worth knowing; WRONG: something does not work or is lost
    sentence: str


# --- doctor ---------------------------------------------------------------------------------------


@command("doctor")
def doctor(stores: Stores) -> Answer:
    """Look at everything a workspace rests on, and hash every run. Exit 1 if something is wrong.

    A damaged run is put aside, so that nothing uses it; nothing else is changed.
    """
    with progress_bar("looking") as progress:
        findings = [each for check in CHECKS for each in check(stores, progress)]
    wrong = [each for each in findings if each.state == WRONG]
    counts = {state: sum(each.state == state for each in findings) for state in (FINE, NOTE, WRONG)}
    data: dict[str, Any] = {"workspace": str(stores.runs.workspace.root), "counts": counts}
    data["findings"] = [each._asdict() for each in findings]

    def show() -> None:
        colours = {FINE: "green", NOTE: "yellow", WRONG: "bold red"}
        for about, state, sentence in findings:
            words = f"[{colours[state]}]{state:5}[/]  {about:10} {escape(sentence)}"
            out.print(words, soft_wrap=True, highlight=False)

    number = f"{len(wrong)} things are wrong" if len(wrong) > 1 else "One thing is wrong"
    refusal = f"{number}: {wrong[0].sentence}" if wrong else ""
    return Answer(data, show, refusal=refusal)


def _versions(stores: Stores, progress: Progress) -> Iterator[Finding]:
    yield Finding("python", FINE, platform.python_version())
    file = REPOSITORY / "requirements.txt"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    other, lacking = [], []
    for package, pin in pins.items():
        try:
            if (version := metadata.version(package.split("[")[0])).split("+")[0] != pin:
                other.append(f"{package} {version} and not {pin}")
        except metadata.PackageNotFoundError:
            lacking.append(package)
    if other:
        yield Finding("packages", NOTE, f"Other versions than it is tested with: {_list(other)}.")
    if lacking:
        sentence = f"Not installed: {_list(lacking)}; what needs them says so."
        yield Finding("packages", NOTE, sentence)
    if not other and not lacking:
        yield Finding("packages", FINE, f"{len(pins)} have the versions of requirements.txt.")


def _disk(stores: Stores, progress: Progress) -> Iterator[Finding]:
    root = stores.runs.workspace.root
    home = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(home).free
    if not os.access(home, os.W_OK | os.X_OK):
        yield Finding("disk", WRONG, f"{home} may not be written: give yourself the right to.")
    elif free < LEAST_FREE:
        yield Finding("disk", WRONG, f"{_bytes(free)} are free at {home}: free some space.")
    else:
        yield Finding("disk", FINE, f"{_bytes(free)} are free at {home}.")


def _runs(stores: Stores, progress: Progress) -> Iterator[Finding]:
    """Every run is hashed here, whatever this process did before."""
    runs, n_bytes, spoilt, begun = stores.runs, 0, 0, time.monotonic()
    homes = [path for path in sorted(runs.root.iterdir())] if runs.root.is_dir() else []
    ids = [path.name for home in homes if home.is_dir() for path in sorted(home.iterdir())]
    ids = [run for run in ids if runs.find(run)]
    for aside in runs.damaged():
        yield Finding("runs", WRONG, f"Run {aside} was damaged and lies aside: compute it again.")
    for done, run in enumerate(ids):
        progress(done, len(ids), run)
        try:
            if names := runs.verify(run):
                raise runs.refusal(run, names)
            n_bytes += sum(about.get("bytes", 0) for about in runs.manifest(run).files.values())
        except FacError as error:
            spoilt += 1
            yield Finding("runs", WRONG, str(error))
    if not spoilt:
        words = f"are as they were written; hashing them took {time.monotonic() - begun:.1f} s"
        yield Finding("runs", FINE, f"{len(ids):,} with {_bytes(n_bytes)} {words}.")


def _caches(stores: Stores, progress: Progress) -> Iterator[Finding]:
    """Only of what can be read: a run that cannot was told of."""
    runs = stores.runs
    ids = [path.name for step in CACHED for path in sorted((runs.root / step).glob(f"{step}-*"))]
    lacking = [run for run in ids if runs.find(run) and not stores.cache.ready(run)]
    if lacking:
        sentence = f"{_list(lacking)}: build them with `fac cache rebuild`."
        yield Finding("caches", NOTE, f"Not built, damaged or of another version are {sentence}")
    else:
        yield Finding("caches", FINE, f"{len(ids):,} are whole.")


def _locks(stores: Stores, progress: Progress) -> Iterator[Finding]:
    workspace = stores.runs.workspace
    locks = [*workspace.runs.glob("*/.lock-*"), *workspace.cache.glob(".lock-*")]
    held = [(path, process) for path in sorted(locks) if (process := holder(path))]
    for path, process in held:
        what = "The cache of run" if path.parent == workspace.cache else "Run"
        run = path.name.removeprefix(".lock-")
        yield Finding("locks", NOTE, f"{what} {run} is being made by process {process}.")
    if not held:
        yield Finding("locks", FINE, "None is held.")


def _queue(stores: Stores, progress: Progress) -> Iterator[Finding]:
    queue = stores.queue
    if not queue.exists:
        yield Finding("queue", FINE, "Nothing was ever asked of it.")
        return
    if wrong := _faults("queue", queue):
        yield wrong
        return
    jobs, worker = queue.live(), queue.worker()
    running = [job for job in jobs if job.status == "running"]
    alive = bool(worker and worker["alive"])
    if jobs and not alive:
        what = f"Job {running[0].id} is said to run" if running else f"{len(jobs)} jobs wait"
        state = WRONG if running else NOTE
        yield Finding("leases", state, f"{what} and no worker is alive: start `fac worker`.")
    else:
        words = "a worker is alive" if alive else "no worker is alive and none is needed"
        sentence = f"{len(running)} running, {len(jobs) - len(running)} waiting; {words}."
        yield Finding("leases", FINE, sentence)


def _decisions(stores: Stores, progress: Progress) -> Iterator[Finding]:
    wrong = _faults("decisions", stores.decisions)
    yield wrong or Finding("decisions", FINE, "Every one is as it was written.")


def _faults(about: str, database: Database) -> Finding | None:
    try:
        lines = database.faults()
    except InputError as error:
        return Finding(about, WRONG, str(error))
    return Finding(about, WRONG, str(database.damaged("; ".join(lines)))) if lines else None


def _endpoints(stores: Stores, progress: Progress) -> Iterator[Finding]:
    """Nothing is asked of them: that could cost."""
    try:
        endpoints = read_endpoints(stores.runs.workspace.endpoints)
    except InputError as error:
        yield Finding("endpoints", WRONG, str(error))
        return
    for each in endpoints.listed:
        if each.key and each.needs_key and not each.has_key:
            sentence = f"{each.name} has no key: {each.key} is not set here."
            yield Finding("endpoints", NOTE, sentence)
        else:
            yield Finding("endpoints", FINE, f"{each.name} at {each.url}, not asked.")


def _roles(stores: Stores, progress: Progress) -> Iterator[Finding]:
    """Nothing where nobody signs in."""
    workspace = stores.runs.workspace
    try:
        people = read_roles(workspace.roles)
    except InputError as error:
        yield Finding("roles", WRONG, str(error))
    else:
        if people:
            owners = sum(role == "owner" for role in people.values())
            yield Finding("roles", FINE, f"{len(people)} people have one, {owners} as owner.")
    if wrong := _faults("audit", Audit(workspace.audit)):
        yield wrong


def _leftovers(stores: Stores, progress: Progress) -> Iterator[Finding]:
    try:
        every = leftovers(stores.runs, stores.queue, stores.decisions)
    except InputError as error:
        yield Finding("leftovers", NOTE, f"Not looked for: {error}")
        return
    if not every:
        yield Finding("leftovers", FINE, "There are none.")
        return
    n_bytes = sum(each.n_bytes for each in every)
    sentence = f"{len(every):,} with {_bytes(n_bytes)}: `fac gc` shows them."
    yield Finding("leftovers", NOTE, sentence)


CHECKS: tuple[Callable[[Stores, Progress], Iterator[Finding]], ...] = (
    *(_versions, _disk, _locks, _queue, _decisions, _runs, _caches, _endpoints, _roles),
    _leftovers,
)


# --- leftovers ------------------------------------------------------------------------------------


@command("gc")
def gc(
    stores: Stores,
    folders: Annotated[
        list[Path] | None, Argument(help="Folders that exports were written to.")
    ] = None,
    remove_: Annotated[bool, Option("--remove", help="Remove what may go, not only show.")] = False,
    unfinished: Annotated[
        bool,
        Option(
            "--unfinished",
            help="Also what a stopped step could go on from, and the replies that were paid for.",
        ),
    ] = False,
) -> Answer:
    """Show what killed work left behind; with --remove, remove it.

    What a run, a job or a decision refers to stays, and what a process holds. Exit 1 if something
    could not be removed.
    """
    for folder in folders or ():
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is no folder.")
    every = leftovers(
        *(stores.runs, stores.queue, stores.decisions),
        unfinished=unfinished,
        exports=folders or (),
    )
    free = [each for each in every if not each.stays]
    failed = {each.path: why for each in free if remove_ and (why := remove(each))}
    rows: list[dict[str, Any]] = [
        {
            "path": str(each.path),
            "what": each.what,
            "bytes": each.n_bytes,
            "stays": each.stays or failed.get(each.path, ""),
        }
        for each in every
    ]
    n_bytes = sum(each.n_bytes for each in free if each.path not in failed)
    data = {"leftovers": rows, "removed": remove_, "bytes": n_bytes}

    def show() -> None:
        for row in rows:
            why = f"; stays: {row['stays']}" if row["stays"] else ""
            words = f"{row['path']}: {row['what']}, {_bytes(row['bytes'])}{why}"
            out.print(escape(words), soft_wrap=True, highlight=False)
        n = len(free) - len(failed)
        verb = "were removed" if remove_ else "may be removed with --remove"
        out.print(f"{n:,} of {len(rows):,} with {_bytes(n_bytes)} {verb}.", highlight=False)

    refusal = "".join(f"{path} stays: {why}." for path, why in [*failed.items()][:1])
    return Answer(data, show, refusal=refusal)


# --- backups of decisions -------------------------------------------------------------------------


@command("backup", group=decisions_app)
def backup(
    workspace: Workspace,
    file: Annotated[Path, Argument(help="To write; an earlier backup there is replaced.")],
) -> Answer:
    """Copy everything that was decided into one file, also while people decide."""
    decisions = Decisions(workspace.decisions)
    decisions.backup(file)
    data = {"file": str(file), "bytes": file.stat().st_size}
    return Answer(data, listing(data))


@command("restore", group=decisions_app)
def restore(
    workspace: Workspace, file: Annotated[Path, Argument(help="That a backup wrote.")]
) -> Answer:
    """Add the decisions of a backup; what is here already stays as it is."""
    data = Decisions(workspace.decisions).restore(file)
    lines = [row["reason"] for row in data["rejected"]]
    refusal = f"{len(lines)} decisions were not taken; {lines[0]}" if lines else ""
    return Answer(data, listing({**data, "rejected": len(lines)}), refusal=refusal)


@command("audit")
def audit(
    workspace: Workspace,
    limit: Annotated[int, Option(min=1, help="So many, the newest.")] = 50,
    who: Annotated[str | None, Option(help="Only what this person did.")] = None,
) -> Answer:
    """Who did what, newest first, where people sign in to the dashboard."""
    log = Audit(workspace.audit)
    deeds = log.newest(limit, who=who)
    data = {"deeds": [deed._asdict() for deed in deeds], "count": log.count()}

    def tell() -> None:
        for deed in deeds:
            person = deed.who or "nobody signed in"
            refused = "[red]refused[/] " if deed.refused else ""
            words = f"{person} ({deed.role or 'no role'}) {refused}{deed.action}: {deed.about}"
            out.print(f"{deed.at} {words}", soft_wrap=True, highlight=False)
        if not deeds:
            out.print("Nothing is written down: nobody who signed in did anything yet.")

    return Answer(data, tell)


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


def _list(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
