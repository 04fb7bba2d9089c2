"""A served app and a real browser, for tests and for the screenshots of the README."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from fac import jobs
from fac.config import REPOSITORY, Workspace

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def serving(workspace: Workspace, log: Path) -> Iterator[str]:
    """`streamlit run app.py` on a free port of 127.0.0.1; its worker ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    command += ["--server.headless=true", f"--server.port={port}", "--server.fileWatcherType=none"]
    environment = {**os.environ, "FAC_WORKSPACE": str(workspace.root)}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=sink, stderr=sink
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        jobs.stop_worker(workspace)


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the server says it is healthy."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"no server after 60 s: {log.read_text()}")


@contextmanager
def browsing(chromium: str, *, dark: bool = False, height: int = 1000) -> Iterator[object]:
    """A page of a headless Chromium; a script error on the page is an error here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(
            viewport={"width": 1440, "height": height},
            color_scheme="dark" if dark else "light",
        )
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def settled(page) -> None:  # type: ignore[no-untyped-def]
    """Returns once the script has run to its end and nothing on the page is still loading."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_function("() => !document.querySelector('[data-testid=stSkeleton]')")
    page.wait_for_timeout(400)  # charts fade in
