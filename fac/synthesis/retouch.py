"""A kept sample as a person edited it, measured again: does it still fire its gap in its own words?

The gates on form are not asked again: a person chose these words. What a sample may never be is
checked as for every candidate: a copy of what its writer was shown, of the dataset, of the anchor,
or of another kept sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fac.config import RetouchSpec, SynthesizeSpec
from fac.encoder import Encoder, Reading
from fac.errors import InputError, Progress
from fac.manifest import PairsManifest, RetouchFacts, SynthesisManifest
from fac.schema import CANDIDATES, HITS, TRACES, VERDICTS
from fac.store.runs import Runs, write_table
from fac.synthesis import filter as verdicts
from fac.synthesis import plan
from fac.synthesis.own_words import borrowed
from fac.synthesis.plan import Row
from fac.synthesis.scoring import Hit, hit_rows, of_role, read_alone, traced
from fac.synthesis.writing import same_encoder


def retouch(spec: RetouchSpec, *, runs: Runs, encoder: Encoder, progress: Progress) -> str:
    """The id of a run with that one sample: candidates, verdicts, hits and traces as a synthesis
    has them. It is kept where it still passes. Raises InputError for a candidate that the synthesis
    did not keep, or another number of texts than it has messages."""
    manifest: SynthesisManifest = runs.manifest(spec.synthetic)
    if manifest.step != SynthesizeSpec.step:
        raise InputError(f"{spec.synthetic} is a {manifest.step} run: name a synthesis.")
    pairs: PairsManifest = runs.manifest(manifest.spec.pairs)
    same_encoder(runs, [pairs.facts.anchor], encoder)
    run_id = spec.run_id(spec.synthetic, encoder.identity)
    if runs.find(run_id):
        return run_id
    kept = _kept(runs, spec.synthetic)
    if spec.candidate not in kept:
        raise InputError(f"{spec.synthetic} kept no sample {spec.candidate!r} that can be edited.")
    row = _edited(kept.pop(spec.candidate), spec.texts)
    with runs.exclusive(run_id):
        progress(0, 1, "measuring the edited sample")
        texts, messages = sources(runs, manifest, row), row["messages"]
        stretches = {turn: borrowed(m["content"], texts) for turn, m in enumerate(messages)}
        measured = read_alone(encoder, messages, pairs.spec.role, stretches)
        hits = _hits(*measured, pairs.facts.features, pairs.spec.role)
        leaked = _leaked(runs, pairs, row, progress)
        verdict = _judged(row, hits, kept, leaked, manifest.spec.threshold)
        name, reading = spec.candidate, measured[0]
        extra = json.dumps(row["extra"], ensure_ascii=False, sort_keys=True)
        tables = {
            "candidates": ([{**row, "extra": extra}], CANDIDATES),
            "verdicts": ([verdict._asdict()], VERDICTS),
            "hits": (hit_rows([name], [hits]), HITS),
            "traces": (traced(name, messages, reading, sorted(hits), stretches), TRACES),
        }
        folder = runs.scratch(run_id)
        for table, (rows, schema) in tables.items():
            write_table(folder / f"{table}.parquet", pa.Table.from_pylist(rows, schema), schema)
        facts = RetouchFacts(
            name=manifest.facts.name,
            synthetic=spec.synthetic,
            anchor=pairs.facts.anchor,
            encoder=encoder.identity,
            candidate=name,
            feature=row["feature"],
            threshold=manifest.spec.threshold,
            peak=verdict.peak,
            own_peak=verdict.own_peak,
            kept=int(verdict.kept),
            reason=verdict.reason,
        )
        runs.publish(run_id, spec=spec, inputs=[spec.synthetic], facts=facts, seconds=0.0)
    return run_id


def _judged(
    row: Row,
    hits: Mapping[int, Hit],
    others: Mapping[str, Row],
    leaked: Collection[str],
    threshold: float,
) -> verdicts.CandidateVerdict:
    """What becomes of the edited sample beside the other kept ones, which stand before it whatever
    they fire: a duplicate of one does not pass. Its place among its gap's stays."""
    strongest = hits.get(row["feature"])
    text = verdicts.Text(
        candidate=row["candidate"],
        feature=row["feature"],
        text=_whole(row["messages"]),
        problem="",
        peak=strongest.peak if strongest else 0.0,
        own_peak=(strongest.own_peak or 0.0) if strongest else 0.0,
    )
    before = [
        verdicts.Text(name, other["feature"], _whole(other["messages"]), "", math.inf)
        for name, other in others.items()
    ]
    active = {gap for gap, hit in hits.items() if verdicts.active(hit.peak, threshold)}
    judged = verdicts.judge(
        [*before, text],
        {text.candidate: active},
        threshold=threshold,
        keep=len(before) + 1,
        leaked=leaked,
    )[-1]
    if not judged.kept:
        return judged
    return judged._replace(rank=row["rank"], gains=sorted(active & {*row["gains"]}))


def _kept(runs: Runs, synthetic: str) -> dict[str, Row]:
    """What a synthesis kept, by candidate, with `extra` as a dict and `rank` and `gains`."""
    rows = runs.table(synthetic, "verdicts").to_pylist()
    places = {
        row["candidate"]: {name: row[name] for name in ("rank", "gains")}
        for row in rows
        if row["kept"]
    }
    return {
        name: {**row, **places[name], "extra": json.loads(row["extra"])}
        for row in runs.table(synthetic, "candidates").to_pylist()
        if (name := row["candidate"]) in places
    }


def _edited(row: Row, texts: Sequence[str]) -> Row:
    """The sample with other texts; the worse answer of a preference follows another prompt too."""
    if len(texts) != len(row["messages"]):
        raise InputError(
            f"{row['candidate']} has {len(row['messages'])} messages, got {len(texts)} texts."
        )
    messages = [
        {"role": message["role"], "content": text}
        for message, text in zip(row["messages"], texts, strict=True)
    ]
    extra = dict(row["extra"])
    if worse := extra.get("rejected"):
        extra["rejected"] = [*messages[:-1], worse[-1]]
    return {**row, "messages": messages, "extra": extra}


def _whole(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def sources(runs: Runs, manifest: SynthesisManifest, row: Mapping[str, Any]) -> list[str]:
    """What the writer of a sample was shown, and what its gap is said to be: words that are not its
    own. `row` is one of schema.CANDIDATES."""
    texts: list[str] = []
    for reply in runs.table(manifest.run, "replies", ["about", "prompt"]).to_pylist():
        if reply["about"] == row["candidate"]:
            texts += [message["content"] for message in json.loads(reply["prompt"])]
    decisions = runs.table(manifest.run, "decisions", ["subject"]).to_pylist()
    for run in sorted({decision["subject"].split("/")[1] for decision in decisions}):
        for pair in runs.rows(run, "pairs", [row["feature"]]).to_pylist():
            if pair["pair"] == row["pair"]:
                texts += [m["content"] for side in ("positive", "negative") for m in pair[side]]
    pairs: PairsManifest = runs.manifest(manifest.spec.pairs)
    explanations = pairs.facts.explanations
    if row["feature"] >= 0:
        briefs = plan.feature_briefs(runs, pairs.facts.anchor, [row["feature"]], explanations)
        texts += [brief.explanation for brief in briefs.values() if brief.explanation]
    return texts


def _hits(
    reading: Reading, peaks: np.ndarray, own: Mapping[int, float], gaps: Sequence[int], role: str
) -> dict[int, Hit]:
    """The gaps that a text fires, from what `read_alone` gives of it."""
    pooled = reading.pooled()
    counts = of_role(pooled.role, role)
    hits = {}
    for gap in gaps:
        strongest = np.flatnonzero(counts & (pooled.feature == gap) & (pooled.peak == peaks[gap]))
        if len(strongest):
            first = strongest[0]
            where = int(pooled.role[first]), int(pooled.position[first])
            hits[gap] = Hit(float(peaks[gap]), *where, own.get(gap, 0.0))
    return hits


def _leaked(
    runs: Runs, pairs: PairsManifest, row: Mapping[str, Any], progress: Progress
) -> frozenset[str]:
    """Its name where it overlaps with a sample of the anchor or of the dataset."""
    progress(0, 1, "comparing with the texts of anchor and dataset")
    leaks = verdicts.Leaks({row["candidate"]: row["messages"]})
    for measure in dict.fromkeys((pairs.facts.anchor, pairs.facts.dataset)):
        for batch in runs.batches(runs.manifest(measure).facts.dataset, "samples"):
            for chat in batch.column("messages").to_pylist():
                leaks.compare(chat)
    return frozenset(leaks.candidates)
