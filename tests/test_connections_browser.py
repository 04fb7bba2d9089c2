"""Servers of language models in a real Chromium: a real one and one that refuses are tested on
Connections, and ten gaps are explained within a budget that is raised on the way."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fac.config import Workspace, read_spec
from fac.generator.connection import AT_ONCE, read_connections
from fac.schema import Chat
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.browser import PATIENCE, chromium_page, server, settle, visit
from tests.server import Body, Status, completion
from tests.test_connections import MODELS, served
from tests.test_jobs import ToySteps
from tests.test_pairs_browser import worker
from tests.toy import WORDS, toy_workspace

pytestmark = pytest.mark.browser

SAID = [word for word in WORDS if word != "the"]
"""What fires in some samples of the anchor and in none of the dataset."""


def chats(*texts: str) -> list[Chat]:
    answer = {"role": "assistant", "content": "the end"}
    return [[{"role": "user", "content": text}, answer] for text in texts]


@pytest.fixture
def place(tmp_path) -> Workspace:
    """A workspace whose dataset lacks eleven features."""
    uses = [f"Tell {teller} of the {word}" for word in SAID for teller in ("me", "her", "him")]
    plain = [f"Tell {teller} of the rest" for teller in ("me", "her", "him", "us")]
    samples = {"toy-anchor": chats(*uses, *plain), "toy-seed": chats(*plain)}
    return toy_workspace(tmp_path, samples=samples)


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    with chromium_page(chromium, width=1280) as opened:
        yield opened


def refuse(body: Body, text: str) -> Any:
    """As servers do that know neither schemas nor system messages."""
    if "response_format" in body:
        return Status(400, {"error": {"message": "<b>no grammar here</b>"}})
    if any(message["role"] == "system" for message in body["messages"]):
        return Status(400, {"error": {"message": "roles must be user and assistant"}})
    return completion(body, text)


@pytest.mark.model
def test_a_person_tests_a_real_server_and_one_that_refuses(place, page, real_server):
    """`transformers serve` with the demo model takes one question after the other."""
    url, name = real_server
    with served(refuse, models=MODELS) as refusing:
        place.endpoints.write_text(
            f'[here]\nurl = "{url}"\nmodels = ["{name}"]\ntasks = ["explain"]\n'
            f'[strict]\nurl = "{refusing.endpoint}"\nmodels = ["small"]\n'
        )
        with server(place) as address:
            visit(page, f"{address}/connections", "Connections")
            expect(page.get_by_text("It has not been tested with this model.")).to_have_count(2)
            tests = page.get_by_role("button", name="Test", exact=True)
            works = page.get_by_text("It works: it answers, and its answers can be read.")
            tests.first.click()
            expect(works).to_have_count(1, timeout=15 * PATIENCE)
            settle(page)
            last = read_connections(place.root / "connections.json")[url, name]
            assert last.works and last.counted and last.answered == AT_ONCE
            assert last.refusals == (), "it passes over a schema without a word"
            assert last.answered_as.startswith(name) and 400 < last.prompt_tokens < 600
            expect(page.get_by_text(f"{last.completion_tokens:,}", exact=True)).to_be_visible()
            # without a cache of models it answers 500 where it should list none
            listing = re.compile("It lists (no models: .* answered 500|[^n])")
            expect(page.get_by_text(listing).first).to_be_visible()
            tests.last.click()
            expect(works).to_have_count(2, timeout=PATIENCE)
            settle(page)
            for words in ("no grammar here", "roles must be user and assistant"):
                expect(page.get_by_text(words)).to_be_visible()
            assert page.locator("b", has_text="no grammar").count() == 0
            expect(page.get_by_text("It refuses")).to_have_count(2)
            n_asked = len(refusing.bodies)
            visit(page, f"{address}/connections", "Connections")
            expect(works).to_have_count(2)
            assert len(refusing.bodies) == n_asked, "what was found out is kept"


def test_ten_gaps_are_explained_within_a_budget_that_is_raised(place, page):
    def put(field: str, value: str) -> None:
        box = page.get_by_label(field, exact=True).last
        box.fill(value)
        box.press("Enter")
        settle(page)

    with served(models=MODELS) as lab:
        place.endpoints.write_text(
            f'[lab]\nurl = "{lab.endpoint}"\nmodels = ["small"]\n'
            'price_in = 1.5\nprice_out = 4\ntasks = ["explain"]\n'
        )
        with worker(place, ToySteps), server(place) as address:
            visit(page, f"{address}/review?threshold=0&reviewer=ana", "Review")
            expect(page.get_by_text("The 11 gaps", exact=True)).to_be_visible()
            put("Gaps at most", "10")
            page.get_by_text("Score them on held-out texts").click()
            settle(page)
            estimate = re.compile(r"10 features, 10 questions: about .* At most \$0\.0\d+\.")
            expect(page.get_by_text(estimate)).to_be_visible()
            put("Token budget", "4500")
            expect(
                page.get_by_text(re.compile("it is enough for about [1-9] features?"))
            ).to_be_visible()
            assert lab.bodies == [], "an estimate costs nothing"
            page.get_by_role("button", name="Explain", exact=True).click()
            expect(page.get_by_text("raise the budget to go on").first).to_be_visible(
                timeout=PATIENCE
            )
            n_asked = len(lab.bodies)
            assert 0 < n_asked < 10
            settle(page)
            put("Token budget", "60000")
            page.get_by_role("button", name="Go on within it").click()
            expect(page.get_by_text("0 of 10", exact=True)).to_be_visible(timeout=PATIENCE)
            expect(page.locator(".fac-quote")).to_contain_text("the word")
    (done, stopped) = Queue(place.queue).jobs()
    assert (done.status, stopped.status) == ("done", "failed")
    assert len(read_spec(done.step, done.spec).features) == 10
    assert Runs(place).manifest(done.run_id).facts.n_features == 10
    assert len(lab.bodies) == 10 and {*lab.asked.values()} == {1}, "nothing was asked twice"
