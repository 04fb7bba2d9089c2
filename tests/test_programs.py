"""How other programs come in: an installed package outside the clone, and agents by the Model
Context Protocol."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
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
EXTRAS = {"auth", "mcp", "scale"}
FILES = ("app.py", "pyproject.toml", "README.md", "LICENSE", "requirements.txt")

DEMO = Path("fac", "home", "data", "demo")

LARGE = 1_000_000
"""Bytes beyond which a file of the demo is packed empty here, since packing it takes seconds."""


class Installed(NamedTuple):
    """A fresh environment with the package in it, and a folder outside the clone."""

    programs: Path  # where its `python` and `fac` are
    home: Path  # where its packages are
    outside: Path

    def run(
        self, program: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A program of the environment, as a shell in the folder outside finds it."""
        foreign = ("FAC_WORKSPACE", "PYTHONPATH")
        variables = {k: v for k, v in os.environ.items() if k not in foreign}
        return subprocess.run(
            [self.programs / program, *map(str, arguments)],
            cwd=self.outside,
            env={**variables, **environment},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """What `pip install` makes of the clone in a fresh environment. What it needs is not fetched
    once more: the environment reads the packages of the one that runs the tests."""
    pytest.importorskip("hatchling", reason="building the package needs requirements-dev.txt")
    clone, fresh = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("fresh")
    venv.create(fresh, with_pip=False)
    programs = fresh / ("Scripts" if os.name == "nt" else "bin")
    home = Path(sysconfig.get_path("purelib", vars={"base": str(fresh)}))
    (home / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib"), "utf-8")

    def copy(source: str, target: str) -> None:
        if Path(source).stat().st_size > LARGE:
            Path(target).touch()
        else:
            shutil.copyfile(source, target)

    aside = shutil.ignore_patterns("__pycache__", "*.png")
    for name in SHIPPED:
        shutil.copytree(REPOSITORY / name, clone / name, copy_function=copy, ignore=aside)
    for name in (*FILES, *(f"requirements-{extra}.txt" for extra in EXTRAS)):
        shutil.copyfile(REPOSITORY / name, clone / name)
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "-q"]
    pip += ["--no-deps", "--no-build-isolation", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, str(clone)], check=True, capture_output=True, text=True)
    return Installed(programs, home, tmp_path_factory.mktemp("outside"))


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
    assert {re.search("extra == '(.+)'", e)[1] for e in needs if "extra" in e} == EXTRAS


def test_the_command_answers_outside_the_clone_and_keeps_its_runs_there(installed, kitchen):
    line = ("coverage", *PAIR, "--list", "--json")
    answer = installed.run("fac", *line, "--workspace", kitchen.root)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == fac(*line, workspace=kitchen).json
    (installed.outside / "my.jsonl").write_text('{"text": "a loop"}', "utf-8")
    answer = installed.run("fac", "ingest", "my.jsonl", "--name", "mine", "--json")
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
    answer = installed.run("python", "-c", code)
    assert answer.stdout.split() == [str(len([*(REPOSITORY / "pages").glob("*.py")])), "True"]


@pytest.mark.model
def test_in_a_fresh_environment_the_five_lines_of_the_readme_answer(installed, demo_model_home):
    for small in (installed.home / DEMO).rglob("*"):
        if small.is_file() and not small.stat().st_size:  # packed empty
            whole = REPOSITORY / "data" / "demo" / small.relative_to(installed.home / DEMO)
            shutil.copyfile(whole, small)
    (installed.outside / "my.jsonl").write_text('{"text": "How do I bake bread?"}\n', "utf-8")
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    (lines,) = re.findall(r"```python\n(import fac\n.+?)```", readme, re.DOTALL)
    lines = lines.replace("import fac\n", 'import fac\nfac.Explorer("my-workspace").demo()\n')
    lines += "print(fac.__file__, len(gaps), len(features), len(examples))"
    answer = installed.run("python", "-c", lines, FAC_MODELS=str(demo_model_home))
    assert answer.returncode == 0, answer.stderr
    place, *numbers = answer.stdout.split()[-4:]
    assert Path(place).is_relative_to(installed.home)
    gaps, features, examples = map(int, numbers)
    assert gaps > 1000, "one short text lacks most of what 2,000 samples show"
    assert features > 10 and examples > 0


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
def agent(kitchen, installed) -> Agent:
    """One conversation over standard input and output with `fac mcp` of the fresh environment."""
    pytest.importorskip("mcp", reason="agents need requirements-mcp.txt")
    import anyio
    from mcp import Client, StdioServerParameters

    command, line = str(installed.programs / "fac"), ["mcp", "--workspace", str(kitchen.root)]
    parameters = StdioServerParameters(command=command, args=line, cwd=installed.outside)

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
