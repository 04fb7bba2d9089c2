"""What an SAE says of itself, held against the model, layer and stream it is asked to read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fac.errors import InputError, first_line
from fac.models import Located, pretrained_config
from fac.saes import Sae


class LayerFit(NamedTuple):
    """How well an SAE describes the residual stream of one layer."""

    layer: int
    fvu: float
    l0: float


class Finding(NamedTuple):
    """One line of a preflight."""

    check: str
    ok: bool | None  # None where the SAE's metadata is silent, or nothing can be told
    says: str  # what is so and, where something is wrong, what to do
    layers: tuple[LayerFit, ...] = ()  # where layers were compared, in their order


class ModelCard(NamedTuple):
    """What is known of a model before its weights are read."""

    name: str  # what it is called: of a hub snapshot its id, else the folder, file or id
    certain: bool  # whether that name says which weights these are; a folder's may be anybody's
    origin: str  # what its config says the weights began as; "" where it is silent
    kind: str  # `model_type` of its config
    d_model: int
    n_blocks: int


def card_of(located: Located) -> ModelCard:
    """The card of a model, from its config alone.

    Raises InputError where there is no config that transformers can read.
    """
    config = pretrained_config(located.folder, revision=located.revision)
    try:
        text = config.get_text_config()
        kind, sizes = str(config.model_type), (int(text.hidden_size), int(text.num_hidden_layers))
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"The model {located.folder!r} cannot be loaded ({first_line(error)}); give a complete "
            f"local folder or a hub id that this machine can reach."
        ) from error
    name, folder = located.identity.rpartition("@")[0], Path(located.folder)
    if not folder.is_dir() or name != folder.resolve().name:  # a hub id, or a GGUF file's name
        return ModelCard(name, True, "", kind, *sizes)
    origin = json.loads((folder / "config.json").read_text("utf-8")).get("_name_or_path") or ""
    origin = _in_hub_cache(origin) or (origin if origin.count("/") == 1 else Path(origin).name)
    snapshot = _in_hub_cache(str(folder.absolute())) or _in_hub_cache(str(folder.resolve()))
    if _is_nameless(name) and (snapshot or not _is_nameless(origin)):
        return ModelCard(snapshot or origin, True, "", kind, *sizes)
    return ModelCard(name, False, "" if _is_nameless(origin) else origin, kind, *sizes)


def _in_hub_cache(path: str) -> str:
    """The hub id of a folder in the hub's cache, `.../models--OWNER--NAME/snapshots/HASH`."""
    folders = (part for part in Path(path).parts if part.startswith("models--"))
    return next(folders, "").removeprefix("models--").replace("--", "/")


def _is_nameless(name: str) -> bool:
    """Whether a name, such as a hash or `checkpoint-500`, is that of any model."""
    words = "model|models|weights|checkpoint|ckpt|step|final|output|merged|snapshot|hf|last|best"
    pattern = rf"|\.*|[0-9a-f]{{12,64}}|(?:{words})(?:[-_]?(?:{words}|\d+))*"
    return re.fullmatch(pattern, name.lower()) is not None


ALIASES = {
    "gpt2small": "gpt2",
    "mistral7bv0.1": "mistral7b",
}
"""Names that differ by more than their spelling, as `_canonical` writes them."""

SHAPES: dict[str, tuple[str, int, int]] = {
    "gpt2": ("gpt2", 768, 12),
    "gpt2medium": ("gpt2", 1024, 24),
    "gpt2large": ("gpt2", 1280, 36),
    "gpt2xl": ("gpt2", 1600, 48),
    "pythia70m": ("gpt_neox", 512, 6),
    "pythia70mdeduped": ("gpt_neox", 512, 6),
    "pythia160m": ("gpt_neox", 768, 12),
    "pythia160mdeduped": ("gpt_neox", 768, 12),
    "pythia410m": ("gpt_neox", 1024, 24),
    "gemma2b": ("gemma", 2048, 18),
    "gemma22b": ("gemma2", 2304, 26),
    "gemma29b": ("gemma2", 3584, 42),
    "gemma227b": ("gemma2", 4608, 46),
    "gemma3270m": ("gemma3", 640, 18),
    "gemma31b": ("gemma3", 1152, 26),
    "gemma34b": ("gemma3", 2560, 34),
    "gemma312b": ("gemma3", 3840, 48),
    "gemma327b": ("gemma3", 5376, 62),
    "llama38b": ("llama", 4096, 32),
    "llama3.18b": ("llama", 4096, 32),
    "llama3.21b": ("llama", 2048, 16),
    "llama3.23b": ("llama", 3072, 28),
    "llama3.370b": ("llama", 8192, 80),
    "mistral7b": ("mistral", 4096, 32),
    "qwen2.57b": ("qwen2", 3584, 28),
    "qwen30.6b": ("qwen3", 1024, 28),
    "qwen31.7b": ("qwen3", 2048, 28),
    "qwen34b": ("qwen3", 2560, 36),
    "qwen38b": ("qwen3", 4096, 36),
    "qwen314b": ("qwen3", 5120, 40),
    "smollm2135m": ("llama", 576, 30),
}
"""`model_type`, width and blocks of the models that most SAEs are for, by what `_canonical` makes
of their names without `instruct` and the like: of a folder that does not say which model lies in
it, these still can."""

QUANTISED = re.compile(
    r"[-._]?(?:\d{5}-of-\d{5}|gguf|awq|gptq(?:-int\d)?|(?:bnb[-_])?[48]bit|fp8|bf16|f16|f32"
    r"|(?:i1[-._])?(?:ud[-_])?i?q\d(?:_[a-z0-9]+)*)$"
)
"""What stands behind the name of a model whose weights were made smaller, in lower case."""

TUNED = {"it", "instruct", "chat", "pt", "base"}
"""Words that tell a base model from what was made of it."""


def _canonical(name: str, without: Iterable[str] = ("hf",)) -> str:
    """One spelling of a model's name: no owner, no quantisation, no separators."""
    bare = name.rsplit("/", 1)[-1].split("@")[0].lower()
    while (shorter := QUANTISED.sub("", bare)) != bare:
        bare = shorter
    bare = re.sub(r"^(?:google|meta-llama|mistralai|qwen|openai|huggingfacetb)_", "", bare)
    words = [word for word in re.split(r"[^a-z0-9.]+", bare) if word and word not in without]
    joined = "".join(words[1:] if words[:2] == ["meta", "llama"] else words)
    return ALIASES.get(joined, joined)


def _stem(name: str) -> str:
    """The same without the words that tell a base model from its chat model."""
    return _canonical(name, {"hf", *TUNED})


def same_model(name: str, other: str) -> bool | None:
    """Whether two names are of one model; None where one may have been made of the other, or a name
    says nothing."""
    if _canonical(name) == _canonical(other):
        return True
    if _stem(name) == _stem(other) or _is_nameless(name) or _is_nameless(other):
        return None
    return False


def same_family(name: str, other: str) -> bool:
    """Whether two names are of one model, or of a base model and what was made of it."""
    return _stem(name) == _stem(other)


def match(sae: Sae, card: ModelCard, layer: int) -> list[Finding]:
    """What an SAE says of itself, held against a model and a layer in this project's counting.

    Raises InputError for a layer that the model does not have.
    """
    if not 0 <= layer <= card.n_blocks:
        raise InputError(
            f"Layer {layer} does not exist: {card.name} has {card.n_blocks} blocks; "
            f"give 0 to {card.n_blocks}."
        )
    return [
        _model(sae.trained_on, card),
        _hook(sae),
        _layer(sae.trained_layer, layer),
        Finding(
            "width",
            sae.d_in == card.d_model,
            f"the SAE reads {sae.d_in} values, but the model has a residual stream of "
            f"{card.d_model}: take an SAE of this model"
            if sae.d_in != card.d_model
            else f"the SAE and the model have {sae.d_in} values",
        ),
        _normalisation(str(sae.module.cfg.normalize_activations)),
    ]


def _model(trained_on: str | None, card: ModelCard) -> Finding:
    def finding(ok: bool | None, says: str) -> Finding:
        return Finding("model", ok, says)

    if not trained_on or (_is_nameless(trained_on) and trained_on != card.name):
        named = f"calls its model only {trained_on!r}" if trained_on else "does not name its model"
        return finding(None, f"the SAE {named}; asked for {card.name}")
    says = f"the SAE says it was trained on {trained_on}; asked for {card.name}"
    if _canonical(trained_on) == _canonical(card.name):
        return finding(True, says)
    if card.origin and _stem(trained_on) == _stem(card.origin):
        return finding(None, f"{says}, whose weights began as {card.origin}")
    if _stem(trained_on) == _stem(card.name):
        return finding(None, f"{says}: one is a base model, the other was made of it")
    kind, *sizes = SHAPES.get(_stem(trained_on), ("", 0, 0))
    alike = bool(kind) and card.kind.startswith(kind) and sizes == [card.d_model, card.n_blocks]
    if not card.certain and (alike or (_is_nameless(card.name) and not kind)):
        size = ", which has its size" if alike else ""
        return finding(None, f"{says}{size}: the folder's name does not say whose weights it has")
    return finding(False, f"{says}: give that model, or an SAE of this one")


# A hook whose tensor is known not to be the stream between blocks.
ELSEWHERE = re.compile(r"mlp|attn|attention|hook_[qkvz]\b|resid_mid|embed|ln_?\d|norm|hook_in\b")


def _hook(sae: Sae) -> Finding:
    hook, out = sae.hook_name, sae.module.cfg.metadata.hook_name_out
    if out and out != hook:
        says = f"the SAE maps {hook} to {out}: it is a transcoder, not an SAE of one stream"
        return Finding("hook point", False, f"{says}; take one of a residual stream")
    if not hook:
        return Finding("hook point", None, "the SAE names no hook point")
    if sae.trained_layer is None and ELSEWHERE.search(hook):
        says = f"the SAE reads {hook}, which is not the residual stream between blocks"
        return Finding("hook point", False, f"{says}; take one of hook_resid_post")
    known = "" if sae.trained_layer is not None else ", a name that says nothing here"
    return Finding("hook point", None if known else True, f"the SAE reads {hook}{known}")


def _layer(trained: int | None, layer: int) -> Finding:
    if trained is None:
        return Finding("layer", None, f"the SAE names no layer; asked for {layer}")
    says = f"the SAE reads the stream after {trained} blocks"
    if trained != layer:
        return Finding("layer", False, f"{says}, not {layer}: give --layer {trained}")
    return Finding("layer", True, f"{says}, as asked")


def _normalisation(kind: str) -> Finding:
    how = "takes its inputs as they are" if kind == "none" else f"normalises its inputs by {kind!r}"
    return Finding("normalisation", True, f"the SAE {how}")


def doubt_of(findings: Sequence[Finding], despite: str = "") -> str:
    """What speaks against an SAE that is taken all the same, or is left open, in one sentence; ""
    where all fits."""
    wrong = [finding.says for finding in findings if finding.ok is False]
    open_ = [finding.says for finding in findings if finding.ok is None]
    if wrong:
        return f"The SAE does not fit: {'; '.join(wrong)}. It was taken despite that: {despite}"
    reason = f". It was taken because: {despite}" if despite else "."
    return f"Whether the SAE fits is unsure: {'; '.join(open_)}{reason}" if open_ else ""


def must_match(findings: Sequence[Finding], sae: str, despite: str = "") -> None:
    """Raises InputError, with all that contradicts, for an SAE that says it belongs elsewhere.

    A reason in `despite` lets what is only said pass, never another width.
    """
    wrong = [finding for finding in findings if finding.ok is False]
    impossible = any(finding.check == "width" for finding in wrong)
    if not wrong or (despite and not impossible):
        return
    whys = "; ".join(finding.says for finding in wrong)
    anyway = "" if impossible else " To take it all the same, say why with --despite."
    raise InputError(f"The SAE {sae!r} does not fit: {whys}.{anyway}")
