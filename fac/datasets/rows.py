"""One row of a source, before it is known what it says, and the words for what is wrong with it."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_CHARACTERS = 1_000_000
"""Longest sample, over all its messages; a longer one is a broken file more often than a text."""

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Columns = dict[str, Any]
"""One row of a source: column name -> value as JSON would give it."""


class SourceRow(NamedTuple):
    """One row of a source."""

    line: int
    columns: Columns | None
    problem: str = ""
    """Why there are no columns."""


class UnusableRow(ValueError):
    """Why a row cannot become a sample."""


def in_words(value: Any) -> str:
    """What kind of value it is, for a sentence."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"a number ({shortened(value)})"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def shortened(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and FORBIDDEN.search(value) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def listed(columns: Sequence[str]) -> str:
    names = ", ".join(shortened(column) for column in columns[:20]) or "none"
    return names if len(columns) <= 20 else f"{names} and {len(columns) - 20} more"
