"""Text out of a local causal language model: batched, seeded, steered continuations of prompts.

Owns: sampling, left padding, steering, stopping at the end of a turn or a line.
Does not own: what to ask, what is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac.errors import InputError
from fac.generator.edges import END_MARK, Edges
from fac.models import apply_template, decoder_blocks, pretrained, shared_tokens, tensor_device

if TYPE_CHECKING:
    import torch

    Draw = Callable[[torch.Tensor, list[int], int], torch.Tensor]
    """(weights `[rows, k]`, which rows these are, new tokens so far) -> a choice of k each."""


class Steer(NamedTuple):
    """A push along one direction while a text is written."""

    direction: np.ndarray  # float32 `[d_model]`: what is added, in units of the residual stream
    layer: int  # added to what `hidden_states[layer]` holds, the stream after that many blocks
    tokens: int = 0  # acts on the first so many new tokens; 0 is all of them
    decay: float = 1.0  # factor from one new token to the next

    def weight(self, number: int) -> float:
        """Of the push on the new token of this number, counted from 0."""
        return self.decay**number if not self.tokens or number < self.tokens else 0.0


class Bias(NamedTuple):
    """Words that a text is led to, or away from."""

    words: tuple[str, ...]
    nats: float
    """Added to the logit of what says them, until one of them is said. Below zero it is added as
    long as the text is written, to words that are one token each."""


class PromptRow(NamedTuple):
    """One text to be written."""

    prompt: str  # what it goes on from, as the tokenizer reads it
    seed: int = 0  # of its own stream of random numbers, 64 bits
    line: bool = False  # whether it ends with its line
    steer: Steer | None = None
    """Acts on new tokens only, from the first one that is read on: the prompt, and with it the
    choice of the first new token, is left alone."""

    without: tuple[str, ...] = ()
    """Phrases of several words that the text must not hold. Where it says all of one but the last
    word, as written here or with a first letter in the other case, no token follows with which that
    word begins; only a word in another tokenization may slip through."""

    edges: Edges = Edges()
    biases: tuple[Bias, ...] = ()
    afresh: bool = False
    """Whether, within its first AFRESH tokens, it says no PHRASE tokens again, and no longer word
    and no shorter phrase straight after itself, and seldom a longer word again: small models go
    round in circles there. Longer texts may come back to what they said."""


class Continuation(NamedTuple):
    """One text as it was written."""

    text: str
    finished: bool  # False where the token limit cut it
    tokens: int  # generated, without the end
    prompt_tokens: int


class LocalGenerator:
    """A Hugging Face model on this machine that continues rendered prompts.

    Raises InputError when the model cannot be loaded.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "bfloat16",
        revision: str | None = None,
    ):
        tokenizer, model = pretrained(folder, dtype=dtype, device=device, revision=revision)
        self._write_with(tokenizer, model, tensor_device(device))

    @classmethod
    def of(cls, tokenizer: Any, model: Any, device: str) -> LocalGenerator:
        """Around a model that is there already, on `device`, and is left as it is; it writes with
        the weights that the model has at that time, adapters included."""
        generator, tokenizer = cls.__new__(cls), copy.deepcopy(tokenizer)
        generator._write_with(tokenizer, model, device)
        return generator

    def _write_with(self, tokenizer: Any, model: Any, device: str) -> None:
        self.tokenizer, self.model, self.device = tokenizer, model, device
        self.tokenizer.padding_side = "left"
        self.chats = bool(self.tokenizer.chat_template)
        """Whether it has a chat template; a base model only goes on with texts."""
        bos, text = self.tokenizer.bos_token or "", self.tokenizer("a").input_ids
        self.begin = bos if text[0] == self.tokenizer.bos_token_id else ""
        """What a text that is no chat begins with, as the tokenizer has it: Gemma reads nothing
        well without it. A chat template brings its own."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = {self.tokenizer.eos_token_id, *ends} - {None}  # Llama 3 has three
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._breaks: dict[int, bool] = {}
        """Tokens seen so far, and whether each holds a line break."""
        self._edge_tokens: _EdgeTokens | None = None  # once a text keeps to edges
        self._begins: dict[int, bool] = {}
        """Tokens written so far, and whether each begins a longer word."""
        self._marks: list[int] | None = None  # tokens that end a sentence, once one is to end
        self._phrases: dict[str, list[tuple[tuple[int, ...], int]]] = {}
        """Phrases met so far, as `_banned` has them."""
        self._spellings: dict[str, list[_Spelling]] = {}  # of the words of biases met so far

    def render(self, messages: Sequence[dict[str, str]], *, reply: bool = True) -> str:
        """The chat as the model reads it, up to where its next turn begins.

        Raises InputError for a model without a chat template.
        """
        if not self.chats:
            raise InputError(
                "This model has no chat template, so it cannot write chats; choose a chat model."
            )
        return apply_template(self.tokenizer, messages, add_generation_prompt=reply)

    def count(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt."""
        if not prompts:
            return []
        return [
            len(ids) for ids in self.tokenizer(list(prompts), add_special_tokens=False).input_ids
        ]

    def continuations(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 50,
    ) -> list[tuple[str, bool]]:
        """One (text, finished) per prompt, all drawn from one stream of random numbers.

        The same prompts, seed and machine give the same texts. Prompts of one call run as one
        batch, so callers keep them few and of similar length. Sampling looks at the `top_k`
        likeliest tokens only; temperature 0 takes the likeliest.
        """
        import torch

        stream = torch.Generator(self.device).manual_seed(seed)

        def draw(weights: torch.Tensor, _rows: list[int], _number: int) -> torch.Tensor:
            return torch.multinomial(weights, 1, generator=stream)

        rows = [PromptRow(prompt) for prompt in prompts]
        written = self._run(rows, draw, max_new_tokens, temperature, top_k, lambda: None)
        return [(text, finished) for text, finished, *_ in written]

    def write(
        self,
        rows: Sequence[PromptRow],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 50,
        beat: Callable[[], object] = lambda: None,
    ) -> list[Continuation]:
        """One continuation per row, each drawn from its row's own stream, as one batch.

        Every new token of a row takes one number that depends on the row's seed and the token's
        place alone. So batch mates can change a text only through rounding: a matrix product over
        other shapes may differ in the last bits of its logits, which now and then moves a draw
        that falls between two tokens, or a tie. The same rows on the same machine give exactly
        the same texts.

        `beat` is called after each token. Raises InputError where a row is steered at a layer or
        in a width that the model does not have.
        """
        import torch

        seeds = np.array([row.seed % 2**64 for row in rows], np.uint64)

        def draw(weights: torch.Tensor, chosen: list[int], number: int) -> torch.Tensor:
            steps = weights.double().cumsum(-1)
            drawn = torch.from_numpy(uniforms(seeds[chosen], number)).to(steps.device)
            index = torch.searchsorted(steps, drawn[:, None] * steps[:, -1:], right=True)
            return index.clamp(max=steps.shape[-1] - 1)

        return self._run(rows, draw, max_new_tokens, temperature, top_k, beat)

    def _run(
        self,
        texts: Sequence[PromptRow],
        draw: Draw,
        max_new_tokens: int,
        temperature: float,
        top_k: int,
        beat: Callable[[], object],
    ) -> list[Continuation]:
        import torch
        from transformers import DynamicCache

        if not texts:
            return []
        unique = list(dict.fromkeys(row.prompt for row in texts))
        prompts = self.tokenizer(unique, add_special_tokens=False).input_ids
        lengths = [len(ids) for ids in prompts]
        which = [unique.index(row.prompt) for row in texts]
        new_tokens: list[list[int]] = [[] for _ in texts]
        finished = [False] * len(texts)
        with torch.inference_mode(), self._steering([row.steer for row in texts]) as pushes:
            cache = DynamicCache()
            mask, logits = self._read(prompts, cache)
            if len(unique) < len(texts):  # a prompt that several share is read once
                repeated = torch.tensor(which, device=self.device)
                cache.batch_select_indices(repeated)
                mask, logits = mask[repeated], logits[repeated]
            position = mask.sum(1, keepdim=True)
            rows = list(range(len(texts)))
            bans = [self._bans(row.without) for row in texts]
            pulls = [[_Pull(bias.nats, self._spelt(bias)) for bias in row.biases] for row in texts]
            for number in range(max_new_tokens):
                for index, row in enumerate(rows):
                    for pull in pulls[row]:
                        if led := pull.tokens(new_tokens[row], self._ends_a_word):
                            logits[index, led] += pull.nats
                    forbidden = _forbidden(new_tokens[row], bans[row])
                    if texts[row].afresh and number < AFRESH:
                        forbidden += self._again(new_tokens[row])
                        if words := self._begin_words(new_tokens[row]):
                            logits[index, words] -= SAID
                    if texts[row].edges.mark and number >= max_new_tokens - ROUND_OFF:
                        nats = NEARER * (number - max_new_tokens + ROUND_OFF + 1)
                        logits[index, self._end_marks()] += nats
                    if forbidden:
                        logits[index, forbidden] = -torch.inf
                self._keep_edges(logits, [(texts[row].edges, new_tokens[row]) for row in rows])
                token = self._sample(logits, temperature, top_k, draw, rows, number)
                for row, drawn in zip(rows, token.squeeze(1).tolist(), strict=True):
                    if finished[row]:
                        continue
                    if drawn in self._ends:
                        finished[row] = True
                    else:
                        new_tokens[row].append(drawn)
                        finished[row] = texts[row].line and self._breaks_line(drawn)
                beat()
                going = torch.tensor([not finished[row] for row in rows])
                if not going.any() or number == max_new_tokens - 1:
                    break
                if going.float().mean() < 0.85:  # dropping rows copies the cache, so not each time
                    going_rows = going.nonzero().squeeze(1).to(self.device)
                    cache.batch_select_indices(going_rows)
                    token, mask, position = (x[going_rows] for x in (token, mask, position))
                    rows = [rows[index] for index in going_rows.tolist()]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                pushes.prepare(rows, number)
                logits = self._step(token, mask, position, cache)
                position = position + 1
        return [
            Continuation(self._decoded(prompts[at][-1], ids, row.line), done, len(ids), lengths[at])
            for ids, row, done, at in zip(new_tokens, texts, finished, which, strict=True)
        ]

    def _read(self, prompts: list[list[int]], cache: Any) -> tuple[Any, Any]:
        """Attention mask `[batch, length]` and logits of the next token after each prompt; fills
        the cache. What all prompts begin with is read once."""
        import torch

        same = shared_tokens([np.asarray(ids) for ids in prompts]) if len(prompts) > 1 else 0
        same = same if same >= SHARED_LEAST else 0
        rest = self.tokenizer.pad(
            {"input_ids": [ids[same:] for ids in prompts]}, return_tensors="pt"
        ).to(self.device)
        mask = rest["attention_mask"]
        if same:
            head = torch.tensor([prompts[0][:same]], device=self.device)
            whole = torch.ones_like(head)
            self._step(head, whole, whole.cumsum(1) - 1, cache)
            cache.batch_repeat_interleave(len(prompts))
            mask = torch.cat([whole.expand(len(prompts), -1), mask], 1)
        position = mask.cumsum(1).sub(1).clamp(min=0)[:, same:]
        return mask, self._step(rest["input_ids"], mask, position, cache)

    def _bans(self, phrases: Sequence[str]) -> _Bans:
        bans: _Bans = {}
        for phrase in phrases:
            for ids, token in self._banned(phrase):
                bans.setdefault(len(ids), {}).setdefault(ids, set()).add(token)
        return bans

    def _banned(self, phrase: str) -> list[tuple[tuple[int, ...], int]]:
        """Of a phrase: tokens that say all but its last word, and what must not follow them."""
        if phrase not in self._phrases:
            begun, _, last = phrase.rpartition(" ")
            spellings = {f"{case(begun[:1])}{begun[1:]}" for case in (str.lower, str.upper)}
            heads = [f"{space}{text}" for text in sorted(spellings) for space in (" ", "")]
            ids = self.tokenizer([*heads, f" {last}"], add_special_tokens=False).input_ids
            self._phrases[phrase] = [(tuple(head), ids[-1][0]) for head in ids[:-1]]
        return self._phrases[phrase]

    def _spelt(self, bias: Bias) -> list[_Spelling]:
        """How the words of a bias may be said."""
        for words in bias.words:
            if words not in self._spellings:
                cases = sorted({f"{case(words[:1])}{words[1:]}" for case in (str, str.upper)})
                texts = [(space, f"{space}{text}") for text in cases for space in (" ", "")]
                ids = self.tokenizer([text for _, text in texts], add_special_tokens=False)
                self._spellings[words] = [
                    _Spelling(tuple(each), not space)
                    for each, (space, _) in zip(ids.input_ids, texts, strict=True)
                ]
        return [each for words in bias.words for each in self._spellings[words]]

    def _ends_a_word(self, token: int) -> bool:
        """Whether something glued to this token would not lengthen a word."""
        return not self.tokenizer.decode([token], skip_special_tokens=True)[-1:].isalnum()

    def _again(self, written: Sequence[int]) -> list[int]:
        """What would say a phrase of a text again, or its last word or words straight after them:
        "brain injury brain injury"."""
        n = PHRASE - 1
        tail = tuple(written[-n:])
        after = {
            written[at + n] for at in range(len(written) - n) if tuple(written[at : at + n]) == tail
        }
        if written and len(word := self.tokenizer.decode(written[-1:]).strip()) >= LONG_WORD:
            after |= {written[-1]} if word.isalpha() else set()
        for size in range(2, PHRASE):
            phrase, before = written[-size:], written[1 - 2 * size : -size]
            if len(before) == size - 1 and before == phrase[1:]:
                letters = sum(map(str.isalpha, self.tokenizer.decode(phrase)))
                after |= {phrase[0]} if letters > LONG_WORD else set()
        return sorted(after)

    def _begin_words(self, written: Sequence[int]) -> list[int]:
        """Those of the tokens that begin a longer word."""
        for token in {*written} - self._begins.keys():
            piece = self.tokenizer.decode([token], skip_special_tokens=True)
            self._begins[token] = piece[:1].isspace() and len(piece.strip()) >= LONG_WORD
        return sorted(token for token in {*written} if self._begins[token])

    def _end_marks(self) -> list[int]:
        """Tokens that end a sentence and say nothing else."""
        if self._marks is None:
            ids = [[token] for token in range(len(self.tokenizer))]
            pieces = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            self._marks = [n for n, piece in enumerate(pieces) if piece in (".", "?", "!")]
        return self._marks

    def _keep_edges(self, logits: Any, rows: Sequence[tuple[Edges, list[int]]]) -> None:
        """Rules out in the logits `[rows, vocabulary]` what no text with these edges says next."""
        import torch

        if not any(any(edges) for edges, _ in rows):
            return
        if self._edge_tokens is None:
            self._edge_tokens = _EdgeTokens.of(self.tokenizer, self._ends, self.device)
        pieces, small, closing, breaking = self._edge_tokens
        begins, goes_on, marked = [], [], []
        for index, (edges, tokens) in enumerate(rows):
            if edges.capital and not any(pieces[token].strip() for token in tokens):
                begins.append(index)
            if edges.mark:
                marked.append(index)
                tail = "".join(pieces[token] for token in tokens[-TAIL:])
                if not END_MARK.search(tail.rstrip()):
                    goes_on.append(index)
        for indices, ruled_out in ((begins, small), (goes_on, closing), (marked, breaking)):
            if indices:
                logits[torch.tensor(indices, device=self.device)[:, None], ruled_out] = -torch.inf

    def _breaks_line(self, token: int) -> bool:
        if token not in self._breaks:
            self._breaks[token] = "\n" in self.tokenizer.decode([token], skip_special_tokens=True)
        return self._breaks[token]

    def _decoded(self, last: int, ids: list[int], line: bool) -> str:
        """What the new tokens add to a prompt that ends with the token `last`.

        Decoded alone they may lose their first space, as SentencePiece has it.
        """
        before, text = (
            self.tokenizer.decode(tokens, skip_special_tokens=True)
            for tokens in ([last], [last, *ids])
        )
        if text.startswith(before):
            text = text[len(before) :]
        else:  # the prompt ends inside a character
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.partition("\n")[0] if line else text

    @contextmanager
    def _steering(self, steers: Sequence[Steer | None]) -> Iterator[_Pushes]:
        """Pushes that act on forward passes inside, once they are prepared."""
        blocks = decoder_blocks(self.model)
        for steer in steers:
            if steer is not None and not 1 <= steer.layer <= len(blocks):
                raise InputError(
                    f"Layer {steer.layer} cannot be steered: the model has {len(blocks)} blocks."
                )
        width = int(self.model.config.get_text_config().hidden_size)
        if wrong := [len(s.direction) for s in steers if s and s.direction.shape != (width,)]:
            raise InputError(
                f"The direction to steer along has {wrong[0]} values, but the model's residual "
                f"stream has {width}: it belongs to another model."
            )
        pushes = _Pushes(steers, self.device)
        handles = [
            blocks[layer - 1].register_forward_hook(pushes.hook(layer)) for layer in pushes.layers
        ]
        try:
            yield pushes
        finally:
            for handle in handles:
                handle.remove()

    def _step(self, ids: Any, mask: Any, position: Any, cache: Any) -> Any:
        """Logits of the next token, `[batch, vocabulary]`; extends the cache."""
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @staticmethod
    def _sample(
        logits: Any, temperature: float, top_k: int, draw: Draw, rows: list[int], number: int
    ) -> Any:
        """One token per row, `[batch, 1]`."""
        import torch

        if temperature <= 0:
            return logits.argmax(-1, keepdim=True)
        # Among the top_k only: to mask the vocabulary takes half as long again.
        best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        weights = torch.softmax(best.values.float() / temperature, dim=-1)
        return best.indices.gather(1, draw(weights, rows, number))


class _Pushes:
    """What is added to each row of the batch in the next forward pass, by layer."""

    def __init__(self, steers: Sequence[Steer | None], device: str):
        self.steers = steers
        self.layers = sorted({steer.layer for steer in steers if steer is not None})
        self._width = next((len(steer.direction) for steer in steers if steer), 0)
        self._device = device
        self._now: dict[int, torch.Tensor] = {}

    def prepare(self, rows: Sequence[int], number: int) -> None:
        """For the new tokens at this number, of these rows."""
        import torch

        self._now = {}
        for layer in self.layers:
            pushed = np.zeros((len(rows), 1, self._width), np.float32)
            for index, row in enumerate(rows):
                steer = self.steers[row]
                if steer is not None and steer.layer == layer:
                    pushed[index, 0] = steer.weight(number) * steer.direction
            if pushed.any():
                self._now[layer] = torch.from_numpy(pushed).to(self._device)

    def hook(self, layer: int) -> Callable[..., Any]:
        """Adds what is prepared for this layer; the prompt comes before anything is."""

        def push(_module: Any, _inputs: Any, output: Any) -> Any:
            if layer not in self._now:
                return output
            states = output[0] if isinstance(output, tuple) else output
            states = states + self._now[layer].to(states.dtype)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return push


class _EdgeTokens(NamedTuple):
    """Tokens that say how a text begins or ends; each kind int64 `[n]`."""

    pieces: list[str]  # what every token says
    small: Any  # begin with a small letter
    closing: Any  # end the text, or break the line before anything else
    breaking: Any  # break the line in mid-sentence, after something of their own

    @classmethod
    def of(cls, tokenizer: Any, ends: Iterable[int], device: str) -> _EdgeTokens:
        import torch

        ids = [[token] for token in range(len(tokenizer))]
        pieces = tokenizer.batch_decode(ids, skip_special_tokens=True)
        small, closing, breaking = [], [*ends], []
        for token, piece in enumerate(pieces):
            before, broken, _ = piece.partition("\n")
            if piece.strip()[:1].islower():
                small.append(token)
            if broken and not before.strip():
                closing.append(token)
            elif broken and not END_MARK.search(before.rstrip()):
                breaking.append(token)
        kinds = (torch.tensor(kind, device=device).long() for kind in (small, closing, breaking))
        return cls(pieces, *kinds)


AFRESH, PHRASE, LONG_WORD = 40, 5, 4  # tokens, tokens, letters

SAID = 2.0  # nats by which a word is less likely there once its text has said it

ROUND_OFF, NEARER = 12, 0.4
"""The last so many tokens of its room are those in which a text that is to end with a mark ends,
each with so many nats more for one: what is cut in mid-sentence is of no use."""

TAIL = 8  # tokens at the end of a text that hold its end mark and what may follow it

_Bans = dict[int, dict[tuple[int, ...], set[int]]]
"""By how many tokens they are: tokens, and those that must not follow them."""


def _forbidden(tokens: Sequence[int], bans: _Bans) -> list[int]:
    """What must not follow these tokens."""
    after: set[int] = set()
    for length, follows in bans.items():
        after |= follows.get(tuple(tokens[-length:]), set())
    return sorted(after)


class _Spelling(NamedTuple):
    """Some words as tokens."""

    tokens: tuple[int, ...]
    glued: bool  # without a space before them


BEGINNINGS = 2  # times words are begun without being said before nothing leads to them any more


class _Pull:
    """The bias of one text while it is written."""

    def __init__(self, nats: float, spellings: Sequence[_Spelling]):
        self.nats = nats
        self._spellings = [each for each in spellings if each.tokens]
        self._begun = 0
        alone = (each.tokens for each in self._spellings if len(each.tokens) == 1)
        self._always = sorted({token for (token,) in alone}) if nats < 0 else []

    def tokens(self, written: Sequence[int], ends_a_word: Callable[[int], bool]) -> list[int]:
        """What begins the words after these tokens, or goes on with them where they are begun; once
        they are said, nothing any more."""
        if self.nats < 0:
            return self._always
        if any(tuple(written[-len(each.tokens) :]) == each.tokens for each in self._spellings):
            self._spellings = []
        going_on = {
            tokens[n]
            for tokens, _ in self._spellings
            for n in range(1, len(tokens))
            if tuple(written[-n:]) == tokens[:n]
        }
        if going_on:
            self._begun += any(written[-1] == tokens[0] for tokens, _ in self._spellings)
            return sorted(going_on)
        if self._begun >= BEGINNINGS:
            return []
        apart = not written or ends_a_word(written[-1])
        return sorted({tokens[0] for tokens, glued in self._spellings if apart or not glued})


SHARED_LEAST = 32  # tokens that prompts must share for their beginning to be read apart

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniforms(seeds: np.ndarray, number: int) -> np.ndarray:
    """float64 in [0, 1), one for each uint64 seed, all by themselves: the one of this `number` of
    SplitMix64 (Steele, Lea and Flood 2014), which needs no state."""
    mixed = seeds + np.uint64((number + 1) * GOLDEN % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(SECOND)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
