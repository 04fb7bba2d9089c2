"""What a synthesis changes beside its gaps, what it took, and what was tried in vain: figures for
its facts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from fac import coverage
from fac.config import METHODS, PairsSpec, SynthesizeSpec
from fac.manifest import PairsFacts
from fac.schema import EVERY_FEATURE, EVERY_ROLE
from fac.store.runs import Runs
from fac.synthesis.filter import CandidateVerdict
from fac.synthesis.plan import Row
from fac.synthesis.scoring import support_of

RISEN = 5  # features whose share of samples rises most, that are told


def coverage_gained(
    question: PairsSpec,
    threshold: float,
    gaps: Sequence[int],
    kept: np.ndarray,
    written: np.ndarray,
    runs: Runs,
) -> Row:
    """FAC of the dataset against the anchor before and after, for the question that the gaps were
    chosen by and the threshold of the synthesis, as fac.questions.comparison.coverage has it.
    `kept` and `written` are the features `[n_features]` (bool) that kept samples fire, and those
    that any text does."""
    facts = runs.manifest(question.anchor).facts

    def support(run: str, above: float = threshold) -> np.ndarray:
        return support_of(runs, run, facts.n_features, above, question.role)

    if question.relevant == EVERY_FEATURE:
        fired = support(question.anchor, -math.inf)
        relevant = coverage.everywhere_relevant(fired, facts.n_read)
    else:
        relevant = np.isin(np.arange(facts.n_features), question.relevant_features)
    shows = coverage.present(support(question.anchor), question.min_support)
    has = coverage.present(support(question.dataset))
    before, after, unfiltered = (
        coverage.fac(shows, columns, relevant) for columns in (has, has | kept, has | written)
    )
    gained = np.setdiff1d(before.missing, after.missing)
    return {
        "fac_before": _number(before.fac),
        "fac_after": _number(after.fac),
        "fac_unfiltered": _number(unfiltered.fac),
        "n_anchor": before.n_anchor,
        "n_missing": before.n_missing,
        "miss_hit_rate": _number(coverage.miss_hit_rate(before.missing, kept)),
        "features_gained": len(gained),
        "gained": gained.tolist(),
        "gained_unasked": np.setdiff1d(gained, gaps).tolist(),
        "still_missing": np.setdiff1d(gaps, np.flatnonzero(kept)).tolist(),
    }


def side_effects(
    question: PairsSpec,
    threshold: float,
    sums: np.ndarray,
    counts: np.ndarray,
    n_kept: int,
    runs: Runs,
) -> Row:
    """How the dataset is changed by its kept samples: `drift` and `risen` of
    `fac.manifest.SynthesisFacts`. `sums` `[n_features]` are those of the kept samples' peaks,
    `counts` how many of them fire each feature above the threshold."""
    n = runs.manifest(question.dataset).facts.n_read
    before, fired = np.zeros(len(sums)), np.zeros(len(sums), int)
    for feature, peak in sample_peaks(runs, question.dataset, question.role):
        before += np.bincount(feature, peak, len(sums))
        active = coverage.is_active(peak, threshold)
        fired += np.bincount(feature[active], minlength=len(sums))
    if not n_kept or not n:
        return {"drift": None, "risen": []}
    after = before + sums
    length = float(np.linalg.norm(before) * np.linalg.norm(after))
    shares = fired / n, (fired + counts) / (n + n_kept)
    rise = shares[1] - shares[0]
    most = np.lexsort((np.arange(len(rise)), -rise))[:RISEN]
    return {
        "drift": min(1.0, float(before @ after) / length) if length else None,
        "risen": [
            {"feature": f, "before": float(shares[0][f]), "after": float(shares[1][f])}
            for f in most.tolist()
            if rise[f] > 0
        ],
    }


def sample_peaks(
    runs: Runs, measure: str, role: str = EVERY_ROLE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and peaks, int and float64 `[n]` each, once for every feature and sample that fires
    it in this role or, for EVERY_ROLE, in its strongest; of whole features at a time."""
    feature = sample = np.zeros(0, np.int32)
    peak = np.zeros(0)

    def strongest(upto: int) -> tuple[np.ndarray, np.ndarray]:
        # The table has the stronger of a sample's roles first.
        pairs = feature[:upto].astype(np.int64) << 32 | sample[:upto]
        first = np.unique(pairs, return_index=True)[1]
        return feature[first], peak[first]

    columns = ["feature", "sample", "peak", "role"]
    for batch in runs.batches(measure, "activations", columns=columns):
        if role != EVERY_ROLE:
            batch = batch.filter(pc.equal(batch.column("role"), role))
        feature = np.concatenate([feature, batch.column("feature").to_numpy()])
        sample = np.concatenate([sample, batch.column("sample").to_numpy()])
        peak = np.concatenate([peak, batch.column("peak").to_numpy()])
        # Sorted by feature: only the last one may go on in the next batch.
        whole = int(np.searchsorted(feature, feature[-1])) if len(feature) else 0
        yield strongest(whole)
        feature, sample, peak = feature[whole:], sample[whole:], peak[whole:]
    yield strongest(len(feature))


def both_steps(
    figures: Mapping[str, Any], spec: SynthesizeSpec, gaps: Sequence[int], about: PairsFacts
) -> Row:
    """What pairs of these gaps took, an equal share of their run for each gap, and what both steps
    did for each gap that the dataset did not show and now does."""
    share = len(gaps) / max(1, len(about.features)) if METHODS[spec.method].needs_pairs else 0.0
    first = {
        "pairs_tokens": about.tokens * share,
        "pairs_seconds": about.seconds * share,
        "pairs_cost": None if about.cost is None else about.cost * share,
    }
    n = len({*gaps} & {*figures["gained"]})
    whole = {}
    for name in ("tokens", "seconds", "cost"):
        parts = figures[name], first[f"pairs_{name}"] if share else 0.0
        whole[f"{name}_per_gap"] = sum(parts) / n if n and None not in parts else None
    return {**first, **whole}


def tried(judged: Sequence[CandidateVerdict], gaps: Sequence[int]) -> list[Row]:
    """Of each gap that no kept sample is for: `tried` of `fac.manifest.SynthesisFacts`."""
    rows = []
    kept = {verdict.feature for verdict in judged if verdict.kept}
    for gap in gaps:
        if gap in kept:
            continue
        texts = [verdict for verdict in judged if verdict.feature == gap]
        best = max(texts, key=lambda each: (each.own_peak, each.peak, each.candidate), default=None)
        rows.append(
            {
                "feature": gap,
                "texts": len(texts),
                "peak": max((verdict.peak for verdict in texts), default=0.0),
                "own_peak": best.own_peak if best else 0.0,
                "reason": best.reason if best else "",
            }
        )
    return rows


def note(judged: Sequence[CandidateVerdict], spec: SynthesizeSpec) -> str:
    """Why nothing is kept, or fewer rows than were asked for, as a sentence; "" otherwise."""
    kept = sum(verdict.kept for verdict in judged)
    if not kept:
        reasons = Counter(verdict.reason for verdict in judged).most_common(3)
        listed = ", ".join(f"{reason} {n:,}" for reason, n in reasons)
        return f"Nothing is kept of {len(judged):,} texts ({listed}), so there is no dataset."
    if spec.rows > kept:
        return (
            f"{kept:,} of {spec.rows:,} rows are kept: every gap without one has used up its "
            f"{spec.candidates} candidates."
        )
    return ""


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)
