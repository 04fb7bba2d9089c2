"""Decisions as JSON lines, by which workspaces exchange them: what is written, and what an
acceptable line looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fac.config import digest
from fac.errors import InputError

DAY_AHEAD = timedelta(days=1)
"""A time further in the future is a wrong clock, and would win over every later decision."""

_WITHDRAWAL: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("uid", "at", "reviewer", "withdraws"), (str,)
)
_DECISION: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("uid", "at", "reviewer", "kind", "subject", "seen", "verdict"), (str,)),
    "reasons": (list,),
    "note": (str,),
    "edited_text": (str, type(None)),
    "seconds": (int, float, type(None)),
    "adjudicates": (bool,),
    "content": (dict,),
}


def json_line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, allow_nan=False)


def canonical_json(content: Mapping[str, Any]) -> str:
    """Of what was shown; ASCII, so halves of surrogate pairs survive. Raises InputError."""
    try:
        return json.dumps(dict(content), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"What was shown must be a plain JSON object: {error}.") from error


def iso_time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def read_line(line: str) -> tuple[dict[str, Any], str]:
    """The fields of an exported decision or withdrawal, and the canonical JSON of what was shown
    ("" for a withdrawal). Raises InputError for what is neither."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise InputError("it is not a JSON object.")
    types = _WITHDRAWAL if "withdraws" in fields else _DECISION
    if lacking := sorted(set(types) - set(fields)):
        raise InputError(f"it has no {', '.join(lacking)}.")
    if unknown := sorted(set(fields) - set(types)):
        raise InputError(f"it has unknown fields: {', '.join(unknown)[:200]}.")
    for name, value in sorted(fields.items()):
        if not isinstance(value, types[name]) or (name == "seconds" and value is True):
            raise InputError(f"{name} must not be {str(value)[:60]!r}.")
    for name in ("uid", "withdraws"):
        if name in fields and not re.fullmatch(r"[0-9a-f]{32}", fields[name]):
            raise InputError(f"{name} must be 32 hex digits, got {fields[name][:60]!r}.")
    fields["at"] = _utc_time(fields["at"])
    if "withdraws" in fields:
        return fields, ""
    if not all(isinstance(reason, str) for reason in fields["reasons"]):
        raise InputError("reasons must be a list of texts.")
    fields["reasons"] = tuple(fields["reasons"])
    content = fields.pop("content")
    body = canonical_json(content)
    if digest(content) != fields["seen"]:
        raise InputError(f"content does not have the hash {fields['seen'][:60]!r}.")
    return fields, body


def _utc_time(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"at must be an ISO time, got {text[:60]!r}.") from error
    if when.tzinfo is None:
        raise InputError(f"at needs a time zone, got {text!r}.")
    try:
        at = iso_time(when)
    except OverflowError as error:  # the year 9999 in another zone
        raise InputError(f"at must be an ISO time, got {text!r}.") from error
    if when > datetime.now(UTC) + DAY_AHEAD:
        raise InputError(f"at lies in the future ({at}): its clock was wrong.")
    return at
