"""What a job may take, said before anybody starts it: writing pairs and samples, measuring,
training an SAE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc

from fac.config import (
    DEMO_SAE,
    WRITERS,
    MeasureSpec,
    PairsSpec,
    SynthesizeSpec,
    TrainSpec,
    WriteSpec,
)
from fac.errors import InputError
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


def estimate(
    stores: Stores,
    spec: PairsSpec | SynthesizeSpec,
    gaps: Sequence[int],
    requests: Sequence[StyleRequest],
) -> Estimate:
    """What a spec may take for these gaps, one for every pair that is approved or to be written,
    given the requests of the first."""
    n_texts = len(gaps) * spec.candidates
    characters = sum(len(m["content"]) * style.texts for style in requests for m in style.messages)
    most = n_texts * spec.max_new_tokens
    parts = later_parts(spec.profile) if spec.answers != "none" else ()
    if parts:
        question = spec if isinstance(spec, PairsSpec) else stores.runs.manifest(spec.pairs).spec
        in_answers = set()
        # A writer of this machine may write the answer first, to which several messages are tried.
        if parts == (ASSISTANT,) and not WRITERS[spec.writer].server:
            about = (question.anchor, tuple(sorted({*gaps})), spec.threshold, question.role)
            in_answers = _fired_in_answers(stores, *about)
        beside = [answers.MESSAGES if gap in in_answers else len(parts) for gap in gaps]
        room = max(spec.max_new_tokens, _answer_room(stores, question.dataset))
        most += spec.candidates * sum(beside) * room
    pace = _pace(stores, spec)
    seconds = None if pace is None else pace * n_texts
    prompt_tokens = len(gaps) * characters // 4
    return Estimate(n_texts, most, prompt_tokens, seconds, bool(parts))


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
