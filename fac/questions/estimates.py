"""What a job may take, said before anybody starts it: asking a language model, writing pairs and
samples, measuring, training an SAE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from fac.config import (
    DEMO_SAE,
    WRITERS,
    AskSpec,
    ExplainSpec,
    JudgeSpec,
    MeasureSpec,
    PairsSpec,
    SynthesizeSpec,
    TrainSpec,
    WriteSpec,
)
from fac.errors import InputError
from fac.generator.allowance import limits_of
from fac.generator.chat import estimated_tokens
from fac.generator.rate import RateLimit
from fac.interpret import questions_of
from fac.markup import counted, duration
from fac.prompts.lists import ASSISTANT
from fac.prompts.profiles import later_parts
from fac.questions import catalogue
from fac.questions.pairs import StyleRequest
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.synthesis import answers, plan

DEMO_RECIPE = DEMO_SAE / "recipe.json"


class Estimate(NamedTuple):
    """What writing texts may take."""

    texts: int
    most_tokens: int
    """New tokens if every text is as long as it may be and, where samples have answers, every one
    gets all that may be asked for beside it."""
    prompt_tokens: int
    """About, as the first gap's requests go, without those of answers."""
    seconds: float | None
    """As fast as the last run with this writer; None where there was none."""
    is_answered: bool
    """Whether answers are written, whose prompts then come on top."""
    cost: float | None = None
    """US dollars if every text is as long as it may be; None where no price is known."""
    limit: str = ""  # of the endpoint, where that is what takes the time


class Asking(NamedTuple):
    """What explaining or judging features with a language model may take."""

    features: int
    questions: int
    prompt_tokens: int  # about
    most_tokens: int  # of replies, if every one takes all its room
    seconds: float | None  # as fast as the last run; None where nothing is known
    cost: float | None
    """US dollars if every reply takes all its room; None where no price is known."""
    limit: str = ""  # of the endpoint, where that is what takes the time


REHEARSED = 6
"""Features whose questions stand for those of all."""


ENOUGH_TOKENS = 1000
"""What a measure must have read for its pace to say something, where another one did."""


class MeasuringTime(NamedTuple):
    """About how long measuring takes, once the model is loaded."""

    seconds: float
    like: str
    """The dataset that was measured as fast."""


def measuring_time(
    stores: Stores, spec: MeasureSpec, lengths: Sequence[int], share: float
) -> MeasuringTime | None:
    """Time to measure samples with a spec's model, layer and SAE, of which `lengths` are the
    characters of a part and `share` is how much of all that part is: as fast, and with as many
    characters a token, as the newest measure with these that had enough to do. None where there was
    none."""
    question = spec.model, spec.layer, spec.sae
    alike = [
        facts
        for manifest in catalogue.measured(stores).values()
        if ((facts := manifest.facts).model, facts.layer, facts.sae) == question
        and facts.tokens_per_second
        and facts.tokens
    ]
    alike.sort(key=lambda facts: facts.tokens < ENOUGH_TOKENS)  # the newest first among both
    for facts in alike:
        if characters := _characters(stores, facts.dataset):
            per_token = characters / facts.tokens
            tokens = sum(min(length / per_token, spec.max_tokens) for length in lengths) / share
            return MeasuringTime(tokens / facts.tokens_per_second, facts.name)
    return None


class TrainingTime(NamedTuple):
    """About how much an SAE would learn from, and how long that takes."""

    tokens: int
    seconds: float
    like: str
    """Whose pace that is: an SAE that was trained here, or the demo's."""
    is_same_model: bool


CHARACTERS_PER_TOKEN = 4
"""Where a dataset was not measured with the model."""


def training_time(stores: Stores, spec: TrainSpec) -> TrainingTime:
    """Time to collect activations and to train, each as long per token as with the newest SAE that
    was trained here, on the same model if one was, else as with the demo's on the machine that made
    it; training takes a time that grows with width and passes.

    Raises InputError where the dataset has no samples beside those held out.
    """
    facts = stores.runs.manifest(spec.dataset).facts
    if facts.n_samples <= spec.held_out:
        raise InputError(
            f"{facts.name} has {facts.n_samples:,} samples, which leave none to learn from beside "
            f"{spec.held_out:,} held out: hold out fewer."
        )
    measured = [
        each.facts
        for each in catalogue.measured(stores).values()
        if each.facts.model == spec.model and each.facts.dataset == spec.dataset
    ]
    every = (
        measured[0].content_tokens
        if measured and measured[0].content_tokens
        else _characters(stores, spec.dataset) / CHARACTERS_PER_TOKEN
    )
    tokens = round(every * (1 - spec.held_out / facts.n_samples))
    trained: list[tuple[str, str, Mapping[str, Any]]] = [
        (each.facts.name, each.spec.model, each.facts.recipe)
        for each in stores.runs.list(TrainSpec.step)
        if each.facts.recipe.get("training_tokens")
    ]
    trained.append(("the demo's SAE", "demo", json.loads(DEMO_RECIPE.read_text("utf-8"))))
    trained.sort(key=lambda each: each[1] != spec.model)  # the newest first among both
    name, model, recipe = trained[0]
    collecting = recipe.get("seconds_collecting", 0)  # which the demo's does not tell apart
    work = spec.width * spec.passes / (recipe["width"] * recipe["passes"])
    seconds = collecting + (recipe["seconds"] - collecting) * work
    share = tokens / recipe["training_tokens"]
    return TrainingTime(tokens, seconds * share, name, model == spec.model)


@remembered_for_good
def _characters(stores: Stores, dataset: str) -> int:
    """Of all messages of a dataset; 0 where it is gone."""
    if not stores.runs.find(dataset):
        return 0
    messages = stores.runs.table(dataset, "samples", ["messages"]).column("messages")
    texts = pc.struct_field(pc.list_flatten(messages), "content")
    return pc.sum(pc.utf8_length(texts)).as_py() or 0


def asking(
    stores: Stores,
    spec: ExplainSpec | JudgeSpec,
    seconds_each: float | None = None,
    rate: RateLimit | None = None,
) -> Asking:
    """What a spec that asks a language model may take, from the questions about REHEARSED of its
    features. `seconds_each` of a question count where no run asked this model before; `rate` is how
    fast its endpoint may be asked. Replies that an earlier run got cost nothing and are counted all
    the same."""
    features = spec.features or _firing(stores, spec.measure)
    every = np.linspace(0, len(features) - 1, min(REHEARSED, len(features))).round().astype(int)
    part = tuple(features[at] for at in dict.fromkeys(every.tolist()))
    # What does not change a question is left out, so that the answer is remembered.
    plain: dict[str, Any] = {
        "endpoint": "",
        "attempt": 0,
        "room": 0,
        "in_batch": False,
        "budget_tokens": None,
        "budget_usd": None,
    }
    plain |= {"price_in": None, "price_out": None, "concurrency": AskSpec.concurrency}
    sizes = _rehearsed(stores, replace(spec, features=part, **plain))
    times = len(features) / max(len(part), 1)
    questions = round(len(sizes) * times)
    prompts = round(sum(prompt for prompt, _ in sizes) * times)
    most = round(sum(max(room, spec.room) for _, room in sizes) * times)
    each = _pace_of_questions(stores, spec) or seconds_each
    seconds = None if each is None else each * questions
    seconds, limit = _within(rate, seconds, questions, prompts + most)
    cost = limits_of(spec).cost(prompts, most)
    return Asking(len(features), questions, prompts, most, seconds, cost, limit)


def _within(
    rate: RateLimit | None, seconds: float | None, questions: int, tokens: int
) -> tuple[float | None, str]:
    """The seconds that asking takes where an endpoint has a limit, and the limit where that is what
    takes them."""
    waits = rate.seconds(questions, tokens) if rate else 0.0
    return (waits, str(rate)) if waits > (seconds or 0.0) else (seconds, "")


def _firing(stores: Stores, measure: str) -> Sequence[int]:
    """Every feature that fires."""
    lowest = stores.cache.summary(measure)["thresholds"][0]
    return np.flatnonzero(stores.cache.support(measure, lowest) > 0).tolist()


@remembered_for_good
def _rehearsed(stores: Stores, spec: ExplainSpec | JudgeSpec) -> list[tuple[int, int]]:
    """Of each question its tokens, about, and the room of its reply."""
    prompts = [question.prompt for question in questions_of(spec, stores.runs)]
    return [(estimated_tokens(prompt), prompt.max_tokens) for prompt in prompts]


def _pace_of_questions(stores: Stores, spec: ExplainSpec | JudgeSpec) -> float | None:
    """Seconds a question of the newest run of the step that asked this model."""
    paces = (
        manifest.seconds / n_asked
        for manifest in stores.runs.list(spec.step)
        if (manifest.spec.model, manifest.spec.endpoint) == (spec.model, spec.endpoint)
        and (n_asked := (manifest.facts.replies or {}).get("asked", 0))
    )
    return next(paces, None)


def estimate(
    stores: Stores,
    spec: PairsSpec | SynthesizeSpec,
    gaps: Sequence[int],
    requests: Sequence[StyleRequest],
    seconds_each: float | None = None,
    rate: RateLimit | None = None,
) -> Estimate:
    """What a spec may take for these gaps, one for every pair that is approved or to be written,
    given the requests of the first. `seconds_each` of a text count where no run had this writer;
    `rate` is how fast its endpoint may be asked, answers aside."""
    n_texts = len(gaps) * spec.candidates
    characters = sum(len(m["content"]) * style.texts for style in requests for m in style.messages)
    longest = spec.max_new_tokens
    if WRITERS[spec.writer].server:  # which thinks in its room
        longest = max(longest, spec.room)
    most = n_texts * longest
    parts = later_parts(spec.profile) if spec.answers != "none" else ()
    if parts:
        question = spec if isinstance(spec, PairsSpec) else stores.runs.manifest(spec.pairs).spec
        in_answers = set()
        # A writer of this machine may write the answer first, to which several messages are tried.
        if parts == (ASSISTANT,) and not WRITERS[spec.writer].server:
            about = (question.anchor, tuple(sorted({*gaps})), spec.threshold, question.role)
            in_answers = _fired_in_answers(stores, *about)
        beside = [answers.MESSAGES if gap in in_answers else len(parts) for gap in gaps]
        room = max(longest, _answer_room(stores, question.dataset))
        most += spec.candidates * sum(beside) * room
    pace = _pace(stores, spec) or seconds_each
    seconds = None if pace is None else pace * n_texts
    prompt_tokens = len(gaps) * characters // 4
    seconds, limit = _within(rate, seconds, n_texts, prompt_tokens + most)
    cost = limits_of(spec).cost(prompt_tokens, most) if WRITERS[spec.writer].server else None
    return Estimate(n_texts, most, prompt_tokens, seconds, bool(parts), cost, limit)


def _pace(stores: Stores, spec: WriteSpec) -> float | None:
    """Seconds a text of the newest run of the step with this writer."""
    paces = (
        facts.seconds / facts.n_candidates
        for manifest in stores.runs.list(spec.step)
        if (manifest.spec.writer, manifest.spec.model) == (spec.writer, spec.model)
        and (facts := manifest.facts).n_candidates
        and facts.seconds
    )
    return next(paces, None)


@remembered_for_good
def _answer_room(stores: Stores, measure: str) -> int:
    return answers.answer_room(stores.runs, stores.runs.manifest(measure).facts.dataset)


@remembered_for_good
def _fired_in_answers(
    stores: Stores, anchor: str, gaps: tuple[int, ...], threshold: float, role: str
) -> set[int]:
    return plan.fired_in_answers(stores.runs, anchor, gaps, threshold, role)


# --- in words -------------------------------------------------------------------------------------


def in_words(spec: ExplainSpec | JudgeSpec, amount: Asking) -> str:
    """What a spec that asks a language model may take, in a sentence or two."""
    words = (
        f"{counted(amount.features, 'feature')}, {counted(amount.questions, 'question')}: about "
        f"{amount.prompt_tokens:,} tokens of prompts and up to {amount.most_tokens:,} of replies."
    )
    if spec.in_batch:
        words += " Within a day, in a batch."
    elif amount.seconds is not None:
        words += f" {pace_words(amount.seconds, amount.limit)}"
    words += f" {cost_words(amount.cost)}"
    tokens = amount.prompt_tokens + amount.most_tokens
    return words + short_words(spec, tokens, amount.cost, amount.features)


def pace_words(seconds: float, limit: str = "") -> str:
    """How long a job may take; `limit` of the endpoint, where that is what takes the time."""
    if limit:
        return f"Up to {duration(seconds)}, as its endpoint takes {limit}."
    return f"About {duration(max(seconds, 1))} at the pace of the last run or test."


def cost_words(cost: float | None) -> str:
    """What a server may charge."""
    if cost is None:
        return "Its prices are unknown."
    return f"At most ${cost:,.2f}." if cost >= 0.1 else f"At most ${cost:.4f}."


def short_words(spec: AskSpec, tokens: int, cost: float | None, features: int = 0) -> str:
    """That a budget may be too small for what a job may take, and for how many of the features it
    is enough; "" where none is too small."""
    enough = [1.0]
    if spec.budget_tokens is not None and tokens:
        enough.append(spec.budget_tokens / tokens)
    if spec.budget_usd is not None and cost:
        enough.append(spec.budget_usd / cost)
    if min(enough) >= 1:
        return ""
    reach = int(min(enough) * features)
    words = f": it is enough for about {counted(reach, 'feature')} at least" if features else ""
    return f" The budget may end it before{words}; what is complete by then is kept."
