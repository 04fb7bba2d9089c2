"""Chats as a model reads them, and which token belongs to whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.errors import InputError

Chat = Sequence[dict[str, str]]

SCAFFOLD = -1
ROLES = ("system", "user", "assistant")
_PLACEHOLDER = "\u2983{}\u2984"


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


class ChatRenderer:
    """Chats -> token ids with the owner of every token, for any tokenizer with offsets.

    What the template adds (role markers, a default system prompt, end-of-turn tokens) is found by
    rendering the same roles around placeholders, never from constants (paper appendix D, t0).
    A tokenizer without a chat template gets the contents alone, separated by a blank line.

    Raises InputError when a template rewrites contents so that their tokens cannot be told, and for
    a tokenizer without offsets.
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
                    raise InputError(
                        f"The chat template drops a message of role {roles!r}; use another "
                        f"--role layout or a model whose template accepts it."
                    )
                pieces.append(before)
            self._frames[roles] = [*pieces, text]
        return self._frames[roles]

    def _apply(self, chat: Chat) -> str:
        if not self.tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in chat)
        from jinja2 import TemplateError

        try:
            # Some templates (Llama 3) write today's date unless told one: the same sample would
            # be read differently tomorrow. This is the date they fall back on themselves.
            return self.tokenizer.apply_chat_template(
                list(chat), tokenize=False, date_string="26 Jul 2024"
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InputError(
                f"The chat template refuses the roles {[m['role'] for m in chat]}: {error}"
            ) from error

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """One Rendered per chat, at most `max_tokens` tokens each."""
        if not chats:
            return []
        texts, borders = [], []
        for chat in chats:
            text, edges = self._compose(chat)
            texts.append(text)
            borders.append(edges)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"A text holds half a character ({error.object[error.start]!r}, a lone surrogate); "
                f"replace it or leave the sample out."
            ) from error
        add_special = not self.tokenizer.chat_template
        batch = self.tokenizer(texts, add_special_tokens=add_special, return_offsets_mapping=True)
        return [
            self._owned(text, edges, chat, np.asarray(ids, np.int32), np.asarray(offsets, np.int32))
            for text, edges, chat, ids, offsets in zip(
                texts, borders, chats, batch["input_ids"], batch["offset_mapping"], strict=True
            )
        ]

    def _compose(self, chat: Chat) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text and where in it each message's content lies.

        Templates may trim contents, and not all roles alike (Llama 2 trims the user's turn only at
        the end when a system prompt stands in front of it).
        """
        text = self._apply(chat)
        first, *afters = self.frame(tuple(message["role"] for message in chat))
        reached, edges = len(first), []
        fits = text.startswith(first)
        for message, after in zip(chat, afters, strict=True):
            original = message["content"]
            for content in (original, original.strip(), original.rstrip(), original.lstrip()):
                if text.startswith(content + after, reached):
                    edges.append((reached, reached + len(content)))
                    reached += len(content) + len(after)
                    break
            else:
                fits = False
        if not fits or reached != len(text):
            raise InputError(
                "The chat template rewrites message contents, so tokens cannot be told apart by "
                "role; give the samples as plain text instead."
            )
        return text, edges

    def _owned(
        self,
        text: str,
        edges: list[tuple[int, int]],
        chat: Chat,
        ids: np.ndarray,
        offsets: np.ndarray,
    ) -> Rendered:
        turn = np.full(len(ids), SCAFFOLD, np.int16)
        role = np.full(len(ids), SCAFFOLD, np.int8)
        starts, ends = offsets.reshape(-1, 2).T
        # Some tokenizers (GPT-NeoX) leave white space out of the offsets, up to whole tokens of
        # it: a token begins where the text before it ended.
        reached = np.maximum.accumulate(np.append(0, ends))[:-1]
        starts = np.minimum(starts, reached)
        for i, ((start, end), message) in enumerate(zip(edges, chat, strict=True)):
            # A token is content when its last character is: "[INST] word" style tokenizers put
            # the scaffold's space in front of the first word's token.
            owned = (ends > start) & (ends <= end) & (ends > starts)
            turn[owned] = i
            role[owned] = ROLES.index(message["role"])
        special = np.isin(ids, self._special)
        role[special] = turn[special] = SCAFFOLD
        keep = min(len(ids), self.max_tokens)
        return Rendered(
            ids=ids[:keep],
            role=role[:keep],
            turn=turn[:keep],
            starts=starts[:keep].astype(np.int32),
            ends=ends[:keep],
            text=text,
            cut=len(ids) - keep,
        )
