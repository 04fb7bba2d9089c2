"""Which features are gaps, and how far each can be believed.

A gap is a relevant feature of the anchor that the dataset lacks (absent: F_miss) or shows much more
rarely than the anchor leads one to expect (under-represented: significant in
uncertainty.gap_test).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from fac.coverage import present
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, coverage
from fac.questions.firing import content_tokens, support_of
from fac.questions.relevance import relevant_set
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.uncertainty import gap_test

BADGES = ("certain", "possible", "artefact")
"""How far a gap can be believed, most first."""

KINDS = ("absent", "under-represented")

BARELY = 1.1
"""An anchor whose highest peak is below this times the level to reach barely fires a feature."""

BELIEF = """
How far a gap can be believed.

**certain**: the dataset shows it so much more rarely than the anchor that chance does not explain
it, and where it does show it, at most half as often as expected, with the whole interval of the
rate; of all gaps called so, at most 5 % are expected to be false.

**possible**: it is absent, but a dataset of this size could lack it by chance; or it is shown too
rarely, but perhaps by less than half.

**artefact**: the anchor itself barely shows it: in one sample alone, or nowhere with 1.1 of what it
takes to fire.
"""


class Basis(NamedTuple):
    """What the test of a comparison's gaps rests on."""

    n_asked: int
    """Relevant features that the anchor shows."""
    anchor_tokens: int
    """Content tokens of the role in question."""
    dataset_tokens: int

    @property
    def is_test(self) -> bool:
        """Whether there is a rate on both sides."""
        return min(self.anchor_tokens, self.dataset_tokens) > 0


class Evidence(NamedTuple):
    """What is measured of the gaps, an entry each, in feature order."""

    feature: np.ndarray
    n_anchor: np.ndarray
    n_dataset: np.ndarray
    expected: np.ndarray
    """This, `ratio` and `p` as in uncertainty.GapTest; NaN where there is no test."""
    ratio: np.ndarray
    p: np.ndarray
    certain: np.ndarray
    """bool: as in uncertainty.GapTest."""
    near: np.ndarray
    """Share of the level to reach; NaN where that is zero or unknown, and where it fires."""
    strength: np.ndarray
    """The anchor's highest peak over the level to reach."""
    anchor_peak: np.ndarray
    score: Any = None
    """Arrow column, null where nothing is explained."""

    def badges(self) -> np.ndarray:
        """Which of BADGES each has: its place among them, int8 `[n]`."""
        barely = (self.n_anchor == 1) | (self.strength < BARELY)
        return np.where(barely, 2, np.where(self.certain, 0, 1)).astype(np.int8)

    def kinds(self) -> np.ndarray:
        """Which of KINDS each is: its place among them, int8 `[n]`."""
        return (self.n_dataset > 0).astype(np.int8)

    def certainty(self) -> np.ndarray:
        """int64 `[n]` by which certain gaps come first and artefacts last, of each badge what is
        absent before what is rare, and of these those that are expected the most, which grows with
        the anchor's samples."""
        rank = 2 * (len(BADGES) - self.badges().astype(np.int64)) - self.kinds()
        return self.n_anchor + (rank << 40)


class GapCounts(NamedTuple):
    """How many gaps there are of each badge."""

    certain_absent: int
    certain_under: int
    """Under-represented."""
    possible: int
    artefact: int
    n_asked: int
    """Relevant features that the anchor shows, about all of which the test asks."""

    @property
    def certain(self) -> int:
        return self.certain_absent + self.certain_under


def gap_counts(stores: Stores, comparison: Comparison) -> GapCounts:
    """How many gaps there are of each badge."""
    evidence = evidence_of(stores, comparison)
    badges, absent = evidence.badges(), evidence.n_dataset == 0
    certain, possible, artefact = (badges == number for number in range(len(BADGES)))
    return GapCounts(
        certain_absent=int((certain & absent).sum()),
        certain_under=int((certain & ~absent).sum()),
        possible=int(possible.sum()),
        artefact=int(artefact.sum()),
        n_asked=basis_of(stores, comparison).n_asked,
    )


def certain_features(stores: Stores, comparison: Comparison, kind: str) -> list[int]:
    """The features of the certain gaps of a kind, ascending."""
    evidence = evidence_of(stores, comparison)
    of_kind = (evidence.badges() == 0) & (evidence.kinds() == KINDS.index(kind))
    features: list[int] = evidence.feature[of_kind].tolist()
    return features


def gap_features(stores: Stores, comparison: Comparison) -> list[int]:
    """The features of all gaps, certain ones first."""
    evidence = evidence_of(stores, comparison)
    order = np.argsort(-evidence.certainty(), kind="stable")
    features: list[int] = evidence.feature[order].tolist()
    return features


def missing_or_rare(stores: Stores, comparison: Comparison) -> list[int]:
    """The features that texts are written for where nobody chose any, certain ones first: what is
    absent, since only that raises coverage; where nothing is, what is under-represented."""
    missing = set(coverage(stores, comparison).missing.tolist())
    every = gap_features(stores, comparison)
    return [feature for feature in every if feature in missing] or every


def reason(row: Row, basis: Basis) -> str:
    """Why a gap, a row of figures, has its badge, as a sentence."""
    n, n_here, p = row["n_anchor"], row["n_dataset"], row["p"]
    if n == 1:
        return "A single sample of the anchor shows it."
    if row["strength"] < BARELY:
        times = math.floor(100 * row["strength"]) / 100  # 1.10 would not be under it
        return f"The anchor's highest peak is {times:.2f} of what it takes."
    fires = f"{n:,} samples of the anchor fire it"
    if p is None:
        side = "dataset" if basis.anchor_tokens else "anchor"
        return f"{fires}; without content tokens in the {side} nothing can be expected here."
    expected = f"{row['expected']:,.1f}" if row["expected"] >= 0.05 else "fewer than 0.1"
    here = {0: "none does", 1: "1 does"}.get(n_here, f"{n_here:,} do")
    verdict = "certain" if row["badge"] == BADGES[0] else "which chance can explain"
    if n_here and row["badge"] != BADGES[0]:
        verdict = "not by chance, but perhaps by less than half"
    return (
        f"{fires}, {expected} would be expected here, {here}; p {_short(p)}, {verdict} among "
        f"{basis.n_asked:,} features asked."
    )


def _short(p: float) -> str:
    """A probability in one digit, such as 0.2, 3e-5."""
    if p < 1e-99:
        return "below 1e-99"
    mantissa, _, exponent = f"{p:.1g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def evidence_of(stores: Stores, comparison: Comparison) -> Evidence:
    """What is missing, and what the test says is under-represented."""
    return _evidence(stores, comparison, sae_of(stores, comparison.anchor))


@remembered_for_good
def _evidence(stores: Stores, comparison: Comparison, sae: str | None) -> Evidence:
    cache, anchor = stores.cache, comparison.anchor
    threshold, role = comparison.threshold, comparison.role
    missing = coverage(stores, comparison).missing
    n_anchor = cache.support(anchor, threshold, role)
    supports = [cache.support(run, threshold, role) for run in comparison.runs]
    n_dataset = np.sum(supports, axis=0)
    features = _asked(stores, comparison)
    basis = basis_of(stores, comparison)
    unknown = np.full(len(features), np.nan)
    expected, ratio, p = unknown, unknown, unknown
    significant = certain = np.zeros(len(features), bool)
    if basis.is_test:
        tokens = {"anchor_tokens": basis.anchor_tokens, "dataset_tokens": basis.dataset_tokens}
        test = gap_test(n_anchor[features], n_dataset[features], **tokens)
        expected, ratio, p, significant, certain = test
    is_gap = significant | np.isin(features, missing)
    gaps = features[is_gap]
    near, strength, peak = _reached(stores, comparison, sae, gaps)
    near[n_dataset[gaps] > 0] = np.nan
    return Evidence(
        gaps,
        n_anchor[gaps],
        n_dataset[gaps],
        expected[is_gap],
        ratio[is_gap],
        p[is_gap],
        certain[is_gap],
        near,
        strength,
        peak,
    )


def _asked(stores: Stores, comparison: Comparison) -> np.ndarray:
    """The relevant features that the anchor shows: int64 `[n_asked]`."""
    anchor, role = comparison.anchor, comparison.role
    relevant = relevant_set(stores, anchor, comparison.relevance, role)
    n_anchor = stores.cache.support(anchor, comparison.threshold, role)
    return np.flatnonzero(relevant & present(n_anchor, comparison.min_support))


def smallest_certain(stores: Stores, comparison: Comparison) -> tuple[int, int]:
    """The fewest samples of the anchor that must fire a feature before its absence from a dataset
    of this size could be certain, and how many features that many do fire; (0, 0) where none do.

    It is the step-up procedure of uncertainty.benjamini_hochberg if the dataset lacked everything:
    whatever it does show only raises a p-value, and then no more features pass.
    """
    features, basis = _asked(stores, comparison), basis_of(stores, comparison)
    if not len(features) or not basis.is_test:
        return 0, 0
    n_anchor = stores.cache.support(comparison.anchor, comparison.threshold, comparison.role)[
        features
    ]
    tokens = {"anchor_tokens": basis.anchor_tokens, "dataset_tokens": basis.dataset_tokens}
    could = n_anchor[gap_test(n_anchor, np.zeros_like(n_anchor), **tokens).certain]
    return (int(could.min()), len(could)) if len(could) else (0, 0)


def certain_with(
    stores: Stores, comparison: Comparison, features: np.ndarray, fired: np.ndarray, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of these features, int `[n]`, would be called certain gaps, and which would fire at
    all, if the dataset had so many content tokens more, whose samples fire each so often: two bool
    `[n]`. Of other features it is taken to fire no more than it does."""
    asked, basis = _asked(stores, comparison), basis_of(stores, comparison)
    n_anchor = stores.cache.support(comparison.anchor, *comparison.at)
    n_dataset = support_of(stores, comparison.runs, *comparison.at)
    n_dataset[features] += fired
    certain = np.zeros(len(n_anchor), bool)
    if basis.anchor_tokens and basis.dataset_tokens + tokens:
        test = gap_test(
            n_anchor[asked],
            n_dataset[asked],
            anchor_tokens=basis.anchor_tokens,
            dataset_tokens=basis.dataset_tokens + tokens,
        )
        certain[asked] = test.certain
    return certain[features], n_dataset[features] > 0


def _reached(
    stores: Stores, comparison: Comparison, sae: str | None, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much of the level that a feature must exceed to fire the dataset reaches (at most 1: a
    top-k SAE may leave out what reaches it), how much the anchor does, and the anchor's highest
    peak. NaN and infinite where the level is zero or unknown."""
    anchor, role = comparison.anchor, comparison.role
    sides = [
        stores.cache.evidence(anchor, run, sae, features, role=role) for run in comparison.runs
    ]
    sae_threshold = pc.fill_null(sides[0]["sae_threshold"], 0.0).to_numpy()
    level = np.maximum(sae_threshold, np.float32(comparison.threshold))
    peak = sides[0]["anchor_peak"].to_numpy()
    highest = [
        pc.fill_null(side[name], np.nan).to_numpy()
        for side in sides
        for name in ("near_pre", "dataset_peak")
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(level > 0, np.fmax.reduce(highest) / level, np.nan)
        strength = np.where(level > 0, peak / level, np.inf)
    return np.minimum(near, 1.0), strength, peak


def basis_of(stores: Stores, comparison: Comparison) -> Basis:
    """How many features are asked about, and the tokens of both sides."""
    return Basis(
        coverage(stores, comparison).n_anchor,
        content_tokens(stores, (comparison.anchor,), comparison.role),
        content_tokens(stores, comparison.runs, comparison.role),
    )


def sae_of(stores: Stores, anchor: str) -> str | None:
    """The run about the anchor's dictionary itself; None while it cannot be shown."""
    sae = stores.cache.summary(anchor)["sae_run"]
    return sae if stores.cache.ready(sae) else None
