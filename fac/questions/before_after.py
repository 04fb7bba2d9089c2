"""Which two datasets a comparison is about where nobody chose any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fac.manifest import MeasureManifest
from fac.questions.catalogue import (
    ADDITIONS,
    comparable,
    default_anchor,
    default_dataset,
    kind_of,
    titles,
)
from fac.questions.fill import purpose_of
from fac.questions.results import measure_of_kept, syntheses, synthesis_behind
from fac.store import Stores


class BeforeAfter(NamedTuple):
    """Measure runs of two datasets, or of two versions of one, and of what could be shown."""

    before: str
    after: str
    anchor: str
    why: str
    """What their comparison answers, as a sentence."""


def made_for(stores: Stores, measure: MeasureManifest) -> str:
    """The measured dataset whose gaps what a measure measured is there to fill, synthesized for
    them or chosen from a pool: they count together. "" of a dataset of its own."""
    dataset = measure.facts.dataset
    if synthesis := synthesis_behind(stores, dataset):
        return str(stores.runs.manifest(synthesis).facts.dataset)
    purpose = purpose_of(stores, dataset)
    return purpose.dataset if purpose else ""


def before_after(
    stores: Stores, manifests: Mapping[str, MeasureManifest], dataset: str = ""
) -> BeforeAfter:
    """The dataset of the newest synthesis and what that kept, or of the rows that were last chosen
    from a pool and these, once measured. Without either the question of the first page, that of
    `dataset` where somebody chose one there: what it gained on the dataset before it, or what it
    lacks. `manifests` are at least two measure runs, newest first."""
    names, waits = titles(manifests), ""
    filled = _filled(stores, manifests)
    for manifest in syntheses(stores).values():
        facts, kept = manifest.facts, measure_of_kept(manifest, manifests)
        if not facts.kept or not {facts.anchor, facts.dataset} <= manifests.keys():
            continue
        if kept is None:
            waits = " What a newer one kept has not been measured yet."
            continue
        order = [*manifests]
        if filled and order.index(filled.after) < order.index(kept):
            break
        words = f"{names[facts.dataset]} before and after what was last synthesized for it"
        words += " and measured." if waits else "."
        return BeforeAfter(facts.dataset, kept, facts.anchor, words + waits)
    if filled:
        return filled
    if waits:
        waits = " What was synthesized has not been measured yet: the page of syntheses offers it."
    anchor = default_anchor(stores, manifests)
    same = comparable(manifests, anchor)
    if dataset == anchor or dataset not in same:
        dataset = default_dataset(stores, manifests, anchor)
    kinds = {run: kind_of(stores, manifests[run].facts.dataset) for run in same}
    others = [run for run in same if run not in (anchor, dataset) and kinds[run] not in ADDITIONS]
    if others:
        older = others[0]
        words = f"{names[dataset]} beside {names[older]}, the newest of the other datasets."
        return BeforeAfter(older, dataset, anchor, words + waits)
    words = f"What {names[dataset]} would gain if it showed all that {names[anchor]} does."
    return BeforeAfter(dataset, anchor, anchor, words + waits)


def _filled(stores: Stores, manifests: Mapping[str, MeasureManifest]) -> BeforeAfter | None:
    """The dataset that rows were last chosen for, and these."""
    for run, manifest in manifests.items():
        purpose = purpose_of(stores, manifest.facts.dataset)
        if purpose and {purpose.anchor, purpose.dataset} <= manifests.keys():
            words = (
                f"{titles(manifests)[purpose.dataset]} before and after the rows of a pool that "
            )
            return BeforeAfter(
                purpose.dataset, run, purpose.anchor, f"{words}were last taken for it."
            )
    return None
