"""Exported rows as trainers take them: a step of TRL on the demo model, LLaMA-Factory's description
of a dataset and OpenAI's rules for a training file, each checked as its documentation says."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fac.config import REPOSITORY, Workspace
from fac.errors import InputError
from fac.export import EXPORT_FORMATS, export, forms_of, plan_export, refusals
from fac.prompts.profiles import PROFILES
from fac.store.runs import Runs
from tests.test_export import GAPS, data_of, publish_synthesis, rows_of
from tests.toy import toy_workspace

ROLES = {"system", "user", "assistant"}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(scope="module")
def made(kitchen: Workspace) -> dict[str, str]:
    """A synthesis of every profile, by profile."""
    return {profile: publish_synthesis(kitchen, profile=profile) for profile in PROFILES}


def exported(kitchen: Workspace, run: str, folder: Path, format: str, form: str = "") -> Path:
    suffix = "" if EXPORT_FORMATS[format].data_file else ".jsonl"
    out = folder / f"my rows, {format}{suffix}"
    return export(run, out, runs=Runs(kitchen), format=format, form=form).path


FORMS = [(profile, form) for profile in PROFILES for form in forms_of(profile)]


# --- datasets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "form"), FORMS)
def test_the_hugging_face_library_loads_every_form(
    kitchen, made, tmp_path, monkeypatch, profile, form
):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    for format in refusals_aside(kitchen, made[profile], form):
        out = exported(kitchen, made[profile], tmp_path, format, form)
        kind = "parquet" if data_of(out).suffix == ".parquet" or format == "parquet" else "json"
        files = {"data_files": str(data_of(out)), "cache_dir": str(tmp_path / "hf")}
        loaded = load_dataset(kind, split="train", **files)
        assert len(loaded) == len(GAPS)
        if kind == "json":
            assert set(loaded.column_names) == set(rows_of(out)[0])


def refusals_aside(kitchen: Workspace, run: str, form: str) -> list[str]:
    """The formats that can hold the rows."""
    cannot = refusals(plan_export(run, runs=Runs(kitchen), form=form))
    return [format for format in EXPORT_FORMATS if format not in cannot]


def test_the_document_lists_every_format_with_tests_that_there_are():
    document = (REPOSITORY / "docs" / "formats.md").read_text("utf-8").split("\n# Exports")[1]
    section = document.split("\n# ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [*EXPORT_FORMATS]
    here, there = (
        (REPOSITORY / "tests" / name).read_text("utf-8")
        for name in ("test_export_trainers.py", "test_export.py")
    )
    tests = re.findall(r"`(test_\w+)`(\*?)", section)
    assert len(tests) >= len(EXPORT_FORMATS)
    for name, star in tests:
        assert f"\ndef {name}(" in (there if star else here), name


# --- OpenAI -----------------------------------------------------------------------------------


def obeys_openai(row: dict[str, Any], kind: str) -> None:
    """Guides on supervised fine-tuning (the last message is the assistant's), direct preference
    optimization (one preferred and one other output of the assistant) and reinforcement fine-tuning
    (the last message is the user's)."""

    def chat(messages: list[dict[str, str]], last: str) -> None:
        assert messages and messages[-1]["role"] == last
        for number, message in enumerate(messages):
            assert set(message) == {"role", "content"} and message["role"] in ROLES
            assert isinstance(message["content"], str) and message["content"].strip()
            assert message["role"] != "system" or number == 0

    if kind == "preference":
        assert set(row) == {"input", "preferred_output", "non_preferred_output"}
        assert set(row["input"]) == {"messages"}
        chat(row["input"]["messages"], "user")
        for side in ("preferred_output", "non_preferred_output"):
            assert len(row[side]) == 1
            chat(row[side], "assistant")
        assert row["preferred_output"] != row["non_preferred_output"]
    else:
        assert set(row) == {"messages"}
        chat(row["messages"], "user" if kind == "reinforcement" else "assistant")


OPENAI = {
    **dict.fromkeys(("preference", "choice"), "preference"),
    **dict.fromkeys(("chat", "completion", "classification"), "supervised"),
    "prompt": "reinforcement",
}


@pytest.mark.parametrize(("profile", "form"), FORMS)
def test_rows_for_openai_hold_what_its_guides_say_and_no_key_more(
    kitchen, made, tmp_path, profile, form
):
    run = made[profile]
    if "openai" not in refusals_aside(kitchen, run, form):
        assert (profile, form) in {("text", "text"), ("instruction", "chat"), ("toxicity", "chat")}
        with pytest.raises(InputError, match="OpenAI's fine-tuning"):
            exported(kitchen, run, tmp_path, "openai", form)
        return
    out = exported(kitchen, run, tmp_path, "openai", form)
    assert out.suffix == ".jsonl"
    for row in rows_of(out):
        obeys_openai(row, OPENAI[form])
    beside = out.with_name("my rows, openai.lineage.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["feature"] for line in beside] == [*GAPS]
    card = out.with_name("my rows, openai.card.md").read_text("utf-8")
    assert "OpenAI asks for at least 10 rows; these are 3." in card


# --- LLaMA-Factory ----------------------------------------------------------------------------

ALPACA = {"prompt", "query", "response", "history", "system", "chosen", "rejected", "kto_tag"}
SHAREGPT = {"messages", "system", "tools", "chosen", "rejected", "kto_tag"}
TAGS = {"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag"}


def as_llamafactory_reads(folder: Path) -> Iterator[tuple[list[Any], list[str]]]:
    """(prompt, responses) of every row, read by the rules of its data/README.md."""
    described = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    ((name, about),) = described.items()
    assert "," not in name and name == name.strip()  # `dataset: a,b` are two
    assert set(about) <= {"file_name", "formatting", "ranking", "columns", "tags"}
    assert about["formatting"] in ("alpaca", "sharegpt")
    columns, ranking = about["columns"], about.get("ranking", False)
    rows = [json.loads(line) for line in (folder / about["file_name"]).read_text().splitlines()]
    assert rows and all(set(columns.values()) <= set(row) for row in rows)
    if about["formatting"] == "sharegpt":
        assert set(columns) <= SHAREGPT and set(about["tags"]) <= TAGS | {"system_tag"}
        tags = about["tags"]
        for row in rows:
            turns = [
                (turn[tags["role_tag"]], turn[tags["content_tag"]])
                for turn in row[columns["messages"]]
            ]
            turns = turns[1:] if turns[0][0] == tags["system_tag"] else turns
            assert len(turns) % 2 == 0
            order = (tags["user_tag"], tags["assistant_tag"])
            assert all(role == order[number % 2] for number, (role, _) in enumerate(turns))
            yield [text for _, text in turns[:-1]], [turns[-1][1]]
        return
    assert set(columns) <= ALPACA and "tags" not in about
    for row in rows:
        prompt = row[columns["prompt"]]
        assert isinstance(prompt, str) and prompt.strip()
        sides = ("chosen", "rejected") if ranking else ("response",)
        responses = [row[columns[side]] for side in sides if side in columns]
        assert all(isinstance(text, str) and text for text in responses)
        assert not ranking or len(responses) == 2
        yield [prompt], responses


ANSWERS = {
    "chat": ["With pleasure"],
    "toxicity": ["1"],
    "preference": ["It is so"],
    "choice": ["(B)"],
}
"""What is learned of a profile's rows, where one answer is."""

SIDES = {"preference": ["It is so", "It is not"], "choice": ["(B)", "(A)"]}
"""What is preferred, and to what."""


@pytest.mark.parametrize(("profile", "form"), FORMS)
def test_llamafactory_is_told_which_column_is_what(kitchen, made, tmp_path, profile, form):
    run = made[profile]
    if "llamafactory" not in refusals_aside(kitchen, run, form):
        assert form == "chat" and profile in ("instruction", "toxicity")  # chats without an answer
        with pytest.raises(InputError, match="assistant has the last word"):
            exported(kitchen, run, tmp_path, "llamafactory", form)
        return
    folder = exported(kitchen, run, tmp_path, "llamafactory", form)
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "data.jsonl", "dataset_info.json")
    }
    expected = ANSWERS.get(profile, [])
    if form in ("preference", "choice"):
        expected = SIDES[profile]
    elif form in ("prompt", "text"):
        expected = []
    for prompt, responses in as_llamafactory_reads(folder):
        assert len(prompt) == 1 and responses == expected


# --- Axolotl ----------------------------------------------------------------------------------


def as_axolotl_reads(folder: Path) -> Iterator[tuple[Any, list[str]]]:
    """(text or turns before, what is learned) of every row, as the strategy that axolotl.yaml names
    takes it: by its fields, roles and, without roles, the last turn alone."""
    import yaml

    settings = yaml.safe_load((folder / "axolotl.yaml").read_text("utf-8"))
    (about,) = settings["datasets"]
    assert about["ds_type"] == "json" and about["split"] == "train"
    assert settings.get("rl") == ("dpo" if "field_chosen" in about else None)
    for line in (folder / about["path"]).read_text("utf-8").splitlines():
        row = json.loads(line)
        if about["type"] == "completion":
            yield None, [row[about["field"]]]
            continue
        turns = row[about["field_messages"]]
        assert all(turn["role"] in ROLES for turn in turns)
        if about["type"] == "chat_template.default":
            sides = (row[about["field_chosen"]], row[about["field_rejected"]])
            yield turns, [side[-1]["content"] for side in sides]
            continue
        assert about["type"] == "chat_template"
        roles = about["roles_to_train"]
        assert about["train_on_eos"] == ("turn" if roles else None)
        learned = [turn for turn in turns if turn["role"] in roles] if roles else turns[-1:]
        assert turns[-1]["role"] == "assistant"
        yield turns[:-1], [turn["content"] for turn in learned]


@pytest.mark.parametrize(("profile", "form"), FORMS)
def test_axolotl_is_told_what_to_learn_from_and_how(kitchen, made, tmp_path, profile, form):
    run = made[profile]
    if "axolotl" not in refusals_aside(kitchen, run, form):
        assert form == "prompt" or (form == "chat" and profile in ("instruction", "toxicity"))
        with pytest.raises(InputError, match="Axolotl .* export trl"):
            exported(kitchen, run, tmp_path, "axolotl", form)
        return
    folder = exported(kitchen, run, tmp_path, "axolotl", form)
    assert {path.name for path in folder.iterdir()} == {"README.md", "data.jsonl", "axolotl.yaml"}
    expected = SIDES[profile] if form in SIDES else ANSWERS.get(profile)
    for turns, learned in as_axolotl_reads(folder):
        assert learned == expected if form != "text" else (turns, len(learned)) == (None, 1)


# --- TRL --------------------------------------------------------------------------------------

TRL_COLUMNS = {
    "chat": {"messages"},
    "completion": {"prompt", "completion"},
    "prompt": {"prompt"},
    "text": {"text"},
    "preference": {"prompt", "chosen", "rejected"},
}
"""Types of datasets in TRL's documentation, by our forms."""


@pytest.mark.parametrize(("profile", "form"), [pair for pair in FORMS if pair[1] in TRL_COLUMNS])
def test_columns_are_those_of_trls_dataset_types(kitchen, made, tmp_path, profile, form):
    from trl.data_utils import is_conversational

    rows = rows_of(exported(kitchen, made[profile], tmp_path, "jsonl", form))
    for row in rows:
        columns = {name: row[name] for name in row if name not in ("lineage", "label")}
        assert set(columns) == TRL_COLUMNS[form]
        assert is_conversational(columns) == (form != "text")


TRL_COMMANDS = {
    **dict.fromkeys(("chat", "completion", "classification", "text"), "sft"),
    **dict.fromkeys(("preference", "choice"), "dpo"),
    "prompt": "grpo",
}
TRL_STANDS_IN = {"classification": "completion", "choice": "preference"}


@pytest.mark.parametrize(("profile", "form"), FORMS)
def test_trl_loads_what_its_settings_name(kitchen, made, tmp_path, monkeypatch, profile, form):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import yaml
    from trl import DatasetMixtureConfig, get_dataset

    folder = exported(kitchen, made[profile], tmp_path, "trl", form)
    assert {path.name for path in folder.iterdir()} == {"README.md", "data.jsonl", "trl.yaml"}
    settings = yaml.safe_load((folder / "trl.yaml").read_text("utf-8"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    rows = get_dataset(DatasetMixtureConfig(**settings))["train"]
    assert set(rows.column_names) == TRL_COLUMNS[TRL_STANDS_IN.get(form, form)]
    assert len(rows) == len(GAPS)
    card = (folder / "README.md").read_text("utf-8")
    assert f"`trl {TRL_COMMANDS[form]} --config trl.yaml" in card


@pytest.fixture(scope="module")
def demo_model(demo_model_home: Path) -> str:
    return str(next(path.parent for path in demo_model_home.rglob("model.safetensors")))


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")  # of libraries about themselves
@pytest.mark.parametrize(
    ("profile", "form"),
    [("chat", "chat"), ("chat", "completion"), ("text", "text"), ("preference", "preference")],
)
def test_a_step_of_training_changes_the_demo_model(
    kitchen, made, tmp_path, demo_model, monkeypatch, profile, form
):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    out = exported(kitchen, made[profile], tmp_path, "jsonl", form)
    rows = load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "hf")
    ).select(range(2))
    trainer_class, config = (
        (DPOTrainer, DPOConfig) if form == "preference" else (SFTTrainer, SFTConfig)
    )
    arguments = config(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_length=128,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    loss = trainer.train().training_loss
    assert math.isfinite(loss) and loss > 0
    changed = [
        name
        for name, weight in trainer.model.named_parameters()
        if not torch.equal(weight.detach().cpu(), before[name])
    ]
    assert changed
