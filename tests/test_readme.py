"""The README: its commands run, its options exist, and it says what the demo says."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fac import demo
from fac.config import REPOSITORY, Workspace
from fac.endpoints import read_endpoints
from fac.prompts import relevance
from tests.test_cli import Answered, fac

README = (REPOSITORY / "README.md").read_text("utf-8")

SHOW = "pip install -r requirements.txt && streamlit run app.py"
CHECK = [
    "pip install -r requirements.txt -r requirements-dev.txt",
    'pytest -n 2 --dist loadfile -m "not (model or quiet)"',
    'pytest -m "model or quiet"',
]
"""The two lines of tests take all there are: what needs the cores for itself, and the rest."""

NEEDS_THE_MODEL = {"measure", "probe", "preflight", "check", "train-sae", "magpie"}

BLOCKS = [
    [line for line in block.splitlines() if line.strip()]
    for block in re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]
"""The lines of every block that a person may paste into a shell."""

FAC_LINES = [line for block in BLOCKS for line in block if line.startswith("python -m fac ")]

INLINE = [
    *re.findall(r"`python -m (fac [^`]+)`", README),
    *re.findall(r"`(fac [a-z][^`]+)`", README),
]
"""Commands that the prose mentions."""


def needs_the_model(block: list[str]) -> bool:
    return any(shlex.split(line)[3] in NEEDS_THE_MODEL for line in block if line in FAC_LINES)


def run(line: str, place: Workspace) -> Answered:
    """A line of the README, `python -m fac ...`, in a workspace."""
    return fac(*shlex.split(line, comments=True)[3:], workspace=place)


def test_two_blocks_are_all_a_newcomer_needs():
    assert [SHOW] in BLOCKS
    assert CHECK in BLOCKS


def test_every_line_of_a_shell_block_is_checked_here():
    assert {line for block in BLOCKS for line in block} == {SHOW, *CHECK, *FAC_LINES}
    assert len(FAC_LINES) >= 9


def test_continuous_integration_runs_the_commands_of_the_readme():
    ci = REPOSITORY / ".ci" / "run"
    (search,) = re.findall(r"<\((sed .* README\.md)\)", ci.read_text("utf-8"))
    lines = subprocess.run(search, shell=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert lines.stdout.splitlines() == CHECK
    subprocess.run(["bash", "-n", ci], check=True)


@pytest.mark.parametrize("line", [*FAC_LINES, *(f"python -m {line}" for line in INLINE)])
def test_the_options_of_every_command_exist(line):
    said = fac(*shlex.split(line, comments=True)[3:], "--help")
    assert said.code == 0, said.err


def test_the_blocks_about_the_demo_run_without_a_model(workspace):
    light = [b for b in BLOCKS if set(b) <= set(FAC_LINES) and not needs_the_model(b)]
    assert any("demo" in line for block in light for line in block)
    for line in (line for block in light for line in block):
        said = run(line, workspace)
        assert said.code == 0, (line, said.err)
        assert said.out


@pytest.mark.model
def test_the_blocks_about_your_own_data_run_in_the_order_they_stand_in(
    workspace, tmp_path, monkeypatch, demo_model_home, copy_demo
):
    copy_demo(workspace.root)
    monkeypatch.setenv("FAC_MODELS", str(demo_model_home))
    rows = demo.INPUTS[demo.SEED].read_text("utf-8").splitlines()[:12]
    (tmp_path / "my.jsonl").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("python -m fac demo", workspace).code == 0
    heavy = [b for b in BLOCKS if set(b) <= set(FAC_LINES) and needs_the_model(b)]
    assert any("measure mine" in line for block in heavy for line in block)
    for line in (line for block in heavy for line in block):
        # sixty-four samples, its default, would take a minute
        said = run(line + " --samples 8" * ("preflight" in line), workspace)
        # twelve samples cannot hold up against three hundred, and the gate says so
        expected = 1 if "--no-regress" in line else 0
        assert said.code == expected, (line, said.err)


def found_missing(workspace: Workspace) -> int:
    pair = ("--anchor", demo.ANCHOR, "--dataset", demo.SEED)
    return fac("coverage", *pair, "--json", workspace=workspace).json["n_missing"]


def test_its_task_profile_and_its_list_of_endpoints_can_be_read(tmp_path):
    profile, endpoints = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (task,) = relevance.read_tasks(profile).values()
    assert task.name == "medicine" and len(task.rubric) == 2
    (tmp_path / "endpoints.toml").write_text(endpoints)
    listed = read_endpoints(tmp_path / "endpoints.toml", unlisted=False)
    assert listed.of("https://api.openai.com/v1", "gpt-4o-mini").price_out == 0.6
    assert listed.of("http://gpu-host:8000/v1").key == ""


def test_it_says_what_the_demo_says(workspace, copy_demo):
    copy_demo(workspace.root)
    asked = [
        line
        for line in FAC_LINES
        if f" coverage --anchor {demo.ANCHOR} --dataset {demo.SEED}" in line
    ]
    assert asked
    for line in asked:
        found = run(f"{line} --json", workspace).json
        random_text = found["yardstick"]["median"]
        for figure in (f"{found['fac']:,.4g}", f"{found['n_missing']:,}", f"{random_text:.4f}"):
            assert figure in README, (line, figure)

    (line,) = (line for line in FAC_LINES if " explain demo-anchor" in line)
    some = run(f"{line} --json", workspace).json
    of_all = fac("explain", demo.ANCHOR, "--json", workspace=workspace).json["scores"]["auroc"]
    of_some = some["scores"]["auroc"]
    for figure in (of_some["median"], some["by_length"], of_all["median"]):
        assert f"{figure:.4f}" in README
    for n in (of_some["n"], some["too_few"], of_all["n"]):
        assert f"{n:,}" in README

    every = ("gaps", "--anchor", demo.ANCHOR, "--dataset", demo.SEED, "--limit", 10**6, "--json")
    gaps = {gap["feature"]: gap for gap in fac(*every, workspace=workspace).json["gaps"]}
    told = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in README.splitlines()
        if re.match(r"\| \d+ \|", row)
    ]
    assert len(told) >= 5
    for feature, tokens, in_anchor, expected, near in told:
        gap = gaps[int(feature)]
        assert [in_anchor, expected, near] == [
            str(gap["n_anchor"]),
            f"{gap['expected']:.1f}",
            f"{gap['near']:.2f}",
        ]
        for token in re.findall("`([^`]+)`", tokens):
            assert token in gap["label"].split(" · ")


def test_its_pictures_and_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len([t for t in targets if t.startswith("docs/img/")]) >= 6
    for target in targets:
        file, _, anchor = target.partition("#")
        if not re.match(r"https?:", target):
            text = (REPOSITORY / (file or "README.md")).read_bytes()
            headings = re.findall(rb"^#+ (.+)$", text, re.MULTILINE) if anchor else []
            anchors = {each.decode().lower().replace(" ", "-") for each in headings}
            assert not anchor or anchor in anchors, target


def test_its_map_of_the_code_names_every_module():
    (tree,) = re.findall(r"^```\n(app\.py .*?)^```$", README, re.MULTILINE | re.DOTALL)
    rooms = {p.stem for p in (REPOSITORY / "fac").iterdir() if not p.name.startswith("__")}
    told = set(re.findall(r"[a-z_]+", tree))
    assert rooms - told == set()


def test_figures_of_the_sae_are_those_of_its_own_report():
    quality = json.loads((demo.DEMO_INPUTS / "sae" / "quality.json").read_text("utf-8"))
    config = json.loads((demo.DEMO_INPUTS / "sae" / "cfg.json").read_text("utf-8"))
    assert f"{config['d_sae']:,} features" in re.sub(r"\s+", " ", README)
    for name in ("fvu", "l0", "dead", "loss_recovered"):
        assert f"{quality[name]:.3g}" in README


def test_the_licence_is_the_whole_apache_licence():
    text = Path(REPOSITORY / "LICENSE").read_text("utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) > 200
