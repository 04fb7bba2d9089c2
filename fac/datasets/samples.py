"""One row -> one sample: the checks it must pass, its id, its label and what is kept beside it."""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from fac.datasets.layout import SourceLayout
from fac.datasets.rows import FORBIDDEN, MAX_CHARACTERS, Columns, SourceRow, UnusableRow
from fac.errors import BadRow
from fac.schema import Chat


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


def sample_of(row: SourceRow, layout: SourceLayout) -> Sample | BadRow:
    """The sample in a row, or the reason why there is none."""
    if row.columns is None:
        return BadRow(row.line, row.problem)
    try:
        messages = layout.chat(row.columns)
        _check(messages)
        label = _label(row.columns, layout.label)
        meta = _meta(row, layout)
    except UnusableRow as reason:
        return BadRow(row.line, str(reason))
    return Sample(row.line, sample_id(messages), messages, label, meta)


def _check(messages: Chat) -> None:
    size = sum(len(message["content"]) for message in messages)
    if size > MAX_CHARACTERS:
        raise UnusableRow(
            f"the sample has {size:,} characters, the limit is {MAX_CHARACTERS:,}; split it"
        )
    if not any(message["content"].strip() for message in messages):
        raise UnusableRow("the text is empty")
    for i, message in enumerate(messages, start=1):
        where = f"message {i}" if len(messages) > 1 else "the text"
        _check_characters(message["content"], where)


def _check_characters(text: str, where: str) -> None:
    match = FORBIDDEN.search(text)
    if match is None:
        return
    code = f"U+{ord(match[0]):04X}"
    position = f"at character {match.start() + 1} of {where}"
    if match[0] >= "\ud800":
        raise UnusableRow(
            f"{code} {position} is no character: half a surrogate pair, or a byte that is not UTF-8"
        )
    raise UnusableRow(f"the control character {code} stands {position}")


def _label(row: Columns, column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _json(value)
    _check_characters(text, f"the label in {column!r}")
    return text


def _meta(row: SourceRow, layout: SourceLayout) -> str:
    columns = row.columns or {}
    meta: dict[str, Any] = {"line": row.line}
    if others := {name: value for name, value in columns.items() if name not in layout.used}:
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
        raise UnusableRow("its columns are nested too deeply") from None


def _foreign(value: Any) -> str:
    """Dates, decimals and the like, which Parquet has and JSON has not."""
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
