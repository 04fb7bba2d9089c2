"""The desk of one reviewer: what to look at next, what it was that they saw, what their word does.

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

import numpy as np

from fac import agreement
from fac.config import digest
from fac.errors import InputError
from fac.schema import CANNOT_TELL, LEVELS, RELEVANT
from fac.store.decisions import Decision, Decisions, reviewer_name
from fac.store.runs import Runs

REASONS = ("too broad", "too narrow", "several meanings", "token artefact", "wrong")
"""Flags beside a verdict on an explanation."""

SCALE = (*LEVELS, CANNOT_TELL)
"""What may be said of an explanation and of relevance."""

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
    content: dict[str, Any]
    """What is shown; its hash is what a decision is bound to."""
    gold: bool = False
    """Its answer is known by adjudication. Never shown."""
    overlap: bool = False
    """Every reviewer gets it. Never shown."""


class Subject(NamedTuple):
    """What decisions are filed under, taken apart."""

    kind: str
    measure: str
    """Run id."""
    feature: int
    task: str
    """"" but for relevance."""


class Shown(NamedTuple):
    """One subject in one wording: what two ratings must share to be compared."""

    subject: str
    seen: str


class Standing(NamedTuple):
    """What people's verdicts on one thing amount to."""

    verdict: str | None
    """None where nobody said anything or they disagree."""
    by: str
    """adjudication: settled after seeing all verdicts. agreed: all who had an opinion say the same.
    majority: more than half do, or do about being relevant at all. disputed. undecided."""
    decisions: tuple[Decision, ...]


class Pace(NamedTuple):
    """How fast somebody decides."""

    seconds: float
    """Median per decision; NaN before the first that was measured."""
    minutes_left: float
    """For what is left at that pace; NaN likewise."""


class Disagreement(NamedTuple):
    """Something that people rated differently and nobody settled."""

    shown: Shown
    decisions: tuple[Decision, ...]
    """By reviewer name."""
    levels_apart: int
    """Between the best and the worst verdict; cannot_tell is not on the scale."""
    gaps: int
    """Gaps that appear or vanish with the answer; 0 where all agree on relevant or not."""


class Record(NamedTuple):
    """One reviewer's work on one kind of question."""

    reviewer: str
    n: int
    """Blind decisions that stand, cannot tell included."""
    seconds: float
    """Median per decision; NaN where none was measured."""
    n_gold: int
    """Of those, decisions on items whose answer was settled by adjudication."""
    gold_right: int
    """Of these, on the settled level or next to it."""


class Detection(NamedTuple):
    """How well one person told from an explanation which texts fire."""

    feature: int
    reviewer: str
    seen: str
    score: agreement.BalancedAccuracy
    n_unsure: int
    """Texts answered with ?; not in the score's n."""


class HumanCheck(NamedTuple):
    """The paper's check of a judge (Table 5): what two or more people say, counted."""

    n: int
    """Items rated by at least two people."""
    relevant: int
    """All call it relevant (a level in RELEVANT)."""
    irrelevant: int
    """All call it irrelevant."""
    unclear: int
    """Anything else: they differ, or one cannot tell."""


TABLE_5 = {
    "toxicity": HumanCheck(n=200, relevant=168, irrelevant=10, unclear=22),
    "reward": HumanCheck(n=200, relevant=170, irrelevant=12, unclear=18),
    "instructions": HumanCheck(n=200, relevant=172, irrelevant=8, unclear=20),
}
"""The paper's own, two annotators on features that GPT-4o-mini had called relevant. Its text says
100 features a task and about 5 % unclear instead, and gives no coefficient."""


# ---- what is shown


def explanation_content(
    measure_run: str, feature: int, explanation_text: str | None
) -> dict[str, Any]:
    """Does this explanation fit the feature's spans? The spans follow from the measure run."""
    return {
        "kind": "explanation",
        "measure": measure_run,
        "feature": int(feature),
        "explanation": explanation_text,
    }


def relevance_content(
    measure_run: str,
    feature: int,
    task_name: str,
    rubric: Sequence[str],
    explanation_text: str | None,
) -> dict[str, Any]:
    """Is the feature relevant to the task? Another rubric or explanation asks anew."""
    return {
        "kind": "relevance",
        "measure": measure_run,
        "feature": int(feature),
        "task": task_name,
        "rubric": [*rubric],
        "explanation": explanation_text,
    }


def detection_content(
    measure_run: str,
    feature: int,
    explanation_text: str | None,
    examples: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Which of these held-out texts fire? `examples` are rows with `tokens` and `positive`, as
    Cache.examples gives them; texts are kept as hashes, with the truth beside them."""
    return {
        "kind": "detection",
        "measure": measure_run,
        "feature": int(feature),
        "explanation": explanation_text,
        "examples": [
            {"text": digest([*map(str, row["tokens"])]), "positive": bool(row["positive"])}
            for row in examples
        ],
    }


def subject(kind: str, measure_run: str, feature: int, task: str = "") -> str:
    """What decisions of this kind about this feature are filed under."""
    return f"{kind}/{measure_run}/{int(feature)}" + (f"/{task}" if task else "")


def read_subject(text: str) -> Subject | None:
    """The parts of a subject; None for one that is not about a feature."""
    found = _SUBJECT.fullmatch(text)
    if not found:
        return None
    kind, measure, feature, task = found.groups(default="")
    return Subject(kind, measure, int(feature), task)


def item(content: dict[str, Any]) -> Item:
    """The thing to decide on that one of the `*_content` functions describes.

    Raises InputError for another content, which an import may have brought.
    """
    try:
        kind, about = content["kind"], (content["measure"], int(content["feature"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"What was decided on there is nothing this page can show ({error!r}): it came with "
            f"an import."
        ) from error
    return Item(kind, subject(kind, *about, content.get("task", "")), content)


# ---- what is next


def queue(
    items: Sequence[Item],
    decisions: Sequence[Decision],
    reviewer: str,
    *,
    overlap: float = 0.2,
    gold: float = 0.1,
    seed: str = "",
) -> list[Item]:
    """What `reviewer` still has to do, next first; `items` is everything there is to review.

    A share `overlap` of the items goes to everybody, in one order and spread evenly, so that two
    people who both stop early have rated the same ones. A share `gold` comes from what was
    adjudicated (by somebody else). The rest comes in the reviewer's own order; what others did
    already is last, so the work is shared out. `decisions` is Decisions.current(). The same
    arguments give the same queue, and a decision moves nothing but what it is about.
    """
    reviewer = reviewer_name(reviewer)
    known = {_key(one): one for one in items}
    mine = {_where(d) for d in decisions if d.reviewer == reviewer}
    others = {_where(d) for d in decisions if d.reviewer != reviewer}
    settled = {_where(d) for d in decisions if d.adjudicates}
    ranked = sorted(known, key=lambda key: (_fraction(seed, "everybody", key), key))
    shared = ranked[: math.ceil(overlap * len(ranked))]
    for_all = set(shared)
    answered = [key for key in ranked if key in settled and key not in for_all]
    golden = answered[: math.ceil(gold * len(ranked))]
    place: dict[tuple[str, str, str], tuple[bool, float]] = {}
    for key in known:
        place[key] = (key in others, _fraction(seed, reviewer, key))
    for group in (shared, golden):
        for i, key in enumerate(group):  # one in every stretch, anywhere in it
            place[key] = (False, (i + _fraction(seed, reviewer, key)) / len(group))
    left = sorted((key for key in known if key not in mine), key=lambda key: (*place[key], key))
    return [known[key]._replace(gold=key in settled, overlap=key in for_all) for key in left]


def undo(store: Decisions, reviewer: str, kind: str | None = None) -> Decision | None:
    """Takes back the reviewer's last standing decision; which, or None where there is none."""
    standing_ones = store.current(kind, reviewer=reviewer)
    if not standing_ones:
        return None
    store.withdraw(standing_ones[-1].uid, reviewer)
    return standing_ones[-1]


def pace(decisions: Sequence[Decision], left: int) -> Pace:
    """How long `left` more items will take somebody who decided these."""
    measured = [d.seconds for d in decisions if d.seconds is not None]
    seconds = float(median(measured)) if measured else math.nan
    return Pace(seconds, left * seconds / 60)


# ---- what it amounts to


def standing(decisions: Iterable[Decision]) -> Standing:
    """What the current decisions on one thing, as shown once, amount to.

    The newest adjudication decides. Otherwise those who could tell vote; where no level has more
    than half of them but the levels of RELEVANT together have, the verdict is their middle one, the
    more cautious of two. Those who could not tell decide only where nobody could.
    """
    given = tuple(sorted(decisions, key=lambda d: (d.at, d.uid)))
    settling = [d for d in given if d.adjudicates]
    if settling:
        return Standing(settling[-1].verdict, "adjudication", given)
    verdicts = [d.verdict for d in given]
    votes = [v for v in verdicts if v != CANNOT_TELL] or verdicts
    if not votes:
        return Standing(None, "undecided", given)
    best, n = Counter(votes).most_common(1)[0]
    if n == len(votes):
        return Standing(best, "agreed", given)
    if n > len(votes) / 2:
        return Standing(best, "majority", given)
    side = sorted((v for v in votes if v in RELEVANT), key=LEVELS.index)
    if len(side) > len(votes) / 2:
        return Standing(side[len(side) // 2], "majority", given)
    return Standing(None, "disputed", given)


def relevance_overrides(
    store: Decisions,
    measure_run: str,
    task: str,
    contents: Iterable[Mapping[str, Any]] | None = None,
) -> dict[int, Standing]:
    """What people settled about the relevance of features to a task: level in LEVELS by feature.

    `contents` is what would be shown today (relevance_content): decisions on anything else do not
    count. Without it, what was decided on last counts, whatever the explanation says by now.
    """
    by_shown = _by_shown(store.current("relevance"))
    today = None if contents is None else {digest(content) for content in contents}
    found: dict[int, Standing] = {}
    newest: dict[int, str] = {}
    for shown, decisions in by_shown.items():
        about = read_subject(shown.subject)
        if not about or about != ("relevance", measure_run, about.feature, task):
            continue
        if today is not None and shown.seen not in today:
            continue
        if decisions[-1].at >= newest.get(about.feature, ""):
            newest[about.feature] = decisions[-1].at
            found[about.feature] = standing(decisions)
    return {feature: s for feature, s in sorted(found.items()) if s.verdict in LEVELS}


def corrections(store: Decisions, measure_run: str) -> dict[int, str]:
    """The explanation people wrote for a feature: the newest, an adjudicator's before others',
    unless people found that the correction itself does not fit."""
    current = store.current("explanation")
    by_shown = _by_shown(current)
    written: dict[int, list[Decision]] = defaultdict(list)
    for decision in current:
        about = read_subject(decision.subject)
        if decision.edited_text and about and about.measure == measure_run:
            written[about.feature].append(decision)
    found: dict[int, str] = {}
    for feature, decisions in sorted(written.items()):
        for decision in sorted(decisions, key=lambda d: (d.adjudicates, d.at, d.uid), reverse=True):
            text = str(decision.edited_text)
            seen = digest(explanation_content(measure_run, feature, text))
            if standing(by_shown.get(Shown(decision.subject, seen), ())).verdict != NOT_RELEVANT:
                found[feature] = text
                break
    return found


# ---- how well people agree


def ratings_matrix(
    decisions: Iterable[Decision], kind: str, levels: Sequence[str] = LEVELS
) -> tuple[np.ndarray, list[Shown], list[str]]:
    """Blind ratings as float `[n_items, n_reviewers]`, codes into `levels`, NaN where not rated.

    An item is a subject in one wording. A verdict outside `levels`, such as cannot_tell, is not a
    rating; adjudications are none either. Items and reviewers without any rating are left out.
    """
    rated = [
        d for d in decisions if d.kind == kind and not d.adjudicates and d.verdict in [*levels]
    ]
    subjects = sorted({Shown(d.subject, d.seen) for d in rated})
    reviewers = sorted({d.reviewer for d in rated})
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (subjects, reviewers))
    ratings = np.full((len(subjects), len(reviewers)), np.nan)
    for d in rated:
        ratings[row[Shown(d.subject, d.seen)], column[d.reviewer]] = levels.index(d.verdict)
    return ratings, subjects, reviewers


def disagreements(
    decisions: Iterable[Decision],
    kind: str,
    levels: Sequence[str] = LEVELS,
    *,
    weights: Mapping[str, int] | None = None,
) -> list[Disagreement]:
    """What to adjudicate first: most gaps changed, then furthest apart, then by subject.

    `weights` says, per subject, how many gaps hang on the feature; they change only where some
    call it relevant and others do not.
    """
    found = []
    for shown, given in _by_shown(d for d in decisions if d.kind == kind).items():
        places = [levels.index(d.verdict) for d in given if d.verdict in levels]
        if any(d.adjudicates for d in given) or len(set(places)) < 2:
            continue
        sides = {levels[place] in RELEVANT for place in places}
        gaps = (weights or {}).get(shown.subject, 0) if len(sides) == 2 else 0
        by_name = tuple(sorted(given, key=lambda d: d.reviewer))
        found.append(Disagreement(shown, by_name, max(places) - min(places), gaps))
    return sorted(found, key=lambda d: (-d.gaps, -d.levels_apart, d.shown))


def records(decisions: Iterable[Decision], kind: str) -> list[Record]:
    """Every reviewer's work, by name: how much, how fast, how often right where it is known."""
    given = [d for d in decisions if d.kind == kind]
    settled = {
        shown: standing(each).verdict
        for shown, each in _by_shown(given).items()
        if any(d.adjudicates for d in each)
    }
    by_name: dict[str, list[Decision]] = defaultdict(list)
    for decision in given:
        if not decision.adjudicates:
            by_name[decision.reviewer].append(decision)
    found = []
    for name, own in sorted(by_name.items()):
        gold = [(d.verdict, settled.get(Shown(d.subject, d.seen))) for d in own]
        known = [(said, truth) for said, truth in gold if truth in LEVELS]
        right = [
            said in LEVELS and abs(LEVELS.index(said) - LEVELS.index(str(truth))) <= 1
            for said, truth in known
        ]
        found.append(Record(name, len(own), pace(own, 0).seconds, len(known), sum(right)))
    return found


def calibration(
    decisions: Iterable[Decision], judged: Mapping[str, str]
) -> list[agreement.LevelPrecision]:
    """How often people call relevant what a judge put on each level; `judged` is the judge's level
    per subject. Counted where people's verdict stands and they could tell; of several wordings of
    one subject, the one decided on last."""
    by_subject: dict[str, tuple[str, bool]] = {}
    groups = _by_shown(d for d in decisions if d.kind == "relevance")
    for shown, given in sorted(groups.items(), key=lambda group: group[1][-1].at):
        verdict = standing(given).verdict
        if shown.subject in judged and verdict in LEVELS:
            by_subject[shown.subject] = (judged[shown.subject], verdict in RELEVANT)
    levels, relevant = zip(*by_subject.values(), strict=True) if by_subject else ((), ())
    return agreement.precision_by_level(levels, relevant)


def human_check(decisions: Iterable[Decision], subjects: Iterable[str] | None = None) -> HumanCheck:
    """Table 5 of the paper for these decisions, adjudications left out; `subjects` restricts it to
    what a judge had called relevant. Of decisions on explanations it says: fits, does not, unclear.
    """
    wanted = None if subjects is None else set(subjects)
    counts: Counter[str] = Counter()
    blind = (d for d in decisions if d.verdict in SCALE and not d.adjudicates)
    for shown, given in _by_shown(blind).items():
        if len(given) < 2 or (wanted is not None and shown.subject not in wanted):
            continue
        if all(d.verdict in RELEVANT for d in given):
            counts["relevant"] += 1
        elif all(d.verdict == NOT_RELEVANT for d in given):
            counts["irrelevant"] += 1
        else:
            counts["unclear"] += 1
    return HumanCheck(
        n=counts.total(),
        relevant=counts["relevant"],
        irrelevant=counts["irrelevant"],
        unclear=counts["unclear"],
    )


def human_detection(store: Decisions, measure_run: str) -> list[Detection]:
    """Balanced accuracy of every person and feature of the detection task, by feature and name."""
    contents = store.contents()
    found = []
    for decision in store.current("detection"):
        about = read_subject(decision.subject)
        truth = _truth(contents[decision.seen])
        if not about or about.measure != measure_run:
            continue
        if len(truth) != len(decision.verdict):  # only an import can bring such an answer
            continue
        pairs = [(s == "+", t) for s, t in zip(decision.verdict, truth, strict=True) if s != "?"]
        score = agreement.balanced_accuracy(*(zip(*pairs, strict=True) if pairs else ((), ())))
        unsure = decision.verdict.count("?")
        found.append(Detection(about.feature, decision.reviewer, decision.seen, score, unsure))
    return sorted(found, key=lambda d: (d.feature, d.reviewer, d.seen))


def _truth(content: Mapping[str, Any]) -> list[bool]:
    """Which texts of a detection fire; none where the content is no detection_content."""
    rows = content.get("examples")
    rows = rows if isinstance(rows, list) else []
    return [row["positive"] is True for row in rows if isinstance(row, dict) and "positive" in row]


def _by_shown(decisions: Iterable[Decision]) -> dict[Shown, tuple[Decision, ...]]:
    """Decisions on the same thing, oldest first."""
    groups: dict[Shown, list[Decision]] = defaultdict(list)
    for decision in sorted(decisions, key=lambda d: (d.at, d.uid)):
        groups[Shown(decision.subject, decision.seen)].append(decision)
    return {shown: tuple(group) for shown, group in groups.items()}


def _key(one: Item) -> tuple[str, str, str]:
    return one.kind, one.subject, digest(one.content)


def _where(decision: Decision) -> tuple[str, str, str]:
    return decision.kind, decision.subject, decision.seen


@lru_cache(maxsize=2**17)
def _fraction(*parts: object) -> float:
    """A number in [0, 1) that the parts determine; kept, as every key press asks for thousands."""
    return int(digest(*parts), 16) / 16**12


# ---- pairs: what may be written from


def pair_content(run: str, pair: Mapping[str, Any]) -> dict[str, Any]:
    """May this pair be written from? `pair` is a row of schema.PAIRS of the pairs or rescore `run`.

    Both texts and what they were measured to fire: a pair edited or measured anew is undecided.
    """
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


def pair_family(runs: Runs, pairs_run: str) -> list[dict[str, Any]]:
    """Manifests of a pairs run and of all that was edited from it, oldest first."""
    found = [runs.manifest(pairs_run)]
    for manifest in sorted(runs.list("rescore"), key=lambda m: (m["created"], m["run"])):
        if manifest["inputs"][0] in {known["run"] for known in found}:
            found.append(manifest)
    return found


def pair_versions(runs: Runs, pairs_run: str) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(manifest, rows of schema.PAIRS) of a pairs run and of everything edited from it, oldest
    first. Raises RunNotFound."""
    family = pair_family(runs, pairs_run)
    return [(m, runs.table(m["run"], "pairs").to_pylist()) for m in family]


class PairVersion(NamedTuple):
    """One wording of one gap's pair, and what people say of it."""

    run: str
    """The pairs run, or the rescore run that an edit lies in."""
    created: str
    """ISO time at which that run was finished."""
    row: dict[str, Any]
    """Of schema.PAIRS; a failed one holds no pair, and nobody decides on it."""
    item: Item
    seen: str
    """Hash of what a decision on it is bound to; "" for a failed one."""
    standing: Standing
    """Of what was said since the last edit of the pair."""

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
    state: str
    """One of PAIR_STATES."""
    versions: tuple[PairVersion, ...]
    """Oldest first."""
    shown: PairVersion
    """The approved one; else the newest that is a pair; else the newest."""


PAIR_STATES = ("undecided", "approved", "rejected", "failed")
"""undecided: nobody said anything about the newest version, or people disagree. failed: no pair."""


def pair_states(
    said: Iterable[Decision], versions: Iterable[tuple[Mapping[str, Any], Sequence[dict[str, Any]]]]
) -> dict[int, PairState]:
    """Every gap of a pairs run, by feature. `said` is Decisions.current("pair"), `versions` what
    `pair_versions` gives.

    People's verdict is `standing`: an adjudication, else what most say. Once a pair was edited,
    what was said before of its other versions counts no longer.
    """
    by_shown = _by_shown(said)
    wordings: dict[int, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for manifest, rows in versions:
        for row in rows:
            wordings[row["feature"]].append((manifest["run"], manifest["created"], row))
    found = {}
    for feature, own in sorted(wordings.items()):
        edits = [created for _, created, _ in own[1:]]
        seen = tuple(_pair_version(each, edits, by_shown) for each in own)
        proposed = [version for version in seen if version.proposed]
        approved = [version for version in proposed if version.approved]
        if approved:
            best = max(approved, key=lambda version: _approvals(version)[-1].at)
            found[feature] = PairState(feature, "approved", seen, best)
        elif proposed:
            newest = proposed[-1]
            rejected = newest.standing.verdict == REJECT
            state = "rejected" if rejected else "undecided"
            found[feature] = PairState(feature, state, seen, newest)
        else:
            found[feature] = PairState(feature, "failed", seen, seen[-1])
    return found


def _pair_version(
    wording: tuple[str, str, dict[str, Any]],
    edits: Sequence[str],
    said: Mapping[Shown, tuple[Decision, ...]],
) -> PairVersion:
    run, created, row = wording
    if row["status"] != "proposed":
        nothing = Item("pair", subject("pair", run, row["feature"]), {})
        return PairVersion(run, created, row, nothing, "", standing(()))
    one = pair_item(run, row)
    seen = digest(one.content)
    last = max((at for at in edits if at > created), default="")
    given = [d for d in said.get(Shown(one.subject, seen), ()) if d.at > last]
    return PairVersion(run, created, row, one, seen, standing(given))


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

    What counts as approved says `pair_states`.
    """
    found = []
    for one in pair_states(store.current("pair"), pair_versions(runs, pairs_run)).values():
        if one.state != "approved":
            continue
        by = _approvals(one.shown)
        approval = {
            "run": one.shown.run,
            "approver": ", ".join(dict.fromkeys(d.reviewer for d in by)),
            "approved": by[-1].at,
            "content": one.shown.item.content,
            "seen": one.shown.seen,
            "decisions": one.shown.standing.decisions,
        }
        found.append({**one.shown.row, **approval})
    return found
