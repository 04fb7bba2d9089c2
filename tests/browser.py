"""A running dashboard and a real Chromium for tests and for the script that takes screenshots."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.error import URLError

from playwright.sync_api import Page, expect, sync_playwright

from fac.config import REPOSITORY, Workspace
from fac.store.queue import Queue, process_exists

CHROMIUM_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
PATIENCE = 60_000
"""Milliseconds; a machine that also trains something is slow, not broken."""


@contextmanager
def server(workspace: Workspace) -> Iterator[str]:
    """`streamlit run app.py` on a free port, yielding its address; ends it and its worker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace.logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    command += ["--server.headless", "true", "--server.port", str(port)]
    with (workspace.logs / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "FAC_WORKSPACE": str(workspace.root)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        _end_worker(workspace)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(URLError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"the dashboard did not start; exit code {process.poll()}")


def _end_worker(workspace: Workspace) -> None:
    """The worker outlives its server on purpose; a test must not leave it behind."""
    worker = Queue(workspace.queue).worker()
    if worker is None or not process_exists(worker["pid"]):
        return
    os.kill(worker["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 20
    while process_exists(worker["pid"]):
        if time.monotonic() > deadline:
            os.kill(worker["pid"], signal.SIGKILL)
            return
        time.sleep(0.1)


@contextmanager
def chromium_page(
    executable: str, *, scheme: str = "light", width: int = 1440, height: int = 1000
) -> Iterator[Page]:
    """A page that fails the test on a script error or on a request that leaves this machine."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*CHROMIUM_FLAGS])
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            accept_downloads=True,
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
                else complaints.append(f"request to {request.url}")
            ),
        )
        yield page
        browser.close()
    assert not complaints, complaints


def visit(page: Page, address: str, headline: str) -> None:
    """Opens an address and waits until the page of that headline is drawn to its end."""
    page.goto(address)
    page.get_by_role("heading", name=headline, exact=True).wait_for()
    settle(page)


def settle(page: Page) -> None:
    """Until Streamlit has finished running and nothing is a skeleton any more."""
    page.wait_for_timeout(300)
    expect(page.locator("[data-test-script-state=running]")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stException")).to_have_count(0)
