"""Sample profiles: the forms that a sample written for a gap can have."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError
from fac.prompts.fences import safe


class Profile(NamedTuple):
    """The form of a sample: what is asked for, and what becomes of it."""

    name: str
    """How it is called on the command line."""

    title: str
    """How it is called on the pages."""

    singular: str
    """One of them, in words."""

    plural: str
    """Several of them, in words."""

    parts: dict[str, str]
    """What it consists of, by name, in order. A profile of one part is written as plain text; of
    several as a JSON object, or on one line with the capitalised names as marks."""

    rules: str
    """What makes a good one."""

    example: dict[str, str]
    """A good one about lateness, by part; what very small models copy."""

    max_tokens: int
    """Room that a reply in this form needs."""


BUILT_IN = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))

PROFILES = {name: Profile(name=name, **table) for name, table in BUILT_IN.items()}
"""Sample profiles after the paper's tasks, in our words."""


def profile_of(name: str) -> Profile:
    """Raises InputError for a name that no profile has."""
    if name not in PROFILES:
        raise InputError(f"The profile must be one of {', '.join(PROFILES)}, got {name!r:.40}.")
    return PROFILES[name]


def mark_of(part: str) -> str:
    return f"{part.capitalize()}:"


def described(explanation: str | None) -> list[str]:
    return [f"Description: {safe(explanation)}"] if explanation and explanation.strip() else []
