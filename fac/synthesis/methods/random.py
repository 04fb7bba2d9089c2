"""Baseline: as in one step, but about some other feature of the anchor."""

import math
from collections.abc import Sequence

import numpy as np

from fac import coverage
from fac.config import digest
from fac.errors import InputError
from fac.store.runs import Runs
from fac.synthesis.plan import Ask, Grounds, Method, ask_from_anchor
from fac.synthesis.scoring import support_of


def plan(grounds: Grounds) -> list[Ask]:
    """The requests for other features, as candidates of the gaps they stand for; their style says
    of which feature they are."""
    spec, about, steering = grounds.spec, grounds.about, grounds.steering()
    stand_ins = _stand_ins(grounds.runs, about.anchor, grounds.gaps, about.features, spec.seed)
    briefs = grounds.briefs(stand_ins.values())
    asks = []
    for gap, feature in stand_ins.items():
        requests = ask_from_anchor(spec, [briefs[feature]], "random", steering, chats=grounds.chats)
        for ask in requests:
            method, _, number, style = ask.request.key.split("/")
            other = f"{style}-of-{feature}"
            request = ask.request._replace(key=f"{method}/{gap:06d}/{number}/{other}")
            style = ask.style.replace(style, other, 1)
            asks.append(ask._replace(request=request, feature=gap, style=style))
    return asks


def _stand_ins(
    runs: Runs, anchor: str, gaps: Sequence[int], every_gap: Sequence[int], seed: int
) -> dict[int, int]:
    """For each gap a random feature of the anchor that is no gap; each once if they suffice."""
    facts = runs.manifest(anchor).facts
    fired = support_of(runs, anchor, facts.n_features, -math.inf)
    eligible = coverage.everywhere_relevant(fired, facts.n_read)
    eligible[[*every_gap]] = False
    pool = np.flatnonzero(eligible)
    if not len(pool):
        raise InputError("The anchor shows no feature that is not a gap, so none can be random.")
    rng = np.random.default_rng(int(digest("random feature", anchor, seed), 16))
    order = rng.permutation(pool).tolist()
    return {gap: order[i % len(order)] for i, gap in enumerate(gaps)}


METHOD = Method(title="Baseline: for some other feature", preference=3, plan=plan)
