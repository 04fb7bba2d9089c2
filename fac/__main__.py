"""The command line: every step of the dashboard, for scripts and CI gates.

Exit codes: 0 done; 1 a gate failed; 2 the input or the arguments are wrong; 3 an outside service or
model failed; 130 cancelled. With --json one object goes to stdout and everything else to stderr.
What goes wrong is one sentence on stderr, raised anywhere below and told in `run`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from typer import Option

from fac.cli import (  # noqa: F401 - register them
    check,
    coverage,
    data,
    decide,
    experiments,
    families,
    fill,
    make,
    opinion,
    report,
    serve,
    upkeep,
)
from fac.cli.frame import Answer, app, command, err, out, progress_bar
from fac.config import Workspace
from fac.errors import FacError, InputError, plainly
from fac.jobs.worker import Worker
from fac.store.cache import CACHED, build
from fac.store.runs import Runs

cache_app = typer.Typer(help="The DuckDB caches the pages read; any can be deleted and rebuilt.")
app.add_typer(cache_app, name="cache")


@command("worker")
def worker(
    workspace: Workspace,
    until_idle: Annotated[bool, Option("--until-idle", help="Stop when nothing waits.")] = False,
    employer: Annotated[int | None, Option(help="Stop when idle and this process is gone.")] = None,
) -> Answer:
    """Carry out queued jobs until stopped."""

    def say(line: str) -> None:
        err.print(f"{time.strftime('%H:%M:%S')} {escape(line)}", soft_wrap=True, highlight=False)

    count = Worker(workspace, say=say).run(until_idle=until_idle, employer=employer)
    return Answer({"jobs": count}, lambda: out.print(f"{count} jobs"))


@command("rebuild", group=cache_app)
def cache_rebuild(workspace: Workspace) -> Answer:
    """Build every cache anew from the runs."""
    runs = Runs(workspace)
    ids = [m.run for step in CACHED for m in runs.list(step)]
    with progress_bar("rebuilding") as progress:
        for done, run_id in enumerate(ids):
            progress(done, len(ids), run_id)
            build(runs, run_id, workspace.cache)
    return Answer({"rebuilt": ids, "count": len(ids)}, lambda: out.print(f"{len(ids)} caches"))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; the exit code. Whatever the input, never a traceback."""
    try:
        with plainly():
            return app([*arguments] or ["--help"], prog_name="fac", standalone_mode=False) or 0
    except FacError as error:
        return _refuse(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "fac"
        return _refuse(f"{error.format_message().rstrip('.')}; see `{path} --help`.")


def _refuse(sentence: str, exit_code: int = InputError.exit_code) -> int:
    one_line = " ".join(sentence.split())
    err.print(f"[bold red]fac:[/] {escape(one_line)}", soft_wrap=True, highlight=False)
    return exit_code


def main() -> None:
    """Entry point of `python -m fac`, and of the command `fac` where pip installed it."""
    # Both, also where the shell that started us in the background has them ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
