"""Spans -> explanations -> their scores on held-out samples -> relevance to a task. Each is one
immutable run, which holds the held-out test of every feature and every reply that was paid for.

    step_run  what the two steps share      evidence  what is known of a feature, and its test
    imported  explanations of a file, row by row
    parts     what explainers, scorers and judges are, which stand in folders, one file each
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from fac.config import ExplainSpec, JudgeSpec
from fac.errors import InputError, Progress
from fac.generator.batch_chat import Question
from fac.interpret import imported, parts
from fac.interpret.explainers import tokens
from fac.interpret.parts import FeatureExplanation, OpenExplainer
from fac.interpret.step_run import Blocks, ExplainRun, OpenChat, Rehearsal, StepRun
from fac.manifest import ExplainFacts, RelevanceFacts
from fac.schema import LEAST_SCORED
from fac.store.runs import Runs

SILENT = "of features that do not fire in it, or were not asked for"
"""Why rows of a file are left out that fit the run's dictionary."""


def explain(spec: ExplainSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Explain features of a measure run and score it on held-out samples; returns the run's id.

    `ask` opens the chat model of the spec. Raises BudgetReached, Cancelled or ServiceError after
    publishing what is complete; InputError for features or files that do not fit.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if spec.model else None
    earlier = spec.explanations

    def opened() -> OpenExplainer:
        return (
            _earlier(spec, runs) if earlier else parts.EXPLAINERS[spec.explainer].open(spec, runs)
        )

    explainer = opened()
    source = spec.model or Path(spec.source).name or explainer.source
    # ids of all explain runs have named the token statistics, whoever explains
    versions = [explainer.version, tokens.METHOD]
    inputs = [spec.measure, *([earlier] if earlier else [])]
    run = StepRun(spec, runs, chat, progress, inputs=inputs, versions=versions)
    return run.perform(
        lambda each: _blocks(each, explainer if each is run else opened(), source),
        ExplainFacts(explainer=spec.explainer, source=source),
        tables=("explanations", "scores", "examples", *(["rejected"] if explainer.rows else [])),
        count="status",
        verb="explained",
    )


def by_author(spec: ExplainSpec, runs: Runs) -> list[ExplainSpec]:
    """The spec; or of a file with several authors one for each, the one of most rows first. Raises
    as `imported.read`."""
    if spec.author or spec.explanations or not parts.EXPLAINERS[spec.explainer].needs_file:
        return [spec]
    rows = imported.read(spec.source, runs.manifest(spec.measure).facts)
    authors = [author for author, _ in rows.authors.most_common()]
    return [replace(spec, author=author) for author in authors] if len(authors) > 1 else [spec]


def questions_of(spec: ExplainSpec | JudgeSpec, runs: Runs) -> list[Question]:
    """What a language model would be asked, as far as that can be known before it answers: where a
    score is about an explanation to come, another stands for it. Nobody is asked."""
    if isinstance(spec, JudgeSpec):
        judging = Rehearsal(spec, runs)
        for _ in parts.JUDGES[spec.judge].judge(judging):
            pass
        return judging.questions
    rehearsal = Rehearsal(spec, runs)
    explainer = (
        _earlier(spec, runs)
        if spec.explanations
        else parts.EXPLAINERS[spec.explainer].open(spec, runs)
    )
    for _ in _blocks(rehearsal, explainer, ""):
        pass
    return rehearsal.questions


def _earlier(spec: ExplainSpec, runs: Runs) -> OpenExplainer:
    """Takes over the explanations of the run that the spec scores."""
    manifest = runs.manifest(spec.explanations)
    if manifest.step != ExplainSpec.step or manifest.inputs.measure != spec.measure:
        raise InputError(
            f"{spec.explanations} does not explain features of {spec.measure}: name a run of "
            f"`fac explain` on the same measure."
        )
    rows = runs.table(spec.explanations, "explanations").to_pylist()
    return parts.repeating({row.pop("feature"): FeatureExplanation(**row) for row in rows})


def _blocks(run: ExplainRun, explainer: OpenExplainer, source: str) -> Blocks:
    spec, rows = run.spec, explainer.rows
    rejected = rows.rejected if rows else []
    unasked = [name for name, scorer in parts.SCORERS.items() if not scorer.needs_model]
    scorers = [parts.SCORERS[name] for name in (*unasked, *spec.scores)]
    n_explained = 0
    values: dict[str, list[float]] = {}
    by_length: list[float] = []
    too_few = 0
    for items in run.evidence(texts=bool(spec.model)):  # only a model reads the texts of the test
        explanations = explainer.explain(run, items)
        for item in items:
            if item.feature in explanations:
                explanations[item.feature].examples = item.examples
                explanations[item.feature].n_firing = len(item.firing)
        for scorer in scorers:
            scorer.score(run, explanations)
        n_explained += len(explanations)
        scores = [score for explanation in explanations.values() for score in explanation.scores]
        for score in scores:
            if score["value"] is not None:
                values.setdefault(score["score"], []).append(score["value"])
        by_length += [e.by_length for e in explanations.values() if e.by_length is not None]
        predicted = (e for e in explanations.values() if e.prediction)
        too_few += sum(e.n_firing < LEAST_SCORED for e in predicted)
        yield {
            "explanations": [
                {
                    **vars(each),
                    "feature": feature,
                    "explainer": each.explainer or spec.explainer,
                    "source": each.source or source,
                }
                for feature, each in explanations.items()
            ],
            "scores": scores,
            "examples": [row for each in explanations.values() for row in each.examples],
            **({"rejected": rejected} if rejected else {}),
        }
        rejected = []
    left_out = Counter(rows.left_out) if rows else Counter()
    if rows and run.stopped is None:
        left_out[SILENT] = len(rows.by_feature) - n_explained
    return {
        "silent": None if run.stopped else len(run.features) - n_explained,
        "scores": {
            name: {"n": len(numbers), "median": float(np.median(numbers))}
            for name, numbers in sorted(values.items())
        },
        "too_few": too_few or None,
        "by_length": float(np.median(by_length)) if by_length else None,
        "left_out": dict((+left_out).most_common()) or None,
        "note": " ".join(rows.doubts) or None if rows else None,
    }


def judge(spec: JudgeSpec, *, runs: Runs, ask: OpenChat, progress: Progress) -> str:
    """Judge which features of a measure run matter for a task; returns the run's id.

    Raises as `explain` does; InputError for a label no sample carries.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    judge = parts.JUDGES[spec.judge]
    chat = ask() if judge.needs_model else None
    source = chat.identity if chat else spec.judge
    if judge.needs_label:
        of = f" of {runs.manifest(spec.labels).facts.name}" if spec.labels else ""
        above = f", peaks above {spec.threshold:g}" if spec.threshold else ""
        source = f"label {spec.label}{of}{above}"
    run = StepRun(spec, runs, chat, progress, inputs=[spec.measure, *spec.explanations])
    return run.perform(
        lambda each: ({"relevance": rows} for rows in judge.judge(each)),
        RelevanceFacts(task=spec.task, judge=spec.judge, source=source),
        tables=("relevance",),
        count="level",
        verb="judged",
    )
