"""SAEs of other libraries: read as those read them, or refused in one sentence."""

import json
import shutil
import sys
import warnings

import numpy as np
import pytest

from fac.errors import InputError, ServiceError
from fac.models import SubjectModel
from fac.sae_formats import SAE_FORMATS
from fac.saes import load_sae

D, WIDTH, K = 16, 40, 6
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape, seed=0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states(d=D):
    return 2 * normal(64, d, seed=99)


def close(what, difference):
    """Says the largest difference, as docs/formats.md lists it (`pytest -s`)."""
    sys.stdout.write(f"{what}: largest difference {difference:.1e}\n")
    assert difference < TOLERANCE


def agree(path, expected, *, what, x=None, decoded=None):
    """The SAE at `path` encodes `x` as expected, on some but not most features, and decodes it."""
    import torch

    sae = load_sae(str(path))
    with torch.inference_mode():
        acts, pre = sae.encode(states() if x is None else x)
        difference = float((acts - expected).abs().max())
        if decoded is not None:
            difference = max(difference, float((sae.module.decode(acts) - decoded).abs().max()))
    close(what, difference)
    assert 0.02 < (expected > 0).float().mean() < 0.8
    torch.testing.assert_close(acts[acts > 0], pre[acts > 0])
    return sae


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        load_sae(str(path))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def largest(pre, k):
    """The K largest of each row, the rest zero; none below zero."""
    import torch

    top = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())


def save(path, held, config=None, name="config.json"):
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path)
    if config is not None:
        (path.parent / name).write_text(json.dumps(config))
    return path


# --- dictionary_learning ----------------------------------------------------------------------


def linear():
    return {
        "encoder.weight": 0.3 * normal(WIDTH, D, seed=1),
        "encoder.bias": 0.3 * normal(WIDTH, seed=2),
        "decoder.weight": 0.3 * normal(D, WIDTH, seed=3),
    }


def parameters():
    return {
        "W_enc": 0.3 * normal(D, WIDTH, seed=1),
        "b_enc": 0.3 * normal(WIDTH, seed=2),
        "W_dec": 0.3 * normal(WIDTH, D, seed=3),
        "b_dec": 0.3 * normal(D, seed=4),
    }


def dictionary(kind):
    """The state dict of a class of dictionary_learning."""
    import torch

    k = torch.tensor(K, dtype=torch.int)
    threshold = torch.tensor(0.7)
    groups = torch.tensor([WIDTH // 4, WIDTH - WIDTH // 4])
    bias = 0.3 * normal(D, seed=4)
    if kind == "AutoEncoder":
        return {**linear(), "bias": bias}
    if kind == "AutoEncoderNew":
        return {**linear(), "decoder.bias": bias}
    if kind == "GatedAutoEncoder":
        state = linear()
        gate = {"gate_bias": state.pop("encoder.bias"), "r_mag": 0.3 * normal(WIDTH, seed=5)}
        return {**state, **gate, "mag_bias": 0.3 * normal(WIDTH, seed=6), "decoder_bias": bias}
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        return {**linear(), "b_dec": bias, "k": k, "threshold": threshold}
    if kind == "JumpReluAutoEncoder":
        return {**parameters(), "threshold": normal(WIDTH, seed=7).abs()}
    return {**parameters(), "k": k, "threshold": threshold, "group_sizes": groups}


KINDS = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)

BARE = ("AutoEncoder", "GatedAutoEncoder", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")


def trainer(kind, **changes):
    options = {"dict_class": kind, "activation_dim": D, "dict_size": WIDTH, "layer": 1}
    options |= {"lm_name": "owner/tiny", "submodule_name": "resid_post_layer_1"}
    if "TopK" in kind:
        options["k"] = K
    return {"trainer": options | changes, "buffer": {"ctx_len": 128}}


def written_out(kind, w, x):
    """Activations and reconstruction by the published definition of each class."""
    if kind == "AutoEncoder":  # decoder directions get length 1 when it is loaded
        norms = w["decoder.weight"].norm(dim=0)
        acts = ((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu() * norms
        return acts, (acts / norms) @ w["decoder.weight"].T + w["bias"]
    if kind == "AutoEncoderNew":
        acts = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return acts, acts @ w["decoder.weight"].T + w["decoder.bias"]
    if kind == "GatedAutoEncoder":
        common = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        magnitude = (w["r_mag"].exp() * common + w["mag_bias"]).relu()
        acts = magnitude * (common + w["gate_bias"] > 0)
        return acts, acts @ w["decoder.weight"].T + w["decoder_bias"]
    if kind == "JumpReluAutoEncoder":  # reads x itself
        pre = x @ w["W_enc"] + w["b_enc"]
        acts = pre.relu() * (pre > w["threshold"])
        return acts, acts @ w["W_dec"] + w["b_dec"]
    if kind == "MatryoshkaBatchTopKSAE":
        pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        acts = pre * (pre > w["threshold"])
        return acts, acts @ w["W_dec"] + w["b_dec"]
    pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    acts = largest(pre, K) if kind == "AutoEncoderTopK" else pre * (pre > w["threshold"])
    return acts, acts @ w["decoder.weight"].T + w["b_dec"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_encodes_as_its_class_is_defined(tmp_path, kind):
    state = dictionary(kind)
    path = save(tmp_path / "trainer_0" / "ae.pt", state, trainer(kind))
    acts, decoded = written_out(kind, state, states())
    sae = agree(path.parent, acts, decoded=decoded, what=f"{kind}, written out")
    assert (sae.trained_on, sae.trained_layer, sae.stored) == ("owner/tiny", 2, "float32")
    assert sae.identity.startswith("trainer_0@")
    agree(path, acts, decoded=decoded, what=f"{kind}, its file")


@pytest.mark.parametrize("kind", BARE)
def test_a_dictionary_without_config_is_told_by_its_weights(tmp_path, kind):
    state = dictionary(kind)
    acts, decoded = written_out(kind, state, states())
    sae = agree(save(tmp_path / "x.pt", state), acts, decoded=decoded, what=f"{kind}, bare")
    assert (sae.trained_on, sae.hook_name) == (None, None)


def test_what_the_weights_of_a_dictionary_do_not_tell_is_asked_for(tmp_path):
    top_k = dictionary("AutoEncoderTopK")
    refused(save(tmp_path / "a.pt", top_k), "AutoEncoderTopK or a BatchTopKSAE.* put the config")
    refused(save(tmp_path / "b.pt", parameters()), "does not tell how its features become active")
    refused(save(tmp_path / "d.pt", dictionary("AutoEncoderNew")), "does not tell how its feat")
    agree(
        save(tmp_path / "c.pt", {k: v for k, v in top_k.items() if k != "threshold"}),
        written_out("AutoEncoderTopK", top_k, states())[0],
        what="AutoEncoderTopK, of before it had a threshold",
    )


def test_a_dictionary_whose_config_and_weights_disagree_is_refused(tmp_path):
    def changed(kind="AutoEncoderTopK", drop=(), add=(), **changes):
        state = {k: v for k, v in dictionary(kind).items() if k not in drop} | dict(add)
        return save(tmp_path / "d" / "ae.pt", state, trainer(kind, **changes)).parent

    refused(changed(k=7), "has K 6 and 7 in its config and weights")
    refused(changed(drop=["k"], k=None), "has no K in its config and weights")
    refused(changed(dict_size=41), r"encoder.weight is \[40, 16\], but 16 values in and 41 feat")
    refused(changed(activation_dim=17), "17 values in")
    refused(changed(drop=["encoder.bias"]), "has no encoder.bias; fetch or save it again")
    refused(changed(add={"W_extra": normal(3)}.items()), "has W_extra as well")
    refused(changed("JumpReluAutoEncoder", dict_class="IdentityDict"), "is a IdentityDict; of")
    refused(changed(activation_dim="wide"), "does not fit together")
    refused(changed(k=[6]), "cannot be read")
    refused(changed(dict_class="BatchTopKCrossCoder"), "is a crosscoder")
    layers = {"encoder.weight": normal(2, D, WIDTH), "decoder.weight": normal(2, WIDTH, D)}
    layers |= {"encoder.bias": normal(WIDTH), "decoder.bias": normal(D)}
    refused(save(tmp_path / "cross.pt", layers), "weights for several layers: it is a crosscoder")
    turned = {"encoder.weight": linear()["encoder.weight"].T.contiguous()}
    refused(changed(add=turned.items()), r"encoder.weight is \[16, 40\] \(it is transposed\)")


def test_the_place_of_a_dictionary_is_told_only_where_its_config_names_it(tmp_path):
    for i, (name, hook, layer) in enumerate(
        [
            ("resid_pre_layer_1", "blocks.1.hook_resid_pre", 1),
            ("mlp_out_layer1", "mlp_out_layer1", None),
            (None, None, None),
        ]
    ):
        config = trainer("JumpReluAutoEncoder", submodule_name=name)
        path = save(tmp_path / str(i) / "ae.pt", dictionary("JumpReluAutoEncoder"), config)
        sae = load_sae(str(path.parent))
        assert (sae.hook_name, sae.trained_layer) == (hook, layer)


def test_a_square_dictionary_that_is_transposed_is_refused(tmp_path):
    state = {"W_enc": normal(D, D, seed=1), "b_enc": normal(D), "threshold": normal(D).abs()}
    state |= {"W_dec": state["W_enc"].T + 0.1 * normal(D, D, seed=2), "b_dec": normal(D)}
    path = save(tmp_path / "ae.pt", state, trainer("JumpReluAutoEncoder", dict_size=D))
    load_sae(str(path))
    save(path, {**state, "W_enc": state["W_enc"].T.contiguous()})
    refused(path, "rows of its encoder, not columns, go with rows of its decoder")


def library(name):
    """A library that not everybody has, without what it warns of; the test is skipped else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_encodes_as_its_own_library_does(tmp_path, kind):
    import torch

    library("dictionary_learning")
    modules = {
        "AutoEncoderTopK": "trainers.top_k",
        "BatchTopKSAE": "trainers.batch_top_k",
        "MatryoshkaBatchTopKSAE": "trainers.matryoshka_batch_top_k",
    }
    home = library(f"dictionary_learning.{modules.get(kind, 'dictionary')}")
    path = save(tmp_path / "trainer_0" / "ae.pt", dictionary(kind), trainer(kind))
    with torch.no_grad():
        theirs = getattr(home, kind).from_pretrained(str(path))
        acts = theirs.encode(states())
        decoded = theirs.decode(acts)
    agree(path.parent, acts, decoded=decoded, what=f"{kind}, dictionary_learning")


# --- sparsify ---------------------------------------------------------------------------------


def sparsify_folder(folder, *, drop=(), add=(), weights=None, **changes):
    from safetensors.torch import save_file

    state = {"encoder.weight": 0.3 * normal(WIDTH, D, seed=1), "encoder.bias": normal(WIDTH)}
    state |= {"W_dec": 0.3 * normal(WIDTH, D, seed=3), "b_dec": 0.3 * normal(D, seed=4)}
    config = {"d_in": D, "k": K, "num_latents": WIDTH, "expansion_factor": 32}
    config |= {"normalize_decoder": True, "multi_topk": False, "activation": "topk"} | changes
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v for k, v in (state | dict(add)).items() if k not in drop},
        folder / "sae.safetensors",
    )
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder, state


def test_sparsify_encodes_as_its_sparse_coder_is_defined(tmp_path):
    folder, w = sparsify_folder(tmp_path / "layers.1")
    acts = largest(((states() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu(), K)
    sae = agree(folder, acts, decoded=acts @ w["W_dec"] + w["b_dec"], what="sparsify, written out")
    assert (sae.hook_name, sae.trained_layer) == ("layers.1", 2)
    assert sae.trained_on is None
    (tmp_path / "config.json").write_text('{"model": "owner/tiny"}')
    assert load_sae(str(folder)).trained_on == "owner/tiny"
    by_factor, _ = sparsify_folder(tmp_path / "f", num_latents=0, expansion_factor=2.5)
    agree(by_factor, acts, what="sparsify, width by its factor")


def test_sparsify_encodes_as_its_own_library_does(tmp_path):
    import torch

    sparsify = library("sparsify")
    torch.manual_seed(0)
    config = sparsify.SparseCoderConfig(k=K, num_latents=WIDTH)
    coder = sparsify.SparseCoder(D, config)
    with torch.no_grad():
        for weight in (coder.encoder.bias, coder.b_dec):
            weight.normal_(0, 0.3)
        coder.W_dec += 0.1 * torch.randn(WIDTH, D)
        coder.save_to_disk(tmp_path / "layers.1")
        top = coder.encode(states())
        acts = torch.zeros(len(states()), WIDTH).scatter(1, top.top_indices, top.top_acts)
        decoded = coder.decode(top.top_acts, top.top_indices)
    agree(tmp_path / "layers.1", acts, decoded=decoded, what="sparsify, its library")


def test_what_sparsify_writes_that_is_no_top_k_sae_is_refused(tmp_path):
    def folder(**options):
        return sparsify_folder(tmp_path / "layers.1", **options)[0]

    refused(folder(transcode=True), "is a transcoder, which predicts another place")
    refused(folder(skip_connection=True), "is a transcoder with a skip connection")
    refused(folder(add=[("W_skip", normal(D, D))]), "has W_skip: it is a transcoder with a skip")
    refused(folder(signed=True), "is an AbsTopK SAE, whose features also fire below zero")
    refused(folder(activation="groupmax"), "has the activation 'groupmax'; only topk")
    refused(folder(k=None), "has no k in cfg.json; restore that file")
    refused(folder(k=WIDTH + 1), "K is 41 of 40 features")
    refused(folder(drop=["b_dec"]), "has no b_dec")
    refused(folder(num_latents=WIDTH + 1), "41 features")
    refused(folder(add=[("W_dec", normal(D, WIDTH))]), r"W_dec is \[16, 40\] \(it is transposed\)")


# --- Gemma Scope and Llama Scope --------------------------------------------------------------


def gemma_state():
    return {**parameters(), "threshold": normal(WIDTH, seed=7).abs()}


def test_gemma_scope_encodes_as_its_paper_defines(tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    w = gemma_state()
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in w.items()})
    pre = states() @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > w["threshold"])
    decoded = acts @ w["W_dec"] + w["b_dec"]
    sae = agree(folder, acts, decoded=decoded, what="Gemma Scope, written out")
    assert (sae.trained_on, sae.trained_layer) == ("gemma-2-2b", 21)
    agree(folder / "params.npz", acts, decoded=decoded, what="Gemma Scope, its file")
    assert load_sae(str(folder)).thresholds == pytest.approx(w["threshold"].numpy())


def test_what_gemma_scope_has_beside_saes_of_the_stream_is_refused(tmp_path):
    for where, match in (
        ("gemma-scope-2b-pt-transcoders/layer_1", "transcoders: it is a transcoder"),
        ("gemma-scope-2b-pt-att/layer_1", "attention heads' outputs"),
        ("gemma-scope-2b-pt-res/embedding", "reads the embedding"),
    ):
        folder = tmp_path / where
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **{k: v.numpy() for k, v in gemma_state().items()})
        refused(folder, match)
    plain = tmp_path / "params.npz"
    state = {k: v.numpy() for k, v in gemma_state().items()}
    np.savez(plain, **{k: v for k, v in state.items() if k != "threshold"})
    refused(plain, "has no threshold")
    np.savez(plain, **{**state, "W_enc": state["W_enc"].T})
    refused(plain, r"W_enc is \[40, 16\] \(it is transposed\), but 16 values in")
    plain.write_bytes(plain.read_bytes()[:-200])
    refused(plain, "cannot be read .its end is missing")


def llama_folder(folder, drop=(), **changes):
    from safetensors.torch import save_file

    state = {**linear(), "decoder.bias": 0.3 * normal(D, seed=4)}
    config = {"hook_point_in": "blocks.1.hook_resid_post", "d_model": D, "d_sae": WIDTH}
    config |= {"hook_point_out": "blocks.1.hook_resid_post", "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "use_glu_encoder": False, "top_k": 50}
    config |= {"apply_decoder_bias_to_pre_encoder": False, "jump_relu_threshold": 0.5}
    config |= {"dataset_average_activation_norm": {"in": 10.0, "out": 10.0}}
    config |= {"sparsity_include_decoder_norm": True} | changes
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "checkpoints" / "final.safetensors")
    config = {k: v for k, v in config.items() if k not in drop}
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return folder, state


@pytest.mark.parametrize("include_norm", [True, False])
def test_llama_scope_encodes_as_lm_saes_does(tmp_path, include_norm):
    """By its training: on x f, where f makes the mean norm sqrt(d), then in units of the stream."""
    folder, w = llama_folder(
        tmp_path / "Llama3_1-8B-Base-L1R-8x", sparsity_include_decoder_norm=include_norm
    )
    factor = np.sqrt(D) / 10.0
    norms = w["decoder.weight"].norm(dim=0) if include_norm else 1.0
    trained = (states() * factor) @ w["encoder.weight"].T + w["encoder.bias"]
    acts = trained * norms / factor
    acts = acts * (acts > 0.5)
    decoded = ((acts * factor / norms) @ w["decoder.weight"].T + w["decoder.bias"]) / factor
    sae = agree(folder, acts, decoded=decoded, what=f"Llama Scope, norms {include_norm}")
    assert (sae.trained_on, sae.trained_layer) == ("meta-llama/Llama-3.1-8B", 2)


def test_a_llama_scope_folder_that_means_something_else_is_refused(tmp_path):
    refused(llama_folder(tmp_path, hook_point_out="blocks.1.hook_mlp_out")[0], "is a transcoder")
    refused(llama_folder(tmp_path, act_fn="topk")[0], "has act_fn 'topk' in hyperparams.json")
    refused(llama_folder(tmp_path, norm_activation="token-wise")[0], "norm_activation 'token-wise'")
    refused(llama_folder(tmp_path, use_glu_encoder=True)[0], "use_glu_encoder True")
    refused(llama_folder(tmp_path, drop=["jump_relu_threshold"])[0], "no usable 'jump_relu_thr")
    refused(llama_folder(tmp_path, d_sae=WIDTH + 1)[0], "41 features")


def test_the_weights_of_a_folder_are_not_read_without_it(tmp_path):
    """Their names could be those of another format, and their config would be missed."""
    llama, _ = llama_folder(tmp_path / "llama")
    coder, _ = sparsify_folder(tmp_path / "layers.1")
    for path in (llama / "checkpoints" / "final.safetensors", coder / "sae.safetensors"):
        refused(path, "holds weights without what they mean; give the folder")


# --- the paper's checkpoint -------------------------------------------------------------------


def paper(path, *, drop=(), add=(), config=None):
    import torch

    from tests import tiny

    tiny.paper_checkpoint(path, d_in=D, n_features=WIDTH)
    held = torch.load(path)
    state = {k: v for k, v in held["weights"].items() if k not in drop} | dict(add)
    torch.save({"weights": state, "config": held["config"] if config is None else config}, path)
    return path


def test_the_papers_checkpoint_has_no_k_of_its_own(tmp_path):
    path = paper(tmp_path / "a.pth", config={"d_inp": D, "d_hide": WIDTH})
    refused(path, r'does not tell its K.* write it to a config.json .*\{"topK": 20\}')
    (tmp_path / "config.json").write_text('{"topK": 5}')
    import torch

    acts, _ = load_sae(str(path)).encode(states())
    assert int((acts > 0).sum(1).max()) == 5
    four = torch.load(path)["weights"]
    z = (states() - four["b_dec"]) @ four["W_enc"] + four["b_enc"]
    agree(path, largest(z, 5), what="the paper's checkpoint, K beside it")


def test_another_k_beside_the_papers_checkpoint_is_another_identity(tmp_path):
    path, ids = paper(tmp_path / "a.pth", config={}), set()
    for k in (5, 6):
        (tmp_path / "config.json").write_text(json.dumps({"topK": k}))
        ids.add(load_sae(str(path)).identity)
    assert len(ids) == 2


def test_a_papers_checkpoint_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    refused(paper(path, config={"topK": K, "d_hide": WIDTH + 1}), "41 features")
    refused(paper(path, config={"topK": K, "d_inp": D + 1}), "17 values in")
    refused(paper(path, add=[("W_enc", normal(WIDTH, D))]), r"\[40, 16\] \(it is transposed\)")
    refused(paper(path, drop=["W_enc"]), "has no W_enc")
    refused(paper(path, add=[("gain", normal(WIDTH))]), "has gain as well")
    whole = paper(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "cannot be read .its end is missing.; restore or train it again")


def test_a_file_of_no_format_says_what_it_holds(tmp_path):
    refused(save(tmp_path / "a.pt", {"lin.weight": normal(3)}), "holds lin.weight, which is no SAE")
    refused(save(tmp_path / "b.pt", normal(3)), "holds no weights by name")


# --- sae-lens ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A JumpReLU folder of sae-lens."""
    from tests import tiny

    return tiny.sae(tmp_path_factory.mktemp("made") / "sae", d_in=D, n_features=WIDTH)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "sae")


def tell(folder, **metadata):
    """Have the folder say this of itself."""
    from tests import tiny

    told = json.loads((folder / "cfg.json").read_text())["metadata"]
    tiny.edit_json(folder / "cfg.json", metadata=told | metadata)


CENTRED = {"center_writing_weights": True}


def rewrite(folder, drop=(), **add):
    from safetensors.torch import load_file, save_file

    path = folder / "sae_weights.safetensors"
    weights = {k: v for k, v in load_file(path).items() if k not in drop} | add
    save_file(weights, path)


def test_a_missing_or_foreign_weight_of_a_folder_is_named(folder):
    rewrite(folder, drop=["threshold"])
    refused(folder, "has no threshold in sae_weights.safetensors; restore or train it again")
    rewrite(folder, threshold=normal(WIDTH), r_mag=normal(WIDTH))
    refused(folder, "has r_mag in .*, which a jumprelu SAE does not have")


def test_a_top_k_folder_without_k_is_refused_instead_of_read_with_sae_lens_default(folder):
    from tests import tiny

    rewrite(folder, drop=["threshold"])
    tiny.edit_json(folder / "cfg.json", architecture="topk")
    refused(folder, 'is a Top-K SAE without K; give it as "k" in its cfg.json')


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("abstopk", "is an AbsTopK SAE, whose features also fire below zero; choose"),
        ("temporal", "is a temporal SAE"),
        ("matching_pursuit", "is a matching-pursuit SAE"),
        ("transcoder", "is a transcoder, which predicts"),
        ("skip_transcoder", "is a transcoder with a skip connection"),
        ("jumprelu_transcoder", "is a transcoder, which predicts"),
        ("jumprelu_skip_transcoder", "is a transcoder with a skip connection"),
        ("novel", "its architecture 'novel' is none of standard, topk, jumprelu, gated"),
    ],
)
def test_an_architecture_that_is_no_sae_of_the_stream_is_named(folder, kind, match):
    from tests import tiny

    tiny.edit_json(folder / "cfg.json", architecture=kind)
    refused(folder, match)


def test_every_architecture_of_sae_lens_is_read_or_refused_by_its_name():
    import sae_lens.registry

    from fac.sae_formats import NO_SAE, READ
    from tests import tiny  # noqa: F401 - loads sae-lens without its warnings

    assert {*sae_lens.registry.SAE_CLASS_REGISTRY} <= {*READ, *NO_SAE}


def test_an_sae_of_attention_heads_is_refused(folder):
    tell(folder, hook_name="blocks.1.attn.hook_z")
    refused(folder, "is an SAE of attention heads' outputs .hook_z.")


@pytest.mark.parametrize("scaling", ["expected_average_only_in", "covariance_whitening"])
def test_a_scaling_that_was_never_folded_is_refused(folder, scaling):
    from tests import tiny

    tiny.edit_json(folder / "cfg.json", normalize_activations=scaling)
    refused(
        folder, f"scales what it reads by '{scaling}', which is not folded .* fold it with sae-lens"
    )


def training(kind, folder, **options):
    """A save of sae-lens while training, with the module that wrote it."""
    import torch

    from tests import tiny

    make, config = (getattr(tiny.sae_lens, f"{kind}TrainingSAE{end}") for end in ("", "Config"))
    torch.manual_seed(0)
    module = make(config(d_in=D, d_sae=WIDTH, device="cpu", **options))
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0, 0.3)
        for name, value in (("threshold", 0.4), ("topk_threshold", 0.8)):
            if hasattr(module, name):
                getattr(module, name).fill_(value)
    module.save_model(folder)
    return module


RAW = [
    ("Standard", {}),
    ("Gated", {}),
    ("JumpReLU", {}),
    ("TopK", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("BatchTopK", {"k": K, "rescale_acts_by_decoder_norm": False}),
    ("BatchTopK", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("MatryoshkaBatchTopK", {"k": K, "matryoshka_widths": [10, WIDTH]}),
]


@pytest.mark.parametrize(("kind", "options"), RAW)
def test_a_save_while_training_encodes_as_the_finished_sae_does(tmp_path, kind, options):
    """The finished one is what sae-lens itself writes of it."""
    import torch

    from tests import tiny

    module = training(kind, tmp_path / "raw", **options)
    with torch.inference_mode():
        module.save_inference_model(tmp_path / "finished")
        theirs = tiny.sae_lens.SAE.load_from_disk(tmp_path / "finished")
        acts = theirs.encode(states())
        decoded = theirs.decode(acts)
    agree(tmp_path / "raw", acts, decoded=decoded, what=f"{kind} while training {options}")


def test_the_thresholds_of_older_trainings_are_read_from_their_logarithms(tmp_path):
    import torch

    module = training("JumpReLU", tmp_path)
    with torch.inference_mode():
        acts = module.encode(states())
    rewrite(tmp_path, drop=["threshold"], log_threshold=module.threshold.detach().log())
    agree(tmp_path, acts, what="JumpReLU while training, logarithms")


@pytest.mark.parametrize("kind", ["JumpReLU", "BatchTopK"])
def test_the_factor_beside_a_save_while_training_is_folded(tmp_path, kind):
    """The module reads 0.25 x in training, so the stream x must give what it makes of that."""
    import torch

    options = {"k": K, "rescale_acts_by_decoder_norm": True} if kind == "BatchTopK" else {}
    scaling = {"normalize_activations": "expected_average_only_in"}
    module = training(kind, tmp_path, **options, **scaling)
    refused(tmp_path, "which is not folded into its weights")
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    with torch.inference_mode():
        _, pre = module.encode_with_hidden_pre(0.25 * states())
    acts = pre.relu() * (pre > (0.8 if kind == "BatchTopK" else 0.4))
    if kind == "JumpReLU":
        agree(tmp_path, acts, what="JumpReLU while training, factor folded")
    else:  # its decoder norms go into the activations, and the stream is 4 times larger
        agree(tmp_path, 4 * acts, what="BatchTopK while training, factor folded")


# --- centred writing weights ------------------------------------------------------------------


def centred_copy(model_folder, folder):
    """The GPT-2 with the mean over d_model taken off whatever writes to the stream."""
    import torch
    from transformers import GPT2LMHeadModel

    shutil.copytree(model_folder, folder)
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        writers = [model.transformer.wte.weight, model.transformer.wpe.weight]
        for block in model.transformer.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                writers += [layer.weight, layer.bias]
        for weight in writers:
            weight -= weight.mean(-1, keepdim=True)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ["jumprelu", "standard-normed", "topk"])
def test_an_sae_of_centred_weights_reads_the_stream_as_it_would_be_with_them(
    tmp_path, architecture
):
    import torch

    from tests import tiny

    plain = tiny.gpt2(tmp_path / "plain", d_model=D)
    centred = centred_copy(plain, tmp_path / "centred")
    ids = [np.arange(20, 60, dtype=np.int32)]
    raw, moved = (SubjectModel(folder, layer=2).residual(ids)[0] for folder in (plain, centred))
    assert raw.mean(-1).abs().max() > 0.1
    folder = tiny.sae(tmp_path / "sae", architecture, d_in=D, n_features=WIDTH)
    before = load_sae(str(folder))
    tell(folder, model_name="gpt2-small", model_from_pretrained_kwargs=CENTRED)
    after = load_sae(str(folder))
    with torch.inference_mode():
        theirs, _ = before.encode(moved)
        acts, _ = after.encode(raw)
        difference = float((acts - theirs).abs().max())
        close(f"{architecture} of centred weights", difference)
        if architecture != "standard-normed":  # which takes the mean off anyway
            assert (before.encode(raw)[0] - theirs).abs().max() > 0.1
        rebuilt = before.module.decode(theirs) + raw.mean(-1, keepdim=True)
        torch.testing.assert_close(after.module.decode(acts), rebuilt)
        blocks = torch.zeros_like(acts)
        for block in after.blocks(raw, 500):
            blocks[block.tokens, block.features] = block.pre * (block.pre > block.cut)
        torch.testing.assert_close(blocks, acts)


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", None])
def test_centred_weights_of_a_model_that_has_no_layer_norm_are_refused(folder, model):
    tell(folder, model_name=model, model_from_pretrained_kwargs=CENTRED)
    refused(folder, f"trained on centred writing weights of {model}")


def test_a_run_of_before_that_did_not_centre_is_another(folder):
    import hashlib

    files = [folder / "cfg.json", folder / "sae_weights.safetensors"]

    def plain():
        digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
        return "sae@" + hashlib.sha256(digests).hexdigest()[:12]

    assert load_sae(str(folder)).identity == plain()
    tell(folder, model_name="gpt2", model_from_pretrained_kwargs=CENTRED)
    assert load_sae(str(folder)).identity != plain()


# --- where they come from ---------------------------------------------------------------------


def test_a_path_on_the_hub_is_fetched_and_read_as_a_folder(made, monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    def snapshot(repository, revision=None, allow_patterns=None):
        calls.append((repository, revision, allow_patterns))
        shutil.copytree(made, tmp_path / "layer" / "sae", dirs_exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    sae = load_sae("owner/repo@v1.0:layer/sae")
    assert calls == [("owner/repo", "v1.0", ["layer/sae", "layer/sae/*"])]
    assert sae.identity == load_sae(str(made)).identity
    refused("owner/repo:elsewhere", "The repository owner/repo has no elsewhere; give OWNER/REPO")


def test_a_hub_that_does_not_answer_is_the_services_fault(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_options):
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ServiceError, match="did not serve 'owner/repo:a/b' .no route to host.: ch"):
        load_sae("owner/repo:a/b")


@pytest.mark.parametrize(
    ("release", "match"),
    [
        ("gpt2-small-hook-z-kk", "hook_z"),
        ("gemma-scope-2b-pt-transcoders", "is a transcoder"),
    ],
)
def test_a_release_that_is_no_sae_of_the_stream_is_refused_before_it_is_fetched(release, match):
    from tests import tiny

    sae_id = next(
        iter(
            tiny.sae_lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()[
                release
            ].saes_map
        )
    )
    refused(f"{release}/{sae_id}", match)


def released(monkeypatch, folder):
    """A release of sae-lens that is this folder."""
    from tests import tiny

    module = tiny.sae_lens.SAE.load_from_disk(folder)
    monkeypatch.setattr(tiny.sae_lens.SAE, "from_pretrained", lambda *_a, **_o: module)


def test_a_release_is_checked_as_a_folder_is(folder, monkeypatch):
    from tests import tiny

    released(monkeypatch, folder)
    assert load_sae("some/release").identity == "some/release"
    tiny.edit_json(folder / "cfg.json", normalize_activations="expected_average_only_in")
    released(monkeypatch, folder)
    with pytest.raises(InputError, match="The SAE 'some/release' scales what it reads"):
        load_sae("some/release")


def test_a_release_of_centred_weights_is_centred(folder, monkeypatch):
    import torch

    before = load_sae(str(folder))
    tell(folder, model_name="gpt2-small", model_from_pretrained_kwargs=CENTRED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sae-lens says how to load the model
        released(monkeypatch, folder)
    sae = load_sae("some/release")
    x = states() + 3
    expected = before.encode(x - x.mean(-1, keepdim=True))[0]
    torch.testing.assert_close(sae.encode(x)[0], expected)
    assert sae.identity == "some/release centred"


# --- every format ------------------------------------------------------------------------------


def whole(kind, home):
    """A reference of a format here, its file of weights, and the names that it may lack."""
    from tests import tiny

    if kind == "sae-lens":
        folder = tiny.sae(home / "sae", d_in=D, n_features=WIDTH)
        return folder, folder / "sae_weights.safetensors", ()
    if kind == "sparsify":
        folder, _ = sparsify_folder(home / "layers.1")
        return folder, folder / "sae.safetensors", ()
    if kind == "llama-scope":
        folder, _ = llama_folder(home / "L1R")
        return folder, folder / "checkpoints" / "final.safetensors", ()
    if kind == "gemma-scope":
        np.savez(home / "params.npz", **{k: v.numpy() for k, v in gemma_state().items()})
        return home, home / "params.npz", ()
    if kind == "paper":
        path = paper(home / "a.pth")
        return path, path, ("mask",)
    path = save(home / "t" / "ae.pt", dictionary("BatchTopKSAE"), trainer("BatchTopKSAE"))
    return path.parent, path, ("k",)


def with_weights(path, change):
    """Rewrite a file of weights."""
    import torch
    from safetensors.torch import load_file, save_file

    if path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        np.savez(path, **{name: tensor.numpy() for name, tensor in change(state).items()})
    else:
        held = torch.load(path)
        nested = "weights" in held
        state = change(held["weights"] if nested else held)
        torch.save({**held, "weights": state} if nested else state, path)


def everything_but(name):
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize("kind", SAE_FORMATS.names)
def test_a_file_that_lacks_a_weight_has_one_more_or_is_cut_is_refused_by_name(tmp_path, kind):
    reference, path, optional = whole(kind, tmp_path)
    load_sae(str(reference))
    written, names = path.read_bytes(), []
    with_weights(path, lambda state: names.extend(state) or state)
    for name in names:
        with_weights(path, everything_but(name))
        if name in optional:
            load_sae(str(reference))
        else:
            refused(reference, rf"has no {name}\b")
        path.write_bytes(written)
    with_weights(path, lambda state: {**state, "stranger": normal(3)})
    refused(reference, "has stranger")
    for cut in (b"", b"junk", written[: len(written) // 2], written[:-9]):
        path.write_bytes(cut)
        refused(reference, "cannot be read|holds no SAE")
    path.write_bytes(written)
    for config in (p for p in reference.rglob("*.json") if reference.is_dir()):
        told = config.read_text()
        for damaged in ("", "[]", "{", "{}", '{"trainer": 3}'):
            config.write_text(damaged)
            refused(reference, ".")
        config.write_text(told)
    load_sae(str(reference))


def test_every_format_says_what_a_folder_of_it_needs(tmp_path):
    with pytest.raises(InputError) as caught:
        load_sae(str(tmp_path))
    for _, format in SAE_FORMATS.items():
        if format.needs:
            assert f"{format.needs} ({format.title})" in str(caught.value)
