"""The demo: what is committed is whole, arrives without a model, and its writer can be trusted."""

import json
import subprocess
import sys

import pytest

from fac import demo
from fac.config import DEMO_INPUTS, Workspace
from fac.errors import Cancelled, GateFailed, InputError
from fac.jobs import training
from fac.jobs.steps import Steps
from fac.store.cache import Cache
from fac.store.runs import Runs


def quiet(done, total, note=""):
    assert 0 <= done <= total


# --- committed files -----------------------------------------------------------------------------


def test_every_committed_file_has_the_hash_its_manifest_promises():
    runs = Runs(demo.COMMITTED)
    ids = [m.run for step in ("dataset", "sae", "measure") for m in runs.list(step)]
    assert len(ids) == 5
    assert {run: runs.verify(run) for run in ids} == {run: [] for run in ids}


def test_the_committed_runs_come_from_the_committed_samples():
    runs = Runs(demo.COMMITTED)
    for name, path in demo.INPUTS.items():
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        stored = runs.table(runs.resolve("dataset", name), "samples").column("messages")
        assert stored.to_pylist() == [row["messages"] for row in rows]


def test_the_anchor_is_broad_and_the_seed_narrow_in_number_and_topic():
    counts = {name: path.read_text("utf-8").splitlines() for name, path in demo.INPUTS.items()}
    assert len(counts[demo.ANCHOR]) >= 2000
    assert 250 <= len(counts[demo.SEED]) <= 350
    recipe = json.loads((DEMO_INPUTS / "seed.recipe.json").read_text())["recipe"]
    instructions = [json.loads(line)["messages"][0]["content"] for line in counts[demo.SEED]]
    assert all(any(w in text.casefold() for w in recipe["must_contain"]) for text in instructions)


def test_the_sae_meets_its_bar_on_held_out_text():
    quality = json.loads((DEMO_INPUTS / "sae" / "quality.json").read_text())
    assert quality["fvu"] <= 0.17
    assert quality["dead"] <= 0.05
    assert 24 <= quality["l0"] <= 48
    assert 0.8 < quality["loss_recovered"] <= 1


# --- bringing it in -------------------------------------------------------------------------------


def test_the_demo_arrives_with_caches_and_without_a_model(tmp_path):
    code = (
        "import sys; from fac import demo; from fac.config import Workspace; "
        f"demo.materialise(Workspace(__import__('pathlib').Path({str(tmp_path)!r})), "
        "lambda *a: None); "
        "print([m for m in ('torch', 'transformers', 'sae_lens', 'umap') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    runs, cache = Runs(Workspace(tmp_path)), Cache(tmp_path / "cache")
    for name in demo.INPUTS:
        assert cache.ready(runs.resolve("measure", name))


def test_bringing_the_demo_in_twice_changes_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    first = demo.materialise(workspace, quiet)
    before = training.headline(workspace)
    assert demo.materialise(workspace, quiet) == first
    assert training.headline(workspace) == before
    assert 0 < before["fac"] < 1
    assert before["n_missing"] == len(before["missing"]) > 0


def test_a_rebuild_that_differs_is_a_failed_gate():
    committed = {"fac": 0.5, "n_missing": 2, "missing": [1, 2]}
    demo.must_agree(committed, dict(committed))
    with pytest.raises(GateFailed, match="2 features differ"):
        demo.must_agree(committed, committed | {"missing": [1, 3]})


@pytest.mark.model
def test_a_rebuild_from_the_samples_agrees_on_a_part(tmp_path, demo_model_home, monkeypatch):
    """The first 64 samples of the seed, measured now: the peaks the committed run holds for them.

    The whole rebuild is `fac demo --rebuild`; parts cut at the same samples give the same batches
    only for whole parts, so peaks are compared within float32 rounding.
    """
    from fac.config import IngestSpec, MeasureSpec

    monkeypatch.setenv("FAC_MODELS", str(demo_model_home))
    lines = demo.INPUTS[demo.SEED].read_text("utf-8").splitlines()[:64]
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(lines), encoding="utf-8")
    steps = Steps(Workspace(tmp_path / "w"))
    monkeypatch.setattr(steps, "describe_sae", lambda *_: "sae-0")
    monkeypatch.setattr(steps, "build_cache", lambda *_: None)
    source = steps.perform(IngestSpec(name="part", source=str(part)), quiet)
    run = steps.perform(MeasureSpec(dataset=source), quiet)

    committed = Runs(demo.COMMITTED)
    whole = committed.table(committed.resolve("measure", demo.SEED), "activations").to_pylist()
    expected = {
        (r["sample"], r["role"], r["feature"]): r["peak"] for r in whole if r["sample"] < 64
    }
    figures = {
        (r["sample"], r["role"], r["feature"]): r["peak"]
        for r in steps.runs.table(run, "activations").to_pylist()
    }
    shared = expected.keys() & figures.keys()
    assert len(shared) >= 0.999 * max(len(expected), len(figures))
    assert all(figures[k] == pytest.approx(expected[k], rel=1e-3) for k in shared)


# --- the writer -----------------------------------------------------------------------------------


class ScriptedGenerator:
    """Says what it was told to, batch after batch; an answer repeats its question."""

    def __init__(self, *batches):
        self.batches = list(batches)
        self.seeds = []

    def render(self, messages, *, reply=True):
        return "|".join(m["content"] for m in messages) + ("?" if reply else "")

    def continuations(self, prompts, *, seed, **_):
        self.seeds.append(seed)
        if prompts[0].endswith("?"):
            return [(f"About {p[:-1]}. Then mo", False) for p in prompts]
        return self.batches.pop(0)


def write(tmp_path, generator, progress=quiet, **recipe):
    recipe = demo.MagpieRecipe(**{"n": 2, "batch": 4, "seed": 3, **recipe})
    return demo.write_magpie(recipe, generator, tmp_path / "out.jsonl", progress)


def questions(tmp_path):
    rows = (tmp_path / "out.jsonl").read_text().splitlines()
    return [json.loads(row)["messages"][0]["content"] for row in rows]


def test_every_dropped_sample_is_counted_with_its_reason(tmp_path):
    generator = ScriptedGenerator(
        [
            ("How do I bake bread", True),
            ("how do I BAKE bread?", True),
            ("what is a star in the sky", True),
            ("unfinished thought about bread", False),
            ("bread please", True),
            ("bread with \ufffd in it", True),
        ],
        [("Is bread old or new", True)],
    )
    report = write(tmp_path, generator, must_contain=("bread",))
    assert questions(tmp_path) == ["How do I bake bread", "Is bread old or new"]
    assert report["dropped"] == {
        "duplicate": 1,
        "off topic": 1,
        "instruction cut at the token limit": 1,
        "fewer than three words": 1,
        "broken characters": 1,
    }


def test_a_cut_answer_ends_at_its_last_whole_sentence(tmp_path):
    write(tmp_path, ScriptedGenerator([("one two three", True), ("four five six", True)]))
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert row["messages"][1] == {"role": "assistant", "content": "About one two three."}


def test_a_stopped_writing_continues_with_the_next_batch(tmp_path):
    def impatient(done, total, note=""):
        if done:
            raise Cancelled("asked to stop")

    first = ScriptedGenerator([("one two three", True)])
    with pytest.raises(Cancelled):
        write(tmp_path, first, impatient)
    assert not (tmp_path / "out.jsonl").exists()
    second = ScriptedGenerator([("one two three", True), ("four five six", True)])
    report = write(tmp_path, second)
    assert questions(tmp_path) == ["one two three", "four five six"]
    assert report["dropped"] == {"duplicate": 1}
    assert not set(first.seeds) & set(second.seeds)


def test_fifty_batches_without_a_new_sample_end_with_a_sentence(tmp_path):
    with pytest.raises(InputError, match="Fifty batches"):
        write(tmp_path, ScriptedGenerator(*[[("too short", True)]] * 50))


def test_a_writing_killed_in_the_middle_of_a_line_continues_with_whole_ones(tmp_path):
    def impatient(done, total, note=""):
        if done:
            raise Cancelled("asked to stop")

    committed = ("is the sky\u2028blue today", True)
    with pytest.raises(Cancelled):
        write(tmp_path, ScriptedGenerator([committed]), impatient)
    (journal,) = tmp_path.glob("_out.jsonl.*.journal")
    with journal.open("a") as file:
        file.write('{"batch": 1, "kept": [{"mess')
    write(tmp_path, ScriptedGenerator([("four five six", True)]))
    rows = (tmp_path / "out.jsonl").read_text("utf-8").split("\n")[:-1]
    instructions = [json.loads(row)["messages"][0]["content"] for row in rows]
    assert instructions == [committed[0], "four five six"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_the_journal_of_another_recipe_is_not_continued(tmp_path):
    def impatient(done, total, note=""):
        if done:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        write(tmp_path, ScriptedGenerator([("one two three", True)]), impatient)
    write(tmp_path, ScriptedGenerator([("a b c", True), ("d e f", True)]), seed=4)
    assert questions(tmp_path) == ["a b c", "d e f"]
