"""Baseline: as two steps write, from the anchor's uses of the words alone: no pair says which words
make the difference and what to avoid."""

from fac.synthesis.methods.two_step import PairBrief, ask_from_pairs
from fac.synthesis.plan import Ask, Grounds, Method


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap that the anchor shows."""
    briefs = grounds.briefs(grounds.gaps)
    pairs = [PairBrief.none(feature) for feature, brief in briefs.items() if brief.spans]
    steering, chats = grounds.steering(), grounds.chats
    return ask_from_pairs(grounds.spec, pairs, briefs, steering, chats=chats, method="words")


METHOD = Method(title="Baseline: from the anchor's words, no pairs", preference=4, plan=plan)
