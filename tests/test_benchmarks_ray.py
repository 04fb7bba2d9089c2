"""The benchmarks of Ray and of memory, small."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from fac.config import REPOSITORY

NUMBER = r"[-+]?[\d,]+(?:\.\d+)?"


def told(module, *options, **environment):
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    return [
        [float(cell.replace(",", "")) for cell in re.findall(NUMBER, line)]
        for line in text.splitlines()
        if re.match(r"\| [\d,]+ \|", line)
    ]


@pytest.mark.parametrize("encoder", [[], ["--fake"]], ids=["random weights", "fake"])
def test_memory_is_told_for_every_size(encoder):
    found = rows(told("memory", "--samples", "30", "1500", "--width", "128", *encoder))
    assert [row[0] for row in found] == [30, 1500]
    assert 30 < found[0][1] < found[1][1]  # activations
    assert all(50 < row[4] < 3000 for row in found)  # megabytes: torch alone has some hundred
    assert found[0][5] == 0
    assert found[1][5] == pytest.approx(found[1][4] - found[0][4], abs=1)


@pytest.mark.model
@pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install -r requirements-scale.txt"
)
def test_ray_is_compared_with_local(demo_model_home):
    text = told("ray", "--samples", "12", "--turns", "1", FAC_MODELS=str(demo_model_home))
    assert "12 samples, 1 turns, 1 worker(s) of Ray" in text
    assert "Tables: identical." in text
    assert re.search(r"^\| local \| \S+ \(\S+ to \S+\) \| 1\.000 \|$", text, re.MULTILINE)
    (ratio,) = re.findall(r"^\| ray \| .* \| ([\d.]+) \|$", text, re.MULTILINE)
    assert 0.1 < float(ratio) < 20
    (start,) = re.findall(r"model: ([\d.]+) s, once", text)
    assert 1 < float(start) < 200
