"""Names of before, until no page uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fac import review
from fac.manifest import MeasureManifest
from fac.questions import catalogue
from fac.questions.catalogue import comparable, default_anchor, titles
from fac.review import PairState
from fac.ui.pickers import pick_run as pick
from fac.ui.pickers import stop_if_nothing_measured
from fac.ui.stores import stores

__all__ = ["comparable", "default_anchor", "pick", "stop_if_nothing_measured", "titles"]


def measured() -> dict[str, MeasureManifest]:
    return catalogue.measured(stores())


def default_dataset(manifests: Mapping[str, MeasureManifest], anchor: str) -> str:
    return catalogue.default_dataset(stores(), manifests, anchor)


def is_synthetic(dataset: str) -> bool:
    return catalogue.is_synthetic(stores(), dataset)


def pair_states(run: str) -> dict[int, PairState]:
    runs = stores().runs
    family: list[Any] = [
        (m, runs.table(m["run"], "pairs").to_pylist()) for m in review.pair_family(runs, run)
    ]
    return review.pair_states(stores().decisions.current("pair"), family)
