"""The question of coverage about measured datasets of these names, as commands and programs put
it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fac.errors import InputError
from fac.questions.catalogue import runs_alike
from fac.questions.comparison import Comparison, clear_firing
from fac.questions.relevance import EVERY_FEATURE, read_relevance, relevance_runs
from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.cache import build

CLEAR = "clear"


def comparison_by_name(
    stores: Stores,
    anchor: str,
    dataset: str,
    added: Iterable[str] = (),
    *,
    threshold: float | str = CLEAR,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    relevant: str = EVERY_FEATURE,
    maybe: bool = False,
) -> Comparison:
    """The comparison of measured datasets, each by its name or run id, with the caches that answer
    it; arguments as of Comparison, CLEAR is clear firing in the anchor.

    Raises InputError as `runs_alike` does, for a threshold that is no number, and whatever
    `read_relevance` refuses.
    """
    if min_support < 1:
        raise InputError(f"min support must be at least 1, got {min_support}.")
    anchor, dataset, *others = runs_alike(stores, (anchor, dataset, *added))
    judged = relevance_runs(stores.runs, anchor).get(relevant)
    sae = stores.runs.manifest(anchor).facts.sae_run  # how near a gap is, rests on its thresholds
    about = [each for each in (judged, sae) if each and stores.runs.find(each)]
    build_caches(stores, [anchor, dataset, *others, *about])
    at = read_threshold(stores, anchor, threshold)
    relevance = read_relevance(stores, anchor, relevant, maybe=maybe)
    return Comparison(anchor, dataset, at, min_support, role, relevance, tuple(others))


def read_threshold(stores: Stores, anchor: str, threshold: float | str) -> float:
    """A threshold as it was typed: a number, or CLEAR for clear firing in this measure run. Raises
    InputError for anything else."""
    if threshold == CLEAR:
        return clear_firing(stores, anchor)
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"A threshold is a number or `{CLEAR}`, got {threshold!r}.")
    return number


def build_caches(stores: Stores, run_ids: Iterable[str]) -> None:
    """Those that are not there yet."""
    for run_id in run_ids:
        if not stores.cache.ready(run_id):
            build(stores.runs, run_id, stores.runs.workspace.cache)
