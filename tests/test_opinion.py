"""fac.questions.opinion, its command and its section, on two dictionaries made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from benchmarks import opinion as benchmark
from fac.config import REPOSITORY, Workspace
from fac.errors import InputError
from fac.questions import opinion as module
from fac.questions.comparison import Comparison
from fac.questions.opinion import (
    commands,
    counterpart,
    other_called,
    others_of,
    second_opinion,
)
from fac.schema import Activations
from fac.store import open_stores
from fac.store.cache import build
from tests.test_cli import assert_one_sentence, fac
from tests.toy import publish_activations

TOPICS = {name: range(40 * i, 40 * i + 40) for i, name in enumerate(("money", "law", "food"))}
"""Each is in 40 of 200 samples of the anchor, and in the first 40 of 100 of the dataset, if it is
in that at all. Peaks go from 1 to 4, so the clear firing is 2.5, and half of the 40 fire clearly.
"""

SCATTERED = range(0, 200, 5)

HERE = {"anchor": [*TOPICS.values(), range(120, 160)], "data": [(), (), (), range(40)]}
"""The first SAE's features: money, law and food are certain gaps, what comes last is covered."""

THERE = {
    "anchor": [TOPICS["law"], TOPICS["money"], range(120, 160), SCATTERED],
    "data": [(), range(40), range(40), ()],
}
"""The second's: the same in another order, but that it sees money in the dataset; nothing of
food."""


def activations(samples_by_feature):
    feature = np.repeat(
        np.arange(len(samples_by_feature)), [len(each) for each in samples_by_feature]
    )
    sample = np.concatenate([np.array(each, int) for each in samples_by_feature])
    zeros = np.zeros(len(sample), int)
    return Activations(sample, zeros, feature, 1.0 + sample % 4, zeros, zeros + 1)


def publish(stores, encoder, features, **more):
    runs = [
        publish_activations(
            stores.runs,
            name,
            activations(samples),
            n_features=len(samples),
            n_samples={"anchor": 200, "data": 100}.get(name, 200),
            encoder=encoder,
            **more,
        )
        for name, samples in features.items()
    ]
    for run in runs:
        build(stores.runs, run, stores.runs.workspace.cache)
    return runs


@pytest.fixture
def stores(tmp_path):
    opened = open_stores(Workspace(tmp_path), remember=False)
    yield opened
    opened.cache.close()


@pytest.fixture
def comparison(stores):
    return Comparison(*publish(stores, "one", HERE))


def opinion_of(stores, comparison, features=THERE, encoder="two"):
    other, _ = publish(stores, encoder, features)
    return second_opinion(stores, comparison, counterpart(stores, comparison, other))


def test_a_gap_is_confirmed_denied_or_without_an_opinion(stores, comparison):
    opinion = opinion_of(stores, comparison)
    assert [(row["feature"], row["verdict"], row["partner"]) for row in opinion.rows] == [
        (1, "confirmed", 0),
        (0, "not confirmed", 1),
        (2, "no opinion", None),
    ]
    law, money, food = opinion.rows
    assert law["r"] == pytest.approx(1) and law["mutual"]
    assert (law["n_anchor"], law["n_dataset"]) == (40, 0)
    assert (law["partner_n_anchor"], law["partner_n_dataset"]) == (20, 0)  # above 2.5
    assert law["partner_badge"] == "certain"
    assert (money["partner_n_dataset"], money["partner_badge"]) == (20, None)
    # Of equal tokens on both sides, one of 20 + 0 or 20 + 20 is the dataset's with 1/2.
    assert law["partner_p"] == pytest.approx(0.5**20) and money["partner_p"] == 1
    assert food["partner_p"] is None
    # Food and the scattered ones meet in 8 of 200 samples, as often as chance has it.
    assert abs(food["r"]) < 0.2 and "r above 0.5" in food["why"]
    assert (opinion.confirmed, opinion.not_confirmed, opinion.no_opinion) == (1, 1, 1)
    assert opinion.share.value == 0.5 and 0.05 < opinion.share.low < 0.1
    assert opinion.other_threshold == 2.5 and opinion.n_compared == opinion.n_shared == 200
    assert opinion.matching.every == (3, 4) and opinion.matching.frequent == (3, 4)
    assert opinion.matching.certain == (2, 3) and opinion.matching.mutual == 3
    assert opinion.shuffled.every.matched == 0 and opinion.shuffled_confirmed == 0
    assert opinion.covered == (0, 1)
    assert opinion.note == (
        "Of the matched features that the dataset covers (1), 0% have a gap for a partner."
    )
    assert "confirms 1 of these: 50%" in opinion.headline


def test_a_dictionary_in_another_order_confirms_everything_and_is_seen_through(stores, comparison):
    same = {name: [samples[i] for i in (2, 0, 3, 1)] for name, samples in HERE.items()}
    opinion = opinion_of(stores, comparison, same)
    assert opinion.matching.every == (4, 4) and opinion.confirmed == 3
    assert "the other SAE is the same in another order" in opinion.note


def test_noise_has_no_opinion_and_a_weak_match_is_said_first(stores, comparison):
    noise = {"anchor": [SCATTERED, range(1, 200, 5)], "data": [(), ()]}
    opinion = opinion_of(stores, comparison, noise)
    assert opinion.matching.every == (0, 4) and opinion.no_opinion == 3
    assert np.isnan(opinion.share.value)
    assert opinion.headline == "The other SAE has no opinion of any of the 3 certain gaps."
    assert opinion.note.startswith("The match is weak: 0.0% of the features have a partner")


def test_a_partner_that_the_other_anchor_barely_shows_says_nothing(stores, comparison):
    """Above 3.5 law fires there in 10 of its 40 samples, where 11 are asked for."""
    other, _ = publish(stores, "two", THERE)
    there = counterpart(stores, comparison, other)
    faint = second_opinion(stores, comparison, replace(there, threshold=3.5, min_support=11))
    assert (faint.confirmed, faint.not_confirmed, faint.no_opinion) == (0, 0, 3)
    assert "barely shows its partner" in faint.rows[0]["why"]


def test_a_partner_that_is_too_rare_is_a_gap_by_its_own_p(stores, comparison):
    """Among all four features there it would not do."""
    rare = {name: samples.copy() for name, samples in THERE.items()}
    # Peaks are 1, 2, 3, 4, 1, ...: of 30 samples 14 fire above 2.5, of 10 four.
    rare["anchor"][1], rare["data"][1] = range(30), range(10)
    opinion = opinion_of(stores, comparison, rare)
    money = next(row for row in opinion.rows if row["feature"] == 0)
    assert (money["partner_n_anchor"], money["partner_n_dataset"]) == (14, 4)
    # sum of C(18, k) for k up to 4 is 4,048, of 2**18 = 262,144.
    assert money["partner_p"] == pytest.approx(4048 / 2**18)
    assert (money["verdict"], opinion.confirmed) == ("confirmed", 2)


def test_some_samples_of_many_are_drawn_and_it_is_said(stores, comparison, monkeypatch):
    monkeypatch.setattr(module, "MOST_SHARED", 150)
    opinion = opinion_of(stores, comparison)
    assert (opinion.n_shared, opinion.n_compared) == (200, 150)
    assert opinion.confirmed == 1
    assert "150 of 200 samples that both SAEs have read, drawn at random" in opinion.note


def test_runs_that_cannot_be_matched_are_one_sentence(stores, comparison):
    with pytest.raises(InputError, match="same SAE as anchor"):
        counterpart(stores, comparison, comparison.anchor)
    (alone,) = publish(stores, "two", {"anchor": THERE["anchor"]})
    assert others_of(stores, comparison) == []
    with pytest.raises(InputError, match="data was not measured with the other SAE"):
        counterpart(stores, comparison, alone)
    (data,) = publish(stores, "two", {"data": THERE["data"]})
    assert others_of(stores, comparison) == [alone]
    (elsewhere,) = publish(stores, "two", {"elsewhere": THERE["anchor"]})
    with pytest.raises(InputError, match="share 0 samples"):
        second_opinion(stores, comparison, counterpart(stores, comparison, elsewhere))
    publish(stores, "four", {"data": THERE["data"]})
    (of_users,) = publish(stores, "four", {"anchor": THERE["anchor"]}, role="user")
    with pytest.raises(InputError, match="over those of user"):
        counterpart(stores, comparison, of_users)


def test_the_command_prints_the_match_rate_and_what_chance_does(stores, comparison):
    other, _ = publish(stores, "two", THERE)
    place = stores.runs.workspace
    about = ("second-opinion", "--anchor", comparison.anchor, "--dataset", comparison.dataset)
    about = (*about, "--threshold", 0)
    answer = fac(*about, "--json", workspace=place).json
    assert answer["other_anchor"] == other and answer["matching"]["every"]["share"] == 0.75
    assert answer["shuffled"]["every"] == {"matched": 0, "n": 4, "share": 0}
    assert [row["verdict"] for row in answer["rows"]] == [
        *("confirmed", "not confirmed", "no opinion")
    ]
    words = fac(*about, "--other", other, "--limit", 1, workspace=place).out
    for part in ("75.0%", "by chance", "confirms 1 of these", "… and 2 more", "would be confirmed"):
        assert part in words
    assert_one_sentence(fac(*about, "--other", comparison.anchor, workspace=place))
    assert_one_sentence(fac(*about, "--other", "nobody", workspace=place))


def test_without_another_sae_the_command_says_what_to_do(stores, comparison):
    about = ("second-opinion", "--anchor", comparison.anchor, "--dataset", comparison.dataset)
    answer = fac(*about, workspace=stores.runs.workspace)
    assert_one_sentence(answer)
    assert "No other SAE has measured both" in answer.err and "train-sae" in answer.err


def test_the_way_to_a_second_opinion_is_a_command_to_copy(stores, comparison):
    assert commands(stores, comparison) == [
        "python -m fac train-sae texts.jsonl --out my-sae --seed 1",
        "python -m fac measure anchor --sae my-sae",
        "python -m fac measure data --sae my-sae",
    ]
    publish(stores, "two", {"anchor": THERE["anchor"]})
    assert commands(stores, comparison) == ["python -m fac measure data --sae two"]


def test_the_other_run_may_be_named_as_the_anchor_is(stores, comparison):
    other, _ = publish(stores, "two", THERE)
    assert other_called(stores, comparison, "anchor") == other
    publish(stores, "three", THERE)
    with pytest.raises(InputError, match="anchor was measured with more than one SAE"):
        other_called(stores, comparison, "anchor")


def page(comparison, **view):
    app = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=60)
    about = {"anchor": comparison.anchor, "dataset": comparison.dataset, "threshold": "0.0"}
    app.query_params.update({**about, **view})
    app.run()
    app.switch_page("pages/coverage.py").run()
    assert not app.exception and not app.error
    return app


def section(app):
    return next(each for each in app.expander if each.label.startswith("Second opinion"))


def test_the_page_asks_when_it_is_told_to(stores, comparison, monkeypatch):
    monkeypatch.setenv("FAC_WORKSPACE", str(stores.runs.workspace.root))
    monkeypatch.setattr("fac.jobs.worker.start_worker", lambda _: None)
    alone = section(page(comparison))
    assert [each.value.splitlines() for each in alone.code] == [commands(stores, comparison)]
    assert "Train one with another seed" in alone.markdown[0].value
    publish(stores, "two", THERE)
    app = page(comparison)
    (ask,) = section(app).button
    assert not section(app).metric
    ask.click().run()
    metrics = {metric.label: metric.value for metric in section(app).metric}
    assert not app.exception
    assert (metrics["Match rate"], metrics["By chance"]) == ("75.0%", "0.0%")
    assert [metrics[each] for each in ("Confirmed", "Not confirmed", "No opinion")] == ["1"] * 3
    (gaps,) = section(app).dataframe
    assert gaps.value["second"].tolist() == ["confirmed", "not confirmed", "no opinion"]
    assert gaps.value["partner_n_anchor"].isna().tolist() == [False, False, True]
    assert gaps.proto.placeholder == "–", "nothing there is no None"


def test_the_benchmark_counts_by_levels_of_r(stores, comparison):
    opinion = opinion_of(stores, comparison)
    assert [tuple(level) for level in benchmark.levels(opinion.rows)] == [
        (r, 2, 1, 2, 1) for r in (0.5, 0.6, 0.7, 0.8, 0.9)
    ]
    table = dict(benchmark.lines(opinion))
    assert table["features with a partner"].startswith("3 of 4: 0.750")
    assert table["all, samples permuted"].startswith("0 of 4: 0.000")


def test_the_benchmark_asks_every_other_sae(stores, comparison, monkeypatch, capsys):
    publish(stores, "two", THERE)
    root = str(stores.runs.workspace.root)
    about = ["--anchor", comparison.anchor, "--dataset", comparison.dataset]
    monkeypatch.setattr("sys.argv", ["opinion", "--workspace", root, *about])
    benchmark.main()
    out = capsys.readouterr().out
    assert "confirmed by partners above 0.9" in out and "has an opinion of" in out
