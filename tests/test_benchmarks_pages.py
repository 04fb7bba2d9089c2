"""The benchmarks of the pages and of the map; what is measured is left as it was."""

import re
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from benchmarks.dashboard import Session, server
from benchmarks.map import decoder, true_neighbours, trustworthiness
from benchmarks.pages import VISITS, Figures, borrowed, slide, table
from fac.config import REPOSITORY
from fac.dictionary import nearest
from fac.store.decisions import Decisions
from tests.toy import toy_workspace


def everything_in(folder):
    return {
        path.relative_to(folder): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_page_is_driven_and_the_workspace_is_only_read(tmp_path):
    workspace = toy_workspace(tmp_path / "toy", explained=True)
    before = everything_in(workspace.root)
    command = [sys.executable, "-m", "benchmarks.pages", "--quick"]
    ended = subprocess.run(
        [*command, "--workspace", str(workspace.root)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert ended.returncode == 0, ended.stderr
    rows = re.findall(r"^\| (\w+) \| ([\w ]+) \| (\d+) \| (\d+) \| (\d+) \|$", ended.stdout, re.M)
    assert {page for page, *_ in rows} == {*VISITS}
    done = {(page, what) for page, what, *_ in rows}
    assert {("home", "threshold"), ("coverage", "next gap"), ("review", "next item")} <= done
    for _, _, middle, late, size in rows:
        assert 0 < int(middle) <= int(late) and int(size) > 0
    left_out = set(re.findall(r"^(\w+), ([\w ]+): left out", ended.stderr, re.M))
    assert left_out == {(p, w) for p in VISITS for w in VISITS[p][1]} - done
    assert ("pairs", "next pair") in left_out, "the toy workspace has no pairs"
    assert everything_in(workspace.root) == before


def test_a_session_does_what_a_browser_does(tmp_path):
    """What is timed is the page at work: it changes what it shows."""
    workspace = toy_workspace(tmp_path, explained=True)
    with server(workspace) as address:
        session = Session(address)
        assert session.open("coverage").bytes > 10_000
        assert session.find(key="Coverage.threshold", kind="slider")
        whole = slide(session, 1).bytes
        assert 0 < session.choose("gaps-", cells=[(1, "name")]).bytes < whole
        with pytest.raises(LookupError, match="no button 'Fly'"):
            session.press("Fly")
        session.open("review", "reviewer=somebody&which=explained")
        session.press("Yes")
        session.close()
    (decision,) = Decisions(workspace.decisions).history(10)
    assert (decision.reviewer, decision.verdict) == ("somebody", "yes")


def test_what_is_done_in_a_borrowed_workspace_stays_there(tmp_path):
    workspace = toy_workspace(tmp_path)
    Decisions(workspace.decisions)
    before = everything_in(workspace.root)
    with borrowed(workspace) as copy:
        assert {p.name for p in copy.cache.iterdir()} == {p.name for p in workspace.cache.iterdir()}
        assert len([*copy.runs.glob("*/*")]) == len([*workspace.runs.glob("*/*")])
        copy.decisions.write_bytes(b"")
        copy.queue.write_bytes(b"")
    assert not copy.root.exists()
    assert everything_in(workspace.root) == before


def test_percentiles_are_in_milliseconds_and_the_largest_message_counts():
    lines = table([Figures("home", "open", [0.1] * 19 + [0.5], [1_000, 251_400])])
    assert lines.splitlines()[-1] == "| home | open | 100 | 120 | 251 |"


def test_the_map_is_timed_and_compared_with_the_truth():
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.map", "--approximate"]
    ended = subprocess.run(
        [*command, "--sizes", "600x64"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert ended.returncode == 0, ended.stderr
    (row,) = re.findall(r"^\| 600 x 64 \|(.*)\|$", ended.stdout, re.M)
    megabytes, seconds, beyond, recall, close, trust = map(str.strip, row.split("|"))
    assert 0 < float(seconds) < 300 and float(beyond) > 0 and megabytes == "0"
    assert 90 < float(recall.rstrip("%")) <= float(close.rstrip("%")) <= 100
    assert 0.7 < float(trust) <= 1


def test_a_map_of_the_directions_themselves_is_trusted_and_a_shuffled_one_is_not():
    flat = decoder(400, 2)
    angle = np.arctan2(flat[:, 1], flat[:, 0])
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert trustworthiness(flat, circle) > 0.999
    shuffled = np.random.default_rng(0).permutation(circle)
    assert 0.4 < trustworthiness(flat, shuffled) < 0.6
    true, _ = nearest(flat, 5)
    assert true_neighbours(flat, true) == (1.0, 1.0)
    assert true_neighbours(flat, np.full_like(true, -1)) == (0.0, 0.0)
