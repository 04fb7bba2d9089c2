"""fac.review: who sees what next, and what people's verdicts amount to."""

import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac import review
from fac.config import PairsSpec, RescoreSpec, Workspace, digest
from fac.errors import InputError
from fac.manifest import PairsFacts
from fac.review import Item
from fac.schema import CANNOT_TELL, LEVELS, PAIRS, RELEVANT
from fac.store.decisions import Decision, Decisions
from fac.store.runs import Runs, write_table

RUN = "measure-abc"
RUBRIC = ("It is about harm.",)


@pytest.fixture
def store(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "decisions.sqlite")


def items(n: int, kind: str = "explanation") -> list[Item]:
    """An item per feature 0..n-1."""
    if kind == "explanation":
        contents = [review.explanation_content(RUN, i, f"word {i}") for i in range(n)]
    else:
        contents = [review.relevance_content(RUN, i, "toxicity", RUBRIC, f"w{i}") for i in range(n)]
    return [review.item(content) for content in contents]


def decision(item: Item, reviewer: str, verdict: str = "yes", **more) -> Decision:
    """What `reviewer` said about the item, without a store; later ones have a later `at`."""
    fields = {
        "uid": digest(item.subject, reviewer, verdict, str(more)),
        "at": "2026-01-01T00:00:00.000000+00:00",
        "reviewer": reviewer,
        "kind": item.kind,
        "subject": item.subject,
        "seen": digest(item.content),
        "verdict": verdict,
        "reasons": (),
        "note": "",
        "edited_text": None,
        "seconds": None,
        "adjudicates": False,
    }
    return Decision(**{**fields, **more})


def say(store: Decisions, item: Item, reviewer: str, verdict: str = "yes", **more) -> Decision:
    return store.add(reviewer, item.kind, item.subject, item.content, verdict, **more)


def take_back(store: Decisions, decision: Decision) -> None:
    store.withdraw(decision.uid, decision.reviewer)


def features(queue: list[Item]) -> list[int]:
    return [item.content["feature"] for item in queue]


# ---- what is shown


def test_what_is_hashed_is_what_was_shown_and_another_wording_is_another_thing():
    content = review.explanation_content(RUN, np.int32(7), "thanks")
    assert content == review.explanation_content(RUN, 7, "thanks")
    for other in (
        review.explanation_content(RUN, 7, "Thanks"),
        review.explanation_content(RUN, 8, "thanks"),
        review.explanation_content("measure-def", 7, "thanks"),
        review.explanation_content(RUN, 7, None),
        review.relevance_content(RUN, 7, "toxicity", RUBRIC, "thanks"),
        review.relevance_content(RUN, 7, "toxicity", ("Another rule.",), "thanks"),
        review.relevance_content(RUN, 7, "survival", RUBRIC, "thanks"),
    ):
        assert digest(other) != digest(content)


def test_subjects_are_the_same_however_the_thing_is_worded():
    item, two = (review.item(review.explanation_content(RUN, 7, text)) for text in ("a", "b"))
    assert item.subject == two.subject == review.subject("explanation", RUN, 7)
    relevance = review.item(review.relevance_content(RUN, 7, "my/task", RUBRIC, None))
    assert review.read_subject(relevance.subject) == ("relevance", RUN, 7, "my/task")
    assert review.read_subject(item.subject) == ("explanation", RUN, 7, "")
    assert review.read_subject("pair/x/y") is review.read_subject("") is None


def test_a_detection_binds_to_the_texts_their_order_and_their_truth():
    rows = [{"tokens": ["a", " b"], "positive": True}, {"tokens": ["c"], "positive": False}]
    content = review.detection_content(RUN, 7, "thanks", rows)
    assert [row["positive"] for row in content["examples"]] == [True, False]
    assert digest(content) != digest(review.detection_content(RUN, 7, "thanks", rows[::-1]))
    moved = [{**rows[0], "tokens": ["a b"]}, rows[1]]
    assert digest(content) != digest(review.detection_content(RUN, 7, "thanks", moved))


@pytest.mark.parametrize("content", [{}, {"kind": "explanation", "measure": RUN, "feature": "x"}])
def test_content_from_elsewhere_is_a_sentence(content):
    with pytest.raises(InputError, match="nothing this page can show"):
        review.item(content)


# ---- what is next


@settings(max_examples=50)
@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 29), st.sampled_from("ABC"), st.booleans()), max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_queue_holds_exactly_what_one_has_not_done_once_each(n, done, overlap, gold):
    everything = items(n)
    given_ = [
        decision(everything[i], who, adjudicates=settles) for i, who, settles in done if i < n
    ]
    mine = {i for i, who, _ in done if who == "A"}
    queue = review.queue(everything, given_, "A", overlap=overlap, gold=gold)
    assert sorted(features(queue)) == [i for i in range(n) if i not in mine]
    assert queue == review.queue(everything[::-1], given_[::-1], "A", overlap=overlap, gold=gold)


def test_each_reviewer_has_an_own_order_and_the_same_overlap():
    everything = items(100)
    ada, ben = (review.queue(everything, [], who) for who in ("Ada", "Ben"))
    assert features(ada) != features(ben)
    shared = [
        [f for f, item in zip(features(q), q, strict=True) if item.overlap] for q in (ada, ben)
    ]
    assert shared[0] == shared[1]
    assert len(shared[0]) == 20
    assert features(review.queue(everything, [], "Ada", seed="2")) != features(ada)


def test_the_overlap_is_spread_so_that_two_who_stop_early_share_some():
    everything = items(200)
    firsts = []
    for who in ("Ada", "Ben", "Cy"):
        queue = review.queue(everything, [], who)
        for start in range(0, 200, 50):
            assert 6 <= sum(item.overlap for item in queue[start : start + 50]) <= 14
        firsts.append(
            {f for f, item in zip(features(queue[:50]), queue, strict=False) if item.overlap}
        )
    assert len(set.intersection(*firsts)) >= 6


def test_work_is_shared_out_but_for_the_overlap():
    everything = items(50)
    left = review.queue(everything, [], "Ada")
    done = [decision(item, "Ada") for item in left[:25]]
    queue = review.queue(everything, done, "Ben")
    again = {item.content["feature"] for item in left[:25] if not item.overlap}
    assert set(features(queue)[-len(again) :]) == again
    assert sum(item.overlap for item in queue) == 10
    assert not any(item.overlap for item in queue[-len(again) :])


def test_two_people_who_decide_in_turn_do_everything_once_and_the_overlap_twice():
    everything = items(30)
    decisions: list[Decision] = []
    while len(decisions) < 30 + 6:
        for who in ("Ada", "Ben"):
            queue = review.queue(everything, decisions, who)
            decisions.append(decision(queue[0], who))
    times = Counter(d.subject for d in decisions)
    assert Counter(times.values()) == {1: 24, 2: 6}


def test_deciding_moves_nothing_else_in_ones_own_queue():
    everything = items(40)
    queue = review.queue(everything, [], "Ada")
    decisions: list[Decision] = []
    for position in range(10):
        decisions.append(decision(queue[position], "Ada"))
        assert review.queue(everything, decisions, "Ada") == queue[position + 1 :]


def test_gold_comes_to_those_who_did_not_make_it():
    everything = items(50)
    gold = [item for item in everything if not _in_overlap(item, everything)][:10]
    settled = [decision(item, "Ada", "no", adjudicates=True) for item in gold]
    queue = review.queue(everything, settled, "Ben")
    front = [item for item in queue[:45] if item.gold]
    assert len(front) == 5  # a tenth of all
    assert all(item.gold for item in queue[-5:])  # the other five are done
    assert not any(item.gold for item in review.queue(everything, settled, "Ada"))
    assert len(review.queue(everything, settled, "Ada")) == 40


def _in_overlap(item: Item, everything: list[Item]) -> bool:
    return any(i.overlap for i in review.queue(everything, [], "x") if i.subject == item.subject)


def test_a_reworded_explanation_is_to_be_decided_again():
    old, new = (review.item(review.explanation_content(RUN, 7, text)) for text in ("a", "b"))
    assert review.queue([old], [decision(old, "Ada")], "Ada") == []
    assert features(review.queue([new], [decision(old, "Ada")], "Ada")) == [7]


def test_a_name_typed_with_a_space_is_the_same_reviewer():
    everything = items(10)
    assert review.queue(everything, [], " Ada ") == review.queue(everything, [], "Ada")
    with pytest.raises(InputError, match="A reviewer needs a name"):
        review.queue(everything, [], "")


@pytest.mark.quiet
def test_the_queue_of_a_whole_dictionary_is_quick():
    everything = items(4608)
    decisions = [decision(item, "Ben") for item in everything[:1000]]
    seconds = []
    for _ in range(4):  # the first one hashes every item; others may want the processor too
        start = time.process_time()
        review.queue(everything, decisions, "Ada")
        seconds.append(time.process_time() - start)
    assert min(seconds[1:]) < 0.4


def test_undo_takes_back_the_last_word_and_what_it_replaced_stands_again(store):
    item, two = items(2)
    first = say(store, item, "Ada", "no")
    say(store, two, "Ben", "no")
    second = say(store, item, "Ada", "yes")
    take_back(store, second)
    assert store.current(reviewer="Ada") == [first]
    take_back(store, first)
    assert store.current(reviewer="Ada") == []
    assert len(store.current()) == 1


def test_pace_is_the_median_of_what_was_measured():
    item, two, three = items(3)
    decisions = [decision(item, "Ada", seconds=4.0), decision(two, "Ada", seconds=600.0)]
    decisions += [decision(three, "Ada", seconds=6.0), decision(three, "Ada", "no")]
    assert review.pace(decisions, 20) == (6.0, 2.0)
    assert all(map(math.isnan, review.pace([], 20)))


# ---- what it amounts to


@pytest.mark.parametrize(
    "verdicts,verdict,by",
    [
        ("", None, "undecided"),
        ("yes", "yes", "agreed"),
        ("no no", "no", "agreed"),
        ("yes no", None, "disputed"),
        ("yes yes no", "yes", "majority"),
        ("no no yes", "no", "majority"),
        ("yes probably", "probably", "majority"),
        ("yes maybe no", "maybe", "majority"),
        ("yes probably maybe", "probably", "majority"),
        ("yes no probably no", None, "disputed"),
        ("cannot_tell", CANNOT_TELL, "agreed"),
        ("cannot_tell yes", "yes", "agreed"),
        ("cannot_tell cannot_tell no", "no", "agreed"),
        ("cannot_tell yes no", None, "disputed"),
    ],
)
def test_what_verdicts_amount_to(verdicts, verdict, by):
    (item,) = items(1)
    given_ = [decision(item, f"p{i}", v) for i, v in enumerate(verdicts.split())]
    standing = review.standing(given_)
    assert (standing.verdict, standing.by) == (verdict, by)
    assert sorted(standing.decisions) == sorted(given_)


def test_pairs_have_no_levels_but_a_majority():
    item = Item("pair", "pair/1", {})
    votes = [decision(item, who, v) for who, v in (("A", "approve"), ("B", "reject"))]
    assert review.standing(votes).by == "disputed"
    assert review.standing([*votes, decision(item, "C", "reject")]).verdict == "reject"


@given(st.lists(st.sampled_from([*LEVELS, CANNOT_TELL]), max_size=7))
def test_a_verdict_is_on_the_side_that_more_than_half_took(verdicts):
    (item,) = items(1)
    standing = review.standing([decision(item, f"p{i}", v) for i, v in enumerate(verdicts)])
    votes = [v in RELEVANT for v in verdicts if v != CANNOT_TELL]
    if votes:
        share = sum(votes) / len(votes)
        side = None if standing.verdict is None else standing.verdict in RELEVANT
        assert side == (None if share == 0.5 else share > 0.5)
    else:
        assert standing.verdict == (CANNOT_TELL if verdicts else None)


def test_an_adjudication_wins_and_the_newest_of_two(store):
    (item,) = items(1)
    for who, verdict in (("Ada", "yes"), ("Ben", "yes"), ("Cy", "no")):
        say(store, item, who, verdict)
    say(store, item, "Ada", "maybe", adjudicates=True)
    assert review.standing(store.current())[:2] == ("maybe", "adjudication")
    say(store, item, "Ben", "no", adjudicates=True)
    assert review.standing(store.current())[:2] == ("no", "adjudication")


def test_people_override_the_judge_for_what_is_shown_today(store):
    zero, item, two, three = items(4, "relevance")
    say(store, zero, "Ada", "no")
    say(store, item, "Ada", "yes")
    say(store, item, "Ben", "no")
    say(store, two, "Ada", CANNOT_TELL)
    reworded = review.item(review.relevance_content(RUN, 3, "toxicity", RUBRIC, "better"))
    say(store, three, "Ada", "yes")
    say(store, reworded, "Ada", "maybe")
    other_task = review.item(review.relevance_content(RUN, 0, "survival", RUBRIC, "w0"))
    say(store, other_task, "Ada", "yes")
    other_run = review.item(review.relevance_content("measure-x", 1, "toxicity", RUBRIC, "w1"))
    say(store, other_run, "Ada", "yes")

    def levels(*contents):
        verdicts = review.relevance_overrides(store, RUN, "toxicity", *contents)
        return {feature: standing.verdict for feature, standing in verdicts.items()}

    assert levels([i.content for i in (zero, item, two, three)]) == {0: "no", 3: "yes"}
    assert levels([i.content for i in (zero, item, two, reworded)]) == {0: "no", 3: "maybe"}
    assert levels([]) == {}
    assert levels() == {0: "no", 3: "maybe"}


def test_corrections_are_the_newest_text_an_adjudicators_first(store):
    zero, item, two = items(3)
    say(store, zero, "Ada", "no", edited_text="first try")
    say(store, zero, "Ben", "maybe", edited_text="second try")
    say(store, item, "Ada", "maybe", edited_text="settled", adjudicates=True)
    say(store, item, "Ben", "maybe", edited_text="later, but not settled")
    say(store, two, "Ada", "yes")
    assert review.corrections(store, RUN) == {0: "second try", 1: "settled"}
    assert review.corrections(store, "measure-other") == {}
    for _ in range(2):
        take_back(store, store.current(reviewer="Ben")[-1])
    assert review.corrections(store, RUN)[0] == "first try"


def test_a_correction_that_people_find_wrong_gives_way_to_the_one_before(store):
    (zero,) = items(1)
    say(store, zero, "Ada", "no", edited_text="better")
    say(store, zero, "Ben", "no", edited_text="worse")
    worse = review.item(review.explanation_content(RUN, 0, "worse"))
    say(store, worse, "Ada", "no")
    assert review.corrections(store, RUN) == {0: "better"}
    say(store, worse, "Cy", "yes", adjudicates=True)
    assert review.corrections(store, RUN) == {0: "worse"}


# ---- pairs


def pair_row(feature: int, text: str = "a python", **more) -> dict:
    """A row of schema.PAIRS."""
    return {
        "pair": digest(feature, text),
        "feature": feature,
        "status": "proposed",
        "reason": "",
        "origin": "own",
        "candidate": "c",
        "positive": [{"role": "user", "content": text}],
        "positive_peak": 1.1,
        "positive_tokens": ["a", " python"],
        "positive_activations": [0.0, 1.1],
        "negative": [{"role": "user", "content": "a plant"}],
        "negative_origin": "edit",
        "negative_peak": 0.0,
        "negative_tokens": ["a", " plant"],
        "negative_activations": [0.0, 0.0],
    } | more


def publish_pairs(runs: Runs, rows: list[dict], edits: str = "") -> str:
    """A finished pairs run, or one of an edit of the run `edits`; its id."""
    if edits:
        text = rows[0]["positive"][0]["content"]
        spec = RescoreSpec(
            pairs=edits, feature=rows[0]["feature"], positive=text, negative="a plant"
        )
    else:
        spec = PairsSpec(anchor="measure-a", dataset="measure-b", features=(1,), seed=len(rows))
    run = spec.run_id(edits, digest(rows))
    table = pa.Table.from_pylist(rows, PAIRS)
    write_table(runs.scratch(run) / "pairs.parquet", table, PAIRS)
    runs.publish(run, spec=spec, inputs=[edits or "measure-a"], facts=PairsFacts(), seconds=0.0)
    return run


def rule(store: Decisions, runs: Runs, run: str, feature: int, who: str, verdict: str, **more):
    """`who` decides on the pair of a feature as it is in the run."""
    (row,) = [r for r in runs.table(run, "pairs").to_pylist() if r["feature"] == feature]
    item = review.pair_item(run, row)
    return store.add(who, item.kind, item.subject, item.content, verdict, **more)


@pytest.fixture
def runs(workspace: Workspace) -> Runs:
    return Runs(workspace)


def test_a_pair_is_its_run_its_texts_and_their_peaks():
    content = review.pair_content("pairs-1", pair_row(3))
    assert content["positive"] == [{"role": "user", "content": "a python"}]
    assert (content["positive_peak"], content["negative_peak"]) == (1.1, 0.0)
    stored = pair_row(3, positive_peak=float(np.float32(1.1)))  # as Parquet gives it back
    assert digest(review.pair_content("pairs-1", stored)) == digest(content)
    others = (
        review.pair_content("pairs-2", pair_row(3)),
        review.pair_content("pairs-1", pair_row(3, "a Python")),
        review.pair_content("pairs-1", pair_row(3, positive_peak=1.2)),
        review.pair_content("pairs-1", pair_row(3, negative_peak=0.2)),
    )
    assert digest(content) not in {digest(other) for other in others}
    assert review.pair_item("pairs-1", pair_row(3)).subject == "pair/pairs-1/3"


def test_approved_is_what_stands_and_says_who_and_what(store, runs):
    run = publish_pairs(runs, [pair_row(i) for i in range(6)] + [pair_row(6, status="failed")])
    rule(store, runs, run, 0, "Ada", "approve")
    rule(store, runs, run, 0, "Bo", "approve")
    rule(store, runs, run, 1, "Ada", "reject")
    rule(store, runs, run, 2, "Ada", "approve")
    rule(store, runs, run, 2, "Bo", "reject")  # disputed
    rule(store, runs, run, 3, "Ada", CANNOT_TELL)
    rule(store, runs, run, 4, "Ada", "reject")
    settled = rule(store, runs, run, 4, "Cy", "approve", adjudicates=True)
    store.withdraw(rule(store, runs, run, 5, "Ada", "approve").uid, "Ada")
    rule(store, runs, run, 6, "Ada", "approve")  # failed pairs cannot be used, whoever says so
    standing = review.approved_pairs(store, runs, run)
    assert [(row["feature"], row["approver"]) for row in standing] == [(0, "Ada, Bo"), (4, "Cy")]
    row = standing[1]
    assert row["approved"] == settled.at and row["run"] == run
    assert row["seen"] == digest(row["content"]) == settled.seen
    assert {d.verdict for d in row["decisions"]} == {"approve", "reject"}
    assert row["pair"] == pair_row(4)["pair"] and row["positive"] == pair_row(4)["positive"]


def test_changing_ones_mind_counts(store, runs):
    run = publish_pairs(runs, [pair_row(1)])
    for verdict, approved in (("approve", [1]), ("reject", []), ("approve", [1])):
        rule(store, runs, run, 1, "Ada", verdict)
        assert [row["feature"] for row in review.approved_pairs(store, runs, run)] == approved
    take_back(store, store.current("pair", reviewer="Ada")[-1])  # what it replaced stands again
    assert review.approved_pairs(store, runs, run) == []


def test_an_approval_of_another_run_of_the_same_pair_does_not_count(store, runs):
    first = publish_pairs(runs, [pair_row(1)])
    second = publish_pairs(runs, [pair_row(1), pair_row(2)])
    rule(store, runs, first, 1, "Ada", "approve")
    assert review.approved_pairs(store, runs, second) == []


def test_an_edit_makes_earlier_approvals_stale_whatever_version_they_are_of(store, runs):
    def approved() -> list[tuple[int, str]]:
        return [(r["feature"], r["run"]) for r in review.approved_pairs(store, runs, run)]

    run = publish_pairs(runs, [pair_row(1), pair_row(2)])
    for feature in (1, 2):
        rule(store, runs, run, feature, "Ada", "approve")
    edited = publish_pairs(runs, [pair_row(1, "my python")], edits=run)
    assert approved() == [(2, run)]
    rule(store, runs, edited, 1, "Ada", "approve")
    assert approved() == [(1, edited), (2, run)]
    again = publish_pairs(runs, [pair_row(1, "our python")], edits=edited)
    assert approved() == [(2, run)]
    rule(store, runs, again, 1, "Ada", "reject")
    assert approved() == [(2, run)]
    # A person may still come back to the first version, knowing the others.
    rule(store, runs, run, 1, "Ada", "approve")
    assert approved() == [(1, run), (2, run)]
    # An edit of another run is nobody's business here.
    publish_pairs(runs, [pair_row(2, "their python")], edits=publish_pairs(runs, [pair_row(2)]))
    assert approved() == [(1, run), (2, run)]
