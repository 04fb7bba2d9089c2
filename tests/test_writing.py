"""What the demo model writes for gaps of the demo: every profile, plain and steered."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fac import datasets, demo
from fac.config import PairsSpec, Workspace
from fac.jobs.steps import Steps
from fac.schema import Chat
from tests.test_cli import fac

pytestmark = pytest.mark.model

GAPS = 8

ROLES = {
    "instruction": ["user"],
    "chat": ["user", "assistant"],
    "toxicity": ["user"],
    "preference": ["user", "assistant"],
    "choice": ["user"],
}


class Kitchen:
    """The demo in a workspace of its own, with the model loaded at most once."""

    def __init__(self, workspace: Workspace, models: Path):
        self.workspace = workspace
        self.steps = Steps(self.workspace, models=models)
        sides = ("--anchor", demo.ANCHOR, "--dataset", demo.SEED, "--threshold", 0)
        line = ("gaps", *sides, "--kind", "absent", "--limit", GAPS, "--json")
        self.gaps = tuple(
            row["feature"] for row in fac(*line, workspace=self.workspace).json["gaps"]
        )
        self.anchor, self.dataset = (
            self.steps.runs.resolve("measure", name) for name in (demo.ANCHOR, demo.SEED)
        )

    def write(self, **how: Any) -> str:
        """Pairs for the best supported gaps; the id of their run."""
        sides = {"anchor": self.anchor, "dataset": self.dataset, "features": self.gaps}
        return self.steps.perform(PairsSpec(**sides, **how), ignore)

    def rows(self, run: str, table: str) -> list[dict[str, Any]]:
        return self.steps.runs.table(run, table).to_pylist()


def ignore(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def kitchen(
    tmp_path_factory: pytest.TempPathFactory,
    demo_model_home: Path,
    copy_demo: Callable[[Path], Workspace],
) -> Kitchen:
    return Kitchen(copy_demo(tmp_path_factory.mktemp("writing") / "demo"), demo_model_home)


@pytest.mark.parametrize("profile", ROLES)
def test_a_small_model_writes_samples_that_can_be_read_in_every_profile(kitchen, profile):
    run = kitchen.write(profile=profile, candidates=1, max_new_tokens=96)
    rows = kitchen.rows(run, "candidates")
    assert [row["feature"] for row in rows] == sorted(kitchen.gaps)
    read = [row["messages"] for row in rows if not row["problem"]]
    assert read, [row["problem"] for row in rows]
    whole = ROLES[profile]
    for messages in read:  # what is worth no second turn has one alone
        roles = [message["role"] for message in messages]
        assert roles in (whole, whole[:1], whole[1:]) and roles
        assert all(message["content"].strip() for message in messages)
    assert_a_dataset_takes(read)
    for row in kitchen.rows(run, "pairs"):
        if row["origin"] in ("own", "pool"):
            assert [message["role"] for message in row["positive"]] == whole


def assert_a_dataset_takes(chats: Sequence[Chat]) -> None:
    """None is empty, and no two of them are the same sample."""
    assert len({datasets.sample_id(chat) for chat in chats}) == len(chats)


def test_a_steered_writer_writes_other_texts_for_the_same_gaps(kitchen):
    # That they fire it more strongly is not claimed: over 96 texts of either seed they did not.
    def texts(writer: str) -> dict[str, str]:
        run = kitchen.write(writer=writer, candidates=2, max_new_tokens=32)
        return {row["candidate"]: str(row["messages"]) for row in kitchen.rows(run, "candidates")}

    plain, steered = texts("local"), texts("steered")
    assert plain.keys() == steered.keys() and len(plain) == 2 * GAPS
    assert sum(plain[name] != steered[name] for name in plain) > GAPS
