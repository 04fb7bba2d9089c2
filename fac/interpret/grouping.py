"""Features of a measure run -> families of them, with names, as one immutable run."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac import families
from fac.config import FamiliesSpec
from fac.coverage import everywhere_relevant, is_active
from fac.errors import Progress
from fac.manifest import FamiliesFacts
from fac.schema import EVERY_ROLE, FAMILIES, FAMILY_NAMES
from fac.store.runs import Runs, write_table

if TYPE_CHECKING:
    from scipy.sparse import csr_array

METHOD = "average linkage of Jaccard beyond chance, 1"
"""Names the run: another way of grouping or naming is another run."""

ROWS = 1_000_000  # of activations, read at once
SPANS = 8192  # spans, likewise


def group(spec: FamiliesSpec, *, runs: Runs, progress: Progress) -> str:
    """Group the features of a measure run that fire together; returns the run's id.

    Raises RunNotFound for a measure that is gone.
    """
    runs.manifest(spec.measure)
    run_id = spec.run_id(spec.measure, METHOD)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        progress(0, 1, "reading what fires")
        pairs = incidence(spec, runs)
        support = pairs.sum(axis=0, dtype=np.int64)
        asked = np.flatnonzero(everywhere_relevant(support, pairs.shape[0], spec.min_support))
        family = families.group(pairs, asked, progress=progress)
        progress(1, 1, "naming families")
        names = family_names(spec, runs, family)
        members = np.flatnonzero(family >= 0)
        members = members[np.argsort(family[members], kind="stable")]
        scratch = runs.scratch(run_id)
        rows = pa.table({"family": family[members], "feature": members})
        write_table(scratch / "families.parquet", rows, FAMILIES)
        rows = pa.table({"family": np.arange(len(names)), "name": pa.array(names, pa.string())})
        write_table(scratch / "names.parquet", rows, FAMILY_NAMES)
        facts = FamiliesFacts(
            name=runs.manifest(spec.measure).facts.name,
            measure=spec.measure,
            n_features=len(asked),
            n_families=len(names),
            n_members=len(members),
            n_unnamed=names.count(""),
            nearest=families.NEAREST if len(asked) > families.EXACT else 0,
        )
        seconds = time.monotonic() - begun
        runs.publish(run_id, spec=spec, inputs=[spec.measure], facts=facts, seconds=seconds)
    return run_id


def incidence(spec: FamiliesSpec, runs: Runs) -> csr_array:
    """Which sample fires which feature: bool `[n_samples, n_features]`."""
    from scipy.sparse import csr_array

    facts = runs.manifest(spec.measure).facts
    columns = ["sample", "feature", "peak", "role"]
    samples, features = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for batch in runs.batches(spec.measure, "activations", columns=columns, rows=ROWS):
        fires = is_active(batch.column("peak").to_numpy(), spec.threshold)
        if spec.role != EVERY_ROLE:
            role = batch.column("role").cast(pa.string())
            fires &= pc.equal(role, spec.role).to_numpy(zero_copy_only=False)
        samples.append(batch.column("sample").to_numpy()[fires])
        features.append(batch.column("feature").to_numpy()[fires])
    sample, feature = np.concatenate(samples), np.concatenate(features)
    shape = (facts.n_samples, facts.n_features)
    pairs = csr_array((np.ones(len(sample), bool), (sample, feature)), shape=shape)
    pairs.sum_duplicates()  # a feature may fire in several roles of a sample
    return pairs


def family_names(spec: FamiliesSpec, runs: Runs, family: np.ndarray) -> list[str]:
    """What each family is called, by its members' strongest spans; "" where nothing is common."""
    words: dict[int, Counter[str]] = {}
    columns = ["feature", "kind", "role", "peak_index", "tokens"]
    for batch in runs.batches(spec.measure, "spans", columns=columns, rows=SPANS):
        spans = pa.Table.from_batches([batch])
        spans = spans.filter(pc.equal(spans["kind"], "top"))
        for span in spans.drop_columns("kind").to_pylist():
            if spec.role in (EVERY_ROLE, span["role"]) and (
                word := families.peak_word(span["tokens"], span["peak_index"])
            ):
                words.setdefault(span["feature"], Counter())[word] += 1
    everywhere = Counter(word for each in words.values() for word in each)
    members: dict[int, list[Counter[str]]] = {}
    for feature in np.flatnonzero(family >= 0).tolist():
        members.setdefault(int(family[feature]), []).append(words.get(feature, Counter()))
    return [families.name_of(members[n], everywhere, len(words)) for n in range(len(members))]
