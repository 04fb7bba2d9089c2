"""The dataset card: what an export is, how it was made, who looked at it, how to train with it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fac.datasets import json_line
from fac.export.forms import ANSWERED_FORMS, COLUMN_NOTES
from fac.export.people import Selection
from fac.manifest import SynthesisFacts

if TYPE_CHECKING:
    from fac.export.files import Plan

MADE_BY = "fac-explorer"  # a tag of the card, by which a folder is known as an export

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

LINEAGE_NOTES = {
    "run": "the synthesis, and `candidate` the text in it",
    "sample_id": "hash of the messages",
    "feature": "the feature it was written for",
    "encoder": "model, layer and SAE with their revisions; `sae` names the SAE and its hash",
    "activation": "the feature's peak, measured on this text; `span` says on which token",
    "own_activation": "the same on words of its own, that its writer was not shown",
    "gains": "missing features that no better sample of this dataset fires",
    "families": "the families of features that it fires gaps of; null where none are grouped",
    "pair": "the contrastive pair it was written from, with both measured peaks",
    "approvals": "who approved that pair, when, and the hash of what they saw",
    "decisions": "digest of all decisions the run was made with",
    "prompt_hash": "of the prompt; with `generator`, `writer`, `answered_by`, `seed`, `style`",
    "filter": "threshold, best kept per feature, and the row's place among those that passed",
    "review": "what people said of the sample, who, and the run that measured an edited text",
}

FAMILIES = 12
"""Families that the card names."""

TRAINERS = {
    **dict.fromkeys(("chat", "completion", "text"), "SFTTrainer(model, train_dataset=rows)"),
    "preference": "DPOTrainer(model, train_dataset=rows)",
    "prompt": "GRPOTrainer(model, reward_funcs=reward, train_dataset=rows)",
}
"""The trainer of TRL that takes the columns of a form as they are."""


def dataset_card(plan: Plan, columns: Sequence[str], data: str) -> str:
    """The dataset card: YAML for the hub, then what a reader needs to know. `columns` are those of
    the file, `data` where the rows lie, seen from the card."""
    synthesis, form, n = plan.synthesis, plan.form, len(plan.rows)
    name = f"{synthesis.facts.name} {synthesis.spec.method}"
    size = next((name for most, name in SIZES if n < most), "n>1M")
    task = "text-classification" if form == "classification" else "text-generation"
    front: dict[str, Any] = {
        "pretty_name": name,
        "tags": ["synthetic", "sparse-autoencoder", "feature-activation-coverage", MADE_BY],
        "task_categories": [task],
        "size_categories": [size],
    }
    if "/" not in data:  # in a folder of the hub they are where it looks; a card that says so keeps
        # `datasets` from seeing that they were written again
        files = [{"split": "train", "path": data}]
        front["configs"] = [{"config_name": "default", "data_files": files}]
    yaml = "\n".join(f"{key}: {json_line(value)}" for key, value in front.items())
    notes = [f"- `{name}`: {COLUMN_NOTES[name]}" for name in columns if name != "lineage"]
    if "lineage" not in columns:
        notes.append("\nThe lineage lies beside the rows, in NAME.lineage.jsonl, line for line:\n")
    notes += [f"- `lineage.{name}`: {note}" for name, note in LINEAGE_NOTES.items()]
    path = shlex.quote(_one_line(data))
    return "\n".join(
        (
            f"---\n{yaml}\n---\n",
            f"# {_in_words(name)}\n",
            f"{n:,} samples written by a language model for features of a sparse "
            f"autoencoder that a dataset did not show. Each was measured: the activation in its "
            f"lineage is above the threshold.\n",
            "## How it was made\n",
            *_table(_properties(plan)),
            "\n## Who looked at it\n",
            *_table(_looked_at(plan)),
            "\n## Columns\n",
            *notes,
            "\n## To train with it\n",
            " ".join(plan.notes) + "\n",
            *_training(plan, data),
            "## To check it\n",
            f"```sh\npython -m fac ingest {path} --name check\npython -m fac measure check\n```\n",
            "Measured with the same model, layer and SAE, every row fires its feature above the "
            "threshold. Nobody checked what the texts claim; they are made up.\n",
        )
    )


def _table(rows: dict[str, object]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {_in_words(value)} |" for name, value in rows.items())


def _properties(plan: Plan) -> dict[str, object]:
    synthesis = plan.synthesis
    facts, spec = synthesis.facts, synthesis.spec
    people = sorted({d["reviewer"] for d in synthesis.decisions if d["verdict"] == "approve"})
    return {
        "method": spec.method,
        "generator": f"{synthesis.generator} ({spec.writer})",
        "answers written by": synthesis.answered_by or "nobody apart from the messages",
        "encoder": synthesis.anchor.provenance,
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
        "candidates dropped": counted(dict(sorted(facts.dropped.items()))),
        "quality gates that nothing was at hand for": ", ".join(facts.unchecked) or "none",
        "rows that a reader may hesitate over": f"{facts.doubtful:,}, {counted(dict(facts.doubts))}"
        if facts.doubtful
        else "none",
        **_rates(facts),
        "families that its rows fire gaps of": _families(plan),
        "FAC before": facts.fac_before,
        "FAC after": facts.fac_after,
        "pairs approved by": ", ".join(people) or "nobody (a baseline needs no pairs)",
        "held-out files that no sample overlaps with": ", ".join(
            f"{name} ({digest})" for name, digest in sorted(facts.evaluation.items())
        )
        or "none was given",
        "decisions": facts.decisions,
        "run": synthesis.run_id,
    }


def _families(plan: Plan) -> str:
    """The families with the most rows, and how many rows each."""
    lineages = [row.lineage for row in plan.selection.rows]
    if all(lineage["families"] is None for lineage in lineages):
        return "not grouped"
    counts = Counter(name for lineage in lineages for name in lineage["families"] or ())
    first = counted(dict(counts.most_common(FAMILIES)))
    more = len(counts) - FAMILIES
    return f"{first} and {more:,} more" if more > 0 else first


def _rates(facts: SynthesisFacts) -> dict[str, object]:
    """Hit rates, and what the label check is worth where one was made."""
    hits = (facts.hit_rate, facts.hit_rate_low, facts.hit_rate_high)
    anywhere = (facts.any_hit_rate, facts.any_hit_rate_low, facts.any_hit_rate_high)
    check = (facts.label_auroc, facts.label_auroc_low, facts.label_auroc_high)
    named = {
        "hit rate" if facts.any_hit_rate is None else "own-words hit rate": hits,
        "hit rate, fires anywhere": anywhere,
        "AUROC of the label check": check,
    }
    return {
        name: f"{value:.2f}, 95 % interval {low:.2f} to {high:.2f}"
        for name, (value, low, high) in named.items()
        if value is not None
    }


def _looked_at(plan: Plan) -> dict[str, object]:
    chosen = plan.selection
    anchor = "none; compared by the hash of the messages"
    rows: dict[str, object] = {
        "rows": f"{len(plan.rows):,} of {chosen.kept:,} that the filter kept",
        "left out": counted(chosen.left_out),
        "looked at": looked_at_in_words(chosen),
    }
    if chosen.edited:
        rows["edited by a person"] = f"{chosen.edited:,}, each measured again"
    if chosen.relabelled:
        rows["with the label a person gave"] = f"{chosen.relabelled:,}"
    if chosen.unlabelled:
        rows["without a label"] = f"{chosen.unlabelled:,}: a person said that it was wrong"
    if words := awaited_in_words(chosen):
        rows["edits that do not leave"] = words
    rows["texts of the anchor"] = anchor if plan.anchor_compared else NOT_COMPARED
    return rows


NOT_COMPARED = "not compared: the anchor's texts are not in the workspace it was made in"


def looked_at_in_words(chosen: Selection) -> str:
    """How many kept samples people looked at, who, and what share they would train on."""
    if chosen.share is None or chosen.interval is None:
        return "none: nobody decided on a sample"
    low, high = chosen.interval
    return (
        f"{chosen.looked_at:,} of {chosen.kept:,}, by {', '.join(chosen.reviewers)}; "
        f"they would train on {chosen.liked:,} of them: {100 * chosen.share:.0f} %, 95 % interval "
        f"{100 * low:.0f} to {100 * high:.0f} %"
    )


def awaited_in_words(chosen: Selection) -> str:
    """The edits that do not leave yet, and what leaves instead; "" where there are none."""
    sentences = []
    if n := chosen.waiting:
        edits, are = (
            ("edit waits", "its sample is") if n == 1 else ("edits wait", "their samples are")
        )
        sentences.append(f"{n:,} {edits} for a decision: until then {are} as before it")
    if n := chosen.measuring:
        edits, it = ("edit is", "it is") if n == 1 else ("edits are", "they are")
        sentences.append(f"{n:,} {edits} still being measured: {it} not in here")
    return "; ".join(sentences)


def _training(plan: Plan, data: str) -> Iterator[str]:
    """Code and settings for the trainer that the format is for."""
    if plan.format == "llamafactory":
        yield "```yaml\ndataset_dir: this folder\ndataset: its name in dataset_info.json\n```\n"
    elif plan.format not in ("openai", "axolotl"):
        rows = f'load_dataset("json", data_files={json_line(data)}, split="train")'
        if data.endswith(".parquet"):
            rows = rows.replace("json", "parquet", 1)
        form = ANSWERED_FORMS.get(plan.form, plan.form) if plan.format == "trl" else plan.form
        trainer = TRAINERS.get(form)
        lines = ["from datasets import load_dataset", f"rows = {rows}"]
        if trainer:
            lines[:0] = [f"from trl import {trainer.partition('(')[0]}"]
            lines.append(f"{trainer}.train()")
        yield "```python\n" + "\n".join(lines) + "\n```\n"


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, for a sentence."""
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()) or "none"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _in_words(value: object) -> str:
    """A value as plain text in a Markdown table: names come from people and datasets."""
    text = "undefined" if value is None else str(value)
    text = f"{value:.4g}" if isinstance(value, float) else text
    return re.sub(r"([\\`*_{}\[\]()<>#|!~])", r"\\\1", _one_line(text))
