"""Subject models and SAEs of a few thousand random weights, written to disk without a download.

They are read through the same doors as real ones; only the weights mean nothing. Import this module
inside model tests only: it loads torch.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

with warnings.catch_warnings():
    # sae-lens imports a module that TransformerLens has moved.
    warnings.simplefilter("ignore", DeprecationWarning)
    import sae_lens

DEFAULT_SYSTEM = "You are a helpful AI assistant named Tiny"

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As SmolLM2 and Qwen: a default system prompt where the chat has none."""

TRIMMING = (
    "{{ '<|endoftext|>' }}{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>'}}"
    "{% endfor %}"
)
"""As Llama 3: contents lose the white space around them."""

MISTRAL = (
    "{{ '<|endoftext|>' }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + '<|im_end|>' }}{% else %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
"""As Mistral: a space of the scaffold in front of every content."""

LLAMA2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% elif message['role'] == 'user' %}"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}"
    "{% set content = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' + "
    "message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{{ '[INST] ' + content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
"""As Llama 2: the system prompt moves into the user's turn, whose start is then not trimmed."""

TEMPLATES = {
    "chatml": CHATML,
    "trimming": TRIMMING,
    "mistral": MISTRAL,
    "llama2": LLAMA2,
    "none": None,
}

CORPUS = (
    "The oven is hot and the bread is in the oven, so the kitchen smells of warm bread.",
    "A helpful assistant answers the user and the system says who the assistant is.",
    "Water the plants in the garden every morning before the sun is high over the river.",
    "def bake(bread):\n    return oven.heat(bread)\n\nfor loaf in loaves:\n    bake(loaf)\n",
    "What is the capital of France? The capital of France is Paris, on the river Seine.",
) * 3


def tokenizer(
    template: str | None = CHATML, *, trim_offsets: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens; `trim_offsets` as GPT-NeoX has it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unnamed|>"]
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    wrapped.chat_template = template
    return wrapped


def llama(
    folder: Path,
    *,
    template: str | None = CHATML,
    layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    trim_offsets: bool = False,
) -> Path:
    """A Llama with grouped queries; weights large enough that every block matters."""
    torch.manual_seed(seed)
    words = tokenizer(template, trim_offsets=trim_offsets)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return _saved(LlamaForCausalLM(config), words, folder)


def gpt2(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A GPT-2: its blocks are `transformer.h` and it has no chat template."""
    torch.manual_seed(0)
    words = tokenizer(None)
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=d_model,
        n_layer=layers,
        n_head=4,
        n_positions=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
    )
    return _saved(GPT2LMHeadModel(config), words, folder)


def sizes(layers: int, d_model: int) -> dict[str, Any]:
    """What configurations of one generation of models call alike."""
    return {
        "hidden_size": d_model,
        "intermediate_size": 2 * d_model,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def neox(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A GPT-NeoX (Pythia): blocks are `layers`, and offsets leave out white space."""
    torch.manual_seed(0)
    words = tokenizer(None, trim_offsets=True)
    config = GPTNeoXConfig(
        vocab_size=len(words) + 8,  # padded, as Pythia's
        **sizes(layers, d_model),
    )
    return _saved(GPTNeoXForCausalLM(config), words, folder)


def gemma(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Gemma: its norms multiply with one plus their weight."""
    torch.manual_seed(0)
    words = tokenizer(None)
    config = GemmaConfig(
        vocab_size=len(words),
        **sizes(layers, d_model),
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=2,
    )
    return _saved(GemmaForCausalLM(config), words, folder)


def mistral(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Mistral: attention sees only so many tokens back."""
    torch.manual_seed(0)
    words = tokenizer(MISTRAL)
    config = MistralConfig(
        vocab_size=len(words),
        **sizes(layers, d_model),
        num_key_value_heads=2,
        sliding_window=12,
        pad_token_id=2,
    )
    return _saved(MistralForCausalLM(config), words, folder)


def gemma2(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Gemma 2: every other block sees only so far back, and scores are capped."""
    config = {"head_dim": 8, "sliding_window": 12, "attn_logit_softcapping": 5.0}
    return _of(Gemma2ForCausalLM, Gemma2Config, folder, TRIMMING, layers, d_model, **config)


def gemma3(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Gemma 3: two blocks in three see only so far back, with a rotation of their own."""
    config = {"head_dim": 8, "sliding_window": 12, "sliding_window_pattern": 3}
    return _of(Gemma3ForCausalLM, Gemma3TextConfig, folder, TRIMMING, layers, d_model, **config)


def qwen2(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Qwen 2: queries, keys and values have biases."""
    return _of(Qwen2ForCausalLM, Qwen2Config, folder, CHATML, layers, d_model)


def qwen3(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Qwen 3: queries and keys are normed, with heads wider than the stream divides into."""
    return _of(Qwen3ForCausalLM, Qwen3Config, folder, CHATML, layers, d_model, head_dim=16)


def olmo2(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """An OLMo 2: norms come after attention and MLP."""
    return _of(Olmo2ForCausalLM, Olmo2Config, folder, CHATML, layers, d_model)


def phi3(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Phi 3: one matrix makes queries, keys and values; attention sees only so far back."""
    return _of(Phi3ForCausalLM, Phi3Config, folder, CHATML, layers, d_model, sliding_window=12)


def mixtral(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Mixtral with as many experts as blocks, two of which read each token."""
    experts = {"num_local_experts": layers, "num_experts_per_tok": 2}
    return _of(MixtralForCausalLM, MixtralConfig, folder, MISTRAL, layers, d_model, **experts)


def _of(
    model: Any,
    config: Any,
    folder: Path,
    template: str | None,
    layers: int,
    d_model: int,
    **options: Any,
) -> Path:
    """A model whose configuration speaks of grouped queries as Llama's does."""
    torch.manual_seed(0)
    words = tokenizer(template)
    common = {"vocab_size": len(words), "num_key_value_heads": 2, "pad_token_id": 2}
    options = {**sizes(layers, d_model), **common, **options}
    return _saved(model(config(**options)), words, folder)


def gemma3_with_images(folder: Path, *, layers: int = 3, d_model: int = 32) -> Path:
    """A Gemma 3 that also sees, whose two towers are equally deep."""
    torch.manual_seed(0)
    words = tokenizer(TRIMMING)
    text = {
        **sizes(layers, d_model),
        "vocab_size": len(words),
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 12,
        "pad_token_id": 2,
    }
    vision = {
        **{name: text[name] for name in ("num_hidden_layers", "num_attention_heads")},
        "hidden_size": 16,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return _saved(Gemma3ForConditionalGeneration(config), words, folder)


FAMILIES = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mistral": mistral,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_with_images": gemma3_with_images,
    "gpt2": gpt2,
    "neox": neox,
    "olmo2": olmo2,
    "phi3": phi3,
    "mixtral": mixtral,
}


def _saved(model: torch.nn.Module, words: PreTrainedTokenizerFast, folder: Path) -> Path:
    with torch.no_grad():  # norms start as ones, which would hide a forgotten gain
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in name.replace("ln_", "norm") and "bias" not in name:
                weight.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "standard": ("Standard", {}),
    "standard-normed": ("Standard", {"normalize_activations": "layer_norm"}),
    "topk": ("TopK", {"k": 5}),
    "topk-rescaled": ("TopK", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLU", {}),
    "gated": ("Gated", {}),
}


def sae(
    folder: Path,
    architecture: str = "jumprelu",
    *,
    d_in: int = 32,
    n_features: int = 96,
    hook: str | None = "blocks.1.hook_resid_post",
    model_name: str | None = "tiny",
    seed: int = 0,
) -> Path:
    """Random weights, written by sae-lens' own save."""
    kind, options = ARCHITECTURES[architecture]
    make, config = (getattr(sae_lens, f"{kind}SAE{suffix}") for suffix in ("", "Config"))
    torch.manual_seed(seed)
    module = make(config(d_in=d_in, d_sae=n_features, device="cpu", **options))
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(0, 0.3)
            if name == "threshold":
                weight.uniform_(0.2, 3.0)
    module.cfg.metadata.hook_name = hook
    module.cfg.metadata.model_name = model_name
    module.save_model(folder)
    return folder


def save_weights(folder: Path, **weights: Any) -> None:
    """Overwrite the weights of an SAE's folder, all of them, by arrays of these names."""
    named = {
        name: torch.as_tensor(weight, dtype=torch.float32).contiguous()
        for name, weight in weights.items()
    }
    save_file(named, folder / "sae_weights.safetensors")


def paper_checkpoint(path: Path, *, d_in: int = 32, n_features: int = 96) -> Path:
    """The paper's .pth: a tied Top-K SAE with a mask."""
    torch.manual_seed(0)
    state = {
        "mask": torch.ones(n_features),
        "W_enc": 0.3 * torch.randn(d_in, n_features),
        "b_enc": 0.3 * torch.randn(n_features),
        "b_dec": 0.3 * torch.randn(d_in),
    }
    config = {"d_inp": d_in, "d_hide": n_features, "topK": 7}
    torch.save({"weights": state, "config": config}, path)
    return path


def edit_json(path: Path, **changes: object) -> None:
    """Overwrite fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
