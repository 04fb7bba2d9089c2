"""Features of a measure run -> families of them, with names, and a map, as one immutable run."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac import families, layout
from fac.config import FamiliesSpec
from fac.coverage import everywhere_relevant, is_active
from fac.errors import Progress
from fac.manifest import FamiliesFacts
from fac.schema import EVERY_ROLE, FAMILIES, FAMILY_NAMES, FEATURE_MAP, ROLES
from fac.store.runs import Runs, write_table
from fac.store.samples import read_samples

if TYPE_CHECKING:
    from scipy.sparse import csr_array

METHOD = "average linkage of Jaccard beyond chance, its map by stretches, 1"
"""Names the run: another way of grouping, naming or drawing is another run."""

NEIGHBOURS = 10
"""Of each feature that are kept, and that it is laid out by."""

STRETCH = 32
"""Tokens of a text in which peaks lie together, on the map."""

MAP_FLOOR = 0.01
"""Where not all pairs are compared, features less alike than this are no neighbours."""

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
        alike = families.compared(pairs, asked, progress=progress)
        progress(1, 1, "joining what is alike")
        family = np.full(pairs.shape[1], -1, np.int32)
        family[asked] = families.grouped(alike, len(asked))
        del alike, pairs  # a quarter of a gigabyte where all pairs are compared
        places, recall = feature_map(spec, runs, asked, progress=progress)
        progress(1, 1, "naming families")
        names = family_names(spec, runs, family)
        members = np.flatnonzero(family >= 0)
        members = members[np.argsort(family[members], kind="stable")]
        scratch = runs.scratch(run_id)
        rows = pa.table({"family": family[members], "feature": members})
        write_table(scratch / "families.parquet", rows, FAMILIES)
        rows = pa.table({"family": np.arange(len(names)), "name": pa.array(names, pa.string())})
        write_table(scratch / "names.parquet", rows, FAMILY_NAMES)
        write_table(scratch / "map.parquet", places, FEATURE_MAP)
        facts = FamiliesFacts(
            name=runs.manifest(spec.measure).facts.name,
            measure=spec.measure,
            n_features=len(asked),
            n_families=len(names),
            n_members=len(members),
            n_unnamed=names.count(""),
            nearest=families.NEAREST if len(asked) > families.EXACT else 0,
            n_firing=int((support > 0).sum()),
            n_on_map=len(places),
            recall=recall,
        )
        seconds = time.monotonic() - begun
        runs.publish(run_id, spec=spec, inputs=[spec.measure], facts=facts, seconds=seconds)
    return run_id


def feature_map(
    spec: FamiliesSpec, runs: Runs, features: np.ndarray, *, progress: Progress = lambda *_: None
) -> tuple[pa.Table, float | None]:
    """Where features lie that peak in the same stretch of text as others, and which those are, as
    schema.FEATURE_MAP has it; and which share of these there is (families.recall), None where all
    pairs are compared. `features` are their ids `[n]`, ascending.

    Stretches, not samples as for families: in a long chat of many topics nearly everything fires.
    On 2,000 chats of the corpus the map is nearly twice as coherent so (python -m
    benchmarks.families).
    """
    pairs = incidence(spec, runs, stretch=STRETCH)
    alike = families.compared(
        pairs, features, floor=MAP_FLOOR, nearest=2 * NEIGHBOURS, progress=progress
    )
    neighbours, likeness = families.nearest_of(alike, len(features), NEIGHBOURS)
    is_all = isinstance(alike, np.ndarray)
    del alike
    recall = None if is_all else families.recall(pairs, features, neighbours)
    del pairs
    rows = np.flatnonzero(neighbours[:, 0] >= 0)
    number = np.full(len(features) + 1, -1, np.int32)  # the last is that of nobody, -1
    number[rows] = np.arange(len(rows), dtype=np.int32)
    near, alike = number[neighbours[rows]], likeness[rows]

    def drawn(share: float) -> None:
        progress(round(100 * share), 100, "laying out the map")

    drawn(0.0)
    xy = layout.by_likeness(near, alike, progress=drawn)
    ids = features[rows]
    some = [(n[n >= 0], a[n >= 0]) for n, a in zip(near, alike, strict=True)]
    places = pa.table(
        {
            "feature": ids,
            "x": xy[:, 0],
            "y": xy[:, 1],
            "neighbours": pa.array([ids[n[:NEIGHBOURS]] for n, _ in some], pa.list_(pa.int32())),
            "likeness": pa.array([a[:NEIGHBOURS] for _, a in some], pa.list_(pa.float32())),
        }
    )
    return places, recall


def incidence(spec: FamiliesSpec, runs: Runs, *, stretch: int = 0) -> csr_array:
    """Which sample fires which feature, of those that were read: bool `[n_read, n_features]`. With
    a `stretch`, a number of tokens: which part of one role's text that long has a feature's peak,
    of the parts that have any, in the order of samples."""
    from scipy.sparse import csr_array

    facts = runs.manifest(spec.measure).facts
    number = np.cumsum(read_samples(runs, spec.measure)) - 1
    columns = ["sample", "feature", "peak", "role", *(["position"] if stretch else [])]
    rows, features = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    parts = runs.manifest(spec.measure).spec.max_tokens // stretch + 1 if stretch else 1
    for batch in runs.batches(spec.measure, "activations", columns=columns, rows=ROWS):
        fires = is_active(batch.column("peak").to_numpy(), spec.threshold)
        role = pc.index_in(batch.column("role").cast(pa.string()), pa.array(ROLES)).to_numpy()
        if spec.role != EVERY_ROLE:
            fires &= role == ROLES.index(spec.role)
        row = number[batch.column("sample").to_numpy()[fires]]
        if stretch:
            row = (row * len(ROLES) + role[fires]) * parts
            row += batch.column("position").to_numpy()[fires] // stretch
        row = row.astype(np.int32, copy=False)
        rows.append(row)
        features.append(batch.column("feature").to_numpy()[fires])
    row, feature = np.concatenate(rows), np.concatenate(features)
    del rows, features  # as large again
    n_rows = facts.n_read
    if stretch:
        there = np.zeros(n_rows * len(ROLES) * parts, bool)
        there[row] = True
        row, n_rows = (np.cumsum(there, dtype=np.int32) - 1)[row], int(there.sum())
    shape = (n_rows, facts.n_features)
    pairs = csr_array((np.ones(len(row), bool), (row, feature)), shape=shape)
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
