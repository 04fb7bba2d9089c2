"""Which rows of a dataset nearly repeat another of its rows.

Messages are compared by their runs of characters (fac.synthesis.filter): MinHash signatures in
bands (Broder 1997) say which to compare, and what they share is then counted, so that nothing is
called a copy that is none. Two messages alike by NEAR_COPY agree in some band with probability
1 - (1 - NEAR_COPY²)^BANDS = .9999.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.samples import samples_at
from fac.synthesis.filter import NEAR_COPY, comparable
from fac.synthesis.plan import chats_in

BANDS, IN_A_BAND = 32, 2
LIKELY = NEAR_COPY - 0.25
"""Share of equal entries of two signatures from which on they are compared: four standard
deviations below NEAR_COPY."""

PRIME = np.uint64(2**31 - 1)
AT_ONCE = 4096
"""Rows whose texts are in memory to be compared."""


class _Signatures(NamedTuple):
    row: np.ndarray
    """Whose messages these are, int64 `[messages]`, ascending."""
    entries: np.ndarray
    """uint32 `[messages, BANDS * IN_A_BAND]`."""


@remembered_for_good
def near_copies(stores: Stores, dataset: str, stays: np.ndarray) -> dict[int, int]:
    """Of a dataset run the rows that go, where one of their messages is nearly one of another row,
    with that row: of those that stay the first, else the first of those that go before it.

    `stays` is bool `[n_rows]`. Too short messages are compared with none.
    """
    signatures = _signatures(chats_in(stores.runs, dataset))
    pairs = _to_compare(signatures, stays)
    copies: dict[int, int] = {}
    goes = np.unique(pairs[:, 0])
    for first in range(0, len(goes), AT_ONCE):
        page = goes[first : first + AT_ONCE]
        part = pairs[np.isin(pairs[:, 0], page)]
        texts = samples_at(stores.runs, dataset, np.unique(part).tolist(), ["messages"])
        parts = {row: _parts(text["messages"]) for row, text in texts.items()}
        for row, other in part.tolist():
            if row not in copies and _alike(parts[row], parts[other]):
                copies[row] = other
    return copies


def _signatures(chats: Iterable[Iterable[Mapping[str, str]]]) -> _Signatures:
    """Of every message that is long enough to be compared."""
    rng = np.random.default_rng(0)
    size = BANDS * IN_A_BAND
    times = rng.integers(1, int(PRIME), size, np.uint64)[:, None]
    plus = rng.integers(0, int(PRIME), size, np.uint64)[:, None]
    rows, entries = [], []
    for row, chat in enumerate(chats):
        for part in _parts(chat):
            values = np.array([zlib.crc32(each.encode("utf-8", "replace")) for each in part])
            hashes = (values.astype(np.uint64) % PRIME * times + plus) % PRIME
            rows.append(row)
            entries.append(hashes.min(axis=1).astype(np.uint32))
    table = np.array(entries, np.uint32).reshape(len(rows), size)
    return _Signatures(np.array(rows, np.int64), table)


def _parts(chat: Iterable[Mapping[str, str]]) -> list[set[str]]:
    """What the messages that are long enough are compared by."""
    return [part for message in chat if (part := comparable(message["content"]))]


def _to_compare(signatures: _Signatures, stays: np.ndarray) -> np.ndarray:
    """Which rows that go are compared with which others, int64 `[pairs, 2]`, by row, and of each
    those that stay first, each kind ascending.

    In every band a message is compared with the first of those that agree with it, and with the
    one before it.
    """
    row, entries = signatures
    if not len(row):
        return np.zeros((0, 2), np.int64)
    rank = np.empty(len(row), np.int64)
    rank[np.lexsort((row, ~stays[row]))] = np.arange(len(row))
    messages = []
    for band in range(0, entries.shape[1], IN_A_BAND):
        columns = entries[:, band : band + IN_A_BAND]
        order = np.lexsort((rank, *columns.T))
        new = np.append(True, (columns[order][1:] != columns[order][:-1]).any(axis=1))
        begin = np.maximum.accumulate(np.where(new, np.arange(len(row)), 0))
        for other in (order[begin], np.append(order[0], order[:-1])):
            messages.append(np.stack([order[~new], other[~new]], axis=1))
    every = np.unique(np.concatenate(messages), axis=0)
    every = every[(row[every[:, 0]] != row[every[:, 1]]) & ~stays[row[every[:, 0]]]]
    likely = np.zeros(len(every), bool)
    for first in range(0, len(every), AT_ONCE):
        part = every[first : first + AT_ONCE]
        same = entries[part[:, 0]] == entries[part[:, 1]]
        likely[first : first + AT_ONCE] = same.mean(axis=1) >= LIKELY
    pairs = np.unique(row[every[likely]], axis=0).reshape(-1, 2)
    return pairs[np.lexsort((pairs[:, 1], ~stays[pairs[:, 1]], pairs[:, 0]))]


def _alike(texts: list[set[str]], others: list[set[str]]) -> bool:
    """Whether a message of one sample is nearly one of the other."""
    return any(
        len(text & other) >= NEAR_COPY * len(text | other) for text in texts for other in others
    )
