"""Files as people have them: columns that must be named, several files, other encodings, a folder
that was written again, and a look at the beginning. docs/formats.md lists each kind with its test.
"""

import gzip
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fac.config import IngestSpec, MeasureSpec, Workspace, read_spec
from fac.datasets import preview, read_samples
from fac.errors import BadRow, InputError, ServiceError
from fac.ingest import ingest
from fac.jobs.steps import Steps, following
from fac.jobs.worker import Worker
from fac.store.queue import Queue
from tests.rows import as_csv, as_parquet, assistant, json_lines, refusal, stored, system, user
from tests.test_cli import fac
from tests.test_datasets import chats, reasons

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3", "prompt": "### Add. 1 2 =>"}


# --- columns that are named --------------------------------------------------------------------


def test_prompt_and_reply_are_named_where_columns_say_too_much(write, runs):
    path = write("rows.jsonl", json_lines(ALPACA))
    assert "--prompt-field COLUMN and --reply-field COLUMN" in refusal(runs, path)
    # The input belongs to the instruction: the prompt has it already.
    fields = {"prompt_field": "prompt", "reply_field": "output"}
    assert chats(path, **fields) == [[user("### Add. 1 2 =>"), assistant("3")]]
    fields = {"prompt_field": "instruction", "reply_field": "output"}
    assert chats(path, **fields) == [[user("Add.\n\n1 2"), assistant("3")]]
    reader = read_samples(path, prompt_field="instruction")
    assert [s.messages for s in reader] == [[user("Add.\n\n1 2"), assistant("3")]]
    _, [sample] = stored(runs, path, prompt_field="prompt", reply_field="output")
    assert json.loads(sample["meta"])["columns"] == {"instruction": "Add.", "input": "1 2"}


def test_any_column_may_be_the_prompt_and_any_the_reply(write):
    row = {"q": "Hi", "a": "Hello.", "system": "Be kind.", "context": "At noon.", "label": "x"}
    path = write("rows.jsonl", json_lines(row))
    chat = [system("Be kind."), user("Hi\n\nAt noon."), assistant("Hello.")]
    assert chats(path, prompt_field="q", reply_field="a") == [chat]
    both = {"q": "Hi", "chosen": "Hello.", "rejected": "No."}
    path = write("both.jsonl", json_lines(both))
    assert chats(path, prompt_field="q") == [[user("Hi"), assistant("Hello.")]]
    with pytest.raises(InputError, match="--text-field q and --prompt-field q exclude each"):
        read_samples(path, text_field="q", prompt_field="q")
    with pytest.raises(InputError, match="fit no layout"):
        [*read_samples(write("one.jsonl", json_lines({"q": "Hi", "n": 1})), prompt_field="q")]


def test_a_run_of_named_columns_is_another_and_those_before_keep_their_ids(write, runs):
    path = str(write("rows.jsonl", json_lines({"prompt": "Hi", "completion": "Hello."})))
    plain = IngestSpec(name="mine", source=path)
    assert "prompt_field" not in plain.as_json() and "measure" not in plain.as_json()
    named = IngestSpec(name="mine", source=path, prompt_field="prompt", reply_field="completion")
    later = IngestSpec(name="mine", source=path, measure={"model": "toy"})
    first = ingest(plain, runs=runs)
    assert ingest(later, runs=runs) == first != ingest(named, runs=runs)
    assert "measure" not in json.loads((runs.path(first) / "manifest.json").read_text())["spec"]


def test_addresses_are_no_text_unless_they_are_named(write, runs):
    rows = [{"content": f"https://a.example/{i}", "body": f"Text {i}."} for i in range(3)]
    path = write("rows.jsonl", json_lines(*rows))
    sentence = refusal(runs, path)
    assert "'content' holds addresses and no text" in sentence and "'content', 'body'" in sentence
    assert chats(path, text_field="body") == [[user(f"Text {i}.")] for i in range(3)]
    assert len(chats(path, text_field="content")) == 3
    one = write("one.jsonl", json_lines({"text": "See https://a.example"}, {"text": "ftp://b.c"}))
    assert len(chats(one)) == 2


def test_two_labels_of_one_text_are_counted(write, runs):
    rows = [("a", "x"), ("a", "y"), ("b", None), ("a", "x"), ("a", "y"), ("b", "x"), ("c", "x")]
    path = write("rows.jsonl", json_lines(*({"text": t, "label": la} for t, la in rows)))
    facts, samples = stored(runs, path)
    assert (facts.n_samples, facts.duplicates, facts.relabelled) == (3, 4, 2)
    assert [s["label"] for s in samples] == ["x", None, "x"]
    assert facts.says_relabelled == (
        "2 duplicates have another label than the sample that was kept: of a text's labels the "
        "first counts."
    )
    same, _ = stored(runs, write("same.jsonl", json_lines({"text": "a"}, {"text": "a"})))
    assert (same.relabelled, same.says_relabelled) == (None, "")


def test_verdicts_on_answers_are_said_to_be_samples_like_others(write, runs):
    rows = [{"prompt": "Hi", "completion": f"Hello {i}.", "label": i > 0} for i in range(2)]
    facts, _ = stored(runs, write("rows.jsonl", json_lines(*rows)))
    assert facts.note == (
        "Labels are verdicts: answers labelled false are samples like those labelled true."
    )


def test_chats_kept_as_objects_of_lists_or_with_two_last_answers_are_read(write):
    lists = {"role": ["user", "assistant"], "content": ["Hi", "Hello."]}
    shared = {"from": ["human", "gpt"], "value": ["Hi", "Hello."]}
    chat = [user("Hi"), assistant("Hello.")]
    assert chats(write("a.jsonl", json_lines({"messages": lists}))) == [chat]
    assert chats(write("b.jsonl", json_lines({"conversations": shared}))) == [chat]
    odd = {"role": ["user"], "content": ["Hi", "Hello."]}
    content = json_lines({"messages": chat}, {"messages": odd})
    [(line, reason)] = reasons(write("c.jsonl", content))
    assert line == 2 and "holds an object, not a list of messages" in reason
    row = {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello."},
        "rejected": {"from": "gpt", "value": "No."},
    }
    assert chats(write("d.jsonl", json_lines(row))) == [chat]
    whole = {"messages": chat, "chosen": chat, "rejected": [user("Hi"), assistant("No.")]}
    assert chats(write("e.jsonl", json_lines(whole))) == [chat]


# --- several files -----------------------------------------------------------------------------


def test_several_files_a_pattern_and_a_folder_are_read_by_name(write, runs, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, texts in (("b.jsonl", "cd"), ("a.jsonl.gz", "ab"), ("c.jsonl", "e")):
        content = json_lines(*({"text": text} for text in texts))
        zipped = gzip.compress(content) if name.endswith(".gz") else content
        (folder / name).write_bytes(zipped)
    (folder / "notes.md").write_text("about them")
    (folder / ".hidden.jsonl").write_text("{}")
    every = [[user(text)] for text in "abcde"]
    assert chats(folder) == chats(str(folder / "*.jsonl*")) == every
    files = [str(folder / name) for name in ("c.jsonl", "b.jsonl")]
    assert chats(files) == [[user(text)] for text in "ecd"]
    assert read_samples(folder).name == "parts (3 files)"
    assert read_samples(files).name == "c.jsonl and 1 more"
    digests = {read_samples(each).digest(lambda *_: None) for each in (folder, files, files[:1])}
    assert len(digests) == 3

    (folder / "b.jsonl").write_bytes(json_lines({"text": "c"}, {"text": 3}))
    assert reasons(folder) == [
        (2, "in b.jsonl, the column 'text' holds a number (3), not text"),
    ]
    facts, samples = stored(runs, folder, on_bad="skip")
    assert (facts.source, facts.kind, facts.n_samples) == ("parts (3 files)", "json", 4)
    assert json.loads(samples[-1]["meta"]) == {"line": 1, "file": "c.jsonl"}
    (folder / "c.csv").write_bytes(as_csv([{"text": "f"}]))
    assert "parts holds files of several kinds, csv and json" in refusal(runs, folder)
    assert "No file fits the pattern" in refusal(runs, str(folder / "*.parquet"))


def test_shards_of_parquet_are_one_dataset_and_progress_counts_all(tmp_path, runs):
    for part in range(3):
        rows = [{"text": f"{part} {i}"} for i in range(2)]
        (tmp_path / f"part-{part}.parquet").write_bytes(as_parquet(rows))
    reports = []
    spec = IngestSpec(name="mine", source=str(tmp_path / "part-*.parquet"))
    run = ingest(spec, runs=runs, progress=lambda *report: reports.append(report))
    assert runs.manifest(run).facts.n_samples == 6
    assert reports[-1][:2] == (6, 6)
    table = pa.table({"other": ["x"]})
    pq.write_table(table, tmp_path / "part-3.parquet")
    assert "in part-3.parquet, there is no 'text'" in refusal(runs, spec.source)


def test_the_command_takes_several_files(tmp_path, write, monkeypatch):
    files = [str(write(f"{name}.jsonl", json_lines({"q": name, "a": "Yes."}))) for name in "xy"]
    options = ["--name", "both", "--prompt-field", "q", "--reply-field", "a"]
    place = Workspace(tmp_path / "place")
    assert fac("ingest", *files, *options, "--json", workspace=place).json["samples"] == 2
    monkeypatch.setenv("COLUMNS", "200")
    shown = fac("ingest", "--help").out
    for word in ("hf:ID@REVISION:CONFIG:SPLIT", "hf:FOLDER", "--prompt-field", "--reply-field"):
        assert word in shown


# --- how text is written -----------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"sep=;\r\n", b'"sep=|"\n', b"SEP=,\n"])
def test_the_line_of_a_spreadsheet_about_its_delimiter_is_no_header(write, line):
    mark = bytes(c for c in line if c in b";|,").decode()
    content = line + as_csv([{"text": "a, b; c|d", "label": "x"}], mark)
    [sample] = read_samples(write("rows.csv", content))
    assert (sample.messages, sample.label, sample.line) == ([user("a, b; c|d")], "x", 3)


def test_what_windows_and_utf_16_wrote_is_named(write, runs):
    text = "Das Mädchen sagt: „schön“"
    for name, content in (
        ("rows.jsonl", json.dumps({"text": text}, ensure_ascii=False)),
        ("rows.csv", f'text,n\n"{text}",1\n'),
        ("rows.json", json.dumps([{"text": text}], ensure_ascii=False)),
    ):
        sentence = refusal(runs, write(name, content.encode("cp1252")))
        assert "in Windows-1252 (cp1252), 'ä': save the file as UTF-8" in sentence
        for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
            sentence = refusal(runs, write(name, content.encode(encoding)))
            assert f"{name} is UTF-16 text: save it as UTF-8" in sentence


# --- the hub -----------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_a_folder_that_was_written_again_is_read_as_it_is_now(tmp_path, package):
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: rows.*}]\n---"
    )

    def written(folder, *texts):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        (folder / "rows.jsonl").write_bytes(json_lines(*({"text": text} for text in texts)))
        return f"hf:{folder}"

    assert chats(written(tmp_path / "here" / "out", "a")) == [[user("a")]]
    assert chats(written(tmp_path / "here" / "out", "b", "c")) == [[user("b")], [user("c")]]
    assert chats(written(tmp_path / "there" / "out", "d")) == [[user("d")]]


@pytest.mark.parametrize("reason", [FileNotFoundError("not here"), ConnectionError("offline")])
def test_a_hub_out_of_reach_is_told_at_once_or_its_copy_is_read(monkeypatch, package, reason):
    monkeypatch.setattr("fac.datasets.formats.hf._is_away", lambda: True)
    offline = []

    def load(*_, **__):
        offline.append(package.config.HF_HUB_OFFLINE)
        if len(offline) > 1:
            raise reason
        return package.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(package, "load_dataset", load)
    assert chats("hf:x/y:train") == [[user("a")]]
    with pytest.raises(ServiceError, match="cannot be reached and 'x/y' was not fetched before"):
        read_samples("hf:x/y:train")
    assert offline == [True, True] and not package.config.HF_HUB_OFFLINE


# --- rows that the hub shows -------------------------------------------------------------------

SPLITS = {
    "splits": [{"dataset": "x/y", "config": "default", "split": s} for s in ("test", "train")]
}
SHOWN = {
    "features": [
        {"name": "messages", "type": [{"role": {"_type": "Value"}, "content": {"_type": "Value"}}]},
        {"name": "label", "type": {"_type": "ClassLabel", "names": ["good", "bad"]}},
        {"name": "photo", "type": {"_type": "Image"}},
        {"name": "id", "type": {"dtype": "int64", "_type": "Value"}},
    ],
    "rows": [
        {"row_idx": i, "row": {"messages": said, "label": 1, "photo": {"src": "a"}, "id": i}}
        | {"truncated_cells": ["messages"] if isinstance(said, str) else []}
        for i, said in enumerate(([user("a")], '[{"role": "us', [user("c")], []))
    ],
    "num_rows_total": 400,
}


@pytest.fixture
def viewer(monkeypatch):
    """The hub's viewer of datasets on this machine: what it answers, by path, and what it heard."""
    answers: dict[str, tuple[int, bytes]] = {}
    heard: list[str] = []

    class Viewer(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            status, body = answers[self.path.split("?")[0].strip("/")]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Viewer) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield answers, heard
        server.shutdown()


def test_the_first_rows_of_a_hub_dataset_are_seen_before_it_is_fetched(viewer):
    answers, heard = viewer
    answers |= {"splits": (200, json.dumps(SPLITS).encode())}
    answers["rows"] = (200, json.dumps(SHOWN).encode())
    seen = preview("hf:x/y", {})
    assert [row.messages for row in seen.rows[:2]] == [[user("a")], [user("c")]]
    assert seen.rows[0].label == "bad" and seen.beside == ["id"]
    assert [row.line for row in seen.bad] == [4]
    assert "dataset=x%2Fy" in heard[1] and "split=train" in heard[1] and "length=100" in heard[1]
    # Of 400 rows four are shown, of which one is cut off within its messages.
    assert (seen.share, seen.n_rows) == (3 / 400, 400)
    preview("hf:x/y:test", {"label_field": "id"})
    assert "split=test" in heard[3]


@pytest.mark.parametrize(
    ("source", "what", "status", "body", "kind", "why"),
    [
        (
            "hf:x/y",
            "splits",
            404,
            b'{"error": "It does not exist.\\nmore"}',
            InputError,
            "not exist",
        ),
        ("hf:x/y", "splits", 401, b"<html>", InputError, "shows no rows of 'x/y': 401"),
        ("hf:x/y", "rows", 500, b'{"error": "No viewer."}', InputError, "'x/y': No viewer"),
        ("hf:x/y", "rows", 200, b"<html>", ServiceError, "cannot be read"),
        ("hf:x/y", "rows", 200, b"{}", ServiceError, "no form that is known"),
        ("hf:x/y", "splits", 200, b"[]", ServiceError, "no form that is known"),
        ("hf:x/y:odd", "", 0, b"", InputError, "has 'default:test', 'default:train': name one"),
        ("hf:x/y:fine:test", "", 0, b"", InputError, "name one of them"),
        ("hf:x/y@main", "", 0, b"", InputError, "no rows of a revision"),
        ("hf:x/y:train[:9]", "", 0, b"", InputError, "no rows of a part of a split"),
        (
            "hf:x/y",
            "splits",
            200,
            json.dumps({"splits": [{"config": c, "split": "train"} for c in "ab"]}).encode(),
            InputError,
            "has the configs 'a', 'b': name one, as in hf:x/y:a:train",
        ),
    ],
)
def test_what_the_hub_does_not_show_is_told_in_a_sentence(
    viewer, source, what, status, body, kind, why
):
    answers, _ = viewer
    answers |= {"splits": (200, json.dumps(SPLITS).encode())}
    answers["rows"] = (200, json.dumps(SHOWN).encode())
    answers |= {what: (status, body)} if what else {}
    with pytest.raises(kind, match=why) as refused:
        preview(source, {})
    assert type(refused.value) is kind and "\n" not in str(refused.value)


@pytest.mark.parametrize("offline", ["1", ""])
def test_rows_of_a_hub_out_of_reach_are_seen_later(monkeypatch, offline):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(ServiceError, match="cannot be reached, so its rows are seen once they are"):
        preview("hf:x/y", {})


def test_a_folder_in_the_hubs_layout_is_looked_at_as_it_is_read(tmp_path, package):
    (tmp_path / "train.jsonl").write_bytes(json_lines({"text": "a"}, {"text": "b"}))
    seen = preview(f"hf:{tmp_path}", {})
    assert [row.messages for row in seen.rows] == [[user("a")], [user("b")]] and seen.n_rows == 2


# --- a look at the beginning -------------------------------------------------------------------


def test_a_look_says_what_the_first_rows_become(write):
    rows = [{**ALPACA, "output": f"{i}", "label": "x", "id": i} for i in range(7)]
    rows[2]["output"] = None
    for row in rows:
        del row["prompt"]
    seen = preview(write("rows.jsonl", json_lines(*rows)), {})
    assert seen.layout.layout.title == "Alpaca" and seen.problem == ""
    assert [*seen.columns] == ["instruction", "input", "output", "label", "id"]
    assert seen.beside == ["id"]
    assert len(seen.rows) == 5 and seen.rows[1].messages[-1] == assistant("1")
    assert seen.bad == [seen.rows[2]] and isinstance(seen.rows[2], BadRow)
    assert seen.lengths == [len("Add.\n\n1 2") + 1] * 6
    assert (seen.share, seen.n_rows) == (1.0, 7)


def test_a_look_at_columns_that_say_too_little_names_them(write):
    path = write("rows.jsonl", json_lines({"body": "a", "id": 1}))
    seen = preview(path, {})
    assert (seen.layout, seen.problem, [*seen.columns]) == (None, "fit no layout", ["body", "id"])
    seen = preview(path, {"text_field": "body"})
    assert [row.messages for row in seen.rows] == [[user("a")]]
    with pytest.raises(InputError, match="no column 'text' for --text-field"):
        preview(path, {"text_field": "text"})


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_a_look_reads_a_part_and_says_about_how_much_there_is(write, kind):
    # Hashes, which gzip cannot make much smaller than they are.
    rows = [{"text": hashlib.sha256(b"%d" % i).hexdigest() * 3} for i in range(20_000)]
    content = as_parquet(rows) if kind == "parquet" else json_lines(*rows)
    path = write(f"rows.{kind}", gzip.compress(content) if kind.endswith("gz") else content)
    seen = preview(path, {})
    assert 500 <= len(seen.lengths) < 8000 and {*seen.lengths} == {192}
    assert seen.n_rows == pytest.approx(20_000, rel=0.0 if kind == "parquet" else 0.2)


# --- added and measured ------------------------------------------------------------------------


def test_a_dataset_is_measured_as_soon_as_it_is_read(tmp_path, write):
    place = Workspace(tmp_path / "place")
    queue, measure = Queue(place.queue), {"model": "toy", "layer": 1, "sae": "toy", "despite": ""}
    path = write("rows.jsonl", json_lines({"text": "a"}))
    spec = IngestSpec(name="mine", source=str(path), measure=measure)
    assert read_spec("dataset", json.loads(json.dumps(spec.as_json()))) == spec
    refused = IngestSpec(name="bad", source=str(tmp_path / "none"), measure=measure)
    first, second = queue.enqueue(spec), queue.enqueue(refused)

    class Reader:
        """Steps of which only reading is carried out."""

        def perform(self, spec, progress):
            if isinstance(spec, MeasureSpec):
                raise InputError(f"asked to measure {spec.dataset}")
            return Steps(place).perform(spec, progress)

    Worker(place, say=lambda _: None, steps=Reader()).run(until_idle=True)
    jobs = {job.id: job for job in queue.jobs()}
    assert (jobs[first].status, jobs[second].status) == ("done", "failed")
    (last,) = (job for job in jobs.values() if job.step == "measure")
    assert last.error == f"asked to measure {jobs[first].run_id}"
    assert read_spec("measure", last.spec) == MeasureSpec(
        dataset=jobs[first].run_id, model="toy", layer=1, sae="toy"
    )
    with pytest.raises(InputError, match="does not fit this version"):
        following(IngestSpec(name="mine", source="x", measure={"modle": "toy"}), "dataset-1")
