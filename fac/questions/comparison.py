"""A measured dataset against an anchor: coverage, its curve, each role's share, what changed.

An anchor is a measure run, a dataset is a measure run of the same encoder. What the cache counts is
joined with what fac.coverage says about counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fac.coverage import fac, present
from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.relevance import Relevance, relevant_set
from fac.schema import EVERY_ROLE, ROLES, CoverageResult
from fac.store import Stores
from fac.store.memo import remembered_for_good

N_DESCRIBED = 20
"""Features that `changes` describes in full on each side."""


@dataclass(frozen=True)
class Comparison:
    """The question of coverage, as pages and commands ask it."""

    anchor: str
    """Measure run of what could be shown."""

    dataset: str
    """Measure run of what is shown."""

    threshold: float = 0.0
    """A feature fires in a sample when its peak is strictly above."""

    min_support: int = 1
    """Samples of the anchor that must show a feature before the anchor counts as showing it; in the
    dataset one is enough."""

    role: str = EVERY_ROLE
    """Whose tokens count."""

    relevance: Relevance = Relevance()

    added: tuple[str, ...] = ()
    """Measures of what would be added to the dataset: together they show what any of them does."""


def clear_firing(stores: Stores, anchor: str) -> float:
    """The threshold at which a feature fires clearly: the median of the anchor's peaks, one per
    sample and feature, to three significant digits. The default of every page and command."""
    return float(stores.cache.summary(anchor)["clear_firing"])


@remembered_for_good
def coverage(stores: Stores, comparison: Comparison) -> CoverageResult:
    """FAC and F_miss of the dataset against the anchor, within the relevant features.

    Raises InputError when the runs cannot be compared.
    """
    return _within(stores, comparison, _relevant(stores, comparison))


def curve(stores: Stores, comparison: Comparison) -> list[Row]:
    """Coverage at every threshold of the anchor's grid: threshold, fac (NaN where the anchor shows
    nothing), n_anchor, n_covered, n_missing."""
    return _curve(stores, replace(comparison, threshold=0.0))


@remembered_for_good
def _curve(stores: Stores, comparison: Comparison) -> list[Row]:
    relevant = _relevant(stores, comparison)
    _check(stores, comparison)
    return [
        {"threshold": t, **_figures(_at(stores, comparison, relevant, t))}
        for t in stores.cache.summary(comparison.anchor)["thresholds"]
    ]


def telling_threshold(stores: Stores, anchor: str, dataset: str) -> float:
    """Where the anchor has lost nine tenths of its features: beyond, little is left to ask."""
    rows = curve(stores, Comparison(anchor, dataset))
    few = rows[0]["n_anchor"] / 10
    reached = (row["threshold"] for row in rows if row["n_anchor"] < few)
    return max(next(reached, rows[-1]["threshold"]), 0.1)


def telling_curve(stores: Stores, comparison: Comparison) -> list[Row]:
    """The curve as far as telling_threshold."""
    top = telling_threshold(stores, comparison.anchor, comparison.dataset)
    return [row for row in curve(stores, comparison) if row["threshold"] <= top]


def by_role(stores: Stores, comparison: Comparison) -> list[Row]:
    """Coverage counting only one role's tokens, a row per role: role, fac (NaN where the anchor's
    tokens of that role show nothing), n_anchor, n_covered, n_missing. The relevant features are
    those of each role: what fires everywhere differs between them."""
    return _by_role(stores, replace(comparison, role=EVERY_ROLE))


@remembered_for_good
def _by_role(stores: Stores, comparison: Comparison) -> list[Row]:
    rows = []
    for role in ROLES:
        of_role = replace(comparison, role=role)
        result = _within(stores, of_role, _relevant(stores, of_role))
        rows.append({"role": role, **_figures(result)})
    return rows


def _relevant(stores: Stores, comparison: Comparison) -> np.ndarray:
    return relevant_set(stores, comparison.anchor, comparison.relevance, comparison.role)


def _within(stores: Stores, comparison: Comparison, relevant: np.ndarray) -> CoverageResult:
    _check(stores, comparison)
    return _at(stores, comparison, relevant, comparison.threshold)


def _check(stores: Stores, comparison: Comparison) -> None:
    for run in (comparison.dataset, *comparison.added):
        _must_match(stores, comparison.anchor, run, comparison.role)


def _at(
    stores: Stores, comparison: Comparison, relevant: np.ndarray, threshold: float
) -> CoverageResult:
    """FAC of runs that are known to match."""
    anchor, role = comparison.anchor, comparison.role
    in_dataset = np.zeros_like(relevant)
    for run in (comparison.dataset, *comparison.added):
        in_dataset |= present(stores.cache.support(run, threshold, role))
    in_anchor = present(stores.cache.support(anchor, threshold, role), comparison.min_support)
    return fac(in_anchor, in_dataset, relevant)


def _figures(result: CoverageResult) -> Row:
    names = ("fac", "n_anchor", "n_covered", "n_missing")
    return {name: getattr(result, name) for name in names}


def changes(
    stores: Stores,
    before: str,
    after: str,
    *,
    threshold: float = 0.0,
    role: str = EVERY_ROLE,
    added: bool = False,
) -> dict[str, Any]:
    """What changed from one run to the next.

    gained, lost: feature ids, ascending; n_gained, n_lost; gained_first, lost_first: the
    N_DESCRIBED most common of them as feature, label, n_before, n_after. What is `added` to the
    first does not replace it, so nothing is lost.
    """
    _must_match(stores, before, after, role)
    n_before = stores.cache.support(before, threshold, role)
    n_after = stores.cache.support(after, threshold, role)
    if added:
        n_after = n_after + n_before
    figures: dict[str, Any] = {}
    for side, run, changed, n in (
        ("gained", after, (n_before == 0) & (n_after > 0), n_after),
        ("lost", before, (n_before > 0) & (n_after == 0), n_before),
    ):
        ids = np.flatnonzero(changed)
        first = ids[np.argsort(-n[ids], kind="stable")][:N_DESCRIBED].tolist()
        rows, _ = stores.cache.features_page(run, ids=first, limit=N_DESCRIBED)
        labels = {row["feature"]: row["label"] for row in rows}
        figures[side] = ids.tolist()
        figures[f"n_{side}"] = len(ids)
        figures[f"{side}_first"] = [
            {
                "feature": i,
                "label": labels[i],
                "n_before": int(n_before[i]),
                "n_after": int(n_after[i]),
            }
            for i in first
        ]
    return figures


def _must_match(stores: Stores, run: str, other_run: str, role: str) -> None:
    """Feature ids mean the same, and the same tokens were counted."""
    first, second = stores.cache.summary(run), stores.cache.summary(other_run)
    if first["encoder"] != second["encoder"]:
        raise InputError(
            f"{first['name']} and {second['name']} cannot be compared: they were measured with "
            f"different encoders ({first['encoder']}; {second['encoder']}), so the same number "
            f"means different features. Measure both with one model, layer and SAE."
        )
    if role == EVERY_ROLE and first["role"] != second["role"]:
        raise InputError(
            f"{first['name']} was measured over the tokens of {first['role']}, {second['name']} "
            f"over those of {second['role']}: choose one role both have, or measure again."
        )
