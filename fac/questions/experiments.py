"""What can be asked of labelled data, what that takes, and what an experiment says: its figures
with intervals, a sentence, and whether to believe it."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from fac.config import EXPERIMENTS, ExperimentSpec, IngestSpec
from fac.errors import InputError
from fac.experiments import Experiment
from fac.experiments.verifiable import KINDS_COLUMN
from fac.ingest import OTHER_LABELS
from fac.manifest import MeasureManifest
from fac.questions.catalogue import Row, measured
from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.queue import Job

LOOKED_FOR = ("1", "true", "yes")
"""Labels that say by their name that they are what is looked for."""

SUFFICE = 3
"""A beginning needs so many times its rows to choose others from."""


# --- before -----------------------------------------------------------------------------------


def askable(stores: Stores, name: str) -> dict[str, MeasureManifest]:
    """Measured datasets that an experiment could be about, by run id, newest first: those whose
    rows are labelled, where it looks for a label."""
    looks = EXPERIMENTS[name].label == "looked for"
    return {
        run: each for run, each in measured(stores).items() if not looks or labels_of(stores, run)
    }


def could_be_arms(stores: Stores, measure: str) -> list[str]:
    """Measures, by the same encoder, of datasets whose rows could be an arm beside those of a
    measured dataset: first those that a synthesis wrote, then the newest."""
    every = measured(stores)
    encoder = every[measure].facts.encoder
    others = [run for run, each in every.items() if each.facts.encoder == encoder]

    def is_synthetic(run: str) -> bool:
        dataset = every[run].facts.dataset
        return bool(stores.runs.find(dataset)) and stores.runs.manifest(dataset).facts.is_synthetic

    return sorted((run for run in others if run != measure), key=lambda run: not is_synthetic(run))


def labels_of(stores: Stores, measure: str) -> dict[str, int]:
    """Rows by label of a measured dataset, most common first; of very many labels the first that
    were read."""
    dataset = stores.runs.manifest(measure).facts.dataset
    if not stores.runs.find(dataset):
        return {}
    labels = stores.runs.manifest(dataset).facts.labels
    return {name: n for name, n in labels.items() if name != OTHER_LABELS}


def prompts_of(stores: Stores) -> dict[str, str]:
    """Names of the datasets whose first prompt has verifiable constraints, by run id, the newest
    first."""
    manifests = stores.runs.list(IngestSpec.step)
    return {each.run: each.facts.name for each in manifests if _has_constraints(stores, each.run)}


@remembered_for_good
def _has_constraints(stores: Stores, dataset: str) -> bool:
    first = next(stores.runs.batches(dataset, "samples", columns=["meta"], rows=1), None)
    metas = [] if first is None else first.column(0).to_pylist()
    return any(KINDS_COLUMN in json.loads(meta).get("columns", {}) for meta in metas)


def usual_label(labels: dict[str, int]) -> str:
    """What is looked for unless somebody says otherwise: what is called so, else the rarest."""
    return next((name for name in LOOKED_FOR if name in labels), [*labels][-1])


def rows_of(stores: Stores, name: str, measure: str) -> int:
    """How many rows of a dataset an experiment can be about: those with a label where it looks for
    one, else all."""
    if EXPERIMENTS[name].label == "looked for":
        return sum(labels_of(stores, measure).values())
    return stores.runs.manifest(measure).facts.n_read


def usual_sizes(n_rows: int, test: float = ExperimentSpec.test) -> tuple[int, ...]:
    """Those of the usual beginnings for which a dataset has rows enough; the smallest where it has
    for none."""
    usual, train = ExperimentSpec.labels, (1 - test) * n_rows
    return tuple(size for size in usual if SUFFICE * size <= train) or usual[:1]


def read_sizes(text: str) -> tuple[int, ...]:
    """Sizes of beginnings as they were typed, ascending. Raises InputError for what are none."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise InputError(f"Sizes are numbers such as 20,50,100, got {text!r}.") from None


COUNTS: Mapping[str, int] = {"draws": 2, "subsets": 30}
"""Fields of a spec that may say how many pieces there are, and the least each takes."""


def counts_of(name: str) -> list[str]:
    """Those of COUNTS that say how many pieces an experiment of this kind has."""
    kind: Experiment = EXPERIMENTS[name]
    spec = ExperimentSpec(name=name, measure="", label="", threshold=0)
    here = {each.name for each in fields(spec)} & COUNTS.keys()
    usual = len(kind.pieces(spec))
    return [
        count
        for count in COUNTS
        if count in here
        and len(kind.pieces(replace(spec, **{count: getattr(spec, count) + 1}))) != usual
    ]


def obstacle(stores: Stores, spec: ExperimentSpec) -> str:
    """Why this cannot be asked, as a sentence; "" where it can as far as labels say: that too many
    rows resemble a test row shows when they are read."""
    kind: Experiment = EXPERIMENTS[spec.name]
    try:
        kind.check(spec, stores.runs)
    except InputError as error:
        return str(error)
    if not stores.cache.support(spec.measure, spec.threshold, EVERY_ROLE).any():
        return f"No feature fires above {spec.threshold:g}: choose a lower threshold."
    return ""


class Estimate(NamedTuple):
    """What an experiment takes."""

    pieces: int
    seconds: float | None
    """Of all pieces, as fast as they went in an earlier experiment of the kind, in proportion to
    the labelled rows; None where there was none."""

    like: str
    """The dataset of that experiment."""


def estimate(stores: Stores, spec: ExperimentSpec) -> Estimate:
    """What a spec takes on this machine, beside reading the rows with the model once."""
    kind: Experiment = EXPERIMENTS[spec.name]
    pieces = kind.pieces(spec)
    rows = rows_of(stores, spec.name, spec.measure)
    timed = (
        m
        for m in experiments(stores)
        if m.spec.name == spec.name and m.facts.piece_seconds + m.facts.arm_seconds > 0
    )
    before = min(timed, key=lambda m: m.inputs.measure != spec.measure, default=None)
    if before is None:
        return Estimate(len(pieces), None, "")
    facts = before.facts
    all_arms, one_arm = facts.piece_seconds, facts.arm_seconds
    seconds = sum((one_arm or all_arms) if each.arm else (all_arms or one_arm) for each in pieces)
    return Estimate(len(pieces), seconds * rows / (facts.n_rows or rows), facts.name)


def jobs_of(jobs: Sequence[Job]) -> list[Job]:
    """The experiments among jobs."""
    return [job for job in jobs if job.step == ExperimentSpec.step]


def stopped_experiment(stores: Stores) -> Job | None:
    """The newest experiment, where it ended before its end and its dataset is still measured."""
    last = max(jobs_of(stores.queue.jobs()), key=lambda job: job.id, default=None)
    if last is None or last.status not in ("failed", "cancelled"):
        return None
    return last if stores.runs.find(last.spec["measure"]) else None


def asked_in_words(stores: Stores, job: Job) -> str:
    """What a job of an experiment asks of which dataset."""
    facts = stores.runs.manifest(job.spec["measure"]).facts
    sizes = ", ".join(map(str, job.spec["labels"]))
    return f"{EXPERIMENTS[job.spec['name']].title} {facts.name}, begun with {sizes}."


# --- after ------------------------------------------------------------------------------------


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


IN_QUESTION, ITS_CONTROL, CONTEXT = "question", "control", "context"
"""The arm that an experiment is about, the control that it must beat too, and all others."""


class Group(NamedTuple):
    """One arm in a figure, at every size."""

    title: str
    standing: str  # IN_QUESTION, ITS_CONTROL or CONTEXT
    rows: list[Row]  # by size, ascending; `difference` from `low` to `high`


class Panel(NamedTuple):
    """One outcome in a figure."""

    outcome: str
    base: str  # the arm at zero; what is held equal, or "", where values stand alone
    groups: list[Group]
    is_beside: bool = True
    """Whether `base` is an arm, from which values differ."""


def panels(rows: Sequence[Row], *, ranked: bool = True) -> list[Panel]:
    """Effects as they are drawn: a panel an outcome and what several arms are set beside, with the
    arms that do best first where they are `ranked`, else as the experiment has them.

    What is no arm is what was held equal for values that stand alone. What one arm alone is set
    beside has no panel: it stands as a group of its own in the panel of what most arms are. If it
    is set beside that too, it is the arm in question and the other its control. An arm beside
    itself is what zero is, and not drawn.
    """
    by_outcome: dict[str, list[Row]] = {}
    arms = {(row["outcome"], row["arm"]) for row in rows}
    for row in rows:
        if row["arm"] != row["against"]:
            by_outcome.setdefault(row["outcome"], []).append(row)
    order = _order(rows) if ranked else {}
    return [
        Panel(outcome, base, _groups(members, base, order), (outcome, base) in arms)
        for outcome, of in by_outcome.items()
        for base, members in _by_base(of).items()
    ]


def _by_base(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of one outcome by what is zero for them; values that stand alone under ""."""
    arms: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        arms[row["against"]].add(row["arm"])
    most = max(arms, key=lambda against: (against != "", len(arms[against])))
    members: dict[str, list[Row]] = {most: []}
    for row in rows:
        against = row["against"]
        base = against if against == "" or len(arms[against]) > 1 else most
        members.setdefault(base, []).append(row)
    return members


def _groups(rows: Sequence[Row], base: str, order: Mapping[tuple[str, str], int]) -> list[Group]:
    by_arm: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_arm.setdefault((row["arm"], row["against"]), []).append(row)
    control = {
        arm: against
        for arm, against in by_arm
        if against != base and {(arm, base), (against, base)} <= by_arm.keys()
    }

    def group(arm: str, against: str) -> Group:
        standing = CONTEXT
        if arm in control:
            standing = IN_QUESTION
        elif arm in control.values():
            standing = ITS_CONTROL
        title = arm if against == base else f"{arm}, from {against}"
        members = sorted(by_arm[arm, against], key=lambda row: row["size"])
        return Group(title, standing, members)

    places = [*dict.fromkeys(arm for arm, _ in by_arm)]
    ranked = sorted(
        by_arm, key=lambda key: (order.get((key[0], base), 0), places.index(key[0]), key[1] != base)
    )
    return [group(*key) for key in ranked]


def _order(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    """The place of every arm among those set beside the same, by its mean difference over outcomes
    and sizes, the highest first: all panels have one order."""
    differences: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        differences[row["arm"], row["against"]].append(row["difference"])
    means = {key: sum(values) / len(values) for key, values in differences.items()}
    return {key: n for n, key in enumerate(sorted(means, key=lambda key: -means[key]))}


def interval_words(row: Row) -> str:
    """A difference, or a value that stands alone, with its interval; "" for an arm beside itself,
    which is zero."""
    if row["arm"] == row["against"]:
        return ""
    difference, low, high = (
        f"{round(row[n], 3) + 0.0:+.3f}" for n in ("difference", "low", "high")
    )
    return f"{difference} ({low} to {high})"


def as_csv(result: Finding) -> str:
    """All figures of an experiment, a row an outcome, size, arm and what it is set beside."""
    about = ("outcome", "size", "arm", "against", "value", "difference", "low", "high", "p")
    figures = [*dict.fromkeys(name for row in result.rows for name in row["figures"])]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*about, *figures])
    for row in result.rows:
        writer.writerow([*(row[n] for n in about), *(row["figures"].get(n) for n in figures)])
    return file.getvalue()
