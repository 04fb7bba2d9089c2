"""The stores of the workspace, opened once per server, with what they said kept.

A run never changes, so neither does what its manifest and its cache say, and a page asks for much
of it several times over: what a feature is called, which runs there are, a support. The stores
that pages get answer a question once. An answer counts while the folders it rests on look as they
did; nothing is kept of a folder that changed in the last moments, since another change could come
in the same tick of its clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from fac import config
from fac.config import Workspace
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs

T = TypeVar("T")

KEPT_BYTES = 256_000_000
"""Of answers, about; the longest unused go first."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a folder that looks the same is the same."""


class Kept:
    """Answers by question, for as long as the folders they rest on do not change. Threads share it.

    Answers are shared too: whoever gets one must not change it, and a numpy array refuses.
    """

    def __init__(self, most: int = KEPT_BYTES):
        self._most, self._bytes = most, 0
        self._answers: OrderedDict[Any, tuple[tuple[int, ...], Any, int]] = OrderedDict()
        self._turn = threading.Lock()

    def get(self, question: Any, folders: Sequence[Path], answer: Callable[[], T]) -> T:
        """What `answer` returns, or returned before to this question. Errors are not kept."""
        now = tuple(map(_changed, folders))
        with self._turn:
            known = self._answers.get(question)
            if known and known[0] == now:
                self._answers.move_to_end(question)
                return known[1]
        found = answer()
        size = _weight(found)
        if max(now) < time.time_ns() - SETTLED and size <= self._most // 8:
            with self._turn:
                self._forget(question)
                self._answers[question] = (now, found, size)
                self._bytes += size
                while self._bytes > self._most:
                    self._forget(next(iter(self._answers)))
        return found

    def _forget(self, question: Any) -> None:
        self._bytes -= self._answers.pop(question, (None, None, 0))[2]


def _changed(folder: Path) -> int:
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
    if isinstance(answer, pa.Table):
        return answer.nbytes + 1000
    if isinstance(answer, dict):
        return 200 + sum(60 + _weight(value) for value in answer.values())
    if isinstance(answer, list | tuple):
        return 60 + sum(map(_weight, answer))
    return 50 + (len(answer) if isinstance(answer, str) else 0)


def _asked(values: Any) -> Any:
    """Arguments as a part of a question."""
    if isinstance(values, dict):
        return tuple((name, _asked(value)) for name, value in sorted(values.items()))
    if isinstance(values, np.ndarray):
        return values.dtype.str, values.tobytes()
    if isinstance(values, list | tuple):
        return tuple(map(_asked, values))
    return values


def _kept(method: Callable[..., T]) -> Callable[..., T]:
    """The method of a store, asked once: `self.kept` holds its answers, `self.rests_on` says which
    folders they are good for."""

    @wraps(method)
    def ask(self: Any, *given: Any, **named: Any) -> T:
        question = (method.__qualname__, _asked(given), _asked(named))
        folders = self.rests_on(*given)
        return self.kept.get(question, folders, lambda: method(self, *given, **named))

    return ask


class KeptRuns(Runs):
    """Runs whose manifests are read once."""

    def __init__(self, place: Workspace):
        super().__init__(place)
        self.kept = Kept()

    def rests_on(self, about: str) -> tuple[Path, ...]:
        """The folder of a step, or of a run: it is renamed into place when whole."""
        return (self.path(about) if self.find(about) else self.root / about,)

    manifest = _kept(Runs.manifest)
    list = _kept(Runs.list)


class KeptCache(Cache):
    """A cache that answers the same question once."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.kept = Kept()
        self.folder = folder.resolve()

    def rests_on(self, *_: Any) -> tuple[Path, ...]:
        """Its folder: files are renamed into it and removed, never written again."""
        return (self.folder,)

    ready = _kept(Cache.ready)
    summary = _kept(Cache.summary)
    support = _kept(Cache.support)
    features_page = _kept(Cache.features_page)
    feature = _kept(Cache.feature)
    spans = _kept(Cache.spans)
    near = _kept(Cache.near)
    histogram = _kept(Cache.histogram)
    points = _kept(Cache.points)
    sae_feature = _kept(Cache.sae_feature)
    explanations = _kept(Cache.explanations)
    explanation_counts = _kept(Cache.explanation_counts)
    score_summary = _kept(Cache.score_summary)
    examples = _kept(Cache.examples)
    relevance = _kept(Cache.relevance)
    relevance_counts = _kept(Cache.relevance_counts)
    relevant = _kept(Cache.relevant)
    pairs = _kept(Cache.pairs)
    pair = _kept(Cache.pair)
    pair_counts = _kept(Cache.pair_counts)
    candidates = _kept(Cache.candidates)
    candidate = _kept(Cache.candidate)
    verdict_counts = _kept(Cache.verdict_counts)


class Stores(NamedTuple):
    """What one workspace keeps; every part may be used from any session's thread."""

    runs: Runs
    cache: Cache
    queue: Queue
    decisions: Decisions


_opening = threading.Lock()


def stores(root: Path) -> Stores:
    """The stores of the workspace at `root`. Cached functions take the root, not the stores."""
    with _opening:
        return _stores(root)


@lru_cache(maxsize=8)
def _stores(root: Path) -> Stores:
    place = Workspace(root)
    return Stores(
        KeptRuns(place), KeptCache(place.cache), Queue(place.queue), Decisions(place.decisions)
    )


def workspace() -> Workspace:
    return _workspace(os.environ.get("FAC_WORKSPACE"))


@lru_cache(maxsize=8)
def _workspace(_given: str | None) -> Workspace:
    """Finding out where it really lies takes longer than most of what pages then ask it."""
    return config.workspace()


def runs() -> Runs:
    return stores(workspace().root).runs


def cache() -> Cache:
    return stores(workspace().root).cache


def queue() -> Queue:
    return stores(workspace().root).queue


def decisions() -> Decisions:
    return stores(workspace().root).decisions
