"""Where every kept sample of a synthesis stands: its wordings, and what people say of them."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fac.agreement import wilson
from fac.manifest import AnyManifest
from fac.review.items import Item, Standing, Wording, by_wording, item, since_edited
from fac.store.decisions import VERDICTS, Decision, Decisions
from fac.store.runs import Runs

KEEP, DROP, WRONG_LABEL = VERDICTS["sample"]
"""What is said of a kept sample: train on it, do not, or not with that label."""


def sample_content(run: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Would one train on this sample? `row` has of schema.CANDIDATES candidate, feature, messages
    and extra (JSON or its dict); `run` is the synthesis, of an edited sample too. All that leaves
    with an export, so an edited sample is undecided."""
    extra = row["extra"]
    return {
        "kind": "sample",
        "synthetic": run,
        "candidate": row["candidate"],
        "feature": int(row["feature"]),
        "messages": [{"role": m["role"], "content": m["content"]} for m in row["messages"]],
        "extra": json.loads(extra) if isinstance(extra, str) else dict(extra),
    }


def sample_item(run: str, row: Mapping[str, Any]) -> Item:
    """The kept sample as a thing to decide on; arguments as of `sample_content`."""
    return item(sample_content(run, row))


class SampleVersion(NamedTuple):
    """One wording of a kept sample, and what people say of it."""

    run: str  # the synthesis, or the retouch run that an edit lies in
    created: str  # ISO time at which that run was finished

    row: dict[str, Any]
    """Of schema.CANDIDATES with `extra` as a dict, and kept, reason, peak of its verdict."""

    item: Item
    seen: str  # hash of what a decision on it is bound to
    standing: Standing  # of what was said since the last edit that passed

    @property
    def passes(self) -> bool:
        """Whether the filter keeps it; always so as it was written."""
        return bool(self.row["kept"])


SAMPLE_STATES = ("undecided", "kept", "edited", "dropped", "wrong label", "disagreed")
"""kept: as it was written; edited: kept as somebody edited it. disagreed: people differ."""

_OF_VERDICT = {KEEP: "kept", DROP: "dropped", WRONG_LABEL: "wrong label"}


class SampleState(NamedTuple):
    """Where one kept sample stands."""

    candidate: str
    feature: int
    state: str  # one of SAMPLE_STATES
    versions: tuple[SampleVersion, ...]  # oldest first
    version: SampleVersion  # the one people keep; else the newest that passes

    before: SampleState | None = None
    """Where it stood before an edit that nobody decided on yet; None where no such edit waits."""

    @property
    def settled(self) -> SampleState:
        """Where it stands but for edits that wait for a decision."""
        return self.before.settled if self.before else self

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Who decided on that version, in order of time."""
        return tuple(dict.fromkeys(d.reviewer for d in self.version.standing.decisions))

    @property
    def right_label(self) -> str | None:
        """The label that people give it in place of a wrong one, the newest; None where none is."""
        if self.state != "wrong label":
            return None
        labels = [
            d.edited_text for d in self.version.standing.decisions if d.verdict == WRONG_LABEL
        ]
        return next((label for label in reversed(labels) if label), None)


SampleVersions = Sequence[tuple[AnyManifest, Sequence[dict[str, Any]]]]


def sample_family(runs: Runs, run: str) -> list[AnyManifest]:
    """Manifests of a synthesis and of all that was edited from it, oldest first."""
    edits = (each for each in runs.list("retouch") if each.inputs.synthetic == run)
    return [runs.manifest(run), *sorted(edits, key=lambda m: (m.created, m.run))]


def sample_versions(runs: Runs, run: str) -> SampleVersions:
    """(manifest, rows as of SampleVersion) of what a synthesis kept and of everything edited from
    it, oldest first. Raises RunNotFound."""
    return [(manifest, sample_rows(runs, manifest.run)) for manifest in sample_family(runs, run)]


def sample_rows(runs: Runs, run: str) -> list[dict[str, Any]]:
    """What a synthesis kept, or the one sample of a retouch run, kept or not."""
    verdicts = {row["candidate"]: row for row in runs.table(run, "verdicts").to_pylist()}
    every = runs.manifest(run).step == "retouch"
    rows = []
    for row in runs.table(run, "candidates").to_pylist():
        verdict = verdicts[row["candidate"]]
        if every or verdict["kept"]:
            about = {name: verdict[name] for name in ("kept", "reason", "peak", "rank")}
            rows.append({**row, **about, "extra": json.loads(row["extra"])})
    return sorted(rows, key=lambda row: (row["feature"], row["rank"], row["candidate"]))


def sample_states(store: Decisions, runs: Runs, run: str) -> dict[str, SampleState]:
    """Where every kept sample of a synthesis stands, by candidate, gaps in order. Raises
    RunNotFound."""
    return states_of_samples(store.current("sample"), sample_versions(runs, run))


def states_of_samples(
    decisions: Iterable[Decision], versions: SampleVersions
) -> dict[str, SampleState]:
    """The same of decisions (Decisions.current("sample")) and what `sample_versions` gives.
    People's verdict is `standing`. An edit that passes makes what was said before of the other
    wordings count no longer; one that does not changes nothing."""
    run, by_content = versions[0][0].run, by_wording(decisions)
    wordings: dict[str, list[_Text]] = defaultdict(list)
    for manifest, rows in versions:
        for row in rows:
            wordings[row["candidate"]].append((manifest, row))
    return {candidate: _state(run, texts, by_content) for candidate, texts in wordings.items()}


_Text = tuple[AnyManifest, dict[str, Any]]


def _state(
    run: str, texts: Sequence[_Text], by_content: Mapping[Wording, tuple[Decision, ...]]
) -> SampleState:
    """Where a sample of a synthesis stands with these wordings, oldest first."""
    edits = [manifest.created for manifest, row in texts[1:] if row["kept"]]
    seen = tuple(
        SampleVersion(
            each.run, each.created, row, item, *since_edited(item, each.created, edits, by_content)
        )
        for each, row in texts
        for item in (sample_item(run, row),)
    )
    passing = [version for version in seen if version.passes]
    keeping = [version for version in passing if version.standing.verdict == KEEP]
    if keeping:
        best = max(keeping, key=lambda version: version.standing.decisions[-1].at)
        state = "kept" if best is seen[0] else "edited"
    else:
        best = passing[-1]
        disputed = "disagreed" if best.standing.by == "disputed" else "undecided"
        state = _OF_VERDICT.get(best.standing.verdict or "", disputed)
    before = None
    if state == "undecided" and best is not seen[0]:
        before = _state(run, [each for each in texts if each[0].run != best.run], by_content)
    row = texts[0][1]
    return SampleState(row["candidate"], row["feature"], state, seen, best, before)


class Looked(NamedTuple):
    """How many of a synthesis's kept samples people looked at, and what they said. While an edit
    waits for a decision, a sample counts as it stood before."""

    samples: int
    looked: int  # samples that somebody decided on
    kept: int  # of those, edited ones included
    edited: int
    dropped: int
    wrong_label: int
    disagreed: int
    reviewers: tuple[str, ...]  # by name
    share: float  # kept of those looked at; NaN where nobody looked
    low: float
    high: float  # Wilson's 95 % interval
    waiting: int = 0  # samples with an edit that nobody decided on yet


def looked(states: Iterable[SampleState]) -> Looked:
    """What `sample_states` amount to."""
    newest = [*states]
    states = [state.settled for state in newest]
    counts = Counter(state.state for state in states)
    n, kept = len(states) - counts["undecided"], counts["kept"] + counts["edited"]
    names = {name for state in states for name in state.reviewers}
    low, high = wilson(kept, n)
    return Looked(
        samples=len(states),
        looked=n,
        kept=kept,
        edited=counts["edited"],
        dropped=counts["dropped"],
        wrong_label=counts["wrong label"],
        disagreed=counts["disagreed"],
        reviewers=tuple(sorted(names)),
        share=kept / n if n else math.nan,
        low=low,
        high=high,
        waiting=sum(state.before is not None for state in newest),
    )
