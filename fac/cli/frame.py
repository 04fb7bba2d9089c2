"""What every command shares: how it answers, in words or as JSON, and how progress is drawn."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fac.config import Spec, Workspace
from fac.errors import Cancelled, GateFailed
from fac.executor import Where
from fac.jobs.loading import silent
from fac.jobs.steps import Steps

app = typer.Typer(
    help="What a dataset lacks in the feature space of a model: measure it and see the gaps.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

NOTE_SECONDS = 10.0
"""Between two lines of progress where stderr is a log and not a terminal."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """A reader such as `head` that has seen enough is no failure: say no more, go on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Names and texts come from datasets: no `:smile:` of theirs becomes a picture.
out = _Console(emoji=False)
err = _Console(emoji=False, stderr=True)

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", help="Folder of runs and caches; default data/ or FAC_WORKSPACE."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Model = Annotated[str, typer.Option(help="`demo`, a local folder, or a hub id (ID@REVISION).")]
Layer = Annotated[int, typer.Option(help="Blocks that have run: hidden_states[layer].")]
SaeOption = Annotated[
    str, typer.Option("--sae", help="`demo`, a folder, RELEASE/SAE_ID of sae-lens, or a .pth file.")
]
Anchor = Annotated[str, typer.Option(help="Measured dataset that shows what matters.")]
Dataset = Annotated[str, typer.Option(help="Measured dataset in question.")]
Threshold = Annotated[float, typer.Option(help="Active means peak > threshold, strictly.")]
MinSupport = Annotated[int, typer.Option(min=1, help="Anchor samples a feature needs to count.")]
Relevant = Annotated[str, typer.Option(help="all, a judged task, or a file of feature ids.")]
Executor = Annotated[
    str | None, typer.Option(help="Where models run: local, or ray; default FAC_EXECUTOR.")
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, HOST:PORT; without, a Ray of this machine.")
]
Workers = Annotated[
    int | None, typer.Option(help="Of Ray; default one an accelerator, else one a machine.")
]
Role = Annotated[str, typer.Option(help="system, user, assistant or all.")]


class Answer:
    """What a command found: `data` for --json, `show` for people; of a gate also its refusal."""

    def __init__(self, data: dict[str, Any], show: Callable[[], None], *, refusal: str = ""):
        self.data, self.show, self.refusal = data, show, refusal

    def tell(self, as_json: bool) -> None:
        """Raises GateFailed, once all is told, if the gate refused."""
        if as_json:
            try:
                # ASCII, because a name may hold what the encoding of stdout has not
                out.file.write(json.dumps(plain(self.data), allow_nan=False) + "\n")
                out.file.flush()
            except BrokenPipeError:
                out.on_broken_pipe()
        else:
            self.show()
        if self.refusal:
            raise GateFailed(self.refusal)


def command(name: str, group: typer.Typer = app) -> Callable[..., Any]:
    """Register a function returning an Answer, with a --json option of its own."""

    def register(function: Callable[..., Answer]) -> Callable[..., None]:
        @wraps(function)
        def told(*args: Any, json_: bool, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs).tell(json_)
            except KeyboardInterrupt:
                raise Cancelled("Stopped; finished parts are kept.") from None

        told.__signature__ = _with_json(function)  # type: ignore[attr-defined]
        told.__annotations__ = {
            p.name: p.annotation
            for p in told.__signature__.parameters.values()  # type: ignore[attr-defined]
        }
        return group.command(name)(told)

    return register


def _with_json(function: Callable[..., Any]) -> Any:
    signature = inspect.signature(function, eval_str=True)
    extra = inspect.Parameter(
        "json_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption
    )
    return signature.replace(parameters=[*signature.parameters.values(), extra])


def plain(value: Any) -> Any:
    """JSON has neither NaN nor numpy: undefined is null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None]]:
    """A progress callback drawn on stderr, in lines where that is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=1, note="")
        last = time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            bar.update(task, completed=done, total=max(total, 1), note=escape(note))
            if not err.is_terminal and time.monotonic() - last > NOTE_SECONDS:
                last = time.monotonic()
                err.print(f"{what}: {done:,}/{total:,} {note}", markup=False, soft_wrap=True)

        yield report


def build_caches(workspace: Workspace, run_ids: Iterable[str]) -> None:
    """Those that are not there yet."""
    steps = Steps(workspace)
    for run_id in run_ids:
        steps.build_cache(run_id, silent)


def perform(workspace: Workspace, spec: Spec, what: str, where: Where | None = None) -> str:
    """Carries out a step with its progress drawn; returns the id of its run."""
    with progress_bar(what) as progress:
        return Steps(workspace, where=where).perform(spec, progress)


def listing(rows: dict[str, Any]) -> Callable[[], None]:
    def show() -> None:
        table = Table(show_header=False, box=None, pad_edge=False)
        for key, value in rows.items():
            table.add_row(key, escape(readable(value)))
        out.print(table)

    return show


def readable(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
