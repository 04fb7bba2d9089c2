"""The project itself: imports point down, SQL stays home, the dashboard starts without a model."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fac.config import REPOSITORY

FAC = REPOSITORY / "fac"

LAYERS = [
    {"errors"},
    {"registry", "schema", "endpoints", "access", "folders", "markup"},
    {"config"},
    {"manifest"},
    {
        *("prompts", "coverage", "families", "layout", "matching"),
        *("agreement", "uncertainty", "selection", "diversity"),
    },
    {"models", "sae_formats", "sae_directory"},
    {"saes"},
    {"datasets", "encoder", "generator", "preflight", "sae_training", "store"},
    {
        *("measure", "interpret", "synthesis", "review", "ingest", "export"),
        *("dictionary", "probe", "demo"),
    },
    {"executor", "experiments"},
    {"questions"},
    {"jobs", "charts"},
    {"maps", "report", "api"},
    {"cli"},
    {"ui", "__main__"},
]
HEIGHT = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = ("torch", "transformers", "peft", "sae_lens", "umap", "sklearn", "openai", "ray")


@cache
def nodes(source: str) -> list[ast.AST]:
    """All that a module is made of."""
    return list(ast.walk(ast.parse(source)))


def fac_imports(source: str) -> set[str]:
    """Top-level names under fac that a module asks for, wherever in the file it asks."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts == ["fac"]:
                # What the package says of itself, its version, is no room.
                found |= {a.name for a in node.names if not a.name.startswith("__")}
            elif parts[0] == "fac":
                found.add(parts[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fac.")}
    return found


def every_import(source: str) -> set[str]:
    """Top-level packages a module asks for, wherever in the file it asks."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def wrong_way(root: Path) -> list[str]:
    """Imports that do not point to a lower layer, as sentences."""
    bad = []
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        if room not in HEIGHT:
            bad.append(f"{room} has no layer: give it one in this test")
            continue
        for other in sorted(fac_imports(path.read_text("utf-8")) - {room}):
            if HEIGHT[other] >= HEIGHT[room]:
                bad.append(f"{path.name} ({room}) imports {other}")
    return bad


def project_files() -> Iterator[Path]:
    """Every Python file a person wrote, tests and benchmarks included."""
    yield REPOSITORY / "app.py"
    for folder in ("fac", "pages", "tests", "benchmarks"):
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def test_imports_only_point_down():
    assert wrong_way(FAC) == []


@pytest.mark.parametrize(
    "source", ["from fac import ui", "import fac.ui", "def f():\n    from fac.ui import x"]
)
def test_an_import_that_points_up_is_found(tmp_path, source):
    (tmp_path / "measure.py").write_text(source)
    assert wrong_way(tmp_path) == ["measure.py (measure) imports ui"]


def test_rooms_of_one_layer_do_not_know_each_other(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "runs.py").write_text("import fac.encoder")
    (tmp_path / "datasets.py").write_text("from fac.store.runs import Runs")
    assert wrong_way(tmp_path) == [
        "datasets.py (datasets) imports store",
        "runs.py (store) imports encoder",
    ]


def test_imports_inside_the_package_are_absolute():
    for path in sorted(FAC.rglob("*.py")):
        for node in nodes(path.read_text("utf-8")):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path.name


def test_sql_stays_in_the_store():
    verb = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|ATTACH) ")
    told = {}
    for path in (REPOSITORY / "app.py", *FAC.rglob("*.py"), *(REPOSITORY / "pages").glob("*.py")):
        strings = [
            node.value
            for node in nodes(path.read_text("utf-8"))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        told[path.relative_to(REPOSITORY)] = any(verb.search(text) for text in strings)
    sql = {path for path, found in told.items() if found}
    store = Path("fac/store")
    cache = {path for path in sql if path.parent == store / "cache"}
    assert cache and sql - cache == {
        store / f"{name}.py" for name in ("decisions", "queue", "audit")
    }


def test_databases_are_opened_in_the_store_alone():
    for path in sorted(FAC.rglob("*.py")):
        found = every_import(path.read_text("utf-8")) & {"duckdb", "sqlite3"}
        if path.parent == FAC / "store" / "cache":
            assert found <= {"duckdb"}, path.name
        else:
            opens = {"sqlite.py"} if path.parent == FAC / "store" else set()
            assert found == ({"sqlite3"} if path.name in opens else set()), path.name


def test_pages_know_no_arrays_no_databases_and_no_language_model():
    for path in sorted((REPOSITORY / "pages").glob("*.py")):
        asked = every_import(path.read_text("utf-8"))
        assert not asked & {"numpy", "duckdb", "sqlite3", "openai", *HEAVY}, path.name


def test_streamlit_stays_in_the_shared_frame_and_the_pages():
    users = {p for p in FAC.rglob("*.py") if "streamlit" in every_import(p.read_text("utf-8"))}
    assert {path.parent for path in users} == {FAC / "ui"}


def test_what_a_language_model_is_told_stands_in_one_room():
    homes = set()
    for path in sorted(FAC.rglob("*.py")):
        told = [
            dict(zip(map(ast.unparse, filter(None, node.keys)), node.values, strict=False))
            for node in nodes(path.read_text("utf-8"))
            if isinstance(node, ast.Dict)
        ]
        words = [
            d["'content'"]
            for d in told
            if "'content'" in d and "'role'" in d and ast.unparse(d["'role'"]) == "'system'"
        ]
        if any(isinstance(said, ast.Constant | ast.JoinedStr) for said in words):
            homes.add(path.parent)
    assert homes == {FAC / "prompts"}


@pytest.mark.parametrize("door", ["fac.ui", "fac.jobs", "fac.__main__"])
def test_a_door_opens_without_what_only_the_worker_needs(door):
    code = f"import sys, {door}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_module_says_what_it_is_for():
    silent = [p for p in project_files() if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert [str(p.relative_to(REPOSITORY)) for p in silent] == []


def test_nothing_is_left_for_later():
    later = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for path in project_files():
        assert not later.search(path.read_text("utf-8")), path.name


def swallows(source: str) -> bool:
    """Whether a module catches every error and goes on, by `except` or by `suppress`."""
    everything = re.compile(r"\b(Base)?Exception\b")
    for node in nodes(source):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            if everything.search(caught) and not isinstance(node.body[-1], ast.Raise):
                return True
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            kinds = ", ".join(map(ast.unparse, node.args))
            if everything.search(kinds):
                return True
    return False


def test_what_is_caught_is_named_or_raised_again():
    """But for the worker, where one bad job must not end those that wait."""
    files = [*FAC.rglob("*.py"), *(REPOSITORY / "pages").glob("*.py"), REPOSITORY / "app.py"]
    careless = {p.relative_to(REPOSITORY) for p in files if swallows(p.read_text("utf-8"))}
    assert careless == {Path("fac/jobs/worker.py")}


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "import contextlib\nwith contextlib.suppress(OSError, Exception):\n    f()",
    ],
)
def test_an_error_that_is_swallowed_is_seen(source):
    assert swallows(source)
    assert not swallows(
        source.replace("Exception", "OSError").replace("except:", "except OSError:")
    )


def test_what_signing_in_needs_is_among_what_the_tests_need():
    auth, dev = (
        set((REPOSITORY / f"requirements-{kind}.txt").read_text().splitlines())
        for kind in ("auth", "dev")
    )
    assert {line for line in auth if "==" in line} <= dev


def test_every_dependency_has_one_exact_version():
    for kind in ("", "-dev", "-scale", "-mcp", "-auth"):
        name = f"requirements{kind}.txt"
        for line in (REPOSITORY / name).read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?==[0-9][0-9a-z.]*", line), line
