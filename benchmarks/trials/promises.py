"""What a promise is, how its trials are carried out and counted, and the page about them."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from fac.config import REPOSITORY

FIGURES = REPOSITORY / "benchmarks" / "trials.json"
PAGE = REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: python -m benchmarks.trials --page -->", "<!-- end of figures -->"

MOST_TOLD = 20
"""Failures of a promise that are told, each with the number that repeats it; all are counted."""

Trial = Callable[[random.Random], str]
"""One trial; returns in a word or two how it ended, and raises where the promise was broken."""


class Broken(AssertionError):
    """A promise that was not kept; the message says how."""


class CannotTry(Exception):
    """A promise that this machine cannot put to the test; the message says why."""


class Over(Exception):
    """There are no more trials; not a failure."""


class Promise(NamedTuple):
    """One sentence that is true of every trial."""

    kind: str  # kills, bits, ...
    name: str  # of one kind: what is killed, flipped, damaged
    sentence: str
    begin: Callable[[Path], AbstractContextManager[Trial]]
    """Makes in an empty folder what all its trials share, and the trial. Raises CannotTry."""

    times: int  # trials in the long form

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.name}"


class Outcome(NamedTuple):
    """What became of the trials of one promise."""

    kind: str
    name: str
    promise: str
    trials: int
    ends: dict[str, int]  # how many trials ended in which way
    failed: int
    failures: list[dict[str, Any]]  # {"number", "why"} of the first MOST_TOLD
    seconds: float

    def command(self) -> str:
        return f"python -m benchmarks.trials {self.kind} --only '{self.name}'"


def carry_out(promise: Promise, times: int, first: int = 0) -> Outcome:
    """So many trials of a promise, fewer where one raises Over. Trial `n` is seeded with the
    promise's title and `n` alone, so `first=n, times=1` repeats it; what depends on the moment of a
    kill is repeated as nearly as clocks allow."""
    ends, failures, begun = Counter[str](), list[dict[str, Any]](), time.monotonic()
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="fac-trials-", ignore_cleanup_errors=True) as folder,
        promise.begin(Path(folder)) as trial,
    ):
        for number in range(first, first + times):
            try:
                ends[trial(random.Random(f"{promise.title} {number}"))] += 1
            except Over:
                break
            except Exception as error:
                failed += 1
                if len(failures) < MOST_TOLD:
                    why = f"{type(error).__name__}: {error}" if str(error) else repr(error)
                    failures.append({"number": number, "why": " ".join(why.split())[:600]})
    seconds = round(time.monotonic() - begun, 1)
    about = (promise.kind, promise.name, promise.sentence)
    trials = failed + ends.total()
    return Outcome(*about, trials, dict(ends.most_common()), failed, failures, seconds)


def in_words(outcome: Outcome) -> str:
    """What became of a promise, for a terminal; a failure a line, with how it is repeated."""
    ends = ", ".join(f"{n:,} {how}" for how, n in outcome.ends.items())
    lines = [
        f"{outcome.kind}: {outcome.name}. {outcome.promise}",
        f"  {outcome.trials:,} trials, {outcome.failed:,} failed ({ends or 'none ended well'}), "
        f"{outcome.seconds:,.0f} s",
    ]
    for failure in outcome.failures:
        lines.append(
            f"  {outcome.command()} --first {failure['number']} --times 1: {failure['why']}"
        )
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """What was counted; empty where nothing was."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def merge(before: Mapping[str, Any], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """The counts with those of these outcomes in the place of earlier ones of the same promises."""
    titles = {(row["kind"], row["name"]): row for row in before.get("promises", ())}
    titles |= {(each.kind, each.name): each._asdict() for each in outcomes}
    return {**before, "promises": [titles[title] for title in sorted(titles)]}


def table(counts: Mapping[str, Any]) -> str:
    """Markdown: the promises with what was tried of each."""
    lines = [
        "| promise | trials | failures | how they ended | command |",
        "|---|---:|---:|---|---|",
    ]
    for row in counts.get("promises", ()):
        outcome = Outcome(**row)
        ends = ", ".join(f"{n:,} {how}" for how, n in outcome.ends.items())
        cells = (outcome.promise, f"{outcome.trials:,}", f"{outcome.failed:,}", ends)
        lines.append(f"| {' | '.join(cells)} | `{outcome.command()}` |")
    return "\n".join(lines)


def page(text: str, counts: Mapping[str, Any], licences: Sequence[str]) -> str:
    """The page with its figures as they are now."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    every = [Outcome(**row) for row in counts.get("promises", ())]
    sums = (
        f"{sum(each.trials for each in every):,} trials of {len(every)} promises in "
        f"{sum(each.seconds for each in every) / 60:,.0f} minutes, "
        f"{sum(each.failed for each in every):,} failures."
    )
    middle = "\n".join((sums, "", table(counts), "", "## Dependencies", "", *licences))
    return f"{head}{BEGIN}\n\n{middle}\n\n{END}{tail}"
