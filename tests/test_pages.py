"""The pages, run headless: an empty workspace, the toy workspace, and what a person does on each.

The toy workspace can be read by eye (tests/toy.py): toy-anchor shows eleven words, one of them
("the") in every sample and therefore not relevant; toy-seed shows bake, oven, recipe and please.
So FAC is 4 of 10, and python, function, loop, river, mountain and train are missing.
"""

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from hypothesis import given
from hypothesis import strategies as some
from markdown_it import MarkdownIt
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from fac import ui
from fac.config import REPOSITORY, DemoSpec, IngestSpec, MeasureSpec, ProbeSpec, Workspace
from fac.measure import measure
from fac.probe import probe
from fac.schema import SCHEMA_VERSION, Activations
from fac.store import cache
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.lexicon import LexiconEncoder
from tests.toy import WORDS, publish_activations, publish_dataset, toy_workspace

APP = REPOSITORY / "app.py"
PAGES = ("home", "datasets", "features", "coverage", "compare", "playground", "jobs")


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[Workspace]:
    """Workspaces for which a worker was asked; none is started."""
    asked: list[Workspace] = []
    monkeypatch.setattr("fac.jobs.start_worker", asked.append)
    monkeypatch.setattr("fac.jobs.restart_worker", asked.append)
    st.cache_resource.clear()
    st.cache_data.clear()
    return asked


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
    return "".join(element.proto.body for element in at.get("html"))


def words(at: AppTest) -> str:
    """Everything a person reads as text."""
    kinds = (at.title, at.subheader, at.markdown, at.caption, at.error, at.warning, at.info)
    said = [element.value for kind in kinds for element in kind]
    said += [link.proto.label for link in at.get("page_link")]
    return re.sub(r"\\(.)", r"\1", "\n".join(said))


def button(at: AppTest, label: str):
    return next(each for each in at.button if each.label == label)


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
    assert metrics(ran(at.run()))["Coverage (FAC)"] == "40.0%"


def test_a_demo_that_failed_says_why_and_can_be_tried_again(empty):
    opened("home")
    queue = Queue(empty.queue)
    job = queue.claim("test")
    queue.fail(job.id, "data/demo holds no runs; restore it from git.")
    at = opened("home")
    assert "data/demo holds no runs" in words(at)
    ran(button(at, "Try again").click().run())
    assert [job.status for job in queue.jobs()] == ["waiting", "failed"]


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_workspace_says_what_to_do_next(empty, page):
    at = opened(page)
    assert not at.error
    said = words(at)
    assert re.search(r"Setting up the demo|demo is on its way|No dataset yet|Set up the demo", said)


def test_without_demo_and_data_a_page_leads_to_the_datasets(empty):
    queue = Queue(empty.queue)
    opened("home")
    queue.cancel(queue.jobs()[0].id)
    for page in ("home", "features", "coverage", "compare", "playground"):
        assert "Add a dataset" in words(opened(page)), page


# --- every page on the toy workspace ----------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_a_complaint(toy, page):
    at = opened(page)
    assert not at.error and not at.warning
    assert not Queue(toy.queue).jobs(), "a workspace with runs needs no demo"


def test_home_says_where_things_stand(toy):
    at = opened("home")
    assert metrics(at) == {
        "Coverage (FAC)": "40.0%",
        "Covered": "4",
        "Missing": "6",
        "Samples": "16",
    }
    assert "Read the 6 gaps of toy-seed" in words(at)


def test_home_counts_at_the_threshold_that_was_chosen(toy):
    at = opened("home", threshold="1.2")
    assert metrics(at)["Missing"] == "2"
    (link,) = [each for each in at.get("page_link") if each.proto.label == "See what is missing"]
    assert "threshold=1.2" in link.proto.query_string


def test_home_proposes_to_measure_what_was_only_read(toy):
    publish_dataset(Runs(toy), "fresh", [[{"role": "user", "content": "hello"}]])
    assert "Measure fresh" in words(opened("home"))


def test_coverage_counts_what_the_texts_show(toy):
    shown = metrics(opened("coverage"))
    assert shown["FAC"] == "40.0%"
    assert (shown["Anchor"], shown["Dataset"]) == ("10", "4")
    assert (shown["Covered"], shown["Missing"]) == ("4", "6")


def test_moving_the_threshold_counts_again_and_moves_the_link(toy):
    at = opened("coverage")
    slider = next(each for each in at.slider if each.label == "Threshold")
    # Only words with an exclamation mark stay: bake, loop and train; the seed has bake.
    ran(slider.set_value(1.2).run())
    shown = metrics(at)
    assert (shown["Anchor"], shown["Covered"], shown["Missing"]) == ("3", "1", "2")
    assert shown["FAC"] == "33.3%"
    assert at.query_params["threshold"] == "1.2"


def test_a_link_opens_the_same_view(toy):
    at = opened("coverage", threshold="1.2", role="assistant", anchor="toy-anchor")
    assert metrics(at)["Missing"] == "2"
    assert {each.label: each.value for each in at.segmented_control}["Whose tokens"] == "assistant"


def test_a_link_that_is_the_first_thing_a_server_is_asked_opens_inside_the_frame(toy, monkeypatch):
    monkeypatch.undo()  # back to a server that still discovers pages/ by itself
    monkeypatch.setenv("FAC_WORKSPACE", str(toy.root))
    monkeypatch.setattr("fac.jobs.start_worker", lambda workspace: None)
    at = opened("coverage", threshold="1.2")
    assert [each.label for each in at.toggle] == ["Blur examples"]
    assert metrics(at)["Missing"] == "2"


def test_a_link_with_nonsense_opens_the_usual_view(toy):
    at = opened("coverage", threshold="much", role="nobody", gap="x", dataset="none", support="-3")
    assert not at.error
    assert metrics(at)["FAC"] == "40.0%"


def test_gaps_are_listed_and_searched(toy):
    at = opened("coverage")
    labels = set(at.dataframe[0].value["label"])
    assert labels == {"python", "function", "loop!", "river", "mountain", "train! · train"}
    ran(at.text_input[0].set_value("riv").run())
    assert list(at.dataframe[0].value["label"]) == ["river"]


def test_a_gap_shows_the_anchors_examples_with_the_peak_marked(toy):
    at = opened("coverage", gap=str(WORDS.index("river")))
    assert "#6 river" in words(at)
    assert re.search(r' <span class="fac-peak" title="1" style="[^"]*">river</span>', markup(at))


def test_a_dataset_against_itself_misses_nothing(toy):
    at = opened("coverage", dataset="toy-anchor", anchor="toy-anchor")
    assert metrics(at)["FAC"] == "100.0%"
    assert "Nothing is missing" in words(at)


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
    assert "has not been drawn yet" in words(at), "nor is there a map without an SAE run"


def test_a_number_outside_the_dictionary_is_answered_with_its_range(toy):
    assert "features 0 to 11; there is no #99" in words(opened("features", feature="99"))


def test_features_are_searched_by_token(toy):
    at = opened("features", dataset="toy-anchor", q="python")
    assert list(at.dataframe[0].value["feature"]) == [WORDS.index("python")]


def test_compare_counts_what_came_and_went(toy):
    at = opened("compare", before="toy-seed", after="toy-anchor")
    shown = metrics(at)
    assert (shown["Gained"], shown["Lost"]) == ("6", "0")
    assert shown["FAC"] == "100.0%"
    labels = set(at.dataframe[0].value["label"])
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
        told = [each.value for each in (*at.error, *at.warning)]
        assert len(told) == 1 and "SAE" in told[0], page


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


def test_a_path_or_a_hub_id_is_read_too(toy):
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
    ran(at.file_uploader[0].upload("a.jsonl", b"{}").run())
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
    shown = (at.dataframe[0].value.set_index("label")["n_samples"] > 0).to_dict()
    # "river" has no label in the seed, which never says it: the anchor's is shown.
    assert shown == {"river": False, "bake! · bake": True, "the": True}
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


def test_a_workspace_of_a_newer_version_is_refused_in_words(toy):
    for manifest in toy.runs.glob("measure/*/manifest.json"):
        text = manifest.read_text()
        manifest.write_text(text.replace(f'"schema": {SCHEMA_VERSION}', '"schema": 99'))
    at = opened("home")
    assert len(at.error) == 1
    assert "99" in at.error[0].value or "newer" in at.error[0].value


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
        assert {name for name, _ in attrs} <= {"class", "style", "title"}

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
    read = Reader(ui.tokens_html(tokens, values, peak=0))
    assert read.tags <= {"div", "span", "i"}
    # HTML itself folds carriage returns; nothing else may differ.
    assert read.text == "".join(ui.clean(token) for token in tokens).replace("\n", "⏎")
    read.text.encode("utf-8")


def test_the_strongest_token_has_the_deepest_colour_and_the_peak_its_mark():
    drawn = ui.tokens_html(["a", "b", "c"], [0.0, 1.0, 2.0], peak=2)
    depths = [float(depth) for depth in re.findall(r"rgba\(224,138,30,([\d.]+)\)", drawn)]
    assert depths == sorted(depths) and len(depths) == 2
    assert re.search(r'<span class="fac-peak" title="2"[^>]*>c</span>', drawn)
    assert ">a<" not in drawn.replace('<div class="fac-text fac-blur">a<', "")


@given(some.lists(nasty, max_size=4))
def test_a_conversation_cannot_break_out_of_its_frame(contents):
    roles = ("user", "assistant", "<b>", "system")
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    read = Reader(ui.chat_html(messages))
    assert read.tags <= {"div", "b", "i"}


@given(nasty)
def test_plain_text_goes_through_markdown_unchanged(text):
    rendered = (
        MarkdownIt("commonmark", {"html": True}).enable("strikethrough").render(ui.plain(text))
    )
    assert re.findall(r"<(?!/?p>)", rendered) == []
    seen = html.unescape(re.sub(r"</?p>", "", rendered)).strip()
    assert seen == " ".join(ui.clean(text).split())


def test_streamlits_own_markdown_is_disarmed_too():
    assert ui.plain(":red[x] $y$ :material/home:") == r"\:red\[x\] \$y\$ \:material/home\:"


def test_a_dataset_named_like_an_attack_is_only_a_name(toy):
    name = "x](javascript:alert(1)) <img src=x> :red[y]"
    publish_dataset(Runs(toy), name, [[{"role": "user", "content": "<script>alert(1)</script>"}]])
    at = opened("datasets", open=ui_dataset(toy, name))
    assert name in words(at)
    assert at.subheader[0].value == ui.plain(name)
    assert "<script>" not in markup(at)
    assert "&lt;script&gt;" in markup(at)


def test_examples_are_blurred_at_once_where_labels_warn(toy, monkeypatch):
    assert not opened("home").toggle[0].value
    runs = Runs(toy)
    sample = [{"role": "user", "content": "x"}]
    publish_dataset(runs, "quiet", [sample])
    manifest = next(
        path for path in toy.runs.glob("dataset/*/manifest.json") if '"quiet"' in path.read_text()
    )
    manifest.write_text(manifest.read_text().replace('"toy": 1', '"toxic": 1'))
    assert opened("home").toggle[0].value


# --- the web process --------------------------------------------------------------------------

EVERY_PAGE = """
import sys
from streamlit.testing.v1 import AppTest
import fac.jobs
fac.jobs.start_worker = lambda workspace: None
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
