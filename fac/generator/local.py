"""Text out of a local causal language model: batched, seeded continuations of prompts.

Owns: sampling, left padding, stopping at the end of a turn.
Does not own: what to ask, what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fac.errors import InputError
from fac.models import pretrained


class LocalGenerator:
    """A Hugging Face model on this machine that continues rendered prompts.

    Raises InputError when the model cannot be loaded.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu", dtype: str = "bfloat16"):
        self.tokenizer, self.model = pretrained(folder, dtype=dtype, padding_side="left")
        self.model.to(device).eval()
        self.device = device
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = {self.tokenizer.eos_token_id, *ends} - {None}  # Llama 3 has three
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def render(self, messages: Sequence[dict[str, str]], *, reply: bool = True) -> str:
        """The chat as the model reads it, up to where its next turn begins.

        Raises InputError for a model without a chat template.
        """
        if not self.tokenizer.chat_template:
            raise InputError(
                "This model has no chat template, so it cannot write chats; choose a chat model."
            )
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply
        )

    def continuations(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 50,
    ) -> list[tuple[str, bool]]:
        """One (text, finished) per prompt; finished is False where the token limit cut it.

        The same prompts, seed and machine give the same texts. Prompts of one call run as one
        batch, so callers keep them few and of similar length. Sampling looks at the `top_k`
        likeliest tokens only; temperature 0 takes the likeliest.
        """
        import torch
        from transformers import DynamicCache

        if not prompts:
            return []
        same = len(set(prompts)) == 1
        encoded = self.tokenizer(
            list(prompts[:1] if same else prompts),
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(self.device)
        mask = encoded["attention_mask"]
        random = torch.Generator(self.device).manual_seed(seed)
        texts: list[list[int]] = [[] for _ in prompts]
        finished = [False] * len(prompts)
        with torch.inference_mode():
            cache = DynamicCache()
            place = mask.cumsum(1).sub(1).clamp(min=0)
            logits = self._step(encoded["input_ids"], mask, place, cache)
            if same:  # a prompt that all share is read once
                cache.batch_repeat_interleave(len(prompts))
                mask, logits = (x.repeat(len(prompts), 1) for x in (mask, logits))
            place = mask.sum(1, keepdim=True)
            rows = torch.arange(len(prompts), device=self.device)
            for _ in range(max_new_tokens):
                token = self._sample(logits, temperature, top_k, random)
                for row, chosen in zip(rows.tolist(), token.squeeze(1).tolist(), strict=True):
                    if chosen in self._ends:
                        finished[row] = True
                    elif not finished[row]:
                        texts[row].append(chosen)
                going = torch.tensor([not finished[row] for row in rows.tolist()])
                if not going.any():
                    break
                if going.float().mean() < 0.85:  # dropping rows copies the cache, so not each time
                    kept = going.nonzero().squeeze(1).to(self.device)
                    cache.batch_select_indices(kept)
                    rows, token, mask, place = (x[kept] for x in (rows, token, mask, place))
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                logits = self._step(token, mask, place, cache)
                place = place + 1
        decoded = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in texts)
        return list(zip(decoded, finished, strict=True))

    def _step(self, ids: Any, mask: Any, place: Any, cache: Any) -> Any:
        """Logits of the next token, `[batch, vocabulary]`; extends the cache."""
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @staticmethod
    def _sample(logits: Any, temperature: float, top_k: int, random: Any) -> Any:
        """One token per row, `[batch, 1]`.

        Drawing among the top_k only, instead of masking the vocabulary, saves a third of the time.
        """
        import torch

        if temperature <= 0:
            return logits.argmax(-1, keepdim=True)
        best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        weights = torch.softmax(best.values.float() / temperature, dim=-1)
        return best.indices.gather(1, torch.multinomial(weights, 1, generator=random))
