"""The later parts of samples: a message is written first, then the answer to it, as a turn of its
own by whoever answers; or, where a gap is sought in answers, an answer and then its message.

Answers are asked for where a message is worth one: see `fac.synthesis.synthesize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from fac.config import WriteSpec, digest
from fac.errors import Progress
from fac.generator.writer import Request, Writer, Written
from fac.prompts import drafts, lists
from fac.prompts.drafts import BadDraft
from fac.prompts.lists import ASSISTANT
from fac.prompts.profiles import later_parts
from fac.schema import Chat
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts
from fac.synthesis.plan import Ask, reply_key
from fac.synthesis.writing import ANSWER_ROOM, NOTHING, Answer, Candidate, Desk


@dataclass(frozen=True)
class Answering:
    """Who writes the later parts of a profile's samples, and how they are asked for."""

    writer: Writer
    spec: WriteSpec  # with the room that an answer has
    parts: tuple[str, ...]
    examples: Sequence[Chat] = ()  # of the dataset, for lists

    def complete(
        self, candidates: Sequence[Candidate], desk: Desk, progress: Progress
    ) -> list[Candidate]:
        """The candidates with what follows their messages; one whose part is no text says why.
        Raises what `Desk.write` does."""
        texts: dict[str, list[str]] = {each.name: [] for each in candidates}
        whole = {each.name: each for each in candidates}
        for number in range(len(self.parts)):
            going = [each for each in whole.values() if not each.problem]
            asks = [self._ask(each, texts[each.name], number) for each in going]
            desk.write(asks, self.writer, self.spec, progress, "writing answers")
            for each, ask in zip(going, asks, strict=True):
                written = desk.written[ask.request.key]
                key = reply_key(ask, self.spec, self.writer.identity)
                answer = Answer(ask, written, key, self.writer.identity)
                problem = verdicts.FAILED if written.failure else ""
                if not problem:
                    try:
                        texts[each.name].append(self._read(each, written, texts[each.name]))
                    except BadDraft as error:
                        problem = error.problem
                answers = (*each.answers, answer)
                whole[each.name] = each._replace(answers=answers, problem=problem)
        return [self._whole(each, texts[each.name]) for each in whole.values()]

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

    def _ask(self, candidate: Candidate, texts: Sequence[str], number: int) -> Ask:
        profile, messages = self.spec.profile, candidate.messages
        key = f"{candidate.name}/answer" + (f"-{number + 1}" if number else "")
        quoted: tuple[str, ...] = ()
        if candidate.ask.role == ASSISTANT:
            shown = candidate.ask.examples or [
                (chat[0]["content"], chat[1]["content"]) for chat in self.examples
            ]
            opening = lists.message(profile, messages[-1]["content"], shown)
            request = Request(f"{candidate.name}/message", opening=opening)
            quoted = tuple(text for pair in shown for text in pair)
        elif self.writer.chats:
            prompt = drafts.answer_prompt(profile, messages, texts)
            request = Request(key, prompt=prompt)
        else:
            opening = drafts.answer_opening(profile, messages, self.examples, texts)
            request = Request(key, opening=opening)
            quoted = tuple(m["content"] for chat in self.examples for m in chat)
        return candidate.ask._replace(request=request, quoted=quoted, explanation="")

    def key(self, ask: Ask) -> str:
        """Names who answers and how answers are asked for; `ask` is any of the plan."""
        candidate = Candidate(ask, [{"role": "user", "content": "?"}], {}, "", NOTHING)
        return digest(self.writer.identity, self._ask(candidate, (), 0).prompt_hash)


def answering(
    spec: WriteSpec, writer: Writer, answerer: Writer | None, runs: Runs, measure: str
) -> Answering | None:
    """Who completes the samples of the profile, with chats of the measured dataset to learn the
    form from for a writer that knows none; None where samples have no later parts, or nobody is to
    write them."""
    parts = later_parts(spec.profile)
    if not parts or spec.answers == "none":
        return None
    room = replace(spec, max_new_tokens=max(spec.max_new_tokens, ANSWER_ROOM))
    dataset = runs.manifest(measure).facts.dataset
    return Answering(answerer or writer, room, parts, example_chats(runs, dataset))


def example_chats(runs: Runs, dataset: str, n: int = drafts.ANSWER_EXAMPLES) -> list[Chat]:
    """The first chats of a dataset run that have an answer, at most n."""
    chats = (
        chat
        for batch in runs.batches(dataset, "samples", rows=256)
        for chat in batch.column("messages").to_pylist()
        if [message["role"] for message in chat][:2] == ["user", ASSISTANT]
    )
    return [*islice(chats, n)]
