"""A report: the same figures as elsewhere, foreign text as text, nothing loaded, nothing nan."""

import base64
import hashlib
import re
import shlex
from html.parser import HTMLParser

import pytest

from fac import __main__ as cli
from fac.report import file_name
from tests.test_cli import assert_one_sentence, fac
from tests.test_families import ANCHOR, DATASET
from tests.test_fill import POOL
from tests.test_shares import measured, rows_of
from tests.toy import ANCHOR as KITCHEN
from tests.toy import SEED, toy_workspace

INLINE = {"span", "mark", "bdi", "strong", "code", "a"}
VOID = {"meta", "line", "rect", "path", "circle"}
HOSTILE = "</style><script>alert(1)</script> <img src=//evil.example/x onerror=alert(1)> \u202e"


class Document(HTMLParser):
    """The elements of a document, with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(html)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag not in INLINE:
            self.words.append(" ")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def every(self, tag):
        return [attributes for each, attributes in self.elements if each == tag]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    rows = {"anchor": ANCHOR, "dataset": DATASET, "more": rows_of(30, "oven train please")}
    stores, _ = measured(tmp_path_factory.mktemp("report"), **rows)
    return stores.runs.workspace


def written(place, tmp_path, *line, anchor="anchor", dataset="dataset", threshold=0):
    out = tmp_path / "report.html"
    question = ("--anchor", anchor, "--dataset", dataset, "--threshold", threshold)
    answer = fac("report", *question, *line, "--out", out, "--json", workspace=place)
    assert answer.code == 0, answer.err
    return answer.json, Document(out.read_text("utf-8"))


def test_its_figures_are_those_of_the_other_commands(place, tmp_path):
    data, document = written(place, tmp_path)
    question = ("--anchor", "anchor", "--dataset", "dataset", "--threshold", 0, "--json")
    coverage = fac("coverage", *question, workspace=place).json
    families = fac("families", *question, workspace=place).json
    gaps = fac("gaps", *question, "--badge", "certain", workspace=place).json
    assert data["fac"] == coverage["fac"] == 2 / 7 and data["certain"] == 4
    for words in (
        coverage["headline"],
        coverage["advice"],
        "Coverage (FAC) 28.6 %",
        f"{100 * coverage['interval']['low']:.1f} % to {100 * coverage['interval']['high']:.1f} %",
        "Features of the anchor 7 2 covered",
        "Certain gaps 4 3 absent, 1 too rare",
        families["headline"],
        families["note"],
        *(row["reason"] for row in gaps["gaps"]),
    ):
        assert " ".join(words.split()) in document.text
    for row in families["families"]:
        assert f"{row['name']} {row['covered']} of {row['size']} {row['certain']}" in document.text


def test_evidence_has_the_peak_marked(place, tmp_path):
    _, document = written(place, tmp_path)
    html = (tmp_path / "report.html").read_text("utf-8")
    peaks = re.findall(r"<mark[^>]*>([^<]*)</mark>", html)
    assert {"oven", "train", "mountain", "river"} <= {*peaks}
    assert document.text.count("In the anchor: peak") == 2 + 4, "two families, four gaps"
    assert "In the dataset: peak" in document.text, "river is there once"


def test_fewer_gaps_and_families_are_counted(place, tmp_path):
    _, document = written(place, tmp_path, "--gaps", 1, "--families", 1)
    assert document.text.count("In the anchor: peak") == 1 + 1
    assert "1 more families have a certain or possible gap." in document.text
    assert "More certain gaps" in document.text and "mountain" in document.text


def test_the_command_in_it_makes_it_anew(place, tmp_path):
    data, _ = written(place, tmp_path)
    first = (tmp_path / "report.html").read_text("utf-8")
    line = shlex.split(data["command"])
    assert line[:4] == ["python", "-m", "fac", "report"] and "measure-" in line[5]
    again = tmp_path / "again.html"
    line = [*line[3 : line.index("--out")], "--out", str(again), "--workspace", str(place.root)]
    assert cli.run(line) == 0

    def timeless(html):
        return re.sub(r"<time.*?</time>", "", html)

    assert timeless(again.read_text("utf-8")) == timeless(first)
    assert " \\\n  --dataset " in first


def test_it_loads_and_runs_nothing(place, tmp_path):
    _, document = written(place, tmp_path)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    tags = {tag for tag, _ in document.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert attributes.get("href", "#").startswith("#") and "src" not in attributes
    (policy,) = (
        each["content"]
        for each in document.every("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "prefers-color-scheme:dark" in style and "@media print" in style


def test_it_can_be_read_without_seeing_it(place, tmp_path):
    _, document = written(place, tmp_path)
    headings = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))
    drawings = [each for each in document.every("svg") if each.get("aria-hidden") != "true"]
    assert all(each.get("role") == "img" and each["aria-label"] for each in drawings)
    assert all(each.get("scope") in ("col", "row") for each in document.every("th"))
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    assert {each["href"][1:] for each in document.every("a")} <= {*ids}
    assert document.every("html") == [{"lang": "en"}]


def test_foreign_text_is_text(tmp_path):
    hostile = [{"text": f"{HOSTILE} oven {i}"} for i in range(25)]
    rows = {"<b>a": [*hostile, *rows_of(30, "please")], "<i>d": rows_of(90, "please")}
    stores, _ = measured(tmp_path, **rows)
    _, document = written(stores.runs.workspace, tmp_path, anchor="<b>a", dataset="<i>d")
    assert not {tag for tag, _ in document.elements} & {"script", "img", "b", "i"}
    assert len(document.every("style")) == 1
    assert "<i>d against <b>a" in document.text and "<script>alert(1)</script>" in document.text
    assert "\u202e" not in document.text


@pytest.mark.parametrize(
    ("dataset", "threshold", "words"),
    [
        ("anchor", 0, "it lacks nothing"),
        ("dataset", 99, "there is nothing to cover"),
        ("dataset", 0.5, "No gap is certain"),
    ],
)
def test_where_there_is_no_figure_there_is_a_sentence(tmp_path, dataset, threshold, words):
    small = {"anchor": [*rows_of(3, "oven"), *rows_of(3, "river")], "dataset": rows_of(2, "river")}
    stores, _ = measured(tmp_path, **small)
    where = {"dataset": dataset, "threshold": threshold}
    _, document = written(stores.runs.workspace, tmp_path, **where)
    assert words in document.text
    assert not re.search(r"\b(nan|None|undefined|inf)\b", document.text)


def test_what_is_added_is_told_apart(place, tmp_path):
    data, document = written(place, tmp_path, "--with", "more")
    assert "dataset with more against anchor" in document.text
    assert "Coverage 28.6 % 57.1 %" in document.text, "oven and train came along"
    assert "2 missing features are shown now." in document.text
    assert data["command"].count("--with measure-") == 1


def test_the_ledger_has_rows_that_were_chosen(tmp_path):
    samples = {"toy-anchor": KITCHEN, "toy-seed": SEED, "toy-pool": POOL}
    workspace = toy_workspace(tmp_path / "toy", samples=samples)
    line = ("fill", "toy-seed", "--anchor", "toy-anchor", "--threshold", 0, "--pool", "toy-pool")
    assert fac(*line, "--out", "filled", workspace=workspace).code == 0
    _, document = written(workspace, tmp_path, anchor="toy-anchor", dataset="toy-seed")
    assert "filled toy-pool 3 not measured 6" in document.text
    _, other = written(workspace, tmp_path, anchor="toy-anchor", dataset="toy-pool")
    assert "Nothing was synthesised or chosen from a pool" in other.text


def test_who_counts_and_who_agrees(tmp_path):
    workspace = toy_workspace(tmp_path / "toy", explained=True)
    line = {"anchor": "toy-anchor", "dataset": "toy-seed"}
    _, every = written(workspace, tmp_path, **line)
    assert "Nobody rated explanations, relevance to a task, kept samples." in every.text
    assert "Every feature counts but 2 of 12 that fire in nearly every sample" in every.text
    data, document = written(workspace, tmp_path, "--relevant", "instructions", **line)
    assert "The 4 features count that are relevant for instructions, by" in document.text
    assert "--relevant instructions" in data["command"]


def test_a_report_that_cannot_be_written_is_a_sentence(place, tmp_path):
    question = ("report", "--anchor", "anchor", "--dataset", "dataset", "--threshold", 0)
    nowhere = fac(*question, "--out", tmp_path / "no" / "report.html", workspace=place)
    assert nowhere.code == 2 and "cannot be written" in nowhere.err
    unknown = fac("report", "--anchor", "x", "--dataset", "y", "--out", "z", workspace=place)
    assert_one_sentence(unknown)


def test_a_file_is_called_after_what_it_is_about():
    assert file_name("a/b c", "d") == "a-b-c-against-d.html"
    assert file_name("../<b>", "…") == "b-against.html"


def test_the_map_has_every_feature_that_was_laid_out(place, tmp_path):
    _, document = written(place, tmp_path)
    (drawing,) = [each["aria-label"] for each in document.every("svg") if "Map" in str(each)]
    # bake, oven, river and train fire with another one; mountain alone, please everywhere
    assert drawing == "Map of 4 features: 2 missing, 1 under-represented, 1 covered"
    assert "missing 2 under-represented 1 covered 1" in document.text
    dots = [each["d"] for each in document.every("path")]
    assert sum(path.count("h0") for path in dots) == 4
    assert all(re.fullmatch(r"(M\d+ \d+h0)+", path) for path in dots)
