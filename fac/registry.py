"""Parts that are found by their file: adding one touches that file and its test, no list of them.

A package of parts holds one module a part. The module's name is the part's name, and its instance
of the package's record says what the part is called, what it needs and what it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

from fac.errors import InputError

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """The parts of one package, by name. Names come from the file system, so whoever only checks a
    name (a spec, the help of a command) imports no part."""

    def __init__(self, package: str, attribute: str):
        """`attribute` is what every module of `package` calls its part."""
        self.package, self.attribute = package, attribute

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all parts, alphabetical: those of their files, with - for _."""
        folder = Path(__file__).resolve().parent.joinpath(*self.package.split(".")[1:])
        return tuple(sorted(file.stem.replace("_", "-") for file in folder.glob("[!_]*.py")))

    def __getitem__(self, name: str) -> Part:
        """The part of that name. Raises InputError where there is none."""
        if name not in self.names:
            kind = self.attribute.lower().replace("_", " ")
            raise InputError(f"There is no {kind} {name!r}; there are {', '.join(self.names)}.")
        module = name.replace("-", "_")
        part: Part = getattr(import_module(f"{self.package}.{module}"), self.attribute)
        return part

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """Names of all parts, by their `preference` where they have one; imports them."""
        return iter(sorted(self.names, key=lambda name: getattr(self[name], "preference", 0)))

    def items(self) -> list[tuple[str, Part]]:
        """Every part with its name."""
        return [(name, self[name]) for name in self.names]
