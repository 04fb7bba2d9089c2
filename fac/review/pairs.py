"""Where every pair of a run stands: its versions, what people say of them, what is approved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fac.manifest import AnyManifest
from fac.review.items import Item, Standing, Wording, by_wording, since_edited, standing, subject
from fac.store.decisions import Decision, Decisions
from fac.store.runs import Runs

APPROVE, REJECT = "approve", "reject"
"""What is said of a pair that may be written from, and of one that may not."""

UNSEEN = "unseen in bulk"
"""The reason beside an approval that was given to many pairs at once, without a look at each."""


def pair_content(run: str, pair: Mapping[str, Any]) -> dict[str, Any]:
    """May this pair be written from? `pair` is a row of schema.PAIRS of the pairs or rescore `run`.
    Both texts and what they were measured to fire: a pair edited or measured anew is undecided."""
    sides: dict[str, Any] = {}
    for side in ("positive", "negative"):
        messages = [{"role": m["role"], "content": m["content"]} for m in pair[side]]
        # four digits, so that a float32 from Parquet and one from DuckDB are the same peak
        sides |= {side: messages, f"{side}_peak": round(float(pair[f"{side}_peak"]), 4)}
    feature = int(pair["feature"])
    return {"kind": "pair", "pairs": run, "pair": pair["pair"], "feature": feature, **sides}


def pair_item(run: str, pair: Mapping[str, Any]) -> Item:
    """The pair as a thing to decide on."""
    return Item("pair", subject("pair", run, pair["feature"]), pair_content(run, pair))


def pair_family(runs: Runs, pairs_run: str) -> list[AnyManifest]:
    """Manifests of a pairs run and of all that was edited from it, oldest first."""
    family = [runs.manifest(pairs_run)]
    for manifest in sorted(runs.list("rescore"), key=lambda m: (m.created, m.run)):
        if manifest.inputs.pairs in {member.run for member in family}:
            family.append(manifest)
    return family


def pair_versions(runs: Runs, pairs_run: str) -> list[tuple[AnyManifest, list[dict[str, Any]]]]:
    """(manifest, rows of schema.PAIRS) of a pairs run and of everything edited from it, oldest
    first. Raises RunNotFound."""
    family = pair_family(runs, pairs_run)
    return [(m, runs.table(m.run, "pairs").to_pylist()) for m in family]


class PairVersion(NamedTuple):
    """One wording of one gap's pair, and what people say of it."""

    run: str  # the pairs run, or the rescore run that an edit lies in
    created: str  # ISO time at which that run was finished
    row: dict[str, Any]  # of schema.PAIRS; a failed one holds no pair, and nobody decides on it
    item: Item
    seen: str  # hash of what a decision on it is bound to; "" for a failed one
    standing: Standing  # of what was said since the last edit of the pair

    @property
    def proposed(self) -> bool:
        return bool(self.row["status"] == "proposed")

    @property
    def approved(self) -> bool:
        """Whether it may be written from, unless another version was approved later."""
        return self.proposed and self.standing.verdict == APPROVE

    @property
    def unseen(self) -> bool:
        """Whether it stands as approved by people none of whom looked at it."""
        return self.approved and all(UNSEEN in d.reasons for d in _approvals(self))


class PairState(NamedTuple):
    """Where one gap's pair stands."""

    feature: int
    state: str  # one of PAIR_STATES
    versions: tuple[PairVersion, ...]  # oldest first
    version: PairVersion  # the approved one; else the newest that is a pair; else the newest


PAIR_STATES = ("undecided", "approved", "rejected", "failed")
"""undecided: nobody said anything about the newest version, or people disagree. failed: no pair."""


def pair_states(
    decisions: Iterable[Decision], versions: Iterable[tuple[AnyManifest, Sequence[dict[str, Any]]]]
) -> dict[int, PairState]:
    """Every gap of a pairs run, by feature. `decisions` is Decisions.current("pair"), `versions`
    what `pair_versions` gives. People's verdict is `standing`: an adjudication, else what most say.
    Once a pair was edited, what was said before of its other versions counts no longer."""
    by_content = by_wording(decisions)
    wordings: dict[int, list[tuple[AnyManifest, dict[str, Any]]]] = defaultdict(list)
    for manifest, rows in versions:
        for row in rows:
            wordings[row["feature"]].append((manifest, row))
    states = {}
    for feature, texts in sorted(wordings.items()):
        edits = [manifest.created for manifest, _ in texts[1:]]
        seen = tuple(_pair_version(*text, edits, by_content) for text in texts)
        proposed = [version for version in seen if version.proposed]
        approved = [version for version in proposed if version.approved]
        if approved:
            state, best = "approved", max(approved, key=lambda v: _approvals(v)[-1].at)
        elif proposed:
            best = proposed[-1]
            state = "rejected" if best.standing.verdict == REJECT else "undecided"
        else:
            state, best = "failed", seen[-1]
        states[feature] = PairState(feature, state, seen, best)
    return states


def _pair_version(
    manifest: AnyManifest,
    row: dict[str, Any],
    edits: Sequence[str],
    decisions: Mapping[Wording, tuple[Decision, ...]],
) -> PairVersion:
    run, created = manifest.run, manifest.created
    if row["status"] != "proposed":
        nothing = Item("pair", subject("pair", run, row["feature"]), {})
        return PairVersion(run, created, row, nothing, "", standing(()))
    item = pair_item(run, row)
    return PairVersion(run, created, row, item, *since_edited(item, created, edits, decisions))


def _approvals(version: PairVersion) -> list[Decision]:
    """The decisions that approve a version; of several adjudications the last."""
    by = [d for d in version.standing.decisions if d.verdict == APPROVE]
    if version.standing.by == "adjudication":
        return [d for d in by if d.adjudicates][-1:]
    return by


def _approver(decision: Decision) -> str:
    return decision.reviewer + (f" ({UNSEEN})" if UNSEEN in decision.reasons else "")


def approved_pairs(store: Decisions, runs: Runs, pairs_run: str) -> list[dict[str, Any]]:
    """The pairs of a run that people approved, by feature, at most one each: rows of schema.PAIRS
    with `run` (the pairs run, or the rescore run that an edit of it lies in), `approver` (by name,
    and whether it was unseen), `approved` (ISO time), `content` and `seen` (what was approved, and
    its hash) and `decisions`.
    `pair_states` says what counts as approved."""
    return approved_of(pair_states(store.current("pair"), pair_versions(runs, pairs_run)))


def approved_of(states: Mapping[int, PairState]) -> list[dict[str, Any]]:
    """The same of the states of gaps."""
    rows = []
    for gap in states.values():
        if gap.state != "approved":
            continue
        by = _approvals(gap.version)
        approval = {
            "run": gap.version.run,
            "approver": ", ".join(dict.fromkeys(map(_approver, by))),
            "approved": by[-1].at,
            "content": gap.version.item.content,
            "seen": gap.version.seen,
            "decisions": gap.version.standing.decisions,
        }
        rows.append({**gap.version.row, **approval})
    return rows
