"""Baseline: like three rows of the dataset, as Alpaca's way of Self-Instruct asks."""

from collections.abc import Sequence

from fac.prompts import Prompt, rows
from fac.prompts.drafts import Opening
from fac.synthesis.plan import STEP_1, Ask, Grounds, Method, Style, ask_from_rows

SHOWN = 3  # rows of a request (Taori et al. 2023)


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap, each with other rows."""
    profile = grounds.spec.profile

    def words(style: Style, texts: Sequence[str]) -> Prompt | Opening:
        if style.form == "prompt":
            return rows.alpaca(profile, texts)
        return rows.alpaca_opening(profile, texts)

    return ask_from_rows(grounds, "alpaca", STEP_1, SHOWN, words)


METHOD = Method(title="Baseline: like rows of the dataset (Alpaca)", preference=5, plan=plan)
