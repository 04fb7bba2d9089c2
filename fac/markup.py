"""Foreign text on its way into a document: what every reader of HTML or Markdown can show."""

from __future__ import annotations

import re

_VISIBLE = str.maketrans(
    {
        "\t": "⇥\t",
        "\r": "␍",
        "\x7f": "␡",
        **{chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
        # invisible marks that would turn the line around them
        **dict.fromkeys(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))), "�"),
    }
)


def clean(text: str) -> str:
    """Text that any browser can show: no lone surrogates, control characters made visible."""
    return text.encode("utf-8", "replace").decode().translate(_VISIBLE)


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
