"""A provider's batch interface: every question is answered once and paid once, whatever happens on
the way, and what the provider says of each row is told."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fac import interpret
from fac.config import REPOSITORY, ExplainSpec
from fac.endpoints import Endpoint, Endpoints, read_endpoints
from fac.errors import BudgetReached, Cancelled, InputError, Interrupted, ServiceError
from fac.generator import journal as journals
from fac.generator import provider_batch
from fac.generator.allowance import Limits
from fac.generator.batch_chat import chat_of, reply_key
from fac.generator.chat import OpenAIChat, most_tokens
from fac.generator.journal import ReplyJournal
from fac.generator.provider_batch import TRIAL, ask_provider, check_closed, ledger_of
from fac.store.queue import Queue
from tests.batch_server import BatchServer
from tests.scripted import ScriptedChat
from tests.server import Body, ScriptedServer, Status, completion
from tests.test_batch_chat import no_wait, prompt, questions, silent
from tests.test_cli import fac
from tests.test_connections import fields
from tests.test_interpret import anchor_of, explained, honest, prompt_of, rows, runs, world
from tests.test_pages import button, empty, navigation_decides, opened, ran, started, toy, words

__all__ = ["empty", "navigation_decides", "runs", "started", "toy", "world"]  # fixtures

N = 9
ALL = [f"QUESTION {number}" for number in range(N)]


def upper(body: Body) -> str:
    return body["messages"][-1]["content"].upper()


def asked(body: Body) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture
def journal(tmp_path: Path) -> ReplyJournal:
    return ReplyJournal(tmp_path / "_journal.jsonl")


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(upper).running() as each:
        yield each


def ask(server: ScriptedServer, journal: ReplyJournal, **options: Any) -> Any:
    """As a process that has just begun would."""
    chat = OpenAIChat("m", server.endpoint)
    options = {"limits": Limits(4), "progress": silent, "sleep": no_wait, **options}
    fresh = ReplyJournal(journal.path)
    return ask_provider(questions(N), chat, fresh, **options)


def assert_all_once(server: BatchServer, journal: ReplyJournal) -> None:
    """Every question has its reply in the journal, and each was paid for once."""
    assert sorted(each.reply for each in ReplyJournal(journal.path).read().values()) == ALL
    assert sum(server.served.values()) + sum(server.paid.values()) == N
    assert max(server.paid.values()) == 1
    check_closed(journal)


def test_what_was_not_answered_directly_is_answered_in_one_batch(server, journal):
    done = ask(server, journal, limits=Limits(4, None, None, 1.0, 2.0))
    assert [each.reply for each in done.replies.values()] == ALL
    assert_all_once(server, journal)
    assert sum(server.served.values()) == TRIAL and len(server.batches) == 1
    assert (done.counts["asked"], done.counts["answered"], done.counts["failed"]) == (N, N, 0)
    # as the server counts: two tokens of a prompt, three of a reply
    assert done.tokens == 5 * N and done.cost == pytest.approx(N * (2 * 1 + 3 * 2) / 1e6)
    assert done.notes == ("6 questions went as the batch batch_0.",)
    again = ask(server, journal)
    assert again.counts["reused"] == N and again.counts["asked"] == 0
    assert_all_once(server, journal)


class Death(BaseException):
    """Nothing in the program meets it, as it meets no kill -9."""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(1, 8))
def test_died_at_any_write_nothing_is_paid_twice(server, journal, monkeypatch, step, before):
    """Three replies one by one, the mark, the id, the replies, the end: seven writes, each of which
    may be the last that a process does, or the first that it does not do any more."""
    left, write = step, journals.append_line

    def dying(path: Path, line: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0 and before:
            raise Death
        write(path, line)
        if left == 0:
            raise Death

    with monkeypatch.context() as patch:
        for module in (provider_batch, journals):
            patch.setattr(module, "append_line", dying)
        with pytest.raises(Death):
            ask(server, journal, limits=Limits(1))
    assert [each.reply for each in ask(server, journal).replies.values()] == ALL
    assert len(server.batches) == 1 and max(server.paid.values()) == 1
    check_closed(journal)
    # a reply that comes one by one is lost where its process dies before it is written
    lost = step <= TRIAL and before
    assert sum(server.served.values()) + sum(server.paid.values()) == N + lost


def test_a_batch_whose_creation_nobody_heard_of_is_found_by_its_mark(server, journal):
    server.lost = True
    ask(server, journal)
    assert_all_once(server, journal)
    assert len(server.batches) == 1


def test_cancelled_the_batch_is_cancelled_and_what_it_answered_is_kept(server, journal):
    server.looks, server.upto = 10, 4

    def impatient(done: int, total: int, note: str = "") -> None:
        if note.startswith("batch"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ask(server, journal, progress=impatient)
    assert server.batches["batch_0"]["status"] == "cancelled"
    assert len(journal.read()) == TRIAL + 4
    server.looks, server.upto = 1, 99
    ask(server, journal)
    assert_all_once(server, journal)


def test_a_worker_that_has_to_end_leaves_the_batch_to_the_next(server, journal):
    server.looks = 10

    def ending(done: int, total: int, note: str = "") -> None:
        if note.startswith("batch"):
            raise Interrupted("the worker was asked to stop")

    with pytest.raises(Interrupted):
        ask(server, journal, progress=ending)
    assert server.batches["batch_0"]["status"] == "in_progress"
    with pytest.raises(InputError, match=r"6 of these .* in a batch \(batch_0\).* with --batch"):
        check_closed(journal)
    server.looks = 1
    ask(server, journal)
    assert_all_once(server, journal)
    assert len(server.batches) == 1


def test_progress_says_how_far_the_batch_is(server, journal):
    notes = []
    server.looks = 3
    ask(server, journal, progress=lambda *report: notes.append(report))
    first = [done for done, _, note in notes if note.startswith("first one by one")]
    assert first == sorted(first) and first[-1] == TRIAL
    waits = [each for each in notes if each[2].startswith("batch")]
    assert waits[0] == (TRIAL, N, "batch batch_0: in progress, 0 of 6 answered")
    assert len(waits) >= 2, "one every few seconds"


def test_rows_with_errors_are_counted_and_said(server, journal):
    met = {
        "question 4": Status(400, {"error": {"message": "too long"}}),
        "question 6": Status(500, {"error": {"message": "broken"}}),
        "question 7": {"choices": []},
    }
    server.row = lambda body: met.get(asked(body))
    done = ask(server, journal)
    assert (done.counts["answered"], done.counts["declined"], done.counts["failed"]) == (6, 1, 2)
    failures = {about: each.failure for about, each in done.replies.items() if not each.ok}
    assert [*failures] == ["judge/4", "judge/6", "judge/7"]
    assert "answered 400: too long" in failures["judge/4"]
    assert "choices are empty" in failures["judge/7"]
    (note,) = done.notes
    assert "3 of them got an error, the first: http" in note and "too long" in note
    server.row = lambda body: None
    server.paid.clear()
    assert (
        ask(server, journal).counts["answered"] == 3
    )  # they are not in the journal, so another start asks them again
    assert len(journal.read()) == N and len(server.served) == TRIAL + 3 and not server.paid


def test_rows_that_nobody_came_to_are_asked_at_the_next_start(server, journal):
    server.upto = 2
    with pytest.raises(ServiceError, match="batch_0 is expired .* 4 of 6 questions unanswered"):
        ask(server, journal)
    server.upto = 99
    ask(server, journal)
    assert_all_once(server, journal)
    files = [server.files[each["input_file_id"]] for each in server.batches.values()]
    sizes = [len(file.splitlines()) for file in files]
    assert sizes == [N - TRIAL, N - TRIAL - 2 - TRIAL], "each start asks a few directly first"


def test_a_batch_that_is_refused_is_a_sentence_and_can_be_sent_again(server, journal):
    server.refusal = "Enqueued token limit reached"
    with pytest.raises(ServiceError, match="refuses the batch batch_0: Enqueued token limit"):
        ask(server, journal)
    server.refusal = ""
    ask(server, journal)
    assert_all_once(server, journal)


def test_where_no_row_is_answered_one_sentence_says_why(server, journal):
    server.row = lambda body: Status(401, {"error": {"message": "who are you"}})
    chat = OpenAIChat("m", server.endpoint)
    chat.is_known = True
    with pytest.raises(ServiceError, match="None of the 9 questions .* 401: who are you"):
        ask_provider(questions(N), chat, journal, limits=Limits(4), progress=silent, sleep=no_wait)


def test_a_server_without_batches_says_so_and_can_be_asked_without(journal):
    why = "answered 404: no such path /v1/files"
    with ScriptedServer(upper).running() as server, pytest.raises(ServiceError, match=why):
        ask(server, journal)
    check_closed(journal)


def test_trouble_at_the_provider_is_met_with_patience(server, journal):
    busy = Status(503, {"error": {"message": "busy"}}, {"Retry-After": "1"})
    server.trouble = {
        "files": [busy],
        "batches": [busy],
        "batch_0": [busy, busy],
        "content": [busy],
    }
    ask(server, journal)
    assert_all_once(server, journal)
    assert not any(server.trouble.values()) and len(server.batches) == 1


def test_a_row_whose_room_ran_out_is_sent_once_more_with_more(server, journal):
    def row(body: Body) -> Body | None:
        thinks = asked(body) in ("question 5", "question 8")
        if thinks and body["max_tokens"] < 4096 or asked(body) == "question 8":
            return completion(body, None, "length")
        return None

    server.row = row
    done = ask(server, journal)
    assert [batch["id"] for batch in server.batches.values()] == ["batch_0", "batch_1"]
    assert (done.counts["retried_room"], done.counts["failed"]) == (2, 1)
    assert "room of 4,096 tokens ran out" in done.replies["judge/8"].failure
    reply = done.replies["judge/5"]
    assert reply.ok and reply.prompt_tokens == 2 + 2, "what ran out was paid for too"


def test_a_budget_lets_as_much_be_sent_as_it_could_pay(server, journal):
    """A question could take `worst`; those before took five tokens each."""
    worst = most_tokens(prompt("question 0")) + 10
    with pytest.raises(BudgetReached, match="raise the budget to go on"):
        ask(server, journal, limits=Limits(4, budget_tokens=5 * TRIAL + 4 * worst))
    assert len(journal.read()) == TRIAL + 4
    ask(server, journal)
    assert_all_once(server, journal)


def test_what_the_server_does_not_take_is_found_out_before_the_batch(journal):
    refused = Status(400, {"error": {"message": "response_format is not supported"}})

    def envelope(body: Body, text: str) -> Any:
        return refused if "response_format" in body else completion(body, text)

    def row(body: Body) -> Any:
        return refused if "response_format" in body else None

    with BatchServer(upper, envelope=envelope, row=row).running() as server:
        done = ask(server, journal)
        assert_all_once(server, journal)
    assert "takes no JSON schema" in done.notes[0]


# --- a whole step ---------------------------------------------------------------------------------


def reader(body: Body) -> str:
    return honest(prompt_of(body))


TABLES = {"scores": ("feature", "score", "value"), "explanations": ("feature", "text", "status")}


def test_explaining_in_batches_gives_what_asking_gives_in_two_rounds(runs):
    settings: dict[str, Any] = {
        "explainer": "llm",
        "model": "m",
        "features": (3, 4, 6),
        "scores": ("detection", "fuzzing"),
    }
    alone = explained(runs, ScriptedChat(honest, "other"), **settings)
    shares = []
    with BatchServer(reader, looks=1).running() as server:
        spec = ExplainSpec(
            measure=anchor_of(runs), endpoint=server.endpoint, in_batch=True, **settings
        )
        lab = Endpoint(name="lab", url=server.endpoint, batch=True)
        chat = chat_of(spec, Endpoints((lab,), unlisted=False))
        run = interpret.explain(
            spec, runs=runs, ask=lambda: chat, progress=lambda done, *_: shares.append(done)
        )
    assert shares == sorted(shares) and shares[-1] == 3 and 1 in shares
    assert len(server.batches) == 1, "the three explanations are the trial, then all tests at once"
    for table, columns in TABLES.items():
        rows_of = [
            [[row[column] for column in columns] for row in rows(runs, each, table)]
            for each in (alone, run)
        ]
        assert rows_of[0] == rows_of[1]
    facts, before = runs.manifest(run).facts, runs.manifest(alone).facts
    assert facts.counts == before.counts and facts.replies["asked"] == before.replies["asked"]
    n_tests = before.replies["asked"] - 3
    assert facts.note == f"{n_tests} questions went as the batch batch_0."
    assert max(server.paid.values()) == 1 and len(server.paid) == n_tests
    assert spec.run_id("x") == ExplainSpec(
        measure=spec.measure, endpoint=server.endpoint, **settings
    ).run_id("x"), "how it is asked is no other run"


CHILD = """
import sys
from pathlib import Path
from fac import interpret
from fac.config import JudgeSpec, Workspace
from fac.endpoints import Endpoint, Endpoints
from fac.generator.batch_chat import chat_of
from fac.store.runs import Runs
spec = JudgeSpec(measure=sys.argv[2], task="toxicity", rubric=("slurs",), model="m",
                 endpoint=sys.argv[3], in_batch=True)
endpoints = Endpoints((Endpoint(name="lab", url=sys.argv[3], batch=True),), False)

def judge(runs):
    return interpret.judge(spec, runs=runs, ask=lambda: chat_of(spec, endpoints),
                           progress=lambda *_: None)

if __name__ == "__main__":
    judge(Runs(Workspace(Path(sys.argv[1]))))
"""


def test_killed_while_a_batch_is_on_its_way_the_next_start_takes_it_up(runs, monkeypatch):
    with BatchServer(reader, looks=10**9).running() as server:
        where = (str(runs.workspace.root), anchor_of(runs), server.endpoint)
        command = [sys.executable, "-c", CHILD, *where]
        process = subprocess.Popen(command, cwd=REPOSITORY)
        until = time.monotonic() + 60
        while not server.looked and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        server.looks = 1
        monkeypatch.setattr(sys, "argv", command[2:])
        here: dict[str, Any] = {"__name__": "here"}
        exec(CHILD, here)
        in_batch, here["spec"] = here["spec"], replace(here["spec"], in_batch=False)
        with pytest.raises(InputError, match="8 of these questions are on their way in a batch"):
            here["judge"](runs)
        here["spec"] = in_batch
        run = here["judge"](runs)
    assert runs.manifest(run).facts.n_features == 11
    assert len(server.batches) == 1
    assert [*server.paid.values()] == [1] * (11 - TRIAL) and {*server.served.values()} == {1}


# --- command and page -----------------------------------------------------------------------------


@pytest.fixture
def lab(toy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """The toy, whose only endpoint has a batch interface and a key."""
    monkeypatch.setenv("LAB_KEY", "canary-of-the-lab-0123456789")
    with BatchServer(reader, looks=1).running() as server:
        toy.endpoints.write_text(
            f'[lab]\nurl = "{server.endpoint}"\nkey = "LAB_KEY"\nmodels = ["small"]\n'
            'batch = true\ntasks = ["explain", "judge"]\n'
        )
        yield server


def test_a_command_judges_in_a_batch_and_says_so(toy, lab):
    judge = ("judge", "toy-anchor", "--task", "toxicity", "--missing-from", "toy-seed")
    judge += ("--threshold", 0)
    done = fac(*judge, "--batch", "--json", workspace=toy)
    assert done.code == 0, done.err
    assert "Within a day, in a batch." in done.err
    assert done.json["note"] == "3 questions went as the batch batch_0."
    assert sum(done.json["counts"].values()) == 6 and len(lab.paid) == 3
    assert {h["authorization"] for h in lab.headers} == {"Bearer canary-of-the-lab-0123456789"}
    assert not [p for p in toy.root.rglob("*") if p.is_file() and b"canary" in p.read_bytes()]
    lists = toy.endpoints.read_text()
    toy.endpoints.write_text(lists.replace("batch = true", "batch = false"))
    refused = fac(*judge, "--batch", "--attempt", 1, workspace=toy)
    assert refused.code == 2 and "lab is not listed with a batch interface" in refused.err
    nobody = fac("explain", "toy-anchor", "--batch", workspace=toy)
    assert nobody.code == 2 and "here none is asked" in nobody.err


def test_a_form_offers_a_batch_where_the_endpoint_has_them(toy, lab):
    assert "Explain and Judge can ask it in batches." in words(opened("connections"))
    at = opened("review", threshold="0", reviewer="ana")
    ran(fields(at)["Ask in a batch"].set_value(True).run())
    assert "Within a day, in a batch." in words(at)
    ran(button(at, "Explain").click().run())
    (job,) = Queue(toy.queue).jobs()
    assert job.spec["in_batch"] is True
    toy.endpoints.write_text(toy.endpoints.read_text().replace("batch = true\n", ""))
    assert "Ask in a batch" not in fields(opened("review", threshold="0", reviewer="ana"))


def test_batch_is_yes_or_no_in_the_list(tmp_path):
    file = tmp_path / "endpoints.toml"
    file.write_text('[a]\nurl = "http://a/v1"\nbatch = "yes"\n')
    with pytest.raises(InputError, match="batch has the wrong form"):
        read_endpoints(file)
    assert read_endpoints(tmp_path / "none.toml").of("https://api.openai.com/v1").batch
    assert not Endpoint(name="a", url="http://a").batch
    assert re.fullmatch("[0-9a-f]{8,64}", reply_key(questions(1)[0], ScriptedChat([])))
    assert ledger_of(ReplyJournal(tmp_path / "x" / "_journal.jsonl")).open() == []
