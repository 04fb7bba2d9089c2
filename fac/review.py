"""What reviewers are shown and when, and what their word does.

A person sees one item at a time, without others' verdicts, scores or models. Everyone gets the
same overlap, without which no agreement can be computed; the rest is shared out. What is decided is
the exact content, so the functions `*_content` make what is hashed and nobody else does.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

from fac.config import digest
from fac.errors import InputError
from fac.manifest import AnyManifest
from fac.schema import CANNOT_TELL, LEVELS, RELEVANT
from fac.store.decisions import Decision, Decisions, reviewer_name
from fac.store.runs import Runs

REASONS = ("too broad", "too narrow", "several meanings", "token artefact", "wrong")
"""Flags beside a verdict on an explanation."""

SCALE = (*LEVELS, CANNOT_TELL)  # what may be said of an explanation and of relevance

NOT_RELEVANT = LEVELS[-1]
"""The one level below RELEVANT: the explanation does not fit, the feature does not matter."""

APPROVE, REJECT = "approve", "reject"
"""What is said of a pair that may be written from, and of one that may not."""

_SUBJECT = re.compile(r"(explanation|relevance|detection)/([^/]+)/(\d{1,9})(?:/(.+))?", re.DOTALL)


class Item(NamedTuple):
    """One thing to decide on."""

    kind: str
    subject: str
    """Measure run, feature and, for relevance, task: the same however it is worded today."""
    content: dict[str, Any]  # what is shown; its hash is what a decision is bound to
    gold: bool = False  # Its answer is known by adjudication. Never shown.
    overlap: bool = False  # Every reviewer gets it. Never shown.


class Subject(NamedTuple):
    """What decisions are filed under, taken apart."""

    kind: str
    measure: str  # run id
    feature: int
    task: str  # "" but for relevance


class Wording(NamedTuple):
    """One subject in one wording: what two ratings must share to be compared."""

    subject: str
    seen: str


def _content(kind: str, measure_run: str, feature: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "measure": measure_run, "feature": int(feature), **more}


def explanation_content(
    measure_run: str, feature: int, explanation_text: str | None
) -> dict[str, Any]:
    """Does this explanation fit the feature's spans? The spans follow from the measure run."""
    return _content("explanation", measure_run, feature, explanation=explanation_text)


def relevance_content(
    measure_run: str,
    feature: int,
    task_name: str,
    rubric: Sequence[str],
    explanation_text: str | None,
) -> dict[str, Any]:
    """Is the feature relevant to the task? Another rubric or explanation asks anew."""
    about = {"task": task_name, "rubric": [*rubric], "explanation": explanation_text}
    return _content("relevance", measure_run, feature, **about)


def detection_content(
    measure_run: str,
    feature: int,
    explanation_text: str | None,
    examples: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Which of these held-out texts fire? `examples` are rows with `tokens` and `positive`, as
    Cache.examples gives them; texts are kept as hashes, with the truth beside them."""
    texts = [
        {"text": digest([*map(str, row["tokens"])]), "positive": bool(row["positive"])}
        for row in examples
    ]
    about = {"explanation": explanation_text, "examples": texts}
    return _content("detection", measure_run, feature, **about)


def subject(kind: str, measure_run: str, feature: int, task: str = "") -> str:
    """What decisions of this kind about this feature are filed under."""
    return f"{kind}/{measure_run}/{int(feature)}" + (f"/{task}" if task else "")


def read_subject(text: str) -> Subject | None:
    """The parts of a subject; None for one that is not about a feature."""
    parts = _SUBJECT.fullmatch(text)
    if not parts:
        return None
    kind, measure, feature, task = parts.groups(default="")
    return Subject(kind, measure, int(feature), task)


def item(content: dict[str, Any]) -> Item:
    """The thing to decide on that one of the `*_content` functions describes. Raises InputError for
    another content, which an import may have brought."""
    try:
        kind, about = content["kind"], (content["measure"], int(content["feature"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"What was decided on there is nothing this page can show ({error!r}): it came with "
            f"an import."
        ) from error
    return Item(kind, subject(kind, *about, content.get("task", "")), content)


def by_wording(decisions: Iterable[Decision]) -> dict[Wording, tuple[Decision, ...]]:
    """Decisions on the same subject in the same wording, oldest first."""
    groups: dict[Wording, list[Decision]] = defaultdict(list)
    for decision in sorted(decisions, key=lambda d: (d.at, d.uid)):
        groups[Wording(decision.subject, decision.seen)].append(decision)
    return {wording: tuple(group) for wording, group in groups.items()}


class Pace(NamedTuple):
    """How fast somebody decides."""

    seconds: float  # median per decision; NaN before the first that was measured
    minutes_left: float  # for what is left at that pace; NaN likewise


def queue(
    items: Sequence[Item],
    decisions: Sequence[Decision],
    reviewer: str,
    *,
    overlap: float = 0.2,
    gold: float = 0.1,
    seed: str = "",
) -> list[Item]:
    """What `reviewer` still has to do, next first; `items` is everything there is to review. A
    share `overlap` of the items goes to everybody, in one order and spread evenly, so that two
    people who both stop early have rated the same ones. A share `gold` comes from what was
    adjudicated (by somebody else). The rest comes in the reviewer's own order; what others did
    already is last, so the work is shared out. `decisions` is Decisions.current(). The same
    arguments give the same queue, and a decision moves nothing but what it is about."""
    reviewer = reviewer_name(reviewer)
    by_key = {(item.kind, item.subject, digest(item.content)): item for item in items}
    mine = {_where(d) for d in decisions if d.reviewer == reviewer}
    others = {_where(d) for d in decisions if d.reviewer != reviewer}
    settled = {_where(d) for d in decisions if d.adjudicates}
    ranked = sorted(by_key, key=lambda key: (_fraction(seed, "everybody", key), key))
    shared = ranked[: math.ceil(overlap * len(ranked))]
    for_all = set(shared)
    answered = [key for key in ranked if key in settled and key not in for_all]
    golden = answered[: math.ceil(gold * len(ranked))]
    position = {key: (key in others, _fraction(seed, reviewer, key)) for key in by_key}
    for group in (shared, golden):
        for i, key in enumerate(group):  # one in every stretch, anywhere in it
            position[key] = (False, (i + _fraction(seed, reviewer, key)) / len(group))
    left = sorted((key for key in by_key if key not in mine), key=lambda key: (*position[key], key))
    return [by_key[key]._replace(gold=key in settled, overlap=key in for_all) for key in left]


def pace(decisions: Sequence[Decision], left: int) -> Pace:
    """How long `left` more items will take somebody who decided these."""
    measured = [d.seconds for d in decisions if d.seconds is not None]
    seconds = float(median(measured)) if measured else math.nan
    return Pace(seconds, left * seconds / 60)


def _where(decision: Decision) -> tuple[str, str, str]:
    return decision.kind, decision.subject, decision.seen


@lru_cache(maxsize=2**17)
def _fraction(*parts: object) -> float:
    """A number in [0, 1) that the parts determine; kept, as every key press asks for thousands."""
    return int(digest(*parts), 16) / 16**12


class Standing(NamedTuple):
    """What people's verdicts on one thing amount to."""

    verdict: str | None  # None where nobody said anything or they disagree
    by: str
    """adjudication: settled after seeing all verdicts. agreed: all who had an opinion say the same.
    majority: more than half do, or do about being relevant at all. disputed. undecided."""
    decisions: tuple[Decision, ...]


def standing(decisions: Iterable[Decision]) -> Standing:
    """What the current decisions on one thing, as shown once, amount to. The newest adjudication
    decides. Otherwise those who could tell vote; where no level has more than half of them but the
    levels of RELEVANT together have, the verdict is their middle one, the more cautious of two.
    Those who could not tell decide only where nobody could."""
    current = tuple(sorted(decisions, key=lambda d: (d.at, d.uid)))
    settling = [d for d in current if d.adjudicates]
    if settling:
        return Standing(settling[-1].verdict, "adjudication", current)
    verdicts = [d.verdict for d in current]
    votes = [v for v in verdicts if v != CANNOT_TELL] or verdicts
    if not votes:
        return Standing(None, "undecided", current)
    best, n = Counter(votes).most_common(1)[0]
    if n == len(votes):
        return Standing(best, "agreed", current)
    if n > len(votes) / 2:
        return Standing(best, "majority", current)
    side = sorted((v for v in votes if v in RELEVANT), key=LEVELS.index)
    if len(side) > len(votes) / 2:
        return Standing(side[len(side) // 2], "majority", current)
    return Standing(None, "disputed", current)


def relevance_overrides(
    store: Decisions,
    measure_run: str,
    task: str,
    contents: Iterable[Mapping[str, Any]] | None = None,
) -> dict[int, Standing]:
    """What people settled about the relevance of features to a task: level in LEVELS by feature.
    `contents` is what would be shown today (relevance_content): decisions on anything else do not
    count. Without it, what was decided on last counts, whatever the explanation says by now."""
    ratings = by_wording(store.current("relevance"))
    today = None if contents is None else {digest(content) for content in contents}
    settled: dict[int, Standing] = {}
    newest: dict[int, str] = {}
    for wording, decisions in ratings.items():
        about = read_subject(wording.subject)
        if not about or about != ("relevance", measure_run, about.feature, task):
            continue
        if today is not None and wording.seen not in today:
            continue
        if decisions[-1].at >= newest.get(about.feature, ""):
            newest[about.feature] = decisions[-1].at
            settled[about.feature] = standing(decisions)
    return {feature: s for feature, s in sorted(settled.items()) if s.verdict in LEVELS}


def corrections(store: Decisions, measure_run: str) -> dict[int, str]:
    """The explanation people wrote for a feature: the newest, an adjudicator's before others',
    unless people found that the correction itself does not fit."""
    current = store.current("explanation")
    ratings = by_wording(current)
    written: dict[int, list[Decision]] = defaultdict(list)
    for decision in current:
        about = read_subject(decision.subject)
        if decision.edited_text and about and about.measure == measure_run:
            written[about.feature].append(decision)
    texts: dict[int, str] = {}
    for feature, decisions in sorted(written.items()):
        for decision in sorted(decisions, key=lambda d: (d.adjudicates, d.at, d.uid), reverse=True):
            text = str(decision.edited_text)
            seen = digest(explanation_content(measure_run, feature, text))
            if standing(ratings.get(Wording(decision.subject, seen), ())).verdict != NOT_RELEVANT:
                texts[feature] = text
                break
    return texts


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
    seen = digest(item.content)
    last = max((at for at in edits if at > created), default="")
    since = [d for d in decisions.get(Wording(item.subject, seen), ()) if d.at > last]
    return PairVersion(run, created, row, item, seen, standing(since))


def _approvals(version: PairVersion) -> list[Decision]:
    """The decisions that approve a version; of several adjudications the last."""
    by = [d for d in version.standing.decisions if d.verdict == APPROVE]
    if version.standing.by == "adjudication":
        return [d for d in by if d.adjudicates][-1:]
    return by


def approved_pairs(store: Decisions, runs: Runs, pairs_run: str) -> list[dict[str, Any]]:
    """The pairs of a run that people approved, by feature, at most one each: rows of schema.PAIRS
    with `run` (the pairs run, or the rescore run that an edit of it lies in), `approver`,
    `approved` (ISO time), `content` and `seen` (what was approved, and its hash) and `decisions`.
    `pair_states` says what counts as approved."""
    rows = []
    for gap in pair_states(store.current("pair"), pair_versions(runs, pairs_run)).values():
        if gap.state != "approved":
            continue
        by = _approvals(gap.version)
        approval = {
            "run": gap.version.run,
            "approver": ", ".join(dict.fromkeys(d.reviewer for d in by)),
            "approved": by[-1].at,
            "content": gap.version.item.content,
            "seen": gap.version.seen,
            "decisions": gap.version.standing.decisions,
        }
        rows.append({**gap.version.row, **approval})
    return rows
