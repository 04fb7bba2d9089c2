"""A model behind a server that speaks OpenAI's chat completions writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fac.config import WriteSpec
from fac.errors import Progress
from fac.generator.allowance import Limits, limits_of
from fac.generator.batch_chat import Question, ask_batch, chat_of
from fac.generator.chat import ChatModel
from fac.generator.journal import RecordedReply, ReplyJournal
from fac.generator.writer import (
    Means,
    Request,
    Writer,
    WriterKind,
    Written,
    check_requests,
    room_of,
    stream,
)
from fac.prompts import Prompt, drafts


class ChatWriter:
    """A model behind a server, asked through `ask_batch`: its retries, its budget, its journal.

    Every reply is in the journal before anything else happens, and a request of the same key, seed
    and temperature is never asked for again, so nothing is paid twice; the journal is also where
    the exact prompts and replies are found.
    """

    chats = True

    def __init__(self, chat: ChatModel, journal: ReplyJournal, limits: Limits, *, attempt: int = 0):
        self.chat, self.journal, self.limits, self.attempt = chat, journal, limits, attempt
        self.identity = chat.identity
        self.notes: tuple[str, ...] = ()

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
        """See `Writer`; also raises what `ask_batch` does, and ValueError for a steered request.

        Texts are recorded when all are there; until then the journal holds them. An opening is
        sent as the list that a chat model is to go on with. A reply ends where the server says so,
        with at least the room that the form of its prompt needs.
        """
        check_requests(requests)
        missing = {request.key: request for request in requests if request.key not in done}
        if any(request.steer is not None for request in missing.values()):
            raise ValueError("a model behind a server cannot be steered")
        if any(request.without or request.biases for request in missing.values()):
            raise ValueError("a model behind a server is told in words what to say and to avoid")
        questions = [
            Question(key, self._prompt(request, seed, max_new_tokens, temperature))
            for key, request in missing.items()
        ]
        before = len(requests) - len(missing)

        def report(answered: int, total: int, note: str = "") -> None:
            progress(before + answered, before + total, note)

        batch = ask_batch(
            questions,
            self.chat,
            self.journal,
            limits=self.limits,
            progress=report,
            attempt=self.attempt,
        )
        self.limits = self.limits._replace(room=batch.room)
        self.notes = tuple(dict.fromkeys((*self.notes, *batch.notes)))
        written: dict[str, Written] = {}
        for request in requests:
            if request.key in done:
                written[request.key] = done[request.key]
                continue
            written[request.key] = text = _answered(request, batch.replies[request.key])
            if not text.failure:
                record(text)
        return written

    @staticmethod
    def _prompt(request: Request, seed: int, max_new_tokens: int, temperature: float) -> Prompt:
        prompt = request.prompt
        if request.opening is not None:
            prompt = drafts.continuing(request.opening)
        assert prompt is not None  # check_requests
        return prompt._replace(
            max_tokens=room_of(request, max_new_tokens),
            temperature=temperature,
            draw=stream(seed, request.key) % 2**31,  # what servers take for a seed
        )


def _answered(request: Request, answer: RecordedReply) -> Written:
    text = answer.reply or ""
    finished = answer.ok and answer.finish not in ("length", "content_filter")
    if request.opening is not None and answer.ok:
        finished = finished or "\n" in text.strip()
        text = drafts.continuation(text, request.opening)
    return Written(
        request.key,
        text,
        finished,
        answer.completion_tokens,
        answer.failure,
        answer.prompt_tokens,
        answer.cost,
    )


def _open(spec: WriteSpec, means: Means) -> Writer:
    chat = chat_of(spec, means.endpoints)
    means.closing.callback(chat.close)
    return ChatWriter(chat, ReplyJournal(means.replies), limits_of(spec), attempt=spec.attempt)


WRITER = WriterKind(title="A server", preference=3, open=_open, server=True)
