"""One question to a chat model: rules, a worked example, the case, and the form of its reply."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fac.config import digest
from fac.prompts.fences import UNTRUSTED
from fac.schema import Message


class Prompt(NamedTuple):
    """One question to a chat model."""

    messages: tuple[Message, ...]
    """Each {"role", "content"}; the last one is the question."""

    form: dict[str, Any]
    """JSON schema of the reply, within what strict structured output accepts; {} is free text."""

    max_tokens: int
    """Room for the reply."""

    temperature: float = 0.0
    """0 asks for the likeliest reply."""

    draw: int = 0
    """Seed of the reply above temperature 0, so that the same words can be asked several times."""

    @property
    def key(self) -> str:
        """Names exactly this question, and which draw of it."""
        drawn = (self.temperature, self.draw) if self.temperature or self.draw else ()
        return digest(self.messages, self.form, *drawn)


ABOUT_LATENESS = "words saying that something or someone is late or delayed"


def object_form(properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema in the dialect of strict structured output: all required, nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def worked_prompt(
    rules: str,
    example: tuple[str, dict[str, Any]],
    case: str,
    properties: dict[str, Any],
    max_tokens: int,
) -> Prompt:
    question, answer = example
    return Prompt(
        (
            {"role": "system", "content": f"{rules}\n\n{UNTRUSTED}"},
            {"role": "user", "content": question},
            {"role": "assistant", "content": json.dumps(answer)},
            {"role": "user", "content": case},
        ),
        object_form(properties),
        max_tokens,
    )
