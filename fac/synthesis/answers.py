"""The later parts of samples: a message is written first, then the answer to it, as a turn of its
own by whoever answers; or, where a gap is sought in answers, an answer and then its message.

Answers are asked for where a message is worth one: see `fac.synthesis.synthesize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from fac.config import WriteSpec, digest
from fac.errors import Progress
from fac.generator.edges import Edges
from fac.generator.writer import Request, Writer, Written
from fac.prompts import drafts, lists
from fac.prompts.drafts import BadDraft
from fac.prompts.lists import ASSISTANT
from fac.prompts.profiles import later_parts
from fac.schema import MEAN, ROLES, Chat
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts
from fac.synthesis.plan import Ask, chats_in, edges_by_role, reply_key
from fac.synthesis.uses import phrases_of
from fac.synthesis.writing import ANSWER_ROOM, NOTHING, Answer, Candidate, Desk

MESSAGES = 4  # asked for to an answer that was written first
LOOKED_AT = 2_000  # chats that say how long answers are
TOKENS_A_WORD = 1.15

Likelihood = Callable[[Sequence[Chat]], np.ndarray]
"""What the subject model makes of texts: float64 `[n, 2, n_roles]`, MEAN and END of schema; NaN
where a role has no text, or none that ends in a mark."""


@dataclass(frozen=True)
class Answering:
    """Who writes the later parts of a profile's samples, and how they are asked for."""

    writer: Writer
    spec: WriteSpec  # with the room that an answer has
    parts: tuple[str, ...]
    examples: Sequence[Chat] = ()  # of the dataset, for lists
    likelihood: Likelihood | None = None  # the subject model's, for choosing among messages
    edges: Mapping[str, Edges] = field(default_factory=dict)  # of the dataset's texts, by role
    fluent: Callable[[Chat], bool] = lambda _: True  # whether a message passes the gates

    def complete(
        self, candidates: Sequence[Candidate], desk: Desk, progress: Progress
    ) -> list[Candidate]:
        """The candidates with what follows their messages; one whose part is no text says why.
        Raises what `Desk.write` does."""
        texts: dict[str, list[str]] = {each.name: [] for each in candidates}
        whole = {each.name: each for each in candidates}
        for number in range(len(self.parts)):
            going = [each for each in whole.values() if not each.problem]
            every = [self._asks(each, texts[each.name], number) for each in going]
            asks = [ask for of_one in every for ask in of_one]
            desk.write(asks, self.writer, self.spec, progress, "writing answers")
            for each, of_one in zip(going, every, strict=True):
                whole[each.name] = self._taken(each, of_one, texts[each.name], desk)
        return [self._whole(each, texts[each.name]) for each in whole.values()]

    def _taken(
        self, candidate: Candidate, asks: Sequence[Ask], before: list[str], desk: Desk
    ) -> Candidate:
        """The candidate with what came of these requests; the best of their texts goes to those
        that were written `before`."""
        replies, texts, problem = [], [], ""
        for ask in asks:
            written = desk.written[ask.request.key]
            key = reply_key(ask, self.spec, self.writer.identity)
            replies.append(Answer(ask, written, key, self.writer.identity))
            if written.failure:
                problem = problem or verdicts.FAILED
                continue
            try:
                texts.append(self._read(candidate, written, before))
            except BadDraft as error:
                problem = problem or error.problem
        if texts:
            before.append(self._best(candidate, texts))
        answers = (*candidate.answers, *replies)
        return candidate._replace(answers=answers, problem="" if texts else problem)

    def _best(self, candidate: Candidate, texts: Sequence[str]) -> str:
        """Of messages that read like the dataset's, or else of all, the one after which the subject
        model expects the answer most; without the model the first."""
        fluent = [text for text in texts if self.fluent([{"role": "user", "content": text}])]
        texts = fluent or texts
        if len(texts) == 1 or self.likelihood is None:
            return texts[0]
        chats = [[{"role": "user", "content": text}, *candidate.messages] for text in texts]
        nats = self.likelihood(chats)[:, MEAN, ROLES.index(ASSISTANT)]
        return texts[int(np.argmin(np.nan_to_num(nats, nan=np.inf)))]

    def _read(self, candidate: Candidate, written: Written, before: Sequence[str]) -> str:
        profile, text, finished = self.spec.profile, written.text, written.finished
        if candidate.ask.role == ASSISTANT:
            return drafts.read_draft(profile, text, finished=finished).messages[0]["content"]
        return drafts.read_answer(profile, text, before, finished=finished)

    def _whole(self, candidate: Candidate, texts: Sequence[str]) -> Candidate:
        if candidate.problem:
            return candidate
        if candidate.ask.role == ASSISTANT:
            (message,) = texts
            chat = [{"role": "user", "content": message}, *candidate.messages]
            return candidate._replace(messages=chat)
        draft = drafts.with_answers(self.spec.profile, candidate.messages, texts)
        return candidate._replace(messages=[*draft.messages], extra=draft.extra)

    def _asks(self, candidate: Candidate, texts: Sequence[str], number: int) -> list[Ask]:
        """The requests for the next part: one, or several for the message to an answer."""
        ask = self._ask(candidate, texts, number)
        if candidate.ask.role != ASSISTANT:
            return [ask]
        key = ask.request.key
        names = [key, *(f"{key}-{n}" for n in range(2, MESSAGES + 1))]
        return [ask._replace(request=ask.request._replace(key=name)) for name in names]

    def _ask(self, candidate: Candidate, texts: Sequence[str], number: int) -> Ask:
        profile, messages = self.spec.profile, candidate.messages
        key = f"{candidate.name}/answer" + (f"-{number + 1}" if number else "")
        quoted: tuple[str, ...] = ()
        guide = candidate.ask.guide
        if candidate.ask.role == ASSISTANT:
            shown = candidate.ask.examples or [
                (chat[0]["content"], chat[1]["content"]) for chat in self.examples
            ]
            opening = lists.message(profile, messages[-1]["content"], shown)
            quoted = tuple(text for pair in shown for text in pair)
            sources = (messages[-1]["content"], *quoted)
            echoes = tuple(phrase for text in sources for phrase in phrases_of(text, verdicts.GRAM))
            name = f"{candidate.name}/message"
            request = Request(name, opening=opening, without=echoes)
        elif self.writer.chats:
            biases, without, quoted, steer = guide or ((), (), (), None)
            prompt = drafts.answer_prompt(profile, messages, texts)
            request = Request(key, prompt, None, steer, without, biases=biases)
        else:
            opening = drafts.answer_opening(profile, messages, self.examples, texts)
            request = Request(key, opening=opening)
            quoted = tuple(m["content"] for chat in self.examples for m in chat)
        role = "user" if candidate.ask.role == ASSISTANT else ASSISTANT
        ask = candidate.ask._replace(request=request, quoted=quoted, role=role)
        ask = ask._replace(explanation="", guide=None)
        return ask.with_edges(self.edges)._replace(role=candidate.ask.role)

    def key(self, ask: Ask) -> str:
        """Names who answers and how answers are asked for; `ask` is any of the plan."""
        candidate = Candidate(ask, [{"role": "user", "content": "?"}], {}, "", NOTHING)
        return digest(self.writer.identity, self._ask(candidate, (), 0).prompt_hash)


def answering(
    spec: WriteSpec,
    writer: Writer,
    answerer: Writer | None,
    runs: Runs,
    measure: str,
    likelihood: Likelihood | None = None,
    fluent: Callable[[Chat], bool] = lambda _: True,
) -> Answering | None:
    """Who completes the samples of the profile, with chats of the measured dataset to learn the
    form from for a writer that knows none; None where samples have no later parts, or nobody is to
    write them."""
    parts = later_parts(spec.profile)
    if not parts or spec.answers == "none":
        return None
    dataset = runs.manifest(measure).facts.dataset
    room = max(spec.max_new_tokens, answer_room(runs, dataset))
    examples = example_chats(runs, dataset)
    spec = replace(spec, max_new_tokens=room)
    edges = edges_by_role(runs, measure)
    return Answering(answerer or writer, spec, parts, examples, likelihood, edges, fluent)


def answer_room(runs: Runs, dataset: str) -> int:
    """Tokens that an answer may have: room for all but the longest hundredth of the dataset's own
    answers; ANSWER_ROOM where it has none."""
    lengths = [
        len(verdicts.words(message["content"]))
        for chat in example_chats(runs, dataset, LOOKED_AT)
        for message in chat
        if message["role"] == ASSISTANT
    ]
    return math.ceil(TOKENS_A_WORD * np.quantile(lengths, 0.99)) if lengths else ANSWER_ROOM


def example_chats(runs: Runs, dataset: str, n: int = drafts.ANSWER_EXAMPLES) -> list[Chat]:
    """The first chats of a dataset run that have an answer, at most n."""
    chats = (
        chat
        for chat in chats_in(runs, dataset)
        if [message["role"] for message in chat][:2] == ["user", ASSISTANT]
    )
    return [*islice(chats, n)]
