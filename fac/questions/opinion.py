"""What another SAE says of a comparison's gaps: features of both are matched over the texts that
both have measured, and a gap is confirmed where its partner is a gap of the dataset there too.

A partner is a gap there where the dataset lacks it, or fires it so much more rarely than the anchor
leads one to expect that p is at most ALONE: it is asked about alone, not among all features.

An SAE sees what it learned to see: a gap may be one of the text, or an accident of one dictionary.
The other may be of another seed, width, layer or model, as long as it read the same samples. What
has no partner has no second opinion, so the match rate stands beside everything, and beside it the
same with the other's samples permuted, where nothing should be alike.
"""

from __future__ import annotations

import math
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

import numpy as np

from fac.agreement import wilson
from fac.config import MeasureSpec
from fac.errors import InputError
from fac.manifest import MeasureFacts
from fac.matching import FEWEST_SAMPLES, MATCHED, Partners, partners, shuffled
from fac.questions.catalogue import Row
from fac.questions.comparison import Comparison, clear_firing, must_match, name_of, shown
from fac.questions.explanations import with_names
from fac.questions.firing import support_of
from fac.questions.gap_evidence import BADGES, basis_of, evidence_of
from fac.questions.relevance import Relevance
from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.samples import read_samples
from fac.uncertainty import Interval, gap_test

CONFIRMED, NOT_CONFIRMED, NO_OPINION = VERDICTS = ("confirmed", "not confirmed", "no opinion")

FREQUENT = 0.05
"""Share of the shared samples in which a frequent feature fires."""

FEWEST_SHARED = 100
"""Samples; of fewer an r above MATCHED says little."""

MOST_SHARED = 10_000
"""Samples that are compared: of more, so many are drawn, which leaves r within about .02."""

TOGETHER = 4096
"""Features whose peaks are read at once."""

WEAK = 0.5
"""Below this match rate most of what is asked has no answer, and that is said first."""

ALONE = 0.05
"""The highest p (uncertainty.gap_test) of a partner that the dataset shows too rarely."""

SAME, MOSTLY = 0.99, 0.9
"""Where more than this share have a partner, and of those an r above that, it is the same SAE."""


class Rate(NamedTuple):
    """How many of some features have a partner."""

    matched: int
    n: int

    @property
    def share(self) -> float:
        """NaN of no features."""
        return self.matched / self.n if self.n else math.nan


class Matching(NamedTuple):
    """How many features have a partner in the other SAE."""

    every: Rate
    """Of the relevant features that the anchor shows."""
    frequent: Rate
    """Of those of them that fire in FREQUENT of the shared samples."""
    certain: Rate
    """Of the certain gaps."""
    mutual: int
    """Of those with a partner, how many it has for its own partner."""


class Opinion(NamedTuple):
    """What another SAE says of the certain gaps of a comparison."""

    encoder: str
    """Model, layer and SAE of the comparison."""
    other_encoder: str
    """The same of the second opinion."""
    other_anchor: str
    """This and `other_dataset` are its measure runs."""
    other_dataset: str
    other_threshold: float
    """Its clear firing."""
    n_shared: int
    """Samples of the anchor that both have read."""
    n_compared: int
    matching: Matching
    shuffled: Matching
    """With the other SAE's samples permuted."""
    confirmed: int
    """Certain gaps whose partner is a gap there too."""
    not_confirmed: int
    """Whose partner the dataset covers there."""
    share: Interval
    """Confirmed of those with an opinion, with its 95 % interval (Wilson); NaN where none has."""
    shuffled_confirmed: int
    """Gaps that partners by permuted samples would confirm."""
    covered: Rate
    """Of matched features that the dataset covers, how many have a gap for a partner (`matched`):
    what an opinion that knew nothing of the gaps would confirm."""
    rows: list[Row]
    """Of each certain gap: feature, verdict, n_anchor, n_dataset; partner, r (the highest there is,
    None where it fires in too few samples), mutual, and of the partner partner_n_anchor,
    partner_n_dataset, partner_p (None where the other anchor does not show it, and without tokens)
    and partner_badge (None where it is no gap among all features there); why, where there is no
    opinion. Confirmed ones first, of those by r; `named` adds names."""
    headline: str
    note: str
    """What is weak, left out or approximate, in sentences."""

    @property
    def no_opinion(self) -> int:
        """Certain gaps of which the other SAE says nothing."""
        return self.matching.certain.n - self.confirmed - self.not_confirmed


def others_of(stores: Stores, comparison: Comparison) -> list[str]:
    """Measure runs of the anchor's samples by other SAEs that also measured the dataset, and what
    is added to it: the newest of each, newest first."""
    newest: dict[str, str] = {}
    anchor = stores.runs.manifest(comparison.anchor).facts
    for manifest in stores.runs.list("measure"):
        facts = manifest.facts
        if facts.dataset != anchor.dataset or facts.encoder in (anchor.encoder, *newest):
            continue
        if all(_same_by(stores, run, facts.encoder) for run in comparison.runs):
            newest[facts.encoder] = manifest.run
    return [*newest.values()]


def commands(stores: Stores, comparison: Comparison) -> list[str]:
    """What to run so that another SAE can be asked: training one, where none has measured the
    anchor or the dataset, and measuring with it what it has not."""
    facts = [stores.runs.manifest(run).facts for run in (comparison.anchor, *comparison.runs)]
    of_model = _model_options(facts[0])
    datasets = {each.dataset: each.name for each in facts}
    measures: dict[str, list[MeasureFacts]] = {}
    for manifest in stores.runs.list("measure"):
        if manifest.facts.dataset in datasets and manifest.facts.encoder != facts[0].encoder:
            measures.setdefault(manifest.facts.encoder, []).append(manifest.facts)
    lines = [f"train-sae texts.jsonl --out my-sae --seed 1{of_model}"]
    sae, done = "my-sae", set[str]()
    if measures:
        begun = max(measures.values(), key=lambda each: len({one.dataset for one in each}))
        lines, sae, done = [], begun[0].sae or begun[0].sae_name, {each.dataset for each in begun}
        of_model = _model_options(begun[0])
        of_model += f" --despite {quote(begun[0].despite)}" if begun[0].despite else ""
    for dataset, name in datasets.items():
        if dataset not in done:
            lines.append(f"measure {quote(name)} --sae {quote(sae)}{of_model}")
    return [f"python -m fac {line}" for line in lines]


def _model_options(facts: MeasureFacts) -> str:
    """The model and layer of a measure, as they are typed where they are not the defaults."""
    usual = MeasureSpec(dataset="")
    if (facts.model, facts.layer) == (usual.model, usual.layer) or not facts.model:
        return ""
    return f" --model {quote(facts.model)} --layer {facts.layer}"


def other_called(stores: Stores, comparison: Comparison, name: str) -> str:
    """The measure run that an id or a name means as another SAE's: of a name that the comparison's
    own SAE measured too, the newest by the other. Raises InputError as Runs.resolve does."""
    encoder = stores.runs.manifest(comparison.anchor).facts.encoder
    same = stores.runs.namesakes("measure", name)
    others = [manifest for manifest in same if manifest.facts.encoder != encoder]
    if len({manifest.facts.encoder for manifest in others}) == 1:
        return str(others[0].run)
    return stores.runs.resolve("measure", name)


def counterpart_runs(stores: Stores, comparison: Comparison, other: str) -> list[str]:
    """Measures by the SAE of `other`, a measure run of the anchor, of the dataset and of what is
    added to it. Needs no cache.

    Raises InputError where it is the comparison's own SAE, and for what was not measured by it.
    """
    facts, anchor = (stores.runs.manifest(run).facts for run in (other, comparison.anchor))
    if facts.encoder == anchor.encoder:
        raise InputError(
            f"{facts.name} ({other}) was measured with the same SAE as {anchor.name} "
            f"({facts.encoder}), which confirms everything and says nothing: take a run of another "
            "one."
        )
    runs = []
    for run in comparison.runs:
        same = _same_by(stores, run, facts.encoder)
        if same is None:
            name = stores.runs.manifest(run).facts.name
            raise InputError(
                f"{name} was not measured with the other SAE ({facts.encoder}): measure it with "
                "that one too."
            )
        runs.append(same)
    return runs


def counterpart(stores: Stores, comparison: Comparison, other: str) -> Comparison:
    """The same comparison by the SAE of `other`: at its own clear firing, about every feature,
    since no list of features is one of another dictionary.

    Raises InputError as `counterpart_runs` does, and where other tokens were counted.
    """
    dataset, *added = counterpart_runs(stores, comparison, other)
    sides = [stores.cache.summary(run) for run in (comparison.anchor, other)]
    if comparison.role == EVERY_ROLE and sides[0]["role"] != sides[1]["role"]:
        raise InputError(
            f"{sides[0]['name']} was measured over the tokens of {sides[0]['role']}, by the other "
            f"SAE over those of {sides[1]['role']}: choose one role both have, or measure again."
        )
    return replace(
        comparison,
        anchor=other,
        dataset=dataset,
        added=tuple(added),
        threshold=clear_firing(stores, other),
        relevance=Relevance(),
    )


def _same_by(stores: Stores, run: str, encoder: str) -> str | None:
    """The newest measure of the same dataset by an encoder."""
    dataset = stores.runs.manifest(run).facts.dataset
    for manifest in stores.runs.list("measure"):
        if manifest.facts.dataset == dataset and manifest.facts.encoder == encoder:
            return manifest.run
    return None


@remembered_for_good
def second_opinion(stores: Stores, comparison: Comparison, there: Comparison) -> Opinion:
    """What another SAE says of the certain gaps of a comparison; `there` is its `counterpart`.

    Raises InputError where runs cannot be compared and for fewer than FEWEST_SHARED samples that
    both SAEs have read.
    """
    must_match(stores, comparison)
    must_match(stores, there)
    both = _partners(stores, comparison.anchor, there.anchor, comparison.role)
    gaps, features = evidence_of(stores, comparison), shown(stores, comparison)
    certain = np.zeros(len(features), bool)
    certain[gaps.feature[gaps.badges() == 0]] = True
    covered = features.copy()
    covered[gaps.feature] = False
    verdict, shuffled_verdict = (
        _verdicts(stores, there, each.partner) for each in (both.partners, both.by_chance)
    )
    confirmed, denied = (int((verdict[certain] == number).sum()) for number in (0, 1))
    share = confirmed / (confirmed + denied) if confirmed + denied else math.nan
    frequent = features & (both.support >= FREQUENT * both.n_compared)
    opinion = Opinion(
        encoder=stores.cache.summary(comparison.anchor)["encoder"],
        other_encoder=stores.cache.summary(there.anchor)["encoder"],
        other_anchor=there.anchor,
        other_dataset=there.dataset,
        other_threshold=there.threshold,
        n_shared=both.n_shared,
        n_compared=both.n_compared,
        matching=_matching(both.partners, features, frequent, certain),
        shuffled=_matching(both.by_chance, features, frequent, certain),
        confirmed=confirmed,
        not_confirmed=denied,
        share=Interval(share, *wilson(confirmed, confirmed + denied)),
        shuffled_confirmed=int((shuffled_verdict[certain] == 0).sum()),
        covered=Rate(
            int((verdict[covered] == 0).sum()),
            int((verdict[covered] < VERDICTS.index(NO_OPINION)).sum()),
        ),
        rows=_rows(stores, comparison, there, both.partners, verdict),
        headline="",
        note="",
    )
    of_partners = both.partners.r[both.partners.partner >= 0]
    every = opinion.matching.every.share > MOSTLY
    same = every and float(np.mean(of_partners > SAME)) > MOSTLY
    return opinion._replace(
        headline=_headline(opinion), note=_note(stores, opinion, comparison, there, same)
    )


def named(stores: Stores, comparison: Comparison, opinion: Opinion, rows: list[Row]) -> list[Row]:
    """Some rows of an opinion with `name` and, where there is a partner, `partner_name`."""
    matched = [{"feature": row["partner"]} for row in rows if row["partner"] is not None]
    of_partner = {
        row["feature"]: row["name"] for row in with_names(stores, opinion.other_anchor, matched)
    }
    return [
        {**row, "partner_name": of_partner.get(row["partner"])}
        for row in with_names(stores, comparison.anchor, rows)
    ]


class _Both(NamedTuple):
    """Features of two SAEs over the samples that both have read."""

    partners: Partners
    by_chance: Partners
    support: np.ndarray
    """Samples among those compared in which each feature of the first fires."""
    n_shared: int
    n_compared: int


@remembered_for_good
def _partners(stores: Stores, anchor: str, other: str, role: str) -> _Both:
    name = name_of(stores, anchor)
    (mine, theirs), n_shared = _shared_samples(stores, anchor, other)
    if n_shared < FEWEST_SHARED:
        raise InputError(
            f"{name} and {name_of(stores, other)}, as the two SAEs have measured them, share "
            f"{n_shared:,} samples, and features are matched over {FEWEST_SHARED} or more: measure "
            f"{name} with the other SAE."
        )
    first, second = (_peaks(stores, *each, role) for each in ((anchor, mine), (other, theirs)))
    return _Both(
        partners(first, second),
        partners(first, shuffled(second, np.random.default_rng(1))),
        np.diff(first.indptr),
        n_shared,
        len(mine),
    )


def _shared_samples(
    stores: Stores, anchor: str, other: str
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """The numbers of the samples in either run that are compared, int64 each, and how many there
    are in both."""
    ids = [
        stores.runs.table(stores.cache.summary(run)["dataset"], "samples", ["sample_id"])[
            "sample_id"
        ].to_numpy()
        for run in (anchor, other)
    ]
    _, mine, theirs = np.intersect1d(*(each.astype(str) for each in ids), return_indices=True)
    read = [read_samples(stores.runs, run) for run in (anchor, other)]
    both = read[0][mine] & read[1][theirs]
    mine, theirs = mine[both], theirs[both]
    n_shared = len(mine)
    if n_shared > MOST_SHARED:
        drawn = np.random.default_rng(0).choice(n_shared, MOST_SHARED, replace=False)
        mine, theirs = mine[drawn], theirs[drawn]
    return (mine, theirs), n_shared


def _peaks(stores: Stores, run: str, samples: np.ndarray, role: str):  # type: ignore[no-untyped-def]
    """log(1 + peak) of every feature in these samples, in their order: csr `[n_features, n]`."""
    from scipy.sparse import csr_array, vstack

    summary = stores.cache.summary(run)
    column = np.full(summary["n_samples"], -1)
    column[samples] = np.arange(len(samples))
    blocks = []  # in logarithms: else one strong peak of a rare feature decides
    for first in range(0, summary["n_features"], TOGETHER):
        beyond = min(first + TOGETHER, summary["n_features"])
        read = stores.cache.peaks(run, role, first, beyond)
        inside = column[read.sample] >= 0
        at = read.feature[inside] - first, column[read.sample[inside]]
        blocks.append(
            csr_array((np.log1p(read.peak[inside]), at), shape=(beyond - first, len(samples)))
        )
    return vstack(blocks, format="csr")


def _matching(
    match: Partners, features: np.ndarray, frequent: np.ndarray, certain: np.ndarray
) -> Matching:
    matched = match.partner >= 0
    every, often, gaps = (
        Rate(int((matched & which).sum()), int(which.sum()))
        for which in (features, frequent, certain)
    )
    return Matching(every, often, gaps, int((match.mutual & features).sum()))


def _verdicts(stores: Stores, there: Comparison, partner: np.ndarray) -> np.ndarray:
    """Which of VERDICTS the other SAE gives of each feature: its place among them, int8 `[n]`.

    No opinion without a partner, and of one that the other's anchor does not show, or shows in so
    little that nobody believes its absence (an artefact).
    """
    gaps, features = evidence_of(stores, there), shown(stores, there)
    of_other = np.where(features, 1, 2).astype(np.int8)
    of_other[features & (_p_values(stores, there) <= ALONE)] = 0
    of_other[gaps.feature] = np.where(gaps.badges() == BADGES.index("artefact"), 2, 0)
    return np.where(partner >= 0, of_other[partner], np.int8(2))


def _p_values(stores: Stores, comparison: Comparison) -> np.ndarray:
    """uncertainty.gap_test's of the relevant features that the anchor shows, NaN of others and
    without content tokens: float64 `[n_features]`."""
    features, basis = shown(stores, comparison), basis_of(stores, comparison)
    p = np.full(len(features), np.nan)
    if basis.is_test:
        n_anchor = stores.cache.support(comparison.anchor, *comparison.at)[features]
        n_dataset = support_of(stores, comparison.runs, *comparison.at)[features]
        tokens = {"anchor_tokens": basis.anchor_tokens, "dataset_tokens": basis.dataset_tokens}
        p[features] = gap_test(n_anchor, n_dataset, **tokens).p
    return p


def _rows(
    stores: Stores, comparison: Comparison, there: Comparison, match: Partners, verdict: np.ndarray
) -> list[Row]:
    gaps, others = evidence_of(stores, comparison), evidence_of(stores, there)
    n_anchor = stores.cache.support(there.anchor, *there.at)
    n_dataset, p = support_of(stores, there.runs, *there.at), _p_values(stores, there)
    row_of = {int(feature): i for i, feature in enumerate(others.feature)}
    badges = others.badges()
    rows: list[Row] = []
    for i in np.flatnonzero(gaps.badges() == 0).tolist():
        feature = int(gaps.feature[i])
        partner, r = int(match.partner[feature]), float(match.r[feature])
        at = row_of.get(partner)
        row: Row = {
            "feature": feature,
            "verdict": VERDICTS[verdict[feature]],
            "n_anchor": int(gaps.n_anchor[i]),
            "n_dataset": int(gaps.n_dataset[i]),
            "partner": None if partner < 0 else partner,
            "r": None if math.isnan(r) else r,
            "mutual": bool(match.mutual[feature]),
            "partner_n_anchor": None if partner < 0 else int(n_anchor[partner]),
            "partner_n_dataset": None if partner < 0 else int(n_dataset[partner]),
            "partner_p": None if partner < 0 or math.isnan(p[partner]) else float(p[partner]),
            "partner_badge": None if at is None else BADGES[badges[at]],
        }
        rows.append({**row, "why": _why(row)})
    rows.sort(key=lambda row: (VERDICTS.index(row["verdict"]), -(row["r"] or -2), row["feature"]))
    return rows


def _why(row: Row) -> str:
    """Why there is no opinion of a gap; "" where there is one."""
    if row["verdict"] != NO_OPINION:
        return ""
    if row["r"] is None:
        return f"It fires in fewer than {FEWEST_SAMPLES} shared samples."
    if row["partner"] is None:
        return f"Unmatched: no feature there has an r above {MATCHED:g}."
    return "The other SAE's anchor barely shows its partner, or nearly every sample does."


def _headline(opinion: Opinion) -> str:
    certain = opinion.matching.certain
    if not certain.n:
        return "There is no certain gap that another SAE could confirm."
    n_opinions = opinion.confirmed + opinion.not_confirmed
    if not n_opinions:
        gaps = "the one certain gap" if certain.n == 1 else f"any of the {certain.n:,} certain gaps"
        return f"The other SAE has no opinion of {gaps}."
    low, high = opinion.share.low, opinion.share.high
    return (
        f"The other SAE has an opinion of {n_opinions:,} of {certain.n:,} certain gaps and "
        f"confirms {opinion.confirmed:,} of these: {opinion.share.value:.0%} ({low:.0%} to "
        f"{high:.0%})."
    )


def _note(
    stores: Stores, opinion: Opinion, comparison: Comparison, there: Comparison, same: bool
) -> str:
    rate, chance = opinion.matching.every, opinion.shuffled
    notes = []
    if rate.n and rate.share < WEAK:
        notes.append(
            f"The match is weak: {rate.share:.1%} of the features have a partner, so of most there "
            "is no second opinion, neither for a gap nor against it."
        )
    if same:
        notes.append(
            f"Nearly every partner has an r above {SAME:g}: the other SAE is the same in another "
            "order, and confirms nothing new."
        )
    if chance.every.matched:
        notes.append(
            f"With permuted samples {chance.every.matched:,} have a partner too: about as many of "
            "the partners are chance."
        )
    if opinion.covered.n:
        notes.append(
            f"Of the matched features that the dataset covers ({opinion.covered.n:,}), "
            f"{opinion.covered.share:.0%} have a gap for a partner."
        )
    if opinion.n_compared < opinion.n_shared:
        notes.append(
            f"Features are matched over {opinion.n_compared:,} of {opinion.n_shared:,} samples "
            "that both SAEs have read, drawn at random."
        )
    n_anchor = stores.cache.summary(comparison.anchor)["n_samples"]
    if opinion.n_shared < n_anchor:
        notes.append(f"Both SAEs have read {opinion.n_shared:,} of {n_anchor:,} samples.")
    return " ".join(notes)
