"""Text on its way to people: what terminals, names, HTML and Markdown can show of foreign text, and
how amounts are said.

The one place that says what cannot be seen: controls, among them those with which a terminal is
told to move or to paint, line ends of any kind, and marks that turn the direction of what follows.
"""

from __future__ import annotations

import re
from typing import Any

INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Controls, line breaks of any kind, direction overrides, tags, lone halves of surrogate pairs."""

_PICTURES = {
    "\n": "\n",
    "\t": "⇥\t",
    "\r": "␍",
    "\x7f": "␡",
    **{chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
}


def spelled_out(character: str) -> str:
    """Its code, for what has no picture."""
    return f"\\u{{{ord(character):x}}}"


def clean(text: str) -> str:
    """Text that any browser and terminal can show, in its lines: no lone surrogates, what cannot be
    seen made visible."""
    text = text.encode("utf-8", "replace").decode()
    return INVISIBLE.sub(lambda m: _PICTURES.get(m[0]) or spelled_out(m[0]), text)


def one_line(text: str) -> str:
    """The same for a name or a sentence: a line end is shown and ends nothing."""
    return clean(text).replace("\n", "⏎").replace("⇥\t", "⇥")


def clean_values(value: Any) -> Any:
    """The same for every text in what JSON holds, keys too."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean_values(key): clean_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_values(item) for item in value]
    return value


def code_span(text: str) -> str:
    """Text as GitHub's Markdown shows it exactly as it is: in a code span, where no markup,
    mention, issue number or link is read."""
    line = " ".join(clean(text).split()) or "∅"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def table_cell(text: str) -> str:
    """The same in a table, where a vertical line ends a cell even in a code span."""
    return code_span(text).replace("|", r"\|")


def counted(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds in the unit that people would say."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
