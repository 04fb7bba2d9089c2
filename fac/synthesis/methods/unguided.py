"""Baseline: as many texts as the other methods write, from words that say nothing of the gap."""

from fac.prompts import drafts
from fac.synthesis.plan import STEP_1, Ask, Grounds, Method, ask_for, in_turns


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap, the same for all."""
    spec = grounds.spec
    prompt, opening = (
        drafts.unguided_prompt(spec.profile),
        drafts.unguided_opening(spec.profile, chats=grounds.chats),
    )
    return [
        ask_for("unguided", gap, number, style, prompt if style.form == "prompt" else opening)
        for gap in grounds.gaps
        for number, style in in_turns(STEP_1, spec, chats=grounds.chats)
    ]


METHOD = Method(title="Baseline: told nothing", preference=2, plan=plan)
