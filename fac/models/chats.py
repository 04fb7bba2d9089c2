"""Chats as a model reads them, and which token belongs to whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from fac.errors import InputError, first_line
from fac.models.tracing import Stretch, tags_of, trace

Chat = Sequence[dict[str, str]]

SCAFFOLD = -1
ROLES = ("system", "user", "assistant")
_PLACEHOLDER = "\u2983{}\u2984"

TODAY = datetime(2024, 7, 26)
"""What a chat template is told when it asks for the date, so that a sample reads alike on every
day: the one that Llama 3 falls back on itself."""


def apply_template(tokenizer: Any, chat: Chat, **options: Any) -> str:
    """The chat as the tokenizer's template writes it, on TODAY.

    Raises what the template raises: jinja's TemplateError, TypeError or ValueError mostly.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    # A function among the options would reach the template as a mere name: transformers lets plain
    # data through alone. So the compiled template, which it keeps, gets the clock itself.
    compiled = _compile_jinja_template(tokenizer.get_chat_template())
    compiled.globals["strftime_now"] = TODAY.strftime
    options = {"date_string": f"{TODAY:%d %b %Y}", **options}
    text: str = tokenizer.apply_chat_template(list(chat), tokenize=False, **options)
    return text


class Rendered(NamedTuple):
    """One chat as the model reads it. All arrays have one entry per token."""

    ids: np.ndarray  # int32 token ids
    role: np.ndarray
    """int8 index into ROLES of the message a content token belongs to; SCAFFOLD elsewhere."""

    turn: np.ndarray  # int16 index of that message; SCAFFOLD elsewhere
    starts: np.ndarray  # int32 first character of the token in `text`
    ends: np.ndarray  # int32 one past its last character
    text: str  # the rendered chat
    cut: int  # tokens beyond the limit that were left out

    def pieces(self, first: int, last: int) -> list[str]:
        """The tokens [first, last) as text; characters split over tokens go to the first."""
        pieces, reached = [], int(self.starts[first]) if last > first else 0
        for start, end in zip(self.starts[first:last], self.ends[first:last], strict=True):
            pieces.append(self.text[max(int(start), reached) : int(end)])
            reached = max(reached, int(end))
        return pieces


class Checked(NamedTuple):
    """What a chat template makes of one chat."""

    refusal: str  # why the chat cannot be read, as the beginning of a sentence; "" where it can
    shortened: bool  # whether it leaves out or rewrites a part, as thoughts of earlier turns


class _Composed(NamedTuple):
    text: str
    stretches: list[Stretch]  # of the text, that are content
    shortened: bool


class ChatRenderer:
    """Chats -> token ids with the owner of every token, for any tokenizer with offsets.

    What the template adds (role markers, a default system prompt, end-of-turn tokens) is found by
    rendering the same roles around placeholders, never from constants (paper appendix D, t0).
    Where a template takes contents apart, as those that cut or move thoughts do, every word is
    traced instead, see `trace`: what remains of a message is its role's. A tokenizer without a
    chat template gets the contents alone, separated by a blank line. A chat without messages has
    no tokens.

    Raises InputError for a tokenizer without offsets.
    """

    def __init__(self, tokenizer: Any, max_tokens: int):
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        if not tokenizer.is_fast:
            raise InputError(
                f"{type(tokenizer).__name__} does not say which characters a token stands for; "
                f"use a model with a tokenizer.json."
            )
        # A tokenizer also knows special tokens that it has no name for.
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        self._special = np.array(sorted(special), dtype=np.int64)
        self._frames: dict[tuple[str, ...], list[str]] = {}

    def frame(self, roles: tuple[str, ...]) -> list[str]:
        """The text before, between and after the contents of messages with these roles."""
        if roles not in self._frames:
            marks = [_PLACEHOLDER.format(i) for i in range(len(roles))]
            chat = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
            text, pieces = self._apply(chat), []
            for mark in marks:
                before, separator, text = text.partition(mark)
                if not separator:
                    named = ", ".join(roles)
                    raise InputError(f"The chat template drops a message of a chat of {named}")
                pieces.append(before)
            self._frames[roles] = [*pieces, text]
        return self._frames[roles]

    def _apply(self, chat: Chat) -> str:
        if not self.tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in chat)
        from jinja2 import TemplateError

        try:
            return apply_template(self.tokenizer, chat)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            named = ", ".join(message["role"] for message in chat)
            why = first_line(error).rstrip(".")
            raise InputError(f"The chat template refuses a chat of {named} ({why})") from error

    def check(self, chats: Sequence[Chat]) -> Iterator[Checked]:
        """Which chats can be read, without making tokens of them."""
        for chat in chats:
            try:
                yield Checked("", self._compose(chat).shortened)
            except InputError as error:
                yield Checked(str(error), False)

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """One Rendered per chat, at most `max_tokens` tokens each.

        Raises InputError for a chat that `check` refuses: the template refuses its roles, drops a
        message, or rewrites contents so that their tokens cannot be told.
        """
        if not chats:
            return []
        try:
            composed = [self._compose(chat) for chat in chats]
        except InputError as error:
            raise InputError(f"{error}: correct this chat or leave it out.") from error
        texts = [each.text for each in composed]
        add_special = not self.tokenizer.chat_template
        batch = self.tokenizer(texts, add_special_tokens=add_special, return_offsets_mapping=True)
        return [
            self._owned(each, chat, np.asarray(ids, np.int32), np.asarray(offsets, np.int32))
            if chat
            else _NOTHING
            for each, chat, ids, offsets in zip(
                composed, chats, batch["input_ids"], batch["offset_mapping"], strict=True
            )
        ]

    def _compose(self, chat: Chat) -> _Composed:
        """The rendered text and where in it each message's content lies."""
        if not chat:
            return _Composed("", [], False)
        text = self._apply(chat)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise InputError(
                f"A text holds half a character ({half!r}, a lone surrogate)"
            ) from error
        stretches = self._framed(chat, text)
        if stretches is not None:
            return _Composed(text, stretches, False)
        contents = [message["content"] for message in chat]

        def apply(marked: Sequence[str]) -> str:
            return self._apply([{**m, "content": c} for m, c in zip(chat, marked, strict=True)])

        traced = trace(contents, text, apply, tags_of(self.tokenizer.get_chat_template()))
        return _Composed(text, traced.stretches, traced.shortened)

    def _framed(self, chat: Chat, text: str) -> list[Stretch] | None:
        """Where the contents lie between the template's own words; None where it changes them.

        Templates may trim contents, and not all roles alike (Llama 2 trims the user's turn only at
        the end when a system prompt stands in front of it).
        """
        first, *afters = self.frame(tuple(message["role"] for message in chat))
        if not text.startswith(first):
            return None
        reached, stretches = len(first), []
        for i, (message, after) in enumerate(zip(chat, afters, strict=True)):
            original = message["content"]
            for content in (original, original.strip(), original.rstrip(), original.lstrip()):
                if text.startswith(content + after, reached):
                    stretches.append(Stretch(reached, reached + len(content), i))
                    reached += len(content) + len(after)
                    break
            else:
                return None
        return stretches if reached == len(text) else None

    def _owned(
        self, composed: _Composed, chat: Chat, ids: np.ndarray, offsets: np.ndarray
    ) -> Rendered:
        turn = np.full(len(ids), SCAFFOLD, np.int16)
        role = np.full(len(ids), SCAFFOLD, np.int8)
        starts, ends = offsets.reshape(-1, 2).T
        # Some tokenizers (GPT-NeoX) leave white space out of the offsets, up to whole tokens of
        # it: a token begins where the text before it ended.
        reached = np.maximum.accumulate(np.append(0, ends))[:-1]
        starts = np.minimum(starts, reached)
        for start, end, i in composed.stretches:
            # A token is content when its last character is: "[INST] word" style tokenizers put
            # the scaffold's space in front of the first word's token.
            owned = (ends > start) & (ends <= end) & (ends > starts)
            turn[owned] = i
            role[owned] = ROLES.index(chat[i]["role"])
        special = np.isin(ids, self._special)
        role[special] = turn[special] = SCAFFOLD
        keep = min(len(ids), self.max_tokens)
        return Rendered(
            ids=ids[:keep],
            role=role[:keep],
            turn=turn[:keep],
            starts=starts[:keep].astype(np.int32),
            ends=ends[:keep],
            text=composed.text,
            cut=len(ids) - keep,
        )


_NOTHING = Rendered(
    ids=np.zeros(0, np.int32),
    role=np.zeros(0, np.int8),
    turn=np.zeros(0, np.int16),
    starts=np.zeros(0, np.int32),
    ends=np.zeros(0, np.int32),
    text="",
    cut=0,
)
"""Of a chat without messages; a tokenizer that has special tokens of its own gives it some."""
