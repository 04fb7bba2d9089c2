"""Whether an SAE belongs to a model and layer: what its metadata says, and what the numbers say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fac.config import MeasureSpec, ProbeSpec, SaeSpec
from fac.errors import InputError
from fac.jobs.steps import load_encoder
from fac.manifest import MeasureFacts
from fac.models import SubjectModel, locate_model
from fac.preflight import ModelCard, card_of, doubt_of, match, must_match, numbers, verdict
from fac.preflight import preflight as checks
from fac.questions.catalogue import titles
from fac.saes import load_sae
from tests.test_saes import (
    CHATS,
    LAYER,
    WIDTH,
    D,
    content_states,
    one_thread,  # noqa: F401
    perfect,
)

TINY = ModelCard("tiny", False, "", "llama", D, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests import tiny

    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return SubjectModel(folder, layer=LAYER)


# --- metadata ---------------------------------------------------------------------------------


def same_model(sae, card, trained_on):
    sae.trained_on = trained_on
    return next(finding for finding in match(sae, card, LAYER) if finding.check == "model")


GPT2 = ModelCard("gpt2", True, "", "gpt2", 768, 12)
GEMMA = ModelCard("google/gemma-2-2b-it", True, "", "gemma2", 2304, 26)
MINE = ModelCard("my-tune", False, "", "gemma2", 2304, 26)


@pytest.mark.parametrize(
    ("card", "trained_on", "ok", "says"),
    [
        (GPT2, "gpt2-small", True, ""),
        (GPT2._replace(name="openai-community/gpt2"), "gpt2-small", True, ""),
        (GPT2._replace(name="gpt2.Q8_0"), "openai-community/gpt2", True, ""),
        (
            GPT2._replace(name="gpt2-xl"),
            "gpt2-small",
            False,
            "give that model, or an SAE of this one",
        ),
        (GEMMA, "gemma-2-2b-it", True, ""),
        (GEMMA, "gemma-2-2b", None, "one is a base model"),
        (GEMMA, "gemma-2-9b", False, "give that model, or an SAE of this one"),
        (GEMMA._replace(name="gemma-2-2b-it-Q4_K_M"), "google/gemma-2-2b-it", True, ""),
        (GEMMA._replace(name="google_gemma-2-2b-it-IQ2_XS"), "gemma-2-2b-it", True, ""),
        (GEMMA._replace(name="gemma-2-2b-it.f16-00001-of-00002"), "gemma-2-2b-it", True, ""),
        (GEMMA._replace(name="Meta-Llama-3.1-8B"), "meta-llama/Llama-3.1-8B", True, ""),
        (GEMMA._replace(name="Mistral-7B-v0.1"), "mistral-7b", True, ""),
        (GEMMA._replace(name="Qwen/Qwen3-8B"), "Qwen/Qwen3-8B-Base", None, "one is a base"),
        (GEMMA._replace(name="pythia-1.4b"), "pythia-14m", False, ""),
        (MINE, "gemma-2-2b", None, "which has its size"),
        (MINE, "gpt2-small", False, "give that model, or an SAE of this one"),
        (MINE._replace(origin="google/gemma-2-2b"), "gemma-2-2b", None, "weights began as"),
        (MINE._replace(name="checkpoint-500"), "gpt2-small", False, ""),
        (MINE._replace(name="checkpoint-500"), "no-such-model", None, "does not say whose"),
        (MINE, "no-such-model", False, ""),
        (MINE, "0123456789abcdef0123456789abcdef01234567", None, "calls its model only"),
        (MINE, None, None, "does not name its model"),
    ],
)
def test_an_sae_is_held_against_a_model_by_name(sae_of_tiny, card, trained_on, ok, says):
    finding = same_model(sae_of_tiny, card, trained_on)
    assert finding.ok is ok, finding
    assert says in finding.says


@pytest.fixture
def sae_of_tiny(tmp_path):
    return perfect(tmp_path / "sae")


def test_a_hub_snapshot_or_what_its_config_says_names_a_model_that_lies_in_a_hash(
    folder, tmp_path, sae_of_tiny
):
    snapshot = tmp_path / "models--openai-community--gpt2" / "snapshots" / ("607a30d7" * 5)
    shutil.copytree(folder, snapshot)
    card = card_of(locate_model(str(snapshot), tmp_path))
    assert (card.name, card.certain, card.d_model, card.n_blocks) == (
        *("openai-community/gpt2", True),
        *(D, 3),
    )
    copy = tmp_path / ("607a30d7" * 5)
    shutil.copytree(folder, copy)
    assert card_of(locate_model(str(copy), tmp_path)).certain is False
    from tests import tiny

    tiny.edit_json(copy / "config.json", _name_or_path="openai-community/gpt2")
    card = card_of(locate_model(str(copy), tmp_path))
    assert (card.name, card.certain) == ("openai-community/gpt2", True)
    assert same_model(sae_of_tiny, card, "gpt2-small").ok is True
    named = copy.rename(tmp_path / "my-tune")
    card = card_of(locate_model(str(named), tmp_path))
    assert (card.name, card.origin) == ("my-tune", "openai-community/gpt2")
    assert same_model(sae_of_tiny, card, "gpt2-small").ok is None


def test_a_folder_without_a_config_that_can_be_read_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        card_of(locate_model(str(tmp_path / "broken"), tmp_path))


@pytest.mark.parametrize(
    ("hook", "check", "ok", "says"),
    [
        ("blocks.1.hook_resid_post", "layer", True, "after 2 blocks, as asked"),
        ("blocks.0.hook_resid_post", "layer", False, "after 1 blocks, not 2: give --layer 1"),
        ("blocks.2.hook_resid_pre", "layer", True, ""),
        ("blocks.2.hook_resid_post", "layer", False, "give --layer 3"),
        ("blocks.1.hook_mlp_out", "hook point", False, "not the residual stream between blocks"),
        ("blocks.1.hook_attn_out", "hook point", False, "not the residual stream"),
        ("blocks.1.hook_resid_mid", "hook point", False, "not the residual stream"),
        ("hook_embed", "hook point", False, "not the residual stream"),
        ("blocks.1.ln2.hook_normalized", "hook point", False, "not the residual stream"),
        ("model.layers.1.mlp", "hook point", False, "not the residual stream"),
        ("stream_after_two", "hook point", None, "a name that says nothing"),
        (None, "hook point", None, "names no hook point"),
    ],
)
def test_an_sae_is_held_against_a_layer_by_its_hook(tmp_path, hook, check, ok, says):
    by_check = {f.check: f for f in match(perfect(tmp_path, hook=hook), TINY, LAYER)}
    assert by_check[check].ok is ok
    assert says in by_check[check].says
    others = [f.ok for name, f in by_check.items() if name != check]
    assert False not in others


def test_a_transcoder_does_not_fit(tmp_path):
    sae = perfect(tmp_path / "a")
    sae.module.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    with pytest.raises(InputError, match="it is a transcoder"):
        must_match(match(sae, TINY, LAYER), "a")


def test_a_reason_lets_pass_what_is_only_said_and_never_what_cannot_be_computed(tmp_path):
    other = match(perfect(tmp_path, model_name="gpt2"), TINY, LAYER)
    with pytest.raises(InputError, match="trained on gpt2; asked for tiny.*say why with"):
        must_match(other, "gpt2-sae")
    must_match(other, "gpt2-sae", despite="a copy of it")
    assert doubt_of(other, "a copy of it").endswith("It was taken despite that: a copy of it")
    wide = match(perfect(tmp_path), TINY._replace(d_model=48), LAYER)
    with pytest.raises(InputError, match="reads 32 values, but the model has .* 48") as caught:
        must_match(wide, "x", despite="all the same")
    assert "--despite" not in str(caught.value)
    with pytest.raises(InputError, match=r"Layer 9 does not exist: tiny has 3 blocks; give 0 to 3"):
        match(perfect(tmp_path), TINY, 9)
    assert doubt_of(match(perfect(tmp_path / "fits"), TINY, LAYER)) == ""


# --- specs and steps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        MeasureSpec(dataset="dataset-1"),
        SaeSpec(),
        ProbeSpec(text="tea"),
    ],
    ids=lambda spec: spec.step,
)
def test_a_reason_is_part_of_a_runs_id_and_its_absence_changes_nothing(spec):
    assert "despite" not in spec.as_json()
    reasoned = replace(spec, despite="a copy of it")
    assert reasoned.as_json() == {**spec.as_json(), "despite": "a copy of it"}
    ids = {replace(spec, despite=why).run_id("x") for why in ("", "a copy of it", "I know")}
    assert len(ids) == 3


def test_the_ids_of_runs_without_a_reason_are_as_before():
    committed = [
        json.loads(path.read_text())
        for path in Path(__file__).parent.parent.glob("data/demo/runs/measure/*/manifest.json")
    ]
    for manifest in committed:
        spec = MeasureSpec(**manifest["spec"])
        assert spec.run_id(spec.dataset, manifest["facts"]["encoder"]) == manifest["run"]
    assert len(committed) >= 2


def test_an_sae_that_says_it_belongs_elsewhere_is_refused_before_weights_are_read(
    folder, tmp_path, monkeypatch
):
    from tests import tiny

    other = tiny.sae(tmp_path / "sae", model_name="gpt2-small")
    how = (str(folder), LAYER, str(other), 512, "float32", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("fac.models.SubjectModel.__init__", lambda *_, **__: pytest.fail("loaded"))
        with pytest.raises(InputError, match="says it was trained on gpt2-small; asked for tiny"):
            load_encoder(*how)
    encoder = load_encoder(*how, despite="a copy of it")
    assert encoder.doubt.startswith("The SAE does not fit: the SAE says it was trained on gpt2")
    fitting = load_encoder(*how[:2], str(tiny.sae(tmp_path / "own")), *how[3:])
    assert fitting.doubt == ""
    silent = tiny.sae(tmp_path / "silent", model_name=None)
    assert "does not name its model" in load_encoder(*how[:2], str(silent), *how[3:]).doubt


def test_a_run_of_an_sae_that_does_not_fit_is_called_so_everywhere():
    fits = SimpleNamespace(facts=MeasureFacts(name="tea", encoder="tiny@1/layer2/sae@1"))
    taken = MeasureFacts(name="rice", encoder="tiny@1/layer2/x@1", despite="a copy", doubt="It ...")
    needless = MeasureFacts(name="oats", encoder="tiny@1/layer2/sae@1", despite="to be sure")
    runs = {"a": fits, "b": SimpleNamespace(facts=taken), "c": SimpleNamespace(facts=needless)}
    assert titles(runs) == {"a": "tea", "b": "rice · despite: a copy", "c": "oats"}
    assert taken.provenance == "tiny@1/layer2/x@1, despite its metadata: a copy"
    assert needless.provenance == needless.encoder
    assert "doubt" not in needless.as_json()


# --- numbers ----------------------------------------------------------------------------------


def checked(tmp_path, model, card=TINY, **metadata):
    findings, measured = checks(perfect(tmp_path, **metadata), model, card, CHATS * 9)
    return {f.check: f for f in findings}, measured, verdict(findings)


@pytest.fixture
def any_l0(monkeypatch):
    """The perfect SAE is not sparse; only here may that pass."""
    whole = numbers.quality

    def sparse(*args):
        return whole(*args)._replace(l0=3.0)

    monkeypatch.setattr(numbers, "quality", sparse)


def test_a_match_belongs(tmp_path, model, any_l0):
    by_check, measured, says = checked(tmp_path, model)
    assert says == "This SAE belongs to this model and layer."
    assert {f.ok for f in by_check.values()} <= {True, None} and measured.fvu < 1e-9
    assert set(by_check) == {
        *("model", "hook point", "layer", "width", "normalisation", "dtype"),
        *("reconstruction", "L0", "dead", "loss recovered", "neighbours", "scale"),
    }


def test_another_model_layer_or_hook_point_does_not_belong(tmp_path, model, any_l0):
    for wrong, where, why in (
        ({"model_name": "gemma-2-2b"}, "model", "trained on gemma-2-2b; asked for tiny"),
        ({"hook": "blocks.0.hook_resid_post"}, "layer", "after 1 blocks, not 2"),
        ({"hook": "blocks.1.hook_mlp_out"}, "hook point", "not the residual stream"),
    ):
        by_check, _, says = checked(tmp_path / where, model, **wrong)
        assert says.startswith("This SAE does not belong to this model and layer (")
        assert [f.check for f in by_check.values() if f.ok is False] == [where]
        assert why in says


def test_another_width_does_not_belong_and_nothing_is_computed(tmp_path, model):
    from tests import tiny

    narrow = load_sae(str(tiny.sae(tmp_path, d_in=16, n_features=WIDTH)))
    findings, measured = checks(narrow, model, TINY, CHATS)
    assert measured is None
    assert "the SAE reads 16 values, but the model has a residual stream of 32" in verdict(findings)


def test_weights_that_do_not_reconstruct_the_stream_do_not_belong(tmp_path, model):
    from tests import tiny

    random = load_sae(str(tiny.sae(tmp_path, d_in=D, n_features=WIDTH)))
    findings, measured = checks(random, model, TINY, CHATS)
    assert measured.fvu > 1
    assert "reconstruction: FVU" in verdict(findings)


def test_an_sae_without_metadata_cannot_be_told(tmp_path, model, any_l0):
    by_check, _, says = checked(tmp_path, model, model_name=None, hook=None)
    assert {by_check[check].ok for check in ("model", "hook point", "layer")} == {None}
    assert says.startswith("The numbers fit; what the SAE was trained on is unsure (the SAE does")


def test_silence_is_held_against_a_dictionary_only_where_the_text_could_wake_it(
    tmp_path, model, monkeypatch
):
    whole = numbers.quality
    for tokens, ok in ((100, None), (10_000, False)):
        monkeypatch.setattr(
            numbers,
            "quality",
            lambda *a, n=tokens: whole(*a)._replace(dead=0.8, l0=3.0, tokens=n),
        )
        by_check, _, _ = checked(tmp_path / str(tokens), model)
        assert by_check["dead"].ok is ok


@pytest.mark.parametrize("trained", [2, 3])
def test_the_layer_that_an_sae_describes_best_is_named(tmp_path, model, trained):
    """A Top-1 SAE with a feature for every token of one layer's stream, asked for layer 1 to 3."""
    from tests import tiny

    states = content_states(model.at(trained)).float().numpy()
    center = states.mean(0)
    rows = (states - center) / np.linalg.norm(states - center, axis=1, keepdims=True)
    path = tiny.sae(tmp_path, "topk", n_features=len(rows), model_name=None, hook=None)
    tiny.edit_json(path / "cfg.json", k=1)
    tiny.save_weights(path, W_enc=rows.T, W_dec=rows, b_enc=np.zeros(len(rows)), b_dec=center)
    for layer in (1, 2, 3):
        findings, _ = checks(load_sae(str(path)), model.at(layer), TINY, CHATS)
        near = next(f for f in findings if f.check == "neighbours")
        assert near.ok is (layer == trained), near
        assert (f"{trained}, as asked, is best" in near.says) == (layer == trained)
        assert (f"give --layer {trained}" in near.says) == (layer != trained)
        assert all(f"{each}: " in near.says for each in (1, 2, 3))


class Planted:
    """A stream that is known: every token of a tiny model has 3 of 32 orthonormal directions, 3 to
    8 times, around a center; and the JumpReLU SAE that describes it perfectly."""

    def __init__(self, folder, seed=0, spread=1.0):
        import torch

        rng = np.random.default_rng(seed)
        self.model = SubjectModel(folder, layer=1)
        inner = self.model.model.model
        self.rows = np.linalg.qr(rng.normal(size=(D, D)))[0]
        self.center = rng.normal(scale=spread, size=D) @ self.rows
        vocabulary = inner.embed_tokens.weight.shape[0]
        amounts = np.zeros((vocabulary, D))
        for token in amounts:
            token[rng.choice(D, 3, replace=False)] = rng.uniform(3, 8, 3)
        with torch.no_grad():
            inner.embed_tokens.weight[:] = torch.tensor(amounts @ self.rows + self.center)
            for name, weight in inner.layers[0].named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    weight.zero_()

    def weights(self):
        return {
            "W_enc": self.rows.T,
            "W_dec": self.rows,
            "b_enc": -self.rows @ self.center,
            "b_dec": self.center,
            "threshold": np.full(D, 0.5),
        }

    def sae(self, path, weights, **config):
        from tests import tiny

        folder = tiny.sae(path, n_features=D, hook="blocks.0.hook_resid_post")
        tiny.edit_json(folder / "cfg.json", apply_b_dec_to_input=False, **config)
        tiny.save_weights(folder, **weights)
        return load_sae(str(folder))


@pytest.fixture(scope="module")
def planted(folder):
    return Planted(folder)


def times(name, factor):
    return lambda weights: weights | {name: factor * weights[name]}


def permuted(name):
    def permute(weights):
        return weights | {name: np.roll(weights[name], 5, axis=0)}

    return permute


def inputs_times(factor):
    """As if the stream were `factor` times as long as the SAE's was."""

    def scale(weights):
        return weights | {name: weights[name] / factor for name in ("b_dec", "b_enc", "threshold")}

    return scale


@pytest.mark.parametrize(
    ("change", "config", "check", "says"),
    [
        (inputs_times(2), {}, "scale", "inputs are x2 of"),
        (inputs_times(0.5), {}, "scale", "inputs are x0.5 of"),
        (inputs_times(32), {}, "scale", "inputs are x32 of"),
        (permuted("W_dec"), {}, "decoder", "not in the encoder's order"),
        (permuted("b_enc"), {}, "encoder bias", "the one that the decoder's implies fits"),
        (permuted("b_dec"), {}, "decoder bias", "another one fits"),
        (times("threshold", 0), {}, "thresholds", "all are 0, which leaves "),
        (times("W_dec", 2), {}, "decoder", "it is x2 of what fits"),
        (
            lambda w: w,
            {"normalize_activations": "layer_norm"},
            "normalisation",
            "was trained with 'none'",
        ),
    ],
)
def test_what_is_wrong_with_an_sae_is_named(tmp_path, planted, change, config, check, says):
    sae = planted.sae(tmp_path, change(planted.weights()), **config)
    findings, _ = checks(sae, planted.model, TINY, CHATS)
    reasons = [f for f in findings if f.ok is False and f.check not in EFFECTS]
    assert [f.check for f in reasons] == [check], reasons
    assert says in reasons[0].says


EFFECTS = ("reconstruction", "L0", "dead", "loss recovered")
"""Figures that a wrong SAE may have, whatever is wrong with it."""


def test_an_sae_of_a_planted_stream_belongs(tmp_path, planted):
    findings, measured = checks(
        planted.sae(tmp_path, planted.weights()), planted.model, TINY, CHATS
    )
    assert measured.fvu < 1e-6 and measured.l0 == pytest.approx(3)
    assert verdict(findings) == "This SAE belongs to this model and layer."


def test_another_model_of_the_same_width_fits_by_no_change(tmp_path, planted, folder):
    other = Planted(folder, seed=1)
    findings, measured = checks(planted.sae(tmp_path, planted.weights()), other.model, TINY, CHATS)
    by_check = {f.check: f for f in findings}
    assert measured.fvu > 0.5 and by_check["reconstruction"].ok is False, findings
    assert "may be of other weights" in by_check["parts"].says
    assert [f.check for f in findings if f.ok is False and f.check not in EFFECTS] == []


def test_biases_in_another_order_are_seen_where_reconstruction_hardly_suffers(tmp_path, folder):
    """Firing features are off by b_j - b_i: by hand the slope of what is lacking over the bias that
    stands there is -1 - cov(b_i, b_j) / var, near -1."""
    calm = Planted(folder, spread=0.15)
    sae = calm.sae(tmp_path, permuted("b_enc")(calm.weights()))
    findings, measured = checks(sae, calm.model, TINY, CHATS)
    assert measured.fvu < 0.05
    reasons = [f for f in findings if f.ok is False and f.check not in EFFECTS]
    assert [f.check for f in reasons] == ["encoder bias"]
    assert "as if its values were in another order" in reasons[0].says
    findings, _ = checks(calm.sae(tmp_path, calm.weights()), calm.model, TINY, CHATS)
    assert verdict(findings) == "This SAE belongs to this model and layer."


def test_an_l0_far_from_the_trained_one_is_told(tmp_path, planted):
    sae = planted.sae(tmp_path, planted.weights())
    for k, ok in ((3, True), (20, False)):
        sae.module.cfg.metadata.training_architecture_details = {"k": k}
        findings, _ = checks(sae, planted.model, TINY, CHATS)
        (l0,) = (f for f in findings if f.check == "L0")
        assert (l0.ok, l0.says) == (ok, f"3.0 per token, trained to have {k}")
