"""What writes candidate texts: one protocol, seeded, resumable, and the record of a kind of writer.

Owns: what is to be written, what became of it, which streams of random numbers.
Does not own: the writers themselves (`fac.generator.writers`, one file each), what is asked and how
a reply is read (`fac.prompts`), where texts are kept (the caller's `record`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from fac.config import WriteSpec, digest
from fac.endpoints import Endpoints
from fac.errors import Progress
from fac.generator.edges import Edges
from fac.generator.local import Bias, Steer
from fac.prompts import Prompt
from fac.prompts.drafts import Opening

__all__ = ["Bias", "Means", "Request", "Steer", "Writer", "WriterKind", "Written", "stream"]


class Request(NamedTuple):
    """One text to be written: from a prompt, or from an opening, never both."""

    key: str  # names feature, style and number; unique in one call, and the same in a resumed one
    prompt: Prompt | None = None
    """Answered by a chat model; its own temperature and draw do not count."""

    opening: Opening | None = None  # continued; an empty one is the user's turn of an empty chat
    steer: Steer | None = None  # for a local model alone
    without: tuple[str, ...] = ()  # phrases the text must not hold, for a local model alone
    edges: Edges = Edges()  # of what follows an opening, for a local model alone
    biases: tuple[Bias, ...] = ()  # for a local model alone


class Written(NamedTuple):
    """What became of one request."""

    key: str
    text: str
    """The reply, or what follows the opening; may be empty, and need not be what was asked for."""

    finished: bool  # False where it was cut off
    tokens: int  # generated
    failure: str  # why there is no text; "" otherwise
    prompt_tokens: int
    cost: float | None  # US dollars; None where no price is known


class Writer(Protocol):
    """Whatever writes texts."""

    identity: str  # who writes: part of what names a run, never a key
    chats: bool  # whether it answers prompts; a base model only goes on with openings

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what a server did not take."""
        ...

    def write(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float,
        done: Mapping[str, Written],
        record: Callable[[Written], None],
        progress: Progress,
    ) -> dict[str, Written]:
        """One Written per request, by key, in the order of the requests.

        What `done` holds is returned as it is and not written again. `record` is called once for
        every other text, before it is reported or returned; a request that failed is returned
        with its failure but not recorded, so that the next call tries it again.

        Each request has its own stream of random numbers, that of (seed, key). progress(done,
        total, note) is called as texts are finished; whatever it raises (Cancelled) ends the call.

        Raises ValueError where two requests share a key or one has not exactly one of prompt and
        opening, BudgetReached when the next text could exceed the budget.
        """
        ...


class Means(NamedTuple):
    """What a job lends to the writer that it opens."""

    local: Callable[[WriteSpec], Writer]  # the model of this machine or of its workers, loaded once
    replies: Path  # file in which what a server answers is recorded from the moment it arrives
    closing: ExitStack  # unwound when the job ends
    endpoints: Endpoints  # the servers that may be asked, and whose keys go where


@dataclass(frozen=True, kw_only=True)
class WriterKind:
    """One kind of writer: the WRITER of its module in `fac.generator.writers`."""

    title: str  # for people who choose among them
    preference: int  # the lowest is the default and stands first
    open: Callable[[WriteSpec, Means], Writer]
    """Raises InputError for a model that is not named or cannot be loaded."""

    server: bool = False
    """Whether a server answers: it has a name for its model and knows no layers."""

    steers: bool = False  # whether texts are pushed along their feature's decoder direction


def stream(seed: int, key: str) -> int:
    """Seed of one request's random numbers, 48 bits."""
    return int(digest(seed, key), 16)


def room_of(request: Request, max_new_tokens: int) -> int:
    """Tokens a text may have: never fewer than the form of a JSON reply needs."""
    reply_room = request.prompt.max_tokens if request.prompt and request.prompt.form else 0
    return max(max_new_tokens, reply_room)


def check_requests(requests: Sequence[Request]) -> None:
    """Raises ValueError as `Writer.write` says."""
    if len({request.key for request in requests}) < len(requests):
        raise ValueError("two requests share a key")
    for request in requests:
        if (request.prompt is None) == (request.opening is None):
            raise ValueError(f"request {request.key!r} needs either a prompt or an opening")
