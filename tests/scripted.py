"""A chat model that says what it was told to say, and remembers what it was asked."""

import threading
from collections.abc import Callable, Sequence

from fac.generator.chat import Reply, estimated_tokens
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
