"""One question to a chat model, rules, a worked example and the case; and the one JSON object of
its reply."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fac.config import digest
from fac.errors import BadReply
from fac.prompts.fences import UNTRUSTED, one_line
from fac.schema import Message

MAX_TEXT = 2000
"""Characters of an explanation or a rationale; more is not what was asked for."""


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

LATE_TEXTS = (
    "the train was <<late>> again this morning",
    "Sorry for the <<delay>>, we ran into traffic",
    "our parcel arrived two weeks <<overdue>>",
)


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


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key occurs twice")
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_only_once, parse_constant=_no_constant)


def only_object(reply: str) -> dict[str, Any]:
    """The one JSON object of a reply, whatever prose or code fence stands around it.

    Thoughts in a leading <think> block do not count. Raises BadReply where there is no object,
    more than one, or a broken one: reading on inside a broken object could take a quotation for
    the answer.
    """
    text = without_thoughts(reply)
    objects: list[dict[str, Any]] = []
    at = text.find("{")
    while at >= 0:
        try:
            value, at = DECODER.raw_decode(text, at)
            objects.append(value)
        except (ValueError, RecursionError) as error:
            if re.compile(r'\{\s*"').match(text, at):
                raise bad_reply("the JSON object is broken or cut off", reply) from error
            at += 1  # a brace in prose
        at = text.find("{", at)
    if len(objects) != 1:
        raise bad_reply(
            f"it has {len(objects) or 'no'} JSON object{'s' * (len(objects) > 1)}", reply
        )
    return objects[0]


def without_thoughts(reply: str) -> str:
    text = reply.strip()
    return text.partition("</think>")[2] if text.startswith("<think>") else text


def bad_reply(why: str, reply: str) -> BadReply:
    return BadReply(f"The reply cannot be read, {why}: {start_of(reply)}")


def start_of(reply: str) -> str:
    start = one_line(reply.strip())
    return start[:80] + "…" * (len(start) > 80)


class Form(BaseModel):
    """Fields of a reply's object, no others; texts on one line, of at most MAX_TEXT characters."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @classmethod
    def read(cls, reply: str) -> Self:
        """Raises BadReply that names the first field at fault."""
        try:
            form = cls.model_validate(only_object(reply))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise bad_reply(f"{where!r}: {first['msg'].lower()}", reply) from error
        texts = {name: " ".join(text.split()) for name, text in form if isinstance(text, str)}
        for name, text in texts.items():
            if len(text) > MAX_TEXT:
                why = f"its {name} has {len(text)} characters, at most {MAX_TEXT} are read"
                raise bad_reply(why, reply)
        return form.model_copy(update=texts)
