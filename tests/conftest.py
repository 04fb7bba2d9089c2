"""What tests share: a workspace that is not anybody's, the demo model, a browser."""

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fac import demo
from fac.config import REPOSITORY, Workspace
from fac.store.runs import Runs
from tests.server import transformers_serve

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


os.environ.setdefault("MKL_NUM_THREADS", str(os.cpu_count()))
"""Tests compare runs bit by bit: what else runs on the machine changes no number of threads, here
and in processes that tests start."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Processes that share the cores have one thread each: several would wait for each other."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def no_test_touches_a_real_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever forgets to name a workspace finds an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAC_WORKSPACE", str(tmp_path_factory.mktemp("unnamed-workspace")))
        yield


@pytest.fixture(scope="session", autouse=True)
def components_are_looked_for_once() -> Iterator[None]:
    """Every AppTest reads the metadata of all installed packages for components of Streamlit,
    which takes longer than most pages and finds the same each time."""
    if "streamlit.testing.v1" not in sys.modules:
        yield
        return
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", once)
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def runs(workspace: Workspace) -> Runs:
    """The runs of an empty workspace."""
    return Runs(workspace)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Writes a file of that name and returns its path."""

    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def copy_demo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Workspace]:
    """Makes a folder a workspace with the demo in it, whose caches are built once a process."""
    made = Workspace(tmp_path_factory.mktemp("demo"))
    demo.materialise(made, lambda *_: None)

    def copy_demo(root: Path) -> Workspace:
        shutil.copytree(made.root, root)
        return Workspace(root)

    return copy_demo


@pytest.fixture(scope="session")
def demo_model_home() -> Path:
    """Folder that holds the demo model, fetched and converted once for the clone (or FAC_MODELS).

    For tests marked `model`; it takes about a minute the first time.
    """
    import tests.tiny  # noqa: F401 - loads sae-lens without the warnings it has about itself
    from fac.models import demo_model

    return demo_model(Workspace(REPOSITORY / "data").models).parent


@pytest.fixture(scope="session")
def real_server(
    demo_model_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """(endpoint, name of the model) of `transformers serve` with the demo model."""
    folder = next(path.parent for path in demo_model_home.rglob("model.safetensors"))
    with transformers_serve(folder, tmp_path_factory.mktemp("serve") / "log") as endpoint:
        yield endpoint, str(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the distribution's Chromium; tests that need it are skipped where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    return found
