"""How fast an endpoint may be asked, as the operator lists it.

Owns: what was asked in the last minute, and how long the next question has to wait. Does not own:
what a server says by itself, such as Retry-After (`batch_chat`).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cache

from fac.endpoints import Endpoint

WINDOW = 60.0  # seconds: limits are listed per minute


@dataclass
class _Asked:
    key: str
    at: float  # seconds
    tokens: int


class RateLimit:
    """At most so many questions, and so many tokens, in any WINDOW; safe to use from many threads.

    A question counts from when it is sent, at first with all the room of its reply and then with
    what it took.
    """

    def __init__(self, requests: int | None, tokens: int | None):
        """None: no limit."""
        self.requests, self.tokens = requests, tokens
        self._asked: list[_Asked] = []  # of the last WINDOW, the oldest first
        self._lock = threading.Lock()

    def take(self, key: str, tokens: int, now: float) -> float:
        """Counts a question of so many tokens, and returns 0; or else the seconds until it fits.

        One that is larger than the limit is sent when nothing else was within the WINDOW.
        """
        with self._lock:
            self._asked = [each for each in self._asked if each.at + WINDOW > now]
            left, rest = len(self._asked), sum(each.tokens for each in self._asked)
            until = now
            for each in self._asked:
                few = self.requests is None or left < self.requests
                if few and (self.tokens is None or rest + tokens <= self.tokens):
                    break
                left, rest, until = left - 1, rest - each.tokens, each.at + WINDOW
            if until > now:
                return until - now
            self._asked.append(_Asked(key, now, tokens))
            return 0.0

    def settle(self, key: str, tokens: int) -> None:
        """What a question took, once that is known."""
        with self._lock:
            for each in reversed(self._asked):  # asked again, the last one was answered
                if each.key == key:
                    each.tokens = tokens
                    break

    def seconds(self, questions: int, tokens: float) -> float:
        """That so many questions, of so many tokens together, have to wait at least where nothing
        was asked within the WINDOW."""
        minutes = [
            math.ceil(amount / limit)
            for amount, limit in ((questions, self.requests), (tokens, self.tokens))
            if limit is not None
        ]
        return WINDOW * max(max(minutes, default=0) - 1, 0)

    def __str__(self) -> str:
        limits = ((self.requests, "requests"), (self.tokens, "tokens"))
        words = " and ".join(f"{n:,} {what}" for n, what in limits if n is not None)
        return f"{words} a minute"


@cache
def _shared(where: tuple[str, str], requests: int | None, tokens: int | None) -> RateLimit:
    return RateLimit(requests, tokens)


def rate_of(endpoint: Endpoint) -> RateLimit | None:
    """The limit of an endpoint, one for all that this process asks it; None where none is listed.

    Raises InputError as `read_address`."""
    limits = endpoint.requests_per_minute, endpoint.tokens_per_minute
    if limits == (None, None):
        return None
    return _shared((endpoint.name, str(endpoint.address)), *limits)
