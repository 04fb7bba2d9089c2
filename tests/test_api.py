"""The door for programs: what `import fac` gives is what pages and commands say."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fac
from fac import api
from fac.config import REPOSITORY, Workspace
from fac.questions.gaps import GapList, gap_page
from fac.store.runs import Runs
from tests.test_cli import PAIR, KitchenSteps
from tests.test_cli import fac as command
from tests.toy import ANCHOR, SEED, TWICE, WORDS, fac_of, toy_workspace

NOTEBOOK = REPOSITORY / "examples" / "explore.ipynb"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """The toy workspace, explained; not to be changed."""
    return toy_workspace(tmp_path_factory.mktemp("api"), samples=TWICE, explained=True)


@pytest.fixture(scope="module")
def explorer(place):
    with fac.Explorer(place.root) as explorer:
        yield explorer


def test_importing_it_loads_nothing_that_takes_time():
    heavy = ("torch", "transformers", "streamlit", "duckdb", "pyarrow", "numpy", "typer")
    code = f"import sys, fac; print([m for m in {heavy!r} if m in sys.modules], fac.__version__)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert answer.stdout == f"[] {fac.__version__}\n"


def test_it_offers_what_it_lists_and_nothing_else():
    assert all(getattr(fac, name) for name in fac.__all__)
    with pytest.raises(AttributeError, match="no attribute 'explorer'"):
        fac.explorer  # noqa: B018


# --- the same answers ---------------------------------------------------------------------------


def test_a_comparison_is_the_one_of_the_command(explorer, place):
    comparison = explorer.comparison("toy-anchor", "toy-seed", threshold=0)
    result = explorer.coverage(comparison)
    # Of bake, oven, recipe, please the seed says all; of code and travel nothing. "the" is in
    # every sample, so it is not relevant, and "quasar" nobody says.
    assert [WORDS[feature] for feature in result.missing] == [
        *("python", "function", "loop", "river", "mountain", "train")
    ]
    assert result.fac == pytest.approx(fac_of(4, 10))
    by_command = command("coverage", *PAIR, "--list", "--json", workspace=place).json
    assert (result.fac, result.missing.tolist()) == (by_command["fac"], by_command["missing"])
    headline, advice, _ = explorer.outlook(comparison)
    assert (headline, advice) == (by_command["headline"], by_command["advice"])
    interval = explorer.certainty(comparison).interval
    assert (interval.low, interval.high) == tuple(by_command["interval"].values())


def test_clear_firing_is_what_nobody_has_to_ask_for(explorer, place):
    comparison = explorer.comparison("toy-anchor", "toy-seed")
    by_command = command("coverage", *PAIR[:4], "--json", workspace=place).json
    assert comparison.threshold == by_command["threshold"] > 0


def test_gaps_are_the_rows_of_the_pages_as_a_table(explorer):
    comparison = explorer.comparison("toy-anchor", "toy-seed", threshold=0)
    table = explorer.gaps(comparison)
    rows, n = gap_page(explorer.stores, comparison, GapList())
    assert table.to_pylist() == rows and table.num_rows == n == 6
    frame = table.to_pandas().set_index("feature")
    trains = WORDS.index("train")
    assert (frame.n_anchor[trains], frame.n_dataset[trains]) == (12, 0)
    assert explorer.gaps(comparison, limit=2).to_pylist() == rows[:2]


def test_a_table_without_rows_has_its_columns_and_their_types(explorer):
    comparison = explorer.comparison("toy-anchor", "toy-anchor", threshold=0)
    full = explorer.gaps(explorer.comparison("toy-anchor", "toy-seed", threshold=0))
    empty = explorer.gaps(comparison)
    assert empty.num_rows == 0 and empty.schema == full.schema
    silent = explorer.examples("toy-seed", WORDS.index("python"))
    answer = explorer.examples("toy-anchor", WORDS.index("python"))
    assert silent.num_rows == 0 < answer.num_rows and silent.schema == answer.schema


def test_features_are_those_of_the_list_on_the_page(explorer):
    table = explorer.features("toy-anchor")
    assert table["feature"].to_pylist() == [*range(11)]  # all but "quasar"
    counts = dict(zip(WORDS, table["n_samples"].to_pylist(), strict=False))
    chats = [" ".join(message["content"] for message in chat).split() for chat in ANCHOR * 2]
    for word in ("oven", "river", "recipe"):
        assert counts[word] == sum(word in chat for chat in chats)
    assert explorer.features("toy-anchor", only="silent")["feature"].to_pylist() == [11]
    (most,) = explorer.features("toy-anchor", sort="n_samples", limit=1).to_pylist()
    assert WORDS[most["feature"]] == "the"
    (one,) = explorer.features("toy-anchor", search="#3").to_pylist()
    assert one["name"] == "the word python" or "python" in one["explanation"]


def test_examples_say_where_a_feature_fires_and_near_misses_where_almost(explorer):
    river = WORDS.index("river")
    for row in explorer.examples("toy-anchor", river, kind="top").to_pylist():
        assert "river" in row["tokens"][row["peak_index"]] and "along the river" in row["text"]
        chat = explorer.samples("toy-anchor")["messages"][row["sample"]].as_py()
        assert any("along the river" in message["content"] for message in chat)
    misses = explorer.near_misses("toy-seed", river)
    assert "ratio" in misses.column_names and "text" in misses.column_names


def test_explanations_stand_side_by_side_preferred_first(explorer):
    explanations = explorer.explanations("toy-anchor", WORDS.index("oven"))
    assert [each.explainer for each in explanations] == ["llm", "tokens"]
    assert explanations[0].text == "People speak of a oven."


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (lambda e: e.examples("toy-seed", 12), "features 0 to 11, got 12"),
        (lambda e: e.examples("toy-seed", 1, kind="best"), "top or spread, got 'best'"),
        (lambda e: e.comparison("toy-anchor", "toys"), "Nothing finished is called 'toys'"),
        (lambda e: e.comparison("toy-anchor", "toy-seed", threshold="high"), "got 'high'"),
        (lambda e: e.comparison("toy-anchor", "toy-seed", min_support=0), "at least 1, got 0"),
        (lambda e: e.measure("toys"), "Nothing finished is called 'toys'"),
        (lambda e: e.ingest("gone.jsonl", name="a/b"), "without '/', got 'a/b'"),
    ],
)
def test_what_is_wrong_is_one_sentence(explorer, question, sentence):
    with pytest.raises(fac.FacError, match=re.escape(sentence)):
        question(explorer)


def test_a_workspace_whose_caches_are_gone_is_answered_all_the_same(tmp_path):
    place = toy_workspace(tmp_path / "toy")
    for path in place.cache.iterdir():
        path.unlink()
    with fac.Explorer(place.root) as explorer:
        assert explorer.examples("toy-anchor", 0).num_rows
        assert explorer.features("toy-seed")["feature"].to_pylist() == [0, 1, 2, 9, 10]
        comparison = explorer.comparison("toy-anchor", "toy-seed", threshold=0)
        assert explorer.coverage(comparison).n_missing == 6
        assert len(explorer.measured()) == 2


# --- the lines that people copy -----------------------------------------------------------------


@pytest.fixture
def demo_of_words(tmp_path, monkeypatch):
    """Makes a folder a workspace that holds the toy datasets under the demo's names, with steps
    that need no model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "Steps", KitchenSteps)
    monkeypatch.setattr(api.demo, "materialise", lambda workspace, progress: [])
    samples = {"demo-anchor": ANCHOR * 4, "demo-seed": SEED * 12}
    return lambda name: toy_workspace(tmp_path / name, samples=samples)


def test_the_five_lines_of_the_readme_run(demo_of_words, tmp_path):
    text = (REPOSITORY / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (lines,) = (block for block in blocks if "fac.Explorer" in block)
    assert len(ast.parse(lines).body) <= 1 + 5 + 1  # import and at most one line with two
    place = demo_of_words("my-workspace")
    (tmp_path / "my.jsonl").write_text(json.dumps({"text": "a python near the river"}), "utf-8")
    names: dict = {}
    exec(lines, names)
    assert names["gaps"].num_rows and names["examples"].text.str.len().min() > 0
    assert names["features"]["feature"].to_pylist() == [3, 6, 10]
    mine = Runs(place).manifest(Runs(place).resolve("measure", "mine"))
    assert mine.facts.n_samples == 1


def cells(kind: str) -> list[str]:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert content["nbformat"] == 4
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == kind]


def test_the_notebook_runs_from_its_first_cell_to_its_last(demo_of_words, capsys):
    demo_of_words("fac-data")
    names: dict = {}
    for source in cells("code"):
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert len(cells("code")) >= 8
    assert names["gaps"].num_rows > 0
    assert names["headline"] in capsys.readouterr().out
    assert Path("mine.csv").is_file() and names["lost"] == set()
