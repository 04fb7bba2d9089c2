"""A model's name as others may read it."""

import re


def public_name(name: str) -> str:
    """A model's name as it may leave this machine: no address of a server, no folder."""
    name = re.sub(r"\s*(\bat\s+)?\bhttps?://\S+", "", name)
    return re.sub(r"(?<!\S)(?:[A-Za-z]:)?[/~\\][^\s@]*[/\\]", "", name)
