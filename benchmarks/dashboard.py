"""A running dashboard, driven as a browser drives it: over its websocket, or by a real Chromium.

Tests and the script that takes screenshots use the same server and the same Chromium.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Page, sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from fac.config import REPOSITORY, Workspace
from fac.store.processes import lives
from fac.store.queue import Queue

CHROMIUM_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000
"""Milliseconds; a machine that also trains something is slow, not broken."""


# ---- the server ---------------------------------------------------------------------------------


@contextmanager
def server(
    workspace: Workspace, script: Path = REPOSITORY / "app.py", port: int = 0, **environment: str
) -> Iterator[str]:
    """`streamlit run app.py` on this or a free port, yielding its address; ends it and its
    worker."""
    port = port or free_port()
    workspace.logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamlit", "run", script.name]
    command += ["--server.headless", "true", "--server.port", str(port)]
    with (workspace.logs / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=script.parent,
            env={**os.environ, "FAC_WORKSPACE": str(workspace.root), **environment},
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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError(f"the dashboard did not start; exit code {process.poll()}")


def _end_worker(workspace: Workspace) -> None:
    """The worker outlives its server on purpose; a test must not leave it behind."""
    worker = Queue(workspace.queue).worker()
    if worker is None or not lives(worker["pid"], worker["born"]):
        return
    os.kill(worker["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 20
    while lives(worker["pid"], worker["born"]):
        if time.monotonic() > deadline:
            os.kill(worker["pid"], signal.SIGKILL)
            return
        time.sleep(0.1)


# ---- a session without a browser ----------------------------------------------------------------


class Rerun(NamedTuple):
    """What one run of a page took."""

    seconds: float
    """From the request leaving the client to the last message of the run: the script, putting its
    elements into words, and the way over the loopback."""
    bytes: int
    """Of the websocket's messages."""


class Session:
    """One browser tab as the server sees it: `open` a page, then `set`, `press`, `choose`.

    It sends what the frontend would send (which widget changed, and the fragment it is in), and
    keeps the widgets that the page has. Nothing is drawn, so what is timed is the server's part.
    """

    def __init__(self, address: str):
        url = address.replace("http://", "ws://") + "/_stcore/stream"
        # Where somebody configured a proxy, this stays on the machine all the same.
        link = connect(
            url,
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            compression=None,
            proxy=None,
        )
        self._until = ExitStack()
        self._socket = self._until.enter_context(link)
        self._page = self._script = ""
        self.query = ""
        """Of the page's address, as the page has set it."""
        self.widgets: dict[str, tuple[str, Any, str]] = {}
        """By id: kind, message and fragment of every widget of the page, as last sent."""
        self.texts: list[str] = []
        """What the last run wrote as Markdown."""
        self.metrics: dict[str, str] = {}
        """By label: the figures on the cards that the last run drew."""
        self.alerts: list[tuple[int, str]] = []
        """Format (of `Alert`) and text of the boxes that the last run drew."""
        self.polls: dict[str, float] = {}
        """Seconds after which a browser would run each of these fragments again."""

    def close(self) -> None:
        self._until.close()

    def open(self, page: str, query: str = "") -> Rerun:
        """Another page, as a link does; "" is the first one."""
        self._page, self.query, self._script = page, query, ""
        return self._run([])

    def again(self) -> Rerun:
        """The whole page once more; nothing was changed."""
        return self._run([])

    def poll(self, fragment: str) -> Rerun:
        """A fragment once more, as a browser does for one that runs every few seconds."""
        return self._run([], fragment)

    def set(self, key: str, value: Any, *, label: str | None = None) -> Rerun:
        """Gives the widget with this key, or label, a value."""
        kind, widget, fragment = self.find(key=key, label=label)
        return self._run([_state(kind, widget.id, value)], fragment)

    def press(self, label: str) -> Rerun:
        """Presses a button."""
        _, widget, fragment = self.find(label=label, kind="button")
        return self._run([WidgetState(id=widget.id, trigger_value=True)], fragment)

    def choose(self, key: str, **selection: Any) -> Rerun:
        """Selects rows or cells of a table, or points of a chart."""
        _, widget, fragment = self.find(key=key)
        empty: dict[str, Any] = {"rows": [], "columns": [], "cells": []}
        chosen = json.dumps({"selection": {**empty, **selection}})
        return self._run([WidgetState(id=widget.id, string_value=chosen)], fragment)

    def find(
        self, *, key: str | None = None, label: str | None = None, kind: str | None = None
    ) -> tuple[str, Any, str]:
        """The newest widget whose key starts with `key` or whose label is `label`."""
        for widget_kind, widget, fragment in reversed(self.widgets.values()):
            if kind not in (None, widget_kind):
                continue
            if label is not None and getattr(widget, "label", None) == label:
                return widget_kind, widget, fragment
            if key is not None and label is None and _key(widget.id).startswith(key):
                return widget_kind, widget, fragment
        keys = sorted({_key(i) for i in self.widgets})
        raise LookupError(f"the page has no {kind or 'widget'} {label or key!r}, only {keys}")

    def _run(self, states: list[WidgetState], fragment: str = "") -> Rerun:
        message = BackMsg()
        rerun = message.rerun_script
        rerun.query_string, rerun.fragment_id = self.query, fragment
        rerun.page_script_hash, rerun.page_name = self._script, self._page
        rerun.widget_states.widgets.extend(states)
        frames: list[bytes] = []
        begun = time.perf_counter()
        self._socket.send(message.SerializeToString())
        while not self._is_last(frame := self._received()):
            frames.append(frame)
        took = time.perf_counter() - begun
        frames.append(frame)
        for drawn in (self.texts, self.metrics, self.alerts):
            drawn.clear()
        if not fragment:
            self.widgets.clear()
            self.polls.clear()
        for payload in frames:
            self._read(ForwardMsg.FromString(payload))
        return Rerun(took, sum(map(len, frames)))

    def _received(self) -> bytes:
        frame = self._socket.recv(timeout=PATIENCE / 1000)
        assert isinstance(frame, bytes)
        return frame

    def _is_last(self, frame: bytes) -> bool:
        """Whether the run is over; the message that says so is a short one, others stay unread
        until the clock has stopped."""
        if len(frame) > 200:
            return False
        message = ForwardMsg.FromString(frame)
        return (
            message.WhichOneof("type") == "script_finished"
            and message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN
        )

    def _read(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "navigation":
            self._script, self._page = message.navigation.page_script_hash, ""
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "auto_rerun":
            self.polls[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            name = str(element.WhichOneof("type"))
            body = getattr(element, name)
            if name == "exception":
                raise AssertionError(f"the page failed: {body.type}: {body.message}")
            if name == "markdown":
                self.texts.append(body.body)
            elif name == "metric":
                self.metrics[body.label] = body.body
            elif name == "alert":
                self.alerts.append((body.format, body.body))
            if getattr(body, "id", ""):
                self.widgets.pop(body.id, None)
                self.widgets[body.id] = (name, body, message.delta.fragment_id)


def _key(widget: str) -> str:
    """The key that the page gave a widget; Streamlit's ids end with it."""
    return widget.split("-", 2)[2] if widget.count("-") > 1 else widget


def _state(kind: str, widget: str, value: Any) -> WidgetState:
    """A value as the frontend sends it for this kind of widget."""
    state = WidgetState(id=widget)
    if kind in ("slider", "number_input"):
        if kind == "slider":
            state.double_array_value.data.append(value)
        else:
            state.double_value = value
    elif kind == "button_group":
        state.string_array_value.data.append(value)
    elif kind == "checkbox":
        state.bool_value = value
    elif kind == "pagination":
        state.int_value = value
    else:
        state.string_value = value
    return state


# ---- a real browser -----------------------------------------------------------------------------


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
