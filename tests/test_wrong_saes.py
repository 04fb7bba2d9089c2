"""Every way in which an SAE can be the wrong one: what catches it, before anything is measured
where its files or metadata can tell, and with which reason.

`pytest -s tests/test_wrong_saes.py` prints the table of docs/formats.md.
"""

import re
import sys
from functools import partial

import numpy as np
import pytest

from fac.errors import InputError
from fac.models import SubjectModel
from fac.preflight import ModelCard, match, must_match, preflight, verdict
from fac.saes import load_sae
from tests.test_preflight import EFFECTS, Planted, inputs_times, permuted, times
from tests.test_saes import CHATS, D, content_states, one_thread  # noqa: F401

HOOK = "blocks.0.hook_resid_post"
LOAD, MEASURE, PREFLIGHT = "loading", "`measure`, by metadata", "`fac preflight`, by numbers"
DEEP, TRAINED = 8, 4  # blocks, and after how many of them the SAE of `layered` reads


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    from tests import tiny

    return Planted(tiny.llama(tmp_path_factory.mktemp("wrong") / "tiny"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    from tests import tiny

    return Planted(tiny.llama(tmp_path_factory.mktemp("other") / "tiny"), seed=1)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    from tests import tiny

    folder = tiny.llama(tmp_path_factory.mktemp("deep") / "tiny", layers=DEEP)
    return SubjectModel(folder, layer=TRAINED)


def saved(path, weights, *, hook=HOOK, model_name="tiny", **config):
    """A JumpReLU SAE of these weights, as sae-lens keeps it."""
    from tests import tiny

    folder = tiny.sae(path / "sae", n_features=D, hook=hook, model_name=model_name)
    tiny.edit_json(folder / "cfg.json", apply_b_dec_to_input=False, **config)
    tiny.save_weights(folder, **weights)
    return folder


def layered(path, model):
    """A Top-1 SAE with a feature for every token of the stream after TRAINED blocks, which says
    nothing of where it belongs."""
    from tests import tiny

    states = content_states(model.at(TRAINED)).float().numpy()
    center = states.mean(0)
    rows = (states - center) / np.linalg.norm(states - center, axis=1, keepdims=True)
    folder = tiny.sae(path / "sae", "topk", n_features=len(rows), model_name=None, hook=None)
    tiny.edit_json(folder / "cfg.json", k=1)
    bias = np.zeros(len(rows))
    tiny.save_weights(folder, W_enc=rows.T, W_dec=rows, b_enc=bias, b_dec=center)
    return folder


def foreign(path, weights):
    import torch

    names = ("W_enc", "b_enc", "b_dec")
    file = path / "someones.pt"
    torch.save({name: torch.tensor(weights[name]).float() for name in names}, file)
    return file


def transposed(weights):
    return weights | {"W_enc": weights["W_enc"].T}


WRONG = {
    "another model of equal width, named": (MEASURE, "model", {"model_name": "gpt2-small"}),
    "another hook point": (MEASURE, "hook point", {"hook": "blocks.0.hook_mlp_out"}),
    "another layer, named": (MEASURE, "layer", {"hook": "blocks.2.hook_resid_post"}),
    "encoder transposed": (LOAD, "not columns", {"change": transposed}),
    "a scale never folded": (
        *(LOAD, "not folded"),
        {"normalize_activations": "expected_average_only_in"},
    ),
    "a foreign .pt": (LOAD, "does not tell its K", {}),
    "inputs x2": (PREFLIGHT, "scale", {"change": inputs_times(2)}),
    "inputs x0.5": (PREFLIGHT, "scale", {"change": inputs_times(0.5)}),
    "encoder bias permuted": (PREFLIGHT, "encoder bias", {"change": permuted("b_enc")}),
    "decoder bias permuted": (PREFLIGHT, "decoder bias", {"change": permuted("b_dec")}),
    "decoder permuted": (PREFLIGHT, "decoder", {"change": permuted("W_dec")}),
    "thresholds 0": (PREFLIGHT, "thresholds", {"change": times("threshold", 0)}),
    "a normalisation claimed": (
        *(PREFLIGHT, "normalisation"),
        {"normalize_activations": "layer_norm"},
    ),
}
"""What is wrong -> where it is caught, by which check or word, and how it is made."""


@pytest.fixture(scope="module")
def reasons():
    """What is wrong -> where it is caught and what is said; written as a table at the end."""
    rows = {}
    yield rows
    table = [f"| {what} | {where} | {says} |" for what, (where, says) in rows.items()]
    head = ["\n| the SAE has or is of | caught by | says |", "|---|---|---|"]
    sys.stdout.write("\n".join([*head, *table, ""]))


def caught(reference, model):
    """Where an SAE is first refused, by which checks, and what is said of it."""
    card = ModelCard("tiny", False, "", "llama", D, model.n_blocks)
    try:
        sae = load_sae(str(reference))
    except InputError as error:
        return LOAD, [], re.sub(r"\S*/(?=[^/\s]+)", "", str(error))
    wrong = [finding for finding in match(sae, card, model.layer) if finding.ok is False]
    if wrong:
        with pytest.raises(InputError, match="does not fit"):
            must_match(match(sae, card, model.layer), "x")
        return MEASURE, [finding.check for finding in wrong], wrong[0].says
    findings, _ = preflight(sae, model, card, CHATS)
    wrong = [finding for finding in findings if finding.ok is False]
    named = [finding for finding in wrong if finding.check not in EFFECTS] or wrong
    if not wrong:
        return "", [], verdict(findings)
    parts = [finding.says for finding in findings if finding.check == "parts"]
    return PREFLIGHT, [finding.check for finding in named], "; ".join([named[0].says, *parts])


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_sae_is_caught_with_the_right_reason(tmp_path, planted, reasons, what):
    where, why, how = WRONG[what]
    weights = how.get("change", dict)(planted.weights())
    config = {name: value for name, value in how.items() if name != "change"}
    make = foreign if what == "a foreign .pt" else partial(saved, **config)
    place, checks, says = caught(make(tmp_path, weights), planted.model)
    assert place == where
    assert why in says if where == LOAD else checks == [why]
    reasons[what] = where, says


def test_the_weights_of_another_model_of_equal_width_fit_by_no_change(
    tmp_path, planted, other, reasons
):
    silent = saved(tmp_path, planted.weights(), model_name=None)
    place, checks, says = caught(silent, other.model)
    assert place == PREFLIGHT and checks[0] == "reconstruction"
    assert "may be of other weights altogether" in says
    reasons["another model of equal width, not named"] = place, says


@pytest.mark.parametrize("off", [-3, -1, 1, 3])
def test_another_layer_is_named_where_the_sae_says_none(tmp_path, deep, reasons, off):
    place, checks, says = caught(layered(tmp_path, deep), deep.at(TRAINED + off))
    assert (place, checks) == (PREFLIGHT, ["neighbours"])
    assert f"give --layer {TRAINED}" in says
    reasons[f"layer {off:+d}, not named"] = place, says


def test_the_embedding_is_a_layer_like_the_others(tmp_path, deep):
    place, checks, says = caught(layered(tmp_path, deep), deep.at(0))
    assert (place, checks) == (PREFLIGHT, ["neighbours"])
    assert f"give --layer {TRAINED}" in says


def test_the_right_sae_is_no_false_alarm(tmp_path, planted, deep):
    place, _, says = caught(saved(tmp_path / "planted", planted.weights()), planted.model)
    assert (place, says) == ("", "This SAE belongs to this model and layer.")
    place, _, says = caught(layered(tmp_path / "deep", deep), deep)
    assert place == "" and says.startswith("The numbers fit")
