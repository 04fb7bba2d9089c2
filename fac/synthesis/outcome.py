"""What a synthesis amounts to, in figures, and what a few of its gaps say about all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fac.agreement import wilson
from fac.config import digest
from fac.manifest import SynthesisManifest
from fac.synthesis.filter import CandidateVerdict
from fac.synthesis.plan import Row


def counted(verdicts: Sequence[CandidateVerdict], gaps: Sequence[int]) -> Row:
    """How many were kept, dropped and why, how many gaps got a sample of their own, and how many
    the first 1, 2, ... kept samples of the greedy set cover cover: where that curve is flat, more
    samples of these add nothing."""
    kept = [verdict for verdict in verdicts if verdict.kept]
    hit = len({verdict.feature for verdict in kept} & {*gaps})
    low, high = wilson(hit, len(gaps))
    gains = sorted((len(verdict.gains) for verdict in kept), reverse=True)
    return {
        "kept": len(kept),
        "dropped": dict(Counter(v.reason for v in verdicts if not v.kept).most_common()),
        "accepted": sum(verdict.rank >= 0 for verdict in verdicts),
        "gaps": len(gaps),
        "gaps_hit": hit,
        "hit_rate": hit / len(gaps),
        "hit_rate_low": low,
        "hit_rate_high": high,
        "curve": np.cumsum(gains, dtype=int).tolist(),
    }


def per_feature(figures: Row) -> Row:
    """The ledger per newly covered feature; None where none was."""
    n = figures["features_gained"]
    return {
        f"{name}_per_feature": figures[name] / n if n and figures[name] is not None else None
        for name in ("tokens", "seconds", "cost")
    }


PILOT = 3
"""Gaps of a pilot."""


class Forecast(NamedTuple):
    """What a whole synthesis will take, from a few of its gaps."""

    run: str
    """The pilot, a finished run like any other."""
    candidates: int
    accepted: int
    """Of those, texts that passed every check and fire their gap."""
    rate: float
    low: float
    high: float
    """Wilson's 95 % interval of the acceptance rate."""
    hit_rate: float
    """Share of the pilot's gaps that got a sample."""
    tokens_per_kept: float | None
    seconds_per_kept: float | None
    cost_per_kept: float | None
    """None where nothing was kept, or no price is known."""
    tokens: float
    prompt_tokens: float
    seconds: float
    cost: float | None
    """Expected for all gaps; `tokens` are those of the texts."""


def pilot_pairs(approved: Sequence[str], gaps: int = PILOT) -> tuple[str, ...]:
    """Which of the pairs a pilot takes: always the same, in no order of features or scores."""
    return tuple(sorted({*approved}, key=lambda name: digest("pilot", name))[:gaps])


def forecast(manifest: SynthesisManifest, gaps: int) -> Forecast:
    """What `gaps` gaps will take if they go as those of a finished run did."""
    facts = manifest.facts
    n, share = facts.n_candidates, gaps / facts.gaps
    low, high = wilson(facts.accepted, n)
    return Forecast(
        run=manifest.run,
        candidates=n,
        accepted=facts.accepted,
        rate=facts.accepted / n,
        low=low,
        high=high,
        hit_rate=facts.hit_rate,
        tokens_per_kept=facts.tokens / facts.kept if facts.kept else None,
        seconds_per_kept=facts.seconds / facts.kept if facts.kept else None,
        cost_per_kept=facts.cost / facts.kept if facts.kept and facts.cost is not None else None,
        tokens=facts.tokens * share,
        prompt_tokens=facts.prompt_tokens * share,
        seconds=facts.seconds * share,
        cost=facts.cost * share if facts.cost is not None else None,
    )
