"""Two measured datasets side by side: coverage, its curve, the gaps with their evidence, changes.

Joins what the cache counts with what fac.coverage says about counts; used by pages and commands
alike. An anchor is a measure run, a dataset is a measure run of the same encoder. Which runs
explain an anchor's features, and which judge them relevant to a task, is found here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fac import coverage
from fac.errors import BadRow, InputError
from fac.questions.explanations import explain_runs as explained_by
from fac.questions.relevance import listed_ids, relevance_runs, task_profiles
from fac.schema import CANNOT_TELL, EVERY_ROLE, LEVELS, RELEVANT, ROLES, UNREADABLE, CoverageResult
from fac.store.cache import Cache
from fac.store.runs import Runs

__all__ = ["explained_by", "listed_ids", "relevance_runs", "task_profiles"]

WORDS = ("label", "promotes", "explanation", "explainer", "score_kind")

GAP_COLUMNS = (
    *("feature", "label", "n_anchor", "n_dataset", "expected", "chance", "near", "anchor_peak"),
    *("badge", "promotes", "explanation", "explainer", "score", "score_kind"),
)
"""Of a row of `gaps_page`."""

GAP_SORTS = tuple(name for name in GAP_COLUMNS if name not in WORDS or name == "label")


class Gaps(NamedTuple):
    """Every gap. Words of thousands of features take longer than their figures, so they are looked
    up for those that are shown or searched."""

    figures: pa.Table
    words: Callable[[np.ndarray], pa.Table]


NAMED = 20
"""Features that `changes` describes in full on each side."""


def judged_words(runs: Runs, cache: Cache, anchor: str, task: str) -> str:
    """What a judge left out, as a sentence; "" where it spoke of every feature that fires.

    Coverage within a task is about the features somebody was asked about, and no others.
    """
    run = relevance_runs(runs, anchor).get(task)
    if run is None:
        return ""
    counts = runs.manifest(run)["facts"]["counts"]
    silent = {name: counts.get(name, 0) for name in (UNREADABLE, "failed")}
    asked, alive = sum(counts.values()), cache.summary(anchor)["n_alive"]
    said = []
    if asked < alive:
        said.append(f"the judge was asked about {asked:,} of {alive:,} features that fire")
    if silent[UNREADABLE]:
        said.append(f"{silent[UNREADABLE]:,} of its replies could not be read")
    if silent["failed"]:
        said.append(f"{silent['failed']:,} never came")
    if not said:
        return ""
    return f"For {task}, {', '.join(said)}: coverage speaks of the features with a verdict alone."


def relevant_set(
    given: str,
    cache: Cache,
    anchor: str,
    *,
    runs: Runs,
    role: str = EVERY_ROLE,
    overrides: Mapping[int, str] | None = None,
) -> np.ndarray:
    """The relevant features F as bool `[n_features]`, the same at every threshold.

    "all" leaves out what fires in nearly every sample of the anchor at all
    (fac.coverage.everywhere_relevant on every stored peak). The name of a task takes what its
    newest relevance run on the anchor puts on a level in RELEVANT, except where a person decided:
    `overrides` maps features to levels, and one who cannot tell leaves the judge's. Anything else
    names a file of feature ids: a JSON list, or one id per line, bare or as {"feature": id}; a
    file with the name of a task is "./NAME". Raises InputError for a task that was not judged and,
    with the line, for what is no id of this dictionary.
    """
    about = cache.summary(anchor)
    n_features = about["n_features"]
    if given == "all":
        fired = cache.support(anchor, about["thresholds"][0], role)
        return coverage.everywhere_relevant(fired, about["n_samples"])
    judged = relevance_runs(runs, anchor)
    if given in judged:
        return _overridden(cache.relevant(judged[given], n_features), overrides or {})
    tasks = task_profiles(runs)
    if given in tasks:
        raise InputError(
            f"No features of {about['name']} are judged for the task {given!r} yet: run "
            f"`fac judge {about['name']} --task {given}`, or take `all`."
        )
    path = Path(given)
    if not path.is_file():
        raise InputError(
            f"{given!r} is neither a task nor a file: take `all`, one of the tasks "
            f"{', '.join(sorted({*tasks, *judged}))}, or a file with one feature id per line."
        )
    relevant = np.zeros(n_features, bool)
    for line, feature in listed_ids(path):
        if not 0 <= feature < n_features:
            raise BadRow(line, f"{path} names feature {feature}; ids run to {n_features - 1}.")
        relevant[feature] = True
    if not relevant.any():
        raise InputError(f"{path} names no feature: write one id per line.")
    return relevant


def coverage_of(
    cache: Cache,
    anchor: str,
    dataset: str,
    *,
    threshold: float = 0.0,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    relevant: np.ndarray,
    also: Sequence[str] = (),
) -> CoverageResult:
    """FAC and F_miss of the dataset against the anchor, within `relevant` (bool `[n_features]`).

    `min_support` says how many of the anchor's samples must show a feature before the anchor
    counts as showing it; in the dataset one is enough. `also` names measures of what would be added
    to the dataset: together they show what either does. Raises InputError when the runs cannot be
    compared.
    """
    shown = np.zeros_like(relevant)
    for run in (dataset, *also):
        _must_match(cache, anchor, run, role)
        shown |= coverage.present(cache.support(run, threshold, role))
    return coverage.fac(
        coverage.present(cache.support(anchor, threshold, role), min_support), shown, relevant
    )


def curve(
    cache: Cache,
    anchor: str,
    dataset: str,
    *,
    runs: Runs,
    role: str = EVERY_ROLE,
    relevant_given: str = "all",
    overrides: Mapping[int, str] | None = None,
    min_support: int = 1,
) -> list[dict[str, Any]]:
    """Coverage on every rung of the anchor's ladder: threshold, fac (NaN where the anchor shows
    nothing), n_anchor, n_covered, n_missing. Each row is what coverage_of says at its threshold
    within the features of relevant_set, which `relevant_given` and `overrides` go to.
    """
    relevant = relevant_set(
        relevant_given, cache, anchor, runs=runs, role=role, overrides=overrides
    )
    rows = []
    for threshold in cache.summary(anchor)["thresholds"]:
        asked: dict[str, Any] = {"threshold": threshold, "min_support": min_support, "role": role}
        found = coverage_of(cache, anchor, dataset, relevant=relevant, **asked)
        rows.append({"threshold": threshold, **_figures(found)})
    return rows


def by_role(
    cache: Cache,
    anchor: str,
    dataset: str,
    *,
    runs: Runs,
    threshold: float = 0.0,
    min_support: int = 1,
    relevant_given: str = "all",
    overrides: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Coverage counting only one role's tokens, a row per role: role, fac (NaN where the anchor's
    tokens of that role show nothing), n_anchor, n_covered, n_missing. The relevant features are
    found as in `curve`, for each role anew: what fires everywhere differs between them."""
    given: dict[str, Any] = {"runs": runs, "overrides": overrides}
    rows = []
    for role in ROLES:
        asked: dict[str, Any] = {"threshold": threshold, "min_support": min_support, "role": role}
        relevant = relevant_set(relevant_given, cache, anchor, role=role, **given)
        found = coverage_of(cache, anchor, dataset, relevant=relevant, **asked)
        rows.append({"role": role, **_figures(found)})
    return rows


def gap_table(
    cache: Cache,
    anchor: str,
    dataset: str,
    *,
    threshold: float = 0.0,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    relevant: np.ndarray,
    explained: Sequence[str] = (),
    **listing: Any,
) -> tuple[list[dict[str, Any]], int]:
    """One page of F_miss with the evidence for each gap, and how many gaps match: the rows of
    `gaps`, listed by `gaps_page`, whose arguments `listing` holds."""
    found = gaps(
        cache,
        anchor,
        dataset,
        threshold=threshold,
        min_support=min_support,
        role=role,
        relevant=relevant,
        explained=explained,
    )
    return gaps_page(found, **listing)


def gaps_page(
    found: Gaps,
    *,
    search: str = "",
    badge: str = "any",
    sort: str = "n_anchor",
    descending: bool = True,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[dict[str, Any]], int]:
    """One page of what `gaps` found, and how many of them match.

    `search` finds what it finds in Cache.features_page. Values that are equal or None come last in
    feature order. Raises InputError for a column outside GAP_SORTS or a badge outside
    coverage.BADGES.
    """
    if sort not in GAP_SORTS:
        raise InputError(f"Gaps sort by {', '.join(GAP_SORTS)}, got {sort!r}.")
    if badge not in ("any", *coverage.BADGES):
        raise InputError(f"A badge is any, {', '.join(coverage.BADGES)}, got {badge!r}.")
    if offset < 0 or limit < 0:
        raise InputError(f"A page starts at 0 or later, got offset {offset}, limit {limit}.")
    table, search = found.figures, search.strip()
    if search or sort == "label":
        table = _with_words(table, found)
    if search or badge != "any":
        table = table.filter(_matching(table, search, badge))
    order = [(sort, "descending" if descending else "ascending"), ("feature", "ascending")]
    shown = pc.sort_indices(table, sort_keys=order).slice(offset, limit)
    return _with_words(table.take(shown), found).select(GAP_COLUMNS).to_pylist(), len(table)


def _with_words(table: pa.Table, found: Gaps) -> pa.Table:
    """The gaps with what is said of their features."""
    if "label" in table.column_names:
        return table
    words = found.words(table["feature"].to_numpy())
    for name in WORDS:
        table = table.append_column(name, words[name])
    return table


def changes(
    cache: Cache,
    before: str,
    after: str,
    *,
    threshold: float = 0.0,
    role: str = EVERY_ROLE,
    added: bool = False,
) -> dict[str, Any]:
    """What changed from one run to the next.

    gained, lost: feature ids, ascending; n_gained, n_lost; gained_first, lost_first: the NAMED most
    common of them as feature, label, n_before, n_after. What is `added` to the first does not
    replace it, so nothing is lost.
    """
    _must_match(cache, before, after, role)
    was, now = cache.support(before, threshold, role), cache.support(after, threshold, role)
    if added:
        now = now + was
    found: dict[str, Any] = {}
    for side, run, changed, n in (
        ("gained", after, (was == 0) & (now > 0), now),
        ("lost", before, (was > 0) & (now == 0), was),
    ):
        ids = np.flatnonzero(changed)
        first = ids[np.argsort(-n[ids], kind="stable")][:NAMED].tolist()
        rows, _ = cache.features_page(run, ids=first, limit=NAMED)
        labels = {row["feature"]: row["label"] for row in rows}
        found[side] = ids.tolist()
        found[f"n_{side}"] = len(ids)
        found[f"{side}_first"] = [
            {"feature": i, "label": labels[i], "n_before": int(was[i]), "n_after": int(now[i])}
            for i in first
        ]
    return found


def _overridden(relevant: np.ndarray, overrides: Mapping[int, str]) -> np.ndarray:
    """The judge's verdicts with those that people put in their place."""
    relevant = relevant.copy()  # whoever found it may give it to others too
    for feature, level in overrides.items():
        if not 0 <= feature < len(relevant) or level not in (*LEVELS, CANNOT_TELL):
            raise InputError(
                f"A decision puts feature {feature} on {level!r}: ids run to {len(relevant) - 1}, "
                f"levels are {', '.join(LEVELS)}; withdraw it or correct the imported file."
            )
        if level != CANNOT_TELL:
            relevant[feature] = level in RELEVANT
    return relevant


def _figures(result: CoverageResult) -> dict[str, Any]:
    return {
        "fac": result.fac,
        "n_anchor": result.n_anchor,
        "n_covered": result.n_covered,
        "n_missing": result.n_missing,
    }


def _must_match(cache: Cache, one: str, other: str, role: str) -> None:
    """Feature ids mean the same, and the same tokens were counted."""
    first, second = cache.summary(one), cache.summary(other)
    if first["encoder"] != second["encoder"]:
        raise InputError(
            f"{first['name']} and {second['name']} cannot be compared: they were measured with "
            f"different encoders ({first['encoder']}; {second['encoder']}), so the same number "
            f"means different features. Measure both with one model, layer and SAE."
        )
    if role == EVERY_ROLE and first["role"] != second["role"]:
        raise InputError(
            f"{first['name']} was measured over the tokens of {first['role']}, {second['name']} "
            f"over those of {second['role']}: choose one role both have, or measure again."
        )


def gaps(
    cache: Cache,
    anchor: str,
    dataset: str,
    *,
    threshold: float = 0.0,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    relevant: np.ndarray,
    explained: Sequence[str] = (),
) -> Gaps:
    """Every gap of F_miss with its evidence, in feature order.

    n_anchor     samples of the anchor that show it
    n_dataset    samples of the dataset that do: none, or it were no gap
    expected     samples that would, if the dataset were like the anchor, by content tokens
    chance       probability of none by size alone (coverage.chance_of_none); None without tokens
    near         the dataset's highest pre-activation over the level to reach, the larger of the
                 SAE's own threshold and `threshold`; None where that is zero or unknown
    anchor_peak  the anchor's highest peak
    badge        coverage.badge of the three
    score, and the words label, promotes, explanation, explainer, score_kind
                 as in Cache.features_page, of the first of the `explained` runs that has a text
    """
    asked: dict[str, Any] = {"threshold": threshold, "min_support": min_support, "role": role}
    missing = coverage_of(cache, anchor, dataset, relevant=relevant, **asked).missing
    about = cache.summary(anchor)
    sae = about["sae_run"] if cache.ready(about["sae_run"]) else None
    n_anchor = cache.support(anchor, threshold, role)[missing]
    n_dataset = cache.support(dataset, threshold, role)[missing]
    known = cache.evidence(anchor, dataset, sae, missing, role=role, explained=explained)
    peak = known["anchor_peak"].to_numpy()
    # The pre-activation is the dataset's highest over all roles: a miss in another role is near.
    own = pc.fill_null(known["sae_threshold"], 0.0).to_numpy()
    level = np.maximum(own, np.float32(threshold))
    reach = pc.fill_null(known["near_pre"], np.nan).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(level > 0, reach / level, np.nan)
        strength = np.where(level > 0, peak / level, np.inf)
    tokens = [_content_tokens(cache.summary(run), role) for run in (anchor, dataset)]
    chance = coverage.chance_of_none(n_anchor, *tokens)
    ratio = tokens[1] / tokens[0] if tokens[0] else np.nan
    figures = {
        "feature": known["feature"],
        "n_anchor": n_anchor,
        "n_dataset": n_dataset,
        "expected": _or_none(n_anchor * ratio),
        "chance": _or_none(chance),
        "near": _or_none(near),
        "anchor_peak": known["anchor_peak"],
        "badge": pa.array(coverage.badge(chance, near, strength), pa.string()),
        "score": known["score"],
    }
    words = partial(cache.described, anchor, sae_run=sae, explained=explained)
    return Gaps(pa.table(figures), words)


def _or_none(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _content_tokens(about: dict[str, Any], role: str) -> int:
    """Content tokens that could have fired: of one role, or of all that were measured."""
    return about["content_tokens"] if role == EVERY_ROLE else about["content_tokens_by_role"][role]


def _matching(table: pa.Table, search: str, badge: str) -> pa.Array:
    """Which gaps have the badge, and `search` in their label, their promoted tokens, their
    explanation or, as a number, as their id; "#12" is that id alone."""
    keep = pa.chunked_array([pa.array(np.ones(len(table), bool))])
    if badge != "any":
        keep = pc.equal(table["badge"], badge)
    if not search:
        return keep
    digits = search.removeprefix("#")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1
    found = pc.equal(table["feature"], number)
    if not search.startswith("#") or number < 0:
        explanation = pc.fill_null(table["explanation"], "")
        for text in (table["label"], pc.binary_join(table["promotes"], " "), explanation):
            found = pc.or_(found, pc.match_substring(text, search, ignore_case=True))
    return pc.and_(keep, found)
