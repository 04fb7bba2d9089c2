"""Signing in for real: a provider of its own on 127.0.0.1, the dashboard, Chromium; and what the
server answers to whoever does not come through a browser."""

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from benchmarks.dashboard import Session, free_port
from fac.config import Workspace
from fac.store.audit import Audit
from fac.store.queue import Queue
from tests.browser import PATIENCE, chromium_page, server, settle
from tests.toy import toy_workspace

pytest.importorskip("authlib", reason="signing in needs requirements-auth.txt")

from tests.provider import CLIENT, SECRET, Provider  # noqa: E402 - needs what Authlib brings

pytestmark = pytest.mark.browser

ROLES = '"vera@lab.org" = "viewer"\n"otto@lab.org" = "operator"\n'

SECRETS = """\
[auth]
redirect_uri = "{address}/oauth2callback"
cookie_secret = "a secret of more than thirty-two characters"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{metadata}"
"""


class Site(NamedTuple):
    """A dashboard whose people sign in."""

    address: str
    workspace: Workspace
    provider: Provider


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    workspace = toy_workspace(tmp_path_factory.mktemp("site"), explained=True)
    workspace.roles.write_text(ROLES)
    port, secrets = free_port(), tmp_path_factory.mktemp("secrets") / "secrets.toml"
    with Provider().running() as provider:
        address = f"http://127.0.0.1:{port}"
        how = {"address": address, "client": CLIENT, "secret": SECRET}
        secrets.write_text(SECRETS.format(**how, metadata=provider.metadata))
        with server(workspace, port=port, STREAMLIT_SECRETS_FILES=str(secrets)):
            yield Site(address, workspace, provider)


@pytest.fixture(scope="module")
def browser_page(chromium: str) -> Iterator[Page]:
    with chromium_page(chromium) as page:
        yield page


@pytest.fixture
def page(browser_page: Page) -> Page:
    """A page whose browser remembers nobody."""
    browser_page.context.clear_cookies()
    return browser_page


def sign_in(page: Page, site: Site, email: str, **more: Any) -> None:
    """Over the page's button, the provider and back."""
    site.provider.claims = {"sub": email[:4], "email": email, "email_verified": True, **more}
    page.goto(site.address)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for(timeout=PATIENCE)
    settle(page)


def test_an_operator_signs_in_and_starts_a_job_in_their_own_name(site, page):
    queue = Queue(site.workspace.queue)
    sign_in(page, site, "Otto@lab.org")
    expect(page.get_by_text("otto@lab.org", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Jobs")).to_be_visible()
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("button", name="Read its features").click(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE / 1000
    while not (probes := [job for job in queue.jobs() if job.step == "probe"]):
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    assert probes[0].asker == "otto@lab.org"
    deed = Audit(site.workspace.audit).newest(1)[0]
    assert (deed.who, deed.role, deed.action) == ("otto@lab.org", "operator", "launch")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("Sign in to see this").wait_for(timeout=PATIENCE)


def test_a_viewer_reads_and_finds_what_they_may_not_do_disabled(site, page):
    sign_in(page, site, "vera@lab.org")
    page.get_by_role("link", name="Jobs").click()
    worker = page.get_by_role("button", name="the worker").or_(
        page.get_by_role("button", name="Start a worker")
    )
    expect(worker.first).to_be_disabled(timeout=PATIENCE)
    page.get_by_role("link", name="Review").click()
    words = "Deciding takes the role reviewer; yours is viewer."
    expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE)


def test_an_address_that_is_not_verified_or_not_listed_opens_nothing(site, page):
    sign_in(page, site, "otto@lab.org", email_verified=False)
    name = f"otto at {site.provider.issuer}"
    expect(page.get_by_text("You have no role here")).to_be_visible()
    expect(page.get_by_text(name)).to_be_visible()
    expect(page.get_by_role("link", name="Jobs")).to_have_count(0)


def test_a_token_that_another_key_signed_signs_nobody_in(site, page):
    genuine = site.provider.published
    site.provider.published = type(genuine).generate_key(2048, {"kid": "1", "alg": "RS256"})
    try:
        site.provider.claims = {"sub": "otto", "email": "otto@lab.org", "email_verified": True}
        page.goto(site.address)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{site.address}/", timeout=PATIENCE)
        page.get_by_text("Sign in to see this").wait_for(timeout=PATIENCE)
        assert not any("streamlit_user" in each["name"] for each in page.context.cookies())
    finally:
        site.provider.published = genuine


def test_a_socket_without_a_login_gets_the_page_to_sign_in_whatever_it_asks_for(site):
    before = len(Queue(site.workspace.queue).jobs())
    with closing(Session(site.address)) as session:
        for page in ("", "jobs", "datasets", "review"):
            session.open(page)
            assert [key for _, each, _ in session.widgets.values() for key in [each.label]] == [
                "Sign in"
            ]
            assert any("Sign in to see this" in text for text in session.texts)
    assert len(Queue(site.workspace.queue).jobs()) == before


def status(site: Site, path: str, **headers: str) -> int:
    url = urlsplit(site.address)
    with closing(http.client.HTTPConnection(url.hostname, url.port, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def test_the_server_answers_to_its_name_alone_and_closes_its_metrics(site):
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert status(site, "/") == 200 == status(site, "/_stcore/health")
    for path in ("/", "/_stcore/health", "/auth/login", "/oauth2callback"):
        assert status(site, path, Host="evil.org") == 400, path
    assert status(site, "/_stcore/stream", **upgrade) == 101
    assert status(site, "/_stcore/stream", Host="evil.org", **upgrade) == 403
    assert status(site, "/_stcore/stream", Origin="http://evil.org", **upgrade) == 403
    for path in (
        "/_stcore/metrics",
        "/_stcore/metrics/",
        "/%5Fstcore/metrics",
        "//_stcore/metrics",
    ):
        assert status(site, path) in (400, 404), path
