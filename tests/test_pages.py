"""The pages, run headless: an empty workspace, the toy workspace, and what a person does on each.

The toy workspace can be read by eye (tests/toy.py): toy-anchor shows eleven words, one of them
("the") in every sample and therefore not relevant; toy-seed shows bake, oven, recipe and please.
So FAC is 4 of 10, and python, function, loop, river, mountain and train are missing.
"""

import ast
import asyncio
import gc
import html
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import streamlit as st
from hypothesis import given
from hypothesis import strategies as some
from markdown_it import MarkdownIt
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

import app
from fac import review
from fac.config import (
    REPOSITORY,
    DemoSpec,
    ExplainSpec,
    IngestSpec,
    JudgeSpec,
    MeasureSpec,
    ProbeSpec,
    Workspace,
    read_spec,
)
from fac.errors import InputError
from fac.jobs.worker import Worker
from fac.measure import measure, screen
from fac.probe import probe
from fac.prompts.relevance import TASKS
from fac.questions import comparison
from fac.schema import SCHEMA_VERSION, Activations
from fac.store import cache
from fac.store.decisions import Decision, Decisions
from fac.store.queue import Queue
from fac.store.runs import Runs
from fac.ui import shell
from fac.ui.jobs import job_title
from fac.ui.text import chat_html, clean, plain, tokens_html
from fac.ui.views import share
from tests.lexicon import LexiconEncoder
from tests.toy import (
    MODELS_TEXTS,
    TASK,
    WORDS,
    fac_of,
    label_samples,
    publish_activations,
    publish_dataset,
    publish_explanations,
    revise,
    toy_workspace,
)

APP = REPOSITORY / "app.py"
PAGES = (
    *("home", "datasets", "models", "features", "coverage", "compare", "playground"),
    *("review", "agreement", "fill", "pairs", "synthesis", "experiments", "connections", "jobs"),
)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[Workspace]:
    """Workspaces for which a worker was asked; none is started."""
    workspaces: list[Workspace] = []
    monkeypatch.setattr("fac.jobs.worker.start_worker", workspaces.append)
    monkeypatch.setattr("fac.jobs.worker.restart_worker", workspaces.append)
    st.cache_resource.clear()
    st.cache_data.clear()
    return workspaces


@pytest.fixture(autouse=True)
def navigation_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server after its first answer: app.py runs, whatever page is asked for.

    AppTest forgets before every run that st.navigation has replaced the discovery of `pages/`.
    """
    begin = PagesManager.__init__

    def begin_without_discovery(self: PagesManager, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", begin_without_discovery)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def toy(empty: Workspace) -> Workspace:
    return toy_workspace(empty.root)


@pytest.fixture
def explained(empty: Workspace) -> Workspace:
    """The toy with explanations by tokens and by a language model, and a judge of TASK."""
    return toy_workspace(empty.root, explained=True)


def anchor_run(workspace: Workspace) -> str:
    return Runs(workspace).resolve("measure", "toy-anchor")


def rate(
    workspace: Workspace,
    who: str,
    feature: int,
    verdict: str,
    *,
    kind: str = "explanation",
    **more: Any,
) -> Decision:
    """What a person says about the language model's explanation, or about TASK."""
    run, text = anchor_run(workspace), MODELS_TEXTS[feature]
    content = (
        review.explanation_content(run, feature, text)
        if kind == "explanation"
        else review.relevance_content(run, feature, TASK, TASKS[TASK].rubric, text)
    )
    item = review.item(content)
    store = Decisions(workspace.decisions)
    return store.add(who, kind, item.subject, content, verdict, **more)


def opened(page: str, **view: str) -> AppTest:
    """The page as a link with these query parameters opens it; it ran without an exception."""
    at = AppTest.from_file(APP, default_timeout=60).run()
    for name, value in view.items():
        at.query_params[name] = value
    return ran(at.switch_page(f"pages/{page}.py").run())


def ran(at: AppTest) -> AppTest:
    assert not at.exception, [each.message for each in at.exception]
    return at


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def markup(at: AppTest) -> str:
    """All HTML but the scripts of our own, which hold no foreign text."""
    htmls = (element.proto for element in at.get("html"))
    return "".join(html.body for html in htmls if not html.unsafe_allow_javascript)


def words(at: AppTest) -> str:
    """Everything a person reads as text."""
    kinds = (at.title, at.subheader, at.markdown, at.caption, at.error, at.warning, at.info)
    texts = [element.value for kind in kinds for element in kind]
    texts += [link.proto.label for link in at.get("page_link")]
    return re.sub(r"\\(.)", r"\1", "\n".join(texts))


def button(at: AppTest, label: str):
    return next(each for each in at.button if each.label == label)


@pytest.mark.parametrize("page", ["home", "features", "coverage"])
def test_measured_datasets_without_a_cache_are_told_to_be_on_their_way(toy: Workspace, page: str):
    shutil.rmtree(toy.cache)
    text = words(opened(page))
    assert "Being prepared for browsing" in text and "2 measured datasets" in text
    assert "Nothing has been measured" not in text
    for step in ("measure", "sae"):
        for manifest in Runs(toy).list(step):
            cache.build(Runs(toy), manifest.run, toy.cache)
    assert "Being prepared" not in words(opened(page))


# --- a first start ----------------------------------------------------------------------------


def test_the_first_start_asks_for_the_demo_once_and_for_a_worker(empty, started):
    opened("home")
    opened("home")
    (job,) = Queue(empty.queue).jobs()
    assert (job.step, job.status) == (DemoSpec.step, "waiting")
    assert started == [empty]


def test_while_the_demo_comes_home_says_so_and_shows_how_far_it_is(empty):
    at = opened("home")
    assert "Setting up the demo" in words(at)
    assert any("Set up the demo" in bar.proto.text for bar in at.get("progress"))


def test_home_shows_the_demo_as_soon_as_it_is_there(empty):
    at = opened("home")
    queue = Queue(empty.queue)
    job = queue.claim("test")
    toy_workspace(empty.root)
    # One of its two halves may be there already: it is shown once the job has brought both.
    assert "Setting up the demo" in words(ran(at.run()))
    queue.finish(job.id, "measure-0")
    assert metrics(ran(at.run()))["Coverage (FAC)"] == share(fac_of(1, 3))


def test_a_demo_that_failed_says_why_and_can_be_tried_again(empty):
    opened("home")
    queue = Queue(empty.queue)
    job = queue.claim("test")
    queue.fail(job.id, "data/demo holds no runs; restore it from git.")
    at = opened("home")
    assert "data/demo holds no runs" in words(at)
    ran(button(at, "Try again").click().run())
    assert [job.status for job in queue.jobs()] == ["waiting", "failed"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("connections", "models")])
def test_an_empty_workspace_says_what_to_do_next(empty, page):
    at = opened(page)
    assert not at.error
    text = words(at)
    assert re.search(r"Setting up the demo|demo is on its way|No dataset yet|Set up the demo", text)


def test_without_demo_and_data_a_page_leads_to_the_datasets(empty):
    queue = Queue(empty.queue)
    opened("home")
    queue.cancel(queue.jobs()[0].id)
    for page in ("home", "features", "coverage", "compare", "playground", "review", "agreement"):
        assert "Add a dataset" in words(opened(page)), page


# --- every page on the toy workspace ----------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_a_complaint(toy, page):
    at = opened(page)
    assert not at.error and not at.warning
    assert not Queue(toy.queue).jobs(), "a workspace with runs needs no demo"


def test_home_says_where_things_stand(toy):
    at = opened("home", threshold="0")
    assert metrics(at) == {
        "Coverage (FAC)": share(fac_of(4, 10)),
        "Covered": "4",
        "Missing": "6",
        "Certain": "0",
        "Samples": "16",
    }
    # So few texts say nothing for certain, and the page says so.
    assert "toy-seed covers 40.0 %" in markup(at) and "none of its 6 gaps is certain" in markup(at)
    assert "Nothing is certainly lacking" in words(at)
    assert "Read the 6 possible gaps of toy-seed" in words(at)


def test_home_proposes_pairs_only_where_a_gap_is_certain(explained):
    assert "Write pairs" not in words(opened("home", threshold="0"))


def test_home_counts_at_the_threshold_that_was_chosen(toy):
    at = opened("home", threshold="1.2")
    assert metrics(at)["Missing"] == "2"
    (link,) = [each for each in at.get("page_link") if each.proto.label == "See what is missing"]
    assert "threshold=1.2" in link.proto.query_string


def test_home_proposes_to_measure_what_was_only_read(toy):
    publish_dataset(Runs(toy), "fresh", [[{"role": "user", "content": "hello"}]])
    assert "Measure fresh" in words(opened("home"))


def test_coverage_counts_what_the_texts_show(toy):
    figures = metrics(opened("coverage", threshold="0"))
    assert figures["FAC"] == share(fac_of(4, 10))
    assert (figures["Anchor"], figures["Dataset"]) == ("10", "4")
    assert (figures["Covered"], figures["Missing"]) == ("4", "6")


def test_what_fires_clearly_counts_where_nobody_chose_a_threshold(toy):
    at = opened("coverage")
    # Half of the anchor's peaks are at most 1, where a word has no exclamation mark.
    fields = [each for each in at.number_input if each.label == "Threshold as a number"]
    assert [each.value for each in fields] == [1.0]
    assert (metrics(at)["Anchor"], metrics(at)["FAC"]) == ("3", share(fac_of(1, 3)))


def test_a_threshold_is_typed_slid_or_taken_by_name(toy):
    at = opened("coverage")
    field = next(each for each in at.number_input if each.label == "Threshold as a number")
    ran(field.set_value(77.0).run())
    assert at.query_params["threshold"] == "77.0"
    slider = at.slider[0]
    assert slider.value == slider.max < 77, "the slider ends where little is left to ask"
    assert "fires no relevant feature above 77, so there is nothing to cover" in markup(at)
    assert not metrics(at), "where nothing is to be covered there are no figures of it"
    by_name = next(each for each in at.button_group if "paper" in each.label)
    assert by_name.options == ["0", "0.5", "1, clear firing", "1.5", "2", "4"]
    ran(by_name.set_value(0.0).run())
    assert (at.query_params["threshold"], metrics(at)["Anchor"]) == ("0.0", "10")
    by_name = next(each for each in at.button_group if "paper" in each.label)
    ran(by_name.set_value(None).run())
    assert "threshold" not in at.query_params
    assert at.slider[0].value == 1.0


def test_moving_the_threshold_counts_again_and_moves_the_link(toy):
    at = opened("coverage")
    slider = next(each for each in at.slider if each.label == "Threshold")
    # Only words with an exclamation mark stay: bake, loop and train; the seed has bake.
    ran(slider.set_value(1.2).run())
    figures = metrics(at)
    assert (figures["Anchor"], figures["Covered"], figures["Missing"]) == ("3", "1", "2")
    assert figures["FAC"] == share(fac_of(1, 3))
    assert at.query_params["threshold"] == "1.2"


def test_a_link_opens_the_same_view(toy):
    at = opened("coverage", threshold="1.2", role="assistant", anchor="toy-anchor")
    assert metrics(at)["Missing"] == "2"
    assert {each.label: each.value for each in at.segmented_control}["Whose tokens"] == "assistant"


def test_a_link_that_is_the_first_thing_a_server_is_asked_opens_inside_the_frame(toy, monkeypatch):
    monkeypatch.undo()  # back to a server that still discovers pages/ by itself
    monkeypatch.setenv("FAC_WORKSPACE", str(toy.root))
    monkeypatch.setattr("fac.jobs.worker.start_worker", lambda workspace: None)
    at = opened("coverage", threshold="1.2")
    assert "Blur examples" in [each.label for each in at.toggle]
    assert metrics(at)["Missing"] == "2"


def test_a_link_with_nonsense_opens_the_usual_view(toy):
    at = opened("coverage", threshold="much", role="nobody", gap="x", dataset="none", support="-3")
    assert not at.error
    assert metrics(at)["FAC"] == share(fac_of(1, 3))


def test_gaps_are_listed_and_searched(toy):
    at = opened("coverage", threshold="0")
    labels = set(at.dataframe[0].value["name"])
    assert labels == {"python", "function", "loop!", "river", "mountain", "train! · train"}
    box = next(each for each in at.text_input if each.label == "Search")
    ran(box.set_value("riv").run())
    assert list(at.dataframe[0].value["name"]) == ["river"]


def test_a_gap_shows_the_anchors_examples_with_the_peak_marked(toy):
    at = opened("coverage", threshold="0", gap=str(WORDS.index("river")))
    assert "#6 river" in words(at)
    assert re.search(r' <span class="fac-peak" title="1" style="[^"]*">river</span>', markup(at))


def test_a_dataset_against_itself_misses_nothing(toy):
    at = opened("coverage", dataset="toy-anchor", anchor="toy-anchor")
    assert metrics(at)["FAC"] == share(fac_of(10, 10))
    assert "it lacks nothing" in markup(at)


def test_a_feature_opens_by_its_link(toy):
    at = opened("features", feature=str(WORDS.index("train")), dataset="toy-anchor")
    assert "#8 train" in words(at)
    assert metrics(at)["Samples"] == "6"
    assert "Trains" not in markup(at) and "Train" in markup(at)


def test_a_silent_feature_shows_what_comes_nearest(toy):
    at = opened("features", feature=str(WORDS.index("loop")), dataset="toy-seed")
    assert metrics(at)["Samples"] == "0"
    assert "whether or not it fired" in words(at)
    assert "#5 loop!" in words(at), "named as in the anchor"


def test_a_feature_without_kept_examples_says_so(empty):
    fired = Activations(*(np.array([number]) for number in (0, 1, 2, 1.5, 3, 1)))
    runs = Runs(empty)
    for name in ("anchor", "other"):
        run = publish_activations(runs, name, fired, n_features=4, n_samples=1)
        cache.build(runs, run, empty.cache)
    at = opened("features", feature="2")
    assert metrics(at)["Samples"] == "1"
    assert "No example of this kind was kept." in words(at)
    assert any(each.label == "Draw the map" for each in at.button), "nor is there a map yet"


def test_a_number_outside_the_dictionary_is_answered_with_its_range(toy):
    assert "features 0 to 11; there is no #99" in words(opened("features", feature="99"))


def test_features_are_searched_by_token(toy):
    at = opened("features", dataset="toy-anchor", q="python")
    assert list(at.dataframe[0].value["feature"]) == [WORDS.index("python")]


@pytest.mark.parametrize("page", ["home", "coverage", "compare", "features", "playground", "pairs"])
def test_an_address_of_no_dataset_says_so(toy, page):
    at = opened(page, dataset="<b>gone")
    (warning,) = at.warning
    assert "No measured dataset here is called \\<b\\>gone" in warning.value


def test_compare_opens_on_a_question_and_says_which(toy):
    def sides(at: AppTest) -> list[str]:
        return [each.value for each in at.selectbox if each.label != "Together with"]

    at = opened("compare", threshold="0")
    assert sides(at) == ["toy-seed", "toy-anchor", "toy-anchor"]
    assert (metrics(at)["Gained"], metrics(at)["Lost"]) == ("6", "0")
    assert "What toy-seed would gain if it showed all that toy-anchor does." in words(at)
    at = opened("compare", before="toy-anchor", after="toy-seed", threshold="0")
    assert "would gain" not in words(at), "somebody chose"
    runs, (like, size) = Runs(toy), (anchor_run(toy), {"n_features": 12, "n_samples": 3})
    encoder = runs.manifest(like).facts.encoder
    run = publish_activations(runs, "later", fired({0: 2}), encoder=encoder, **size)
    cache.build(runs, run, toy.cache)
    assert sides(opened("compare"))[:2] == ["toy-seed", "later"]


def test_compare_counts_what_came_and_went(toy):
    at = opened("compare", before="toy-seed", after="toy-anchor", threshold="0")
    figures = metrics(at)
    assert (figures["Gained"], figures["Lost"]) == ("6", "0")
    assert figures["FAC"] == share(fac_of(10, 10))
    labels = set(at.dataframe[0].value["name"])
    assert labels == {"python", "function", "loop!", "river", "mountain", "train! · train"}


def test_datasets_of_different_encoders_are_not_compared(toy):
    other = LexiconEncoder("bake", "river")
    runs = Runs(toy)
    dataset = publish_dataset(runs, "other", [[{"role": "user", "content": "bake"}]])
    spec = MeasureSpec(dataset=dataset, model="other")
    run = measure(spec, runs=runs, encoder=other, sae_run="none", progress=lambda *_: None)
    cache.build(runs, run, toy.cache)
    for page in ("home", "coverage"):
        at = opened(page, dataset="other", anchor="toy-anchor")
        messages = [each.value for each in (*at.error, *at.warning)]
        assert len(messages) == 1 and "SAE" in messages[0], page


# --- how far to believe it --------------------------------------------------------------------


def fired(n_samples_by_feature: dict[int, int]) -> Activations:
    """Each feature in the first so many samples, always with a peak of 2."""
    pairs = [
        (sample, feature) for feature, n in n_samples_by_feature.items() for sample in range(n)
    ]
    sample, feature = np.array(pairs).T
    of_all = np.ones_like(sample)
    return Activations(sample, of_all, feature, 2.0 * of_all, 3 * of_all, of_all)


@pytest.fixture
def uneven(empty: Workspace) -> Workspace:
    """Two datasets of one size. Of what "much" fires, "little" has feature 1 not at all, 2 too
    rarely, 3 (a single sample of "much") and 4 (three) not at all, and 0 as often."""
    runs = Runs(empty)
    much, little = {0: 60, 1: 50, 2: 50, 3: 1, 4: 3}, {0: 60, 2: 5}
    for name, counts in (("much", much), ("little", little)):
        run = publish_activations(runs, name, fired(counts), n_features=6, n_samples=100)
        cache.build(runs, run, empty.cache)
    return empty


def of_little(page: str, **view: str) -> AppTest:
    return opened(page, anchor="much", dataset="little", threshold="0", **view)


def test_home_names_what_is_certainly_lacking_with_a_link_to_the_evidence(uneven):
    at = of_little("home")
    assert metrics(at)["Certain"] == "2" and "2 gaps are certain, 1 of them absent" in markup(at)
    assert "What is certainly lacking" in words(at)
    gaps = [link.proto for link in at.get("page_link") if "gap=" in link.proto.query_string]
    # What is absent comes first; a text of the same size should show either in fifty samples.
    assert [re.search(r"gap=(\d+)", each.query_string)[1] for each in gaps] == ["1", "2"]
    numbers = [re.search(r"gray\[(.*)\]", each.label)[1].split("\xa0") for each in gaps]
    assert numbers == [["0", "of", "50", "expected"], ["5", "of", "50", "expected"]]
    assert "Read the 2 certain gaps of little" in words(at)


def test_gaps_begin_with_the_certain_ones_and_are_filtered_by_belief_and_kind(uneven):
    at = of_little("coverage")
    table = at.dataframe[0].value
    believed = list(zip(table["feature"], table["badge"], table["n_dataset"], strict=True))
    certain, possible = [(1, "certain", 0), (2, "certain", 5)], [(4, "possible", 0)]
    assert believed == [*certain, *possible, (3, "artefact", 0)]
    assert list(of_little("coverage", badge="artefact").dataframe[0].value["feature"]) == [3]
    rare = of_little("coverage", kind="under-represented")
    assert list(rare.dataframe[0].value["feature"]) == [2]


def test_a_gap_comes_with_the_reason_for_its_badge(uneven):
    text = words(of_little("coverage", gap="2"))
    assert "50 samples of the anchor fire it, 50.0 would be expected here, 5 do" in text
    assert "Per token it fires 10% as often as in the anchor" in text
    assert "Strongest in the dataset" in text
    text = words(of_little("coverage", gap="3"))
    assert "A single sample of the anchor shows it." in text
    assert "Nearest in the dataset" in text


def test_a_gap_that_the_list_leaves_out_still_shows_its_evidence(uneven):
    at = of_little("coverage", gap="3", badge="certain")
    assert list(at.dataframe[0].value["feature"]) == [1, 2]
    assert "A single sample of the anchor shows it." in words(at)


def test_coverage_says_how_far_its_figure_can_be_believed(uneven):
    text = words(of_little("coverage"))
    assert "95 % interval" in text and "Random text of this size" in text
    assert "Twice as many samples like these would cover" in text
    assert "nan" not in text


def test_coverage_is_split_by_role_and_by_more_on_asking(uneven):
    assert len(of_little("coverage").get("plotly_chart")) == 3
    at = of_little("coverage", part="source")
    assert len(at.get("plotly_chart")) == 2
    assert "No sample of much says its source." in words(at)


def test_what_a_search_does_not_find_has_no_evidence(uneven):
    at = of_little("coverage", q="zzzqqq")
    assert "No gap matches" in words(at) and "In the anchor" not in words(at)


def test_an_emptied_threshold_is_the_default_again(uneven):
    at = of_little("coverage")
    box = next(each for each in at.number_input if each.label == "Threshold as a number")
    assert box.value == 0.0
    ran(box.set_value(None).run())
    box = next(each for each in at.number_input if each.label == "Threshold as a number")
    assert box.value == 2.0, "the only peak there is"


def test_who_moves_the_slider_fast_is_not_thrown_back_by_the_field_beside_it(uneven):
    """The field still sends what it showed before it was told of the first move."""
    at = of_little("coverage")
    ran(next(each for each in at.slider if each.label == "Threshold").set_value(1.0).run())
    next(each for each in at.slider if each.label == "Threshold").set_value(1.5)
    box = next(each for each in at.number_input if each.label == "Threshold as a number")
    assert box.value == 1.0
    ran(box.set_value(0.0).run())
    assert next(each for each in at.slider if each.label == "Threshold").value == 1.5
    assert at.query_params["threshold"] == "1.5"


def test_the_dataset_of_the_features_page_is_that_pages_alone(uneven):
    at = of_little("coverage")
    at.query_params.clear()
    at.query_params["dataset"] = "much"
    ran(at.switch_page("pages/features.py").run())
    assert next(box for box in at.selectbox if box.label == "Dataset").value == "much"
    at.query_params.clear()
    ran(at.switch_page("pages/coverage.py").run())
    assert next(box for box in at.selectbox if box.label == "Coverage of").value == "little"


@pytest.mark.parametrize("page", ["home", "coverage"])
@pytest.mark.parametrize("pair", [("much", "much"), ("little", "much")])
@pytest.mark.parametrize("threshold", ["0", "1.5", "9"])
def test_what_cannot_be_computed_is_a_sentence(uneven, page, pair, threshold):
    anchor, dataset = pair
    at = opened(page, anchor=anchor, dataset=dataset, threshold=threshold)
    assert not at.error and not at.warning
    assert not re.search(r"\b(nan|None|inf)\b", words(at) + Reader(markup(at)).text)
    assert not any(value in ("nan", "nan%") for value in metrics(at).values())


def test_one_dataset_alone_is_no_comparison(empty):
    runs = Runs(empty)
    run = publish_activations(runs, "much", fired({0: 9}), n_features=2, n_samples=10)
    cache.build(runs, run, empty.cache)
    assert "Add a dataset to see how it compares" in words(opened("home"))
    assert "One dataset alone has no gaps" in words(opened("coverage"))


# --- actions ----------------------------------------------------------------------------------


def test_an_uploaded_file_is_kept_and_waits_to_be_read(toy, started):
    at = opened("datasets", add="yes")
    content = b'{"text": "a good sample"}\n'
    ran(at.file_uploader[0].upload("../my notes.jsonl", content).run())
    ran(button(at, "Add").click().run())
    (job,) = Queue(toy.queue).jobs()
    source = Path(job.spec["source"])
    assert (job.step, job.spec["name"]) == ("dataset", "my notes")
    assert source.parent == toy.inputs and source.read_bytes() == content
    assert toy in started


def test_a_path_or_a_hub_id_is_read_too(toy, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    at = opened("datasets", add="yes")
    source = next(each for each in at.segmented_control if each.label == "Source")
    ran(source.set_value("hub").run())
    box = next(each for each in at.text_input if each.label == "Dataset id")
    ran(box.set_value("someone/something").run())
    ran(button(at, "Add").click().run())
    (job,) = Queue(toy.queue).jobs()
    assert (job.spec["source"], job.spec["name"]) == ("hf:someone/something", "something")


def test_a_name_that_cannot_be_is_answered_with_a_sentence(toy):
    at = opened("datasets", add="yes")
    ran(at.file_uploader[0].upload("a.jsonl", b'{"text": "a"}').run())
    name = next(each for each in at.text_input if each.label == "Name")
    ran(name.set_value("a/b").run())
    ran(button(at, "Add").click().run())
    assert "without '/'" in words(at)
    assert Queue(toy.queue).jobs() == []


def test_a_dataset_is_measured_like_the_anchor(toy):
    run = publish_dataset(Runs(toy), "fresh", [[{"role": "user", "content": "hello"}]])
    at = opened("datasets", open=run)
    ran(button(at, "Measure").click().run())
    (job,) = Queue(toy.queue).jobs()
    assert job.step == "measure"
    assert job.spec["dataset"] == run
    assert (job.spec["model"], job.spec["layer"], job.spec["sae"]) == ("toy", 1, "toy")
    assert "Being measured" in words(at)


def test_samples_that_a_model_refuses_can_be_skipped_and_are_shown(toy):
    chats = [[{"role": "user", "content": text}] for text in ("refuse it", "hello", "shorten it")]
    runs, encoder = Runs(toy), LexiconEncoder("hello")
    dataset = publish_dataset(runs, "fresh", chats)
    at = opened("datasets", open=dataset)
    ran(
        next(each for each in at.toggle if each.label.startswith("Skip what")).set_value(True).run()
    )
    ran(button(at, "Measure").click().run())
    spec = read_spec("measure", Queue(toy.queue).jobs()[0].spec)
    assert spec.on_bad == "skip"
    how = {"runs": runs, "progress": lambda *_: None}
    found = screen(spec, check=encoder.check, **how)
    run = measure(spec, encoder=encoder, sae_run="none", screened=found, **how)
    cache.build(runs, run, toy.cache)
    at = opened("datasets", open=dataset, rows="refused rows")
    assert "1 of 3 samples of fresh were left out" in words(at)
    assert "1 of 3 samples of fresh were read without parts" in words(at)
    assert "Left out when it was measured with lexicon/hello" in words(at)
    assert [*at.dataframe[-1].value["reason"]] == ["The template refuses."]


def test_what_has_been_measured_can_be_measured_with_another_sae(toy):
    at = opened("datasets", open=ui_dataset(toy, "toy-seed"))
    sae = next(each for each in at.text_input if each.label == "SAE")
    ran(sae.set_value("release/other").run())
    ran(button(at, "Measure").click().run())
    assert Queue(toy.queue).jobs()[0].spec["sae"] == "release/other"


def test_a_job_that_failed_is_explained_where_it_was_started(toy):
    run = publish_dataset(Runs(toy), "fresh", [[{"role": "user", "content": "hello"}]])
    at = opened("datasets", open=run)
    ran(button(at, "Measure").click().run())
    queue = Queue(toy.queue)
    queue.fail(queue.claim("test").id, "The SAE 'x' reads 3 values.")
    ran(at.run())
    assert "The SAE 'x' reads 3 values." in words(at)
    ran(button(at, "Dismiss").click().run())
    assert not at.error


def test_samples_are_searched(toy):
    at = opened("datasets", open=ui_dataset(toy, "toy-seed"))
    box = next(each for each in at.text_input if each.label == "Search")
    ran(box.set_value("frozen").run())
    assert "1 sample found" in words(at)
    assert "Can the leftovers be frozen" in markup(at)
    ran(box.set_value("nobody said this").run())
    assert "0 samples found" in words(at)


def ui_dataset(workspace: Workspace, name: str) -> str:
    return Runs(workspace).resolve("dataset", name)


def test_a_text_is_read_and_shown_token_by_token(toy):
    at = opened("playground", dataset="toy-seed")
    at.text_area[0].set_value("bake the river!")
    ran(button(at, "Read its features").click().run())
    queue = Queue(toy.queue)
    (job,) = queue.jobs()
    spec = ProbeSpec(**job.spec)
    assert (spec.text, spec.model, spec.layer, spec.sae) == ("bake the river!", "toy", 1, "toy")
    run = probe(spec, runs=Runs(toy), encoder=LexiconEncoder(*WORDS), sae_run="toy")
    queue.finish(job.id, run)
    ran(at.run())
    support = (at.dataframe[0].value.set_index("name")["n_samples"] > 0).to_dict()
    # "river" is silent in the seed, which never says it: names are the anchor's.
    assert support == {"river": False, "bake! · bake": True, "the": True}
    assert re.search(r'class="fac-peak" title="1.5"[^>]*>river!</span>', markup(at))
    assert at.query_params["probe"] == run


def test_jobs_are_listed_with_their_errors_and_can_be_repeated_or_cancelled(toy, started):
    queue = Queue(toy.queue)
    queue.enqueue(IngestSpec(name="broken", source="nowhere.jsonl"))
    queue.fail(queue.claim("test").id, "nowhere.jsonl: no such file. Check the path.")
    at = opened("jobs")
    assert "no such file. Check the path." in words(at)
    ran(button(at, "Retry").click().run())
    assert [job.status for job in queue.jobs()] == ["waiting", "failed"]
    ran(button(at, "Cancel").click().run())
    assert [job.status for job in queue.jobs()] == ["cancelled", "failed"]


def test_a_job_that_was_asked_to_end_says_so_until_it_does(toy, started):
    queue = Queue(toy.queue)
    job = queue.enqueue(IngestSpec(name="long", source="nowhere.jsonl"))
    queue.claim("test")
    at = opened("jobs")
    assert not button(at, "Cancel").disabled
    ran(button(at, "Cancel").click().run())
    (bar, *_) = (each.proto.text for each in at.get("progress"))
    assert "stopping once this is done" in bar and button(at, "Cancel").disabled
    assert queue.job(job).stopping


def test_the_worker_is_shown_and_restarted(toy, started):
    at = opened("jobs")
    assert "No worker" in words(at)
    started.clear()
    ran(button(at, "Start a worker").click().run())
    assert started == [toy]


def test_the_log_is_shown_with_its_last_lines(toy):
    toy.logs.mkdir(parents=True)
    (toy.logs / "worker.log").write_text("".join(f"line {i}\n" for i in range(200)))
    at = opened("jobs")
    ran(next(each for each in at.toggle if "log" in each.label).set_value(True).run())
    assert at.code[0].value.splitlines()[0] == "line 120"
    assert at.code[0].value.splitlines()[-1] == "line 199"


def test_a_running_job_is_seen_from_every_page(toy):
    queue = Queue(toy.queue)
    queue.enqueue(IngestSpec(name="big", source="big.jsonl"))
    job = queue.claim("test")
    queue.report(job.id, 30, 120, "12 rows/s")
    at = opened("coverage")
    (bar,) = at.get("progress")
    assert (bar.proto.value, "12 rows/s" in bar.proto.text) == (25, True)


def test_a_server_prepares_the_first_page_before_anybody_asks(toy, started, monkeypatch):
    counted = mock.Mock(side_effect=comparison.fac)
    monkeypatch.setattr(comparison, "fac", counted)
    shell.prepare()
    before = counted.call_count
    assert started == [toy] and before
    opened("home")
    assert started == [toy] and counted.call_count == before, "nothing is left for the page to do"


def test_no_page_waits_for_a_collection_of_what_the_server_prepared(toy, started):
    async def collected_again() -> bool:
        async with app.lifespan(app.app):
            return any(each is shell for each in gc.get_objects())

    assert not asyncio.run(collected_again())
    assert started == [toy] and gc.get_freeze_count() == 0


def test_a_server_starts_on_a_workspace_that_it_cannot_read(toy, started):
    for manifest in toy.runs.glob("measure/*/manifest.json"):
        manifest.write_text(
            manifest.read_text().replace(f'"schema": {SCHEMA_VERSION}', '"schema": 99')
        )
    shell.prepare()
    assert len(opened("home").error) == 1, "the page says what is wrong"


def test_a_server_starts_where_no_worker_can_be_started(empty, monkeypatch):
    monkeypatch.setattr(
        "fac.jobs.worker.start_worker", mock.Mock(side_effect=PermissionError("read-only"))
    )
    shell.prepare()


def test_a_workspace_of_a_newer_version_is_refused_in_words(toy):
    for manifest in toy.runs.glob("measure/*/manifest.json"):
        text = manifest.read_text()
        manifest.write_text(text.replace(f'"schema": {SCHEMA_VERSION}', '"schema": 99'))
    at = opened("home")
    assert len(at.error) == 1
    assert "99" in at.error[0].value or "newer" in at.error[0].value


# --- explanations and relevance ---------------------------------------------------------------


def test_home_counts_what_is_explained_and_proposes_to_review_it(explained):
    at = opened("home")
    # The tokens abstain on "the", and nobody asked about "quasar".
    assert "explained10" in Reader(markup(at)).text
    assert "Review what the gaps are called" in words(at)


def test_home_proposes_to_explain_gaps_that_have_no_names(toy):
    assert "Explain the gaps" in words(opened("home"))


def test_a_feature_shows_its_explanations_side_by_side_with_their_scores(explained):
    at = opened("features", feature=str(WORDS.index("river")), dataset="toy-seed")
    read = Reader(markup(at)).text
    assert at.subheader[0].value == r"\#6 People speak of a river\."
    assert "language model · toy-llmPeople speak of a river." in read
    assert "token statisticsthe word river" in read
    text = words(at)
    assert "AUROC 0.89, n = 12" in text and "Detection 1.00, n = 12" in text
    assert "the judge says probably" in text


def test_an_explainer_that_cannot_tell_says_why(explained):
    at = opened("features", feature=str(WORDS.index("the")), dataset="toy-anchor")
    assert "cannot tell: it fires everywhere" in Reader(markup(at)).text
    assert at.subheader[0].value == r"\#10 the", "named by its tokens"


def test_a_persons_correction_becomes_the_name(explained):
    river = WORDS.index("river")
    rate(explained, "ana", river, "maybe", edited_text="Water on its way", reasons=("too broad",))
    at = opened("features", feature=str(river), dataset="toy-anchor")
    assert at.subheader[0].value == r"\#6 Water on its way"
    assert "1 person: maybe" in words(at)


def test_a_persons_verdict_goes_before_the_judges_and_is_shown_as_such(explained):
    mountain = WORDS.index("mountain")
    rate(explained, "ana", mountain, "no", kind="relevance")
    text = words(opened("features", feature=str(mountain), dataset="toy-anchor"))
    assert "~~the judge says maybe~~" in text and "1 person: no" in text
    # Of the judge's five features (MAYBE_RELEVANT) the person took one away.
    assert metrics(opened("coverage", threshold="0", relevant=TASK, maybe="yes"))["Missing"] == "4"


def test_a_verdict_on_words_that_changed_since_no_longer_counts(explained):
    mountain = WORDS.index("mountain")
    rate(explained, "ana", mountain, "no", kind="relevance")
    rate(explained, "ana", mountain, "maybe", edited_text="High places")
    assert metrics(opened("coverage", threshold="0", relevant=TASK))["Missing"] == "4"
    assert metrics(opened("coverage", threshold="0", relevant=TASK, maybe="yes"))["Missing"] == "5"


def test_features_and_gaps_are_found_by_their_explanation(explained):
    at = opened("features", dataset="toy-anchor", q="speak of a riv")
    assert list(at.dataframe[0].value["name"]) == ["People speak of a river."]
    at = opened("coverage", threshold="0", q="speak of a riv")
    assert list(at.dataframe[0].value["feature"]) == [WORDS.index("river")]


def test_coverage_counts_what_a_judge_calls_relevant(explained):
    at = opened("coverage", threshold="0")
    relevant = next(each for each in at.selectbox if each.label == "Relevant")
    ran(relevant.set_value(TASK).run())
    figures = metrics(at)
    # python, function, loop, river: the seed says none of them. The mountain is a maybe.
    assert (figures["Anchor"], figures["Covered"]) == ("4", "0")
    assert figures["FAC"] == share(fac_of(0, 4))
    assert at.query_params["relevant"] == TASK
    (link,) = [each for each in at.get("page_link") if each.proto.label == "Review these"]
    assert f"relevant={TASK}" in link.proto.query_string
    (maybe,) = [each for each in at.toggle if each.label == "Maybe"]
    ran(maybe.set_value(True).run())
    assert metrics(at)["Anchor"] == "5" and at.query_params["maybe"] == "yes"
    assert metrics(ran(at.run()))["Anchor"] == "5"


# --- review -----------------------------------------------------------------------------------


def shown_explanation(at: AppTest) -> str:
    (quote,) = re.findall(r'<div class="fac-quote[^"]*">(.*?)</div>', markup(at))
    return html.unescape(quote)


def test_who_reviews_is_asked_first(explained):
    assert "Who is reviewing?" in words(opened("review"))


def test_a_rating_is_kept_with_what_was_shown_and_the_next_item_comes(explained):
    at = opened("review", threshold="0", reviewer="ana")
    first = shown_explanation(at)
    ran(button(at, "Too narrow").click().run())
    ran(button(at, "Probably").click().run())
    store = Decisions(explained.decisions)
    (decision,) = store.current()
    assert (decision.reviewer, decision.kind, decision.verdict) == (
        "ana",
        "explanation",
        "probably",
    )
    assert decision.reasons == ("too narrow",)
    assert store.content(decision.seen)["explanation"] == first != shown_explanation(at)
    assert "1 of 6" in next(bar.proto.text for bar in at.get("progress"))

    ran(button(at, "Undo").click().run())
    assert store.current() == []
    assert shown_explanation(at) == first


def test_before_the_decision_nobody_elses_verdict_nor_the_explainer_is_in_sight(explained):
    decision = rate(explained, "zacharias", WORDS.index("river"), "no", note="nonsense")
    at = opened("review", reviewer="ana", item=decision.seen)
    assert shown_explanation(at) == "People speak of a river."
    sight = words(at) + Reader(markup(at)).text
    for secret in ("zacharias", "nonsense", "toy-llm", "language model ·", "AUROC", "gold"):
        assert secret not in sight, secret


def test_every_explanation_of_a_feature_can_be_put_on_the_desk(explained):
    at = opened("review", reviewer="ana", which="explained", every="True")
    assert "0 of 19" in next(bar.proto.text for bar in at.get("progress"))
    at = opened("review", reviewer="ana", which="explained")
    assert "0 of 10" in next(bar.proto.text for bar in at.get("progress"))


def test_relevance_is_asked_with_the_tasks_criteria(explained):
    at = opened("review", reviewer="ana", kind="relevance", task=TASK)
    assert f"Does this feature matter for {TASKS[TASK].title}?" in words(at)
    assert TASKS[TASK].rubric[0] in Reader(markup(at)).text
    ran(button(at, "No").click().run())
    (decision,) = Decisions(explained.decisions).current("relevance")
    assert decision.subject.endswith(f"/{TASK}") and decision.verdict == "no"


def test_the_truth_of_a_detection_comes_after_the_answer(explained):
    at = opened("review", reviewer="ana", kind="detection", which="explained")
    assert 'class="fac-peak"' not in markup(at)
    assert "silent" not in words(at)
    ran(button(at, "Cannot tell").click().run())
    (decision,) = Decisions(explained.decisions).current("detection")
    assert decision.verdict == "??????"
    assert markup(at).count('class="fac-peak"') == 3
    assert "0 of 6 right." in words(at)
    before = shown_explanation(at)
    ran(button(at, "Next").click().run())
    assert shown_explanation(at) != before


def test_a_link_to_what_nobody_knows_says_so_and_shows_the_next_item(explained):
    at = opened("review", reviewer="ana", item="0123456789ab")
    assert "not among the chosen features" in words(at)
    assert shown_explanation(at)


def test_all_reviewed_leads_to_the_agreement(explained):
    at = opened("review", threshold="0", reviewer="ana")
    for _ in range(6):
        ran(button(at, "Yes").click().run())
    assert "All reviewed" in words(at)
    ran(button(at, "Undo the last").click().run())
    assert shown_explanation(at)


def test_decisions_that_cannot_be_read_are_told_in_a_sentence(explained):
    explained.decisions.write_bytes(b"this is no database at all" * 99)
    at = opened("review", reviewer="ana")
    assert len(at.error) == 1 and "damaged" in words(at)


def test_without_explanations_token_statistics_are_one_button_away(toy):
    at = opened("review", reviewer="ana")
    assert "Nothing is explained yet" in words(at)
    ran(button(at, "Explain by tokens").click().run())
    (job,) = Queue(toy.queue).jobs()
    spec = ExplainSpec(**job.spec)
    assert (spec.measure, spec.explainer, spec.features) == (anchor_run(toy), "tokens", ())
    assert "on their way" in words(at)


def test_a_language_model_is_asked_about_the_gaps_within_a_budget(toy, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden-1")
    toy.endpoints.write_text(
        '[OpenAI]\nurl = "https://api.openai.com/v1"\nkey = "OPENAI_API_KEY"\n'
        '[lab]\nurl = "http://127.0.0.1:9/v1"\nprice_in = 1.5\nprice_out = 4\n'
    )
    at = opened("review", threshold="0", reviewer="ana")
    assert "OPENAI_API_KEY is set" in words(at)
    assert "sk-hidden-1" not in words(at) + markup(at) + str(at.session_state)
    ran(button(at, "Explain").click().run())
    assert "needs its name" in words(at), "no model was named"
    box = {each.label: each for each in (*at.text_input, *at.number_input, *at.selectbox)}
    box["Model"].set_value("small-model")
    box["Endpoint"].set_value("http://127.0.0.1:9/v1")
    box["Token budget"].set_value(5000)
    ran(button(at, "Explain").click().run())
    (job,) = Queue(toy.queue).jobs()
    spec = ExplainSpec(**job.spec)
    assert (spec.explainer, spec.model, spec.endpoint) == (
        "llm",
        "small-model",
        "http://127.0.0.1:9/v1",
    )
    assert spec.features == (3, 4, 5, 6, 7, 8) and spec.budget_tokens == 5000
    assert (spec.price_in, spec.price_out) == (1.5, 4)
    assert spec.scores == ("detection", "fuzzing")
    assert "sk-hidden-1" not in json.dumps(job.spec)


def test_a_judge_is_asked_by_the_tasks_criteria_or_by_the_datas_labels(explained):
    at = opened("coverage")
    box = {each.label: each for each in (*at.text_input, *at.selectbox)}
    box["Task"].set_value("toxicity")
    box["Model"].set_value("small-model")
    ran(button(at, "Judge").click().run())
    box = {each.label: each for each in (*at.radio, *at.selectbox)}
    box["Judge"].set_value("labels")
    box["Task"].set_value("toxicity")
    ran(button(at, "Judge").click().run())
    by_labels, by_model = (JudgeSpec(**job.spec) for job in Queue(explained.queue).jobs())
    assert (by_model.model, by_model.rubric) == ("small-model", TASKS["toxicity"].rubric)
    assert len(by_model.explanations) == 2, "it reads what both explainers said"
    assert (by_labels.judge, by_labels.label, by_labels.model) == ("labels", "toy", "")
    clear = cache.Cache(explained.cache).summary(anchor_run(explained))["clear_firing"]
    assert (by_labels.labels, by_labels.threshold) == ("", clear), "the threshold in use"
    assert (by_model.labels, by_model.threshold) == ("", 0.0)
    assert {job_title(job) for job in Queue(explained.queue).jobs()} == {
        "Judge toy-anchor for toxicity"
    }


def test_labels_of_another_dataset_may_say_what_matters_and_the_page_offers_to_use_it(explained):
    """Of the seed's samples the first half is labelled otherwise."""
    runs = Runs(explained)
    seed = runs.resolve("measure", "toy-seed")
    n = runs.manifest(seed).facts.n_samples
    label_samples(runs, "toy-seed", ["a"] * (n // 2) + ["b"] * (n - n // 2))
    at = opened("coverage", threshold="0")
    box = {each.label: each for each in (*at.radio, *at.selectbox)}
    box["Judge"].set_value("labels")
    box["Task"].set_value("toxicity")
    ran(at.run())
    (labels,) = [each for each in at.selectbox if each.label == "Label that marks the task"]
    texts = list(labels.options)
    assert texts[1:] == [
        f"a ({n // 2} of {n} in toy-seed)",
        f"b ({n - n // 2} of {n} in toy-seed)",
    ]
    labels.set_value((seed, "a"))
    ran(button(at, "Judge").click().run())
    (job,) = Queue(explained.queue).jobs()
    spec = JudgeSpec(**job.spec)
    assert (spec.measure, spec.labels, spec.label) == (anchor_run(explained), seed, "a")
    Worker(explained, say=lambda _: None).run(until_idle=True)
    at.run()
    assert "3 features are relevant for toxicity: 3 of the 11 that the anchor fires" in words(at)
    ran(button(at, "Use it for toxicity").click().run())
    assert at.query_params["relevant"] == "toxicity"
    assert not [each for each in at.button if each.label == "Use it for toxicity"]


def test_without_a_key_the_form_says_where_it_belongs(toy, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY is not set" in words(opened("review", reviewer="ana"))


def test_where_sign_in_is_configured_a_name_cannot_be_picked(explained):
    explained.roles.write_text('"rita@lab.org" = "reviewer"')
    at = AppTest.from_file(APP, default_timeout=60)
    secret, address = "of thirty-two characters at least", "http://127.0.0.1:8501/oauth2callback"
    at.secrets["auth"] = {"client_id": "x", "cookie_secret": secret, "redirect_uri": address}
    at.user = {"is_logged_in": True, "email": "rita@lab.org", "email_verified": True}
    at.run()
    at.query_params["reviewer"] = "somebody else"
    ran(at.switch_page("pages/review.py").run())
    assert "Reviewer" not in {each.label for each in at.selectbox}
    ran(button(at, "Yes").click().run())
    assert [each.reviewer for each in Decisions(explained.decisions).history()] == ["rita@lab.org"]


def test_an_explanation_cannot_act(empty):
    toy_workspace(empty.root)
    runs, nasty_text = Runs(empty), "<img src=x onerror=alert(1)> :red[x] <script>1</script>"
    run = publish_explanations(runs, anchor_run(empty), dict.fromkeys(range(10), nasty_text))
    cache.build(runs, run, empty.cache)
    for page in ("review", "features", "coverage"):
        at = opened(page, reviewer="ana")
        assert nasty_text in Reader(re.sub(r"<style>.*?</style>", "", markup(at))).text, page


# --- agreement --------------------------------------------------------------------------------


def test_agreement_needs_people(explained):
    assert "Nobody has decided anything here yet" in words(opened("agreement"))


def test_agreement_opens_on_what_most_was_decided_about(explained):
    rate(explained, "ana", 0, "yes", kind="relevance")
    rate(explained, "ana", 1, "no", kind="relevance")
    rate(explained, "ana", 0, "yes")
    at = opened("agreement")
    assert metrics(at)["Ratings"] == "2"
    assert next(each.value for each in at.segmented_control if each.label == "What") == "relevance"


def test_what_is_not_defined_is_said_to_be_so_and_why(explained):
    rate(explained, "ana", 0, "yes")
    rate(explained, "ana", 1, "no")
    at = opened("agreement")
    assert metrics(at)["Rated by two or more"] == "0"
    assert set(at.dataframe[0].value["estimate"]) == {"not defined"}
    assert "no item was rated by two" in words(at)


def test_agreement_is_what_the_ratings_say(explained):
    for feature, ana, bo in ((0, "yes", "yes"), (1, "no", "no"), (2, "yes", "no"), (3, "no", "no")):
        rate(explained, "ana", feature, ana)
        rate(explained, "bo", feature, bo)
    at = opened("agreement")
    estimates = dict(
        zip(*(at.dataframe[0].value[c] for c in ("coefficient", "estimate")), strict=True)
    )
    # 3 of 4 agree; by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2, so kappa is (3/4 - 1/2) / (1/2).
    assert (estimates["raw agreement"], estimates["Cohen's kappa"]) == ("0.75", "0.50")
    assert metrics(at)["To settle"] == "1"


def test_a_disagreement_is_settled_in_place(explained):
    river = WORDS.index("river")
    rate(explained, "ana", river, "yes", kind="relevance")
    rate(explained, "bo", river, "no", kind="relevance")
    at = opened("agreement", kind="relevance", task=TASK, reviewer="cleo")
    assert "changes 1 gap" in words(at), "toy-seed lacks it"
    ran(button(at, "No").click().run())
    settled = [d for d in Decisions(explained.decisions).current("relevance") if d.adjudicates]
    assert [(d.reviewer, d.verdict) for d in settled] == [("cleo", "no")]
    assert "Nothing is left to settle." in words(at)


def test_a_judge_is_held_against_people(explained):
    for feature, verdict in ((3, "yes"), (4, "no"), (8, "no")):
        rate(explained, "ana", feature, verdict, kind="relevance")
        rate(explained, "bo", feature, verdict, kind="relevance")
    at = opened("agreement", kind="relevance", task=TASK)
    table = next(each.value for each in at.dataframe if "more" in each.value)
    by_level = table.set_index("level")
    # The judge says yes of 3 and 4, no of 8.
    assert (by_level.loc["yes", "n"], by_level.loc["yes", "value"]) == (2, 0.5)
    assert (by_level.loc["no", "n"], by_level.loc["no", "value"]) == (1, 0.0)
    assert by_level.loc["yes", "more"] > 300
    (bars,) = (
        spec
        for spec in (json.loads(chart.proto.spec) for chart in at.get("plotly_chart"))
        if spec["data"][0].get("name") == "relevant"
    )
    names, shares = bars["data"][0]["y"], bars["data"][0]["x"]
    assert shares[names.index("paper: toxicity · n = 200")] == 0.84
    assert shares[names.index(f"here: {TASK} · n = 2")] == 0.5


def test_peoples_detection_stands_beside_the_models(explained):
    run, feature = anchor_run(explained), WORDS.index("river")
    with closing(cache.Cache(explained.cache)) as opened_cache:
        explain = next(r.run for r in Runs(explained).list("explain") if r.spec.model)
        test = opened_cache.examples(explain, run, feature)
    content = review.detection_content(run, feature, MODELS_TEXTS[feature], test)
    signs = "".join("+" if row["positive"] else "-" for row in test)
    item = review.item(content)
    Decisions(explained.decisions).add("ana", "detection", item.subject, content, signs)
    at = opened("agreement", kind="detection")
    assert metrics(at)["People"] == "100.0%"
    (row,) = at.dataframe[0].value.to_dict("records")
    assert (row["feature"], row["reviewer"], row["value"], row["n"]) == (feature, "ana", 1.0, 6)


def test_decisions_arrive_from_elsewhere_and_a_line_that_cannot_is_named(explained, tmp_path):
    elsewhere = Workspace(tmp_path / "elsewhere")
    decision = rate(explained, "ana", 0, "yes")
    content = Decisions(explained.decisions).content(decision.seen)
    Decisions(elsewhere.decisions).add("bo", "explanation", decision.subject, content, "no")
    lines = "\n".join([*Decisions(elsewhere.decisions).export(), "not json"])
    at = opened("agreement")
    ran(at.file_uploader[0].upload("decisions.jsonl", lines.encode()).run())
    ran(button(at, "Import them").click().run())
    assert "1 added" in words(at)
    assert {d.reviewer for d in Decisions(explained.decisions).current()} == {"ana", "bo"}
    assert metrics(at)["Rated by two or more"] == "1"
    assert any("reason" in each.value and list(each.value["line"]) == [2] for each in at.dataframe)


# --- foreign text -----------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser would show of a piece of markup, and which tags made it."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", set()
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"class", "style", "title", "role", "aria-label"}

    def handle_data(self, data):
        self.text += data


nasty = some.text() | some.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "&lt;",
        "\ud800",
        "\u202e",
        "\n",
    ]
)


@given(some.lists(some.tuples(nasty, some.floats(0, 10)), max_size=8))
def test_tokens_are_shown_as_they_are_whatever_they_hold(pairs):
    tokens, values = [token for token, _ in pairs], [value for _, value in pairs]
    read = Reader(tokens_html(tokens, values, peak=0))
    assert read.tags <= {"div", "span", "i"}
    # HTML itself folds carriage returns; nothing else may differ.
    assert read.text == "".join(clean(token) for token in tokens).replace("\n", "⏎")
    read.text.encode("utf-8")


def test_the_strongest_token_has_the_deepest_colour_and_the_peak_its_mark():
    drawn = tokens_html(["a", "b", "c"], [0.0, 1.0, 2.0], peak=2)
    depths = [float(depth) for depth in re.findall(r"rgba\(224,138,30,([\d.]+)\)", drawn)]
    assert depths == sorted(depths) and len(depths) == 2
    assert re.search(r'<span class="fac-peak" title="2"[^>]*>c</span>', drawn)
    assert ">a<" not in drawn.replace('<div class="fac-text fac-blur">a<', "")


@given(some.lists(nasty, max_size=4))
def test_a_conversation_cannot_break_out_of_its_frame(contents):
    roles = ("user", "assistant", "<b>", "system")
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    read = Reader(chat_html(messages))
    assert read.tags <= {"div", "b", "i"}


@given(nasty)
def test_plain_text_goes_through_markdown_unchanged(text):
    rendered = MarkdownIt("commonmark", {"html": True}).enable("strikethrough").render(plain(text))
    assert re.findall(r"<(?!/?p>)", rendered) == []
    seen = html.unescape(re.sub(r"</?p>", "", rendered)).strip()
    assert seen == " ".join(clean(text).split())


def test_streamlits_own_markdown_is_disarmed_too():
    assert plain(":red[x] $y$ :material/home:") == r"\:red\[x\] \$y\$ \:material/home\:"


def test_a_dataset_named_like_an_attack_is_only_a_name(toy):
    name = "x](javascript:alert(1)) <img src=x> :red[y]"
    publish_dataset(Runs(toy), name, [[{"role": "user", "content": "<script>alert(1)</script>"}]])
    at = opened("datasets", open=ui_dataset(toy, name))
    assert name in words(at)
    assert at.subheader[0].value == plain(name)
    assert "<script>" not in markup(at)
    assert "&lt;script&gt;" in markup(at)


def test_examples_are_blurred_at_once_where_labels_warn(toy, monkeypatch):
    assert not opened("home").toggle[0].value
    runs = Runs(toy)
    sample = [{"role": "user", "content": "x"}]
    quiet = publish_dataset(runs, "quiet", [sample])
    revise(runs, quiet, lambda content: content["facts"].update(labels={"toxic": 1}))
    assert opened("home").toggle[0].value


def test_every_page_stands_in_the_menu_by_what_its_file_says():
    entries = shell.read_pages()
    assert {entry.file for entry in entries} == {f"pages/{page}.py" for page in PAGES}
    assert entries[0].file == "pages/home.py", "the root of the site"
    assert [entry.title for entry in entries if entry.section == "Decide"] == [
        "Review",
        "Agreement",
    ]
    assert len({entry.order for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    "text",
    [
        '"""No PAGE."""\n',
        'PAGE = {"title": "New"}\n',
        'PAGE = {"title": title, "section": "", "icon": "home", "order": 1}\n',
    ],
)
def test_a_page_that_does_not_say_where_it_stands_is_refused_in_words(tmp_path, text):
    (tmp_path / "new.py").write_text(text)
    with pytest.raises(InputError, match=r"new\.py is no page of the menu: begin it with PAGE = "):
        shell.read_pages(tmp_path)


def test_no_page_prints_a_string_that_was_meant_for_its_reader():
    # Streamlit shows every bare string of a page but its docstring.
    for path in sorted((REPOSITORY / "pages").glob("*.py")):
        bare = [
            node.lineno
            for node in ast.parse(path.read_text("utf-8")).body[1:]
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ]
        assert not bare, (path.name, bare)


# --- the web process --------------------------------------------------------------------------

EVERY_PAGE = """
import sys
from streamlit.testing.v1 import AppTest
import fac.jobs.worker
fac.jobs.worker.start_worker = lambda workspace: None
at = AppTest.from_file("app.py", default_timeout=60).run()
for page in sys.argv[1:]:
    at.switch_page(f"pages/{page}.py").run()
    assert not at.exception, (page, at.exception)
heavy = [name for name in ("torch", "transformers", "sae_lens", "umap", "sklearn", "openai")
         if name in sys.modules]
assert not heavy, heavy
"""


def test_the_web_process_never_loads_a_model_library(toy):
    done = subprocess.run(
        [sys.executable, "-c", EVERY_PAGE, *PAGES], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
