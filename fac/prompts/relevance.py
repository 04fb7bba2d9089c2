"""Whether a feature matters for a task: the tasks with their rubrics, the question, its reply."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError, first_line
from fac.prompts import form
from fac.prompts.form import Excerpt, Prompt, bad_reply, material, safe, words, worked_prompt
from fac.schema import EVERY_ROLE, LEVELS


class TaskProfile(NamedTuple):
    """What a dataset is for, and what makes a feature matter to it."""

    name: str  # how it is called on the command line
    title: str  # how it reads in "matters for ..."
    rubric: tuple[str, ...]  # one criterion each; meeting any of them is enough


class Judgement(NamedTuple):
    """A judge's answer to whether a feature matters for a task."""

    level: str  # one of LEVELS
    rationale: str  # why, in the model's words


JUDGE = """\
A language model has many features; each fires on one kind of text. You decide whether one feature \
matters for a task. You get the task with its criteria, then what is known of the feature: a \
description, if there is one, and texts in which it fired, its tokens between << and >>.

The feature matters if what it fires on is about at least one criterion; it need not meet the \
others. Judge what the texts are about, whether or not you would approve of it. Levels:
yes - clearly about a criterion, in most of the texts
probably - most likely about a criterion
maybe - some connection to a criterion, in some of the texts
no - nothing to do with any criterion, or only words that many other texts have too"""

JUDGE_ASKS = (
    'Answer with one JSON object and nothing else: {"rationale": one or two sentences, '
    '"level": "yes", "probably", "maybe" or "no"}'
)


def _judge_case(task: TaskProfile, explanation: str | None, texts: Sequence[str]) -> str:
    criteria = "\n".join(f"- {safe(criterion)}" for criterion in task.rubric)
    return (
        f"Task: {safe(task.title)}. A feature matters if it is about any of these:\n{criteria}\n\n"
        f"{material(explanation, texts)}\n\n{JUDGE_ASKS}"
    )


TRAVEL = TaskProfile(
    "travel", "advice to travellers", ("delays and cancellations", "prices of tickets")
)

JUDGE_EXAMPLE = (
    _judge_case(TRAVEL, form.ABOUT_LATENESS, form.LATE_TEXTS),
    {
        "rationale": "It fires on words for being late; two of three texts are about journeys, "
        "one is about a parcel.",
        "level": "probably",
    },
)


def judge(task: TaskProfile, explanation: str | None, excerpts: Sequence[Excerpt]) -> Prompt:
    """Asks how much a feature matters for a task (paper App. K).

    `explanation` is None where there is none; then the texts speak alone. Raises ValueError when
    there is neither.
    """
    if not explanation and not excerpts:
        raise ValueError("there is neither an explanation nor a text to judge by")
    return worked_prompt(
        JUDGE,
        JUDGE_EXAMPLE,
        _judge_case(task, explanation, [excerpt.text() for excerpt in excerpts]),
        {"rationale": {"type": "string"}, "level": {"type": "string", "enum": list(LEVELS)}},
        max_tokens=256,
    )


class _Judged(form.Form):
    rationale: str
    level: str


def read_judgement(reply: str) -> Judgement:
    """The level the judge gave, in any letter case. Raises BadReply for any other word."""
    answer = _Judged.read(reply)
    level = answer.level.strip().lower()
    if level not in LEVELS:
        raise bad_reply(f"{level[:40]!r} is none of {', '.join(LEVELS)}", reply)
    rationale = words(answer.rationale, "rationale", reply)
    if rationale == JUDGE_EXAMPLE[1]["rationale"]:
        raise bad_reply("it repeats the worked example", reply)
    return Judgement(level, rationale)


BUILT_IN = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text("utf-8"))

TASKS = {n: TaskProfile(n, t["title"], tuple(t["rubric"])) for n, t in BUILT_IN.items()}
"""Task profiles after the criteria of the paper, in our words."""

TASK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def read_tasks(toml_text: str) -> dict[str, TaskProfile]:
    """Task profiles of a file: `[name]` tables with a `title` and a `rubric` (a list of criteria).

    Raises InputError that names the table and the key.
    """
    try:
        tables = tomllib.loads(toml_text)
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise InputError(f"The task file is not valid TOML: {first_line(error)}.") from error
    return {name: _task(name, table) for name, table in tables.items()}


def _task(name: str, table: object) -> TaskProfile:
    if not isinstance(table, Mapping):
        why = "outside of a table: put it under a line [task-name]."
        raise InputError(f"The task file has {name!r} {why}")
    if name in TASKS or name == EVERY_ROLE:
        raise InputError(f"The task [{name}] is built in: give yours another name.")
    if not TASK_NAME.fullmatch(name):
        why = "a name of 1 to 40 small letters, digits, '-' or '_'."
        raise InputError(f"The task [{name}] needs {why}")
    if unknown := set(table) - {"title", "rubric"}:
        key = f"an unknown key {sorted(unknown)[0]!r}"
        raise InputError(f"The task [{name}] has {key}: title and rubric are known.")
    title, rubric = table.get("title"), table.get("rubric")
    if not isinstance(title, str) or not 1 <= len(title.strip()) <= 200:
        raise InputError(f"The task [{name}] needs a title of 1 to 200 characters.")
    if not isinstance(rubric, list) or not 1 <= len(rubric) <= 30:
        raise InputError(f"The task [{name}] needs a rubric: a list of 1 to 30 criteria.")
    for number, criterion in enumerate(rubric, start=1):
        if not isinstance(criterion, str) or not 1 <= len(criterion.strip()) <= 500:
            raise InputError(
                f"Criterion {number} of the rubric of [{name}] must be 1 to 500 characters of text."
            )
    return TaskProfile(name, title.strip(), tuple(criterion.strip() for criterion in rubric))
