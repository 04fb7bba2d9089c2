"""`fac check`: each rule on figures worked out by hand, and what a pull request is told."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fac.markup import clean, code_span, table_cell
from tests.test_cli import fac
from tests.test_families import ANCHOR, DATASET
from tests.test_shares import measured, rows_of

# Of 105 samples of the anchor 24 say bake and oven, 24 river and train, 22 mountain, 5 python and
# loop; "please" is everywhere. The baseline says all but the last two, which could be chance. The
# other dataset says bake, and river once: oven, river, train and mountain are certain gaps of it.
BASELINE = [
    *rows_of(10, "bake oven please"),
    *rows_of(11, "river train please"),
    *rows_of(9, "mountain please"),
    *rows_of(30, "please"),
]
HOSTILE = "a|b `c` <b>@me"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    rows = {"anchor": ANCHOR, "baseline": BASELINE, "dataset": DATASET, HOSTILE: DATASET[:-1]}
    stores, _ = measured(tmp_path_factory.mktemp("gate"), **rows)
    return stores.runs.workspace


def check(place, *line, new="dataset", anchor="anchor", **more):
    about = ("check", new, "--baseline", "baseline", "--threshold", 0)
    return fac(*about, *(("--anchor", anchor) if anchor else ()), *line, workspace=place, **more)


def test_certain_gaps_are_counted_and_compared(place):
    data = check(place, "--json").json
    assert (data["certain_gaps"], data["certain_gaps_before"]) == (4, 0)
    rows = [(row["feature"], row["kind"], row["was"]) for row in data["new_certain_gaps"]]
    # absent before rare, and of these what is expected most
    assert rows == [
        (1, "absent", "no gap"),
        (8, "absent", "no gap"),
        (7, "absent", "no gap"),
        (6, "under-represented", "no gap"),
    ]
    oven = data["new_certain_gaps"][0]
    assert (oven["n_anchor"], oven["n_dataset"]) == (24, 0) and oven["expected"] > 10
    assert data["passed"] is True, "no rule was set"
    same = check(place, "--json", new="baseline").json
    assert (same["new_certain_gaps"], same["certain_gaps"]) == ([], 0)


@pytest.mark.parametrize(("most", "code"), [(4, 0), (3, 1)])
def test_more_certain_gaps_than_are_allowed_fail(place, most, code):
    answer = check(place, "--max-certain-gaps", most)
    assert answer.code == code
    if code:
        assert answer.err == "fac: 4 gaps are certain, more than 3.\n"


def test_a_new_certain_gap_fails_and_is_named(place):
    answer = check(place, "--no-new-certain-gaps")
    assert answer.code == 1
    assert answer.err.startswith(
        "fac: 4 gaps are certain and were not with baseline (first: #1 oven; #8 train;"
    )
    assert check(place, "--no-new-certain-gaps", new="baseline").code == 0


def test_a_family_is_lost_where_more_than_half_of_it_is_certain_to_be_lacking(place):
    answer = check(place, "--no-lost-family", "--json")
    assert answer.code == 1
    # river and train are one family, both certain; of bake and oven one is: half is not lost.
    (lost,) = answer.json["lost_families"]
    assert (lost["size"], lost["certain"], lost["certain_before"]) == (2, 2, 0)
    assert answer.err == f"fac: 1 family is lost (first: {lost['name']}).\n"
    assert lost["name"] == f"family {lost['family']}", "it has no name of its own"
    again = check(place, "--no-lost-family", "--json", new="baseline")
    assert (again.code, again.json["lost_families"]) == (0, [])


def test_without_an_anchor_the_baseline_says_what_matters(place):
    data = check(place, "--no-new-certain-gaps", "--json", anchor="").json
    assert data["certain_gaps_before"] == 0 and data["fac_before"] == 1
    # river, 11 of 60 there and 1 of 81 here, may be as frequent as half
    assert {row["feature"] for row in data["new_certain_gaps"]} == {1, 7, 8}


def test_every_failure_is_in_the_one_sentence(place):
    line = ("--min-fac", 0.9, "--no-regress", "--max-certain-gaps", 0, "--no-lost-family")
    answer = check(place, *line)
    assert answer.code == 1
    for words in (
        "FAC is 0.2857, below 0.9; ",
        "features of baseline are lost",
        "4 gaps",
        "family",
    ):
        assert words in answer.err
    assert answer.err.count("\n") == 1


def test_a_pull_request_reads_what_was_decided_first(place, tmp_path):
    out = tmp_path / "summary.md"
    answer = check(place, "--max-certain-gaps", 3, "--no-lost-family", "--markdown", out)
    assert answer.code == 1, "the file is there all the same"
    lines = out.read_text("utf-8").splitlines()
    assert lines[0] == "## ❌ Coverage gate failed"
    assert "| `--max-certain-gaps` | at most 3 | 4 | ❌ fails |" in lines
    assert "| Certain gaps | 0 | 4 | +4 |" in lines
    assert "| Coverage (FAC) | 71.4 % | 28.6 % | -42.9 points |" in lines
    assert "### New certain gaps (4)" in lines and "### Lost families (1)" in lines
    html = MarkdownIt().enable("table").render("\n".join(lines))
    assert html.count("<table>") == 4
    passed = check(place, "--max-certain-gaps", 4, "--markdown", "-")
    assert passed.code == 0
    assert passed.out.startswith("## ✅ Coverage gate passed\n")
    assert "| `--max-certain-gaps` | at most 4 | 4 | passes |" in passed.out
    nothing = check(place, "--markdown", "-").out
    assert "No rule was set" in nothing


def test_a_summary_of_a_step_is_added_to_and_any_other_file_is_new(place, tmp_path, monkeypatch):
    out = tmp_path / "summary.md"
    out.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(out))
    check(place, "--markdown", out)
    assert out.read_text("utf-8").startswith("before\n## ✅")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    check(place, "--markdown", out)
    assert out.read_text("utf-8").startswith("## ✅")
    nowhere = check(place, "--markdown", tmp_path / "no" / "summary.md")
    assert nowhere.code == 2 and "cannot be written" in nowhere.err
    assert check(place, "--markdown", "-", "--json").json["markdown"].startswith("## ✅")


def test_names_of_datasets_and_gaps_mean_nothing_to_markdown(place):
    text = check(place, "--markdown", "-", new=HOSTILE).out
    html = MarkdownIt().enable("table").render(text)
    assert "<code>a|b `c` &lt;b&gt;@me</code>" in html and "<b>" not in html


TEXTS = st.text(st.sampled_from("`|\\ab<>*@#[]()\n\t\r\x00\u202e\ud800 "), max_size=12)


@given(TEXTS)
def test_any_text_stands_as_it_is_in_a_line_and_in_one_cell_of_a_table(text):
    table = f"| a | b |\n|---|---|\n| {table_cell(text)} | end |\n"
    html = MarkdownIt().enable("table").render(table)
    cells = re.findall(r"<td>(.*?)</td>", html, re.DOTALL)
    shown = " ".join(clean(text).split()) or "∅"
    escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert cells == [f"<code>{escaped}</code>", "end"]
    assert MarkdownIt().render(code_span(text)) == f"<p><code>{escaped}</code></p>\n"
