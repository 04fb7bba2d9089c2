"""Which rows of a dataset could be dropped so that it still shows every feature it shows, and which
of the others have what each of them has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fac.errors import InputError
from fac.questions.comparison import Comparison, must_match, name_of, shown
from fac.questions.fill import FEATURES_TOGETHER, samples_at
from fac.questions.firing import incidence_of
from fac.questions.near_copies import near_copies
from fac.selection import Rows, StandIns, minimal_cover
from fac.store import Stores
from fac.store.samples import read_samples

CHUNK = 4096
"""Rows whose texts are in memory at once."""


class Spare(NamedTuple):
    """What could be dropped of a dataset, all of it together."""

    dataset: str
    """Measure run."""
    features: int
    """Relevant features of the anchor that the dataset shows."""
    kept: np.ndarray
    """The samples that have to stay, int64, ascending: without any of them a feature is shown by
    fewer samples than were asked for, or than there are."""
    dropped: np.ndarray
    """The others, int64, ascending."""
    silent: int
    """Of these, samples that fire none of the features."""
    near_copies: dict[int, int]
    """Of the rows that could be dropped those that nearly repeat another row, and which: one that
    stays where there is one, else one before it that could be dropped too."""
    tokens: int
    """Content tokens of the dataset."""
    dropped_tokens: int
    rarer: float
    """In how many samples a feature is shown afterwards, of those that show it now: the median over
    the features."""


class SpareRow(NamedTuple):
    """A row that could be dropped."""

    sample: int
    sample_id: str
    tokens: int
    features: int
    """How many of the features it fires."""
    stand_ins: list[int]
    """Samples that stay and together fire all of these, those with most of them first."""
    near_copy: int | None
    """Another row with a message that is nearly one of its own; None where there is none."""
    near_copy_stays: bool | None
    """Whether that row stays."""


def spare(stores: Stores, comparison: Comparison, per_feature: int = 1) -> Spare:
    """What could be dropped of the dataset of a comparison at no loss of coverage: each feature is
    still shown by `per_feature` samples, or by all where there are fewer. What is rarer afterwards
    may become an under-represented gap.

    Raises InputError when the runs cannot be compared, for fewer than one sample a feature, and
    where the dataset shows nothing.
    """
    rows, demand = _rows(stores, comparison, per_feature)
    read = read_samples(stores.runs, comparison.dataset)
    kept = ~read  # nothing is known of what was not read
    kept[minimal_cover(rows, demand)] = True
    tokens = stores.cache.tokens_by_sample(comparison.dataset)
    before, after = np.diff(rows.first), rows.counts(kept)
    fires = np.bincount(rows.row, minlength=rows.n_rows) > 0
    return Spare(
        dataset=comparison.dataset,
        features=rows.n_features,
        kept=np.flatnonzero(kept),
        dropped=np.flatnonzero(~kept),
        silent=int((read & ~fires).sum()),
        near_copies=near_copies(
            stores, stores.runs.manifest(comparison.dataset).facts.dataset, kept
        ),
        tokens=int(tokens.sum()),
        dropped_tokens=int(tokens[~kept].sum()),
        rarer=float(np.median(after / before)),
    )


def spare_rows(
    stores: Stores,
    comparison: Comparison,
    answer: Spare,
    limit: int | None = None,
    *,
    near: bool | None = None,
) -> Iterator[SpareRow]:
    """The rows of an answer that could be dropped, or the first of them: all, those that nearly
    repeat another row (`near`), or those that do not."""
    rows, _ = _rows(stores, comparison, 1)
    stand_ins = StandIns(rows, answer.kept)
    tokens = stores.cache.tokens_by_sample(comparison.dataset)
    counts = np.bincount(rows.row, minlength=rows.n_rows)
    dropped = answer.dropped
    if near is not None:
        dropped = dropped[np.isin(dropped, [*answer.near_copies]) == near]
    dropped, stays = dropped[:limit], {*answer.kept.tolist()}
    for first in range(0, len(dropped), CHUNK):
        page = dropped[first : first + CHUNK].tolist()
        ids = samples_at(stores, comparison.dataset, page, ["sample_id"])
        for row in page:
            copy = answer.near_copies.get(row)
            yield SpareRow(
                row,
                ids[row]["sample_id"],
                int(tokens[row]),
                int(counts[row]),
                stand_ins.of(row),
                copy,
                None if copy is None else copy in stays,
            )


def _rows(stores: Stores, comparison: Comparison, per_feature: int) -> tuple[Rows, np.ndarray]:
    """Which sample of the dataset fires which of the features in question, and how many samples are
    asked for of each."""
    if per_feature < 1:
        raise InputError(f"Samples per feature must be at least 1, got {per_feature}.")
    must_match(stores, comparison)
    run = comparison.dataset
    features = shown(stores, comparison) & (stores.cache.support(run, *comparison.at) > 0)
    if not features.any():
        raise InputError(
            f"{name_of(stores, run)} shows no relevant feature of "
            f"{name_of(stores, comparison.anchor)} above {comparison.threshold:g}, so nothing says "
            "which rows it needs: take a lower threshold."
        )
    blocks = np.unique(np.flatnonzero(features) // FEATURES_TOGETHER) * FEATURES_TOGETHER
    ranges = [(first, first + FEATURES_TOGETHER) for first in blocks.tolist()]
    pairs = incidence_of(stores, run, *comparison.at, features, ranges)
    column = np.cumsum(features) - 1
    n = int(features.sum())
    rows = Rows.of(column[pairs.feature], pairs.sample, n_features=n, n_rows=pairs.n_samples)
    return rows, np.full(n, per_feature)
