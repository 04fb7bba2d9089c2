"""The columns of an export: what a training script of that form expects."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fac.errors import InputError
from fac.export.lineage import LINEAGE, ExportRow
from fac.schema import CHAT_TYPE

FORMS = ("chat", "preference", "classification", "choice")
"""Columns: messages; prompt, chosen and rejected; text and label; question and two answers."""

FORM_OF = {"toxicity": "classification", "preference": "preference", "choice": "choice"}
"""The form of a profile's samples; of every other profile, chat."""


def export_table(samples: Sequence[ExportRow], form: str) -> pa.Table:
    """The export, one row per sample."""
    rows = [{**_COLUMNS[form](sample), "lineage": sample.lineage} for sample in samples]
    columns = [
        pa.field(name, CHAT_TYPE if isinstance(value, list) else pa.string())
        for name, value in rows[0].items()
        if name != "lineage"
    ]
    return pa.Table.from_pylist(rows, pa.schema([*columns, pa.field("lineage", LINEAGE)]))


def _as_chat(sample: ExportRow) -> dict[str, Any]:
    labels = {"label": sample.extra["label"]} if "label" in sample.extra else {}
    return {"messages": sample.messages, **labels}


def _as_preference(sample: ExportRow) -> dict[str, Any]:
    rejected = sample.extra.get("rejected", [])
    *prompt, chosen = sample.messages
    if not prompt or rejected[:-1] != prompt:
        raise _unlike(sample, "preference", "no two answers to one prompt")
    return {"prompt": prompt, "chosen": [chosen], "rejected": rejected[-1:]}


def _as_classification(sample: ExportRow) -> dict[str, Any]:
    if "label" not in sample.extra:
        raise _unlike(sample, "classification", "no label")
    return {"text": _only_text(sample, "classification"), "label": sample.extra["label"]}


def _as_choice(sample: ExportRow) -> dict[str, Any]:
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


def _only_text(sample: ExportRow, form: str) -> str:
    if len(sample.messages) != 1 or sample.messages[0]["role"] != "user":
        raise _unlike(sample, form, "more than one message")
    return sample.messages[0]["content"]


def _unlike(sample: ExportRow, form: str, has: str) -> InputError:
    name = sample.lineage["candidate"]
    return InputError(
        f"The sample {name} has {has}, so it cannot be a row of the form {form}: "
        f"export the form chat."
    )
