"""Samples that a model writes for a gap: their forms, the prompts of steps 1 and 2 for chat models,
the lists that any model continues, and how a sample is read.

A sample is written role by role: what is asked for first is its first part alone, the message; the
later ones (`later_parts`), an answer for one, are asked for once there is a message to answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import BadReply
from fac.prompts.form import (
    ABOUT_LATENESS,
    BEGIN,
    END,
    LATE_TEXTS,
    MAX_REPLY,
    Excerpt,
    Prompt,
    conversation,
    described,
    fenced,
    material,
    safe,
    start_of,
    too_long,
    without_thoughts,
)
from fac.prompts.profiles import Profile, first_part, later_parts, profile_of
from fac.schema import Message


class Draft(NamedTuple):
    """A sample as it was written, before any filter."""

    messages: list[Message]
    """The chat to be measured. As long as later parts are to come it is the message alone; then
    message and answer, for a preference the good one, for a choice the question with both answers
    under it, A and B."""

    extra: dict[str, Any]
    """What else the profile has: {"label": "1"} (toxicity), {"rejected": the other chat}
    (preference), {"choices": {"matching": "(A)", "other": "(B)"}} (choice), otherwise {}. What
    comes with later parts is not there before them."""


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


REPLY_ROOM = 256  # tokens that one part of a sample may have where nothing else is said


def asks(form: Profile) -> str:
    """How a prompt ends that is to be answered with a sample's first part alone."""
    (what,) = form.parts.values()
    return f"Answer with {what} alone, without quotation marks, title or remarks."


def _writing(profile: str, rules: str, example: str, case: str) -> Prompt:
    form = first_part(profile)
    what = asks(form)
    (answer,) = form.example.values()
    turns = f"{example}\n\n{what}", answer, f"{case}\n\n{what}"
    system = rules.format(one=form.singular, rules=form.rules)
    return Prompt(conversation(system, *turns), {}, REPLY_ROOM)


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
    return _writing(profile, WRITE, CANDIDATE_EXAMPLE, case)


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
    return _writing(profile, CONTRAST, CONTRAST_EXAMPLE, case)


def unguided_prompt(profile: str) -> Prompt:
    """The baseline for a chat model: a sample without any feature in mind."""
    form = first_part(profile)
    system = UNGUIDED.format(one=form.singular, rules=form.rules)
    messages = ({"role": "system", "content": system}, {"role": "user", "content": asks(form)})
    return Prompt(messages, {}, REPLY_ROOM)


class Opening(NamedTuple):
    """Text that a model goes on with: a list of samples with room for one more."""

    text: str
    """Ends in mid-line, without a space; the next sample goes on there. "" is the user's turn of
    an empty chat: what a chat model makes of it is a message of its own (Magpie)."""

    starts: str  # what of the next sample `text` already holds; "" where nothing


SNIPPET = 400  # characters of a text in a list; small models lose the thread of longer ones


def _opening(head: str, lines: Sequence[str], starts: str) -> Opening:
    starts = safe(starts)
    text = "\n\n".join(part for part in (head, "\n".join(lines)) if part)
    return Opening(f"{text}\n-" + (f" {starts}" if starts else ""), starts)


def candidate_opening(
    profile: str, explanation: str | None, spans: Sequence[Excerpt], starts: str = ""
) -> Opening:
    """Step 1 for any model, chat or not: the list of snippets is continued by one line.

    The sample begins with `starts`. Raises ValueError where there is neither an explanation nor a
    span.
    """
    form = first_part(profile)
    if not spans and not described(explanation):
        raise ValueError("there is neither an explanation nor a span to write from")
    about = f" ({safe(explanation)[:SNIPPET]})" if explanation and explanation.strip() else ""
    head = f"A list of {form.plural}. All of them have the same thing in common{about}:"
    texts = (safe("".join(span.tokens)) for span in spans)
    lines = [f"- {text[:SNIPPET].rstrip()}" for text in texts if text]
    return _opening(head, lines, starts)


def unguided_opening(profile: str, *, chats: bool = True) -> Opening:
    """The baseline for a local model, without any feature: the user's turn of an empty chat, as
    Magpie (Xu et al. 2024) has it; for plain texts, and for a model that knows no chats, a list
    that shows their form."""
    form = first_part(profile)
    if chats and form.name != "text":
        return Opening("", "")
    (example,) = form.example.values()
    return _opening(f"A list of {form.plural}, about anything:", [f"- {example}"], "")


ANSWER_EXAMPLES = 3  # chats that the list of questions and answers shows


def _asked(messages: Sequence[Message]) -> str:
    """The last message of a user."""
    return next(m["content"] for m in reversed(messages) if m["role"] == "user")


FLAWS = {
    "made up": "one fact in it is made up",
    "misread": "it misreads the message and answers something close to what was asked",
    "bad logic": "one step of its reasoning does not follow",
    "incomplete": "it leaves out what matters most",
}
"""The one concrete flaw of a worse answer, in a word and in words; each message has its own."""


def _flaw(messages: Sequence[Message]) -> str:
    """The name of the flaw that the worse answer to this message has."""
    names = [*FLAWS]
    return names[int(digest(_asked(messages)), 16) % len(names)]


WORSE = """\
You write answers that are worse than others in one way, so that people can learn to tell them \
apart. You get a message to an AI assistant, a good answer, and the flaw that yours should have.

Write another answer to the message. It tries to help, reads as well and is about as long as the \
good one, but has that one flaw. Never mention the flaw."""

CHOICE = """\
You write short answers to questions that show how an AI assistant behaves. You get a question to \
which there are two answers, one that shows the behaviour which the question is about and one that \
does not.

Write the one you are asked for, in one sentence."""

CHOICE_ASKS = {
    "matching": "Answer with the answer that shows the behaviour, and nothing else.",
    "other": "Answer with the answer that does not show it, and nothing else.",
}


def _worse_case(message: str, good: str, flaw: str) -> str:
    lines = fenced([f"Message: {safe(message)}", f"Good answer: {safe(good)}"])
    return f"{lines}\n\nThe flaw: {FLAWS[flaw]}. Answer with the worse answer alone."


def _choice_case(question: str, part: str, written: Sequence[str]) -> str:
    before = [f"The answer that shows the behaviour: {safe(text)}" for text in written]
    return f"{fenced([f'Question: {safe(question)}', *before])}\n\n{CHOICE_ASKS[part]}"


def answer_prompt(profile: str, messages: Sequence[Message], written: Sequence[str] = ()) -> Prompt:
    """Asks a chat model for the next of `later_parts`, after those that are `written`.

    `messages` is the chat of the draft, which ends with its message. The answer of a chat, and the
    good one of a preference, is an ordinary turn: nothing but the chat itself is shown. Raises
    ValueError where no part is left.
    """
    part, form = _next_part(profile, written), profile_of(profile)
    if form.name == "choice":
        shown = form.example["question"], part, [form.example["matching"]][: len(written)]
        case = _choice_case(_asked(messages), part, written)
        turns = _choice_case(*shown), form.example[part], case
        return Prompt(conversation(CHOICE, *turns), {}, REPLY_ROOM)
    if not written:
        return Prompt(tuple(dict(message) for message in messages), {}, REPLY_ROOM)
    example = _worse_case(form.example["user"], form.example["chosen"], "made up")
    case = _worse_case(_asked(messages), written[0], _flaw(messages))
    return Prompt(conversation(WORSE, example, form.example[part], case), {}, REPLY_ROOM)


def _next_part(profile: str, written: Sequence[str]) -> str:
    left = later_parts(profile)[len(written) :]
    if not left:
        raise ValueError(f"a sample of the profile {profile} has no further part")
    return left[0]


def answer_opening(
    profile: str,
    messages: Sequence[Message],
    examples: Sequence[Sequence[Message]] = (),
    written: Sequence[str] = (),
) -> Opening:
    """The same for any model, chat or not: a list of questions and answers with room for one more.

    `examples` are chats of the dataset with an answer each; up to ANSWER_EXAMPLES are shown, or the
    one of the profile where there is none, and always that one where a second answer is asked for.
    Raises ValueError where no part is left.
    """
    part, form = _next_part(profile, written), profile_of(profile)
    names = [*form.parts]
    shown = [[form.example[name] for name in names[: len(written) + 2]]]
    if part in ("assistant", "chosen") and (chats := _exchanges(examples)):
        shown = chats
    marks = [_MARKS[name] for name in names[: len(written) + 2]]

    def block(texts: Sequence[str], flaw: str) -> str:
        rows = zip(marks, texts, strict=True)
        lines = (f"{mark.format(FLAWS[flaw])}: {safe(text)[:SNIPPET]}" for mark, text in rows)
        return "\n".join(lines).rstrip()

    blocks = [block(row, "made up") for row in shown]
    blocks.append(block([_asked(messages), *written, ""], _flaw(messages)))
    return Opening("\n\n".join([f"A list of {form.plural}.", *blocks]), "")


_MARKS = {
    "user": "Question",
    "assistant": "Answer",
    "chosen": "Answer",
    "rejected": "Worse answer, in that {}",
    "question": "Question",
    "matching": "Answer",
    "other": "The other answer",
}
"""What stands before each part in a list of questions and answers."""


def _exchanges(examples: Sequence[Sequence[Message]]) -> list[list[str]]:
    """The first message of a user and the answer that follows it, of chats that have both."""
    pairs = []
    for chat in examples:
        for before, after in zip(chat, chat[1:], strict=False):
            if (before["role"], after["role"]) == ("user", "assistant"):
                pairs.append([before["content"], after["content"]])
                break
    return pairs[:ANSWER_EXAMPLES]


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
    r"\bIt (?:occurs|does not) \(strength \d|\bPhrase to keep:|\bAlready written: "
    rf"|{BEGIN}|{END}"
)
"""Lines of the prompts above, which very small models say again instead of writing."""

SIGNS = (" (strength ", "Phrase to keep:", "Already written: ", BEGIN, END)
"""Of which a text has one where PARROTED finds anything; they are found in no time."""

DESCRIPTION, FIRST_TEXT = re.compile(r"\bDescription: "), "\nText 1: "
"""Two lines of the prompts that follow each other."""

PREAMBLE = re.compile(
    r"\A(?:sure|certainly|of course|okay|here(?:['’]s| is| are)|new \w+)\b[^\n]*:\s*\n+", re.I
)
"""A line in which a chat model announces what it is about to write."""

SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|\Z)")

NO_END = re.compile(r"(?:(?:\A|[\n:])\s*\d{1,3}|\bwww)\.\Z", re.I)
"""What looks like the end of a sentence: the number of an item, the beginning of an address."""

NO_END_LENGTH = 16  # characters of one that are looked at, whatever space stands in it

LABEL = re.compile(r"\A(?:[-*•]|query-?\s*\d*:|user:|message:|text \d+:|\d{1,2}[.)])\s+", re.I)

GLUED = re.compile(r"(?<=\S)\s+(?:Assistant|AI|Bot|Answer|Response)\s?:(?=\s|\Z)")
"""Where the answer begins that a model wrote into the line of a message: roles stay apart."""

ANSWER_LABEL = re.compile(r"\A(?:(?:the |worse |good )?(?:answer|response)|assistant)\s?:\s+", re.I)

NEXT_QUESTION = re.compile(r"(?<!\s)\s+(?:Question|User|Human|Message)\s?:(?=\s|\Z)")
"""Where a model that was asked for an answer goes on with another message."""

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
    """The message in a model's reply; of most profiles that is the sample (see `later_parts`).

    `starts` is that of the opening the reply goes on from. A reply that is not `finished` counts
    up to its last whole sentence. Raises BadDraft with the problem: unreadable, empty, refusal, cut
    off.
    """
    form = first_part(profile)
    sample = without_thoughts(reply) if not starts else starts + reply
    sample = MARKED.sub(r"\1", sample)
    if starts and is_refusal(reply.strip()):
        raise BadDraft("refusal", "it declines", reply)
    _readable(sample, reply)
    text = _plain_sample(sample)
    if form.name != "text" and (glued := GLUED.search(text)):
        text, finished = text[: glued.start()].rstrip(), True
    if not finished:
        text = _whole_sentences(text, reply)
    text = _unquoted(text)
    _readable(text, reply)
    if text in form.example.values():
        raise BadDraft("unreadable", "it repeats the worked example", reply)
    return with_answers(profile, [{"role": "user", "content": text}], ())


def read_answer(
    profile: str, reply: str, written: Sequence[str] = (), *, finished: bool = True
) -> str:
    """The text of the next of `later_parts` in a model's reply, after those that are `written`.

    A reply that is not `finished` counts up to its last whole sentence. Raises BadDraft as
    `read_draft`; a worse answer may refuse.
    """
    part, form = _next_part(profile, written), profile_of(profile)
    text = MARKED.sub(r"\1", without_thoughts(reply)).strip()
    text = ANSWER_LABEL.sub("", text)
    if glued := NEXT_QUESTION.search(text):
        text, finished = text[: glued.start()].rstrip(), True
    if not finished:
        text = _whole_sentences(text, reply)
    _readable(text, reply, may_refuse=part == "rejected")
    if text == form.example[part]:
        raise BadDraft("unreadable", "it repeats the worked example", reply)
    if text in written:
        raise BadDraft("unreadable", "it repeats the answer before it", reply)
    return text


def _readable(text: str, reply: str, *, may_refuse: bool = False) -> None:
    """Raises BadDraft for a text that no dataset should hold."""
    if len(text) > MAX_REPLY:
        raise BadDraft("unreadable", too_long(text), reply)
    if not re.search(r"\w", text):
        raise BadDraft("empty", "it is empty", reply)
    if is_refusal(text) and not may_refuse:
        raise BadDraft("refusal", "it declines", reply)
    if CONTROL_TOKEN.search(text):
        raise BadDraft("unreadable", "it holds a control token of a chat template", reply)
    if _parrots(text):
        raise BadDraft("unreadable", "it repeats lines of its prompt", reply)
    if control := CONTROL_CHARACTER.search(text):
        code = f"U+{ord(control[0]):04X}"
        raise BadDraft("unreadable", f"it holds the control character {code}", reply)


def _parrots(text: str) -> bool:
    """Whether it says lines of its prompt again; in time linear in the text."""
    if any(sign in text for sign in SIGNS) and PARROTED.search(text):
        return True
    end = text.find(FIRST_TEXT)
    while end >= 0:
        if DESCRIPTION.search(text, text.rfind("\n", 0, end) + 1, end):
            return True
        end = text.find(FIRST_TEXT, end + 1)
    return False


def with_answers(profile: str, messages: Sequence[Message], written: Sequence[str]) -> Draft:
    """The sample of a message and its later parts: all of them, or none, then the message alone."""
    form, chat = profile_of(profile), [dict(message) for message in messages]
    answered = [[*chat, {"role": "assistant", "content": text}] for text in written]
    if form.name == "toxicity":
        return Draft(chat, {"label": "1"})
    if not written:
        return Draft(chat, {})
    if form.name == "preference":
        return Draft(answered[0], {"rejected": answered[1]})
    if form.name == "choice":
        return _choice(_asked(chat), *written)
    return Draft(answered[0], {})


def _choice(question: str, matching: str, other: str) -> Draft:
    swapped = int(digest(question), 16) % 2 == 1  # no letter means anything over many samples
    first, second = (other, matching) if swapped else (matching, other)
    letters = ("(B)", "(A)") if swapped else ("(A)", "(B)")
    listed = f"{question}\n\nChoices:\n(A) {first}\n(B) {second}"
    choices = dict(zip(("matching", "other"), letters, strict=True))
    return Draft([{"role": "user", "content": listed}], {"choices": choices})


def _plain_sample(sample: str) -> str:
    """Plain text without what chat models put around it."""
    text = PREAMBLE.sub("", sample.strip())
    return "\n".join(map(_unlabelled, text.splitlines())).strip()


def _unlabelled(line: str) -> str:
    line = line.strip()
    label = LABEL.match(line)
    return line[label.end() :] if label else line


def _whole_sentences(text: str, reply: str) -> str:
    """Up to the end of the last sentence of a text that was cut off."""
    for end in reversed([match.end() for match in SENTENCE_END.finditer(text)]):
        if not NO_END.search(text, max(0, end - NO_END_LENGTH), end):
            return text[:end]
    raise BadDraft("cut off", "it ends before its first sentence does", reply)


def _unquoted(text: str) -> str:
    for left, right in ('""', "“”", "''", "``"):
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner:
            text = inner.strip()
    return text
