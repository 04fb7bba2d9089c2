"""The edges of a text: how it begins and where it may end."""

from __future__ import annotations

import re
from typing import NamedTuple

END_MARK = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


class Edges(NamedTuple):
    """What a local writer keeps to while it writes."""

    capital: bool = False  # no small letter comes first
    mark: bool = False  # its line, or the whole text, ends after an end mark alone
