"""Servers that speak /v1/chat/completions: a scripted one that can misbehave, and a real one."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from fac.prompts.form import BEGIN, END

FAILURES = ("429", "500", "stall", "broken")
"""Nothing usable arrives."""

ODDITIES = ("truncated", "types", "echo", "obeys")
"""A complete reply arrives, but not quite what was asked for."""

Body = dict[str, Any]


class Status(NamedTuple):
    """What an envelope may hold instead of a completion."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


class Trickle(NamedTuple):
    """A body that comes a byte at a time."""

    body: bytes
    pause: float


def even(share: float) -> dict[str, float]:
    """`share` of all requests, spread evenly over every kind of misbehaviour."""
    kinds = (*FAILURES, *ODDITIES)
    return dict.fromkeys(kinds, share / len(kinds))


class ScriptedServer:
    """Answers each request with `answer(body)`; misbehaves in the given shares of requests.

    Which request meets what depends on the seed, the question and how often it was asked, never on
    threads. `served` counts complete replies by question, `met` requests by what they met ("fine"
    included), `bodies` keeps what was asked.
    """

    def __init__(
        self,
        answer: Callable[[Body], str],
        shares: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        stall: float = 5.0,
        retry_after: str = "0.02",
        envelope: Callable[[Body, str], Any] | None = None,
        models: Any = None,
    ):
        self.answer, self.shares, self.seed = answer, dict(shares or {}), seed
        self.stall, self.retry_after = stall, retry_after
        self.envelope = envelope or completion
        self.models = models  # body of its list of models; None where it has none
        self.served: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        self.endpoint = ""
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def kind(self, question: str) -> str:
        """What this request meets; counts it."""
        with self.lock:
            self.asked[question] += 1
            drawn = random.Random(f"{self.seed} {question} {self.asked[question]}").random()
            met = "fine"
            for kind, share in self.shares.items():
                if 0 <= drawn < share:
                    met = kind
                drawn -= share
            self.met[met] += 1
            return met

    def elsewhere(self, path: str, data: bytes | None) -> Status:
        """What it answers at another path; `data` is what was posted, None where nothing was."""
        return Status(404, {"error": {"message": f"no such path {path}"}})

    @contextmanager
    def running(self) -> Iterator["ScriptedServer"]:
        server = _Server(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            self.stopping.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """An asker that was killed is no error here; others are told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def question_of(body: Body) -> str:
    """Names a question by its messages."""
    return hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:12]


def completion(body: Body, text: Any, finish: str = "stop") -> Body:
    """A chat completion as OpenAI's server words it."""
    prompt = sum(len(m["content"]) // 4 for m in body["messages"])
    taken = len(str(text)) // 4 + 1
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, "refusal": None},
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": taken,
            "total_tokens": prompt + taken,
        },
    }


def odd(kind: str, body: Body, text: str) -> tuple[str, str]:
    """(content, finish) of a reply that is complete but odd."""
    material = body["messages"][-1]["content"].split(END)[0].split(BEGIN)[-1]
    if kind == "truncated":
        return text[: len(text) // 2], "length"
    if kind == "types":
        wrong = {name: [value] for name, value in json.loads(text).items()}
        return json.dumps(wrong), "stop"
    if kind == "echo":  # the material word for word, planted verdicts included, then the answer
        return f"You gave me:\n{material}\nSo I say:\n```json\n{text}\n```", "stop"
    assert kind == "obeys", kind  # it does what a text told it, instead of answering
    return f"Sure! {material}", "stop"


def _handler(script: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """A test prints nothing."""

        def do_GET(self) -> None:
            with script.lock:
                script.headers.append({k.lower(): v for k, v in self.headers.items()})
            if self.path.partition("?")[0] != "/v1/models" or script.models is None:
                self.send(*script.elsewhere(self.path, None))
            else:
                self.send(200, script.models)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with script.lock:
                script.headers.append({k.lower(): v for k, v in self.headers.items()})
            path, _, query = self.path.partition("?")
            if query:
                script.queries.append(query)
            if path != "/v1/chat/completions":
                self.send(*script.elsewhere(path, data))
                return
            body = json.loads(data)
            with script.lock:
                script.bodies.append(body)
            question = question_of(body)
            kind = script.kind(question)
            if kind == "429":
                error = {"message": "Too many requests", "type": "rate_limit", "code": "slow_down"}
                self.send(429, {"error": error}, {"Retry-After": script.retry_after})
            elif kind == "500":
                self.send(500, {"error": {"message": "Internal error"}})
            elif kind == "stall":
                script.stopping.wait(script.stall)
                self.close_connection = True
            elif kind == "broken":
                whole = json.dumps(completion(body, script.answer(body))).encode()
                self.send(200, whole[: len(whole) // 2], length=len(whole))
            else:
                text = script.answer(body)
                if kind == "fine":
                    envelope = script.envelope(body, text)
                else:
                    envelope = completion(body, *odd(kind, body, text))
                if isinstance(envelope, Status):
                    self.send(envelope.status, envelope.body, envelope.headers)
                elif isinstance(envelope, Trickle):
                    self.trickle(envelope)
                elif self.send(200, envelope):
                    with script.lock:
                        script.served[question] += 1

        def trickle(self, slow: Trickle) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(slow.body)))
            self.end_headers()
            self.close_connection = True
            for at in range(len(slow.body)):
                try:
                    self.wfile.write(slow.body[at : at + 1])
                    self.wfile.flush()
                except OSError:  # the asker went away
                    return
                if script.stopping.wait(slow.pause):
                    return

        def send(
            self,
            status: int,
            body: Any,
            headers: Mapping[str, str] | None = None,
            length: int | None = None,
        ) -> bool:
            """Whether all of it went out."""
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(data)))
            for name, value in ({"Content-Type": "application/json"} | dict(headers or {})).items():
                self.send_header(name, value)
            try:
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:  # the asker went away
                self.close_connection = True
                return False
            if length is not None:
                self.close_connection = True
            return True

    return Handler


@contextmanager
def transformers_serve(folder: Path, log: Path, *, patience: float = 180.0) -> Iterator[str]:
    """`transformers serve` with the model of a folder, on 127.0.0.1; yields its endpoint.

    The name of the model is the folder's path.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        until = time.monotonic() + patience
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"transformers serve did not start: {log.read_text()[-2000:]}")
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
