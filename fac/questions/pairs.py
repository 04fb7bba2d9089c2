"""Pairs: what is asked for them, where each stands, and the queue on which they are decided.

A pair is decided on exactly as it is on the screen. Where it was edited since, whoever looks at the
old wording is told so and nothing is recorded; what may be written from says fac.review alone.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac import review
from fac.config import SPECS, WRITERS, PairsSpec, RescoreSpec, WriteSpec
from fac.errors import FacError, InputError
from fac.manifest import PairsFacts
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison
from fac.questions.explanations import names, texts, with_names
from fac.questions.relevance import Relevance, relevant_set
from fac.questions.review_queue import Draft, EditQueue
from fac.questions.shape import writes_chats
from fac.review import PairState, PairVersion
from fac.schema import EVERY_FEATURE
from fac.store import Stores
from fac.store.decisions import Decision
from fac.store.memo import remembered_for_good
from fac.store.queue import Job
from fac.store.runs import Runs
from fac.synthesis import edited_turn, plan

INHERITED: tuple[str, ...] = (
    *("profile", "writer", "model", "endpoint", "seed", "temperature", "max_new_tokens"),
    *("strength", "candidates", "threshold", "answers"),
)
"""What a synthesis is asked with as its pairs were, unless it is asked otherwise."""

EVERY_STATE = "all"

PairSetting = tuple[str, str | None, str, float]
"""The run, who decides (None only looks), the state that is shown, the peak above which pairs are.
"""


def inherited(before: Mapping[str, Any], writer: str | None = None) -> dict[str, Any]:
    """The settings that go on from one spec that writes to the next, which has this writer."""
    names = INHERITED
    last_writer = WRITERS[before.get("writer", WriteSpec.writer)]
    if writer and WRITERS[writer].server != last_writer.server:
        # the name of a server's model means nothing on this machine, and the other way round
        names = tuple(name for name in names if name not in ("model", "endpoint"))
    return {name: before[name] for name in names if name in before}


def read_features(text: str, n_features: int) -> tuple[int, ...]:
    """The features of an address such as 3,17,208. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part, re.ASCII)]
    if wrong or not parts:
        raise InputError(
            f"The gaps of this address should be numbers such as 3,17,208, got "
            f"{(wrong or [text])[0]!r:.40}: choose them on the Coverage page."
        )
    features = sorted(set(map(int, parts)))
    if features[-1] >= n_features:
        raise InputError(f"There is no feature {features[-1]}: the dictionary has {n_features:,}.")
    return tuple(features)


def question_of(stores: Stores, run: str) -> Comparison:
    """The question of coverage that the gaps of a pairs run answer, as it was asked then."""
    spec: PairsSpec = stores.runs.manifest(run).spec
    relevance = Relevance()
    if spec.relevant != EVERY_FEATURE:
        relevance = Relevance(spec.relevant, features=spec.relevant_features, maybe=spec.maybe)
    settings = (spec.threshold, spec.min_support, spec.role, relevance)
    return Comparison(spec.anchor, spec.dataset, *settings)


def question_fields(stores: Stores, comparison: Comparison) -> Row:
    """The same as fields of a PairsSpec; which features count is settled with it. Of a file that
    lists them its name alone: a spec may leave this machine, the folder means nothing there."""
    relevance = comparison.relevance
    fields: Row = {
        name: getattr(comparison, name)
        for name in ("anchor", "dataset", "threshold", "min_support", "role")
    }
    if relevance.name != EVERY_FEATURE:
        relevant = relevant_set(stores, comparison.anchor, relevance, comparison.role)
        name = relevance.name if relevance.run else f"./{Path(relevance.name).name}"
        fields |= {"relevant": name, "maybe": relevance.maybe}
        fields["relevant_features"] = tuple(np.flatnonzero(relevant).tolist())
    return fields


def gap_rows(stores: Stores, comparison: Comparison, features: Sequence[int]) -> list[Row]:
    """What the anchor knows of features, in their order: names, and `n_anchor`, the samples that
    show each at the threshold and role in question."""
    anchor = comparison.anchor
    support = stores.cache.support(anchor, comparison.threshold, comparison.role)
    rows, _ = stores.cache.features_page(anchor, ids=features, limit=len(features))
    by_feature = {row["feature"]: row for row in rows}
    rows = [
        {**row, "n_anchor": int(support[feature])}
        for feature in features
        if (row := by_feature.get(feature))
    ]
    return with_names(stores, anchor, rows)


def preferred_texts(stores: Stores, anchor: str) -> dict[int, str]:
    """The preferred explanation of every feature that has one."""
    return {feature: text for _, feature, text in texts(stores, anchor)}


class StyleRequest(NamedTuple):
    """One way in which the texts of a gap are asked for."""

    style: str
    texts: int
    """Of the texts of a gap, how many are asked for like this."""
    messages: list[dict[str, str]]
    """What the writer is given; the role `opening` marks a text that it goes on with."""

    @property
    def name(self) -> str:
        """In words."""
        opening = any(message["role"] == "opening" for message in self.messages)
        return "A text to go on with" if opening else "An instruction"


def by_style(requests: Sequence[plan.Ask]) -> list[StyleRequest]:
    """The requests for one gap, each style once, in their order."""
    # A random feature's style says of which feature it is.
    styles = [request.style.split("-of-")[0] for request in requests]
    first: dict[str, StyleRequest] = {}
    for style, request in zip(styles, requests, strict=True):
        first.setdefault(style, StyleRequest(style, styles.count(style), request.messages))
    return list(first.values())


def pair_requests(stores: Stores, spec: PairsSpec, feature: int) -> list[StyleRequest]:
    """Exactly what the writer will be asked for one gap; none for a gap that the anchor has no
    example of."""
    how: dict[str, Any] = {"threshold": spec.threshold, "role": spec.role}
    features = plan.feature_briefs(stores.runs, spec.anchor, [feature], spec.explanations, **how)
    chats = writes_chats(stores, spec, spec.anchor)
    requests = plan.ask_from_anchor(spec, features.values(), "step-1", plan.unsteered, chats=chats)
    return by_style(requests)


def next_attempt(stores: Stores, comparison: Comparison, features: Iterable[int]) -> int:
    """The first attempt that no run of pairs for any of these gaps of the two datasets was, whose
    texts are therefore new; 0 where there is no such run."""
    gaps, sides = {*features}, (comparison.anchor, comparison.dataset)
    attempts = (
        manifest.spec.attempt
        for manifest in stores.runs.list(PairsSpec.step)
        if (manifest.inputs.anchor, manifest.inputs.dataset) == sides
        and not gaps.isdisjoint(manifest.facts.features)
    )
    return 1 + max(attempts, default=-1)


def is_live(job: Job) -> bool:
    """Whether a job is still to come to its end."""
    return job.status in ("waiting", "running")


def newest_attempt(stores: Stores, number: int) -> Job:
    """The newest job that was asked for the same as this one, within whatever budget."""
    first = stores.queue.job(number)
    return next((job for job in stores.queue.jobs() if _question(job) == _question(first)), first)


def _question(job: Job) -> tuple[str, Mapping[str, Any]]:
    """What a job was asked for, less how far and how fast it may go."""
    operational = SPECS[job.step].operational if job.step in SPECS else ()
    return job.step, {k: value for k, value in job.spec.items() if k not in operational}


def left_by(stores: Stores, job: Job) -> str | None:
    """The run of what was complete when a job was stopped; None where nothing was."""
    if job.started is None:  # cancelled before anybody began
        return None
    for manifest in stores.runs.list(job.step):
        created, inputs = datetime.fromisoformat(manifest.created).timestamp(), manifest.inputs
        compared = (job.spec["anchor"], job.spec["dataset"])
        if created >= job.started and (inputs.anchor, inputs.dataset) == compared:
            return manifest.run
    return None


def pairs_titles(stores: Stores) -> dict[str, str]:
    """What the pairs runs are called, newest first: dataset, gaps and time, and a piece of the id
    where that is not enough: a picker cannot tell options apart that read the same."""
    titles = {}
    for manifest in stores.runs.list(PairsSpec.step):
        when = datetime.fromisoformat(manifest.created).astimezone()
        name, n = manifest.facts.name, len(manifest.facts.features)
        titles[manifest.run] = f"{name} · {n:,} gap{'s'[: n != 1]} · {when:%d %b %H:%M}"
    counts = Counter(titles.values())
    return {
        run: title if counts[title] == 1 else f"{title} · {run.rsplit('-', 1)[1][:6]}"
        for run, title in titles.items()
    }


def pair_states(stores: Stores, run: str) -> dict[int, PairState]:
    """Where the pair of every gap of a pairs run stands, by feature: versions, edits, verdicts."""
    family = review.pair_family(stores.runs, run)
    versions = [(manifest, _pair_rows(stores, manifest.run)) for manifest in family]
    return review.pair_states(stores.decisions.current("pair"), versions)


@remembered_for_good
def _pair_rows(stores: Stores, run: str) -> list[Row]:
    return stores.runs.table(run, "pairs").to_pylist()


def in_state(states: Mapping[int, PairState], show: str, above: float) -> list[PairState]:
    """The pairs of a view, those that fire most first, and among equals by feature."""

    def peak(pair: PairState) -> float:
        return float(pair.version.row["positive_peak"] or 0.0)

    pairs = [
        pair
        for pair in states.values()
        if show in (EVERY_STATE, pair.state)
        and (above <= 0 or (pair.version.proposed and peak(pair) > above))
    ]
    return sorted(pairs, key=lambda pair: (-peak(pair), pair.feature))


def state_counts(states: Mapping[int, PairState]) -> Counter[str]:
    """How many pairs are in each state, and in all."""
    return Counter(pair.state for pair in states.values()) + Counter({EVERY_STATE: len(states)})


ORIGINS = {
    "own": "written for this gap",
    "pool": "written for another gap",
    "anchor": "a sample of the anchor",
    "person": "edited by a person",
}
"""Where a positive comes from, in words."""

NEGATIVE_ORIGINS = {
    "own": "nearest of this gap's texts",
    "pool": "nearest of other gaps' texts",
    "dataset": "nearest text of your data",
    "anchor": "nearest text of the anchor",
    "edit": "the same, what fires taken out",
    "person": "edited by a person",
}
"""Why a negative is what it is, in words."""

OF_ANCHOR = "From the anchor: shown to the writer, never exported"
"""What is said of such a side."""


def origins_in_words(facts: PairsFacts) -> dict[str, str]:
    """How many positives and negatives of a run come from where; no negatives for runs that did
    not count them."""
    names = {
        "own": "written for their gap",
        "pool": "written for another gap",
        "dataset": "of your data",
        "anchor": "of the anchor (shown to the writer, never exported)",
        "edit": "with what fires taken out",
        "person": "edited by a person",
    }
    words = {}
    for title, counts in (("Positives", facts.origins), ("Negatives", facts.negatives)):
        if counts:
            parts = (f"{n:,} {names.get(origin, origin)}" for origin, n in counts.items())
            words[title] = ", ".join(parts)
    if facts.negatives:
        words["Negatives"] += f"; the nearest silent ones of up to {facts.compared:,} texts"
    return words


def authors(runs: Runs, run: str) -> list[Row]:
    """Who wrote the `positive` and the `negative` of each proposed pair, by `feature`."""
    facts: PairsFacts = runs.manifest(run).facts
    columns = ["feature", "status", "origin", "candidate", "negative_origin"]
    pairs = runs.table(run, "pairs", columns).to_pylist()
    candidates = {row["candidate"] for row in pairs}
    models: dict[str, dict[str, None]] = {}
    for reply in runs.table(run, "replies", ["about", "model"]).to_pylist():
        about = reply["about"]  # a candidate, or a part of it after one more slash
        name = about if about in candidates else about.rpartition("/")[0]
        models.setdefault(name, {})[reply["model"]] = None
    elsewhere = {
        "dataset": "your data",
        "anchor": "the anchor",
        "edit": "its positive, what fires taken out",
    }
    rows = []
    for row in pairs:
        if row["status"] == "proposed":
            writers = ", ".join(models.get(row["candidate"], {})) or facts.writer
            rows.append(
                {
                    "feature": row["feature"],
                    "positive": elsewhere.get(row["origin"], writers),
                    "negative": elsewhere.get(row["negative_origin"], facts.writer),
                }
            )
    return rows


def firing_turn(row: Row) -> int:
    """Index of the message of a pair's positive in which the feature fires most, which is the one
    that a person edits in both sides; -1, the user's last, where the tokens do not say."""
    values = row["positive_activations"]
    if not len(values):
        return -1
    peak = max(range(len(values)), key=values.__getitem__)
    turns = turns_of(row["positive"], row["positive_tokens"])
    number = next((i for i, (_, (a, b)) in enumerate(turns) if a <= peak < b), -1)
    return number if len(turns) == len(row["positive"]) else -1


def turns_of(
    messages: Sequence[Mapping[str, str]], tokens: Sequence[str]
) -> list[tuple[str, tuple[int, int]]]:
    """(role, (first token, one past the last)) of every turn. One piece where the tokens are not
    those of the messages, as when a text was too long to be read to its end."""
    sizes = [len("".join(token.split())) for token in tokens]
    contents = [len("".join(message["content"].split())) for message in messages]
    whole = [("", (0, len(tokens)))]
    if len(messages) < 2 or sum(sizes) != sum(contents):
        return whole
    turns, at = [], 0
    for message, size in zip(messages, contents, strict=True):
        first = at
        while at < len(tokens) and (size > 0 or not sizes[at]):
            size -= sizes[at]
            at += 1
        if size:
            return whole
        turns.append((message["role"], (first, at)))
    return turns


def sides_of(version: PairVersion) -> tuple[str, str]:
    """What of both texts a person edits: the turn in which the feature fires."""
    row = version.row
    turn = firing_turn(row)
    positive, negative = (
        row[side][edited_turn(row[side], turn)]["content"] for side in ("positive", "negative")
    )
    return positive, negative


def differences(before: str, after: str) -> list[tuple[str, str]]:
    """What the words of two texts share and differ in: pairs of (same, gone or new) and words."""
    old, new = before.split(), after.split()
    pieces: list[tuple[str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if b > a:
            pieces.append(("same" if kind == "equal" else "gone", " ".join(old[a:b])))
        if d > c and kind != "equal":
            pieces.append(("new", " ".join(new[c:d])))
    return pieces


@dataclass(kw_only=True)
class PairQueue(EditQueue[int, PairVersion]):
    """The pairs of one run, by feature: beside decisions, their versions and edits."""

    run: str
    anchor: str
    threshold: float
    names: dict[int, str]
    explanations: dict[int, str]
    """Explanations by feature."""

    def evidence(self, entry: int) -> list[Row]:
        """The anchor's strongest examples of a feature."""
        return self.stores.cache.spans(self.anchor, entry, "top")[:3]

    def entry_of(self, decision: Decision) -> int:
        return feature_of(decision)

    def state(self, entry: int) -> PairState:
        return pair_states(self.stores, self.run)[entry]

    def decidable(self, version: PairVersion) -> bool:
        return version.proposed

    def texts_of(self, job: Job) -> tuple[str, ...]:
        return job.spec["positive"], job.spec["negative"]

    def approve_all(self, pairs: Iterable[tuple[int, str]]) -> None:
        """Approves the pairs of these features whose shown version still has that hash."""
        states = pair_states(self.stores, self.run)
        decisions: list[Decision] = []
        for feature, seen in pairs:
            version = states[feature].version
            if version.seen == seen and version.proposed:
                try:
                    bulk = Draft(reasons={review.UNSEEN})
                    decisions.append(self.add(version.item, review.APPROVE, bulk))
                except FacError as error:
                    self.trouble = str(error)
                    break
        if decisions:
            self.acts.append(tuple(decisions))
            decided = {feature_of(decision) for decision in decisions}
            self.todo = deque(feature for feature in self.todo if feature not in decided)
            self.renew()

    def undo(self, uid: str | None = None) -> list[Decision]:
        """Takes one act back; its pairs are in view again as they were decided on."""
        withdrawn = super().undo(uid)
        for decision in withdrawn:
            self.versions[feature_of(decision)] = decision.subject.split("/")[1]
        return withdrawn

    def edit_spec(self, base: PairVersion, positive: str, negative: str) -> RescoreSpec | None:
        """What measures an edit of the pair on top; None where it changes nothing. Raises
        InputError for an empty side."""
        if (positive, negative) == sides_of(base):
            self.trouble = "Nothing was changed, so there is nothing to measure."
            return None
        return RescoreSpec(
            pairs=base.run,
            feature=base.row["feature"],
            positive=positive,
            negative=negative,
            turn=firing_turn(base.row),
        )


def feature_of(decision: Decision) -> int:
    """The gap whose pair was decided on."""
    return int(decision.subject.rsplit("/", 1)[1])


def pair_queue(
    stores: Stores,
    setting: PairSetting,
    states: Mapping[int, PairState],
    moved: Callable[[], None],
) -> PairQueue:
    """The queue of a view."""
    run, who, show, above = setting
    facts = stores.runs.manifest(run).facts
    subjects = {version.item.subject for pair in states.values() for version in pair.versions}
    decisions = [
        d
        for d in (stores.decisions.current("pair", reviewer=who) if who else ())
        if d.subject in subjects and not d.adjudicates
    ]
    decided = {(d.subject, d.seen) for d in decisions}
    pairs = [pair for pair in in_state(states, show, above) if pair.version.proposed]
    if show == "undecided":  # what people disagree on comes again, after what is new to this one
        pairs.sort(key=lambda pair: (pair.version.item.subject, pair.version.seen) in decided)
    return PairQueue(
        stores=stores,
        setting=setting,
        reviewer=who,
        todo=deque(pair.feature for pair in pairs),
        total=len(pairs),
        acts=[(d,) for d in decisions],
        moved=moved,
        run=run,
        anchor=facts.anchor,
        threshold=facts.threshold,
        names=names(stores, facts.anchor, list(states)),
        explanations=preferred_texts(stores, facts.anchor),
    )
