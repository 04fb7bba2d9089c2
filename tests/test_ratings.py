"""fac.questions.ratings: how well people agree, with each other and with a judge."""

import math
from pathlib import Path

import pytest

from fac import agreement, review
from fac.config import digest
from fac.questions import ratings
from fac.questions.ratings import HumanCheck
from fac.review import Wording
from fac.schema import CANNOT_TELL
from fac.store.decisions import Decisions
from tests.test_review import RUBRIC, RUN, decision, items, say


@pytest.fixture
def store(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "decisions.sqlite")


def test_ratings_are_blind_levels_of_one_kind_with_gaps():
    zero, first, two = items(3)
    reworded = review.item(review.explanation_content(RUN, 0, "other words"))
    decisions = [
        decision(zero, "Ada", "yes"),
        decision(zero, "Ben", "no"),
        decision(reworded, "Ben", "maybe"),
        decision(first, "Ada", "probably"),
        decision(first, "Ben", CANNOT_TELL),
        decision(first, "Cy", "no", adjudicates=True),
        decision(two, "Cy", CANNOT_TELL),
        decision(items(1, "relevance")[0], "Ada", "no"),
    ]
    codes, subjects, reviewers = ratings.ratings_matrix(decisions, "explanation")
    assert reviewers == ["Ada", "Ben"]
    table = {wording: row.tolist() for wording, row in zip(subjects, codes, strict=True)}
    expected = {
        Wording(zero.subject, digest(zero.content)): [0.0, 3.0],
        Wording(zero.subject, digest(reworded.content)): [math.nan, 2.0],
        Wording(first.subject, digest(first.content)): [1.0, math.nan],
    }
    assert table.keys() == expected.keys()
    for wording, row in expected.items():
        assert table[wording] == pytest.approx(row, nan_ok=True)
    nothing, none, nobody = ratings.ratings_matrix([], "explanation")
    assert (nothing.shape, none, nobody) == ((0, 0), [], [])
    assert all(c.undefined for c in agreement.summary(nothing, 4, ordinal=True))


def test_disagreements_come_in_the_order_of_the_gaps_they_change():
    zero, first, two, three, four = items(5, "relevance")
    decisions = [
        *(decision(zero, "Ben", "no"), decision(zero, "Ada", "maybe")),
        *(decision(first, "Ada", "yes"), decision(first, "Ben", "no")),
        *(decision(two, "Ada", "yes"), decision(two, "Ben", "maybe")),
        *(decision(three, "Ada", "yes"), decision(three, "Ben", "yes")),
        *(decision(four, "Ada", "yes"), decision(four, "Ben", "no")),
        decision(four, "Cy", "no", adjudicates=True),
    ]
    weights = {zero.subject: 5, first.subject: 5, two.subject: 9, four.subject: 9}
    rows = ratings.disagreements(decisions, "relevance", weights=weights)
    assert [(d.wording.subject, d.gaps, d.levels_apart) for d in rows] == [
        (first.subject, 5, 3),
        (zero.subject, 5, 1),
        (two.subject, 0, 2),  # relevant either way
    ]
    assert [d.reviewer for d in rows[1].decisions] == ["Ada", "Ben"]
    assert [d.gaps for d in ratings.disagreements(decisions, "relevance")] == [0, 0, 0]
    assert ratings.disagreements(decisions, "explanation") == []


def test_calibration_counts_what_people_settled_per_level_of_the_judge():
    things = items(5, "relevance")
    decisions = [
        decision(things[0], "Ada", "yes"),
        decision(things[1], "Ada", "no"),
        *(decision(things[2], "Ada", "yes"), decision(things[2], "Ben", "no")),  # disputed
        decision(things[3], "Ada", CANNOT_TELL),
        decision(things[4], "Ada", "maybe"),
    ]
    judged = {thing.subject: "yes" for thing in things[:4]} | {things[4].subject: "no"}
    rows = {row.level: row for row in ratings.calibration(decisions, judged)}
    assert (rows["yes"].n, rows["yes"].n_relevant) == (2, 1)
    assert (rows["no"].n, rows["no"].n_relevant) == (1, 1)
    assert rows["maybe"].n == 0
    assert all(row.n == 0 for row in ratings.calibration([], judged))


def test_calibration_takes_the_wording_decided_on_last():
    old, new = (
        review.item(review.relevance_content(RUN, 0, "toxicity", RUBRIC, text)) for text in "ab"
    )
    decisions = [
        decision(new, "Ada", "no", at="2026-02-01T00:00:00.000000+00:00"),
        decision(old, "Ada", "yes"),
    ]
    rows = ratings.calibration(decisions, {old.subject: "yes"})[0]
    assert (rows.n, rows.n_relevant) == (1, 0)


def test_the_papers_check_needs_two_who_agree_everything_else_is_unclear():
    things = items(6, "relevance")
    verdicts = [
        ("yes", "maybe"),  # both relevant
        ("no", "no"),
        ("yes", "no"),
        ("yes", CANNOT_TELL),
        (CANNOT_TELL, CANNOT_TELL),
        ("yes",),  # one person alone
    ]
    decisions = [
        decision(thing, who, verdict)
        for thing, given_ in zip(things, verdicts, strict=True)
        for who, verdict in zip(("Ada", "Ben"), given_, strict=False)
    ]
    decisions.append(decision(things[5], "Cy", "yes", adjudicates=True))
    assert ratings.human_check(decisions) == HumanCheck(n=5, relevant=1, irrelevant=1, unclear=3)
    only = [things[0].subject, things[5].subject]
    assert ratings.human_check(decisions, only) == HumanCheck(
        n=1, relevant=1, irrelevant=0, unclear=0
    )
    assert ratings.human_check([]) == HumanCheck(0, 0, 0, 0)


def test_the_papers_table_adds_up():
    assert [*ratings.TABLE_5] == ["toxicity", "reward", "IF"]
    for check in ratings.TABLE_5.values():
        assert check.relevant + check.irrelevant + check.unclear == check.n == 200


def test_a_persons_detection_is_scored_against_the_truth(store):
    rows = [{"tokens": [str(i)], "positive": i < 3} for i in range(6)]
    item = review.item(review.detection_content(RUN, 7, "thanks", rows))
    say(store, item, "Ada", "++--?+")
    say(store, item, "Ben", "??????")
    say(store, item, "Cy", "++")  # an answer that does not fit the texts is no answer
    ada, ben = ratings.human_detection(store, RUN)
    assert (ada.feature, ada.reviewer, ben.reviewer) == (7, "Ada", "Ben")
    assert ada.score.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (ada.score.n, ada.score.n_positive) == (5, 3)
    assert ben.score.n == 0
    assert math.isnan(ben.score.value)
    assert ratings.human_detection(store, "measure-other") == []


@pytest.mark.parametrize(
    "content", [{}, {"examples": 3}, {"examples": [1, None]}, {"examples": [{"text": "x"}]}]
)
def test_a_detection_that_an_import_brought_without_truth_is_left_out(store, content):
    store.add("Ada", "detection", f"detection/{RUN}/7", content, "+")
    assert ratings.human_detection(store, RUN) == []


def test_a_reviewers_record_counts_how_often_they_were_right_where_it_is_settled():
    first, two, three = items(3)
    decisions = [
        decision(first, "ana", "yes", seconds=2.0),
        decision(two, "ana", "no", seconds=6.0),
        decision(three, "ana", "cannot_tell", seconds=4.0),
        decision(first, "ben", "maybe"),
        decision(first, "eva", "probably", adjudicates=True),
        decision(two, "eva", "probably", adjudicates=True),
    ]
    ana, ben = ratings.record_rows(decisions, "explanation")
    # yes is next to probably, no is not; nobody settled the third
    assert ana == {"reviewer": "ana", "decisions": 3, "seconds": 4.0, "gold": "1 of 2"}
    assert ben == {"reviewer": "ben", "decisions": 1, "seconds": None, "gold": "1 of 1"}
    assert ratings.record_rows(decisions, "relevance") == []
