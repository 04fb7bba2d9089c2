"""Models that say what they were told to say, and remember what they were asked."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fac.generator.chat import Reply, estimated_tokens
from fac.generator.writer import Request, Written
from fac.prompts import Prompt

Scripted = str | Reply | BaseException
"""A text, a whole reply, or what is raised instead."""


class ScriptedChat:
    """Answers by a function of the prompt, or by a list of replies in the order of asking.

    Deterministic where its function is; safe to ask from many threads.
    """

    notes, rate = (), None

    def __init__(
        self, script: Callable[[Prompt], Scripted] | Sequence[Scripted], identity: str = "scripted"
    ):
        self.identity = identity
        self.prompts: list[Prompt] = []
        self._script = script
        self._lock = threading.Lock()

    def ask(self, prompt: Prompt) -> Reply:
        with self._lock:
            number = len(self.prompts)
            self.prompts.append(prompt)
        if callable(self._script):
            reply = self._script(prompt)
        else:
            if number >= len(self._script):
                raise AssertionError(
                    f"asked {number + 1} times, the script has {len(self._script)}"
                )
            reply = self._script[number]
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, Reply):
            return reply
        tokens = len(reply) // 4 + 1
        return Reply(reply, "stop", estimated_tokens(prompt), tokens, False, self.identity)


class ScriptedWriter:
    """Writes by a function of the request; deterministic where that is.

    What it says is a text, a whole Written, or what is raised instead. `written` counts how often
    each key was written, in this process.
    """

    notes = ()

    def __init__(
        self,
        script: Callable[[Request], str | Written | BaseException],
        identity: str = "scripted writer",
    ):
        self.identity, self.chats = identity, True
        self.requests: list[Request] = []
        self.written: Counter[str] = Counter()
        self._script = script

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
        texts: dict[str, Written] = {}
        for request in requests:
            if request.key in done:
                texts[request.key] = done[request.key]
                continue
            self.requests.append(request)
            text = self._script(request)
            if isinstance(text, BaseException):
                raise text
            if isinstance(text, str):
                text = Written(request.key, text, True, len(text.split()), "", 10, None)
            self.written[request.key] += 1
            if not text.failure:
                record(text)
            texts[request.key] = text
            progress(len(texts), len(requests), "")
        return texts
