"""Which features tell a label apart: firing rates with and without it, tested exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fac.errors import InputError
from fac.interpret.evidence import firing_features, firing_samples
from fac.interpret.parts import Judge
from fac.interpret.step_run import JudgeRun, Row

LEVELS_BY_Q = ((0.01, "yes"), (0.05, "probably"), (0.2, "maybe"))
"""Level of a feature that fires more often with the label, by its false discovery rate. Ours."""

PART = 4096  # features read at once


def _judge(run: JudgeRun) -> Iterator[list[Row]]:
    """One row of schema.RELEVANCE per feature of the run that fires, ascending.

    p is Fisher's exact probability that a feature fires at least as often among the labelled
    samples if the label did not matter (one-sided, hypergeometric tail); q is Benjamini-Hochberg's
    over all features that fire, so that asking for fewer does not make them look better. Unlabelled
    samples take no part. Raises InputError for a label nobody, or everybody, carries.
    """
    from scipy.stats import false_discovery_control, hypergeom

    runs, measure, label = run.runs, run.spec.measure, run.spec.label
    facts = runs.manifest(measure).facts
    labels = runs.table(facts.dataset, "samples", ["label"])["label"].to_pylist()
    labelled = np.array([value is not None for value in labels])
    carries = np.array([value == label for value in labels])
    n, with_label = int(labelled.sum()), int(carries.sum())
    if with_label in (0, n):
        names = sorted({value for value in labels if value is not None})[:8]
        raise InputError(
            f"The label {label!r} must divide the samples, but {with_label:,} of {n:,} labelled "
            f"ones carry it; labels here: {', '.join(names) or 'none'}."
        )
    fires_with, fires = np.zeros((2, facts.n_features), np.int64)
    alive = np.array(firing_features(runs, measure))
    for start in range(0, len(alive), PART):
        part = alive[start : start + PART].tolist()
        for feature, samples in firing_samples(runs, measure, part).items():
            fires[feature] = labelled[samples].sum()
            fires_with[feature] = carries[samples].sum()
    fires, fires_with = fires[alive], fires_with[alive]
    p = hypergeom.sf(fires_with - 1, n, with_label, fires)
    columns = {
        "feature": alive,
        "effect": fires_with / with_label - (fires - fires_with) / (n - with_label),
        "p": p,
        "q": false_discovery_control(np.clip(p, 0.0, 1.0)),
        "n_with": fires_with,
        "n_without": fires - fires_with,
    }
    rows = pa.table(columns).to_pylist()
    features = set(run.features)
    for row in rows:
        levels = (level for limit, level in LEVELS_BY_Q if row["effect"] > 0 and row["q"] <= limit)
        row |= {"level": next(levels, "no"), "rationale": "", "prompt_hash": ""}
    yield [row for row in rows if row["feature"] in features]


JUDGE = Judge(title="The data's labels", judge=_judge, preference=1, needs_label=True)
