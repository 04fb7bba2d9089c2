"""fac.review.samples: which kept samples people would train on, and how many they looked at."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from fac import review
from fac.config import RetouchSpec, SynthesizeSpec, Workspace, digest
from fac.manifest import RetouchFacts, SynthesisFacts
from fac.review.samples import Looked
from fac.schema import CANDIDATES, VERDICTS
from fac.store.decisions import Decision, Decisions
from fac.store.runs import Runs, write_table


@pytest.fixture
def store(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "decisions.sqlite")


@pytest.fixture
def runs(workspace: Workspace) -> Runs:
    return Runs(workspace)


def candidate_row(feature: int, text: str = "a python", number: int = 0, **more) -> dict:
    """A row of schema.CANDIDATES with the `kept` and `reason` of its verdict."""
    return {
        "candidate": f"two-step/{feature}/{number}",
        "feature": feature,
        "pair": "p",
        "style": "list",
        "messages": [{"role": "user", "content": text}],
        "extra": "{}",
        "problem": "",
        "tokens": 2,
        "finished": True,
        "prompt_hash": "",
        "seed": 0,
        "kept": True,
        "reason": "",
    } | more


def publish(runs: Runs, spec, inputs: list[str], facts, rows: list[dict]) -> str:
    run = spec.run_id(*inputs, digest(rows))
    verdicts = [
        {
            "candidate": row["candidate"],
            "feature": row["feature"],
            "kept": row["kept"],
            "reason": row["reason"],
            "peak": 1.5,
            "rank": 0 if row["kept"] else -1,
            "gains": [],
        }
        for row in rows
    ]
    candidates = [{name: row[name] for name in CANDIDATES.names} for row in rows]
    folder = runs.scratch(run)
    for name, table, schema in (
        ("candidates", candidates, CANDIDATES),
        ("verdicts", verdicts, VERDICTS),
    ):
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(table, schema), schema)
    runs.publish(run, spec=spec, inputs=inputs, facts=facts, seconds=0.0)
    return run


def synthesized(runs: Runs, rows: list[dict]) -> str:
    spec = SynthesizeSpec(pairs="pairs-1", approved=("p",))
    return publish(runs, spec, ["pairs-1"], SynthesisFacts(), rows)


def edited(runs: Runs, run: str, row: dict, text: str, *, kept: bool = True) -> str:
    """An edit of a kept sample as the step leaves it."""
    row = candidate_row(row["feature"], text, kept=kept, reason="" if kept else "below threshold")
    spec = RetouchSpec(synthetic=run, candidate=row["candidate"], texts=(text,))
    return publish(runs, spec, [run], RetouchFacts(), [row])


def say(store: Decisions, run: str, row: dict, who: str, verdict: str, **more) -> Decision:
    item = review.sample_item(run, row)
    return store.add(who, item.kind, item.subject, item.content, verdict, **more)


def standing(store: Decisions, runs: Runs, run: str) -> dict[int, str]:
    return {each.feature: each.state for each in review.sample_states(store, runs, run).values()}


def test_a_sample_is_its_synthesis_its_gap_and_all_that_leaves_with_it():
    row = candidate_row(3, extra='{"label": "toxic"}')
    item = review.sample_item("synthetic-1", row)
    assert item.subject == "sample/synthetic-1/3/two-step/3/0"
    assert review.read_subject(item.subject) == ("sample", "synthetic-1", 3, "two-step/3/0")
    assert item.content["extra"] == {"label": "toxic"}
    assert review.sample_item("synthetic-1", {**row, "extra": {"label": "toxic"}}) == item
    assert review.item(json.loads(json.dumps(item.content))) == item
    others = (
        review.sample_item("synthetic-2", row),
        review.sample_item("synthetic-1", candidate_row(3, "a Python", extra=row["extra"])),
        review.sample_item("synthetic-1", candidate_row(3, extra='{"label": "kind"}')),
        review.sample_item("synthetic-1", candidate_row(3, number=1, extra=row["extra"])),
    )
    assert digest(item.content) not in {digest(other.content) for other in others}


def test_every_kept_sample_stands_where_people_put_it(store, runs):
    rows = [candidate_row(i) for i in range(8)]
    dropped = candidate_row(9, kept=False, reason="below threshold")
    run = synthesized(runs, [*rows, dropped])
    say(store, run, rows[1], "Ada", "keep")
    say(store, run, rows[2], "Ada", "drop")
    say(store, run, rows[3], "Ada", "wrong_label")
    say(store, run, rows[4], "Ada", "keep")
    say(store, run, rows[4], "Bo", "drop")
    say(store, run, rows[5], "Ada", "keep")
    say(store, run, rows[5], "Bo", "drop")
    say(store, run, rows[5], "Cy", "drop", adjudicates=True)
    store.withdraw(say(store, run, rows[6], "Ada", "drop").uid, "Ada")
    for who, verdict in (("Ada", "keep"), ("Bo", "keep"), ("Cy", "drop")):
        say(store, run, rows[7], who, verdict)
    states = review.sample_states(store, runs, run)
    assert {each.feature: each.state for each in states.values()} == {
        0: "undecided",
        1: "kept",
        2: "dropped",
        3: "wrong label",
        4: "disagreed",
        5: "dropped",
        6: "undecided",
        7: "kept",
    }
    assert states["two-step/7/0"].reviewers == ("Ada", "Bo", "Cy")
    assert states["two-step/1/0"].version.row["messages"] == rows[1]["messages"]


def test_a_wrong_label_may_come_with_the_right_one(store, runs):
    row = candidate_row(1, extra='{"label": "1"}')
    run = synthesized(runs, [row])
    say(store, run, row, "Ada", "wrong_label", edited_text="0")
    say(store, run, row, "Bo", "wrong_label")
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.right_label) == ("wrong label", "0")
    say(store, run, row, "Cy", "keep", adjudicates=True)
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.right_label) == ("kept", None)


def test_decisions_on_another_synthesis_of_the_same_text_do_not_count(store, runs):
    first = synthesized(runs, [candidate_row(1)])
    second = synthesized(runs, [candidate_row(1), candidate_row(2)])
    say(store, first, candidate_row(1), "Ada", "drop")
    assert standing(store, runs, second) == {1: "undecided", 2: "undecided"}


def test_an_edit_that_still_fires_waits_for_a_decision_and_then_stands_for_the_sample(store, runs):
    row = candidate_row(1)
    run = synthesized(runs, [row])
    say(store, run, row, "Ada", "keep")
    edit = edited(runs, run, row, "a large python")
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.version.run) == ("undecided", edit)
    assert [version.run for version in state.versions] == [run, edit]
    assert (state.settled.state, state.settled.version.run) == ("kept", run), "until then"
    counts = review.looked([state])
    assert (counts.looked, counts.kept, counts.edited, counts.waiting) == (1, 1, 0, 1)
    say(store, run, candidate_row(1, "a large python"), "Bo", "keep")
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.reviewers) == ("edited", ("Bo",))
    assert state.version.row["messages"][0]["content"] == "a large python"
    say(store, run, row, "Cy", "keep")  # somebody goes back to the text as it was written
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.version.run) == ("kept", run)


def test_an_edit_that_no_longer_fires_is_not_kept_and_changes_nothing(store, runs):
    row = candidate_row(1)
    run = synthesized(runs, [row])
    say(store, run, row, "Ada", "keep")
    edited(runs, run, row, "a plant", kept=False)
    say(store, run, candidate_row(1, "a plant"), "Ada", "keep")  # an import may bring this
    (state,) = review.sample_states(store, runs, run).values()
    assert (state.state, state.version.run) == ("kept", run)
    assert [version.passes for version in state.versions] == [True, False]


def test_what_people_looked_at_is_counted_with_wilsons_interval(store, runs):
    rows = [candidate_row(i) for i in range(12)]
    run = synthesized(runs, rows)
    assert review.looked(review.sample_states(store, runs, run).values())[:2] == (12, 0)
    for row in rows[:7]:
        say(store, run, row, "Ada", "keep")
    edited(runs, run, rows[7], "a large python")
    say(store, run, candidate_row(7, "a large python"), "Bo", "keep")
    say(store, run, rows[8], "Ada", "drop")
    say(store, run, rows[9], "Ada", "wrong_label")
    counts = review.looked(review.sample_states(store, runs, run).values())
    # 8 of 10: centre (0.8 + z²/20) / (1 + z²/10), half-width by hand with z = 1.959964
    assert counts == Looked(
        samples=12,
        looked=10,
        kept=8,
        edited=1,
        dropped=1,
        wrong_label=1,
        disagreed=0,
        reviewers=("Ada", "Bo"),
        share=0.8,
        low=pytest.approx(0.4902, abs=1e-4),
        high=pytest.approx(0.9433, abs=1e-4),
    )


def test_where_nobody_looked_there_is_no_share(store, runs):
    run = synthesized(runs, [candidate_row(1)])
    counts = review.looked(review.sample_states(store, runs, run).values())
    assert (counts.looked, counts.kept, counts.reviewers) == (0, 0, ())
    assert all(math.isnan(value) for value in (counts.share, counts.low, counts.high))


def test_decisions_on_samples_leave_and_arrive_with_the_others(store, runs, tmp_path):
    row = candidate_row(1, extra='{"label": "toxic"}')
    run = synthesized(runs, [row])
    say(store, run, row, "Ada", "wrong_label", note="nothing toxic in it")
    elsewhere = Decisions(tmp_path / "elsewhere.sqlite")
    assert elsewhere.load(store.export()) == {"added": 1, "known": 0, "rejected": []}
    assert standing(elsewhere, runs, run) == {1: "wrong label"}
    assert elsewhere.current("sample")[0].note == "nothing toxic in it"
