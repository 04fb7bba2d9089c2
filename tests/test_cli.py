"""The command line: what other programs rely on, and what a person reads when input is bad."""

import contextlib
import errno
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac import __main__ as cli
from fac import coverage
from fac.cli import frame
from fac.config import REPOSITORY, IngestSpec, Workspace
from fac.errors import ServiceError
from fac.schema import ROLES
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests import toy
from tests.lexicon import LexiconEncoder, support
from tests.test_jobs import ToySteps

COMMANDS = {
    *("demo", "ingest", "measure", "coverage", "gaps", "check", "probe"),
    *("preflight", "train-sae", "fetch", "magpie", "worker", "cache rebuild"),
    *("explain", "explanations", "judge", "agreement", "decisions export", "decisions import"),
    *("decisions backup", "decisions restore"),
    *("review export", "review import", "keep"),
    *("pairs", "approve", "synthesize", "export", "fill", "spare", "families"),
    *("second-opinion", "report", "name-family", "experiment"),
    *("app", "mcp", "doctor", "gc", "audit"),
}


class Answered(NamedTuple):
    """What one command line answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that stands on stdout, and nothing beside it."""
        data = json.loads(self.out, parse_constant=pytest.fail)
        assert isinstance(data, dict)
        assert self.out.count("\n") == 1
        return data


def fac(*arguments: object, workspace: Workspace | None = None) -> Answered:
    """Runs a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    line = [str(a) for a in arguments] + (["--workspace", str(workspace.root)] if workspace else [])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(line)
    return Answered(code, out.getvalue(), err.getvalue())


def fac_process(*arguments: object, **options: Any) -> subprocess.Popen:
    """Starts a command line as a shell would."""
    command = [sys.executable, "-m", "fac", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=REPOSITORY, **pipes, **options)


class KitchenSteps(ToySteps):
    lexicon = toy.WORDS


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Workspace:
    """The toy workspace; not to be changed."""
    return toy.toy_workspace(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture
def own_kitchen(kitchen, tmp_path) -> Workspace:
    """A copy of the toy workspace that a test may change."""
    shutil.copytree(kitchen.root, tmp_path / "kitchen")
    return Workspace(tmp_path / "kitchen")


def everything(root: Path) -> dict[str, bytes | None]:
    """All folders and files under a folder with their content."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def assert_one_sentence(answer: Answered, code: int = 2) -> None:
    assert answer.code == code, answer
    assert answer.out == ""
    told = r"(\S[^\n]* is asked about [^\n]+\n)?"  # what was said before a server was asked
    assert re.fullmatch(rf"{told}fac: [^\n]{{10,}}[.?]\n", answer.err), answer.err
    assert "Traceback" not in answer.err


frame.NOTE_SECONDS = float("inf")  # how slow this machine is shall not be what is tested

PAIR = ("--anchor", "toy-anchor", "--dataset", "toy-seed", "--threshold", 0)
"""In the paper's setting: a word that is said shows its feature."""


# --- what there is -------------------------------------------------------------------------------


def test_these_are_the_commands():
    groups = {group.name: group.typer_instance for group in cli.app.registered_groups}
    data = {command.name for command in cli.app.registered_commands} | {
        f"{name} {command.name}" for name, g in groups.items() for command in g.registered_commands
    }
    assert data == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_and_takes_a_workspace_and_json(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    answer = fac(*command.split(), "--help")
    assert answer.code == 0
    assert "--workspace" in answer.out
    assert "--json" in answer.out
    assert answer.err == ""


def test_without_a_command_the_help_is_shown():
    assert fac() == fac("--help")


def test_the_module_is_the_command():
    with fac_process("coverage", "--help") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "FAC of a dataset against an anchor" in out


# --- the contracts of --json ---------------------------------------------------------------------


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ingest_counts_samples_duplicates_and_rejected_rows(workspace, tmp_path):
    rows = [{"text": "tea"}, {"text": "milk"}, {"text": "tea"}, {"text": ""}]
    source = write_lines(tmp_path / "drinks.jsonl", *rows)
    answer = fac(
        "ingest", source, "--name", "drinks", "--on-bad", "skip", "--json", workspace=workspace
    )
    assert (answer.code, answer.err) == (0, "")
    assert Runs(workspace).find(answer.json["run"])
    assert (answer.json["samples"], answer.json["duplicates"]) == (2, 1)
    assert answer.json["rejected"] == [{"line": 4, "reason": "the column 'text' is empty"}]
    assert answer.json["beside"] == []


def test_ingest_says_which_columns_are_no_part_of_the_samples(workspace, tmp_path):
    rows = [{"text": "tea", "id": 1, "label": "hot"}, {"text": "milk", "body": "a novel"}]
    source = write_lines(tmp_path / "drinks.jsonl", *rows)
    line = ("ingest", source, "--name", "drinks")
    words = fac(*line, workspace=workspace)
    assert "Kept beside the texts, not measured: 'id', 'body'." in words.out
    assert fac(*line, "--json", workspace=workspace).json["beside"] == ["id", "body"]


def test_a_path_stays_in_one_piece_however_narrow_the_terminal_is(
    kitchen, workspace, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / f"a folder {'of a long name ' * 12}"
    folder.mkdir()
    decisions, gaps = folder / "decisions.jsonl", folder / "gaps.jsonl"
    words = fac("decisions", "export", "--out", decisions, workspace=workspace)
    assert any(line.endswith(str(decisions)) for line in words.out.splitlines())
    words = fac("gaps", *PAIR, "--out", gaps, workspace=kitchen)
    assert any(line.endswith(str(gaps)) for line in words.out.splitlines())
    bad = write_lines(folder / "bad.jsonl", {"text": "a"}, {"text": ""})
    words = fac("ingest", bad, "--name", "bad", "--on-bad", "skip", workspace=workspace)
    assert "  line 2: the column 'text' is empty" in words.out.splitlines()


def test_measure_stops_at_what_the_template_refuses_or_counts_and_lists_it(
    workspace, tmp_path, monkeypatch
):
    monkeypatch.setattr(frame, "Steps", ToySteps)
    rows = [{"text": text} for text in ("tea", "refuse tea", "shorten milk", "tea")]
    fac("ingest", write_lines(tmp_path / "drinks.jsonl", *rows), "--name", "d", workspace=workspace)
    stopped = fac("measure", "d", workspace=workspace)
    assert (stopped.code, stopped.out) == (2, "")
    assert "Line 2 of d cannot be measured: the template refuses; " in stopped.err
    assert not Runs(workspace).list("sae"), "the dictionary has not begun"
    answer = fac("measure", "d", "--on-bad", "skip", "--json", workspace=workspace)
    assert (answer.code, answer.err) == (0, "")
    assert (answer.json["samples"], answer.json["empty"], answer.json["shortened"]) == (3, 0, 1)
    assert answer.json["rejected"] == [
        {"sample": 1, "line": 2, "reason": "The template refuses."},
    ]
    assert Runs(workspace).manifest(answer.json["run"]).facts.n_rejected == 1
    again = fac("measure", "d", "--on-bad", "skip", workspace=workspace)
    assert "line 2: The template refuses." in again.out


def test_measure_tells_its_speed_and_what_fired(own_kitchen, monkeypatch):
    monkeypatch.setattr(frame, "Steps", KitchenSteps)
    answer = fac("measure", "toy-seed", "--layer", 2, "--json", workspace=own_kitchen)
    assert (answer.code, answer.err) == (0, "")
    data = answer.json
    assert Runs(own_kitchen).manifest(data["run"]).spec.layer == 2
    assert data["tokens"] > 0
    assert data["tokens_per_second"] == pytest.approx(data["tokens"] / data["seconds"], rel=0.5)
    everyone = LexiconEncoder(*toy.WORDS).encode(toy.SEED)
    assert data["features_fired"] == len(np.unique(everyone.feature))


def test_coverage_has_its_figures_and_with_list_the_missing_features(kitchen):
    answer = fac("coverage", *PAIR, "--json", workspace=kitchen)
    data = answer.json
    assert set(data) >= {"fac", "n_anchor", "n_dataset", "n_covered", "n_missing", "kl_smoothed"}
    assert "missing" not in data
    listed = fac("coverage", *PAIR, "--list", "--json", workspace=kitchen).json
    assert {**data, "missing": listed["missing"]} == listed
    missing = [toy.WORDS[i] for i in listed["missing"]]
    assert missing == ["python", "function", "loop", "river", "mountain", "train"]
    assert data["n_missing"] == 6
    assert data["fac"] == pytest.approx(toy.fac_of(4, 10))


def test_coverage_comes_with_its_interval_its_yardstick_and_its_growth(kitchen):
    line = ("coverage", *PAIR, "--threshold", 0)
    data = fac(*line, "--json", workspace=kitchen).json
    assert data["threshold"] == 0
    assert 0 <= data["interval"]["low"] < data["fac"] < data["interval"]["high"] <= 1
    assert set(data["yardstick"]) == {"low", "median", "high", "against", "share"}
    assert data["yardstick"]["median"] > data["fac"], "random parts of the anchor show more"
    assert data["growth"]["rows"][-1]["times"] == 2
    shown = fac(*line, workspace=kitchen).out
    assert data["growth"]["answer"] in shown and "95 % interval" in shown
    assert data["headline"] in shown and data["advice"] in shown
    itself = ("coverage", "--anchor", "toy-anchor", "--dataset", "toy-anchor", "--json")
    data = fac(*itself, workspace=kitchen).json
    assert data["interval"] == {"low": None, "high": None} and "contains it" in data["note"]


def test_coverage_is_asked_of_each_part_of_the_anchor(kitchen):
    line = ("coverage", *PAIR, "--threshold", 0, "--by")
    data = fac(*line, "role", "--json", workspace=kitchen).json
    assert [row["group"] for row in data["by"]["rows"]] == ["system", "user", "assistant"]
    by_label = fac(*line, "label", "--json", workspace=kitchen).json["by"]
    (row,) = by_label["rows"]
    assert (row["group"], row["n_samples"], row["fac"]) == ("toy", 24, data["fac"])
    shown = fac(*line, "source", workspace=kitchen).out
    assert "No sample of toy-anchor says its source." in shown
    refused = fac(*line, "turn", workspace=kitchen)
    assert refused.code == 2 and "--by takes role, source, label, language" in refused.err
    assert data["weighted"]["by_frequency"] < 1


UNSAID = ("--anchor", "toy-anchor", "--dataset", "toy-seed")


def test_where_no_threshold_is_given_it_is_the_anchors_clear_firing(own_kitchen):
    """Most words of the toy are said plainly, which fires with 1: above are bake!, loop!, train!"""
    usual = fac("coverage", *UNSAID, "--json", workspace=own_kitchen).json
    assert (usual["threshold"], usual["n_anchor"], usual["n_missing"]) == (1, 3, 2)
    for number in ("clear", 1, "1.0"):
        line = ("coverage", *UNSAID, "--threshold", number, "--json")
        assert fac(*line, workspace=own_kitchen).json == usual
    gaps = fac("gaps", *UNSAID, "--kind", "absent", "--json", workspace=own_kitchen).json
    assert (gaps["threshold"], gaps["n_missing"]) == (1, 2)
    check = ("check", "toy-seed", "--baseline", "toy-anchor")
    answer = fac(*check, "--json", workspace=own_kitchen).json
    assert (answer["threshold"], len(answer["lost"]), answer["fac"]) == (1, 2, usual["fac"])
    explain = ("explain", "toy-anchor", "--missing-from", "toy-seed")
    answer = fac(*explain, "--json", workspace=own_kitchen).json
    assert (answer["threshold"], answer["n_features"]) == (1, 2)
    for line in (("coverage", *UNSAID), check, explain):
        assert re.search(r"^threshold +1 *$", fac(*line, workspace=own_kitchen).out, re.M), line
    assert "toy-anchor, above 1" in fac("gaps", *UNSAID, workspace=own_kitchen).out


def test_coverage_gaps_and_check_take_what_would_be_added(kitchen):
    whole = ("--with", "toy-anchor", "--with", "toy-seed", "--json")
    data = fac("coverage", *PAIR, *whole, workspace=kitchen).json
    assert (data["fac"], data["n_missing"]) == (toy.fac_of(10, 10), 0)
    assert fac("gaps", *PAIR, *whole, workspace=kitchen).json["n_missing"] == 0
    check = ("check", "toy-seed", "--baseline", "toy-anchor", "--no-regress", "--threshold", 0)
    assert fac(*check, *whole, workspace=kitchen).code == 0, "nothing is lost with the anchor"
    assert fac(*check, "--json", workspace=kitchen).code == 1
    unknown = fac("coverage", *PAIR, "--with", "unheard-of", workspace=kitchen)
    assert_one_sentence(unknown)
    assert "unheard-of" in unknown.err


@pytest.mark.parametrize("role", ["user", "system"])
@pytest.mark.parametrize("min_support", [1, 7])
def test_check_counts_as_coverage_does(kitchen, tmp_path, role, min_support):
    chosen = tmp_path / "ids.json"
    chosen.write_text("[0, 3, 6, 9]")
    settings = ("--role", role, "--min-support", min_support, "--relevant", chosen)
    settings = (*settings, "--threshold", 0, "--json")
    data = fac("coverage", *UNSAID, *settings, workspace=kitchen).json
    check = ("check", "toy-seed", "--baseline", "toy-anchor", *settings)
    answer = fac(*check, workspace=kitchen).json
    same = ("fac", "n_anchor", "n_dataset", "n_covered", "n_missing", "threshold")
    assert {name: answer[name] for name in same} == {name: data[name] for name in same}
    assert {*answer["lost"]} <= {0, 3, 6, 9}, "what is not relevant is not lost"


def test_coverage_among_the_features_of_a_file(kitchen, tmp_path):
    chosen = tmp_path / "ids.json"
    chosen.write_text("[0, 3]")
    data = fac("coverage", *PAIR, "--relevant", chosen, "--list", "--json", workspace=kitchen).json
    assert (data["fac"], data["missing"]) == (toy.fac_of(1, 2), [3])


def test_gaps_are_written_as_lines_of_json_with_their_evidence(kitchen, tmp_path):
    out = tmp_path / "gaps.jsonl"
    answer = fac("gaps", *PAIR, "--out", out, "--json", workspace=kitchen)
    counts = {"certain_absent": 0, "certain_under": 0, "possible": 6, "artefact": 0, "n_asked": 10}
    assert answer.json == {"n_missing": 6, **counts, "rows": 6, "out": str(out), "threshold": 0}
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    support = [row["n_anchor"] for row in rows]
    assert support == sorted(support, reverse=True)
    assert {toy.WORDS[row["feature"]]: row["n_dataset"] for row in rows} == dict.fromkeys(
        ["python", "function", "loop", "river", "mountain", "train"], 0
    )
    train = next(row for row in rows if toy.WORDS[row["feature"]] == "train")
    assert train["label"] == "train! · train"
    # "trailing" has four of its five letters, which is just what the toy SAE asks for
    assert train["near"] == pytest.approx(4 / 5 / toy.SAE_THRESHOLD)


def test_without_a_file_gaps_show_as_many_rows_as_asked_for(kitchen):
    data = fac("gaps", *PAIR, "--limit", 2, "--json", workspace=kitchen).json
    assert (data["n_missing"], data["rows"], len(data["gaps"])) == (6, 2, 2)


def test_gaps_of_one_badge_or_kind_are_those_that_have_it(kitchen):
    every = fac("gaps", *PAIR, "--json", workspace=kitchen).json["gaps"]
    high = (*PAIR, "--threshold", 1.4)  # the anchor's "loop!" and "train!" peak at 1.5
    data = fac("gaps", *high, "--badge", "artefact", "--json", workspace=kitchen).json
    assert [(row["badge"], toy.WORDS[row["feature"]]) for row in data["gaps"]] == [
        ("artefact", "loop"),
        ("artefact", "train"),
    ]
    assert (data["artefact"], data["possible"], data["n_asked"]) == (2, 0, 3)
    data = fac("gaps", *PAIR, "--badge", "certain", "--json", workspace=kitchen).json
    assert (data["gaps"], data["n_missing"]) == ([], 6)
    data = fac("gaps", *PAIR, "--kind", "absent", "--json", workspace=kitchen).json
    assert data["gaps"] == every and {row["kind"] for row in every} == {"absent"}
    answer = fac("gaps", *PAIR, "--badge", "possible", "--kind", "absent", workspace=kitchen).out
    assert "6 possible absent gaps" in answer
    assert "Certain: 0 absent and 0 under-represented; possible: 6; artefacts: 0;" in answer
    refused = fac("gaps", *PAIR, "--badge", "robust", workspace=kitchen).err
    assert "A badge is any, certain, possible, artefact, got 'robust'" in refused


def test_check_passes_a_dataset_that_lost_nothing(kitchen):
    whole = toy.fac_of(4, 4)  # of the four features that toy-seed shows
    answer = fac(
        *("check", "toy-anchor", "--baseline", "toy-seed", "--no-regress", "--min-fac", whole),
        *("--threshold", 0, "--json"),
        workspace=kitchen,
    )
    assert answer.code == 0
    gained = [toy.WORDS[i] for i in answer.json["gained"]]
    assert gained == ["python", "function", "loop", "river", "mountain", "train"]
    assert (answer.json["fac"], answer.json["lost"], answer.json["passed"]) == (whole, [], True)


def test_a_failed_check_tells_its_figures_and_why_and_exits_with_1(kitchen):
    limit = toy.fac_of(9, 10)
    line = ("check", "toy-seed", "--baseline", "toy-anchor", "--no-regress", "--min-fac", limit)
    line = (*line, "--threshold", 0)
    answer = fac(*line, "--json", workspace=kitchen)
    assert answer.code == 1
    assert (len(answer.json["lost"]), answer.json["passed"]) == (6, False)
    assert answer.err == (
        f"fac: FAC is {toy.fac_of(4, 10):.4g}, below {limit}; "
        "6 features of toy-anchor are lost (first: 3, 4, 5, 6, 7).\n"
    )
    words = fac(*line, workspace=kitchen)
    assert (words.code, words.err) == (1, answer.err)
    assert "n_missing" in words.out


def test_check_measures_a_file_as_the_baseline_was(own_kitchen, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "Steps", KitchenSteps)
    rows = [{"messages": chat} for chat in toy.SEED]
    new = write_lines(
        tmp_path / "new.jsonl", *rows, {"text": "ignored", "messages": toy.ANCHOR[-1]}
    )
    answer = fac(
        *("check", new, "--baseline", "toy-seed", "--no-regress", "--threshold", 0, "--json"),
        workspace=own_kitchen,
    )
    assert answer.code == 0
    gained = {toy.WORDS[i] for i in answer.json["gained"]}
    assert gained == {"train", "river", "mountain"}


def test_probe_names_the_tokens_and_what_fires_on_them(own_kitchen, monkeypatch):
    monkeypatch.setattr(frame, "Steps", KitchenSteps)
    data = fac("probe", "bake bread in the oven!", "--json", workspace=own_kitchen).json
    assert [token["token"].strip() for token in data["tokens"]] == [
        *("<user>", "bake", "bread", "in", "the", "oven!")
    ]
    assert [(toy.WORDS[f["feature"]], f["peak"]) for f in data["features"]] == [
        ("oven", 1.5),
        ("bake", 1.0),
        ("the", 1.0),
    ]
    assert data["features"][0]["tokens"] == [{"position": 5, "value": 1.5}]


def test_deleted_caches_are_built_again_and_counted(own_kitchen):
    before = fac("coverage", *PAIR, "--list", "--json", workspace=own_kitchen).json
    shutil.rmtree(own_kitchen.cache)
    data = fac("cache", "rebuild", "--json", workspace=own_kitchen).json
    assert (data["count"], len(data["rebuilt"])) == (3, 3)
    assert {path.stem for path in own_kitchen.cache.glob("*.duckdb")} == set(data["rebuilt"])
    assert fac("coverage", *PAIR, "--list", "--json", workspace=own_kitchen).json == before


def test_coverage_builds_a_cache_that_is_missing(own_kitchen):
    before = fac("coverage", *PAIR, "--json", workspace=own_kitchen).json
    shutil.rmtree(own_kitchen.cache)
    assert fac("coverage", *PAIR, "--json", workspace=own_kitchen).json == before


def test_a_worker_that_may_stop_when_idle_counts_its_jobs(workspace, tmp_path):
    source = write_lines(tmp_path / "drinks.jsonl", {"text": "tea"})
    queue = Queue(workspace.queue)
    queue.enqueue(IngestSpec(name="drinks", source=str(source)))
    queue.enqueue(IngestSpec(name="none", source=str(tmp_path / "none.jsonl")))
    answer = fac("worker", "--until-idle", "--json", workspace=workspace)
    assert (answer.code, answer.json) == (0, {"jobs": 2})
    assert "failed, There is no file" in answer.err


def test_undefined_coverage_is_null_and_not_a_number_that_json_lacks(kitchen):
    data = fac("coverage", *PAIR, "--threshold", 1000, "--json", workspace=kitchen).json
    assert (data["fac"], data["kl_smoothed"], data["n_anchor"]) == (None, None, 0)
    assert "undefined" in fac("coverage", *PAIR, "--threshold", 1000, workspace=kitchen).out
    line = ("check", "toy-seed", "--baseline", "toy-seed", "--threshold", 1000)
    assert fac(*line, "--min-fac", 0, workspace=kitchen).code == 1


@settings(max_examples=25)
@given(
    threshold=st.floats(0, 2.5, width=32),
    min_support=st.integers(1, 14),
    role=st.sampled_from([*ROLES, "all"]),
)
def test_coverage_is_what_counting_the_words_gives(kitchen, threshold, min_support, role):
    encoder = LexiconEncoder(*toy.WORDS)
    code = None if role == "all" else ROLES.index(role)

    def samples(chats, above):
        return support(encoder.encode(chats), n_features=12, threshold=above, role=code)

    relevant = samples(toy.ANCHOR, 0) <= coverage.NEAR_CONSTANT * len(toy.ANCHOR)
    relevant &= samples(toy.ANCHOR, 0) > 0
    words = samples(toy.ANCHOR, threshold) >= min_support
    has = samples(toy.SEED, threshold) > 0
    expected = coverage.fac(words, has, relevant)

    data = fac(
        *("coverage", *PAIR, "--threshold", threshold, "--min-support", min_support),
        *("--role", role, "--list", "--json"),
        workspace=kitchen,
    ).json
    assert sorted(data["missing"]) == expected.missing.tolist()
    assert data["n_anchor"] == expected.n_anchor
    assert data["fac"] == (pytest.approx(expected.fac) if expected.n_anchor else None)


def test_progress_goes_to_stderr_line_by_line_where_that_is_no_terminal(
    own_kitchen, tmp_path, monkeypatch
):
    monkeypatch.setattr(frame, "NOTE_SECONDS", 0.0)
    source = write_lines(tmp_path / "drinks.jsonl", {"text": "tea"})
    answer = fac("ingest", source, "--name", "drinks", "--json", workspace=own_kitchen)
    assert answer.json["samples"] == 1
    assert answer.err.splitlines()[-1] == "reading drinks: 16/16 1 samples"


# --- exit codes ----------------------------------------------------------------------------------


def test_a_service_that_fails_exits_with_3(own_kitchen, monkeypatch):
    class Offline(KitchenSteps):
        def encoder(self, spec, progress):
            raise ServiceError("The package index did not answer; check the network.")

    monkeypatch.setattr(frame, "Steps", Offline)
    answer = fac("measure", "toy-seed", "--layer", 3, workspace=own_kitchen)
    assert_one_sentence(answer, 3)


def test_an_interrupted_command_exits_with_130(own_kitchen, monkeypatch):
    class Interrupted(KitchenSteps):
        def encoder(self, spec, progress):
            raise KeyboardInterrupt

    monkeypatch.setattr(frame, "Steps", Interrupted)
    answer = fac("measure", "toy-seed", "--layer", 3, workspace=own_kitchen)
    assert answer == (130, "", "fac: Stopped; finished parts are kept.\n")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_waiting_worker_ends_when_asked_to(workspace, sent, code):
    with fac_process("worker", "--workspace", workspace.root) as process:
        assert "reads" in process.stderr.readline()
        time.sleep(0.2)
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_failure(kitchen):
    for extra in ("--json", "--list"):
        with fac_process(
            "gaps" if extra == "--json" else "coverage", *PAIR, extra, "--workspace", kitchen.root
        ) as process:
            process.stdout.close()
            err = process.stderr.read()
        assert (process.returncode, err) == (0, "")


# --- bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("coverage", "Missing option '--anchor'"),
        ("nonsense", "No such command 'nonsense'"),
        ("cache", "Missing command"),
        ("coverage --anchor toy-anchor --dataset toy-seed --role judge", "judge"),
        ("coverage --anchor toy-anchor --dataset toy-seed --threshold nan", "nan"),
        ("coverage --anchor toy-anchor --dataset toy-seed --threshold inf", "inf"),
        ("coverage --anchor toy-anchor --dataset toy-seed --threshold high", "`clear`"),
        ("coverage --anchor toy-anchor --dataset toy-seed --threshold -1", "-1.0"),
        ("coverage --anchor toy-anchor --dataset toy-seed --min-support 0", "--min-support"),
        ("coverage --anchor toy-anchor --dataset toy-seed --relevant cooking", "cooking"),
        ("coverage --anchor toy-anchor --dataset unheard-of", "toy-anchor, toy-seed"),
        ("coverage --anchor ../../etc --dataset toy-seed", "../../etc"),
        ("gaps --anchor toy-anchor --dataset toy-seed --out /dev/full", "No space left"),
        ("gaps --anchor toy-anchor --dataset toy-seed --out /nowhere/x", "No such file"),
        ("gaps --anchor toy-anchor --dataset toy-seed --badge likely", "likely"),
        ("check toy-seed --baseline toy-anchor --min-fac 2", "--min-fac"),
        ("check toy-seed --baseline unheard-of", "unheard-of"),
        ("measure unheard-of", "unheard-of"),
        ("measure toy-seed --role judge", "judge"),
        ("measure toy-seed --floor -1", "floor"),
        ("measure toy-seed --max-tokens 2", "max_tokens"),
        ("measure toy-seed --executor slurm", "slurm"),
        ("measure toy-seed --workers 2", "--executor ray"),
        ("measure toy-seed --executor ray --workers 0", "--workers"),
        ("ingest README.md --name a/b", "a/b"),
        ("ingest README.md --name ''", "name"),
        ("ingest README.md --name x --on-bad guess", "guess"),
        ("ingest nowhere.jsonl --name x", "nowhere.jsonl"),
        ("probe ' '", "no text"),
        ("preflight --samples 0", "--samples"),
        ("preflight --texts nowhere.jsonl", "nowhere.jsonl"),
        ("train-sae nowhere.jsonl --out x", "nowhere.jsonl"),
        ("train-sae README.md --out x --k 9999", "9999"),
        ("magpie --out x.jsonl --n 0", "0"),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence_and_change_nothing(kitchen, line, sentence):
    before = everything(kitchen.root)
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
    workspace = None if words[0] in ("nonsense", "cache") else kitchen
    answer = fac(*words, workspace=workspace)
    assert_one_sentence(answer)
    assert sentence in answer.err
    assert everything(kitchen.root) == before


def test_a_workspace_that_is_a_file_is_told(tmp_path):
    workspace = Workspace(tmp_path / "file")
    workspace.root.write_text("not a folder")
    source = write_lines(tmp_path / "x.jsonl", {"text": "tea"})
    assert_one_sentence(fac("ingest", source, "--name", "x", workspace=workspace))
    assert_one_sentence(fac("worker", "--until-idle", workspace=workspace))
    assert workspace.root.read_text() == "not a folder"


def test_a_queue_that_cannot_be_opened_is_told(workspace):
    workspace.queue.mkdir(parents=True)
    answer = fac("worker", "--until-idle", workspace=workspace)
    assert_one_sentence(answer)
    assert "queue.sqlite" in answer.err


def test_texts_are_shown_as_they_are_and_never_as_markup(own_kitchen, tmp_path):
    name = "[red]alarm :boom:"
    source = write_lines(tmp_path / "x.jsonl", {"text": "tea"}, {"text": ""})
    line = ("ingest", source, "--name", name, "--text-field")
    sentence = fac(*line, "[bold]no[/]", workspace=own_kitchen)
    assert "'[bold]no[/]'" in sentence.err
    assert fac(*line, "text", "--on-bad", "skip", workspace=own_kitchen).code == 0
    answer = fac("coverage", "--anchor", name, "--dataset", "toy-seed", workspace=own_kitchen)
    assert f"'{name}'" in answer.err


# --- bad input -----------------------------------------------------------------------------------


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def parquet_of(**columns: list) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


TEXTS = "".join(json.dumps({"text": f"sample {i}"}) + "\n" for i in range(2000)).encode()
BAD = {
    "empty.jsonl": (b"", "empty"),
    "blank.jsonl": (b"\n\n \n", "no rows"),
    "junk.jsonl": (bytes(range(256)) * 40, "binary"),
    "truncated.jsonl.gz": (truncated(gzip.compress(TEXTS)), "gzip"),
    "truncated.parquet": (truncated(parquet_of(text=["tea"] * 5000)), "Parquet"),
    "not.parquet": (b"PAR1 but not really", "Parquet"),
    "broken.jsonl": (b'{"text": "tea"}\n{"text": "milk"}\n{"text": \n', "line 3"),
    "array.json": (b'[{"text": "tea"}, {"text"', "line 1"),
    "numbers.jsonl": (b"1\n2\n", "line 1"),
    "columns.csv": (b"colour,size\nred,3\n", "'colour'"),
    "nulls.jsonl": (b'{"text": null}\n' * 3, "null"),
    "nulls.parquet": (parquet_of(text=pa.nulls(3, pa.string())), "null"),
    "long.jsonl": (json.dumps({"text": "x" * 5_000_000}).encode(), "5,000,000 characters"),
    "control.jsonl": (b'{"text": "a\\u0000b"}\n', "U+0000"),
    "surrogate.jsonl": (b'{"text": "a\\ud800b"}\n', "U+D800"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', "UTF-8"),
    "utf16.csv": ("text\ntea\n".encode("utf-16"), "UTF-16"),
    "silence.jsonl": (b'{"text": ""}\n' * 100_000, "empty"),
    "unclosed.csv": (b'text\n"tea\nmilk\n', "quote"),
    "roles.jsonl": (b'{"messages": [{"role": "oracle", "content": "x"}]}\n', "oracle"),
}


@pytest.mark.parametrize(
    ("name", "on_bad"),
    # two of the three rows of broken.jsonl are good, so there is something to store without it
    [(n, how) for n in BAD for how in ("stop", "skip") if (n, how) != ("broken.jsonl", "skip")],
)
def test_a_bad_file_is_told_in_one_sentence_and_changes_nothing(kitchen, tmp_path, name, on_bad):
    content, sentence = BAD[name]
    source = tmp_path / name
    source.write_bytes(content)
    before = everything(kitchen.root)
    answer = fac("ingest", source, "--name", "bad", "--on-bad", on_bad, workspace=kitchen)
    assert_one_sentence(answer)
    assert sentence in answer.err
    assert len(answer.err) < 600
    assert everything(kitchen.root) == before


def test_a_folder_is_no_dataset(kitchen, tmp_path):
    before = everything(kitchen.root)
    assert_one_sentence(fac("ingest", tmp_path, "--name", "folder", workspace=kitchen))
    assert everything(kitchen.root) == before


def test_a_bad_file_is_told_the_same_way_by_a_real_process(kitchen, tmp_path):
    source = tmp_path / "broken.jsonl"
    source.write_bytes(BAD["broken.jsonl"][0])
    line = ("ingest", source, "--name", "bad", "--json", "--workspace", kitchen.root)
    with fac_process(*line) as process:
        out, err = process.communicate()
    answer = Answered(process.returncode, out, err)
    assert_one_sentence(answer)
    assert "line 3" in err


def test_a_full_disk_is_told_and_nothing_stored_changes(own_kitchen, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "drinks.jsonl", {"text": "tea"})
    before = everything(own_kitchen.root)

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", no_room)
    answer = fac("ingest", source, "--name", "drinks", workspace=own_kitchen)
    assert_one_sentence(answer)
    assert "disk is full" in answer.err
    assert everything(own_kitchen.root) == before


NEWER = {
    "coverage": [*PAIR],
    "gaps": [*PAIR],
    "check": ["toy-seed", "--baseline", "toy-anchor"],
    "measure": ["toy-seed"],
    "cache": ["rebuild"],
}


@pytest.mark.parametrize("command", NEWER)
def test_a_workspace_from_a_newer_version_is_left_alone(own_kitchen, command):
    for path in own_kitchen.runs.rglob("manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    before = everything(own_kitchen.root)
    answer = fac(command, *NEWER[command], workspace=own_kitchen)
    assert_one_sentence(answer)
    assert "schema 99" in answer.err
    assert everything(own_kitchen.root) == before


def test_datasets_of_different_encoders_are_not_compared(own_kitchen):
    runs = Runs(own_kitchen)
    activations = LexiconEncoder("tea").encode([[{"role": "user", "content": "tea"}]])
    toy.publish_activations(runs, "other", activations, n_features=1, n_samples=1)
    answer = fac("coverage", "--anchor", "toy-anchor", "--dataset", "other", workspace=own_kitchen)
    assert_one_sentence(answer)
    assert "different encoders" in answer.err


# --- real weights, a few thousand of them --------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Iterator[Path]:
    """A folder with a small Llama, an SAE for its layer 2, and one for another width."""
    from tests import tiny as weights

    home = tmp_path_factory.mktemp("tiny")
    weights.llama(home / "model")
    weights.sae(home / "sae", model_name="model")
    weights.sae(home / "wide", d_in=48)
    rows = [{"messages": chat} for chat in toy.ANCHOR]
    write_lines(home / "texts.jsonl", *rows)
    return home


def test_a_model_and_an_sae_in_folders_go_from_file_to_coverage(tiny, workspace):
    how = ("--model", tiny / "model", "--layer", 2, "--sae", tiny / "sae")
    fac("ingest", tiny / "texts.jsonl", "--name", "texts", workspace=workspace)
    answer = fac("measure", "texts", *how, "--json", workspace=workspace)
    assert answer.code == 0, answer.err
    assert answer.json["features_fired"] > 0
    # random directions fire nearly everywhere, which "all" would leave out
    every = workspace.root / "ids.json"
    every.write_text(json.dumps([*range(96)]))
    line = ("coverage", "--anchor", "texts", "--dataset", "texts", "--relevant", every)
    words = fac(*line, "--threshold", 0, "--json", workspace=workspace).json
    fired = answer.json["features_fired"]
    assert (words["fac"], words["n_anchor"]) == (toy.fac_of(fired, fired), fired)
    data = fac("probe", "Take the early train", *how, "--json", workspace=workspace).json
    assert "".join(t["token"] for t in data["tokens"] if t["role"] == "user") == (
        "Take the early train"
    )


@pytest.mark.parametrize(
    ("layer", "sae", "sentence"),
    [
        (2, "wide", "reads 48 values, but"),
        (1, "sae", "give --layer 2"),
        (9, "sae", "Layer 9 does not exist"),
        (2, "nowhere", "nowhere"),
    ],
)
def test_the_wrong_sae_for_a_model_is_told_before_anything_is_measured(
    tiny, workspace, layer, sae, sentence
):
    fac("ingest", tiny / "texts.jsonl", "--name", "texts", workspace=workspace)
    before = everything(workspace.root)
    how = ("--model", tiny / "model", "--layer", layer, "--sae", tiny / sae)
    answer = fac("measure", "texts", *how, workspace=workspace)
    assert_one_sentence(answer)
    assert sentence in answer.err
    assert everything(workspace.root) == before


def test_an_sae_of_another_model_takes_a_reason_that_stays_with_the_run(tiny, workspace):
    from tests import tiny as weights

    fac("ingest", tiny / "texts.jsonl", "--name", "texts", workspace=workspace)
    sae = weights.sae(workspace.root / "gpt2-sae", model_name="gpt2-small")
    how = ("--model", tiny / "model", "--layer", 2, "--sae", sae)
    for line in (("measure", "texts"), ("probe", "Take the early train")):
        answer = fac(*line, *how, workspace=workspace)
        assert_one_sentence(answer)
        assert "trained on gpt2-small; asked for model" in answer.err
        assert "say why with --despite" in answer.err
        forced = fac(*line, *how, "--despite", "a copy of it", "--json", workspace=workspace)
        assert forced.code == 0, forced.err
        assert forced.json["despite"] == "a copy of it"
        assert "It was taken despite that: a copy of it" in forced.json["doubt"]
        assert forced.err.count("It was taken despite that: a copy of it") == 1
    every = workspace.root / "ids.json"
    every.write_text(json.dumps([*range(96)]))
    line = ("coverage", "--anchor", "texts", "--dataset", "texts", "--relevant", every)
    assert "despite its metadata: a copy of it" in fac(*line, workspace=workspace).err


def test_an_sae_that_does_not_name_its_model_is_measured_and_the_doubt_told(tiny, workspace):
    from tests import tiny as weights

    fac("ingest", tiny / "texts.jsonl", "--name", "texts", workspace=workspace)
    sae = weights.sae(workspace.root / "nameless", model_name=None)
    how = ("--model", tiny / "model", "--layer", 2, "--sae", sae)
    answer = fac("measure", "texts", *how, "--json", workspace=workspace)
    assert answer.code == 0, answer.err
    assert "unsure: the SAE does not name its model" in answer.json["doubt"]
    assert answer.err.count("does not name its model") == 1
    assert answer.json["despite"] is None


def test_preflight_says_yes_or_no_and_shows_its_checks(tiny, workspace):
    how = ("--model", tiny / "model", "--layer", 2, "--texts", tiny / "texts.jsonl", "--json")
    answer = fac("preflight", *how, "--sae", tiny / "wide", workspace=workspace)
    assert answer.code == 1
    checks = {check["check"]: check["ok"] for check in answer.json["checks"]}
    assert (checks["width"], answer.json["ok"]) == (False, False)
    assert answer.err.startswith("fac: This SAE does not belong to this model and layer")
    random = fac("preflight", *how, "--sae", tiny / "sae", workspace=workspace).json
    assert random["quality"]["tokens"] > 0
    assert random["checks"][0]["ok"] is True


def test_a_trained_sae_has_its_recipe_and_figures_and_can_be_measured_with(tiny, workspace):
    out = workspace.root / "my-sae"
    model = ("--model", tiny / "model", "--layer", 2)
    answer = fac(
        *("train-sae", tiny / "texts.jsonl", "--out", out, *model),
        *("--width", 64, "--k", 4, "--passes", 2, "--batch", 64, "--held-out", 6, "--json"),
        workspace=workspace,
    )
    assert answer.code == 0, answer.err
    assert answer.json["quality"]["samples"] == 6
    assert answer.json["quality"]["l0"] > 0
    assert json.loads((out / "recipe.json").read_text()) == answer.json["recipe"]
    fac("ingest", tiny / "texts.jsonl", "--name", "texts", workspace=workspace)
    measured = fac("measure", "texts", *model, "--sae", out, "--json", workspace=workspace)
    assert measured.code == 0, measured.err
    assert measured.json["n_features"] == 64
