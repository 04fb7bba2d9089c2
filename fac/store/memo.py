"""The one memo: a question is answered once, while what its answer rests on does not change.

A run never changes, so neither does what its manifest and its cache say, and a page asks for much
of it several times over: what a feature is called, which runs there are, a support. An answer
counts while the folders it rests on look as they did; nothing is remembered of a folder that
changed in the last moments, since another change could come in the same tick of its clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

MEMO_BYTES = 512_000_000
"""Of answers, about; the longest unused go first. Of 65,536 features a table takes about 5 MB and
the counts at one threshold 1 MB; a curve asks for those at every threshold of the grids of two
runs."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a folder that looks the same is the same."""


class Memo:
    """Answers by question. Threads share it.

    Answers are shared too: whoever gets one must not change it, and a numpy array refuses.
    """

    def __init__(self, max_bytes: int = MEMO_BYTES):
        self._max_bytes, self._bytes = max_bytes, 0
        self._answers: OrderedDict[Any, tuple[tuple[int, ...], Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, question: Any, folders: Sequence[Path], compute: Callable[[], T]) -> T:
        """What `compute` returns, or returned before to this question while the folders looked as
        they do now. Errors are not remembered, nor what takes an eighth of the room."""
        versions = tuple(map(_changed_at, folders))
        with self._lock:
            entry = self._answers.get(question)
            if entry and entry[0] == versions:
                self._answers.move_to_end(question)
                return entry[1]
        answer = compute()
        size = _weight(answer)
        settled = max(versions, default=0) < time.time_ns() - SETTLED
        if settled and size <= self._max_bytes // 8:
            with self._lock:
                self._forget(question)
                self._answers[question] = (versions, answer, size)
                self._bytes += size
                while self._bytes > self._max_bytes:
                    self._forget(next(iter(self._answers)))
        return answer

    def _forget(self, question: Any) -> None:
        self._bytes -= self._answers.pop(question, (None, None, 0))[2]


def remembered(function: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The function, or method, asked once per arguments: its first argument is a store or the
    Stores, whose `memo` (None where every question is answered anew) holds the answer while the
    folders that it `rests_on` do not change.

    For answers that rest on runs and their caches; decisions and jobs change without their folder.
    The other arguments are hashable, or lists, dicts and arrays of such.
    """
    return _remembered(function, lambda store, values: store.rests_on(*values))


def remembered_for_good(function: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Like `remembered`, where the arguments say all that the answer rests on: ids of finished
    runs, which never change, hashes, values. New runs do not make it ask again."""
    return _remembered(function, lambda store, values: ())


def _remembered(
    function: Callable[Concatenate[S, P], T],
    folders: Callable[[Any, tuple[Any, ...]], tuple[Path, ...]],
) -> Callable[Concatenate[S, P], T]:
    @wraps(function)
    def ask(store: Any, *values: P.args, **named: P.kwargs) -> T:
        if store.memo is None:
            return function(store, *values, **named)
        question = (function, _hashable(values), _hashable(named))
        return store.memo.get(
            question, folders(store, values), lambda: function(store, *values, **named)
        )

    return ask


def _changed_at(folder: Path) -> int:
    """When something was last put into a folder or taken out; 0 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def _weight(answer: Any) -> int:
    """About how many bytes an answer holds; seals its arrays."""
    if isinstance(answer, np.ndarray):
        answer.flags.writeable = False
        return answer.nbytes + 100
    if isinstance(answer, pa.Table | pa.Array | pa.ChunkedArray):
        return answer.nbytes + 1000
    if isinstance(answer, dict):
        return 200 + sum(60 + _weight(value) for value in answer.values())
    if isinstance(answer, list | tuple | set | frozenset):
        return 60 + sum(map(_weight, answer))
    if is_dataclass(answer):
        return 60 + sum(_weight(getattr(answer, field.name)) for field in fields(answer))
    return 50 + (len(answer) if isinstance(answer, str | bytes) else 0)


def _hashable(values: Any) -> Any:
    """Arguments as a part of a question."""
    if isinstance(values, dict):
        return tuple((name, _hashable(value)) for name, value in sorted(values.items()))
    if isinstance(values, np.ndarray):
        return values.dtype.str, values.tobytes()
    if isinstance(values, list | tuple):
        return tuple(map(_hashable, values))
    return values
