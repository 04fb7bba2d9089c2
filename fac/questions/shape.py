"""The shape of a dataset's samples, which what is written for it should have: the profile that
every door begins with, and why."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from fac.config import WRITERS, WriteSpec
from fac.manifest import DatasetFacts
from fac.models import knows_chats
from fac.prompts.profiles import PROFILES
from fac.schema import Chat
from fac.store import Stores

TOXIC = "1"  # the label that the profile of labelled messages writes for
CHOICES = ("(A)", "(B)")
LOOKED_AT = 50  # samples that are looked at for choices in them

TEXT_COLUMNS = ("text", "content")
"""Columns whose name says that a text is no message to anybody."""


class Shape(NamedTuple):
    """The form of a dataset's samples."""

    profile: str  # one of PROFILES
    reason: str  # why, in words that go on from "your data are"


def shape_of(stores: Stores, measure: str) -> Shape:
    """The shape of the dataset of a measure run."""
    runs = stores.runs
    dataset = runs.manifest(measure).facts.dataset
    facts: DatasetFacts = runs.manifest(dataset).facts
    if facts.is_synthetic and runs.find(facts.source):
        profile = runs.manifest(facts.source).facts.profile
        if profile in PROFILES:
            return Shape(profile, "samples that were written in this form")
    if "chosen" in (facts.layout or "") and "rejected" in (facts.layout or ""):
        return Shape("preference", "messages with a better and a worse answer")
    if facts.roles.get("assistant"):
        return Shape("chat", "chats with answers")
    if TOXIC in facts.labels:
        return Shape("toxicity", f"labelled; what is written is for the label {TOXIC}")
    if facts.n_samples and all(_offers_choices(chat) for chat in _first_chats(stores, dataset)):
        return Shape("choice", "questions with two answers to choose from")
    if facts.layout == "text" and {*(facts.columns or ())} & {*TEXT_COLUMNS}:
        return Shape("text", "plain texts")
    return Shape("instruction", "messages without answers")


def _first_chats(stores: Stores, dataset: str) -> list[Chat]:
    batches = stores.runs.batches(dataset, "samples", columns=["messages"])
    chats = (chat for batch in batches for chat in batch.column("messages").to_pylist())
    return [*islice(chats, LOOKED_AT)]


def _offers_choices(chat: Chat) -> bool:
    return all(f"\n{letter}" in chat[-1]["content"].replace("\n ", "\n") for letter in CHOICES)


def writes_chats(stores: Stores, spec: WriteSpec, anchor: str) -> bool:
    """Whether what writes for a spec answers prompts; a base model only goes on with texts. Told
    without loading it."""
    if WRITERS[spec.writer].server:
        return True
    model = spec.model or stores.runs.manifest(anchor).spec.model
    return knows_chats(model, stores.runs.workspace.models)
