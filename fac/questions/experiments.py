"""What an experiment says: its figures with intervals, a sentence, and whether to believe it."""

from __future__ import annotations

from typing import Any, NamedTuple

from fac.config import ExperimentSpec
from fac.experiments.arms import FILLING, MORE, NULL, RANDOM, SHUFFLED
from fac.questions.catalogue import Row
from fac.store import Stores
from fac.store.memo import remembered_for_good

WHICH = FILLING, RANDOM


class Finding(NamedTuple):
    """What an experiment amounts to."""

    rows: list[Row]
    """One a head, size and arm: head, labels, arm, against (random rows of equal tokens; rows that
    fill gaps also stand beside random features), auprc, difference, low and high; and fac, rows and
    tokens, means over draws."""

    conclusion: str
    """Whether filling gaps helps, in a sentence a head."""

    controls: str
    """What the controls say of the instrument."""

    note: str
    """What was left out."""


def experiments(stores: Stores, measure: str | None = None) -> list[Any]:
    """Manifests of finished experiments, the newest first, of one measured dataset if named."""
    manifests = stores.runs.list(ExperimentSpec.step)
    return [m for m in manifests if measure in (None, m.inputs.measure)]


@remembered_for_good
def finding(stores: Stores, run: str) -> Finding:
    """What a run of `fac experiment` says. Raises RunNotFound for one that is gone."""
    manifest: Any = stores.runs.manifest(run)
    facts, spec = manifest.facts, manifest.spec
    rows = stores.runs.table(run, "effects").to_pylist()
    results = stores.runs.table(run, "results", ["head", "labels", "arm", "fac", "rows", "tokens"])
    means = results.group_by(["head", "labels", "arm"]).aggregate(
        [("fac", "mean"), ("rows", "mean"), ("tokens", "mean")]
    )
    by_arm = {(m["head"], m["labels"], m["arm"]): m for m in means.to_pylist()}
    for row in rows:
        mean = by_arm[row["head"], row["labels"], row["arm"]]
        row |= {name: mean[f"{name}_mean"] for name in ("fac", "rows", "tokens")}
    heads = [*dict.fromkeys(row["head"] for row in rows)]
    return Finding(
        rows,
        " ".join(_conclusion(rows, head) for head in heads),
        " ".join(_controls(rows, head) for head in heads),
        _note(facts, spec),
    )


def _conclusion(rows: list[Row], head: str) -> str:
    """Helps where it beats random rows and random features alike: what beats chance alone may owe
    it to more or longer rows, whatever they fire."""
    of = [row for row in rows if row["head"] == head and row["arm"] == FILLING]
    chance, shuffled = (
        {row["labels"]: row for row in of if row["against"] == other}
        for other in (RANDOM, SHUFFLED)
    )
    better = [n for n, row in chance.items() if row["low"] > 0]
    sure = [n for n in better if shuffled[n]["low"] > 0]
    worse = [n for n, row in chance.items() if row["high"] < 0]
    if worse:
        verdict = f"Filling gaps does harm at {_sizes(worse)}"
    elif sure:
        verdict = f"Filling gaps helps at {_sizes(sure)}"
    elif better:
        verdict = (
            f"Rows that fill gaps beat random rows at {_sizes(better)}, but no more than rows "
            "chosen by the features of others, so it need not be what they fire that helps"
        )
    else:
        verdict = "Whether filling gaps helps cannot be told"
    figures = "; ".join(
        f"{n} labels {_difference(row)}, beside random features {_difference(shuffled[n])}"
        for n, row in chance.items()
    )
    return f"{head[0].upper()}{head[1:]}: {verdict[0].lower()}{verdict[1:]} ({figures})."


def _sizes(labels: list[int]) -> str:
    return f"{', '.join(map(str, labels))} labels"


def _controls(rows: list[Row], head: str) -> str:
    """Whether the instrument sees what is there, and nothing where nothing is."""
    of = [row for row in rows if row["head"] == head]
    visible = [row for row in of if row["arm"] == MORE and row["low"] > 0]
    false = [row for row in of if row["arm"] == NULL and not row["low"] <= 0 <= row["high"]]
    sizes = len({row["labels"] for row in of})
    widths = [(r["high"] - r["low"]) / 2 for r in of if (r["arm"], r["against"]) == WHICH]
    return (
        f"{head[0].upper()}{head[1:]}: twice the tokens are seen to help at {len(visible)} of "
        f"{sizes} sizes, another draw of random rows differs at {len(false)}; differences below "
        f"about {min(widths):.3f} cannot be seen."
    )


def _difference(row: Row) -> str:
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _note(facts: Any, spec: Any) -> str:
    parts = [
        f"{facts.n_rows:,} labelled rows, {facts.n_positive:,} of them {spec.label!r}; "
        f"{facts.n_test:,} test, of which {facts.base_rate:.2f} is what guessing reaches."
    ]
    left = {
        "rows that nearly repeat a test row": facts.n_leaks,
        "rows without a label": facts.n_unlabelled,
    }
    left_out = [f"{what} ({n:,})" for what, n in left.items() if n]
    if left_out:
        parts.append(f"Left out: {', '.join(left_out)}.")
    parts.append("Where no row fills a gap any more, random rows take the tokens that are left.")
    return " ".join(parts)
