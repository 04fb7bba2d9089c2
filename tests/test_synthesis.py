"""fac.synthesis: from gaps to kept samples, in a world whose features are words."""

import json
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthesis import row_of
from fac import review, synthesis
from fac.config import (
    METHODS,
    MeasureSpec,
    PairsSpec,
    RescoreSpec,
    SynthesizeSpec,
    Workspace,
    digest,
)
from fac.errors import BudgetReached, Cancelled, InputError
from fac.generator.writer import Request, Written
from fac.measure import measure
from fac.prompts import drafts
from fac.schema import Chat
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from fac.synthesis import plan, sides
from fac.synthesis.gates import Norms, RoleNorms
from fac.synthesis.methods import two_step
from fac.synthesis.plan import around
from fac.synthesis.writing import CandidateJournal
from tests.lexicon import LexiconEncoder
from tests.scripted import ScriptedWriter
from tests.toy import fac_of, publish_explanations, toy_workspace

WORDS = ("bake", "oven", "recipe", "python", "function")
"""Features 0 to 4: the anchor says all of them, the dataset the first three."""

GAPS = (3, 4)


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


SAMPLES = {
    "anchor": [
        user("how long do I bake a loaf of rye bread at home"),
        user("my oven smokes whenever the grill is on"),
        user("give me a recipe for plum dumplings"),
        user("write a short python! script that renames my holiday photos"),
        user("explain what a function! returns when nothing is given back"),
    ],
    "seed": [
        user("should I bake the tart before filling it"),
        user("which shelf of the oven is hottest"),
        user("a recipe without eggs please"),
    ],
}

SUBJECTS = ("storks", "glaciers", "violins", "harbours", "comets", "orchids", "bridges", "owls")
"""Something different to write about each time."""


class World:
    """Two measured datasets, an encoder, a store of decisions."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.runs = Runs(workspace)
        self.store = Decisions(workspace.decisions)
        self.encoder = LexiconEncoder(*WORDS)
        self.anchor, self.dataset = (self.runs.resolve("measure", name) for name in SAMPLES)

    def copy(self, root: Path) -> "World":
        """Another world with the same content, under `root`."""
        shutil.copytree(self.workspace.root, root)
        return reopen(root)

    def pairs(self, writer: ScriptedWriter, /, **more: Any) -> str:
        spec = {"anchor": self.anchor, "dataset": self.dataset, "features": GAPS} | more
        return self.make_pairs(PairsSpec(**spec), writer)

    def make_pairs(self, spec: PairsSpec, writer: ScriptedWriter, **more: Any) -> str:
        doors = {"runs": self.runs, "encoder": self.encoder, "progress": quiet} | more
        return synthesis.make_pairs(spec, writer=writer, **doors)

    def approve(self, run: str, *features: int, who: str = "Ada", verdict: str = "approve") -> None:
        for row in self.runs.table(run, "pairs").to_pylist():
            if row["status"] == "proposed" and row["feature"] in (features or GAPS):
                item = review.pair_item(run, row)
                self.store.add(who, "pair", item.subject, item.content, verdict)

    def approved(self, run: str) -> list[dict[str, Any]]:
        return review.approved_pairs(self.store, self.runs, run)

    def synthesize(self, run: str, writer: ScriptedWriter, /, **more: Any) -> str:
        approved = self.approved(run)
        named = {"pairs": run, "approved": tuple(row["pair"] for row in approved)} | more
        return self.make(SynthesizeSpec(**named), writer, approved=approved)

    def make(self, spec: SynthesizeSpec, writer: ScriptedWriter, **more: Any) -> str:
        doors = {"runs": self.runs, "encoder": self.encoder, "progress": quiet}
        doors |= {"approved": self.approved(spec.pairs)} | more
        return synthesis.synthesize(spec, writer=writer, **doors)

    def rows(self, run: str, table: str) -> list[dict[str, Any]]:
        return self.runs.table(run, table).to_pylist()

    def facts(self, run: str) -> Any:
        return self.runs.manifest(run).facts


def reopen(root: Path) -> World:
    """The world that lies under `root`."""
    return World(Workspace(root))


@pytest.fixture(scope="module")
def first_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Measured once; tests work on copies."""
    root = tmp_path_factory.mktemp("first world")
    return World(toy_workspace(root, n_features=5, samples=SAMPLES))


@pytest.fixture
def world(first_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh world, in which a gap's candidates are asked for in these styles."""
    styles = (two_step.PHRASE, two_step.WORDS, two_step.WORDS, two_step.CONTRAST)
    monkeypatch.setattr(two_step, "STEP_2", two_step.STEP_2._replace(here=styles))
    return first_world.copy(tmp_path / "world")


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""


def parts(request: Request) -> tuple[str, int, int, str]:
    """Method, feature, number and style of a request."""
    method, feature, number, style = request.key.split("/")
    return method, int(feature), int(number), style


def says(request: Request) -> str:
    """A text that fires the gap it is asked for with 1 and half its number more, so later ones are
    stronger; begun as it was told to begin. Of the words of step 1 none but the gap's own recur
    in step 2."""
    method, feature, number, _ = parts(request)
    word = WORDS[feature] + "!" * number
    subject, another = SUBJECTS[number % len(SUBJECTS)], SUBJECTS[(number * 3 + 1) % len(SUBJECTS)]
    if method == "two-step":
        return f" {subject} need some {word} near {another}"
    return f" {subject} and the {word} of {another}"


def fires_nothing(request: Request) -> str:
    return f"a plain question about {SUBJECTS[parts(request)[2]]} number {parts(request)[1]}"


# ---- the whole loop


def test_three_of_five_become_five_of_five(world):
    run = world.pairs(ScriptedWriter(says))
    made = world.rows(run, "pairs")
    assert [(row["feature"], row["status"], row["origin"]) for row in made] == [
        (3, "proposed", "own"),
        (4, "proposed", "own"),
    ]
    # Four candidates a gap, the last with three exclamation marks: 1 + 3 / 2.
    assert [row["positive_peak"] for row in made] == [2.5, 2.5]
    assert [row["negative_peak"] for row in made] == [0.0, 0.0]
    assert made[0]["positive"] == user("harbours and the python!!! of violins")
    # What was written for the other gap says the same but for one word.
    assert made[0]["negative"] == user("harbours and the function!!! of violins")
    assert world.facts(run).pairs == 2 and world.facts(run).failed == {}

    world.approve(run)
    samples_run = world.synthesize(run, ScriptedWriter(says), keep=1)
    facts = world.facts(samples_run)
    assert (facts.fac_before, facts.fac_after) == (fac_of(3, 5), fac_of(5, 5))
    assert (facts.kept, facts.hit_rate, facts.miss_hit_rate) == (2, 1.0, 1.0)
    assert facts.gained == [3, 4] and facts.gained_unasked == []
    assert facts.features_gained == 2 and facts.still_missing == []
    assert facts.curve == [1, 2]
    assert facts.tokens_per_feature == facts.tokens / 2

    # Eight candidates: each has one verdict, and those that were dropped say why.
    verdicts = world.rows(samples_run, "verdicts")
    assert len(verdicts) == facts.n_candidates == 8
    assert facts.kept + sum(facts.dropped.values()) == 8
    assert all(bool(row["reason"]) != row["kept"] for row in verdicts)
    assert [row["gains"] for row in verdicts if row["kept"]] == [[3], [4]]
    assert {d["reviewer"] for d in world.rows(samples_run, "decisions")} == {"Ada"}

    # What is kept is a dataset like any other, and measuring it finds what the verdicts say.
    sae_run = world.facts(world.anchor).sae_run
    spec = MeasureSpec(dataset=facts.kept_dataset, model="toy", layer=1, sae="toy")
    again = measure(spec, runs=world.runs, encoder=world.encoder, sae_run=sae_run, progress=quiet)
    peaks = {row["feature"]: row["peak"] for row in world.rows(again, "activations")}
    assert peaks == {row["feature"]: row["peak"] for row in verdicts if row["kept"]}
    meta = json.loads(world.rows(facts.kept_dataset, "samples")[0]["meta"])
    assert meta["approver"] == "Ada" and meta["synthetic"] == samples_run and meta["feature"] == 3


def test_asking_again_finds_the_same_runs_and_writes_nothing(world):
    first, second = ScriptedWriter(says), ScriptedWriter(says)
    run = world.pairs(first)
    assert world.pairs(second) == run
    world.approve(run)
    samples_run = world.synthesize(run, first)
    assert world.synthesize(run, second) == samples_run
    assert second.requests == []


def test_another_budget_is_the_same_run_another_prompt_is_another(world, monkeypatch):
    run = world.pairs(ScriptedWriter(says))
    assert world.pairs(ScriptedWriter(says), budget_tokens=10_000) == run
    monkeypatch.setattr(drafts, "WRITE", drafts.WRITE + " Be brief.")
    assert world.pairs(ScriptedWriter(says)) != run


def test_texts_of_an_earlier_run_are_not_written_again(world):
    run = world.pairs(ScriptedWriter(says), candidates=2)
    more = ScriptedWriter(says)
    world.pairs(more, candidates=4)
    assert Counter(parts(request)[2] for request in more.requests) == {2: 2, 3: 2}
    world.approve(run)
    first = world.synthesize(run, ScriptedWriter(says), keep=1)
    again = ScriptedWriter(says)
    second = world.synthesize(run, again, keep=3)
    assert again.requests == [] and second != first
    assert world.facts(second).tokens == world.facts(first).tokens
    assert world.facts(second).kept > world.facts(first).kept


def test_a_spec_of_one_encoder_refuses_another(world):
    other = LexiconEncoder(*reversed(WORDS))
    spec = PairsSpec(anchor=world.anchor, dataset=world.dataset, features=GAPS)
    with pytest.raises(InputError, match="measured with lexicon/bake"):
        world.make_pairs(spec, ScriptedWriter(says), encoder=other)


def test_a_feature_the_dictionary_lacks_is_a_sentence(world):
    with pytest.raises(InputError, match="no feature 9: this dictionary has 0 to 4"):
        world.pairs(ScriptedWriter(says), features=(3, 9))


# ---- pairs


def test_the_positive_comes_from_the_candidates_of_all_gaps(world):
    def crossed(request: Request) -> str:  # what is written for 3 fires 4, and the reverse
        _, feature, number, _ = parts(request)
        return f"{SUBJECTS[number]} have a {WORDS[7 - feature]} of {SUBJECTS[number + 1]}"

    made = world.rows(world.pairs(ScriptedWriter(crossed)), "pairs")
    assert [(row["origin"], row["candidate"]) for row in made] == [
        ("pool", "step-1/000004/00/list"),
        ("pool", "step-1/000003/00/list"),
    ]


def test_an_anchor_sample_stands_in_where_no_candidate_fires(world):
    made = world.rows(world.pairs(ScriptedWriter(fires_nothing)), "pairs")
    assert [(row["origin"], row["candidate"], row["positive_peak"]) for row in made] == [
        ("anchor", "", 1.5),
        ("anchor", "", 1.5),
    ]
    assert made[0]["positive"] == SAMPLES["anchor"][3]
    assert made[0]["negative_origin"] == "edit"
    assert made[0]["negative"] == user("write a short script that renames my holiday photos")


def test_where_not_even_the_anchor_fires_enough_the_gap_says_so_and_has_no_scores(world):
    run = world.pairs(ScriptedWriter(fires_nothing), margin=2.0)
    made = world.rows(run, "pairs")
    assert [row["status"] for row in made] == ["failed", "failed"]
    assert (
        {row["positive_peak"] for row in made} == {row["negative_peak"] for row in made} == {None}
    )
    reason = "no candidate and no anchor sample fires it enough"
    assert world.facts(run).failed == {reason: 2} and world.facts(run).pairs == 0
    assert len({row["pair"] for row in made}) == 2


def test_the_margin_is_above_the_threshold(world):
    origins = {}
    for margin in (1.0, 1.5, 1.6):
        run = world.pairs(ScriptedWriter(says), threshold=1.0, margin=margin)
        origins[margin] = [row["origin"] for row in world.rows(run, "pairs")]
    assert origins == {1.0: ["own", "own"], 1.5: ["own", "own"], 1.6: ["", ""]}


def test_tokens_and_activations_of_both_sides_are_kept(world):
    (row, _) = world.rows(world.pairs(ScriptedWriter(says)), "pairs")
    assert "".join(row["positive_tokens"]).strip() == row["positive"][0]["content"]
    peak = int(np.argmax(row["positive_activations"]))
    assert row["positive_tokens"][peak] == " python!!!"
    assert row["positive_activations"][peak] == row["positive_peak"] == 2.5
    assert set(row["negative_activations"]) == {0.0}


def test_the_smallest_edit_that_silences_it_wins():
    encoder = LexiconEncoder("python")
    twice = user("python for people who love python!")
    (side,) = sides.trace(encoder, [(twice, 0)])
    tried = [chat[0]["content"] for chat in sides.edits(side)]
    assert tried == [
        "python for people who love!",
        "python for people who love something!",
        "for people who love!",
        "something for people who love something!",
        "python for people who!",
        "python for people!",
        "python!",
    ]
    peaks = [side.peak for side in sides.trace(encoder, [(user(text), 0) for text in tried])]
    assert peaks.index(0.0) == 2


def test_an_edit_never_leaves_a_turn_empty_and_reaches_every_turn():
    encoder = LexiconEncoder("python")
    chat = [*user("python"), {"role": "assistant", "content": "yes python!! is nice"}]
    (side,) = sides.trace(encoder, [(chat, 0)])
    assert side.turn == 1 and side.peak == 2.0
    tried = sides.edits(side)
    assert all(message["content"].strip() for edited in tried for message in edited)
    assert [m["content"] for m in tried[2]] == ["something", "yes something!! is nice"]


@pytest.mark.parametrize(
    ("start", "end", "word"),
    [
        (0, 3, "the"),
        (1, 2, "the"),
        (2, 6, "the big"),
        (3, 4, "big"),
        (8, 9, "owl"),
        (12, 13, "owl"),
    ],
)
def test_a_stretch_lies_in_whole_words_and_mere_space_belongs_to_the_next(start, end, word):
    content = "the big  owl "
    first, last = sides._word_at(content, start, end)
    assert content[first:last] == word


def test_the_most_similar_silent_candidate_is_the_negative_where_no_edit_silences(world):
    def only_the_word(request: Request) -> str:
        _, feature, number, _ = parts(request)
        if feature == 4:
            return f"violins have a {WORDS[4]}"
        return f"{WORDS[3]}" if number else f"{WORDS[3]} {WORDS[3]}!"

    class Stubborn(LexiconEncoder):
        """Fires python on `something` as well, so that no edit of a lone word helps."""

        def read(self, chats, roles=("system", "user", "assistant")):
            replaced = [
                [{**m, "content": m["content"].replace("something", "python")} for m in chat]
                for chat in chats
            ]
            yield from super().read(replaced, roles)

    encoder = Stubborn(*WORDS)
    run = world.pairs(ScriptedWriter(only_the_word))
    assert world.rows(run, "pairs")[0]["negative_origin"] == "edit"
    spec = PairsSpec(anchor=world.anchor, dataset=world.dataset, features=GAPS, seed=1)
    run = world.make_pairs(spec, ScriptedWriter(only_the_word), encoder=encoder)
    (row, _) = world.rows(run, "pairs")
    assert row["negative_origin"] == "pool" and row["negative_peak"] == 0.0
    assert row["negative"] == user("violins have a function")


def test_what_cannot_be_read_has_a_problem_and_no_text(world):
    def badly(request: Request) -> str | Written:
        number = parts(request)[2]
        if number == 0:
            return "   "
        if number == 1:
            return "I'm sorry, but I can't help with that."
        failed = "The server declined." if number == 2 else ""
        return Written(request.key, "and then the", False, 3, failed, 9, None)

    run = world.pairs(ScriptedWriter(badly))
    candidates = {row["candidate"]: row for row in world.rows(run, "candidates")}
    problems = [candidates[name]["problem"] for name in sorted(candidates)]
    assert problems == ["empty", "refusal", "failed", "cut off"] * 2
    assert all(row["messages"] == [] for row in candidates.values())
    assert world.facts(run).problems == dict.fromkeys(problems[:4], 2)


def test_a_person_may_edit_a_pair_and_it_is_measured_again(world):
    run = world.pairs(ScriptedWriter(says))
    spec = RescoreSpec(
        pairs=run, feature=3, positive="a python! for my aunt", negative="a plant for my aunt"
    )
    edited = synthesis.rescore(spec, runs=world.runs, encoder=world.encoder, progress=quiet)
    (row,) = world.rows(edited, "pairs")
    assert (row["status"], row["origin"], row["negative_origin"]) == ("proposed", *["person"] * 2)
    assert (row["positive_peak"], row["negative_peak"]) == (1.5, 0.0)
    assert row["pair"] != world.rows(run, "pairs")[0]["pair"]
    assert world.runs.manifest(edited).inputs.ids == (run,)
    silent = replace(spec, positive="a plant for my uncle")
    failed = synthesis.rescore(silent, runs=world.runs, encoder=world.encoder, progress=quiet)
    (row,) = world.rows(failed, "pairs")
    assert row["reason"] == "the positive does not fire it enough"
    with pytest.raises(InputError, match="no pair for feature 0"):
        synthesis.rescore(
            replace(spec, feature=0), runs=world.runs, encoder=world.encoder, progress=quiet
        )


def test_without_a_turn_that_fires_an_edit_changes_the_users_last():
    chat = [
        {"role": "system", "content": "s"},
        *user("one"),
        {"role": "assistant", "content": "two"},
        *user("three"),
        {"role": "assistant", "content": "four"},
    ]
    assert [synthesis.edited_turn(chat, turn) for turn in (-1, 2, 4, 5)] == [3, 2, 4, 3]


# ---- approval: what may reach a writer


def reached(writer: ScriptedWriter) -> str:
    """Everything a writer was told."""
    return json.dumps([[r.prompt, r.opening] for r in writer.requests])


def test_only_approved_pairs_reach_the_writer(world):
    def unlike(request: Request) -> str:  # or one gap's text would be the other's negative
        _, feature, number, _ = parts(request)
        return says(request) if feature == 3 else f"nobody sees my {number}{number} function!"

    run = world.pairs(ScriptedWriter(unlike))
    world.approve(run, 3)
    world.approve(run, 4, verdict="reject")
    writer = ScriptedWriter(says)
    samples_run = world.synthesize(run, writer)
    assert {parts(request)[1] for request in writer.requests} == {3}
    assert "function" not in reached(writer)
    assert world.facts(samples_run).gaps == 1
    first, second = (row["pair"] for row in world.rows(run, "pairs"))
    with pytest.raises(InputError, match=f"Nobody approved the pair {second}"):
        world.synthesize(run, writer, approved=(first, second))
    with pytest.raises(InputError, match="No approved pair is named"):
        world.synthesize(run, writer, approved=())
    assert {parts(request)[1] for request in writer.requests} == {3}


def test_an_approval_that_was_taken_back_before_the_start_does_not_count(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    spec = SynthesizeSpec(pairs=run, approved=tuple(r["pair"] for r in world.approved(run)))
    (*_, last) = world.store.current("pair", reviewer="Ada")
    world.store.withdraw(last.uid, "Ada")
    writer = ScriptedWriter(says)
    with pytest.raises(InputError, match="Nobody approved"):
        world.make(spec, writer)
    assert writer.requests == []


def tamper(row: dict[str, Any], what: str) -> dict[str, Any]:
    """An approval whose pair, content or hash is not what it says."""
    other = user("something else with python in it")
    if what == "text":
        return {**row, "positive": other}
    if what == "peak":
        return {**row, "positive_peak": 9.0}
    if what == "hash":
        return {**row, "seen": "0" * 12}
    if what == "run":
        return {**row, "run": row["other"]}
    content = {**row["content"], "positive": other}
    seen = digest(content) if what == "content" else row["seen"]
    return {**row, "content": content, "seen": seen}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("text", "it changed since"),
        ("peak", "it changed since"),
        ("hash", "does not have its hash"),
        ("content", "something else was approved"),
        ("stale", "does not have its hash"),
        ("run", "does not come from"),
    ],
)
def test_an_approval_of_something_else_never_reaches_the_writer(world, what, why):
    run = world.pairs(ScriptedWriter(says))
    other = world.pairs(ScriptedWriter(says), seed=5)
    world.approve(run)
    rows = [{**row, "other": other} for row in world.approved(run)]
    writer = ScriptedWriter(says)
    spec = SynthesizeSpec(pairs=run, approved=(rows[0]["pair"],))
    with pytest.raises(InputError, match=f"pair {rows[0]['pair']} .*{why}"):
        world.make(spec, writer, approved=[tamper(rows[0], what), rows[1]])
    assert writer.requests == []


def test_an_edited_pair_is_written_from_once_it_is_approved(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    before = {row["feature"]: row["pair"] for row in world.approved(run)}
    spec = RescoreSpec(
        pairs=run, feature=3, positive="my aunt met a python!! once", negative="my aunt met nobody"
    )
    edited = synthesis.rescore(spec, runs=world.runs, encoder=world.encoder, progress=quiet)
    # Edited after its approval: neither version may be used.
    assert [row["feature"] for row in world.approved(run)] == [4]
    writer = ScriptedWriter(says)
    with pytest.raises(InputError, match="Nobody approved"):
        world.make(SynthesizeSpec(pairs=run, approved=tuple(before.values())), writer)
    assert writer.requests == []
    world.approve(edited, 3)
    assert [row["run"] for row in world.approved(run)] == [edited, run]
    world.synthesize(run, writer)
    prompted = reached(writer)
    assert "my aunt met a python!!" in prompted and "violins" not in prompted.split("function")[0]


def test_a_run_of_an_edit_is_not_what_to_start_from(world):
    run = world.pairs(ScriptedWriter(says))
    spec = RescoreSpec(pairs=run, feature=3, positive="a python", negative="a plant")
    edited = synthesis.rescore(spec, runs=world.runs, encoder=world.encoder, progress=quiet)
    with pytest.raises(InputError, match="is a rescore run: name the run of `fac pairs`"):
        world.make(SynthesizeSpec(pairs=edited, approved=("x",)), ScriptedWriter(says))


# ---- baselines

OF_ROWS = ("alpaca", "evol-instruct", "cot-self-instruct")
"""Those that are shown rows of the dataset and know of no feature."""


def test_two_steps_come_before_their_baselines_and_every_method_has_a_title():
    of_features = ["two-step", "one-step", "unguided", "random", "words"]
    assert [*METHODS] == [*of_features, *OF_ROWS]
    assert len({METHODS[name].title for name in METHODS}) == 8
    assert [name for name in METHODS if METHODS[name].needs_pairs] == ["two-step"]


def test_baselines_take_the_same_path_for_the_same_gaps(world):
    run = world.pairs(ScriptedWriter(says))
    facts_of = {}
    for method in ("one-step", "unguided", "random"):
        writer = ScriptedWriter(fires_nothing if method == "unguided" else says)
        made = world.synthesize(run, writer, approved=(), method=method)
        facts = facts_of[method] = world.facts(made)
        assert facts.n_candidates == 8 and facts.gaps == 2
        assert {row["feature"] for row in world.rows(made, "verdicts")} == {3, 4}
        assert world.rows(made, "decisions") == []
        prompted = reached(writer)
        assert ("script that renames" in prompted) == (method == "one-step")
        if method == "random":
            assert any(word in prompted for word in ("rye bread", "grill", "plum"))
        if method == "unguided":
            assert not any(word in prompted for word in WORDS)
    assert facts_of["one-step"].hit_rate == 1.0
    assert facts_of["unguided"].hit_rate == 0.0 and facts_of["unguided"].kept_dataset == ""
    assert facts_of["unguided"].fac_after == fac_of(3, 5)
    assert facts_of["unguided"].dropped["below threshold"] > 0
    assert facts_of["unguided"].tokens_per_feature is None


def shown_rows(request: Request) -> set[str]:
    """Which of the dataset's texts a request shows."""
    words = request.prompt.messages[-1]["content"] if request.prompt else request.opening.text
    return {chat[0]["content"] for chat in SAMPLES["seed"] if chat[0]["content"] in words}


@pytest.mark.parametrize(("method", "n"), [*zip(OF_ROWS, (3, 1, 2), strict=True)])
def test_baselines_of_rows_show_rows_of_the_dataset_and_nothing_of_a_gap(world, method, n):
    run = world.pairs(ScriptedWriter(says))
    writer = ScriptedWriter(fires_nothing)
    made = world.synthesize(run, writer, approved=(), method=method, candidates=8)
    assert world.facts(made).n_candidates == 16 and world.facts(made).hit_rate == 0.0
    requests = [request for request in writer.requests if parts(request)[0] == method]
    assert len(requests) == 16
    assert {len(shown_rows(request)) for request in requests} == {n}
    # Each draws anew, so every row is shown; the same run asked again shows the same ones.
    assert set().union(*map(shown_rows, requests)) == {c[0]["content"] for c in SAMPLES["seed"]}
    assert len({frozenset(shown_rows(request)) for request in requests}) == (1 if n == 3 else 3)
    assert not any(word in reached(writer) for word in ("python", "function", "script"))
    styles = {parts(request)[3] for request in requests}
    assert (
        styles
        == {
            "alpaca": {"list", "ask"},
            "evol-instruct": {"narrow", "deepen", "concrete", "reason", "broaden"},
            "cot-self-instruct": {"think"},
        }[method]
    )


def test_rows_are_shown_to_a_model_that_knows_no_chats_as_a_list_or_not_at_all(world):
    run = world.pairs(ScriptedWriter(says))
    base = ScriptedWriter(fires_nothing)
    base.chats = False
    world.synthesize(run, base, approved=(), method="alpaca")
    assert all(request.opening for request in base.requests if parts(request)[0] == "alpaca")
    for method in ("evol-instruct", "cot-self-instruct"):
        with pytest.raises(InputError, match=f"method {method} asks in prompts, and this writer"):
            world.synthesize(run, base, approved=(), method=method)


def test_a_random_feature_is_never_a_gap_and_is_named_in_the_style(world):
    run = world.pairs(ScriptedWriter(says))
    writer = ScriptedWriter(says)
    made = world.synthesize(run, writer, approved=(), method="random")
    styles = {row["style"] for row in world.rows(made, "candidates")}
    others = {int(style.rsplit("-", 1)[1]) for style in styles}
    assert others <= {0, 1, 2} and len(others) == 2


# ---- own words


def test_what_fires_in_borrowed_words_alone_is_not_kept_and_both_rates_say_so(world):
    def pastes(request: Request) -> str:
        """Gap 3 in the positive's own words; gap 4 with its word in others."""
        method, feature, number, _ = parts(request)
        if method == "two-step" and feature == 3:
            return f" quite unlike {SUBJECTS[number]} and the python!!! of violins, my dear friend"
        return says(request)

    run = world.pairs(ScriptedWriter(pastes))
    assert world.rows(run, "pairs")[0]["positive"] == user("harbours and the python!!! of violins")
    world.approve(run)
    made = world.synthesize(run, ScriptedWriter(pastes))
    facts = world.facts(made)
    assert (facts.hit_rate, facts.any_hit_rate, facts.gaps_hit, facts.any_gaps_hit) == (
        0.5,
        1,
        1,
        2,
    )
    assert facts.any_hit_rate_low <= 1 <= facts.any_hit_rate_high
    reasons = {row["reason"] for row in world.rows(made, "verdicts") if row["feature"] == 3}
    assert "borrowed words" in reasons and "" not in reasons
    # Both peaks of every text are on disk: 1 + 3 / 2 in the positive's words, nothing in its own.
    for row in world.rows(made, "hits"):
        if row["feature"] == 3:
            assert (row["peak"], row["own_peak"]) == (2.5, 0.0)
        else:
            assert row["peak"] >= row["own_peak"] > 0
    (kept,) = world.rows(facts.kept_dataset, "samples")
    assert json.loads(kept["meta"])["own_activation"] == 2.5


def test_an_explanation_in_the_prompt_is_a_source_too(world):
    explanations = publish_explanations(world.runs, world.anchor, {3: "some python near water"})
    run = world.pairs(ScriptedWriter(says), explanations=(explanations,), features=(3,))
    world.approve(run, 3)
    # Every text says "need some python near ...", the word of the gap between shared ones.
    made = world.synthesize(run, ScriptedWriter(says))
    peaks = {row["candidate"]: row["own_peak"] for row in world.rows(made, "hits")}
    assert {*peaks.values()} == {0.0}
    assert world.facts(made).hit_rate == 0 and world.facts(made).any_hit_rate == 1


# ---- what is asked


def test_styles_take_turns_and_a_server_gets_prompts_alone(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    writer = ScriptedWriter(says)
    world.synthesize(run, writer)
    requests = [request for request in writer.requests if parts(request)[1] == 3]
    assert [parts(request)[3] for request in requests] == ["phrase", "words", "words", "contrast"]
    lists = [request.opening.text for request in requests if request.opening]
    last = [text.rpartition("\n")[2] for text in lists]
    assert last == ["- and the python:", "- python:", "- python:"]
    # The sentence of the last words stands above them; what it says about them must not come again.
    assert all("- python: " in text for text in lists[1:])
    assert all("and the python" in request.without for request in requests if request.opening)
    assert [request.without for request in requests if request.prompt] == [()]
    server = ScriptedWriter(says)
    world.synthesize(run, server, writer="openai", model="some-model")
    assert all(request.prompt is not None for request in server.requests)
    assert {parts(request)[3] for request in server.requests} == {"contrast"}


IN_PROMPTS_ALONE = ("evol-instruct", "cot-self-instruct")


def test_a_base_model_is_asked_with_lists_alone_in_both_steps_and_by_every_method(world):
    class Base(ScriptedWriter):
        """Knows no chats."""

        def __init__(self) -> None:
            super().__init__(says)
            self.chats = False

    def asked(writer: ScriptedWriter) -> list[Request]:
        assert all(r.prompt is None and r.opening.text for r in writer.requests)
        return writer.requests

    step_1 = Base()
    run = world.pairs(step_1)
    assert {parts(request)[3] for request in asked(step_1)} == {"list"}
    world.approve(run)
    for method in METHODS:
        writer = Base()
        if method in IN_PROMPTS_ALONE:
            with pytest.raises(InputError, match=f"{method} asks in prompts.*\\(alpaca goes on"):
                world.synthesize(run, writer, method=method)
            assert not writer.requests
        else:
            world.synthesize(run, writer, method=method)
            assert len(asked(writer)) == 4 * len(GAPS), method


def test_the_phrase_is_prescribed_where_the_positive_is_strong():
    def row(strength: float) -> dict[str, Any]:
        tokens = ["see", " the", " late", " train", " go"]
        return {
            "pair": "p",
            "feature": 0,
            "positive": user("".join(tokens)),
            "negative": user("see it go"),
            "positive_tokens": tokens,
            "positive_activations": [0.0, 0.0, 1.0, strength, 0.0],
            "positive_peak": strength,
            "negative_tokens": ["see", " it", " go"],
            "negative_peak": 0.0,
        }

    pair = two_step.pair_brief(row(3.0))
    assert pair.firing == "late train" and pair.silent == {"see", "it", "go"}
    assert (pair.use.words, pair.use.before) == ("train", "the late")
    assert pair.positive.text() == "see the <<late train>> go"
    briefs = {0: plan.FeatureBrief(0, "lateness", (), 2.0)}
    spec = SynthesizeSpec(pairs="pairs-0", writer="openai", model="m", candidates=1)
    for strength, kept in ((3.0, False), (4.5, True)):
        pair = two_step.pair_brief(row(strength))
        (ask,) = two_step.ask_from_pairs(spec, [pair], briefs, plan.unsteered)
        question = ask.request.prompt.messages[-1]["content"]
        assert ("Phrase to keep: late train" in question) == kept


def test_a_phrase_that_begins_inside_a_word_is_the_whole_word():
    row = {
        "pair": "p",
        "feature": 0,
        "positive": user("an unbelievable day"),
        "negative": user("a day"),
        "positive_tokens": ["an", " un", "believ", "able", " day"],
        "positive_activations": [0, 0, 2.0, 1.0, 0],
        "positive_peak": 2.0,
        "negative_tokens": ["a", " day"],
        "negative_peak": 0.0,
    }
    assert two_step.pair_brief(row).firing == "unbelievable"


def test_what_a_writer_is_told_of_a_pair_is_a_message_and_no_answer():
    """The excerpt of a chat once ran on into the answer: "how do I calculate it?To calculate"."""
    message, answer = ["how", " is", " it", " late", "?"], ["To", " be", " late", " is", " rude"]
    row = {
        "pair": "p",
        "feature": 0,
        "positive": [*user("how is it late? "), {"role": "assistant", "content": "To be late is"}],
        "negative": [*user("how is it"), {"role": "assistant", "content": "It is not"}],
        "positive_tokens": [*message, *answer[:4]],
        "positive_activations": [0, 0, 0, 2.0, 0, 0, 0, 1.0, 0],
        "positive_peak": 2.0,
        "negative_tokens": ["how", " is", " it", "It", " is", " not"],
        "negative_peak": 0.0,
    }
    assert plan.turns(row["positive_tokens"], row["positive"]) == [slice(0, 5), slice(5, 9)]
    pair = two_step.pair_brief(row)
    assert pair.positive.text() == "how is it <<late>>?"
    assert pair.negative.text() == "how is it"
    assert (pair.use.role, pair.use.phrase) == ("user", "is it late")
    in_the_answer = {**row, "positive_activations": [0, 0, 0, 1.0, 0, 0, 0, 2.0, 0]}
    pair = two_step.pair_brief(in_the_answer)
    assert pair.positive.text() == "how is it <<late>>?"
    silent = {**row, "positive_activations": [0, 0, 0, 0, 0, 0, 0, 2.0, 0]}
    pair = two_step.pair_brief(silent)
    assert pair.positive.text() == "how is it late?"
    assert pair.firing == "" and (pair.use.role, pair.use.words) == ("assistant", "late")


def test_steering_pushes_along_the_feature_by_its_usual_peak(world):
    directions = np.eye(5, 4, dtype=np.float32)
    writer = ScriptedWriter(says)
    spec = PairsSpec(
        anchor=world.anchor, dataset=world.dataset, features=(3,), writer="steered", strength=2.0
    )
    run = world.make_pairs(spec, writer, direction=lambda feature: directions[feature])
    for request in writer.requests:
        # "python!" once in the anchor: its usual peak is 1.5
        assert request.steer.direction.tolist() == [0.0, 0.0, 0.0, 3.0]
        assert request.steer.layer == 1
    with pytest.raises(InputError, match="decoder directions"):
        world.make_pairs(spec, writer)
    assert world.runs.find(run)


def test_samples_of_the_measured_model_are_pushed_whatever_the_method_and_pairs_are_not(world):
    directions, first = np.eye(5, 4, dtype=np.float32), ScriptedWriter(says)
    pairs = PairsSpec(anchor=world.anchor, dataset=world.dataset, features=GAPS)
    run = world.make_pairs(pairs, first, direction=lambda f: directions[f])
    assert first.requests and not any(request.steer for request in first.requests)
    world.approve(run, 3)
    (row,) = world.approved(run)
    spec = SynthesizeSpec(pairs=run, approved=(row["pair"],), candidates=6, strength=2.0)
    for method in ("two-step", "one-step", "random", "words"):
        writer = ScriptedWriter(says)
        world.make(replace(spec, method=method), writer, direction=lambda f: directions[f])
        assert len(writer.requests) == 6, method
        assert all(request.steer for request in writer.requests), method
    # no direction is at hand where another model writes; a server knows none
    other, server = ScriptedWriter(says), ScriptedWriter(says, "server")
    world.make(replace(spec, seed=1), other)
    by_server = replace(spec, writer="openai", model="x")
    world.make(by_server, server, direction=lambda f: directions[f])
    assert not any(request.steer for request in (*other.requests, *server.requests))
    assert len(other.requests) == len(server.requests) == 6


def test_explanations_and_spans_are_in_the_prompts(world):
    texts = {3: "a snake or a language", 4: None}
    explanations = publish_explanations(world.runs, world.anchor, texts)
    writer = ScriptedWriter(says)
    world.pairs(writer, explanations=(explanations,))
    by_feature = {f: [r for r in writer.requests if parts(r)[1] == f] for f in GAPS}
    for request in by_feature[3]:
        assert "a snake or a language" in json.dumps([request.prompt, request.opening])
    for request in by_feature[4]:
        assert "what a function!" in json.dumps([request.prompt, request.opening]).replace(
            "<<", ""
        ).replace(">>", "")


# ---- what was written before


def test_texts_of_anchor_and_evaluation_are_dropped(world, tmp_path):
    evaluation = tmp_path / "held out.jsonl"
    evaluation.write_text(json.dumps({"text": "who wrote the python song about orchids"}) + "\n")

    def leaking(request: Request) -> str:
        method, feature, number, _ = parts(request)
        if method == "step-1" or feature == 4:
            return says(request)
        if number == 1:
            return "who wrote the python song about orchids"
        return SAMPLES["anchor"][3][0]["content"] if number == 3 else says(request)

    run = world.pairs(ScriptedWriter(leaking))
    world.approve(run)
    samples_run = world.synthesize(run, ScriptedWriter(leaking), evaluation=(str(evaluation),))
    by_name = {row["candidate"]: row["reason"] for row in world.rows(samples_run, "verdicts")}
    assert by_name["two-step/000003/01/words"] == "contamination"
    assert by_name["two-step/000003/03/contrast"] in ("contamination", "echo")
    assert world.runs.manifest(samples_run).spec.evaluation == ("held out.jsonl",)
    moved = evaluation.rename(tmp_path / "held out 2.jsonl")
    again = ScriptedWriter(leaking)
    assert (
        world.synthesize(run, again, evaluation=(str(moved),)) == samples_run and not again.requests
    )
    moved.write_text(json.dumps({"text": "another"}) + "\n")
    other = world.synthesize(run, again, evaluation=(str(moved),))
    by_name = {row["candidate"]: row["reason"] for row in world.rows(other, "verdicts")}
    assert by_name["two-step/000003/01/words"] != "contamination"


def test_what_is_kept_is_told_token_by_token(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    samples_run = world.synthesize(run, ScriptedWriter(says), candidates=2)
    kept = {r["candidate"]: r for r in world.rows(samples_run, "candidates")}
    hits = {(r["candidate"], r["feature"]): r["peak"] for r in world.rows(samples_run, "hits")}
    traces = world.rows(samples_run, "traces")
    names = [v["candidate"] for v in world.rows(samples_run, "verdicts") if v["kept"]]
    assert [row["candidate"] for row in traces] == names and len(names) == 2
    for row in traces:
        (message,) = kept[row["candidate"]]["messages"]
        assert "".join(row["tokens"]).split() == message["content"].split()
        loud = [t.strip(" !") for t, a in zip(row["tokens"], row["activations"], strict=True) if a]
        assert {*loud} == {WORDS[row["feature"]]}
        assert max(row["activations"]) == hits[row["candidate"], row["feature"]]


def test_what_will_be_asked_is_known_before_anybody_is_asked(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    approved = world.approved(run)
    named = tuple(row["pair"] for row in approved)
    for method in ("two-step", "one-step", "unguided", "random"):
        writer = ScriptedWriter(says)
        spec = SynthesizeSpec(pairs=run, approved=named, method=method, candidates=3)
        asks = synthesis.first_asked(spec, runs=world.runs, approved=approved)
        world.make(spec, writer)
        assert [ask.request for ask in asks] == writer.requests[:3]
        steered = replace(spec, writer="steered")
        pushed = synthesis.first_asked(steered, runs=world.runs, approved=approved)
        assert [ask.request for ask in pushed] == [ask.request for ask in asks]
    spec = SynthesizeSpec(pairs=run, approved=("nobody's",))
    with pytest.raises(InputError, match="Nobody approved the pair nobody's"):
        synthesis.first_asked(spec, runs=world.runs, approved=approved)


def test_what_fires_only_beside_others_is_not_kept(world):
    class Fickle(LexiconEncoder):
        """Loses a function at the edge of its threshold when a text is read alone."""

        def read(self, chats, *roles):
            columns = ("sample", "position", "feature", "value", "role")
            for reading in super().read(chats, *roles):
                edge = (reading.feature == 4) & (reading.value > 1.5) & (len(chats) == 1)
                stays = {name: getattr(reading, name)[~edge] for name in columns}
                yield reading._replace(**stays)

    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    run = world.make(
        SynthesizeSpec(pairs=run, approved=tuple(r["pair"] for r in world.approved(run))),
        ScriptedWriter(says),
        encoder=Fickle(*WORDS),
    )
    kept = {row["feature"]: row["peak"] for row in world.rows(run, "verdicts") if row["kept"]}
    assert kept == {3: 2.5, 4: 1.5}
    judged = {row["candidate"]: row for row in world.rows(run, "verdicts")}
    phrase, word = (judged[f"two-step/000004/{s}"] for s in ("00/phrase", "02/words"))
    # Of the stronger one nothing is left alone; the other is weaker than what is kept, so it was
    # not read alone.
    assert (word["reason"], word["peak"]) == ("below threshold", 0.0)
    assert (phrase["reason"], phrase["peak"]) == ("beaten", 1.0)
    hits = {row["candidate"]: row for row in world.rows(run, "hits")}
    assert word["candidate"] not in hits
    assert (hits[phrase["candidate"]]["peak"], hits[phrase["candidate"]]["own_peak"]) == (1.0, 1.0)


def test_the_benchmark_counts_no_kept_text_that_stricter_gates_drop(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    made = world.synthesize(run, ScriptedWriter(says), keep=1)
    loose = row_of(world.runs, made, "two-step", 0, GAPS, Norms({}))
    assert (loose["hit"], loose["newly_dropped"]) == ([True, True], 0)
    assert loose["fac_after"] == fac_of(5, 5)
    strict = Norms({"user": RoleNorms(length=(100.0, 200.0))})  # words
    none = row_of(world.runs, made, "two-step", 0, GAPS, strict)
    assert (none["hit"], none["newly_dropped"], none["kept"]) == ([False, False], 2, 2)
    assert none["fac_after"] == none["fac_before"] == fac_of(3, 5)


# ---- stopping, and going on


def test_a_budget_keeps_the_gaps_that_are_complete_and_goes_on_later(world):
    stop = BudgetReached("The budget is used.")

    def poor(request: Request) -> str | BaseException:
        return stop if parts(request)[1:3] == (4, 2) else says(request)

    with pytest.raises(BudgetReached, match=r"1 gaps are complete and kept \(pairs-"):
        world.pairs(ScriptedWriter(poor))
    (manifest,) = world.runs.list("pairs")
    assert manifest.spec.features == (3,)
    richer = ScriptedWriter(says)
    run = world.pairs(richer)
    assert sorted(parts(request)[1:3] for request in richer.requests) == [(4, 2), (4, 3)]
    assert world.facts(run).n_candidates == 8
    world.approve(run)
    with pytest.raises(BudgetReached, match=r"1 gaps are complete and kept \(synthetic-"):
        world.synthesize(run, ScriptedWriter(poor))
    (manifest,) = world.runs.list("synthetic")
    assert manifest.facts.gaps == 1 and manifest.facts.hit_rate == 1.0


def test_a_baseline_that_was_stopped_publishes_what_it_can_name_or_says_why_not(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    stop = BudgetReached("The budget is used.")

    def poor(request: Request) -> str | BaseException:
        return stop if parts(request)[1:3] == (4, 2) else says(request)

    for method in ("one-step", "unguided", "random"):
        reason = "^The budget is used. A baseline that names no pairs .* and 1 of 2 are complete"
        with pytest.raises(BudgetReached, match=reason):
            world.synthesize(run, ScriptedWriter(poor), approved=(), method=method)
        assert world.runs.list("synthetic") == []
        richer = ScriptedWriter(says)
        whole = world.synthesize(run, richer, approved=(), method=method)
        assert sorted(parts(request)[1:3] for request in richer.requests) == [(4, 2), (4, 3)]
        assert world.facts(whole).gaps == 2
        shutil.rmtree(world.runs.path(whole))
    with pytest.raises(BudgetReached, match=r"1 gaps are complete and kept \(synthetic-"):
        world.synthesize(run, ScriptedWriter(poor), method="one-step", seed=1)
    (manifest,) = world.runs.list("synthetic")
    assert manifest.facts.gaps == 1 and manifest.facts.method == "one-step"


def test_what_is_kept_says_who_wrote_it_and_not_where(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    where = {"writer": "openai", "model": "lab/llama-8b", "endpoint": "http://gpu-host:8000/v1"}
    writer = ScriptedWriter(says, "lab/llama-8b at http://gpu-host:8000/v1")
    samples_run = world.synthesize(run, writer, **where)
    for row in world.rows(world.facts(samples_run).kept_dataset, "samples"):
        lineage = json.loads(row["meta"])
        assert (lineage["generator"], lineage["writer"]) == ("lab/llama-8b", "openai")
        assert "gpu-host" not in row["meta"]


def test_nothing_complete_is_nothing_kept(world):
    def refuses(request: Request) -> str | BaseException:
        return Cancelled("You stopped it.") if parts(request)[2] == 3 else says(request)

    with pytest.raises(Cancelled, match=r"^You stopped it\.$"):
        world.pairs(ScriptedWriter(refuses))
    assert world.runs.list("pairs") == []


def test_a_wish_to_stop_while_measuring_keeps_every_text(world):
    def impatient(done: int, total: int, note: str = "") -> None:
        if "measuring" in note:
            raise Cancelled("You stopped it.")

    spec = PairsSpec(anchor=world.anchor, dataset=world.dataset, features=GAPS)
    with pytest.raises(Cancelled):
        world.make_pairs(spec, ScriptedWriter(says), progress=impatient)
    again = ScriptedWriter(says)
    world.make_pairs(spec, again)
    assert again.requests == []


def test_a_text_that_failed_is_tried_again_in_the_next_run(world):
    def fails(request: Request) -> str | Written:
        if parts(request)[2] == 0:
            return Written(request.key, "", False, 0, "The server declined.", 5, None)
        return says(request)

    world.pairs(ScriptedWriter(fails))
    again = ScriptedWriter(says)
    world.pairs(again, margin=0.5)
    assert {parts(request)[2] for request in again.requests} == {0}


def test_a_torn_line_is_dropped_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "_texts.jsonl"
    journal = CandidateJournal(path)
    first = Written("a", "one\u2028two\nthree", True, 3, "", 9, None)
    journal.append(first)
    with path.open("ab") as file:
        file.write(b'{"key": "b", "te')
    again = CandidateJournal(path)
    assert again.read() == {"a": first}
    second = first._replace(key="b", cost=0.5)
    again.append(second)
    assert CandidateJournal(path).read() == {"a": first, "b": second}
    path.write_bytes(path.read_bytes().replace(b'"finished"', b'"finish"', 1))
    with pytest.raises(InputError, match="Line 1 of .* is damaged"):
        CandidateJournal(path).read()


def test_seconds_go_on_where_the_last_session_ended(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for expected in (5.0, 10.0):
        journal = CandidateJournal(tmp_path / "_texts.jsonl")
        journal.read()
        now[0] += 5
        journal.append(Written(f"k{expected}", "x", True, 1, "", 1, None))
        assert journal.seconds == expected
        now[0] += 1000  # between two sessions nobody writes


def test_a_pilot_says_what_the_whole_will_take_and_its_texts_count(world):
    run = world.pairs(ScriptedWriter(says))
    world.approve(run)
    approved = world.approved(run)
    spec = SynthesizeSpec(pairs=run, approved=tuple(row["pair"] for row in approved))
    writer = ScriptedWriter(says)
    doors: dict[str, Any] = {
        "runs": world.runs,
        "approved": approved,
        "encoder": world.encoder,
        "writer": writer,
        "progress": quiet,
    }
    few = replace(spec, approved=synthesis.pilot_pairs(spec.approved, 1))
    tried = world.runs.manifest(synthesis.synthesize(few, **doors))
    forecast = synthesis.forecast(tried, len(spec.approved))
    facts = world.facts(forecast.run)
    assert forecast.candidates == 4 and facts.gaps == 1
    assert forecast.accepted == facts.accepted and forecast.rate == forecast.accepted / 4
    assert 0 <= forecast.low < forecast.rate <= forecast.high <= 1
    assert forecast.tokens == 2 * facts.tokens
    assert forecast.tokens_per_kept == facts.tokens / facts.kept
    assert forecast.cost is None
    whole = synthesis.synthesize(spec, **doors)
    assert len(writer.requests) == 8 == world.facts(whole).n_candidates


def test_what_is_quoted_begins_with_a_word():
    cut = ["utely", ",", " there", " are", *[" many"] * 27, " birds"]
    assert around(cut, 31) == slice(2, 32)
    assert around(["Absol", *cut[:-1]], 31) == slice(0, 32)  # the beginning of a text
    assert around(cut[:9], 3) == slice(0, 9)  # short, so nothing was cut off
    assert around([*cut, *cut], 40) == slice(17, 49)
    assert around(["x"] * 40, 39) == slice(8, 40)  # no word begins anywhere
    assert around(cut, 90) == slice(2, 32)
