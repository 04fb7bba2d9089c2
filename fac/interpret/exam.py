"""The test that a language model takes for explanations: each with texts, some of which fire."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from fac import agreement
from fac.generator.batch_chat import Question
from fac.interpret.parts import Explanations
from fac.interpret.step_run import ExplainRun, Row, Unread
from fac.prompts import Prompt, scoring

PER_QUESTION = 5
"""Texts per detection or fuzzing question, as is common; fewer would leak less, and cost more."""


class Exam(NamedTuple):
    """One kind of test."""

    score: str
    """Its scorer's name."""

    select: Callable[[list[Row]], list[Row]]
    """Of a feature's held-out examples those that are asked about."""

    prompt: Callable[[str, Sequence[Row]], Prompt]
    """The question about an explanation and some examples."""

    answer: str
    """Column of the examples that takes the model's answer."""

    truth: str
    """Column of the examples with the right answer."""

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
                parse = partial(scoring.read_answers, n=len(part))
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


def score_row(
    feature: int,
    score: str,
    estimate: tuple[float, float, float, int, int],
    *,
    n_unreadable: int = 0,
) -> Row:
    """A row of schema.SCORES. `estimate`: value and its 95 % interval, NaN where undefined, number
    of samples and how many of them fire."""
    names = ("value", "low", "high", "n", "n_positive")
    columns = {k: None if math.isnan(x) else x for k, x in zip(names, estimate, strict=True)}
    return {"feature": feature, "score": score, **columns, "n_unreadable": n_unreadable}
