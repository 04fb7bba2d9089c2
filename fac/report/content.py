"""What stands in a report of a comparison: answers of fac.questions, the same as on the pages."""

from __future__ import annotations

import math
import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

from fac import __version__
from fac.questions import ratings
from fac.questions.catalogue import Row
from fac.questions.comparison import (
    Certainty,
    Change,
    Comparison,
    certainty,
    change,
    coverage,
    name_of,
    settings_in_words,
)
from fac.questions.explanations import explained, named
from fac.questions.families import GapFamilies, families_run, gap_families
from fac.questions.gap_evidence import BADGES, sae_of
from fac.questions.gaps import GapList, gap_page
from fac.questions.ledger import Chosen, Written, chosen_for, written_for
from fac.questions.outlook import Outlook, outlook
from fac.questions.relevance import limits_of, relevant_set
from fac.questions.shares import Weighted, weighted
from fac.report.drawing import Drawing, drawing
from fac.schema import EVERY_FEATURE, EVERY_ROLE, CoverageResult
from fac.store import Stores

LISTED = 200
"""Certain gaps that are listed by name, below those with their evidence."""

DEPTHS = 5
"""Shades in which a token stands out by its activation."""

RATED = {
    "explanation": "explanations",
    "relevance": "relevance to a task",
    "sample": "kept samples",
}
"""What people rate, in words."""


class Token(NamedTuple):
    """A token of an example."""

    before: str
    """The white space that it begins with."""
    word: str
    depth: int
    """1 to DEPTHS by its activation; 0 where silent."""
    is_peak: bool


class Quote(NamedTuple):
    """A stretch of text that ends on the token where a feature peaks, or comes nearest to it."""

    about: str
    tokens: list[Token]


class Gap(NamedTuple):
    """A gap with its evidence; without a quote where none is stored."""

    row: Row
    """As fac.questions.gaps.gap_page has it."""
    anchor: Quote | None
    """Its strongest example in the anchor."""
    dataset: Quote | None
    """Its strongest example in the dataset or, where it is absent, what comes nearest."""


class Topic(NamedTuple):
    """A family of gaps, and one of them as an example."""

    row: Row
    """As fac.questions.families.gap_families has it."""
    gap: str
    example: Quote | None


class Agreement(NamedTuple):
    """How far people agree about one kind of question."""

    what: str
    people: int
    n_ratings: int
    rows: list[Row]
    """As fac.questions.ratings.coefficient_rows has them; none where none is defined."""
    undefined: list[str]
    """Why coefficients have no value, in sentences."""


class Report(NamedTuple):
    """All that a report says."""

    anchor: str
    dataset: str
    """With what is added to it."""
    settings: str
    outlook: Outlook
    coverage: CoverageResult
    certainty: Certainty
    weights: Weighted
    added: Change | None
    """What the additions change; None without any."""
    families: GapFamilies | None
    """None where they were not computed."""
    map: Drawing | None
    """None where no run laid the features out."""
    topics: list[Topic]
    """The first of them that have a certain or possible gap."""
    n_topics: int
    gaps: list[Gap]
    """The first certain ones, with evidence."""
    others: list[Row]
    """The next LISTED certain ones."""
    relevance: str
    agreement: list[Agreement]
    unrated: list[str]
    """What nobody rated."""
    written: list[Written]
    chosen: list[Chosen]
    unchecked: list[str]
    """What could not be checked, in sentences."""
    made: list[tuple[str, str]]
    """With what it was made, as (what, which)."""
    runs: list[tuple[str, str, str]]
    """The runs it rests on, as (what, name, id)."""
    command: list[str]
    """Makes it anew: the command, then every option with its value, quoted for a shell."""
    when: datetime


def report(
    stores: Stores,
    comparison: Comparison,
    *,
    n_gaps: int = 20,
    n_families: int = 20,
    when: datetime | None = None,
) -> Report:
    """Everything that is known of a comparison, with the evidence of its first certain gaps and
    families. Raises InputError when the runs cannot be compared."""
    result = coverage(stores, comparison)
    certain, _ = gap_page(stores, comparison, GapList(badge=BADGES[0]), limit=n_gaps + LISTED)
    run = families_run(stores, comparison)
    families = gap_families(stores, comparison, run) if run else None
    atlas = drawing(stores, comparison, families)
    believed = [row for row in (families.rows if families else []) if _is_believed(row)]
    without = replace(comparison, added=())
    written, chosen = written_for(stores, comparison), chosen_for(stores, comparison)
    rated = [*_agreement(stores, comparison)]
    return Report(
        anchor=name_of(stores, comparison.anchor),
        dataset=name_of(stores, *comparison.runs),
        settings=settings_in_words(comparison),
        outlook=outlook(stores, comparison),
        coverage=result,
        certainty=certainty(stores, comparison),
        weights=weighted(stores, comparison),
        added=change(stores, without, comparison) if comparison.added else None,
        families=families,
        map=atlas,
        topics=[_topic(stores, comparison, row) for row in believed[:n_families]],
        n_topics=len(believed),
        gaps=[_gap(stores, comparison, row) for row in certain[:n_gaps]],
        others=certain[n_gaps:],
        relevance=_relevance(stores, comparison, result),
        agreement=[each for each in rated if each.n_ratings],
        unrated=[each.what for each in rated if not each.n_ratings],
        written=written,
        chosen=chosen,
        unchecked=[*_unchecked(stores, comparison, families, atlas, certain, written)],
        made=[*_made(stores, comparison)],
        runs=[*_runs(stores, comparison, run)],
        command=_command(comparison),
        when=when or datetime.now().astimezone(),
    )


def _is_believed(row: Row) -> bool:
    return bool(row["certain"] or row["possible"])


# --- evidence -------------------------------------------------------------------------------------


EXAMPLES = 8
"""Gaps of a family that an example of it is looked for in."""


def _topic(stores: Stores, comparison: Comparison, row: Row) -> Topic:
    """A family with an example that peaks on a word of its name, or with the strongest of its
    first gap."""
    words = set(re.findall(r"[^\s,]+", row["name"].casefold()))
    features = row["features"][:EXAMPLES]
    spans = [
        {**span, "feature": feature}
        for feature in features
        for span in _of_role(comparison, stores.cache.spans(comparison.anchor, feature, "top"))
    ]
    telling = (
        span for span in spans if span["tokens"][span["peak_index"]].strip().casefold() in words
    )
    span = next(telling, spans[0] if spans else None)
    feature = span["feature"] if span else features[0]
    name = named(stores, comparison.anchor, [feature])[feature].text
    return Topic(
        row, f"#{feature} {name}".rstrip(), _quote(span, "In the anchor") if span else None
    )


def _gap(stores: Stores, comparison: Comparison, row: Row) -> Gap:
    feature, cache = row["feature"], stores.cache
    anchor = _in_anchor(stores, comparison, feature)
    if row["n_dataset"]:
        spans = [span for run in comparison.runs for span in cache.spans(run, feature, "top")]
        here = _of_role(comparison, sorted(spans, key=lambda span: -span["peak"]))
        return Gap(row, anchor, _quote(here[0], "In the dataset") if here else None)
    sae = sae_of(stores, comparison.anchor)
    at = partial(cache.near, sae_run=sae, threshold=comparison.threshold)
    near = [miss for run in comparison.runs for miss in at(run, feature)]
    near = _of_role(comparison, sorted(near, key=lambda miss: -miss["pre"]))
    return Gap(row, anchor, _near_quote(near[0]) if near else None)


def _in_anchor(stores: Stores, comparison: Comparison, feature: int) -> Quote | None:
    spans = _of_role(comparison, stores.cache.spans(comparison.anchor, feature, "top"))
    return _quote(spans[0], "In the anchor") if spans else None


def _of_role(comparison: Comparison, rows: Sequence[Row]) -> list[Row]:
    """Those whose peak is on a token of the role; all where none of the stored ones is."""
    rows = [*rows]
    return [row for row in rows if comparison.role in (EVERY_ROLE, row["role"])] or rows


def _quote(span: Row, whose: str) -> Quote:
    top = max(span["activations"], default=0.0) or 1.0
    depths = [math.ceil(DEPTHS * min(max(value, 0.0) / top, 1.0)) for value in span["activations"]]
    about = f"{whose}: peak {span['peak']:.2f}, {span['role']}, sample {span['sample']}"
    return Quote(about, _tokens(span, depths))


def _near_quote(miss: Row) -> Quote:
    ratio, much = miss["ratio"], ""
    if ratio is not None:
        much = f", {ratio:.0%} of what it takes" if ratio <= 1 else ", more than it takes"
    about = f"Nearest in the dataset{much}: {miss['role']}, sample {miss['sample']}"
    return Quote(about, _tokens(miss, [0] * len(miss["tokens"])))


def _tokens(row: Row, depths: Sequence[int]) -> list[Token]:
    tokens = []
    for number, (text, depth) in enumerate(zip(row["tokens"], depths, strict=True)):
        word = text.lstrip(" ") or text
        is_peak = number == row["peak_index"]
        tokens.append(Token(text[: len(text) - len(word)], word, depth, is_peak))
    return tokens


# --- how it is counted, and by whom -----------------------------------------------------------


def _relevance(stores: Stores, comparison: Comparison, result: CoverageResult) -> str:
    relevance = comparison.relevance
    n = int(relevant_set(stores, comparison.anchor, relevance, comparison.role).sum())
    if relevance.name == EVERY_FEATURE:
        n_features = stores.cache.summary(comparison.anchor)["n_features"]
        return (
            f"Every feature counts but {n_features - n:,} of {n_features:,} that fire in nearly "
            f"every sample of the anchor. The anchor shows {result.n_anchor:,} of those that count."
        )
    maybe = ", with what is maybe relevant" if comparison.relevance.maybe else ""
    if not relevance.run:
        return f"The {n:,} features count that {relevance.name} lists."
    judge = stores.runs.manifest(relevance.run).facts
    people = len(relevance.verdicts)
    who = f" People decided on {people:,} of them, which goes before the judge." if people else ""
    by = f"by {judge.source or judge.judge}"
    return f"The {n:,} features count that are relevant for {relevance.name}{maybe}, {by}.{who}"


def _agreement(stores: Stores, comparison: Comparison) -> Iterator[Agreement]:
    task = comparison.relevance.name if comparison.relevance.run else ""
    for kind, words in RATED.items():
        people = ratings.raters(stores, kind, task if kind == "relevance" else "")
        what = f"relevance for {task}" if task and kind == "relevance" else words
        undefined = ratings.undefined(people.coefficients)
        is_any = any(not math.isnan(each.value) for each in people.coefficients)
        yield Agreement(
            what,
            len(people.names),
            people.n_ratings,
            ratings.coefficient_rows(people.coefficients) if is_any else [],
            [f"Not defined, {why}: {', '.join(names)}." for why, names in undefined.items()],
        )


# --- what could not be checked --------------------------------------------------------------------


def _unchecked(
    stores: Stores,
    comparison: Comparison,
    families: GapFamilies | None,
    atlas: Drawing | None,
    certain: Sequence[Row],
    written: Sequence[Written],
) -> Iterator[str]:
    result, relevance = coverage(stores, comparison), comparison.relevance
    yield limits_of(stores, comparison.anchor, relevance, result.n_anchor)
    yield certainty(stores, comparison).note
    yield weighted(stores, comparison).note
    if families is None:
        yield (
            "The gaps are not grouped into families yet: `fac families` and the page Coverage do "
            "that."
        )
    elif atlas is None:
        yield (
            "There is no map: too few features fire together, or they were grouped before maps "
            "were made; the page Features lays them out."
        )
    if features := [row["feature"] for row in certain]:
        names = named(stores, comparison.anchor, features)
        if doubtful := sum(bool(name.doubt) for name in names.values()):
            yield (
                f"Of {len(features):,} certain gaps in this report, {doubtful:,} are named after "
                "tokens alone: what they are about may be something else."
            )
    for run in dict.fromkeys((comparison.anchor, *comparison.runs)):
        yield from _unread(stores, run)
    for each in written:
        if gates := ", ".join(each.manifest.facts.unchecked):
            yield f"Nothing was at hand for these quality gates of {each.title}: {gates}."
    yield (
        "Only what this dictionary has a feature for can be covered or missed here, and what a "
        "feature means is read off the texts that fire it."
    )


def _unread(stores: Stores, run: str) -> Iterator[str]:
    """What of a dataset was not measured."""
    manifest = stores.runs.manifest(run)
    facts, most = manifest.facts, manifest.spec.max_tokens
    if facts.n_cut:
        yield (
            f"{facts.n_cut:,} of {facts.n_samples:,} samples of {facts.name} are longer than the "
            f"{most:,} tokens that were read of each."
        )
    if facts.n_empty:
        yield f"{facts.n_empty:,} samples of {facts.name} have no content tokens."
    if stores.runs.find(facts.dataset):
        source = stores.runs.manifest(facts.dataset).facts
        if source.n_rejected:
            yield f"{source.n_rejected:,} rows of the file of {facts.name} could not be read."
        for sentence in filter(None, (source.says_relabelled, source.says_unread)):
            yield f"{facts.name}: {sentence}"


# --- how it was made --------------------------------------------------------------------------


def _made(stores: Stores, comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield "FAC Explorer", __version__
    yield "Python", platform.python_version()
    for package in ("numpy", "pyarrow", "duckdb"):
        yield package, version(package)
    facts = stores.runs.manifest(comparison.anchor).facts
    yield "Model, layer and SAE", facts.provenance


def _runs(
    stores: Stores, comparison: Comparison, families: str | None
) -> Iterator[tuple[str, str, str]]:
    added = comparison.runs[1:]
    for what, run in (
        ("anchor", comparison.anchor),
        ("dataset", comparison.dataset),
        *(("added", run) for run in added),
    ):
        yield what, name_of(stores, run), run
    others = {
        "dictionary": [stores.cache.summary(comparison.anchor)["sae_run"]],
        "families": [families] if families else [],
        "explanations": explained(stores, comparison.anchor),
        "relevance": [comparison.relevance.run] if comparison.relevance.run else [],
    }
    for what, ids in others.items():
        for run in ids:
            yield what, stores.runs.manifest(run).facts.name if stores.runs.find(run) else "", run


def _command(comparison: Comparison) -> list[str]:
    """By the ids of runs: a name goes to what is measured next."""
    relevance = comparison.relevance
    options = [
        ("--anchor", comparison.anchor),
        ("--dataset", comparison.dataset),
        *(("--with", run) for run in comparison.runs[1:]),
        ("--threshold", repr(comparison.threshold)),
    ]
    if comparison.min_support > 1:
        options.append(("--min-support", str(comparison.min_support)))
    if comparison.role != EVERY_ROLE:
        options.append(("--role", comparison.role))
    if relevance.name != EVERY_FEATURE:
        options.append(("--relevant", relevance.name))
    parts = [shlex.join(option) for option in (*options, ("--out", "report.html"))]
    return ["python -m fac report", *(["--maybe"] if relevance.maybe else []), *parts]
