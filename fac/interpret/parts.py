"""What an explainer, a scorer and a judge are. Each is one file of its folder; nothing lists them.

Parts are imported where their title is shown, so a part imports slow libraries where it uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from fac import agreement, config
from fac.config import ExplainSpec
from fac.generator.batch_chat import Question
from fac.interpret.evidence import Evidence
from fac.interpret.imported import Imported
from fac.interpret.step_run import ExplainRun, JudgeRun, Row, Unread
from fac.prompts import Prompt, explaining
from fac.registry import Registry
from fac.schema import CANNOT_TELL
from fac.store.runs import Runs

EXPLAINED = "explained"


@dataclass(kw_only=True)
class FeatureExplanation:
    """What an explainer says of one feature, a row of schema.EXPLANATIONS, and how good it is."""

    text: str | None  # what the feature fires on; None: it abstains, or its reply is unreadable
    reason: str = ""  # why there is no text
    status: str = ""  # "" is EXPLAINED, or CANNOT_TELL where there is no text
    inputs: str | None = None  # JSON: what the explanation was made from
    prompt_hash: str = ""
    source: str = ""  # model, method version or file; "" is that of the run
    explainer: str = ""  # "" is that of the run
    prediction: tuple[np.ndarray, np.ndarray] | None = None
    """(float how surely, bool whether) held-out samples fire, where the explainer predicts it."""

    lengths: np.ndarray | None = None  # of those samples, in tokens: what length alone foretells
    n_firing: int = 0  # samples of the measure in which the feature fires
    by_length: float | None = None  # what the lengths alone reach, where the prediction has a score

    examples: list[Row] = field(default_factory=list)
    """Its test, schema.EXAMPLES; each with its `span` where a language model reads them."""

    scores: list[Row] = field(default_factory=list)  # schema.SCORES, as the scorers add them

    def __post_init__(self) -> None:
        self.status = self.status or (EXPLAINED if self.text else CANNOT_TELL)


Explanations = dict[int, FeatureExplanation]  # by feature

Explain = Callable[[ExplainRun, Sequence[Evidence]], Explanations]
"""Explains a block of features; leaves out those that it says nothing of."""


class OpenExplainer(NamedTuple):
    """An explainer that has read what it needs of its spec."""

    explain: Explain
    version: str = ""  # another is another run: digest of a file, of prompts, of a method
    source: str = ""  # who explains, where neither a model nor a file does
    rows: Imported | None = None  # of a file: what became of each


def repeating(texts: Explanations, version: str = "") -> OpenExplainer:
    """Says again what is said of features already."""
    return OpenExplainer(
        lambda _, items: {i.feature: texts[i.feature] for i in items if i.feature in texts}, version
    )


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """A way to explain features; `EXPLAINER` of a file of fac/interpret/explainers."""

    title: str  # as people read it, within a sentence
    job_title: str  # how a job says who explains: "by its tokens"; {model} is the model's name
    preference: int  # where a feature has several explanations, the lowest is shown first
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
    meaning: str  # what it says of an explanation, in a sentence
    preference: int  # of several, the lowest stands beside the explanation in tables
    in_tables: bool = True  # whether it may stand there
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

    preference: int  # the lowest is offered first
    needs_model: bool = False  # and a rubric that the model judges by
    needs_label: bool = False


EXPLAINERS: Registry[Explainer] = config.EXPLAINERS
SCORERS: Registry[Scorer] = config.SCORERS
JUDGES: Registry[Judge] = config.JUDGES


PER_QUESTION = 5  # texts per question, as is common; fewer would leak less, and cost more


class Exam(NamedTuple):
    """A test that a language model takes for explanations: texts, some of which fire."""

    score: str  # its scorer's name
    select: Callable[[list[Row]], list[Row]]
    """Of a feature's held-out examples those that are asked about."""

    prompt: Callable[[str, Sequence[Row]], Prompt]
    """The question about an explanation and some examples."""

    answer: str  # column of the examples that takes the model's answer
    truth: str  # column of the examples with the right answer

    def take(self, run: ExplainRun, explanations: Explanations) -> None:
        """Has the model take it for every explained feature; drops the unanswered."""
        sheets: dict[int, list[tuple[Question, list[Row]]]] = {}
        for feature, explanation in explanations.items():
            text, rows = explanation.text, self.select(explanation.examples)
            parts = [rows[at : at + PER_QUESTION] for at in range(0, len(rows), PER_QUESTION)]
            sheets[feature] = [
                (Question(f"{self.score}/{feature}/{number}", self.prompt(text, part)), part)
                for number, part in enumerate(parts)
                if text
            ]
        questions = [question for sheet in sheets.values() for question, _ in sheet]
        replies = run.ask(questions, share=len(explanations) // 3, note=f"scoring by {self.score}")
        for feature, sheet in sheets.items():
            if any(question.about not in replies for question, _ in sheet):
                del explanations[feature]
                continue
            answered: list[Row] = []
            for question, part in sheet:
                parse = partial(explaining.read_answers, n=len(part))
                answers = run.read(replies[question.about], parse)
                if not isinstance(answers, Unread):
                    answered += part
                    for row, yes in zip(part, answers, strict=True):
                        row[self.answer] = yes
            if sheet:
                truth = [bool(row[self.truth]) for row in answered]
                accuracy = agreement.balanced_accuracy([r[self.answer] for r in answered], truth)
                unreadable = sum(len(part) for _, part in sheet) - len(answered)
                row = score_row(feature, self.score, accuracy, n_unreadable=unreadable)
                explanations[feature].scores.append(row)


Interval = tuple[float, float, float, int, int]
"""A value and its 95 % interval, NaN where undefined; of n samples, how many of which fire."""


def score_row(feature: int, score: str, estimate: Interval, n_unreadable: int = 0) -> Row:
    """A row of schema.SCORES."""
    names = ("value", "low", "high", "n", "n_positive")
    columns = {k: None if math.isnan(x) else x for k, x in zip(names, estimate, strict=True)}
    return {"feature": feature, "score": score, **columns, "n_unreadable": n_unreadable}
