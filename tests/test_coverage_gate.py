"""examples/coverage_gate.yml: its commands, run as they stand in the file, on data of the demo."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fac.config import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "coverage_gate.yml"
SEED = REPOSITORY / "data" / "demo" / "seed.jsonl"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    # YAML reads the key `on` as true
    return yaml.safe_load(EXAMPLE.read_text("utf-8"))


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    return job["steps"]


def filled(text: str, values: dict[str, str]) -> str:
    """Text with its expressions replaced."""
    return re.sub(r"\$\{\{ *([a-z_.]+) *\}\}", lambda match: values[match[1]], text)


def git(folder: Path, *line: str) -> None:
    about = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *about, *line], cwd=folder, check=True, capture_output=True)


def test_the_workflow_may_only_read_and_every_action_has_a_version(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert list(workflow[True]) == ["pull_request"], "not pull_request_target, which has secrets"
    uses = [step["uses"] for step in steps_of(workflow) if "uses" in step]
    assert uses and all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in uses)
    # What a pull request can choose reaches a command as a variable, never as part of its text.
    assert not any("${{" in step.get("run", "") for step in steps_of(workflow))


@pytest.mark.model
def test_its_commands_pass_the_same_data_and_fail_what_lost_a_topic(
    workflow, tmp_path, demo_model_home
):
    place, temp, bin_ = (tmp_path / name for name in ("repository", "temp", "bin"))
    for folder in (place / "data", temp, bin_):
        folder.mkdir(parents=True)
    (bin_ / "pip").write_text('#!/bin/sh\nfor last; do :; done\ntest -f "$last"\n')
    (bin_ / "pip").chmod(0o755)
    (place / "fac-explorer").symlink_to(REPOSITORY, target_is_directory=True)
    lines = SEED.read_text("utf-8").splitlines(keepends=True)[:60]
    data = place / "data" / "train.jsonl"
    data.write_text("".join(lines), "utf-8")
    git(place, "init")
    git(place, "add", "data")
    git(place, "commit", "-m", "base")
    git(place, "update-ref", "refs/remotes/origin/main", "HEAD")
    values = {"github.workspace": str(place), "github.base_ref": "main"}
    summary = temp / "summary.md"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FAC_")},
        **{name: filled(str(value), values) for name, value in workflow["env"].items()},
        "FAC_MODELS": str(demo_model_home),
        "PATH": os.pathsep.join((str(bin_), str(Path(sys.executable).parent), os.environ["PATH"])),
        "RUNNER_TEMP": str(temp),
        "GITHUB_STEP_SUMMARY": str(summary),
    }

    def run(step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )

    for step in steps_of(workflow):
        if "run" in step:
            result = run(step)
            assert result.returncode == 0, (step["name"], result.stderr)
    assert summary.read_text("utf-8").startswith("## ✅ Coverage gate passed\n")
    html = (temp / "coverage.html").read_text("utf-8")
    assert "proposed</bdi> against <bdi>demo-anchor" in html

    summary.unlink()
    data.write_text("".join(lines[:1]) * 60, "utf-8")  # the same chat is read once
    named = {step["name"]: step for step in steps_of(workflow) if "run" in step}
    assert run(named["Measure the pull request"]).returncode == 0
    failed = run(named["Gate"])
    assert failed.returncode == 1 and "below 0.5" in failed.stderr
    assert summary.read_text("utf-8").startswith("## ❌ Coverage gate failed\n")
    assert run(named["Report"]).returncode == 0
