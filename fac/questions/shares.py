"""Details of a comparison: coverage of each group of the anchor's samples, and features weighed."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from fac.coverage import rate_divergence, weighted_fac
from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, must_match, nothing_to_cover, shown
from fac.questions.firing import features_read, incidence_read, support_of
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.samples import read_samples

GROUPINGS = {
    "source": ("source", "dataset", "origin"),
    "label": (),
    "language": ("language", "lang"),
    "turns": (),
}
"""What samples are grouped by, and the columns of their source that say it, the first first. The
label has a column of its own, and turns of the user are counted."""

MOST_GROUPS = 12
FEWEST_SAMPLES = 10
"""Of a group that stands for itself."""

LONGEST_NAME = 80
"""Characters; a longer value is a text and no group."""


class Groups(NamedTuple):
    """Coverage of each group of the anchor's samples."""

    rows: list[Row]
    """Of each: group, n_samples, n_anchor (relevant features that its samples fire, of those the
    anchor shows), n_covered (of them in the dataset), n_missing, fac (NaN where n_anchor is 0).
    Largest groups first, what is left in one row at the end; empty where nothing is said of any."""

    note: str
    """What was left out or put together, in sentences."""


@remembered_for_good
def by_group(stores: Stores, comparison: Comparison, by: str) -> Groups:
    """Of what the anchor's samples of each group fire, the share that the dataset fires.

    `by` is one of GROUPINGS. Groups beyond the MOST_GROUPS largest, and those of fewer than
    FEWEST_SAMPLES samples, are one row. Raises InputError for another `by`, and when the runs
    cannot be compared.
    """
    if by not in GROUPINGS:
        raise InputError(f"Samples are grouped by {', '.join(GROUPINGS)}, got {by!r}.")
    must_match(stores, comparison)
    anchor = stores.cache.summary(comparison.anchor)
    of_sample = _groups(stores, anchor["dataset"], by)
    read = read_samples(stores.runs, comparison.anchor)
    of_sample = [name for name, counts in zip(of_sample, read, strict=True) if counts]
    if not any(of_sample):
        return Groups([], f"No sample of {anchor['name']} says its {by}.")
    sizes = Counter(of_sample)
    large = [name for name, n in sizes.most_common() if n >= FEWEST_SAMPLES][:MOST_GROUPS]
    numbers = {name: number for number, name in enumerate(large)}
    group = np.array([numbers.get(name, len(large)) for name in of_sample])
    features = shown(stores, comparison)
    if not features.any():
        return Groups([], nothing_to_cover(stores, comparison))
    ranges, counted = features_read(stores, (comparison.anchor,), features)
    pairs = incidence_read(stores, comparison.anchor, *comparison.at, counted, ranges)
    fires = np.zeros((len(large) + 1, len(features)), bool)
    fires[group[pairs.sample], pairs.feature] = True
    covered = fires & (support_of(stores, comparison.runs, *comparison.at) > 0)
    n_rest = len(sizes) - len(large)
    names = [name or f"no {by}" for name in large] + [f"{n_rest} other groups"] * (n_rest > 0)
    counts = zip(names, np.bincount(group), fires.sum(axis=1), covered.sum(axis=1), strict=False)
    rows = [_row(name, *map(int, figures)) for name, *figures in counts]
    return Groups(rows, _about_groups(sizes, n_rest, counted, features))


def _row(group: str, n_samples: int, n_anchor: int, n_covered: int) -> Row:
    return {
        "group": group,
        "n_samples": n_samples,
        "n_anchor": n_anchor,
        "n_covered": n_covered,
        "n_missing": n_anchor - n_covered,
        "fac": n_covered / n_anchor if n_anchor else math.nan,
    }


def _about_groups(
    sizes: Counter[str], n_rest: int, counted: np.ndarray, features: np.ndarray
) -> str:
    notes = []
    if n_rest:
        n_small = sum(n < FEWEST_SAMPLES for n in sizes.values())
        notes.append(
            f"Counted together: {n_small:,} of fewer than {FEWEST_SAMPLES} samples, "
            f"{n_rest - n_small:,} beyond the {MOST_GROUPS} largest."
        )
    if counted.sum() < features.sum():
        notes.append(f"Taken from {counted.sum():,} of {features.sum():,} features.")
    return " ".join(notes)


@remembered_for_good
def _groups(stores: Stores, dataset: str, by: str) -> list[str]:
    """The group of every sample, "" where nothing says it."""
    if by == "label":
        labels = stores.runs.table(dataset, "samples", ["label"])["label"].to_pylist()
        return [_name(label) for label in labels]
    if by == "turns":
        chats = stores.runs.table(dataset, "samples", ["messages"])["messages"].to_pylist()
        turns = (sum(message["role"] == "user" for message in chat) for chat in chats)
        return [f"{n} turn{'s'[: n != 1]}" for n in turns]
    texts = stores.runs.table(dataset, "samples", ["meta"])["meta"].to_pylist()
    keys = GROUPINGS[by]
    # Of a text without any of the words nothing needs to be read.
    return [_named(text, keys) if any(f'"{key}"' in text for key in keys) else "" for text in texts]


def _named(meta: str, keys: tuple[str, ...]) -> str:
    values: dict[str, Any] = json.loads(meta)
    columns = {**values, **values.get("columns", {})}
    return next(filter(None, (_name(columns.get(key)) for key in keys)), "")


def _name(value: Any) -> str:
    """A value as the name of a group; "" of what is none."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    name = " ".join(str(value).split())
    return name if len(name) <= LONGEST_NAME else ""


class Weighted(NamedTuple):
    """Coverage where features do not count alike. What is not defined is NaN, and `note` says
    why."""

    by_frequency: float
    """fac.coverage.weighted_fac, features weighed by the anchor's samples that fire them."""

    by_magnitude: float
    """The same, features weighed by their mean activation over the anchor's samples."""

    divergence: float
    """fac.coverage.rate_divergence, in nats."""

    note: str


@remembered_for_good
def weighted(stores: Stores, comparison: Comparison) -> Weighted:
    """FAC by frequency and by magnitude, and how far firing rates differ.

    The paper has both (App. L.6), with weights of the dataset and without a normalisation. Here the
    anchor weighs: what it fires often, or strongly, matters more, and the share cannot exceed 1;
    the dataset's own weights would make FAC grow with its length. Frequency counts samples above
    the threshold in use; magnitude adds up every stored peak of a sample, 0 where there is none.
    Raises InputError when the runs cannot be compared.
    """
    must_match(stores, comparison)
    features = shown(stores, comparison)
    if not features.any():
        return Weighted(math.nan, math.nan, math.nan, nothing_to_cover(stores, comparison))
    cache, run, role = stores.cache, comparison.anchor, comparison.role
    n_anchor = cache.support(run, comparison.threshold, role)[features]
    n_dataset = support_of(stores, comparison.runs, *comparison.at)[features]
    peaks = cache.total_peaks(run, role)[features]
    divergence, note = math.nan, "The dataset fires none of these features: it has no rates."
    if n_dataset.any():
        divergence, note = rate_divergence(n_anchor, n_dataset), ""
    return Weighted(
        weighted_fac(n_anchor, n_dataset > 0),
        weighted_fac(peaks, n_dataset > 0),
        divergence,
        note,
    )
