"""Fuzzing (Paulo et al. 2024): does a reader of the explanation tell which tokens fire?"""

from __future__ import annotations

from collections.abc import Sequence

from fac.interpret.evidence import excerpt_of
from fac.interpret.parts import Exam, Scorer
from fac.interpret.step_run import Row
from fac.prompts import Prompt, explaining


def _marked(examples: list[Row]) -> list[Row]:
    """The positives; every second one gets marks on tokens where it is silent."""
    positives = [row for row in examples if row["positive"]]
    for number, row in enumerate(positives):
        row["fuzz_right"] = number % 2 == 0
    return positives


def _prompt(text: str, examples: Sequence[Row]) -> Prompt:
    return explaining.fuzz(text, [excerpt_of(r["span"], right=r["fuzz_right"]) for r in examples])


SCORER = Scorer(
    title="Fuzzing",
    meaning="Balanced accuracy of a language model that says whether the marked tokens are the "
    "right ones.",
    score=Exam("fuzzing", _marked, _prompt, answer="fuzzed", truth="fuzz_right").take,
    preference=2,
    in_tables=False,
    needs_model=True,
)
