"""What a synthesis says of itself on every page: figures worked out by hand, and what happened."""

import pytest

from fac.manifest import SynthesisFacts
from fac.questions import results
from fac.synthesis.filter import REASONS


def facts(**more: object) -> SynthesisFacts:
    usual = {"gaps": 10, "n_candidates": 40, "any_hit_rate": 0.5}
    return SynthesisFacts(**{**usual, **more})


def test_own_words_are_what_counts_and_an_older_run_says_that_it_did_not_tell_them_apart():
    kept = {"kept": 4, "gaps_hit": 3, "dropped": {"beaten": 36}}
    words = "3 of 10 gaps have a sample that fires them in its own words."
    assert results.ending(facts(**kept)) == words
    assert results.ending(facts(**kept, note="4 of 9 rows are kept.")).endswith("rows are kept.")
    older = results.ending(facts(**kept, any_hit_rate=None))
    assert "own words were not told apart then" in older and "in its own words" not in older


def test_a_writer_that_refuses_everything_is_said_and_what_to_do():
    words = results.ending(facts(dropped={"refusal": 40}))
    assert words.startswith("The writer refused all 40 texts, so there is nothing to export.")
    assert "Choose another writer" in words


@pytest.mark.parametrize("reason", REASONS)
def test_nothing_kept_names_the_main_reason_and_what_to_do(reason):
    words = results.ending(facts(dropped={reason: 30, "echo" if reason != "echo" else "loop": 10}))
    assert words.startswith("None of 40 texts was kept: 30 were dropped for")
    assert f"“{reason}”" in words and words.count(".") >= 2


def test_an_empty_synthesis_is_one_too():
    assert results.ending(facts(n_candidates=0)).startswith("Nothing was written.")


def test_the_ledger_divides_by_what_was_asked_for_and_what_came_along():
    spent = {"tokens": 600, "prompt_tokens": 1200, "seconds": 30.0, "pairs_tokens": 300.0}
    kept = {"kept": 4, "gaps_hit": 3, "features_gained": 5, "gained_unasked": (7, 8)}
    rows = {row["what"]: row for row in results.ledger_rows(facts(**spent, **kept))}
    written = rows["Tokens written"]
    assert (written["total"], written["per_kept"]) == ("600", "150")
    assert (written["per_gap"], written["per_feature"]) == ("200", "120"), "of 3 gaps, 5 features"
    assert rows["Tokens of the pairs"]["per_gap"] == "100"
    nothing = results.ledger_rows(facts(tokens=600, dropped={"echo": 40}))
    assert {row["per_gap"] for row in nothing} == {"–"}
    assert "US dollars" not in rows, "no price is known"


def test_what_was_not_checked_and_how_good_the_label_check_is_are_said():
    assert results.checks(facts()) == []
    first, second = results.checks(facts(unchecked=("unlikely", "length"), answers=7))
    assert "how odd the measured model finds it, length" in first and second.startswith(
        "Answers: 7"
    )
    check = {"label_auroc": 0.914, "label_auroc_low": 0.88, "label_auroc_high": 0.94}
    (words,) = results.checks(facts(**check, label_rows=250))
    assert "AUROC 0.91 (0.88 to 0.94, 95 %), cross-validated on 250" in words
    assert "too weak to decide, so it dropped nothing" in words
    (words,) = results.checks(facts(**check, label_precision=0.85, label_agreement=0.8))
    assert "85% have the label" in words and "agrees on 80%" in words
