"""Manifests: typed when read, the same JSON as ever when written."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from fac.config import DEMO_INPUTS, SPECS, Workspace
from fac.errors import InputError
from fac.manifest import FACTS, INPUTS, Facts, Inputs, Manifest, PairsFacts
from fac.store.runs import Runs

BARE = {
    "run": "dataset-1",
    "step": "dataset",
    "created": "",
    "files": {},
    "inputs": [],
    "facts": {},
}
COMMITTED = sorted((DEMO_INPUTS / "runs").glob("*/*/manifest.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_the_facts_of_committed_runs_come_out_as_they_went_in(path: Path):
    content = json.loads(path.read_text())
    assert Manifest.read(content).facts.as_json() == content["facts"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_the_specs_of_committed_runs_come_out_as_they_went_in(path: Path):
    content = json.loads(path.read_text())
    assert json.loads(json.dumps(Manifest.read(content).spec.as_json())) == content["spec"]


def test_inputs_are_read_by_name():
    pairs = Inputs.read("pairs", ["measure-a", "measure-b", "explain-1", "explain-2"])
    assert (pairs.anchor, pairs.dataset) == ("measure-a", "measure-b")
    assert pairs.explanations == ("explain-1", "explain-2")
    assert Inputs.read("explain", ["measure-a"]).measure == "measure-a"
    assert Inputs.read("relevance", ["measure-a", "explain-1"]).explanations == ("explain-1",)
    assert Inputs.read("synthetic", ["pairs-1"]).pairs == "pairs-1"
    assert Inputs.read("sae", []).ids == ()


def test_inputs_have_a_field_for_every_name():
    names = {each.name for each in fields(Inputs)}
    assert {name for step in INPUTS.values() for name in step} <= names
    assert set(INPUTS) <= set(SPECS)


def test_every_step_that_publishes_has_a_record_of_its_facts():
    assert set(FACTS) == set(SPECS) - {"demo"}


def test_a_manifest_of_another_version_reads():
    content = {**BARE, "facts": {"name": "tea", "from_the_future": 1}}
    facts = Manifest.read(content).facts
    assert (facts.name, facts.n_samples, facts.labels) == ("tea", 0, {})


def test_an_edited_pair_has_no_ledger():
    facts = PairsFacts(name="tea", anchor="measure-a", pairs=1, features=[3])
    assert not {"tokens", "cost", "writer", "origins"} & set(facts.as_json())
    written = PairsFacts(name="tea", writer="toy")
    assert written.as_json()["cost"] is None


def test_a_spec_this_version_does_not_know_is_told_when_it_is_asked_for():
    manifest = Manifest.read({**BARE, "step": "measure", "spec": {"colour": "blue"}})
    assert manifest.facts.n_samples == 0
    with pytest.raises(InputError, match="does not fit this version"):
        _ = manifest.spec


def test_facts_are_frozen():
    with pytest.raises(AttributeError):
        Facts().name = "other"  # type: ignore[misc]


def test_publishing_a_record_writes_its_json(tmp_path):
    spec = SPECS["probe"](text="tea")
    runs = Runs(Workspace(tmp_path))
    facts = FACTS["probe"](text="tea", n_features=3)
    runs.scratch(spec.run_id())
    runs.publish(spec.run_id(), spec=spec, inputs=[], facts=facts, seconds=0.0)
    assert runs.manifest(spec.run_id()).facts == facts
