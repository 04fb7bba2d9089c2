"""What every command shares: its options, how it answers in words or as JSON, drawn progress."""

from __future__ import annotations

import gzip
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer import Option

from fac import config
from fac.config import Spec, Workspace
from fac.endpoints import Endpoints, read_endpoints
from fac.errors import Cancelled, GateFailed, InputError
from fac.executor import Where, choose_executor
from fac.jobs.steps import Steps
from fac.manifest import MeasureFacts
from fac.markup import one_line
from fac.questions.by_name import CLEAR, comparison_by_name
from fac.questions.comparison import Comparison
from fac.questions.relevance import EVERY_FEATURE
from fac.schema import EVERY_ROLE
from fac.store import Stores, open_stores

app = typer.Typer(
    help="What a dataset lacks in the feature space of a model: measure it and see the gaps.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

NOTE_SECONDS = 10.0  # Between two lines of progress where stderr is a log and not a terminal
LISTED = 10  # Rows of a list that people are shown; JSON has all of them


class _Console(Console):
    """Shows what cannot be seen, and names and sentences in one line each: a text of a dataset
    paints nothing, moves nothing and begins no line of its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(one_line(text), **options)

    def on_broken_pipe(self) -> None:
        """A reader such as `head` that has seen enough is no failure: say no more, go on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Names and texts come from datasets: no `:smile:` of theirs becomes a picture.
out = _Console(emoji=False)
err = _Console(emoji=False, stderr=True)

# --- options --------------------------------------------------------------------------------------

WorkspaceOption = Annotated[
    Path | None,
    Option(
        "--workspace",
        help="Folder of runs and caches; default FAC_WORKSPACE, else data/ of the clone, or "
        "fac-data/ here where fac is installed.",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="One JSON object on stdout.")]
Model = Annotated[
    str,
    Option(help="`demo`, a local folder, a .gguf file or its folder, or a hub id (ID@REVISION)."),
]
Layer = Annotated[int, Option(help="Blocks that have run: hidden_states[layer].")]
SaeOption = Annotated[
    str,
    Option(
        "--sae",
        help="`demo`, a folder or file (docs/formats.md), RELEASE/SAE_ID of sae-lens, or "
        "OWNER/REPO:PATH of the hub.",
    ),
]
Despite = Annotated[
    str, Option(help="Why to take an SAE that says it belongs elsewhere; kept with the run.")
]
Threshold = Annotated[
    str,
    Option(
        help="A number: active means peak > threshold, strictly. Or `clear`, clear firing: the "
        "median of the anchor's peaks. 0 is the paper's setting."
    ),
]
MinSupport = Annotated[int, Option(min=1, help="Anchor samples a feature needs to count.")]
Role = Annotated[str, Option(help="system, user, assistant or all.")]
With = Annotated[
    list[str] | None,
    Option("--with", help="Measured dataset that is added to the one in question; repeatable."),
]
Features = Annotated[
    str | None, Option(help="Only these: ids separated by commas, or a file of ids.")
]


@dataclass(frozen=True, kw_only=True)
class SpendOptions:
    """What asking a server may cost, and how fast it goes; the fields are those of the specs."""

    budget_usd: Annotated[float | None, Option(help="Stop before spending more dollars.")] = None
    price_in: Annotated[float | None, Option(help="Dollars per million prompt tokens.")] = None
    price_out: Annotated[float | None, Option(help="Dollars per million completion tokens.")] = None
    concurrency: Annotated[int, Option(help="Questions on their way at once.")] = 8
    room: Annotated[
        int,
        Option(
            help="Tokens a server's reply may have at least, its thoughts included; 0: what the "
            "answer needs, and more where a model thinks."
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Where the key of a server is, beside what endpoints.toml says."""

    key_variable: Annotated[
        str,
        Option(help="Environment variable with the endpoint's key; else as endpoints.toml says."),
    ] = ""

    def endpoints(self, workspace: Workspace, url: str | None) -> Endpoints:
        """What may be asked: any address, for who types a command is the operator; keys go where
        they are listed, and the one that was named to the `url` that was typed beside it, never to
        one that a run recorded. Raises InputError as `read_endpoints` and `Endpoints.with_key`."""
        endpoints = read_endpoints(workspace.endpoints, unlisted=True)
        if not self.key_variable:
            return endpoints
        if not url:
            raise InputError("--key-variable needs --endpoint beside it: say whose key that is.")
        return endpoints.with_key(url, self.key_variable)


@dataclass(frozen=True, kw_only=True)
class WhereOptions:
    """Where models run."""

    executor: Annotated[str | None, Option(help="local or ray; default FAC_EXECUTOR.")] = None
    address: Annotated[str | None, Option(help="Ray cluster's HOST:PORT, else a local Ray.")] = None
    workers: Annotated[int | None, Option(help="Of Ray; by default one a GPU or machine.")] = None

    def choose(self) -> Where:
        return choose_executor(self.executor, self.address, self.workers)


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """How coverage is asked for, whatever is compared."""

    threshold: Threshold = CLEAR
    min_support: MinSupport = 1
    role: Role = EVERY_ROLE
    relevant: Annotated[str, Option(help="all, a judged task, or a file of ids.")] = EVERY_FEATURE
    maybe: Annotated[
        bool, Option("--maybe", help="Of a task, count what is maybe relevant too.")
    ] = False

    def asked_of(
        self, stores: Stores, anchor: str, dataset: str, added: Iterable[str] | None = ()
    ) -> Comparison:
        """The question of coverage about measured datasets of these names, with the caches that
        answer it; raises as `comparison_by_name`."""
        comparison = comparison_by_name(
            stores,
            anchor,
            dataset,
            added or (),
            threshold=self.threshold,
            min_support=self.min_support,
            role=self.role,
            relevant=self.relevant,
            maybe=self.maybe,
        )
        for run in dict.fromkeys((comparison.anchor, *comparison.runs)):
            say_despite(stores.runs.manifest(run).facts)
        return comparison


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(QuestionOptions):
    """A dataset against an anchor."""

    anchor: Annotated[str, Option(help="Measured dataset that shows what matters.")]
    dataset: Annotated[str, Option(help="Measured dataset in question.")]

    def comparison(self, stores: Stores, added: Iterable[str] | None = ()) -> Comparison:
        """The question of coverage they put, with the caches that answer it; raises as
        `asked_of`."""
        return self.asked_of(stores, self.anchor, self.dataset, added)


def say_despite(facts: MeasureFacts) -> None:
    """On stderr, where an SAE was taken that does not fit: what was, and the reason."""
    if facts.override:
        err.print(escape(f"{facts.name}: {facts.provenance}"), soft_wrap=True, highlight=False)


def say_doubt(doubt: str | None) -> None:
    """On stderr, where there is one: what an SAE leaves open about where it belongs."""
    if doubt:
        err.print(escape(doubt), soft_wrap=True, highlight=False)


def command(name: str, group: typer.Typer = app) -> Callable[..., Any]:
    """Register a function returning an Answer.

    Its parameters are the options, with three exceptions: one whose type is a dataclass stands for
    the options that are its fields; `workspace` is the Workspace that --workspace names, `stores`
    are the stores of it. Every command has --workspace and --json.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., None]:
        parameters = inspect.signature(function, eval_str=True).parameters
        groups: dict[str, Any] = {
            parameter.name: parameter.annotation
            for parameter in parameters.values()
            if is_dataclass(parameter.annotation) and parameter.name != "workspace"
        }

        @wraps(function)
        def answer(*, workspace_: Path | None, json_: bool, **values: Any) -> None:
            try:
                for parameter, options in groups.items():
                    fill = {each.name: values.pop(each.name) for each in fields(options)}
                    values[parameter] = options(**fill)
                with ExitStack() as stack:
                    workspace = config.workspace(workspace_)
                    if "workspace" in parameters:
                        values["workspace"] = workspace
                    if "stores" in parameters:
                        values["stores"] = stores = open_stores(workspace, remember=False)
                        stack.callback(stores.cache.close)
                    function(**values).tell(json_)
            except KeyboardInterrupt:
                raise Cancelled("Stopped; finished parts are kept.") from None

        options = [*_options(parameters.values())]
        answer.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        answer.__annotations__ = {option.name: option.annotation for option in options}
        return group.command(name)(answer)

    return register


def _options(parameters: Iterable[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """The parameters that typer sees."""
    option, by_name = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
    for parameter in parameters:
        if parameter.name in ("workspace", "stores"):
            continue
        if not is_dataclass(parameter.annotation):
            yield parameter.replace(kind=by_name)
            continue
        types = get_type_hints(parameter.annotation, include_extras=True)
        for each in fields(parameter.annotation):
            default = each.default if each.default is not MISSING else option.empty
            yield option(each.name, by_name, default=default, annotation=types[each.name])
    yield option("workspace_", by_name, default=None, annotation=WorkspaceOption)
    yield option("json_", by_name, default=False, annotation=JsonOption)


# --- answers --------------------------------------------------------------------------------------


class Answer:
    """What a command answers: `data` for --json, `show` for people; of a gate also its refusal."""

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


def listing(rows: dict[str, Any], first: Iterable[str] = (), n: int = 0) -> Callable[[], None]:
    """Shows rows, and below them the `first` of `n` lines with the number of those left out.

    A value stays on its line however narrow the terminal is: a path is there to be copied.
    """

    def show() -> None:
        width = max(map(len, rows), default=0)
        for key, value in rows.items():
            line = f"{key:<{width}}  {readable(value)}".rstrip()
            out.print(escape(line), soft_wrap=True, highlight=False)
        for line in first:
            out.print(f"  {escape(line)}", soft_wrap=True)
        if n > LISTED:
            out.print(f"  … and {n - LISTED} more")

    return show


def first_rejected(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first rows that were left out, a line each; without a line of a file by their number."""
    return [
        f"line {row['line']}: {row['reason']}"
        if row["line"] is not None
        else f"sample {row['sample'] + 1}: {row['reason']}"
        for row in rows[:LISTED]
    ]


def readable(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Gzipped where the name says so. Raises InputError for a file that cannot be written."""
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.") from error


# --- work -----------------------------------------------------------------------------------------


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
            bar.update(task, completed=done, total=max(total, 1), note=escape(one_line(note)))
            if not err.is_terminal and time.monotonic() - last > NOTE_SECONDS:
                last = time.monotonic()
                err.print(f"{what}: {done:,}/{total:,} {note}", markup=False, soft_wrap=True)

        yield report


def perform(
    workspace: Workspace,
    spec: Spec,
    what: str,
    where: Where | None = None,
    endpoints: Endpoints | None = None,
) -> str:
    """Carries out a step with its progress drawn; returns the id of its run. `endpoints` it may
    ask, where it asks any."""
    with progress_bar(what) as progress:
        return Steps(workspace, where=where, endpoints=endpoints).perform(spec, progress)
