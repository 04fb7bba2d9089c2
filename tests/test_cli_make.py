"""Pairs, approval, synthesis and export from the command line: the whole loop without a model, with
a server that is scripted and with one that is real."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fac import review
from fac.cli import frame
from fac.config import PairsSpec, RescoreSpec, Spec, SynthesizeSpec, Workspace
from fac.export import EXPORT_FORMATS, provenance
from fac.generator.writer import Request
from fac.jobs.steps import decoder_directions
from fac.jobs.worker import Worker
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy
from tests.scripted import ScriptedWriter
from tests.server import ScriptedServer, Status, completion
from tests.test_cli import PAIR, assert_one_sentence, fac
from tests.test_jobs import ToySteps, quiet

MISSING = [3, 4, 5, 6, 7, 8]
"""What toy-seed lacks: python function loop river mountain train."""

MANNERS = (
    *("Explain quickly what happens", "Why would anybody want", "Compare seven kinds of"),
    *("My aunt keeps asking me about", "List what goes wrong with", "Draw me"),
)

SHORT = ("Draw me", "Name any", "Sing of", "Count each", "Paint some", "Praise that")
"""Manners of step 2, whose texts begin with words of the positive and are no longer than others."""


def worded(request: Request) -> str:
    """A text for the gap in the request's key, each in another manner; the word of the gap is in
    what was asked for with it in mind. Step 2 ends in other words than step 1, so that the word is
    its own."""
    method, feature, number, _, *answer = request.key.split("/")
    if answer:
        return f"Well {'so ' * int(number)}number {feature} is hard to say {method}"
    word = toy.WORDS[int(feature)] if method in ("step-1", "one-step", "two-step") else "nothing"
    if method == "two-step":
        manner = SHORT[int(number) % len(SHORT)]
        return f" {manner} {word}{'!' * int(number)} as case {int(feature)}"
    manner = MANNERS[int(number) % len(MANNERS)]
    return f" {manner} {word}{'!' * int(number)} number {feature}"


class MakingSteps(ToySteps):
    """The real steps with words as features and a scripted writer."""

    lexicon = toy.WORDS
    says: Callable[[Request], Any] = staticmethod(worded)

    def writer(self, spec, progress):
        if spec.writer == "openai":
            return super().writer(spec, progress)
        type(self).last = ScriptedWriter(self.says)
        return self.last


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy.toy_workspace(tmp_path_factory.mktemp("kitchen"), explained=True)


@pytest.fixture
def workspace(kitchen: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the toy workspace that a test may change, where steps need no model."""
    shutil.copytree(kitchen.root, tmp_path / "kitchen")
    monkeypatch.setattr(frame, "Steps", MakingSteps)
    return Workspace(tmp_path / "kitchen")


def done(*line: object, workspace: Workspace) -> dict[str, Any]:
    """What a command line answers that must not fail."""
    answer = fac(*line, "--json", workspace=workspace)
    assert answer.code == 0, answer.err
    return answer.json


# --- the loop -------------------------------------------------------------------------------------


def test_the_loop_from_gaps_to_an_export_that_closes_them(workspace, tmp_path):
    before = done("coverage", *PAIR, "--list", workspace=workspace)
    assert before["missing"] == MISSING
    made = done("pairs", *PAIR, "--candidates", 2, workspace=workspace)
    assert (made["pairs"], made["failed"]) == (len(MISSING), [])
    assert (
        done("approve", made["run"], "--all", "--reviewer", "ana", workspace=workspace)["approved"]
        == 6
    )
    kept = done(
        "synthesize", made["run"], "--per-feature", 3, "--budget", 10_000, workspace=workspace
    )
    assert kept["kept"] == len(MISSING)
    assert kept["kept"] + sum(kept["dropped"].values()) == 3 * len(MISSING)
    assert kept["hit_rate"] == 1.0 and kept["features_gained"] == len(MISSING)
    assert kept["fac_before"] == before["fac"] and kept["fac_after"] == toy.fac_of(10, 10)
    out = tmp_path / "kept.jsonl"
    assert done("export", kept["run"], "--out", out, workspace=workspace)["rows"] == len(MISSING)
    assert done("ingest", out, "--name", "made", workspace=workspace)["rejected"] == []
    measured = done("measure", "made", workspace=workspace)["run"]
    again = done(
        *("coverage", "--anchor", "toy-anchor", "--dataset", "made", "--threshold", 0, "--list"),
        workspace=workspace,
    )
    assert not {*again["missing"]} & {*MISSING}
    peaks = Runs(workspace).table(measured, "activations").to_pylist()
    for number, line in enumerate(out.read_text("utf-8").splitlines()):
        lineage = json.loads(line)["lineage"]
        (peak,) = [
            row["peak"]
            for row in peaks
            if (row["sample"], row["feature"]) == (number, lineage["feature"])
        ]
        assert peak == lineage["activation"] > 0


def test_the_same_commands_again_write_nothing(workspace):
    line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 2)
    first = done(*line, workspace=workspace)
    wrote = sum(MakingSteps.last.written.values())
    assert wrote == 4
    assert done(*line, workspace=workspace) == first
    assert not MakingSteps.last.written
    done("approve", first["run"], "--all", "--reviewer", "ana", workspace=workspace)
    line = ("synthesize", first["run"], "--per-feature", 2)
    kept = done(*line, workspace=workspace)
    assert sum(MakingSteps.last.written.values()) == 4
    assert done(*line, workspace=workspace) == kept
    assert not MakingSteps.last.written


def test_what_was_made_can_be_browsed_at_once(workspace):
    made = paired(workspace)
    approved(workspace, made)
    kept = done("synthesize", made, workspace=workspace)
    with closing(Cache(workspace.cache)) as cache:
        _, n_written = cache.candidates(made)
        assert n_written > 0
        for reason, n_dropped in kept["dropped"].items():
            assert cache.candidates(kept["run"], reason=reason)[1] == n_dropped
        assert cache.candidates(kept["run"], only="kept")[1] == kept["kept"]
        kept_rows, _ = cache.candidates(kept["run"], only="kept")
        assert {row["peak"] > 0 for row in kept_rows} == {True}


def test_gaps_are_the_best_supported_unless_others_are_named(workspace):
    gaps = done("gaps", *PAIR, workspace=workspace)["gaps"]
    best = [row["feature"] for row in gaps][:2]
    made = done("pairs", *PAIR, "--limit", 2, "--candidates", 1, workspace=workspace)["run"]
    assert Runs(workspace).manifest(made).spec.features == tuple(sorted(best))
    task = ("--relevant", toy.TASK)
    made = done("pairs", *PAIR, *task, "--candidates", 1, workspace=workspace)["run"]
    assert Runs(workspace).manifest(made).spec.features == (3, 4, 5, 6)
    made = done("pairs", *PAIR, *task, "--maybe", "--candidates", 1, workspace=workspace)["run"]
    assert Runs(workspace).manifest(made).spec.features == (3, 4, 5, 6, 7)


def test_a_gap_without_a_pair_says_why(workspace):
    made = done("pairs", *PAIR, "--features", "3,11", "--candidates", 1, workspace=workspace)
    assert made["pairs"] == 1
    (failed,) = made["failed"]
    assert failed["feature"] == 11 and len(failed["reason"]) > 10
    words = fac("pairs", *PAIR, "--features", "3,11", "--candidates", 1, workspace=workspace)
    assert f"feature 11: {failed['reason']}" in words.out


@pytest.mark.parametrize("method", ["one-step", "unguided", "random"])
def test_baselines_write_for_the_same_gaps_without_pairs(workspace, method):
    made = paired(workspace)
    line = ("synthesize", made, "--method", method, "--per-feature", 2, "--json")
    answer = fac(*line, workspace=workspace)
    assert answer.code == (0 if method == "one-step" else 1), answer.err
    kept = answer.json
    rows = Runs(workspace).table(kept["run"], "candidates").to_pylist()
    assert [row["feature"] for row in rows] == [3, 3, 6, 6]
    assert {row["pair"] for row in rows} == {""}
    assert kept["hit_rate"] == (1.0 if method == "one-step" else 0.0)


def test_samples_that_nobody_needs_are_dropped_where_that_is_asked_for(workspace):
    made = paired(workspace)
    approved(workspace, made)
    line = ("synthesize", made, "--per-feature", 3, "--keep", 2)
    every = done(*line, workspace=workspace)
    needed = done(*line, "--only-needed", workspace=workspace)
    assert (every["kept"], needed["kept"]) == (4, 2)
    assert needed["dropped"]["redundant"] == 2 and "redundant" not in every["dropped"]
    assert needed["run"] != every["run"] and needed["fac_after"] == every["fac_after"]


def test_a_pilot_tells_what_the_whole_will_take_and_its_texts_count(workspace):
    made = done("pairs", *PAIR, "--candidates", 2, workspace=workspace)["run"]
    approved(workspace, made)
    line = ("synthesize", made, "--per-feature", 2)
    forecast = done(*line, "--pilot", workspace=workspace)
    assert (forecast["candidates"], forecast["accepted"], forecast["rate"]) == (6, 6, 1.0)
    assert forecast["low"] < 1.0 and forecast["high"] == 1.0
    facts = Runs(workspace).manifest(forecast["run"]).facts
    assert forecast["tokens"] == pytest.approx(facts.tokens * 6 / 3)
    done(*line, workspace=workspace)
    assert sum(MakingSteps.last.written.values()) == 6  # of 12, the pilot wrote the others


# --- approval -------------------------------------------------------------------------------------


def paired(workspace: Workspace, features: str = "3,6") -> str:
    """A pairs run for two gaps."""
    line = ("pairs", *PAIR, "--features", features, "--candidates", 2)
    return done(*line, workspace=workspace)["run"]


def approved(workspace: Workspace, made: str, *line: object) -> dict[str, Any]:
    return done("approve", made, *(line or ("--all",)), "--reviewer", "ana", workspace=workspace)


def test_without_an_approval_nothing_is_written(workspace):
    made = paired(workspace)
    MakingSteps.last.requests.clear()
    answer = fac("synthesize", made, workspace=workspace)
    assert_one_sentence(answer)
    assert "approve" in answer.err
    assert not MakingSteps.last.requests


def test_a_writer_that_refuses_everything_is_told_in_one_sentence(workspace, monkeypatch):
    made = paired(workspace)
    approved(workspace, made)
    monkeypatch.setattr(MakingSteps, "says", staticmethod(lambda _: "I cannot help with that."))
    line = ("synthesize", made, "--per-feature", 2)
    answer = fac(*line, "--json", workspace=workspace)
    assert answer.code == 1
    assert (answer.json["kept"], answer.json["dataset"]) == (0, "")
    assert answer.json["dropped"] == {"refusal": 4}
    assert answer.err.count("\n") == 1 and "Nothing is kept of 4 texts" in answer.err
    assert_one_sentence(fac("export", answer.json["run"], "--out", "x", workspace=workspace))


def test_a_gap_that_nobody_has_an_example_of_is_no_pair_and_no_text(workspace):
    answer = fac("pairs", *PAIR, "--features", "11", "--json", workspace=workspace)
    assert answer.code == 1 and answer.json["pairs"] == 0
    assert answer.err.startswith("fac: No gap of 1 has a pair: ")
    assert not MakingSteps.last.written
    assert_one_sentence(
        fac("approve", answer.json["run"], "--ids", "11", "--reviewer", "ana", workspace=workspace)
    )


def test_exactly_so_many_rows_are_kept_or_it_is_said(workspace, monkeypatch):
    made = done("pairs", *PAIR, "--candidates", 2, workspace=workspace)["run"]
    approved(workspace, made)
    line = ("synthesize", made, "--per-feature", 3)
    assert done(*line, "--rows", 4, workspace=workspace)["kept"] == 4

    def all_but_mountains(request: Request) -> str:
        return worded(request).replace("mountain", "hill")

    monkeypatch.setattr(MakingSteps, "says", staticmethod(all_but_mountains))
    more = fac(*line, "--rows", 6, "--attempt", 1, "--json", workspace=workspace)
    assert more.code == 1 and more.json["kept"] == 5
    assert "5 of 6 rows are kept" in more.err
    assert [gap["feature"] for gap in more.json["tried"]] == [toy.WORDS.index("mountain")]
    assert_one_sentence(fac(*line, "--rows", 40, workspace=workspace))
    assert_one_sentence(fac(*line, "--rows", -1, workspace=workspace))


def test_the_outcome_names_both_rates_own_words_first(workspace):
    made = paired(workspace)
    approved(workspace, made)
    answer = fac("synthesize", made, "--per-feature", 2, workspace=workspace)
    words = answer.out
    assert 0 < words.index("own-words hit rate") < words.index("fires anywhere")
    kept = done("synthesize", made, "--per-feature", 2, workspace=workspace)
    low, high = kept["hit_rate_low"], kept["hit_rate_high"]
    rate = f"{kept['hit_rate']:.0%} ({kept['gaps_hit']} of 2 gaps; 95 % interval"
    assert f"{rate} {low:.0%} to {high:.0%})" in words
    assert kept["any_hit_rate"] >= kept["hit_rate"]


def test_samples_have_the_shape_of_the_data_unless_another_is_named(workspace):
    line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 1)
    made = done(*line, workspace=workspace)
    assert made["profile"] == made["dataset_shape"] == "instruction"
    words = fac(*line, workspace=workspace).out
    assert "Messages to an assistant (the data are messages without answers)" in words
    chats = done(*line, "--profile", "chat", workspace=workspace)
    assert (chats["profile"], chats["dataset_shape"]) == ("chat", "instruction")
    spec = Runs(workspace).manifest(chats["run"]).spec
    assert (spec.profile, spec.answers) == ("chat", "")
    refused = fac(*line, "--profile", "chat", "--answers", "aunt", workspace=workspace)
    assert_one_sentence(refused)


@pytest.mark.parametrize("option", ["--hold-out", "--evaluation"])
def test_a_file_to_hold_out_has_two_names(workspace, tmp_path, option):
    made = paired(workspace)
    approved(workspace, made)
    (tmp_path / "test.jsonl").write_text('{"text": "Something quite different"}\n')
    kept = done(
        *("synthesize", made, "--per-feature", 2, option, tmp_path / "test.jsonl"),
        workspace=workspace,
    )
    facts = Runs(workspace).manifest(kept["run"]).facts
    assert [*facts.evaluation] == ["test.jsonl"]


def test_pairs_are_approved_by_feature_by_id_or_by_their_score(workspace):
    made = done("pairs", *PAIR, "--candidates", 2, workspace=workspace)["run"]
    rows = {row["feature"]: row for row in Runs(workspace).table(made, "pairs").to_pylist()}
    answer = approved(workspace, made, "--ids", f"3, #6,{rows[7]['pair']}")
    assert answer["approved"] == 3
    assert answer["pairs"] == [rows[feature]["pair"] for feature in (3, 6, 7)]
    facts = review.approved_pairs(Decisions(workspace.decisions), Runs(workspace), made)
    assert [row["feature"] for row in facts] == [3, 6, 7]
    score = rows[3]["positive_peak"]
    above = [row for row in rows.values() if row["positive_peak"] > score]
    assert approved(workspace, made, "--above", score)["approved"] == len(above)


def test_approving_twice_is_one_decision(workspace):
    made = paired(workspace)
    approved(workspace, made)
    assert approved(workspace, made)["approved"] == 2
    assert len(Decisions(workspace.decisions).current("pair")) == 2


def test_the_name_of_the_dataset_finds_its_newest_pairs(workspace):
    made = paired(workspace)
    assert approved(workspace, "toy-seed")["run"] == made


def test_an_edit_makes_an_approval_stale_until_the_edit_is_approved(workspace):
    made = paired(workspace)
    approved(workspace, made)
    edit = RescoreSpec(
        pairs=made, feature=3, positive="Is python! easy to learn", negative="Is it easy to learn"
    )
    edited = MakingSteps(workspace).perform(edit, quiet)
    kept = done("synthesize", made, workspace=workspace)["run"]
    assert {row["feature"] for row in Runs(workspace).table(kept, "candidates").to_pylist()} == {6}
    approved(workspace, made)
    kept = done("synthesize", made, workspace=workspace)["run"]
    rows = Runs(workspace).table(kept, "candidates").to_pylist()
    assert {row["feature"] for row in rows} == {3, 6}
    (pair,) = Runs(workspace).table(edited, "pairs").to_pylist()
    assert {row["pair"] for row in rows if row["feature"] == 3} == {pair["pair"]}
    source = provenance(kept, 0, runs=Runs(workspace))
    assert source.pair["run"] == edited and source.pair["origin"] == "person"
    assert pair["positive"][0]["content"] == edit.positive


def test_a_pair_that_was_rejected_since_is_not_written_from(workspace):
    made = paired(workspace)
    approved(workspace, made)
    store = Decisions(workspace.decisions)
    (row,) = Runs(workspace).rows(made, "pairs", [3]).to_pylist()
    item = review.pair_item(made, row)
    store.add("ana", item.kind, item.subject, item.content, "reject")
    kept = done("synthesize", made, workspace=workspace)["run"]
    assert {row["feature"] for row in Runs(workspace).table(kept, "candidates").to_pylist()} == {6}


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [name for name in EXPORT_FORMATS if name != "axolotl"])
def test_export_takes_a_run_or_the_name_of_its_dataset(workspace, tmp_path, format):
    made = paired(workspace)
    approved(workspace, made)
    kept = done("synthesize", made, workspace=workspace)
    out = tmp_path / "out" / "kept"
    exported = done("export", "toy-seed", "--out", out, "--format", format, workspace=workspace)
    assert exported["rows"] == kept["kept"] and exported["out"] == str(out)
    assert Path(exported["card"]).is_file()
    words = fac("export", kept["run"], "--out", out, "--format", format, workspace=workspace)
    assert words.code == 0 and str(out) in words.out


# --- the worker -----------------------------------------------------------------------------------


def test_the_worker_carries_out_what_a_page_asks_for(workspace):
    runs, queue = Runs(workspace), Queue(workspace.queue)
    anchor, dataset = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))

    def worked(spec: Spec) -> str:
        number = queue.enqueue(spec)
        Worker(workspace, say=lambda _: None, steps=MakingSteps(workspace)).run(until_idle=True)
        job = queue.job(number)
        assert job.status == "done" and job.run_id, job.error
        with closing(Cache(workspace.cache)) as cache:
            assert cache.ready(job.run_id)
        return job.run_id

    made = worked(PairsSpec(anchor=anchor, dataset=dataset, features=(3, 6), candidates=2))
    edit = {"positive": "Is python! easy to learn", "negative": "Is it easy to learn"}
    worked(RescoreSpec(pairs=made, feature=3, **edit))
    approved(workspace, made)
    pairs = review.approved_pairs(Decisions(workspace.decisions), runs, made)
    kept = worked(SynthesizeSpec(pairs=made, approved=tuple(row["pair"] for row in pairs)))
    assert runs.manifest(kept).facts.kept == 2


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (("pairs", *PAIR, "--features", "x"), "numbers such as"),
        (("pairs", *PAIR, "--features", "99"), "no feature 99"),
        (("pairs", "--anchor", "toy-anchor", "--dataset", "toy-anchor"), "no gap"),
        (("pairs", *PAIR, "--profile", "poem"), "instruction, chat"),
        (("pairs", *PAIR, "--writer", "pen"), "local, steered, openai"),
        (("pairs", *PAIR, "--writer", "openai"), "--model"),
        (("pairs", *PAIR, "--candidates", 0), "1 to 64"),
        (("pairs", *PAIR, "--temperature", 3), "0 to 2"),
        (("pairs", *PAIR, "--relevant", "reward"), "fac judge"),
        (("approve", "toy-seed", "--all", "--reviewer", "ana"), "toy-seed"),
        (("approve", "RUN", "--reviewer", "ana"), "--all, --ids or --above"),
        (("approve", "RUN", "--all", "--ids", "3", "--reviewer", "ana"), "one of them"),
        (("approve", "RUN", "--ids", "8", "--reviewer", "ana"), "'8'"),
        (("approve", "RUN", "--ids", ",", "--reviewer", "ana"), "--ids"),
        (("approve", "RUN", "--all", "--reviewer", " "), "name of 1 to"),
        (("synthesize", "nothing"), "nothing"),
        (("synthesize", "RUN"), "approve"),
        (("synthesize", "RUN", "--pilot"), "approve"),
        (("synthesize", "RUN", "--method", "guess"), "two-step"),
        (("synthesize", "RUN", "--keep", 9), "1 to the"),
        (("export", "RUN", "--out", "x.jsonl"), "Nothing finished is called"),
    ],
)
def test_bad_input_is_one_sentence(workspace, line, why):
    made = paired(workspace) if "RUN" in line else ""
    answer = fac(*(made if part == "RUN" else part for part in line), workspace=workspace)
    assert_one_sentence(answer)
    assert why in answer.err


# --- a server -------------------------------------------------------------------------------------


def marked(body: dict[str, Any]) -> str:
    """A text with the word that is marked in what the server was asked."""
    words = re.findall(r"<<\s*(\w+)", body["messages"][-1]["content"])
    return f"{MANNERS[body['seed'] % len(MANNERS)]} {words[-1]}! number {body['seed']}"


def questions(server: ScriptedServer) -> Counter[str]:
    """How often the server was asked for the same text."""
    return Counter(json.dumps([body["messages"], body["seed"]]) for body in server.bodies)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before a question is repeated."""
    from fac.generator import batch_chat

    monkeypatch.setattr(batch_chat, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-this-test")


def test_a_server_writes_pairs_and_samples_and_its_key_stays_out_of_all_files(
    workspace, asks, tmp_path
):
    server = ScriptedServer(marked)
    with server.running():
        model = ("--writer", "openai", "--model", "m", "--endpoint", server.endpoint)
        line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 2, *model)
        made = done(*line, "--price-in", 1, "--price-out", 2, workspace=workspace)
        assert made["pairs"] == 2
        approved(workspace, made["run"])
        kept = done("synthesize", made["run"], workspace=workspace)  # by the same server
        assert kept["kept"] == 2
        out = tmp_path / "kept.jsonl"
        done("export", kept["run"], "--out", out, workspace=workspace)
    assert set(questions(server).values()) == {1} and len(server.bodies) == 8 - 4 + 4
    for path in (*workspace.root.rglob("*"), *tmp_path.glob("kept.*")):
        if path.is_file():
            assert b"sk-secret-of-this-test" not in path.read_bytes(), path
    assert not [*workspace.runs.rglob(".replies-*")]
    assert "127.0.0.1" not in out.read_text() + out.with_name("kept.card.md").read_text()


def test_what_a_server_was_paid_for_is_not_asked_again_after_it_failed(workspace, asks):
    server = ScriptedServer(marked)
    broken = {"left": 3}

    def failing(body: dict[str, Any], text: str) -> Any:
        broken["left"] -= 1
        if broken["left"] < 0:
            return Status(401, {"error": {"message": "no more credit"}})
        return completion(body, text)

    server.envelope = failing
    with server.running():
        model = ("--writer", "openai", "--model", "m", "--endpoint", server.endpoint)
        line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 3, "--concurrency", 1, *model)
        assert fac(*line, workspace=workspace).code in (2, 3)
        server.envelope = completion
        paid = 3
        before = len(server.bodies)
        assert done(*line, workspace=workspace)["pairs"] == 2
        assert len(server.bodies) - before == 6 - paid


def test_a_budget_stops_before_it_is_exceeded_and_more_of_it_goes_on(workspace, asks):
    server = ScriptedServer(marked)
    with server.running():
        model = ("--writer", "openai", "--model", "m", "--endpoint", server.endpoint)
        line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 2, *model)
        answer = fac(*line, "--budget", 2300, "--concurrency", 1, "--json", workspace=workspace)
        assert_one_sentence(answer, code=1)
        assert "budget of 2,300" in answer.err
        assert 0 < len(server.bodies) < 4
        assert done(*line, "--budget", 100_000, workspace=workspace)["pairs"] == 2
    assert set(questions(server).values()) == {1} and len(server.bodies) == 4


# --- a model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["local", "steered"])
def test_a_model_in_a_folder_writes_with_its_own_tokens_and_features(tmp_path, writer):
    from tests import tiny

    empty = Workspace(tmp_path / "empty")
    model, sae = tiny.llama(tmp_path / "model"), tiny.sae(tmp_path / "sae")
    how = ("--model", model, "--layer", 2, "--sae", sae)
    for name, texts in (("wide", ("bread and butter", "a long river", "loops")), ("own", ("tea",))):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        done("ingest", file, "--name", name, workspace=empty)
        done("measure", name, *how, workspace=empty)
    gaps = ("--anchor", "wide", "--dataset", "own", "--limit", 3)
    writing = ("--writer", writer, "--model", model, "--max-new-tokens", 8)
    line = ("pairs", *gaps, "--candidates", 2, "--margin", 0, *writing)
    made = done(*line, workspace=empty)
    runs = Runs(empty)
    rows = runs.table(made["run"], "candidates").to_pylist()
    # A model without training may end a text before it begins.
    tokens = [row["tokens"] for row in rows]
    assert len(rows) == 6 and max(tokens) <= 8 and sum(tokens) > 0, tokens
    assert made["pairs"] + len(made["failed"]) == 3 and made["pairs"] > 0
    assert done(*line, workspace=empty) == made
    approved(empty, made["run"])
    # What a model without training writes reads like no text: that nothing is kept is an answer.
    answer = fac("synthesize", made["run"], "--json", workspace=empty)
    kept = answer.json
    assert answer.code == (0 if kept["kept"] else 1)
    assert runs.manifest(kept["run"]).spec.writer == writer
    assert kept["kept"] + sum(kept["dropped"].values()) == 2 * made["pairs"]
    for verdict in runs.table(kept["run"], "verdicts").to_pylist():
        assert verdict["peak"] > 0 or not verdict["kept"]


def test_directions_have_length_one():
    class Encoder:
        class sae:  # noqa: N801 - stands for the attribute
            decoder = np.array([[3, 4], [0, -2]], np.float32)

    direction = decoder_directions(Encoder().sae)
    assert direction(0).tolist() == pytest.approx([0.6, 0.8])
    assert direction(1).tolist() == [0.0, -1.0]


@pytest.mark.model
def test_a_real_model_behind_a_real_server_writes_pairs_and_samples(workspace, real_server, asks):
    endpoint, name = real_server
    model = ("--writer", "openai", "--model", name, "--endpoint", endpoint, "--concurrency", 2)
    line = ("pairs", *PAIR, "--features", "3,6", "--candidates", 1, "--max-new-tokens", 24, *model)
    made = done(*line, workspace=workspace)
    rows = Runs(workspace).table(made["run"], "replies").to_pylist()
    assert len(rows) == 2 and all(row["completion_tokens"] > 0 for row in rows)
    assert made["pairs"] + len(made["failed"]) == 2
    if made["pairs"]:  # an anchor sample stands in where the small model misses
        approved(workspace, made["run"])
        answer = fac("synthesize", made["run"], "--json", workspace=workspace)
        kept = answer.json  # a small model may well write nothing that anybody would train on
        assert answer.code == (0 if kept["kept"] else 1)
        assert kept["kept"] + sum(kept["dropped"].values()) == made["pairs"]
