"""What an experiment says: its figures with intervals, a sentence, and whether to believe it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from fac.config import EXPERIMENTS, ExperimentSpec
from fac.experiments import Experiment
from fac.questions.catalogue import Row
from fac.store import Stores
from fac.store.memo import remembered_for_good


class Finding(NamedTuple):
    """What an experiment amounts to."""

    rows: list[Row]
    """The rows of EXPERIMENT_EFFECTS; `figures` has the means over draws of what else was measured
    of an arm, by name."""

    conclusion: str
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
    kind: Experiment = EXPERIMENTS[manifest.spec.name]
    rows = stores.runs.table(run, "effects").to_pylist()
    about = ["outcome", "size", "arm", "figure"]
    results = stores.runs.table(run, "results", [*about, "value"])
    means: dict[tuple[str, int, str], dict[str, float]] = defaultdict(dict)
    for mean in results.group_by(about).aggregate([("value", "mean")]).to_pylist():
        means[mean["outcome"], mean["size"], mean["arm"]][mean["figure"]] = mean["value_mean"]
    for row in rows:
        row["figures"] = means[row["outcome"], row["size"], row["arm"]]
    return Finding(rows, *kind.says(rows, manifest.facts, manifest.spec))
