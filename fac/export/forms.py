"""What a row of an export looks like: columns by what a trainer learns from them, and the same rows
in the words of OpenAI, LLaMA-Factory and Axolotl.

TRL takes the columns as they are (its dataset formats, checked with TRL 1.16) and is told which by
a trl.yaml. OpenAI's files hold what its guides on supervised, direct preference and reinforcement
fine-tuning say and no key more; LLaMA-Factory is told by its dataset_info.json which column is
what, Axolotl by the `datasets` of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from fac.datasets import json_line
from fac.errors import InputError
from fac.export.lineage import LINEAGE, ExportRow
from fac.schema import CHAT_TYPE, Chat, Message

Columns = dict[str, Any]


class Form(NamedTuple):
    """The columns of an export."""

    title: str  # as a page lists it
    use: str  # a sentence: what such rows are for
    columns: Callable[[ExportRow], Columns]
    chat: Callable[[ExportRow], Chat]
    """What such a row says as a chat; what is read back is this, at least."""


class Unlike(ValueError):
    """What a sample lacks for a form."""


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _messages(row: ExportRow) -> Chat:
    return row.messages


def _chat(row: ExportRow) -> Columns:
    label = {"label": row.extra["label"]} if row.extra.get("label") is not None else {}
    return {"messages": row.messages, **label}


def _prompt(row: ExportRow) -> Chat:
    """Without the answer that it ends with, if any."""
    last = len(row.messages) - (row.messages[-1]["role"] == "assistant")
    if not last:
        raise Unlike("no message before its answer")
    return row.messages[:last]


def _answered(row: ExportRow) -> Chat:
    """With the answer; of a labelled text its label, of a question the answer that shows the
    behaviour."""
    if "choices" in row.extra:
        return [*row.messages, _answer(row.extra["choices"]["matching"])]
    if row.messages[-1]["role"] == "assistant":
        return row.messages
    if row.extra.get("label") is not None:
        return [*row.messages, _answer(row.extra["label"])]
    raise Unlike("no answer")


def _completion(row: ExportRow) -> Columns:
    *prompt, answer = _answered(row)
    if not prompt:
        raise Unlike("no message before its answer")
    return {"prompt": prompt, "completion": [answer]}


def _preference(row: ExportRow) -> Columns:
    if "choices" in row.extra:
        *prompt, chosen = _answered(row)
        return {
            "prompt": prompt,
            "chosen": [chosen],
            "rejected": [_answer(row.extra["choices"]["other"])],
        }
    *prompt, chosen = row.messages
    rejected = row.extra.get("rejected", [])
    if not prompt or rejected[:-1] != prompt:
        raise Unlike("no two answers to one prompt")
    return {"prompt": prompt, "chosen": [chosen], "rejected": rejected[-1:]}


def _single_text(row: ExportRow) -> str:
    if [message["role"] for message in row.messages] != ["user"]:
        raise Unlike("more than one message")
    return row.messages[0]["content"]


def _text(row: ExportRow) -> Columns:
    return {"text": _single_text(row)}


def _classification(row: ExportRow) -> Columns:
    if row.extra.get("label") is None:
        raise Unlike("no label")
    columns = {"text": _single_text(row), "label": row.extra["label"]}
    if row.extra.get("label_probability") is not None:
        columns["label_probability"] = row.extra["label_probability"]
    return columns


def _choice(row: ExportRow) -> Columns:
    """The columns of the A/B questions that steering is tested with (Perez et al. 2023)."""
    if "choices" not in row.extra:
        raise Unlike("no two answers to choose from")
    return {
        "question": _single_text(row),
        "answer_matching_behavior": row.extra["choices"]["matching"],
        "answer_not_matching_behavior": row.extra["choices"]["other"],
    }


FORMS = {
    "chat": Form(
        "messages",
        "Whole chats, for supervised fine-tuning of a chat model (TRL's SFTTrainer).",
        _chat,
        _messages,
    ),
    "completion": Form(
        "prompt and completion",
        "For supervised fine-tuning where only the answer is learned (TRL's SFTTrainer).",
        _completion,
        _answered,
    ),
    "prompt": Form(
        "prompts alone",
        "Messages without answers: nothing to imitate, so supervised fine-tuning has no use for "
        "them; trainers that write the answers themselves take them (TRL's GRPOTrainer and "
        "RLOOTrainer).",
        lambda row: {"prompt": _prompt(row)},
        _prompt,
    ),
    "text": Form(
        "plain text",
        "For a language model that goes on learning from plain text (TRL's SFTTrainer).",
        _text,
        _messages,
    ),
    "preference": Form(
        "prompt, chosen and rejected",
        "Two answers to one prompt, for preference training (TRL's DPOTrainer). Of an A/B question "
        "the chosen answer is the one that shows the behaviour: swap the two to train it away.",
        _preference,
        lambda row: _answered(row) if "choices" in row.extra else row.messages,
    ),
    "classification": Form(
        "text and label",
        "For training or testing a classifier. The probability is the label check's, empty where "
        "nothing checked the label.",
        _classification,
        _messages,
    ),
    "choice": Form(
        "question and two answers",
        "A/B questions, one answer of which shows a behaviour, for evaluation and for steering "
        "vectors.",
        _choice,
        _messages,
    ),
}
"""What rows may be like, by the name on the command line."""

FORMS_OF = {
    "instruction": ("prompt", "chat"),
    "chat": ("chat", "completion", "prompt"),
    "text": ("text",),
    "toxicity": ("classification", "completion", "chat"),
    "preference": ("preference", "chat", "completion"),
    "choice": ("choice", "preference", "completion"),
}
"""The forms of each profile's samples, its own first."""


def forms_of(profile: str) -> tuple[str, ...]:
    """The forms that samples of a profile can have, its own first."""
    return FORMS_OF.get(profile, ("chat",))


COLUMN_NOTES = {
    "messages": "the chat, as `role` and `content`",
    "prompt": "the chat up to the answer",
    "completion": "the answer",
    "chosen": "the good answer",
    "rejected": "the worse answer",
    "text": "the text",
    "label": "its class",
    "label_probability": "how sure the label check is of that class, 0 to 1",
    "question": "the question with both answers",
    "answer_matching_behavior": "the answer that shows the behaviour",
    "answer_not_matching_behavior": "the one that does not",
    "input": "the chat up to the answer",
    "preferred_output": "the good answer",
    "non_preferred_output": "the worse answer",
}


def columns_of(row: ExportRow, form: str) -> Columns:
    """The row in a form. Raises InputError where it cannot have it."""
    try:
        return FORMS[form].columns(row)
    except Unlike as lacks:
        raise InputError(
            f"The sample {row.lineage['candidate']} has {lacks}, so it cannot be a row of the form "
            f"{form}: export another form."
        ) from None


ANSWERED_FORMS = {"classification": "completion", "choice": "preference"}
"""Forms that OpenAI, TRL and Axolotl have no words for, and the one whose they take: of a labelled
text the label is the answer, of a question the two answers are the preferred one and the other."""

OPENAI_LEAST = 10
"""Rows that OpenAI's fine-tuning asks for."""


def openai_columns(columns: Columns) -> Columns:
    """The columns of a form in OpenAI's words (its guides on supervised fine-tuning, on direct
    preference optimization and, for prompts alone, on reinforcement fine-tuning). Raises InputError
    for plain text, and for a chat that does not end with an answer."""
    if "rejected" in columns:
        return {
            "input": {"messages": columns["prompt"]},
            "preferred_output": columns["chosen"],
            "non_preferred_output": columns["rejected"],
        }
    if "prompt" in columns:
        return {"messages": [*columns["prompt"], *columns.get("completion", [])]}
    if "messages" not in columns:
        raise InputError("OpenAI's fine-tuning takes chats, no plain text: export jsonl.")
    if columns["messages"][-1]["role"] != "assistant":
        raise InputError(
            "OpenAI's fine-tuning learns from the answer that ends a chat, but one ends with "
            "the user's message: export the form prompt, for reinforcement fine-tuning."
        )
    return {"messages": columns["messages"]}


def llamafactory_columns(columns: Columns) -> Columns:
    """The columns of a form as LLaMA-Factory reads them: chats as they are, everything else as
    texts. Raises InputError for what its descriptions have no words for."""
    if "messages" in columns:
        _alternating(columns["messages"])
        return {"messages": columns["messages"]}
    if "completion" in columns:
        return llamafactory_columns({"messages": columns["prompt"] + columns["completion"]})
    if "prompt" in columns:
        if [message["role"] for message in columns["prompt"]] != ["user"]:
            raise InputError(
                "LLaMA-Factory's prompts are one message, and one here has several: export jsonl."
            )
        answers: Columns = {
            name: columns[name][0]["content"] for name in ("chosen", "rejected") if name in columns
        }
        return {"prompt": columns["prompt"][0]["content"], **answers}
    return columns


def _alternating(messages: Sequence[Message]) -> None:
    """Raises InputError unless user and assistant take turns and the assistant has the last word,
    after a system turn or none: LLaMA-Factory skips any other chat."""
    roles = [message["role"] for message in messages]
    turns = roles[roles[:1] == ["system"] :]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise InputError(
            "LLaMA-Factory learns from chats in which user and assistant take turns and the "
            f"assistant has the last word; one is {', '.join(roles)}: export the form prompt."
        )


def llamafactory_description(columns: Sequence[str], file_name: str) -> dict[str, Any]:
    """What LLaMA-Factory's dataset_info.json says of a file with these columns (data/README.md of
    LLaMA-Factory): of chats which key is whose, of texts which column is what. An answer that is a
    label, or one of two, is named by its column too."""
    if "messages" in columns:
        return {
            "file_name": file_name,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    names: Mapping[str, str] = {
        "prompt": next(name for name in ("prompt", "question", "text") if name in columns)
    }
    if "chosen" in columns:
        names = {**names, "chosen": "chosen", "rejected": "rejected"}
    elif "question" in columns:
        rest = {"chosen": "answer_matching_behavior", "rejected": "answer_not_matching_behavior"}
        names = {**names, **rest}
    elif "label" in columns:
        names = {**names, "response": "label"}
    ranking = {"ranking": True} if "chosen" in names else {}
    return {"file_name": file_name, "formatting": "alpaca", **ranking, "columns": names}


LLAMAFACTORY_STAGES = {
    "chat": "sft",
    "completion": "sft",
    "prompt": "ppo",
    "text": "pt",
    "preference": "dpo, rm or orpo (`stage: dpo` with `pref_loss: orpo`)",
    "classification": "sft, the label as the answer",
    "choice": "dpo or rm",
}
"""The `stage` of LLaMA-Factory that each form is for."""


def trl_settings(form: str, columns: Sequence[str], file_name: str) -> str:
    """What `trl COMMAND --config` reads (TRL's DatasetMixtureConfig): the file, and of its columns
    those that a trainer takes."""
    of_form = [name for name in columns if name not in ("lineage", "label")]
    about = {"path": "json", "data_files": file_name, "split": "train", "columns": of_form}
    return f"# For `trl {TRL_COMMANDS[form]}`, in this folder.\n{_yaml_datasets(about)}"


TRL_COMMANDS = {
    **dict.fromkeys(("chat", "completion", "text"), "sft"),
    "preference": "dpo",
    "prompt": "grpo",
}
"""The command of TRL that learns from each form."""


def axolotl_columns(columns: Columns) -> Columns:
    """The columns of a form as Axolotl's chat_template, completion and DPO strategies take them.
    Raises InputError for prompts alone, and for a chat that does not end with an answer."""
    if "chosen" in columns or "text" in columns:
        return columns
    if "completion" in columns:
        return {"messages": columns["prompt"] + columns["completion"]}
    if "prompt" in columns:
        raise InputError(
            "Axolotl reads prompts alone through code of one's own: export trl, for `trl grpo`."
        )
    if columns["messages"][-1]["role"] != "assistant":
        raise InputError(
            "Axolotl learns from the answers of a chat, but one ends with the user's message: "
            "export trl with the form prompt."
        )
    return {"messages": columns["messages"]}


def axolotl_settings(form: str, columns: Sequence[str], file_name: str) -> str:
    """What Axolotl's settings say of a file (its docs on dataset formats and preference tuning): of
    whole chats it learns every answer, of a prompt and its completion the last alone."""
    about: dict[str, Any] = {"path": file_name, "ds_type": "json", "split": "train"}
    head = "# Add base_model and how to train, and start `axolotl train` in this folder.\n"
    if form == "preference":
        fields = {f"field_{name}": name for name in ("chosen", "rejected")}
        about |= {"type": "chat_template.default", "field_messages": "prompt", **fields}
        return f"{head}rl: dpo\n{_yaml_datasets(about)}"
    if form == "text":
        about |= {"type": "completion", "field": "text"}
    else:
        last_alone = form == "completion"
        about |= {"type": "chat_template", "field_messages": "messages"}
        about |= {"roles_to_train": None if last_alone else ["assistant"]}
        about |= {"train_on_eos": None if last_alone else "turn"}
    return f"{head}{_yaml_datasets(about)}"


def _yaml_datasets(about: Mapping[str, Any]) -> str:
    """One entry of a list `datasets`, its values as JSON, which YAML reads."""
    lines = [f"{key}: {json_line(value)}" for key, value in about.items()]
    return "datasets:\n  - " + "\n    ".join(lines) + "\n"


_TYPES = {
    **dict.fromkeys(("messages", "prompt", "completion", "chosen", "rejected"), CHAT_TYPE),
    **dict.fromkeys(("preferred_output", "non_preferred_output"), CHAT_TYPE),
    "input": pa.struct({"messages": CHAT_TYPE}),
    "label_probability": pa.float64(),
}


def export_table(rows: Sequence[Columns], lineages: Sequence[Mapping[str, Any]] | None) -> pa.Table:
    """The export, one row per sample, with a column of its lineage unless that lies beside it. What
    a row has not is null."""
    values = {name: value for row in rows for name, value in row.items()}
    fields = [
        pa.field(name, pa.string() if isinstance(value, str) else _TYPES[name])
        for name, value in values.items()
    ]
    if lineages is None:
        return pa.Table.from_pylist([*rows], pa.schema(fields))
    whole = [{**row, "lineage": lineage} for row, lineage in zip(rows, lineages, strict=True)]
    return pa.Table.from_pylist(whole, pa.schema([*fields, pa.field("lineage", LINEAGE)]))
