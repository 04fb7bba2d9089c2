"""The scripts under examples/: the loop from gaps to samples that close them, in commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fac.config import REPOSITORY, Workspace
from fac.store.runs import Runs
from tests import toy
from tests.test_cli import fac

SCRIPT = REPOSITORY / "examples" / "close_gaps.sh"

TOY_PYTHON = f"""#!{sys.executable}
import os, sys
if sys.argv[1:3] != ["-m", "fac"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
from fac import __main__ as cli
from fac.cli import frame
from fac.jobs import steps
from tests import toy
from tests.lexicon import LexiconEncoder
from tests.scripted import ScriptedWriter

MANNERS = "Explain quickly what happens|My aunt asks about|List what goes wrong with|Tell them of"
SHORT = "Draw me|Name any|Sing of|Count each"

def says(request):
    method, feature, number, _, *answer = request.key.split("/")
    if answer:
        return f"Well {{'so ' * int(number)}}number {{feature}} is hard to say"
    step_2 = method == "two-step"
    manner = (SHORT if step_2 else MANNERS).split("|")[int(number) % 4]
    end = "as case" if step_2 else "number"
    return f" {{manner}} {{toy.WORDS[int(feature)]}}! {{end}} {{feature}}"

class ScriptedSteps(steps.Steps):
    words = LexiconEncoder(*toy.WORDS)

    def encoder(self, spec, progress):
        return self.words

    def checker(self, spec, progress):
        return self.words.check

    def likelihood(self, spec, progress):
        return None  # words have none

    def describe_sae(self, spec, progress, encoder=None):
        run = toy.publish_sae(self.runs, self.words)
        self.build_cache(run, progress)
        return run

    def writer(self, spec, progress):
        return ScriptedWriter(says)

frame.Steps = ScriptedSteps
sys.exit(cli.run(sys.argv[3:]))
"""
"""A `python` whose `-m fac` measures words and lets a script write."""


def close_gaps(
    *line: object, workspace: Workspace, python: Path, cwd: Path, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Runs the script as a person would in `cwd`, with the `python` of that folder."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FAC_", "OPENAI_"))}
    return subprocess.run(
        [str(SCRIPT), *map(str, line)],
        cwd=cwd,
        env={
            **inherited,
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "FAC_WORKSPACE": str(workspace.root),
            **{name: str(value) for name, value in settings.items()},
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def chats(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def kitchen(tmp_path: Path) -> Workspace:
    """The toy workspace, and a `python` beside it that needs no model."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(TOY_PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    return toy.toy_workspace(tmp_path / "kitchen")


def test_the_loop_waits_for_a_person_then_closes_every_gap_and_stops(kitchen, tmp_path):
    samples = tmp_path / "my own.jsonl"
    # No line break at the end: the first kept sample must not end up on the last line.
    samples.write_text("\n".join(json.dumps({"messages": chat}) for chat in toy.SEED), "utf-8")
    setup = {
        "workspace": kitchen,
        "python": tmp_path / "bin",
        "cwd": tmp_path,
        "ANCHOR": "toy-anchor",
        "THRESHOLD": 0,
    }
    alone = close_gaps("my own.jsonl", "--candidates", 2, **setup)
    assert alone.returncode == 2, alone.stderr
    assert "fac approve pairs-" in alone.stdout and "needs approved pairs" in alone.stderr
    assert "Traceback" not in alone.stderr and not (tmp_path / "closed" / "kept-1.jsonl").exists()

    closed = close_gaps("my own.jsonl", "--candidates", 2, **setup, REVIEWER="ana", ROUNDS=2)
    assert closed.returncode == 0, closed.stderr
    assert closed.stdout.rstrip().endswith("Nothing is missing.")
    kept = chats(tmp_path / "closed" / "kept-1.jsonl")
    assert sorted(row["lineage"]["feature"] for row in kept) == [3, 4, 5, 6, 7, 8]
    whole = chats(tmp_path / "closed" / "my own-closed-1.jsonl")
    assert [row["messages"] for row in whole] == [
        *toy.SEED,
        *(row["messages"] for row in kept),
    ]
    assert len(Runs(kitchen).list("pairs")) == 1


def test_the_loop_is_about_clear_firing_unless_another_threshold_is_set(kitchen, tmp_path):
    (tmp_path / "own.jsonl").write_text(
        "\n".join(json.dumps({"messages": chat}) for chat in toy.SEED), "utf-8"
    )
    setup = {"workspace": kitchen, "python": tmp_path / "bin", "cwd": tmp_path}
    setup |= {"ANCHOR": "toy-anchor", "REVIEWER": "ana"}
    closed = close_gaps("own.jsonl", "--candidates", 2, "--margin", 0.5, **setup)
    assert closed.returncode == 0, closed.stderr
    kept = [row["lineage"] for row in chats(tmp_path / "closed" / "kept-1.jsonl")]
    assert [(row["feature"], row["filter"]["threshold"]) for row in kept] == [(5, 1), (8, 1)]
    nothing = close_gaps("own.jsonl", **setup | {"THRESHOLD": 1.4, "ANCHOR": "own"})
    assert nothing.returncode == 0, nothing.stderr
    assert nothing.stdout.rstrip().endswith("Nothing is missing.")


def test_the_script_says_what_it_needs_and_ends_as_the_command_that_failed(kitchen, tmp_path):
    setup = {
        "workspace": kitchen,
        "python": tmp_path / "bin",
        "cwd": tmp_path,
        "ANCHOR": "toy-anchor",
    }
    nothing = close_gaps(**setup)
    assert nothing.returncode == 2 and nothing.stderr.startswith("Name the file")
    missing = close_gaps("gone.jsonl", **setup)
    assert missing.returncode == 2 and "gone" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_the_example_of_a_base_model_says_what_it_needs(tmp_path):
    script = SCRIPT.with_name("base_model.sh")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    environment = {k: v for k, v in os.environ.items() if k != "REVIEWER"}
    told = subprocess.run(
        [script, "model", "corpus", "anchor", "dataset"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2 and told.stderr.startswith("Say: REVIEWER=you")
    assert not [*tmp_path.iterdir()]


@pytest.mark.model
def test_every_sample_that_the_demo_exports_fires_its_gap_when_it_is_measured_anew(
    tmp_path, demo_model_home
):
    """More than ten gaps, through the command line alone and from the texts alone."""
    lines = (REPOSITORY / "data" / "demo" / "seed.jsonl").read_text("utf-8").splitlines()
    few = tmp_path / "few.jsonl"  # is measured twice, and lacks more than ten gaps all the same
    few.write_text("\n".join(lines[:40]), "utf-8")
    workspace = Workspace(tmp_path / "demo")
    workspace.models.parent.mkdir(parents=True, exist_ok=True)
    if not workspace.models.exists():
        workspace.models.symlink_to(demo_model_home, target_is_directory=True)
    closed = close_gaps(
        few,
        *("--limit", 12, "--candidates", 3, "--max-new-tokens", 40),
        workspace=workspace,
        python=Path(sys.executable).parent,
        cwd=tmp_path,
        REVIEWER="ana",
        THRESHOLD=0,
    )
    assert closed.returncode == 0, closed.stderr
    out = tmp_path / "closed" / "kept-1.jsonl"
    kept = chats(out)
    runs = Runs(workspace)
    (synthesis,) = (m for m in runs.list("synthetic") if m.facts.kept == len(kept))
    assert synthesis.facts.gaps >= 10 and len({row["lineage"]["feature"] for row in kept}) >= 3
    assert (
        fac("ingest", out, "--name", "kept", "--json", workspace=workspace).json["rejected"] == []
    )
    measured = fac("measure", "kept", "--json", workspace=workspace)
    assert measured.code == 0, measured.err
    peaks: dict[tuple[int, int], float] = {}
    for row in runs.table(measured.json["run"], "activations").to_pylist():
        cell = (row["sample"], row["feature"])
        peaks[cell] = max(row["peak"], peaks.get(cell, 0.0))
    for number, row in enumerate(kept):
        lineage = row["lineage"]
        again = peaks.get((number, lineage["feature"]), 0.0)
        assert again > lineage["filter"]["threshold"], (number, lineage)
        assert again == pytest.approx(lineage["activation"], rel=2e-3), (number, lineage)
