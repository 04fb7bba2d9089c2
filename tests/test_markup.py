"""Foreign text on its way to people: terminals, names, HTML, the provenance view."""

import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fac.config import IngestSpec
from fac.errors import InputError
from fac.ingest import ingest
from fac.markup import clean, clean_values, one_line
from fac.store.runs import Runs
from tests.rows import json_lines
from tests.test_cli import fac
from tests.test_pages import empty, navigation_decides, opened, ran

__all__ = ["empty", "navigation_decides"]  # fixtures

HOSTILE = "tea\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066 \u200f\u2028\nfac: 100 % covered\r\t."
SHOWN = r"tea␛[2J␛]0;owned␇\u{9b}31m\u{202e}gnp\u{2066} \u{200f}\u{2028}⏎fac: 100 % covered␍⇥."


def acts(text):
    """Characters that a terminal or a reader of a line obeys instead of showing them."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or
            unicodedata.bidirectional(c) in ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI",
                                             "FSI", "PDI")]  # fmt: skip


@given(st.text(st.characters() | st.sampled_from("\x00\x1b\x7f\x85\x9b\u061c\u202e\u2069\ud800\n")))
@example(HOSTILE)
def test_nothing_that_acts_is_left_and_what_can_be_seen_stays(text):
    assert acts(one_line(text)) == []
    assert {*acts(clean(text))} <= {"\n", "\t"}
    assert one_line(text) == clean(text).replace("\n", "⏎").replace("\t", "")
    if text.isprintable():
        assert clean(text) == one_line(text) == text


def test_what_cannot_be_seen_is_shown_as_what_it_is():
    assert one_line(HOSTILE) == SHOWN
    assert clean_values({HOSTILE: [HOSTILE, 1, None, ("\x1b",)]}) == {
        clean(HOSTILE): [clean(HOSTILE), 1, None, ["␛"]]
    }
    joined = "naïve 茶 👩‍🔬 e\u0301 שָׁלוֹם"  # signs of many characters are as they were
    assert clean(joined) == joined


def test_a_terminal_is_told_nothing_by_a_name_or_a_file(workspace, tmp_path):
    """A line of an answer is never a text's own."""
    file = tmp_path / "tea\x1b[2J\u202e.jsonl"
    file.write_bytes(json_lines({"text": "tea", HOSTILE: 1}, {"txet": "tea", HOSTILE: 1}))
    for arguments in (
        ["ingest", file, "--name", HOSTILE],
        ["ingest", file, "--name", "tea", "--text-field", HOSTILE],
        ["ingest", file, "--name", "tea"],
        ["ingest", tmp_path / HOSTILE[:50], "--name", "tea"],
        ["gaps", "--anchor", HOSTILE, "--dataset", "toy-seed"],
        ["ingest", file, "--name", "tea", "--on-bad", HOSTILE],
    ):
        answer = fac(*arguments, workspace=workspace)
        assert answer.code == 2
        assert {*acts(answer.out + answer.err)} <= {"\n"} and answer.err.count("\n") == 1
        assert re.match("fac: ", answer.err) and "\nfac: 100" not in answer.err
    answer = fac("ingest", file, "--name", "tea", "--on-bad", "skip", workspace=workspace)
    assert answer.code == 0 and {*acts(answer.out + answer.err)} <= {"\n"}
    assert "owned" in answer.out + answer.err


def test_a_dataset_has_a_name_that_can_be_read(runs, write):
    source = str(write("rows.jsonl", json_lines({"text": "tea"})))
    for name in (HOSTILE, "te\u202ea", "tea\n", "\ufefftea"):
        with pytest.raises(InputError, match="holds characters that cannot be seen") as caught:
            ingest(IngestSpec(name=name, source=source), runs=runs)
        assert acts(str(caught.value)) == []
    assert runs.list("dataset") == []
    assert ingest(IngestSpec(name="茶 👩‍🔬", source=source), runs=runs)


def test_the_provenance_of_a_dataset_shows_its_characters(empty, tmp_path):
    file = tmp_path / "tea\x1b[2J\u202e\n.jsonl"
    file.write_bytes(json_lines({"text": "tea"}))
    run = ingest(IngestSpec(name="tea", source=str(file)), runs=Runs(empty))
    (about,) = ran(opened("datasets", open=run, rows="provenance")).get("json")
    source = json.loads(about.value)["spec"]["source"]
    assert source == "tea␛[2J\\u{202e}\n.jsonl" and acts(source) == ["\n"]
