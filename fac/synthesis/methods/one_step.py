"""Baseline: from the explanation and the anchor's spans, without pairs."""

from fac.synthesis.plan import Ask, Grounds, Method, ask_from_anchor


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap, as step 1 makes them."""
    steering, briefs = grounds.steering(), grounds.briefs(grounds.gaps)
    return ask_from_anchor(grounds.spec, briefs.values(), "one-step", steering, chats=grounds.chats)


METHOD = Method(title="Baseline: from the explanation alone", preference=1, plan=plan)
