"""Lists of samples that any model goes on with, chat or not, and the line it adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fac.prompts.fences import UNTRUSTED, Excerpt, fenced, safe
from fac.prompts.form import Prompt, without_thoughts
from fac.prompts.profiles import Profile, described, mark_of, profile_of


class Opening(NamedTuple):
    """Text that a model goes on with: a list of samples with room for one more."""

    text: str
    """Ends in mid-line, without a space; the next sample goes on there. "" is the user's turn of
    an empty chat: what a chat model makes of it is a message of its own (Magpie)."""

    starts: str
    """What of the next sample `text` already holds; "" where nothing."""


SNIPPET = 400
"""Characters of a snippet or a positive in a list; small models lose the thread of longer ones."""


def _listed(texts: Sequence[Excerpt]) -> list[str]:
    lines = (safe("".join(text.tokens)) for text in texts)
    return [f"- {text[:SNIPPET].rstrip()}" for text in lines if text]


def _opening(profile: Profile, head: str, lines: Sequence[str], starts: str) -> Opening:
    starts = safe(starts)
    if len(profile.parts) == 1:
        listed, mark = "\n".join(lines), ""
    else:
        form = f"A list of {profile.plural}:\n\n- {_on_a_line(profile, profile.example)}"
        listed = "\n".join((*lines, "", form)) if lines else form
        mark = f" {mark_of(next(iter(profile.parts)))}"
    text = "\n\n".join(part for part in (head, listed) if part)
    return Opening(f"{text}\n-{mark}" + (f" {starts}" if starts else ""), starts)


def _on_a_line(profile: Profile, sample: Mapping[str, str]) -> str:
    return " ".join(f"{mark_of(part)} {sample[part]}" for part in profile.parts)


def candidate_opening(
    profile: str, explanation: str | None, spans: Sequence[Excerpt], starts: str = ""
) -> Opening:
    """Step 1 for any model, chat or not: the list of snippets is continued by one line.

    The sample begins with `starts`. Raises ValueError where there is neither an explanation nor a
    span.
    """
    form = profile_of(profile)
    if not spans and not described(explanation):
        raise ValueError("there is neither an explanation nor a span to write from")
    about = f" ({safe(explanation)[:SNIPPET]})" if explanation and explanation.strip() else ""
    listed = form.plural if len(form.parts) == 1 else "snippets of texts"
    head = f"A list of {listed}. All of them have the same thing in common{about}:"
    return _opening(form, head, _listed(spans), starts)


def contrast_opening(
    profile: str, explanation: str | None, positives: Sequence[Excerpt], starts: str = ""
) -> Opening:
    """Step 2 for any model: a list of texts that fire the feature, strongest last.

    The sample begins with `starts`: the positive's words up to and with its peak phrase, so that
    the phrase must occur. Raises ValueError without positives.
    """
    if not positives:
        raise ValueError("there is no positive to write from")
    return candidate_opening(profile, explanation, positives, starts)


def unguided_opening(profile: str) -> Opening:
    """The baseline for a local model, without any feature: the user's turn of an empty chat, as
    Magpie (Xu et al. 2024) has it; for samples of several parts a list that shows their form."""
    form = profile_of(profile)
    return Opening("", "") if len(form.parts) == 1 else _opening(form, "", [], "")


CONTINUE = """\
You continue lists. You get the beginning of a list whose last line is unfinished. Finish that one \
line in the manner of the list, and write no other."""

CONTINUE_ASKS = "Answer with the rest of the last line alone, without remarks."


def continuing(opening: Opening) -> Prompt:
    """The same list for a chat model, which answers with the rest of the last line.

    Raises ValueError for the opening that is an empty chat: a server has no door for it.
    """
    if not opening.text:
        raise ValueError("a server cannot continue an empty chat; ask it with unguided_prompt")
    case = f"{fenced(opening.text.splitlines())}\n\n{CONTINUE_ASKS}"
    return Prompt(
        (
            {"role": "system", "content": f"{CONTINUE}\n\n{UNTRUSTED}"},
            {"role": "user", "content": case},
        ),
        {},
        256,
    )


def continuation(reply: str, opening: Opening) -> str:
    """The rest of the line in a chat model's reply, which may say the whole line again."""
    lines = [line for line in without_thoughts(reply).splitlines() if line.strip()]
    line = lines[0].strip() if lines else ""
    last = opening.text.rpartition("\n")[2]
    for beginning in (last, last.removeprefix("-").strip(), opening.starts):
        if beginning and line.startswith(beginning):
            return line[len(beginning) :]
    return line if line[:1] in ("", *".,;:!?)…'’") else f" {line}"
