"""Why a row is there: the kept samples of a synthesis with all that led to each.

Lineage is a list of what may leave this machine: names, hashes, numbers. Addresses of servers, keys
and folders are not on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fac.config import WRITERS, SynthesizeSpec
from fac.coverage import is_active
from fac.datasets import sample_id
from fac.errors import InputError
from fac.generator.chat import public_name
from fac.manifest import MeasureFacts, PairsManifest, SynthesisManifest
from fac.schema import Chat
from fac.store.runs import Runs

APPROVAL = pa.struct({"reviewer": pa.string(), "at": pa.string(), "seen": pa.string()})
"""`at` is an ISO time, `seen` the hash of the pair as it was shown."""

PAIR = pa.struct(
    dict.fromkeys(("run", "pair", "origin"), pa.string())
    | dict.fromkeys(("positive_peak", "negative_peak"), pa.float32())
)
"""`run` is the pairs run, or the rescore run of an edited pair."""

FILTER = pa.struct({"threshold": pa.float64(), "keep": pa.int32(), "rank": pa.int32()})
"""activation > threshold, strictly; best kept per gap; place among those that pass, from 0."""

SPAN = pa.struct({"role": pa.string(), "position": pa.int32()})
"""Where a peak is: whose turn, which token of the rendered chat."""

REVIEW = pa.struct({"state": pa.string(), "by": pa.list_(pa.string()), "edit": pa.string()})
"""What people say of the sample, who, and the run that measured an edited text, null otherwise."""

LINEAGE = pa.struct(
    {
        "run": pa.string(),  # of the synthesis
        "candidate": pa.string(),  # in that run
        "sample_id": pa.string(),  # hash of the messages, as in a dataset run
        "feature": pa.int32(),  # the gap it was written for; null where for none
        "encoder": pa.string(),  # model, layer and SAE with their revisions
        "sae": pa.string(),  # its name and the hash of its weights
        "activation": pa.float32(),  # g_i(x) of that feature; null where there is none
        "own_activation": pa.float32(),  # the same on words that stand in no source of the text
        "span": SPAN,
        "gains": pa.list_(pa.int32()),  # gaps that no better kept sample covers
        "families": pa.list_(pa.string()),  # whose gaps it fires, by name; null where not grouped
        "method": pa.string(),  # two-step, or which baseline
        "style": pa.string(),  # how it was asked for
        "pair": PAIR,  # null for baselines
        "approvals": pa.list_(APPROVAL),  # who approved the pair
        "decisions": pa.string(),  # digest of every decision the run was made with
        "prompt_hash": pa.string(),
        "generator": pa.string(),  # the model that wrote it, with its revision where known
        "writer": pa.string(),  # local, steered, openai
        "answered_by": pa.string(),  # who wrote the answer that it ends with; null without one
        "seed": pa.int64(),
        "temperature": pa.float64(),
        "filter": FILTER,
        "review": REVIEW,
    }
)
"""Why a row is there; the same in every format."""


def measured(hit: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a lineage that says what a text fires; `hit` is a row of schema.HITS."""
    if not hit:
        return dict.fromkeys(("activation", "own_activation", "span"))
    span = {name: hit[name] for name in SPAN.names}
    return {"activation": hit["peak"], "own_activation": hit.get("own_peak"), "span": span}


class ExportRow(NamedTuple):
    """A kept sample."""

    messages: Chat
    extra: dict[str, Any]  # what its profile has beside the messages; see schema.CANDIDATES
    lineage: dict[str, Any]


class Provenance(NamedTuple):
    """Everything that led to one row of an export."""

    messages: Chat
    lineage: dict[str, Any]  # as in LINEAGE
    pair: dict[str, Any] | None
    """The pair it was written from, a row of schema.PAIRS; None for baselines."""
    hits: list[dict[str, Any]]  # every gap it fires, strongest first: rows of schema.HITS
    rivals: list[dict[str, Any]]
    """The other texts written for its gap, best first: rows of schema.VERDICTS with `messages`."""
    prompt: Any
    """What its writer was given: messages, or the text that it went on from; None where the run
    does not say."""

    later_prompts: dict[str, Any]
    """The same of its other turns, by what was asked for: answer, message, message-2..."""


class SynthesisRun:
    """A finished synthesis with the runs it came from."""

    def __init__(self, run_id: str, runs: Runs):
        self.run_id, self._runs = run_id, runs
        manifest: SynthesisManifest = runs.manifest(run_id)
        if manifest.step != SynthesizeSpec.step:
            raise InputError(
                f"{run_id} is a {manifest.step} run: only what `fac synthesize` made can be "
                f"exported."
            )
        self.spec, self.facts = manifest.spec, manifest.facts
        self._candidates = {row["candidate"]: row for row in self._rows("candidates")}
        self._verdicts = {row["candidate"]: row for row in self._rows("verdicts")}
        self._hits: dict[str, list[dict[str, Any]]] = {name: [] for name in self._candidates}
        for hit in sorted(self._rows("hits"), key=lambda h: (-h["peak"], h["feature"])):
            self._hits[hit["candidate"]].append(hit)
        self.decisions = self._rows("decisions")
        self._approvals: dict[str, list[dict[str, Any]]] = {}
        for decision in self.decisions:
            if decision["verdict"] == "approve":
                approval = {name: decision[name] for name in APPROVAL.names}
                self._approvals.setdefault(decision["subject"], []).append(approval)
        pairs: PairsManifest = runs.manifest(self.spec.pairs)
        self._anchor = pairs.facts.anchor
        self.anchor: MeasureFacts = runs.manifest(self._anchor).facts
        self.dataset: MeasureFacts = runs.manifest(pairs.facts.dataset).facts
        self.sae: str = runs.manifest(self.anchor.sae_run).facts.name
        self.generator = public_name(
            self.spec.model if WRITERS[self.spec.writer].server else self.facts.writer or ""
        )

    @cached_property
    def _kept_meta(self) -> dict[str, dict[str, Any]]:
        """What the dataset of kept samples says of each, by candidate: who answered, how sure the
        label check is. Empty where that dataset is no longer here."""
        if not self._runs.find(self.facts.kept_dataset):
            return {}
        metas = self._runs.table(self.facts.kept_dataset, "samples", ["meta"])["meta"]
        return {meta["candidate"]: meta for meta in map(json.loads, metas.to_pylist())}

    @property
    def answered_by(self) -> str | None:
        """Who wrote the answers of the samples; None where nobody wrote them apart."""
        writers = filter(None, self.facts.answered_by.split(", "))
        return ", ".join(public_name(each) for each in writers) or None

    def of_anchor(self, chats: Sequence[Chat]) -> frozenset[str] | None:
        """Ids of the chats that are samples of the anchor, word for word; None where its texts are
        not in this workspace."""
        dataset = self._runs.manifest(self._anchor).spec.dataset
        if not self._runs.find(dataset):
            return None
        ids = self._runs.table(dataset, "samples", ["sample_id"])["sample_id"]
        ours = pa.array([sample_id(chat) for chat in chats], pa.string())
        return frozenset(ids.filter(pc.is_in(ids, value_set=ours)).to_pylist())

    def fires(self, candidate: str) -> list[int]:
        """The gaps that a text fires above the threshold of the run."""
        hits = self._hits[candidate]
        return [hit["feature"] for hit in hits if is_active(hit["peak"], self.spec.threshold)]

    def _rows(self, table: str) -> list[dict[str, Any]]:
        return self._runs.table(self.run_id, table).to_pylist()

    def export_rows(self) -> list[ExportRow]:
        """The kept samples, by feature and rank. Raises InputError where there are none."""
        verdicts = [verdict for verdict in self._verdicts.values() if verdict["kept"]]
        if not verdicts:
            raise InputError(
                f"Nothing was kept in {self.run_id}, so there is nothing to export; its verdicts "
                f"say why each text was dropped."
            )
        verdicts.sort(key=lambda v: (v["feature"], v["rank"], v["candidate"]))
        return [self._export_row(verdict) for verdict in verdicts]

    def _export_row(self, verdict: Mapping[str, Any]) -> ExportRow:
        candidate = self._candidates[verdict["candidate"]]
        messages = candidate["messages"]
        feature = candidate["feature"] if candidate["feature"] >= 0 else None
        hits = self._hits[verdict["candidate"]]
        hit = next((hit for hit in hits if hit["feature"] == feature), None)
        pair = self._pair_of(verdict["candidate"])
        subject = f"pair/{pair['run']}/{pair['feature']}" if pair else ""
        lineage = {
            "run": self.run_id,
            "candidate": verdict["candidate"],
            "sample_id": sample_id(messages),
            "feature": feature,
            "encoder": self.anchor.encoder,
            "sae": self.sae,
            **measured(hit),
            "gains": verdict["gains"],
            "families": None,
            "method": self.spec.method,
            "style": candidate["style"],
            "pair": {name: pair[name] for name in PAIR.names} if pair else None,
            "approvals": self._approvals.get(subject, []),
            "decisions": self.facts.decisions,
            "prompt_hash": candidate["prompt_hash"],
            "generator": self.generator,
            "writer": self.spec.writer,
            "answered_by": self._kept_meta.get(verdict["candidate"], {}).get("answered_by"),
            "seed": candidate["seed"],
            "temperature": self.spec.temperature,
            "filter": {
                "threshold": self.spec.threshold,
                "keep": self.spec.keep,
                "rank": verdict["rank"],
            },
            "review": {"state": "undecided", "by": [], "edit": None},
        }
        extra = json.loads(candidate["extra"])
        if "label_probability" in (kept := self._kept_meta.get(verdict["candidate"], {})):
            extra["label_probability"] = kept["label_probability"]
        return ExportRow(messages, extra, lineage)

    def _pair_of(self, candidate: str) -> dict[str, Any] | None:
        """The pair a candidate was written from, with the run it lies in; None for baselines."""
        name = self._candidates[candidate]["pair"]
        if not name:
            return None
        if name not in self._pairs:
            raise InputError(
                f"Nobody's approval of the pair {name!r} is among the decisions of {self.run_id}, "
                f"yet {candidate} was written from it: the run is damaged, synthesize again."
            )
        return self._pairs[name]

    @cached_property
    def _pairs(self) -> dict[str, dict[str, Any]]:
        """The pairs that decisions of this run are about, by id."""
        runs = sorted({decision["subject"].split("/")[1] for decision in self.decisions})
        return {
            row["pair"]: {"run": run, **row}
            for run in runs
            for row in self._runs.table(run, "pairs").to_pylist()
        }

    def provenance(self, row: ExportRow) -> Provenance:
        """What led to a row."""
        candidate = row.lineage["candidate"]
        feature = self._candidates[candidate]["feature"]
        rivals = [
            {**verdict, "messages": self._candidates[name]["messages"]}
            for name, verdict in self._verdicts.items()
            if name != candidate and self._candidates[name]["feature"] == feature
        ]
        rivals.sort(key=lambda verdict: (-verdict["peak"], verdict["candidate"]))
        prompts = {reply["about"]: reply["prompt"] for reply in self._rows("replies")}
        prompt = json.loads(prompts[candidate]) if candidate in prompts else None
        later = {
            about.removeprefix(f"{candidate}/"): json.loads(text)
            for about, text in sorted(prompts.items())
            if about.startswith(f"{candidate}/")
        }
        pair, hits = self._pair_of(candidate), self._hits[candidate]
        return Provenance(row.messages, row.lineage, pair, hits, rivals, prompt, later)


def provenance(run_id: str, row: int | str, *, runs: Runs) -> Provenance:
    """What led to a kept sample: its number from 0 by feature and rank, or its candidate. Every row
    of an export names its run and its candidate, so the file is enough to ask. Raises InputError
    for a row that the run did not keep."""
    synthesis = SynthesisRun(run_id, runs)
    rows = synthesis.export_rows()
    candidates = [row.lineage["candidate"] for row in rows]
    number = candidates.index(row) if row in candidates else row
    if isinstance(number, str) or not 0 <= number < len(rows):
        raise InputError(
            f"The export of {run_id} has the rows 0 to {len(rows) - 1}, none of them is {row!r}."
        )
    return synthesis.provenance(rows[number])
