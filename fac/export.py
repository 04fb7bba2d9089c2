"""A step: the kept samples of a synthesis as a file or folder for training, row by row with the
reason why it is there, and a dataset card.

Lineage is a list of what may leave this machine: names, hashes, numbers. Addresses of servers, keys
and folders are not on it. Before an export gets its name it is read back as `ingest` would read it,
so it can be measured again: nothing may be rejected, and no text may have changed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fac.config import WRITERS, SynthesizeSpec
from fac.datasets import formats_in_order, in_a_row, json_line, read_samples, sample_id
from fac.errors import BadRow, InputError, disk_room
from fac.generator.chat import public_name
from fac.manifest import MeasureFacts, PairsManifest, SynthesisManifest
from fac.schema import CHAT_TYPE, Chat
from fac.store.runs import Runs

FORMS = ("chat", "preference", "classification", "choice")
"""Columns: messages; prompt, chosen and rejected; text and label; question and two answers."""

FORM_OF = {"toxicity": "classification", "preference": "preference", "choice": "choice"}
"""The form of a profile's samples; of every other profile, chat."""

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

LINEAGE = pa.struct(
    {
        "run": pa.string(),  # of the synthesis
        "candidate": pa.string(),  # in that run
        "sample_id": pa.string(),  # hash of the messages, as in a dataset run
        "feature": pa.int32(),  # the gap it was written for; null where for none
        "encoder": pa.string(),  # model, layer and SAE with their revisions
        "sae": pa.string(),  # its name and the hash of its weights
        "activation": pa.float32(),  # g_i(x) of that feature; null where there is none
        "span": SPAN,
        "gains": pa.list_(pa.int32()),  # gaps that no better kept sample covers
        "method": pa.string(),  # two-step, or which baseline
        "style": pa.string(),  # how it was asked for
        "pair": PAIR,  # null for baselines
        "approvals": pa.list_(APPROVAL),  # who approved the pair
        "decisions": pa.string(),  # digest of every decision the run was made with
        "prompt_hash": pa.string(),
        "generator": pa.string(),  # the model that wrote it, with its revision where known
        "writer": pa.string(),  # local, steered, openai
        "seed": pa.int64(),
        "temperature": pa.float64(),
        "filter": FILTER,
    }
)
"""Why a row is there; the same in every format."""


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
        self.anchor: MeasureFacts = runs.manifest(pairs.facts.anchor).facts
        self.dataset: MeasureFacts = runs.manifest(pairs.facts.dataset).facts
        self.sae: str = runs.manifest(self.anchor.sae_run).facts.name
        self.generator = public_name(
            self.spec.model if WRITERS[self.spec.writer].server else self.facts.writer or ""
        )

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
            "activation": hit["peak"] if hit else None,
            "span": {name: hit[name] for name in SPAN.names} if hit else None,
            "gains": verdict["gains"],
            "method": self.spec.method,
            "style": candidate["style"],
            "pair": {name: pair[name] for name in PAIR.names} if pair else None,
            "approvals": self._approvals.get(subject, []),
            "decisions": self.facts.decisions,
            "prompt_hash": candidate["prompt_hash"],
            "generator": self.generator,
            "writer": self.spec.writer,
            "seed": candidate["seed"],
            "temperature": self.spec.temperature,
            "filter": {
                "threshold": self.spec.threshold,
                "keep": self.spec.keep,
                "rank": verdict["rank"],
            },
        }
        return ExportRow(messages, json.loads(candidate["extra"]), lineage)

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
        pair, hits = self._pair_of(candidate), self._hits[candidate]
        return Provenance(row.messages, row.lineage, pair, hits, rivals, prompt)


def export_table(samples: Sequence[ExportRow], form: str) -> pa.Table:
    """The export, one row per sample. Raises InputError where one cannot have the form."""
    rows = [{**_columns(sample, form), "lineage": sample.lineage} for sample in samples]
    columns = [
        pa.field(name, CHAT_TYPE if isinstance(value, list) else pa.string())
        for name, value in rows[0].items()
        if name != "lineage"
    ]
    return pa.Table.from_pylist(rows, pa.schema([*columns, pa.field("lineage", LINEAGE)]))


def _columns(sample: ExportRow, form: str) -> dict[str, Any]:
    messages, extra, _ = sample

    def unlike(has: str) -> InputError:
        return InputError(
            f"The sample {sample.lineage['candidate']} has {has}, so it cannot be a row of the "
            f"form {form}: export the form chat."
        )

    if form == "chat":
        return {"messages": messages, **({"label": extra["label"]} if "label" in extra else {})}
    if form == "preference":
        *prompt, chosen = messages
        rejected = extra.get("rejected", [])
        if not prompt or rejected[:-1] != prompt:
            raise unlike("no two answers to one prompt")
        return {"prompt": prompt, "chosen": [chosen], "rejected": rejected[-1:]}
    if form == "classification" and "label" not in extra:
        raise unlike("no label")
    if form == "choice" and "choices" not in extra:
        raise unlike("no two answers to choose from")
    if [message["role"] for message in messages] != ["user"]:
        raise unlike("more than one message")
    text = messages[0]["content"]
    if form == "classification":
        return {"text": text, "label": extra["label"]}
    return {  # of the A/B questions that steering is tested with (Perez et al. 2023)
        "question": text,
        "answer_matching_behavior": extra["choices"]["matching"],
        "answer_not_matching_behavior": extra["choices"]["other"],
    }


MADE_BY = "fac-explorer"  # a tag of the card, by which a folder is known as an export

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


COLUMN_NOTES = {
    "messages": "the chat, as `role` and `content`",
    "prompt": "the chat up to the answer",
    "chosen": "the good answer",
    "rejected": "the worse answer",
    "text": "the user's message",
    "label": "its class",
    "question": "the question with both answers",
    "answer_matching_behavior": "the answer that shows the behaviour",
    "answer_not_matching_behavior": "the one that does not",
}

LINEAGE_NOTES = {
    "run": "the synthesis, and `candidate` the text in it",
    "sample_id": "hash of the messages",
    "feature": "the feature it was written for",
    "encoder": "model, layer and SAE with their revisions; `sae` names the SAE and its hash",
    "activation": "the feature's peak, measured on this text; `span` says on which token",
    "gains": "missing features that no better sample of this dataset fires",
    "pair": "the contrastive pair it was written from, with both measured peaks",
    "approvals": "who approved that pair, when, and the hash of what they saw",
    "decisions": "digest of all decisions the run was made with",
    "prompt_hash": "of the prompt; with `generator`, `writer`, `seed`, `temperature`, `style`",
    "filter": "threshold, best kept per feature, and the row's place among those that passed",
}


def dataset_card(synthesis: SynthesisRun, table: pa.Table, form: str, data: str) -> str:
    """The dataset card: YAML for the hub, then what a reader needs to know."""
    facts, spec = synthesis.facts, synthesis.spec
    name = f"{facts.name} {spec.method}"
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in sorted(facts.dropped.items()))
    people = sorted({d["reviewer"] for d in synthesis.decisions if d["verdict"] == "approve"})
    size = next((name for most, name in SIZES if len(table) < most), "n>1M")
    task = "text-classification" if form == "classification" else "text-generation"
    front = {
        "pretty_name": name,
        "tags": ["synthetic", "sparse-autoencoder", "feature-activation-coverage", MADE_BY],
        "task_categories": [task],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": data}]}],
    }
    properties = {
        "method": spec.method,
        "generator": f"{synthesis.generator} ({spec.writer})",
        "encoder": synthesis.anchor.encoder,
        "SAE": synthesis.sae,
        "anchor": synthesis.anchor.name,
        "dataset with the gaps": synthesis.dataset.name,
        "profile": spec.profile,
        "threshold": spec.threshold,
        "tokens that count": facts.role,
        "relevant features": facts.relevant,
        "anchor samples that show a gap, at least": facts.min_support,
        "candidates per gap": spec.candidates,
        "kept per gap": spec.keep,
        "seed": spec.seed,
        "temperature": spec.temperature,
        "candidates dropped": dropped or "none",
        "own-feature hit rate": facts.hit_rate,
        "FAC before": facts.fac_before,
        "FAC after": facts.fac_after,
        "pairs approved by": ", ".join(people) or "nobody (a baseline needs no pairs)",
        "decisions": facts.decisions,
        "run": synthesis.run_id,
    }
    yaml = "\n".join(f"{key}: {json_line(value)}" for key, value in front.items())
    notes = [f"- `{name}`: {COLUMN_NOTES[name]}" for name in table.column_names[:-1]]
    notes += [f"- `lineage.{name}`: {note}" for name, note in LINEAGE_NOTES.items()]
    return "\n".join(
        (
            f"---\n{yaml}\n---\n",
            f"# {_in_words(name)}\n",
            f"{len(table):,} samples written by a language model for features of a sparse "
            f"autoencoder that a dataset did not show. Each was measured: the activation in its "
            f"lineage is above the threshold.\n",
            "## How it was made\n",
            "| | |\n|---|---|",
            *(f"| {name} | {_in_words(value)} |" for name, value in properties.items()),
            "\n## Columns\n",
            *notes,
            "\n## To check it\n",
            f"```sh\npython -m fac ingest {data} --name check\npython -m fac measure check\n```\n",
            "Measured with the same model, layer and SAE, every row fires its feature above the "
            "threshold. Nobody checked what the texts claim; they are made up.\n",
        )
    )


def _in_words(value: object) -> str:
    """A value as plain text in a Markdown table: names come from people and datasets."""
    text = "undefined" if value is None else str(value)
    text = f"{value:.4g}" if isinstance(value, float) else text
    return re.sub(r"([\\`*_{}\[\]()<>#|!~])", r"\\\1", " ".join(text.split()))


EXPORT_FORMATS = {name: format.export for name, format in formats_in_order() if format.export}
"""How samples are written, by the format's name."""

CARD = "README.md"


class Exported(NamedTuple):
    """What was written."""

    rows: int
    form: str  # one of FORMS
    path: Path  # the file, or the folder
    card: Path


def export(
    run_id: str, out: Path, *, runs: Runs, format: str = "jsonl", form: str = ""
) -> Exported:
    """Writes the kept samples of a synthesis to `out`, by feature and then best first, and a card.
    The card lies in the folder, or beside the file as NAME.card.md. `form` is one of FORMS; ""
    takes what the run's profile says. The same run gives the same bytes; whatever is wrong, `out`
    stays as it was. Raises InputError for a run without kept samples, samples that do not have the
    form, and an `out` that cannot be written or holds something else."""
    synthesis = SynthesisRun(run_id, runs)
    form = form or FORM_OF.get(synthesis.spec.profile, "chat")
    for choice, choices in ((format, EXPORT_FORMATS), (form, FORMS)):
        if choice not in choices:
            raise InputError(f"An export is one of {', '.join(choices)}; got {choice!r}.")
    rows = synthesis.export_rows()
    table = export_table(rows, form)
    write, data_file = EXPORT_FORMATS[format]
    if data_file:
        _must_be_an_export(out)
    elif out.is_dir():
        folders = in_a_row([name for name, written in EXPORT_FORMATS.items() if written.data_file])
        raise InputError(f"{str(out)!r} is a folder: name a file, or give --format {folders}.")
    with _temporary_folder(out) as folder:
        whole = folder / out.name
        data = whole / data_file
        data.parent.mkdir(parents=True, exist_ok=True)
        write(table, data)
        _read_back(data, rows)
        text = dataset_card(synthesis, table, form, data_file or out.name)
        card = whole / CARD if data_file else folder / f"{out.stem}.card.md"
        card.write_text(text, encoding="utf-8")
        if data_file:
            if out.exists():
                out.rename(folder / "before")
            whole.rename(out)
            return Exported(len(rows), form, out, out / CARD)
        whole.replace(out)
        return Exported(len(rows), form, out, card.replace(out.with_name(card.name)))


def provenance(run_id: str, row: int | str, *, runs: Runs) -> Provenance:
    """What led to a row of the run's export: its number from 0, or its candidate. Every row names
    its run and its candidate, so an exported file is enough to ask. Raises InputError for a row
    that the export does not have."""
    synthesis = SynthesisRun(run_id, runs)
    rows = synthesis.export_rows()
    candidates = [row.lineage["candidate"] for row in rows]
    number = candidates.index(row) if row in candidates else row
    if isinstance(number, str) or not 0 <= number < len(rows):
        raise InputError(
            f"The export of {run_id} has the rows 0 to {len(rows) - 1}, none of them is {row!r}."
        )
    return synthesis.provenance(rows[number])


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards."""
    if not out.name or out.name == "..":
        raise InputError(f"{str(out)!r} is no name for an export: give a file or a new folder.")
    try:
        with disk_room(out.name):
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
                yield Path(folder)
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror}.") from error


def _must_be_an_export(out: Path) -> None:
    """Raises InputError where `out` is something else than an export, which is not replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    card = out / CARD
    tagged = card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")
    if not tagged or {path.name for path in out.iterdir()} != {CARD, "data"}:
        raise InputError(f"{str(out)!r} holds something else than an export: name a new folder.")


def _read_back(path: Path, rows: Sequence[ExportRow]) -> None:
    """Raises InputError where `ingest` would refuse a row or find another text in it."""
    for row, exported in zip(read_samples(path), rows, strict=True):
        name = exported.lineage["candidate"]
        if isinstance(row, BadRow):
            raise InputError(
                f"The text of {name} can be no sample ({row.reason}): synthesize with another seed."
            )
        if row.sample_id != exported.lineage["sample_id"]:
            raise InputError(
                f"The text of {name} would be read back as {row.messages!r:.80}: choose the form "
                f"chat."
            )
