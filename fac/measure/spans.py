"""Spans: the tokens around a peak, and the texts they are cut from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fac.encoder import Reading
from fac.models import SCAFFOLD, Rendered
from fac.schema import ROLES, Activations

BEFORE, AFTER = 32, 8
"""Tokens of a span up to and including the peak (paper: 32), and of context after it."""

SPAN_TOKENS = BEFORE + AFTER  # Tokens of a span at most
WINDOW = np.dtype(np.float16)  # What the activations of a span's tokens are held in

PART_TEXTS = pa.schema(
    [
        ("n_tokens", pa.int32()),
        ("n_cut", pa.int32()),
        *((f"n_{role}", pa.int32()) for role in ROLES),  # content tokens; 0 of a role not pooled
        # what fac.models.Rendered holds, but for the ids:
        *(
            ("text", pa.large_string()),
            ("role", pa.list_(pa.int8())),
            ("turn", pa.list_(pa.int16())),
        ),
        *(("starts", pa.list_(pa.int32())), ("ends", pa.list_(pa.int32()))),
    ]
)

_PER_TOKEN = ("role", "turn", "starts", "ends")
"""The columns of PART_TEXTS that are arrays of a Rendered."""


def text_table(rendered: Sequence[Rendered], roles: Sequence[str]) -> pa.Table:
    """PART_TEXTS of these samples, where only `roles` are pooled."""
    if not rendered:
        return PART_TEXTS.empty_table()
    lengths = [len(sample.ids) for sample in rendered]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

    def lists(name: str) -> pa.ListArray:
        arrays = [getattr(sample, name) for sample in rendered]
        flat = pa.array(np.concatenate(arrays), PART_TEXTS.field(name).type.value_type)
        return pa.ListArray.from_arrays(offsets, flat)

    columns: dict[str, Any] = {
        "n_tokens": lengths,
        "n_cut": [sample.cut for sample in rendered],
        # what lies beyond the last token read was cut
        "text": [s.text[: int(s.ends[-1]) if len(s.ends) else 0] for s in rendered],
        **{name: lists(name) for name in _PER_TOKEN},
    }
    for code, role in enumerate(ROLES):
        pooled = role in roles
        columns[f"n_{role}"] = [int((s.role == code).sum()) if pooled else 0 for s in rendered]
    return pa.table(
        {k: pa.array(columns[k], PART_TEXTS.field(k).type) for k in PART_TEXTS.names}, PART_TEXTS
    )


def _rendered(texts: pa.Table) -> list[Rendered]:
    """PART_TEXTS as they were before, but for the ids, which nobody needs any more."""
    lists = {name: texts.column(name).combine_chunks() for name in _PER_TOKEN}
    offsets = lists["role"].offsets.to_numpy()
    flat = {name: column.values.to_numpy() for name, column in lists.items()}
    return [
        Rendered(
            ids=np.full(last - first, SCAFFOLD, np.int32),
            **{name: values[first:last] for name, values in flat.items()},
            text=text,
            cut=cut,
        )
        for first, last, text, cut in zip(
            offsets.tolist(),
            offsets[1:].tolist(),
            texts.column("text").to_pylist(),
            texts.column("n_cut").to_pylist(),
            strict=False,
        )
    ]


def span_around(rendered: Rendered, position: int) -> tuple[int, int]:
    """(first token, length) of the span around a peak, never beyond its message."""
    same = rendered.turn == rendered.turn[position]
    first = max(0, position - BEFORE + 1)
    last = min(len(same), position + AFTER + 1)
    outside = np.flatnonzero(~same[first:position])
    if len(outside):
        first += int(outside[-1]) + 1
    outside = np.flatnonzero(~same[position:last])
    if len(outside):
        last = position + int(outside[0])
    return first, last - first


def span_windows(
    reading: Reading, pooled: Activations, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First token, length and float16 activations `[rows, SPAN_TOKENS]` of each row's span."""
    rendered = dict(zip(reading.samples, reading.rendered, strict=True))
    bounds: dict[tuple[int, int], tuple[int, int]] = {}
    sample, position = pooled.sample[rows], pooled.position[rows]
    first = np.zeros(len(rows), np.int32)
    length = np.zeros(len(rows), np.int32)
    for i, key in enumerate(zip(sample.tolist(), position.tolist(), strict=True)):
        if key not in bounds:
            bounds[key] = span_around(rendered[key[0]], key[1])
        first[i], length[i] = bounds[key]
    longest = 1 + max(len(r.ids) for r in reading.rendered)

    def key_of(s: np.ndarray, f: np.ndarray, p: np.ndarray) -> np.ndarray:
        return (s.astype(np.int64) * 2**31 + f) * longest + p

    keys = key_of(reading.sample, reading.feature, reading.position)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    low = np.searchsorted(keys, key_of(sample, pooled.feature[rows], first))
    high = np.searchsorted(keys, key_of(sample, pooled.feature[rows], first + length))
    count = high - low
    row = np.repeat(np.arange(len(rows)), count)
    entry = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + low[row]]
    window = np.zeros((len(rows), SPAN_TOKENS), WINDOW)
    window[row, reading.position[entry] - first[row]] = reading.value[entry]
    return first, length, window


def span_table(
    texts: pa.Table, start: int, rows: Mapping[str, np.ndarray], picked: np.ndarray
) -> pa.Table:
    """Columns of schema.SPANS, or of schema.NEAR where the rows have a `pre`: the rows `picked`,
    whose samples lie in the part of `texts` that begins at row `start` of the dataset.

    Tokens are cut only of samples that a row is about.
    """
    spans = {k: column[picked] for k, column in rows.items()}
    samples, local = np.unique(spans["sample"] - start, return_inverse=True)
    rendered = _rendered(texts.take(pa.array(samples)))
    pieces = [sample.pieces(0, len(sample.role)) for sample in rendered]
    base = np.concatenate([[0], np.cumsum([len(row) for row in pieces], dtype=np.int64)])
    if "first" not in spans:
        peaks = [*zip(local.tolist(), spans["position"].tolist(), strict=True)]
        bounds = [span_around(rendered[i], position) for i, position in peaks]
        spans["first"] = np.array([first for first, _ in bounds], np.int32)
        spans["length"] = np.array([length for _, length in bounds], np.int32)
        spans["role"] = np.array([rendered[i].role[position] for i, position in peaks], np.int8)
    offsets = np.concatenate([[0], np.cumsum(spans["length"])]).astype(np.int32)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], spans["length"])
    flat = np.repeat(base[local] + spans["first"], spans["length"]) + within
    every = pa.array([piece for row in pieces for piece in row], pa.string())
    columns: dict[str, Any] = {k: spans[k] for k in ("feature", "rank", "sample", "position")}
    columns["role"] = pa.DictionaryArray.from_arrays(spans["role"], pa.array(ROLES))
    columns["peak_index"] = spans["position"] - spans["first"]
    columns["tokens"] = pa.ListArray.from_arrays(offsets, every.take(pa.array(flat)))
    if "pre" in spans:
        columns["pre"] = spans["pre"]
    else:
        columns["kind"] = pa.array(np.where(spans["is_spread"], "spread", "top"), pa.string())
        columns["quantile"] = spans["quantile"]
        columns["peak"] = spans["peak"]
        inside = np.arange(SPAN_TOKENS) < spans["length"][:, None]
        columns["activations"] = pa.ListArray.from_arrays(
            offsets, pa.array(spans["window"][inside].astype(np.float32))
        )
    return pa.table(columns)
