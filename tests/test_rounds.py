"""fac.synthesis: exactly so many rows, in rounds, and what the facts say of what was tried."""

from collections import Counter

import numpy as np
import pytest

from fac.config import SynthesizeSpec
from fac.errors import BudgetReached, InputError
from fac.generator.writer import Request, Written
from fac.prompts import Prompt
from fac.synthesis import ledger
from tests.scripted import ScriptedWriter
from tests.test_synthesis import SUBJECTS, WORDS, World, parts, user
from tests.toy import toy_workspace

N = 5
SAMPLES = {
    "anchor": [
        user(f"please tell my aunt about the {word}! I saw near {i}{i} houses")
        for i, word in enumerate(WORDS)
    ]
    + [user("nothing of the kind")],
    "seed": [user("what is this"), user("a plain question")],
}


@pytest.fixture(scope="module")
def open_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A dataset that shows none of five features."""
    root = tmp_path_factory.mktemp("open world")
    return World(toy_workspace(root, n_features=N, samples=SAMPLES))


@pytest.fixture
def world(open_world: World, tmp_path) -> World:
    return open_world.copy(tmp_path / "world")


def says(request: Request) -> str:
    """A text that fires its gap with 1, in words of its own."""
    method, feature, number, _ = parts(request)
    subject, another = SUBJECTS[feature], SUBJECTS[(feature + number + 1) % len(SUBJECTS)]
    if method == "two-step":
        return f" {subject} number {number}{number} needs some {WORDS[feature]} beside {another}."
    return f" my {subject} and the {WORDS[feature]}! of {another}."


def hits_from(first: dict[int, int]):
    """A script by which a gap is hit from the candidate of this number on, or never."""

    def script(request: Request) -> str:
        method, feature, number, _ = parts(request)
        if method == "two-step" and number < first.get(feature, 99):
            return f" {SUBJECTS[feature]} number {number}{number} says nothing at all of it."
        return says(request)

    return script


def pairs_of(world: World, n: int = N) -> str:
    gaps = tuple(range(n))
    run = world.pairs(ScriptedWriter(says), features=gaps)
    world.approve(run, *gaps)
    return run


def asked(writer: ScriptedWriter) -> Counter[int]:
    """Texts that were asked for, by gap."""
    return Counter(parts(request)[1] for request in writer.requests)


def test_rounds_end_when_so_many_rows_are_kept(world):
    run = pairs_of(world)
    writer = ScriptedWriter(hits_from({0: 0, 1: 2, 2: 0, 3: 1}))
    made = world.synthesize(run, writer, rows=4)
    facts = world.facts(made)
    assert facts.kept == 4 and facts.note == ""
    assert len(world.rows(facts.kept_dataset, "samples")) == 4
    # A gap is asked for until it has a row, for one text, one more, two more: its third is the
    # first that hits gap 1, its second gap 3. The gap that is never hit has what rounds had room
    # for.
    counts = asked(writer)
    assert {gap: counts[gap] for gap in range(4)} == {0: 1, 1: 4, 2: 1, 3: 2}
    assert counts[4] <= 4
    # Texts that nobody asked for have no verdict.
    assert facts.n_candidates == counts.total() == len(world.rows(made, "verdicts"))
    names = [row["candidate"] for row in world.rows(made, "candidates")]
    assert names == sorted(names)


def test_fewer_rows_than_gaps_are_asked_for_only_as_often_as_rows_are_missing(world):
    run = pairs_of(world)
    writer = ScriptedWriter(hits_from(dict.fromkeys(range(N), 0)))
    assert world.facts(world.synthesize(run, writer, rows=2)).kept == 2
    assert len(writer.requests) == 2 and set(asked(writer).values()) == {1}


def test_where_the_candidates_are_used_up_the_facts_say_what_was_tried(world):
    run = pairs_of(world, 3)
    writer = ScriptedWriter(hits_from({0: 0, 1: 3}))
    made = world.synthesize(run, writer, rows=3, candidates=4)
    facts = world.facts(made)
    assert facts.kept == 2
    assert facts.note == (
        "2 of 3 rows are kept: every gap without one has used up its 4 candidates."
    )
    (nothing,) = facts.tried
    assert (nothing["feature"], nothing["texts"], nothing["own_peak"]) == (2, 4, 0.0)
    assert nothing["reason"] in ("below threshold", "borrowed words")
    assert nothing["peak"] == 0
    # In one pass the same gap is listed, and the others had all their candidates.
    whole = world.facts(world.synthesize(run, ScriptedWriter(hits_from({0: 0, 1: 3}))))
    assert [each["feature"] for each in whole.tried] == [2] and whole.n_candidates == 12


def test_a_second_row_of_a_gap_comes_after_the_first_of_all(world):
    run = pairs_of(world, 2)
    writer = ScriptedWriter(hits_from({0: 0, 1: 2}))
    made = world.synthesize(run, writer, rows=3, keep=2, candidates=4)
    kept = Counter(row["feature"] for row in world.rows(made, "verdicts") if row["kept"])
    assert kept.total() == 3 and set(kept) == {0, 1}
    with pytest.raises(InputError, match="At most 4 rows can be kept of 2 gaps, 2 a gap, but 5"):
        world.synthesize(run, writer, rows=5, keep=2, candidates=4)


def test_a_budget_within_the_rounds_keeps_the_rows_and_goes_on_later(world):
    run = pairs_of(world)
    script = hits_from({0: 1, 1: 0, 2: 1, 3: 0, 4: 1})

    def poor(request: Request) -> str | BaseException:
        _, _, number, _ = parts(request)
        return BudgetReached("The budget is used.") if number == 1 else script(request)

    with pytest.raises(BudgetReached, match=r"2 gaps are complete and kept \(synthetic-"):
        world.synthesize(run, ScriptedWriter(poor), rows=5)
    (part,) = world.runs.list("synthetic")
    assert part.facts.kept == 2 and part.spec.rows == 2
    richer = ScriptedWriter(script)
    made = world.synthesize(run, richer, rows=5)
    assert {parts(request)[2] for request in richer.requests} == {1}
    assert world.facts(made).kept == 5
    # The same rows as if nothing had stopped it.
    rows = world.rows(made, "verdicts")
    assert asked(richer) == Counter({0: 1, 2: 1, 4: 1}) and len(rows) == 8


def test_a_writer_that_refuses_everything_leaves_no_dataset_and_a_sentence(world):
    run = pairs_of(world, 2)

    def refuses(_: Request) -> str:
        return "I'm sorry, but I can't help with that."

    for rows in (0, 2):
        server = {"writer": "openai", "model": "some-model"}
        made = world.synthesize(run, ScriptedWriter(refuses), candidates=2, rows=rows, **server)
        facts = world.facts(made)
        assert facts.kept_dataset == "" and facts.kept == 0
        assert facts.note == "Nothing is kept of 4 texts (refusal 4), so there is no dataset."
        assert [(each["texts"], each["reason"]) for each in facts.tried] == [(2, "refusal")] * 2
        assert (facts.drift, facts.risen, facts.tokens_per_gap) == (None, [], None)
    assert len(world.runs.list("dataset")) == len(SAMPLES)


def test_nothing_to_ask_is_a_sentence(world, monkeypatch):
    run = pairs_of(world, 2)
    monkeypatch.setattr(
        "fac.synthesis.methods.two_step.lists.uses",
        lambda *_: Prompt(({"role": "user", "content": "  "},), {}, 9),
    )
    writer = ScriptedWriter(says)
    with pytest.raises(InputError, match=r"The prompt for feature 0 \(\w+\) is empty"):
        world.synthesize(run, writer)
    assert writer.requests == []


def test_a_pilot_says_so_and_what_it_keeps_is_no_dataset_to_choose(world):
    run = pairs_of(world, 2)
    writer = ScriptedWriter(says)
    pilot = world.synthesize(run, writer, pilot=True)
    kept = world.facts(world.facts(pilot).kept_dataset)
    assert kept.kind == "pilot" and kept.is_synthetic
    # Its texts are those of the real one, which is another run.
    again = ScriptedWriter(says)
    real = world.synthesize(run, again)
    assert real != pilot and again.requests == []
    assert world.facts(world.facts(real).kept_dataset).kind == "synthetic"


def test_what_comes_along_and_how_the_dataset_drifts(tmp_path):
    """The dataset: three samples of bake (1, 1.5, 1), one of them with oven (1). Kept is a sample
    of python and one of function, both with oven as well."""
    samples = {
        "anchor": SAMPLES["anchor"],
        "seed": [user("bake this"), user("do bake! it in the oven"), user("please bake that")],
    }
    world = World(toy_workspace(tmp_path / "w", n_features=N, samples=samples))
    run = world.pairs(ScriptedWriter(says), features=(3, 4))
    world.approve(run)

    def with_ovens(request: Request) -> str:
        return says(request).replace("some", "oven some")

    facts = world.facts(world.synthesize(run, ScriptedWriter(with_ovens), candidates=1))
    assert facts.kept == 2
    before = np.array([3.5, 1, 0, 0, 0])
    after = before + np.array([0, 2, 0, 1, 1])
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert facts.drift == pytest.approx(cosine, rel=1e-6)
    # Of five samples three fire oven, one each the gaps; before it was one of three.
    assert facts.risen == [
        {"feature": 1, "before": pytest.approx(1 / 3), "after": pytest.approx(3 / 5)},
        {"feature": 3, "before": 0, "after": pytest.approx(1 / 5)},
        {"feature": 4, "before": 0, "after": pytest.approx(1 / 5)},
    ]


def test_the_ledger_of_both_steps(world):
    run = pairs_of(world, 4)
    about = world.facts(run)
    approved = world.approved(run)
    named = tuple(row["pair"] for row in approved[:2])
    made = world.make(SynthesizeSpec(pairs=run, approved=named), ScriptedWriter(hits_from({0: 0})))
    facts = world.facts(made)
    # Two of four gaps: half of what the pairs took. One gap is newly covered.
    assert facts.pairs_tokens == about.tokens / 2
    assert facts.tokens_per_gap == facts.tokens + about.tokens / 2
    assert facts.seconds_per_gap == facts.seconds + about.seconds / 2
    assert facts.pairs_cost is None and facts.cost_per_gap is None
    baseline = world.facts(world.synthesize(run, ScriptedWriter(says), method="one-step"))
    assert baseline.pairs_tokens == 0
    assert baseline.tokens_per_gap == baseline.tokens / len(baseline.gained)


def test_costs_of_both_steps_are_dollars_where_prices_are_known():
    figures = {"tokens": 100, "seconds": 4.0, "cost": 0.5, "gained": [1, 2, 9]}
    about = ledger.PairsFacts(features=(1, 2, 3, 4), tokens=40, seconds=8.0, cost=0.2)
    spec = SynthesizeSpec(pairs="pairs-0")
    rows = ledger.both_steps(figures, spec, [1, 2], about)
    assert rows["tokens_per_gap"] == (100 + 20) / 2
    assert rows["cost_per_gap"] == pytest.approx((0.5 + 0.1) / 2)
    free = ledger.both_steps(figures | {"cost": None}, spec, [1, 2], about)
    assert free["cost_per_gap"] is None


def test_a_text_that_failed_is_asked_for_again_when_the_run_goes_on(world):
    run = pairs_of(world, 2)

    def fails(request: Request) -> Written | str:
        if parts(request)[1:3] == (0, 0):
            return Written(request.key, "", False, 0, "The server declined.", 5, None)
        return says(request)

    made = world.synthesize(run, ScriptedWriter(fails), rows=2)
    assert world.facts(made).kept == 2 and world.facts(made).dropped["failed"] == 1
