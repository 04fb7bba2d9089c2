"""Candidates: what was written for each gap, read in the form of a sample, and what it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from fac.config import WriteSpec
from fac.generator.writer import Written
from fac.prompts import drafts
from fac.prompts.drafts import BadDraft
from fac.schema import Chat
from fac.synthesis import filter as verdicts
from fac.synthesis.plan import Ask, Row, reply_key, seed_of


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
