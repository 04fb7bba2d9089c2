"""What an experiment says: its figures with intervals, a sentence, and whether to believe it."""

from __future__ import annotations

from typing import Any, NamedTuple

from fac.config import ExperimentSpec
from fac.questions.catalogue import Row
from fac.store import Stores
from fac.store.memo import remembered_for_good

QUESTION = "rows that fill gaps"
NULL, MORE = "random rows again", "twice the tokens"


class Finding(NamedTuple):
    """What an experiment amounts to."""

    rows: list[Row]
    """One a head, size and arm: head, labels, arm, auprc, difference from random rows of equal
    tokens, low and high; and fac, rows and tokens, means over draws."""

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
    of = [row for row in rows if row["head"] == head and row["arm"] == QUESTION]
    better = [row for row in of if row["low"] > 0]
    worse = [row for row in of if row["high"] < 0]
    figures = "; ".join(f"{row['labels']} labels {_difference(row)}" for row in of)
    if better and not worse:
        at = ", ".join(str(row["labels"]) for row in better)
        verdict = f"Filling gaps helps at {at} labels"
    elif worse and not better:
        at = ", ".join(str(row["labels"]) for row in worse)
        verdict = f"Filling gaps does harm at {at} labels"
    elif better:
        verdict = "Filling gaps helps at some sizes and does harm at others"
    else:
        verdict = "Whether filling gaps helps cannot be told"
    return f"{verdict} ({head}; AUPRC beside random rows of equal tokens: {figures})."


def _controls(rows: list[Row], head: str) -> str:
    """Whether the instrument sees what is there, and nothing where nothing is."""
    of = [row for row in rows if row["head"] == head]
    visible = [row for row in of if row["arm"] == MORE and row["low"] > 0]
    false = [row for row in of if row["arm"] == NULL and not row["low"] <= 0 <= row["high"]]
    sizes = len({row["labels"] for row in of})
    smallest = min((row["high"] - row["low"]) / 2 for row in of if row["arm"] == QUESTION)
    return (
        f"{head[0].upper()}{head[1:]}: twice the tokens are seen to help at {len(visible)} of "
        f"{sizes} sizes, another draw of random rows differs at {len(false)}; differences below "
        f"about {smallest:.3f} cannot be seen."
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
    return " ".join(parts)
