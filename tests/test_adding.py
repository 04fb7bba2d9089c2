"""Adding a dataset on its page, run headless: what a file is taken for before anything is stored,
the columns corrected, and the measure that follows."""

import json

import pytest

from fac.config import IngestSpec, MeasureSpec, Workspace, read_spec
from fac.jobs.steps import following
from fac.questions.estimates import measuring_time
from fac.store import open_stores
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.rows import json_lines
from tests.test_files import SHOWN, SPLITS, viewer
from tests.test_pages import (
    button,
    empty,
    markup,
    navigation_decides,
    opened,
    ran,
    started,
    toy,
    words,
)
from tests.toy import revise

__all__ = ["empty", "navigation_decides", "started", "toy", "viewer"]  # fixtures

HOSTILE = "<img src=x onerror=alert(1)> :red[x] **b**"
BOTH = {"instruction": "Add.", "input": "1 2", "output": "3", "prompt": f"{HOSTILE} =>"}


def uploaded(at, *rows, name="mine.jsonl"):
    return ran(at.file_uploader[0].upload(name, json_lines(*rows)).run())


def field(at, label, kind="selectbox"):
    return next(each for each in at.get(kind) if each.label == label)


def test_a_file_is_shown_as_what_it_is_taken_for_before_it_is_added(toy: Workspace):
    rows = [
        {"instruction": f"{HOSTILE} {i}", "output": "Yes.", "label": HOSTILE, "*id*": i}
        for i in range(7)
    ]
    rows[3]["output"] = None
    at = uploaded(opened("datasets", add="yes"), *rows)
    text = words(at)
    assert "Its 7 rows become chats made of instruction and output, labelled by label." in text
    assert "Kept beside them, not measured: *id*." in text
    assert "1 of the first 7 rows cannot be read; line 4: the column 'output' is null" in text
    html = markup(at)
    assert "&lt;img src=x onerror=alert(1)&gt; :red[x] **b** 2" in html and "**b** 5" not in html
    assert "<img src=x" not in html
    assert field(at, "Read as").value == "" and Queue(toy.queue).jobs() == []
    assert not toy.inputs.exists(), "nothing is kept of a file that nobody added"


def test_a_layout_is_corrected_and_the_measure_follows(toy: Workspace):
    at = uploaded(opened("datasets", add="yes"), BOTH, {**BOTH, "output": "4"})
    assert "The columns fit more than one layout: instruction, input, output and prompt" in words(
        at
    )
    assert button(at, "Add").disabled and button(at, "Add and measure").disabled
    ran(field(at, "Read as").set_value("reply").run())
    ran(field(at, "Prompt").set_value("prompt").run())
    assert not button(at, "Add").disabled  # the only reply column is taken
    ran(field(at, "Reply").set_value("output").run())
    assert "&lt;img src=x onerror=alert(1)&gt; :red[x] **b** =&gt;" in markup(at)
    assert "Measuring: model toy, layer 1, SAE toy, as the anchor." in words(at)
    ran(field(at, "Skip bad rows", "toggle").set_value(True).run())
    ran(button(at, "Add and measure").click().run())
    (job,) = Queue(toy.queue).jobs()
    spec = read_spec("dataset", job.spec)
    assert (spec.prompt_field, spec.reply_field, spec.on_bad) == ("prompt", "output", "skip")
    assert following(spec, "dataset-1") == MeasureSpec(
        dataset="dataset-1", model="toy", layer=1, sae="toy", on_bad="skip"
    )
    # Its failure is told to whoever added the dataset.
    queue = Queue(toy.queue)
    queue.enqueue(following(spec, "dataset-1"))
    queue.finish(job.id, "dataset-1")
    queue.fail(queue.claim("test").id, "The SAE 'toy' is gone.")
    ran(at.run())
    assert "The SAE 'toy' is gone." in words(at)
    ran(button(at, "Dismiss").click().run())
    ran(at.run())
    assert "The SAE 'toy' is gone." not in words(at)


def test_a_way_to_read_without_its_columns_adds_nothing(toy: Workspace):
    """Whatever was guessed before: a text beside the columns that are meant."""
    row = {"text": "from a forum", "frage": "Why?", "antwort": "So."}
    at = uploaded(opened("datasets", add="yes"), row, {**row, "frage": "How?"})
    assert not button(at, "Add").disabled and "from a forum" in markup(at)
    ran(field(at, "Read as").set_value("reply").run())
    assert "Choose the columns for Prompt and Reply: until then nothing is added." in words(at)
    assert button(at, "Add").disabled and button(at, "Add and measure").disabled
    assert "from a forum" not in markup(at)
    ran(field(at, "Prompt").set_value("frage").run())
    assert "Choose the column for Reply: until then nothing is added." in words(at)
    assert button(at, "Add").disabled
    ran(field(at, "Reply").set_value("antwort").run())
    assert not button(at, "Add").disabled and "Why?" in markup(at)


@pytest.mark.parametrize("form", [b"\xff\xfet\x00", b"", b"\n", b'{"text": 3}\n', b"[broken"])
def test_a_file_that_cannot_be_added_is_one_sentence(toy: Workspace, form):
    at = opened("datasets", add="yes")
    ran(at.file_uploader[0].upload("mine.jsonl", form).run())
    sentences = [each.value for each in (*at.error, *at.warning)]
    assert len(sentences) == 1 and sentences[0].count("\n") == 0
    assert field(at, "Name", "text_input").value == "mine"


def test_what_was_typed_stays_where_a_name_cannot_be(toy: Workspace):
    at = uploaded(opened("datasets", add="yes"), {"body": "hello", "n": 1})
    ran(field(at, "Read as").set_value("text").run())
    ran(field(at, "Text").set_value("body").run())
    ran(field(at, "Name", "text_input").set_value("a/b").run())
    ran(button(at, "Add").click().run())
    assert "without '/'" in words(at) and Queue(toy.queue).jobs() == []
    assert field(at, "Text").value == "body" and field(at, "Name", "text_input").value == "a/b"
    assert "toy-seed" in words(at), "the page goes on below"
    ran(field(at, "Name", "text_input").set_value("ab").run())
    ran(button(at, "Add").click().run())
    (job,) = Queue(toy.queue).jobs()
    spec = read_spec("dataset", job.spec)
    assert (spec.name, spec.text_field, spec.measure) == ("ab", "body", None)


def test_columns_of_the_hub_are_typed_where_it_shows_none(toy: Workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    at = opened("datasets", add="yes")
    ran(field(at, "Source", "button_group").set_value("hub").run())
    ran(field(at, "Dataset id", "text_input").set_value("a/b@main:fine:test").run())
    assert field(at, "Name", "text_input").value == "b"
    assert "no rows of a revision: they are seen once they are read" in words(at)
    ran(field(at, "Read as").set_value("chat").run())
    ran(field(at, "Messages", "text_input").set_value("turns").run())
    ran(button(at, "Add").click().run())
    spec = read_spec("dataset", Queue(toy.queue).jobs()[0].spec)
    assert spec == IngestSpec(name="b", source="hf:a/b@main:fine:test", messages_field="turns")


def test_rows_of_the_hub_are_seen_before_they_are_added(toy: Workspace, viewer):  # noqa: F811
    answers, _ = viewer
    answers |= {"splits": (200, json.dumps(SPLITS).encode())}
    answers["rows"] = (200, json.dumps(SHOWN).encode())
    at = opened("datasets", add="yes")
    ran(field(at, "Source", "button_group").set_value("hub").run())
    ran(field(at, "Dataset id", "text_input").set_value("x/y").run())
    assert "Its about 400 rows become chats made of messages, labelled by label." in words(at)
    assert "Kept beside them, not measured: id." in words(at)
    ran(button(at, "Add").click().run())
    assert Queue(toy.queue).jobs()[0].spec["source"] == "hf:x/y"


def test_the_time_to_measure_is_at_the_pace_of_the_newest_measure(toy: Workspace, tmp_path):
    runs = Runs(toy)
    run = runs.resolve("measure", "toy-seed")
    texts = runs.table(runs.manifest(run).facts.dataset, "samples").column("messages").to_pylist()
    characters = sum(len(message["content"]) for chat in texts for message in chat)
    # Two characters a token, ten tokens a second.
    pace = {"tokens": characters // 2, "tokens_per_second": 10.0}
    revise(runs, run, lambda content: content["facts"].update(pace))
    (tmp_path / "part-1.jsonl").write_bytes(json_lines({"text": "a" * 1200}, {"text": "b" * 9000}))
    at = opened("datasets", add="yes")
    ran(field(at, "Source", "button_group").set_value("path").run())
    ran(field(at, "Path", "text_input").set_value(str(tmp_path / "part-*.jsonl")).run())
    # 600 tokens of the first, and of the second the 1,024 that are read.
    assert "About 3 min once loaded" in words(at)
    assert "at the pace of toy-seed" in words(at)
    assert field(at, "Name", "text_input").value == "part"
    stores = open_stores(toy, remember=False)
    spec = MeasureSpec(dataset="", model="toy", layer=1, sae="toy")
    half = measuring_time(stores, spec, [1200, 9000], 0.5)
    assert half.seconds == pytest.approx(2 * (600 + 1024) / 10, rel=0.01)
    assert measuring_time(stores, MeasureSpec(dataset="", model="other"), [9], 1.0) is None
