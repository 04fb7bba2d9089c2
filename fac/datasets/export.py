"""Text out: the kept samples of a synthesis as a file or folder for training, row by row with the
reason why it is there, and a dataset card.

Owns: the columns of an export, its lineage, the card.
Does not own: what is kept (`fac.synthesis`), where runs lie (the `runs` it is given).

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
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from fac.datasets.layouts import sample_id
from fac.errors import BadRow, InputError, disk_room
from fac.schema import CHAT_TYPE, Chat

FORMATS = ("jsonl", "parquet", "hf")
"""A file of JSON lines, a Parquet file, a folder as the Hugging Face hub has them."""

FORMS = ("chat", "preference", "classification", "choice")
"""Columns: messages; prompt, chosen and rejected; text and label; question and two answers."""

FORM_OF = {"toxicity": "classification", "preference": "preference", "choice": "choice"}
"""The form of a profile's samples; of every other profile, chat."""

CARD = "README.md"
MADE_BY = "fac-explorer"
"""A tag of the card, by which a folder is known as an export."""

HF_FILE = "data/train-00000-of-00001.parquet"

APPROVAL = pa.struct(
    [
        ("reviewer", pa.string()),
        ("at", pa.string()),  # ISO time
        ("seen", pa.string()),  # hash of the pair as it was shown
    ]
)

PAIR = pa.struct(
    [
        ("run", pa.string()),  # the pairs run, or the rescore run of an edited pair
        ("pair", pa.string()),
        ("origin", pa.string()),
        ("positive_peak", pa.float32()),
        ("negative_peak", pa.float32()),
    ]
)

LINEAGE = pa.struct(
    [
        ("run", pa.string()),  # of the synthesis
        ("candidate", pa.string()),  # in that run
        ("sample_id", pa.string()),  # hash of the messages, as in a dataset run
        ("feature", pa.int32()),  # the gap it was written for; null where for none
        ("encoder", pa.string()),  # model, layer and SAE with their revisions
        ("sae", pa.string()),  # its name and the hash of its weights
        ("activation", pa.float32()),  # g_i(x) of that feature; null where there is none
        (
            "span",
            pa.struct([("role", pa.string()), ("position", pa.int32())]),
        ),  # where its peak is: whose turn, which token of the rendered chat
        ("gains", pa.list_(pa.int32())),  # gaps that no better kept sample covers
        ("method", pa.string()),  # two-step, or which baseline
        ("style", pa.string()),  # how it was asked for
        ("pair", PAIR),  # null for baselines
        ("approvals", pa.list_(APPROVAL)),  # who approved the pair
        ("decisions", pa.string()),  # digest of every decision the run was made with
        ("prompt_hash", pa.string()),
        ("generator", pa.string()),  # the model that wrote it, with its revision where known
        ("writer", pa.string()),  # local, steered, openai
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        (
            "filter",
            pa.struct(
                [
                    ("threshold", pa.float64()),  # activation > threshold, strictly
                    ("keep", pa.int32()),  # best kept per gap
                    ("rank", pa.int32()),  # among its gap's candidates that pass, from 0
                ]
            ),
        ),
    ]
)
"""Why a row is there; the same in every format."""


class FinishedRuns(Protocol):
    """The part of the run store that exporting needs."""

    def manifest(self, run_id: str) -> dict[str, Any]: ...
    def table(self, run_id: str, name: str) -> pa.Table: ...


class Exported(NamedTuple):
    """What was written."""

    rows: int
    form: str
    """One of FORMS."""
    path: Path
    """The file, or the folder."""
    card: Path


class Why(NamedTuple):
    """Everything that led to one row of an export."""

    messages: Chat
    lineage: dict[str, Any]
    """As in LINEAGE."""
    pair: dict[str, Any] | None
    """The pair it was written from, a row of schema.PAIRS; None for baselines."""
    hits: list[dict[str, Any]]
    """Every gap it fires, strongest first: rows of schema.HITS."""
    rivals: list[dict[str, Any]]
    """The other texts written for its gap, best first: rows of schema.VERDICTS with `messages`."""
    asked: Any
    """What its writer was given: messages, or the text that it went on from; None where the run
    does not say."""


def export(
    run_id: str, out: Path, *, runs: FinishedRuns, format: str = "jsonl", form: str = ""
) -> Exported:
    """Writes the kept samples of a synthesis to `out`, by feature and then best first, and a card.

    The card lies in the folder, or beside the file as NAME.card.md. `form` is one of FORMS; ""
    takes what the run's profile says. The same run gives the same bytes; whatever is wrong, `out`
    stays as it was. Raises InputError for a run without kept samples, samples that do not have the
    form, and an `out` that cannot be written or holds something else.
    """
    made = _Synthesis(run_id, runs)
    form = form or FORM_OF.get(made.spec["profile"], "chat")
    for asked, known in ((format, FORMATS), (form, FORMS)):
        if asked not in known:
            raise InputError(f"An export is one of {', '.join(known)}; got {asked!r}.")
    kept = made.kept()
    table = _table(kept, form)
    if format == "hf":
        _must_be_ours(out)
    elif out.is_dir():
        raise InputError(f"{str(out)!r} is a folder: name a file, or give --format hf.")
    with _beside(out) as folder:
        whole = folder / out.name
        data = whole / HF_FILE if format == "hf" else whole
        data.parent.mkdir(parents=True, exist_ok=True)
        if format == "jsonl":
            data.write_text(
                "".join(f"{_on_a_line(row)}\n" for row in table.to_pylist()), encoding="utf-8"
            )
        else:
            pq.write_table(table, data, compression="zstd")
        _read_back(data, kept)
        text = _card(made, table, form, HF_FILE if format == "hf" else out.name)
        card = whole / CARD if format == "hf" else folder / f"{out.stem}.card.md"
        card.write_text(text, encoding="utf-8")
        if format == "hf":
            if out.exists():
                out.rename(folder / "before")
            whole.rename(out)
            return Exported(len(kept), form, out, out / CARD)
        whole.replace(out)
        return Exported(len(kept), form, out, card.replace(out.with_name(card.name)))


def why(run_id: str, row: int | str, *, runs: FinishedRuns) -> Why:
    """What led to a row of the run's export: its number from 0, or its candidate.

    Every row names its run and its candidate, so an exported file is enough to ask. Raises
    InputError for a row that the export does not have.
    """
    made = _Synthesis(run_id, runs)
    kept = made.kept()
    names = [sample.lineage["candidate"] for sample in kept]
    number = names.index(row) if row in names else row
    if isinstance(number, str) or not 0 <= number < len(kept):
        raise InputError(
            f"The export of {run_id} has the rows 0 to {len(kept) - 1}, none of them is {row!r}."
        )
    messages, _, lineage = kept[number]
    return Why(
        messages=messages,
        lineage=lineage,
        pair=made.pair_of(lineage["candidate"]),
        hits=made.hits[lineage["candidate"]],
        rivals=made.rivals(lineage["candidate"]),
        asked=made.asked(lineage["candidate"]),
    )


# ---- what a run says ----------------------------------------------------------------------------


class _Sample(NamedTuple):
    messages: Chat
    extra: dict[str, Any]
    """What its profile has beside the messages; see schema.CANDIDATES."""
    lineage: dict[str, Any]


class _Synthesis:
    """A finished synthesis with the runs it came from."""

    def __init__(self, run_id: str, runs: FinishedRuns):
        self.run_id, self._runs = run_id, runs
        self.manifest = runs.manifest(run_id)
        if self.manifest["step"] != "synthetic":
            raise InputError(
                f"{run_id} is a {self.manifest['step']} run: only what `fac synthesize` made can "
                f"be exported."
            )
        self.spec, self.facts = self.manifest["spec"], self.manifest["facts"]
        self._candidates = {row["candidate"]: row for row in self._rows("candidates")}
        self._verdicts = {row["candidate"]: row for row in self._rows("verdicts")}
        self.hits: dict[str, list[dict[str, Any]]] = {name: [] for name in self._candidates}
        for hit in sorted(self._rows("hits"), key=lambda h: (-h["peak"], h["feature"])):
            self.hits[hit["candidate"]].append(hit)
        self.decisions = self._rows("decisions")
        self._said: dict[str, list[dict[str, Any]]] = {}
        for decision in self.decisions:
            self._said.setdefault(decision["subject"], []).append(decision)
        about = runs.manifest(self.spec["pairs"])["facts"]
        self.anchor, self.dataset = (runs.manifest(about[side]) for side in ("anchor", "dataset"))
        self.sae = runs.manifest(self.anchor["facts"]["sae_run"])["facts"]["name"]
        self.generator = public_name(
            self.spec["model"] if self.spec["writer"] == "openai" else self.facts["writer"]
        )

    def _rows(self, table: str) -> list[dict[str, Any]]:
        return self._runs.table(self.run_id, table).to_pylist()

    def kept(self) -> list[_Sample]:
        """The kept samples, by feature and rank. Raises InputError where there are none."""
        kept = [verdict for verdict in self._verdicts.values() if verdict["kept"]]
        if not kept:
            raise InputError(
                f"Nothing was kept in {self.run_id}, so there is nothing to export; its verdicts "
                f"say why each text was dropped."
            )
        kept.sort(key=lambda v: (v["feature"], v["rank"], v["candidate"]))
        return [self._sample(verdict) for verdict in kept]

    def _sample(self, verdict: Mapping[str, Any]) -> _Sample:
        candidate = self._candidates[verdict["candidate"]]
        messages = _chat(candidate["messages"])
        feature = candidate["feature"] if candidate["feature"] >= 0 else None
        hits = self.hits[verdict["candidate"]]
        own = next((hit for hit in hits if hit["feature"] == feature), None)
        pair = self.pair_of(verdict["candidate"])
        lineage = {
            "run": self.run_id,
            "candidate": verdict["candidate"],
            "sample_id": sample_id(messages),
            "feature": feature,
            "encoder": self.anchor["facts"]["encoder"],
            "sae": self.sae,
            "activation": own["peak"] if own else None,
            "span": {name: own[name] for name in ("role", "position")} if own else None,
            "gains": verdict["gains"],
            "method": self.spec["method"],
            "style": candidate["style"],
            "pair": {name: pair[name] for name in PAIR.names} if pair else None,
            "approvals": self._approvals(pair),
            "decisions": self.facts["decisions"],
            "prompt_hash": candidate["prompt_hash"],
            "generator": self.generator,
            "writer": self.spec["writer"],
            "seed": candidate["seed"],
            "temperature": self.spec["temperature"],
            "filter": {
                "threshold": self.spec["threshold"],
                "keep": self.spec["keep"],
                "rank": verdict["rank"],
            },
        }
        return _Sample(messages, json.loads(candidate["extra"]), lineage)

    def pair_of(self, candidate: str) -> dict[str, Any] | None:
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
        about = {subject.split("/")[1] for subject in self._said}
        rows = {run: self._runs.table(run, "pairs").to_pylist() for run in sorted(about)}
        return {row["pair"]: {"run": run, **row} for run in rows for row in rows[run]}

    def _approvals(self, pair: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        if pair is None:
            return []
        said = self._said[f"pair/{pair['run']}/{pair['feature']}"]
        return [{n: d[n] for n in APPROVAL.names} for d in said if d["verdict"] == "approve"]

    def rivals(self, candidate: str) -> list[dict[str, Any]]:
        """Verdicts on the other candidates for the same gap, strongest first, with their texts."""
        feature = self._candidates[candidate]["feature"]
        others = [
            {**verdict, "messages": _chat(self._candidates[name]["messages"])}
            for name, verdict in self._verdicts.items()
            if name != candidate and self._candidates[name]["feature"] == feature
        ]
        return sorted(others, key=lambda v: (-v["peak"], v["candidate"]))

    def asked(self, candidate: str) -> Any:
        """What was asked for the text, as JSON has it."""
        told = {row["about"]: row["prompt"] for row in self._rows("replies")}
        return json.loads(told[candidate]) if candidate in told else None


def _chat(messages: Sequence[Mapping[str, str]]) -> Chat:
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def public_name(name: str) -> str:
    """A model's name as it may leave this machine: no address of a server, no folder."""
    name = re.sub(r"\s*(\bat\s+)?\bhttps?://\S+", "", name)
    return re.sub(r"(?<!\S)(?:[A-Za-z]:)?[/~\\][^\s@]*[/\\]", "", name)


# ---- columns ------------------------------------------------------------------------------------


def _table(kept: Sequence[_Sample], form: str) -> pa.Table:
    """The export, one row per sample."""
    rows = [_COLUMNS[form](sample) for sample in kept]
    fields = [
        pa.field(name, CHAT_TYPE if isinstance(value, list) else pa.string())
        for name, value in rows[0].items()
    ]
    told = [{**row, "lineage": s.lineage} for row, s in zip(rows, kept, strict=True)]
    return pa.Table.from_pylist(told, pa.schema([*fields, pa.field("lineage", LINEAGE)]))


def _as_chat(sample: _Sample) -> dict[str, Any]:
    labels = {"label": sample.extra["label"]} if "label" in sample.extra else {}
    return {"messages": sample.messages, **labels}


def _as_preference(sample: _Sample) -> dict[str, Any]:
    rejected = _chat(sample.extra.get("rejected", []))
    *prompt, chosen = sample.messages
    if not prompt or rejected[:-1] != prompt:
        raise _unlike(sample, "preference", "no two answers to one prompt")
    return {"prompt": prompt, "chosen": [chosen], "rejected": rejected[-1:]}


def _as_classification(sample: _Sample) -> dict[str, Any]:
    if "label" not in sample.extra:
        raise _unlike(sample, "classification", "no label")
    return {"text": _only_text(sample, "classification"), "label": sample.extra["label"]}


def _as_choice(sample: _Sample) -> dict[str, Any]:
    """The columns of the A/B questions that steering is tested with (Perez et al. 2023)."""
    if "choices" not in sample.extra:
        raise _unlike(sample, "choice", "no two answers to choose from")
    choices = sample.extra["choices"]
    return {
        "question": _only_text(sample, "choice"),
        "answer_matching_behavior": choices["matching"],
        "answer_not_matching_behavior": choices["other"],
    }


_COLUMNS = {
    "chat": _as_chat,
    "preference": _as_preference,
    "classification": _as_classification,
    "choice": _as_choice,
}


def _only_text(sample: _Sample, form: str) -> str:
    if len(sample.messages) != 1 or sample.messages[0]["role"] != "user":
        raise _unlike(sample, form, "more than one message")
    return sample.messages[0]["content"]


def _unlike(sample: _Sample, form: str, has: str) -> InputError:
    name = sample.lineage["candidate"]
    return InputError(
        f"The sample {name} has {has}, so it cannot be a row of the form {form}: "
        f"export the form chat."
    )


# ---- files --------------------------------------------------------------------------------------

# Line ends to some readers, which would cut a JSON line in two; YAML takes no bare U+007F.
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x7f\x85\u2028\u2029"})


def _on_a_line(value: object) -> str:
    """JSON without any sign that some reader ends a line at; YAML reads it as well."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
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


def _must_be_ours(out: Path) -> None:
    """Raises InputError where `out` is something else than an export, which is not replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    card = out / CARD
    ours = card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")
    if not ours or {path.name for path in out.iterdir()} != {CARD, "data"}:
        raise InputError(f"{str(out)!r} holds something else than an export: name a new folder.")


def _read_back(path: Path, kept: Sequence[_Sample]) -> None:
    """Raises InputError where `ingest` would refuse a row or find another text in it."""
    from fac.datasets import read_samples  # where reading lives, which re-exports this module

    for row, sample in zip(read_samples(path), kept, strict=True):
        name = sample.lineage["candidate"]
        if isinstance(row, BadRow):
            raise InputError(
                f"The text of {name} can be no sample ({row.reason}): synthesize with another seed."
            )
        if row.sample_id != sample.lineage["sample_id"]:
            raise InputError(
                f"The text of {name} would be read back as {row.messages!r:.80}: choose the form "
                f"chat."
            )


# ---- the card -----------------------------------------------------------------------------------

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


def _card(made: _Synthesis, table: pa.Table, form: str, data: str) -> str:
    """The dataset card: YAML for the hub, then what a reader needs to know."""
    facts, spec = made.facts, made.spec
    name = f"{facts['name']} {spec['method']}"
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in sorted(facts["dropped"].items()))
    people = sorted({d["reviewer"] for d in made.decisions if d["verdict"] == "approve"})
    size = next((name for most, name in SIZES if len(table) < most), "n>1M")
    front = {
        "pretty_name": name,
        "tags": ["synthetic", "sparse-autoencoder", "feature-activation-coverage", MADE_BY],
        "task_categories": [
            "text-classification" if form == "classification" else "text-generation"
        ],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": data}]}],
    }
    told = {
        "method": spec["method"],
        "generator": f"{made.generator} ({spec['writer']})",
        "encoder": made.anchor["facts"]["encoder"],
        "SAE": made.sae,
        "anchor": made.anchor["facts"]["name"],
        "dataset with the gaps": made.dataset["facts"]["name"],
        "profile": spec["profile"],
        "threshold": spec["threshold"],
        "candidates per gap": spec["candidates"],
        "kept per gap": spec["keep"],
        "seed": spec["seed"],
        "temperature": spec["temperature"],
        "candidates dropped": dropped or "none",
        "own-feature hit rate": facts["hit_rate"],
        "FAC before": facts["fac_before"],
        "FAC after": facts["fac_after"],
        "pairs approved by": ", ".join(people) or "nobody (a baseline needs no pairs)",
        "decisions": facts["decisions"],
        "run": made.run_id,
    }
    yaml = "\n".join(f"{key}: {_on_a_line(value)}" for key, value in front.items())
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
            *(f"| {name} | {_in_words(value)} |" for name, value in told.items()),
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
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = "undefined" if value is None else text
    return re.sub(r"([\\`*_{}\[\]()<>#|!~])", r"\\\1", " ".join(text.split()))
