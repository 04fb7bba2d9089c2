"""Contrastive activation addition (Rimsky et al. 2024): what a model holds at one answer more than
at another, and which answer it prefers once that is added to its residual stream.

torch is imported where it works, as only the worker has it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fac.errors import InputError
from fac.models import Rendered
from fac.schema import Chat

if TYPE_CHECKING:
    from fac.models import SubjectModel


class Choice(NamedTuple):
    """A question that lists answers by letters, two of which are set against each other."""

    chat: Chat
    """It ends with the user's message that lists the answers."""

    matching: str  # letter of the answer that shows a behaviour, "A"
    other: str


class Steering(Protocol):
    """What only who holds a model can give."""

    def differences(self, choices: Sequence[Choice]) -> np.ndarray:
        """Of each question the residual stream, after as many blocks as the SAE reads, at the
        letter of the matching answer less that at the letter of the other: float32
        `[n, d_model]`."""

    def log_odds(self, choices: Sequence[Choice], pushes: np.ndarray) -> np.ndarray:
        """How much likelier than the other the matching answer is, in nats, with each of `pushes`
        `[k, d_model]` added to the same stream: float32 `[n, k]`."""


class _Answers(NamedTuple):
    """A question with either answer, as the model reads it; the two are alike before `letter`."""

    ids: np.ndarray  # int32 `[letter]`, up to the letter
    matching: int  # token of the letter
    other: int
    steered: int
    """The first token that is pushed, below `letter`."""

    def tokens(self) -> list[np.ndarray]:
        """With the letter of the matching answer, and with the other's."""
        return [np.append(self.ids, token) for token in (self.matching, self.other)]


class Steerer:
    """A model of this process whose residual stream is pushed; a `Steering`.

    What stands before what is pushed is run once a question; its keys and values, which no push
    changes, stay as long as this object (45 KB a token of the demo model). One question is run at a
    time, beside itself under other pushes, so that nothing is ever padded.
    """

    def __init__(self, subject: Callable[[], SubjectModel], note: Callable[[str], None]):
        """`subject` loads the model, or gives the one that is there; `note` hears after every
        question how far it is; what it raises ends the reading."""
        self._subject, self._note = subject, note
        self._read: dict[bytes, Any] = {}
        """Keys and values of what was run, by its tokens."""

    def differences(self, choices: Sequence[Choice]) -> np.ndarray:
        """Raises InputError as `_answers` does."""
        subject = self._subject()
        apart = np.zeros((len(choices), subject.d_model), np.float32)
        for number, answers in enumerate(_answers(subject, choices)):
            at = len(answers.ids)
            states = subject.residual(answers.tokens(), at)[:, at].float().cpu().numpy()
            apart[number] = states[0] - states[1]
            self._note(f"{number + 1:,} of {len(choices):,} answers read")
        return apart

    def log_odds(self, choices: Sequence[Choice], pushes: np.ndarray) -> np.ndarray:
        """Pushed are the last token before the answer and those of the answer before its letter,
        which are the tokens that a model writing the answer would read after the prompt; where
        Rimsky et al. add their vectors, from the last token of [/INST] on. Raises InputError as
        `_answers` does."""
        subject = self._subject()
        odds = np.zeros((len(choices), len(pushes)), np.float32)
        for number, answers in enumerate(_answers(subject, choices)):
            width = len(answers.ids) - answers.steered
            rows = max(1, subject.batch_tokens // width)
            for first in range(0, len(pushes), rows):
                part = slice(first, first + rows)
                odds[number, part] = self._pushed(subject, answers, pushes[part])
            self._note(f"{number + 1:,} of {len(choices):,} questions answered")
        return odds

    def _pushed(self, subject: SubjectModel, answers: _Answers, pushes: np.ndarray) -> np.ndarray:
        """The log-odds of one question under each push, `[k]`."""
        import torch

        push = torch.from_numpy(np.ascontiguousarray(pushes, np.float32))[:, None]
        push = push.to(subject.device)

        def add(_module: Any, _inputs: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states = states + push.to(states.dtype)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        with torch.inference_mode():
            cache = copy.deepcopy(self._prompt(subject, answers.ids[: answers.steered]))
            cache.batch_repeat_interleave(len(pushes))
            tail = _batch(subject, answers.ids[answers.steered :]).expand(len(pushes), -1)
            with subject.hooked(add):
                logits = _run(subject, tail, cache)
        apart = logits[:, answers.matching].float() - logits[:, answers.other].float()
        values: np.ndarray = apart.cpu().numpy()
        return values

    def _prompt(self, subject: SubjectModel, ids: np.ndarray) -> Any:
        """Keys and values of tokens that nothing is added to."""
        from transformers import DynamicCache

        key = ids.tobytes()
        if key not in self._read:
            cache = DynamicCache(config=subject.model.config)
            _run(subject, _batch(subject, ids), cache)
            self._read[key] = cache
        return self._read[key]


def _batch(subject: SubjectModel, ids: np.ndarray) -> Any:
    """Tokens as a batch of one on the device."""
    import torch

    return torch.from_numpy(ids.astype(np.int64))[None].to(subject.device)


def _run(subject: SubjectModel, ids: Any, cache: Any) -> Any:
    """Logits after the last token, `[batch, vocabulary]`; extends the cache."""
    return subject.model(
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]


def _answers(subject: SubjectModel, choices: Sequence[Choice]) -> list[_Answers]:
    """Raises InputError for a question that is longer than the model reads, and for a tokenizer
    that has no token of its own for a letter."""
    letters = [letter for choice in choices for letter in (choice.matching, choice.other)]
    chats = [
        [*choice.chat, {"role": "assistant", "content": f"({letter})"}]
        for choice in choices
        for letter in (choice.matching, choice.other)
    ]
    texts = subject.renderer.render(chats)
    places = [
        _place(text, len(chat) - 1, letter)
        for text, chat, letter in zip(texts, chats, letters, strict=True)
    ]
    answers = []
    for number in range(0, len(texts), 2):
        matching, other = texts[number : number + 2]
        (first, at), same = places[number], places[number + 1]
        alike = same == (first, at) and (matching.ids[:at] == other.ids[:at]).all()
        if not alike or matching.ids[at] == other.ids[at]:
            raise InputError(
                f"The tokenizer of this model does not read ({letters[number]}) and "
                f"({letters[number + 1]}) alike but for one token, so that the two cannot be "
                "compared: use another model."
            )
        tokens = int(matching.ids[at]), int(other.ids[at])
        answers.append(_Answers(matching.ids[:at], *tokens, first - 1))
    return answers


def _place(text: Rendered, turn: int, letter: str) -> tuple[int, int]:
    """Token indices of where the answer, the message `turn`, begins and of its letter."""
    if text.cut:
        raise InputError(
            f"A question is {text.cut:,} tokens longer than what is read of a text, so that its "
            "answer would be cut off: leave it out, or measure with a larger --max-tokens."
        )
    answer = np.flatnonzero(text.turn == turn)
    for at in answer:
        if letter in text.text[text.starts[at] : text.ends[at]]:
            return int(answer[0]), int(at)
    raise InputError(
        f"The chat template or the tokenizer of this model loses the letter of ({letter}): use "
        "another model."
    )
