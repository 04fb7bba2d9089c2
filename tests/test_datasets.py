"""datasets: text in, samples out; what is not a sample has a line and a reason."""

import csv
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import sys
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac.config import IngestSpec
from fac.datasets import (
    FORMATS,
    MAX_CHARACTERS,
    Sample,
    file_titles,
    layout_titles,
    read_samples,
    sample_id,
    sources,
)
from fac.datasets.layout import LAYOUTS, Column, Layout, SourceRow
from fac.datasets.sources import MAX_ROW_BYTES, PEEK_ROWS, Format, TextSource
from fac.errors import BadRow, InputError, ServiceError
from fac.ingest import ingest
from tests.rows import (
    FILES,
    QUICK,
    ROWS,
    TEXTS,
    as_csv,
    as_parquet,
    assistant,
    json_lines,
    refusal,
    stored,
    system,
    user,
)

BOM = b"\xef\xbb\xbf"


def chats(source, **options):
    """The messages of every row; a bad row fails the test."""
    rows = list(read_samples(source, **options))
    assert [row for row in rows if isinstance(row, BadRow)] == []
    return [row.messages for row in rows]


def reasons(source, **options):
    return [
        (row.line, row.reason) for row in read_samples(source, **options) if isinstance(row, BadRow)
    ]


def test_arrow_files_and_saved_folders_are_read(tmp_path, write):
    table = pa.Table.from_pylist([{"text": f"row {i}", "n": i} for i in range(1200)])
    rows = [user(f"row {i}") for i in range(1200)]
    for name, form in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        path = tmp_path / f"{name}.arrow"
        with form(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
        reader = read_samples(path)
        assert [sample.messages for sample in reader] == [[row] for row in rows]
        assert (reader.kind, reader.source.total) == ("arrow", 1200)
    import datasets

    saved = datasets.Dataset(table)
    saved.save_to_disk(tmp_path / "saved", num_shards=3)
    reader = read_samples(tmp_path / "saved")
    assert [sample.messages for sample in reader] == [[row] for row in rows]
    before = reader.digest(lambda *_: None)
    datasets.Dataset(table.slice(1)).save_to_disk(tmp_path / "other", num_shards=3)
    assert read_samples(tmp_path / "other").digest(lambda *_: None) != before

    both = datasets.DatasetDict({"train": saved, "test": saved})
    both.save_to_disk(tmp_path / "both")
    for folder, sentence in (
        ("both", r"holds the splits train and test: give one of them, such as .*both/train"),
        ("cut", r"data-00000-of-00003\.arrow is not a whole Arrow file"),
        ("lacks", r"lacks the file data-00001-of-00003\.arrow"),
        ("broken", r"is no whole folder of save_to_disk"),
    ):
        if folder != "both":
            shutil.copytree(tmp_path / "saved", tmp_path / folder)
        first = tmp_path / folder / "data-00000-of-00003.arrow"
        if folder == "cut":
            first.write_bytes(first.read_bytes()[:1000])
        elif folder == "lacks":
            (tmp_path / folder / "data-00001-of-00003.arrow").unlink()
        elif folder == "broken":
            (tmp_path / folder / "state.json").write_text("{}")
        with pytest.raises(InputError, match=sentence):
            [*read_samples(tmp_path / folder)]
    assert [*read_samples(tmp_path / "both" / "train")][0].messages == [rows[0]]


ROWS_ANYHOW = (
    '[[{"from": "human", "value": "a"}], [{"from": "human", "value": "b"}]]',
    '[{"role": "user", "content": "a"}]\n[{"role": "user", "content": "b"}]\n',
    '{"version": "1", "data": [{"text": "a"}, {"text": "b"}], "n": 2}',
    '{"data": [{"text": "a"}, {"text": "b", "more": "' + "x" * 70_000 + '"}]}',
    '{\n  "data": [\n    {\n      "text": "a"\n    },\n    {"text": "b"}\n  ]\n}\n',
    '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n',
    '{"text": "a",\n "n": 1}\n{"text": "b",\n "n": 2}\n',
    '{"text": "a", "data": {"x": 1}}\n{"text": "b", "data": [{"x": 2}]}',
)


@pytest.mark.parametrize("content", ROWS_ANYHOW, ids=range(len(ROWS_ANYHOW)))
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_rows_are_read_however_json_is_written(write, content, name):
    reading = [*read_samples(write(name, content))]
    assert [sample.messages for sample in reading] == [[user("a")], [user("b")]]


def test_a_broken_first_line_leaves_json_lines_what_they_are(write):
    content = '{"text": "a"\n{"text": "b"}\n'
    bad, good = read_samples(write("rows.jsonl", content))
    assert bad.line == 1 and good.messages == [user("b")]


# --- layouts ---------------------------------------------------------------------------------


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]

CHATS = [
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
    (
        "instruction/input/output",
        {
            "instruction": "And in winter?",
            "input": "",
            "output": "Garlic.",
            "system": "You are a gardener.",
            "history": [["What in spring?", "Peas."], ["And in summer?", "Beans."]],
        },
        [
            system("You are a gardener."),
            *(user("What in spring?"), assistant("Peas.")),
            *(user("And in summer?"), assistant("Beans.")),
            *(user("And in winter?"), assistant("Garlic.")),
        ],
    ),
    (
        "instruction/output",
        {"instruction": "Greet.", "output": "Hello.", "history": '[["Hi", "Yes?"]]'},
        [user("Hi"), assistant("Yes?"), user("Greet."), assistant("Hello.")],
    ),
    (
        "instruction/output",
        {"instruction": "Greet.", "output": "Hello.", "history": []},
        [user("Greet."), assistant("Hello.")],
    ),
    (
        "chosen/rejected",
        {"instruction": "Translate.", "input": "The cat.", "chosen": "Le chat.", "rejected": "Un."},
        [user("Translate.\n\nThe cat."), assistant("Le chat.")],
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
    (
        "input/preferred_output/non_preferred_output",
        {
            "input": {"messages": TURNS[:1], "tools": [], "parallel_tool_calls": True},
            "preferred_output": TURNS[1:],
            "non_preferred_output": [assistant("No.")],
        },
        TURNS,
    ),
]


@pytest.mark.parametrize(("layout", "row", "chat"), CHATS)
def test_the_columns_say_which_layout_it_is(write, layout, row, chat):
    reading = read_samples(write("rows.jsonl", json_lines(row)))
    assert [sample.messages for sample in reading] == [chat]
    assert reading.layout.name == layout


def test_every_layout_is_tried_here(write):
    tried = set()
    for _, row, _ in CHATS:
        reader = read_samples(write("rows.jsonl", json_lines(row)))
        assert [*reader]
        tried.add(reader.layout.layout)
    assert tried == {layout for _, layout in LAYOUTS.items()}


def register(monkeypatch, registry, name, part):
    """A part as if there were a file for it."""
    module = ModuleType(f"{registry.package}.{name}")
    setattr(module, registry.attribute, part)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "names", (*registry.names, name))


def test_a_layout_is_one_file(write, monkeypatch):
    poem = Layout(
        title="poems",
        preference=0,
        columns=(Column("text", ("verses",)), Column("heading", ("heading",), required=False)),
        chat=lambda row, names: [user("\n".join(row[names["text"]]))],
    )
    path = write("rows.jsonl", json_lines({"Verses": ["a", "b"], "text": "c"}))
    assert chats(path) == [[user("c")]]
    register(monkeypatch, LAYOUTS, "poem", poem)
    assert chats(path) == [[user("a\nb")]]
    assert "poems" in layout_titles()


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
    assert "'rejected' is kept in meta" in facts.note


def test_a_layout_may_show_only_in_a_later_row(write):
    content = json_lines({"id": 1}, {"id": 2, "text": "a"})
    path = write("rows.jsonl", content)
    assert reasons(path) == [(1, "there is no 'text'; the row has 'id'")]


def test_a_label_may_come_late(write):
    rows = [{"text": str(i)} for i in range(2 * PEEK_ROWS)]
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
    ("value", "label"),
    [("a", "a"), (1, "1"), (True, "true"), (0.5, "0.5"), (None, None), ("", None), ([1], "[1]")],
)
def test_labels_become_text_and_nothing_stays_nothing(write, value, label):
    path = write("rows.jsonl", json_lines({"text": "a", "label": value}))
    assert [sample.label for sample in read_samples(path)] == [label]


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
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
def test_columns_that_say_too_little_or_too_much(write, runs, row, options, sentence):
    assert sentence in refusal(runs, write("rows.jsonl", json_lines(row)), **options)


def test_the_sentence_about_columns_names_the_options(write, runs):
    sentence = refusal(runs, write("rows.jsonl", json_lines({"body": "a"})))
    assert "--text-field COLUMN" in sentence
    assert "--messages-field COLUMN" in sentence


# --- kinds of file ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_samples_also_gzipped(write, name):
    assert chats(write(name, FILES[name])) == TEXTS
    assert chats(write(f"{name}.gz", gzip.compress(FILES[name]))) == TEXTS


def test_a_format_is_one_file(write, monkeypatch):
    class Paragraphs(TextSource):
        def read(self, stream):
            for line, text in enumerate(stream.read().decode().split("\n\n"), start=1):
                yield SourceRow(line, {"text": text})

    path = write("rows.txt", "a\n\nb")
    with pytest.raises(InputError, match="give .jsonl, .json, .csv, .tsv, .parquet or .arrow"):
        read_samples(path)
    plain = Format(
        title="plain text",
        preference=9,
        kind="txt",
        open=Paragraphs,
        suffixes=(".txt",),
    )
    register(monkeypatch, FORMATS, "plain", plain)
    assert chats(path) == [[user("a")], [user("b")]]
    assert file_titles()[-1] == "plain text"
    with pytest.raises(InputError, match=".arrow or .txt"):
        read_samples(write("rows.odt", "words"))


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


@QUICK
@given(written=st.lists(CHAT, min_size=1, max_size=5), escaped=st.booleans(), end=st.booleans())
def test_chats_come_back_as_they_were_written(write, written, escaped, end):
    rows = [{"messages": chat} for chat in written]
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    content = ("\r\n" if end else "\n").join(lines).encode()
    assert chats(write("rows.jsonl", content)) == written
    array = json.dumps(rows, ensure_ascii=escaped, indent=1 if end else None).encode()
    assert chats(write("rows.json", gzip.compress(array))) == written


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


# --- ids -------------------------------------------------------------------------------------


def test_a_sample_is_named_by_the_hash_of_its_messages():
    canonical = '[{"content":"é","role":"user"}]'
    assert sample_id([user("é")]) == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert sample_id([{"content": "é", "role": "user", "name": "ana"}]) == sample_id([user("é")])
    assert sample_id([user("é")]) != sample_id([assistant("é")])


# --- bad rows --------------------------------------------------------------------------------


WINDOWS = "{} but, in Windows-1252 (cp1252), '{}': save the file as UTF-8"

BAD_ROWS = [
    (b'{"text": "a"', "it is not JSON (Expecting ',' delimiter at column 13)"),
    (b'["a"]', "it is a list, not an object with named fields"),
    (b"3", "it is a number (3), not an object with named fields"),
    (b'{"text": "caf\xe9"}', WINDOWS.format("byte 14 (0xe9) is not UTF-8", "é")),
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
        WINDOWS.format(
            "U+DC80 at character 1 of the label in 'label' is no character: half a surrogate pair, "
            "or a byte that is not UTF-8",
            "€",
        ),
    ),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "it holds a number of too many digits"),
    (b'{"text": "a", "n": ' + b"[" * 200_000, "its JSON is nested too deeply"),
    (b'{"text": "a", "n": ' + b"[" * 200 + b"]" * 200 + b"}", "its columns are nested too deeply"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_has_its_line_and_a_reason(write, runs, row, reason):
    path = write("rows.jsonl", b'{"text": "fine"}\n\n' + row + b'\n{"text": "also fine"}\n')
    facts, samples = stored(runs, path, on_bad="skip")
    assert reasons(path) == [(3, reason)]
    assert [s["messages"] for s in samples] == [[user("fine")], [user("also fine")]]
    assert facts.n_rejected == 1

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
    (
        [user("Hi"), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}],
        "message 2 of 'messages' has no content but a tool call",
    ),
    ([{"role": "user", "content": 4}], "has a number (4) as its content, not text"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        "message 1 of 'messages' holds more than text",
    ),
    ([user(" "), assistant("")], "the text is empty"),
    ([user("Hi"), assistant("\x00")], "U+0000 stands at character 1 of message 2"),
]


def test_a_history_that_is_no_list_of_pairs_is_named(write):
    row = {"instruction": "Greet.", "output": "Hello."}
    for history in ([["Hi"]], ["Hi", "Yes?"], "Hi", [["Hi", None]], 3):
        content = json_lines(row, row | {"history": history})
        assert reasons(write("rows.jsonl", content)) == [
            (2, "the column 'history' is no list of questions with their answers")
        ]


@pytest.mark.parametrize(("messages", "reason"), BAD_MESSAGES)
def test_a_bad_message_is_named(write, messages, reason):
    content = json_lines({"messages": TURNS}, {"messages": messages})
    [(line, problem)] = reasons(write("rows.jsonl", content))
    assert line == 2
    assert reason in problem


def test_bad_rows_of_csv(write):
    content = b'text,n\na,1\nb\nc,3,4\n"d"x,5\ncaf\xe9,6\n,7\ne,8\n'
    path = write("rows.csv", content)
    assert reasons(path) == [
        (3, "it has 1 fields, the header has 2"),
        (4, "it has 3 fields, the header has 2"),
        (5, "it is not proper CSV (',' expected after '\"')"),
        (
            6,
            WINDOWS.format(
                "U+DCE9 at character 4 of the text is no character: half a surrogate pair, or a "
                "byte that is not UTF-8",
                "é",
            ),
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
    refused = reasons(path)
    assert [line for line, _ in refused] == [2, 3, 4]
    assert "can't decode byte 0xe9" in refused[0][1]
    assert [reason for _, reason in refused[1:]] == [
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
    sentence = refusal(runs, path)
    assert "5,000,000 characters, the limit is 1,000,000" in sentence


def test_a_line_is_never_held_whole_when_it_is_beyond_every_limit(write):
    long = b"a" * (MAX_ROW_BYTES + 10)
    sentence = "the row is longer than 8,000,000 bytes; a sample has at most 1,000,000 characters"
    path = write("rows.jsonl", b'{"text": "a"}\n{"text": "' + long + b'"}\n{"text": "b"}\n')
    assert reasons(path) == [(2, sentence)]
    path = write("rows.csv", b"text,n\na,1\n" + long + b",2\nb,3\n")
    assert reasons(path) == [(3, sentence)]
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
    (
        "rows.parquet",
        as_parquet([{"text": "a", "beside": 1}]).replace(b"beside", b"besid\xe9"),
        "rows.parquet has a column's name, or a text, that is not UTF-8: write it again",
    ),
    ("rows.jsonl.gz", gzip.compress(FILES["rows.jsonl"])[:-9], "damaged or truncated gzip file"),
    ("rows.jsonl.gz", b"\x1f\x8b" + JUNK, "damaged or truncated gzip file"),
    ("rows.parquet.gz", gzip.compress(FILES["rows.parquet"])[:-9], "damaged or truncated gzip"),
    ("rows.txt", b"some words", "rows.txt is of no known kind"),
    ("rows.jsonl", "text".encode("utf-16"), "rows.jsonl is UTF-16 text: save it as UTF-8"),
    ("rows.json", b'{"other": [{"text": "a"}]}', "fit no layout: 'other'"),
    ("rows.json", b'{"data": [{"text": "a"}], "data": [{"text": "b"}]', "line 1: a comma or the"),
    ("rows.json", b'{"text": {"0": "a", "1": "b"}}', "a table by columns, as pandas writes it"),
    ("rows.json", b'{\n"text": "a"\n}\n{\n"text"\n}', "line 6: not JSON (Expecting ':'"),
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
@pytest.mark.parametrize(("name", "content", "sentence"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_refused_in_one_sentence(write, runs, name, content, sentence, on_bad):
    ingest(IngestSpec(name="other", source=str(write("o.jsonl", FILES["rows.jsonl"]))), runs=runs)
    assert sentence in refusal(runs, write(name, content), on_bad=on_bad)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(write, runs, monkeypatch, name):
    """A gzip file of a thousandth of its contents is meant to fill a disk."""
    monkeypatch.setattr(sources, "MAX_UNPACKED", 2**20)
    texts = [{"text": "a" * 100_000} for _ in range(20)]
    content = {
        "rows.jsonl": json_lines(*texts),
        "rows.json": json.dumps(texts).encode(),
        "rows.csv": b"text\n" + b"\n".join(row["text"].encode() for row in texts),
        "rows.parquet": as_parquet(texts) + b" " * 2**21,
    }[name]
    packed = gzip.compress(content)
    assert 100 * len(packed) < 2**20 < len(content)
    sentence = refusal(runs, write(f"{name}.gz", packed), on_bad="skip")
    assert f"{name}.gz unpacks to more than 1,048,576 bytes" in sentence
    assert "unzip it and give the file inside" in sentence
    noise = random.Random(0).randbytes(2**15).hex()
    rows = [{"text": f"{number} {noise}"} for number in range(30)]
    packed = gzip.compress(json_lines(*rows), compresslevel=0)
    assert len(chats(write("large.jsonl.gz", packed))) == 30, "text may be as long as it likes"


def test_a_long_file_cut_short_is_refused_wherever_it_was_cut(write, runs):
    numbers = json_lines(*({"text": hashlib.sha256(b"%d" % i).hexdigest()} for i in range(5000)))
    whole = gzip.compress(numbers)
    for part in (0.5, 0.9):
        sentence = refusal(
            runs, write("rows.jsonl.gz", whole[: int(len(whole) * part)]), on_bad="skip"
        )
        assert "truncated gzip" in sentence
    damaged = bytearray(as_parquet([{"text": "words " * 50 + str(i)} for i in range(5000)]))
    damaged[200:2000] = b"\xff" * 1800
    sentence = refusal(runs, write("rows.parquet", bytes(damaged)), on_bad="skip")
    assert "not a whole Parquet file" in sentence


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
    sentence = refusal(runs, path, on_bad="skip")
    assert f"None of the 20 rows of rows.{kind} can be used; line" in sentence


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
    assert facts.source == "hf:drinks:train"
    assert [s["messages"] for s in samples] == TEXTS
    first = ingest(IngestSpec(name="mine", source=f"hf:{hub}", on_bad="skip"), runs=runs)
    assert [m.run for m in runs.list("dataset")] == [first]


def test_a_hub_dataset_gives_its_labels_by_name(tmp_path, monkeypatch):
    package = pytest.importorskip("datasets")
    features = package.Features(
        {"text": package.Value("string"), "label": package.ClassLabel(names=["good", "bad"])}
    )
    data = package.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    both = package.DatasetDict({"validation": data})
    monkeypatch.setattr("fac.datasets.formats.hf._is_away", lambda: False)
    monkeypatch.setattr(package, "load_dataset", lambda *a, **k: both)
    reading = read_samples("hf:someone/drinks")
    assert reading.name == "hf:someone/drinks:validation"
    assert [sample.label for sample in reading] == ["bad", "good"]


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        (FileNotFoundError("Dataset 'x/y' doesn't exist"), InputError, "doesn't exist"),
        (ValueError("Config name is missing"), InputError, "Config name is missing"),
        (ConnectionError("Couldn't reach the Hub\nmore"), ServiceError, "check the network"),
    ],
)
def test_a_hub_that_does_not_serve_is_told_in_a_sentence(monkeypatch, raised, kind, sentence):
    package = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise raised

    monkeypatch.setattr("fac.datasets.formats.hf._is_away", lambda: False)
    monkeypatch.setattr(package, "load_dataset", refuse)
    with pytest.raises(kind) as refused:
        read_samples("hf:x/y")
    assert type(refused.value) is kind
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["hf:", "hf:a/b:c:d:e", "hf:a/b:"])
def test_a_hub_id_that_names_nothing_is_refused(source):
    with pytest.raises(InputError, match="write hf:ID"):
        read_samples(source)


def test_a_hub_dataset_with_several_splits_asks_which(monkeypatch):
    package = pytest.importorskip("datasets")
    data = package.Dataset.from_dict({"text": ["a"]})
    both = package.DatasetDict({"one": data, "two": data})
    monkeypatch.setattr("fac.datasets.formats.hf._is_away", lambda: False)
    monkeypatch.setattr(package, "load_dataset", lambda *a, **k: both)
    with pytest.raises(InputError, match="has the splits 'one', 'two': name one, as in hf:x/y:one"):
        read_samples("hf:x/y")
