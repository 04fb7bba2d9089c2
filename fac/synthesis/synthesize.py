"""Step 2 and its baselines: from approved pairs to a dataset of what is kept.

Every candidate ends as kept or dropped with a reason, and no text that nobody approved reaches a
writer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from fac import coverage, datasets, schema
from fac.config import METHODS, WRITERS, IngestSpec, PairsSpec, RescoreSpec, SynthesizeSpec, digest
from fac.errors import BadRow, InputError, Progress
from fac.generator.chat import public_name
from fac.manifest import DatasetFacts, PairsFacts, SynthesisFacts
from fac.schema import EVERY_FEATURE, REJECTED, SAMPLES, TRACES, VERDICTS
from fac.store import decisions
from fac.store.runs import Runs, write_table
from fac.synthesis import filter as verdicts
from fac.synthesis import writing
from fac.synthesis.filter import CandidateVerdict
from fac.synthesis.own_words import Stretch, borrowed
from fac.synthesis.pairs import PROPOSED, pair_id
from fac.synthesis.plan import Ask, Grounds, Row, seed_of
from fac.synthesis.scoring import Hit, read_alone, score, support_of, traced
from fac.synthesis.writing import Candidate, Step, Stopped, Texts, quiet


def synthesize(spec: SynthesizeSpec, *, progress: Progress, **doors: Any) -> str:
    """Writes `spec.candidates` texts for every gap, keeps the best that fire it; the run's id.

    `doors` are the other fields of SynthesisStep. Methods are in fac.synthesis.methods; a baseline
    that names no pairs takes all gaps of the pairs run.

    The run holds candidates, hits, verdicts, replies and the decisions it rests on; what is kept
    is a dataset run too. Raises InputError for a pair that nobody approved as it is, BudgetReached,
    Cancelled or ServiceError after publishing the gaps whose texts are all there; of a baseline
    that names no pairs nothing is published before all of them are.
    """
    return SynthesisStep(spec=spec, **doors).run(progress)


def first_asked(
    spec: SynthesizeSpec, *, runs: Runs, approved: Sequence[Mapping[str, Any]]
) -> list[Ask]:
    """What a writer will be asked for the first gap, candidate by candidate, before anybody is. No
    model is needed: how a steered writer is pushed is left out, the words are the same. Raises
    InputError where the spec names a pair that is not `approved` as it is."""
    spec = replace(spec, strength=0.0)
    about = runs.manifest(spec.pairs).facts
    pairs = approved_as_they_are(spec, runs, approved)
    gaps = [row["feature"] for row in pairs] or about.features
    grounds = Grounds(spec, runs, about, pairs[:1], gaps[:1], None)
    return METHODS[spec.method].plan(grounds)


@dataclass(kw_only=True)
class SynthesisStep(Step[SynthesizeSpec]):
    """Candidates for every gap, judged, and a dataset of those that are kept."""

    approved: Sequence[Mapping[str, Any]]  # what people approved by now: fac.review.approved_pairs

    def __post_init__(self) -> None:
        spec, approved = self.spec, self.approved
        manifest = self.runs.manifest(spec.pairs)
        if manifest.step != PairsSpec.step:
            raise InputError(
                f"{spec.pairs} is a {manifest.step} run: name the run of `fac pairs`; edits of "
                f"its pairs are found by themselves."
            )
        self.about: PairsFacts = manifest.facts
        self.question: PairsSpec = manifest.spec
        writing.same_encoder(self.runs, [self.about.anchor, self.about.dataset], self.encoder)
        self.pairs = approved_as_they_are(spec, self.runs, approved)
        self.gaps = [row["feature"] for row in self.pairs] or [*self.about.features]
        grounds = Grounds(spec, self.runs, self.about, self.pairs, self.gaps, self.direction)
        self.plan = METHODS[spec.method].plan(grounds)
        self.evaluation = {
            path: datasets.read_samples(path).digest(quiet) for path in spec.evaluation
        }
        approvals = [[row["run"], row["seen"], row["approver"]] for row in self.pairs]
        uids = [decision.uid for row in self.pairs for decision in row["decisions"]]
        self.decisions = digest(approvals, uids)
        named = replace(spec, evaluation=tuple(sorted(self.evaluation.values())))
        identities = (self.encoder.identity, self.writer.identity)
        self.run_id = named.run_id(
            spec.pairs, *identities, self.decisions, digest(self.reply_keys())
        )

    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        if not self.spec.approved:  # then no smaller spec names some of the gaps
            raise type(stopped)(
                f"{str(stopped).rstrip('.')}. A baseline that names no pairs is finished with all "
                f"its gaps or not at all, and {len(self.gaps) - len(lacking):,} of "
                f"{len(self.gaps):,} are complete; started again, nothing is written twice."
            )
        pairs = tuple(row["pair"] for row in self.pairs if row["feature"] not in lacking)
        if not pairs:
            raise stopped
        return replace(self, spec=replace(self.spec, approved=pairs)), len(pairs)

    def publish(self, texts: Texts, progress: Progress) -> None:
        spec, runs, about = self.spec, self.runs, self.about
        candidates = sorted(self.candidates(texts), key=lambda each: each.name)
        chats = [candidate.messages for candidate in candidates]
        scores = score(
            self.encoder,
            chats,
            about.features,
            threshold=spec.threshold,
            role=self.question.role,
            borrowed=lambda number: self._borrowed(candidates[number]),
            progress=progress,
        )
        leaks = self._leaked(candidates, progress)
        judged, fires, traces = self._judged(candidates, scores.hits, leaks, progress)
        kept = [(c, v) for c, v in zip(candidates, judged, strict=True) if v.kept]
        figures = {
            **writing.spent(candidates, texts.seconds, self.writer.identity),
            **verdicts.counted(judged, self.gaps),
            **self._coverage_gained(fires, scores.features),
        }
        facts = SynthesisFacts(
            name=about.name,
            pairs=spec.pairs,
            anchor=about.anchor,
            dataset=about.dataset,
            encoder=self.encoder.identity,
            method=spec.method,
            profile=spec.profile,
            kept_dataset=self._publish_dataset(kept),
            decisions=self.decisions,
            approvers=sorted({row["approver"] for row in self.pairs}),
            evaluation={Path(path).name: sha for path, sha in self.evaluation.items()},
            relevant=self.question.relevant,
            min_support=self.question.min_support,
            role=self.question.role,
            **figures,
            **verdicts.per_feature(figures),
        )
        approvals = [d._asdict() for row in self.pairs for d in row["decisions"]]
        self.write_tables(
            candidates,
            scores.hits,
            traces=(traces, TRACES),
            verdicts=([verdict._asdict() for verdict in judged], VERDICTS),
            decisions=(approvals, decisions.TABLE),
        )
        # Names alone: a manifest may leave this machine, the paths mean nothing there.
        named = replace(spec, evaluation=tuple(Path(path).name for path in spec.evaluation))
        runs.publish(
            self.run_id, spec=named, inputs=[spec.pairs], facts=facts, seconds=texts.seconds
        )

    def _coverage_gained(self, kept: np.ndarray, written: np.ndarray) -> Row:
        """FAC of the dataset against the anchor before and after, for the question that the gaps
        were chosen by and the threshold of this synthesis, as fac.questions.comparison.coverage
        has it. `kept` and `written` are the features `[n_features]` (bool) that kept samples fire,
        and those that any text does."""
        question, anchor = self.question, self.about.anchor
        facts = self.runs.manifest(anchor).facts

        def support(run: str, threshold: float = self.spec.threshold) -> np.ndarray:
            return support_of(self.runs, run, facts.n_features, threshold, question.role)

        if question.relevant == EVERY_FEATURE:
            fired = support(anchor, -math.inf)
            relevant = coverage.everywhere_relevant(fired, facts.n_samples)
        else:
            relevant = np.isin(np.arange(facts.n_features), question.relevant_features)
        shows = coverage.present(support(anchor), question.min_support)
        has = coverage.present(support(self.about.dataset))
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
            "gained_unasked": np.setdiff1d(gained, self.gaps).tolist(),
            "still_missing": np.setdiff1d(self.gaps, np.flatnonzero(kept)).tolist(),
        }

    def _publish_dataset(self, kept: Sequence[tuple[Candidate, CandidateVerdict]]) -> str:
        """What is kept as a dataset run, to be measured and compared like any other; its id, or ""
        where nothing is."""
        if not kept:
            return ""
        spec = self.spec
        approver = {row["pair"]: row["approver"] for row in self.pairs}
        # A dataset may leave this machine; where a server stands means nothing there.
        generator = public_name(spec.model if WRITERS[spec.writer].server else self.writer.identity)
        rows: list[Row] = []
        for candidate, verdict in kept:
            ask, messages = candidate.ask, candidate.messages
            lineage = {
                "synthetic": self.run_id,
                "candidate": candidate.name,
                "feature": ask.feature,
                "activation": verdict.peak,
                "own_activation": verdict.own_peak,
                "threshold": spec.threshold,
                "encoder": self.encoder.identity,
                "method": spec.method,
                "style": ask.style,
                "pair": ask.pair,
                "approver": approver.get(ask.pair, ""),
                "prompt_hash": ask.prompt_hash,
                "generator": generator,
                "writer": spec.writer,
                "seed": seed_of(spec),
                **candidate.extra,
            }
            meta = json.dumps(lineage, ensure_ascii=False, sort_keys=True)
            sample = (datasets.sample_id(messages), messages, candidate.extra.get("label"), meta)
            rows.append(dict(zip(SAMPLES.names, sample, strict=True)))
        title = f"{self.about.name} {spec.method} {self.run_id.rsplit('-', 1)[1][:6]}"
        ingest = IngestSpec(name=title[-80:], source=self.run_id)
        dataset = ingest.run_id(self.run_id)
        if self.runs.find(dataset):
            return dataset
        with self.runs.exclusive(dataset):
            folder = self.runs.scratch(dataset)
            write_table(folder / "samples.parquet", pa.Table.from_pylist(rows, SAMPLES), SAMPLES)
            write_table(folder / "rejected.parquet", REJECTED.empty_table(), REJECTED)
            labels = Counter(row["label"] for row in rows if row["label"] is not None)
            roles = Counter(message["role"] for row in rows for message in row["messages"])
            facts = DatasetFacts(
                name=ingest.name,
                source=self.run_id,
                n_samples=len(rows),
                kind="pilot" if spec.pilot else "synthetic",
                roles=dict.fromkeys(schema.ROLES, 0) | dict(roles),
                labels=dict(labels.most_common()),
            )
            self.runs.publish(dataset, spec=ingest, inputs=[self.run_id], facts=facts, seconds=0.0)
        return dataset

    def _judged(
        self,
        candidates: Sequence[Candidate],
        hits: Sequence[dict[int, Hit]],
        leaks: frozenset[str],
        progress: Progress,
    ) -> tuple[list[CandidateVerdict], np.ndarray, list[Row]]:
        """Verdicts in the order of the candidates, the features `[n_features]` (bool) that kept
        samples fire, and where they do: rows of schema.TRACES. What is to be kept is measured once
        more, alone: whoever measures the export must find it above the threshold, and a peak at the
        edge may depend on the texts read beside it. The lower of both peaks counts, in `hits`
        too."""
        spec, threshold = self.spec, self.spec.threshold
        by_name = {each.name: (each, fires) for each, fires in zip(candidates, hits, strict=True)}
        alone: dict[str, list[Row]] = {}
        fires_alone: dict[str, np.ndarray] = {}
        while True:
            judged = verdicts.judge(
                [_text(candidate, fires) for candidate, fires in by_name.values()],
                {
                    name: {g for g, hit in fires.items() if verdicts.active(hit.peak, threshold)}
                    for name, (_, fires) in by_name.items()
                },
                threshold=threshold,
                keep=spec.keep,
                leaked=leaks,
                only_needed=spec.only_needed,
            )
            kept = [verdict.candidate for verdict in judged if verdict.kept]
            fresh = [name for name in kept if name not in alone]
            if not fresh:
                features = np.zeros(self.encoder.n_features, bool)
                for name in kept:
                    features[fires_alone[name]] = True
                return judged, features, [row for name in sorted(kept) for row in alone[name]]
            for number, name in enumerate(fresh):
                progress(number, len(fresh), "measuring what is kept, each text alone")
                candidate, fires = by_name[name]
                chat, stretches = candidate.messages, self._borrowed(candidate)
                read = read_alone(self.encoder, chat, self.question.role, stretches)
                reading, peaks, own = read
                fires_alone[name] = np.flatnonzero(coverage.is_active(peaks, threshold))
                for gap in [*fires]:
                    lower = min(fires[gap].peak, float(peaks[gap]))
                    own_peak = min(fires[gap].own_peak or 0.0, own.get(gap, 0.0))
                    fires[gap] = fires[gap]._replace(peak=lower, own_peak=own_peak)
                    if not lower > 0:
                        del fires[gap]
                alone[name] = traced(name, chat, reading, sorted(fires), stretches)

    def _borrowed(self, candidate: Candidate) -> dict[int, list[Stretch]]:
        """What a text has from what its writer was shown, by message."""
        ask = candidate.ask
        sources = [*ask.quoted, ask.explanation]
        for pair in self.pairs:
            if pair["pair"] == ask.pair:
                sides = (*pair["positive"], *pair["negative"])
                sources += [message["content"] for message in sides]
        return {
            number: borrowed(message["content"], sources, 0 if number else candidate.prescribed)
            for number, message in enumerate(candidate.messages)
        }

    def _leaked(self, candidates: Sequence[Candidate], progress: Progress) -> frozenset[str]:
        """Candidates that overlap with a sample of the anchor or a text for evaluation."""
        progress(0, 1, "comparing with anchor and evaluation texts")
        leaks = verdicts.Leaks({each.name: each.text for each in candidates if each.messages})
        anchor = self.runs.manifest(self.about.anchor).facts.dataset
        for batch in self.runs.batches(anchor, "samples"):
            for chat in batch.column("messages").to_pylist():
                leaks.compare(chat)
        for path in self.spec.evaluation:
            for row in datasets.read_samples(path):
                if isinstance(row, BadRow):
                    raise InputError(f"{Path(path).name}, {row}.")
                leaks.compare(row.messages)
        return frozenset(leaks.candidates)


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _text(candidate: Candidate, hits: Mapping[int, Hit]) -> verdicts.Text:
    """A candidate as the verdicts see it."""
    ask = candidate.ask
    hit = hits.get(ask.feature)
    return verdicts.Text(
        candidate=candidate.name,
        feature=ask.feature,
        text=candidate.text,
        problem=candidate.problem,
        peak=hit.peak if hit else 0.0,
        quoted=ask.quoted,
        prescribed=candidate.prescribed,
        own_peak=(hit and hit.own_peak) or 0.0,
    )


def approved_as_they_are(
    spec: SynthesizeSpec, runs: Runs, approved: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """The pairs that the spec names, by feature, with who approved them. Raises InputError naming
    the pair where nobody approved it, or approved something else than what is in the run; and where
    the method needs pairs and none is named."""
    by_id = {row["pair"]: row for row in approved}
    pairs = []
    for name in dict.fromkeys(spec.approved):
        if name not in by_id:
            raise InputError(
                f"Nobody approved the pair {name} as it is now: approve it again (`fac approve "
                f"{spec.pairs}`), or leave it out."
            )
        row = dict(by_id[name])
        if why := _unlike(row, spec.pairs, runs):
            raise InputError(
                f"The approval of the pair {name} (feature {row['feature']}) does not count: "
                f"{why}. Look at it and approve it again."
            )
        pairs.append(row)
    if not pairs and METHODS[spec.method].needs_pairs:
        raise InputError(
            f"No approved pair is named, and {spec.method} writes from nothing else: approve pairs "
            f"first."
        )
    features = Counter(row["feature"] for row in pairs)
    if double := [feature for feature, n in features.items() if n > 1]:
        raise InputError(f"Feature {double[0]} has two approved pairs: name one of them.")
    return sorted(pairs, key=lambda row: row["feature"])


def _unlike(row: Mapping[str, Any], pairs_run: str, runs: Runs) -> str:
    """Why an approval is not one of this very pair; "" where it is."""
    content = row["content"]
    if digest(content) != row["seen"]:
        return "what was approved does not have its hash"
    if not _edited_from(runs, row["run"], pairs_run):
        return f"it lies in {row['run']}, which does not come from {pairs_run}"
    of_feature = runs.rows(row["run"], "pairs", [row["feature"]]).to_pylist()
    stored = [pair for pair in of_feature if pair["pair"] == row["pair"]]
    if not stored or stored[0]["status"] != PROPOSED:
        return f"the run {row['run']} has no such pair"
    (pair,) = stored
    if pair_id(pair["feature"], pair["positive"], pair["negative"]) != row["pair"]:
        return "its texts are not those it is named after"
    if any(row[name] != pair[name] for name in pair):
        return "it changed since"
    approved = {"pairs": row["run"], "pair": row["pair"], "feature": row["feature"]}
    for side in ("positive", "negative"):
        approved |= {side: pair[side], f"{side}_peak": round(float(pair[f"{side}_peak"]), 4)}
    if any(content.get(name) != value for name, value in approved.items()):
        return "something else was approved"
    return ""


def _edited_from(runs: Runs, run_id: str, pairs_run: str) -> bool:
    """Whether a run is the pairs run or, by one or more edits, comes from it."""
    while run_id != pairs_run:
        manifest = runs.manifest(run_id)
        if manifest.step != RescoreSpec.step:
            return False
        run_id = manifest.inputs.pairs
    return True
