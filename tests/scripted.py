"""Models that say what they were told to say, and remember what they were asked."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fac.generator.chat import Reply, estimated_tokens
from fac.generator.writer import Request, Written
from fac.prompts import Prompt

Said = str | Reply | BaseException
"""A text, a whole reply, or what is raised instead."""


class ScriptedChat:
    """Answers by a function of the prompt, or by a list of replies in the order of asking.

    Deterministic where its function is; safe to ask from many threads.
    """

    def __init__(self, said: Callable[[Prompt], Said] | Sequence[Said], identity: str = "scripted"):
        self.identity = identity
        self.asked: list[Prompt] = []
        self._said = said
        self._lock = threading.Lock()

    def ask(self, prompt: Prompt) -> Reply:
        with self._lock:
            number = len(self.asked)
            self.asked.append(prompt)
        if callable(self._said):
            said = self._said(prompt)
        else:
            if number >= len(self._said):
                raise AssertionError(f"asked {number + 1} times, the script has {len(self._said)}")
            said = self._said[number]
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, Reply):
            return said
        tokens = len(said) // 4 + 1
        return Reply(said, "stop", estimated_tokens(prompt), tokens, False, self.identity)


class ScriptedWriter:
    """Writes by a function of the request; deterministic where that is.

    What it says is a text, a whole Written, or what is raised instead. `written` counts how often
    each key was written, in this process.
    """

    def __init__(
        self,
        said: Callable[[Request], str | Written | BaseException],
        identity: str = "scripted writer",
    ):
        self.identity = identity
        self.asked: list[Request] = []
        self.written: Counter[str] = Counter()
        self._said = said

    def write(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        done: Mapping[str, Written],
        record: Callable[[Written], None],
        progress: Callable[..., None],
    ) -> dict[str, Written]:
        found: dict[str, Written] = {}
        for request in requests:
            if request.key in done:
                found[request.key] = done[request.key]
                continue
            self.asked.append(request)
            said = self._said(request)
            if isinstance(said, BaseException):
                raise said
            if isinstance(said, str):
                said = Written(request.key, said, True, len(said.split()), "", 10, None)
            self.written[request.key] += 1
            if not said.failure:
                record(said)
            found[request.key] = said
            progress(len(found), len(requests), "")
        return found
