"""LoRA on chats: what a fresh adapter that learned from some of them makes of others.

Each adapter starts from the model as it was and is taken out again, so that no arm knows of
another. torch and peft are imported where they work, as only the worker has them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac.errors import InputError
from fac.generator.local import LocalGenerator, PromptRow
from fac.models import ROLES, SCAFFOLD, Chat, Rendered, batches_by_length

if TYPE_CHECKING:
    from fac.models import SubjectModel

RANK, ALPHA = 8, 16
"""Of every adapter, on all linear layers but the last, without dropout (the paper's, for following
instructions)."""

CLIP = 1.0
"""The norm that a step's gradient is cut down to."""

_ASSISTANT = ROLES.index("assistant")


class Recipe(NamedTuple):
    """How an adapter learns: AdamW without weight decay, its rate falling to 0 in a line."""

    rate: float
    seed: int = 0  # of the adapter's beginning and of the order of batches
    epochs: int = 1
    batch_tokens: int = 512  # padding included


class Losses(NamedTuple):
    """How odd a model finds the tokens that count, of one chat after another."""

    chat: np.ndarray
    """int32 `[n_tokens]`: which chat, ascending."""

    position: np.ndarray
    """int32 `[n_tokens]`: token index in the rendered chat, ascending within each."""

    nats: np.ndarray
    """float32 `[n_tokens]`: minus the log of what the model gave the token."""


Finetune = Callable[[Sequence[Chat], Sequence[Chat], Recipe], Losses]
"""Losses on the second chats of a model that learned from the first; of the model as it is where
there are none to learn from."""


Classify = Callable[[Sequence[Chat], np.ndarray, Sequence[Chat], Recipe], np.ndarray]
"""P(positive) of the judged chats, float32 `[n_judged]`, by a model and a head on it that have
learned from others and their labels, bool `[n_learned]`."""


class Answer(NamedTuple):
    """What a model says to a prompt."""

    text: str
    finished: bool  # False where the limit of tokens cut it


Answers = Callable[[Sequence[Chat], Sequence[Chat], Recipe, int], list[Answer]]
"""To each of the second chats, which end before the assistant's turn, what a model that learned
from the first finds likeliest token by token, so many tokens at most; the model as it is where
there are none to learn from."""

ANSWER_TOKENS = 8192
"""Of prompts and answers that are written at once, padding included: what is kept of them takes
45 KB a token of the demo model, and to read the weights once for many tokens is what makes writing
fast."""


def counts(rendered: Rendered) -> np.ndarray:
    """Which tokens are learned and judged, bool `[n_tokens]`: those of the assistant, or the whole
    content of a text in which nobody answers. The first token cannot be predicted."""
    answers = rendered.role == _ASSISTANT
    tokens: np.ndarray = answers if answers.any() else rendered.role != SCAFFOLD
    tokens[:1] = False
    return tokens


class Finetuner:
    """A model of this process that learns by LoRA; a `Finetune`, whose `answers` is an `Answers`.

    On one machine with as many threads the same chats give the same losses and the same answers.
    """

    def __init__(self, subject: SubjectModel, note: Callable[[str], None] = lambda _: None):
        """`note` hears after every step how far it is; what it raises ends the learning."""
        self._subject, self._note = subject, note

    def __call__(self, learned: Sequence[Chat], judged: Sequence[Chat], recipe: Recipe) -> Losses:
        with self._learned(learned, recipe) as model:
            return self._losses(model, judged)

    def answers(
        self, learned: Sequence[Chat], prompts: Sequence[Chat], recipe: Recipe, tokens: int
    ) -> list[Answer]:
        """Raises InputError for a prompt that is longer than the model reads."""
        openings = self._openings(prompts)
        with self._learned(learned, recipe):
            return self._answered(openings, tokens)

    @contextmanager
    def _learned(self, chats: Sequence[Chat], recipe: Recipe) -> Iterator[Any]:
        """The model with an adapter that learned from the chats, as long as this lasts; the model
        as it is where there are none."""
        import torch

        if not chats:
            yield self._subject.model
            return
        with self._adapter(recipe.seed) as adapted:
            texts = self._subject.renderer.render(chats)
            texts = [text for text in texts if counts(text).any()]

            def loss(rows: Sequence[int]) -> Any:
                return torch.cat(self._nats(adapted, [texts[row] for row in rows])).mean()

            self._learn(adapted, loss, [len(text.ids) for text in texts], recipe)
            yield adapted

    def classify(
        self, learned: Sequence[Chat], positive: np.ndarray, judged: Sequence[Chat], recipe: Recipe
    ) -> np.ndarray:
        """A `Classify`: a linear head on the last block's states, averaged over content tokens,
        begins at 0 and learns with the adapter, both from binary cross-entropy."""
        import torch

        texts, labels = self._subject.renderer.render(learned), positive.astype(np.float32)
        target = torch.from_numpy(labels).to(self._subject.device)
        with self._adapter(recipe.seed) as adapted:
            head = torch.zeros(self._subject.d_model, device=target.device, requires_grad=True)
            bias = torch.zeros((), device=target.device, requires_grad=True)

            def logits(chats: Sequence[Rendered]) -> Any:
                return self._pooled(adapted, chats) @ head + bias

            def loss(rows: Sequence[int]) -> Any:
                sure = logits([texts[row] for row in rows])
                return torch.nn.functional.binary_cross_entropy_with_logits(sure, target[[*rows]])

            self._learn(adapted, loss, [len(text.ids) for text in texts], recipe, [head, bias])
            tests, chance = self._subject.renderer.render(judged), np.zeros(len(judged), np.float32)
            with torch.no_grad():
                for rows in self._batches(tests):
                    sure = logits([tests[row] for row in rows])
                    chance[rows] = sure.sigmoid().cpu().numpy()
                    self._note("judging")
        return chance

    @contextmanager
    def _adapter(self, seed: int) -> Iterator[Any]:
        """The model with a fresh adapter, which is taken out again at the end."""
        import torch
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it asks for what transformers renamed
            torch.manual_seed(seed)
            adapted = get_peft_model(self._subject.model, config)
        try:
            yield adapted
        finally:
            adapted.unload()
            self._subject.model.eval()

    def _batches(self, texts: Sequence[Rendered]) -> Iterator[list[int]]:
        """Rows that the model reads at once."""
        lengths = [len(text.ids) for text in texts]
        return batches_by_length(lengths, max_padded=self._subject.batch_tokens)

    def _learn(
        self,
        model: Any,
        loss: Callable[[Sequence[int]], Any],
        lengths: Sequence[int],
        recipe: Recipe,
        more: Sequence[Any] = (),
    ) -> None:
        """The adapter, and `more` weights beside it, from the mean loss of rows of such lengths."""
        import torch

        batches = [*batches_by_length(lengths, max_padded=recipe.batch_tokens)]
        rng = np.random.default_rng(recipe.seed)
        steps = [
            batches[i] for _ in range(recipe.epochs) for i in rng.permutation(len(batches)).tolist()
        ]
        weights = [*(weight for weight in model.parameters() if weight.requires_grad), *more]
        optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(steps))
        model.train()
        total, done, begun = recipe.epochs * sum(lengths), 0, time.monotonic()
        for rows in steps:
            loss(rows).backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            done += sum(lengths[row] for row in rows)
            speed = done / max(time.monotonic() - begun, 1e-3)
            self._note(f"{done:,} of {total:,} tokens, {speed:,.0f} tokens/s")
        model.eval()

    def _losses(self, model: Any, chats: Sequence[Chat]) -> Losses:
        import torch

        rendered = self._subject.renderer.render(chats)
        position = [np.flatnonzero(counts(text)) for text in rendered]
        nats = [np.zeros(0, np.float32) for _ in rendered]
        with torch.no_grad():
            for rows in self._batches(rendered):
                batch = self._nats(model, [rendered[row] for row in rows])
                for row, values in zip(rows, batch, strict=True):
                    nats[row] = values.cpu().numpy().astype(np.float32)
                self._note("judging")
        chat = np.repeat(np.arange(len(chats)), [len(each) for each in position])
        return Losses(
            chat.astype(np.int32),
            np.concatenate([*position, np.zeros(0, int)]).astype(np.int32),
            np.concatenate([*nats, np.zeros(0, np.float32)]),
        )

    def _openings(self, prompts: Sequence[Chat]) -> list[str]:
        """Each prompt as it is learned from, up to where the answer begins."""
        chats = [[*prompt, {"role": "assistant", "content": "A"}] for prompt in prompts]
        openings = []
        for prompt, text in zip(prompts, self._subject.renderer.render(chats), strict=True):
            answer = np.flatnonzero(text.role == _ASSISTANT)
            if not len(answer):
                raise InputError(
                    f"The prompt that begins with {prompt[-1]['content'][:40]!r} is longer than "
                    f"the {len(text.ids):,} tokens that are read: leave it out."
                )
            openings.append(text.text[: text.starts[answer[0]]])
        return openings

    def _answered(self, openings: Sequence[str], tokens: int) -> list[Answer]:
        """The adapter lives in the model's own layers, so that whoever writes with it has it."""
        subject = self._subject
        generator = LocalGenerator.of(subject.tokenizer, subject.model, subject.device)
        if not generator.chats:
            openings = [f"{generator.begin}{opening}" for opening in openings]
        lengths = [length + tokens for length in generator.count(openings)]
        answers = [Answer("", False)] * len(openings)
        done = 0
        for rows in batches_by_length(lengths, max_padded=ANSWER_TOKENS):
            note = f"{done:,} of {len(openings):,} prompts answered"
            written = generator.write(
                [PromptRow(openings[row]) for row in rows],
                max_new_tokens=tokens,
                temperature=0,
                beat=partial(self._note, note),
            )
            for row, text in zip(rows, written, strict=True):
                answers[row] = Answer(text.text, text.finished)
            done += len(rows)
        return answers

    def _nats(self, model: Any, texts: Sequence[Rendered]) -> list[Any]:
        """Of the tokens of each text that count, float32 on the device.

        No mask: padding comes after the tokens, where attention that looks back only never sees it.
        """
        import torch

        ids, target = _padded(texts, counts)
        tokens = torch.from_numpy(ids).to(self._subject.device)
        counted = torch.from_numpy(target[:, 1:]).to(self._subject.device)
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        nats = torch.nn.functional.cross_entropy(
            logits[counted].float(), tokens[:, 1:][counted], reduction="none"
        )
        return list(nats.split(target.sum(1).tolist()))

    def _pooled(self, model: Any, texts: Sequence[Rendered]) -> Any:
        """The states after the last block and its norm, averaged over the content tokens of each
        text: float32 `[n, d_model]` on the device."""
        import torch

        ids, content = _padded(texts, lambda text: text.role != SCAFFOLD)
        tokens, weight = (
            torch.from_numpy(each).to(self._subject.device) for each in (ids, content)
        )
        network = model.get_base_model()
        blocks = getattr(network, network.base_model_prefix)
        states = blocks(input_ids=tokens, use_cache=False).last_hidden_state.float()
        weight = weight[..., None].float()
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def _padded(
    texts: Sequence[Rendered], which: Callable[[Rendered], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, int64 `[n, longest]`, and which of them count, bool; padding comes last."""
    longest = max(len(text.ids) for text in texts)
    ids, target = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), bool)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = text.ids
        target[row, : len(text.ids)] = which(text)
    return ids, target
