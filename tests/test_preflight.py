"""Whether an SAE belongs to a model and layer: what its metadata says, and what the numbers say."""

import pytest

from fac import preflight
from fac.models import SubjectModel
from fac.saes import load_sae
from tests.test_saes import CHATS, LAYER, WIDTH, D, one_thread, perfect  # noqa: F401


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests import tiny

    return SubjectModel(tiny.llama(tmp_path_factory.mktemp("tiny")), layer=LAYER)


def checked(tmp_path, model, name="tiny", **metadata):
    findings, measured = preflight.preflight(perfect(tmp_path, **metadata), model, name, CHATS * 9)
    return {f.check: f for f in findings}, measured, preflight.verdict(findings)


@pytest.fixture
def any_l0(monkeypatch):
    """The perfect SAE is not sparse; only here may that pass."""
    whole = preflight.quality

    def sparse(*args):
        return whole(*args)._replace(l0=3.0)

    monkeypatch.setattr(preflight, "quality", sparse)


@pytest.mark.parametrize("name", ["tiny", "owner/Tiny", "tiny@0123456789ab"])
def test_a_match_belongs(tmp_path, model, any_l0, name):
    by_check, measured, says = checked(tmp_path, model, name)
    assert says == "This SAE belongs to this model and layer."
    assert {f.ok for f in by_check.values()} <= {True, None} and measured.fvu < 1e-9
    assert set(by_check) == {
        *("model", "hook point", "layer", "width", "dtype", "scale"),
        *("reconstruction", "L0", "dead", "loss recovered"),
    }


def test_another_model_layer_or_hook_point_does_not_belong(tmp_path, model, any_l0):
    for wrong, where, why in (
        ({"model_name": "gemma-2-2b"}, "model", "trained on gemma-2-2b; asked for tiny"),
        ({"hook": "blocks.0.hook_resid_post"}, "layer", "after 1 blocks; asked for 2"),
        ({"hook": "blocks.1.hook_mlp_out"}, "hook point", "not the residual stream"),
    ):
        by_check, _, says = checked(tmp_path / where, model, **wrong)
        assert says.startswith("This SAE does not belong to this model and layer (")
        assert [f.check for f in by_check.values() if f.ok is False] == [where]
        assert why in says


def test_another_width_does_not_belong_and_nothing_is_computed(tmp_path, model):
    from tests import tiny

    narrow = load_sae(str(tiny.sae(tmp_path, d_in=16, n_features=WIDTH)))
    findings, measured = preflight.preflight(narrow, model, "tiny", CHATS)
    assert measured is None
    assert "the SAE reads 16 values, the model has 32" in preflight.verdict(findings)


def test_weights_that_do_not_reconstruct_the_stream_do_not_belong(tmp_path, model):
    from tests import tiny

    random = load_sae(str(tiny.sae(tmp_path, d_in=D, n_features=WIDTH)))
    findings, measured = preflight.preflight(random, model, "tiny", CHATS)
    assert measured.fvu > 1
    assert "reconstruction: FVU" in preflight.verdict(findings)


def test_an_sae_without_metadata_cannot_be_told(tmp_path, model, any_l0):
    by_check, _, says = checked(tmp_path, model, model_name=None, hook=None)
    assert {by_check[check].ok for check in ("model", "hook point", "layer")} == {None}
    assert says == "The numbers fit, but the SAE does not say what it was trained on."


def test_silence_is_held_against_a_dictionary_only_where_the_text_could_wake_it(
    tmp_path, model, monkeypatch
):
    whole = preflight.quality
    for tokens, ok in ((100, None), (10_000, False)):
        monkeypatch.setattr(
            preflight,
            "quality",
            lambda *a, n=tokens: whole(*a)._replace(dead=0.8, l0=3.0, tokens=n),
        )
        by_check, _, _ = checked(tmp_path / str(tokens), model)
        assert by_check["dead"].ok is ok
