"""fac.synthesis: killed in any phase, nothing is lost, doubled or paid twice."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import test_answers, test_synthesis
from tests.mortal import Mortals, leftovers
from tests.test_synthesis import World
from tests.toy import toy_workspace

DEATHS = (("text", 4),) * 3 + (("note", 2),) * 3 + (("file", 4),) * 4
"""Ten phases to die in, and after how many marks of it at most: that many there are before a step
ends. No death while texts are written follows one after which all of them are there."""

DEATHS_IN_ROUNDS = (
    *(("text", 3), ("answer", 1), ("note", 2), ("text", 2), ("answer", 1)),
    *(("note", 2), ("file", 4), ("file", 4)),
)
"""The same where answers are written too, round by round."""


@pytest.fixture
def mortals() -> Iterator[Mortals]:
    mortals = Mortals()
    yield mortals
    with mortals.nursery as nursery:
        nursery.stdin.close()


class Lives:
    """A world in which steps are killed, and one like it in which they are not."""

    def __init__(self, root: Path, samples: Any, mortals: Mortals):
        world = World(toy_workspace(root / "first", n_features=5, samples=samples))
        self.mortal, self.calm = (world.copy(root / name) for name in ("mortal", "calm"))
        self.root, self.go = root, mortals.go

    def run(self, step: str, run: str, deaths: Sequence[tuple[str, int]], **more: Any) -> str:
        """A step that dies in all these ways, then finishes, and once undisturbed; the run's id.
        What is asked for is the same, and nothing more than what was on its way is asked again."""
        rng = random.Random(9)
        log, calm_log = self.root / f"{step}.log", self.root / f"{step}.calm.log"
        died = [
            self.go(self.mortal, log, step, run, phase, rng.randint(1, most), **more)
            for phase, most in deaths
        ]
        assert {death.split()[0] for death in died} == {phase for phase, _ in deaths}
        assert self.mortal.runs.list("pairs" if step == "pairs" else "synthetic") == []
        finished = self.go(self.mortal, log, step, run, **more)
        assert self.go(self.calm, calm_log, step, run, **more) == finished
        written, calmly = written_of(log), written_of(calm_log)
        assert written.keys() == calmly.keys() and set(calmly.values()) == {1}
        # Only a text that was on its way when the process died is written again: one a kill.
        on_its_way = sum(death.startswith(("text", "answer")) for death in died)
        assert written.total() <= len(written) + on_its_way
        return finished

    def same(self, run: str, tables: Sequence[str]) -> None:
        assert self.mortal.runs.verify(run) == []
        for table in tables:
            assert self.mortal.rows(run, table) == self.calm.rows(run, table), table

    def approve(self, run: str) -> None:
        self.mortal.approve(run)
        for name in ("decisions.sqlite", "decisions.sqlite-wal", "decisions.sqlite-shm"):
            if (self.mortal.workspace.root / name).exists():
                folder = self.calm.workspace.root
                shutil.copy(self.mortal.workspace.root / name, folder / name)

    def same_kept(self, made: str) -> None:
        """What was kept is the same, and nothing else lies about."""
        self.same(made, ("candidates", "verdicts", "hits", "traces", "decisions"))
        self.same(self.mortal.facts(made).kept_dataset, ("samples", "rejected"))
        assert leftovers(self.mortal) == leftovers(self.calm) == []


def written_of(log: Path) -> Counter[str]:
    """How often each text was written."""
    marks = log.read_text().splitlines()
    return Counter(mark for mark in marks if mark.startswith(("text", "answer")))


def test_killed_at_any_moment_nothing_is_lost_doubled_or_written_twice(mortals, tmp_path):
    lives = Lives(tmp_path, test_synthesis.SAMPLES, mortals)
    run = lives.run("pairs", "", DEATHS)
    lives.same(run, ("pairs", "candidates", "hits"))
    lives.approve(run)
    made = lives.run("synthesize", run, DEATHS)
    assert lives.mortal.facts(made).kept == 4
    assert lives.mortal.facts(made).n_candidates == 24
    lives.same_kept(made)


def test_killed_between_rounds_and_answers_the_rows_are_the_same(mortals, tmp_path):
    lives = Lives(tmp_path, test_answers.SAMPLES, mortals)
    chats: dict[str, Any] = {"profile": "chat", **test_answers.SERVER}
    run = lives.run("pairs", "", (), **chats)
    lives.approve(run)
    made = lives.run("synthesize", run, DEATHS_IN_ROUNDS, rows=4, **chats)
    facts = lives.mortal.facts(made)
    # The first five of a gap fire nothing, so that it takes rounds of 1, 1, 2 and 4 texts. One gap
    # is answered throughout, as it fires there, the other for its two rows.
    assert facts.kept == 4 and facts.note == "" and facts.n_candidates == 16
    assert facts.answers == 8 + 2
    lives.same_kept(made)
