"""datasets: text in, samples out; what is not a sample has a line and a reason."""

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fac import datasets
from fac import ingest as ingesting
from fac.config import IngestSpec, Workspace
from fac.datasets import MAX_CHARACTERS, Sample, read_samples, sample_id
from fac.errors import BadRow, Cancelled, InputError, ServiceError
from fac.ingest import MAX_LABELS, OTHER_LABELS, SeenIds, ingest
from fac.schema import REJECTED, SAMPLES
from fac.store.runs import Runs

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
BOM = b"\xef\xbb\xbf"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def runs(tmp_path):
    return Runs(Workspace(tmp_path / "workspace"))


@pytest.fixture
def write(tmp_path):
    """Writes bytes under a file name and returns the path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def chats(source, **options):
    """The messages of every row; a bad row fails the test."""
    rows = list(read_samples(source, **options))
    assert [row for row in rows if isinstance(row, BadRow)] == []
    return [row.messages for row in rows]


def reasons(source, **options):
    return [
        (row.line, row.reason) for row in read_samples(source, **options) if isinstance(row, BadRow)
    ]


def stored(runs, source, **options):
    run = ingest(IngestSpec(name="mine", source=str(source), **options), runs=runs)
    return runs.manifest(run)["facts"], runs.table(run, "samples").to_pylist()


def refusal(runs, source, **options):
    """The sentence a source is refused with; the workspace must stay as it was."""
    before = everything_in(runs.root)
    with pytest.raises(InputError) as refused:
        ingest(IngestSpec(name="mine", source=str(source), **options), runs=runs)
    assert everything_in(runs.root) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def everything_in(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- layouts ---------------------------------------------------------------------------------


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]

LAYOUTS = [
    ("text", {"text": "Hi"}, [user("Hi")]),
    ("prompt", {"prompt": "Hi", "id": 3}, [user("Hi")]),
    ("instruction", {"instruction": "Hi"}, [user("Hi")]),
    ("question", {"question": "Hi", "answer_key": 2}, [user("Hi")]),
    ("content", {"content": "Hi"}, [user("Hi")]),
    ("messages", {"messages": TURNS}, TURNS),
    ("messages", {"messages": TURNS, "prompt": "Hi", "text": "<user> Hi"}, TURNS),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        [user("Hi")],
    ),
    (
        "conversations",
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
            ]
        },
        [system("Be kind."), user("Hi"), assistant("Hello.")],
    ),
    (
        "conversations",
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}]},
        [system("Be kind."), user("Hi")],
    ),
    (
        "instruction/input/output",
        {"instruction": "Add.", "input": "1 2", "output": "3", "text": "### Add."},
        [user("Add.\n\n1 2"), assistant("3")],
    ),
    (
        "instruction/input/output",
        {"instruction": "Greet.", "input": "", "output": "Hello."},
        [user("Greet."), assistant("Hello.")],
    ),
    (
        "instruction/output",
        {"instruction": "Greet.", "output": "Hello."},
        [user("Greet."), assistant("Hello.")],
    ),
    ("prompt/completion", {"prompt": "Hi", "completion": "Hello."}, TURNS),
    ("prompt/completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, TURNS),
    ("prompt/response", {"Prompt": "Hi", "Response": "Hello."}, TURNS),
    (
        "question/response",
        {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello."},
        [system("Be kind."), *TURNS],
    ),
    (
        "chosen/rejected",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No.",
        },
        TURNS,
    ),
    ("chosen/rejected", {"chosen": TURNS, "rejected": [user("Hi"), assistant("No.")]}, TURNS),
    ("chosen/rejected", {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}, TURNS),
    ("chosen/rejected", {"prompt": "Hi", "chosen": TURNS, "rejected": TURNS}, TURNS),
    ("chosen/rejected", {"prompt": "Hi", "chosen": TURNS[1:], "rejected": []}, TURNS),
    (
        "chosen/rejected",
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello.", "rejected": "No."},
        TURNS,
    ),
]


@pytest.mark.parametrize(("layout", "row", "chat"), LAYOUTS)
def test_the_columns_say_which_layout_it_is(write, layout, row, chat):
    reading = read_samples(write("rows.jsonl", json_lines(row)))
    assert [sample.messages for sample in reading] == [chat]
    assert reading.layout.name == layout


def test_every_name_of_a_role_becomes_one_of_three(write):
    names = ["developer", "Human", "GPT", "user", "assistant", " System "]
    row = {"messages": [{"role": name, "content": "x"} for name in names]}
    [chat] = chats(write("rows.jsonl", json_lines(row)))
    assert [m["role"] for m in chat] == [
        "system", "user", "assistant", "user", "assistant", "system",
    ]  # fmt: skip


def test_a_transcript_keeps_blank_lines_and_empty_turns(write):
    text = "\n\nHuman: one\n\ntwo\n\nAssistant:\n\nHuman: three"
    row = {"chosen": text, "rejected": text}
    assert chats(write("rows.jsonl", json_lines(row))) == [
        [user("one\n\ntwo"), assistant(""), user("three")]
    ]


def test_the_rejected_side_and_other_columns_are_kept_beside_the_sample(write, runs):
    row = {"chosen": "yes", "rejected": "no", "prompt": "Well?", "score": 0.5, "label": 1}
    facts, [sample] = stored(runs, write("rows.jsonl", json_lines(row)))
    assert json.loads(sample["meta"]) == {"line": 1, "columns": {"score": 0.5}, "rejected": "no"}
    assert sample["label"] == "1"
    assert "'rejected' is kept in meta" in facts["note"]


def test_a_layout_may_show_only_in_a_later_row(write):
    content = json_lines({"id": 1}, {"id": 2, "text": "a"})
    path = write("rows.jsonl", content)
    assert reasons(path) == [(1, "there is no 'text'; the row has 'id'")]


def test_a_label_may_come_late(write):
    rows = [{"text": str(i)} for i in range(2 * datasets.PEEK_ROWS)]
    rows.append({"text": "last", "label": "x"})
    *_, last = read_samples(write("rows.jsonl", json_lines(*rows)))
    assert last.label == "x"


def test_options_overrule_the_columns(write):
    row = {"text": "a", "messages": TURNS, "chat": [user("c")], "kind": "k", "label": "l"}
    path = write("rows.jsonl", json_lines(row))
    assert chats(path) == [TURNS]
    assert chats(path, text_field="text") == [[user("a")]]
    assert chats(path, messages_field="chat") == [[user("c")]]
    assert [s.label for s in read_samples(path)] == ["l"]
    assert [s.label for s in read_samples(path, label_field="kind")] == ["k"]


@pytest.mark.parametrize(
    ("given", "label"),
    [("a", "a"), (1, "1"), (True, "true"), (0.5, "0.5"), (None, None), ("", None), ([1], "[1]")],
)
def test_labels_become_text_and_nothing_stays_nothing(write, given, label):
    path = write("rows.jsonl", json_lines({"text": "a", "label": given}))
    assert [sample.label for sample in read_samples(path)] == [label]


@pytest.mark.parametrize(
    ("row", "options", "told"),
    [
        ({"body": "a", "id": 1}, {}, "fit no layout: 'body', 'id'; say which one"),
        ({"text": "a", "content": "b"}, {}, "fit more than one layout: 'text', 'content'"),
        ({"messages": TURNS, "conversations": TURNS}, {}, "fit more than one layout"),
        ({"prompt": "a", "completion": "b", "response": "c"}, {}, "fit more than one layout"),
        ({"text": "a"}, {"text_field": "body"}, "no column 'body' for --text-field; its columns"),
        ({"text": "a"}, {"label_field": "kind"}, "no column 'kind' for --label-field"),
        ({"text": "a"}, {"text_field": "text", "messages_field": "text"}, "exclude each other"),
    ],
)
def test_columns_that_say_too_little_or_too_much(write, runs, row, options, told):
    assert told in refusal(runs, write("rows.jsonl", json_lines(row)), **options)


def test_the_sentence_about_columns_names_the_options(write, runs):
    told = refusal(runs, write("rows.jsonl", json_lines({"body": "a"})))
    assert "--text-field COLUMN" in told
    assert "--messages-field COLUMN" in told


# --- kinds of file ---------------------------------------------------------------------------


ROWS = [{"text": "first\nline"}, {"text": 'a "quoted", word'}, {"text": "ünïcödé 🦉"}]
TEXTS = [[user(row["text"])] for row in ROWS]


def as_csv(rows, delimiter=",", end="\n"):
    lines = [delimiter.join(rows[0])]
    for row in rows:
        cells = [str(cell).replace('"', '""') for cell in row.values()]
        lines.append(delimiter.join(f'"{cell}"' for cell in cells))
    return "".join(line + end for line in lines).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FILES = {
    "rows.jsonl": json_lines(*ROWS),
    "rows.ndjson": json_lines(*ROWS),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "lines.json": json_lines(*ROWS),
    "no_suffix": json_lines(*ROWS),
    "rows.csv": as_csv(ROWS),
    "semicolons.csv": as_csv([{**row, "n": 1} for row in ROWS], ";"),
    "rows.tsv": as_csv([{**row, "n": 1} for row in ROWS], "\t"),
    "rows.parquet": as_parquet(ROWS),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_samples_also_gzipped(write, name):
    assert chats(write(name, FILES[name])) == TEXTS
    assert chats(write(f"{name}.gz", gzip.compress(FILES[name]))) == TEXTS


@pytest.mark.parametrize("name", [name for name in FILES if "parquet" not in name])
def test_a_byte_order_mark_changes_nothing(write, name):
    assert chats(write(name, BOM + FILES[name])) == TEXTS


def test_windows_line_ends_are_no_part_of_the_text(write):
    assert chats(write("rows.jsonl", FILES["rows.jsonl"].replace(b"\n", b"\r\n"))) == TEXTS
    assert chats(write("rows.csv", as_csv(ROWS, end="\r\n"))) == TEXTS
    assert chats(write("rows.json", FILES["pretty.json"].replace(b"\n", b"\r\n"))) == TEXTS


def test_messages_may_stand_in_csv_as_json_text(write):
    content = as_csv([{"messages": json.dumps(TURNS), "label": "x"}])
    assert chats(write("rows.csv", content)) == [TURNS]


def test_lines_are_those_of_the_file(write):
    content = b'text,label\n"two\nlines",a\n\nlast,b\n'
    assert [s.line for s in read_samples(write("rows.csv", content))] == [2, 5]
    content = b'\n{"text": "a"}\n\n{"text": "b"}\n'
    assert [s.line for s in read_samples(write("rows.jsonl", content))] == [2, 4]
    content = b'[\n {"text":\n  "a"},\n\n {"text": "b"}]\n'
    assert [s.line for s in read_samples(write("rows.json", content))] == [2, 5]
    assert [s.line for s in read_samples(write("rows.parquet", FILES["rows.parquet"]))] == [1, 2, 3]


def test_parquet_keeps_dates_and_numbers_in_meta_and_leaves_bytes_out(write):
    table = pa.table(
        {
            "text": ["a"],
            "day": pa.array([0], pa.date32()),
            "ratio": [float("nan")],
            "image": pa.array([{"bytes": b"\x00", "path": None}]),
        }
    )
    path = write("rows.parquet", b"")
    pq.write_table(table, path)
    [sample] = read_samples(path)
    assert json.loads(sample.meta)["columns"] == {"day": "1970-01-01", "ratio": "nan"}


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(i) for i in range(32)])
    | st.sampled_from("\t\n\r\",;'\\"),
    max_size=20,
).map(lambda text: text.replace("\x7f", ""))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}
)
CHAT = st.lists(MESSAGE, min_size=1, max_size=4).filter(
    lambda chat: any(message["content"].strip() for message in chat)
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(given=st.lists(CHAT, min_size=1, max_size=5), escaped=st.booleans(), end=st.booleans())
def test_chats_come_back_as_they_were_written(write, given, escaped, end):
    rows = [{"messages": chat} for chat in given]
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    content = ("\r\n" if end else "\n").join(lines).encode()
    assert chats(write("rows.jsonl", content)) == given
    array = json.dumps(rows, ensure_ascii=escaped, indent=1 if end else None).encode()
    assert chats(write("rows.json", gzip.compress(array))) == given


@QUICK
@given(texts=st.lists(TEXT.filter(str.strip), min_size=1, max_size=5), tabs=st.booleans())
def test_texts_come_back_from_csv_whatever_needs_quoting(tmp_path, texts, tabs):
    path = tmp_path / ("rows.tsv" if tabs else "rows.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([["text", "n"], *([text, i] for i, text in enumerate(texts))])
    assert chats(path) == [[user(text)] for text in texts]


@pytest.mark.parametrize("name", ["array.json", "pretty.json"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_json_array_may_be_cut_anywhere_by_the_buffer(write, monkeypatch, name, size):
    """Elements are found in a window that grows; here it grows by a few characters at a time."""
    real = io.TextIOWrapper

    class Drip(real):
        def read(self, n=-1):
            return super().read(size)

    monkeypatch.setattr(io, "TextIOWrapper", Drip)
    assert chats(write(name, FILES[name])) == TEXTS


# --- ids, duplicates, runs -------------------------------------------------------------------


def test_a_sample_is_named_by_the_hash_of_its_messages():
    canonical = '[{"content":"é","role":"user"}]'
    assert sample_id([user("é")]) == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert sample_id([{"content": "é", "role": "user", "name": "ana"}]) == sample_id([user("é")])
    assert sample_id([user("é")]) != sample_id([assistant("é")])


def test_the_first_of_equal_samples_is_kept_and_the_rest_counted(write, runs, monkeypatch):
    monkeypatch.setattr(ingesting, "PART_ROWS", 3)  # equal samples fall into different parts
    texts = ["a", "b", "a", "c", "b", "a", "d"]
    content = json_lines(*({"text": t, "label": str(i)} for i, t in enumerate(texts)))
    facts, samples = stored(runs, write("rows.jsonl", content))
    assert [(s["messages"][0]["content"], s["label"]) for s in samples] == [
        ("a", "0"), ("b", "1"), ("c", "3"), ("d", "6"),
    ]  # fmt: skip
    assert (facts["n_samples"], facts["duplicates"], facts["n_rejected"]) == (4, 3, 0)


@QUICK
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=12))
def test_what_was_seen_is_known_whatever_the_parts(parts):
    seen, expected = SeenIds(), set()
    for part in parts:
        new = seen.add(np.array(part, "uint64"))
        for value, is_new in zip(part, new, strict=True):
            assert is_new == (value not in expected)
            expected.add(value)


def test_the_facts_say_what_came_in(write, runs):
    rows = [
        {"messages": [system("s"), user("a"), assistant("b")], "label": "x"},
        {"messages": [user("c")], "label": "y"},
        {"messages": [user("d")], "label": "x"},
        {"messages": [user("e")], "label": None},
        {"messages": []},
    ]
    facts, _ = stored(runs, write("rows.jsonl", json_lines(*rows)), on_bad="skip")
    assert facts == {
        "name": "mine",
        "source": "rows.jsonl",
        "kind": "json",
        "layout": "messages",
        "columns": ["messages"],
        "n_samples": 4,
        "duplicates": 0,
        "n_rejected": 1,
        "roles": {"system": 1, "user": 4, "assistant": 1},
        "labels": {"x": 2, "y": 1},
    }


def test_a_label_column_of_free_text_does_not_fill_the_manifest(write, runs):
    n = MAX_LABELS + 5
    content = json_lines(*({"text": str(i), "label": f"label {i}"} for i in range(n)))
    facts, _ = stored(runs, write("rows.jsonl", content))
    assert facts["labels"].pop(OTHER_LABELS) == 5
    assert len(facts["labels"]) == MAX_LABELS


def test_the_same_content_is_the_same_run_wherever_it_lies(write, runs, tmp_path):
    path = write("rows.jsonl", FILES["rows.jsonl"])
    first = ingest(IngestSpec(name="mine", source=str(path)), runs=runs)
    before = everything_in(runs.root)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "renamed.jsonl")
    assert ingest(IngestSpec(name="mine", source=str(moved)), runs=runs) == first
    assert everything_in(runs.root) == before
    assert str(tmp_path).encode() not in (runs.path(first) / "manifest.json").read_bytes()

    other = [
        ingest(IngestSpec(name="other", source=str(moved)), runs=runs),
        ingest(IngestSpec(name="mine", source=str(moved), on_bad="skip"), runs=runs),
        ingest(IngestSpec(name="mine", source=str(moved), text_field="text"), runs=runs),
    ]
    moved.write_bytes(moved.read_bytes() + b'{"text": "more"}\n')
    other.append(ingest(IngestSpec(name="mine", source=str(moved)), runs=runs))
    assert len({first, *other}) == 5


def test_the_tables_of_a_run_have_their_schemas_even_when_nothing_was_rejected(write, runs):
    path = write("rows.jsonl", FILES["rows.jsonl"])
    run = ingest(IngestSpec(name="mine", source=str(path)), runs=runs)
    assert runs.table(run, "samples").schema.equals(SAMPLES)
    assert runs.table(run, "rejected").schema.equals(REJECTED)
    assert runs.verify(run) == []


def test_progress_grows_up_to_the_size_of_the_file(write, runs, monkeypatch):
    monkeypatch.setattr(ingesting, "PART_ROWS", 10)
    path = write("rows.jsonl", json_lines(*({"text": str(i)} for i in range(95))))
    told = []
    ingest(
        IngestSpec(name="mine", source=str(path)),
        runs=runs,
        progress=lambda done, total, note="": told.append((done, total, note)),
    )
    done = [d for d, _, _ in told]
    assert done == sorted(done)
    assert told[-1] == (path.stat().st_size, path.stat().st_size, "95 samples")


def test_a_cancelled_ingest_stores_nothing(write, runs):
    def stop(done, total, note=""):
        if done:
            raise Cancelled("asked to stop")

    spec = IngestSpec(name="mine", source=str(write("rows.jsonl", FILES["rows.jsonl"])))
    with pytest.raises(Cancelled):
        ingest(spec, runs=runs, progress=stop)
    assert everything_in(runs.root) == {}
    ingest(spec, runs=runs)
    assert len(runs.list("dataset")) == 1


# --- bad rows --------------------------------------------------------------------------------


BAD_ROWS = [
    (b'{"text": "a"', "it is not JSON (Expecting ',' delimiter at column 13)"),
    (b'["a"]', "it is a list, not an object with named fields"),
    (b"3", "it is a number (3), not an object with named fields"),
    (b'{"text": "caf\xe9"}', "byte 14 (0xe9) is not UTF-8"),
    (b'{"text": null}', "the column 'text' is null"),
    (b'{"other": 1}', "there is no 'text'; the row has 'other'"),
    (b'{"text": 5}', "the column 'text' holds a number (5), not text"),
    (b'{"text": true}', "the column 'text' holds true, not text"),
    (b'{"text": {"a": 1}}', "the column 'text' holds an object, not text"),
    (b'{"text": ""}', "the column 'text' is empty"),
    (b'{"text": " \\n\\t"}', "the column 'text' is empty"),
    (b'{"text": "a\\u0000b"}', "the control character U+0000 stands at character 2 of the text"),
    (b'{"text": "a\x1b[31m"}', "the control character U+001B stands at character 2 of the text"),
    (b'{"text": "a\\u007f"}', "the control character U+007F stands at character 2 of the text"),
    (
        b'{"text": "a\\ud83e"}',
        "U+D83E at character 2 of the text is no character: half a surrogate pair, or a byte that "
        "is not UTF-8",
    ),
    (
        b'{"text": "a", "label": "\\udc80"}',
        "U+DC80 at character 1 of the label in 'label' is no character: half a surrogate pair, or "
        "a byte that is not UTF-8",
    ),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "it holds a number of too many digits"),
    (b'{"text": "a", "n": ' + b"[" * 200_000, "its JSON is nested too deeply"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_has_its_line_and_a_reason(write, runs, row, reason):
    path = write("rows.jsonl", b'{"text": "fine"}\n\n' + row + b'\n{"text": "also fine"}\n')
    facts, samples = stored(runs, path, on_bad="skip")
    assert reasons(path) == [(3, reason)]
    assert [s["messages"] for s in samples] == [[user("fine")], [user("also fine")]]
    assert facts["n_rejected"] == 1

    with pytest.raises(BadRow) as refused:
        ingest(IngestSpec(name="mine", source=str(path)), runs=runs)
    assert refused.value.line == 3
    assert str(refused.value).startswith(f"line 3: {reason} (in rows.jsonl)")
    assert "--on-bad skip" in str(refused.value)
    assert len(runs.list("dataset")) == 1


BAD_MESSAGES = [
    ([], "the column 'messages' is an empty list"),
    ("Hi there", "holds text that is no JSON list of messages"),
    ({"role": "user"}, "holds an object, not a list of messages"),
    (["Hi"], "message 1 of 'messages' is a text, not an object with role and content"),
    ([{"content": "Hi"}], "message 1 of 'messages' has no role; its keys are 'content'"),
    ([{"role": 1, "content": "Hi"}], "message 1 of 'messages' has no role"),
    ([user("Hi"), {"role": "tool", "content": "4"}], "message 2 of 'messages' comes from a tool"),
    ([{"from": "function_call", "value": "x"}], "comes from a tool (role 'function_call')"),
    ([{"role": "narrator", "content": "x"}], "the role 'narrator'; known are system, user, assist"),
    ([user("Hi"), {"role": "assistant"}], "message 2 of 'messages' has no content"),
    (
        [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}],
        "message 1 of 'messages' has no content but a tool call",
    ),
    ([{"role": "user", "content": 4}], "has a number (4) as its content, not text"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        "message 1 of 'messages' holds more than text",
    ),
    ([user(" "), assistant("")], "the text is empty"),
    ([user("Hi"), assistant("\x00")], "U+0000 stands at character 1 of message 2"),
]


@pytest.mark.parametrize(("messages", "reason"), BAD_MESSAGES)
def test_a_bad_message_is_named(write, messages, reason):
    content = json_lines({"messages": TURNS}, {"messages": messages})
    [(line, told)] = reasons(write("rows.jsonl", content))
    assert line == 2
    assert reason in told


def test_rejected_rows_are_listed_with_the_run(write, runs):
    content = b'{"text": "a"}\n{"text": ""}\n{"text": "b"}\nnonsense\n'
    path = write("rows.jsonl", content)
    run = ingest(IngestSpec(name="mine", source=str(path), on_bad="skip"), runs=runs)
    assert runs.table(run, "rejected").to_pylist() == [
        {"line": 2, "reason": "the column 'text' is empty"},
        {"line": 4, "reason": "it is not JSON (Expecting value at column 1)"},
    ]


def test_bad_rows_of_csv(write):
    content = b'text,n\na,1\nb\nc,3,4\n"d"x,5\ncaf\xe9,6\n,7\ne,8\n'
    path = write("rows.csv", content)
    assert reasons(path) == [
        (3, "it has 1 fields, the header has 2"),
        (4, "it has 3 fields, the header has 2"),
        (5, "it is not proper CSV (',' expected after '\"')"),
        (
            6,
            "U+DCE9 at character 4 of the text is no character: half a surrogate pair, or a byte "
            "that is not UTF-8",
        ),
        (7, "the column 'text' is empty"),
    ]
    good = [row.messages for row in read_samples(path) if isinstance(row, Sample)]
    assert good == [[user("a")], [user("e")]]


def test_bad_rows_of_parquet_have_their_row(write):
    path = write("rows.parquet", b"")
    broken = pa.array([b"fine", b"caf\xe9", b"", None], pa.binary())
    text = pa.StringArray.from_buffers(4, *broken.buffers()[1:], broken.buffers()[0])
    pq.write_table(pa.table({"text": text}), path)
    told = reasons(path)
    assert [line for line, _ in told] == [2, 3, 4]
    assert "can't decode byte 0xe9" in told[0][1]
    assert [reason for _, reason in told[1:]] == [
        "the column 'text' is empty",
        "the column 'text' is null",
    ]


def test_a_sample_may_have_a_million_characters_and_no_more(write):
    most = "a" * MAX_CHARACTERS
    content = json_lines({"text": most}, {"text": most + "a"}, {"text": "b"})
    assert reasons(write("rows.jsonl", content)) == [
        (2, "the sample has 1,000,001 characters, the limit is 1,000,000; split it")
    ]
    escaped = json_lines({"text": "é" * MAX_CHARACTERS})  # six bytes each in the file
    assert len(chats(write("rows.jsonl", escaped))) == 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.json"])
def test_a_line_of_five_megabytes_is_a_bad_row(write, runs, name):
    text = "a" * 5_000_000
    path = write(name, {
        "rows.jsonl": json_lines({"text": text}),
        "rows.json": json.dumps([{"text": text}]).encode(),
    }.get(name, f"text\n{text}\n".encode()))  # fmt: skip
    told = refusal(runs, path)
    assert "5,000,000 characters, the limit is 1,000,000" in told


def test_a_line_is_never_held_whole_when_it_is_beyond_every_limit(write):
    long = b"a" * (datasets.MAX_ROW_BYTES + 10)
    told = "the row is longer than 8,000,000 bytes; a sample has at most 1,000,000 characters"
    path = write("rows.jsonl", b'{"text": "a"}\n{"text": "' + long + b'"}\n{"text": "b"}\n')
    assert reasons(path) == [(2, told)]
    path = write("rows.csv", b"text,n\na,1\n" + long + b",2\nb,3\n")
    assert reasons(path) == [(3, told)]
    assert [r.messages for r in read_samples(path) if isinstance(r, Sample)] == [
        [user("a")], [user("b")],
    ]  # fmt: skip


# --- bad files -------------------------------------------------------------------------------


JUNK = bytes(range(256)) * 40

BAD_FILES = [
    ("rows.jsonl", b"", "rows.jsonl is empty"),
    ("rows.jsonl.gz", gzip.compress(b""), "rows.jsonl.gz is empty"),
    ("rows.jsonl", BOM + b"\n \n", "rows.jsonl has no rows"),
    ("rows.json", b" [ ] ", "rows.json has no rows"),
    ("rows.csv", b"text,label\n", "rows.csv has no rows"),
    ("rows.jsonl", JUNK, "rows.jsonl holds binary data, not text"),
    ("rows.csv", JUNK, "rows.csv holds binary data, not text"),
    ("rows.jsonl.gz", gzip.compress(JUNK), "rows.jsonl.gz holds binary data, not text"),
    ("rows.parquet", JUNK, "rows.parquet is not a whole Parquet file"),
    ("rows.parquet", FILES["rows.parquet"][:-20], "rows.parquet is not a whole Parquet file"),
    ("rows.jsonl.gz", gzip.compress(FILES["rows.jsonl"])[:-9], "damaged or truncated gzip file"),
    ("rows.jsonl.gz", b"\x1f\x8b" + JUNK, "damaged or truncated gzip file"),
    ("rows.parquet.gz", gzip.compress(FILES["rows.parquet"])[:-9], "damaged or truncated gzip"),
    ("rows.txt", b"some words", "rows.txt is of no known kind"),
    ("rows.jsonl", "text".encode("utf-16"), "rows.jsonl is UTF-16 text: save it as UTF-8"),
    ("rows.json", b'{"data": [{"text": "a"}]}', "fit no layout: 'data'"),
    ("rows.json", b'[{"text": "a"},\n {"text": "b",}]', "breaks off at line 2: not JSON"),
    ("rows.json", b'[{"text": "a"},\n {"text": "b"', "breaks off at line 2: not JSON"),
    ("rows.json", b'[{"text": "a"}\n {"text": "b"}]', "line 2: a comma or the closing bracket is"),
    ("rows.json", b'[{"text": "a"},\n]', "line 2: a comma before the closing bracket"),
    ("rows.json", b'[{"text": "a"}]\n[]', "line 2: something follows the closing bracket"),
    ("rows.json", b'[{"text": "a"}', "a comma or the closing bracket is missing"),
    ("rows.json", b"[" * 200_000, "breaks off at line 1: nested too deeply"),
    ("rows.json", b'[{"n": ' + b"9" * 5000 + b"}]", "line 1: a number of too many digits"),
    ("rows.csv", b"text,text\na,b\n", "rows.csv has several columns called 'text'"),
    ("rows.csv", b'text,n\na,1\n"b,2\nc,3\n', "row that begins on line 3 has a quote that does no"),
    ("rows.csv", b'"te"xt,n\na,1\n', "rows.csv has no readable header on line 1"),
]


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize(("name", "content", "told"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_refused_in_one_sentence(write, runs, name, content, told, on_bad):
    ingest(IngestSpec(name="other", source=str(write("o.jsonl", FILES["rows.jsonl"]))), runs=runs)
    assert told in refusal(runs, write(name, content), on_bad=on_bad)


def test_a_long_file_cut_short_is_refused_wherever_it_was_cut(write, runs):
    numbers = json_lines(*({"text": hashlib.sha256(b"%d" % i).hexdigest()} for i in range(5000)))
    whole = gzip.compress(numbers)
    for part in (0.5, 0.9):
        told = refusal(runs, write("rows.jsonl.gz", whole[: int(len(whole) * part)]), on_bad="skip")
        assert "truncated gzip" in told
    damaged = bytearray(as_parquet([{"text": "words " * 50 + str(i)} for i in range(5000)]))
    damaged[200:2000] = b"\xff" * 1800
    told = refusal(runs, write("rows.parquet", bytes(damaged)), on_bad="skip")
    assert "not a whole Parquet file" in told


def test_what_is_no_file_is_refused(runs, tmp_path):
    assert "is a directory" in refusal(runs, tmp_path)
    missing = refusal(runs, tmp_path / "none.jsonl")
    assert "There is no file" in missing
    assert "none.jsonl" in missing
    assert "hf:someone/some-data" in refusal(runs, "someone/some-data")
    assert "There is no file" in refusal(runs, "a\0b")
    assert "cannot be read" in refusal(runs, "a" * 300)
    os.mkfifo(tmp_path / "pipe")
    assert "There is no file" in refusal(runs, tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_of_nulls_is_refused(write, runs, kind):
    rows = [{"text": None, "id": i} for i in range(20)]
    content = {
        "jsonl": lambda: json_lines(*rows),
        "csv": lambda: b"text,id\n" + b"".join(b",%d\n" % i for i in range(20)),
        "parquet": lambda: as_parquet(rows),
    }[kind]()
    path = write(f"rows.{kind}", content)
    assert "the column 'text' is" in refusal(runs, path)
    told = refusal(runs, path, on_bad="skip")
    assert f"None of the 20 rows of rows.{kind} can be used; line" in told


def test_a_hundred_thousand_empty_texts_are_one_sentence(write, runs):
    path = write("rows.jsonl", b'{"text": ""}\n' * 100_000)
    assert "line 1: the column 'text' is empty" in refusal(runs, path)
    told = refusal(runs, path, on_bad="skip")
    assert "None of the 100,000 rows" in told
    assert "line 1: the column 'text' is empty" in told


@pytest.mark.parametrize(("moment", "table"), [("write_table", "samples"), ("close", "rejected")])
def test_a_full_disk_is_one_sentence_and_leaves_no_run(write, runs, monkeypatch, moment, table):
    class FullDisk(pq.ParquetWriter):
        """A writer that does its work and then finds that there was no room for it."""

    def fail(writer, *given, **named):
        delattr(FullDisk, moment)  # its end closes it once more, in peace
        getattr(writer, moment)(*given, **named)
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write("rows.jsonl", FILES["rows.jsonl"])
    with monkeypatch.context() as patch:
        setattr(FullDisk, moment, fail)
        patch.setattr(pq, "ParquetWriter", FullDisk)
        told = refusal(runs, path)
    assert f"disk is full, {table}.parquet could not be written and nothing stored" in told
    stored(runs, path)
    assert len(runs.list("dataset")) == 1


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Forty megabytes of distinct texts need hardly more than eighteen did."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"text": f"{i} " + "words " * 340}) + "\n")
    script = f"""
import resource
from pathlib import Path
from fac.config import IngestSpec, Workspace
from fac.ingest import ingest
from fac.store.runs import Runs
small = Path({str(tmp_path)!r}, "small.jsonl")
with Path({str(path)!r}).open() as file:
    small.write_text("".join(next(file) for _ in range(9_000)))
runs = Runs(Workspace(Path({str(tmp_path)!r}, "workspace")))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ingest(IngestSpec(name="small", source=str(small)), runs=runs)
before = peak()
ingest(IngestSpec(name="large", source={str(path)!r}), runs=runs)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10


# --- the hub ---------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A dataset folder as the hub has them, read by the `datasets` package without a network."""
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    folder = tmp_path / "drinks"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(json_lines(*ROWS, {"text": None}))
    (folder / "test.jsonl").write_bytes(json_lines({"text": "tested"}))
    return folder


def test_a_hub_dataset_is_read_like_a_file(hub, runs):
    assert reasons(f"hf:{hub}") == [(4, "the column 'text' is null")]
    assert chats(f"hf:{hub}:test") == [[user("tested")]]
    facts, samples = stored(runs, f"hf:{hub}", on_bad="skip")
    assert facts["source"] == "hf:drinks:train"
    assert [s["messages"] for s in samples] == TEXTS
    first = ingest(IngestSpec(name="mine", source=f"hf:{hub}", on_bad="skip"), runs=runs)
    assert [m["run"] for m in runs.list("dataset")] == [first]


def test_a_hub_dataset_gives_its_labels_by_name(tmp_path, monkeypatch):
    package = pytest.importorskip("datasets")
    features = package.Features(
        {"text": package.Value("string"), "label": package.ClassLabel(names=["good", "bad"])}
    )
    data = package.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    both = package.DatasetDict({"validation": data})
    monkeypatch.setattr(package, "load_dataset", lambda *a, **k: both)
    reading = read_samples("hf:someone/drinks")
    assert reading.name == "hf:someone/drinks:validation"
    assert [sample.label for sample in reading] == ["bad", "good"]


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (FileNotFoundError("Dataset 'x/y' doesn't exist"), InputError, "doesn't exist"),
        (ValueError("Config name is missing"), InputError, "Config name is missing"),
        (ConnectionError("Couldn't reach the Hub\nmore"), ServiceError, "check the network"),
    ],
)
def test_a_hub_that_does_not_serve_is_told_in_a_sentence(monkeypatch, raised, kind, told):
    package = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise raised

    monkeypatch.setattr(package, "load_dataset", refuse)
    with pytest.raises(kind) as refused:
        read_samples("hf:x/y")
    assert type(refused.value) is kind
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["hf:", "hf:a/b:c:d:e", "hf:a/b:"])
def test_a_hub_id_that_names_nothing_is_refused(source):
    with pytest.raises(InputError, match="write hf:ID"):
        read_samples(source)


def test_a_hub_dataset_with_several_splits_asks_which(monkeypatch):
    package = pytest.importorskip("datasets")
    data = package.Dataset.from_dict({"text": ["a"]})
    both = package.DatasetDict({"one": data, "two": data})
    monkeypatch.setattr(package, "load_dataset", lambda *a, **k: both)
    with pytest.raises(InputError, match="has the splits 'one', 'two': name one, as in hf:x/y:one"):
        read_samples("hf:x/y")


# --- real data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "layout"),
    [
        ("toxicity_surge.jsonl", 500, "text"),
        ("instructions_seed_tasks.jsonl", 175, "messages"),
        ("preference_hh_harmless.jsonl.gz", 1156, "chosen/rejected"),
        ("behaviour_survival_instinct.jsonl", 476, "question"),
    ],
)
def test_real_files_come_in_without_options(runs, name, n, layout):
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not on this machine")
    facts, samples = stored(runs, REAL / name)
    assert (facts["n_samples"] + facts["duplicates"], facts["layout"]) == (n, layout)
    assert len({s["sample_id"] for s in samples}) == facts["n_samples"]
