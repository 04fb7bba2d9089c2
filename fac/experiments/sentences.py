"""What differences between arms amount to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from fac.experiments.arms import ALL, ARMS, FILLING, MORE, NONE, NULL, RANDOM, SHUFFLED, WRITTEN
from fac.experiments.effects import decision_accuracy, in_words
from fac.experiments.run import Row

REST_AT_RANDOM = "Where no row fills a gap any more, random rows take the tokens that are left."


def conclusion(rows: Sequence[Row], unit: str) -> str:
    """Of each outcome; `unit` is what sizes of beginnings are counted in."""
    return " ".join(_conclusion(of, head, unit) for head, of in _by_outcome(rows).items())


def of_written(rows: Sequence[Row], digits: int = 3, unit: str = "") -> str:
    """What one arm of written rows is worth beside random rows: a row a size, each named with
    `unit` if there is one."""
    better = [row for row in rows if row["low"] > 0]
    worse = [row for row in rows if row["high"] < 0]
    verdict = "cannot be told from random rows of equal tokens"
    if worse:
        verdict = "teach less than random rows of equal tokens"
    elif better:
        verdict = "teach more than random rows of equal tokens"
    if 0 < len(which := worse or better) < len(rows):
        verdict += f" at {', '.join(str(row['size']) for row in which)} {unit}"
    figures = "; ".join(
        f"{row['size']} {unit} {in_words(row, digits)}" if unit else in_words(row, digits)
        for row in rows
    )
    name = rows[0]["arm"]
    return f"{name[0].upper()}{name[1:]}: these {verdict} ({figures})."


EQUALS = frozenset(ARMS) - {NONE, ALL, MORE, NULL}
"""Arms of equal tokens that differ in what they choose: which is better is what one would ask."""

FEWEST = 3
"""Arms below which their order says nothing."""


def rankings(rows: Sequence[Row], unit: str) -> str:
    """How far the cheapest measurement tells which of two arms is better as dearer ones do: the
    smallest beginning beside the largest of every outcome, and, at the smallest, each outcome
    beside the last one."""
    values: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row["arm"] in EQUALS or row["arm"].startswith(WRITTEN):
            values.setdefault((row["outcome"], row["size"]), {})[row["arm"]] = row["value"]
    small, large = (pick(size for _, size in values) for pick in (min, max))
    outcomes = [outcome for outcome, size in values if size == small]
    duels = [(f"{o} at {small}", f"at {large} {unit}", (o, small), (o, large)) for o in outcomes]
    *first, last = outcomes
    duels += [(o, f"{last} at {small} {unit}", (o, small), (last, small)) for o in first]
    parts = []
    for short, long, of_short, of_long in duels:
        one, other = values[of_short], values.get(of_long, {})
        n = len(one.keys() & other.keys())
        if of_short != of_long and n >= FEWEST:
            share = f"{decision_accuracy(one, other):.2f} of {n * (n - 1) // 2:,} pairs"
            parts.append(f"{short} as {long} {share}")
    if not parts:
        return ""
    return f"Which of two arms is better is told alike: {'; '.join(parts)} (by chance half)."


def controls(rows: Sequence[Row], wrong: str = "") -> str:
    """Whether the instrument sees what is there, and nothing where nothing is; `wrong` is an arm
    that must be seen to be worse."""
    return " ".join(_controls(of, head, wrong) for head, of in _by_outcome(rows).items())


def _by_outcome(rows: Sequence[Row]) -> dict[str, list[Row]]:
    by_outcome: dict[str, list[Row]] = {}
    for row in rows:
        by_outcome.setdefault(row["outcome"], []).append(row)
    return by_outcome


def _conclusion(rows: Sequence[Row], head: str, unit: str) -> str:
    """Helps where it beats random rows and random features alike: what beats chance alone may owe
    it to more or longer rows, whatever they fire."""
    of = [row for row in rows if row["arm"] == FILLING]
    chance, shuffled = (
        {row["size"]: row for row in of if row["against"] == other} for other in (RANDOM, SHUFFLED)
    )

    def sizes(which: Sequence[int]) -> str:
        return f"{', '.join(map(str, which))} {unit}"

    better = [n for n, row in chance.items() if row["low"] > 0]
    sure = [n for n in better if shuffled[n]["low"] > 0]
    worse = [n for n, row in chance.items() if row["high"] < 0]
    if worse:
        verdict = f"filling gaps does harm at {sizes(worse)}"
    elif sure:
        verdict = f"filling gaps helps at {sizes(sure)}"
    elif better:
        verdict = (
            f"rows that fill gaps beat random rows at {sizes(better)}, but no more than rows "
            "chosen by the features of others, so it need not be what they fire that helps"
        )
    else:
        verdict = "whether filling gaps helps cannot be told"
    figures = "; ".join(
        f"{n} {unit} {in_words(row)}, beside random features {in_words(shuffled[n])}"
        for n, row in chance.items()
    )
    parts = [f"{head[0].upper()}{head[1:]}: {verdict} ({figures})."]
    written: dict[str, list[Row]] = {}
    for row in rows:
        if row["arm"].startswith(WRITTEN):
            written.setdefault(row["arm"], []).append(row)
    return " ".join([*parts, *(of_written(each, unit=unit) for each in written.values())])


def _controls(of: Sequence[Row], head: str, wrong: str) -> str:
    visible = [row for row in of if row["arm"] == MORE and row["low"] > 0]
    false = [row for row in of if row["arm"] == NULL and not row["low"] <= 0 <= row["high"]]
    sizes = len({row["size"] for row in of})
    which = [row for row in of if (row["arm"], row["against"]) == (FILLING, RANDOM)]
    width = min((row["high"] - row["low"]) / 2 for row in which)
    worse = [row for row in of if row["arm"] == wrong and row["high"] < 0]
    seen = f"{wrong}, are seen to be worse at {len(worse)}, " if wrong else ""
    return (
        f"{head[0].upper()}{head[1:]}: twice the tokens are seen to help at {len(visible)} of "
        f"{sizes} sizes, {seen}another draw of random rows differs at {len(false)}; "
        f"differences below about {width:.3f} cannot be seen."
    )
