"""fac.synthesis: samples that go on after their message, written role by role."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fac.config import SynthesizeSpec
from fac.errors import BudgetReached, InputError
from fac.export import provenance
from fac.generator.writer import Request, Written
from fac.schema import Chat
from fac.synthesis.methods.two_step import IN_ANSWER, IN_MESSAGE
from fac.synthesis.plan import fired_in_answers
from tests.lexicon import LexiconEncoder
from tests.scripted import ScriptedWriter
from tests.test_synthesis import SUBJECTS, WORDS, World, user
from tests.toy import toy_workspace

GAPS = (3, 4)

SERVER = {"writer": "openai", "model": "some-model"}
"""Who is asked for messages first, whatever the gap: one that answers prompts."""


def chat(message: str, answer: str) -> Chat:
    return [*user(message), {"role": "assistant", "content": answer}]


SAMPLES = {
    "anchor": [
        chat("how long do I bake a loaf of rye bread", "about an hour in a hot oven"),
        chat("what shall we cook", "try this recipe for plum dumplings"),
        # Most samples fire python in the answer, function in the message.
        chat("rename my holiday photos for me please", "this python! script renames them all"),
        chat("sort my letters by their date", "with python it takes a minute at most"),
        chat("does python sort things", "it does indeed"),
        chat("what does a function! give back when empty", "nothing at all, which has a name"),
        chat("why is my function so slow today", "because it waits for an answer"),
        chat("name something that can be called", "a function"),
    ],
    "seed": [
        chat("should I bake the tart first", "only the crust"),
        chat("which shelf of the oven is hottest", "the upper one"),
        chat("a recipe without eggs please", "take apples"),
    ],
}


@pytest.fixture(scope="module")
def answered_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("answered world")
    return World(toy_workspace(root, n_features=5, samples=SAMPLES))


@pytest.fixture
def world(answered_world: World, tmp_path) -> World:
    return answered_world.copy(tmp_path / "world")


def split(request: Request) -> tuple[str, int, int, bool]:
    """Method, feature and number of a request, and whether an answer is asked for."""
    method, feature, number, _, *answer = request.key.split("/")
    return method, int(feature), int(number), bool(answer)


def says(request: Request) -> str:
    """Messages that fire their gap, later ones more strongly; answers that fire python."""
    method, feature, number, is_answer = split(request)
    subject, word = SUBJECTS[number % len(SUBJECTS)], WORDS[feature] + "!" * number
    if is_answer and method != "two-step":
        return f"Some people say {subject} like their python!! more than {number} of us."
    if is_answer:
        return (
            f"My answer about {subject} for {feature}: use python!! whenever {number} of you like."
        )
    if method != "two-step":
        return f" {subject} and the {word} of all {number} others."
    return f" {subject} need some {word} near {number} others."


def pairs_of(world: World) -> str:
    run = world.pairs(ScriptedWriter(says), profile="chat")
    world.approve(run)
    return run


def asked(writer: ScriptedWriter) -> list[tuple[int, int]]:
    """Feature and number of the answers that were asked for, in that order."""
    return [split(r)[1:3] for r in writer.requests if split(r)[3]]


def test_which_gaps_the_anchor_fires_in_answers(world):
    def fired(threshold: float, role: str = "all") -> set[int]:
        return fired_in_answers(world.runs, world.anchor, GAPS, threshold, role)

    assert fired(0.0) == {3}  # python: two answers, one message; function: two messages, one answer
    assert fired(1.0) == {3}  # above 1 python! in an answer alone, function! in a message
    assert fired(2.0) == set()
    assert fired(0.0, "user") == set() and fired(0.0, "assistant") == {3, 4}


def test_answers_are_written_for_what_is_kept_and_where_the_gap_fires_in_answers(world):
    run = pairs_of(world)
    writer = ScriptedWriter(says)
    made = world.synthesize(run, writer, profile="chat", keep=1, **SERVER)
    facts = world.facts(made)
    # All four of the gap that is fired in answers, of the other the strongest message alone.
    assert sorted(asked(writer)) == [(3, 0), (3, 1), (3, 2), (3, 3), (4, 3)]
    for request in writer.requests:
        if split(request)[3]:  # an ordinary turn: nothing but the message is shown
            (message,) = request.prompt.messages
            assert message["role"] == "user" and "others." in message["content"]
    assert facts.answers == 5 and facts.answered_by == "scripted writer"
    for row in world.rows(facts.kept_dataset, "samples"):
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        assert json.loads(row["meta"])["answered_by"] == "scripted writer"
    # The ledger has every token: eight messages, five answers.
    tokens = sum(len(says(request).split()) for request in writer.requests)
    assert len(writer.requests) == 13 and facts.tokens == tokens
    assert facts.prompt_tokens == 13 * 10
    replies = {row["about"]: row for row in world.rows(made, "replies")}
    assert (
        len(replies) == 13 and sum(row["completion_tokens"] for row in replies.values()) == tokens
    )
    by_name = {row["candidate"]: row for row in world.rows(made, "candidates")}
    assert sum(row["tokens"] for row in by_name.values()) == tokens
    assert Counter(len(row["messages"]) for row in by_name.values()) == {2: 5, 1: 3}


def test_what_is_kept_is_measured_with_its_answer(world):
    run = pairs_of(world)

    def quiet_messages(request: Request) -> str:
        _, feature, number, is_answer = split(request)
        if feature == 3 and not is_answer:
            return f" tell me {number} things about {SUBJECTS[number]}, in any order."
        if feature == 3:
            return f"{SUBJECTS[number]} went well {number} times since python!! did it"
        return says(request)

    made = world.synthesize(run, ScriptedWriter(quiet_messages), profile="chat", **SERVER)
    hits = [row for row in world.rows(made, "hits") if row["feature"] == 3]
    own = [row for row in hits if row["candidate"].startswith("two-step/000003")]
    assert {(row["peak"], row["role"], row["own_peak"]) for row in own} == {(2.0, "assistant", 2.0)}
    assert world.facts(made).hit_rate == 1
    # The answer to what is kept for the other gap fires python as well.
    (other,) = [row for row in hits if row["candidate"].startswith("two-step/000004")]
    assert other["role"] == "assistant"


def test_a_message_whose_answer_is_none_gives_way_to_the_next_best(world):
    run = pairs_of(world)

    def declines(request: Request) -> str | Written:
        _, feature, number, is_answer = split(request)
        if is_answer and feature == 4 and number == 3:
            return "I'm sorry, but I can't help with that."
        if is_answer and feature == 4 and number == 2:
            return Written(request.key, "and then the", False, 3, "", 9, None)
        return says(request)

    writer = ScriptedWriter(declines)
    made = world.synthesize(run, writer, profile="chat")
    assert [number for feature, number in asked(writer) if feature == 4] == [3, 2, 1]
    verdicts = {row["candidate"]: row for row in world.rows(made, "verdicts")}
    reasons = {
        int(name.split("/")[2]): row["reason"] or "kept"
        for name, row in verdicts.items()
        if row["feature"] == 4
    }
    assert reasons == {3: "refusal", 2: "cut off", 1: "kept", 0: "beaten"}


def test_another_may_answer_or_nobody(world):
    run = pairs_of(world)
    approved = world.approved(run)
    named = {"pairs": run, "approved": tuple(row["pair"] for row in approved), "profile": "chat"}
    named |= SERVER
    writer, other = ScriptedWriter(says), ScriptedWriter(says, "the measured model")
    spec = SynthesizeSpec(**named, answers="local")
    made = world.make(spec, writer, answerer=other)
    assert not asked(writer) and len(asked(other)) == 5
    assert world.facts(made).answered_by == "the measured model"
    replies = world.rows(made, "replies")
    assert Counter(row["model"] for row in replies) == {
        "scripted writer": 8,
        "the measured model": 5,
    }
    alone = ScriptedWriter(says)
    made = world.make(SynthesizeSpec(**named, answers="none"), alone)
    assert not asked(alone) and world.facts(made).answers == 0
    (first, *_) = world.rows(world.facts(made).kept_dataset, "samples")
    assert [m["role"] for m in first["messages"]] == ["user"]


def test_a_base_model_answers_in_a_list_of_the_datasets_own_answers(world):
    run = pairs_of(world)
    writer = ScriptedWriter(says)
    writer.chats = False
    world.synthesize(run, writer, profile="chat")
    answers = [request for request in writer.requests if split(request)[3]]
    assert answers and all(request.prompt is None for request in writer.requests)
    (after,) = [request for request in answers if request.key.endswith("/answer")]
    assert "only the crust" in after.opening.text


LED_TO = {0: "python", 2: "this python"}  # by the number of a text: every other one with context


def test_where_the_gap_fires_in_answers_these_come_first_or_are_led_to_the_words(world):
    run = pairs_of(world)
    writer = ScriptedWriter(says)
    made = world.synthesize(run, writer, profile="chat", keep=1)
    first = {split(r)[1:3]: r for r in writer.requests if r.key.count("/") == 3}
    assert len(first) == 8
    for number in range(4):
        of_answers, of_messages = (first[gap, number].opening.text for gap in (3, 4))
        assert "each with a message to an assistant" in of_messages
        request = first[3, number]
        if number % 2 == 0:
            assert request.biases[0] == ((LED_TO[number],), IN_MESSAGE)
            assert "A list of messages that people sent" in of_answers
            assert "- rename my holiday photos for me please" in of_answers
        else:
            assert "each with an answer of an assistant" in of_answers
    guided = [r for r in writer.requests if "/led" in r.key and r.key.endswith("/answer")]
    assert len(guided) == 2  # both messages, since whether they fire says nothing of their answers
    for request in guided:
        (turn,) = request.prompt.messages
        assert turn == {"role": "user", "content": says(first[split(request)[1:3]]).strip()}
        assert request.biases[0] == ((LED_TO[split(request)[2]],), IN_ANSWER)
        assert any("python" in phrase for phrase in request.without)
    # Whoever asks how a sample came about sees what was asked for every turn of it.
    later = [provenance(made, number, runs=world.runs).later_prompts for number in range(2)]
    by_answer = [prompts["answer"][-1]["content"] for prompts in later if "answer" in prompts]
    assert by_answer


def silent_if_led(request: Request) -> str:
    """What is written in turns that go to or come from somebody who is led to the words says none
    of them, so that an answer is kept that was written first."""
    text = says(request)
    return text.replace("python", "nothing") if "/led" in request.key else text


def test_an_answer_that_is_kept_gets_the_message_that_it_answers(world):
    run = pairs_of(world)
    writer = ScriptedWriter(silent_if_led)
    made = world.synthesize(run, writer, profile="chat", keep=1)
    later = sorted(r.key.rpartition("/")[2] for r in writer.requests if "/message" in r.key)
    assert later == ["message", "message-2", "message-3", "message-4"]
    message = next(r for r in writer.requests if r.key.endswith("/message"))
    assert message.opening.text.endswith("\nMessage:")
    assert "renames them all" in message.opening.text
    assert any("near 3 others" in phrase for phrase in message.without)
    rows = world.rows(world.facts(made).kept_dataset, "samples")
    assert [[m["role"] for m in row["messages"]] for row in rows] == [["user", "assistant"]] * 2
    by_gap = {json.loads(row["meta"])["feature"]: row["messages"] for row in rows}
    assert "near 3 others" in by_gap[3][1]["content"] and "near 3 others" in by_gap[4][0]["content"]


def test_a_model_is_asked_about_an_answer_with_its_message_alone(world):
    chats: list[Chat] = []

    def likelihood(read):
        chats.extend(read)
        nats = np.array([[1.0, 1.0, -len(chat[0]["content"])] for chat in read])
        return np.stack([nats, np.full_like(nats, np.nan)], axis=1)

    def longer(request: Request) -> str:
        return silent_if_led(request) + " please" * (request.key.endswith("/message-2"))

    run = pairs_of(world)
    spec = SynthesizeSpec(
        pairs=run, approved=tuple(row["pair"] for row in world.approved(run)), profile="chat"
    )
    made = world.make(spec, ScriptedWriter(longer), likelihood=likelihood)
    assert {chat[0]["role"] for chat in chats} == {"user"}
    assert world.facts(made).hit_rate == 1
    kept = [row["messages"] for row in world.rows(world.facts(made).kept_dataset, "samples")]
    assert all(chat in chats for chat in kept)
    # Of several messages the one after which the answer surprises the model least.
    assert [chat[0]["content"].endswith("please") for chat in kept] == [True, False]


def test_a_template_that_takes_no_answer_first_gets_messages_first(world):
    class Strict(LexiconEncoder):
        """Of a model whose template wants a user's turn at the beginning."""

        def render(self, chats):
            if wrong := [chat for chat in chats if chat and chat[0]["role"] != "user"]:
                raise InputError(f"The chat template refuses the roles of {wrong[0]}.")
            return super().render(chats)

    run = pairs_of(world)
    spec = SynthesizeSpec(
        pairs=run, approved=tuple(row["pair"] for row in world.approved(run)), profile="chat"
    )
    writer = ScriptedWriter(says)
    world.make(spec, writer, encoder=Strict(*WORDS))
    later = {request.key.rpartition("/")[2] for request in writer.requests if split(request)[3]}
    assert later == {"answer"}


def test_answers_are_not_asked_for_twice(world):
    run = pairs_of(world)
    first = ScriptedWriter(says)
    world.synthesize(run, first, profile="chat", keep=1, **SERVER)
    again = ScriptedWriter(says)
    more = world.synthesize(run, again, profile="chat", keep=2, **SERVER)
    # The second best of the gap that is fired in messages is all that was not answered yet.
    assert [split(request)[1:] for request in again.requests] == [(4, 2, True)]
    assert world.facts(more).kept == 4


def test_a_stop_between_answers_keeps_the_gaps_that_are_whole(world):
    run = pairs_of(world)

    def poor(request: Request) -> str | BaseException:
        _, feature, _, is_answer = split(request)
        if is_answer and feature == 4:
            return BudgetReached("The budget is used.")
        return says(request)

    with pytest.raises(BudgetReached, match=r"1 gaps are complete and kept \(synthetic-"):
        world.synthesize(run, ScriptedWriter(poor), profile="chat")
    (manifest,) = world.runs.list("synthetic")
    assert manifest.facts.gaps == 1 and manifest.facts.kept == 1
    richer = ScriptedWriter(says)
    whole = world.synthesize(run, richer, profile="chat")
    assert [split(request)[1:] for request in richer.requests] == [(4, 3, True)]
    assert world.facts(whole).kept == 2


def test_preferences_have_two_answers(world):
    run = world.pairs(ScriptedWriter(says), profile="preference")
    world.approve(run)

    def two(request: Request) -> str:
        return says(request) + (" Or so." if request.key.endswith("answer-2") else "")

    made = world.synthesize(run, ScriptedWriter(two), profile="preference", candidates=2)
    kept: list[dict[str, Any]] = world.rows(made, "candidates")
    extra = [json.loads(row["extra"]) for row in kept if len(row["messages"]) == 2]
    assert extra and all(each["rejected"][-1]["content"].endswith("Or so.") for each in extra)
    assert np.all([len(row["messages"]) <= 2 for row in kept])
