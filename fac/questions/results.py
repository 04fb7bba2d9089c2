"""Syntheses: what came of one, in numbers and texts, and how it leaves; what the next is asked.

Only what people approved is ever named in a spec, and the step checks it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fac import export, review, synthesis
from fac.config import MeasureSpec, SynthesizeSpec, read_spec
from fac.coverage import is_active
from fac.generator.chat import public_name
from fac.manifest import MeasureManifest, SynthesisFacts, SynthesisManifest
from fac.questions import pairs as pairs_
from fac.questions.catalogue import Row, is_synthetic
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import with_names
from fac.questions.gap_evidence import KINDS, certain_features
from fac.questions.pairs import StyleRequest, by_style, gap_rows
from fac.questions.pairs import question_of as question_of_pairs
from fac.questions.relevance import judged, relevant_set
from fac.questions.shape import writes_chats
from fac.schema import EVERY_FEATURE, EVERY_ROLE, CoverageResult
from fac.store import Stores
from fac.store.memo import remembered_for_good
from fac.store.queue import Job
from fac.synthesis import Forecast
from fac.synthesis import filter as verdicts

ALL = "all"
KEPT = "kept"
"""The outcome of a text that stays; every other is the reason why one was dropped."""


def syntheses(
    stores: Stores, pairs: str = "", *, pilots: bool = False
) -> dict[str, SynthesisManifest]:
    """Manifests of finished syntheses that can be shown, by run id, newest first; with `pairs` of
    that run alone, with `pilots` those too."""
    return {
        manifest.run: manifest
        for manifest in stores.runs.list(SynthesizeSpec.step)
        if pairs in ("", manifest.inputs.pairs)
        and (pilots or not manifest.spec.pilot)
        and stores.cache.ready(manifest.run)
    }


def synthesis_behind(stores: Stores, dataset: str) -> str | None:
    """The synthesis that a dataset run was kept from, where it can be shown."""
    if not is_synthetic(stores, dataset):
        return None
    source: str = stores.runs.manifest(dataset).facts.source
    return source if stores.cache.ready(source) else None


def last_synthesis(stores: Stores, dataset: str) -> SynthesisManifest | None:
    """The newest synthesis for gaps of a measured dataset."""
    manifests = syntheses(stores).values()
    return next((each for each in manifests if each.facts.dataset == dataset), None)


def synthesis_title(manifest: SynthesisManifest) -> str:
    """What a synthesis is called."""
    facts, piece = manifest.facts, manifest.run.rsplit("-", 1)[1][:6]
    kept = f"{facts.kept:,} of {facts.n_candidates:,} kept"
    return f"{facts.name} · {facts.method} · {kept} · {piece}"


def ledger_rows(facts: SynthesisFacts) -> list[Row]:
    """What it took: in all, per kept sample, per newly covered gap, per newly covered feature."""
    parts = {
        "per_kept": facts.kept,
        "per_gap": facts.features_gained - len(facts.gained_unasked),
        "per_feature": facts.features_gained,
    }
    spent = (
        ("Texts written", facts.n_candidates, "{:,.1f}"),
        ("Tokens written", facts.tokens, "{:,.0f}"),
        ("Tokens of the pairs", facts.pairs_tokens or None, "{:,.0f}"),
        ("Tokens of prompts", facts.prompt_tokens, "{:,.0f}"),
        ("Seconds of writing", facts.seconds, "{:,.1f}"),
        ("US dollars", facts.cost, "{:,.4f}"),
    )
    return [
        {
            "what": what,
            "total": (form if isinstance(total, float) else "{:,}").format(total),
            **{part: form.format(total / n) if n else "–" for part, n in parts.items()},
        }
        for what, total, form in spent
        if total is not None  # no price is known
    ]


ADVICE = {
    "failed": "See on the page of jobs what the writer answered, or choose another writer.",
    "unreadable": "Choose another writer: this one does not keep to the form of a sample.",
    "empty": "Choose another writer, or a higher temperature.",
    "refusal": "Choose another writer, such as the measured model itself, which refuses nothing.",
    "cut off": "Raise the longest text.",
    "length": "Raise the longest text, or lower it.",
    "language": "Choose a writer that knows the dataset's language.",
    "below threshold": "Ask for more texts a gap, approve pairs that fire more strongly, or steer.",
    "borrowed words": "Ask for more texts a gap: these fire only where they repeat their sources.",
    "label unsure": "Look at these texts: the label may be wrong, or the check too strict.",
}
"""What to do where most texts were dropped for a reason."""

MORE = "Ask for more texts a gap, with another attempt or another writer."


def ending(facts: SynthesisFacts) -> str:
    """What came of a synthesis in a sentence or two and, where nothing did, what to do."""
    if facts.kept:
        hit = f"{facts.gaps_hit:,} of {facts.gaps:,} gaps"
        if facts.any_hit_rate is None:
            words = f"{hit} have a sample that fires them; own words were not told apart then."
        else:
            words = f"{hit} have a sample that fires them in its own words."
        return f"{words} {facts.note}".strip()
    n = facts.n_candidates
    if not facts.dropped:
        return f"Nothing was written. {facts.note or MORE}"
    reason, count = max(facts.dropped.items(), key=lambda row: row[1])
    refused = facts.dropped.get("refusal", 0) == n
    begins = f"The writer refused all {n:,} texts" if refused else f"None of {n:,} texts was kept"
    main = "" if refused else f": {count:,} were dropped for “{reason}”"
    return f"{begins}{main}, so there is nothing to export. {ADVICE.get(reason, MORE)}"


UNCHECKED = {
    "unlikely": "how odd the measured model finds it",
    "label": "whether the label is right",
}
"""Quality gates that lacked what they need, as `SynthesisFacts.unchecked` has them, in words."""


def checks(facts: SynthesisFacts) -> list[str]:
    """What the texts were not checked for, what there is to doubt about those that are kept, who
    answered, and how good the check of labels is, in sentences; nothing where all gates were at
    hand and nothing is doubted."""
    sentences = []
    if facts.unchecked:
        gates = ", ".join(UNCHECKED.get(gate, gate) for gate in facts.unchecked)
        sentences.append(f"Not checked, since nothing was at hand for it: {gates}.")
    if facts.doubtful:
        why = ", ".join(f"{doubt} {n:,}" for doubt, n in facts.doubts.items())
        sentences.append(
            f"A reader may hesitate over {facts.doubtful:,} of {facts.kept:,} kept samples: {why}."
        )
    if facts.answers:
        sentences.append(f"Answers: {facts.answers:,} by {public_name(facts.answered_by)}.")
    if facts.label_auroc is not None:
        words = f"Label check: AUROC {facts.label_auroc:.2f}"
        if facts.label_auroc_low is not None and facts.label_auroc_high is not None:
            words += f" ({facts.label_auroc_low:.2f} to {facts.label_auroc_high:.2f}, 95 %)"
        words += f", cross-validated on {facts.label_rows:,} labelled samples; "
        if facts.label_precision is None:
            words += "too weak to decide, so it dropped nothing."
        else:
            words += f"of what it confirms, {facts.label_precision:.0%} have the label there."
        if facts.label_agreement is not None:
            words += f" A probe that learned from other rows agrees on {facts.label_agreement:.0%}."
        sentences.append(words)
    return sentences


class Reach(NamedTuple):
    """Where the gaps that a synthesis wrote for stand, each in one of three places."""

    filled: list[int]
    """With a kept sample that was written for them."""
    along: dict[int, int]
    """Fired by a kept sample of another gap: that gap, by gap."""
    missing: list[int]
    """Fired by no kept sample."""

    def words(self) -> str:
        """What became of the gaps without a sample of their own, as a sentence; "" where there are
        none."""
        if not self.along and not self.missing:
            return ""
        parts = []
        if n := len(self.along):
            parts.append(f"{n:,} more {'is' if n == 1 else 'are'} covered by samples of other gaps")
        n = len(self.missing)
        parts.append(f"{n or 'none'} {'is' if n == 1 else 'are'} still missing")
        n_filled, every = len(self.filled), len(self.filled) + len(self.along) + n
        filled = (
            f"Of {every:,} gaps {n_filled or 'none'} {'has' if n_filled < 2 else 'have'} a sample"
        )
        return f"{filled} of {'its' if n_filled < 2 else 'their'} own, {', '.join(parts)}."


def reach(stores: Stores, manifest: SynthesisManifest) -> Reach:
    """Where the gaps that a synthesis wrote for stand."""
    run, lacking = manifest.run, {row["feature"] for row in manifest.facts.tried}
    filled, fired = _kept_gaps(stores, run)
    along = {gap: fired[gap] for gap in sorted(lacking & fired.keys())}
    return Reach(sorted(filled), along, sorted(lacking - fired.keys()))


def tried_rows(stores: Stores, manifest: SynthesisManifest) -> list[Row]:
    """The gaps that gave nothing, with what they are called, what was tried and `along`: whose
    sample fires them all the same."""
    along, facts = reach(stores, manifest).along, manifest.facts
    rows: list[Row] = [
        {**row, "along": f"sample of #{along[gap]}" if (gap := row["feature"]) in along else "no"}
        for row in facts.tried
    ]
    return with_names(stores, facts.anchor, rows)


def risen_rows(stores: Stores, facts: SynthesisFacts) -> list[Row]:
    """The features whose share of the dataset's samples rises most, with what they are called and
    whether they are gaps that were `asked` for."""
    gaps = {*stores.runs.manifest(facts.pairs).facts.features}
    shares = (
        {**row, "before": 100 * row["before"], "after": 100 * row["after"]} for row in facts.risen
    )
    rows = [{**row, "asked": "gap" if row["feature"] in gaps else "no"} for row in shares]
    return with_names(stores, facts.anchor, rows)


def gaps_of(stores: Stores, run: str) -> list[int]:
    """Every gap that the synthesis's run of pairs is about."""
    pairs = stores.runs.manifest(run).inputs.pairs
    return list(stores.runs.manifest(pairs).facts.features)


def remaining(stores: Stores, run: str) -> list[int]:
    """Of these, the gaps that no kept sample fires."""
    covered = covered_gaps(stores, run)
    return [gap for gap in gaps_of(stores, run) if gap not in covered]


def covered_gaps(stores: Stores, run: str) -> set[int]:
    """The gaps that kept samples fire."""
    return {*_kept_gaps(stores, run)[1]}


@remembered_for_good
def _kept_gaps(stores: Stores, run: str) -> tuple[set[int], dict[int, int]]:
    """The gaps that kept samples were written for, and, by gap that one fires, the gap which that
    was written for."""
    verdicts = stores.runs.table(run, "verdicts").filter(pc.field("kept")).to_pylist()
    fired = {gap: row["feature"] for row in verdicts for gap in row["gains"]}
    return {row["feature"] for row in verdicts}, fired


RARE = KINDS[1]


def measure_of_kept(
    manifest: SynthesisManifest, measures: Mapping[str, MeasureManifest]
) -> str | None:
    """The newest measure of what was kept, with the anchor's model, layer and SAE; None where there
    is none yet. `measures` are the manifests of the measure runs, newest first."""
    of_kept = (manifest.facts.kept_dataset, manifest.facts.encoder)
    measured = ((run, each.facts) for run, each in measures.items())
    return next((run for run, f in measured if (f.dataset, f.encoder) == of_kept), None)


def still_rare(stores: Stores, manifest: SynthesisManifest, measure: str) -> list[int]:
    """The gaps of a synthesis's pairs that its dataset together with the kept samples, both as
    measured, is certain to show too rarely: as Coverage has it, together with them."""
    together = replace(question_of(stores, manifest), added=(measure,))
    rare = {*certain_features(stores, together, RARE)}
    return [gap for gap in gaps_of(stores, manifest.run) if gap in rare]


def rare_words(
    stores: Stores, manifest: SynthesisManifest, measures: Mapping[str, MeasureManifest]
) -> str:
    """That a sample does not make a gap common, and for how many of these gaps it did not, as a
    sentence; "" where nothing was kept."""
    facts = manifest.facts
    if not facts.kept:
        return ""
    if (measure := measure_of_kept(manifest, measures)) is None:
        return (
            "A sample shows that a gap can be filled and does not make it common: measure what is "
            f"kept to see how many of these gaps are still {RARE}."
        )
    n, gaps = len(still_rare(stores, manifest, measure)), len(gaps_of(stores, manifest.run))
    many = f"{n or 'none'} of these {gaps:,} gaps {'is' if n < 2 else 'are'}"
    return f"Together with {facts.name}, {many} still {RARE} (certain)."


def unasked_rows(stores: Stores, facts: SynthesisFacts, **window: int) -> tuple[list[Row], int]:
    """The features gained that nobody asked for, as the anchor knows them, on the page between
    `offset` and `limit`, and how many there are."""
    listing: Row = {"sort": "n_samples", "descending": True, **window}
    rows, total = stores.cache.features_page(facts.anchor, ids=facts.gained_unasked, **listing)
    return with_names(stores, facts.anchor, rows), total


def question_of(stores: Stores, manifest: SynthesisManifest) -> Comparison:
    """The question of coverage that a synthesis was started for, which its figures answer."""
    question = pairs_.question_of(stores, manifest.spec.pairs)
    return replace(question, threshold=manifest.spec.threshold)


def relevance_since(stores: Stores, question: Comparison) -> str:
    """Why other pages count other features than a synthesis did, as a sentence; "" where they do
    not."""
    name = question.relevance.name
    if name == EVERY_FEATURE:
        return ""
    if name not in (tasks := judged(stores, question.anchor)):
        n = len(question.relevance.features)
        return f"Other pages know nothing of {name} and count every feature; here {n:,} count."
    today = replace(tasks[name], maybe=question.relevance.maybe)
    then, now = (
        relevant_set(stores, question.anchor, relevance, question.role)
        for relevance in (question.relevance, today)
    )
    if n := int((then != now).sum()):
        changed = f"What is relevant for {name} has changed since, by {n:,} features"
        return f"{changed}: other pages count otherwise than this result."
    return ""


class Remeasured(NamedTuple):
    """What an independent measure of the kept dataset found."""

    run: str
    """The measure."""
    rows: int
    confirmed: int
    """Rows whose own gap fires above the threshold in what was measured anew."""
    together: CoverageResult
    """Of the dataset with the kept samples, both as measured."""


def remeasured(
    stores: Stores, manifest: SynthesisManifest, measures: Mapping[str, MeasureManifest]
) -> Remeasured | None:
    """What the newest measure of what was kept says; None where there is none yet."""
    run = measure_of_kept(manifest, measures)
    return _remeasured(stores, manifest.run, run) if run else None


@remembered_for_good
def _remeasured(stores: Stores, synthetic: str, measure: str) -> Remeasured:
    manifest = stores.runs.manifest(synthetic)
    facts, question = manifest.facts, question_of(stores, manifest)
    rows = stores.runs.table(facts.kept_dataset, "samples", ["meta"]).to_pylist()
    gaps = [json.loads(row["meta"])["feature"] for row in rows]
    columns = ["sample", "feature", "peak", "role"]
    peaks = stores.runs.rows(measure, "activations", sorted(set(gaps)), columns)
    fires = {
        (row["sample"], row["feature"])
        for row in peaks.filter(
            pa.array(is_active(peaks["peak"].to_numpy(), question.threshold))
        ).to_pylist()
        if question.role in (EVERY_ROLE, row["role"])
    }
    confirmed = sum((sample, gap) in fires for sample, gap in enumerate(gaps))
    together = coverage(stores, replace(question, added=(measure,)))
    return Remeasured(measure, len(gaps), confirmed, together)


def remeasuring(stores: Stores, manifest: SynthesisManifest) -> Job | None:
    """The live job that measures what was kept."""
    kept = manifest.facts.kept_dataset
    jobs = stores.queue.live()
    return next((j for j in jobs if j.step == MeasureSpec.step and j.spec["dataset"] == kept), None)


def remeasure_spec(stores: Stores, manifest: SynthesisManifest) -> MeasureSpec:
    """What measures the kept samples exactly as the anchor was."""
    facts = manifest.facts
    return replace(stores.runs.manifest(facts.anchor).spec, dataset=facts.kept_dataset)


def outcomes(facts: SynthesisFacts) -> dict[str, int]:
    """How many texts came to each end, those that were kept first where there are any."""
    kept = {KEPT: facts.kept} if facts.kept else {}
    return {**kept, ALL: facts.n_candidates, **facts.dropped}


def outcome_of(candidate: Row) -> str:
    """What became of a text."""
    return KEPT if candidate["kept"] else str(candidate["reason"])


def candidates_page(
    stores: Stores, run: str, *, outcome: str, **listing: Any
) -> tuple[list[Row], int]:
    """One page of the texts with this outcome: rows of Cache.candidates as the table shows them,
    with `verdict`, `g`, `n_gains`, the gaps that no better kept one covers, and `text`, how it
    begins."""
    reason = None if outcome in (ALL, KEPT) else outcome
    threshold = stores.runs.manifest(run).spec.threshold
    listing |= {"only": "dropped" if reason else outcome, "reason": reason}
    rows, total = stores.cache.candidates(run, threshold=threshold, **listing)
    for row in rows:
        text = " ".join(whole_text(row["messages"]).split())[:160]
        row |= {"verdict": outcome_of(row), "g": row["peak"], "text": text}
        row["n_gains"] = len(row["gains"]) if row["kept"] else None
    return rows, total


def fired(candidate: Row, threshold: float) -> list[Row]:
    """The hits of a text, a row of Cache.candidate, above the threshold: gaps that it fires."""
    return [hit for hit in candidate["hits"] if verdicts.active(hit["peak"], threshold)]


def whole_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Everything a sample says."""
    return "\n".join(message["content"] for message in messages)


def traces(stores: Stores, run: str, candidate: str) -> dict[int, Row]:
    """Where a kept text fires, by gap: `tokens` and `activations`; nothing for a dropped text."""
    if "traces.parquet" not in stores.runs.manifest(run).files:  # from before texts were traced
        return {}
    return {row["feature"]: row for row in _trace_rows(stores, run).get(candidate, ())}


@remembered_for_good
def _trace_rows(stores: Stores, run: str) -> dict[str, list[Row]]:
    by_candidate: dict[str, list[Row]] = {}
    for row in stores.runs.table(run, "traces").to_pylist():
        by_candidate.setdefault(row["candidate"], []).append(row)
    return by_candidate


@remembered_for_good
def provenance(stores: Stores, run: str, candidate: str) -> export.Provenance:
    """Everything that led to a kept row."""
    return export.provenance(run, candidate, runs=stores.runs)


def lineage_rows(lineage: Row) -> list[tuple[str, str]]:
    """How a row came to be there, step by step, as (step, words)."""
    admitted, pair, span = lineage["filter"], lineage["pair"], lineage["span"]
    measured = "silent"
    if lineage["activation"] is not None:
        measured = f"{lineage['activation']:.3f} on token {span['position']} of what the model read"
        measured += f", in the {span['role']}'s turn"
    rank = f"above {admitted['threshold']:g}, place {admitted['rank'] + 1} of those that passed"
    rows = [("Measured", measured), ("Filter", f"{rank}, best {admitted['keep']} kept")]
    for approval in lineage["approvals"]:
        when = datetime.fromisoformat(approval["at"]).astimezone()
        rows.append(("Approved by", f"{approval['reviewer']}, {when:%d %b %Y %H:%M}"))
    if pair:
        positive = f"positive {pair['positive_peak']:.2f} ({pair['origin']})"
        negative = f"negative {pair['negative_peak']:.2f}"
        rows.append(("Pair", f"{pair['pair']}, {positive}, {negative}"))
    how = f"{lineage['method']}, style {lineage['style']}, seed {lineage['seed']}"
    return [
        *rows,
        ("Written by", f"{lineage['generator']} ({lineage['writer']})"),
        ("How", f"{how}, temperature {lineage['temperature']:g}"),
        ("Prompt", str(lineage["prompt_hash"])),
        ("Encoder", str(lineage["encoder"])),
        ("Sample", str(lineage["sample_id"])),
    ]


def extra_texts(extra: Row) -> list[tuple[str, str]]:
    """What a sample has beside its messages, by profile, as (name, text)."""
    texts = []
    if "label" in extra:
        texts.append(("Label", str(extra["label"])))
    if "rejected" in extra:
        texts.append(("The worse answer", extra["rejected"][-1]["content"]))
    if "choices" in extra:
        choices = extra["choices"]
        shows = f"{choices['matching']} shows the behaviour, {choices['other']} does not"
        texts.append(("Answers", shows))
    return texts


def approved_pairs(stores: Stores, run: str) -> list[Row]:
    """What people approved of a run of pairs, as it is now: all that may be written from."""
    return review.approved_pairs(stores.decisions, stores.runs, run)


def basis_rows(stores: Stores, run: str, approved: Sequence[Row]) -> list[Row]:
    """Approved pairs as the table shows them: with what their gaps are called."""
    gaps = gap_rows(stores, question_of_pairs(stores, run), [row["feature"] for row in approved])
    by_feature = {row["feature"]: row for row in gaps}
    return [{**by_feature[row["feature"]], **row} for row in approved]


def launch_requests(
    stores: Stores, spec: SynthesizeSpec, approved: Sequence[Row]
) -> list[StyleRequest]:
    """Exactly what the writer will be asked for the first gap, each style once."""
    chats = writes_chats(stores, spec, stores.runs.manifest(spec.pairs).facts.anchor)
    return by_style(synthesis.first_asked(spec, runs=stores.runs, approved=approved, chats=chats))


def pilot_spec(spec: SynthesizeSpec) -> SynthesizeSpec:
    """The same for a few of its pairs, as a trial."""
    return replace(spec, approved=synthesis.pilot_pairs(spec.approved), rows=0, pilot=True)


def pilot_texts(stores: Stores, run: str) -> dict[int, list[Row]]:
    """Every text of a pilot by gap, as `candidates_page` has them: kept ones first, then others
    that pass, the strongest first."""
    n = stores.runs.manifest(run).facts.n_candidates
    listing: Row = {"sort": "peak", "descending": True, "offset": 0, "limit": n}
    rows, _ = candidates_page(stores, run, outcome=ALL, **listing)
    gaps: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (not row["kept"], row["rank"] < 0)):
        gaps.setdefault(row["feature"], []).append(row)
    return dict(sorted(gaps.items()))


def finished_synthesis(stores: Stores, spec: SynthesizeSpec) -> str | None:
    """The newest run of exactly these settings and pairs that can be shown."""
    identity = _identity(spec)
    manifests = syntheses(stores, spec.pairs, pilots=True)
    return next((run for run, each in manifests.items() if _identity(each.spec) == identity), None)


def _identity(spec: SynthesizeSpec) -> Row:
    """All that decides what a synthesis is; a finished one knows its evaluation files by name."""
    fields = {k: v for k, v in spec.as_json().items() if k not in spec.operational}
    files = sorted(Path(path).name for path in spec.evaluation)
    return {**fields, "approved": sorted(spec.approved), "evaluation": files}


def forecast(stores: Stores, spec: SynthesizeSpec) -> Forecast | None:
    """What a finished pilot of these settings says about all of the pairs."""
    run = finished_synthesis(stores, pilot_spec(spec))
    return synthesis.forecast(stores.runs.manifest(run), len(spec.approved)) if run else None


def live_syntheses(stores: Stores, pairs: str) -> list[Job]:
    """Waiting and running syntheses from a run of pairs."""
    return [job for job in stores.queue.live() if _is_from(job, pairs)]


def stopped_synthesis(stores: Stores, pairs: str) -> Job | None:
    """The newest synthesis from a run of pairs, where it ended before its end."""
    jobs = (job for job in stores.queue.jobs() if _is_from(job, pairs))
    last = max(jobs, key=lambda job: job.id, default=None)
    return last if last and last.status in ("failed", "cancelled") else None


def _is_from(job: Job, pairs: str) -> bool:
    return job.step == SynthesizeSpec.step and job.spec["pairs"] == pairs


def resumed(job: Job, spec: SynthesizeSpec) -> SynthesizeSpec:
    """What a stopped job was asked for, within today's budget and at today's speed."""
    before = read_spec(job.step, job.spec)
    assert isinstance(before, SynthesizeSpec)  # which step it is says the class
    return replace(before, **{name: getattr(spec, name) for name in spec.operational})
