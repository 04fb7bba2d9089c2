"""Baseline: like two rows of the dataset after thinking about them, as CoT-Self-Instruct asks."""

from collections.abc import Sequence

from fac.prompts import Prompt, rows
from fac.synthesis.plan import Ask, Grounds, Method, Style, Styles, ask_from_rows

SHOWN = 2  # rows of a request (Yu et al. 2025)
THINK = (Style("think", "prompt"),)


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap, each with other rows."""
    profile = grounds.spec.profile

    def words(_: Style, texts: Sequence[str]) -> Prompt:
        return rows.cot_self_instruct(profile, texts)

    return ask_from_rows(grounds, "cot-self-instruct", Styles(THINK, THINK), SHOWN, words)


METHOD = Method(title="Baseline: rows thought about (CoT-Self-Instruct)", preference=7, plan=plan)
