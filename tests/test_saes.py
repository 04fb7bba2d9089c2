"""SAEs: read from wherever they lie, and checked before they are trusted."""

import io
import zipfile

import numpy as np
import pytest

from fac.errors import InputError, ServiceError
from fac.models import SCAFFOLD, SubjectModel
from fac.saes import layer_of_hook, load_sae, quality

D, WIDTH = 32, 96
LAYER = 2
TEXTS = (
    "The oven is hot and the bread smells warm.",
    "Water the plants in the garden every morning.",
    "What is the capital of France? Paris, on the river.",
    "for loaf in loaves:\n    bake(loaf)\n",
)
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests import tiny

    return SubjectModel(tiny.llama(tmp_path_factory.mktemp("tiny")), layer=LAYER)


def content_states(model, chats=CHATS):
    """float32 `[tokens, D]`: the residual stream of every content token, one chat at a time."""
    import torch

    rendered = model.renderer.render(chats)
    return torch.cat([model.residual([r.ids])[0, r.role != SCAFFOLD] for r in rendered])


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["standard", "standard-normed", "topk", "topk-rescaled", "jumprelu", "gated"]
)
def test_every_architecture_is_read_as_sae_lens_reads_it(tmp_path, kind):
    import torch

    from tests import tiny

    folder = tiny.sae(tmp_path, kind, d_in=D, n_features=WIDTH)
    sae = load_sae(str(folder))
    assert (sae.n_features, sae.d_in, sae.trained_layer, sae.stored) == (WIDTH, D, 2, "float32")
    x = 4 * torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = tiny.sae_lens.SAE.load_from_disk(folder).encode(x)
        acts, pre = sae.encode(x)
    assert torch.equal(acts, theirs)
    assert 0 < (acts > 0).float().mean() < 0.6
    assert torch.equal(acts[acts > 0], pre[acts > 0])


def test_jumprelu_thresholds_are_the_weights_and_zero_elsewhere(tmp_path):
    from tests import tiny

    jump = load_sae(str(tiny.sae(tmp_path / "jump", "jumprelu", d_in=D, n_features=WIDTH)))
    assert jump.thresholds.dtype == np.float32 and (jump.thresholds >= 0.2).all()
    topk = load_sae(str(tiny.sae(tmp_path / "topk", "topk", d_in=D, n_features=WIDTH)))
    assert topk.thresholds.tolist() == [0.0] * WIDTH
    assert topk.decoder.shape == (WIDTH, D)


def test_the_papers_checkpoint_is_a_tied_top_k(tmp_path):
    """z = the K largest of (x - b_dec) W_enc + b_enc, then ReLU."""
    import torch

    from tests import tiny

    path = tiny.paper_checkpoint(tmp_path / "TopK7.pth", d_in=D, n_features=WIDTH)
    sae = load_sae(str(path))
    state = torch.load(path)["weights"]
    x = torch.randn(9, D)
    with torch.inference_mode():
        acts, _ = sae.encode(x)
        decoded = sae.module.decode(acts)
    z = (x - state["b_dec"]) @ state["W_enc"] + state["b_enc"]
    largest = z.topk(7, dim=1)
    expected = torch.zeros_like(z).scatter(1, largest.indices, largest.values.relu())
    torch.testing.assert_close(acts, expected)
    torch.testing.assert_close(decoded, expected @ state["W_enc"].T + state["b_dec"])


def test_a_masked_feature_of_the_papers_checkpoint_never_fires(tmp_path):
    import torch

    from tests import tiny

    path = tiny.paper_checkpoint(tmp_path / "s.pth", d_in=D, n_features=WIDTH)
    held = torch.load(path)
    held["weights"]["mask"][:90] = 0
    held["weights"]["b_enc"][:] = 5.0
    torch.save(held, path)
    acts, _ = load_sae(str(path)).encode(torch.randn(40, D))
    assert not (acts[:, :90] > 0).any()
    assert (acts[:, 90:] > 0).any()


def test_the_identity_follows_weights_and_config(tmp_path):
    from tests import tiny

    ids = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tiny.sae(tmp_path / name / "mine", "topk", d_in=D, n_features=WIDTH, seed=seed)
        ids[name] = load_sae(str(folder)).identity
    tiny.edit_json(tmp_path / "b" / "mine" / "cfg.json", k=6)
    ids["k"] = load_sae(str(tmp_path / "b" / "mine")).identity
    assert ids["a"] == ids["b"] and len(set(ids.values())) == 3
    assert ids["a"].startswith("mine@")


def refused(reference, match):
    with pytest.raises(InputError, match=match) as caught:
        load_sae(str(reference))
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_whole_sae_are_refused_in_one_sentence(tmp_path):
    from tests import tiny

    refused(tmp_path, "holds no SAE: it needs cfg.json and sae_weights.safetensors")
    folder = tiny.sae(tmp_path / "sae", d_in=D, n_features=WIDTH)
    weights, config = folder / "sae_weights.safetensors", folder / "cfg.json"
    whole, written = weights.read_bytes(), config.read_text()
    for damaged in (b"", b"junk", whole[: len(whole) // 2]):
        weights.write_bytes(damaged)
        refused(folder, "cannot be read .*restore or train it again")
    weights.write_bytes(whole)
    for damaged in ("", "[]", "{", '{"architecture": "no-such"}', '{"d_in": 32}'):
        config.write_text(damaged)
        refused(folder, "cannot be read|which a standard SAE does not have")
    config.write_text(written)
    tiny.edit_json(config, d_in=D + 1, d_sae=WIDTH)
    refused(folder, "cannot be read")
    config.unlink()
    refused(folder, "holds no SAE")


def test_checkpoints_that_are_none_are_refused_in_one_sentence(tmp_path):
    import torch

    from tests import tiny

    refused(tmp_path / "absent.pth", "There is no checkpoint .*absent.pth")
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("holiday.txt", "no tensors")
    for i, junk in enumerate((b"", b"junk", b"PK\x03\x04 broken zip", other.getvalue())):
        path = tmp_path / f"{i}.pth"
        path.write_bytes(junk)
        refused(path, "cannot be read")
    path = tiny.paper_checkpoint(tmp_path / "x.pth")
    state = torch.load(path)["weights"]
    torch.save(state, path)
    refused(path, "does not tell its K")
    torch.save(torch.zeros(3), path)
    refused(path, "holds no weights by name")
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "b_dec"}}, path)
    refused(path, "has no b_dec")
    torch.save({"weights": {**state, "b_enc": torch.zeros(5)}, "config": {"topK": 7}}, path)
    refused(path, r"b_enc is \[5\], but 32 values in and 96 features make it \[96\]")
    torch.save({"weights": state, "config": {"topK": 1000}}, path)
    refused(path, "K is 1000 of 96 features")


class Stranger:
    """Unpickled only by code that would also run what a file asks for."""


def test_a_checkpoint_that_would_run_code_is_not_opened(tmp_path):
    import torch

    torch.save({"W_enc": Stranger()}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "with tensors only")


def test_unknown_names_are_refused_in_one_sentence():
    refused("nothing", "neither a folder, nor a .pth file, nor RELEASE/SAE_ID")
    refused("./nowhere", "neither a folder")
    refused("no-such-release/layer_1", "sae-lens knows no SAE 'no-such-release/layer_1'")
    refused("gpt2-small-res-jb/no-such-id", "knows no SAE")


def test_a_release_that_cannot_be_fetched_is_the_services_fault(monkeypatch):
    from tests import tiny

    def offline(*_args, **_options):
        raise ConnectionError("Max retries exceeded\nwith url")

    monkeypatch.setattr(tiny.sae_lens.SAE, "from_pretrained", offline)
    with pytest.raises(ServiceError, match="could not be fetched: Max retries exceeded$"):
        load_sae("gpt2-small-res-jb/blocks.0.hook_resid_pre")


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.14.hook_resid_post", 15),
        ("blocks.14.hook_resid_pre", 14),
        ("blocks.0.hook_resid_pre", 0),
        ("model.layers.3", 4),
        ("transformer.h.11", 12),
        ("gpt_neox.layers.5", 6),
        ("blocks.3.hook_mlp_out", None),
        ("blocks.3.attn.hook_z", None),
        ("blocks.3.hook_resid_mid", None),
        ("model.layers.3.mlp", None),
        ("hook_embed", None),
        ("", None),
    ],
)
def test_a_hook_name_says_how_many_blocks_have_run(hook, layer):
    assert layer_of_hook(hook) == layer


# --- quality ----------------------------------------------------------------------------------


def constructed(tmp_path, encode, decode, b_enc, b_dec, **metadata):
    """A standard SAE relu((x - b_dec) encode + b_enc) decode + b_dec with these weights."""
    import torch
    from safetensors.torch import save_file

    from tests import tiny

    folder = tiny.sae(tmp_path, "standard", d_in=D, n_features=len(b_enc), **metadata)
    weights = {"W_enc": encode, "W_dec": decode, "b_enc": b_enc, "b_dec": b_dec}
    save_file(
        {
            name: torch.as_tensor(value, dtype=torch.float32).contiguous()
            for name, value in weights.items()
        },
        folder / "sae_weights.safetensors",
    )
    return load_sae(str(folder))


def perfect(tmp_path, **metadata):
    """relu(x) - relu(-x) = x: one feature per sign of every coordinate."""
    eye = np.eye(D)
    both = np.concatenate([eye, -eye])
    return constructed(tmp_path, both.T, both, np.zeros(2 * D), np.zeros(D), **metadata)


def test_an_sae_that_reconstructs_everything_has_fvu_0_and_recovers_the_whole_loss(tmp_path, model):
    states = content_states(model)
    measured = quality(perfect(tmp_path), model, CHATS)
    assert measured.tokens == len(states)
    assert measured.fvu < 1e-9
    assert measured.loss_recovered == pytest.approx(1, abs=1e-5)
    assert measured.ce_sae == pytest.approx(measured.ce_clean, abs=1e-5)
    assert measured.ce_zero > 0 and measured.ce_zero != pytest.approx(measured.ce_clean, abs=1e-3)
    assert measured.l0 == pytest.approx(D)  # of +x and -x exactly one is positive
    assert measured.dead == 0
    assert measured.norm == pytest.approx(float(states.norm(dim=1).mean()), rel=1e-5)


def test_an_sae_that_says_the_mean_has_fvu_1_and_features_that_are_dead(tmp_path, model):
    center = content_states(model).mean(0).numpy()
    silent = constructed(tmp_path, np.zeros((D, 8)), np.zeros((8, D)), np.full(8, -1.0), center)
    measured = quality(silent, model, CHATS)
    assert measured.fvu == pytest.approx(1, abs=1e-5)
    assert (measured.l0, measured.dead) == (0, 1)
    assert measured.ce_sae != pytest.approx(measured.ce_clean, abs=1e-3)
    recovered = (measured.ce_zero - measured.ce_sae) / (measured.ce_zero - measured.ce_clean)
    assert measured.loss_recovered == pytest.approx(recovered)


def test_losses_are_read_at_content_tokens_predicted_from_content_tokens(tmp_path, model):
    """By hand: mean over chats of the model's own cross-entropy within each content."""
    import torch

    losses = []
    for r in model.renderer.render(CHATS):
        ids = torch.from_numpy(r.ids.astype(np.int64))
        with torch.inference_mode():
            logits = model.model(ids[None]).logits[0]
        at = [i for i in range(1, len(ids)) if r.role[i] != SCAFFOLD and r.role[i - 1] != SCAFFOLD]
        losses += [float(-logits[i - 1].log_softmax(0)[ids[i]]) for i in at]
    assert quality(perfect(tmp_path), model, CHATS).ce_clean == pytest.approx(
        np.mean(losses), rel=1e-4
    )


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_too_little_text_to_judge_on_is_told(tmp_path, model, texts):
    with pytest.raises(InputError, match="give some"):
        quality(perfect(tmp_path), model, [[{"role": "user", "content": t}] for t in texts])
