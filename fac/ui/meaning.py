"""Names of before, until no page uses them."""

from __future__ import annotations

from collections.abc import Sequence

from fac.prompts.relevance import TaskProfile
from fac.questions import explanations, relevance
from fac.questions.relevance import Relevance
from fac.ui.explanations import (
    LEVEL_NAMES,
    explain_by_tokens,
    explain_form,
    explaining,
    headline,
    people_say,
)
from fac.ui.jobs import key_line
from fac.ui.stores import stores

__all__ = [
    "LEVEL_NAMES",
    "Relevance",
    "explain_by_tokens",
    "explain_form",
    "explaining",
    "headline",
    "key_line",
    "people_say",
]


def explained(run: str) -> list[str]:
    return explanations.explained(stores(), run)


def explained_measure(explain_run: str) -> str:
    return explanations.explained_measure(stores(), explain_run)


def explanation_texts(run: str, *, every: bool = False) -> list[tuple[str, int, str]]:
    return explanations.texts(stores(), run, every=every)


def names(run: str, features: Sequence[int]) -> dict[int, str]:
    return explanations.names(stores(), run, features)


def tasks() -> dict[str, TaskProfile]:
    return relevance.task_profiles(stores().runs)


def judged(anchor: str) -> dict[str, str]:
    return {task: each.run for task, each in relevance.judged(stores(), anchor).items()}
