"""A spec -> what its experiment measured, piece by piece, as one immutable run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fac.config import EXPERIMENTS, ExperimentSpec
from fac.errors import Progress
from fac.experiments.material import Material, States, material
from fac.manifest import ExperimentFacts
from fac.schema import EXPERIMENT_EFFECTS, EXPERIMENT_RESULTS
from fac.store.runs import Runs, write_table

SCORES = pa.schema([*EXPERIMENT_RESULTS, ("scores", pa.list_(pa.float32()))])
"""A result with the scores of the test rows, as a part keeps them."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One experiment."""

    title: str
    """The question, for people."""

    pieces: Callable[[ExperimentSpec], list[tuple[int, int]]]
    """(labels, draw) of each piece."""

    measure: Callable[[ExperimentSpec, Material, int, int], Iterator[Row]]
    """The rows of SCORES of one piece."""

    effects: Callable[[ExperimentSpec, Material, list[Row]], list[Row]]
    """The rows of EXPERIMENT_EFFECTS of all of them."""

    preference: int = 0


def experiment(spec: ExperimentSpec, *, runs: Runs, states: States, progress: Progress) -> str:
    """Carry out an experiment; returns the run's id. Finished pieces are kept, so that a stopped
    one goes on, with the same tables.

    Raises RunNotFound for a measure that is gone, InputError for data that cannot answer.
    """
    runs.manifest(spec.measure)
    run_id = spec.run_id(spec.measure)
    if runs.find(run_id):
        return run_id
    kind: Experiment = EXPERIMENTS[spec.name]
    with runs.exclusive(run_id):
        begun, scratch = time.monotonic(), runs.scratch(run_id)
        pieces = kind.pieces(spec)
        progress(0, len(pieces), "reading the labelled rows")
        data = material(spec, runs, states, scratch)
        rows: list[Row] = []
        for number, (labels, draw) in enumerate(pieces):
            progress(number, len(pieces), f"{labels} labels, draw {draw + 1}")
            path = scratch / f"piece-{labels}-{draw}.parquet"
            if not path.exists():
                table = pa.Table.from_pylist([*kind.measure(spec, data, labels, draw)], SCORES)
                part = path.with_suffix(".part")
                pq.write_table(table, part)
                part.rename(path)
            rows += pq.read_table(path).to_pylist()
        progress(len(pieces), len(pieces), "comparing the arms")
        effects = pa.Table.from_pylist(kind.effects(spec, data, rows), EXPERIMENT_EFFECTS)
        results = pa.Table.from_pylist(rows, SCORES).select(EXPERIMENT_RESULTS.names)
        order = [(name, "ascending") for name in ("head", "labels", "draw")]
        for path in (*scratch.glob("piece-*.parquet"), scratch / "states.npy"):
            path.unlink()
        write_table(scratch / "results.parquet", results.sort_by(order), EXPERIMENT_RESULTS)
        write_table(scratch / "effects.parquet", effects, EXPERIMENT_EFFECTS)
        facts = ExperimentFacts(
            name=runs.manifest(spec.measure).facts.name,
            measure=spec.measure,
            experiment=spec.name,
            n_rows=len(data.positive),
            n_positive=int(data.positive.sum()),
            n_test=len(data.test),
            n_leaks=data.n_leaks,
            n_unlabelled=data.n_unlabelled,
            base_rate=float(data.positive[data.test].mean()),
            seconds=time.monotonic() - begun,
        )
        runs.publish(
            run_id,
            spec=spec,
            inputs=[spec.measure],
            facts=facts,
            seconds=time.monotonic() - begun,
        )
    return run_id
