"""Which features matter: all, those for a task by its judge and by people, or those of a file.

A person's verdict goes before the judge's, unless that person cannot tell.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fac import coverage, review
from fac.config import JUDGES, JudgeSpec
from fac.errors import BadRow, InputError
from fac.prompts.relevance import TASKS, TaskProfile, read_tasks
from fac.questions.catalogue import Row
from fac.questions.explanations import explain_runs
from fac.schema import (
    CANNOT_TELL,
    EVERY_FEATURE,
    EVERY_ROLE,
    LEVELS,
    RELEVANT,
    SURELY_RELEVANT,
    UNREADABLE,
)
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.runs import Runs

FEW = 10
"""Relevant features of an anchor below which one of them moves coverage by more than 10 points."""


@dataclass(frozen=True)
class Relevance:
    """Which features count, with people's verdicts of today in the judge's place. It holds all that
    the answer rests on, so answers can be remembered by it."""

    name: str = EVERY_FEATURE
    """EVERY_FEATURE, the name of a task, or the file that lists the features."""

    run: str = ""
    """The judge's run, so that a newer one is another relevance."""

    verdicts: tuple[tuple[int, str], ...] = ()
    """What people decided: (feature, level)."""

    features: tuple[int, ...] = ()
    """What the file lists."""

    maybe: bool = False
    """Whether what is maybe relevant to the task counts too."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Those of schema.LEVELS that count."""
        return RELEVANT if self.maybe else SURELY_RELEVANT


def task_profiles(runs: Runs) -> dict[str, TaskProfile]:
    """The built-in task profiles and those of the workspace's tasks.toml, by name.

    Raises InputError for a file that is no text or that fac.prompts.relevance.read_tasks refuses.
    """
    path = runs.workspace.tasks
    if not path.is_file():
        return TASKS
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as such.") from error
    return {**TASKS, **read_tasks(text)}


def relevance_runs(runs: Runs, measure: str) -> dict[str, str]:
    """For each task its newest relevance run about a measure run, or where it has none about any
    other of the same encoder, whose features are the same; tasks in alphabetical order."""
    encoders = {manifest.run: manifest.facts.encoder for manifest in runs.list("measure")}
    by_task: dict[str, str] = {}
    for manifest in sorted(runs.list("relevance"), key=lambda m: m.inputs.measure != measure):
        about = manifest.inputs.measure
        if about == measure or encoders.get(about, "") == encoders.get(measure):
            by_task.setdefault(manifest.spec.task, manifest.run)
    return dict(sorted(by_task.items()))


def judged_anew(runs: Runs, spec: JudgeSpec) -> JudgeSpec:
    """The spec, as another attempt where these labels were asked before and something newer stands
    in that judgement's place: who asks last is right. A language model is not paid twice."""
    if not JUDGES[spec.judge].needs_label:
        return spec
    attempts: dict[str, int] = {
        manifest.run: manifest.spec.attempt
        for manifest in runs.list("relevance")
        if replace(manifest.spec, attempt=spec.attempt) == spec
    }
    if not attempts:
        return spec
    in_use = relevance_runs(runs, spec.measure).get(spec.task, "")
    return replace(spec, attempt=attempts.get(in_use, max(attempts.values()) + 1))


def judged(stores: Stores, anchor: str, *, maybe: bool = False) -> dict[str, Relevance]:
    """The tasks with a relevance run that can be shown, with people's verdicts of today."""
    return {
        task: _judged(stores, anchor, task, run, maybe)
        for task, run in relevance_runs(stores.runs, anchor).items()
        if stores.cache.ready(run)
    }


def _judged(stores: Stores, anchor: str, task: str, run: str, maybe: bool) -> Relevance:
    standings = _people(stores, anchor, task, run)
    levels = [(feature, s.verdict) for feature, s in standings.items() if s.verdict]
    return Relevance(task, run, tuple(sorted(levels)), maybe=maybe)


def _people(stores: Stores, anchor: str, task: str, run: str = "") -> dict[int, review.Standing]:
    """What people settled about an anchor's features, and before that about those of the measure
    run that the judge's `run` is about."""
    standings: dict[int, review.Standing] = {}
    about = stores.runs.manifest(run).inputs.measure if run else anchor
    if about != anchor and stores.cache.ready(about):
        standings = people_verdicts(stores, about, task)
    return standings | people_verdicts(stores, anchor, task)


def people_verdicts(stores: Stores, measure: str, task: str) -> dict[int, review.Standing]:
    """What people settled, by feature, about relevance to a task: of what is shown today.

    A verdict on an explanation or a rubric that has changed since does not count; the feature is
    undecided again.
    """
    runs, cache, decisions = stores.runs, stores.cache, stores.decisions
    features = [*review.relevance_overrides(decisions, measure, task)]
    if not features:
        return {}
    profile = task_profiles(runs).get(task)
    explained = [run for run in explain_runs(runs, measure) if cache.ready(run)]
    rows, _ = cache.features_page(measure, ids=features, limit=len(features), explained=explained)
    texts = {row["feature"]: row["explanation"] for row in rows}
    texts |= review.corrections(decisions, measure)
    rubric = profile.rubric if profile else ()
    contents = [
        review.relevance_content(measure, feature, task, rubric, texts.get(feature) or None)
        for feature in features
    ]
    return review.relevance_overrides(decisions, measure, task, contents)


def read_relevance(stores: Stores, anchor: str, name: str, *, maybe: bool = False) -> Relevance:
    """What a person means by `name`: EVERY_FEATURE, a task by its newest relevance run on the
    anchor, or a file of feature ids. `maybe` says something of a task alone.

    The file is a JSON list, or has one id per line, bare or as {"feature": id}; a file with the
    name of a task is "./NAME". Raises InputError for a task that was not judged and, with the line,
    for what is no id of this dictionary.
    """
    if name == EVERY_FEATURE:
        return Relevance()
    runs_by_task, profiles = relevance_runs(stores.runs, anchor), task_profiles(stores.runs)
    if name in runs_by_task:
        return _judged(stores, anchor, name, runs_by_task[name], maybe)
    about = stores.cache.summary(anchor)
    if name in profiles:
        raise InputError(
            f"No features of {about['name']} are judged for the task {name!r} yet: run "
            f"`fac judge {about['name']} --task {name}`, or take `all`."
        )
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"{name!r} is neither a task nor a file: take `all`, one of the tasks "
            f"{', '.join(sorted({*profiles, *runs_by_task}))}, or a file with one feature id per "
            "line."
        )
    n_features, features = about["n_features"], set()
    for line, feature in listed_ids(path):
        if not 0 <= feature < n_features:
            raise BadRow(line, f"{path} names feature {feature}; ids run to {n_features - 1}.")
        features.add(feature)
    if not features:
        raise InputError(f"{path} names no feature: write one id per line.")
    return Relevance(name, features=tuple(sorted(features)))


@remembered_for_good
def relevant_set(
    stores: Stores, anchor: str, relevance: Relevance, role: str = EVERY_ROLE
) -> np.ndarray:
    """The relevant features F as bool `[n_features]`, the same at every threshold.

    EVERY_FEATURE leaves out what fires in nearly every sample of the anchor at all
    (fac.coverage.everywhere_relevant on every stored peak). A task takes what its judge puts on one
    of the levels that count, except where a person decided; one who cannot tell leaves the
    judge's.
    Raises InputError for a verdict on what is no feature, or that is no level.
    """
    about = stores.cache.summary(anchor)
    n_features = about["n_features"]
    if relevance.name == EVERY_FEATURE:
        n_anchor = stores.cache.support(anchor, about["thresholds"][0], role)
        n_read = stores.runs.manifest(anchor).facts.n_read
        return coverage.everywhere_relevant(n_anchor, n_read)
    if not relevance.run:
        relevant = np.zeros(n_features, bool)
        relevant[list(relevance.features)] = True
        return relevant
    relevant = stores.cache.relevant(relevance.run, n_features, relevance.levels).copy()
    for feature, level in relevance.verdicts:
        if not 0 <= feature < n_features or level not in (*LEVELS, CANNOT_TELL):
            raise InputError(
                f"A decision puts feature {feature} on {level!r}: ids run to {n_features - 1}, "
                f"levels are {', '.join(LEVELS)}; withdraw it or correct the imported file."
            )
        if level != CANNOT_TELL:
            relevant[feature] = level in relevance.levels
    return relevant


@remembered_for_good
def scope(stores: Stores, anchor: str, relevance: Relevance, n_shown: int | None = None) -> str:
    """How much a figure within a task or a file speaks of, as a sentence; "" for every feature.

    "100 %, nothing is missing" says little where one feature counts, and nothing where none does.
    `n_shown` are the relevant features that the anchor shows at the settings in use
    (CoverageResult.n_anchor); without it, those that it fires at all.
    """
    if relevance.name == EVERY_FEATURE:
        return ""
    n_relevant = int(relevant_set(stores, anchor, relevance).sum())
    fires = _fires(stores, anchor)
    n_alive = int(fires.sum())
    where = "" if n_shown is None else " at these settings"
    if n_shown is None:
        n_shown = int((relevant_set(stores, anchor, relevance) & fires).sum())
    what = f"for {relevance.name}" if relevance.run else f"by {relevance.name}"
    if not n_relevant:
        return f"No feature is relevant {what}: nothing can be covered or missing, so no figure."
    counted = f"{n_relevant:,} features are" if n_relevant > 1 else "1 feature is"
    if not n_shown:
        return (
            f"{counted} relevant {what}, but the anchor fires none of them{where}: "
            "nothing can be covered or missing; take an anchor that shows the task."
        )
    counts = "counts" if n_shown == 1 else "count"
    of_anchor = f"{n_shown:,} of the {n_alive:,} that the anchor fires {counts}{where}"
    sentence = f"{counted} relevant {what}: {of_anchor}"
    if n_relevant > n_alive / 2:
        return f"{sentence}; more than half hardly tells the task from the rest."
    if n_shown < FEW:
        each = "all or nothing" if n_shown == 1 else f"in steps of {100 / n_shown:.0f} points"
        return f"{sentence}, so coverage moves {each}."
    return f"{sentence}."


def limits_of(stores: Stores, anchor: str, relevance: Relevance, n_shown: int) -> str:
    """What stands beside every figure within a task: `scope` and what is `unjudged`; else ""."""
    sentences = (scope(stores, anchor, relevance, n_shown), unjudged(stores, anchor, relevance))
    return " ".join(filter(None, sentences))


@remembered_for_good
def unjudged(stores: Stores, anchor: str, relevance: Relevance) -> str:
    """What a judge left out, as a sentence; "" where it spoke of every feature that fires.

    Coverage within a task is about the features somebody was asked about, and no others.
    """
    if not relevance.run:
        return ""
    fires = _fires(stores, anchor)
    facts = stores.runs.manifest(relevance.run).facts
    verdicts = stores.runs.table(relevance.run, "relevance", ["feature", "level"])
    by_label = facts.judge in JUDGES and JUDGES[facts.judge].needs_label
    of_anchor = fires[verdicts["feature"].to_numpy()]
    counts = Counter(verdicts["level"].filter(pa.array(of_anchor)).to_pylist())
    clauses = []
    if (n_judged := sum(counts.values())) < (n_alive := int(fires.sum())):
        clauses.append(f"the judge was asked about {n_judged:,} of {n_alive:,} features that fire")
    if by_label and (n_silent := counts[CANNOT_TELL]):
        clauses.append(f"{n_silent:,} features that fire do so in no labelled sample clearly")
    if n_unreadable := counts[UNREADABLE]:
        clauses.append(f"{n_unreadable:,} of its replies could not be read")
    if n_failed := counts["failed"]:
        clauses.append(f"{n_failed:,} never came")
    if not clauses:
        return ""
    limits = ", ".join(clauses)
    return f"For {relevance.name}, {limits}: coverage speaks of the features with a verdict alone."


def _fires(stores: Stores, anchor: str) -> np.ndarray:
    """Features that fire in the anchor at all: bool `[n_features]`."""
    return stores.cache.support(anchor, stores.cache.summary(anchor)["thresholds"][0]) > 0


class TaskVerdict(NamedTuple):
    """What is said about one feature and one task."""

    task: str
    level: str | None
    """The judge's; None where it was not asked about this feature."""
    rationale: str
    person: review.Standing | None
    """What people settled, which goes before the judge."""


def verdicts_of(stores: Stores, anchor: str, feature: int) -> list[TaskVerdict]:
    """Per task what the judge says and what people say; tasks nobody spoke of are left out."""
    verdicts = []
    runs_by_task = {
        task: run
        for task, run in relevance_runs(stores.runs, anchor).items()
        if stores.cache.ready(run)
    }
    for task in dict.fromkeys((*runs_by_task, *task_profiles(stores.runs))):
        rows = stores.cache.relevance(runs_by_task[task], [feature]) if task in runs_by_task else []
        person = _people(stores, anchor, task, runs_by_task.get(task, "")).get(feature)
        if rows or person:
            level, why = (rows[0]["level"], _rationale(rows[0])) if rows else (None, "")
            verdicts.append(TaskVerdict(task, level, why, person))
    return verdicts


def _rationale(row: Row) -> str:
    """A judge's reason: its words, or the label contrast in numbers."""
    if row["rationale"] or row["p"] is None:
        return str(row["rationale"] or "")
    counts = f"{row['n_with']:,} samples with the label, {row['n_without']:,} without"
    return f"{counts}; p {row['p']:.2g}"


def listed_ids(path: Path) -> Iterator[tuple[int, int]]:
    """(line, feature id) of a JSON list or of lines; entries of a list count as lines."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error.reason}): write one id per line.") from error
    if text.lstrip().startswith("["):
        try:
            entries = list(enumerate(json.loads(text), start=1))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} begins like a JSON list but is none: {error}.") from error
    else:
        lines = enumerate(text.splitlines(), start=1)
        entries = [(n, _json_or_text(line)) for n, line in lines if line.strip()]
    for n, entry in entries:
        feature = entry.get("feature") if isinstance(entry, dict) else entry
        if not isinstance(feature, int) or isinstance(feature, bool):
            raise BadRow(n, f"{path} has {str(entry)[:60]!r} where a feature id belongs.")
        yield n, feature


def _json_or_text(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.strip()
