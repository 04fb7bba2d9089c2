"""The map of an anchor's features, laid out by which fire in the same stretch, and what a
comparison says of each of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fac.config import FamiliesSpec
from fac.coverage import present
from fac.families import SAMPLED
from fac.interpret.grouping import NEIGHBOURS
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, name_of
from fac.questions.families import families_spec, family_names
from fac.questions.firing import support_of
from fac.questions.gap_evidence import evidence_of
from fac.questions.relevance import relevant_set
from fac.store import Stores
from fac.store.memo import remembered_for_good

STANDINGS = ("covered", "under-represented", "missing", "not counted")
"""What a comparison says of a feature: the dataset shows it, too rarely, or not at all; or the
anchor does not show it, or it is not relevant."""


class FeatureMap(NamedTuple):
    """Where an anchor's features lie; those that fire in the same stretch lie together."""

    feature: np.ndarray
    """int32 `[n]`, ascending; `x` and `y` are float32 `[n]`."""
    x: np.ndarray
    y: np.ndarray
    family: np.ndarray
    """int32 `[n]`, -1 for none."""
    note: str
    """What is not on the map and what is approximate, in sentences."""


def map_run(stores: Stores, comparison: Comparison) -> str | None:
    """The newest families run of the anchor that laid them out; None while there is none."""
    spec = families_spec(comparison)
    manifests = (m for m in stores.runs.list(FamiliesSpec.step) if m.spec == spec)
    return next((m.run for m in manifests if m.facts.n_on_map is not None), None)


@remembered_for_good
def feature_map(stores: Stores, run: str) -> FeatureMap:
    """The map of a run that `map_run` named."""
    places = stores.runs.table(run, "map", ["feature", "x", "y"])
    feature, x, y = (places[name].to_numpy() for name in ("feature", "x", "y"))
    members = stores.runs.table(run, "families")
    family = np.full(len(feature), -1, np.int32)
    of_map = np.searchsorted(feature, members["feature"].to_numpy())
    family[of_map] = members["family"].to_numpy()
    return FeatureMap(feature, x, y, family, _note(stores, run, len(feature)))


def _note(stores: Stores, run: str, n: int) -> str:
    manifest: Any = stores.runs.manifest(run)
    facts, spec = manifest.facts, manifest.spec
    anchor = name_of(stores, facts.measure)
    notes = []
    if others := facts.n_firing - n:
        notes.append(
            f"{others:,} of {facts.n_firing:,} features that fire clearly in {anchor} are not on "
            f"the map: they fire in fewer than {spec.min_support:,} samples, in nearly every one, "
            "or together with no other."
        )
    if facts.nearest:
        note = "What is hardly alike counts as not alike"
        if facts.recall is not None:
            # Never rounded up to all of them.
            share = int(1000 * facts.recall) / 10
            note += (
                f": of the {NEIGHBOURS} features that are most like each, {share:g} % are among "
                f"those that it is laid out by (of {SAMPLED} features, each compared with all)"
            )
        notes.append(f"{note}.")
    return " ".join(notes)


@remembered_for_good
def standings(stores: Stores, comparison: Comparison) -> np.ndarray:
    """What the comparison says of each feature, as its place in STANDINGS: int8 `[n_features]`."""
    relevant = relevant_set(stores, comparison.anchor, comparison.relevance, comparison.role)
    n_anchor = support_of(stores, (comparison.anchor,), *comparison.at)
    asked = relevant & present(n_anchor, comparison.min_support)
    gaps = evidence_of(stores, comparison)
    standing = np.where(asked, 0, 3).astype(np.int8)
    standing[gaps.feature] = np.where(gaps.n_dataset > 0, 1, 2)
    return standing


def families_on_map(
    stores: Stores, run: str, standing: np.ndarray, features: np.ndarray | None = None
) -> list[Row]:
    """Families that lie on the map, the largest first: family (its number), family_name, and how
    many of its features (of these `features`) there are, as `size`, and of these how many are
    `covered`, `under` (under-represented) and `missing`."""
    whole, names = feature_map(stores, run), [each.name for each in family_names(stores, run)]
    here = whole.family >= 0
    if features is not None:
        here &= np.isin(whole.feature, features)
    family, stands = whole.family[here], standing[whole.feature[here]]
    n = [np.bincount(family[stands == s], minlength=len(names)) for s in range(3)]
    size = np.bincount(family, minlength=len(names))
    return [
        {
            "family": number,
            "family_name": names[number],
            "size": int(size[number]),
            "covered": int(n[0][number]),
            "under": int(n[1][number]),
            "missing": int(n[2][number]),
        }
        for number in np.lexsort((np.arange(len(size)), -size)).tolist()
        if size[number]
    ]


@remembered_for_good
def coactive(stores: Stores, run: str, feature: int) -> list[tuple[int, float]]:
    """The features most like one by the samples of the anchor in which they fire, and how alike
    (families.likeness), the most alike first; none for one that is not on the map."""
    table = stores.runs.table(run, "map", ["feature", "neighbours", "likeness"])
    row = int(np.searchsorted(table["feature"].to_numpy(), feature))
    if row == len(table) or table["feature"][row].as_py() != feature:
        return []
    near, alike = (table[name][row].as_py() for name in ("neighbours", "likeness"))
    return list(zip(near, alike, strict=True))
