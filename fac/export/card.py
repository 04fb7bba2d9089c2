"""The dataset card of an export."""

import re

import pyarrow as pa

from fac.datasets import json_line
from fac.export.rows import SynthesisRun

MADE_BY = "fac-explorer"
"""A tag of the card, by which a folder is known as an export."""

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
    front = {
        "pretty_name": name,
        "tags": ["synthetic", "sparse-autoencoder", "feature-activation-coverage", MADE_BY],
        "task_categories": [
            "text-classification" if form == "classification" else "text-generation"
        ],
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
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = "undefined" if value is None else text
    return re.sub(r"([\\`*_{}\[\]()<>#|!~])", r"\\\1", " ".join(text.split()))
