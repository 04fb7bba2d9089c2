"""Which texts run together: those of similar length that begin alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

WORTHWHILE = 16
"""Tokens that rows must share for their beginning to be run apart."""

TOGETHER = 8
"""Rows that must share it: fewer would leave both them and the rest in small batches."""

DEEPEST = 64
"""Times WORTHWHILE tokens, up to where groups are told apart by their beginnings."""


def by_beginning(ids: Sequence[np.ndarray]) -> list[tuple[int, list[int]]]:
    """Groups of rows, and how many tokens all rows of a group begin with.

    Each row is in one group and has at least one token beyond what it shares. A group has TOGETHER
    rows that share WORTHWHILE tokens, or it is the one of the rows left over, which share 0. Chats
    without a system prompt, for one, all begin with the template's.
    """
    groups: list[tuple[int, list[int]]] = []

    def split(rows: Sequence[int], depth: int) -> list[int]:
        """Takes groups out of rows that share `depth` times WORTHWHILE tokens; returns the rest."""
        left: list[int] = []
        deeper: dict[bytes, list[int]] = defaultdict(list)
        first, last = depth * WORTHWHILE, (depth + 1) * WORTHWHILE
        for row in rows:
            goes_on = len(ids[row]) > last and depth < DEEPEST
            (deeper[ids[row][first:last].tobytes()] if goes_on else left).append(row)
        for some in deeper.values():
            left += split(some, depth + 1) if len(some) >= TOGETHER else some
        if depth and len(left) >= TOGETHER:
            groups.append((shared_tokens([ids[row] for row in left]), sorted(left)))
            return []
        return left

    if rest := split(range(len(ids)), 0):
        groups.append((0, sorted(rest)))
    return groups


def shared_tokens(ids: Sequence[np.ndarray]) -> int:
    """Tokens that all rows begin with, leaving each at least one."""
    longest = min(map(len, ids)) - 1
    heads = np.stack([row[:longest] for row in ids])
    differ = np.flatnonzero((heads != heads[0]).any(0))
    return int(differ[0]) if len(differ) else longest


def batches_by_length(
    lengths: Sequence[int], *, max_padded: int = 4096, max_rows: int = 64
) -> Iterator[list[int]]:
    """Row indices grouped so that a batch pads little and never exceeds `max_padded` tokens.

    Deterministic: shortest first, ties by row, so a restarted run sees the same batches.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) >= max_rows or lengths[row] * (len(batch) + 1) > max_padded):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
