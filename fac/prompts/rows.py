"""What a writer is told that is shown rows of the dataset and knows of no feature: the ways of
Alpaca, Evol-Instruct and CoT-Self-Instruct, in our words."""

from __future__ import annotations

from collections.abc import Sequence

from fac.prompts.drafts import REPLY_ROOM, SNIPPET, Opening, asks
from fac.prompts.form import Prompt, conversation, material, safe
from fac.prompts.profiles import first_part

MORE = """\
You write {one}. You get some that people wrote. Write another one, of another kind and about \
something else than these. {rules} Do not mention or explain them."""

EVOLVE = """\
You write {one}. You get one that a person wrote. {how} {rules} It must make sense to somebody \
who does not know the first one. Do not mention or explain it."""

EVOLUTIONS = {
    "narrow": "Rewrite it with one more condition or requirement.",
    "deepen": "Rewrite it so that it goes further into the matter.",
    "concrete": "Rewrite it with more specific notions in place of general ones.",
    "reason": "Rewrite it so that it takes several steps of reasoning.",
    "broaden": "Write a new one of the same field, about something that comes up more rarely.",
}
"""Ways to evolve an instruction: four of depth, one of breadth (Xu et al. 2023, WizardLM)."""

REASON = """\
You write {one}. You get two that people wrote. First think, between <think> and </think>, about \
what they have in common: field, kind of task, difficulty, how they are put; and plan another one \
of the same quality. After </think> write it. {rules} Do not mention or explain the two."""

THOUGHTS = 256  # tokens more, for the thoughts


def alpaca(profile: str, texts: Sequence[str]) -> Prompt:
    """One more like the texts but unlike each, for a chat model (Taori et al. 2023, after Wang et
    al. 2023)."""
    return _shown(profile, MORE, texts)


def alpaca_opening(profile: str, texts: Sequence[str]) -> Opening:
    """The same for any local model: a list of the texts, as far as the next one."""
    lines = [f"- {safe(text)[:SNIPPET].rstrip()}" for text in texts]
    return Opening("\n".join((f"A list of {first_part(profile).plural}:\n", *lines, "-")), "")


def evol_instruct(profile: str, text: str, evolution: str) -> Prompt:
    """The text rewritten in one of the EVOLUTIONS. Raises KeyError for another."""
    return _shown(profile, EVOLVE.replace("{how}", EVOLUTIONS[evolution]), [text])


def cot_self_instruct(profile: str, texts: Sequence[str]) -> Prompt:
    """One more after thinking about what the texts share (Yu et al. 2025); the thoughts are no part
    of the sample."""
    return _shown(profile, REASON, texts, THOUGHTS, THOUGHT)


EXAMPLES = ("When does the bakery open on Sundays?", "Two lines that thank a neighbour, please.")
"""The rows of the worked example, which is answered with the profile's own."""

THOUGHT = "<think>Both are short, friendly and of everyday life. Mine: something late.</think>\n"


def _shown(
    profile: str, rules: str, texts: Sequence[str], more: int = 0, thought: str = ""
) -> Prompt:
    form = first_part(profile)
    (answer,) = form.example.values()
    turns = (
        f"{material(None, [safe(text)[:SNIPPET] for text in rows])}\n\n{asks(form)}"
        for rows in (EXAMPLES[: len(texts)], texts)
    )
    question, case = turns
    system = rules.format(one=form.singular, rules=form.rules)
    messages = conversation(system, question, f"{thought}{answer}", case)
    return Prompt(messages, {}, REPLY_ROOM + more)
