"""What a gap costs: the arithmetic of the table, and one small run through the real model."""

import re
import subprocess
import sys

import pytest

from benchmarks.believe import CORPUS
from benchmarks.filling import NARROW, Way, table, write_files
from fac.config import REPOSITORY

needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not at hand")


def test_costs_are_per_gap_that_is_filled():
    printed = table(
        "the demo",
        [
            Way("pool", 3, 150, 10, 12),
            Way("writing", 4, 120, 5, 12, 2500),
            Way("none", 0, 0, 0, 12),
        ],
    )
    assert printed.splitlines()[2:] == [
        "| pool | 10 of 12 | 3 | 150 | 0.3 | 15 |  |",
        "| writing | 5 of 12 | 4 | 120 | 0.8 | 24 | 500 |",
        "| none | 0 of 12 | 0 | 0 |  |  |  |",
    ]
    assert table("nothing", []) == "No gap of nothing is certain."


@needs_corpus
def test_no_chat_is_in_two_files(tmp_path):
    first = write_files(tmp_path, {"pool": 300}, CORPUS.parent / "README.md")["pool"]
    without = first.rename(tmp_path / "corpus.jsonl")
    paths = [without, *write_files(tmp_path, {"small-talk": 40, "pool": 300}, without).values()]
    corpus, talk, pool = (path.read_text("utf-8").splitlines() for path in paths)
    assert [len(each) for each in (corpus, talk, pool)] == [300, 40, 300]
    assert len({*corpus, *talk, *pool}) == 640
    assert all(f'"{NARROW}"' in line for line in talk)
    assert not all(f'"{NARROW}"' in line for line in pool)


@needs_corpus
@pytest.mark.model
def test_pool_and_writing_fill_the_same_gaps(tmp_path, demo_model_home, monkeypatch):
    monkeypatch.setenv("FAC_MODELS", str(demo_model_home))
    command = [sys.executable, "-m", "benchmarks.filling", "--workspace", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--gaps", "3", "--part", "0.02"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert ended.returncode == 0, ended.stderr
    ways = dict(re.findall(r"^\| ([^|]+) \| (\d+) of 3 \|", ended.stdout, re.MULTILINE))
    assert [*ways] == [
        "pool",
        "writing, two steps",
        "both: the pool, then writing for the rest",
        "random rows of it",
    ]
    pool, writing, both, chance = map(int, ways.values())
    assert max(pool, writing) <= both <= 3 and chance <= pool
    assert re.search(r"^\| pool, all gaps \| \d+ of 71 \|", ended.stdout, re.MULTILINE)
    assert "the corpus" in ended.stdout
