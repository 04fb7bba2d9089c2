"""Servers as they are, each kind through the door of explain, judge or the writer of pairs.

A kind works, or ends in one sentence and exit 3. `docs/formats.md` lists all of them.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fac.cli import frame
from fac.config import REPOSITORY, Workspace
from fac.generator import batch_chat
from tests import toy
from tests.server import Body, ScriptedServer, Status, completion
from tests.test_cli import PAIR, assert_one_sentence, fac
from tests.test_cli_make import MakingSteps

KEY = "sk-secret-of-this-test"

ANSWERS = {
    "explain": json.dumps({"reason": "each text has it", "explanation": "the word python"}),
    "judge": json.dumps({"rationale": "it is about code", "level": "yes"}),
    "pairs": "Tell my old uncle how to begin with python! in the evening.",
}
"""What a perfect model says to each door about feature 3, which fires on `python`."""

LINES: dict[str, tuple[object, ...]] = {
    "explain": ("explain", "toy-anchor", "--explainer", "llm", "--features", 3),
    "judge": ("judge", "toy-anchor", "--task", toy.TASK, "--features", 3),
    "pairs": ("pairs", *PAIR, "--features", 3, "--candidates", 1, "--writer", "openai"),
}

Envelope = Callable[[Body, str], Any]


class Kind(NamedTuple):
    """One kind of server."""

    name: str
    door: str
    envelope: Envelope  # what it answers, from a question and the right answer to it
    sentence: str = ""  # pattern of the sentence it ends in; "" where it works
    note: str = ""  # pattern of the run's note
    query: str = ""  # after its address


def message(door: str, name: str, sentence: str = "", **fields: Any) -> Kind:
    """A server whose messages have these fields, made from the right answer where they are called;
    `finish` is theirs too."""
    finish = fields.pop("finish", "stop")

    def envelope(body: Body, text: str) -> Body:
        values = {k: v(text) if callable(v) else v for k, v in fields.items()}
        whole = completion(body, "", finish)
        whole["choices"][0]["message"] = {"role": "assistant", **values}
        return whole

    return Kind(name, door, envelope, sentence)


def body(door: str, name: str, data: Any, sentence: str = "", *, status: int = 200) -> Kind:
    """A server whose every response is this."""
    return Kind(name, door, lambda *_: Status(status, data), sentence)


def changed(door: str, name: str, change: Callable[[Body], Any], sentence: str = "") -> Kind:
    """A server whose completions are changed on their way."""
    return Kind(name, door, lambda body, text: change(completion(body, text)), sentence)


def without(door: str, name: str, status: int, kind: str, note: str) -> Kind:
    """A server that fails whatever holds a schema, or a system message, and does not say why."""

    def envelope(body: Body, text: str) -> Any:
        schema = "response_format" in body
        system = any(message["role"] == "system" for message in body["messages"])
        if schema if kind == "schema" else system:
            return Status(status, {"error": {"message": "Something went wrong"}})
        return completion(body, text)

    return Kind(name, door, envelope, note=note)


def unknown(door: str, name: str, parameter: str, note: str = "") -> Kind:
    """A server that names a parameter which it does not know."""

    def envelope(body: Body, text: str) -> Any:
        if parameter in body:
            return Status(400, {"error": {"message": f"Unknown parameter: {parameter}"}})
        return completion(body, text)

    return Kind(name, door, envelope, note=note)


def once(door: str, name: str, first: Any) -> Kind:
    """A server whose first response is this."""
    met: Counter[str] = Counter()

    def envelope(body: Body, text: str) -> Any:
        met[body["model"]] += 1
        return first if met[body["model"]] == 1 else completion(body, text)

    return Kind(name, door, envelope)


def roomy(door: str, name: str, least: int, note: str = "", sentence: str = "", **cut: Any) -> Kind:
    """A server whose model thinks through fewer tokens than these."""

    def envelope(body: Body, text: str) -> Body:
        if body["max_tokens"] >= least:
            return completion(body, text)
        whole = completion(body, None, "length")
        whole["choices"][0]["message"] |= cut
        return whole

    return Kind(name, door, envelope, sentence, note)


def stream(*events: Any, end: str = "\n\n") -> Status:
    """A response in events."""
    words = [each if isinstance(each, str) else json.dumps(each) for each in events]
    data = "".join(f"data: {each}{end}" for each in words).encode()
    return Status(200, data, {"Content-Type": "text/event-stream"})


def chunk(finish: str | None = None, **delta: Any) -> Body:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def streamed(_body: Body, text: str) -> Status:
    half = len(text) // 2
    pieces = (chunk(content=text[:half]), chunk(content=text[half:]), chunk("stop"))
    return stream(chunk(role="assistant", content=""), *pieces, "[DONE]")


def counted(_body: Body, text: str) -> Status:
    """With carriage returns, thoughts of their own and counts in the last event."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    pieces = (chunk(reasoning_content="hm"), chunk("stop", content=text))
    return stream(*pieces, {"choices": [], "usage": usage}, "[DONE]", end="\r\n\r\n")


def tool_call(text: str) -> list[Body]:
    return [{"type": "function", "function": {"name": "answer", "arguments": text}}]


def no_key(message: str) -> Body:
    return {"error": {"message": message, "code": "invalid_api_key"}}


HTML = b"<!DOCTYPE html><html><head><style>p {}</style></head><body>Please log in</body></html>"

KINDS = [
    # what works
    Kind("a plain completion", "explain", completion),
    message("judge", "content in parts", content=lambda t: [{"type": "text", "text": t}]),
    message(
        "explain",
        "parts that think",
        content=lambda t: [
            {"type": "thinking", "thinking": [{"type": "text", "text": '{"a": 1}'}]},
            {"type": "text", "text": t},
        ],
    ),
    message("pairs", "content in a list of strings", content=lambda t: [t[:9], t[9:]]),
    message("judge", "content in an object", content=lambda t: {"type": "text", "text": t}),
    Kind("events alone", "explain", streamed),
    Kind("events with counts", "pairs", counted),
    message("pairs", "<think>", content=lambda t: f"<think>So, python.</think>{t}"),
    message("pairs", "</think> unopened", content=lambda t: f"So, python.\n</think>\n\n{t}"),
    message("judge", "[THINK]", content=lambda t: f"[THINK]Is it code?[/THINK]{t}"),
    message("explain", "<thinking>", content=lambda t: f'<thinking>{{"a": 1}}</thinking>{t}'),
    message(
        "pairs",
        "channels",
        content=lambda t: (
            f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
            f"<|channel|>final<|message|>{t}<|return|>"
        ),
    ),
    message("judge", "channels without marks", content=lambda t: f"analysisHm.assistantfinal{t}"),
    message("explain", "thoughts beside", content=str, reasoning_content="it is a word"),
    roomy("explain", "no room for thoughts", 1000, "room of 4,096", reasoning_content="Let me see"),
    roomy("pairs", "no room after <think>", 300, "room of 4,096", content="<think>Let me see"),
    changed("judge", "no counts", lambda whole: {"choices": whole["choices"]}),
    changed("explain", "counts below zero", lambda w: w | {"usage": {"prompt_tokens": -1}}),
    without("explain", "400 for a schema", 400, "schema", "takes no JSON schema"),
    without("judge", "404 for a schema", 404, "schema", "takes no JSON schema"),
    without("explain", "422 for a schema", 422, "schema", "takes no JSON schema"),
    without("judge", "500 for a schema", 500, "schema", "takes no JSON schema"),
    without("explain", "400 for a system message", 400, "system", "takes no system message"),
    without("pairs", "500 for a system message", 500, "system", "takes no system message"),
    unknown("explain", "response_format unknown", "response_format", "takes no JSON schema"),
    unknown("judge", "max_tokens unknown", "max_tokens"),
    unknown("pairs", "temperature unknown", "temperature", "takes no temperature"),
    message("judge", "a form as a tool", content=None, tool_calls=tool_call),
    changed("explain", "text beside no message", lambda w: w | {"choices": [{"text": text_of(w)}]}),
    message("judge", "a fence around JSON", content=lambda t: f"Here:\n```json\n{t}\n```\nBye."),
    changed("judge", "a byte order mark", lambda w: b"\xef\xbb\xbf" + json.dumps(w).encode()),
    changed("explain", "a list of one", lambda whole: [whole]),
    Kind("a version in the query", "explain", completion, query="?api-version=2024-10-21"),
    once("judge", "429 once", Status(429, {"error": "slow down"}, {"Retry-After": "0"})),
    once("explain", "503 once", Status(503, HTML, {"Retry-After": "0"})),
    once("pairs", "an error in a 200 once", {"error": {"code": 429, "message": "slow down"}}),
    # what ends in a sentence
    body("explain", "an error in a 200", {"error": {"message": "overloaded"}}, "overloaded"),
    body("judge", "an error of a key in a 200", no_key("Bad key"), "Bad key. Check OPENAI_API_KEY"),
    body("explain", "a page of HTML", HTML, "is a web page, no chat completion: Please log in"),
    body("judge", "a page of HTML, 404", HTML, "answered 404.*Please log in", status=404),
    body("pairs", "choices are empty", {"choices": []}, "its choices are empty"),
    body("judge", "an empty body", b"", "response is empty"),
    body("explain", "half of a body", b'{"choices": [{"mess', "no JSON: {.choices"),
    body("pairs", "words of a proxy", b"upstream timeout", "no JSON: upstream timeout"),
    body("explain", "another interface", {"message": {"content": "hi"}}, "has no choices"),
    body("judge", "events that break off", stream(chunk(content="{")).body, "breaks off"),
    body("pairs", "an error as an event", stream({"error": "overloaded"}).body, "overloaded"),
    roomy("judge", "no room ever", 9**9, sentence=r"room of 4,096 tokens ran out.*--room"),
    message("explain", "nothing at all", "it is empty", content=""),
    message("explain", "thoughts alone", "ends with its thoughts", content="<think>Hm.</think>"),
    message("pairs", "a writer that says nothing", r"empty 1\)", content=None),
    message("judge", "a refusal", "no JSON object: I cannot", content=None, refusal="I cannot."),
    message("judge", "other fields", "'level': field required|'rationale'", content='{"a": 1}'),
    message("explain", "a picture", "kind 'image_url'", content=[{"type": "image_url"}]),
    body("explain", "401", no_key("Who?"), "answered 401: Who\\? Check OPENAI_API_KEY", status=401),
    body("judge", "402", {"error": {"message": "Pay first"}}, "Pay first", status=402),
    body("pairs", "403", {"detail": "Not here"}, "answered 403: Not here", status=403),
    body("explain", "404", {"error": "no such model"}, "knows the model", status=404),
    body("judge", "400 for all", {"error": {"message": "too long"}}, "too long", status=400),
    body("pairs", "500 for all", {"error": {"message": "Oops"}}, "500: Oops", status=500),
]


def text_of(whole: Body) -> str:
    text = whole["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Replies are named by their model, so that every kind finds a workspace of its own in it."""
    return toy.toy_workspace(tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """One server that is of the kind which the model's name says."""
    kinds = {kind.name: kind for kind in KINDS}

    def envelope(body: Body, text: str) -> Any:
        return kinds[body["model"]].envelope(body, text)

    server = ScriptedServer(lambda body: ANSWERS[kinds[body["model"]].door], envelope=envelope)
    with server.running():
        yield server.endpoint


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.door}: {kind.name}")
def test_a_server_works_or_ends_in_one_sentence(kind, kitchen, endpoint, monkeypatch):
    monkeypatch.setattr(frame, "Steps", MakingSteps)
    for pause in ("FIRST_PAUSE", "FIRST_LIMITED"):
        monkeypatch.setattr(batch_chat, pause, 1e-4)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint)  # whose key that is
    line = (*LINES[kind.door], "--model", kind.name, "--endpoint", endpoint + kind.query)
    answer = fac(*line, "--json", workspace=kitchen)
    if kind.sentence:
        assert_one_sentence(answer, code=3)
        assert re.search(kind.sentence, answer.err), answer.err
        return
    assert answer.code == 0, answer.err
    data = answer.json
    if kind.door == "pairs":
        (texts,) = data["texts"]
        assert texts["positive"].startswith(f"{kind.name} at http") and not data["problems"]
    else:
        assert data["counts"] == ({"explained": 1} if kind.door == "explain" else {"yes": 1})
    assert re.search(kind.note, data.get("note") or "")
    assert kind.note or not data.get("note")


def test_the_table_of_servers_lists_every_kind_with_what_happens():
    text = (REPOSITORY / "docs" / "formats.md").read_text("utf-8").split("## Servers")[1]
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", text, re.MULTILINE)
    assert rows == [(k.name, "sentence" if k.sentence else "works") for k in KINDS]
