"""What features are said to be: whose text is preferred, its scores, and what people say of it.

A person's correction goes before a language model's or an imported explanation, and those before
what the tokens say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from fac import review
from fac.config import EXPLAINERS, SCORERS, digest
from fac.datasets import json_line
from fac.interpret.imported import AUTHOR, AUTHORS, in_counts, sae_id
from fac.questions.catalogue import Row, anchor_of, measured
from fac.schema import LEAST_SCORED
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.runs import Runs

STATUS_NAMES = {
    "cannot_tell": "cannot tell",
    "unreadable": "reply unreadable",
    "failed": "no reply",
}
"""Why an explainer gave no text."""

LONGEST_NAME = 60
"""Characters of an explanation that is a name too; of a longer one the tokens it is about are."""

UNKNOWN = "unknown"
"""What a feature is called whose explanation may be a guess, before the tokens it peaks on."""

PERSON = "person"
"""The method of what a person wrote in an explanation's place, outside."""

GUESSING = 0.5
"""What every score comes to on average where the explanation says nothing."""


def explain_runs(runs: Runs, measure: str) -> list[str]:
    """The explain runs about a measure run, whose texts to prefer first: by their explainer, and
    the newest first among equals."""
    manifests = [m for m in runs.list("explain") if m.inputs.measure == measure]
    manifests.sort(key=lambda m: EXPLAINERS[m.spec.explainer].preference)
    return [m.run for m in manifests]


def explained(stores: Stores, run: str) -> list[str]:
    """The explain runs about the features of a measure run that can be shown, preferred first.

    They were made on the run itself or on its anchor: a feature means the same in both.
    """
    if run not in measured(stores):
        return []
    measures = (anchor_of(stores, run), run)
    ids = dict.fromkeys(each for m in measures for each in explain_runs(stores.runs, m))
    ready = [each for each in ids if stores.cache.ready(each)]
    return sorted(ready, key=lambda each: EXPLAINERS[explainer_of(stores, each)].preference)


def explainer_of(stores: Stores, explain_run: str) -> str:
    """One of EXPLAINERS."""
    return str(stores.runs.manifest(explain_run).spec.explainer)


def explained_measure(stores: Stores, explain_run: str) -> str:
    """The measure run whose features it explains."""
    return stores.runs.manifest(explain_run).inputs.measure


def corrections(stores: Stores, run: str) -> dict[int, str]:
    """What people wrote in an explanation's place, by feature."""
    corrected = _corrected(stores, explained(stores, run))
    return {feature: text for _, feature, text in reversed(corrected)}


def _corrected(stores: Stores, explain_runs: Sequence[str]) -> list[tuple[str, int, str]]:
    return [
        (measure, feature, text)
        for measure in dict.fromkeys(explained_measure(stores, each) for each in explain_runs)
        for feature, text in review.corrections(stores.decisions, measure).items()
    ]


def texts(stores: Stores, run: str, *, every: bool = False) -> list[tuple[str, int, str]]:
    """(measure run, feature, text) of what features are said to be, corrections first.

    One text a feature, the preferred one, or with `every` all that differ.
    """
    explain_runs = explained(stores, run)
    chosen: dict[tuple[int, str], tuple[str, int, str]] = {}
    for measure, feature, text in _corrected(stores, explain_runs):
        chosen.setdefault((feature, text if every else ""), (measure, feature, text))
    for explain_run in explain_runs:
        measure = explained_measure(stores, explain_run)
        for feature, text in _texts(stores, explain_run):
            chosen.setdefault((feature, text if every else ""), (measure, feature, text))
    return list(chosen.values())


@remembered_for_good
def _texts(stores: Stores, explain_run: str) -> list[tuple[int, str]]:
    return stores.cache.texts(explain_run)


class Name(NamedTuple):
    """What a feature is called, on every page and by every command."""

    text: str
    """"" where it fires neither in the anchor nor in the run."""

    doubt: str = ""
    """Why it counts as unknown; "" where it does not."""


def named(
    stores: Stores, anchor: str, features: Sequence[int], *, run: str | None = None
) -> dict[int, Name]:
    """What features are called, from the anchor: what a person wrote, else the preferred
    explanation, else the tokens on which they peak there, which also stand for an explanation of
    more than LONGEST_NAME characters. Where they are silent there, the tokens on which they peak in
    `run`, which the name then says.

    An explanation that may be a guess, because it has no held-out score or the 95 % interval of its
    score reaches down to 0.5, is no name: the feature is "unknown", with the tokens it peaks on.
    """
    by_feature = {**_named(stores, anchor, tuple(explained(stores, anchor)), tuple(features))}
    corrected = corrections(stores, anchor)
    by_feature |= {
        feature: Name(corrected[feature]) for feature in features if feature in corrected
    }
    silent = [feature for feature in features if not by_feature[feature].text]
    if silent and run not in (None, anchor):
        of_run = _named(stores, run, (), tuple(silent))
        where = stores.runs.manifest(run).facts.name
        by_feature |= {f: Name(f"{text} (in {where})") for f, (text, _) in of_run.items() if text}
    return by_feature


def names(
    stores: Stores, anchor: str, features: Sequence[int], *, run: str | None = None
) -> dict[int, str]:
    """The texts of `named`."""
    by_feature = named(stores, anchor, features, run=run)
    return {feature: name.text for feature, name in by_feature.items()}


def with_names(
    stores: Stores, anchor: str, rows: Sequence[Row], *, run: str | None = None
) -> list[Row]:
    """Rows about a `feature` each, with its `name`."""
    by_feature = names(stores, anchor, [row["feature"] for row in rows], run=run)
    return [{**row, "name": by_feature[row["feature"]]} for row in rows]


@remembered_for_good
def _named(
    stores: Stores, measure: str, explain_runs: tuple[str, ...], features: tuple[int, ...]
) -> dict[int, Name]:
    """Names without what people wrote."""
    size = stores.cache.summary(measure)["n_features"]
    of_it = np.array([feature for feature in features if 0 <= feature < size], np.int64)
    rows = stores.cache.described(measure, of_it, explained=explain_runs).to_pylist()
    return dict.fromkeys(features, Name("")) | {row["feature"]: _name_of(row) for row in rows}


def _name_of(row: Row) -> Name:
    peaks = row["label"] or ""
    if not row["explanation"]:
        return Name(peaks)
    if doubt := _doubt_of(row):
        return Name(f"{UNKNOWN}: {peaks}" if peaks else UNKNOWN, doubt)
    is_name = len(row["explanation"]) <= LONGEST_NAME or not peaks
    return Name(row["explanation"] if is_name else peaks)


def _doubt_of(row: Row) -> str:
    """Why an explanation may be a guess; "" where it is better than one."""
    claim = f"Explained as “{row['explanation']}”"
    if row["score"] is None:
        few = row["n_samples"] < LEAST_SCORED
        why = f": fewer than {LEAST_SCORED} samples of the anchor fire it" if few else ""
        return f"{claim}, which has no score on held-out samples{why}."
    score = f"{SCORERS[row['score_kind']].title} {row['score']:.2f}"
    if row["score_low"] is None:
        return f"{claim}, whose {score} has no interval."
    if row["score_low"] <= GUESSING:
        interval = f"95 % interval from {row['score_low']:.2f}"
        return f"{claim}, which may be a guess: {score}, {interval}; {GUESSING} is guessing."
    return ""


def score_figures(stores: Stores, explain_run: str) -> Row:
    """What an explain run's scores come to: `scores`, by name the `n` features that have one and
    their `median`; `too_few`, the features that fire in too few samples for an AUROC; `by_length`,
    the median AUROC of a text's length alone on the same samples, None in runs of earlier versions.

    Raises NotReady where the run has no cache.
    """
    table = stores.cache.score_rows(explain_run)
    by_score: dict[str, Row] = {}
    for name in sorted(set(table["score"].to_pylist())):
        values = table.filter(pc.equal(table["score"], name))["value"].drop_null().to_numpy()
        if len(values):
            by_score[name] = {"n": len(values), "median": float(np.median(values))}
    facts = stores.runs.manifest(explain_run).facts
    too_few = facts.too_few
    if too_few is None:
        both = pc.and_(pc.greater(table["n_positive"], 0), pc.less(table["n_positive"], table["n"]))
        withheld = pc.and_(pc.equal(table["score"], "auroc"), pc.is_null(table["value"]))
        too_few = pc.sum(pc.and_(both, withheld)).as_py() or 0
    return {"scores": by_score, "too_few": too_few, "by_length": facts.by_length}


def imports_in_words(stores: Stores, run: str) -> list[str]:
    """What became of the rows of files that explain features of a measure run, a line a file and
    author, where some were left out or something is open."""
    lines = []
    for explain_run in explained(stores, run):
        manifest = stores.runs.manifest(explain_run)
        facts, author = manifest.facts, manifest.spec.author
        counts = {kind: n for kind, n in (facts.left_out or {}).items() if kind != AUTHOR}
        left_out = f"left out {in_counts(counts)}." if counts else ""
        if EXPLAINERS[facts.explainer].needs_file and (left_out or facts.note):
            by = f" by {author}" if author else ""
            lines.append(" ".join(filter(None, (f"{facts.source}{by}:", left_out, facts.note))))
    return lines


class Outgoing(NamedTuple):
    """Explanations as they leave a workspace."""

    rows: list[Row]
    """In Neuronpedia's form, by feature, preferred first; `fac explain` imports them."""
    left_out: Counter[str]
    """The other explanations, by why."""


def outgoing(stores: Stores, run: str) -> Outgoing:
    """Every explanation of a measure run's features that can be shown: of each author the newest of
    a feature. What a person wrote is by `person`; who that was stays here."""
    facts = stores.runs.manifest(run).facts
    texts: dict[tuple[int, str, str], str] = {}
    left_out: Counter[str] = Counter()
    explain_runs = explained(stores, run)
    every = [(f, "", PERSON, text) for _, f, text in _corrected(stores, explain_runs)]
    for explain_run in explain_runs:
        for row in stores.runs.table(explain_run, "explanations").to_pylist():
            if row["text"] is None:
                left_out[STATUS_NAMES.get(row["status"], row["status"])] += 1
                continue
            every.append((row["feature"], *_author_of(row), row["text"]))
    for feature, model, method, text in every:
        if texts.setdefault((feature, model, method), text) != text:
            left_out["older, of the same author"] += 1
    about: Row = {"modelId": facts.model_name, "layer": sae_id(facts)}
    rows: list[Row] = [
        {**about, "index": str(feature), "description": text, **dict(zip(AUTHORS, by, strict=True))}
        for (feature, *by), text in sorted(texts.items(), key=lambda item: item[0][0])
    ]
    return Outgoing(rows, left_out)


def _author_of(row: Row) -> tuple[str, str]:
    """Model and method of an explanation; those of its file, where it was imported."""
    inputs = json.loads(row["inputs"] or "{}")
    if EXPLAINERS[row["explainer"]].needs_file and any(inputs.get(name) for name in AUTHORS):
        return inputs.get(AUTHORS[0], ""), inputs.get(AUTHORS[1], "")
    return row["source"], "" if EXPLAINERS[row["explainer"]].needs_file else row["explainer"]


def outgoing_lines(stores: Stores, run: str) -> str:
    """The rows of `outgoing` as JSON lines."""
    return "".join(f"{json_line(row)}\n" for row in outgoing(stores, run).rows)


def n_explained(stores: Stores, anchor: str) -> int:
    """Features of a run that somebody or something gave a name."""
    return len({feature for _, feature, _ in texts(stores, anchor)})


class Explanation(NamedTuple):
    """One explanation of one feature, with what people said about it."""

    explainer: str
    source: str
    """Model, method or file."""
    text: str | None
    why_not: str
    """Why there is no text."""
    scores: list[Row]
    """score, value, low, high, n of every score; value None where undefined."""
    standing: review.Standing
    """What people's verdicts amount to."""
    item: str
    """The digest under which it is reviewed."""
    by_length: float | None
    """Median AUROC that the length of a text alone reaches on the features of its run; None where
    that was not measured."""


def explanations_of(stores: Stores, run: str, feature: int) -> list[Explanation]:
    """Explanations of a feature side by side, preferred first."""
    return [
        _explanation(stores, explain_run, feature, row)
        for explain_run in explained(stores, run)
        for row in stores.cache.explanations(explain_run, [feature])
    ]


def _explanation(
    stores: Stores, explain_run: str, feature: int, row: dict[str, Any]
) -> Explanation:
    measure = explained_measure(stores, explain_run)
    seen = digest(review.explanation_content(measure, feature, row["text"]))
    about = review.subject("explanation", measure, feature)
    decisions = stores.decisions.current("explanation", subject=about)
    status = STATUS_NAMES.get(row["status"], row["status"])
    why_not = f"{status}: {row['reason']}" if row["reason"] else status
    return Explanation(
        row["explainer"],
        row["source"],
        row["text"],
        "" if row["text"] else why_not,
        [{"score": name, **score} for name, score in row["scores"].items()],
        review.standing([d for d in decisions if d.seen == seen]),
        seen,
        stores.runs.manifest(explain_run).facts.by_length,
    )
