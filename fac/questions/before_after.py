"""Which two datasets a comparison is about where nobody chose any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fac.manifest import MeasureManifest
from fac.questions.catalogue import (
    comparable,
    default_anchor,
    default_dataset,
    is_synthetic,
    titles,
)
from fac.questions.results import measure_of_kept, syntheses
from fac.store import Stores


class BeforeAfter(NamedTuple):
    """Measure runs of two datasets, or of two versions of one, and of what could be shown."""

    before: str
    after: str
    anchor: str
    why: str
    """What their comparison answers, as a sentence."""


def before_after(
    stores: Stores, manifests: Mapping[str, MeasureManifest], dataset: str = ""
) -> BeforeAfter:
    """The dataset of the newest synthesis and what that kept, once measured. Without one the
    question of the first page, that of `dataset` where somebody chose one there: what it gained on
    the dataset before it, or what it lacks. `manifests` are at least two measure runs, newest
    first."""
    names, waits = titles(manifests), ""
    for manifest in syntheses(stores).values():
        facts, kept = manifest.facts, measure_of_kept(manifest, manifests)
        if not facts.kept or not {facts.anchor, facts.dataset} <= manifests.keys():
            continue
        if kept is None:
            waits = " What a newer one kept has not been measured yet."
            continue
        words = f"{names[facts.dataset]} before and after what was last synthesized for it"
        words += " and measured." if waits else "."
        return BeforeAfter(facts.dataset, kept, facts.anchor, words + waits)
    if waits:
        waits = " What was synthesized has not been measured yet: the page of syntheses offers it."
    anchor = default_anchor(stores, manifests)
    same = comparable(manifests, anchor)
    if dataset == anchor or dataset not in same:
        dataset = default_dataset(stores, manifests, anchor)
    collected = [run for run in same if not is_synthetic(stores, manifests[run].facts.dataset)]
    others = [run for run in collected if run not in (anchor, dataset)]
    if others:
        older = others[0]
        words = f"{names[dataset]} beside {names[older]}, the newest of the other datasets."
        return BeforeAfter(older, dataset, anchor, words + waits)
    words = f"What {names[dataset]} would gain if it showed all that {names[anchor]} does."
    return BeforeAfter(dataset, anchor, anchor, words + waits)
