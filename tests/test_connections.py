"""What a test of an endpoint shows, of servers that misbehave in ways one knows; its page, and what
forms make of it. No key is ever on a page or in a file."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from fac.config import Workspace, read_spec
from fac.endpoints import Endpoint, read_endpoints
from fac.errors import InputError
from fac.generator import batch_chat
from fac.generator.connection import (
    AT_ONCE,
    Connection,
    keep_connection,
    read_connections,
    try_connection,
)
from fac.jobs.worker import Worker
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.server import Body, ScriptedServer, Status, completion
from tests.test_cli import fac
from tests.test_interpret import honest, prompt_of
from tests.test_pages import (
    button,
    empty,
    metrics,
    navigation_decides,
    opened,
    ran,
    started,
    toy,
    words,
)

__all__ = ["empty", "navigation_decides", "started", "toy"]  # fixtures of the pages' tests

CANARY = "canary-of-the-lab-0123456789"

MODELS = {"object": "list", "data": [{"id": "small"}, {"id": "large"}]}

N_QUESTIONS = 3 + AT_ONCE


def answer(body: Body) -> str:
    """What a perfect reader of the toy answers, and a greeting to a greeting."""
    if "Answer with one JSON object" not in body["messages"][-1]["content"]:
        return "Good morning."
    if "response_format" in body:
        return honest(prompt_of(body))
    return json.dumps({"rationale": "it is about fruit", "level": "yes"})


def silent(*_: Any) -> None:
    """Nobody watches."""


@contextmanager
def served(envelope: Callable[[Body, str], Any] | None = None, **options: Any) -> Iterator[Any]:
    with ScriptedServer(answer, envelope=envelope, **options).running() as server:
        yield server


def trial(server: ScriptedServer, **prices: float) -> Connection:
    endpoint = Endpoint(name="lab", url=server.endpoint, **prices)
    return try_connection(endpoint, "small", progress=silent)


def test_a_server_without_faults_is_asked_eleven_questions_and_works():
    reports: list[tuple[int, int]] = []
    with served(models=MODELS) as server:
        endpoint = Endpoint(name="lab", url=server.endpoint, price_in=1000, price_out=2000)
        result = try_connection(endpoint, "small", progress=lambda *r: reports.append(r[:2]))
    assert result.works and (result.failure, result.unread, result.unlisted) == ("", "", "")
    assert result.listed == ("small", "large")
    assert (result.refusals, result.met, result.room) == ((), {}, 0)
    assert result.answered == AT_ONCE and result.counted and result.answered_as == "small"
    assert len(server.bodies) == N_QUESTIONS == len(server.asked), "no question twice"
    assert reports[-1] == (N_QUESTIONS, N_QUESTIONS)
    # The server counts four letters a token of each message, and one more of its answer.
    prompts = [sum(len(m["content"]) // 4 for m in body["messages"]) for body in server.bodies]
    replies = [len(answer(body)) // 4 + 1 for body in server.bodies]
    assert (result.prompt_tokens, result.completion_tokens) == (prompts[2], replies[2])
    assert result.tokens == sum(prompts) + sum(replies)
    dollars = (1000 * sum(prompts) + 2000 * sum(replies)) / 1e6
    assert result.cost == pytest.approx(dollars)
    assert result.seconds > 0 and result.together > 0


def test_what_a_server_refuses_is_told_with_its_words_and_with_what_helped():
    def envelope(body: Body, text: str) -> Any:
        if "response_format" in body:
            return Status(400, {"error": {"message": "no grammar here"}})
        if any(message["role"] == "system" for message in body["messages"]):
            return Status(400, {"error": {"message": "roles must be user and assistant"}})
        if "temperature" in body:
            return Status(400, {"error": {"message": "Unsupported parameter: temperature"}})
        return completion(body, text)

    with served(envelope) as server:
        result = trial(server)
    assert result.works
    told = {refusal.what.partition(";")[0]: refusal.answer for refusal in result.refusals}
    assert [*told] == ["a temperature", "a JSON schema", "a system message"]
    assert "Unsupported parameter: temperature" in told["a temperature"]
    assert "no grammar here" in told["a JSON schema"]
    assert "roles must be user and assistant" in told["a system message"]
    assert "404" in result.unlisted and result.listed == ()


def test_a_model_that_thinks_needs_room_which_is_told():
    def envelope(body: Body, text: str) -> Body:
        if body["max_tokens"] >= 3000:
            return completion(body, text)
        return completion(body, None, "length")

    with served(envelope) as server:
        result = trial(server)
    times, least = batch_chat.MORE_ROOM
    assert result.works and result.room == max(times * 256, least) == 4096
    rooms = [body["max_tokens"] for body in server.bodies]
    assert rooms == [64, 4096] + [4096] * (N_QUESTIONS - 1), "found out once"


def test_a_server_that_limits_how_many_it_answers_at_once_says_so():
    met: list[int] = []

    def envelope(body: Body, text: str) -> Any:
        met.append(1)
        if len(met) == 5:  # the second of those that are asked at once
            return Status(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
        return completion(body, text)

    with served(envelope) as server:
        result = trial(server)
    assert result.works and result.answered == AT_ONCE and result.met == {"retried_429": 1}


@pytest.mark.parametrize(
    ("envelope", "failure"),
    [
        (lambda *_: Status(401, {"error": {"message": "who are you"}}), "who are you"),
        (
            lambda *_: Status(404, {"error": {"message": "no such model"}}),
            "knows the model 'small'",
        ),
    ],
)
def test_a_server_that_answers_nothing_says_why(envelope, failure):
    with served(envelope, models=MODELS) as server:
        result = trial(server)
    assert not result.works and failure in result.failure
    assert result.listed == ("small", "large") and result.answered == 0 and result.pace is None


def test_an_answer_without_the_form_is_no_answer():
    with served(lambda body, _: completion(body, "I would rather not.")) as server:
        result = trial(server)
    assert not result.works and "no JSON object" in result.unread and not result.failure


@pytest.mark.parametrize("listing", [b"<html>hello</html>", {"data": None}, [], {"models": []}])
def test_a_list_of_models_that_is_none_ends_no_test(listing):
    with served(models=listing) as server:
        result = trial(server)
    assert result.works and result.listed == ()


def test_the_last_test_of_each_model_is_kept(tmp_path):
    file = tmp_path / "connections.json"
    assert read_connections(file) == {}
    with served(lambda body, text: completion(body, text)) as server:
        result = trial(server)
    other = result._replace(model="large", failure="It is gone.")
    for each in (other._replace(failure="before"), result, other):
        keep_connection(file, each)
    place = server.endpoint
    assert read_connections(file) == {(place, "small"): result, (place, "large"): other}
    file.write_text('[{"url": 3}]')
    with pytest.raises(InputError, match="test the endpoints anew"):
        read_connections(file)


# --- what the operator lists --------------------------------------------------------------------


def test_a_task_has_the_first_model_of_the_endpoint_that_names_it(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    file = tmp_path / "endpoints.toml"
    file.write_text(
        '[lab]\nurl = "http://lab/v1"\nmodels = ["s", "l"]\ntasks = ["explain"]\n'
        "price_in = 1\nprice_out = 2\nprice_date = 2026-11-30\n"
        '[mine]\nurl = "https://api.openai.com/v1"\nkey = "K"\nmodels = ["m"]\ntasks = ["judge"]\n'
    )
    endpoints = read_endpoints(file)
    assert endpoints.default_of("explain") == ("http://lab/v1", "s")
    assert endpoints.default_of("judge") == ("", "m"), "the default endpoint has no address"
    assert endpoints.default_of("pairs") is None
    assert f"{endpoints.listed[0].price_date}" == "2026-11-30"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('tasks = ["explain"]', "tasks need models"),
        ('models = ["m"]\ntasks = ["sing"]', "tasks are some of explain, judge"),
        ("price_date = 2026-11-30T12:00:00", "price_date has the wrong form"),
        ('price_date = "30.11.2026"', "price_date has the wrong form"),
        ("requests_per_minute = 0", "requests_per_minute is a whole number from 1 on, got 0"),
        ("tokens_per_minute = 1.5", "tokens_per_minute has the wrong form"),
        ("tokens_per_minute = true", "tokens_per_minute has the wrong form"),
        (
            'models = ["m"]\ntasks = ["pairs"]\n[b]\nurl = "http://b/v1"\nmodels = ["m"]\n'
            'tasks = ["pairs"]',
            "two defaults for pairs",
        ),
    ],
)
def test_a_default_that_cannot_be_is_one_sentence(tmp_path, lines, why):
    file = tmp_path / "endpoints.toml"
    file.write_text(f'[a]\nurl = "http://a/v1"\n{lines}\n')
    with pytest.raises(InputError, match=re.escape(why)):
        read_endpoints(file)


# --- the page -----------------------------------------------------------------------------------


@pytest.fixture
def lab(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """The toy, whose only endpoint is a server without faults."""
    monkeypatch.setenv("LAB_KEY", CANARY)
    with served(models=MODELS) as server:
        toy.endpoints.write_text(
            f'[lab]\nurl = "{server.endpoint}"\nkey = "LAB_KEY"\nmodels = ["small", "large"]\n'
            'price_in = 1.5\nprice_out = 4\nprice_date = 2026-11-30\ntasks = ["judge"]\n'
        )
        yield server


def assert_secret(at: AppTest, root: Path) -> None:
    assert CANARY not in words(at) + str(at.session_state)
    assert not [p for p in root.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def test_a_person_tests_an_endpoint_and_the_result_stays(toy, lab):
    at = opened("connections")
    text = words(at)
    assert "LAB_KEY is set" in text and "$1.5 for prompts, $4 for replies, of 30 November" in text
    assert "Relevance: **small** at lab" in text and "Pairs: chosen in the form" in text
    assert "not been tested" in text and not at.metric
    assert lab.bodies == [], "to look costs nothing"
    ran(button(at, "Test").click().run())
    assert "It lists small, large" in words(at)
    assert [each.value for each in at.success] == [
        "It works: it answers, and its answers can be read."
    ]
    assert {*metrics(at)} == {"One question", "8 at once", "Tokens", "Room"}
    assert {headers["authorization"] for headers in lab.headers} == {f"Bearer {CANARY}"}
    assert_secret(at, toy.root)
    again = opened("connections")
    assert metrics(again) == metrics(at) and len(lab.bodies) == N_QUESTIONS
    (model,) = [each for each in again.selectbox if each.label == "Model"]
    ran(model.set_value("large").run())
    assert not again.metric, "of the other model nothing is known"


def test_an_address_that_nobody_listed_is_tested_where_the_operator_allows_it(
    toy, lab, monkeypatch
):
    assert "Another address" not in fields(opened("connections"))
    monkeypatch.setenv("FAC_UNLISTED_ENDPOINTS", "allow")
    with served() as other:
        at = opened("connections")
        ran(fields(at)["Another address"].set_value("ftp://nowhere").run())
        assert "must be an http(s) address" in words(at)
        ran(fields(at)["Another address"].set_value(other.endpoint).run())
        (model,) = [each for each in at.text_input if each.label == "Model"]
        ran(model.set_value("small").run())
        last = [each for each in at.button if each.label == "Test"][-1]
        ran(last.click().run())
    assert [each.value.startswith("It works") for each in at.success] == [True]
    assert {headers.get("authorization") for headers in other.headers} == {None}
    assert lab.bodies == []


def test_a_server_that_is_not_there_is_a_sentence_on_the_page(toy, lab):
    url = "http://127.0.0.1:9/v1"
    toy.endpoints.write_text(f'[lab]\nurl = "{url}"\nkey = "NO_KEY_HERE"\n')
    at = opened("connections")
    assert "NO_KEY_HERE is not set" in words(at) and button(at, "Test").disabled
    (model,) = [each for each in at.text_input if each.label == "Model"]
    ran(model.set_value("small").run())
    ran(button(at, "Test").click().run())
    assert "set NO_KEY_HERE in the environment" in words(at)
    toy.endpoints.write_text(f'[lab]\nurl = "{url}"\nmodels = ["small"]\n')
    at = opened("connections")
    ran(button(at, "Test").click().run())
    assert f"It does not answer. The first question was not answered. {url} cannot" in words(at)


# --- what forms make of it ----------------------------------------------------------------------


def fields(at: AppTest) -> dict[str, Any]:
    every = (*at.text_input, *at.number_input, *at.selectbox, *at.radio, *at.toggle)
    return {each.label: each for each in every}


def newest(toy: Workspace) -> Any:
    job = Queue(toy.queue).jobs()[0]
    return read_spec(job.step, job.spec)


def test_explaining_gaps_is_estimated_stopped_by_its_budget_raised_and_finished(toy, lab):
    """The default of explain is asked about the six gaps; each is a question of about 500 tokens
    that could take 2,500."""
    lists = toy.endpoints.read_text()
    toy.endpoints.write_text(lists.replace('tasks = ["judge"]', 'tasks = ["explain"]'))
    at = opened("review", threshold="0", reviewer="ana")
    assert fields(at)["Model"].value == "small"
    assert [*fields(at)["Which features"].options] == ["The 6 gaps", "Every feature that fires"]
    ran(fields(at)["Score them on held-out texts"].set_value(False).run())
    text = words(at)
    assert re.search(r"6 features, 6 questions: about [\d,]+ tokens of prompts", text)
    assert "up to 1,536 of replies" in text and re.search(r"At most \$0\.0\d{3}\.", text)
    assert "The budget may end it" not in text
    ran(fields(at)["Token budget"].set_value(4500).run())
    assert "The budget may end it before: it is enough for about 6 features" not in words(at)
    (reach,) = re.findall(r"before: it is enough for about (\d) features? at least", words(at))
    assert 1 <= int(reach) < 6
    assert lab.bodies == [], "an estimate costs nothing"
    ran(button(at, "Explain").click().run())
    spec = newest(toy)
    assert (spec.features, spec.scores) == ((3, 4, 5, 6, 7, 8), ())
    assert (spec.price_in, spec.price_out, spec.model) == (1.5, 4, "small")
    Worker(toy, say=silent).run(until_idle=True)
    n_asked = len(lab.bodies)
    assert 0 < n_asked < 6
    ran(at.run())
    assert "raise the budget to go on" in words(at)
    assert fields(at)["Token budget"].value == 9_000, "twice what it was"
    budgets = (each for each in at.number_input if each.label == "Token budget")
    raised = next(each for each in budgets if "budget_tokens " in (each.key or ""))
    raised.set_value(40_000)
    ran(button(at, "Go on within it").click().run())
    assert newest(toy) == replace(spec, budget_tokens=40_000)
    Worker(toy, say=silent).run(until_idle=True)
    (done, stopped) = Queue(toy.queue).jobs()
    assert (done.status, stopped.status) == ("done", "failed")
    assert Runs(toy).manifest(done.run_id).facts.n_features == 6
    assert len(lab.bodies) == 6 and {*lab.asked.values()} == {1}, "nothing was asked twice"


def test_a_limit_per_minute_is_shown_and_says_how_long_a_job_takes(toy, lab):
    limit = "requests_per_minute = 2\ntokens_per_minute = 90000\n"
    toy.endpoints.write_text(toy.endpoints.read_text().replace('["judge"]', '["explain"]') + limit)
    limit = "2 requests and 90,000 tokens a minute"
    assert f"At most {limit}: jobs wait for it." in words(opened("connections"))
    at = opened("review", threshold="0", reviewer="ana")
    ran(fields(at)["Score them on held-out texts"].set_value(False).run())
    assert f"Up to 2 min, as its endpoint takes {limit}." in words(at), "six, two a minute"


def test_a_judge_is_asked_about_the_gaps_unless_one_wants_all(toy, lab):
    at = opened("coverage", threshold="0")
    assert "6 features, 6 questions" in words(at), "the default of judge is listed"
    ran(button(at, "Judge").click().run())
    assert newest(toy).features == (3, 4, 5, 6, 7, 8) and newest(toy).model == "small"
    ran(fields(at)["Which features"].set_value("every").run())
    assert "11 features, 11 questions" in words(at)
    fields(at)["Budget in $"].set_value(0.5)
    ran(button(at, "Judge").click().run())
    assert (newest(toy).features, newest(toy).budget_usd) == ((), 0.5)


def test_a_form_that_cannot_be_leaves_the_page_as_it_is(toy, lab):
    (toy.root / "connections.json").write_text("{")
    at = opened("coverage", threshold="0")
    assert "test the endpoints anew" in words(at) and at.metric


def test_forms_begin_with_the_room_that_a_test_found(toy, lab):
    known = Connection(lab.endpoint, "small", "2026-11-30T12:00:00+00:00", room=4096)
    keep_connection(toy.root / "connections.json", known)
    at = opened("coverage", threshold="0")
    assert "up to 24,576 of replies" in words(at), "six replies of 4,096"
    ran(button(at, "Judge").click().run())
    assert newest(toy).room == 4096
    at = opened("pairs", features="3")
    (writer,) = [each for each in at.segmented_control if each.label == "Writer"]
    ran(writer.set_value("openai").run())
    ran(fields(at)["Model"].set_value("small").run())
    assert fields(at)["Room of a reply"].value == 4096
    ran(fields(at)["Model"].set_value("large").run())
    assert fields(at)["Room of a reply"].value == 0
    ran(fields(at)["Room of a reply"].set_value(512).run())
    assert re.search(r"At most \$\d", words(at))
    ran(button(at, "Write pairs for 1 gap").click().run())
    assert (newest(toy).room, newest(toy).model) == (512, "large")


def test_a_list_that_cannot_be_read_leaves_the_example(toy):
    toy.endpoints.write_text('[lab]\nurl = "http://127.0.0.1:9/v1"\ntasks = ["explain"]\n')
    at = opened("connections")
    assert "tasks need models, of which the first is asked" in at.error[0].value
    assert 'tasks = ["explain", "judge"]' in at.code[0].value


def test_a_command_says_beforehand_what_the_form_says(toy, lab):
    toy.endpoints.write_text(toy.endpoints.read_text().replace('["judge"]', '["explain"]'))
    at = opened("review", threshold="0", reviewer="ana")
    ran(fields(at)["Score them on held-out texts"].set_value(False).run())
    (of_gaps,) = re.findall(r"6 features, 6 questions: about .*At most \$[\d.]+\d\.", words(at))
    ran(fields(at)["Which features"].set_value("every").run())
    (of_all,) = re.findall(r"11 features, 11 questions: about .*At most \$[\d.]+\d\.", words(at))
    explain = ("explain", "toy-anchor", "--explainer", "llm", "--threshold", 0)
    gaps = fac(*explain, "--missing-from", "toy-seed", workspace=toy)
    assert f"small is asked about the gaps of toy-seed. {of_gaps}\n" in gaps.err
    assert gaps.code == 0 and len(lab.bodies) == 6
    every = fac(*explain, workspace=toy)
    says = "small is asked about every feature that fires in toy-anchor"
    # by now one knows how long a question takes
    assert every.err.startswith(f"{says} (--missing-from DATASET: about its gaps alone). 11 featu")
    pace = "About 1 s at the pace of the last run or test."
    explicit = fac(*explain, "--all", "--attempt", 1, workspace=toy).err
    assert explicit.replace(f" {pace}", "").startswith(f"{says}. {of_all}\n") and pace in explicit
    asked = len(lab.bodies)
    few = fac(*explain, "--missing-from", "toy-seed", "--limit", 2, workspace=toy)
    says = "small is asked about at most 2 of the gaps of toy-seed. 2 features, 2 questions"
    assert few.err.startswith(says) and few.code == 0
    stray = fac(*explain, "--limit", 2, workspace=toy)
    assert stray.code == 2 and "--limit is of the gaps of a dataset" in stray.err
    assert len(lab.bodies) == asked, "these two were asked about before"
    both = fac(*explain, "--all", "--missing-from", "toy-seed", workspace=toy)
    assert both.code == 2 and "--missing-from or --all, one of them" in both.err
    assert len(lab.bodies) == asked
    silent = fac("explain", "toy-anchor", workspace=toy)
    assert silent.code == 0 and "is asked about" not in silent.err, "token statistics ask nobody"


def test_a_command_asks_the_default_of_its_task(toy, lab):
    line = ("judge", "toy-anchor", "--task", "toxicity", "--features", 3)
    assert fac(*line, "--json", workspace=toy).json["source"] == f"small at {lab.endpoint}"
    other = fac("explain", "toy-anchor", "--explainer", "llm", "--features", 3, workspace=toy)
    assert other.code == 2 and "give --model" in other.err, "explain has no default"
