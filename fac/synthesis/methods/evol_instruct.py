"""Baseline: a row of the dataset made harder or rarer, as Evol-Instruct asks."""

from collections.abc import Sequence

from fac.prompts import Prompt, rows
from fac.synthesis.plan import Ask, Grounds, Method, Style, Styles, ask_from_rows

EVOLUTIONS = tuple(Style(name, "prompt") for name in rows.EVOLUTIONS)


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every gap, each with another row, its evolutions in turns."""
    profile = grounds.spec.profile

    def words(style: Style, texts: Sequence[str]) -> Prompt:
        return rows.evol_instruct(profile, texts[0], style.name)

    return ask_from_rows(grounds, "evol-instruct", Styles(EVOLUTIONS, EVOLUTIONS), 1, words)


METHOD = Method(title="Baseline: rows made harder (Evol-Instruct)", preference=6, plan=plan)
