"""What the program rests on: every package with its licence, as its own metadata names it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from fac.config import REPOSITORY

SHORT = {
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "mit license": "MIT",
    "mit": "MIT",
    "3-clause bsd license": "BSD-3-Clause",
    "the mit license (mit)": "MIT",
    "bsd license": "BSD",
    "bsd": "BSD",
    "python software foundation license": "PSF-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc license (iscl)": "ISC",
    "isc license": "ISC",
}
"""Names of licences in metadata, as SPDX has them."""

NO_SCAN = (
    "There was no scan for known faults of these versions: such scans (`pip-audit -r "
    "requirements.txt`) ask a database on the network, and no copy of one is part of this project. "
    "Run it where there is a network before you put the program before other people."
)


def licence(name: str) -> str:
    """Of an installed package: its expression, else its classifiers, else what it says in words."""
    about: Any = metadata.metadata(name)
    classifiers = [
        each.rpartition("::")[2].strip()
        for each in about.get_all("Classifier") or ()
        if each.startswith("License ::")
    ]
    words = about.get("License-Expression") or ", ".join(classifiers)
    if not words or words == "OSI Approved":
        words = (about.get("License") or "").strip().splitlines()[:1]
        words = words[0] if words else "not named"
    return SHORT.get(words.casefold(), words)


def requirements(file: str) -> list[str]:
    """The packages that a file of requirements names."""
    lines = (REPOSITORY / file).read_text("utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", "-"))]


def _needs(requirement: Requirement) -> Iterator[Requirement]:
    for line in metadata.requires(requirement.name) or ():
        needed = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *requirement.extras)]
        if needed.marker is None or any(map(needed.marker.evaluate, environments)):
            yield needed


def packages(file: str) -> dict[str, str]:
    """Every package that a file of requirements leads to and is installed here, as written on it,
    with its version."""
    versions, waiting = dict[str, str](), [Requirement(line) for line in requirements(file)]
    while waiting:
        requirement = waiting.pop()
        try:
            installed = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:  # of another system, or what an option needs
            continue
        name = re.sub(r"[-_.]+", "-", installed.metadata["Name"]).lower()
        if name not in versions:
            versions[name] = installed.version
            waiting += _needs(requirement)
    return dict(sorted(versions.items()))


def lines() -> list[str]:
    """The packages of requirements.txt and what they lead to, by licence, as Markdown."""
    versions = packages("requirements.txt")
    direct = {
        re.sub(r"[-_.]+", "-", Requirement(r).name).lower()
        for r in requirements("requirements.txt")
    }
    by_licence = defaultdict(list)
    for name, version in versions.items():
        mark = "**" if name in direct else ""
        by_licence[licence(name)].append(f"{mark}{name} {version}{mark}")
    rows = sorted(by_licence.items(), key=lambda row: (-len(row[1]), row[0]))
    return [
        f"requirements.txt names {len(direct)} packages (bold), which lead to "
        f"{len(versions) - len(direct)} more on the machine that wrote this page, each with the "
        f"licence that its own metadata names:",
        "",
        "| licence | packages |",
        "|---|---|",
        *(f"| {words} | {', '.join(names)} |" for words, names in rows),
        "",
        NO_SCAN,
    ]
