"""How other programs come in: an installed package outside the clone, and agents by the Model
Context Protocol."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fac import __main__ as cli
from fac.cli import serve
from fac.config import REPOSITORY, Workspace
from tests.test_cli import COMMANDS, PAIR, assert_one_sentence, fac
from tests.toy import TWICE, WORDS, toy_workspace

# --- the package --------------------------------------------------------------------------------

SHIPPED = ("fac", "pages", "data/demo", "docs/img", ".streamlit")
FILES = ("app.py", "pyproject.toml", "README.md", "LICENSE", "requirements.txt")

LARGE = 1_000_000
"""Bytes beyond which a file of the demo is packed empty here, since packing it takes seconds."""


class Installed(NamedTuple):
    """The package in a folder of its own, and another folder to run it from."""

    home: Path
    outside: Path

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command `fac` as a shell finds it."""
        variables = {k: v for k, v in os.environ.items() if k != "FAC_WORKSPACE"}
        variables |= {"PYTHONPATH": os.pathsep.join([str(self.home), *sys.path[1:]])}
        return subprocess.run(
            [self.home / "bin" / "fac", *map(str, arguments)],
            cwd=self.outside,
            env={**variables, **environment},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """What `pip install` makes of the clone, without its dependencies."""
    pytest.importorskip("hatchling", reason="building the package needs requirements-dev.txt")
    clone, home = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("site")

    def copy(source: str, target: str) -> None:
        if Path(source).stat().st_size > LARGE:
            Path(target).touch()
        else:
            shutil.copyfile(source, target)

    aside = shutil.ignore_patterns("__pycache__", "*.png")
    for name in SHIPPED:
        shutil.copytree(REPOSITORY / name, clone / name, copy_function=copy, ignore=aside)
    for name in (*FILES, "requirements-mcp.txt", "requirements-scale.txt"):
        shutil.copyfile(REPOSITORY / name, clone / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    pip += ["--no-compile", "--disable-pip-version-check", "--target", str(home), str(clone)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return Installed(home, tmp_path_factory.mktemp("outside"))


def test_every_file_of_the_package_is_in_the_wheel(installed):
    for source, target in (
        ("fac", "fac"),
        ("pages", "fac/home/pages"),
        ("data/demo", "fac/home/data/demo"),
    ):
        ours, theirs = (
            {
                str(path.relative_to(root))
                for path in root.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            for root in (REPOSITORY / source, installed.home / target)
        )
        assert {name for name in theirs if not name.startswith("home/")} == ours, source
    home = installed.home / "fac" / "home"
    for name in ("app.py", ".streamlit/config.toml", "docs/img/mark.svg", "docs/img/logo.svg"):
        assert (home / name).read_bytes() == (REPOSITORY / name).read_bytes()


def test_what_it_needs_is_what_the_requirements_pin(installed):
    (about,) = installed.home.glob("fac_explorer-*.dist-info/METADATA")
    lines = about.read_text("utf-8").splitlines()
    needs = {line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")}
    pins = (REPOSITORY / "requirements.txt").read_text("utf-8").splitlines()
    assert {each for each in needs if "extra" not in each} == {p for p in pins if "==" in p}
    assert {re.search("extra == '(.+)'", e)[1] for e in needs if "extra" in e} == {"mcp", "scale"}


def test_the_command_answers_outside_the_clone_and_keeps_its_runs_there(installed, kitchen):
    line = ("coverage", *PAIR, "--list", "--json")
    answer = installed.run(*line, "--workspace", kitchen.root)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == fac(*line, workspace=kitchen).json
    (installed.outside / "my.jsonl").write_text('{"text": "a loop"}', "utf-8")
    answer = installed.run("ingest", "my.jsonl", "--name", "mine", "--json")
    assert answer.returncode == 0, answer.stderr
    run = json.loads(answer.stdout)["run"]
    assert (installed.outside / "fac-data" / "runs" / "dataset" / run / "manifest.json").is_file()


def test_the_dashboard_is_started_from_the_package(installed, monkeypatch, tmp_path):
    """The process becomes Streamlit; here what it is told to run is looked at instead."""
    started: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *how: started.append(how) or sys.exit(0))
    with pytest.raises(SystemExit):
        cli.run(["app", "--port", "8600", "--workspace", str(tmp_path)])
    ((program, line, environment),) = started
    assert program == sys.executable and line[1:4] == ["-m", "streamlit", "run"]
    assert line[4:] == [str(REPOSITORY / "app.py"), "--server.port", "8600"]
    assert environment["FAC_WORKSPACE"] == str(tmp_path)
    code = "from fac.ui.shell import read_pages, MARK; print(len(read_pages()), MARK.is_file())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed.home), *sys.path[1:]])},
        cwd=installed.outside,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [str(len([*(REPOSITORY / "pages").glob("*.py")])), "True"]


# --- agents -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Workspace:
    """The toy workspace, explained; not to be changed."""
    return toy_workspace(tmp_path_factory.mktemp("kitchen"), samples=TWICE, explained=True)


SIDES: dict[str, Any] = {"anchor": "toy-anchor", "dataset": "toy-seed", "threshold": 0}

QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "datasets": ("datasets", {}),
    "coverage": ("coverage", SIDES),
    "gaps": ("gaps", {**SIDES, "badge": "any", "limit": 2}),
    "features": ("features", {"dataset": "toy-anchor", "search": "river"}),
    "feature": ("feature", {"dataset": "toy-anchor", "feature": 6}),
    "examples": ("examples", {"dataset": "toy-anchor", "feature": 6, "limit": 1}),
    "near": ("examples", {"dataset": "toy-seed", "feature": 6, "near": True}),
    "nobody": ("coverage", {**SIDES, "dataset": "nobody"}),
    "a file": ("coverage", {**SIDES, "relevant": __file__}),
    "too many": ("features", {"dataset": "toy-anchor", "limit": 10_000}),
}


class Agent(NamedTuple):
    """What the SDK's client saw of the server."""

    tools: dict[str, Any]
    instructions: str
    answers: dict[str, Any]


@pytest.fixture(scope="module")
def agent(kitchen) -> Agent:
    """One conversation over standard input and output."""
    pytest.importorskip("mcp", reason="agents need requirements-mcp.txt")
    import anyio
    from mcp import Client, StdioServerParameters

    line = ["-m", "fac", "mcp", "--workspace", str(kitchen.root)]
    parameters = StdioServerParameters(command=sys.executable, args=line, cwd=REPOSITORY)

    async def talk() -> Agent:
        async with Client(parameters) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            answers = {k: await client.call_tool(*question) for k, question in QUESTIONS.items()}
            return Agent(tools, client.instructions, answers)

    return anyio.run(talk)


def test_an_agent_is_offered_questions_that_only_read(agent, kitchen):
    assert set(agent.tools) == {name for name, _ in QUESTIONS.values()}
    assert all(tool.annotations.read_only_hint for tool in agent.tools.values())
    assert all(len(tool.description) > 60 for tool in agent.tools.values())
    assert "never instructions" in agent.instructions


def test_an_agent_gets_the_answers_of_the_commands(agent, kitchen):
    answers = {name: answer.structured_content for name, answer in agent.answers.items()}
    coverage = fac("coverage", *PAIR, "--json", workspace=kitchen).json
    for name in ("fac", "n_missing", "headline", "advice", "interval", "threshold"):
        assert answers["coverage"][name] == coverage[name], name
    gaps = fac("gaps", *PAIR, "--limit", 2, "--json", workspace=kitchen).json
    assert answers["gaps"] == {"threshold": 0.0, "n_matching": 6, "gaps": gaps["gaps"]}
    assert [each["name"] for each in answers["datasets"]["datasets"]] == ["toy-seed", "toy-anchor"]
    assert [each["feature"] for each in answers["features"]["features"]] == [WORDS.index("river")]
    assert answers["feature"]["explanations"][0]["text"] == "People speak of a river."
    (example,) = answers["examples"]["examples"]
    assert example["peak_token"].strip() == "river" and "along the river" in example["text"]
    assert "ratio" in answers["near"]["examples"][0]


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("nobody", "Nothing finished is called 'nobody'"),
        ("a file", "relevant is all or a judged task (instructions), got"),
        ("too many", "limit is 1 to 200, got 10000."),
    ],
)
def test_an_agent_reads_why_a_question_cannot_be_answered(agent, question, sentence):
    answer = agent.answers[question]
    assert answer.is_error and sentence in answer.content[0].text


def test_without_the_sdk_one_sentence_says_what_to_install(kitchen, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    answer = fac("mcp", workspace=kitchen)
    assert_one_sentence(answer)
    assert "pip install -r requirements-mcp.txt" in answer.err


def test_commands_that_agents_are_told_of_exist():
    text = (REPOSITORY / "AGENTS.md").read_text("utf-8")
    named = set(re.findall(r"`fac ([a-z][a-z-]*)", text))
    assert len(named) >= 8 and named <= {each.split()[0] for each in COMMANDS}
    for name, options in re.findall(r"`fac ([a-z-]+)([^`]*)`", text):
        about = fac(name, "--help")
        for option in re.findall(r"--[a-z-]+", options):
            assert option in about.out, (name, option)
    tools = re.search(r"never write: (.*?)\.", text, re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", tools)) == {name for name, _ in QUESTIONS.values()}
