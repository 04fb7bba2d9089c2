"""Whether a dataset holds up against another one: rules of a gate, and what each comes to.

Certain gaps are those of fac.questions.gap_evidence: of all that are called so, at most 5 % are
expected to be false, so a gate does not fail over what chance can explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fac.questions.catalogue import Row
from fac.questions.comparison import Change, Comparison, change, name_of
from fac.questions.explanations import with_names
from fac.questions.families import UNNAMED, families_run, gap_families
from fac.questions.gap_evidence import BADGES, KINDS, Evidence, evidence_of
from fac.questions.relevance import relevant_set
from fac.schema import EVERY_FEATURE
from fac.store import Stores

NAMED = 5
"""Features or families that a failure names."""

NO_GAP = "no gap"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a gate asks for; a rule that is not set is not asked."""

    min_fac: float | None = None
    """FAC must not be below."""

    no_regress: bool = False
    """The dataset must show every relevant feature that the baseline shows."""

    max_certain_gaps: int | None = None
    """No more gaps may be certain."""

    no_new_certain_gaps: bool = False
    """No gap may be certain that was not certain with the baseline."""

    no_lost_family: bool = False
    """No family may be lost: more than half of its features are certain gaps, and no more than half
    were with the baseline."""


class Finding(NamedTuple):
    """What one rule comes to."""

    rule: str
    """As an option of the command."""
    limit: str
    figure: str
    failure: str
    """Why it fails, as a clause; "" where it passes."""


class Gate(NamedTuple):
    """A dataset held against a baseline, by one anchor."""

    change: Change
    gained: list[int]
    """Relevant features that only the dataset shows."""
    lost: list[int]
    """Relevant features that only the baseline shows."""
    certain: int
    """Gaps of the dataset that are certain."""
    certain_before: int
    """The same of the baseline."""
    new_certain: list[Row]
    """Certain gaps that were none with the baseline, most expected first: feature, name, kind,
    n_anchor, n_dataset, expected (None where there is no test) and was, the badge that each had
    or NO_GAP."""
    lost_families: list[Row] | None
    """Families that are lost: family, name, size, certain, certain_before; None where families
    are not computed."""
    findings: list[Finding]

    @property
    def failures(self) -> list[str]:
        return [finding.failure for finding in self.findings if finding.failure]


def gate(stores: Stores, before: Comparison, after: Comparison, rules: Rules) -> Gate:
    """What has changed from a baseline to a dataset and what the rules say of it, by the settings
    of the baseline's comparison. Raises InputError when the runs cannot be compared.

    Families must be computed (see fac.questions.families) where a rule asks about them.
    """
    after = replace(before, dataset=after.dataset, added=after.added)
    changed = change(stores, before, after)
    gained, lost = changed.gained, changed.lost
    if before.relevance.name != EVERY_FEATURE:
        relevant = relevant_set(stores, before.anchor, before.relevance, before.role)
        gained, lost = gained[relevant[gained]], lost[relevant[lost]]
    was, now = evidence_of(stores, before), evidence_of(stores, after)
    run = families_run(stores, before)
    figures = Gate(
        changed,
        gained.tolist(),
        lost.tolist(),
        int((now.badges() == 0).sum()),
        int((was.badges() == 0).sum()),
        _new_certain(stores, after, was, now),
        None if run is None else _lost_families(stores, before, after, run),
        [],
    )
    baseline = name_of(stores, before.dataset)
    return figures._replace(findings=[*_findings(figures, rules, baseline)])


def _new_certain(stores: Stores, comparison: Comparison, was: Evidence, now: Evidence) -> list[Row]:
    badges = dict(zip(was.feature.tolist(), was.badges().tolist(), strict=True))
    certain = np.flatnonzero(now.badges() == 0)
    order = certain[np.argsort(-now.certainty()[certain], kind="stable")]
    kinds = now.kinds()
    rows: list[Row] = [
        {
            "feature": int(now.feature[i]),
            "kind": KINDS[kinds[i]],
            "n_anchor": int(now.n_anchor[i]),
            "n_dataset": int(now.n_dataset[i]),
            "expected": None if math.isnan(now.expected[i]) else float(now.expected[i]),
            "was": BADGES[badges[feature]] if feature in badges else NO_GAP,
        }
        for i in order.tolist()
        if badges.get(feature := int(now.feature[i])) != 0
    ]
    return with_names(stores, comparison.anchor, rows)


def _lost_families(stores: Stores, before: Comparison, after: Comparison, run: str) -> list[Row]:
    had = {row["family"]: row["certain"] for row in gap_families(stores, before, run).rows}
    return [
        {
            **{name: row[name] for name in ("family", "name", "size", "certain")},
            **({"name": f"family {row['family']}"} if row["name"] == UNNAMED else {}),
            "certain_before": had.get(row["family"], 0),
        }
        for row in gap_families(stores, after, run).rows
        if 2 * row["certain"] > row["size"] >= 2 * had.get(row["family"], 0)
    ]


def _findings(figures: Gate, rules: Rules, baseline: str) -> Iterator[Finding]:
    value = figures.change.after.fac
    if rules.min_fac is not None:
        fac = "undefined" if math.isnan(value) else f"{value:,.4g}"
        low = not value >= rules.min_fac  # also where it is undefined
        failure = f"FAC is {fac}, below {rules.min_fac}" if low else ""
        yield Finding("--min-fac", f"at least {rules.min_fac}", fac, failure)
    if rules.no_regress:
        n = len(figures.lost)
        first = ", ".join(map(str, figures.lost[:NAMED]))
        failure = f"{n:,} features of {baseline} are lost (first: {first})" if n else ""
        yield Finding("--no-regress", "no feature lost", f"{n:,}", failure)
    if (most := rules.max_certain_gaps) is not None:
        n = figures.certain
        failure = f"{_many(n, 'gap')} certain, more than {most:,}" if n > most else ""
        yield Finding("--max-certain-gaps", f"at most {most:,}", f"{n:,}", failure)
    if rules.no_new_certain_gaps:
        n = len(figures.new_certain)
        first = _first([f"#{row['feature']} {row['name']}" for row in figures.new_certain])
        those = f"{_many(n, 'gap')} certain and {'was' if n == 1 else 'were'} not with {baseline}"
        yield Finding("--no-new-certain-gaps", "none", f"{n:,}", f"{those} ({first})" if n else "")
    if rules.no_lost_family:
        families = figures.lost_families or []
        n = len(families)
        first = _first([row["name"] for row in families])
        failure = f"{n:,} {'family is' if n == 1 else 'families are'} lost ({first})" if n else ""
        yield Finding("--no-lost-family", "none", f"{n:,}", failure)


def _many(n: int, what: str) -> str:
    return f"1 {what} is" if n == 1 else f"{n:,} {what}s are"


def _first(names: Sequence[str]) -> str:
    more = f"; {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"first: {'; '.join(name.strip() for name in names[:NAMED])}{more}"
