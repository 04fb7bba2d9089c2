"""The forms of samples: what each is called, what it consists of, what makes a good one.

A sample is written part by part: its first part, the message, by itself, then the later ones, an
answer for one. The profiles stand in profiles.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError


class Profile(NamedTuple):
    """The form of a sample: what is asked for, and what becomes of it."""

    name: str  # how it is called on the command line
    title: str  # how it is called on the pages
    singular: str  # one of them, in words
    plural: str  # several of them, in words
    parts: dict[str, str]  # what it consists of, by name, in order: the message first
    rules: str  # what makes a good one
    example: dict[str, str]  # one about lateness, by part; what very small models copy

    first: dict[str, str] = {}
    """Singular, plural and rules of the first part where others follow it: it is asked for by
    itself."""


BUILT_IN = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))

PROFILES = {name: Profile(name=name, **table) for name, table in BUILT_IN.items()}
"""Sample profiles after the paper's tasks, in our words."""


def profile_of(name: str) -> Profile:
    """Raises InputError for a name that no profile has."""
    if name not in PROFILES:
        raise InputError(f"The profile must be one of {', '.join(PROFILES)}, got {name!r:.40}.")
    return PROFILES[name]


def later_parts(profile: str) -> tuple[str, ...]:
    """Names of the parts that are written after the message, one request each and in this order:
    () where the message is the whole sample, ("assistant",) for a chat."""
    _, *later = profile_of(profile).parts
    return tuple(later)


def first_part(profile: str) -> Profile:
    """The form of what is written first."""
    form = profile_of(profile)
    name = next(iter(form.parts))
    parts, example = {name: form.parts[name]}, {name: form.example[name]}
    return form._replace(**form.first, parts=parts, example=example, first={})
