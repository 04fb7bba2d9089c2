"""Where in a row of a pool its gaps fire: the words of each, as far as measuring kept them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc

from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.memo import remembered_for_good

BEFORE = 11
"""Tokens before a peak that are shown of a stretch."""


class FillSpan(NamedTuple):
    """Where one gap fires most in a row."""

    feature: int
    peak: float
    role: str
    """Whose turn it is."""
    position: int
    """Of its token, in what the model read, chat template included."""
    tokens: list[str]
    """The stretch that ends at the peak; empty where measuring did not keep it, which it does of
    every feature's strongest samples and of some others."""
    activations: list[float]
    """Of these tokens, 0 where silent."""

    @property
    def text(self) -> str:
        """The stretch, with the token of the peak in brackets; "" where it was not kept."""
        if not self.tokens:
            return ""
        *before, last = self.tokens
        word = last.lstrip()
        space = last[: len(last) - len(word)]
        return " ".join(f"{''.join(before)}{space}[{word}]".split())


@remembered_for_good
def fill_spans(
    stores: Stores, pool: str, role: str, sample: int, features: Sequence[int]
) -> list[FillSpan]:
    """Where a sample of a measured pool fires each of these features most, in their order, among
    the tokens of a role; features that it does not fire are left out."""
    peaks = _strongest(stores, pool, "activations", role, sample, features, ("position", "peak"))
    stretch = ("position", "peak_index", "tokens", "activations", "peak")
    spans = _strongest(stores, pool, "spans", role, sample, features, stretch)
    places = []
    for feature in features:
        if (row := peaks.get(feature)) is None:
            continue
        tokens: list[str] = []
        activations: list[float] = []
        span = spans.get(feature)
        if span and (span["role"], span["position"]) == (row["role"], row["position"]):
            end = span["peak_index"] + 1
            part = slice(max(end - BEFORE - 1, 0), end)
            tokens, activations = span["tokens"][part], span["activations"][part]
        places.append(
            FillSpan(feature, row["peak"], row["role"], row["position"], tokens, activations)
        )
    return places


def _strongest(
    stores: Stores,
    pool: str,
    table: str,
    role: str,
    sample: int,
    features: Sequence[int],
    columns: Sequence[str],
) -> Mapping[int, dict[str, Any]]:
    """Of each feature its strongest row of a table about this sample."""
    rows = stores.runs.rows(pool, table, features, ["feature", "sample", "role", *columns])
    rows = rows.filter(pc.equal(rows["sample"], sample))
    strongest: dict[int, dict[str, Any]] = {}
    for row in rows.to_pylist():
        best = strongest.get(row["feature"])
        if role in (EVERY_ROLE, row["role"]) and (best is None or row["peak"] > best["peak"]):
            strongest[row["feature"]] = row
    return strongest
