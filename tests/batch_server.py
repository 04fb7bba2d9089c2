"""A server with OpenAI's batch interface beside its chat completions, that can misbehave."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.server import Body, ScriptedServer, Status, completion

LATER = 10**9


class BatchServer(ScriptedServer):
    """Answers a row of a batch as it answers a question, unless `row(body)` says what it meets.

    A batch has ended when it was looked at `looks` times; then `upto` of its rows are answered and
    the rest is expired. `paid` counts, over all batches, how often each row was answered; `trouble`
    are statuses that the next requests of a path meet, by the path's last word.
    """

    def __init__(
        self,
        answer: Callable[[Body], str],
        *,
        looks: int = 2,
        upto: int = LATER,
        row: Callable[[Body], Status | Body | None] = lambda body: None,
        **options: Any,
    ):
        super().__init__(answer, **options)
        self.looks, self.upto, self.row = looks, upto, row
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.trouble: dict[str, list[Status]] = {}
        self.refusal = ""  # why it makes no batch of any file
        self.lost = False  # whether the next batch is made and nobody hears of it

    def elsewhere(self, path: str, data: bytes | None) -> Status:
        path = path.partition("?")[0]
        with self.lock:
            if waiting := self.trouble.get(path.rpartition("/")[2]):
                return waiting.pop(0)
            match path.removeprefix("/v1/").split("/"), data:
                case ["files"], bytes():
                    name = f"file-{len(self.files)}"
                    parts = data.split(data.splitlines()[0])  # at the boundary of the form
                    (part,) = (each for each in parts if b'"custom_id"' in each)
                    self.files[name] = part.partition(b"\r\n\r\n")[2].strip()
                    return Status(200, about_file(name))
                case ["files", name, "content"], None:
                    return Status(200, self.files[name])
                case ["batches"], None:
                    pages = {"object": "list", "data": [*self.batches.values()], "has_more": False}
                    return Status(200, pages)
                case ["batches"], bytes():
                    return self._make(json.loads(data))
                case ["batches", name], None:
                    self.looked[name] += 1
                    if self.looked[name] >= self.looks:
                        self._end(self.batches[name], "completed", self.upto)
                    return Status(200, self.batches[name])
                case ["batches", name, "cancel"], bytes():
                    self.batches[name]["status"] = "cancelling"
                    self._end(self.batches[name], "cancelled", self.upto)
                    return Status(200, self.batches[name])
        return super().elsewhere(path, data)

    def _make(self, asked: dict[str, Any]) -> Status:
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        name, lines = f"batch_{len(self.batches)}", self.files[asked["input_file_id"]].splitlines()
        self.batches[name] = {
            **asked,
            "id": name,
            "object": "batch",
            "created_at": 1,
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        if self.refusal:
            errors = {"object": "list", "data": [{"code": "x", "message": self.refusal}]}
            self.batches[name] |= {"status": "failed", "errors": errors}
        if self.lost:
            self.lost = False
            return Status(503, {"error": {"message": "busy"}})
        return Status(200, self.batches[name])

    def _end(self, batch: dict[str, Any], end: str, upto: int) -> None:
        if batch["status"] not in ("in_progress", "cancelling"):
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        good, bad = [], []
        for number, row in enumerate(rows):
            key, body = row["custom_id"], row["body"]
            assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
            if number >= upto:
                code = "batch_expired" if end == "completed" else "batch_cancelled"
                bad.append({"custom_id": key, "response": None, "error": {"code": code}})
                continue
            self.bodies.append(body)
            met = self.row(body) or completion(body, self.answer(body))
            failed = isinstance(met, Status)
            self.paid[key] += not failed
            status, said = (met.status, met.body) if failed else (200, met)
            whole = {"status_code": status, "request_id": "r", "body": said}
            line = {"id": f"r{number}", "custom_id": key, "response": whole, "error": None}
            (bad if failed else good).append(line)
        if end == "completed" and upto < len(rows):
            end = "expired"
        for column, lines in (("output_file_id", good[::-1]), ("error_file_id", bad)):
            if lines:  # in any order
                batch[column] = f"file-{len(self.files)}"
                self.files[batch[column]] = b"".join(json.dumps(x).encode() + b"\n" for x in lines)
        batch["status"] = end


def about_file(name: str) -> Body:
    """A file as the server describes it."""
    about = {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f.jsonl"}
    return {**about, "purpose": "batch", "status": "processed"}
