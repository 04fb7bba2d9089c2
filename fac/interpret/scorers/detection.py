"""Detection (Paulo et al. 2024): does a reader of the explanation tell which texts fire?"""

from __future__ import annotations

from collections.abc import Sequence

from fac.interpret.evidence import excerpt_of
from fac.interpret.parts import Exam, Scorer
from fac.interpret.step_run import Row
from fac.prompts import Prompt, explaining


def _prompt(text: str, examples: Sequence[Row]) -> Prompt:
    return explaining.detect(text, [excerpt_of(row["span"], marks=False) for row in examples])


SCORER = Scorer(
    title="Detection",
    meaning="Balanced accuracy of a language model that reads the explanation and says which "
    "held-out texts fire.",
    score=Exam("detection", list, _prompt, answer="detected", truth="positive").take,
    preference=1,
    needs_model=True,
)
