"""Samples that a model writes for a gap: their forms, the prompts of steps 1 and 2 for chat models,
the lists that any model continues, and how a sample is read."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import BadReply, InputError
from fac.prompts.form import (
    ABOUT_LATENESS,
    BEGIN,
    END,
    LATE_TEXTS,
    Excerpt,
    Prompt,
    conversation,
    described,
    fenced,
    material,
    object_form,
    only_object,
    safe,
    start_of,
    without_thoughts,
)
from fac.schema import Message


class Profile(NamedTuple):
    """The form of a sample: what is asked for, and what becomes of it."""

    name: str  # how it is called on the command line
    title: str  # how it is called on the pages
    singular: str  # one of them, in words
    plural: str  # several of them, in words
    parts: dict[str, str]
    """What it consists of, by name, in order. A profile of one part is written as plain text; of
    several as a JSON object, or on one line with the capitalised names as marks."""

    rules: str  # what makes a good one
    example: dict[str, str]  # one about lateness, by part; what very small models copy
    max_tokens: int  # room that a reply in this form needs


BUILT_IN = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))

PROFILES = {name: Profile(name=name, **table) for name, table in BUILT_IN.items()}
"""Sample profiles after the paper's tasks, in our words."""


def profile_of(name: str) -> Profile:
    """Raises InputError for a name that no profile has."""
    if name not in PROFILES:
        raise InputError(f"The profile must be one of {', '.join(PROFILES)}, got {name!r:.40}.")
    return PROFILES[name]


def _mark(part: str) -> str:
    return f"{part.capitalize()}:"


class Draft(NamedTuple):
    """A sample as it was written, before any filter."""

    messages: list[Message]
    """The chat to be measured: for a preference the message and the good answer, for a choice the
    question with both answers under it, A and B."""

    extra: dict[str, Any]
    """What else the profile has: {"label": "1"} (toxicity), {"rejected": the other chat}
    (preference), {"choices": {"matching": "(A)", "other": "(B)"}} (choice), otherwise {}."""


class BadDraft(BadReply):
    """A reply that is no sample of its profile."""

    def __init__(self, problem: str, why: str, reply: str):
        self.problem = problem
        """unreadable, empty, refusal or cut off."""
        super().__init__(f"This is no sample, {why}: {start_of(reply)}")


WRITE = """\
You write {one}. You get a description of something that occurs in some texts, and texts in which \
it occurs; the words that show it most stand between << and >>.

Write a new one in which the same occurs, clearly and naturally: use the marked words, or words of \
the same kind in the same kind of place. {rules} Write about something else than the texts do, and \
do not copy, mention or explain them. Never write << or >>."""

CONTRAST = """\
You write {one}. You get a description of something that occurs in some texts, then one text in \
which it occurs and a similar one in which it does not, each with a measured strength. The words \
that show it most stand between << and >>.

Compare the two, find what makes the difference, and write a new one in which it occurs at least \
as strongly as in the first text. {rules} Write about something else than the two texts do, and \
do not mention or explain them. Never write << or >>."""

UNGUIDED = """\
You write {one}. {rules} Write about anything you like, as varied as the texts of many people \
would be. Do not explain it."""


def _reply_form(profile: Profile) -> tuple[str, dict[str, Any]]:
    """How the form of a reply is asked for, and its JSON schema."""
    if len(profile.parts) == 1:
        (what,) = profile.parts.values()
        return f"Answer with {what} alone, without quotation marks, title or remarks.", {}
    listed = ", ".join(f'"{name}": {what}' for name, what in profile.parts.items())
    strings = {name: {"type": "string"} for name in profile.parts}
    return f"Answer with one JSON object and nothing else: {{{listed}}}", object_form(strings)


def _writing(profile: Profile, rules: str, example: str, case: str) -> Prompt:
    asks, form = _reply_form(profile)
    system = rules.format(one=profile.singular, rules=profile.rules)
    answer = json.dumps(profile.example) if form else "".join(profile.example.values())
    turns = f"{example}\n\n{asks}", answer, f"{case}\n\n{asks}"
    return Prompt(conversation(system, *turns), form, profile.max_tokens)


def _candidate_case(explanation: str | None, texts: Sequence[str], avoid: str) -> str:
    if not avoid.strip():
        return material(explanation, texts)
    lines = material(explanation, texts, f"Already written: {safe(avoid)}")
    return f"{lines}\n\nWrite something unlike what is already written."


OVERDUE = "the rent is two weeks <<overdue>>"

CANDIDATE_EXAMPLE = _candidate_case(ABOUT_LATENESS, (*LATE_TEXTS[:2], OVERDUE), "")


def candidate_prompt(
    profile: str, explanation: str | None, spans: Sequence[Excerpt], avoid: str = ""
) -> Prompt:
    """Step 1 for a chat model: a sample in which the described feature fires.

    `avoid` is an earlier text for the same feature that the new one should not resemble. Raises
    ValueError where there is neither an explanation nor a span.
    """
    if not spans and not described(explanation):
        raise ValueError("there is neither an explanation nor a span to write from")
    case = _candidate_case(explanation, [span.text() for span in spans], avoid)
    return _writing(profile_of(profile), WRITE, CANDIDATE_EXAMPLE, case)


def _contrast_case(
    explanation: str | None, sides: tuple[str, str], peaks: tuple[float, float], keep: str | None
) -> str:
    lines = [
        *described(explanation),
        f"It occurs (strength {peaks[0]:.1f}): {sides[0]}",
        f"It does not (strength {peaks[1]:.1f}): {sides[1]}",
    ]
    if keep is None:
        ask = "Show it in other words than the marked ones, of the same meaning."
    else:
        lines.append(f"Phrase to keep: {safe(keep)}")
        ask = "The phrase to keep must occur in it word for word."
    return f"{fenced(lines)}\n\n{ask}"


REPORTS = (
    "Can you help me tell my boss that the report will be <<late>>?",
    "Can you help me tell my boss that the report will be long?",
)

CONTRAST_EXAMPLE = _contrast_case(ABOUT_LATENESS, REPORTS, (6.0, 0.0), "late")


def contrast_prompt(
    profile: str,
    explanation: str | None,
    positive: Excerpt,
    negative: Excerpt,
    positive_peak: float,
    negative_peak: float,
    keep: str | None,
) -> Prompt:
    """Step 2 for a chat model: a sample like the positive, from what sets it off the negative.

    Peaks are g_i of both sides in activation units. `keep` is the phrase that must occur word for
    word; the paper asks for it where the positive's score is above 4. None asks for other words.
    """
    sides, peaks = (positive.text(), negative.text()), (positive_peak, negative_peak)
    case = _contrast_case(explanation, sides, peaks, keep)
    return _writing(profile_of(profile), CONTRAST, CONTRAST_EXAMPLE, case)


def unguided_prompt(profile: str) -> Prompt:
    """The baseline for a chat model: a sample without any feature in mind."""
    form = profile_of(profile)
    asks, schema = _reply_form(form)
    system = UNGUIDED.format(one=form.singular, rules=form.rules)
    messages = ({"role": "system", "content": system}, {"role": "user", "content": asks})
    return Prompt(messages, schema, form.max_tokens)


class Opening(NamedTuple):
    """Text that a model goes on with: a list of samples with room for one more."""

    text: str
    """Ends in mid-line, without a space; the next sample goes on there. "" is the user's turn of
    an empty chat: what a chat model makes of it is a message of its own (Magpie)."""

    starts: str  # what of the next sample `text` already holds; "" where nothing


SNIPPET = 400  # characters of a text in a list; small models lose the thread of longer ones


def _opening(profile: Profile, head: str, lines: Sequence[str], starts: str) -> Opening:
    starts = safe(starts)
    if len(profile.parts) == 1:
        listed, mark = "\n".join(lines), ""
    else:
        example = " ".join(f"{_mark(part)} {profile.example[part]}" for part in profile.parts)
        form = f"A list of {profile.plural}:\n\n- {example}"
        listed = "\n".join((*lines, "", form)) if lines else form
        mark = f" {_mark(next(iter(profile.parts)))}"
    text = "\n\n".join(part for part in (head, listed) if part)
    return Opening(f"{text}\n-{mark}" + (f" {starts}" if starts else ""), starts)


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
    texts = (safe("".join(span.tokens)) for span in spans)
    lines = [f"- {text[:SNIPPET].rstrip()}" for text in texts if text]
    return _opening(form, head, lines, starts)


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
    return Prompt(conversation(CONTINUE, case), {}, max_tokens=256)


def continuation(reply: str, opening: Opening) -> str:
    """The rest of the line in a chat model's reply, which may say the whole line again."""
    lines = [line for line in without_thoughts(reply).splitlines() if line.strip()]
    line = lines[0].strip() if lines else ""
    last = opening.text.rpartition("\n")[2]
    for beginning in (last, last.removeprefix("-").strip(), opening.starts):
        if beginning and line.startswith(beginning):
            return line[len(beginning) :]
    return line if line[:1] in ("", *".,;:!?)…'’") else f" {line}"


CONTROL_TOKEN = re.compile(r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")

CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What no dataset may hold: a sample that is kept must be one that can be read back."""

MARKED = re.compile(r"(?:<<|‹‹)([^<>‹›\n]{1,200})(?:>>|››)")
"""The marks of prompts around words of the writer's own; small models cannot leave them out."""

PARROTED = re.compile(
    r"\bIt (?:occurs|does not) \(strength \d|\bPhrase to keep:|\bAlready written: |"
    rf"\bDescription: .*\nText 1: |{BEGIN}|{END}"
)
"""Lines of the prompts above, which very small models say again instead of writing."""

PREAMBLE = re.compile(
    r"\A(?:sure|certainly|of course|okay|here(?:['’]s| is| are)|new \w+)\b[^\n]*:\s*\n+", re.I
)
"""A line in which a chat model announces what it is about to write."""

SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|\Z)")

LABEL = re.compile(r"\A(?:[-*•]|query-?\s*\d*:|user:|message:|text \d+:|\d{1,2}[.)])\s+", re.I)

REFUSAL = re.compile(
    r"""
    \A\W*(?:
      (?:i['’]?m|i\ am)?\s*(?:(?:very|so|really|truly)\s)?(?:sorry|afraid)\b
        [^.?!]{0,60}?\b(?:can(?:no|['’])?t|unable|not\ able|won['’]?t|not\ comfortable
                       |do\ not|don['’]t)
        [^.?!]{0,40}\b(?:assist|help|compl|provid|creat|writ|generat|fulfil|answer|engage
                       |support|do\ th)
    | (?:unfortunately,?\s|i\ apologi[sz]e[^.?!]{0,20}?\s)?
      i\ (?:can(?:no|['’])?t|won['’]?t|will\ not|am\ unable\ to|am\ not\ able\ to|must\ decline)
        \b[^.?!]{0,40}\b(?:assist|help\ (?:you\ )?with|comply|provide|create|write|generate
                         |fulfil|engage|that\ request|this\ request)
    | as\ an\ (?:ai|artificial)\b
        [^.?!]{0,60}\b(?:can(?:no|['’])?t|not\ able|unable|don['’]t|do\ not)
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether the text begins as models begin when they decline to write."""
    return REFUSAL.match(text[:300]) is not None


def read_draft(profile: str, reply: str, starts: str = "", *, finished: bool = True) -> Draft:
    """The sample in a model's reply: a JSON object, a marked line, or plain text, by profile.

    `starts` is that of the opening the reply goes on from. A reply that is not `finished` counts
    up to its last whole sentence, and a sample of several parts not at all. Raises BadDraft with
    the problem: unreadable, empty, refusal, cut off.
    """
    form = profile_of(profile)
    sample = without_thoughts(reply) if not starts else starts + reply
    sample = MARKED.sub(r"\1", sample)
    if not sample.strip():
        raise BadDraft("empty", "it is empty", reply)
    if is_refusal(sample):
        raise BadDraft("refusal", "it declines", reply)
    if len(form.parts) == 1:
        parts = [_plain_sample(sample, finished, reply)]
    else:
        parts = _parts_of(form, sample, finished, reply)
    for text in parts:
        if not re.search(r"\w", text):
            raise BadDraft("empty", "a part of it is empty", reply)
        if is_refusal(text) and form.name != "preference":
            raise BadDraft("refusal", "it declines", reply)
        if CONTROL_TOKEN.search(text):
            raise BadDraft("unreadable", "it holds a control token of a chat template", reply)
        if PARROTED.search(text):
            raise BadDraft("unreadable", "it repeats lines of its prompt", reply)
        if control := CONTROL_CHARACTER.search(text):
            code = f"U+{ord(control[0]):04X}"
            raise BadDraft("unreadable", f"it holds the control character {code}", reply)
    if parts[0] in (form.example[name] for name in form.parts):
        raise BadDraft("unreadable", "it repeats the worked example", reply)
    return _draft(form, parts)


def _draft(form: Profile, parts: list[str]) -> Draft:
    def chat(user: str, *assistant: str) -> list[Message]:
        answers = [{"role": "assistant", "content": text} for text in assistant]
        return [{"role": "user", "content": user}, *answers]

    if form.name == "preference":
        return Draft(chat(parts[0], parts[1]), {"rejected": chat(parts[0], parts[2])})
    if form.name == "choice":
        question, matching, other = parts
        swapped = int(digest(question), 16) % 2 == 1  # no letter means anything over many samples
        first, second = (other, matching) if swapped else (matching, other)
        letters = ("(B)", "(A)") if swapped else ("(A)", "(B)")
        listed = f"{question}\n\nChoices:\n(A) {first}\n(B) {second}"
        choices = dict(zip(("matching", "other"), letters, strict=True))
        return Draft(chat(listed), {"choices": choices})
    return Draft(chat(*parts), {"label": "1"} if form.name == "toxicity" else {})


def _plain_sample(sample: str, finished: bool, reply: str) -> str:
    """Plain text without what chat models put around it."""
    text = PREAMBLE.sub("", sample.strip())
    text = "\n".join(LABEL.sub("", line.strip()) for line in text.splitlines()).strip()
    if not finished:
        ends = [end.end() for end in SENTENCE_END.finditer(text)]
        if not ends:
            raise BadDraft("cut off", "it ends before its first sentence does", reply)
        text = text[: ends[-1]]
    for left, right in ('""', "“”", "''", "``"):
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner:
            text = inner.strip()
    return text


def _parts_of(form: Profile, sample: str, finished: bool, reply: str) -> list[str]:
    """The parts of a sample from one JSON object or from one line with marks."""
    if not finished:
        raise BadDraft("cut off", "it is cut off", reply)
    marks = [_mark(part) for part in form.parts]
    later = "".join(rf"{re.escape(mark)}\s*(.+?)\s*" for mark in marks[1:])
    line = re.fullmatch(rf"\s*(?:{re.escape(marks[0])})?\s*(.+?)\s*{later}", sample)
    if line and not any(mark in part for mark in marks for part in line.groups()):
        return list(line.groups())
    try:
        fields = only_object(sample)
    except BadReply as error:
        raise BadDraft("unreadable", "it has no form that was asked for", reply) from error
    if set(fields) != set(form.parts) or not all(isinstance(v, str) for v in fields.values()):
        names = ", ".join(form.parts)
        raise BadDraft("unreadable", f"its object should hold the strings {names}", reply)
    return [fields[part].strip() for part in form.parts]
