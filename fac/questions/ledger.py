"""What was made to fill the gaps of a comparison: syntheses, and rows chosen from a pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fac.manifest import SynthesisManifest
from fac.questions.catalogue import datasets, measured
from fac.questions.comparison import Comparison
from fac.questions.exports import revision
from fac.questions.fill import Fill, purpose_of, samples_at
from fac.questions.results import ending, measure_of_kept, syntheses, synthesis_title
from fac.store import Stores


class Written(NamedTuple):
    """A synthesis for gaps of the dataset."""

    title: str
    manifest: SynthesisManifest
    ending: str
    """What came of it, in a sentence or two."""
    people: str
    """What people changed of its samples since, as a sentence; "" where nothing."""
    is_added: bool
    """Whether the comparison counts what it kept."""


class Chosen(NamedTuple):
    """Rows of a pool that were chosen for gaps of the dataset."""

    name: str
    run: str
    """The dataset run."""
    measure: str
    """The newest measure of it; "" where it is not measured."""
    pool: str
    """What the pool is called."""
    rows: int
    gaps: int
    """That the rows were chosen for."""
    tokens: int | None
    """Content tokens; None where the rows are not measured."""
    is_added: bool


def written_for(stores: Stores, comparison: Comparison) -> list[Written]:
    """The syntheses for gaps of the dataset against the anchor, newest first; pilots left out."""
    measures = measured(stores)
    rows = []
    for run, manifest in syntheses(stores).items():
        facts = manifest.facts
        if (facts.anchor, facts.dataset) != (comparison.anchor, comparison.dataset):
            continue
        changed = revision(stores, run)
        rows.append(
            Written(
                synthesis_title(manifest),
                manifest,
                ending(facts),
                changed.words() if changed else "",
                measure_of_kept(manifest, measures) in comparison.added,
            )
        )
    return rows


def chosen_for(stores: Stores, comparison: Comparison) -> list[Chosen]:
    """The datasets of rows that were chosen from a pool for gaps of the dataset against the
    anchor, newest first."""
    return [*_chosen(stores, comparison)]


def _chosen(stores: Stores, comparison: Comparison) -> Iterator[Chosen]:
    measures = measured(stores)
    for manifest in datasets(stores):
        purpose = purpose_of(stores, manifest.run)
        if purpose is None:
            continue
        if (purpose.anchor, purpose.dataset) != (comparison.anchor, comparison.dataset):
            continue
        measure = next((run for run, m in measures.items() if m.facts.dataset == manifest.run), "")
        pool = purpose.pool
        yield Chosen(
            manifest.facts.name,
            manifest.run,
            measure,
            stores.runs.manifest(pool).facts.name if stores.runs.find(pool) else pool,
            manifest.facts.n_samples,
            len(purpose.gaps),
            measures[measure].facts.content_tokens if measure else None,
            bool(measure) and measure in comparison.added,
        )


def taken_before(stores: Stores, comparison: Comparison, proposal: Fill) -> str:
    """The name of the dataset that has just the proposed rows, taken for the same dataset before;
    "" where there is none."""
    earlier = [e for e in chosen_for(stores, comparison) if e.rows == len(proposal.rows)]
    if not earlier:
        return ""
    numbers = [row.sample for row in proposal.rows]
    samples = samples_at(stores, proposal.pool, numbers, ["sample_id"]).values()
    here = {sample["sample_id"] for sample in samples}
    for each in earlier:
        if here == {
            *stores.runs.table(each.run, "samples", ["sample_id"])["sample_id"].to_pylist()
        }:
            return each.name
    return ""
