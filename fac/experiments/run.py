"""A spec -> what its experiment measured, piece by piece, as one immutable run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fac.config import EXPERIMENTS, ExperimentSpec
from fac.errors import Progress
from fac.experiments.lora import Answers, Classify, Finetune
from fac.experiments.steering import Steering
from fac.manifest import ExperimentFacts
from fac.schema import EXPERIMENT_EFFECTS, EXPERIMENT_RESULTS, Chat
from fac.store.runs import Runs, write_table

PIECE = pa.schema(
    [
        *(EXPERIMENT_RESULTS.field(name) for name in ("outcome", "size", "draw", "arm")),
        ("figures", pa.map_(pa.string(), pa.float64())),
        ("scores", pa.list_(pa.float32())),  # of what judges, where effects need them
    ]
)
"""What a part keeps of a piece."""

Row = dict[str, Any]

States = Callable[[Sequence[Chat]], np.ndarray]
"""The mean residual stream of texts, float32 `[n, d_model]`."""


class Piece(NamedTuple):
    """What is measured at once, and kept before the next one begins."""

    text: str  # for people: "20 labels, draw 3"
    size: int
    draw: int
    arm: str = ""  # where an arm is a piece of its own


class Doors(NamedTuple):
    """What only who holds models can give."""

    states: States
    finetune: Finetune | None = None
    classify: Classify | None = None
    answers: Answers | None = None
    steer: Steering | None = None


class Says(NamedTuple):
    """What an experiment amounts to, in sentences."""

    conclusion: str
    controls: str  # what the controls say of the instrument
    note: str  # what was left out


@dataclass(frozen=True)
class Experiment:
    """One experiment."""

    title: str
    """The question, for people."""

    value: str
    """What effects are in: "AUPRC"."""

    columns: Mapping[str, str]
    """Figures that stand beside effects, by their titles."""

    pieces: Callable[[ExperimentSpec], Sequence[Piece]]

    material: Callable[[ExperimentSpec, Runs, Doors, Path], Any]
    """What is worked on; keeps in the folder what is dear to read twice."""

    measure: Callable[[ExperimentSpec, Any, Piece], Iterable[Row]]
    """The rows of PIECE of one piece; `figures` is a mapping."""

    effects: Callable[[ExperimentSpec, Any, list[Row]], list[Row]]
    """The rows of EXPERIMENT_EFFECTS of all of them."""

    facts: Callable[[Any], Mapping[str, Any]]
    """Fields of ExperimentFacts."""

    says: Callable[[list[Row], ExperimentFacts, ExperimentSpec], Says]
    """Sentences for rows of EXPERIMENT_EFFECTS, each with `figures`, the means over draws."""

    takes: Sequence[str] = ()
    """Of `written`, `full` and `prompts`, fields of the spec, those that mean something here."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a spec has by default that is not ExperimentSpec's own default, by its field."""

    ranked: bool = True
    """Whether arms stand by what they do; else, as of temperatures, in their own order."""

    label: Literal["looked for", "begun with", ""] = "looked for"
    """What rows of the spec's label are: examples of what is looked for, those one begins with
    where a label is named, or nothing that matters."""

    check: Callable[[ExperimentSpec, Runs], object] = lambda spec, runs: None
    """Raises InputError for data that cannot answer, before anything is queued: reads no model."""

    preference: int = 0


def experiment(spec: ExperimentSpec, *, runs: Runs, doors: Doors, progress: Progress) -> str:
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
        progress(0, len(pieces), "reading the rows")
        data = kind.material(spec, runs, doors, scratch)
        rows: list[Row] = []
        seconds: dict[bool, list[float]] = {True: [], False: []}  # by whether it is one arm alone
        for number, piece in enumerate(pieces):
            progress(number, len(pieces), piece.text)
            path = scratch / f"piece-{number:05}.parquet"
            if not path.exists():
                piece_begun = time.monotonic()
                table = pa.Table.from_pylist([*kind.measure(spec, data, piece)], PIECE)
                part = path.with_suffix(".part")
                pq.write_table(table, part)
                part.rename(path)
                seconds[bool(piece.arm)].append(time.monotonic() - piece_begun)
            rows += pq.read_table(path).to_pylist(maps_as_pydicts="strict")
        progress(len(pieces), len(pieces), "comparing the arms")
        effects = pa.Table.from_pylist(kind.effects(spec, data, rows), EXPERIMENT_EFFECTS)
        for path in (*scratch.glob("piece-*.parquet"), *scratch.glob("*.npy")):
            path.unlink()
        write_table(scratch / "results.parquet", _results(rows), EXPERIMENT_RESULTS)
        write_table(scratch / "effects.parquet", effects, EXPERIMENT_EFFECTS)
        facts = ExperimentFacts(
            name=runs.manifest(spec.measure).facts.name,
            measure=spec.measure,
            experiment=spec.name,
            seconds=time.monotonic() - begun,
            piece_seconds=float(np.mean(seconds[False])) if seconds[False] else 0.0,
            arm_seconds=float(np.mean(seconds[True])) if seconds[True] else 0.0,
            **kind.facts(data),
        )
        runs.publish(
            run_id,
            spec=spec,
            inputs=[spec.measure],
            facts=facts,
            seconds=time.monotonic() - begun,
        )
    return run_id


def _results(rows: Sequence[Row]) -> pa.Table:
    about = ("outcome", "size", "draw", "arm")
    table = pa.Table.from_pylist(
        [
            {**{name: row[name] for name in about}, "figure": figure, "value": value}
            for row in rows
            for figure, value in row["figures"].items()
        ],
        EXPERIMENT_RESULTS,
    )
    return table.sort_by([(name, "ascending") for name in about[:3]])
