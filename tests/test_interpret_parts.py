"""A new explainer, scorer or judge is one new file: whoever lists, prefers or shows it finds it."""

import sys
from pathlib import Path

import pytest

from fac import config
from fac.config import ExplainSpec, Workspace
from fac.errors import InputError
from tests import test_pages, toy
from tests.test_cli import PAIR, fac

LOUD = '''
"""Explains by saying it loudly."""

import numpy as np

from fac.interpret.parts import Explainer, FeatureExplanation, OpenExplainer


def explain(run, items):
    return {
        item.feature: FeatureExplanation(
            text=f"FEATURE {item.feature}!",
            prediction=(np.array([1.0, 0.0]), np.array([True, False])),
        )
        for item in items
    }


EXPLAINER = Explainer(
    title="somebody loud",
    job_title="loudly",
    preference=-1,
    open=lambda spec, runs: OpenExplainer(explain, version="loud 1", source="a loud method"),
)
'''

LENGTH = '''
"""Scores an explanation by its length."""

from fac.interpret.parts import Scorer, score_row


def score(run, explanations):
    for feature, explanation in explanations.items():
        share = len(explanation.text) / 100
        explanation.scores.append(score_row(feature, "length", (share, share, share, 1, 1)))


SCORER = Scorer(title="Length", meaning="How long the text is.", preference=-1, score=score)
'''

COIN = '''
"""Judges by the number of a feature."""

from fac.interpret.parts import Judge


def judge(run):
    yield [{"feature": f, "level": "yes" if f % 2 else "no"} for f in run.features]


JUDGE = Judge(title="A coin", judge=judge, preference=9)
'''


started, navigation_decides = test_pages.started, test_pages.navigation_decides


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The toy workspace, and a program with three parts more."""
    for registry, name, source in (
        (config.EXPLAINERS, "loud", LOUD),
        (config.SCORERS, "length", LENGTH),
        (config.JUDGES, "coin", COIN),
    ):
        folder = tmp_path / registry.package
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        package = sys.modules.get(registry.package) or __import__(registry.package, fromlist=["x"])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(registry, "names", tuple(sorted((*registry.names, name))))
        monkeypatch.delitem(sys.modules, f"{registry.package}.{name}", raising=False)
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path / "toy"))
    return toy.toy_workspace(tmp_path / "toy")


def test_a_new_explainer_is_listed_explains_and_is_preferred_and_shown(
    workspace: Workspace,
) -> None:
    with pytest.raises(InputError, match="must be one of loud, llm, external, tokens"):
        ExplainSpec(measure="measure-x", explainer="mumble")
    for explainer in ("tokens", "loud"):
        done = fac("explain", "toy-anchor", "--explainer", explainer, "--json", workspace=workspace)
        assert done.code == 0, done.err
    assert done.json["source"] == "a loud method"
    assert done.json["scores"]["auroc"]["median"] == 1.0, "a prediction is scored, whose it may be"
    gaps = fac("gaps", *PAIR, "--json", workspace=workspace).json["gaps"]
    assert {(row["explanation"], row["explainer"]) for row in gaps} == {
        (f"FEATURE {row['feature']}!", "loud") for row in gaps
    }
    page = test_pages.markup(test_pages.opened("features", anchor="toy-anchor", feature="3"))
    loud, quiet = page.index("somebody loud"), page.index("token statistics")
    assert loud < quiet and "FEATURE 3!" in page


def test_a_new_scorer_scores_and_is_named(workspace: Workspace) -> None:
    fac("explain", "toy-anchor", workspace=workspace)
    done = fac("explain", "toy-anchor", "--explainer", "loud", "--json", workspace=workspace)
    assert done.json["scores"]["length"] == {"n": 11, "median": 0.1}
    gaps = fac("gaps", *PAIR, "--json", workspace=workspace).json["gaps"]
    assert {(row["score_kind"], row["score"]) for row in gaps} <= {
        ("length", 0.1),
        ("length", 0.11),
    }
    at = test_pages.opened("features", anchor="toy-anchor", feature="3")
    assert any("Length" in badge.value for badge in at.markdown)


def test_a_new_judge_judges(workspace: Workspace) -> None:
    line = ("judge", "toy-anchor", "--task", "reward", "--judge", "coin", "--json")
    done = fac(*line, workspace=workspace)
    assert done.code == 0, done.err
    assert done.json["judge"] == "coin" and done.json["counts"] == {"no": 6, "yes": 5}
