"""What features are said to be: whose text is preferred, its scores, and what people say of it.

A person's correction goes before a language model's or an imported explanation, and those before
what the tokens say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fac import review
from fac.config import EXPLAINERS, digest
from fac.questions.catalogue import Row, anchor_of, labels, measured
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.runs import Runs

STATUS_NAMES = {
    "cannot_tell": "cannot tell",
    "unreadable": "reply unreadable",
    "failed": "no reply",
}
"""Why an explainer gave no text."""


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


def names(stores: Stores, run: str, features: Sequence[int]) -> dict[int, str]:
    """What features are called: a correction, else a language model's or an imported explanation,
    else the tokens they peak on."""
    by_feature = labels(stores, run, features)
    runs = [
        each
        for each in explained(stores, run)
        if not EXPLAINERS[explainer_of(stores, each)].needs_nothing
    ]
    if runs:
        rows, _ = stores.cache.features_page(run, ids=features, limit=len(features), explained=runs)
        by_feature |= {row["feature"]: row["explanation"] for row in rows if row["explanation"]}
    corrected = corrections(stores, run)
    return by_feature | {f: corrected[f] for f in features if f in corrected}


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


def explanations_of(stores: Stores, run: str, feature: int) -> list[Explanation]:
    """Explanations of a feature side by side, preferred first."""
    return [
        _explanation(stores, explained_measure(stores, explain_run), feature, row)
        for explain_run in explained(stores, run)
        for row in stores.cache.explanations(explain_run, [feature])
    ]


def _explanation(stores: Stores, measure: str, feature: int, row: dict[str, Any]) -> Explanation:
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
    )
