"""A causal language model whose residual stream can be read: the truncated forward pass, and which
texts run through it together."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fac.errors import InputError, first_line
from fac.models import threads
from fac.models.chats import ROLES, SCAFFOLD, Chat, ChatRenderer, Rendered
from fac.schema import END, MEAN

if TYPE_CHECKING:
    import torch


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning them to the kernel.

    Every forward pass allocates and frees tens of megabytes; by default glibc maps each such block
    anew and the page faults cost a third of the time on two cores. Does nothing elsewhere.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_top_pad, 64 * 2**20)


def pick_device() -> str:
    """`cuda` where there is one, else `cpu`; FAC_DEVICE overrides at the composition root."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""In the place of a device: transformers' ways to spread a model over all that a machine has."""

QUANTISED = ("8bit", "4bit")
"""In the place of a data type: matrices are held in so many bits, by bitsandbytes."""


MARK, CLOSING = re.compile(r"\s*[.!?…。！？]+[\"'”’)\]*]*\s*"), 3
"""An end mark with what closes a quote or a bracket, and tokens in which they stand at most."""


def tensor_device(device: str) -> str:
    """Where what is computed beside a model lies: its device, or the one that is picked where it
    is spread."""
    return pick_device() if device in SPREAD else device


def pretrained(
    folder: str | Path,
    *,
    dtype: str,
    device: str = "cpu",
    revision: str | None = None,
) -> tuple[Any, Any]:
    """Tokenizer and causal language model of a local folder or a hub id, on a device or SPREAD, its
    weights in a data type of torch or QUANTISED.

    Raises InputError when there is none that transformers can read with its own code, when weights
    are missing, and when a library that it needs is.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # this project draws its own

    words = pretrained_tokenizer(folder, revision=revision)
    if dtype in QUANTISED:
        options = {"dtype": torch.float32, "quantization_config": _bits(dtype)}
    else:
        options = {"dtype": getattr(torch, dtype)}
    config = pretrained_config(folder, revision=revision)
    quantised = dtype in QUANTISED or hasattr(config, "quantization_config")
    if device in SPREAD or quantised:  # the latter cannot be moved once they are loaded
        options["device_map"] = device if device in SPREAD else {"": device}
    with _loading(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            revision=revision,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    model, loading = loaded
    if lacking := sorted(loading["missing_keys"]):  # which would be made up at random
        named = ", ".join(lacking[:3]) + (", ..." if lacking[3:] else "")
        raise InputError(
            f"The model {str(folder)!r} lacks {len(lacking)} of its weights ({named}); give a "
            f"complete local folder or a hub id that this machine can reach."
        )
    if "device_map" not in options:
        model.to(device)
    return words, model.eval()


def _bits(dtype: str) -> Any:
    """What makes transformers hold matrices in 8 or 4 bits as it loads them."""
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"Weights in {dtype} need bitsandbytes, which is not installed: "
            f"pip install bitsandbytes, or hold them in float32 or bfloat16."
        )
    return BitsAndBytesConfig(**{f"load_in_{dtype}": True}, bnb_4bit_quant_type="nf4")


def pretrained_tokenizer(folder: str | Path, *, revision: str | None = None, **options: Any) -> Any:
    """The tokenizer alone. Raises InputError as `pretrained` does."""
    from transformers import AutoTokenizer

    with _loading(folder):
        return AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=False, **options
        )


def pretrained_config(folder: str | Path, *, revision: str | None = None) -> Any:
    """The configuration alone. Raises InputError as `pretrained` does."""
    from transformers import AutoConfig

    with _loading(folder):
        return AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)


@contextmanager
def _loading(folder: str | Path) -> Iterator[None]:
    """One sentence for whatever transformers says of a model that it cannot load."""
    try:
        yield
    except ImportError as error:  # of a tokenizer, or of weights that are quantised
        raise InputError(
            f"The model {str(folder)!r} needs a library that is not installed here "
            f"({first_line(error).rstrip('.')}); install it, or give another model."
        ) from error
    except Exception as error:  # a damaged file raises anything, a tokenizer's even bare Exceptions
        if "trust_remote_code" in str(error):
            raise InputError(
                f"The model {str(folder)!r} comes with code of its own, which is never run here; "
                f"give a model of an architecture that transformers {_installed()} knows."
            ) from error
        raise InputError(
            f"The model {str(folder)!r} cannot be loaded ({first_line(error)}); give a complete "
            f"local folder or a hub id that this machine can reach."
        ) from error


def _installed() -> str:
    from transformers import __version__

    return __version__


CPU_BATCH, GPU_BATCH = 512, 16_384
"""On a CPU what a block computes for a batch should stay in its caches: four times as many tokens
are a tenth slower each. An accelerator wants enough to keep it busy."""


class _StopForward(Exception):
    """Raised by the hook at the wanted layer, so that later blocks never run."""


class SubjectModel:
    """A causal language model read at the residual stream after its first `layer` blocks.

    `layer` counts blocks that have run, as Hugging Face's `hidden_states[layer]` and the paper's
    "layer 16" do; sae-lens calls the same tensor `blocks.{layer-1}.hook_resid_post`, and layer 0,
    what the first block reads, `blocks.0.hook_resid_pre`. (After the last block Hugging Face's list
    holds the normed stream; here it is not normed.)

    Raises InputError for a model that cannot be loaded or a layer it does not have.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        layer: int,
        device: str = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
        max_tokens: int = 1024,
    ):
        if tensor_device(device) == "cpu":
            keep_freed_memory()
        self.tokenizer, self.model = pretrained(
            folder, dtype=dtype, device=device, revision=revision
        )
        self.device = tensor_device(device)
        self.dtype = dtype
        self.layer = layer
        blocks = decoder_blocks(self.model)
        if not 0 <= layer <= len(blocks):
            raise InputError(
                f"Layer {layer} does not exist: {folder} has {len(blocks)} blocks; "
                f"give 0 to {len(blocks)}."
            )
        self.n_blocks = len(blocks)
        config = self.model.config.get_text_config()
        self.d_model = int(config.hidden_size)
        limit = getattr(config, "max_position_embeddings", None) or max_tokens
        self.renderer = ChatRenderer(self.tokenizer, min(max_tokens, limit))
        self.batch_tokens = CPU_BATCH if self.device == "cpu" else GPU_BATCH
        """Tokens, padding included, that are best run together on this device."""
        self._block = blocks[max(layer, 1) - 1]
        self.final_norm = _final_norm(self.model, blocks)
        """The norm between the last block and the unembedding; None where there is none."""
        self._head: tuple[np.ndarray, Any, torch.Tensor] | None = None
        """The last shared beginning: its tokens, keys and values, and residual stream."""

    def at(self, layer: int) -> SubjectModel:
        """The same weights, read after another number of blocks that the model has."""
        other = copy.copy(self)
        other.layer, other._block = layer, decoder_blocks(self.model)[max(layer, 1) - 1]
        other._head = None
        return other

    def residual(self, ids: Sequence[np.ndarray], shared: int = 0) -> torch.Tensor:
        """Residual stream of a batch, right-padded: `[batch, longest, d_model]` on the device.

        The first `shared` tokens, the same in all rows and fewer than the shortest has, are run
        once, and the later ones read their keys and values. What stands at the padding means
        nothing.
        """
        import torch
        from transformers import DynamicCache

        if not (shared and self.layer):  # before the first block there are no keys and values
            return self._until_layer(ids)
        head = np.asarray(ids[0][:shared])
        if self._head is None or not np.array_equal(self._head[0], head):
            cache = DynamicCache(config=self.model.config)
            states = self._until_layer([head], cache)
            if cache.get_seq_length() != shared:
                raise InputError(
                    f"{type(self.model).__name__} keeps no keys and values of what it has read; "
                    f"only transformers with attention can be read."
                )
            self._head = head, cache, states
        _, cache, before = self._head
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(ids))
        after = self._until_layer([row[shared:] for row in ids], cache)
        return torch.cat([before.expand(len(ids), -1, -1), after], 1)

    def content_batches(
        self, chats: Sequence[Chat], *, max_padded: int
    ) -> Iterator[tuple[list[int], list[Rendered], torch.Tensor, torch.Tensor]]:
        """The texts that have content tokens, in batches of similar length: which of them, as they
        are read, their residual stream, and bool `[batch, longest]`, its content tokens."""
        import torch

        rendered = [r for r in self.renderer.render(chats) if (r.role != SCAFFOLD).any()]
        for rows in batches_by_length([len(r.ids) for r in rendered], max_padded=max_padded):
            batch = [rendered[i] for i in rows]
            states = self.residual([r.ids for r in batch])
            content = np.zeros(states.shape[:2], bool)
            for row, text in zip(content, batch, strict=True):
                row[: len(text.role)] = text.role != SCAFFOLD
            yield rows, batch, states, torch.from_numpy(content).to(self.device)

    def mean_states(
        self, chats: Sequence[Chat], progress: Callable[[int, int], None]
    ) -> np.ndarray:
        """The residual stream after `layer` blocks, averaged over the content tokens of each text:
        float32 `[n, d_model]`, 0 for a text that has none."""
        means = np.zeros((len(chats), self.d_model), np.float32)
        rendered = self.renderer.render(chats)
        lengths = [len(r.ids) for r in rendered]
        seen = 0
        for rows in batches_by_length(lengths, max_padded=self.batch_tokens):
            states = self.residual([rendered[row].ids for row in rows])
            for row, values in zip(rows, states, strict=True):
                content = np.flatnonzero(rendered[row].role != SCAFFOLD)
                if len(content):
                    means[row] = values[content].float().mean(0).cpu().numpy()
            seen += len(rows)
            progress(seen, len(chats))
        return means

    def forward_from(self, ids: Sequence[np.ndarray], states: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, longest, vocabulary]` when the later blocks read `states` instead."""

        def replace(_module: Any, _inputs: Any, output: Any) -> Any:
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return self._run(ids, replace).logits

    def likelihood(self, chats: Sequence[Chat], *, max_tokens: int = 256) -> np.ndarray:
        """How odd the model finds the texts, the first `max_tokens` tokens of a chat: float64
        `[n, 2, n_roles]`. MEAN: mean nats of each role's content tokens given all before them, NaN
        where a role has none. END: nats of an end mark, whichever, where each role's last one
        stands, NaN where its last text ends without one or after the limit. All blocks run, and
        nothing reads the residual stream."""
        import torch

        nats = np.full((len(chats), 2, len(ROLES)), np.nan)
        rendered = self.renderer.render(chats)
        lengths = [min(len(text.ids), max_tokens) for text in rendered]
        for rows in batches_by_length(lengths, max_padded=self.batch_tokens):
            logits = self._run([rendered[i].ids[:max_tokens] for i in rows], _ignore).logits
            for row, i in enumerate(rows):
                ids = torch.from_numpy(rendered[i].ids[1 : lengths[i]].astype(np.int64))
                predicted = logits[row, : len(ids)].float()
                losses = torch.nn.functional.cross_entropy(
                    predicted, ids.to(self.device), reduction="none"
                ).cpu()
                for code in range(len(ROLES)):
                    content = np.flatnonzero(rendered[i].role[1 : lengths[i]] == code)
                    if not len(content):
                        continue
                    nats[i, MEAN, code] = losses[torch.from_numpy(content)].double().mean().item()
                    whole = code not in rendered[i].role[lengths[i] :]
                    at = self._last_mark(ids[content[-CLOSING:]].tolist()) if whole else None
                    if at is not None:
                        chances = predicted[content[-CLOSING:][at]].log_softmax(-1)
                        nats[i, END, code] = -chances[self._end_marks].logsumexp(-1).item()
        return nats

    def _last_mark(self, ids: Sequence[int]) -> int | None:
        """Where in these tokens the last end mark stands, with nothing behind it but what closes a
        quote or bracket; None where there is no such one."""
        for at in reversed(range(len(ids))):
            if MARK.fullmatch(self.renderer.tokenizer.decode(ids[at:])):
                return at
        return None

    @cached_property
    def _end_marks(self) -> torch.Tensor:
        """Tokens that end a sentence, int64."""
        import torch

        words = self.renderer.tokenizer
        pieces = words.batch_decode([[token] for token in range(len(words))])
        ends = [token for token, piece in enumerate(pieces) if MARK.fullmatch(piece)]
        return torch.tensor(ends, device=self.device)

    def _until_layer(self, ids: Sequence[np.ndarray], cache: Any = None) -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def stop(_module: Any, _inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)
            raise _StopForward

        self._run(ids, stop, cache)
        if not kept:
            raise InputError(
                f"{type(self.model).__name__} does not run the blocks it names when it reads text; "
                f"only causal transformers with a residual stream can be read."
            )
        return kept[0].to(self.device)  # where the block of a spread model may not lie

    def _run(self, ids: Sequence[np.ndarray], hook: Callable[..., Any], cache: Any = None) -> Any:
        """Forward a right-padded batch with `hook` on the residual stream; None if it stopped.

        No mask: padding comes after the tokens, where attention that looks back only never sees
        it, and without one attention takes its fast way.
        """
        import torch

        if self.device == "cpu":
            threads.adapt()
        longest = max(len(row) for row in ids)
        padded = np.zeros((len(ids), longest), np.int64)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = row
        tokens = torch.from_numpy(padded)
        if self.device != "cpu":
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        try:
            with self.hooked(hook), torch.inference_mode():
                return self.model(
                    input_ids=tokens, past_key_values=cache, use_cache=cache is not None
                )
        except _StopForward:
            return None

    @contextmanager
    def hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        """While inside, `hook(module, inputs, output)` is called with the residual stream, alone or
        as the first of a tuple, and may return another in its place."""
        if self.layer:
            handle = self._block.register_forward_hook(hook)
        else:
            handle = self._block.register_forward_pre_hook(
                lambda module, inputs: hook(module, inputs, inputs)
            )
        try:
            yield
        finally:
            handle.remove()


def _ignore(_module: Any, _inputs: Any, _output: Any) -> None:
    """A hook that leaves the forward pass alone."""


def decoder_blocks(model: Any) -> Any:
    """The decoder blocks: the outermost ModuleList whose length is the configured depth, of the
    part that reads text where a model has several.

    Raises InputError where there is none, or several and none of them is known to read text.
    """
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    for part in (model.get_decoder(), model):
        lists = [
            module
            for module in part.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == depth
        ]
        within = {*lists[0].modules()} if lists else set()  # as many experts as blocks, say
        if lists and (part is not model or within.issuperset(lists)):
            return lists[0]
    several = f"several lists of {depth} blocks, of which none says that it reads text"
    raise InputError(
        f"{type(model).__name__} has {several if lists else f'no list of {depth} decoder blocks'}; "
        f"only causal transformers with a residual stream can be read."
    )


def _final_norm(model: Any, blocks: Any) -> Any:
    """The first norm that lies beside the blocks and after them, whatever the family calls it."""
    for parent in model.modules():
        children = iter(parent.children())
        if any(child is blocks for child in children):  # the rest come after the blocks
            return next((c for c in children if "norm" in type(c).__name__.lower()), None)
    return None


WORTHWHILE = 16  # tokens that rows must share for their beginning to be run apart

TOGETHER = 8  # rows that must share it: fewer would leave both them and the rest in small batches

DEEPEST = 64  # times WORTHWHILE tokens, up to where groups are told apart by their beginnings


def by_beginning(ids: Sequence[np.ndarray]) -> list[tuple[int, list[int]]]:
    """Groups of rows, and how many tokens all rows of a group begin with.

    Each row is in one group and has at least one token beyond what it shares. A group has TOGETHER
    rows that share WORTHWHILE tokens, or it is the one of the rows left over, which share 0. Chats
    without a system prompt, for one, all begin with the template's.
    """
    groups: list[tuple[int, list[int]]] = []

    def split(rows: Sequence[int], depth: int) -> list[int]:
        """Takes groups out of rows that share `depth` times WORTHWHILE tokens; returns the rest."""
        left: list[int] = []
        deeper: dict[bytes, list[int]] = defaultdict(list)
        first, last = depth * WORTHWHILE, (depth + 1) * WORTHWHILE
        for row in rows:
            goes_on = len(ids[row]) > last and depth < DEEPEST
            (deeper[ids[row][first:last].tobytes()] if goes_on else left).append(row)
        for rows_alike in deeper.values():
            left += split(rows_alike, depth + 1) if len(rows_alike) >= TOGETHER else rows_alike
        if depth and len(left) >= TOGETHER:
            groups.append((shared_tokens([ids[row] for row in left]), sorted(left)))
            return []
        return left

    if rest := split(range(len(ids)), 0):
        groups.append((0, sorted(rest)))
    return groups


def shared_tokens(ids: Sequence[np.ndarray]) -> int:
    """Tokens that all rows begin with, leaving each at least one."""
    longest = min(map(len, ids)) - 1
    heads = np.stack([row[:longest] for row in ids])
    differ = np.flatnonzero((heads != heads[0]).any(0))
    return int(differ[0]) if len(differ) else longest


def batches_by_length(
    lengths: Sequence[int], *, max_padded: int = 4096, max_rows: int = 64
) -> Iterator[list[int]]:
    """Row indices grouped so that a batch pads little and never exceeds `max_padded` tokens.

    Deterministic: shortest first, ties by row, so a restarted run sees the same batches.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) >= max_rows or lengths[row] * (len(batch) + 1) > max_padded):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
