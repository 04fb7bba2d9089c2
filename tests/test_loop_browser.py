"""The whole walk in one browser, without a key: choose gaps, approve pairs, read a pilot, launch,
look through what is kept by keyboard, export what stays, see the gaps filled.

Once in a world of words with a scripted writer, once with the demo and its own model.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from fac import demo, review
from fac.config import Workspace
from fac.manifest import SynthesisManifest
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from fac.synthesis import PILOT
from fac.ui.views import share
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.test_pairs_browser import worker
from tests.toy import fac_of, toy_workspace

pytestmark = pytest.mark.browser

GAPS = 8
TEXTS = 14
"""For each gap of the demo: about one in seven samples pass every check of theirs."""

LOOKED_AT, DROPPED = 10, 2
"""Kept samples that a person looks through, and how many of these do not stay."""

MINUTES = 10
"""A person waits no longer, from the first click to the file."""


class Walk:
    """What a person does, one page after the other."""

    def __init__(self, page: Page, place: Workspace, patience: float):
        self.page, self.place, self.patience = page, place, patience
        self.runs = Runs(place)

    def choose(self, address: str, view: str, n: int) -> None:
        """From the coverage of a dataset to the form with its first gaps."""
        visit(self.page, f"{address}/coverage?{view}", "Coverage")
        field(self.page, "First of the list", n)
        self.page.get_by_role("link", name=f"Write pairs for these {n}", exact=True).click()
        self.arrived("Pairs")
        expect(self.page.get_by_text("What the writer is asked for")).to_be_visible()

    def write_pairs(self, n: int, texts: int, tokens: int) -> str:
        """Asks for the pairs and watches until the first lies on the desk; their run."""
        field(self.page, "Texts per gap", texts)
        field(self.page, "Longest text", tokens)
        self.page.get_by_role("button", name=f"Write pairs for {n} gaps").click()
        expect(self.page.locator("h4").first).to_be_visible(timeout=self.patience)
        settle(self.page)
        (manifest,) = self.runs.list("pairs")
        assert manifest.facts.n_candidates == n * texts
        return manifest.run

    def approve(self, run: str, reviewer: str) -> int:
        """Signs as somebody, approves the first pair with a key and the others at once."""
        box = self.page.get_by_role("combobox", name="Reviewer")
        box.fill(reviewer)
        box.press("Enter")
        settle(self.page)
        n = self.runs.manifest(run).facts.pairs
        assert n > 1, "a single pair is too little for this walk"
        before = self.page.locator("h4").first.inner_text()
        self.page.keyboard.press("a")
        expect(self.page.locator("h4").first).not_to_have_text(before)
        settle(self.page)
        self.page.get_by_role("button", name=f"Approve all {n - 1}").click()
        self.page.get_by_role("button", name=f"Approve {n - 1} unseen").click()
        self.page.get_by_role("link", name=f"Synthesize from {n} approved pairs").click()
        self.arrived("Synthesis")
        found = review.approved_pairs(Decisions(self.place.decisions), self.runs, run)
        unseen = f"{reviewer} ({review.UNSEEN})"
        assert sorted(row["approver"] for row in found) == [reviewer, *[unseen] * (n - 1)]
        return n

    def try_some(self) -> None:
        """Starts the pilot and waits for what it tells."""
        expect(self.page.get_by_text("Exactly what is asked")).to_be_visible()
        self.page.get_by_role("button", name="Try 3 pairs first").click()
        passes = self.page.get_by_test_id("stMetric").filter(has_text="Texts that pass")
        expect(passes).to_be_visible(timeout=self.patience)
        settle(self.page)
        pilot = max(self.runs.list("synthetic"), key=lambda one: one.created)
        assert pilot.spec.pilot
        expect(self.page.get_by_text("What the pilot wrote")).to_be_visible()
        said = " ".join(self.page.get_by_test_id("stMain").inner_text().split())
        for row in self.runs.table(pilot.run, "candidates").to_pylist():
            for message in row["messages"]:
                assert " ".join(message["content"].split()) in said, row["candidate"]

    def launch(self, n: int) -> SynthesisManifest:
        """Launches, watches, and is shown what came out; the manifest of it."""
        self.page.get_by_role("button", name=f"Synthesize from {n} approved pairs").click()
        heading = self.page.get_by_text("What became of every text")
        expect(heading).to_be_visible(timeout=self.patience)
        settle(self.page)
        made = max(self.runs.list("synthetic"), key=lambda one: not one.spec.pilot)
        facts = made.facts
        assert facts.gaps == n
        expect(self.page.get_by_text(f"{facts.gaps_hit} of {n} gaps").first).to_be_visible()
        return made

    def look_through(self, kept: int, n: int, drop: int) -> None:
        """Decides on the first n kept samples by keyboard alone; the last do not stay."""
        link = self.page.get_by_role("link", name="Look through the")
        link.click()
        self.arrived("Review")
        self.page.get_by_role("heading", name="Review", exact=True).click()  # out of the link
        for number in range(n):
            expect(self.page.locator(".fac-chat").first).to_be_visible()
            self.page.keyboard.press("k" if number < n - drop else "x")
            done = self.page.get_by_text(re.compile(rf"^{number + 1} of {kept}\b"))
            if number + 1 < kept:  # else there is nothing left to look at
                expect(done).to_be_visible()
            settle(self.page)

    def export(self, path: Path) -> list[dict[str, Any]]:
        """Downloads what people kept; the rows of the file."""
        self.page.get_by_text("Only what people kept").click()
        settle(self.page)
        expect(self.page.get_by_text(f"{LOOKED_AT - DROPPED} rows").first).to_be_visible()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name="JSONL").click()
        waiting.value.save_as(path)
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def compare(self) -> dict[str, str]:
        """Has what was kept measured and follows the link to the comparison; its figures."""
        self.page.get_by_role("button", name="Measure what is kept").click()
        link = self.page.get_by_role("link", name="Compare with the dataset, feature by feature")
        expect(link).to_be_visible(timeout=self.patience)
        settle(self.page)
        link.click()
        self.arrived("Compare")
        cards = self.page.get_by_test_id("stMetric")
        names, values = (
            cards.get_by_test_id(part).all_inner_texts()
            for part in ("stMetricLabel", "stMetricValue")
        )
        return dict(zip((name.strip() for name in names), map(str.strip, values), strict=True))

    def arrived(self, headline: str) -> None:
        self.page.get_by_role("heading", name=headline, exact=True).wait_for()
        settle(self.page)


def field(page: Page, label: str, value: int) -> None:
    """Types a number and leaves the field, as a person does before going on."""
    box: Locator = page.get_by_role("spinbutton", name=label)
    if box.input_value() != str(value):
        box.fill(str(value))
        box.press("Tab")
        settle(page)


def whole_walk(
    walk: Walk, address: str, view: str, how: tuple[int, int, int, int], out: Path
) -> SynthesisManifest:
    """From choosing gaps to the file and the gaps that it fills; the manifest of the synthesis."""
    n, texts, tokens, most = how
    walk.choose(address, view, n)
    run = walk.write_pairs(n, texts, tokens)
    approved = walk.approve(run, "Ada")
    field(walk.page, "Texts per gap", most)
    field(walk.page, "Kept per gap", min(most, 8))
    if approved > PILOT:
        walk.try_some()
    made = walk.launch(approved)
    facts = made.facts
    assert made.spec.pairs == run and facts.kept >= LOOKED_AT, facts.dropped
    walk.look_through(facts.kept, LOOKED_AT, DROPPED)
    visit(walk.page, f"{address}/synthesis?synthesis={made.run}", "Synthesis")
    rows = walk.export(out)
    states = review.sample_states(Decisions(walk.place.decisions), walk.runs, made.run)
    kept = {name for name, state in states.items() if state.state == "kept"}
    assert {row["lineage"]["candidate"] for row in rows} == kept
    assert len(kept) == LOOKED_AT - DROPPED
    assert sum(state.state == "dropped" for state in states.values()) == DROPPED
    for row in rows:
        lineage = row["lineage"]
        assert lineage["run"] == made.run
        assert lineage["activation"] > lineage["filter"]["threshold"]
        assert [one["reviewer"] for one in lineage["approvals"]] == ["Ada"]
    figures = walk.compare()
    assert int(figures["Gained"].replace(",", "")) >= facts.gaps_hit > 0
    assert figures["FAC"] == share(facts.fac_after)
    return made


def test_gaps_of_the_toy_become_a_file_that_closes_them(tmp_path, chromium):
    place = toy_workspace(tmp_path / "toy", explained=True)
    view = "anchor=toy-anchor&dataset=toy-seed&threshold=0"
    with worker(place), server(place) as address, chromium_page(chromium, width=1280) as page:
        walk = Walk(page, place, PATIENCE)
        made = whole_walk(walk, address, view, (6, 2, 64, 4), tmp_path / "kept.jsonl")
    assert made.facts.hit_rate == 1.0 and made.facts.fac_after == fac_of(10, 10)


@pytest.mark.model
def test_gaps_of_the_demo_become_a_file_within_minutes(
    tmp_path, chromium, demo_model_home, copy_demo
):
    place = copy_demo(tmp_path / "demo")
    place.models.parent.mkdir(parents=True, exist_ok=True)
    if not place.models.exists():
        place.models.symlink_to(demo_model_home, target_is_directory=True)
    with server(place) as address, chromium_page(chromium, width=1280) as page:
        begun = time.monotonic()
        walk = Walk(page, place, 1000 * 60 * MINUTES)
        view = f"anchor={demo.ANCHOR}&dataset={demo.SEED}&threshold=0"
        made = whole_walk(walk, address, view, (GAPS, 6, 40, TEXTS), tmp_path / "kept.jsonl")
        took = time.monotonic() - begun
    facts = made.facts
    assert facts.writer.startswith("demo") or "smollm2" in facts.writer.lower()
    assert facts.fac_after > facts.fac_before
    assert took < 60 * MINUTES, f"{took:.0f} s"
