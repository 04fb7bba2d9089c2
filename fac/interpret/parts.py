"""What an explainer, a scorer and a judge are. Each is one file of its folder; nothing lists them.

Parts are imported where their title is shown, so a part imports slow libraries where it uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fac import config
from fac.config import ExplainSpec
from fac.interpret.evidence import Evidence
from fac.interpret.step_run import ExplainRun, JudgeRun, Row
from fac.registry import Registry
from fac.schema import CANNOT_TELL
from fac.store.runs import Runs

EXPLAINED = "explained"


@dataclass(kw_only=True)
class FeatureExplanation:
    """What an explainer says of one feature, a row of schema.EXPLANATIONS, and how good it is."""

    text: str | None
    """What the feature fires on; None where the explainer abstains or its reply is unreadable."""

    reason: str = ""
    """Why there is no text."""

    status: str = ""
    """"" is EXPLAINED, or CANNOT_TELL where there is no text."""

    inputs: str | None = None
    """JSON: what the explanation was made from."""

    prompt_hash: str = ""
    source: str = ""
    """Model, method version or file; "" is that of the run."""

    explainer: str = ""
    """"" is that of the run."""

    prediction: tuple[np.ndarray, np.ndarray] | None = None
    """(float how surely, bool whether) held-out samples fire, where the explainer predicts it."""

    examples: list[Row] = field(default_factory=list)
    """Its test, schema.EXAMPLES; each with its `span` where a language model reads them."""

    scores: list[Row] = field(default_factory=list)
    """schema.SCORES, as the scorers add them."""

    def __post_init__(self) -> None:
        self.status = self.status or (EXPLAINED if self.text else CANNOT_TELL)


Explanations = dict[int, FeatureExplanation]
"""By feature."""


Explain = Callable[[ExplainRun, Sequence[Evidence]], Explanations]
"""Explains a block of features; leaves out those that it says nothing of."""


class OpenExplainer(NamedTuple):
    """An explainer that has read what it needs of its spec."""

    explain: Explain

    version: str = ""
    """Another version is another run: digest of a file, of prompts, of a method."""

    source: str = ""
    """Who explains, where neither a model nor a file does."""


def repeating(texts: Explanations, version: str = "") -> OpenExplainer:
    """Says again what is said of features already."""
    return OpenExplainer(
        lambda _, items: {i.feature: texts[i.feature] for i in items if i.feature in texts}, version
    )


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """A way to explain features; `EXPLAINER` of a file of fac/interpret/explainers."""

    title: str
    """As people read it, within a sentence."""

    job_title: str
    """How a job says who explains, e.g. "by its tokens"; {model} is the model's name."""

    preference: int
    """Where a feature has several explanations, the lowest is shown first."""

    open: Callable[[ExplainSpec, Runs], OpenExplainer]
    """Raises InputError for a spec that names nothing that can be read."""

    needs_model: bool = False
    needs_file: bool = False

    @property
    def needs_nothing(self) -> bool:
        """Whether the measure run suffices; the text then says where a feature fires, no more."""
        return not self.needs_model and not self.needs_file


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A score of explanations; `SCORER` of a file of fac/interpret/scorers."""

    title: str
    meaning: str
    """What it says of an explanation, in a sentence."""

    preference: int
    """Where an explanation has several, the lowest stands beside it in tables."""

    in_tables: bool = True
    """Whether it may stand there."""

    score: Callable[[ExplainRun, Explanations], None]
    """Adds to the scores of each explanation, by feature; drops those that the model of a stopped
    run left unanswered."""

    needs_model: bool = False
    """Then a spec asks for it; without, it scores whatever explanation comes with a prediction."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge of relevance; `JUDGE` of a file of fac/interpret/judges."""

    title: str
    judge: Callable[[JudgeRun], Iterator[list[Row]]]
    """Rows of schema.RELEVANCE, a block of features at a time."""

    preference: int
    """The lowest is offered first."""

    needs_model: bool = False
    """And a rubric that the model judges by."""

    needs_label: bool = False


EXPLAINERS: Registry[Explainer] = config.EXPLAINERS
SCORERS: Registry[Scorer] = config.SCORERS
JUDGES: Registry[Judge] = config.JUDGES
