"""Gaps -> pairs -> (a person's approval) -> candidates -> verdicts -> kept samples.

candidates  what is asked of a writer, what it wrote, and what that fires
pairs       step 1: a text that fires each gap, and its near-twin that does not
filter      what becomes of each candidate, and why
here        step 2 and its baselines, from approved pairs to a dataset of what is kept

Every text is on disk before it counts; every candidate ends as kept or dropped with a reason; and
no text that nobody approved reaches a writer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fac import coverage, datasets, schema
from fac.agreement import wilson
from fac.config import IngestSpec, PairsSpec, SynthesizeSpec, digest
from fac.encoder import Encoder, Reading
from fac.errors import BadRow, InputError
from fac.generator.names import public_name
from fac.generator.writer import Writer
from fac.models import SCAFFOLD
from fac.schema import CANDIDATES, HITS, REJECTED, REPLIES, SAMPLES, TRACES, VERDICTS
from fac.store import decisions
from fac.store.runs import Runs, write_table
from fac.synthesis import candidates as making
from fac.synthesis import filter as verdicts
from fac.synthesis.candidates import Ask, Candidate, Direction, Progress, Row
from fac.synthesis.filter import Verdict, greedy_cover, judge
from fac.synthesis.pairs import make_pairs, pair_id, rescore, same_encoder, user_text

__all__ = [
    "Forecast",
    "first_asked",
    "forecast",
    "greedy_cover",
    "judge",
    "make_pairs",
    "pilot",
    "rescore",
    "synthesize",
    "user_text",
]

PILOT = 3
"""Gaps of a pilot."""


def synthesize(
    spec: SynthesizeSpec,
    *,
    runs: Runs,
    approved: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    writer: Writer,
    progress: Progress,
    direction: Direction | None = None,
) -> str:
    """Writes `spec.candidates` texts for every gap, keeps the best that fire it; the run's id.

    `approved` is what people approved by now (fac.review.approved_pairs); `direction` gives unit
    decoder directions, for a steered writer. The method two-step writes from the approved pairs
    that the spec names. The baselines write for the same gaps without pairs: one-step from the
    explanation and the anchor's spans, random from those of some other feature, unguided from
    nothing; a baseline that names no pairs takes all gaps of the pairs run.

    The run holds candidates, hits, verdicts, replies and the decisions it rests on; what is kept
    is a dataset run too. Raises InputError for a pair that nobody approved as it is, BudgetReached,
    Cancelled or ServiceError after publishing the gaps whose texts are all there; of a baseline
    that names no pairs nothing is published before all of them are.
    """
    work = _Work(spec, runs, approved, encoder, writer, direction)
    run_id = work.run_id
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        texts = making.write(
            work.plan, spec, runs=runs, run_id=run_id, writer=writer, progress=progress
        )
        if texts.stopped is None:
            work.publish(texts, progress)
            return run_id
        lacking = {ask.feature for ask in work.plan if ask.request.key not in texts.written}
        pairs = [row["pair"] for row in work.pairs if row["feature"] not in lacking]
        if not spec.approved:  # then no smaller spec names some of the gaps
            complete = len(work.gaps) - len(lacking)
            raise making.stopped_whole(texts.stopped, complete, len(work.gaps))
        if not pairs:
            raise texts.stopped
        smaller = replace(spec, approved=tuple(pairs))
        part = _Work(smaller, runs, approved, encoder, writer, direction)
        if not runs.find(part.run_id):
            with runs.exclusive(part.run_id):
                part.publish(texts, making.quiet)
        raise making.stopped_after(texts.stopped, f"{len(pairs):,} gaps", part.run_id)


class _Work:
    """One synthesis: what is asked, of whom, and what the answers amount to."""

    def __init__(
        self,
        spec: SynthesizeSpec,
        runs: Runs,
        approved: Sequence[Mapping[str, Any]],
        encoder: Encoder,
        writer: Writer,
        direction: Direction | None,
    ):
        self.spec, self.runs, self.encoder, self.writer = spec, runs, encoder, writer
        manifest = runs.manifest(spec.pairs)
        if manifest["step"] != PairsSpec.step:
            raise InputError(
                f"{spec.pairs} is a {manifest['step']} run: name the run of `fac pairs`; edits of "
                f"its pairs are found by themselves."
            )
        self.about = manifest["facts"]
        self.anchor, self.dataset = self.about["anchor"], self.about["dataset"]
        same_encoder(runs, [self.anchor, self.dataset], encoder)
        self.pairs = approved_as_they_are(spec, runs, approved)
        self.every_gap: list[int] = self.about["features"]
        self.gaps = [row["feature"] for row in self.pairs] or self.every_gap
        self.plan = _planned(spec, runs, self.about, self.pairs, self.gaps, direction)
        self.evaluation = {path: _digest_of(path) for path in spec.evaluation}
        said = [[row["run"], row["seen"], row["approver"]] for row in self.pairs]
        self.decisions = digest(said, [d.uid for row in self.pairs for d in row["decisions"]])
        asked = digest([making.reply_key(ask, spec, writer.identity) for ask in self.plan])
        named = replace(spec, evaluation=tuple(sorted(self.evaluation.values())))
        parts = (spec.pairs, encoder.identity, writer.identity, self.decisions, asked)
        self.run_id = named.run_id(*parts)

    def publish(self, texts: making.Texts, progress: Progress) -> None:
        """Measures what was written, judges it, and writes the runs."""
        spec, runs = self.spec, self.runs
        made = [making.read(ask, spec, texts.written[ask.request.key]) for ask in self.plan]
        made.sort(key=lambda one: one.name)
        chats = [one.messages for one in made]
        score = making.score(
            self.encoder, chats, self.every_gap, threshold=spec.threshold, progress=progress
        )
        leaks = self._leaked(made, progress)
        found, fires, traces = self._judged(made, score.hits, leaks, progress)
        kept = [one for one, verdict in zip(made, found, strict=True) if verdict.kept]
        dataset = self._publish_dataset(kept, found, score.hits)
        facts = {
            "name": self.about["name"],
            "pairs": spec.pairs,
            "anchor": self.anchor,
            "dataset": self.dataset,
            "encoder": self.encoder.identity,
            "method": spec.method,
            "profile": spec.profile,
            "kept_dataset": dataset,
            "decisions": self.decisions,
            "approvers": sorted({row["approver"] for row in self.pairs}),
            "evaluation": {Path(path).name: sha for path, sha in self.evaluation.items()},
            **making.spent(made, texts.seconds, self.writer.identity),
            **_counted(found, self.gaps),
            **self._coverage(fires, score.features),
            "curve": _curve(found),
        }
        facts |= _per_feature(facts)
        folder = runs.scratch(self.run_id)
        said = [d._asdict() for row in self.pairs for d in row["decisions"]]
        for name, table, wanted in (
            ("candidates", making.candidate_table(made, spec), CANDIDATES),
            ("hits", making.hit_table(made, score.hits), HITS),
            ("traces", pa.Table.from_pylist(traces, TRACES), TRACES),
            ("verdicts", pa.Table.from_pylist([v._asdict() for v in found], VERDICTS), VERDICTS),
            ("replies", making.reply_table(made, spec, self.writer.identity), REPLIES),
            ("decisions", pa.Table.from_pylist(said, decisions.TABLE), decisions.TABLE),
        ):
            write_table(folder / f"{name}.parquet", table, wanted)
        # Names alone: a manifest may leave this machine, the paths mean nothing there.
        named = replace(spec, evaluation=tuple(Path(path).name for path in spec.evaluation))
        runs.publish(
            self.run_id, spec=named, inputs=[spec.pairs], facts=facts, seconds=texts.seconds
        )

    # --- verdicts -----------------------------------------------------------------------------

    def _judged(
        self,
        made: Sequence[Candidate],
        hits: Sequence[dict[int, making.Hit]],
        leaks: frozenset[str],
        progress: Progress,
    ) -> tuple[list[Verdict], np.ndarray, list[Row]]:
        """Verdicts in the order of `made`, the features `[n_features]` (bool) that kept samples
        fire, and where they do: rows of schema.TRACES.

        What is to be kept is measured once more, alone: whoever measures the export must find it
        above the threshold, and a peak at the edge may depend on the texts read beside it. The
        lower of both peaks counts, in `hits` too.
        """
        threshold = self.spec.threshold
        place = {one.name: i for i, one in enumerate(made)}
        alone: dict[str, list[Row]] = {}
        fires: dict[str, np.ndarray] = {}
        while True:
            texts = [_text(one, own) for one, own in zip(made, hits, strict=True)]
            active = {
                one.name: frozenset(
                    f for f, hit in own.items() if verdicts.active(hit.peak, threshold)
                )
                for one, own in zip(made, hits, strict=True)
            }
            found = judge(
                texts,
                active,
                threshold=threshold,
                keep=self.spec.keep,
                leaked=leaks,
                only_needed=self.spec.only_needed,
            )
            fresh = [v.candidate for v in found if v.kept and v.candidate not in alone]
            if not fresh:
                stay = sorted(verdict.candidate for verdict in found if verdict.kept)
                kept = np.zeros(self.encoder.n_features, bool)
                for name in stay:
                    kept[fires[name]] = True
                return found, kept, [row for name in stay for row in alone[name]]
            for number, name in enumerate(fresh):
                progress(number, len(fresh), "measuring what is kept, each text alone")
                own = hits[place[name]]
                (reading,) = self.encoder.read([made[place[name]].messages])
                peaks = np.zeros(self.encoder.n_features, np.float32)
                np.maximum.at(peaks, reading.feature, reading.value)
                fires[name] = np.flatnonzero(coverage.is_active(peaks, threshold))
                for feature in [*own]:
                    lower = min(own[feature].peak, float(peaks[feature]))
                    own[feature] = own[feature]._replace(peak=lower)
                    if not lower > 0:
                        del own[feature]
                alone[name] = _traced(name, reading, sorted(own))

    def _leaked(self, made: Sequence[Candidate], progress: Progress) -> frozenset[str]:
        """Candidates that overlap with a sample of the anchor or a text for evaluation."""
        progress(0, 1, "comparing with anchor and evaluation texts")
        leaks = verdicts.Leaks({one.name: one.text for one in made if one.messages})
        anchor = self.runs.manifest(self.anchor)["facts"]["dataset"]
        for batch in self.runs.batches(anchor, "samples"):
            for chat in batch.column("messages").to_pylist():
                for message in chat:
                    leaks.look(message["content"])
        for path in self.spec.evaluation:
            for row in datasets.read_samples(path):
                if isinstance(row, BadRow):
                    raise InputError(f"{Path(path).name}, {row}.")
                for message in row.messages:
                    leaks.look(message["content"])
        return frozenset(leaks.found)

    # --- what it amounts to -------------------------------------------------------------------

    def _coverage(self, kept: np.ndarray, written: np.ndarray) -> Row:
        """FAC of the dataset against the anchor before and after, over every feature that tells
        anything (profile `all`); `written` counts what was not kept, too."""
        facts = self.runs.manifest(self.anchor)["facts"]
        n, spec = facts["n_features"], self.spec
        fired = _support(self.runs, self.anchor, n, -math.inf)
        relevant = coverage.everywhere_relevant(fired, facts["n_samples"])
        anchor = coverage.present(_support(self.runs, self.anchor, n, spec.threshold))
        before = coverage.present(_support(self.runs, self.dataset, n, spec.threshold))
        first = coverage.fac(anchor, before, relevant)
        after = coverage.fac(anchor, before | kept, relevant)
        gained = np.setdiff1d(first.missing, after.missing)
        return {
            "relevant": "all",
            "fac_before": _number(first.fac),
            "fac_after": _number(after.fac),
            "fac_unfiltered": _number(coverage.fac(anchor, before | written, relevant).fac),
            "n_anchor": first.n_anchor,
            "n_missing": first.n_missing,
            "miss_hit_rate": _number(coverage.miss_hit_rate(first.missing, kept)),
            "features_gained": len(gained),
            "gained": gained.tolist(),
            "gained_unasked": np.setdiff1d(gained, self.gaps).tolist(),
            "still_missing": np.setdiff1d(self.gaps, np.flatnonzero(kept)).tolist(),
        }

    def _publish_dataset(
        self,
        kept: Sequence[Candidate],
        found: Sequence[Verdict],
        hits: Sequence[Mapping[int, making.Hit]],
    ) -> str:
        """What is kept as a dataset run, to be measured and compared like any other; its id, or ""
        where nothing is."""
        if not kept:
            return ""
        spec = self.spec
        by_name = {verdict.candidate: verdict for verdict in found}
        approver = {row["pair"]: row["approver"] for row in self.pairs}
        # A dataset may leave this machine; where a server stands means nothing there.
        writes = spec.model if spec.writer == "openai" else self.writer.identity
        generator = public_name(writes)
        rows = []
        for one in kept:
            verdict = by_name[one.name]
            lineage = {
                "synthetic": self.run_id,
                "candidate": one.name,
                "feature": one.ask.feature,
                "activation": verdict.peak,
                "threshold": spec.threshold,
                "encoder": self.encoder.identity,
                "method": spec.method,
                "style": one.ask.style,
                "pair": one.ask.pair,
                "approver": approver.get(one.ask.pair, ""),
                "prompt_hash": one.ask.prompt_hash,
                "generator": generator,
                "writer": spec.writer,
                "seed": making.seed_of(spec),
                **one.extra,
            }
            rows.append(
                {
                    "sample_id": datasets.sample_id(one.messages),
                    "messages": one.messages,
                    "label": one.extra.get("label"),
                    "meta": json.dumps(lineage, ensure_ascii=False, sort_keys=True),
                }
            )
        name = f"{self.about['name']} {spec.method} {self.run_id.rsplit('-', 1)[1][:6]}"
        ingest = IngestSpec(name=name[-80:], source=self.run_id)
        run_id = ingest.run_id(self.run_id)
        if self.runs.find(run_id):
            return run_id
        with self.runs.exclusive(run_id):
            folder = self.runs.scratch(run_id)
            write_table(folder / "samples.parquet", pa.Table.from_pylist(rows, SAMPLES), SAMPLES)
            write_table(folder / "rejected.parquet", REJECTED.empty_table(), REJECTED)
            labels = Counter(row["label"] for row in rows if row["label"] is not None)
            roles = Counter(m["role"] for one in kept for m in one.messages)
            facts = {
                "name": ingest.name,
                "source": self.run_id,
                "n_samples": len(rows),
                "duplicates": 0,
                "n_rejected": 0,
                "kind": "synthetic",
                "roles": dict.fromkeys(schema.ROLES, 0) | dict(roles),
                "labels": dict(labels.most_common()),
            }
            self.runs.publish(run_id, spec=ingest, inputs=[self.run_id], facts=facts, seconds=0.0)
        return run_id


# --- approval -------------------------------------------------------------------------------------


def approved_as_they_are(
    spec: SynthesizeSpec, runs: Runs, approved: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """The pairs that the spec names, by feature, with who approved them.

    Raises InputError naming the pair where nobody approved it, or approved something else than
    what is in the run; and where the method needs pairs and none is named.
    """
    by_id = {row["pair"]: row for row in approved}
    found = []
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
        found.append(row)
    if not found and spec.method == "two-step":
        raise InputError(
            "No approved pair is named, and two-step writes from nothing else: approve pairs first."
        )
    features = Counter(row["feature"] for row in found)
    if double := [feature for feature, n in features.items() if n > 1]:
        raise InputError(f"Feature {double[0]} has two approved pairs: name one of them.")
    return sorted(found, key=lambda row: row["feature"])


def _unlike(row: Mapping[str, Any], pairs_run: str, runs: Runs) -> str:
    """Why an approval is not one of this very pair; "" where it is."""
    content = row["content"]
    if digest(content) != row["seen"]:
        return "what was approved does not have its hash"
    if not _edited_from(runs, row["run"], pairs_run):
        return f"it lies in {row['run']}, which does not come from {pairs_run}"
    stored = [
        one
        for one in runs.rows(row["run"], "pairs", [row["feature"]]).to_pylist()
        if one["pair"] == row["pair"]
    ]
    if not stored or stored[0]["status"] != "proposed":
        return f"the run {row['run']} has no such pair"
    (pair,) = stored
    if pair_id(pair["feature"], pair["positive"], pair["negative"]) != row["pair"]:
        return "its texts are not those it is named after"
    if any(row[name] != pair[name] for name in pair):
        return "it changed since"
    shown = {"pairs": row["run"], "pair": row["pair"], "feature": row["feature"]}
    for side in ("positive", "negative"):
        shown |= {side: pair[side], f"{side}_peak": round(float(pair[f"{side}_peak"]), 4)}
    if any(content.get(name) != value for name, value in shown.items()):
        return "something else was approved"
    return ""


def _edited_from(runs: Runs, run_id: str, pairs_run: str) -> bool:
    """Whether a run is the pairs run or, by one or more edits, comes from it."""
    while run_id != pairs_run:
        manifest = runs.manifest(run_id)
        if manifest["step"] != "rescore":
            return False
        run_id = manifest["inputs"][0]
    return True


# --- parts ----------------------------------------------------------------------------------------


def _text(one: Candidate, hits: Mapping[int, making.Hit]) -> verdicts.Text:
    own = hits.get(one.ask.feature)
    return verdicts.Text(
        candidate=one.name,
        feature=one.ask.feature,
        text=one.text,
        problem=one.problem,
        peak=own.peak if own else 0.0,
        shown=one.ask.shown,
        prescribed=one.prescribed,
    )


def _planned(
    spec: SynthesizeSpec,
    runs: Runs,
    about: Mapping[str, Any],
    pairs: Sequence[Row],
    gaps: Sequence[int],
    direction: Direction | None,
) -> list[Ask]:
    """What is asked for these gaps; `about` is what the pairs run says of itself."""
    if spec.method == "unguided":
        return making.plan_unguided(spec, gaps)
    anchor, told = about["anchor"], about["explanations"]
    push = making.steering(spec, runs, anchor, direction)
    known = making.known_features(runs, anchor, gaps, told)
    if spec.method == "two-step":
        return making.plan_step_2(spec, [making.pair_of(row) for row in pairs], known, push)
    if spec.method == "one-step":
        return making.plan_step_1(spec, known.values(), "one-step", push)
    others = _others(runs, anchor, gaps, about["features"], spec.seed)
    strange = making.known_features(runs, anchor, [*others.values()], told)
    return _instead(making.plan_step_1(spec, strange.values(), "random", push), others)


def _traced(candidate: str, reading: Reading, gaps: Sequence[int]) -> list[Row]:
    """A text that was read alone, token by token for each of the gaps: rows of schema.TRACES."""
    (rendered,) = reading.rendered
    content = np.flatnonzero(rendered.role != SCAFFOLD)
    pieces = rendered.pieces(0, len(rendered.ids))
    tokens = [pieces[position] for position in content.tolist()]
    rows = []
    for gap in gaps:
        values = np.zeros(len(rendered.ids), np.float32)
        own = reading.feature == gap
        values[reading.position[own]] = reading.value[own]
        row = {"candidate": candidate, "feature": gap, "tokens": tokens}
        rows.append({**row, "activations": values[content].tolist()})
    return rows


def _others(
    runs: Runs, anchor: str, gaps: Sequence[int], every_gap: Sequence[int], seed: int
) -> dict[int, int]:
    """For each gap a random feature of the anchor that is no gap; each once if they suffice."""
    facts = runs.manifest(anchor)["facts"]
    fired = _support(runs, anchor, facts["n_features"], -math.inf)
    known = coverage.everywhere_relevant(fired, facts["n_samples"])
    known[[*every_gap]] = False
    pool = np.flatnonzero(known)
    if not len(pool):
        raise InputError("The anchor shows no feature that is not a gap, so none can be random.")
    rng = np.random.default_rng(int(digest("random feature", anchor, seed), 16))
    order = rng.permutation(pool).tolist()
    return {gap: order[i % len(order)] for i, gap in enumerate(gaps)}


def _instead(asks: Sequence[Ask], others: Mapping[int, int]) -> list[Ask]:
    """The requests made for other features as candidates of the gaps they stand for."""
    by_feature: dict[int, list[Ask]] = {}
    for ask in asks:
        by_feature.setdefault(ask.feature, []).append(ask)
    found = []
    for gap, other in others.items():
        for ask in by_feature.get(other, ()):
            method, _, number, style = ask.request.key.split("/")
            key = f"{method}/{gap:06d}/{number}/{style}-of-{other}"
            request = ask.request._replace(key=key)
            found.append(ask._replace(request=request, feature=gap, style=f"{style}-of-{other}"))
    return found


def _support(runs: Runs, measure: str, n_features: int, threshold: float) -> np.ndarray:
    """Samples in which each feature is active: int64 `[n_features]`; a sample counts once whatever
    roles fire."""
    counts = np.zeros(n_features, np.int64)
    carried = np.zeros(0, np.int64)
    for batch in runs.batches(measure, "activations"):
        active = coverage.is_active(batch.column("peak").to_numpy(), threshold)
        feature = batch.column("feature").to_numpy()[active].astype(np.int64)
        sample = batch.column("sample").to_numpy()[active]
        codes = np.unique(np.concatenate([carried, feature << 32 | sample]))
        if not len(codes):
            continue
        # Sorted by feature: only the last one may go on in the next batch.
        unfinished = codes >> 32 == codes[-1] >> 32
        counts += np.bincount(codes[~unfinished] >> 32, minlength=n_features)
        carried = codes[unfinished]
    return counts + np.bincount(carried >> 32, minlength=n_features)


def _counted(found: Sequence[Verdict], gaps: Sequence[int]) -> Row:
    """How many were kept, dropped and why, and how many gaps got a sample of their own."""
    kept = [verdict for verdict in found if verdict.kept]
    passed = sum(verdict.rank >= 0 for verdict in found)
    hit = len({verdict.feature for verdict in kept} & {*gaps})
    low, high = wilson(hit, len(gaps))
    return {
        "kept": len(kept),
        "dropped": dict(Counter(v.reason for v in found if not v.kept).most_common()),
        "accepted": passed,
        "gaps": len(gaps),
        "gaps_hit": hit,
        "hit_rate": hit / len(gaps),
        "hit_rate_low": low,
        "hit_rate_high": high,
    }


def _curve(found: Sequence[Verdict]) -> list[int]:
    """Gaps covered by the first 1, 2, ... kept samples of the greedy set cover: where it is flat,
    more samples of these add nothing."""
    added = sorted((len(v.gains) for v in found if v.kept), reverse=True)
    return np.cumsum(added, dtype=int).tolist()


def _per_feature(facts: Row) -> Row:
    """The ledger per newly covered feature; None where none was."""
    n = facts["features_gained"]
    return {
        f"{name}_per_feature": facts[name] / n if n and facts[name] is not None else None
        for name in ("tokens", "seconds", "cost")
    }


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _digest_of(path: str) -> str:
    """Hash of an evaluation file's content. Raises InputError where it cannot be read."""
    return datasets.read_samples(path).digest(making.quiet)


# --- before paying for all ------------------------------------------------------------------------


def first_asked(
    spec: SynthesizeSpec, *, runs: Runs, approved: Sequence[Mapping[str, Any]]
) -> list[Ask]:
    """What a writer will be asked for the first gap, candidate by candidate, before anybody is.

    No model is needed: how a steered writer is pushed is left out, the words are the same. Raises
    InputError where the spec names a pair that is not `approved` as it is.
    """
    if spec.writer == "steered":
        spec = replace(spec, writer="local")
    about = runs.manifest(spec.pairs)["facts"]
    pairs = approved_as_they_are(spec, runs, approved)
    gaps = [row["feature"] for row in pairs] or about["features"]
    return _planned(spec, runs, about, pairs[:1], gaps[:1], None)


class Forecast(NamedTuple):
    """What a whole synthesis will take, from a few of its gaps."""

    run: str
    """The pilot, a finished run like any other."""

    candidates: int
    accepted: int
    """Of those, texts that passed every check and fire their gap."""

    rate: float
    low: float
    high: float
    """Wilson's 95 % interval of the acceptance rate."""

    hit_rate: float
    """Share of the pilot's gaps that got a sample."""

    tokens_per_kept: float | None
    seconds_per_kept: float | None
    cost_per_kept: float | None
    """None where nothing was kept, or no price is known."""

    tokens: float
    prompt_tokens: float
    seconds: float
    cost: float | None
    """Expected for all gaps; `tokens` are those of the texts."""


def pilot(
    spec: SynthesizeSpec,
    *,
    runs: Runs,
    approved: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    writer: Writer,
    progress: Progress,
    direction: Direction | None = None,
    gaps: int = PILOT,
) -> Forecast:
    """Synthesizes for a few of the approved pairs and says what all of them would take.

    The texts count: the whole run does not write them again.
    """
    if not spec.approved:
        raise InputError("A pilot needs approved pairs: name some.")
    names = pilot_pairs(spec.approved, gaps)
    run_id = synthesize(
        replace(spec, approved=names),
        runs=runs,
        approved=approved,
        encoder=encoder,
        writer=writer,
        progress=progress,
        direction=direction,
    )
    return forecast(runs.manifest(run_id), len({*spec.approved}))


def pilot_pairs(approved: Sequence[str], gaps: int = PILOT) -> tuple[str, ...]:
    """Which of the pairs a pilot takes: always the same, in no order of features or scores."""
    return tuple(sorted({*approved}, key=lambda name: digest("pilot", name))[:gaps])


def forecast(manifest: Mapping[str, Any], gaps: int) -> Forecast:
    """What `gaps` gaps will take if they go as those of a finished run did."""
    facts = manifest["facts"]
    n, kept, share = facts["n_candidates"], facts["kept"], gaps / facts["gaps"]
    low, high = wilson(facts["accepted"], n)

    def per_kept(name: str) -> float | None:
        return facts[name] / kept if kept and facts[name] is not None else None

    return Forecast(
        run=manifest["run"],
        candidates=n,
        accepted=facts["accepted"],
        rate=facts["accepted"] / n,
        low=low,
        high=high,
        hit_rate=facts["hit_rate"],
        tokens_per_kept=per_kept("tokens"),
        seconds_per_kept=per_kept("seconds"),
        cost_per_kept=per_kept("cost"),
        tokens=facts["tokens"] * share,
        prompt_tokens=facts["prompt_tokens"] * share,
        seconds=facts["seconds"] * share,
        cost=facts["cost"] * share if facts["cost"] is not None else None,
    )
