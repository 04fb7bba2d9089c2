"""Explanations come in row by row, whoever made them, and go out in the same form."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fac import review
from fac.config import REPOSITORY, ExplainSpec, Workspace
from fac.errors import InputError
from fac.interpret import explain
from fac.interpret.imported import (
    AGAIN,
    AUTHOR,
    BEYOND,
    MODEL,
    NO_FEATURE,
    NO_TEXT,
    SAE,
    TOO_LONG,
    UNREADABLE,
)
from fac.preflight.metadata import same_model
from fac.questions.explanations import explanations_of
from fac.schema import REJECTED
from fac.store import open_stores
from fac.store.cache import build
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy
from tests.test_cli import assert_one_sentence, fac
from tests.test_pages import (
    button,
    empty,
    explained,
    markup,
    navigation_decides,
    opened,
    ran,
    started,
    words,
)
from tests.test_synthesis_page import work_off

__all__ = ["empty", "explained", "navigation_decides", "started"]  # fixtures

PYTHON, RIVER, QUASAR, OVEN = map(toy.WORDS.index, ("python", "river", "quasar", "oven"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy.toy_workspace(tmp_path_factory.mktemp("world"))


@pytest.fixture
def workspace(world: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(world.root, tmp_path / "own")
    return Workspace(tmp_path / "own")


def row(index: Any = PYTHON, description: Any = "snakes", **more: Any) -> dict[str, Any]:
    """A row as Neuronpedia exports it, of the toy's model and layer."""
    about = {"modelId": "toy", "layer": "1-res-jb", "index": str(index)}
    by = {"explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair"}
    return {**about, "description": description, **by, **more}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)


def imported(workspace: Workspace, source: Path, **fields: Any) -> tuple[str, Any]:
    """The run of an import into the toy's anchor, and its facts."""
    runs = Runs(workspace)
    fields = {"explainer": "external", "source": str(source), **fields}
    spec = ExplainSpec(measure=runs.resolve("measure", "toy-anchor"), **fields)
    run = explain(spec, runs=runs, ask=lambda: pytest.fail("asked"), progress=lambda *_: None)
    return run, runs.manifest(run).facts


def texts(workspace: Workspace, run: str) -> dict[int, str]:
    rows = Runs(workspace).table(run, "explanations").to_pylist()
    return {each["feature"]: each["text"] for each in rows}


TWO = (row(PYTHON, "snakes"), row(RIVER, "water"))


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"np.jsonl": lines(*TWO)}, "np.jsonl"),
        ({"np.json": json.dumps(TWO).encode()}, "np.json"),
        ({"np.json": json.dumps(TWO, indent=1).encode()}, "np.json"),
        ({"batch-0.jsonl.gz": gzip.compress(lines(*TWO))}, "batch-0.jsonl.gz"),
        (
            {f"batch-{i}.jsonl.gz": gzip.compress(lines(each)) for i, each in enumerate(TWO)},
            "batch-*.jsonl.gz",
        ),
        ({f"batch-{i}.jsonl": lines(each) for i, each in enumerate(TWO)}, ""),
    ],
    ids=["lines", "array", "pretty array", "gzip", "gzipped batches", "folder"],
)
def test_every_way_to_write_them_gives_the_same(workspace, tmp_path, files, source):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    run, facts = imported(workspace, folder / source)
    assert texts(workspace, run) == {PYTHON: "snakes", RIVER: "water"}
    assert facts.left_out is None
    (first, _) = Runs(workspace).table(run, "explanations").to_pylist()
    assert first["source"] == "gpt-4o-mini, oai_token-act-pair"
    assert json.loads(first["inputs"])["file"] == sorted(files)[0]


BAD = [
    (row(description=""), NO_TEXT, "no text in"),
    (row(description=None), NO_TEXT, "no text in"),
    (row(description="money " * 400), TOO_LONG, "2,399 characters, above 2,000"),
    (row("x"), NO_FEATURE, "must be a number, got 'x'"),
    (row(index=None), NO_FEATURE, "must be a number, got 'None'"),
    ({"feature": True, "text": "a"}, NO_FEATURE, "got True"),
    ({"feature": [3], "text": "a"}, NO_FEATURE, "got a list"),
    (row(12), BEYOND, "there is no feature 12: this dictionary has 0 to 11"),
    (row(99999999), BEYOND, "no feature 99999999"),
    (row(modelId="gpt2-small"), MODEL, "it is of gpt2-small; toy-anchor was measured with toy"),
    (row(layer="5-res-jb"), SAE, "5-res-jb reads layer 5; toy-anchor was measured at layer 1"),
    (row(layer="1-gemmascope-res-16k"), SAE, "1-gemmascope-res-16k reads layer 2"),
    (row(layer="5-res"), SAE, "5-res reads layer 5 or 6"),
    (row(layer="1-gemmascope-mlp-16k"), SAE, "something else than the residual stream"),
    (row(layer="blocks.1.hook_resid_post"), SAE, "reads layer 2"),
    (row(description="a\x00b"), UNREADABLE, "U+0000"),
    ([1], UNREADABLE, "not an object"),
]


@pytest.mark.parametrize(("bad", "kind", "reason"), BAD)
def test_a_bad_row_is_left_out_counted_and_listed_with_its_line(
    workspace, tmp_path, bad, kind, reason
):
    file = tmp_path / "np.jsonl"
    file.write_bytes(lines(row(RIVER, "water"), bad))
    run, facts = imported(workspace, file)
    assert texts(workspace, run) == {RIVER: "water"}
    assert facts.left_out == {kind: 1}
    table = Runs(workspace).table(run, "rejected")
    assert table.schema.equals(REJECTED)
    (rejected,) = table.to_pylist()
    assert rejected["line"] == 2
    assert reason in rejected["reason"]


def test_every_row_is_taken_or_counted(workspace, tmp_path):
    """The rows above together, broken JSON, one of a feature that never fires, one said twice."""
    file = tmp_path / "np.jsonl"
    good = [row(PYTHON, "old"), row(RIVER, "water"), row(QUASAR, "stars"), row(PYTHON, "snakes")]
    file.write_bytes(lines(*good, *(bad for bad, _, _ in BAD)) + b"{not json\n\n")
    run, facts = imported(workspace, file)
    assert texts(workspace, run) == {PYTHON: "snakes", RIVER: "water"}
    assert facts.left_out[AGAIN] == 1
    assert sum(facts.left_out.values()) + 2 == len(good) + len(BAD) + 1
    rejected = {r["line"]: r["reason"] for r in Runs(workspace).table(run, "rejected").to_pylist()}
    assert rejected[1] == f"feature {PYTHON} is explained again at line 4"
    assert "not JSON" in rejected[len(good) + len(BAD) + 1]
    # What fits and never fires is counted with no line: nothing is wrong with it.
    assert len(rejected) == sum(facts.left_out.values()) - 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lines(row(modelId="gpt2-small"), row(layer="5-res-jb")), "1 row of another model, 1 row"),
        (lines(row(modelId="gpt2-small")), r"line 1: it is of gpt2-small.*take `modelId`"),
        (lines(row(description="")), "explains no feature of toy-anchor: 1 row without a text"),
        (lines({"a": 1}), "1 row without a feature"),
        (b"[]", "holds no explanations"),
        (b"", "is empty"),
        (b'[{"index": "3", "descr', "breaks off at line 1"),
        (b"\x1f\x8b\x08\x00cut", "damaged or truncated gzip"),
        (
            lines(row(layer="1-res-a"), row(RIVER, layer="0-res-b")),
            "1 rows are of 1-res-a and as many of 0-res-b",
        ),
    ],
)
def test_a_file_without_a_row_to_take_is_refused_in_a_sentence(workspace, tmp_path, content, why):
    file = tmp_path / "np.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=why):
        imported(workspace, file)


def test_rows_that_name_no_model_and_no_layer_are_taken(workspace, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_bytes(
        lines({"feature": PYTHON, "text": "snakes"}, {"index": OVEN, "explanation": "b"})
    )
    run, facts = imported(workspace, file)
    assert texts(workspace, run) == {PYTHON: "snakes", OVEN: "b"}
    assert (facts.left_out, facts.note) == (None, None)
    assert Runs(workspace).table(run, "explanations")["source"].to_pylist() == ["own.jsonl"] * 2


def test_what_is_open_about_model_and_layer_is_said(workspace, tmp_path):
    file = tmp_path / "np.jsonl"
    file.write_bytes(lines(row(modelId="toy-it", layer="0-res")))
    _, facts = imported(workspace, file)
    assert "name the model toy-it, toy-anchor was measured with toy" in facts.note
    assert "0-res, which may read the stream before that block or after" in facts.note
    file.write_bytes(lines(row()))
    assert imported(workspace, file)[1].note is None


def test_of_several_saes_that_of_most_rows_counts(workspace, tmp_path):
    file = tmp_path / "np.jsonl"
    mixed = [row(PYTHON, "a", layer="1-res-jb"), row(RIVER, "b", layer="1-res-jb")]
    file.write_bytes(lines(*mixed, row(RIVER, "c", layer="0-gemmascope-res-16k")))
    run, facts = imported(workspace, file)
    assert texts(workspace, run) == {PYTHON: "a", RIVER: "b"}
    assert facts.left_out == {SAE: 1}


@pytest.mark.parametrize(
    ("name", "other", "alike"),
    [
        ("gemma-2-2b", "google/gemma-2-2b", True),
        ("gpt2-small", "gpt2", True),
        ("smollm2-135m", "smollm2-135m-instruct", None),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", None),
        ("gemma-2-2b", "gemma-2-9b", False),
        ("gpt2-small", "checkpoint-500", None),
    ],
)
def test_names_of_one_model_are_told_from_others(name, other, alike):
    assert same_model(name, other) is alike


def test_each_author_of_a_file_is_a_run_and_they_stand_side_by_side(workspace, tmp_path):
    file = tmp_path / "np.jsonl"
    other = {"explanationModelName": "claude", "typeName": "eleuther"}
    file.write_bytes(
        lines(row(PYTHON, "snakes"), row(RIVER, "water"), row(PYTHON, "code", **other))
    )
    answer = fac(
        *("explain", "toy-anchor", "--explainer", "external", "--file", file, "--json"),
        workspace=workspace,
    )
    first, second = answer.json["runs"]
    assert (first["n_features"], second["n_features"]) == (2, 1)
    assert first["left_out"] == {AUTHOR: 1} and second["left_out"] == {AUTHOR: 2}
    stores = open_stores(workspace, remember=False)
    measure = stores.runs.resolve("measure", "toy-anchor")
    side_by_side = explanations_of(stores, measure, PYTHON)
    stores.cache.close()
    assert {(each.source, each.text) for each in side_by_side} == {
        ("gpt-4o-mini, oai_token-act-pair", "snakes"),
        ("claude, eleuther", "code"),
    }
    with pytest.raises(InputError, match="has nothing by 'nobody': gpt-4o-mini, oai_token"):
        imported(workspace, file, author="nobody")


def test_the_command_says_what_it_left_out(workspace, tmp_path):
    file = tmp_path / "np.jsonl"
    file.write_bytes(lines(row(PYTHON, "snakes"), row(description=""), row(12), row(QUASAR, "a")))
    line = ("explain", "toy-anchor", "--explainer", "external", "--file", file)
    words = fac(*line, workspace=workspace).out
    assert "1 row without a text" in words and "1 row of features that do not fire" in words
    assert "line 3: there is no feature 12: this dictionary has 0 to 11" in words
    data = fac(*line, "--json", workspace=workspace).json
    assert data["left_out"][BEYOND] == 1 and [r["line"] for r in data["rejected"]] == [2, 3]
    file.write_bytes(lines(row(modelId="gpt2-small")))
    assert_one_sentence(fac(*line, workspace=workspace), 2)


def test_what_goes_out_comes_in_equal(world, workspace, tmp_path):
    """Three kinds of explanations and a correction leave; another workspace takes them in, and what
    leaves that one is the same file."""
    runs = Runs(workspace)
    measure = runs.resolve("measure", "toy-anchor")
    file = tmp_path / "np.jsonl"
    other = {"explanationModelName": "claude", "typeName": ""}
    file.write_bytes(
        lines(row(PYTHON, "snakes"), row(RIVER, "“water” \u2028"), row(OVEN, "b", **other))
    )
    fac("explain", "toy-anchor", "--explainer", "external", "--file", file, workspace=workspace)
    for explainer in ("tokens", "llm"):
        run = toy.publish_explanations(
            runs, measure, {PYTHON: f"by {explainer}", RIVER: None}, explainer=explainer
        )
        build(runs, run, workspace.cache)
    shown = review.item(review.explanation_content(measure, PYTHON, "by llm"))
    store = Decisions(workspace.decisions)
    store.add("ana", "explanation", shown.subject, shown.content, "no", edited_text="the language")
    out = tmp_path / "out.jsonl.gz"
    data = fac("explanations", "toy-anchor", "--out", out, "--json", workspace=workspace).json
    assert (data["rows"], data["features"], data["left_out"]) == (6, 3, {"cannot tell": 2})
    written = [json.loads(each) for each in gzip.decompress(out.read_bytes()).splitlines()]
    assert {each["modelId"] for each in written} == {"toy"}
    assert "ana" not in {value for each in written for value in each.values()}
    assert {(r["index"], r["explanationModelName"], r["typeName"]) for r in written} >= {
        (str(PYTHON), "gpt-4o-mini", "oai_token-act-pair"),
        (str(OVEN), "claude", ""),
        (str(PYTHON), "toy-llm", "llm"),
        (str(PYTHON), "", "person"),
    }
    shutil.copytree(world.root, tmp_path / "other")
    there = Workspace(tmp_path / "other")
    fac("explain", "toy-anchor", "--explainer", "external", "--file", out, workspace=there)
    back = tmp_path / "back.jsonl"
    fac("explanations", "toy-anchor", "--out", back, workspace=there)
    returned = [json.loads(each) for each in back.read_bytes().splitlines()]

    def by_all(rows: list[dict[str, Any]]) -> list[list[Any]]:
        return sorted([*each.items()] for each in rows)

    assert by_all(returned) == by_all(written)


def test_the_document_names_tests_that_there_are():
    document = (REPOSITORY / "docs" / "formats.md").read_text("utf-8").split("\n# Explanations")[1]
    tests = re.findall(r"`(test_\w+)`", document.split("\n# ")[0])
    assert len(tests) >= 9 and {*tests} <= {*globals()}


def test_nothing_to_write_is_a_sentence(workspace, tmp_path):
    answer = fac("explanations", "toy-seed", "--out", tmp_path / "a.jsonl", workspace=workspace)
    assert_one_sentence(answer, 2)
    assert "fac explain toy-seed" in answer.err


# --- on the page ----------------------------------------------------------------------------------


def test_a_file_is_imported_on_the_features_page_and_what_is_left_out_is_said(explained):  # noqa: F811
    at = opened("features", dataset="toy-anchor")
    other = {"explanationModelName": "claude"}
    content = lines(row(PYTHON, "snakes"), row(12), row(RIVER, "streams", **other))
    ran(at.file_uploader(key="explanations").upload("np.jsonl", content).run())
    ran(button(at, "Import them").click().run())
    jobs = Queue(explained.queue).jobs()
    authors = {"gpt-4o-mini, oai_token-act-pair", "claude, oai_token-act-pair"}
    assert {job.spec["author"] for job in jobs} == authors
    work_off(explained)
    at = opened("features", dataset="toy-anchor", feature=str(PYTHON))
    assert "1 row of a feature that the dictionary lacks" in words(at)
    assert "snakes" in markup(at)
    assert "Explanations" in [each.proto.label for each in at.get("download_button")]
    ran(at.file_uploader(key="explanations").upload("np.jsonl", lines(row(12))).run())
    ran(button(at, "Import them").click().run())
    assert "explains no feature of toy-anchor: 1 row of a feature" in words(at)
