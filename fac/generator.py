"""Text out of a local causal language model: batched, seeded continuations of prompts.

Owns: sampling, left padding, stopping at the end of a turn.
Does not own: what to ask, what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fac.errors import InputError


class LocalGenerator:
    """A Hugging Face model on this machine that continues rendered prompts.

    Raises InputError when the model cannot be loaded.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu", dtype: str = "bfloat16"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise InputError(
                f"The model {str(folder)!r} cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        self.model.to(device).eval()
        self.device = device
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
        batch, so callers keep them few and of similar length.
        """
        import torch

        encoded = self.tokenizer(
            list(prompts), return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.device)
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling |= {"temperature": temperature, "top_k": top_k}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            out = self.model.generate(
                **encoded,
                **sampling,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        stop = self.tokenizer.eos_token_id
        texts = []
        for row in out[:, encoded["input_ids"].shape[1] :].tolist():
            finished = stop in row
            ids = row[: row.index(stop)] if finished else row
            texts.append((self.tokenizer.decode(ids, skip_special_tokens=True), finished))
        return texts
