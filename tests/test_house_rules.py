"""How the code is written: no circles inside a package, no filler names, no module that is too
long, small faces, and documents whose lists are true."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from fac.config import REPOSITORY, SPECS
from fac.registry import Registry

FAC = REPOSITORY / "fac"
PAGES = REPOSITORY / "pages"
CONTRIBUTING = REPOSITORY / "docs" / "contributing.md"

FILLERS = ("found", "said", "told", "asked", "known", "shown", "given", "own", "one", "place")
"""Participles and pronouns that say nothing of what a name holds."""

MOST_LINES = 600
MOST_NAMES = 40


def production() -> list[Path]:
    """Every module that ships."""
    return [*sorted(FAC.rglob("*.py")), *sorted(PAGES.glob("*.py")), REPOSITORY / "app.py"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module_of(path: Path, root: Path) -> str:
    """Dotted name, such as fac.store.runs; a package is called like its folder."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_at_load(module: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run with the module: not those inside functions or for a type checker."""
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_at_load(node)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Which modules below `root` each one loads. `from a import b` loads b where b is a module."""
    paths = {module_of(path, root): path for path in sorted(root.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        graph[name] = set()
        for node in imports_at_load(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                targets = {alias.name for alias in node.names}
            else:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = inner & set(paths)
                targets = modules | ({node.module or ""} if inner - modules else set())
            graph[name] |= {target for target in targets if target in paths and target != name}
    return graph


def circle(graph: dict[str, set[str]]) -> Sequence[str]:
    """Modules that load each other in a circle; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_load_each_other_in_a_circle():
    assert circle(import_graph(FAC)) == []


def test_a_circle_inside_a_package_is_found(tmp_path):
    room = tmp_path / "fac" / "room"
    room.mkdir(parents=True)
    for path in (room.parent, room):
        (path / "__init__.py").write_text("")
    (room / "one.py").write_text("from fac.room import two")
    (room / "two.py").write_text("def f():\n    import fac.room.one")
    assert circle(import_graph(tmp_path / "fac")) == []
    (room / "two.py").write_text("from fac.room.one import f")
    assert set(circle(import_graph(tmp_path / "fac"))) == {"fac.room.one", "fac.room.two"}


def test_a_filler_is_no_name():
    names, fillers = 0, []
    for path in production():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names += 1
                if node.id in FILLERS:
                    where = path.relative_to(REPOSITORY)
                    fillers.append(f"{where}:{node.lineno} assigns `{node.id}`")
    assert len(fillers) < 0.02 * names, "\n".join(fillers)


def test_no_module_is_longer_than_one_can_hold_in_mind():
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in production()}
    long = {str(p.relative_to(REPOSITORY)): n for p, n in sizes.items() if n > MOST_LINES}
    assert long == {}


def public_names(face: ast.Module) -> set[str]:
    """What a package offers under its own name."""
    names: set[str] = set()
    for node in face.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_") and name != "annotations"}


def test_a_package_has_a_small_face():
    faces = {path: public_names(tree(path)) for path in production() if path.stem == "__init__"}
    wide = {str(p.parent.relative_to(REPOSITORY)): len(n) for p, n in faces.items()}
    assert {room: n for room, n in wide.items() if n > MOST_NAMES} == {}


# --- what the documents list --------------------------------------------------------------------


def test_the_tree_of_the_readme_names_every_room():
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    rooms = {path.stem for path in FAC.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms -= {"__init__", "__pycache__"}
    assert {room for room in rooms if not re.search(rf"\b{room}\b", readme)} == set()


def section(heading: str) -> str:
    """The text of a section of docs/contributing.md."""
    text = CONTRIBUTING.read_text("utf-8")
    assert f"## {heading}\n" in text, f"docs/contributing.md has no section {heading!r}"
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_the_files_of_every_journey_exist():
    journeys = section("Five journeys")
    files = set(re.findall(r"`((?:fac|pages|tests|docs)/[^`<>*]+?\.(?:py|md))`", journeys))
    assert len(files) >= 8
    missing = {name for name in files if not [*REPOSITORY.glob(name.replace("NAME", "[a-z]*"))]}
    assert missing == set()


def test_the_layers_are_those_of_the_layer_test():
    from tests.test_architecture import LAYERS

    lines = re.findall(r"^\d+\. (.+)$", section("Layers"), re.MULTILINE)
    rooms = [set(re.findall(r"`([a-z_]+)`", line)) for line in lines]
    assert rooms == [layer for layer in LAYERS]


def test_every_registry_is_listed_with_its_folder():
    listed = set(re.findall(r"`(fac(?:\.[a-z_]+)+)`", section("Parts that are one file")))
    registries = {
        match
        for path in production()
        for match in re.findall(r'Registry\(\s*"(fac\.[a-z_.]+)"', path.read_text("utf-8"))
    }
    assert listed == registries
    assert all(Registry(package, "").names for package in listed)


def test_the_glossary_has_every_step():
    glossary = section("Glossary")
    assert {step for step in SPECS if f"`{step}`" not in glossary} == set()


def test_a_method_choice_that_the_code_cites_is_in_the_list():
    choices = set(re.findall(r"^\*\*(M\d+)\*\*", section("Method choices"), re.MULTILINE))
    cited = {
        name
        for path in production()
        for name in re.findall(r"method\s+choices?\s+(M\d+)", path.read_text("utf-8"))
    }
    assert cited <= choices


@pytest.mark.parametrize("document", ["method section", "architecture section", "method 1."])
def test_no_docstring_cites_a_document_that_is_not_here(document):
    citing = [p for p in production() if document in " ".join(p.read_text("utf-8").split())]
    assert [str(path.relative_to(REPOSITORY)) for path in citing] == []
