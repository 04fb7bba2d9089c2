"""Exports: rows with lineage that can be read back, measured again and explained."""

import ctypes
import errno
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fac import datasets, review, schema
from fac.config import IngestSpec, MeasureSpec, PairsSpec, SynthesizeSpec, Workspace, digest
from fac.errors import InputError
from fac.export import EXPORT_FORMATS, export, files, provenance
from fac.export.card import MADE_BY
from fac.generator.chat import public_name
from fac.ingest import ingest
from fac.manifest import DatasetFacts, PairsFacts, SynthesisFacts
from fac.measure import measure
from fac.prompts.profiles import PROFILES
from fac.schema import Chat
from fac.store.decisions import TABLE, Decisions
from fac.store.runs import Runs, write_table
from tests.lexicon import LexiconEncoder
from tests.toy import WORDS, toy_workspace

GAPS = (3, 5, 6)
"""python, loop, river: said in toy-anchor, never in toy-seed."""

ENCODER = LexiconEncoder(*WORDS)
SECRET = "http://secret-host.example:8000/v1"
KEY = "sk-0123456789abcdef"


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""


def draft(profile: str, word: str, manner: str) -> tuple[Chat, dict[str, Any]]:
    """A sample in which a word occurs, as the profile has it."""

    def chat(user: str, *assistant: str) -> Chat:
        answers = [{"role": "assistant", "content": text} for text in assistant]
        return [{"role": "user", "content": user}, *answers]

    ask = f"Tell me {manner} about a {word}"
    if profile == "chat":
        return chat(ask, "With pleasure"), {}
    if profile == "toxicity":
        return chat(ask), {"label": "1"}
    if profile == "preference":
        return chat(ask, "It is so"), {"rejected": chat(ask, "It is not")}
    if profile == "choice":
        question = f"{ask}\n\nChoices:\n(A) yes\n(B) no"
        return chat(question), {"choices": {"matching": "(B)", "other": "(A)"}}
    return chat(ask), {}


def publish_pairs(runs: Runs, features: Sequence[int] = GAPS, failed: Sequence[int] = (7,)) -> str:
    """A finished pairs run in the toy workspace, a pair for each feature; its id."""
    anchor, dataset = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    spec = PairsSpec(anchor=anchor, dataset=dataset, features=(*features, *failed))
    run_id = spec.run_id(anchor, dataset)
    rows = []
    for feature in sorted((*features, *failed)):
        sides = {}
        for side, word in (("positive", f"{WORDS[feature]}!"), ("negative", "thing")):
            text = f"Speak of the {word}"
            fired = [1.5 if token == f" {WORDS[feature]}!" else 0.0 for token in _tokens(text)]
            sides |= {
                side: [{"role": "user", "content": text}],
                f"{side}_peak": max(fired),
                f"{side}_tokens": _tokens(text),
                f"{side}_activations": fired,
            }
        nothing = {name: [] if isinstance(value, list) else None for name, value in sides.items()}
        rows.append(
            {
                "pair": digest(feature, "pair"),
                "feature": feature,
                "status": "failed" if feature in failed else "proposed",
                "reason": "no candidate fires it" if feature in failed else "",
                "origin": "" if feature in failed else "own",
                "candidate": "" if feature in failed else f"step-1/{feature:06d}/00/list",
                "negative_origin": "" if feature in failed else "edit",
                **(nothing if feature in failed else sides),
            }
        )
    candidates = [
        _candidate("step-1", f, 0, "", *draft("instruction", WORDS[f], "all")) for f in features
    ]
    folder = runs.scratch(run_id)
    for name, content in (
        ("pairs", rows),
        ("candidates", candidates),
        ("hits", _hits(candidates, features)),
    ):
        columns = getattr(schema, name.upper())
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(content, columns), columns)
    facts = PairsFacts(
        name="toy-seed",
        anchor=anchor,
        dataset=dataset,
        features=sorted((*features, *failed)),
        pairs=len(features),
    )
    runs.publish(run_id, spec=spec, inputs=[anchor, dataset], facts=facts, seconds=0.0)
    return run_id


def _tokens(text: str) -> list[str]:
    first, *rest = text.split()
    return [first, *(f" {word}" for word in rest)]


def _candidate(
    method: str, feature: int, number: int, pair: str, messages: Chat, extra: dict[str, Any]
) -> dict[str, Any]:
    return {
        "candidate": f"{method}/{feature:06d}/{number:02d}/list",
        "feature": feature,
        "pair": pair,
        "style": "list",
        "messages": messages,
        "extra": json.dumps(extra),
        "problem": "" if messages else "refusal",
        "tokens": 9,
        "finished": True,
        "prompt_hash": digest(feature, number),
        "seed": 11,
    }


def _hits(candidates: Sequence[dict[str, Any]], features: Sequence[int]) -> list[dict[str, Any]]:
    """What the texts really fire of these features, each in its strongest role."""
    strongest: dict[tuple[str, int], dict[str, Any]] = {}
    for candidate in candidates:
        for hit in (
            zip(*ENCODER.encode([candidate["messages"]])[1:5], strict=True)
            if candidate["messages"]
            else ()
        ):
            role, feature, peak, position = (value.item() for value in hit)
            key = candidate["candidate"], feature
            if feature in features and (key not in strongest or peak > strongest[key]["peak"]):
                row = {"peak": peak, "role": schema.ROLES[role], "position": position}
                strongest[key] = {"candidate": candidate["candidate"], "feature": feature, **row}
    return [strongest[key] for key in sorted(strongest)]


def _reply(candidate: dict[str, Any]) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"Write about {WORDS[candidate['feature']]}"}]
    counts = {"prompt_tokens": 1, "completion_tokens": 9, "estimated": False, "cost": None}
    return {
        **{name: "" for name in ("finish", "failure", "model", "at")},
        **counts,
        "key": digest(candidate["candidate"]),
        "about": candidate["candidate"],
        "prompt": json.dumps(prompt),
        "reply": "said",
    }


def publish_synthesis(
    workspace: Workspace,
    *,
    profile: str = "instruction",
    method: str = "two-step",
    writer: str = "local",
    texts: dict[int, str | Chat] | None = None,
    name: str = "toy-seed",
    keeps: bool = True,
    about_kept: dict[str, Any] | None = None,
    **spec_fields: Any,
) -> str:
    """A finished synthesis in the toy workspace; its id. For each gap one text that is kept, one
    that is beaten and one refusal; approved by two people. `texts` replaces what is kept;
    `about_kept` is what the dataset of kept samples says of each."""
    runs, store = Runs(workspace), Decisions(workspace.decisions)
    pairs_run = publish_pairs(runs)
    rows = {row["feature"]: row for row in runs.table(pairs_run, "pairs").to_pylist()}
    approved = [rows[feature] for feature in GAPS] if method == "two-step" else []
    for row in approved:
        item = review.pair_item(pairs_run, row)
        for reviewer in ("ana", "ben"):
            store.add(reviewer, item.kind, item.subject, item.content, "approve")
    candidates, verdicts = [], []
    for feature in GAPS:
        pair = rows[feature]["pair"] if method == "two-step" else ""
        for number, manner in enumerate(("twice! all", "little", "")):
            messages, extra = draft(profile, f"{WORDS[feature]}{'!' * (1 - number)}", manner)
            if number == 0 and texts:
                text = texts[feature]
                messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
            candidate = _candidate(
                method, feature, number, pair, messages if number < 2 else [], extra
            )
            candidates.append(candidate)
            peaks = [h["peak"] for h in _hits([candidate], [feature])]
            verdicts.append(
                {
                    "candidate": candidate["candidate"],
                    "feature": feature,
                    "kept": keeps and number == 0,
                    "reason": ("", "beaten", "refusal")[number],
                    "peak": max(peaks, default=0.0),
                    "rank": number if number < 2 else -1,
                    "gains": [feature] if number == 0 else [],
                }
            )
    spec = SynthesizeSpec(
        pairs=pairs_run,
        approved=tuple(row["pair"] for row in approved),
        profile=profile,
        method=method,
        writer=writer,
        candidates=3,
        seed=11,
        **spec_fields,
    )
    run_id = spec.run_id(pairs_run, str(texts))
    folder = runs.scratch(run_id)
    tables = {"candidates": candidates, "hits": _hits(candidates, GAPS), "verdicts": verdicts}
    for table, content in tables.items():
        columns = getattr(schema, table.upper())
        write_table(folder / f"{table}.parquet", pa.Table.from_pylist(content, columns), columns)
    write_table(folder / "decisions.parquet", store.table(), TABLE)
    replies = [_reply(candidate) for candidate in candidates]
    write_table(
        folder / "replies.parquet", pa.Table.from_pylist(replies, schema.REPLIES), schema.REPLIES
    )
    kept_dataset = ""
    if about_kept is not None:
        metas = [
            json.dumps({"candidate": verdict["candidate"], **about_kept})
            for verdict in verdicts
            if verdict["kept"]
        ]
        ingested = IngestSpec(name="kept", source=run_id)
        kept_dataset = ingested.run_id(run_id)
        samples = pa.Table.from_pylist([{"meta": meta} for meta in metas], schema.SAMPLES)
        write_table(runs.scratch(kept_dataset) / "samples.parquet", samples, schema.SAMPLES)
        runs.publish(
            kept_dataset, spec=ingested, inputs=[run_id], facts=DatasetFacts(), seconds=0.0
        )
    facts = SynthesisFacts(
        name=name,
        kept_dataset=kept_dataset,
        writer=f"toy-writer@0123 at {SECRET}" if writer == "openai" else "toy-writer@0123",
        decisions=digest("decisions"),
        kept=len(GAPS),
        dropped={"beaten": len(GAPS), "refusal": len(GAPS)},
        hit_rate=1.0,
        fac_before=0.4,
        fac_after=0.7,
        relevant="toxicity",
        role="user",
        min_support=2,
    )
    runs.publish(run_id, spec=spec, inputs=[pairs_run], facts=facts, seconds=0.0)
    return run_id


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture
def workspace(toy: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the toy workspace that a test may change."""
    shutil.copytree(toy.root, tmp_path / "kitchen")
    return Workspace(tmp_path / "kitchen")


NAMES = {"jsonl": "kept.jsonl", "parquet": "kept.parquet", "hf": "kept"}
NAMES |= {"openai": "openai.jsonl", "llamafactory": "kept", "trl": "kept", "axolotl": "kept"}

PROMPT_FORMATS = tuple(name for name in EXPORT_FORMATS if name != "axolotl")
"""Formats that take prompts alone, which a synthesis of this file has unless it says otherwise."""

BASIC = ("jsonl", "parquet", "hf")
"""Formats whose rows hold their lineage in the columns of a form."""


def exported(workspace: Workspace, run: str, format: str = "jsonl", **options: str) -> Path:
    """Where an export of the run lies now."""
    out = workspace.root / "out" / NAMES[format]
    files = export(run, out, runs=Runs(workspace), format=format, **options)
    assert files.path == out and files.card.is_file()
    return out


def data_of(out: Path) -> Path:
    names = ("data/train-00000-of-00001.parquet", "data.jsonl")
    return next((out / name for name in names if (out / name).exists()), out)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of an export, whatever its format."""
    if data_of(out).suffix == ".parquet":
        return pq.read_table(data_of(out)).to_pylist()
    return [json.loads(line) for line in data_of(out).read_text("utf-8").splitlines()]


def text_of(row: dict[str, Any]) -> str:
    """The first message of a row of prompts, by whatever name and in whatever form."""
    prompt = row.get("prompt") or row["messages"]
    return prompt if isinstance(prompt, str) else prompt[0]["content"]


def lineages_of(out: Path) -> list[dict[str, Any]]:
    """Why each row is there, whether in its column or beside the file."""
    beside = out.with_name(f"{out.stem}.lineage.jsonl")
    if beside.is_file():
        return [json.loads(line) for line in beside.read_text("utf-8").splitlines()]
    return [row["lineage"] for row in rows_of(out)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- rows -----------------------------------------------------------------------------------------


def test_what_is_kept_is_exported_by_feature_and_nothing_else(workspace):
    run = publish_synthesis(workspace)
    rows = rows_of(exported(workspace, run))
    assert [row["prompt"][0]["content"] for row in rows] == [
        f"Tell me twice! all about a {WORDS[feature]}!" for feature in GAPS
    ]
    assert [row["lineage"]["feature"] for row in rows] == [*GAPS]


def test_every_row_says_where_it_comes_from(workspace):
    run = publish_synthesis(workspace)
    runs = Runs(workspace)
    (row, *_) = rows_of(exported(workspace, run))
    pairs = runs.manifest(run).spec.pairs
    (pair,) = runs.rows(pairs, "pairs", [3]).to_pylist()
    lineage = row["lineage"]
    approvals = lineage.pop("approvals")
    assert lineage == {
        "run": run,
        "candidate": "two-step/000003/00/list",
        "sample_id": datasets.sample_id(row["prompt"]),
        "feature": 3,
        "encoder": ENCODER.identity,
        "sae": "toy",
        "activation": 1.5,
        "own_activation": None,
        "span": {"role": "user", "position": 7},
        "gains": [3],
        "families": None,  # nobody grouped the features of this anchor
        "method": "two-step",
        "style": "list",
        "pair": {
            "run": pairs,
            "pair": pair["pair"],
            "origin": "own",
            "positive_peak": 1.5,
            "negative_peak": 0.0,
        },
        "decisions": digest("decisions"),
        "prompt_hash": digest(3, 0),
        "generator": "toy-writer@0123",
        "writer": "local",
        "answered_by": None,
        "seed": 11,
        "temperature": 0.8,
        "filter": {"threshold": 0.0, "keep": 1, "rank": 0},
        "review": {"state": "undecided", "by": [], "edit": None},
    }
    assert [approval["reviewer"] for approval in approvals] == ["ana", "ben"]
    assert {approval["seen"] for approval in approvals} == {
        digest(review.pair_content(pairs, pair))
    }


def test_only_decisions_on_its_own_pair_approve_a_row(workspace):
    run = publish_synthesis(workspace)
    rows = rows_of(exported(workspace, run))
    seen = [{approval["seen"] for approval in row["lineage"]["approvals"]} for row in rows]
    assert len(set.union(*seen)) == len(GAPS) and all(len(pairs) == 1 for pairs in seen)


def test_a_baseline_has_no_pair_and_nobody_who_approved_one(workspace):
    run = publish_synthesis(workspace, method="unguided")
    for row in rows_of(exported(workspace, run)):
        assert row["lineage"]["pair"] is None and row["lineage"]["approvals"] == []
        assert row["lineage"]["activation"] == 1.5


@pytest.mark.parametrize("profile", PROFILES)
def test_all_formats_hold_the_same_rows(workspace, profile):
    run = publish_synthesis(workspace, profile=profile)
    lines, parquet, folder = (rows_of(exported(workspace, run, format)) for format in BASIC)
    assert lines == parquet == folder


@pytest.mark.parametrize(
    ("profile", "columns"),
    [
        ("instruction", ["prompt"]),
        ("chat", ["messages"]),
        ("toxicity", ["text", "label"]),
        ("preference", ["prompt", "chosen", "rejected"]),
        (
            "choice",
            ["question", "answer_matching_behavior", "answer_not_matching_behavior"],
        ),
    ],
)
def test_a_profile_has_its_own_columns(workspace, profile, columns):
    (row, *_) = rows_of(exported(workspace, publish_synthesis(workspace, profile=profile)))
    assert [*row] == [*columns, "lineage"]
    if profile == "preference":
        assert [m["role"] for m in row["prompt"]] == ["user"]
        assert row["chosen"] == [{"role": "assistant", "content": "It is so"}]
        assert row["rejected"] == [{"role": "assistant", "content": "It is not"}]
    if profile == "choice":
        assert (row["answer_matching_behavior"], row["answer_not_matching_behavior"]) == (
            "(B)",
            "(A)",
        )


def test_a_label_goes_with_how_sure_its_check_is_and_an_answer_with_who_wrote_it(workspace):
    about = {"label_probability": 0.87, "answered_by": "toy-answerer"}
    run = publish_synthesis(workspace, profile="toxicity", about_kept=about)
    for format in BASIC:
        for row in rows_of(exported(workspace, run, format)):
            assert [*row] == ["text", "label", "label_probability", "lineage"]
            assert (row["label"], row["label_probability"]) == ("1", 0.87)
            assert row["lineage"]["answered_by"] == "toy-answerer"


def test_a_form_that_was_asked_for_replaces_the_profiles_own(workspace):
    run = publish_synthesis(workspace, profile="toxicity")
    (row, *_) = rows_of(exported(workspace, run, form="chat"))
    assert [*row] == ["messages", "label", "lineage"] and row["label"] == "1"


# --- reading back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", EXPORT_FORMATS)
@pytest.mark.parametrize("profile", PROFILES)
def test_an_export_is_read_back_with_nothing_rejected_and_measures_as_it_says(
    workspace, profile, format
):
    if (profile, format) == ("text", "openai"):
        pytest.skip("OpenAI's fine-tuning takes no plain text")
    if (profile, format) == ("instruction", "axolotl"):
        pytest.skip("Axolotl takes no prompts alone")
    run = publish_synthesis(workspace, profile=profile)
    out, runs = exported(workspace, run, format), Runs(workspace)
    source = IngestSpec(name="back", source=str(data_of(out)))
    back = ingest(source, runs=runs)
    facts = runs.manifest(back).facts
    assert (facts.n_samples, facts.n_rejected, facts.duplicates) == (len(GAPS), 0, 0)
    lineages = lineages_of(out)
    samples = runs.table(back, "samples").to_pylist()
    if profile in ("toxicity", "choice") and format in ("openai", "trl", "axolotl"):
        answer = "1" if profile == "toxicity" else "(B)"  # their rows end with an answer
        assert [each["messages"][-1] for each in samples] == [
            {"role": "assistant", "content": answer}
        ] * len(GAPS)
        measured_ids = [datasets.sample_id(each["messages"][:-1]) for each in samples]
    else:
        assert {each["label"] for each in samples} == {"1" if profile == "toxicity" else None}
        measured_ids = [each["sample_id"] for each in samples]
    assert measured_ids == [each["sample_id"] for each in lineages]
    if format != "openai":
        kept = [json.loads(sample["meta"])["columns"]["lineage"] for sample in samples]
        assert kept == lineages
    again = MeasureSpec(dataset=back, model="toy", layer=1, sae="toy")
    sae_run = runs.list("sae")[0].run
    measured = measure(again, runs=runs, encoder=ENCODER, sae_run=sae_run, progress=quiet)
    activations = runs.table(measured, "activations").to_pylist()
    for number, lineage in enumerate(lineages):
        peaks = [
            (row["peak"], row["role"], row["position"])
            for row in activations
            if (row["sample"], row["feature"]) == (number, lineage["feature"])
        ]
        assert max(peaks)[0] == lineage["activation"] > lineage["filter"]["threshold"]
        assert max(peaks)[1:] == (lineage["span"]["role"], lineage["span"]["position"])


AWKWARD = {
    3: 'a\u2028python!\u2029and \x85 "quotes" \\ \u202e😀\ttab',
    5: "Human: what is a loop! here\n\nAssistant: I do not say",
    6: "line one\n\n\nriver! <|im_end|> </s> ``` # not a title",
}


@pytest.mark.parametrize("format", PROMPT_FORMATS)
def test_awkward_text_is_kept_character_for_character(workspace, format):
    run = publish_synthesis(workspace, texts=AWKWARD)
    out = exported(workspace, run, format)
    assert [text_of(row) for row in rows_of(out)] == [*AWKWARD.values()]
    back = [*datasets.read_samples(data_of(out))]
    assert [sample.messages[0]["content"] for sample in back] == [*AWKWARD.values()]


def test_the_hugging_face_library_opens_the_folder(workspace, monkeypatch):
    run = publish_synthesis(workspace, profile="preference")
    out = exported(workspace, run, "hf")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    dataset = load_dataset(str(out), split="train", cache_dir=str(workspace.root / "hf"))
    assert dataset.to_list() == rows_of(out)


def test_what_ingest_would_refuse_is_not_exported(workspace):
    run = publish_synthesis(workspace, texts={**AWKWARD, 5: "a loop! with a \x07 bell"})
    with pytest.raises(InputError, match=r"two-step/000005/00/list .* U\+0007 stands at"):
        exported(workspace, run)
    assert not bytes_of(workspace.root / "out")


# --- what stays here ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", PROMPT_FORMATS)
def test_neither_keys_nor_endpoints_nor_folders_leave_with_an_export(
    workspace, format, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    evaluation = str(workspace.root / "held-out.jsonl")
    run = publish_synthesis(
        workspace,
        writer="openai",
        model="/srv/models/llama-8b",
        endpoint=SECRET,
        evaluation=(evaluation,),
    )
    out = exported(workspace, run, format)
    assert {lineage["generator"] for lineage in lineages_of(out)} == {"llama-8b"}
    for name, data in bytes_of(workspace.root / "out").items():
        for secret in (KEY, SECRET, "secret-host", "/srv/", str(workspace.root)):
            assert secret.encode() not in data, (name, secret)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("gpt-4o-mini at https://host:1/v1 seed 3", "gpt-4o-mini seed 3"),
        ("meta/llama at http://host/v1", "meta/llama"),
        ("/data/models/llama@0123/top50", "llama@0123/top50"),
        ("~/llama", "llama"),
        ("C:\\models\\llama", "llama"),
        ("meta/llama@main/top50", "meta/llama@main/top50"),
    ],
)
def test_a_models_name_is_shown_without_where_it_lies(name, public):
    assert public_name(name) == public


# --- the card -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", PROMPT_FORMATS)
def test_the_card_says_what_it_is_and_how_it_was_made(workspace, format):
    run = publish_synthesis(workspace)
    out = exported(workspace, run, format)
    card = out / "README.md" if out.is_dir() else out.with_name(f"{out.stem}.card.md")
    text = card.read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    header = yaml.safe_load(front)
    assert header["size_categories"] == ["n<1K"]
    if format == "hf":  # the hub looks into data/ itself; named, `datasets` would not look again
        assert "configs" not in header
    else:
        (files,) = header["configs"][0]["data_files"]
        assert (card.parent / files["path"]).is_file()
    assert body.startswith("\n# toy-seed two-step\n\n3 samples")
    for line in (
        "| pairs approved by | ana, ben |",
        "| FAC before | 0.4 |",
        "| FAC after | 0.7 |",
        "| threshold | 0 |",
        "| relevant features | toxicity |",
        "| tokens that count | user |",
        "| anchor samples that show a gap, at least | 2 |",
        "| candidates dropped | 3 beaten, 3 refusal |",
        f"| run | {run} |",
    ):
        assert line in body.splitlines(), line
    columns = re.findall(r"^- `([\w.]+)`", body, re.MULTILINE)
    assert columns[0] in ("prompt", "messages") and "lineage.activation" in columns


def test_names_in_a_card_are_plain_text(workspace):
    runs = Runs(workspace)
    hostile = "😀 [x](http://evil) | \u2028 <script>\n# title\n---\nlicense: mit"
    run = publish_synthesis(workspace, name=hostile)
    text = (exported(workspace, run, "hf") / "README.md").read_text("utf-8")
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert set(yaml.safe_load(front)) == {
        *("pretty_name", "tags", "task_categories", "size_categories")
    }
    assert yaml.safe_load(front)["pretty_name"] == f"{hostile} two-step"
    assert "<script>" not in body and "](http" not in body and "\n# title" not in body
    assert runs.manifest(run).facts.name == hostile


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", PROMPT_FORMATS)
def test_the_same_run_gives_the_same_bytes_and_replaces_itself(workspace, format):
    run = publish_synthesis(workspace)
    exported(workspace, run, format)
    first = bytes_of(workspace.root / "out")
    exported(workspace, run, format)
    assert bytes_of(workspace.root / "out") == first


@pytest.mark.parametrize("flag", [files.EXCHANGE, 1 << 20], ids=["in one step", "in two"])
def test_a_folder_is_replaced_by_a_whole_one(workspace, monkeypatch, flag):
    run = publish_synthesis(workspace)
    out = exported(workspace, run, "hf")
    first, moved, rename = bytes_of(out.parent), [], Path.rename
    (out / "README.md").write_text(f"older, {MADE_BY}")

    def watched(path: Path, target: Path) -> Path:
        moved.append(path == out)
        return rename(path, target)

    monkeypatch.setattr(files, "EXCHANGE", flag)
    monkeypatch.setattr(Path, "rename", watched)
    exported(workspace, run, "hf")
    assert bytes_of(out.parent) == first
    in_two = flag == 1 << 20
    assert any(moved) == in_two, "in one step there is an export at any moment"


def test_a_folder_that_is_no_export_is_left_alone(workspace):
    run = publish_synthesis(workspace)
    out = workspace.root / "out" / "kept"
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else than an export"):
        export(run, out, runs=Runs(workspace), format="hf")
    with pytest.raises(InputError, match="is a folder"):
        export(run, out, runs=Runs(workspace))
    assert bytes_of(workspace.root / "out") == {"kept/thesis.txt": b"years of work"}


def test_a_full_disk_leaves_the_last_export_as_it_was(workspace, monkeypatch):
    run = publish_synthesis(workspace)
    out = exported(workspace, run, "parquet")
    before = bytes_of(out.parent)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match="disk is full"):
        exported(workspace, run, "parquet")
    assert bytes_of(out.parent) == before


def test_a_folder_is_never_without_its_export_while_it_is_replaced(workspace, monkeypatch):
    run = publish_synthesis(workspace)
    out = exported(workspace, run, "hf")
    before, steps = bytes_of(out), []
    rename = Path.rename

    def watched(self, target):
        steps.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    assert exported(workspace, run, "hf") == out
    assert steps == [] and bytes_of(out) == before
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a system without such a step
    exported(workspace, run, "hf")
    assert len(steps) == 2 and bytes_of(out) == before
    assert [*out.parent.iterdir()] == [out]


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_what_cannot_be_a_file_is_a_sentence(workspace, name):
    run = publish_synthesis(workspace)
    for format in EXPORT_FORMATS:
        with pytest.raises(InputError):
            export(run, Path(name), runs=Runs(workspace), format=format)


@pytest.mark.parametrize(
    ("options", "why_not"),
    [
        ({"format": "csv"}, "jsonl, parquet, hf, openai, llamafactory"),
        ({"form": "poem"}, "chat, completion, prompt, text, preference"),
        ({"form": "preference"}, "no two answers to one prompt.*another form"),
        ({"form": "classification"}, "no label"),
        ({"form": "choice"}, "no two answers to choose"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(workspace, options, why_not):
    run = publish_synthesis(workspace)
    with pytest.raises(InputError, match=why_not):
        export(run, workspace.root / "out" / "kept.jsonl", runs=Runs(workspace), **options)
    assert not (workspace.root / "out").exists()


def test_only_a_synthesis_can_be_exported(workspace):
    runs = Runs(workspace)
    with pytest.raises(InputError, match="is a measure run"):
        export(runs.resolve("measure", "toy-seed"), workspace.root / "x.jsonl", runs=runs)


def test_a_synthesis_that_kept_nothing_has_no_export(workspace):
    run = publish_synthesis(workspace, keeps=False)
    with pytest.raises(InputError, match="Nothing was kept"):
        exported(workspace, run)


# --- why is this row here -------------------------------------------------------------------------


def test_a_row_can_be_asked_why_it_is_there(workspace):
    run, runs = publish_synthesis(workspace), Runs(workspace)
    rows = rows_of(exported(workspace, run))
    for number, row in enumerate(rows):
        why = provenance(run, number, runs=runs)
        assert why == provenance(row["lineage"]["run"], row["lineage"]["candidate"], runs=runs)
        assert why.messages == row["prompt"] and why.lineage == row["lineage"]
        feature = GAPS[number]
        assert why.pair["positive"][0]["content"] == f"Speak of the {WORDS[feature]}!"
        assert why.pair["feature"] == feature
        assert [hit["feature"] for hit in why.hits] == [feature]
        assert [rival["reason"] for rival in why.rivals] == ["beaten", "refusal"]
        assert why.rivals[0]["messages"][0]["content"].endswith(WORDS[feature])
        assert why.prompt == [{"role": "user", "content": f"Write about {WORDS[feature]}"}]


def test_why_of_a_baseline_has_no_pair(workspace):
    run = publish_synthesis(workspace, method="one-step")
    assert provenance(run, 0, runs=Runs(workspace)).pair is None


@pytest.mark.parametrize("row", [3, -1, "two-step/000003/01/list", "nonsense"])
def test_a_row_that_is_not_there_is_a_sentence(workspace, row):
    run = publish_synthesis(workspace)
    with pytest.raises(InputError, match="rows 0 to 2"):
        provenance(run, row, runs=Runs(workspace))
