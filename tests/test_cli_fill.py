"""The commands `fac fill` and `fac spare`."""

import json

import pytest

from tests.test_cli import assert_one_sentence, fac
from tests.test_fill import POOL
from tests.toy import ANCHOR, SEED, toy_workspace

FILL = ("fill", "toy-seed", "--anchor", "toy-anchor", "--threshold", 0, "--pool", "toy-pool")


@pytest.fixture
def place(tmp_path):
    samples = {"toy-anchor": ANCHOR, "toy-seed": SEED, "toy-pool": POOL}
    return toy_workspace(tmp_path, samples=samples)


def test_rows_of_a_pool_fill_gaps_and_become_a_dataset(place):
    answer = fac(*FILL, "--out", "filled", "--json", workspace=place).json
    assert [row["sample"] for row in answer["rows"]] == [8, 2, 3]
    assert answer["chosen"] == {"rows": 3, "tokens": 16, "certain": 0, "gaps": 6}
    assert answer["certain"] == {"gaps": 0, "absent": 0, "under": 0}
    assert answer["random"]["low"]["gaps"] < answer["random"]["mean"]["gaps"] < 6
    (manifest,) = place.runs.glob(f"dataset/{answer['run']}/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["n_samples"] == 3


def test_people_read_rows_tokens_and_what_chance_does(place):
    answer = fac(*FILL, "--rows", 2, "--random", "--out", "filled", workspace=place)
    assert answer.code == 0
    for words in (
        "2       14",
        "random rows, the most",
        "python",
        "for synthesis: 1.",
        "at least 83%",
        "None of these gaps of toy-seed is certain: in a dataset of its size chance can",
    ):
        assert words in answer.out
    assert "Left out: samples of toy-pool that toy-seed or toy-anchor has too (2)" in answer.out


def test_only_gaps_of_a_list_and_within_tokens(place):
    answer = fac(*FILL, "--features", "8,5", "--tokens", 7, "--json", workspace=place).json
    assert [row["sample"] for row in answer["rows"]] == [3, 0] and answer["run"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rows", 1, "--tokens", 1),
        ("--rows", 0),
        ("--pool", "nobody"),
        ("--features", "0"),
        ("--threshold", 99, "--out", "filled"),
        ("--out", "a/b"),
    ],
)
def test_what_cannot_be_filled_is_one_sentence(place, wrong):
    assert_one_sentence(fac(*FILL, *wrong, workspace=place))
    assert len([*place.runs.glob("dataset/dataset-*")]) == 3


def test_rows_that_could_be_dropped_are_listed(place, tmp_path):
    about = ("spare", "toy-anchor", "--threshold", 0)
    answer = fac(*about, "--json", workspace=place).json
    assert (answer["samples"], len(answer["kept"])) == (24, 4)
    assert len(answer["covered"]) == min(20 - answer["n_near_copies"], 10)
    answer = fac(*about, "--out", tmp_path / "spare.jsonl", "--json", workspace=place).json
    lines = [json.loads(line) for line in (tmp_path / "spare.jsonl").read_text().splitlines()]
    assert sorted(line["sample"] for line in lines) == answer["dropped"] and len(lines) == 20
    near = [line for line in lines if line["kind"] == "near copy"]
    assert lines[: len(near)] == near and len(near) == answer["n_near_copies"]
    assert all((line["near_copy"] is None) == (line["kind"] == "covered") for line in lines)
    assert all({*line["stand_ins"]} <= {*answer["kept"]} for line in lines)
    words = fac(*about, workspace=place).out
    assert "rows that could be dropped           20" in words
    assert f"of these, nearly repeat another row  {len(near)}" in words
    assert ("Rows whose features others show:" in words) == (len(near) < 20)
    assert ("nearly repeats" in words) == bool(near) == ("Rows that nearly repeat" in words)
    assert_one_sentence(fac("spare", "toy-anchor", "--threshold", 99, workspace=place))
