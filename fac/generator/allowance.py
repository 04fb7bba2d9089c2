"""What asking a server may cost, and how much of that is spent."""

from __future__ import annotations

from typing import NamedTuple

from fac.config import AskSpec
from fac.errors import BudgetReached
from fac.generator.chat import estimated_tokens, most_tokens
from fac.prompts import Prompt


class Limits(NamedTuple):
    """How fast and how far a run may go; see `AskSpec`."""

    concurrency: int = 8
    budget_tokens: int | None = None
    budget_usd: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    room: int = 0  # tokens that a reply may have at least, thoughts included

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars; None where a price is not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class Budget:
    """What may still be spent: what was spent, and what the questions on their way could take."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.tokens, self.usd = 0, 0.0
        self.reserved: dict[str, tuple[int, float]] = {}

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.tokens += prompt_tokens + completion_tokens
        self.usd += self.limits.cost(prompt_tokens, completion_tokens) or 0.0

    def reserve(self, key: str, prompt: Prompt) -> BudgetReached | None:
        """Sets the worst case of one question aside; the reason where it does not fit."""
        question_tokens = most_tokens(prompt)
        tokens = question_tokens + prompt.max_tokens
        usd = self.limits.cost(question_tokens, prompt.max_tokens) or 0.0
        limits, remedy = self.limits, "Every reply so far is kept; raise the budget to go on."
        taken = self.tokens + sum(tokens for tokens, _ in self.reserved.values())
        if limits.budget_tokens is not None and taken + tokens > limits.budget_tokens:
            return BudgetReached(
                f"The next question could take {tokens:,} tokens, but {self.tokens:,} of the "
                f"budget of {limits.budget_tokens:,} are used. {remedy}"
            )
        due = self.usd + sum(usd for _, usd in self.reserved.values())
        if limits.budget_usd is not None and due + usd > limits.budget_usd:
            return BudgetReached(
                f"The next question could cost ${usd:.4f}, but ${self.usd:.4f} of the budget of "
                f"${limits.budget_usd:.4f} is used. {remedy}"
            )
        self.reserved[key] = (tokens, usd)
        return None

    def release(self, key: str, prompt: Prompt, *, maybe_paid: bool = False) -> None:
        """The question is back. A reply that got lost on the way counts as if it had come."""
        del self.reserved[key]
        if maybe_paid:
            self.spend(estimated_tokens(prompt), prompt.max_tokens)


def limits_of(spec: AskSpec) -> Limits:
    """The limits that a spec sets."""
    return Limits(*(getattr(spec, name) for name in Limits._fields))
