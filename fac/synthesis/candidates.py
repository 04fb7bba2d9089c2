"""Candidates: what was written for each gap, read in the form of a sample, and what it fires."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import numpy as np

from fac import coverage
from fac.config import WriteSpec
from fac.encoder import Encoder
from fac.generator.writer import Written
from fac.prompts import drafts
from fac.prompts.drafts import BadDraft
from fac.schema import ROLES, Chat
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts
from fac.synthesis.plan import Ask, Progress, Row, reply_key, seed_of

ENCODED = 256
"""Texts measured between two reports of progress."""


class Candidate(NamedTuple):
    """A text before any verdict."""

    ask: Ask
    messages: Chat
    """Empty where there is no text."""
    extra: Row
    problem: str
    """One of `fac.synthesis.filter.PROBLEMS`, or "" ."""
    written: Written

    @property
    def name(self) -> str:
        return self.ask.request.key

    @property
    def text(self) -> str:
        """Everything it says, for comparing."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def prescribed(self) -> int:
        """Words at its beginning that its prompt made it begin with."""
        opening = self.ask.request.opening
        return len(verdicts.words(opening.starts)) if opening else 0


def read(ask: Ask, spec: WriteSpec, written: Written) -> Candidate:
    """What was written, in the form of the profile; or why there is none."""
    opening = ask.request.opening
    starts = opening.starts if opening else ""
    if written.failure:
        return Candidate(ask, [], {}, verdicts.FAILED, written)
    try:
        draft = drafts.read_draft(spec.profile, written.text, starts, finished=written.finished)
    except BadDraft as error:
        return Candidate(ask, [], {}, error.problem, written)
    return Candidate(ask, [*draft.messages], draft.extra, "", written)


def candidate_rows(candidates: Sequence[Candidate], spec: WriteSpec) -> list[Row]:
    """Rows of schema.CANDIDATES."""
    return [
        {
            "candidate": candidate.name,
            "feature": candidate.ask.feature,
            "pair": candidate.ask.pair,
            "style": candidate.ask.style,
            "messages": candidate.messages,
            "extra": json.dumps(candidate.extra, ensure_ascii=False, sort_keys=True),
            "problem": candidate.problem,
            "tokens": candidate.written.tokens,
            "finished": candidate.written.finished,
            "prompt_hash": candidate.ask.prompt_hash,
            "seed": seed_of(spec),
        }
        for candidate in candidates
    ]


def reply_rows(candidates: Sequence[Candidate], spec: WriteSpec, identity: str) -> list[Row]:
    """Rows of schema.REPLIES: the exact prompts and texts, which a server would not give twice."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        {
            "key": reply_key(candidate.ask, spec, identity),
            "about": candidate.name,
            "prompt": json.dumps(candidate.ask.messages, ensure_ascii=False),
            "reply": None if text.failure else text.text,
            "finish": "" if text.failure else "stop" if text.finished else "length",
            "failure": text.failure,
            "model": identity,
            "prompt_tokens": text.prompt_tokens,
            "completion_tokens": text.tokens,
            "estimated": False,
            "cost": text.cost,
            "at": now,
        }
        for candidate in candidates
        for text in (candidate.written,)
    ]


def spent(candidates: Sequence[Candidate], seconds: float, identity: str) -> Row:
    """What the texts took, for a run's facts; `price` is None where no price is known."""
    costs = [candidate.written.cost for candidate in candidates]
    prices = [price for price in costs if price is not None]
    return {
        "writer": identity,
        "n_candidates": len(candidates),
        "tokens": sum(candidate.written.tokens for candidate in candidates),
        "prompt_tokens": sum(candidate.written.prompt_tokens for candidate in candidates),
        "seconds": round(seconds, 3),
        "cost": float(sum(prices)) if len(prices) == len(costs) and costs else None,
    }


class Hit(NamedTuple):
    """A text fires a gap."""

    peak: float
    role: int
    """Index into ROLES of the strongest turn."""
    position: int


class Scores(NamedTuple):
    """What texts fire."""

    hits: list[dict[int, Hit]]
    """One dict a text: its gaps that fire at all."""
    features: np.ndarray
    """bool `[n_features]`: active above the threshold in at least one text."""


def score(
    encoder: Encoder,
    chats: Sequence[Chat],
    gaps: Iterable[int],
    *,
    threshold: float,
    progress: Progress,
) -> Scores:
    """Every text against every gap; a text without messages fires nothing."""
    is_gap = np.zeros(encoder.n_features, bool)
    is_gap[[*gaps]] = True
    features = np.zeros(encoder.n_features, bool)
    hits: list[dict[int, Hit]] = [{} for _ in chats]
    readable = [i for i, chat in enumerate(chats) if chat]
    parts = [readable[start : start + ENCODED] for start in range(0, len(readable), ENCODED)]
    batches = ([chats[i] for i in part] for part in parts)
    # An encoder may work on several lists of chats at once.
    encode_each = getattr(encoder, "encode_each", partial(map, encoder.encode))
    encoded = iter(encode_each(batches))
    for start, part in zip(range(0, len(readable), ENCODED), parts, strict=True):
        progress(start, len(readable), "measuring the texts")
        fired = next(encoded)
        features[fired.feature[coverage.is_active(fired.peak, threshold)]] = True
        rows = np.flatnonzero(is_gap[fired.feature])
        for sample, role, feature, peak, position in zip(
            *(fired[i][rows].tolist() for i in range(5)), strict=True
        ):
            strongest = hits[part[sample]]
            if feature not in strongest or peak > strongest[feature].peak:
                strongest[feature] = Hit(peak, role, position)
    return Scores(hits, features)


def hit_rows(names: Sequence[str], hits: Sequence[Mapping[int, Hit]]) -> list[Row]:
    """Rows of schema.HITS of the candidates of these names, by candidate and feature."""
    return [
        {
            "candidate": name,
            "feature": feature,
            "peak": hit.peak,
            "role": ROLES[hit.role],
            "position": hit.position,
        }
        for name, fires in sorted(zip(names, hits, strict=True), key=lambda each: each[0])
        for feature, hit in sorted(fires.items())
    ]


def support_of(runs: Runs, measure: str, n_features: int, threshold: float) -> np.ndarray:
    """Samples of a measure in which each feature is active: int64 `[n_features]`; a sample counts
    once whatever roles fire."""
    counts = np.zeros(n_features, np.int64)
    feature = sample = np.zeros(0, np.int32)
    for batch in runs.batches(measure, "activations", columns=["feature", "sample", "peak"]):
        active = coverage.is_active(batch.column("peak").to_numpy(), threshold)
        feature = np.concatenate([feature, batch.column("feature").to_numpy()[active]])
        sample = np.concatenate([sample, batch.column("sample").to_numpy()[active]])
        # Sorted by feature: only the last one may go on in the next batch.
        whole = int(np.searchsorted(feature, feature[-1])) if len(feature) else 0
        counts += coverage.distinct_samples(feature[:whole], sample[:whole], n_features)
        feature, sample = feature[whole:], sample[whole:]
    return counts + coverage.distinct_samples(feature, sample, n_features)
