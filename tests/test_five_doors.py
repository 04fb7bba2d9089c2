"""One comparison, five doors: Coverage, Synthesis, Compare, `fac coverage --with` and `fac check`
say the same before and after a synthesis that was started for a question of its own.

The question is not the usual one: a threshold that nobody proposes, a task, and a person's verdict
on one of its features. toy-anchor shows bake, python, function, loop and river of it, toy-seed only
the first, and texts are written for python and river alone.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from fac import review
from fac.cli import frame
from fac.config import PairsSpec, SynthesizeSpec, Workspace
from fac.errors import InputError
from fac.prompts.relevance import TASKS
from fac.questions import pairs, results
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.questions.relevance import Relevance
from fac.schema import EVERY_ROLE, ROLES
from fac.store import open_stores
from fac.store.runs import Runs
from fac.ui.views import share
from tests.browser import chromium_page, server, settle, visit
from tests.test_cli_make import MakingSteps, done
from tests.test_jobs import quiet
from tests.toy import SEED, TASK, WORDS, fac_of, toy_workspace

QUESTION = ("--threshold", 0.9, "--relevant", TASK)
SIDES = ("--anchor", "toy-anchor", "--dataset", "toy-seed")
SETTINGS = f"anchor=toy-anchor&threshold=0.9&relevant={TASK}"
ASKED = ",".join(str(WORDS.index(word)) for word in ("python", "river"))
BEFORE, AFTER = fac_of(1, 5), fac_of(3, 5)


class Made(NamedTuple):
    """What was synthesized for the question."""

    place: Workspace
    run: str
    kept: str
    """Name of the measured dataset of what was kept."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Beside it `grown` is measured: toy-seed and what was kept, in one file."""
    folder = tmp_path_factory.mktemp("five")
    place = toy_workspace(folder / "toy", explained=True)
    baking_matters(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "Steps", MakingSteps)
        line = ("pairs", *SIDES, *QUESTION, "--candidates", 2, "--margin", 0.5)
        run = done(*line, workspace=place)["run"]
        done("approve", run, "--ids", ASKED, "--reviewer", "ana", workspace=place)
        synthesis = done("synthesize", run, "--per-feature", 3, workspace=place)
        measure = done("measure", synthesis["dataset"], workspace=place)["run"]
        kept = Runs(place).manifest(measure).facts.name
        kept_file = ("--out", folder / "kept.jsonl", "--form", "chat")
        done("export", synthesis["run"], *kept_file, workspace=place)
        lines = [json.dumps({"messages": chat}) for chat in SEED]
        lines += (folder / "kept.jsonl").read_text("utf-8").splitlines()
        (folder / "grown.jsonl").write_text("\n".join(lines), "utf-8")
        done("ingest", folder / "grown.jsonl", "--name", "grown", workspace=place)
        done("measure", "grown", workspace=place)
    return Made(place, synthesis["run"], kept)


def baking_matters(place: Workspace) -> None:
    """A person puts "bake", which the judge calls no part of the task, into it."""
    stores = open_stores(place, remember=False)
    anchor = stores.runs.resolve("measure", "toy-anchor")
    explained = explain_runs(stores.runs, anchor)
    (row,), _ = stores.cache.features_page(anchor, ids=[0], limit=1, explained=explained)
    wording = (anchor, 0, TASK, TASKS[TASK].rubric, row["explanation"])
    about = review.subject("relevance", anchor, 0, TASK)
    stores.decisions.add("ana", "relevance", about, review.relevance_content(*wording), "yes")
    stores.cache.close()


def test_the_run_and_the_questions_and_the_shell_say_the_same(made):
    facts = Runs(made.place).manifest(made.run).facts
    assert (facts.fac_before, facts.fac_after) == (BEFORE, AFTER)
    assert (facts.n_anchor, facts.n_missing, facts.features_gained) == (5, 4, 2)
    assert (facts.relevant, facts.role, facts.min_support) == (TASK, "all", 1)
    shell = {"workspace": made.place}
    before = done("coverage", *SIDES, *QUESTION, **shell)
    after = done("coverage", *SIDES, *QUESTION, "--with", made.kept, **shell)
    assert (before["fac"], before["n_missing"], before["threshold"]) == (BEFORE, 4, 0.9)
    assert (after["fac"], after["n_missing"], after["n_anchor"]) == (AFTER, 2, 5)
    line = ("check", "toy-seed", "--baseline", "toy-seed", "--anchor", "toy-anchor", *QUESTION)
    check = done(*line, "--with", made.kept, "--no-regress", "--min-fac", BEFORE, **shell)
    assert (check["fac_before"], check["n_missing_before"]) == (BEFORE, 4)
    assert (check["fac"], check["n_missing"], check["n_anchor"]) == (AFTER, 2, 5)
    assert check["gained"] == facts.gained and check["threshold"] == 0.9
    gaps = done("gaps", *SIDES, *QUESTION, "--with", made.kept, "--kind", "absent", **shell)
    assert (gaps["n_missing"], gaps["threshold"]) == (2, 0.9)
    stores = open_stores(made.place, remember=False)
    question = results.question_of(stores, stores.runs.manifest(made.run))
    assert coverage(stores, question).missing.tolist() == [3, 4, 5, 6]
    assert question == pairs.question_of(stores, facts.pairs)
    assert results.relevance_since(stores, question) == ""
    other = replace(question, relevance=replace(question.relevance, features=(0, 3, 4)))
    assert "changed since, by 2 features" in results.relevance_since(stores, other)
    file = replace(question, relevance=Relevance("./ids.json", features=(0, 3)))
    assert "know nothing of ./ids.json" in results.relevance_since(stores, file)
    stores.cache.close()


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return toy_workspace(tmp_path_factory.mktemp("kitchen"))


@settings(max_examples=15)
@given(
    threshold=st.sampled_from([0.0, 0.9, 1.0, 1.2]),
    min_support=st.integers(1, 7),
    role=st.sampled_from([*ROLES, EVERY_ROLE]),
    relevant=st.none() | st.frozensets(st.integers(0, 11), min_size=1),
)
def test_a_synthesis_counts_as_the_questions_do(kitchen, threshold, min_support, role, relevant):
    """Its figures come from runs, those of the questions from caches."""
    steps, stores = MakingSteps(kitchen), open_stores(kitchen, remember=False)
    anchor, seed = (stores.runs.resolve("measure", f"toy-{side}") for side in ("anchor", "seed"))
    relevance = Relevance("./mine", features=tuple(sorted(relevant))) if relevant else Relevance()
    question = Comparison(anchor, seed, threshold, min_support, role, relevance)
    fields = pairs.question_fields(stores, question)
    run = steps.perform(PairsSpec(features=(3, 6, 8), candidates=1, **fields), quiet)
    assert pairs.question_of(stores, run) == question
    spec = SynthesizeSpec(pairs=run, method="one-step", candidates=3, threshold=threshold)
    facts = stores.runs.manifest(steps.perform(spec, quiet)).facts
    before, after = coverage(stores, question), coverage(stores, question)
    if facts.kept_dataset:
        as_anchor = replace(stores.runs.manifest(anchor).spec, dataset=facts.kept_dataset)
        kept = steps.perform(as_anchor, quiet)
        after = coverage(stores, replace(question, added=(kept,)))
    assert (facts.n_anchor, facts.n_missing) == (before.n_anchor, before.n_missing)
    assert facts.n_missing - facts.features_gained == after.n_missing
    gained = sorted({*before.missing.tolist()} - {*after.missing.tolist()})
    assert facts.gained == gained
    for figure, result in ((facts.fac_before, before), (facts.fac_after, after)):
        assert figure == result.fac or (figure is None and math.isnan(result.fac))
    if gained:
        assert facts.miss_hit_rate == len(gained) / before.n_missing
    stores.cache.close()


def test_a_question_as_it_always_was_is_not_in_the_id():
    sides = {"anchor": "measure-a", "dataset": "measure-b", "features": (1,)}
    usual = PairsSpec(**sides)
    spelled = PairsSpec(**sides, min_support=1, role="all", relevant="all", relevant_features=())
    assert usual.run_id("a", "b") == spelled.run_id("a", "b") == "pairs-e9a2f68a60e0"
    others = [{"min_support": 2}, {"role": "user"}, {"relevant": "t", "relevant_features": (1,)}]
    ids = {PairsSpec(**sides, **other).run_id("a", "b") for other in others}
    assert len(ids) == 3 and usual.run_id("a", "b") not in ids
    with pytest.raises(InputError, match="judge"):
        PairsSpec(**sides, role="judge")


@pytest.fixture(scope="module")
def dashboard(made: Made, chromium: str) -> Iterator[tuple[Page, str]]:
    with server(made.place) as address, chromium_page(chromium, width=1280) as page:
        yield page, address


@pytest.mark.browser
def test_the_pages_say_the_same(made, dashboard):
    page, address = dashboard
    figures = {"FAC": share(BEFORE), "Anchor": "5", "Missing": "4"}
    visit(page, f"{address}/coverage?{SETTINGS}&dataset=toy-seed", "Coverage")
    assert metrics(page).items() >= figures.items()
    visit(page, f"{address}/coverage?{SETTINGS}&dataset=grown", "Coverage")
    figures = {"FAC": share(AFTER), "Anchor": "5", "Missing": "2"}
    assert metrics(page).items() >= figures.items(), "with what was kept as one dataset"
    visit(page, f"{address}/coverage?{SETTINGS}&dataset=toy-seed&with={made.kept}", "Coverage")
    assert metrics(page).items() >= figures.items(), "with what was kept beside it"

    visit(page, f"{address}/synthesis?synthesis={made.run}", "Synthesis")
    result = metrics(page)
    assert (result["FAC with them"], result["New features"]) == (share(AFTER), "2")
    words = page.get_by_test_id("stMain").inner_text()
    assert f"above 0.9, relevant for {TASK}" in words
    assert "Of the 4 features that were missing" in words

    page.get_by_role("link", name="What the two together still lack").click()
    page.get_by_role("heading", name="Coverage", exact=True).wait_for()
    settle(page)
    assert metrics(page).items() >= figures.items()
    page.go_back()
    settle(page)
    page.get_by_role("link", name="Compare with the dataset, feature by feature").click()
    page.get_by_role("heading", name="Compare", exact=True).wait_for()
    page.get_by_text("Samples that show each feature").wait_for()
    compared = metrics(page)
    assert compared["FAC"] == share(AFTER)
    assert (compared["Gained"], compared["Lost"], compared["Missing"]) == ("2", "0", "2")
    words = page.get_by_test_id("stMain").inner_text()
    assert "+40.0 points" in words and f"above 0.9, relevant for {TASK}" in words
    visit(page, f"{address}/compare?before=toy-seed&after={made.kept}&threshold=3", "Compare")
    assert metrics(page)["FAC"] == share(AFTER), "whatever was looked at before"
    page.get_by_text(f"above 0.9, relevant for {TASK}, as the synthesis was asked").wait_for()


def metrics(page: Page) -> dict[str, str]:
    """Label -> value of every figure on the screen."""
    cards = page.get_by_test_id("stMetric")
    return {
        card.get_by_test_id("stMetricLabel").inner_text().strip(): (
            card.get_by_test_id("stMetricValue").inner_text().strip()
        )
        for card in cards.all()
    }
