"""Explaining, judging and deciding from the command line, with a real server and without any."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fac import review
from fac.config import Workspace
from fac.prompts.relevance import TASKS
from fac.questions.explanations import named, score_figures
from fac.schema import LEVELS
from fac.store import cache, open_stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from tests import toy
from tests.server import ScriptedServer
from tests.test_cli import PAIR, Answered, assert_one_sentence, fac
from tests.test_interpret import honest, prompt_of


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy.toy_workspace(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture
def workspace(kitchen: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the toy workspace that a test may change."""
    shutil.copytree(kitchen.root, tmp_path / "kitchen")
    return Workspace(tmp_path / "kitchen")


@pytest.fixture
def server() -> ScriptedServer:
    def answer(body: dict[str, Any]) -> str:
        return honest(prompt_of(body))

    return ScriptedServer(answer)


def test_explain_needs_no_key_and_prints_the_median_auroc(tmp_path, monkeypatch):
    workspace = toy.toy_workspace(tmp_path, samples=toy.TWICE)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answer = fac(
        *("explain", "toy-anchor", "--missing-from", "toy-seed", "--threshold", 0, "--json"),
        workspace=workspace,
    )
    assert answer.code == 0, answer.err
    missing = fac("coverage", *PAIR, "--list", "--json", workspace=workspace).json["missing"]
    data = answer.json
    assert data["n_features"] == len(missing) == data["counts"]["explained"]
    rows = Runs(workspace).table(data["run"], "scores").to_pylist()
    assert [row["feature"] for row in rows] == missing
    assert data["scores"]["auroc"]["median"] == np.median([row["value"] for row in rows])
    line = ("explain", "toy-anchor", "--missing-from", "toy-seed", "--threshold", 0)
    words = fac(*line, workspace=workspace)
    assert f"median auroc  {data['scores']['auroc']['median']:.4f} over" in words.out
    assert 0 < data["by_length"] < 1 and f"{data['by_length']:.4f}, what the length" in words.out


def test_explain_counts_the_features_that_have_too_few_samples_for_a_score(workspace):
    """Each of the missing words is said in six samples of the toy anchor."""
    line = ("explain", "toy-anchor", "--missing-from", "toy-seed", "--threshold", "0")
    data = fac(*line, "--json", workspace=workspace).json
    assert (data["scores"], data["too_few"]) == ({}, 6)
    words = fac(*line, workspace=workspace).out
    assert "6 features fire in fewer than 10 samples and have no score" in words


def test_scores_that_an_earlier_version_gave_to_few_samples_are_withheld(workspace):
    runs = Runs(workspace)
    anchor = runs.resolve("measure", "toy-anchor")
    values = {3: 0.9, 9: 0.8}  # python is said in six samples, please in twelve
    run = toy.publish_explanations(runs, anchor, values=values, n_positive=3)
    cache.build(runs, run, workspace.cache)
    stores = open_stores(workspace, remember=True)
    figures = score_figures(stores, run)
    assert figures == {
        "scores": {"auroc": {"n": 1, "median": 0.8}},
        "too_few": 1,
        "by_length": None,
    }
    assert runs.manifest(run).facts.scores["auroc"]["n"] == 2
    rows = stores.cache.explanations(run, [3, 9])
    assert [row["scores"]["auroc"]["value"] for row in rows] == [None, 0.8]
    assert named(stores, anchor, [3, 9])[3].text == "unknown: python"
    assert named(stores, anchor, [3, 9])[9].text == "the word please"


def test_gaps_carry_their_explanations(tmp_path):
    workspace = toy.toy_workspace(tmp_path, samples=toy.TWICE)
    fac("explain", "toy-anchor", workspace=workspace)
    rows = fac("gaps", *PAIR, "--json", workspace=workspace).json["gaps"]
    by = {row["feature"]: row for row in rows}
    assert "“python”" in by[3]["explanation"]
    assert by[3]["explainer"] == "tokens" and by[3]["score"] == 1.0


def test_explain_and_judge_ask_a_server_once_and_coverage_counts_what_it_found(
    workspace, server, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-this-test")
    with server.running():
        model = ("--model", "m", "--endpoint", server.endpoint)
        answer = fac(
            *("explain", "toy-anchor", "--explainer", "llm", "--score", "detection"),
            *("--features", "3,#6", "--price-in", 1, "--price-out", 2, "--budget-usd", 1),
            *(*model, "--json"),
            workspace=workspace,
        )
        assert answer.code == 0, answer.err
        assert answer.json["scores"]["detection"] == {"n": 2, "median": 1.0}
        assert answer.json["cost"] > 0
        judged = fac(
            "judge", "toy-anchor", "--task", "toxicity", *model, "--json", workspace=workspace
        )
        assert judged.code == 0, judged.err
    assert set(server.served.values()) == {1}
    assert judged.json["counts"]["yes"] >= 1
    covered = fac("coverage", *PAIR, "--relevant", "toxicity", "--json", workspace=workspace).json
    assert covered["n_anchor"] == judged.json["counts"]["yes"]
    for path in workspace.root.rglob("*"):
        if path.is_file():
            assert b"sk-secret-of-this-test" not in path.read_bytes(), path
    assert "sk-secret" not in answer.out + answer.err + judged.out + judged.err


def test_a_persons_verdict_overrides_the_judge_until_the_wording_changes(workspace, server):
    with server.running():
        model = ("--model", "m", "--endpoint", server.endpoint)
        fac("judge", "toy-anchor", "--task", "toxicity", *model, workspace=workspace)
        runs = Runs(workspace)
        anchor = runs.resolve("measure", "toy-anchor")
        ask = ("coverage", *PAIR, "--relevant", "toxicity", "--json")
        before = fac(*ask, workspace=workspace).json["n_anchor"]
        content = review.relevance_content(anchor, 6, "toxicity", TASKS["toxicity"].rubric, None)
        store = Decisions(workspace.decisions)
        about = review.subject("relevance", anchor, 6, "toxicity")
        store.add("ana", "relevance", about, content, "yes")
        assert fac(*ask, workspace=workspace).json["n_anchor"] == before + 1
        fac("explain", "toy-anchor", workspace=workspace)  # feature 6 now has an explanation
        assert fac(*ask, workspace=workspace).json["n_anchor"] == before


def test_label_contrast_judges_without_a_model(workspace):
    answer = fac(
        *("judge", "toy-anchor", "--task", "reward", "--judge", "labels", "--label", "nobody"),
        workspace=workspace,
    )
    assert_one_sentence(answer)
    assert "'nobody'" in answer.err


def test_labels_of_another_dataset_say_which_features_of_an_anchor_are_relevant(workspace):
    """The first half of the seed's samples are labelled: what they alone say is relevant."""
    runs = Runs(workspace)
    seed = runs.resolve("measure", "toy-seed")
    n = runs.manifest(seed).facts.n_samples
    toy.label_samples(runs, "toy-seed", ["a"] * (n // 2) + ["b"] * (n - n // 2))
    line = ("judge", "toy-anchor", "--task", "reward", "--judge", "labels", "--label", "a")
    line = (*line, "--labels-from", "toy-seed", "--json")
    paper = fac(*line, "--threshold", 0, workspace=workspace).json
    assert paper["source"] == "label a of toy-seed" and paper["threshold"] == 0
    spec = runs.manifest(paper["run"]).spec
    assert (spec.measure, spec.labels) == (runs.resolve("measure", "toy-anchor"), seed)
    clear = fac(*line, workspace=workspace).json
    assert clear["threshold"] > 0 and clear["run"] != paper["run"]
    assert clear["source"] == f"label a of toy-seed, peaks above {clear['threshold']:g}"
    assert "relevant for reward" in clear["scope"]
    again = fac(*line, "--threshold", 0, workspace=workspace).json
    assert again["counts"] == paper["counts"] and again["scope"] == paper["scope"]
    assert again["run"] not in (paper["run"], clear["run"]), "who asks last is right"
    assert fac(*line, "--threshold", 0, workspace=workspace).json["run"] == again["run"]
    # whose verdicts count for the dataset as an anchor too
    covered = fac(
        *("coverage", "--anchor", "toy-seed", "--dataset", "toy-anchor", "--relevant", "reward"),
        *("--json",),
        workspace=workspace,
    )
    assert covered.code == 0, covered.err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (("explain", "toy-anchor", "--explainer", "llm"), "--model"),
        (("explain", "toy-anchor", "--explainer", "guess"), "llm, external, tokens"),
        (("explain", "toy-anchor", "--features", "x"), "numbers such as"),
        (("explain", "toy-anchor", "--features", "99"), "no feature 99"),
        (("explain", "nothing"), "toy-anchor"),
        (("explain", "toy-anchor", "--features", "1", "--missing-from", "toy-seed"), "one of them"),
        (("explain", "toy-anchor", "--explainer", "external"), "--file"),
        (("judge", "toy-anchor", "--task", "nonsense"), "toxicity"),
        (("judge", "toy-anchor", "--task", "reward"), "--model"),
        (
            ("judge", "toy-anchor", "--task", "reward", "--labels-from", "toy-seed"),
            "reads no labels",
        ),
        (
            ("judge", "toy-anchor", "--task", "reward", "--judge", "labels", "--label", "a")
            + ("--threshold", "x"),
            "A threshold is a number or",
        ),
        (
            ("judge", "toy-anchor", "--task", "reward", "--model", "m", "--budget-usd", "1"),
            "both prices",
        ),
        (
            ("judge", "toy-anchor", "--task", "reward", "--model", "m", "--endpoint", "ftp://x"),
            "http",
        ),
        (("agreement", "--kind", "pair"), "explanation, relevance or sample"),
        (("coverage", *PAIR, "--relevant", "reward"), "fac judge"),
    ],
)
def test_bad_input_is_one_sentence(workspace, line, why):
    answer = fac(*line, workspace=workspace)
    assert_one_sentence(answer)
    assert why in answer.err


def test_openai_without_a_key_is_one_sentence(workspace, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    answer = fac(
        "judge", "toy-anchor", "--task", "reward", "--model", "gpt-4o-mini", workspace=workspace
    )
    assert_one_sentence(answer)
    assert "OPENAI_API_KEY" in answer.err


def test_a_server_that_is_not_there_is_exit_code_3(workspace, monkeypatch):
    from fac.generator import batch_chat

    monkeypatch.setattr(batch_chat, "FIRST_PAUSE", 0.001)
    line = ("--task", "reward", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1")
    assert_one_sentence(fac("judge", "toy-anchor", *line, workspace=workspace), code=3)


# --- decisions ------------------------------------------------------------------------------------


def decided(workspace: Workspace) -> Decisions:
    """Two reviewers on three explanations; they differ on one."""
    store = Decisions(workspace.decisions)
    for feature, (first, second) in {1: ("yes", "yes"), 2: ("yes", "no"), 3: ("no", "no")}.items():
        content = review.explanation_content("measure-1", feature, f"text {feature}")
        about = review.subject("explanation", "measure-1", feature)
        store.add("ana", "explanation", about, content, first, seconds=2.0)
        store.add("ben", "explanation", about, content, second)
    return store


@pytest.mark.parametrize("group", ["decisions", "review"])
def test_decisions_travel_between_workspaces(workspace, tmp_path, group):
    decided(workspace)
    file = tmp_path / "decisions.jsonl"
    assert fac(group, "export", "--out", file, "--json", workspace=workspace).json["rows"] == 6
    there = Workspace(tmp_path / "there")
    assert fac(group, "import", file, "--json", workspace=there).json["added"] == 6
    again = fac(group, "import", file, "--json", workspace=there).json
    assert (again["added"], again["known"]) == (0, 6)
    assert [*Decisions(there.decisions).export()] == file.read_text().splitlines()
    assert fac(group, "export", workspace=there).out.splitlines() == file.read_text().splitlines()


def test_a_bad_line_of_an_import_fails_the_command_and_keeps_the_others(workspace, tmp_path):
    store = decided(workspace)
    lines = [*store.export()]
    file = tmp_path / "decisions.jsonl"
    file.write_text("\n".join([lines[0], "nonsense", *lines[1:]]) + "\n")
    there = Workspace(tmp_path / "there")
    answer = fac("decisions", "import", file, workspace=there)
    assert answer.code == 1
    assert "line 2" in answer.err
    assert len(Decisions(there.decisions).current()) == 6


def test_agreement_prints_every_coefficient(workspace):
    decided(workspace)
    data = fac("agreement", "--json", workspace=workspace).json
    assert data["items"] == 3 and data["reviewers"] == ["ana", "ben"]
    by = {c["name"]: c for c in data["coefficients"]}
    assert by["raw agreement"]["value"] == pytest.approx(2 / 3)
    # yes/yes, yes/no, no/no: chance agrees in 1/3 * 2/3 + 2/3 * 1/3 = 4/9, so kappa is 2/5
    assert next(c["value"] for n, c in by.items() if n.startswith("Cohen")) == pytest.approx(0.4)
    assert data["human_check"]["n"] == 3
    words = fac("agreement", workspace=workspace)
    assert "0.6667" in words.out


def test_agreement_of_nobody_is_not_defined(workspace):
    answer = fac("agreement", workspace=workspace)
    assert answer.code == 0
    assert "not defined" in answer.out
    assert all(
        c["value"] is None
        for c in fac("agreement", "--json", workspace=workspace).json["coefficients"]
    )


# --- a real server --------------------------------------------------------------------------------


def kept_or_told(answer: Answered) -> bool:
    """Whether a step was kept; where nothing that so small a model says can be read, or it comes to
    no answer, it is told."""
    assert answer.code in (0, 3), answer.err
    told = "can be read, so nothing is kept", "ran out before an answer began"
    assert answer.code == 0 or any(each in answer.err for each in told), answer.err
    return answer.code == 0


@pytest.mark.model
def test_a_real_model_behind_a_real_server_explains_scores_and_judges(
    workspace, real_server, tmp_path
):
    endpoint, name = real_server
    model = ("--model", name, "--endpoint", endpoint, "--concurrency", 2, "--json")
    runs = Runs(workspace)
    answer = fac(
        *("explain", "toy-anchor", "--explainer", "llm", "--features", 3, *model),
        workspace=workspace,
    )
    if kept_or_told(answer):
        assert sum(answer.json["counts"].values()) == 1 and not answer.json["counts"].get("failed")
        (reply,) = runs.table(answer.json["run"], "replies").to_pylist()
        assert reply["reply"] is not None and reply["completion_tokens"] > 0
        assert json.loads(reply["prompt"])[-1]["role"] == "user"
    names = tmp_path / "names.jsonl"
    names.write_text('{"index": 3, "description": "the word python"}\n')
    scored = fac(
        *("explain", "toy-anchor", "--explainer", "external", "--file", names),
        *("--score", "detection", "--score", "fuzzing", *model),
        workspace=workspace,
    )
    if kept_or_told(scored):
        scores = runs.table(scored.json["run"], "scores").to_pylist()
        replies = runs.table(scored.json["run"], "replies").to_pylist()
        assert {row["score"] for row in scores} == {"detection", "fuzzing"}
        assert all(row["n"] + row["n_unreadable"] > 0 for row in scores)
        assert scored.json["asked"]["answered"] == len(replies)
        n_unreadable = sum(bool(reply["failure"]) for reply in replies)
        assert scored.json["asked"].get("unreadable", 0) == n_unreadable
    line = ("judge", "toy-anchor", "--task", "reward", "--features", 3, *model)
    judged = fac(*line, workspace=workspace)
    again = fac(*line, workspace=workspace)
    if kept_or_told(judged):
        (verdict,) = runs.table(judged.json["run"], "relevance").to_pylist()
        assert verdict["level"] in LEVELS
        assert again.json["run"] == judged.json["run"]
    else:
        assert (again.code, again.err) == (judged.code, judged.err)
