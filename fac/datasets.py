"""Text in: files and Hugging Face datasets -> samples, each a chat with a hash for a name.

Owns: finding out what a source is (JSON Lines, a JSON array, CSV, TSV, Parquet, each also gzip;
`hf:ID`), which layout its columns speak, what makes a row unusable, and duplicates.
Does not own: where runs lie and how they are published (the `runs` it is given), tokens.

Nothing is repaired. A text is kept character for character, and a row that cannot be is named with
its line and the reason. Memory does not grow with the dataset, except for eight bytes a sample.
"""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import re
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fac.config import IngestSpec, Spec
from fac.errors import BadRow, InputError, ServiceError
from fac.schema import REJECTED, ROLES, SAMPLES, Chat

MAX_CHARACTERS = 1_000_000
"""Longest sample, over all its messages; a longer one is a broken file more often than a text."""

MAX_ROW_BYTES = 8 * MAX_CHARACTERS
"""Longest row of a text file: six bytes for an escaped character, the rest for other columns."""

PART_ROWS = 4096
PART_CHARACTERS = 16 * MAX_CHARACTERS
"""A part is written when it has this many rows or characters, whichever comes first."""

PEEK_ROWS = 1000
PEEK_BYTES = 2**20
"""How far into a file the columns are collected before the layout is decided."""

MAX_LABELS = 1000
OTHER_LABELS = "(other labels)"
"""A column of free text may be called `label`; the manifest counts this many values by name."""

ROLE_NAMES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human", "prompter")},
    **{name: "assistant" for name in ("assistant", "gpt", "chatgpt", "model", "bot", "ai")},
}
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")

TEXTS = ("text", "prompt", "instruction", "question", "content")
PROMPTS = ("prompt", "instruction", "question", "query")
INPUTS = ("input", "context")
REPLIES = ("completion", "response", "output", "answer")
SYSTEMS = ("system", "system_prompt")

Columns = dict[str, Any]
"""One row of a source: column name -> value as JSON would give it."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_KINDS |= {".tab": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_HEAD_BYTES = 2**16
_BATCH_ROWS = 512
_BOM = b"\xef\xbb\xbf"


class Progress(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Runs(Protocol):
    """The part of the run store that ingesting needs."""

    def find(self, run_id: str) -> bool: ...
    def scratch(self, run_id: str) -> Path: ...
    def exclusive(self, run_id: str) -> AbstractContextManager[None]: ...
    def publish(
        self,
        run_id: str,
        *,
        spec: Spec,
        inputs: Sequence[str],
        facts: dict[str, Any],
        seconds: float,
    ) -> None: ...


class Sample(NamedTuple):
    """One training example."""

    line: int
    """1-based line of the file where it begins; the row for Parquet and the hub."""

    sample_id: str
    """Hash of the messages: equal samples have equal ids whatever file they came from."""

    messages: Chat
    """At least one message, roles from schema.ROLES; a plain text is one user turn."""

    label: str | None
    """What the label column holds, as text."""

    meta: str
    """JSON object: `line`, `columns` (those that are neither text nor label), and `rejected`."""


def sample_id(messages: Chat) -> str:
    """16 hex digits of the SHA-256 of the messages' canonical JSON."""
    plain = [{"content": m["content"], "role": m["role"]} for m in messages]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ingest(spec: IngestSpec, *, runs: Runs, progress: Progress | None = None) -> str:
    """The id of the dataset run that holds the samples of `spec.source`.

    The id follows from the source's bytes, the dataset's name and the options, wherever the file
    lies; a run that exists already is not written again. Writes samples.parquet and
    rejected.parquet, sample order as in the source, the first of several equal samples.

    Raises InputError for a source that cannot be used, BadRow for a bad row unless the spec says
    skip, ServiceError when the hub does not answer. In all cases nothing is stored.
    """
    started = time.monotonic()
    report = progress or (lambda done, total, note="": None)
    reading = read_samples(
        spec.source,
        text_field=spec.text_field,
        messages_field=spec.messages_field,
        label_field=spec.label_field,
    )
    digest = reading.digest(report)
    run_id = replace(spec, source=reading.kind).run_id(digest)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        if runs.find(run_id):
            return run_id
        scratch = runs.scratch(run_id)
        try:
            facts = _write(reading, scratch, skip=spec.on_bad == "skip", report=report)
            runs.publish(
                run_id,
                # the name alone: a manifest may leave this machine, the path means nothing there
                spec=replace(spec, source=reading.name),
                inputs=[digest],
                facts={"name": spec.name, "source": reading.name, **facts},
                seconds=time.monotonic() - started,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # gone already when published
    return run_id


def read_samples(
    source: str | Path,
    *,
    text_field: str | None = None,
    messages_field: str | None = None,
    label_field: str | None = None,
) -> Reading:
    """Opens a path or `hf:ID[@REVISION][:[CONFIG:]SPLIT]` for reading, as often as one likes.

    Without options the columns say which layout it is; see `Layout`. Raises InputError for what
    cannot be opened, ServiceError when the hub does not answer.
    """
    if text_field and messages_field:
        raise InputError(
            f"--text-field {text_field} and --messages-field {messages_field} exclude each other: "
            f"give the one that holds the samples."
        )
    wanted = _Wanted(text_field, messages_field, label_field)
    if str(source).startswith("hf:"):
        return Reading(_Hub(str(source)), wanted)
    return Reading(_open_file(Path(source)), wanted)


class Reading:
    """A source and its layout. Iterating gives, row by row, a Sample or the BadRow it is instead.

    Iterating raises InputError where the rest of the source cannot be read: damaged gzip or
    Parquet, a broken JSON array, an open quote in CSV, columns that name no layout.
    """

    def __init__(self, source: _Source, wanted: _Wanted):
        self._source = source
        self._wanted = wanted
        self.name = source.name
        """What the source is called in sentences and manifests: a file name or a hub id."""
        self.kind = source.kind
        """json, csv, tsv, parquet or hf."""
        self.layout: Layout | None = None
        """Known once the first readable row was met."""

    @property
    def done(self) -> int:
        """Bytes or rows read so far, of `total`."""
        return self._source.done

    @property
    def total(self) -> int:
        return self._source.total

    def digest(self, report: Progress) -> str:
        """`sha256:` and the hash of the source's bytes (of its rows, for the hub)."""
        with _readable(self.name):
            return "sha256:" + self._source.digest(report)

    def __iter__(self) -> Iterator[Sample | BadRow]:
        with _readable(self.name):
            rows = self._source.rows()
            for row in rows:
                if row.columns is None:
                    yield BadRow(row.line, row.problem)
                    continue
                peeked = [row]
                for row in rows:
                    peeked.append(row)
                    if len(peeked) >= PEEK_ROWS or self._source.peeked_enough():
                        break
                layout = self._decide([r.columns for r in peeked if r.columns is not None])
                for row in chain(peeked, rows):
                    yield _sample(row, layout)
            if self.layout is None and self._source.columns:  # no rows, but columns to object to
                self._decide([dict.fromkeys(self._source.columns)])

    def _decide(self, rows: list[Columns]) -> Layout:
        self.layout = recognise(rows, self._wanted, self.name)
        return self.layout


# --- layouts ---------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How rows become chats. Recognised from column names, in this order:

    chosen/rejected           the chosen side, after a prompt column where it is only the answer
    messages, conversations   list of {role, content} or {from, value}, or that list as JSON text
    instruction/input/output  and other pairs of PROMPTS and REPLIES: a user and an assistant turn
    text                      one of TEXTS alone: one user turn

    A column `system` or `system_prompt` adds a system turn to all but the last.
    """

    name: str
    """Its columns' names, such as `prompt/completion`."""

    columns: tuple[str, ...]
    """Columns that become the chat; all others are kept in `meta`."""

    read: Callable[[Columns], Chat]
    """Raises _Unusable with a reason."""

    label: str | None = None
    """Column that becomes the label."""

    rejected: str | None = None
    """Column with the side that is kept beside the sample."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says about it."""
        told: dict[str, Any] = {"layout": self.name, "columns": [*self.columns]}
        if self.rejected:
            told["note"] = (
                f"The sample is the side in {self.columns[0]!r}; "
                f"the side in {self.rejected!r} is kept in meta."
            )
        return told


class _Wanted(NamedTuple):
    text_field: str | None
    messages_field: str | None
    label_field: str | None


class _Unusable(ValueError):
    """Why a row cannot become a sample."""


def recognise(rows: Sequence[Columns], wanted: _Wanted, name: str) -> Layout:
    """The layout of a source from its first rows.

    Names alone decide: a column that is null so far may not be later. Raises InputError naming
    the columns and the option to give when they fit no layout or several.
    """
    every = list(dict.fromkeys(column for row in rows for column in row))
    for option, column in wanted._asdict().items():
        if column is not None and column not in every:
            raise InputError(
                f"{name} has no column {column!r} for --{option.replace('_', '-')}; "
                f"its columns are {_listed(every)}."
            )
    found: dict[str, str] = {}
    for column in every:
        found.setdefault(column.strip().lower(), column)
    if wanted.text_field:
        layout = _text_layout(wanted.text_field)
    elif wanted.messages_field:
        layout = _messages_layout(wanted.messages_field, found)
    else:
        possible = _possible_layouts(found, wanted.label_field)
        if len(possible) != 1:
            fits = "fit more than one layout" if possible else "fit no layout"
            raise InputError(
                f"The columns of {name} {fits}: {_listed(every)}; say which one holds the samples "
                f"with --text-field COLUMN (plain text) or --messages-field COLUMN (chats)."
            )
        layout = possible[0]
    label = found.get("label", "label")  # which may come after the first rows
    if label in layout.columns:
        return layout._replace(label=wanted.label_field)
    return layout._replace(label=wanted.label_field or label)


def _possible_layouts(found: dict[str, str], label: str | None) -> list[Layout]:
    """Layouts these columns (lower-case name -> name) could mean; only the strongest kind."""

    def among(names: Sequence[str]) -> list[str]:
        return [found[n] for n in names if n in found and found[n] != label]

    prompts, replies = among(PROMPTS), among(REPLIES)
    if "chosen" in found and "rejected" in found:
        return [_preference_layout(found, prompts[0] if prompts else None)]
    if chats := among(("messages", "conversations")):
        return [_messages_layout(column, found) for column in chats]
    if prompts and replies:
        return [_pair_layout(p, r, found) for p in prompts for r in replies]
    return [_text_layout(column) for column in among(TEXTS)]


def _text_layout(column: str) -> Layout:
    return Layout(column, (column,), lambda row: _turns(row, column, "user"))


def _messages_layout(column: str, found: dict[str, str]) -> Layout:
    system = _system_column(found, column)

    def read(row: Columns) -> Chat:
        value = _value(row, column)
        if isinstance(value, str):  # CSV has no lists
            value = _json_list(value, column)
        return _with_system(row, system, _chat(value, column))

    return Layout(column, (column, *filter(None, [system])), read)


def _pair_layout(prompt: str, reply: str, found: dict[str, str]) -> Layout:
    system = _system_column(found, prompt)
    extra = next((found[n] for n in INPUTS if n in found), None)

    def read(row: Columns) -> Chat:
        asked = _turns(row, prompt, "user")
        more = _optional(row, extra)
        if more:
            asked[-1]["content"] += f"\n\n{more}"
        return _with_system(row, system, asked + _turns(row, reply, "assistant"))

    columns = tuple(filter(None, [prompt, extra, reply]))
    return Layout("/".join(columns).lower(), (*columns, *filter(None, [system])), read)


def _preference_layout(found: dict[str, str], prompt: str | None) -> Layout:
    chosen, rejected = found["chosen"], found["rejected"]
    system = _system_column(found, chosen)

    def read(row: Columns) -> Chat:
        chat = _turns(row, chosen, "assistant" if prompt else "user", transcript=True)
        if prompt and chat[0]["role"] == "assistant":
            asked = _turns(row, prompt, "user", transcript=True)
            if asked[-1] == {"role": "assistant", "content": ""}:  # "...\n\nAssistant:"
                asked.pop()
            chat = asked + chat
        return _with_system(row, system, chat)

    columns = tuple(filter(None, [chosen, prompt, system]))
    return Layout("chosen/rejected", columns, read, rejected=rejected)


def _system_column(found: dict[str, str], taken: str) -> str | None:
    return next((found[n] for n in SYSTEMS if n in found and found[n] != taken), None)


def _with_system(row: Columns, column: str | None, chat: Chat) -> Chat:
    text = _optional(row, column)
    if not text or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": text}, *chat]


def _optional(row: Columns, column: str | None) -> str:
    """The text of a column that may be missing, null or empty."""
    value = row.get(column) if column else None
    if value is not None and not isinstance(value, str):
        raise _Unusable(f"the column {column!r} holds {_kind(value)}, not text")
    return value or ""


def _value(row: Columns, column: str) -> Any:
    """What a column that must hold something holds."""
    value = row.get(column)
    if value is None:
        if column not in row:
            raise _Unusable(f"there is no {column!r}; the row has {_listed([*row])}")
        raise _Unusable(f"the column {column!r} is null")
    if isinstance(value, str) and not value.strip():
        raise _Unusable(f"the column {column!r} is empty")
    return value


def _turns(row: Columns, column: str, role: str, *, transcript: bool = False) -> Chat:
    """A column as turns: a text is one turn of `role`, a list is a chat."""
    value = _value(row, column)
    if isinstance(value, list):
        return _chat(value, column)
    if not isinstance(value, str):
        raise _Unusable(f"the column {column!r} holds {_kind(value)}, not text")
    turns = _transcript(value) if transcript else []
    return turns or [{"role": role, "content": value}]


def _transcript(text: str) -> Chat:
    """The turns of "Human: ...\\n\\nAssistant: ..."; empty when the text does not begin so."""
    before, *rest = _SPEAKER.split(text)
    if before or not rest:
        return []
    return [
        {"role": ROLE_NAMES["human" if who == "Human" else "assistant"], "content": said.strip()}
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]


def _json_list(text: str, column: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise _Unusable(
            f"the column {column!r} holds text that is no JSON list of messages; "
            f"if it is plain text, give --text-field {column}"
        ) from None


def _chat(value: Any, column: str) -> Chat:
    """A list of {role, content} or {from, value} with the roles' names normalised."""
    if not isinstance(value, list):
        raise _Unusable(f"the column {column!r} holds {_kind(value)}, not a list of messages")
    if not value:
        raise _Unusable(f"the column {column!r} is an empty list")
    return [
        {"role": _role(message, i, column), "content": _content(message, i, column)}
        for i, message in enumerate(value, start=1)
    ]


def _role(message: Any, i: int, column: str) -> str:
    if not isinstance(message, dict):
        raise _Unusable(
            f"message {i} of {column!r} is {_kind(message)}, not an object with role and content"
        )
    given = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(given, str):
        raise _Unusable(
            f"message {i} of {column!r} has no role; its keys are {_listed([*message])}"
        )
    name = given.strip().lower()
    if name in TOOL_ROLES:
        raise _Unusable(f"message {i} of {column!r} comes from a tool (role {_short(given)})")
    if name not in ROLE_NAMES:
        raise _Unusable(
            f"message {i} of {column!r} has the role {_short(given)}; known are {', '.join(ROLES)}"
        )
    return ROLE_NAMES[name]


def _content(message: Columns, i: int, column: str) -> str:
    given = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(given, list):  # the parts of a multimodal message
        kinds = [part.get("type") if isinstance(part, dict) else None for part in given]
        texts = [part.get("text") if isinstance(part, dict) else None for part in given]
        if any(k != "text" for k in kinds) or not all(isinstance(t, str) for t in texts):
            raise _Unusable(f"message {i} of {column!r} holds more than text")
        given = "\n".join(str(text) for text in texts)
    if given is None:
        calls = " but a tool call" if message.get("tool_calls") else ""
        raise _Unusable(f"message {i} of {column!r} has no content{calls}")
    if not isinstance(given, str):
        raise _Unusable(f"message {i} of {column!r} has {_kind(given)} as its content, not text")
    return given


# --- one row ---------------------------------------------------------------------------------


class _Row(NamedTuple):
    line: int
    columns: Columns | None
    problem: str = ""
    """Why there are no columns."""


def _sample(row: _Row, layout: Layout) -> Sample | BadRow:
    if row.columns is None:
        return BadRow(row.line, row.problem)
    try:
        messages = layout.read(row.columns)
        _check(messages)
        label = _label(row.columns, layout.label)
        meta = _meta(row, layout)
    except _Unusable as reason:
        return BadRow(row.line, str(reason))
    return Sample(row.line, sample_id(messages), messages, label, meta)


def _check(messages: Chat) -> None:
    size = sum(len(message["content"]) for message in messages)
    if size > MAX_CHARACTERS:
        raise _Unusable(
            f"the sample has {size:,} characters, the limit is {MAX_CHARACTERS:,}; split it"
        )
    if not any(message["content"].strip() for message in messages):
        raise _Unusable("the text is empty")
    for i, message in enumerate(messages, start=1):
        where = f"message {i}" if len(messages) > 1 else "the text"
        _check_characters(message["content"], where)


def _check_characters(text: str, where: str) -> None:
    found = _FORBIDDEN.search(text)
    if found is None:
        return
    code = f"U+{ord(found[0]):04X}"
    place = f"at character {found.start() + 1} of {where}"
    if found[0] >= "\ud800":
        raise _Unusable(
            f"{code} {place} is no character: half a surrogate pair, or a byte that is not UTF-8"
        )
    raise _Unusable(f"the control character {code} stands {place}")


def _label(row: Columns, column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _json(value)
    _check_characters(text, f"the label in {column!r}")
    return text


def _meta(row: _Row, layout: Layout) -> str:
    columns = row.columns or {}
    used = {*layout.columns, layout.label, layout.rejected}
    meta: dict[str, Any] = {"line": row.line}
    if others := {name: value for name, value in columns.items() if name not in used}:
        meta["columns"] = others
    if layout.rejected:
        meta["rejected"] = columns.get(layout.rejected)
    return _json(meta)


def _json(value: Any) -> str:
    """JSON that any reader accepts: ASCII, so that hostile characters stay escaped."""
    try:
        try:
            return json.dumps(value, allow_nan=False, default=_foreign)
        except ValueError:  # NaN or infinity somewhere inside
            return json.dumps(_finite(value), allow_nan=False, default=_foreign)
    except RecursionError:
        raise _Unusable("its columns are nested too deeply") from None


def _foreign(value: Any) -> str:
    """Dates, decimals and the like, which Parquet has and JSON has not."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"a number ({_short(value)})"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def _short(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and _FORBIDDEN.search(value) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _listed(columns: Sequence[str]) -> str:
    names = ", ".join(_short(column) for column in columns[:20]) or "none"
    return names if len(columns) <= 20 else f"{names} and {len(columns) - 20} more"


# --- sources ---------------------------------------------------------------------------------


class _Source(Protocol):
    name: str
    kind: str
    columns: Sequence[str]
    """Known before the first row; empty where every row names its own."""
    done: int
    total: int

    def digest(self, report: Progress) -> str: ...
    def rows(self) -> Iterator[_Row]: ...
    def peeked_enough(self) -> bool: ...


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns what goes wrong below a file's surface into one sentence."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is a damaged or truncated gzip file ({error}): fetch it again."
        ) from error
    except pa.ArrowException as error:
        raise InputError(_damaged_parquet(name, error)) from error
    except OSError as error:
        if error.errno is None:  # Arrow speaks of damaged pages as input and output errors
            raise InputError(_damaged_parquet(name, error)) from error
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error


def _damaged_parquet(name: str, error: Exception) -> str:
    told = str(error).splitlines()[0].rstrip(".")[:200]
    return f"{name} is not a whole Parquet file ({told}): write or fetch it again."


def _open_file(path: Path) -> _Source:
    """Raises InputError for what is no readable file or no kind of file this module knows."""
    name = _shown(path)
    with _readable(name):
        if path.is_dir():
            raise InputError(f"{name} is a directory: give the file itself.")
        if not path.is_file():
            hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.is_dir()
            hint = f", or write hf:{path} for the dataset of the hub" if hub else ""
            raise InputError(f"There is no file {str(path)!r}: check the path{hint}.")
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with _bytes_of(path, zipped) as (stream, _):
            head = stream.read(_HEAD_BYTES)
        if not head:
            raise InputError(f"{name} is empty: give a file with at least one sample.")
        kind = _kind_of(path, head)
        if kind == "parquet":
            return _ParquetFile(path, zipped)
        return _TextFile(path, zipped, kind, head)


def _shown(path: Path) -> str:
    """A file's name, printable also where it is no UTF-8."""
    return (path.name or str(path)).encode("utf-8", "backslashreplace").decode()


def _kind_of(path: Path, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = _KINDS.get(suffixes[-1], "") if suffixes else ""
    if kind == "parquet":
        return kind
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{_shown(path)} is UTF-16 text: save it as UTF-8.")
    text = head.decode("utf-8", "replace")
    if sum(map(len, re.findall("[\x00-\x08\x0e-\x1f\x7f\ufffd]+", text))) > len(text) / 10:
        raise InputError(
            f"{_shown(path)} holds binary data, not text: give UTF-8 JSON Lines, JSON, CSV, TSV or "
            f"Parquet (each may be gzip)."
        )
    if not kind and text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return "json"
    if not kind:
        raise InputError(
            f"{_shown(path)} is of no known kind: give .jsonl, .json, .csv, .tsv or .parquet "
            f"(each may end in .gz)."
        )
    return kind


@contextmanager
def _bytes_of(path: Path, zipped: bool) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's text, and the file itself, whose position tells how far reading has come."""
    with path.open("rb") as raw:
        if not zipped:
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as plain, io.BufferedReader(plain) as stream:
            yield stream, raw


def _digest_of(path: Path, total: int, report: Progress) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha.update(chunk)
            if file.tell() % 2**26 == 0:
                report(0, total, "checking the file")
    return sha.hexdigest()


class _TextFile:
    """JSON Lines, a JSON array, CSV or TSV."""

    columns: Sequence[str] = ()

    def __init__(self, path: Path, zipped: bool, kind: str, head: bytes):
        self.name = _shown(path)
        self.kind = kind
        self.done = 0
        self.total = path.stat().st_size
        self._path = path
        self._zipped = zipped
        self._bom = head.startswith(_BOM)
        self._head = head.removeprefix(_BOM)

    def digest(self, report: Progress) -> str:
        return _digest_of(self._path, self.total, report)

    def peeked_enough(self) -> bool:
        return self.done > PEEK_BYTES

    def rows(self) -> Iterator[_Row]:
        with _bytes_of(self._path, self._zipped) as (stream, raw):
            if self._bom:
                stream.read(len(_BOM))
            for row in self._read(stream):
                self.done = raw.tell()
                yield row
            self.done = self.total

    def _read(self, stream: IO[bytes]) -> Iterator[_Row]:
        if self.kind == "json":
            if self._head.lstrip().startswith(b"["):
                return _array_rows(stream, self.name)
            return _json_rows(stream)
        if self.kind == "tsv":
            return _csv_rows(stream, "\t", self.name)
        header = self._head.split(b"\n", 1)[0]
        # spreadsheets of some countries write semicolons; the comma wins a tie
        delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
        return _csv_rows(stream, delimiter, self.name)


class _Line(NamedTuple):
    number: int
    data: bytes
    """With its line end; only the beginning where the line is too long."""
    too_long: bool
    quotes: int
    """Double quotes in the whole line, counted only where it is too long."""


def _lines(stream: IO[bytes]) -> Iterator[_Line]:
    """Numbered lines; of a line beyond the limit no more than the limit is ever held."""
    number = 0
    while data := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(data) <= MAX_ROW_BYTES or data.endswith(b"\n"):
            yield _Line(number, data, False, 0)
            continue
        quotes, rest = data.count(b'"'), data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
            quotes += rest.count(b'"')
        yield _Line(number, data[:1024], True, quotes)


_TOO_LONG = (
    f"the row is longer than {MAX_ROW_BYTES:,} bytes; "
    f"a sample has at most {MAX_CHARACTERS:,} characters"
)


def _json_rows(stream: IO[bytes]) -> Iterator[_Row]:
    decode = json.JSONDecoder(strict=False).decode  # control characters get a better reason later
    for line in _lines(stream):
        if line.too_long:
            yield _Row(line.number, None, _TOO_LONG)
            continue
        try:
            text = line.data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            byte = line.data[error.start]
            yield _Row(line.number, None, f"byte {error.start + 1} (0x{byte:02x}) is not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            value = decode(text)
        except json.JSONDecodeError as error:
            reason = f"it is not JSON ({error.msg} at column {error.colno})"
            yield _Row(line.number, None, reason)
        except ValueError:  # Python refuses integers of thousands of digits
            yield _Row(line.number, None, "it holds a number of too many digits")
        except RecursionError:
            yield _Row(line.number, None, "its JSON is nested too deeply")
        else:
            yield _object_row(line.number, value)


def _object_row(line: int, value: Any) -> _Row:
    if not isinstance(value, dict):
        return _Row(line, None, f"it is {_kind(value)}, not an object with named fields")
    return _Row(line, value)


def _array_rows(stream: IO[bytes], name: str) -> Iterator[_Row]:
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
    try:
        yield from _elements(text, name)
    finally:
        text.detach()  # or its end would close the stream, which is not ours


def _elements(text: TextIO, name: str) -> Iterator[_Row]:
    """The elements of one JSON array, of which no more than one element and a bit is held.

    What is broken cannot be skipped here: nobody knows where the next element begins.
    """
    decoder = json.JSONDecoder(strict=False)
    buffer, at, line, ended = "", 0, 1, False

    def more() -> bool:
        """Forgets what was read, reads at least as much as is waiting; False at the end."""
        nonlocal buffer, at, ended
        fresh = text.read(max(2**16, len(buffer) - at))
        if fresh:
            buffer, at = buffer[at:] + fresh, 0
        ended = not fresh
        return not ended

    def mark() -> str:
        """The next character that is no space, without taking it; empty at the end."""
        nonlocal at, line
        while True:
            end = _SPACE.match(buffer, at).end()  # type: ignore[union-attr]
            line += buffer.count("\n", at, end)
            at = end
            if at < len(buffer):
                return buffer[at]
            if not more():
                return ""

    def broken(what: str) -> InputError:
        return InputError(f"{name} breaks off at line {line}: {what}. Correct the JSON there.")

    mark()
    at += 1  # the opening bracket, which is why we are here
    while (next_mark := mark()) != "]":
        while True:
            try:
                value, end = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                if len(buffer) - at > MAX_ROW_BYTES:
                    raise InputError(f"{name}, line {line}: {_TOO_LONG} or never ends.") from error
                if ended or not more():
                    line += buffer.count("\n", at, error.pos)
                    raise broken(f"not JSON ({error.msg})") from error
            except RecursionError as error:
                raise broken("nested too deeply") from error
            except ValueError as error:
                raise broken("a number of too many digits") from error
            else:
                # a number may go on in the part not read yet
                if end < len(buffer) or ended or not more():
                    break
        yield _object_row(line, value)
        line += buffer.count("\n", at, end)
        at = end
        next_mark = mark()
        if next_mark == ",":
            at += 1
            if mark() == "]":
                raise broken("a comma before the closing bracket")
        elif next_mark != "]":
            raise broken("a comma or the closing bracket is missing")
    at += 1
    if mark():
        raise broken("something follows the closing bracket")


class _LongLine(Exception):
    """Thrown through csv.reader, which then begins a new row."""


class _RecordLines:
    """Lines for csv.reader that knows where the row being read began and how long it is."""

    def __init__(self, stream: IO[bytes], name: str):
        self._lines = _lines(stream)
        self._name = name
        self.begin()

    def begin(self) -> None:
        self.first = self.last = self.size = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        alone = not self.first
        self.first, self.last = self.first or line.number, line.number
        self.size += len(line.data)
        if line.too_long and alone and line.quotes % 2 == 0:
            raise _LongLine
        if line.too_long or self.size > MAX_ROW_BYTES:
            raise self.open_quote()
        return line.data.decode("utf-8", "surrogateescape")

    def open_quote(self) -> InputError:
        """Not a matter of one row: who can say how many rows the quote has swallowed?"""
        return InputError(
            f"{self._name}: the row that begins on line {self.first} has a quote that does not "
            f"close within {MAX_ROW_BYTES:,} bytes or before the end. Close it, or write a quote "
            f"inside a text as two."
        )


def _csv_rows(stream: IO[bytes], delimiter: str, name: str) -> Iterator[_Row]:
    """Rows of a table with a header line. Quotes as in RFC 4180: doubled inside quoted fields."""
    csv.field_size_limit(MAX_ROW_BYTES)  # one for the process; our own limits are the tighter ones
    lines = _RecordLines(stream, name)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        lines.begin()
        problem, fields = "", []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _LongLine:
            problem = _TOO_LONG
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise lines.open_quote() from error
            span = f" up to line {lines.last}" if lines.last > lines.first else ""
            problem = f"it is not proper CSV ({error}){span}"
        if problem and not header:
            raise InputError(f"{name} has no readable header on line {lines.first}: {problem}.")
        if problem:
            yield _Row(lines.first, None, problem)
        elif not fields:  # an empty line
            continue
        elif not header:
            header = _header(fields, name)
        elif len(fields) != len(header):
            problem = f"it has {len(fields)} fields, the header has {len(header)}"
            yield _Row(lines.first, None, problem)
        else:
            yield _Row(lines.first, dict(zip(header, fields, strict=True)))


def _header(fields: list[str], name: str) -> list[str]:
    names = [field or f"column {i}" for i, field in enumerate(fields, start=1)]
    twice = [field for field, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(f"{name} has several columns called {_short(twice[0])}: rename one.")
    return names


class _ParquetFile:
    kind = "parquet"

    def __init__(self, path: Path, zipped: bool):
        self.name = _shown(path)
        self._path = path
        self._zipped = zipped
        with self._open() as file:
            self.columns: Sequence[str] = _readable_columns(file.schema_arrow)
            self.total = file.metadata.num_rows
        self.done = 0

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        if not self._zipped:
            with pq.ParquetFile(self._path) as file:
                yield file
            return
        with tempfile.TemporaryFile() as plain:  # Parquet is read from its end
            with _bytes_of(self._path, True) as (stream, _), _disk_room("the unpacked file"):
                shutil.copyfileobj(stream, plain, 2**20)
            with pq.ParquetFile(plain) as file:
                yield file

    def digest(self, report: Progress) -> str:
        return _digest_of(self._path, self.total, report)

    def peeked_enough(self) -> bool:
        return True  # every row has every column

    def rows(self) -> Iterator[_Row]:
        self.done = 0
        with self._open() as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[*self.columns]):
                yield from _batch_rows(batch, self.done)
                self.done += len(batch)


class _Hub:
    """A dataset of the Hugging Face hub, or a folder in the hub's layout."""

    kind = "hf"

    def __init__(self, source: str):
        name, *parts = re.split(r":(?![^\[]*\])", source.removeprefix("hf:"))  # not in train[:9]
        name, _, revision = name.partition("@")
        if not name or len(parts) > 2 or not all(parts):
            raise InputError(
                f"{source!r} names no dataset: write hf:ID, hf:ID:SPLIT or hf:ID:CONFIG:SPLIT."
            )
        split = parts[-1] if parts else None
        config = parts[0] if len(parts) == 2 else None
        self._data, split = _load_from_hub(name, config, split, revision or None)
        shown = Path(name).name if Path(name).is_dir() else name
        self.name = ":".join(["hf", shown + (f"@{revision}" if revision else "")])
        self.name += "".join(f":{part}" for part in (config, split) if part)
        self.columns: Sequence[str] = _readable_columns(self._data.features.arrow_schema)
        self.done = 0
        self.total = len(self._data)

    def digest(self, report: Progress) -> str:
        sha = hashlib.sha256(repr(sorted(self._data.features.items())).encode())
        for batch in self._batches():
            sha.update(batch.serialize())
            report(0, self.total, "checking the rows")
        return sha.hexdigest()

    def peeked_enough(self) -> bool:
        return True  # every row has every column

    def rows(self) -> Iterator[_Row]:
        self.done = 0
        named = {
            column: feature.names
            for column, feature in self._data.features.items()
            if hasattr(feature, "names")  # ClassLabel stores numbers
        }
        for batch in self._batches():
            for row in _batch_rows(batch, self.done):
                for column, names in named.items():
                    code = row.columns.get(column) if row.columns else None
                    if row.columns and isinstance(code, int) and 0 <= code < len(names):
                        row.columns[column] = names[code]
                yield row
            self.done += len(batch)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        readable = self._data.select_columns([*self.columns]).with_format("arrow")
        for table in readable.iter(batch_size=_BATCH_ROWS):
            yield from table.to_batches()


def _load_from_hub(
    name: str, config: str | None, split: str | None, revision: str | None
) -> tuple[Any, str]:
    """The dataset and the name of its split: the only one, else `train`."""
    import datasets  # takes a second, and only the worker ever asks for it

    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ValueError,  # a config or split it has not
        RuntimeError,  # it would run code of its own
    ) as error:
        raise InputError(
            f"The hub dataset {name!r} cannot be used: {_first_line(error)}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(_disk_full(f"the copy of {name}")) from error
        raise ServiceError(
            f"The hub did not serve {name!r} ({_first_line(error).rstrip('.')}): check the "
            f"network and start it again."
        ) from error
    if split is not None:
        return found, split
    splits = [*found]
    if len(splits) > 1 and "train" not in splits:
        raise InputError(
            f"The hub dataset {name!r} has the splits {_listed(splits)}: "
            f"name one, as in hf:{name}:{splits[0]}."
        )
    split = "train" if "train" in splits else splits[0]
    return found[split], split


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _readable_columns(schema: pa.Schema) -> list[str]:
    """Columns without bytes in them: images and sound are no text and would fill the memory."""
    return [field.name for field in schema if not _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _batch_rows(batch: pa.RecordBatch, before: int) -> Iterator[_Row]:
    """Rows of a batch, numbered from `before` + 1."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are no UTF-8, a date beyond the calendar
        for i in range(len(batch)):
            try:
                yield _Row(before + i + 1, batch.slice(i, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield _Row(before + i + 1, None, f"it cannot be read ({error})")
        return
    for i, row in enumerate(rows, start=before + 1):
        yield _Row(i, row)


# --- writing ---------------------------------------------------------------------------------


def _write(reading: Reading, scratch: Path, *, skip: bool, report: Progress) -> dict[str, Any]:
    """Writes both tables of a dataset run into `scratch` and returns its facts."""
    seen = _Seen()
    labels: Counter[str] = Counter()
    roles = dict.fromkeys(ROLES, 0)
    n_rows = n_samples = n_rejected = 0
    first_bad: BadRow | None = None
    with (
        _Table(scratch / "samples.parquet", SAMPLES) as kept,
        _Table(scratch / "rejected.parquet", REJECTED) as rejected,
    ):
        for part in _parts(reading):
            bad = [row for row in part if isinstance(row, BadRow)]
            good = [row for row in part if isinstance(row, Sample)]
            if bad and not skip:
                raise BadRow(
                    bad[0].line,
                    f"{bad[0].reason} (in {reading.name}); nothing was stored: correct the row, or "
                    f"give --on-bad skip to leave such rows out and have them listed.",
                )
            new = seen.add(np.array([int(s.sample_id, 16) for s in good], np.uint64))
            fresh = [sample for sample, is_new in zip(good, new, strict=True) if is_new]
            kept.append([sample._asdict() for sample in fresh])
            rejected.append([{"line": row.line, "reason": row.reason} for row in bad])
            n_rows += len(part)
            n_samples += len(fresh)
            n_rejected += len(bad)
            first_bad = first_bad or (bad[0] if bad else None)
            for sample in fresh:
                if sample.label is not None:
                    known = sample.label in labels or len(labels) < MAX_LABELS
                    labels[sample.label if known else OTHER_LABELS] += 1
                for message in sample.messages:
                    roles[message["role"]] += 1
            report(reading.done, reading.total, f"{n_samples:,} samples")
    if first_bad and not n_samples:
        raise InputError(
            f"None of the {n_rows:,} rows of {reading.name} can be used; "
            f"line {first_bad.line}: {first_bad.reason}."
        )
    if reading.layout is None or not n_samples:
        raise InputError(f"{reading.name} has no rows: give a file with at least one sample.")
    return {
        "n_samples": n_samples,
        "duplicates": n_rows - n_rejected - n_samples,
        "n_rejected": n_rejected,
        "kind": reading.kind,
        **reading.layout.facts,
        "roles": roles,
        "labels": dict(labels.most_common()),
    }


def _parts(rows: Reading) -> Iterator[list[Sample | BadRow]]:
    part: list[Sample | BadRow] = []
    size = 0
    for row in rows:
        part.append(row)
        if isinstance(row, Sample):
            size += len(row.meta) + sum(len(message["content"]) for message in row.messages)
        if len(part) >= PART_ROWS or size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


class _Seen:
    """The ids met so far, in sorted arrays of which each is longer than the next together.

    Eight bytes an id where a set takes about a hundred; an id is merged log2(parts) times.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Takes uint64 `[n]` and tells which are met for the first time: bool `[n]`."""
        new = np.zeros(len(ids), bool)
        values, first = np.unique(ids, return_index=True)
        fresh = np.ones(len(values), bool)
        for array in self._arrays:
            place = np.minimum(np.searchsorted(array, values), len(array) - 1)
            fresh &= array[place] != values
        new[first[fresh]] = True
        if fresh.any():
            self._arrays.append(values[fresh])
        while len(self._arrays) > 1 and len(self._arrays[-2]) <= 2 * len(self._arrays[-1]):
            merged = np.concatenate([self._arrays.pop(), self._arrays.pop()])
            merged.sort(kind="stable")
            self._arrays.append(merged)
        return new


class _Table:
    """A Parquet file written part by part."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._path = path
        self._schema = schema

    def __enter__(self) -> _Table:
        with _disk_room(self._path.name):
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        return self

    def append(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            with _disk_room(self._path.name):
                self._writer.write_table(pa.Table.from_pylist(rows, self._schema))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(OSError):  # what went wrong first is what is told
                self._writer.close()
            return
        with _disk_room(self._path.name):
            self._writer.close()


@contextmanager
def _disk_room(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(_disk_full(what)) from error


def _disk_full(what: str) -> str:
    return (
        f"The disk is full, {what} could not be written and nothing stored was changed: "
        f"free some space, then start it again."
    )
