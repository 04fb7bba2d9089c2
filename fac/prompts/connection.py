"""What a server is asked to see whether it can be worked with: a plain word, and a judge's question
whose answer has a form."""

from __future__ import annotations

from fac.prompts import form, relevance
from fac.prompts.form import Prompt

FRUIT = relevance.TaskProfile("fruit", "recipes with fruit", ("fruit", "baking"))

PLACES = (
    *("kitchen", "garden", "market", "school", "train", "office", "harbour", "village"),
    *("library", "mountain"),
)


def greeting() -> Prompt:
    """A question without a system message or a form, whose answer may be anything."""
    return Prompt(({"role": "user", "content": "Say good morning in one short sentence."},), {}, 64)


def question(number: int) -> Prompt:
    """A question as a judge of relevance asks it; another one for each of `len(PLACES)` numbers.
    `relevance.read_judgement` reads the answer."""
    place = PLACES[number]
    tokens = ("she", " ate", " an", " apple", " in", " the", f" {place}")
    excerpt = form.Excerpt(tokens, tuple(token == " apple" for token in tokens))
    return relevance.judge(FRUIT, "names of fruit", [excerpt])
