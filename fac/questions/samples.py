"""Kept samples: where each stands, the queue on which people look at them, and what came of it.

A sample is decided on exactly as it is on the screen, without anybody else's verdict. Where it was
edited since, whoever looks at the old wording is told so and nothing is recorded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fac import review
from fac.config import RetouchSpec
from fac.errors import InputError
from fac.questions.catalogue import Row
from fac.questions.explanations import names
from fac.questions.pairs import preferred_texts
from fac.questions.review_queue import EditQueue
from fac.review.samples import (
    Looked,
    SampleState,
    SampleVersion,
    SampleVersions,
    sample_family,
    sample_rows,
    states_of_samples,
)
from fac.store import Stores
from fac.store.decisions import Decision
from fac.store.memo import remembered_for_good
from fac.store.queue import Job


def sample_states(stores: Stores, run: str) -> dict[str, SampleState]:
    """Where every kept sample of a synthesis stands, by candidate: versions, edits, verdicts."""
    return states_of_samples(stores.decisions.current("sample"), _versions(stores, run))


def _versions(stores: Stores, run: str) -> SampleVersions:
    family = sample_family(stores.runs, run)
    return [(manifest, _rows(stores, manifest.run)) for manifest in family]


@remembered_for_good
def _rows(stores: Stores, run: str) -> list[Row]:
    return sample_rows(stores.runs, run)


def looked(stores: Stores, run: str) -> Looked:
    """How many of a synthesis's kept samples people looked at, and what they said."""
    return review.looked(sample_states(stores, run).values())


@remembered_for_good
def sureness(stores: Stores, run: str) -> dict[str, float]:
    """How probable the label check finds the label of kept samples, by candidate, as they were
    written; nothing where labels were not checked, or the kept dataset is gone."""
    dataset = stores.runs.manifest(run).facts.kept_dataset
    if not stores.runs.find(dataset):
        return {}
    metas = map(json.loads, stores.runs.table(dataset, "samples", ["meta"])["meta"].to_pylist())
    return {m["candidate"]: m["label_probability"] for m in metas if "label_probability" in m}


@remembered_for_good
def label_choices(stores: Stores, run: str) -> list[str]:
    """The labels that samples like those of a synthesis can have, most common first: those of the
    measure that its label check learns from, else the anchor's."""
    manifest = stores.runs.manifest(run)
    measure = stores.runs.manifest(manifest.spec.labels or manifest.facts.anchor)
    return [*stores.runs.manifest(measure.facts.dataset).facts.labels][:MOST_LABELS]


MOST_LABELS = 30
"""Labels that are offered in place of a wrong one."""

SampleSetting = tuple[str, str | None]
"""The synthesis, and who decides (None only looks)."""


@dataclass(kw_only=True)
class SampleQueue(EditQueue[str, SampleVersion]):
    """The kept samples of one synthesis, by candidate."""

    run: str
    anchor: str
    threshold: float
    names: dict[int, str]
    explanations: dict[int, str]
    """Explanations by feature."""
    features: dict[str, int] = field(default_factory=dict)
    """The gap of every sample."""
    labels: list[str] = field(default_factory=list)
    """What labels there are."""

    def evidence(self, entry: str) -> list[Row]:
        """The anchor's strongest examples of a sample's gap."""
        return self.stores.cache.spans(self.anchor, self.features[entry], "top")[:3]

    def entry_of(self, decision: Decision) -> str:
        return candidate_of(decision)

    def state(self, entry: str) -> SampleState:
        return sample_states(self.stores, self.run)[entry]

    def other_labels(self, version: SampleVersion) -> list[str]:
        """The labels that a sample could have instead of its own; none where its own is not one of
        them, for then they say something else."""
        mine = version.row["extra"].get("label")
        return [label for label in self.labels if label != mine] if mine in self.labels else []

    def wrong_label(self, right: str) -> None:
        """Records that the label of the sample in view is wrong, and the right one, "" for none."""
        self.draft.correction = right
        self.decide(review.samples.WRONG_LABEL)

    def decidable(self, version: SampleVersion) -> bool:
        return version.passes

    def texts_of(self, job: Job) -> tuple[str, ...]:
        return tuple(job.spec["texts"])

    def undo(self, uid: str | None = None) -> list[Decision]:
        """Takes one act back; its sample is in view again as it was decided on."""
        withdrawn = super().undo(uid)
        for decision in withdrawn:
            candidate = candidate_of(decision)
            for version in self.state(candidate).versions:
                if version.seen == decision.seen:
                    self.versions[candidate] = version.run
        return withdrawn

    def bring_up_linked(self, seen: str) -> bool:
        """Puts the sample whose wording has this hash on top, in that wording; whether there is
        one."""
        for candidate, state in sample_states(self.stores, self.run).items():
            for version in state.versions:
                if version.seen == seen:
                    self.versions[candidate] = version.run
                    self.bring_up(candidate)
                    return True
        return False

    def edit_spec(self, version: SampleVersion, texts: Sequence[str]) -> RetouchSpec | None:
        """What measures an edit of the version in view; None where it changes nothing. Raises
        InputError for an empty text."""
        if [*texts] == [message["content"] for message in version.row["messages"]]:
            self.trouble = "Nothing was changed, so there is nothing to measure."
            return None
        candidate = version.row["candidate"]
        return RetouchSpec(synthetic=self.run, candidate=candidate, texts=tuple(texts))


def candidate_of(decision: Decision) -> str:
    """The sample that was decided on. Raises InputError where the subject names none."""
    about = review.read_subject(decision.subject)
    if about is None:
        raise InputError(f"{decision.subject!r} names no sample: it came with an import.")
    return about.task


def sample_queue(stores: Stores, setting: SampleSetting, moved: Callable[[], None]) -> SampleQueue:
    """The queue of a synthesis's kept samples, less what its reviewer decided: an order of one's
    own, and the same share of them for everybody, as of explanations."""
    run, who = setting
    facts, states = stores.runs.manifest(run).facts, sample_states(stores, run)
    current = stores.decisions.current("sample")
    items = [state.version.item for state in states.values()]
    todo = review.queue(items, current, who, seed=run) if who else items
    subjects = {item.subject for item in items}
    mine = [d for d in current if d.reviewer == who and d.subject in subjects]
    features = {candidate: state.feature for candidate, state in states.items()}
    return SampleQueue(
        stores=stores,
        setting=setting,
        reviewer=who,
        todo=deque(item.content["candidate"] for item in todo),
        total=len(items),
        acts=[(d,) for d in mine if not d.adjudicates],
        moved=moved,
        run=run,
        anchor=facts.anchor,
        threshold=stores.runs.manifest(run).spec.threshold,
        names=names(stores, facts.anchor, sorted({*features.values()})),
        explanations=preferred_texts(stores, facts.anchor),
        features=features,
        labels=label_choices(stores, run),
    )
