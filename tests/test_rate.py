"""The limits per minute that an operator lists: never more in any minute, no wait without need, and
who waits is told for how long. Time is planted."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac.endpoints import Endpoint
from fac.errors import BudgetReached
from fac.generator.allowance import Limits
from fac.generator.batch_chat import ask_batch
from fac.generator.chat import OpenAIChat, Reply, Transient, estimated_tokens
from fac.generator.journal import ReplyJournal
from fac.generator.rate import WINDOW, RateLimit, rate_of
from tests.scripted import ScriptedChat
from tests.test_batch_chat import echo, prompt, questions, silent

OF_ONE = estimated_tokens(prompt("question 0")) + 10
"""What a question of these tests may take: 8 and 2 tokens of its words, a room of 10."""


def limited(requests, tokens, script=echo):
    chat = ScriptedChat(script)
    chat.rate = RateLimit(requests, tokens)
    return chat


def waited(chat, n, tmp_path, *, progress=silent, limits=None):
    """Seconds that asking n questions rests."""
    rests = []
    journal = ReplyJournal(tmp_path / "journal")
    limits = limits or Limits(4)
    batch = ask_batch(
        questions(n), chat, journal, limits=limits, progress=progress, sleep=rests.append
    )
    assert len(batch.replies) == n and all(reply.ok for reply in batch.replies.values())
    return sum(rests)


def test_questions_wait_until_those_of_a_minute_ago_count_no_more():
    rate = RateLimit(2, None)
    assert [rate.take(f"{n}", 1, now) for n, now in enumerate((0.0, 10.0, 15.0))] == [0, 0, 45]
    assert rate.take("3", 1, 60.0) == 0, "the one at 0 is a minute ago"
    assert rate.take("4", 1, 61.0) == 9, "the one at 10 is next"


def test_tokens_count_as_what_they_may_be_until_one_knows_what_they_were():
    rate = RateLimit(None, 100)
    assert rate.take("a", 60, 0.0) == 0 and rate.take("b", 60, 1.0) == 59
    rate.settle("a", 40)
    assert rate.take("b", 60, 1.0) == 0
    assert rate.take("c", 500, 2.0) == 59, "what never fits waits until it is alone"
    assert rate.take("c", 500, 61.0) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 50)), min_size=1, max_size=30),
    st.one_of(st.none(), st.integers(1, 5)),
    st.one_of(st.none(), st.integers(50, 120)),
)
def test_no_minute_has_more_than_its_limits(asked, requests, tokens):
    rate, now, sent = RateLimit(requests, tokens), 0.0, []
    for number, (pause, size) in enumerate(asked):
        now += pause
        while seconds := rate.take(f"{number}", size, now):
            # a moment before it does not fit yet, or it would not be told to wait
            assert rate.take(f"{number}", size, now + seconds - 1e-3) > 0
            now += seconds
        sent.append((now, size))
    for start, _ in sent:
        window = [size for at, size in sent if start <= at < start + WINDOW - 1e-6]
        assert requests is None or len(window) <= requests
        assert tokens is None or sum(window) <= tokens


@pytest.mark.parametrize(
    ("n", "requests", "tokens", "seconds"),
    [
        (2, 2, None, 0),
        (5, 2, None, 120),  # two, two and one
        (6, 2, None, 120),
        (3, None, OF_ONE, 120),  # one a minute: what is settled leaves no room for another
        (3, 2, 3 * OF_ONE, 60),
    ],
)
def test_a_job_takes_as_long_as_its_estimate_says(tmp_path, n, requests, tokens, seconds):
    used = OF_ONE - 1  # a reply that leaves less than a question of the limit
    script = lambda _: Reply("yes", "stop", used - 2, 2, False, "m")  # noqa: E731
    chat = limited(requests, tokens, script)
    assert waited(chat, n, tmp_path) == pytest.approx(seconds, abs=1)
    assert chat.rate.seconds(n, n * used) == seconds


def test_jobs_that_follow_each_other_share_the_minute(tmp_path):
    chat = limited(3, None)
    assert waited(chat, 3, tmp_path / "first") == 0
    assert waited(chat, 1, tmp_path / "second") == pytest.approx(60, abs=1)


def test_who_waits_is_told_how_long_and_for_what(tmp_path):
    notes = []
    waited(limited(2, 5000), 5, tmp_path, progress=lambda *report: notes.append(report))
    waits = [note for _, _, note in notes if note.startswith("waiting")]
    words = r"waiting (\d+) s for the limit of 2 requests and 5,000 tokens a minute, .*"
    seconds = [int(re.fullmatch(words, note)[1]) for note in waits]
    assert seconds[0] in range(50, 61) and seconds[-1] < 10
    assert all(b < a or a < 10 for a, b in zip(seconds, seconds[1:], strict=False))
    # three are left when the first minute is waited for: two at its end, one a minute later
    first = next(note for done, _, note in notes if done == 2 and note.startswith("waiting"))
    assert re.search(r"2 min left", first)


def test_what_the_server_asks_for_comes_on_top(tmp_path):
    """The second is refused at once and asked again after Retry-After, and counts again then."""
    left = [Transient("429", "slow down", retry_after=90)]

    def script(asked):
        if asked.messages[0]["content"] == "question 1" and left:
            return left.pop()
        return "yes"

    seconds = waited(limited(2, None, script), 2, tmp_path, limits=Limits(1))
    assert seconds == pytest.approx(90.5, abs=1)


def test_a_budget_that_is_reached_while_one_waits_ends_the_job(tmp_path):
    chat = limited(1, None)
    with pytest.raises(BudgetReached):
        waited(chat, 3, tmp_path, limits=Limits(1, budget_tokens=125))
    assert 1 <= len(chat.prompts) < 3


def test_an_endpoint_has_one_limit_for_all_that_ask_it():
    lab = Endpoint(name="lab", url="http://lab/v1", requests_per_minute=7)
    one, other = OpenAIChat("a", lab), OpenAIChat("b", lab)
    assert one.rate is other.rate is rate_of(lab)
    assert f"{one.rate}" == "7 requests a minute"
    assert rate_of(Endpoint(name="lab", url="http://lab/v1")) is None
    quick = RateLimit(None, 10)
    assert math.isclose(quick.seconds(99, 10), 0) and quick.seconds(1, 21) == 120
